use proptest::prelude::*;
use prost::Message;

use crate::check::check;
use crate::graph::decode;
use crate::model::session;
use crate::proto::{DimensionValue, ModelProto, NodeProto};
use crate::{
    Extras, Golden, Graph, IPET_GENERATOR, IPET_SLOTS, Model, ModelError, SIGNATURE_VERSION,
    Signature, Value, sign,
};

const LATENT: usize = 5;
const ROWS: usize = 4;
const COLUMNS: usize = 4;

fn signature() -> Signature {
    Signature {
        version: SIGNATURE_VERSION,
        kind: IPET_GENERATOR.to_owned(),
        feature_kind: IPET_SLOTS.to_owned(),
        rows: ROWS as u32,
        columns: COLUMNS as u32,
        slot_ms: 100,
        window_ms: 400,
        scale: vec![4.0, 100.0, 4.0, 100.0],
        threshold: Some(0.25),
        device_label: "plug, küche".to_owned(),
        chain: 2,
        stage: 3,
        seed: u64::MAX,
        training_digest: [0xab; 32],
        extras: Extras::default(),
    }
}

fn weight(i: usize) -> f32 {
    ((i * 37 % 101) as f32 - 50.0) / 60.0
}

/// A small generator and what it computes, by plain arithmetic.
fn generator() -> (Graph, Vec<Golden>) {
    let n = ROWS * COLUMNS;
    let weights: Vec<f32> = (0..LATENT * n).map(weight).collect();
    let bias: Vec<f32> = (0..n).map(|i| weight(i + 7)).collect();
    let scale = [4.0f32, 100.0, 4.0, 100.0];
    let mut g = Graph::new("generator");
    let z = g.input("latent", &[1, LATENT]);
    let w = g.constant(&[LATENT, n], &weights);
    let b = g.constant(&[n], &bias);
    let h = g.gemm(&z, &w, &b);
    let s = g.sigmoid(&h);
    let m = g.reshape(&s, &[1, ROWS, COLUMNS]);
    let k = g.constant(&[1, 1, COLUMNS], &scale);
    let y = g.mul(&m, &k);
    g.output("demand", &y, &[1, ROWS, COLUMNS]);
    let golden = (0..3)
        .map(|v| {
            let z: Vec<f32> = (0..LATENT).map(|i| weight(v * 11 + i * 3)).collect();
            let y = (0..n)
                .map(|j| {
                    let h: f32 =
                        bias[j] + (0..LATENT).map(|i| z[i] * weights[i * n + j]).sum::<f32>();
                    scale[j % COLUMNS] / (1.0 + (-h).exp())
                })
                .collect();
            Golden {
                inputs: vec![z],
                outputs: vec![y],
            }
        })
        .collect();
    (g, golden)
}

fn file() -> Vec<u8> {
    let (graph, golden) = generator();
    graph.to_bytes(&signature(), &golden).expect("valid")
}

/// Decodes the valid file, changes it and encodes it again, digest left as it was.
fn changed(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut proto = decode(&file()).expect("valid");
    change(&mut proto);
    proto.encode_to_vec()
}

fn set(key: &str, value: &str) -> Vec<u8> {
    changed(|m| {
        for p in &mut m.metadata_props {
            if p.key == key {
                value.clone_into(&mut p.value);
            }
        }
    })
}

fn refusal(bytes: &[u8]) -> ModelError {
    match Model::load(bytes, IPET_GENERATOR) {
        Ok(_) => panic!("was loaded"),
        Err(e) => e,
    }
}

#[test]
fn what_was_written_is_read_back_and_runs() {
    let mut model = Model::load(&file(), IPET_GENERATOR).expect("loads");
    assert_eq!(*model.signature(), signature());
    assert_eq!(model.outputs()[0].dims, [1, ROWS, COLUMNS]);
    let mut y = [0.0; ROWS * COLUMNS];
    model.run(&[&[0.0; LATENT]], &mut [&mut y]).expect("runs");
    let want = 4.0 / (1.0 + (-weight(7)).exp());
    assert!((y[0] - want).abs() < 1e-6, "{} {want}", y[0]);
    assert!(matches!(
        model.run(&[&[0.0; 3]], &mut [&mut y]),
        Err(ModelError::Shape {
            what: "input",
            found: 3,
            want: LATENT,
            ..
        })
    ));
    assert!(model.run(&[], &mut [&mut y]).is_err());
    assert!(model.run(&[&[0.0; LATENT]], &mut [&mut [0.0; 3]]).is_err());
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    assert_eq!(file(), file());
}

#[test]
fn a_wrong_kind_names_both() {
    let text = Model::load(&file(), "m-seq")
        .expect_err("refused")
        .to_string();
    assert!(
        text.contains("ipet-generator") && text.contains("m-seq"),
        "{text}"
    );
}

