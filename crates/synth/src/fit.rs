//! Learning a model.

use std::collections::{BTreeMap, BTreeSet};

use chaff_privacy::Tables;

use crate::address::{COMMON, pseudonym};
use crate::capture::Capture;
use crate::chain::Chain;
use crate::encode::*;
use crate::grid::Grid;
use crate::marginal;
use crate::model::{Info, Model, Paid, Privacy, TableMethod, Unit};
use crate::private_packets::{self, Chosen};
use crate::state::{State, levels};
use crate::table::{Record, Table};
use crate::{SynthError, packets, rules};

/// What a fit without differential privacy takes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which method.
    pub method: TableMethod,
    /// Replace addresses by made-up ones of the same kind and neighbourhood before anything is learned.
    pub fresh_addresses: bool,
    /// Key of the made-up addresses.
    pub seed: u64,
}

/// What a fit with differential privacy takes; all of it is public.
#[derive(Clone, Debug)]
pub struct PrivateOptions {
    /// Whose records are hidden.
    pub unit: Unit,
    /// The labels that may occur, known without looking at the data; others count as the first. `None`: no labels.
    pub labels: Option<Vec<String>>,
    /// First and last start time, µs since 1970, when they are public; otherwise they are found, and paid for.
    pub time_range_us: Option<(u64, u64)>,
    /// The label column's name, and whether the input is a capture.
    pub label_column: Option<String>,
}

fn check(table: &Table) -> Result<(), SynthError> {
    if table.records.is_empty() {
        return Err(SynthError::Empty);
    }
    Ok(())
}

/// Learns from the records as they are. There is **no** formal privacy guarantee.
///
/// # Errors
/// [`SynthError::Empty`].
pub fn fit(table: &Table, options: &Options) -> Result<Model, SynthError> {
    check(table)?;
    let mut table = table.clone();
    table.sort();
    for r in &mut table.records {
        if options.fresh_addresses {
            r.src = pseudonym(options.seed, r.src);
            r.dst = pseudonym(options.seed, r.dst);
        }
        rules::settle(r, options.method == TableMethod::Sequence);
    }
    if table.labels.is_empty() {
        table.labels.push(String::new());
    }
    let encoder = exact_encoder(&table, options.method == TableMethod::Sequence);
    let (parents, chains) = match options.method {
        TableMethod::Marginal => {
            let parents = marginal::plan(true);
            let chains = exact_marginals(&table.records, &encoder, &parents);
            (parents, chains)
        }
        TableMethod::Sequence => (Vec::new(), sequences(&table.records, &encoder)),
    };
    Ok(Model {
        info: Info {
            version: 1,
            method: options.method.into(),
            records: table.records.len() as u64,
            fresh_addresses: options.fresh_addresses,
            packets: 0,
            privacy: None,
        },
        method: options.method,
        encoder,
        parents,
        pools: [Vec::new(), Vec::new()],
        chains,
        packets: None,
    })
}

/// As [`fit`], and learns the packets inside the flows, for [`crate::write_pcap`].
///
/// # Errors
/// As [`fit`].
pub fn fit_capture(capture: &Capture, options: &Options) -> Result<Model, SynthError> {
    let mut model = fit(&capture.table, options)?;
    let (packets, chains) = packets::learn(capture, &model.encoder);
    model.packets = Some(packets);
    model.info.packets = capture.packets() as u64;
    model.chains.extend(chains);
    Ok(model)
}

