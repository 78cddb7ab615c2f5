//! Networks with differential privacy: DP-SGD on the critics (Abadi and others 2016), which alone see flows.
//!
//! Each critic round takes every flow with the same probability, bounds the norm of what each adds to the gradient of
//! both critics together, its gradient penalty included, and adds Gaussian noise to the sum. The generator sees nothing
//! but the critics. What else NetShare reads from the data (the dictionary of ports, choices, ranges, times, counts, the
//! longest flow, the best checkpoint) is public here, noisy, or left out.

use chaff_privacy::{Gradients, Run};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::sync::Mutex;

use super::chunk::{self, Chunk, Plan, Times};
use super::column::{Column, Rows};
use super::config::{Encoding, Settings, Spec};
use super::field::{Field, Scale};
use super::fit::{NetworkOptions, Progress, Watch, check, parallel, shape};
use super::model::{ChunkModel, Doppelganger};
use super::train::{Nets, Stream, private_epoch};
use super::words::Words;
use crate::SynthError;
use crate::address::key;
use crate::columns::named_protocols;
use crate::model::{Info, Method, Paid, Privacy, Unit};

/// Records of a flow at most, unless the configuration says.
const LENGTH: usize = 10;
/// Share of the budget for the numbers of flows.
const COUNTS: f64 = 0.05;

/// What a fit with differential privacy takes besides [`NetworkOptions`]; all of it is public.
#[derive(Clone, Debug)]
pub struct PrivateNetworkOptions {
    /// The labels that may occur, known without looking at the data; others count as the first. `None`: no labels.
    pub labels: Option<Vec<String>>,
    /// First and last start time, µs since 1970; records outside are not learned.
    pub time_range_us: (u64, u64),
}

