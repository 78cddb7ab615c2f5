//! The socket on which `gateway status` and its like ask.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::{MAX_REQUEST, Request};

/// Clients that are heard at a time; others wait.
const CLIENTS: usize = 16;
/// For a client to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket; its file is removed when this is dropped.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Clients that have not asked yet.
    reading: JoinSet<Option<Asked>>,
}

/// A request that waits for its answer.
pub(super) struct Asked {
    pub(super) request: Request,
    client: UnixStream,
}

impl Asked {
    /// Answers without waiting for the client to take it.
    pub(super) fn answer(self, answer: &serde_json::Value) {
        tokio::spawn(tell(self.client, answer.to_string()));
    }
}

async fn tell(mut client: UnixStream, mut text: String) {
    text.push('\n');
    // A client that left has no use for the answer.
    let _gone = timeout(PATIENCE, client.write_all(text.as_bytes())).await;
}

/// What the client asks; one that does not is told so.
async fn hear(mut client: UnixStream) -> Option<Asked> {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut client).take(MAX_REQUEST as u64));
    let read = timeout(PATIENCE, reader.read_line(&mut line)).await;
    let error = match (read, serde_json::from_str(&line)) {
        (Ok(Ok(_)), Ok(request)) => return Some(Asked { request, client }),
        (Ok(Ok(_)), Err(e)) => e.to_string(),
        (Ok(Err(e)), _) => e.to_string(),
        (Err(_), _) => format!("no request within {} s", PATIENCE.as_secs()),
    };
    tell(client, json!({ "error": error }).to_string()).await;
    None
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
            reading: JoinSet::new(),
        })
    }

    /// The next request. Nothing is lost when the wait is given up.
    pub(super) async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                client = self.listener.accept(), if self.reading.len() < CLIENTS => {
                    if let Ok((client, _)) = client {
                        self.reading.spawn(hear(client));
                    }
                }
                Some(heard) = self.reading.join_next() => {
                    if let Ok(Some(asked)) = heard {
                        return asked;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn line_of(client: UnixStream) -> String {
        let mut line = String::new();
        std::io::BufReader::new(client)
            .read_line(&mut line)
            .expect("readable");
        line
    }

    #[test]
    fn silent_clients_hold_up_nobody_and_nonsense_is_answered() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("control.sock");
        let client = || UnixStream::connect(&path).expect("listens");
        let inside = runtime.enter();
        let mut control = Control::bind(&path).expect("binds");
        drop(inside);
        let silent: Vec<_> = (0..CLIENTS - 2).map(|_| client()).collect();
        let (mut wrong, mut right) = (client(), client());
        wrong
            .write_all(b"{\"command\":\"shutdown\"}\n")
            .expect("sent");
        right
            .write_all(b"{\"command\":\"status\"}\n")
            .expect("sent");
        runtime.block_on(async {
            let asked = control.next().await;
            assert_eq!(asked.request, Request::Status);
            asked.answer(&json!({ "up": true }));
            let answers = tokio::task::spawn_blocking(|| [right, wrong].map(line_of));
            let [right, wrong] = tokio::select! {
                lines = answers => lines.expect("reads"),
                _ = control.next() => panic!("nobody else asks"),
            };
            assert_eq!(right, "{\"up\":true}\n");
            assert!(wrong.starts_with("{\"error\":"));
        });
        drop(silent);
    }
}
