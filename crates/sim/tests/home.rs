//! A home in virtual time: gateway and sink agree on every datagram, whatever the link does.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use chaff_abi::{Dir, Mac, Nanos};
use chaff_cover::{Constant, Generator};
use chaff_engine::{Config, Device, Event, Gateway, Parts, Sink, SinkConfig, Verdict};
use chaff_sim::frame::Path;
use chaff_sim::nodes::{GatewayNode, LAN, SinkNode, Source, WAN};
use chaff_sim::{Link, Sim};
use chaff_wire::Key;

const UNIX: Nanos = Nanos::from_secs(1_700_000_000);

fn path() -> Path {
    Path {
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        dst_mac: Mac([2, 0, 0, 0, 0, 2]),
        src: SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 40_000),
        dst: SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 2), 4_789),
    }
}

struct Home {
    gateway: Rc<RefCell<Gateway>>,
    sink: Rc<RefCell<Sink>>,
    seen: Rc<RefCell<Vec<(Nanos, usize, bool)>>>,
    slots: Vec<(u64, u32, [u32; 2], [u32; 2])>,
    flows: Vec<u64>,
}

/// 10 s of a device that sends 50 packets a second and gets half as many back.
fn real(dir: Dir) -> impl Iterator<Item = (Nanos, Vec<u8>)> {
    let every = if dir == Dir::Out { 1 } else { 2 };
    let device = Path {
        src_mac: Mac([2, 0, 0x5e, 0x10, 0, 1]),
        dst_mac: Mac([2, 0, 0x5e, 0x10, 0, 9]),
        src: SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, 2), 5_000),
        dst: SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 443),
    };
    let device = if dir == Dir::Out {
        device
    } else {
        device.reversed()
    };
    (0..500u64).filter(move |i| i % every == 0).map(move |i| {
        let mut frame = Vec::new();
        device.build(&vec![0xab; 20 + (i as usize * 37) % 900], &mut frame);
        (Nanos::from_millis(1_000 + i * 20), frame)
    })
}

fn run(seed: u8, link: Link, seconds: u64) -> Home {
    let key = Key::from_bytes([9; 32]);
    let config = Config {
        devices: vec![Device {
            label: "cam".into(),
            mac: Some(Mac([2, 0, 0x5e, 0x10, 0, 1])),
            ip: vec![],
            cover: true,
        }],
        unix_offset: UNIX,
        ..Config::default()
    };
    let generators: Vec<Box<dyn Generator>> = vec![Box::new(Constant::default())];
    let parts = Parts {
        key: Some(key.clone()),
        generators,
        releases: None,
        history: vec![],
    };
    let gateway = Gateway::new(config, parts, [seed; 32], Nanos::ZERO).expect("valid");
    let gateway = Rc::new(RefCell::new(gateway));
    let sink = Rc::new(RefCell::new(Sink::new(
        SinkConfig::default(),
        key,
        UNIX,
        Nanos::ZERO,
    )));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let mut sim = Sim::new(u64::from(seed));
    let devices = sim.add("devices", Box::new(Source::new(real(Dir::Out))));
    let servers = sim.add("servers", Box::new(Source::new(real(Dir::In))));
    let gw = sim.add(
        "gateway",
        Box::new(GatewayNode::new(
            Rc::clone(&gateway),
            path(),
            Box::new(|_| {}),
        )),
    );
    let note = Rc::clone(&seen);
    let on_datagram = Box::new(move |now, len, v| {
        note.borrow_mut()
            .push((now, len, matches!(v, Verdict::Cover { .. })))
    });
    let far = sim.add(
        "sink",
        Box::new(SinkNode::new(
            Rc::clone(&sink),
            path(),
            on_datagram,
            Box::new(|_| {}),
        )),
    );
    sim.connect((devices, 0), (gw, LAN), Link::default());
    sim.connect((gw, WAN), (far, 0), link);
    sim.connect((far, 1), (servers, 0), Link::default());
    let end = Nanos::from_secs(seconds);
    sim.run_until(end);
    gateway.borrow_mut().finish(end);
    let (mut slots, mut flows) = (Vec::new(), Vec::new());
    while let Some(event) = gateway.borrow_mut().poll_event() {
        match event {
            Event::Slot(s) => slots.push((s.slot, s.device, s.cover.packets, s.cover.bytes)),
            Event::Flow(r) => flows.push(r.packets()),
            Event::Alert(_) | Event::NewDevice(_) => {}
        }
    }
    Home {
        gateway,
        sink,
        seen,
        slots,
        flows,
    }
}

#[test]
fn every_dummy_arrives_is_authentic_and_is_counted_once() {
    let home = run(
        1,
        Link {
            delay: Nanos::from_millis(20),
            ..Link::default()
        },
        20,
    );
    let (g, s) = (
        home.gateway.borrow().report(),
        home.sink.borrow().report().clone(),
    );
    assert!(s.cover.packets > 100, "{s:?}");
    assert!(s.refused.is_empty() && g.refused.is_empty(), "{s:?}");
    assert_eq!(s.received.packets, s.cover.packets + s.schedules.packets);
    assert!(
        s.downlink.packets > 50 && s.downlink_dropped.is_empty(),
        "{s:?}"
    );
    assert!(
        g.downlink.packets <= s.downlink.packets && g.downlink.packets + 5 > s.downlink.packets
    );
    assert_eq!((g.seen, g.metered), (750, 750));
    assert_eq!(home.flows, vec![750]);
    assert_eq!(g.slots_missed, 0);
}

