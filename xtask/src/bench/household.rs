//! Makes the capture that the offline benchmark reads: a street of homes at one access link, from a seed.
//!
//! Data flow: `seed → sessions (name look-ups, web, QUIC, MQTT, video, cameras, ...) → packets by time → pcap`. A session is a
//! short script of packets with lengths, gaps and flags; sessions arrive at random times and overlap. The same seed and
//! number of packets give the same bytes. Times are in microseconds, lengths and checksums are right, TLS and HTTP openings,
//! DNS, mDNS, SSDP, DHCP, NTP and MQTT payloads follow their protocols, and the rest of the payload is noise.
//!
//! Nothing of it was recorded anywhere: all addresses are private or reserved for documentation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};

mod frame;
mod payload;
mod sessions;

use frame::Frame;
use sessions::{Kind, Session};

/// What the capture should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Frames.
    pub(crate) packets: u64,
    /// Seed of everything.
    pub(crate) seed: u64,
    /// Seconds that the frames should span, roughly.
    pub(crate) seconds: u64,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Summary {
    /// Frames.
    pub(crate) packets: u64,
    /// Bytes of frames.
    pub(crate) bytes: u64,
    /// Frames that carry no IP.
    pub(crate) not_ip: u64,
    /// IPv6 frames.
    pub(crate) ipv6: u64,
    /// Sessions that were begun.
    pub(crate) sessions: u64,
    /// Microseconds from the first to the last frame.
    pub(crate) span_us: u64,
}

/// Frames of a session on average, with its name look-ups; fixes how many sessions begin in a second.
const FRAMES_PER_SESSION: u64 = 26;
/// 2026-03-01 18:00:00 UTC.
const START_US: u64 = 1_772_388_000_000_000;

/// Writes the capture.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(settings: Settings, out: &mut impl Write) -> io::Result<Summary> {
    let mut header = Vec::with_capacity(24);
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    out.write_all(&header)?;
    let mut summary = Summary::default();
    let mut street = Street::new(settings);
    let mut frame = Frame::default();
    let mut last = START_US;
    while summary.packets < settings.packets {
        let at = street.next(&mut frame);
        let bytes = frame.bytes();
        let length = (bytes.len() as u32).to_le_bytes();
        let seconds = ((at / 1_000_000) as u32).to_le_bytes();
        let micros = ((at % 1_000_000) as u32).to_le_bytes();
        let record: Vec<u8> = [seconds, micros, length, length].concat();
        out.write_all(&record)?;
        out.write_all(bytes)?;
        summary.packets += 1;
        summary.bytes += bytes.len() as u64;
        summary.not_ip += u64::from(!frame.is_ip());
        summary.ipv6 += u64::from(frame.is_ipv6());
        last = at;
    }
    summary.sessions = street.begun;
    summary.span_us = last - START_US;
    out.flush()?;
    Ok(summary)
}

/// Sessions under way, by the time of their next packet.
struct Street {
    random: Random,
    homes: u64,
    gap_us: u64,
    next_session_at: u64,
    queue: BinaryHeap<Reverse<(u64, u32)>>,
    sessions: Vec<Session>,
    free: Vec<u32>,
    begun: u64,
}

impl Street {
    fn new(settings: Settings) -> Self {
        let sessions = (settings.packets / FRAMES_PER_SESSION).max(1);
        let mut street = Self {
            random: Random::new(settings.seed),
            // About 1 session in 5 s in each home.
            homes: (sessions * 5 / settings.seconds.max(1)).clamp(1, 200),
            gap_us: (settings.seconds * 1_000_000 / sessions).max(1),
            next_session_at: START_US,
            queue: BinaryHeap::new(),
            sessions: Vec::new(),
            free: Vec::new(),
            begun: 0,
        };
        // What is always on: a few long connections in each home.
        for home in 0..street.homes {
            for kind in [Kind::Mqtt, Kind::Mqtt, Kind::Push, Kind::Camera] {
                let at = START_US + street.random.below(30_000_000);
                street.begin(kind, home, at, settings.seconds * 1_000_000);
            }
        }
        street
    }

