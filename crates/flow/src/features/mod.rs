//! Flows to rows of numbers: the representations that novelty detection on traffic is written about.
//!
//! Data flow: `packets → a profile's flows → [`Sequence`] → [`Shape::row`] → [`Matrix`]`. Two profiles make the flows:
//! [`netml`] exactly as netml 0.7.1 does (directed flows, dimensions that depend on the capture), and [`native`] as a
//! gateway needs them (two-way flows, fixed dimensions and windows that a model can carry, IPv6, nothing dropped, counts
//! per source that show scans).
//!
//! One file per representation: [`iat`], [`size`] (with the interleaved kind), [`stats`], [`samples`], [`spectrum`] (the
//! `fft` option) and [`header`].

pub mod header;
pub mod iat;
pub mod native;
pub mod netml;
mod profile;
pub mod samples;
mod sequence;
pub mod size;
pub mod source;
pub mod spectrum;
pub mod stats;

use std::fmt;
use std::str::FromStr;

pub use profile::Profile;
pub use sequence::Sequence;

/// Most columns a row may have: a model that asks for more is refused.
pub const MAX_COLUMNS: usize = 1 << 16;

/// Which numbers describe a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Times between packets.
    Iat,
    /// Lengths of packets.
    Size,
    /// Times and lengths, interleaved.
    IatSize,
    /// Duration, rates, moments and quantiles.
    Stats,
    /// Packets per window.
    SampNum,
    /// Bytes per window.
    SampSize,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Iat,
        Self::Size,
        Self::IatSize,
        Self::Stats,
        Self::SampNum,
        Self::SampSize,
    ];

    /// The name on the command line and in models.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iat => "iat",
            Self::Size => "size",
            Self::IatSize => "iat-size",
            Self::Stats => "stats",
            Self::SampNum => "samp-num",
            Self::SampSize => "samp-size",
        }
    }

    /// Columns for the dimension base `base`, packets (see [`Shape::base`]), without header and of one direction.
    pub const fn columns(self, base: usize) -> usize {
        match self {
            Self::Iat | Self::SampNum | Self::SampSize => base.saturating_sub(1),
            Self::Size => base,
            Self::IatSize => (base * 2).saturating_sub(1),
            Self::Stats => stats::COLUMNS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = FeatureError;

    /// Reads a name; case and the choice of `-` or `_` do not matter.
    fn from_str(text: &str) -> Result<Self, FeatureError> {
        let name = text.to_ascii_lowercase().replace('_', "-");
        Self::ALL
            .into_iter()
            .find(|k| k.name() == name)
            .ok_or_else(|| FeatureError::Kind {
                name: text.to_owned(),
            })
    }
}

/// Why there are no features.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// Not one of [`Kind::ALL`].
    #[error("`{name}` is no kind of feature: iat, size, iat-size, stats, samp-num, samp-size")]
    Kind {
        /// What was asked for.
        name: String,
    },
    /// No flow has enough packets, or none is left after labelling.
    #[error("no flow with at least {min_packets} packets")]
    NoFlows {
        /// The threshold.
        min_packets: usize,
    },
    /// A packet without the fields that the header block is made of; netml fails likewise.
    #[error(
        "the header block needs an IPv4 header right after the link header in every packet, and {packets} kept packets have none"
    )]
    NoHeader {
        /// Kept packets without one.
        packets: u64,
    },
    /// Three in ten flows last no time at all, so the sampling window would be empty; netml fails likewise.
    #[error("the sampling window is 0 s long: too many flows have no duration")]
    ZeroWindow,
    /// A setting out of its range.
    #[error("{name} is {value}, not {range}")]
    Range {
        /// Which.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// More packets than may be held at once.
    #[error("more than {limit} packets: netml's flows are made from all packets at once")]
    TooManyPackets {
        /// The limit.
        limit: usize,
    },
    /// A stored profile that lacks an entry or has one that cannot be read.
    #[error("the stored profile has no usable `{name}`")]
    Profile {
        /// Its name.
        name: &'static str,
    },
    /// The label file lacks a column.
    #[error("the label file has no column `{name}`")]
    LabelColumn {
        /// Its name.
        name: &'static str,
    },
    /// A line of the label file that cannot be read.
    #[error("line {line} of the label file: {reason}")]
    LabelLine {
        /// From 1, with the header.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// What a row is made of. It is stored with a model, so that rows made later mean the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Representation.
    pub kind: Kind,
    /// Real part of the discrete Fourier transform instead of the vector itself.
    pub fft: bool,
    /// Put counts of TCP flags and the times to live before the vector.
    pub header: bool,
    /// Dimension base D0 in packets; [`Kind::columns`] tells what becomes of it. At least 2.
    pub base: usize,
    /// Length of a window of the samp kinds, seconds; above 0.
    pub window_s: f64,
}

impl Shape {
    /// Columns of the vector without header.
    pub fn vector_columns(&self) -> usize {
        self.kind.columns(self.base)
    }

    /// Columns of a row.
    pub fn columns(&self) -> usize {
        let vector = self.vector_columns();
        if self.header { 8 + 2 * vector } else { vector }
    }

    /// Names of the columns.
    pub fn names(&self) -> Vec<String> {
        let n = self.vector_columns();
        let mut names = Vec::with_capacity(self.columns());
        if self.header {
            names.extend(header::names(8 + n, self.fft));
        }
        match (self.fft, self.kind) {
            (true, kind) => {
                names.extend((0..n).map(|i| format!("{}_bin{i}", kind.name().replace('-', "_"))))
            }
            (false, Kind::Stats) => names.extend(stats::NAMES.iter().map(|&s| s.to_owned())),
            (false, Kind::Iat) => names.extend((0..n).map(|i| format!("iat{i}_s"))),
            (false, Kind::Size) => names.extend((0..n).map(|i| format!("size{i}_bytes"))),
            (false, Kind::IatSize) => names.extend((0..n).map(|i| {
                if i % 2 == 0 && i + 1 < n {
                    format!("iat{}_s", i / 2)
                } else {
                    format!("size{}_bytes", i / 2)
                }
            })),
            (false, Kind::SampNum) => names.extend((0..n).map(|i| format!("window{i}_packets"))),
            (false, Kind::SampSize) => names.extend((0..n).map(|i| format!("window{i}_bytes"))),
        }
        names
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`FeatureError::Range`].
    pub fn check(&self) -> Result<(), FeatureError> {
        if self.base < 2 || self.columns() > MAX_COLUMNS {
            return Err(FeatureError::Range {
                name: "the dimension base",
                value: self.base as f64,
                range: "at least 2 and small enough for 65,536 columns",
            });
        }
        if !(self.window_s.is_finite() && self.window_s >= 0.0) {
            return Err(FeatureError::Range {
                name: "the sampling window",
                value: self.window_s,
                range: "a number of seconds",
            });
        }
        Ok(())
    }

    /// Appends the row of one flow to `out`: [`Shape::columns`] numbers. Longer vectors are cut, shorter ones get zeros
    /// on the right; with `fft` both happen before the transform.
    ///
    /// # Errors
    /// [`FeatureError::NoHeader`] and [`FeatureError::ZeroWindow`]; then nothing was appended.
    pub fn row(&self, flow: &Sequence<'_>, out: &mut Vec<f64>) -> Result<(), FeatureError> {
        let columns = self.vector_columns();
        let mut raw = Vec::new();
        match self.kind {
            Kind::Iat => iat::vector(flow, columns, &mut raw),
            Kind::Size => size::vector(flow, columns, &mut raw),
            Kind::IatSize => size::interleaved(flow, columns, &mut raw),
            Kind::Stats => raw.extend(stats::vector(flow)),
            Kind::SampNum => samples::vector(flow, samples::Of::Packets, self.window_s, &mut raw)?,
            Kind::SampSize => samples::vector(flow, samples::Of::Bytes, self.window_s, &mut raw)?,
        }
        if self.header {
            let block = header::vector(flow, 8 + columns)?;
            self.finish(&block, 8 + columns, out);
        }
        self.finish(&raw, columns, out);
        Ok(())
    }

    fn finish(&self, raw: &[f64], columns: usize, out: &mut Vec<f64>) {
        let raw = &raw[..raw.len().min(columns)];
        if self.fft {
            spectrum::real_part(raw, columns, out);
        } else {
            out.extend_from_slice(raw);
            out.extend(std::iter::repeat_n(0.0, columns - raw.len()));
        }
    }
}

/// Rows of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Numbers in a row.
    pub columns: usize,
    /// `rows x columns`, row after row.
    pub values: Vec<f64>,
}

