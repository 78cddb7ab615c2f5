//! Which autonomous system an address belongs to. Prefixes are public, so looking up costs no budget.
//!
//! Files: pyasn's (`prefix TAB number`), MaxMind's and IPinfo's databases (`.mmdb`), MRT dumps of a routing table
//! (TABLE_DUMP_V2), each packed with gzip or not. The longest prefix wins.

mod mmdb;
mod mrt;
mod pyasn;

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::request::Network;
use crate::source::hex;

/// A larger file is not read.
const LARGEST: u64 = 4 << 30;

/// A database of prefixes.
#[derive(Debug)]
pub struct Asns {
    data: Data,
    /// Digest of the file.
    pub version: String,
    /// How many prefixes are in it, where that is known.
    pub prefixes: Option<usize>,
}

#[derive(Debug)]
enum Data {
    Ranges(Ranges),
    Mmdb(mmdb::Database),
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AsnError {
    /// The system refused.
    #[error("--asn-db {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Its content is wrong.
    #[error("--asn-db {path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// In one sentence.
        why: String,
    },
}

impl Asns {
    /// Reads a database; what kind it is stands in it.
    ///
    /// # Errors
    /// [`AsnError`], naming the file.
    pub fn load(path: &Path) -> Result<Self, AsnError> {
        let io = |source| AsnError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(io)?;
        file.take(LARGEST).read_to_end(&mut bytes).map_err(io)?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut unpacked = Vec::new();
            MultiGzDecoder::new(bytes.as_slice())
                .take(LARGEST)
                .read_to_end(&mut unpacked)
                .map_err(io)?;
            bytes = unpacked;
        }
        let version = hex(&Sha256::digest(&bytes));
        Self::parse(bytes, version).map_err(|why| AsnError::Content {
            path: path.to_path_buf(),
            why,
        })
    }

    fn parse(bytes: Vec<u8>, version: String) -> Result<Self, String> {
        if mmdb::is(&bytes) {
            return Ok(Self {
                data: Data::Mmdb(mmdb::Database::new(bytes)?),
                version,
                prefixes: None,
            });
        }
        let prefixes = if mrt::is(&bytes) {
            mrt::prefixes(&bytes)?
        } else {
            pyasn::prefixes(&bytes)?
        };
        if prefixes.is_empty() {
            return Err("no prefix in it".to_owned());
        }
        Ok(Self {
            prefixes: Some(prefixes.len()),
            data: Data::Ranges(Ranges::new(prefixes)),
            version,
        })
    }

    /// The number of the address's autonomous system, if a prefix covers it.
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match &self.data {
            Data::Ranges(ranges) => ranges.lookup(address),
            Data::Mmdb(database) => database.lookup(address),
        }
    }
}

/// Prefixes flattened to ranges that do not overlap: a look-up is one search.
#[derive(Debug, Default)]
struct Ranges {
    v4: Vec<(u32, Option<u32>)>,
    v6: Vec<(u128, Option<u32>)>,
}

impl Ranges {
    fn new(prefixes: Vec<(Network, u32)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, asn) in prefixes {
            match (network.first, network.last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push((u32::from(first).into(), u32::from(last).into(), asn));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    v6.push((u128::from(first), u128::from(last), asn));
                }
                _ => {}
            }
        }
        Self {
            v4: flatten(v4)
                .into_iter()
                .filter_map(|(start, asn)| Some((u32::try_from(start).ok()?, asn)))
                .collect(),
            v6: flatten(v6),
        }
    }

    fn lookup(&self, address: IpAddr) -> Option<u32> {
        fn find<T: Ord + Copy>(ranges: &[(T, Option<u32>)], at: T) -> Option<u32> {
            let after = ranges.partition_point(|(start, _)| *start <= at);
            ranges[..after].last().and_then(|(_, asn)| *asn)
        }
        match address {
            IpAddr::V4(a) => find(&self.v4, a.into()),
            IpAddr::V6(a) => match a.to_ipv4_mapped() {
                Some(a) => find(&self.v4, a.into()),
                None => find(&self.v6, a.into()),
            },
        }
    }
}

