//! Attack traffic made by this project: frames of a home device that was taken over, and of what it talks to. Not an
//! example by itself; `quality` includes it.
#![allow(dead_code, reason = "included by other examples")]

use rand::RngCore;

/// Time in nanoseconds and an Ethernet frame.
pub(crate) type Frame = (u64, Vec<u8>);

/// The names of all attacks.
pub(crate) const NAMES: [&str; 13] = [
    "telnet-scan",
    "port-scan",
    "slow-scan",
    "udp-scan",
    "syn-flood",
    "udp-flood",
    "http-flood",
    "beacon-10s",
    "beacon-60s",
    "dns-tunnel",
    "ssh-guessing",
    "telnet-guessing",
    "exfiltration",
];

const SYN: u8 = 2;
const ACK: u8 = 16;
const PUSH: u8 = 8;
const FIN: u8 = 1;
const RST: u8 = 4;

struct Scene<'r> {
    rng: &'r mut dyn RngCore,
    frames: Vec<Frame>,
}

#[derive(Clone, Copy)]
struct End {
    ip: [u8; 4],
    port: u16,
}

impl Scene<'_> {
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.rng.next_u64()) * u128::from(n)) >> 64) as u64
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 53) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed, seconds.
    fn pause(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    fn ephemeral(&mut self) -> u16 {
        32_768 + self.below(28_000) as u16
    }

    fn stranger(&mut self) -> [u8; 4] {
        let b = self.below(1 << 32) as u32;
        let [_, x, y, z] = b.to_be_bytes();
        [[23, 45, 91, 103, 185, 203][self.below(6) as usize], x, y, z]
    }

    fn tcp(&mut self, at: f64, from: End, to: End, flags: u8, payload: usize) {
        let syn = flags & SYN != 0;
        let options = if syn { 20 } else { 12 };
        let mut l4 = Vec::with_capacity(20 + options + payload);
        l4.extend(from.port.to_be_bytes());
        l4.extend(to.port.to_be_bytes());
        l4.extend([0; 8]);
        l4.push((((20 + options) / 4) << 4) as u8);
        l4.push(flags);
        l4.extend([0xfa, 0xf0, 0, 0, 0, 0]);
        l4.resize(20 + options, 1);
        l4.resize(20 + options + payload, 0x41);
        self.ip(at, from.ip, to.ip, 6, &l4);
    }

    fn udp(&mut self, at: f64, from: End, to: End, payload: usize) {
        let mut l4 = Vec::with_capacity(8 + payload);
        l4.extend(from.port.to_be_bytes());
        l4.extend(to.port.to_be_bytes());
        l4.extend(((8 + payload) as u16).to_be_bytes());
        l4.extend([0, 0]);
        l4.resize(8 + payload, 0x41);
        self.ip(at, from.ip, to.ip, 17, &l4);
    }

    fn ip(&mut self, at: f64, from: [u8; 4], to: [u8; 4], protocol: u8, l4: &[u8]) {
        let mut f = vec![2, 0, 0x5e, 0, 0, 1, 2, 0, 0x5e, 0, 0, 2, 8, 0, 0x45, 0];
        f.extend(((20 + l4.len()) as u16).to_be_bytes());
        f.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        f.extend(from);
        f.extend(to);
        f.extend(l4);
        f.resize(f.len().max(60), 0);
        self.frames
            .push((1_600_000_000_000_000_000 + (at * 1e9) as u64, f));
    }

    /// A connection that says `said`, each time (from the opener, bytes), one round trip each; when it has ended.
    fn connection(&mut self, at: f64, a: End, b: End, rtt: f64, said: &[(bool, usize)]) -> f64 {
        let mut t = at;
        self.tcp(t, a, b, SYN, 0);
        t += rtt;
        self.tcp(t, b, a, SYN | ACK, 0);
        self.tcp(t + 0.0003, a, b, ACK, 0);
        t += 0.001;
        for &(out, bytes) in said {
            let (x, y) = if out { (a, b) } else { (b, a) };
            let mut left = bytes;
            while left > 0 {
                let n = left.min(1448);
                self.tcp(t, x, y, ACK | PUSH, n);
                t += 0.0002 + self.pause(0.0002);
                left -= n;
            }
            t += rtt * (1.0 + 0.2 * self.unit());
            self.tcp(t, y, x, ACK, 0);
        }
        self.tcp(t, a, b, FIN | ACK, 0);
        t += rtt;
        self.tcp(t, b, a, FIN | ACK, 0);
        self.tcp(t + 0.0003, a, b, ACK, 0);
        t
    }
}

