//! Datagrams of a second implementation (`vectors.py`, which also writes `vectors.txt`) come out byte for byte.

use chaff_abi::{Dir, Nanos};
use chaff_wire::{Key, Kind, Opener, Sealer};

fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.trim_matches('-');
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn datagrams_are_those_of_the_second_implementation() {
    let mut checked = 0;
    for line in include_str!("vectors.txt").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [key, dir, stream, now, kind, body, len, want] = fields[..] else {
            panic!("eight fields: {line}");
        };
        let key = Key::parse(key).expect("key");
        let dir = if dir == "out" { Dir::Out } else { Dir::In };
        let now = Nanos(now.parse().expect("time"));
        let kind = Kind::from_byte(kind.parse().expect("kind")).expect("known kind");
        let (body, mut want) = (bytes(body), bytes(want));
        let mut buf = [0xaa; 400];
        let got = Sealer::new(&key, dir, stream.parse().expect("stream"), now)
            .seal(now, kind, &body, len.parse().expect("length"), &mut buf)
            .expect("seals");
        assert_eq!(got, want, "{line}");
        let opened = Opener::new(&key, dir)
            .open(now, &mut want)
            .map(|o| (o.kind, o.body.to_vec()));
        assert_eq!(opened, Ok((kind, body)));
        checked += 1;
    }
    assert_eq!(checked, 8);
}
