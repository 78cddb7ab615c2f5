//! Questions on the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use chaff_privacy::{Epsilon, Percent};
use clap::{Args, Subcommand, ValueEnum};

use crate::flows::{Direction, Format};
use crate::request::{
    Clamp, Filter, Matching, Measure, Name, Network, Request, Statistic, UnitKey, even_edges, range,
};

/// What all questions take.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// Flow logs: files, or folders with files below them. Text packed with gzip or not, nfdump's JSON, Parquet.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub(super) data: Vec<PathBuf>,
    /// What the logs are [default: what their first bytes say].
    #[arg(long, value_enum)]
    pub(super) format: Option<Format>,
    /// Whose flows: opened by the protected side, or towards it.
    #[arg(long, value_enum, default_value = "outgoing")]
    direction: Direction,
    /// Networks of the protected side, for logs that do not say whose flow it is. Example: --home 10.0.0.0/8 2001:db8::/32
    #[arg(long, num_args = 1.., value_name = "NETWORK")]
    home: Vec<Network>,
    /// What is protected.
    #[arg(long, value_enum, default_value = "address")]
    unit: UnitKey,
    /// Lines of address,group, for --unit listed.
    #[arg(long, value_name = "FILE")]
    pub(super) units: Option<PathBuf>,
    /// Prefixes of autonomous systems: pyasn's file, an mmdb, an MRT dump.
    #[arg(long, value_name = "FILE")]
    pub(super) asn_db: Option<PathBuf>,
    /// The budget that pays.
    #[arg(long, value_name = "FILE")]
    pub(super) ledger: Option<PathBuf>,
    /// What the answer may cost.
    #[arg(long, value_name = "E")]
    epsilon: Epsilon,
    /// Threads [default: one for each processor].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(super) threads: usize,
    /// Answers as soon as it can: how long that takes may depend on the data.
    #[arg(long)]
    pub(super) prompt_time: bool,
    /// Where to say that the engine failed: whoever asks is not told.
    #[arg(long, value_name = "FILE")]
    pub(super) owner_log: Option<PathBuf>,
    /// For `plan` of means: a guess of how many units have a value.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(super) assume_units: u64,
    /// Also draws the answer, with its 95 % intervals: histograms, user-count, top-domains.
    #[arg(long, value_name = "FILE.svg")]
    pub(super) picture: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What is counted of a unit's flows.
#[derive(Args, Debug)]
pub(super) struct Volume {
    /// Bytes in which direction, seen from the protected side.
    #[arg(long, value_enum, default_value = "ingoing")]
    volume: Direction,
    /// Counts flows and not bytes.
    #[arg(long)]
    flows: bool,
}

/// The clamp of a sum.
#[derive(Args, Debug)]
pub(super) struct Bounds {
    /// What one unit may contribute: LO..HI, chosen without looking at the data, or `paid`: found for 20 % of epsilon.
    #[arg(long, value_name = "LO..HI", allow_hyphen_values = true)]
    bounds: Clamp,
}

#[derive(Args, Debug)]
pub(super) struct Chosen {
    /// Only flows with this address on the other side.
    #[arg(long)]
    ip: Option<IpAddr>,
    /// Only flows with an address of this autonomous system on the other side.
    #[arg(long)]
    asn: Option<u32>,
    /// Only flows with this server name.
    #[arg(long)]
    domain: Option<String>,
    #[command(flatten)]
    case: Case,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Case {
    /// Upper and lower case of server names are the same.
    #[arg(long)]
    ignore_case: bool,
}

#[derive(Args, Debug)]
pub(super) struct Bins {
    /// Edges are evenly spaced here; values outside are left out.
    #[arg(long, value_name = "LO..HI", value_parser = range, allow_hyphen_values = true, required_unless_present = "edges")]
    range: Option<(f64, f64)>,
    /// How many bins there.
    #[arg(long, default_value_t = 10)]
    bins: usize,
    /// Edges one by one instead.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "E,E,...",
        conflicts_with = "range",
        allow_hyphen_values = true
    )]
    edges: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Metric {
    Mean,
    Std,
    Percentile,
    Histogram,
}

