//! The marginal method: which tables, and how they are made with noise.

use std::collections::BTreeMap;

use chaff_privacy::{ReleaseError, Tables};

use crate::SynthError;
use crate::address::key;
use crate::chain::{Chain, Level};
use crate::encode::*;
use crate::fit::PrivateOptions;
use crate::grid::octaves;
use crate::model::{Info, Method, Model, TableMethod};
use crate::popular::{known_hosts, known_ports, ranks, services};
use crate::private_packets::{self, Chosen};
use crate::purse::{Purse, SHARES, positive, threshold};
use crate::table::{Record, Table, has_ports};
use crate::timeline::{range_share, times};

/// Fields in the order in which they are drawn; each table's parents come before it.
pub(crate) const ORDER: [usize; 11] = [
    LABEL, SERVICE, TIME, SRC, DST, SRC_RANGE, DST_RANGE, PACKETS, SIZE, DURATION, HOPS,
];
/// The most cells of a table that gets noise.
const MAX_CELLS: usize = 1 << 21;

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
    let range = range_share(table.capture, options.time_range_us);
    let total = tables.rho() * 0.999;
    // The count decides between the small and the large plan, so it is paid from the dearer one.
    let mut purse = Purse {
        unit: total / (shares.sum(&plan(true), range) + of_packets),
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
    purse.unit = purse.tables.left() * 0.999 / (shares.sum(&parents, range) + of_packets);
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
        method: TableMethod::Marginal,
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
