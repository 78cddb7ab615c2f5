//! The gateway's flows, and the trainer's features, against what another program made of the same captures.
//!
//! The reference sets lie beside the repository and are not part of it; without them there is nothing to compare.

pub mod case;
pub mod compare;
mod dpmon;
mod netml;
mod netshare;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{Stop, output};
use crate::root;
use case::Case;
use compare::{APPLICATION, Table, compare};

/// What `conformance` takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The reference: nfstream, netml, dpmon or netshare.
    #[arg(value_name = "NAME", value_parser = ["nfstream", "netml", "dpmon", "netshare"], default_value = "nfstream")]
    name: String,
    /// Only expected files whose name fits, with * and ? as in a shell; netml's are named as demo/iat.fft, netshare's as its
    /// traces, members or million, with @dp at the end where there is privacy.
    #[arg(long, value_name = "GLOB", default_value = "*")]
    filter: String,
    /// Keeps the files that were made there.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// A gateway that is built already [default: builds it].
    #[arg(long, value_name = "PROGRAM")]
    gateway: Option<PathBuf>,
    /// For netml and netshare: a trainer that is built already [default: builds it].
    #[arg(long, value_name = "PROGRAM")]
    trainer: Option<PathBuf>,
    /// For dpmon: another folder with logs and expected.json.
    #[arg(long, value_name = "FOLDER")]
    set: Option<PathBuf>,
    /// For dpmon: answers for each question whose error is measured.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    runs: u32,
    /// For netshare: seeds over which measures are averaged.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    /// For netshare: a Python with numpy, scipy and pandas.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
}

/// Files and flows of one setting.
#[derive(Clone, Copy, Default)]
struct Total {
    files: usize,
    matching: usize,
    flows: usize,
    exact: usize,
}

/// Runs `gateway meter` for each expected file and compares. Prints a table, and how far application columns agree, which
/// rests on the other program's tables and is not required.
///
/// # Errors
/// [`Stop::Check`] when a file differs; else when the gateway cannot run.
pub fn run(options: &Options) -> Result<()> {
    let set = match &options.set {
        Some(folder) => folder.clone(),
        None => root().join("../shared/conformance").join(&options.name),
    };
    if options.name == "dpmon" && set.join("expected.json").is_file() {
        return dpmon::run(&set, options.runs);
    }
    if options.name == "netshare" && set.join("evaluate.py").is_file() {
        return netshare::run(options, &set);
    }
    let Ok(expected) = fs::read_dir(set.join("expected")) else {
        println!("skipped: no reference set at {}", set.display());
        return Ok(());
    };
    if options.name == "netml" {
        return netml::run(options, &set);
    }
    let mut names: Vec<String> = expected
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".csv") && fits(&options.filter, name))
        .collect();
    names.sort();
    ensure!(
        !names.is_empty(),
        Stop::Usage.error("no expected file fits")
    );
    let gateway = build(options, "gateway")?;
    let temporary = tempfile()?;
    let folder = options.keep.as_deref().unwrap_or(&temporary);
    fs::create_dir_all(folder).with_context(|| format!("while making {}", folder.display()))?;
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    let mut agreement: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let mut differing = 0;
    for name in &names {
        let case = Case::of(name)?;
        let candidate = folder.join(name);
        meter(&gateway, &case, &set.join("pcaps"), &candidate)?;
        let report = judge(&case, &candidate, &set.join("expected").join(name))?;
        for column in APPLICATION {
            if let Some([same, all]) = report.agreement.get(column) {
                let sum = agreement.entry(column).or_default();
                sum[0] += same;
                sum[1] += all;
            }
        }
        let total = totals.entry(case.setting.clone()).or_default();
        total.files += 1;
        total.matching += usize::from(report.matches());
        total.flows += report.expected;
        total.exact += report.exact;
        if !report.matches() {
            differing += 1;
            println!("{name}: {report}");
        }
    }
    let _ = fs::remove_dir_all(&temporary);
    print(&totals, &agreement);
    if differing > 0 {
        return Err(Stop::Check.error(format_args!("{differing} of {} files differ", names.len())));
    }
    Ok(())
}

fn print(totals: &BTreeMap<String, Total>, agreement: &BTreeMap<&str, [usize; 2]>) {
    println!("| setting | files | matching | flows | exact |\n| --- | --- | --- | --- | --- |");
    for (setting, t) in totals {
        println!(
            "| {setting} | {} | {} | {} | {} |",
            t.files, t.matching, t.flows, t.exact
        );
    }
    for (column, [same, all]) in agreement {
        println!("{column}: {same} of {all} flows agree");
    }
}

