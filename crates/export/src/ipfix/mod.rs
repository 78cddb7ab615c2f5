mod collector;
mod elements;

use std::io;
use std::net::IpAddr;

use chaff_abi::Nanos;
use chaff_flow::{Column, Kind, Value};

pub use collector::{Collector, CollectorError, Transport, UdpTarget};
use elements::{Code, Element, INITIATOR, VARIABLE, elements};

use crate::{Output, Target, check_row};
use chaff_flow::text::{Style, push_value};

/// Private enterprise number of reverse elements (RFC 5103).
const REVERSE: u32 = 29_305;
const TEMPLATES: u16 = 2;
const OPTIONS_TEMPLATES: u16 = 3;
/// Number of the first template of flows; the others follow, see [`Shape`].
const FIRST_TEMPLATE: u16 = 256;
const TYPES_TEMPLATE: u16 = FIRST_TEMPLATE + 4;
const MESSAGE_HEADER: usize = 16;
/// Longest text sent, bytes; longer ones are cut.
const MAX_TEXT: usize = 254;
/// Seconds from 1900, where NTP counts from, to 1970.
const NTP_OFFSET: u64 = 2_208_988_800;

/// Private enterprise number (0 for IANA's own) and number of the information elements that carry a column.
pub fn ipfix_elements(column: &Column) -> Vec<(u32, u16)> {
    let number = |e: &Element| (if e.reverse { REVERSE } else { 0 }, e.id);
    elements(column).iter().map(number).collect()
}

/// Settings of an [`Ipfix`] stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpfixOptions {
    /// Largest message, bytes; each message is one write to the target. Default 1,400, which fits into a datagram;
    /// files and TCP take up to 65,535.
    pub max_message: usize,
    /// Observation domain. Default 1.
    pub domain: u32,
    /// Private enterprise number for columns without an element of IANA's: column `n` (from 1) becomes element `n`, with
    /// its name, type and meaning told by RFC 5610 records. Lists are left out. Default none: such columns are left out.
    /// (nfdump 1.7.1 does not count RFC 5610 records and so reports sequence failures; it reads every flow.)
    pub enterprise: Option<u32>,
    /// Messages after which the templates are sent again, 0 for never: what UDP needs. Default 512.
    pub repeat_messages: u32,
    /// Time after which they are sent again at the latest, with the next message. Default 60 s.
    pub repeat_after: Nanos,
}

impl Default for IpfixOptions {
    fn default() -> Self {
        Self {
            max_message: 1_400,
            domain: 1,
            enterprise: None,
            repeat_messages: 512,
            repeat_after: Nanos::from_secs(60),
        }
    }
}

impl IpfixOptions {
    /// For files (RFC 5655) and TCP, which lose nothing: large messages, templates once.
    pub fn reliable() -> Self {
        Self {
            max_message: 16 << 10,
            repeat_messages: 0,
            repeat_after: Nanos::MAX,
            ..Self::default()
        }
    }
}

/// IPFIX messages (RFC 7011): to a collector, or to a file (RFC 5655).
///
/// A flow is one record with the responder's counters as reverse elements (RFC 5103), which nfdump, among others, reads as
/// one bidirectional flow. Which columns have elements, see `ipfix/elements.rs`; [`Value::Missing`] is sent as zeros or
/// an empty text, because IPFIX has no other way. IPv4 and IPv6 flows have a template each, and where there are columns of
/// ICMP, flows with and without them. A number or time that has become a text (a pseudonym) has no element either.
///
/// The export time of messages is what [`Output::time`] told.
pub struct Ipfix<T: Target> {
    out: T,
    options: IpfixOptions,
    fields: Vec<Field>,
    /// The column that tells the IP version.
    address: Option<usize>,
    columns: usize,
    /// Templates as sent, without message header.
    preamble: Vec<Preamble>,
    message: Vec<u8>,
    /// Where the open set begins, and its template.
    set: Option<(usize, u16)>,
    /// Data records in `message`.
    records: u32,
    sequence: u32,
    now: Nanos,
    templates_at: Option<Nanos>,
    messages_since: u32,
    record: Vec<u8>,
    written: u64,
}

