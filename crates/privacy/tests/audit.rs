//! A black-box auditor: it sees only answers, and says when they tell neighbouring inputs apart by more than ε allows.
//!
//! For events of the output it counts how often each happens on two neighbouring inputs. The Clopper-Pearson bounds of both
//! probabilities give a lower bound of the loss, `ln(p / q)`; above ε the build is flagged. Each bound is wrong with probability
//! below 1e-9, and an audit looks at less than 500 events both ways: a sound build is flagged with probability below 1e-5 in
//! all audits here together. Seeds are fixed.
//!
//! That it has teeth is shown on builds with the mistakes that were found in DPMon: noise scaled by bounds taken from the data
//! (1), none when all values are equal (2), a filtered mean scaled by all users (3), and noise on the grid of floats (7).

use chaff_privacy::telemetry::{Aim, Cap, Config, Exporter, MemoryBook, Metric, Plan};
use chaff_privacy::{Bounds, Budget, DAY_NS, Day, Entropy, Epsilon, Grant, Ledger, Noise, Rho};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

const RUNS: usize = 20_000;
const ERROR: f64 = 1e-9;

/// ln Γ(x), x > 0 (Lanczos, g = 7).
fn ln_gamma(x: f64) -> f64 {
    const C: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = (1..9).fold(C[0], |sum, i| sum + C[i] / (x + i as f64));
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// The regularised incomplete beta function (continued fraction by Lentz' method).
fn beta_cdf(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return f64::from(x >= 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_cdf(1.0 - x, b, a);
    }
    let front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln();
    let tiny = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / tiny(1.0 - (a + b) * x / (a + 1.0)));
    let mut f = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut last = 1.0;
        for step in [even, odd] {
            d = 1.0 / tiny(1.0 + step * d);
            c = tiny(1.0 + step / c);
            last = c * d;
            f *= last;
        }
        if (last - 1.0f64).abs() < 1e-14 {
            break;
        }
    }
    front.exp() * f / a
}

