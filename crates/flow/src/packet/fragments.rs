use chaff_abi::{FlowKey, Nanos};

use super::{Fragment, Packet, Tunnel};

/// How long the first fragment of a packet is remembered, as RFC 8200, section 4.5, has it for reassembly.
const MEMORY: Nanos = Nanos::from_secs(60);
/// Places that are looked through for one packet.
const WAYS: usize = 4;

/// Ports of fragmented packets, so that later fragments find the flow of the first one.
///
/// It holds a fixed number of packets, 80 bytes each, from the first fragment on; a new one takes the place of the
/// oldest of four.
#[derive(Clone, Debug, Default)]
pub(super) struct Fragments {
    places: Vec<Place>,
    capacity: usize,
    seed: u64,
}

/// What tells the packets of which fragments are parts: RFC 791 counts the protocol in, RFC 8200 does not, because the
/// later fragments need not know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Name {
    /// Without ports.
    key: FlowKey,
    id: u32,
    inner_vlan: u16,
    tunnel: Tunnel,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    name: Name,
    at: Nanos,
    ports: [[u8; 2]; 2],
    protocol: u8,
    used: bool,
}

impl Fragments {
    /// Memory for about `capacity` packets; 0 for none.
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        Self {
            places: Vec::new(),
            capacity: capacity.div_ceil(WAYS),
            seed,
        }
    }

    /// Remembers a first fragment; gives a later one the ports of the first, and whether it did.
    #[cold]
    #[inline(never)]
    pub(super) fn join(&mut self, at: Nanos, packet: &mut Packet<'_>) -> bool {
        if self.capacity == 0 {
            return false;
        }
        if self.places.is_empty() {
            self.places = vec![Place::default(); self.capacity * WAYS];
        }
        let name = Name::of(packet);
        let set = (name.hash(self.seed) % self.capacity as u64) as usize * WAYS;
        let Some(places) = self.places.get_mut(set..set + WAYS) else {
            return false;
        };
        let is_it = |p: &Place| p.used && p.name == name;
        match packet.fragment {
            Fragment::First => {
                let place = match places.iter().position(is_it) {
                    Some(i) => places.get_mut(i),
                    None => places.iter_mut().min_by_key(|p| (p.used, p.at)),
                };
                if let Some(place) = place {
                    *place = Place {
                        name,
                        at,
                        ports: [packet.key.src_port, packet.key.dst_port],
                        protocol: packet.key.protocol,
                        used: true,
                    };
                }
                false
            }
            Fragment::Later => {
                let found = places
                    .iter()
                    .find(|p| is_it(p) && at.since(p.at) <= MEMORY)
                    .copied();
                if let Some(place) = found {
                    [packet.key.src_port, packet.key.dst_port] = place.ports;
                    packet.key.protocol = place.protocol;
                }
                found.is_some()
            }
            Fragment::None => false,
        }
    }
}

impl Name {
    fn of(packet: &Packet<'_>) -> Self {
        let mut key = FlowKey {
            src_port: [0; 2],
            dst_port: [0; 2],
            ..packet.key
        };
        if key.version == 6 {
            key.protocol = 0;
        }
        Self {
            key,
            id: packet.fragment_id,
            inner_vlan: packet.inner_vlan,
            tunnel: packet.tunnel,
        }
    }

    /// FNV-1a over what differs between packets of one network, folded at the end.
    fn hash(&self, seed: u64) -> u64 {
        let mut h = seed ^ 0xcbf2_9ce4_8422_2325;
        let words = self.key.src.iter().chain(&self.key.dst);
        for b in words.chain(&self.id.to_be_bytes()) {
            h = (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        h ^ (h >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_the_memory_that_is_documented() {
        assert_eq!(size_of::<Place>(), 80);
    }
}