#[test]
fn the_same_seed_gives_the_same_datagrams_and_another_seed_others() {
    let (a, b, c) = (
        run(1, Link::default(), 12),
        run(1, Link::default(), 12),
        run(2, Link::default(), 12),
    );
    assert_eq!(*a.seen.borrow(), *b.seen.borrow());
    assert_eq!(a.slots, b.slots);
    assert_ne!(*a.seen.borrow(), *c.seen.borrow());
}

#[test]
fn loss_on_the_link_loses_cover_but_no_real_packet_is_uncounted() {
    let home = run(
        3,
        Link {
            loss: 0.3,
            ..Link::default()
        },
        15,
    );
    let (g, s) = (
        home.gateway.borrow().report(),
        home.sink.borrow().report().clone(),
    );
    let arrived = s.cover.packets as f64 / g.cover.packets as f64;
    assert!((0.6..0.8).contains(&arrived), "{arrived}");
    assert!(
        g.seen >= 500,
        "every frame from the device is seen: {}",
        g.seen
    );
    assert_eq!(home.flows.iter().sum::<u64>(), g.metered);
}

#[test]
fn downlink_cover_ends_when_the_gateway_goes_silent() {
    let home = run(4, Link::default(), 10);
    home.gateway.borrow_mut().set_paused(true);
    let before = home.sink.borrow().report().downlink.packets;
    let mut sink = home.sink.borrow_mut();
    let mut buf = [0; 2_048];
    let mut now = Nanos::from_secs(10);
    while let Some((at, _)) = sink.poll_timeout() {
        now = now.max(at);
        sink.handle_timeout(now);
        while sink.poll_transmit(now, &mut buf).is_some() {}
        assert!(now < Nanos::from_secs(16), "still sending");
    }
    assert!(sink.report().downlink.packets - before < 200);
    assert_eq!(sink.pending(), 0);
}

#[test]
fn forged_and_replayed_datagrams_are_refused_silently() {
    let key = Key::from_bytes([9; 32]);
    let mut sink = Sink::new(SinkConfig::default(), key.clone(), UNIX, Nanos::ZERO);
    let mut sealer = chaff_wire::Sealer::new(&key, Dir::Out, 7, UNIX);
    let from = "192.0.2.1:1".parse().expect("an address");
    let mut buf = [0; 200];
    let sealed = sealer
        .seal(UNIX, chaff_wire::Kind::Cover, &[], 120, &mut buf)
        .expect("seals")
        .to_vec();
    assert!(matches!(
        sink.handle_datagram(Nanos(1), from, &mut sealed.clone()),
        Verdict::Cover { stream: 7, .. }
    ));
    assert!(matches!(
        sink.handle_datagram(Nanos(2), from, &mut sealed.clone()),
        Verdict::Refused(_)
    ));
    for bit in 0..sealed.len() * 8 {
        let mut forged = sealed.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            matches!(
                sink.handle_datagram(Nanos(3), from, &mut forged),
                Verdict::Refused(_)
            ),
            "bit {bit}"
        );
    }
    for cut in 0..sealed.len() {
        let mut cut = sealed[..cut].to_vec();
        assert!(matches!(
            sink.handle_datagram(Nanos(4), from, &mut cut),
            Verdict::Refused(_)
        ));
    }
    assert_eq!(sink.poll_transmit(Nanos::from_secs(1), &mut buf), None);
    assert_eq!(sink.report().cover.packets, 1);
}

