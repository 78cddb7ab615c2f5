//! Two tunnel ends in virtual time, with a network between them that loses, reorders, repeats and forges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::BytesMut;
use chaff_abi::Nanos;
use chaff_cover::EnvelopeConfig;
use chaff_tunnel::{
    Class, Config, DownlinkConfig, Event, MonthBudget, PeerConfig, PresharedKey, PrivateKey,
    Profile, Tunnel,
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

const HOME: usize = 0;
const FAR: usize = 1;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// An IPv4 UDP packet of `len` bytes with content that tells packets apart.
fn packet(from: [u8; 4], to: [u8; 4], len: usize, number: u32) -> Vec<u8> {
    let mut p = vec![number as u8; len];
    p[..20].fill(0);
    p[0] = 0x45;
    p[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    p[8] = 64;
    p[9] = 17;
    p[12..16].copy_from_slice(&from);
    p[16..20].copy_from_slice(&to);
    if len >= 24 {
        p[20..24].copy_from_slice(&number.to_be_bytes());
    }
    p
}

fn up(len: usize, number: u32) -> Vec<u8> {
    packet([10, 7, 0, 2], [192, 0, 2, 9], len, number)
}

fn down(len: usize, number: u32) -> Vec<u8> {
    packet([192, 0, 2, 9], [10, 7, 0, 2], len, number)
}

struct Way {
    loss: f64,
    delay: Nanos,
    jitter: Nanos,
}

struct Pair {
    ends: [Tunnel; 2],
    addresses: [SocketAddr; 2],
    now: Nanos,
    rng: ChaCha20Rng,
    way: Way,
    flying: BTreeMap<(Nanos, u64), (usize, Vec<u8>)>,
    order: u64,
    /// UDP payload sizes seen on the way, by direction.
    sizes: [BTreeMap<usize, u64>; 2],
    /// When, which way, how long, what.
    log: Vec<(Nanos, usize, usize, Class)>,
    arrived: [Vec<Vec<u8>>; 2],
    /// Last message counter of each session, which is in clear: it only ever rises.
    counters: BTreeMap<[u8; 4], u64>,
    events: Vec<(usize, Event)>,
}

impl Pair {
    fn new(home: Config, far: Config, seed: u64) -> Self {
        Self::with_others(home, far, seed, 0)
    }

    /// As [`Pair::new`], with a far end that has further peers, who never speak.
    fn with_others(home: Config, far: Config, seed: u64, others: u8) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let keys = [
            PrivateKey::generate(&mut rng),
            PrivateKey::generate(&mut rng),
        ];
        let psk = PresharedKey::generate(&mut rng);
        let addresses = [address("198.51.100.4:50000"), address("203.0.113.7:51820")];
        let peer = |other: usize, allowed: &[&str], endpoint| PeerConfig {
            public_key: keys[other].public(),
            preshared_key: Some(psk.clone()),
            allowed: allowed
                .iter()
                .map(|a| a.parse().expect("a range"))
                .collect(),
            endpoint,
        };
        let virtual_time = |c: Config| Config {
            erase_keys: false,
            ..c
        };
        let to_far = peer(FAR, &["0.0.0.0/0", "::/0"], Some(addresses[FAR]));
        let to_home = peer(HOME, &["10.7.0.2/32", "fd07::2/128"], None);
        let end = |i: usize, c: Config, peers: &[PeerConfig]| {
            Tunnel::new(&keys[i], virtual_time(c), peers, [i as u8; 32], Nanos::ZERO)
                .expect("valid settings")
        };
        let other = |n: u8| PeerConfig {
            public_key: PrivateKey::generate(&mut ChaCha20Rng::from_seed([n; 32])).public(),
            preshared_key: None,
            allowed: vec![],
            endpoint: None,
        };
        let homes: Vec<_> = [to_home]
            .into_iter()
            .chain((0..others).map(other))
            .collect();
        Self {
            ends: [end(HOME, home, &[to_far]), end(FAR, far, &homes)],
            addresses,
            now: Nanos::ZERO,
            rng,
            way: Way {
                loss: 0.0,
                delay: Nanos::from_millis(10),
                jitter: Nanos::ZERO,
            },
            flying: BTreeMap::new(),
            order: 0,
            sizes: Default::default(),
            log: Vec::new(),
            arrived: Default::default(),
            counters: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    fn default() -> Self {
        Self::new(Config::default(), Config::default(), 1)
    }

    /// Takes what an end has to say.
    fn collect(&mut self, end: usize) {
        while let Some(d) = self.ends[end].poll_datagram() {
            let bytes = d.as_ref().to_vec();
            if bytes[0] == 4 {
                let session = bytes[4..8].try_into().expect("four bytes");
                let counter = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
                let before = self.counters.insert(session, counter);
                assert!(before.is_none_or(|b| b < counter), "{before:?} {counter}");
            }
            *self.sizes[end].entry(bytes.len()).or_default() += 1;
            self.log.push((self.now, end, bytes.len(), d.class));
            if self.rng.random::<f64>() >= self.way.loss {
                let jitter = self.rng.random_range(0..=self.way.jitter.0);
                self.order += 1;
                let key = (self.now + self.way.delay + Nanos(jitter), self.order);
                self.flying.insert(key, (1 - end, bytes));
            }
        }
        while let Some(p) = self.ends[end].poll_inner() {
            self.arrived[end].push(p.as_ref().to_vec());
        }
        while let Some(e) = self.ends[end].poll_event() {
            self.events.push((end, e));
        }
    }

    fn send(&mut self, end: usize, packet: &[u8]) {
        self.ends[end].handle_inner(self.now, packet);
        self.collect(end);
    }

    fn inject(&mut self, end: usize, from: SocketAddr, bytes: &[u8]) {
        self.ends[end].handle_datagram(self.now, from, BytesMut::from(bytes));
        self.collect(end);
    }

    /// Lets time pass; the ends act when they said they would.
    fn run(&mut self, until: Nanos) {
        loop {
            let flight = self.flying.keys().next().map(|k| k.0);
            let timers = self.ends.iter().filter_map(|e| e.poll_timeout());
            let timer = timers.map(|t| t.0.max(self.now)).min();
            let Some(next) = flight
                .into_iter()
                .chain(timer)
                .min()
                .filter(|t| *t <= until)
            else {
                break;
            };
            self.now = self.now.max(next);
            while let Some(e) = self.flying.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, bytes) = e.remove();
                self.inject(to, self.addresses[1 - to], &bytes);
            }
            for end in [HOME, FAR] {
                self.ends[end].handle_timeout(self.now);
                self.collect(end);
            }
        }
        self.now = until;
    }

    fn connect(&mut self) {
        self.send(HOME, &up(100, 0));
        self.run(self.now + Nanos::from_secs(1));
        assert!(self.ends[HOME].has_session(0) && self.ends[FAR].has_session(0));
        self.arrived = Default::default();
    }

    fn size_set(&self, end: usize) -> BTreeSet<usize> {
        self.sizes[end].keys().copied().collect()
    }

    fn refused(&self, end: usize) -> u64 {
        let report = self.ends[end].report();
        report.refused.values().sum::<u64>() + report.peers[0].refused.values().sum::<u64>()
    }
}

fn secs(s: u64) -> Nanos {
    Nanos::from_secs(s)
}

#[test]
fn the_first_real_packet_starts_a_handshake_and_arrives() {
    let mut pair = Pair::default();
    pair.send(HOME, &up(61, 7));
    pair.run(secs(1));
    assert_eq!(pair.arrived[FAR], [up(61, 7)]);
    pair.send(FAR, &down(1_400, 8));
    pair.run(secs(2));
    assert_eq!(pair.arrived[HOME], [down(1_400, 8)]);
    // Initiation, packet; response, packet. The packet confirms the session: no empty message.
    assert_eq!(pair.size_set(HOME), BTreeSet::from([148, 160]));
    assert_eq!(pair.size_set(FAR), BTreeSet::from([92, 1_452]));
}

#[test]
fn nobody_speaks_when_nothing_happens() {
    let mut pair = Pair::default();
    pair.run(secs(1_000));
    assert!(pair.log.is_empty());
    for i in 0..100 {
        pair.ends[HOME].plan(0, pair.now + Nanos::from_millis(i * 10), 5);
    }
    pair.run(pair.now + secs(100));
    assert!(pair.log.is_empty(), "a dummy started a handshake");
    let dropped = &pair.ends[HOME].report().peers[0].cover_dropped;
    assert_eq!(dropped.get("no_session"), Some(&100));
}

#[test]
fn always_on_has_a_session_without_traffic_and_keeps_the_cadence() {
    let config = Config {
        always_on: true,
        ..Config::default()
    };
    let mut pair = Pair::new(config, Config::default(), 2);
    for s in 0..600u64 {
        pair.ends[HOME].plan(0, secs(s) + Nanos::from_millis(300), 5);
    }
    pair.run(secs(600));
    let initiations: Vec<_> = pair.log.iter().filter(|l| l.2 == 148).collect();
    assert_eq!(initiations.len(), 5, "one every 120 s");
    let report = pair.ends[FAR].report();
    // The one that is due before the handshake is done does not count.
    assert!(report.peers[0].cover_in.packets >= 599);
    assert_eq!(pair.refused(FAR) + pair.refused(HOME), 0);
    assert!(
        pair.arrived.iter().all(Vec::is_empty),
        "cover was delivered"
    );
}

#[test]
fn sizes_on_the_way_are_the_bins_and_nothing_else() {
    for (profile, bins) in [
        (Profile::Default, vec![128, 576, 1_420]),
        (Profile::Mtu, vec![1_420]),
        (Profile::Fine, vec![96, 192, 384, 768, 1_152, 1_420]),
    ] {
        let config = Config {
            profile,
            always_on: true,
            ..Config::default()
        };
        let mut pair = Pair::new(config.clone(), config, 3);
        pair.run(secs(1));
        let asked: Vec<_> = (0..400u64)
            .map(|i| (secs(1) + Nanos::from_millis(20 * i), 9))
            .collect();
        for i in 0..400u64 {
            pair.ends[HOME].plan(0, secs(1) + Nanos::from_millis(20 * i), 5);
        }
        pair.ends[HOME].ask_downlink(secs(1), 0, &asked);
        for s in 1..8 {
            pair.ends[HOME].plan(0, secs(s), 5);
        }
        for len in 20..=1_420usize {
            pair.send(HOME, &up(len, len as u32));
            pair.send(FAR, &down(len, len as u32));
            pair.run(pair.now + Nanos::from_millis(5));
            if len % 100 == 0 {
                pair.ends[HOME].ask_downlink(pair.now, 0, &[]);
            }
        }
        pair.run(secs(300));
        let mut allowed: BTreeSet<usize> = bins.iter().map(|b| b + 32).collect();
        allowed.extend([148, 92]);
        for end in [HOME, FAR] {
            let seen = pair.size_set(end);
            assert!(seen.is_subset(&allowed), "{profile:?}: {seen:?}");
            assert!(seen.is_superset(&bins.iter().map(|b| b + 32).collect()));
            let lens: Vec<usize> = pair.arrived[end].iter().map(Vec::len).collect();
            assert_eq!(lens, (20..=1_420).collect::<Vec<_>>());
        }
        let far = pair.ends[FAR].report();
        assert!(far.peers[0].cover_out.packets > 300, "{far:?}");
    }
}

#[test]
fn a_packet_beyond_the_mtu_is_counted_not_sent() {
    let mut pair = Pair::default();
    pair.connect();
    let before = pair.log.len();
    pair.send(HOME, &up(1_421, 1));
    assert_eq!(pair.log.len(), before);
    let report = pair.ends[HOME].report();
    assert_eq!(report.peers[0].real_dropped.get("too_big"), Some(&1));
    pair.ends[HOME].set_mtu(pair.now, 1_380);
    pair.send(HOME, &up(1_380, 2));
    assert_eq!(pair.log.last().map(|l| l.2), Some(1_412));
}

#[test]
fn twenty_percent_loss_and_reordering_lose_only_what_was_lost() {
    let mut pair = Pair::new(Config::default(), Config::default(), 4);
    pair.way = Way {
        loss: 0.2,
        delay: Nanos::from_millis(10),
        jitter: Nanos::from_millis(50),
    };
    // Ten minutes: four rekeys under loss.
    let total = 60_000u32;
    for i in 0..total {
        pair.send(HOME, &up(200, i));
        pair.send(FAR, &down(300, i));
        pair.run(Nanos::from_millis(10 * u64::from(i)));
    }
    pair.run(secs(620));
    for end in [HOME, FAR] {
        let share = pair.arrived[end].len() as f64 / f64::from(total);
        // 0.80, less what waits for the first handshake at the far end, which cannot begin one.
        assert!((0.77..0.82).contains(&share), "end {end}: {share}");
        let distinct: BTreeSet<_> = pair.arrived[end].iter().collect();
        assert_eq!(distinct.len(), pair.arrived[end].len(), "a packet twice");
    }
}

#[test]
fn the_far_end_reports_what_was_lost() {
    let config = Config {
        always_on: true,
        ..Config::default()
    };
    let mut pair = Pair::new(config.clone(), config, 5);
    pair.way.loss = 0.2;
    for i in 0..6_000u64 {
        pair.ends[HOME].plan(0, Nanos::from_millis(i * 50), 5);
    }
    for s in 0..300 {
        let now = secs(s);
        pair.run(now);
        let asked: Vec<_> = (0..10)
            .map(|i| (now + Nanos::from_millis(300 + i * 100), 5))
            .collect();
        pair.ends[HOME].ask_downlink(now, 0, &asked);
    }
    let loss = pair.ends[HOME].report().peers[0].loss.expect("reports");
    assert!((0.1..0.3).contains(&loss), "{loss}");
}

#[test]
fn replayed_forged_and_cut_datagrams_are_refused_without_an_answer() {
    let mut pair = Pair::default();
    pair.connect();
    pair.send(HOME, &up(500, 1));
    let (_, good) = pair.flying.values().next().expect("in flight").clone();
    pair.run(pair.now + secs(1));
    assert_eq!(pair.arrived[FAR].len(), 1);
    let said = pair.log.len();
    let from = address("198.51.100.99:1");
    pair.inject(FAR, from, &good);
    for at in 0..good.len() {
        let mut forged = good.clone();
        forged[at] ^= 1;
        pair.inject(FAR, from, &forged);
        pair.inject(FAR, from, &good[..at]);
    }
    assert_eq!(pair.arrived[FAR].len(), 1);
    assert_eq!(
        pair.log.len(),
        said,
        "an answer to a datagram that is not authentic"
    );
    assert_eq!(pair.refused(FAR), 1 + 2 * good.len() as u64);
    assert_eq!(pair.ends[FAR].endpoint(0), Some(pair.addresses[HOME]));
}

#[test]
fn an_inner_source_of_somebody_else_is_refused() {
    let mut pair = Pair::default();
    pair.connect();
    pair.send(HOME, &packet([10, 7, 0, 3], [192, 0, 2, 9], 100, 1));
    pair.run(pair.now + secs(1));
    assert!(pair.arrived[FAR].is_empty());
    let refused = pair.ends[FAR].report().peers[0].refused.clone();
    assert_eq!(refused.get("source"), Some(&1));
    // What an interface says to its own link stays there.
    pair.send(HOME, &packet([169, 254, 0, 2], [224, 0, 0, 22], 100, 1));
    assert_eq!(pair.ends[HOME].report().local, 1);
    // And the far end has no peer for addresses that nobody owns.
    pair.send(FAR, &packet([192, 0, 2, 9], [10, 7, 0, 77], 100, 1));
    assert_eq!(pair.ends[FAR].report().no_peer, 1);
}

#[test]
fn roaming_follows_authentic_packets_and_mapped_addresses_are_no_move() {
    let mut pair = Pair::default();
    pair.connect();
    pair.send(HOME, &up(100, 1));
    let (_, bytes) = pair.flying.pop_first().map(|(_, v)| v).expect("in flight");
    pair.inject(FAR, address("[::ffff:198.51.100.4]:50000"), &bytes);
    assert_eq!(pair.ends[FAR].report().peers[0].roamed, 0);
    pair.send(HOME, &up(100, 2));
    let (_, bytes) = pair.flying.pop_first().map(|(_, v)| v).expect("in flight");
    let moved = address("[2001:db8::5]:40000");
    pair.inject(FAR, moved, &bytes);
    assert_eq!(pair.ends[FAR].endpoint(0), Some(moved));
    assert_eq!(pair.ends[FAR].report().peers[0].roamed, 1);
}

#[test]
fn a_restarted_far_end_is_back_after_the_silence() {
    let config = Config {
        silence: secs(5),
        ..Config::default()
    };
    let mut pair = Pair::new(config, Config::default(), 6);
    pair.connect();
    // Cover is asked for and comes.
    let connected = pair.now;
    for s in 0..20 {
        let now = connected + secs(s);
        pair.run(now);
        pair.ends[HOME].ask_downlink(now, 0, &[(now + secs(1), 5)]);
        pair.send(HOME, &up(100, 0));
    }
    let handshakes = pair.log.iter().filter(|l| l.2 == 148).count();
    assert_eq!(handshakes, 1, "a handshake without a reason");
    pair.arrived = Default::default();
    // A new far end with the same keys knows no session.
    let fresh = Pair::new(Config::default(), Config::default(), 6);
    let [_, far] = fresh.ends;
    pair.ends[FAR] = far;
    let begin = pair.now;
    for i in 0..1_000 {
        pair.send(HOME, &up(100, i));
        pair.run(pair.now + Nanos::from_millis(10));
    }
    let initiation = pair
        .log
        .iter()
        .rfind(|l| l.2 == 148)
        .expect("a handshake")
        .0;
    let away = initiation - begin;
    assert!((secs(5)..secs(6)).contains(&away), "{away:?}");
    assert!(pair.arrived[FAR].len() > 480, "{}", pair.arrived[FAR].len());
}

#[test]
fn a_dead_far_end_is_tried_for_ninety_seconds_and_again_with_the_next_packet() {
    let mut pair = Pair::default();
    pair.way.loss = 1.0;
    pair.send(HOME, &up(100, 1));
    pair.run(secs(300));
    let tries: Vec<Nanos> = pair.log.iter().map(|l| l.0).collect();
    assert!((17..=18).contains(&tries.len()), "{}", tries.len());
    for w in tries.windows(2) {
        let gap = w[1] - w[0];
        assert!(
            gap >= secs(5) && gap <= Nanos::from_millis(5_334),
            "{gap:?}"
        );
    }
    pair.way.loss = 0.0;
    pair.send(HOME, &up(100, 2));
    pair.run(secs(301));
    assert_eq!(pair.arrived[FAR], [up(100, 2)]);
}

#[test]
fn old_sessions_are_not_used_for_either_direction() {
    let mut pair = Pair::default();
    pair.connect();
    pair.send(HOME, &up(100, 1));
    let late = pair
        .flying
        .pop_first()
        .map(|(_, v)| v)
        .expect("in flight")
        .1;
    pair.run(pair.now + secs(200));
    assert!(!pair.ends[HOME].has_session(0));
    pair.inject(FAR, pair.addresses[HOME], &late);
    assert!(pair.arrived[FAR].is_empty());
    let refused = pair.ends[FAR].report().peers[0].refused.clone();
    assert_eq!(refused.values().sum::<u64>(), 1, "{refused:?}");
    pair.send(HOME, &up(100, 2));
    assert_eq!(pair.log.last().map(|l| l.2), Some(148));
}

#[test]
fn an_end_that_only_receives_says_so_every_ten_seconds_in_a_bin_size() {
    let mut pair = Pair::default();
    pair.connect();
    for i in 0..60_000u32 {
        pair.send(HOME, &up(100, i));
        pair.run(pair.now + Nanos::from_millis(1));
    }
    // Stock behaviour first: we never saw cover of theirs, so an empty message.
    let empty = pair.sizes[FAR].get(&32).copied().unwrap_or(0);
    assert!((5..=6).contains(&empty) || pair.sizes[FAR].contains_key(&160));
    let times: Vec<Nanos> = pair
        .log
        .iter()
        .filter(|l| l.1 == FAR && l.2 != 92)
        .map(|l| l.0)
        .collect();
    for w in times.windows(2) {
        assert!(w[1] - w[0] >= secs(10), "{:?}", w[1] - w[0]);
    }
}

/// Both ends with a clock of 5 ms, cover of `rate` packets/s each way from home.
fn clocked(rate: f64, seed: u64) -> Pair {
    let far = Config {
        clock: Nanos::from_millis(5),
        ..Config::default()
    };
    let home = Config {
        always_on: true,
        envelope: Some(EnvelopeConfig {
            rate,
            ..EnvelopeConfig::default()
        }),
        ..far.clone()
    };
    Pair::new(home, far, seed)
}

#[test]
fn with_a_clock_everything_leaves_at_ticks_and_in_order() {
    let mut pair = clocked(100.0, 21);
    pair.connect();
    let begin = pair.now;
    let mut sent = [Vec::new(), Vec::new()];
    for i in 0..2_000u32 {
        let gap = Nanos::from_micros(pair.rng.random_range(0..9_000));
        pair.run(pair.now + gap);
        let to = if i % 3 == 0 { FAR } else { HOME };
        let packet = if to == HOME {
            up(300, i)
        } else {
            down(1_400, i)
        };
        sent[1 - to].push(packet.clone());
        pair.send(to, &packet);
    }
    pair.run(pair.now + secs(1));
    assert_eq!(pair.arrived, sent);
    for end in [HOME, FAR] {
        let data = pair
            .log
            .iter()
            .filter(|l| l.0 > begin && l.1 == end && [Class::Real, Class::Cover].contains(&l.3));
        let data: Vec<_> = data.collect();
        let phases: BTreeSet<u64> = data.iter().map(|l| l.0.0 % 5_000_000).collect();
        assert_eq!(phases.len(), 1, "one phase a session");
        let cover = data.iter().filter(|l| l.3 == Class::Cover).count();
        assert!(cover > 20, "{end}: {cover}");
    }
    assert_eq!(pair.refused(HOME) + pair.refused(FAR), 0);
}

#[test]
fn a_clock_carries_bulk_and_counts_what_it_cannot_hold() {
    let mut pair = clocked(0.0, 22);
    pair.connect();
    for i in 0..3_000 {
        pair.send(HOME, &up(1_400, i));
    }
    let begin = pair.now;
    pair.run(begin + secs(1));
    // One tick takes all that found room.
    assert_eq!(pair.arrived[FAR].len(), 2_048);
    let times: BTreeSet<Nanos> = pair
        .log
        .iter()
        .filter(|l| l.0 >= begin && l.3 == Class::Real)
        .map(|l| l.0)
        .collect();
    assert_eq!(times.len(), 1);
    let dropped = &pair.ends[HOME].report().peers[0].real_dropped;
    assert_eq!(dropped.get("queue"), Some(&952));
}

#[test]
fn an_envelope_covers_both_ways_without_any_traffic() {
    let mut cover = [0; 2];
    let mut unasked = 0;
    for seed in 0..6 {
        let mut pair = clocked(4.0, 30 + seed);
        pair.run(secs(1_800));
        for end in [HOME, FAR] {
            let sent = pair.log.iter().filter(|l| l.1 == end);
            cover[end] += sent.filter(|l| l.3 == Class::Cover).count();
        }
        let (home, far) = (pair.ends[HOME].report(), pair.ends[FAR].report());
        let planned = far.peers[0].downlink.accepted;
        unasked += home.peers[0].cover_dropped.get("unasked").unwrap_or(&0);
        let dropped = &far.peers[0].downlink.dropped;
        assert!(
            dropped.values().sum::<u64>() * 100 <= planned,
            "{dropped:?}"
        );
        let allowed = BTreeSet::from([148, 92, 160, 608, 1_452]);
        assert!(pair.size_set(HOME).is_subset(&allowed));
        assert!(pair.size_set(FAR).is_subset(&allowed));
        assert_eq!(pair.refused(HOME) + pair.refused(FAR), 0);
    }
    // Six homes, half an hour, 4 a second: 43,200 each way on average, of a rate that differs widely from home to home.
    for n in cover {
        assert!((12_000..130_000).contains(&n), "{cover:?}");
    }
    assert!(unasked * 50 <= cover[FAR] as u64, "{unasked} of {cover:?}");
}

#[test]
fn a_step_of_the_clock_costs_a_handshake() {
    let mut pair = clocked(2.0, 24);
    pair.connect();
    pair.run(secs(60));
    // An hour forward, as after a sleep: sessions are over on both sides.
    pair.now = secs(3_660);
    let before = pair.log.len();
    pair.send(HOME, &up(100, 1));
    pair.run(pair.now + secs(1));
    assert_eq!(pair.arrived[FAR].last(), Some(&up(100, 1)));
    let bursts = pair.log.len() - before;
    assert!(bursts < 40, "cover of an hour was sent at once: {bursts}");
    // Back: time stands still until it is later again, and packets leave all the same once it is.
    let later = pair.now;
    pair.now = later - secs(600);
    pair.send(HOME, &up(100, 2));
    pair.run(later + secs(1));
    assert_eq!(pair.arrived[FAR].last(), Some(&up(100, 2)));
}

#[test]
fn an_envelope_neither_starts_handshakes_nor_plans_while_paused() {
    let mut pair = clocked(50.0, 23);
    pair.connect();
    pair.ends[HOME].set_paused(true);
    let begin = pair.now;
    pair.run(begin + secs(60));
    let cover = pair
        .log
        .iter()
        .filter(|l| l.0 > begin + secs(8) && l.3 == Class::Cover);
    assert_eq!(cover.count(), 0);
    pair.ends[HOME].set_paused(false);
    pair.run(begin + secs(120));
    let cover = pair
        .log
        .iter()
        .filter(|l| l.0 > begin + secs(60) && l.3 == Class::Cover);
    assert!(cover.count() > 100);
    let wrong = Config {
        envelope: Some(EnvelopeConfig {
            rate: -1.0,
            ..EnvelopeConfig::default()
        }),
        ..Config::default()
    };
    let key = PrivateKey::generate(&mut pair.rng);
    let peer = PeerConfig {
        public_key: PrivateKey::generate(&mut pair.rng).public(),
        preshared_key: None,
        allowed: vec![],
        endpoint: None,
    };
    let made = Tunnel::new(&key, wrong, &[peer], [0; 32], Nanos::ZERO);
    let said = made.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(said.contains("rate"), "{said}");
}

#[test]
fn a_due_dummy_is_replaced_by_a_waiting_real_packet() {
    let config = Config {
        hold: Nanos::from_millis(20),
        ..Config::default()
    };
    let mut pair = Pair::new(config, Config::default(), 7);
    pair.connect();
    let begin = pair.now;
    for i in 0..100 {
        pair.ends[HOME].plan(0, begin + Nanos::from_millis(10 * i + 5), 5);
    }
    for i in 0..50u64 {
        pair.run(begin + Nanos::from_millis(20 * i));
        pair.send(HOME, &up(60, i as u32));
    }
    pair.run(begin + secs(2));
    let report = pair.ends[HOME].report().peers[0].clone();
    assert_eq!(report.replaced, 50);
    let cover = pair
        .log
        .iter()
        .filter(|l| l.0 >= begin && l.1 == HOME && l.3 == Class::Cover)
        .count();
    assert_eq!(cover, 50, "replacing saves one for one");
    assert_eq!(pair.arrived[FAR].len(), 50);
    // With nothing planned the hold ends by itself.
    pair.send(HOME, &up(60, 99));
    let at = pair.now;
    pair.run(at + secs(1));
    assert_eq!(
        pair.log.last().map(|l| l.0),
        Some(at + Nanos::from_millis(20))
    );
}

#[test]
fn a_full_hold_lets_go_in_order() {
    let config = Config {
        hold: Nanos::from_millis(500),
        ..Config::default()
    };
    let mut pair = Pair::new(config, Config::default(), 8);
    pair.connect();
    for i in 0..1_000 {
        pair.send(HOME, &up(60, i));
    }
    pair.run(pair.now + secs(1));
    let want: Vec<_> = (0..1_000).map(|i| up(60, i)).collect();
    assert_eq!(pair.arrived[FAR], want);
}

#[test]
fn the_downlink_follows_the_schedule_and_stops_with_the_lease() {
    let mut pair = Pair::default();
    pair.connect();
    let begin = pair.now;
    let mut asked = Vec::new();
    for block in 0..10 {
        let now = begin + secs(block);
        pair.run(now);
        let dummies: Vec<_> = (0..10)
            .map(|i| (now + Nanos::from_millis(300 + 100 * i), 5))
            .collect();
        for i in 0..5 {
            pair.ends[HOME].plan(0, now + Nanos::from_millis(20 + 190 * i), 5);
        }
        pair.ends[HOME].ask_downlink(now, 0, &dummies);
        asked.extend(dummies.iter().map(|d| d.0));
    }
    pair.run(begin + secs(30));
    let sent: Vec<Nanos> = pair
        .log
        .iter()
        .filter(|l| l.1 == FAR && l.3 == Class::Cover && l.0 > begin)
        .map(|l| l.0)
        .collect();
    assert!(
        sent.len() >= asked.len(),
        "{:?} {} of {}",
        pair.ends[FAR].report(),
        sent.len(),
        asked.len()
    );
    for at in &asked {
        let nearest = sent.iter().map(|s| s.0.abs_diff(at.0)).min();
        // Offsets count from arrival: off by the way's delay, 10 ms, far less than a slot of 100 ms.
        assert!(nearest.is_some_and(|n| n <= 10_100_000), "{nearest:?}");
    }
    // A long schedule, then silence: a lease of 5 s.
    let now = pair.now;
    let dummies: Vec<_> = (0..90)
        .map(|i| (now + Nanos::from_millis(100 * i), 5))
        .collect();
    pair.ends[HOME].ask_downlink(now, 0, &dummies);
    pair.run(now + secs(60));
    let last = pair
        .log
        .iter()
        .rfind(|l| l.1 == FAR && l.3 == Class::Cover && l.0 < now + secs(9))
        .expect("cover");
    assert!(
        last.0 <= now + Nanos::from_millis(5_200),
        "{:?}",
        last.0 - now
    );
    let d = pair.ends[FAR].report().peers[0].downlink.clone();
    assert!(d.leases_ended >= 1 && d.dropped.get("lease").is_some_and(|n| *n > 30));
}

#[test]
fn the_ratio_holds_against_a_peer_that_asks_for_more() {
    let far = Config {
        downlink: DownlinkConfig {
            allowance: 10_000,
            ..DownlinkConfig::default()
        },
        ..Config::default()
    };
    let mut pair = Pair::new(Config::default(), far, 9);
    pair.connect();
    for block in 0..60 {
        let now = secs(10 + block);
        pair.run(now);
        let dummies: Vec<_> = (0..1_000)
            .map(|i| (now + Nanos::from_millis(i), 5))
            .collect();
        pair.ends[HOME].ask_downlink(now, 0, &dummies);
    }
    pair.run(secs(100));
    let bytes = |end: usize| -> u64 { pair.sizes[end].iter().map(|(s, n)| *s as u64 * n).sum() };
    assert!(
        bytes(FAR) <= 10_000 + 4 * bytes(HOME),
        "{} for {}",
        bytes(FAR),
        bytes(HOME)
    );
    let dropped = &pair.ends[FAR].report().peers[0].downlink.dropped;
    assert!(
        dropped.get("ratio").is_some_and(|n| *n > 100),
        "{dropped:?}"
    );
}

#[test]
fn budgets_a_pause_and_congestion_stop_cover_and_no_real_packet() {
    let config = Config {
        cover_rate: 1_000,
        cover_burst: 2_000,
        ..Config::default()
    };
    let mut pair = Pair::new(config, Config::default(), 10);
    pair.connect();
    pair.send(FAR, &down(100, 0));
    let begin = pair.now;
    for i in 0..1_000 {
        pair.ends[HOME].plan(0, begin + Nanos::from_millis(10 * i), 5);
    }
    pair.run(begin + secs(10));
    let cover = |pair: &Pair, from: Nanos| -> usize {
        pair.log
            .iter()
            .filter(|l| l.1 == HOME && l.3 == Class::Cover && l.0 >= from)
            .map(|l| l.2 + 28)
            .sum()
    };
    let spent = cover(&pair, begin);
    assert!((9_000..=12_000).contains(&spent), "{spent}");
    let now = pair.now;
    pair.ends[HOME].set_month(Some(MonthBudget {
        cap: 1_000,
        used: 999,
        month: 0,
    }));
    pair.run(now + secs(20));
    pair.ends[HOME].plan(0, pair.now, 5);
    pair.run(pair.now + secs(1));
    pair.ends[HOME].set_month(None);
    pair.ends[HOME].note_congested(pair.now);
    pair.ends[HOME].plan(0, pair.now + Nanos::from_millis(50), 5);
    pair.run(pair.now + secs(1));
    pair.ends[HOME].set_paused(true);
    pair.ends[HOME].plan(0, pair.now, 5);
    pair.send(HOME, &up(100, 77));
    pair.run(pair.now + secs(1));
    // At most one that says "I live" in the size of a dummy.
    assert!(cover(&pair, now + Nanos(1)) <= 1_480);
    assert_eq!(pair.arrived[FAR], [up(100, 77)]);
    let dropped = pair.ends[HOME].report().peers[0].cover_dropped.clone();
    for why in ["budget", "month", "congested", "paused"] {
        assert!(dropped.contains_key(why), "{why}: {dropped:?}");
    }
}

/// Both ends on a path that is narrower than they think; the far end has `others` beside.
fn on_a_narrow_path(others: u8) -> Pair {
    let config = Config {
        always_on: true,
        ..Config::default()
    };
    let mut pair = Pair::with_others(config.clone(), config, 11, others);
    pair.run(secs(1));
    for s in 1..60 {
        let now = secs(s);
        // The way drops what is longer than 1,400 bytes.
        while pair.now < now {
            pair.run(pair.now + Nanos::from_millis(5));
            pair.flying.retain(|_, (_, b)| b.len() < 1_400);
        }
        for i in 0..10 {
            pair.ends[HOME].plan(0, now + Nanos::from_millis(100 * i), 5);
        }
        let asked: Vec<_> = (0..10)
            .map(|i| (now + Nanos::from_millis(300 + 100 * i), 5))
            .collect();
        pair.ends[HOME].ask_downlink(now, 0, &asked);
    }
    pair
}

#[test]
fn a_narrow_path_lowers_the_mtu_by_the_far_ends_reports() {
    let pair = on_a_narrow_path(0);
    for end in [HOME, FAR] {
        let lower = (end, Event::LowerMtu(1_392));
        assert!(pair.events.contains(&lower), "{:?}", pair.events);
    }
}

#[test]
fn one_of_several_peers_has_no_say_in_the_mtu_of_all() {
    let pair = on_a_narrow_path(1);
    assert!(pair.events.iter().all(|e| e.0 == HOME), "{:?}", pair.events);
}

#[test]
fn handshakes_above_the_limit_get_a_cookie() {
    let far = Config {
        handshakes_per_second: 0,
        ..Config::default()
    };
    let mut pair = Pair::new(Config::default(), far, 12);
    pair.send(HOME, &up(100, 1));
    pair.run(secs(1));
    assert_eq!(pair.size_set(FAR), BTreeSet::from([64]), "a cookie reply");
    // The retry carries the cookie.
    pair.run(secs(8));
    assert_eq!(pair.arrived[FAR], [up(100, 1)]);
    assert_eq!(pair.ends[FAR].report().cookies, 1);
}

#[test]
fn a_flood_of_handshakes_with_forged_addresses_keeps_nobody_out() {
    let mut pair = Pair::default();
    pair.connect();
    // Whoever knows the far end's public key can make an initiation that looks right, and send it from anywhere.
    let mut rng = ChaCha20Rng::seed_from_u64(40);
    let far = PeerConfig {
        public_key: pair.ends[HOME].public_key(0).expect("one peer"),
        preshared_key: None,
        allowed: vec!["0.0.0.0/0".parse().expect("a range")],
        endpoint: Some(pair.addresses[FAR]),
    };
    let key = PrivateKey::generate(&mut rng);
    let mut stranger =
        Tunnel::new(&key, Config::default(), &[far], [4; 32], Nanos::ZERO).expect("valid settings");
    stranger.initiate(Nanos::ZERO, 0);
    let initiation = stranger.poll_datagram().expect("an initiation");
    let flood = |pair: &mut Pair| {
        let before = pair.ends[FAR].report();
        for i in 0..2_000u32 {
            let from = SocketAddr::new((0x0a00_0000 + i).to_be_bytes().into(), 7);
            let now = pair.now;
            pair.ends[FAR].handle_datagram(now, from, initiation.as_ref().into());
            while pair.ends[FAR].poll_datagram().is_some() {}
        }
        let after = pair.ends[FAR].report();
        let worked =
            after.refused["unknown_peer"] - before.refused.get("unknown_peer").unwrap_or(&0);
        (worked, after.cookies - before.cookies)
    };
    let (worked, cookies) = flood(&mut pair);
    assert!(worked <= 250, "{worked} were worked through");
    assert_eq!(worked + cookies, 2_000);
    // A session that stands is none the worse, and a new handshake gets through with its cookie, flood or not.
    pair.send(HOME, &up(100, 9));
    pair.run(pair.now + Nanos::from_millis(50));
    assert_eq!(pair.arrived[FAR].last(), Some(&up(100, 9)));
    let start = pair.now;
    let sessions = pair.ends[HOME].report().peers[0].sessions;
    pair.ends[HOME].initiate(start, 0);
    pair.collect(HOME);
    pair.run(start + secs(5) - Nanos::from_millis(1));
    assert_eq!(pair.ends[HOME].report().peers[0].sessions, sessions);
    flood(&mut pair);
    pair.run(start + secs(6));
    assert_eq!(pair.ends[HOME].report().peers[0].sessions, sessions + 1);
}

#[test]
fn several_peers_are_kept_apart() {
    let mut rng = ChaCha20Rng::seed_from_u64(13);
    let far_key = PrivateKey::generate(&mut rng);
    let keys: Vec<_> = (0..5).map(|_| PrivateKey::generate(&mut rng)).collect();
    let config = Config {
        erase_keys: false,
        ..Config::default()
    };
    let peers: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(i, k)| PeerConfig {
            public_key: k.public(),
            preshared_key: None,
            allowed: vec![format!("10.7.0.{}/32", i + 2).parse().expect("a range")],
            endpoint: None,
        })
        .collect();
    let mut far =
        Tunnel::new(&far_key, config.clone(), &peers, [1; 32], Nanos::ZERO).expect("valid");
    let far_at = address("203.0.113.7:51820");
    let mut homes: Vec<_> = keys
        .iter()
        .map(|k| {
            let peer = PeerConfig {
                public_key: far_key.public(),
                preshared_key: None,
                allowed: vec!["0.0.0.0/0".parse().expect("a range")],
                endpoint: Some(far_at),
            };
            Tunnel::new(k, config.clone(), &[peer], [2; 32], Nanos::ZERO).expect("valid")
        })
        .collect();
    let at = |i: usize| address(&format!("198.51.100.{i}:50000"));
    for (i, home) in homes.iter_mut().enumerate() {
        let mine = [10, 7, 0, i as u8 + 2];
        home.handle_inner(Nanos::ZERO, &packet(mine, [192, 0, 2, 9], 100, i as u32));
    }
    for _ in 0..6 {
        for (i, home) in homes.iter_mut().enumerate() {
            while let Some(d) = home.poll_datagram() {
                far.handle_datagram(Nanos::ZERO, at(i), BytesMut::from(d.as_ref()));
            }
        }
        while let Some(d) = far.poll_datagram() {
            let i = (0..5).find(|i| at(*i) == d.to).expect("one of ours");
            homes[i].handle_datagram(Nanos::ZERO, far_at, BytesMut::from(d.as_ref()));
        }
    }
    let mut got: Vec<usize> = std::iter::from_fn(|| far.poll_inner())
        .map(|p| p.peer)
        .collect();
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2, 3, 4]);
    far.handle_inner(Nanos::ZERO, &packet([192, 0, 2, 9], [10, 7, 0, 4], 100, 9));
    assert_eq!(
        far.poll_datagram().map(|d| (d.peer, d.to)),
        Some((2, at(2)))
    );
}

