use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::allowance::{Allowance, Cap};
use super::book::{Book, BoxError, PayError};
use super::counter::{Counter, Nodes};
use super::flows::{ClosedMinute, MINUTE_NS, Minute};
use super::plan::Plan;
use super::sparse::{Moves, Sparse};
use super::state::{State, Stored, digest};
use super::totals::{Closed, Windows};
use crate::vector::{Draws, Law};
use crate::{DAY_NS, Entropy, Epsilon, Expense, Paid, Refused, Released, Rho, epsilon_of_rho};

/// Series of the ledger: what was paid for days, and which windows were released.
const DAYS: &str = "telemetry days";
const WINDOWS: &str = "telemetry windows";
const FLOW_DAYS: &str = "telemetry flow days";
const COUNTER_DAYS: &str = "telemetry counter days";
const LEAVES: &str = "telemetry counter windows";
/// Windows that wait for the driver; beyond this the oldest are given up and counted.
const MOST_DUE: usize = 64;
/// Steps that a bound is divided into for counters at most.
const COUNTER_STEPS: u64 = 1 << 16;

/// One metric of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name, public.
    pub name: String,
    /// What it counts, for example `bytes`.
    pub unit: String,
    /// What one device contributes in a day at most, if to nothing else; about three times what a mean device does. Public:
    /// chosen without looking at the data.
    pub bound: u64,
}

/// Metrics of single flows, by the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// What one flow costs, once.
    pub epsilon: Epsilon,
    /// Bytes of one flow that count at most.
    pub bound: u64,
}

/// Counters that never fall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counters {
    /// Length of a leaf; it divides a day.
    pub period_s: u64,
    /// Heights of the tree, 1 to 24: after 2^levels leaves another tree begins.
    pub levels: u32,
    /// ρ that a device's day costs.
    pub rho: Rho,
}

/// Settings of an [`Exporter`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Metrics of the totals and the counters.
    pub metrics: Vec<Metric>,
    /// How often totals are released, with which noise.
    pub plan: Plan,
    /// How a device's bound is given out over the day.
    pub cap: Cap,
    /// Release totals only when they moved; experimental. Needs Laplace noise.
    pub sparse: Option<Sparse>,
    /// Metrics of single flows.
    pub flows: Option<Flows>,
    /// Counters.
    pub counters: Option<Counters>,
    /// Keep no exact number outside the memory of the open window. Bounds then hold for each window: [`Cap::Window`].
    pub pan_private: bool,
    /// δ at which ρ is told as an ε.
    pub delta: f64,
    /// Where noise comes from.
    pub entropy: Entropy,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is nothing to release.
    #[error("no metric is named")]
    NoMetric,
    /// A metric's bound is 0 or more than 2^52.
    #[error("the bound of {metric} is {bound}, allowed is 1 to 4503599627370496")]
    Bound {
        /// The metric.
        metric: String,
        /// Its bound.
        bound: u64,
    },
    /// A counter's period does not divide a day.
    #[error(
        "the counters' period is {0} s, it must divide a day: 60, 900, 3600, 21600 and 86400 s do"
    )]
    Period(u64),
    /// A tree of no or too many heights.
    #[error("counters have {0} levels, allowed is 1 to 24")]
    Levels(u32),
    /// Sparse publishing with Gaussian noise.
    #[error(
        "sparse publishing needs Laplace noise: give the purse of epsilon enough, or the period a coarser value"
    )]
    Sparse,
}

/// Which kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Total of a window over all devices.
    Totals,
    /// Flows of a minute. Protects single flows, not devices.
    Flows,
    /// Total since the counters' beginning.
    Counters,
}

/// A released value with its window. It stays the same however often it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Published {
    /// Which kind.
    pub tier: Tier,
    /// Beginning of what it covers, seconds since 1970.
    pub from_s: u64,
    /// Length of what it covers, seconds.
    pub period_s: u64,
    /// Whether a part of it was not watched, because the program started or stopped within it.
    pub is_partial: bool,
    /// Predicted relative error, see [`Plan::error`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_error: Option<f64>,
    /// The value; its label is the metric's name.
    #[serde(flatten)]
    pub value: Released<f64>,
}