fn exact_encoder(table: &Table, odd_ports: bool) -> Encoder {
    let records = &table.records;
    let n = records.len();
    let mut ports: BTreeMap<u16, usize> = BTreeMap::new();
    let mut carried: BTreeMap<u16, u64> = BTreeMap::new();
    let mut hosts = BTreeSet::new();
    let mut hops = BTreeSet::new();
    for r in records {
        *ports.entry(r.src_port).or_default() += 1;
        if r.dst_port != r.src_port {
            *ports.entry(r.dst_port).or_default() += 1;
        }
        if table.capture {
            for port in [r.src_port, r.dst_port] {
                *carried.entry(port).or_default() += r.packets;
            }
        }
        hosts.extend([r.src, r.dst]);
        hops.insert((r.ttl, r.tos, r.marks));
    }
    for common in &COMMON {
        hosts.remove(common);
    }
    let often = (n / 4000).max(4);
    // One packet in 500 of a capture: a port that a picture of its packets shows.
    let much = (records.iter().map(|r| r.packets).sum::<u64>() / 500).max(16);
    let known = |(port, count): (u16, usize)| {
        let often = count >= often || (port < 1024 && count >= 2);
        let much = carried.get(&port).is_some_and(|p| *p >= much);
        (often || much || port == 0).then_some(port)
    };
    let (atom, group) = ((n / 2048).max(5), (n / 1024).max(8));
    let grid = |value: &dyn Fn(&Record) -> u64| {
        Grid::exact(records.iter().map(value).collect(), atom, group, u64::MAX)
    };
    let (first, last) = (records[0].start_us, records[n - 1].start_us);
    let time = Grid::exact(
        records.iter().map(|r| r.start_us).collect(),
        usize::MAX,
        (n / 1024).max(16),
        ((last - first) / 512).max(1),
    );
    let mut time_weights = vec![0.0; time.len()];
    for r in records {
        time_weights[time.find(r.start_us) as usize] += 1.0;
    }
    let mut encoder = Encoder {
        labels: table.labels.clone(),
        label_column: table.label_column.clone(),
        capture: table.capture,
        odd_ports,
        units_us: table.resolution_us(),
        time,
        time_weights,
        ports: ports.into_iter().filter_map(known).collect(),
        services: Vec::new(),
        hosts: Hosts::Addresses(hosts.into_iter().collect()),
        packets: grid(&|r| r.packets),
        sizes: grid(&size_code),
        durations: grid(&|r| r.duration_us),
        hops: hops.into_iter().collect(),
    };
    let services: BTreeSet<_> = records.iter().map(|r| encoder.service(r)).collect();
    encoder.services = services.into_iter().collect();
    encoder
}

fn exact_marginals(
    records: &[Record],
    encoder: &Encoder,
    parents: &[Vec<Vec<usize>>],
) -> Vec<Chain> {
    let index = encoder.index();
    let symbols: Vec<Symbols> = records.iter().map(|r| encoder.symbols(&index, r)).collect();
    (0..FIELDS)
        .map(|field| {
            if !marginal::ORDER.contains(&field) {
                return Chain::default();
            }
            let keys = |row: usize, out: &mut [u64]| {
                let mut all = Vec::with_capacity(out.len());
                marginal::contexts(parents, field, &symbols[row], &mut all);
                out.copy_from_slice(&all);
            };
            Chain::exact(parents[field].len(), symbols.len(), keys, |row| {
                symbols[row][field]
            })
        })
        .collect()
}

fn sequences(records: &[Record], encoder: &Encoder) -> Vec<Chain> {
    let index = encoder.index();
    let mut symbols: Vec<Symbols> = records.iter().map(|r| encoder.symbols(&index, r)).collect();
    let mut chains = Vec::new();
    for field in 0..FIELDS {
        let depth = levels(field);
        let mut keys: Vec<u64> = Vec::with_capacity(depth * records.len());
        let mut rows: Vec<u32> = Vec::new();
        let mut state = State::default();
        let mut contexts = Vec::new();
        for (row, r) in records.iter().enumerate() {
            let s = &mut symbols[row];
            let ports = (r.src_port, r.dst_port);
            let pair = state.pair(s[SRC], s[DST]);
            if field == SAME {
                s[SAME] = pair.map_or(0, |last| last.repeats(s[SRC], ports));
            }
            if depth > 0 && (field != SAME || pair.is_some()) {
                state.contexts(encoder, field, s, &mut contexts);
                keys.extend(&contexts);
                rows.push(row as u32);
            }
            let s = symbols[row];
            state.push(&s, ports);
        }
        let of = |i: usize, out: &mut [u64]| out.copy_from_slice(&keys[i * depth..(i + 1) * depth]);
        chains.push(Chain::exact(depth, rows.len(), of, |i| {
            symbols[rows[i] as usize][field]
        }));
    }
    chains
}

/// Learns with differential privacy: everything that the model holds of the data comes through `tables`.
///
/// The sensitivity of `tables` must be [`Unit::most`]. `paid` is the (ε, δ) that `tables` was bought with and
/// `ledger_entry` the entry that paid; both go into the model, whose account is checked against them.
///
/// # Errors
/// [`SynthError::Empty`] (before anything is spent), [`SynthError::Option`], [`SynthError::Release`].
pub fn fit_private(
    table: &Table,
    options: &PrivateOptions,
    tables: &mut Tables,
    ledger_entry: Option<u64>,
    paid: (f64, f64),
) -> Result<Model, SynthError> {
    private(table, None, options, tables, ledger_entry, paid)
}