/// Starts of ranges with what holds from there on. Prefixes nest or are apart; of equal ones the last counts.
fn flatten(mut prefixes: Vec<(u128, u128, u32)>) -> Vec<(u128, Option<u32>)> {
    prefixes.sort_by_key(|(first, last, _)| (*first, std::cmp::Reverse(*last)));
    let mut out: Vec<(u128, Option<u32>)> = Vec::with_capacity(prefixes.len() * 2);
    let mut put = |start: u128, asn: Option<u32>| match out.last_mut() {
        Some(last) if last.0 == start => last.1 = asn,
        _ => out.push((start, asn)),
    };
    // Prefixes that are open, the innermost last.
    let mut open: Vec<(u128, u32)> = Vec::new();
    let close = |open: &mut Vec<(u128, u32)>,
                 before: Option<u128>,
                 put: &mut dyn FnMut(u128, Option<u32>)| {
        while let Some((last, _)) = open.last().copied() {
            if before.is_some_and(|first| first <= last) {
                break;
            }
            open.pop();
            // What lies around it goes on, unless it ends at the same place.
            if let Some(next) = last.checked_add(1)
                && open.last().is_none_or(|(outer, _)| *outer > last)
            {
                put(next, open.last().map(|(_, asn)| *asn));
            }
        }
    };
    for (first, last, asn) in prefixes {
        close(&mut open, Some(first), &mut put);
        put(first, Some(asn));
        open.push((last, asn));
    }
    close(&mut open, None, &mut put);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIB: &str = "; comment\n198.18.0.0/15\t64512\n198.18.0.0/20\t64513\n198.18.4.0/22\t64514\n198.18.4.128/25\t64515\n\
198.19.1.0/24\t4200000001\n198.19.255.0/24\t7\n2001:db8:cafe::/48\t64540\n2001:db8:cafe:1::/64\t64541\n255.255.255.0/24\t9\n";

    fn load(text: &str) -> Asns {
        Asns::parse(text.as_bytes().to_vec(), String::new()).unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let asns = load(RIB);
        for (address, want) in [
            ("198.18.0.1", Some(64513)),
            ("198.18.4.1", Some(64514)),
            ("198.18.4.200", Some(64515)),
            ("198.18.5.0", Some(64514)),
            ("198.18.15.255", Some(64513)),
            ("198.18.16.0", Some(64512)),
            ("198.19.1.9", Some(4_200_000_001)),
            ("198.19.255.255", Some(7)),
            ("198.20.0.0", None),
            ("198.17.255.255", None),
            ("255.255.255.255", Some(9)),
            ("2001:db8:cafe::5", Some(64540)),
            ("2001:db8:cafe:1::5", Some(64541)),
            ("2001:db8:cafe:2::", Some(64540)),
            ("2001:db8:caff::", None),
            ("::ffff:198.18.0.1", Some(64513)),
        ] {
            assert_eq!(asns.lookup(address.parse().unwrap()), want, "{address}");
        }
    }

    #[test]
    fn agrees_with_trying_every_prefix() {
        // Prefixes of a small space, in any nesting.
        let mut state = 7u64;
        let mut draw = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % n
        };
        for _ in 0..50 {
            let mut prefixes = Vec::new();
            for asn in 0..20 {
                let length = 24 + draw(9) as u8;
                let address = IpAddr::V4((0x0a00_0000 + draw(256) as u32).into());
                let network = Network::new(address, length).unwrap();
                prefixes.retain(|(n, _)| *n != network);
                prefixes.push((network, asn));
            }
            let ranges = Ranges::new(prefixes.clone());
            for host in 0..300u32 {
                let address = IpAddr::V4((0x0a00_0000 + host).into());
                let want = prefixes
                    .iter()
                    .filter(|(n, _)| n.contains(address))
                    .max_by_key(|(n, _)| n.length())
                    .map(|(_, asn)| *asn);
                assert_eq!(ranges.lookup(address), want, "{address}");
            }
        }
    }

    #[test]
    fn says_which_line_is_wrong() {
        for (text, says) in [
            ("198.18.0.0/15 64512\n", "line 1"),
            ("; x\n198.18.0.0/45\t64512\n", "line 2"),
            ("198.18.0.0/15\tAS1\n", "AS1"),
            (";\n", "no prefix"),
        ] {
            let error = Asns::parse(text.as_bytes().to_vec(), String::new()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
