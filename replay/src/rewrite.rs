//! Changing addresses and VLAN tags with right checksums.
//!
//! Checksums are updated incrementally (RFC 1624), so a checksum that was right stays right and one that was wrong
//! stays wrong by the same amount; that also works on frames whose end was not captured. A UDP checksum of zero
//! (none) stays zero. In later fragments there is no transport header and only the IP header changes; the first
//! fragment carries the datagram's checksum and is updated.
use std::net::IpAddr;

use chaff_abi::{Dir, Mac};

use crate::ReplayError;
use crate::headers::{self, ARP, ETHERNET_LEN, Ip, is_vlan};

/// What to change, per direction.
///
/// ```
/// use chaff_replay::Rewrite;
/// let rules = Rewrite::parse(&["ip=10.10.10.0/24:192.168.7.0/24,vlan=strip", "in.dst-mac=02:00:00:00:00:09"])?;
/// assert!(!rules.is_empty());
/// # Ok::<(), chaff_replay::ReplayError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    rules: [Rules; 2],
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    src_mac: Option<Mac>,
    dst_mac: Option<Mac>,
    addresses: Vec<Map>,
    vlan: Option<Vlan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vlan {
    Strip,
    Set(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Map {
    source: bool,
    destination: bool,
    /// All unicast addresses of the family when there is none.
    from: Option<IpAddr>,
    to: IpAddr,
    /// Leading bits that change; the others are kept.
    bits: u8,
}

impl Rewrite {
    /// Parses `KEY=VALUE` settings; one string may hold several, separated by commas.
    ///
    /// Keys: `src-mac`, `dst-mac`, `src-ip`, `dst-ip`, `ip` (both), `vlan`; with `out.` or `in.` ahead a setting
    /// applies to frames from or to the devices only.
    ///
    /// # Errors
    /// [`ReplayError::Option`] for an unknown key or a value that does not parse.
    pub fn parse<S: AsRef<str>>(settings: &[S]) -> Result<Self, ReplayError> {
        let mut all = Self::default();
        for setting in settings.iter().flat_map(|s| s.as_ref().split(',')) {
            let bad = |what| ReplayError::Option {
                option: "--rewrite",
                value: setting.to_owned(),
                what,
            };
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| bad("expected KEY=VALUE"))?;
            let (dirs, key): (&[Dir], _) = if let Some(key) = key.strip_prefix("out.") {
                (&[Dir::Out], key)
            } else if let Some(key) = key.strip_prefix("in.") {
                (&[Dir::In], key)
            } else {
                (&Dir::BOTH, key)
            };
            for dir in dirs {
                all.rules[dir.index()].set(key, value).map_err(bad)?;
            }
        }
        Ok(all)
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The MAC addresses set for a direction: source, destination.
    pub fn macs(&self, dir: Dir) -> (Option<Mac>, Option<Mac>) {
        let r = &self.rules[dir.index()];
        (r.src_mac, r.dst_mac)
    }

    /// Changes one Ethernet frame; with a VLAN rule its length may change by a multiple of four bytes.
    ///
    /// Group addresses (broadcast, multicast) stay as they are unless a map names them. ARP packets are changed
    /// inside as well, so that they agree with the packets that follow.
    pub fn apply(&self, dir: Dir, frame: &mut Vec<u8>) {
        let rules = &self.rules[dir.index()];
        let Some(layers) = headers::layers(frame) else {
            return;
        };
        if let Some(ip) = layers.ip {
            rules.change_ip(frame, &ip);
        } else if layers.ether_type == ARP {
            rules.change_arp(frame, layers.network);
        }
        if let Some(mac) = rules.dst_mac
            && !is_group(frame)
        {
            frame[..6].copy_from_slice(&mac.0);
        }
        if let Some(mac) = rules.src_mac {
            frame[6..12].copy_from_slice(&mac.0);
        }
        match rules.vlan {
            Some(Vlan::Strip) => drop(frame.drain(12..12 + 4 * layers.tags)),
            Some(Vlan::Set(id)) => set_vlan(frame, id),
            None => {}
        }
    }

    /// Changes one IP packet without link header.
    pub fn apply_ip(&self, dir: Dir, packet: &mut [u8]) {
        if let Some(ip) = headers::raw_ip(packet) {
            self.rules[dir.index()].change_ip(packet, &ip);
        }
    }
}

fn is_group(frame: &[u8]) -> bool {
    frame[0] & 1 != 0
}

fn set_vlan(frame: &mut Vec<u8>, id: u16) {
    let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
    if is_vlan(ether_type) && frame.len() >= ETHERNET_LEN + 4 {
        let priority = u16::from_be_bytes([frame[14], frame[15]]) & 0xf000;
        frame[14..16].copy_from_slice(&(priority | id).to_be_bytes());
    } else {
        let [hi, lo] = id.to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, hi, lo]);
    }
}

