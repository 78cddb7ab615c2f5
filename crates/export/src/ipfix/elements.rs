//! Which information elements of the IANA registry ("IPFIX Information Elements") carry which columns.

use chaff_flow::{Column, Kind};

/// How a value becomes the bytes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Unsigned number, big-endian; what does not fit becomes the largest that does.
    Number,
    /// IPv4 or IPv6 address, by template.
    Address,
    /// MAC address, 6 bytes.
    Mac,
    /// Text, as long as it is.
    Text,
    /// Milliseconds since 1970, from a column in ns or ms.
    Milliseconds,
    /// NTP timestamp (seconds since 1900, then 1/2^32 of a second), from a column in ns.
    Nanoseconds,
    /// `flowEndReason`, from a word of the native profile or a number of NFStream's.
    EndReason,
    /// Always 1.
    One,
}

/// An information element of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// Number in the registry.
    pub(crate) id: u16,
    /// Of the responder's packets: the reverse element of RFC 5103.
    pub(crate) reverse: bool,
    /// Bytes; [`VARIABLE`] for texts. Addresses: 4, or 16 in the template for IPv6.
    pub(crate) length: u16,
    pub(crate) code: Code,
}

/// `icmpTypeIPv4`, `icmpCodeIPv4`.
const ICMP_TYPE: u16 = 176;
const ICMP_CODE: u16 = 177;

impl Element {
    /// Number and length in the template for IPv6.
    pub(crate) fn for_ipv6(&self) -> (u16, u16) {
        match (self.code, self.id) {
            // sourceIPv6Address, destinationIPv6Address.
            (Code::Address, 8) => (27, 16),
            (Code::Address, _) => (28, 16),
            // icmpTypeIPv6, icmpCodeIPv6.
            (_, ICMP_TYPE) if !self.reverse => (178, 1),
            (_, ICMP_CODE) if !self.reverse => (179, 1),
            (_, id) => (id, self.length),
        }
    }

    /// Whether only flows of ICMP have it.
    pub(crate) fn is_of_icmp(&self) -> bool {
        !self.reverse && matches!(self.id, ICMP_TYPE | ICMP_CODE)
    }
}

/// Length in a template of what says its length itself.
pub(crate) const VARIABLE: u16 = 0xffff;

const fn number(id: u16, length: u16) -> Element {
    Element {
        id,
        reverse: false,
        length,
        code: Code::Number,
    }
}

const fn coded(id: u16, length: u16, code: Code) -> Element {
    Element {
        id,
        reverse: false,
        length,
        code,
    }
}

const fn text(id: u16) -> Element {
    coded(id, VARIABLE, Code::Text)
}

/// `biflowDirection` (RFC 5103): records are told from the initiator, who is 1.
pub(crate) const INITIATOR: Element = coded(239, 1, Code::One);

/// Columns of whole flows, and of both profiles.
const FLOW: &[(&str, &[Element])] = &[
    ("id", &[number(148, 8)]),
    ("end_reason", &[coded(136, 1, Code::EndReason)]),
    ("expiration_id", &[coded(136, 1, Code::EndReason)]),
    (
        "start_ns",
        &[
            coded(152, 8, Code::Milliseconds),
            coded(156, 8, Code::Nanoseconds),
        ],
    ),
    (
        "end_ns",
        &[
            coded(153, 8, Code::Milliseconds),
            coded(157, 8, Code::Nanoseconds),
        ],
    ),
    (
        "bidirectional_first_seen_ms",
        &[coded(152, 8, Code::Milliseconds)],
    ),
    (
        "bidirectional_last_seen_ms",
        &[coded(153, 8, Code::Milliseconds)],
    ),
    ("src_ip", &[coded(8, 4, Code::Address)]),
    ("dst_ip", &[coded(12, 4, Code::Address)]),
    ("src_port", &[number(7, 2)]),
    ("dst_port", &[number(11, 2)]),
    ("protocol", &[number(4, 1)]),
    ("ip_version", &[number(60, 1)]),
    ("vlan_id", &[number(58, 2)]),
    ("inner_vlan_id", &[number(245, 2)]),
    ("src_mac", &[coded(56, 6, Code::Mac)]),
    ("dst_mac", &[coded(80, 6, Code::Mac)]),
    ("tcp_flags", &[number(6, 2)]),
    // Of IPv4; see `Element::for_ipv6`.
    ("icmp_type", &[number(ICMP_TYPE, 1)]),
    ("icmp_code", &[number(ICMP_CODE, 1)]),
    ("application", &[text(96)]),
    ("application_category", &[text(372)]),
    ("application_name", &[text(96)]),
    ("application_category_name", &[text(372)]),
    ("user_agent", &[text(468)]),
    ("content_type", &[text(469)]),
];

/// Columns of one direction, without their prefix.
const DIRECTION: &[(&str, Element)] = &[
    ("packets", number(2, 8)),
    ("bytes", number(1, 8)),
    ("bytes_min", number(25, 8)),
    ("bytes_max", number(26, 8)),
    ("ttl_min", number(52, 1)),
    ("ttl_max", number(53, 1)),
    ("tcp_flags", number(6, 2)),
    ("syn_packets", number(218, 8)),
    ("fin_packets", number(219, 8)),
    ("rst_packets", number(220, 8)),
    ("psh_packets", number(221, 8)),
    ("ack_packets", number(222, 8)),
    ("urg_packets", number(223, 8)),
];

/// Prefixes of columns of one direction, and whether it is the responder's.
const PREFIXES: [(&str, bool); 4] = [
    ("fwd_", false),
    ("bwd_", true),
    ("src2dst_", false),
    ("dst2src_", true),
];

/// The elements that carry a column; none for a list, for a column without a counterpart, and for numbers and times that
/// have become texts (pseudonyms).
pub(crate) fn elements(column: &Column) -> Vec<Element> {
    let is_text = column.kind == Kind::Text;
    let is_list = matches!(column.kind, Kind::List | Kind::SignedList | Kind::TextList);
    let mut elements = by_name(&column.name);
    elements.retain(|e| {
        let is_number = matches!(
            e.code,
            Code::Number | Code::Milliseconds | Code::Nanoseconds
        );
        !(is_list || is_text && is_number)
    });
    elements
}

fn by_name(column: &str) -> Vec<Element> {
    if let Some((_, elements)) = FLOW.iter().find(|(name, _)| *name == column) {
        return elements.to_vec();
    }
    let directed = PREFIXES
        .iter()
        .find_map(|(prefix, reverse)| Some((column.strip_prefix(prefix)?, *reverse)));
    let Some((rest, reverse)) = directed else {
        return Vec::new();
    };
    DIRECTION
        .iter()
        .find(|(name, _)| *name == rest)
        .map(|(_, element)| {
            vec![Element {
                reverse,
                ..*element
            }]
        })
        .unwrap_or_default()
}
