//! The command `trainer evaluate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chaff_abi::Nanos;
use clap::Args;

use crate::defend::Defence;
use crate::evaluate::{Attacked, Evaluation, Figure, Options, evaluate};
use crate::homes::{HomeOptions, HomeScore, HomeSeed, homes};
use crate::ipet_command::{DefenceArgs, Input, bar, whole};
use crate::picture::{Series, curves};

/// `trainer evaluate`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer evaluate --pcap captures/ --devices devices.csv --seeds 1,2,3,4,5 --output evaluation/\n  \
    trainer evaluate --traces plain/ --model models/ --defences none,ipet,envelope --scales 0.5,1,2 --seeds 1,2,3,4,5 --output evaluation/\n  \
    trainer evaluate --traces packets.csv --home --defences none,envelope,envelope-home --seeds 1,2,3,4,5,6,7,8,9,10 --output home/")]
pub struct Evaluate {
    #[command(flatten)]
    input: Input,
    /// Defences: none, constant, random, random+, ipet, ipet-mended, envelope, envelope-home (with bursts, for whole homes), maybenot, maybenot-bins,
    /// model:PATH (a model file or a folder of LABEL.onnx, run as the gateway runs them).
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "none,constant,random,random+,envelope,maybenot-bins"
    )]
    defences: Vec<String>,
    /// Multiples of the amount of cover to try, for the curve (all defences but none, ipet and model:PATH).
    #[arg(long, value_delimiter = ',', default_value = "1")]
    scales: Vec<f64>,
    #[command(flatten)]
    how: DefenceArgs,
    /// Seeds; each draws new cover and new attackers. Five or more give intervals worth reading.
    #[arg(long, value_delimiter = ',', required = true)]
    seeds: Vec<u64>,
    /// Trees of a forest.
    #[arg(long, default_value_t = 200, value_parser = whole(1, 10_000))]
    trees: usize,
    /// Most windows of one label, in training and in testing each.
    #[arg(long, default_value_t = 400, value_parser = whole(1, 1_000_000))]
    cap: usize,
    /// Leave out labels with fewer windows of 4 s in either part.
    #[arg(long, default_value_t = 10, value_parser = whole(1, 1_000_000))]
    least: usize,
    /// Defended copies of the training sessions that the stronger attacker makes for himself.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=16))]
    copies: u32,
    /// Put this many devices into one stream, as a tunnel does, and ask which they are and when they are active.
    #[arg(long)]
    home: bool,
    /// Devices of a home.
    #[arg(long, default_value_t = 8, value_parser = whole(1, 1_000))]
    home_devices: usize,
    /// Mean pause before each session of a home's device, seconds.
    #[arg(long, default_value_t = 215.0)]
    home_pause: f64,
    /// Folder for report.json, table.md, curve.svg (retrained attacker) and curve-stronger.svg.
    #[arg(long)]
    output: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    fn check(&self) -> Result<()> {
        let wrong = |s: &&f64| !(**s > 0.0 && **s <= 100.0);
        if let Some(scale) = self.scales.iter().find(wrong) {
            bail!("--scales has {scale}, allowed is above 0 to 100");
        }
        once("--seeds", &self.seeds)?;
        once("--scales", &self.scales)?;
        once("--defences", &self.defences)?;
        if !(1.0..=86_400.0).contains(&self.home_pause) {
            bail!("--home-pause is {}, allowed is 1 to 86400", self.home_pause);
        }
        Ok(())
    }
}

/// A value given twice would count as two repetitions.
fn once<T: PartialEq + std::fmt::Display>(name: &str, values: &[T]) -> Result<()> {
    let twice = (1..values.len()).find(|&i| values[..i].contains(&values[i]));
    match twice {
        Some(i) => bail!("{name} has {} twice, each may be given once", values[i]),
        None => Ok(()),
    }
}

