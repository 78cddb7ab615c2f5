//! How close a synthetic trace is to a real one, and how much closer than it should be.
//!
//! Measures of NetShare's paper (Yin et al., SIGCOMM 2022), of usefulness and of distinguishing copies; bins and categories
//! come from the real trace only. [`fidelity`] is quick and for tables, [`evaluate`] has everything.

mod distance;
mod downstream;
mod learners;
mod neighbours;
mod privacy;
mod rules;
mod sketch;
mod temporal;
mod view;

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use crate::capture::Capture;
use crate::{SynthError, Table};
use distance::{distance, rank_divergence, sorted, variation};
pub(crate) use distance::{divergence, wasserstein};
use view::{Tuple, View, columns};

pub use distance::Distance;
pub use downstream::{Classifier, Downstream};
pub use privacy::{Holdout, Near};
pub use sketch::Sketch;
pub use temporal::{Both, Temporal};
pub use view::Kind;

/// What [`fidelity`] finds; smaller is closer for all but copies, for which see there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fidelity {
    /// Records of the real and the synthetic trace.
    pub records: [usize; 2],
    /// Jensen-Shannon divergence, nats: SA, DA over popularity ranks of addresses; SP, DP over ports, `_bucket` with ports
    /// from 1024 in steps of 512; PR over protocols; label; of packets also tos, ttl, flag (fragment bits).
    pub divergence: BTreeMap<&'static str, f64>,
    /// Earth mover's distance. Flows: TS start after the first record (µs), TD duration (s), PKT, BYT; packets: PAT time
    /// after the first (µs), PS size; both: FS records per 5-tuple.
    pub distance: BTreeMap<&'static str, Distance>,
    /// Mean total variation distance over the tables of all pairs of fields.
    pub pair_tvd: f64,
    /// Total variation distance of what a source does next (service after service); `None` without sources that recur.
    pub bigram_tvd: Option<f64>,
    /// Share of synthetic records that are in the real trace, time aside. Compare with the same share between two parts
    /// of the real trace: above it is copying.
    pub copies: f64,
    /// Share of synthetic records whose addresses, ports and protocol are in the real trace.
    pub five_tuple_copies: f64,
}

/// The numbers to look at first. All but those of privacy are 0 when both traces are alike (`accuracy_ratio`: 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Mean of SA, DA, SP, DP and PR.
    pub jsd_mean: f64,
    /// The same with ports in buckets: below 100,000 records ports alone are mostly noise.
    pub jsd_mean_bucketed: f64,
    /// Mean relative earth mover's distance.
    pub emd_relative_mean: Option<f64>,
    /// The same of logarithms.
    pub emd_log_relative_mean: Option<f64>,
    /// As [`Fidelity::pair_tvd`].
    pub pair_tvd: f64,
    /// Mean difference of the shares that obey each rule.
    pub sanity_gap: Option<f64>,
    /// Mean error of autocorrelations of records and bytes.
    pub acf_mae: f64,
    /// As [`Fidelity::bigram_tvd`].
    pub bigram_tvd: Option<f64>,
}

/// What [`evaluate`] finds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the report: 1.
    pub version: u32,
    /// What was compared.
    pub kind: Kind,
    /// The numbers to look at first.
    pub summary: Summary,
    /// The same between two random halves of the real trace: what sampling alone does. `None` below 40 records.
    pub floor: Option<Summary>,
    /// How often accuracy is kept, and how well both are told apart; `None` when a trace has fewer than 10 records.
    pub downstream: Option<Downstream>,
    /// Distances and copies.
    pub privacy: Near,
    /// Divergences, distances, pairs.
    pub fidelity: Fidelity,
    /// Total variation distance of each pair of fields.
    pub pairs: BTreeMap<String, f64>,
    /// Measures over time.
    pub temporal: Temporal,
    /// Shares of records that obey each rule.
    pub rules: Both<BTreeMap<&'static str, f64>>,
    /// Errors of sketches.
    pub sketches: BTreeMap<&'static str, Sketch>,
}

/// What [`evaluate`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Measures {
    /// Seed of samples, halves and learners.
    pub seed: u64,
    /// Records of each trace that learners and searches for neighbours use.
    pub most: usize,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            seed: 0,
            most: 20_000,
        }
    }
}

