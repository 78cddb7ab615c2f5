//! Answers that were given: the same question about the same data costs nothing twice.
//!
//! One line of JSON for each, appended after the answer was made. Only noised answers are in it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::release::Answer;
use crate::request::Request;
use crate::source::hex;

/// A larger file is not read further.
const LARGEST: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    answer: Answer,
}

/// Digest of everything that decides an answer but the noise.
pub fn key(request: &Request, versions: &[&str]) -> String {
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(request).unwrap_or_default());
    for version in versions {
        digest.update(b"\n");
        digest.update(version);
    }
    hex(&digest.finalize())
}

/// The file beside a ledger.
pub fn beside(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".answers");
    name.into()
}

/// The answer given under that key, if there is one. Lines that cannot be read are passed over.
pub fn find(path: &Path, key: &str) -> Option<Answer> {
    let file = File::open(path).ok()?;
    let reader = BufReader::new(std::io::Read::take(file, LARGEST));
    let start = format!("{{\"key\":\"{key}\"");
    reader
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.starts_with(&start))
        .filter_map(|line| serde_json::from_str::<Line>(&line).ok())
        .next()
        .map(|line| Answer {
            cached: true,
            ..line.answer
        })
}

/// Keeps an answer.
///
/// # Errors
/// What the system said.
pub fn keep(path: &Path, key: &str, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&Line {
        key: key.to_owned(),
        answer: answer.clone(),
    })?;
    line.push(b'\n');
    // One write at the end, so that lines of two processes do not mix.
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&line)
}
