//! The local control socket: one JSON request a line, one JSON answer a line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The current counts.
    Status,
    /// Stop cover, for a while or until resumed. Metering goes on.
    Pause {
        /// Seconds; absent means until resumed.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// Send cover again.
    Resume,
    /// What an alert told is normal: learn it.
    Accept {
        /// The alert's id.
        id: u64,
    },
}

/// Longest request line, bytes.
pub const MAX_REQUEST: usize = 1_024;

/// Sends a request to a running gateway and returns its answer.
///
/// # Errors
/// No gateway listens at `socket`, it hangs, or it refuses the request.
pub fn ask(socket: &Path, request: &Request) -> anyhow::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no gateway answers at {} (is `gateway run` running?)",
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .with_context(|| {
            format!(
                "the gateway at {} did not answer within 5 s",
                socket.display()
            )
        })?;
    let answer: serde_json::Value =
        serde_json::from_str(&answer).context("the gateway's answer is not JSON")?;
    if let Some(error) = answer.get("error").and_then(|e| e.as_str()) {
        anyhow::bail!("the gateway refused: {error}");
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        for r in [
            Request::Status,
            Request::Pause { seconds: Some(600) },
            Request::Pause { seconds: None },
            Request::Resume,
            Request::Accept { id: 17 },
        ] {
            let text = serde_json::to_string(&r).expect("serialises");
            assert_eq!(
                serde_json::from_str::<Request>(&text).expect("reads"),
                r,
                "{text}"
            );
        }
        assert!(serde_json::from_str::<Request>(r#"{"command":"shutdown"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"command":"pause"}"#).is_ok());
    }
}
