use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::Context as _;
use aya::maps::Map;
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock};
use aya::{Ebpf, EbpfLoader};
use chaff_abi::{FlowKey, Owner, owner_map};

use super::Process;
use crate::datapath::{os_code, sys};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/owners.bpfel.o");

/// Programs on the root cgroup, detached when this is dropped.
pub struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads and attaches. Needs Linux 5.15 with cgroup version 2, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; CAP_SYS_ADMIN too
    /// where no cgroup version 2 is mounted.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub fn load() -> anyhow::Result<Self> {
        Self::attach().map_err(|e| match os_code(e.as_ref()) {
            Some(libc::EPERM | libc::EACCES) => anyhow::anyhow!(
                "the exact way needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and a mounted cgroup version 2"
            ),
            Some(libc::ENODEV | libc::ENOSYS | libc::EINVAL) => anyhow::anyhow!(
                "the exact way needs Linux 5.15 with cgroup version 2 and BPF ({e:#})"
            ),
            _ => e,
        })
    }

    fn attach() -> anyhow::Result<Self> {
        let root = match cgroup_root() {
            Some(path) => File::open(&path)
                .with_context(|| format!("while opening {}", path.display()))?
                .into(),
            // `ip netns exec` hides the mounts below /sys, and not every system has one.
            None => sys::unmounted(c"cgroup2").context("while opening cgroup version 2")?,
        };
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .load(OBJECT)
            .context("while loading the program")?;
        // Links stand beside those of others whatever the mode, and the kernel takes no flag with them.
        let mode = CgroupAttachMode::Single;
        for name in ["owner_create", "owner_bind4", "owner_bind6"] {
            let program: &mut CgroupSock = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program
                .load()
                .and_then(|()| program.attach(&root, mode))
                .with_context(|| format!("while attaching {name}"))?;
        }
        for (name, at) in [
            ("owner_egress", CgroupSkbAttachType::Egress),
            ("owner_ingress", CgroupSkbAttachType::Ingress),
        ] {
            let program: &mut CgroupSkb = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program
                .load()
                .and_then(|()| program.attach(&root, at, mode))
                .with_context(|| format!("while attaching {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// The owner of a flow whose key has this host first.
    pub fn lookup(&self, key: &FlowKey) -> Option<Process> {
        let Some(Map::LruHashMap(map)) = self.ebpf.map(owner_map::FLOW_OWNERS) else {
            return None;
        };
        let owner: Owner = sys::lookup(map.fd().as_fd(), key).ok()??;
        Some(Process {
            pid: owner.pid,
            name: String::from_utf8_lossy(owner.name()).into_owned(),
        })
    }
}

/// Where cgroup version 2 is mounted, from `/proc/self/mountinfo`.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_of(&mounts)
}

fn mount_of(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "cgroup2" {
            return None;
        }
        left.split(' ').nth(4).map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_among_others() {
        let text = "35 24 0:30 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n\
                    36 35 0:31 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            mount_of(text),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mount_of("1 2 0:3 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
