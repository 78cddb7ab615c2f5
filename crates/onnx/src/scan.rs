use crate::ModelError;

/// Largest file that is read, bytes.
pub const MAX_FILE: usize = 32 << 20;
/// Most bytes of a file that are neither weights nor metadata values. Decoded messages take up to about a hundred
/// times their encoded size (an empty node is two bytes), so this bounds the memory of a hostile file to about 100 MB.
const MAX_STRUCTURE: usize = 1 << 20;
/// Most bytes of metadata, keys and values.
const MAX_METADATA: usize = 8 << 20;

/// Which message the scanner is in.
#[derive(Clone, Copy)]
enum Level {
    Model,
    Graph,
    Tensor,
    Entry,
}

/// Walks the encoded model once, without decoding it, and checks that decoding stays within bounds.
///
/// # Errors
/// [`ModelError::TooLarge`], or [`ModelError::Malformed`] when the wire format is broken at one of the levels walked.
pub(crate) fn scan(bytes: &[u8]) -> Result<(), ModelError> {
    limit("the file", bytes.len(), MAX_FILE)?;
    let (mut weights, mut metadata) = (0, 0);
    walk(bytes, Level::Model, &mut weights, &mut metadata)?;
    limit("the metadata", metadata, MAX_METADATA)?;
    limit(
        "the graph's structure",
        bytes.len() - weights - metadata,
        MAX_STRUCTURE,
    )
}

fn limit(part: &'static str, found: usize, limit: usize) -> Result<(), ModelError> {
    if found > limit {
        Err(ModelError::TooLarge { part, found, limit })
    } else {
        Ok(())
    }
}

fn walk(
    mut at: &[u8],
    level: Level,
    weights: &mut usize,
    metadata: &mut usize,
) -> Result<(), ModelError> {
    while !at.is_empty() {
        let tag = varint(&mut at)?;
        let (field, wire) = (tag >> 3, tag & 7);
        let body = match wire {
            0 => {
                varint(&mut at)?;
                continue;
            }
            1 => take(&mut at, 8)?,
            2 => {
                let n = varint(&mut at)?;
                take(&mut at, usize::try_from(n).unwrap_or(usize::MAX))?
            }
            5 => take(&mut at, 4)?,
            _ => return Err(ModelError::Malformed(format!("wire type {wire}"))),
        };
        match (level, field, wire) {
            (Level::Model, 7, 2) => walk(body, Level::Graph, weights, metadata)?,
            (Level::Model, 14, 2) => walk(body, Level::Entry, weights, metadata)?,
            (Level::Graph, 5, 2) => walk(body, Level::Tensor, weights, metadata)?,
            // raw_data, and float_data packed: as large in memory as in the file.
            (Level::Tensor, 4 | 9, 2) => *weights += body.len(),
            (Level::Entry, 1 | 2, 2) => *metadata += body.len(),
            _ => {}
        }
    }
    Ok(())
}

fn varint(at: &mut &[u8]) -> Result<u64, ModelError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte, rest @ ..] = *at else {
            return Err(ModelError::Malformed("ends inside a number".to_owned()));
        };
        *at = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ModelError::Malformed(
        "a number of more than ten bytes".to_owned(),
    ))
}

fn take<'a>(at: &mut &'a [u8], n: usize) -> Result<&'a [u8], ModelError> {
    if n > at.len() {
        return Err(ModelError::Malformed(format!(
            "a field of {n} bytes where {} are left",
            at.len()
        )));
    }
    let (body, rest) = at.split_at(n);
    *at = rest;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_empty_nodes_is_refused_before_it_is_decoded() {
        let nodes = [0x0a, 0x00].repeat(1 << 20);
        let mut file = vec![0x3a, 0x80, 0x80, 0x80, 0x01];
        file.extend(nodes);
        assert!(matches!(
            scan(&file),
            Err(ModelError::TooLarge {
                part: "the graph's structure",
                ..
            })
        ));
    }

    #[test]
    fn a_field_longer_than_the_file_is_malformed() {
        assert!(matches!(
            scan(&[
                0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
            ]),
            Err(ModelError::Malformed(_))
        ));
        assert!(matches!(scan(&[0x3a]), Err(ModelError::Malformed(_))));
        assert!(matches!(scan(&[0x0b]), Err(ModelError::Malformed(_))));
    }
}
