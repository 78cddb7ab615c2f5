//! Answers and plans for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::release::{Answer, Plan};

/// Widest bar of a histogram, letters.
const BAR: usize = 40;

/// An answer as a few lines.
pub fn answer(answer: &Answer) -> String {
    let mut out = String::new();
    value(answer, &mut out);
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{text}");
    };
    if let Some([low, high]) = answer.clamp {
        line(format_args!(
            "  of each unit counts at least {} and at most {}; what that takes away is not in the interval",
            number(low),
            number(high)
        ));
    }
    let delta = if answer.delta > 0.0 {
        format!(", delta {}", answer.delta)
    } else {
        String::new()
    };
    line(format_args!(
        "  protects {}; epsilon {}{delta}; {}",
        answer.protects, answer.epsilon, answer.mechanism
    ));
    if answer.cached {
        line(format_args!(
            "  asked before of the same data: the same answer, nothing paid (entry {} of the ledger paid)",
            answer.ledger_entry
        ));
    } else {
        line(format_args!(
            "  entry {} of the ledger",
            answer.ledger_entry
        ));
    }
    if answer.simulated {
        line(format_args!("  SIMULATED NOISE: protects nobody"));
    }
    out
}

fn value(answer: &Answer, out: &mut String) {
    let interval = answer.interval.map_or(String::new(), |[low, high]| {
        format!("   95 %: {} to {}", number(low), number(high))
    });
    let half = answer
        .half_width
        .map_or(String::new(), |h| format!(" ± {}", number(h)));
    match &answer.value {
        Value::Array(cells) if cells.iter().all(Value::is_number) && !cells.is_empty() => {
            let bars = bars(answer).unwrap_or_default();
            let most = bars.iter().fold(1.0f64, |a, (_, count)| a.max(*count));
            for (ends, count) in bars {
                let bar = "#".repeat((count.max(0.0) / most * BAR as f64).round() as usize);
                let _ = writeln!(out, "{ends:>32}  {:>10}  {bar}", number(count));
            }
            let _ = writeln!(out, "  {}{half} each, 95 %", answer.unit);
        }
        Value::Array(_) => {
            for (name, units) in bars(answer).unwrap_or_default() {
                let _ = writeln!(out, "{:>12}  {name}", number(units));
            }
            let _ = writeln!(
                out,
                "  {}{half} each, 95 %; rarer names do not show",
                answer.unit
            );
        }
        Value::Object(parts) if parts.contains_key("with") => {
            for (part, units) in bars(answer).unwrap_or_default() {
                let _ = writeln!(out, "{part:>8}  {}{half}", number(units));
            }
        }
        Value::Object(parts) => {
            for (name, value) in parts {
                if matches!(name.as_str(), "low" | "high") {
                    continue;
                }
                let main = matches!(name.as_str(), "mean" | "deviation" | "value");
                let end = if main { interval.as_str() } else { "" };
                let value = value.as_f64().map_or("unknown".to_owned(), number);
                let _ = writeln!(out, "{name:>16}  {value}{end}");
            }
        }
        other => {
            let text = other.as_f64().map_or_else(|| other.to_string(), number);
            let _ = writeln!(out, "{text} {}{interval}", answer.unit);
        }
    }
}

/// Name and number of each part of an answer of several numbers: bins, names, with and without.
pub fn bars(answer: &Answer) -> Option<Vec<(String, f64)>> {
    match &answer.value {
        Value::Array(cells) if cells.iter().all(Value::is_number) && !cells.is_empty() => {
            let edges: Vec<f64> = answer.request["statistic"]["histogram"]["edges"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_f64)
                .collect();
            let counts = cells.iter().filter_map(Value::as_f64);
            let named = counts.enumerate().map(|(index, count)| {
                let ends = match (edges.get(index), edges.get(index + 1)) {
                    (Some(low), Some(high)) => format!("{} to {}", number(*low), number(*high)),
                    _ => index.to_string(),
                };
                (ends, count)
            });
            Some(named.collect())
        }
        Value::Array(names) => {
            let named = names.iter().map(|name| {
                let text = name["name"].as_str().unwrap_or_default();
                (printable(text), name["units"].as_f64().unwrap_or_default())
            });
            Some(named.collect())
        }
        Value::Object(parts) => {
            let of = |part: &str| Some((part.to_owned(), parts.get(part)?.as_f64()?));
            Some(vec![of("with")?, of("without")?])
        }
        _ => None,
    }
}

/// A plan as a few lines; `left` is the ledger's, when there is one.
pub fn plan(plan: &Plan, left: Option<(f64, u64)>) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: Option<f64>, unit: &str| {
        if let Some(value) = value {
            let text = format!("{name:>26}  {} {unit}", number(value));
            let _ = writeln!(out, "{}", text.trim_end());
        }
    };
    line("costs epsilon", Some(plan.epsilon), "");
    line("costs delta", Some(plan.delta).filter(|d| *d > 0.0), "");
    line("mean error by noise", plan.mean_absolute_error, &plan.unit);
    line("95 % within", plan.half_width, &plan.unit);
    line(
        "mean error by noise",
        plan.error_per_bound,
        "times the bound that will be found",
    );
    let units = plan
        .assumed_units
        .map_or(String::new(), |n| format!("for {n} units with a value"));
    line(
        "root mean square error",
        plan.root_mean_square_error,
        &units,
    );
    line("95 % within ranks", plan.rank_error, "");
    line("fewer units do not show", plan.least_units, "");
    if let Some((left, times)) = left {
        line(
            "left in the ledger",
            Some(left),
            &format!("epsilon: {times} times this question"),
        );
    }
    out
}

/// A time in its two largest units.
pub fn span(ns: u64) -> String {
    let s = ns / 1_000_000_000;
    match (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// Digits in groups of three; six digits that count for what is not whole.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    if value.fract() != 0.0 || value.abs() >= 1e15 {
        let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
        let text = format!("{value:.digits$}");
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let part = part.trim_end_matches('0');
        let point = if part.is_empty() { "" } else { "." };
        return format!("{}{point}{part}", grouped(whole));
    }
    grouped(&format!("{value:.0}"))
}

fn grouped(digits: &str) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", digits),
    };
    let mut out = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Names come from logs: nothing in them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_readable() {
        for (seconds, want) in [
            (0, "0 s"),
            (61, "1 min 1 s"),
            (86_399, "23 h 59 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds * 1_000_000_000), want);
        }
    }

    #[test]
    fn numbers_are_readable() {
        for (value, want) in [
            (0.0, "0"),
            (1234567.0, "1,234,567"),
            (-1234.0, "-1,234"),
            (0.25, "0.25"),
            (1234.5678, "1,234.57"),
            (0.000123456789, "0.000123457"),
            (f64::INFINITY, "unknown"),
        ] {
            assert_eq!(number(value), want);
        }
    }
}
