//! What a host did lately: counts over a sliding window per source, per target and per pair of them. One flow of a scan
//! looks like any failed connection; a hundred of them in a minute do not.
//!
//! Memory is bounded: a fixed number of hosts and pairs, and distinct hosts and ports are counted in small bitmaps
//! (linear counting, Whang et al. 1990) that saturate at about 1,400.

use std::collections::HashMap;

use chaff_abi::Nanos;

/// Numbers that [`Around::vector`] gives.
pub const COLUMNS: usize = 9;

/// Their names.
pub const NAMES: [&str; COLUMNS] = [
    "source_flows",
    "source_targets",
    "source_ports",
    "source_fruitless",
    "source_dns_bytes",
    "source_bytes",
    "target_flows",
    "target_sources",
    "pair_flows",
];

/// Parts of a window; it moves on by one part at a time.
const PARTS: usize = 6;
const WORDS: usize = 4;

type Address = [u8; 16];

/// A flow that begins.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// Who opened it.
    pub source: Address,
    /// To whom.
    pub target: Address,
    /// The target's port, 0 without ports.
    pub port: u16,
}

/// What is added when a flow ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Who, to whom.
    pub of: Begin,
    /// Nothing came back, or only a refusal.
    pub fruitless: bool,
    /// Bytes that the source sent.
    pub bytes: u64,
}

/// Sums over the window.
#[derive(Debug)]
pub struct Around {
    part: u64,
    max_hosts: usize,
    sources: Bounded<Source>,
    targets: Bounded<Target>,
    pairs: Bounded<Ring<u32>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    flows: Ring<u32>,
    targets: Ring<Bitmap>,
    ports: Ring<Bitmap>,
    fruitless: Ring<u32>,
    dns_bytes: Ring<u64>,
    bytes: Ring<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Target {
    flows: Ring<u32>,
    sources: Ring<Bitmap>,
}

impl Around {
    /// Over windows of `window_s` seconds (at least 6 ns), for at most `max_hosts` hosts and eight times as many pairs;
    /// hosts beyond that are not followed until others fall silent.
    pub fn new(window_s: f64, max_hosts: usize) -> Self {
        Self {
            part: (Nanos::from_secs_f64(window_s).0 / PARTS as u64).max(1),
            max_hosts: max_hosts.max(1),
            sources: Bounded::default(),
            targets: Bounded::default(),
            pairs: Bounded::default(),
        }
    }

    /// Hosts not followed because there were too many.
    pub fn refused(&self) -> u64 {
        self.sources.refused + self.targets.refused + self.pairs.refused
    }

    /// Counts a flow that begins.
    pub fn begin(&mut self, at: Nanos, flow: &Begin) {
        let part = at.0 / self.part;
        let limit = self.max_hosts;
        if let Some(s) = self.sources.get(hash(&flow.source, 0), part, limit) {
            *s.flows.at(part) += 1;
            s.targets.at(part).set(hash(&flow.target, 1));
            s.ports.at(part).set(hash(&flow.port.to_be_bytes(), 2));
        }
        if let Some(t) = self.targets.get(hash(&flow.target, 0), part, limit) {
            *t.flows.at(part) += 1;
            t.sources.at(part).set(hash(&flow.source, 1));
        }
        if let Some(p) = self.pairs.get(pair(flow), part, limit.saturating_mul(8)) {
            *p.at(part) += 1;
        }
    }

    /// Counts a flow that ends.
    pub fn end(&mut self, at: Nanos, flow: &End) {
        let part = at.0 / self.part;
        let limit = self.max_hosts;
        if let Some(s) = self.sources.get(hash(&flow.of.source, 0), part, limit) {
            *s.fruitless.at(part) += u32::from(flow.fruitless);
            *s.bytes.at(part) += flow.bytes;
            if flow.of.port == 53 {
                *s.dns_bytes.at(part) += flow.bytes;
            }
        }
    }

