//! iPET's attackers on windows (M_seq): four networks, their data, their files.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use chaff_abi::Nanos;
use chaff_learn::{Activation, Fit, Layer, Network, Samples, fit};
use chaff_onnx::{Golden, IPET_ATTACKER, IPET_SLOTS, SIGNATURE_VERSION, Signature};
use clap::ValueEnum;
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::cover::stream;
use crate::network::shuffle;
use crate::score::{Guess, Score, score};
use crate::split::Split;
use crate::traces::{Seen, Trace};
use crate::windows::{COLUMNS, Cutter, Shape, Window};

/// Weight of the penalty on the first recurrent layer.
const PENALTY: f64 = 0.01;
/// Share of the training windows that decide when to stop.
const VALIDATION: f64 = 0.15;
/// Test vectors in a file.
const VECTORS: usize = 3;

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// Two bidirectional LSTMs of 8 units; iPET's discriminator.
    Lstm,
    /// Two GRUs of 32 units.
    Gru,
    /// Two convolutions of 64 channels.
    Cnn,
    /// Dense layers on each slot, then on all.
    Mlp,
}

impl Net {
    /// The network with random weights; every one takes the silence before its first dense layer on the whole window.
    pub fn build(self, rows: usize, labels: usize, rng: &mut dyn RngCore) -> Network<f32> {
        let c = COLUMNS;
        let r = rng;
        let mut layers = match self {
            Self::Lstm => vec![
                Layer::bi_lstm(c, 8, true, PENALTY, r),
                Layer::bi_lstm(16, 8, false, 0.0, r),
            ],
            Self::Gru => vec![
                Layer::gru(c, 32, true, PENALTY, r),
                Layer::gru(32, 32, false, 0.0, r),
            ],
            Self::Cnn => vec![
                Layer::conv(c, 64, 3, r),
                Layer::conv(64, 64, 3, r),
                Layer::dropout(0.5),
                Layer::max_pool(),
                Layer::Flatten,
            ],
            Self::Mlp => vec![
                Layer::dense(c, 128, Activation::Tanh, r),
                Layer::dropout(0.2),
                Layer::dense(128, 32, Activation::Tanh, r),
                Layer::Flatten,
            ],
        };
        let (features, hidden, dropout) = match self {
            Self::Lstm => (16, 128, true),
            Self::Gru => (32, 128, true),
            Self::Cnn => (rows.saturating_sub(4) / 2 * 64, 100, false),
            Self::Mlp => (rows * 32, 100, true),
        };
        layers.push(Layer::Extra);
        layers.push(Layer::dense(features + 1, hidden, Activation::Tanh, r));
        if dropout {
            layers.push(Layer::dropout(0.2));
        }
        layers.push(Layer::dense(hidden, labels, Activation::None, r));
        Network::new(rows, layers)
    }

    /// Fewest slots of a window.
    pub fn fewest_rows(self) -> usize {
        match self {
            Self::Cnn => 6,
            Self::Lstm | Self::Gru | Self::Mlp => 1,
        }
    }
}

/// Which windows decide when a network is trained enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Validation {
    /// 15 % of the windows to learn from.
    #[default]
    Training,
    /// The windows of held-out sessions, as published: the network is then chosen by what it is judged by.
    HeldOut,
}

/// How windows are taken from traces.
#[derive(Clone, Copy, Debug)]
pub struct Windowing {
    /// Slots.
    pub shape: Shape,
    /// Most windows of one label, in training and in testing each.
    pub cap: usize,
    /// Fewest windows of a label, in training and in testing each.
    pub least: usize,
    /// Which windows decide when to stop.
    pub validation: Validation,
}

/// Windows of all labels.
#[derive(Clone, Debug)]
pub struct Sets {
    /// Names of the labels.
    pub labels: Vec<String>,
    /// To learn from.
    pub train: Samples,
    /// To decide when to stop.
    pub validation: Samples,
    /// Windows of held-out sessions.
    pub test: Samples,
    /// Session of each test window.
    pub sessions: Vec<usize>,
    /// Labels left out for want of windows.
    pub left_out: Vec<String>,
}

/// The packets as iPET sees them: those with payload, their payload. Where a table does not tell payload, all packets and their
/// sizes.
fn windows(packets: &[Seen], shape: Shape, rng: &mut dyn RngCore) -> Vec<Window> {
    let told = packets.iter().any(|p| p.payload > 0);
    let mut cutter = Cutter::new(shape, usize::MAX);
    for p in packets {
        let bytes = if told { p.payload } else { p.size };
        if bytes > 0 {
            cutter.push(p.at, p.dir, bytes, rng);
        }
    }
    cutter.finish(rng)
}

