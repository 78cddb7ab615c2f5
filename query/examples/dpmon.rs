//! Exact answers of every question of a folder against its `expected.json`, from text and from imported Parquet, and the noise of the answers against the published formulas. `cargo xtask conformance dpmon` runs it.
//!
//! Usage: `dpmon FOLDER [RUNS]`. The folder holds `log_tcp_complete`, `nfdump.csv`, `rib.dat`, `expected.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use chaff_privacy::{Epsilon, Grant, Ledger, Percent};
use chaff_query::Databases;
use chaff_query::asn::Asns;
use chaff_query::import::import;
use chaff_query::release::{self, Grants, exact, exact_clamped};
use chaff_query::request::{Clamp, Matching, Measure, Name, even_edges};
use chaff_query::source::Source;
use chaff_query::{Direction, Engine as _, Filter, Plain, Request, Statistic, Table, UnitKey};
use serde_json::Value;

/// Share by which a measured error may differ from the formula.
const CLOSE: f64 = 0.10;

#[derive(Default)]
struct Total {
    equal: usize,
    different: usize,
    /// Tables of units that are the same from Parquet.
    parquet: usize,
    /// The original fails here; there is nothing to compare, but there must be an answer.
    answered: usize,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().context("usage: dpmon FOLDER [RUNS]")?);
    let runs: u32 = arguments.next().map_or(Ok(2000), |n| n.parse())?;
    let text = std::fs::read_to_string(folder.join("expected.json"))
        .with_context(|| format!("{}/expected.json", folder.display()))?;
    let expected: Value = serde_json::from_str(&text)?;
    let queries = expected["queries"].as_array().context("no queries")?;
    compare(&folder, queries, runs)
}

