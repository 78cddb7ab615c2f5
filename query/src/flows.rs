//! Columns of the flow logs and what they stand for.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Kind of a flow log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Tstat's `log_tcp_complete`: columns are found by name, in any number and order.
    Tstat,
    /// CSV of nfdump, of 1.6 and 1.7 as well as with the header of 1.7.5 and later, and its JSON.
    Nfdump,
    /// CSV and Parquet of `gateway meter`, native profile, and the archive of `gateway run`.
    Chaff,
}

/// Whose flows: those that users of the protected side opened, or that were opened towards them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the protected side.
    #[default]
    Outgoing,
    /// Towards it.
    Ingoing,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address, kept in its canonical text form.
    Address,
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Float,
}

/// A column that questions can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in questions.
    pub name: &'static str,
    /// Other names it has in text files.
    pub also: &'static [&'static str],
    /// What it holds.
    pub kind: Kind,
}

/// The columns of a format that stand for the parts of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// Address that opened the flow.
    pub client: &'static str,
    /// The other one.
    pub server: &'static str,
    /// MAC addresses of both.
    pub macs: Option<[&'static str; 2]>,
    /// Bytes from the client.
    pub client_bytes: &'static str,
    /// Bytes from the server.
    pub server_bytes: &'static str,
    /// Server name.
    pub domain: Option<&'static str>,
    /// Columns that say whose flow it is.
    pub labels: &'static [&'static str],
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column {
        name,
        also: &[],
        kind,
    }
}

