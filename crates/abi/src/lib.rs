//! What Chaff's kernel programs and user space agree on.
//!
//! Start at [`FlowKey`] and [`Counters`]: the XDP and tcx programs fill them, the flow table merges them, and both
//! sides update them with the same functions, so an offline run and the kernel count alike. [`Nanos`] is the only
//! time type in Chaff's libraries. Everything here is `no_std`, free of padding, and independent of every other crate.
//!
//! ```
//! use chaff_abi::{Counters, Nanos, Sample};
//! let mut c = Counters::EMPTY;
//! c.add(Nanos::from_millis(1), Sample { wire: 74, bytes: 60, payload: 0, segments: 1, tcp_flags: 0x02 });
//! c.add(Nanos::from_millis(4), Sample { wire: 80, bytes: 66, payload: 6, segments: 1, tcp_flags: 0x18 });
//! assert_eq!((c.packets, c.bytes, c.iat_min), (2, 126, 3_000_000));
//! ```
//!
//! It does not parse packets (that is `chaff-flow` in user space and `gateway-ebpf` in the kernel).
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "std")]
extern crate std;

mod counters;
mod key;
mod meter;
mod owner;
mod time;

pub use counters::{Counters, CoverCounters, FlowValue, SEQUENCE_LEN, Sample, SequenceEntry};
pub use key::{DeviceKey, Dir, FlowKey, Mac};
pub use meter::{
    ABI_VERSION, CoverPeer, DirectRecord, HINT_LARGE, HINT_SMALL, HintHeader, HintState,
    MAX_DEVICES, MeterConfig, Reason, SLOT_RING, SlotCounters, constant, map, program,
};
pub use owner::{LocalPort, Owner, owner_map};
pub use time::Nanos;
