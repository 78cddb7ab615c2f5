//! From frame bytes to addresses, ports and lengths.
//!
//! One parser for XDP and tcx, over packet memory. Every offset is bounded, so that the verifier can follow it: at most
//! two tags in the bytes, six extension headers, and headers within [`MAX_OFFSET`]. The result goes to per-CPU memory:
//! the verifier keeps no knowledge of what is there, so all paths through the parser are one path for what follows.

use chaff_abi::{FlowKey, Sample};

/// Where a header may start at the latest. A home's frames need 14 + 8 + 40 bytes; the rest is for extension headers.
pub const MAX_OFFSET: u32 = 1023;

/// Extension headers that are looked through; a chain that is longer counts with the next header's number and no ports.
const MAX_EXTENSIONS: u32 = 6;

/// What the kernel knows about a frame besides its bytes.
#[derive(Clone, Copy)]
pub struct Beside {
    /// Length of the frame, bytes, without a tag that is kept beside the bytes.
    pub len: u32,
    /// Whether the outer tag is kept beside the bytes (0 or 1), and its 12-bit id.
    pub tagged: u16,
    pub tag: u16,
    /// Wire packets that this frame stands for, 0 when not known.
    pub segments: u32,
    /// Transport payload bytes per wire packet, 0 for an ordinary frame.
    pub segment_size: u32,
}

/// A parsed frame; `key` as in the packet (source to destination).
#[repr(C, align(8))]
pub struct Packet {
    pub key: FlowKey,
    pub sample: Sample,
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Packet = 0,
    NotIp = 1,
    Malformed = 2,
    /// The bytes end before the headers do.
    Short = 3,
}

/// Packet memory. End before start means that there is none.
#[derive(Clone, Copy)]
pub struct Bytes {
    pub data: usize,
    pub end: usize,
}

impl Bytes {
    /// Copies a value out of the frame.
    ///
    /// # Errors
    /// [`Kind::Short`] past the end of the bytes or past [`MAX_OFFSET`].
    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Result<T, Kind> {
        if offset > MAX_OFFSET {
            return Err(Kind::Short);
        }
        let at = self.data + offset as usize;
        if at + size_of::<T>() > self.end {
            return Err(Kind::Short);
        }
        // SAFETY: the range lies inside the packet, as the verifier checks once more at load.
        Ok(unsafe { (at as *const T).read_unaligned() })
    }
}

const TAG_8021Q: u16 = 0x8100;
const TAG_8021AD: u16 = 0x88a8;
const TAG_9100: u16 = 0x9100;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

