//! What is kept of a device over a restart, and what its owner teaches.

use chaff_abi::Nanos;
use serde::{Deserialize, Serialize};

use super::{Device, MAX_HABITS, MAX_SERVICES};
use crate::alert::AlertConfig;
use crate::watch::channel::Habit;
use crate::watch::found::Lesson;
use crate::watch::peers::{Peer, Rarity};

/// What is stored of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::watch) struct Profile {
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
    /// Learns that something reported is normal: the same, and up to twice as much, is not reported again.
    pub(in crate::watch) fn accept(&mut self, lesson: &Lesson) {
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

    pub(in crate::watch) fn profile(&self, now: Nanos) -> Profile {
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
    pub(in crate::watch) fn resume(
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
