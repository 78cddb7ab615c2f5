//! Whole homes: several devices in one stream, as a tunnel shows them.

use anyhow::Result;
use chaff_abi::Nanos;
use rand::RngCore;
use serde::Serialize;

use crate::cover::stream;
use crate::defend::Defence;
use crate::evaluate::Figure;
use crate::forest::{Forest, Kind, Table};
use crate::network::{below, shuffle};
use crate::packet_attacks::World;
use crate::score::{auc, mean};
use crate::traces::{Seen, Trace, split};

/// How homes are made.
#[derive(Clone, Debug)]
pub struct HomeOptions {
    /// Devices of a home.
    pub devices: usize,
    /// Homes to learn from, and homes to be tried on.
    pub homes: [usize; 2],
    /// Length of a home's stream.
    pub length: Nanos,
    /// Mean pause before each session of a device.
    pub pause: Nanos,
    /// Trees of a forest.
    pub trees: usize,
}

impl Default for HomeOptions {
    fn default() -> Self {
        Self {
            devices: 8,
            homes: [40, 20],
            length: Nanos::from_secs(1200),
            pause: Nanos::from_secs(240),
            trees: 100,
        }
    }
}

/// What an observer of a whole home learns.
#[derive(Clone, Debug, Serialize)]
pub struct HomeScore {
    /// Name of the defence.
    pub defence: String,
    /// Real bytes/s of a home.
    pub real_bytes_per_second: Figure,
    /// Added bytes/s of a home.
    pub bytes_per_second: Figure,
    /// "Is this device active in this minute": area under the curve, mean over labels; chance 0.5.
    pub active_auc: Figure,
    /// "Is this device in the home", by the surest quarter of its minutes: area under the curve, mean over labels; chance 0.5.
    pub present_auc: Figure,
    /// Share of the most probable devices, as many as there are, that are there.
    pub top_hits: Figure,
    /// "Is this device in the home", learnt from whole homes: area under one curve for all labels; chance 0.5.
    pub whole_present_auc: Figure,
    /// [`HomeScore::top_hits`] by that attacker.
    pub whole_top_hits: Figure,
    /// "Are there more than 20 real packets in this minute": area under the curve; chance 0.5.
    pub busy_auc: Figure,
    /// By label.
    pub devices: Vec<HomeDevice>,
}

/// What an observer of whole homes learns of one kind of device; means over seeds.
#[derive(Clone, Debug, Serialize)]
pub struct HomeDevice {
    /// Label.
    pub label: String,
    /// As [`HomeScore::active_auc`].
    pub active_auc: f64,
    /// As [`HomeScore::present_auc`].
    pub present_auc: f64,
}

/// Figures of one seed; areas by label, `None` where a label is in all homes or in none.
struct Found {
    active: Vec<Option<f64>>,
    present: Vec<Option<f64>>,
    top_hits: f64,
    whole_present: f64,
    whole_top_hits: f64,
    busy: f64,
}

/// Mean of those that are there; 0.5 without any.
fn known(x: impl Iterator<Item = Option<f64>>) -> f64 {
    let x: Vec<f64> = x.flatten().collect();
    if x.is_empty() { 0.5 } else { mean(&x) }
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
/// Sessions of a device are drawn from one part of the split only and put one after the other at random pauses, cut to the
/// home's length. For every label a forest of extremely randomized trees learns from minutes of the training homes
/// (with their neighbours) whether the device is active. Presence is attacked twice: by the mean of that over the surest quarter of a
/// home's minutes, and by forests that learn from mean, maximum and spread of a whole home's minutes which devices it has.
///
/// # Errors
/// As [`crate::evaluate::evaluate`], and when there are not enough labels.
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
        let (mut costs, mut reals, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for &seed in seeds {
            let mut rng = stream(seed, "homes");
            let mut sides: [Homes; 2] = Default::default();
            let (mut added, mut real, mut count) = (0.0, 0.0, 0.0);
            for (side, from) in [&parts.train, &parts.test].into_iter().enumerate() {
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
                    real += bytes(&home.trace) / options.length.as_secs_f64();
                    count += 1.0;
                    sides[side].push((minutes(&covered.packets, options), home));
                }
            }
            costs.push(added / count);
            reals.push(real / count);
            found.push(attack_homes(&sides, &world, options, &mut rng));
            tick();
        }
        let figure =
            |f: &dyn Fn(&Found) -> f64| Figure::of(&found.iter().map(f).collect::<Vec<_>>());
        out.push(HomeScore {
            defence: name.clone(),
            real_bytes_per_second: Figure::of(&reals),
            bytes_per_second: Figure::of(&costs),
            active_auc: figure(&|f| known(f.active.iter().copied())),
            present_auc: figure(&|f| known(f.present.iter().copied())),
            top_hits: figure(&|f| f.top_hits),
            whole_present_auc: figure(&|f| f.whole_present),
            whole_top_hits: figure(&|f| f.whole_top_hits),
            busy_auc: figure(&|f| f.busy),
            devices: world
                .labels
                .iter()
                .enumerate()
                .map(|(c, label)| HomeDevice {
                    label: label.clone(),
                    active_auc: known(found.iter().map(|f| f.active[c])),
                    present_auc: known(found.iter().map(|f| f.present[c])),
                })
                .collect(),
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
        let mut at = pause(options, rng);
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
            at = last + pause(options, rng);
        }
    }
    home.trace.packets.sort_by_key(|p| p.at);
    home
}

