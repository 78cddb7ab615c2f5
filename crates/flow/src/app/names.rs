//! Names and categories of protocols, as nDPI calls them.

/// A protocol or an application and its category.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct App {
    /// Name.
    pub name: &'static str,
    /// Category.
    pub category: &'static str,
}

macro_rules! apps {
    ($($constant:ident = $name:literal, $category:literal;)*) => {
        $(pub(super) const $constant: App = App { name: $name, category: $category };)*
    };
}

apps! {
    DHCP = "DHCP", "Network";
    DNS = "DNS", "Network";
    DTLS = "DTLS", "Web";
    HTTP = "HTTP", "Web";
    HTTP_CONNECT = "HTTP_Connect", "Web";
    HTTP_PROXY = "HTTP_Proxy", "Web";
    ICMP = "ICMP", "Network";
    ICMPV6 = "ICMPV6", "Network";
    IGMP = "IGMP", "Network";
    LLMNR = "LLMNR", "Network";
    MDNS = "MDNS", "Network";
    MS_RPCH = "MS-RPCH", "RPC";
    NETBIOS = "NetBIOS", "System";
    QUIC = "QUIC", "Web";
    RTSP = "RTSP", "Media";
    SMB1 = "SMBv1", "System";
    SSDP = "SSDP", "System";
    SSH = "SSH", "RemoteAccess";
    TLS = "TLS", "Web";
    UNKNOWN = "Unknown", "Unspecified";
    WEBDAV = "WebDAV", "Collaborative";
}
