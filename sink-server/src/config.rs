//! Command line and configuration file of the sink.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use chaff_abi::Nanos;
use chaff_engine::SinkConfig;
use chaff_tunport::defaults;
use chaff_wire::Key;
use clap::Parser;
use serde::Deserialize;

/// Receives cover traffic, throws it away, and sends the downlink cover its gateway asks for. With --tunnel it is the far
/// end of WireGuard tunnels, and passes real packets on.
#[derive(Parser, Debug)]
#[command(
    name = "sink-server",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  sink-server --listen 192.0.2.7:4789 --key sink.key
  sink-server --listen [::]:4789 --key sink.key --packets packets.csv --report report.json
  sink-server keygen --config tunnel.conf --endpoint 192.0.2.7:51820 --peer gateway.conf
  sink-server --tunnel tunnel.conf                     far end of a tunnel; needs root
  sink-server --echo 192.0.2.7:7                       only the echo role, for replayed flows

The key file holds the 32 bytes shared with the gateway, hexadecimal or base64, and must not be readable by others:
  (umask 077; head -c32 /dev/urandom | base64 > sink.key)

Exit codes: 0 done, 1 ran but an output could not be written, 2 usage or configuration, 3 missing privilege."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Address and UDP port for cover datagrams.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// File with the key shared with the gateway, mode 0600.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Be the far end of the WireGuard tunnels of this wg-style file, mode 0600: decrypt, drop cover, pass real packets on.
    #[arg(long, value_name = "FILE")]
    pub tunnel: Option<PathBuf>,
    /// TOML file with limits; command-line flags win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write a CSV line for every datagram (time_s,dir,size_bytes,is_dummy,device,verdict,slot,latency_us); of refused
    /// ones the first 100,000. With --tunnel alone: one for every data message (time_s,dir,size_bytes,is_dummy,device; size of
    /// the UDP payload, number of the peer), for testbeds: it tells cover from real packets.
    #[arg(long, value_name = "FILE")]
    pub packets: Option<PathBuf>,
    /// Write the counts as JSON at exit.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Also answer UDP and TCP at this address with what was sent there.
    #[arg(long, value_name = "ADDR:PORT")]
    pub echo: Vec<SocketAddr>,
    /// Also pass UDP and TCP from an address on to another.
    #[arg(long, value_name = "LISTEN=TARGET", value_parser = forward)]
    pub forward: Vec<(SocketAddr, SocketAddr)>,
    /// User to become when started as root, once sockets and files are open; "" stays root. With --tunnel it stays root: routes
    /// and translation are taken back at the end.
    #[arg(long, value_name = "USER", default_value = "nobody")]
    pub user: String,
    /// Stop after this many seconds.
    #[arg(long, value_name = "S")]
    pub duration: Option<f64>,
    /// Print the report as JSON on standard output at exit.
    #[arg(long)]
    pub json: bool,
    /// Say more; repeat for still more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What else the program does.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Make keys for --tunnel and pair gateways with them.
    #[command(after_help = "Examples:
  sink-server keygen --config tunnel.conf --endpoint 192.0.2.7:51820 --peer gateway.conf
  sink-server keygen --config tunnel.conf --endpoint vpn.example.net:51820 --qr
  sink-server keygen --config tunnel.conf --endpoint 192.0.2.7:51820 --public-key KEY     the gateway keeps its own key

The first use makes tunnel.conf. Files are made with mode 0600 and never replaced.")]
    Keygen(Keygen),
}

/// Arguments of `keygen`.
#[derive(clap::Args, Debug)]
pub(crate) struct Keygen {
    /// The far end's wg-style file; made when it is not there.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where gateways reach this machine.
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<String>,
    /// Add a gateway with a new key, and write its file here.
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub peer: Option<PathBuf>,
    /// Add a gateway with a new key, and show its file as QR code.
    #[arg(long, requires = "endpoint")]
    pub qr: bool,
    /// Add a gateway that made its own key, and print what belongs into its file.
    #[arg(long, value_name = "KEY", requires = "endpoint", conflicts_with_all = ["peer", "qr"])]
    pub public_key: Option<chaff_tunnel::PublicKey>,
}

