//! What an observer of a whole home's stream learns: which devices are active, and which are there at all.

use chaff_abi::Nanos;
use rand::RngCore;

use crate::forest::{Forest, Kind, Table};
use crate::homes::{HomeOptions, HomeTrace};
use crate::score::{auc, mean};
use crate::traces::Seen;

/// Figures of one seed; areas by label, `None` where a label is in all homes or in none.
pub(crate) struct Found {
    pub active: Vec<Option<f64>>,
    pub present: Vec<Option<f64>>,
    pub top_hits: f64,
    pub whole_present: f64,
    pub whole_by_label: Vec<Option<f64>>,
    pub whole_top_hits: f64,
    pub busy: f64,
}

/// A home as it is seen, by minute, and what it is.
pub(crate) struct Home {
    /// Features of every minute.
    pub rows: Vec<Vec<f32>>,
    pub truth: HomeTrace,
}

/// Features of every minute: its own and the sums of its neighbours.
pub(crate) fn minutes(packets: &[Seen], options: &HomeOptions) -> Vec<Vec<f32>> {
    let minute = Nanos::from_secs(60);
    let count = options.length.0 / minute.0;
    let own: Vec<Vec<f32>> = (0..count)
        .map(|k| {
            let start = minute.times(k);
            let from = packets.partition_point(|p| p.at < start);
            let to = packets.partition_point(|p| p.at < start + minute);
            let window = &packets[from..to];
            let silence = window
                .first()
                .map_or(60.0, |p| p.at.since(start).as_secs_f64());
            crate::aggregates::multi_scale(window, silence, minute)
        })
        .collect();
    let sum = |k: Option<usize>| -> [f32; 2] {
        let row = k.and_then(|k| own.get(k));
        // Packets out and in, the first count of each direction's aggregates.
        row.map_or([0.0; 2], |r| [r[1], r[2]])
    };
    (0..own.len())
        .map(|k| {
            let mut row = own[k].clone();
            row.extend(sum(k.checked_sub(1)));
            row.extend(sum(Some(k + 1)));
            row
        })
        .collect()
}

/// Mean, largest value and standard deviation of each feature over a home's minutes.
fn whole(rows: &[Vec<f32>]) -> Vec<f32> {
    let features = rows.first().map_or(0, Vec::len);
    let mut out = Vec::with_capacity(3 * features);
    for f in 0..features {
        let column: Vec<f64> = rows.iter().map(|r| f64::from(r[f])).collect();
        let middle = mean(&column);
        let squares: Vec<f64> = column.iter().map(|v| (v - middle).powi(2)).collect();
        let top = column.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.extend([middle, top, mean(&squares).sqrt()].map(|v| v as f32));
    }
    out
}

/// Rows that are learnt from with one truth after the other.
struct Rows {
    table: Table,
    trees: usize,
}

impl Rows {
    fn new<'a>(rows: impl Iterator<Item = &'a [f32]>, trees: usize) -> Self {
        let mut table = Table::default();
        rows.for_each(|row| table.push(row, 0));
        Self { table, trees }
    }

    /// Learns a yes or no; `None` when the rows have only one of them.
    fn learn(
        &mut self,
        truth: impl Iterator<Item = bool>,
        rng: &mut dyn RngCore,
    ) -> Option<Forest> {
        let names = ["no".to_owned(), "yes".to_owned()];
        self.table.y = truth.map(usize::from).collect();
        let y = &self.table.y;
        let mixed = y.contains(&0) && y.contains(&1);
        mixed.then(|| {
            Forest::fit(
                &self.table,
                &names,
                Kind::ExtraTrees,
                self.trees,
                rng,
                &mut || {},
            )
        })
    }
}

/// Area under the curve, where there are both kinds.
fn area(scores: &[(f64, bool)]) -> Option<f64> {
    let mixed = scores.iter().any(|s| s.1) && scores.iter().any(|s| !s.1);
    mixed.then(|| auc(scores))
}

