//! Both ends of a tunnel as nodes: what an observer of the link between them sees has the sizes and times of tunnel mode.
//!
//! The session layer is the real one, keys included; only its own clock, which erases old keys, is left out.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

use chaff_abi::{Dir, Mac, Nanos};
use chaff_engine::{Gateway, Plan, mapped};
use chaff_tunnel::{Class, Datagram, Tunnel, inner};

use crate::Node;
use crate::frame::{self, Path};
use crate::nodes::{LAN, WAN};

/// A message that is sent.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// When.
    pub at: Nanos,
    /// Which way.
    pub dir: Dir,
    /// What it is.
    pub class: Class,
    /// For real packets: of which device.
    pub device: usize,
    /// When a real packet came to the end that sends it.
    pub came: Nanos,
}

/// Hears of every message when it is sent.
pub type OnMessage = Box<dyn FnMut(Message)>;

/// MAC addresses of the home by inner address: what the gateway's neighbour table would hold.
pub type Neighbours = Rc<RefCell<BTreeMap<IpAddr, Mac>>>;

const ETHERNET: usize = 14;

/// The IP packet of a frame, without padding and tags of IEEE 802.1Q; `None` for what a router does not pass on: other protocols, multicast,
/// broadcast and link-local addresses.
fn routed(frame: &[u8]) -> Option<(&[u8], inner::Inner)> {
    let mut kind = ETHERNET - 2;
    while let [0x81, 0] | [0x88, 0xa8] = frame.get(kind..kind + 2)? {
        kind += 4;
    }
    let packet = match frame.get(kind..kind + 2)? {
        [0x08, 0] | [0x86, 0xdd] => frame.get(kind + 2..)?,
        _ => return None,
    };
    let found = inner::parse(packet)?;
    let local = |a: IpAddr| match a {
        IpAddr::V4(a) => {
            a.is_multicast() || a.is_broadcast() || a.is_link_local() || a.is_unspecified()
        }
        IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local() || a.is_unspecified(),
    };
    let group = frame.first()? & 1 == 1;
    (!group && !local(found.source) && !local(found.destination))
        .then(|| (&packet[..found.len], found))
}

fn message(at: Nanos, dir: Dir, d: &Datagram) -> Message {
    Message {
        at,
        dir,
        class: d.class,
        device: d.tag as usize,
        came: d.came,
    }
}

/// One end of the tunnel as a node: the gateway with the home behind it, or the far end with the servers behind it. What is not
/// for the network stays where it is.
pub struct TunnelEnd {
    gateway: Rc<RefCell<Gateway>>,
    tunnel: Rc<RefCell<Tunnel>>,
    /// From this end to the other.
    path: Path,
    /// Which way this end sends.
    dir: Dir,
    /// Ports towards the other end, and away from it.
    ports: [u16; 2],
    neighbours: Neighbours,
    queue: VecDeque<(u16, Vec<u8>)>,
    on_message: OnMessage,
}

impl TunnelEnd {
    /// The gateway's end, with ports [`LAN`] and [`WAN`]; `path` leads from there to the far end.
    pub fn home(
        gateway: Rc<RefCell<Gateway>>,
        tunnel: Rc<RefCell<Tunnel>>,
        path: Path,
        neighbours: Neighbours,
        on_message: OnMessage,
    ) -> Self {
        let mut node = Self {
            gateway,
            tunnel,
            path,
            dir: Dir::Out,
            ports: [WAN, LAN],
            neighbours,
            queue: VecDeque::new(),
            on_message,
        };
        node.collect(Nanos::ZERO);
        node
    }

    /// The far end: port 0 faces the gateway, port 1 a source that plays the servers' frames. `path` leads from the gateway to
    /// the far end; the gateway's machine only tells which device is whose.
    pub fn far(
        gateway: Rc<RefCell<Gateway>>,
        tunnel: Rc<RefCell<Tunnel>>,
        path: Path,
        neighbours: Neighbours,
        on_message: OnMessage,
    ) -> Self {
        Self {
            gateway,
            tunnel,
            path: path.reversed(),
            dir: Dir::In,
            ports: [0, 1],
            neighbours,
            queue: VecDeque::new(),
            on_message,
        }
    }

    fn is_home(&self) -> bool {
        self.dir == Dir::Out
    }

