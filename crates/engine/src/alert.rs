//! The first local alert: a device does what it never did before.
//!
//! Each device has a history of peers (address, port, protocol) and of its busiest interval. During the learning time
//! both only grow. Afterwards a new peer, or an interval busier than `rate_factor` times the busiest so far, is an
//! alert, and joins the history so that it is said once. The history is bounded; at the bound the peer that was not
//! seen for the longest time makes room.

use std::collections::{BTreeMap, BTreeSet};

use chaff_abi::{FlowKey, Nanos};
use serde::{Deserialize, Serialize};

/// Settings of the novelty alert.
#[derive(Clone, Debug)]
pub struct AlertConfig {
    /// Time after a device is first seen during which nothing is reported.
    pub learn: Nanos,
    /// Peers kept per device.
    pub max_peers: usize,
    /// New peers reported per device and interval; the rest is counted, said in one alert, and not learnt, so that a scan
    /// neither floods the owner nor wipes what was learnt.
    pub max_new_peers: u32,
    /// Interval over which bytes are compared.
    pub interval: Nanos,
    /// How many times busier than ever before an interval must be.
    pub rate_factor: f64,
    /// Intervals below this many bytes never alert.
    pub rate_floor_bytes: u64,
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            learn: Nanos::from_secs(3_600),
            max_peers: 1_024,
            max_new_peers: 10,
            interval: Nanos::from_secs(10),
            rate_factor: 3.0,
            rate_floor_bytes: 100_000,
        }
    }
}

/// What was new.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Novelty {
    /// The device talked to a peer that is not in its history.
    Destination {
        /// Peer address.
        address: std::net::IpAddr,
        /// Peer port, 0 for protocols without ports.
        port: u16,
        /// IP protocol number.
        protocol: u8,
        /// Peers known before.
        known_peers: usize,
    },
    /// The device talked to more new peers in an interval than are reported one by one; those are not learnt.
    ManyDestinations {
        /// New peers beyond the reported ones.
        unreported: u64,
        /// Length of the interval, seconds.
        interval_s: f64,
    },
    /// The device moved more bytes in an interval than `rate_factor` times its busiest so far.
    Rate {
        /// IP bytes in the interval, both directions.
        bytes: u64,
        /// Busiest interval before, bytes.
        busiest_before: u64,
        /// Length of the interval, seconds.
        interval_s: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Peer {
    address: [u8; 16],
    version: u8,
    protocol: u8,
    port: u16,
}

/// History of one device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    /// When learning began, ns on the clock of the input; negative after a restart.
    #[serde(skip)]
    began: Option<i64>,
    /// What was learnt before the last restart, ns.
    learnt: i64,
    peers: Vec<Peer>,
    #[serde(skip)]
    index: BTreeMap<Peer, u64>,
    /// The same, longest unseen first: at the bound each new peer of a flood asks for it.
    #[serde(skip)]
    by_age: BTreeSet<(u64, Peer)>,
    busiest: u64,
    #[serde(skip)]
    new_peers: u32,
    #[serde(skip)]
    unreported: u64,
    #[serde(skip)]
    interval_start: u64,
    #[serde(skip)]
    interval_bytes: u64,
}

impl History {
    /// Takes note of one flow, `key` device first, and returns what is new about it.
    ///
    /// The peer's port counts only where it names a service: the lower of the two ports, or 0 when the device's own
    /// port is the lower one (the device is the server then, and the peer's port is arbitrary).
    pub(crate) fn observe(
        &mut self,
        now: Nanos,
        key: &FlowKey,
        config: &AlertConfig,
    ) -> Option<Novelty> {
        let learning = self.learning(now, config);
        let (own, other) = (key.source_port(), key.destination_port());
        let port = if other <= own { other } else { 0 };
        let peer = Peer {
            address: key.dst,
            version: key.version,
            protocol: key.protocol,
            port,
        };
        if let Some(seen) = self.index.get_mut(&peer) {
            if *seen != now.0 {
                self.by_age.remove(&(*seen, peer));
                self.by_age.insert((now.0, peer));
                *seen = now.0;
            }
            return None;
        }
        if !learning {
            if self.new_peers >= config.max_new_peers {
                self.unreported += 1;
                return None;
            }
            self.new_peers += 1;
        }
        let known_peers = self.index.len();
        if known_peers >= config.max_peers {
            // With the same age the smaller peer goes, so that nothing depends on the order of arrival.
            if let Some((_, p)) = self.by_age.pop_first() {
                self.index.remove(&p);
            }
        }
        self.index.insert(peer, now.0);
        self.by_age.insert((now.0, peer));
        (!learning).then(|| Novelty::Destination {
            address: key.destination(),
            port,
            protocol: key.protocol,
            known_peers,
        })
    }

