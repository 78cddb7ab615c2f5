//! System calls behind safe functions; the only unsafe code of this program.
//!
//! Linux only. Kernel 4.20 for [`open_receiver`] (`PACKET_IGNORE_OUTGOING`), 3.0 for the rest.
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use chaff_abi::{Mac, Nanos};

/// Frames per system call.
pub const BATCH: usize = 64;
/// Largest frame that can be received, bytes.
const MAX_FRAME: usize = 65_536 + 256;
/// Room for a VLAN tag that the kernel took out and [`RecvBatch`] puts back.
const HEADROOM: usize = 4;
/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// Sleeps until `at` on the monotonic clock; returns early on a signal.
pub fn sleep_until(at: Nanos) {
    let t = libc::timespec {
        tv_sec: (at.0 / 1_000_000_000) as libc::time_t,
        tv_nsec: (at.0 % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `t` is a valid timespec; with an absolute time no remainder is written.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &t,
            std::ptr::null_mut(),
        )
    };
}

/// Keeps `bytes` in memory, so that no page fault delays a packet.
///
/// # Errors
/// `ENOMEM` or `EPERM` when it is more than the process may lock.
pub fn lock_memory(bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: the range is a live slice; locking does not change its contents.
    check(unsafe { libc::mlock(bytes.as_ptr().cast(), bytes.len()) }).map(drop)
}

/// Runs `f` on a thread of its own inside the network namespace `/run/netns/NAME`, or the current one for `None`.
///
/// Sockets stay in the namespace they were opened in, so `f` opens them and returns them.
///
/// # Errors
/// `ENOENT` for an unknown namespace, `EPERM` without `CAP_SYS_ADMIN`, and whatever `f` returns.
pub fn in_netns<T: Send>(
    name: Option<&str>,
    f: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(name) = name else {
        return f();
    };
    let file = std::fs::File::open(format!("/run/netns/{name}"))?;
    std::thread::scope(|s| {
        s.spawn(|| {
            // SAFETY: plain system call on an open descriptor; it changes this thread only, which ends below.
            check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })?;
            f()
        })
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// What replay needs to know about an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Kernel's index.
    pub index: u32,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Whether it carries Ethernet frames.
    pub ethernet: bool,
    /// Whether it is up.
    pub up: bool,
    /// Its address.
    pub mac: Mac,
}

/// Reads an interface of the current namespace.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn interface(name: &str) -> io::Result<Interface> {
    let c_name = CString::new(name)?;
    // SAFETY: the name is a valid C string.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: an all-zero ifreq is valid.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let mut ask = |request| {
        // SAFETY: each of these requests reads the name and fills the union of a valid ifreq.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &mut req) })?;
        Ok::<_, io::Error>(req.ifr_ifru)
    };
    // SAFETY: the kernel filled the member that belongs to the request.
    let mtu = unsafe { ask(libc::SIOCGIFMTU)?.ifru_mtu } as u32;
    // SAFETY: as above.
    let flags = unsafe { ask(libc::SIOCGIFFLAGS)?.ifru_flags } as libc::c_int;
    // SAFETY: as above.
    let hw = unsafe { ask(libc::SIOCGIFHWADDR)?.ifru_hwaddr };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(hw.sa_data) {
        *to = from as u8;
    }
    Ok(Interface {
        index,
        mtu,
        ethernet: hw.sa_family == libc::ARPHRD_ETHER || hw.sa_family == libc::ARPHRD_LOOPBACK,
        up: flags & libc::IFF_UP != 0,
        mac: Mac(mac),
    })
}

fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A second descriptor of the same open file, for objects that only lend theirs.
///
/// # Errors
/// `EMFILE` when there are too many.
pub fn duplicate(of: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain system call on a descriptor that `of` keeps open.
    let fd = check(unsafe { libc::fcntl(of.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option<T>(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which is plain data.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

fn bind_packet(fd: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: an all-zero sockaddr_ll is valid.
    let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    at.sll_family = libc::AF_PACKET as u16;
    at.sll_protocol = protocol.to_be();
    at.sll_ifindex = index as i32;
    // SAFETY: the address is valid for its stated length.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&at).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Opens a packet socket that only sends, through the queueing discipline and tcx egress like all other traffic.
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`.
pub fn open_sender(index: u32) -> io::Result<OwnedFd> {
    // Protocol 0: nothing is ever queued for receiving.
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    bind_packet(&fd, index, 0)?;
    let bytes: libc::c_int = 4 << 20;
    // Best effort: a smaller buffer only means earlier back-pressure.
    let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);
    Ok(fd)
}

/// Opens a packet socket that receives everything arriving at an interface, with kernel timestamps and VLAN tags.
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`; `ENOPROTOOPT` on kernels before 4.20.
pub fn open_receiver(index: u32) -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let one: libc::c_int = 1;
    set_option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &one)?;
    set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &one)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &one)?;
    enlarge_receive_buffer(&fd);
    // SAFETY: an all-zero packet_mreq is valid.
    let mut mreq: libc::packet_mreq = unsafe { std::mem::zeroed() };
    mreq.mr_ifindex = index as i32;
    mreq.mr_type = libc::PACKET_MR_PROMISC as u16;
    set_option(&fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &mreq)?;
    bind_packet(&fd, index, libc::ETH_P_ALL as u16)?;
    Ok(fd)
}

/// Switches kernel receive timestamps on for a socket.
///
/// # Errors
/// What `setsockopt` returns.
pub fn timestamps(fd: &OwnedFd) -> io::Result<()> {
    enlarge_receive_buffer(fd);
    let one: libc::c_int = 1;
    set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &one)
}

fn enlarge_receive_buffer(fd: &OwnedFd) {
    let bytes: libc::c_int = 64 << 20;
    // Best effort: losses of a smaller buffer are counted.
    if set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes).is_err() {
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes);
    }
}

/// Frames that the kernel could not queue for a [`open_receiver`] socket since the last call.
pub fn dropped(fd: BorrowedFd<'_>) -> u64 {
    let mut stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the buffer and its length describe a valid tpacket_stats.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut stats).cast(),
            &mut len,
        )
    };
    if rc < 0 { 0 } else { u64::from(stats.tp_drops) }
}

/// Waits until `fd` can be read (or written) for at most `timeout_ms`.
pub fn wait(fd: BorrowedFd<'_>, write: bool, timeout_ms: i32) -> bool {
    let mut p = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: if write { libc::POLLOUT } else { libc::POLLIN },
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut p, 1, timeout_ms) > 0 }
}

/// Writes one packet to a TUN device.
///
/// # Errors
/// `EAGAIN` when its queue is full.
pub fn write(fd: BorrowedFd<'_>, packet: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe a live slice.
    let n = unsafe { libc::write(fd.as_raw_fd(), packet.as_ptr().cast(), packet.len()) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The headers of one `sendmmsg`, allocated once.
pub struct SendBatch {
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the raw pointers inside are only valid, and only used, during `send`.
unsafe impl Send for SendBatch {}

impl Default for SendBatch {
    fn default() -> Self {
        let mut vectors = vec![
            libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0
            };
            BATCH
        ];
        let headers = vectors.iter_mut().map(header).collect();
        Self { vectors, headers }
    }
}

fn header(vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: an all-zero mmsghdr is valid.
    let mut h: libc::mmsghdr = unsafe { std::mem::zeroed() };
    h.msg_hdr.msg_iov = vector;
    h.msg_hdr.msg_iovlen = 1;
    h
}

impl SendBatch {
    /// Sends the frames, at most [`BATCH`] of them, and returns how many left.
    ///
    /// # Errors
    /// The error of the first frame when none left.
    pub fn send<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        frames: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let mut n = 0;
        for (vector, frame) in self.vectors.iter_mut().zip(frames) {
            vector.iov_base = frame.as_ptr().cast_mut().cast();
            vector.iov_len = frame.len();
            n += 1;
        }
        // SAFETY: the first `n` headers point at vectors that describe slices alive in this call; the kernel only
        // reads them. `headers` points into `vectors`, whose heap block is never reallocated.
        let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), n, 0) };
        check(sent).map(|n| n as usize)
    }
}