fn quantile(level: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if beta_cdf(middle, a, b) < level {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The bounds of a probability after `k` of `n`, each wrong with probability [`ERROR`] (Clopper, Pearson 1934).
fn clopper_pearson(k: usize, n: usize) -> (f64, f64) {
    let (k, n) = (k as f64, n as f64);
    let low = if k == 0.0 {
        0.0
    } else {
        quantile(ERROR, k, n - k + 1.0)
    };
    let high = if k == n {
        1.0
    } else {
        quantile(1.0 - ERROR, k + 1.0, n - k)
    };
    (low, high)
}

/// The loss that two sets of answers prove, over thresholds, intervals, single values and the grid of floats.
fn proven_loss(a: &[f64], b: &[f64]) -> f64 {
    let mut pool: Vec<f64> = a.iter().chain(b).copied().collect();
    pool.sort_by(f64::total_cmp);
    let at = |q: f64| pool[((pool.len() - 1) as f64 * q) as usize];
    let mut marks: Vec<f64> = (0..=40).map(|i| at(f64::from(i) / 40.0)).collect();
    marks.extend([0.001, 0.003, 0.01, 0.99, 0.997, 0.999].map(at));
    marks.push(0.0);
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let mut events: Vec<Box<dyn Fn(f64) -> bool>> = Vec::new();
    for (i, m) in marks.iter().copied().enumerate() {
        events.push(Box::new(move |x| x <= m));
        events.push(Box::new(move |x| x >= m));
        events.push(Box::new(move |x| x == m));
        if let Some(next) = marks.get(i + 1).copied() {
            events.push(Box::new(move |x| x > m && x <= next));
        }
    }
    // Finer than what is left of a number of the size of the answers once noise was added to it.
    let is_off_grid = |x: f64| (x * (1u64 << 54) as f64).fract() != 0.0;
    for width in [0.5f64, 0.25, 1.0 / 32.0] {
        events.push(Box::new(move |x| x > 0.0 && x < width && is_off_grid(x)));
        events.push(Box::new(move |x| x > 0.0 && x < width && !is_off_grid(x)));
    }
    let mut worst = 0f64;
    for event in &events {
        let count = |v: &[f64]| v.iter().filter(|x| event(**x)).count();
        let (p, q) = (
            clopper_pearson(count(a), a.len()),
            clopper_pearson(count(b), b.len()),
        );
        for (low, high) in [(p.0, q.1), (q.0, p.1)] {
            if low > 0.0 {
                worst = worst.max((low / high).ln());
            }
        }
    }
    worst
}

/// What an input's answers look like.
fn answers(build: &mut dyn FnMut(&[f64]) -> f64, values: &[f64], runs: usize) -> Vec<f64> {
    (0..runs).map(|_| build(values)).collect()
}

/// The largest proven loss over neighbours of 0, 1, 2 and 300 users: one more of a small and one of a large value.
fn audit(build: &mut dyn FnMut(&[f64]) -> f64) -> f64 {
    let mut worst = 0f64;
    for n in [0usize, 1, 2, 300] {
        let many: Vec<f64> = (0..n)
            .map(|i| if n > 2 { 0.0 } else { 0.25 * (i + 1) as f64 })
            .collect();
        let base = answers(build, &many, RUNS);
        for one in [0.5, 1.0, 40.0] {
            let mut more = many.clone();
            more.push(one);
            worst = worst.max(proven_loss(&base, &answers(build, &more, RUNS)));
        }
    }
    worst
}

/// Laplace noise as floats make it.
fn float_laplace(rng: &mut ChaCha20Rng, scale: f64) -> f64 {
    let u: f64 = rng.random::<f64>() - 0.5;
    -scale * u.signum() * (1.0 - 2.0 * u.abs()).max(f64::MIN_POSITIVE).ln()
}

fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low > high { (0.0, 0.0) } else { (low, high) }
}

#[test]
fn the_bounds_are_those_of_clopper_and_pearson() {
    // Closed forms: none of n is below 1 - error^(1/n), all of n above its root.
    let (low, high) = clopper_pearson(0, 100);
    assert_eq!(low, 0.0);
    assert!((high - (1.0 - ERROR.powf(0.01))).abs() < 1e-9);
    let (low, high) = clopper_pearson(100, 100);
    assert!((low - ERROR.powf(0.01)).abs() < 1e-9);
    assert_eq!(high, 1.0);
    // A beta law with whole parameters is a binomial tail: P(X >= 3 of 5) at p = 0.3.
    let tail = 10.0 * 0.027 * 0.49 + 5.0 * 0.0081 * 0.7 + 0.00243;
    assert!((beta_cdf(0.3, 3.0, 3.0) - tail).abs() < 1e-12);
}

#[test]
fn flags_builds_with_the_mistakes_of_dpmon() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let epsilon = 1.0;
    // 1: the scale is the range of the data, and so tells the largest value.
    let mut data_bounds = |values: &[f64]| {
        let (low, high) = range(values);
        let (low, high) = (low.min(0.0), high.max(1e-3));
        let sum: f64 = values.iter().sum();
        (sum + float_laplace(&mut rng, (high - low) / epsilon)).round()
    };
    let found = audit(&mut data_bounds);
    assert!(found > epsilon, "bounds from data: {found}");

    // 2: no noise when all values are equal.
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let mut zero_noise = |values: &[f64]| {
        let clamped: Vec<f64> = values.iter().map(|v| v.clamp(0.0, 1.0)).collect();
        let (low, high) = range(&clamped);
        let scale = if low == high { 0.0 } else { 1.0 / epsilon };
        (clamped.iter().sum::<f64>() + float_laplace(&mut rng, scale) * 4.0).round()
    };
    let found = audit(&mut zero_noise);
    assert!(found > epsilon, "no noise when equal: {found}");

    // 3: the mean of the few that match, scaled by all.
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let mut wrong_n = |values: &[f64]| {
        let matching: Vec<f64> = values
            .iter()
            .filter(|v| **v > 0.0)
            .map(|v| v.clamp(0.0, 1.0))
            .collect();
        let mean = matching.iter().sum::<f64>() / matching.len().max(1) as f64;
        let scale = 1.0 / values.len().max(1) as f64 / epsilon;
        ((mean + float_laplace(&mut rng, scale)) * 1e4).round()
    };
    let found = audit(&mut wrong_n);
    assert!(found > epsilon, "N in place of k: {found}");

    // 7: the right scale, but the answer's last bits tell what was added to the noise.
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let mut floats = |values: &[f64]| {
        let sum: f64 = values.iter().map(|v| v.clamp(0.0, 0.5)).sum();
        sum + float_laplace(&mut rng, 0.5 / epsilon)
    };
    let found = audit(&mut floats);
    assert!(found > epsilon, "noise of floats: {found}");
}

