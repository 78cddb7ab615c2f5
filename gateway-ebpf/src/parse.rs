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
#[repr(C)]
pub struct Beside {
    /// Length of the frame, bytes, without a tag that is kept beside the bytes.
    pub len: u32,
    /// Whether the outer tag is kept beside the bytes (0 or 1), and its 12-bit id.
    pub tagged: u32,
    pub tag: u32,
    /// Wire packets that this frame stands for, 0 when not known.
    pub segments: u32,
    /// Transport payload bytes per wire packet, 0 for an ordinary frame.
    pub segment_size: u32,
}

impl Beside {
    /// Sets all fields, one store each: the compiler would call a loop over bytes.
    #[inline(always)]
    pub fn set(&mut self, len: u32, tag: Option<u32>, segments: u32, segment_size: u32) {
        let (tagged, tag) = match tag {
            Some(tag) => (1, tag),
            None => (0, 0),
        };
        // SAFETY: references are valid for writing.
        unsafe {
            (&raw mut self.len).write_volatile(len);
            (&raw mut self.tagged).write_volatile(tagged);
            (&raw mut self.tag).write_volatile(tag);
            (&raw mut self.segments).write_volatile(segments);
            (&raw mut self.segment_size).write_volatile(segment_size);
        }
    }
}

/// A parsed frame.
#[repr(C)]
pub struct Packet {
    /// The key as in the packet (source to destination); the bytes of a [`FlowKey`].
    pub key: Key,
    pub sample: Sample,
    /// The six bytes of the addresses, first byte lowest.
    pub dst_mac: u64,
    pub src_mac: u64,
}

/// A [`FlowKey`] as words.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Key {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    /// Source port, destination port, VLAN id (each in wire order), protocol, version; first byte lowest.
    pub rest: u64,
}

const _: () = assert!(size_of::<Key>() == size_of::<FlowKey>());

impl Key {
    #[inline(always)]
    pub fn as_flow_key(&self) -> &FlowKey {
        // SAFETY: same size, smaller alignment, every bit pattern is a value.
        unsafe { &*(self as *const Self).cast::<FlowKey>() }
    }

    /// Turns source and destination round.
    #[inline(always)]
    pub fn reverse(&mut self) {
        (self.src, self.dst) = (self.dst, self.src);
        let r = self.rest;
        self.rest = r & !0xffff_ffff | (r & 0xffff) << 16 | (r >> 16) & 0xffff;
    }
}

/// The IPv4-mapped form of an address.
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    [0, 0xffff_0000 | (address as u64) << 32]
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
    /// Returns a view of a header, whose type has no alignment.
    ///
    /// # Errors
    /// [`Kind::Short`] past the end of the bytes or past [`MAX_OFFSET`].
    #[inline(always)]
    pub fn load<T: Header>(&self, offset: u32) -> Result<&'static T, Kind> {
        if offset > MAX_OFFSET {
            return Err(Kind::Short);
        }
        let at = self.data + offset as usize;
        if at + size_of::<T>() > self.end {
            return Err(Kind::Short);
        }
        // SAFETY: the range lies inside the packet, as the verifier checks once more at load; packets outlive the run of
        // a program, and a `Header` has alignment 1 and takes every bit pattern.
        Ok(unsafe { &*(at as *const T) })
    }
}

const TAG_8021Q: u16 = 0x8100;
const TAG_8021AD: u16 = 0x88a8;
const TAG_9100: u16 = 0x9100;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION: u8 = 60;

// Headers as words in the target's byte order (little-endian): copies byte by byte cost more than all of the parsing,
// because the hash of the key then waits for them to reach memory.

#[repr(C, packed)]
pub struct Ethernet {
    dst: u32,
    dst_end: u16,
    src: u32,
    src_end: u16,
    pub kind: u16,
}

#[repr(C, packed)]
struct Tag {
    id: u16,
    kind: u16,
}