fn judge(case: &Case, candidate: &Path, expected: &Path) -> Result<compare::Report> {
    let read = |path: &Path| {
        // No flow, no file.
        if !path.exists() {
            return Ok(String::new());
        }
        fs::read_to_string(path).with_context(|| format!("while reading {}", path.display()))
    };
    let (have, want) = (
        Table::parse(&read(candidate)?),
        Table::parse(&read(expected)?),
    );
    // The texts have to be the same; names and their grounds are another program's tables.
    let ignored = if case.dissect > 0 {
        &APPLICATION[..4]
    } else {
        &[]
    };
    Ok(compare(&have, &want, ignored))
}

/// The program of that name: the one that was given, or a new one.
fn build(options: &Options, name: &str) -> Result<PathBuf> {
    let given = match name {
        "gateway" => &options.gateway,
        _ => &options.trainer,
    };
    if let Some(program) = given {
        return Ok(program.clone());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "--package"]);
    cargo.arg(format!("chaff-{name}"));
    cargo.current_dir(root());
    output(cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    Ok(target.join("release").join(name))
}

/// Makes one candidate file.
fn meter(gateway: &Path, case: &Case, captures: &Path, candidate: &Path) -> Result<()> {
    let mut command = Command::new(gateway);
    command.args(["meter", "--profile", "nfstream", "--format", "csv"]);
    command.args(case.captures.iter().map(|name| captures.join(name)));
    command.arg("--output").arg(candidate);
    if case.statistics {
        command.arg("--statistics");
    }
    let mut option = |name: &str, value: &dyn std::fmt::Display| {
        command.arg(name).arg(value.to_string());
    };
    option("--splt", &case.splt);
    option("--accounting", &case.accounting);
    option("--idle-timeout", &case.idle_timeout);
    option("--active-timeout", &case.active_timeout);
    option("--decode-tunnels", &case.decode_tunnels);
    option("--dissect", &case.dissect);
    if case.max_flows > 0 {
        option("--max-flows", &case.max_flows);
    }
    if let Some(plugin) = &case.plugin {
        option("--plugin", plugin);
    }
    if let Some(filter) = case.filter {
        option("--filter", &filter);
    }
    output(command).map(|_| ())
}

fn tempfile() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("chaff-conformance-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("while making {}", folder.display()))?;
    Ok(folder)
}

/// Whether a name fits a pattern with `*` and `?`.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to try again with one more byte for the newest star.
    let mut again: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            again = Some((p + 1, n + 1));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == b'?' || *c == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((after_star, next)) = again {
            (p, n) = (after_star, next);
            again = Some((after_star, next + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::case::Case;
    use super::compare::{Table, compare};
    use super::fits;

    #[test]
    fn fits_patterns_as_a_shell_does() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("*.m0.csv", "skype.pcap.m0.csv", true),
            ("*.m?.csv", "skype.pcap.m3.csv", true),
            ("*.m?.csv", "skype.pcap.m0_notun.csv", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b", "ac", false),
            ("", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn knows_settings_by_their_names() {
        let case = |name| Case::of(name).expect("a known case");
        let plain = case("skype.pcap.m1_i1a5.csv");
        assert_eq!(
            (plain.accounting, plain.idle_timeout, plain.active_timeout),
            (1, 1, 5)
        );
        assert!(!case("x.pcap.m0_i10a60_notun.csv").decode_tunnels);
        assert_eq!(case("one_flow_multi.m0.csv").captures.len(), 4);
        let plugin = |name| case(name).plugin;
        assert_eq!(
            plugin("a.pcap.plug_slicer4.csv").as_deref(),
            Some("slicer,limit=4")
        );
        assert_eq!(plugin("a.pcap.plug_dhcp.csv").as_deref(), Some("dhcp"));
        assert!(Case::of("a.pcap.m9.csv").is_err());
    }

    #[test]
    fn tells_equal_tables_from_different_ones() {
        let text = "id,src_ip,bidirectional_first_seen_ms,x,l\n0,a,1,0.1,\"[0, 1]\"\n1,a,1,2,\"a \"\"b\"\"\"\n";
        let want = Table::parse(text);
        assert_eq!(want.rows[1][4], "a \"b\"");
        assert!(compare(&Table::parse(text), &want, &[]).matches());
        let close = text.replace("0.1", "0.10000000001");
        assert!(compare(&Table::parse(&close), &want, &[]).matches());
        for other in [
            text.replace("0.1", "0.2"),
            text.replace("[0, 1]", "[0, 2]"),
            text.replace("1,a,1,2", "1,b,1,2"),
        ] {
            assert!(!compare(&Table::parse(&other), &want, &[]).matches());
        }
        let without_x = compare(&Table::parse(&text.replace("0.1", "0.2")), &want, &["x"]);
        assert!(without_x.matches());
    }
}
