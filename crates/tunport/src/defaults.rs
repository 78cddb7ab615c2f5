//! What both ends of a tunnel do unless they are told otherwise, and the ranges of it.

use chaff_abi::Nanos;

/// Name of the interface.
pub const INTERFACE: &str = "chaff0";
/// Longest time that a real packet waits to take the place of a dummy.
pub const HOLD: Nanos = Nanos::ZERO;
/// The most for [`HOLD`].
pub const MOST_HOLD: Nanos = Nanos::from_secs(1);
/// Time between the moments at which packets leave.
pub const CLOCK: Nanos = Nanos::from_millis(5);
/// The most for [`CLOCK`].
pub const MOST_CLOCK: Nanos = Nanos::from_millis(100);
/// Datagrams that leave in one burst, 1 or more.
pub const BURST: usize = 8;
/// The most for [`BURST`].
pub const MOST_BURST: usize = 64;
/// Whether what comes out of the tunnel takes this machine's address.
pub const MASQUERADE: bool = true;
