//! What every record obeys: rules of the protocols, not of the data.

use crate::table::{Record, has_ports, header_bytes};

/// Ports that by common practice run over one transport only; public knowledge.
const TCP_ONLY: [u16; 19] = [
    20, 21, 22, 23, 25, 80, 110, 143, 179, 445, 465, 587, 993, 995, 1433, 3306, 5060, 8080, 8443,
];
const UDP_ONLY: [u16; 10] = [67, 68, 69, 123, 137, 138, 161, 162, 1900, 5353];

/// Whether the port is at home on the protocol.
pub(crate) fn port_allowed(port: u16, protocol: u8) -> bool {
    match protocol {
        17 => !TCP_ONLY.contains(&port),
        6 => !UDP_ONLY.contains(&port),
        _ => !TCP_ONLY.contains(&port) && !UDP_ONLY.contains(&port),
    }
}

/// Makes counters possible: at least one packet, headers fit, no packet above 65,535 bytes, no duration for one packet,
/// ports where the protocol has them.
/// Other protocols keep what exporters put there (types, identifiers) when `odd_ports`, otherwise have none.
pub(crate) fn settle(r: &mut Record, odd_ports: bool) {
    r.packets = r.packets.clamp(1, 1 << 40);
    let least = header_bytes(r.protocol, r.src.is_ipv6() || r.dst.is_ipv6());
    r.bytes = r.bytes.clamp(least * r.packets, 65_535 * r.packets);
    if r.packets == 1 {
        r.duration_us = 0;
    }
    if has_ports(r.protocol) {
        r.src_port = r.src_port.max(1);
        r.dst_port = r.dst_port.max(1);
    } else if !odd_ports {
        (r.src_port, r.dst_port) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_records_become_possible() {
        let mut r = Record {
            protocol: 6,
            packets: 0,
            bytes: 3,
            duration_us: 9,
            ..Record::default()
        };
        settle(&mut r, false);
        assert_eq!(
            (r.packets, r.bytes, r.duration_us, r.src_port),
            (1, 40, 0, 1)
        );
        let mut r = Record {
            protocol: 1,
            packets: 2,
            bytes: u64::MAX,
            src_port: 5,
            ..Record::default()
        };
        settle(&mut r, false);
        assert_eq!((r.bytes, r.src_port), (131_070, 0));
        assert!(!port_allowed(80, 17) && port_allowed(443, 17) && !port_allowed(123, 6));
    }
}
