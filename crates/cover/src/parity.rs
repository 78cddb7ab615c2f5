//! Perturbation tables as CSV: one row a slot, columns named `in_packets,in_bytes,out_packets,out_bytes`.
//!
//! The names are required, because iPET's programs and their description disagree about the order. Values may have
//! fractions, as a model's raw output has; they are rounded to the nearest whole number, halves to even.
//!
//! ```
//! use chaff_cover::parity::{read_rows, write_rows};
//! let rows = read_rows("in_packets,in_bytes,out_packets,out_bytes\n2,50,1.5,80.4\n".as_bytes())?;
//! assert_eq!((rows[0].packets, rows[0].bytes), ([2, 2], [80, 50])); // indexed by Dir: out, in
//! let mut text = Vec::new();
//! write_rows(&rows, &mut text)?;
//! assert_eq!(text, b"in_packets,in_bytes,out_packets,out_bytes\n2,50,2,80\n");
//! # Ok::<(), chaff_cover::CoverError>(())
//! ```
pub use crate::error::CsvFault;
use crate::{CoverError, Demand};
use chaff_abi::Dir;
use std::io::{BufRead, Write};

/// Column names in the order they are written.
pub const COLUMNS: [&str; 4] = ["in_packets", "in_bytes", "out_packets", "out_bytes"];

/// Most rows that [`read_rows`] accepts: 4 days of 100 ms slots, 64 MiB.
pub const MAX_ROWS: usize = 1 << 22;

/// Longest line that [`read_rows`] looks at, bytes.
const MAX_LINE: u64 = 4_096;

/// Reads a table.
///
/// # Errors
/// [`CoverError::Csv`] with the line's number; [`CoverError::Empty`] for a table without rows; [`CoverError::Io`].
pub fn read_rows(mut input: impl BufRead) -> Result<Vec<Demand>, CoverError> {
    let mut line = Vec::new();
    let mut number = 1;
    if !next_line(&mut input, &mut line)? {
        return Err(fault(number, CsvFault::Header));
    }
    let order = header(&line).ok_or_else(|| fault(number, CsvFault::Header))?;
    let mut rows = Vec::new();
    while next_line(&mut input, &mut line)? {
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if rows.len() == MAX_ROWS {
            return Err(fault(number, CsvFault::Rows { max: MAX_ROWS }));
        }
        rows.push(row(&line, &order).map_err(|what| fault(number, what))?);
    }
    if rows.is_empty() {
        return Err(CoverError::Empty);
    }
    Ok(rows)
}

/// Writes a table with its header.
///
/// # Errors
/// Whatever `out` says.
pub fn write_rows(rows: &[Demand], mut out: impl Write) -> Result<(), CoverError> {
    writeln!(out, "{}", COLUMNS.join(","))?;
    let (i, o) = (Dir::In.index(), Dir::Out.index());
    for r in rows {
        writeln!(
            out,
            "{},{},{},{}",
            r.packets[i], r.bytes[i], r.packets[o], r.bytes[o]
        )?;
    }
    out.flush()?;
    Ok(())
}

fn fault(line: u64, what: CsvFault) -> CoverError {
    CoverError::Csv { line, what }
}

/// Reads one line of at most [`MAX_LINE`] bytes; a longer one comes in pieces, which are then no valid rows.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, CoverError> {
    line.clear();
    let n = std::io::Read::take(input, MAX_LINE).read_until(b'\n', line)?;
    Ok(n > 0)
}

/// For each column of the file, which of [`COLUMNS`] it is.
fn header(line: &[u8]) -> Option<[usize; 4]> {
    let text = std::str::from_utf8(line).ok()?;
    let mut order = [usize::MAX; 4];
    let mut names = text.trim().trim_start_matches('\u{feff}').split(',');
    for i in 0..4 {
        let name = names.next()?.trim().trim_matches('"');
        let column = COLUMNS.iter().position(|c| *c == name)?;
        if order.contains(&column) {
            return None;
        }
        order[i] = column;
    }
    names.next().is_none().then_some(order)
}

fn row(line: &[u8], order: &[usize; 4]) -> Result<Demand, CsvFault> {
    let text = std::str::from_utf8(line).unwrap_or("");
    let found = text.trim().split(',').count();
    if found != 4 {
        return Err(CsvFault::Columns { found });
    }
    let mut values = [0u32; 4];
    for (cell, column) in text.trim().split(',').zip(order) {
        values[*column] = number(cell).ok_or(CsvFault::Value {
            column: COLUMNS[*column],
        })?;
    }
    let [in_packets, in_bytes, out_packets, out_bytes] = values;
    Ok(Demand {
        packets: [out_packets, in_packets],
        bytes: [out_bytes, in_bytes],
    })
}

fn number(cell: &str) -> Option<u32> {
    let value: f64 = cell.trim().parse().ok()?;
    let whole = value.round_ties_even();
    (0.0..=f64::from(u32::MAX))
        .contains(&whole)
        .then_some(whole as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn err(text: &str) -> String {
        read_rows(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn reads_what_it_writes_and_any_order_of_columns() {
        let rows = vec![
            Demand {
                packets: [1, 2],
                bytes: [3, u32::MAX],
            },
            Demand::NONE,
        ];
        let mut text = Vec::new();
        write_rows(&rows, &mut text).expect("a Vec takes everything");
        assert_eq!(read_rows(text.as_slice()).expect("valid"), rows);
        let turned =
            "out_bytes, in_packets,out_packets,in_bytes\r\n3,2,1,4294967295\r\n0,0,0,0\r\n\r\n";
        assert_eq!(read_rows(turned.as_bytes()).expect("valid"), rows);
    }

    #[test]
    fn refuses_what_is_no_table_and_says_where() {
        const HEAD: &str = "in_packets,in_bytes,out_packets,out_bytes\n";
        for text in [
            "",
            "1,2,3,4\n",
            "in_packets,in_packets,out_packets,out_bytes\n",
            "in_packets,in_bytes,out_packets,out_bytes,x\n",
            "in_packets,in_bytes,out_packets\n",
        ] {
            assert!(
                err(text).starts_with("line 1: the header must name in_packets"),
                "{text}"
            );
        }
        assert_eq!(err(HEAD), "a recording needs at least one row");
        for (row, want) in [
            ("1,2,3", "line 3: 3 values, the header has 4"),
            ("1,2,3,4,5", "line 3: 5 values, the header has 4"),
            (
                "1,2,-1,4",
                "line 3: column out_packets: not a number from 0 to 4294967295",
            ),
            (
                "1,4294967296,0,4",
                "line 3: column in_bytes: not a number from 0 to 4294967295",
            ),
            (
                "nan,2,0,4",
                "line 3: column in_packets: not a number from 0 to 4294967295",
            ),
            (
                "1,2,0,",
                "line 3: column out_bytes: not a number from 0 to 4294967295",
            ),
        ] {
            assert_eq!(err(&format!("{HEAD}0,0,0,0\n{row}\n")), want);
        }
    }
}
