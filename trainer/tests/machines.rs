//! Maybenot machines on traces.

use chaff_abi::{Dir, Nanos};
use chaff_trainer::machines::{Options, apply, draw, read};
use chaff_trainer::traces::Seen;
use maybenot::Machine;
use maybenot::action::Action;
use maybenot::dist::{Dist, DistType};
use maybenot::event::Event;
use maybenot::state::{State, Trans};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Microseconds of a second: the framework's unit.
const SECOND: f64 = 1e6;

fn end(packets: &[Seen]) -> Nanos {
    packets.last().expect("a packet").at
}

fn packets(count: u64, every_ms: u64) -> Vec<Seen> {
    (0..count)
        .map(|i| Seen {
            at: Nanos::from_millis(i * every_ms),
            dir: if i % 2 == 0 { Dir::Out } else { Dir::In },
            size: 60 + 400 * (i as u32 % 3),
            payload: 20,
            udp: false,
            dummy: false,
        })
        .collect()
}

fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

fn dist(value: f64) -> Dist {
    Dist {
        dist: DistType::Uniform {
            low: value,
            high: value,
        },
        start: 0.0,
        max: 0.0,
    }
}

/// Starts with the first real packet that this end sends and repeats its action after this event.
fn machine(action: Action, again: Event) -> Machine {
    let start = State::new(enum_map::enum_map! {
        Event::NormalSent => vec![Trans(1, 1.0)],
        _ => vec![],
    });
    let mut act = State::new(enum_map::enum_map! {
        e => if e == again { vec![Trans(1, 1.0)] } else { vec![] },
    });
    act.action = Some(action);
    Machine::new(u64::MAX, 0.0, u64::MAX, 0.0, vec![start, act]).expect("valid")
}

#[test]
fn a_padding_machine_sends_at_its_times() {
    let pad = Action::SendPadding {
        bypass: false,
        replace: false,
        timeout: dist(0.25 * SECOND),
        limit: None,
    };
    let fixed = Some([vec![machine(pad, Event::PaddingSent)], Vec::new()]);
    let options = Options {
        fixed,
        constant_size: true,
        ..Options::default()
    };
    let real = packets(11, 1_000);
    let seen = apply(&real, end(&real), &options, &mut rng(1)).expect("applies");
    let padding: Vec<&Seen> = seen.iter().filter(|p| p.dummy).collect();
    // Every 250 ms from 250 ms to 10 s.
    assert_eq!(padding.len(), 40);
    assert!(padding.iter().all(|p| p.dir == Dir::BOTH[0]));
    assert!(padding.iter().all(|p| p.at.as_millis() % 250 == 0));
    assert!(seen.iter().all(|p| p.size == 1420));
    assert_eq!(seen.len(), 51);
}

#[test]
fn a_blocking_machine_delays_and_loses_nothing() {
    let block = Action::BlockOutgoing {
        bypass: false,
        replace: false,
        timeout: dist(0.0),
        duration: dist(0.4 * SECOND),
        limit: None,
    };
    let fixed = Some([vec![machine(block, Event::BlockingEnd)], Vec::new()]);
    let options = Options {
        fixed,
        ..Options::default()
    };
    let real = packets(40, 50);
    let seen = apply(&real, end(&real), &options, &mut rng(1)).expect("applies");
    assert_eq!(seen.len(), 40);
    let of = |list: &[Seen], dir: Dir| -> Vec<Nanos> {
        let own = list.iter().filter(|p| p.dir == dir);
        own.map(|p| p.at).collect()
    };
    assert_eq!(of(&seen, Dir::BOTH[1]), of(&real, Dir::BOTH[1]));
    let (before, after) = (of(&real, Dir::BOTH[0]), of(&seen, Dir::BOTH[0]));
    let delays: Vec<u64> = before
        .iter()
        .zip(&after)
        .map(|(a, b)| b.since(*a).as_millis())
        .collect();
    assert!(delays.iter().all(|d| *d <= 400), "{delays:?}");
    assert!(delays.iter().any(|d| *d >= 200), "{delays:?}");
}

#[test]
fn drawn_machines_differ_repeat_and_scale() {
    let real = packets(200, 700);
    let run = |seed: u8, scale: f64| {
        let options = Options {
            scale,
            ..Options::default()
        };
        apply(&real, end(&real), &options, &mut rng(seed)).expect("applies")
    };
    assert_eq!(run(1, 1.0), run(1, 1.0));
    assert_ne!(run(1, 1.0), run(2, 1.0));
    let cover = |scale: f64| -> usize { (0..8).map(|s| run(s, scale).len() - 200).sum() };
    let (low, high) = (cover(0.5), cover(4.0));
    assert!(low > 100 && high > 3 * low, "{low} {high}");
    let sizes = Options::default().sizes;
    assert!(run(3, 1.0).iter().all(|p| sizes.contains(&p.size)));
}

#[test]
fn machine_files_are_read_and_faults_told() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("machines.txt");
    let drawn = draw(1.0, &mut rng(4)).expect("draws");
    let text = format!(
        "# two ends\nhome {}\n\nfar {}\n",
        drawn[0].serialize(),
        drawn[1].serialize()
    );
    std::fs::write(&path, text).expect("written");
    let back = read(&path).expect("reads");
    assert_eq!(back[0][0].name(), drawn[0].name());
    assert_eq!(back[1][0].name(), drawn[1].name());
    for (text, want) in [
        ("home 02xyz", "line 1: no machine"),
        ("02xyz", "line 1: wanted `home MACHINE`"),
        ("# nothing\n", "1 to 64 machines"),
    ] {
        std::fs::write(&path, text).expect("written");
        let e = read(&path).expect_err("refused").to_string();
        assert!(e.contains(want) && e.contains("machines.txt"), "{e}");
    }
}

#[test]
fn machines_without_pause_are_stopped() {
    let pad = Action::SendPadding {
        bypass: false,
        replace: false,
        timeout: dist(0.0),
        limit: None,
    };
    let fixed = Some([vec![machine(pad, Event::PaddingSent)], Vec::new()]);
    let options = Options {
        fixed,
        ..Options::default()
    };
    let mut none = Vec::new();
    assert_eq!(
        apply(&none, Nanos::ZERO, &options, &mut rng(1))
            .expect("empty")
            .len(),
        0
    );
    none.extend(packets(3, 10));
    let e = apply(&none, end(&none), &options, &mut rng(1)).expect_err("stopped");
    assert!(e.to_string().contains("things"), "{e}");
}