/// Which template a flow has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    v6: bool,
    /// Has type and code of ICMP.
    icmp: bool,
}

impl Shape {
    fn template(self) -> u16 {
        FIRST_TEMPLATE + u16::from(self.v6) + 2 * u16::from(self.icmp)
    }
}

/// A set that is sent before flows; `records` of it are data.
struct Preamble {
    bytes: Vec<u8>,
    records: u32,
}

/// An element of the template, and where its value comes from.
#[derive(Clone, Copy, Debug)]
struct Field {
    column: usize,
    element: Element,
    enterprise: u32,
    kind: Kind,
    /// Nanoseconds a unit of the column, for times.
    scale: u64,
}

impl<T: Target> Ipfix<T> {
    /// Nothing is sent before the first flow.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: no column has an element, or a record is longer than a message.
    pub fn new(out: T, columns: &[Column], options: IpfixOptions) -> io::Result<Self> {
        let mut fields = Vec::new();
        for (i, column) in columns.iter().enumerate() {
            let scale = if column.unit.starts_with("ms") {
                1_000_000
            } else {
                1
            };
            let field = |element, enterprise| Field {
                column: i,
                element,
                enterprise,
                kind: column.kind,
                scale,
            };
            let known = elements(column);
            let own = options
                .enterprise
                .filter(|_| known.is_empty() && i < 0x7fff);
            for element in known {
                let enterprise = if element.reverse { REVERSE } else { 0 };
                // Flags of the flow and of its initiator have one element: the first column has it.
                let is_taken = |f: &Field| f.element.id == element.id && f.enterprise == enterprise;
                if !fields.iter().any(is_taken) {
                    fields.push(field(element, enterprise));
                }
            }
            if let (Some(enterprise), Some(element)) = (own, own_element(i, column.kind)) {
                fields.push(field(element, enterprise));
            }
        }
        if fields.iter().any(|f: &Field| f.element.reverse) {
            fields.push(Field {
                column: 0,
                element: INITIATOR,
                enterprise: 0,
                kind: Kind::Unsigned,
                scale: 1,
            });
        }
        let max = options.max_message.clamp(512, 65_535);
        let mut ipfix = Self {
            out,
            address: columns.iter().position(|c| c.name == "src_ip"),
            columns: columns.len(),
            preamble: Vec::new(),
            message: Vec::with_capacity(max),
            set: None,
            records: 0,
            sequence: 0,
            now: Nanos::ZERO,
            templates_at: None,
            messages_since: 0,
            record: Vec::new(),
            written: 0,
            options: IpfixOptions {
                max_message: max,
                ..options
            },
            fields,
        };
        let fixed: usize = ipfix.fields.iter().map(|f| f.width(true)).sum();
        let room = max - MESSAGE_HEADER - 4;
        let template: usize = 4 + ipfix
            .fields
            .iter()
            .map(|f| if f.enterprise == 0 { 4 } else { 8 })
            .sum::<usize>();
        let count = ipfix.fields.len();
        let problem = if count == 0 {
            "no column has an information element of IPFIX".to_string()
        } else if fixed.max(template) > room {
            format!(
                "{count} elements make a record of {fixed} bytes and a template of {template}; a message has room for {room}"
            )
        } else {
            String::new()
        };
        if !problem.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        ipfix.preamble = ipfix.preamble(columns);
        ipfix.begin_message();
        Ok(ipfix)
    }

