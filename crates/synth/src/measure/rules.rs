//! Shares of records that obey the rules of protocols.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::view::{Tuple, View};
use crate::table::header_bytes;

/// Ports whose transport is fixed by common practice; true: UDP, false: TCP, `None`: both of them.
const HOME: [(u16, Option<bool>); 33] = [
    (20, Some(false)),
    (21, Some(false)),
    (22, Some(false)),
    (23, Some(false)),
    (25, Some(false)),
    (53, None),
    (67, Some(true)),
    (68, Some(true)),
    (69, Some(true)),
    (80, Some(false)),
    (110, Some(false)),
    (123, Some(true)),
    (137, Some(true)),
    (138, Some(true)),
    (143, Some(false)),
    (161, Some(true)),
    (162, Some(true)),
    (179, Some(false)),
    (443, None),
    (445, Some(false)),
    (465, Some(false)),
    (514, None),
    (587, Some(false)),
    (993, Some(false)),
    (995, Some(false)),
    (1433, Some(false)),
    (1900, Some(true)),
    (3306, Some(false)),
    (3389, None),
    (5060, None),
    (5353, Some(true)),
    (8080, Some(false)),
    (8443, Some(false)),
];

/// The share of records for which `holds`, of those for which `counts`; `None` without such records.
fn share(n: usize, counts: impl Fn(usize) -> bool, holds: impl Fn(usize) -> bool) -> Option<f64> {
    let (mut all, mut good) = (0u64, 0u64);
    for i in (0..n).filter(|i| counts(*i)) {
        all += 1;
        good += u64::from(holds(i));
    }
    (all > 0).then(|| good as f64 / all as f64)
}

/// Whether a port is at home on the protocol; `None` for ports that any may have.
fn at_home(port: u16, protocol: u8) -> Option<bool> {
    let at = HOME.binary_search_by_key(&port, |(p, _)| *p).ok()?;
    Some(match HOME[at].1 {
        Some(true) => protocol == 17,
        Some(false) => protocol == 6,
        None => matches!(protocol, 6 | 17),
    })
}

fn addresses_possible(t: &Tuple) -> bool {
    let source = match t.0 {
        IpAddr::V4(a) => !matches!(a.octets()[0], 0 | 224..),
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unspecified(),
    };
    source
        && match t.1 {
            IpAddr::V4(a) => !matches!(a.octets()[0], 0 | 240..) || a.is_broadcast(),
            IpAddr::V6(a) => !a.is_unspecified(),
        }
}

/// Shares by name of rule; rules that no record falls under are left out.
pub(super) fn shares(view: &View) -> BTreeMap<&'static str, f64> {
    let (t, n) = (&view.tuples, view.len());
    let mut out = BTreeMap::new();
    let mut put = |name, value: Option<f64>| {
        if let Some(value) = value {
            out.insert(name, value);
        }
    };
    let all = |_: usize| true;
    put("ip_valid", share(n, all, |i| addresses_possible(&t[i])));
    let home = |i: usize| [at_home(t[i].2, t[i].4), at_home(t[i].3, t[i].4)];
    put(
        "port_proto",
        share(
            n,
            |i| home(i).iter().any(Option::is_some),
            |i| home(i).iter().all(|h| *h != Some(false)),
        ),
    );
    put("dns_is_udp", share(n, |i| t[i].3 == 53, |i| t[i].4 == 17));
    put(
        "portless_proto_has_no_ports",
        share(n, |i| !matches!(t[i].4, 6 | 17 | 132), |i| t[i].2 == 0),
    );
    put(
        "tcp_udp_has_ports",
        share(
            n,
            |i| matches!(t[i].4, 6 | 17),
            |i| t[i].2 > 0 && t[i].3 > 0,
        ),
    );
    let least = |i: usize| header_bytes(t[i].4, t[i].0.is_ipv6()) as f64;
    if let (Some(packets), Some(bytes)) = (view.number("pkt"), view.number("byt")) {
        let good = |i: usize| {
            packets[i] >= 1.0
                && bytes[i] >= least(i) * packets[i]
                && bytes[i] <= 65_535.0 * packets[i]
        };
        put("bytes_packets_tcp", share(n, |i| t[i].4 == 6, good));
        put("bytes_packets_udp", share(n, |i| t[i].4 == 17, good));
        put("bytes_packets_all", share(n, all, good));
        let whole = |i: usize| packets[i].fract() == 0.0 && bytes[i].fract() == 0.0;
        put("integer_counts", share(n, all, whole));
        if let Some(duration) = view.number("td") {
            put("duration_nonneg", share(n, all, |i| duration[i] >= 0.0));
            put(
                "single_packet_zero_duration",
                share(n, |i| packets[i] == 1.0, |i| duration[i] == 0.0),
            );
        }
    }
    if let (Some(length), Some(ttl)) = (view.number("pkt_len"), view.number("ttl")) {
        let good = |i: usize| length[i] >= least(i) && length[i] <= 65_535.0;
        put("min_packet_size", share(n, all, good));
        put("ttl_1_255", share(n, all, |i| ttl[i] >= 1.0));
        let h = &view.headers;
        put(
            "ip_checksum_valid",
            share(
                n,
                |i| h[i].ip_checksum.is_some(),
                |i| h[i].ip_checksum == Some(true),
            ),
        );
        put(
            "l4_checksum_valid",
            share(
                n,
                |i| h[i].transport_checksum.is_some(),
                |i| h[i].transport_checksum == Some(true),
            ),
        );
        put(
            "timestamps_ordered",
            Some(1.0 - view.backwards as f64 / n.max(1) as f64),
        );
        let legal = |f: u8| f != 0 && f & 6 != 6 && f & 3 != 3;
        put(
            "tcp_flags_legal",
            share(
                n,
                |i| h[i].tcp_flags.is_some(),
                |i| h[i].tcp_flags.is_some_and(legal),
            ),
        );
    }
    out
}

/// Mean difference of the shares that both have.
pub(super) fn gap(
    real: &BTreeMap<&'static str, f64>,
    synthetic: &BTreeMap<&'static str, f64>,
) -> Option<f64> {
    let both: Vec<f64> = real
        .iter()
        .filter_map(|(name, a)| Some((a - synthetic.get(name)?).abs()))
        .collect();
    (!both.is_empty()).then(|| both.iter().sum::<f64>() / both.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_at_home_where_they_are() {
        assert!(HOME.is_sorted_by_key(|(p, _)| *p));
        assert_eq!(at_home(123, 6), Some(false));
        assert_eq!(at_home(443, 17), Some(true));
        assert_eq!(at_home(443, 1), Some(false));
        assert_eq!(at_home(40_000, 6), None);
    }
}
