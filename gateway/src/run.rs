//! `gateway run`: the live gateway. Loads the meter, opens what needs privileges, gives them up, then drives
//! [`chaff_engine::Gateway`] from one loop.

use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use chaff_abi::{CoverPeer, DeviceKey, MeterConfig, Nanos, Reason, SLOT_RING, SlotCounters};
use chaff_engine::{Event, Gateway, Parts, Releases, TelemetryConfig, mapped};
use chaff_privacy::Epsilon;
use chaff_privacy::file::LedgerFile;
use chaff_wire::Key;
use rand::{Rng, SeedableRng, TryRngCore};
use rand_chacha::ChaCha20Rng;
use serde_json::json;
use tokio::io::Interest;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::config::{File, HookName, Mode};
use crate::control::{self, Request};
use crate::datapath::{
    HintOptions, Hook, Meter, MeterError, MeterOptions, clock_triple, now_monotonic,
};
use crate::export::{Exports, Paths};
use crate::hints::Hints;
use crate::injector::{Injector, InjectorOptions};
use crate::privileges::{self, Identity, PrivilegeError};
use crate::sys_net::{RecvBatch, open_cover_socket, recv_batch};
use crate::tunnel::TunnelSide;
use crate::{generators, run_config};

/// Where pinned programs and maps live.
const BPF_DIR: &str = "/sys/fs/bpf/chaff";
/// Time after which a sink that never answered is worth a word.
const SILENCE: Nanos = Nanos::from_secs(10);
/// Time between two writings of what the alerts learnt.
const HISTORY: Nanos = Nanos::from_secs(600);
/// Places of the slot ring that stay readable behind the reader; they are cleared after that, long before they are used
/// again, so a place never holds counts that were read already.
const BEHIND: u64 = 8;
/// Least time between two drains while the kernel's map is full.
const FULL_DRAIN: Nanos = Nanos::from_millis(250);
/// Time after a slot's end at which its counts are read: programs that began inside the slot have ended by then.
const SETTLE: Nanos = Nanos::from_millis(2);