/// Runs `trainer evaluate`.
///
/// # Errors
/// For usage, input or output, and when fewer than two labels can be told apart.
pub fn run_evaluate(args: &Evaluate) -> Result<()> {
    args.check()?;
    let traces = args.input.read()?;
    let mut defences: Vec<(String, Defence)> = Vec::new();
    for name in &args.defences {
        if !args.how.scales(name) {
            let made = args.how.defence(name, 1.0, args.seeds[0])?;
            defences.push((name.clone(), made));
            continue;
        }
        for &scale in &args.scales {
            let made = args.how.defence(name, scale, args.seeds[0])?;
            defences.push((format!("{name} x{scale}"), made));
        }
    }
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("while making {}", args.output.display()))?;
    let write = |name: &str, text: &str| {
        let path = args.output.join(name);
        std::fs::write(&path, text).with_context(|| format!("while writing {}", path.display()))
    };
    let working = bar((defences.len() * args.seeds.len()) as u64, "seeds")?;
    let mut tick = || working.inc(1);
    let (json, table) = if args.home {
        let options = HomeOptions {
            devices: args.home_devices,
            pause: Nanos::from_secs_f64(args.home_pause),
            ..HomeOptions::default()
        };
        let rows = homes(&traces, &defences, &args.seeds, &options, &mut tick)?;
        (serde_json::to_string_pretty(&rows)?, home_table(&rows))
    } else {
        let options = Options {
            seeds: args.seeds.clone(),
            trees: args.trees,
            cap: args.cap,
            least: args.least,
            copies: args.copies,
        };
        let found = evaluate(&traces, &defences, &options, &mut tick)?;
        let pictures = [(1, "curve.svg"), (2, "curve-stronger.svg")];
        for (attacker, file) in pictures {
            draw(&args.output.join(file), &found, attacker)?;
        }
        (serde_json::to_string_pretty(&found)?, device_table(&found))
    };
    working.finish_and_clear();
    write("report.json", &format!("{json}\n"))?;
    write("table.md", &table)?;
    if args.json {
        println!("{json}");
    } else {
        print!("{table}");
    }
    Ok(())
}

