//! Flow logs in one pass: what a question needs of each flow, straight into a table of units.
//!
//! # Why no query engine
//! Chaff's plan had DataFusion here. A question is one filter and one sum for each unit, though, and nothing of it is SQL.
//! This pass takes half of the CPU that DataFusion 55 needs for that sum alone over text and less over Parquet
//! (`cargo xtask bench query`), 15 MB of memory and not 220, and adds no 200 crates to a build. Sums are whole numbers, so
//! that threads and files give one answer in any order. Past one machine an engine is worth its weight: programs with
//! another [`Engine`] share [`crate::sums`] and [`crate::pattern`].

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;

use crate::cell::{Cell, address};
use crate::engine::{Databases, Engine, Failure, Table, threads};
use crate::flows::{Direction, Format, Kind};
use crate::pattern::Pattern;
use crate::request::{Matching, Measure, Name, Network, Request, UnitKey};
use crate::source::{Piece, Source};
use crate::sums::{Sum, Sums, column_kind, merge, table, whole};

/// Texts that are remembered at most, by purpose.
const REMEMBERED: usize = 1 << 16;

/// One pass over files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain {
    /// Threads; 0 for as many as there are processors.
    pub threads: usize,
}

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
            let pass = || {
                scope.spawn(|| {
                    let mut pass = Pass::new(source.format, request, databases);
                    let mut done = Ok(());
                    while done.is_ok() {
                        let Some(piece) = locked().0.next() else {
                            break;
                        };
                        done = pass.read(&piece);
                    }
                    locked().1.push(done.map(|()| pass.units.into_sums()));
                })
            };
            let passes: Vec<_> = std::iter::repeat_with(pass).take(threads).collect();
            for pass in passes {
                // One that panicked, on a broken file, has left nothing: that is counted below.
                let _ = pass.join();
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

/// Places of the columns that a pass reads.
const USER: usize = 0;
const PEER: usize = 1;
const VALUE: usize = 2;
const NAME: usize = 3;
const MAC: usize = 4;
const LABELS: usize = 5;
const PLACES: usize = 7;

type Row<'a> = [Cell<'a>; PLACES];

/// One thread's pass over pieces.
struct Pass<'a> {
    request: &'a Request,
    databases: &'a Databases,
    /// Names of the columns, by place; empty where none is needed.
    columns: [&'a str; PLACES],
    /// What the columns with labels must hold.
    labels: Vec<i64>,
    kind: Kind,
    peer: Option<String>,
    names: Names,
    units: Units,
    /// What is known of texts.
    asns: Memory,
    inside: Memory,
    /// What is known of the numbered words of the piece that is read: place of the unit, whether the name counts.
    users: Vec<Option<u32>>,
    named: Vec<Option<bool>>,
}

type Memory = HashMap<Box<[u8]>, bool, RandomState>;

impl<'a> Pass<'a> {
    fn new(format: Format, request: &'a Request, databases: &'a Databases) -> Self {
        let roles = format.roles();
        let outgoing = request.direction == Direction::Outgoing;
        let (user, peer) = request.sides(format);
        let mut columns = [""; PLACES];
        columns[USER] = user;
        if request.needs_peer() {
            columns[PEER] = peer;
        }
        columns[VALUE] = match &request.measure {
            Measure::Bytes(_) => request.bytes_column(format),
            Measure::Mean(name) => name.as_str(),
            Measure::Flows | Measure::Any | Measure::Names => "",
        };
        if request.filter.name.is_some() || request.measure == Measure::Names {
            columns[NAME] = roles.domain.unwrap_or_default();
        }
        if request.unit == UnitKey::Mac {
            columns[MAC] = request.mac_column(format).unwrap_or_default();
        }
        let mut labels = Vec::new();
        if request.home.is_empty() {
            for (place, label) in columns[LABELS..].iter_mut().zip(roles.labels) {
                *place = label;
            }
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
            names: Names::new(request.filter.name.as_ref()),
            units: Units::default(),
            asns: Memory::default(),
            inside: Memory::default(),
            users: Vec::new(),
            named: Vec::new(),
        }
    }

