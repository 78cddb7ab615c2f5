//! What counts as one session, the same for every reader of captures.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Fewer packets may be equal by chance.
const ENOUGH: usize = 4;

/// The packets of one device in one capture.
pub(crate) trait Session {
    /// `LABEL__DEVICE__SESSION.csv`.
    fn file_name(&self) -> String;
    /// Name of the session.
    fn session(&mut self) -> &mut String;
}

/// Finds sessions that another capture has packet by packet, at the same distances in time: a capture of the whole home beside the
/// cuts made from it. Held out on one side and learnt from on the other, such a session would flatter every attacker.
#[derive(Default)]
pub(crate) struct Copies {
    known: BTreeSet<(usize, [u8; 32])>,
    found: usize,
}

impl Copies {
    /// Whether these packets of a device were here before. Each is given by numbers: time since the first one, direction, size and
    /// whatever else the reader keeps.
    pub(crate) fn has<const N: usize>(
        &mut self,
        device: usize,
        packets: impl ExactSizeIterator<Item = [u64; N]>,
    ) -> bool {
        if packets.len() < ENOUGH {
            return false;
        }
        let mut hash = Sha256::new();
        for packet in packets {
            packet.iter().for_each(|n| hash.update(n.to_le_bytes()));
        }
        let copy = !self.known.insert((device, hash.finalize().into()));
        self.found += usize::from(copy);
        copy
    }

    /// Says how many there were in this file since the last time.
    pub(crate) fn note(&mut self, file: &Path, notes: &mut Vec<String>) {
        if self.found > 0 {
            notes.push(format!(
                "{}: {} sessions are packet by packet those of other captures; used once",
                file.display(),
                self.found
            ));
        }
        self.found = 0;
    }
}

/// Gives sessions that would have one file name (captures of the same name in several folders) the folder as well, and a number where
/// that does not do either.
pub(crate) fn tell_apart<S: Session>(sessions: &mut [S], folders: &[String]) {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for s in sessions.iter() {
        *count.entry(s.file_name()).or_default() += 1;
    }
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (s, folder) in sessions.iter_mut().zip(folders) {
        if count[&s.file_name()] > 1 {
            s.session().extend(["@", folder]);
        }
        let session = s.session().clone();
        let mut number = 1;
        while !taken.insert(s.file_name()) || (number > 1 && count.contains_key(&s.file_name())) {
            number += 1;
            *s.session() = format!("{session}-{number}");
        }
    }
}

/// Name of a capture's folder.
pub(crate) fn folder(file: &Path) -> &str {
    file.parent()
        .and_then(Path::file_name)
        .and_then(|n| n.to_str())
        .unwrap_or("")
}

/// Name of a capture without its ending.
pub(crate) fn stem(file: &Path) -> String {
    file.file_stem()
        .and_then(|n| n.to_str())
        .unwrap_or("")
        .to_owned()
}
