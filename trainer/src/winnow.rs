//! Telling cover from real packets, one by one, by size, gaps and context: what an observer of a tunnel can try.

use anyhow::{Result, bail};
use chaff_abi::{Dir, Nanos};
use rand::RngCore;
use serde::Serialize;

use crate::forest::{Forest, Kind, Table};
use crate::network::below;
use crate::score::auc;
use crate::traces::Seen;

/// Packets before and after that a packet's company consists of.
const NEIGHBOURS: usize = 4;
/// Times before and after in which packets and bytes are counted.
const SPANS: [Nanos; 4] = [
    Nanos::from_millis(6),
    Nanos::from_millis(60),
    Nanos::from_millis(600),
    Nanos::from_secs(6),
];
/// Columns: the size, four gaps, what comes before and after.
const GAPS: usize = 4;
const COLUMNS: usize = 1 + GAPS + NEIGHBOURS * 2 * 3 + SPANS.len() * 2 * 2 * 2;

/// How to learn.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Extremely randomized trees.
    pub trees: usize,
    /// Most packets of each kind and direction, in training and in testing each.
    pub cap: usize,
}

/// Area under the receiver operating characteristic of one direction; 0.5: cover cannot be told from real packets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Told {
    /// By size alone.
    pub size: f64,
    /// By the gaps to the packets before and after, of both directions and of its own.
    pub gaps: f64,
    /// By size, gaps and context: sizes, directions and gaps of four packets on either side; packets and bytes of both directions in
    /// 6, 60, 600 ms and 6 s on either side.
    pub everything: f64,
    /// Packets tested, real ones and cover.
    pub tested: [usize; 2],
}

/// Learns from some streams, uplink and downlink on their own; each is all packets between home and far end by time, and tries on others.
///
/// # Errors
/// A direction without real packets or without cover, to learn from or to try on.
pub fn winnow(
    train: &[Vec<Seen>],
    test: &[Vec<Seen>],
    options: Options,
    rng: &mut dyn RngCore,
    tick: &mut dyn FnMut(),
) -> Result<[Told; 2]> {
    let mut told = Vec::with_capacity(2);
    for (dir, name) in [(Dir::Out, "uplink"), (Dir::In, "downlink")] {
        let learn = table(train, dir, options.cap, rng);
        let tried = table(test, dir, options.cap, rng);
        for (what, t) in [("learn from", &learn), ("try on", &tried)] {
            let cover = t.y.iter().sum::<usize>();
            if cover == 0 || cover == t.y.len() {
                bail!(
                    "{name}: {} packets to {what}, {cover} of them cover; both kinds are needed",
                    t.y.len()
                );
            }
        }
        let mut by = |columns: std::ops::Range<usize>| {
            let learn = select(&learn, columns.clone());
            let tried = select(&tried, columns);
            let labels = ["real".to_owned(), "cover".to_owned()];
            let forest = Forest::fit(&learn, &labels, Kind::ExtraTrees, options.trees, rng, tick);
            let scores: Vec<(f64, bool)> = (0..tried.y.len())
                .map(|i| (forest.probabilities(tried.row(i))[1], tried.y[i] == 1))
                .collect();
            auc(&scores)
        };
        let (size, gaps, everything) = (by(0..1), by(1..1 + GAPS), by(0..COLUMNS));
        let cover = tried.y.iter().sum::<usize>();
        told.push(Told {
            size,
            gaps,
            everything,
            tested: [tried.y.len() - cover, cover],
        });
    }
    Ok([told[0], told[1]])
}

/// The packets of one direction with their features, at most `cap` of each kind, drawn evenly.
fn table(streams: &[Vec<Seen>], dir: Dir, cap: usize, rng: &mut dyn RngCore) -> Table {
    let mut places: [Vec<(usize, usize)>; 2] = Default::default();
    for (s, stream) in streams.iter().enumerate() {
        for (i, p) in stream.iter().enumerate().filter(|(_, p)| p.dir == dir) {
            places[usize::from(p.dummy)].push((s, i));
        }
    }
    let sums: Vec<Sums> = streams.iter().map(|s| Sums::new(s)).collect();
    let mut table = Table::default();
    for (class, places) in places.iter_mut().enumerate() {
        // The first `cap` of a shuffled list.
        for k in 0..places.len().min(cap) {
            let other = k + below(rng, places.len() - k);
            places.swap(k, other);
            let (s, i) = places[k];
            table.push(&features(&streams[s], &sums[s], i), class);
        }
    }
    table
}

