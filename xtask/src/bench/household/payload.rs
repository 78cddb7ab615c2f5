//! Payloads that follow their protocols as far as a meter's hints look.

use super::Random;

/// Names of the servers; documentation domains.
const HOSTS: [&str; 12] = [
    "www",
    "api",
    "cdn",
    "img",
    "video",
    "mail",
    "push",
    "time",
    "fw",
    "telemetry",
    "static",
    "login",
];
const SITES: [&str; 8] = [
    "shop.example",
    "news.example",
    "play.example",
    "cam.example",
    "hub.example",
    "social.example",
    "cloud.example",
    "bank.example",
];

/// The name of server `number`.
pub(crate) fn host(number: u64) -> String {
    let host = HOSTS[(number % HOSTS.len() as u64) as usize];
    let site = SITES[(number / HOSTS.len() as u64 % SITES.len() as u64) as usize];
    format!("{host}{}.{site}", number / 96)
}

/// A DNS question for the name, type A or AAAA.
pub(crate) fn dns_query(id: u16, name: &str, ipv6: bool) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    question(&mut out, name, ipv6);
    out
}

/// The answer to it, with one address.
pub(crate) fn dns_answer(id: u16, name: &str, ipv6: bool, address: &[u8]) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    question(&mut out, name, ipv6);
    out.extend([0xc0, 12, 0, if ipv6 { 28 } else { 1 }, 0, 1, 0, 0, 1, 0x2c]);
    out.extend((address.len() as u16).to_be_bytes());
    out.extend(address);
    out
}

fn question(out: &mut Vec<u8>, name: &str, ipv6: bool) {
    labels(out, name);
    out.extend([0, if ipv6 { 28 } else { 1 }, 0, 1]);
}

fn labels(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.push(0);
}

/// An mDNS response that names a service of a device.
pub(crate) fn mdns(device: u64) -> Vec<u8> {
    let mut out = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    labels(&mut out, "_hue._tcp.local");
    out.extend([0, 12, 0, 1, 0, 0, 17, 0x94]);
    let mut target = Vec::new();
    labels(&mut target, &format!("lamp-{device}._hue._tcp.local"));
    out.extend((target.len() as u16).to_be_bytes());
    out.extend(target);
    out
}

/// An SSDP search.
pub(crate) fn ssdp() -> Vec<u8> {
    b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\nUSER-AGENT: TV/1.0 UPnP/1.1 player/3\r\n\r\n".to_vec()
}

/// An NTP packet of a client (mode 3) or server (mode 4).
pub(crate) fn ntp(server: bool) -> Vec<u8> {
    let mut out = vec![0; 48];
    out[0] = if server { 0x24 } else { 0x23 };
    out
}

/// A DHCP request of the device with this MAC and host name.
pub(crate) fn dhcp(mac: [u8; 6], device: u64) -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0, 0, 0, 0, 9];
    out.resize(28, 0);
    out.extend(mac);
    out.resize(236, 0);
    out.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 3, 55, 4, 1, 3, 6, 15, 12]);
    let name = format!("device-{device}");
    out.push(name.len() as u8);
    out.extend(name.bytes());
    out.extend([255, 0, 0]);
    out
}

/// A plain HTTP request.
pub(crate) fn http_request(name: &str) -> Vec<u8> {
    format!("GET /firmware/version.json HTTP/1.1\r\nHost: {name}\r\nUser-Agent: hub/2.1\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// The head of its response.
pub(crate) fn http_response() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5120\r\n\r\n".to_vec()
}

/// MQTT CONNECT.
pub(crate) fn mqtt_connect(device: u64) -> Vec<u8> {
    let id = format!("plug-{device}");
    let mut out = vec![
        0x10,
        (12 + id.len()) as u8,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        4,
        2,
        0,
        60,
    ];
    out.extend((id.len() as u16).to_be_bytes());
    out.extend(id.bytes());
    out
}

/// A TLS record of type `kind` around `body`.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 3, 3];
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

/// A handshake message in a record.
fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0];
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    record(22, &out)
}

fn extension(out: &mut Vec<u8>, kind: u16, body: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
}

/// A TLS 1.3 ClientHello for the name.
pub(crate) fn client_hello(name: &str, random: &mut Random) -> Vec<u8> {
    let mut body = vec![3, 3];
    bytes(&mut body, 32, random);
    body.push(32);
    bytes(&mut body, 32, random);
    let suites: [u16; 7] = [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xcca9, 0xc013];
    body.extend((suites.len() as u16 * 2).to_be_bytes());
    body.extend(suites.iter().flat_map(|s| s.to_be_bytes()));
    body.extend([1, 0]);
    let mut list = Vec::new();
    let mut server = ((name.len() + 3) as u16).to_be_bytes().to_vec();
    server.push(0);
    server.extend((name.len() as u16).to_be_bytes());
    server.extend(name.bytes());
    extension(&mut list, 0, &server);
    extension(&mut list, 23, &[]);
    extension(&mut list, 10, &[0, 6, 0, 29, 0, 23, 0, 24]);
    extension(&mut list, 11, &[1, 0]);
    extension(&mut list, 16, b"\0\x0c\x02h2\x08http/1.1");
    extension(&mut list, 13, &[0, 8, 4, 3, 8, 4, 4, 1, 5, 1]);
    extension(&mut list, 43, &[4, 3, 4, 3, 3]);
    let mut share = vec![0, 36, 0, 29, 0, 32];
    bytes(&mut share, 32, random);
    extension(&mut list, 51, &share);
    extension(&mut list, 45, &[1, 1]);
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list);
    handshake(1, &body)
}

/// The ServerHello that answers it, and the encrypted rest as far as it fits `length`.
pub(crate) fn server_hello(length: usize, random: &mut Random) -> Vec<u8> {
    let mut body = vec![3, 3];
    bytes(&mut body, 32, random);
    body.push(32);
    bytes(&mut body, 32, random);
    body.extend([0x13, 1, 0]);
    let mut list = Vec::new();
    extension(&mut list, 43, &[3, 4]);
    let mut share = vec![0, 29, 0, 32];
    bytes(&mut share, 32, random);
    extension(&mut list, 51, &share);
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list);
    let mut out = handshake(2, &body);
    let rest = length.saturating_sub(out.len() + 5);
    let mut hidden = Vec::new();
    bytes(&mut hidden, rest, random);
    out.extend(record(23, &hidden));
    out
}

/// Begins a buffer with the header of a TLS record that fills it.
pub(crate) fn tls_data(out: &mut [u8]) {
    let length = (out.len().saturating_sub(5) as u16).to_be_bytes();
    for (to, from) in out.iter_mut().zip([23, 3, 3, length[0], length[1]]) {
        *to = from;
    }
}

/// Appends `n` bytes of noise.
pub(crate) fn bytes(out: &mut Vec<u8>, n: usize, random: &mut Random) {
    let end = out.len() + n;
    while out.len() < end {
        out.extend(random.next().to_le_bytes());
    }
    out.truncate(end);
}
