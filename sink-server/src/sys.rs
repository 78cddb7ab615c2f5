//! The system calls that the standard library lacks: batched receive and a wait with nanosecond timeout.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Datagrams taken from the socket at once.
pub(crate) const BATCH: usize = 64;
/// Room for one datagram, bytes. Longer ones are cut and then fail authentication.
pub(crate) const ROOM: usize = 2_048;

/// Buffers of a batch.
pub(crate) struct Batch {
    buffers: Vec<[u8; ROOM]>,
    names: Vec<libc::sockaddr_storage>,
    lens: [usize; BATCH],
}

impl Batch {
    /// Makes room for [`BATCH`] datagrams.
    pub(crate) fn new() -> Self {
        // SAFETY: sockaddr_storage is plain data; all zeros is a valid value of it.
        let name: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Self {
            buffers: vec![[0; ROOM]; BATCH],
            names: vec![name; BATCH],
            lens: [0; BATCH],
        }
    }

    /// Receives what is there without waiting, and returns how many datagrams.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut iovecs: [libc::iovec; BATCH] = std::array::from_fn(|i| libc::iovec {
            iov_base: self.buffers[i].as_mut_ptr().cast(),
            iov_len: ROOM,
        });
        // SAFETY: mmsghdr is plain data; all zeros is a valid value of it.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (i, h) in headers.iter_mut().enumerate() {
            h.msg_hdr.msg_name = std::ptr::from_mut(&mut self.names[i]).cast();
            h.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            h.msg_hdr.msg_iov = &raw mut iovecs[i];
            h.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points to a name, an iovec and a buffer that live in `self` or on this stack frame until
        // the call returns, with their true lengths; the descriptor is open as `socket` is borrowed.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if n < 0 {
            let e = io::Error::last_os_error();
            let nothing =
                [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&e.kind());
            return if nothing { Ok(0) } else { Err(e) };
        }
        let n = n as usize;
        for (len, h) in self.lens.iter_mut().zip(&headers[..n]) {
            *len = (h.msg_len as usize).min(ROOM);
        }
        Ok(n)
    }

    /// Sender and bytes of datagram `i` of the last batch; `None` when the sender's address is of an unknown family.
    pub(crate) fn datagram(&mut self, i: usize) -> Option<(SocketAddr, &mut [u8])> {
        let from = address(&self.names[i])?;
        Some((from, &mut self.buffers[i][..self.lens[i]]))
    }
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, which is smaller than the storage.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in6, which is smaller than the storage.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            Some(
                (
                    Ipv6Addr::from(v6.sin6_addr.s6_addr),
                    u16::from_be(v6.sin6_port),
                )
                    .into(),
            )
        }
        _ => None,
    }
}

/// Waits until the socket has something, the time is over, or a signal came.
pub(crate) fn wait(socket: &UdpSocket, timeout: Duration) -> io::Result<()> {
    let mut fd = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let time = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    };
    // SAFETY: one pollfd and a timespec on this stack frame, and no signal mask.
    let n = unsafe { libc::ppoll(&raw mut fd, 1, &raw const time, std::ptr::null()) };
    if n < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::Interrupted {
            Ok(())
        } else {
            Err(e)
        };
    }
    Ok(())
}

/// Asks for a receive buffer of `bytes`; the kernel may give less.
pub(crate) fn receive_buffer(socket: &UdpSocket, bytes: i32) {
    // SAFETY: the option value is an int on this stack frame, with its true length.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const bytes).cast(),
            size_of::<i32>() as libc::socklen_t,
        );
    }
}

/// The monotonic clock.
pub(crate) fn monotonic() -> chaff_abi::Nanos {
    clock(libc::CLOCK_MONOTONIC)
}

/// The wall clock, since the Unix epoch.
pub(crate) fn unix() -> chaff_abi::Nanos {
    clock(libc::CLOCK_REALTIME)
}

fn clock(id: libc::clockid_t) -> chaff_abi::Nanos {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the timespec is on this stack frame; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(id, &raw mut t) };
    chaff_abi::Nanos::from_secs(t.tv_sec as u64) + chaff_abi::Nanos(t.tv_nsec as u64)
}