    fn preamble(&self, columns: &[Column]) -> Vec<Preamble> {
        let mut all = Vec::new();
        for icmp in [false, true] {
            if icmp && !self.has_icmp() {
                continue;
            }
            all.extend([false, true].map(|v6| Preamble {
                bytes: self.template(Shape { v6, icmp }),
                records: 0,
            }));
        }
        let own: Vec<&Field> = self
            .fields
            .iter()
            .filter(|f| f.enterprise != 0 && f.enterprise != REVERSE)
            .collect();
        if own.is_empty() {
            return all;
        }
        all.push(Preamble {
            bytes: types_template(),
            records: 0,
        });
        for field in own {
            let Some(column) = columns.get(field.column) else {
                continue;
            };
            let mut bytes = Vec::new();
            let start = begin_set(&mut bytes, TYPES_TEMPLATE);
            bytes.extend_from_slice(&field.enterprise.to_be_bytes());
            bytes.extend_from_slice(&field.element.id.to_be_bytes());
            // Data types and semantics by the numbers of RFC 5610: unsigned64, signed64, float64, string; default.
            let kind = match column.kind {
                Kind::Signed => 8,
                Kind::Float => 10,
                Kind::Text => 13,
                _ => 4,
            };
            bytes.extend_from_slice(&[kind, 0]);
            push_text(&mut bytes, column.name.as_bytes(), MAX_TEXT);
            let unit = if column.unit.is_empty() {
                String::new()
            } else {
                format!(" [{}]", column.unit)
            };
            push_text(
                &mut bytes,
                format!("{}{unit}", column.doc).as_bytes(),
                MAX_TEXT,
            );
            end_set(&mut bytes, start);
            all.push(Preamble { bytes, records: 1 });
        }
        all
    }

    fn has_icmp(&self) -> bool {
        self.fields.iter().any(|f| f.element.is_of_icmp())
    }

    fn template(&self, shape: Shape) -> Vec<u8> {
        let mut bytes = Vec::new();
        let start = begin_set(&mut bytes, TEMPLATES);
        bytes.extend_from_slice(&shape.template().to_be_bytes());
        let count = self.fields.iter().filter(|f| f.is_in(shape)).count();
        bytes.extend_from_slice(&(count as u16).to_be_bytes());
        for field in self.fields.iter().filter(|f| f.is_in(shape)) {
            let element = &field.element;
            let (id, length) = if shape.v6 {
                element.for_ipv6()
            } else {
                (element.id, element.length)
            };
            push_specifier(&mut bytes, id, length, field.enterprise);
        }
        end_set(&mut bytes, start);
        bytes
    }

    fn begin_message(&mut self) {
        self.message.clear();
        self.message.resize(MESSAGE_HEADER, 0);
        self.set = None;
        self.records = 0;
    }

    fn send(&mut self) -> io::Result<()> {
        self.close_set();
        if self.message.len() == MESSAGE_HEADER {
            return Ok(());
        }
        let length = self.message.len() as u16;
        let seconds = (self.now.0 / 1_000_000_000) as u32;
        let header = &mut self.message[..MESSAGE_HEADER];
        header[..2].copy_from_slice(&10u16.to_be_bytes());
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[4..8].copy_from_slice(&seconds.to_be_bytes());
        header[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        header[12..].copy_from_slice(&self.options.domain.to_be_bytes());
        let sent = self.out.write_all(&self.message);
        self.written += u64::from(length);
        self.sequence = self.sequence.wrapping_add(self.records);
        self.messages_since += 1;
        self.begin_message();
        sent
    }

    fn close_set(&mut self) {
        if let Some((start, _)) = self.set.take() {
            end_set(&mut self.message, start);
        }
    }

    /// Puts templates and types before the flows that follow, when they are due.
    fn send_templates(&mut self) -> io::Result<()> {
        let is_due = match self.templates_at {
            None => true,
            Some(at) => {
                let by_count = self.options.repeat_messages;
                self.now.since(at) >= self.options.repeat_after
                    || by_count > 0 && self.messages_since >= by_count
            }
        };
        if !is_due {
            return Ok(());
        }
        self.templates_at = Some(self.now);
        self.send()?;
        self.messages_since = 0;
        let preamble = std::mem::take(&mut self.preamble);
        let mut done = Ok(());
        for set in &preamble {
            if self.message.len() + set.bytes.len() > self.options.max_message {
                done = done.and(self.send());
            }
            self.message.extend_from_slice(&set.bytes);
            self.records += set.records;
        }
        self.preamble = preamble;
        done
    }

    fn fill_record(&mut self, row: &[Value], shape: Shape) {
        self.record.clear();
        // Texts get what the numbers leave.
        let fields = || self.fields.iter().filter(|f| f.is_in(shape));
        let fixed: usize = fields().map(|f| f.width(shape.v6)).sum();
        let mut room = self.options.max_message - MESSAGE_HEADER - 4 - fixed;
        for field in fields() {
            let value = row.get(field.column).unwrap_or(&Value::Missing);
            let before = self.record.len();
            field.push(&mut self.record, value, shape.v6, room);
            if field.element.length == VARIABLE {
                room -= self.record.len() - before - 1;
            }
        }
    }
}

impl<T: Target> Output for Ipfix<T> {
    fn write(&mut self, row: &[Value]) -> io::Result<()> {
        check_row(row, self.columns)?;
        let v6 = match self.address.and_then(|i| row.get(i)) {
            Some(Value::Ip(ip)) => ip.is_ipv6(),
            Some(Value::Text(text)) => match text.parse::<IpAddr>() {
                Ok(ip) => ip.is_ipv6(),
                // Zeros in the address elements would be a lie.
                Err(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "src_ip is not an address",
                    ));
                }
            },
            _ => false,
        };
        self.send_templates()?;
        let is_known = |f: &Field| row.get(f.column).is_some_and(|v| *v != Value::Missing);
        let shape = Shape {
            v6,
            icmp: self
                .fields
                .iter()
                .any(|f| f.element.is_of_icmp() && is_known(f)),
        };
        self.fill_record(row, shape);
        let template = shape.template();
        let opens = self.set.is_none_or(|(_, open)| open != template);
        if self.message.len() + self.record.len() + if opens { 4 } else { 0 }
            > self.options.max_message
        {
            self.send()?;
        }
        if self.set.is_none_or(|(_, open)| open != template) {
            self.close_set();
            self.set = Some((begin_set(&mut self.message, template), template));
        }
        self.message.extend_from_slice(&self.record);
        self.records += 1;
        Ok(())
    }

    fn time(&mut self, now: Nanos) -> io::Result<()> {
        self.now = now;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.out.flush()
    }

    fn bytes(&self) -> u64 {
        self.written + (self.message.len() - MESSAGE_HEADER) as u64
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.send_templates()?;
        self.send()?;
        self.out.close()
    }
}