const fn named(name: &'static str, also: &'static [&'static str], kind: Kind) -> Column {
    Column { name, also, kind }
}

/// The 53 columns of Tstat that [`crate::request::Statistic`]s of features take, and those that choose flows.
const TSTAT: [Column; 58] = {
    use Kind::{Address, Float, Integer, Text};
    [
        column("c_ip", Address),
        column("s_ip", Address),
        column("c_isint", Integer),
        column("s_isint", Integer),
        column("c_tls_SNI", Text),
        column("c_pkts_all", Integer),
        column("c_rst_cnt", Integer),
        column("c_ack_cnt", Integer),
        column("c_ack_cnt_p", Integer),
        column("c_bytes_uniq", Integer),
        column("c_pkts_data", Integer),
        column("c_bytes_all", Integer),
        column("c_pkts_retx", Integer),
        column("c_bytes_retx", Integer),
        column("c_pkts_ooo", Integer),
        column("c_syn_cnt", Integer),
        column("c_fin_cnt", Integer),
        column("s_pkts_all", Integer),
        column("s_rst_cnt", Integer),
        column("s_ack_cnt", Integer),
        column("s_ack_cnt_p", Integer),
        column("s_bytes_uniq", Integer),
        column("s_pkts_data", Integer),
        column("s_bytes_all", Integer),
        column("s_pkts_retx", Integer),
        column("s_bytes_retx", Integer),
        column("s_pkts_ooo", Integer),
        column("s_syn_cnt", Integer),
        column("s_fin_cnt", Integer),
        column("durat", Float),
        column("c_first", Float),
        column("s_first", Float),
        column("c_last", Float),
        column("s_last", Float),
        column("c_first_ack", Float),
        column("s_first_ack", Float),
        column("c_rtt_avg", Float),
        column("c_rtt_min", Float),
        column("c_rtt_max", Float),
        column("c_rtt_std", Float),
        column("c_rtt_cnt", Integer),
        column("c_ttl_min", Integer),
        column("c_ttl_max", Integer),
        column("s_rtt_avg", Float),
        column("s_rtt_min", Float),
        column("s_rtt_max", Float),
        column("s_rtt_std", Float),
        column("s_rtt_cnt", Integer),
        column("s_ttl_min", Integer),
        column("s_ttl_max", Integer),
        column("c_pkts_push", Integer),
        column("s_pkts_push", Integer),
        column("c_last_handshakeT", Float),
        column("s_last_handshakeT", Float),
        column("c_appdataT", Float),
        column("s_appdataT", Float),
        column("c_appdataB", Integer),
        column("s_appdataB", Integer),
    ]
};

const NFDUMP: [Column; 9] = {
    use Kind::{Address, Float, Integer, Text};
    [
        named("sa", &["srcAddr"], Address),
        named("da", &["dstAddr"], Address),
        // Also as letters: I and E.
        named("dir", &["direction"], Integer),
        named("ipkt", &["inPackets", "packets", "pkt"], Integer),
        named("ibyt", &["inBytes", "bytes", "byt"], Integer),
        named("opkt", &["outPackets"], Integer),
        named("obyt", &["outBytes"], Integer),
        named("td", &["duration"], Float),
        named("sni", &["sniName"], Text),
    ]
};

/// Those of Chaff's records.
const CHAFF: [Column; 21] = {
    use Kind::{Address, Float, Integer, Text};
    [
        column("src_ip", Address),
        column("dst_ip", Address),
        column("src_mac", Text),
        column("dst_mac", Text),
        column("device_dir", Text),
        column("fwd_bytes", Integer),
        column("bwd_bytes", Integer),
        column("server_name", Text),
        column("duration_ns", Integer),
        column("packets", Integer),
        column("bytes", Integer),
        column("payload_bytes", Integer),
        column("fwd_packets", Integer),
        column("bwd_packets", Integer),
        column("fwd_payload_bytes", Integer),
        column("bwd_payload_bytes", Integer),
        column("fwd_bytes_mean", Float),
        column("bwd_bytes_mean", Float),
        column("fwd_iat_mean_ns", Float),
        column("bwd_iat_mean_ns", Float),
        column("fwd_rst_packets", Integer),
    ]
};

impl Format {
    /// Columns that questions use, in the order in which they are imported.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Tstat => &TSTAT,
            Self::Nfdump => &NFDUMP,
            Self::Chaff => &CHAFF,
        }
    }

    /// Which of them stand for what.
    pub fn roles(self) -> Roles {
        match self {
            Self::Tstat => Roles {
                client: "c_ip",
                server: "s_ip",
                macs: None,
                client_bytes: "c_bytes_all",
                server_bytes: "s_bytes_all",
                domain: Some("c_tls_SNI"),
                labels: &["c_isint", "s_isint"],
            },
            Self::Nfdump => Roles {
                client: "sa",
                server: "da",
                macs: None,
                client_bytes: "ibyt",
                server_bytes: "obyt",
                domain: Some("sni"),
                labels: &["dir"],
            },
            Self::Chaff => Roles {
                client: "src_ip",
                server: "dst_ip",
                macs: Some(["src_mac", "dst_mac"]),
                client_bytes: "fwd_bytes",
                server_bytes: "bwd_bytes",
                domain: Some("server_name"),
                labels: &["device_dir"],
            },
        }
    }

    /// The format that has columns of these names.
    pub fn of_columns(names: &[&str]) -> Option<Self> {
        let needed: [(Self, &[&str]); 3] = [
            (Self::Tstat, &["c_ip", "s_ip"]),
            (Self::Nfdump, &["sa", "da"]),
            (Self::Chaff, &["src_ip", "dst_ip", "fwd_bytes"]),
        ];
        let found = needed.into_iter().find(|(format, needed)| {
            let known: Vec<String> = names.iter().map(|n| format.known(n)).collect();
            needed.iter().all(|n| known.iter().any(|k| k == n))
        });
        found.map(|(format, _)| format)
    }

    /// The name in questions of a column that a file calls so; empty when no question uses it.
    pub fn known(self, name: &str) -> String {
        let column = self
            .columns()
            .iter()
            .find(|c| c.name == name || c.also.contains(&name));
        column.map_or(String::new(), |c| c.name.to_owned())
    }

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tstat => "tstat",
            Self::Nfdump => "nfdump",
            Self::Chaff => "chaff",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tstat_has_the_features_of_dpmon() {
        let features = TSTAT.iter().filter(|c| {
            matches!(c.kind, Kind::Integer | Kind::Float) && !c.name.ends_with("_isint")
        });
        assert_eq!(features.count(), 53);
    }

    #[test]
    fn columns_tell_the_format() {
        for (names, want) in [
            (&["x", "s_ip", "c_ip"][..], Some(Format::Tstat)),
            (&["srcAddr", "dstAddr"], Some(Format::Nfdump)),
            (&["src_ip", "dst_ip", "fwd_bytes"], Some(Format::Chaff)),
            (&["src_ip", "dst_ip"], None),
        ] {
            assert_eq!(Format::of_columns(names), want, "{names:?}");
        }
    }
}
