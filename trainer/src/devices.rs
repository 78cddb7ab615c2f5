use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use chaff_abi::{Dir, Mac};
use chaff_flow::Packet;

/// Addresses that one MAC may send from before it is taken for a router.
const MAX_ADDRESSES: usize = 4;
/// MAC addresses remembered while looking for devices.
const MAX_MACS: usize = 65_536;

/// A device of the home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name, unique in its file.
    pub name: String,
    /// What it is called in results; devices may share it.
    pub label: String,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its IP addresses, for captures without a link layer.
    pub ips: Vec<IpAddr>,
}

/// Which packets count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only those between a device and the Internet, which is what an observer outside sees.
    Wan,
    /// All of the device's packets, to its neighbours and to groups too.
    All,
}

/// Which addresses belong to the home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// Those of [`is_local`].
    #[default]
    Private,
    /// Those whose text starts with this, as iPET has it: its `192` takes 192.0.2.1 for the home too.
    Text(String),
    /// A network: address and length of the prefix.
    Network(IpAddr, u8),
    /// Those of any of them.
    Several(Vec<Home>),
}

impl std::str::FromStr for Home {
    type Err = String;

    /// `private`, a network such as `10.0.0.0/8` or `2001:db8::/32`, or the beginning of an address as text; several are separated
    /// by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(',') {
            let parts: Result<_, _> = text.split(',').map(str::parse).collect();
            return parts.map(Self::Several);
        }
        if text.is_empty() {
            return Err("a network or the beginning of an address is missing".to_owned());
        }
        if text == "private" {
            return Ok(Self::Private);
        }
        let Some((address, length)) = text.split_once('/') else {
            return Ok(Self::Text(text.to_owned()));
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("{address:?} is no IP address"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        match length.parse() {
            Ok(n) if n <= most => Ok(Self::Network(address, n)),
            _ => Err(format!("{length:?} is no prefix length, 0 to {most}")),
        }
    }
}

impl std::fmt::Display for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::Text(prefix) => f.write_str(prefix),
            Self::Network(address, length) => write!(f, "{address}/{length}"),
            Self::Several(homes) => {
                let homes: Vec<_> = homes.iter().map(ToString::to_string).collect();
                f.write_str(&homes.join(","))
            }
        }
    }
}

impl Home {
    /// Whether an address belongs to the home.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Self::Private => is_local(ip),
            Self::Several(homes) => homes.iter().any(|home| home.contains(ip)),
            Self::Text(prefix) => ip.to_string().starts_with(prefix),
            Self::Network(IpAddr::V4(net), length) => match ip {
                IpAddr::V4(a) => same(net.to_bits().into(), a.to_bits().into(), 32 - length),
                IpAddr::V6(_) => false,
            },
            Self::Network(IpAddr::V6(net), length) => match ip {
                IpAddr::V6(a) => same(net.to_bits(), a.to_bits(), 128 - length),
                IpAddr::V4(_) => false,
            },
        }
    }
}

/// Whether two addresses agree but for the lowest bits.
fn same(a: u128, b: u128, ignored: u8) -> bool {
    (a ^ b).checked_shr(ignored.into()).unwrap_or(0) == 0
}

/// The devices of a home, found by address.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    list: Vec<Device>,
    by_mac: BTreeMap<Mac, Vec<usize>>,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// A devices file is not readable.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// Not a list.
    #[error(transparent)]
    List(#[from] chaff_trace::ListError),
    /// A name is missing or on two lines.
    #[error("line {line}: device is {found:?}, wanted a name that is not on another line")]
    Name {
        /// Line number, from 1.
        line: usize,
        /// Text.
        found: String,
    },
    /// No device is listed.
    #[error("no device is listed")]
    Empty,
}

/// Whether an address stays inside a home: private, link-local, loopback, group, broadcast or unspecified.
pub fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => {
            a.is_private()
                || a.is_link_local()
                || a.is_loopback()
                || a.is_multicast()
                || a.is_broadcast()
                || a.octets()[0] == 0
        }
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => is_local(IpAddr::V4(v4)),
            None => {
                a.is_unique_local()
                    || a.is_unicast_link_local()
                    || a.is_multicast()
                    || a.is_loopback()
                    || a.is_unspecified()
            }
        },
    }
}

impl Devices {
    /// Builds the index.
    pub fn new(list: Vec<Device>) -> Self {
        let mut devices = Self::default();
        for (i, d) in list.iter().enumerate() {
            if let Some(mac) = d.mac {
                devices.by_mac.entry(mac).or_default().push(i);
            }
            for ip in &d.ips {
                devices.by_ip.entry(*ip).or_insert(i);
            }
        }
        devices.list = list;
        devices
    }

    /// Reads a list ([`chaff_trace::read_devices`]); names are not empty, and on one line each.
    ///
    /// # Errors
    /// [`DevicesError`] with the line.
    pub fn parse(text: &str) -> Result<Self, DevicesError> {
        let mut names = BTreeSet::new();
        let mut list = Vec::new();
        for d in chaff_trace::read_devices(text)? {
            if d.name.is_empty() || !names.insert(d.name.clone()) {
                return Err(DevicesError::Name {
                    line: d.line,
                    found: d.name,
                });
            }
            list.push(Device {
                name: d.name,
                label: d.label,
                mac: d.mac,
                ips: d.ips,
            });
        }
        if list.is_empty() {
            return Err(DevicesError::Empty);
        }
        Ok(Self::new(list))
    }

    /// All devices.
    pub fn list(&self) -> &[Device] {
        &self.list
    }