fn pause(options: &HomeOptions, rng: &mut dyn RngCore) -> Nanos {
    let mean = options.pause.as_secs_f64();
    Nanos::from_secs_f64(-mean * (1.0 - crate::network::unit(rng)).ln())
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

/// Learns one label's yes or no; `None` when the rows have only one of them.
fn learn(
    rows: impl Iterator<Item = (Vec<f32>, bool)>,
    trees: usize,
    rng: &mut dyn RngCore,
) -> Option<Forest> {
    let names = ["no".to_owned(), "yes".to_owned()];
    let mut table = Table::default();
    for (row, truth) in rows {
        table.push(&row, usize::from(truth));
    }
    let mixed = table.y.contains(&0) && table.y.contains(&1);
    mixed.then(|| Forest::fit(&table, &names, Kind::ExtraTrees, trees, rng, &mut || {}))
}

/// Area under the curve, where there are both kinds.
fn area(scores: &[(f64, bool)]) -> Option<f64> {
    let mixed = scores.iter().any(|s| s.1) && scores.iter().any(|s| !s.1);
    mixed.then(|| auc(scores))
}

/// Share of the devices taken for present, as many as there are, that are present. `scores` is by label, then home.
fn top_hits(scores: &[Vec<f64>], test: &Homes, devices: usize) -> f64 {
    let hits = |h: usize, home: &HomeTrace| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b][h].total_cmp(&scores[a][h]));
        let top = order.iter().take(devices);
        top.filter(|&&c| home.present[c]).count() as f64 / devices as f64
    };
    let each: Vec<f64> = test
        .iter()
        .enumerate()
        .map(|(h, (_, home))| hits(h, home))
        .collect();
    mean(&each)
}

fn attack_homes(
    sides: &[Homes; 2],
    world: &World,
    options: &HomeOptions,
    rng: &mut dyn RngCore,
) -> Found {
    let [train, test] = sides;
    let labels = world.labels.len();
    let trees = options.trees;
    let by_minute = |homes: &Homes, truth: &dyn Fn(&HomeTrace, usize) -> bool| {
        let minute = |(rows, home): &(Vec<Vec<f32>>, HomeTrace)| {
            let truths: Vec<bool> = (0..rows.len()).map(|m| truth(home, m)).collect();
            rows.clone().into_iter().zip(truths).collect::<Vec<_>>()
        };
        homes.iter().flat_map(minute).collect::<Vec<_>>()
    };
    let is_busy = |home: &HomeTrace, m: usize| home.real[m] > 20;
    let busy = learn(by_minute(train, &is_busy).into_iter(), trees, rng).and_then(|forest| {
        let scored = by_minute(test, &is_busy)
            .into_iter()
            .map(|(row, truth)| (forest.probabilities(&row)[1], truth));
        area(&scored.collect::<Vec<_>>())
    });
    let whole_rows = |homes: &Homes| {
        homes
            .iter()
            .map(|(rows, _)| whole(rows))
            .collect::<Vec<_>>()
    };
    let (whole_train, whole_test) = (whole_rows(train), whole_rows(test));

    // By label, then home.
    let mut surest = vec![vec![0.0; test.len()]; labels];
    let mut wholes = surest.clone();
    let (mut active, mut present) = (Vec::new(), Vec::new());
    for (class, (sure, guess)) in surest.iter_mut().zip(&mut wholes).enumerate() {
        let is_active = |home: &HomeTrace, m: usize| home.active[class][m];
        let forest = learn(by_minute(train, &is_active).into_iter(), trees, rng);
        let mut minutes = Vec::new();
        for (h, (rows, home)) in test.iter().enumerate() {
            let Some(forest) = &forest else { break };
            let mut p: Vec<f64> = rows.iter().map(|r| forest.probabilities(r)[1]).collect();
            minutes.extend(p.iter().copied().zip(home.active[class].iter().copied()));
            // The surest minutes tell most.
            p.sort_by(|a, b| b.total_cmp(a));
            p.truncate(p.len().div_ceil(4));
            sure[h] = mean(&p);
        }
        active.push(area(&minutes));
        let is_there = test.iter().map(|(_, home)| home.present[class]);
        let scored: Vec<_> = sure.iter().copied().zip(is_there).collect();
        present.push(forest.and(area(&scored)));

        let there = train.iter().map(|(_, home)| home.present[class]);
        if let Some(forest) = learn(whole_train.iter().cloned().zip(there), trees, rng) {
            for (to, row) in guess.iter_mut().zip(&whole_test) {
                *to = forest.probabilities(row)[1];
            }
        }
    }
    let pairs = |class: usize| {
        let there = test.iter().map(move |(_, home)| home.present[class]);
        wholes[class].iter().copied().zip(there)
    };
    let pooled: Vec<(f64, bool)> = (0..labels).flat_map(pairs).collect();
    Found {
        active,
        present,
        top_hits: top_hits(&surest, test, options.devices),
        whole_present: auc(&pooled),
        whole_top_hits: top_hits(&wholes, test, options.devices),
        busy: busy.unwrap_or(0.5),
    }
}
