//! The exact table of units becomes an answer: clamped, in whole steps, with discrete noise.

use std::fs::File;
use std::io::{self, Read};

use chaff_privacy::{
    Bounds, BoundsError, Entropy, Epsilon, Expected, Grant, Noise, ReleaseError, Released,
};
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Table;
use crate::request::{Clamp, Measure, Request, Statistic};

/// Version of an [`Answer`]'s fields.
const VERSION: u32 = 1;
/// Share of ε, per cent, that finding bounds costs.
pub const BOUNDS_SHARE: u64 = 20;
/// Bins for finding bounds: powers of two from 2^-10 to 2^52.
const OCTAVES: usize = 63;
const LOWEST: i32 = -10;
/// Steps that the width of bounds has for means, and for standard deviations, whose squares must stay exact.
const MEAN_STEPS: i32 = 20;
const DEVIATION_STEPS: i32 = 16;

/// A noised answer with what is needed to read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Version of these fields.
    pub version: u32,
    /// What was asked, complete.
    pub request: Value,
    /// A number, counts per bin, or an object with a number and the parts it was made of.
    pub value: Value,
    /// What the value counts.
    pub unit: String,
    /// Ends of a 95 % interval, for the noise only: what clamping takes away is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Half of a 95 % interval of each bin or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_width: Option<f64>,
    /// What one unit may contribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamp: Option<[f64; 2]>,
    /// How the noise was made.
    pub mechanism: String,
    /// Its scale, in units of the value.
    pub scale: f64,
    /// What it cost in all.
    pub epsilon: f64,
    /// As well, for names.
    pub delta: f64,
    /// What is protected.
    pub protects: String,
    /// The ledger's last entry that paid.
    pub ledger_entry: u64,
    /// Whether the noise came from a seed: then the answer protects nobody.
    pub simulated: bool,
    /// Whether it had been given before and cost nothing now.
    #[serde(default)]
    pub cached: bool,
}

/// Where noise comes from.
pub struct Source(Kind);

enum Kind {
    System([u8; 32]),
    #[cfg_attr(
        not(any(test, feature = "exact")),
        expect(dead_code, reason = "no program can make it")
    )]
    Seeded(Box<ChaCha20Rng>),
}

impl Source {
    /// The operating system's generator.
    ///
    /// # Errors
    /// What the system said.
    pub fn system() -> io::Result<Self> {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self(Kind::System(key)))
    }

    /// **Gives no protection.** For tests: the same seed, the same noise.
    #[cfg(any(test, feature = "exact"))]
    pub fn seeded(seed: u64) -> Self {
        use rand_chacha::rand_core::SeedableRng;
        Self(Kind::Seeded(Box::new(ChaCha20Rng::seed_from_u64(seed))))
    }

    fn noise(&mut self) -> Noise<'_> {
        match &mut self.0 {
            Kind::System(_) => Noise::System,
            Kind::Seeded(rng) => Noise::Seeded(rng.as_mut()),
        }
    }

    /// Used once: a request has one percentile.
    fn entropy(&mut self) -> Entropy {
        match &mut self.0 {
            Kind::System(key) => Entropy::System(*key),
            Kind::Seeded(rng) => Entropy::Seed(rand::RngCore::next_u64(rng.as_mut())),
        }
    }
}

/// Paid rights of one answer.
#[derive(Debug)]
pub struct Grants {
    /// To find bounds, when they are paid for.
    pub bounds: Option<Grant>,
    /// To answer.
    pub answer: Grant,
}

/// How ε is split: for finding bounds, and for the answer.
pub fn shares(request: &Request) -> (Option<Epsilon>, Epsilon) {
    if clamp(request) != Some(Clamp::Paid) {
        return (None, request.epsilon);
    }
    let bounds = Epsilon::from_nanos(request.epsilon.nanos() * BOUNDS_SHARE / 100);
    let rest = bounds.and_then(|b| Epsilon::from_nanos(request.epsilon.nanos() - b.nanos()));
    match (bounds, rest) {
        (Ok(bounds), Ok(rest)) => (Some(bounds), rest),
        // Requests are checked for a larger ε than this.
        _ => (None, request.epsilon),
    }
}

