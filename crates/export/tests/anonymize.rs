//! Anonymised columns.

use chaff_abi::Mac;
use chaff_export::{Anonymizer, Key, KeyError, Mode};
use chaff_flow::{Column, Kind, Value};

fn columns() -> Vec<Column> {
    [
        ("src_ip", Kind::Text),
        ("src_mac", Kind::Text),
        ("src_port", Kind::Unsigned),
        ("server", Kind::Text),
    ]
    .map(|(name, kind)| Column {
        name: name.into(),
        kind,
        unit: "".into(),
        doc: "Meaning.".into(),
    })
    .to_vec()
}

fn row(ip: &str) -> Vec<Value> {
    vec![
        Value::Ip(ip.parse().expect("an address")),
        Value::Mac(Mac([2, 0x5e, 0x10, 1, 2, 3])),
        Value::Unsigned(443),
        Value::Text("example.org".into()),
    ]
}

fn key() -> Key {
    let bytes: Vec<u8> = (0..64).collect();
    Key::new(&bytes).expect("64 bytes")
}

#[test]
fn tokens_are_those_of_nfstream_under_the_same_key() {
    let (mut anonymizer, missing) = Anonymizer::new(
        &columns(),
        ["src_ip", "nothing", "src_ip"],
        Mode::Hash,
        &key(),
    );
    assert_eq!(missing, ["nothing"]);
    let mut row = row("192.168.1.9");
    let before = row.clone();
    anonymizer.apply(&mut row);
    // hashlib.blake2b(b"192.168.1.9", key=bytes(range(64)), digest_size=64).hexdigest()
    let token = "52019e16b0a32741b25e163e5785072f3be34f36aacf05319a3fab2ca7d30680\
                 e7dc29e04443772e5d3a915f6a3ccb60c6033c2328e9d840e7e7cec99455b433";
    assert_eq!(row[0], Value::Text(token.into()));
    assert_eq!(row[1..], before[1..]);
    row[0] = Value::Missing;
    anonymizer.apply(&mut row);
    assert_eq!(row[0], Value::Missing);
}

#[test]
fn addresses_keep_their_neighbours_and_other_values_become_tokens() {
    let names = ["src_ip", "src_mac", "src_port"];
    let (mut anonymizer, missing) = Anonymizer::new(&columns(), names, Mode::Prefix, &key());
    assert!(missing.is_empty());
    let mut rows = [
        row("192.168.1.9"),
        row("192.168.1.200"),
        row("2001:db8::1"),
        row("::ffff:192.168.1.9"),
    ];
    rows.iter_mut().for_each(|row| anonymizer.apply(row));
    let ip = |n: usize| match &rows[n][0] {
        Value::Ip(ip) => *ip,
        other => panic!("{other:?} is no address"),
    };
    let bits = |n| match ip(n) {
        std::net::IpAddr::V4(v4) => u32::from(v4),
        std::net::IpAddr::V6(v6) => panic!("{v6} became IPv6"),
    };
    assert_eq!((bits(0) ^ bits(1)).leading_zeros(), 24);
    assert!(ip(2).is_ipv6());
    assert_eq!(ip(3).to_string(), format!("::ffff:{}", ip(0)));
    assert!(
        matches!(rows[0][1], Value::Mac(Mac([2, 0x5e, 0x10, a, b, c])) if [a, b, c] != [1, 2, 3])
    );
    assert!(matches!(&rows[0][2], Value::Text(token) if token.len() == 128));
    // Profiles that write addresses as texts get the same addresses.
    let mut texts = vec![
        Value::Text("192.168.1.9".into()),
        Value::Text("02:5e:10:01:02:03".into()),
        Value::Missing,
        Value::Missing,
    ];
    anonymizer.apply(&mut texts);
    assert_eq!(texts[..2], rows[0][..2]);
    let kinds: Vec<_> = anonymizer
        .columns(&columns())
        .iter()
        .map(|c| c.kind)
        .collect();
    assert!(kinds.iter().all(|kind| *kind == Kind::Text));
}

#[test]
fn keys_are_bytes_or_digits_of_the_right_length() {
    let digits: String = (0..64).map(|n| format!("{n:02X}")).collect();
    let from_digits = Key::from_file_content(format!("{digits}\n").as_bytes()).expect("128 digits");
    let token = |key: &Key| {
        let (mut anonymizer, _) = Anonymizer::new(&columns(), ["src_ip"], Mode::Hash, key);
        let mut row = row("10.0.0.1");
        anonymizer.apply(&mut row);
        row.swap_remove(0)
    };
    assert_eq!(token(&from_digits), token(&key()));
    let raw: Vec<u8> = (0..64).collect();
    assert_eq!(
        token(&Key::from_file_content(&raw).expect("64 bytes")),
        token(&key())
    );
    for length in [0, 16, 31, 65, 200] {
        let error = Key::from_file_content(&vec![0xff; length])
            .err()
            .expect("a wrong length");
        assert_eq!(
            error.to_string(),
            format!("a key of {length} bytes; it needs 32 to 64")
        );
    }
    for zeros in [vec![0; 32], vec![b'0'; 128]] {
        assert_eq!(Key::from_file_content(&zeros).err(), Some(KeyError::Zeros));
    }
}
