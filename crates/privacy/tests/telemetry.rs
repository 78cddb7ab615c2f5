//! Telemetry over a month of virtual time: budget, error, restarts, crashes.

use std::collections::{BTreeMap, BTreeSet};

use chaff_privacy::telemetry::{
    Aim, Book, BoxError, Cap, Config, Counters, Exporter, Flows, MemoryBook, Metric, PayError,
    Plan, Published, Size, Sparse, Tier, Unreleased,
};
use chaff_privacy::{
    Budget, DAY_NS, Day, Entropy, Epsilon, Expense, Ledger, Paid, Rho, epsilon_of_rho,
    rho_of_epsilon,
};

const HOUR: u64 = DAY_NS / 24;
const START: u64 = 20_000 * DAY_NS;
/// Bound of each metric, by device and day.
const BOUND: u64 = 3_000_000;

fn day_rho() -> Rho {
    Rho::at_most(rho_of_epsilon(Epsilon::ONE, 1e-6)).expect("in range")
}

fn budget() -> Budget {
    let day = Day {
        epsilon: Some(Epsilon::ONE),
        rho: Some(day_rho()),
    };
    Budget::daily("one UTC day of one device", day, 1e-6)
}

fn config(aim: &Aim, seed: u64) -> Config {
    let metric = |name: &str| Metric {
        name: name.to_owned(),
        unit: "bytes".to_owned(),
        bound: BOUND,
    };
    Config {
        metrics: vec![metric("in"), metric("out")],
        plan: Plan::new(aim).expect("can be planned"),
        cap: Cap::Day,
        sparse: None,
        flows: None,
        counters: None,
        pan_private: false,
        delta: 1e-6,
        entropy: Entropy::Seed(seed),
    }
}

fn aim(size: Size) -> Aim {
    Aim {
        size,
        rho: Some(day_rho()),
        ..Aim::default()
    }
}

/// A book that writes down what it paid, and can be killed at any of its calls.
struct Witness {
    book: MemoryBook,
    ledger_file: Vec<u8>,
    /// Time, ε and ρ in billionths, of the ledger's unit.
    paid: Vec<(u64, u64, u64)>,
    calls: u64,
    /// The call at which the process dies, and whether that call still takes effect.
    killed_at: Option<(u64, bool)>,
}

impl Witness {
    fn new() -> Self {
        Self {
            book: MemoryBook::new(budget()).expect("a book"),
            ledger_file: Vec::new(),
            paid: Vec::new(),
            calls: 0,
            killed_at: None,
        }
    }

    /// What is on the disk after a crash.
    fn restart(&mut self) {
        let mut ledger = Ledger::open_budget(budget(), &self.ledger_file, None).expect("opens");
        if let Some(store) = ledger.to_store() {
            self.ledger_file.truncate(store.keep);
            self.ledger_file.extend_from_slice(&store.append);
        }
        ledger.mark_stored();
        self.book.ledger = ledger;
    }

    /// Whether this call dies, and whether it does what it should first.
    fn call(&mut self) -> (bool, bool) {
        self.calls += 1;
        match self.killed_at {
            Some((at, takes_effect)) if self.calls == at => (true, takes_effect),
            _ => (false, true),
        }
    }

    /// No 24 hours hold more than the purses, counted anew.
    fn check_budget(&self) {
        for (end, ..) in &self.paid {
            let inside = self
                .paid
                .iter()
                .filter(|(t, ..)| t <= end && t + DAY_NS > *end);
            let (epsilon, rho) =
                inside.fold((0, 0), |(a, b), (_, epsilon, rho)| (a + epsilon, b + rho));
            assert!(epsilon <= Epsilon::ONE.nanos(), "{epsilon} until {end}");
            assert!(rho <= day_rho().nanos(), "{rho} until {end}");
        }
    }
}

fn died() -> BoxError {
    "killed".into()
}

impl Book for Witness {
    fn pay(&mut self, expense: &Expense<'_>) -> Result<Paid, PayError> {
        let (dies, takes_effect) = self.call();
        if dies && !takes_effect {
            return Err(PayError::Storage(died()));
        }
        if self.ledger_file.is_empty() {
            self.restart();
        }
        let pending = self.book.ledger.charge(expense)?;
        self.ledger_file.extend_from_slice(pending.entry());
        let paid = pending.stored();
        if expense.other_unit.is_none() {
            let epsilon = expense.epsilon.map_or(0, Epsilon::nanos);
            let rho = expense.rho.map_or(0, Rho::nanos);
            self.paid.push((expense.at_ns, epsilon, rho));
        }
        match dies {
            true => Err(PayError::Storage(died())),
            false => Ok(paid),
        }
    }

