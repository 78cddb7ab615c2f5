//! Settings of a tunnel end.

use std::net::SocketAddr;

use chaff_abi::Nanos;
use chaff_cover::{CoverError, EnvelopeConfig};

use crate::allowed::Prefix;
use crate::bins::Profile;
use crate::key::{PresharedKey, PublicKey};

/// Settings that all peers of a tunnel share.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size bins.
    pub profile: Profile,
    /// MTU of the inner side, which is the largest bin; 1280 to 8920.
    pub mtu: u16,
    /// Longest time that a real packet may wait for the slot of a dummy; zero sends it at once.
    pub hold: Nanos,
    /// Time between the moments at which data messages leave, real ones and cover alike, at most 100 ms; zero lets each leave when
    /// it comes. All that waits leaves as one burst, in an order that does not tell what is cover.
    pub clock: Nanos,
    /// A cover process of this end's own, for both directions; dummies of [`Tunnel::plan`](crate::Tunnel::plan) come on top.
    pub envelope: Option<EnvelopeConfig>,
    /// Keep a session at all times, so that cover never pauses. Otherwise only real packets start handshakes, and dummies
    /// without a session are dropped.
    pub always_on: bool,
    /// Silence of the far end after data was sent that makes a new handshake. At least 15 s as in WireGuard, or 4 s while
    /// the far end sends the cover it is asked for.
    pub silence: Nanos,
    /// Cover bytes per second on the wire, IP headers included, per peer.
    pub cover_rate: u64,
    /// Cover bytes at once above the rate; at least one packet of the MTU is always in it.
    pub cover_burst: u64,
    /// Downlink cover that a peer can ask for.
    pub downlink: DownlinkConfig,
    /// Handshakes per second and source address answered without a cookie. With one no source has more than as many, or 20 where
    /// that is more, worked through; an IPv6 network of 64 bits counts as a source.
    pub handshakes_per_second: u64,
    /// Handshakes per second of all sources above which each needs a cookie, so that forged addresses gain nothing. Four times as
    /// many are worked through at most: sessions that stand go before new ones.
    pub handshakes_in_all: u64,
    /// Real packets that wait for a session, and that are held, per peer; beyond this the oldest goes.
    pub max_waiting: usize,
    /// Let the session layer read the system's clock to erase old keys. Off only in virtual time, where keys are not
    /// secret anyway; old sessions are refused there just the same.
    pub erase_keys: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: Profile::Default,
            mtu: 1_420,
            hold: Nanos::ZERO,
            clock: Nanos::ZERO,
            envelope: None,
            always_on: false,
            silence: Nanos::from_secs(5),
            cover_rate: 250_000,
            cover_burst: 500_000,
            downlink: DownlinkConfig::default(),
            handshakes_per_second: 100,
            handshakes_in_all: 250,
            max_waiting: 256,
            erase_keys: true,
        }
    }
}

/// Caps of what a peer can make this end send.
#[derive(Clone, Debug)]
pub struct DownlinkConfig {
    /// Downlink cover ends when no schedule arrived for this long.
    pub lease: Nanos,
    /// Bytes sent as cover for each authentic byte received.
    pub ratio: f64,
    /// Bytes allowed before the ratio counts; unspent credit never exceeds this and one lease at full rate.
    pub allowance: u64,
    /// Most bytes per second, headers included.
    pub bytes_per_second: u64,
    /// Dummies waiting.
    pub max_pending: usize,
    /// Farthest ahead that a dummy may be asked for.
    pub max_ahead: Nanos,
}

impl Default for DownlinkConfig {
    fn default() -> Self {
        Self {
            lease: Nanos::from_secs(5),
            ratio: 4.0,
            allowance: 64 * 1024,
            bytes_per_second: 250_000,
            max_pending: 16_384,
            max_ahead: Nanos::from_secs(10),
        }
    }
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its public key.
    pub public_key: PublicKey,
    /// Preshared key.
    pub preshared_key: Option<PresharedKey>,
    /// Inner addresses that it owns.
    pub allowed: Vec<Prefix>,
    /// Where it is, if known before it speaks.
    pub endpoint: Option<SocketAddr>,
}

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No peer, or too many.
    #[error("{0} peers, allowed are 1 to 1024")]
    Peers(usize),
    /// Two peers share a key, or a peer has this end's own key.
    #[error("the public key {0} is there twice")]
    Duplicate(PublicKey),
    /// The envelope cannot be.
    #[error("envelope: {0}")]
    Envelope(CoverError),
    /// A number is out of range.
    #[error("{field} is {value}, allowed is {allowed}")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
}
