//! `trainer learn`, then `gateway classify`, as somebody does who has captures and nothing else: every algorithm, from
//! capture to verdicts, also on captures of another network.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_tests::stage::Stage;
use chaff_tests::{Running, fixture, program, shared, skip_without_root};
use nix::sys::signal::Signal;
use serde_json::Value;

const ALGORITHMS: [&str; 8] = ["ocsvm", "kde", "gmm", "pca", "if", "ae", "knn", "online"];

fn run(name: &str, arguments: &[&str]) -> Result<Output> {
    let out = Command::new(program(name)?).args(arguments).output()?;
    Ok(out)
}

fn good(name: &str, arguments: &[&str]) -> Result<String> {
    let out = run(name, arguments)?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name} {arguments:?}: {said}");
    Ok(String::from_utf8(out.stdout)?)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Verdicts as JSON; flows and those that are unusual.
fn classify(model: &Path, capture: &Path) -> Result<(Vec<Value>, [usize; 2])> {
    let arguments = [
        "classify",
        "--model",
        text(model),
        "--format",
        "json",
        "--report-all",
    ];
    let said = good("gateway", &[&arguments[..], &[text(capture)]].concat())?;
    let verdicts: Vec<Value> = said
        .lines()
        .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()))
        .collect::<Result<_>>()?;
    let novel = verdicts
        .iter()
        .filter(|v| v["verdict"] == "ANOMALY")
        .count();
    for v in &verdicts {
        let is_novel = v["verdict"] == "ANOMALY";
        let (score, line) = (v["score"].as_f64(), v["threshold"].as_f64());
        ensure!(score.is_some() && (score > line) == is_novel, "{v}");
        let reasons = v["reasons"].as_array().context("no reasons")?;
        ensure!(is_novel || reasons.is_empty(), "{v}");
    }
    let all = verdicts.len();
    Ok((verdicts, [all, novel]))
}

fn learn(algorithm: &str, captures: &[&Path], more: &[&str], model: &Path) -> Result<Value> {
    let mut arguments = vec![
        "learn",
        "--algorithm",
        algorithm,
        "--json",
        "--output",
        text(model),
    ];
    for c in captures {
        arguments.extend(["--pcap", text(c)]);
    }
    arguments.extend(more);
    Ok(serde_json::from_str(&good("trainer", &arguments)?)?)
}

#[test]
fn every_algorithm_goes_from_capture_to_verdicts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = fixture("demo.pcap")?;
    let mut seen = BTreeMap::new();
    for algorithm in ALGORITHMS {
        let model = folder.path().join(algorithm);
        let report = learn(algorithm, &[&capture], &[], &model)?;
        ensure!(report["algorithm"] == algorithm, "{report}");
        let (_, [flows, novel]) = classify(&model, &capture)?;
        ensure!(flows > 50, "{algorithm}: {flows} flows");
        // Its own training traffic is mostly usual.
        ensure!(novel * 5 < flows, "{algorithm}: {novel} of {flows} unusual");
        seen.insert(algorithm, flows);
        let again = folder.path().join("again");
        learn(algorithm, &[&capture], &[], &again)?;
        ensure!(
            fs::read(&model)? == fs::read(&again)?,
            "{algorithm}: not repeatable"
        );
    }
    ensure!(seen.values().all(|n| *n == seen["gmm"]), "{seen:?}");
    Ok(())
}

#[test]
fn netml_s_demo_and_another_network() -> Result<()> {
    let Some(set) = shared(
        "netml_s_demo_and_another_network",
        "conformance/netml/pcaps",
    ) else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let (demo, labels, other) = (
        set.join("demo.pcap"),
        set.join("demo.csv"),
        set.join("skype.pcap"),
    );
    for algorithm in ALGORITHMS {
        for profile in ["native", "netml"] {
            let model: PathBuf = folder.path().join(format!("{algorithm}-{profile}"));
            let options = ["--profile", profile, "--label", text(&labels)];
            let report = learn(algorithm, &[&demo], &options, &model)?;
            let area = report["roc_auc"].as_f64().context("no area")?;
            let (_, home) = classify(&model, &demo)?;
            let (_, away) = classify(&model, &other)?;
            eprintln!(
                "{algorithm} {profile}: area {area:.3}, demo {home:?}, another network {away:?}"
            );
            ensure!(home[0] > 100 && away[0] > 20 && (0.0..=1.0).contains(&area));
        }
        // Learnt in the other network.
        let model = folder.path().join(format!("{algorithm}-other"));
        learn(algorithm, &[&other], &[], &model)?;
        let (_, [flows, novel]) = classify(&model, &other)?;
        ensure!(
            flows > 20 && novel * 5 < flows,
            "{algorithm}: {novel} of {flows}"
        );
    }
    Ok(())
}

