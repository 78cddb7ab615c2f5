//! The marginal method: which tables, and how they are made with noise.

use std::collections::{BTreeMap, BTreeSet};

use chaff_privacy::{ReleaseError, Tables};

use crate::address::{KINDS, key, kind};
use crate::chain::{Chain, Level};
use crate::encode::*;
use crate::fit::PrivateOptions;
use crate::grid::{Grid, MOST, octaves};
use crate::model::{Info, Method, Model};
use crate::private_packets::{self, Chosen};
use crate::table::{Record, Table, has_ports};
use crate::{SynthError, rules};

/// Fields in the order in which they are drawn; each table's parents come before it.
pub(crate) const ORDER: [usize; 11] = [
    LABEL, SERVICE, TIME, SRC, DST, SRC_RANGE, DST_RANGE, PACKETS, SIZE, DURATION, HOPS,
];
/// The most cells of a table that gets noise.
const MAX_CELLS: usize = 1 << 21;
/// Protocols whose ports are counted.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// The parents of each field's tables, longest first; chosen by what protocols are like, not by the data.
pub(crate) fn plan(large: bool) -> Vec<Vec<Vec<usize>>> {
    let mut plan = vec![vec![vec![]]; FIELDS];
    let mut set = |field: usize, tables: &[&[usize]]| {
        plan[field] = tables.iter().map(|t| t.to_vec()).chain([vec![]]).collect();
    };
    set(SRC, &[&[SERVICE]]);
    set(DST, &[&[SERVICE]]);
    set(PACKETS, &[&[PROTOCOL]]);
    set(SIZE, &[&[PROTOCOL]]);
    set(DURATION, &[&[PROTOCOL]]);
    if large {
        set(SERVICE, &[&[LABEL]]);
        set(TIME, &[&[LABEL]]);
        set(SRC, &[&[LABEL, SERVICE], &[LABEL]]);
        set(DST, &[&[SRC, SERVICE], &[SERVICE]]);
        set(SRC_RANGE, &[&[SERVICE]]);
        set(DST_RANGE, &[&[SERVICE]]);
        set(PACKETS, &[&[SERVICE, LABEL], &[SERVICE]]);
        set(
            SIZE,
            &[&[SERVICE, PACKETS, LABEL], &[SERVICE, PACKETS], &[SERVICE]],
        );
        set(DURATION, &[&[SERVICE, PACKETS], &[SERVICE]]);
    }
    plan
}

/// Keys of a field's contexts, longest first.
pub(crate) fn contexts(
    parents: &[Vec<Vec<usize>>],
    field: usize,
    now: &Symbols,
    out: &mut Vec<u64>,
) {
    out.clear();
    for table in parents.get(field).map_or(&[][..], Vec::as_slice) {
        out.push(context(table, |f| now[f]));
    }
}

pub(crate) fn context(parents: &[usize], symbol: impl Fn(usize) -> u32) -> u64 {
    parents.iter().fold(key(&[parents.len() as u64]), |h, f| {
        key(&[h, u64::from(symbol(*f))])
    })
}

/// A cell below it is taken for noise: few of `cells` empty ones are above.
pub(crate) fn threshold(sigma: f64, cells: usize) -> f64 {
    let usual = (2.0 * (cells.max(2) as f64).ln()).sqrt();
    sigma * (usual - 0.8).max(1.5)
}

/// The budget, in shares.
pub(crate) struct Purse<'a> {
    tables: &'a mut Tables,
    unit: f64,
}

impl Purse<'_> {
    pub(crate) fn count(
        &mut self,
        name: &str,
        share: f64,
        cells: usize,
        hits: impl Iterator<Item = Option<usize>>,
    ) -> Result<(Vec<f64>, f64), ReleaseError> {
        let mut counts = vec![0i64; cells];
        for cell in hits.flatten() {
            if let Some(count) = counts.get_mut(cell) {
                *count += 1;
            }
        }
        let rho = (share * self.unit).min(self.tables.left());
        let sigma = self.tables.release(name, &mut counts, rho)?;
        Ok((counts.into_iter().map(|c| c as f64).collect(), sigma))
    }

    pub(crate) fn grid(
        &mut self,
        name: &str,
        share: f64,
        values: &[u64],
        start: &[(u64, u64)],
        levels: usize,
    ) -> Result<(Grid, Vec<f64>), ReleaseError> {
        let rho = (share * self.unit).min(self.tables.left());
        Grid::noisy(values, start, levels, self.tables, name, rho)
    }
}

