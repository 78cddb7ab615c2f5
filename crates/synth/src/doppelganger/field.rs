//! Fields as numbers that a network makes, and back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::column::{Column, Row};
use super::config::{Encoding, Spec};
use super::words::Words;

/// NetShare's margin around the smallest and largest value.
const MARGIN: f64 = 1e-8;

/// A group of a network's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Head {
    /// Probabilities that sum to one.
    Softmax(usize),
    /// Numbers from 0 to 1.
    Sigmoid(usize),
    /// Numbers from -1 to 1.
    Tanh(usize),
}

impl Head {
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Softmax(n) | Self::Sigmoid(n) | Self::Tanh(n) => n,
        }
    }
}

/// Outputs of all heads.
pub(crate) fn width(heads: &[Head]) -> usize {
    heads.iter().map(|h| h.size()).sum()
}

/// A range of numbers, on [0, 1] or [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) log1p: bool,
    pub(crate) signed: bool,
}

impl Scale {
    pub(crate) fn encode(&self, value: f64) -> f32 {
        let value = if self.log1p {
            value.max(0.0).ln_1p()
        } else {
            value
        };
        let span = self.high - self.low;
        // All values equal: NetShare divides by zero.
        let part = if span > 0.0 {
            ((value - self.low) / span).clamp(0.0, 1.0)
        } else {
            0.0
        };
        (if self.signed { 2.0 * part - 1.0 } else { part }) as f32
    }

    pub(crate) fn decode(&self, x: f32) -> f64 {
        let x = f64::from(x);
        let part = if self.signed { (x + 1.0) / 2.0 } else { x };
        let value = self.low + part * (self.high - self.low);
        if self.log1p { value.exp_m1() } else { value }
    }

    pub(crate) fn head(&self) -> Head {
        if self.signed {
            Head::Tanh(1)
        } else {
            Head::Sigmoid(1)
        }
    }

    pub(crate) fn valid(&self) -> bool {
        self.low.is_finite() && self.high.is_finite() && (!self.log1p || self.high < 100.0)
    }
}

/// How a column is encoded, with what was learned of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Code {
    Bits(u32),
    Word,
    Choice(Vec<String>),
    Number(Scale),
}

/// A column with its code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Field {
    pub(crate) column: Column,
    pub(crate) code: Code,
}

impl Field {
    /// Learns choices and ranges from the rows.
    pub(crate) fn learn(spec: &Spec, rows: &[Row], labels: &[String]) -> Self {
        let column = spec.column;
        let code = match &spec.encoding {
            Encoding::Bits(n) => Code::Bits(*n),
            Encoding::Word => Code::Word,
            Encoding::Choice(Some(choices)) => Code::Choice(choices.clone()),
            Encoding::Choice(None) => {
                let seen: BTreeSet<String> = rows.iter().map(|r| r.text(column, labels)).collect();
                Code::Choice(seen.into_iter().collect())
            }
            Encoding::Float {
                range,
                log1p,
                signed,
            } => {
                let of = |v: f64| if *log1p { v.max(0.0).ln_1p() } else { v };
                let values = || rows.iter().map(|r| r.number(column));
                let low =
                    range[0].unwrap_or_else(|| values().fold(f64::INFINITY, f64::min) - MARGIN);
                let high =
                    range[1].unwrap_or_else(|| values().fold(f64::NEG_INFINITY, f64::max) + MARGIN);
                Code::Number(Scale {
                    low: of(low),
                    high: of(high),
                    log1p: *log1p,
                    signed: *signed,
                })
            }
        };
        Self { column, code }
    }

    pub(crate) fn heads(&self, word: usize) -> Vec<Head> {
        match &self.code {
            Code::Bits(n) => vec![Head::Softmax(2); *n as usize],
            Code::Word => vec![Head::Tanh(word)],
            Code::Choice(choices) => vec![Head::Softmax(choices.len())],
            Code::Number(scale) => vec![scale.head()],
        }
    }