fn clamp(request: &Request) -> Option<Clamp> {
    match &request.statistic {
        Statistic::Sum { bounds }
        | Statistic::Mean { bounds }
        | Statistic::Deviation { bounds }
        | Statistic::Percentile { bounds, .. } => Some(*bounds),
        Statistic::Histogram { .. } | Statistic::Count | Statistic::Top { .. } => None,
    }
}

/// Bounds of a request, for the range that it names or that was found.
///
/// # Errors
/// [`BoundsError`]: depends on the request only.
pub fn bounds(request: &Request, (low, high): (f64, f64)) -> Result<Bounds, BoundsError> {
    let power = (high - low).log2().ceil() as i32;
    let resolution = match &request.statistic {
        Statistic::Sum { .. } => 1.0,
        Statistic::Deviation { .. } => 2f64.powi(power - DEVIATION_STEPS),
        _ => 2f64.powi(power - MEAN_STEPS),
    };
    Bounds::new(low, high, resolution)
        .map(|b| b.unit(unit_of_value(request)).protects(request.unit.name()))
}

/// Whether the request's bounds can be used.
///
/// # Errors
/// [`BoundsError`].
pub fn check_bounds(request: &Request) -> Result<(), BoundsError> {
    match clamp(request) {
        Some(Clamp::Public(low, high)) => bounds(request, (low, high)).map(|_| ()),
        _ => Ok(()),
    }
}

fn unit_of_value(request: &Request) -> &'static str {
    match (&request.statistic, &request.measure) {
        (Statistic::Histogram { .. }, _) => "units per bin",
        (Statistic::Count, _) => "units",
        (Statistic::Top { .. }, _) => "units per name",
        (_, Measure::Bytes(_)) => "bytes",
        (_, Measure::Flows) => "flows",
        (_, Measure::Mean(_) | Measure::Any | Measure::Names) => "",
    }
}

