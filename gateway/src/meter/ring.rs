//! Frames from an interface through a ring of memory that the kernel fills (`AF_PACKET`, `TPACKET_V3`, Linux 3.2).
//!
//! All unsafe code of live capture is here, behind [`Ring`].

use std::ffi::CString;
use std::io;
use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chaff_abi::Nanos;

/// The kernel fills blocks of this size and hands each over as a whole, bytes.
const BLOCK: usize = 1 << 20;
/// A block that is not full is handed over after this time, so that packets do not wait longer.
const RETIRE_MS: u32 = 50;
/// What a frame begins at a multiple of; every size in the ring is one of it.
const FRAME: usize = 2048;
/// Room before each frame for a VLAN tag that the kernel took out.
const TAG: usize = 4;
/// Offset of `sll_pkttype` behind a frame's header.
const PACKET_TYPE: usize = size_of::<libc::tpacket3_hdr>().next_multiple_of(16)
    + offset_of!(libc::sockaddr_ll, sll_pkttype);

/// Settings of a [`Ring`].
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Memory of the ring, bytes; rounded up to whole megabytes.
    pub buffer: usize,
    /// Bytes kept of each frame.
    pub snaplen: u32,
    /// Whether frames for other machines come too.
    pub promiscuous: bool,
}

/// What the kernel says about a frame in the ring; its bytes are [`Ring::bytes`].
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    /// When the kernel saw it, since the Unix epoch.
    pub at: Nanos,
    /// Length on the wire, the VLAN tag included, bytes.
    pub wire_len: usize,
    /// This machine sent it.
    pub outgoing: bool,
}

/// Frames as the kernel counts them since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Frames that came, dropped ones included.
    pub received: u64,
    /// Frames without room in the ring.
    pub dropped: u64,
}

/// A socket with its ring. Gone when dropped.
pub struct Ring {
    socket: OwnedFd,
    map: *mut u8,
    blocks: usize,
    /// The block that is read or waited for.
    block: usize,
    /// Frames of it that are not read, and where the next one begins in it.
    left: u32,
    next: usize,
    /// The kernel has handed it over.
    is_ours: bool,
    /// Where in it the bytes of the last frame are.
    frame: Range<usize>,
}

// SAFETY: the memory belongs to this value alone, and the kernel does not care which thread reads it.
unsafe impl Send for Ring {}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set_option<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which is plain data.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

