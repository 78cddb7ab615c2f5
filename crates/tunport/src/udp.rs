//! The outer UDP socket: constant header fields, never fragmented, batched.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chaff_sys::{Batch, set_option};
use chaff_tunnel::{Class, Datagram};

use crate::sys::{self, Name};

/// Messages received by one call.
pub(crate) type Room = Batch<8>;
/// Longest message: with UDP_GRO the kernel hands over several datagrams as one.
pub(crate) const MESSAGE: usize = 65_536;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The local queue was full.
    pub(crate) congested: bool,
    /// A datagram was longer than the path takes.
    pub(crate) too_big: bool,
}

/// The outer socket.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    dual: bool,
    segments: AtomicBool,
    /// Datagrams that the kernel did not take.
    pub(crate) errors: AtomicU64,
}

impl Udp {
    /// Binds `port` (0: any) on every address, IPv6 and IPv4 where the system has both.
    ///
    /// Outgoing packets carry `mark` (unless 0), DSCP 0, no fragments. `offload` asks for merged receives.
    ///
    /// # Errors
    /// What the system says; `PermissionDenied` when the mark needs CAP_NET_ADMIN.
    pub fn bind(port: u16, mark: u32, offload: bool) -> io::Result<Self> {
        let (socket, dual) = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
            Ok(socket) => (socket, true),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
            Err(_) => (UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?, false),
        };
        if mark != 0 {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark as i32)?;
        }
        let (v4, v6) = (libc::IPPROTO_IP, libc::IPPROTO_IPV6);
        set_option(&socket, v4, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        set_option(&socket, v4, libc::IP_TOS, 0)?;
        if dual {
            set_option(&socket, v6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
            set_option(&socket, v6, libc::IPV6_TCLASS, 0)?;
            // Label 0 rather than one made of this machine's state; kernels without the option send 0 anyway.
            let _old = set_option(&socket, v6, sys::IPV6_AUTOFLOWLABEL, 0);
        }
        const BUFFER: i32 = 8 << 20;
        for (plain, forced) in [
            (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE),
            (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE),
        ] {
            // Beyond the system's limit where allowed, else up to it.
            if set_option(&socket, libc::SOL_SOCKET, forced, BUFFER).is_err() {
                set_option(&socket, libc::SOL_SOCKET, plain, BUFFER)?;
            }
        }
        if offload {
            // Kernels without it hand over one datagram at a time.
            let _old = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            dual,
            segments: AtomicBool::new(offload),
            errors: AtomicU64::new(0),
        })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) fn try_clone_std(&self) -> io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    pub(crate) fn receive(&self, room: &mut Room) -> io::Result<usize> {
        room.receive(&self.socket)
    }

    /// Sends all datagrams, in runs of at most `most` (2 or more) of one size as one message where the kernel segments, else in
    /// batches. A full queue makes real packets wait a moment and drops cover.
    pub(crate) fn send(&self, datagrams: &[Datagram], most: usize) -> Sent {
        let mut done = Sent::default();
        let mut rest = datagrams;
        while let [first, ..] = rest {
            let segments = most > 1 && self.segments.load(Ordering::Relaxed);
            let run = if segments {
                run_length(rest, most.min(sys::SEND))
            } else {
                rest.len().min(sys::SEND)
            };
            let (now, later) = rest.split_at(run);
            let sent = if segments {
                let parts: Vec<&[u8]> = now.iter().map(AsRef::as_ref).collect();
                let to = Name::new(first.to, self.dual);
                sys::send_segments(&self.socket, &to, &parts, first.as_ref().len() as u16)
                    .map(|()| run)
            } else {
                let all: Vec<(Name, &[u8])> = now
                    .iter()
                    .map(|d| (Name::new(d.to, self.dual), d.as_ref()))
                    .collect();
                sys::send_many(&self.socket, &all)
            };
            match sent {
                Ok(n) => rest = &rest[n.max(1)..],
                Err(e) => rest = self.failed(&e, first, rest, later, &mut done),
            }
        }
        done
    }

    /// What is left to send after an error.
    fn failed<'d>(
        &self,
        error: &io::Error,
        first: &Datagram,
        rest: &'d [Datagram],
        later: &'d [Datagram],
        done: &mut Sent,
    ) -> &'d [Datagram] {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                done.congested = true;
                if first.class == Class::Cover || !self.wait_writable() {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    return &rest[1..];
                }
                rest
            }
            Some(libc::EINTR) => rest,
            // No checksum offload, an old kernel: one by one from now on.
            Some(libc::EIO | libc::EINVAL) if self.segments.swap(false, Ordering::Relaxed) => rest,
            Some(libc::EMSGSIZE) => {
                done.too_big = true;
                self.errors.fetch_add(1, Ordering::Relaxed);
                &rest[1..]
            }
            _ => {
                // Unreachable network and the like: the whole run fares alike.
                let lost = rest.len() - later.len();
                self.errors.fetch_add(lost as u64, Ordering::Relaxed);
                later
            }
        }
    }

    fn wait_writable(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fd = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fd, PollTimeout::from(10u8)).is_ok_and(|n| n > 0)
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Datagrams from the front that fit one segmented message: one destination, one size, only the last shorter.
fn run_length(datagrams: &[Datagram], most: usize) -> usize {
    let Some(first) = datagrams.first() else {
        return 0;
    };
    let size = first.as_ref().len();
    let mut run = 1;
    for d in datagrams.iter().take(most).skip(1) {
        if d.to != first.to || d.as_ref().len() > size || run * size > 60_000 {
            break;
        }
        run += 1;
        if d.as_ref().len() < size {
            break;
        }
    }
    run
}