/// Why a due window was not released. It never will be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreleased {
    /// The ledger did not pay, or cannot be written.
    #[error("the budget ledger refuses: {0}")]
    Pay(#[from] PayError),
    /// What devices used of this day is not known after a crash or a restored backup.
    #[error("the telemetry's state is older than the ledger: no release before the next UTC day")]
    Blocked,
    /// The state could not be stored, so the value was thrown away.
    #[error("while storing the telemetry's state: {0}")]
    Store(#[source] BoxError),
}

#[derive(Debug)]
enum Due {
    Totals(Closed),
    Leaf(Closed),
    Minute(ClosedMinute),
}

/// The counters with their windows.
#[derive(Debug)]
struct Trees {
    config: Counters,
    nodes: Nodes,
    steps: u64,
    windows: Windows,
    counters: Vec<Counter>,
    since_s: u64,
}

/// Telemetry of one place: takes what devices do, gives what may be told. See the module's first page.
///
/// Input: [`Exporter::advance`] and then [`Exporter::add`] and [`Exporter::flow`]. Output: [`Exporter::poll`],
/// [`Exporter::published`].
#[derive(Debug)]
pub struct Exporter {
    config: Config,
    settings: String,
    draws: Draws,
    totals: Windows,
    moves: Option<Moves>,
    minute: Option<Minute>,
    trees: Option<Trees>,
    due: VecDeque<Due>,
    published: Vec<Published>,
    missed: u64,
    releases: u64,
    spent: Spent,
}

/// What was paid since the start, ε and ρ of the ledger's unit, billionths.
type Spent = (u64, u64);

/// A book that adds up what it paid.
struct Adding<'a> {
    book: &'a mut dyn Book,
    spent: &'a mut Spent,
}

impl Book for Adding<'_> {
    fn pay(&mut self, expense: &Expense<'_>) -> Result<Paid, PayError> {
        let paid = self.book.pay(expense)?;
        if expense.other_unit.is_none() {
            self.spent.0 += expense.epsilon.map_or(0, Epsilon::nanos);
            self.spent.1 += expense.rho.map_or(0, Rho::nanos);
        }
        Ok(paid)
    }

    fn last_window(&self, stream: &str) -> Option<(u64, u64)> {
        self.book.last_window(stream)
    }

    fn store(&mut self, state: &[u8]) -> Result<(), BoxError> {
        self.book.store(state)
    }
}

