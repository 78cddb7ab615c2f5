//! Pages of texts whose lengths are coded as differences: few bytes of such a page can stand for any number of lengths, for all
//! of which the Parquet library takes memory at once.

use ::parquet::basic::Encoding;
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};

use crate::words::levels_end;

/// Texts of one page; writers close pages at some ten thousand.
const MOST_TEXTS: u64 = 1 << 24;

/// Pages with no more lengths than values.
pub(crate) struct Counted {
    pub(crate) pages: Box<dyn PageReader>,
    pub(crate) has_levels: bool,
}

impl Counted {
    fn check(&self, page: &Page) -> Result<()> {
        // Prefixes and what follows them, or lengths alone.
        let series = match page.encoding() {
            Encoding::DELTA_BYTE_ARRAY => 2,
            Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
            _ => return Ok(()),
        };
        let most = u64::from(page.num_values()).min(MOST_TEXTS);
        let mut values = page
            .buffer()
            .get(levels_end(page, self.has_levels)..)
            .ok_or_else(cut)?;
        for _ in 0..series {
            values = skip(values, most).ok_or_else(cut)?;
        }
        Ok(())
    }
}

fn cut() -> ParquetError {
    ParquetError::EOF("lengths of texts are cut, or more than there are texts".to_owned())
}

/// What follows a series of numbers that are coded as differences (`DELTA_BINARY_PACKED`); nothing when it is cut or too long.
fn skip(bytes: &[u8], most: u64) -> Option<&[u8]> {
    let mut left = bytes;
    let block = varint(&mut left)?;
    let parts = varint(&mut left)?;
    let total = varint(&mut left)?;
    varint(&mut left)?;
    if total > most || parts == 0 || block == 0 || !block.is_multiple_of(parts) {
        return None;
    }
    let part = block / parts;
    let mut values = total.saturating_sub(1);
    while values > 0 {
        varint(&mut left)?;
        let (widths, packed) = left.split_at_checked(usize::try_from(parts).ok()?)?;
        left = packed;
        for width in widths {
            // The widths of parts after the last value say nothing.
            if values > 0 {
                let bits = part.checked_mul((*width).into())?;
                left = left.get(usize::try_from(bits / 8).ok()?..)?;
            }
            values = values.saturating_sub(part);
        }
    }
    Some(left)
}

fn varint(left: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = left.split_first()?;
        *left = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl Iterator for Counted {
    type Item = Result<Page>;
    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Counted {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            self.check(page)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_ends_where_its_last_part_ends() {
        // Blocks of 128 in four parts, 3 values, the first is 7; differences from 0, in 8 bits each; other widths mean nothing.
        let mut series = vec![0x80, 1, 4, 3, 14, 0, 8, 99, 99, 99];
        series.extend([0; 32]);
        series.extend(*b"rest");
        assert_eq!(skip(&series, 3), Some(b"rest".as_slice()));
        assert_eq!(skip(&series, 2), None);
        for cut in 0..series.len() - 4 {
            assert_eq!(skip(&series[..cut], 3), None, "{cut}");
        }
        // Two thousand million values of no bits at all.
        let many = [0x80, 1, 1, 0xff, 0xff, 0xff, 0xff, 7, 0];
        assert_eq!(skip(&many, u64::from(u32::MAX)), None);
        assert_eq!(skip(&[0x80, 1, 1, 1, 0, b'x'], 1), Some(b"x".as_slice()));
        assert_eq!(skip(&[0x80, 1, 0, 1, 0], 1), None);
    }
}