impl Field {
    fn is_in(&self, shape: Shape) -> bool {
        shape.icmp || !self.element.is_of_icmp()
    }

    /// Bytes in a record; texts: at least.
    fn width(&self, v6: bool) -> usize {
        match (self.element.code, self.element.length) {
            (_, VARIABLE) => 1,
            (Code::Address, _) if v6 => 16,
            (_, length) => usize::from(length),
        }
    }

    fn push(&self, out: &mut Vec<u8>, value: &Value, v6: bool, room: usize) {
        let length = usize::from(self.element.length);
        match self.element.code {
            Code::Number => match (self.kind, value) {
                (Kind::Float, Value::Float(x)) if length == 8 => {
                    out.extend_from_slice(&x.to_be_bytes())
                }
                (Kind::Signed, Value::Signed(n)) if self.enterprise != 0 => {
                    out.extend_from_slice(&n.to_be_bytes())
                }
                _ => push_number(out, number(value), length),
            },
            Code::Milliseconds => {
                push_number(
                    out,
                    number(value).saturating_mul(self.scale) / 1_000_000,
                    length,
                );
            }
            Code::Nanoseconds => push_ntp(out, number(value).saturating_mul(self.scale)),
            Code::EndReason => out.push(end_reason(value)),
            Code::One => out.push(1),
            Code::Mac => match value {
                Value::Mac(mac) => out.extend_from_slice(&mac.0),
                Value::Text(text) => {
                    out.extend_from_slice(&text.parse::<chaff_abi::Mac>().unwrap_or_default().0)
                }
                _ => out.extend_from_slice(&[0; 6]),
            },
            Code::Address => {
                let ip = match value {
                    Value::Ip(ip) => Some(*ip),
                    Value::Text(text) => text.parse().ok(),
                    _ => None,
                };
                match (ip, v6) {
                    (Some(IpAddr::V4(ip)), false) => out.extend_from_slice(&ip.octets()),
                    (Some(IpAddr::V4(ip)), true) => {
                        out.extend_from_slice(&ip.to_ipv6_mapped().octets())
                    }
                    (Some(IpAddr::V6(ip)), true) => out.extend_from_slice(&ip.octets()),
                    _ => out.resize(out.len() + self.width(v6), 0),
                }
            }
            Code::Text => {
                let mut text = Vec::new();
                push_value(&mut text, value, Style::Native);
                push_text(out, &text, room.min(MAX_TEXT));
            }
        }
    }
}