/// Shares of the budget that each step gets; they add up to what [`Purse::unit`] is divided by.
struct Shares {
    count: f64,
    labels: f64,
    ports: f64,
    services: f64,
    hosts: [f64; 2],
    host_kinds: [f64; 2],
    ranks: f64,
    range: f64,
    time: f64,
    packets: f64,
    sizes: f64,
    durations: f64,
    port_ranges: f64,
    table: f64,
}

const SHARES: Shares = Shares {
    count: 0.01,
    labels: 0.02,
    ports: 0.06,
    services: 0.12,
    hosts: [0.04, 0.08],
    host_kinds: [0.03, 0.05],
    ranks: 0.03,
    range: 0.04,
    time: 0.05,
    packets: 0.06,
    sizes: 0.08,
    durations: 0.08,
    port_ranges: 0.02,
    table: 0.06,
};

impl Shares {
    fn sum(&self, plan: &[Vec<Vec<usize>>]) -> f64 {
        let tables: usize = plan.iter().map(|t| t.len() - 1).sum();
        self.count
            + self.labels
            + 2.0 * self.ports
            + self.services
            + self.hosts[0]
            + self.hosts[1]
            + self.host_kinds[0]
            + self.host_kinds[1]
            + 2.0 * self.ranks
            + self.range
            + self.time
            + self.packets
            + self.sizes
            + self.durations
            + 2.0 * self.port_ranges
            + self.table * tables as f64
    }
}

