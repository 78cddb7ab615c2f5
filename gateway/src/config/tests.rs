use super::*;

fn error(text: &str) -> String {
    let e = File::parse(text, Path::new(".")).expect_err(text);
    format!("{e:#}")
}

#[test]
fn an_empty_file_is_the_defaults_and_they_print_and_read_back() {
    let file = File::parse("", Path::new(".")).expect("defaults are valid");
    let printed = toml::to_string(&file).expect("serialises");
    let again = File::parse(&printed, Path::new(".")).expect("reads back");
    assert_eq!(toml::to_string(&again).expect("serialises"), printed);
}

#[test]
fn errors_name_key_value_and_range() {
    let long = format!("[[device]]\nlabel = \"{}\"", "x".repeat(65));
    for (text, wants) in [
        (
            "[cover]\nslot = \"1ms\"",
            vec!["cover.slot", "1ms", "10ms to 10s"],
        ),
        ("[cover]\nslots = \"1ms\"", vec!["slots", "unknown field"]),
        ("[cover]\nslot = 5", vec!["slot", "line 2"]),
        ("[cover]\nmode = \"plain\"", vec!["cover.sink is missing"]),
        (
            "[cover]\nmin_payload = 3",
            vec!["cover.min_payload is 3", "24 to 1452"],
        ),
        (
            "[cover]\nmode = \"secret\"",
            vec!["secret", "plain", "rider", "tunnel"],
        ),
        (
            "[cover]\nmode = \"tunnel\"",
            vec!["tunnel.config is missing", "keygen"],
        ),
        (
            "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\nmtu = 1000",
            vec!["tunnel.mtu is 1000", "1280 to 8920"],
        ),
        (
            "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\nwhen_down = \"fall-back\"",
            vec!["interfaces.wan is missing"],
        ),
        (
            "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\nclock = \"1s\"",
            vec!["tunnel.clock is 1s", "0ns to 100ms"],
        ),
        (
            "[cover]\nmode = \"tunnel\"\n[tunnel]\nconfig = \"x\"\n[[device]]\nlabel = \"x\"\ngenerator = \"random\"",
            vec!["device x", "random", "envelope"],
        ),
        (
            "[cover]\nmode = \"plain\"\nsink = \"192.0.2.1:1\"\nkey_file = \"x\"\ngenerator = \"envelope\"",
            vec!["cover.generator", "needs cover.mode"],
        ),
        ("[tunnel]\nkill = true", vec!["kill", "unknown field"]),
        (
            "[flows]\nidle_timeout = \"5 days\"",
            vec!["5 days", "such as 100ms"],
        ),
        (
            "[[device]]\nlabel = \"x\"\nmac = \"1:2\"",
            vec!["device x", "1:2", "not a MAC"],
        ),
        (
            "[telemetry]\nepsilon = -1.0",
            vec!["telemetry.epsilon is -1"],
        ),
        (
            "[gateway]\ninstance = \"../x\"",
            vec!["gateway.instance", "letters"],
        ),
        (
            "[interfaces]\nlan = [\"a/b\"]",
            vec!["a/b", "interface name"],
        ),
        (
            "[telemetry]\nperiod = \"5h\"",
            vec!["telemetry.period is `5h`", "divides a day"],
        ),
        (
            "[archive]\nperiod = \"1s\"",
            vec!["archive.period is 1s", "1min to 24h"],
        ),
        (
            "[[device]]\nlabel = \"\"",
            vec!["device number 1", "label \"\"", "1 to 64"],
        ),
        (
            "[[device]]\nlabel = \"x\"\n[[device]]\nlabel = \"../y\"",
            vec!["device number 2", "../y", "without"],
        ),
        ("[[device]]\nlabel = \"a,b\"", vec!["a,b", "without"]),
        ("[[device]]\nlabel = 'a\"b'", vec![r#"a\"b"#, "without"]),
        (
            "[[device]]\nlabel = \"a\\nb\"",
            vec![r"a\nb", "control characters"],
        ),
        (long.as_str(), vec!["device number 1", "1 to 64"]),
        (
            "[[device]]\nlabel = \"x\"\n[[device]]\nlabel = \"x\"",
            vec!["devices number 1 and 2", "label x"],
        ),
        (
            "[[device]]\nlabel = \"x\"\nmac = \"02:00:5e:10:00:0a\"\n\
             [[device]]\nlabel = \"y\"\nmac = \"02:00:5E:10:00:0A\"",
            vec!["devices x and y", "MAC address 02:00:5e:10:00:0a"],
        ),
        (
            "[[device]]\nlabel = \"x\"\nip = [\"192.0.2.1\"]\n\
             [[device]]\nlabel = \"y\"\nip = [\"192.0.2.2\", \"::ffff:192.0.2.1\"]",
            vec!["devices x and y", "IP address 192.0.2.1"],
        ),
        ("lan = 1", vec!["lan", "unknown field"]),
        ("[[[", vec!["line 1"]),
    ] {
        let e = error(text);
        for want in wants {
            assert!(e.contains(want), "{text:?}: `{want}` is not in `{e}`");
        }
    }
}

#[test]
fn reads_a_device_list_and_names_the_bad_line() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("devices.csv");
    std::fs::write(
        &path,
        "device,mac,ip,label\ncam,02:00:5e:10:00:01,192.0.2.1;2001:db8::1,x\n",
    )
    .expect("write");
    let list = read_devices(&path).expect("valid");
    assert_eq!((list.len(), list[0].ip.len()), (1, 2));
    assert_eq!(list[0].labels(), ["cam", "x"]);
    let long = "x".repeat(65);
    for (line, wants) in [
        ("cam,02:00", vec!["02:00", "not a MAC"]),
        ("../cam,02:00:5e:10:00:01", vec!["../cam", "without"]),
        ("a\"b,02:00:5e:10:00:01", vec!["without"]),
        ("a\tb,02:00:5e:10:00:01", vec![r"a\tb", "control"]),
        (&format!("{long},02:00:5e:10:00:01"), vec!["1 to 64"]),
        (",02:00:5e:10:00:01", vec!["no device name"]),
    ] {
        std::fs::write(&path, format!("device,mac\n{line}\n")).expect("write");
        let e = format!("{:#}", read_devices(&path).expect_err(line));
        for want in ["devices.csv", "line 2"].iter().chain(&wants) {
            assert!(e.contains(want), "{line:?}: `{want}` is not in `{e}`");
        }
    }
}

#[test]
fn a_device_of_the_file_goes_before_the_list_and_doubles_of_the_list_are_found() {
    let dir = tempfile::tempdir().expect("temp dir");
    let text = "gateway.devices_file = \"devices.csv\"\n\
                [[device]]\nlabel = \"cam\"\nmac = \"02:00:5e:10:00:07\"\n";
    let list = |lines: &str| {
        let all = format!("device,mac\ncam,02:00:5e:10:00:01\n{lines}");
        std::fs::write(dir.path().join("devices.csv"), all).expect("write");
        File::parse(text, dir.path()).map_err(|e| format!("{e:#}"))
    };
    let file = list("plug,02:00:5e:10:00:02\n").expect("valid");
    let macs: Vec<_> = file
        .devices
        .iter()
        .filter_map(|d| d.mac.as_deref())
        .collect();
    assert_eq!(macs, ["02:00:5e:10:00:07", "02:00:5e:10:00:02"]);
    for (lines, want) in [
        (
            "plug,02:00:5e:10:00:02\nplug,02:00:5e:10:00:03\n",
            "devices number 2 and 3 both have the label plug",
        ),
        (
            "plug,02:00:5e:10:00:07\n",
            "devices cam and plug both have the MAC address 02:00:5e:10:00:07",
        ),
    ] {
        let e = list(lines).expect_err(lines);
        assert!(e.contains(want), "`{want}` is not in `{e}`");
    }
}

#[test]
fn only_the_profile_home_has_bursts() {
    let envelope = |profile: &str| {
        let text = format!(
            "[cover]\nmode = \"tunnel\"\nprofile = \"{profile}\"\n[tunnel]\nconfig = \"x\""
        );
        let file = File::parse(&text, Path::new(".")).expect(profile);
        file.envelope().expect("the default of tunnels")
    };
    let [low, normal, high, home] = ["low", "normal", "high", "home"].map(envelope);
    assert!(low.rate < normal.rate && normal.rate < high.rate);
    assert!(
        [low, normal, high]
            .iter()
            .all(|profile| profile.bursts.rate == 0.0)
    );
    assert!(home.bursts.rate > 0.0);
    let told = error("[cover]\nprofile = \"huge\"");
    assert!(told.contains("huge") && told.contains("home"), "{told}");
}
