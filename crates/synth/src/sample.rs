//! Drawing records from a model.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::address::{invent, key};
use crate::encode::*;
use crate::model::Model;
use crate::packets::calibrate;
use crate::state::State;
use crate::table::{Record, Table};
use crate::{marginal, rules};

/// The symbol to take where a field was never seen in any context.
fn draw(model: &Model, field: usize, keys: &[u64], rng: &mut dyn RngCore) -> Option<u32> {
    model
        .chains
        .get(field)
        .and_then(|chain| chain.draw(keys, rng))
}

/// As [`draw`]; a symbol that was never seen is replaced by one that was.
fn draw_known(model: &Model, field: usize, keys: &[u64], rng: &mut dyn RngCore) -> u32 {
    for _ in 0..32 {
        if let Some(symbol) = draw(model, field, keys, rng) {
            return symbol;
        }
    }
    let last = model.chains.get(field).and_then(|c| c.levels.last());
    last.and_then(|l| l.symbols.first().copied()).unwrap_or(0)
}

/// One point in each of `records` equal parts of the unit interval, for even coverage.
pub(crate) fn stratum(i: usize, records: usize, rng: &mut dyn RngCore) -> f64 {
    (i as f64 + rng.random::<f64>()) / records as f64
}

pub(crate) fn running(weights: &[f64]) -> Vec<f64> {
    weights
        .iter()
        .scan(0.0, |sum, w| {
            *sum += w;
            Some(*sum)
        })
        .collect()
}

pub(crate) fn pick(sums: &[f64], u: f64) -> usize {
    let total = sums.last().copied().unwrap_or(0.0);
    sums.partition_point(|s| *s <= u * total)
        .min(sums.len().saturating_sub(1))
}

fn table(model: &Model, mut records: Vec<Record>, rng: &mut dyn RngCore) -> Table {
    let e = &model.encoder;
    if let Some(packets) = &model.packets {
        calibrate(&mut records, e, &packets.counts, rng);
    }
    let times = model.packets.as_ref().and_then(|p| p.times.as_ref());
    for r in &mut records {
        if let Some((_, _, end)) = times {
            // No flow goes on after its capture.
            r.duration_us = r.duration_us.min(end.saturating_sub(r.start_us));
        }
        rules::settle(r, e.odd_ports);
    }
    records.sort_by_key(|r| r.start_us);
    Table {
        records,
        labels: e.labels.clone(),
        label_column: e.label_column.clone(),
        capture: e.capture,
    }
}

pub(crate) fn marginal(model: &Model, count: usize, seed: u64) -> Table {
    let e = &model.encoder;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let secret = rng.next_u64();
    let pools = [running(&model.pools[0]), running(&model.pools[1])];
    let mut keys = Vec::new();
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let mut s = [0; FIELDS];
        for field in marginal::ORDER {
            marginal::contexts(&model.parents, field, &s, &mut keys);
            for _ in 0..32 {
                s[field] = draw_known(model, field, &keys, &mut rng);
                if fits(e, field, &s, SERVICE) {
                    break;
                }
            }
            if field == SERVICE {
                s[PROTOCOL] = e
                    .services
                    .get(s[SERVICE] as usize)
                    .map_or(0, |p| u32::from(p.0));
            }
        }
        let mut r = e.values(&s, &mut rng);
        let host = |symbol: u32, pool: &[f64], rng: &mut ChaCha8Rng| {
            let fresh = if pool.is_empty() {
                0
            } else {
                pick(pool, rng.random()) as u64
            };
            e.address(symbol, fresh, secret)
        };
        r.src = host(s[SRC], &pools[0], &mut rng);
        r.dst = host(s[DST], &pools[1], &mut rng);
        one_family(&mut r, secret);
        r.start_us = start(e, s[TIME], &mut rng);
        records.push(r);
    }
    table(model, records, &mut rng)
}

/// Whether the field's symbol goes with those before it: both hosts are of one IP version, ICMP of the same. `first` is what
/// is drawn first, of source and service.
fn fits(e: &Encoder, field: usize, s: &Symbols, first: usize) -> bool {
    let is_v6 = |host: u32| matches!(e.host_kind(host), 5..=7);
    let protocol = e.services.get(s[SERVICE] as usize).map_or(0, |p| p.0);
    let suits = |v6: bool| match protocol {
        1 | 2 => !v6,
        58 => v6,
        _ => true,
    };
    match field {
        DST => is_v6(s[DST]) == is_v6(s[SRC]),
        SRC | SERVICE if field != first => suits(is_v6(s[SRC])),
        _ => true,
    }
}

