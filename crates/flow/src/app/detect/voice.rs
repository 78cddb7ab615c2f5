//! Calls: signalling and traversal; and streams of media.

use super::super::names::{self, App};
use super::super::stun;
use super::{Match, Payload, when};

type Test = fn(&Payload<'_>) -> Option<bool>;

const UDP: [(App, Test); 5] = [
    (names::STUN, is_stun),
    (names::SIP, is_sip),
    (names::MGCP, is_mgcp),
    (names::MEGACO, is_megaco),
    (names::IAX, is_iax),
];

const TCP: [(App, Test); 6] = [
    (names::SIP, is_sip),
    (names::RTSP, is_rtsp),
    (names::RTMP, is_rtmp),
    (names::STUN, is_stun_tcp),
    (names::H323, is_h323),
    (names::JABBER, is_xmpp),
];

pub(super) fn udp(p: &Payload<'_>) -> Match {
    UDP.iter().find_map(|(app, test)| when(test(p), *app))
}

pub(super) fn tcp(p: &Payload<'_>) -> Match {
    TCP.iter().find_map(|(app, test)| when(test(p), *app))
}

fn is_stun(p: &Payload<'_>) -> Option<bool> {
    Some(stun::is_message(p.bytes, false))
}

/// STUN over TCP, with the length before it that some relays use.
fn is_stun_tcp(p: &Payload<'_>) -> Option<bool> {
    let framed = usize::from(p.u16(0)?) + 2 == p.len() && stun::is_message(&p.bytes[2..], true);
    Some(framed || stun::is_message(p.bytes, true))
}

/// SIP (RFC 3261): a request with a SIP address or a response.
fn is_sip(p: &Payload<'_>) -> Option<bool> {
    if !p.u8(0)?.is_ascii_uppercase() {
        return None;
    }
    let line = p.line()?;
    if line.starts_with(b"SIP/2.0 ") {
        return Some(true);
    }
    let (method, rest) = line.split_at(line.iter().take(12).position(|b| *b == b' ')?);
    let upper = method.len() >= 3 && method.iter().all(u8::is_ascii_uppercase);
    let target = rest.get(1..)?;
    let scheme = [&b"sip:"[..], b"sips:", b"tel:"]
        .iter()
        .any(|s| target.starts_with(s));
    Some(upper && scheme)
}

/// MGCP (RFC 3435): verb, transaction, endpoint, version.
fn is_mgcp(p: &Payload<'_>) -> Option<bool> {
    const VERBS: [&[u8]; 9] = [
        b"AUEP ", b"AUCX ", b"CRCX ", b"DLCX ", b"EPCF ", b"MDCX ", b"NTFY ", b"RQNT ", b"RSIP ",
    ];
    if !VERBS.iter().any(|v| p.starts_with(v)) {
        return None;
    }
    let version = p.line()?.windows(5).any(|w| w == b"MGCP ");
    Some(version)
}

/// H.248 in text (RFC 3525).
fn is_megaco(p: &Payload<'_>) -> Option<bool> {
    let text = p.starts_with(b"MEGACO/1") || p.starts_with(b"!/1 [");
    Some(text || p.starts_with(b"!/1 <") || p.starts_with(b"!/2 [") || p.starts_with(b"!/2 <"))
}

/// Inter-Asterisk exchange 2 (RFC 5456): a full frame that opens a call.
fn is_iax(p: &Payload<'_>) -> Option<bool> {
    let frame = p.u8(0)? & 0x80 != 0 && p.u16(8)? == 0 && p.u8(10)? == 6;
    Some(p.has_port(4569) && frame && p.u8(11)? <= 0x28 && p.len() >= 12)
}

/// RTSP (RFC 7826): a request with its address or a response.
fn is_rtsp(p: &Payload<'_>) -> Option<bool> {
    // An address shows in the first 37 bytes.
    let start = &p.bytes[..p.len().min(37)];
    if !p.starts_with(b"RTSP/1.0 ") && !start.windows(6).any(|w| w == b"rtsp:/") {
        return None;
    }
    let line = p.line()?;
    let request = line.windows(6).take(32).any(|w| w == b"rtsp:/");
    Some(line.starts_with(b"RTSP/1.0 ") || request)
}

/// RTMP: first handshake packets, version 3.
fn is_rtmp(p: &Payload<'_>) -> Option<bool> {
    Some(p.has_port(1935) && p.u8(0)? == 3 && p.len() >= 1400)
}

/// H.225 in TPKT on its port.
fn is_h323(p: &Payload<'_>) -> Option<bool> {
    let whole = p.u16(0)? == 0x0300 && usize::from(p.u16(2)?) == p.len();
    Some(p.has_port(1720) && whole && p.u8(4)? == 8)
}

/// XMPP (RFC 6120): a stream opens.
fn is_xmpp(p: &Payload<'_>) -> Option<bool> {
    let xml = p.starts_with(b"<?xml") || p.starts_with(b"<stream:stream");
    Some(xml && p.contains(b"<stream:stream"))
}
