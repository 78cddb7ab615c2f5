//! Threads around a tunnel.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use chaff_abi::Nanos;
use chaff_sys::clock::monotonic;
use chaff_sys::thread::make_realtime;
use chaff_tunnel::{Class, Datagram, Event, InnerPacket, Seen, Tunnel, TunnelReport};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};

use crate::turns::Bulk;
use crate::udp::{Room, Udp};
use crate::{fast, portable};

/// Above ordinary processes, below the kernel's interrupt threads (50).
const PRIORITY: i32 = 10;
/// How long a busy interface name is tried again: a killed process lets go of it within moments.
const BUSY: Duration = Duration::from_secs(1);

/// How packets are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// `fast` where it opens, else `portable`.
    #[default]
    Auto,
    /// Segmentation offload on both sides, a thread each way and one for the clock.
    Fast,
    /// One thread with a current-thread runtime; packets one by one at the interface, offload at the socket only.
    Portable,
}

/// A sign of life, given at a steady pace by the thread that keeps the clock, after it had the tunnel to itself.
pub struct Heartbeat {
    /// Time between two.
    pub every: Nanos,
    /// The sign.
    pub beat: Box<dyn FnMut() + Send>,
}

/// Columns of [`Options::record`]: seconds of the monotonic clock; 1 from the peer, -1 to it; bytes of the UDP payload; whether it
/// is cover; the peer's number.
pub const RECORD: &str = "time_s,dir,size_bytes,is_dummy,device";

/// How to drive a tunnel.
pub struct Options {
    /// Name of the TUN interface, 1 to 15 characters.
    pub interface: String,
    /// Engine.
    pub engine: EngineName,
    /// Datagrams that may leave as one burst, 1 to 64; with 1 each goes through the machine on its own.
    pub max_segments: usize,
    /// Ask for real-time priority for the clock.
    pub realtime: bool,
    /// Sign of life.
    pub heartbeat: Option<Heartbeat>,
    /// Takes a CSV line for every data message, as [`RECORD`] names its columns: real ones and cover are told apart in it, so it is
    /// for testbeds.
    pub record: Option<Box<dyn Write + Send>>,
    /// Is told a new MTU, to set it at the interface.
    pub on_mtu: Box<dyn Fn(u16) + Send + Sync>,
}

/// Counts of a driver.
#[derive(Clone, Debug, Serialize)]
pub struct DriverReport {
    /// Engine in use.
    pub engine: EngineName,
    /// Datagrams that the network did not take.
    pub send_errors: u64,
    /// Inner packets that the interface did not take.
    pub interface_errors: u64,
    /// The tunnel's counts.
    pub tunnel: TunnelReport,
}

/// What the threads share.
pub(crate) struct Shared {
    tunnel: Mutex<Tunnel>,
    pub(crate) udp: Udp,
    /// When the clock thread wakes by itself.
    wakes_at: Mutex<Nanos>,
    earlier: Condvar,
    /// The portable engine's clock sleeps elsewhere.
    pub(crate) notify: Option<tokio::sync::Notify>,
    stop: AtomicBool,
    stopped: EventFd,
    max_segments: usize,
    mtu_wanted: AtomicU16,
    pub(crate) interface_errors: AtomicU64,
    /// Outwards, inwards.
    pub(crate) bulk: [Bulk; 2],
    on_mtu: Box<dyn Fn(u16) + Send + Sync>,
    record: Option<Mutex<Box<dyn Write + Send>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the tunnel usable: every call leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_line(out: &mut dyn Write, seen: &Seen) -> io::Result<()> {
    if !matches!(seen.class, Class::Real | Class::Cover) {
        return Ok(());
    }
    writeln!(
        out,
        "{:.6},{},{},{},{}",
        seen.at.as_secs_f64(),
        if seen.received { 1 } else { -1 },
        seen.len,
        u8::from(seen.class == Class::Cover),
        seen.peer
    )
}

impl Shared {
    /// Serves the tunnel, takes out what it has to say, and lets go of it before anything is sent.
    pub(crate) fn serve<T>(
        &self,
        out: &mut Vec<Datagram>,
        inner: &mut Vec<InnerPacket>,
        work: impl FnOnce(&mut Tunnel) -> T,
    ) -> T {
        let mut tunnel = lock(&self.tunnel);
        let done = work(&mut tunnel);
        out.extend(std::iter::from_fn(|| tunnel.poll_datagram()));
        inner.extend(std::iter::from_fn(|| tunnel.poll_inner()));
        let next = tunnel.poll_timeout().map_or(Nanos::MAX, |t| t.0);
        if let Some(record) = &self.record {
            let mut record = lock(record);
            while let Some(seen) = tunnel.poll_seen() {
                // A full disk ends no tunnel.
                let _done = write_line(&mut **record, &seen);
            }
        }
        while let Some(event) = tunnel.poll_event() {
            match event {
                Event::LowerMtu(mtu) => self.mtu_wanted.store(mtu, Ordering::Relaxed),
            }
        }
        drop(tunnel);
        self.arm(next);
        self.change_mtu();
        done
    }

