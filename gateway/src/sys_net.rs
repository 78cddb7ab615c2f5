//! The system calls that the standard library has no safe form of: batches of datagrams to
//! send, a marked socket, a wait with an absolute deadline. All unsafe code of the cover channel is here, behind safe functions.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::AtomicU32;

use chaff_abi::Nanos;
use chaff_sys::set_option;

/// Datagrams sent by one system call at most.
pub const MAX_BATCH: usize = 64;

fn check(result: libc::c_long) -> io::Result<usize> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// The socket that cover leaves through: connected to the sink, marked, never fragmented, behind real traffic.
///
/// `SO_MARK` is `mark` unless that is 0. `SO_PRIORITY` is the lowest (`TC_PRIO_FILLER`): it orders the local queue
/// and does not show on the wire, unlike a DSCP value, which would tell cover apart. The don't-fragment bit is set.
///
/// # Errors
/// What the system says; `PermissionDenied` when the mark needs CAP_NET_ADMIN or CAP_NET_RAW.
pub fn open_cover_socket(local: SocketAddr, sink: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    const FILLER: i32 = 1;
    const BUFFER: i32 = 1 << 20;
    let socket = UdpSocket::bind(local)?; // close-on-exec
    if mark != 0 {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark as i32)?;
    }
    set_option(&socket, libc::SOL_SOCKET, libc::SO_PRIORITY, FILLER)?;
    for (plain, forced) in [
        (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE),
        (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE),
    ] {
        // Beyond the system's limit where allowed, else up to it.
        if set_option(&socket, libc::SOL_SOCKET, forced, BUFFER).is_err() {
            set_option(&socket, libc::SOL_SOCKET, plain, BUFFER)?;
        }
    }
    if sink.is_ipv4() {
        set_option(
            &socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        )?;
    } else {
        set_option(
            &socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        )?;
    }
    socket.connect(sink)?;
    Ok(socket)
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data of integers and pointers; all zero is its valid empty value.
    unsafe { std::mem::zeroed() }
}

fn iovec(bytes: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.cast(),
        iov_len: len,
    }
}

/// Sends up to [`MAX_BATCH`] datagrams on a connected socket in one call, without blocking.
///
/// Returns how many went out, from the front.
///
/// # Errors
/// The error of the first datagram when none went out.
pub fn send_batch(socket: &UdpSocket, datagrams: &[Vec<u8>]) -> io::Result<usize> {
    let datagrams = &datagrams[..datagrams.len().min(MAX_BATCH)];
    let mut parts = [iovec(ptr::null_mut(), 0); MAX_BATCH];
    let mut headers = [empty_header(); MAX_BATCH];
    for (i, bytes) in datagrams.iter().enumerate() {
        parts[i] = iovec(bytes.as_ptr().cast_mut(), bytes.len());
        headers[i].msg_hdr.msg_iov = &raw mut parts[i];
        headers[i].msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the first `datagrams.len()` headers point to parts of this frame, which point to the datagrams' bytes;
    // all outlive the call, and the kernel only reads the bytes.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            datagrams.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    check(sent.into())
}

/// Sleeps while `word` is `expected`, until woken or until `deadline` on the monotonic clock.
///
/// One system call with an absolute deadline: a thread that is delayed between reading the clock and sleeping does
/// not sleep longer for it, and a change of `word` before the call is not missed. Returns early at will.
pub fn wait_until(word: &AtomicU32, expected: u32, deadline: Option<Nanos>) {
    let time = deadline.map(|d| libc::timespec {
        tv_sec: (d.0 / 1_000_000_000).min(i32::MAX as u64) as libc::time_t,
        tv_nsec: (d.0 % 1_000_000_000) as _,
    });
    // SAFETY: `word` is an aligned 32-bit word and `time` a timespec, both alive through the call; the kernel reads them.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            expected,
            time.as_ref().map_or(ptr::null(), ptr::from_ref),
            ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        );
    }
}

/// Wakes one thread that sleeps in [`wait_until`] on `word`.
pub fn wake(word: &AtomicU32) {
    // SAFETY: `word` is an aligned 32-bit word that is alive through the call; waking only uses its address.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        );
    }
}

/// Names of the interfaces of this thread's network namespace. (What `/sys/class/net` shows is that of whoever mounted
/// it.)
pub fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let lines = text.lines().skip(2);
    let names = lines.filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// For errors: `here are: lo, eth0`, at most eight.
pub fn there_are(names: &[String]) -> String {
    let shown = names.get(..8).unwrap_or(names).join(", ");
    let more = if names.len() > 8 { ", ..." } else { "" };
    format!("here are: {shown}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    use chaff_sys::Batch;
    use chaff_sys::clock::monotonic;

    fn pair() -> (UdpSocket, UdpSocket) {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cover = open_cover_socket(
            "127.0.0.1:0".parse().unwrap(),
            sink.local_addr().unwrap(),
            0,
        )
        .unwrap();
        (cover, sink)
    }

    #[test]
    fn a_batch_arrives_as_sent() {
        let (cover, sink) = pair();
        let datagrams: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i; 100 + usize::from(i)]).collect();
        assert_eq!(send_batch(&cover, &datagrams).unwrap(), 5);
        let mut batch = Batch::<8>::new(2_048);
        let mut got = Vec::new();
        while got.len() < 5 {
            if batch.receive(&sink).is_ok() {
                got.extend(batch.datagrams().map(|(_, d)| d.to_vec()));
            }
        }
        assert_eq!(got, datagrams);
    }

    #[test]
    fn more_than_a_batch_is_sent_in_part() {
        let (cover, _sink) = pair();
        let datagrams = vec![vec![0u8; 30]; MAX_BATCH + 5];
        assert_eq!(send_batch(&cover, &datagrams).unwrap(), MAX_BATCH);
        assert_eq!(send_batch(&cover, &[]).unwrap(), 0);
    }

    #[test]
    fn a_wait_ends_at_its_absolute_deadline() {
        let word = AtomicU32::new(7);
        let deadline = monotonic() + Nanos::from_millis(5);
        while monotonic() < deadline {
            wait_until(&word, 7, Some(deadline));
        }
        // Neither a changed word nor a past deadline sleeps: these would hang otherwise.
        wait_until(&word, 8, None);
        wait_until(&word, 7, Some(Nanos::ZERO));
        word.store(8, Ordering::SeqCst);
        wake(&word);
    }

    fn option(socket: &UdpSocket, level: i32, name: i32) -> i32 {
        let (mut value, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: value and length are valid and match for an integer option.
        unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        value
    }

    #[test]
    fn cover_is_marked_unfragmented_and_last_in_the_queue() {
        let (local, sink) = (
            "127.0.0.1:0".parse().unwrap(),
            "127.0.0.1:9".parse().unwrap(),
        );
        let socket = match open_cover_socket(local, sink, 0xc0ffee) {
            Ok(socket) => socket,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_NET_ADMIN or CAP_NET_RAW");
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let option = |level, name| option(&socket, level, name);
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_MARK), 0xc0ffee);
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_PRIORITY), 1);
        assert_eq!(
            option(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            libc::IP_PMTUDISC_DO
        );
        assert_eq!(socket.peer_addr().unwrap(), sink);
        let error = send_batch(&socket, &[vec![0u8; 65_536]]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }
}
