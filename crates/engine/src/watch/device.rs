//! One device: what it did before, what it does now, and what of that is strange.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use chaff_abi::{Counters, FlowKey, Nanos};
use chaff_novelty::tails::{Prior, Settings, Tails};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Clock, Habit};
use super::window::{self, FEATURES, GROUPS, Scale};
use crate::alert::{AlertConfig, Evidence, Novelty, Severity, Way};

/// Numbers of a flow that ended: duration in seconds, IP bytes sent and received.
const FLOW: [Prior; 3] = [
    Prior {
        scale: 30.0,
        shape: 1.2,
    },
    Prior {
        scale: 2_000.0,
        shape: 1.2,
    },
    Prior {
        scale: 3_000.0,
        shape: 1.0,
    },
];
const FLOW_FEATURES: [&str; 3] = ["duration_s", "sent_bytes", "received_bytes"];
/// Of novel windows so much is learnt: what lasts becomes usual after a while, an attack of minutes does not.
const NOVEL_WEIGHT: f64 = 0.05;
/// New peers learnt in a short window once learning is over.
const NEW_PEERS: u32 = 10;
/// How many times more addresses, ports or failures than ever before there must be.
const SPREAD_FACTOR: f64 = 1.5;
const MAX_SERVICES: usize = 256;
const MAX_HABITS: usize = 128;
/// Silence after which it is not known any more whether a flow was answered.
const FORGET: u64 = 60_000_000_000;
/// Longest NTP request without extensions over IPv6.
const NTP_BYTES: u32 = 96;
/// Bytes a call of a beacon has on average at most.
const CALL_BYTES: u64 = 10_000;
/// Largest deviation of what is called a clock, as a share of its period.
const MAX_JITTER: f64 = 0.4;
/// Clocks that are alike are not reported again for this long, whomever they call, ns.
const TOLD: u64 = 86_400_000_000_000;
/// Regularity that makes a habit, nats.
const HABIT: f64 = 6.0;

/// Whom a device talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) address: [u8; 16],
    pub(super) version: u8,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// What stands behind an alert, so that the same is not said twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Column(usize),
    SentTo(Option<[u8; 16]>),
    Clock([u8; 16]),
    Flow,
}

/// What the owner's "this is normal" teaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Lesson {
    /// Values of columns of one of the windows.
    Window {
        long: bool,
        values: Vec<(usize, f64)>,
    },
    /// A clock, and any of its peer.
    Clock { habit: Habit },
    /// Values of a flow.
    Flow { values: Vec<f64> },
}

/// Something to report.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) novelty: Novelty,
    pub(super) severity: Severity,
    pub(super) score: f64,
    pub(super) usual: f64,
    pub(super) evidence: Vec<Evidence>,
    pub(super) subject: Subject,
    pub(super) lesson: Lesson,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    last: u64,
    /// The windows it was opened in.
    windows: [u64; 2],
    /// The device opened it, to one peer.
    asked: Option<Peer>,
    answered: bool,
}

/// Peers, the one that was not seen for the longest time goes first.
#[derive(Clone, Debug, Default)]
struct Peers {
    seen: BTreeMap<Peer, u64>,
    by_age: BTreeSet<(u64, Peer)>,
}

impl Peers {
    /// Whether it is known; its age is 0 then.
    fn touch(&mut self, peer: Peer, now: u64) -> bool {
        let Some(seen) = self.seen.get_mut(&peer) else {
            return false;
        };
        if *seen != now {
            self.by_age.remove(&(*seen, peer));
            self.by_age.insert((now, peer));
            *seen = now;
        }
        true
    }

    fn insert(&mut self, peer: Peer, now: u64, limit: usize) {
        if self.seen.len() >= limit.max(1)
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(peer, now);
        self.by_age.insert((now, peer));
    }
}

/// How often something was new among the last things, with decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Rarity {
    all: f64,
    new: f64,
}

impl Rarity {
    fn add(&mut self, is_new: bool) {
        // Half of it is forgotten after 5,000.
        let keep = 0.999_861_4;
        self.all = self.all * keep + 1.0;
        self.new = self.new * keep + f64::from(u8::from(is_new));
    }

