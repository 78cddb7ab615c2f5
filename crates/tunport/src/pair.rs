//! Key files: made, read, paired. All are private to their owner (mode 0600).

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use chaff_tunnel::conf::{Conf, ConfPeer, Endpoint};
use chaff_tunnel::{Prefix, PresharedKey, PrivateKey, PublicKey};
use rand::TryRngCore as _;
use rand::rngs::OsRng;

/// A key file cannot be used or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The file system refuses.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("{path} has mode {mode:04o}: others can read it; run chmod 600 on it")]
    Open {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// The file makes no sense.
    #[error("{path}: {source}")]
    Conf {
        /// The file.
        path: String,
        /// What is wrong.
        source: chaff_tunnel::conf::ConfError,
    },
    /// The far end has no addresses left for one more peer.
    #[error("no inner address is left for one more peer")]
    Full,
    /// The file has no `Address` from which peers could get theirs.
    #[error("{0}: no Address in [Interface]")]
    NoAddress(String),
    /// A name has no address.
    #[error("{name} cannot be resolved: {source}")]
    Name {
        /// The name.
        name: String,
        /// What the system says.
        source: io::Error,
    },
}

fn file(path: &Path, source: io::Error) -> PairError {
    PairError::File {
        path: path.display().to_string(),
        source,
    }
}

/// Reads a `wg`-style file, which nobody else may read.
///
/// # Errors
/// It cannot be read, others can read it too, or it makes no sense.
pub fn read(path: &Path) -> Result<Conf, PairError> {
    let meta = fs::metadata(path).map_err(|e| file(path, e))?;
    let mode = meta.permissions().mode() & 0o777;
    let name = || path.display().to_string();
    if mode & 0o077 != 0 {
        return Err(PairError::Open { path: name(), mode });
    }
    let text = fs::read_to_string(path).map_err(|e| file(path, e))?;
    text.parse().map_err(|source| PairError::Conf {
        path: name(),
        source,
    })
}

/// Writes a file with mode 0600; one that is there is replaced only with `replace`, and then as a whole.
fn write(path: &Path, conf: &Conf, replace: bool) -> Result<(), PairError> {
    let make = |at: &Path| -> io::Result<()> {
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(at)?;
        out.write_all(conf.reveal().as_bytes())?;
        out.sync_all()
    };
    if !replace {
        return make(path).map_err(|e| file(path, e));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let _left_behind = fs::remove_file(new);
    make(new)
        .and_then(|()| fs::rename(new, path))
        .map_err(|e| file(path, e))
}

/// Inner networks that a new far end uses.
const ADDRESSES: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(10, 203, 7, 1)), 24),
    (
        IpAddr::V6(Ipv6Addr::new(0xfd43, 0x4841, 0x4646, 0, 0, 0, 0, 1)),
        64,
    ),
];

fn secret() -> PrivateKey {
    PrivateKey::generate(&mut OsRng.unwrap_err())
}

/// Makes a file with a new private key and nothing else but `listen` and inner addresses; never replaces one.
///
/// # Errors
/// It exists, or cannot be written.
pub fn create(path: &Path, listen: Option<u16>) -> Result<Conf, PairError> {
    let addresses = ADDRESSES
        .into_iter()
        .filter_map(|(a, bits)| Prefix::new(a, bits));
    let conf = Conf {
        private_key: secret(),
        addresses: if listen.is_some() {
            addresses.collect()
        } else {
            Vec::new()
        },
        listen_port: listen,
        mtu: None,
        peers: Vec::new(),
        ignored: Vec::new(),
    };
    write(path, &conf, false)?;
    Ok(conf)
}

/// Adds a peer to the far end's file at `path`, and returns what the gateway's file has to hold: with a new private key, or
/// with everything but the key where the gateway's `public` key is given.
///
/// # Errors
/// The file cannot be read or written, or has no address left.
pub fn add_peer(
    path: &Path,
    endpoint: &Endpoint,
    public: Option<PublicKey>,
) -> Result<Conf, PairError> {
    let mut far = read(path)?;
    if far.addresses.is_empty() {
        return Err(PairError::NoAddress(path.display().to_string()));
    }
    let own: Vec<Prefix> = far
        .addresses
        .iter()
        .map(|net| free_address(&far, *net).ok_or(PairError::Full))
        .collect::<Result<_, _>>()?;
    let private_key = secret();
    let psk = PresharedKey::generate(&mut OsRng.unwrap_err());
    far.peers.push(ConfPeer {
        public_key: public.unwrap_or_else(|| private_key.public()),
        preshared_key: Some(psk.clone()),
        allowed: own.clone(),
        endpoint: None,
        keepalive: None,
    });
    let everything = ["0.0.0.0/0", "::/0"];
    let home = Conf {
        private_key,
        addresses: own,
        listen_port: None,
        mtu: far.mtu,
        peers: vec![ConfPeer {
            public_key: far.private_key.public(),
            preshared_key: Some(psk),
            allowed: everything.iter().filter_map(|p| p.parse().ok()).collect(),
            endpoint: Some(endpoint.clone()),
            keepalive: None,
        }],
        ignored: Vec::new(),
    };
    write(path, &far, true)?;
    Ok(home)
}

