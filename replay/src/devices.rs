//! Which frames come from the protected devices.
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use chaff_abi::Mac;
use chaff_trace::{ListError, Listed, read_devices};

use crate::ReplayError;
use crate::capture::Capture;
use crate::frame::to_ethernet;
use crate::headers::{self, Ip};

/// Devices by MAC or IP address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    macs: HashSet<Mac>,
    ips: HashSet<IpAddr>,
}

impl Devices {
    /// Adds a device by its MAC address.
    pub fn add_mac(&mut self, mac: Mac) {
        self.macs.insert(mac);
    }

    /// Adds a device by its IP address.
    pub fn add_ip(&mut self, ip: IpAddr) {
        self.ips.insert(ip);
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.macs.len() + self.ips.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an Ethernet frame was sent by one of the devices.
    pub fn sent(&self, frame: &[u8]) -> bool {
        self.has(frame, 6, |b, ip| address(b, ip, ip.source))
    }

    /// Whether an Ethernet frame is addressed to one of the devices.
    pub fn receives(&self, frame: &[u8]) -> bool {
        self.has(frame, 0, |b, ip| address(b, ip, ip.destination))
    }

    fn has(&self, frame: &[u8], mac_at: usize, ip: impl Fn(&[u8], &Ip) -> IpAddr) -> bool {
        if !self.macs.is_empty() && mac(frame, mac_at).is_some_and(|m| self.macs.contains(&m)) {
            return true;
        }
        !self.ips.is_empty()
            && headers::layers(frame)
                .and_then(|l| l.ip)
                .is_some_and(|l| self.ips.contains(&ip(frame, &l)))
    }

    /// Reads `--device` values (MAC, IP, or a name of the list) and a device list ([`read_devices`]); a
    /// device's MAC counts, its IP addresses only when it has no MAC. Without values, all devices of the list are meant.
    ///
    /// # Errors
    /// [`ReplayError::UnknownDevice`], [`ReplayError::DeviceList`], [`ReplayError::Open`].
    pub fn parse(values: &[String], list: Option<&Path>) -> Result<Self, ReplayError> {
        let rows = match list {
            Some(file) => read_list(file)?,
            None => Vec::new(),
        };
        let mut devices = Self::default();
        for value in values {
            if let Ok(mac) = value.parse::<Mac>() {
                devices.add_mac(mac);
            } else if let Ok(ip) = value.parse::<IpAddr>() {
                devices.add_ip(ip);
            } else {
                let before = devices.len();
                rows.iter()
                    .filter(|r| r.name == *value)
                    .for_each(|r| devices.add(r));
                if devices.len() == before {
                    return Err(ReplayError::UnknownDevice(value.clone()));
                }
            }
        }
        if values.is_empty() {
            rows.iter().for_each(|r| devices.add(r));
        }
        Ok(devices)
    }

    fn add(&mut self, device: &Listed) {
        match device.mac {
            Some(mac) => self.add_mac(mac),
            None => device.ips.iter().for_each(|ip| self.add_ip(*ip)),
        }
    }

    /// Finds the device of a capture: the MAC address that takes part in most frames among those that never send
    /// from a public IPv4 address (a router does, when it forwards replies); of equals the one that sends more, then
    /// the smaller. Without MAC addresses, the private IP address in most packets.
    ///
    /// # Errors
    /// [`ReplayError::NoDevice`] when there is no such address.
    pub fn detect(capture: &Capture) -> Result<Self, ReplayError> {
        let mut macs: HashMap<Mac, Talk> = HashMap::new();
        let mut ips: HashMap<IpAddr, u64> = HashMap::new();
        let mut scratch = Vec::new();
        for p in &capture.packets {
            to_ethernet(
                p.link,
                capture.frame(p),
                Mac::default(),
                Mac::default(),
                &mut scratch,
            );
            let (Some(dst), Some(src)) = (mac(&scratch, 0), mac(&scratch, 6)) else {
                continue;
            };
            let ip = headers::layers(&scratch).and_then(|l| l.ip);
            let source = ip.map(|ip| address(&scratch, &ip, ip.source));
            let talk = macs.entry(src).or_default();
            talk.sent += 1;
            talk.frames += 1;
            talk.public |= matches!(source, Some(IpAddr::V4(a)) if !is_private(a.into()));
            if dst != src {
                macs.entry(dst).or_default().frames += 1;
            }
            if let Some(ip) = ip {
                for at in [ip.source, ip.destination] {
                    *ips.entry(address(&scratch, &ip, at)).or_default() += 1;
                }
            }
        }
        let mut devices = Self::default();
        let best_mac = macs
            .into_iter()
            .filter(|(m, t)| t.sent > 0 && !t.public && *m != Mac::default() && m.0[0] & 1 == 0)
            .max_by_key(|&(m, t)| (t.frames, t.sent, std::cmp::Reverse(m)));
        if let Some((mac, _)) = best_mac {
            devices.add_mac(mac);
            return Ok(devices);
        }
        let best_ip = ips
            .into_iter()
            .filter(|(a, _)| is_private(*a) && !a.is_unspecified())
            .max_by_key(|&(a, n)| (n, std::cmp::Reverse(a)));
        let (ip, _) = best_ip.ok_or(ReplayError::NoDevice)?;
        devices.add_ip(ip);
        Ok(devices)
    }
}

impl std::fmt::Display for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut all: Vec<String> = self.macs.iter().map(ToString::to_string).collect();
        all.extend(self.ips.iter().map(ToString::to_string));
        all.sort();
        f.write_str(&all.join(", "))
    }
}

