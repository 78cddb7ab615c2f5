//! System calls that several programs need and the standard library has in no form that fits: [`clock`]s in
//! [`chaff_abi::Nanos`], batches of received datagrams ([`Batch`]), socket options, and how exactly a thread is woken
//! ([`thread`]). Linux only.
//!
//! ```
//! use std::net::UdpSocket;
//! let (here, there) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
//! here.send_to(b"cover", there.local_addr()?)?;
//! let mut batch = chaff_sys::Batch::<8>::new(2_048);
//! assert_eq!(batch.receive(&there)?, 1);
//! for (from, datagram) in batch.datagrams() {
//!     assert_eq!((from, &*datagram), (here.local_addr()?, &b"cover"[..]));
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! System calls of one program only are with that program.
#![warn(missing_docs)]

mod batch;
pub mod clock;
mod socket;
pub mod thread;

pub use batch::Batch;
pub use socket::set_option;

/// The count that a call returned, or the error that it left behind.
fn check(result: libc::c_int) -> std::io::Result<usize> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}