    /// Wakes the clock thread when it would sleep past `next`.
    fn arm(&self, next: Nanos) {
        let mut wakes_at = lock(&self.wakes_at);
        if next < *wakes_at {
            *wakes_at = next;
            drop(wakes_at);
            match &self.notify {
                Some(notify) => notify.notify_one(),
                None => self.earlier.notify_one(),
            }
        }
    }

    fn change_mtu(&self) {
        let mtu = self.mtu_wanted.swap(0, Ordering::Relaxed);
        if mtu != 0 {
            tracing::info!(mtu, "the path is narrower; MTU lowered");
            (self.on_mtu)(mtu);
            lock(&self.tunnel).set_mtu(monotonic(), mtu);
        }
    }

    /// Sends what the tunnel said.
    pub(crate) fn send(&self, out: &mut Vec<Datagram>) {
        if out.is_empty() {
            return;
        }
        let sent = self.udp.send(out, self.max_segments);
        out.clear();
        if sent.congested {
            lock(&self.tunnel).note_congested(monotonic());
        }
        if sent.too_big {
            let mtu = lock(&self.tunnel).bins().mtu();
            let next = [1_392, 1_360, 1_320, chaff_tunnel::MIN_MTU]
                .into_iter()
                .find(|m| *m < mtu);
            if let Some(next) = next {
                self.mtu_wanted.store(next, Ordering::Relaxed);
                self.change_mtu();
            }
        }
    }

    /// Gives received datagrams to the tunnel.
    pub(crate) fn take(tunnel: &mut Tunnel, room: &mut Room) {
        let at = monotonic();
        for (from, datagram) in room.datagrams() {
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            tunnel.handle_datagram(at, from, BytesMut::from(&*datagram));
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until `fd` is readable or the driver stops.
    pub(crate) fn wait(&self, fd: BorrowedFd<'_>) {
        let mut fds = [
            PollFd::new(fd, PollFlags::POLLIN),
            PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
        ];
        // Interrupted or not, the caller looks again.
        let _ready = poll(&mut fds, PollTimeout::NONE);
    }

    /// Marks the clock as awake: nobody needs to wake it.
    pub(crate) fn awake(&self) {
        *lock(&self.wakes_at) = Nanos::ZERO;
    }

    /// Sets the clock's alarm to the tunnel's next deadline, or `until`, and returns it.
    pub(crate) fn alarm(&self, until: Nanos) -> Nanos {
        // Whoever plans something earlier from here on leaves it in `wakes_at`, and a notification.
        *lock(&self.wakes_at) = Nanos::MAX;
        let next = self.next_timeout();
        let mut wakes_at = lock(&self.wakes_at);
        *wakes_at = next.min(until).min(*wakes_at);
        *wakes_at
    }

    pub(crate) fn mtu(&self) -> u16 {
        lock(&self.tunnel).bins().mtu()
    }

    pub(crate) fn next_timeout(&self) -> Nanos {
        lock(&self.tunnel)
            .poll_timeout()
            .map_or(Nanos::MAX, |t| t.0)
    }

    /// The clock thread: timers, planned dummies, signs of life.
    pub(crate) fn keep_time(&self, mut heartbeat: Option<Heartbeat>) {
        let (mut out, mut inner) = (Vec::new(), Vec::new());
        let mut beat_at = monotonic();
        while !self.stopping() {
            let at = monotonic();
            self.serve(&mut out, &mut inner, |t| t.handle_timeout(at));
            self.send(&mut out);
            if let Some(h) = heartbeat.as_mut().filter(|_| at >= beat_at) {
                (h.beat)();
                beat_at = at + h.every;
            }
            self.alarm(match &heartbeat {
                Some(_) => beat_at,
                None => Nanos::MAX,
            });
            let mut wakes_at = lock(&self.wakes_at);
            while !self.stopping() {
                let left = wakes_at.since(monotonic());
                if left == Nanos::ZERO {
                    break;
                }
                // A day is for ever, and inside the range of every system call.
                let wait = Duration::from_nanos(left.0.min(86_400_000_000_000));
                let woken = self.earlier.wait_timeout(wakes_at, wait);
                wakes_at = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            *wakes_at = Nanos::ZERO;
        }
    }
}

/// A running tunnel. Dropping it stops its threads and removes its interface.
pub struct Driver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    engine: EngineName,
    realtime: bool,
}

impl Driver {
    /// Opens the interface and starts the threads. The interface is up, and has no addresses yet.
    ///
    /// # Errors
    /// What the system says; `PermissionDenied` without CAP_NET_ADMIN, `NotFound` without /dev/net/tun.
    pub fn start(tunnel: Tunnel, udp: Udp, options: Options) -> io::Result<Self> {
        match options.engine {
            EngineName::Portable => Self::start_portable(tunnel, udp, options),
            EngineName::Fast => {
                let device = fast::open(&options.interface, tunnel.bins().mtu(), BUSY)?;
                Self::start_fast(tunnel, udp, options, device)
            }
            EngineName::Auto => match fast::open(&options.interface, tunnel.bins().mtu(), BUSY) {
                Ok(device) => Self::start_fast(tunnel, udp, options, device),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(e),
                Err(error) => {
                    tracing::warn!(%error, "no offload here; the portable engine has to do");
                    Self::start_portable(tunnel, udp, options)
                }
            },
        }
    }

    fn shared(
        tunnel: Tunnel,
        udp: Udp,
        options: &mut Options,
        portable: bool,
    ) -> io::Result<Arc<Shared>> {
        let mut tunnel = tunnel;
        let record = options.record.take().map(Mutex::new);
        if let Some(record) = &record {
            writeln!(lock(record), "{RECORD}")?;
            tunnel.record();
        }
        let on_mtu = std::mem::replace(&mut options.on_mtu, Box::new(|_| ()));
        Ok(Arc::new(Shared {
            tunnel: Mutex::new(tunnel),
            udp,
            wakes_at: Mutex::new(Nanos::MAX),
            earlier: Condvar::new(),
            notify: portable.then(tokio::sync::Notify::new),
            stop: AtomicBool::new(false),
            stopped: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            max_segments: options.max_segments,
            mtu_wanted: AtomicU16::new(0),
            interface_errors: AtomicU64::new(0),
            bulk: Default::default(),
            on_mtu,
            record,
        }))
    }

    fn start_fast(
        tunnel: Tunnel,
        udp: Udp,
        mut options: Options,
        device: tun_rs::SyncDevice,
    ) -> io::Result<Self> {
        let shared = Self::shared(tunnel, udp, &mut options, false)?;
        let mut driver = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            engine: EngineName::Fast,
            realtime: false,
        };
        let device = Arc::new(device);
        let (s, d) = (Arc::clone(&shared), Arc::clone(&device));
        driver.spawn("chaff-tun-out", move || fast::outwards(&s, &d))?;
        let s = Arc::clone(&shared);
        driver.spawn("chaff-tun-in", move || fast::inwards(&s, &device))?;
        let heartbeat = options.heartbeat.take();
        let (tell, told) = mpsc::sync_channel(1);
        let realtime = options.realtime;
        driver.spawn("chaff-tun-clock", move || {
            let priority = realtime.then(|| make_realtime(PRIORITY));
            let _told = tell.send(priority);
            shared.keep_time(heartbeat);
        })?;
        driver.realtime = match told.recv() {
            Ok(Some(Ok(()))) => true,
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "cover is sent without real-time priority; under load it will be late");
                false
            }
            Ok(None) | Err(_) => false,
        };
        Ok(driver)
    }

