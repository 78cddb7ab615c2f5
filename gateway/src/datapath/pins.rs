//! The pin directory: made, given away, read back, emptied.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use chaff_abi::{ABI_VERSION, FlowKey, FlowValue, MeterConfig, SlotCounters, map};

use super::error::MeterError;
use super::sys;

/// Maps that outlive the process.
pub(super) const MAPS: [&str; 8] = [
    map::CONFIG,
    map::DEVICES,
    map::SLOTS,
    map::RECORDS,
    map::REASONS,
    map::FLOWS[0],
    map::FLOWS[1],
    map::GENERATION,
];

/// An open pin directory. It is kept open because bpffs is closed to unprivileged users from its root on.
#[derive(Debug)]
pub(super) struct Pins {
    pub(super) path: PathBuf,
    dir: File,
    parent: Option<File>,
}

impl Pins {
    /// Makes the directory (and its parent) and gives it to `owner`.
    pub(super) fn open(path: &Path, owner: Option<(u32, u32)>) -> Result<Self, MeterError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(path)
            .map_err(|e| MeterError::pin("making the pin directory", path, e))?;
        let open = |p: &Path| {
            File::open(p).map_err(|e| MeterError::pin("opening the pin directory", p, e))
        };
        let pins = Self {
            path: path.into(),
            dir: open(path)?,
            // Only a directory of Chaff's own is given away, never the root of bpffs.
            parent: match path.parent() {
                Some(p) if p.file_name().is_some_and(|n| n == "chaff") => Some(open(p)?),
                _ => None,
            },
        };
        if let Some((uid, gid)) = owner {
            for file in std::iter::once(&pins.dir).chain(&pins.parent) {
                std::os::unix::fs::fchown(file, Some(uid), Some(gid))
                    .map_err(|e| MeterError::pin("giving away the pin directory", path, e))?;
            }
        }
        Ok(pins)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join(format!("map-{name}"))
    }

    pub(super) fn link_name(program: &str, interface: &str) -> String {
        // bpffs allows no dots in names, interfaces (VLANs) have them.
        format!("link-{program}-{}", interface.replace('.', "%2e"))
    }

    pub(super) fn link(&self, program: &str, interface: &str) -> PathBuf {
        self.path.join(Self::link_name(program, interface))
    }

    /// Returns the settings of the instance that left its maps here, if this version can go on with them.
    ///
    /// Maps of another version are removed; their programs go on counting into them until they are replaced.
    pub(super) fn adopt(&self) -> Result<Option<MeterConfig>, MeterError> {
        match self.read() {
            Ok(Some(config)) => return Ok(Some(config)),
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(MeterError::pin("reading pinned maps in", &self.path, e)),
        }
        for name in MAPS {
            self.remove(&format!("map-{name}"))?;
        }
        Ok(None)
    }

    fn read(&self) -> io::Result<Option<MeterConfig>> {
        let open = |name| sys::open_pin(&self.map(name));
        let sizes = |name, key: usize, value: usize| -> io::Result<bool> {
            let info = sys::map_info(open(name)?.as_fd())?;
            Ok(info.key_size as usize == key && info.value_size as usize == value)
        };
        for name in MAPS {
            open(name)?;
        }
        let fits = sizes(map::FLOWS[0], size_of::<FlowKey>(), size_of::<FlowValue>())?
            && sizes(map::FLOWS[1], size_of::<FlowKey>(), size_of::<FlowValue>())?
            && sizes(map::SLOTS, 4, size_of::<SlotCounters>())?
            && sizes(map::CONFIG, 4, size_of::<MeterConfig>())?;
        if !fits {
            return Ok(None);
        }
        let config: Option<MeterConfig> = sys::lookup(open(map::CONFIG)?.as_fd(), &0u32)?;
        Ok(config.filter(|c| c.abi_version == ABI_VERSION))
    }

    /// Names of pinned links.
    pub(super) fn links(&self) -> Result<Vec<String>, MeterError> {
        let failed = |e| MeterError::pin("listing the pin directory", &self.path, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("link-") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes one pin; it may be absent.
    pub(super) fn remove(&self, name: &str) -> Result<(), MeterError> {
        sys::unlink_at(self.dir.as_fd(), name)
            .map_err(|e| MeterError::pin("removing the pin", self.path.join(name), e))
    }

    /// Removes the map pins and the directory.
    pub(super) fn clear(self) -> Result<(), MeterError> {
        for name in MAPS {
            self.remove(&format!("map-{name}"))?;
        }
        if let (Some(parent), Some(name)) = (&self.parent, self.path.file_name()) {
            // Other files inside, or a parent of somebody else, are no reason to fail.
            let _ = sys::rmdir_at(parent.as_fd(), &name.to_string_lossy());
        } else {
            let _ = fs::remove_dir(&self.path);
        }
        Ok(())
    }
}