fn divergences(real: &View, synthetic: &View) -> BTreeMap<&'static str, f64> {
    let (a, b) = (&real.tuples, &synthetic.tuples);
    let bucket = |p: u16| match p {
        0..1024 => p,
        _ => 1024 + (p - 1024) / 512,
    };
    let ports = |of: &dyn Fn(&Tuple) -> u16| divergence(a.iter().map(of), b.iter().map(of));
    let mut out = BTreeMap::from([
        (
            "SA",
            rank_divergence(a.iter().map(|t| t.0), b.iter().map(|t| t.0)),
        ),
        (
            "DA",
            rank_divergence(a.iter().map(|t| t.1), b.iter().map(|t| t.1)),
        ),
        ("SP", ports(&|t| t.2)),
        ("DP", ports(&|t| t.3)),
        ("SP_bucket", ports(&|t| bucket(t.2))),
        ("DP_bucket", ports(&|t| bucket(t.3))),
        ("PR", ports(&|t| u16::from(t.4))),
    ]);
    if real.label.is_some() && synthetic.label.is_some() {
        let texts = |v: &View| -> Vec<String> {
            (0..v.len())
                .map(|i| v.text(i).unwrap_or("").to_owned())
                .collect()
        };
        out.insert(
            "label",
            divergence(texts(real).into_iter(), texts(synthetic).into_iter()),
        );
    }
    for name in ["tos", "ttl", "flag"] {
        if let (Some(x), Some(y)) = (real.number(name), synthetic.number(name)) {
            let whole = |v: &f64| *v as u64;
            out.insert(name, divergence(x.iter().map(whole), y.iter().map(whole)));
        }
    }
    out
}

fn distances(real: &View, synthetic: &View) -> BTreeMap<&'static str, Distance> {
    let start = match real.kind {
        Kind::Flows => "TS",
        Kind::Packets => "PAT",
    };
    let mut out = BTreeMap::from([(start, distance(&real.since(), &synthetic.since()))]);
    for (column, name) in [
        ("td", "TD"),
        ("pkt", "PKT"),
        ("byt", "BYT"),
        ("pkt_len", "PS"),
    ] {
        if let (Some(x), Some(y)) = (real.number(column), synthetic.number(column)) {
            out.insert(name, distance(x, y));
        }
    }
    let flows = |v: &View| {
        let mut counts: BTreeMap<Tuple, f64> = BTreeMap::new();
        v.tuples
            .iter()
            .for_each(|t| *counts.entry(*t).or_default() += 1.0);
        counts.into_values().collect::<Vec<_>>()
    };
    out.insert("FS", distance(&flows(real), &flows(synthetic)));
    out
}

