//! Text logs in one pass: what a question needs of each line, straight into a table of units.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::engine::{DIGITS, Databases, Engine, Failure, Table, threads};
use crate::flows::{Direction, Format, Kind};
use crate::request::{Matching, Measure, Name, Network, Request, UnitKey};
use crate::source::Source;
use crate::text::{Piece, Rows, address, float, integer};

/// Texts that are remembered at most, by purpose.
const REMEMBERED: usize = 1 << 16;

/// One pass over text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain {
    /// Threads; 0 for as many as there are processors.
    pub threads: usize,
}

/// What is known of a unit so far.
#[derive(Clone, Debug, Default)]
struct Sum {
    sum: i128,
    count: u64,
    names: HashMap<String, u64>,
}

type Sums = HashMap<String, Sum>;

impl Engine for Plain {
    fn table(
        &self,
        source: &Source,
        request: &Request,
        databases: &Databases,
    ) -> Result<Table, Failure> {
        let threads = threads(self.threads);
        let mut pieces = Vec::new();
        for file in &source.files {
            pieces.extend(file.pieces(threads).map_err(|_| Failure)?);
        }
        let all = Mutex::new((pieces.into_iter(), Vec::new()));
        let locked = || all.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut pass = Pass::new(source.format, request, databases);
                    let mut done = Ok(());
                    while done.is_ok() {
                        let Some(piece) = locked().0.next() else {
                            break;
                        };
                        done = pass.read(&piece);
                    }
                    locked().1.push(done.map(|()| pass.sums));
                });
            }
        });
        let mut merged = Sums::new();
        let (_, sums) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        if sums.len() < threads {
            return Err(Failure);
        }
        for sums in sums {
            merge(&mut merged, sums.map_err(|_| Failure)?);
        }
        let kind = column_kind(source.format, request);
        Ok(table(merged, &request.measure, kind))
    }
}

fn merge(into: &mut Sums, from: Sums) {
    if into.is_empty() {
        *into = from;
        return;
    }
    for (unit, sum) in from {
        let known = into.entry(unit).or_default();
        known.sum += sum.sum;
        known.count += sum.count;
        for (name, flows) in sum.names {
            *known.names.entry(name).or_default() += flows;
        }
    }
}

fn table(sums: Sums, measure: &Measure, kind: Kind) -> Table {
    // In order of units, so that equal logs give equal tables.
    let sums: BTreeMap<String, Sum> = sums.into_iter().collect();
    let whole = |of: fn(&Sum) -> i128| {
        let rows = sums.iter().map(|(unit, sum)| {
            let value = of(sum).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
            (unit.clone(), value)
        });
        Table::Whole(rows.collect())
    };
    match measure {
        Measure::Bytes(_) => whole(|s| s.sum),
        Measure::Flows => whole(|s| s.count.into()),
        Measure::Any => whole(|s| i128::from(s.count > 0)),
        Measure::Mean(_) => {
            let one = match kind {
                Kind::Float => 10f64.powi(DIGITS.into()),
                _ => 1.0,
            };
            let rows = sums.into_iter().map(|(unit, s)| {
                let mean = (s.count > 0).then(|| s.sum as f64 / s.count as f64 / one);
                (unit, mean)
            });
            Table::Means(rows.collect())
        }
        Measure::Names => {
            let mut rows = Vec::new();
            for (unit, sum) in sums {
                let names: BTreeMap<String, u64> = sum.names.into_iter().collect();
                rows.extend(names.into_iter().map(|(name, n)| (unit.clone(), name, n)));
            }
            Table::Names(rows)
        }
    }
}

/// The kind of the column that is summed.
fn column_kind(format: Format, request: &Request) -> Kind {
    let Measure::Mean(name) = &request.measure else {
        return Kind::Integer;
    };
    let column = format.columns().iter().find(|c| c.name == name);
    column.map_or(Kind::Float, |c| c.kind)
}

