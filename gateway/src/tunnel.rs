//! `cover.mode = "tunnel"`: the gateway's end of a WireGuard tunnel, inside the process that [`crate::supervise`] watches.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use chaff_abi::Nanos;
use chaff_engine::Plan;
use chaff_sys::clock::monotonic;
use chaff_tunnel::conf::{Conf, Endpoint};
use chaff_tunnel::{Config, MonthBudget, PeerConfig, month_of};
use chaff_tunport::{
    Driver, DriverReport, Gate, GateOptions, Heartbeat, Options, Udp, WhenDown, pair,
};
use serde::{Deserialize, Serialize};

use crate::config::File;

/// Time between two signs of life.
pub const BEAT: Nanos = Nanos::from_millis(200);
/// With fall-back: an unanswered handshake this old means that the far end is gone.
const GONE: Nanos = Nanos::from_secs(7);
/// Time between handshakes while devices take the ordinary route.
const RETRY: Nanos = Nanos::from_secs(5);
/// Time between writings of what cover used of the month.
const STORE: Nanos = Nanos::from_secs(60);

/// The tunnel of a running gateway.
pub struct TunnelSide {
    driver: Driver,
    /// Where the far end was at the start.
    pub endpoint: SocketAddr,
    falls_back: bool,
    routed: bool,
    month_file: PathBuf,
    pause_file: Option<PathBuf>,
    paused: bool,
    held_off: bool,
    store_at: Nanos,
    retry_at: Nanos,
    /// Mean uplink packets/s of the envelope.
    rate: Option<f64>,
}

/// Bytes of a dummy on the wire that a month's volume is planned with: real packets of a home are 500 long on average.
const MEAN: f64 = 600.0;

/// What cover used of a month.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Used {
    /// Months since January 1970.
    month: u32,
    /// Bytes on the wire.
    bytes: u64,
}

/// The file that `tunnel.config` names, checked.
///
/// # Errors
/// It cannot be read, others can read it, or it is no gateway's file.
pub fn read_conf(file: &File) -> anyhow::Result<Conf> {
    let path = file
        .tunnel
        .config
        .as_deref()
        .context("tunnel.config is missing")?;
    let conf = pair::read(path).context("tunnel.config")?;
    let [peer] = &conf.peers[..] else {
        bail!(
            "tunnel.config {}: {} peers, a gateway has exactly one",
            path.display(),
            conf.peers.len()
        );
    };
    if peer.endpoint.is_none() {
        bail!("tunnel.config {}: the peer has no Endpoint", path.display());
    }
    if let (true, WhenDown::Block, Some(Endpoint::Name(name))) = (
        file.tunnel.own_traffic,
        file.tunnel.when_down,
        &peer.endpoint,
    ) {
        bail!(
            "tunnel.config {}: Endpoint is the name {name}, which nothing can resolve while tunnel.own_traffic waits for the tunnel; \
             write its address",
            path.display()
        );
    }
    if conf.addresses.is_empty() {
        bail!(
            "tunnel.config {}: no Address in [Interface]",
            path.display()
        );
    }
    if peer.keepalive.is_some() {
        tracing::warn!(
            "tunnel.config: PersistentKeepalive is ignored: an empty message is a size of its own, cover does its work"
        );
    }
    Ok(conf)
}

/// The surroundings that the configuration asks for.
pub fn gate(file: &File, conf: &Conf) -> GateOptions {
    let t = &file.tunnel;
    GateOptions {
        lan: file.interfaces.lan.clone(),
        wan: file.interfaces.wan.clone(),
        interface: t.interface.clone(),
        addresses: conf.addresses.clone(),
        mark: file.cover.mark,
        table: t.table,
        when_down: t.when_down,
        masquerade: t.masquerade,
        own_traffic: t.own_traffic,
        name: format!("chaff_{}", file.gateway.instance.replace('-', "_")),
    }
}

