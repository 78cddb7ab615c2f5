//! Windows of time: when they end, and what in them is strange.

use chaff_abi::Nanos;

use super::{Device, NOVEL_WEIGHT};
use crate::alert::{AlertConfig, Evidence, Novelty, Severity, Way};
use crate::watch::found::{Found, Lesson, Subject, novelty_proof, proof};
use crate::watch::peers::{Peer, address};
use crate::watch::window::{self, FEATURES, GROUPS};

/// How many times more addresses, ports or failures than ever before there must be.
const SPREAD_FACTOR: f64 = 1.5;
/// Silence after which it is not known any more whether a flow was answered.
const FORGET: u64 = 60_000_000_000;

impl Device {
    /// Looks at the running windows.
    pub(in crate::watch) fn look(
        &mut self,
        now: Nanos,
        config: &AlertConfig,
        found: &mut Vec<Found>,
    ) {
        if self.began.is_none() {
            return;
        }
        self.roll(now, config, found);
        for long in [false, true] {
            self.judge(now, long, false, config, found);
        }
    }

    /// Ends windows that are over.
    pub(super) fn roll(&mut self, now: Nanos, config: &AlertConfig, found: &mut Vec<Found>) {
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
