//! Defences on traces: what an observer sees when a session is covered, packet by packet, in virtual time.

use anyhow::{Result, bail};
use chaff_abi::{Dir, Nanos};
use chaff_cover::{
    BINS, Demand, Envelope, EnvelopeConfig, HEADERS_V4, OnnxGenerator, ReleaseClock, Waiting,
    by_name,
};
use chaff_trace::{Segment, Whole, resegment};
use rand::RngCore;
use rand_chacha::ChaCha20Rng;

use crate::cover::stream;
use crate::machines;
use crate::slots::{Rows, Scaled, slots};
use crate::traces::{Seen, Trace};

/// Most packets that wait for a release clock.
const QUEUE: usize = 1 << 20;

/// Settings of the always-on envelope with size classes and a release clock.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvelopeOptions {
    /// The random process.
    pub config: EnvelopeConfig,
    /// Sizes on the wire, smallest first; real packets are padded to the next one, larger ones stay as they are.
    pub sizes: [u32; BINS],
    /// Length of a tick of the release clock; zero for none.
    pub tick: Nanos,
    /// Distance of departures inside a tick.
    pub spacing: Nanos,
    /// Every session's rates, clump lengths and mixes are those of one of this many homes, which the attacker knows as well because
    /// he trains on all of them; the dummies are drawn anew. 0: nobody knows them, each session has its own.
    pub known_homes: u32,
}

impl Default for EnvelopeOptions {
    fn default() -> Self {
        Self {
            config: EnvelopeConfig::default(),
            sizes: [128, 576, 1420],
            tick: Nanos::from_millis(4),
            spacing: Nanos::from_micros(50),
            known_homes: 0,
        }
    }
}

/// A way to change what an observer sees.
pub enum Defence {
    /// Nothing.
    None,
    /// One of the built-in generators of slots (constant, random, random+), always on, dummies placed at random instants.
    Slots {
        /// Its name.
        name: String,
        /// Multiple of the packets it asks for.
        scale: f64,
    },
    /// iPET as published: a generator's rows, on a grid of 100 ms, while the device is active.
    Ipet {
        /// Demands of many windows one after the other, for each label; the entry with an empty label is for all others.
        vectors: std::collections::BTreeMap<String, Vec<Demand>>,
    },
    /// The same vectors with the known faults mended: always on, every row used once, random instants, whole sizes.
    IpetMended {
        /// As for [`Defence::Ipet`].
        vectors: std::collections::BTreeMap<String, Vec<Demand>>,
        /// Multiple of the packets they ask for.
        scale: f64,
    },
    /// Model files by label, run as the gateway runs them; the entry with an empty label is for all others.
    Models(std::collections::BTreeMap<String, Vec<u8>>),
    /// Always-on random cover, size classes, a release clock.
    Envelope(Box<EnvelopeOptions>),
    /// Maybenot machines at both ends.
    Machines(Box<machines::Options>),
}

