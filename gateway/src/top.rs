//! `gateway top`: what each device does now, second by second.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use crate::control::{self, Request};

/// What is shown, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between two looks.
    pub interval: std::time::Duration,
    /// Looks, without end when `None`.
    pub rounds: Option<u32>,
    /// One JSON object a look.
    pub json: bool,
}

/// Shortest time between two looks.
const SHORTEST: std::time::Duration = std::time::Duration::from_millis(100);

/// Rates of one device; each pair is out and in.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Rates {
    device: String,
    real_packets_per_s: [f64; 2],
    real_bytes_per_s: [f64; 2],
    cover_packets_per_s: [f64; 2],
    cover_bytes_per_s: [f64; 2],
}

/// What happened between two answers to [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Look {
    uptime_s: f64,
    seconds: f64,
    mode: String,
    paused: bool,
    open_flows: u64,
    alerts: u64,
    epsilon_spent: f64,
    /// Of the cover sent since the start, microseconds; absent where this gateway sends none itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    late_p99_us: Option<f64>,
    /// Busiest first.
    devices: Vec<Rates>,
    /// All that goes through the tunnel, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<Rates>,
}

/// Shows a running gateway until somebody stops it.
///
/// # Errors
/// No gateway answers, or the output cannot be written.
pub fn run(socket: &Path, options: Options) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        options.interval >= SHORTEST,
        "--interval: at least {} ms, because slots are counted whole",
        SHORTEST.as_millis()
    );
    let mut before = control::ask(socket, &Request::Status)?;
    let clears = io::stdout().is_terminal() && !options.json;
    let mut left = options.rounds;
    while left != Some(0) {
        std::thread::sleep(options.interval);
        let now = control::ask(socket, &Request::Status)?;
        // A gateway that was restarted begins again.
        if let Some(look) = Look::between(&before, &now) {
            let text = match options.json {
                true => format!("{}\n", serde_json::to_string(&look)?),
                false => look.table(),
            };
            let clear = if clears { "\x1b[H\x1b[2J" } else { "" };
            let mut out = io::stdout().lock();
            match write!(out, "{clear}{text}").and_then(|()| out.flush()) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
                written => written?,
            }
            left = left.map(|n| n - 1);
        }
        before = now;
    }
    Ok(ExitCode::SUCCESS)
}

fn number(of: &Value, path: &str) -> f64 {
    of.pointer(path).and_then(Value::as_f64).unwrap_or(0.0)
}

impl Rates {
    /// From counters at `paths`, each a pair, in the two answers.
    fn between(device: &str, answers: [&Value; 2], seconds: f64, paths: [[String; 2]; 4]) -> Self {
        let [
            real_packets_per_s,
            real_bytes_per_s,
            cover_packets_per_s,
            cover_bytes_per_s,
        ] = paths.map(|pair| {
            pair.map(|path| {
                let [before, now] = answers.map(|answer| number(answer, &path));
                (now - before).max(0.0) / seconds
            })
        });
        Self {
            device: device.to_owned(),
            real_packets_per_s,
            real_bytes_per_s,
            cover_packets_per_s,
            cover_bytes_per_s,
        }
    }

    fn is_silent(&self) -> bool {
        let all = [self.real_packets_per_s, self.cover_packets_per_s];
        all.concat().iter().all(|n| *n == 0.0)
    }

    fn row(&self) -> String {
        let [real_up, real_down] = self.real_bytes_per_s.map(|b| b / 1e3);
        let [cover_up, cover_down] = self.cover_bytes_per_s.map(|b| b / 1e3);
        let packets = self.real_packets_per_s.iter().sum::<f64>();
        let cover = self.cover_packets_per_s.iter().sum::<f64>();
        format!(
            "{:<20} {packets:>9.1} {real_up:>9.2} {real_down:>9.2} {cover:>9.1} {cover_up:>9.2} {cover_down:>9.2}\n",
            self.device
        )
    }
}

