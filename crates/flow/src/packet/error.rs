/// Where in a packet something was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Link header.
    Link,
    /// VLAN tag.
    Vlan,
    /// MPLS label stack.
    Mpls,
    /// PPPoE header.
    Pppoe,
    /// IPv4 header with options.
    Ipv4,
    /// IPv6 header.
    Ipv6,
    /// IPv6 extension header.
    Extension,
    /// TCP header.
    Tcp,
    /// UDP header.
    Udp,
    /// Header of a tunnel.
    Tunnel,
}

/// Why a frame is not a packet of any flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The capture's link type is not read.
    #[error("link type {link_type} is not read")]
    Link {
        /// `LINKTYPE_` number.
        link_type: u32,
    },
    /// The link layer carries something else (ARP, EAPOL, LLC, ...).
    #[error("not IP: ethertype {ethertype:#06x}")]
    NotIp {
        /// Ethertype, PPP protocol, or the length field of an 802.3 frame.
        ethertype: u16,
    },
    /// A frame of the link's own: 802.11 management, control and null frames, PPP negotiation, PPPoE discovery, HDLC
    /// keep-alives.
    #[error("a control frame of the link: {code:#06x}")]
    Control {
        /// First two bytes of an 802.11 frame as a little-endian number, PPP protocol, or ethertype.
        code: u16,
    },
    /// The receiver marked the frame as damaged (radiotap).
    #[error("the frame check sequence is wrong")]
    BadFcs,
    /// The payload of the frame is encrypted by the link (802.11 protected frames).
    #[error("encrypted by the link")]
    Encrypted,
    /// A part of an 802.11 frame other than the first.
    #[error("a later part of a fragmented frame")]
    LinkFragment,
    /// The frame ended on the wire before the header did.
    #[error("{layer:?} header at byte {offset} needs {needed} bytes, the frame has {had}")]
    Short {
        /// The header.
        layer: Layer,
        /// Where it starts, bytes from the start of the frame.
        offset: usize,
        /// Bytes the header needs.
        needed: usize,
        /// Bytes there.
        had: usize,
    },
    /// The capture kept too little of the frame; the header was there on the wire.
    #[error("{layer:?} header at byte {offset} needs {needed} bytes, the capture kept {had}")]
    Cut {
        /// The header.
        layer: Layer,
        /// Where it starts, bytes from the start of the frame.
        offset: usize,
        /// Bytes the header needs.
        needed: usize,
        /// Bytes there.
        had: usize,
    },
    /// The version nibble is not the one that was announced.
    #[error("IP version {version} at byte {offset}")]
    Version {
        /// What the nibble says.
        version: u8,
        /// Where the IP header starts.
        offset: usize,
    },
    /// Lengths that contradict each other: a header longer than what it is in, or a packet longer than its frame.
    #[error("{layer:?} has {length} bytes where {minimum} are announced or needed")]
    Length {
        /// The header.
        layer: Layer,
        /// Bytes there are.
        length: usize,
        /// Bytes there must be.
        minimum: usize,
    },
    /// More stacked headers than are walked ([`crate::MAX_TAGS`], [`crate::MAX_LABELS`]).
    #[error("more stacked {layer:?} headers than are walked")]
    TooDeep {
        /// The header.
        layer: Layer,
    },
}

impl ParseError {
    /// What the frame is counted as.
    pub const fn reason(&self) -> Ignored {
        match self {
            Self::Link { .. } => Ignored::Link,
            Self::NotIp { .. } => Ignored::NotIp,
            Self::Control { .. } => Ignored::Control,
            Self::BadFcs => Ignored::BadFcs,
            Self::Encrypted => Ignored::Encrypted,
            Self::LinkFragment => Ignored::LinkFragment,
            Self::Cut { .. } => Ignored::Truncated,
            Self::Short { .. }
            | Self::Version { .. }
            | Self::Length { .. }
            | Self::TooDeep { .. } => Ignored::Malformed,
        }
    }
}

/// Why a frame was left out of the flow records. Every frame is either a packet of a flow or has one of these reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// Not IP (ARP, EAPOL, LLC, ...).
    NotIp,
    /// Headers that contradict themselves or a frame too short for them.
    Malformed,
    /// The capture kept too few bytes for the headers.
    Truncated,
    /// The capture's link type is not read.
    Link,
    /// A frame of the link's own: 802.11 management, control and null frames, PPP negotiation, PPPoE discovery, HDLC
    /// keep-alives.
    Control,
    /// The receiver marked the frame as damaged.
    BadFcs,
    /// Encrypted by the link, as protected 802.11 frames are.
    Encrypted,
    /// A part of an 802.11 frame other than the first: it has no IP header, and the first part says how long the packet is.
    LinkFragment,
}

impl Ignored {
    /// All of them in index order.
    pub const ALL: [Self; 8] = [
        Self::NotIp,
        Self::Malformed,
        Self::Truncated,
        Self::Link,
        Self::Control,
        Self::BadFcs,
        Self::Encrypted,
        Self::LinkFragment,
    ];

    /// The name used in reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Link => "link_type",
            Self::Control => "link_control",
            Self::BadFcs => "bad_fcs",
            Self::Encrypted => "link_encrypted",
            Self::LinkFragment => "link_fragment",
        }
    }

    /// Index into an array of [`Ignored::ALL`]'s length.
    pub const fn index(self) -> usize {
        self as usize
    }
}
