//! What can be asked. A request is public: it is written to the ledger and is part of every answer.

use std::net::IpAddr;

use chaff_flow::nearest;
use chaff_privacy::{Epsilon, Percent};
use serde::{Deserialize, Serialize, Serializer};

use crate::flows::{Direction, Format, Kind};

/// One question, complete: with the same data it has one answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// Which flows count at all.
    pub direction: Direction,
    /// Home networks, when they and not the log say whose flow it is: `address/length`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub home: Vec<Network>,
    /// What is protected.
    pub unit: UnitKey,
    /// Which of the flows are counted.
    pub filter: Filter,
    /// What is counted of each unit.
    pub measure: Measure,
    /// What is told of the units.
    pub statistic: Statistic,
    /// What it may cost.
    pub epsilon: Epsilon,
    /// As well, for keys that are not known beforehand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
}

/// What stands for a user: all flows with the same key are protected together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum UnitKey {
    /// An address.
    #[default]
    Address,
    /// An IPv4 address or an IPv6 network of 64 bits: privacy addresses of one host are one unit.
    Network,
    /// A MAC address; Chaff's records only.
    Mac,
    /// A group that a file names for the address; an address that is not in it stands for itself.
    Listed,
}

impl UnitKey {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "one address",
            Self::Network => "one IPv4 address or IPv6 /64",
            Self::Mac => "one MAC address",
            Self::Listed => "one group of addresses",
        }
    }
}

/// An address and the length of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub first: IpAddr,
    /// Its last one.
    pub last: IpAddr,
    length: u8,
}

impl Network {
    /// The network of that length around an address; `None` when the length is too large.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        match address {
            IpAddr::V4(a) => {
                let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
                (length <= 32).then(|| Self {
                    first: IpAddr::V4((u32::from(a) & !host).into()),
                    last: IpAddr::V4((u32::from(a) | host).into()),
                    length,
                })
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
                (length <= 128).then(|| Self {
                    first: IpAddr::V6((u128::from(a) & !host).into()),
                    last: IpAddr::V6((u128::from(a) | host).into()),
                    length,
                })
            }
        }
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// Length of its prefix.
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl std::str::FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: a network is written address/length, for example 10.0.0.0/8");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length = length.parse().map_err(|_| bad())?;
        Self::new(address, length).ok_or_else(bad)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}/{}", self.first, self.length))
    }
}

/// Which flows count; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// Address of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Number of the autonomous system of the other side's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// Server name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

impl Filter {
    /// Whether all flows count.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How server names are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Which names.
    #[serde(flatten)]
    pub matching: Matching,
    /// Whether upper and lower case are the same.
    pub ignore_case: bool,
}

/// Which names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matching {
    /// This one.
    Domain(String),
    /// This one and those that end in a point and this one.
    Subdomains(String),
    /// `%` stands for any text, `_` for one letter, `\` makes the next one of `%`, `_` and `\` stand for itself.
    Pattern(String),
}

/// What is counted of a unit's flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Sum of bytes in this direction, seen from the protected side.
    Bytes(Direction),
    /// Number of flows.
    Flows,
    /// Mean of a column; nothing when the unit has no flow with a value.
    Mean(String),
    /// Whether there is a flow.
    Any,
    /// Server names with numbers of flows.
    Names,
}

/// What is told of the units' numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Their sum.
    Sum {
        /// What one unit may contribute.
        bounds: Clamp,
    },
    /// Their mean.
    Mean {
        /// What one unit may contribute.
        bounds: Clamp,
    },
    /// Their standard deviation, divided by n.
    Deviation {
        /// What one unit may contribute.
        bounds: Clamp,
    },
    /// One of them that a share of the others is below.
    Percentile {
        /// The share.
        #[serde(serialize_with = "as_number")]
        percent: Percent,
        /// Where to look.
        bounds: Clamp,
        /// How many evenly spaced values there.
        candidates: usize,
    },
    /// How many lie between two edges, the last bin with its upper edge; those outside all bins are left out.
    Histogram {
        /// Edges in ascending order, at least two.
        edges: Vec<f64>,
    },
    /// How many do not, and do, have a flow.
    Count,
    /// Server names that many units have.
    Top {
        /// Most names that one unit counts for.
        per_unit: usize,
        /// Most names to show.
        limit: usize,
    },
}

