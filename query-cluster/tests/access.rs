//! Who may reach a worker, and what is refused before anything is paid.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use chaff_query::{Databases, Engine, Plain};
use chaff_query_cluster::Limits;
use chaff_query_cluster::link::Access;
use common::{PROGRAM, Site, Worker, cluster, over, said, volume};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

/// An authority and an end that it signed, as files.
fn keys(site: &Site, name: &str, address: &str) -> Access {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut end = CertificateParams::new(vec![address.to_owned()]).unwrap();
    end.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    let certificate = end.signed_by(&key, &ca).unwrap();
    let file = |kind: &str, text: String| -> Option<PathBuf> {
        let path = site.write(&format!("{name}.{kind}"), &text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Some(path)
    };
    Access {
        tls_cert: file("crt", certificate.pem()),
        tls_key: file("key", key.serialize_pem()),
        tls_ca: file("ca", ca.pem()),
        insecure_network: false,
    }
}

fn options(access: &Access) -> Vec<String> {
    let text = |path: &Option<PathBuf>| path.as_ref().unwrap().display().to_string();
    vec![
        "--tls-cert".to_owned(),
        text(&access.tls_cert),
        "--tls-key".to_owned(),
        text(&access.tls_key),
        "--client-ca".to_owned(),
        text(&access.tls_ca),
    ]
}

#[test]
fn only_those_with_a_certificate_reach_a_worker() {
    let site = Site::with_flows(2000);
    let ours = keys(&site, "ours", "127.0.0.1");
    let theirs = keys(&site, "theirs", "127.0.0.1");
    let given = options(&ours);
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let workers = [
        Worker::with(&site.parquet(), &given),
        Worker::with(&site.parquet(), &given),
    ];
    let urls = [workers[0].url.as_str(), workers[1].url.as_str()];
    let (source, none) = (site.source(), Databases::default());
    let ready = |access: &Access, urls: &[&str]| {
        let clustered = over(urls, access.tls().unwrap(), Limits::default());
        clustered.ready(&source, &volume())
    };
    // The right one, and workers reach one another as well.
    ready(&ours, &urls).unwrap();
    let clustered = over(&urls, ours.tls().unwrap(), Limits::default());
    let want = Plain::default().table(&source, &volume(), &none).unwrap();
    assert_eq!(clustered.table(&source, &volume(), &none).unwrap(), want);
    // A certificate of another authority, whichever authority it trusts itself.
    assert!(ready(&theirs, &urls).is_err());
    let mixed = Access {
        tls_ca: ours.tls_ca.clone(),
        ..theirs.clone()
    };
    assert!(ready(&mixed, &urls).is_err());
    // None at all, and no TLS.
    let plain = urls.map(|u| u.replace("https", "http"));
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    assert!(cluster(&plain).ready(&source, &volume()).is_err());
    // A worker of another authority, or with another's address in its certificate, is not believed.
    let elsewhere = keys(&site, "elsewhere", "192.0.2.1");
    for other in [&theirs, &elsewhere] {
        let given = options(other);
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let impostor = Worker::with(&site.parquet(), &given);
        let trusting = Access {
            tls_ca: if std::ptr::eq(other, &raw const elsewhere) {
                elsewhere.tls_ca.clone()
            } else {
                ours.tls_ca.clone()
            },
            ..ours.clone()
        };
        assert!(ready(&trusting, &[&impostor.url]).is_err());
    }
}

#[test]
fn ports_open_to_other_machines_need_tls() {
    let site = Site::new();
    for bind in ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"] {
        let output = Command::new(PROGRAM)
            .args(["worker", "--bind", bind, "--data"])
            .arg(site.path("."))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let says = said(&output);
        assert!(
            says.contains("--tls-cert") && says.contains("reads every row"),
            "{says}"
        );
    }
    let output = site
        .command(&["http://192.0.2.1:50051"], &site.path("."), "ledger")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("--insecure-network"),
        "{}",
        said(&output)
    );
}

#[test]
fn text_is_refused_and_nothing_is_paid() {
    let site = Site::with_flows(400);
    let packed = site.path("log.gz");
    let gzip = Command::new("gzip")
        .arg("-kc")
        .arg(site.path("logs/log 0"))
        .output()
        .unwrap();
    fs::write(&packed, gzip.stdout).unwrap();
    let worker = Worker::start(&site.path("."));
    for data in [site.path("logs"), packed] {
        let output = site
            .command(&[&worker.url], &data, "ledger")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let says = said(&output);
        assert!(
            says.contains("query import") && says.contains("not Parquet"),
            "{says}"
        );
    }
    assert_eq!(site.entries("ledger"), 0);
}

#[test]
fn workers_that_see_other_files_are_refused() {
    let site = Site::with_flows(400);
    let other = Site::with_flows(400);
    let workers = [
        Worker::start(&site.parquet()),
        Worker::start(&other.parquet()),
    ];
    let urls = [workers[0].url.as_str(), workers[1].url.as_str()];
    let output = site
        .command(&urls, &site.parquet(), "ledger")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let says = said(&output);
    assert!(
        says.contains(urls[1]) && says.contains("same files"),
        "{says}"
    );
    assert_eq!(site.entries("ledger"), 0);
}

#[test]
fn what_is_no_worker_is_not_one() {
    let site = Site::with_flows(400);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // It takes connections and never says anything.
    let ready = cluster(&[&url]).ready(&site.source(), &volume());
    assert!(
        ready
            .unwrap_err()
            .to_string()
            .contains("none can be reached")
    );
}
