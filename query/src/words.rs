//! Text columns of Parquet as numbers: what is known of a word is then found by its number and not by its letters.
//!
//! The pages of such a column hold numbers of words in a dictionary already. They are read as a column of numbers whose
//! dictionary is 0, 1, 2, ..., and the words are kept aside. Pages without a dictionary are numbered on.

use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::basic::{Encoding, Repetition, Type as Physical};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use ::parquet::data_type::Int32Type;
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::RowGroupReader;
use ::parquet::schema::types::{ColumnDescriptor, Type};
use bytes::Bytes;

/// Words by number, as the pages bring them.
type Shared = Arc<Mutex<Vec<Bytes>>>;

/// The words of a column of a row group.
pub(crate) struct Words {
    shared: Shared,
    words: Vec<Bytes>,
}

impl Words {
    /// A column as numbers; nothing when its pages are encoded in another way than by dictionary or plainly.
    pub(crate) fn open(
        group: &dyn RowGroupReader,
        column: usize,
    ) -> Result<Option<(ColumnReaderImpl<Int32Type>, Self)>> {
        let about = group.metadata().column(column);
        let is_known = about.encodings().all(|e| {
            matches!(
                e,
                Encoding::PLAIN
                    | Encoding::RLE
                    | Encoding::RLE_DICTIONARY
                    | Encoding::PLAIN_DICTIONARY
            )
        });
        let levels = about.column_descr().max_def_level();
        if !is_known || levels > 1 {
            return Ok(None);
        }
        let number = Type::primitive_type_builder("number", Physical::INT32)
            .with_repetition(if levels > 0 {
                Repetition::OPTIONAL
            } else {
                Repetition::REQUIRED
            })
            .build()?;
        let path = about.column_path().clone();
        let described = ColumnDescriptor::new(Arc::new(number), levels, 0, path);
        let shared = Shared::default();
        let pages = Numbered {
            pages: group.get_column_page_reader(column)?,
            has_levels: levels > 0,
            words: Arc::clone(&shared),
        };
        let reader = get_column_reader(Arc::new(described), Box::new(pages));
        let words = Self {
            shared,
            words: Vec::new(),
        };
        Ok(Some((get_typed_column_reader(reader), words)))
    }

    /// Takes over what pages brought. Called after reading.
    pub(crate) fn catch_up(&mut self) {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let new = shared.get(self.words.len()..).unwrap_or_default();
        self.words.extend_from_slice(new);
    }

    pub(crate) fn get(&self, number: i32) -> Option<&[u8]> {
        let word = self.words.get(usize::try_from(number).ok()?)?;
        Some(word)
    }

    /// How many there are so far.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }
}

/// Where the values of a page begin: after what says which are missing.
pub(crate) fn levels_end(page: &Page, has_levels: bool) -> usize {
    match page {
        Page::DataPage { buf, .. } if has_levels => buf
            .split_first_chunk()
            .map_or(0, |(length, _)| 4 + u32::from_le_bytes(*length) as usize),
        Page::DataPageV2 {
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => *def_levels_byte_len as usize + *rep_levels_byte_len as usize,
        _ => 0,
    }
}

/// Pages with numbers where they had words.
struct Numbered {
    pages: Box<dyn PageReader>,
    has_levels: bool,
    words: Shared,
}

impl Numbered {
    /// Keeps the words, which stand one after the other with their lengths, and gives their numbers.
    fn keep(&self, mut plain: Bytes) -> Result<Vec<u8>> {
        let cut = || ParquetError::EOF("a word is cut".to_owned());
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let mut numbers = Vec::new();
        while !plain.is_empty() {
            let (length, _) = plain.split_first_chunk().ok_or_else(cut)?;
            let end = 4 + u32::from_le_bytes(*length) as usize;
            if end > plain.len() {
                return Err(cut());
            }
            let word = plain.split_to(end).slice(4..);
            let number = i32::try_from(words.len()).map_err(|_| cut())?;
            numbers.extend_from_slice(&number.to_le_bytes());
            words.push(word.slice_ref(word.trim_ascii()));
        }
        Ok(numbers)
    }

    fn number(&self, page: Page) -> Result<Page> {
        let levels = levels_end(&page, self.has_levels);
        let with_levels = |buf: &Bytes| {
            if levels > buf.len() {
                return Err(ParquetError::EOF("levels are cut".to_owned()));
            }
            let mut numbered = buf[..levels].to_vec();
            numbered.extend(self.keep(buf.slice(levels..))?);
            Ok(Bytes::from(numbered))
        };
        Ok(match page {
            Page::DictionaryPage {
                buf, num_values, ..
            } => Page::DictionaryPage {
                buf: self.keep(buf)?.into(),
                num_values,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            },
            Page::DataPage {
                buf,
                num_values,
                encoding: encoding @ Encoding::PLAIN,
                def_level_encoding,
                rep_level_encoding,
                ..
            } => Page::DataPage {
                buf: with_levels(&buf)?,
                num_values,
                encoding,
                def_level_encoding,
                rep_level_encoding,
                statistics: None,
            },
            Page::DataPageV2 {
                buf,
                num_values,
                encoding: encoding @ Encoding::PLAIN,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                ..
            } => Page::DataPageV2 {
                buf: with_levels(&buf)?,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                statistics: None,
            },
            by_dictionary => by_dictionary,
        })
    }
}

impl Iterator for Numbered {
    type Item = Result<Page>;
    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Numbered {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.map(|page| self.number(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}
