use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use chaff_abi::FlowKey;

use super::Process;

/// Sockets of this network namespace and their processes at one moment.
#[derive(Debug, Default)]
pub struct ProcTable {
    /// By protocol, local and remote end; a remote end of zeros stands for all.
    sockets: BTreeMap<(u8, SocketAddr, SocketAddr), u64>,
    /// Process id and name by socket inode.
    owners: HashMap<u64, Process>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

impl ProcTable {
    /// Reads `/proc`. What cannot be read is left out: without privileges only the own user's processes are known.
    pub fn read() -> Self {
        let mut table = Self::default();
        for (file, protocol) in [("tcp", TCP), ("tcp6", TCP), ("udp", UDP), ("udp6", UDP)] {
            // The file of IPv6 is absent where there is none.
            let text = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
            for (local, remote, inode) in text.lines().skip(1).filter_map(socket) {
                table.sockets.insert((protocol, local, remote), inode);
            }
        }
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let folder = process.path();
            let mut name = None;
            for file in fs::read_dir(folder.join("fd"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let Some(inode) = fs::read_link(file.path()).ok().and_then(|target| {
                    let text = target.to_string_lossy();
                    text.strip_prefix("socket:[")?
                        .strip_suffix(']')?
                        .parse()
                        .ok()
                }) else {
                    continue;
                };
                let name = name.get_or_insert_with(|| {
                    let text = fs::read_to_string(folder.join("comm")).unwrap_or_default();
                    text.trim_end().to_owned()
                });
                let process = Process {
                    pid,
                    name: name.clone(),
                };
                table.owners.insert(inode, process);
            }
        }
        table
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
            let inode = self.sockets.get(&(key.protocol, l, r))?;
            self.owners.get(inode).cloned()
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
