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
    let captures = [
        (write("empty.pcap", b"")?, "empty.pcap"),
        (
            write("text.pcap", b"this is not a capture at all, really")?,
            "text.pcap",
        ),
        (write("cut.pcap", &good[..good.len() - 7])?, "cut.pcap"),
        (write("length.pcap", &length)?, "length.pcap"),
        ("absent.pcap".to_owned(), "absent.pcap"),
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
    let good = fixture("demo.pcap")?;
    let good = good.to_string_lossy();
    for (more, wants) in [
        (
            vec!["--cover", "no-such"],
            vec!["no-such", "constant", "random+"],
        ),
        (vec!["--loss", "2"], vec!["--loss is 2", "0 to 1"]),
        (vec!["--duration=-1"], vec!["--duration", "-1"]),
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