fn pairs(real: &View, synthetic: &View) -> BTreeMap<String, f64> {
    let columns = columns(real, synthetic);
    let columns: Vec<_> = columns.iter().filter(|c| c.name != view::RATIO).collect();
    let mut out = BTreeMap::new();
    for (i, x) in columns.iter().enumerate() {
        for y in &columns[i + 1..] {
            let both = |k: usize| x.codes[k].iter().copied().zip(y.codes[k].iter().copied());
            if let Some(apart) = variation(both(0), both(1)) {
                out.insert(format!("{}|{}", x.name, y.name), apart);
            }
        }
    }
    out
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0.0), |(s, n), v| (s + v, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

fn compare(real: &View, synthetic: &View) -> (Fidelity, BTreeMap<String, f64>) {
    let pairs = pairs(real, synthetic);
    let fidelity = Fidelity {
        records: [real.len(), synthetic.len()],
        divergence: divergences(real, synthetic),
        distance: distances(real, synthetic),
        pair_tvd: mean(pairs.values().copied()).unwrap_or(0.0),
        bigram_tvd: temporal::bigram_tvd(real, synthetic).0,
        copies: privacy::copies(synthetic, real),
        five_tuple_copies: privacy::seen(synthetic, real, |t| *t),
    };
    (fidelity, pairs)
}

/// Compares two tables of flows.
///
/// # Errors
/// [`SynthError::Empty`] when one has no records.
pub fn fidelity(real: &Table, synthetic: &Table) -> Result<Fidelity, SynthError> {
    if real.records.is_empty() || synthetic.records.is_empty() {
        return Err(SynthError::Empty);
    }
    Ok(compare(&View::flows(real), &View::flows(synthetic)).0)
}

fn summary(fidelity: &Fidelity, gap: Option<f64>, temporal: &Temporal) -> Summary {
    let of = |name: &str| fidelity.divergence.get(name).copied();
    let bucketed = |name: &str| of(&format!("{name}_bucket")).or_else(|| of(name));
    let names = ["SA", "DA", "SP", "DP", "PR"];
    let distances = || fidelity.distance.values();
    Summary {
        jsd_mean: mean(names.iter().filter_map(|n| of(n))).unwrap_or(0.0),
        jsd_mean_bucketed: mean(names.iter().filter_map(|n| bucketed(n))).unwrap_or(0.0),
        emd_relative_mean: mean(distances().filter_map(|d| d.relative)),
        emd_log_relative_mean: mean(distances().filter_map(|d| d.log_relative)),
        pair_tvd: fidelity.pair_tvd,
        sanity_gap: gap,
        acf_mae: (temporal.acf_count_mae + temporal.acf_bytes_mae) / 2.0,
        bigram_tvd: fidelity.bigram_tvd,
    }
}

/// The views of the traces: of packets when all are captures, else of flows.
fn views(all: &[&Capture]) -> Vec<View> {
    let packets = all.iter().all(|c| !c.steps.is_empty());
    all.iter()
        .map(|c| {
            if packets {
                View::packets(c)
            } else {
                View::flows(&c.table)
            }
        })
        .collect()
}

/// Compares two traces by everything there is: packets when all are captures, else flows. `holdout` is a real trace that
/// the model has not seen. Of more than 200,000 records the earliest count.
///
/// # Errors
/// [`SynthError::Empty`] when a trace has no records.
pub fn evaluate(
    real: &Capture,
    synthetic: &Capture,
    holdout: Option<&Capture>,
    measures: &Measures,
) -> Result<Report, SynthError> {
    let all: Vec<&Capture> = [real, synthetic].into_iter().chain(holdout).collect();
    if all.iter().any(|c| c.table.records.is_empty()) {
        return Err(SynthError::Empty);
    }
    let views = views(&all);
    let (real, synthetic) = (&views[0], &views[1]);
    let mut rng = ChaCha8Rng::seed_from_u64(measures.seed);
    let (fidelity, pairs) = compare(real, synthetic);
    let temporal = temporal::measure(real, synthetic);
    let rules = Both {
        real: rules::shares(real),
        synthetic: rules::shares(synthetic),
    };
    let gap = rules::gap(&rules.real, &rules.synthetic);
    let enough = real.len().min(synthetic.len()) >= 10;
    Ok(Report {
        version: 1,
        kind: real.kind,
        summary: summary(&fidelity, gap, &temporal),
        floor: (real.len() >= 40).then(|| floor(real, &mut rng)),
        downstream: enough.then(|| downstream::measure(real, synthetic, measures.most, &mut rng)),
        privacy: privacy::measure(real, synthetic, views.get(2), measures.most, &mut rng),
        fidelity,
        pairs,
        temporal,
        rules,
        sketches: sketch::measure(real, synthetic),
    })
}

/// The summary of two random halves of a trace.
fn floor(real: &View, rng: &mut ChaCha8Rng) -> Summary {
    let mut rows: Vec<usize> = (0..real.len()).collect();
    rows.shuffle(rng);
    let (a, b) = rows.split_at_mut(real.len() / 2);
    a.sort_unstable();
    b.sort_unstable();
    let (a, b) = (real.pick(a), real.pick(b));
    let gap = rules::gap(&rules::shares(&a), &rules::shares(&b));
    summary(&compare(&a, &b).0, gap, &temporal::measure(&a, &b))
}

/// A number of both traces, for pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Ascending values of the real and the synthetic trace, at most 400 quantiles of each.
    pub values: [Vec<f64>; 2],
}

/// What pictures of two traces show.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves {
    /// What was compared.
    pub kind: Kind,
    /// Counters, sizes and durations.
    pub numbers: Vec<Curve>,
    /// Share of records in each hundredth of the time, real and synthetic.
    pub rate: [Vec<f64>; 2],
    /// The real trace's most frequent services (protocol and lower port) with their shares, real and synthetic.
    pub services: Vec<(String, [f64; 2])>,
}

