//! What generators learn from and are tried on: windows of each label, in two parts.

use anyhow::{Result, bail};
use rand_chacha::ChaCha20Rng;

use crate::attacker::Sample;
use crate::captures::Data;
use crate::cover::{Config, stream};
use crate::network::shuffle;
use crate::windows::{COLUMNS, Shape, Window};

/// Fewest windows that make a label usable.
pub(crate) const MIN_WINDOWS: usize = 4;
/// Share of windows held out.
const HELD_OUT: f64 = 0.3;

/// Samples of one label.
pub(crate) struct Part {
    pub(crate) train: Vec<Sample>,
    pub(crate) test: Vec<Sample>,
    /// Whether whole captures are held out.
    pub(crate) by_session: bool,
}

/// Splits by label and into training and held-out windows; whole captures are held out where there are two or more.
pub(crate) fn prepare(
    data: &Data,
    config: &Config,
) -> Result<(Vec<String>, Vec<Part>, Vec<String>)> {
    let (mut labels, mut parts, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    let mut empty = 0;
    for (at, label) in data.labels.iter().enumerate() {
        let sessions: Vec<&Vec<Window>> = data
            .sessions
            .iter()
            .filter(|s| s.label == at && !s.windows.is_empty())
            .map(|s| &s.windows)
            .collect();
        let count: usize = sessions.iter().map(|s| s.len()).sum();
        let looks = config.extras.past as usize;
        let pasts: Vec<Vec<(&Window, Vec<f64>)>> = sessions
            .iter()
            .map(|s| windows_with_past(s, config.shape, looks))
            .collect();
        let (train, test) = split(pasts, &mut stream(config.seed, &format!("split {label}")));
        if count == 0 {
            empty += 1;
            continue;
        }
        if count < MIN_WINDOWS || train.is_empty() || test.is_empty() {
            left_out.push(format!("{label}: {count} windows"));
            continue;
        }
        let by_session = data
            .sessions
            .iter()
            .filter(|s| s.label == at && !s.windows.is_empty())
            .count()
            > 1;
        let mut rng = stream(config.seed, &format!("windows {label}"));
        let mut pick = |mut from: Vec<Placed<'_>>, limit: usize| -> Vec<Sample> {
            shuffle(&mut from, &mut rng);
            from.truncate(limit.max(1));
            from.into_iter()
                .map(|(w, past, session)| {
                    let slots = w.slots.iter().map(|v| f64::from(*v));
                    Sample {
                        x: slots.chain([w.silence]).collect(),
                        label: labels.len(),
                        past,
                        session,
                    }
                })
                .collect()
        };
        let held = (config.max_windows as f64 * HELD_OUT) as usize;
        let part = Part {
            train: pick(train, config.max_windows.saturating_sub(held)),
            test: pick(test, held),
            by_session,
        };
        labels.push(label.clone());
        parts.push(part);
    }
    if empty > 0 {
        left_out.push(match empty {
            1 => "1 label of the list without any window".to_owned(),
            n => format!("{n} labels of the list without any window"),
        });
    }
    if labels.len() < 2 {
        bail!(
            "at least two devices with {MIN_WINDOWS} windows are needed to learn what tells them apart, found {}{}{}; \
             give more captures, a devices file, or --scope all",
            labels.len(),
            if left_out.is_empty() {
                ""
            } else {
                "; too few windows: "
            },
            left_out.join(", "),
        );
    }
    Ok((labels, parts, left_out))
}

/// A window, the slots before it, and the number of its session.
type Placed<'a> = (&'a Window, Vec<f64>, usize);

/// Windows of a session, each with the `looks` slots before it, newest first, as a generator sees them
/// ([`chaff_cover::compress`]): what the window before says of them, nothing where that was left out.
fn windows_with_past(windows: &[Window], shape: Shape, looks: usize) -> Vec<(&Window, Vec<f64>)> {
    let slot = shape.slot.as_secs_f64();
    let mut before: Option<&Window> = None;
    let mut out = Vec::with_capacity(windows.len());
    for w in windows {
        let mut past = vec![0.0; looks * COLUMNS];
        if let Some(b) = before.filter(|b| b.index + 1 == w.index) {
            // The packet before this window lies in the last row of the one before that is not empty.
            let rows = b.slots.as_chunks::<COLUMNS>().0;
            let last = rows
                .iter()
                .rposition(|r| r.iter().any(|v| *v > 0.0))
                .unwrap_or(0);
            let gone = (w.silence / slot) as usize;
            for (back, to) in past.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
                // One slot back is the one that ends where this window begins.
                let Some(row) = (last + gone).checked_sub(back).and_then(|at| rows.get(at)) else {
                    continue;
                };
                for (to, pair) in to
                    .as_chunks_mut::<2>()
                    .0
                    .iter_mut()
                    .zip(row.as_chunks::<2>().0)
                {
                    *to = chaff_cover::compress(pair[0].into(), pair[1].into()).map(f64::from);
                }
            }
        }
        out.push((w, past));
        before = Some(w);
    }
    out
}

fn split<'a>(
    mut sessions: Vec<Vec<(&'a Window, Vec<f64>)>>,
    rng: &mut ChaCha20Rng,
) -> (Vec<Placed<'a>>, Vec<Placed<'a>>) {
    let flat = |part: &[Vec<(&'a Window, Vec<f64>)>], first: usize| {
        let numbered = part
            .iter()
            .zip(first..)
            .flat_map(|(s, number)| s.iter().map(move |(w, past)| (*w, past.clone(), number)));
        numbered.collect::<Vec<_>>()
    };
    if let [one] = &sessions[..] {
        let cut = one.len() - (one.len() as f64 * HELD_OUT).ceil() as usize;
        let (early, late) = (one[..cut].to_vec(), one[cut..].to_vec());
        return (flat(&[early], 0), flat(&[late], 1));
    }
    shuffle(&mut sessions, rng);
    let held = ((sessions.len() as f64 * HELD_OUT).round() as usize)
        .max(1)
        .min(sessions.len());
    let (test, train) = sessions.split_at(held);
    (flat(train, held), flat(test, 0))
}