/// Cuts all traces into windows and divides them by session.
///
/// # Errors
/// When fewer than two labels have windows in both parts.
pub fn sets(traces: &[Trace], split: &Split, how: Windowing, seed: u64) -> Result<Sets> {
    let mut unused = stream(0, "windows: nothing is left out");
    let mut by: BTreeMap<&str, [Vec<(Window, usize)>; 2]> = BTreeMap::new();
    for (i, trace) in traces.iter().enumerate() {
        let parts = by.entry(&trace.label).or_default();
        let found = windows(&trace.packets, how.shape, &mut unused);
        let whole = |side: usize, part: &mut [Vec<(Window, usize)>; 2]| {
            part[side].extend(found.iter().map(|w| (w.clone(), i)));
        };
        if split.train.contains(&i) {
            whole(0, parts);
        } else if split.test.contains(&i) {
            whole(1, parts);
        } else {
            let cut = found.len() * 6 / 10;
            for (k, w) in found.iter().enumerate() {
                parts[usize::from(k >= cut)].push((w.clone(), i));
            }
        }
    }
    let rows = how.shape.rows;
    let mut out = Sets {
        labels: Vec::new(),
        train: Samples::new(rows, COLUMNS),
        validation: Samples::new(rows, COLUMNS),
        test: Samples::new(rows, COLUMNS),
        sessions: Vec::new(),
        left_out: Vec::new(),
    };
    for (label, [mut train, mut test]) in by {
        if train.len() < how.least || test.len() < how.least {
            out.left_out.push(format!(
                "{label}: {} and {} windows",
                train.len(),
                test.len()
            ));
            continue;
        }
        let class = out.labels.len();
        let mut rng = stream(seed, &format!("windows of {label}"));
        shuffle(&mut train, &mut rng);
        shuffle(&mut test, &mut rng);
        train.truncate(how.cap);
        test.truncate(how.cap);
        let held = match how.validation {
            Validation::Training => (train.len() as f64 * VALIDATION) as usize,
            Validation::HeldOut => 0,
        };
        for (k, (w, _)) in train.iter().enumerate() {
            let to = if k < held {
                &mut out.validation
            } else {
                &mut out.train
            };
            to.push(&w.slots, w.silence as f32, class);
        }
        for (w, session) in &test {
            out.test.push(&w.slots, w.silence as f32, class);
            out.sessions.push(*session);
        }
        out.labels.push(label.to_owned());
    }
    if how.validation == Validation::HeldOut {
        out.validation = out.test.clone();
    }
    if out.labels.len() < 2 {
        bail!(
            "an attacker needs two labels with {} windows of {} s in training and in held-out sessions, found {}{}{}",
            how.least,
            how.shape.window().as_secs_f64(),
            out.labels.len(),
            if out.left_out.is_empty() {
                ""
            } else {
                "; left out: "
            },
            out.left_out.join(", ")
        );
    }
    Ok(out)
}

/// Trains a network as iPET does: Adam, batches of 128, at most `epochs` passes, early stop.
pub fn train(
    net: Net,
    sets: &Sets,
    rows: usize,
    epochs: usize,
    rng: &mut dyn RngCore,
    tick: &mut dyn FnMut(usize, f64),
) -> Network<f32> {
    let mut network = net.build(rows, sets.labels.len(), rng);
    let how = Fit {
        epochs,
        ..Fit::default()
    };
    let validation = (!sets.validation.is_empty()).then_some(&sets.validation);
    fit(&mut network, &sets.train, validation, &how, rng, tick);
    network
}

/// Scores a network on windows of known sessions.
pub fn judge(
    network: &mut Network<f32>,
    samples: &Samples,
    sessions: &[usize],
    labels: usize,
) -> Score {
    let p = network.probabilities(samples);
    let guesses: Vec<Guess> = samples
        .classes()
        .iter()
        .zip(sessions)
        .enumerate()
        .map(|(i, (&label, &session))| Guess {
            probability: p.column(i).to_vec(),
            label,
            session,
        })
        .collect();
    score(labels, &guesses)
}

/// What an attacker's file says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Slots.
    pub shape: Shape,
    /// Seed of the training.
    pub seed: u64,
    /// Stage inside a series, 0 for a network that saw no cover.
    pub stage: u32,
    /// Series.
    pub chain: u32,
    /// SHA-256 of the training data.
    pub digest: [u8; 32],
}