    /// Takes note of traffic that ended at `now`.
    pub(crate) fn count(
        &mut self,
        now: Nanos,
        bytes: u64,
        config: &AlertConfig,
    ) -> Option<Novelty> {
        if bytes == 0 && self.began.is_none() {
            return None;
        }
        self.learning(now, config);
        let step = config.interval.0.max(1);
        let start = now.0 - now.0 % step;
        let mut found = None;
        if start != self.interval_start {
            let total = self.interval_bytes;
            let learning = self.learning(Nanos(self.interval_start), config);
            let limit =
                (self.busiest as f64 * config.rate_factor).max(config.rate_floor_bytes as f64);
            if !learning && total as f64 > limit {
                found = Some(Novelty::Rate {
                    bytes: total,
                    busiest_before: self.busiest,
                    interval_s: config.interval.as_secs_f64(),
                });
            }
            self.busiest = self.busiest.max(total);
            self.new_peers = 0;
            let unreported = std::mem::take(&mut self.unreported);
            if unreported > 0 {
                found = Some(Novelty::ManyDestinations {
                    unreported,
                    interval_s: config.interval.as_secs_f64(),
                });
            }
            self.interval_start = start;
            self.interval_bytes = 0;
        }
        self.interval_bytes += bytes;
        found
    }

    /// Whether `now` lies in the learning time, which begins with the first call.
    fn learning(&mut self, now: Nanos, config: &AlertConfig) -> bool {
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        let began = *self.began.get_or_insert(now);
        u64::try_from(now.saturating_sub(began)).unwrap_or(0) < config.learn.0
    }

