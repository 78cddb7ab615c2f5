//! Training of NetShare's networks: CPU of an iteration of ours against PyTorch's.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::query::{median, one, python};
use super::{Bar, Options, least, row};
use crate::command::output;
use crate::root;

/// Flows of the table, each of two records; ten batches.
const FLOWS: u64 = 1000;
const BATCH: u64 = 100;
/// Passes of the short and the long run: what lies between them is iterations alone.
const PASSES: [u64; 2] = [1, 4];
/// Most rounds: later ones say nothing new.
const MOST_ROUNDS: u32 = 3;

const BARS: &[Bar] = &[least(
    "NetShare's iteration in PyTorch / trainer synth, CPU",
    "/ratio",
    1.0,
)];

/// Written from the description of NetShare's torch code (one iteration: five rounds of two critics by twice
/// differentiated penalties, through a generator that is not detached, and one generator step), not taken from it.
const MODEL: &str = include_str!("synth_model.py");
/// Runs NetShare's own code where it lies.
const NETSHARE: &str = include_str!("synth_netshare.py");

/// Runs the benchmark; gives the number of missed bars.
///
/// # Errors
/// When either cannot run.
pub(super) fn run(options: &Options) -> Result<u32> {
    let folder = root().join("target/bench-synth");
    fs::create_dir_all(&folder).with_context(|| format!("while making {}", folder.display()))?;
    let result = measure(options, &folder)?;
    if options.json {
        println!("{result}");
        return Ok(0);
    }
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(BARS
        .iter()
        .filter(|bar| !row(&result, bar, "synth"))
        .count() as u32)
}

/// Flows of two records, as NetShare's columns.
fn table(path: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(out, "srcip,dstip,srcport,dstport,proto,ts,td,pkt,byt,type")?;
    for i in 0..2 * FLOWS {
        let flow = i % FLOWS;
        let kind = if i % 9 == 0 {
            "blacklist"
        } else {
            "background"
        };
        writeln!(
            out,
            "10.0.{}.{},198.18.{}.9,{},{},{},{},0.{:03},{},{},{kind}",
            flow / 250,
            1 + flow % 250,
            flow % 200,
            40_000 + flow % 500,
            [443, 80, 53][(flow % 3) as usize],
            if flow % 3 == 2 { "UDP" } else { "TCP" },
            1_500_000_000_000_000 + i * 1000,
            i % 1000,
            2 + i % 30,
            1500 + i % 9000,
        )?;
    }
    out.flush().context("while writing the table")
}

fn config() -> Value {
    let bit = |column: &str| json!({"column": column, "type": "integer", "encoding": "bit", "n_bits": 32});
    let word =
        |column: &str, kind: &str| json!({"column": column, "type": "integer", "encoding": kind});
    let float = |column: &str| json!({"column": column, "type": "float", "normalization": "ZERO_ONE", "log1p_norm": true});
    json!({
        "global_config": {"dataset_type": "netflow", "n_chunks": 1, "dp": false},
        "pre_post_processor": {"config": {
            "timestamp": {"column": "ts", "generation": true, "encoding": "interarrival", "normalization": "ZERO_ONE"},
            "word2vec": {"vec_size": 10},
            "metadata": [
                bit("srcip"), bit("dstip"), word("srcport", "word2vec_port"), word("dstport", "word2vec_port"),
                word("proto", "word2vec_proto"),
            ],
            "timeseries": [
                float("td"), float("pkt"), float("byt"),
                {"column": "type", "type": "string", "encoding": "categorical"},
            ],
        }},
        "model": {"config": {"batch_size": BATCH, "sample_len": [1], "epoch_checkpoint_freq": 1000}},
    })
}

fn measure(options: &Options, folder: &Path) -> Result<Value> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--release", "--workspace"])
        .args(["--bin", "trainer"])
        .current_dir(root());
    output(cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let text = |path: &Path| path.display().to_string();
    let file = |name: &str| text(&folder.join(name));
    table(&folder.join("flows.csv"))?;
    fs::write(folder.join("config.json"), config().to_string())?;
    let program = if options.netshare.is_some() {
        NETSHARE
    } else {
        MODEL
    };
    fs::write(folder.join("netshare_peer.py"), program)?;
    let python = python(&folder.join("netshare-peer"), "torch", &["torch", "numpy"])?;
    let ours = |passes: u64| -> Vec<String> {
        let (flows, config, model) = (file("flows.csv"), file("config.json"), file("flows.synth"));
        let passes = passes.to_string();
        let trainer = text(&target.join("release/trainer"));
        [
            &trainer,
            "synth",
            "fit",
            &flows,
            "--config",
            &config,
            "--epochs",
            &passes,
            "--threads",
            "1",
            "--output",
            &model,
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let per_pass = FLOWS / BATCH;
    let peer = |passes: u64| -> Vec<String> {
        let (python, program, batch) = (text(&python), file("netshare_peer.py"), BATCH.to_string());
        match &options.netshare {
            Some(checkout) => vec![
                python,
                program,
                passes.to_string(),
                batch,
                text(checkout),
                text(folder),
            ],
            None => vec![python, program, (passes * per_pass).to_string(), batch],
        }
    };
    let mut runs = [(); 4].map(|()| Vec::new());
    for _ in 0..options.rounds.min(MOST_ROUNDS) {
        for (i, passes) in PASSES.into_iter().enumerate() {
            runs[i].push(one(folder, &ours(passes))?);
            runs[2 + i].push(one(folder, &peer(passes))?);
        }
    }
    let cpu = runs.each_ref().map(|r| median(r).cpu_s);
    let iterations = ((PASSES[1] - PASSES[0]) * per_pass) as f64;
    let (own, other) = (
        (cpu[1] - cpu[0]) / iterations,
        (cpu[3] - cpu[2]) / iterations,
    );
    ensure!(
        own > 0.0 && other > 0.0,
        "the long runs took no longer than the short ones"
    );
    Ok(json!({
        "peer": if options.netshare.is_some() { "NetShare's code" } else { "a model of NetShare's sizes" },
        "iterations": iterations,
        "cpu_s_per_iteration": { "trainer": own, "torch": other },
        "cpu_s_short_run": { "trainer": cpu[0], "torch": cpu[2] },
        "peak_mb": { "trainer": median(&runs[1]).peak_bytes as f64 / 1e6, "torch": median(&runs[3]).peak_bytes as f64 / 1e6 },
        "ratio": other / own,
    }))
}
