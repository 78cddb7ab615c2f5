//! Which group of addresses is one unit: a file that the owner keeps.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::source::hex;

/// Names of groups by address.
#[derive(Debug, Default)]
pub struct Units {
    groups: HashMap<String, String>,
    /// Digest of the file.
    pub version: String,
}

/// Why a file of groups cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--units {path}: {why}")]
pub struct UnitsError {
    path: PathBuf,
    why: String,
}

impl Units {
    /// Reads lines of `address,group`; empty lines and those that start with `#` are skipped.
    ///
    /// # Errors
    /// [`UnitsError`], naming file and line.
    pub fn load(path: &Path) -> Result<Self, UnitsError> {
        let wrong = |why: String| UnitsError {
            path: path.to_path_buf(),
            why,
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let mut groups = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parts = line.split_once(',').and_then(|(address, group)| {
                let address: IpAddr = address.trim().parse().ok()?;
                Some((address.to_string(), group.trim().to_owned()))
            });
            let Some((address, group)) = parts.filter(|(_, group)| !group.is_empty()) else {
                return Err(wrong(format!(
                    "line {}: expected an address, a comma and the name of a group",
                    index + 1
                )));
            };
            // Groups cannot be taken for addresses that stand for themselves.
            if groups.insert(address, format!("group {group}")).is_some() {
                return Err(wrong(format!(
                    "line {}: the address is in it twice",
                    index + 1
                )));
            }
        }
        Ok(Self {
            groups,
            version: hex(&Sha256::digest(text.as_bytes())),
        })
    }

    /// The group of an address in canonical form; itself when it is in none.
    pub fn of<'a>(&'a self, address: &'a str) -> &'a str {
        self.groups.get(address).map_or(address, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_addresses_and_says_which_line_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("units.csv");
        std::fs::write(&path, "# people\n10.0.0.1, anna\n2001:db8:0::1,anna\n").unwrap();
        let units = Units::load(&path).unwrap();
        assert_eq!(units.of("2001:db8::1"), units.of("10.0.0.1"));
        assert_eq!(units.of("10.0.0.2"), "10.0.0.2");
        for (text, says) in [("x,anna", "line 1"), ("10.0.0.1,a\n10.0.0.1,b", "line 2")] {
            std::fs::write(&path, text).unwrap();
            assert!(Units::load(&path).unwrap_err().to_string().contains(says));
        }
    }
}
