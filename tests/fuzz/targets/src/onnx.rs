//! Model files ([`chaff_onnx::inspect`], [`chaff_onnx::sign`]), up to what the inference runtime would get.
//!
//! Input: an ONNX file.
//!
//! - A file that is accepted has a signature in range, and vectors that fit its inputs and outputs; a graph that runs without the
//!   runtime takes the vectors and gives as many numbers.
//! - A graph that can be signed gives a file that is accepted and that signs to itself: what was understood is all there is.
//! - A signed file with one changed byte is refused, or still says the same.

use chaff_onnx::{
    Golden, Graph, IPET_GENERATOR, IPET_SLOTS, Inspected, Port, SIGNATURE_VERSION, Signature,
    inspect, sign,
};

use crate::Seeds;

/// See the module.
pub fn run(data: &[u8]) {
    if let Ok(found) = inspect(data, IPET_GENERATOR) {
        check(&found);
    }
    let signature = signature();
    // Vectors must fit the ports, which only a signed file tells: the sizes are tried that seeds have.
    let Ok(signed) = sign(data, &signature, &[golden(2, 4)]) else {
        return;
    };
    let found = inspect(&signed, IPET_GENERATOR).unwrap();
    check(&found);
    assert_eq!(found.signature, signature);
    assert_eq!(sign(&signed, &signature, &found.golden).unwrap(), signed);
    let at = data
        .iter()
        .fold(0usize, |sum, b| sum.wrapping_mul(31) + usize::from(*b));
    let mut changed = signed;
    let at = at % changed.len();
    changed[at] ^= 1;
    if let Ok(other) = inspect(&changed, IPET_GENERATOR) {
        assert_eq!(other.signature, found.signature, "byte {at}");
        assert_eq!(other.golden, found.golden, "byte {at}");
    }
}

fn check(found: &Inspected) {
    found.signature.check().unwrap();
    for vector in &found.golden {
        let fits = |values: &[Vec<f32>], ports: &[Port]| {
            values.len() == ports.len()
                && values
                    .iter()
                    .zip(ports)
                    .all(|(v, p)| v.len() == p.elements())
        };
        assert!(fits(&vector.inputs, &found.inputs) && fits(&vector.outputs, &found.outputs));
        let inputs: Vec<&[f32]> = vector.inputs.iter().map(Vec::as_slice).collect();
        if let Some(made) = found.run(&inputs) {
            assert!(fits(&made, &found.outputs));
        }
    }
}

fn signature() -> Signature {
    Signature {
        version: SIGNATURE_VERSION,
        kind: IPET_GENERATOR.into(),
        feature_kind: IPET_SLOTS.into(),
        rows: 1,
        columns: 4,
        slot_ms: 100,
        window_ms: 100,
        scale: vec![1.0; 4],
        threshold: None,
        device_label: "plug".into(),
        chain: 0,
        stage: 1,
        seed: 7,
        training_digest: [5; 32],
        extras: chaff_onnx::Extras::default(),
    }
}

fn golden(inputs: usize, outputs: usize) -> Golden {
    Golden {
        inputs: vec![vec![0.5; inputs]],
        outputs: vec![vec![0.25; outputs]],
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut dense = Graph::new("dense");
    let z = dense.input("latent", &[1, 2]);
    let w = dense.constant(&[2, 4], &[0.5; 8]);
    let b = dense.constant(&[4], &[0.1; 4]);
    let h = dense.gemm(&z, &w, &b);
    let y = dense.sigmoid(&h);
    dense.output("demand", &y, &[1, 4]);

    let mut odd = Graph::new("odd");
    let x = odd.input("x", &[1, 2]);
    let w = odd.constant(&[2, 4], &[0.5; 8]);
    let b = odd.constant(&[4], &[0.1; 4]);
    let h = odd.gemm(&x, &w, &b);
    let t = odd.tanh(&h);
    let r = odd.relu(&t);
    let k = odd.constant(&[1, 4], &[2.0; 4]);
    let m = odd.mul(&r, &k);
    let a = odd.add(&m, &k);
    let s = odd.softmax(&a, 1);
    let q = odd.reshape(&s, &[1, 2, 2]);
    let y = odd.round(&q);
    odd.output("y", &y, &[1, 2, 2]);

    let file = |graph: &Graph| graph.to_bytes(&signature(), &[golden(2, 4)]).unwrap();
    vec![
        ("dense".into(), file(&dense)),
        ("odd".into(), file(&odd)),
        ("empty".into(), Vec::new()),
    ]
}
