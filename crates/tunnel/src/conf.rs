//! `wg`-style configuration files: what `wg-quick`, phone apps and providers use.
//!
//! ```
//! # use chaff_tunnel::conf::Conf;
//! let conf: Conf = "
//! [Interface]
//! PrivateKey = eC6lx91SxPj5TgBj7gGdMRlr9Lwie3VvH07fGIUa0EY=
//! Address = 10.7.0.2/32, fd07::2/128
//! [Peer]
//! PublicKey = SjW7Kjvwda+RakrQe8hAqH65cl3mRxOW4fIhhfYWsD0=
//! Endpoint = 192.0.2.7:51820
//! AllowedIPs = 0.0.0.0/0, ::/0
//! ".parse()?;
//! assert_eq!(conf.peers.len(), 1);
//! # Ok::<(), chaff_tunnel::conf::ConfError>(())
//! ```

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::allowed::Prefix;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// A whole file.
#[derive(Clone, Debug)]
pub struct Conf {
    /// Own private key.
    pub private_key: PrivateKey,
    /// Own inner addresses.
    pub addresses: Vec<Prefix>,
    /// Own UDP port.
    pub listen_port: Option<u16>,
    /// Tunnel MTU.
    pub mtu: Option<u16>,
    /// The peers.
    pub peers: Vec<ConfPeer>,
    /// Keys that are known but have no effect here, as written: DNS, Table, PreUp and the like.
    pub ignored: Vec<String>,
}

/// One `[Peer]`.
#[derive(Clone, Debug)]
pub struct ConfPeer {
    /// Its public key.
    pub public_key: PublicKey,
    /// Preshared key, on top of the public keys.
    pub preshared_key: Option<PresharedKey>,
    /// Inner addresses it may use.
    pub allowed: Vec<Prefix>,
    /// Where it is; a host name is left for the caller to resolve.
    pub endpoint: Option<Endpoint>,
    /// Seconds between keepalives, as written; see the README why this is best left out.
    pub keepalive: Option<u16>,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// `host:port`.
    Name(String),
}

/// A file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfError {
    /// A line makes no sense.
    #[error("line {line}: {what}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong; never a secret.
        what: String,
    },
    /// Something needed is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// Keys of wg-quick that say how to set the machine up; Chaff does that itself.
const ELSEWHERE: [&str; 8] = [
    "dns",
    "table",
    "preup",
    "postup",
    "predown",
    "postdown",
    "saveconfig",
    "fwmark",
];

impl FromStr for Conf {
    type Err = ConfError;

    fn from_str(text: &str) -> Result<Self, ConfError> {
        let mut reader = Reader::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            reader
                .line(line)
                .map_err(|what| ConfError::Line { line: i + 1, what })?;
        }
        reader.finish()
    }
}

#[derive(Default)]
enum Section {
    #[default]
    None,
    Interface,
    Peer,
}

#[derive(Default)]
struct Reader {
    section: Section,
    private_key: Option<PrivateKey>,
    addresses: Vec<Prefix>,
    listen_port: Option<u16>,
    mtu: Option<u16>,
    peers: Vec<PartPeer>,
    ignored: Vec<String>,
}

