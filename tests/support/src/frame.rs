//! Packets layer by layer, from the inside out. Checksums are zero; nothing is cut to a link's size.

/// UDP from the first port to the second.
pub fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + payload.len());
    for n in [ports[0], ports[1], (payload.len() + 8) as u16, 0] {
        out.extend(n.to_be_bytes());
    }
    out.extend(payload);
    out
}

/// TCP from the first port to the second; `options` is a multiple of four bytes.
pub fn tcp(ports: [u16; 2], flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + options.len() + payload.len());
    out.extend(ports[0].to_be_bytes());
    out.extend(ports[1].to_be_bytes());
    out.extend([0, 0, 0, 9, 0, 0, 0, 7]);
    out.extend([((5 + options.len() / 4) as u8) << 4, flags]);
    out.extend([0xff, 0xff, 0, 0, 0, 0]);
    out.extend(options);
    out.extend(payload);
    out
}

/// IPv4 from the first address to the second; `fragment` is the field of flags and offset, `options` a multiple of four bytes.
pub fn ipv4(
    ends: [[u8; 4]; 2],
    protocol: u8,
    fragment: u16,
    options: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut out = vec![0x40 + (header / 4) as u8, 0];
    out.extend(((header + body.len()) as u16).to_be_bytes());
    out.extend([0, 1]);
    out.extend(fragment.to_be_bytes());
    out.extend([64, protocol, 0, 0]);
    out.extend(ends.concat());
    out.extend(options);
    out.extend(body);
    out
}

/// IPv6 from the first address to the second.
pub fn ipv6(ends: [[u8; 16]; 2], next: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((body.len() as u16).to_be_bytes());
    out.extend([next, 64]);
    out.extend(ends.concat());
    out.extend(body);
    out
}

/// Ethernet to the first address from the second.
pub fn ethernet(to_from: [[u8; 6]; 2], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut out = to_from.concat();
    out.extend(ethertype.to_be_bytes());
    out.extend(body);
    out
}

/// The ethertype of an IP packet, by its version.
pub fn ethertype(packet: &[u8]) -> u16 {
    if packet.first().is_some_and(|b| b >> 4 == 6) {
        0x86dd
    } else {
        0x0800
    }
}
