//! Did everything that was sent come out at the other side, once, unchanged?
//!
//! Frames are told apart by SHA-256, so equal frames of a capture stand for each other: the first to arrive counts
//! as the first sent. Frames shorter than [`MIN_FRAME`] are compared as if padded with zeros, because cards pad them.
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use chaff_abi::{Mac, Nanos};
use chaff_sys::clock::monotonic;
use hdrhistogram::Histogram;
use sha2::{Digest, Sha256};

use crate::ReplayError;
use crate::devices::{address, mac};
use crate::headers;
use crate::plan::{Lane, MIN_FRAME};
use crate::send::{Progress, histogram};
use crate::sys::{self, Received, RecvBatch};

/// Lost packets that are named in the report.
const EXAMPLES: usize = 16;
/// How often a waiting receiver looks at the stop flag, ms.
const POLL_MS: i32 = 20;

/// A host whose frames are not looked at: the cover channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// By MAC address.
    Mac(Mac),
    /// By IP address.
    Ip(IpAddr),
    /// By IP address and UDP or TCP port.
    Port(SocketAddr),
}

impl FromStr for Host {
    type Err = ReplayError;
    fn from_str(s: &str) -> Result<Self, ReplayError> {
        if let Ok(mac) = s.parse() {
            Ok(Self::Mac(mac))
        } else if let Ok(ip) = s.parse() {
            Ok(Self::Ip(ip))
        } else if let Ok(at) = s.parse() {
            Ok(Self::Port(at))
        } else {
            Err(ReplayError::Option {
                option: "--ignore-host",
                value: s.to_owned(),
                what: "expected MAC, IP, IP:PORT or [IP]:PORT",
            })
        }
    }
}

impl Host {
    /// Whether a frame comes from or goes to this host.
    pub fn matches(&self, frame: &[u8]) -> bool {
        if let Self::Mac(m) = self {
            return [0, 6].iter().any(|&at| mac(frame, at) == Some(*m));
        }
        let Some(ip) = headers::layers(frame).and_then(|l| l.ip) else {
            return false;
        };
        let port = |at: usize| {
            let at = ip.transport? + at;
            let b = frame.get(at..at + 2)?;
            matches!(ip.protocol, 6 | 17).then(|| u16::from_be_bytes([b[0], b[1]]))
        };
        [(ip.source, 0), (ip.destination, 2)]
            .into_iter()
            .any(|(at, port_at)| {
                let found = address(frame, &ip, at);
                match self {
                    Self::Mac(_) => false,
                    Self::Ip(a) => *a == found,
                    Self::Port(a) => a.ip() == found && port(port_at) == Some(a.port()),
                }
            })
    }
}

/// Sum of SHA-256 digests modulo 2²⁵⁶: equal for equal multisets of frames, whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MultisetHash([u64; 4]);

impl MultisetHash {
    fn add(&mut self, digest: &[u8; 32], times: u64) {
        let mut carry = 0u128;
        for (word, bytes) in self.0.iter_mut().zip(digest.chunks_exact(8)) {
            let mut b = [0; 8];
            b.copy_from_slice(bytes);
            let sum =
                u128::from(u64::from_le_bytes(b)) * u128::from(times) + u128::from(*word) + carry;
            *word = sum as u64;
            carry = sum >> 64;
        }
    }
}

impl std::fmt::Display for MultisetHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .try_for_each(|b| write!(f, "{b:02x}"))
    }
}

fn digest(frame: &[u8], padded: bool) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(frame);
    if padded && frame.len() < MIN_FRAME {
        hash.update(&[0; MIN_FRAME][frame.len()..]);
    }
    hash.finalize().into()
}

/// Counts what arrives against what was sent.
pub struct Matcher {
    by_hash: HashMap<[u8; 32], u32>,
    kinds: Vec<Kind>,
    /// Slot indexes of all kinds, one range per kind.
    slots: Vec<u32>,
    /// Kind of each slot.
    kind_of: Vec<u32>,
    /// Source and destination MAC pairs that are sent: unknown frames of these are altered, not foreign.
    pairs: HashSet<[u8; 12]>,
    frames: bool,
    latest: Option<u64>,
    ignore: Vec<Host>,
    found: Found,
}