#[derive(Default)]
struct PartPeer {
    public_key: Option<PublicKey>,
    preshared_key: Option<PresharedKey>,
    allowed: Vec<Prefix>,
    endpoint: Option<Endpoint>,
    keepalive: Option<u16>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if line.eq_ignore_ascii_case("[interface]") {
            self.section = Section::Interface;
            return Ok(());
        }
        if line.eq_ignore_ascii_case("[peer]") {
            self.section = Section::Peer;
            self.peers.push(PartPeer::default());
            return Ok(());
        }
        let (key, value) = line
            .split_once('=')
            .ok_or("expected [Interface], [Peer] or Key = Value")?;
        let (key, value) = (key.trim(), value.trim());
        match self.section {
            Section::None => Err("before the first [Interface] or [Peer]".into()),
            Section::Interface => self.interface(key, value),
            Section::Peer => self.peer(key, value),
        }
    }

    fn interface(&mut self, key: &str, value: &str) -> Result<(), String> {
        let lower = key.to_ascii_lowercase();
        match lower.as_str() {
            "privatekey" => self.private_key = Some(read(key, value)?),
            "address" => self.addresses.extend(prefixes(value)?),
            "listenport" => self.listen_port = Some(number(key, value)?),
            "mtu" => self.mtu = Some(number(key, value)?),
            other if ELSEWHERE.contains(&other) => self.ignored.push(key.to_owned()),
            _ => return Err(format!("unknown key {} in [Interface]", quoted(key))),
        }
        Ok(())
    }

    fn peer(&mut self, key: &str, value: &str) -> Result<(), String> {
        let peer = self.peers.last_mut().ok_or("before the first [Peer]")?;
        match key.to_ascii_lowercase().as_str() {
            "publickey" => peer.public_key = Some(read(key, value)?),
            "presharedkey" => peer.preshared_key = Some(read(key, value)?),
            "allowedips" => peer.allowed.extend(prefixes(value)?),
            "endpoint" => peer.endpoint = Some(endpoint(value)?),
            "persistentkeepalive" if value.eq_ignore_ascii_case("off") => peer.keepalive = None,
            "persistentkeepalive" => peer.keepalive = Some(number(key, value)?),
            _ => return Err(format!("unknown key {} in [Peer]", quoted(key))),
        }
        Ok(())
    }

    fn finish(self) -> Result<Conf, ConfError> {
        let peer = |p: PartPeer| -> Result<ConfPeer, ConfError> {
            Ok(ConfPeer {
                public_key: p
                    .public_key
                    .ok_or(ConfError::Missing("a peer's PublicKey"))?,
                preshared_key: p.preshared_key,
                allowed: p.allowed,
                endpoint: p.endpoint,
                keepalive: p.keepalive,
            })
        };
        Ok(Conf {
            private_key: self
                .private_key
                .ok_or(ConfError::Missing("PrivateKey in [Interface]"))?,
            addresses: self.addresses,
            listen_port: self.listen_port,
            mtu: self.mtu,
            peers: self.peers.into_iter().map(peer).collect::<Result<_, _>>()?,
            ignored: self.ignored,
        })
    }
}

/// What was written, for an error; but not what may be a key in the wrong place.
fn quoted(text: &str) -> String {
    let base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    let longest = text.split(|c| !base64(c)).map(str::len).max();
    if longest.is_some_and(|n| n >= KEY_LENGTH) {
        "(what looks like a key)".into()
    } else {
        format!("`{text}`")
    }
}

/// Characters of a key in base64, less a few that may have been lost.
const KEY_LENGTH: usize = 40;

/// Reads a key; the error does not repeat it.
fn read<T: FromStr<Err = crate::key::KeyError>>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|e| format!("{key}: {e}"))
}

fn number(key: &str, value: &str) -> Result<u16, String> {
    value
        .parse()
        .map_err(|_| format!("{key}: {} is not a number from 0 to 65535", quoted(value)))
}

fn prefixes(value: &str) -> Result<Vec<Prefix>, String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(|p| {
            p.parse()
                .map_err(|_| format!("{} is not an address range such as 10.7.0.2/32", quoted(p)))
        })
        .collect()
}

fn endpoint(value: &str) -> Result<Endpoint, String> {
    if let Ok(address) = value.parse() {
        return Ok(Endpoint::Address(address));
    }
    let named = value
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if named {
        Ok(Endpoint::Name(value.to_owned()))
    } else {
        Err(format!("Endpoint: {} is not HOST:PORT", quoted(value)))
    }
}

