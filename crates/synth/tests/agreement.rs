//! Measures against those of the evaluator that lies beside the repository, on parts of its traces.
//!
//! `agreement.json` has that evaluator's numbers for the pairs that [`pairs`] makes. What is drawn at random there (learners) is
//! compared loosely, all else tightly; ranks of hosts that are equally popular are in another order here, which moves pairs of
//! fields a little.

use std::fs;
use std::path::{Path, PathBuf};

use chaff_abi::Nanos;
use chaff_synth::{Capture, Measures, Report, Table, evaluate, read_capture, read_csv};
use chaff_trace::{PcapWriter, Reader};
use serde_json::Value;

fn data() -> Option<PathBuf> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/netshare/data");
    folder.is_dir().then_some(folder)
}

/// The records or packets of a file whose numbers `keep`, of its first `most`.
fn part(path: &Path, most: usize, keep: &dyn Fn(usize) -> bool) -> Capture {
    let bytes = fs::read(path).expect("reads");
    if path.extension().is_some_and(|e| e == "csv") {
        let table = read_csv(&bytes[..], None).expect("reads");
        let rows = table.records.iter().take(most).enumerate();
        let records = rows.filter(|(i, _)| keep(*i)).map(|(_, r)| *r).collect();
        return Capture::of_table(Table { records, ..table });
    }
    let mut reader = Reader::new(&bytes[..]).expect("reads");
    let mut kept = Vec::new();
    let mut frame = Vec::new();
    let mut number = 0;
    while let Some(head) = reader.next(&mut frame).expect("reads") {
        if number < most && keep(number) {
            // Whole microseconds: all that the traces have.
            kept.push((
                head.link,
                Nanos(head.at.0 / 1000 * 1000),
                frame.clone(),
                head.wire_len,
            ));
        }
        number += 1;
    }
    let mut writer = PcapWriter::new(Vec::new(), kept[0].0).expect("writes");
    for (_, at, frame, wire_len) in &kept {
        writer.write(*at, frame, *wire_len).expect("writes");
    }
    read_capture(&writer.into_inner().expect("writes")[..]).expect("reads")
}

fn size(path: &Path, most: usize) -> usize {
    let all = part(path, most, &|_| true);
    match all.packets() {
        0 => all.table.records.len(),
        n => n,
    }
}

/// Real, synthetic and holdout of a named pair.
fn pair(folder: &Path, name: &str) -> (Capture, Capture, Option<Capture>) {
    let (file, how) = name.split_once('/').expect("a file and a way");
    let path = folder.join(file);
    let most = if file.starts_with("iot") {
        6000
    } else {
        usize::MAX
    };
    match how {
        "thirds" => {
            let third = |k: usize| part(&path, most, &move |i| i % 3 == k);
            (third(0), third(1), Some(third(2)))
        }
        "halves in time" => {
            let n = size(&path, most);
            let half = |late: bool| part(&path, most, &move |i| (i >= n / 2) == late);
            (half(false), half(true), None)
        }
        _ => {
            let real = part(&path, most, &|_| true);
            let mut other = real.table.clone();
            let n = other.records.len();
            for (i, r) in other.records.iter_mut().enumerate() {
                let from = real.table.records[(i + 137) % n];
                (r.packets, r.bytes, r.duration_us) = (from.packets, from.bytes, from.duration_us);
            }
            (real, Capture::of_table(other), None)
        }
    }
}

struct Judge<'a> {
    name: &'a str,
    worst: f64,
    wrong: Vec<String>,
}

impl Judge<'_> {
    /// `allowed` is relative from 1 on.
    fn close(&mut self, what: &str, ours: Option<f64>, theirs: &Value, allowed: f64) {
        match (ours, theirs.as_f64()) {
            (Some(a), Some(b)) => {
                let apart = (a - b).abs() / b.abs().max(1.0);
                self.worst = self.worst.max(apart / allowed);
                if apart > allowed {
                    self.wrong
                        .push(format!("{}: {what} is {a}, not {b}", self.name));
                }
            }
            (None, None) => (),
            (a, b) => self
                .wrong
                .push(format!("{}: {what} is {a:?}, not {b:?}", self.name)),
        }
    }
}

const TIGHT: f64 = 2e-5;
/// Equally popular hosts are ranked in another order.
const RANKS: f64 = 0.012;
/// Distances that are equal there are a little apart here, in single precision.
const TIES: f64 = 0.01;
/// Learners.
const DRAWN: f64 = 0.12;

