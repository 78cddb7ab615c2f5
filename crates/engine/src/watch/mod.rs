//! Who does what it never did: one profile a device, learnt in a grace period and from then on, and alerts from it.
//!
//! Data flow: `counts of flows, flows that end, time → [`Device`] (windows of 10 s and 5 min, calls of each peer, flows) →
//! rarity in nats → [`Watch::poll`]`. Windows are judged every second while they run, so that nobody waits for their end; the
//! detector is [`chaff_novelty::tails`], whose page says why. Nothing here reads a clock: a gateway in virtual time alerts
//! as a live one.
//!
//! Memory is bounded by [`AlertConfig`]: with its defaults measured 360 KiB a device (`examples/load.rs`). So is time: a change of a flow
//! costs a few look-ups in maps of that size, at most [`AlertConfig::max_changes`] a device and second, and a second costs
//! two windows of ten numbers a device.

mod channel;
mod device;
mod found;
mod peers;
mod window;

use std::collections::{BTreeMap, VecDeque};

use chaff_abi::{Counters, FlowKey, Nanos};
use serde::{Deserialize, Serialize};

use crate::alert::{Alert, AlertConfig, Novelty, Severity};
use crate::event::Seconds;
use device::{Device, Profile};
use found::{Found, Lesson, Subject};

/// Version of what [`Watch::store`] writes.
const VERSION: u32 = 2;
const SECOND: Nanos = Nanos::from_secs(1);
/// Alerts to which the owner may still answer.
const RECENT: usize = 512;
/// Subjects of which it is known when they were reported last.
const SUBJECTS: usize = 1_024;
/// Something that became this much rarer (20 times) is reported again, but not before [`AGAIN`].
const RARER: f64 = 3.0;
const AGAIN: Nanos = Nanos::from_secs(600);
const HOUR: Nanos = Nanos::from_secs(3_600);

/// The profiles of all devices.
pub(crate) struct Watch {
    config: AlertConfig,
    labels: Vec<String>,
    /// By unit; unit 0 stands for what is not listed and has no profile.
    devices: Vec<Device>,
    /// Profiles of devices that are not listed at present.
    absent: BTreeMap<String, Profile>,
    told: BTreeMap<(usize, Subject), Told>,
    /// Times of the last alerts of each unit.
    limits: Vec<Limit>,
    recent: VecDeque<Recent>,
    next_id: u64,
    next_look: Nanos,
    ready: VecDeque<Alert>,
    found: Vec<Found>,
    suppressed: u64,
}

#[derive(Clone, Copy)]
struct Told {
    at: Nanos,
    score: f64,
    since: u64,
}

#[derive(Clone, Default)]
struct Limit {
    times: VecDeque<Nanos>,
    low: Option<Nanos>,
}

/// An alert to which the owner may answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Recent {
    id: u64,
    device: String,
    summary: String,
    lesson: Lesson,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    next_id: u64,
    devices: BTreeMap<String, Profile>,
    recent: Vec<Recent>,
}

/// Why the owner's answer to an alert was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// There is no such alert, or it is too old.
    #[error("no alert {id}: known are the last {known}, up to {last}")]
    Unknown {
        /// Which was asked for.
        id: u64,
        /// Alerts that are remembered.
        known: usize,
        /// The newest.
        last: u64,
    },
    /// Its device is not in the configuration any more.
    #[error("alert {id} is of {device}, which is not among the devices now")]
    Gone {
        /// Which was asked for.
        id: u64,
        /// Its device.
        device: String,
    },
    /// Alerts are switched off.
    #[error("alerts are switched off")]
    Off,
}

