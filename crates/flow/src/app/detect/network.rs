//! What keeps networks running: time, management, directories, remote access.

use super::super::names::{self, App};
use super::{Match, Payload, when};

type Test = fn(&Payload<'_>) -> Option<bool>;

const UDP: [(App, Test); 20] = [
    (names::NTP, is_ntp),
    (names::PTP, is_ptp),
    (names::SNMP, is_snmp),
    (names::DHCPV6, is_dhcpv6),
    (names::SYSLOG, is_syslog),
    (names::RADIUS, is_radius),
    (names::NAT_PMP, is_nat_pmp),
    (names::CAPWAP, is_capwap),
    (names::VXLAN, is_vxlan),
    (names::TEREDO, is_teredo),
    (names::KERBEROS, is_kerberos),
    (names::LDAP, is_ldap),
    (names::BFD, is_bfd),
    (names::HSRP, is_hsrp),
    (names::NETFLOW, is_netflow),
    (names::SFLOW, is_sflow),
    (names::UBNTAC2, is_ubiquiti),
    (names::BJNP, is_bjnp),
    (names::WSD, is_wsd),
    (names::COLLECTD, is_collectd),
];

const TCP: [(App, Test); 8] = [
    (names::BGP, is_bgp),
    (names::RDP, is_rdp),
    (names::VNC, is_vnc),
    (names::TELNET, is_telnet),
    (names::LDAP, is_ldap),
    (names::KERBEROS, is_kerberos_tcp),
    (names::SYSLOG, is_syslog),
    (names::TEAMVIEWER, is_teamviewer),
];

pub(super) fn udp(p: &Payload<'_>) -> Match {
    gtp(p).or_else(|| UDP.iter().find_map(|(app, test)| when(test(p), *app)))
}

pub(super) fn tcp(p: &Payload<'_>) -> Match {
    TCP.iter().find_map(|(app, test)| when(test(p), *app))
}

/// NTP (RFC 5905) up to version 4.
fn is_ntp(p: &Payload<'_>) -> Option<bool> {
    Some(p.has_port(123) && p.u8(0)? >> 3 & 7 <= 4)
}

/// A sequence of BER: where its content begins and how long it is.
fn ber(p: &Payload<'_>, tag: u8, at: usize) -> Option<(usize, usize)> {
    if p.u8(at)? != tag {
        return None;
    }
    match p.u8(at + 1)? {
        0x81 => Some((at + 3, usize::from(p.u8(at + 2)?))),
        0x82 => Some((at + 4, usize::from(p.u16(at + 2)?))),
        0x84 => Some((at + 6, p.u32(at + 2)? as usize)),
        length @ 0..=0x7f => Some((at + 2, usize::from(length))),
        _ => None,
    }
}

/// SNMP (RFC 1157, RFC 3411): a sequence that begins with its version.
fn is_snmp(p: &Payload<'_>) -> Option<bool> {
    let (at, length) = ber(p, 0x30, 0)?;
    let version = p.u8(at)? == 2 && p.u8(at + 1)? == 1 && matches!(p.u8(at + 2)?, 0 | 1 | 3);
    Some((p.has_port(161) || p.has_port(162)) && version && at + length == p.len())
}

/// DHCP for IPv6 (RFC 8415).
fn is_dhcpv6(p: &Payload<'_>) -> Option<bool> {
    let port = p.ports.iter().all(|n| matches!(n, 546 | 547));
    Some(port && (1..=13).contains(&p.u8(0)?) && p.len() >= 4)
}

/// Syslog (RFC 3164, RFC 5424): a priority in angle brackets, then a name or a date.
fn is_syslog(p: &Payload<'_>) -> Option<bool> {
    let rest = p.bytes.strip_prefix(b"<")?;
    let end = rest.iter().take(4).position(|b| *b == b'>')?;
    let digits = end > 0 && rest[..end].iter().all(u8::is_ascii_digit);
    let next = *rest.get(end + 1)?;
    Some(digits && p.len() > 20 && (next.is_ascii_alphanumeric() || next == b' '))
}

/// RADIUS (RFC 2865, RFC 2866).
fn is_radius(p: &Payload<'_>) -> Option<bool> {
    let port = [1812, 1813, 1645, 1646, 3799]
        .iter()
        .any(|n| p.has_port(*n));
    let whole = usize::from(p.u16(2)?) == p.len();
    Some(port && matches!(p.u8(0)?, 1..=5 | 11..=13 | 40..=45) && whole && p.len() >= 20)
}

/// NAT port mapping (RFC 6886): requests of 2 or 12 bytes, answers of 12 or 16.
fn is_nat_pmp(p: &Payload<'_>) -> Option<bool> {
    let sound = match (p.u8(1)?, p.len()) {
        (0, 2) | (1 | 2, 12) => true,
        (128, 12) | (129 | 130, 16) => p.u16(2)? <= 5,
        _ => false,
    };
    Some(p.ports[1] == 5351 && p.u8(0)? == 0 && sound)
}

/// CAPWAP (RFC 5415): a control message or its DTLS.
fn is_capwap(p: &Payload<'_>) -> Option<bool> {
    if !p.has_port(5246) && !p.has_port(5247) {
        return None;
    }
    let header = usize::from(p.u8(1)? >> 3) * 4;
    Some(match p.u8(0)? {
        1 => p.len() > 17 && matches!(p.u8(4)?, 20..=23) && p.u8(5)? == 0xfe,
        0 => {
            let length = usize::from(p.u16(header + 5)?);
            (8..=64).contains(&header) && p.u16(header)? == 0 && header + 5 + length <= p.len() + 8
        }
        _ => false,
    })
}

/// VXLAN (RFC 7348).
fn is_vxlan(p: &Payload<'_>) -> Option<bool> {
    Some(p.ports[1] == 4789 && p.u32(0)? == 0x0800_0000 && p.u8(7)? == 0 && p.len() > 22)
}

/// Teredo (RFC 4380): IPv6 in UDP.
fn is_teredo(p: &Payload<'_>) -> Option<bool> {
    Some(p.has_port(3544) && p.u8(0)? >> 4 == 6 && p.len() >= 40)
}

/// GTP versions 1 and 2 (3GPP TS 29.060, 29.274) on their ports.
fn gtp(p: &Payload<'_>) -> Match {
    let length = usize::from(p.u16(2)?);
    let version = p.u8(0)? >> 5;
    let sound = match version {
        1 => p.u8(0)? & 0x10 != 0 && length + 8 == p.len(),
        2 => length + 4 == p.len() || p.u8(0)? & 0x10 != 0 && length + 4 < p.len(),
        _ => false,
    };
    if sound && version == 1 && p.has_port(2152) {
        Some((names::GTP, Some(names::GTP_U)))
    } else if sound && p.has_port(2123) {
        Some((names::GTP, Some(names::GTP_C)))
    } else {
        None
    }
}

/// Kerberos (RFC 4120): an application tag with a sequence in it.
fn is_kerberos(p: &Payload<'_>) -> Option<bool> {
    let tag = p.u8(0)?;
    let (at, length) = ber(p, tag, 0)?;
    let kind = matches!(tag, 0x6a..=0x6f | 0x7e);
    Some(p.has_port(88) && kind && at + length == p.len() && p.u8(at)? == 0x30)
}

fn is_kerberos_tcp(p: &Payload<'_>) -> Option<bool> {
    let record = Payload {
        bytes: p.bytes.get(4..)?,
        ports: p.ports,
    };
    Some(p.u32(0)? as usize == record.len() && is_kerberos(&record)?)
}

/// LDAP (RFC 4511): a message with its id and an operation.
fn is_ldap(p: &Payload<'_>) -> Option<bool> {
    let (at, length) = ber(p, 0x30, 0)?;
    let (id, size) = ber(p, 2, at)?;
    let operation = matches!(p.u8(id + size)?, 0x42 | 0x4a | 0x50 | 0x60..=0x79);
    let port = [389, 3268].iter().any(|n| p.has_port(*n));
    Some(port && (1..=4).contains(&size) && operation && at + length >= p.len())
}

/// Bidirectional forwarding detection (RFC 5880).
fn is_bfd(p: &Payload<'_>) -> Option<bool> {
    let port = p.ports[1] == 3784 || p.ports[1] == 4784;
    Some(port && p.u8(0)? >> 5 == 1 && usize::from(p.u8(3)?) == p.len() && p.len() >= 24)
}

/// Hot standby router protocol (RFC 2281).
fn is_hsrp(p: &Payload<'_>) -> Option<bool> {
    let sound = p.u8(0)? == 0 && p.u8(1)? <= 2 && p.u8(7)? == 0;
    Some(p.ports == [1985; 2] && sound && p.len() >= 20)
}

/// NetFlow 1 to 9 and IPFIX on their ports.
fn is_netflow(p: &Payload<'_>) -> Option<bool> {
    let port = [2055, 2056, 9995, 9996, 4739]
        .iter()
        .any(|n| p.has_port(*n));
    Some(match p.u16(0)? {
        5 => port && p.len() == 24 + 48 * usize::from(p.u16(2)?) && p.u32(8)? > 946_684_800,
        9 => port && p.len() >= 20 && p.u32(8)? > 946_684_800,
        10 => port && usize::from(p.u16(2)?) == p.len() && p.u32(4)? > 946_684_800,
        _ => false,
    })
}

/// sFlow 5.
fn is_sflow(p: &Payload<'_>) -> Option<bool> {
    let agent = matches!(p.u32(4)?, 1 | 2);
    Some(p.ports[1] == 6343 && matches!(p.u32(0)?, 2 | 4 | 5) && agent && p.len() > 32)
}

/// Ubiquiti's discovery.
fn is_ubiquiti(p: &Payload<'_>) -> Option<bool> {
    let sound = matches!(p.u8(0)?, 1 | 2) && usize::from(p.u16(2)?) + 4 == p.len();
    Some(p.has_port(10001) && sound)
}

/// Canon's printers.
fn is_bjnp(p: &Payload<'_>) -> Option<bool> {
    Some(
        ["BJNP", "BJNB", "BJNS", "MFNP"]
            .iter()
            .any(|m| p.starts_with(m.as_bytes())),
    )
}

/// Discovery of web services: SOAP on its port.
fn is_wsd(p: &Payload<'_>) -> Option<bool> {
    Some(p.has_port(3702) && p.starts_with(b"<?xml") && p.len() >= 40)
}

/// collectd's network plugin: a part with the host as text, then a part with the time.
fn is_collectd(p: &Payload<'_>) -> Option<bool> {
    let length = usize::from(p.u16(2)?);
    let text = p.bytes.get(4..length)?;
    let (end, name) = text.split_last()?;
    let sound = *end == 0 && !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    // The next part is a time.
    let time = matches!(p.u16(length)?, 1 | 8) && p.u16(length + 2)? == 12;
    Some(p.u16(0)? == 0 && sound && time)
}

/// BGP (RFC 4271): its marker.
fn is_bgp(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(&[0xff; 16]) && p.has_port(179) && (1..=5).contains(&p.u8(18)?))
}

