//! The comparison of the reference's checker: flows paired by key and first time, numbers equal or close, order of emission
//! equal too.

use std::collections::BTreeMap;
use std::fmt;

const KEY: [&str; 8] = [
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
    "protocol",
    "vlan_id",
    "tunnel_id",
    "bidirectional_first_seen_ms",
];
const RELATIVE: f64 = 1e-6;
const ABSOLUTE: f64 = 1e-9;

/// Columns that rest on nDPI, the first four on its tables.
pub const APPLICATION: [&str; 9] = [
    "application_name",
    "application_category_name",
    "application_is_guessed",
    "application_confidence",
    "requested_server_name",
    "client_fingerprint",
    "server_fingerprint",
    "user_agent",
    "content_type",
];

/// A CSV file.
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells by row and column.
    pub rows: Vec<Vec<String>>,
}

/// What a comparison found.
#[derive(Default)]
pub struct Report {
    /// Flows that there should be.
    pub expected: usize,
    /// Flows that are as they should be.
    pub exact: usize,
    /// Equal values and all values by column.
    pub agreement: BTreeMap<String, [usize; 2]>,
    /// The first differences.
    pub problems: Vec<String>,
    failed: usize,
}

impl Report {
    /// Whether nothing differs.
    pub fn matches(&self) -> bool {
        self.failed == 0
    }

    fn fail(&mut self, problem: String) {
        self.failed += 1;
        if self.problems.len() < 3 {
            self.problems.push(problem);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} flows exact", self.exact, self.expected)?;
        for problem in &self.problems {
            write!(f, "\n    {problem}")?;
        }
        Ok(())
    }
}

impl Table {
    /// Parses RFC 4180 text.
    pub fn parse(text: &str) -> Self {
        let mut rows = vec![vec![String::new()]];
        let mut quoted = false;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let row = rows.last_mut().expect("there is always a row");
            let cell = row.last_mut().expect("a row has a cell");
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    cell.push('"');
                    chars.next();
                }
                '"' => quoted = !quoted,
                ',' if !quoted => row.push(String::new()),
                // NFStream ends lines with both.
                '\r' if !quoted && chars.peek() == Some(&'\n') => {}
                '\n' if !quoted => rows.push(vec![String::new()]),
                _ => cell.push(c),
            }
        }
        rows.retain(|row| row.len() > 1);
        let header = if rows.is_empty() {
            Vec::new()
        } else {
            rows.remove(0)
        };
        Self { header, rows }
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.header.iter().position(|name| name == column)
    }

    /// Rows by key, in the order of ids.
    fn by_key(&self, key: &[&str]) -> BTreeMap<Vec<&str>, Vec<&Vec<String>>> {
        let places: Vec<_> = key.iter().map(|column| self.position(column)).collect();
        let id = self.position("id").unwrap_or(0);
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|row| row[id].parse::<u64>().unwrap_or(0));
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for row in rows {
            let key = places
                .iter()
                .map(|place| place.map_or("", |at| row[at].as_str()))
                .collect();
            groups.entry(key).or_default().push(row);
        }
        groups
    }
}

/// Compares all columns but the ignored ones.
pub fn compare(have: &Table, want: &Table, ignored: &[&str]) -> Report {
    let mut report = Report {
        expected: want.rows.len(),
        ..Report::default()
    };
    if want.header != have.header {
        report.fail(format!("columns {:?}", have.header));
        return report;
    }
    let key: Vec<_> = KEY
        .into_iter()
        .filter(|column| want.position(column).is_some())
        .collect();
    let mut candidates = have.by_key(&key);
    for (key, rows) in want.by_key(&key) {
        let group = candidates.remove(&key).unwrap_or_default();
        if group.len() != rows.len() {
            report.fail(format!("{} of {} flows {key:?}", group.len(), rows.len()));
            continue;
        }
        for (row, candidate) in rows.iter().zip(group) {
            let mut good = true;
            for ((column, expected), value) in want.header.iter().zip(*row).zip(candidate) {
                let is_same = same(value, expected);
                let sum = report.agreement.entry(column.clone()).or_default();
                sum[0] += usize::from(is_same);
                sum[1] += 1;
                if !is_same && !ignored.contains(&column.as_str()) {
                    good = false;
                    report.fail(format!(
                        "{column} is {value:?}, not {expected:?}, of {key:?}"
                    ));
                }
            }
            report.exact += usize::from(good);
        }
    }
    for key in candidates.keys() {
        report.fail(format!("not expected: {key:?}"));
    }
    report
}

fn same(value: &str, expected: &str) -> bool {
    let list = |text: &str| -> Option<Vec<String>> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        Some(inner.split(", ").map(str::to_owned).collect())
    };
    match (list(value), list(expected)) {
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same_scalar(a, b))
        }
        _ => same_scalar(value, expected),
    }
}

fn same_scalar(value: &str, expected: &str) -> bool {
    if value == expected {
        return true;
    }
    let is_whole = |text: &str| {
        text.trim_start_matches('-')
            .bytes()
            .all(|b| b.is_ascii_digit())
    };
    if is_whole(value) && is_whole(expected) {
        return false;
    }
    match (value.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= ABSOLUTE.max(RELATIVE * a.abs().max(b.abs())),
        _ => false,
    }
}