impl Defence {
    /// The name in reports.
    pub fn name(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Slots { name, .. } => name,
            Self::Ipet { .. } => "ipet",
            Self::IpetMended { .. } => "ipet-mended",
            Self::Models(_) => "model",
            Self::Envelope(_) => "envelope",
            Self::Machines(_) => "maybenot",
        }
    }

    /// The session as an observer sees it, in order of time. Randomness depends on seed, copy, device and session only; copy 0
    /// is what happens, others are what an attacker makes for himself, who knows what [`EnvelopeOptions::known_homes`] says.
    ///
    /// Cover lasts until the last real packet of the session (iPET: 5 s longer; a model with a mask: as long as that
    /// says), so that what the attacker gains from a session's length is the same for all defences.
    ///
    /// # Errors
    /// For settings out of range, and a label without vectors.
    pub fn apply(&self, trace: &Trace, seed: u64, copy: u32) -> Result<Trace> {
        match trace.packets.last() {
            Some(last) => self.apply_until(trace, last.at, seed, copy),
            None => Ok(trace.clone()),
        }
    }

    /// As [`Defence::apply`], with cover until `end` whether there is real traffic or not, as a gateway's.
    ///
    /// # Errors
    /// As [`Defence::apply`].
    pub fn apply_until(&self, trace: &Trace, end: Nanos, seed: u64, copy: u32) -> Result<Trace> {
        let session = format!("{} {} {}", trace.label, trace.device, trace.session);
        let purpose = match copy {
            0 => format!("defend {session}"),
            copy => format!("defend copy {copy} {session}"),
        };
        let mut rng = stream(seed, &purpose);
        let packets = match self {
            Self::None => trace.packets.clone(),
            Self::Slots { name, scale } => {
                let Some(generator) = by_name(name, Nanos::from_millis(100)) else {
                    bail!("no cover named {name:?}");
                };
                slots(trace, end, Scaled::of(generator, *scale), &mut rng)?
            }
            Self::Ipet { vectors } => {
                ipet(&trace.packets, of_label(vectors, &trace.label)?, &mut rng)
            }
            Self::IpetMended { vectors, scale } => {
                let rows = Rows::of(of_label(vectors, &trace.label)?);
                slots(trace, end, Scaled::of(Box::new(rows), *scale), &mut rng)?
            }
            Self::Models(files) => {
                let bytes = of_label(files, &trace.label)?;
                slots(trace, end, Box::new(OnnxGenerator::load(bytes)?), &mut rng)?
            }
            Self::Envelope(options) => {
                let home = (options.known_homes > 0)
                    .then(|| crate::network::below(&mut rng, options.known_homes as usize))
                    .map(|home| stream(seed, &format!("known home {home}")));
                envelope(&trace.packets, end, options, home, &mut rng)?
            }
            Self::Machines(options) => machines::apply(&trace.packets, end, options, &mut rng)?,
        };
        Ok(Trace {
            packets,
            ..trace.clone()
        })
    }
}

/// What there is for a label, or for all others.
fn of_label<'a, T>(
    all: &'a std::collections::BTreeMap<String, Vec<T>>,
    label: &str,
) -> Result<&'a [T]> {
    match all.get(label).or_else(|| all.get("")) {
        Some(own) if !own.is_empty() => Ok(own),
        _ => bail!("no generator for {label:?}"),
    }
}

/// A dummy datagram's size on the wire.
pub(crate) fn dummy(at: Nanos, dir: Dir, payload: u32) -> Seen {
    Seen {
        at,
        dir,
        size: payload + u32::from(HEADERS_V4),
        payload,
        udp: true,
        dummy: true,
    }
}

pub(crate) fn merge(real: &[Seen], cover: Vec<Seen>) -> Vec<Seen> {
    let mut all = real.to_vec();
    all.extend(cover);
    all.sort_by_key(|p| p.at);
    all
}

/// The mixer of iPET, packet by packet: the trace is cut where a gap exceeds 5 s; each part gets incoming ticks at
/// `start + k 0.1 s` and outgoing ticks 50 ms later, until 5 s after its last packet. Every tick uses up the next row,
/// though it takes one direction's columns only; no packets count as one; all dummies of a tick leave at once.
fn ipet(real: &[Seen], rows: &[Demand], rng: &mut dyn RngCore) -> Vec<Seen> {
    const TAIL: Nanos = Nanos::from_secs(5);
    const TICK: Nanos = Nanos::from_millis(100);
    let mut cover = Vec::new();
    let mut row = crate::network::below(rng, rows.len());
    let mut from = 0;
    while from < real.len() {
        let gap = |i: usize| real[i + 1].at.since(real[i].at) > TAIL;
        let to = (from..real.len() - 1)
            .find(|&i| gap(i))
            .unwrap_or(real.len() - 1);
        let (start, end) = (real[from].at, real[to].at + TAIL);
        let mut at = start;
        while at <= end {
            for (dir, offset) in [(Dir::In, 0), (Dir::Out, 50)] {
                let want = rows[row % rows.len()];
                row += 1;
                let count = want.packets[dir.index()].max(1);
                let each = want.bytes[dir.index()] / count;
                let at = at + Nanos::from_millis(offset);
                cover.extend((0..count).map(|_| dummy(at, dir, each)));
            }
            at += TICK;
        }
        from = to + 1;
    }
    merge(real, cover)
}