impl Conf {
    /// The file's text, secrets included; wiped when dropped.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::from("[Interface]\n"));
        let line = |out: &mut String, key: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _done = writeln!(out, "{key} = {value}");
        };
        line(&mut out, "PrivateKey", &*self.private_key.reveal());
        if !self.addresses.is_empty() {
            line(&mut out, "Address", &join(&self.addresses));
        }
        if let Some(port) = self.listen_port {
            line(&mut out, "ListenPort", &port);
        }
        if let Some(mtu) = self.mtu {
            line(&mut out, "MTU", &mtu);
        }
        for p in &self.peers {
            out.push_str("\n[Peer]\n");
            line(&mut out, "PublicKey", &p.public_key);
            if let Some(key) = &p.preshared_key {
                line(&mut out, "PresharedKey", &*key.reveal());
            }
            if !p.allowed.is_empty() {
                line(&mut out, "AllowedIPs", &join(&p.allowed));
            }
            match &p.endpoint {
                Some(Endpoint::Address(a)) => line(&mut out, "Endpoint", a),
                Some(Endpoint::Name(n)) => line(&mut out, "Endpoint", n),
                None => {}
            }
            if let Some(s) = p.keepalive {
                line(&mut out, "PersistentKeepalive", &s);
            }
        }
        out
    }
}

fn join(ranges: &[Prefix]) -> String {
    let texts: Vec<String> = ranges.iter().map(Prefix::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "eC6lx91SxPj5TgBj7gGdMRlr9Lwie3VvH07fGIUa0EY=";

    #[test]
    fn what_is_written_is_read_and_foreign_keys_are_named() {
        let text = format!(
            "# mine\n[interface]\nprivatekey={KEY}\nAddress = 10.7.0.2/32,fd07::2/128\nListenPort=51820\nDNS = 9.9.9.9\n\
             [Peer]\nPublicKey = {KEY}\nPresharedKey = {KEY}\nAllowedIPs = 0.0.0.0/0\nAllowedIPs = ::/0\n\
             Endpoint = vpn.example.net:51820 # where\nPersistentKeepalive = 25\n"
        );
        let conf: Conf = text.parse().expect("valid");
        assert_eq!(conf.ignored, ["DNS"]);
        assert_eq!((conf.addresses.len(), conf.peers[0].allowed.len()), (2, 2));
        assert_eq!(
            conf.peers[0].endpoint,
            Some(Endpoint::Name("vpn.example.net:51820".into()))
        );
        let again: Conf = conf.reveal().parse().expect("valid");
        assert_eq!(*again.reveal(), *conf.reveal());
        assert!(!format!("{conf:?}").contains(KEY) || conf.peers[0].public_key.to_string() == KEY);
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let key = "eC6lx91SxPj5TgBj7gGdMRlr9Lwie3VvH07fGIUa0EY=";
        for line in [
            "Address = KEY",
            "MTU = KEY",
            "ListenPort=KEY",
            "KEY",
            "x KEY = 1",
        ] {
            let text = format!("[Interface]\n{}\n", line.replace("KEY", key));
            let said = text.parse::<Conf>().expect_err(line).to_string();
            assert!(said.contains("line 2"), "{said}");
            assert!(!said.contains(&key[..20]), "{said}");
        }
        for line in ["AllowedIPs = 10.0.0.1,KEY", "Endpoint = KEY", "KEY=KEY"] {
            let text = format!("[Peer]\n{}\n", line.replace("KEY", key));
            let said = text.parse::<Conf>().expect_err(line).to_string();
            assert!(!said.contains(&key[..20]), "{said}");
        }
    }

    #[test]
    fn errors_name_the_line_and_never_a_secret() {
        for (text, want) in [
            (
                "[Interface]\nPrivateKey = secret",
                "line 2: PrivateKey: not a key",
            ),
            ("Address = 1.2.3.4", "line 1: before"),
            ("[Interface]\nAdress = 1.2.3.4", "unknown key `Adress`"),
            ("[Interface]\nAddress = 1.2.3.4/40", "1.2.3.4/40"),
            ("[Peer]\nEndpoint = here", "`here` is not HOST:PORT"),
            ("[Peer]\nPublicKey", "line 2: expected"),
            ("[Interface]", "PrivateKey in [Interface] is missing"),
        ] {
            let e = text.parse::<Conf>().expect_err(text).to_string();
            assert!(e.contains(want) && !e.contains("secret"), "{e}");
        }
    }
}
