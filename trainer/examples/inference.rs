//! Time and allocations of what makes cover, once it is warm: `cargo run --release -p chaff-trainer --example inference`.
use std::time::Instant;

use chaff_abi::Nanos;
use chaff_cover::{
    Demand, Envelope, EnvelopeConfig, Generator, MODELS, OnnxGenerator, Window, by_name, model,
};
use chaff_test_support::{CountingAllocator, allocations};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Runs `what` `times` times after a hundredth of it; prints the median of 9 parts, µs, and allocations of one run.
fn measure(name: &str, times: u32, mut what: impl FnMut()) {
    (0..times / 100).for_each(|_| what());
    let allocated = allocations();
    let mut parts: Vec<f64> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            (0..times / 9).for_each(|_| what());
            begun.elapsed().as_secs_f64() * 1e6 / f64::from(times / 9)
        })
        .collect();
    // The list of parts is one of them.
    let allocated = allocations() - allocated - 1;
    parts.sort_by(f64::total_cmp);
    println!(
        "{name:44} {:9.3} us {:8.2} allocations",
        parts[4],
        allocated as f64 / f64::from(times / 9 * 9)
    );
}

fn main() -> Result<(), chaff_cover::CoverError> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let past = Window::new(1);
    let mut out = Vec::new();
    let mut run = |name: &str, times: u32, g: &mut dyn Generator| {
        out.resize(g.rows(), Demand::NONE);
        let what = format!("{name}, {} slots", g.rows());
        measure(&what, times, || {
            g.fill(&past, &mut rng, &mut out).expect("runs");
        });
    };
    for name in MODELS {
        let bytes = model(name).unwrap_or_default();
        let mut g = OnnxGenerator::load(bytes)?;
        run(&format!("model {name}"), 20_000, &mut g);
        let mut g = OnnxGenerator::load_in_runtime(bytes)?;
        run(&format!("model {name}, ONNX runtime"), 20_000, &mut g);
    }
    for name in ["constant", "random", "random+"] {
        if let Some(mut g) = by_name(name, Nanos::from_millis(100)) {
            run(name, 200_000, g.as_mut());
        }
    }
    let mut envelope = Envelope::new(EnvelopeConfig::default(), [1; 32], Nanos::ZERO)?;
    measure("envelope, one dummy", 2_000_000, || {
        std::hint::black_box(envelope.next_dummy());
    });
    Ok(())
}
