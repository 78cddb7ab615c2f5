//! Socket options.

use std::io;
use std::os::fd::AsRawFd;

use crate::check;

/// Sets an integer socket option.
///
/// # Errors
/// What the system says.
pub fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option value points to an i32 that lives through the call, with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}
