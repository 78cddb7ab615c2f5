//! A lab with programs in it, and what devices do there.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_tests::{Running, program};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use xtask::tunnel_lab::{FAR, Lab, PORT, SERVER};

pub(crate) const READY: Duration = Duration::from_secs(30);

/// A lab with a gateway and a far end.
pub(crate) struct Scene {
    // Programs end before the namespaces go.
    pub(crate) gateway: Option<Running>,
    pub(crate) sink: Option<Running>,
    pub(crate) lab: Lab,
    /// File that sets the wall clock of the programs that are started.
    pub(crate) clock: Option<PathBuf>,
}

/// What a gateway is told beyond the defaults.
pub(crate) struct Told<'a> {
    pub(crate) cover: &'a str,
    pub(crate) tunnel: &'a str,
}

pub(crate) const QUIET: Told<'static> = Told {
    cover: "generator = \"none\"",
    tunnel: "",
};

impl Scene {
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::at(name, &format!("{FAR}:{PORT}"))
    }

    /// A scene whose gateway finds the far end at `endpoint`.
    pub(crate) fn at(name: &str, endpoint: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        lab.keys_at(&program("sink-server")?, endpoint)?;
        Ok(Self {
            gateway: None,
            sink: None,
            lab,
            clock: None,
        })
    }

    pub(crate) fn start_sink(&mut self, tunnel: &str) -> Result<()> {
        let toml = self.lab.path("sink.toml");
        fs::write(&toml, format!("[tunnel]\n{tunnel}\n"))?;
        let mut sink = self.lab.command("far", program("sink-server")?);
        sink.arg("--tunnel").arg(self.lab.path("far.conf"));
        sink.arg("--config").arg(&toml);
        sink.arg("--report").arg(self.lab.path("sink.json"));
        self.set_clock(&mut sink);
        self.sink = Some(Running::start("sink-server", sink)?);
        self.wait_for("far", "chaff0")
    }

    fn set_clock(&self, command: &mut Command) {
        if let Some(file) = &self.clock {
            crate::hostile::own_clock(command, file);
        }
    }

    /// Waits until a namespace has an interface.
    pub(crate) fn wait_for(&self, space: &str, interface: &str) -> Result<()> {
        let end = Instant::now() + READY;
        let line = format!("ip address show dev {interface} up");
        while !self
            .lab
            .run(space, &line)
            .is_ok_and(|out| out.contains("inet "))
        {
            ensure!(Instant::now() < end, "{space} has no {interface}");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) fn start_gateway(&mut self, told: &Told<'_>) -> Result<()> {
        let lab = &self.lab;
        let config = format!(
            "[gateway]\nstate_dir = {:?}\ninstance = {:?}\n\
             [interfaces]\nlan = [\"lan0\"]\nwan = \"wan0\"\nhook = \"tcx\"\n\
             [cover]\nmode = \"tunnel\"\n{}\n\
             [tunnel]\nconfig = {:?}\n{}\n\
             [[device]]\nlabel = \"dev\"\nip = [\"10.1.0.2\", \"fd01::2\"]\n",
            lab.path("state"),
            lab.instance(),
            told.cover,
            lab.path("gw.conf"),
            told.tunnel,
        );
        let file = lab.path("gateway.toml");
        fs::write(&file, config)?;
        let mut gateway = lab.command("gw", program("gateway")?);
        gateway.args(["run", "--config"]).arg(&file);
        self.set_clock(&mut gateway);
        self.gateway = Some(Running::start("gateway", gateway)?);
        self.wait_for("gw", "chaff0")?;
        let end = Instant::now() + READY;
        while self.status().is_err() {
            self.gateway.as_mut().map_or(Ok(()), Running::check)?;
            ensure!(Instant::now() < end, "the gateway does not answer");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let mut status = std::process::Command::new(program("gateway")?);
        status.args(["status", "--json", "--socket"]);
        status.arg(self.lab.path("state").join("control.sock"));
        let out = status.output()?;
        ensure!(out.status.success(), "no answer");
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    pub(crate) fn peer(&self) -> Result<Value> {
        Ok(self.status()?["tunnel"]["tunnel"]["peers"][0].clone())
    }

    /// Waits until the device reaches the server.
    pub(crate) fn answers(&self) -> Result<()> {
        let end = Instant::now() + READY;
        while number(&ping(&self.lab, "-4 -n -c 1 -W 1", SERVER[0])?, "received") != Some(1) {
            ensure!(Instant::now() < end, "no answer through the tunnel");
        }
        Ok(())
    }

    /// The process that moves packets: the supervisor's child.
    pub(crate) fn worker(&self) -> Result<Pid> {
        let parent = self.gateway.as_ref().context("no gateway")?.id();
        let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let id = text.split_whitespace().next().context("no child")?;
        Ok(Pid::from_raw(id.parse()?))
    }

    pub(crate) fn stop(&mut self) -> Result<(Value, Value)> {
        let ending = Duration::from_secs(20);
        let mut gateway = self.gateway.take().context("no gateway")?;
        let status = gateway.stop(Signal::SIGTERM, ending)?;
        ensure!(status.success(), "gateway: {status}");
        let mut sink = self.sink.take().context("no sink")?;
        let status = sink.stop(Signal::SIGTERM, ending)?;
        ensure!(status.success(), "sink-server: {status}");
        let read =
            |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        Ok((
            read(self.lab.path("state").join("report.json"))?,
            read(self.lab.path("sink.json"))?,
        ))
    }
}

/// Echoes TCP and UDP at the server until the test ends.
pub(crate) fn serve(lab: &Lab) -> Result<()> {
    for (address, port) in [(SERVER[0], 7_001), (SERVER[1], 7_002)] {
        let at: SocketAddr = (address.parse::<std::net::IpAddr>()?, port).into();
        let (tcp, udp) = lab.inside("srv", || (TcpListener::bind(at), UdpSocket::bind(at)))?;
        let (tcp, udp) = (tcp?, udp?);
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (&stream, &stream);
                    let _closed = std::io::copy(&mut from, &mut to);
                });
            }
        });
        std::thread::spawn(move || {
            let mut buf = [0; 65_536];
            while let Ok((n, from)) = udp.recv_from(&mut buf) {
                let _lost = udp.send_to(&buf[..n], from);
            }
        });
    }
    Ok(())
}