#[test]
fn a_model_from_elsewhere_is_told_apart_from_a_damaged_one() {
    let foreign = changed(|m| m.metadata_props.clear());
    assert!(matches!(
        refusal(&foreign),
        ModelError::NotSigned { properties: 0, .. }
    ));
    let (_, golden) = generator();
    let signed = sign(&foreign, &signature(), &golden).expect("can be signed");
    assert_eq!(signed, file());
    let lacking = changed(|m| m.metadata_props.retain(|p| p.key != "chaff.rows"));
    assert!(matches!(
        refusal(&lacking),
        ModelError::MissingField {
            field: "chaff.rows"
        }
    ));
    assert!(matches!(refusal(b"hello, world"), ModelError::Malformed(_)));
    assert!(matches!(refusal(b""), ModelError::NotSigned { .. }));
}

#[test]
fn every_bad_field_is_named() {
    for (key, value) in [
        ("chaff.version", "2"),
        ("chaff.rows", "0"),
        ("chaff.rows", "x"),
        ("chaff.columns", "5"),
        ("chaff.slot_ms", "0"),
        ("chaff.window_ms", "-1"),
        ("chaff.scale", "1,2,3,NaN"),
        ("chaff.threshold", "inf"),
        ("chaff.device", "a\nb"),
        ("chaff.seed", "18446744073709551616"),
        ("chaff.training_digest", "abc"),
        ("chaff.training_digest", "ab"),
        ("chaff.golden", ""),
        ("chaff.golden", "00:00"),
        ("chaff.golden", "zz"),
    ] {
        match refusal(&set(key, value)) {
            ModelError::BadField { .. } => {}
            ModelError::Digest { .. } if key == "chaff.golden" => {}
            other => panic!("{key}={value}: {other}"),
        }
    }
}

#[test]
fn a_change_after_signing_is_found() {
    assert!(matches!(
        refusal(&set("chaff.device", "lamp")),
        ModelError::Digest { .. }
    ));
    let weights = changed(|m| {
        let graph = m.graph.as_mut().expect("graph");
        graph.initializer[0].raw_data.as_mut().expect("raw")[1] ^= 1;
    });
    assert!(matches!(refusal(&weights), ModelError::Digest { .. }));
}

#[test]
fn a_wrong_stored_vector_fails_the_self_test() {
    let (graph, mut golden) = generator();
    golden[1].outputs[0][5] += 0.02;
    let bytes = graph.to_bytes(&signature(), &golden).expect("writes");
    assert!(matches!(
        refusal(&bytes),
        ModelError::SelfTest {
            vector: 1,
            output: 0,
            element: 5,
            ..
        }
    ));
}

#[test]
fn symbolic_sizes_are_refused_before_the_runtime_sees_them() {
    for value in [
        None,
        Some(DimensionValue::Symbol("batch".to_owned())),
        Some(DimensionValue::Fixed(-1)),
        Some(DimensionValue::Fixed(0)),
    ] {
        let bytes = changed(|m| {
            let input = &mut m.graph.as_mut().expect("graph").input[0];
            let tensor = input.r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
            tensor.expect("tensor").shape.as_mut().expect("shape").dim[0].value = value.clone();
        });
        assert!(
            matches!(refusal(&bytes), ModelError::Symbolic { axis: 0, .. }),
            "{value:?}"
        );
    }
}

#[test]
fn odd_graphs_are_refused_with_the_place() {
    type Change = fn(&mut Vec<NodeProto>);
    let changes: [(&str, Change); 7] = [
        ("is not supported", |n| n[0].op_type = "Loop".to_owned()),
        ("domain", |n| n[0].domain = "com.example".to_owned()),
        ("is not defined before", |n| n.swap(0, 1)),
        ("is defined twice", |n| n[1].output = n[0].output.clone()),
        ("outputs, wanted 1", |n| n[2].output.clear()),
        ("inputs, wanted", |n| n[3].input.truncate(1)),
        ("no node makes it", |n| n.clear()),
    ];
    for (want, change) in changes {
        let text = refusal(&changed(|m| {
            change(&mut m.graph.as_mut().expect("graph").node)
        }))
        .to_string();
        assert!(text.contains(want), "{text}");
    }
    let big = changed(|m| {
        let graph = m.graph.as_mut().expect("graph");
        graph.node = vec![NodeProto::default(); 300];
    });
    assert!(matches!(
        refusal(&big),
        ModelError::TooLarge {
            part: "the nodes",
            ..
        }
    ));
    let external =
        changed(|m| m.graph.as_mut().expect("graph").initializer[0].data_location = Some(1));
    assert!(refusal(&external).to_string().contains("another file"));
    let opset = changed(|m| m.opset_import[0].version = Some(9));
    assert!(refusal(&opset).to_string().contains("operator sets"));
}