impl Ring {
    /// Opens an interface of the current network namespace.
    ///
    /// # Errors
    /// `ENODEV` when there is none of that name, `EPERM` without `CAP_NET_RAW`, `ENETDOWN` when it is down, `ENOMEM`.
    pub fn open(interface: &str, options: &RingOptions) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: a C string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no pointers. Without a protocol nothing comes before `bind`.
        let fd = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        set_option(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_RESERVE,
            &(TAG as libc::c_int),
        )?;
        let blocks = options.buffer.div_ceil(BLOCK).clamp(2, 4096);
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as libc::c_uint,
            tp_block_nr: blocks as libc::c_uint,
            tp_frame_size: FRAME as libc::c_uint,
            tp_frame_nr: (blocks * (BLOCK / FRAME)) as libc::c_uint,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        keep(&socket, options.snaplen)?;
        // SAFETY: a new mapping of the size of the ring, which the socket has now.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                blocks * BLOCK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = Self {
            socket,
            map: map.cast(),
            blocks,
            block: 0,
            left: 0,
            next: 0,
            is_ours: false,
            frame: 0..0,
        };
        if options.promiscuous {
            let request = libc::packet_mreq {
                mr_ifindex: index as libc::c_int,
                mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
                mr_alen: 0,
                mr_address: [0; 8],
            };
            set_option(
                &ring.socket,
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                &request,
            )?;
        }
        // SAFETY: all zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        // SAFETY: pointer and length describe `address`.
        check(unsafe {
            libc::bind(
                ring.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(ring)
    }

    /// What frames begin with, as an `ARPHRD_` number.
    ///
    /// # Errors
    /// Those of the system.
    pub fn hardware(&self) -> io::Result<u16> {
        // SAFETY: all zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: pointer and length describe `address`.
        check(unsafe {
            libc::getsockname(
                self.socket.as_raw_fd(),
                (&raw mut address).cast(),
                &mut length,
            )
        })?;
        Ok(address.sll_hatype)
    }

    /// The next frame; `None` when none came within `patience`.
    ///
    /// # Errors
    /// `ENETDOWN` when the interface has gone down, and those of the system.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Captured>> {
        self.frame = 0..0;
        loop {
            if self.left > 0 {
                break;
            }
            if self.is_ours {
                self.status()
                    .store(libc::TP_STATUS_KERNEL, Ordering::Release);
                self.is_ours = false;
                self.block = (self.block + 1) % self.blocks;
            }
            if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                if !self.wait(patience)? {
                    return Ok(None);
                }
                continue;
            }
            let head: libc::tpacket_hdr_v1 = self.read(offset_of!(libc::tpacket_block_desc, hdr));
            self.is_ours = true;
            self.left = head.num_pkts;
            self.next = head.offset_to_first_pkt as usize;
        }
        Ok(Some(self.take()))
    }

    /// What was kept of the last frame, the VLAN tag included.
    pub fn bytes(&self) -> &[u8] {
        if self.frame.is_empty() || !self.is_ours {
            return &[];
        }
        // SAFETY: within the mapping, because `take` keeps it within the block; the kernel has handed the block over and
        // gets it back only in `next`, which needs an exclusive borrow.
        unsafe {
            std::slice::from_raw_parts(
                self.map.add(self.block * BLOCK + self.frame.start),
                self.frame.len(),
            )
        }
    }

    /// Frames since the last call.
    ///
    /// # Errors
    /// Those of the system.
    pub fn stats(&self) -> io::Result<RingStats> {
        // SAFETY: all zero is valid for three numbers.
        let mut stats: libc::tpacket_stats_v3 = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: pointer and length describe `stats`.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &mut length,
            )
        })?;
        Ok(RingStats {
            received: stats.tp_packets.into(),
            dropped: stats.tp_drops.into(),
        })
    }

    /// Takes the next frame of the block, of which there is one.
    fn take(&mut self) -> Captured {
        let head: libc::tpacket3_hdr = self.read(self.next);
        let outgoing = self.read::<u8>(self.next + PACKET_TYPE) == libc::PACKET_OUTGOING;
        let start = self.next + usize::from(head.tp_mac);
        let end = (start + head.tp_snaplen as usize).min(BLOCK);
        self.frame = start.min(end)..end;
        let mut wire_len = head.tp_len as usize;
        self.left -= 1;
        self.next += head.tp_next_offset as usize;
        if head.tp_status & libc::TP_STATUS_VLAN_VALID != 0
            && self.frame.len() >= 12
            && start >= TAG
        {
            let has_type = head.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let kind = if has_type {
                head.hv1.tp_vlan_tpid
            } else {
                0x8100
            };
            self.put_tag(kind, head.hv1.tp_vlan_tci as u16);
            wire_len += TAG;
        }
        Captured {
            at: Nanos(u64::from(head.tp_sec) * 1_000_000_000 + u64::from(head.tp_nsec)),
            wire_len,
            outgoing,
        }
    }

    /// Puts a VLAN tag back behind the addresses, which move into the room before the frame.
    fn put_tag(&mut self, kind: u16, tag: u16) {
        self.frame.start -= TAG;
        // SAFETY: 16 bytes within the block, before and in a frame of at least 12; the kernel has handed the block over,
        // and the exclusive borrow says that nothing else reads it.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(
                self.map.add(self.block * BLOCK + self.frame.start),
                12 + TAG,
            )
        };
        bytes.copy_within(TAG.., 0);
        bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        bytes[14..].copy_from_slice(&tag.to_be_bytes());
    }

    /// Reads plain numbers from the block at hand.
    fn read<T: Copy>(&self, offset: usize) -> T {
        assert!(
            offset + size_of::<T>() <= BLOCK,
            "the kernel keeps headers within the block"
        );
        // SAFETY: within the mapping by the assertion; `T` is a struct of numbers, for which any bytes are valid.
        unsafe {
            self.map
                .add(self.block * BLOCK + offset)
                .cast::<T>()
                .read_unaligned()
        }
    }

    /// Who owns the block at hand.
    fn status(&self) -> &AtomicU32 {
        const AT: usize = offset_of!(libc::tpacket_block_desc, hdr)
            + offset_of!(libc::tpacket_hdr_v1, block_status);
        // SAFETY: within the mapping, aligned to four bytes because blocks are aligned to pages, and shared with the kernel,
        // for which it is an atomic word too.
        unsafe { AtomicU32::from_ptr(self.map.add(self.block * BLOCK + AT).cast()) }
    }

    /// Waits until a block is handed over; false when that took too long.
    fn wait(&self, patience: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN | libc::POLLERR,
            revents: 0,
        };
        let ms = patience.as_millis().min(60_000) as libc::c_int;
        // SAFETY: one descriptor structure that outlives the call.
        match check(unsafe { libc::poll(&mut poll, 1, ms) }) {
            Ok(0) => Ok(false),
            Ok(_) if poll.revents & libc::POLLERR != 0 => Err(self.error()),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The error that the socket holds.
    fn error(&self) -> io::Error {
        let mut code: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: pointer and length describe `code`.
        let done = check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut code).cast(),
                &mut length,
            )
        });
        match done {
            Ok(_) if code != 0 => io::Error::from_raw_os_error(code),
            Ok(_) => io::Error::other("the socket failed without a reason"),
            Err(e) => e,
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping of `open`, which nothing uses after this.
        unsafe { libc::munmap(self.map.cast(), self.blocks * BLOCK) };
    }
}

/// Lets the kernel keep only the first bytes of each frame.
fn keep(socket: &OwnedFd, snaplen: u32) -> io::Result<()> {
    // One instruction: return the number of bytes.
    let mut code = [libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: snaplen,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: code.as_mut_ptr(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}