/// Makes the answer. Every table of the request's kind takes the same way.
///
/// # Errors
/// [`ReleaseError`], which does not depend on the table.
pub fn release(
    table: &Table,
    request: &Request,
    grants: Grants,
    noise: &mut Source,
) -> Result<Answer, ReleaseError> {
    let range = match (clamp(request), grants.bounds) {
        (Some(Clamp::Public(low, high)), _) => Some((low, high)),
        (Some(Clamp::Paid), Some(grant)) => Some(found_range(table, grant, noise)?),
        (Some(Clamp::Paid), None) => Some((0.0, 1.0)),
        (None, _) => None,
    };
    let of_range = |range: Option<(f64, f64)>| {
        bounds(request, range.unwrap_or((0.0, 1.0))).map_err(|error| ReleaseError::Mechanism {
            why: error.to_string(),
        })
    };
    let grant = grants.answer;
    let mut answer = match &request.statistic {
        Statistic::Sum { .. } => {
            let released = grant.sum(numbers(table), &of_range(range)?, noise.noise())?;
            let value = *released.value();
            let half = released.half_width();
            let mut answer = Answer::new(request, &released);
            // Noise and clamped sums are whole: so is the answer.
            answer.value = Value::from(value as i64);
            answer.interval = Some([value - half, value + half]);
            answer
        }
        Statistic::Mean { .. } => {
            let released = grant.mean(values(table), &of_range(range)?, noise.noise())?;
            let interval = [released.value().low, released.value().high];
            Answer::new(request, &released).within(interval)
        }
        Statistic::Deviation { .. } => {
            let released = grant.deviation(values(table), &of_range(range)?, noise.noise())?;
            let interval = [released.value().low, released.value().high];
            Answer::new(request, &released).within(interval)
        }
        Statistic::Percentile {
            percent,
            candidates,
            ..
        } => {
            let grid = grid(range.unwrap_or((0.0, 1.0)), *candidates);
            let released = grant.percentile(values(table), *percent, &grid, noise.entropy())?;
            Answer::new(request, &released)
        }
        Statistic::Histogram { edges } => {
            let rows = values(table).filter_map(|(unit, v)| Some((unit, bin(edges, v)?)));
            let released = grant.histogram(rows, edges.len() - 1, 1, noise.noise())?;
            let half = released.half_width();
            Answer::new(request, &released).each(half)
        }
        Statistic::Count => {
            let rows = numbers(table).map(|(unit, v)| (unit, usize::from(v > 0.0)));
            let released = grant.histogram(rows, 2, 1, noise.noise())?;
            let half = released.half_width();
            let mut answer = Answer::new(request, &released).each(half);
            answer.value = match released.value().as_slice() {
                [without, with] => serde_json::json!({ "without": without, "with": with }),
                other => Value::from(other.to_vec()),
            };
            answer
        }
        Statistic::Top { per_unit, limit } => {
            let rows: &[(String, String, u64)] = match table {
                Table::Names(rows) => rows,
                Table::Whole(_) | Table::Means(_) => &[],
            };
            let rows = rows.iter().map(|(u, n, w)| (u, n.clone(), *w));
            let released = grant.threshold_counts(rows, *per_unit, 0, noise.noise())?;
            let half = released.half_width();
            let shown: Vec<Value> = released
                .value()
                .iter()
                .take(*limit)
                .map(|(name, units)| serde_json::json!({ "name": name, "units": units }))
                .collect();
            let mut answer = Answer::new(request, &released).each(half);
            answer.value = Value::from(shown);
            answer
        }
    };
    answer.clamp = range.map(|(low, high)| [low, high]);
    Ok(answer)
}

impl Answer {
    fn new<T: Serialize>(request: &Request, released: &Released<T>) -> Self {
        let json = |value| serde_json::to_value(value).unwrap_or_default();
        let mechanism = serde_json::to_value(released.mechanism()).unwrap_or_default();
        Self {
            version: VERSION,
            request: serde_json::to_value(request).unwrap_or_default(),
            value: json(released.value()),
            unit: unit_of_value(request).to_owned(),
            interval: None,
            half_width: None,
            clamp: None,
            mechanism: mechanism.as_str().unwrap_or_default().to_owned(),
            scale: released.scale(),
            epsilon: request.epsilon.value(),
            delta: request.delta.unwrap_or(0.0),
            protects: format!(
                "all flows of {} in these data, added or removed",
                request.unit.name()
            ),
            ledger_entry: released.ledger_entry(),
            simulated: released.simulated(),
            cached: false,
        }
    }

    fn within(mut self, interval: [f64; 2]) -> Self {
        self.interval = Some(interval);
        self
    }

    fn each(mut self, half_width: f64) -> Self {
        self.half_width = Some(half_width);
        self
    }
}

/// Each unit with its number; of means those that have one.
fn values(table: &Table) -> Box<dyn Iterator<Item = (&str, f64)> + '_> {
    match table {
        Table::Whole(_) => Box::new(numbers(table)),
        Table::Means(rows) => Box::new(
            rows.iter()
                .filter_map(|(unit, mean)| Some((unit.as_str(), (*mean)?))),
        ),
        Table::Names(_) => Box::new(std::iter::empty()),
    }
}

fn numbers(table: &Table) -> impl Iterator<Item = (&str, f64)> + '_ {
    let rows: &[(String, i64)] = match table {
        Table::Whole(rows) => rows,
        Table::Means(_) | Table::Names(_) => &[],
    };
    // Exact below 2^53, and bounds are below 2^52.
    rows.iter().map(|(unit, v)| (unit.as_str(), *v as f64))
}

