//! Cover datagrams: whoever has the key can tell them from anything else, and nobody else reads more than size and time.
//!
//! Start at [`Sealer`] (gateway: `cover -> wire -> network`) and [`Opener`] (sink: `network -> wire -> count and throw
//! away`). Both directions use the same format with different keys. The bytes, with `n` the UDP payload length:
//!
//! | bytes | content |
//! | --- | --- |
//! | `0..8` | epoch `u16`, stream `u16`, counter `u32` (network byte order), masked by a keystream block that the tag selects |
//! | `8..n-16` | encrypted body: kind `u8`, version `u8` = 1, length `u16`, that many bytes, zeros; too short for these four (`n < 28`) means bare cover |
//! | `n-16..n` | keyed BLAKE2s-128 over the unmasked header and the encrypted body |
//!
//! Keys are HKDF-SHA256 of one 32-byte pre-shared [`Key`] with `"chaff v1" | direction | epoch | purpose`; the mask key
//! has no epoch, so a receiver unmasks first and then knows the epoch. An epoch is ten minutes of Unix time.
//!
//! ```
//! use chaff_abi::{Dir, Nanos};
//! use chaff_wire::{Key, Kind, Opener, Sealer};
//! let key = Key::parse("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")?;
//! let now = Nanos::from_secs(1_800_000_000); // Unix time comes from the caller
//! let mut sealer = Sealer::new(&key, Dir::Out, 7, now);
//! let mut opener = Opener::new(&key, Dir::Out);
//! let mut buf = [0; 1400];
//! let len = sealer.seal(now, Kind::Report, b"seen 41", 200, &mut buf)?.len();
//! let mut copy = buf;
//! let opened = opener.open(now, &mut buf[..len])?;
//! assert_eq!((len, opened.kind, opened.body), (200, Kind::Report, &b"seen 41"[..]));
//! assert_eq!(opener.open(now, &mut copy[..len]).unwrap_err().name(), "replay");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it does not do: send, receive, or read a clock; hide sizes, times or addresses; remember anything over a restart.
//! A restarted [`Opener`] has an empty replay memory, so datagrams of the last twelve minutes can be played to it once more.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod epoch;
mod error;
mod format;
mod key;
mod open;
mod seal;
mod window;

pub use epoch::{EPOCH, NEXT_ACCEPTED, PREVIOUS_ACCEPTED};
pub use error::WireError;
pub use format::{BODY_PREFIX, Header, Kind, MAX_LEN, MIN_LEN, OVERHEAD, VERSION};
pub use key::{Key, KeyError};
pub use open::{MAX_STREAMS, Opened, Opener};
pub use seal::Sealer;
pub use window::WINDOW;