impl Rules {
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        let mac = || {
            value
                .parse::<Mac>()
                .map_err(|_| "not a MAC address such as 02:00:5e:10:00:01")
        };
        match key {
            "src-mac" => self.src_mac = Some(mac()?),
            "dst-mac" => self.dst_mac = Some(mac()?),
            "vlan" if value == "strip" => self.vlan = Some(Vlan::Strip),
            "vlan" => match value.parse() {
                Ok(id @ 1..=4094) => self.vlan = Some(Vlan::Set(id)),
                _ => return Err("expected strip or a VLAN id from 1 to 4094"),
            },
            "src-ip" | "dst-ip" | "ip" => {
                let (from, to, bits) = parse_map(value)?;
                self.addresses.push(Map {
                    source: key != "dst-ip",
                    destination: key != "src-ip",
                    from,
                    to,
                    bits,
                });
            }
            _ => return Err("unknown key: src-mac, dst-mac, src-ip, dst-ip, ip, vlan"),
        }
        Ok(())
    }

    fn change_ip(&self, b: &mut [u8], ip: &Ip) {
        let n = ip.address_len();
        for source in [true, false] {
            let at = if source { ip.source } else { ip.destination };
            let mut old = [0u8; 16];
            old[..n].copy_from_slice(&b[at..at + n]);
            let mut new = old;
            if !self.map(source, &mut new[..n]) || new == old {
                continue;
            }
            b[at..at + n].copy_from_slice(&new[..n]);
            if ip.version == 4 {
                // The header checksum is two bytes ahead of the source address.
                adjust(b, ip.source - 2, &old[..n], &new[..n]);
            }
            if (source || ip.covers_destination)
                && let Some(at) = transport_checksum(b, ip)
            {
                adjust(b, at, &old[..n], &new[..n]);
                if ip.protocol == 17 && b[at..at + 2] == [0, 0] {
                    // A computed zero is sent as all ones, RFC 768.
                    b[at..at + 2].fill(0xff);
                }
            }
        }
    }

    fn change_arp(&self, b: &mut [u8], at: usize) {
        let is_ipv4 = b.get(at..at + 6) == Some(&[0, 1, 8, 0, 6, 4]);
        if !is_ipv4 || b.len() < at + 28 {
            return;
        }
        self.map(true, &mut b[at + 14..at + 18]);
        self.map(false, &mut b[at + 24..at + 28]);
        if let Some(mac) = self.src_mac {
            b[at + 8..at + 14].copy_from_slice(&mac.0);
        }
        let target = at + 18..at + 24;
        if let Some(mac) = self.dst_mac
            && b[target.clone()] != [0; 6]
            && !is_group(&b[target.clone()])
        {
            b[target].copy_from_slice(&mac.0);
        }
    }

    /// Maps an address of 4 or 16 bytes by the first rule that fits.
    fn map(&self, source: bool, address: &mut [u8]) -> bool {
        for m in &self.addresses {
            let wanted = if source { m.source } else { m.destination };
            let to = octets(m.to);
            let to = &to.0[..to.1];
            if !wanted || to.len() != address.len() {
                continue;
            }
            let fits = match m.from {
                Some(from) => same_prefix(&octets(from).0, address, m.bits),
                None => !is_multicast_ip(address),
            };
            if fits {
                copy_prefix(to, address, m.bits);
                return true;
            }
        }
        false
    }
}

fn is_multicast_ip(a: &[u8]) -> bool {
    if a.len() == 4 {
        a[0] >= 224
    } else {
        a[0] == 0xff
    }
}

/// Address bytes and how many of them count.
fn octets(a: IpAddr) -> ([u8; 16], usize) {
    match a {
        IpAddr::V4(a) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&a.octets());
            (out, 4)
        }
        IpAddr::V6(a) => (a.octets(), 16),
    }
}

/// Mask of the leading bits that fall into byte number `i`.
fn mask(bits: u8, i: usize) -> u8 {
    let left = usize::from(bits).saturating_sub(i * 8).min(8);
    !(0xffu16 >> left) as u8
}

fn same_prefix(a: &[u8], b: &[u8], bits: u8) -> bool {
    a.iter()
        .zip(b)
        .enumerate()
        .all(|(i, (a, b))| (a ^ b) & mask(bits, i) == 0)
}

fn copy_prefix(from: &[u8], to: &mut [u8], bits: u8) {
    for (i, (f, t)) in from.iter().zip(to).enumerate() {
        let m = mask(bits, i);
        *t = f & m | *t & !m;
    }
}

