//! `gateway simulate`: repeatable to the byte, and clear about what it cannot use.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;
use chaff_tests::{fixture, program};

fn simulate(out: &Path, more: &[&str]) -> Result<Output> {
    let mut command = Command::new(program("gateway")?);
    command.arg("simulate").arg("--out").arg(out).args(more);
    Ok(command.output()?)
}

#[test]
fn the_same_seed_writes_the_same_bytes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (capture, devices) = (fixture("demo.pcap")?, fixture("devices.csv")?);
    let (capture, devices) = (capture.to_string_lossy(), devices.to_string_lossy());
    let model = dir.path().join("models");
    let trained = Command::new(program("trainer")?)
        .args([
            "cover",
            "--scope",
            "all",
            "--pcap",
            &capture,
            "--devices",
            &devices,
            "--seed",
            "3",
            "--output",
        ])
        .arg(&model)
        .output()?;
    assert!(
        trained.status.success(),
        "{}",
        String::from_utf8_lossy(&trained.stderr)
    );
    let model = model.to_string_lossy().into_owned();
    for cover in ["random+", &model] {
        let run = |name: &str, seed: &str| -> Result<std::path::PathBuf> {
            let out = dir.path().join(name);
            let more = [
                "--pcap",
                &capture,
                "--devices",
                &devices,
                "--cover",
                cover,
                "--telemetry-period",
                "10",
                "--seed",
                seed,
            ];
            let done = simulate(&out, &more)?;
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
            Ok(out)
        };
        let (a, b, c) = (run("a", "5")?, run("b", "5")?, run("c", "6")?);
        for file in [
            "packets.csv",
            "observed.pcap",
            "flows.csv",
            "slots.csv",
            "telemetry.jsonl",
            "alerts.jsonl",
            "report.json",
        ] {
            let read = |dir: &Path| std::fs::read(dir.join(file));
            assert_eq!(read(&a)?, read(&b)?, "{file} with {cover}");
            let random = !["flows.csv", "alerts.jsonl"].contains(&file);
            assert!(
                !random || read(&a)? != read(&c)?,
                "{file} does not depend on the seed"
            );
        }
        assert!(
            std::fs::read_to_string(a.join("telemetry.jsonl"))?
                .lines()
                .count()
                >= 4
        );
    }
    Ok(())
}

/// One file, made by `trainer cover`, says what simulation and gateway do with it: sizes of dummies, and pauses of the cover.
#[test]
fn a_model_with_sizes_and_a_mask_is_used_as_it_says() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (capture, devices) = (fixture("demo.pcap")?, fixture("devices.csv")?);
    let (capture, devices) = (capture.to_string_lossy(), devices.to_string_lossy());
    let model = dir.path().join("model.onnx");
    let input = ["--pcap", &capture, "--devices", &devices, "--seed", "3"];
    let trained = Command::new(program("trainer")?)
        .args(["cover", "--shared", "--attacker-epochs", "2"])
        .args(["--past", "10", "--secret", "4", "--sizes", "68,516,1360"])
        .args(["--mask-hold", "5", "--mask-pause", "60"])
        .args(input)
        .arg("--output")
        .arg(&model)
        .output()?;
    let said = String::from_utf8_lossy(&trained.stderr);
    assert!(trained.status.success(), "{said}");
    let out = dir.path().join("out");
    let done = simulate(
        &out,
        &[&input[..], &["--cover", &model.to_string_lossy()]].concat(),
    )?;
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    // UDP and IPv4 headers are on top of the payload. The gateway's own are schedules for the way back, which the sink places: it is
    // told packets and bytes only.
    let table = std::fs::read_to_string(out.join("packets.csv"))?;
    let mut sizes: Vec<&str> = table
        .lines()
        .map(|l| l.split(',').collect::<Vec<_>>())
        .filter(|c| c[1] == "1" && c[3] == "1" && c[4] != "gateway")
        .map(|c| c[2])
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    assert_eq!(sizes, ["1388", "544", "96"]);
    Ok(())
}

/// One packet of a pcap file.
fn packet(seconds: u32, bytes: &[u8], wire_len: u32) -> Vec<u8> {
    let captured = u32::try_from(bytes.len()).expect("short");
    let head = [seconds, 0, captured, wire_len].map(u32::to_le_bytes);
    [head.as_flattened(), bytes].concat()
}

#[test]
fn checks_hold_when_frames_are_still_on_the_way_at_the_end() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let capture = fixture("demo.pcap")?;
    let capture = capture.to_string_lossy();
    // Longer than the 5 s that are simulated after the last frame, and cut in the middle.
    for more in [
        ["--delay", "20000"].as_slice(),
        &["--delay", "700", "--duration", "20.5"],
    ] {
        let all = [&["--pcap", &capture, "--cover", "random"], more].concat();
        let done = simulate(dir.path(), &all)?;
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{more:?}: {text}");
    }
    Ok(())
}

