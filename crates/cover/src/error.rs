use chaff_abi::Nanos;

/// What can go wrong while making cover.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoverError {
    /// A parameter is outside its range.
    #[error("{name} is {value}, allowed is {allowed}")]
    Parameter {
        /// Name of the field.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        allowed: &'static str,
    },
    /// A slot was planned before, or lies before one that was.
    #[error("slot {slot} was asked for, the next one to plan is {next} or later")]
    SlotBack {
        /// The slot asked for.
        slot: u64,
        /// The first slot that can be planned.
        next: u64,
    },
    /// A generator's slot has no length, or slots lie beyond the end of time.
    #[error("slot {slot} of {length} s from {epoch} s cannot be placed in time")]
    SlotTime {
        /// The slot.
        slot: u64,
        /// Its length.
        length: Nanos,
        /// Start of slot 0.
        epoch: Nanos,
    },
    /// A recording without rows.
    #[error("a recording needs at least one row")]
    Empty,
    /// A CSV text is not a perturbation table.
    #[error("line {line}: {what}")]
    Csv {
        /// Line number, from 1.
        line: u64,
        /// What is wrong there.
        what: CsvFault,
    },
    /// A generator could not make its demands.
    #[error("generator {generator}")]
    Generator {
        /// Its name.
        generator: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What is wrong with a line of a perturbation CSV.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsvFault {
    /// The first line does not name the four columns.
    #[error(
        "the header must name in_packets,in_bytes,out_packets,out_bytes (any order, nothing else)"
    )]
    Header,
    /// A line has more or fewer values than the header.
    #[error("{found} values, the header has 4")]
    Columns {
        /// Values on the line.
        found: usize,
    },
    /// A value is not a number from 0 to 4294967295.
    #[error("column {column}: not a number from 0 to 4294967295")]
    Value {
        /// Name of the column.
        column: &'static str,
    },
    /// More rows than [`crate::parity::MAX_ROWS`].
    #[error("more than {max} rows")]
    Rows {
        /// The cap.
        max: usize,
    },
}