/// One received frame or datagram.
#[derive(Debug)]
pub struct Received<'a> {
    /// The frame with its VLAN tag, or the datagram's payload.
    pub bytes: &'a [u8],
    /// Kernel's receive time, Unix epoch.
    pub at: Nanos,
}

/// Buffers of one `recvmmsg`, allocated once.
pub struct RecvBatch {
    buffers: Vec<u8>,
    controls: Vec<[u64; 32]>,
    // Boxed by the vector: `headers` points here.
    _vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the raw pointers inside point into vectors owned by the same value, whose heap blocks never move.
unsafe impl Send for RecvBatch {}

impl Default for RecvBatch {
    fn default() -> Self {
        let mut buffers = vec![0; BATCH * (HEADROOM + MAX_FRAME)];
        let mut controls = vec![[0u64; 32]; BATCH];
        let mut vectors: Vec<libc::iovec> = buffers
            .chunks_exact_mut(HEADROOM + MAX_FRAME)
            .map(|b| libc::iovec {
                iov_base: b[HEADROOM..].as_mut_ptr().cast(),
                iov_len: MAX_FRAME,
            })
            .collect();
        let headers = vectors
            .iter_mut()
            .zip(&mut controls)
            .map(|(v, c)| {
                let mut h = header(v);
                h.msg_hdr.msg_control = c.as_mut_ptr().cast();
                h
            })
            .collect();
        Self {
            buffers,
            controls,
            _vectors: vectors,
            headers,
        }
    }
}

impl RecvBatch {
    /// Receives what is queued, at most [`BATCH`], without waiting, and hands each to `each`.
    ///
    /// # Errors
    /// `EAGAIN` when nothing is queued.
    pub fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        mut each: impl FnMut(Received<'_>),
    ) -> io::Result<usize> {
        for h in &mut self.headers {
            h.msg_hdr.msg_controllen = size_of::<[u64; 32]>() as _;
        }
        // SAFETY: every header points at a buffer and a control block of the stated sizes, owned by `self`.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let n = check(n)? as usize;
        for i in 0..n {
            let (at, tag) = control(&self.headers[i].msg_hdr);
            let len = (self.headers[i].msg_len as usize).min(MAX_FRAME);
            let slot = &mut self.buffers[i * (HEADROOM + MAX_FRAME)..][..HEADROOM + len];
            let bytes = match tag {
                Some(tag) if len >= 12 => {
                    slot.copy_within(HEADROOM..HEADROOM + 12, 0);
                    slot[12..16].copy_from_slice(&tag);
                    &slot[..]
                }
                _ => &slot[HEADROOM..],
            };
            each(Received { bytes, at });
        }
        debug_assert_eq!(self.controls.len(), BATCH);
        Ok(n)
    }
}

/// Kernel time and VLAN tag (wire order) of one received message.
fn control(header: &libc::msghdr) -> (Nanos, Option<[u8; 4]>) {
    let mut at = Nanos::ZERO;
    let mut tag = None;
    // SAFETY: the kernel filled the control block of this header, which is alive and aligned to 8 bytes.
    let mut c = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !c.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return pointers to complete control messages only.
        let (level, kind, data) = unsafe { ((*c).cmsg_level, (*c).cmsg_type, libc::CMSG_DATA(c)) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_TIMESTAMPNS {
            // SAFETY: this message carries a timespec; unaligned reads are allowed here.
            let t = unsafe { data.cast::<libc::timespec>().read_unaligned() };
            at = Nanos(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64);
        } else if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: this message carries a tpacket_auxdata.
            let a = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
            if a.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let tpid = if a.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
                    a.tp_vlan_tpid
                } else {
                    0x8100
                };
                let [p0, p1] = tpid.to_be_bytes();
                let [t0, t1] = a.tp_vlan_tci.to_be_bytes();
                tag = Some([p0, p1, t0, t1]);
            }
        }
        // SAFETY: `c` is a message of this header.
        c = unsafe { libc::CMSG_NXTHDR(header, c) };
    }
    (at, tag)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Makes SIGINT and SIGTERM end the replay early with its statistics instead of killing it.
pub fn catch_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is valid, and the handler only stores to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = interrupt as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether a signal of [`catch_interrupts`] came.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
