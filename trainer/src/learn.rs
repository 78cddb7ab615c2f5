//! `trainer learn`: features to a novelty model, tested on held-out flows when labels are known.
//!
//! `captures -> features (extract) -> table file -> split, fit, threshold, areas (train) -> model file`. Known attacks are
//! never trained on: a detector of novelty learns what is normal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use chaff_novelty::{Kind, Matrix, Model, Point, Scaling, Settings, curve, pr_auc, roc_auc};
use chaff_trace::features::Table;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

/// How to learn.
#[derive(Clone, Debug)]
pub struct Config {
    /// Detector and its settings.
    pub settings: Settings,
    /// Scaling of the columns.
    pub scaling: Scaling,
    /// Share of the labelled flows that is held out to test on.
    pub test_size: f64,
    /// Share of normal flows that may be called novel.
    pub false_alarm: f64,
    /// Seed: the same table and options give the same model file.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this report.
    pub version: u32,
    /// Detector.
    pub algorithm: &'static str,
    /// Scaling.
    pub scaling: &'static str,
    /// Columns of a row.
    pub columns: usize,
    /// Flows trained on.
    pub trained: usize,
    /// Flows tested on, attacks among them; 0 without labels of both kinds.
    pub tested: usize,
    /// Attacks tested on.
    pub attacks: usize,
    /// Score above which a flow is called novel.
    pub threshold: f64,
    /// Area under the curve of true over false positives.
    pub roc_auc: Option<f64>,
    /// Average precision.
    pub pr_auc: Option<f64>,
    /// Share of the normal test flows called novel.
    pub false_positives: Option<f64>,
    /// Share of the attacks called novel.
    pub true_positives: Option<f64>,
}

/// A model, a report, and the curves when there was something to test on.
pub struct Learnt {
    /// To be stored.
    pub model: Model,
    /// To be shown.
    pub report: Report,
    /// From the highest score down.
    pub curve: Vec<Point>,
}

/// Learns from the normal flows of a table. Without labels all flows are taken as normal and nothing is tested.
///
/// # Errors
/// Settings out of range, too few flows.
pub fn train(table: &Table, config: &Config) -> Result<Learnt> {
    if !(0.0..1.0).contains(&config.test_size) {
        bail!(
            "--test-size is {}, it must be from 0 up to, without, 1",
            config.test_size
        );
    }
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let labelled = table.flows.iter().any(|f| f.attack.is_some());
    let (mut train, mut test) = (Vec::new(), Vec::new());
    let mut normal: Vec<usize> = (0..table.flows.len())
        .filter(|&i| table.flows[i].attack != Some(true))
        .collect();
    if normal.is_empty() {
        bail!("all flows are labelled as attacks: nothing normal to learn from");
    }
    for i in (1..normal.len()).rev() {
        normal.swap(i, (rng.next_u64() % (i as u64 + 1)) as usize);
    }
    let attacks: Vec<usize> = (0..table.flows.len())
        .filter(|&i| table.flows[i].attack == Some(true))
        .collect();
    let held = if labelled && !attacks.is_empty() {
        (config.test_size * normal.len() as f64).ceil() as usize
    } else {
        0
    };
    test.extend_from_slice(&normal[..held]);
    train.extend_from_slice(&normal[held..]);
    train.sort_unstable();
    if held > 0 {
        test.extend_from_slice(&attacks);
    }
    let names = table.profile.names();
    let rows = |of: &[usize]| -> Result<Matrix> {
        let values = of
            .iter()
            .flat_map(|&i| table.flows[i].values.iter().copied());
        Ok(Matrix::new(names.len(), values.collect())?)
    };
    let training = rows(&train)?;
    let mut model = Model::fit(
        &config.settings,
        config.scaling,
        names.clone(),
        training.view(),
        config.false_alarm,
        &mut rng,
    )
    .with_context(|| format!("while training on {} flows", train.len()))?;
    model.facts_mut().extend(table.profile.to_entries());
    model
        .facts_mut()
        .insert("train.seed".to_owned(), config.seed.to_string());
    let mut report = Report {
        version: 1,
        algorithm: config.settings.kind().name(),
        scaling: config.scaling.name(),
        columns: names.len(),
        trained: train.len(),
        tested: test.len(),
        attacks: if held > 0 { attacks.len() } else { 0 },
        threshold: model.threshold(),
        roc_auc: None,
        pr_auc: None,
        false_positives: None,
        true_positives: None,
    };
    let mut points = Vec::new();
    if !test.is_empty() {
        let scores = model.score(rows(&test)?.view())?;
        let novel: Vec<bool> = (0..test.len()).map(|i| i >= held).collect();
        report.roc_auc = roc_auc(&scores, &novel);
        report.pr_auc = pr_auc(&scores, &novel);
        let share = |scores: &[f64]| {
            let called = scores.iter().filter(|s| model.is_novel(**s)).count();
            called as f64 / scores.len().max(1) as f64
        };
        report.false_positives = Some(share(&scores[..held]));
        report.true_positives = Some(share(&scores[held..]));
        points = curve(&scores, &novel).unwrap_or_default();
    }
    Ok(Learnt {
        model,
        report,
        curve: points,
    })
}

