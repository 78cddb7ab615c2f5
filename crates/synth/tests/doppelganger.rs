//! NetShare's configuration and networks, from rows to files, with networks small enough for a test.

use std::collections::BTreeMap;
use std::io::{Error, Result as IoResult};
use std::net::Ipv4Addr;
use std::sync::Mutex;

use chaff_privacy::{Entropy, Epsilon, Gradients, Ledger};
use chaff_synth::{
    Doppelganger, Engine, Method, NetworkOptions, PcapOptions, PrivateNetworkOptions, Progress,
    Record, Rows, SynthError, Table, Unwatched, Watch, fit_doppelganger, fit_doppelganger_private,
    has_ports, header_bytes, load, read_capture, read_config, write_pcap,
};

const DEMO: &[u8] = include_bytes!("../../../tests/fixtures/demo.pcap");

const METADATA: &str = r#"
    {"column": "srcip", "type": "integer", "encoding": "bit", "n_bits": 32},
    {"column": "dstip", "type": "integer", "encoding": "bit", "n_bits": 32},
    {"column": "srcport", "type": "integer", "encoding": "word2vec_port"},
    {"column": "dstport", "type": "integer", "encoding": "word2vec_port"},
    {"column": "proto", "type": "string", "encoding": "word2vec_proto"}"#;
const FLOW_SERIES: &str = r#"
    {"column": "td", "type": "float", "normalization": "ZERO_ONE", "log1p_norm": true},
    {"column": "pkt", "type": "float", "normalization": "ZERO_ONE", "log1p_norm": true},
    {"column": "byt", "type": "float", "normalization": "MINUSONE_ONE", "log1p_norm": true},
    {"column": "type", "type": "string", "encoding": "categorical"}"#;
const PACKET_SERIES: &str = r#"
    {"column": "pkt_len", "type": "float", "normalization": "ZERO_ONE"},
    {"column": "tos", "type": "float", "normalization": "ZERO_ONE", "min_x": 0.0, "max_x": 255.0},
    {"column": "id", "type": "float", "normalization": "ZERO_ONE", "min_x": 0.0, "max_x": 65535.0},
    {"column": "flag", "type": "integer", "encoding": "categorical", "choices": [0, 1, 2]},
    {"column": "off", "type": "float", "normalization": "ZERO_ONE", "min_x": 0.0, "max_x": 8191.0},
    {"column": "ttl", "type": "float", "normalization": "ZERO_ONE", "min_x": 0.0, "max_x": 255.0}"#;

/// A configuration in the form of NetShare's examples; `global` and `model` are further keys.
fn config(packets: bool, global: &str, model: &str) -> String {
    let (kind, time, series) = if packets {
        ("pcap", "time", PACKET_SERIES)
    } else {
        ("netflow", "ts", FLOW_SERIES)
    };
    format!(
        r#"{{
        "global_config": {{"original_data_file": "x", "overwrite": true, "dataset_type": "{kind}", {global} }},
        "default": "single_event_per_row.json",
        "pre_post_processor": {{"class": "NetsharePrePostProcessor", "config": {{
            "timestamp": {{"column": "{time}", "generation": true, "encoding": "interarrival", "normalization": "ZERO_ONE"}},
            "word2vec": {{"vec_size": 10, "model_name": "word2vec_vecSize", "annoy_n_trees": 100, "pretrain_model_path": null}},
            "metadata": [{METADATA}], "timeseries": [{series}] }} }},
        "model": {{"class": "DoppelGANgerTorchModel", "config": {{
            "batch_size": 12, "epochs": 4, "epoch_checkpoint_freq": 2, "extra_checkpoint_freq": 1,
            "generator_attribute_num_units": 12, "discriminator_num_units": 12, "attr_discriminator_num_units": 12,
            "generator_attribute_num_layers": 2, "discriminator_num_layers": 2, "attr_discriminator_num_layers": 2,
            "generator_feature_num_units": 6, {model} }} }}
        }}"#
    )
}

fn small() -> String {
    config(
        false,
        r#""n_chunks": 2, "dp": false"#,
        r#""sample_len": [1, 5], "sample_len_expand": true"#,
    )
}

