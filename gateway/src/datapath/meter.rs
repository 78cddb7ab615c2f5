use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, TestRunResult};
use aya::{Ebpf, EbpfLoader};
use chaff_abi::{
    ABI_VERSION, DeviceKey, DirectRecord, FlowKey, FlowValue, HINT_SMALL, HintHeader, MAX_DEVICES,
    MeterConfig, Reason, SLOT_RING, constant, map, program,
};
use chaff_sys::clock::monotonic;

use super::attach::{Attached, HookInUse, tc_program, xdp_program};
use super::drain::{Buffers, DrainReport};
use super::error::MeterError;
use super::options::{HintOptions, MeterOptions, check_devices};
use super::pins::{MAPS, Pins};
use super::slots::SlotView;
use super::sys::{self, Grace, Plain as _};

/// The meter's programs, built from `gateway-ebpf` by `cargo xtask build-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/chaff.bpfel.o");

/// Records that the ring of 1 MiB holds at most, each with a header of eight bytes.
const RING_RECORDS: u64 = (1 << 20) / (size_of::<DirectRecord>() as u64 + 8);

/// The kernel's meter: loaded, attached and open for reading.
///
/// Dropping it without [`Meter::detach`] leaves pinned programs attached and counting, and detaches others.
pub struct Meter {
    ebpf: Ebpf,
    attached: Option<Attached>,
    hooks: Vec<(String, HookInUse)>,
    pins: Option<Pins>,
    flows: [OwnedFd; 2],
    generation: OwnedFd,
    current: u32,
    grace: Grace,
    records: RingBuf<MapData>,
    /// The ring of copies, and how many small ones it holds.
    hints: Option<(RingBuf<MapData>, u64)>,
    reasons: ReasonCounts,
    devices: OwnedFd,
    slots: SlotView,
    config: MeterConfig,
    adopted: Option<MeterConfig>,
    buffers: Buffers,
}

/// What became of the frames. Cloning is cheap and reads the same counts.
#[derive(Clone, Debug)]
pub struct ReasonCounts {
    map: Arc<OwnedFd>,
    cpus: usize,
}

