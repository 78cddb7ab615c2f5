//! The capture that all read: made once, counted, and its first packet alone.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::bench::Options;
use crate::bench::household::{self, Settings};

/// Makes the capture, or finds it made.
pub(super) fn make(folder: &Path, options: &Options) -> Result<(PathBuf, u64)> {
    let settings = Settings {
        packets: options.packets,
        seed: options.seed,
        seconds: 1800,
    };
    let path = folder.join(format!(
        "household-{}-{}.pcap",
        settings.packets, settings.seed
    ));
    if !path.exists() {
        eprintln!("making {}", path.display());
        // Under another name until it is whole.
        let part = path.with_extension("part");
        let file =
            File::create(&part).with_context(|| format!("while making {}", part.display()))?;
        let summary = household::write(settings, &mut BufWriter::with_capacity(1 << 20, file))
            .with_context(|| format!("while writing {}", part.display()))?;
        fs::rename(&part, &path)?;
        eprintln!("{}", serde_json::to_string(&summary)?);
    }
    Ok((path, settings.packets))
}

/// Counts the records of a classic pcap.
pub(super) fn count(path: &Path) -> Result<u64> {
    let mut file = BufReader::new(
        File::open(path).with_context(|| format!("while opening {}", path.display()))?,
    );
    let mut header = [0; 24];
    file.read_exact(&mut header)?;
    let word = word(&header).with_context(|| format!("in {}", path.display()))?;
    let mut packets = 0;
    let mut record = [0; 16];
    while file.read_exact(&mut record).is_ok() {
        let length = word([record[8], record[9], record[10], record[11]]);
        file.seek_relative(i64::from(length))?;
        packets += 1;
    }
    Ok(packets)
}

/// Copies the head of a classic pcap and its first record.
pub(super) fn first_packet(from: &Path, to: &Path) -> Result<()> {
    let mut start = vec![0; 24 + 16];
    let mut file = File::open(from).with_context(|| format!("while opening {}", from.display()))?;
    file.read_exact(&mut start)?;
    let word = word(&start)?;
    let length = word([start[32], start[33], start[34], start[35]]);
    start.resize(start.len() + length as usize, 0);
    file.read_exact(&mut start[24 + 16..])?;
    fs::write(to, start).with_context(|| format!("while writing {}", to.display()))
}

/// How numbers of a classic pcap are read.
fn word(header: &[u8]) -> Result<fn([u8; 4]) -> u32> {
    Ok(match header {
        [0xd4, 0xc3, 0xb2, 0xa1, ..] | [0x4d, 0x3c, 0xb2, 0xa1, ..] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3, 0xd4, ..] | [0xa1, 0xb2, 0x3c, 0x4d, ..] => u32::from_be_bytes,
        _ => bail!("not a classic pcap"),
    })
}