    fn read(&mut self, piece: &Piece) -> io::Result<()> {
        let columns = self.columns;
        self.users.clear();
        self.named.clear();
        piece.each(&columns, |row| self.add(row)).map(|_| ())
    }

    fn add(&mut self, row: &Row<'_>) {
        if !self.belongs(row) {
            return;
        }
        // Units without a flow that counts stay in the table.
        let Some(unit) = self.unit(row) else {
            return;
        };
        if !self.counts(row) {
            return;
        }
        let sum = &mut self.units.sums[unit];
        match &self.request.measure {
            Measure::Bytes(_) => sum.sum += i128::from(row[VALUE].integer().unwrap_or(0)),
            Measure::Mean(_) => {
                let value = match self.kind {
                    Kind::Float => row[VALUE].float().map(whole),
                    _ => row[VALUE].integer().map(i128::from),
                };
                if let Some(value) = value {
                    sum.sum += value;
                    sum.count += 1;
                }
            }
            Measure::Flows | Measure::Any => sum.count += 1,
            Measure::Names => {
                let name = row[NAME].text().unwrap_or_default();
                if !matches!(name, b"" | b"-") {
                    let name = String::from_utf8_lossy(name);
                    match sum.names.get_mut(name.as_ref()) {
                        Some(flows) => *flows += 1,
                        None => {
                            sum.names.insert(name.into_owned(), 1);
                        }
                    }
                }
            }
        }
    }

    /// Whether the flow is in the population at all.
    fn belongs(&mut self, row: &Row<'_>) -> bool {
        if self.request.home.is_empty() {
            let mut labels = self.labels.iter().zip(&row[LABELS..]);
            return labels.all(|(want, cell)| label(*cell) == Some(*want));
        }
        let home = &self.request.home;
        let mut inside = |cell: Cell<'_>| {
            let text = cell.text()?;
            Some(remember(&mut self.inside, text, |t| {
                parsed(t).is_some_and(|address| home.iter().any(|n| n.contains(address)))
            }))
        };
        inside(row[USER]) == Some(true) && inside(row[PEER]) == Some(false)
    }

    /// The unit whose flow it is; nothing when the flow has no user.
    fn unit(&mut self, row: &Row<'_>) -> Option<usize> {
        let cell = match self.request.unit {
            UnitKey::Mac => row[MAC],
            UnitKey::Address | UnitKey::Network | UnitKey::Listed => row[USER],
        };
        if let Cell::Word { number, .. } = cell
            && let Some(Some(unit)) = self.users.get(number as usize)
            && (self.request.unit != UnitKey::Mac || has_text(row[USER]))
        {
            return Some(*unit as usize);
        }
        if !has_text(row[USER]) {
            return None;
        }
        let unit = self.unit_of(cell.text().unwrap_or_default())?;
        if let Cell::Word { number, .. } = cell {
            note(&mut self.users, number, unit as u32);
        }
        Some(unit)
    }

    fn unit_of(&mut self, key: &[u8]) -> Option<usize> {
        if let Some(unit) = self.units.known.get(key) {
            return Some(*unit as usize);
        }
        let text = match self.request.unit {
            UnitKey::Mac => String::from_utf8_lossy(key),
            UnitKey::Address | UnitKey::Network | UnitKey::Listed => address(key)?,
        };
        let groups = self.databases.units.as_ref();
        Some(match self.request.unit {
            UnitKey::Address | UnitKey::Mac => self.units.find(key, &text),
            UnitKey::Network => self.units.find(key, &network(&text)),
            UnitKey::Listed => {
                let group = groups.map_or(text.as_ref(), |g| g.of(&text));
                self.units.find(key, group)
            }
        })
    }

    /// Whether the flow passes the filter.
    fn counts(&mut self, row: &Row<'_>) -> bool {
        let filter = &self.request.filter;
        let peer = row[PEER].text();
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
        let Cell::Word { number, .. } = row[NAME] else {
            return self.names.fit(row[NAME]);
        };
        if let Some(Some(known)) = self.named.get(number as usize) {
            return *known;
        }
        let fits = self.names.fit(row[NAME]);
        note(&mut self.named, number, fits);
        fits
    }
}