impl ReasonCounts {
    /// Returns the counts, summed over CPUs, indexed by [`Reason`].
    ///
    /// # Errors
    /// The kernel's error.
    pub fn read(&self) -> Result<[u64; Reason::COUNT as usize], MeterError> {
        let mut sum = [0; Reason::COUNT as usize];
        let rows: Vec<[u64; Reason::COUNT as usize]> =
            sys::lookup_per_cpu(self.map.as_fd(), self.cpus)
                .map_err(|e| MeterError::of("reading the reasons", e))?;
        for row in rows {
            for (a, b) in sum.iter_mut().zip(row) {
                *a += b;
            }
        }
        Ok(sum)
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter")
            .field("attached", &self.attached)
            .field("pins", &self.pins)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Meter {
    /// Loads the programs, attaches them and takes over what an earlier process left in the pin directory.
    ///
    /// # Errors
    /// [`MeterError::Privilege`], [`MeterError::Kernel`] (both: exit code 3), or what is wrong with options,
    /// interfaces or the object.
    pub fn load(o: &MeterOptions) -> Result<Self, MeterError> {
        o.check()?;
        let config = MeterConfig {
            abi_version: ABI_VERSION,
            ..o.config
        };
        let pins = match &o.pin_dir {
            Some(dir) => Some(Pins::open(dir, o.pin_owner)?),
            None => None,
        };
        let adopted = match &pins {
            Some(pins) => pins.adopt()?,
            None => None,
        };
        let cpus = possible_cpus()?;
        let mut ebpf = load_object(o, pins.as_ref(), cpus)?;
        let fd = |ebpf: &Ebpf, name| descriptor(ebpf, name);
        let flows = [fd(&ebpf, map::FLOWS[0])?, fd(&ebpf, map::FLOWS[1])?];
        let generation = fd(&ebpf, map::GENERATION)?;
        let reasons = fd(&ebpf, map::REASONS)?;
        let devices = fd(&ebpf, map::DEVICES)?;
        let settings = fd(&ebpf, map::CONFIG)?;
        let highest = o.devices.iter().map(|(_, i)| *i).max().unwrap_or(0);
        let slots = SlotView::new(fd(&ebpf, map::SLOTS)?.as_fd(), cpus, highest + 1)?;
        let ring = |name| {
            MapData::from_fd(fd(&ebpf, name)?)
                .and_then(|d| RingBuf::try_from(Map::RingBuf(d)))
                .map_err(|e| MeterError::of(format!("mapping the ring {name}"), e))
        };
        let records = ring(map::RECORDS)?;
        let hints = match o.hints {
            Some(h) => {
                // The kernel adds eight bytes to each.
                let each = size_of::<HintHeader>() + HINT_SMALL + 8;
                Some((ring(map::HINTS)?, u64::from(h.ring_bytes) / each as u64))
            }
            None => None,
        };
        let current = sys::lookup(generation.as_fd(), &0u32)
            .map_err(|e| MeterError::of("reading the generation", e))?
            .unwrap_or(0);
        set_devices(devices.as_fd(), &o.devices)?;
        let same_slots = adopted
            .is_some_and(|a| (a.slot_epoch, a.slot_len) == (config.slot_epoch, config.slot_len));
        sys::update(settings.as_fd(), &0u32, &config)
            .map_err(|e| MeterError::of("writing the settings", e))?;
        if !same_slots {
            slots.clear_all();
        }
        let attached = Attached::new(&mut ebpf, o, pins.as_ref())?;
        Ok(Self {
            ebpf,
            hooks: attached.hooks.clone(),
            attached: Some(attached),
            pins,
            flows,
            generation,
            current,
            grace: Grace::new().map_err(|e| MeterError::of("making the grace map", e))?,
            records,
            hints,
            reasons: ReasonCounts {
                map: reasons.into(),
                cpus,
            },
            devices,
            slots,
            config,
            adopted,
            buffers: Buffers::new(),
        })
    }

    /// Returns the settings of the process that left this meter running, when its counts were taken over.
    /// To keep slot numbers, read them first with [`Meter::pinned_config`] and pass the same epoch.
    pub fn adopted(&self) -> Option<&MeterConfig> {
        self.adopted.as_ref()
    }

    /// Returns the settings in use.
    pub fn config(&self) -> &MeterConfig {
        &self.config
    }

    /// Reads the settings that an earlier process left in a pin directory.
    ///
    /// # Errors
    /// When the directory cannot be read; an absent one or one of another version is `None`.
    pub fn pinned_config(pin_dir: &Path) -> Result<Option<MeterConfig>, MeterError> {
        match pin_dir.try_exists() {
            Ok(true) => Pins::open(pin_dir, None)?.adopt(),
            Ok(false) => Ok(None),
            Err(e) => Err(MeterError::pin("looking for", pin_dir, e)),
        }
    }

    /// Returns the hook on each LAN interface.
    pub fn hook_in_use(&self) -> &[(String, HookInUse)] {
        &self.hooks
    }

    /// Replaces the devices that have slot counters. A flow that exists keeps its device until the next drain.
    /// An index above those given to [`Meter::load`] is counted, but [`SlotView::clear`] does not reach it.
    ///
    /// # Errors
    /// [`MeterError::Options`] for an index out of range, else the kernel's error.
    pub fn set_devices(&mut self, devices: &[(DeviceKey, u32)]) -> Result<(), MeterError> {
        set_devices(self.devices.as_fd(), devices)
    }

    /// Switches the programs to the other generation, waits until none uses the old one, and moves all its flows out.
    ///
    /// Totals are exact: every packet is in exactly one drain. Calls should be at least a few seconds apart; the map
    /// holds the flows of one interval.
    ///
    /// # Errors
    /// The kernel's error; flows not handed over yet stay for the drain after the next.
    pub fn drain(&mut self, f: impl FnMut(FlowKey, FlowValue)) -> Result<DrainReport, MeterError> {
        let start = monotonic();
        let old = self.current % 2;
        let new = self.current.wrapping_add(1);
        sys::update(self.generation.as_fd(), &0u32, &new)
            .map_err(|e| MeterError::of("switching the generation", e))?;
        self.current = new;
        self.grace
            .wait()
            .map_err(|e| MeterError::of("waiting for a grace period", e))?;
        let grace = monotonic().since(start);
        let (flows, calls, method) = self.buffers.empty(self.flows[old as usize].as_fd(), f)?;
        Ok(DrainReport {
            flows,
            calls,
            grace,
            took: monotonic().since(start),
            method,
        })
    }

    /// Hands over the packets that found no room in the flow map; returns how many. At most as many as the ring holds:
    /// under a flood the programs fill it while it is read, and this would not end before the flood does.
    pub fn poll_records(&mut self, mut f: impl FnMut(DirectRecord)) -> u64 {
        let mut n = 0;
        while n < RING_RECORDS
            && let Some(item) = self.records.next()
        {
            if let Some(record) = DirectRecord::from_bytes(&item) {
                f(record);
                n += 1;
            }
        }
        n
    }

    /// Hands over the copies of first packets, oldest first, each with the frame's first bytes; returns how many, at most as
    /// many as the ring holds. The bytes are what people said: they are for memory only.
    pub fn poll_hints(&mut self, mut f: impl FnMut(HintHeader, &[u8])) -> u64 {
        let Some((ring, most)) = &mut self.hints else {
            return 0;
        };
        let mut n = 0;
        while n < *most
            && let Some(item) = ring.next()
        {
            n += 1;
            let Some((header, rest)) =
                HintHeader::from_bytes(&item).zip(item.get(size_of::<HintHeader>()..))
            else {
                continue;
            };
            if let Some(bytes) = rest.get(..header.len as usize) {
                f(header, bytes);
            }
        }
        n
    }

    /// Returns the descriptor that becomes readable when there are records. Poll with a timeout of 100 ms all the same.
    pub fn records_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }

    /// Returns the counts per device and slot.
    pub fn slots(&self) -> SlotView {
        self.slots.clone()
    }

    /// Returns what became of the frames, summed over CPUs, indexed by [`Reason`].
    ///
    /// # Errors
    /// The kernel's error.
    pub fn reasons(&self) -> Result<[u64; Reason::COUNT as usize], MeterError> {
        self.reasons.read()
    }

    /// Returns what reads the reasons without the meter, for another thread.
    pub fn reason_counts(&self) -> ReasonCounts {
        self.reasons.clone()
    }

    /// Detaches the programs but keeps the maps: nothing is counted any more, and what was counted can be read to the
    /// last packet. [`Meter::detach`] then removes the maps.
    ///
    /// # Errors
    /// As [`Meter::detach`].
    pub fn stop_counting(&mut self) -> Result<(), MeterError> {
        match self.attached.take() {
            Some(attached) => attached.detach(self.pins.as_ref()),
            None => Ok(()),
        }
    }

    /// Detaches the programs and removes the pins. Works without privileges when the pins were given to this user.
    ///
    /// # Errors
    /// [`MeterError::Pin`] or [`MeterError::Privilege`] when a pin could not be removed: it then stays attached.
    pub fn detach(mut self) -> Result<(), MeterError> {
        self.stop_counting()?;
        match self.pins {
            Some(pins) => pins.clear(),
            None => Ok(()),
        }
    }

    /// Runs a program on crafted bytes (BPF_PROG_TEST_RUN), for tests and benchmarks; it counts as if seen.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn test_run(
        &mut self,
        name: &str,
        options: TestRunOptions<'_>,
    ) -> Result<TestRunResult, MeterError> {
        let result = if name == program::XDP_LAN {
            xdp_program(&mut self.ebpf)?.test_run(options)
        } else {
            tc_program(&mut self.ebpf, name)?.test_run(options)
        };
        result.map_err(|e| MeterError::of(format!("running {name}"), e))
    }
}

