/// Why nothing was learnt.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// Values that are no rows of that length.
    #[error("{values} values are no rows of {columns} columns")]
    Shape {
        /// Numbers in a row.
        columns: usize,
        /// Values there are.
        values: usize,
    },
    /// Fewer rows than the detector needs.
    #[error("{rows} rows to learn from, {needed} are needed")]
    TooFew {
        /// Rows there are.
        rows: usize,
        /// Rows there must be.
        needed: usize,
    },
    /// More rows than the detector can hold.
    #[error("{rows} rows to learn from, this detector takes {limit}")]
    TooMany {
        /// Rows there are.
        rows: usize,
        /// Rows there may be.
        limit: usize,
    },
    /// A value that is infinite or not a number.
    #[error("row {row}, column {column} is not a finite number")]
    NotFinite {
        /// From 0.
        row: usize,
        /// From 0.
        column: usize,
    },
    /// A setting out of its range.
    #[error("{kind}: {name} is {value}, it must be {range}")]
    Setting {
        /// Detector.
        kind: &'static str,
        /// Setting.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// A setting that the detector does not have.
    #[error("{kind} has no setting `{name}`; it has {known}")]
    UnknownSetting {
        /// Detector.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: &'static str,
    },
    /// A setting whose value cannot be read.
    #[error("{kind}: `{value}` is no value of {name}")]
    Value {
        /// Detector.
        kind: &'static str,
        /// Setting.
        name: String,
        /// What was given.
        value: String,
    },
    /// A name that is no detector or scaling.
    #[error("`{name}` is no {what}: {known}")]
    Name {
        /// Detector or scaling.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: &'static str,
    },
    /// The numbers do not allow an answer.
    #[error("{kind} found no solution: {reason}")]
    Numerical {
        /// Detector.
        kind: &'static str,
        /// What went wrong.
        reason: String,
    },
}

/// Why a stored model is not used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Other bytes than a model begins with.
    #[error("this is no Chaff novelty model")]
    Magic,
    /// Made by another version of the format.
    #[error("the model has format {found}, this program reads {known}: train it again")]
    Version {
        /// In the file.
        found: u16,
        /// Of this program.
        known: u16,
    },
    /// Fewer bytes than announced.
    #[error("the model is cut: {needed} bytes are needed at byte {offset}, {had} are there")]
    Cut {
        /// Where.
        offset: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        had: usize,
    },
    /// The checksum does not match: the file was changed or damaged.
    #[error("the model is damaged: its checksum does not match")]
    Checksum,
    /// Values that contradict each other or are out of range.
    #[error("the model is invalid: {what}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// More than a model may hold.
    #[error("the model is invalid: {what} is {found}, at most {limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// In the file.
        found: u64,
        /// Allowed.
        limit: u64,
    },
    /// Rows of another length than the model was trained on.
    #[error("rows have {found} columns, the model was trained on {known}")]
    Columns {
        /// Of the rows.
        found: usize,
        /// Of the model.
        known: usize,
    },
}
