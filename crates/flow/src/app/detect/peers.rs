//! Peer to peer, currencies, messengers.

use super::super::names;
use super::{Match, Payload, when};

pub(super) fn tcp(p: &Payload<'_>) -> Match {
    when(
        Some(p.starts_with(b"\x13BitTorrent protocol")),
        names::BITTORRENT,
    )
    .or_else(|| when(is_bitcoin(p), names::BITCOIN))
    .or_else(|| when(is_whatsapp(p), names::WHATSAPP))
}

pub(super) fn udp(p: &Payload<'_>) -> Match {
    when(is_dht(p), names::BITTORRENT)
        .or_else(|| when(Some(p.starts_with(b"BT-SEARCH * HTTP")), names::BITTORRENT))
        .or_else(|| when(is_spotify(p), names::SPOTIFY))
}

/// BitTorrent's distributed table (BEP 5): a bencoded question or answer.
fn is_dht(p: &Payload<'_>) -> Option<bool> {
    const STARTS: [&[u8]; 6] = [
        b"d1:ad2:id20:",
        b"d1:rd2:id20:",
        b"d2:ip6:",
        b"d1:eli20",
        b"d1:ad2:",
        b"d1:rd2:",
    ];
    Some(STARTS.iter().any(|s| p.starts_with(s)) && p.bytes.ends_with(b"e"))
}

/// Bitcoin: the main network's magic and a command of text.
fn is_bitcoin(p: &Payload<'_>) -> Option<bool> {
    let command = p.bytes.get(4..16)?;
    Some(p.u32(0)? == 0xf9be_b4d9 && command[0].is_ascii_lowercase())
}

/// WhatsApp's own handshake.
fn is_whatsapp(p: &Payload<'_>) -> Option<bool> {
    let port = [443, 5222, 5223].iter().any(|n| p.has_port(*n));
    Some(
        port && (p.starts_with(b"ED\0\x01")
            || p.starts_with(b"WA\x05\x03")
            || p.starts_with(b"WA\x06\x03")),
    )
}

/// Spotify looking for its own in the local network.
fn is_spotify(p: &Payload<'_>) -> Option<bool> {
    Some(p.ports == [57621; 2] && p.starts_with(b"SpotUdp"))
}
