use crate::{CoverError, Demand, Generator, Mask, Window};
use chaff_abi::{Dir, Nanos};
use chaff_onnx::{IPET_GENERATOR, IPET_SLOTS, Model, ModelError, SIZE_BINS, Signature};
use rand::RngCore;

/// Columns of [`IPET_SLOTS`]: direction of each pair (packets, bytes).
const PAIRS: [Dir; 2] = [Dir::In, Dir::Out];
const COLUMNS: usize = 4;
/// Longest latent vector.
const MAX_LATENT: usize = 4096;

/// Names of the models that come with Chaff, see [`model`].
pub const MODELS: [&str; 2] = ["ipet", "learned"];

/// The model file of this name: `ipet`, trained as published, in effect a constant 20 small packets a second and direction, and
/// `learned`, one generator for all devices that learned with a price on its bytes. The README of `crates/cover/models` has the
/// commands that made them.
pub fn model(name: &str) -> Option<&'static [u8]> {
    match name {
        "ipet" => Some(include_bytes!("../models/ipet.onnx")),
        "learned" => Some(include_bytes!("../models/learned.onnx")),
        _ => None,
    }
}

/// Name of the file of a label's generator in a folder of them: what would lead out of the folder, or hide the file, becomes `_`.
pub fn model_file(label: &str) -> String {
    let safe = |c: char| match c {
        '/' | '\\' => '_',
        c if c.is_control() => '_',
        c => c,
    };
    let name: String = label.chars().map(safe).collect();
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}.onnx"),
        None => format!("{name}.onnx"),
    }
}

/// A generator read from an ONNX file: one run of the model makes the demands of one window.
///
/// The input is a latent vector of independent standard normal numbers; the outputs are `rows x 4` values in the order
/// incoming packets, incoming bytes, outgoing packets, outgoing bytes. They are rounded here, half to even. What else it may take
/// and make says [`chaff_onnx::Extras`]: recent real traffic, a secret of the home (drawn in [`Generator::start`]), counts by size,
/// a mask of the device's sessions. Without the first of these the real traffic is not looked at.
#[derive(Debug)]
pub struct OnnxGenerator {
    model: Model,
    name: String,
    latent: Vec<f32>,
    secret: Vec<f32>,
    past: Vec<f32>,
    demands: Vec<f32>,
}

impl OnnxGenerator {
    /// Loads a model of kind `ipet-generator`.
    ///
    /// # Errors
    /// [`CoverError::Generator`] with [`ModelError`] as its source.
    pub fn load(bytes: &[u8]) -> Result<Self, CoverError> {
        let model = Model::load(bytes, IPET_GENERATOR).map_err(|e| failed("onnx", e))?;
        Self::of(model)
    }

    /// As [`OnnxGenerator::load`], but always in the ONNX runtime: to compare with.
    ///
    /// # Errors
    /// As [`OnnxGenerator::load`].
    pub fn load_in_runtime(bytes: &[u8]) -> Result<Self, CoverError> {
        let model = Model::load_in_runtime(bytes, IPET_GENERATOR).map_err(|e| failed("onnx", e))?;
        Self::of(model)
    }

    fn of(model: Model) -> Result<Self, CoverError> {
        let signature = model.signature();
        let name = format!("onnx:{}", signature.device_label);
        let (rows, extras) = (signature.rows as usize, &signature.extras);
        let (secret, past) = (extras.secret as usize, extras.past as usize * COLUMNS);
        let more: Vec<(&str, usize)> = [("secret", secret), ("past", past)]
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .collect();
        let latent = match model.inputs() {
            [one, rest @ ..]
                if one.elements() <= MAX_LATENT
                    && rest
                        .iter()
                        .map(|p| (p.name.as_str(), p.elements()))
                        .eq(more.iter().copied()) =>
            {
                one.elements()
            }
            other => {
                let also: String = more
                    .iter()
                    .map(|(n, size)| format!(", {n} of {size}"))
                    .collect();
                return Err(unfit(
                    &name,
                    "the inputs",
                    format!("are {other:?}, wanted one latent vector{also}"),
                ));
            }
        };
        let (kind, columns) = match extras.sizes.len() {
            0 => (IPET_SLOTS, COLUMNS),
            bins => (SIZE_BINS, 2 * bins),
        };
        let fits = signature.feature_kind == kind
            && signature.columns as usize == columns
            && matches!(model.outputs(), [one] if one.elements() == rows * columns);
        if !fits {
            let what = format!(
                "are {:?} for {rows} rows of {:?}, wanted rows x {columns} of {kind:?}",
                model.outputs(),
                signature.feature_kind
            );
            return Err(unfit(&name, "the outputs", what));
        }
        Ok(Self {
            name,
            latent: vec![0.0; latent],
            secret: vec![0.0; secret],
            past: vec![0.0; past],
            demands: vec![0.0; rows * columns],
            model,
        })
    }

