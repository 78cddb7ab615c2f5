//! What is reported of a device, and the proof of it.

use chaff_novelty::tails::Tails;
use serde::{Deserialize, Serialize};

use super::channel::{Clock, Habit};
use super::peers::{Peer, address};
use crate::alert::{AlertConfig, Evidence, Novelty, Severity};

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

pub(super) fn clock_found(
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

pub(super) fn proof(tails: &Tails, column: usize, feature: &str, value: f64) -> Evidence {
    Evidence {
        feature: feature.to_owned(),
        value,
        usual_median: tails.quantile(column, 0.5),
        usual_high: tails.quantile(column, 0.99),
        surprise: tails.surprise(column, value),
    }
}

pub(super) fn novelty_proof(surprise: f64) -> Evidence {
    Evidence {
        feature: "is_new_peer".to_owned(),
        value: 1.0,
        usual_median: 0.0,
        usual_high: 0.0,
        surprise,
    }
}
