//! The socket on which `gateway status` and its like ask.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// The socket; its file is removed when this is dropped.
pub(super) struct Control {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}

impl Control {
    pub(super) fn bind(path: &Path) -> anyhow::Result<Self> {
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
