use super::*;
use chaff_abi::Sample;

const SYN: u16 = 2;
const ACK: u16 = 16;

struct Scene {
    watch: Watch,
    port: u16,
}

impl Scene {
    fn new(learn: u64) -> Self {
        let config = AlertConfig {
            learn: Nanos::from_secs(learn),
            ..AlertConfig::default()
        };
        let labels = vec!["home".to_owned(), "cam".to_owned()];
        let watch = Watch::new(config, labels, b"", Nanos::ZERO).expect("nothing stored");
        Self {
            watch,
            port: 40_000,
        }
    }

    fn key(&self, last: u8, port: u16) -> FlowKey {
        FlowKey {
            src: FlowKey::mapped([192, 168, 1, 2]),
            dst: FlowKey::mapped([198, 51, 100, last]),
            src_port: self.port.to_be_bytes(),
            dst_port: port.to_be_bytes(),
            protocol: 6,
            version: 4,
            ..FlowKey::default()
        }
    }

    /// One connection, all of it in one second.
    fn connect(&mut self, at: f64, last: u8, port: u16, sent: u32, answered: bool) {
        self.port = if self.port > 60_000 {
            40_000
        } else {
            self.port + 1
        };
        let at = Nanos::from_secs_f64(at);
        let (mut out, mut back) = (Counters::EMPTY, Counters::EMPTY);
        let sample = |bytes, flags| Sample {
            wire: bytes + 14,
            bytes,
            payload: bytes.saturating_sub(40),
            segments: 1,
            tcp_flags: flags,
        };
        out.add(at, sample(60, SYN));
        if answered {
            let later = at + Nanos::from_millis(20);
            back.add(later, sample(60, SYN | ACK));
            for _ in 0..sent.div_ceil(1_400) {
                out.add(later, sample(sent.min(1_400), ACK));
            }
            back.add(later, sample(500, ACK));
        }
        let key = self.key(last, port);
        self.watch.observe(at, 1, &key, [&out, &back]);
    }

    /// What a small device does from second `from` to `to`: something to its server every 20 s, a name every minute.
    fn habits(&mut self, from: u64, to: u64) {
        for s in from..to {
            let at = s as f64;
            if s % 20 == 0 {
                self.connect(at + (s % 7) as f64 / 50.0, 1, 443, 700, true);
            }
            if s % 60 == 31 {
                self.connect(at, 53, 53, 60, true);
            }
            self.watch.look(Nanos::from_secs(s));
        }
    }

    fn alerts(&mut self) -> Vec<Alert> {
        std::iter::from_fn(|| self.watch.poll()).collect()
    }
}

#[test]
fn habits_are_no_news_for_a_day() {
    let mut s = Scene::new(600);
    s.habits(0, 86_400);
    assert_eq!(s.alerts(), []);
    assert_eq!(s.watch.learnt(Nanos::from_secs(86_400)), [1, 1]);
}

#[test]
fn a_scan_of_ports_is_told_once_while_it_runs() {
    let mut s = Scene::new(600);
    s.habits(0, 900);
    for i in 0..600u16 {
        s.connect(900.0 + f64::from(i) * 0.05, 7, 1 + i, 0, false);
    }
    let found = s.alerts();
    assert_eq!(found.len(), 1, "{found:?}");
    let a = &found[0];
    assert!(a.at.0 < Nanos::from_secs(905), "{a:?}");
    assert_eq!((a.device.as_str(), a.severity), ("cam", Severity::High));
    assert!(a.summary.contains("ports within"), "{}", a.summary);
    assert!(
        a.evidence
            .iter()
            .any(|e| e.feature == "ports_tried" && e.value >= 8.0)
    );
    assert!(s.watch.suppressed() > 0);
}

#[test]
fn calls_by_a_clock_of_a_new_peer_are_told_within_30_s() {
    for period in [2.0, 5.0, 9.0] {
        let mut s = Scene::new(600);
        s.habits(0, 900);
        let mut at = 900.0;
        while at < 960.0 {
            s.connect(at + (at as u64 % 5) as f64 * 0.004, 200, 4_444, 100, true);
            at += period;
        }
        let found = s.alerts();
        assert_eq!(found.len(), 1, "{period}: {found:?}");
        assert!(found[0].at.0 <= Nanos::from_secs(930), "{found:?}");
        let Novelty::Beacon { period_s, port, .. } = found[0].novelty else {
            panic!("{found:?}");
        };
        assert!((period_s - period).abs() < 0.1 && port == 4_444);
    }
}

