use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use chaff_onnx::{Extras, IPET_GENERATOR, IPET_SLOTS, SIGNATURE_VERSION, SIZE_BINS, Signature};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::attacker::{Attacker, Sample, Training};
use crate::captures::Data;
use crate::cover_parts::{MIN_WINDOWS, Part, prepare};
use crate::generator::Generator;
use crate::windows::{COLUMNS, Shape};

/// Version of the report's layout.
pub const REPORT_VERSION: u32 = 1;

/// How generators are trained.
#[derive(Clone, Debug)]
pub struct Config {
    /// Slots and windows.
    pub shape: Shape,
    /// Train for this label only; `None` trains one generator for each label.
    pub device: Option<String>,
    /// One generator for all devices, so that the cover itself tells none of them; otherwise one for each, as iPET has it.
    pub shared: bool,
    /// With `shared`: give one model, labelled `any`, instead of the same one for each device.
    pub one: bool,
    /// Rounds of generators against attacker, at least 1. The generators of each round start from scratch.
    pub stages: u32,
    /// Passes of a generator over its device's windows in each stage.
    pub epochs: usize,
    /// Passes of the attacker over all windows before the first stage.
    pub attacker_epochs: usize,
    /// Nats that covering at the full scale all the time would have to gain; 0 does not count cost.
    pub overhead_weight: f64,
    /// Most dummies of a slot and direction.
    pub max_packets: f64,
    /// Most cover bytes of a slot and direction.
    pub max_payload: f64,
    /// Most windows used of one label.
    pub max_windows: usize,
    /// Which of several independently trained series this is.
    pub chain: u32,
    /// What the generators do beyond iPET's. A mask is written into the models; windows do not show it, so it changes nothing of the
    /// training.
    pub extras: Extras,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// A trained generator.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Label of the device.
    pub label: String,
    /// The model file.
    pub onnx: Vec<u8>,
}

/// What came out, for people and for `--json`. The same data and seed give the same report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Seed.
    pub seed: u64,
    /// Length of a slot, ms.
    pub slot_ms: u64,
    /// Slots of a window.
    pub rows: usize,
    /// Stages trained.
    pub stages: u32,
    /// Whether all devices have the same generator.
    pub shared: bool,
    /// Cost weight.
    pub overhead_weight: f64,
    /// SHA-256 of the training data.
    pub training_digest: String,
    /// Accuracy of guessing without looking.
    pub chance: f64,
    /// The attacker trained on clean windows, on clean held-out windows: mean over labels of the share found.
    pub accuracy_before: f64,
    /// The same attacker on covered held-out windows.
    pub accuracy_after: f64,
    /// A fresh attacker trained on covered windows, on covered held-out windows: the number to judge by.
    pub accuracy_retrained: f64,
    /// Per label with a generator.
    pub devices: Vec<DeviceReport>,
    /// Labels left out for want of windows.
    pub left_out: Vec<String>,
    /// What was odd about the captures.
    pub notes: Vec<String>,
}

/// One device's part of a [`Report`].
#[derive(Clone, Debug, Serialize)]
pub struct DeviceReport {
    /// Label.
    pub label: String,
    /// Windows trained on.
    pub train_windows: usize,
    /// Windows held out.
    pub test_windows: usize,
    /// Whether whole captures were held out; otherwise the end of the only one.
    pub held_out_sessions: bool,
    /// Share of held-out windows recognised: clean, covered, covered with a retrained attacker.
    pub recognised: [f64; 3],
    /// Mean cover per slot: incoming packets, incoming bytes, outgoing packets, outgoing bytes.
    pub cover_per_slot: [f64; COLUMNS],
    /// Mean real traffic per slot in the windows, same columns.
    pub real_per_slot: [f64; COLUMNS],
}

/// Where training is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Epochs done, all networks together.
    pub done: u64,
    /// Epochs to do.
    pub total: u64,
    /// Mean loss of the last epoch.
    pub loss: f64,
}

/// A random stream for one purpose.
pub fn stream(seed: u64, purpose: &str) -> ChaCha20Rng {
    let mut hash = Sha256::new();
    hash.update(b"chaff trainer v1\0");
    hash.update(seed.to_le_bytes());
    hash.update(purpose.as_bytes());
    ChaCha20Rng::from_seed(hash.finalize().into())
}

