//! The demo's input: finding the devices of a capture, turning other formats into classic pcap.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{self, Stop};
use crate::pcap::Capture;

/// Turns a pcapng file into a classic pcap.
pub(crate) fn convert(capture: &Path, out: &Path) -> Result<PathBuf> {
    let classic = out.join("converted.pcap");
    let mut tcpdump = Command::new("tcpdump");
    tcpdump
        .args(["-Z", "root", "-r"])
        .arg(capture)
        .arg("-w")
        .arg(&classic);
    command::output(tcpdump).context("while converting the capture (it is not a classic pcap)")?;
    Ok(classic)
}

/// Looks for a table of devices beside the capture and one folder up.
pub(crate) fn find_devices(capture: &Path) -> Result<PathBuf> {
    let full = fs::canonicalize(capture)?;
    let found = full
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("devices.csv"))
        .find(|p| p.is_file());
    found.ok_or_else(|| {
        Stop::Usage.error("no devices.csv beside the capture: give --devices CSV (columns device, mac, ip, label)")
    })
}

/// Writes those rows of `table` whose device sends or receives in the capture; returns their MAC addresses.
///
/// Two rows may share a MAC (a sensor that speaks through its hub): the one named as the capture's folder wins.
pub(crate) fn present_devices(
    table: &Path,
    capture: &Path,
    frames: &Capture,
    to: &Path,
) -> Result<BTreeSet<[u8; 6]>> {
    let text =
        fs::read_to_string(table).with_context(|| format!("while reading {}", table.display()))?;
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let mac_column = header
        .split(',')
        .position(|name| name.trim() == "mac")
        .with_context(|| format!("{}: no column mac", table.display()))?;
    let seen: BTreeSet<[u8; 6]> = frames.frames.iter().flat_map(|f| f.macs()).collect();
    let folder = capture
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy();
    let mut rows: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
    rows.sort_by_key(|row| row.split(',').next() != Some(&*folder));
    let mut macs = BTreeSet::new();
    let mut kept = format!("{header}\n");
    for row in rows {
        let text = row.split(',').nth(mac_column).unwrap_or_default().trim();
        let mac = parse_mac(text)
            .with_context(|| format!("{}: {text:?} is no MAC address", table.display()))?;
        if seen.contains(&mac) && macs.insert(mac) {
            kept.push_str(row);
            kept.push('\n');
        }
    }
    if macs.is_empty() {
        return Err(Stop::Usage.error(format_args!(
            "none of the devices in {} occurs in the capture",
            table.display()
        )));
    }
    fs::write(to, kept).with_context(|| format!("while writing {}", to.display()))?;
    Ok(macs)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// Returns folder and file name of a capture as one word: `HueBridge-Setup-A-1`, or `demo`.
pub(crate) fn short_name(capture: &Path) -> String {
    let stem = |path: &Path| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let file = stem(capture);
    match capture.parent().map(stem) {
        Some(folder) if !folder.is_empty() && folder != "fixtures" => format!("{folder}-{file}"),
        _ => file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcap::Frame;

    #[test]
    fn keeps_devices_of_the_capture_and_the_folders_own_of_two_that_share_a_mac() {
        let folder = std::env::temp_dir().join(format!("chaff-input-{}/Hub", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (table, to) = (folder.join("all.csv"), folder.join("some.csv"));
        fs::write(
            &table,
            "device,mac,ip,label\nSensor,02:00:00:00:00:07,,a\nHub,02:00:00:00:00:07,,b\nOther,02:00:00:00:00:08,,c\n",
        )
        .unwrap();
        let bytes = vec![2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 9, 8, 0];
        let frames = Capture {
            frames: vec![Frame {
                at: 0,
                wire_len: 14,
                bytes,
            }],
        };
        let macs = present_devices(&table, &folder.join("x.pcap"), &frames, &to).unwrap();
        assert_eq!(macs.into_iter().collect::<Vec<_>>(), [[2, 0, 0, 0, 0, 7]]);
        let kept = fs::read_to_string(&to).unwrap();
        assert_eq!(kept, "device,mac,ip,label\nHub,02:00:00:00:00:07,,b\n");
        let none = Capture { frames: Vec::new() };
        let error = present_devices(&table, &folder.join("x.pcap"), &none, &to).unwrap_err();
        assert_eq!(error.downcast_ref::<Stop>(), Some(&Stop::Usage));
        fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    }

    #[test]
    fn names_say_folder_and_file() {
        assert_eq!(
            short_name(Path::new("data/HueBridge/Setup-A-1-STA.pcap")),
            "HueBridge-Setup-A-1-STA"
        );
        assert_eq!(short_name(Path::new("tests/fixtures/demo.pcap")), "demo");
        assert_eq!(short_name(Path::new("home.pcap")), "home");
    }
}
