//! Programs onto interfaces: by link where the kernel has them, pinned where asked.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{self, TcAttachType};
use aya::programs::{ProgramError, SchedClassifier, Xdp, XdpMode};
use chaff_abi::program;

use super::error::{MeterError, os_code};
use super::options::{Hook, MeterOptions};
use super::pins::Pins;
use super::sys;

/// The hook that the device side's ingress program uses on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookInUse {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// tcx, or `clsact` before Linux 6.6.
    Tcx,
}

impl HookInUse {
    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp",
            Self::XdpGeneric => "xdp-skb",
            Self::Tcx => "tcx",
        }
    }
}

/// Drivers without hardware behind them, where native XDP only costs.
const VIRTUAL: [&str; 12] = [
    "veth",
    "bridge",
    "tun",
    "dummy",
    "bond",
    "bonding",
    "team",
    "macvlan",
    "ipvlan",
    "vxlan",
    "802.1Q VLAN Support",
    "wireguard",
];

/// Attached programs. Dropping it detaches what is not pinned.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) hooks: Vec<(String, HookInUse)>,
    /// Names of the pins, relative to the pin directory.
    pins: Vec<String>,
    links: Vec<FdLink>,
    pinned: Vec<PinnedLink>,
}

impl Attached {
    /// Attaches everything that the options name.
    ///
    /// # Errors
    /// The first failure; what was attached and not pinned until then is detached again.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        o: &MeterOptions,
        pins: Option<&Pins>,
    ) -> Result<Self, MeterError> {
        // Checked first: some of aya's errors hide the system's code for it.
        for name in o.lan.iter().chain(&o.wan) {
            if !sys::interface_exists(name) {
                return Err(MeterError::Interface { name: name.clone() });
            }
        }
        let mut plan = Vec::new();
        for lan in &o.lan {
            plan.push((lan, modes(o.hook, lan)?));
        }
        let mut a = Self::default();
        if let Some(pins) = pins {
            a.remove_stale(&plan, o, pins)?;
        }
        for (lan, modes) in plan {
            let hook = a.attach_lan(ebpf, lan, &modes, pins)?;
            a.hooks.push((lan.clone(), hook));
            a.tcx(
                ebpf,
                program::TCX_LAN_EGRESS,
                lan,
                TcAttachType::Egress,
                pins,
            )?;
        }
        if let Some(wan) = &o.wan {
            a.tcx(
                ebpf,
                program::TCX_WAN_INGRESS,
                wan,
                TcAttachType::Ingress,
                pins,
            )?;
            a.tcx(
                ebpf,
                program::TCX_WAN_EGRESS,
                wan,
                TcAttachType::Egress,
                pins,
            )?;
        }
        Ok(a)
    }

    /// Removes pinned links that the new options have no place for, before new ones could count the same frames twice.
    fn remove_stale(
        &mut self,
        plan: &[(&String, Vec<HookInUse>)],
        o: &MeterOptions,
        pins: &Pins,
    ) -> Result<(), MeterError> {
        let mut keep = Vec::new();
        for (lan, modes) in plan {
            let ingress = match modes.first() {
                Some(HookInUse::Tcx) | None => program::TCX_LAN_INGRESS,
                Some(_) => program::XDP_LAN,
            };
            // A hook that fell back before will do so again: keep whichever of both is there.
            let both = modes.len() > 1;
            for p in [program::TCX_LAN_INGRESS, program::XDP_LAN] {
                if both || p == ingress {
                    keep.push(Pins::link_name(p, lan));
                }
            }
            keep.push(Pins::link_name(program::TCX_LAN_EGRESS, lan));
        }
        if let Some(wan) = &o.wan {
            for p in [program::TCX_WAN_INGRESS, program::TCX_WAN_EGRESS] {
                keep.push(Pins::link_name(p, wan));
            }
        }
        for name in pins.links()? {
            if !keep.contains(&name) {
                pins.remove(&name)?;
            }
        }
        Ok(())
    }

    fn attach_lan(
        &mut self,
        ebpf: &mut Ebpf,
        lan: &str,
        modes: &[HookInUse],
        pins: Option<&Pins>,
    ) -> Result<HookInUse, MeterError> {
        let mut last = None;
        for mode in modes {
            let done = match mode {
                HookInUse::Tcx => self.tcx(
                    ebpf,
                    program::TCX_LAN_INGRESS,
                    lan,
                    TcAttachType::Ingress,
                    pins,
                ),
                HookInUse::XdpNative => self.xdp(ebpf, lan, XdpMode::Driver, pins),
                HookInUse::XdpGeneric => self.xdp(ebpf, lan, XdpMode::Skb, pins),
            };
            match done {
                Ok(()) => {
                    let other = if *mode == HookInUse::Tcx {
                        program::XDP_LAN
                    } else {
                        program::TCX_LAN_INGRESS
                    };
                    if let Some(pins) = pins {
                        pins.remove(&Pins::link_name(other, lan))?;
                    }
                    return Ok(*mode);
                }
                Err(e @ MeterError::Privilege { .. }) => return Err(e),
                Err(e) => {
                    tracing::debug!(interface = lan, hook = mode.name(), error = %e, "hook refused");
                    last = Some(e);
                }
            }
        }
        Err(last.unwrap_or(MeterError::Interface { name: lan.into() }))
    }

    fn xdp(
        &mut self,
        ebpf: &mut Ebpf,
        interface: &str,
        mode: XdpMode,
        pins: Option<&Pins>,
    ) -> Result<(), MeterError> {
        let name = program::XDP_LAN;
        let doing = format!("attaching {name} to {interface}");
        let failed = |e| failed(&doing, interface, e);
        let p = xdp_program(ebpf)?;
        let old = match pins {
            Some(pins) => open_link(&pins.link(name, interface))?,
            None => None,
        };
        if let Some(old) = old {
            let link = FdLink::from(old)
                .try_into()
                .map_err(|e| MeterError::of(doing.clone(), e))?;
            match p.attach_to_link(link) {
                Ok(id) => {
                    let link: FdLink = p
                        .take_link(id)
                        .map_err(failed)?
                        .try_into()
                        .map_err(|e| MeterError::of(doing.clone(), e))?;
                    self.keep(link, name, interface, true, pins)?;
                    return Ok(());
                }
                Err(e) => self.drop_dead(name, interface, &e, pins)?,
            }
        }
        let id = p.attach(interface, mode).map_err(failed)?;
        let link = p.take_link(id).map_err(failed)?;
        let link: FdLink = link
            .try_into()
            .map_err(|e: LinkError| MeterError::of(doing.clone(), e))?;
        self.keep(link, name, interface, false, pins)
    }

    fn tcx(
        &mut self,
        ebpf: &mut Ebpf,
        name: &'static str,
        interface: &str,
        side: TcAttachType,
        pins: Option<&Pins>,
    ) -> Result<(), MeterError> {
        let doing = format!("attaching {name} to {interface}");
        let failed = |e| failed(&doing, interface, e);
        let p = tc_program(ebpf, name)?;
        let old = match pins {
            Some(pins) => open_link(&pins.link(name, interface))?,
            None => None,
        };
        if let Some(old) = old {
            let link = FdLink::from(old)
                .try_into()
                .map_err(|e| MeterError::of(doing.clone(), e))?;
            match p.attach_to_link(link) {
                Ok(id) => {
                    let link: FdLink = p
                        .take_link(id)
                        .map_err(failed)?
                        .try_into()
                        .map_err(|e| MeterError::of(doing.clone(), e))?;
                    return self.keep(link, name, interface, true, pins);
                }
                Err(e) => self.drop_dead(name, interface, &e, pins)?,
            }
        }
        if !tcx_supported() {
            // The older hook has no links: it needs its queueing discipline, the filters of a process that died must
            // go, and the new one lives in the program object until that is dropped.
            let _ = tc::qdisc_add_clsact(interface);
            let _ = tc::qdisc_detach_program(interface, side, name);
            p.attach(interface, side).map_err(failed)?;
            return Ok(());
        }
        let id = p.attach(interface, side).map_err(failed)?;
        let link: FdLink = p
            .take_link(id)
            .map_err(failed)?
            .try_into()
            .map_err(|e| MeterError::of(doing.clone(), e))?;
        self.keep(link, name, interface, false, pins)
    }

    /// A pinned link whose interface is gone cannot be updated: its pin is removed so that a new one takes its place.
    fn drop_dead(
        &mut self,
        name: &str,
        interface: &str,
        e: &ProgramError,
        pins: Option<&Pins>,
    ) -> Result<(), MeterError> {
        tracing::debug!(interface, program = name, error = %e, "pinned link is dead");
        match pins {
            Some(pins) => pins.remove(&Pins::link_name(name, interface)),
            None => Ok(()),
        }
    }

    fn keep(
        &mut self,
        link: FdLink,
        name: &str,
        interface: &str,
        already: bool,
        pins: Option<&Pins>,
    ) -> Result<(), MeterError> {
        let Some(pins) = pins else {
            self.links.push(link);
            return Ok(());
        };
        self.pins.push(Pins::link_name(name, interface));
        if already {
            self.links.push(link);
            return Ok(());
        }
        let path = pins.link(name, interface);
        let pinned = link
            .pin(&path)
            .map_err(|e| MeterError::pin("pinning", &path, e))?;
        self.pinned.push(pinned);
        Ok(())
    }

    /// Detaches everything; the kernel does it after a grace period of RCU.
    pub(super) fn detach(self, pins: Option<&Pins>) -> Result<(), MeterError> {
        if let Some(pins) = pins {
            for name in &self.pins {
                pins.remove(name)?;
            }
        }
        // Closing the last reference detaches.
        drop((self.links, self.pinned));
        Ok(())
    }
}

