//! What a device does in a window of time, as numbers.

use chaff_novelty::tails::{Prior, Settings, Tails};

/// Numbers of a window.
pub(super) const COLUMNS: usize = 10;

pub(super) const SENT: usize = 0;
pub(super) const RECEIVED: usize = 1;
pub(super) const SENT_PACKETS: usize = 2;
pub(super) const RECEIVED_PACKETS: usize = 3;
pub(super) const FLOWS: usize = 4;
pub(super) const ADDRESSES: usize = 5;
pub(super) const PORTS: usize = 6;
pub(super) const FRUITLESS: usize = 7;
pub(super) const NEW_PEERS: usize = 8;
pub(super) const NAMES: usize = 9;

/// Their names in evidence.
pub(super) const FEATURES: [&str; COLUMNS] = [
    "sent_bytes",
    "received_bytes",
    "sent_packets",
    "received_packets",
    "connections_opened",
    "addresses_tried",
    "ports_tried",
    "connections_without_answer",
    "new_peers",
    "bytes_to_name_servers",
];

/// Columns of one kind of alert, the one that is named first in doubt.
pub(super) const GROUPS: [&[usize]; 4] = [
    &[ADDRESSES, PORTS, FRUITLESS, FLOWS, NEW_PEERS],
    &[SENT, SENT_PACKETS],
    &[RECEIVED, RECEIVED_PACKETS],
    &[NAMES],
];

const fn prior(scale: f64, shape: f64) -> Prior {
    Prior { scale, shape }
}

/// What home devices in general do in windows of 10 s: Lomax tails set by hand, tried on captures of 28 devices.
const SHORT: [Prior; COLUMNS] = [
    prior(3_000.0, 1.5),
    prior(3_000.0, 1.1),
    prior(20.0, 1.6),
    prior(20.0, 1.3),
    prior(3.0, 3.0),
    prior(2.0, 4.0),
    prior(2.0, 4.0),
    prior(2.0, 3.5),
    prior(2.0, 3.8),
    prior(150.0, 2.0),
];

/// The same for windows 30 times as long.
const LONG: [Prior; COLUMNS] = [
    prior(30_000.0, 1.5),
    prior(30_000.0, 1.1),
    prior(200.0, 1.6),
    prior(200.0, 1.3),
    prior(20.0, 3.0),
    prior(6.0, 4.0),
    prior(6.0, 4.0),
    prior(10.0, 3.5),
    prior(6.0, 3.6),
    prior(1_500.0, 2.0),
];

/// Distinct things, counted in a bitmap (linear counting, Whang et al. 1990); saturates at about 7,800.
#[derive(Clone, Debug)]
struct Distinct([u64; 16]);

impl Distinct {
    fn add(&mut self, hash: u64) {
        let bit = hash % 1024;
        self.0[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    fn count(&self) -> f64 {
        let zeros: u32 = self.0.iter().map(|w| w.count_zeros()).sum();
        1024.0 * (1024.0 / f64::from(zeros).max(0.5)).ln()
    }
}

/// FNV-1a, then the finish of SplitMix64.
fn hash(bytes: &[u8]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for b in bytes {
        h = (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// Windows of one length and what is usual in them.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// Length, ns.
    pub(super) length: u64,
    /// Number of the running window since time 0.
    pub(super) index: u64,
    sums: [f64; COLUMNS],
    addresses: Distinct,
    ports: Distinct,
    /// New peers that were not learnt.
    pub(super) unlearnt: u64,
    /// Columns that were reported or would have been.
    pub(super) novel: bool,
    /// Something in it was reported, in this window or one of the other length.
    pub(super) told: bool,
    /// The most there was in such windows.
    peaks: [f64; COLUMNS],
    pub(super) tails: Tails,
}

impl Scale {
    pub(super) fn new(length: u64, long: bool) -> Self {
        let settings = Settings {
            // Three hours and three days.
            strength: if long { 36.0 } else { 1_080.0 },
            half_life: if long { 864.0 } else { 25_920.0 },
        };
        Self {
            length: length.max(1),
            index: 0,
            sums: [0.0; COLUMNS],
            addresses: Distinct([0; 16]),
            ports: Distinct([0; 16]),
            unlearnt: 0,
            novel: false,
            told: false,
            peaks: [0.0; COLUMNS],
            tails: Tails::new(settings, if long { &LONG } else { &SHORT }),
        }
    }

    pub(super) fn add(&mut self, column: usize, value: f64) {
        self.sums[column] += value;
    }

    pub(super) fn open(&mut self, address: &[u8; 16], port: u16) {
        self.sums[FLOWS] += 1.0;
        self.addresses.add(hash(address));
        self.ports.add(hash(&port.to_be_bytes()));
    }

    /// The running window so far.
    pub(super) fn row(&self) -> [f64; COLUMNS] {
        let mut row = self.sums;
        row[ADDRESSES] = self.addresses.count().round();
        row[PORTS] = self.ports.count().round();
        row
    }

    /// Ends the running window, learns from it with the weight `times`, and from empty windows up to the one with `index`.
    pub(super) fn close(&mut self, index: u64, times: f64) {
        self.note_peaks();
        self.tails.learn(&self.row(), times);
        let empty = index.saturating_sub(self.index).saturating_sub(1);
        if empty > 0 {
            self.tails.learn(&[0.0; COLUMNS], empty as f64);
        }
        self.begin(index);
    }

    fn note_peaks(&mut self) {
        if self.told {
            let row = self.row();
            self.peaks
                .iter_mut()
                .zip(row)
                .for_each(|(p, v)| *p = p.max(v));
        }
    }

    /// Makes a value usual, and all that the windows reached of which something was reported since the last time; and twice as
    /// much.
    pub(super) fn accept(&mut self, column: usize, value: f64) {
        self.note_peaks();
        let most = std::mem::take(&mut self.peaks[column]).max(value);
        self.tails.accept(column, most * 2.0);
    }

    /// Begins a window without learning from the one before.
    pub(super) fn begin(&mut self, index: u64) {
        self.index = index;
        self.sums = [0.0; COLUMNS];
        self.addresses = Distinct([0; 16]);
        self.ports = Distinct([0; 16]);
        self.unlearnt = 0;
        self.novel = false;
        self.told = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_different() {
        let mut s = Scale::new(1, false);
        for i in 0..200u8 {
            s.open(&[i; 16], 23);
            s.open(&[i; 16], 2323);
        }
        let row = s.row();
        assert_eq!(row[FLOWS], 400.0);
        assert!((190.0..210.0).contains(&row[ADDRESSES]), "{row:?}");
        assert_eq!(row[PORTS], 2.0);
        s.close(5, 1.0);
        assert_eq!(s.row(), [0.0; COLUMNS]);
        assert!((s.tails.weight(0) - 5.0).abs() < 0.01);
    }
}