fn table(records: u64) -> Table {
    let record = |i: u64| Record {
        start_us: 1_458_298_072_000_000 + i * 53_000,
        duration_us: (i % 5) * 1000,
        packets: 1 + i % 5,
        bytes: 60 + 40 * (i % 5),
        src: Ipv4Addr::from(0x0a00_0100 + (i % 23) as u32).into(),
        dst: Ipv4Addr::from(0x0808_0800 + (i % 7) as u32).into(),
        src_port: if i.is_multiple_of(6) {
            0
        } else {
            40_000 + (i % 50) as u16
        },
        dst_port: [0, 53, 443, 80, 443, 22][(i % 6) as usize],
        protocol: [1, 17, 6, 6, 6, 6][(i % 6) as usize],
        label: u32::from(i.is_multiple_of(11)),
        ..Record::default()
    };
    Table {
        records: (0..records).map(record).collect(),
        labels: vec!["background".to_owned(), "blacklist".to_owned()],
        label_column: Some("type".to_owned()),
        capture: false,
    }
}

fn options(threads: usize) -> NetworkOptions {
    NetworkOptions {
        fresh_addresses: true,
        seed: 5,
        threads,
    }
}

fn fitted(
    text: &str,
    rows: &Rows,
    threads: usize,
    watch: &dyn Watch,
) -> Result<Doppelganger, SynthError> {
    fit_doppelganger(rows, &read_config(text)?.grid, &options(threads), watch)
}