/// Places of the columns that a pass reads.
const USER: usize = 0;
const PEER: usize = 1;
const VALUE: usize = 2;
const NAME: usize = 3;
const MAC: usize = 4;
const LABELS: usize = 5;

/// One thread's pass over pieces.
struct Pass<'a> {
    request: &'a Request,
    databases: &'a Databases,
    /// Names of the columns, by place; empty where none is needed.
    columns: Vec<&'a str>,
    /// What the columns with labels must hold.
    labels: Vec<i64>,
    kind: Kind,
    peer: Option<String>,
    pattern: Option<Pattern>,
    sums: Sums,
    /// What is known of texts.
    asns: HashMap<Vec<u8>, bool>,
    names: HashMap<Vec<u8>, bool>,
    inside: HashMap<Vec<u8>, bool>,
}

/// The fields of one line.
#[derive(Default)]
struct Line {
    fields: Vec<Vec<u8>>,
    present: Vec<bool>,
}

impl Line {
    fn get(&self, at: usize) -> Option<&[u8]> {
        self.present
            .get(at)
            .filter(|p| **p)
            .map(|_| self.fields[at].as_slice())
    }
}

impl<'a> Pass<'a> {
    fn new(format: Format, request: &'a Request, databases: &'a Databases) -> Self {
        let roles = format.roles();
        let outgoing = request.direction == Direction::Outgoing;
        let (user, peer) = if outgoing {
            (roles.client, roles.server)
        } else {
            (roles.server, roles.client)
        };
        let value = match &request.measure {
            Measure::Bytes(_) => request.bytes_column(format),
            Measure::Mean(name) => name.as_str(),
            Measure::Flows | Measure::Any | Measure::Names => "",
        };
        let named = request.filter.name.is_some() || request.measure == Measure::Names;
        let name = roles.domain.filter(|_| named).unwrap_or_default();
        let [client_mac, server_mac] = roles.macs.unwrap_or_default();
        let mac = match (request.unit, outgoing) {
            (UnitKey::Mac, true) => client_mac,
            (UnitKey::Mac, false) => server_mac,
            _ => "",
        };
        let mut columns = vec![user, peer, value, name, mac];
        let mut labels = Vec::new();
        if request.home.is_empty() {
            columns.extend(roles.labels);
            labels = match (format, outgoing) {
                (Format::Tstat, true) => vec![1, 0],
                (Format::Tstat, false) => vec![0, 1],
                (Format::Nfdump | Format::Chaff, _) => vec![i64::from(outgoing)],
            };
        }
        Self {
            request,
            databases,
            columns,
            labels,
            kind: column_kind(format, request),
            peer: request.filter.ip.map(|ip| ip.to_string()),
            pattern: request.filter.name.as_ref().map(Pattern::new),
            sums: Sums::new(),
            asns: HashMap::new(),
            names: HashMap::new(),
            inside: HashMap::new(),
        }
    }

    fn read(&mut self, piece: &Piece) -> io::Result<()> {
        let mut rows = Rows::new(piece, self.columns.iter().copied())?;
        let mut line = Line {
            fields: vec![Vec::new(); self.columns.len()],
            present: vec![false; self.columns.len()],
        };
        loop {
            line.present.fill(false);
            let more = rows.next_row(|at, field| {
                line.present[at] = true;
                line.fields[at].clear();
                line.fields[at].extend_from_slice(field);
            })?;
            if !more {
                return Ok(());
            }
            self.add(&line);
        }
    }

