//! Virtual time: the engine's machines run as nodes on links, and the clock jumps to the next event.
//!
//! Start at [`Sim`]: add nodes, connect their ports by [`Link`]s, run. [`nodes`] adapts the engine's Gateway and Sink and
//! a capture as source; any type that implements [`Node`] can take part. One seed gives one outcome, byte for byte:
//! events at the same time are served in the order they were made, and each link draws from its own random stream.
//!
//! ```
//! use chaff_abi::Nanos;
//! use chaff_sim::{Link, Node, Sim};
//! struct Echo(Vec<Vec<u8>>);
//! impl Node for Echo {
//!     fn handle_frame(&mut self, _now: Nanos, _port: u16, frame: &[u8]) { self.0.push(frame.to_vec()) }
//!     fn poll_frame(&mut self, buf: &mut Vec<u8>) -> Option<u16> { *buf = self.0.pop()?; Some(0) }
//! }
//! let mut sim = Sim::new(1);
//! let a = sim.add("a", Box::new(Echo(vec![b"ping".to_vec()])));
//! let b = sim.add("b", Box::new(Echo(vec![])));
//! sim.connect((a, 0), (b, 0), Link { delay: Nanos::from_millis(5), ..Link::default() });
//! let outcome = sim.run_until(Nanos::from_millis(12));
//! assert_eq!(outcome.delivered, 2); // there and back, and on its way again
//! ```
//!
//! [`tunnel_nodes`] are the two ends of a tunnel. It does not route, resolve addresses or fragment: a frame goes where its port's link goes.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod frame;
mod link;
pub mod nodes;
pub mod tunnel_nodes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use chaff_abi::Nanos;

pub use link::Link;
use link::{Direction, Fate};

/// Something with ports that takes and makes frames. All defaults do nothing.
pub trait Node {
    /// Takes a frame that arrived at `port`.
    fn handle_frame(&mut self, now: Nanos, port: u16, frame: &[u8]);
    /// Does what is due. Safe to call early or late.
    fn handle_timeout(&mut self, now: Nanos) {
        let _ = now;
    }
    /// When to call [`Node::handle_timeout`] next.
    fn poll_timeout(&self) -> Option<Nanos> {
        None
    }
    /// Puts the next frame to send into `buf` and returns its port.
    fn poll_frame(&mut self, buf: &mut Vec<u8>) -> Option<u16>;
}

/// Sees every frame that enters a link, before loss and queueing.
pub trait Tap {
    /// A frame enters the link at `from`.
    fn frame(&mut self, now: Nanos, from: NodeId, frame: &[u8]);
}

impl<F: FnMut(Nanos, NodeId, &[u8])> Tap for F {
    fn frame(&mut self, now: Nanos, from: NodeId, frame: &[u8]) {
        self(now, from, frame);
    }
}

/// A node of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

/// A link of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkId(usize);

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Virtual time at the end.
    pub end: Nanos,
    /// Frames delivered to a node.
    pub delivered: u64,
    /// Frames lost by a link's loss rate.
    pub lost: u64,
    /// Frames dropped because a link's queue was full.
    pub queue_drops: u64,
    /// Frames sent to a port without a link.
    pub unconnected: u64,
}

struct Entry {
    name: String,
    node: Box<dyn Node>,
}

struct Wire {
    link: Link,
    ends: [(NodeId, u16); 2],
    directions: [Direction; 2],
    tap: Option<Box<dyn Tap>>,
}

struct Arrival {
    node: NodeId,
    port: u16,
    frame: Vec<u8>,
}

/// A simulation.
pub struct Sim {
    seed: u64,
    now: Nanos,
    nodes: Vec<Entry>,
    wires: Vec<Wire>,
    ports: BTreeMap<(NodeId, u16), (usize, usize)>,
    queue: BinaryHeap<Reverse<(Nanos, u64)>>,
    arrivals: BTreeMap<u64, Arrival>,
    order: u64,
    outcome: Outcome,
    buf: Vec<u8>,
}

