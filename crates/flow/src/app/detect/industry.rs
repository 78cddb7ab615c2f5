//! Plants and things: control protocols and devices of homes.

use super::super::names::{self, App};
use super::{Match, Payload, when};

type Test = fn(&Payload<'_>) -> Option<bool>;

const TCP: [(App, Test); 8] = [
    (names::MODBUS, is_modbus),
    (names::DNP3, is_dnp3),
    (names::S7COMM, is_s7),
    (names::IEC60870, is_iec104),
    (names::OPC_UA, is_opc_ua),
    (names::ETHERNET_IP, is_ethernet_ip),
    (names::TPLINK_SHP, is_tplink_tcp),
    (names::TUYA_LP, is_tuya),
];

const UDP: [(App, Test); 9] = [
    (names::COAP, is_coap),
    (names::BACNET, is_bacnet),
    (names::KNXNET_IP, is_knx),
    (names::DNP3, is_dnp3),
    (names::ETHERNET_IP, is_ethernet_ip),
    (names::TPLINK_SHP, is_tplink),
    (names::TUYA_LP, is_tuya),
    (names::RTPS, is_rtps),
    (names::SOMEIP, is_some_ip),
];

pub(super) fn tcp(p: &Payload<'_>) -> Match {
    TCP.iter().find_map(|(app, test)| when(test(p), *app))
}

pub(super) fn udp(p: &Payload<'_>) -> Match {
    UDP.iter().find_map(|(app, test)| when(test(p), *app))
}

/// Modbus over TCP: protocol 0 and a length that fits.
fn is_modbus(p: &Payload<'_>) -> Option<bool> {
    let whole = usize::from(p.u16(4)?) + 6 == p.len();
    Some(p.has_port(502) && p.u16(2)? == 0 && whole && p.len() >= 8)
}

/// DNP3 (IEEE 1815): start bytes and length.
fn is_dnp3(p: &Payload<'_>) -> Option<bool> {
    Some(p.has_port(20000) && p.u16(0)? == 0x0564 && p.u8(2)? >= 5 && p.len() >= 10)
}

/// S7 communication in TPKT and COTP data.
fn is_s7(p: &Payload<'_>) -> Option<bool> {
    let whole = p.u16(0)? == 0x0300 && usize::from(p.u16(2)?) == p.len();
    Some(p.has_port(102) && whole && p.u8(5)? == 0xf0 && p.u8(7)? == 0x32)
}

/// IEC 60870-5-104: frames with their lengths.
fn is_iec104(p: &Payload<'_>) -> Option<bool> {
    let length = usize::from(p.u8(1)?);
    Some(
        p.has_port(2404)
            && p.u8(0)? == 0x68
            && (4..=253).contains(&length)
            && length + 2 <= p.len(),
    )
}

/// OPC UA binary: type, chunk and size.
fn is_opc_ua(p: &Payload<'_>) -> Option<bool> {
    let kind = ["HELF", "ACKF", "ERRF", "OPNF", "MSGF", "CLOF"];
    let known = kind.iter().any(|k| p.starts_with(k.as_bytes()));
    Some(known && p.u32_le(4)? as usize == p.len())
}

/// EtherNet/IP encapsulation.
fn is_ethernet_ip(p: &Payload<'_>) -> Option<bool> {
    let known = matches!(
        p.u16(0)?.swap_bytes(),
        0 | 4 | 0x63..=0x66 | 0x6f | 0x70 | 0x72 | 0x73
    );
    let length = usize::from(p.u16(2)?.swap_bytes());
    Some(p.has_port(44818) && known && length + 24 == p.len())
}

/// CoAP (RFC 7252) on its ports.
fn is_coap(p: &Payload<'_>) -> Option<bool> {
    let first = p.u8(0)?;
    let port = (5683..=5687).any(|n| p.has_port(n));
    let class = matches!(p.u8(1)? >> 5, 0 | 2 | 4 | 5);
    Some(port && first >> 6 == 1 && first & 15 <= 8 && class && p.len() >= 4)
}

/// BACnet/IP (ANSI/ASHRAE 135, annex J).
fn is_bacnet(p: &Payload<'_>) -> Option<bool> {
    let sound = p.u8(0)? == 0x81 && p.u8(1)? <= 0x0c && usize::from(p.u16(2)?) == p.len();
    Some(p.has_port(47808) && sound)
}

/// KNXnet/IP: header of six bytes, version 1.0.
fn is_knx(p: &Payload<'_>) -> Option<bool> {
    Some(p.u16(0)? == 0x0610 && usize::from(p.u16(4)?) == p.len() && matches!(p.u8(2)?, 2..=9))
}

/// TP-Link's plugs: JSON under an autokey XOR that begins with 171.
fn is_tplink(p: &Payload<'_>) -> Option<bool> {
    Some(p.has_port(9999) && p.u8(0)? == 171 ^ b'{' && matches!(p.u8(1)? ^ p.u8(0)?, b'"' | b'}'))
}

fn is_tplink_tcp(p: &Payload<'_>) -> Option<bool> {
    let record = Payload {
        bytes: p.bytes.get(4..)?,
        ports: p.ports,
    };
    Some(p.u32(0)? as usize >= record.len() && is_tplink(&record)?)
}

/// Tuya's devices in the local network: their frame.
fn is_tuya(p: &Payload<'_>) -> Option<bool> {
    let port = [6666, 6667, 6668].iter().any(|n| p.has_port(*n));
    Some(port && p.u32(0)? == 0x55aa && p.bytes.ends_with(&[0, 0, 0xaa, 0x55]))
}

/// Real-time publish-subscribe (OMG DDSI-RTPS).
fn is_rtps(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"RTPS") && p.len() >= 20)
}

/// SOME/IP: protocol 1, a known message type and the length.
fn is_some_ip(p: &Payload<'_>) -> Option<bool> {
    let kind = matches!(p.u8(14)? & 0xdf, 0..=2 | 0x80 | 0x81);
    let port = p.has_port(30490) || p.has_port(30491) || p.has_port(30501);
    Some(port && p.u8(12)? == 1 && kind && p.u32(4)? as usize + 8 == p.len())
}
