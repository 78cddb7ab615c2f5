//! What was done: for people, for programs, and while it is done.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::input::Input;
use super::pipeline::Counts;
use super::profile::MeterStats;

/// The whole account of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What was read, by input.
    pub inputs: Vec<Input>,
    /// What the loop counted.
    pub counts: Counts,
    /// What the meter counted.
    pub stats: MeterStats,
    /// Whether a signal ended it before the inputs did.
    pub interrupted: bool,
    /// Datagrams that the collector refused.
    pub refused: Option<u64>,
    /// Where the rows went.
    pub output: String,
    /// Bytes written there.
    pub output_bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// CPU time of all threads.
    pub cpu_seconds: Option<f64>,
    /// Most memory held, bytes.
    pub memory: Option<u64>,
}

impl Summary {
    /// Packets that are in no flow, by any reason.
    pub fn ignored(&self) -> u64 {
        self.stats.ignored.iter().map(|(_, n)| n).sum()
    }

    /// Packets of flows that were in progress when the limit of flows was reached.
    pub fn unwritten(&self) -> u64 {
        self.stats.metered.saturating_sub(self.counts.flow_packets)
    }

    /// Packets in = metered + ignored + filtered, and the flows hold what was metered.
    pub fn is_balanced(&self) -> bool {
        let c = &self.counts;
        c.packets_in == self.stats.metered + self.ignored() + c.filtered
            && (c.stopped_at_limit || self.stats.metered == c.flow_packets)
    }

    /// Whether an input ended early.
    pub fn is_damaged(&self) -> bool {
        self.inputs.iter().any(|i| i.error.is_some())
    }

    fn rate(&self) -> f64 {
        if self.seconds > 0.0 {
            self.counts.packets_in as f64 / self.seconds
        } else {
            0.0
        }
    }

    /// One JSON object; its `version` changes when a member changes its meaning.
    pub fn to_json(&self) -> serde_json::Value {
        let ignored: serde_json::Map<String, serde_json::Value> = self
            .stats
            .ignored
            .iter()
            .map(|(reason, n)| (reason.to_string(), (*n).into()))
            .collect();
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .map(|i| {
                serde_json::json!({
                    "path": i.name, "packets": i.packets, "bytes": i.bytes, "first_ns": i.first.map(|t| t.0),
                    "last_ns": i.first.map(|_| i.last.0), "dropped": i.dropped, "error": i.error,
                })
            })
            .collect();
        serde_json::json!({
            "version": 2,
            "packets_in": self.counts.packets_in,
            "packets_metered": self.stats.metered,
            "packets_ignored": self.ignored(),
            "packets_filtered": self.counts.filtered,
            "packets_dropped": self.dropped(),
            "ignored": ignored,
            "records": self.counts.flows,
            "record_packets": self.counts.flow_packets,
            "unwritten_packets": self.unwritten(),
            "balanced": self.is_balanced(),
            "stopped_at_limit": self.counts.stopped_at_limit,
            "interrupted": self.interrupted,
            "unread_link_types": self.unread_links().collect::<Vec<_>>(),
            "evicted_records": self.stats.evicted,
            "clamped_packets": self.stats.clamped,
            "peak_flows": self.stats.peak_flows,
            "output": self.output,
            "output_bytes": self.output_bytes,
            "refused_datagrams": self.refused,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "packets_per_second": self.rate(),
            "peak_memory_bytes": self.memory,
            "inputs": inputs,
        })
    }

    fn unread_links(&self) -> impl Iterator<Item = u32> {
        self.counts.unread_links.into_iter().flatten()
    }

    fn dropped(&self) -> Option<u64> {
        self.inputs
            .iter()
            .filter_map(|i| i.dropped)
            .reduce(|a, b| a + b)
    }

    /// A few lines for people.
    pub fn to_text(&self) -> String {
        let c = &self.counts;
        let mut sum = vec![format!("{} metered", grouped(self.stats.metered))];
        let reasons = self.stats.ignored.iter().map(|(reason, n)| (*reason, *n));
        for (reason, n) in reasons
            .chain([("filtered", c.filtered)])
            .filter(|(_, n)| *n > 0)
        {
            let mut part = format!("{} {}", grouped(n), reason.replace('_', " "));
            if reason == "link_type" {
                let numbers: Vec<_> = self.unread_links().map(|n| n.to_string()).collect();
                part += &format!(" ({})", numbers.join(", "));
            }
            sum.push(part);
        }
        let mut text = format!(
            "{} = {}\n",
            counted(c.packets_in, "packet"),
            sum.join(" + ")
        );
        if let Some(dropped) = self.dropped().filter(|n| *n > 0) {
            text += &format!(
                "{} lost in the kernel before they came\n",
                counted(dropped, "further packet")
            );
        }
        let flows = if c.flows == 0 && self.output_bytes == 0 {
            "no flow, so nothing was written".to_string()
        } else {
            format!(
                "{} to {} ({})",
                counted(c.flows, "flow"),
                self.output,
                bytes(self.output_bytes)
            )
        };
        let limit = if c.stopped_at_limit {
            ", stopped at the limit"
        } else {
            ""
        };
        text += &format!("{flows}{limit}\n");
        if c.stopped_at_limit && self.unwritten() > 0 {
            text += &format!(
                "{} in flows not written\n",
                counted(self.unwritten(), "packet")
            );
        }
        if self.interrupted {
            text += "stopped by a signal before the end of the input\n";
        }
        if self.stats.evicted > 0 {
            text += &format!(
                "{} ended early because the table was full\n",
                counted(self.stats.evicted, "flow")
            );
        }
        if let Some(refused) = self.refused.filter(|n| *n > 0) {
            text += &format!(
                "{} refused: is a collector listening?\n",
                counted(refused, "datagram")
            );
        }
        let memory = self
            .memory
            .map(|b| format!(", {} of memory", bytes(b)))
            .unwrap_or_default();
        text + &format!(
            "{:.2} s, {} packets/s{memory}\n",
            self.seconds,
            grouped(self.rate() as u64)
        )
    }
}

