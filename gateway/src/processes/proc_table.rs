use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use chaff_abi::FlowKey;

use super::Process;

/// Sockets of this network namespace and their processes at one moment, and those remembered from before.
#[derive(Debug, Default)]
pub struct ProcTable {
    /// By protocol, local and remote end; a remote end of zeros stands for all.
    sockets: BTreeMap<Socket, (Process, Instant)>,
}

type Socket = (u8, SocketAddr, SocketAddr);

/// Sockets remembered at most, those of the newest reading always.
const MOST: usize = 65_536;
/// Protocols, and files in `/proc/net` that list their sockets. A raw socket's local port is its protocol.
const FILES: [(&str, Option<u8>); 8] = [
    ("tcp", Some(6)),
    ("tcp6", Some(6)),
    ("udp", Some(17)),
    ("udp6", Some(17)),
    ("icmp", Some(1)),
    ("icmp6", Some(58)),
    ("raw", None),
    ("raw6", None),
];

impl ProcTable {
    /// Reads `/proc`. What cannot be read is left out: without privileges only the own user's processes are known.
    pub fn read() -> Self {
        let now = Instant::now();
        let mut inodes = BTreeMap::new();
        for (file, protocol) in FILES {
            // The files of IPv6 are absent where there is none.
            let text = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
            for (local, remote, inode) in text.lines().skip(1).filter_map(socket) {
                let no_port = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
                let socket = match protocol {
                    Some(p @ (6 | 17)) => (p, local, remote),
                    // Keys of other protocols have no ports.
                    Some(p) => (p, no_port(local), no_port(remote)),
                    None => (local.port() as u8, no_port(local), no_port(remote)),
                };
                inodes.insert(inode, socket);
            }
        }
        let mut table = Self::default();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let folder = process.path();
            let mut name = None;
            let files = fs::read_dir(folder.join("fd"));
            for file in files.into_iter().flatten().flatten() {
                let socket = fs::read_link(file.path()).ok().and_then(|target| {
                    let text = target.to_string_lossy();
                    let inode: u64 = text
                        .strip_prefix("socket:[")?
                        .strip_suffix(']')?
                        .parse()
                        .ok()?;
                    inodes.get(&inode).copied()
                });
                let Some(socket) = socket else { continue };
                let name = name.get_or_insert_with(|| {
                    let text = fs::read_to_string(folder.join("comm")).unwrap_or_default();
                    text.trim_end().to_owned()
                });
                let process = Process {
                    pid,
                    name: name.clone(),
                };
                table.sockets.insert(socket, (process, now));
            }
        }
        table
    }

    /// Takes a newer reading over; what is not in it any more is remembered for `keep`, as far as there is room.
    pub fn replace(&mut self, newer: Self, keep: Duration) {
        let old = std::mem::replace(self, newer);
        for (socket, owner) in old.sockets {
            if self.sockets.len() >= MOST {
                return;
            }
            if owner.1.elapsed() < keep {
                self.sockets.entry(socket).or_insert(owner);
            }
        }
    }

    /// The owner of a flow whose key has this host first.
    pub fn lookup(&self, key: &FlowKey) -> Option<Process> {
        let end = |ip: IpAddr, port: [u8; 2]| SocketAddr::new(ip, u16::from_be_bytes(port));
        let local = end(key.source(), key.src_port);
        let remote = end(key.destination(), key.dst_port);
        let (any_ip, any): (IpAddr, IpAddr) = if key.version == 4 {
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into())
        } else {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into())
        };
        let any_six: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let none = SocketAddr::new(any_ip, 0);
        let none_six = SocketAddr::new(any_six, 0);
        // Connected, bound to an address, bound to a port; a socket of IPv6 may serve IPv4 too.
        let candidates = [
            (local, remote),
            (local, none),
            (SocketAddr::new(any, local.port()), none),
            (SocketAddr::new(any_six, local.port()), none_six),
        ];
        candidates.into_iter().find_map(|(l, r)| {
            let (process, _) = self.sockets.get(&(key.protocol, l, r))?;
            Some(process.clone())
        })
    }
}

/// Local end, remote end and inode of a line of `/proc/net/tcp` and its like.
fn socket(line: &str) -> Option<(SocketAddr, SocketAddr, u64)> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let inode: u64 = words.nth(6)?.parse().ok()?;
    // Sockets that wait for their end have none.
    (inode != 0).then_some((local, remote, inode))
}

/// `0100007F:0035`: words of four bytes in the machine's order, then the port. Mapped IPv4 becomes IPv4.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = if let Ok(four) = <[u8; 4]>::try_from(&bytes[..]) {
        Ipv4Addr::from(four).into()
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_sockets_that_are_gone_for_a_while() {
        let socket = (
            6,
            "127.0.0.1:5000".parse().expect("valid"),
            "127.0.0.1:80".parse().expect("valid"),
        );
        let key = FlowKey {
            src: FlowKey::mapped([127, 0, 0, 1]),
            dst: FlowKey::mapped([127, 0, 0, 1]),
            src_port: 5000u16.to_be_bytes(),
            dst_port: 80u16.to_be_bytes(),
            protocol: 6,
            version: 4,
            ..FlowKey::default()
        };
        let process = Process {
            pid: 7,
            name: "seven".into(),
        };
        let mut table = ProcTable::default();
        table
            .sockets
            .insert(socket, (process.clone(), Instant::now()));
        table.replace(ProcTable::default(), Duration::from_secs(100));
        assert_eq!(table.lookup(&key), Some(process));
        // The port is used again.
        let other = Process {
            pid: 8,
            name: "eight".into(),
        };
        let mut newer = ProcTable::default();
        newer
            .sockets
            .insert(socket, (other.clone(), Instant::now()));
        table.replace(newer, Duration::from_secs(100));
        assert_eq!(table.lookup(&key), Some(other));
        table.replace(ProcTable::default(), Duration::ZERO);
        assert_eq!(table.lookup(&key), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = "   0: 0100007F:0035 0A00A8C0:C350 01 00000000:00000000 00:00000000 00000000  0 0 4711 1 0 20";
        let (local, remote, inode) = socket(line).expect("a socket");
        assert_eq!(local, "127.0.0.1:53".parse().expect("valid"));
        assert_eq!(remote, "192.168.0.10:50000".parse().expect("valid"));
        assert_eq!(inode, 4711);
        let six = "00000000000000000000000001000000:1F90";
        assert_eq!(address(six), Some("[::1]:8080".parse().expect("valid")));
        let mapped = "0000000000000000FFFF00000100007F:0016";
        assert_eq!(
            address(mapped),
            Some("127.0.0.1:22".parse().expect("valid"))
        );
        for bad in [
            "",
            ":",
            "xyz:1",
            "0100007F:",
            "01000:0016",
            "0100007F0000:0016",
            "é100007F:0016",
        ] {
            assert_eq!(address(bad), None, "{bad:?}");
        }
    }
}
