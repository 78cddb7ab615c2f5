//! The far end of tunnels: a [`chaff_tunport::Driver`] with its routes, and the keys.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use chaff_engine::SinkConfig;
use chaff_sys::clock::monotonic;
use chaff_tunnel::conf::{Conf, Endpoint};
use chaff_tunnel::{Config, DownlinkConfig, PeerConfig, Tunnel};
use chaff_tunport::{Driver, Exit, ExitOptions, Options, Udp, netlink, pair};
use rand::TryRngCore;

use crate::config::{Args, Keygen, TunnelFile};

/// A running far end.
pub(crate) struct Far {
    driver: Driver,
    _exit: Exit,
}

impl Far {
    /// Opens interface and socket, sets routes and translation.
    ///
    /// # Errors
    /// The file cannot be used, or the system refuses.
    pub(crate) fn start(
        file: &TunnelFile,
        limits: &SinkConfig,
        packets: Option<&Path>,
    ) -> anyhow::Result<Self> {
        // The warnings of the library.
        let filter = tracing_subscriber::EnvFilter::new("warn");
        let _already = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(false)
            .try_init();
        let path = file.config.as_deref().unwrap_or(Path::new(""));
        let conf = pair::read(path).context("--tunnel")?;
        if conf.peers.is_empty() {
            bail!(
                "{}: no [Peer]; add one by: sink-server keygen --config {0} --endpoint HOST:PORT --peer gateway.conf",
                path.display()
            );
        }
        let tunnel = tunnel(&conf, file, limits)?;
        let port = conf.listen_port.unwrap_or(51_820);
        let udp = Udp::bind(port, 0, true).with_context(|| format!("while binding UDP {port}"))?;
        let name = file.interface.clone();
        let record = match packets {
            Some(path) => {
                let file = std::fs::File::create(path)
                    .with_context(|| format!("--packets: while creating {}", path.display()))?;
                Some(Box::new(std::io::BufWriter::new(file)) as Box<dyn Write + Send>)
            }
            None => None,
        };
        let options = Options {
            interface: name.clone(),
            engine: file.engine,
            max_segments: file.burst,
            realtime: file.realtime,
            heartbeat: None,
            record,
            on_mtu: Box::new(move |mtu| {
                let set = netlink::Netlink::new()
                    .and_then(|mut n| n.set_mtu(netlink::index(&name)?, mtu));
                if let Err(e) = set {
                    eprintln!("sink-server: cannot set the MTU of {name} to {mtu}: {e}");
                }
            }),
        };
        let driver = Driver::start(tunnel, udp, options)
            .with_context(|| format!("while opening the interface {}", file.interface))?;
        let exit = Exit::install(&ExitOptions {
            interface: file.interface.clone(),
            addresses: conf.addresses.clone(),
            peers: conf.peers.iter().flat_map(|p| p.allowed.clone()).collect(),
            masquerade: file.masquerade,
            name: format!("chaff_exit_{}", table_name(&file.interface)),
        })?;
        eprintln!(
            "sink-server: far end of {} tunnel(s) at UDP port {port}, interface {}, engine {:?}; stop with Ctrl-C",
            conf.peers.len(),
            file.interface,
            driver.engine(),
        );
        Ok(Self {
            driver,
            _exit: exit,
        })
    }

    /// Stops everything and writes the report.
    ///
    /// # Errors
    /// The report cannot be made.
    pub(crate) fn finish(self, args: &Args) -> anyhow::Result<ExitCode> {
        let report = self.driver.stop();
        let text = serde_json::to_string_pretty(&report)?;
        let mut failed = false;
        if let Some(path) = &args.report
            && let Err(e) = std::fs::write(path, &text)
        {
            eprintln!("sink-server: cannot write {} ({e})", path.display());
            failed = true;
        }
        if args.json {
            failed |= writeln!(std::io::stdout(), "{text}").is_err();
        }
        let peers = &report.tunnel.peers;
        let sum = |of: fn(&chaff_tunnel::PeerReport) -> u64| peers.iter().map(of).sum::<u64>();
        eprintln!(
            "sink-server: {} real packets in, {} out; cover {} in, {} out",
            sum(|p| p.real_in.packets),
            sum(|p| p.real_out.packets),
            sum(|p| p.cover_in.packets),
            sum(|p| p.cover_out.packets),
        );
        Ok(ExitCode::from(u8::from(failed)))
    }
}

