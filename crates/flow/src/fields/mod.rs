//! The one list of columns: name, type, unit and meaning of each, by groups that can be switched.

mod core;
mod extra;
mod rows;
mod statistics;

use std::fmt::Write as _;

use crate::{Column, Kind, Record, TableConfig, Value};

/// One column of the flow records.
#[derive(Clone, Copy)]
pub struct Field {
    /// Column name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Unit, empty when it has none.
    pub unit: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Reads it from a record.
    pub get: fn(&Record) -> Value,
    /// Writes it as in CSV; core fields have it.
    put: Option<fn(&Record, &mut Vec<u8>)>,
}

const fn field(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    doc: &'static str,
    get: fn(&Record) -> Value,
) -> Field {
    Field {
        name,
        kind,
        unit,
        doc,
        get,
        put: None,
    }
}

/// Lists one after another; their lengths must add up.
const fn join<const N: usize>(lists: &[&[Field]]) -> [Field; N] {
    let mut all = [lists[0][0]; N];
    let (mut n, mut list) = (0, 0);
    while list < lists.len() {
        let mut i = 0;
        while i < lists[list].len() {
            all[n] = lists[list][i];
            (n, i) = (n + 1, i + 1);
        }
        list += 1;
    }
    assert!(n == N);
    all
}

impl From<&Field> for Column {
    fn from(f: &Field) -> Self {
        Self {
            name: f.name.into(),
            kind: f.kind,
            unit: f.unit.into(),
            doc: f.doc.into(),
        }
    }
}

/// Columns that are switched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Group {
    /// Always there; the same for flows of the kernel and of captures.
    Core,
    /// With [`TableConfig::statistics`].
    Statistics,
    /// With [`TableConfig::splt`].
    Sequence,
    /// With [`TableConfig::dissect`].
    Application,
    /// With [`TableConfig::processes`].
    Process,
}

impl Group {
    /// All of them in output order.
    pub const ALL: [Self; 5] = [
        Self::Core,
        Self::Statistics,
        Self::Sequence,
        Self::Application,
        Self::Process,
    ];

    /// Its columns in output order.
    pub const fn fields(self) -> &'static [Field] {
        match self {
            Self::Core => &core::CORE,
            Self::Statistics => &statistics::STATISTICS,
            Self::Sequence => &extra::SEQUENCE,
            Self::Application => &extra::APPLICATION,
            Self::Process => &extra::PROCESS,
        }
    }

    /// What the group is and when it is there, for documentation.
    pub const fn doc(self) -> &'static str {
        match self {
            Self::Core => {
                "In every table. `fwd` is initiator to responder, `bwd` the other way; columns without either are of both."
            }
            Self::Statistics => {
                "With `statistics`. Only where every packet was seen in user space; records of the kernel's meter have those \
                 columns that follow from the core ones, and the others are empty. `bi` is both directions together. \
                 Quantiles (`p5` to `p95`) are of the nearest rank and at most 1.6 % off."
            }
            Self::Sequence => {
                "With `splt N`: lists over the first N packets. Empty for records of the kernel's meter."
            }
            Self::Application => {
                "With `dissect N`: what the first N packets tell. Empty where nothing was found."
            }
            Self::Process => {
                "With `processes`, live only: whose socket on this host the flow is. Empty for forwarded traffic, inside tunnels, \
                 and where the socket was not seen. Where both ends are on this host, the initiator's."
            }
        }
    }
}

/// The core columns in output order: [`Group::Core`].
pub const FIELDS: &[Field] = &core::CORE;

/// Which columns a table has: groups, then those of its plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    groups: Vec<Group>,
    plugins: Vec<Column>,
}

impl Layout {
    /// The columns of a table with these settings and the columns of its plugins.
    pub fn new(config: &TableConfig, plugins: Vec<Column>) -> Self {
        let wanted = |group: &Group| match group {
            Group::Core => true,
            Group::Statistics => config.statistics,
            Group::Sequence => config.splt > 0,
            Group::Application => config.dissect > 0,
            Group::Process => config.processes,
        };
        Self {
            groups: Group::ALL.into_iter().filter(wanted).collect(),
            plugins,
        }
    }

    /// The groups in output order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// All columns in output order.
    pub fn columns(&self) -> Vec<Column> {
        let fields = self.groups.iter().flat_map(|g| g.fields());
        fields
            .map(Column::from)
            .chain(self.plugins.iter().cloned())
            .collect()
    }
}

impl Record {
    /// Makes `row` the values of all columns of a layout, in their order.
    pub fn values(&self, layout: &Layout, row: &mut Vec<Value>) {
        row.clear();
        for group in &layout.groups {
            row.extend(group.fields().iter().map(|f| (f.get)(self)));
        }
        let end = row.len() + layout.plugins.len();
        row.extend(
            self.plugin_values
                .iter()
                .take(layout.plugins.len())
                .cloned(),
        );
        row.resize(end, Value::Missing);
    }
}

/// Tables of all fields in Markdown, a section for each group.
pub fn fields_markdown() -> String {
    let mut out = String::new();
    for group in Group::ALL {
        let _ = writeln!(out, "## {group:?}\n\n{}\n", group.doc());
        out.push_str("| Field | Type | Unit | Meaning |\n|---|---|---|---|\n");
        for f in group.fields() {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                f.name,
                f.kind.name(),
                f.unit,
                f.doc
            );
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