/// Removes what a killed gateway, or one with `when_stopped = "block"`, left in force.
///
/// # Errors
/// The configuration cannot be used, or the system refuses.
pub fn open(file: &File) -> anyhow::Result<ExitCode> {
    let conf = read_conf(file)?;
    Gate::remove(&gate(file, &conf)).context("while removing the tunnel's rules")?;
    Ok(ExitCode::SUCCESS)
}

/// Says a line to the supervisor, unless it does not listen: nobody here ever waits for it.
fn tell(line: &str) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let out = io::stdout();
    let mut fd = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut fd, PollTimeout::ZERO).is_ok_and(|n| n > 0);
    if !ready {
        return;
    }
    let mut out = out.lock();
    let said = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    if said.is_err() {
        // Nobody watches any more: a clean end, so that whoever starts the supervisor starts all of it.
        let _ended = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
    }
}

impl TunnelSide {
    /// Opens interface and socket and sets addresses and route; needs privileges that the gateway gives up afterwards.
    ///
    /// # Errors
    /// The configuration cannot be used, or the system refuses.
    pub fn start(file: &File, seed: [u8; 32], unix: Nanos) -> anyhow::Result<Self> {
        let t = &file.tunnel;
        let conf = read_conf(file)?;
        let peer = &conf.peers[0];
        let endpoint = peer.endpoint.as_ref().context("no Endpoint")?;
        let endpoint = pair::resolve(endpoint).context("tunnel.config")?;
        let rate = file.cover.rate.0.saturating_mul(covered(file));
        let mut burst = file.cover.burst.0.saturating_mul(covered(file));
        if file.envelope().is_some() {
            // Its busy times last a minute; a budget that ends them would show what real traffic does in them.
            burst = burst.max(rate.saturating_mul(60));
        }
        let config = Config {
            profile: t.bins,
            mtu: conf.mtu.unwrap_or(t.mtu),
            hold: t.hold.0,
            clock: t.clock.0,
            envelope: file.envelope(),
            always_on: t.always_on,
            silence: t.silence.0,
            // Rates by device are kept where cover is planned; this one is for all of them.
            cover_rate: rate,
            cover_burst: burst,
            ..Config::default()
        };
        let peers = [PeerConfig {
            public_key: peer.public_key,
            preshared_key: peer.preshared_key.clone(),
            allowed: peer.allowed.clone(),
            endpoint: Some(endpoint),
        }];
        let mut tunnel =
            chaff_tunnel::Tunnel::new(&conf.private_key, config, &peers, seed, monotonic())
                .context("tunnel.config")?;
        let month_file = file.state(Path::new("cover-month.json"));
        if t.month.0 > 0 {
            tunnel.set_month(Some(read_month(&month_file, t.month.0, unix)));
        }
        let port = conf.listen_port.unwrap_or(0);
        let udp = Udp::bind(port, file.cover.mark, true)
            .with_context(|| format!("while binding the tunnel's UDP port {port}"))?;
        let options = Options {
            interface: t.interface.clone(),
            engine: t.engine,
            max_segments: t.burst,
            realtime: file.cover.realtime,
            heartbeat: Some(Heartbeat {
                every: BEAT,
                beat: Box::new(|| tell("beat\n")),
            }),
            record: None,
            on_mtu: Box::new(|mtu| tell(&format!("mtu {mtu}\n"))),
        };
        let driver = Driver::start(tunnel, udp, options)
            .with_context(|| format!("while opening the tunnel's interface {}", t.interface))?;
        gate(file, &conf).attach()?;
        if t.when_down == WhenDown::FallBack {
            // What was opened meanwhile has the ordinary route's address.
            tell("route up\n");
        }
        // The first handshake need not wait for a packet.
        if t.always_on {
            driver.initiate(0);
        }
        Ok(Self {
            driver,
            endpoint,
            falls_back: t.when_down == WhenDown::FallBack,
            routed: true,
            month_file,
            pause_file: t.pause_file.clone(),
            paused: false,
            held_off: false,
            store_at: monotonic(),
            rate: file.envelope().map(|e| e.rate),
            retry_at: Nanos::ZERO,
        })
    }

