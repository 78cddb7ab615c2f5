//! Walks what Parquet files say of themselves, Thrift's compact protocol, and tells numbers and lengths of lists before anything
//! is made of them. ([specification](https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md))

/// Structs in structs; Parquet needs six.
const MOST_DEPTH: usize = 24;

/// What is met on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// A whole number.
    Number(i64),
    /// A list of so many, and the bytes that are left for it.
    List { count: u64, left: usize },
}

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop<E> {
    /// More bytes are needed.
    Cut,
    /// It cannot be Thrift.
    Broken,
    /// The visitor has seen enough.
    Refused(E),
}

/// A struct, byte by byte.
struct Walk<'a, V> {
    left: &'a [u8],
    /// Ids of the fields around, outermost first.
    path: Vec<i16>,
    visit: V,
}

/// Walks a struct and gives numbers and lists to `visit` with the ids of the fields that lead there (items of a list have the
/// ids of the list). Gives the length of the struct.
///
/// # Errors
/// [`Stop`].
pub(crate) fn walk<E>(
    bytes: &[u8],
    visit: impl FnMut(&[i16], Met) -> Result<(), E>,
) -> Result<usize, Stop<E>> {
    let mut walk = Walk {
        left: bytes,
        path: Vec::new(),
        visit,
    };
    walk.fields()?;
    Ok(bytes.len() - walk.left.len())
}

impl<E, V: FnMut(&[i16], Met) -> Result<(), E>> Walk<'_, V> {
    fn byte(&mut self) -> Result<u8, Stop<E>> {
        let (first, rest) = self.left.split_first().ok_or(Stop::Cut)?;
        self.left = rest;
        Ok(*first)
    }

    fn skip(&mut self, count: u64) -> Result<(), Stop<E>> {
        let count = usize::try_from(count).map_err(|_| Stop::Cut)?;
        self.left = self.left.get(count..).ok_or(Stop::Cut)?;
        Ok(())
    }

    fn unsigned(&mut self) -> Result<u64, Stop<E>> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Broken)
    }

    /// A signed number, folded.
    fn signed(&mut self) -> Result<i64, Stop<E>> {
        let folded = self.unsigned()?;
        Ok((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
    }

    fn met(&mut self, what: Met) -> Result<(), Stop<E>> {
        (self.visit)(&self.path, what).map_err(Stop::Refused)
    }

    fn fields(&mut self) -> Result<(), Stop<E>> {
        if self.path.len() >= MOST_DEPTH {
            return Err(Stop::Broken);
        }
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            id = match head >> 4 {
                0 => i16::try_from(self.signed()?).map_err(|_| Stop::Broken)?,
                step => id.checked_add(step.into()).ok_or(Stop::Broken)?,
            };
            self.path.push(id);
            // Of a field that is a truth the kind is the value.
            if !matches!(head & 0x0f, 1 | 2) {
                self.value(head & 0x0f)?;
            }
            self.path.pop();
        }
    }

    fn value(&mut self, kind: u8) -> Result<(), Stop<E>> {
        match kind {
            1..=3 => self.skip(1),
            4..=6 => {
                let number = self.signed()?;
                self.met(Met::Number(number))
            }
            7 => self.skip(8),
            8 => {
                let length = self.unsigned()?;
                self.skip(length)
            }
            9 | 10 => self.list(),
            11 => self.map(),
            12 => self.fields(),
            _ => Err(Stop::Broken),
        }
    }

    fn list(&mut self) -> Result<(), Stop<E>> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.unsigned()?,
            short => short.into(),
        };
        let left = self.left.len();
        self.met(Met::List { count, left })?;
        for _ in 0..count {
            self.value(head & 0x0f)?;
        }
        Ok(())
    }

    fn map(&mut self) -> Result<(), Stop<E>> {
        let count = self.unsigned()?;
        let left = self.left.len();
        self.met(Met::List { count, left })?;
        let kinds = if count > 0 { self.byte()? } else { 0 };
        for _ in 0..count {
            self.value(kinds >> 4)?;
            self.value(kinds & 0x0f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length of a struct, and what was met by path.
    type Walked = (usize, Vec<(Vec<i16>, Met)>);

    fn met(bytes: &[u8]) -> Result<Walked, Stop<()>> {
        let mut all = Vec::new();
        let length = walk(bytes, |path, met| {
            all.push((path.to_vec(), met));
            Ok(())
        })?;
        Ok((length, all))
    }

    #[test]
    fn numbers_and_lists_are_met_by_their_path() {
        // 1: i32 = 2; 3: { 2: i64 = -3 }; 19: list of two i32; 20: true; 21: "ab"; 22: list of two truths.
        let bytes = [
            0x15, 4, 0x2c, 0x26, 5, 0, 0x09, 38, 0x25, 2, 1, 0x11, 0x18, 2, b'a', b'b', 0x19, 0x21,
            1, 2, 0, 99,
        ];
        let (length, all) = met(&bytes).expect("whole");
        assert_eq!(length, bytes.len() - 1);
        let number = Met::Number;
        assert_eq!(
            all,
            [
                (vec![1], number(2)),
                (vec![3, 2], number(-3)),
                (vec![19], Met::List { count: 2, left: 13 }),
                (vec![19], number(1)),
                (vec![19], number(-1)),
                (vec![22], Met::List { count: 2, left: 4 }),
            ]
        );
        for cut in 0..length {
            assert_eq!(met(&bytes[..cut]), Err(Stop::Cut), "{cut}");
        }
    }

    #[test]
    fn what_cannot_be_thrift_ends_the_walk() {
        let deep = [0x1c; 100];
        assert_eq!(met(&deep), Err(Stop::Broken));
        let long = [[0x15].as_slice(), &[0xff; 11]].concat();
        assert_eq!(met(&long), Err(Stop::Broken));
        assert_eq!(met(&[0x1d, 0]), Err(Stop::Broken));
        let refused = walk(&[0x15, 4, 0], |_, _| Err("no"));
        assert_eq!(refused, Err(Stop::Refused("no")));
    }
}