    fn start_portable(tunnel: Tunnel, udp: Udp, mut options: Options) -> io::Result<Self> {
        let shared = Self::shared(tunnel, udp, &mut options, true)?;
        let mut driver = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            engine: EngineName::Portable,
            realtime: false,
        };
        let (tell, told) = mpsc::sync_channel(1);
        driver.spawn("chaff-tun", move || {
            portable::run(&shared, options, BUSY, &tell)
        })?;
        match told.recv() {
            Ok(Ok(())) => Ok(driver),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(io::Error::other("the tunnel's thread ended at its start")),
        }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Serves the tunnel from outside, and sends what it has to say.
    pub fn with<T>(&self, work: impl FnOnce(&mut Tunnel) -> T) -> T {
        let (mut out, mut inner) = (Vec::new(), Vec::new());
        let done = self.shared.serve(&mut out, &mut inner, work);
        self.shared.send(&mut out);
        done
    }

    /// Starts a handshake with a peer.
    pub fn initiate(&self, peer: usize) {
        self.with(|t| t.initiate(monotonic(), peer));
    }

    /// The engine in use.
    pub fn engine(&self) -> EngineName {
        self.engine
    }

    /// Whether the clock has real-time priority.
    pub fn is_realtime(&self) -> bool {
        self.realtime
    }

    /// The outer socket's address.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.udp.local_addr()
    }

    /// Counts up to now.
    pub fn report(&self) -> DriverReport {
        let errors = |n: &AtomicU64| n.load(Ordering::Relaxed);
        DriverReport {
            engine: self.engine,
            send_errors: errors(&self.shared.udp.errors),
            interface_errors: errors(&self.shared.interface_errors),
            tunnel: lock(&self.shared.tunnel).report(),
        }
    }

    /// Stops the threads, removes the interface and returns the counts.
    pub fn stop(mut self) -> DriverReport {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // A counter cannot overflow by one; a failed write would only delay the end.
        let _woken = self.shared.stopped.write(1);
        self.shared.arm(Nanos::ZERO);
        {
            // Between looking and sleeping the clock holds this lock.
            let _held = lock(&self.shared.wakes_at);
            self.shared.earlier.notify_all();
        }
        if let Some(n) = &self.shared.notify {
            n.notify_one();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the tunnel panicked");
            }
        }
        if let Some(record) = &self.shared.record
            && let Err(error) = lock(record).flush()
        {
            tracing::warn!(%error, "the record of messages is not complete");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end();
    }
}
