//! Numbers and addresses as text, without the formatting machinery: most of a row is made of them.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use chaff_abi::Mac;

/// Digits of all numbers below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};
/// Hexadecimal digits of all bytes.
const HEX: [[u8; 2]; 256] = {
    let digits = *b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut i = 0;
    while i < 256 {
        pairs[i] = [digits[i >> 4], digits[i & 15]];
        i += 1;
    }
    pairs
};

/// Adds decimal digits.
#[inline(always)]
pub fn push_unsigned(out: &mut Vec<u8>, n: u64) {
    // Most counters of short flows have one digit.
    if n < 10 {
        out.push(b'0' + n as u8);
    } else {
        push_digits(out, n);
    }
}

#[inline(never)]
fn push_digits(out: &mut Vec<u8>, mut n: u64) {
    // The digits end at 20; a copy of fixed length takes some of the rest along, which is cheaper than one of just them.
    let mut digits = [0u8; 40];
    let mut at = 20;
    // Four at a time while there are many: times since 1970 have 19.
    while n >= 10_000 {
        let four = (n % 10_000) as usize;
        n /= 10_000;
        at -= 4;
        digits[at..at + 2].copy_from_slice(&PAIRS[four / 100]);
        digits[at + 2..at + 4].copy_from_slice(&PAIRS[four % 100]);
    }
    let mut n = n as usize;
    if n >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[n % 100]);
        n /= 100;
    }
    if n >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[n]);
    } else {
        at -= 1;
        digits[at] = b'0' + n as u8;
    }
    let end = out.len() + 20 - at;
    if let Some(text) = digits[at..].first_chunk::<20>() {
        out.extend_from_slice(text);
    }
    out.truncate(end);
}

/// Adds decimal digits after a `-` where one is due.
#[inline]
pub fn push_signed(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    push_unsigned(out, n.unsigned_abs());
}

/// Adds a finite number: the fewest digits that read back as the same number, of two such texts the nearer one, never with
/// an exponent, and without a fraction when it is whole. [`std::fmt::Display`] does the same but for ties.
pub fn push_float(out: &mut Vec<u8>, x: f64) {
    // Whole numbers need no search for digits, and neither does 0; only -0 is told apart.
    let whole = x as i64;
    if whole as f64 == x && whole.unsigned_abs() < 1 << 53 && (whole != 0 || x.is_sign_positive()) {
        push_signed(out, whole);
        return;
    }
    // Between these the two agree.
    if (1e-4..1e15).contains(&x.abs()) {
        out.extend_from_slice(zmij::Buffer::new().format_finite(x).as_bytes());
    } else {
        out.extend_from_slice(x.to_string().as_bytes());
    }
}

/// Adds a float as Python's `repr`: the shortest digits that read back as the same number, an exponent of at least two
/// digits below 0.0001 and from 1e16 on, and always a `.0` or an exponent.
pub fn push_python_float(out: &mut Vec<u8>, x: f64) {
    // Most values are whole numbers, which need no search for digits.
    let whole = x as i64;
    if whole as f64 == x && whole.unsigned_abs() < 1 << 53 && (whole != 0 || x.is_sign_positive()) {
        push_signed(out, whole);
        out.extend_from_slice(b".0");
        return;
    }
    let size = x.abs();
    if !x.is_finite() {
        let name: &[u8] = match (x.is_nan(), x < 0.0) {
            (true, _) => b"nan",
            (_, true) => b"-inf",
            _ => b"inf",
        };
        out.extend_from_slice(name);
    } else if size == 0.0 {
        out.extend_from_slice(b"-0.0");
    } else if (1e-4..1e16).contains(&size) {
        // Of two shortest texts the nearer one, as Python has it; the standard library has the other.
        out.extend_from_slice(zmij::Buffer::new().format_finite(x).as_bytes());
    } else {
        push_exponential(out, x);
    }
}

/// `1.5e-07`.
fn push_exponential(out: &mut Vec<u8>, x: f64) {
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    // Writing into a Vec does not fail.
    let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
}

/// Adds an address as glibc's `inet_ntop` writes it: RFC 5952, and an IPv6 address of six zero groups ends in dotted
/// decimals (`::10.0.0.1`).
pub fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => push_ipv4(out, ip),
        IpAddr::V6(ip) => {
            let groups = ip.segments();
            if groups[..5] == [0; 5] {
                if groups[5] == 0 && groups[6] != 0 {
                    let [.., a, b, c, d] = ip.octets();
                    out.extend_from_slice(b"::");
                    push_ipv4(out, Ipv4Addr::new(a, b, c, d));
                } else {
                    // Among them those that hold one of IPv4.
                    out.extend_from_slice(ip.to_string().as_bytes());
                }
                return;
            }
            let (start, end) = longest_zeros(&groups);
            for (i, group) in groups.into_iter().enumerate() {
                if (start..end).contains(&i) {
                    if i == start {
                        out.extend_from_slice(b"::");
                    }
                    continue;
                }
                if i > 0 && i != end {
                    out.push(b':');
                }
                push_group(out, group);
            }
        }
    }
}

fn push_ipv4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    for (i, byte) in ip.octets().into_iter().enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        push_unsigned(out, byte.into());
    }
}