    fn last_window(&self, stream: &str) -> Option<(u64, u64)> {
        self.book.last_window(stream)
    }

    fn store(&mut self, state: &[u8]) -> Result<(), BoxError> {
        let (dies, takes_effect) = self.call();
        if takes_effect {
            self.book.state = state.to_vec();
        }
        match dies {
            true => Err(died()),
            false => Ok(()),
        }
    }
}

/// What a device sends in an hour: a third of its bound in a day, some hours more, some less.
fn hourly(device: u32, hour: u64) -> u64 {
    let share = BOUND / 3 / 24;
    match (u64::from(device) + hour) % 4 {
        0 => share / 2,
        1 => share * 3 / 2,
        _ => share,
    }
}

/// Collects everything that is due; the values of windows that were released.
fn collect(exporter: &mut Exporter, book: &mut dyn Book) -> Vec<Published> {
    let mut out = Vec::new();
    while let Some(made) = exporter.poll(book) {
        out.extend(made.expect("is paid"));
    }
    out
}

/// Runs a month and gives the relative errors of all windows; restarts cleanly at each hour in `restarts`.
fn month(size: Size, devices: u32, restarts: &[u64]) -> (Config, Vec<f64>, Witness) {
    let config = config(&aim(size), 7);
    let period = config.plan.period_s() * 1_000_000_000;
    let mut book = Witness::new();
    let (mut exporter, _) = Exporter::new(config.clone(), &[], &book).expect("works");
    let steps = (HOUR / period).max(1);
    let mut exact = BTreeMap::<u64, u64>::new();
    let mut out = Vec::new();
    for step in 0..31 * 24 * steps {
        let (hour, now) = (step / steps, START + step * HOUR / steps);
        exporter.advance(now);
        for device in 1..=devices {
            let amount = hourly(device, hour) / steps;
            exporter.add(device, 0, amount);
            *exact.entry(now / period).or_default() += amount;
        }
        out.extend(collect(&mut exporter, &mut book));
        if restarts.contains(&hour) && step % steps == 0 {
            let before = exporter.published().to_vec();
            let state = exporter.to_state();
            book.store(&state).expect("stores");
            book.restart();
            let entropy = Entropy::Seed(1_000 + hour);
            let config = Config {
                entropy,
                ..config.clone()
            };
            let (again, unused) = Exporter::new(config, &book.book.state, &book).expect("works");
            assert_eq!(unused, None);
            assert_eq!(
                again.published(),
                before,
                "the same numbers for the next scrape"
            );
            exporter = again;
        }
    }
    exporter.advance(START + 31 * DAY_NS);
    out.extend(collect(&mut exporter, &mut book));
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for p in &out {
        assert!(
            seen.insert((p.value.label().to_owned(), p.from_s)),
            "noised twice"
        );
        let truth = exact[&(p.from_s * 1_000_000_000 / period)] as f64;
        let wrong = match p.value.label() {
            "in" => p.value.value() - truth,
            _ => *p.value.value(),
        };
        errors.push(wrong / truth);
    }
    assert_eq!(out.len() as u64, 2 * 31 * config.plan.windows());
    book.check_budget();
    (config, errors, book)
}

