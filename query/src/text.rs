//! Lines of Tstat's logs, nfdump's CSV and Chaff's CSV into fields. Columns are found by their names in the first line.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

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
    if line.starts_with('#') {
        let names = line.split(' ').map(tstat_name);
        let names: Vec<String> = names.map(|n| known(Format::Tstat, n)).collect();
        if names.iter().any(|n| n == "c_ip") {
            return Ok((Format::Tstat, names));
        }
        return wrong(
            "its first line starts with # but names no column c_ip, as a log_tcp_complete of Tstat would",
        );
    }
    let names: Vec<String> = line
        .split(',')
        .map(|n| known(Format::Nfdump, n.trim()))
        .collect();
    if names.iter().any(|n| n == "sa") && names.iter().any(|n| n == "da") {
        return Ok((Format::Nfdump, names));
    }
    let names: Vec<String> = line
        .split(',')
        .map(|n| known(Format::Chaff, n.trim()))
        .collect();
    if ["src_ip", "dst_ip", "fwd_bytes"]
        .iter()
        .all(|n| names.iter().any(|m| m == n))
    {
        return Ok((Format::Chaff, names));
    }
    if line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(',') {
        return wrong(
            "it has no header: old nfdump -q leaves it out; export with -o csv and without -q",
        );
    }
    wrong(
        "it is no flow log: expected Tstat's header (#...c_ip:1 ...), nfdump's CSV header (ts,te,... or firstSeen,...) or that of `gateway meter --format csv`",
    )
}

/// The text after the last `#` and before `:`.
fn tstat_name(cell: &str) -> &str {
    let name = cell.rsplit('#').next().unwrap_or(cell);
    name.split(':').next().unwrap_or(name)
}

fn known(format: Format, name: &str) -> String {
    let column = format
        .columns()
        .iter()
        .find(|c| c.name == name || c.also.contains(&name));
    column.map_or(String::new(), |c| c.name.to_owned())
}

/// A part of a file that one thread reads.
#[derive(Clone, Debug)]
pub struct Piece {
    file: TextFile,
    from: u64,
    to: u64,
}

impl Piece {
    /// What the file is.
    pub fn format(&self) -> Format {
        self.file.format
    }
}

impl TextFile {
    /// Whether it has the column.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

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

    /// Gives the fields of the next line to `take`, with the places of their columns; false at the end.
    ///
    /// # Errors
    /// What the system said.
    pub fn next_row(&mut self, mut take: impl FnMut(usize, &[u8])) -> io::Result<bool> {
        loop {
            let Some(line) = self.lines.next_line()? else {
                return Ok(false);
            };
            if self.stop_at_summary && line == b"Summary" {
                self.lines.left = 0;
                return Ok(false);
            }
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let (mut field, mut start) = (0, 0);
            let mut wanted = self.wanted.iter();
            let mut next = wanted.next();
            for end in memchr::memchr_iter(self.separator, line).chain(std::iter::once(line.len()))
            {
                let Some((want, at)) = next else { break };
                if field == *want {
                    take(*at, line[start..end].trim_ascii());
                    next = wanted.next();
                }
                field += 1;
                start = end + 1;
            }
            return Ok(true);
        }
    }
}

/// An address in its canonical form, so that it can be compared as text; what is none stays as it is.
pub fn address(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = String::from_utf8_lossy(bytes);
    if text.is_empty() {
        return None;
    }
    // An IPv4 address has one form.
    match text.contains(':').then(|| text.parse::<IpAddr>()) {
        Some(Ok(address)) => Some(Cow::Owned(address.to_string())),
        _ => Some(text),
    }
}

/// A whole number; others are rounded. Nothing where there is none.
pub fn integer(bytes: &[u8]) -> Option<i64> {
    if !bytes.is_empty() && bytes.len() <= 18 && bytes.iter().all(u8::is_ascii_digit) {
        return Some(bytes.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')));
    }
    match bytes {
        // nfdump's directions as letters: ingress, egress.
        b"I" => Some(0),
        b"E" => Some(1),
        _ => {
            let value = float(bytes)?.round();
            (value.abs() < 9e18).then_some(value as i64)
        }
    }
}

/// A finite number.
pub fn float(bytes: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// Lines of a piece, without the header line.
struct Lines {
    input: Input,
    /// Read but not given out: `block[at..]`.
    block: Vec<u8>,
    at: usize,
    /// Bytes of the piece that are left, counted from `at`.
    left: u64,
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