fn grant(epsilon: Epsilon) -> Grant {
    let mut ledger = Ledger::open(Epsilon::MAX, 0.0, &[]).expect("opens");
    ledger.mark_stored();
    ledger
        .spend("audit", epsilon)
        .expect("there is budget")
        .stored()
}

#[test]
fn passes_sums_and_counts() {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let bounds = Bounds::new(0.0, 1.0, 1.0 / 64.0).expect("bounds");
    for epsilon in [0.5, 1.0, 2.0] {
        let paid = Epsilon::new(epsilon).expect("in range");
        let mut sum = |values: &[f64]| {
            let rows = values.iter().copied().enumerate();
            let noise = Noise::Seeded(&mut rng);
            *grant(paid)
                .sum(rows, &bounds, noise)
                .expect("noise")
                .value()
        };
        let found = audit(&mut sum);
        assert!(found <= epsilon, "sum: {found} > {epsilon}");
        // It is not that nothing can be found: half of what is spent shows.
        assert!(found > 0.5 * epsilon, "sum: {found}");
        let mut count = |values: &[f64]| {
            let noise = Noise::Seeded(&mut rng);
            *grant(paid)
                .count(0..values.len(), noise)
                .expect("noise")
                .value() as f64
        };
        let found = audit(&mut count);
        assert!(found <= epsilon && found > 0.5 * epsilon, "count: {found}");
    }
}

/// One day of telemetry, in which each value is what one device did; gives one metric.
fn one_day(values: &[f64], aim: &Aim, cap: Cap, windows: u64, seed: u64) -> f64 {
    let metric = |name: &str| Metric {
        name: name.to_owned(),
        unit: String::new(),
        bound: 64,
    };
    let config = Config {
        metrics: vec![metric("a"), metric("b")],
        plan: Plan::new(aim).expect("a plan"),
        cap,
        sparse: None,
        flows: None,
        counters: None,
        pan_private: false,
        delta: 1e-6,
        entropy: Entropy::Seed(seed),
    };
    let day = Day {
        epsilon: aim.epsilon,
        rho: aim.rho,
    };
    let mut book = MemoryBook::new(Budget::daily("a device's day", day, 1e-6)).expect("a book");
    let mut exporter = Exporter::new(config, &[], &book).expect("works").0;
    let mut sum = 0.0;
    let start = 20_000 * DAY_NS;
    for window in 0..=windows {
        exporter.advance(start + window * DAY_NS / windows);
        for (device, value) in values.iter().enumerate() {
            exporter.add(device as u32, 0, (value * 64.0) as u64);
            exporter.add(device as u32, 1, (value * 64.0) as u64);
        }
        while let Some(made) = exporter.poll(&mut book) {
            // The sum of both metrics and all windows is what sees a device best.
            sum += made
                .expect("paid")
                .iter()
                .map(|p| *p.value.value())
                .sum::<f64>();
        }
    }
    sum
}

#[test]
fn passes_a_day_of_telemetry() {
    let aims = [
        (Some(Epsilon::ONE), None, 1.0),
        // rho 0.02 at delta 1e-6 is epsilon 0.9.
        (None, Some(Rho::at_most(0.02).expect("in range")), 0.9),
    ];
    for (epsilon, rho, loss) in aims {
        for (cap, windows) in [(Cap::Day, 1), (Cap::Day, 2), (Cap::Window, 2)] {
            let aim = Aim {
                epsilon,
                rho,
                period_s: Some(86_400 / windows),
                ..Aim::default()
            };
            let mut seed = 0;
            let mut build = |values: &[f64]| {
                seed += 1;
                one_day(values, &aim, cap, windows, seed)
            };
            // Only small inputs: what is looked for does not depend on the others.
            let mut worst = 0f64;
            for base in [&[][..], &[0.5][..]] {
                let without = answers(&mut build, base, 6_000);
                let with = answers(&mut build, &[base, &[40.0][..]].concat(), 6_000);
                worst = worst.max(proven_loss(&without, &with));
            }
            assert!(worst <= loss, "{cap:?} {windows}: {worst} > {loss}");
            // So few runs see Laplace noise of scale 1, and Gaussian noise of 5 not yet.
            assert!(rho.is_some() || worst > 0.0, "{cap:?} {windows}");
        }
    }
}