/// One distinct frame.
#[derive(Clone, Copy, Default)]
struct Kind {
    first: u32,
    count: u32,
    matched: u64,
}

/// The counts.
#[derive(Clone, Debug)]
pub struct Found {
    /// Everything received but the ignored.
    pub received: u64,
    /// Arrived as sent.
    pub matched: u64,
    /// Bytes of those.
    pub matched_bytes: u64,
    /// Arrived once too often.
    pub duplicated: u64,
    /// Unknown, between two hosts that the replay speaks for: most likely changed on the way.
    pub altered: u64,
    /// Unknown, from elsewhere.
    pub foreign: u64,
    /// From or to an ignored host.
    pub ignored: u64,
    /// Arrived after a frame that was sent later.
    pub out_of_order: u64,
    /// Lost by the receiving socket, so neither matched nor lost on the way.
    pub receiver_dropped: u64,
    /// Multiset hash of everything counted in `received`.
    pub hash: MultisetHash,
    /// ns from the sending call to the kernel's receive time.
    pub latency: Histogram<u64>,
}

/// What came of one direction.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Packets sent.
    pub sent: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// Multiset hash of what was sent.
    pub sent_hash: MultisetHash,
    /// The first lost packets: file index and number in the file.
    pub examples: Vec<(u32, u32)>,
    /// The counts.
    pub found: Found,
}

impl Verdict {
    /// Whether everything arrived once, unchanged, and nothing else did.
    pub fn is_clean(&self) -> bool {
        let f = &self.found;
        self.lost + f.duplicated + f.altered + f.foreign + f.receiver_dropped == 0
    }
}

impl Matcher {
    /// Prepares for what a lane sends. `frames` is false when its slots are datagram payloads.
    pub fn new(lane: &Lane, frames: bool, ignore: Vec<Host>) -> Self {
        let mut by_hash = HashMap::with_capacity(lane.slots.len());
        let mut kinds: Vec<Kind> = Vec::new();
        let mut pairs = HashSet::new();
        let kind_of: Vec<u32> = lane
            .slots
            .iter()
            .map(|s| {
                let frame = lane.frame(s);
                if frames && let Some(pair) = frame.first_chunk::<12>() {
                    pairs.insert(*pair);
                }
                let kind = *by_hash.entry(digest(frame, frames)).or_insert_with(|| {
                    kinds.push(Kind::default());
                    kinds.len() as u32 - 1
                });
                kinds[kind as usize].count += 1;
                kind
            })
            .collect();
        let mut first = 0;
        for k in &mut kinds {
            k.first = first;
            first += k.count;
        }
        let mut fill: Vec<u32> = kinds.iter().map(|k| k.first).collect();
        let mut slots = vec![0; lane.slots.len()];
        for (slot, &kind) in kind_of.iter().enumerate() {
            let at = &mut fill[kind as usize];
            slots[*at as usize] = slot as u32;
            *at += 1;
        }
        Self {
            by_hash,
            kinds,
            slots,
            kind_of,
            pairs,
            frames,
            latest: None,
            ignore,
            found: Found {
                received: 0,
                matched: 0,
                matched_bytes: 0,
                duplicated: 0,
                altered: 0,
                foreign: 0,
                ignored: 0,
                out_of_order: 0,
                receiver_dropped: 0,
                hash: MultisetHash::default(),
                latency: histogram(),
            },
        }
    }

