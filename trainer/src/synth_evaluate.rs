//! The commands `trainer synth evaluate` and `score`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_novelty::{roc_auc, threshold};
use chaff_synth::{Measures, Report, Scores, Table, curves, evaluate, protocol_name, score};
use clap::Args;

use crate::synth_input::{read, read_model};
use crate::synth_pictures::compared;

/// `trainer synth evaluate`.
#[derive(Args)]
pub struct Evaluate {
    /// Real trace: flow table or capture.
    real: PathBuf,
    /// Synthetic trace. Two captures are compared packet by packet, anything else flow by flow.
    synthetic: PathBuf,
    /// A real trace that the model has not seen: for membership inference and the natural share of copies.
    #[arg(long)]
    holdout: Option<PathBuf>,
    /// Label column.
    #[arg(long)]
    label: Option<String>,
    /// Seed of samples, halves and classifiers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Records of each trace that classifiers and searches for neighbours use.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=200_000))]
    most: u32,
    /// Where the report goes, JSON; default: standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// A picture of both traces, SVG.
    #[arg(long)]
    picture: Option<PathBuf>,
}

/// `trainer synth score`.
#[derive(Args)]
pub struct Score {
    /// Model of `trainer synth fit` without --epsilon, learned from normal traffic.
    model: PathBuf,
    /// Flow table or capture.
    input: PathBuf,
    /// The fit's --seed, by which addresses became the model's.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Normal traffic that the model has not seen: sets the threshold.
    #[arg(long)]
    normal: Option<PathBuf>,
    /// With --normal: share of normal records that are reported all the same.
    #[arg(long, default_value_t = 0.01)]
    false_alarms: f64,
    /// Label column: of the model's labels, and for the area under the curve.
    #[arg(long)]
    label: Option<String>,
    /// Label of normal records; with it the area under the ROC curve is printed.
    #[arg(long)]
    normal_label: Option<String>,
    /// Where scores go, CSV; default: standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Runs `trainer synth evaluate`.
///
/// # Errors
/// What is wrong with input or output, naming the file.
pub(crate) fn run_evaluate(args: &Evaluate) -> Result<()> {
    let read = |path: &PathBuf| read(path, args.label.as_deref());
    let (real, synthetic) = (read(&args.real)?, read(&args.synthetic)?);
    let holdout = args.holdout.as_ref().map(read).transpose()?;
    let measures = Measures {
        seed: args.seed,
        most: args.most as usize,
    };
    let report = evaluate(&real, &synthetic, holdout.as_ref(), &measures)?;
    if let Some(path) = &args.picture {
        let title = format!(
            "{} (synthetic) and {} (real)",
            name(&args.synthetic),
            name(&args.real)
        );
        compared(path, &title, &curves(&real, &synthetic), &report)?;
    }
    let text = serde_json::to_string_pretty(&report)?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, format!("{text}\n"))
                .with_context(|| format!("while writing {}", path.display()))?;
            print!("{}", table(&report));
        }
        None => println!("{text}"),
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |n| n.to_string_lossy().into(),
    )
}

