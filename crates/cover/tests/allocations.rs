//! A generator that is warm makes its windows without an allocation.
#![cfg(feature = "onnx")]

use chaff_abi::SlotCounters;
use chaff_cover::{Demand, Generator, MODELS, OnnxGenerator, Window, model};
use chaff_test_support::{CountingAllocator, allocations};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn windows_are_made_without_an_allocation_and_as_the_runtime_makes_them() {
    let mut past = Window::new(40);
    past.push(SlotCounters::default());
    for name in MODELS {
        let bytes = model(name).expect("comes with Chaff");
        let mut planned = OnnxGenerator::load(bytes).expect("loads");
        let mut runtime = OnnxGenerator::load_in_runtime(bytes).expect("loads");
        let mut rngs = [ChaCha20Rng::seed_from_u64(1), ChaCha20Rng::seed_from_u64(1)];
        let mut a = vec![Demand::NONE; planned.rows()];
        let mut b = a.clone();
        for _ in 0..20 {
            let before = allocations();
            planned.fill(&past, &mut rngs[0], &mut a).expect("runs");
            assert_eq!(allocations(), before, "{name}");
            runtime.fill(&past, &mut rngs[1], &mut b).expect("runs");
            for (a, b) in a.iter().zip(&b) {
                // Numbers next to a half may be rounded either way.
                for d in 0..2 {
                    assert!(
                        a.packets[d].abs_diff(b.packets[d]) <= 1,
                        "{name}: {a:?} {b:?}"
                    );
                    assert!(a.bytes[d].abs_diff(b.bytes[d]) <= 1, "{name}: {a:?} {b:?}");
                }
            }
        }
    }
}