    /// How rare something new is, nats.
    fn surprise(&self) -> f64 {
        ((self.all + 5.0) / (self.new + 0.5)).ln().max(0.0)
    }
}

/// What one device does.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// When learning began, ns on the clock of the input; negative after a restart.
    began: Option<i64>,
    peers: Peers,
    services: BTreeSet<(u8, u16)>,
    new_peer: Rarity,
    new_service: Rarity,
    new_in_window: u32,
    scales: [Scale; 2],
    flow: Tails,
    flows: BTreeMap<FlowKey, Open>,
    channels: BTreeMap<Peer, Channel>,
    habits: BTreeSet<Habit>,
    /// Clocks that were reported, and when.
    clocks: Vec<(u64, Habit)>,
    /// A second and the changes in it.
    changes: (u64, u32),
    pub(super) skipped: u64,
}

/// What is stored of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Profile {
    /// Time of learning so far, ns.
    learnt: i64,
    peers: Vec<Peer>,
    services: Vec<(u8, u16)>,
    new_peer: Rarity,
    new_service: Rarity,
    short: Vec<Vec<f64>>,
    long: Vec<Vec<f64>>,
    flow: Vec<Vec<f64>>,
    habits: Vec<Habit>,
}

impl Device {
    pub(super) fn new(config: &AlertConfig) -> Self {
        let interval = config.interval.0.max(1);
        Self {
            began: None,
            peers: Peers::default(),
            services: BTreeSet::new(),
            new_peer: Rarity::default(),
            new_service: Rarity::default(),
            new_in_window: 0,
            scales: [
                Scale::new(interval, false),
                Scale::new(interval.saturating_mul(30), true),
            ],
            flow: Tails::new(
                Settings {
                    strength: 300.0,
                    half_life: 5_000.0,
                },
                &FLOW,
            ),
            flows: BTreeMap::new(),
            channels: BTreeMap::new(),
            habits: BTreeSet::new(),
            clocks: Vec::new(),
            changes: (0, 0),
            skipped: 0,
        }
    }

    /// Whether anything was ever seen of it.
    pub(super) fn is_known(&self) -> bool {
        self.began.is_some()
    }

    /// Whether `now` lies in the learning time.
    pub(super) fn is_learning(&self, now: Nanos, config: &AlertConfig) -> bool {
        let Some(began) = self.began else { return true };
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        u64::try_from(now.saturating_sub(began)).unwrap_or(0) < config.learn.0
    }

    /// Takes note of packets of one flow: counts since the last call, sent and received; `key` device first.
    pub(super) fn observe(
        &mut self,
        now: Nanos,
        key: &FlowKey,
        ways: [&Counters; 2],
        config: &AlertConfig,
        found: &mut Vec<Found>,
    ) {
        if self.began.is_none() {
            self.began = Some(i64::try_from(now.0).unwrap_or(i64::MAX));
            for scale in &mut self.scales {
                scale.begin(now.0 / scale.length);
            }
        }
        self.roll(now, config, found);
        let [out, back] = ways;
        let group = is_group(&key.dst);
        for scale in &mut self.scales {
            scale.add(window::SENT, out.bytes as f64);
            scale.add(window::RECEIVED, back.bytes as f64);
            scale.add(window::SENT_PACKETS, out.packets as f64);
            scale.add(window::RECEIVED_PACKETS, back.packets as f64);
            if key.destination_port() == 53 && !group {
                scale.add(window::NAMES, out.bytes as f64);
            }
        }
        let second = now.0 / 1_000_000_000;
        if self.changes.0 != second {
            self.changes = (second, 0);
        }
        self.changes.1 = self.changes.1.saturating_add(1);
        if self.changes.1 > config.max_changes {
            self.skipped += 1;
            return;
        }
        if !group {
            self.follow(now, key, ways, config, found);
        }
    }

