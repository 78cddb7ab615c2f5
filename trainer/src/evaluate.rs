//! Attackers against defences: the table that says what cover is worth.

use anyhow::Result;
use rand::RngCore;
use serde::Serialize;

use crate::cover::stream;
use crate::defend::{Cost, Defence};
use crate::forest::{Forest, Kind, Table};
use crate::packet_attacks::{Features, World, judge};
use crate::score::{Score, interval, median};
use crate::split::split;
use crate::traces::Trace;

/// Version of the report's layout.
const VERSION: u32 = 1;

/// How attackers are trained.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seeds; every one draws new cover and new forests.
    pub seeds: Vec<u64>,
    /// Trees of a forest.
    pub trees: usize,
    /// Most windows of one label, in training and in testing each.
    pub cap: usize,
    /// Fewest windows of 4 s of a label in either part.
    pub least: usize,
    /// Defended copies of the training sessions that the stronger attacker makes for himself.
    pub copies: u32,
}

/// Mean over seeds, half the width of the 95 % interval of that mean.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    /// Mean.
    pub mean: f64,
    /// Half the width.
    pub half: f64,
}

impl Figure {
    pub(crate) fn of(x: &[f64]) -> Self {
        let (mean, half) = interval(x);
        Self { mean, half }
    }
}

/// One attacker on one defence.
#[derive(Clone, Debug, Serialize)]
pub struct Attacked {
    /// Name.
    pub attacker: &'static str,
    /// Balanced accuracy of windows.
    pub balanced: Figure,
    /// Accuracy of sessions, labels weighted equally.
    pub session: Figure,
    /// Macro F1 of windows.
    pub macro_f1: Figure,
    /// Share of windows found, by label, mean over seeds.
    pub recall: Vec<f64>,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the defence, with what was set.
    pub defence: String,
    /// Added bytes for each real byte, all sessions.
    pub bytes: Figure,
    /// The same, median over labels.
    pub median_bytes: Figure,
    /// Added packets for each real packet.
    pub packets: Figure,
    /// Added bytes/s, mean over labels.
    pub bytes_per_second: Figure,
    /// 99th percentile of the delay of real packets, ms.
    pub delay_p99_ms: Figure,
    /// The attackers.
    pub attackers: Vec<Attacked>,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Layout version.
    pub version: u32,
    /// Names of the labels.
    pub labels: Vec<String>,
    /// Labels left out.
    pub left_out: Vec<String>,
    /// Accuracy of guessing without looking.
    pub chance: f64,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Rows, one a defence.
    pub rows: Vec<Row>,
}

/// Tries every defence. `tick` is called after each seed of each defence.
///
/// Three attackers: `static` is a random forest trained on undefended traffic; `retrained` is the same one trained on defended traffic;
/// `stronger` has extremely randomized trees on several scales, overlapping windows, and `copies` more defended copies of the
/// training sessions with cover drawn anew.
///
/// # Errors
/// When fewer than two labels can be told apart, and for settings of defences.
pub fn evaluate(
    traces: &[Trace],
    defences: &[(String, Defence)],
    options: &Options,
    tick: &mut dyn FnMut(),
) -> Result<Evaluation> {
    let world = World::new(traces, options.least)?;
    let parts = split(traces);
    let mut rows = Vec::new();
    for (name, defence) in defences {
        let mut costs: Vec<[f64; 5]> = Vec::new();
        let mut scores: [Vec<Score>; 3] = Default::default();
        for &seed in &options.seeds {
            let mut rng = stream(seed, "evaluate");
            let defended = apply(defence, traces, seed, 0, &world)?;
            costs.push(cost(traces, &defended, &world));
            let grow = |table: &Table, kind: Kind, rng: &mut dyn RngCore| {
                Forest::fit(table, &world.labels, kind, options.trees, rng, &mut || {})
            };
            let plain = Features::Aggregates;
            let before = world.table(traces, &parts, plain, options.cap, &mut rng);
            let after = world.table(&defended, &parts, plain, options.cap, &mut rng);
            let unaware = grow(&before.train, Kind::RandomForest, &mut rng);
            scores[0].push(judge(&unaware, &after));
            let aware = grow(&after.train, Kind::RandomForest, &mut rng);
            scores[1].push(judge(&aware, &after));

            let mut tables = world.table(
                &defended,
                &parts,
                Features::MultiScale,
                options.cap,
                &mut rng,
            );
            for copy in 1..=options.copies {
                let more = apply(defence, traces, seed, copy, &world)?;
                let more = world.table(&more, &parts, Features::MultiScale, options.cap, &mut rng);
                for (i, &class) in more.train.y.iter().enumerate() {
                    tables.train.push(more.train.row(i), class);
                }
            }
            let strong = grow(&tables.train, Kind::ExtraTrees, &mut rng);
            scores[2].push(judge(&strong, &tables));
            tick();
        }
        let column = |i: usize| Figure::of(&costs.iter().map(|c| c[i]).collect::<Vec<_>>());
        let attackers = ["static", "retrained", "stronger"]
            .into_iter()
            .zip(&scores)
            .map(|(attacker, s)| {
                let part = |f: fn(&Score) -> f64| Figure::of(&s.iter().map(f).collect::<Vec<_>>());
                Attacked {
                    attacker,
                    balanced: part(|s| s.balanced),
                    session: part(|s| s.session),
                    macro_f1: part(|s| s.macro_f1),
                    recall: recall(s, world.labels.len()),
                }
            })
            .collect();
        rows.push(Row {
            defence: name.clone(),
            bytes: column(0),
            median_bytes: column(1),
            packets: column(2),
            bytes_per_second: column(3),
            delay_p99_ms: column(4),
            attackers,
        });
    }
    Ok(Evaluation {
        version: VERSION,
        chance: 1.0 / world.labels.len() as f64,
        labels: world.labels,
        left_out: world.left_out,
        seeds: options.seeds.clone(),
        rows,
    })
}

/// Labels that no attacker knows are left as they are: there may be no generator for them.
fn apply(
    defence: &Defence,
    traces: &[Trace],
    seed: u64,
    copy: u32,
    world: &World,
) -> Result<Vec<Trace>> {
    let one = |t: &Trace| {
        if world.labels.contains(&t.label) {
            defence.apply(t, seed, copy)
        } else {
            Ok(t.clone())
        }
    };
    traces.iter().map(one).collect()
}

fn recall(scores: &[Score], labels: usize) -> Vec<f64> {
    let share = |s: &Score, c: usize| {
        let all: u32 = s.confusion[c].iter().sum();
        f64::from(s.confusion[c][c]) / f64::from(all.max(1))
    };
    (0..labels)
        .map(|c| scores.iter().map(|s| share(s, c)).sum::<f64>() / scores.len().max(1) as f64)
        .collect()
}

/// Bytes, median bytes, packets, bytes/s (mean over labels), delay.
fn cost(before: &[Trace], after: &[Trace], world: &World) -> [f64; 5] {
    let pairs = || {
        before
            .iter()
            .zip(after)
            .filter(|(a, _)| world.labels.contains(&a.label))
    };
    let all = Cost::of(pairs());
    let of = |label: &String| Cost::of(pairs().filter(|(a, _)| a.label == *label));
    let each: Vec<Cost> = world.labels.iter().map(of).collect();
    let rate = each.iter().map(|c| c.bytes_per_second).sum::<f64>() / each.len().max(1) as f64;
    [
        all.bytes,
        median(each.iter().map(|c| c.bytes).collect()),
        all.packets,
        rate,
        all.delay_p99_ms,
    ]
}
