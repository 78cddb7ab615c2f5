//! Two tunnel ends ([`chaff_tunnel::Tunnel`]) with a network between them that is not to be trusted, and one end that may ask
//! for too much.
//!
//! Input: operations (see [`run`]).
//!
//! - What comes out of an end went into the other, whole, and each packet once.
//! - Lengths on the way are those of the bins and of WireGuard's own messages.
//! - Nobody answers what is forged.
//! - Bytes of downlink cover never exceed the allowance and the ratio to authentic bytes received.
//! - What a dummy says is what is read from it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use chaff_abi::Nanos;
use chaff_cover::EnvelopeConfig;
use chaff_tunnel::dummy::{decode, encode};
use chaff_tunnel::{Class, Config, DownlinkConfig, PeerConfig, PrivateKey, Tunnel};
use rand::SeedableRng;

use crate::Seeds;
use crate::bytes::{Bytes, push_piece};

const ALLOWANCE: u64 = 5_000;
const RATIO: f64 = 2.0;

struct World {
    ends: [Tunnel; 2],
    at: [SocketAddr; 2],
    now: Nanos,
    /// Messages on the way, to each end.
    way: [VecDeque<Vec<u8>>; 2],
    /// Packets given to each end that did not come out yet.
    sent: [BTreeMap<Vec<u8>, u32>; 2],
    authentic: u64,
    cover: u64,
}

/// See the module. Operations: 0 time passes (2 bytes, ms), 1 a packet (end, bytes behind an IPv4 header), 2 a forged message
/// (end, bytes), 3 a message arrives, altered at a place (end, place, by what), 4 a message is lost (end), 5 dummies are asked for
/// (number, 2 bytes each, ms), 6 a message arrives twice (end), 7 a dummy of any bytes is read.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut world = World::new();
    // Nothing of a run is worth more steps.
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 => world.pass(Nanos::from_millis(u64::from(input.u16()))),
            1 => {
                let end = usize::from(input.u8() & 1);
                world.give(end, input.piece());
            }
            2 => {
                let end = usize::from(input.u8() & 1);
                world.forge(end, input.piece());
            }
            3 => {
                let end = usize::from(input.u8() & 1);
                let (place, by) = (usize::from(input.u16()), input.u8());
                if let Some(mut message) = world.way[end].pop_front() {
                    let place = place % message.len();
                    message[place] ^= by;
                    world.arrive(end, &message, by == 0);
                }
            }
            4 => drop(world.way[usize::from(input.u8() & 1)].pop_front()),
            5 => {
                let n = input.u8();
                let due = |ms: u16| world.now + Nanos::from_millis(u64::from(ms));
                let asked: Vec<_> = (0..n).map(|_| (due(input.u16()), 1)).collect();
                world.ends[0].ask_downlink(world.now, 0, &asked);
                world.collect(0);
            }
            6 => {
                let end = usize::from(input.u8() & 1);
                if let Some(message) = world.way[end].pop_front() {
                    world.arrive(end, &message, true);
                    world.arrive(end, &message, true);
                }
            }
            _ => {
                let bytes = input.piece();
                if let Ok(d) = decode(bytes) {
                    let mut again = vec![0; bytes.len()];
                    encode(d.stream, d.sequence, &d.kind, &mut again);
                    assert_eq!(decode(&again), Ok(d));
                }
            }
        }
    }
    world.pass(Nanos::from_secs(3));
}

