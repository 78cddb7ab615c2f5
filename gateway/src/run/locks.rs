//! One gateway per state folder and per instance name.

use std::path::{Path, PathBuf};

use anyhow::Context;
use chaff_confine::privileges::Identity;

use super::prepare_state_dir;
use crate::config::File;

/// One gateway per state folder and per instance name; held until the process ends.
#[expect(dead_code, reason = "the locks last as long as the files are open")]
pub(super) struct Locks {
    state: std::fs::File,
    instance: Option<std::fs::File>,
}

impl Locks {
    pub(super) fn take(file: &File, identity: Option<Identity>) -> anyhow::Result<Self> {
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
