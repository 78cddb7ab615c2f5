//! Frames that are too long for the tunnel, as their senders would send them if they were told its MTU.

use chaff_abi::Dir;
use chaff_trace::{Whole, resegment};

use crate::captures::{Home, HomeFrame};

/// Where the parts of an IP packet in a frame are.
struct Layout {
    /// Offset of the IP header.
    ip: usize,
    /// Length of the headers of network and transport layer.
    headers: usize,
    /// Length of the IP packet.
    len: usize,
    protocol: u8,
}

impl Layout {
    /// `None` for frames without a whole IP header; a tag of IEEE 802.1Q is passed over.
    fn of(frame: &[u8]) -> Option<Self> {
        let mut kind = 12;
        while let [0x81, 0] | [0x88, 0xa8] = frame.get(kind..kind + 2)? {
            kind += 4;
        }
        let ip = kind + 2;
        let word = |at: usize| {
            let bytes = frame.get(at..at + 2)?;
            Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
        };
        let (network, len, protocol, fragment) = match frame.get(kind..ip)? {
            [0x08, 0] => (
                usize::from(frame.get(ip)? & 15) * 4,
                word(ip + 2)?,
                *frame.get(ip + 9)?,
                word(ip + 6)? & 0x3fff != 0,
            ),
            [0x86, 0xdd] => (40, 40 + word(ip + 4)?, *frame.get(ip + 6)?, false),
            _ => return None,
        };
        let transport = match protocol {
            _ if fragment => 0,
            6 => usize::from(frame.get(ip + network + 12)? >> 4) * 4,
            17 => 8,
            _ => 0,
        };
        let headers = network + transport;
        (headers <= len).then_some(Self {
            ip,
            headers,
            len,
            protocol,
        })
    }

    /// What tells the flow: protocol, addresses, ports.
    fn flow(&self, frame: &[u8]) -> Vec<u8> {
        let v4 = frame[self.ip] >> 4 == 4;
        let (addresses, network) = if v4 { (12..20, 20) } else { (8..40, 40) };
        let mut out = vec![self.protocol];
        let all = frame.get(self.ip..).unwrap_or(&[]);
        out.extend(all.get(addresses).unwrap_or(&[]));
        if matches!(self.protocol, 6 | 17) {
            out.extend(all.get(network..network + 4).unwrap_or(&[]));
        }
        out
    }
}

/// Puts frames that fit in place of those whose IP packet is longer than `mtu`. Lengths and sequence numbers are corrected,
/// checksums are not: nobody here looks at them. Of payload, only what the frame in question had captured is kept.
pub(super) fn fit(home: &mut Home, mtu: u16) {
    let layouts: Vec<Option<Layout>> = home.frames.iter().map(|f| Layout::of(&f.bytes)).collect();
    let too_long = |l: &Layout| l.len > usize::from(mtu);
    if !layouts.iter().flatten().any(too_long) {
        return;
    }
    // Everything else is a flow of its own that fits.
    let whole = home
        .frames
        .iter()
        .zip(&layouts)
        .enumerate()
        .map(|(i, (f, layout))| {
            let (key, headers, payload) = match layout {
                Some(l) => (l.flow(&f.bytes), l.headers, l.len - l.headers),
                None => (i.to_be_bytes().to_vec(), 0, 0),
            };
            Whole {
                at: f.at,
                key: (f.dir == Dir::Out, f.device, key),
                headers: headers as u32,
                payload: payload as u32,
            }
        });
    let segments = resegment(whole, mtu.into());
    let mut frames = std::mem::take(&mut home.frames);
    let sent = segments.iter().map(|s| {
        let f = &mut frames[s.of];
        match &layouts[s.of] {
            Some(l) if s.offset != 0 || s.payload as usize != l.len - l.headers => {
                piece(f, l, s.payload as usize, s.offset)
            }
            // Sent whole, so nothing else has its bytes.
            _ => {
                let bytes = std::mem::take(&mut f.bytes);
                HomeFrame { bytes, ..f.clone() }
            }
        }
    });
    home.frames = sent.collect();
}