/// Root of the mean square.
fn size_of(errors: &[f64]) -> f64 {
    (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt()
}

#[test]
fn a_month_stays_within_budget_and_prediction_whatever_the_size() {
    for (size, devices, room) in [
        // 62, 248 and 5,952 values: bounds that a right size passes but for 1 in 10,000.
        (Size::Home, 20, 0.55),
        (Size::Office, 200, 0.30),
        (Size::Campus, 2_000, 0.06),
    ] {
        let (config, errors, book) = month(size, devices, &[]);
        let (found, predicted) = (size_of(&errors), config.plan.error());
        println!("{size:?}: {}; measured {:.1} %", config.plan, 100.0 * found);
        // Rounding the amounts to whole bytes shifts nothing that counts.
        let ratio = found / predicted;
        assert!(
            (1.0 - room..1.0 + room).contains(&ratio),
            "{size:?}: {ratio}"
        );
        assert!(predicted <= 0.26);
        // Every day is used fully: not more, but not less either.
        let pure: u64 = book.paid.iter().map(|(_, e, _)| e).sum();
        let gauss: u64 = book.paid.iter().map(|(.., r)| r).sum();
        assert!(pure == 31 * Epsilon::ONE.nanos() || gauss > 30 * day_rho().nanos());
    }
}

#[test]
fn a_restart_in_the_middle_changes_nothing_but_the_noise_to_come() {
    let restarts = [11, 100, 101, 240, 503];
    let (config, errors, _) = month(Size::Home, 20, &restarts);
    let ratio = size_of(&errors) / config.plan.error();
    assert!((0.45..1.55).contains(&ratio), "{ratio}");
    let (config, errors, _) = month(Size::Office, 200, &restarts);
    let ratio = size_of(&errors) / config.plan.error();
    assert!((0.7..1.3).contains(&ratio), "{ratio}");
}

/// All tiers at once, for two days, killed at every single call to the disk, before and after it took effect.
#[test]
fn killed_at_any_call_no_window_is_noised_twice_and_no_purse_over_spent() {
    let mut points = 0;
    for cap in [Cap::Day, Cap::Window] {
        let make = |seed| {
            let half = Rho::from_nanos(day_rho().nanos() / 2).expect("in range");
            let aim = Aim {
                period_s: Some(21_600),
                rho: Some(half),
                ..Aim::default()
            };
            Config {
                cap,
                flows: Some(Flows {
                    epsilon: Epsilon::ONE,
                    bound: 1_000,
                }),
                counters: Some(Counters {
                    period_s: 43_200,
                    levels: 4,
                    rho: half,
                }),
                ..config(&aim, seed)
            }
        };
        for point in 1u64.. {
            let mut was_killed = false;
            for takes_effect in [false, true] {
                let mut book = Witness::new();
                book.killed_at = Some((point, takes_effect));
                let mut exporter = Exporter::new(make(1), &[], &book).expect("works").0;
                let mut shown = BTreeMap::<(Tier, String, u64), f64>::new();
                let mut days_with_values = BTreeSet::new();
                for hour in 0..=48 {
                    exporter.advance(START + hour * 6 * HOUR / 4);
                    exporter.add(1, 0, BOUND / 10);
                    exporter.flow(5_000);
                    while let Some(made) = exporter.poll(&mut book) {
                        let Ok(values) = made else {
                            if book.calls != point {
                                // Not paid because a crash wasted it.
                                continue;
                            }
                            // The process is dead: what it had in memory is gone.
                            was_killed = true;
                            book.restart();
                            let state = book.book.state.clone();
                            exporter = Exporter::new(make(2), &state, &book).expect("works").0;
                            exporter.advance(START + hour * 6 * HOUR / 4);
                            continue;
                        };
                        for p in values {
                            days_with_values.insert(p.from_s / 86_400);
                            let key = (
                                p.tier,
                                p.value.label().to_owned(),
                                match p.tier {
                                    // Counters begin once; their end tells them apart.
                                    Tier::Counters => p.from_s + p.period_s,
                                    _ => p.from_s,
                                },
                            );
                            let old = shown.insert(key.clone(), *p.value.value());
                            assert_eq!(old, None, "{key:?} at call {point}");
                        }
                    }
                    for p in exporter
                        .published()
                        .iter()
                        .filter(|p| p.tier == Tier::Totals)
                    {
                        // What every scrape sees is what was shown, or was never shown because of the crash.
                        let key = (p.tier, p.value.label().to_owned(), p.from_s);
                        if let Some(value) = shown.get(&key) {
                            assert_eq!(value, p.value.value());
                        }
                    }
                }
                book.check_budget();
                assert!(days_with_values.len() >= 2, "{point}: releases go on");
                points += 1;
            }
            if !was_killed {
                break;
            }
        }
    }
    println!("{points} kill points");
    assert!(points > 100);
}

#[test]
fn a_state_that_is_older_than_the_ledger_stops_the_day_and_not_the_next() {
    let aim = Aim {
        period_s: Some(21_600),
        ..Aim::default()
    };
    let mut book = Witness::new();
    let mut exporter = Exporter::new(config(&aim, 1), &[], &book).expect("works").0;
    let mut states = Vec::new();
    for window in 0..3 {
        exporter.advance(START + window * 6 * HOUR);
        exporter.add(1, 0, BOUND);
        let _ = collect(&mut exporter, &mut book);
        states.push(book.book.state.clone());
    }
    for (state, says) in [
        (states[1].clone(), "older than the ledger"),
        (Vec::new(), "older than the ledger"),
        (states[2][..states[2].len() - 9].to_vec(), "changed or cut"),
    ] {
        let mut book = Witness {
            ledger_file: book.ledger_file.clone(),
            paid: book.paid.clone(),
            ..Witness::new()
        };
        book.restart();
        let (mut exporter, why) = Exporter::new(config(&aim, 2), &state, &book).expect("works");
        assert!(why.expect("is not used").contains(says));
        let mut released = Vec::new();
        let mut blocked = 0;
        for window in 3..9 {
            exporter.advance(START + window * 6 * HOUR);
            while let Some(made) = exporter.poll(&mut book) {
                match made {
                    Ok(values) => released.extend(values.into_iter().map(|p| p.from_s)),
                    Err(Unreleased::Blocked) => blocked += 1,
                    Err(e) => panic!("{e}"),
                }
            }
        }
        assert_eq!(blocked, 1);
        assert!(released.iter().all(|s| s * 1_000_000_000 >= START + DAY_NS));
        assert_eq!(released.len(), 2 * 4);
        book.check_budget();
    }
}

/// One device that sends everything in one burst: the running cap lets it, the bound of each window does not; neither passes
/// its bound in a day.
#[test]
fn a_bursty_device_pays_for_what_it_uses_and_no_more_than_its_bound() {
    let aim = Aim {
        period_s: Some(3_600),
        epsilon: Some(Epsilon::new(90_000.0).expect("in range")),
        ..Aim::default()
    };
    let loose = Budget::daily(
        "one UTC day of one device",
        Day {
            epsilon: aim.epsilon,
            rho: None,
        },
        0.0,
    );
    for (cap, burst, day) in [
        (Cap::Day, BOUND as f64, BOUND as f64),
        (Cap::Window, BOUND as f64 / 24.0, BOUND as f64 / 12.0),
    ] {
        let config = Config {
            cap,
            ..config(&aim, 3)
        };
        let mut book = MemoryBook::new(loose.clone()).expect("a book");
        let mut exporter = Exporter::new(config, &[], &book).expect("works").0;
        let mut values = Vec::new();
        for hour in 0..=24 {
            exporter.advance(START + hour * HOUR);
            if hour == 3 || hour == 9 {
                exporter.add(1, 0, 40 * BOUND);
            }
            let made = collect(&mut exporter, &mut book);
            values.extend(
                made.iter()
                    .filter(|p| p.value.label() == "in")
                    .map(|p| *p.value.value()),
            );
        }
        let sum: f64 = values.iter().sum();
        let near = |a: f64, b: f64| (a - b).abs() < 0.01 * BOUND as f64;
        assert!(near(values[3], burst), "{cap:?}: {values:?}");
        assert!(near(sum, day), "{cap:?}: {sum}");
    }
}

#[test]
fn flows_are_counted_by_the_minute_for_one_price() {
    let epsilon = Epsilon::new(2.0).expect("in range");
    let config = Config {
        flows: Some(Flows {
            epsilon,
            bound: 1_000,
        }),
        ..config(&Aim::default(), 5)
    };
    let mut book = Witness::new();
    let mut exporter = Exporter::new(config, &[], &book).expect("works").0;
    let (mut flows, mut bytes) = (Vec::new(), Vec::new());
    for minute in 0..=2_000u64 {
        exporter.advance(START + minute * 60_000_000_000);
        for flow in 0..minute % 7 {
            exporter.flow(if flow == 0 { 1 << 40 } else { 500 });
        }
        for p in collect(&mut exporter, &mut book) {
            match (p.tier, p.value.label()) {
                (Tier::Flows, "flows") => flows.push(p.value.value() - ((minute - 1) % 7) as f64),
                (Tier::Flows, _) => {
                    let n = (minute - 1) % 7;
                    let exact = if n == 0 {
                        0.0
                    } else {
                        1_000.0 + 500.0 * (n - 1) as f64
                    };
                    bytes.push((p.value.value() - exact) / 1_000.0);
                    assert_eq!(p.value.relation(), "one flow added or removed");
                }
                _ => (),
            }
        }
    }
    // Half of eps 2 each: sd of the discrete Laplace law of scale 1 is 1.36 flows, and 1.41 bounds for bytes.
    assert_eq!(flows.len(), 2_000);
    assert!(
        (size_of(&flows) / 1.357 - 1.0).abs() < 0.15,
        "{}",
        size_of(&flows)
    );
    assert!(
        (size_of(&bytes) / 1.414 - 1.0).abs() < 0.15,
        "{}",
        size_of(&bytes)
    );
    // Noted once a day, and for nothing from the devices' purse: 2,000 minutes are two days, and one daily total.
    let other = String::from_utf8(book.ledger_file.clone()).expect("text");
    assert_eq!(other.matches("\"other_unit\":\"one flow\"").count(), 2);
    book.check_budget();
}

#[test]
fn counters_follow_the_truth_never_fall_and_survive_restarts() {
    for pan_private in [false, true] {
        let half = Rho::from_nanos(day_rho().nanos() / 2).expect("in range");
        let make = |seed| Config {
            counters: Some(Counters {
                period_s: 3_600,
                levels: 11,
                rho: half,
            }),
            pan_private,
            ..config(&Aim::default(), seed)
        };
        let mut book = Witness::new();
        let mut exporter = Exporter::new(make(1), &[], &book).expect("works").0;
        let (devices, mut exact, mut last, mut worst) = (2_000, 0u64, 0.0, 0f64);
        for hour in 0..31 * 24u64 {
            exporter.advance(START + hour * HOUR);
            for p in collect(&mut exporter, &mut book) {
                if p.tier == Tier::Counters && p.value.label() == "in" {
                    assert!(*p.value.value() >= last, "hour {hour}");
                    last = *p.value.value();
                    worst = worst.max((last - exact as f64).abs() / p.value.scale());
                }
            }
            for device in 1..=devices {
                let amount = hourly(device, hour);
                exporter.add(device, 0, amount);
                exact += amount;
            }
            if hour % 200 == 150 {
                let state = exporter.to_state();
                let text = String::from_utf8(state.clone()).expect("text");
                // Pan-private: no exact number of a device is in the file.
                assert_eq!(text.contains("\"devices\""), !pan_private);
                if pan_private {
                    // Nothing of the open hour is kept: it is lost, as it should be.
                    exact -= (1..=devices).map(|d| hourly(d, hour)).sum::<u64>();
                }
                book.store(&state).expect("stores");
                book.restart();
                let stored = book.book.state.clone();
                exporter = Exporter::new(make(hour), &stored, &book).expect("works").0;
            }
        }
        // 744 correlated values: 5 standard deviations. The rule that counters do not fall adds a little.
        assert!(worst < 5.0, "{pan_private}: {worst}");
        let relative = (last - exact as f64).abs() / exact as f64;
        println!(
            "pan-private {pan_private}: {:.2} % off after a month",
            100.0 * relative
        );
        book.check_budget();
    }
}

#[test]
fn sparse_releases_cost_no_more_and_follow_jumps() {
    let aim = Aim {
        size: Size::Campus,
        period_s: Some(3_600),
        ..Aim::default()
    };
    let config = Config {
        sparse: Some(Sparse),
        ..config(&aim, 11)
    };
    let mut book = Witness::new();
    let mut exporter = Exporter::new(config, &[], &book).expect("works").0;
    let (mut published, mut last) = (0, 0.0);
    for hour in 0..10 * 24u64 {
        exporter.advance(START + hour * HOUR);
        for p in collect(&mut exporter, &mut book) {
            published += 1;
            if p.value.label() == "in" {
                last = *p.value.value();
            }
        }
        let level = if hour < 150 { 8 } else { 2 };
        for device in 1..=2_000 {
            exporter.add(device, 0, BOUND / 24 / level);
        }
    }
    let exact = 2_000.0 * (BOUND / 24 / 2) as f64;
    assert!((last / exact - 1.0).abs() < 0.1, "{last} for {exact}");
    // Two metrics; flat but for a jump: by far not all of 240 windows.
    println!("{} of 240 windows were published", published / 2);
    assert!((2..2 * 120).contains(&published));
    book.check_budget();
}

#[test]
fn values_say_what_they_cost() {
    let mut book = Witness::new();
    let config = config(&aim(Size::Campus), 1);
    let mut exporter = Exporter::new(config, &[], &book).expect("works").0;
    exporter.advance(START);
    exporter.advance(START + DAY_NS / 96);
    let made = collect(&mut exporter, &mut book);
    let json = serde_json::to_value(&made[0]).expect("has a form");
    let rho = made[0].value.rho().expect("Gaussian").value();
    let epsilon = epsilon_of_rho(rho, 1e-6);
    assert!((json["epsilon"].as_f64().expect("a number") - epsilon).abs() < 1e-8);
    for (key, want) in [
        ("tier", "totals"),
        ("label", "in"),
        ("mechanism", "discrete_gaussian"),
        (
            "relation",
            "all traffic of one UTC day of one device added or removed",
        ),
    ] {
        assert_eq!(json[key], want);
    }
    assert_eq!(json["simulated"], true);
    assert_eq!(
        (json["is_partial"].clone(), json["period_s"].clone()),
        (false.into(), 900.into())
    );
}