/// `1 flow`, `2 flows`.
pub fn counted(n: u64, thing: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(n))
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (n as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} bytes")
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}

/// High-water mark of resident memory, from `/proc`.
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// CPU time of all threads so far, user and system, from `/proc`.
pub fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse().unwrap_or(0))
        .sum();
    // Clock ticks are 1/100 s to user space on every Linux.
    Some(ticks as f64 / 100.0)
}

/// A bar on the terminal for work that takes longer than two seconds.
pub struct Progress {
    bar: ProgressBar,
    position: Arc<AtomicU64>,
    started: Instant,
    is_wanted: bool,
}

impl Progress {
    /// A bar over inputs that are read up to `position`; none where it is not wanted, or nobody looks.
    pub fn new(inputs: &[PathBuf], position: Arc<AtomicU64>, is_wanted: bool) -> Self {
        let size = |path: &PathBuf| {
            fs::metadata(path)
                .ok()
                .filter(fs::Metadata::is_file)
                .map(|m| m.len())
        };
        let total: Option<u64> = inputs.iter().map(size).sum();
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let template = if total.is_some() {
            "{bytes} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left"
        } else {
            "{bytes} {spinner} {bytes_per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            position,
            started: Instant::now(),
            is_wanted: is_wanted && io::stderr().is_terminal(),
        }
    }

    /// Draws how far it is.
    pub fn show(&self) {
        if !self.is_wanted || self.started.elapsed() < Duration::from_secs(2) {
            return;
        }
        if self.bar.is_hidden() {
            self.bar
                .set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        self.bar.set_position(self.position.load(Ordering::Relaxed));
    }

    /// Takes it away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_the_sum_and_the_rate() {
        let summary = Summary {
            counts: Counts {
                packets_in: 1_234_567,
                filtered: 7,
                flows: 1_000,
                flow_packets: 1_234_500,
                ..Counts::default()
            },
            stats: MeterStats {
                metered: 1_234_500,
                ignored: vec![("not_ip", 60), ("malformed", 0)],
                ..MeterStats::default()
            },
            output: "flows.csv".into(),
            output_bytes: 3 << 20,
            seconds: 2.0,
            memory: Some(9 << 20),
            ..Summary::default()
        };
        assert!(summary.is_balanced());
        assert_eq!(
            summary.to_text(),
            "1,234,567 packets = 1,234,500 metered + 60 not ip + 7 filtered\n\
             1,000 flows to flows.csv (3.0 MiB)\n2.00 s, 617,283 packets/s, 9.0 MiB of memory\n"
        );
        let summary = Summary {
            counts: Counts {
                packets_in: 4,
                flows: 1,
                flow_packets: 2,
                stopped_at_limit: true,
                unread_links: [Some(999), Some(147), None, None],
                ..Counts::default()
            },
            stats: MeterStats {
                metered: 3,
                ignored: vec![("link_type", 1)],
                evicted: 1,
                ..MeterStats::default()
            },
            refused: Some(1),
            interrupted: true,
            output: "flows.csv".into(),
            output_bytes: 3,
            ..Summary::default()
        };
        assert!(summary.is_balanced());
        assert_eq!(
            summary.to_text(),
            "4 packets = 3 metered + 1 link type (999, 147)\n\
             1 flow to flows.csv (3 bytes), stopped at the limit\n1 packet in flows not written\n\
             stopped by a signal before the end of the input\n1 flow ended early because the table was full\n\
             1 datagram refused: is a collector listening?\n0.00 s, 0 packets/s\n"
        );
        assert_eq!(summary.to_json()["unwritten_packets"], 1);
    }

    #[test]
    fn the_kernel_tells_time_and_memory() {
        assert!(peak_memory().is_some_and(|b| b > 100_000));
        assert!(cpu_seconds().is_some());
    }
}