/// Runs the gateway until SIGINT or SIGTERM.
///
/// # Errors
/// Configuration, privilege or kernel stand in the way; see [`exit_code`].
pub fn run(file: &File) -> anyhow::Result<ExitCode> {
    if file.interfaces.lan.is_empty() {
        bail!("interfaces.lan is missing: name at least one interface that faces the devices");
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
    let setup = Setup::new(file, identity)?;
    let inside = runtime.enter();
    let opened = Opened::new(file, &setup, identity);
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
    runtime.block_on(Live::new(file, setup, opened, locks).serve(signals))
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

/// One gateway per state folder and per instance name; held until the process ends.
#[expect(dead_code, reason = "the locks last as long as the files are open")]
struct Locks {
    state: std::fs::File,
    instance: Option<std::fs::File>,
}

impl Locks {
    fn take(file: &File, identity: Option<Identity>) -> anyhow::Result<Self> {
        prepare_state_dir(&file.gateway.state_dir, identity)?;
        let taken = |what: &str| format!("another gateway runs with {what}");
        let lock = |path: &Path| -> anyhow::Result<Option<std::fs::File>> {
            let locked = std::fs::File::create(path)
                .with_context(|| format!("while creating {}", path.display()))?;
            match locked.try_lock() {
                Ok(()) => Ok(Some(locked)),
                Err(std::fs::TryLockError::WouldBlock) => Ok(None),
                Err(std::fs::TryLockError::Error(e)) => {
                    Err(e).with_context(|| format!("while locking {}", path.display()))
                }
            }
        };
        let state = lock(&file.state(Path::new("lock")))?.with_context(|| {
            taken(&format!(
                "gateway.state_dir {}",
                file.gateway.state_dir.display()
            ))
        })?;
        let path = PathBuf::from(format!("/run/chaff-{}.lock", file.gateway.instance));
        let instance = match std::fs::File::create(&path) {
            Ok(_) => Some(lock(&path)?.with_context(|| {
                taken(&format!("gateway.instance {:?}", file.gateway.instance))
            })?),
            // Without root there is no attaching either; the state folder's lock has to do.
            Err(_) => None,
        };
        Ok(Self { state, instance })
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
    for name in file.interfaces.lan.iter().chain(&file.interfaces.wan) {
        if !Path::new("/sys/class/net").join(name).exists() {
            tracing::warn!(interface = %name, "there is no such interface here and now");
        }
    }
    warn_of_plain(file);
    if file.devices.is_empty() {
        tracing::warn!(
            "no device is listed: the whole home counts as one, and there are no alerts"
        );
    }
    let keyed = match (file.cover.mode, &file.cover.key_file) {
        (Mode::Tunnel, _) => {
            crate::tunnel::read_conf(file)?;
            true
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
        let history = read_history(&history_path)?;
        let releases = file
            .telemetry
            .enabled
            .then(|| telemetry(file))
            .transpose()?;

        let cover = match (&key, file.cover.sink) {
            (Some(_), Some(sink)) if tunnel.is_none() => Some(cover_side(file, sink)?),
            _ => None,
        };
        warn_of_plain(file);
        let slot = file.cover.slot.0;
        let epoch = now_monotonic();
        config.unix_offset = unix_offset;
        let parts = Parts {
            key,
            generators,
            releases,
            history,
        };
        let engine = Gateway::new(config, parts, seed(file)?, epoch)?;
        let far = tunnel.as_ref().map(|t| t.endpoint);
        let meter = load_meter(file, identity, epoch, slot, far)?;
        Ok(Self {
            meter,
            cover,
            tunnel,
            engine,
        })
    }
}

/// What the alerts learnt in earlier runs. A damaged file is put aside: habits can be learnt anew.
fn read_history(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("while reading {}", path.display())),
    };
    if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok() {
        return Ok(bytes);
    }
    let aside = path.with_extension("json.bad");
    std::fs::rename(path, &aside).with_context(|| format!("while renaming {}", path.display()))?;
    tracing::warn!(moved_to = %aside.display(), "the alert history is damaged; habits are learnt anew");
    Ok(Vec::new())
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
    generators::make(name, device.map_or("home", |d| &d.label), file.cover.slot.0)
        .context("cover.generator")
}

fn telemetry(file: &File) -> anyhow::Result<Releases> {
    let t = &file.telemetry;
    let epsilon = Epsilon::new(t.epsilon).context("telemetry.epsilon")?;
    Ok(Releases::new(TelemetryConfig {
        period: t.period.0,
        epsilon,
        slot_bound: t.slot_bound.0,
        simulated_noise: None,
    }))
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

/// The running gateway.
struct Live {
    file: File,
    meter: Meter,
    cover: Option<CoverSide>,
    tunnel: Option<TunnelSide>,
    engine: Gateway,
    exports: Exports,
    ledger: Option<LedgerFile>,
    control: Control,
    _locks: Locks,
    started: Nanos,
    next_slot: u64,
    next_drain: Nanos,
    last_drain: Nanos,
    next_second: Nanos,
    next_history: Nanos,
    resume_at: Option<Nanos>,
    adopted: bool,
    /// Counts of an earlier process whose maps were taken over.
    before: [u64; Reason::COUNT as usize],
    /// Packets in flow records of this process, open flows included.
    recorded: u64,
    direct: u64,
    hints: Option<Hints>,
    drain_errors: u64,
    warned_of_silence: bool,
    buf: Vec<u8>,
    refused_release: bool,
}

struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// What is opened after privileges are gone, as the user that will write it.
struct Opened {
    exports: Exports,
    ledger: Option<LedgerFile>,
    control: Control,
    before: [u64; Reason::COUNT as usize],
}

impl Opened {
    fn new(file: &File, setup: &Setup, identity: Option<Identity>) -> anyhow::Result<Self> {
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
        let ledger = if file.telemetry.enabled {
            let total =
                Epsilon::new(file.telemetry.epsilon_total).context("telemetry.epsilon_total")?;
            let path = file.state(&file.telemetry.ledger);
            Some(LedgerFile::open(&path, total, 0.0).context("telemetry.ledger")?)
        } else {
            None
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
        let exports = Exports::append(
            &paths,
            file.cover.slot.0.as_secs_f64(),
            setup.engine.flow_layout(),
        )?;
        Ok(Self {
            exports,
            ledger,
            control,
            before,
        })
    }
}

impl Live {
    fn new(file: &File, setup: Setup, opened: Opened, locks: Locks) -> Self {
        let Setup {
            meter,
            cover,
            tunnel,
            engine,
        } = setup;
        for (name, hook) in meter.hook_in_use() {
            tracing::info!(interface = %name, hook = ?hook, "meter attached");
        }
        let adopted = meter.adopted().is_some();
        if adopted {
            let seen = opened.before[Reason::Seen as usize];
            tracing::warn!(
                seen,
                "took over the meter of an earlier run; flows that were open there have no record (unrecorded_packets)"
            );
        }
        let started = engine.epoch();
        Self {
            file: file.clone(),
            meter,
            cover,
            tunnel,
            engine,
            exports: opened.exports,
            ledger: opened.ledger,
            control: opened.control,
            _locks: locks,
            started,
            next_slot: 0,
            next_drain: started + file.flows.drain.0,
            last_drain: started,
            next_second: started + Nanos::from_secs(1),
            next_history: started + HISTORY,
            resume_at: None,
            adopted,
            before: opened.before,
            recorded: 0,
            direct: 0,
            hints: file.flows.hints.then(|| Hints::new(started)),
            drain_errors: 0,
            warned_of_silence: false,
            buf: vec![0; 2_048],
            refused_release: false,
        }
    }

    async fn serve(mut self, mut signals: Signals) -> anyhow::Result<ExitCode> {
        let socket = match &self.cover {
            Some(c) => {
                let shared = c
                    .socket
                    .try_clone()
                    .context("while sharing the cover socket")?;
                shared
                    .set_nonblocking(true)
                    .context("while sharing the cover socket")?;
                Some(
                    tokio::net::UdpSocket::from_std(shared)
                        .context("while watching the cover socket")?,
                )
            }
            None => None,
        };
        let mut batch = RecvBatch::new(2_048);
        tracing::info!(devices = self.file.devices.len(), cover = ?self.file.cover.mode, "gateway runs");
        loop {
            let next = self.next_wake();
            let delay = Duration::from_nanos(next.since(now_monotonic()).0);
            tokio::select! {
                () = signals.any() => break,
                () = sleep_until(Instant::now() + delay) => self.tick(),
                ready = readable(socket.as_ref()) => {
                    ready.context("while watching the cover socket")?;
                    if let Some(s) = &socket {
                        // Only `WouldBlock` matters, and tokio takes note of it.
                        let _ready = s.try_io(Interest::READABLE, || self.receive(&mut batch));
                    }
                }
                client = self.control.listener.accept() => {
                    if let Ok((stream, _)) = client {
                        self.answer(stream).await;
                    }
                }
            }
        }
        drop(socket);
        self.stop()
    }

    fn slot_end(&self, slot: u64) -> Nanos {
        self.started + self.file.cover.slot.0.times(slot + 1)
    }

    fn next_wake(&self) -> Nanos {
        let slot = self.slot_end(self.next_slot) + SETTLE;
        let engine = self.engine.poll_timeout().map_or(Nanos::MAX, |(t, _)| t);
        let resume = self.resume_at.unwrap_or(Nanos::MAX);
        slot.min(engine)
            .min(self.next_drain)
            .min(self.next_second)
            .min(resume)
    }

    fn tick(&mut self) {
        let now = now_monotonic();
        self.read_slots(now);
        if let Some(hints) = &mut self.hints {
            hints.take(&mut self.meter);
        }
        if self.take_records(now) > 0 {
            // The map is full: sooner than planned, so that a flood finds room again.
            self.next_drain = self.next_drain.min(self.last_drain + FULL_DRAIN);
        }
        if now >= self.next_drain {
            self.next_drain = now + self.file.flows.drain.0;
            self.last_drain = now;
            self.drain();
        }
        self.engine.handle_timeout(now);
        self.transmit();
        if self.resume_at.is_some_and(|at| now >= at) {
            self.set_paused(false, None);
        }
        self.collect();
        if now >= self.next_second {
            self.next_second = now + Nanos::from_secs(1);
            let clock = clock_triple();
            self.engine
                .set_unix_offset(clock.realtime - clock.monotonic);
            // Counted and said by the exports.
            let _counted = self.exports.flush();
            if let Some(t) = &mut self.tunnel {
                t.tick(clock.realtime);
            }
            self.warn_of_silence(now);
        }
        if now >= self.next_history {
            self.next_history = now + HISTORY;
            self.save_history();
        }
    }

    /// Says once that nothing authentic comes back although it should.
    fn warn_of_silence(&mut self, now: Nanos) {
        let Some(c) = &self.cover else { return };
        if self.warned_of_silence || now < self.started + SILENCE || self.engine.is_paused() {
            return;
        }
        let report = self.engine.report();
        let wanted = report.downlink_planned.packets >= 10;
        if wanted && report.downlink.packets == 0 {
            let errors = c.injector.stats().errors;
            tracing::warn!(
                errors,
                "no downlink cover came back from the sink: is it running, and is its key the same?"
            );
            self.warned_of_silence = true;
        }
    }

    /// Writes what the alerts learnt, so that a crash leaves either the old or the new file.
    fn save_history(&mut self) -> bool {
        let path = self.file.state(Path::new("history.json"));
        let new = path.with_extension("json.new");
        let written = std::fs::File::create(&new)
            .and_then(|mut f| {
                f.write_all(&self.engine.history())
                    .and_then(|()| f.sync_all())
            })
            .and_then(|()| std::fs::rename(&new, &path));
        if let Err(e) = &written {
            tracing::warn!(error = %e, "cannot store what the alerts learnt");
        }
        written.is_ok()
    }

    /// Hands every finished slot to the engine. A place of the ring is cleared once it was read, so after standing still
    /// for longer than the ring, counts of several slots are in one, but none is lost or counted twice.
    fn read_slots(&mut self, now: Nanos) {
        let ring = u64::from(SLOT_RING);
        let current = now.since(self.started).0 / self.file.cover.slot.0.0;
        let oldest = current.saturating_sub(ring - BEHIND - 1);
        if self.next_slot < oldest {
            tracing::warn!(
                slots = current - self.next_slot,
                "the gateway stood still; counts of slots are merged"
            );
            let view = self.meter.slots();
            (self.next_slot.saturating_sub(BEHIND)..self.next_slot).for_each(|s| view.clear(s));
            self.next_slot = oldest;
        }
        while self.slot_end(self.next_slot) + SETTLE <= now {
            self.read_slot(now);
        }
    }

    /// Hands the next slot over, finished or not.
    fn read_slot(&mut self, now: Nanos) {
        let view = self.meter.slots();
        let units = self.file.devices.len() as u32 + 1;
        let slot = self.next_slot;
        let counts: Vec<SlotCounters> = (0..units).map(|i| view.read(i, slot)).collect();
        self.engine.handle_slot(now, slot, &counts);
        if slot >= BEHIND {
            view.clear(slot - BEHIND);
        }
        self.next_slot += 1;
    }

    /// Moves single packets, for which the kernel's map had no room, into the table; returns how many.
    fn take_records(&mut self, now: Nanos) -> u64 {
        let (engine, recorded) = (&mut self.engine, &mut self.recorded);
        let n = self.meter.poll_records(|record| {
            if record.cover == 0 {
                *recorded += u64::from(record.segments.max(1));
            }
            engine.handle_direct(now, &record);
        });
        self.direct += n;
        n
    }

    /// Moves the kernel's flows into the table. After an error what was not moved stays for a later drain.
    fn drain(&mut self) {
        let now = now_monotonic();
        self.take_records(now);
        let (engine, recorded) = (&mut self.engine, &mut self.recorded);
        let drained = self.meter.drain(|key, value| {
            *recorded += value.counters.iter().map(|c| c.packets).sum::<u64>();
            engine.handle_counters(now, key, &value);
        });
        if let Err(e) = drained {
            if self.drain_errors == 0 {
                tracing::warn!(error = %e, "cannot read the flow maps; further failures are only counted");
            }
            self.drain_errors += 1;
        }
        if let Some(hints) = &mut self.hints {
            hints.take(&mut self.meter);
            hints.show(now, &mut self.engine);
        }
    }

    fn transmit(&mut self) {
        if let Some(t) = &self.tunnel {
            let engine = &mut self.engine;
            t.plan(std::iter::from_fn(|| engine.poll_plan()));
            return;
        }
        while let Some(t) = self.engine.poll_transmit(&mut self.buf) {
            if let Some(c) = &self.cover {
                // A full queue is counted by the injector.
                let _counted = c.injector.submit(t.at, &self.buf[..t.len]);
            }
        }
    }

    fn receive(&mut self, batch: &mut RecvBatch) -> io::Result<()> {
        let Some(c) = &self.cover else { return Ok(()) };
        let now = now_monotonic();
        recv_batch(&c.socket, batch)?;
        for (datagram, _) in batch.iter_mut() {
            let _counted = self.engine.handle_datagram(now, datagram);
        }
        Ok(())
    }

    fn collect(&mut self) {
        self.exports.time_offset = self.engine.config().unix_offset;
        while let Some(event) = self.engine.poll_event() {
            match &event {
                Event::Alert(alert) => tracing::info!(novelty = kind(&alert.novelty), "alert"),
                Event::NewDevice(mac) => tracing::debug!(%mac, "a device that is not configured"),
                Event::Flow(_) | Event::Slot(_) => {}
            }
            let engine = &self.engine;
            self.exports
                .write(&event, |i| engine.label(i as usize).to_owned());
        }
        let ledger = &mut self.ledger;
        let mut pay = |label: &str, epsilon| match ledger {
            Some(l) => Ok(l.spend(label, epsilon)?),
            None => Err("there is no ledger".into()),
        };
        // Paying waits for the disk, so one a turn: cover must not wait for all.
        if let Some(made) = self.engine.poll_release(&mut pay) {
            match made {
                Ok(t) => self.exports.release(&t),
                Err(e) if !self.refused_release => {
                    tracing::warn!(error = %e, "no telemetry is released from now on");
                    self.refused_release = true;
                }
                Err(_) => {}
            }
        }
    }

    fn set_paused(&mut self, paused: bool, until: Option<Nanos>) {
        self.engine.set_paused(paused);
        if let Some(c) = &self.cover {
            if paused {
                c.injector.pause()
            } else {
                c.injector.resume()
            }
        }
        if let Some(t) = &mut self.tunnel {
            t.set_paused(paused);
        }
        self.resume_at = until;
        tracing::info!(paused, "cover");
    }

    async fn answer(&mut self, stream: tokio::net::UnixStream) {
        use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
        let mut line = String::new();
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read.take(control::MAX_REQUEST as u64));
        let asked =
            tokio::time::timeout(Duration::from_millis(100), read.read_line(&mut line)).await;
        let answer = match (asked, serde_json::from_str::<Request>(&line)) {
            (Ok(Ok(_)), Ok(request)) => self.handle(&request),
            (Ok(Ok(_)), Err(e)) => json!({ "error": e.to_string() }),
            _ => json!({ "error": "no request within 0.1 s" }),
        };
        let mut text = answer.to_string();
        text.push('\n');
        let _gone =
            tokio::time::timeout(Duration::from_millis(100), write.write_all(text.as_bytes()))
                .await;
    }

    fn handle(&mut self, request: &Request) -> serde_json::Value {
        match request {
            Request::Status => self.status(),
            Request::Pause { seconds } => {
                let until = seconds.map(|s| now_monotonic() + Nanos::from_secs(s));
                self.set_paused(true, until);
                json!({ "paused": true, "seconds": seconds })
            }
            Request::Resume => {
                self.set_paused(false, None);
                json!({ "paused": false })
            }
        }
    }

    fn status(&mut self) -> serde_json::Value {
        let reasons = self.meter.reasons().unwrap_or(self.before);
        let meter: serde_json::Map<String, serde_json::Value> = Reason::ALL
            .iter()
            .map(|r| (r.name().to_owned(), json!(reasons[*r as usize])))
            .collect();
        let hooks: Vec<_> = self
            .meter
            .hook_in_use()
            .iter()
            .map(|(name, hook)| json!({ "interface": name, "hook": format!("{hook:?}") }))
            .collect();
        let devices: Vec<_> = (0..=self.file.devices.len())
            .map(|i| self.engine.label(i).to_owned())
            .collect();
        let streams: serde_json::Map<String, serde_json::Value> = self
            .engine
            .streams()
            .map(|(s, i)| (s.to_string(), json!(self.engine.label(i))))
            .collect();
        let mut report = self.engine.report();
        report.seen = reasons[Reason::Seen as usize];
        report.metered = reasons[Reason::Flow as usize] + reasons[Reason::Ring as usize];
        report
            .ignored
            .insert("not_ip", reasons[Reason::NotIp as usize]);
        report
            .ignored
            .insert("malformed", reasons[Reason::Malformed as usize]);
        report
            .ignored
            .insert("lost", reasons[Reason::Lost as usize]);
        report.ignored.retain(|_, n| *n > 0);
        json!({
            "version": 1,
            "uptime_s": now_monotonic().since(self.started).as_secs_f64(),
            "paused": self.engine.is_paused(),
            "took_over": self.adopted,
            "mode": self.file.cover.mode,
            "hooks": hooks,
            "devices": devices,
            "streams": streams,
            "open_flows": self.engine.open_flows(),
            "direct_records": self.direct,
            "recorded_packets": self.recorded,
            // At the end of a run: packets whose flows were open in an earlier run that was killed.
            "unrecorded_packets": report.metered.saturating_sub(self.recorded),
            "drain_errors": self.drain_errors,
            "hints": self.hints.as_ref().map(Hints::stats),
            "output_errors": self.exports.failed,
            "meter": meter,
            "seen_before_takeover": self.before[Reason::Seen as usize],
            "gateway": report,
            "tunnel": self.tunnel.as_ref().map(TunnelSide::report),
            "injector": self.cover.as_ref().map(|c| {
                let h = c.injector.lateness();
                let us = |q| if h.is_empty() { 0.0 } else { h.value_at_quantile(q) as f64 / 1e3 };
                json!({
                    "sink": c.sink.to_string(),
                    "realtime": c.injector.is_realtime(),
                    "stats": c.injector.stats(),
                    "lateness_us": { "p50": us(0.5), "p99": us(0.99), "p999": us(0.999), "max": us(1.0) },
                })
            }),
        })
    }

    /// Ends cover, reads what is still in the kernel, writes everything out, detaches.
    fn stop(mut self) -> anyhow::Result<ExitCode> {
        tracing::info!("stopping");
        if let Some(c) = &self.cover {
            c.injector.pause();
        }
        // From here on nothing is counted: what the kernel has is all there is.
        let stopped = self
            .meter
            .stop_counting()
            .context("while detaching the meter");
        let now = now_monotonic();
        self.read_slots(now);
        self.read_slot(now);
        // One drain a generation.
        self.drain();
        self.drain();
        self.engine.finish(now_monotonic());
        self.collect();
        let status = self.status();
        let mut failed = !self.save_history();
        failed |= self.exports.flush().is_err() || self.exports.failed > 0;
        if !self.file.export.report.as_os_str().is_empty() {
            let path = self.file.state(&self.file.export.report);
            let text = format!("{status:#}");
            failed |= std::fs::write(&path, text)
                .map_err(|e| tracing::error!(error = %e, "report lost"))
                .is_err();
        }
        if let Some(c) = self.cover.take() {
            c.injector.stop();
        }
        if let Some(t) = self.tunnel.take() {
            let clock = clock_triple();
            t.finish(clock.realtime);
        }
        stopped?;
        self.meter
            .detach()
            .context("while removing the meter's maps")?;
        Ok(ExitCode::from(u8::from(failed)))
    }
}

fn kind(n: &chaff_engine::Novelty) -> &'static str {
    match n {
        chaff_engine::Novelty::Destination { .. } => "destination",
        chaff_engine::Novelty::ManyDestinations { .. } => "many_destinations",
        chaff_engine::Novelty::Rate { .. } => "rate",
    }
}

/// Waits until the cover socket has something; forever when there is none.
async fn readable(socket: Option<&tokio::net::UdpSocket>) -> io::Result<()> {
    match socket {
        Some(s) => s.readable().await,
        None => std::future::pending().await,
    }
}

impl Control {
    fn bind(path: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!(
                    "gateway.control: another gateway answers at {}",
                    path.display()
                );
            }
            std::fs::remove_file(path)
                .with_context(|| format!("gateway.control: while removing {}", path.display()))?;
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("gateway.control: {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("gateway.control: {}", path.display()))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}