    fn add(&mut self, line: &Line) {
        let Some(user) = line.get(USER).and_then(address) else {
            return;
        };
        if !self.belongs(line) {
            return;
        }
        let counts = self.counts(line);
        let unit: &str = match self.request.unit {
            UnitKey::Address => &user,
            UnitKey::Mac => &String::from_utf8_lossy(line.get(MAC).unwrap_or_default()),
            UnitKey::Network => &network(&user),
            UnitKey::Listed => match &self.databases.units {
                Some(units) => units.of(&user),
                None => &user,
            },
        };
        // Units without a flow that counts stay in the table.
        let sum = match self.sums.get_mut(unit) {
            Some(sum) => sum,
            None => self.sums.entry(unit.to_owned()).or_default(),
        };
        if !counts {
            return;
        }
        match &self.request.measure {
            Measure::Bytes(_) => {
                sum.sum += i128::from(line.get(VALUE).and_then(integer).unwrap_or(0));
            }
            Measure::Mean(_) => {
                let value = line.get(VALUE).and_then(|field| match self.kind {
                    Kind::Float => {
                        float(field).map(|v| (v * 10f64.powi(DIGITS.into())).round() as i128)
                    }
                    _ => integer(field).map(i128::from),
                });
                if let Some(value) = value {
                    sum.sum += value;
                    sum.count += 1;
                }
            }
            Measure::Flows | Measure::Any => sum.count += 1,
            Measure::Names => {
                let name = line.get(NAME).unwrap_or_default();
                if !matches!(name, b"" | b"-") {
                    let name = String::from_utf8_lossy(name).into_owned();
                    *sum.names.entry(name).or_default() += 1;
                }
            }
        }
    }

    /// Whether the flow is in the population at all.
    fn belongs(&mut self, line: &Line) -> bool {
        if !self.request.home.is_empty() {
            let home = &self.request.home;
            let memory = &mut self.inside;
            return line
                .get(USER)
                .is_some_and(|user| remember(memory, user, |u| inside(home, u)))
                && line
                    .get(PEER)
                    .is_some_and(|peer| !remember(memory, peer, |p| inside(home, p)));
        }
        self.labels
            .iter()
            .enumerate()
            .all(|(index, want)| line.get(LABELS + index).and_then(label) == Some(*want))
    }

    /// Whether the flow passes the filter.
    fn counts(&mut self, line: &Line) -> bool {
        let filter = &self.request.filter;
        let peer = line.get(PEER);
        if let Some(want) = &self.peer
            && peer.and_then(address).as_deref() != Some(want)
        {
            return false;
        }
        if let (Some(want), Some(asns)) = (filter.asn, &self.databases.asns) {
            let known = |bytes: &[u8]| parsed(bytes).and_then(|a| asns.lookup(a)) == Some(want);
            if !peer.is_some_and(|p| remember(&mut self.asns, p, known)) {
                return false;
            }
        }
        match (&self.pattern, line.get(NAME)) {
            (None, _) => true,
            (Some(pattern), Some(name)) => remember(&mut self.names, name, |n| {
                pattern.fits(&String::from_utf8_lossy(n))
            }),
            (Some(_), None) => false,
        }
    }
}

/// What `find` says of a text, asked once while there is room.
fn remember(
    memory: &mut HashMap<Vec<u8>, bool>,
    text: &[u8],
    find: impl FnOnce(&[u8]) -> bool,
) -> bool {
    if let Some(known) = memory.get(text) {
        return *known;
    }
    let found = find(text);
    if memory.len() < REMEMBERED {
        memory.insert(text.to_vec(), found);
    }
    found
}

/// Whose flow it is, as a number: Chaff writes `out` and `in`.
fn label(field: &[u8]) -> Option<i64> {
    match field {
        b"out" => Some(1),
        b"in" => Some(0),
        other => integer(other),
    }
}

