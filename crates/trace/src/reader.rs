use std::io::Read;
use std::ops::Range;

use chaff_abi::Nanos;
use chaff_flow::Link;
use pcap_file::Endianness;
use pcap_file::pcap::{PcapParseError, PcapParser, PcapTsResolution};
use pcap_file::pcapng::blocks::block_common::RawBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::{PcapNgParseError, PcapNgParser};

use crate::TraceError;
use crate::input::Input;

/// Largest packet or pcapng block that is read, bytes. libpcap stops at 262,144 for packets.
pub const MAX_BLOCK: usize = 16 << 20;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Kind of capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// pcap with microseconds or nanoseconds, in either byte order.
    Pcap,
    /// pcapng.
    PcapNg,
}

/// What a capture says about one packet; its bytes are in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Since the Unix epoch. A pcapng simple packet has no time and takes that of the packet before it.
    pub at: Nanos,
    /// Milliseconds since the Unix epoch as programs on libpcap compute them: the seconds, plus the fraction cut towards
    /// zero. The same as `at` in sound captures. It differs where a pcap file has seconds or fractions with the upper bit
    /// set, which libpcap takes for negative in files of the machine's own byte order (here always little-endian) only.
    pub millis: i64,
    /// How many of the captured bytes programs on libpcap get, from the first on: no more than the snap length of a pcap file, and
    /// none where libpcap refuses the packet (in pcapng one above the snap length, or of an interface whose link type or snap
    /// length is not that of the first interface).
    pub libpcap_len: usize,
    /// Length on the wire as the capture says, bytes; the captured bytes can be fewer, and in odd files more.
    pub wire_len: usize,
    /// What the bytes begin with.
    pub link: Link,
    /// Interface; sections of a pcapng file go on counting, pcap has only 0.
    pub interface: u32,
}

/// Reads packets one by one from a pcap or pcapng stream, packed with gzip (RFC 1952) or not.
///
/// As libpcap it accepts captured lengths above the snap length or above the original length, a snap length of 0, and
/// fractions of a second of a second or more, which it adds to the seconds.
pub struct Reader<R: Read> {
    input: Input<R>,
    format: State,
    packets: u64,
    last: Nanos,
    found: Option<Found>,
    failed: bool,
}

enum State {
    Pcap {
        parser: PcapParser,
        link: Link,
        unit: u64,
        /// Big-endian.
        big: bool,
        /// Largest packet for libpcap.
        snaplen: usize,
    },
    PcapNg {
        parser: PcapNgParser,
        interfaces: Vec<Interface>,
        before: u32,
        /// Link type and snap length of the file's first interface.
        first: Option<(Link, usize)>,
    },
}

/// Facts of a pcapng interface.
struct Interface {
    link: Link,
    snaplen: u32,
    /// Ticks per second as power of 2 (`binary`) or 10.
    exponent: u8,
    binary: bool,
    /// Seconds to add.
    offset: i64,
}

/// A packet inside the input's buffer.
struct Found {
    frame: Frame,
    bytes: Range<usize>,
}

