//! iPET's staged adversarial training, as published: one generator a device, LSTM discriminator, stage by stage.
//!
//! In every stage all generators start from scratch and learn, against the frozen discriminator, to maximise the cross-entropy of
//! the true label on windows with their output added (not rounded); then the discriminator learns from windows with
//! rounded output of all generators. After each stage everything is stored, so that a run can go on where it was stopped; a run in
//! two parts gives the same files as one in a piece.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_learn::{Activation, Fit, Layer, Network, Optimizer, Samples, fit};
use ndarray::Array2;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::cover::stream;
use crate::generator::{Generator, LATENT};
use crate::nets::{Made, Net, Sets, Validation, digest, judge, to_onnx};
use crate::network::{Dense, shuffle};
use crate::score::{Score, median};
use crate::windows::{COLUMNS, Shape};

/// Version of checkpoints and reports.
const VERSION: u32 = 2;
/// Windows of a step in a stage.
const BATCH: usize = 32;

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// Stages.
    pub stages: u32,
    /// Passes of a generator over its device's windows in each stage.
    pub generator_epochs: usize,
    /// Passes of the discriminator over all windows in each stage.
    pub discriminator_epochs: usize,
    /// Most passes of attackers that are trained by themselves.
    pub attacker_epochs: usize,
    /// Largest values: packets and bytes of a slot and direction.
    pub limits: [f64; 2],
    /// Number of the series.
    pub chain: u32,
    /// Which windows decide when an attacker that is trained by itself stops.
    pub validation: Validation,
    /// Seed.
    pub seed: u64,
}

impl Default for Staged {
    /// iPET's: 5 stages of 3 and 2 passes, 4 packets and 100 bytes.
    fn default() -> Self {
        Self {
            stages: 5,
            generator_epochs: 3,
            discriminator_epochs: 2,
            attacker_epochs: 100,
            limits: [4.0, 100.0],
            chain: 0,
            validation: Validation::HeldOut,
            seed: 0,
        }
    }
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct StagedReport {
    /// Layout version.
    pub version: u32,
    /// Settings.
    pub settings: Staged,
    /// Names of the labels, in the order of the attackers' outputs.
    pub labels: Vec<String>,
    /// Labels left out.
    pub left_out: Vec<String>,
    /// Accuracy of guessing without looking.
    pub chance: f64,
    /// Windows: training, validation, held out.
    pub windows: [usize; 3],
    /// The first discriminator on clean windows of held-out sessions.
    pub undefended: Score,
    /// The same one on covered windows.
    pub r#static: Score,
    /// The discriminator that learned along, on covered windows.
    pub trained_along: Score,
    /// A fresh one trained on covered windows, on covered windows.
    pub retrained: Score,
    /// Mean of a generator's rounded output per slot: packets in, bytes in, packets out, bytes out.
    pub cover_per_slot: [f64; COLUMNS],
    /// Payload added, share of the real payload: all windows, and the median over labels.
    pub overhead: [f64; 2],
    /// CPU-bound seconds of the stages.
    pub seconds: f64,
}

/// A checkpoint on disk, written after each stage.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    version: u32,
    settings: Staged,
    data: String,
    stage: u32,
    first: Vec<f32>,
    discriminator: Vec<f32>,
    /// One network a label.
    generators: Vec<Vec<f32>>,
}

