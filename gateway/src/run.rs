//! `gateway run`: the live gateway. Loads the meter, opens what needs privileges, gives them up, then drives
//! [`chaff_engine::Gateway`] from one loop (`live`); a thread of its own reads the kernel's flow maps (`feed`).

mod confine;
mod control;
mod feed;
mod live;
mod locks;
mod status;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use chaff_abi::{CoverPeer, DeviceKey, MeterConfig, Nanos, Reason};
use chaff_confine::privileges::{self, Identity, PrivilegeError};
use chaff_engine::{Gateway, Parts, mapped};
use chaff_privacy::Entropy;
use chaff_sys::clock::monotonic;
use chaff_wire::Key;
use rand::{Rng, SeedableRng, TryRngCore};
use rand_chacha::ChaCha20Rng;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::archive::Archiver;
use crate::config::{DeviceEntry, File, HookName, Mode};
use crate::datapath::{HintOptions, Hook, Meter, MeterError, MeterOptions, clock_triple};
use crate::export::{Exports, Paths};
use crate::injector::{Injector, InjectorOptions};
use crate::processes::Processes;
use crate::sys_net::{interfaces, open_cover_socket, there_are};
use crate::telemetry::FileBook;
use crate::tunnel::TunnelSide;
use crate::{alerts, generators, run_config};
use control::Control;
use live::Live;
use locks::Locks;

/// Where pinned programs and maps live.
const BPF_DIR: &str = "/sys/fs/bpf/chaff";
/// Runs the gateway until SIGINT or SIGTERM.
///
/// # Errors
/// Configuration, privilege or kernel stand in the way; see [`exit_code`].
pub fn run(file: &File) -> anyhow::Result<ExitCode> {
    if file.interfaces.lan.is_empty() {
        bail!("interfaces.lan is missing: name at least one interface that faces the devices");
    }
    let here = interfaces();
    let lan = file.interfaces.lan.iter().map(|name| ("lan", name));
    let wan = file.interfaces.wan.iter().map(|name| ("wan", name));
    if let Some((key, name)) = lan.chain(wan).find(|(_, name)| !here.contains(name)) {
        bail!(
            "interfaces.{key}: there is no interface {name} ({})",
            there_are(&here)
        );
    }
    let identity = match file.gateway.user.as_str() {
        "" => None,
        user => Some(Identity::of(user).context("gateway.user")?),
    };
    if identity.is_some() {
        privileges::seal()?;
    }
    // Nothing that the gateway writes is for other users.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("while starting")?;
    // Signals count from here on: a stop during start-up is a clean stop too.
    let signals = {
        let _inside = runtime.enter();
        Signals::new().context("while waiting for signals")?
    };
    let locks = Locks::take(file, identity)?;
    let mut setup = Setup::new(file, identity)?;
    let inside = runtime.enter();
    let opened = Opened::new(file, &mut setup, identity);
    drop(inside);
    let opened = match opened {
        Ok(opened) => opened,
        Err(e) => {
            // What an earlier run left attached stays; what this one attached goes.
            if setup.meter.adopted().is_none()
                && let Err(e) = setup.meter.detach()
            {
                tracing::error!(error = %e, "programs stay attached");
            }
            return Err(e);
        }
    };
    runtime.block_on(Live::new(file, setup, opened, locks)?.serve(signals))
}

/// The signals that end the gateway.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Checks what a configuration refers to: key, generators, user. Touches nothing.
///
/// # Errors
/// As [`run`], as far as that can be known without starting.
pub fn check(file: &File) -> anyhow::Result<()> {
    if file.interfaces.lan.is_empty() {
        bail!("interfaces.lan is missing: name at least one interface that faces the devices");
    }
    if !file.gateway.user.is_empty() {
        Identity::of(&file.gateway.user).context("gateway.user")?;
    }
    let config = run_config::engine(file)?;
    config.check()?;
    let here = interfaces();
    for name in file.interfaces.lan.iter().chain(&file.interfaces.wan) {
        if !here.contains(name) {
            tracing::warn!(interface = %name, "there is no such interface here and now ({})", there_are(&here));
        }
    }
    warn_of_plain(file);
    if file.telemetry.enabled {
        tell_plan(file, file.telemetry.terms()?.plan());
    }
    if file.devices.is_empty() {
        tracing::warn!(
            "no device is listed: the whole home counts as one, and there are no alerts"
        );
    }
    let keyed = match (file.cover.mode, &file.cover.key_file) {
        (Mode::Tunnel, _) => {
            crate::tunnel::read_conf(file)?;
            file.envelope().is_none()
        }
        (Mode::Plain | Mode::Rider, Some(path)) => {
            read_key(path)?;
            true
        }
        _ => false,
    };
    if keyed {
        for unit in config.covered() {
            generator(file, unit)?;
        }
    }
    Ok(())
}