#[test]
fn standard_input_gives_the_same_verdicts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (capture, model) = (fixture("demo.pcap")?, folder.path().join("model"));
    learn("gmm", &[&capture], &["--false-alarm", "0.1"], &model)?;
    let file = good(
        "gateway",
        &[
            "classify",
            "--model",
            text(&model),
            "--report-all",
            text(&capture),
        ],
    )?;
    ensure!(file.lines().count() > 2, "{file}");
    let mut piped = Command::new(program("gateway")?)
        .args(["classify", "--model", text(&model), "--report-all", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let bytes = fs::read(&capture)?;
    let mut stdin = piped.stdin.take().context("no standard input")?;
    stdin.write_all(&bytes)?;
    drop(stdin);
    let out = piped.wait_with_output()?;
    ensure!(out.status.success() && String::from_utf8(out.stdout)? == file);
    Ok(())
}

/// Flows by who talked with whom. Who was first is left out: packets of two interfaces that are a few microseconds apart may
/// arrive in the other order.
fn by_flow(said: &str) -> Result<BTreeMap<String, usize>> {
    let mut of = BTreeMap::new();
    for line in said.lines() {
        let v: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let of_end = |end: [&str; 2]| end.map(|k| v[k].to_string()).join(" ");
        let mut ends = [["src_ip", "src_port"], ["dst_ip", "dst_port"]].map(of_end);
        ends.sort_unstable();
        let name = format!("{} {}", ends.join(" "), v["protocol"]);
        ensure!(!name.contains("null"), "{v}");
        *of.entry(name).or_default() += 1;
    }
    Ok(of)
}

/// The same capture as a file and as live traffic, replayed at its own pace: the same flows, and mostly the same verdicts.
#[test]
fn live_traffic_gets_the_verdicts_of_its_capture() -> Result<()> {
    const NAME: &str = "live_traffic_gets_the_verdicts_of_its_capture";
    if skip_without_root(NAME) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (capture, model) = (fixture("demo.pcap")?, folder.path().join("model"));
    learn("knn", &[&capture], &["--false-alarm", "0.1"], &model)?;
    let options = [
        "classify",
        "--format",
        "json",
        "--report-all",
        "--model",
        text(&model),
    ];
    let file = good("gateway", &[&options[..], &[text(&capture)]].concat())?;

    let stage = Stage::new("classify")?;
    let verdicts = folder.path().join("live.jsonl");
    let mut command = stage.home.in_gateway(program("gateway")?);
    command
        .args(options)
        .args(["--live", "lan0", "--output", text(&verdicts)]);
    let mut live = Running::start("gateway classify", command)?;
    // It listens once the namespace has a packet socket.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        live.check()?;
        let sockets = stage
            .home
            .in_gateway("cat")
            .arg("/proc/net/packet")
            .output()?;
        if String::from_utf8_lossy(&sockets.stdout).lines().count() > 1 {
            break;
        }
        ensure!(Instant::now() < end, "it does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    let replayed = stage
        .replay(&capture, &fixture("devices.csv")?, &[])?
        .status()?;
    ensure!(replayed.success(), "replay: {replayed}");
    thread::sleep(Duration::from_millis(500));
    let status = live.stop(Signal::SIGINT, Duration::from_secs(20))?;
    ensure!(status.success(), "{status}");

    let live = fs::read_to_string(&verdicts)?;
    let (wanted, seen) = (by_flow(&file)?, by_flow(&live)?);
    ensure!(
        wanted.len() > 20 && wanted == seen,
        "file {wanted:#?}, live {seen:#?}"
    );
    let novel = |said: &str| said.lines().filter(|l| l.contains("\"ANOMALY\"")).count();
    let (in_file, in_live) = (novel(&file), novel(&live));
    eprintln!(
        "{} flows; unusual: {in_file} in the file, {in_live} live",
        file.lines().count()
    );
    // Times differ by what the replay and a loaded machine add.
    ensure!(in_file > 0 && in_live > 0 && in_live.abs_diff(in_file) * 5 <= file.lines().count());
    Ok(())
}

#[test]
fn what_cannot_work_is_said_clearly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (capture, model) = (fixture("demo.pcap")?, folder.path().join("netml.model"));
    let nothing = folder.path().join("nothing");
    fs::write(&nothing, "no model")?;
    learn("gmm", &[&capture], &["--profile", "netml"], &model)?;
    let (capture, model, nothing) = (text(&capture), text(&model), text(&nothing));
    let cases: [(&str, &[&str], &[&str]); 8] = [
        (
            "gateway",
            &["classify", "--model", nothing, capture],
            &["nothing", "model"],
        ),
        (
            "gateway",
            &["classify", "--model", "/nowhere", capture],
            &["/nowhere", "No such file"],
        ),
        (
            "gateway",
            &["classify", "--model", model, nothing],
            &["nothing", "not a pcap"],
        ),
        ("gateway", &["classify", "--model", model], &["INPUT"]),
        (
            "gateway",
            &["classify", "--model", model, "--live", "lo", capture],
            &["--live", "cannot be used"],
        ),
        (
            "trainer",
            &[
                "learn",
                "--pcap",
                capture,
                "--algorithm",
                "svm",
                "--output",
                "x",
            ],
            &["svm", "ocsvm, kde"],
        ),
        (
            "trainer",
            &["learn", "--pcap", nothing, "--output", "x"],
            &["nothing"],
        ),
        (
            "trainer",
            &[
                "learn", "--pcap", capture, "--param", "nu: 2", "--output", "x",
            ],
            &["nu", "components"],
        ),
    ];
    for (name, arguments, wants) in cases {
        let out = run(name, arguments)?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(
            out.status.code() == Some(2),
            "{arguments:?}: {} {said}",
            out.status
        );
        for want in wants {
            ensure!(
                said.contains(want),
                "{arguments:?}: `{want}` is not in `{said}`"
            );
        }
    }
    Ok(())
}
