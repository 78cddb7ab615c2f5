//! Flows and calls, one by one: who is called, whether somebody answers, and how regularly.

use chaff_abi::{Counters, FlowKey, Nanos};
use chaff_novelty::tails::Prior;

use super::{Device, MAX_HABITS, MAX_SERVICES, NOVEL_WEIGHT, Open};
use crate::alert::{AlertConfig, Evidence, Novelty, Severity};
use crate::watch::channel::{Channel, Clock, Habit};
use crate::watch::found::{Found, Lesson, Subject, clock_found, novelty_proof, proof};
use crate::watch::peers::{Peer, is_asking, is_group};
use crate::watch::window;

/// Numbers of a flow that ended: duration in seconds, IP bytes sent and received.
pub(super) const FLOW: [Prior; 3] = [
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
/// New peers learnt in a short window once learning is over.
const NEW_PEERS: u32 = 10;
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

impl Device {
    /// The part of [`Device::observe`] that looks at one flow.
    pub(super) fn follow(
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
    pub(in crate::watch) fn flow_ended(
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
}
