//! Lines of Tstat's logs, nfdump's CSV and Chaff's CSV into fields. Columns are found by their names in the first line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::cell::Cell;
use crate::flows::Format;

/// Bytes read at once.
const BLOCK: usize = 256 << 10;
/// A longer line is left out.
const LONGEST: usize = 1 << 20;
/// A header is looked for in this many bytes.
const HEADER: u64 = 64 << 10;
/// nfdump's summary is looked for in this many bytes at the end.
const TAIL: u64 = 4 << 10;
/// Smaller pieces of a file are not worth a thread.
const PIECE: u64 = 8 << 20;

/// A text file and what its first line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub format: Format,
    /// Names of its columns, as they are called in plans; empty where the column is of no use.
    pub names: Vec<String>,
    /// Packed with gzip.
    pub packed: bool,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Looks at the first line of a file.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with a sentence when it is no flow log; else what the system said.
pub fn look(path: &Path) -> io::Result<TextFile> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let start = reader.fill_buf()?;
    let packed = start.starts_with(&[0x1f, 0x8b]);
    let mut line = Vec::new();
    if packed {
        let mut unpacked = BufReader::new(MultiGzDecoder::new(reader));
        unpacked
            .by_ref()
            .take(HEADER)
            .read_until(b'\n', &mut line)?;
    } else {
        reader.by_ref().take(HEADER).read_until(b'\n', &mut line)?;
    }
    let line = String::from_utf8_lossy(&line);
    let (format, names) = header(line.trim_end())?;
    Ok(TextFile {
        path: path.to_path_buf(),
        format,
        names,
        packed,
        bytes,
    })
}

fn header(line: &str) -> io::Result<(Format, Vec<String>)> {
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    let is_tstat = line.starts_with('#');
    let cells: Vec<&str> = if is_tstat {
        line.split(' ').map(tstat_name).collect()
    } else {
        line.split(',').map(str::trim).collect()
    };
    match Format::of_columns(&cells) {
        Some(format) if is_tstat == (format == Format::Tstat) => {
            return Ok((format, cells.iter().map(|n| format.known(n)).collect()));
        }
        _ => {}
    }
    if is_tstat {
        return wrong(
            "its first line starts with # but names no columns c_ip and s_ip, as a log_tcp_complete of Tstat would",
        );
    }
    if line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(',') {
        return wrong(
            "it has no header: old nfdump -q leaves it out; export with -o csv and without -q",
        );
    }
    wrong(
        "it is no flow log: expected Tstat's header (#...c_ip:1 ...), nfdump's CSV header (ts,te,... or firstSeen,...), that of `gateway meter --format csv`, nfdump's JSON, or Parquet",
    )
}

/// The text after the last `#` and before `:`.
fn tstat_name(cell: &str) -> &str {
    let name = cell.rsplit('#').next().unwrap_or(cell);
    name.split(':').next().unwrap_or(name)
}

/// A part of a file that one thread reads.
#[derive(Clone, Debug)]
pub struct Piece {
    file: TextFile,
    from: u64,
    to: u64,
}

impl TextFile {
    /// Parts for at most `most` threads.
    ///
    /// # Errors
    /// What the system said.
    pub fn pieces(&self, most: usize) -> io::Result<Vec<Piece>> {
        let piece = |from, to| Piece {
            file: self.clone(),
            from,
            to,
        };
        if self.packed {
            return Ok(vec![piece(0, u64::MAX)]);
        }
        let end = match self.format {
            Format::Nfdump => before_summary(&self.path, self.bytes)?,
            Format::Tstat | Format::Chaff => self.bytes,
        };
        let count = (end / PIECE).clamp(1, most.max(1) as u64);
        Ok((0..count)
            .map(|i| piece(end * i / count, end * (i + 1) / count))
            .collect())
    }
}

/// Where nfdump's three lines of totals begin.
fn before_summary(path: &Path, bytes: u64) -> io::Result<u64> {
    let from = bytes.saturating_sub(TAIL);
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(memchr::memmem::rfind(&tail, b"\nSummary").map_or(bytes, |at| from + at as u64 + 1))
}

/// Rows of a piece: wanted fields of its lines, by their place among the columns asked for.
pub struct Rows {
    lines: Lines,
    separator: u8,
    /// Number of the field and place of the column, by field number.
    wanted: Vec<(usize, usize)>,
    stop_at_summary: bool,
}