/// The frame with other data: `payload` bytes that begin `offset` after its own.
fn piece(frame: &HomeFrame, layout: &Layout, payload: usize, offset: i32) -> HomeFrame {
    let ip = layout.ip;
    let (head, len) = (ip + layout.headers, layout.headers + payload);
    let mut bytes = frame.bytes.to_vec();
    bytes.truncate(if offset == 0 { ip + len } else { head });
    let mut put = |at: usize, value: &[u8]| {
        if let Some(to) = bytes.get_mut(at..at + value.len()) {
            to.copy_from_slice(value);
        }
    };
    let word = |n: usize| (n as u16).to_be_bytes();
    let v4 = frame.bytes[ip] >> 4 == 4;
    let network = if v4 {
        put(ip + 2, &word(len));
        usize::from(frame.bytes[ip] & 15) * 4
    } else {
        put(ip + 4, &word(len - 40));
        40
    };
    match layout.protocol {
        6 => {
            let at = ip + network + 4;
            if let Some(own) = frame.bytes.get(at..at + 4) {
                let own = u32::from_be_bytes([own[0], own[1], own[2], own[3]]);
                put(at, &own.wrapping_add_signed(offset).to_be_bytes());
            }
        }
        17 => put(ip + network + 4, &word(8 + payload)),
        _ => {}
    }
    HomeFrame {
        bytes: bytes.into(),
        wire_len: ip + len,
        ..frame.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captures::Origin;
    use chaff_abi::Nanos;

    fn frame(ms: u64, seq: u32, payload: usize, captured: usize) -> HomeFrame {
        let mut bytes = vec![2u8; 12];
        // A tag, IPv4, TCP without options.
        bytes.extend([0x81, 0, 0, 5, 8, 0, 0x45, 0]);
        bytes.extend((40 + payload as u16).to_be_bytes());
        bytes.extend([
            0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1, 0, 80, 1, 187,
        ]);
        bytes.extend(seq.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        bytes.extend(vec![7; captured]);
        HomeFrame {
            at: Nanos::from_millis(ms),
            dir: Dir::Out,
            device: 1,
            wire_len: 18 + 40 + payload,
            bytes: bytes.into(),
            origin: Origin {
                file: 0,
                packet: ms,
            },
        }
    }

    fn fitted(frames: Vec<HomeFrame>) -> Vec<HomeFrame> {
        let mut home = Home {
            files: Vec::new(),
            devices: Vec::new(),
            frames,
            padded: 0,
        };
        fit(&mut home, 1_420);
        home.frames
    }

    fn told(f: &HomeFrame) -> (u64, u32, usize, usize) {
        let l = Layout::of(&f.bytes).expect("an IP packet");
        assert_eq!(f.wire_len, l.ip + l.len);
        let seq = &f.bytes[l.ip + 24..l.ip + 28];
        let seq = u32::from_be_bytes([seq[0], seq[1], seq[2], seq[3]]);
        (f.at.as_millis(), seq, l.len, f.bytes.len())
    }

    #[test]
    fn a_transfer_is_sent_in_full_packets_with_sequence_numbers() {
        let frames = vec![
            frame(1, 1_000, 1_460, 20),
            frame(2, 2_460, 1_460, 20),
            frame(3, 3_920, 10, 10),
        ];
        let out: Vec<_> = fitted(frames).iter().map(told).collect();
        assert_eq!(
            out,
            [
                (1, 1_000, 1_420, 78),
                (2, 2_380, 1_420, 58),
                (3, 3_760, 210, 58)
            ]
        );
    }

    #[test]
    fn frames_that_fit_stay_as_they_are() {
        let odd = HomeFrame {
            bytes: vec![1; 13].into(),
            ..frame(2, 0, 0, 0)
        };
        let frames = vec![frame(1, 5, 1_380, 30), odd, frame(3, 9, 1_460, 0)];
        let out = fitted(frames.clone());
        assert_eq!(out.len(), 4);
        for i in [0, 1] {
            assert_eq!(out[i].bytes, frames[i].bytes);
            assert_eq!(out[i].wire_len, frames[i].wire_len);
        }
        assert_eq!(told(&out[3]), (3, 9 + 1_380, 120, 58));
    }
}