    /// Writes histories by label as JSON.
    pub(crate) fn store<'a>(all: impl Iterator<Item = (&'a str, &'a Self)>, now: Nanos) -> Vec<u8> {
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        let all: BTreeMap<&str, Self> = all
            .filter(|(_, h)| h.began.is_some())
            .map(|(label, h)| {
                let learnt = now.saturating_sub(h.began.unwrap_or(now));
                (
                    label,
                    Self {
                        learnt,
                        peers: h.index.keys().copied().collect(),
                        busiest: h.busiest,
                        ..Self::default()
                    },
                )
            })
            .collect();
        serde_json::to_vec(&all).unwrap_or_default()
    }

    /// Reads what [`History::store`] wrote; nothing at all is an empty history.
    pub(crate) fn restore(stored: &[u8], now: Nanos) -> Result<BTreeMap<String, Self>, String> {
        if stored.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut all: BTreeMap<String, Self> =
            serde_json::from_slice(stored).map_err(|e| e.to_string())?;
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        for h in all.values_mut() {
            h.index = h.peers.drain(..).map(|p| (p, 0)).collect();
            h.by_age = h.index.iter().map(|(p, at)| (*at, *p)).collect();
            h.began = Some(now.saturating_sub(h.learnt));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8, port: u16) -> FlowKey {
        FlowKey {
            src: FlowKey::mapped([192, 168, 1, 2]),
            dst: FlowKey::mapped([198, 51, 100, last]),
            src_port: 50_000u16.to_be_bytes(),
            dst_port: port.to_be_bytes(),
            protocol: 6,
            version: 4,
            ..FlowKey::default()
        }
    }

    #[test]
    fn learns_quietly_then_reports_a_new_peer_once() {
        let config = AlertConfig {
            learn: Nanos::from_secs(10),
            ..AlertConfig::default()
        };
        let mut h = History::default();
        assert_eq!(h.observe(Nanos::from_secs(1), &key(1, 443), &config), None);
        assert_eq!(h.observe(Nanos::from_secs(30), &key(1, 443), &config), None);
        let found = h.observe(Nanos::from_secs(31), &key(2, 443), &config);
        assert!(
            matches!(
                found,
                Some(Novelty::Destination {
                    port: 443,
                    known_peers: 1,
                    ..
                })
            ),
            "{found:?}"
        );
        assert_eq!(h.observe(Nanos::from_secs(32), &key(2, 443), &config), None);
    }

    #[test]
    fn a_scan_is_one_alert_more_and_teaches_nothing() {
        let config = AlertConfig {
            learn: Nanos::from_secs(1),
            ..AlertConfig::default()
        };
        let mut h = History::default();
        h.observe(Nanos::ZERO, &key(1, 443), &config);
        let mut found = 0;
        for port in 1..1_001 {
            let at = Nanos::from_secs(15);
            found += u64::from(h.observe(at, &key(2, port), &config).is_some());
        }
        assert_eq!((found, h.index.len()), (10, 11));
        let mut said = Vec::new();
        for s in 15..40 {
            said.extend(h.count(Nanos::from_secs(s), 1, &config));
        }
        let many = Novelty::ManyDestinations {
            unreported: 990,
            interval_s: 10.0,
        };
        assert_eq!(said, vec![many]);
        assert_eq!(h.observe(Nanos::from_secs(41), &key(1, 443), &config), None);
    }

    #[test]
    fn keeps_at_most_max_peers() {
        let config = AlertConfig {
            max_peers: 3,
            ..AlertConfig::default()
        };
        let mut h = History::default();
        for i in 0..20 {
            h.observe(Nanos::from_secs(u64::from(i)), &key(i, 80), &config);
        }
        assert_eq!(h.index.len(), 3);
        // The oldest one went, and being seen again counts.
        h.observe(Nanos::from_secs(30), &key(17, 80), &config);
        h.observe(Nanos::from_secs(31), &key(40, 80), &config);
        let left: Vec<u8> = h.index.keys().map(|p| p.address[15]).collect();
        assert_eq!(left, [17, 19, 40]);
        assert!(h.by_age.iter().all(|(at, p)| h.index.get(p) == Some(at)));
        assert_eq!(h.by_age.len(), h.index.len());
    }

    #[test]
    fn what_was_learnt_survives_a_restart_on_another_clock() {
        let config = AlertConfig {
            learn: Nanos::from_secs(100),
            ..AlertConfig::default()
        };
        let mut h = History::default();
        h.observe(Nanos::from_secs(5_000), &key(1, 443), &config);
        let stored = History::store([("cam", &h)].into_iter(), Nanos::from_secs(5_200));
        let mut all = History::restore(&stored, Nanos::from_secs(3)).expect("valid");
        let h = all.get_mut("cam").expect("stored");
        assert_eq!(h.observe(Nanos::from_secs(4), &key(1, 443), &config), None);
        assert!(
            h.observe(Nanos::from_secs(5), &key(9, 443), &config)
                .is_some()
        );
        assert!(History::restore(b"{", Nanos::ZERO).is_err());
    }

    #[test]
    fn reports_an_interval_far_busier_than_ever() {
        let config = AlertConfig {
            learn: Nanos::from_secs(25),
            rate_floor_bytes: 1_000,
            ..AlertConfig::default()
        };
        let mut h = History::default();
        let mut found = Vec::new();
        for s in 0..100u64 {
            let bytes = if (60..70).contains(&s) { 50_000 } else { 1_000 };
            found.extend(h.count(Nanos::from_secs(s), bytes, &config));
        }
        assert_eq!(
            found,
            vec![Novelty::Rate {
                bytes: 500_000,
                busiest_before: 10_000,
                interval_s: 10.0
            }]
        );
    }
}