/// The first address of a network that neither its owner nor a peer has.
fn free_address(far: &Conf, net: Prefix) -> Option<Prefix> {
    let taken = |a: IpAddr| {
        let peers = far.peers.iter().flat_map(|p| &p.allowed);
        net.address() == a || peers.into_iter().any(|p| p.bits() > 0 && p.contains(a))
    };
    let host = |n: u32| match net.network() {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits().wrapping_add(n))),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits().wrapping_add(n.into()))),
    };
    let full = if net.address().is_ipv4() { 32 } else { 128 };
    let broadcast = |a: IpAddr| a.is_ipv4() && !net.contains(next(a));
    (2..1_024)
        .map(host)
        .find(|a| net.contains(*a) && !broadcast(*a) && !taken(*a))
        .and_then(|a| Prefix::new(a, full))
}

fn next(a: IpAddr) -> IpAddr {
    match a {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits().wrapping_add(1)).into(),
    }
}

/// Writes a gateway's file; never replaces one.
///
/// # Errors
/// It exists, or cannot be written.
pub fn save(path: &Path, conf: &Conf) -> Result<(), PairError> {
    write(path, conf, false)
}

/// A text as QR code of half-block characters, for a terminal with light text on dark ground.
///
/// `None` when it is too long for one.
pub fn qr(text: &str) -> Option<String> {
    let code = qrcode::QrCode::new(text.as_bytes()).ok()?;
    use qrcode::render::unicode::Dense1x2;
    let mut picture = code.render::<Dense1x2>();
    picture
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark);
    Some(picture.build())
}

/// The address of an endpoint; a name is resolved, which may take a while.
///
/// # Errors
/// The name has no address.
pub fn resolve(endpoint: &Endpoint) -> Result<SocketAddr, PairError> {
    match endpoint {
        Endpoint::Address(a) => Ok(*a),
        Endpoint::Name(name) => {
            let error = |source| PairError::Name {
                name: name.clone(),
                source,
            };
            let mut found = name.to_socket_addrs().map_err(error)?;
            let none = || error(io::Error::from(io::ErrorKind::NotFound));
            found.next().ok_or_else(none)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_files_fits_together_and_is_private() {
        let dir = tempfile::tempdir().expect("temp dir");
        let far = dir.path().join("far.conf");
        let made = create(&far, Some(51_820)).expect("creates");
        assert!(create(&far, None).is_err(), "an existing file was replaced");
        let at = Endpoint::Address("192.0.2.7:51820".parse().expect("valid"));
        let first = add_peer(&far, &at, None).expect("pairs");
        let second = add_peer(&far, &at, Some(made.private_key.public())).expect("pairs");
        let home = dir.path().join("home.conf");
        save(&home, &first).expect("saves");
        for f in [&far, &home] {
            let mode = fs::metadata(f).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let (far, home) = (read(&far).expect("valid"), read(&home).expect("valid"));
        assert_eq!(far.peers.len(), 2);
        assert_eq!(far.peers[0].public_key, home.private_key.public());
        assert_eq!(home.peers[0].public_key, far.private_key.public());
        assert_eq!(home.addresses, far.peers[0].allowed);
        assert_ne!(first.addresses, second.addresses);
        assert!(home.addresses[0].to_string().starts_with("10.203.7.2/32"));
        assert!(qr(&home.reveal()).is_some_and(|q| q.lines().count() > 20));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("x.conf");
        create(&path, None).expect("creates");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let e = read(&path).expect_err("open").to_string();
        assert!(e.contains("0640") && e.contains("chmod 600"), "{e}");
    }

    #[test]
    fn a_small_network_runs_out_of_addresses() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("far.conf");
        let mut conf = create(&path, Some(1)).expect("creates");
        conf.addresses = vec!["10.9.0.1/30".parse().expect("valid")];
        write(&path, &conf, true).expect("writes");
        let at = Endpoint::Name("far.example:1".into());
        assert!(add_peer(&path, &at, None).is_ok());
        assert!(matches!(add_peer(&path, &at, None), Err(PairError::Full)));
    }
}