/// Letters and digits of an interface name, for the name of a firewall table.
fn table_name(interface: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    interface.chars().map(plain).collect()
}

fn tunnel(conf: &Conf, file: &TunnelFile, limits: &SinkConfig) -> anyhow::Result<Tunnel> {
    let defaults = Config::default();
    let rate = limits.bytes_per_second as u64;
    let config = Config {
        profile: file.bins,
        mtu: conf.mtu.unwrap_or(defaults.mtu),
        hold: chaff_abi::Nanos::from_millis(file.hold_ms),
        clock: chaff_abi::Nanos::from_millis(file.clock_ms),
        downlink: DownlinkConfig {
            lease: limits.lease,
            ratio: limits.ratio,
            allowance: limits.ratio_allowance,
            bytes_per_second: rate,
            ..DownlinkConfig::default()
        },
        ..defaults
    };
    let peers = conf
        .peers
        .iter()
        .map(|p| {
            Ok(PeerConfig {
                public_key: p.public_key,
                preshared_key: p.preshared_key.clone(),
                allowed: p.allowed.clone(),
                endpoint: p.endpoint.as_ref().map(pair::resolve).transpose()?,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut seed = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut seed)
        .map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
    Ok(Tunnel::new(
        &conf.private_key,
        config,
        &peers,
        seed,
        monotonic(),
    )?)
}

/// `sink-server keygen`
///
/// # Errors
/// A file exists, cannot be read or written, or the endpoint makes no sense.
pub(crate) fn keygen(args: &Keygen) -> anyhow::Result<ExitCode> {
    let endpoint = args.endpoint.as_deref().map(endpoint).transpose()?;
    if !args.config.exists() {
        let port = match &endpoint {
            Some((_, port)) => *port,
            None => 51_820,
        };
        pair::create(&args.config, Some(port))?;
        eprintln!("sink-server: made {}", args.config.display());
    }
    let public = pair::read(&args.config)?.private_key.public();
    let mut out = std::io::stdout().lock();
    let Some((endpoint, _)) =
        endpoint.filter(|_| args.peer.is_some() || args.qr || args.public_key.is_some())
    else {
        writeln!(out, "{public}")?;
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(path) = args.peer.as_deref().filter(|p| p.exists()) {
        bail!("{} exists; nothing is changed", path.display());
    }
    let home = pair::add_peer(&args.config, &endpoint, args.public_key)?;
    if args.public_key.is_some() {
        // All but the key, which the gateway has.
        let text = home.reveal();
        for line in text.lines().filter(|l| !l.starts_with("PrivateKey")) {
            writeln!(out, "{line}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.peer {
        pair::save(path, &home)?;
        eprintln!(
            "sink-server: made {}: carry it to the gateway by a safe way, it holds a private key",
            path.display()
        );
    }
    if args.qr {
        let picture = pair::qr(&home.reveal()).context("the file is too long for a QR code")?;
        writeln!(out, "{picture}")?;
    }
    writeln!(out, "{public}")?;
    Ok(ExitCode::SUCCESS)
}

fn endpoint(text: &str) -> anyhow::Result<(Endpoint, u16)> {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Ok((Endpoint::Address(address), address.port()));
    }
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse().ok());
    let port = port.with_context(|| format!("--endpoint: `{text}` is not HOST:PORT"))?;
    Ok((Endpoint::Name(text.to_owned()), port))
}
