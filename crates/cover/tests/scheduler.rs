//! What a scheduler promises: same seed same dummies, skipped slots and other draws change nothing, budgets hold.

use chaff_abi::{Dir, Nanos, SlotCounters};
use chaff_cover::{
    Budget, CoverError, Demand, Dummy, Generator, HEADERS_V6, Limits, Mode, NAMES, Recorded,
    Scheduler, SchedulerConfig, Window, by_name,
};
use proptest::prelude::*;
use rand::RngCore;

const SLOT: Nanos = Nanos::from_millis(100);
const EPOCH: Nanos = Nanos::from_secs(50);
const SEED: [u8; 32] = [9; 32];

fn config(label: &str) -> SchedulerConfig {
    SchedulerConfig {
        label: label.into(),
        ..SchedulerConfig::default()
    }
}

fn named(name: &str, label: &str, seed: [u8; 32]) -> Scheduler {
    let generator = by_name(name, SLOT).expect("built in");
    Scheduler::new(config(label), generator, seed, EPOCH)
}

fn plan(s: &mut Scheduler, slots: impl IntoIterator<Item = u64>, past: &Window) -> Vec<Dummy> {
    let mut out = Vec::new();
    for slot in slots {
        s.plan(slot, past, &mut out).expect("plans");
    }
    out
}

fn busy() -> SlotCounters {
    SlotCounters {
        packets: [3, 1],
        bytes: [900, 60],
        payload: [700, 20],
        ..SlotCounters::default()
    }
}

/// Wants `out` packets of 100 bytes out and two in, and draws `draws` numbers it does not use.
struct Wants {
    out: u32,
    draws: u32,
    fails: u32,
}

impl Generator for Wants {
    fn slot(&self) -> Nanos {
        SLOT
    }

    fn fill(
        &mut self,
        _past: &Window,
        rng: &mut dyn RngCore,
        out: &mut [Demand],
    ) -> Result<(), CoverError> {
        for _ in 0..self.draws {
            rng.next_u64();
        }
        if self.fails > 0 {
            self.fails -= 1;
            return Err(CoverError::Empty);
        }
        out.fill(Demand {
            packets: [self.out, 2],
            bytes: [self.out * 100, 150],
        });
        Ok(())
    }

    fn name(&self) -> &str {
        "wants"
    }
}

fn wants(out: u32, draws: u32) -> Scheduler {
    let generator = Wants {
        out,
        draws,
        fails: 0,
    };
    Scheduler::new(config("d"), Box::new(generator), SEED, EPOCH)
}

#[test]
fn equal_seeds_give_equal_dummies_and_others_do_not() {
    let idle = Window::new(1);
    for name in &NAMES[1..] {
        let run = |label, seed| plan(&mut named(name, label, seed), 0..3_000, &idle);
        let first = run("camera", SEED);
        assert!(first.len() > 500, "{name}");
        assert_eq!(run("camera", SEED), first, "{name}");
        assert_ne!(run("camerb", SEED), first, "{name}");
        assert_ne!(run("camera", [8; 32]), first, "{name}");
    }
    assert_eq!(
        plan(&mut named("none", "camera", SEED), 0..3_000, &idle),
        []
    );
}

#[test]
fn skipped_slots_change_none_of_the_others() {
    let idle = Window::new(1);
    for name in &NAMES[1..] {
        let all = plan(&mut named(name, "d", SEED), 0..2_000, &idle);
        let late: Vec<u64> = (0..2_000).filter(|s| s % 7 == 3 || s % 640 > 400).collect();
        let mut scheduler = named(name, "d", SEED);
        let some = plan(&mut scheduler, late.iter().copied(), &idle);
        let expected: Vec<_> = all
            .into_iter()
            .filter(|d| late.binary_search(&scheduler.slot_at(d.at)).is_ok())
            .collect();
        assert_eq!(some, expected, "{name}");
        let cost = scheduler.overhead();
        let span = late[late.len() - 1] + 1 - late[0];
        assert_eq!(
            (cost.slots, cost.slots + cost.skipped_slots),
            (late.len() as u64, span)
        );
    }
}