#[repr(C, packed)]
pub struct V4 {
    pub version_ihl: u8,
    tos: u8,
    pub length: u16,
    id: u16,
    pub fragment: u16,
    ttl: u8,
    pub protocol: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

#[repr(C, packed)]
pub struct V6 {
    pub version: u32,
    pub length: u16,
    pub next: u8,
    hops: u8,
    src: u64,
    src_end: u64,
    dst: u64,
    dst_end: u64,
}

#[repr(C, packed)]
pub struct Tcp {
    ports: u32,
    numbers: u64,
    pub offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

#[repr(C, packed)]
struct Udp {
    ports: u32,
    length: u16,
    checksum: u16,
}

#[repr(C, packed)]
struct Extension {
    next: u8,
    length: u8,
}

#[repr(C, packed)]
struct Fragment {
    next: u8,
    reserved: u8,
    offset: u16,
    id: u32,
}

/// # Safety
/// Alignment 1, every bit pattern is a value.
pub unsafe trait Header {}

// SAFETY: packed integers.
unsafe impl Header for Ethernet {}
// SAFETY: packed integers.
unsafe impl Header for Tag {}
// SAFETY: packed integers.
unsafe impl Header for V4 {}
// SAFETY: packed integers.
unsafe impl Header for V6 {}
// SAFETY: packed integers.
unsafe impl Header for Tcp {}
// SAFETY: packed integers.
unsafe impl Header for Udp {}
// SAFETY: packed integers.
unsafe impl Header for Extension {}
// SAFETY: packed integers.
unsafe impl Header for Fragment {}

/// Parses a frame into `p`. A function of its own, so that programs that try twice carry it once; its name is fixed
/// because a mangled one depends on the folder of the build.
#[inline(never)]
#[unsafe(export_name = "chaff_parse")]
pub fn parse(data: usize, end: usize, beside: &Beside, p: &mut Packet) -> Kind {
    match packet(Bytes { data, end }, beside, p) {
        Ok(()) => Kind::Packet,
        Err(kind) => kind,
    }
}

#[inline(always)]
fn packet(b: Bytes, beside: &Beside, p: &mut Packet) -> Result<(), Kind> {
    let ethernet: &Ethernet = b.load(0)?;
    let mut kind = u16::from_be(ethernet.kind);
    let mut l3 = 14;
    let mut vlan = beside.tag as u16;
    let mut tagged = beside.tagged != 0;
    let tag_bytes = if tagged { 4 } else { 0 };
    let mut tags = 0;
    while tags < 2 && matches!(kind, TAG_8021Q | TAG_8021AD | TAG_9100) {
        let tag: &Tag = b.load(l3)?;
        if !tagged {
            vlan = u16::from_be(tag.id) & 0xfff;
            tagged = true;
        }
        kind = u16::from_be(tag.kind);
        l3 += 4;
        tags += 1;
    }
    p.dst_mac = ethernet.dst as u64 | (ethernet.dst_end as u64) << 32;
    p.src_mac = ethernet.src as u64 | (ethernet.src_end as u64) << 32;
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
    let (mut ports, mut flags, mut payload_at) = (0, 0, l4);
    if !later_fragment && protocol == TCP {
        let tcp: &Tcp = b.load(l4)?;
        let header = (tcp.offset >> 4) as u32 * 4;
        if header < 20 {
            return Err(Kind::Malformed);
        }
        ports = tcp.ports;
        flags = tcp.flags as u16;
        payload_at += header;
    } else if !later_fragment && protocol == UDP {
        let udp: &Udp = b.load(l4)?;
        ports = udp.ports;
        payload_at += 8;
    }
    if payload_at > after_ip {
        return Err(Kind::Malformed);
    }
    let version: u64 = if kind == IPV4 { 4 } else { 6 };
    p.key.rest =
        ports as u64 | (vlan.to_be() as u64) << 32 | (protocol as u64) << 48 | version << 56;
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
    key: &mut Key,
) -> Result<Layer3, Kind> {
    let ip: &V4 = b.load(l3)?;
    let header = (ip.version_ihl & 0xf) as u32 * 4;
    if ip.version_ihl >> 4 != 4 || header < 20 {
        return Err(Kind::Malformed);
    }
    key.src = mapped(ip.src);
    key.dst = mapped(ip.dst);
    let mut bytes = u16::from_be(ip.length) as u32;
    // Super-packets beyond 64 KiB have no length of their own.
    if bytes == 0 && super_packet {
        bytes = present;
    }
    let later = u16::from_be(ip.fragment) & 0x1fff != 0;
    Ok((bytes, l3 + header, ip.protocol, later))
}

#[inline(always)]
fn ipv6(
    b: Bytes,
    l3: u32,
    present: u32,
    super_packet: bool,
    key: &mut Key,
) -> Result<Layer3, Kind> {
    let ip: &V6 = b.load(l3)?;
    if ip.version as u8 >> 4 != 6 {
        return Err(Kind::Malformed);
    }
    key.src = [ip.src, ip.src_end];
    key.dst = [ip.dst, ip.dst_end];
    let mut bytes = u16::from_be(ip.length) as u32 + 40;
    if bytes == 40 && super_packet {
        bytes = present;
    }
    let mut next = ip.next;
    let mut at = l3 + 40;
    let mut n = 0;
    while n < MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let h: &Extension = b.load(at)?;
                next = h.next;
                at += h.length as u32 * 8 + 8;
            }
            AUTHENTICATION => {
                let h: &Extension = b.load(at)?;
                next = h.next;
                at += h.length as u32 * 4 + 8;
            }
            FRAGMENT => {
                let h: &Fragment = b.load(at)?;
                next = h.next;
                at += 8;
                if u16::from_be(h.offset) & 0xfff8 != 0 {
                    return Ok((bytes, at, next, true));
                }
            }
            _ => break,
        }
        n += 1;
    }
    Ok((bytes, at, next, false))
}