/// Settings of a detector from text as netml's `--param` takes it: `name: value` lines or `{name: value, ...}`, flat or
/// under the detector's name. Names of other detectors are passed over.
///
/// # Errors
/// Text that is neither, settings that do not exist.
pub fn parameters(settings: &mut Settings, text: &str) -> Result<()> {
    let wanted = settings.kind().name();
    for (section, name, value) in pairs(text)? {
        if section.as_deref().is_none_or(|s| s == wanted) {
            settings.set(&name, &value)?;
        } else if let Some(other) = section {
            other
                .parse::<Kind>()
                .with_context(|| format!("in the parameters: `{other}:` begins a section"))?;
        }
    }
    Ok(())
}

type Pair = (Option<String>, String, String);

/// Section, name and value of each setting.
fn pairs(text: &str) -> Result<Vec<Pair>> {
    let mut out = Vec::new();
    let mut section: Option<String> = None;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("");
        if line.trim().is_empty() || line.trim() == "---" {
            continue;
        }
        if !line.starts_with([' ', '\t']) {
            section = None;
        }
        flow(line.trim(), &mut section, &mut out)?;
    }
    Ok(out)
}

/// One line, or the inside of braces.
fn flow(text: &str, section: &mut Option<String>, out: &mut Vec<Pair>) -> Result<()> {
    if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        let (mut depth, mut start) = (0i32, 0);
        for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let part = inner[start..i].trim();
                    start = (i + 1).min(inner.len());
                    if !part.is_empty() {
                        flow(part, &mut section.clone(), out)?;
                    }
                }
                _ => (),
            }
        }
        return Ok(());
    }
    let Some((name, value)) = text.split_once(':') else {
        bail!("in the parameters: `{text}` is not `name: value`");
    };
    let (name, value) = (unquote(name), value.trim());
    if value.is_empty() {
        *section = Some(name);
    } else if value.starts_with('{') {
        flow(value, &mut Some(name), out)?;
    } else {
        out.push((section.clone(), name, unquote(value)));
    }
    Ok(())
}

fn unquote(text: &str) -> String {
    text.trim().trim_matches(['"', '\'']).to_owned()
}

