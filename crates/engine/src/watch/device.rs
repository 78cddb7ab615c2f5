//! One device: what it did before, what it does now, and what of that is strange.

mod calls;
mod judge;
mod profile;

use std::collections::{BTreeMap, BTreeSet};

use chaff_abi::{Counters, FlowKey, Nanos};
use chaff_novelty::tails::{Settings, Tails};

use super::channel::{Channel, Habit};
use super::found::Found;
use super::peers::{Peer, Peers, Rarity, is_group};
use super::window::{self, Scale};
use crate::alert::AlertConfig;
pub(super) use profile::Profile;

/// Of novel windows so much is learnt: what lasts becomes usual after a while, an attack of minutes does not.
const NOVEL_WEIGHT: f64 = 0.05;
const MAX_SERVICES: usize = 256;
const MAX_HABITS: usize = 128;

#[derive(Clone, Copy, Debug)]
struct Open {
    last: u64,
    /// The windows it was opened in.
    windows: [u64; 2],
    /// The device opened it, to one peer.
    asked: Option<Peer>,
    answered: bool,
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
                &calls::FLOW,
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
}