/// Learns from noisy counts only. The table is sorted and its contributions bounded; `chosen` has a packet of each record of
/// a capture.
pub(crate) fn fit(
    table: &Table,
    chosen: Option<&[Chosen]>,
    options: &PrivateOptions,
    tables: &mut Tables,
) -> Result<Model, SynthError> {
    let records = &table.records;
    let shares = &SHARES;
    let of_packets = chosen.map_or(0.0, |_| private_packets::SHARES.sum());
    let total = tables.rho() * 0.999;
    // The count decides between the small and the large plan, so it is paid from the dearer one.
    let mut purse = Purse {
        unit: total / (shares.sum(&plan(true)) + of_packets),
        tables,
    };
    let (n, _) = purse.count("records", shares.count, 1, records.iter().map(|_| Some(0)))?;
    let n = n[0].max(1.0);
    let per_unit = f64::from(options.unit.most());
    let mut parents = plan(n / per_unit >= 5000.0);
    if table.labels.len() < 2 {
        // A label that says nothing takes no table.
        for list in &mut parents {
            for table in list.iter_mut() {
                table.retain(|f| *f != LABEL);
            }
            list.dedup();
        }
    }
    purse.unit = purse.tables.left() * 0.999 / (shares.sum(&parents) + of_packets);
    if chosen.is_some() {
        private_packets::plan(&mut parents);
    }

    let mut ones: Vec<Vec<f64>> = vec![vec![1.0]; FIELDS];
    if table.labels.len() > 1 {
        let hits = records.iter().map(|r| Some(r.label as usize));
        let (counts, sigma) = purse.count("labels", shares.labels, table.labels.len(), hits)?;
        ones[LABEL] = positive(&counts, sigma);
    }
    let ports = known_ports(records, &mut purse)?;
    let (time, time_weights) = times(records, (options, table.capture), n, &mut purse)?;
    let values = |value: &dyn Fn(&Record) -> u64| records.iter().map(value).collect::<Vec<u64>>();
    // Flows of captures have at most 2^16 packets of 2^16 bytes and are cut in time; tables may have anything.
    let first = |most: usize| {
        let mut bins = octaves();
        if table.capture {
            bins.truncate(most);
        }
        bins
    };
    let (packets, w) = purse.grid(
        "packets",
        shares.packets,
        &values(&|r| r.packets),
        &first(17),
        3,
    )?;
    ones[PACKETS] = w;
    let (sizes, w) = purse.grid(
        "bytes per packet",
        shares.sizes,
        &values(&size_code),
        &first(18),
        4,
    )?;
    ones[SIZE] = w;
    let (durations, w) = purse.grid(
        "durations",
        shares.durations,
        &values(&|r| r.duration_us),
        &first(30),
        4,
    )?;
    ones[DURATION] = w;
    ones[TIME].clone_from(&time_weights);
    let mut encoder = Encoder {
        labels: table.labels.clone(),
        label_column: table.label_column.clone(),
        capture: table.capture,
        odd_ports: false,
        units_us: (1, 1),
        time,
        time_weights,
        ports,
        services: Vec::new(),
        hosts: Hosts::Hashed(known_hosts(records, &mut purse)?),
        packets,
        sizes,
        durations,
        hops: vec![(64, 0, 0)],
    };
    (encoder.services, ones[SERVICE]) = services(records, &encoder, &mut purse)?;
    let index = encoder.index();
    let symbols: Vec<Symbols> = records.iter().map(|r| encoder.symbols(&index, r)).collect();
    for (side, field, name) in [(0, SRC, "source hosts"), (1, DST, "destination hosts")] {
        let hits = symbols.iter().map(|s| Some(s[field] as usize));
        let cells = encoder.size(field) as usize;
        let (mut counts, sigma) = purse.count(name, shares.host_kinds[side], cells, hits)?;
        for (symbol, count) in counts.iter_mut().enumerate() {
            if !host_allowed(&encoder, symbol as u32, side == 0) {
                *count = 0.0;
            }
        }
        ones[field] = positive(&counts, sigma);
    }
    for (field, name) in [
        (SRC_RANGE, "source port ranges"),
        (DST_RANGE, "destination port ranges"),
    ] {
        let hits = records.iter().zip(&symbols).map(|(r, s)| {
            let port = if field == SRC_RANGE {
                r.src_port
            } else {
                r.dst_port
            };
            (has_ports(r.protocol) && encoder.ports.binary_search(&port).is_err())
                .then_some(s[field] as usize)
        });
        let (counts, sigma) = purse.count(name, shares.port_ranges, 128, hits)?;
        ones[field] = positive(&counts, sigma * 0.5);
    }
    let pools = [
        ranks(
            records
                .iter()
                .zip(&symbols)
                .filter(|(_, s)| other(s[SRC]))
                .map(|(r, _)| r.src),
            n,
            "source ranks",
            &mut purse,
        )?,
        ranks(
            records
                .iter()
                .zip(&symbols)
                .filter(|(_, s)| other(s[DST]))
                .map(|(r, _)| r.dst),
            n,
            "destination ranks",
            &mut purse,
        )?,
    ];
    let mut chains = vec![Chain::default(); FIELDS];
    let mut packets = None;
    if let Some(chosen) = chosen {
        (encoder.hops, chains[HOPS]) = private_packets::hops(records, &mut purse)?;
        let (model, more) = private_packets::learn(chosen, &mut purse)?;
        packets = Some(model);
        chains.extend(more);
    }
    for field in ORDER {
        if !chains[field].levels.is_empty() {
            continue;
        }
        let mut list = Vec::new();
        for table in parents[field].iter().filter(|t| !t.is_empty()) {
            list.push(noisy_level(
                &encoder, &symbols, field, table, &ones, &mut purse,
            )?);
        }
        let last = ones[field]
            .iter()
            .enumerate()
            .map(|(s, w)| (s as u32, *w))
            .collect();
        list.push(Level::from_weights([(context(&[], |_| 0), last, 0.0)]));
        chains[field].levels = list;
    }
    Ok(Model {
        info: Info {
            version: 1,
            method: Method::Marginal,
            records: n.round().max(1.0) as u64,
            fresh_addresses: true,
            packets: 0,
            privacy: None,
        },
        encoder,
        parents,
        pools,
        chains,
        packets,
    })
}