fn load_object(o: &MeterOptions, pins: Option<&Pins>, cpus: usize) -> Result<Ebpf, MeterError> {
    let paths: Vec<_> = MAPS
        .iter()
        .filter_map(|name| pins.map(|p| (*name, p.map(name))))
        .collect();
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for name in map::FLOWS {
        loader.map_max_entries(name, o.max_flows);
    }
    loader.map_max_entries(map::SLOTS, cpus as u32 * MAX_DEVICES * SLOT_RING);
    let hints = o.hints.unwrap_or(HintOptions {
        packets: 0,
        ring_bytes: 4_096,
        ..HintOptions::default()
    });
    let (packets, idle) = (u32::from(hints.packets), hints.idle.0);
    loader.override_global(constant::HINT_PACKETS, &packets, true);
    loader.override_global(constant::HINT_IDLE, &idle, true);
    loader.map_max_entries(map::HINTS, hints.ring_bytes);
    let hinted = if o.hints.is_some() { o.max_flows } else { 64 };
    loader.map_max_entries(map::HINTED, hinted);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    let loaded = match &o.object {
        Some(path) => loader.load_file(path),
        None => loader.load(OBJECT),
    };
    loaded.map_err(|e| match e {
        aya::EbpfError::ParseError(e) => MeterError::Object {
            what: e.to_string(),
        },
        e => MeterError::of("loading the meter", e),
    })
}

/// Another descriptor of a map. The object keeps its own: programs that load later refer to that number.
fn descriptor(ebpf: &Ebpf, name: &str) -> Result<OwnedFd, MeterError> {
    match ebpf.map(name) {
        Some(Map::Array(d) | Map::HashMap(d) | Map::PerCpuArray(d) | Map::RingBuf(d)) => d
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| MeterError::of(format!("opening map {name}"), e)),
        _ => Err(MeterError::Object {
            what: format!("no map {name}"),
        }),
    }
}

fn set_devices(map: BorrowedFd<'_>, devices: &[(DeviceKey, u32)]) -> Result<(), MeterError> {
    check_devices(devices)?;
    let failed = |e| MeterError::of("writing the devices", e);
    let mut old = Vec::new();
    let mut at: Option<DeviceKey> = None;
    while let Some(key) = sys::next_key(map, at.as_ref()).map_err(failed)? {
        old.push(key);
        at = Some(key);
    }
    for key in old {
        if !devices.iter().any(|(k, _)| *k == key) {
            sys::delete(map, &key).map_err(failed)?;
        }
    }
    for (key, index) in devices {
        sys::update(map, key, index).map_err(failed)?;
    }
    Ok(())
}

fn possible_cpus() -> Result<usize, MeterError> {
    aya::util::nr_cpus().map_err(|(what, e)| MeterError::of(what, e))
}