/// Frames of one attack in the order of time; the same stream makes the same frames.
pub(crate) fn make(name: &str, rng: &mut dyn RngCore) -> Vec<Frame> {
    let mut s = Scene {
        rng,
        frames: Vec::new(),
    };
    let bot = [192, 168, 4, 66];
    let me = |s: &mut Scene<'_>| End {
        ip: bot,
        port: s.ephemeral(),
    };
    let mut t = 0.0;
    match name {
        "telnet-scan" => {
            for _ in 0..1200 {
                t += s.pause(0.02);
                let port = if s.below(10) == 0 { 2323 } else { 23 };
                let (a, b) = (
                    me(&mut s),
                    End {
                        ip: s.stranger(),
                        port,
                    },
                );
                s.tcp(t, a, b, SYN, 0);
                match s.below(40) {
                    0 => s.tcp(t + 0.12, b, a, RST | ACK, 0),
                    1 => {
                        s.connection(t, a, b, 0.15, &[(false, 30), (true, 6), (false, 12)]);
                    }
                    _ => (),
                }
            }
        }
        "port-scan" => {
            let target = [192, 168, 4, 20];
            for port in 1..=1000 {
                t += s.pause(0.005);
                let (a, b) = (me(&mut s), End { ip: target, port });
                s.tcp(t, a, b, SYN, 0);
                s.tcp(t + 0.0008, b, a, RST | ACK, 0);
            }
        }
        "slow-scan" => {
            for i in 0..200u16 {
                t += 3.0 + s.pause(1.0);
                let ip = [192, 168, 4, 1 + (i % 250) as u8];
                let port = [22, 23, 80, 443, 554, 8080][usize::from(i % 6)];
                let (a, b) = (me(&mut s), End { ip, port });
                s.tcp(t, a, b, SYN, 0);
                if s.below(8) == 0 {
                    s.tcp(t + 0.001, b, a, RST | ACK, 0);
                }
            }
        }
        "udp-scan" => {
            for _ in 0..400 {
                t += s.pause(0.05);
                let port = [53, 123, 161, 1900, 5060][s.below(5) as usize];
                let (a, b) = (
                    me(&mut s),
                    End {
                        ip: s.stranger(),
                        port,
                    },
                );
                s.udp(t, a, b, 40);
            }
        }
        "syn-flood" => {
            let b = End {
                ip: s.stranger(),
                port: 80,
            };
            for _ in 0..2000 {
                t += s.pause(0.002);
                let a = me(&mut s);
                s.tcp(t, a, b, SYN, 0);
                if s.below(3) == 0 {
                    s.tcp(t + 0.08, b, a, SYN | ACK, 0);
                }
            }
        }
        "udp-flood" => {
            for _ in 0..8 {
                let (a, b) = (
                    me(&mut s),
                    End {
                        ip: s.stranger(),
                        port: 80,
                    },
                );
                t += 2.0;
                let mut at = t;
                for _ in 0..1500 {
                    at += s.pause(0.001);
                    s.udp(at, a, b, 512);
                }
            }
        }
        "http-flood" => {
            let b = End {
                ip: s.stranger(),
                port: 80,
            };
            for _ in 0..300 {
                t += s.pause(0.03);
                let a = me(&mut s);
                s.connection(t, a, b, 0.05, &[(true, 240), (false, 600)]);
            }
        }
        "beacon-10s" | "beacon-60s" => {
            let period = if name == "beacon-10s" { 10.0 } else { 60.0 };
            let b = End {
                ip: s.stranger(),
                port: 4444,
            };
            for _ in 0..60 {
                t += period * (0.97 + 0.06 * s.unit());
                let a = me(&mut s);
                let (ask, answer) = (90 + s.below(30) as usize, 40 + s.below(20) as usize);
                s.connection(t, a, b, 0.09, &[(true, ask), (false, answer)]);
            }
        }
        "dns-tunnel" => {
            let b = End {
                ip: [192, 168, 4, 1],
                port: 53,
            };
            for _ in 0..600 {
                t += s.pause(0.08);
                let a = me(&mut s);
                let (ask, answer) = (150 + s.below(90) as usize, 180 + s.below(280) as usize);
                s.udp(t, a, b, ask);
                let later = t + 0.03 + s.pause(0.01);
                s.udp(later, b, a, answer);
            }
        }
        "ssh-guessing" | "telnet-guessing" => {
            let ssh = name == "ssh-guessing";
            let b = End {
                ip: [192, 168, 4, 5],
                port: if ssh { 22 } else { 23 },
            };
            let talk: &[(bool, usize)] = if ssh {
                &[
                    (false, 41),
                    (true, 32),
                    (false, 1080),
                    (true, 1400),
                    (false, 450),
                    (true, 44),
                    (false, 44),
                    (true, 60),
                    (false, 84),
                    (true, 148),
                    (false, 52),
                ]
            } else {
                &[
                    (false, 15),
                    (true, 12),
                    (false, 9),
                    (true, 7),
                    (false, 10),
                    (true, 9),
                    (false, 22),
                ]
            };
            for _ in 0..150 {
                t += 0.4 + s.pause(0.6);
                let a = me(&mut s);
                let rtt = 0.004 + s.unit() * 0.01;
                s.connection(t, a, b, rtt, talk);
            }
        }
        _ => {
            for _ in 0..6 {
                let b = End {
                    ip: s.stranger(),
                    port: 443,
                };
                let a = me(&mut s);
                let bytes = 400_000 + s.below(1_600_000) as usize;
                t = s.connection(
                    t + 5.0,
                    a,
                    b,
                    0.04,
                    &[(true, 517), (false, 3000), (true, bytes), (false, 200)],
                );
            }
        }
    }
    s.frames.sort_by_key(|f| f.0);
    s.frames
}
