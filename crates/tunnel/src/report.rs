//! Counts of a tunnel end.

use std::collections::BTreeMap;

use chaff_cover::Tally;
use serde::Serialize;

use crate::downlink::DownlinkReport;

/// What a peer's side of the tunnel did so far. Bytes are UDP payload unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PeerReport {
    /// Real packets sent.
    pub real_out: Tally,
    /// Inner bytes of these, without padding.
    pub real_out_inner: u64,
    /// Real packets received, inner bytes.
    pub real_in: Tally,
    /// Dummies sent, schedules and reports among them.
    pub cover_out: Tally,
    /// Dummies received, inner bytes.
    pub cover_in: Tally,
    /// Dummies whose slot a waiting real packet took.
    pub replaced: u64,
    /// Dummies not sent, by reason: `no_session`, `budget`, `month`, `paused`, `congested`, `late`, `unasked` (a downlink dummy
    /// that no message could ask for in time).
    pub cover_dropped: BTreeMap<&'static str, u64>,
    /// Real packets not sent, by reason: `too_big`, `no_session` (waited too long), `no_endpoint`, `queue` (too
    /// many waited for the clock).
    pub real_dropped: BTreeMap<&'static str, u64>,
    /// Messages received but not used, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Handshake messages sent, initiations and responses.
    pub handshakes_out: u64,
    /// Sessions established.
    pub sessions: u64,
    /// Keepalives sent and received.
    pub keepalives: [u64; 2],
    /// Times that the peer's address changed.
    pub roamed: u64,
    /// Share of the messages sent that did not arrive, as the far end's reports say; absent before the second report.
    pub loss: Option<f64>,
    /// Downlink cover for this peer.
    pub downlink: DownlinkReport,
}

/// Counts of a tunnel end.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TunnelReport {
    /// Schema version.
    pub version: u32,
    /// MTU in force.
    pub mtu: u16,
    /// Datagrams that belong to no peer, by reason; `flood`: more handshakes than are worked through.
    pub refused: BTreeMap<&'static str, u64>,
    /// Inner packets without a peer to send them to.
    pub no_peer: u64,
    /// Inner packets that mean something on their own link only, such as router solicitations.
    pub local: u64,
    /// Cookie replies sent.
    pub cookies: u64,
    /// By peer, in the order of the configuration.
    pub peers: Vec<PeerReport>,
}