#[test]
fn cover_goes_on_after_the_clock_was_set_back() {
    let home = run(5, Link::default(), 10);
    let (mut gateway, mut sink) = (home.gateway.borrow_mut(), home.sink.borrow_mut());
    let before = sink.report().cover.packets;
    let back = UNIX - Nanos::from_secs(7_200);
    gateway.set_unix_offset(back);
    sink.set_unix_offset(back);
    let from = "10.99.0.1:40000".parse().expect("an address");
    let mut buf = [0; 2_048];
    for s in 11..41 {
        gateway.handle_timeout(Nanos::from_secs(s));
        while let Some(t) = gateway.poll_transmit(&mut buf) {
            let verdict = sink.handle_datagram(t.at, from, &mut buf[..t.len]);
            assert!(!matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
        }
    }
    assert!(sink.report().cover.packets > before + 20);
}

/// A sink, and a sealer of its gateway.
fn sink_and_sealer() -> (Sink, chaff_wire::Sealer) {
    let key = Key::from_bytes([9; 32]);
    let sealer = chaff_wire::Sealer::new(&key, Dir::Out, 7, UNIX);
    (
        Sink::new(SinkConfig::default(), key, UNIX, Nanos::ZERO),
        sealer,
    )
}

/// A sealed schedule of one dummy of 100 bytes at `offset`.
fn schedule(sealer: &mut chaff_wire::Sealer, at: Nanos, offset: Nanos) -> Vec<u8> {
    let entry = chaff_engine::schedule::Entry {
        stream: 7,
        payload: 100,
        offset,
    };
    let mut body = Vec::new();
    chaff_engine::schedule::encode(UNIX + at, &[entry], &mut body);
    let mut buf = [0; 200];
    sealer
        .seal(UNIX + at, chaff_wire::Kind::Schedule, &body, 120, &mut buf)
        .expect("seals")
        .to_vec()
}

#[test]
fn captured_datagrams_from_elsewhere_do_not_move_the_target_or_the_lease() {
    let (mut sink, mut sealer) = sink_and_sealer();
    let gateway = "192.0.2.1:1".parse().expect("an address");
    let attacker = "203.0.113.9:9".parse().expect("an address");
    let mut buf = [0; 2_048];
    let mut cover = sealer
        .seal(UNIX, chaff_wire::Kind::Cover, &[], 120, &mut buf)
        .expect("seals")
        .to_vec();
    let mut older = schedule(&mut sealer, Nanos::ZERO, Nanos::from_secs(3));
    let at = Nanos::from_secs(1);
    let mut newer = schedule(&mut sealer, at, Nanos::from_secs(9));
    let mut first = schedule(&mut sealer, at, Nanos::from_secs(2));
    let verdict = sink.handle_datagram(at, gateway, &mut newer);
    assert_eq!(verdict, Verdict::Schedule { accepted: 1 });
    sink.handle_datagram(at, gateway, &mut first);
    let now = Nanos::from_secs(3);
    let verdict = sink.handle_datagram(now, attacker, &mut cover);
    assert!(matches!(verdict, Verdict::Cover { .. }), "{verdict:?}");
    let sent = sink.poll_transmit(now, &mut buf).expect("due");
    assert_eq!(sent.to, gateway, "after cover from elsewhere");
    sink.handle_datagram(now, attacker, &mut older);
    while let Some(t) = sink.poll_transmit(Nanos::from_secs(6), &mut buf) {
        assert_eq!(t.to, gateway, "after an older schedule from elsewhere");
    }
    sink.handle_timeout(Nanos::from_secs(6));
    assert_eq!(sink.pending(), 0, "the lease ran out 5 s after the newest");
    assert_eq!(sink.report().leases_ended, 1);
    assert_eq!(sink.report().downlink.packets, 2);
}

#[test]
fn late_dummies_are_dropped_and_unsent_ones_not_counted() {
    let (mut sink, mut sealer) = sink_and_sealer();
    let gateway = "192.0.2.1:1".parse().expect("an address");
    let mut buf = [0; 2_048];
    for ms in [100, 2_000] {
        let mut s = schedule(&mut sealer, Nanos::ZERO, Nanos::from_millis(ms));
        sink.handle_datagram(Nanos::ZERO, gateway, &mut s);
    }
    let t = sink.poll_transmit(Nanos::from_secs(2), &mut buf);
    let t = t.expect("the second is in time");
    assert_eq!(sink.report().downlink_dropped.get("late"), Some(&1));
    assert_eq!(sink.report().downlink.packets, 1);
    sink.note_unsent(t.len);
    assert_eq!(sink.report().downlink.bytes, 0);
}

#[test]
fn downlink_credit_does_not_pile_up_and_bad_schedules_are_counted() {
    let key = Key::from_bytes([9; 32]);
    let config = SinkConfig {
        ratio_allowance: 100,
        bytes_per_second: 100.0,
        lease: Nanos::from_secs(1),
        ..SinkConfig::default()
    };
    let mut sink = Sink::new(config, key.clone(), UNIX, Nanos::ZERO);
    let mut sealer = chaff_wire::Sealer::new(&key, Dir::Out, 7, UNIX);
    let gateway = "192.0.2.1:1".parse().expect("an address");
    let mut buf = [0; 2_048];
    // 100 datagrams would pay for 480 dummies; the credit holds two.
    for _ in 0..100 {
        let sealed = sealer
            .seal(UNIX, chaff_wire::Kind::Cover, &[], 120, &mut buf)
            .expect("seals");
        sink.handle_datagram(Nanos::ZERO, gateway, &mut sealed.to_vec());
    }
    for s in 1..=6 {
        let at = Nanos::from_secs(s);
        if s == 1 {
            for i in 0..6 {
                let mut d = schedule(&mut sealer, at, Nanos::from_secs(i));
                sink.handle_datagram(at, gateway, &mut d);
            }
        }
        while sink.poll_transmit(at, &mut buf).is_some() {}
    }
    assert_eq!(sink.report().downlink.packets, 2);
    assert_eq!(sink.report().downlink_dropped.get("ratio"), Some(&4));
    let sealed = sealer
        .seal(UNIX, chaff_wire::Kind::Schedule, &[1], 120, &mut buf)
        .expect("seals");
    sink.handle_datagram(Nanos::from_secs(7), gateway, &mut sealed.to_vec());
    assert_eq!(sink.report().downlink_dropped.get("malformed"), Some(&1));
}