    /// The part of [`Device::observe`] that looks at one flow.
    fn follow(
        &mut self,
        now: Nanos,
        key: &FlowKey,
        [out, back]: [&Counters; 2],
        config: &AlertConfig,
        found: &mut Vec<Found>,
    ) {
        // Something came back that is no refusal.
        let answered = back.packets > u64::from(back.tcp_flags[2]);
        let mut asked = None;
        match self.flows.get_mut(key) {
            Some(open) => {
                open.last = now.0;
                asked = open.asked;
                if answered && !open.answered {
                    open.answered = true;
                    let windows = open.windows;
                    if asked.is_some() {
                        self.answer(windows);
                    }
                }
            }
            None => {
                let windows = [0, 1].map(|i| self.scales[i].index);
                if is_asking(key, out, back) {
                    let peer = Peer {
                        address: key.dst,
                        version: key.version,
                        protocol: key.protocol,
                        port: key.destination_port(),
                    };
                    asked = Some(peer);
                    self.open(now, peer, config);
                    if answered {
                        self.answer(windows);
                    }
                }
                if self.flows.len() < config.max_flows {
                    let open = Open {
                        last: now.0,
                        windows,
                        asked,
                        answered,
                    };
                    self.flows.insert(*key, open);
                }
            }
        }
        if let Some(peer) = asked
            && out.packets > 0
        {
            self.call(now, peer, out, config, found);
        }
    }

    fn answer(&mut self, windows: [u64; 2]) {
        for (scale, index) in self.scales.iter_mut().zip(windows) {
            if scale.index == index {
                scale.add(window::FRUITLESS, -1.0);
            }
        }
    }

    /// The device opens a flow.
    fn open(&mut self, now: Nanos, peer: Peer, config: &AlertConfig) {
        let learning = self.is_learning(now, config);
        for scale in &mut self.scales {
            scale.open(&peer.address, peer.port);
            scale.add(window::FRUITLESS, 1.0);
        }
        let known = self.peers.touch(peer, now.0);
        if !known {
            for scale in &mut self.scales {
                scale.add(window::NEW_PEERS, 1.0);
            }
            if !learning && self.new_in_window >= NEW_PEERS {
                // A scan neither floods the owner nor wipes what was learnt.
                self.scales.iter_mut().for_each(|s| s.unlearnt += 1);
                return;
            }
            self.new_in_window += 1;
        }
        let service = (peer.protocol, peer.port);
        let new_service = !self.services.contains(&service);
        if !known {
            let mut novelty = self.new_peer.surprise();
            if new_service {
                novelty = novelty.max(self.new_service.surprise());
            }
            self.add_channel(peer, Channel::new(!learning, novelty), config.max_channels);
            self.peers.insert(peer, now.0, config.max_peers);
        }
        if new_service && self.services.len() < MAX_SERVICES {
            self.services.insert(service);
        }
        self.new_peer.add(!known);
        self.new_service.add(new_service);
    }

    fn add_channel(&mut self, peer: Peer, channel: Channel, limit: usize) {
        if self.channels.len() >= limit.max(1) && !self.channels.contains_key(&peer) {
            // Whom it called least, and of these the one not called for the longest time, makes room.
            let least = self
                .channels
                .iter()
                .min_by_key(|(_, c)| (c.calls.min(3), c.last))
                .map(|(p, _)| *p);
            if let Some(p) = least {
                self.channels.remove(&p);
            }
        }
        self.channels.insert(peer, channel);
    }