/// Exit code for a missing privilege or kernel feature.
pub const MISSING: u8 = 3;

/// The exit code that an error calls for: 3 for missing privilege or kernel feature, else 2.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let environment = error.chain().any(|cause| {
        cause
            .downcast_ref::<MeterError>()
            .is_some_and(MeterError::is_environment)
            || cause
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
            || cause.is::<NoBpffs>()
            || cause.downcast_ref::<PrivilegeError>().is_some_and(|e| {
                matches!(e, PrivilegeError::Step { .. } | PrivilegeError::Kept { .. })
            })
    });
    if environment { MISSING } else { 2 }
}

fn warn_of_plain(file: &File) {
    if file.cover.mode == Mode::Plain {
        tracing::warn!(
            "cover.mode is plain: an observer tells cover from real traffic by its address. For testbeds only"
        );
    }
}

/// What is made while privileges last.
struct Setup {
    meter: Meter,
    cover: Option<CoverSide>,
    tunnel: Option<TunnelSide>,
    engine: Gateway,
    /// Who tells whose socket a flow is, or why nobody exact does.
    processes: Option<Result<Processes, String>>,
}

struct CoverSide {
    socket: UdpSocket,
    injector: Injector,
    sink: SocketAddr,
}

impl Setup {
    fn new(file: &File, identity: Option<Identity>) -> anyhow::Result<Self> {
        // What can be wrong with files is found before anything is attached.
        let clock = clock_triple();
        let unix_offset = clock.realtime - clock.monotonic;
        // First of all: what waits for the tunnel waits as short as can be.
        let tunnel = (file.cover.mode == Mode::Tunnel)
            .then(|| TunnelSide::start(file, seed(file)?, clock.realtime))
            .transpose()?;
        let key = match (file.cover.mode, &file.cover.key_file) {
            // The tunnel plans its own cover.
            (Mode::Tunnel, _) if file.envelope().is_some() => None,
            // Cover is made inside the tunnel, with the tunnel's keys; this one seals nothing.
            (Mode::Tunnel, _) => Some(Key::from_bytes(seed(file)?)),
            (Mode::Off, _) | (_, None) => None,
            (_, Some(path)) => Some(read_key(path)?),
        };
        let mut config = run_config::engine(file)?;
        config.check()?;
        // Nobody can aim at one bucket of the flow table.
        config.flow.hash_seed = rand::rngs::OsRng
            .try_next_u64()
            .map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
        let generators = if key.is_some() {
            let covered = config.covered();
            covered
                .into_iter()
                .map(|i| generator(file, i))
                .collect::<anyhow::Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        let history_path = file.state(Path::new("history.json"));
        let history = alerts::read(&history_path)?;
        let cover = match (&key, file.cover.sink) {
            (Some(_), Some(sink)) if tunnel.is_none() => Some(cover_side(file, sink)?),
            _ => None,
        };
        warn_of_plain(file);
        let slot = file.cover.slot.0;
        let epoch = monotonic();
        config.unix_offset = unix_offset;
        let parts = Parts {
            key,
            generators,
            // They need the ledger, which is opened as the user that will write it.
            releases: None,
            history,
        };
        let engine = Gateway::new(config, parts, seed(file)?, epoch)?;
        let far = tunnel.as_ref().map(|t| t.endpoint);
        let processes = file.flows.processes.then(Processes::exact);
        let meter = load_meter(file, identity, epoch, slot, far)?;
        Ok(Self {
            meter,
            cover,
            tunnel,
            engine,
            processes,
        })
    }
}

fn read_key(path: &Path) -> anyhow::Result<Key> {
    use std::os::unix::fs::PermissionsExt;
    let meta =
        std::fs::metadata(path).with_context(|| format!("cover.key_file: {}", path.display()))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!(
            "cover.key_file {} has mode {mode:04o}: others can read it; run chmod 600 on it",
            path.display()
        );
    }
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cover.key_file: {}", path.display()))?;
    Key::parse(&text).with_context(|| format!("cover.key_file: {}", path.display()))
}

fn generator(file: &File, unit: usize) -> anyhow::Result<Box<dyn chaff_cover::Generator>> {
    let device = unit.checked_sub(1).and_then(|i| file.devices.get(i));
    let name = device
        .and_then(|d| d.generator.as_deref())
        .unwrap_or(&file.cover.generator);
    let labels = device.map_or(vec!["home"], DeviceEntry::labels);
    generators::make(name, &labels, file.cover.slot.0).context("cover.generator")
}