    /// Hands planned cover to the tunnel.
    pub fn plan(&self, plan: impl Iterator<Item = Plan>) {
        let plan: Vec<Plan> = plan.collect();
        if plan.is_empty() {
            return;
        }
        self.driver.with(|tunnel| {
            for p in plan {
                match p {
                    Plan::Dummy { at, stream } => tunnel.plan(0, at, stream),
                    Plan::Downlink(dummies) => tunnel.ask_downlink(monotonic(), 0, &dummies),
                }
            }
        });
    }

    /// Stops or resumes cover.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.apply_pause();
    }

    fn apply_pause(&self) {
        let paused = self.paused || self.held_off;
        self.driver.with(|t| t.set_paused(paused));
    }

    /// Once a second: the far end's life, the month, the metered uplink.
    pub fn tick(&mut self, unix: Nanos) {
        let held_off = self.pause_file.as_deref().is_some_and(Path::exists);
        if held_off != self.held_off {
            self.held_off = held_off;
            tracing::info!(held_off, "cover, by tunnel.pause_file");
            self.apply_pause();
        }
        let at = monotonic();
        if self.falls_back {
            self.follow(at);
        }
        let month = self.driver.with(|t| t.month(unix));
        if at >= self.store_at {
            self.store_at = at + STORE;
            if let (Some(rate), Some(m)) = (self.rate, month) {
                let scale = m.left_per_second(unix) / (rate * MEAN);
                self.driver.with(|t| t.scale_cover(scale.min(1.0)));
            }
            self.store(month);
        }
    }

    /// Moves the devices' route by whether the far end answers.
    fn follow(&mut self, at: Nanos) {
        let (session, unanswered) = self
            .driver
            .with(|t| (t.has_session(0), t.unanswered_for(0, at)));
        let gone = unanswered.is_some_and(|t| t >= GONE);
        if self.routed && gone {
            tracing::warn!(
                "the far end does not answer: devices take the ordinary route, in clear"
            );
            tell("route down\n");
            self.routed = false;
        }
        if !self.routed && session && unanswered.is_none() {
            tracing::info!("the far end answers: devices take the tunnel");
            tell("route up\n");
            self.routed = true;
        }
        if !self.routed && unanswered.is_none() && at >= self.retry_at {
            self.retry_at = at + RETRY;
            self.driver.initiate(0);
        }
    }

    fn store(&self, month: Option<MonthBudget>) {
        let Some(m) = month else { return };
        let used = Used {
            month: m.month,
            bytes: m.used,
        };
        let new = self.month_file.with_extension("json.new");
        let written = serde_json::to_vec(&used)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &self.month_file));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot store what cover used of the month");
        }
    }

    /// Whether there is a session that the far end still answers in.
    pub fn is_up(&self) -> bool {
        self.driver
            .with(|t| t.has_session(0) && t.unanswered_for(0, monotonic()).is_none())
    }

    /// Counts up to now.
    pub fn report(&self) -> DriverReport {
        self.driver.report()
    }

    /// Stores what has to outlive the process; the driver ends with it.
    pub fn finish(self, unix: Nanos) -> DriverReport {
        let month = self.driver.with(|t| t.month(unix));
        self.store(month);
        self.driver.stop()
    }
}

/// Devices with cover, at least one.
fn covered(file: &File) -> u64 {
    (file.devices.iter().filter(|d| d.cover).count() as u64).max(1)
}

/// What earlier runs used of this month; an unreadable file counts as nothing used, and is said.
fn read_month(path: &Path, cap: u64, unix: Nanos) -> MonthBudget {
    let used = match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, "what cover used of the month is unreadable; counted from zero");
            Used::default()
        }),
        Err(_) => Used::default(),
    };
    let mut budget = MonthBudget {
        cap,
        used: used.bytes,
        month: used.month,
    };
    if budget.month > month_of(unix) + 1 {
        // A clock that was far ahead must not hold a month for ever.
        budget.month = month_of(unix);
    }
    budget.turn(unix);
    budget
}