fn judge(judge: &mut Judge<'_>, r: &Report, want: &Value) {
    let of = |map: &Value| map.as_object().cloned().unwrap_or_default();
    for table in ["jsd", "jsd_extra"] {
        for (k, v) in of(&want[table]) {
            judge.close(
                &k,
                r.fidelity.divergence.get(k.as_str()).copied(),
                &v,
                TIGHT,
            );
        }
    }
    for (k, v) in of(&want["emd"]) {
        let d = r.fidelity.distance.get(k.as_str());
        judge.close(&k, d.map(|d| d.raw), &v[0], TIGHT);
        judge.close(&k, d.and_then(|d| d.relative), &v[1], TIGHT);
        judge.close(&k, d.and_then(|d| d.log_relative), &v[2], TIGHT);
    }
    for (k, v) in of(&want["rules_real"]) {
        judge.close(&k, r.rules.real.get(k.as_str()).copied(), &v, TIGHT);
    }
    for (k, v) in of(&want["rules_syn"]) {
        judge.close(&k, r.rules.synthetic.get(k.as_str()).copied(), &v, TIGHT);
    }
    judge.close("pairs", Some(r.summary.pair_tvd), &want["pairs"], RANKS);
    let t = &r.temporal;
    judge.close(
        "acf of records",
        Some(t.acf_count_mae),
        &want["acf"][0],
        TIGHT,
    );
    judge.close(
        "acf of bytes",
        Some(t.acf_bytes_mae),
        &want["acf"][1],
        TIGHT,
    );
    judge.close("rate", Some(t.rate_profile_tvd), &want["rate"], TIGHT);
    judge.close("gaps", t.interarrival.log_relative, &want["iat"], TIGHT);
    judge.close("bigrams", t.bigram_tvd, &want["bigram"], RANKS);
    let lag1 = &t.lag1_size_correlation;
    judge.close("lag 1, real", lag1.real, &want["lag1"][0], 1e-3);
    judge.close("lag 1, synthetic", lag1.synthetic, &want["lag1"][1], 1e-3);
    let p = &want["privacy"];
    judge.close(
        "dcr",
        Some(r.privacy.dcr_median_synthetic),
        &p["dcr_median_syn"],
        1e-4,
    );
    judge.close(
        "dcr, real",
        Some(r.privacy.dcr_median_real),
        &p["dcr_median_real_loo"],
        1e-4,
    );
    judge.close(
        "copies",
        Some(r.privacy.copies),
        &p["exact_copy_share_no_time"],
        TIGHT,
    );
    judge.close(
        "tuples",
        Some(r.privacy.five_tuple_copies),
        &p["five_tuple_copy_share"],
        TIGHT,
    );
    judge.close(
        "sources",
        Some(r.privacy.sources_seen),
        &p["srcip_seen_share"],
        TIGHT,
    );
    let held = r.privacy.holdout.as_ref();
    judge.close(
        "dcr, holdout",
        held.map(|h| h.dcr_median),
        &p["dcr_median_holdout"],
        1e-4,
    );
    judge.close(
        "membership",
        held.map(|h| h.membership_auc),
        &p["membership_auc"],
        TIES,
    );
    judge.close(
        "natural copies",
        held.map(|h| h.copies),
        &p["exact_copy_share_holdout_in_real"],
        TIGHT,
    );
    let d = r.downstream.as_ref().expect("enough records");
    assert_eq!(d.target, want["downstream"]["target"], "{}", judge.name);
    judge.close(
        "accuracy",
        Some(d.accuracy_ratio),
        &want["downstream"]["acc"],
        DRAWN,
    );
    judge.close(
        "told apart",
        Some(d.c2st_auc),
        &want["downstream"]["c2st"],
        DRAWN,
    );
    for (k, v) in of(&want["summary"]) {
        let s = &r.summary;
        let (ours, allowed) = match k.as_str() {
            "jsd_mean" => (Some(s.jsd_mean), TIGHT),
            "jsd_mean_bucketed" => (Some(s.jsd_mean_bucketed), TIGHT),
            "emd_rel_mean" => (s.emd_relative_mean, TIGHT),
            "emd_log_rel_mean" => (s.emd_log_relative_mean, TIGHT),
            "pair_tvd_mean" => (Some(s.pair_tvd), RANKS),
            "sanity_gap" => (s.sanity_gap, TIGHT),
            "acf_mae" => (Some(s.acf_mae), TIGHT),
            _ => (s.bigram_tvd, RANKS),
        };
        judge.close(&k, ours, &v, allowed);
    }
}

#[test]
fn measures_agree_with_the_evaluator() {
    let Some(folder) = data() else {
        println!("skipped: no traces beside the repository");
        return;
    };
    let wanted: Value = serde_json::from_str(include_str!("agreement.json")).expect("JSON");
    let mut wrong = Vec::new();
    for (name, want) in wanted.as_object().expect("an object") {
        let (real, synthetic, holdout) = pair(&folder, name);
        let report =
            evaluate(&real, &synthetic, holdout.as_ref(), &Measures::default()).expect("it works");
        let mut judged = Judge {
            name,
            worst: 0.0,
            wrong: Vec::new(),
        };
        judge(&mut judged, &report, want);
        println!("{name}: at most {:.2} of what is allowed", judged.worst);
        wrong.extend(judged.wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
