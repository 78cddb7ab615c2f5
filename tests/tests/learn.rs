//! `trainer learn`, then `gateway classify`, as somebody does who has captures and nothing else: every algorithm, from
//! capture to verdicts, also on captures of another network.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use chaff_tests::{fixture, program, shared};
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