fn other(symbol: u32) -> bool {
    (FIRST_KIND..FIRST_KNOWN).contains(&symbol)
}

/// Sources are hosts (or zero, before they have an address); destinations are not zero.
fn host_allowed(encoder: &Encoder, symbol: u32, source: bool) -> bool {
    let kind = encoder.host_kind(symbol);
    if symbol == 0 || symbol == 9 {
        return source;
    }
    !(source && matches!(kind, 2 | 3 | 7))
}

/// Counts above the threshold; when none is, the largest.
fn positive(counts: &[f64], sigma: f64) -> Vec<f64> {
    let least = threshold(sigma, counts.len());
    let mut out: Vec<f64> = counts
        .iter()
        .map(|c| if *c >= least { *c } else { 0.0 })
        .collect();
    if out.iter().all(|w| *w == 0.0) {
        let best = (0..counts.len()).max_by(|a, b| counts[*a].total_cmp(&counts[*b]));
        if let Some(best) = best {
            out[best] = 1.0;
        }
    }
    out
}

/// Cells above the threshold, at most `most`, the heaviest first.
pub(crate) fn heavy(counts: &[f64], sigma: f64, most: usize) -> Vec<usize> {
    let least = threshold(sigma, counts.len());
    let mut cells: Vec<usize> = (0..counts.len()).filter(|c| counts[*c] >= least).collect();
    cells.sort_by(|a, b| counts[*b].total_cmp(&counts[*a]).then(a.cmp(b)));
    cells.truncate(most);
    cells
}

fn known_ports(records: &[Record], purse: &mut Purse<'_>) -> Result<Vec<u16>, ReleaseError> {
    let mut known = BTreeSet::new();
    for (name, port) in [
        ("source ports", (|r| r.src_port) as fn(&Record) -> u16),
        ("destination ports", |r| r.dst_port),
    ] {
        let hits = records
            .iter()
            .map(|r| has_ports(r.protocol).then(|| usize::from(port(r))));
        let (counts, sigma) = purse.count(name, SHARES.ports, 1 << 16, hits)?;
        known.extend(
            heavy(&counts, sigma, 60)
                .into_iter()
                .filter(|p| *p > 0)
                .map(|p| p as u16),
        );
    }
    Ok(known.into_iter().collect())
}

fn known_hosts(records: &[Record], purse: &mut Purse<'_>) -> Result<Vec<(u32, u32)>, ReleaseError> {
    let mut known = BTreeSet::new();
    for (side, name) in [(0, "source addresses"), (1, "destination addresses")] {
        let hits = records.iter().map(|r| {
            let address = if side == 0 { r.src } else { r.dst };
            (!crate::address::COMMON.contains(&address))
                .then(|| (kind(address) * BUCKETS + bucket(address)) as usize)
        });
        let (counts, sigma) =
            purse.count(name, SHARES.hosts[side], KINDS * BUCKETS as usize, hits)?;
        known.extend(
            heavy(&counts, sigma, 150)
                .into_iter()
                .map(|c| (c as u32 / BUCKETS, c as u32 % BUCKETS)),
        );
    }
    Ok(known.into_iter().collect())
}

type Services = (Vec<(u8, u32, u32)>, Vec<f64>);