/// The hooks to try, in order.
fn modes(hook: Hook, interface: &str) -> Result<Vec<HookInUse>, MeterError> {
    Ok(match hook {
        Hook::Xdp => vec![HookInUse::XdpNative],
        Hook::XdpSkb => vec![HookInUse::XdpGeneric],
        Hook::Tcx => vec![HookInUse::Tcx],
        Hook::Auto => match sys::driver(interface) {
            Ok(Some(d)) if !VIRTUAL.contains(&d.as_str()) => {
                vec![HookInUse::XdpNative, HookInUse::Tcx]
            }
            Ok(_) => vec![HookInUse::Tcx],
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                return Err(MeterError::Interface {
                    name: interface.into(),
                });
            }
            Err(_) => vec![HookInUse::Tcx],
        },
    })
}

fn failed(doing: &str, interface: &str, e: ProgramError) -> MeterError {
    if matches!(e, ProgramError::UnknownInterface { .. }) || os_code(&e) == Some(libc::ENODEV) {
        return MeterError::Interface {
            name: interface.into(),
        };
    }
    MeterError::of(doing, e)
}

fn tcx_supported() -> bool {
    aya::util::KernelVersion::current().is_ok_and(|v| v >= aya::util::KernelVersion::new(6, 6, 0))
}

fn open_link(path: &Path) -> Result<Option<PinnedLink>, MeterError> {
    match PinnedLink::from_pin(path) {
        Ok(link) => Ok(Some(link)),
        Err(e) if os_code(&e) == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(MeterError::pin("opening the pinned link", path, e)),
    }
}

/// Returns a classifier, loaded.
pub(super) fn tc_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, MeterError> {
    let p: &mut SchedClassifier = ebpf
        .program_mut(name)
        .and_then(|p| p.try_into().ok())
        .ok_or_else(|| missing(name))?;
    match p.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(p),
        Err(e) => Err(MeterError::of(format!("loading {name}"), e)),
    }
}

/// Returns the XDP program, loaded.
pub(super) fn xdp_program(ebpf: &mut Ebpf) -> Result<&mut Xdp, MeterError> {
    let name = program::XDP_LAN;
    let p: &mut Xdp = ebpf
        .program_mut(name)
        .and_then(|p| p.try_into().ok())
        .ok_or_else(|| missing(name))?;
    match p.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(p),
        Err(e) => Err(MeterError::of(format!("loading {name}"), e)),
    }
}

fn missing(name: &str) -> MeterError {
    MeterError::Object {
        what: format!("no program {name}"),
    }
}
