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
/// differentiated penalties, through a generator that is not detached, and one generator step), not taken from it. The
/// numbers are random: only the cost counts.
const PEER: &str = r##"
import sys
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(1)
iterations, batch = int(sys.argv[1]), int(sys.argv[2])
pairs, words, length, latent, units = 64, 3, 2, 5, 100
attribute_heads = [2] * pairs + [10] * words + [1]
record_heads = [1, 1, 1, 1, 2, 2]
attributes, record = sum(attribute_heads), sum(record_heads)

def activation(size):
    return nn.Softmax(dim=-1) if size == 2 else nn.Tanh() if size == 10 else nn.Sigmoid()

def critic(inputs):
    layers = []
    for _ in range(4):
        layers += [nn.Linear(inputs, 512), nn.ReLU()]
        inputs = 512
    return nn.Sequential(*layers, nn.Linear(512, 1))

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [], latent
        for _ in range(4):
            layers += [nn.Linear(inputs, 512), nn.ReLU(), nn.BatchNorm1d(512, momentum=0.9)]
            inputs = 512
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(512, n), activation(n)) for n in attribute_heads)
        self.lstm = nn.LSTM(attributes + latent, units, 1, batch_first=True)
        self.outs = nn.ModuleList(nn.Sequential(nn.Linear(units, n), activation(n)) for n in record_heads)

    def forward(self, noise, steps, start):
        hidden = self.body(noise)
        made = [head(hidden) for head in self.heads]
        hard = [
            nn.functional.one_hot(m.argmax(1), m.shape[1]) if m.shape[1] == 2 else m for m in made
        ]
        hard = torch.cat(hard, 1).detach()
        inputs = torch.cat((hard.unsqueeze(1).expand(-1, steps.shape[1], -1), steps), 2)
        states, _ = self.lstm(inputs, start)
        return torch.cat(made, 1), torch.cat([out(states) for out in self.outs], 2)

generator = Generator()
whole, part = critic(length * record + attributes), critic(attributes)
adam = lambda net: torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.5, 0.999))
optimizers = [adam(generator), adam(whole), adam(part)]

def penalty(net, real, fake):
    share = torch.ones(batch, 1)
    mixed = (real + share * (fake - real)).requires_grad_(True)
    scores = net(mixed)
    (slope,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True, retain_graph=True)
    return ((slope.square().sum(1) + 1e-8).sqrt() - 1).square().mean()

for _ in range(iterations):
    real_a, real_f = torch.rand(batch, attributes), torch.rand(batch, length * record)
    noise, steps = torch.randn(batch, latent), torch.randn(batch, length, latent)
    for _ in range(5):
        start = (torch.randn(1, batch, units), torch.randn(1, batch, units))
        fake_a, fake_f = generator(noise, steps, start)
        real = torch.cat((real_f, real_a), 1)
        fake = torch.cat((fake_f.flatten(1), fake_a), 1)
        for net, optimizer, r, f in ((whole, optimizers[1], real, fake), (part, optimizers[2], real_a, fake_a)):
            loss = net(f).mean() - net(r).mean() + 10 * penalty(net, r, f)
            optimizer.zero_grad(set_to_none=False)
            loss.backward(retain_graph=True)
            optimizer.step()
    loss = -whole(fake).mean() - part(fake_a).mean()
    optimizers[0].zero_grad(set_to_none=False)
    loss.backward()
    optimizers[0].step()
print(float(loss))
"##;

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
    fs::write(folder.join("netshare_peer.py"), PEER)?;
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
        vec![
            text(&python),
            file("netshare_peer.py"),
            (passes * per_pass).to_string(),
            BATCH.to_string(),
        ]
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
        "iterations": iterations,
        "cpu_s_per_iteration": { "trainer": own, "torch": other },
        "cpu_s_short_run": { "trainer": cpu[0], "torch": cpu[2] },
        "peak_mb": { "trainer": median(&runs[1]).peak_bytes as f64 / 1e6, "torch": median(&runs[3]).peak_bytes as f64 / 1e6 },
        "ratio": other / own,
    }))
}
