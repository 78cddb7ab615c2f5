//! Attackers against defences: the table that says what cover is worth.

use anyhow::Result;
use chaff_abi::Nanos;
use rand::RngCore;
use serde::Serialize;

use crate::cover::stream;
use crate::defend::{Cost, Defence};
use crate::forest::{Forest, Kind, Table};
use crate::network::{below, shuffle};
use crate::packet_attacks::{Features, World, judge};
use crate::score::{Score, auc, interval};
use crate::traces::{Seen, Trace, split};

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
    fn of(x: &[f64]) -> Self {
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
    let mut ratios: Vec<f64> = each.iter().map(|c| c.bytes).collect();
    ratios.sort_by(f64::total_cmp);
    let rate = each.iter().map(|c| c.bytes_per_second).sum::<f64>() / each.len().max(1) as f64;
    [
        all.bytes,
        ratios[ratios.len() / 2],
        all.packets,
        rate,
        all.delay_p99_ms,
    ]
}

/// How homes are made.
#[derive(Clone, Debug)]
pub struct HomeOptions {
    /// Devices of a home.
    pub devices: usize,
    /// Homes to learn from, and homes to be tried on.
    pub homes: [usize; 2],
    /// Length of a home's stream.
    pub length: Nanos,
    /// Trees of a forest.
    pub trees: usize,
}

impl Default for HomeOptions {
    fn default() -> Self {
        Self {
            devices: 8,
            homes: [40, 20],
            length: Nanos::from_secs(1200),
            trees: 100,
        }
    }
}

/// What an observer of a whole home learns.
#[derive(Clone, Debug, Serialize)]
pub struct HomeScore {
    /// Name of the defence.
    pub defence: String,
    /// Added bytes/s of a home.
    pub bytes_per_second: Figure,
    /// "Is this device active in this minute": area under the curve, mean over labels; chance 0.5.
    pub active_auc: Figure,
    /// "Is this device in the home": area under the curve; chance 0.5.
    pub present_auc: Figure,
    /// Share of the most probable devices, as many as there are, that are there.
    pub top_hits: Figure,
    /// "Are there more than 20 real packets in this minute": area under the curve; chance 0.5.
    pub busy_auc: Figure,
}

/// A home: which devices it has, in which minutes they are active, and how many real packets a minute has.
struct HomeTrace {
    trace: Trace,
    present: Vec<bool>,
    active: Vec<Vec<bool>>,
    real: Vec<u32>,
}