fn select(table: &Table, columns: std::ops::Range<usize>) -> Table {
    let mut out = Table::default();
    for (i, class) in table.y.iter().enumerate() {
        out.push(&table.row(i)[columns.clone()], *class);
    }
    out
}

/// Packets and bytes of each direction up to each packet of a stream.
struct Sums(Vec<[[f32; 2]; 2]>);

impl Sums {
    fn new(stream: &[Seen]) -> Self {
        let mut sum = [[0.0; 2]; 2];
        let mut all = vec![sum];
        for p in stream {
            let of = &mut sum[usize::from(p.dir == Dir::In)];
            of[0] += 1.0;
            of[1] += p.size as f32;
            all.push(sum);
        }
        Self(all)
    }
}

fn logarithm(gap: Option<Nanos>) -> f32 {
    // What is not there is farther away than everything that is.
    gap.map_or(12.0, |g| ((g.0 + 1_000) as f32).log10())
}

fn features(stream: &[Seen], sums: &Sums, i: usize) -> [f32; COLUMNS] {
    let p = stream[i];
    let (before, after) = (&stream[..i], &stream[i + 1..]);
    let mut row = [0.0; COLUMNS];
    let mut at = 0;
    let mut put = |x: f32| {
        row[at] = x;
        at += 1;
    };
    put(p.size as f32);
    let own = |q: &&Seen| q.dir == p.dir;
    put(logarithm(before.last().map(|q| p.at.since(q.at))));
    put(logarithm(after.first().map(|q| q.at.since(p.at))));
    put(logarithm(
        before.iter().rev().find(own).map(|q| p.at.since(q.at)),
    ));
    put(logarithm(after.iter().find(own).map(|q| q.at.since(p.at))));
    for n in 0..NEIGHBOURS {
        for q in [before.iter().rev().nth(n), after.get(n)] {
            put(q.map_or(0.0, |q| q.size as f32));
            put(q.map_or(0.0, |q| if q.dir == p.dir { 1.0 } else { -1.0 }));
            put(logarithm(q.map(|q| Nanos(q.at.0.abs_diff(p.at.0)))));
        }
    }
    for span in SPANS {
        let first = before.partition_point(|q| q.at + span < p.at);
        let end = i + 1 + after.partition_point(|q| q.at <= p.at + span);
        for (from, to) in [(first, i), (i + 1, end)] {
            let (a, b) = (sums.0[from], sums.0[to]);
            for dir in 0..2 {
                for what in 0..2 {
                    put(b[dir][what] - a[dir][what]);
                }
            }
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    /// Real packets in pairs 1 ms apart, cover alone, or all alike.
    fn stream(alike: bool, seed: u64) -> Vec<Seen> {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut out = Vec::new();
        for second in 0..600u64 {
            let dir = if second % 2 == 0 { Dir::Out } else { Dir::In };
            let dummy = rng.random::<bool>();
            let at = Nanos::from_millis(second * 1_000 + rng.random_range(0..500));
            for k in 0..if dummy || alike { 1 } else { 2 } {
                out.push(Seen {
                    at: at + Nanos::from_millis(k),
                    dir,
                    size: 188,
                    payload: 0,
                    udp: true,
                    dummy,
                });
            }
        }
        out
    }

    #[test]
    fn company_tells_where_there_is_some_and_size_does_not() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let options = Options {
            trees: 30,
            cap: 1_000,
        };
        let mut try_on = |alike| {
            let [train, test] = [1, 2].map(|seed| vec![stream(alike, seed)]);
            winnow(&train, &test, options, &mut rng, &mut || ()).expect("both kinds")
        };
        for told in try_on(false) {
            assert!(told.everything > 0.99 && told.gaps > 0.99, "{told:?}");
            assert!((told.size - 0.5).abs() < 1e-9, "{told:?}");
        }
        // A difference of chance: three standard errors of 300 packets.
        for told in try_on(true) {
            assert!((told.everything - 0.5).abs() < 0.1, "{told:?}");
        }
    }

    #[test]
    fn a_direction_with_one_kind_is_an_error() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut real = stream(true, 1);
        real.iter_mut().for_each(|p| p.dummy = false);
        let options = Options { trees: 1, cap: 10 };
        let told = winnow(&[real.clone()], &[real], options, &mut rng, &mut || ());
        assert!(told.is_err_and(|e| e.to_string().contains("uplink")));
    }
}
