//! The Arrow schema that Parquet files carry beside their own: it has room for what each column means.
//!
//! It is one message of Arrow's inter-process format (tables `Message`, `Schema`, `Field` of `Message.fbs` and
//! `Schema.fbs`), in base64. The numbers below are the places and codes of those files.

use chaff_flow::Column;
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, VOffsetT, WIPOffset};

use crate::parquet::{Cell, Tick};

/// A table whose type is told by the field that holds it.
type Table = WIPOffset<UnionWIPOffset>;

/// Place of the `n`th entry in the table of a FlatBuffers table.
const fn slot(n: VOffsetT) -> VOffsetT {
    4 + 2 * n
}

/// The text for the key `ARROW:schema`; `cells` are those of `columns`.
pub(crate) fn encode(columns: &[Column], cells: &[Cell]) -> String {
    let mut b = FlatBufferBuilder::new();
    let fields: Vec<Table> = columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| column_field(&mut b, column, *cell))
        .collect();
    let fields = b.create_vector(&fields);
    let schema = table(&mut b, |b| b.push_slot_always(slot(1), fields));
    let message = table(&mut b, |b| {
        b.push_slot_always(slot(2), schema);
        // Metadata version 5; a header of the kind Schema.
        b.push_slot_always(slot(0), 4i16);
        b.push_slot_always(slot(1), 1u8);
    });
    b.finish_minimal(message);
    let message = b.finished_data();
    let mut framed = vec![0xff; 4];
    // The message is padded to 8 bytes behind its 8 bytes of frame.
    let length = message.len().next_multiple_of(8);
    framed.extend_from_slice(&(length as u32).to_le_bytes());
    framed.extend_from_slice(message);
    framed.resize(8 + length, 0);
    base64(&framed)
}

fn table<'b>(
    b: &mut FlatBufferBuilder<'b>,
    fill: impl FnOnce(&mut FlatBufferBuilder<'b>),
) -> Table {
    let start = b.start_table();
    fill(b);
    WIPOffset::new(b.end_table(start).value())
}

fn column_field(b: &mut FlatBufferBuilder<'_>, column: &Column, cell: Cell) -> Table {
    let item = match cell {
        Cell::UnsignedList => Some(Cell::Unsigned),
        Cell::SignedList => Some(Cell::Signed),
        Cell::TextList => Some(Cell::Text),
        _ => None,
    };
    let children = match item {
        Some(item) => {
            let none = b.create_vector::<Table>(&[]);
            vec![field(b, "element", item, false, none, None)]
        }
        None => Vec::new(),
    };
    let children = b.create_vector(&children);
    let pairs: Vec<Table> = [("unit", &column.unit), ("doc", &column.doc)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(key, text)| {
            let (key, value) = (b.create_string(key), b.create_string(text));
            table(b, |b| {
                b.push_slot_always(slot(0), key);
                b.push_slot_always(slot(1), value);
            })
        })
        .collect();
    let metadata = b.create_vector(&pairs);
    field(b, &column.name, cell, true, children, Some(metadata))
}

type Vector<'b> = WIPOffset<flatbuffers::Vector<'b, flatbuffers::ForwardsUOffset<UnionWIPOffset>>>;

fn field<'b>(
    b: &mut FlatBufferBuilder<'b>,
    name: &str,
    cell: Cell,
    nullable: bool,
    children: Vector<'b>,
    metadata: Option<Vector<'b>>,
) -> Table {
    let name = b.create_string(name);
    let (code, kind) = kind(b, cell);
    table(b, |b| {
        b.push_slot_always(slot(0), name);
        b.push_slot_always(slot(3), kind);
        b.push_slot_always(slot(5), children);
        if let Some(metadata) = metadata {
            b.push_slot_always(slot(6), metadata);
        }
        b.push_slot_always(slot(1), nullable);
        b.push_slot_always(slot(2), code);
    })
}

/// Code and table of an Arrow type.
fn kind(b: &mut FlatBufferBuilder<'_>, cell: Cell) -> (u8, Table) {
    match cell {
        Cell::Unsigned | Cell::Signed => {
            let int = table(b, |b| {
                b.push_slot_always(slot(0), 64i32);
                b.push_slot_always(slot(1), cell == Cell::Signed);
            });
            (2, int)
        }
        // Precision: double.
        Cell::Float => (3, table(b, |b| b.push_slot_always(slot(0), 2i16))),
        Cell::Text => (5, table(b, |_| ())),
        Cell::Instant(tick) => {
            let zone = b.create_string("UTC");
            let unit: i16 = match tick {
                Tick::Milli => 1,
                Tick::Micro => 2,
                Tick::Nano => 3,
            };
            let timestamp = table(b, |b| {
                b.push_slot_always(slot(1), zone);
                b.push_slot_always(slot(0), unit);
            });
            (10, timestamp)
        }
        Cell::UnsignedList | Cell::SignedList | Cell::TextList => (12, table(b, |_| ())),
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|i| u32::from(chunk.get(i).copied().unwrap_or(0)));
        let group = a << 16 | b << 8 | c;
        for i in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