impl Exporter {
    /// Goes on from `state`, which [`Book::store`] was given last (nothing for a new exporter), where the ledger of `book` agrees.
    /// The text says why a state was not used.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(
        mut config: Config,
        state: &[u8],
        book: &dyn Book,
    ) -> Result<(Self, Option<&'static str>), ConfigError> {
        if config.pan_private {
            config.cap = Cap::Window;
        }
        if config.sparse.is_some() {
            config.cap = Cap::Window;
        }
        check(&config)?;
        let settings = settings_of(&config);
        let mut draws = Draws::new(config.entropy);
        let plan = &config.plan;
        let allowance = Allowance::new(config.cap, plan.law, plan.windows);
        let mut this = Self {
            totals: Windows::new(plan.period_ns, plan.steps, allowance),
            moves: None,
            minute: config.flows.map(Minute::new),
            trees: config.counters.map(|c| Trees::new(c, &config, &mut draws)),
            due: VecDeque::new(),
            published: Vec::new(),
            missed: 0,
            releases: 0,
            spent: (0, 0),
            config,
            settings,
            draws,
        };
        let why = this.restore(state, book);
        Ok((this, why))
    }

    fn restore(&mut self, bytes: &[u8], book: &dyn Book) -> Option<&'static str> {
        let mut why = None;
        let state = match bytes {
            [] => State::default(),
            bytes => match State::read(bytes) {
                Ok(state) if state.settings != self.settings => {
                    why = Some("it was stored with other settings");
                    State::default()
                }
                Ok(state) => state,
                Err(what) => {
                    why = Some(what);
                    State::default()
                }
            },
        };
        let mut state = state;
        self.published = state.take_published();
        let last = |stream| book.last_window(stream).map(|(number, _)| number);
        if !self.totals.restore(state.totals, last(WINDOWS)) {
            self.totals.last_s = last(WINDOWS);
            self.totals.blocked_day = last(DAYS).filter(|_| self.config.cap == Cap::Day);
            why = why.or(Some("it is older than the ledger"));
        } else if self.config.sparse.is_some() {
            self.moves = state
                .moves
                .filter(|m| m.last.len() == self.config.metrics.len());
        }
        if let Some(trees) = &mut self.trees {
            let sound = state.counters.len() == self.config.metrics.len()
                && state.counters.iter().all(|c| c.is_sound(&trees.nodes));
            let leaves = state.leaves.filter(|_| sound).unwrap_or_default();
            if trees.windows.restore(leaves, last(LEAVES)) {
                if sound {
                    trees.counters = state.counters;
                    trees.since_s = state.counters_since_s;
                }
            } else {
                trees.windows.last_s = last(LEAVES);
                trees.windows.blocked_day =
                    last(COUNTER_DAYS).filter(|_| self.config.cap == Cap::Day);
                why = why.or(Some("it is older than the ledger"));
            }
        }
        why
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tells the time, nanoseconds since 1970, before what happened then is added: windows that are over close. A clock that is
    /// set back adds to the open window.
    pub fn advance(&mut self, now_ns: u64) {
        let metrics = &self.config.metrics;
        let totals = self.totals.advance(now_ns, metrics).map(Due::Totals);
        let trees = self.trees.as_mut();
        let leaf = trees.and_then(|t| t.windows.advance(now_ns, metrics).map(Due::Leaf));
        let minute = self.minute.as_mut();
        let minute = minute.and_then(|m| m.advance(now_ns).map(Due::Minute));
        for due in [minute, leaf, totals].into_iter().flatten() {
            if self.due.len() >= MOST_DUE {
                self.due.pop_front();
                self.missed += 1;
            }
            self.due.push_back(due);
        }
    }

    /// Counts what a device did. `metric` is the index in [`Config::metrics`].
    pub fn add(&mut self, device: u32, metric: usize, amount: u64) {
        if amount == 0 {
            return;
        }
        let metrics = self.config.metrics.len();
        self.totals.add(device, metric, metrics, amount);
        if let Some(trees) = &mut self.trees {
            trees.windows.add(device, metric, metrics, amount);
        }
    }

    /// Counts a flow that ended, for [`Tier::Flows`] only.
    pub fn flow(&mut self, bytes: u64) {
        if let Some(minute) = &mut self.minute {
            minute.add(bytes);
        }
    }

    /// Windows that nobody collected in time, or that nobody watched.
    pub fn missed(&self) -> u64 {
        self.missed + self.totals.unwatched
    }

    /// Windows that were released since the start.
    pub fn releases(&self) -> u64 {
        self.releases
    }

    /// What was paid since the start, ε and ρ of the ledger's unit in billionths.
    pub fn spent_nanos(&self) -> (u64, u64) {
        self.spent
    }

    /// The newest value of each tier and metric, for every scrape the same.
    pub fn published(&self) -> &[Published] {
        &self.published
    }

    /// Releases the next window that is over: pays, noises, stores, and only then gives the values. `Ok` without values: the
    /// window was found not to have moved ([`Sparse`]).
    pub fn poll(&mut self, book: &mut dyn Book) -> Option<Result<Vec<Published>, Unreleased>> {
        let due = self.due.pop_front()?;
        let is_minute = matches!(due, Due::Minute(_));
        let mut spent = self.spent;
        let mut adding = Adding {
            book,
            spent: &mut spent,
        };
        let made = match due {
            Due::Totals(closed) => self.release_totals(closed, &mut adding),
            Due::Leaf(closed) => self.release_leaf(&closed, &mut adding),
            Due::Minute(closed) => self.release_minute(&closed, &mut adding),
        };
        self.spent = spent;
        Some(made.and_then(|values| {
            self.releases += 1;
            for value in &values {
                let same = |p: &&mut Published| {
                    (p.tier, p.value.label()) == (value.tier, value.value.label())
                };
                match self.published.iter_mut().find(same) {
                    Some(old) => *old = value.clone(),
                    None => self.published.push(value.clone()),
                }
            }
            // Without this the value could be noised again after a crash. What flows of a minute did is nowhere but in memory.
            if !is_minute {
                book.store(&self.to_state()).map_err(Unreleased::Store)?;
            }
            Ok(values)
        }))
    }

    /// The state as it is now, for [`Book::store`] at a clean stop and every few minutes: it holds the open window, unless
    /// [`Config::pan_private`].
    pub fn to_state(&self) -> Vec<u8> {
        let exact = !self.config.pan_private;
        let trees = self.trees.as_ref();
        State {
            settings: self.settings.clone(),
            totals: self.totals.to_state(exact),
            moves: self.moves.clone(),
            leaves: trees.map(|t| t.windows.to_state(exact)),
            counters: trees.map(|t| t.counters.clone()).unwrap_or_default(),
            counters_since_s: trees.map_or(0, |t| t.since_s),
            published: self.published.iter().map(Stored::from).collect(),
            ..State::default()
        }
        .into_bytes()
    }

    fn release_totals(
        &mut self,
        closed: Closed,
        book: &mut dyn Book,
    ) -> Result<Vec<Published>, Unreleased> {
        if self.config.sparse.is_some() {
            return self.release_sparse(closed, book);
        }
        let windows = &mut self.totals;
        let plan = self.config.plan;
        let law = match self.config.cap {
            Cap::Day => plan.law,
            Cap::Window => share_law(&plan, windows.allowance.full()),
        };
        let entry = match self.config.cap {
            Cap::Day => pay_day(
                book,
                windows,
                closed.number,
                (DAYS, WINDOWS),
                plan.epsilon(),
                plan.rho(),
            )?,
            Cap::Window => {
                let (epsilon, rho) = plan.share();
                pay_window(book, windows, closed.number, WINDOWS, epsilon, rho)?
            }
        };
        let mut values = closed.sums.clone();
        self.draws.add(&mut values, law);
        Ok(self.publish_totals(&closed, &values, law, entry))
    }

    fn release_sparse(
        &mut self,
        closed: Closed,
        book: &mut dyn Book,
    ) -> Result<Vec<Published>, Unreleased> {
        let plan = self.config.plan;
        let Some(share) = plan.share().0 else {
            return Ok(Vec::new());
        };
        let (number, l1) = (closed.number, self.totals.allowance.full());
        let metrics = self.config.metrics.len();
        let moves = self
            .moves
            .get_or_insert_with(|| Moves::new(metrics, number));
        let Some(chance) = moves.chance(number, plan.windows, l1, share) else {
            return Ok(Vec::new());
        };
        let Law::Laplace { epsilon, .. } = chance.decision else {
            return Ok(Vec::new());
        };
        pay_window(book, &mut self.totals, number, WINDOWS, Some(epsilon), None)?;
        if !moves.has_moved(&closed.sums, &chance, &mut self.draws) {
            return Ok(Vec::new());
        }
        let Law::Laplace { epsilon, .. } = chance.release else {
            return Ok(Vec::new());
        };
        let paid = book.pay(&Expense {
            label: "telemetry window that moved",
            at_ns: self.totals.end_s(number) * 1_000_000_000,
            epsilon: Some(epsilon),
            ..Expense::default()
        })?;
        let mut values = closed.sums.clone();
        self.draws.add(&mut values, chance.release);
        moves.publish(number, chance.shares, &values);
        Ok(self.publish_totals(&closed, &values, chance.release, paid.entry()))
    }

    fn publish_totals(
        &self,
        closed: &Closed,
        values: &[i64],
        law: Law,
        entry: u64,
    ) -> Vec<Published> {
        let plan = &self.config.plan;
        let unit = match self.config.cap {
            Cap::Day => "one UTC day of one device".to_owned(),
            Cap::Window => format!("{} s of one device", plan.period_s()),
        };
        let metrics = self.config.metrics.iter().zip(values);
        metrics
            .map(|(metric, value)| Published {
                tier: Tier::Totals,
                from_s: self.totals.start_ns(closed.number) / 1_000_000_000,
                period_s: plan.period_s(),
                is_partial: closed.is_partial,
                predicted_error: Some(plan.error),
                value: self.released(metric, *value as f64, plan.steps, law, &unit, entry),
            })
            .collect()
    }

    /// A value in the metric's unit.
    fn released(
        &self,
        metric: &Metric,
        steps: f64,
        steps_per_bound: u64,
        law: Law,
        unit: &str,
        entry: u64,
    ) -> Released<f64> {
        let step = metric.bound as f64 / steps_per_bound as f64;
        let (epsilon, rho, delta) = self.cost(law);
        Released {
            value: steps * step,
            unit: metric.unit.clone(),
            label: metric.name.clone(),
            epsilon,
            rho,
            delta,
            mechanism: law.mechanism(),
            scale: law.scale() * step,
            half_width: law.half_width() * step,
            relation: format!("all traffic of {unit} added or removed"),
            ledger_entry: entry,
            simulated: self.draws.simulated,
        }
    }

    fn cost(&self, law: Law) -> (Epsilon, Option<Rho>, f64) {
        match law {
            Law::Laplace { epsilon, .. } => (epsilon, None, 0.0),
            Law::Gaussian { rho, .. } => {
                let delta = self.config.delta;
                let epsilon = epsilon_of_rho(rho.value(), delta).clamp(1e-9, 1e5);
                (
                    Epsilon::new(epsilon).unwrap_or(Epsilon::MAX),
                    Some(rho),
                    delta,
                )
            }
        }
    }

    fn release_minute(
        &mut self,
        closed: &ClosedMinute,
        book: &mut dyn Book,
    ) -> Result<Vec<Published>, Unreleased> {
        let Some(minute) = &self.minute else {
            return Ok(Vec::new());
        };
        let at_ns = closed.number * MINUTE_NS;
        let day = at_ns / DAY_NS;
        let paid = book.pay(&Expense {
            label: "telemetry of single flows, each in one minute",
            at_ns: day * DAY_NS,
            epsilon: Some(minute.epsilon()),
            window: Some((FLOW_DAYS, day)),
            other_unit: Some("one flow"),
            ..Expense::default()
        });
        let entry = match paid {
            Ok(paid) => paid.entry(),
            // No flow is in two minutes, nor kept over a restart: the day's entry stands for all of them.
            Err(PayError::Refused(Refused::Again { last, entry, .. })) if last == day => entry,
            Err(e) => return Err(e.into()),
        };
        let bound = minute.config_bound();
        let metrics = [("flows", "flows", 1), ("flow_bytes", "bytes", bound)];
        let mut out = Vec::with_capacity(2);
        for ((name, unit, bound), (sum, law)) in metrics
            .into_iter()
            .zip(closed.sums.into_iter().zip(minute.laws()))
        {
            let metric = Metric {
                name: name.to_owned(),
                unit: unit.to_owned(),
                bound,
            };
            let noised = sum.saturating_add(self.draws.draw(law));
            out.push(Published {
                tier: Tier::Flows,
                from_s: at_ns / 1_000_000_000,
                period_s: MINUTE_NS / 1_000_000_000,
                is_partial: false,
                predicted_error: None,
                value: Released {
                    relation: "one flow added or removed".to_owned(),
                    ..self.released(&metric, noised as f64, bound, law, "", entry)
                },
            });
        }
        Ok(out)
    }

    fn release_leaf(
        &mut self,
        closed: &Closed,
        book: &mut dyn Book,
    ) -> Result<Vec<Published>, Unreleased> {
        let Some(trees) = &mut self.trees else {
            return Ok(Vec::new());
        };
        let rho = Some(trees.config.rho);
        let series = (COUNTER_DAYS, LEAVES);
        let entry = pay_day_or_go_on(book, &mut trees.windows, closed.number, series, rho)?;
        if trees.since_s == 0 {
            trees.since_s = trees.windows.start_ns(closed.number) / 1_000_000_000;
        }
        let mut totals = Vec::with_capacity(closed.sums.len());
        for (counter, sum) in trees.counters.iter_mut().zip(&closed.sums) {
            totals.push(counter.push(*sum, &trees.nodes, &mut self.draws));
        }
        let (steps, law, since_s) = (trees.steps, trees.nodes.law(), trees.since_s);
        let period_s = trees.windows.end_s(closed.number) - since_s;
        let leaves = trees.counters.first().map_or(0, Counter::leaves);
        let sd = trees.nodes.sd(leaves);
        let unit = "one UTC day of one device";
        let values = self
            .config
            .metrics
            .iter()
            .zip(totals)
            .map(|(metric, total)| {
                let step = metric.bound as f64 / steps as f64;
                Published {
                    tier: Tier::Counters,
                    from_s: since_s,
                    period_s,
                    is_partial: closed.is_partial,
                    predicted_error: None,
                    value: Released {
                        scale: sd * step,
                        half_width: (1.96 * sd).ceil() * step,
                        ..self.released(metric, total, steps, law, unit, entry)
                    },
                }
            });
        Ok(values.collect())
    }
}

