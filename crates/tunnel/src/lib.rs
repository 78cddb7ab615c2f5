//! WireGuard with cover inside: one end of a tunnel as a state machine.
//!
//! Real packets are padded to size bins, dummies are drawn from the same bins and look like any other message, and the
//! far end sends dummies when asked. To a stock WireGuard peer the padding is trailing zeros and a dummy a packet of no known
//! version: both are dropped silently. The session layer is gotatun's `noise` module; its timers are not used: they are
//! kept here, on the caller's clock, so that the same code runs live and in virtual time with exact sizes on the wire.
//!
//! Start at [`Tunnel`]. [`conf`] reads and writes `wg`-style files. Sockets, interfaces and threads are elsewhere
//! (`chaff-tunport`).
//!
//! ```
//! use chaff_abi::Nanos;
//! use chaff_tunnel::{Config, PeerConfig, PrivateKey, Tunnel};
//! # use rand::SeedableRng;
//! # let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
//! let (here, there) = (PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng));
//! let peer = PeerConfig {
//!     public_key: there.public(),
//!     preshared_key: None,
//!     allowed: vec!["0.0.0.0/0".parse()?],
//!     endpoint: Some("192.0.2.7:51820".parse()?),
//! };
//! let mut tunnel = Tunnel::new(&here, Config::default(), &[peer], [7; 32], Nanos::ZERO)?;
//! tunnel.handle_inner(Nanos::ZERO, &[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 7, 0, 2, 192, 0, 2, 9]);
//! let initiation = tunnel.poll_datagram().ok_or("a real packet starts a handshake")?;
//! assert_eq!(initiation.as_ref().len(), 148);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Bounds: waiting and held packets, planned dummies, schedule entries, sessions and indices per peer all have a size, and
//! what exceeds it is counted: at most 8 MB a peer at an MTU of 1420, whatever it sends or asks for. Handshakes beyond a number
//! per second have to prove their address, and are bounded even then. Nothing here answers a datagram that is not authentic, except with a cookie under load.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod allowed;
mod bins;
mod budget;
pub mod conf;
mod config;
mod downlink;
pub mod dummy;
mod flood;
pub mod inner;
mod key;
mod peer;
mod report;
mod tunnel;

pub use allowed::{Prefix, PrefixError};
pub use bins::{Bins, MAX_MTU, MIN_BIN, MIN_MTU, Profile};
pub use budget::{MonthBudget, month_of};
pub use chaff_cover::Tally;
pub use config::{Config, ConfigError, DownlinkConfig, PeerConfig};
pub use downlink::DownlinkReport;
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use report::{PeerReport, TunnelReport};
pub use tunnel::{Class, Datagram, Event, InnerPacket, Seen, Tunnel};