/// Draws what an attacker finds over what the cover costs: a curve for each defence that was tried in several amounts, a point for each
/// other one.
fn draw(path: &Path, found: &Evaluation, attacker: usize) -> Result<()> {
    let mut series: Vec<Series> = Vec::new();
    let mut levels = vec![("chance".to_owned(), found.chance)];
    for row in &found.rows {
        let Attacked { balanced: a, .. } = &row.attackers[attacker];
        let name = row.defence.split(" x").next().unwrap_or("");
        let point = (row.bytes.mean, a.mean, a.half);
        if point.0 <= 0.0 {
            levels.push((name.to_owned(), a.mean));
            continue;
        }
        match series.iter_mut().find(|s| s.name == name) {
            Some(s) => s.points.push(point),
            None => series.push(Series {
                name: name.to_owned(),
                points: vec![point],
            }),
        }
    }
    for s in &mut series {
        s.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let who = found
        .rows
        .first()
        .map_or("", |r| r.attackers[attacker].attacker);
    let title = format!(
        "Attacker: {who}; {} kinds of devices, {} seeds, 95 % intervals",
        found.labels.len(),
        found.seeds.len()
    );
    let x_name = "added bytes for each real byte, all sessions (logarithmic)";
    curves(path, &title, x_name, &levels, &series)
}

fn device_table(e: &Evaluation) -> String {
    let mut t = format!(
        "{} labels, chance {:.3}, seeds {:?}. Balanced accuracy of windows / accuracy of sessions, mean and half the width of the 95 % interval.\n\n\
         | defence | static | retrained | stronger | bytes | median label | packets | kB/s | delay p99 ms |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        e.labels.len(),
        e.chance,
        e.seeds
    );
    for r in &e.rows {
        t.push_str(&format!("| {} |", r.defence));
        for a in &r.attackers {
            t.push_str(&format!(
                " {:.3} ± {:.3} / {:.3} ± {:.3} |",
                a.balanced.mean, a.balanced.half, a.session.mean, a.session.half
            ));
        }
        t.push_str(&format!(
            " {:+.0} % | {:+.0} % | {:+.0} % | {:.2} | {:.2} |\n",
            100.0 * r.bytes.mean,
            100.0 * r.median_bytes.mean,
            100.0 * r.packets.mean,
            r.bytes_per_second.mean / 1e3,
            r.delay_p99_ms.mean
        ));
    }
    t.push_str("\nShare of windows found by the retrained attacker, by label:\n\n| label |");
    e.rows
        .iter()
        .for_each(|r| t.push_str(&format!(" {} |", r.defence)));
    t.push_str("\n| --- |");
    e.rows.iter().for_each(|_| t.push_str(" --- |"));
    for (c, label) in e.labels.iter().enumerate() {
        t.push_str(&format!("\n| {label} |"));
        for r in &e.rows {
            let share = r.attackers[1].recall.get(c).copied().unwrap_or(0.0);
            t.push_str(&format!(" {share:.2} |"));
        }
    }
    t.push('\n');
    for line in &e.left_out {
        t.push_str(&format!("\nLeft out: {line}"));
    }
    t.push('\n');
    t
}

fn home_table(rows: &[HomeScore]) -> String {
    let mut t = String::from(
        "Presence is attacked by the surest minutes (each label its own curve) and by what is learnt from whole homes (one curve).\n\n\
         | defence | active AUC | present AUC | top hits | present AUC, whole homes | top hits, whole homes | busy minute AUC | kB/s a home | real kB/s | delay p99 ms |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for r in rows {
        t.push_str(&format!("| {} |", r.defence));
        for f in [
            &r.active_auc,
            &r.present_auc,
            &r.top_hits,
            &r.whole_present_auc,
            &r.whole_top_hits,
            &r.busy_auc,
        ] {
            t.push_str(&format!(" {:.3} ± {:.3} |", f.mean, f.half));
        }
        let (added, real) = (&r.bytes_per_second, &r.real_bytes_per_second);
        t.push_str(&format!(
            " {:.2} ± {:.2} | {:.2} | {:.2} |\n",
            added.mean / 1e3,
            added.half / 1e3,
            real.mean / 1e3,
            r.delay_p99_ms.mean
        ));
    }
    t.push_str(&home_differences(rows));
    t.push_str(
        "\nActive / present (surest minutes) / present (whole homes) AUC by label:\n\n| label |",
    );
    rows.iter()
        .for_each(|r| t.push_str(&format!(" {} |", r.defence)));
    t.push_str("\n| --- |");
    rows.iter().for_each(|_| t.push_str(" --- |"));
    let labels = rows.first().map_or(&[][..], |r| &r.devices);
    for (c, device) in labels.iter().enumerate() {
        t.push_str(&format!("\n| {} |", device.label));
        for r in rows {
            let d = &r.devices[c];
            t.push_str(&format!(
                " {:.2} / {:.2} / {:.2} |",
                d.active_auc, d.present_auc, d.whole_present_auc
            ));
        }
    }
    t.push('\n');
    t
}

/// What each defence changes against the first, seed by seed on the same homes.
fn home_differences(rows: &[HomeScore]) -> String {
    let Some((first, others)) = rows.split_first().filter(|r| !r.1.is_empty()) else {
        return String::new();
    };
    let mut t = format!(
        "\nDifference to {} on the same homes:\n\n\
         | defence | active AUC | present AUC, whole homes | top hits, whole homes |\n| --- | --- | --- | --- |\n",
        first.defence
    );
    for r in others {
        t.push_str(&format!("| {} |", r.defence));
        let figures: [fn(&HomeSeed) -> f64; 3] = [
            |s| s.active_auc,
            |s| s.whole_present_auc,
            |s| s.whole_top_hits,
        ];
        for f in figures {
            let pairs = r.seeds.iter().zip(&first.seeds);
            let d = Figure::of(&pairs.map(|(a, b)| f(a) - f(b)).collect::<Vec<_>>());
            t.push_str(&format!(" {:+.3} ± {:.3} |", d.mean, d.half));
        }
        t.push('\n');
    }
    t
}