impl Look {
    /// `None` when no time has passed, or the gateway is another one.
    fn between(before: &Value, now: &Value) -> Option<Self> {
        let uptime_s = number(now, "/uptime_s");
        let seconds = uptime_s - number(before, "/uptime_s");
        if seconds <= 0.0 {
            return None;
        }
        let answers = [before, now];
        let names = now["devices"].as_array().map_or(&[][..], Vec::as_slice);
        let mut devices: Vec<Rates> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let pair = |field: &str| [0, 1].map(|d| format!("/device_totals/{i}/{field}/{d}"));
                let paths = ["real_packets", "real_bytes", "cover_packets", "cover_bytes"];
                Rates::between(
                    name.as_str().unwrap_or_default(),
                    answers,
                    seconds,
                    paths.map(pair),
                )
            })
            .collect();
        let busy = |r: &Rates| r.real_bytes_per_s.iter().sum::<f64>();
        devices.sort_by(|a, b| busy(b).total_cmp(&busy(a)).then(a.device.cmp(&b.device)));
        let tunnel = now["tunnel"].is_object().then(|| {
            let path = |what: &str, field: &str| {
                ["out", "in"].map(|d| format!("/tunnel/tunnel/peers/0/{what}_{d}/{field}"))
            };
            let paths = [
                path("real", "packets"),
                path("real", "bytes"),
                path("cover", "packets"),
                path("cover", "bytes"),
            ];
            Rates::between("all in the tunnel", answers, seconds, paths)
        });
        Some(Self {
            uptime_s,
            seconds,
            mode: now["mode"].as_str().unwrap_or_default().to_owned(),
            paused: now["paused"].as_bool().unwrap_or(false),
            open_flows: number(now, "/open_flows") as u64,
            alerts: number(now, "/gateway/alerts") as u64,
            epsilon_spent: number(now, "/gateway/epsilon_spent"),
            late_p99_us: now
                .pointer("/injector/lateness_us/p99")
                .and_then(Value::as_f64),
            devices,
            tunnel,
        })
    }

    fn table(&self) -> String {
        let cover = if self.paused { "paused" } else { &self.mode };
        let mut text = format!(
            "up {:.0} s, cover {cover}, {} flows open, {} alerts, privacy budget spent {}",
            self.uptime_s, self.open_flows, self.alerts, self.epsilon_spent
        );
        if let Some(late) = self.late_p99_us {
            text.push_str(&format!(", cover late p99 {late:.0} us"));
        }
        text.push_str(&format!(
            "\n{:<20} {:^29} {:^29}\n",
            "", "real traffic", "cover traffic"
        ));
        text.push_str(&format!(
            "{:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
            "device", "packets/s", "kB/s up", "kB/s down", "packets/s", "kB/s up", "kB/s down"
        ));
        let (silent, shown): (Vec<_>, Vec<_>) = self.devices.iter().partition(|d| d.is_silent());
        for device in shown {
            text.push_str(&device.row());
        }
        if let Some(tunnel) = &self.tunnel {
            text.push_str(&tunnel.row());
        }
        if !silent.is_empty() {
            let names: Vec<&str> = silent.iter().map(|d| d.device.as_str()).collect();
            text.push_str(&format!("silent: {}\n", names.join(", ")));
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaff_engine::GatewayReport;
    use serde_json::json;

    fn answer(uptime: f64, lamp: [u64; 2]) -> Value {
        let none = json!({ "real_packets": [0, 0], "real_bytes": [0, 0], "cover_packets": [0, 0], "cover_bytes": [0, 0] });
        json!({
            "uptime_s": uptime, "mode": "plain", "paused": false, "open_flows": 3,
            "devices": ["home", "lamp"],
            "device_totals": [none, {
                "real_packets": [lamp[0], 0], "real_bytes": [lamp[1], 0], "cover_packets": [7, 9], "cover_bytes": [0, 0],
            }],
            "gateway": GatewayReport { alerts: 2, ..GatewayReport::default() },
            "tunnel": null,
        })
    }

    #[test]
    fn rates_are_differences_over_the_gateways_own_time() {
        let look =
            Look::between(&answer(10.0, [5, 1000]), &answer(12.0, [25, 4000])).expect("a look");
        assert_eq!((look.seconds, look.open_flows, look.alerts), (2.0, 3, 2));
        assert_eq!(look.devices[0].device, "lamp");
        assert_eq!(look.devices[0].real_packets_per_s, [10.0, 0.0]);
        assert_eq!(look.devices[0].real_bytes_per_s, [1500.0, 0.0]);
        assert_eq!(look.devices[0].cover_packets_per_s, [0.0, 0.0]);
        let text = look.table();
        assert!(
            text.starts_with("up 12 s, cover plain, 3 flows open, 2 alerts"),
            "{text}"
        );
        assert!(
            text.contains("lamp                      10.0      1.50      0.00"),
            "{text}"
        );
        assert!(text.contains("silent: home\n"), "{text}");
    }

    #[test]
    fn a_restarted_gateway_gives_no_rates() {
        assert_eq!(
            Look::between(&answer(10.0, [5, 0]), &answer(1.0, [1, 0])),
            None
        );
    }
}