fn services(
    records: &[Record],
    encoder: &Encoder,
    purse: &mut Purse<'_>,
) -> Result<Services, ReleaseError> {
    let ports = encoder.ports.len() + 5;
    let place = |(protocol, src, dst): (u8, u32, u32)| {
        let nth = WITH_PORTS.iter().position(|p| *p == protocol);
        nth.map_or(
            WITH_PORTS.len() * ports * ports + usize::from(protocol),
            |nth| (nth * ports + src as usize) * ports + dst as usize,
        )
    };
    let cells = WITH_PORTS.len() * ports * ports + 256;
    let hits = records.iter().map(|r| Some(place(encoder.service(r))));
    let (mut counts, sigma) = purse.count("services", SHARES.services, cells, hits)?;
    let mut all = vec![(0u8, 0u32, 0u32); cells];
    for protocol in 0..=255u8 {
        let with = WITH_PORTS.contains(&protocol);
        let range = if with { ports as u32 } else { 1 };
        for src in 0..range {
            for dst in 0..range {
                let cell = place((protocol, src, dst));
                all[cell] = (protocol, src, dst);
                let allowed = |symbol: u32| {
                    encoder
                        .ports
                        .get(symbol as usize)
                        .is_none_or(|p| rules::port_allowed(*p, protocol))
                };
                if with && !(allowed(src) && allowed(dst)) {
                    counts[cell] = 0.0;
                }
            }
        }
    }
    let mut kept = heavy(&counts, sigma, 256);
    if kept.is_empty() {
        kept.extend((0..cells).max_by(|a, b| counts[*a].total_cmp(&counts[*b])));
    }
    Ok((
        kept.iter().map(|c| all[*c]).collect(),
        kept.iter().map(|c| counts[*c].max(1.0)).collect(),
    ))
}

/// What a pcap file can say: 2^32 s since 1970, µs.
const PCAP_US: u64 = (1 << 32) * 1_000_000;
/// Cells of the time line in one round of its search.
const CELLS: usize = 32;

/// Finds the stretch of time that holds nearly all records: in each round the shortest run of cells with 95 % of them, as long as
/// that is half of the stretch or less.
fn search(
    values: &[u64],
    capture: bool,
    n: f64,
    purse: &mut Purse<'_>,
) -> Result<(u64, u64), ReleaseError> {
    // Captures may be as short as a millisecond, and cannot go beyond what a pcap file holds. A round shortens the stretch to a
    // sixteenth; two more are for runs that noise made longer.
    let (mut span, shortest, rounds) = if capture {
        (PCAP_US, 1 << 11, 13)
    } else {
        (MOST + 1, 1 << 22, 10)
    };
    let share = SHARES.range / f64::from(rounds);
    let mut low = 0u64;
    for round in 0..rounds {
        if span <= shortest {
            break;
        }
        let cell = span / CELLS as u64;
        let hits = values
            .iter()
            .map(|v| v.checked_sub(low).map(|far| (far / cell) as usize));
        let (counts, _) = purse.count(&format!("time range, round {round}"), share, CELLS, hits)?;
        let best = |length: usize| {
            let sums = counts.windows(length).map(|run| run.iter().sum::<f64>());
            sums.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
        };
        let found = (2..=CELLS / 2)
            .filter_map(|length| Some((length, best(length)?)))
            .find(|(_, (_, sum))| *sum >= 0.95 * n);
        let Some((length, (first, _))) = found else {
            break;
        };
        low += first as u64 * cell;
        span = length as u64 * cell;
    }
    Ok((low, low + span - 1))
}

/// Bins of start times. Without a public range it is searched.
fn times(
    records: &[Record],
    (options, capture): (&PrivateOptions, bool),
    n: f64,
    purse: &mut Purse<'_>,
) -> Result<(Grid, Vec<f64>), SynthError> {
    let values: Vec<u64> = records.iter().map(|r| r.start_us.min(MOST)).collect();
    let (low, high) = match options.time_range_us {
        Some((low, high)) if low <= high && high <= MOST => (low, high),
        Some((low, high)) => {
            return Err(SynthError::Option {
                name: "time range",
                why: format!("{low}..{high} us is not a range"),
            });
        }
        None => search(&values, capture, n, purse)?,
    };
    let width = high - low + 1;
    let parts = width.min(8);
    let start: Vec<(u64, u64)> = (0..parts)
        .map(|i| {
            let edge =
                |j: u64| low + (u128::from(width) * u128::from(j) / u128::from(parts)) as u64;
            (edge(i), edge(i + 1) - 1)
        })
        .collect();
    let inside: Vec<u64> = values.iter().map(|v| (*v).clamp(low, high)).collect();
    let (grid, mut weights) = purse.grid("start times", SHARES.time, &inside, &start, 3)?;
    if weights.iter().all(|w| *w <= 0.0) {
        weights.fill(1.0);
    }
    Ok((grid, weights))
}