#[test]
fn real_traffic_does_not_change_the_cover() {
    let (idle, mut active) = (Window::new(4), Window::new(4));
    active.push(busy());
    for name in NAMES {
        let a = plan(&mut named(name, "d", SEED), 0..500, &idle);
        let b = plan(&mut named(name, "d", SEED), 0..500, &active);
        assert_eq!(a, b, "{name}");
    }
}

#[test]
fn a_draw_more_leaves_the_other_streams_alone() {
    let idle = Window::new(1);
    let only = |dir, d: &[Dummy]| {
        d.iter()
            .copied()
            .filter(|x| x.dir == dir)
            .collect::<Vec<_>>()
    };
    let base = plan(&mut wants(3, 0), 0..100, &idle);
    let more_out = plan(&mut wants(4, 0), 0..100, &idle);
    assert_eq!(only(Dir::In, &base), only(Dir::In, &more_out));
    assert_ne!(only(Dir::Out, &base), only(Dir::Out, &more_out));
    assert_eq!(plan(&mut wants(3, 5), 0..100, &idle), base);
}

#[test]
fn dummies_lie_in_their_slot_in_order_and_off_the_grid() {
    let idle = Window::new(1);
    let mut scheduler = wants(3, 0);
    let mut phases = [0; 5];
    for slot in 10..2_010 {
        let dummies = plan(&mut scheduler, [slot], &idle);
        let start = EPOCH + SLOT.times(slot);
        assert_eq!(scheduler.slot_start(slot).expect("in time"), start);
        assert!(dummies.is_sorted_by_key(|d| d.at));
        for d in &dummies {
            assert!(d.at >= start && d.at < start + SLOT);
            phases[((d.at.0 % 50_000_000) / 10_000_000) as usize] += 1;
        }
    }
    // 2000 each, standard deviation 40.
    assert!(
        phases.iter().all(|n| (1_800..2_200).contains(n)),
        "{phases:?}"
    );
}

#[test]
fn active_mode_covers_from_the_first_packet_until_the_tail_is_over() {
    let mut scheduler = Scheduler::new(
        SchedulerConfig {
            mode: Mode::ACTIVE,
            ..config("d")
        },
        Box::new(Wants {
            out: 3,
            draws: 0,
            fails: 0,
        }),
        SEED,
        EPOCH,
    );
    let always = plan(&mut wants(3, 0), 0..200, &Window::new(1));
    let mut past = Window::new(8);
    let mut covered = Vec::new();
    let mut dummies = Vec::new();
    for slot in 0..200 {
        let before = dummies.len();
        scheduler.plan(slot, &past, &mut dummies).expect("plans");
        if dummies.len() > before {
            covered.push(slot);
        }
        past.push(if slot == 20 || slot == 25 {
            busy()
        } else {
            SlotCounters::default()
        });
    }
    // Packets in slots 20 and 25; slot 25 ends where 26 begins, and 5 s are 50 slots.
    assert_eq!(covered, (21..76).collect::<Vec<_>>());
    let same: Vec<_> = always
        .into_iter()
        .filter(|d| covered.contains(&scheduler.slot_at(d.at)))
        .collect();
    assert_eq!(
        dummies, same,
        "the mode gates slots, it does not change them"
    );
    let cost = scheduler.overhead();
    assert_eq!((cost.inactive_slots, cost.packets()), (200 - 55, 55 * 5));
}

#[test]
fn a_failed_slot_can_be_tried_again_and_a_planned_one_cannot() {
    let idle = Window::new(1);
    let generator = Wants {
        out: 3,
        draws: 0,
        fails: 2,
    };
    let mut scheduler = Scheduler::new(config("d"), Box::new(generator), SEED, EPOCH);
    let mut out = Vec::new();
    for _ in 0..2 {
        assert!(matches!(
            scheduler.plan(5, &idle, &mut out),
            Err(CoverError::Empty)
        ));
    }
    assert!(out.is_empty() && scheduler.overhead().slots == 0);
    scheduler.plan(5, &idle, &mut out).expect("third time");
    assert_eq!(out, plan(&mut wants(3, 0), [5], &idle));
    for slot in [0, 5] {
        let got = scheduler.plan(slot, &idle, &mut out);
        assert!(
            matches!(got, Err(CoverError::SlotBack { next: 6, .. })),
            "{got:?}"
        );
    }
    let got = scheduler.plan(u64::MAX / 2, &idle, &mut out);
    assert!(matches!(got, Err(CoverError::SlotTime { .. })), "{got:?}");
    assert_eq!(out.len(), 5);
}