/// Trains in `folder`: `checkpoint.json`, `Generators/Epoch_S/LABEL.onnx`, `Discriminators/Epoch_S.onnx` (0: saw no cover), and the
/// last stage's generators as `LABEL.onnx`. With `resume` it goes on after the last stage stored there.
///
/// `tick` gets the number of parts done and of all.
///
/// # Errors
/// When a file cannot be read or written, for a checkpoint of other data or settings, for settings out of range.
pub fn train(
    sets: &Sets,
    shape: Shape,
    settings: &Staged,
    folder: &Path,
    resume: bool,
    file_name: fn(&str) -> String,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<StagedReport> {
    check(settings)?;
    let begun = std::time::Instant::now();
    let labels = sets.labels.len();
    let rows = shape.rows;
    let digest = digest(&sets.train);
    let data: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let path = folder.join("checkpoint.json");
    let mut state = match resume
        .then(|| load(&path, settings, &data))
        .transpose()?
        .flatten()
    {
        Some(state) => state,
        None => {
            let mut rng = stream(settings.seed, "discriminator");
            let mut first = crate::nets::train(
                Net::Lstm,
                sets,
                rows,
                settings.attacker_epochs,
                &mut rng,
                &mut |_, _| {},
            );
            Checkpoint {
                version: VERSION,
                settings: settings.clone(),
                data,
                stage: 0,
                first: first.weights(),
                discriminator: first.weights(),
                generators: Vec::new(),
            }
        }
    };
    let made = |stage: u32| Made {
        shape,
        seed: settings.seed,
        stage,
        chain: settings.chain,
        digest,
    };
    let network = |weights: &[f32]| -> Result<Network<f32>> {
        let mut n = Net::Lstm.build(rows, labels, &mut stream(0, "overwritten"));
        if !n.set_weights(weights) {
            bail!("{}: the discriminator's weights do not fit", path.display());
        }
        Ok(n)
    };
    let (mut first, mut discriminator) = (network(&state.first)?, network(&state.discriminator)?);
    if state.stage == 0 {
        let bytes = to_onnx(&mut first, labels, &sets.train, made(0))?;
        put(&folder.join("Discriminators/Epoch_0.onnx"), &bytes)?;
    }
    let total = u64::from(settings.stages) * (labels as u64 + 1);
    while state.stage < settings.stages {
        let stage = state.stage + 1;
        state.generators.clear();
        let mut written = Vec::new();
        for (class, label) in sets.labels.iter().enumerate() {
            let purpose = format!("staged generator {} {stage} {label}", settings.chain);
            let mut rng = stream(settings.seed, &purpose);
            let mut g = one(rows, &mut rng);
            let own: Vec<usize> = (0..sets.train.len())
                .filter(|&i| sets.train.classes()[i] == class)
                .collect();
            maximise(
                &mut g,
                &mut discriminator,
                &sets.train,
                own,
                settings,
                &mut rng,
            );
            written.push((label, finished(&mut g, settings.limits)));
            state.generators.push(g.weights());
            tick(
                u64::from(stage - 1) * (labels as u64 + 1) + class as u64 + 1,
                total,
            );
        }
        let mut rng = stream(
            settings.seed,
            &format!("staged discriminator {} {stage}", settings.chain),
        );
        let mut networks = generators(&state, rows)?;
        let (covered, _) = cover(&sets.train, &mut networks, settings.limits, &mut rng);
        let how = Fit {
            epochs: settings.discriminator_epochs,
            batch: BATCH,
            ..Fit::default()
        };
        fit(
            &mut discriminator,
            &covered,
            None,
            &how,
            &mut rng,
            &mut |_, _| {},
        );
        state.discriminator = discriminator.weights();
        state.stage = stage;

        for (label, generator) in &written {
            let signature = chaff_onnx::Signature {
                device_label: (*label).clone(),
                ..signature(shape, settings, stage, digest)
            };
            let mut rng = stream(settings.seed, &format!("staged vectors {stage} {label}"));
            let bytes = generator.to_onnx(&signature, &mut rng)?;
            put(
                &folder
                    .join(format!("Generators/Epoch_{stage}"))
                    .join(file_name(label)),
                &bytes,
            )?;
            put(&folder.join(file_name(label)), &bytes)?;
        }
        let bytes = to_onnx(&mut discriminator, labels, &sets.train, made(stage))?;
        put(
            &folder.join(format!("Discriminators/Epoch_{stage}.onnx")),
            &bytes,
        )?;
        let text = serde_json::to_vec(&state)?;
        put(&path, &text)?;
        tick(u64::from(stage) * (labels as u64 + 1), total);
    }
    let seconds = begun.elapsed().as_secs_f64();

    let mut networks = generators(&state, rows)?;
    let mut rng = stream(settings.seed, "staged evaluation");
    let limits = settings.limits;
    let (covered_train, _) = cover(&sets.train, &mut networks, limits, &mut rng);
    let (covered_test, per_slot) = cover(&sets.test, &mut networks, limits, &mut rng);
    let covered_validation = match settings.validation {
        Validation::HeldOut => covered_test.clone(),
        Validation::Training => cover(&sets.validation, &mut networks, limits, &mut rng).0,
    };
    let covered = Sets {
        train: covered_train,
        validation: covered_validation,
        ..sets.clone()
    };
    let mut fresh = crate::nets::train(
        Net::Lstm,
        &covered,
        rows,
        settings.attacker_epochs,
        &mut rng,
        &mut |_, _| {},
    );
    let on = |n: &mut Network<f32>, s: &Samples| judge(n, s, &sets.sessions, labels);
    Ok(StagedReport {
        version: VERSION,
        settings: settings.clone(),
        labels: sets.labels.clone(),
        left_out: sets.left_out.clone(),
        chance: 1.0 / labels as f64,
        windows: [sets.train.len(), sets.validation.len(), sets.test.len()],
        undefended: on(&mut first, &sets.test),
        r#static: on(&mut first, &covered_test),
        trained_along: on(&mut discriminator, &covered_test),
        retrained: on(&mut fresh, &covered_test),
        cover_per_slot: per_slot,
        overhead: overhead(&sets.test, &covered_test, labels),
        seconds,
    })
}

fn check(s: &Staged) -> Result<()> {
    if !(1..=1000).contains(&s.stages) {
        bail!("--stages is {}, allowed is 1 to 1000", s.stages);
    }
    for (name, x, most) in [
        ("max-packets", s.limits[0], 10_000.0),
        ("max-payload", s.limits[1], 10_000_000.0),
    ] {
        if !(x > 0.0 && x <= most) {
            bail!("--{name} is {x}, allowed is above 0 to {most}");
        }
    }
    Ok(())
}

fn load(path: &Path, settings: &Staged, data: &str) -> Result<Option<Checkpoint>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("while reading {}", path.display())),
    };
    let state: Checkpoint = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no checkpoint", path.display()))?;
    let same = Staged {
        stages: settings.stages,
        ..state.settings.clone()
    };
    if state.version != VERSION || same != *settings || state.data != data {
        bail!(
            "{} is of other captures, settings or version; train without --resume or into another folder",
            path.display()
        );
    }
    Ok(Some(Checkpoint {
        settings: settings.clone(),
        ..state
    }))
}