#[test]
fn settings_that_cannot_work_are_named() {
    let mut rng = ChaCha20Rng::seed_from_u64(14);
    let key = PrivateKey::generate(&mut rng);
    let own = PeerConfig {
        public_key: key.public(),
        preshared_key: None,
        allowed: vec![],
        endpoint: None,
    };
    let error = |config: Config, peers: &[PeerConfig]| {
        let made = Tunnel::new(&key, config, peers, [0; 32], Nanos::ZERO);
        made.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(error(Config::default(), &[]).contains("0 peers"));
    assert!(error(Config::default(), &[own]).contains("twice"));
}

#[test]
fn one_seed_gives_the_same_sizes_and_times() {
    let run = || {
        let config = Config {
            always_on: true,
            ..Config::default()
        };
        let mut pair = Pair::new(config, Config::default(), 15);
        pair.way.loss = 0.1;
        for i in 0..2_000u64 {
            pair.ends[HOME].plan(0, Nanos::from_millis(150 * i), 5);
        }
        for i in 0..300 {
            pair.run(secs(i));
            pair.send(HOME, &up(20 + (i as usize * 37) % 1_300, i as u32));
        }
        pair.log
    };
    let (a, b) = (run(), run());
    assert!(a.len() > 2_000);
    assert_eq!(a, b);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_datagram_makes_it_panic_or_speak(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..6) {
        let mut pair = Pair::default();
        pair.connect();
        let said = pair.log.len();
        let mut bytes = bytes;
        if let [a, b, c, d, ..] = &mut bytes[..] {
            (*a, *b, *c, *d) = (kind, 0, 0, 0);
        }
        pair.inject(FAR, address("198.51.100.4:50000"), &bytes);
        pair.inject(HOME, address("203.0.113.7:51820"), &bytes);
        prop_assert_eq!(pair.log.len(), said);
        prop_assert!(pair.arrived.iter().all(Vec::is_empty));
        pair.send(HOME, &bytes);
    }

    #[test]
    fn every_real_packet_arrives_whole_through_every_profile(
        lens in prop::collection::vec(24usize..1_420, 1..40), p in 0usize..4, hold in 0u64..50, seed in any::<u64>(),
    ) {
        let config = Config {
            profile: [Profile::Off, Profile::Fine, Profile::Default, Profile::Mtu][p],
            hold: Nanos::from_millis(hold),
            ..Config::default()
        };
        let mut pair = Pair::new(config.clone(), config, seed);
        let mut sent = Vec::new();
        for (i, len) in lens.iter().enumerate() {
            let packet = up(*len, i as u32);
            pair.send(HOME, &packet);
            pair.ends[HOME].plan(0, pair.now + Nanos::from_millis(3), 1);
            pair.run(pair.now + Nanos::from_millis(7));
            sent.push(packet);
        }
        pair.run(pair.now + secs(2));
        prop_assert_eq!(&pair.arrived[FAR], &sent);
    }
}
