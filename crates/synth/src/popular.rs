//! Popular ports, hosts and services of a private fit, and how popular all other hosts are.

use std::collections::{BTreeMap, BTreeSet};

use chaff_privacy::ReleaseError;

use crate::address::{KINDS, kind};
use crate::encode::{BUCKETS, Encoder, bucket};
use crate::purse::{Purse, SHARES, heavy};
use crate::rules;
use crate::table::{Record, has_ports};

/// Protocols whose ports are counted.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

pub(crate) fn known_ports(
    records: &[Record],
    purse: &mut Purse<'_>,
) -> Result<Vec<u16>, ReleaseError> {
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

pub(crate) fn known_hosts(
    records: &[Record],
    purse: &mut Purse<'_>,
) -> Result<Vec<(u32, u32)>, ReleaseError> {
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

pub(crate) fn services(
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

/// How popular the hosts are that are not known one by one: sorted counts with noise, made monotone (Hay, Rastogi,
/// Miklau, Suciu, "Boosting the Accuracy of Differentially Private Histograms", 2010). One record changes one sorted
/// count by one.
pub(crate) fn ranks(
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
