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
    AH = "AH", "VPN";
    AJP = "AJP", "Web";
    AMQP = "AMQP", "RPC";
    BACNET = "BACnet", "IoT-Scada";
    BFD = "BFD", "Network";
    BGP = "BGP", "Network";
    BITCOIN = "BITCOIN", "Crypto_Currency";
    BITTORRENT = "BitTorrent", "Download";
    BJNP = "BJNP", "System";
    CAPWAP = "CAPWAP", "Network";
    CASSANDRA = "Cassandra", "Database";
    COAP = "COAP", "RPC";
    COLLECTD = "collectd", "System";
    DHCP = "DHCP", "Network";
    DHCPV6 = "DHCPV6", "Network";
    DNP3 = "DNP3", "IoT-Scada";
    DNS = "DNS", "Network";
    DROPBOX = "Dropbox", "Cloud";
    DTLS = "DTLS", "Web";
    EGP = "EGP", "Network";
    ESP = "ESP", "VPN";
    ETHERNET_IP = "EthernetIP", "Network";
    FTPS = "FTPS", "Download";
    FTP_CONTROL = "FTP_CONTROL", "Download";
    GIT = "Git", "Collaborative";
    GRE = "GRE", "Network";
    GTP = "GTP", "Network";
    GTP_C = "GTP_C", "Network";
    GTP_U = "GTP_U", "Network";
    H323 = "H323", "VoIP";
    HLS = "HLS", "Media";
    HSRP = "HSRP", "Network";
    HTTP = "HTTP", "Web";
    HTTP2 = "HTTP2", "Web";
    HTTP_CONNECT = "HTTP_Connect", "Web";
    HTTP_PROXY = "HTTP_Proxy", "Web";
    IAX = "IAX", "VoIP";
    ICMP = "ICMP", "Network";
    ICMPV6 = "ICMPV6", "Network";
    IEC60870 = "IEC60870", "IoT-Scada";
    IGMP = "IGMP", "Network";
    IMAP = "IMAP", "Email";
    IMAPS = "IMAPS", "Email";
    IPSEC = "IPSec", "VPN";
    IP_OSPF = "IP_OSPF", "Network";
    IP_PIM = "IP_PIM", "Network";
    JABBER = "Jabber", "Web";
    JSON_RPC = "JSON-RPC", "RPC";
    KAFKA = "Kafka", "RPC";
    KERBEROS = "Kerberos", "Network";
    KNXNET_IP = "KNXnet_IP", "IoT-Scada";
    L2TP = "L2TP", "VPN";
    LDAP = "LDAP", "System";
    LLMNR = "LLMNR", "Network";
    MDNS = "MDNS", "Network";
    MEGACO = "Megaco", "VoIP";
    MEMCACHED = "Memcached", "Network";
    MGCP = "MGCP", "VoIP";
    MINING = "Mining", "Mining";
    MODBUS = "Modbus", "IoT-Scada";
    MONGODB = "MongoDB", "Database";
    MPEG_DASH = "MpegDash", "Media";
    MQTT = "MQTT", "RPC";
    MSSQL = "MsSQL-TDS", "Database";
    MS_RPCH = "MS-RPCH", "RPC";
    MYSQL = "MySQL", "Database";
    NATS = "Nats", "RPC";
    NAT_PMP = "NAT-PMP", "Network";
    NEST_LOG_SINK = "NestLogSink", "Cloud";
    NETBIOS = "NetBIOS", "System";
    NETFLOW = "NetFlow", "Network";
    NFS = "NFS", "DataTransfer";
    NTP = "NTP", "System";
    OCSP = "OCSP", "Network";
    OPC_UA = "OPC-UA", "IoT-Scada";
    OPENVPN = "OpenVPN", "VPN";
    ORACLE = "Oracle", "Database";
    PGM = "PGM", "Network";
    POP3 = "POP3", "Email";
    POPS = "POPS", "Email";
    POSTGRESQL = "PostgreSQL", "Database";
    PPTP = "PPTP", "VPN";
    PTP = "PTPv2", "System";
    QUIC = "QUIC", "Web";
    RADIUS = "Radius", "Network";
    RDP = "RDP", "RemoteAccess";
    RESP = "RESP", "Database";
    RSYNC = "RSYNC", "DataTransfer";
    RTMP = "RTMP", "Media";
    RTP = "RTP", "Media";
    RTPS = "RTPS", "RPC";
    RTSP = "RTSP", "Media";
    S7COMM = "S7Comm", "IoT-Scada";
    SCTP = "SCTP", "Network";
    SFLOW = "sFlow", "Network";
    SIP = "SIP", "VoIP";
    SMB1 = "SMBv1", "System";
    SMB2 = "SMBv23", "System";
    SMTP = "SMTP", "Email";
    SMTPS = "SMTPS", "Email";
    SNMP = "SNMP", "Network";
    SOCKS = "SOCKS", "Web";
    SOMEIP = "SOMEIP", "RPC";
    SOURCE_ENGINE = "Source_Engine", "Game";
    SPOTIFY = "Spotify", "Music";
    SRTP = "SRTP", "Media";
    SSDP = "SSDP", "System";
    SSH = "SSH", "RemoteAccess";
    STEAM = "Steam", "Game";
    STUN = "STUN", "Network";
    SYSLOG = "Syslog", "System";
    TEAMVIEWER = "TeamViewer", "RemoteAccess";
    TELNET = "Telnet", "RemoteAccess";
    TEREDO = "Teredo", "Network";
    TFTP = "TFTP", "DataTransfer";
    TLS = "TLS", "Web";
    TPLINK_SHP = "TPLINK_SHP", "IoT-Scada";
    TUYA_LP = "TuyaLP", "IoT-Scada";
    UBNTAC2 = "UBNTAC2", "Network";
    UNKNOWN = "Unknown", "Unspecified";
    VNC = "VNC", "RemoteAccess";
    VRRP = "VRRP", "Network";
    VXLAN = "VXLAN", "Network";
    WEBDAV = "WebDAV", "Collaborative";
    WEBSOCKET = "WebSocket", "Web";
    WHATSAPP = "WhatsApp", "Chat";
    WHOIS = "Whois-DAS", "Network";
    WIREGUARD = "WireGuard", "VPN";
    WSD = "WSD", "Network";
    ZABBIX = "Zabbix", "Network";
}