/// Share of the devices taken for present, as many as there are, that are present. `scores` is by label, then home.
fn top_hits(scores: &[Vec<f64>], test: &[Home], devices: usize) -> f64 {
    let hits = |h: usize, home: &Home| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b][h].total_cmp(&scores[a][h]));
        let top = order.iter().take(devices);
        top.filter(|&&c| home.truth.present[c]).count() as f64 / devices as f64
    };
    let each: Vec<f64> = test
        .iter()
        .enumerate()
        .map(|(h, home)| hits(h, home))
        .collect();
    mean(&each)
}

/// Learns from one side's homes and is tried on the other's.
pub(crate) fn attack(
    [train, test]: &[Vec<Home>; 2],
    labels: usize,
    options: &HomeOptions,
    rng: &mut dyn RngCore,
) -> Found {
    let mut minutes = Rows::new(
        train.iter().flat_map(|h| h.rows.iter().map(Vec::as_slice)),
        options.trees,
    );
    let is_busy = |home: &Home| home.truth.real.iter().map(|n| *n > 20).collect::<Vec<_>>();
    let busy = minutes.learn(train.iter().flat_map(is_busy), rng);
    let busy = busy.and_then(|forest| {
        let rows = test.iter().flat_map(|home| &home.rows);
        let scored = rows.map(|row| forest.probabilities(row)[1]);
        area(
            &scored
                .zip(test.iter().flat_map(is_busy))
                .collect::<Vec<_>>(),
        )
    });
    let wholes_of = |homes: &[Home]| homes.iter().map(|h| whole(&h.rows)).collect::<Vec<_>>();
    let (whole_train, whole_test) = (wholes_of(train), wholes_of(test));
    let mut whole_rows = Rows::new(whole_train.iter().map(Vec::as_slice), options.trees);

    // By label, then home.
    let mut surest = vec![vec![0.0; test.len()]; labels];
    let mut wholes = surest.clone();
    let (mut active, mut present, mut whole_by_label) = (Vec::new(), Vec::new(), Vec::new());
    for (class, (sure, guess)) in surest.iter_mut().zip(&mut wholes).enumerate() {
        let is_active = train.iter().flat_map(|home| &home.truth.active[class]);
        let forest = minutes.learn(is_active.copied(), rng);
        let mut scored = Vec::new();
        for (to, home) in sure.iter_mut().zip(test) {
            let Some(forest) = &forest else { break };
            let p = home.rows.iter().map(|r| forest.probabilities(r)[1]);
            let mut p: Vec<f64> = p.collect();
            let truth = &home.truth.active[class];
            scored.extend(p.iter().copied().zip(truth.iter().copied()));
            // The surest minutes tell most.
            p.sort_by(|a, b| b.total_cmp(a));
            p.truncate(p.len().div_ceil(4));
            *to = mean(&p);
        }
        active.push(area(&scored));
        let is_there = |scores: &[f64]| -> Vec<(f64, bool)> {
            let there = test.iter().map(|home| home.truth.present[class]);
            scores.iter().copied().zip(there).collect()
        };
        present.push(forest.and(area(&is_there(sure))));

        let there = train.iter().map(|home| home.truth.present[class]);
        let forest = whole_rows.learn(there, rng);
        if let Some(forest) = &forest {
            for (to, row) in guess.iter_mut().zip(&whole_test) {
                *to = forest.probabilities(row)[1];
            }
        }
        whole_by_label.push(forest.and(area(&is_there(guess))));
    }
    let pairs = |class: usize| {
        let there = test.iter().map(move |home| home.truth.present[class]);
        wholes[class].iter().copied().zip(there)
    };
    let pooled: Vec<(f64, bool)> = (0..labels).flat_map(pairs).collect();
    Found {
        active,
        present,
        top_hits: top_hits(&surest, test, options.devices),
        whole_present: auc(&pooled),
        whole_by_label,
        whole_top_hits: top_hits(&wholes, test, options.devices),
        busy: busy.unwrap_or(0.5),
    }
}