#[derive(Clone, Copy)]
#[repr(C)]
struct Ethernet {
    dst: [u8; 6],
    src: [u8; 6],
    kind: [u8; 2],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Tag {
    id: [u8; 2],
    kind: [u8; 2],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct V4 {
    version_ihl: u8,
    tos: u8,
    length: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    src: [u8; 4],
    dst: [u8; 4],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct V6 {
    version: [u8; 4],
    length: [u8; 2],
    next: u8,
    hops: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Tcp {
    ports: [[u8; 2]; 2],
    numbers: [u8; 8],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Udp {
    ports: [[u8; 2]; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

/// Parses a frame into `p`. A function of its own, so that programs that try twice carry it once.
#[inline(never)]
pub fn parse(data: usize, end: usize, beside: &Beside, p: &mut Packet) -> Kind {
    match packet(Bytes { data, end }, beside, p) {
        Ok(()) => Kind::Packet,
        Err(kind) => kind,
    }
}

#[inline(always)]
fn packet(b: Bytes, beside: &Beside, p: &mut Packet) -> Result<(), Kind> {
    let ethernet: Ethernet = b.load(0)?;
    let mut kind = u16::from_be_bytes(ethernet.kind);
    let mut l3 = 14;
    let mut vlan = beside.tag;
    let mut tagged = beside.tagged != 0;
    let tag_bytes = if tagged { 4 } else { 0 };
    let mut tags = 0;
    while tags < 2 && matches!(kind, TAG_8021Q | TAG_8021AD | TAG_9100) {
        let tag: Tag = b.load(l3)?;
        if !tagged {
            vlan = u16::from_be_bytes(tag.id) & 0xfff;
            tagged = true;
        }
        kind = u16::from_be_bytes(tag.kind);
        l3 += 4;
        tags += 1;
    }
    p.key.vlan = vlan.to_be_bytes();
    p.dst_mac = ethernet.dst;
    p.src_mac = ethernet.src;
    // Bytes from the first header on; what lies after the IP packet is padding.
    let present = beside.len - l3;
    let super_packet = beside.segment_size > 0;
    let (bytes, l4, protocol, later_fragment) = match kind {
        IPV4 => ipv4(b, l3, present, super_packet, &mut p.key)?,
        IPV6 => ipv6(b, l3, present, super_packet, &mut p.key)?,
        _ => return Err(Kind::NotIp),
    };
    let after_ip = l3 + bytes;
    if bytes > present || l4 > after_ip {
        return Err(Kind::Malformed);
    }
    p.key.protocol = protocol;
    let (mut ports, mut flags, mut payload_at) = ([[0; 2]; 2], 0, l4);
    if !later_fragment && protocol == TCP {
        let tcp: Tcp = b.load(l4)?;
        let header = (tcp.offset >> 4) as u32 * 4;
        if header < 20 {
            return Err(Kind::Malformed);
        }
        ports = tcp.ports;
        flags = tcp.flags as u16;
        payload_at += header;
    } else if !later_fragment && protocol == UDP {
        let udp: Udp = b.load(l4)?;
        ports = udp.ports;
        payload_at += 8;
    }
    if payload_at > after_ip {
        return Err(Kind::Malformed);
    }
    p.key.src_port = ports[0];
    p.key.dst_port = ports[1];
    let payload = after_ip - payload_at;
    let mut s = Sample {
        wire: beside.len + tag_bytes,
        bytes,
        payload,
        segments: 1,
        tcp_flags: flags,
    };
    if super_packet {
        let n = if beside.segments > 0 {
            beside.segments
        } else {
            payload.div_ceil(beside.segment_size)
        };
        // Every further wire packet repeats the headers; the tag beside the bytes is one of them.
        if n > 1 {
            let again = n - 1;
            s.bytes += again * (payload_at - l3);
            s.wire += again * (payload_at + tag_bytes);
            s.segments = n as u16;
        }
    }
    p.sample = s;
    Ok(())
}

/// IP length, offset behind the IP headers, protocol, whether it is a fragment other than the first.
type Layer3 = (u32, u32, u8, bool);

#[inline(always)]
fn ipv4(
    b: Bytes,
    l3: u32,
    present: u32,
    super_packet: bool,
    key: &mut FlowKey,
) -> Result<Layer3, Kind> {
    let ip: V4 = b.load(l3)?;
    let header = (ip.version_ihl & 0xf) as u32 * 4;
    if ip.version_ihl >> 4 != 4 || header < 20 {
        return Err(Kind::Malformed);
    }
    key.version = 4;
    key.src = FlowKey::mapped(ip.src);
    key.dst = FlowKey::mapped(ip.dst);
    let mut bytes = u16::from_be_bytes(ip.length) as u32;
    // Super-packets beyond 64 KiB have no length of their own.
    if bytes == 0 && super_packet {
        bytes = present;
    }
    let later = u16::from_be_bytes(ip.fragment) & 0x1fff != 0;
    Ok((bytes, l3 + header, ip.protocol, later))
}

#[inline(always)]
fn ipv6(
    b: Bytes,
    l3: u32,
    present: u32,
    super_packet: bool,
    key: &mut FlowKey,
) -> Result<Layer3, Kind> {
    let ip: V6 = b.load(l3)?;
    if ip.version[0] >> 4 != 6 {
        return Err(Kind::Malformed);
    }
    key.version = 6;
    key.src = ip.src;
    key.dst = ip.dst;
    let mut bytes = u16::from_be_bytes(ip.length) as u32 + 40;
    if bytes == 40 && super_packet {
        bytes = present;
    }
    let mut next = ip.next;
    let mut at = l3 + 40;
    let mut n = 0;
    while n < MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let h: [u8; 2] = b.load(at)?;
                next = h[0];
                at += h[1] as u32 * 8 + 8;
            }
            AUTHENTICATION => {
                let h: [u8; 2] = b.load(at)?;
                next = h[0];
                at += h[1] as u32 * 4 + 8;
            }
            FRAGMENT => {
                let h: [u8; 8] = b.load(at)?;
                next = h[0];
                at += 8;
                if u16::from_be_bytes([h[2], h[3]]) & 0xfff8 != 0 {
                    return Ok((bytes, at, next, true));
                }
            }
            _ => break,
        }
        n += 1;
    }
    Ok((bytes, at, next, false))
}