    /// Appends what stands for the row's value.
    pub(crate) fn encode(&self, row: &Row, words: &Words, labels: &[String], out: &mut Vec<f32>) {
        let hot = |on: bool| if on { [0.0, 1.0] } else { [1.0, 0.0] };
        match &self.code {
            Code::Bits(n) => {
                let value = row.number(self.column) as u64;
                for bit in (0..*n).rev() {
                    out.extend(hot(value >> bit & 1 == 1));
                }
            }
            Code::Word => out.extend(words.vector(self.column, row.number(self.column))),
            Code::Choice(choices) => {
                let text = row.text(self.column, labels);
                out.extend(choices.iter().map(|c| f32::from(u8::from(*c == text))));
            }
            Code::Number(scale) => out.push(scale.encode(row.number(self.column))),
        }
    }

    /// Sets the row's value from a network's outputs.
    pub(crate) fn decode(&self, x: &[f32], words: &Words, labels: &[String], row: &mut Row) {
        match &self.code {
            Code::Bits(_) => {
                let bits = x
                    .chunks(2)
                    .fold(0u64, |v, pair| v << 1 | u64::from(pair[1] > pair[0]));
                row.set(self.column, bits as f64);
            }
            Code::Word => row.set(self.column, words.nearest(self.column, x)),
            Code::Choice(choices) => {
                if let Some(text) = choices.get(largest(x)) {
                    row.set_text(self.column, text, labels);
                }
            }
            Code::Number(scale) => row.set(self.column, scale.decode(x[0])),
        }
    }

    pub(crate) fn valid(&self) -> bool {
        match &self.code {
            Code::Bits(n) => (1..=32).contains(n),
            Code::Word => matches!(
                self.column,
                Column::SourcePort | Column::DestinationPort | Column::Protocol
            ),
            Code::Choice(choices) => !choices.is_empty() && choices.len() <= 70_000,
            Code::Number(scale) => scale.valid(),
        }
    }
}

/// Index of the largest value, the first of equals.
pub(crate) fn largest(x: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in x.iter().enumerate() {
        if *v > x[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;

    #[test]
    fn values_come_back_from_their_codes() {
        let labels = vec!["a".to_owned(), "b".to_owned()];
        let row = |i: u32| Row {
            record: Record {
                src: std::net::Ipv4Addr::from(0x0a00_0000 + i * 7919).into(),
                protocol: 6,
                packets: 1 + u64::from(i * i),
                duration_us: u64::from(i) * 1000,
                label: i % 2,
                ..Record::default()
            },
            ..Row::default()
        };
        let rows: Vec<Row> = (0..300).map(row).collect();
        let float = |log1p, signed| Encoding::Float {
            range: [None; 2],
            log1p,
            signed,
        };
        for (column, encoding) in [
            (Column::Source, Encoding::Bits(32)),
            (Column::Protocol, Encoding::Choice(None)),
            (Column::Packets, float(true, false)),
            (Column::Duration, float(false, true)),
            (Column::Label, Encoding::Choice(None)),
        ] {
            let field = Field::learn(&Spec { column, encoding }, &rows, &labels);
            assert!(field.valid());
            for row in &rows {
                let mut x = Vec::new();
                field.encode(row, &Words::default(), &labels, &mut x);
                assert_eq!(x.len(), width(&field.heads(0)));
                let mut back = Row::default();
                field.decode(&x, &Words::default(), &labels, &mut back);
                let (a, b) = (row.number(column), back.number(column));
                assert!(
                    (a - b).abs() <= 1e-6 * a.abs().max(1.0),
                    "{column:?} {a} {b}"
                );
            }
        }
        // One value only: NetShare divides by zero.
        let one = Field::learn(
            &Spec {
                column: Column::Packets,
                encoding: float(false, false),
            },
            &rows[..1],
            &labels,
        );
        let mut x = Vec::new();
        one.encode(&rows[0], &Words::default(), &labels, &mut x);
        assert!(x[0].is_finite());
    }
}