/// Both addresses of a record are of one IP version: that of the source; ICMP is of the same.
fn one_family(r: &mut Record, secret: u64) {
    let v6 = r.src.is_ipv6();
    if r.dst.is_ipv6() != v6 {
        let kind = if v6 { 5 } else { 1 };
        r.dst = invent(secret, kind, u64::from(r.dst_port));
    }
    match (r.protocol, v6) {
        (1 | 2, true) => r.protocol = 58,
        (58, false) => r.protocol = 1,
        _ => (),
    }
}

fn start(e: &Encoder, bin: u32, rng: &mut dyn RngCore) -> u64 {
    e.time.draw_evenly(bin, rng) / e.units_us.0 * e.units_us.0
}

pub(crate) fn sequence(model: &Model, count: usize, seed: u64) -> Table {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut e = model.encoder.clone();
    let index = model.encoder.index();
    let sums = running(&e.time_weights);
    let mut times: Vec<(u64, u32)> = (0..count)
        .map(|i| {
            let bin = pick(&sums, stratum(i, count, &mut rng)) as u32;
            (start(&e, bin, &mut rng), bin)
        })
        .collect();
    times.sort_unstable();
    let mut used: BTreeSet<IpAddr> = match &e.hosts {
        Hosts::Addresses(all) => all.iter().copied().collect(),
        Hosts::Hashed(_) => BTreeSet::new(),
    };
    let mut state = State::default();
    let mut keys = Vec::new();
    let mut records = Vec::with_capacity(count);
    for (at, bin) in times {
        let mut s = [0; FIELDS];
        s[TIME] = bin;
        let mut ports = None;
        for field in (0..FIELDS).filter(|f| !matches!(*f, TIME | PROTOCOL)) {
            if field == SAME && state.pair(s[SRC], s[DST]).is_none() {
                continue;
            }
            state.contexts(&e, field, &s, &mut keys);
            for _ in 0..32 {
                let drawn = draw(model, field, &keys, &mut rng);
                s[field] = drawn.unwrap_or_else(|| draw_known(model, field, &keys, &mut rng));
                if fits(&e, field, &s, SRC) {
                    if drawn.is_none() && matches!(field, SRC | DST) {
                        s[field] = neighbour(&mut e, s[field], &mut used, &mut rng);
                    }
                    break;
                }
            }
            if field == SAME
                && s[SAME] == 1
                && let Some(last) = state.pair(s[SRC], s[DST])
            {
                let turned = last.turned(s[SRC]);
                let protocol = e.services.get(s[SERVICE] as usize).map_or(0, |p| p.0);
                let like = Record {
                    protocol,
                    src_port: turned.0,
                    dst_port: turned.1,
                    ..Record::default()
                };
                if e.symbols(&index, &like)[SERVICE] == s[SERVICE] {
                    ports = Some(turned);
                } else {
                    s[SAME] = 0;
                }
            }
        }
        let mut r = e.values(&s, &mut rng);
        if let Some((a, b)) = ports {
            (r.src_port, r.dst_port) = (a, b);
        }
        (r.src, r.dst) = (e.address(s[SRC], 0, seed), e.address(s[DST], 0, seed));
        one_family(&mut r, seed);
        r.start_us = at;
        state.push(&s, (r.src_port, r.dst_port));
        records.push(r);
    }
    table(model, records, &mut rng)
}

/// The symbol of a new host in the neighbourhood of a known one; itself for addresses that are no hosts.
fn neighbour(
    e: &mut Encoder,
    near: u32,
    used: &mut BTreeSet<IpAddr>,
    rng: &mut dyn RngCore,
) -> u32 {
    if near < FIRST_KNOWN || !matches!(e.host_kind(near), 0 | 1 | 5 | 6) {
        return near;
    }
    let base = e.address(near, 0, 0);
    for wide in 0..64u32 {
        let bits = rng.next_u64();
        let new: IpAddr = match base {
            IpAddr::V4(a) => {
                let mask = (1u32 << (8 + wide / 4).min(16)) - 1;
                Ipv4Addr::from((u32::from(a) & !mask) | (bits as u32 & mask)).into()
            }
            IpAddr::V6(a) => {
                let low = u128::from(key(&[bits]));
                Ipv6Addr::from((u128::from(a) >> 64 << 64) | low).into()
            }
        };
        if used.insert(new)
            && let Hosts::Addresses(all) = &mut e.hosts
        {
            all.push(new);
            return FIRST_KNOWN + all.len() as u32 - 1;
        }
    }
    near
}