/// The numbers to look at first, with what is right beside them.
fn table(r: &Report) -> String {
    let mut rows: Vec<[String; 3]> = Vec::new();
    let three = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    let mut row = |name: &str, value: Option<f64>, right: String| {
        rows.push([name.to_owned(), three(value), right]);
    };
    let (s, f) = (&r.summary, r.floor.as_ref());
    row(
        "mean Jensen-Shannon divergence, ports in buckets",
        Some(s.jsd_mean_bucketed),
        three(f.map(|f| f.jsd_mean_bucketed)),
    );
    row(
        "mean earth mover's distance of logarithms, relative",
        s.emd_log_relative_mean,
        three(f.and_then(|f| f.emd_log_relative_mean)),
    );
    row(
        "pairs of fields, total variation distance",
        Some(s.pair_tvd),
        three(f.map(|f| f.pair_tvd)),
    );
    row(
        "next service of a source, total variation distance",
        s.bigram_tvd,
        three(f.and_then(|f| f.bigram_tvd)),
    );
    row(
        "rules of protocols, mean difference",
        s.sanity_gap,
        three(f.and_then(|f| f.sanity_gap)),
    );
    if let Some(d) = &r.downstream {
        let what = format!("{} guessed: accuracy, synthetic over real", d.target);
        row(&what, Some(d.accuracy_ratio), "1".into());
        row("told apart from real (AUC)", Some(d.c2st_auc), "0.5".into());
    }
    let p = &r.privacy;
    let natural = p.holdout.as_ref().map(|h| h.copies);
    let right = natural.map_or_else(|| "see --holdout".into(), |n| format!("at most {n:.3}"));
    row("copies of real records", Some(p.copies), right);
    if let Some(h) = &p.holdout {
        row(
            "membership inference (AUC)",
            Some(h.membership_auc),
            "0.5".into(),
        );
    }
    let mut out = format!("{:55} {:>9}   right\n", "", "found");
    for [name, value, right] in rows {
        out += &format!("{name:55} {value:>9}   {right}\n");
    }
    out
}

/// Runs `trainer synth score`.
///
/// # Errors
/// What is wrong with model, input or output, naming the file.
pub(crate) fn run_score(args: &Score) -> Result<()> {
    if !(args.false_alarms > 0.0 && args.false_alarms < 1.0) {
        bail!(
            "--false-alarms {}: must be above 0 and below 1",
            args.false_alarms
        );
    }
    let model = read_model(&args.model)?;
    let scored = |path: &Path| -> Result<(Table, Scores)> {
        let table = read(path, args.label.as_deref())?.table;
        let scores = score(&model, &table, args.seed)
            .with_context(|| format!("with {}", args.model.display()))?;
        Ok((table, scores))
    };
    let limit = match &args.normal {
        Some(path) => Some(threshold(&scored(path)?.1.nats, args.false_alarms)),
        None => None,
    };
    let (table, scores) = scored(&args.input)?;
    let out: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(
            std::fs::File::create(path)
                .with_context(|| format!("while creating {}", path.display()))?,
        ),
        None => Box::new(std::io::stdout().lock()),
    };
    write_scores(std::io::BufWriter::new(out), &table, &scores, limit)
        .context("while writing scores")?;
    if let Some(limit) = limit {
        let alarms = scores.nats.iter().filter(|s| **s > limit).count();
        eprintln!(
            "threshold {limit:.3} nats: {alarms} of {} records are above it",
            scores.nats.len()
        );
    }
    if let Some(normal) = &args.normal_label {
        let strange: Vec<bool> = table
            .records
            .iter()
            .map(|r| table.labels.get(r.label as usize) != Some(normal))
            .collect();
        match roc_auc(&scores.nats, &strange) {
            Some(area) => eprintln!("area under the ROC curve: {area:.4}"),
            None => bail!(
                "--normal-label {normal}: all records of {} are normal, or none is",
                args.input.display()
            ),
        }
    }
    Ok(())
}

fn write_scores(
    mut out: impl Write,
    table: &Table,
    scores: &Scores,
    limit: Option<f64>,
) -> std::io::Result<()> {
    writeln!(
        out,
        "srcip,dstip,srcport,dstport,proto,ts,score_nats,strangest{}",
        if limit.is_some() { ",alarm" } else { "" }
    )?;
    for (i, r) in table.records.iter().enumerate() {
        write!(
            out,
            "{},{},{},{},{},{},{:.4},{}",
            r.src,
            r.dst,
            r.src_port,
            r.dst_port,
            protocol_name(r.protocol),
            r.start_us,
            scores.nats[i],
            scores.strangest[i]
        )?;
        if let Some(limit) = limit {
            write!(out, ",{}", u8::from(scores.nats[i] > limit))?;
        }
        writeln!(out)?;
    }
    out.flush()
}