    /// What the model is, for which device and from which data.
    pub fn signature(&self) -> &Signature {
        self.model.signature()
    }

    /// Writes what the model sees of recent real traffic: the newest slot first, zeros beyond what is kept.
    fn look(&mut self, past: &Window) {
        let slots = past.iter().rev().map(Some).chain(std::iter::repeat(None));
        for (row, slot) in self.past.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(slots) {
            for (dir, pair) in PAIRS.into_iter().zip(row.as_chunks_mut::<2>().0) {
                let (packets, bytes) =
                    slot.map_or((0, 0), |s| (s.packets[dir.index()], s.payload[dir.index()]));
                *pair = compress(packets as f64, bytes as f64);
            }
        }
    }
}

/// Packets and bytes as a model sees them in its input `past`.
pub fn compress(packets: f64, bytes: f64) -> [f32; 2] {
    [packets.ln_1p() as f32, (0.2 * bytes.ln_1p()) as f32]
}

impl Generator for OnnxGenerator {
    fn slot(&self) -> Nanos {
        Nanos::from_millis(self.model.signature().slot_ms.into())
    }

    fn rows(&self) -> usize {
        self.model.signature().rows as usize
    }

    fn start(&mut self, rng: &mut dyn RngCore) {
        standard_normal(rng, &mut self.secret);
    }