/// Says how often telemetry is released and how wrong it will be.
fn tell_plan(file: &File, plan: &chaff_privacy::telemetry::Plan) {
    tracing::info!(%plan, "telemetry");
    if !plan.is_within_target() {
        tracing::warn!(
            "telemetry will be further from the truth than telemetry.target_error; with fewer metrics, a longer telemetry.period or \
             a larger telemetry.epsilon it is closer"
        );
    }
    if file.devices.is_empty() {
        tracing::warn!("no device is listed, so the telemetry has nothing but noise");
    }
}

/// Opens the budget and gives the engine its telemetry.
fn telemetry(file: &File, engine: &mut Gateway) -> anyhow::Result<FileBook> {
    let t = &file.telemetry;
    let terms = t.terms()?;
    let state = file.state(&t.state);
    let book = FileBook::open(&file.state(&t.ledger), state, terms.budget())
        .context("telemetry.ledger")?;
    let mut key = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut key)
        .map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
    let stored = book.read().context("telemetry.state")?;
    engine.set_releases(terms.releases(Entropy::System(key), &stored, &book)?);
    tell_plan(file, terms.plan());
    Ok(book)
}

fn seed(file: &File) -> anyhow::Result<[u8; 32]> {
    if let Some(seed) = file.cover.seed {
        tracing::warn!("cover.seed is set: whoever knows it can remove the cover. For tests only");
        return Ok(ChaCha20Rng::seed_from_u64(seed).random());
    }
    let mut seed = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut seed)
        .map_err(|e| anyhow::anyhow!("the system gives no randomness: {e}"))?;
    Ok(seed)
}

fn prepare_state_dir(dir: &Path, identity: Option<Identity>) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir);
    made.with_context(|| format!("gateway.state_dir: while creating {}", dir.display()))?;
    let meta =
        std::fs::metadata(dir).with_context(|| format!("gateway.state_dir: {}", dir.display()))?;
    if meta.permissions().mode() & 0o007 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o750)).with_context(
            || {
                format!(
                    "gateway.state_dir: while closing {} to other users",
                    dir.display()
                )
            },
        )?;
    }
    if let Some(id) = identity
        && nix::unistd::geteuid().is_root()
    {
        chown(dir, Some(id.uid), Some(id.gid)).with_context(|| {
            format!(
                "gateway.state_dir: while giving {} to its user",
                dir.display()
            )
        })?;
    }
    Ok(())
}

fn cover_side(file: &File, sink: SocketAddr) -> anyhow::Result<CoverSide> {
    let local: SocketAddr = if sink.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = open_cover_socket(local, sink, file.cover.mark)
        .with_context(|| format!("cover.sink: while opening the way to {sink}"))?;
    warn_of_open_way(file, &socket);
    let spin = file.cover.spin.0;
    let injector = Injector::spawn(InjectorOptions {
        spin: (spin > Nanos::ZERO).then(|| Duration::from_nanos(spin.0)),
        fifo: file.cover.realtime,
        ..InjectorOptions::new(
            socket
                .try_clone()
                .context("while sharing the cover socket")?,
        )
    })
    .context("while starting the injector")?;
    Ok(CoverSide {
        socket,
        injector,
        sink,
    })
}

/// Says that a rider has nothing to ride in.
fn warn_of_open_way(file: &File, socket: &UdpSocket) {
    let (Mode::Rider, Ok(local)) = (file.cover.mode, socket.local_addr()) else {
        return;
    };
    let Ok(mut all) = nix::ifaddrs::getifaddrs() else {
        return;
    };
    let is_local = |a: &nix::sys::socket::SockaddrStorage| {
        let v4 = a.as_sockaddr_in().map(|a| a.ip().into());
        let ip = v4.or_else(|| a.as_sockaddr_in6().map(|a| a.ip().into()));
        ip == Some(local.ip())
    };
    let leaves = all.find(|i| i.address.as_ref().is_some_and(is_local));
    if let Some(name) = leaves.map(|i| i.interface_name)
        && file.interfaces.wan.as_ref() == Some(&name)
    {
        tracing::warn!(
            interface = %name,
            "cover.mode is rider, but the way to cover.sink leads through interfaces.wan itself and not through a tunnel: an \
             observer tells cover by its address. Name the sink by its address inside the tunnel"
        );
    }
}