/// Learns one model with differential privacy for flows: everything that it holds of the data comes through `gradients`.
///
/// `paid` is the (ε, δ) that `gradients` was bought with and `ledger_entry` the entry that paid; both go into the model,
/// whose account is checked against them.
///
/// # Errors
/// As [`super::fit_doppelganger`]; [`SynthError::Config`] for what the configuration would read from the data;
/// [`SynthError::Release`] when the budget is too small.
pub fn fit_doppelganger_private(
    rows: &Rows,
    settings: &Settings,
    options: &NetworkOptions,
    public: &PrivateNetworkOptions,
    mut gradients: Gradients,
    (ledger_entry, paid): (Option<u64>, (f64, f64)),
    watch: &dyn Watch,
) -> Result<Doppelganger, SynthError> {
    let settings = &made_public(settings, public)?;
    check(rows, std::slice::from_ref(settings))?;
    let mut rows = rows.clone();
    relabel(&mut rows, public.labels.as_deref());
    rows.make_up_addresses(options.seed);
    let cuts = chunk::cut_public(&rows.rows, settings.chunks, public.time_range_us);
    let chunks = chunk::chunks(&rows.rows, &cuts, settings);
    let learn = |specs: &[Spec]| -> Vec<Field> {
        // No rows: choices and ranges are all in the specification.
        specs
            .iter()
            .map(|s| Field::learn(s, &[], &rows.labels))
            .collect()
    };
    let plan = Plan {
        metadata: learn(&settings.metadata),
        series: learn(&settings.series),
        words: Words::default(),
        labels: rows.labels.clone(),
        tags: settings.chunks,
        first_tags_only: settings.first_tags_only,
        raw_time: settings.raw_time,
        length: settings.max_flow_len.unwrap_or(LENGTH),
        sample_len: settings.net.sample_len,
    };
    let times: Vec<Times> = (0..settings.chunks)
        .map(|k| public_times(k, settings, public))
        .collect();
    let mut releases = Vec::new();
    let mut sizes = Vec::new();
    for (k, c) in chunks.iter().enumerate() {
        let share = COUNTS / chunks.len() as f64;
        let (noisy, charge) =
            gradients.count(&format!("flows of chunk {k}"), c.flows.len() as i64, share)?;
        releases.push(Paid {
            name: charge.name,
            cells: charge.cells,
            sigma: charge.sigma,
            rho: charge.rho,
        });
        sizes.push(noisy.max(1) as u64);
    }
    let net = &settings.net;
    let epochs = |k: usize| match k {
        0 => settings.epochs,
        _ => ((settings.epochs as f64 / settings.reduce) as usize).max(1),
    };
    let rounds = |k: usize| (sizes[k] as usize / net.batch).max(1);
    let plans: Vec<(f64, u64)> = (0..chunks.len())
        .map(|k| {
            let rate = (net.batch as f64 / sizes[k] as f64).min(1.0);
            (rate, (epochs(k) * rounds(k) * net.critic_rounds) as u64)
        })
        .collect();
    let (rho, simulated) = (gradients.rho(), gradients.simulated());
    let runs = gradients.into_runs(&plans)?;
    let steps = runs.iter().map(Run::plan).collect();
    let runs: Vec<Mutex<Run>> = runs.into_iter().map(Mutex::new).collect();
    let train = |k: usize, warm: Option<&Nets>| -> Result<Nets, SynthError> {
        train_chunk(
            &chunks[k],
            &rows,
            &plan,
            &times[k],
            settings,
            warm,
            &runs[k],
            options.seed,
            &|e| {
                if e > 0 {
                    watch.progress(&Progress {
                        sample_len: net.sample_len,
                        chunk: k,
                        chunks: chunks.len(),
                        epoch: e,
                        epochs: epochs(k),
                        losses: None,
                    });
                }
                (epochs(k), rounds(k), k)
            },
        )
    };
    let first = train(0, None)?;
    let others = parallel(options.threads.max(1), chunks.len() - 1, |i| {
        train(i + 1, Some(&first))
    })?;
    let model = |(k, mut nets): (usize, Nets)| {
        let weights = nets.generator.weights();
        ChunkModel {
            times: times[k],
            records: sizes[k],
            flows: sizes[k],
            attributes: weights.clone(),
            weights,
        }
    };
    let privacy = Privacy {
        epsilon: paid.0,
        delta: paid.1,
        unit: Unit::Flow,
        relation:
            "all records of one flow (equal metadata: addresses, ports, protocol) added or removed"
                .to_owned(),
        rho,
        releases,
        gradients: steps,
        public_assumptions: assumptions(settings, public, &plan),
        ledger_entry,
        simulated,
    };
    privacy.verify()?;
    let shape = shape(&plan, &times[0], settings);
    Ok(Doppelganger {
        info: Info {
            version: 1,
            method: Method::Doppelganger,
            records: sizes.iter().sum(),
            fresh_addresses: true,
            packets: 0,
            privacy: Some(privacy),
        },
        kind: settings.kind,
        label_column: rows.label_column.clone(),
        units_us: (1, 1),
        shape,
        chunks: std::iter::once(first)
            .chain(others)
            .enumerate()
            .map(model)
            .collect(),
        plan,
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "one caller, which has them all at hand"
)]
fn train_chunk(
    chunk: &Chunk,
    rows: &Rows,
    plan: &Plan,
    times: &Times,
    settings: &Settings,
    warm: Option<&Nets>,
    run: &Mutex<Run>,
    seed: u64,
    done: &dyn Fn(usize) -> (usize, usize, usize),
) -> Result<Nets, SynthError> {
    let net = &settings.net;
    let flows = chunk::matrix(chunk, &rows.rows, plan, times).ok_or(SynthError::TooMany {
        what: "numbers in the flows of a chunk (set max_flow_len, or more chunks)",
        limit: 1 << 30,
    })?;
    let mut nets = match warm {
        Some(nets) => nets.clone(),
        None => {
            let mut rng = ChaCha8Rng::seed_from_u64(key(&[seed]));
            Nets::new(shape(plan, times, settings), net, &mut rng)
        }
    };
    nets.restart(net);
    let mut run = run.lock().map_err(|_| SynthError::Empty)?;
    let (epochs, rounds, number) = done(0);
    let stream = Stream(vec![seed, 0, number as u64]);
    for e in 0..epochs {
        private_epoch(&mut nets, &flows, net, &mut run, rounds, &stream, e)?;
        done(e + 1);
    }
    Ok(nets)
}

/// The configuration without anything that would be read from the data.
fn made_public(
    settings: &Settings,
    public: &PrivateNetworkOptions,
) -> Result<Settings, SynthError> {
    let refuse = |key: &str, value: &str, allowed: &str| SynthError::Config {
        key: key.to_owned(),
        value: value.to_owned(),
        allowed: format!("{allowed} with differential privacy"),
    };
    if settings.fixed_size {
        let key = "pre_post_processor.config.df2chunks";
        return Err(refuse(
            key,
            "\"fixed_size\"",
            "fixed_time: where records are cut would depend on all of them",
        ));
    }
    if public.time_range_us.0 > public.time_range_us.1 {
        return Err(SynthError::Option {
            name: "public time range",
            why: "its first time is after its last".to_owned(),
        });
    }
    let mut out = settings.clone();
    let keep = |s: &Spec| s.column != Column::Label || public.labels.is_some();
    out.metadata.retain(keep);
    out.series.retain(keep);
    for spec in out.metadata.iter_mut().chain(&mut out.series) {
        let column = spec.column;
        match &mut spec.encoding {
            Encoding::Word if column == Column::Protocol => {
                spec.encoding = Encoding::Choice(Some(named_protocols()));
            }
            Encoding::Word => spec.encoding = Encoding::Bits(16),
            Encoding::Choice(choices @ None) => {
                *choices = Some(match column {
                    Column::Label => public.labels.clone().unwrap_or_default(),
                    Column::Protocol => named_protocols(),
                    _ => {
                        let value = format!("without choices for {column:?}");
                        return Err(refuse(
                            "encoding categorical",
                            &value,
                            "allowed: name its choices",
                        ));
                    }
                });
            }
            Encoding::Float { range, .. } => {
                let known = column.public_range();
                for (own, known) in range.iter_mut().zip(known) {
                    own.get_or_insert(known);
                }
            }
            Encoding::Choice(Some(_)) | Encoding::Bits(_) => {}
        }
    }
    Ok(out)
}

fn relabel(rows: &mut Rows, public: Option<&[String]>) {
    let labels = match public {
        Some(labels) if !labels.is_empty() => labels.to_vec(),
        _ => vec![String::new()],
    };
    for row in &mut rows.rows {
        let text = rows.labels.get(row.record.label as usize);
        let at = labels.iter().position(|l| Some(l) == text);
        row.record.label = at.unwrap_or(0) as u32;
    }
    rows.labels = labels;
    rows.label_column = public.and(rows.label_column.take());
}

/// Equal parts of the public range.
fn public_times(k: usize, settings: &Settings, public: &PrivateNetworkOptions) -> Times {
    let (first, last) = public.time_range_us;
    let edge = |k: usize| {
        let part = u128::from(last - first) * k as u128;
        first + part.div_ceil(settings.chunks as u128) as u64
    };
    let (from, to) = (
        edge(k),
        if k + 1 == settings.chunks {
            last
        } else {
            edge(k + 1)
        },
    );
    let scale = Scale {
        low: 0.0,
        high: (to - from) as f64,
        log1p: false,
        signed: settings.signed_time,
    };
    Times {
        first: from,
        last: to,
        start: scale,
        gap: scale,
    }
}

fn assumptions(settings: &Settings, public: &PrivateNetworkOptions, plan: &Plan) -> Vec<String> {
    let (first, last) = public.time_range_us;
    let mut out = vec![
        format!("records start from {first} to {last} us since 1970, cut into {} equal chunks", settings.chunks),
        format!("the first {} records of a flow in a chunk are used", plan.length),
        "ports are 16 bits, protocols one of those with names, in place of a dictionary learned from the data".to_owned(),
        match &public.labels {
            Some(labels) => format!("the set of labels: {}", labels.join(", ")),
            None => "labels are not learned".to_owned(),
        },
        "the last checkpoint of the first model of the grid is used: none is chosen by the data".to_owned(),
        "flows are sampled for each step independently with the rates given (Poisson); one flow may have records in every \
         chunk, so the steps of all chunks add up"
            .to_owned(),
        "what the generator does is public but for the critics' gradients".to_owned(),
    ];
    for spec in settings.metadata.iter().chain(&settings.series) {
        if let Encoding::Float {
            range: [Some(low), Some(high)],
            ..
        } = spec.encoding
        {
            out.push(format!("{:?} lies from {low} to {high}", spec.column));
        }
    }
    out
}
