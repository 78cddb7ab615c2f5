//! A worker: runs the plans that reach its port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use datafusion_distributed::{Worker, WorkerQueryContext};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::link::{ALIVE_EVERY, ALIVE_WITHIN, Links, Tls, chain};
use crate::roll::{self, Call, Here, Print};
use crate::session;
use crate::store::ReadOnly;

/// Whether a worker may listen there: beyond this machine only with TLS, or when its owner insists.
///
/// # Errors
/// One sentence that says why not.
pub fn check_bind(bind: SocketAddr, tls: bool, insecure: bool) -> Result<(), String> {
    if bind.ip().is_loopback() || tls || insecure {
        return Ok(());
    }
    Err(format!(
        "--bind {bind}: other machines can reach this, and whoever reaches a worker reads every row below its --data, without noise and without a budget. Give --tls-cert, --tls-key and --tls-ca, so that only those with a certificate can, or bind to 127.0.0.1, or say --insecure-network"
    ))
}

/// Serves until `stop` ends.
///
/// # Errors
/// One sentence: what the system said of a folder or the port, or TLS of the files.
pub async fn serve(
    listener: TcpListener,
    folders: &[PathBuf],
    tls: Option<Tls>,
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let runtime = session::runtime(folders).map_err(|e| e.to_string())?;
    let files = Arc::new(ReadOnly::new(folders).map_err(|e| e.to_string())?);
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(ALIVE_EVERY))
        .http2_keepalive_timeout(Some(ALIVE_WITHIN));
    if let Some(tls) = &tls {
        server = server.tls_config(tls.server()).map_err(|e| chain(&e))?;
    }
    let links = Links::new(tls);
    let worker = Worker::from_session_builder(move |context: WorkerQueryContext| {
        std::future::ready(session::of_worker(context, links.clone()))
    })
    .with_runtime_env(runtime)
    .with_version(roll::build());
    let mut routes = Routes::new(worker.into_worker_server());
    let call = post(move |body: Bytes| {
        let files = Arc::clone(&files);
        async move {
            // Files are read while no plan waits.
            tokio::task::spawn_blocking(move || answer(&files, &body))
                .await
                .unwrap_or_default()
        }
    });
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() =
        router.route(roll::PATH, call.layer(DefaultBodyLimit::max(roll::LARGEST)));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .map_err(|e| chain(&e))
}

/// Compares the files with its own.
fn answer(files: &ReadOnly, body: &[u8]) -> Vec<u8> {
    let unfit = match serde_json::from_slice::<Call>(body) {
        // Another build may say other things.
        Ok(call) if call.build != roll::build() => None,
        Ok(call) => call.files.iter().find_map(|print| differs(files, print)),
        Err(_) => None,
    };
    let here = Here {
        build: roll::build(),
        unfit,
    };
    serde_json::to_vec(&here).unwrap_or_default()
}

fn differs(files: &ReadOnly, print: &Print) -> Option<String> {
    let path = std::path::Path::new(&print.path);
    if !files.has(path) {
        return Some(format!(
            "{}: not there, or not below this worker's --data; all machines must see the same files at the same paths",
            print.path
        ));
    }
    match Print::of(path) {
        Ok(own) if own == *print => None,
        Ok(own) => Some(format!(
            "{}: another file ({} bytes) than the coordinator's ({} bytes); all machines must see the same files at the same paths",
            print.path, own.bytes, print.bytes
        )),
        Err(error) => Some(format!("{}: {error}", print.path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_open() {
        for (bind, tls, insecure, good) in [
            ("127.0.0.1:0", false, false, true),
            ("[::1]:0", false, false, true),
            ("0.0.0.0:50050", false, false, false),
            ("[::]:50050", false, false, false),
            ("10.0.0.2:50050", false, false, false),
            ("10.0.0.2:50050", true, false, true),
            ("0.0.0.0:50050", false, true, true),
        ] {
            let got = check_bind(bind.parse().unwrap(), tls, insecure);
            assert_eq!(got.is_ok(), good, "{bind}");
        }
    }

    #[test]
    fn says_which_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a.parquet");
        let files = ReadOnly::new(&[dir.path().to_path_buf()]).unwrap();
        std::fs::write(&path, b"PAR1rows--foot\x04\0\0\0PAR1").unwrap();
        let print = Print::of(&path).unwrap();
        let says = |build: String, files_of_call: Vec<Print>| {
            let call = Call {
                build,
                files: files_of_call,
            };
            let answer = answer(&files, &serde_json::to_vec(&call).unwrap());
            serde_json::from_slice::<Here>(&answer).unwrap()
        };
        assert_eq!(says(roll::build(), vec![print.clone()]).unfit, None);
        let outside = Print {
            path: "/etc/hostname".to_owned(),
            ..print.clone()
        };
        let unfit = says(roll::build(), vec![print.clone(), outside]).unfit;
        assert!(unfit.unwrap().contains("/etc/hostname"));
        std::fs::write(&path, b"PAR1rows--FOOT\x04\0\0\0PAR1").unwrap();
        let unfit = says(roll::build(), vec![print.clone()]).unfit.unwrap();
        assert!(
            unfit.contains("another file") && unfit.contains("a.parquet"),
            "{unfit}"
        );
        assert_eq!(says("0".to_owned(), vec![print]).build, roll::build());
    }
}
