//! An interface as a source of frames.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chaff_abi::Nanos;
use chaff_flow::Link;
use chaff_sys::clock::unix;
use chaff_trace::Frame;

use super::input::{Event, Input, Source};
use super::ring::{Captured, Ring, RingOptions};

/// How long to wait for a frame before the timers of flows are looked at.
const PATIENCE: Duration = Duration::from_millis(100);
/// Frames may reach the meter this much after the kernel saw them; timers lag behind the clock by as much.
const LAG: Nanos = Nanos::from_millis(200);
/// Time for reading what came before the stop.
const REST: Duration = Duration::from_secs(5);
/// Frames between two looks at the clock and the flag.
const STRIDE: u64 = 256;

/// Settings of a [`Live`] source.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// Name of the interface.
    pub interface: String,
    /// Of the kernel's ring.
    pub ring: RingOptions,
    /// When to stop.
    pub duration: Option<Duration>,
    /// Stops after as many frames.
    pub max_packets: Option<u64>,
}

/// Frames of an interface in the order in which the kernel saw them, until told to stop.
pub struct Live {
    ring: Ring,
    link: Link,
    is_loopback: bool,
    options: LiveOptions,
    until: Option<Instant>,
    stop: Arc<AtomicBool>,
    input: Input,
    has_ended: bool,
    /// When it was told to stop, since the Unix epoch: what the kernel saw before is still given.
    stopped_at: Option<(Nanos, Instant)>,
    position: Arc<AtomicU64>,
}

impl Live {
    /// Opens the interface; setting `stop` ends the source.
    ///
    /// # Errors
    /// Those of [`Ring::open`]; [`io::ErrorKind::Unsupported`] for an interface whose frames are not read.
    pub fn open(options: LiveOptions, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let ring = Ring::open(&options.interface, &options.ring)?;
        let hardware = ring.hardware()?;
        let link = match hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Link::Ethernet,
            // TUN, and the modem's raw IP.
            libc::ARPHRD_NONE | 519 => Link::RawIp,
            libc::ARPHRD_IEEE80211_RADIOTAP => Link::Radiotap,
            other => {
                let text = format!("frames of hardware type {other} are not read");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        Ok(Self {
            ring,
            link,
            is_loopback: hardware == libc::ARPHRD_LOOPBACK,
            until: options.duration.map(|d| Instant::now() + d),
            input: Input {
                name: options.interface.clone(),
                dropped: Some(0),
                ..Input::default()
            },
            options,
            stop,
            has_ended: false,
            stopped_at: None,
            position: Arc::default(),
        })
    }

    /// What its frames begin with.
    pub fn link(&self) -> Link {
        self.link
    }

    fn is_over(&mut self) -> bool {
        let is_told = self.stopped_at.is_none()
            && (self.stop.load(Ordering::Relaxed)
                || self.until.is_some_and(|until| Instant::now() >= until));
        if is_told {
            self.stopped_at = Some((unix(), Instant::now()));
        }
        let most = self.options.max_packets;
        self.has_ended || most.is_some_and(|max| self.input.packets >= max)
    }

    /// Waits for a frame; `None` when there was none, or there is no interface any more.
    fn wait(&mut self) -> Option<Captured> {
        let patience = match self.stopped_at {
            None => PATIENCE,
            Some(_) => Duration::from_nanos(LAG.0),
        };
        loop {
            match self.ring.next(patience) {
                // Loopback shows each packet twice, going out and coming in.
                Ok(Some(frame)) if frame.outgoing && self.is_loopback => (),
                Ok(frame) => return frame,
                Err(e) => {
                    self.input.error = Some(e.to_string());
                    self.has_ended = true;
                    return None;
                }
            }
        }
    }

    fn count_dropped(&mut self) {
        if let (Ok(stats), Some(dropped)) = (self.ring.stats(), &mut self.input.dropped) {
            *dropped += stats.dropped;
        }
    }
}

impl Source for Live {
    fn next(&mut self) -> Event<'_> {
        let is_limited = self.options.max_packets.is_some();
        if (is_limited || self.input.packets.is_multiple_of(STRIDE)) && self.is_over() {
            return Event::End;
        }
        let Some(captured) = self.wait() else {
            if self.stopped_at.is_some() || self.is_over() {
                return Event::End;
            }
            self.count_dropped();
            return Event::Quiet(Nanos(unix().0.saturating_sub(LAG.0)));
        };
        let is_later = |(at, told): (Nanos, Instant)| captured.at > at || told.elapsed() > REST;
        if self.stopped_at.is_some_and(is_later) {
            return Event::End;
        }
        self.input.count(captured.at);
        self.input.bytes += captured.wire_len as u64;
        let frame = Frame {
            at: captured.at,
            millis: captured.at.as_millis() as i64,
            libpcap_len: self.ring.bytes().len(),
            wire_len: captured.wire_len,
            link: self.link,
            interface: 0,
        };
        Event::Frame(frame, self.ring.bytes())
    }

    fn inputs(&mut self) -> Vec<Input> {
        self.count_dropped();
        vec![self.input.clone()]
    }

    fn place(&self) -> (usize, u64) {
        (0, self.input.bytes)
    }

    fn position(&self) -> Arc<AtomicU64> {
        self.position.clone()
    }
}