    /// Takes one received frame.
    pub fn take(&mut self, received: &Received<'_>, progress: &Progress) {
        let bytes = received.bytes;
        if self.ignore.iter().any(|h| h.matches(bytes)) {
            self.found.ignored += 1;
            return;
        }
        let hash = digest(bytes, self.frames);
        let found = &mut self.found;
        found.received += 1;
        found.hash.add(&hash, 1);
        let Some(&kind) = self.by_hash.get(&hash) else {
            if bytes.first_chunk().is_some_and(|p| self.pairs.contains(p)) {
                found.altered += 1;
            } else {
                found.foreign += 1;
            }
            return;
        };
        let kind = &mut self.kinds[kind as usize];
        let count = u64::from(kind.count);
        let slot = self.slots[(u64::from(kind.first) + kind.matched % count) as usize];
        let number = kind.matched / count * self.slots.len() as u64 + u64::from(slot);
        if number >= progress.announced.load(Ordering::Acquire) {
            found.duplicated += 1;
            return;
        }
        kind.matched += 1;
        found.matched += 1;
        found.matched_bytes += bytes.len() as u64;
        if self.latest.is_some_and(|latest| number < latest) {
            found.out_of_order += 1;
        } else {
            self.latest = Some(number);
        }
        let sent_at = progress
            .sent_at
            .get(slot as usize)
            .map_or(0, |t| t.load(Ordering::Acquire));
        // A slot that was sent again meanwhile has a later time; then the latency is unknown.
        if sent_at > 0 && received.at.0 >= sent_at {
            found.latency.saturating_record(received.at.0 - sent_at);
        }
    }

    /// Whether `sent` packets have all arrived.
    pub fn is_complete(&self, sent: u64) -> bool {
        self.found.matched >= sent
    }

    /// The account after `sent` packets.
    pub fn finish(self, lane: &Lane, sent: u64) -> Verdict {
        let n = self.slots.len().max(1) as u64;
        let (loops, rest) = (sent / n, (sent % n) as usize);
        let mut expected = vec![0u64; self.kinds.len()];
        for (slot, &kind) in self.kind_of.iter().enumerate() {
            expected[kind as usize] += loops + u64::from(slot < rest);
        }
        let mut sent_hash = MultisetHash::default();
        for (hash, &kind) in &self.by_hash {
            sent_hash.add(hash, expected[kind as usize]);
        }
        let mut missing: Vec<u64> = expected
            .iter()
            .zip(&self.kinds)
            .map(|(e, k)| e.saturating_sub(k.matched))
            .collect();
        let lost = missing.iter().sum();
        let mut examples = Vec::new();
        for (slot, &kind) in self.kind_of.iter().enumerate() {
            let missing = &mut missing[kind as usize];
            if *missing > 0 && examples.len() < EXAMPLES {
                *missing -= 1;
                let s = &lane.slots[slot];
                examples.push((s.file, s.number));
            }
        }
        Verdict {
            sent,
            lost,
            sent_hash,
            examples,
            found: self.found,
        }
    }
}

/// When a receiver may end.
#[derive(Debug, Default)]
pub struct Ending {
    /// Set when no more will be sent.
    pub sent_all: AtomicBool,
}