    /// The device sends something on a flow that it opened.
    fn call(
        &mut self,
        now: Nanos,
        peer: Peer,
        out: &Counters,
        config: &AlertConfig,
        found: &mut Vec<Found>,
    ) {
        if !self.channels.contains_key(&peer) {
            if !self.peers.seen.contains_key(&peer) {
                return;
            }
            self.add_channel(peer, Channel::new(false, 0.0), config.max_channels);
        }
        let learning = self.is_learning(now, config);
        let window = self.scales[0].index;
        let Some(channel) = self.channels.get_mut(&peer) else {
            return;
        };
        if channel.sent.0 != window {
            channel.sent = (window, 0);
        }
        channel.sent.1 += out.bytes;
        channel.bytes += out.bytes;
        if !channel.hear(out.first.0, out.last.0) {
            return;
        }
        // Time, names and addresses are asked for by a clock, and there is always another server; what calls with much to say
        // each time is a stream.
        let asks = peer.protocol == 17
            && (matches!(peer.port, 53 | 67 | 547)
                || peer.port == 123 && out.bytes_max <= NTP_BYTES);
        let is_clock = |c: &Clock| c.jitter <= MAX_JITTER;
        let small = channel.bytes <= channel.calls * CALL_BYTES;
        let Some(clock) = channel.clock().filter(is_clock).filter(|_| small && !asks) else {
            return;
        };
        let habit = Habit::new(peer.protocol, peer.port, &clock);
        let known = self.habits.iter().any(|h| h.is_like(&habit));
        if channel.fresh && !learning {
            let score = clock.surprise + channel.novelty;
            let told = |(at, h): &(u64, Habit)| *at + TOLD > now.0 && h.is_like(&habit);
            let known = known || self.clocks.iter().any(told);
            if !known && score >= config.threshold && clock.surprise >= config.threshold / 3.0 {
                let calls = channel.calls;
                if self.clocks.len() == MAX_HABITS {
                    self.clocks.remove(0);
                }
                self.clocks.push((now.0, habit));
                found.push(clock_found(
                    peer,
                    &clock,
                    habit,
                    channel.novelty,
                    calls,
                    config,
                ));
            }
        } else if !known && !channel.noted && clock.surprise >= HABIT {
            channel.noted = true;
            if self.habits.len() < MAX_HABITS {
                self.habits.insert(habit);
            }
        }
    }

    /// Takes note of a flow that ended, or of a part of a long one; `key` device first.
    pub(super) fn flow_ended(
        &mut self,
        now: Nanos,
        key: &FlowKey,
        [out, back]: [&Counters; 2],
        duration: Nanos,
        config: &AlertConfig,
        found: &mut Vec<Found>,
    ) {
        if self.began.is_none() || is_group(&key.dst) {
            return;
        }
        let row = [duration.as_secs_f64(), out.bytes as f64, back.bytes as f64];
        let peer = Peer {
            address: key.dst,
            version: key.version,
            protocol: key.protocol,
            port: key.destination_port(),
        };
        let mut weight = 1.0;
        if !self.is_learning(now, config)
            && let Some(channel) = self.channels.get(&peer).filter(|c| c.fresh)
        {
            let strange = self.flow.score(&row);
            let score = strange + channel.novelty;
            if score >= config.threshold + 2.0 && strange >= config.threshold / 2.0 {
                weight = NOVEL_WEIGHT;
                let mut evidence: Vec<Evidence> = (0..row.len())
                    .map(|k| proof(&self.flow, k, FLOW_FEATURES[k], row[k]))
                    .collect();
                evidence.sort_by(|a, b| b.surprise.total_cmp(&a.surprise));
                evidence.push(novelty_proof(channel.novelty));
                found.push(Found {
                    novelty: Novelty::Destination {
                        address: key.destination(),
                        port: peer.port,
                        protocol: peer.protocol,
                        known_peers: self.peers.seen.len(),
                        bytes: [out.bytes, back.bytes],
                        duration_s: duration.as_secs_f64(),
                    },
                    severity: Severity::Low,
                    score,
                    usual: 0.0,
                    evidence,
                    subject: Subject::Flow,
                    lesson: Lesson::Flow {
                        values: row.to_vec(),
                    },
                });
            }
        }
        self.flow.learn(&row, weight);
    }

    /// Looks at the running windows.
    pub(super) fn look(&mut self, now: Nanos, config: &AlertConfig, found: &mut Vec<Found>) {
        if self.began.is_none() {
            return;
        }
        self.roll(now, config, found);
        for long in [false, true] {
            self.judge(now, long, false, config, found);
        }
    }