#[test]
fn a_recording_repeats_row_by_row_also_after_a_gap() {
    let rows: Vec<Demand> = (1..=3)
        .map(|n| Demand {
            packets: [n, 0],
            bytes: [n * 100, 0],
        })
        .collect();
    let generator = Recorded::new(SLOT, rows).expect("has rows");
    let mut scheduler = Scheduler::new(config("d"), Box::new(generator), SEED, EPOCH);
    let mut counts = Vec::new();
    for slot in [0, 1, 2, 3, 10, 11, 300] {
        let dummies = plan(&mut scheduler, [slot], &Window::new(1));
        let bytes: u32 = dummies.iter().map(|d| u32::from(d.payload)).sum();
        assert_eq!(bytes, 100 * dummies.len() as u32);
        counts.push(dummies.len());
    }
    assert_eq!(counts, [1, 2, 3, 1, 2, 3, 1]);
    assert!(matches!(
        Recorded::new(SLOT, vec![]),
        Err(CoverError::Empty)
    ));
}

#[test]
fn headers_and_real_bytes_are_accounted() {
    let mut scheduler = Scheduler::new(
        SchedulerConfig {
            header_bytes: HEADERS_V6,
            ..config("d")
        },
        Box::new(Wants {
            out: 3,
            draws: 0,
            fails: 0,
        }),
        SEED,
        EPOCH,
    );
    let mut past = Window::new(1);
    past.push(busy());
    past.push(busy());
    let dummies = plan(&mut scheduler, 0..10, &past);
    assert_eq!(dummies.len(), 50);
    let cost = scheduler.overhead();
    let [out, back] = cost.by_dir;
    assert_eq!(
        (out.packets, out.payload_bytes, out.ip_bytes),
        (30, 3_000, 3_000 + 30 * 48)
    );
    assert_eq!(
        (back.packets, back.payload_bytes, back.ip_bytes),
        (20, 1_500, 1_500 + 20 * 48)
    );
    assert_eq!((out.real_packets, out.real_ip_bytes), (6, 1_800));
    assert_eq!(
        (cost.real_ip_bytes(), cost.ratio()),
        (1_920, Some(6_900.0 / 1_920.0))
    );
}

proptest! {
    #[test]
    fn a_budget_is_never_exceeded_and_what_it_costs_is_counted(
        rate in 0u64..20_000, burst in 0u64..5_000, most in 1u32..20, seed in any::<[u8; 32]>(),
    ) {
        let config = SchedulerConfig {
            budget: Some(Budget { bytes_per_second: rate, burst_bytes: burst }),
            limits: Limits { max_packets_per_slot: most, ..Limits::default() },
            ..config("d")
        };
        let generator = by_name("constant", SLOT).expect("built in");
        let mut limited = Scheduler::new(config.clone(), generator, seed, EPOCH);
        let dummies = plan(&mut limited, 0..100, &Window::new(1));
        let generator = by_name("constant", SLOT).expect("built in");
        let free = SchedulerConfig { budget: None, ..config };
        let all = plan(&mut Scheduler::new(free, generator, seed, EPOCH), 0..100, &Window::new(1));

        // What leaves is a part of what would leave without a budget.
        let mut rest = all.iter();
        prop_assert!(dummies.iter().all(|d| rest.any(|a| a == d)));
        let cost = limited.overhead();
        let dropped: u64 = cost.by_dir.iter().map(|d| d.budget_packets).sum();
        prop_assert_eq!(cost.packets(), dummies.len() as u64);
        prop_assert_eq!(cost.packets() + dropped, all.len() as u64);
        // Any stretch of time holds at most the burst and what the rate gives meanwhile.
        for from in 0..dummies.len() {
            let mut bytes = 0;
            for d in &dummies[from..] {
                bytes += u64::from(d.payload) + 28;
                let time = d.at - dummies[from].at;
                prop_assert!(u128::from(bytes) * 1_000_000_000 <= u128::from(burst) * 1_000_000_000 + u128::from(rate) * u128::from(time.0));
            }
        }
    }
}