/// The bin of a value: from its lower edge up to but without its upper one, which only the last bin has.
fn bin(edges: &[f64], value: f64) -> Option<usize> {
    let after = edges.partition_point(|e| *e <= value);
    if after == edges.len() {
        return edges
            .last()
            .is_some_and(|last| *last == value)
            .then(|| edges.len() - 2);
    }
    after.checked_sub(1)
}

/// Evenly spaced values with both ends.
fn grid((low, high): (f64, f64), candidates: usize) -> Vec<f64> {
    crate::request::even_edges(low, high, candidates.max(2) - 1)
}

/// A range from 0 to the upper end of the highest octave with so many units that an empty one would show as many with a
/// probability of 5 % only.
fn found_range(
    table: &Table,
    grant: Grant,
    noise: &mut Source,
) -> Result<(f64, f64), ReleaseError> {
    let least = least_units(grant.epsilon());
    let rows = values(table).map(|(unit, v)| (unit, octave(v)));
    let counts = grant.histogram(rows, OCTAVES, 1, noise.noise())?;
    let highest = counts.value().iter().rposition(|c| *c as f64 > least);
    let power = LOWEST + highest.map_or(-LOWEST, |h| h as i32);
    Ok((0.0, 2f64.powi(power)))
}

/// Units that an octave must show to count: fewer are noise.
pub fn least_units(epsilon: Epsilon) -> f64 {
    (OCTAVES as f64 / 0.1).ln() / epsilon.value()
}

/// The number of the octave whose upper end is at or above the value.
fn octave(value: f64) -> usize {
    if value <= 2f64.powi(LOWEST) {
        return 0;
    }
    let power = value.log2().ceil() as i32;
    ((power - LOWEST).max(0) as usize).min(OCTAVES - 1)
}

/// What an answer will cost and how far off its noise will be, before it is asked. Needs no data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// ε in all.
    pub epsilon: f64,
    /// δ in all.
    pub delta: f64,
    /// What one unit may contribute, when that is public.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamp: Option<[f64; 2]>,
    /// What the numbers below are in.
    pub unit: String,
    /// Mean absolute error by noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_absolute_error: Option<f64>,
    /// Half of the 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_width: Option<f64>,
    /// For bounds that are paid for: mean absolute error by noise, in multiples of the bound that will be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_per_bound: Option<f64>,
    /// For means and standard deviations: root of the mean squared error, for this many units with a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_mean_square_error: Option<f64>,
    /// The number of units that was assumed for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumed_units: Option<u64>,
    /// For percentiles: ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_error: Option<f64>,
    /// For names and for bounds that are paid for: fewer units do not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_units: Option<f64>,
}

/// Predicts the error of a checked request; `units` is a guess, not looked up.
pub fn predict(request: &Request, units: u64) -> Plan {
    let (for_bounds, epsilon) = shares(request);
    let range = match clamp(request) {
        Some(Clamp::Public(low, high)) => Some((low, high)),
        _ => None,
    };
    let known = range.and_then(|r| bounds(request, r).ok());
    let mut plan = Plan {
        epsilon: request.epsilon.value(),
        delta: request.delta.unwrap_or(0.0),
        clamp: range.map(|(low, high)| [low, high]),
        unit: unit_of_value(request).to_owned(),
        mean_absolute_error: None,
        half_width: None,
        error_per_bound: None,
        root_mean_square_error: None,
        assumed_units: None,
        rank_error: None,
        least_units: for_bounds.map(least_units),
    };
    match &request.statistic {
        Statistic::Sum { .. } => {
            match known {
                Some(bounds) => plan.expect(Expected::sum(&bounds, epsilon)),
                // The bound that is found is many steps wide: the noise is as many times wider as a step's.
                None => plan.error_per_bound = Some(1.0 / epsilon.value()),
            }
        }
        Statistic::Histogram { .. } | Statistic::Count => {
            plan.expect(Expected::laplace(1, 1.0, epsilon));
        }
        Statistic::Mean { .. } => {
            plan.root_mean_square_error = known.map(|b| Expected::mean(&b, units, epsilon));
            plan.assumed_units = Some(units);
        }
        Statistic::Deviation { .. } => {
            plan.root_mean_square_error = known.map(|b| Expected::deviation(&b, units, epsilon));
            plan.assumed_units = Some(units);
        }
        Statistic::Percentile {
            percent,
            candidates,
            ..
        } => plan.rank_error = Some(Expected::percentile(*candidates, *percent, epsilon)),
        Statistic::Top { per_unit, .. } => {
            plan.expect(Expected::laplace(*per_unit as u64, 1.0, epsilon));
            let delta = request.delta.unwrap_or(0.0);
            plan.least_units = Some(Expected::threshold(*per_unit, epsilon, delta) as f64);
        }
    }
    plan
}