    /// Fills in the next frame and gives its time, microseconds since the Unix epoch.
    fn next(&mut self, frame: &mut Frame) -> u64 {
        loop {
            let due = self.queue.peek().map(|next| next.0.0);
            if due.is_none_or(|due| self.next_session_at <= due) {
                let at = self.next_session_at;
                let home = self.random.below(self.homes);
                let kind = Kind::draw(&mut self.random);
                self.begin(kind, home, at, 0);
                self.next_session_at += self.random.exponential(self.gap_us);
                continue;
            }
            let Some(Reverse((at, slot))) = self.queue.pop() else {
                continue;
            };
            let Some(session) = self.sessions.get_mut(slot as usize) else {
                continue;
            };
            session.fill(frame, &mut self.random);
            match session.next_gap() {
                Some(gap) => self.queue.push(Reverse((at + gap, slot))),
                None => self.free.push(slot),
            }
            return at;
        }
    }

    fn begin(&mut self, kind: Kind, home: u64, at: u64, lasting_us: u64) {
        self.begun += 1;
        for (delay, session) in Session::begin(kind, home, lasting_us, &mut self.random) {
            let slot = match self.free.pop() {
                Some(slot) => {
                    self.sessions[slot as usize] = session;
                    slot
                }
                None => {
                    self.sessions.push(session);
                    self.sessions.len() as u32 - 1
                }
            };
            self.queue.push(Reverse((at + delay, slot)));
        }
    }
}

/// A small generator (splitmix64, Steele et al. 2014): what it gives never changes with a library.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is above 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` to `high`, both possible.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Whether something happens that happens `percent` times of a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A waiting time, exponential around `mean`, at most twelve times of it.
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        // -ln(u) for u in (0, 1], from the bits before the first one and the fraction behind it: no floating point
        // function, so that every machine makes the same bytes.
        let bits = self.next() | 1;
        let zeros = u64::from(bits.leading_zeros());
        let fraction = (bits << zeros) >> 32 & 0x7fff_ffff;
        // ln 2 * (zeros + 1 - fraction / 2^31), in 1/65536; the curve between powers of two is taken as straight.
        let scaled = 45_426 * (zeros + 1) - ((45_426 * fraction) >> 31);
        ((u128::from(mean) * u128::from(scaled)) >> 16).min(u128::from(mean) * 12) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(packets: u64, seed: u64) -> (Vec<u8>, Summary) {
        let mut out = Vec::new();
        let settings = Settings {
            packets,
            seed,
            seconds: 120,
        };
        let summary = write(settings, &mut out).unwrap();
        (out, summary)
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        let (first, summary) = made(2_000, 1);
        assert_eq!(first, made(2_000, 1).0);
        assert_ne!(first, made(2_000, 2).0);
        assert_eq!(summary.packets, 2_000);
        assert!(summary.ipv6 > 200 && summary.not_ip > 0, "{summary:?}");
    }

    #[test]
    fn frames_are_in_order_and_their_lengths_and_checksums_are_right() {
        let (file, summary) = made(20_000, 3);
        let path =
            std::env::temp_dir().join(format!("chaff-household-{}.pcap", std::process::id()));
        std::fs::write(&path, file).unwrap();
        let capture = crate::pcap::Capture::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(capture.frames.len() as u64, summary.packets);
        assert!(capture.frames.is_sorted_by_key(|f| f.at));
        for frame in &capture.frames {
            assert_eq!(frame.bytes.len(), frame.wire_len as usize);
            assert!((42..=1514 + 4).contains(&frame.bytes.len()), "{frame:?}");
            frame::tests::assert_sound(&frame.bytes);
        }
    }

    #[test]
    fn waiting_times_have_the_mean_that_was_asked_for() {
        let mut random = Random::new(5);
        let sum: u64 = (0..100_000).map(|_| random.exponential(1_000)).sum();
        assert!((95_000_000..=110_000_000).contains(&sum), "{sum}");
    }
}