/// A question.
#[derive(Subcommand, Debug)]
pub(super) enum Action {
    /// Bytes or flows exchanged with an address.
    VolumeOnIp {
        /// The address on the other side.
        #[arg(long)]
        ip: IpAddr,
        #[command(flatten)]
        volume: Volume,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        common: Common,
    },
    /// Bytes or flows exchanged with an autonomous system.
    VolumeOnAsn {
        /// Its number.
        #[arg(long)]
        asn: u32,
        #[command(flatten)]
        volume: Volume,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        common: Common,
    },
    /// Bytes or flows exchanged with a server name.
    VolumeOnDomain {
        /// The name.
        #[arg(long)]
        domain: String,
        /// And the names below it.
        #[arg(long)]
        subdomains: bool,
        #[command(flatten)]
        case: Case,
        #[command(flatten)]
        volume: Volume,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        common: Common,
    },
    /// Bytes or flows exchanged with server names that fit a pattern.
    VolumeOnDomainPattern {
        /// `%` is any text, `_` one letter; `\%`, `\_` and `\\` are those signs themselves.
        #[arg(long)]
        pattern: String,
        #[command(flatten)]
        case: Case,
        #[command(flatten)]
        volume: Volume,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        common: Common,
    },
    /// How many units have how many bytes or flows.
    VolumeHistogram {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        volume: Volume,
        #[command(flatten)]
        bins: Bins,
        #[command(flatten)]
        common: Common,
    },
    /// Statistics over units of each unit's mean of a column.
    FlowFeature {
        /// The column, for example c_rtt_avg.
        #[arg(long)]
        feature: String,
        /// What is told of the units' means.
        #[arg(long, value_enum)]
        metric: Metric,
        /// Which percentile.
        #[arg(long, default_value_t = 50.0)]
        percent: f64,
        /// Evenly spaced values within --bounds of which a percentile is one.
        #[arg(long, default_value_t = 200)]
        candidates: usize,
        /// What one unit's mean may be: LO..HI, chosen without looking at the data, or `paid`. Not for histograms.
        #[arg(long, value_name = "LO..HI", allow_hyphen_values = true)]
        bounds: Option<Clamp>,
        /// For histograms: edges are evenly spaced here.
        #[arg(long, value_name = "LO..HI", value_parser = range, allow_hyphen_values = true)]
        range: Option<(f64, f64)>,
        /// For histograms: how many bins.
        #[arg(long, default_value_t = 10)]
        bins: usize,
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        common: Common,
    },
    /// How many units have a flow of a kind, and how many none.
    UserCount {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        common: Common,
    },
    /// Server names that many units have, without naming them beforehand.
    TopDomains {
        /// What it may cost besides epsilon: the chance that a name of a single unit shows.
        #[arg(long, value_name = "D")]
        delta: f64,
        /// Names that one unit counts for at most: those it has most flows with. More of them, more noise.
        #[arg(long, default_value_t = 1)]
        per_unit: usize,
        /// Names to show.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        common: Common,
    },
}

impl Action {
    pub(super) fn common(&self) -> &Common {
        match self {
            Self::VolumeOnIp { common, .. }
            | Self::VolumeOnAsn { common, .. }
            | Self::VolumeOnDomain { common, .. }
            | Self::VolumeOnDomainPattern { common, .. }
            | Self::VolumeHistogram { common, .. }
            | Self::FlowFeature { common, .. }
            | Self::UserCount { common, .. }
            | Self::TopDomains { common, .. } => common,
        }
    }

