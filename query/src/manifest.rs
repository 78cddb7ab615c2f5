//! The list of what an import made: names, sizes, digests. Without it, or with files that are not as it says, imported
//! files are not asked about: half an import would answer as if it were all.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::flows::Format;
use crate::source::hex;

/// Its name, in the folder of the files.
pub const NAME: &str = "manifest.json";
/// A larger one is not read.
const LARGEST: u64 = 64 << 20;
/// Version of its fields.
pub const VERSION: u32 = 1;

/// What an import made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of these fields.
    pub version: u32,
    /// What the logs were.
    pub format: Format,
    /// The files.
    pub files: Vec<Entry>,
}

/// One imported file. **For the owner**: what could not be read tells of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its digest, hexadecimal.
    pub sha256: String,
    /// Its flows.
    pub rows: u64,
    /// Its columns.
    pub columns: Vec<String>,
    /// Name of the log that it was made from.
    pub source: String,
    /// That log's size.
    pub source_bytes: u64,
    /// What could not be read of it.
    pub errors: RowErrors,
}

/// What could not be read of a log: counted, never shown. Such rows stay, with what is wrong left empty, but for lines that
/// are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowErrors {
    /// Lines longer than 1 MiB, and what follows on broken JSON.
    pub lines: u64,
    /// Rows with fewer fields than the header.
    pub fields: u64,
    /// Fields that should be a number and are none.
    pub numbers: u64,
    /// Fields that should be an address and are none.
    pub addresses: u64,
}

impl RowErrors {
    /// All together.
    pub fn total(&self) -> u64 {
        self.lines + self.fields + self.numbers + self.addresses
    }
}

/// Why an imported file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not there.
    #[error("{path}: not there, so the import was not finished; remove its files and import again")]
    Missing {
        /// The manifest.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{path}: {why}")]
    Broken {
        /// The manifest.
        path: PathBuf,
        /// In a few words.
        why: String,
    },
    /// A file is not in it.
    #[error("{path}: not in its manifest; move it elsewhere, or import again")]
    Unlisted {
        /// The file.
        path: PathBuf,
    },
    /// A file is not as it says.
    #[error("{path}: {what} is not as the manifest says; import again")]
    Differs {
        /// The file.
        path: PathBuf,
        /// `its size` or `its digest`.
        what: &'static str,
    },
}

impl Manifest {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(NAME);
        let broken = |why: String| ManifestError::Broken {
            path: path.clone(),
            why,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ManifestError::Missing { path });
            }
            Err(e) => return Err(broken(e.to_string())),
        };
        let mut text = String::new();
        file.take(LARGEST)
            .read_to_string(&mut text)
            .map_err(|e| broken(e.to_string()))?;
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|_| broken("it is no manifest of an import".to_owned()))?;
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(broken(format!("version {version}, known is {VERSION}")));
        }
        Ok(manifest)
    }

    /// Whether a file is as it says, by its name and size.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn check(&self, file: &Path, bytes: u64) -> Result<(), ManifestError> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match self.files.iter().find(|e| e.name == name) {
            None => Err(ManifestError::Unlisted { path: file.into() }),
            Some(entry) if entry.bytes != bytes => Err(ManifestError::Differs {
                path: file.into(),
                what: "its size",
            }),
            Some(_) => Ok(()),
        }
    }
}

/// Whether all files of a folder are as its manifest says, digests too. Gives the manifest.
///
/// # Errors
/// [`ManifestError`].
pub fn verify(folder: &Path) -> Result<Manifest, ManifestError> {
    let manifest = Manifest::read(folder)?;
    for entry in &manifest.files {
        let path = folder.join(&entry.name);
        let differs = |what| ManifestError::Differs {
            path: path.clone(),
            what,
        };
        let (bytes, sha256) = digest(&path).map_err(|_| differs("what can be read of it"))?;
        if bytes != entry.bytes {
            return Err(differs("its size"));
        }
        if sha256 != entry.sha256 {
            return Err(differs("its digest"));
        }
    }
    Ok(manifest)
}

/// Size and SHA-256 of a file.
pub(crate) fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut sha = Sha256::new();
    let mut block = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok((bytes, hex(&sha.finalize())));
        }
        sha.update(&block[..read]);
        bytes += read as u64;
    }
}
