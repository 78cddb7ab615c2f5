use chaff_abi::Nanos;

use super::Moments;

/// Periods of activity and the silences between them.
///
/// As in CICFlowMeter a silence is a time between packets above a threshold. What is between two silences, from the first
/// packet to the last, is an active period; unlike there, periods of one packet count, with length 0, and the period that
/// runs at the end counts too. So there is always one active period more than there are silences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Periods {
    /// `None` before the first packet.
    ends: Option<Ends>,
    /// Lengths of the periods between the first and the last one.
    inner: Moments,
    silences: Moments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    first: Period,
    /// The same as `first` while there is no silence.
    last: Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Period {
    start: Nanos,
    end: Nanos,
}

impl Period {
    fn length(&self) -> u64 {
        self.end.since(self.start).0
    }
}

impl Periods {
    /// A packet; times do not go back.
    #[inline]
    pub fn add(&mut self, at: Nanos, threshold: Nanos) {
        let here = Period { start: at, end: at };
        self.append(
            Ends {
                first: here,
                last: here,
            },
            &Self::default(),
            threshold,
        );
    }

    /// Appends the periods of a later part with the same threshold; what was between the parts counts as if they had been
    /// one.
    pub fn merge(&mut self, later: &Self, threshold: Nanos) {
        if let Some(ends) = later.ends {
            self.append(ends, later, threshold);
        }
    }

    #[inline(always)]
    fn append(&mut self, later: Ends, rest: &Self, threshold: Nanos) {
        let several = rest.silences.count() > 0;
        let Some(ends) = &mut self.ends else {
            *self = Self {
                ends: Some(later),
                ..*rest
            };
            return;
        };
        let gap = later.first.start.since(ends.last.end);
        let one = self.silences.count() == 0;
        if gap > threshold {
            if !one {
                self.inner.add(ends.last.length());
            }
            self.silences.add(gap.0);
            if several {
                self.inner.add(later.first.length());
            }
            ends.last = later.last;
        } else {
            // The last period here and the first one there are one.
            ends.last.end = ends.last.end.max(later.first.end);
            if one {
                ends.first = ends.last;
            } else if several {
                self.inner.add(ends.last.length());
            }
            if several {
                ends.last = later.last;
            }
        }
        self.inner.merge(&rest.inner);
        self.silences.merge(&rest.silences);
    }

    /// Lengths of the active periods, ns.
    pub fn active(&self) -> Moments {
        let mut all = self.inner;
        if let Some(ends) = &self.ends {
            all.add(ends.first.length());
            if self.silences.count() > 0 {
                all.add(ends.last.length());
            }
        }
        all
    }

    /// Lengths of the silences between them, ns.
    pub fn idle(&self) -> Moments {
        self.silences
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THRESHOLD: Nanos = Nanos(10);

    fn of(times: &[u64]) -> Periods {
        let mut p = Periods::default();
        times.iter().for_each(|t| p.add(Nanos(*t), THRESHOLD));
        p
    }

    fn times() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![0..11u64, 9..13u64, 0..100u64], 0..40).prop_map(|gaps| {
            let mut at = 5;
            gaps.into_iter()
                .map(|gap| {
                    at += gap;
                    at
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(times in times()) {
            let (mut active, mut idle) = (Moments::default(), Moments::default());
            let mut rest = &times[..];
            while let Some(start) = rest.first() {
                let n = rest.windows(2).take_while(|w| w[1] - w[0] <= THRESHOLD.0).count();
                active.add(rest[n] - start);
                if let Some(next) = rest.get(n + 1) {
                    idle.add(next - rest[n]);
                }
                rest = &rest[n + 1..];
            }
            let p = of(&times);
            prop_assert_eq!((p.active(), p.idle()), (active, idle));
        }

        #[test]
        fn merging_parts_equals_the_whole(times in times(), cut in 0..41usize, again in 0..41usize) {
            let (a, b) = times.split_at(cut.min(times.len()));
            let (b, c) = b.split_at(again.min(b.len()));
            let mut merged = of(a);
            merged.merge(&of(b), THRESHOLD);
            merged.merge(&of(c), THRESHOLD);
            prop_assert_eq!(merged, of(&times));
        }
    }

    #[test]
    fn a_gap_of_just_the_threshold_is_no_silence() {
        let p = of(&[0, 10, 21]);
        assert_eq!((p.active().count(), p.idle().sum()), (2, 11));
        assert_eq!((p.active().max(), p.active().min()), (Some(10), Some(0)));
    }
}