impl Trees {
    fn new(counters: Counters, config: &Config, draws: &mut Draws) -> Self {
        let windows = 86_400 / counters.period_s;
        let norm = config.plan.aim.norm;
        let mut steps = COUNTER_STEPS;
        let nodes = loop {
            let l1 = (norm * steps as f64).max(1.0) as u64;
            let nodes = Nodes::new(l1, counters.levels, counters.rho, config.pan_private);
            if nodes.law().is_drawable() || steps == 1 {
                break nodes;
            }
            steps /= 2;
        };
        let l1 = (norm * steps as f64).max(1.0) as u64;
        let allowance = Allowance::linear(config.cap, l1, windows);
        let period_ns = counters.period_s * 1_000_000_000;
        Self {
            config: counters,
            counters: config
                .metrics
                .iter()
                .map(|_| Counter::new(&nodes, draws))
                .collect(),
            nodes,
            steps,
            windows: Windows::new(period_ns, steps, allowance),
            since_s: 0,
        }
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    if config.metrics.is_empty() {
        return Err(ConfigError::NoMetric);
    }
    for m in &config.metrics {
        if !(1..=1 << 52).contains(&m.bound) {
            return Err(ConfigError::Bound {
                metric: m.name.clone(),
                bound: m.bound,
            });
        }
    }
    if let Some(c) = &config.counters {
        if c.period_s == 0 || 86_400 % c.period_s != 0 {
            return Err(ConfigError::Period(c.period_s));
        }
        if !(1..=24).contains(&c.levels) {
            return Err(ConfigError::Levels(c.levels));
        }
    }
    if config.sparse.is_some() && config.plan.epsilon().is_none() {
        return Err(ConfigError::Sparse);
    }
    Ok(())
}

/// What a stored state must have been made with.
fn settings_of(c: &Config) -> String {
    let text = format!(
        "{:?} {:?} {:?} {:?} {:?} {}",
        c.metrics, c.plan, c.cap, c.sparse, c.counters, c.pan_private
    );
    digest(&text)
}

/// The noise of one window when each has its own bound.
fn share_law(plan: &Plan, full: u64) -> Law {
    match (plan.law, plan.share()) {
        (Law::Laplace { .. }, (Some(epsilon), _)) => Law::Laplace { l1: full, epsilon },
        (Law::Gaussian { .. }, (_, Some(rho))) => Law::Gaussian { squares: full, rho },
        // A plan's share is never below a billionth.
        (law, _) => law,
    }
}

/// Pays for a window by itself.
fn pay_window(
    book: &mut dyn Book,
    windows: &mut Windows,
    number: u64,
    series: &str,
    epsilon: Option<Epsilon>,
    rho: Option<Rho>,
) -> Result<u64, Unreleased> {
    let end_s = windows.end_s(number);
    let paid = book.pay(&Expense {
        label: "telemetry window",
        at_ns: end_s * 1_000_000_000,
        epsilon,
        rho,
        window: Some((series, end_s)),
        ..Expense::default()
    })?;
    windows.last_s = Some(end_s);
    Ok(paid.entry())
}

/// Pays for the whole UTC day with its first window, and notes the window. What a device contributes to all windows of the day
/// together is bounded, so they cost what one vector of them does.
fn pay_day(
    book: &mut dyn Book,
    windows: &mut Windows,
    number: u64,
    (days, series): (&str, &str),
    epsilon: Option<Epsilon>,
    rho: Option<Rho>,
) -> Result<u64, Unreleased> {
    let day = windows.day(number);
    if windows.blocked_day == Some(day) {
        return Err(Unreleased::Blocked);
    }
    let paid = book.pay(&Expense {
        label: "telemetry of a day",
        at_ns: day * DAY_NS,
        epsilon,
        rho,
        window: Some((days, day)),
        ..Expense::default()
    });
    let entry = match paid {
        Ok(paid) => paid.entry(),
        Err(PayError::Refused(Refused::Again { last, entry, .. })) if last == day => entry,
        Err(e) => return Err(e.into()),
    };
    note(book, windows, number, series)?;
    Ok(entry)
}

/// As [`pay_day`], but a day whose devices' use is not known goes on: nothing of it is in the sums.
fn pay_day_or_go_on(
    book: &mut dyn Book,
    windows: &mut Windows,
    number: u64,
    (days, series): (&str, &str),
    rho: Option<Rho>,
) -> Result<u64, Unreleased> {
    if windows.blocked_day == Some(windows.day(number)) {
        let entry = book.last_window(days).map_or(0, |(_, entry)| entry);
        note(book, windows, number, series)?;
        return Ok(entry);
    }
    pay_day(book, windows, number, (days, series), None, rho)
}

/// Notes a window that its day's entry paid for: it is never noised again.
fn note(
    book: &mut dyn Book,
    windows: &mut Windows,
    number: u64,
    series: &str,
) -> Result<(), Unreleased> {
    let end_s = windows.end_s(number);
    let paid = book.pay(&Expense {
        label: "telemetry window of a paid day",
        at_ns: end_s * 1_000_000_000,
        window: Some((series, end_s)),
        ..Expense::default()
    })?;
    drop(paid);
    windows.last_s = Some(end_s);
    Ok(())
}
