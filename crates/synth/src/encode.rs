//! Records as vectors of symbols, and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

use crate::address::{COMMON, KINDS, invent, kind};
use crate::grid::Grid;
use crate::table::has_ports;
use crate::{Record, rules};

/// Fields of a record's symbols, in [`Symbols`].
pub(crate) const LABEL: usize = 0;
pub(crate) const TIME: usize = 1;
pub(crate) const SRC: usize = 2;
pub(crate) const DST: usize = 3;
pub(crate) const SERVICE: usize = 4;
/// 1 when the ports are those of the pair's last record, turned round where the direction is.
pub(crate) const SAME: usize = 5;
/// 512 ports wide.
pub(crate) const SRC_RANGE: usize = 6;
pub(crate) const DST_RANGE: usize = 7;
pub(crate) const PACKETS: usize = 8;
/// Whole bytes per packet, twice, plus 1 when bytes are a multiple of packets.
pub(crate) const SIZE: usize = 9;
pub(crate) const DURATION: usize = 10;
pub(crate) const HOPS: usize = 11;
/// The protocol's number, which the service fixes: a parent of tables, not drawn.
pub(crate) const PROTOCOL: usize = 12;
pub(crate) const FIELDS: usize = 13;

pub(crate) type Symbols = [u32; FIELDS];
/// Time to live, type of service, marks of a flow's first packet.
pub(crate) type Hops = (u8, u8, u8);

/// Host symbols: common addresses, then "another of this kind", then known ones.
pub(crate) const FIRST_KIND: u32 = COMMON.len() as u32;
pub(crate) const FIRST_KNOWN: u32 = FIRST_KIND + KINDS as u32;
/// Classes of ports that are not known by number.
const CLASSES: u32 = 5;

/// Known hosts.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) enum Hosts {
    /// By address (made-up ones, when asked for).
    Addresses(Vec<IpAddr>),
    /// By kind and a public hash of the address, so that no address is in the model; ascending.
    Hashed(Vec<(u32, u32)>),
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Encoder {
    pub(crate) labels: Vec<String>,
    pub(crate) label_column: Option<String>,
    pub(crate) capture: bool,
    /// Protocols without ports keep what exporters put there.
    pub(crate) odd_ports: bool,
    /// Unit of start times and of durations, µs.
    pub(crate) units_us: (u64, u64),
    pub(crate) time: Grid,
    /// Records in each bin of time.
    pub(crate) time_weights: Vec<f64>,
    /// Ports known by number, ascending.
    pub(crate) ports: Vec<u16>,
    /// Protocol, source and destination port symbol.
    pub(crate) services: Vec<(u8, u32, u32)>,
    pub(crate) hosts: Hosts,
    pub(crate) packets: Grid,
    pub(crate) sizes: Grid,
    pub(crate) durations: Grid,
    /// Time to live, type of service and marks.
    pub(crate) hops: Vec<Hops>,
}

/// Number of buckets that addresses of a kind are hashed to.
pub(crate) const BUCKETS: u32 = 4096;

/// The public hash of an address.
pub(crate) fn bucket(address: IpAddr) -> u32 {
    let bits = match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    (crate::address::key(&[bits as u64, (bits >> 64) as u64]) % u64::from(BUCKETS)) as u32
}

/// Whole bytes per packet, twice, plus 1 when nothing is left over.
pub(crate) fn size_code(r: &Record) -> u64 {
    let packets = r.packets.max(1);
    2 * (r.bytes / packets) + u64::from(r.bytes.is_multiple_of(packets))
}

/// Look-ups that the model file does not hold.
pub(crate) struct Index {
    services: BTreeMap<(u8, u32, u32), u32>,
    hosts: BTreeMap<IpAddr, u32>,
    hashed: BTreeMap<(u32, u32), u32>,
    hops: BTreeMap<Hops, u32>,
}

