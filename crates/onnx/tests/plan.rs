//! A graph that runs without the runtime gives the numbers that the runtime gives.
#![cfg(feature = "runtime")]

use chaff_onnx::{Golden, Graph, IPET_SLOTS, Model, SIGNATURE_VERSION, Signature};
use proptest::prelude::*;

fn signature() -> Signature {
    Signature {
        version: SIGNATURE_VERSION,
        kind: "plan".to_owned(),
        feature_kind: IPET_SLOTS.to_owned(),
        rows: 2,
        columns: 3,
        slot_ms: 100,
        window_ms: 200,
        scale: vec![1.0; 3],
        threshold: None,
        device_label: String::new(),
        chain: 0,
        stage: 1,
        seed: 1,
        training_digest: [0; 32],
        extras: chaff_onnx::Extras::default(),
    }
}

fn weight(i: usize) -> f32 {
    ((i * 37 % 101) as f32 - 50.0) / 60.0
}

/// The largest difference of two models on one input, relative where values are above 1.
fn difference(a: &mut Model, b: &mut Model, inputs: &[&[f32]]) -> f32 {
    let count = a.outputs()[0].elements();
    let (mut x, mut y) = (vec![0.0; count], vec![0.0; count]);
    a.run(inputs, &mut [&mut x]).expect("runs");
    b.run(inputs, &mut [&mut y]).expect("runs");
    let each = x
        .iter()
        .zip(&y)
        .map(|(x, y)| (x - y).abs() / y.abs().max(1.0));
    each.fold(0.0, f32::max)
}

#[test]
fn every_operator_of_a_plan_means_what_it_means_in_the_runtime() {
    // Two inputs joined, a product with a column, a sum with a row, parts joined inside the rows.
    let mut g = Graph::new("plan");
    let (a, b) = (g.input("a", &[1, 3]), g.input("b", &[1, 2]));
    let x = g.concat(&[&a, &b], -1);
    let w = g.constant(&[5, 6], &(0..30).map(weight).collect::<Vec<_>>());
    let bias = g.constant(&[1], &[0.3]);
    let h = g.gemm(&x, &w, &bias);
    let h = g.tanh(&h);
    let m = g.reshape(&h, &[1, 2, 3]);
    let column = g.constant(&[1, 2, 1], &[2.0, -50.0]);
    let row = g.constant(&[3], &[0.1, 0.2, 0.3]);
    let m = g.mul(&m, &column);
    let m = g.add(&row, &m);
    let (s, r) = (g.sigmoid(&m), g.relu(&m));
    let m = g.concat(&[&s, &m, &r], 2);
    g.output("y", &m, &[1, 2, 9]);

    // By hand, for inputs of zeros.
    let mut want = Vec::new();
    for factor in [2.0, -50.0] {
        let values = [0.1f32, 0.2, 0.3].map(|r| r + factor * 0.3f32.tanh());
        want.extend(values.map(|v| 1.0 / (1.0 + (-v).exp())));
        want.extend(values);
        want.extend(values.map(|v| v.max(0.0)));
    }
    let golden = Golden {
        inputs: vec![vec![0.0; 3], vec![0.0; 2]],
        outputs: vec![want],
    };
    let bytes = g.to_bytes(&signature(), &[golden]).expect("valid");
    let mut plan = Model::load(&bytes, "plan").expect("loads");
    let mut runtime = Model::load_in_runtime(&bytes, "plan").expect("loads");
    assert!(plan.is_planned() && !runtime.is_planned());
    for v in 0..50 {
        let z: Vec<f32> = (0..5).map(|i| 3.0 * weight(v * 7 + i * 13)).collect();
        let d = difference(&mut plan, &mut runtime, &[&z[..3], &z[3..]]);
        assert!(d < 1e-5, "{d}");
    }
    // A run leaves nothing behind for the next one.
    let d = difference(&mut plan, &mut runtime, &[&[0.0; 3], &[0.0; 2]]);
    assert!(d < 1e-5, "{d}");
}

#[test]
fn what_a_plan_cannot_do_is_left_to_the_runtime() {
    let mut g = Graph::new("softmax");
    let x = g.input("x", &[1, 4]);
    let y = g.softmax(&x, -1);
    g.output("y", &y, &[1, 4]);
    let golden = Golden {
        inputs: vec![vec![0.0; 4]],
        outputs: vec![vec![0.25; 4]],
    };
    let bytes = g.to_bytes(&signature(), &[golden]).expect("valid");
    assert!(!Model::load(&bytes, "plan").expect("loads").is_planned());

    let mut g = Graph::new("large");
    let x = g.input("x", &[1, 400]);
    let w = g.constant(&[400, 400], &vec![0.0; 160_000]);
    let b = g.constant(&[400], &[0.5; 400]);
    let y = g.gemm(&x, &w, &b);
    g.output("y", &y, &[1, 400]);
    let golden = Golden {
        inputs: vec![vec![1.0; 400]],
        outputs: vec![vec![0.5; 400]],
    };
    let bytes = g.to_bytes(&signature(), &[golden]).expect("valid");
    assert!(!Model::load(&bytes, "plan").expect("loads").is_planned());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn dense_layers_give_the_same_numbers(
        widths in prop::collection::vec(1usize..40, 2..5),
        x in prop::collection::vec(-4.0f32..4.0, 40),
    ) {
        let mut g = Graph::new("layers");
        let mut h = g.input("x", &[1, widths[0]]);
        let mut by_hand: Vec<f64> = x[..widths[0]].iter().map(|v| f64::from(*v)).collect();
        for (i, pair) in widths.windows(2).enumerate() {
            let [from, to] = [pair[0], pair[1]];
            let weights: Vec<f32> = (0..from * to).map(|k| weight(k + i)).collect();
            let bias: Vec<f32> = (0..to).map(|k| weight(k * 3 + i)).collect();
            by_hand = (0..to)
                .map(|n| {
                    let part = |k: usize| by_hand[k] * f64::from(weights[k * to + n]);
                    let sum = f64::from(bias[n]) + (0..from).map(part).sum::<f64>();
                    if i % 2 == 0 { 1.0 / (1.0 + (-sum).exp()) } else { sum.tanh() }
                })
                .collect();
            let w = g.constant(&[from, to], &weights);
            let b = g.constant(&[to], &bias);
            h = g.gemm(&h, &w, &b);
            h = if i % 2 == 0 { g.sigmoid(&h) } else { g.tanh(&h) };
        }
        g.output("y", &h, &[1, by_hand.len()]);
        let input = x[..widths[0]].to_vec();
        let golden = Golden {
            inputs: vec![input.clone()],
            outputs: vec![by_hand.iter().map(|v| *v as f32).collect()],
        };
        let bytes = g.to_bytes(&signature(), &[golden]).expect("valid");
        let mut plan = Model::load(&bytes, "plan").expect("loads");
        let mut runtime = Model::load_in_runtime(&bytes, "plan").expect("loads");
        let d = difference(&mut plan, &mut runtime, &[&input]);
        prop_assert!(plan.is_planned() && d < 1e-5, "{d}");
    }
}