fn forward(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let (from, to) = text
        .split_once('=')
        .ok_or("expected LISTEN=TARGET, such as 192.0.2.7:80=127.0.0.1:8080")?;
    let parse = |s: &str| s.parse().map_err(|e| format!("`{s}`: {e}"));
    Ok((parse(from)?, parse(to)?))
}

/// The configuration file. All keys are optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    /// As `--listen`.
    pub listen: Option<SocketAddr>,
    /// As `--key`.
    pub key_file: Option<PathBuf>,
    /// Downlink cover stops when the gateway was silent for this long, seconds, 1 to 60. Default 5.
    pub lease_s: Option<f64>,
    /// Downlink bytes per authentic uplink byte, 0 to 100. Default 4.
    pub ratio: Option<f64>,
    /// Most downlink bytes per second, 0 to 1e9. Default 250000.
    pub bytes_per_second: Option<f64>,
    /// The far end of tunnels.
    pub tunnel: TunnelFile,
}

/// `[tunnel]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TunnelFile {
    /// As `--tunnel`.
    pub config: Option<PathBuf>,
    /// Name of the interface. Default chaff0.
    pub interface: String,
    /// `auto`, `fast` or `portable`. Default auto.
    pub engine: chaff_tunport::EngineName,
    /// Size bins towards the gateways: `off`, `fine`, `default` or `mtu`.
    pub bins: chaff_tunnel::Profile,
    /// Longest wait of a real packet for the slot of a dummy, ms, 0 to 1000. Default 0.
    pub hold_ms: u64,
    /// Time between the moments at which packets leave, real ones and cover alike, ms, 0 to 100; 0 lets each leave at once.
    /// Default 5.
    pub clock_ms: u64,
    /// Datagrams in one burst, 1 to 64. Default 8.
    pub burst: usize,
    /// Give gateways' packets this machine's address. Default true.
    pub masquerade: bool,
    /// Real-time priority for cover, where allowed. Default true.
    pub realtime: bool,
}

impl Default for TunnelFile {
    fn default() -> Self {
        Self {
            config: None,
            interface: defaults::INTERFACE.into(),
            engine: chaff_tunport::EngineName::Auto,
            bins: chaff_tunnel::Profile::Default,
            hold_ms: defaults::HOLD.as_millis(),
            clock_ms: defaults::CLOCK.as_millis(),
            burst: defaults::BURST,
            masquerade: defaults::MASQUERADE,
            realtime: true,
        }
    }
}

/// What a run needs, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Cover socket and key; absent when only echo or forward is wanted.
    pub cover: Option<(SocketAddr, Key)>,
    /// Far end of tunnels.
    pub tunnel: Option<TunnelFile>,
    /// Limits.
    pub sink: SinkConfig,
}

