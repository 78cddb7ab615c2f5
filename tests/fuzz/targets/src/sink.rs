//! The far end under datagrams of someone who holds the key ([`chaff_engine::Sink`]): a stolen key must not make the sink
//! an amplifier or fill its memory.
//!
//! Input: operations (see [`run`]).
//!
//! - Every datagram is in exactly one of cover, schedules and refused.
//! - No more dummies wait than the settings allow.
//! - Bytes sent never exceed the allowance and the ratio to authentic bytes received, nor the rate.
//! - What is sent is as long as a dummy may be, opens with the key, and goes to who sent the last good schedule.

use std::net::SocketAddr;

use chaff_abi::{Dir, Nanos};
use chaff_engine::schedule::{Entry, decode, encode, encoded_len};
use chaff_engine::{MAX_PAYLOAD, Sink, SinkConfig, Verdict};
use chaff_wire::{BODY_PREFIX, Key, Kind, MAX_LEN, MIN_LEN, OVERHEAD, Opener, Sealer};

use crate::Seeds;
use crate::bytes::{Bytes, push_piece};

const START: Nanos = Nanos::from_secs(1_700_000_000);

struct World {
    config: SinkConfig,
    sink: Sink,
    sealer: Sealer,
    opener: Opener,
    now: Nanos,
    authentic: u64,
    sent: u64,
    last: Option<SocketAddr>,
    buffer: Vec<u8>,
}

/// See the module. Operations: 0 time passes (2 bytes, in ms), 1 cover (body), 2 schedule of any body, 3 schedule of entries
/// (seconds since sealing, number, 6 bytes each), 4 anything (bytes), 5 the wall clock is set (seconds, signed).
pub fn run(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut world = World::new();
    while !input.is_empty() {
        match input.u8() % 6 {
            0 => world.now += Nanos::from_millis(u64::from(input.u16())),
            1 => world.send(Kind::Cover, input.piece(), 1),
            2 => {
                let body = input.piece();
                if let Ok((_, entries)) = decode(body) {
                    assert!(encoded_len(entries.count()) <= body.len());
                }
                world.send(Kind::Schedule, body, 2);
            }
            3 => {
                let (age, n) = (u64::from(input.u8()), usize::from(input.u8()));
                let entries: Vec<Entry> = (0..n)
                    .map(|_| Entry {
                        stream: input.u16(),
                        payload: input.u16(),
                        offset: Nanos::from_millis(u64::from(input.u16())),
                    })
                    .collect();
                let sealed = Nanos((START + world.now).0 - age * 1_000_000_000);
                let mut body = Vec::new();
                encode(sealed, &entries, &mut body);
                world.send(Kind::Schedule, &body, 3);
            }
            4 => world.deliver(&mut input.piece().to_vec(), 4),
            _ => {
                let by = u64::from(input.u8());
                world
                    .sink
                    .set_unix_offset(Nanos(START.0 - by * 10_000_000_000));
                world.sink.set_unix_offset(START);
                // A clock that was set back costs replays while it stands where it stood.
                world.now += Nanos::from_millis(1);
            }
        }
        world.serve();
    }
}

impl World {
    fn new() -> Self {
        let key = Key::from_bytes([9; 32]);
        let config = SinkConfig {
            ratio: 2.0,
            ratio_allowance: 3_000,
            bytes_per_second: 5_000.0,
            max_pending: 40,
            max_streams: 4,
            ..SinkConfig::default()
        };
        Self {
            sink: Sink::new(config.clone(), key.clone(), START, Nanos::ZERO),
            sealer: Sealer::new(&key, Dir::Out, 3, START),
            opener: Opener::new(&key, Dir::In),
            config,
            now: Nanos::ZERO,
            authentic: 0,
            sent: 0,
            last: None,
            buffer: vec![0; MAX_LEN],
        }
    }

    fn send(&mut self, kind: Kind, body: &[u8], from: u16) {
        let total = OVERHEAD + BODY_PREFIX + body.len();
        let unix = START + self.now;
        let Ok(bytes) = self.sealer.seal(unix, kind, body, total, &mut self.buffer) else {
            return;
        };
        let mut bytes = bytes.to_vec();
        self.deliver(&mut bytes, from);
    }

    fn deliver(&mut self, bytes: &mut [u8], from: u16) {
        let from = SocketAddr::from(([10, 0, 0, 1], from));
        let len = bytes.len() as u64;
        match self.sink.handle_datagram(self.now, from, bytes) {
            Verdict::Refused(_) => (),
            Verdict::Cover { .. } => self.authentic += len,
            Verdict::Schedule { accepted } => {
                self.authentic += len;
                if accepted > 0 {
                    self.last = Some(from);
                }
            }
        }
        let report = self.sink.report();
        let refused: u64 = report.refused.values().sum();
        let known = report.cover.packets + report.schedules.packets;
        assert_eq!(report.received.packets, known + refused);
        assert!(report.streams.len() <= self.config.max_streams + 1);
        assert!(self.sink.pending() <= self.config.max_pending);
    }

    fn serve(&mut self) {
        self.sink.handle_timeout(self.now);
        let mut buffer = [0; MAX_PAYLOAD as usize];
        while let Some(transmit) = self.sink.poll_transmit(self.now, &mut buffer) {
            let datagram = &mut buffer[..transmit.len];
            assert!((MIN_LEN..=usize::from(MAX_PAYLOAD)).contains(&transmit.len));
            assert!(transmit.due <= self.now);
            assert!(self.last.is_some());
            let opened = self.opener.open(START + self.now, datagram);
            assert_eq!(opened.map(|o| o.header.stream), Ok(transmit.stream));
            self.sent += transmit.len as u64;
        }
        let paid = self.config.ratio_allowance as f64 + self.config.ratio * self.authentic as f64;
        let seconds = 1.0 + self.now.as_secs_f64();
        assert!(self.sent as f64 <= paid, "{} for {paid}", self.sent);
        assert!(self.sent as f64 <= seconds * self.config.bytes_per_second);
        assert_eq!(self.sink.report().downlink.bytes, self.sent);
        if let Some((at, _)) = self.sink.poll_timeout() {
            assert!(at > self.now || self.sink.pending() > 0);
        }
    }
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let entries = |age: u8, n: u8| {
        let mut out = vec![3, age, n];
        for i in 0..n {
            out.extend([0, i % 3, 0, 100 + i, 0, 10 * i]);
        }
        out
    };
    let mut normal = entries(0, 5);
    for i in 0..30 {
        normal.extend([0, 0, 20, 1]);
        push_piece(&mut normal, &[i; 80]);
        if i % 10 == 0 {
            normal.extend(entries(0, 3));
        }
    }
    let mut greedy = entries(0, 200);
    greedy.extend([0, 3, 0]);
    greedy.extend(entries(0, 60));
    greedy.extend([0, 0xff, 0, 5, 70]);
    greedy.extend(entries(40, 4));
    let mut odd = vec![2];
    push_piece(&mut odd, &[0; 9]);
    odd.push(2);
    push_piece(&mut odd, &[0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 1, 2, 3]);
    odd.push(4);
    push_piece(&mut odd, &[0x77; 40]);
    vec![
        ("normal".into(), normal),
        ("greedy".into(), greedy),
        ("odd".into(), odd),
    ]
}
