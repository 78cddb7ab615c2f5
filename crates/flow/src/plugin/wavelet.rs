//! Wavelet features of a flow's traffic over time.
//!
//! Bujlow, Carela-Español, Barlet-Ros: Extended Independent Comparison of Popular Deep Packet Inspection (DPI) Tools for
//! Traffic Classification, 2014; with the Haar wavelet and the stationary transform.

use chaff_abi::Nanos;

use super::{FlowView, MeterView, Next, Options, PacketView, Plugin, PluginError, column};
use crate::{Column, Kind, Value};

/// NFStream's default active timeout.
const DEFAULT_SPAN: Nanos = Nanos::from_secs(1800);
/// Keeps divisions and logarithms of silent flows finite.
const TINY: f64 = 1e-7;

/// For each direction and scale: share of energy `p_k`, mean size of coefficients `u_k`, their deviation `sigma_k`, their
/// entropy `S_k`; `8 (levels + 1)` columns.
///
/// IP sizes are summed in `2^levels` bins over `active_timeout` from the first packet of the record. The first packet of a flow is not in any bin, nor is a
/// packet after the last bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wavelet {
    /// Scales, 1 to 12. A flow holds `16 * 2^levels` bytes.
    pub levels: u8,
    /// What the bins span together, more than zero; `None` for the meter's own active timeout, which the nfstream profile
    /// does not tell: there it is 1800 s, NFStream's default.
    pub active_timeout: Option<Nanos>,
}

impl Wavelet {
    pub(super) fn from_options(options: &Options<'_>) -> Result<Self, PluginError> {
        let name = "wavelet";
        options.only(name, "levels, active", &["levels", "active"])?;
        let levels = options.number(name, "levels", "a number of scales, 1 to 12", 12, 3)?;
        let wanted = "a number of seconds, 1 to 4294967295";
        let active = match options.get("active") {
            Some(_) => Some(options.number(name, "active", wanted, u64::from(u32::MAX), 1)?),
            None => None,
        };
        Ok(Self {
            levels: levels as u8,
            active_timeout: active.map(Nanos::from_secs),
        })
    }

    fn levels(&self) -> usize {
        usize::from(self.levels.clamp(1, 12))
    }
}

impl Plugin for Wavelet {
    /// Bins, forward and backward.
    type State = [Vec<f64>; 2];

    fn name(&self) -> &'static str {
        "wavelet"
    }

    fn columns(&self) -> Vec<Column> {
        let features = [
            ("p_k", "", "share of the energy"),
            ("u_k", "bytes", "mean absolute coefficient"),
            ("sigma_k", "bytes", "standard deviation of the coefficients"),
            ("S_k", "nat", "entropy of the coefficients"),
        ];
        let mut columns = Vec::new();
        for direction in ["f", "b"] {
            for (feature, unit, doc) in features {
                for k in 0..=self.levels() {
                    let name = format!("{direction}_{feature}_{k}");
                    columns.push(column(name, Kind::Float, unit, doc));
                }
            }
        }
        columns
    }

    fn attach(&mut self, meter: &MeterView) {
        self.active_timeout.get_or_insert(meter.active_timeout);
    }

    fn start(&self, _: &FlowView, _: &PacketView<'_>) -> (Self::State, Next) {
        let bins = 1 << self.levels();
        ([vec![0.0; bins], vec![0.0; bins]], Next::Go)
    }

    fn update(&self, state: &mut Self::State, flow: &FlowView, packet: &PacketView<'_>) -> Next {
        let bins = 1u128 << self.levels();
        let age = u128::from(packet.at.since(flow.first).0);
        let span = self.active_timeout.unwrap_or(DEFAULT_SPAN);
        let bin = age * bins / u128::from(span.0.max(1));
        let [forward, backward] = state;
        let of_direction = if packet.forward { forward } else { backward };
        if let Some(sum) = usize::try_from(bin)
            .ok()
            .and_then(|b| of_direction.get_mut(b))
        {
            *sum += f64::from(packet.ip_size);
        }
        Next::Go
    }

    fn expire(&self, state: Self::State, _: &FlowView, row: &mut Vec<Value>) {
        for bins in state {
            let scales = transform(bins, self.levels());
            let energies: Vec<f64> = scales.iter().map(|s| energy(s)).collect();
            let total: f64 = energies.iter().sum();
            row.extend(energies.iter().map(|e| Value::Float(e / (total + TINY))));
            row.extend(
                scales
                    .iter()
                    .map(|s| Value::Float(mean(s.iter().map(|x| x.abs()), s.len()))),
            );
            row.extend(scales.iter().map(|s| Value::Float(deviation(s))));
            let entropies = scales.iter().zip(&energies);
            row.extend(entropies.map(|(s, e)| Value::Float(entropy(s, *e))));
        }
    }
}

/// Stationary Haar transform of a periodic signal: the last approximation, then the details from coarse to fine.
fn transform(signal: Vec<f64>, levels: usize) -> Vec<Vec<f64>> {
    let n = signal.len();
    let mut approximation = signal;
    let mut details = Vec::new();
    for level in 0..levels {
        let pair = |i: usize| (approximation[i], approximation[(i + (1 << level)) % n]);
        let scale = std::f64::consts::FRAC_1_SQRT_2;
        let detail = (0..n)
            .map(|i| scale * pair(i).0 - scale * pair(i).1)
            .collect();
        let coarser = (0..n)
            .map(|i| scale * pair(i).0 + scale * pair(i).1)
            .collect();
        details.push(detail);
        approximation = coarser;
    }
    details.push(approximation);
    details.reverse();
    details
}

fn energy(coefficients: &[f64]) -> f64 {
    coefficients.iter().map(|x| x * x).sum()
}

fn mean(values: impl Iterator<Item = f64>, n: usize) -> f64 {
    values.sum::<f64>() / n as f64
}

/// Of the whole, not of a sample.
fn deviation(coefficients: &[f64]) -> f64 {
    let n = coefficients.len();
    let middle = mean(coefficients.iter().copied(), n);
    mean(coefficients.iter().map(|x| (x - middle) * (x - middle)), n).sqrt()
}

fn entropy(coefficients: &[f64], energy: f64) -> f64 {
    let share = |x: &f64| x * x / (energy + TINY);
    -coefficients
        .iter()
        .map(|x| share(x) * (share(x) + TINY).ln())
        .sum::<f64>()
}
