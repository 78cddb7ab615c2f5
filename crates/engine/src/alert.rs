//! What an alert says.

use std::fmt;
use std::net::IpAddr;

use chaff_abi::Nanos;
use serde::{Deserialize, Serialize};

use crate::event::Seconds;

/// Settings of the alerts.
#[derive(Clone, Debug)]
pub struct AlertConfig {
    /// Time after a device is first seen during which nothing is reported.
    pub learn: Nanos,
    /// How rare something must be to be reported: minus the natural logarithm of its probability in a window of
    /// [`AlertConfig::interval`], 5 to 40.
    pub threshold: f64,
    /// The same thing is not reported again for this long, unless it becomes 20 times rarer.
    pub repeat: Nanos,
    /// Alerts of a device in an hour at most; further ones are counted.
    pub hourly: u32,
    /// Time between two alerts of low severity of a device at least.
    pub low_every: Nanos,
    /// Length of the short window; the long one is 30 times as long.
    pub interval: Nanos,
    /// How many times more than what was usual before an amount must be at least.
    pub rate_factor: f64,
    /// Amounts of bytes in a short window below this never alert.
    pub rate_floor_bytes: u64,
    /// Peers remembered per device, about 100 bytes each.
    pub max_peers: usize,
    /// Peers per device whose contacts are followed one by one, about 300 bytes each.
    pub max_channels: usize,
    /// Flows per device of which it is known whether anything came back, about 120 bytes each.
    pub max_flows: usize,
    /// Changes of flows per device and second that are looked at one by one; of further ones only packets and bytes are
    /// counted.
    pub max_changes: u32,
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            learn: Nanos::from_secs(3_600),
            threshold: 10.0,
            repeat: Nanos::from_secs(1_800),
            hourly: 10,
            low_every: Nanos::from_secs(24 * 3_600),
            interval: Nanos::from_secs(10),
            rate_factor: 3.0,
            rate_floor_bytes: 100_000,
            max_peers: 1_024,
            max_channels: 256,
            max_flows: 1_024,
            max_changes: 5_000,
        }
    }
}

/// How much an alert matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth a look soon.
    Medium,
    /// Looks like an attack.
    High,
}

/// Which way bytes went, seen from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// From the device.
    Sent,
    /// To the device.
    Received,
}

/// What was new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Novelty {
    /// The device had a connection that is strange for it, with a peer that is not in its history.
    Destination {
        /// Peer address.
        address: IpAddr,
        /// Peer port, 0 for protocols without ports.
        port: u16,
        /// IP protocol number.
        protocol: u8,
        /// Peers known before.
        known_peers: usize,
        /// IP bytes sent and received.
        bytes: [u64; 2],
        /// How long it lasted, seconds.
        duration_s: f64,
    },
    /// The device tried far more addresses or ports than usual, or far more attempts failed: a scan.
    ManyDestinations {
        /// New peers beyond those that are learnt one by one.
        unreported: u64,
        /// Length of the interval, seconds.
        interval_s: f64,
        /// Connections it opened.
        flows: u64,
        /// Different addresses it opened them to, an estimate.
        addresses: u64,
        /// Different ports it opened them to, an estimate.
        ports: u64,
        /// Connections nothing came back on but refusals.
        fruitless: u64,
    },
    /// The device moved far more bytes or packets in an interval than usual.
    Rate {
        /// IP bytes in the interval, [`Novelty::Rate::way`] only.
        bytes: u64,
        /// Busiest interval before, bytes; to 28 %.
        busiest_before: u64,
        /// Length of the interval, seconds.
        interval_s: f64,
        /// Which way.
        way: Way,
        /// Packets in the interval, the same way.
        packets: u64,
        /// The peer with most of the bytes it sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// The device calls a peer that is not in its history again and again, as if by a clock: what malware does that waits for
    /// orders.
    Beacon {
        /// Peer address.
        address: IpAddr,
        /// Peer port, 0 for protocols without ports.
        port: u16,
        /// IP protocol number.
        protocol: u8,
        /// Usual time between two calls, seconds.
        period_s: f64,
        /// Largest deviation from it, as a share.
        jitter: f64,
        /// Calls so far.
        calls: u64,
    },
    /// The device sent far more to name servers than usual: what a tunnel through DNS does.
    Names {
        /// IP bytes sent to port 53 in the interval.
        bytes: u64,
        /// Most in an interval before, bytes; to 28 %.
        busiest_before: u64,
        /// Length of the interval, seconds.
        interval_s: f64,
    },
}

/// One number that makes something unusual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was measured.
    pub feature: String,
    /// Its value.
    pub value: f64,
    /// Half of what was seen before is not above this.
    pub usual_median: f64,
    /// 99 of 100 of what was seen before are not above this.
    pub usual_high: f64,
    /// How rare the value is, nats.
    pub surprise: f64,
}

/// A local alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// When, on the clock of the gateway's input.
    pub at: Seconds,
    /// The device.
    pub device: String,
    /// What was new.
    #[serde(flatten)]
    pub novelty: Novelty,
    /// Names this alert, for [`crate::Gateway::accept`].
    pub id: u64,
    /// How much it matters.
    pub severity: Severity,
    /// What is unusual, in one sentence.
    pub summary: String,
    /// How rare it is: minus the natural logarithm of its probability.
    pub score: f64,
    /// Why it is unusual, the rarest first.
    pub evidence: Vec<Evidence>,
    /// The same thing happened so many times since it was last reported.
    pub suppressed: u64,
}

