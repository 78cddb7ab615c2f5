//! Numbers and addresses as text, without the formatting machinery: most of a row is made of them.

use std::net::IpAddr;

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
const HEX: [u8; 16] = *b"0123456789abcdef";

/// Adds a number.
#[inline(always)]
pub(crate) fn push_unsigned(out: &mut Vec<u8>, n: u64) {
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

/// Adds a number.
pub(crate) fn push_signed(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    push_unsigned(out, n.unsigned_abs());
}

/// Adds a finite number: the fewest digits that read back as the same number, of two such texts the nearer one, never with
/// an exponent, and without a fraction when it is whole. [`std::fmt::Display`] does the same but for ties.
pub(crate) fn push_float(out: &mut Vec<u8>, x: f64) {
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

/// Adds an address: IPv6 as RFC 5952 has it.
pub(crate) fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (i, byte) in ip.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                push_unsigned(out, byte.into());
            }
        }
        IpAddr::V6(ip) => {
            let groups = ip.segments();
            // Mixed notation for addresses that hold one of IPv4 is left to the library.
            if groups[..5] == [0; 5] {
                out.extend_from_slice(ip.to_string().as_bytes());
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
        out.push(HEX[usize::from(group >> shift & 15)]);
        if shift == 0 {
            return;
        }
        shift -= 4;
    }
}

/// Adds a MAC address, lower-case with colons.
pub(crate) fn push_mac(out: &mut Vec<u8>, mac: Mac) {
    let mut text = [b':'; 17];
    for (place, byte) in text.chunks_mut(3).zip(mac.0) {
        place[0] = HEX[usize::from(byte >> 4)];
        place[1] = HEX[usize::from(byte & 15)];
    }
    out.extend_from_slice(&text);
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
            prop_assert_eq!(text(|out| push_ip(out, six)), six.to_string());
            let four = IpAddr::from([octets[0], octets[1], octets[2], octets[3]]);
            prop_assert_eq!(text(|out| push_ip(out, four)), four.to_string());
            prop_assert_eq!(text(|out| push_mac(out, Mac(mac))), Mac(mac).to_string());
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
}