/// The signed model file, with test vectors computed by this crate's arithmetic on some of the samples.
///
/// # Errors
/// As `chaff_onnx::Graph::to_bytes`.
pub fn to_onnx(
    network: &mut Network<f32>,
    labels: usize,
    samples: &Samples,
    made: Made,
) -> Result<Vec<u8>> {
    let slot_ms = made.shape.slot.as_millis() as u32;
    let signature = Signature {
        version: SIGNATURE_VERSION,
        kind: IPET_ATTACKER.to_owned(),
        feature_kind: IPET_SLOTS.to_owned(),
        rows: made.shape.rows as u32,
        columns: COLUMNS as u32,
        slot_ms,
        window_ms: slot_ms * made.shape.rows as u32,
        scale: vec![1.0; COLUMNS],
        threshold: None,
        device_label: String::new(),
        chain: made.chain,
        stage: made.stage,
        seed: made.seed,
        training_digest: made.digest,
        extras: chaff_onnx::Extras::default(),
    };
    let mut few = Samples::new(made.shape.rows, COLUMNS);
    for k in 0..VECTORS.min(samples.len()) {
        let i = k * (samples.len() - 1) / VECTORS.max(1);
        few.push(samples.window(i), samples.extra(i), 0);
    }
    if few.is_empty() {
        few.push(&[], 0.0, 0);
    }
    let p = network.probabilities(&few);
    let golden: Vec<Golden> = (0..few.len())
        .map(|i| Golden {
            inputs: vec![few.window(i).to_vec(), vec![few.extra(i)]],
            outputs: vec![p.column(i).iter().map(|v| *v as f32).collect()],
        })
        .collect();
    network
        .to_graph("ipet-attacker", COLUMNS, labels)
        .to_bytes(&signature, &golden)
        .context("while writing the attacker's model")
}

/// SHA-256 over the training windows: slots, silence, class of each, as little-endian numbers.
pub fn digest(samples: &Samples) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for (i, class) in samples.classes().iter().enumerate() {
        samples
            .window(i)
            .iter()
            .for_each(|v| hash.update(v.to_le_bytes()));
        hash.update(samples.extra(i).to_le_bytes());
        hash.update((*class as u64).to_le_bytes());
    }
    hash.finalize().into()
}

/// iPET's windows: 40 slots of 100 ms.
///
/// # Errors
/// Never: the values are in range.
pub fn ipet_shape() -> Result<Shape> {
    let shape = Shape::new(0.1, 4.0)?;
    debug_assert_eq!(shape.slot, Nanos::from_millis(100));
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_onnx::Model;
    use rand::Rng;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn every_network_gives_the_same_in_its_file() {
        let mut rng = ChaCha20Rng::from_seed([6; 32]);
        let shape = ipet_shape().expect("in range");
        let mut samples = Samples::new(40, COLUMNS);
        for i in 0..12 {
            let x: Vec<f32> = (0..160)
                .map(|_| (rng.random::<f32>() * 6.0).floor())
                .collect();
            samples.push(&x, rng.random::<f32>() * 9.0, i % 3);
        }
        for net in [Net::Lstm, Net::Gru, Net::Cnn, Net::Mlp] {
            let mut network = net.build(40, 3, &mut rng);
            let how = Fit {
                epochs: 3,
                batch: 4,
                ..Fit::default()
            };
            fit(&mut network, &samples, None, &how, &mut rng, &mut |_, _| {});
            let made = Made {
                shape,
                seed: 1,
                stage: 0,
                chain: 0,
                digest: digest(&samples),
            };
            let bytes = to_onnx(&mut network, 3, &samples, made).expect("written");
            // Loading compares with the test vectors; the other windows are compared here.
            let mut model =
                Model::load(&bytes, IPET_ATTACKER).unwrap_or_else(|e| panic!("{net:?}: {e}"));
            let p = network.probabilities(&samples);
            for i in 0..samples.len() {
                let mut y = [0.0; 3];
                model
                    .run(&[samples.window(i), &[samples.extra(i)]], &mut [&mut y])
                    .expect("runs");
                for (k, y) in y.iter().enumerate() {
                    assert!((f64::from(*y) - p[[k, i]]).abs() < 1e-5, "{net:?} {i} {k}");
                }
            }
            let weights = network.weights();
            let mut other = net.build(40, 3, &mut rng);
            assert!(other.set_weights(&weights));
            assert_eq!(other.weights(), weights);
            assert!(!other.set_weights(&weights[1..]));
        }
    }
}
