//! Whole homes: several devices in one stream, as a tunnel shows them.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use chaff_abi::Nanos;
use rand::RngCore;
use serde::Serialize;

use crate::cover::stream;
use crate::defend::{Cost, Defence};
use crate::evaluate::Figure;
use crate::home_attack::{Found, Home, attack, minutes};
use crate::network::{below, shuffle};
use crate::packet_attacks::World;
use crate::score::mean;
use crate::split::{Split, split};
use crate::traces::{Seen, Trace};

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
            pause: Nanos::from_secs(215),
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
    /// 99th percentile of the delay of a home's real packets, ms, mean over homes.
    pub delay_p99_ms: Figure,
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
    /// By seed.
    pub seeds: Vec<HomeSeed>,
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
    /// As [`HomeScore::whole_present_auc`], one curve for this label.
    pub whole_present_auc: f64,
}

/// Figures of one seed, so that defences can be compared on the same homes.
#[derive(Clone, Debug, Serialize)]
pub struct HomeSeed {
    /// The seed.
    pub seed: u64,
    /// As [`HomeScore::real_bytes_per_second`].
    pub real_bytes_per_second: f64,
    /// As [`HomeScore::bytes_per_second`].
    pub bytes_per_second: f64,
    /// As [`HomeScore::delay_p99_ms`].
    pub delay_p99_ms: f64,
    /// As [`HomeScore::active_auc`].
    pub active_auc: f64,
    /// As [`HomeScore::present_auc`].
    pub present_auc: f64,
    /// As [`HomeScore::top_hits`].
    pub top_hits: f64,
    /// As [`HomeScore::whole_present_auc`].
    pub whole_present_auc: f64,
    /// As [`HomeScore::whole_top_hits`].
    pub whole_top_hits: f64,
    /// As [`HomeScore::busy_auc`].
    pub busy_auc: f64,
}

/// Mean of those that are there; 0.5 without any.
fn known(x: impl Iterator<Item = Option<f64>>) -> f64 {
    let x: Vec<f64> = x.flatten().collect();
    if x.is_empty() { 0.5 } else { mean(&x) }
}

/// A home: which devices it has, in which minutes they are active, and how many real packets a minute has.
pub(crate) struct HomeTrace {
    pub trace: Trace,
    pub present: Vec<bool>,
    pub active: Vec<Vec<bool>>,
    pub real: Vec<u32>,
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
    let jobs: Vec<(&Defence, u64)> = defences
        .iter()
        .flat_map(|(_, defence)| seeds.iter().map(move |&seed| (defence, seed)))
        .collect();
    let run = |&(defence, seed): &(&Defence, u64)| {
        one_seed(traces, defence, seed, &parts, &world, options)
    };
    let found = in_parallel(&jobs, &run, tick)?;
    let scores = defences
        .iter()
        .zip(found.chunks(seeds.len().max(1)))
        .map(|((name, _), found)| summary(name, &world.labels, found));
    Ok(scores.collect())
}

/// Results in the order of the jobs, which several threads do.
fn in_parallel<J: Sync, R: Send>(
    jobs: &[J],
    run: &(dyn Fn(&J) -> Result<R> + Sync),
    tick: &mut dyn FnMut(),
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (send, receive) = std::sync::mpsc::channel();
    let mut out: Vec<Option<R>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..threads.min(jobs.len()) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                while let Some((at, job)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(at).map(|job| (at, job))
                } {
                    if send.send((at, run(job))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        for (at, result) in receive {
            out[at] = Some(result?);
            tick();
        }
        Ok(())
    })?;
    Ok(out.into_iter().flatten().collect())
}

/// What one seed's homes cost and give away.
fn one_seed(
    traces: &[Trace],
    defence: &Defence,
    seed: u64,
    parts: &Split,
    world: &World,
    options: &HomeOptions,
) -> Result<(HomeSeed, Found)> {
    let mut rng = stream(seed, "homes");
    let mut sides: [Vec<Home>; 2] = Default::default();
    let (mut added, mut real, mut delay, mut count) = (0.0, 0.0, 0.0, 0.0);
    for (side, from) in [&parts.train, &parts.test].into_iter().enumerate() {
        for k in 0..options.homes[side] {
            let truth = build(
                traces,
                from,
                &parts.single,
                side,
                world,
                options,
                k,
                &mut rng,
            );
            let covered = defence.apply_until(&truth.trace, options.length, seed, 0)?;
            let bytes = |t: &Trace| t.packets.iter().map(|p| f64::from(p.size)).sum::<f64>();
            added += (bytes(&covered) - bytes(&truth.trace)) / options.length.as_secs_f64();
            real += bytes(&truth.trace) / options.length.as_secs_f64();
            delay += Cost::of([(&truth.trace, &covered)]).delay_p99_ms;
            count += 1.0;
            let rows = minutes(&covered.packets, options);
            sides[side].push(Home { rows, truth });
        }
    }
    let found = attack(&sides, world.labels.len(), options, &mut rng);
    let figures = HomeSeed {
        seed,
        real_bytes_per_second: real / count,
        bytes_per_second: added / count,
        delay_p99_ms: delay / count,
        active_auc: known(found.active.iter().copied()),
        present_auc: known(found.present.iter().copied()),
        top_hits: found.top_hits,
        whole_present_auc: found.whole_present,
        whole_top_hits: found.whole_top_hits,
        busy_auc: found.busy,
    };
    Ok((figures, found))
}

fn summary(name: &str, labels: &[String], found: &[(HomeSeed, Found)]) -> HomeScore {
    let figure =
        |f: fn(&HomeSeed) -> f64| Figure::of(&found.iter().map(|s| f(&s.0)).collect::<Vec<_>>());
    let device = |(c, label): (usize, &String)| HomeDevice {
        label: label.clone(),
        active_auc: known(found.iter().map(|(_, f)| f.active[c])),
        present_auc: known(found.iter().map(|(_, f)| f.present[c])),
        whole_present_auc: known(found.iter().map(|(_, f)| f.whole_by_label[c])),
    };
    HomeScore {
        defence: name.to_owned(),
        real_bytes_per_second: figure(|s| s.real_bytes_per_second),
        bytes_per_second: figure(|s| s.bytes_per_second),
        delay_p99_ms: figure(|s| s.delay_p99_ms),
        active_auc: figure(|s| s.active_auc),
        present_auc: figure(|s| s.present_auc),
        top_hits: figure(|s| s.top_hits),
        whole_present_auc: figure(|s| s.whole_present_auc),
        whole_top_hits: figure(|s| s.whole_top_hits),
        busy_auc: figure(|s| s.busy_auc),
        devices: labels.iter().enumerate().map(device).collect(),
        seeds: found.iter().map(|s| s.0.clone()).collect(),
    }
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
            begins: None,
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