fn as_number<S: Serializer>(percent: &Percent, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(percent.value())
}

/// What one unit may contribute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Clamp {
    /// Between these, chosen without looking at the data.
    Public(f64, f64),
    /// Found in the data for a part of ε: see [`crate::release::BOUNDS_SHARE`].
    Paid,
}

impl std::str::FromStr for Clamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "paid" {
            return Ok(Self::Paid);
        }
        let (low, high) = range(text)?;
        Ok(Self::Public(low, high))
    }
}

/// Reads `LO..HI`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn range(text: &str) -> Result<(f64, f64), String> {
    let bad =
        || format!("{text}: write LO..HI, two numbers with LO below HI, for example 0..1000000");
    let (low, high) = text.split_once("..").ok_or_else(bad)?;
    let number = |t: &str| t.trim().parse::<f64>().ok().filter(|v| v.is_finite());
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low < high => Ok((low, high)),
        _ => Err(bad()),
    }
}

/// `bins` bins of equal width: the edges that `numpy.linspace` makes.
pub fn even_edges(low: f64, high: f64, bins: usize) -> Vec<f64> {
    let step = (high - low) / bins as f64;
    let mut edges: Vec<f64> = (0..=bins).map(|i| i as f64 * step + low).collect();
    edges[bins] = high;
    edges
}

/// Most bins of a histogram, candidates of a percentile, names of one unit.
pub const MOST: usize = 100_000;

impl Request {
    /// The columns that the answer needs.
    pub fn columns(&self, format: Format) -> Vec<String> {
        let roles = format.roles();
        let (user, peer) = self.sides(format);
        let mut columns = vec![user.to_owned()];
        if self.needs_peer() {
            columns.push(peer.to_owned());
        }
        if self.home.is_empty() {
            columns.extend(roles.labels.iter().map(|c| (*c).to_owned()));
        }
        if self.unit == UnitKey::Mac {
            columns.extend(self.mac_column(format).map(str::to_owned));
        }
        if self.filter.name.is_some() || self.measure == Measure::Names {
            columns.extend(roles.domain.map(str::to_owned));
        }
        match &self.measure {
            Measure::Bytes(_) => columns.push(self.bytes_column(format).to_owned()),
            Measure::Mean(column) => columns.push(column.clone()),
            Measure::Flows | Measure::Any | Measure::Names => {}
        }
        columns.sort();
        columns.dedup();
        columns
    }

    /// Columns of the user's address and of the other side's.
    pub fn sides(&self, format: Format) -> (&'static str, &'static str) {
        let roles = format.roles();
        match self.direction {
            Direction::Outgoing => (roles.client, roles.server),
            Direction::Ingoing => (roles.server, roles.client),
        }
    }

    /// Whether the other side's address matters.
    pub fn needs_peer(&self) -> bool {
        !self.home.is_empty() || self.filter.ip.is_some() || self.filter.asn.is_some()
    }