impl Watch {
    /// Profiles for the devices with these labels; index 0 is not watched. `stored` is what [`Watch::store`] gave, or empty.
    pub(crate) fn new(
        config: AlertConfig,
        labels: Vec<String>,
        stored: &[u8],
        now: Nanos,
    ) -> Result<Self, String> {
        let mut stored = read(stored)?;
        let mut devices = Vec::with_capacity(labels.len());
        for (i, label) in labels.iter().enumerate() {
            devices.push(match stored.devices.remove(label) {
                Some(profile) if i > 0 => Device::resume(profile, now, &config)
                    .map_err(|e| format!("device {label}: {e}"))?,
                _ => Device::new(&config),
            });
        }
        Ok(Self {
            limits: vec![Limit::default(); labels.len()],
            labels,
            devices,
            absent: stored.devices,
            told: BTreeMap::new(),
            recent: stored.recent.into(),
            next_id: stored.next_id,
            next_look: now,
            ready: VecDeque::new(),
            found: Vec::new(),
            suppressed: 0,
            config,
        })
    }

    /// Takes counts of one flow, sent and received since the last call; `key` device first.
    pub(crate) fn observe(&mut self, now: Nanos, unit: usize, key: &FlowKey, ways: [&Counters; 2]) {
        self.look(now);
        let Some(device) = self.devices.get_mut(unit).filter(|_| unit > 0) else {
            return;
        };
        device.observe(now, key, ways, &self.config, &mut self.found);
        self.tell(now, unit);
    }

    /// Takes a flow that ended; `key` device first.
    pub(crate) fn flow_ended(
        &mut self,
        now: Nanos,
        unit: usize,
        key: &FlowKey,
        ways: [&Counters; 2],
        duration: Nanos,
    ) {
        let Some(device) = self.devices.get_mut(unit).filter(|_| unit > 0) else {
            return;
        };
        device.flow_ended(now, key, ways, duration, &self.config, &mut self.found);
        self.tell(now, unit);
    }

    /// Looks at all running windows, once a second.
    pub(crate) fn look(&mut self, now: Nanos) {
        if now < self.next_look {
            return;
        }
        self.next_look = Nanos(now.0 - now.0 % SECOND.0) + SECOND;
        for unit in 1..self.devices.len() {
            self.devices[unit].look(now, &self.config, &mut self.found);
            self.tell(now, unit);
        }
    }

    /// The next alert.
    pub(crate) fn poll(&mut self) -> Option<Alert> {
        self.ready.pop_front()
    }

    /// Things that were found and not reported, because they had been already or there were too many.
    pub(crate) fn suppressed(&self) -> u64 {
        self.suppressed
    }

    /// Changes of flows that were not looked at one by one.
    pub(crate) fn skipped(&self) -> u64 {
        self.devices.iter().map(|d| d.skipped).sum()
    }

    /// Devices that are past their learning time, and all that were seen.
    pub(crate) fn learnt(&self, now: Nanos) -> [usize; 2] {
        let seen = self.devices.iter().skip(1).filter(|d| d.is_known());
        let done = seen.clone().filter(|d| !d.is_learning(now, &self.config));
        [done.count(), seen.count()]
    }

    /// Learns that what an alert told is normal; gives its sentence.
    pub(crate) fn accept(&mut self, id: u64) -> Result<String, AcceptError> {
        let Some(recent) = self.recent.iter().find(|r| r.id == id) else {
            return Err(AcceptError::Unknown {
                id,
                known: self.recent.len(),
                last: self.next_id.saturating_sub(1),
            });
        };
        let unit = self.labels.iter().position(|l| *l == recent.device);
        let Some(device) = unit.and_then(|u| self.devices.get_mut(u)) else {
            return Err(AcceptError::Gone {
                id,
                device: recent.device.clone(),
            });
        };
        device.accept(&recent.lesson);
        Ok(recent.summary.clone())
    }

