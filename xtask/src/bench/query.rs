//! Private queries over 2 million made flows: the whole program against DPMon, and against a query engine's bare group-by.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::measure::Used;
use super::{Bar, Options, least, most, row};
use crate::command::{Stop, output};
use crate::root;

/// What all contenders are asked about.
const DOMAIN: &str = "video7.example";
const USERS: u64 = 5_000;
/// Most rounds: later ones say nothing new.
const MOST_ROUNDS: u32 = 5;

const BARS: &[Bar] = &[
    least(
        "DPMon (9 columns of text) / query: CPU of one question, loading included",
        "/ratio/dpmon",
        50.0,
    ),
    most(
        "query, text / DataFusion's bare group-by without its start: CPU",
        "/ratio/engine_text",
        1.5,
    ),
    most(
        "query, Parquet / DataFusion's bare group-by without its start: CPU",
        "/ratio/engine_parquet",
        1.5,
    ),
    most("query, peak memory, MB", "/peak_mb/query_text", 400.0),
    most("query import, peak memory, MB", "/peak_mb/import", 400.0),
];

/// DPMon itself, from a folder with its package.
const DPMON: &str = r#"
import sys
sys.path.insert(0, sys.argv[3])
from diffprivlib.accountant import BudgetAccountant
from dpmon import DPMon
engine = DPMon(sys.argv[1], "tstat", BudgetAccountant(epsilon=1.0))
print(engine.volume_on_domain(sys.argv[2], epsilon=1.0))
"#;

/// What DPMon does, by its published description: both whole tables go into an in-memory SQLite on each question, then one
/// call of diffprivlib with bounds from the data.
const DPMONS_WAY: &str = r##"
import sys
import pandas as pd
from diffprivlib.tools import nansum
from pandasql import sqldf

path, domain = sys.argv[1], sys.argv[2]
flows = pd.read_csv(path, sep=" ")
flows.columns = [c.split("#")[-1].split(":")[0] for c in flows.columns]
chosen = sqldf("SELECT * FROM flows WHERE c_isint = 1 AND s_isint = 0", {"flows": flows})
users = sqldf(
    "SELECT c_ip, SUM(CASE WHEN c_tls_SNI = '%s' THEN s_bytes_all ELSE 0 END) AS value FROM chosen GROUP BY c_ip" % domain,
    {"chosen": chosen},
)
values = users["value"].to_numpy(dtype=float)
print(nansum(values, epsilon=1.0, bounds=(values.min(), values.max())))
"##;

/// The engine's part alone: the exact table of units, no budget, no noise. It says what CPU the question took, all threads,
/// without the interpreter's and the library's start.
const ENGINE: &str = r##"
import sys
import time
import pyarrow as pa
from datafusion import SessionContext
path, domain = sys.argv[1], sys.argv[2]
begin = time.process_time()
context = SessionContext()
if path.endswith(".parquet"):
    context.register_parquet("flows", path)
else:
    with open(path) as log:
        names = [c.split("#")[-1].split(":")[0] for c in log.readline().split()]
    kinds = {"c_isint": pa.int64(), "s_isint": pa.int64(), "c_bytes_all": pa.int64(), "s_bytes_all": pa.int64()}
    schema = pa.schema([pa.field(n, kinds.get(n, pa.string())) for n in names])
    context.register_csv("flows", path, schema=schema, has_header=True, delimiter=" ", file_extension="")
table = context.sql(
    "SELECT c_ip, SUM(CASE WHEN \"c_tls_SNI\" = '%s' THEN s_bytes_all ELSE 0 END) AS value "
    "FROM flows WHERE c_isint = 1 AND s_isint = 0 GROUP BY c_ip" % domain
).collect()
values = [v for batch in table for v in batch.column(1).to_pylist()]
print(time.process_time() - begin)
print(len(values), sum(values), file=sys.stderr)
"##;

/// Pinned to what DPMon still runs with.
const PACKAGES: [&str; 9] = [
    "diffprivlib==0.6.6",
    "scikit-learn<1.6",
    "numpy<2.4",
    "pandas",
    "pandasql==0.7.3",
    "SQLAlchemy",
    "pyasn",
    "cachetools",
    "datafusion",
];