fn obeys_rules(table: &Table) {
    assert!(table.records.is_sorted_by_key(|r| r.start_us));
    for r in &table.records {
        assert!(
            r.packets >= 1 && r.bytes >= r.packets * header_bytes(r.protocol, false),
            "{r:?}"
        );
        assert!(r.packets > 1 || r.duration_us == 0, "{r:?}");
        assert_eq!(
            has_ports(r.protocol),
            r.src_port != 0 && r.dst_port != 0,
            "{r:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_model_and_records_on_any_number_of_threads() {
    let table = table(120);
    let rows = Rows::of_table(&table).unwrap();
    let model = fitted(&small(), &rows, 1, &Unwatched).unwrap();
    let bytes = model.to_bytes().unwrap();
    assert_eq!(
        bytes,
        fitted(&small(), &rows, 3, &Unwatched)
            .unwrap()
            .to_bytes()
            .unwrap()
    );
    assert_eq!(model.info().method, Method::Doppelganger);
    assert_eq!(model.info().records, 120);
    let read = load(&bytes).unwrap();
    for n in [0, 1, 7, 501] {
        let drawn = read.sample(n, 9).unwrap();
        assert_eq!(drawn.records.len(), n);
        assert_eq!(drawn, model.sample(n, 9).unwrap());
        obeys_rules(&drawn);
        let (first, last) = (table.records[0].start_us, table.records[119].start_us);
        assert!(
            drawn
                .records
                .iter()
                .all(|r| (first..=last).contains(&r.start_us) && r.label < 2)
        );
    }
    assert_ne!(read.sample(50, 1).unwrap(), read.sample(50, 2).unwrap());
}

#[test]
fn files_that_are_damaged_are_refused() {
    let rows = Rows::of_table(&table(40)).unwrap();
    let bytes = fitted(&small(), &rows, 1, &Unwatched)
        .unwrap()
        .to_bytes()
        .unwrap();
    for cut in [0, 7, 8, 20, bytes.len() / 2, bytes.len() - 1] {
        assert!(
            matches!(load(&bytes[..cut]), Err(SynthError::Model(_))),
            "{cut}"
        );
    }
    for at in [9, 40, bytes.len() / 2, bytes.len() - 3] {
        let mut bad = bytes.clone();
        bad[at] ^= 0x40;
        assert!(matches!(load(&bad), Err(SynthError::Model(_))), "{at}");
    }
    assert!(chaff_synth::Model::from_bytes(&bytes).is_err());
}

/// Keeps checkpoints, and fails after so many.
#[derive(Default)]
struct Store {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    most: Option<usize>,
    passes: Mutex<usize>,
}

impl Watch for Store {
    fn progress(&self, _: &Progress) {
        *self.passes.lock().expect("no test panics with it") += 1;
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> IoResult<()> {
        let mut files = self.files.lock().expect("no test panics with it");
        if self.most.is_some_and(|most| files.len() >= most) {
            return Err(Error::other("full"));
        }
        files.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn kept(&self, name: &str) -> Option<Vec<u8>> {
        self.files
            .lock()
            .expect("no test panics with it")
            .get(name)
            .cloned()
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_model() {
    let rows = Rows::of_table(&table(60)).unwrap();
    let whole = fitted(&small(), &rows, 1, &Unwatched).unwrap();
    let mut store = Store {
        most: Some(5),
        ..Store::default()
    };
    let stopped = fitted(&small(), &rows, 1, &store);
    assert!(matches!(stopped, Err(SynthError::Io(_))));
    let before = *store.passes.lock().unwrap();
    store.most = None;
    let resumed = fitted(&small(), &rows, 1, &store).unwrap();
    assert_eq!(resumed, whole);
    let all = Store::default();
    fitted(&small(), &rows, 1, &all).unwrap();
    let saved = before + *all.passes.lock().unwrap() - *store.passes.lock().unwrap();
    assert!(saved >= 4, "{saved} passes were not repeated");
    // Checkpoints of other data are not taken.
    let other = Rows::of_table(&table(61)).unwrap();
    assert_eq!(
        fitted(&small(), &other, 1, &store).unwrap(),
        fitted(&small(), &other, 1, &Unwatched).unwrap()
    );
}

#[test]
fn a_capture_s_packets_become_a_capture_of_as_many() {
    let text = config(
        true,
        r#""n_chunks": 1, "dp": false"#,
        r#""sample_len": [10], "sample_len_expand": true"#,
    )
    .replace("\"epochs\": 4", "\"epochs\": 1");
    let rows = Rows::of_capture(DEMO).unwrap();
    let text = text
        .replace(
            "\"pre_post_processor\": {",
            "\"pre_post_processor\": {\"x\": 1, ",
        )
        .replace("\"timestamp\"", "\"max_flow_len\": 20, \"timestamp\"");
    let parsed = read_config(&text).unwrap();
    assert_eq!(parsed.unknown, ["pre_post_processor.x"]);
    let model = fit_doppelganger(&rows, &parsed.grid, &options(2), &Unwatched).unwrap();
    let drawn = model.sample(300, 3).unwrap();
    assert!(drawn.capture && drawn.records.iter().all(|r| r.packets == 1 && r.ttl >= 1));
    obeys_rules(&drawn);
    let options = PcapOptions {
        seed: 3,
        ethernet: false,
        payloads: false,
    };
    let mut pcap = Vec::new();
    assert_eq!(
        write_pcap(&mut pcap, &drawn, model.tables(), &options).unwrap(),
        300
    );
    let back = read_capture(pcap.as_slice()).unwrap();
    assert_eq!(back.ignored, 0);
    assert_eq!(
        back.table.records.iter().map(|r| r.packets).sum::<u64>(),
        300
    );
}

#[test]
fn chunks_tags_and_times_take_all_forms() {
    let rows = Rows::of_table(&table(50)).unwrap();
    for (from, to) in [
        (
            "\"timestamp\"",
            "\"df2chunks\": \"fixed_size\", \"split_name\": \"multichunk_dep_v1\", \"timestamp\"",
        ),
        ("\"encoding\": \"interarrival\"", "\"encoding\": \"raw\""),
        (
            "\"normalization\": \"ZERO_ONE\"}",
            "\"normalization\": \"MINUSONE_ONE\"}",
        ),
        ("\"n_chunks\": 2", "\"n_chunks\": 40"),
        (
            "\"epochs\": 4",
            "\"epochs\": 1, \"use_attr_discriminator\": false",
        ),
    ] {
        let text = small().replace(from, to).replace("[1, 5]", "[2]");
        assert_ne!(text, small());
        let model = fitted(&text, &rows, 2, &Unwatched).unwrap();
        let drawn = model.sample(80, 1).unwrap();
        assert_eq!(drawn.records.len(), 80);
        obeys_rules(&drawn);
    }
    // One record, and one protocol.
    for n in [1, 2] {
        let rows = Rows::of_table(&table(n)).unwrap();
        let model = fitted(&small(), &rows, 1, &Unwatched).unwrap();
        assert_eq!(model.sample(20, 1).unwrap().records.len(), 20);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let rows = Rows::of_table(&table(20)).unwrap();
    let says = |text: &str| fitted(text, &rows, 1, &Unwatched).unwrap_err().to_string();
    for (from, to, wanted) in [
        (
            "\"batch_size\": 12",
            "\"batch_size\": 0",
            "model.config.batch_size: 0 is not a whole number from 2",
        ),
        (
            "\"column\": \"td\"",
            "\"column\": \"tdd\"",
            "timeseries[0].column: \"tdd\" is not one of srcip",
        ),
        (
            "\"encoding\": \"bit\"",
            "\"encoding\": \"bits\"",
            "metadata[0].encoding: \"bits\" is not bit",
        ),
        (
            "\"encoding\": \"interarrival\"",
            "\"encoding\": \"absolute\"",
            "timestamp.encoding: \"absolute\" is not interarrival or raw",
        ),
        (
            "\"column\": \"ts\"",
            "\"column\": \"when\"",
            "timestamp.column",
        ),
        (
            "single_event_per_row.json",
            "dg_table_row_per_sample.json",
            "default: \"dg_table_row_per_sample.json\"",
        ),
        ("[1, 5]", "[]", "model.config.sample_len"),
        (
            "\"n_bits\": 32",
            "\"n_bits\": 16",
            "n_bits: 16 is not at least 32",
        ),
        (
            "\"dataset_type\": \"netflow\"",
            "\"dataset_type\": \"zeek\"",
            "dataset_type: \"zeek\" is not netflow or pcap",
        ),
        (
            "\"epochs\": 4",
            "\"epochs\": 4, \"self_norm\": true",
            "self_norm: true is not false",
        ),
    ] {
        let said = says(&small().replace(from, to));
        assert!(said.contains(wanted), "{said} | {wanted}");
    }
    assert!(says("{").contains("JSON"));
    let pcap = config(true, r#""n_chunks": 1"#, r#""sample_len": 1"#);
    assert!(says(&pcap).contains("the input is a flow table"));
    let mut six = table(3);
    six.records[1].src = "2001:db8::1".parse().unwrap();
    let said = Rows::of_table(&six).unwrap_err().to_string();
    assert!(said.contains("record 2 has an IPv6 address"), "{said}");
    assert!(matches!(
        Rows::of_table(&Table::default()),
        Err(SynthError::Empty)
    ));
    let mut bare = table(9);
    bare.label_column = None;
    let bare = Rows::of_table(&bare).unwrap();
    let said = fitted(&small(), &bare, 1, &Unwatched)
        .unwrap_err()
        .to_string();
    assert!(said.contains("no label column"), "{said}");
}

fn gradients(epsilon: f64, seed: u64) -> Gradients {
    let epsilon = Epsilon::new(epsilon).expect("a budget for tests");
    let mut ledger = Ledger::open(epsilon, 1e-5, &[]).expect("a budget for tests");
    ledger.mark_stored();
    let grant = ledger
        .spend_approximate("t", epsilon, 1e-5)
        .expect("a budget for tests")
        .stored();
    grant
        .into_gradients(Entropy::Seed(seed))
        .expect("a budget for tests")
}

fn private(
    text: &str,
    rows: &Rows,
    labels: Option<Vec<String>>,
) -> Result<Doppelganger, SynthError> {
    let public = PrivateNetworkOptions {
        labels,
        time_range_us: (1_458_298_072_000_000, 1_458_298_092_000_000),
    };
    let grid = read_config(text)?.grid;
    fit_doppelganger_private(
        rows,
        &grid[0],
        &options(2),
        &public,
        gradients(2.0, 3),
        (None, (2.0, 1e-5)),
        &Unwatched,
    )
}

#[test]
fn a_private_model_keeps_its_account_and_nothing_that_is_not_public() {
    let rows = Rows::of_table(&table(200)).unwrap();
    let labels = vec!["background".to_owned(), "other".to_owned()];
    let model = private(&small(), &rows, Some(labels.clone())).unwrap();
    let account = model.info().privacy.clone().unwrap();
    assert_eq!((account.releases.len(), account.gradients.len()), (2, 2));
    assert!(
        account
            .gradients
            .iter()
            .all(|g| g.noise > 1.0 && g.steps > 0)
    );
    account.verify().unwrap();
    let bytes = model.to_bytes().unwrap();
    let drawn = load(&bytes).unwrap().sample(150, 4).unwrap();
    assert_eq!((drawn.records.len(), &drawn.labels), (150, &labels));
    obeys_rules(&drawn);
    // The dictionary of ports, the range of times and the label that is not public are nowhere.
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("blacklist") && text.contains("\"ports\":[]"));
    // An account that claims less noise, or more steps, does not add up.
    let mut less = account.clone();
    less.gradients[0].noise *= 0.8;
    assert!(less.verify().is_err());
    let mut more = account;
    more.gradients[1].steps *= 3;
    assert!(more.verify().is_err());
    // Without public labels there are none.
    let model = private(&small(), &rows, None).unwrap();
    assert_eq!(model.sample(5, 1).unwrap().label_column, None);
    let fixed = small().replace(
        "\"timestamp\"",
        "\"df2chunks\": \"fixed_size\", \"timestamp\"",
    );
    let said = private(&fixed, &rows, None).unwrap_err().to_string();
    assert!(said.contains("df2chunks"), "{said}");
}
