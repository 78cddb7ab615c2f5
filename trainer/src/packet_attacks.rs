//! Attackers on packets: forests on windows of a minute, and iPET's M_agg on windows of 15 minutes.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use chaff_abi::Nanos;
use rand::RngCore;

use crate::aggregates::{aggregates, cut, m_agg, multi_scale};
use crate::forest::{Forest, Table};
use crate::network::shuffle;
use crate::score::{Guess, Score, score};
use crate::split::{Split, split};
use crate::traces::{Seen, Trace};

/// What a forest looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Features {
    /// [`aggregates`] of 60 s.
    Aggregates,
    /// [`multi_scale`] of 60 s; windows to learn from begin every 30 s as well.
    MultiScale,
    /// [`m_agg`] of 15 min.
    MAgg,
}

impl Features {
    fn length(self) -> Nanos {
        match self {
            Self::Aggregates | Self::MultiScale => Nanos::from_secs(60),
            Self::MAgg => Nanos::from_secs(900),
        }
    }

    /// Rows of a session. `dense` adds windows that begin half a length later.
    fn rows(self, packets: &[Seen], dense: bool) -> Vec<Vec<f32>> {
        let length = self.length();
        let row = |w: &[Seen], silence: f64| match self {
            Self::Aggregates => aggregates(w, silence),
            Self::MultiScale => multi_scale(w, silence, length),
            Self::MAgg => m_agg(w),
        };
        let mut out: Vec<Vec<f32>> = cut(packets, length)
            .into_iter()
            .map(|(range, silence)| row(&packets[range], silence))
            .collect();
        if dense
            && self == Self::MultiScale
            && let Some(first) = packets.first()
        {
            let from = packets.partition_point(|p| p.at < first.at + Nanos(length.0 / 2));
            for (range, silence) in cut(&packets[from..], length) {
                out.push(row(&packets[from..][range], silence));
            }
        }
        out
    }
}

/// The labels that an attacker knows.
#[derive(Clone, Debug)]
pub struct World {
    /// Names, sorted.
    pub labels: Vec<String>,
    /// Labels with too few windows.
    pub left_out: Vec<String>,
}

/// Rows to learn from and to be tried on.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Learnt from.
    pub train: Table,
    /// Held out.
    pub test: Table,
    /// Session of each held-out row.
    pub sessions: Vec<usize>,
}

impl World {
    /// The labels with at least `least` windows of 4 s in training and in held-out sessions of undefended traffic.
    ///
    /// # Errors
    /// When there are fewer than two.
    pub fn new(undefended: &[Trace], least: usize) -> Result<Self> {
        Self::of(undefended, &split(undefended), least)
    }

    /// As [`World::new`], for another split.
    ///
    /// # Errors
    /// When there are fewer than two.
    pub fn of(undefended: &[Trace], parts: &Split, least: usize) -> Result<Self> {
        let mut count: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for (i, t) in undefended.iter().enumerate() {
            let n = cut(&t.packets, Nanos::from_secs(4)).len();
            let sides = count.entry(&t.label).or_default();
            if parts.single.contains(&i) {
                sides[0] += n * 6 / 10;
                sides[1] += n - n * 6 / 10;
            } else {
                sides[usize::from(parts.test.contains(&i))] += n;
            }
        }
        let (mut labels, mut left_out) = (Vec::new(), Vec::new());
        for (label, [train, test]) in count {
            if train >= least && test >= least {
                labels.push(label.to_owned());
            } else {
                left_out.push(format!("{label}: {train} and {test} windows"));
            }
        }
        if labels.len() < 2 {
            bail!(
                "an attacker needs two labels with {least} windows of 4 s in training and in held-out sessions, found {}{}{}",
                match labels.first() {
                    Some(one) => format!("{one} only"),
                    None => "none".to_owned(),
                },
                if left_out.is_empty() {
                    ""
                } else {
                    "; left out: "
                },
                left_out.join(", ")
            );
        }
        Ok(Self { labels, left_out })
    }

    /// Rows of all sessions, at most `cap` of one label and part. `traces` are in the order that `split` was made for.
    pub fn table(
        &self,
        traces: &[Trace],
        split: &Split,
        features: Features,
        cap: usize,
        rng: &mut dyn RngCore,
    ) -> Tables {
        let mut out = Tables::default();
        for (class, label) in self.labels.iter().enumerate() {
            let mut parts: [Vec<(Vec<f32>, usize)>; 2] = Default::default();
            let own = traces.iter().enumerate().filter(|(_, t)| t.label == *label);
            for (i, t) in own {
                let single = split.single.contains(&i);
                let side = usize::from(split.test.contains(&i));
                let rows = features.rows(&t.packets, side == 0 && !single);
                let cut = rows.len() * 6 / 10;
                for (k, row) in rows.into_iter().enumerate() {
                    let side = if single { usize::from(k >= cut) } else { side };
                    parts[side].push((row, i));
                }
            }
            for (side, mut rows) in parts.into_iter().enumerate() {
                shuffle(&mut rows, rng);
                rows.truncate(cap.max(1));
                for (row, session) in rows {
                    if side == 0 {
                        out.train.push(&row, class);
                    } else {
                        out.test.push(&row, class);
                        out.sessions.push(session);
                    }
                }
            }
        }
        out
    }
}

/// Scores a forest on the held-out rows.
pub fn judge(forest: &Forest, tables: &Tables) -> Score {
    let guesses: Vec<Guess> = (0..tables.test.y.len())
        .map(|i| Guess {
            probability: forest.probabilities(tables.test.row(i)),
            label: tables.test.y[i],
            session: tables.sessions[i],
        })
        .collect();
    score(forest.labels().len(), &guesses)
}