impl World {
    fn new() -> Self {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(5);
        let keys = [0; 2].map(|_| PrivateKey::generate(&mut rng));
        let at: [SocketAddr; 2] = [([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into()];
        let config = Config {
            clock: Nanos::from_millis(5),
            max_waiting: 8,
            erase_keys: false,
            downlink: DownlinkConfig {
                allowance: ALLOWANCE,
                ratio: RATIO,
                max_pending: 50,
                ..DownlinkConfig::default()
            },
            ..Config::default()
        };
        let home = Config {
            always_on: true,
            envelope: Some(EnvelopeConfig::default()),
            ..config.clone()
        };
        let peer = |other: usize, allowed: &str, endpoint| PeerConfig {
            public_key: keys[other].public(),
            preshared_key: None,
            allowed: vec![allowed.parse().unwrap()],
            endpoint,
        };
        let far = peer(1, "0.0.0.0/0", Some(at[1]));
        let near = peer(0, "10.7.0.2/32", None);
        let ends = [
            Tunnel::new(&keys[0], home, &[far], [1; 32], Nanos::ZERO).unwrap(),
            Tunnel::new(&keys[1], config, &[near], [2; 32], Nanos::ZERO).unwrap(),
        ];
        Self {
            ends,
            at,
            now: Nanos::ZERO,
            way: Default::default(),
            sent: Default::default(),
            authentic: 0,
            cover: 0,
        }
    }

    fn give(&mut self, end: usize, content: &[u8]) {
        let len = 20 + content.len();
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        let (home, server) = ([10, 7, 0, 2], [192, 0, 2, 9]);
        let (from, to) = if end == 0 {
            (home, server)
        } else {
            (server, home)
        };
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet.extend_from_slice(content);
        self.ends[end].handle_inner(self.now, &packet);
        *self.sent[end].entry(packet).or_default() += 1;
        self.collect(end);
    }

    fn forge(&mut self, end: usize, message: &[u8]) {
        self.ends[end].handle_datagram(self.now, self.at[1 - end], message.into());
        assert!(self.ends[end].poll_datagram().is_none());
        assert!(self.ends[end].poll_inner().is_none());
    }

    fn arrive(&mut self, end: usize, message: &[u8], whole: bool) {
        if end == 1 && whole {
            self.authentic += message.len() as u64;
        }
        self.ends[end].handle_datagram(self.now, self.at[1 - end], message.into());
        self.collect(end);
    }

    fn collect(&mut self, end: usize) {
        while let Some(d) = self.ends[end].poll_datagram() {
            let len = d.as_ref().len();
            assert!([148, 92, 64, 160, 608, 1_452].contains(&len), "{len}");
            assert_eq!(d.to, self.at[1 - end]);
            if end == 1 && d.class == Class::Cover {
                self.cover += len as u64;
            }
            if self.way[1 - end].len() < 1_000 {
                self.way[1 - end].push_back(d.as_ref().to_vec());
            }
        }
        while let Some(p) = self.ends[end].poll_inner() {
            let left = self.sent[1 - end].get_mut(p.as_ref());
            let left = left.filter(|n| **n > 0).unwrap();
            *left -= 1;
        }
        // Besides what was asked for, an end says every few seconds that it lives.
        let alive = 1_500.0 * (2.0 + self.now.as_secs_f64() / 2.0);
        let most = ALLOWANCE as f64 + RATIO * self.authentic as f64 + alive;
        assert!(self.cover as f64 <= most, "{} of {most}", self.cover);
    }

    /// Lets time pass; a tenth of a second later at most, what is on the way arrives.
    fn pass(&mut self, time: Nanos) {
        let end = self.now + time;
        while self.now < end {
            let next = self
                .ends
                .iter()
                .filter_map(|e| e.poll_timeout())
                .map(|t| t.0);
            let step = self.now + Nanos::from_millis(100);
            // Ends that want to be called at once are, but time goes on.
            let least = self.now + Nanos::from_micros(50);
            self.now = next.chain([step, end]).min().unwrap_or(end).max(least);
            for e in [0, 1] {
                self.ends[e].handle_timeout(self.now);
                self.collect(e);
                while let Some(message) = self.way[e].pop_front() {
                    self.arrive(e, &message, true);
                }
            }
        }
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut normal = vec![0, 0, 50];
    for i in 0..20u8 {
        normal.extend([1, i & 1]);
        push_piece(&mut normal, &vec![i; usize::from(i) * 60]);
        normal.extend([0, 0, 7]);
    }
    let mut hostile = vec![0, 0, 50, 5, 200];
    for i in 0..200u8 {
        hostile.extend([0, i]);
    }
    for kind in 0..6u8 {
        hostile.extend([2, kind & 1]);
        push_piece(&mut hostile, &[&[kind, 0, 0, 0][..], &[9; 144]].concat());
        hostile.extend([1, 0]);
        push_piece(&mut hostile, &[kind; 30]);
        hostile.extend([0, 0, 2, 3, 1, 0, kind * 5, 1, 6, 0, 4, 1]);
    }
    hostile.extend([0, 0x20, 0]);
    let mut said = Vec::new();
    for kind in 0..3u8 {
        let mut dummy = vec![0xff, 0, 0, 128, kind, 1, 0, 1, 0, 0, 0, 1, 0, 2];
        dummy.resize(128, kind);
        said.push(7);
        push_piece(&mut said, &dummy);
    }
    vec![
        ("normal".into(), normal),
        ("hostile".into(), hostile),
        ("said".into(), said),
    ]
}