    /// Ends windows that are over.
    fn roll(&mut self, now: Nanos, config: &AlertConfig, found: &mut Vec<Found>) {
        for (i, long) in [false, true].into_iter().enumerate() {
            let index = now.0 / self.scales[i].length;
            if index <= self.scales[i].index {
                continue;
            }
            let end = Nanos((self.scales[i].index + 1).saturating_mul(self.scales[i].length));
            self.judge(end.min(now), long, true, config, found);
            let weight = if self.scales[i].novel {
                NOVEL_WEIGHT
            } else {
                1.0
            };
            self.scales[i].close(index, weight);
            if !long {
                self.new_in_window = 0;
                self.flows
                    .retain(|_, f| f.last.saturating_add(FORGET) > now.0);
            }
        }
    }

    /// Compares a window, over or not, with what is usual; each group of columns is reported once a window.
    fn judge(
        &mut self,
        now: Nanos,
        long: bool,
        is_over: bool,
        config: &AlertConfig,
        found: &mut Vec<Found>,
    ) {
        if self.is_learning(now, config) {
            return;
        }
        let scale = &self.scales[usize::from(long)];
        if scale.novel {
            return;
        }
        let row = scale.row();
        let mut hits = Vec::new();
        for (g, group) in GROUPS.iter().enumerate() {
            // That it goes to a new peer makes an upload stranger.
            let more = if g == 1 { self.top_novelty() } else { 0.0 };
            let proofs: Vec<(usize, Evidence)> = group
                .iter()
                // What waits for an answer now may still get one.
                .filter(|c| is_over || **c != window::FRUITLESS)
                .filter(|c| row[**c] >= floor(**c, long, config))
                .map(|&c| (c, proof(&scale.tails, c, FEATURES[c], row[c])))
                .filter(|(c, e)| {
                    let most = scale.tails.quantile(*c, 1.0);
                    let factor = if g == 0 {
                        SPREAD_FACTOR
                    } else {
                        config.rate_factor
                    };
                    e.surprise + more >= config.threshold
                        && e.surprise >= config.threshold / 2.0
                        && e.value >= most * factor
                })
                .collect();
            let best = proofs
                .iter()
                .max_by(|a, b| a.1.surprise.total_cmp(&b.1.surprise));
            if let Some((column, best)) = best {
                hits.push((g, *column, best.surprise + more, proofs.clone()));
            }
        }
        for (group, column, score, proofs) in hits {
            let f = self.window_found(now, long, (group, column), score, proofs, config);
            found.push(f);
            self.scales[usize::from(long)].novel = true;
            self.scales.iter_mut().for_each(|s| s.told = true);
        }
    }

    fn window_found(
        &self,
        now: Nanos,
        long: bool,
        (group, column): (usize, usize),
        score: f64,
        mut proofs: Vec<(usize, Evidence)>,
        config: &AlertConfig,
    ) -> Found {
        let scale = &self.scales[usize::from(long)];
        let row = scale.row();
        let began = scale.index.saturating_mul(scale.length);
        let interval_s = (now.0.saturating_sub(began).min(scale.length) as f64 / 1e9).max(0.1);
        let usual = |c: usize| scale.tails.quantile(c, 1.0);
        let sure = |by: f64| {
            if score >= config.threshold + by {
                Severity::High
            } else {
                Severity::Medium
            }
        };
        let (novelty, severity, subject, main) = match group {
            0 => {
                let by_ports = row[window::PORTS] > row[window::ADDRESSES];
                let main = if by_ports {
                    window::PORTS
                } else if row[window::ADDRESSES] > 1.0 {
                    window::ADDRESSES
                } else {
                    window::FLOWS
                };
                let novelty = Novelty::ManyDestinations {
                    unreported: scale.unlearnt,
                    interval_s,
                    flows: row[window::FLOWS] as u64,
                    addresses: row[window::ADDRESSES] as u64,
                    ports: row[window::PORTS] as u64,
                    fruitless: if proofs.iter().any(|(c, _)| *c == window::FRUITLESS) {
                        row[window::FRUITLESS] as u64
                    } else {
                        0
                    },
                };
                let severity = if long { sure(2.0) } else { Severity::High };
                (novelty, severity, Subject::Column(main), main)
            }
            1 | 2 => {
                let sent = group == 1;
                let (bytes, packets) = if sent {
                    (window::SENT, window::SENT_PACKETS)
                } else {
                    (window::RECEIVED, window::RECEIVED_PACKETS)
                };
                let top = self.top().filter(|_| sent);
                let novelty = Novelty::Rate {
                    bytes: row[bytes] as u64,
                    busiest_before: usual(bytes) as u64,
                    interval_s,
                    way: if sent { Way::Sent } else { Way::Received },
                    packets: row[packets] as u64,
                    address: top.map(address),
                };
                if sent {
                    let subject = Subject::SentTo(top.map(|p| p.address));
                    (novelty, sure(3.0), subject, bytes)
                } else {
                    (novelty, Severity::Low, Subject::Column(bytes), bytes)
                }
            }
            _ => {
                let novelty = Novelty::Names {
                    bytes: row[window::NAMES] as u64,
                    busiest_before: usual(window::NAMES) as u64,
                    interval_s,
                };
                let subject = Subject::Column(window::NAMES);
                (novelty, sure(2.0), subject, column)
            }
        };
        proofs.sort_by(|a, b| b.1.surprise.total_cmp(&a.1.surprise));
        let lesson = Lesson::Window {
            long,
            values: proofs.iter().map(|(c, e)| (*c, e.value)).collect(),
        };
        let mut evidence: Vec<Evidence> = proofs.into_iter().map(|(_, e)| e).collect();
        if group == 1 && self.top_novelty() > 0.0 {
            evidence.push(novelty_proof(self.top_novelty()));
        }
        Found {
            novelty,
            severity,
            score,
            usual: usual(main),
            subject,
            lesson,
            evidence,
        }
    }