fn compare(folder: &Path, queries: &[Value], runs: u32) -> Result<bool> {
    let databases = Databases {
        asns: Some(Arc::new(Asns::load(&folder.join("rib.dat"))?)),
        units: None,
    };
    let mut sources = BTreeMap::new();
    let imported = tempfile::tempdir()?;
    for (format, file) in [("tstat", "log_tcp_complete"), ("nfdump", "nfdump.csv")] {
        let log = folder.join(file);
        let text = Source::open(std::slice::from_ref(&log), None)?;
        let to = imported.path().join(format);
        import(&[log], None, &to, |_| ())?;
        sources.insert(format, [text, Source::open(&[to], None)?]);
    }
    let mut totals: BTreeMap<(String, String), Total> = BTreeMap::new();
    let mut errors = Errors::default();
    let mut good = true;
    for (index, query) in queries.iter().enumerate() {
        let format = query["format"].as_str().context("format")?;
        let method = query["method"].as_str().context("method")?;
        let [source, parquet] = sources
            .get(format)
            .with_context(|| format!("format {format}"))?;
        let total = totals
            .entry((format.to_owned(), method.to_owned()))
            .or_default();
        for (request, want) in requests(query, method)? {
            request.check(source.format).map_err(anyhow::Error::msg)?;
            source.check(&request)?;
            let table = Plain::default().table(source, &request, &databases)?;
            let got = exact(&table, &request);
            parquet.check(&request)?;
            if Plain::default().table(parquet, &request, &databases)? == table {
                total.parquet += 1;
            } else {
                good = false;
                println!("query {index}: {}: Parquet differs", query["args"]);
            }
            match &want {
                None => total.answered += 1,
                Some(want) if same(&got, want) => total.equal += 1,
                Some(want) => {
                    total.different += 1;
                    good = false;
                    println!(
                        "query {index}: {}: expected {want}, got {got}",
                        query["args"]
                    );
                }
            }
            good &= errors.check(index, query, &request, &table, runs)?;
        }
    }
    println!(
        "| format | question | equal | different | answered where the original fails | same tables from imported Parquet |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut sum = Total::default();
    for ((format, method), t) in &totals {
        println!(
            "| {format} | {method} | {} | {} | {} | {} |",
            t.equal, t.different, t.answered, t.parquet
        );
        sum.equal += t.equal;
        sum.different += t.different;
        sum.answered += t.answered;
        sum.parquet += t.parquet;
    }
    println!(
        "| all | {} questions | {} | {} | {} | {} |",
        queries.len(),
        sum.equal,
        sum.different,
        sum.answered,
        sum.parquet
    );
    errors.print(runs);
    Ok(good)
}

/// The question, twice when its pattern's answer depends on case; without an expected answer where there is none to have.
pub(crate) fn requests(query: &Value, method: &str) -> Result<Vec<(Request, Option<Value>)>> {
    let args = &query["args"];
    let mut filter = Filter {
        ip: args["ip"].as_str().map(str::parse).transpose()?,
        asn: args["asn"].as_u64().map(u32::try_from).transpose()?,
        name: None,
    };
    let name = |matching| Name {
        matching,
        ignore_case: false,
    };
    if let Some(domain) = args["domain"].as_str() {
        filter.name = Some(name(Matching::Domain(domain.to_owned())));
    }
    if let Some(pattern) = args["pattern"].as_str() {
        filter.name = Some(name(Matching::Pattern(pattern.to_owned())));
    }
    let volume = match (
        args["count_flows"].as_bool(),
        args["volume_direction"].as_str(),
    ) {
        (Some(true), _) => Measure::Flows,
        (_, Some("outgoing")) => Measure::Bytes(Direction::Outgoing),
        _ => Measure::Bytes(Direction::Ingoing),
    };
    // Any clamp will do for exact answers; the noise of sums is tried with the one of `sound`.
    let sound = &query["sound"]["per_user_clamp"];
    let bounds = match (sound[0].as_f64(), sound[1].as_f64()) {
        (Some(low), Some(high)) => Clamp::Public(low, high),
        _ => Clamp::Public(0.0, 1e6),
    };
    let (measure, statistic) = match method {
        "volume_on_ip" | "volume_on_asn" | "volume_on_domain" | "volume_on_domain_pattern" => {
            (volume, Statistic::Sum { bounds })
        }
        "volume_historam" | "volume_historam_specific" => (volume, histogram(query)?),
        "user_count_specific" => (Measure::Any, Statistic::Count),
        "flow_feature" => {
            let feature = args["feature"].as_str().context("feature")?;
            let statistic = match args["metric"].as_str() {
                Some("mean") => Statistic::Mean { bounds },
                Some("std") => Statistic::Deviation { bounds },
                Some("percentile") => Statistic::Percentile {
                    percent: args["percent"]
                        .as_f64()
                        .and_then(Percent::new)
                        .context("percent")?,
                    bounds,
                    candidates: 200,
                },
                Some("histogram") => histogram(query)?,
                other => bail!("metric {other:?}"),
            };
            (Measure::Mean(feature.to_owned()), statistic)
        }
        other => bail!("method {other}"),
    };
    let request = Request {
        direction: match query["direction"].as_str() {
            Some("ingoing") => Direction::Ingoing,
            _ => Direction::Outgoing,
        },
        home: Vec::new(),
        unit: UnitKey::Address,
        filter,
        measure,
        statistic,
        epsilon: Epsilon::new(query["epsilon"].as_f64().unwrap_or(1.0))?,
        delta: None,
    };
    // Of a histogram without edges nothing is expected: the original takes them from the data, and fails.
    let want = query
        .get("exact")
        .filter(|w| !w.is_null() || query["args"]["metric"] != "histogram");
    let want = want.cloned();
    let Some(sensitive) = query.get("exact_case_sensitive") else {
        return Ok(vec![(request, want)]);
    };
    let mut folded = request.clone();
    if let Some(name) = &mut folded.filter.name {
        name.ignore_case = true;
    }
    Ok(vec![(request, Some(sensitive.clone())), (folded, want)])
}

/// Edges of the range asked for, checked against those expected; or those expected, where the original takes them from
/// the data. Where it fails there are none, and any will do.
fn histogram(query: &Value) -> Result<Statistic> {
    let given: Option<Vec<f64>> = query["edges"]
        .as_array()
        .map(|e| e.iter().filter_map(Value::as_f64).collect());
    let (range, bins) = (
        &query["args"]["range"],
        query["args"]["bins"].as_u64().unwrap_or(10),
    );
    let made = match (range[0].as_f64(), range[1].as_f64()) {
        (Some(low), Some(high)) => Some(even_edges(low, high, usize::try_from(bins)?)),
        _ => None,
    };
    if let (Some(given), Some(made)) = (&given, &made)
        && given != made
    {
        bail!("edges {made:?}, expected {given:?}");
    }
    Ok(Statistic::Histogram {
        edges: made.or(given).unwrap_or_else(|| even_edges(0.0, 100.0, 5)),
    })
}

fn same(got: &Value, want: &Value) -> bool {
    match (got, want) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => {
                let (a, b) = (
                    a.as_f64().unwrap_or(f64::NAN),
                    b.as_f64().unwrap_or(f64::NAN),
                );
                (a - b).abs() <= 1e-9 * b.abs()
            }
        },
        _ => got == want,
    }
}

/// Largest differences between measured errors and formulas, by kind.
#[derive(Default)]
struct Errors {
    kinds: BTreeMap<&'static str, (usize, f64)>,
}

impl Errors {
    fn note(&mut self, kind: &'static str, ratio: f64) -> bool {
        let entry = self.kinds.entry(kind).or_insert((0, 1.0));
        entry.0 += 1;
        if (ratio - 1.0).abs() > (entry.1 - 1.0).abs() {
            entry.1 = ratio;
        }
        (ratio - 1.0).abs() <= CLOSE
    }

