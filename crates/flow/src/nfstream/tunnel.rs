//! The three tunnels over UDP that NFStream looks into.

use chaff_abi::Mac;

use super::packet::{Ignored, Walk};

const GTP_PORT: u16 = 2152;
const TZSP_PORT: u16 = 37008;
const CAPWAP_PORT: u16 = 5247;

const GTP: u8 = 1;
const CAPWAP: u8 = 2;
const TZSP: u8 = 3;

/// What was found after a UDP header.
pub(super) enum Decoded {
    /// Nothing: the packet is what it is.
    Nothing,
    /// A packet of this IP version at [`Walk::at`], not to be looked into any further.
    Packet(u8),
    /// An IP header at [`Walk::at`].
    Ip,
    /// A frame at this byte.
    Frame(usize),
}

/// Whether UDP ports tell of a tunnel.
#[inline]
pub(super) fn is_port_of_one(ports: [u16; 2]) -> bool {
    let of_one = |port| matches!(port, GTP_PORT | TZSP_PORT | CAPWAP_PORT);
    of_one(ports[0]) || of_one(ports[1])
}

/// Looks for a tunnel behind the UDP header at `udp`.
#[inline]
pub(super) fn decode(walk: &mut Walk<'_>, udp: usize) -> Result<Decoded, Ignored> {
    if walk.frame.len() < udp + 8 {
        return Err(Ignored::Short);
    }
    let ports = [walk.frame.u16(udp), walk.frame.u16(udp + 2)];
    let body = udp + 8;
    if ports.contains(&GTP_PORT) && body + 8 < walk.frame.len() {
        return gtp(walk, body);
    }
    if ports.contains(&TZSP_PORT) {
        return tzsp(walk, body);
    }
    if ports.contains(&CAPWAP_PORT) {
        return Ok(capwap(walk, body));
    }
    Ok(Decoded::Nothing)
}

/// GTPv1-U (3GPP TS 29.281) with a user packet.
fn gtp(walk: &mut Walk<'_>, body: usize) -> Result<Decoded, Ignored> {
    let frame = walk.frame;
    let [flags, message] = frame.array(body);
    if flags >> 5 != 1 || message != 255 {
        return Ok(Decoded::Nothing);
    }
    let mut at = body + 8 + if flags & 7 != 0 { 4 } else { 0 };
    if flags & 4 != 0 {
        while at < frame.len() {
            let len = usize::from(frame.u8(at)) * 4;
            at += len;
            if len == 0 || at >= frame.len() {
                return Ok(Decoded::Nothing);
            }
            if frame.u8(at - 1) == 0 {
                break;
            }
        }
    }
    if at >= frame.len() {
        return Ok(Decoded::Nothing);
    }
    walk.tunnel = GTP;
    walk.at = at as u16;
    let at = usize::from(walk.at);
    let (version, needed) = match frame.u8(at) >> 4 {
        4 => (4, 20),
        6 => (6, 40),
        _ => return Err(Ignored::NotIp),
    };
    if frame.len() < at + needed {
        return Err(Ignored::Short);
    }
    Ok(Decoded::Packet(version))
}

/// TZSP with one tag before the frame; the tunnel id is set whatever follows.
fn tzsp(walk: &mut Walk<'_>, body: usize) -> Result<Decoded, Ignored> {
    let frame = walk.frame;
    if frame.len() < body + 4 {
        return Err(Ignored::Short);
    }
    walk.tunnel = TZSP;
    let tag = body + 4;
    if frame.array(body) != [1, 0, 0, 1] || tag >= frame.len() {
        return Ok(Decoded::Nothing);
    }
    let len = match frame.u8(tag) {
        0 | 1 => 1,
        _ if tag + 1 >= frame.len() => return Err(Ignored::Short),
        _ => usize::from(frame.u8(tag + 1)),
    };
    if tag + len >= frame.len() {
        return Err(Ignored::Short);
    }
    Ok(Decoded::Frame(tag + len))
}

/// CAPWAP data (RFC 5415) with an 802.11 header of 24 bytes and LLC.
fn capwap(walk: &mut Walk<'_>, body: usize) -> Decoded {
    let frame = walk.frame;
    if body + 1 >= frame.len() || frame.u8(body) & 15 != 0 {
        return Decoded::Nothing;
    }
    let wifi = body + usize::from((frame.u8(body + 1) & 0xf8) >> 1);
    if wifi + 32 >= frame.len() {
        return Decoded::Nothing;
    }
    walk.src_mac = Mac(frame.array(wifi + 10));
    walk.dst_mac = Mac(frame.array(wifi + 16));
    walk.ethertype = frame.u16(wifi + 30);
    walk.at = (wifi + 32) as u16;
    walk.tunnel = CAPWAP;
    Decoded::Ip
}
