use crate::{CoverError, Demand, Generator, Window};
use chaff_abi::{Dir, Nanos};
use chaff_onnx::{IPET_GENERATOR, IPET_SLOTS, Model, ModelError, Signature};
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

/// A generator read from an ONNX file: one run of the model makes the demands of one window.
///
/// The input is a latent vector of independent standard normal numbers; the outputs are `rows x 4` values in the order
/// incoming packets, incoming bytes, outgoing packets, outgoing bytes. They are rounded here, half to even.
/// The real traffic is not looked at.
#[derive(Debug)]
pub struct OnnxGenerator {
    model: Model,
    name: String,
    latent: Vec<f32>,
    demands: Vec<f32>,
}

impl OnnxGenerator {
    /// Loads a model of kind `ipet-generator`.
    ///
    /// # Errors
    /// [`CoverError::Generator`] with [`ModelError`] as its source.
    pub fn load(bytes: &[u8]) -> Result<Self, CoverError> {
        let model = Model::load(bytes, IPET_GENERATOR).map_err(|e| failed("onnx", e))?;
        let name = format!("onnx:{}", model.signature().device_label);
        let rows = model.signature().rows as usize;
        let latent = match model.inputs() {
            [one] if one.elements() <= MAX_LATENT => one.elements(),
            other => {
                return Err(unfit(
                    &name,
                    "the inputs",
                    format!("are {other:?}, wanted one latent vector"),
                ));
            }
        };
        let fits = model.signature().feature_kind == IPET_SLOTS
            && model.signature().columns as usize == COLUMNS
            && matches!(model.outputs(), [one] if one.elements() == rows * COLUMNS);
        if !fits {
            let what = format!(
                "are {:?} for {rows} rows of {:?}, wanted rows x 4 of {IPET_SLOTS:?}",
                model.outputs(),
                model.signature().feature_kind
            );
            return Err(unfit(&name, "the outputs", what));
        }
        Ok(Self {
            model,
            name,
            latent: vec![0.0; latent],
            demands: vec![0.0; rows * COLUMNS],
        })
    }

    /// What the model is, for which device and from which data.
    pub fn signature(&self) -> &Signature {
        self.model.signature()
    }
}

impl Generator for OnnxGenerator {
    fn slot(&self) -> Nanos {
        Nanos::from_millis(self.model.signature().slot_ms.into())
    }

    fn rows(&self) -> usize {
        self.model.signature().rows as usize
    }

    fn fill(
        &mut self,
        _past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        standard_normal(rng, &mut self.latent);
        self.model
            .run(&[&self.latent], &mut [&mut self.demands])
            .map_err(|e| failed(&self.name, e))?;
        for (demand, row) in out.iter_mut().zip(self.demands.as_chunks::<COLUMNS>().0) {
            *demand = Demand::NONE;
            for (dir, pair) in PAIRS.into_iter().zip(row.as_chunks::<2>().0) {
                demand.add(dir, whole(pair[0]), whole(pair[1]));
            }
        }
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
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
        assert!(error.to_string().contains("m-seq"), "{error}");
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
