//! MQTT (OASIS 3.1.1 and 5.0): control packets and who connects.

use super::bytes::Reader;

/// CONNECT.
pub const CONNECT: u8 = 1;
/// CONNACK.
pub const CONNACK: u8 = 2;
/// PUBLISH.
pub const PUBLISH: u8 = 3;
/// SUBSCRIBE.
pub const SUBSCRIBE: u8 = 8;
/// PINGREQ.
pub const PINGREQ: u8 = 12;
/// PINGRESP.
pub const PINGRESP: u8 = 13;

/// A control packet at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Such as [`CONNECT`].
    pub kind: u8,
    /// Lower half of the first byte.
    pub flags: u8,
    /// Length of the rest that the header tells, bytes.
    pub length: usize,
    /// The rest, as far as it is there.
    pub rest: &'a [u8],
    /// Bytes before the rest.
    header: usize,
}

impl<'a> Packet<'a> {
    /// Reads a control packet; `None` when its length is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8()?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = reader.u8()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(Self {
                    kind: first >> 4,
                    flags: first & 15,
                    length,
                    header: bytes.len() - reader.rest().len(),
                    rest: reader.take_at_most(length),
                });
            }
        }
        None
    }

    /// Whether it is the only packet in the `available` bytes that it was read from, and whole.
    pub const fn fills(&self, available: usize) -> bool {
        self.header + self.length == available
    }
}

/// Identifier of the client in a CONNECT packet; `None` when the packet is none.
pub fn client_id(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let mut reader = Reader::new(packet.rest);
    let name = reader.vector16()?;
    let known = matches!(name, b"MQTT" | b"MQIsdp");
    if packet.kind != CONNECT || packet.flags != 0 || !known {
        return None;
    }
    let level = reader.u8()?;
    reader.u8()?;
    reader.u16()?;
    if level == 5 {
        // Properties with their length.
        let properties = Packet::parse(&[&[0], reader.rest()].concat())?.length;
        let size = properties_size(properties);
        reader.take(size + properties)?;
    }
    Some(reader.vector16()?.to_vec())
}

/// Bytes that a length takes.
const fn properties_size(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn connect(level: u8, properties: &[u8], id: &[u8]) -> Vec<u8> {
        let mut rest = b"\0\x04MQTT".to_vec();
        rest.extend([level, 2, 0, 60]);
        rest.extend_from_slice(properties);
        rest.extend((id.len() as u16).to_be_bytes());
        rest.extend_from_slice(id);
        [&[0x10, rest.len() as u8][..], &rest].concat()
    }

    #[test]
    fn reads_the_client() {
        let bytes = connect(4, &[], b"plug-17");
        let packet = Packet::parse(&bytes).expect("a packet");
        assert!(packet.fills(bytes.len()));
        assert_eq!(client_id(&packet).as_deref(), Some(&b"plug-17"[..]));
        let bytes = connect(5, &[5, 0x11, 0, 0, 0, 10], b"plug-5");
        let packet = Packet::parse(&bytes).expect("a packet");
        assert_eq!(client_id(&packet).as_deref(), Some(&b"plug-5"[..]));
    }

    #[test]
    fn refuses_other_packets() {
        let ping = Packet::parse(&[0xc0, 0]).expect("a packet");
        assert_eq!((ping.kind, client_id(&ping)), (PINGREQ, None));
        assert_eq!(Packet::parse(&[0x30, 0xff, 0xff, 0xff, 0xff, 1]), None);
        assert!(ping.fills(2) && !ping.fills(3));
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(packet) = Packet::parse(&bytes) {
                packet.fills(bytes.len());
                client_id(&packet);
            }
        }
    }
}
