//! What iPET's figures rest on: which sessions are held out, which windows decide when to stop, and how plainly its cover shows.

use std::collections::{BTreeMap, BTreeSet};

use chaff_abi::{Dir, Nanos};
use chaff_cover::{Demand, Generator as _, OnnxGenerator, Window};
use chaff_trainer::defend::Defence;
use chaff_trainer::nets::{self, Validation, Windowing};
use chaff_trainer::split::{Held, Split, split, split_by};
use chaff_trainer::traces::{Seen, Trace};
use chaff_trainer::winnow::{Options, winnow};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

fn session(label: &str, name: usize, packets: Vec<Seen>) -> Trace {
    let (label, session) = (label.to_owned(), format!("s{name:02}"));
    let device = label.clone();
    Trace {
        label,
        device,
        session,
        begins: None,
        packets,
    }
}

#[test]
fn splits_at_random_hold_out_as_many() {
    let traces: Vec<Trace> = (0..14)
        .map(|i| session("a", i, Vec::new()))
        .chain((0..5).map(|i| session("b", i, Vec::new())))
        .chain([session("c", 0, Vec::new())])
        .collect();
    let fixed = split(&traces);
    let draw = |seed| split_by(&traces, Held::Drawn(seed)).expect("draws");
    let drawn: Vec<Split> = (0..5).map(draw).collect();
    for s in &drawn {
        let count = |list: &[usize], label: &str| {
            list.iter().filter(|&&i| traces[i].label == label).count()
        };
        for label in ["a", "b"] {
            assert_eq!(count(&s.test, label), count(&fixed.test, label));
        }
        let all: BTreeSet<usize> = s.train.iter().chain(&s.test).copied().collect();
        assert_eq!(all.len(), s.train.len() + s.test.len());
        assert_eq!(s.single, fixed.single);
    }
    assert!(drawn.iter().any(|s| s.test != drawn[0].test));
    assert_eq!(drawn[1], draw(1));
}

#[test]
fn validation_windows_are_those_of_training_or_held_out() {
    let packet = |ms: u64| Seen {
        at: Nanos::from_millis(ms),
        dir: Dir::Out,
        size: 100,
        payload: 60,
        udp: true,
        dummy: false,
    };
    let traces: Vec<Trace> = (0..8)
        .map(|i| {
            session(
                ["a", "b"][i % 2],
                i,
                (0..20).map(|k| packet(5000 * k)).collect(),
            )
        })
        .collect();
    let split = split(&traces);
    let of = |validation| {
        let how = Windowing {
            shape: nets::ipet_shape().expect("in range"),
            cap: 1000,
            least: 4,
            validation,
        };
        let s = nets::sets(&traces, &split, how, 1).expect("two labels");
        (s.train.len(), s.validation.len(), s.test.len())
    };
    assert_eq!(of(Validation::Training), (102, 18, 40));
    assert_eq!(of(Validation::HeldOut), (120, 40, 40));
}

/// What the published mixer adds is told from real packets at random times, even where those have cover's sizes.
#[test]
fn the_cover_of_ipet_is_told_from_real_packets() {
    let bytes = chaff_cover::model("ipet").expect("comes along");
    let mut g = OnnxGenerator::load(bytes).expect("loads");
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let mut block = vec![Demand::NONE; g.rows()];
    let mut rows = Vec::new();
    for _ in 0..50 {
        g.fill(&Window::new(1), &mut rng, &mut block).expect("runs");
        rows.extend_from_slice(&block);
    }
    let vectors = BTreeMap::from([(String::new(), rows)]);
    let ipet = Defence::Ipet { vectors };
    let mut streams = [1, 2].map(|name| {
        let mut at = 0;
        let mut packet = |_| {
            at += rng.random_range(1_000_000..1_500_000_000);
            Seen {
                at: Nanos(at),
                dir: [Dir::Out, Dir::In][rng.random_range(0..2)],
                size: 28 + rng.random_range(1..100),
                payload: 20,
                udp: true,
                dummy: false,
            }
        };
        let real = session("plug", name, (0..600).map(&mut packet).collect());
        vec![ipet.apply(&real, name as u64, 0).expect("applies").packets]
    });
    let options = Options {
        trees: 30,
        cap: 1_000,
    };
    let [train, test] = &mut streams;
    let told = winnow(train, test, options, &mut rng, &mut || ()).expect("both kinds");
    for told in told {
        assert!(told.everything > 0.995, "{told:?}");
        assert!(told.size < 0.95, "{told:?}");
    }
}
