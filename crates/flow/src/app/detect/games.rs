//! Games.

use super::super::names;
use super::{Match, Payload, when};

pub(super) fn udp(p: &Payload<'_>) -> Match {
    when(is_source_query(p), names::SOURCE_ENGINE)
}

pub(super) fn tcp(p: &Payload<'_>) -> Match {
    when(is_steam(p), names::STEAM)
}

/// Valve's server query.
fn is_source_query(p: &Payload<'_>) -> Option<bool> {
    Some(p.starts_with(b"\xff\xff\xff\xffTSource Engine Query\0"))
}

/// Steam's connection manager: length, then its magic.
fn is_steam(p: &Payload<'_>) -> Option<bool> {
    Some(p.bytes.get(4..8)? == b"VT01")
}