/// The packets as senders in a tunnel of this MTU send them.
pub(crate) fn fitting(real: &[Seen], mtu: u32) -> Vec<Seen> {
    let headers = |p: &Seen| match p.payload {
        // A file that tells no payloads, or a bare acknowledgement.
        0 => p.size.min(40),
        payload => p.size - payload.min(p.size),
    };
    let whole = real.iter().map(|p| Whole {
        at: p.at,
        key: (p.dir, p.udp),
        headers: headers(p),
        payload: p.size - headers(p),
    });
    let seen = |s: Segment| {
        let p = real[s.of];
        Seen {
            at: s.at,
            size: headers(&p) + s.payload,
            payload: if p.payload == 0 { 0 } else { s.payload },
            ..p
        }
    };
    resegment(whole, mtu).into_iter().map(seen).collect()
}

fn envelope(
    real: &[Seen],
    end: Nanos,
    options: &EnvelopeOptions,
    home: Option<ChaCha20Rng>,
    rng: &mut dyn RngCore,
) -> Result<Vec<Seen>> {
    let mut seed = || {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        seed
    };
    let mut source = match home {
        None => Envelope::new(options.config.clone(), seed(), Nanos::ZERO)?,
        Some(mut home) => {
            let mut parameters = [0; 32];
            home.fill_bytes(&mut parameters);
            Envelope::with_parameters(options.config.clone(), seed(), parameters, Nanos::ZERO)?
        }
    };
    let mut due = Vec::new();
    for p in fitting(real, options.sizes[BINS - 1]) {
        let size = options.sizes.iter().copied().find(|s| *s >= p.size);
        due.push(Seen {
            size: size.unwrap_or(p.size),
            ..p
        });
    }
    loop {
        let d = source.next_dummy();
        if d.at > end {
            break;
        }
        let size = options.sizes[usize::from(d.bin)];
        due.push(Seen {
            size,
            ..dummy(d.at, d.dir, 0)
        });
    }
    due.sort_by_key(|p| p.at);
    if options.tick == Nanos::ZERO {
        return Ok(due);
    }
    let mut clocks = Dir::BOTH
        .map(|_| ReleaseClock::new(options.tick, options.spacing, QUEUE, seed(), Nanos::ZERO));
    let mut out = Vec::with_capacity(due.len());
    let mut drain = |clock: &mut ReleaseClock<Seen, Seen>, now: Nanos| {
        while let Some((at, what)) = clock.poll(now) {
            let (Waiting::Real(p) | Waiting::Cover(p)) = what;
            out.push(Seen { at, ..p });
        }
    };
    for p in due {
        let clock = &mut clocks[p.dir.index()];
        drain(clock, p.at);
        if p.dummy {
            clock.push_cover(p.at, p);
        } else if clock.push_real(p.at, p).is_err() {
            bail!("more than {QUEUE} packets wait for the release clock");
        }
    }
    for clock in &mut clocks {
        drain(clock, Nanos::MAX);
    }
    out.sort_by_key(|p| p.at);
    Ok(out)
}

/// What a defence costs, over all sessions of one label or of all.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Cost {
    /// Added bytes on the wire (headers and padding counted) for each real byte.
    pub bytes: f64,
    /// Added packets for each real packet.
    pub packets: f64,
    /// Added bytes/s.
    pub bytes_per_second: f64,
    /// Median delay of real packets, ms.
    pub delay_p50_ms: f64,
    /// 99th percentile of the delay of real packets, ms.
    pub delay_p99_ms: f64,
}