/// Puts several devices into one stream, as a tunnel does, and asks which they are. One seed a repetition.
///
/// Sessions of a device are drawn from one part of the split only and put one after the other at random pauses (mean 2 min), cut to the
/// home's length. For every label a forest of extremely randomized trees learns from minutes of the training homes
/// (with their neighbours) whether the device is active; presence is the mean of that over a home's minutes.
///
/// # Errors
/// As [`evaluate`], and when there are not enough labels.
pub fn homes(
    traces: &[Trace],
    defences: &[(String, Defence)],
    seeds: &[u64],
    options: &HomeOptions,
    tick: &mut dyn FnMut(),
) -> Result<Vec<HomeScore>> {
    let world = World::new(traces, 10)?;
    let parts = split(traces);
    if world.labels.len() < options.devices {
        anyhow::bail!(
            "a home of {} devices needs as many labels, found {}",
            options.devices,
            world.labels.len()
        );
    }
    let mut out = Vec::new();
    for (name, defence) in defences {
        let mut figures: [Vec<f64>; 5] = Default::default();
        for &seed in seeds {
            let mut rng = stream(seed, "homes");
            let mut sides = Vec::new();
            let (mut added, mut count) = (0.0, 0.0);
            for (side, from) in [&parts.train, &parts.test].into_iter().enumerate() {
                let mut list = Vec::new();
                for k in 0..options.homes[side] {
                    let home = build(
                        traces,
                        from,
                        &parts.single,
                        side,
                        &world,
                        options,
                        k,
                        &mut rng,
                    );
                    let covered = defence.apply(&home.trace, seed, 0)?;
                    let bytes =
                        |t: &Trace| t.packets.iter().map(|p| f64::from(p.size)).sum::<f64>();
                    added += (bytes(&covered) - bytes(&home.trace)) / options.length.as_secs_f64();
                    count += 1.0;
                    list.push((minutes(&covered.packets, options), home));
                }
                sides.push(list);
            }
            figures[0].push(added / count);
            let scores = attack_homes(&sides, &world, options, &mut rng);
            for (to, from) in figures[1..].iter_mut().zip(scores) {
                to.push(from);
            }
            tick();
        }
        let [cost, active, present, top, busy] = figures.map(|f| Figure::of(&f));
        out.push(HomeScore {
            defence: name.clone(),
            bytes_per_second: cost,
            active_auc: active,
            present_auc: present,
            top_hits: top,
            busy_auc: busy,
        });
    }
    Ok(out)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one draw")]
fn build(
    traces: &[Trace],
    from: &[usize],
    single: &[usize],
    side: usize,
    world: &World,
    options: &HomeOptions,
    number: usize,
    rng: &mut dyn RngCore,
) -> HomeTrace {
    let mut labels: Vec<usize> = (0..world.labels.len()).collect();
    shuffle(&mut labels, rng);
    labels.truncate(options.devices);
    let minutes = (options.length.0 / 60_000_000_000) as usize;
    let mut home = HomeTrace {
        trace: Trace {
            label: "home".to_owned(),
            device: "home".to_owned(),
            session: format!("{side}-{number}"),
            packets: Vec::new(),
        },
        present: vec![false; world.labels.len()],
        active: vec![vec![false; minutes]; world.labels.len()],
        real: vec![0; minutes],
    };
    for class in labels {
        home.present[class] = true;
        let label = &world.labels[class];
        let mut own: Vec<&[Seen]> = from
            .iter()
            .filter(|&&i| traces[i].label == *label)
            .map(|&i| traces[i].packets.as_slice())
            .collect();
        for &i in single.iter().filter(|&&i| traces[i].label == *label) {
            let packets = traces[i].packets.as_slice();
            let (early, late) = packets.split_at(packets.len() * 6 / 10);
            own.push(if side == 0 { early } else { late });
        }
        own.retain(|packets| !packets.is_empty());
        let mut at = pause(rng);
        while !own.is_empty() && at < options.length {
            let packets = own[below(rng, own.len())];
            let mut last = at;
            for p in packets {
                let when = at + Nanos(p.at.since(packets[0].at).0);
                if when >= options.length {
                    break;
                }
                last = when;
                let minute = (when.0 / 60_000_000_000) as usize;
                home.active[class][minute] = true;
                home.real[minute] += 1;
                home.trace.packets.push(Seen { at: when, ..*p });
            }
            at = last + pause(rng);
        }
    }
    home.trace.packets.sort_by_key(|p| p.at);
    home
}

fn pause(rng: &mut dyn RngCore) -> Nanos {
    Nanos::from_secs_f64(-120.0 * (1.0 - crate::network::unit(rng)).ln())
}

/// Features of every minute: its own and the sums of its neighbours.
fn minutes(packets: &[Seen], options: &HomeOptions) -> Vec<Vec<f32>> {
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

type Homes = Vec<(Vec<Vec<f32>>, HomeTrace)>;

/// Active, present, top, busy.
fn attack_homes(
    sides: &[Homes],
    world: &World,
    options: &HomeOptions,
    rng: &mut dyn RngCore,
) -> [f64; 4] {
    let [train, test] = sides else {
        return [0.5; 4];
    };
    let names = ["no".to_owned(), "yes".to_owned()];
    let learn = |truth: &dyn Fn(&HomeTrace, usize) -> bool, rng: &mut dyn RngCore| {
        let mut table = Table::default();
        for (rows, home) in train {
            for (m, row) in rows.iter().enumerate() {
                table.push(row, usize::from(truth(home, m)));
            }
        }
        let mixed = table.y.contains(&0) && table.y.contains(&1);
        mixed.then(|| {
            Forest::fit(
                &table,
                &names,
                Kind::ExtraTrees,
                options.trees,
                rng,
                &mut || {},
            )
        })
    };
    let busy = |home: &HomeTrace, m: usize| home.real[m] > 20;
    let busy_auc = learn(&busy, rng).map_or(0.5, |forest| {
        let mut scores = Vec::new();
        for (rows, home) in test {
            for (m, row) in rows.iter().enumerate() {
                scores.push((forest.probabilities(row)[1], busy(home, m)));
            }
        }
        auc(&scores)
    });
    // By label, then home.
    let mut presence: Vec<Vec<f64>> = Vec::new();
    let (mut active, mut present) = (Vec::new(), Vec::new());
    for class in 0..world.labels.len() {
        let truth = |home: &HomeTrace, m: usize| home.active[class][m];
        let mut column = vec![0.0; test.len()];
        let Some(forest) = learn(&truth, rng) else {
            presence.push(column);
            continue;
        };
        let (mut scores, mut there) = (Vec::new(), Vec::new());
        for (h, (rows, home)) in test.iter().enumerate() {
            let p: Vec<f64> = rows.iter().map(|r| forest.probabilities(r)[1]).collect();
            for (m, p) in p.iter().enumerate() {
                scores.push((*p, home.active[class][m]));
            }
            // The surest minutes tell most.
            let mut top = p.clone();
            top.sort_by(|a, b| b.total_cmp(a));
            top.truncate(top.len().div_ceil(4));
            column[h] = crate::score::mean(&top);
            there.push((column[h], home.present[class]));
        }
        presence.push(column);
        if scores.iter().any(|s| s.1) {
            active.push(auc(&scores));
        }
        if there.iter().any(|s| s.1) && there.iter().any(|s| !s.1) {
            present.push(auc(&there));
        }
    }
    let mut hits = 0.0;
    for (h, (_, home)) in test.iter().enumerate() {
        let mut order: Vec<usize> = (0..world.labels.len()).collect();
        order.sort_by(|&a, &b| presence[b][h].total_cmp(&presence[a][h]));
        let top = order
            .iter()
            .take(options.devices)
            .filter(|&&c| home.present[c])
            .count();
        hits += top as f64 / options.devices as f64;
    }
    let mean = |x: &[f64]| {
        if x.is_empty() {
            0.5
        } else {
            crate::score::mean(x)
        }
    };
    [
        mean(&active),
        mean(&present),
        hits / test.len().max(1) as f64,
        busy_auc,
    ]
}