    /// Column of the user's MAC address.
    pub fn mac_column(&self, format: Format) -> Option<&'static str> {
        let [client, server] = format.roles().macs?;
        Some(match self.direction {
            Direction::Outgoing => client,
            Direction::Ingoing => server,
        })
    }

    /// Bytes in a direction seen from the protected side: in its own flows the outgoing ones come from the client, in those
    /// towards it the ingoing ones.
    pub fn bytes_column(&self, format: Format) -> &'static str {
        let roles = format.roles();
        match self.measure {
            Measure::Bytes(direction) if direction == self.direction => roles.client_bytes,
            _ => roles.server_bytes,
        }
    }

    /// Checks what can be checked without the data's content.
    ///
    /// # Errors
    /// One sentence that names the option, the value and what is allowed.
    pub fn check(&self, format: Format) -> Result<(), String> {
        if self.epsilon.nanos() < 1000 {
            return Err(format!(
                "--epsilon {}: must be at least 0.000001",
                self.epsilon
            ));
        }
        if self.unit == UnitKey::Mac && format.roles().macs.is_none() {
            return Err(format!(
                "--unit mac: {} logs have no MAC addresses",
                format.name()
            ));
        }
        if let Measure::Mean(column) = &self.measure {
            check_feature(format, column)?;
        }
        match &self.statistic {
            Statistic::Sum { bounds }
            | Statistic::Mean { bounds }
            | Statistic::Deviation { bounds } => check_clamp(*bounds)?,
            Statistic::Percentile {
                bounds, candidates, ..
            } => {
                check_clamp(*bounds)?;
                if !(2..=MOST).contains(candidates) {
                    return Err(format!("--candidates {candidates}: must be 2 to {MOST}"));
                }
            }
            Statistic::Histogram { edges } => check_edges(edges)?,
            Statistic::Count => {}
            Statistic::Top { per_unit, .. } => {
                if !(1..=MOST).contains(per_unit) {
                    return Err(format!("--per-unit {per_unit}: must be 1 to {MOST}"));
                }
                if !self.delta.is_some_and(|d| d > 0.0 && d < 1.0) {
                    return Err("--delta: must be above 0 and below 1".to_owned());
                }
            }
        }
        Ok(())
    }
}

fn check_clamp(bounds: Clamp) -> Result<(), String> {
    // 2^52 whole steps is what noise is exact for.
    let most = (1u64 << 52) as f64;
    match bounds {
        Clamp::Public(low, high) if low.abs() > most || high.abs() > most => {
            Err(format!("--bounds {low}..{high}: must be within 2^52 of 0"))
        }
        _ => Ok(()),
    }
}

fn check_edges(edges: &[f64]) -> Result<(), String> {
    let rising = edges.windows(2).all(|w| w[0] < w[1]) && edges.iter().all(|e| e.is_finite());
    if edges.len() < 2 || edges.len() > MOST + 1 || !rising {
        return Err(format!(
            "--edges: 2 to {} numbers, each above the one before",
            MOST + 1
        ));
    }
    Ok(())
}

fn check_feature(format: Format, name: &str) -> Result<(), String> {
    let features = || {
        format.columns().iter().filter(|c| {
            matches!(c.kind, Kind::Integer | Kind::Float)
                && !format.roles().labels.contains(&c.name)
        })
    };
    if features().any(|c| c.name == name) {
        return Ok(());
    }
    let guess = nearest(name, features().map(|c| c.name));
    Err(format!(
        "--feature {name}: {} logs have no such number{}",
        format.name(),
        guess.map_or(String::new(), |g| format!(", did you mean {g}?"))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_only() {
        let home: Network = "10.20.1.7/16".parse().unwrap();
        assert!(home.contains("10.20.255.255".parse().unwrap()));
        assert!(!home.contains("10.21.0.0".parse().unwrap()));
        assert!(!home.contains("::1".parse().unwrap()));
        assert_eq!(serde_json::to_string(&home).unwrap(), "\"10.20.0.0/16\"");
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn edges_are_those_of_numpy() {
        assert_eq!(
            even_edges(2012.0, 9_000_913_354.0, 10)[3],
            2_700_275_414.6000004
        );
        assert_eq!(even_edges(-0.5, 0.5, 10)[10], 0.5);
    }

    #[test]
    fn ranges_are_two_numbers_in_order() {
        assert_eq!(range("0..1e6"), Ok((0.0, 1e6)));
        assert_eq!("-2..3".parse::<Clamp>(), Ok(Clamp::Public(-2.0, 3.0)));
        assert_eq!("paid".parse::<Clamp>(), Ok(Clamp::Paid));
        for bad in ["", "1", "3..2", "1..1", "0..inf", "a..b", "0..NaN"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