/// Runs the benchmark; gives the number of missed bars.
///
/// # Errors
/// When ours cannot run.
pub(super) fn run(options: &Options) -> Result<u32> {
    let folder = root().join("target/bench-query");
    fs::create_dir_all(&folder).with_context(|| format!("while making {}", folder.display()))?;
    let log = folder.join(format!("log_{}", options.flows));
    if !log.exists() {
        eprintln!("making {} flows", options.flows);
        make(&log, options.flows)?;
    }
    let result = Bench::new(options, folder, log)?.measure()?;
    if options.json {
        println!("{result}");
        return Ok(0);
    }
    println!("{}", serde_json::to_string_pretty(&result)?);
    let mut missed = 0;
    for bar in BARS {
        if result.pointer(bar.at).is_some_and(Value::is_number) {
            missed += u32::from(!row(&result, bar, "query"));
        } else {
            println!(
                "| {} | not measured | | `cargo xtask bench query` |",
                bar.what
            );
        }
    }
    Ok(missed)
}

/// A log of Tstat with nine columns: as many users as a campus, a few hundred names, heavy tails.
fn make(path: &Path, flows: u64) -> Result<()> {
    let part = path.with_extension("part");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&part)?);
    writeln!(
        out,
        "#15#c_ip:1 s_ip:2 c_isint:3 s_isint:4 c_bytes_all:5 s_bytes_all:6 c_rtt_avg:7 durat:8 c_tls_SNI:9"
    )?;
    // A plain generator: the same log from every build.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % n
    };
    for _ in 0..flows {
        let user = draw(USERS);
        let (client, server) = match draw(20) {
            0 => (0, 1),
            1 => (1, 1),
            _ => (1, 0),
        };
        let name = draw(300).min(draw(300));
        let down = 200 + (1u64 << draw(22)) + draw(5000);
        writeln!(
            out,
            "10.{}.{}.{} 198.18.{}.{} {client} {server} {} {down} {}.{:06} {}.{:03} video{name}.example",
            20 + user / 60_000,
            user / 250,
            1 + user % 250,
            draw(64),
            draw(256),
            100 + draw(3000),
            draw(120),
            draw(1_000_000),
            draw(60_000),
            draw(1000),
        )?;
    }
    out.flush()?;
    fs::rename(&part, path).context("while naming the log")
}

struct Bench<'a> {
    options: &'a Options,
    folder: PathBuf,
    log: PathBuf,
    query: PathBuf,
}