impl Encoder {
    pub(crate) fn index(&self) -> Index {
        let number = |i: usize| i as u32;
        let mut index = Index {
            services: self
                .services
                .iter()
                .enumerate()
                .map(|(i, s)| (*s, number(i)))
                .collect(),
            hosts: COMMON
                .iter()
                .enumerate()
                .map(|(i, a)| (*a, number(i)))
                .collect(),
            hashed: BTreeMap::new(),
            hops: self
                .hops
                .iter()
                .enumerate()
                .map(|(i, h)| (*h, number(i)))
                .collect(),
        };
        match &self.hosts {
            Hosts::Addresses(all) => {
                index.hosts.extend(
                    all.iter()
                        .enumerate()
                        .map(|(i, a)| (*a, FIRST_KNOWN + number(i))),
                );
            }
            Hosts::Hashed(all) => {
                index.hashed = all
                    .iter()
                    .enumerate()
                    .map(|(i, b)| (*b, FIRST_KNOWN + number(i)))
                    .collect();
            }
        }
        index
    }

    /// How many symbols a field has.
    pub(crate) fn size(&self, field: usize) -> u32 {
        let n = match field {
            LABEL => self.labels.len(),
            TIME => self.time.len(),
            SRC | DST => {
                FIRST_KNOWN as usize
                    + match &self.hosts {
                        Hosts::Addresses(all) => all.len(),
                        Hosts::Hashed(all) => all.len(),
                    }
            }
            SERVICE => self.services.len(),
            SAME => 2,
            SRC_RANGE | DST_RANGE => 128,
            PACKETS => self.packets.len(),
            SIZE => self.sizes.len(),
            DURATION => self.durations.len(),
            PROTOCOL => 256,
            _ => self.hops.len(),
        };
        n as u32
    }

    /// Whether a model file's encoder can be used.
    pub(crate) fn valid(&self) -> bool {
        let ports = self.ports.len() as u32 + CLASSES;
        !self.labels.is_empty()
            && [&self.time, &self.packets, &self.sizes, &self.durations]
                .iter()
                .all(|g| g.valid())
            && self.time_weights.len() == self.time.len()
            && self.time_weights.iter().all(|w| w.is_finite() && *w >= 0.0)
            && self.time_weights.iter().sum::<f64>() > 0.0
            && self.units_us.0 > 0
            && self.units_us.1 > 0
            && self.ports.windows(2).all(|w| w[0] < w[1])
            && !self.services.is_empty()
            && self
                .services
                .iter()
                .all(|(_, s, d)| *s < ports && *d < ports)
            && !self.hops.is_empty()
            && match &self.hosts {
                Hosts::Hashed(all) => all
                    .iter()
                    .all(|(k, b)| (*k as usize) < KINDS && *b < BUCKETS),
                Hosts::Addresses(_) => true,
            }
    }

    /// The symbol of a port: its place among the known ones, or a class.
    pub(crate) fn port(&self, port: u16) -> u32 {
        match self.ports.binary_search(&port) {
            Ok(at) => at as u32,
            Err(_) => {
                self.ports.len() as u32
                    + match port {
                        0..1024 => 0,
                        1024..8192 => 1,
                        8192..32768 => 2,
                        32768..49152 => 3,
                        _ => 4,
                    }
            }
        }
    }

    pub(crate) fn service(&self, r: &Record) -> (u8, u32, u32) {
        if self.odd_ports || has_ports(r.protocol) {
            (r.protocol, self.port(r.src_port), self.port(r.dst_port))
        } else {
            (r.protocol, 0, 0)
        }
    }

    fn host(&self, index: &Index, address: IpAddr) -> u32 {
        if let Some(symbol) = index.hosts.get(&address) {
            return *symbol;
        }
        let kind = kind(address);
        index
            .hashed
            .get(&(kind, bucket(address)))
            .copied()
            .unwrap_or(FIRST_KIND + kind)
    }

    /// All symbols but [`SAME`].
    pub(crate) fn symbols(&self, index: &Index, r: &Record) -> Symbols {
        let mut s = [0; FIELDS];
        s[LABEL] = r.label.min(self.labels.len().saturating_sub(1) as u32);
        s[TIME] = self.time.find(r.start_us);
        s[SRC] = self.host(index, r.src);
        s[DST] = self.host(index, r.dst);
        s[SERVICE] = index
            .services
            .get(&self.service(r))
            .copied()
            .unwrap_or(u32::MAX);
        s[SRC_RANGE] = u32::from(r.src_port >> 9);
        s[DST_RANGE] = u32::from(r.dst_port >> 9);
        s[PACKETS] = self.packets.find(r.packets);
        s[SIZE] = self.sizes.find(size_code(r));
        s[DURATION] = self.durations.find(r.duration_us);
        s[PROTOCOL] = u32::from(r.protocol);
        s[HOPS] = index
            .hops
            .get(&(r.ttl, r.tos, r.marks))
            .copied()
            .unwrap_or(0);
        s
    }