#[test]
fn short_captures_of_long_frames_take_the_memory_of_short_ones() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let good = std::fs::read(fixture("demo.pcap")?)?;
    // 20000 frames of 14 of 65575 bytes, 1.3 GB on the wire, of which 10 are sent within the duration.
    let path = dir.path().join("cut.pcap");
    let packets = (0..20_000).flat_map(|second| packet(second, &[0; 14], 65_575));
    std::fs::write(
        &path,
        good[..24]
            .iter()
            .copied()
            .chain(packets)
            .collect::<Vec<_>>(),
    )?;
    // The shell limits the address space: 400 MiB.
    let done = Command::new("sh")
        .args(["-c", "ulimit -v 409600; exec \"$@\"", "sh"])
        .arg(program("gateway")?)
        .args(["simulate", "--duration", "10.5", "--pcap"])
        .arg(&path)
        .arg("--out")
        .arg(dir.path().join("out"))
        .output()?;
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{text}");
    Ok(())
}

#[test]
fn broken_captures_and_arguments_get_clear_errors() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let good = std::fs::read(fixture("demo.pcap")?)?;
    let write = |name: &str, bytes: &[u8]| -> Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let mut length = good.clone();
    length[32..36].copy_from_slice(&[0xff; 4]);
    // The second packet, 10 years later.
    let second = 24 + 16 + usize::try_from(u32::from_le_bytes(good[32..36].try_into()?))?;
    let mut late = good.clone();
    let stamp = u32::from_le_bytes(late[second..second + 4].try_into()?) + 315_360_000;
    late[second..second + 4].copy_from_slice(&stamp.to_le_bytes());
    // A datagram to the address of simulated cover.
    let mut frame = vec![0; 42];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[30..34].copy_from_slice(&[192, 0, 0, 99]);
    let cover = [&good[..24], &packet(0, &frame, 42)].concat();
    // Frames that were 64 KiB long, all at once.
    let burst = [&good[..24], &packet(0, &[0; 14], 65_575).repeat(5_000)].concat();
    let captures = [
        (write("empty.pcap", b"")?, "empty.pcap"),
        (
            write("text.pcap", b"this is not a capture at all, really")?,
            "text.pcap",
        ),
        (write("cut.pcap", &good[..good.len() - 7])?, "cut.pcap"),
        (write("length.pcap", &length)?, "length.pcap"),
        ("absent.pcap".to_owned(), "absent.pcap"),
        (write("late.pcap", &late)?, "late.pcap packet 2"),
        (write("cover.pcap", &cover)?, "cover.pcap packet 1"),
        (write("burst.pcap", &burst)?, "burst.pcap packet 4094"),
    ];
    for (path, name) in &captures {
        let done = simulate(&dir.path().join("out"), &["--pcap", path])?;
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{name}: {text}");
        assert!(
            text.contains(name) && text.lines().count() == 1,
            "{name}: {text}"
        );
    }
    let label = write("label.csv", b"device,mac\n../up,02:00:5e:10:00:01\n")?;
    let good = fixture("demo.pcap")?;
    let good = good.to_string_lossy();
    for (more, wants) in [
        (
            vec!["--cover", "no-such"],
            vec!["no-such", "constant", "random+"],
        ),
        (vec!["--loss", "2"], vec!["--loss is 2", "0 to 1"]),
        (vec!["--duration=-1"], vec!["--duration", "-1"]),
        (vec!["--duration", "inf"], vec!["--duration is inf"]),
        (
            vec!["--start", "1e8"],
            vec!["--start is 100000000", "2678400"],
        ),
        (vec!["--learn=-1"], vec!["--learn is -1", "0 to 1000000000"]),
        (vec!["--learn", "nan"], vec!["--learn is NaN"]),
        (
            vec!["--telemetry-period", "0"],
            vec!["--telemetry-period is 0", "divides a day"],
        ),
        (
            vec!["--telemetry-period", "inf"],
            vec!["--telemetry-period is inf"],
        ),
        (vec!["--delay", "nan"], vec!["--delay is NaN"]),
        (vec!["--rate", "99B"], vec!["--rate is 99B", "100B to 10GB"]),
        (
            vec!["--devices", &label],
            vec!["label.csv: line 2", "../up", "1 to 64"],
        ),
        (vec!["--rate", "fast"], vec!["fast", "20kB"]),
        (vec!["--devices", "nowhere.csv"], vec!["nowhere.csv"]),
        (vec!["--epsilon=-3"], vec!["-3"]),
        (vec!["--cover", &good], vec!["demo.pcap"]),
    ] {
        let mut all = vec!["--pcap", &good];
        all.extend(&more);
        let done = simulate(&dir.path().join("out"), &all)?;
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{more:?}: {text}");
        for want in wants {
            assert!(text.contains(want), "{more:?}: `{want}` is not in `{text}`");
        }
    }
    Ok(())
}
