//! How soon the calling thread runs.

use std::io;

use crate::check;

/// Makes the calling thread real-time (`SCHED_FIFO`), not its children.
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_NICE or a sufficient RLIMIT_RTPRIO.
pub fn make_realtime(priority: i32) -> io::Result<()> {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `param` is a valid sched_param alive through the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    check(result).map(drop)
}

/// Sets how late the kernel may wake the calling thread to save power to the least; the default is 50 µs. Real-time
/// threads have none.
pub fn wake_precisely() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}
