//! Virtual private networks.

use super::super::names;
use super::{Match, Payload, when};

pub(super) fn udp(p: &Payload<'_>) -> Match {
    when(is_ike(p), names::IPSEC)
        .or_else(|| when(is_wireguard(p), names::WIREGUARD))
        .or_else(|| when(is_openvpn(p, 0), names::OPENVPN))
        .or_else(|| when(is_l2tp(p), names::L2TP))
}

pub(super) fn tcp(p: &Payload<'_>) -> Match {
    if let Some(found) = when(is_pptp(p), names::PPTP) {
        return Some(found);
    }
    let whole = usize::from(p.u16(0)?) + 2 == p.len();
    when(is_openvpn(p, 2).map(|so| so && whole), names::OPENVPN)
}

/// Internet key exchange (RFC 7296, RFC 2408), behind four zero bytes on port 4500.
fn is_ike(p: &Payload<'_>) -> Option<bool> {
    let at = if p.has_port(4500) && p.u32(0)? == 0 {
        4
    } else {
        0
    };
    let port = p.has_port(500) || at == 4;
    let version = matches!(p.u8(at + 17)?, 0x10 | 0x20);
    let whole = p.u32(at + 24)? as usize + at == p.len();
    Some(port && version && whole)
}

/// WireGuard: a handshake message of the right size, with zero index fields where it has them.
fn is_wireguard(p: &Payload<'_>) -> Option<bool> {
    Some(match (p.u32_le(0)?, p.len()) {
        // No message has MACs of nothing but zeros.
        (1, 148) => p.bytes[132..148] == [0; 16] && p.bytes[116..132] != [0; 16],
        (2, 92) => p.bytes[76..92] == [0; 16] && p.bytes[60..76] != [0; 16],
        _ => false,
    })
}

/// OpenVPN: the first packet of either side; `at` is where it begins.
fn is_openvpn(p: &Payload<'_>, at: usize) -> Option<bool> {
    // Opcode and key id 0: P_CONTROL_HARD_RESET_CLIENT_V2, SERVER_V2, CLIENT_V3.
    let opcode = matches!(p.u8(at)?, 0x38 | 0x40 | 0x50);
    let length = p.len() - at;
    let session = p.bytes.get(at + 1..at + 9)? != [0; 8];
    let plain = length == 14 && p.u8(at + 9)? == 0 && p.u32(at + 10)? == 0;
    let port = p.has_port(1194);
    let signed = (30..=100).contains(&length);
    Some(opcode && session && (plain || port && signed))
}

/// L2TP version 2 (RFC 2661): a control message.
fn is_l2tp(p: &Payload<'_>) -> Option<bool> {
    let sound = p.u16(0)? & 0xc80f == 0xc802 && usize::from(p.u16(2)?) == p.len();
    Some(p.has_port(1701) && sound)
}

/// PPTP (RFC 2637): a control message with its magic.
fn is_pptp(p: &Payload<'_>) -> Option<bool> {
    let whole = usize::from(p.u16(0)?) == p.len();
    Some(whole && p.u16(2)? == 1 && p.u32(4)? == 0x1a2b_3c4d)
}