    /// Over the window that ends at `at`: flows the source opened, hosts and ports it opened them to (estimates), how many
    /// of them were fruitless, bytes it sent to port 53 and in all (both of flows that ended); flows that anyone opened to
    /// the target, and hosts that did (an estimate); flows from the source to this port of the target. 0 for hosts that are
    /// not followed.
    pub fn vector(&self, at: Nanos, flow: &Begin) -> [f64; COLUMNS] {
        let part = at.0 / self.part;
        let mut out = [0.0; COLUMNS];
        if let Some(s) = self.sources.find(hash(&flow.source, 0)) {
            out[0] = s.flows.sum(part);
            out[1] = s.targets.distinct(part);
            out[2] = s.ports.distinct(part);
            out[3] = s.fruitless.sum(part);
            out[4] = s.dns_bytes.sum(part);
            out[5] = s.bytes.sum(part);
        }
        if let Some(t) = self.targets.find(hash(&flow.target, 0)) {
            out[6] = t.flows.sum(part);
            out[7] = t.sources.distinct(part);
        }
        if let Some(p) = self.pairs.find(pair(flow)) {
            out[8] = p.sum(part);
        }
        out
    }
}

fn pair(flow: &Begin) -> u64 {
    hash(&flow.source, 3) ^ hash(&flow.target, 4) ^ hash(&flow.port.to_be_bytes(), 5)
}

/// FNV-1a, then the finish of SplitMix64.
fn hash(bytes: &[u8], salt: u64) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325 ^ salt;
    for b in bytes {
        h = (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// At most so many entries; those that were not touched for a window make room.
#[derive(Debug, Default)]
struct Bounded<T> {
    entries: HashMap<u64, (u64, T)>,
    cleaned: u64,
    refused: u64,
}

impl<T: Default> Bounded<T> {
    fn get(&mut self, key: u64, part: u64, limit: usize) -> Option<&mut T> {
        if self.entries.len() >= limit && !self.entries.contains_key(&key) {
            if self.cleaned != part {
                self.cleaned = part;
                self.entries
                    .retain(|_, (touched, _)| *touched + PARTS as u64 > part);
            }
            if self.entries.len() >= limit {
                self.refused += 1;
                return None;
            }
        }
        let (touched, entry) = self.entries.entry(key).or_default();
        *touched = (*touched).max(part);
        Some(entry)
    }

    fn find(&self, key: u64) -> Option<&T> {
        self.entries.get(&key).map(|(_, entry)| entry)
    }
}

/// One value per part of the window, each with the part it is of.
#[derive(Clone, Copy, Debug, Default)]
struct Ring<T> {
    slots: [(u64, T); PARTS],
}

impl<T: Copy + Default> Ring<T> {
    fn at(&mut self, part: u64) -> &mut T {
        let slot = &mut self.slots[(part % PARTS as u64) as usize];
        if slot.0 != part {
            *slot = (part, T::default());
        }
        &mut slot.1
    }

    /// Parts of the window that ends with `now`.
    fn live(&self, now: u64) -> impl Iterator<Item = T> {
        self.slots
            .into_iter()
            .filter(move |(part, _)| *part <= now && *part + PARTS as u64 > now)
            .map(|(_, value)| value)
    }
}

impl Ring<u32> {
    fn sum(&self, now: u64) -> f64 {
        self.live(now).map(f64::from).fold(0.0, |a, b| a + b)
    }
}

impl Ring<u64> {
    fn sum(&self, now: u64) -> f64 {
        self.live(now).fold(0.0, |a, b| a + b as f64)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Bitmap([u64; WORDS]);

impl Bitmap {
    fn set(&mut self, hash: u64) {
        let bit = hash % (WORDS as u64 * 64);
        self.0[(bit / 64) as usize] |= 1 << (bit % 64);
    }
}

impl Ring<Bitmap> {
    fn distinct(&self, now: u64) -> f64 {
        let mut all = [0u64; WORDS];
        for bitmap in self.live(now) {
            all.iter_mut().zip(bitmap.0).for_each(|(a, b)| *a |= b);
        }
        let bits = (WORDS * 64) as f64;
        let zeros: u32 = all.iter().map(|w| w.count_zeros()).sum();
        // A full bitmap stands for one more than one empty bit does.
        bits * (bits / f64::from(zeros).max(0.5)).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(target: u8, port: u16) -> Begin {
        Begin {
            source: [1; 16],
            target: [target; 16],
            port,
        }
    }

    #[test]
    fn a_scan_shows_and_passes() {
        let mut around = Around::new(60.0, 100);
        for i in 0..50u8 {
            around.begin(Nanos::from_secs(600 + u64::from(i) / 2), &flow(i, 23));
        }
        let now = around.vector(Nanos::from_secs(630), &flow(3, 23));
        assert_eq!((now[0], now[6], now[8]), (50.0, 1.0, 1.0));
        assert!((now[1] - 50.0).abs() < 6.0, "{}", now[1]);
        assert!((now[2] - 1.0).abs() < 0.1, "{}", now[2]);
        let later = around.vector(Nanos::from_secs(700), &flow(3, 23));
        assert_eq!(later, [0.0; COLUMNS]);
    }

    #[test]
    fn fruitless_flows_and_bytes_are_of_the_source() {
        let mut around = Around::new(60.0, 100);
        let at = Nanos::from_secs(60);
        for fruitless in [true, false] {
            around.end(
                at,
                &End {
                    of: flow(1, 53),
                    fruitless,
                    bytes: 500,
                },
            );
        }
        let now = around.vector(at, &flow(9, 80));
        assert_eq!((now[3], now[4], now[5]), (1.0, 1000.0, 1000.0));
    }

    #[test]
    fn hosts_are_bounded_and_silent_ones_make_room() {
        let mut around = Around::new(60.0, 4);
        for i in 0..100u8 {
            let mut f = flow(1, 1);
            f.source = [i; 16];
            around.begin(Nanos::from_secs(1), &f);
        }
        assert!(around.sources.entries.len() == 4 && around.refused() > 0);
        let mut f = flow(1, 1);
        f.source = [200; 16];
        around.begin(Nanos::from_secs(1000), &f);
        assert_eq!(around.vector(Nanos::from_secs(1000), &f)[0], 1.0);
    }
}