impl Novelty {
    /// The name in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Destination { .. } => "destination",
            Self::ManyDestinations { .. } => "many_destinations",
            Self::Rate { .. } => "rate",
            Self::Beacon { .. } => "beacon",
            Self::Names { .. } => "names",
        }
    }

    /// What is unusual, in one sentence; `usual` is what the device did at most before, in the unit of the main number.
    pub(crate) fn sentence(&self, device: &str, usual: f64) -> String {
        let at_most = |what: String| {
            if usual > 0.0 {
                format!("usually it is at most {what}")
            } else {
                "it usually does nothing of the kind".to_owned()
            }
        };
        match self {
            Self::Destination {
                address,
                port,
                protocol,
                bytes,
                duration_s,
                ..
            } => format!(
                "{device} had an unusual connection to {}, which it never talked to before: {} sent, {} received in {}.",
                Peer(*address, *port, *protocol),
                Amount(bytes[0]),
                Amount(bytes[1]),
                Span(*duration_s)
            ),
            Self::ManyDestinations {
                interval_s,
                flows,
                addresses,
                ports,
                fruitless,
                ..
            } => {
                let what = if addresses >= ports && *addresses > 1 {
                    format!("{addresses} addresses")
                } else if *ports > 1 {
                    format!("{ports} ports")
                } else {
                    format!("{flows} connections")
                };
                let failed = match (*fruitless, *flows) {
                    (0, _) => String::new(),
                    (n, all) if n >= all => ", all without success".to_owned(),
                    (n, all) => format!(", {n} of {all} connections without success"),
                };
                let usual = at_most(format!("{}", usual.round()));
                format!(
                    "{device} tried {what} within {}{failed}; {usual}.",
                    Span(*interval_s)
                )
            }
            Self::Rate {
                bytes,
                interval_s,
                way,
                address,
                ..
            } => {
                let verb = match way {
                    Way::Sent => "sent",
                    Way::Received => "received",
                };
                let to = match address {
                    Some(a) => format!(", most of it to {a}"),
                    None => String::new(),
                };
                let usual = at_most(Amount(usual as u64).to_string());
                format!(
                    "{device} {verb} {} within {}{to}; {usual}.",
                    Amount(*bytes),
                    Span(*interval_s)
                )
            }
            Self::Beacon {
                address,
                port,
                protocol,
                period_s,
                calls,
                ..
            } => format!(
                "{device} calls {} every {}, {calls} times so far, and never talked to it before.",
                Peer(*address, *port, *protocol),
                Span(*period_s)
            ),
            Self::Names {
                bytes, interval_s, ..
            } => format!(
                "{device} sent {} of questions to name servers within {}; {}.",
                Amount(*bytes),
                Span(*interval_s),
                at_most(Amount(usual as u64).to_string())
            ),
        }
    }
}

struct Peer(IpAddr, u16, u8);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address, port, protocol) = self;
        let name = match protocol {
            1 | 58 => return write!(f, "{address} (ICMP)"),
            6 => "TCP",
            17 => "UDP",
            other => return write!(f, "{address} (protocol {other})"),
        };
        match port {
            0 => write!(f, "{address} ({name})"),
            port => write!(f, "{address} ({name} port {port})"),
        }
    }
}

/// Bytes, two or three digits.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0 as f64;
        let (v, unit) = match self.0 {
            0..1_000 => return write!(f, "{} bytes", self.0),
            1_000..1_000_000 => (v / 1e3, "kB"),
            1_000_000..1_000_000_000 => (v / 1e6, "MB"),
            _ => (v / 1e9, "GB"),
        };
        if v < 9.95 {
            write!(f, "{v:.1} {unit}")
        } else {
            write!(f, "{v:.0} {unit}")
        }
    }
}

/// A time span, two or three digits.
struct Span(f64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s < 9.95 => write!(f, "{s:.1} s"),
            s if s < 120.0 => write!(f, "{s:.0} s"),
            s if s < 7_200.0 => write!(f, "{:.0} min", s / 60.0),
            s => write!(f, "{:.0} h", s / 3_600.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_plain() {
        let address = "203.0.113.9".parse().expect("an address");
        let beacon = Novelty::Beacon {
            address,
            port: 4444,
            protocol: 6,
            period_s: 5.0,
            jitter: 0.01,
            calls: 5,
        };
        assert_eq!(
            beacon.sentence("cam", 0.0),
            "cam calls 203.0.113.9 (TCP port 4444) every 5.0 s, 5 times so far, and never talked to it before."
        );
        let rate = Novelty::Rate {
            bytes: 12_300_000,
            busiest_before: 40_000,
            interval_s: 10.0,
            way: Way::Sent,
            packets: 9_000,
            address: Some(address),
        };
        assert_eq!(
            rate.sentence("cam", 40_000.0),
            "cam sent 12 MB within 10 s, most of it to 203.0.113.9; usually it is at most 40 kB."
        );
        let scan = Novelty::ManyDestinations {
            unreported: 90,
            interval_s: 10.0,
            flows: 100,
            addresses: 1,
            ports: 100,
            fruitless: 100,
        };
        assert_eq!(
            scan.sentence("cam", 3.0),
            "cam tried 100 ports within 10 s, all without success; usually it is at most 3."
        );
    }
}
