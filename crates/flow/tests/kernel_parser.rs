//! The kernel's parser and this crate's must say the same of every whole frame. The kernel's is compiled here as it is.

#[path = "../../../gateway-ebpf/src/parse.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::all,
    reason = "written for another target and checked there"
)]
mod kernel;

use chaff_abi::{FlowKey, Mac, Sample};
use chaff_flow::{Ignored, Link, parse};
use proptest::prelude::*;

type Facts = (FlowKey, Sample, Mac, Mac);

fn in_kernel(frame: &[u8]) -> Result<Facts, Ignored> {
    let range = frame.as_ptr_range();
    let beside = kernel::Beside {
        len: frame.len() as u32,
        tagged: 0,
        tag: 0,
        segments: 0,
        segment_size: 0,
    };
    let mut p = kernel::Packet {
        key: kernel::Key {
            src: [0; 2],
            dst: [0; 2],
            rest: 0,
        },
        sample: Sample::default(),
        dst_mac: 0,
        src_mac: 0,
    };
    match kernel::parse(range.start as usize, range.end as usize, &beside, &mut p) {
        kernel::Kind::Packet => Ok((
            *p.key.as_flow_key(),
            p.sample,
            mac(p.src_mac),
            mac(p.dst_mac),
        )),
        kernel::Kind::NotIp => Err(Ignored::NotIp),
        _ => Err(Ignored::Malformed),
    }
}

/// The kernel keeps an address in a word, first byte lowest.
fn mac(word: u64) -> Mac {
    let [a, b, c, d, e, f, ..] = word.to_le_bytes();
    Mac([a, b, c, d, e, f])
}

fn here(frame: &[u8]) -> Result<Facts, Ignored> {
    match parse(Link::Ethernet, frame, frame.len()) {
        Ok(p) => Ok((p.key, p.sample, p.src_mac, p.dst_mac)),
        Err(e) => Err(e.reason()),
    }
}

/// A frame whose fields mostly make sense: lengths near the truth, protocols that are looked into, up to two tags.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::collection::vec(prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]), 0..3);
    let protocol = prop::sample::select(vec![0u8, 1, 6, 17, 43, 44, 51, 58, 59, 60, 135]);
    let fragment = prop_oneof![4 => Just(0u16), 1 => any::<u16>()];
    let lie = prop_oneof![6 => Just(0i32), 1 => -30..30i32];
    let extensions = prop::collection::vec(
        (
            prop::sample::select(vec![0u8, 6, 17, 43, 44, 51, 58, 60]),
            0..3u8,
            any::<[u8; 6]>(),
        ),
        0..8,
    );
    (
        (any::<[u8; 12]>(), tags, any::<bool>(), 5..16u8, protocol),
        (
            fragment,
            lie,
            extensions,
            prop::collection::vec(any::<u8>(), 0..80),
            0..9usize,
            4..8u8,
        ),
    )
        .prop_map(
            |(
                (macs, tags, v6, ihl, protocol),
                (fragment, lie, extensions, mut body, padding, offset),
            )| {
                let mut out = macs.to_vec();
                for (i, tag) in tags.iter().enumerate() {
                    out.extend(tag.to_be_bytes());
                    out.extend([0x20 + i as u8, 7 + i as u8]);
                }
                if let Some(b) = body.get_mut(12) {
                    *b = offset << 4;
                }
                if v6 {
                    let mut chain = Vec::new();
                    for (next, size, bytes) in &extensions {
                        chain.extend([*next, *size]);
                        chain.extend(bytes);
                        chain.resize(chain.len() + *size as usize * 8, 0);
                    }
                    let length = (chain.len() + body.len()) as i32 + lie;
                    // A length of 0 stands for the rest of the frame in captures and is wrong on the wire.
                    let length = length.max(1) as u16;
                    out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                    out.extend(length.to_be_bytes());
                    out.extend([protocol, 64]);
                    out.extend([1; 32]);
                    out.extend(chain);
                } else {
                    let header = ihl as usize * 4;
                    let length = ((header + body.len()) as i32 + lie).max(1) as u16;
                    out.extend([8, 0, 0x40 | ihl, 0]);
                    out.extend(length.to_be_bytes());
                    out.extend([0, 0]);
                    out.extend(fragment.to_be_bytes());
                    out.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                    out.resize(out.len() + header - 20, 1);
                }
                out.extend(body);
                out.resize(out.len() + padding, 0);
                out
            },
        )
}

/// Whether a frame holds what is read here and is not IP to the kernel: LLC, MPLS, PPPoE.
fn is_beyond_the_kernel(frame: &[u8]) -> bool {
    let mut at = 12;
    loop {
        let Some(kind) = frame.get(at..at + 2) else {
            return false;
        };
        match u16::from_be_bytes([kind[0], kind[1]]) {
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            0..=1500 | 0x8847 | 0x8848 | 0x8863 | 0x8864 | 0x8035 => return true,
            _ => return false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn both_parsers_agree_on_plausible_frames(frame in frame()) {
        prop_assert_eq!(here(&frame), in_kernel(&frame), "{:02x?}", frame);
    }

    #[test]
    fn both_parsers_agree_on_damaged_frames(
        frame in frame(),
        at in any::<prop::sample::Index>(),
        to: u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = frame;
        let i = at.index(frame.len());
        frame[i] = to;
        frame.truncate(cut.index(frame.len()) + 1);
        let zero_length = parse(Link::Ethernet, &frame, frame.len())
            .is_ok_and(|p| {
                let at = p.ip_offset + if p.key.version == 4 { 2 } else { 4 };
                frame[at..at + 2] == [0, 0]
            });
        let three_tags = frame.len() > 22 && frame[12] >= 0x81 && frame[16] >= 0x81 && frame[20] >= 0x81;
        if is_beyond_the_kernel(&frame) {
            prop_assert_eq!(in_kernel(&frame), Err(Ignored::NotIp), "{:02x?}", frame);
        } else if !zero_length && !three_tags {
            prop_assert_eq!(here(&frame), in_kernel(&frame), "{:02x?}", frame);
        }
    }
}