    fn check(
        &mut self,
        index: usize,
        query: &Value,
        request: &Request,
        table: &Table,
        runs: u32,
    ) -> Result<bool> {
        let mut good = true;
        let mut fail = |why: String| {
            good = false;
            println!("query {index}: {}: {why}", query["args"]);
        };
        match &request.statistic {
            Statistic::Sum {
                bounds: Clamp::Public(low, high),
            } if query["sound"].is_object() => {
                // A folded pattern has another sum; its noise is the same.
                let folded = request.filter.name.as_ref().is_some_and(|n| n.ignore_case);
                let want = query["sound"]["mean_abs_noise"]
                    .as_f64()
                    .context("mean_abs_noise")?;
                let exact = exact_clamped(table, *low, *high);
                let stated = query["sound"]["exact_clamped"].as_i64();
                let pattern = query.get("exact_case_sensitive").is_some();
                if (folded || !pattern) && stated != Some(exact) {
                    fail(format!("clamped sum {exact}, expected {stated:?}"));
                }
                let predicted = release::predict(request, 0).mean_absolute_error;
                if predicted.is_none_or(|p| (p / want - 1.0).abs() > 1e-6) {
                    fail(format!("predicted error {predicted:?}, expected {want}"));
                }
                let noise: Vec<f64> = releases(request, table, runs)?
                    .map(|answer| answer.as_f64().unwrap_or(f64::NAN) - exact as f64)
                    .collect();
                let ratio = mean(noise.iter().map(|n| n.abs())) / want;
                if !self.note("sum: mean absolute error", ratio) {
                    fail(format!("error is {ratio} of the formula"));
                }
                let spread = (mean(noise.iter().map(|n| n * n)) / noise.len() as f64).sqrt();
                let bias = mean(noise.iter().copied());
                if bias.abs() > 5.0 * spread {
                    fail(format!("bias {bias}, standard error {spread}"));
                }
            }
            Statistic::Histogram { .. } if query["exact"].is_array() => {
                let exact: Vec<f64> = cells(&exact(table, request));
                let want = release::predict(request, 0)
                    .mean_absolute_error
                    .context("prediction")?;
                let all = releases(request, table, runs / exact.len() as u32 + 1)?;
                let noise = all.flat_map(|answer| {
                    cells(&answer)
                        .into_iter()
                        .zip(exact.clone())
                        .map(|(a, b)| (a - b).abs())
                        .collect::<Vec<_>>()
                });
                let ratio = mean(noise) / want;
                if !self.note("histogram: mean absolute error of a bin", ratio) {
                    fail(format!("error is {ratio} of the formula"));
                }
            }
            Statistic::Mean { .. } => {
                let Some(middle) = exact(table, request).as_f64() else {
                    return Ok(true);
                };
                let (count, half) = spread(table, middle);
                // Bounds around the mean, for the formula's sake; a real question has public ones.
                if count < 100 || half == 0.0 {
                    return Ok(true);
                }
                let bounds = Clamp::Public(middle - half, middle + half);
                let around = Request {
                    statistic: Statistic::Mean { bounds },
                    ..request.clone()
                };
                let want = release::predict(&around, count)
                    .root_mean_square_error
                    .context("prediction")?;
                let squares = releases(&around, table, runs)?
                    .map(|answer| (answer["mean"].as_f64().unwrap_or(f64::NAN) - middle).powi(2));
                let ratio = mean(squares).sqrt() / want;
                if !self.note("mean: root mean square error", ratio) {
                    fail(format!("error is {ratio} of the formula"));
                }
            }
            _ => {
                // There is an answer, whatever the data are.
                for answer in releases(request, table, 3)? {
                    if answer.is_null() {
                        fail("no answer".to_owned());
                    }
                }
            }
        }
        Ok(good)
    }

    fn print(&self, runs: u32) {
        println!("\n| noise, {runs} answers a question | questions | farthest from the formula |");
        println!("| --- | --- | --- |");
        for (kind, (questions, ratio)) in &self.kinds {
            println!("| {kind} | {questions} | {ratio:.3} |");
        }
    }
}

fn spread(table: &Table, middle: f64) -> (u64, f64) {
    let Table::Means(rows) = table else {
        return (0, 0.0);
    };
    let values = rows.iter().filter_map(|(_, v)| *v);
    values.fold((0, 0.0), |(n, most), v| {
        (n + 1, most.max((v - middle).abs()))
    })
}

fn cells(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0u32, 0.0), |(n, sum), v| (n + 1, sum + v));
    sum / f64::from(n.max(1))
}

/// Values of answers that the program's own release path makes, with noise from a seed.
fn releases<'a>(
    request: &'a Request,
    table: &'a Table,
    runs: u32,
) -> Result<impl Iterator<Item = Value> + 'a> {
    let mut ledger = Ledger::open(Epsilon::MAX, 0.0, &[])?;
    ledger.mark_stored();
    let mut noise = release::Source::seeded(seed(request));
    let mut grant =
        move || -> Result<Grant> { Ok(ledger.spend("test", request.epsilon)?.stored()) };
    Ok((0..runs).map(move |_| {
        let answer = grant().ok().and_then(|answer| {
            let grants = Grants {
                bounds: None,
                answer,
            };
            release::release(table, request, grants, &mut noise).ok()
        });
        answer.map_or(Value::Null, |a| a.value)
    }))
}

/// Another one for each request, the same in each run.
fn seed(request: &Request) -> u64 {
    let text = serde_json::to_string(request).unwrap_or_default();
    text.bytes().fold(20_261_121, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