pub(crate) fn servers() -> [SocketAddr; 2] {
    [
        format!("{}:7001", SERVER[0]).parse().expect("an address"),
        format!("[{}]:7002", SERVER[1]).parse().expect("an address"),
    ]
}

/// Sends `len` bytes to the server's echo over TCP and compares what comes back.
pub(crate) fn tcp_echo(lab: &Lab, to: SocketAddr, len: usize) -> Result<()> {
    lab.inside("dev", || -> Result<()> {
        let end = Instant::now() + READY;
        let stream = loop {
            match TcpStream::connect_timeout(&to, Duration::from_secs(10)) {
                Ok(stream) => break stream,
                Err(e) => ensure!(Instant::now() < end, "connecting to {to}: {e}"),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        std::thread::scope(|s| -> Result<()> {
            let writer = s.spawn(|| (&stream).write_all(&data));
            let mut got = vec![0; len];
            (&stream).read_exact(&mut got)?;
            writer.join().expect("no panic")?;
            ensure!(got == data, "altered on the way");
            Ok(())
        })
    })?
}

/// Sends a datagram to the echo, again when it is lost, and compares what comes back.
pub(crate) fn udp_echo(lab: &Lab, to: SocketAddr, len: usize) -> Result<()> {
    lab.inside("dev", || -> Result<()> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let data: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let mut buf = [0; 4_096];
        for _ in 0..20 {
            socket.send(&data)?;
            if let Ok(n) = socket.recv(&mut buf) {
                ensure!(buf[..n] == data, "altered on the way");
                return Ok(());
            }
        }
        anyhow::bail!("{len} bytes to {to} never came back")
    })?
}

pub(crate) fn ping(lab: &Lab, words: &str, to: &str) -> Result<String> {
    let line = format!("ping {words} {to}");
    let out = lab.attempt("dev", Duration::from_secs(15), &line)?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    ))
}

/// The number in front of a word of ping's summary.
pub(crate) fn number(text: &str, word: &str) -> Option<u64> {
    let end = text.find(word)?;
    let not_digit = |c: char| !c.is_ascii_digit();
    let digits = text[..end].trim_end().rsplit(not_digit).next()?;
    digits.parse().ok()
}
/// Pings 200 times a second while something happens; returns sent, received and the longest time without an answer.
pub(crate) fn ping_through(
    lab: &Lab,
    family: &str,
    to: &str,
    happens: impl FnOnce() -> Result<()>,
) -> Result<(u64, u64, Duration)> {
    let mut ping = lab.command("dev", "timeout");
    ping.args([
        "20", "ping", family, "-n", "-D", "-i", "0.005", "-c", "800", "-W", "1", to,
    ]);
    ping.stdout(Stdio::piped()).stderr(Stdio::null());
    let child = ping.spawn()?;
    sleep(Duration::from_millis(1_000));
    happens()?;
    let out = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let times: Vec<f64> = text
        .lines()
        .filter(|l| l.contains("bytes from"))
        .filter_map(|l| l.strip_prefix('[')?.split(']').next()?.parse().ok())
        .collect();
    let gap = times.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
    let summary = text.lines().rev().take(4).collect::<Vec<_>>().join("\n");
    Ok((
        number(&summary, "packets transmitted").unwrap_or(0),
        number(&summary, "received").unwrap_or(0),
        Duration::from_secs_f64(gap),
    ))
}