    /// What was learnt, as JSON.
    pub(crate) fn store(&self, now: Nanos) -> Vec<u8> {
        let listed = self.labels.iter().zip(&self.devices).skip(1);
        let mut devices = self.absent.clone();
        devices.extend(
            listed
                .filter(|(_, d)| d.is_known())
                .map(|(label, d)| (label.clone(), d.profile(now))),
        );
        let stored = Stored {
            version: VERSION,
            next_id: self.next_id,
            devices,
            recent: self.recent.iter().cloned().collect(),
        };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Turns what was found into alerts, but for what was said already.
    fn tell(&mut self, now: Nanos, unit: usize) {
        if self.found.is_empty() {
            return;
        }
        for found in std::mem::take(&mut self.found) {
            let key = (unit, found.subject);
            // Its calls or bytes were reported already.
            if let Novelty::Destination { address, .. } = found.novelty {
                let of = crate::config::mapped(address);
                let said = [Subject::Clock(of), Subject::SentTo(Some(of))];
                if said.iter().any(|s| self.told.contains_key(&(unit, *s))) {
                    self.suppressed += 1;
                    continue;
                }
            }
            let mut since = 0;
            if let Some(told) = self.told.get_mut(&key) {
                // Clocks become surer with every call.
                let grows = matches!(found.subject, Subject::Clock(_) | Subject::Flow);
                let rarer = !grows && found.score >= told.score + RARER && now >= told.at + AGAIN;
                if now < told.at + self.config.repeat && !rarer {
                    told.since += 1;
                    self.suppressed += 1;
                    continue;
                }
                since = told.since;
            }
            if !self.limits[unit].allow(now, found.severity, &self.config) {
                self.suppressed += 1;
                continue;
            }
            self.note(key, now, found.score);
            self.raise(now, unit, found, since);
        }
    }

    fn note(&mut self, key: (usize, Subject), at: Nanos, score: f64) {
        if self.told.len() >= SUBJECTS && !self.told.contains_key(&key) {
            let oldest = self.told.iter().min_by_key(|(_, t)| t.at).map(|(k, _)| *k);
            if let Some(oldest) = oldest {
                self.told.remove(&oldest);
            }
        }
        let since = 0;
        self.told.insert(key, Told { at, score, since });
    }

    fn raise(&mut self, now: Nanos, unit: usize, found: Found, suppressed: u64) {
        let device = self.labels[unit].clone();
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        let summary = found.novelty.sentence(&device, found.usual);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent {
            id,
            device: device.clone(),
            summary: summary.clone(),
            lesson: found.lesson,
        });
        self.ready.push_back(Alert {
            at: Seconds(now),
            device,
            novelty: found.novelty,
            id,
            severity: found.severity,
            summary,
            score: found.score,
            evidence: found.evidence,
            suppressed,
        });
    }
}

impl Limit {
    fn allow(&mut self, now: Nanos, severity: Severity, config: &AlertConfig) -> bool {
        if severity == Severity::Low {
            if self.low.is_some_and(|at| now < at + config.low_every) {
                return false;
            }
            self.low = Some(now);
            return true;
        }
        while self.times.front().is_some_and(|at| *at + HOUR <= now) {
            self.times.pop_front();
        }
        if self.times.len() >= config.hourly as usize {
            return false;
        }
        self.times.push_back(now);
        true
    }
}

/// Checks what a driver stored of [`crate::Gateway::history`], before a gateway is made of it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_history(stored: &[u8]) -> Result<(), String> {
    let labels = |s: &Stored| s.devices.keys().cloned().collect::<Vec<_>>();
    let mut all = vec![String::new()];
    all.extend(labels(&read(stored)?));
    Watch::new(AlertConfig::default(), all, stored, Nanos::ZERO).map(|_| ())
}

fn read(stored: &[u8]) -> Result<Stored, String> {
    if stored.is_empty() {
        return Ok(Stored {
            version: VERSION,
            next_id: 1,
            devices: BTreeMap::new(),
            recent: Vec::new(),
        });
    }
    #[derive(Deserialize)]
    struct Head {
        version: Option<u32>,
    }
    let head: Head = serde_json::from_slice(stored).map_err(|e| e.to_string())?;
    match head.version {
        Some(VERSION) => {}
        Some(other) => return Err(format!("its version is {other}, known is {VERSION}")),
        None => return Err(format!("it has no version, known is {VERSION}")),
    }
    let mut stored: Stored = serde_json::from_slice(stored).map_err(|e| e.to_string())?;
    let extra = stored.recent.len().saturating_sub(RECENT);
    stored.recent.drain(..extra);
    Ok(stored)
}

#[cfg(test)]
mod tests;