/// How popular the hosts are that are not known one by one: sorted counts with noise, made monotone (Hay, Rastogi,
/// Miklau, Suciu, "Boosting the Accuracy of Differentially Private Histograms", 2010). One record changes one sorted
/// count by one.
fn ranks(
    hosts: impl Iterator<Item = std::net::IpAddr>,
    n: f64,
    name: &str,
    purse: &mut Purse<'_>,
) -> Result<Vec<f64>, ReleaseError> {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for host in hosts {
        *counts.entry(host).or_default() += 1;
    }
    let mut sorted: Vec<usize> = counts.into_values().collect();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let length = n.clamp(1.0, 50_000.0) as usize;
    let mut cells = vec![0i64; length];
    for (cell, count) in cells.iter_mut().zip(&sorted) {
        *cell = *count as i64;
    }
    let rho = (SHARES.ranks * purse.unit).min(purse.tables.left());
    purse.tables.release(name, &mut cells, rho)?;
    // Pool adjacent violators, descending.
    let mut blocks: Vec<(f64, f64)> = Vec::new();
    for cell in cells {
        let mut block = (cell as f64, 1.0);
        while let Some(before) = blocks.last().copied() {
            if before.0 / before.1 > block.0 / block.1 {
                break;
            }
            block = (before.0 + block.0, before.1 + block.1);
            blocks.pop();
        }
        blocks.push(block);
    }
    let mut out: Vec<f64> = Vec::with_capacity(length);
    for (sum, size) in blocks {
        out.extend(std::iter::repeat_n((sum / size).max(0.0), size as usize));
    }
    if out.iter().all(|w| *w <= 0.0) {
        out = vec![1.0];
    }
    Ok(out)
}

/// A table of the field given its parents, with noise in every cell.
fn noisy_level(
    encoder: &Encoder,
    symbols: &[Symbols],
    field: usize,
    parents: &[usize],
    ones: &[Vec<f64>],
    purse: &mut Purse<'_>,
) -> Result<Level, ReleaseError> {
    let size = encoder.size(field) as usize;
    let widths: Vec<usize> = parents.iter().map(|f| encoder.size(*f) as usize).collect();
    let cells = widths
        .iter()
        .try_fold(size, |n, w| n.checked_mul(*w))
        .filter(|n| *n <= MAX_CELLS);
    let Some(cells) = cells else {
        return Ok(Level::from_weights([]));
    };
    let hits = symbols.iter().map(|s| {
        let mut at = 0;
        for (f, w) in parents.iter().zip(&widths) {
            let symbol = s[*f] as usize;
            if symbol >= *w {
                return None;
            }
            at = at * w + symbol;
        }
        Some(at * size + s[field] as usize).filter(|_| (s[field] as usize) < size)
    });
    let name = format!("{field} given {parents:?}");
    let (counts, sigma) = purse.count(&name, SHARES.table, cells, hits)?;
    let least = threshold(sigma, cells.min(size * 64));
    let mut rows = BTreeMap::new();
    for (at, row) in counts.chunks(size.max(1)).enumerate() {
        let kept: Vec<(u32, f64)> = row
            .iter()
            .enumerate()
            .filter(|(s, c)| **c >= least && ones[field].get(*s).is_some_and(|w| *w > 0.0))
            .map(|(s, c)| (s as u32, *c))
            .collect();
        if kept.is_empty() {
            continue;
        }
        let own: f64 = kept.iter().map(|k| k.1).sum();
        let mut place = at;
        let mut of = vec![0u32; parents.len()];
        for (i, w) in widths.iter().enumerate().rev() {
            of[i] = (place % w) as u32;
            place /= w;
        }
        let whole = match parents {
            [one] if *one != PROTOCOL => ones[*one].get(of[0] as usize).copied().unwrap_or(0.0),
            _ => row.iter().sum(),
        };
        let k = of.iter().fold(key(&[parents.len() as u64]), |h, s| {
            key(&[h, u64::from(*s)])
        });
        rows.insert(k, (kept, (whole - own).max(0.0)));
    }
    Ok(Level::from_weights(
        rows.into_iter().map(|(k, (kept, rest))| (k, kept, rest)),
    ))
}
