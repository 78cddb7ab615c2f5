//! The discrete Fourier transform of a vector.

use std::f64::consts::TAU;

/// Appends the real part of the `n`-point transform of `vector`, which is taken as zero beyond its end:
/// `X_k = sum over j of x_j cos(2 pi j k / n)` for k from 0 to n - 1, not scaled.
///
/// The sum itself, not a fast transform: vectors are short against `n`, since most flows are.
pub fn real_part(vector: &[f64], n: usize, out: &mut Vec<f64>) {
    let vector = &vector[..vector.len().min(n)];
    let cosines: Vec<f64> = (0..n).map(|i| (TAU * i as f64 / n as f64).cos()).collect();
    let begin = out.len();
    for k in 0..n {
        // The transform of real numbers is mirrored.
        if k > n / 2 {
            out.push(out[begin + n - k]);
            continue;
        }
        let mut angle = 0;
        let mut sum = 0.0;
        for x in vector {
            sum += x * cosines[angle];
            angle += k;
            if angle >= n {
                angle -= n;
            }
        }
        out.push(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_has_one_line() {
        let wave: Vec<f64> = (0..8).map(|i| (TAU * 2.0 * i as f64 / 8.0).cos()).collect();
        let mut out = Vec::new();
        real_part(&wave, 8, &mut out);
        for (k, x) in out.iter().enumerate() {
            let want = if k == 2 || k == 6 { 4.0 } else { 0.0 };
            assert!((x - want).abs() < 1e-12, "{k} {x}");
        }
    }

    #[test]
    fn zeros_are_added_and_the_rest_is_cut() {
        let mut out = Vec::new();
        real_part(&[1.0, 2.0, 3.0], 2, &mut out);
        assert!((out[0] - 3.0).abs() < 1e-12 && (out[1] + 1.0).abs() < 1e-12);
        out.clear();
        real_part(&[], 3, &mut out);
        assert_eq!(out, [0.0; 3]);
        real_part(&[1.0], 0, &mut out);
        assert_eq!(out.len(), 3);
    }
}