    /// Takes a frame from the home or from the servers into the tunnel.
    fn enter(&mut self, now: Nanos, frame: &[u8]) {
        if self.is_home() {
            let mut gateway = self.gateway.borrow_mut();
            gateway.handle_frame(now, self.dir, frame, frame.len());
        }
        // The device's hardware address: what sends here, what it is sent to there.
        let mac = frame.get(if self.is_home() { 6..12 } else { 0..6 });
        let (Some((packet, found)), Some(mac)) = (routed(frame), mac) else {
            return;
        };
        let mut octets = [0; 6];
        octets.copy_from_slice(mac);
        let (mac, address) = match self.dir {
            Dir::Out => (Mac(octets), found.source),
            Dir::In => (Mac(octets), found.destination),
        };
        self.neighbours.borrow_mut().insert(address, mac);
        let device = self.gateway.borrow().device_index(mac, mapped(address));
        let mut tunnel = self.tunnel.borrow_mut();
        tunnel.handle_tagged(now, packet, device as u32);
    }

    /// Takes out what the tunnel has to say, after the gateway's plans went in.
    fn collect(&mut self, now: Nanos) {
        let mut tunnel = self.tunnel.borrow_mut();
        while let Some(plan) = self
            .is_home()
            .then(|| self.gateway.borrow_mut().poll_plan())
            .flatten()
        {
            match plan {
                Plan::Dummy { at, stream } => tunnel.plan(0, at, stream),
                Plan::Downlink(dummies) => tunnel.ask_downlink(now, 0, &dummies),
            }
        }
        let [outer, inner] = self.ports;
        while let Some(d) = tunnel.poll_datagram() {
            (self.on_message)(message(now, self.dir, &d));
            let mut framed = Vec::new();
            self.path.build(d.as_ref(), &mut framed);
            self.queue.push_back((outer, framed));
        }
        while let Some(p) = tunnel.poll_inner() {
            let leaves = if self.is_home() {
                let framed = self.framed(p.as_ref());
                let mut gateway = self.gateway.borrow_mut();
                gateway.handle_frame(now, Dir::In, &framed, framed.len());
                framed
            } else {
                p.as_ref().to_vec()
            };
            self.queue.push_back((inner, leaves));
        }
    }

    /// An inner packet as a frame to its device.
    fn framed(&self, packet: &[u8]) -> Vec<u8> {
        let to = inner::parse(packet).map(|i| i.destination);
        let mac = to.and_then(|to| self.neighbours.borrow().get(&to).copied());
        let mut framed = Vec::with_capacity(ETHERNET + packet.len());
        framed.extend_from_slice(&mac.unwrap_or_default().0);
        framed.extend_from_slice(&self.path.src_mac.0);
        let v4 = packet.first().is_some_and(|b| b >> 4 == 4);
        framed.extend_from_slice(if v4 { &[0x08, 0] } else { &[0x86, 0xdd] });
        framed.extend_from_slice(packet);
        framed
    }
}

impl Node for TunnelEnd {
    fn handle_frame(&mut self, now: Nanos, port: u16, frame: &[u8]) {
        if port == self.ports[1] {
            self.enter(now, frame);
        } else if let Some((from, payload)) = frame::udp_to(frame, self.path.src) {
            let mut tunnel = self.tunnel.borrow_mut();
            tunnel.handle_datagram(now, from, payload.into());
        }
        self.collect(now);
    }

    fn handle_timeout(&mut self, now: Nanos) {
        if self.is_home() {
            let due = self.gateway.borrow().poll_timeout();
            if due.is_some_and(|(t, _)| t <= now) {
                self.gateway.borrow_mut().handle_timeout(now);
            }
        }
        self.tunnel.borrow_mut().handle_timeout(now);
        self.collect(now);
    }

    fn poll_timeout(&self) -> Option<Nanos> {
        let gateway = self.is_home().then(|| self.gateway.borrow().poll_timeout());
        let tunnel = self.tunnel.borrow().poll_timeout();
        let both = gateway.flatten().into_iter().chain(tunnel);
        both.map(|(t, _)| t).min()
    }

    fn poll_frame(&mut self, buf: &mut Vec<u8>) -> Option<u16> {
        let (port, frame) = self.queue.pop_front()?;
        *buf = frame;
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_router_keeps_is_not_routed() {
        let mut frame = vec![2u8; 80];
        frame[12..14].copy_from_slice(&[0x08, 6]);
        assert!(routed(&frame).is_none());
        frame[12..14].copy_from_slice(&[0x08, 0]);
        frame[14..34].copy_from_slice(&[
            0x45, 0, 0, 40, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 0, 1, 224, 0, 0, 251,
        ]);
        assert!(routed(&frame).is_none());
        frame[30..34].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(routed(&frame).map(|(p, _)| p.len()), Some(40));
        frame.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(routed(&frame).map(|(p, _)| p.len()), Some(40));
    }
}