/// `OLD:NEW` with optional prefix lengths, or `NEW`; IPv6 in square brackets when there are two.
fn parse_map(text: &str) -> Result<(Option<IpAddr>, IpAddr, u8), &'static str> {
    const FORM: &str = "expected NEW, OLD:NEW or OLD/BITS:NEW/BITS, IPv6 as [OLD]/BITS:[NEW]/BITS";
    if let Ok(to) = text.parse::<IpAddr>() {
        return Ok((None, to, if to.is_ipv4() { 32 } else { 128 }));
    }
    let split = if text.starts_with('[') {
        let close = text.find(']').ok_or(FORM)?;
        close + text[close..].find(':').ok_or(FORM)?
    } else {
        text.find(':').ok_or(FORM)?
    };
    let (from, from_bits) = parse_prefix(&text[..split]).ok_or(FORM)?;
    let (to, to_bits) = parse_prefix(&text[split + 1..]).ok_or(FORM)?;
    if from.is_ipv4() != to.is_ipv4() || from_bits != to_bits {
        return Err("both sides need the same family and prefix length");
    }
    Ok((Some(from), to, from_bits))
}

fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((a, b)) => (a, Some(b.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()?;
    let full = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(full);
    (bits <= full).then_some((address, bits))
}

/// Offset of a checksum that covers the addresses, when it was captured and is in use.
fn transport_checksum(b: &[u8], ip: &Ip) -> Option<usize> {
    let at = ip.transport?
        + match ip.protocol {
            6 => 16,
            17 | 33 | 136 => 6,
            58 if ip.version == 6 => 2,
            _ => return None,
        };
    let sum = b.get(at..at + 2)?;
    (ip.protocol != 17 || sum != [0, 0]).then_some(at)
}

/// Updates the checksum at `at` for bytes that changed from `old` to `new`: equation 3 of RFC 1624.
fn adjust(b: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let words = |b: &[u8]| {
        let mut pairs = [0u32; 8];
        for (to, w) in pairs.iter_mut().zip(b.chunks_exact(2)) {
            *to = u32::from(u16::from_be_bytes([w[0], w[1]]));
        }
        pairs
    };
    let mut sum = u32::from(!u16::from_be_bytes([b[at], b[at + 1]]));
    for (o, n) in words(old).into_iter().zip(words(new)) {
        sum += (!o & 0xffff) + n;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    b[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, VlanId};
    use proptest::prelude::*;

    /// Recomputes every checksum of the packet from scratch and compares.
    fn checksums_are_valid(frame: &[u8]) -> bool {
        let p = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let mut transport = p.transport.clone().unwrap();
        match p.net.unwrap() {
            NetHeaders::Ipv4(h, _) => {
                transport
                    .update_checksum_ipv4(&h, p.payload.slice())
                    .unwrap();
                assert_eq!(h.header_checksum, h.calc_header_checksum());
            }
            NetHeaders::Ipv6(h, _) => transport
                .update_checksum_ipv6(&h, p.payload.slice())
                .unwrap(),
            NetHeaders::Arp(_) => unreachable!(),
        }
        Some(transport) == p.transport
    }

    fn build(
        v6: bool,
        kind: u8,
        tag: Option<u16>,
        src: [u8; 16],
        dst: [u8; 16],
        body: &[u8],
    ) -> Vec<u8> {
        let b = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut out = Vec::new();
        macro_rules! finish {
            ($ip:expr) => {
                match kind {
                    0 => $ip.tcp(1, 2, 3, 4).write(&mut out, body),
                    1 => $ip.udp(5, 6).write(&mut out, body),
                    2 if v6 => $ip.icmpv6_echo_request(1, 2).write(&mut out, body),
                    _ => $ip.icmpv4_echo_request(1, 2).write(&mut out, body),
                }
                .unwrap()
            };
        }
        let v4 = |a: [u8; 16]| [a[0], a[1], a[2], a[3]];
        match (tag, v6) {
            (None, true) => finish!(b.ipv6(src, dst, 9)),
            (None, false) => finish!(b.ipv4(v4(src), v4(dst), 9)),
            (Some(t), v6) => {
                let b = b.single_vlan(VlanId::try_new(t).unwrap());
                if v6 {
                    finish!(b.ipv6(src, dst, 9))
                } else {
                    finish!(b.ipv4(v4(src), v4(dst), 9))
                }
            }
        }
        out
    }

    fn text(v6: bool, a: [u8; 16]) -> String {
        if v6 {
            format!("[{}]", std::net::Ipv6Addr::from(a))
        } else {
            std::net::Ipv4Addr::new(a[0], a[1], a[2], a[3]).to_string()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]
        #[test]
        fn valid_checksums_stay_valid(
            v6: bool, kind in 0u8..3, tag in proptest::option::of(1u16..4095),
            src: [u8; 16], dst: [u8; 16], to: [u8; 16], bits in 0u8..=128, vlan in 0u16..4095,
            body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let bits = if v6 { bits } else { bits % 33 };
            let mut frame = build(v6, kind, tag, src, dst, &body);
            prop_assert!(checksums_are_valid(&frame));
            let mut rules = vec![
                format!("src-ip={}/{bits}:{}/{bits}", text(v6, src), text(v6, to)),
                format!("dst-ip={}/{bits}:{}/{bits}", text(v6, dst), text(v6, to)),
                "src-mac=02:00:00:00:00:07,dst-mac=02:00:00:00:00:08".to_owned(),
            ];
            rules.push(if vlan == 0 { "vlan=strip".into() } else { format!("vlan={vlan}") });
            Rewrite::parse(&rules).unwrap().apply(Dir::Out, &mut frame);
            prop_assert!(checksums_are_valid(&frame));
            let l = headers::layers(&frame).unwrap();
            let ip = l.ip.unwrap();
            let n = ip.address_len();
            prop_assert!(same_prefix(&to[..n], &frame[ip.source..][..n], bits));
            prop_assert!(same_prefix(&to[..n], &frame[ip.destination..][..n], bits));
            prop_assert_eq!(l.tags, usize::from(vlan > 0));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..128), head in 0usize..4) {
            let types: [[u8; 2]; 4] = [[0x08, 0], [0x86, 0xdd], [0x81, 0], [0x08, 6]];
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&types[head]);
            }
            let rules = Rewrite::parse(&["ip=1.2.3.4,ip=fd00::1,src-mac=02:00:00:00:00:07,dst-mac=02:00:00:00:00:08,vlan=3"]).unwrap();
            rules.apply(Dir::In, &mut bytes);
        }
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let mut frame = build(false, 1, None, [9; 16], [8; 16], b"abc");
        let at = ETHERNET_LEN + 20 + 6;
        frame[at..at + 2].fill(0);
        Rewrite::parse(&["ip=1.2.3.4"])
            .unwrap()
            .apply(Dir::Out, &mut frame);
        assert_eq!(frame[at..at + 2], [0, 0]);
    }

    #[test]
    fn later_fragments_change_in_the_ip_header_only() {
        let mut frame = build(false, 1, None, [9; 16], [8; 16], b"abcdefgh");
        frame[ETHERNET_LEN + 7] = 1;
        let before = frame.clone();
        Rewrite::parse(&["ip=1.2.3.4"])
            .unwrap()
            .apply(Dir::Out, &mut frame);
        assert_eq!(frame[ETHERNET_LEN + 20..], before[ETHERNET_LEN + 20..]);
        assert_ne!(frame, before);
    }

    #[test]
    fn cut_frames_keep_their_checksum_relation() {
        let mut frame = build(false, 0, None, [9; 16], [8; 16], &[7; 40]);
        let whole = {
            let mut f = frame.clone();
            Rewrite::parse(&["ip=1.2.3.4"])
                .unwrap()
                .apply(Dir::Out, &mut f);
            f
        };
        frame.truncate(60);
        Rewrite::parse(&["ip=1.2.3.4"])
            .unwrap()
            .apply(Dir::Out, &mut frame);
        assert_eq!(frame, whole[..60]);
    }

    #[test]
    fn group_addresses_are_kept_and_directions_differ() {
        let rules = Rewrite::parse(&["out.dst-mac=02:00:00:00:00:09"]).unwrap();
        let mut frame = build(false, 1, None, [9; 16], [8; 16], b"");
        rules.apply(Dir::In, &mut frame);
        assert_eq!(frame[5], 2);
        rules.apply(Dir::Out, &mut frame);
        assert_eq!(frame[5], 9);
        frame[0] = 1;
        frame[5] = 1;
        rules.apply(Dir::Out, &mut frame);
        assert_eq!(frame[5], 1);
    }

    #[test]
    fn arp_agrees_with_the_packets() {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        let rules =
            Rewrite::parse(&["ip=10.0.0.0/24:192.168.9.0/24,src-mac=02:00:00:00:00:07"]).unwrap();
        rules.apply(Dir::Out, &mut frame);
        assert_eq!(frame[22..28], [2, 0, 0, 0, 0, 7]);
        assert_eq!(frame[28..32], [192, 168, 9, 5]);
        assert_eq!(frame[38..42], [192, 168, 9, 1]);
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for bad in [
            "",
            "mac=1",
            "src-mac=zz",
            "vlan=0",
            "vlan=5000",
            "ip=10.0.0.1:fd00::1",
            "ip=10.0.0.0/24:10.0.0.0/8",
            "ip=10.0.0.0/33:10.0.0.0/33",
            "ip=[fd00::",
            "src-ip=",
        ] {
            assert!(Rewrite::parse(&[bad]).is_err(), "{bad}");
        }
    }
}