    /// The peer that got most bytes in the running window, or in the one before.
    fn top(&self) -> Option<Peer> {
        let window = self.scales[0].index;
        self.channels
            .iter()
            .filter(|(_, c)| c.sent.0 + 1 >= window)
            .max_by_key(|(_, c)| c.sent.1)
            .map(|(p, _)| *p)
    }

    /// How rare it is that the peer with most of the bytes sent is new, nats; 0 when it is not.
    fn top_novelty(&self) -> f64 {
        let top = self.top().and_then(|p| self.channels.get(&p));
        top.filter(|c| c.fresh).map_or(0.0, |c| c.novelty)
    }

    /// Learns that something reported is normal: the same, and up to twice as much, is not reported again.
    pub(super) fn accept(&mut self, lesson: &Lesson) {
        match lesson {
            Lesson::Window { long, values } => {
                for (column, value) in values {
                    for (i, scale) in self.scales.iter_mut().enumerate() {
                        // What is normal in a short window is so in a long one.
                        if i == 1 || !long {
                            scale.accept(*column, *value);
                        }
                    }
                }
            }
            Lesson::Clock { habit } => {
                if self.habits.len() < MAX_HABITS {
                    self.habits.insert(*habit);
                }
            }
            Lesson::Flow { values } => {
                for (column, value) in values.iter().enumerate() {
                    self.flow.accept(column, value * 2.0);
                }
            }
        }
    }

    pub(super) fn profile(&self, now: Nanos) -> Profile {
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        Profile {
            learnt: now.saturating_sub(self.began.unwrap_or(now)),
            peers: self.peers.seen.keys().copied().collect(),
            services: self.services.iter().copied().collect(),
            new_peer: self.new_peer,
            new_service: self.new_service,
            short: self.scales[0].tails.histograms(),
            long: self.scales[1].tails.histograms(),
            flow: self.flow.histograms(),
            habits: self.habits.iter().copied().collect(),
        }
    }