    /// The kind of a host symbol.
    pub(crate) fn host_kind(&self, symbol: u32) -> u32 {
        if symbol < FIRST_KIND {
            return kind(COMMON[symbol as usize]);
        }
        if symbol < FIRST_KNOWN {
            return symbol - FIRST_KIND;
        }
        let at = (symbol - FIRST_KNOWN) as usize;
        match &self.hosts {
            Hosts::Addresses(all) => all.get(at).map_or(1, |a| kind(*a)),
            Hosts::Hashed(all) => all.get(at).map_or(1, |(k, _)| *k),
        }
    }

    /// The address of a symbol; `fresh` numbers the host where the symbol is "another of this kind".
    pub(crate) fn address(&self, symbol: u32, fresh: u64, secret: u64) -> IpAddr {
        if symbol < FIRST_KIND {
            return COMMON[symbol as usize];
        }
        if symbol < FIRST_KNOWN {
            return invent(secret, symbol - FIRST_KIND, fresh + (1 << 32));
        }
        let at = (symbol - FIRST_KNOWN) as usize;
        match &self.hosts {
            Hosts::Addresses(all) => all.get(at).copied().unwrap_or(COMMON[0]),
            Hosts::Hashed(all) => {
                let (kind, bucket) = all.get(at).copied().unwrap_or((1, 0));
                invent(secret, kind, u64::from(bucket))
            }
        }
    }

    fn draw_port(&self, symbol: u32, range: u32, protocol: u8, rng: &mut dyn RngCore) -> u16 {
        if let Some(port) = self.ports.get(symbol as usize) {
            return *port;
        }
        let (low, high) = match symbol - self.ports.len() as u32 {
            0 => (1, 1023),
            1 => (1024, 8191),
            2 => (8192, 32767),
            3 => (32768, 49151),
            _ => (49152, 65535),
        };
        // The drawn range where it lies in the class, else the whole class.
        let (from, to) = ((range * 512).max(low), (range * 512 + 511).min(high));
        let (from, to) = if from <= to { (from, to) } else { (low, high) };
        let mut port = 0;
        for _ in 0..64 {
            port = rng.random_range(from..=to) as u16;
            if self.ports.binary_search(&port).is_err() && rules::port_allowed(port, protocol) {
                break;
            }
        }
        port
    }

    /// Values for symbols; addresses and, with [`SAME`], ports are the caller's.
    pub(crate) fn values(&self, s: &Symbols, rng: &mut dyn RngCore) -> Record {
        let (protocol, src_port, dst_port) = self
            .services
            .get(s[SERVICE] as usize)
            .copied()
            .unwrap_or((6, 0, 0));
        let packets = self.packets.draw(s[PACKETS], rng).max(1);
        let code = self.sizes.draw(s[SIZE], rng);
        let left_over = if code % 2 == 1 || packets < 2 {
            0
        } else {
            rng.random_range(1..packets)
        };
        let unit = self.units_us.1;
        let hops = self.hops.get(s[HOPS] as usize).copied();
        let (ttl, tos, marks) = hops.unwrap_or((64, 0, 0));
        let ports = self.odd_ports || has_ports(protocol);
        let mut port = |symbol, range| {
            if ports {
                self.draw_port(symbol, range, protocol, rng)
            } else {
                0
            }
        };
        let (src_port, dst_port) = (port(src_port, s[SRC_RANGE]), port(dst_port, s[DST_RANGE]));
        Record {
            protocol,
            src_port,
            dst_port,
            packets,
            bytes: (code / 2).saturating_mul(packets).saturating_add(left_over),
            duration_us: self.durations.draw(s[DURATION], rng) / unit * unit,
            label: s[LABEL],
            ttl,
            tos,
            marks,
            ..Record::default()
        }
    }
}
