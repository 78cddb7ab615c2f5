use super::worker::WINDOW;
use super::*;
use crate::sys_net::open_cover_socket;

fn pair() -> (InjectorOptions, UdpSocket) {
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let local = "127.0.0.1:0".parse().unwrap();
    let socket = open_cover_socket(local, sink.local_addr().unwrap(), 0).unwrap();
    (InjectorOptions::new(socket), sink)
}

fn receive(sink: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let n = sink.recv(&mut buffer).unwrap();
    buffer[..n].to_vec()
}

#[test]
fn sends_in_order_of_due_time_and_never_early() {
    let (options, sink) = pair();
    let injector = Injector::spawn(options).unwrap();
    let start = monotonic() + Nanos::from_millis(20);
    // The first to arrive is the last due: each later submission must wake the sleeping thread for itself.
    for i in (0..10u8).rev() {
        let at = start + Nanos::from_millis(u64::from(i) * 2);
        injector.submit(at, &[i; 40]).unwrap();
    }
    for i in 0..10u8 {
        assert_eq!(receive(&sink), vec![i; 40]);
        assert!(monotonic() >= start + Nanos::from_millis(u64::from(i) * 2));
    }
    // Counted only after the call returns, so stop first.
    let stats = injector.stop();
    assert_eq!(
        (stats.sent, stats.sent_bytes, stats.waiting, stats.errors),
        (10, 400, 0, 0)
    );
}

#[test]
fn an_earlier_datagram_wakes_a_long_sleep() {
    let (options, sink) = pair();
    let injector = Injector::spawn(options).unwrap();
    injector
        .submit(monotonic() + Nanos::from_secs(3600), b"later")
        .unwrap();
    injector.submit(monotonic(), b"now").unwrap();
    assert_eq!(receive(&sink), b"now");
    let stats = injector.stop();
    assert_eq!(
        (stats.sent, stats.dropped_stopped, stats.waiting),
        (1, 1, 0)
    );
}

#[test]
fn what_is_too_late_is_dropped_and_not_burst_out() {
    let (mut options, _sink) = pair();
    options.max_batch = 4;
    let injector = Injector::spawn(options).unwrap();
    let now = monotonic();
    for _ in 0..50 {
        injector
            .submit(now - Nanos::from_secs(2), b"stale")
            .unwrap();
    }
    for _ in 0..20 {
        injector
            .submit(now - Nanos::from_millis(5), b"backlog")
            .unwrap();
    }
    while injector.stats().waiting > 0 {
        thread::yield_now();
    }
    let took = monotonic() - now;
    let lateness = injector.lateness();
    let stats = injector.stop();
    assert_eq!((stats.dropped_late, stats.sent, stats.late), (50, 20, 20));
    assert!(stats.batches >= 5, "{stats:?}");
    // Four datagrams per window: the fifth window starts at least four after the first, which may have begun before.
    assert!(took >= WINDOW.times(3), "{took}");
    assert_eq!(lateness.len(), 20);
    assert!(lateness.min() >= 4_900_000);
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let (mut options, _sink) = pair();
    options.queue = 3;
    let injector = Injector::spawn(options).unwrap();
    let at = monotonic() + Nanos::from_secs(60);
    for _ in 0..3 {
        injector.submit(at, b"x").unwrap();
    }
    assert_eq!(injector.submit(at, b"x"), Err(SubmitError::Full));
    assert_eq!(
        injector.submit(at, &[0; 65_508]),
        Err(SubmitError::TooLong(65_508))
    );
    let stats = injector.stop();
    assert_eq!((stats.dropped_full, stats.dropped_stopped), (1, 3));
}

#[test]
fn a_pause_drops_what_comes_due_and_ends() {
    let (options, sink) = pair();
    let injector = Injector::spawn(options).unwrap();
    injector.pause();
    for _ in 0..5 {
        injector.submit(monotonic(), b"hidden").unwrap();
    }
    while injector.stats().dropped_paused < 5 {
        thread::yield_now();
    }
    injector.resume();
    injector.submit(monotonic(), b"seen").unwrap();
    assert_eq!(receive(&sink), b"seen");
    assert!(!injector.is_paused());
}

#[test]
fn a_closed_sink_is_an_error_count_and_nothing_more() {
    let (options, sink) = pair();
    drop(sink);
    let injector = Injector::spawn(options).unwrap();
    for i in 0..20 {
        let at = monotonic() + Nanos::from_millis(i);
        injector.submit(at, b"nobody there").unwrap();
    }
    while injector.stats().waiting > 0 {
        thread::yield_now();
    }
    let stats = injector.stop();
    assert_eq!(stats.sent + stats.errors, 20, "{stats:?}");
    assert!(stats.errors > 0);
}

#[test]
fn many_submitters_lose_nothing() {
    let (mut options, _sink) = pair();
    options.queue = 10_000;
    let injector = Injector::spawn(options).unwrap();
    thread::scope(|scope| {
        for t in 0..4u64 {
            let injector = &injector;
            scope.spawn(move || {
                for i in 0..500u64 {
                    let at = monotonic() + Nanos::from_micros((i * 7919 + t) % 20_000);
                    injector.submit(at, &[t as u8; 24]).unwrap();
                }
            });
        }
    });
    // Counted here and not at the sink, whose buffer may overflow on a busy machine.
    while injector.stats().waiting > 0 {
        thread::yield_now();
    }
    let stats = injector.stop();
    assert_eq!((stats.sent, stats.sent_bytes), (2000, 48_000));
}