/// What a round measures, by name.
type Runs = Vec<(&'static str, Vec<Used>)>;

impl<'a> Bench<'a> {
    fn new(options: &'a Options, folder: PathBuf, log: PathBuf) -> Result<Self> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--quiet", "--release", "--workspace"])
            .args(["--bin", "query"])
            .current_dir(root());
        output(cargo)?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
        Ok(Self {
            options,
            folder,
            log,
            query: target.join("release/query"),
        })
    }

    fn measure(&self) -> Result<Value> {
        let ledger = self.folder.join("ledger");
        for old in ["ledger", "ledger.head", "ledger.answers"] {
            let _ = fs::remove_file(self.folder.join(old));
        }
        self.ours(&["ledger", "--ledger", &text(&ledger), "--budget", "10000"])?;
        let imported = self.folder.join("imported");
        let parquet = self.parquet(&imported)?;
        let python = match self.python() {
            Ok(python) => Some(python),
            Err(error) => {
                eprintln!("DPMon and DataFusion are not measured: {error:#}");
                None
            }
        };
        let mut runs: Runs = Vec::new();
        let mut note = |name, used: Used| match runs.iter_mut().find(|(n, _)| *n == name) {
            Some((_, all)) => all.push(used),
            None => runs.push((name, vec![used])),
        };
        for round in 0..self.options.rounds.min(MOST_ROUNDS) {
            // Another cost in each round: the same question would be answered from what is kept.
            let epsilon = format!("1.{round:03}");
            note("query_text", self.ask(&self.log, &ledger, &epsilon)?);
            note("query_parquet", self.ask(&imported, &ledger, &epsilon)?);
            note("import", self.import(&imported)?);
            let Some(python) = &python else { continue };
            for (name, path) in [("engine_text", &self.log), ("engine_parquet", &parquet)] {
                note(name, self.engine(python, path)?);
            }
        }
        if let Some(python) = &python {
            note("dpmon", self.dpmon(python)?);
        }
        let found = |name| {
            let used = runs.iter().find(|(n, _)| *n == name);
            used.map(|(_, all)| median(all))
        };
        let cpu = |name| found(name).map(|used| used.cpu_s);
        let over = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
        let all = |of: fn(&Used) -> f64| -> Value {
            let fields = runs
                .iter()
                .map(|(name, all)| ((*name).to_owned(), json!(of(&median(all)))));
            Value::Object(fields.collect())
        };
        Ok(json!({
            "flows": self.options.flows,
            "bytes": { "text": fs::metadata(&self.log)?.len(), "parquet": fs::metadata(&parquet)?.len() },
            "dpmon": if self.options.dpmon.is_some() { "itself" } else { "its way, by its description" },
            "cpu_s": all(|used| used.cpu_s),
            "wall_s": all(|used| used.wall_s),
            "peak_mb": all(|used| used.peak_bytes as f64 / 1e6),
            "ratio": {
                "dpmon": over(cpu("dpmon"), cpu("query_text")),
                "dpmon_parquet": over(cpu("dpmon"), cpu("query_parquet")),
                "engine_text": over(cpu("query_text"), cpu("engine_text")),
                "engine_parquet": over(cpu("query_parquet"), cpu("engine_parquet")),
            },
        }))
    }

    fn ours(&self, parts: &[&str]) -> Result<Used> {
        let mut all = vec![text(&self.query)];
        all.extend(parts.iter().map(|p| (*p).to_owned()));
        self.one(&all)
    }

    fn ask(&self, data: &Path, ledger: &Path, epsilon: &str) -> Result<Used> {
        self.ours(&[
            "volume-on-domain",
            "--domain",
            DOMAIN,
            "--bounds",
            "0..10000000",
            "--data",
            &text(data),
            "--ledger",
            &text(ledger),
            "--epsilon",
            epsilon,
            "--prompt-time",
        ])
    }

    /// Imports anew.
    fn import(&self, folder: &Path) -> Result<Used> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        self.ours(&["import", &text(&self.log), "--output", &text(folder)])
    }

    fn parquet(&self, folder: &Path) -> Result<PathBuf> {
        self.import(folder)?;
        let name = self.log.file_name().unwrap_or_default().to_string_lossy();
        Ok(folder.join(format!("{name}.parquet")))
    }

    fn engine(&self, python: &Path, data: &Path) -> Result<Used> {
        let script = self.folder.join("engine.py");
        fs::write(&script, ENGINE)?;
        let used = self.one(&[text(python), text(&script), text(data), DOMAIN.to_owned()])?;
        let said = fs::read_to_string(self.folder.join("stdout.txt"))?;
        let cpu_s = said.trim().parse().context("the engine's CPU time")?;
        Ok(Used { cpu_s, ..used })
    }

    fn dpmon(&self, python: &Path) -> Result<Used> {
        let script = self.folder.join("dpmon.py");
        let mut command = vec![
            text(python),
            text(&script),
            text(&self.log),
            DOMAIN.to_owned(),
        ];
        match &self.options.dpmon {
            Some(folder) => {
                fs::write(&script, DPMON)?;
                command.push(text(folder));
            }
            None => fs::write(&script, DPMONS_WAY)?,
        }
        self.one(&command)
    }

    fn one(&self, command: &[String]) -> Result<Used> {
        one(&self.folder, command)
    }

    fn python(&self) -> Result<PathBuf> {
        let imports = "diffprivlib, pandasql, pyasn, cachetools, datafusion";
        python(&self.folder.join("python"), imports, &PACKAGES)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a program in a process of its own that counts for it; `folder` takes what it says.
pub(super) fn one(folder: &Path, command: &[String]) -> Result<Used> {
    let said = [folder.join("stdout.txt"), folder.join("stderr.txt")];
    let mut measure = Command::new(std::env::current_exe()?);
    measure.args(["measure", "--stdout"]).arg(&said[0]);
    measure.arg("--stderr").arg(&said[1]);
    measure.arg("--").args(command);
    let used: Used = serde_json::from_str(&output(measure)?)?;
    if used.code != 0 {
        let error = fs::read_to_string(&said[1]).unwrap_or_default();
        bail!(Stop::Check.error(format_args!(
            "{command:?} ended with {}: {error}",
            used.code
        )));
    }
    Ok(used)
}

/// The interpreter of a Python environment with these packages, made when it cannot import what is needed yet.
pub(super) fn python(home: &Path, imports: &str, packages: &[&str]) -> Result<PathBuf> {
    let python = home.join("bin/python");
    let probe = || {
        let mut probe = Command::new(&python);
        probe.args(["-c", &format!("import {imports}")]);
        output(probe)
    };
    if python.exists() && probe().is_ok() {
        return Ok(python);
    }
    eprintln!("installing {packages:?} into {}", home.display());
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(home);
    output(make).context("no Python environment")?;
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    install.args(packages);
    output(install)?;
    Ok(python)
}

pub(super) fn median(runs: &[Used]) -> Used {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s));
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