impl Matrix {
    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    /// One row; empty when there is none of that number.
    pub fn row(&self, index: usize) -> &[f64] {
        let start = index * self.columns;
        self.values.get(start..start + self.columns).unwrap_or(&[])
    }
}

/// Quantile with linear interpolation between the two neighbours at index `(n - 1) q`; `None` of nothing.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = last as f64 * q.clamp(0.0, 1.0);
    let below = (at.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let (a, b) = (sorted[below], sorted[above]);
    let t = at - below as f64;
    // From the nearer end, so that both ends are exact.
    Some(if t >= 0.5 {
        b - (b - a) * (1.0 - t)
    } else {
        a + (b - a) * t
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> ([f64; 4], [f64; 4], [u8; 4], [u8; 4]) {
        (
            [0.0, 0.5, 0.75, 3.0],
            [60.0, 100.0, 60.0, 200.0],
            [2, 16, 24, 17],
            [64; 4],
        )
    }

    #[test]
    fn rows_have_the_columns_they_announce() {
        let (at, bytes, flags, ttl) = flow();
        let sequence = Sequence {
            at: &at,
            bytes: &bytes,
            flags: &flags,
            ttl: &ttl,
            headless: 0,
        };
        for kind in Kind::ALL {
            for base in [2, 3, 4, 9] {
                for (fft, header) in [(false, false), (true, false), (false, true), (true, true)] {
                    let shape = Shape {
                        kind,
                        fft,
                        header,
                        base,
                        window_s: 0.4,
                    };
                    let mut row = Vec::new();
                    shape.row(&sequence, &mut row).unwrap();
                    assert_eq!(row.len(), shape.columns(), "{shape:?}");
                    assert_eq!(shape.names().len(), shape.columns(), "{shape:?}");
                    assert!(row.iter().all(|v| v.is_finite()));
                }
            }
        }
    }

    #[test]
    fn vectors_are_those_of_the_definition() {
        let (at, bytes, flags, ttl) = flow();
        let sequence = Sequence {
            at: &at,
            bytes: &bytes,
            flags: &flags,
            ttl: &ttl,
            headless: 0,
        };
        let row = |kind, base| {
            let mut out = Vec::new();
            let shape = Shape {
                kind,
                fft: false,
                header: false,
                base,
                window_s: 0.5,
            };
            shape.row(&sequence, &mut out).unwrap();
            out
        };
        assert_eq!(row(Kind::Iat, 4), [0.5, 0.25, 2.25]);
        assert_eq!(row(Kind::Iat, 6), [0.5, 0.25, 2.25, 0.0, 0.0]);
        assert_eq!(row(Kind::Size, 3), [60.0, 100.0, 60.0]);
        assert_eq!(
            row(Kind::IatSize, 4),
            [0.5, 60.0, 0.25, 100.0, 2.25, 60.0, 200.0]
        );
        assert_eq!(row(Kind::SampNum, 6), [2.0, 1.0, 0.0, 0.0, 0.0]);
        let stats = row(Kind::Stats, 4);
        assert_eq!(stats[..4], [3.0, 4.0 / 3.0, 140.0, 105.0]);
        assert_eq!(stats[5..], [60.0, 80.0, 125.0, 60.0, 200.0, 4.0, 420.0]);
    }

    #[test]
    fn names_are_read_in_either_spelling() {
        assert_eq!("IAT_SIZE".parse(), Ok(Kind::IatSize));
        assert_eq!("samp-num".parse(), Ok(Kind::SampNum));
        assert!("fft".parse::<Kind>().is_err());
    }

    #[test]
    fn quantile_interpolates() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0], 0.9), Some(3.0));
        assert_eq!(quantile(&[1.0, 2.0], 0.25), Some(1.25));
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 1.0), Some(4.0));
    }
}