/// What pictures of two traces show.
pub fn curves(real: &Capture, synthetic: &Capture) -> Curves {
    let views = views(&[real, synthetic]);
    let quantiles = |values: &[f64]| {
        let sorted = sorted(values);
        let n = sorted.len().min(400);
        let part = |i: usize| i as f64 / (n.max(2) - 1) as f64;
        (0..n)
            .map(|i| distance::quantile(&sorted, part(i)))
            .collect()
    };
    let both = |value: &dyn Fn(&View) -> Vec<f64>| [0, 1].map(|i| quantiles(&value(&views[i])));
    let column = |name: &'static str| {
        move |v: &View| v.number(name).map(<[f64]>::to_vec).unwrap_or_default()
    };
    let per_tuple = |v: &View| {
        let mut counts: BTreeMap<Tuple, f64> = BTreeMap::new();
        v.tuples
            .iter()
            .for_each(|t| *counts.entry(*t).or_default() += 1.0);
        counts.into_values().collect()
    };
    let numbers = match views[0].kind {
        Kind::Flows => vec![
            ("packets of a flow", both(&column("pkt"))),
            ("bytes of a flow", both(&column("byt"))),
            ("duration of a flow, s", both(&column("td"))),
            ("records of a 5-tuple", both(&per_tuple)),
        ],
        Kind::Packets => vec![
            ("length of a packet, bytes", both(&column("pkt_len"))),
            ("time to live", both(&column("ttl"))),
            ("packets of a 5-tuple", both(&per_tuple)),
        ],
    };
    let rate = [0, 1].map(|i| {
        let n = views[i].len().max(1) as f64;
        temporal::rates(&views[i])[0]
            .iter()
            .map(|c| c / n)
            .collect()
    });
    let service = |t: &Tuple| (t.4, t.2.min(t.3).min(1024));
    let known = view::top(views[0].tuples.iter().map(service), 12);
    let mut services: Vec<_> = known.into_iter().collect();
    services.sort_by_key(|(_, rank)| *rank);
    let share = |i: usize, s: (u8, u16)| {
        let n = views[i].tuples.iter().filter(|t| service(t) == s).count();
        n as f64 / views[i].len().max(1) as f64
    };
    Curves {
        kind: views[0].kind,
        numbers: numbers
            .into_iter()
            .map(|(name, values)| Curve { name, values })
            .collect(),
        rate,
        services: services
            .into_iter()
            .map(|(s, _)| {
                let port = match s.1 {
                    1024 => " 1024+".to_owned(),
                    0 => String::new(),
                    port => format!(" {port}"),
                };
                let name = format!("{}{port}", crate::protocol_name(s.0));
                (name, [share(0, s), share(1, s)])
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;

    fn table() -> Table {
        let records = (0..50u64)
            .map(|i| Record {
                start_us: i,
                packets: 1 + i % 3,
                bytes: 40 * i,
                src_port: i as u16,
                ..Record::default()
            })
            .collect();
        Table {
            records,
            labels: vec![String::new()],
            ..Table::default()
        }
    }

    #[test]
    fn a_copy_is_no_distance_and_all_copies() {
        let same = fidelity(&table(), &table()).unwrap();
        assert_eq!(
            (same.pair_tvd, same.copies, same.bigram_tvd),
            (0.0, 1.0, Some(0.0))
        );
        assert!(same.divergence.values().all(|v| *v == 0.0));
        assert!(fidelity(&table(), &Table::default()).is_err());
    }

    #[test]
    fn the_report_tells_a_copy_from_a_likeness() {
        let real = Capture::of_table(table());
        let report = evaluate(&real, &real, Some(&real), &Measures::default()).unwrap();
        assert_eq!((report.summary.jsd_mean, report.privacy.copies), (0.0, 1.0));
        assert_eq!(report.privacy.dcr_median_synthetic, 0.0);
        let held = report.privacy.holdout.unwrap();
        assert_eq!((held.membership_auc, held.copies), (0.5, 1.0));
        assert_eq!(report.temporal.rate_profile_tvd, 0.0);
        assert!(report.floor.unwrap().jsd_mean > 0.0);
        assert!(
            serde_json::to_string(&report.summary)
                .unwrap()
                .contains("pair_tvd")
        );
        let curves = curves(&real, &real);
        assert_eq!(curves.numbers[0].values[0], curves.numbers[0].values[1]);
        assert!(!curves.services.is_empty());
        assert!(evaluate(&real, &Capture::default(), None, &Measures::default()).is_err());
    }
}
