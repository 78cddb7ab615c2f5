//! What a port number is known for, when nothing else tells.

use super::names::App;

const TCP: u8 = 1;
const UDP: u8 = 2;
const BOTH: u8 = 3;

/// Port, transports, name and category as nDPI calls them. In order of ports.
static PORTS: [(u16, u8, &str, &str); 167] = [
    (20, TCP, "FTP_DATA", "Download"),
    (21, TCP, "FTP_CONTROL", "Download"),
    (22, TCP, "SSH", "RemoteAccess"),
    (23, TCP, "Telnet", "RemoteAccess"),
    (25, TCP, "SMTP", "Email"),
    (43, TCP, "Whois-DAS", "Network"),
    (53, BOTH, "DNS", "Network"),
    (67, UDP, "DHCP", "Network"),
    (68, UDP, "DHCP", "Network"),
    (69, UDP, "TFTP", "DataTransfer"),
    (80, TCP, "HTTP", "Web"),
    (88, BOTH, "Kerberos", "Network"),
    (104, TCP, "DICOM", "Health"),
    (110, TCP, "POP3", "Email"),
    (123, UDP, "NTP", "System"),
    (135, BOTH, "DCERPC", "RPC"),
    (137, UDP, "NetBIOS", "System"),
    (138, UDP, "NetBIOS", "System"),
    (139, BOTH, "NetBIOS", "System"),
    (143, TCP, "IMAP", "Email"),
    (161, UDP, "SNMP", "Network"),
    (162, UDP, "SNMP", "Network"),
    (177, BOTH, "XDMCP", "RemoteAccess"),
    (179, TCP, "BGP", "Network"),
    (194, BOTH, "IRC", "Chat"),
    (389, BOTH, "LDAP", "System"),
    (427, BOTH, "Service_Location_Protocol", "RPC"),
    (443, UDP, "QUIC", "Web"),
    (443, TCP, "TLS", "Web"),
    (445, TCP, "SMBv23", "System"),
    (465, TCP, "SMTPS", "Email"),
    (500, BOTH, "IPSec", "VPN"),
    (502, TCP, "Modbus", "IoT-Scada"),
    (514, BOTH, "Syslog", "System"),
    (548, BOTH, "AFP", "DataTransfer"),
    (554, BOTH, "RTSP", "Media"),
    (587, TCP, "SMTP", "Email"),
    (623, UDP, "RMCP", "System"),
    (646, BOTH, "LDP", "Network"),
    (853, BOTH, "DoH_DoT", "Network"),
    (873, TCP, "RSYNC", "DataTransfer"),
    (902, UDP, "VMware", "RemoteAccess"),
    (903, BOTH, "VMware", "RemoteAccess"),
    (993, TCP, "IMAPS", "Email"),
    (995, TCP, "POPS", "Email"),
    (1080, BOTH, "SOCKS", "Web"),
    (1099, TCP, "JRMI", "RPC"),
    (1119, BOTH, "Blizzard", "Game"),
    (1194, BOTH, "OpenVPN", "VPN"),
    (1352, TCP, "HCL_Notes", "Collaborative"),
    (1433, TCP, "MsSQL-TDS", "Database"),
    (1434, TCP, "MsSQL-TDS", "Database"),
    (1494, TCP, "Citrix", "Network"),
    (1521, TCP, "Oracle", "Database"),
    (1719, BOTH, "H323", "VoIP"),
    (1720, BOTH, "H323", "VoIP"),
    (1812, BOTH, "Radius", "Network"),
    (1813, BOTH, "Radius", "Network"),
    (1883, TCP, "MQTT", "RPC"),
    (1935, TCP, "RTMP", "Media"),
    (1985, UDP, "HSRP", "Network"),
    (2000, TCP, "CiscoSkinny", "VoIP"),
    (2002, BOTH, "Roughtime", "System"),
    (2049, BOTH, "NFS", "DataTransfer"),
    (2055, UDP, "NetFlow", "Network"),
    (2123, UDP, "GTP", "Network"),
    (2152, UDP, "GTP", "Network"),
    (2222, UDP, "CIP", "IoT-Scada"),
    (2404, TCP, "IEC60870", "IoT-Scada"),
    (2598, TCP, "Citrix", "Network"),
    (2944, UDP, "Megaco", "VoIP"),
    (3128, TCP, "HTTP_Proxy", "Web"),
    (3300, TCP, "Ceph", "DataTransfer"),
    (3306, TCP, "MySQL", "Database"),
    (3389, BOTH, "RDP", "RemoteAccess"),
    (3478, BOTH, "STUN", "Network"),
    (3702, UDP, "WSD", "Network"),
    (3784, UDP, "BFD", "Network"),
    (3785, UDP, "BFD", "Network"),
    (3868, TCP, "Diameter", "Network"),
    (4000, BOTH, "NoMachine", "RemoteAccess"),
    (4244, BOTH, "Viber", "Chat"),
    (4343, TCP, "Whois-DAS", "Network"),
    (4500, UDP, "IPSec", "VPN"),
    (4569, BOTH, "IAX", "VoIP"),
    (4713, UDP, "IEEE-C37118", "IoT-Scada"),
    (4730, TCP, "Gearman", "RPC"),
    (4789, UDP, "VXLAN", "Network"),
    (4840, TCP, "OPC-UA", "IoT-Scada"),
    (4899, TCP, "Radmin", "RemoteAccess"),
    (4949, TCP, "Munin", "System"),
    (5001, BOTH, "TargusDataspeed", "Network"),
    (5050, UDP, "Ether-S-Bus", "IoT-Scada"),
    (5060, BOTH, "SIP", "VoIP"),
    (5061, BOTH, "SIP", "VoIP"),
    (5094, TCP, "HART-IP", "IoT-Scada"),
    (5242, BOTH, "Viber", "Chat"),
    (5243, BOTH, "Viber", "Chat"),
    (5246, UDP, "CAPWAP", "Network"),
    (5247, UDP, "CAPWAP", "Network"),
    (5351, UDP, "NAT-PMP", "Network"),
    (5353, UDP, "MDNS", "Network"),
    (5354, UDP, "MDNS", "Network"),
    (5355, BOTH, "LLMNR", "Network"),
    (5432, TCP, "PostgreSQL", "Database"),
    (5540, UDP, "Matter", "IoT-Scada"),
    (5683, UDP, "COAP", "RPC"),
    (5684, UDP, "COAP", "RPC"),
    (5800, TCP, "VNC", "RemoteAccess"),
    (5900, TCP, "VNC", "RemoteAccess"),
    (5901, TCP, "VNC", "RemoteAccess"),
    (5938, BOTH, "TeamViewer", "RemoteAccess"),
    (6000, UDP, "EAQ", "Network"),
    (6112, TCP, "GuildWars2", "Game"),
    (6343, UDP, "sFlow", "Network"),
    (6379, TCP, "RESP", "Database"),
    (6514, TCP, "Syslog", "System"),
    (6556, TCP, "CHECKMK", "DataTransfer"),
    (6653, TCP, "OpenFlow", "Network"),
    (6667, UDP, "TuyaLP", "IoT-Scada"),
    (6771, UDP, "BitTorrent", "Download"),
    (6789, TCP, "Ceph", "DataTransfer"),
    (6881, BOTH, "BitTorrent", "Download"),
    (6882, BOTH, "BitTorrent", "Download"),
    (6883, BOTH, "BitTorrent", "Download"),
    (6885, BOTH, "BitTorrent", "Download"),
    (6888, BOTH, "BitTorrent", "Download"),
    (6889, BOTH, "BitTorrent", "Download"),
    (7000, TCP, "Cassandra", "Database"),
    (7401, UDP, "RTPS", "RPC"),
    (7680, TCP, "MSDO", "SoftwareUpdate"),
    (8000, UDP, "OICQ", "Chat"),
    (8008, TCP, "CiscoVPN", "VPN"),
    (8009, TCP, "AJP", "Web"),
    (8010, TCP, "AJP", "Web"),
    (8080, TCP, "HTTP_Proxy", "Web"),
    (8116, UDP, "CPHA", "Network"),
    (8333, TCP, "BITCOIN", "Crypto_Currency"),
    (8612, UDP, "BJNP", "System"),
    (8805, UDP, "PFCP", "Network"),
    (8883, TCP, "MQTT", "RPC"),
    (9042, TCP, "Cassandra", "Database"),
    (9092, TCP, "Kafka", "RPC"),
    (9418, TCP, "Git", "Collaborative"),
    (9600, BOTH, "FINS", "IoT-Scada"),
    (9999, BOTH, "TPLINK_SHP", "IoT-Scada"),
    (10000, BOTH, "CiscoVPN", "VPN"),
    (10001, UDP, "UBNTAC2", "Network"),
    (10050, TCP, "Zabbix", "Network"),
    (10051, TCP, "Zabbix", "Network"),
    (11095, TCP, "NestLogSink", "Cloud"),
    (11211, BOTH, "Memcached", "Network"),
    (12975, TCP, "Hamachi", "VPN"),
    (17224, UDP, "TRDP", "IoT-Scada"),
    (17225, BOTH, "TRDP", "IoT-Scada"),
    (17500, UDP, "Dropbox", "Cloud"),
    (20000, TCP, "DNP3", "IoT-Scada"),
    (25826, UDP, "collectd", "System"),
    (27015, UDP, "Source_Engine", "Game"),
    (27017, TCP, "MongoDB", "Database"),
    (30303, TCP, "ETHEREUM", "Crypto_Currency"),
    (30490, UDP, "SOMEIP", "RPC"),
    (32976, TCP, "Hamachi", "VPN"),
    (44818, TCP, "EthernetIP", "Network"),
    (47808, UDP, "BACnet", "IoT-Scada"),
    (51413, BOTH, "BitTorrent", "Download"),
    (51820, UDP, "WireGuard", "VPN"),
];

