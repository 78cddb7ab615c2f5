use super::*;
use crate::cell::{address, float, integer};
use std::io::Write;

fn file(text: &[u8]) -> (tempfile::TempDir, TextFile) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, text).unwrap();
    let found = look(&path).unwrap();
    (dir, found)
}

fn has(file: &TextFile, name: &str) -> bool {
    file.names.iter().any(|n| n == name)
}

/// All rows of all pieces: fields by column, `null` where there is none.
fn rows(columns: &[&str], pieces: Vec<Piece>) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for piece in pieces {
        let rows = Rows::new(&piece, columns.iter().copied()).unwrap();
        rows.each(|row: &[Cell<'_>; 8]| {
            let text = |cell: &Cell<'_>| {
                let text = cell.text().map(String::from_utf8_lossy);
                text.map_or("null".to_owned(), |t| t.into_owned())
            };
            out.push(row[..columns.len()].iter().map(text).collect());
        })
        .unwrap();
    }
    out
}

const TSTAT: &[u8] = b"#15#s_ip:1 c_bytes_all:2 durat:3 c_ip:4 unknown:5 c_tls_SNI:6\n\
2001:db8:0::5 7 1.5 10.0.0.1 x a\"b\n\
198.18.0.1 x - 10.0.0.2 x\n\
\n\
198.18.0.2 9999999999 2 10.0.0.3 x -";

#[test]
fn finds_columns_by_name_and_fills_what_is_missing() {
    let (_dir, file) = file(TSTAT);
    assert_eq!(file.format, Format::Tstat);
    assert!(has(&file, "durat") && !has(&file, "unknown") && !has(&file, "s_isint"));
    let got = rows(
        &["c_ip", "s_ip", "c_tls_SNI", "c_bytes_all", "durat"],
        file.pieces(4).unwrap(),
    );
    assert_eq!(
        got,
        [
            ["10.0.0.1", "2001:db8:0::5", "a\"b", "7", "1.5"],
            ["10.0.0.2", "198.18.0.1", "null", "x", "-"],
            ["10.0.0.3", "198.18.0.2", "-", "9999999999", "2"],
        ]
    );
}

#[test]
fn pieces_share_the_lines_exactly() {
    let mut text = b"#c_ip:1 s_ip:2 c_bytes_all:3\n".to_vec();
    for i in 0..997 {
        text.extend_from_slice(format!("10.0.0.{} 198.18.0.1 {i}\n", i % 7).as_bytes());
    }
    let (_dir, file) = file(&text);
    let bytes = file.bytes;
    for cuts in [1u64, 2, 3, 29, 30, 500, 4000] {
        let pieces = (0..cuts)
            .map(|i| Piece {
                file: file.clone(),
                from: bytes * i / cuts,
                to: bytes * (i + 1) / cuts,
            })
            .collect();
        let got: Vec<u64> = rows(&["c_bytes_all"], pieces)
            .iter()
            .map(|r| r[0].parse().unwrap())
            .collect();
        assert_eq!(got, (0..997).collect::<Vec<u64>>(), "{cuts}");
    }
}

#[test]
fn reads_both_headers_of_nfdump_and_stops_at_its_summary() {
    let old = b"ts,te,td,sa,da,ibyt,obyt,dir\nx,x,1.5,10.0.0.1,198.18.0.1,5,6,1\n\
Summary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n5000,102484975,903615,228700,252,113\n";
    let new = b"firstSeen,duration,proto,srcAddr,dstAddr,bytes,direction\nx,1.5,6,10.0.0.1,198.18.0.1,5,E\n";
    for text in [&old[..], &new[..]] {
        let (_dir, file) = file(text);
        assert_eq!(file.format, Format::Nfdump);
        let got = rows(&["sa", "da", "dir", "ibyt", "td"], file.pieces(1).unwrap());
        assert_eq!(integer(got[0][2].as_bytes()), Some(1));
        assert_eq!(got[0][..2], ["10.0.0.1", "198.18.0.1"]);
        assert_eq!(
            (got.len(), &got[0][3..]),
            (1, &["5".to_owned(), "1.5".to_owned()][..])
        );
    }
}

#[test]
fn reads_gzip_with_the_summary_inside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nfdump.csv.gz");
    let mut gz = flate2::write::GzEncoder::new(
        std::fs::File::create(&path).unwrap(),
        flate2::Compression::fast(),
    );
    gz.write_all(b"ts,sa,da,ibyt,obyt,dir\n").unwrap();
    for i in 0..20_000 {
        writeln!(gz, "x,10.0.0.1,198.18.0.1,{i},6,1").unwrap();
    }
    gz.write_all(b"Summary\nflows,bytes\n1,2\n").unwrap();
    gz.finish().unwrap();
    let file = look(&path).unwrap();
    let got = rows(&["ibyt"], file.pieces(8).unwrap());
    assert_eq!((got.len(), got[19_999][0].as_str()), (20_000, "19999"));
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for (text, says) in [
        ("2023-11-14 22:52:20,2023,49.478,198.18.12.38", "-q"),
        ("hello\n", "no flow log"),
        ("", "no flow log"),
        ("#flows\n", "c_ip"),
    ] {
        std::fs::write(&path, text).unwrap();
        let Err(error) = look(&path) else {
            panic!("{text}")
        };
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_line_too_long_is_left_out() {
    let mut text = b"#c_ip:1 s_ip:2 c_bytes_all:3\n10.0.0.1 b 1\n".to_vec();
    text.extend(std::iter::repeat_n(b'x', 3 * LONGEST));
    text.extend_from_slice(b"\n10.0.0.1 b 2\n");
    let (_dir, file) = file(&text);
    let got = rows(&["c_bytes_all"], file.pieces(1).unwrap());
    assert_eq!(got, [["1"], ["2"]]);
}

#[test]
fn addresses_have_one_form() {
    assert_eq!(address(b"2001:db8:0::5").as_deref(), Some("2001:db8::5"));
    assert_eq!(address(b"10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(address(b"x:y").as_deref(), Some("x:y"));
    assert_eq!(address(b""), None);
}

#[test]
fn numbers_are_read_or_null() {
    assert_eq!(integer(b"007"), Some(7));
    assert_eq!(integer(b"-3"), Some(-3));
    assert_eq!(integer(b"1.0"), Some(1));
    assert_eq!(integer(b"99999999999999999999"), None);
    assert_eq!(integer(b""), None);
    assert_eq!(float(b"nan"), None);
    assert_eq!(float(b"1e3"), Some(1000.0));
}