/// The first of the longest runs of at least two zero groups; empty at the end when there is none.
fn longest_zeros(groups: &[u16; 8]) -> (usize, usize) {
    let (mut best, mut start) = ((8, 8), 0);
    for (i, group) in groups.iter().enumerate() {
        if *group != 0 {
            start = i + 1;
        } else if i + 1 - start > (best.1 - best.0).max(1) {
            best = (start, i + 1);
        }
    }
    best
}

fn push_group(out: &mut Vec<u8>, group: u16) {
    let mut shift = 12;
    while shift > 0 && group >> shift == 0 {
        shift -= 4;
    }
    loop {
        out.push(HEX[usize::from(group >> shift & 15)][1]);
        if shift == 0 {
            return;
        }
        shift -= 4;
    }
}

/// Adds a MAC address, lower-case with colons.
pub fn push_mac(out: &mut Vec<u8>, mac: Mac) {
    let mut text = [b':'; 17];
    for (place, byte) in text.chunks_mut(3).zip(mac.0) {
        place[..2].copy_from_slice(&HEX[usize::from(byte)]);
    }
    out.extend_from_slice(&text);
}

/// Adds two lower-case hexadecimal digits a byte.
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&HEX[usize::from(*byte)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).expect("text")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn writes_what_the_library_writes(
            n: u64,
            shift in 0..64u32,
            x in any::<f64>().prop_filter("finite", |x| x.is_finite()),
            ratio in (1..10_000_000u32, 1..1000u32),
            ip: u128,
            mask: u8,
            mac: [u8; 6],
        ) {
            let n = n >> shift;
            prop_assert_eq!(text(|out| push_unsigned(out, n)), n.to_string());
            prop_assert_eq!(text(|out| push_signed(out, -(n as i64 >> 1))), (-(n as i64 >> 1)).to_string());
            let quotient = f64::from(ratio.0) / f64::from(ratio.1) * 10f64.powi(shift as i32 / 3 - 10);
            for x in [x, quotient, -quotient] {
                let (own, library) = (text(|out| push_float(out, x)), x.to_string());
                prop_assert_eq!(own.parse::<f64>(), Ok(x));
                prop_assert_eq!(own.len(), library.len());
            }
            // Groups of zeros anywhere.
            let mut octets = ip.to_be_bytes();
            for i in (0..8).filter(|i| mask & 1 << i != 0) {
                octets[2 * i..2 * i + 2].copy_from_slice(&[0, 0]);
            }
            let six = IpAddr::from(octets);
            let is_dotted = octets[..12] == [0; 12] && octets[12..14] != [0; 2];
            let dotted = format!("::{}.{}.{}.{}", octets[12], octets[13], octets[14], octets[15]);
            let expected = if is_dotted { dotted } else { six.to_string() };
            prop_assert_eq!(text(|out| push_ip(out, six)), expected);
            let four = IpAddr::from([octets[0], octets[1], octets[2], octets[3]]);
            prop_assert_eq!(text(|out| push_ip(out, four)), four.to_string());
            prop_assert_eq!(text(|out| push_mac(out, Mac(mac))), Mac(mac).to_string());
            let hex: String = mac.iter().map(|b| format!("{b:02x}")).collect();
            prop_assert_eq!(text(|out| push_hex(out, &mac)), hex);
        }
    }

    #[test]
    fn writes_the_edges() {
        for x in [
            0.0,
            -0.0,
            1.0,
            0.1,
            1e-5,
            1e15,
            1e16,
            123_456_789.5,
            f64::MAX,
            f64::MIN_POSITIVE,
        ] {
            assert_eq!(text(|out| push_float(out, x)), x.to_string());
        }
        for n in [0, 9, 10, 99, 100, 999, 1000, u64::MAX] {
            assert_eq!(text(|out| push_unsigned(out, n)), n.to_string());
        }
        for ip in [
            "::",
            "::1",
            "1::",
            "2001:db8::1:0:0:1",
            "::ffff:1.2.3.4",
            "1:2:3:4:5:6:7:8",
            "1:0:3:4:5:6:7:8",
            "64:ff9b::1",
            "1:0:0:4:0:0:0:8",
            "fe80::",
        ] {
            let ip: IpAddr = ip.parse().expect("valid");
            assert_eq!(text(|out| push_ip(out, ip)), ip.to_string());
        }
    }

    #[test]
    fn floats_are_those_of_python() {
        // Each right side is what CPython 3.11 prints.
        for (x, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (-54.0, "-54.0"),
            (100.0, "100.0"),
            (123456789012345.0, "123456789012345.0"),
            (1234567890123456.0, "1234567890123456.0"),
            (9007199254740993.0, "9007199254740992.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (1e22, "1e+22"),
            (-1.5e300, "-1.5e+300"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (0.1, "0.1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00012345, "0.00012345"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (8.038873388460929e-14, "8.038873388460929e-14"),
            (5e-324, "5e-324"),
            (2.0 / 3.0, "0.6666666666666666"),
            (1000.0 / 3.0, "333.3333333333333"),
            (418.7936381035233, "418.7936381035233"),
            (439.82041789803264, "439.82041789803264"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(text(|out| push_python_float(out, x)), expected);
        }
    }

    #[test]
    fn addresses_are_those_of_inet_ntop() {
        for (ip, expected) in [
            ("192.168.1.9", "192.168.1.9"),
            ("::1", "::1"),
            ("::", "::"),
            ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("::0a00:0001", "::10.0.0.1"),
            ("fe80::1", "fe80::1"),
        ] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(text(|out| push_ip(out, ip)), expected);
        }
    }
}