impl<R: Read> Reader<R> {
    /// Reads the file header and finds out the format, and whether it is packed with gzip.
    ///
    /// # Errors
    /// [`TraceError::Empty`], [`TraceError::Unknown`], and those of a broken header.
    pub fn new(input: R) -> Result<Self, TraceError> {
        let mut input = Input::open(input)?;
        let magic = match input.bytes() {
            [] => return Err(TraceError::Empty),
            [a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]),
            short => {
                return Err(TraceError::Unknown {
                    magic: short.to_vec(),
                });
            }
        };
        let format = match magic {
            0xa1b2_c3d4 | 0xa1b2_3c4d | 0xd4c3_b2a1 | 0x4d3c_b2a1 => open_pcap(&mut input),
            SECTION_HEADER => open_pcapng(&mut input),
            other => {
                return Err(TraceError::Unknown {
                    magic: other.to_be_bytes().to_vec(),
                });
            }
        };
        let format = format.map_err(|e| match input.explain(e, 0) {
            TraceError::Cut { .. } => TraceError::Header,
            other => other,
        })?;
        Ok(Self {
            input,
            format,
            packets: 0,
            last: Nanos::ZERO,
            found: None,
            failed: false,
        })
    }

    /// The next packet, its captured bytes in `buf`, which is overwritten; `None` at the end.
    ///
    /// # Errors
    /// What is wrong with the file from here on; all packets before it were given. After an error there is only `None`.
    pub fn next(&mut self, buf: &mut Vec<u8>) -> Result<Option<Frame>, TraceError> {
        buf.clear();
        Ok(self.next_borrowed()?.map(|(frame, bytes)| {
            buf.extend_from_slice(bytes);
            frame
        }))
    }

    /// The next packet without a copy of its bytes.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn next_borrowed(&mut self) -> Result<Option<(Frame, &[u8])>, TraceError> {
        self.advance()?;
        Ok(self.current())
    }

    /// Goes on to the next packet, which [`Reader::current`] then gives; false at the end.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn advance(&mut self) -> Result<bool, TraceError> {
        self.found = None;
        if self.failed {
            return Ok(false);
        }
        let found = match self.format {
            State::Pcap { .. } => self.next_pcap(),
            State::PcapNg { .. } => self.next_pcapng(),
        };
        self.found = found.map_err(|e| {
            self.failed = true;
            self.input.explain(e, self.packets)
        })?;
        match &self.found {
            Some(found) => {
                self.packets += 1;
                self.last = found.frame.at;
            }
            None => self.failed = true,
        }
        Ok(self.found.is_some())
    }

    /// The packet that [`Reader::advance`] went on to.
    pub fn current(&self) -> Option<(Frame, &[u8])> {
        let Found { frame, bytes } = self.found.as_ref()?;
        let bytes = self.input.buffer.get(bytes.clone()).unwrap_or(&[]);
        Some((*frame, bytes))
    }

    /// Kind of file.
    pub fn format(&self) -> Format {
        match self.format {
            State::Pcap { .. } => Format::Pcap,
            State::PcapNg { .. } => Format::PcapNg,
        }
    }

    /// Packets given so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes of the input that were used up, after unpacking.
    pub fn offset(&self) -> u64 {
        self.input.offset
    }

    fn next_pcap(&mut self) -> Result<Option<Found>, TraceError> {
        let State::Pcap {
            parser,
            link,
            unit,
            big,
            snaplen,
        } = &self.format
        else {
            return Ok(None);
        };
        if !self.input.has_more()? {
            return Ok(None);
        }
        let packet = self.packets + 1;
        loop {
            let all = self.input.bytes();
            match parser.next_raw_packet(all) {
                Ok((rest, raw)) => {
                    let used = all.len() - rest.len();
                    let end = self.input.start + used;
                    // libpcap reads the fraction as a signed number.
                    let fraction = raw.ts_frac as i32 as i64 * *unit as i64;
                    let at = (raw.ts_sec as i64 * 1_000_000_000)
                        .saturating_add(fraction)
                        .max(0);
                    let [seconds, part] = [raw.ts_sec, raw.ts_frac]
                        .map(|n| if *big { n as i64 } else { n as i32 as i64 });
                    let frame = Frame {
                        at: Nanos(at as u64),
                        millis: seconds * 1000 + part / (1_000_000 / *unit as i64),
                        libpcap_len: raw.data.len().min(*snaplen),
                        wire_len: raw.orig_len as usize,
                        link: *link,
                        interface: 0,
                    };
                    let bytes = end - raw.data.len()..end;
                    self.input.consume(used);
                    return Ok(Some(Found { frame, bytes }));
                }
                Err(PcapParseError::IncompleteBuffer(needed, had)) => {
                    self.input.more(packet, needed, had)?
                }
                Err(PcapParseError::Validation(e)) => return Err(self.input.structure(packet, &e)),
            }
        }
    }

    fn next_pcapng(&mut self) -> Result<Option<Found>, TraceError> {
        let State::PcapNg {
            parser,
            interfaces,
            before,
            first,
        } = &mut self.format
        else {
            return Ok(None);
        };
        let packet = self.packets + 1;
        loop {
            if !self.input.has_more()? {
                return Ok(None);
            }
            let all = self.input.bytes();
            let (used, block) = match parser.next_raw_block(all) {
                Ok((rest, block)) => (all.len() - rest.len(), block),
                Err(PcapNgParseError::IncompleteBuffer(needed, had)) => {
                    self.input.more(packet, needed, had)?;
                    continue;
                }
                Err(e) => return Err(self.input.structure(packet, &e)),
            };
            let offset = self.input.offset;
            let body = self.input.start + 8;
            let found = match block.type_ {
                SECTION_HEADER => {
                    *before += interfaces.len() as u32;
                    interfaces.clear();
                    None
                }
                INTERFACE => {
                    if let Some(block) = parser.interfaces().last() {
                        let interface = Interface::new(block);
                        first.get_or_insert((interface.link, interface.snaplen()));
                        interfaces.push(interface);
                    }
                    None
                }
                OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                    let big = parser.section().endianness == Endianness::Big;
                    let fields = Fields {
                        body: &block.body,
                        big,
                        offset,
                        packet,
                    };
                    let (mut frame, bytes) = fields.packet(&block, interfaces, self.last)?;
                    if let Some(facts) = interfaces.get(frame.interface as usize)
                        && *first == Some((facts.link, facts.snaplen()))
                        && bytes.len() <= facts.snaplen()
                    {
                        frame.libpcap_len = bytes.len();
                    }
                    frame.interface += *before;
                    Some(Found {
                        frame,
                        bytes: body + bytes.start..body + bytes.end,
                    })
                }
                _ => None,
            };
            self.input.consume(used);
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

fn open_pcap<R: Read>(input: &mut Input<R>) -> Result<State, TraceError> {
    loop {
        let all = input.bytes();
        match PcapParser::new(all) {
            Ok((rest, parser)) => {
                let used = all.len() - rest.len();
                let header = parser.header();
                let unit = if header.ts_resolution == PcapTsResolution::NanoSecond {
                    1
                } else {
                    1000
                };
                let big = header.endianness == Endianness::Big;
                // The upper bits tell about frame check sequences.
                let link = link(u32::from(header.datalink) & 0x03ff_ffff);
                input.consume(used);
                return Ok(State::Pcap {
                    parser,
                    link,
                    unit,
                    big,
                    snaplen: snaplen_of_libpcap(header.snaplen),
                });
            }
            Err(PcapParseError::IncompleteBuffer(needed, had)) => input.more(1, needed, had)?,
            Err(PcapParseError::Validation(e)) => return Err(input.structure(1, &e)),
        }
    }
}

fn open_pcapng<R: Read>(input: &mut Input<R>) -> Result<State, TraceError> {
    loop {
        let all = input.bytes();
        match PcapNgParser::new(all) {
            Ok((rest, parser)) => {
                let used = all.len() - rest.len();
                input.consume(used);
                return Ok(State::PcapNg {
                    parser,
                    interfaces: Vec::new(),
                    before: 0,
                    first: None,
                });
            }
            Err(PcapNgParseError::IncompleteBuffer(needed, had)) => input.more(1, needed, had)?,
            Err(e) => return Err(input.structure(1, &e)),
        }
    }
}

/// The snap length as libpcap takes it: 0 and negative ones mean its maximum.
fn snaplen_of_libpcap(snaplen: u32) -> usize {
    match i32::try_from(snaplen) {
        Ok(1..) => snaplen as usize,
        _ => 262_144,
    }
}

fn link(number: u32) -> Link {
    Link::from_pcap(number).unwrap_or(Link::Other(number))
}

impl Interface {
    fn new(block: &InterfaceDescriptionBlock<'_>) -> Self {
        let resolution = block.ts_resolution();
        Self {
            link: link(u32::from(block.linktype)),
            snaplen: block.snaplen,
            exponent: resolution.resolution(),
            binary: resolution.is_bin(),
            offset: block.ts_offset(),
        }
    }

    fn snaplen(&self) -> usize {
        snaplen_of_libpcap(self.snaplen)
    }

    fn time(&self, ticks: u64) -> Nanos {
        let ns = self.scaled(ticks, 1_000_000_000);
        let ns = (ns as i128).saturating_add(self.offset as i128 * 1_000_000_000);
        Nanos(ns.clamp(0, u64::MAX as i128) as u64)
    }

    /// Milliseconds, also of times that nanoseconds cannot hold.
    fn millis(&self, ticks: u64) -> i64 {
        let ms = self.scaled(ticks, 1000) as i64;
        ms.wrapping_add(self.offset.wrapping_mul(1000))
    }

    /// Ticks in units of which a second has `unit`, rounded down.
    fn scaled(&self, ticks: u64, unit: u128) -> u128 {
        let product = ticks as u128 * unit;
        if self.binary {
            product >> self.exponent.min(64)
        } else {
            product / 10u128.pow(self.exponent.min(19) as u32)
        }
    }
}

/// The body of a pcapng packet block.
struct Fields<'a> {
    body: &'a [u8],
    big: bool,
    offset: u64,
    packet: u64,
}

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, TraceError> {
        let field = self
            .body
            .get(at..)
            .and_then(|b| b.first_chunk::<4>())
            .ok_or_else(|| self.short(at + 4))?;
        Ok(if self.big {
            u32::from_be_bytes(*field)
        } else {
            u32::from_le_bytes(*field)
        })
    }

    fn short(&self, needed: usize) -> TraceError {
        TraceError::Block {
            offset: self.offset,
            packet: self.packet,
            needed,
            had: self.body.len(),
        }
    }

    /// The packet and where its bytes are in the body. Options are not looked at.
    fn packet(
        &self,
        block: &RawBlock<'_>,
        interfaces: &[Interface],
        last: Nanos,
    ) -> Result<(Frame, Range<usize>), TraceError> {
        let interface = match block.type_ {
            ENHANCED_PACKET => self.u32(0)?,
            OBSOLETE_PACKET if self.big => self.u32(0)? >> 16,
            OBSOLETE_PACKET => self.u32(0)? & 0xffff,
            _ => 0,
        };
        let known = interfaces.len();
        let facts = interfaces
            .get(interface as usize)
            .ok_or(TraceError::Interface {
                offset: self.offset,
                packet: self.packet,
                interface,
                known,
            })?;
        let (at, millis, start, captured, original) = if block.type_ == SIMPLE_PACKET {
            let original = self.u32(0)?;
            let limit = if facts.snaplen == 0 {
                u32::MAX
            } else {
                facts.snaplen
            };
            let millis = last.as_millis() as i64;
            (last, millis, 4, original.min(limit), original)
        } else {
            let ticks = ((self.u32(4)? as u64) << 32) | self.u32(8)? as u64;
            let (at, millis) = (facts.time(ticks), facts.millis(ticks));
            (at, millis, 20, self.u32(12)?, self.u32(16)?)
        };
        let end = start + captured as usize;
        if end > self.body.len() {
            return Err(self.short(end));
        }
        let frame = Frame {
            at,
            millis,
            libpcap_len: 0,
            wire_len: original as usize,
            link: facts.link,
            interface,
        };
        Ok((frame, start..end))
    }
}