    /// The question without its files.
    pub(super) fn request(&self) -> Result<Request, String> {
        let volume = |v: &Volume| {
            if v.flows {
                Measure::Flows
            } else {
                Measure::Bytes(v.volume)
            }
        };
        let sum = |bounds: &Bounds| Statistic::Sum {
            bounds: bounds.bounds,
        };
        let named = |matching, case: &Case| Filter {
            name: Some(Name {
                matching,
                ignore_case: case.ignore_case,
            }),
            ..Filter::default()
        };
        let mut delta = None;
        let (filter, measure, statistic) = match self {
            Self::VolumeOnIp {
                ip,
                volume: v,
                bounds,
                ..
            } => (
                Filter {
                    ip: Some(*ip),
                    ..Filter::default()
                },
                volume(v),
                sum(bounds),
            ),
            Self::VolumeOnAsn {
                asn,
                volume: v,
                bounds,
                ..
            } => (
                Filter {
                    asn: Some(*asn),
                    ..Filter::default()
                },
                volume(v),
                sum(bounds),
            ),
            Self::VolumeOnDomain {
                domain,
                subdomains,
                case,
                volume: v,
                bounds,
                ..
            } => {
                let matching = if *subdomains {
                    Matching::Subdomains(domain.clone())
                } else {
                    Matching::Domain(domain.clone())
                };
                (named(matching, case), volume(v), sum(bounds))
            }
            Self::VolumeOnDomainPattern {
                pattern,
                case,
                volume: v,
                bounds,
                ..
            } => (
                named(Matching::Pattern(pattern.clone()), case),
                volume(v),
                sum(bounds),
            ),
            Self::VolumeHistogram {
                chosen,
                volume: v,
                bins,
                ..
            } => (
                chosen.filter(),
                volume(v),
                Statistic::Histogram {
                    edges: bins.edges()?,
                },
            ),
            Self::FlowFeature {
                feature, chosen, ..
            } => (
                chosen.filter(),
                Measure::Mean(feature.clone()),
                self.statistic_of_feature()?,
            ),
            Self::UserCount { chosen, .. } => (chosen.filter(), Measure::Any, Statistic::Count),
            Self::TopDomains {
                delta: d,
                per_unit,
                limit,
                ..
            } => {
                delta = Some(*d);
                let statistic = Statistic::Top {
                    per_unit: *per_unit,
                    limit: *limit,
                };
                (Filter::default(), Measure::Names, statistic)
            }
        };
        let common = self.common();
        Ok(Request {
            direction: common.direction,
            home: common.home.clone(),
            unit: common.unit,
            filter,
            measure,
            statistic,
            epsilon: common.epsilon,
            delta,
        })
    }

    fn statistic_of_feature(&self) -> Result<Statistic, String> {
        let Self::FlowFeature {
            metric,
            percent,
            candidates,
            bounds,
            range,
            bins,
            ..
        } = self
        else {
            return Err("no feature".to_owned());
        };
        let is_histogram = *metric == Metric::Histogram;
        if is_histogram && bounds.is_some() {
            return Err("--bounds: a histogram has none, but --range".to_owned());
        }
        if !is_histogram && range.is_some() {
            return Err("--range: is for histograms; say --bounds".to_owned());
        }
        let bounded = || {
            bounds.ok_or("--bounds LO..HI is missing: it is never taken from the data".to_owned())
        };
        Ok(match metric {
            Metric::Mean => Statistic::Mean { bounds: bounded()? },
            Metric::Std => Statistic::Deviation { bounds: bounded()? },
            Metric::Percentile => Statistic::Percentile {
                percent: Percent::new(*percent)
                    .ok_or(format!("--percent {percent}: must be 0 to 100"))?,
                bounds: bounded()?,
                candidates: *candidates,
            },
            Metric::Histogram => {
                let (low, high) = range.ok_or(
                    "--range LO..HI is missing: it is never taken from the data".to_owned(),
                )?;
                Statistic::Histogram {
                    edges: even(low, high, *bins)?,
                }
            }
        })
    }
}

impl Chosen {
    fn filter(&self) -> Filter {
        Filter {
            ip: self.ip,
            asn: self.asn,
            name: self.domain.as_ref().map(|domain| Name {
                matching: Matching::Domain(domain.clone()),
                ignore_case: self.case.ignore_case,
            }),
        }
    }
}

impl Bins {
    fn edges(&self) -> Result<Vec<f64>, String> {
        match self.range {
            Some((low, high)) => even(low, high, self.bins),
            None => Ok(self.edges.clone()),
        }
    }
}

fn even(low: f64, high: f64, bins: usize) -> Result<Vec<f64>, String> {
    if !(1..=crate::request::MOST).contains(&bins) {
        return Err(format!(
            "--bins {bins}: must be 1 to {}",
            crate::request::MOST
        ));
    }
    Ok(even_edges(low, high, bins))
}