impl Rows {
    /// Begins to read these columns; those that the file lacks never come.
    ///
    /// # Errors
    /// What the system said.
    pub fn new<'a>(piece: &Piece, columns: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let file = &piece.file;
        let mut wanted: Vec<(usize, usize)> = columns
            .into_iter()
            .enumerate()
            .filter_map(|(at, name)| {
                (!name.is_empty())
                    .then(|| Some((file.names.iter().position(|n| n == name)?, at)))?
            })
            .collect();
        wanted.sort_unstable();
        Ok(Self {
            lines: Lines::new(piece)?,
            separator: if file.format == Format::Tstat {
                b' '
            } else {
                b','
            },
            wanted,
            stop_at_summary: file.format == Format::Nfdump,
        })
    }

    /// Gives each line's fields to `take`, by the places of their columns. Gives the number of lines that were too long to be
    /// read.
    ///
    /// # Errors
    /// What the system said.
    pub fn each<const N: usize>(mut self, mut take: impl FnMut(&[Cell<'_>; N])) -> io::Result<u64> {
        while let Some(line) = self.lines.next_line()? {
            if self.stop_at_summary && line == b"Summary" {
                break;
            }
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let mut row = [Cell::Missing; N];
            let (mut field, mut start) = (0, 0);
            let mut wanted = self.wanted.iter();
            let mut next = wanted.next();
            let ends = memchr::memchr_iter(self.separator, line);
            for end in ends.chain(std::iter::once(line.len())) {
                let Some((want, at)) = next else { break };
                if field == *want {
                    if let Some(cell) = row.get_mut(*at) {
                        *cell = Cell::Text(line[start..end].trim_ascii());
                    }
                    next = wanted.next();
                }
                field += 1;
                start = end + 1;
            }
            take(&row);
        }
        Ok(self.lines.skipped)
    }
}

/// Lines of a piece, without the header line.
struct Lines {
    input: Input,
    /// Read but not given out: `block[at..]`.
    block: Vec<u8>,
    at: usize,
    /// Bytes of the piece that are left, counted from `at`.
    left: u64,
    /// Lines that were too long.
    skipped: u64,
}

enum Input {
    Plain(File),
    Packed(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Read for Input {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(to),
            Self::Packed(file) => file.read(to),
        }
    }
}

impl Lines {
    fn new(piece: &Piece) -> io::Result<Self> {
        let mut file = File::open(&piece.file.path)?;
        // One byte earlier, to see whether the piece begins at the start of a line.
        let back = u64::from(piece.from > 0);
        file.seek(SeekFrom::Start(piece.from - back))?;
        let input = if piece.file.packed {
            Input::Packed(Box::new(MultiGzDecoder::new(BufReader::with_capacity(
                BLOCK, file,
            ))))
        } else {
            Input::Plain(file)
        };
        let mut lines = Self {
            input,
            block: Vec::with_capacity(BLOCK),
            at: 0,
            left: piece.to.saturating_sub(piece.from).saturating_add(back),
            skipped: 0,
        };
        // The line that another piece owns, or the header.
        lines.next_line()?;
        Ok(lines)
    }

    /// The next line that starts within the piece, without its end.
    fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            let mut from = self.at;
            let end = loop {
                if let Some(n) = memchr::memchr(b'\n', &self.block[from..]) {
                    break Some(from + n);
                }
                from = self.block.len();
                if self.block.len() - self.at > LONGEST {
                    break None;
                }
                let start = self.at;
                if !self.more()? {
                    break Some(self.block.len());
                }
                from -= start;
            };
            let Some(end) = end else {
                self.skipped += 1;
                self.skip_line()?;
                continue;
            };
            let start = self.at;
            if start == self.block.len() {
                return Ok(None);
            }
            self.at = (end + 1).min(self.block.len());
            self.left = self.left.saturating_sub((self.at - start) as u64);
            let line = &self.block[start..end];
            return Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)));
        }
    }

    /// Reads on, after moving what is left to the front; false at the end of the file.
    fn more(&mut self) -> io::Result<bool> {
        self.block.drain(..self.at);
        self.at = 0;
        let have = self.block.len();
        self.block.resize(have + BLOCK, 0);
        let read = loop {
            match self.input.read(&mut self.block[have..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.block.truncate(have + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }

    /// Drops a line that is too long.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            if let Some(n) = memchr::memchr(b'\n', &self.block[self.at..]) {
                self.left = self.left.saturating_sub(n as u64 + 1);
                self.at += n + 1;
                return Ok(());
            }
            self.left = self
                .left
                .saturating_sub((self.block.len() - self.at) as u64);
            self.at = self.block.len();
            if !self.more()? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