    fn fill(
        &mut self,
        past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        standard_normal(rng, &mut self.latent);
        self.look(past);
        let mut inputs: [&[f32]; 3] = [&self.latent, &[], &[]];
        let mut count = 1;
        for more in [&self.secret, &self.past] {
            if !more.is_empty() {
                inputs[count] = more;
                count += 1;
            }
        }
        self.model
            .run(&inputs[..count], &mut [&mut self.demands])
            .map_err(|e| failed(&self.name, e))?;
        let sizes = &self.model.signature().extras.sizes;
        let columns = self.demands.len() / self.rows().max(1);
        for (demand, row) in out
            .iter_mut()
            .zip(self.demands.chunks_exact(columns.max(1)))
        {
            *demand = Demand::NONE;
            for (dir, half) in PAIRS.into_iter().zip(row.chunks_exact(columns / 2)) {
                if sizes.is_empty() {
                    demand.add(dir, whole(half[0]), whole(half[1]));
                    continue;
                }
                for (size, count) in sizes.iter().zip(half) {
                    let count = whole(*count);
                    demand.add(dir, count, count.saturating_mul(u32::from(*size)));
                }
            }
        }
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn sizes(&self) -> &[u16] {
        &self.model.signature().extras.sizes
    }

    fn mask(&self) -> Option<Mask> {
        let [hold, pause] = self.model.signature().extras.mask_ms?;
        Some(Mask {
            hold: Nanos::from_millis(hold.into()),
            pause: Nanos::from_millis(pause.into()),
        })
    }
}

/// Rounds half to even; negative and NaN become 0.
fn whole(x: f32) -> u32 {
    x.round_ties_even() as u32
}

/// Fills with independent standard normal numbers, the latent vector of a generator (Box and Muller 1958); two 64-bit draws for every two numbers.
pub fn standard_normal(rng: &mut dyn RngCore, out: &mut [f32]) {
    /// 53 random bits as a fraction.
    fn unit(rng: &mut dyn RngCore) -> f64 {
        (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
    for pair in out.chunks_mut(2) {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * unit(rng)).sin_cos();
        for (x, part) in pair.iter_mut().zip([cos, sin]) {
            *x = (radius * part) as f32;
        }
    }
}

fn failed(name: &str, source: ModelError) -> CoverError {
    CoverError::Generator {
        generator: name.to_owned(),
        source: Box::new(source),
    }
}

fn unfit(name: &str, place: &str, what: String) -> CoverError {
    failed(
        name,
        ModelError::Graph {
            place: place.to_owned(),
            what,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scheduler, SchedulerConfig};
    use chaff_onnx::{Golden, Graph, SIGNATURE_VERSION};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    const ROWS: usize = 3;

    /// Demands that do not depend on the latent, so that they can be written down: row r is (r, 10 r + 0.5, 1, 30).
    fn file(kind: &str, latent_weight: f32) -> Vec<u8> {
        let n = ROWS * COLUMNS;
        let bias: Vec<f32> = (0..ROWS)
            .flat_map(|r| [r as f32, 10.0 * r as f32 + 0.5, 1.0, 30.0])
            .collect();
        let mut g = Graph::new("test");
        let z = g.input("latent", &[1, 2]);
        let w = g.constant(&[2, n], &vec![latent_weight; 2 * n]);
        let b = g.constant(&[n], &bias);
        let y = g.gemm(&z, &w, &b);
        let y = g.relu(&y);
        let y = g.reshape(&y, &[1, ROWS, COLUMNS]);
        g.output("demand", &y, &[1, ROWS, COLUMNS]);
        let signature = Signature {
            version: SIGNATURE_VERSION,
            kind: kind.to_owned(),
            feature_kind: IPET_SLOTS.to_owned(),
            rows: ROWS as u32,
            columns: 4,
            slot_ms: 250,
            window_ms: 750,
            scale: vec![4.0, 100.0, 4.0, 100.0],
            threshold: None,
            device_label: "plug".to_owned(),
            chain: 0,
            stage: 1,
            seed: 1,
            training_digest: [0; 32],
            extras: chaff_onnx::Extras::default(),
        };
        let golden = Golden {
            inputs: vec![vec![0.0; 2]],
            outputs: vec![bias],
        };
        g.to_bytes(&signature, &[golden]).expect("valid")
    }

    #[test]
    fn columns_are_incoming_first_and_rounded_half_to_even() {
        let mut g = OnnxGenerator::load(&file(IPET_GENERATOR, 0.0)).expect("loads");
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut out = [Demand::NONE; ROWS];
        g.fill(&Window::new(1), &mut rng, &mut out).expect("runs");
        let (o, i) = (Dir::Out.index(), Dir::In.index());
        assert_eq!(out.map(|d| d.packets[i]), [0, 1, 2]);
        assert_eq!(out.map(|d| d.bytes[i]), [0, 10, 20]);
        assert_eq!(out.map(|d| (d.packets[o], d.bytes[o])), [(1, 30); 3]);
        assert_eq!(
            (g.slot(), g.rows(), g.name()),
            (Nanos::from_millis(250), 3, "onnx:plug")
        );
    }

    #[test]
    fn another_kind_of_model_is_refused_by_name() {
        let error = OnnxGenerator::load(&file("m-seq", 0.0)).expect_err("refused");
        let why = std::error::Error::source(&error).map(ToString::to_string);
        assert!(why.is_some_and(|w| w.contains("m-seq")), "{error}");
    }

    #[test]
    fn skipped_slots_do_not_change_the_others() {
        let plan = |slots: &[u64]| {
            let generator = OnnxGenerator::load(&file(IPET_GENERATOR, 0.7)).expect("loads");
            let config = SchedulerConfig {
                label: "plug".into(),
                ..SchedulerConfig::default()
            };
            let mut s = Scheduler::new(config, Box::new(generator), [3; 32], Nanos::ZERO);
            let mut out = Vec::new();
            for &slot in slots {
                s.plan(slot, &Window::new(1), &mut out).expect("plans");
            }
            out
        };
        let all = plan(&(0..30).collect::<Vec<_>>());
        let some = plan(&[4, 5, 17, 29]);
        assert!(!some.is_empty());
        let slot = Nanos::from_millis(250).0;
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|d| [4, 5, 17, 29].contains(&(d.at.0 / slot)))
            .collect();
        assert_eq!(some, wanted);
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let mut x = vec![0.0; 20_001];
        standard_normal(&mut ChaCha20Rng::from_seed([5; 32]), &mut x);
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
        let tail = x.iter().filter(|v| v.abs() > 1.96).count() as f32 / n;
        // Four standard errors.
        assert!(
            mean.abs() < 0.029 && (variance - 1.0).abs() < 0.04,
            "{mean} {variance}"
        );
        assert!((tail - 0.05).abs() < 0.0062, "{tail}");
    }
}