/// As [`fit_private`], and learns what packets look like inside the flows, from at most one packet of each flow.
///
/// # Errors
/// As [`fit_private`].
pub fn fit_capture_private(
    capture: &Capture,
    options: &PrivateOptions,
    tables: &mut Tables,
    ledger_entry: Option<u64>,
    paid: (f64, f64),
) -> Result<Model, SynthError> {
    let chosen = private_packets::choose(capture);
    let table = &capture.table;
    private(table, Some(chosen), options, tables, ledger_entry, paid)
}

fn private(
    table: &Table,
    mut chosen: Option<Vec<Chosen>>,
    options: &PrivateOptions,
    tables: &mut Tables,
    ledger_entry: Option<u64>,
    paid: (f64, f64),
) -> Result<Model, SynthError> {
    check(table)?;
    if options.unit == Unit::Flow {
        return Err(SynthError::Option {
            name: "unit",
            why: "flows are the unit of doppelganger".to_owned(),
        });
    }
    if options.unit.most() == 0 || options.unit.most() != tables.sensitivity() {
        return Err(SynthError::Option {
            name: "unit",
            why: format!(
                "a unit has {} records, the noise is for {}",
                options.unit.most(),
                tables.sensitivity()
            ),
        });
    }
    let all = &table.records;
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|i| all[*i].start_us);
    if let Unit::SourceHost { max_records } = options.unit {
        let mut seen: BTreeMap<_, u32> = BTreeMap::new();
        order.retain(|i| {
            let count = seen.entry(all[*i].src).or_default();
            *count += 1;
            *count <= max_records
        });
    }
    if let Some(chosen) = &mut chosen {
        *chosen = order.iter().map(|i| chosen[*i]).collect();
    }
    let mut table = Table {
        records: order.iter().map(|i| all[*i]).collect(),
        labels: table.labels.clone(),
        label_column: table.label_column.clone(),
        capture: table.capture,
    };
    relabel(&mut table, options);
    for r in &mut table.records {
        rules::settle(r, false);
    }
    let mut model = marginal::fit(&table, chosen.as_deref(), options, tables)?;
    let mut public = vec![
        "addresses that mean the same everywhere, kinds of addresses, protocol rules, ranges of ports".to_owned(),
        match table.capture {
            true => "flows have up to 2^16 packets of up to 2^16 bytes and last up to 2^29 us; times to 1 us".to_owned(),
            false => "counters and durations lie in powers of two up to 2^53; times to 1 us".to_owned(),
        },
        match &options.labels {
            Some(labels) => format!("the set of labels: {}", labels.join(", ")),
            None => "labels are not learned".to_owned(),
        },
        match options.time_range_us {
            Some((a, b)) => format!("all records start from {a} to {b} us since 1970"),
            None if table.capture => {
                "packets are from 1970 to 2106, as pcap has it; the range is paid for".to_owned()
            }
            None => "records start from 1970 to 2255; the range is paid for".to_owned(),
        },
    ];
    match (table.capture, chosen.is_some()) {
        (true, true) => public.push(
            "sizes of packets and gaps between them are learned from one packet of each flow; time to live, type of service \
             and flags do not depend on each other"
                .to_owned(),
        ),
        (true, false) => {
            public.push("every packet has time to live 64 and type of service 0".to_owned());
        }
        _ => (),
    }
    let unit = match options.unit {
        Unit::Record => "one record",
        Unit::SourceHost { .. } => "all records of one source address",
        Unit::Flow => "all records of one flow",
    };
    let privacy = Privacy {
        epsilon: paid.0,
        delta: paid.1,
        unit: options.unit,
        relation: format!("{unit} added or removed"),
        rho: tables.rho(),
        releases: tables
            .charges()
            .iter()
            .map(|c| Paid {
                name: c.name.clone(),
                cells: c.cells,
                sigma: c.sigma,
                rho: c.rho,
            })
            .collect(),
        gradients: Vec::new(),
        public_assumptions: public,
        ledger_entry,
        simulated: tables.simulated(),
    };
    privacy.verify()?;
    model.info.privacy = Some(privacy);
    Ok(model)
}

/// Labels as the public list has them.
fn relabel(table: &mut Table, options: &PrivateOptions) {
    let public = options
        .labels
        .clone()
        .filter(|l| !l.is_empty())
        .unwrap_or_else(|| vec![String::new()]);
    let to: Vec<u32> = table
        .labels
        .iter()
        .map(|text| public.iter().position(|p| p == text).unwrap_or(0) as u32)
        .collect();
    for r in &mut table.records {
        r.label = to.get(r.label as usize).copied().unwrap_or(0);
    }
    table.labels = public;
    table.label_column = options.labels.as_ref().and(options.label_column.clone());
}