/// Writes through a second file, so that a run that is stopped leaves the old one or the new one.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut part: PathBuf = path.to_owned();
        part.as_mut_os_string().push(".part");
        std::fs::write(&part, bytes)?;
        std::fs::rename(&part, path)
    };
    write().with_context(|| format!("while writing {}", path.display()))
}

/// A generator as a network: latent numbers in, levels (0 to 1) out.
fn one(rows: usize, rng: &mut dyn RngCore) -> Network<f32> {
    Network::new(
        1,
        vec![Layer::dense(
            LATENT,
            rows * COLUMNS,
            Activation::Sigmoid,
            rng,
        )],
    )
}

fn generators(state: &Checkpoint, rows: usize) -> Result<Vec<Network<f32>>> {
    let read = |weights: &Vec<f32>| {
        let mut g = one(rows, &mut stream(0, "overwritten"));
        if g.set_weights(weights) {
            Ok(g)
        } else {
            bail!("the checkpoint's generators do not fit")
        }
    };
    state.generators.iter().map(read).collect()
}

/// The generator in the form that is written.
fn finished(g: &mut Network<f32>, limits: [f64; 2]) -> Generator {
    let parameters = g.parameters();
    let n = parameters[1].value.nrows();
    let weights = parameters[0]
        .value
        .t()
        .iter()
        .map(|w| f64::from(*w))
        .collect();
    let bias = parameters[1].value.iter().map(|b| f64::from(*b)).collect();
    debug_assert!(n.is_multiple_of(COLUMNS));
    Generator::from_layer(
        Dense { weights, bias },
        [limits[0], limits[1], limits[0], limits[1]],
    )
}

fn latent(count: usize, rng: &mut dyn RngCore) -> Array2<f32> {
    let mut out = Array2::zeros((LATENT, count));
    for mut column in out.columns_mut() {
        for (to, from) in column.iter_mut().zip(Generator::latent(rng)) {
            *to = from as f32;
        }
    }
    out
}