/// Remote desktop: a connection request or confirm (MS-RDPBCGR).
fn is_rdp(p: &Payload<'_>) -> Option<bool> {
    let whole = p.u16(0)? == 0x0300 && usize::from(p.u16(2)?) == p.len();
    let length = usize::from(p.u8(4)?) + 5 == p.len();
    let kind = matches!(p.u8(5)?, 0xe0 | 0xd0);
    let cookie = p.contains(b"Cookie: mstshash=");
    let negotiation = p.len() == 19 && matches!(p.u8(11)?, 1 | 2) && p.u16(13)? == 0x0800;
    Some(whole && length && kind && (cookie || negotiation))
}

/// Remote framebuffer (RFC 6143).
fn is_vnc(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"RFB 00") && p.len() == 12 && p.u8(11)? == b'\n')
}

/// Telnet (RFC 854): nothing but option negotiation at first.
fn is_telnet(p: &Payload<'_>) -> Option<bool> {
    let option = |at: usize| Some(p.u8(at)? == 0xff && (0xfa..=0xfe).contains(&p.u8(at + 1)?));
    Some(option(0)? && p.u8(2)? < 0x28 && (p.len() == 3 || option(3)? || p.u8(1)? == 0xfa))
}

fn is_teamviewer(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(&[0x17, 0x24]) && p.has_port(5938) && p.len() > 12)
}

/// Precision time protocol 2 (IEEE 1588) on its ports.
fn is_ptp(p: &Payload<'_>) -> Option<bool> {
    let port = p.has_port(319) || p.has_port(320);
    let sound = p.u8(1)? & 15 == 2 && usize::from(p.u16(2)?) <= p.len();
    Some(port && sound && p.len() >= 34)
}
