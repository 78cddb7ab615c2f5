use chaff_abi::{Dir, Nanos};
use rand::RngCore;

use crate::network::below;

/// Values of a slot, in this order: incoming packets, incoming payload bytes, outgoing packets, outgoing payload bytes.
pub const COLUMNS: usize = 4;

/// Longest window, slots.
const MAX_ROWS: u64 = 10_000;

/// How traffic is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Length of a slot (iPET's omega).
    pub slot: Nanos,
    /// Slots of a window (iPET's r).
    pub rows: usize,
}

/// The lengths do not make a window.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "a window of {total} s with slots of {omega} s: slots are whole milliseconds, and a window is 1 to 10000 of them"
)]
pub struct ShapeError {
    /// Slot, seconds.
    pub omega: f64,
    /// Window, seconds.
    pub total: f64,
}

impl Shape {
    /// From seconds; iPET's values are 0.1 and 4.
    ///
    /// # Errors
    /// Unless the slot is whole milliseconds and the window a whole number of slots.
    pub fn new(omega: f64, total: f64) -> Result<Self, ShapeError> {
        let fail = ShapeError { omega, total };
        let whole = |s: f64| {
            let ms = (s * 1e3).round();
            let near = (s * 1e3 - ms).abs() < 1e-6 && (1.0..=3.6e6).contains(&ms);
            near.then_some(ms as u64)
        };
        let (slot, window) = whole(omega).zip(whole(total)).ok_or(fail)?;
        let rows = window / slot;
        if !window.is_multiple_of(slot) || !(1..=MAX_ROWS).contains(&rows) {
            return Err(fail);
        }
        Ok(Self {
            slot: Nanos::from_millis(slot),
            rows: rows as usize,
        })
    }

    /// Length of a window.
    pub fn window(&self) -> Nanos {
        self.slot.times(self.rows as u64)
    }
}

/// One window of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// `rows x 4`, row-major.
    pub slots: Vec<f32>,
    /// Seconds between the last packet before the window and its first; 0 for the first window of a session.
    pub silence: f64,
    /// Number of the window in its session.
    pub index: u64,
}

/// Cuts the packets of one device in one session into windows, as iPET does.
///
/// A window starts at a packet; the first packet at or after its end starts the next one, so gaps are skipped and windows
/// are aligned with packets. A slot is the whole number of slot lengths since the window's first packet, in exact
/// nanoseconds (iPET's floating-point division can put a packet on a slot's edge into the slot before).
/// Of each session at most `limit` windows are kept, every window with the same probability.
#[derive(Clone, Debug)]
pub struct Cutter {
    shape: Shape,
    limit: usize,
    open: Option<(Nanos, Window)>,
    last: Nanos,
    made: u64,
    kept: Vec<Window>,
}

impl Cutter {
    /// No packet yet.
    pub fn new(shape: Shape, limit: usize) -> Self {
        Self {
            shape,
            limit: limit.max(1),
            open: None,
            last: Nanos::ZERO,
            made: 0,
            kept: Vec::new(),
        }
    }

    /// Adds a packet with payload. A time before the last one counts as equal to it.
    pub fn push(&mut self, at: Nanos, dir: Dir, payload: u32, rng: &mut dyn RngCore) {
        let at = at.max(self.last);
        let ended = self
            .open
            .as_ref()
            .is_none_or(|(start, _)| at.since(*start) >= self.shape.window());
        if ended {
            let silence = match self.open.take() {
                Some((_, done)) => {
                    self.keep(done, rng);
                    at.since(self.last).as_secs_f64()
                }
                None => 0.0,
            };
            let window = Window {
                slots: vec![0.0; self.shape.rows * COLUMNS],
                silence,
                index: self.made,
            };
            self.made += 1;
            self.open = Some((at, window));
        }
        self.last = at;
        if let Some((start, window)) = &mut self.open {
            // Below rows, because the packet lies in the window.
            let row = (at.since(*start).0 / self.shape.slot.0) as usize;
            let column = row * COLUMNS + if dir == Dir::Out { 2 } else { 0 };
            window.slots[column] += 1.0;
            window.slots[column + 1] += payload as f32;
        }
    }

    /// The windows in order of time; the last one may be shorter than the others.
    pub fn finish(mut self, rng: &mut dyn RngCore) -> Vec<Window> {
        if let Some((_, done)) = self.open.take() {
            self.keep(done, rng);
        }
        self.kept.sort_by_key(|w| w.index);
        self.kept
    }

    /// Reservoir sampling (Vitter 1985, algorithm R).
    fn keep(&mut self, window: Window, rng: &mut dyn RngCore) {
        if self.kept.len() < self.limit {
            self.kept.push(window);
            return;
        }
        let place = below(
            rng,
            usize::try_from(window.index)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
        );
        if let Some(old) = self.kept.get_mut(place) {
            *old = window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn cut(packets: &[(u64, Dir, u32)], limit: usize) -> Vec<Window> {
        let shape = Shape::new(0.1, 4.0).expect("valid");
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut cutter = Cutter::new(shape, limit);
        for &(ms, dir, payload) in packets {
            cutter.push(Nanos::from_millis(ms), dir, payload, &mut rng);
        }
        cutter.finish(&mut rng)
    }

    #[test]
    fn windows_start_at_packets_and_columns_are_incoming_first() {
        let w = cut(
            &[
                (1000, Dir::Out, 10),
                (1099, Dir::In, 7),
                (1100, Dir::In, 5),
                (4999, Dir::Out, 3),
                (5000, Dir::Out, 2),
                (20_000, Dir::In, 1),
            ],
            100,
        );
        assert_eq!(w.len(), 3);
        assert_eq!(w[0].slots[..8], [1.0, 7.0, 1.0, 10.0, 1.0, 5.0, 0.0, 0.0]);
        assert_eq!(w[0].slots[39 * 4..], [0.0, 0.0, 1.0, 3.0]);
        assert_eq!(
            w.iter().map(|w| w.silence).collect::<Vec<_>>(),
            [0.0, 0.001, 15.0]
        );
    }

    #[test]
    fn a_clock_that_goes_back_loses_no_packet() {
        let w = cut(&[(5000, Dir::Out, 1), (10, Dir::Out, 1)], 100);
        assert_eq!((w.len(), w[0].slots[2]), (1, 2.0));
    }

    #[test]
    fn keeps_at_most_the_limit_in_order() {
        let packets: Vec<_> = (0..1000).map(|i| (i * 5000, Dir::Out, 1)).collect();
        let w = cut(&packets, 50);
        assert_eq!(w.len(), 50);
        assert!(w.is_sorted_by_key(|w| w.index));
        let mean = w.iter().map(|w| w.index as f64).sum::<f64>() / 50.0;
        assert!((300.0..700.0).contains(&mean), "{mean}");
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert_eq!(Shape::new(0.1, 4.0).map(|s| s.rows), Ok(40));
        assert_eq!(Shape::new(0.3, 0.9).map(|s| s.rows), Ok(3));
        for (omega, total) in [
            (0.1, 0.25),
            (0.0, 4.0),
            (4.0, 0.1),
            (f64::NAN, 4.0),
            (0.0001, 1.0),
            (0.001, 3600.0),
        ] {
            assert!(Shape::new(omega, total).is_err(), "{omega} {total}");
        }
    }
}