/// Receives from a socket until everything sent has arrived, or for `grace` after the end of sending. When all have
/// arrived it stays a moment longer for duplicates.
pub fn receive(
    fd: &OwnedFd,
    matcher: &mut Matcher,
    progress: &Progress,
    ending: &Ending,
    grace: Nanos,
) {
    let mut batch = RecvBatch::default();
    let mut deadline: Option<Nanos> = None;
    loop {
        if sys::wait(fd.as_fd(), false, POLL_MS) {
            // Errors here are refused datagrams of a connected UDP socket, or an interface that went down; what is
            // missing then shows as lost.
            let _ = batch.receive(fd.as_fd(), |r| matcher.take(&r, progress));
        }
        if ending.sent_all.load(Ordering::Acquire) {
            let now = monotonic();
            let end = *deadline.get_or_insert(now + grace);
            let settled = now + grace >= end + Nanos::from_millis(100);
            let complete = matcher.is_complete(progress.sent.load(Ordering::Acquire));
            if now >= end || (complete && settled) {
                break;
            }
        }
        matcher.found.receiver_dropped += sys::dropped(fd.as_fd());
    }
    matcher.found.receiver_dropped += sys::dropped(fd.as_fd());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Slot;

    fn lane(frames: &[&[u8]]) -> Lane {
        let mut lane = Lane::default();
        for (i, f) in frames.iter().enumerate() {
            lane.slots.push(Slot {
                due: Nanos::ZERO,
                offset: lane.bytes.len(),
                len: f.len() as u32,
                order: i as u32,
                file: 0,
                number: i as u32 + 1,
            });
            lane.bytes.extend_from_slice(f);
        }
        lane
    }

    fn frame(pair: u8, body: u8) -> Vec<u8> {
        let mut f = vec![pair; 12];
        f.extend([body; 60]);
        f
    }

    fn run(sent: &[Vec<u8>], loops: u64, arrived: &[Vec<u8>]) -> Verdict {
        let sent: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
        let lane = lane(&sent);
        let mut m = Matcher::new(&lane, true, vec![Host::Mac(Mac([9; 6]))]);
        let progress = Progress::default();
        let total = loops * sent.len() as u64;
        progress.announced.store(total, Ordering::Relaxed);
        for bytes in arrived {
            m.take(
                &Received {
                    bytes,
                    at: Nanos(1),
                },
                &progress,
            );
        }
        m.finish(&lane, total)
    }

    #[test]
    fn everything_once_is_clean_and_hashes_agree() {
        let all = [frame(1, 1), frame(1, 2), frame(1, 1)];
        let v = run(&all, 2, &[all.clone(), all.clone()].concat());
        assert!(v.is_clean() && v.found.out_of_order == 0);
        assert_eq!(v.sent_hash, v.found.hash);
        assert_eq!(v.found.matched, 6);
    }

    #[test]
    fn order_does_not_change_the_hash_but_is_counted() {
        let all = [frame(1, 1), frame(1, 2), frame(1, 3)];
        let v = run(&all, 1, &[all[2].clone(), all[0].clone(), all[1].clone()]);
        assert!(v.is_clean());
        assert_eq!(v.found.out_of_order, 2);
        assert_eq!(v.sent_hash, v.found.hash);
    }

    #[test]
    fn names_what_was_lost() {
        let all = [frame(1, 1), frame(1, 2), frame(1, 3)];
        let v = run(&all, 1, &[all[0].clone(), all[2].clone()]);
        assert_eq!((v.lost, v.examples.as_slice()), (1, &[(0, 2)][..]));
        assert_ne!(v.sent_hash, v.found.hash);
    }

    #[test]
    fn tells_altered_duplicated_foreign_and_ignored_apart() {
        let all = [frame(1, 1), frame(1, 2)];
        let v = run(
            &all,
            1,
            &[
                all[0].clone(),
                all[0].clone(),
                frame(1, 7),
                frame(5, 1),
                frame(9, 1),
            ],
        );
        let f = &v.found;
        assert_eq!(
            (v.lost, f.duplicated, f.altered, f.foreign, f.ignored),
            (1, 1, 1, 1, 1)
        );
        assert!(!v.is_clean());
    }

    #[test]
    fn short_frames_match_their_padded_form() {
        let short = vec![1u8; 42];
        let mut padded = short.clone();
        padded.resize(MIN_FRAME, 0);
        assert!(run(&[short], 1, &[padded]).is_clean());
    }

    #[test]
    fn multiset_hash_carries_and_multiplies() {
        let d = [0xff; 32];
        let (mut a, mut b) = (MultisetHash::default(), MultisetHash::default());
        a.add(&d, 3);
        (0..3).for_each(|_| b.add(&d, 1));
        assert_eq!(a, b);
    }

    #[test]
    fn ignores_hosts_by_address_and_port() {
        let mut f = Vec::new();
        etherparse::PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
            .udp(7, 4460)
            .write(&mut f, b"x")
            .unwrap();
        let matches = |s: &str| s.parse::<Host>().unwrap().matches(&f);
        assert!(matches("10.0.0.2") && matches("10.0.0.2:4460") && matches("10.0.0.1:7"));
        assert!(!matches("10.0.0.1:4460") && !matches("10.0.0.3") && matches("01:01:01:01:01:01"));
        assert!("10.0.0".parse::<Host>().is_err());
    }
}
