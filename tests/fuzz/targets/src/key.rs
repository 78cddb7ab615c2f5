//! Small texts: keys of cover datagrams, MAC addresses, ε, a ledger's head.
//!
//! Input: which one (1 byte), then the text.
//!
//! - What is accepted is written in one canonical form, which is accepted again and means the same.
//! - A key's text is never repeated in an error.

use chaff_abi::{Dir, Mac, Nanos};
use chaff_privacy::{Epsilon, Head};
use chaff_wire::{Key, Kind, Opener, Sealer};

use crate::Seeds;
use crate::bytes::Bytes;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let which = input.u8() & 3;
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    match which {
        0 => key(text),
        1 => {
            if let Ok(mac) = text.parse::<Mac>() {
                assert_eq!(mac.to_string().parse(), Ok(mac));
                let canonical = text.to_ascii_lowercase().replace('-', ":");
                assert_eq!(mac.to_string(), canonical, "{text:?}");
            }
        }
        2 => {
            if let Ok(epsilon) = text.parse::<Epsilon>() {
                assert!(epsilon.nanos() > 0 && epsilon <= Epsilon::MAX);
                assert_eq!(epsilon.to_string().parse(), Ok(epsilon));
            }
        }
        _ => {
            if let Ok(head) = text.parse::<Head>() {
                assert_eq!(head.to_string().parse(), Ok(head));
            }
        }
    }
}

fn key(text: &str) {
    match Key::parse(text) {
        Ok(key) => {
            // Spaces round a key mean nothing: both open what the other seals.
            let again = Key::parse(text.trim_ascii()).unwrap();
            let now = Nanos::from_secs(1_700_000_000);
            let mut datagram = [0; 100];
            Sealer::new(&key, Dir::Out, 1, now)
                .seal(now, Kind::Cover, b"body", 100, &mut datagram)
                .unwrap();
            let mut opener = Opener::new(&again, Dir::Out);
            assert_eq!(opener.open(now, &mut datagram).unwrap().body, b"body");
        }
        Err(error) => {
            let said = format!("{error} {error:?}");
            assert!(text.len() < 12 || !said.contains(text), "{said}");
        }
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let hash = "0f".repeat(32);
    [
        (
            "key",
            0,
            "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n".to_owned(),
        ),
        ("key-short", 0, "MDEyMzQ1Njc4OWFiY2RlZg==".to_owned()),
        ("mac", 1, "02:00:5e:10:00:0a".to_owned()),
        ("mac-dashes", 1, "02-00-5E-10-00-0A".to_owned()),
        ("mac-signs", 1, "+2:00:5e:10:00:0a".to_owned()),
        ("epsilon", 2, "0.125000001".to_owned()),
        ("epsilon-exponent", 2, "1e-3".to_owned()),
        ("epsilon-large", 2, "100000".to_owned()),
        ("head", 3, format!("7 {hash}\n")),
    ]
    .into_iter()
    .map(|(name, which, text)| (name.to_owned(), [&[which], text.as_bytes()].concat()))
    .collect()
}