fn parsed(bytes: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn inside(home: &[Network], bytes: &[u8]) -> bool {
    parsed(bytes).is_some_and(|address| home.iter().any(|n| n.contains(address)))
}

/// An IPv6 address without its lower 64 bits; others as they are.
pub(crate) fn network(text: &str) -> String {
    match text.parse() {
        Ok(IpAddr::V6(address)) => Network::new(address.into(), 64).map(|n| n.first.to_string()),
        _ => None,
    }
    .unwrap_or_else(|| text.to_owned())
}

/// A choice of names, ready to be tried.
#[derive(Debug)]
struct Pattern {
    parts: Vec<Part>,
    /// Also anything that ends in a point and the text.
    below: bool,
    ignore_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Letter(char),
    AnyLetter,
    AnyText,
}

impl Pattern {
    fn new(name: &Name) -> Self {
        let fold = |c: char| if name.ignore_case { folded(c) } else { c };
        let literal = |text: &str| text.chars().map(|c| Part::Letter(fold(c))).collect();
        let parts = match &name.matching {
            Matching::Domain(text) | Matching::Subdomains(text) => literal(text),
            Matching::Pattern(text) => {
                let mut parts = Vec::new();
                let mut rest = text.chars().peekable();
                while let Some(c) = rest.next() {
                    parts.push(match (c, rest.peek()) {
                        ('%', _) => Part::AnyText,
                        ('_', _) => Part::AnyLetter,
                        ('\\', Some(next @ ('%' | '_' | '\\'))) => {
                            let part = Part::Letter(*next);
                            rest.next();
                            part
                        }
                        (c, _) => Part::Letter(fold(c)),
                    });
                }
                parts
            }
        };
        Self {
            parts,
            below: matches!(name.matching, Matching::Subdomains(_)),
            ignore_case: name.ignore_case,
        }
    }

    fn fits(&self, name: &str) -> bool {
        let letters: Vec<char> = if self.ignore_case {
            name.chars().map(folded).collect()
        } else {
            name.chars().collect()
        };
        if fits(&self.parts, &letters) {
            return true;
        }
        let from = letters.len().checked_sub(self.parts.len());
        self.below
            && from.is_some_and(|from| {
                from > 0 && letters[from - 1] == '.' && fits(&self.parts, &letters[from..])
            })
    }
}

fn folded(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn fits(parts: &[Part], letters: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to try again with one more letter for the newest `%`.
    let mut again: Option<(usize, usize)> = None;
    while n < letters.len() {
        match parts.get(p) {
            Some(Part::AnyText) => {
                again = Some((p + 1, n));
                p += 1;
            }
            Some(Part::AnyLetter) => (p, n) = (p + 1, n + 1),
            Some(Part::Letter(c)) if *c == letters[n] => (p, n) = (p + 1, n + 1),
            Some(Part::Letter(_)) | None => match again {
                Some((after, from)) => {
                    (p, n) = (after, from + 1);
                    again = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    parts[p..].iter().all(|part| *part == Part::AnyText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str, ignore_case: bool) -> Pattern {
        Pattern::new(&Name {
            matching: Matching::Pattern(text.to_owned()),
            ignore_case,
        })
    }

    #[test]
    fn patterns_fit_as_like_does() {
        for (text, name, want) in [
            ("%video%", "a.video.b", true),
            ("%video%", "a.VIDEO.b", false),
            ("iot_hub", "iotxhub", true),
            (r"iot\_hub", "iotxhub", false),
            (r"iot\_hub", "iot_hub", true),
            (r"100\%", "100%", true),
            (r"100\%", "1000", false),
            ("%a%b", "xaybxb", true),
            ("%", "", true),
            ("", "", true),
            ("", "x", false),
            ("_", "é", true),
            (r"a\b", r"a\b", true),
            (r"a\\b", r"a\b", true),
            ("a%%b", "ab", true),
        ] {
            assert_eq!(pattern(text, false).fits(name), want, "{text} {name}");
        }
        assert!(pattern("%Video%", true).fits("a.vIDEO.b"));
    }

    #[test]
    fn names_below_a_name_end_in_it() {
        let below = Pattern::new(&Name {
            matching: Matching::Subdomains("b.example".to_owned()),
            ignore_case: true,
        });
        for (name, want) in [
            ("b.example", true),
            ("a.B.example", true),
            ("ab.example", false),
            ("example", false),
            ("b.example.org", false),
        ] {
            assert_eq!(below.fits(name), want, "{name}");
        }
    }

    #[test]
    fn networks_of_addresses() {
        assert_eq!(network("2001:db8::1:2:3:4"), "2001:db8::");
        assert_eq!(network("10.0.0.1"), "10.0.0.1");
        assert_eq!(network("x"), "x");
    }
}