impl Cost {
    /// Compares sessions before and after; both lists in the same order. Where packets were too long for a tunnel, delays are those
    /// of the packets that fit.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a Trace, &'a Trace)>) -> Self {
        let (mut before, mut after, mut seconds) = ([0.0; 2], [0.0; 2], 0.0);
        let mut delays: Vec<f64> = Vec::new();
        for (a, b) in pairs {
            for (sum, t) in [(&mut before, a), (&mut after, b)] {
                sum[0] += t.packets.iter().map(|p| f64::from(p.size)).sum::<f64>();
                sum[1] += t.packets.len() as f64;
            }
            seconds += b.seconds().max(1.0);
            // A defence that changes the number of packets is a tunnel's.
            let real = |t: &[Seen]| t.iter().filter(|p| !p.dummy).count();
            let fitted = (real(&a.packets) != real(&b.packets)).then(|| {
                let longest = b.packets.iter().filter(|p| !p.dummy).map(|p| p.size);
                fitting(&a.packets, longest.max().unwrap_or(u32::MAX))
            });
            let before = fitted.as_ref().unwrap_or(&a.packets);
            for dir in Dir::BOTH {
                let real = b.packets.iter().filter(|p| !p.dummy && p.dir == dir);
                let was = before.iter().filter(|p| !p.dummy && p.dir == dir);
                delays.extend(
                    was.zip(real)
                        .map(|(p, q)| q.at.since(p.at).as_secs_f64() * 1e3),
                );
            }
        }
        delays.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let last = delays.len().saturating_sub(1);
            delays
                .get((last as f64 * q).round() as usize)
                .copied()
                .unwrap_or(0.0)
        };
        let ratio = |i: usize| after[i] / before[i].max(1.0) - 1.0;
        Self {
            bytes: ratio(0),
            packets: ratio(1),
            bytes_per_second: (after[0] - before[0]) / f64::max(seconds, 1.0),
            delay_p50_ms: quantile(0.5),
            delay_p99_ms: quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn trace(times_ms: &[u64]) -> Trace {
        let seen = |(i, &ms): (usize, &u64)| Seen {
            at: Nanos::from_millis(ms),
            dir: if i % 2 == 0 { Dir::Out } else { Dir::In },
            size: 60 + 500 * (i as u32 % 3),
            payload: 20,
            udp: false,
            dummy: false,
        };
        Trace {
            label: "plug".into(),
            device: "plug-1".into(),
            session: "s".into(),
            begins: None,
            packets: times_ms.iter().enumerate().map(seen).collect(),
        }
    }

    fn real(t: &Trace) -> usize {
        t.packets.iter().filter(|p| !p.dummy).count()
    }

    #[test]
    fn the_envelope_pads_delays_within_a_tick_and_loses_nothing() {
        let t = trace(&(0..400).map(|i| i * 37).collect::<Vec<_>>());
        let options = EnvelopeOptions::default();
        let d = Defence::Envelope(Box::new(options.clone()));
        let covered = d.apply(&t, 7, 0).expect("applies");
        assert_eq!(real(&covered), 400);
        assert!(covered.packets.is_sorted_by_key(|p| p.at));
        assert!(
            covered
                .packets
                .iter()
                .all(|p| options.sizes.contains(&p.size))
        );
        assert_eq!(covered, d.apply(&t, 7, 0).expect("applies"));
        assert_ne!(covered, d.apply(&t, 8, 0).expect("applies"));
        assert_ne!(covered, d.apply(&t, 7, 1).expect("applies"));
        let cost = Cost::of([(&t, &covered)]);
        assert!(
            cost.delay_p99_ms > 1.0 && cost.delay_p99_ms <= 4.1,
            "{cost:?}"
        );
    }

    #[test]
    fn packets_longer_than_the_tunnel_bears_are_sent_in_full_ones() {
        let mut t = trace(&[0, 1, 2, 3, 4, 5, 6, 7, 9_000]);
        for p in &mut t.packets {
            *p = Seen {
                dir: Dir::Out,
                size: 1_500,
                payload: 1_460,
                ..*p
            };
        }
        let own = |p: &&Seen| !p.dummy;
        for d in [
            Defence::Envelope(Box::default()),
            Defence::Machines(Box::default()),
        ] {
            let covered = d.apply(&t, 7, 0).expect("applies");
            assert!(covered.packets.iter().all(|p| p.size <= 1_420));
            // 8 x 1,460 bytes are 8 full packets and one of 640, the last one is cut into two.
            let count = covered.packets.iter().filter(own).count();
            assert_eq!(count, 11, "{}", d.name());
            let payload: u32 = covered.packets.iter().filter(own).map(|p| p.payload).sum();
            assert_eq!(payload, 9 * 1_460);
            let cost = Cost::of([(&t, &covered)]);
            assert!(cost.delay_p99_ms <= 4.5, "{cost:?}");
        }
    }

    /// A gateway's cover goes on without the devices.
    #[test]
    fn cover_lasts_as_long_as_asked_for() {
        let t = trace(&[0, 100]);
        let end = Nanos::from_secs(600);
        for d in [
            Defence::Slots {
                name: "random+".into(),
                scale: 1.0,
            },
            Defence::Envelope(Box::default()),
        ] {
            for t in [&t, &trace(&[])] {
                let covered = d.apply_until(t, end, 3, 0).expect("applies");
                let last = covered.packets.last().map_or(Nanos::ZERO, |p| p.at);
                assert!(
                    last > Nanos::from_secs(400) && last < end + Nanos::from_secs(1),
                    "{} {last}",
                    d.name()
                );
            }
        }
    }

    #[test]
    fn ipet_covers_active_time_on_its_grid() {
        let t = trace(&[0, 1000, 20_000]);
        let row = Demand {
            packets: [2, 0],
            bytes: [100, 30],
        };
        let vectors = BTreeMap::from([(String::new(), vec![row])]);
        let covered = Defence::Ipet { vectors }.apply(&t, 1, 0).expect("applies");
        let cover: Vec<&Seen> = covered.packets.iter().filter(|p| p.dummy).collect();
        // 0 to 6 s and 20 to 25 s: 61 and 51 ticks of one incoming (count 0 becomes 1) and two outgoing dummies.
        assert_eq!(cover.len(), (61 + 51) * 3);
        assert!(cover.iter().all(|p| p.at.as_millis() % 50 == 0));
        assert!(cover.iter().all(|p| match p.dir {
            Dir::Out => p.size == 78,
            Dir::In => p.size == 58,
        }));
    }

    #[test]
    fn one_packet_and_no_packet_are_fine() {
        let vectors = || {
            let row = Demand {
                packets: [1, 1],
                bytes: [50, 50],
            };
            BTreeMap::from([(String::new(), vec![row])])
        };
        for d in [
            Defence::None,
            Defence::Slots {
                name: "random+".into(),
                scale: 1.0,
            },
            Defence::Ipet { vectors: vectors() },
            Defence::IpetMended {
                vectors: vectors(),
                scale: 1.0,
            },
            Defence::Envelope(Box::default()),
            Defence::Envelope(Box::new(EnvelopeOptions {
                known_homes: 10,
                ..EnvelopeOptions::default()
            })),
            Defence::Machines(Box::default()),
        ] {
            for times in [&[][..], &[0][..]] {
                let t = trace(times);
                let covered = d.apply(&t, 1, 0).expect("applies");
                assert_eq!(real(&covered), times.len(), "{}", d.name());
            }
        }
        let missing = Defence::Ipet {
            vectors: BTreeMap::new(),
        };
        let e = missing.apply(&trace(&[0]), 1, 0).expect_err("refused");
        assert!(e.to_string().contains("plug"), "{e}");
    }
}