/// Trains generators.
///
/// An attacker learns to tell the devices apart. Then, in each stage, every generator starts from scratch and learns to
/// maximise the attacker's cross-entropy of the true label on windows with cover added, and the attacker goes on learning
/// from covered windows. The models of the last stage are the result.
///
/// A generator made for one device soon becomes a sign of that device. On 25 kinds of real devices (balanced
/// accuracy 0.60 without cover, chance 0.04, at most 400 windows each) a retrained attacker got 0.95 after 40 epochs of
/// per-device training, 0.39 with untrained generators and 0.24 with one shared generator that went on learning
/// for 10 stages of 3 epochs, with a quarter fewer dummies.
///
/// # Errors
/// Fewer than two labels with enough windows, a label that is not there, a number out of range.
pub fn train(
    data: &Data,
    config: &Config,
    tick: &mut dyn FnMut(Progress),
) -> Result<(Vec<Trained>, Report)> {
    check(config)?;
    let (labels, parts, left_out) = prepare(data, config)?;
    let targets: Vec<usize> = match &config.device {
        None => (0..labels.len()).collect(),
        Some(d) => {
            let Some(at) = labels.iter().position(|l| l == d) else {
                bail!(
                    "no device {d:?} with at least {MIN_WINDOWS} windows; there are: {}",
                    labels.join(", ")
                );
            };
            vec![at]
        }
    };
    let networks = if config.shared { 1 } else { targets.len() };
    let generator_epochs = u64::from(config.stages) * (networks * config.epochs) as u64;
    let stage_epochs = stage_epochs(config);
    let mut progress = Progress {
        done: 0,
        total: 2 * config.attacker_epochs as u64
            + generator_epochs
            + (config.stages as usize - 1) as u64 * stage_epochs as u64,
        loss: 0.0,
    };
    let mut step = |loss: f64| {
        progress.done += 1;
        progress.loss = loss;
        tick(progress);
    };

    let rows = config.shape.rows;
    let all = |side: fn(&Part) -> &Vec<Sample>| -> Vec<Sample> {
        parts.iter().flat_map(side).cloned().collect()
    };
    let (clean_train, clean_test) = (all(|p| &p.train), all(|p| &p.test));
    let how = Training {
        epochs: config.attacker_epochs,
        batch: 32,
        rate: 1e-3,
    };
    let mut rng = stream(config.seed, "attacker");
    let first = {
        let mut a = Attacker::new(rows, labels.len(), &mut rng);
        a.train(&clean_train, how, &mut rng, &mut step);
        a
    };

    let scale = [
        config.max_packets,
        config.max_payload,
        config.max_packets,
        config.max_payload,
    ];
    let mut attacker = first.clone();
    let mut generators: Vec<Option<Generator>> = vec![None; labels.len()];
    for stage in 1..=config.stages {
        // Each group gets one generator.
        let groups: Vec<&[usize]> = if config.shared {
            vec![&targets]
        } else {
            targets.chunks(1).collect()
        };
        for group in groups {
            let name = if config.shared {
                "*"
            } else {
                &labels[group[0]]
            };
            let purpose = format!("generator {} {stage} {name}", config.chain);
            let mut rng = stream(config.seed, &purpose);
            // A shared generator goes on from the stage before; iPET's start from scratch.
            let before = generators[group[0]].take().filter(|_| config.shared);
            let mut g = before.unwrap_or_else(|| {
                Generator::with_extras(rows, scale, config.extras.clone(), &mut rng)
            });
            let samples: Vec<&Sample> = group.iter().flat_map(|&t| &parts[t].train).collect();
            g.train(
                &attacker,
                &samples,
                config.overhead_weight,
                Training {
                    epochs: config.epochs,
                    batch: 32,
                    rate: 0.01,
                },
                &mut rng,
                &mut step,
            );
            for &t in group {
                generators[t] = Some(g.clone());
            }
        }
        if stage < config.stages {
            let mut rng = stream(config.seed, &format!("attacker stage {stage}"));
            let (covered, _) = cover(&clean_train, &generators, &mut rng);
            let how = Training {
                epochs: stage_epochs,
                ..how
            };
            attacker.train(&covered, how, &mut rng, &mut step);
        }
    }

    let mut rng = stream(config.seed, "evaluation");
    let (covered_train, _) = cover(&clean_train, &generators, &mut rng);
    let (covered_test, added) = cover(&clean_test, &generators, &mut rng);
    let mut fresh = Attacker::new(rows, labels.len(), &mut rng);
    fresh.train(&covered_train, how, &mut rng, &mut step);
    let scores = [
        first.score(&clean_test),
        first.score(&covered_test),
        fresh.score(&covered_test),
    ];

    let mut trained = Vec::new();
    let one = config.shared && config.one;
    for &t in targets.iter().take(if one { 1 } else { usize::MAX }) {
        let Some(g) = &generators[t] else { continue };
        let label = if one { "any" } else { &labels[t] };
        let signature = signature(label, data, config);
        let mut rng = stream(config.seed, &format!("vectors {} {label}", config.chain));
        let onnx = g
            .to_onnx(&signature, &mut rng)
            .with_context(|| format!("while writing the model of {label}"))?;
        trained.push(Trained {
            label: label.to_owned(),
            onnx,
        });
    }
    let report = Report {
        version: REPORT_VERSION,
        seed: config.seed,
        slot_ms: config.shape.slot.as_millis(),
        rows,
        stages: config.stages,
        shared: config.shared,
        overhead_weight: config.overhead_weight,
        training_digest: data.digest.iter().map(|b| format!("{b:02x}")).collect(),
        chance: 1.0 / labels.len() as f64,
        accuracy_before: balanced(&scores[0]),
        accuracy_after: balanced(&scores[1]),
        accuracy_retrained: balanced(&scores[2]),
        devices: targets
            .iter()
            .map(|&t| DeviceReport {
                label: labels[t].clone(),
                train_windows: parts[t].train.len(),
                test_windows: parts[t].test.len(),
                held_out_sessions: parts[t].by_session,
                recognised: std::array::from_fn(|i| share(scores[i][t])),
                cover_per_slot: per_slot(added[t].iter().map(Vec::as_slice), rows),
                real_per_slot: per_slot(parts[t].test.iter().map(|s| &s.x[..rows * COLUMNS]), rows),
            })
            .collect(),
        left_out,
        notes: data.notes.clone(),
    };
    Ok((trained, report))
}