/// The protocol that `port` of TCP (6) or UDP (17) is known for.
pub(super) fn lookup(protocol: u8, port: u16) -> Option<App> {
    let transport = match protocol {
        6 => TCP,
        17 => UDP,
        _ => return None,
    };
    let first = PORTS.partition_point(|row| row.0 < port);
    PORTS[first..]
        .iter()
        .take_while(|row| row.0 == port)
        .find(|row| row.1 & transport != 0)
        .map(|(_, _, name, category)| App { name, category })
}

/// The guess for a flow: the port of the responder, or else the initiator's.
pub(super) fn guess(protocol: u8, [initiator, responder]: [u16; 2]) -> Option<App> {
    const QUIC: u16 = 443;
    let found = match protocol == 17 && (initiator == QUIC || responder == QUIC) {
        true => lookup(protocol, if responder == 53 { 53 } else { QUIC }),
        false => lookup(protocol, responder),
    };
    found.or_else(|| lookup(protocol, initiator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_order() {
        assert!(PORTS.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn prefers_the_responder() {
        let name = |protocol, ports| guess(protocol, ports).map_or("", |app| app.name);
        assert_eq!(name(6, [22, 443]), "TLS");
        assert_eq!(name(6, [443, 22]), "SSH");
        assert_eq!(name(6, [443, 40000]), "TLS");
        assert_eq!(name(17, [443, 3478]), "QUIC");
        assert_eq!(name(17, [40000, 40001]), "");
        assert_eq!(name(1, [443, 443]), "");
    }
}
