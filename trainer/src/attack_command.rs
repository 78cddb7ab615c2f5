//! The command `trainer attack`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chaff_abi::Nanos;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cover::stream;
use crate::forest::Kind;
use crate::ipet_command::{Input, bar, whole};
use crate::nets::{self, Made, Net, Validation, Windowing};
use crate::packet_attacks::{self, Features};
use crate::picture;
use crate::score::Score;
use crate::split::HeldArgs;
use crate::windows::Shape;

/// Which attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Model {
    /// iPET's M_seq: two bidirectional LSTMs on windows of slots.
    Lstm,
    /// M_seq with GRUs.
    Gru,
    /// M_seq with convolutions.
    Cnn,
    /// M_seq with dense layers.
    Mlp,
    /// iPET's M_agg: a random forest on 20 aggregates of 15 minutes.
    MAgg,
    /// A random forest on sizes and gaps of 60 s.
    Forest,
    /// Extremely randomized trees on several scales of 60 s, overlapping windows.
    Strong,
}

/// `trainer attack`.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    trainer attack --pcap captures/ --devices devices.csv --model lstm --seed 1 --output attack/\n  \
    trainer attack --traces covered/ --model strong --seed 1 --output attack/")]
pub struct Attack {
    #[command(flatten)]
    input: Input,
    /// Which attacker.
    #[arg(long, value_enum, default_value = "forest")]
    model: Model,
    /// Networks: length of a window, seconds.
    #[arg(long, default_value_t = 4.0)]
    total_time: f64,
    /// Networks: length of a slot, seconds.
    #[arg(long, default_value_t = 0.1)]
    omega: f64,
    /// Networks: most passes over the windows.
    #[arg(long, default_value_t = 100, value_parser = whole(1, 100_000))]
    epochs: usize,
    /// Forests: trees.
    #[arg(long, default_value_t = 200, value_parser = whole(1, 10_000))]
    trees: usize,
    /// Most windows of one label, in training and in testing each.
    #[arg(long, default_value_t = 400, value_parser = whole(1, 1_000_000))]
    cap: usize,
    /// Leave out labels with fewer windows in either part.
    #[arg(long, default_value_t = 4, value_parser = whole(1, 1_000_000))]
    least: usize,
    /// Networks: which windows decide when to stop.
    #[arg(long, value_enum, default_value = "training")]
    validation: Validation,
    #[command(flatten)]
    held: HeldArgs,
    /// Seed.
    #[arg(long)]
    seed: u64,
    /// Folder for report.json, confusion.svg, labels.json and attacker.onnx (networks) or attacker.json (forests).
    #[arg(long)]
    output: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    model: Model,
    seed: u64,
    labels: Vec<String>,
    left_out: Vec<String>,
    chance: f64,
    training_windows: usize,
    score: Score,
}

/// Runs `trainer attack`.
///
/// # Errors
/// For usage, input or output, and when fewer than two labels can be told apart.
pub fn run_attack(args: &Attack) -> Result<()> {
    let found = args.input.read()?;
    let split = args.held.split(&found)?;
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("while making {}", args.output.display()))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = args.output.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("while writing {}", path.display()))
    };
    let mut rng = stream(args.seed, "attack");
    let net = match args.model {
        Model::Lstm => Some(Net::Lstm),
        Model::Gru => Some(Net::Gru),
        Model::Cnn => Some(Net::Cnn),
        Model::Mlp => Some(Net::Mlp),
        Model::MAgg | Model::Forest | Model::Strong => None,
    };
    let report = if let Some(net) = net {
        let shape = Shape::new(args.omega, args.total_time)?;
        if shape.rows < net.fewest_rows() {
            anyhow::bail!(
                "this network needs windows of at least {} slots, not {}",
                net.fewest_rows(),
                shape.rows
            );
        }
        let how = Windowing {
            shape,
            cap: args.cap,
            least: args.least,
            validation: args.validation,
        };
        let sets = nets::sets(&found, &split, how, args.seed)?;
        let training = bar(args.epochs as u64, "training")?;
        let mut network = nets::train(
            net,
            &sets,
            shape.rows,
            args.epochs,
            &mut rng,
            &mut |epoch, _| {
                training.set_position(epoch as u64);
            },
        );
        training.finish_and_clear();
        let made = Made {
            shape,
            seed: args.seed,
            stage: 0,
            chain: 0,
            digest: nets::digest(&sets.train),
        };
        write(
            "attacker.onnx",
            &nets::to_onnx(&mut network, sets.labels.len(), &sets.test, made)?,
        )?;
        Report {
            version: 1,
            model: args.model,
            seed: args.seed,
            chance: 1.0 / sets.labels.len() as f64,
            training_windows: sets.train.len() + sets.validation.len(),
            score: nets::judge(&mut network, &sets.test, &sets.sessions, sets.labels.len()),
            labels: sets.labels,
            left_out: sets.left_out,
        }
    } else {
        let (features, kind) = match args.model {
            Model::MAgg => (Features::MAgg, Kind::RandomForest),
            Model::Strong => (Features::MultiScale, Kind::ExtraTrees),
            Model::Forest | Model::Lstm | Model::Gru | Model::Cnn | Model::Mlp => {
                (Features::Aggregates, Kind::RandomForest)
            }
        };
        let world = packet_attacks::World::of(&found, &split, args.least)?;
        let growing = bar(args.trees as u64, "trees")?;
        let table = world.table(&found, &split, features, args.cap, &mut rng);
        let forest = crate::forest::Forest::fit(
            &table.train,
            &world.labels,
            kind,
            args.trees,
            &mut rng,
            &mut || growing.inc(1),
        );
        growing.finish_and_clear();
        write("attacker.json", &serde_json::to_vec(&forest)?)?;
        Report {
            version: 1,
            model: args.model,
            seed: args.seed,
            chance: 1.0 / world.labels.len() as f64,
            training_windows: table.train.y.len(),
            score: packet_attacks::judge(&forest, &table),
            labels: world.labels,
            left_out: world.left_out,
        }
    };
    let json = format!("{}\n", serde_json::to_string_pretty(&report)?);
    write("report.json", json.as_bytes())?;
    write("labels.json", &serde_json::to_vec(&report.labels)?)?;
    let title = format!(
        "balanced accuracy {:.3}, chance {:.3}",
        report.score.balanced, report.chance
    );
    picture::confusion(
        &args.output.join("confusion.svg"),
        &title,
        &report.labels,
        &report.score.confusion,
    )?;
    if args.json {
        print!("{json}");
    } else {
        let s = &report.score;
        println!(
            "{} labels (chance {:.3}), {} windows of held-out sessions: accuracy {:.3}, balanced {:.3}, macro F1 {:.3}, sessions {:.3}",
            report.labels.len(),
            report.chance,
            s.windows,
            s.accuracy,
            s.balanced,
            s.macro_f1,
            s.session
        );
        for line in &report.left_out {
            println!("left out: {line}");
        }
    }
    Ok(())
}

/// One minute, the window of the forests.
pub const MINUTE: Nanos = Nanos::from_secs(60);