fn check(config: &Config) -> Result<()> {
    let positive = |name: &str, x: f64, top: f64| {
        if x.is_finite() && x > 0.0 && x <= top {
            Ok(())
        } else {
            bail!("--{name} is {x}, allowed is above 0 to {top}")
        }
    };
    positive("max-packets", config.max_packets, 10_000.0)?;
    positive("max-payload", config.max_payload, 10_000_000.0)?;
    if !(config.overhead_weight.is_finite() && config.overhead_weight >= 0.0) {
        bail!(
            "--overhead-weight is {}, allowed is 0 or more",
            config.overhead_weight
        );
    }
    if !(1..=1000).contains(&config.stages) {
        bail!("--stages is {}, allowed is 1 to 1000", config.stages);
    }
    Ok(())
}

/// iPET trains its discriminator 2 epochs a stage; this one learns more slowly per epoch on small data.
fn stage_epochs(config: &Config) -> usize {
    config.attacker_epochs.div_ceil(4)
}

/// Adds cover to the samples of every label that has a generator; also what was added, per label and window. Every session is another
/// home, with another secret.
fn cover(
    samples: &[Sample],
    generators: &[Option<Generator>],
    rng: &mut ChaCha20Rng,
) -> (Vec<Sample>, Vec<Vec<Vec<f64>>>) {
    let mut out = samples.to_vec();
    let mut added = vec![Vec::new(); generators.len()];
    let mut secrets: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for s in &mut out {
        if let Some(g) = &generators[s.label] {
            let home = (s.label, s.session);
            let secret = secrets.entry(home).or_insert_with(|| g.secret(rng));
            let cover = g.perturb(s, secret, rng);
            added[s.label].push(cover);
        }
    }
    (out, added)
}

fn share((right, all): (usize, usize)) -> f64 {
    right as f64 / all.max(1) as f64
}

/// Mean over labels of the share recognised.
fn balanced(scores: &[(usize, usize)]) -> f64 {
    scores.iter().copied().map(share).sum::<f64>() / scores.len() as f64
}

fn per_slot<'a>(windows: impl Iterator<Item = &'a [f64]>, rows: usize) -> [f64; COLUMNS] {
    let (mut sums, mut slots) = ([0.0; COLUMNS], 0usize);
    for w in windows {
        slots += rows;
        w.iter()
            .enumerate()
            .for_each(|(i, v)| sums[i % COLUMNS] += v);
    }
    sums.map(|s| s / slots.max(1) as f64)
}

fn signature(label: &str, data: &Data, config: &Config) -> Signature {
    let (p, b) = (config.max_packets as f32, config.max_payload as f32);
    let (feature_kind, scale) = match config.extras.sizes.len() {
        0 => (IPET_SLOTS, vec![p, b, p, b]),
        bins => (SIZE_BINS, vec![p; 2 * bins]),
    };
    Signature {
        version: SIGNATURE_VERSION,
        kind: IPET_GENERATOR.to_owned(),
        feature_kind: feature_kind.to_owned(),
        rows: config.shape.rows as u32,
        columns: scale.len() as u32,
        slot_ms: config.shape.slot.as_millis() as u32,
        window_ms: config.shape.window().as_millis() as u32,
        scale,
        threshold: None,
        device_label: label.to_owned(),
        chain: config.chain,
        stage: config.stages,
        seed: config.seed,
        training_digest: data.digest,
        extras: config.extras.clone(),
    }
}