/// Both curves as a picture (SVG).
pub fn picture(points: &[Point], report: &Report) -> String {
    const SIDE: f64 = 300.0;
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"390\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"390\" fill=\"white\"/>\n",
    );
    let roc: Vec<(f64, f64)> = std::iter::once((0.0, 0.0))
        .chain(points.iter().map(|p| (p.false_positive, p.true_positive)))
        .collect();
    let precision: Vec<(f64, f64)> = points
        .iter()
        .map(|p| (p.true_positive, p.precision))
        .collect();
    let area = |a: Option<f64>| a.map_or(String::new(), |a| format!(", area {a:.3}"));
    for (left, title, x, y, line) in [
        (
            50.0,
            format!(
                "{}, {}{}",
                report.algorithm,
                report.scaling,
                area(report.roc_auc)
            ),
            "false positives",
            "true positives",
            &roc,
        ),
        (
            430.0,
            format!("precision and recall{}", area(report.pr_auc)),
            "recall",
            "precision",
            &precision,
        ),
    ] {
        let place = |(a, b): (f64, f64)| (left + a * SIDE, 40.0 + (1.0 - b) * SIDE);
        let path: Vec<String> = line
            .iter()
            .map(|p| {
                let (a, b) = place(*p);
                format!("{a:.1},{b:.1}")
            })
            .collect();
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "<rect x=\"{left}\" y=\"40\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#999\"/>\n\
             <text x=\"{left}\" y=\"28\">{title}</text>\n\
             <text x=\"{}\" y=\"372\" text-anchor=\"middle\">{x}</text>\n\
             <text transform=\"translate({} 190) rotate(-90)\" text-anchor=\"middle\">{y}</text>\n\
             <polyline fill=\"none\" stroke=\"#1f6fb4\" stroke-width=\"2\" points=\"{}\"/>\n",
            left + SIDE / 2.0,
            left - 28.0,
            path.join(" ")
        );
        for tick in [0.0, 0.5, 1.0] {
            let (a, b) = (left + tick * SIDE, 40.0 + (1.0 - tick) * SIDE);
            let _ = write!(
                out,
                "<text x=\"{a}\" y=\"355\" text-anchor=\"middle\">{tick}</text>\n\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{tick}</text>\n",
                left - 4.0,
                b + 4.0
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// What `--help-param` prints.
pub fn help_parameters() -> String {
    let mut out = String::new();
    for kind in Kind::ALL {
        let _ = writeln!(out, "{}:    # {}", kind.name(), kind.about());
        for (name, value) in defaults(kind) {
            let _ = writeln!(out, "  {name}: {value}");
        }
    }
    out
}

fn defaults(kind: Kind) -> BTreeMap<&'static str, String> {
    let optional = |v: Option<f64>, none: &str| v.map_or(none.to_owned(), |v| v.to_string());
    match kind.settings() {
        Settings::Ocsvm(s) => BTreeMap::from([
            ("nu", s.nu.to_string()),
            ("gamma", optional(s.gamma, "scale")),
            ("tolerance", s.tolerance.to_string()),
        ]),
        Settings::Kde(s) => BTreeMap::from([("bandwidth", optional(s.bandwidth, "scott"))]),
        Settings::Gmm(s) => BTreeMap::from([
            ("components", s.components.to_string()),
            ("regularisation", s.regularisation.to_string()),
            ("rounds", s.rounds.to_string()),
            ("tolerance", s.tolerance.to_string()),
            ("starts", s.starts.to_string()),
        ]),
        Settings::Pca(s) => BTreeMap::from([
            ("measure", "variance".to_owned()),
            ("floor", s.floor.to_string()),
        ]),
        Settings::IsolationForest(s) => BTreeMap::from([
            ("trees", s.trees.to_string()),
            ("sample", s.sample.to_string()),
        ]),
        Settings::Autoencoder(s) => BTreeMap::from([
            ("hidden", s.hidden.to_string()),
            ("code", s.code.to_string()),
            ("epochs", s.epochs.to_string()),
            ("batch", s.batch.to_string()),
            ("rate", s.rate.to_string()),
            ("noise", s.noise.to_string()),
        ]),
        Settings::Knn(s) => BTreeMap::from([
            ("neighbours", s.neighbours.to_string()),
            ("mean", s.mean.to_string()),
        ]),
        Settings::Online(s) => BTreeMap::from([
            ("group", s.group.to_string()),
            ("rate", s.rate.to_string()),
            ("half_life", s.half_life.to_string()),
            ("passes", s.passes.to_string()),
            ("skip", s.skip.to_string()),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use chaff_flow::features::{Kind as Features, Profile, native};
    use chaff_trace::features::Flow;

    use super::*;

    fn table() -> Table {
        let profile = Profile::Native(native::Settings {
            kind: Features::Size,
            packets: 2,
            around: false,
            ..native::Settings::default()
        });
        let flows = (0..300)
            .map(|i| {
                let attack = i % 10 == 0;
                let x = f64::from(i % 17);
                Flow {
                    addresses: None,
                    ports: (0, 0),
                    protocol: 6,
                    start_s: f64::from(i),
                    end_s: f64::from(i),
                    attack: Some(attack),
                    values: vec![60.0 + x, if attack { 900.0 } else { 100.0 - x }],
                }
            })
            .collect();
        Table { profile, flows }
    }

    fn config(kind: Kind) -> Config {
        Config {
            settings: kind.settings(),
            scaling: Scaling::ZScore,
            test_size: 0.33,
            false_alarm: 0.01,
            seed: 42,
        }
    }

    #[test]
    fn every_detector_learns_what_is_normal() {
        for kind in Kind::ALL {
            let learnt = train(&table(), &config(kind)).unwrap();
            let r = &learnt.report;
            assert_eq!((r.trained, r.tested, r.attacks), (180, 120, 30), "{kind}");
            // Cuts along the columns end with the largest training value.
            let least = if kind == Kind::IsolationForest {
                0.7
            } else {
                0.99
            };
            assert!(r.roc_auc.unwrap() > least, "{kind} {:?}", r.roc_auc);
            let again = train(&table(), &config(kind)).unwrap();
            assert_eq!(learnt.model.to_bytes(), again.model.to_bytes());
            let profile = Profile::from_entries(learnt.model.facts()).unwrap();
            assert_eq!(profile, table().profile);
            assert!(picture(&learnt.curve, r).ends_with("</svg>\n"));
        }
    }

    #[test]
    fn parameters_are_read_flat_nested_and_in_braces() {
        let set = |text: &str| {
            let mut settings = Kind::Gmm.settings();
            parameters(&mut settings, text).map(|()| settings)
        };
        let want = set("components: 3").unwrap();
        assert_ne!(want, Kind::Gmm.settings());
        for text in [
            "gmm:\n  components: 3\nocsvm:\n  nu: 0.1\n",
            "{components: 3}",
            "{gmm: {components: 3}, kde: {bandwidth: 1}}",
            "# note\nn_components: '3'\n",
        ] {
            assert_eq!(set(text).unwrap(), want, "{text}");
        }
        assert!(set("components").is_err());
        assert!(set("colour: 3").is_err());
        assert!(set("gnn:\n  components: 3").is_err());
    }

    #[test]
    fn help_can_be_read_back() {
        let help = help_parameters();
        for kind in Kind::ALL {
            let mut settings = kind.settings();
            parameters(&mut settings, &help).unwrap();
            assert_eq!(settings, kind.settings());
        }
    }

    #[test]
    fn only_attacks_are_refused() {
        let mut all = table();
        all.flows.iter_mut().for_each(|f| f.attack = Some(true));
        assert!(train(&all, &config(Kind::Gmm)).is_err());
        all.flows.iter_mut().for_each(|f| f.attack = None);
        let learnt = train(&all, &config(Kind::Gmm)).unwrap();
        assert_eq!((learnt.report.trained, learnt.report.tested), (300, 0));
    }
}