#[derive(Clone, Copy, Default)]
struct Talk {
    sent: u64,
    frames: u64,
    public: bool,
}

fn read_list(file: &Path) -> Result<Vec<Listed>, ReplayError> {
    let text = std::fs::read_to_string(file).map_err(|source| ReplayError::Open {
        file: file.to_owned(),
        source,
    })?;
    let bad = |what| ReplayError::DeviceList {
        file: file.to_owned(),
        what,
    };
    let rows = read_devices(&text).map_err(bad)?;
    match rows.iter().find(|d| d.mac.is_none() && d.ips.is_empty()) {
        Some(d) => Err(bad(ListError::Value {
            line: d.line,
            column: "mac",
            found: String::new(),
            want: "a MAC address, and there is no IP address either",
        })),
        None => Ok(rows),
    }
}

/// The MAC address at an offset.
pub(crate) fn mac(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..at + 6)?.try_into().ok().map(Mac)
}

/// The address at one of the two offsets of an IP layer.
pub(crate) fn address(b: &[u8], ip: &Ip, at: usize) -> IpAddr {
    let mut a = [0; 16];
    let n = ip.address_len();
    a[..n].copy_from_slice(&b[at..at + n]);
    if ip.version == 4 {
        Ipv4Addr::new(a[0], a[1], a[2], a[3]).into()
    } else {
        Ipv6Addr::from(a).into()
    }
}

/// Addresses that are used inside a home only, and "no address yet".
fn is_private(a: IpAddr) -> bool {
    match a {
        IpAddr::V4(a) => {
            let [b0, b1, ..] = a.octets();
            a.is_private()
                || a.is_link_local()
                || a.is_unspecified()
                || (b0 == 100 && b1 & 0xc0 == 64)
        }
        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local() || a.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Packet;
    use chaff_abi::Nanos;
    use chaff_flow::Link;
    use etherparse::PacketBuilder;

    const DEVICE: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn add(c: &mut Capture, src: ([u8; 6], [u8; 4]), dst: ([u8; 6], [u8; 4])) {
        let mut b = Vec::new();
        PacketBuilder::ethernet2(src.0, dst.0)
            .ipv4(src.1, dst.1, 9)
            .udp(1, 2)
            .write(&mut b, b"x")
            .unwrap();
        c.packets.push(Packet {
            at: Nanos::ZERO,
            offset: c.bytes.len(),
            len: b.len() as u32,
            wire_len: b.len() as u32,
            file: 0,
            number: 1,
            link: Link::Ethernet,
        });
        c.bytes.extend(b);
    }

    #[test]
    fn detects_the_device_behind_a_router_that_talks_more() {
        let mut c = Capture::default();
        let device = (DEVICE, [192, 168, 0, 9]);
        add(&mut c, device, (ROUTER, [8, 8, 8, 8]));
        add(&mut c, (ROUTER, [8, 8, 8, 8]), device);
        add(&mut c, (ROUTER, [192, 168, 0, 1]), ([255; 6], [255; 4]));
        add(&mut c, (ROUTER, [192, 168, 0, 1]), ([255; 6], [255; 4]));
        let d = Devices::detect(&c).unwrap();
        assert_eq!(d.to_string(), "02:00:00:00:00:09");
        assert!(d.sent(c.frame(&c.packets[0])) && !d.sent(c.frame(&c.packets[1])));
        assert!(d.receives(c.frame(&c.packets[1])));
    }

    #[test]
    fn says_so_when_every_sender_is_public() {
        let mut c = Capture::default();
        add(&mut c, (ROUTER, [8, 8, 8, 8]), (DEVICE, [9, 9, 9, 9]));
        assert!(matches!(Devices::detect(&c), Err(ReplayError::NoDevice)));
    }

    #[test]
    fn reads_lists_by_column_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("devices.csv");
        std::fs::write(
            &file,
            "label,device,ip,mac\nx,a,10.0.0.1,02:00:00:00:00:01\ny,b,10.0.0.2;2001:db8::2,\n",
        )
        .unwrap();
        let all = Devices::parse(&[], Some(&file)).unwrap();
        assert_eq!(all.to_string(), "02:00:00:00:00:01, 10.0.0.2, 2001:db8::2");
        let one = Devices::parse(&["b".into()], Some(&file)).unwrap();
        assert_eq!(one.to_string(), "10.0.0.2, 2001:db8::2");
        assert!(Devices::parse(&["c".into()], Some(&file)).is_err());
        for (list, want) in [
            (
                "device,mac\na,zz\n",
                "devices.csv: line 2: mac is \"zz\", not a MAC",
            ),
            ("device,mac\na,\n", "line 2: mac is \"\""),
        ] {
            std::fs::write(&file, list).unwrap();
            let e = Devices::parse(&[], Some(&file)).unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
        }
    }
}