impl Settings {
    /// Merges and checks command line and file.
    ///
    /// # Errors
    /// Something is missing, unreadable, or out of range.
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        let (file, base) = match &args.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("while reading {}", path.display()))?;
                let file: File = toml::from_str(&text)
                    .map_err(|e| anyhow::anyhow!("{}", e.to_string().trim_end()))
                    .with_context(|| format!("in {}", path.display()))?;
                (file, path.parent().map(Path::to_owned).unwrap_or_default())
            }
            None => (File::default(), PathBuf::new()),
        };
        let mut sink = SinkConfig::default();
        if let Some(s) = file.lease_s {
            within("lease_s", s, 1.0, 60.0)?;
            sink.lease = Nanos::from_secs_f64(s);
        }
        if let Some(r) = file.ratio {
            within("ratio", r, 0.0, 100.0)?;
            sink.ratio = r;
        }
        if let Some(r) = file.bytes_per_second {
            within("bytes_per_second", r, 0.0, 1e9)?;
            sink.bytes_per_second = r;
        }
        let mut tunnel = file.tunnel;
        let named = tunnel.config.take().map(|f| base.join(f));
        tunnel.config = args.tunnel.clone().or(named);
        let [hold, clock] =
            [defaults::MOST_HOLD, defaults::MOST_CLOCK].map(|t| t.as_millis() as f64);
        within("tunnel.hold_ms", tunnel.hold_ms as f64, 0.0, hold)?;
        within("tunnel.clock_ms", tunnel.clock_ms as f64, 0.0, clock)?;
        let burst = defaults::MOST_BURST as f64;
        within("tunnel.burst", tunnel.burst as f64, 1.0, burst)?;
        let tunnel = tunnel.config.is_some().then_some(tunnel);
        let key = args.key.clone().or(file.key_file.map(|k| base.join(k)));
        let cover = match (args.listen.or(file.listen), key) {
            (Some(listen), Some(key)) => Some((listen, read_key(&key)?)),
            (Some(_), None) => bail!(
                "--listen needs --key FILE: without a key no cover can be told from forgeries"
            ),
            (None, Some(_)) => bail!("--key needs --listen ADDR:PORT"),
            (None, None) if tunnel.is_none() && args.echo.is_empty() && args.forward.is_empty() => {
                bail!(
                    "nothing to do: give --listen ADDR:PORT with --key FILE, or --tunnel FILE, or --echo, or --forward"
                )
            }
            (None, None) => None,
        };
        if let Some(s) = args.duration {
            within("--duration", s, 0.0, 1e9)?;
        }
        Ok(Self {
            cover,
            tunnel,
            sink,
        })
    }
}

fn within(key: &str, value: f64, low: f64, high: f64) -> anyhow::Result<()> {
    if !(low..=high).contains(&value) {
        bail!("{key} is {value}, allowed is {low} to {high}");
    }
    Ok(())
}

/// Reads a key file, which nobody else may read.
fn read_key(path: &Path) -> anyhow::Result<Key> {
    use std::os::unix::fs::PermissionsExt;
    let meta = std::fs::metadata(path)
        .with_context(|| format!("while reading the key file {}", path.display()))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!(
            "key file {} has mode {mode:04o}: others can read it; run chmod 600 on it",
            path.display()
        );
    }
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("while reading {}", path.display()))?;
    Key::parse(&text).with_context(|| format!("in key file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> String {
        let args = Args::try_parse_from(["sink-server"].iter().chain(args));
        match args
            .map_err(anyhow::Error::from)
            .and_then(|a| Settings::new(&a))
        {
            Ok(s) => format!("{s:?}"),
            Err(e) => format!("{e:#}"),
        }
    }

    #[test]
    fn says_what_is_missing_or_out_of_range() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("sink.toml");
        let path = file.to_str().expect("utf-8");
        assert!(settings(&[]).contains("nothing to do"));
        assert!(settings(&["--listen", "127.0.0.1:1"]).contains("--key FILE"));
        assert!(settings(&["--forward", "x"]).contains("LISTEN=TARGET"));
        for (text, want) in [
            ("ratio = -1.0", "ratio is -1, allowed is 0 to 100"),
            ("lease = 1", "unknown field `lease`"),
            (
                "[tunnel]\nclock_ms = 200",
                "tunnel.clock_ms is 200, allowed is 0 to 100",
            ),
            ("lease_s = 0.5", "lease_s is 0.5, allowed is 1 to 60"),
        ] {
            std::fs::write(&file, text).expect("write");
            let e = settings(&["--config", path]);
            assert!(e.contains(want), "{e}");
        }
    }

    #[test]
    fn refuses_a_key_that_others_can_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("k");
        std::fs::write(&file, "0a1b".repeat(16)).expect("write");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let e = format!("{:#}", read_key(&file).expect_err("mode"));
        assert!(e.contains("0644") && e.contains("chmod 600"), "{e}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(read_key(&file).is_ok());
    }
}
