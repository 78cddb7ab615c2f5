//! The roll call before a plan: which workers are there, whether they are of the same build, and whether they see the same
//! files. Nothing of it depends on flows but the digests, which are only compared.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tonic::body::Body;
use tower::ServiceExt as _;
use url::Url;

use crate::link::{Links, chain};

/// Where a worker takes a roll call.
pub const PATH: &str = "/chaff/roll";
/// A longer call or answer is refused.
pub const LARGEST: usize = 64 << 20;
/// A worker that does not answer in this time is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Both ends of a Parquet file.
const MAGIC: &[u8; 4] = b"PAR1";
/// A footer is not larger.
const LARGEST_FOOTER: u64 = 256 << 20;

/// What coordinator and workers must have in common, besides files.
pub fn build() -> String {
    format!(
        "{} {}, DataFusion {}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        datafusion::DATAFUSION_VERSION
    )
}

/// A Parquet file without its rows: the footer holds sizes, offsets and least and greatest values of all columns, so that other
/// data have another digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// Where it is, on all machines.
    pub path: String,
    /// How long it is.
    pub bytes: u64,
    /// SHA-256 of its footer.
    pub footer: String,
}

impl Print {
    /// Looks at a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is no Parquet file; else what the system said.
    pub fn of(path: &Path) -> io::Result<Self> {
        let other = || io::Error::new(io::ErrorKind::InvalidData, "no Parquet file");
        let text = path.to_str().ok_or_else(other)?;
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut start = [0; 4];
        if bytes < 12 || file.read_exact(&mut start).is_err() || start != *MAGIC {
            return Err(other());
        }
        let mut tail = [0; 8];
        file.seek(SeekFrom::End(-8))?;
        file.read_exact(&mut tail)?;
        let [a, b, c, d, magic @ ..] = tail;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if magic != *MAGIC || length > LARGEST_FOOTER || length + 12 > bytes {
            return Err(other());
        }
        file.seek(SeekFrom::Start(bytes - 8 - length))?;
        let mut footer = vec![0; usize::try_from(length).map_err(|_| other())?];
        file.read_exact(&mut footer)?;
        let footer = Sha256::digest(&footer)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        Ok(Self {
            path: text.to_owned(),
            bytes,
            footer,
        })
    }
}

/// What the coordinator says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Its [`build`].
    pub build: String,
    /// The files that the plan will read.
    pub files: Vec<Print>,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Here {
    /// Its [`build`].
    pub build: String,
    /// Why it cannot take part.
    pub unfit: Option<String>,
}

/// How a worker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can take part.
    Here,
    /// It is there, but of another build, or sees other files.
    Unfit(String),
    /// It did not answer.
    Gone(String),
}

/// Asks all workers at once.
pub async fn call(links: &Links, workers: &[Url], files: &[Print]) -> Vec<Standing> {
    let call = Call {
        build: build(),
        files: files.to_vec(),
    };
    let body = serde_json::to_vec(&call).unwrap_or_default();
    join_all(workers.iter().map(|worker| async {
        match timeout(PATIENCE, ask(links, worker, body.clone())).await {
            Ok(Ok(Here { build, .. })) if build != call.build => Standing::Unfit(format!(
                "it runs {build}, this is {}; install the same on all machines",
                call.build
            )),
            Ok(Ok(Here {
                unfit: Some(why), ..
            })) => Standing::Unfit(why),
            Ok(Ok(_)) => Standing::Here,
            Ok(Err(why)) => Standing::Gone(why),
            Err(_) => Standing::Gone(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }))
    .await
}

async fn ask(links: &Links, worker: &Url, body: Vec<u8>) -> Result<Here, String> {
    let channel = links.connect(worker).await?;
    let uri = worker.join(PATH).map_err(|e| chain(&e))?;
    let body = http_body_util::Full::new(body.into());
    let request = http::Request::post(uri.as_str())
        .body(Body::new(body))
        .map_err(|e| chain(&e))?;
    let response = channel.oneshot(request).await.map_err(|e| chain(&e))?;
    if !response.status().is_success() {
        return Err(format!(
            "it answers {}: no query-cluster worker",
            response.status()
        ));
    }
    let body = http_body_util::Limited::new(response.into_body(), LARGEST);
    let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|_| "its answer is no worker's".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parquet_has_a_print() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let with = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Print::of(&path)
        };
        for bytes in [
            &b""[..],
            b"#15#c_ip:1 s_ip:2 c_isint:3\n",
            b"\x1f\x8b0000000000000000",
            b"PAR1PAR1PAR1PAR9",
            b"PAR1\xff\0\0\0PAR1",
            b"PAR10000\x09\0\0\0PAR1",
        ] {
            let error = with(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let one = with(b"PAR1rows--foot\x04\0\0\0PAR1").unwrap();
        assert_eq!(one.bytes, 22);
        assert_ne!(
            one.footer,
            with(b"PAR1rows--Foot\x04\0\0\0PAR1").unwrap().footer
        );
        assert_eq!(
            one.footer,
            with(b"PAR1ROWS--foot\x04\0\0\0PAR1").unwrap().footer
        );
    }
}
