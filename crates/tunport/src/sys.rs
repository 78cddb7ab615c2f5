//! The system calls that neither the standard library nor nix has in a form that fits: sending
//! batches of datagrams with segmentation offload, turns of threads. All unsafe code of the crate is here, behind safe functions.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Datagrams sent by one call.
pub(crate) const SEND: usize = 64;

/// `linux/in6.h`; not in libc.
pub(crate) const IPV6_AUTOFLOWLABEL: i32 = 70;

fn check(result: libc::c_int) -> io::Result<usize> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// The descriptor of something that keeps it open for as long as it is borrowed.
pub(crate) fn borrow<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner holds the descriptor open, and is borrowed for as long as the result lives.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// As the kernel wants it (`linux/sched/types.h`, first version); not in nix, and not in every libc.
#[repr(C)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets how long the calling thread, an ordinary one, keeps the processor at a time, ns; 0: as long as all others. It gets no more
/// time for it, but sooner. Needs Linux 6.12; earlier kernels take no notice.
pub(crate) fn take_turns(ns: u64) -> io::Result<()> {
    // SAFETY: takes and gives numbers only; 0 is the calling thread. A result of -1 may be a nice value, so nothing is checked.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let wanted = Scheduling {
        size: size_of::<Scheduling>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: ns,
        deadline: 0,
        period: 0,
    };
    // SAFETY: `wanted` has the size that it says, and is alive through the call; the kernel only reads it. Thread 0 is the calling
    // one.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    check(result as libc::c_int).map(drop)
}

/// A socket address as the kernel wants it.
pub(crate) struct Name {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Name {
    /// `dual`: the socket is IPv6 and takes IPv4 addresses in their mapped form.
    pub(crate) fn new(address: SocketAddr, dual: bool) -> Self {
        // SAFETY: sockaddr_storage is plain data; all zeros is a valid value of it.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        let ip = match (address.ip(), dual) {
            (IpAddr::V4(a), true) => IpAddr::V6(a.to_ipv6_mapped()),
            (ip, _) => ip,
        };
        let len = match ip {
            IpAddr::V4(a) => {
                // SAFETY: the storage is larger than and aligned for every socket address.
                let v4 = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
                v4.sin_family = libc::AF_INET as libc::sa_family_t;
                v4.sin_port = address.port().to_be();
                v4.sin_addr.s_addr = u32::from_ne_bytes(a.octets());
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(a) => {
                // SAFETY: as above.
                let v6 = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
                v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                v6.sin6_port = address.port().to_be();
                v6.sin6_addr.s6_addr = a.octets();
                if let SocketAddr::V6(full) = address {
                    v6.sin6_scope_id = full.scope_id();
                }
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self {
            storage,
            len: len as libc::socklen_t,
        }
    }
}

/// Room of a control message that holds one 16-bit number.
#[repr(C, align(8))]
struct Control([u8; 32]);

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

/// Sends `parts` (at most [`SEND`]) to `to` as one message that the kernel cuts into datagrams of `segment` bytes, the
/// last of which may be shorter. Never waits.
pub(crate) fn send_segments(
    socket: &UdpSocket,
    to: &Name,
    parts: &[&[u8]],
    segment: u16,
) -> io::Result<()> {
    let mut iov = [part(&[]); SEND];
    let count = parts.len().min(SEND);
    iov.iter_mut().zip(parts).for_each(|(v, p)| *v = part(p));
    let mut control = Control([0; 32]);
    // SAFETY: msghdr is plain data; all zeros is its valid empty value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw const to.storage).cast_mut().cast();
    message.msg_namelen = to.len;
    message.msg_iov = iov.as_mut_ptr();
    message.msg_iovlen = count as _;
    if count > 1 {
        // SAFETY: these compute sizes and pointers inside `control`, which has room for one header and a u16 (24 bytes
        // aligned to 8), and outlives the call.
        unsafe {
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(header)
                .cast::<u16>()
                .write_unaligned(segment);
        }
    }
    // SAFETY: the message points to the name, the parts and the control message, all alive until the call returns; the
    // kernel only reads them.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends up to [`SEND`] datagrams, each to its own address; returns how many went out, from the front. Never waits.
pub(crate) fn send_many(socket: &UdpSocket, datagrams: &[(Name, &[u8])]) -> io::Result<usize> {
    let count = datagrams.len().min(SEND);
    let mut iov = [part(&[]); SEND];
    // SAFETY: mmsghdr is plain data; all zeros is its valid empty value.
    let mut headers: [libc::mmsghdr; SEND] = unsafe { zeroed() };
    for (i, (to, bytes)) in datagrams.iter().take(count).enumerate() {
        iov[i] = part(bytes);
        headers[i].msg_hdr.msg_name = (&raw const to.storage).cast_mut().cast();
        headers[i].msg_hdr.msg_namelen = to.len;
        headers[i].msg_hdr.msg_iov = &raw mut iov[i];
        headers[i].msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the first `count` headers point to names and parts that outlive the call; the kernel only reads them.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    check(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_arrive_as_single_datagrams() {
        for dual in [false, true] {
            let at = if dual { "[::]:0" } else { "127.0.0.1:0" };
            let Ok(socket) = UdpSocket::bind(at) else {
                eprintln!("skipped: no IPv6 here");
                continue;
            };
            let to = UdpSocket::bind("127.0.0.1:0").expect("binds");
            let _gro = chaff_sys::set_option(&to, libc::SOL_UDP, libc::UDP_GRO, 1);
            let name = Name::new(to.local_addr().expect("bound"), dual);
            let all: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i; 200]).collect();
            let mut parts: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
            parts[4] = &all[4][..77];
            send_segments(&socket, &name, &parts, 200).expect("sends");
            let single = [(
                Name::new(to.local_addr().expect("bound"), dual),
                &all[2][..],
            )];
            assert_eq!(send_many(&socket, &single).expect("sends"), 1);
            let mut room = crate::udp::Room::new(crate::udp::MESSAGE);
            let mut got = Vec::new();
            while got.len() < 6 {
                if room.receive(&to).is_ok() {
                    got.extend(room.datagrams().map(|(from, d)| {
                        assert!(from.is_ipv4());
                        (d[0], d.len())
                    }));
                }
            }
            let want = [(0, 200), (1, 200), (2, 200), (3, 200), (4, 77), (2, 200)];
            assert_eq!(got, want);
        }
    }
}
