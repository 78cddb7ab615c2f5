//! One program: run, measured, and what it made looked at.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::bench::measure::Used;
use crate::command;

/// Who made a file, and so how to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gateway,
    NfStream,
    Softflowd,
    Nfpcapd,
    Tcpdump,
}

/// One program with its arguments.
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) command: Vec<String>,
    /// In a network namespace of its own.
    pub(super) alone: bool,
    /// What it writes.
    pub(super) output: PathBuf,
    /// Why it is not measured.
    pub(super) missing: Option<String>,
    pub(super) runs: Vec<Used>,
    pub(super) made: Made,
}

/// What a contender made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Made {
    /// Packets in its flows.
    pub(super) packets: Option<u64>,
    /// Flows or records.
    pub(super) flows: Option<u64>,
    /// Bytes of its output.
    pub(super) bytes: Option<u64>,
}

impl Contender {
    pub(super) fn new(
        name: &'static str,
        kind: Kind,
        command: Vec<String>,
        output: PathBuf,
    ) -> Self {
        Self {
            name,
            kind,
            command,
            alone: false,
            output,
            missing: None,
            runs: Vec::new(),
            made: Made::default(),
        }
    }

    /// Runs it once; `look` also reads what it made.
    pub(super) fn run(&mut self, folder: &Path, look: bool) -> Result<()> {
        remove(&self.output)?;
        if self.kind == Kind::Nfpcapd {
            fs::create_dir_all(&self.output)?;
        }
        let said = [folder.join("stdout.txt"), folder.join("stderr.txt")];
        let mut measure = Command::new(std::env::current_exe()?);
        measure.args(["measure", "--stdout"]).arg(&said[0]);
        measure.arg("--stderr").arg(&said[1]);
        if self.alone {
            measure.arg("--alone");
        }
        measure.arg("--").args(&self.command);
        let used: Used = serde_json::from_str(&command::output(measure)?)?;
        let said = said.map(|path| fs::read_to_string(path).unwrap_or_default());
        if used.code != 0 {
            let lines: Vec<&str> = said[1].lines().take(3).collect();
            bail!("ended with {}: {}", used.code, lines.join(" / "));
        }
        self.runs.push(used);
        if look {
            self.made = self
                .look(&said)
                .with_context(|| format!("while looking at what {} made", self.name))?;
        }
        Ok(())
    }

    /// Reads packets and flows from what it wrote and said.
    fn look(&self, [stdout, stderr]: &[String; 2]) -> Result<Made> {
        let mut made = Made {
            bytes: fs::metadata(&self.output)
                .ok()
                .filter(fs::Metadata::is_file)
                .map(|m| m.len()),
            ..Made::default()
        };
        match self.kind {
            Kind::Gateway => {
                let text = fs::read_to_string(self.output.with_extension("json"))?;
                let report: Value = serde_json::from_str(&text)?;
                made.packets = report["packets_metered"].as_u64();
                made.flows = report["records"].as_u64();
                ensure!(report["balanced"] == true, "its report is not balanced");
            }
            Kind::NfStream => {
                let (rows, packets) = rows(&self.output, "bidirectional_packets")?;
                let said: u64 = stdout.trim().parse().context("it did not say its flows")?;
                ensure!(said == rows, "{rows} rows, {said} flows");
                (made.packets, made.flows) = (Some(packets), Some(rows));
            }
            Kind::Softflowd => {
                let said = format!("{stdout}{stderr}");
                made.packets = number_after(&said, "Packets processed: ");
                made.flows = number_after(&said, "Flows exported: ");
            }
            Kind::Nfpcapd => {
                let mut nfdump = Command::new("nfdump");
                nfdump.arg("-R").arg(&self.output).arg("-I");
                let text = command::output(nfdump)?;
                made.packets = number_after(&text, "\nPackets: ");
                made.flows = number_after(&text, "\nFlows: ");
            }
            Kind::Tcpdump => {
                let mut tcpdump = Command::new("tcpdump");
                tcpdump.args(["--count", "-r", &self.command[2]]);
                made.packets = command::output(tcpdump)?
                    .split_whitespace()
                    .next()
                    .and_then(|n| n.parse().ok());
            }
        }
        Ok(made)
    }

    pub(super) fn cpu(&self) -> Option<f64> {
        median(self.runs.iter().map(|r| r.cpu_s))
    }

    pub(super) fn peak(&self) -> Option<f64> {
        median(self.runs.iter().map(|r| r.peak_bytes as f64))
    }
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn number_after(text: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(mark)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

/// Rows of a CSV, and the sum of a column that no quoted one precedes.
fn rows(path: &Path, column: &str) -> Result<(u64, u64)> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    let header = lines.next().context("no header")??;
    let index = header.split(',').position(|name| name == column);
    let index = index.with_context(|| format!("no column {column}"))?;
    let (mut rows, mut sum) = (0, 0);
    for line in lines {
        let line = line?;
        let number: Option<u64> = line.split(',').nth(index).and_then(|n| n.parse().ok());
        sum += number.with_context(|| format!("row {} has no {column}", rows + 1))?;
        rows += 1;
    }
    Ok((rows, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_peers_say() {
        let text = "Packets processed: 829\nFlows exported: 78 (78 records) in 4 packets";
        assert_eq!(number_after(text, "Packets processed: "), Some(829));
        assert_eq!(number_after(text, "Flows exported: "), Some(78));
        assert_eq!(number_after(text, "Bytes: "), None);
    }
}