    /// A device that goes on where a profile ended.
    pub(super) fn resume(
        profile: Profile,
        now: Nanos,
        config: &AlertConfig,
    ) -> Result<Self, String> {
        let mut device = Self::new(config);
        let clock = i64::try_from(now.0).unwrap_or(i64::MAX);
        device.began = Some(clock.saturating_sub(profile.learnt.max(0)));
        for peer in profile.peers.into_iter().take(config.max_peers) {
            device.peers.insert(peer, 0, config.max_peers);
        }
        device.services = profile.services.into_iter().take(MAX_SERVICES).collect();
        device.habits = profile.habits.into_iter().take(MAX_HABITS).collect();
        for r in [profile.new_peer, profile.new_service] {
            if !((0.0..1e6).contains(&r.all) && (0.0..1e6).contains(&r.new)) {
                return Err("a count of new peers is no number from 0 to 1e6".to_owned());
            }
        }
        device.new_peer = profile.new_peer;
        device.new_service = profile.new_service;
        let [short, long] = &mut device.scales;
        for (tails, stored) in [
            (&mut short.tails, &profile.short),
            (&mut long.tails, &profile.long),
            (&mut device.flow, &profile.flow),
        ] {
            tails.restore(stored).map_err(|e| e.to_string())?;
        }
        for scale in &mut device.scales {
            scale.begin(now.0 / scale.length);
        }
        Ok(device)
    }
}

fn clock_found(
    peer: Peer,
    clock: &Clock,
    habit: Habit,
    novelty: f64,
    calls: u64,
    config: &AlertConfig,
) -> Found {
    let score = clock.surprise + novelty;
    let regular = Evidence {
        feature: "call_jitter".to_owned(),
        value: clock.jitter,
        usual_median: 1.0,
        usual_high: 1.0,
        surprise: clock.surprise,
    };
    Found {
        novelty: Novelty::Beacon {
            address: address(peer),
            port: peer.port,
            protocol: peer.protocol,
            period_s: clock.period,
            jitter: clock.jitter,
            calls,
        },
        severity: if score >= config.threshold + 6.0 {
            Severity::High
        } else {
            Severity::Medium
        },
        score,
        usual: 0.0,
        evidence: vec![regular, novelty_proof(novelty)],
        subject: Subject::Clock(peer.address),
        lesson: Lesson::Clock { habit },
    }
}

fn proof(tails: &Tails, column: usize, feature: &str, value: f64) -> Evidence {
    Evidence {
        feature: feature.to_owned(),
        value,
        usual_median: tails.quantile(column, 0.5),
        usual_high: tails.quantile(column, 0.99),
        surprise: tails.surprise(column, value),
    }
}

fn novelty_proof(surprise: f64) -> Evidence {
    Evidence {
        feature: "is_new_peer".to_owned(),
        value: 1.0,
        usual_median: 0.0,
        usual_high: 0.0,
        surprise,
    }
}

/// Below this nobody is alarmed, however rare it is.
fn floor(column: usize, long: bool, config: &AlertConfig) -> f64 {
    let short = match column {
        window::SENT | window::RECEIVED => config.rate_floor_bytes as f64,
        window::SENT_PACKETS | window::RECEIVED_PACKETS => 1_000.0,
        window::FLOWS => 30.0,
        window::NAMES => 4_000.0,
        window::FRUITLESS => 10.0,
        _ => 8.0,
    };
    if long { short * 2.0 } else { short }
}

/// Whether the device opened a flow of which this is the first that is seen: it sent first, and not from a well-known port
/// to one that is none.
fn is_asking(key: &FlowKey, out: &Counters, back: &Counters) -> bool {
    let first = match (out.packets, back.packets) {
        (0, _) => false,
        (_, 0) => true,
        _ => out.first <= back.first,
    };
    let (own, other) = (key.source_port(), key.destination_port());
    let serves = own != 0 && own < 1_024 && other >= 1_024;
    // A connection that was open before it was seen: the lower port is the one that was asked.
    let in_the_middle = key.protocol == 6 && out.tcp_flags[1] == 0 && back.tcp_flags[1] == 0;
    if in_the_middle {
        return out.packets > 0 && other <= own;
    }
    first && !serves
}

/// Multicast, broadcast, unspecified.
fn is_group(address: &[u8; 16]) -> bool {
    match ip(address) {
        IpAddr::V4(v4) => {
            v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.octets()[3] == 255
        }
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified(),
    }
}

fn ip(address: &[u8; 16]) -> IpAddr {
    std::net::Ipv6Addr::from(*address).to_canonical()
}

fn address(peer: Peer) -> IpAddr {
    ip(&peer.address)
}