fn has_text(cell: Cell<'_>) -> bool {
    cell.text().is_some_and(|text| !text.is_empty())
}

/// Notes what is known of a numbered word.
fn note<T: Clone>(known: &mut Vec<Option<T>>, number: u32, what: T) {
    let at = number as usize;
    if known.len() <= at {
        known.resize(at + 1, None);
    }
    known[at] = Some(what);
}

/// Units as they come up.
#[derive(Default)]
struct Units {
    /// Places of units by what stands in the log.
    known: HashMap<Box<[u8]>, u32, RandomState>,
    /// And by name.
    names: HashMap<String, u32, RandomState>,
    sums: Vec<Sum>,
}

impl Units {
    /// The place of a unit, a new one when its name did not come up yet.
    fn find(&mut self, key: &[u8], name: &str) -> usize {
        let place = match self.names.get(name) {
            Some(place) => *place,
            None => {
                // More units than that have no room in memory.
                let place = self.sums.len() as u32;
                self.names.insert(name.to_owned(), place);
                self.sums.push(Sum::default());
                place
            }
        };
        if self.known.len() < REMEMBERED {
            self.known.insert(key.into(), place);
        }
        place as usize
    }

    fn into_sums(mut self) -> Sums {
        let named = self.names.into_iter();
        named
            .map(|(name, place)| (name, std::mem::take(&mut self.sums[place as usize])))
            .collect()
    }
}

/// Which server names count.
enum Names {
    All,
    /// This one, letter by letter.
    One(Vec<u8>),
    Fitting(Pattern, Memory),
}

impl Names {
    fn new(name: Option<&Name>) -> Self {
        match name {
            None => Self::All,
            Some(Name {
                matching: Matching::Domain(domain),
                ignore_case: false,
            }) if !domain.contains(char::REPLACEMENT_CHARACTER) => {
                Self::One(domain.clone().into_bytes())
            }
            Some(name) => Self::Fitting(Pattern::new(name), Memory::default()),
        }
    }

    fn fit(&mut self, name: Cell<'_>) -> bool {
        match (self, name.text()) {
            (Self::All, _) => true,
            (_, None) => false,
            (Self::One(want), Some(name)) => want == name,
            (Self::Fitting(pattern, memory), Some(name)) => {
                remember(memory, name, |n| pattern.fits(&String::from_utf8_lossy(n)))
            }
        }
    }
}

/// What `find` says of a text, asked once while there is room.
fn remember(memory: &mut Memory, text: &[u8], find: impl FnOnce(&[u8]) -> bool) -> bool {
    if let Some(known) = memory.get(text) {
        return *known;
    }
    let found = find(text);
    if memory.len() < REMEMBERED {
        memory.insert(text.into(), found);
    }
    found
}

/// Whose flow it is, as a number: Chaff writes `out` and `in`.
fn label(cell: Cell<'_>) -> Option<i64> {
    match cell {
        Cell::Text(b"out") | Cell::Word { text: b"out", .. } => Some(1),
        Cell::Text(b"in") | Cell::Word { text: b"in", .. } => Some(0),
        other => other.integer(),
    }
}

fn parsed(bytes: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// An IPv6 address without its lower 64 bits; others as they are.
pub fn network(text: &str) -> String {
    match text.parse() {
        Ok(IpAddr::V6(address)) => Network::new(address.into(), 64).map(|n| n.first.to_string()),
        _ => None,
    }
    .unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_addresses() {
        assert_eq!(network("2001:db8::1:2:3:4"), "2001:db8::");
        assert_eq!(network("10.0.0.1"), "10.0.0.1");
        assert_eq!(network("x"), "x");
    }

    #[test]
    fn more_texts_than_are_remembered_are_the_same_units() {
        let mut units = Units::default();
        for round in 0..2 {
            for n in 0..REMEMBERED + 10 {
                let name = n.to_string();
                assert_eq!(units.find(name.as_bytes(), &name), n, "{round}");
            }
        }
        assert_eq!(units.into_sums().len(), REMEMBERED + 10);
    }
}