    /// The devices that a packet belongs to, with its direction as each of them sees it.
    ///
    /// By MAC address where the link has one and the device's is known, by IP address otherwise. Of several devices with one MAC (a sensor that
    /// speaks through its hub) it is the one whose name is `session`, else the first.
    pub fn find(
        &self,
        packet: &Packet<'_>,
        session: &str,
        scope: Scope,
    ) -> [Option<(usize, Dir)>; 2] {
        let ends = [
            (
                Dir::Out,
                packet.src_mac,
                packet.key.source(),
                packet.key.destination(),
            ),
            (
                Dir::In,
                packet.dst_mac,
                packet.key.destination(),
                packet.key.source(),
            ),
        ];
        ends.map(|(dir, mac, own, peer)| {
            if scope == Scope::Wan && is_local(peer) {
                return None;
            }
            let found = self.by_mac.get(&mac).filter(|_| mac != Mac::default());
            let device = if let Some(found) = found {
                let named = found.iter().find(|i| self.list[**i].name == session);
                *named.or(found.first())?
            } else {
                let device = *self.by_ip.get(&own)?;
                // A known device's address behind another MAC is somebody else's.
                if mac != Mac::default() && self.list[device].mac.is_some() {
                    return None;
                }
                device
            };
            Some((device, dir))
        })
    }
}

/// Finds the devices of captures that come without a list.
///
/// A device is a MAC address that sends from private addresses, from at most four of them for IPv4, and never from a public IPv4
/// address: the router does that when it passes packets on. Without a link layer it is a private address. The label is the address.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    macs: BTreeMap<Mac, Seen>,
    ips: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    addresses: BTreeSet<IpAddr>,
    private: bool,
    public: bool,
}

impl Detector {
    /// Looks at a packet.
    pub fn observe(&mut self, packet: &Packet<'_>) {
        let source = packet.key.source();
        let unicast = !matches!(source, IpAddr::V4(a) if a.octets()[0] == 0 || a.is_loopback());
        let room = self.macs.len() < MAX_MACS && self.ips.len() < MAX_MACS;
        if !unicast || !room {
            return;
        }
        if packet.src_mac == Mac::default() {
            if is_local(source) {
                self.ips.insert(source);
            }
            return;
        }
        let seen = self.macs.entry(packet.src_mac).or_default();
        match (is_local(source), source) {
            (true, IpAddr::V4(_)) => {
                seen.private = true;
                if seen.addresses.len() <= MAX_ADDRESSES {
                    seen.addresses.insert(source);
                }
            }
            (true, IpAddr::V6(_)) => seen.private = true,
            (false, IpAddr::V4(_)) => seen.public = true,
            // A device may well have a public IPv6 address.
            (false, IpAddr::V6(_)) => {}
        }
    }

    /// The devices, in order of address.
    pub fn finish(self) -> Devices {
        let macs = self
            .macs
            .into_iter()
            .filter(|(_, s)| s.private && !s.public && s.addresses.len() <= MAX_ADDRESSES)
            .map(|(mac, _)| Device {
                name: mac.to_string(),
                label: mac.to_string(),
                mac: Some(mac),
                ips: Vec::new(),
            });
        let ips = self.ips.into_iter().map(|ip| Device {
            name: ip.to_string(),
            label: ip.to_string(),
            mac: None,
            ips: vec![ip],
        });
        Devices::new(macs.chain(ips).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_columns_by_name_and_names_the_bad_line() {
        let d = Devices::parse(
            "label,mac,device,ip\ncam,02:00:00:00:00:01,cam-1,10.0.0.1;fe80::1\n,,cam-2,\n",
        )
        .expect("valid");
        assert_eq!(d.list()[0].label, "cam");
        assert_eq!(d.list()[0].ips.len(), 2);
        assert_eq!(
            (d.list()[1].label.as_str(), d.list()[1].mac),
            ("cam-2", None)
        );
        for (text, want) in [
            ("", "line 1"),
            ("name,mac\nx,y\n", "line 1"),
            ("device,mac\nx,y\n", "line 2: mac"),
            ("device,ip\nx,\ny,1.2.3\n", "line 3: ip"),
            ("device,mac\nx\nx\n", "line 3: device"),
            ("device,mac\n,02:00:00:00:00:01\n", "line 2: device"),
            ("device,ip\n", "no device"),
        ] {
            let e = Devices::parse(text).expect_err("refused").to_string();
            assert!(e.contains(want), "{text:?}: {e}");
        }
    }

    #[test]
    fn homes_are_networks_or_beginnings_of_addresses() {
        for (home, ip, inside) in [
            ("192", "192.0.2.1", true),
            ("192", "19.2.0.1", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("private", "fe80::1", true),
            ("private,2001:db8::/32", "2001:db8:1::1", true),
            ("private,2001:db8::/32", "10.0.0.1", true),
            ("private,2001:db8::/32", "2001:db9::1", false),
        ] {
            let h: Home = home.parse().expect("valid");
            assert_eq!(
                h.contains(ip.parse().expect("address")),
                inside,
                "{home} {ip}"
            );
        }
        assert!("10.0.0.0/33".parse::<Home>().is_err());
        assert!("10.0.0/8".parse::<Home>().is_err());
        assert!("private,".parse::<Home>().is_err());
    }

    #[test]
    fn documentation_addresses_count_as_the_internet() {
        for (text, local) in [
            ("192.168.1.1", true),
            ("192.0.2.1", false),
            ("255.255.255.255", true),
            ("239.1.2.3", true),
            ("8.8.8.8", false),
            ("fe80::1", true),
            ("ff02::fb", true),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(is_local(text.parse().expect("address")), local, "{text}");
        }
    }
}
