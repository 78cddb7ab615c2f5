//! The engine's machines and captures as nodes. Port [`LAN`] faces the devices, [`WAN`] the network.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;

use chaff_abi::{Dir, Nanos};
use chaff_engine::{Gateway, Sink, SinkTransmit, Transmit, Verdict};

use crate::Node;
use crate::frame::{self, Path};

/// The port that faces the devices.
pub const LAN: u16 = 0;
/// The port that faces the network.
pub const WAN: u16 = 1;

/// Sends frames at their times through port 0, and drops what it receives.
pub struct Source<I: Iterator<Item = (Nanos, Vec<u8>)>> {
    frames: std::iter::Peekable<I>,
    ready: VecDeque<Vec<u8>>,
    next: Option<Nanos>,
    received: u64,
}

impl<I: Iterator<Item = (Nanos, Vec<u8>)>> Source<I> {
    /// A source of frames in time order.
    pub fn new(frames: I) -> Self {
        let mut frames = frames.peekable();
        let next = frames.peek().map(|(at, _)| *at);
        Self {
            frames,
            ready: VecDeque::new(),
            next,
            received: 0,
        }
    }

    /// Frames that arrived here.
    pub fn received(&self) -> u64 {
        self.received
    }
}

impl<I: Iterator<Item = (Nanos, Vec<u8>)>> Node for Source<I> {
    fn handle_frame(&mut self, _now: Nanos, _port: u16, _frame: &[u8]) {
        self.received += 1;
    }

    fn handle_timeout(&mut self, now: Nanos) {
        while let Some((_, frame)) = self.frames.next_if(|(at, _)| *at <= now) {
            self.ready.push_back(frame);
        }
        self.next = self.frames.peek().map(|(at, _)| *at);
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        self.next
    }

    fn poll_frame(&mut self, buf: &mut Vec<u8>) -> Option<u16> {
        *buf = self.ready.pop_front()?;
        Some(0)
    }
}

/// The gateway: passes real frames between its ports unchanged, shows them to the machine, and sends its cover.
pub struct GatewayNode {
    machine: Rc<RefCell<Gateway>>,
    path: Path,
    queue: VecDeque<(u16, Vec<u8>)>,
    cover: BTreeMap<(Nanos, u64), Vec<u8>>,
    order: u64,
    buf: Vec<u8>,
    on_cover: Box<dyn FnMut(&Transmit)>,
}

impl GatewayNode {
    /// `path` leads from the gateway to the sink; `on_cover` hears of each datagram when it is planned.
    pub fn new(
        machine: Rc<RefCell<Gateway>>,
        path: Path,
        on_cover: Box<dyn FnMut(&Transmit)>,
    ) -> Self {
        let mut node = Self {
            machine,
            path,
            queue: VecDeque::new(),
            cover: BTreeMap::new(),
            order: 0,
            buf: vec![0; 2_048],
            on_cover,
        };
        node.collect();
        node
    }

    fn collect(&mut self) {
        while let Some(t) = self.machine.borrow_mut().poll_transmit(&mut self.buf) {
            (self.on_cover)(&t);
            let mut framed = Vec::new();
            self.path.build(&self.buf[..t.len], &mut framed);
            self.order += 1;
            self.cover.insert((t.at, self.order), framed);
        }
    }
}

impl Node for GatewayNode {
    fn handle_frame(&mut self, now: Nanos, port: u16, frame: &[u8]) {
        if port == WAN
            && let Some((from, payload)) = frame::udp_to(frame, self.path.src)
        {
            if from == self.path.dst.into() {
                let mut datagram = payload.to_vec();
                let _counted = self
                    .machine
                    .borrow_mut()
                    .handle_datagram(now, &mut datagram);
            }
            return;
        }
        let (dir, to) = if port == LAN {
            (Dir::Out, WAN)
        } else {
            (Dir::In, LAN)
        };
        self.machine
            .borrow_mut()
            .handle_frame(now, dir, frame, frame.len());
        self.queue.push_back((to, frame.to_vec()));
    }

    fn handle_timeout(&mut self, now: Nanos) {
        while let Some(entry) = self.cover.first_entry().filter(|e| e.key().0 <= now) {
            self.queue.push_back((WAN, entry.remove()));
        }
        let due = self
            .machine
            .borrow()
            .poll_timeout()
            .is_some_and(|(t, _)| t <= now);
        if due {
            self.machine.borrow_mut().handle_timeout(now);
            self.collect();
        }
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        let cover = self.cover.first_key_value().map(|((at, _), _)| *at);
        let machine = self.machine.borrow().poll_timeout().map(|(t, _)| t);
        cover.into_iter().chain(machine).min()
    }

    fn poll_frame(&mut self, buf: &mut Vec<u8>) -> Option<u16> {
        let (port, frame) = self.queue.pop_front()?;
        *buf = frame;
        Some(port)
    }
}

/// The network behind the gateway: the sink and the servers. Port 0 faces the gateway, port 1 a source that plays the
/// servers' frames.
pub struct SinkNode {
    machine: Rc<RefCell<Sink>>,
    address: SocketAddrV4,
    path: Path,
    queue: VecDeque<(u16, Vec<u8>)>,
    buf: Vec<u8>,
    on_datagram: OnDatagram,
    on_downlink: OnDownlink,
}

/// Hears of every downlink dummy when it is sent.
pub type OnDownlink = Box<dyn FnMut(&SinkTransmit)>;

/// Hears of every datagram that the sink took: when, how many UDP payload bytes, and what it was.
pub type OnDatagram = Box<dyn FnMut(Nanos, usize, Verdict)>;

impl SinkNode {
    /// `path` leads from the gateway to the sink.
    pub fn new(
        machine: Rc<RefCell<Sink>>,
        path: Path,
        on_datagram: OnDatagram,
        on_downlink: OnDownlink,
    ) -> Self {
        Self {
            machine,
            address: path.dst,
            path: path.reversed(),
            queue: VecDeque::new(),
            buf: vec![0; 2_048],
            on_datagram,
            on_downlink,
        }
    }
}

impl Node for SinkNode {
    fn handle_frame(&mut self, now: Nanos, port: u16, frame: &[u8]) {
        if port == 1 {
            self.queue.push_back((0, frame.to_vec()));
        } else if let Some((from, payload)) = frame::udp_to(frame, self.address) {
            let mut datagram = payload.to_vec();
            let verdict = self
                .machine
                .borrow_mut()
                .handle_datagram(now, from, &mut datagram);
            (self.on_datagram)(now, payload.len(), verdict);
        } else {
            self.queue.push_back((1, frame.to_vec()));
        }
    }

    fn handle_timeout(&mut self, now: Nanos) {
        let mut machine = self.machine.borrow_mut();
        machine.handle_timeout(now);
        while let Some(t) = machine.poll_transmit(now, &mut self.buf) {
            let mut framed = Vec::new();
            (self.on_downlink)(&t);
            self.path.build(&self.buf[..t.len], &mut framed);
            self.queue.push_back((0, framed));
        }
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        self.machine.borrow().poll_timeout().map(|(t, _)| t)
    }

    fn poll_frame(&mut self, buf: &mut Vec<u8>) -> Option<u16> {
        let (port, frame) = self.queue.pop_front()?;
        *buf = frame;
        Some(port)
    }
}