/// The element of a column without one of IANA's.
fn own_element(column: usize, kind: Kind) -> Option<Element> {
    let (length, code) = match kind {
        Kind::Unsigned | Kind::Signed | Kind::Float => (8, Code::Number),
        Kind::Text => (VARIABLE, Code::Text),
        _ => return None,
    };
    Some(Element {
        id: column as u16 + 1,
        reverse: false,
        length,
        code,
    })
}

fn number(value: &Value) -> u64 {
    match value {
        Value::Unsigned(n) => *n,
        Value::Signed(n) => (*n).max(0) as u64,
        Value::Float(x) => *x as u64,
        _ => 0,
    }
}

fn push_number(out: &mut Vec<u8>, n: u64, length: usize) {
    let length = length.clamp(1, 8);
    let n = n.min(u64::MAX >> (64 - 8 * length));
    out.extend_from_slice(&n.to_be_bytes()[8 - length..]);
}

/// RFC 7011, section 6.1.10; the seconds wrap in 2036, as the RFC has it.
fn push_ntp(out: &mut Vec<u8>, ns: u64) {
    let (seconds, rest) = (ns / 1_000_000_000 + NTP_OFFSET, ns % 1_000_000_000);
    // Rounded up, so that a reader who rounds down gets the same nanosecond back.
    let fraction = (rest << 32).div_ceil(1_000_000_000);
    out.extend_from_slice(&(seconds as u32).to_be_bytes());
    out.extend_from_slice(&(fraction as u32).to_be_bytes());
}

/// `flowEndReason`: 1 idle, 2 active, 3 end seen, 4 forced, 5 lack of resources; 0 unknown.
fn end_reason(value: &Value) -> u8 {
    let word = match value {
        Value::Word(word) => *word,
        Value::Text(text) => text.as_str(),
        // NFStream: 0 idle or end of input, 1 active, -1 by a plugin.
        Value::Unsigned(0) | Value::Signed(0) => "idle",
        Value::Unsigned(1) | Value::Signed(1) => "active",
        Value::Signed(-1) => "forced",
        _ => "",
    };
    match word {
        "idle" => 1,
        "active" => 2,
        "tcp_end" | "tcp_fin" | "tcp_rst" | "end_of_flow" => 3,
        "forced" | "end_of_input" | "plugin" | "time_step" => 4,
        "resource" => 5,
        _ => 0,
    }
}

fn push_specifier(out: &mut Vec<u8>, id: u16, length: u16, enterprise: u32) {
    let marked = if enterprise == 0 { id } else { id | 0x8000 };
    out.extend_from_slice(&marked.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    if enterprise != 0 {
        out.extend_from_slice(&enterprise.to_be_bytes());
    }
}

/// The template of type records (RFC 5610): scope enterprise and element; data type, semantics, name, description.
fn types_template() -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = begin_set(&mut bytes, OPTIONS_TEMPLATES);
    for n in [TYPES_TEMPLATE, 6, 2] {
        bytes.extend_from_slice(&n.to_be_bytes());
    }
    for (id, length) in [
        (346, 4),
        (303, 2),
        (339, 1),
        (344, 1),
        (341, VARIABLE),
        (340, VARIABLE),
    ] {
        push_specifier(&mut bytes, id, length, 0);
    }
    end_set(&mut bytes, start);
    bytes
}

/// A text with its length before it, cut to `max` bytes at the border of a character.
fn push_text(out: &mut Vec<u8>, text: &[u8], max: usize) {
    let mut length = text.len().min(max).min(MAX_TEXT);
    while length < text.len() && length > 0 && text[length] & 0xc0 == 0x80 {
        length -= 1;
    }
    out.push(length as u8);
    out.extend_from_slice(&text[..length]);
}

fn begin_set(out: &mut Vec<u8>, number: u16) -> usize {
    let start = out.len();
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    start
}

fn end_set(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u16;
    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
}