impl Plan {
    fn expect(&mut self, expected: Expected) {
        self.mean_absolute_error = Some(expected.mean_absolute);
        self.half_width = Some(expected.half_width);
    }
}

/// **Private.** What the answer would be without noise and without clamp; for tests of plans.
#[cfg(any(test, feature = "exact"))]
pub fn exact(table: &Table, request: &Request) -> Value {
    let all: Vec<f64> = values(table).map(|(_, v)| v).collect();
    let n = all.len() as f64;
    let or_null = |v: f64| {
        if all.is_empty() {
            Value::Null
        } else {
            Value::from(v)
        }
    };
    let mean = all.iter().sum::<f64>() / n;
    match &request.statistic {
        Statistic::Sum { .. } => Value::from(all.iter().map(|v| *v as i64).sum::<i64>()),
        Statistic::Mean { .. } => or_null(mean),
        Statistic::Deviation { .. } => {
            let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            or_null(variance.sqrt())
        }
        Statistic::Percentile { percent, .. } => or_null(interpolated(all.clone(), *percent)),
        Statistic::Histogram { edges } => {
            let mut counts = vec![0u64; edges.len() - 1];
            for index in all.iter().filter_map(|v| bin(edges, *v)) {
                counts[index] += 1;
            }
            Value::from(counts)
        }
        Statistic::Count => {
            let with = all.iter().filter(|v| **v > 0.0).count();
            Value::from(vec![all.len() - with, with])
        }
        Statistic::Top { .. } => Value::Null,
    }
}

/// **Private.** The sum that noise is added to; for tests.
#[cfg(any(test, feature = "exact"))]
pub fn exact_clamped(table: &Table, low: f64, high: f64) -> i64 {
    values(table).map(|(_, v)| v.clamp(low, high) as i64).sum()
}

#[cfg(any(test, feature = "exact"))]
fn interpolated(mut values: Vec<f64>, percent: chaff_privacy::Percent) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = percent.value() / 100.0 * (values.len().max(1) - 1) as f64;
    let below = values.get(at as usize).copied().unwrap_or(f64::NAN);
    let above = values.get(at as usize + 1).copied().unwrap_or(below);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_those_of_numpy() {
        let edges = [0.0, 1.0, 2.0, 3.0];
        for (value, want) in [
            (0.0, Some(0)),
            (0.99, Some(0)),
            (1.0, Some(1)),
            (3.0, Some(2)),
            (3.01, None),
            (-0.01, None),
        ] {
            assert_eq!(bin(&edges, value), want, "{value}");
        }
    }

    #[test]
    fn octaves_end_at_powers_of_two() {
        assert_eq!(octave(f64::NEG_INFINITY), 0);
        assert_eq!(octave(0.0), 0);
        assert_eq!(octave(1.0), 10);
        assert_eq!(octave(1.5), 11);
        assert_eq!(octave(2.0), 11);
        assert_eq!(octave(1e300), OCTAVES - 1);
    }
}