/// A chain of `nodes` operators, each on the output of the one before.
fn chain(
    nodes: usize,
    mut op: impl FnMut(&mut Graph, &Value) -> Value,
) -> Result<Vec<u8>, ModelError> {
    let mut g = Graph::new("chain");
    let mut x = g.input("x", &[1, 4]);
    for _ in 0..nodes {
        x = op(&mut g, &x);
    }
    g.output("y", &x, &[1, 4]);
    let golden = Golden {
        inputs: vec![vec![0.0; 4]],
        outputs: vec![vec![0.0; 4]],
    };
    g.to_bytes(&signature(), &[golden])
}

#[test]
fn the_longest_graph_loads_and_a_longer_one_is_refused() {
    let bytes = chain(crate::MAX_NODES, |g, x| g.tanh(x)).expect("allowed");
    Model::load(&bytes, IPET_GENERATOR).expect("loads");
    let error = chain(crate::MAX_NODES + 1, |g, x| g.tanh(x)).expect_err("refused");
    assert!(matches!(
        error,
        ModelError::TooLarge {
            part: "the nodes",
            ..
        }
    ));
}

#[test]
fn small_constants_do_not_multiply_into_gigabytes() {
    let mut g = Graph::new("bomb");
    let mut x = g.input("x", &[1, 1, 1]);
    for _ in 0..3 {
        let a = g.constant(&[1, 2000, 1], &[1.0; 2000]);
        let b = g.constant(&[1, 1, 2000], &[1.0; 2000]);
        let product = g.mul(&a, &b);
        x = g.add(&x, &product);
    }
    g.output("y", &x, &[1, 2000, 2000]);
    let error = g.to_bytes(&signature(), &[]).expect_err("refused");
    assert!(
        matches!(
            error,
            ModelError::TooLarge {
                found: 24_012_001,
                ..
            }
        ),
        "{error}"
    );
}

/// Applies an operator chosen by number to the values made so far.
fn grow(g: &mut Graph, made: &mut Vec<(Value, Vec<usize>)>, op: u8, n: usize) {
    let (x, dims) = made.last().expect("the input").clone();
    let count: usize = dims.iter().product();
    let next = match op % 9 {
        0 => (g.sigmoid(&x), dims),
        1 => (g.tanh(&x), dims),
        2 => (g.relu(&x), dims),
        3 => (g.round(&x), dims),
        4 => (g.softmax(&x, -1), dims),
        5 => {
            let k = g.constant(&[1], &[0.5]);
            (g.mul(&x, &k), dims)
        }
        6 => {
            let row = vec![0.25; *dims.last().expect("rank")];
            let k = g.constant(&[row.len()], &row);
            (g.add(&x, &k), dims)
        }
        7 => (g.reshape(&x, &[1, 1, count]), vec![1, 1, count]),
        _ => {
            let flat = g.reshape(&x, &[1, count]);
            let w = g.constant(&[count, n], &vec![0.1; count * n]);
            let b = g.constant(&[n], &vec![0.1; n]);
            (g.gemm(&flat, &w, &b), vec![1, n])
        }
    };
    made.push(next);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_refused_or_mean_the_same(
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..4),
    ) {
        let mut bytes = file();
        for (at, bit) in flips {
            let i = at.index(bytes.len());
            bytes[i] ^= 1 << bit;
        }
        // A flip in a part that is not read (a node's name, the producer) changes nothing.
        if let Ok(model) = Model::load(&bytes, IPET_GENERATOR) {
            prop_assert_eq!(model.signature(), &signature());
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Model::load(&bytes, IPET_GENERATOR).is_err());
    }

    /// Without the digest in the way: whatever passes the check does not bring the runtime down.
    #[test]
    fn damaged_graphs_that_pass_the_check_do_not_end_the_process(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = changed(|m| m.metadata_props.clear());
        for (at, byte) in flips {
            let i = at.index(bytes.len());
            bytes[i] = byte;
        }
        if let Ok(checked) = decode(&bytes).and_then(|m| check(&m)) {
            prop_assert!(session(&checked.model.encode_to_vec()).is_ok());
        }
    }

    #[test]
    fn graphs_that_pass_the_check_run(
        width in 1usize..9,
        ops in prop::collection::vec((any::<u8>(), 1usize..9), 1..12),
    ) {
        let mut g = Graph::new("random");
        let x = g.input("x", &[1, width]);
        let mut made = vec![(x, vec![1, width])];
        for (op, n) in ops {
            grow(&mut g, &mut made, op, n);
        }
        let (y, dims) = made.last().expect("one").clone();
        g.output("y", &y, &dims);
        let wanted: usize = dims.iter().product();
        let mut s = signature();
        s.kind = "random".to_owned();
        let golden = Golden { inputs: vec![vec![0.5; width]], outputs: vec![vec![0.0; wanted]] };
        let bytes = g.to_bytes(&s, &[golden]).expect("passes the check");
        match Model::load(&bytes, "random") {
            Ok(_) | Err(ModelError::SelfTest { .. }) => {}
            Err(e) => prop_assert!(false, "{e}"),
        }
    }
}
