//! Who is measured: the gateway with several outputs, NFStream with the same features, and other meters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::capture::first_packet;
use super::contender::{Contender, Kind};
use crate::bench::{Options, query};
use crate::command::{self, installed, privileged};
use crate::packages;

/// The version that our numbers are about.
const NFSTREAM: &str = "nfstream==6.6.0";

/// NFStream on a capture of one packet: what it costs to start.
pub(super) const START: &str = "NFStream-start";

const SCRIPT: &str = "\
import sys
from nfstream import NFStreamer

if __name__ == '__main__':
    source, output, dissections, splt = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    flows = NFStreamer(
        source=source, n_dissections=dissections, statistical_analysis=True, splt_analysis=splt
    ).to_csv(path=output)
    print(flows)
";

pub(super) fn ours(options: &Options, folder: &Path, capture: &Path) -> Result<Vec<Contender>> {
    let gateway = super::gateway(options)?;
    let meter = |name: &'static str, extension: &str, arguments: &str| {
        let output = folder.join(format!("{name}.{extension}"));
        let report = folder.join(format!("{name}.json"));
        let mut command = vec![gateway.display().to_string(), "meter".to_owned()];
        command.push(capture.display().to_string());
        for (flag, path) in [("--output", &output), ("--report", &report)] {
            command.extend([flag.to_owned(), path.display().to_string()]);
        }
        command.extend(arguments.split_whitespace().map(str::to_owned));
        Contender::new(name, Kind::Gateway, command, output)
    };
    Ok(vec![
        meter("native", "csv", "--dissect 0"),
        meter(
            "native-statistics",
            "csv",
            "--dissect 0 --statistics --splt 20",
        ),
        meter(
            "native-dissect",
            "csv",
            "--dissect 20 --statistics --splt 20",
        ),
        meter("native-jsonl", "jsonl", "--dissect 0 --format jsonl"),
        meter("native-parquet", "parquet", "--dissect 0 --format parquet"),
        meter("native-ipfix", "ipfix", "--dissect 0 --format ipfix"),
        meter(
            "nfstream",
            "csv",
            "--profile nfstream --dissect 0 --statistics",
        ),
        meter(
            "nfstream-splt",
            "csv",
            "--profile nfstream --dissect 0 --statistics --splt 20",
        ),
        meter(
            "nfstream-dissect",
            "csv",
            "--profile nfstream --dissect 20 --statistics --splt 20",
        ),
    ])
}

pub(super) fn nfstream(folder: &Path, capture: &Path, wanted: bool) -> Result<Vec<Contender>> {
    let (python, missing) = match wanted.then(|| environment(folder)) {
        None => (PathBuf::new(), None),
        Some(Ok(python)) => (python, None),
        Some(Err(error)) => (PathBuf::new(), Some(format!("{error:#}"))),
    };
    let script = folder.join("run_nfstream.py");
    fs::write(&script, SCRIPT).with_context(|| format!("while writing {}", script.display()))?;
    let single = folder.join("single.pcap");
    first_packet(capture, &single)?;
    let run = |name: &'static str, capture: &Path, dissections: u32, splt: u32| {
        let output = folder.join(format!("{name}.csv"));
        let paths = [&python, &script, capture, &output].map(|p| p.display().to_string());
        let mut command = paths.to_vec();
        command.extend([dissections.to_string(), splt.to_string()]);
        let mut contender = Contender::new(name, Kind::NfStream, command, output);
        contender.missing.clone_from(&missing);
        contender
    };
    Ok(vec![
        run(START, &single, 0, 0),
        run("NFStream", capture, 0, 0),
        run("NFStream-splt", capture, 0, 20),
        run("NFStream-dissect", capture, 20, 20),
    ])
}

/// A Python environment with NFStream in it.
fn environment(folder: &Path) -> Result<PathBuf> {
    let home = folder.join("nfstream-6.6.0");
    let python = query::python(&home, "nfstream", &[NFSTREAM])?;
    let mut probe = Command::new(&python);
    probe.args(["-c", "import nfstream; print(nfstream.__version__)"]);
    let version = command::output(probe).context("NFStream does not start")?;
    ensure!(version.trim() == "6.6.0", "NFStream is {}", version.trim());
    Ok(python)
}

pub(super) fn others(folder: &Path, capture: &Path) -> Vec<Contender> {
    let capture = capture.display().to_string();
    let list = |text: &str| -> Vec<String> {
        text.split_whitespace()
            .map(|word| {
                if word == "CAPTURE" {
                    capture.clone()
                } else {
                    word.to_owned()
                }
            })
            .collect()
    };
    let flows = folder.join("nfpcapd");
    let mut softflowd = Contender::new(
        "softflowd",
        Kind::Softflowd,
        list(
            "softflowd -r CAPTURE -n 127.0.0.1:9995 -v 10 -b -6 -d -c none -m 4000000 -t maxlife=1800 -t tcp=120 \
             -t tcp.rst=120 -t tcp.fin=120 -t udp=120 -t icmp=120 -t general=120 -p",
        ),
        folder.join("softflowd.pid"),
    );
    softflowd
        .command
        .push(folder.join("softflowd.pid").display().to_string());
    softflowd.alone = true;
    if !privileged() {
        softflowd.missing = Some("it sends: needs root for a network namespace".to_owned());
    }
    let mut nfpcapd = Contender::new(
        "nfpcapd",
        Kind::Nfpcapd,
        list("nfpcapd -r CAPTURE -e 1800,120 -w"),
        flows.clone(),
    );
    nfpcapd.command.push(flows.display().to_string());
    let tcpdump = Contender::new(
        "tcpdump",
        Kind::Tcpdump,
        list("tcpdump -r CAPTURE -w /dev/null"),
        folder.join("tcpdump.none"),
    );
    let mut all = vec![softflowd, nfpcapd, tcpdump];
    for contender in &mut all {
        let program = &contender.command[0];
        if !installed(program) {
            contender.missing = Some(format!("{program} is not installed"));
        }
    }
    all
}

pub(super) fn contenders(
    options: &Options,
    folder: &Path,
    capture: &Path,
) -> Result<Vec<Contender>> {
    if privileged()
        && let Err(error) = packages::ensure(packages::METERS)
    {
        eprintln!("{error:#}");
    }
    let wants = |name: &str| options.only.as_ref().is_none_or(|text| name.contains(text));
    let mut all = ours(options, folder, capture)?;
    // Any of NFStream's contenders needs its environment.
    let is_nfstream = [START, "NFStream", "NFStream-splt", "NFStream-dissect"]
        .into_iter()
        .any(wants);
    all.extend(nfstream(folder, capture, is_nfstream)?);
    all.extend(others(folder, capture));
    Ok(all)
}
