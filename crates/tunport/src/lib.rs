//! What a [`chaff_tunnel::Tunnel`] needs to live on a Linux machine: a TUN interface, a UDP socket, threads, routes and
//! firewall rules.
//!
//! - [`Driver`] moves packets: engine `fast` (segmentation offload on both sides, three threads) or `portable` (one
//!   thread, a current-thread runtime).
//! - [`netlink`] sets addresses, routes and rules without other programs; [`nft`] needs the `nft` program.
//! - [`Gate`] composes them for a gateway (policy routing, kill switch or fall-back), [`Exit`] for the far end (NAT).
//! - [`pair`] makes and reads key files; [`defaults`] are those of both ends.
//!
//! Everything set up is removed again when its owner is dropped, and what a killed process left is replaced at the next
//! start.
#![warn(missing_docs)]

pub mod defaults;
mod driver;
mod fast;
mod gate;
pub mod netlink;
pub mod nft;
pub mod pair;
mod portable;
mod sys;
mod turns;
mod udp;

pub use driver::{Driver, DriverReport, EngineName, Heartbeat, Options, RECORD};
pub use gate::{Exit, ExitOptions, Gate, GateOptions, WhenDown};
pub use udp::Udp;