#[test]
fn a_new_server_that_is_called_by_chance_is_no_beacon() {
    let mut s = Scene::new(600);
    s.habits(0, 900);
    for at in [900.0, 902.0, 909.0, 911.5, 930.0, 931.0, 950.0] {
        s.connect(at, 200, 443, 700, true);
    }
    assert_eq!(s.alerts(), []);
}

#[test]
fn an_upload_far_above_habits_is_told_with_its_target() {
    let mut s = Scene::new(600);
    s.habits(0, 3_000);
    for i in 0..20 {
        s.connect(3_000.0 + f64::from(i), 99, 443, 500_000, true);
    }
    let found = s.alerts();
    let a = found
        .iter()
        .find(|a| matches!(a.novelty, Novelty::Rate { .. }))
        .expect("an alert");
    assert!(a.at.0 <= Nanos::from_secs(3_020), "{a:?}");
    assert!(
        a.summary.contains("most of it to 198.51.100.99"),
        "{}",
        a.summary
    );
    assert!(a.severity >= Severity::Medium);
}

#[test]
fn what_the_owner_calls_normal_is_not_told_again() {
    let mut s = Scene::new(600);
    s.habits(0, 900);
    let upload = |s: &mut Scene, from: u64| {
        for i in 0..10 {
            s.connect((from + i) as f64, 99, 443, 400_000, true);
        }
        s.alerts()
    };
    let first = upload(&mut s, 900);
    assert!(!first.is_empty());
    for a in &first {
        assert_eq!(s.watch.accept(a.id), Ok(a.summary.clone()));
    }
    // The alert came early; what is normal is the whole of it, in windows of both lengths.
    s.habits(910, 40_000);
    assert_eq!(upload(&mut s, 40_000), []);
    assert!(matches!(
        s.watch.accept(77),
        Err(AcceptError::Unknown { id: 77, .. })
    ));
}

#[test]
fn what_was_learnt_survives_a_restart_on_another_clock() {
    let mut s = Scene::new(600);
    s.habits(0, 900);
    for i in 0..40u8 {
        s.connect(900.0, i, 23, 0, false);
    }
    s.watch.look(Nanos::from_secs(902));
    let id = s.alerts()[0].id;
    let stored = s.watch.store(Nanos::from_secs(902));
    check_history(&stored).expect("readable");
    let config = s.watch.config.clone();
    let labels = s.watch.labels.clone();
    s.watch = Watch::new(config.clone(), labels, &stored, Nanos::from_secs(5)).expect("readable");
    assert!(s.watch.accept(id).is_ok());
    s.habits(5, 400);
    assert_eq!(s.alerts(), []);
    for i in 0..600u16 {
        s.connect(400.0 + f64::from(i) * 0.01, 7, 1 + i, 0, false);
    }
    assert!(
        s.alerts().iter().any(|a| a.id > id),
        "learning is over already"
    );
    // A device that is gone keeps its profile for when it comes back.
    let other = vec!["home".to_owned(), "plug".to_owned()];
    let w = Watch::new(config, other, &stored, Nanos::ZERO).expect("readable");
    assert_eq!(w.store(Nanos::ZERO).len(), stored.len());
}

#[test]
fn damaged_histories_are_refused_and_never_panic() {
    let mut s = Scene::new(600);
    s.habits(0, 100);
    let stored = s.watch.store(Nanos::from_secs(100));
    for bad in [
        &b"{"[..],
        b"[]",
        b"{}",
        b"{\"version\":7}",
        b"{\"version\":2}",
        b"{\"cam\":{\"learnt\":5,\"peers\":[],\"busiest\":3}}",
    ] {
        let e = check_history(bad).expect_err("damaged");
        assert!(!e.is_empty());
    }
    for cut in (0..stored.len()).step_by(97) {
        assert!(check_history(&stored[..cut]).is_err() || cut == 0);
    }
    let text = String::from_utf8(stored).expect("JSON");
    let bad = text.replacen("0.0", "-1.0", 1);
    assert!(check_history(bad.as_bytes()).is_err());
}

#[test]
fn memory_is_bounded_under_a_flood() {
    let mut s = Scene::new(10);
    s.habits(0, 60);
    for i in 0..200_000u64 {
        s.connect(
            60.0 + i as f64 / 10_000.0,
            (i % 250) as u8,
            (i % 60_000) as u16,
            0,
            false,
        );
    }
    assert!(s.watch.skipped() > 0);
    let alerts = s.alerts();
    assert!((1..=10).contains(&alerts.len()), "{}", alerts.len());
    assert!(s.watch.store(Nanos::from_secs(80)).len() < 200_000);
}
