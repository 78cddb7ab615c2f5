//! Several datagrams by one system call.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::check;

/// Room of a control message that holds one 16-bit or 32-bit number.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 32]);

/// Room for `N` messages of a UDP socket; allocated once. A message is one datagram, or with UDP_GRO several of one size
/// that the kernel put together.
pub struct Batch<const N: usize> {
    bytes: Vec<u8>,
    each: usize,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    lens: [usize; N],
    /// Datagram sizes of messages that hold several.
    segments: [usize; N],
    filled: usize,
}

impl<const N: usize> Batch<N> {
    /// Makes room for messages of up to `each` bytes, at least 1; longer ones are cut.
    pub fn new(each: usize) -> Self {
        let each = each.max(1);
        // SAFETY: sockaddr_storage is plain data; all zeros is a valid value of it.
        let name: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Self {
            bytes: vec![0; each * N],
            each,
            names: vec![name; N],
            controls: vec![Control([0; 32]); N],
            lens: [0; N],
            segments: [0; N],
            filled: 0,
        }
    }

    /// Receives what is there, without waiting; returns the number of messages, at least 1.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, or what the network said of an earlier datagram; nothing is received then.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.filled = 0;
        let none = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut parts = [none; N];
        // SAFETY: mmsghdr is plain data; all zeros is its valid empty value.
        let mut headers: [libc::mmsghdr; N] = unsafe { std::mem::zeroed() };
        for (i, room) in self.bytes.chunks_exact_mut(self.each).enumerate() {
            parts[i].iov_base = room.as_mut_ptr().cast();
            parts[i].iov_len = room.len();
            let h = &mut headers[i].msg_hdr;
            h.msg_name = (&raw mut self.names[i]).cast();
            h.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            h.msg_iov = &raw mut parts[i];
            h.msg_iovlen = 1;
            h.msg_control = (&raw mut self.controls[i]).cast();
            h.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: every header points to a name, a part, a buffer and a control message inside `self` or this frame, disjoint,
        // with their true lengths, borrowed mutably until the call returns; no timeout is passed.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                N as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let received = check(received)?;
        for (i, header) in headers.iter().enumerate().take(received) {
            self.lens[i] = (header.msg_len as usize).min(self.each);
            self.segments[i] = segment_size(&header.msg_hdr).unwrap_or(self.each);
        }
        self.filled = received;
        Ok(received)
    }

    /// Sender and bytes of every datagram of the last [`Batch::receive`], as the socket says it: on an IPv6 socket IPv4
    /// addresses are mapped ones.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        let rooms = self.bytes.chunks_exact_mut(self.each);
        let messages = rooms.zip(&self.names).zip(self.lens).zip(self.segments);
        messages
            .take(self.filled)
            .filter_map(|(((room, name), len), segment)| {
                Some((address(name)?, &mut room[..len], segment))
            })
            .flat_map(|(from, bytes, segment)| {
                let empty: Option<&mut [u8]> = bytes.is_empty().then_some(&mut []);
                let all = bytes.chunks_mut(segment).chain(empty);
                all.map(move |datagram| (from, datagram))
            })
    }
}

/// `None` for an unknown family.
fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, which is smaller than the storage.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in6, which is smaller than the storage.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some((ip, u16::from_be(v6.sin6_port)).into())
        }
        _ => None,
    }
}

/// The datagram size that the kernel says of a message it put together.
fn segment_size(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the control buffer and set its length; the macros stay inside it, and a UDP_GRO message
    // holds an int.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                let size = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
                return usize::try_from(size).ok().filter(|s| *s > 0);
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_as_sent_with_their_sender_and_long_ones_are_cut() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (Ok(here), Ok(there)) = (UdpSocket::bind(at), UdpSocket::bind(at)) else {
                eprintln!("skipped: no {at} here");
                continue;
            };
            let to = there.local_addr().unwrap();
            for i in 0..5u8 {
                here.send_to(&vec![i; 100 + usize::from(i)], to).unwrap();
            }
            let mut batch = Batch::<3>::new(103);
            let mut got = Vec::new();
            while got.len() < 5 {
                if batch.receive(&there).is_ok() {
                    got.extend(batch.datagrams().map(|(from, d)| (from, d.to_vec())));
                }
            }
            for (i, (from, bytes)) in got.iter().enumerate() {
                assert_eq!(*from, here.local_addr().unwrap());
                assert_eq!((bytes[0], bytes.len()), (i as u8, (100 + i).min(103)));
            }
            let error = batch.receive(&there).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(batch.datagrams().count(), 0);
        }
    }
}