/// Trains a generator to raise the discriminator's cross-entropy, by Nadam.
fn maximise(
    g: &mut Network<f32>,
    discriminator: &mut Network<f32>,
    samples: &Samples,
    mut own: Vec<usize>,
    settings: &Staged,
    rng: &mut dyn RngCore,
) {
    let mut optimizer = Optimizer::nadam(1e-3);
    let scale = |i: usize| settings.limits[i % 2] as f32;
    for _ in 0..settings.generator_epochs {
        shuffle(&mut own, rng);
        for part in own.chunks(BATCH) {
            let batch = part.len();
            let levels = g.forward(latent(batch, rng), &vec![0.0; batch], None);
            let (mut x, extra, classes) = samples.batch::<f32>(part);
            for ((k, b), level) in levels.indexed_iter() {
                x[[k % COLUMNS, k / COLUMNS * batch + b]] += level * scale(k);
            }
            let (_, dx) = discriminator.input_gradient(x, &extra, &classes);
            let down = Array2::from_shape_fn(levels.raw_dim(), |(k, b)| {
                -dx[[k % COLUMNS, k / COLUMNS * batch + b]] * scale(k)
            });
            g.backward(down);
            g.step(&mut optimizer);
        }
    }
}

/// Adds each label's generator's rounded output to its windows. Gives also the mean output of a slot, labels weighted equally.
fn cover(
    samples: &Samples,
    generators: &mut [Network<f32>],
    limits: [f64; 2],
    rng: &mut dyn RngCore,
) -> (Samples, [f64; COLUMNS]) {
    let mut out = samples.clone();
    let mut sums = vec![([0.0; COLUMNS], 0usize); generators.len()];
    for i in 0..out.len() {
        let class = out.classes()[i];
        let levels = generators[class].forward(latent(1, rng), &[0.0], None);
        let (sum, slots) = &mut sums[class];
        for (k, (x, level)) in out.window_mut(i).iter_mut().zip(&levels).enumerate() {
            let add = (level * limits[k % 2] as f32).round_ties_even();
            *x += add;
            sum[k % COLUMNS] += f64::from(add);
        }
        *slots += levels.len() / COLUMNS;
    }
    let seen = sums.iter().filter(|s| s.1 > 0).count().max(1) as f64;
    let mut mean = [0.0; COLUMNS];
    for (sum, slots) in sums.iter().filter(|s| s.1 > 0) {
        for (m, s) in mean.iter_mut().zip(sum) {
            *m += s / *slots as f64 / seen;
        }
    }
    (out, mean)
}

fn overhead(before: &Samples, after: &Samples, labels: usize) -> [f64; 2] {
    let mut sums = vec![[0.0; 2]; labels];
    for (i, class) in before.classes().iter().enumerate() {
        for (k, s) in [before, after].into_iter().enumerate() {
            sums[*class][k] += s
                .window(i)
                .iter()
                .skip(1)
                .step_by(2)
                .map(|b| f64::from(*b))
                .sum::<f64>();
        }
    }
    let all = sums
        .iter()
        .fold([0.0; 2], |a, s| [a[0] + s[0], a[1] + s[1]]);
    let each = sums
        .iter()
        .filter(|s| s[0] > 0.0)
        .map(|s| s[1] / s[0] - 1.0);
    [all[1] / f64::max(all[0], 1.0) - 1.0, median(each.collect())]
}

fn signature(
    shape: Shape,
    s: &Staged,
    stage: u32,
    training_digest: [u8; 32],
) -> chaff_onnx::Signature {
    let slot_ms = shape.slot.as_millis() as u32;
    let [packets, bytes] = s.limits.map(|x| x as f32);
    chaff_onnx::Signature {
        version: chaff_onnx::SIGNATURE_VERSION,
        kind: chaff_onnx::IPET_GENERATOR.to_owned(),
        feature_kind: chaff_onnx::IPET_SLOTS.to_owned(),
        rows: shape.rows as u32,
        columns: COLUMNS as u32,
        slot_ms,
        window_ms: slot_ms * shape.rows as u32,
        scale: vec![packets, bytes, packets, bytes],
        threshold: None,
        device_label: String::new(),
        chain: s.chain,
        stage,
        seed: s.seed,
        training_digest,
        extras: chaff_onnx::Extras::default(),
    }
}
