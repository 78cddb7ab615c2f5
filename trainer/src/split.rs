//! Which sessions are held out. Sessions are held out whole, never windows of them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;

use crate::cover::stream;
use crate::network::shuffle;
use crate::traces::Trace;

/// Traces to learn from and to be tried on, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Indices of the traces to train on.
    pub train: Vec<usize>,
    /// Indices of the traces to test on.
    pub test: Vec<usize>,
    /// Labels of one trace only, by its index: it is in neither list, and its windows are cut in time.
    pub single: Vec<usize>,
}

/// How sessions are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Held {
    /// By name, as the project's measurements have it: of 7 or more sorted sessions of a label those with index `i % 10` in
    /// {2, 5, 8}; of 2 to 6 the last one; a single session is cut in time, the first 60 % for training.
    #[default]
    Named,
    /// As many, drawn at random from this seed.
    Drawn(u64),
    /// The latest of each label: this share (0 to 1, exclusive) of its sessions, at least one and not all.
    Latest(f64),
}

/// [`Held`] on the command line.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct HeldArgs {
    /// Hold out sessions drawn at random from this seed, as many of each label as without it (`cover`: with --profile ipet).
    #[arg(long)]
    split_seed: Option<u64>,
    /// Hold out the latest sessions of each label, this share of them: what was learned earlier is tried on what came later
    /// (`cover`: with --profile ipet).
    #[arg(long, conflicts_with = "split_seed")]
    test_last: Option<f64>,
}

impl HeldArgs {
    /// The option that asks for anything else than [`Held::Named`].
    pub fn asked(self) -> Option<&'static str> {
        let seed = self.split_seed.map(|_| "--split-seed");
        seed.or(self.test_last.map(|_| "--test-last"))
    }

    /// Splits as asked.
    ///
    /// # Errors
    /// As [`split_by`].
    pub fn split(self, traces: &[Trace]) -> Result<Split> {
        let held = match (self.split_seed, self.test_last) {
            (Some(seed), _) => Held::Drawn(seed),
            (None, Some(share)) => Held::Latest(share),
            (None, None) => Held::Named,
        };
        split_by(traces, held)
    }
}

/// Splits by name ([`Held::Named`]).
pub fn split(traces: &[Trace]) -> Split {
    divide(traces, |_, list| named(list))
}

/// Splits by session, never by window.
///
/// # Errors
/// For a share that is none, and for the latest sessions of traces that do not tell when they begin.
pub fn split_by(traces: &[Trace], held: Held) -> Result<Split> {
    Ok(match held {
        Held::Named => split(traces),
        Held::Drawn(seed) => divide(traces, |label, list| {
            shuffle(list, &mut stream(seed, &format!("split of {label}")));
            named(list)
        }),
        Held::Latest(share) => {
            if !(share > 0.0 && share < 1.0) {
                bail!("--test-last is {share}, allowed is above 0 and below 1");
            }
            if let Some(t) = traces.iter().find(|t| t.begins.is_none()) {
                bail!(
                    "--test-last: {} does not tell when it begins; only captures do",
                    t.file_name()
                );
            }
            divide(traces, |_, list| {
                list.sort_by_key(|&i| traces[i].begins);
                let n = list.len();
                let later = ((n as f64 * share).round() as usize).clamp(1, n.max(2) - 1);
                (0..n).map(|k| k >= n - later).collect()
            })
        }
    })
}

fn named(list: &[usize]) -> Vec<bool> {
    let test = |k: usize| match list.len() {
        0..=6 => k + 1 == list.len(),
        _ => matches!(k % 10, 2 | 5 | 8),
    };
    (0..list.len()).map(test).collect()
}

/// `choose` gets a label and the indices of its traces by name, may put them into another order, and says of each whether it is held out.
fn divide(traces: &[Trace], choose: impl Fn(&str, &mut [usize]) -> Vec<bool>) -> Split {
    let mut by: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut order: Vec<usize> = (0..traces.len()).collect();
    order.sort_by_cached_key(|&i| traces[i].file_name());
    for i in order {
        by.entry(&traces[i].label).or_default().push(i);
    }
    let mut out = Split::default();
    for (label, mut list) in by {
        if let [one] = list.as_slice() {
            out.single.push(*one);
            continue;
        }
        let held = choose(label, &mut list);
        for (i, test) in list.into_iter().zip(held) {
            if test { &mut out.test } else { &mut out.train }.push(i);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use chaff_abi::Nanos;

    use super::*;

    fn trace(label: &str, session: usize) -> Trace {
        Trace {
            // Later the smaller the number of the session.
            begins: Some(Nanos::from_secs(1000 - session as u64)),
            ..crate::traces::tests::trace(label, session)
        }
    }

    fn traces() -> Vec<Trace> {
        (0..12)
            .map(|i| trace("a", i))
            .chain((0..3).map(|i| trace("b", i)))
            .chain([trace("c", 0)])
            .collect()
    }

    #[test]
    fn splits_by_session() {
        let traces = traces();
        let s = split(&traces);
        assert_eq!(s.test, [2, 5, 8, 14]);
        assert_eq!(s.single, [15]);
        assert_eq!(s.train.len() + s.test.len() + s.single.len(), traces.len());
    }

    #[test]
    fn the_latest_sessions_are_held_out() {
        let mut traces = traces();
        let s = split_by(&traces, Held::Latest(0.3)).expect("times are known");
        assert_eq!(s.test, [3, 2, 1, 0, 12]);
        assert_eq!(s.train, [11, 10, 9, 8, 7, 6, 5, 4, 14, 13]);
        assert_eq!(s.single, [15]);
        // At least one, never all.
        let few = split_by(&traces, Held::Latest(0.001)).expect("a share");
        assert_eq!(few.test, [0, 12]);
        let many = split_by(&traces, Held::Latest(0.999)).expect("a share");
        assert_eq!(many.train, [11, 14]);
        for share in [0.0, 1.0, -0.1, f64::NAN] {
            let e = split_by(&traces, Held::Latest(share)).expect_err("refused");
            assert!(e.to_string().contains("--test-last is"), "{e}");
        }
        traces[4].begins = None;
        let e = split_by(&traces, Held::Latest(0.3)).expect_err("refused");
        assert!(e.to_string().contains("a__a__s04.csv"), "{e}");
    }
}