fn load_meter(
    file: &File,
    identity: Option<Identity>,
    epoch: Nanos,
    slot: Nanos,
    far: Option<SocketAddr>,
) -> anyhow::Result<Meter> {
    let mut devices = Vec::new();
    for (i, d) in file.engine_devices()?.iter().enumerate() {
        let index = i as u32 + 1;
        devices.extend(d.mac.map(|mac| (DeviceKey::mac(mac), index)));
        devices.extend(d.ip.iter().map(|ip| (DeviceKey::ip(mapped(*ip)), index)));
    }
    let match_ip = u32::from(file.devices.iter().any(|d| !d.ip.is_empty()));
    let cover_peer = match (file.cover.mode, far.or(file.cover.sink)) {
        (Mode::Off, _) | (_, None) => CoverPeer::default(),
        (_, Some(sink)) => CoverPeer {
            address: mapped(sink.ip()),
            port: sink.port().to_be_bytes(),
            pad: [0; 2],
        },
    };
    let options = MeterOptions {
        hook: match file.interfaces.hook {
            HookName::Auto => Hook::Auto,
            HookName::Xdp => Hook::Xdp,
            HookName::XdpSkb => Hook::XdpSkb,
            HookName::Tcx => Hook::Tcx,
        },
        lan: file.interfaces.lan.clone(),
        wan: file.interfaces.wan.clone(),
        config: MeterConfig {
            slot_epoch: epoch,
            slot_len: slot,
            cover_mark: file.cover.mark,
            match_ip,
            cover_peer,
            ..MeterConfig::default()
        },
        devices,
        max_flows: file.flows.max_flows,
        pin_dir: Some(PathBuf::from(BPF_DIR).join(&file.gateway.instance)),
        pin_owner: identity.map(|id| (id.uid, id.gid)),
        hints: file.flows.hints.then(|| HintOptions {
            packets: file.flows.hint_packets,
            idle: file.flows.idle_timeout.0,
            ..HintOptions::default()
        }),
        object: file.gateway.ebpf_object.clone(),
    };
    let bpffs = Path::new("/sys/fs/bpf");
    let is_bpffs = nix::sys::statfs::statfs(bpffs)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC);
    if !is_bpffs {
        return Err(NoBpffs.into());
    }
    let pins = options.pin_dir.clone().unwrap_or_default();
    let is_first = !pins.exists();
    Meter::load(&options).map_err(|e| {
        // What was pinned before it failed; a takeover keeps what was there.
        if is_first {
            let _nothing_there = std::fs::remove_dir_all(&pins);
        }
        anyhow::Error::from(e).context("while attaching the meter")
    })
}

/// There is no place for pinned programs.
#[derive(Debug, thiserror::Error)]
#[error(
    "/sys/fs/bpf is not a bpf file system here: mount -t bpf bpf /sys/fs/bpf; inside a namespace use \
     nsenter --net=/run/netns/NAME, because `ip netns exec` hides it"
)]
struct NoBpffs;

/// What is opened after privileges are gone, as the user that will write it.
struct Opened {
    exports: Exports,
    book: Option<FileBook>,
    control: Control,
    before: [u64; Reason::COUNT as usize],
}

impl Opened {
    fn new(file: &File, setup: &mut Setup, identity: Option<Identity>) -> anyhow::Result<Self> {
        if let Some(id) = identity {
            privileges::drop_privileges(id)?;
            if let Some(c) = &setup.cover {
                c.injector.drop_capabilities();
            }
            privileges::verify(id)?;
        }
        let state = |p: &Path| {
            if p.as_os_str().is_empty() {
                PathBuf::new()
            } else {
                file.state(p)
            }
        };
        let before = if setup.meter.adopted().is_some() {
            setup.meter.reasons()?
        } else {
            [0; Reason::COUNT as usize]
        };
        let book = match file.telemetry.enabled {
            true => Some(telemetry(file, &mut setup.engine)?),
            false => None,
        };
        let control = Control::bind(&file.state(&file.gateway.control))?;
        let (flows, slots) = (state(&file.export.flows), state(&file.export.slots));
        let (alerts, telemetry) = (state(&file.export.alerts), state(&file.export.telemetry));
        let paths = Paths {
            flows: &flows,
            slots: &slots,
            alerts: &alerts,
            telemetry: &telemetry,
        };
        let layout = setup.engine.flow_layout();
        let mut exports = Exports::append(&paths, file.cover.slot.0.as_secs_f64(), layout.clone())?;
        if file.archive.enabled {
            let folder = file.state(&file.archive.folder);
            exports.archive = Some(Archiver::open(&folder, &file.archive, layout)?);
        }
        if identity.is_some() && file.gateway.sandbox {
            confine::confine(file)?;
        }
        Ok(Self {
            exports,
            book,
            control,
            before,
        })
    }
}