impl Sim {
    /// An empty simulation at time zero.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Nanos::ZERO,
            nodes: Vec::new(),
            wires: Vec::new(),
            ports: BTreeMap::new(),
            queue: BinaryHeap::new(),
            arrivals: BTreeMap::new(),
            order: 0,
            outcome: Outcome::default(),
            buf: Vec::new(),
        }
    }

    /// Adds a node.
    pub fn add(&mut self, name: &str, node: Box<dyn Node>) -> NodeId {
        self.nodes.push(Entry {
            name: name.to_owned(),
            node,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// Name of a node.
    pub fn name(&self, node: NodeId) -> &str {
        self.nodes.get(node.0).map_or("", |n| &n.name)
    }

    /// Connects two ports; a port's earlier link is replaced.
    pub fn connect(&mut self, a: (NodeId, u16), b: (NodeId, u16), link: Link) -> LinkId {
        let id = self.wires.len();
        let directions = [0u64, 1].map(|d| Direction::new(self.seed, (id as u64) << 1 | d));
        self.wires.push(Wire {
            link,
            ends: [a, b],
            directions,
            tap: None,
        });
        self.ports.insert(a, (id, 0));
        self.ports.insert(b, (id, 1));
        LinkId(id)
    }

    /// Lets `tap` see every frame that enters a link.
    pub fn tap(&mut self, link: LinkId, tap: Box<dyn Tap>) {
        if let Some(w) = self.wires.get_mut(link.0) {
            w.tap = Some(tap);
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Runs until no event is left at or before `end`; the clock then stands at `end`.
    pub fn run_until(&mut self, end: Nanos) -> Outcome {
        self.drain_all();
        loop {
            let arrival = self.queue.peek().map(|Reverse((at, _))| *at);
            let timer = self
                .nodes
                .iter()
                .filter_map(|n| n.node.poll_timeout())
                .min();
            let next = match (arrival, timer) {
                (Some(a), Some(t)) => a.min(t),
                (Some(t), None) | (None, Some(t)) => t,
                (None, None) => break,
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if arrival.is_some_and(|a| a <= self.now) {
                self.deliver();
            } else {
                for i in 0..self.nodes.len() {
                    if self.nodes[i]
                        .node
                        .poll_timeout()
                        .is_some_and(|t| t <= self.now)
                    {
                        self.nodes[i].node.handle_timeout(self.now);
                        self.drain(NodeId(i));
                    }
                }
            }
        }
        self.now = end;
        self.outcome.end = end;
        self.outcome
    }

    fn deliver(&mut self) {
        let Some(Reverse((_, id))) = self.queue.pop() else {
            return;
        };
        let Some(a) = self.arrivals.remove(&id) else {
            return;
        };
        self.outcome.delivered += 1;
        self.nodes[a.node.0]
            .node
            .handle_frame(self.now, a.port, &a.frame);
        self.drain(a.node);
    }

    fn drain_all(&mut self) {
        for i in 0..self.nodes.len() {
            self.drain(NodeId(i));
        }
    }

    fn drain(&mut self, node: NodeId) {
        let mut buf = std::mem::take(&mut self.buf);
        while let Some(port) = self.nodes[node.0].node.poll_frame(&mut buf) {
            self.send(node, port, &buf);
        }
        self.buf = buf;
    }

    fn send(&mut self, node: NodeId, port: u16, frame: &[u8]) {
        let Some(&(wire, side)) = self.ports.get(&(node, port)) else {
            self.outcome.unconnected += 1;
            return;
        };
        let w = &mut self.wires[wire];
        if let Some(tap) = &mut w.tap {
            tap.frame(self.now, node, frame);
        }
        match w.directions[side].fate(self.now, frame.len(), &w.link) {
            Fate::Arrives(at) => {
                let (node, port) = w.ends[1 - side];
                self.order += 1;
                self.queue.push(Reverse((at, self.order)));
                self.arrivals.insert(
                    self.order,
                    Arrival {
                        node,
                        port,
                        frame: frame.to_vec(),
                    },
                );
            }
            Fate::Lost => self.outcome.lost += 1,
            Fate::QueueFull => self.outcome.queue_drops += 1,
        }
    }
}
