//! What a flow carried in windows of fixed length, beginning at its first packet.

use super::{FeatureError, Sequence};

/// A vector grows to this many windows.
pub const MAX_WINDOWS: usize = 500;

/// What is added up in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Packets.
    Packets,
    /// Bytes.
    Bytes,
}

/// Appends the sums of windows of `window_s` seconds. A packet exactly at the end of a window belongs to it; the next
/// window begins where the last one ended and may be empty. A gap counts at most [`MAX_WINDOWS`] empty windows, after
/// which windows lag behind the packets, and a vector that reaches more than [`MAX_WINDOWS`] ends there.
///
/// # Errors
/// [`FeatureError::ZeroWindow`] when the window has no length and the flow has.
pub fn vector(
    flow: &Sequence<'_>,
    of: Of,
    window_s: f64,
    out: &mut Vec<f64>,
) -> Result<(), FeatureError> {
    let value = |i: usize| match of {
        Of::Packets => 1.0,
        Of::Bytes => flow.bytes[i],
    };
    let Some(&first) = flow.at.first() else {
        return Ok(());
    };
    let begin = out.len();
    let (mut start, mut sum) = (first, value(0));
    for (i, &at) in flow.at.iter().enumerate().skip(1) {
        if at - start <= window_s {
            sum += value(i);
            continue;
        }
        if window_s == 0.0 {
            out.truncate(begin);
            return Err(FeatureError::ZeroWindow);
        }
        start += window_s;
        out.push(sum);
        let empty = floor_division(at - start, window_s);
        if empty > 0.0 {
            let empty = empty.min(MAX_WINDOWS as f64);
            out.extend(std::iter::repeat_n(0.0, empty as usize));
            start += empty * window_s;
        }
        if out.len() - begin > MAX_WINDOWS {
            out.truncate(begin + MAX_WINDOWS);
            return Ok(());
        }
        sum = value(i);
    }
    if sum > 0.0 {
        out.push(sum);
    }
    Ok(())
}

/// Floor of the exact quotient as far as floating point allows: by the remainder, so that a quotient that rounds up to
/// the next whole number does not count as one more.
pub(crate) fn floor_division(a: f64, b: f64) -> f64 {
    let rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 && (b < 0.0) != (rest < 0.0) {
        quotient -= 1.0;
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor + 1.0
    } else {
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_is_by_the_remainder() {
        assert_eq!(floor_division(7.0, 2.0), 3.0);
        assert_eq!(floor_division(-1.0, 2.0), -1.0);
        assert_eq!(floor_division(1.0, 0.1), 9.0);
        assert_eq!(floor_division(6.0, 2.0), 3.0);
    }

    #[test]
    fn long_gaps_are_capped() {
        let at = [0.0, 1e6, 1e6 + 0.5];
        let bytes = [1.0; 3];
        let flow = Sequence {
            at: &at,
            bytes: &bytes,
            ..Sequence::default()
        };
        let mut out = vec![9.0];
        vector(&flow, Of::Packets, 1.0, &mut out).unwrap();
        assert_eq!(out.len(), 1 + MAX_WINDOWS);
        assert_eq!(out[..3], [9.0, 1.0, 0.0]);
    }

    #[test]
    fn a_window_without_length_is_an_error_only_for_a_flow_with_one() {
        let bytes = [1.0; 2];
        let (still, moving) = ([5.0, 5.0], [5.0, 6.0]);
        let mut flow = Sequence {
            at: &still,
            bytes: &bytes,
            ..Sequence::default()
        };
        let mut out = Vec::new();
        vector(&flow, Of::Packets, 0.0, &mut out).unwrap();
        assert_eq!(out, [2.0]);
        flow.at = &moving;
        assert_eq!(
            vector(&flow, Of::Packets, 0.0, &mut out),
            Err(FeatureError::ZeroWindow)
        );
    }
}
