use core::fmt;

/// A direction, named from the protected device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Dir {
    /// From the device to the network.
    Out = 0,
    /// From the network to the device.
    In = 1,
}

impl Dir {
    /// Both directions, in index order.
    pub const BOTH: [Self; 2] = [Self::Out, Self::In];

    /// Index into two-element arrays: `Out` is 0, `In` is 1.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The opposite direction.
    pub const fn flip(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }

    /// `+1` for `Out`, `-1` for `In`, as iPET and the simulator's CSV write it.
    pub const fn sign(self) -> i8 {
        match self {
            Self::Out => 1,
            Self::In => -1,
        }
    }
}

/// A link-layer address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl core::str::FromStr for Mac {
    type Err = MacError;
    fn from_str(s: &str) -> Result<Self, MacError> {
        let mut out = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut out {
            let part = parts.next().ok_or(MacError)?;
            // `from_str_radix` takes a sign.
            if part.len() != 2 || part.starts_with('+') {
                return Err(MacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        if parts.next().is_some() {
            Err(MacError)
        } else {
            Ok(Self(out))
        }
    }
}

/// The text is not six two-digit hexadecimal bytes separated by `:` or `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacError;

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a MAC address: expected six two-digit hexadecimal bytes such as 02:00:5e:10:00:01",
        )
    }
}

impl core::error::Error for MacError {}

/// What makes packets one flow: addresses, ports, protocol and outer VLAN id.
///
/// Addresses are 16 bytes in wire order; IPv4 is stored IPv4-mapped (`::ffff:a.b.c.d`). Ports are in wire order; for
/// ICMP and ICMPv6 both are zero, as for every protocol without ports. `vlan` is the 12-bit id of the outer tag in
/// wire order, zero when untagged. 40 bytes, no padding.
///
/// In the kernel's maps a key is oriented *device first*: `src` is the LAN side whichever way a packet went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Source address, 16 bytes, IPv4 mapped.
    pub src: [u8; 16],
    /// Destination address, 16 bytes, IPv4 mapped.
    pub dst: [u8; 16],
    /// Source port, wire order.
    pub src_port: [u8; 2],
    /// Destination port, wire order.
    pub dst_port: [u8; 2],
    /// Outer VLAN id, wire order, 0 when untagged.
    pub vlan: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// IP version: 4 or 6.
    pub version: u8,
}

const _: () = assert!(size_of::<FlowKey>() == 40 && align_of::<FlowKey>() == 1);

impl FlowKey {
    /// The IPv4-mapped form of an IPv4 address.
    pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
        [
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
        ]
    }

    /// The key of the opposite direction.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            vlan: self.vlan,
            protocol: self.protocol,
            version: self.version,
        }
    }

    /// The same key for both directions, and whether it had to be turned round to get it.
    #[must_use]
    pub fn canonical(self) -> (Self, bool) {
        if (self.src, self.src_port) <= (self.dst, self.dst_port) {
            (self, false)
        } else {
            (self.reversed(), true)
        }
    }

    /// Source address.
    pub fn source(&self) -> core::net::IpAddr {
        ip(self.version, self.src)
    }

    /// Destination address.
    pub fn destination(&self) -> core::net::IpAddr {
        ip(self.version, self.dst)
    }

    /// Source port as a number.
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.src_port)
    }

    /// Destination port as a number.
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.dst_port)
    }

    /// Outer VLAN id as a number, 0 when untagged.
    pub const fn vlan_id(&self) -> u16 {
        u16::from_be_bytes(self.vlan)
    }
}

fn ip(version: u8, a: [u8; 16]) -> core::net::IpAddr {
    if version == 4 {
        core::net::Ipv4Addr::new(a[12], a[13], a[14], a[15]).into()
    } else {
        core::net::Ipv6Addr::from(a).into()
    }
}

/// How a device is recognised: by MAC or by IP address (key of the `DEVICES` map). 20 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct DeviceKey {
    /// [`DeviceKey::MAC`] or [`DeviceKey::IP`].
    pub kind: [u8; 4],
    /// The MAC in the first six bytes and zeros, or the IP address (IPv4 mapped).
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<DeviceKey>() == 20 && align_of::<DeviceKey>() == 1);

impl DeviceKey {
    /// `kind` of a MAC address.
    pub const MAC: [u8; 4] = [1, 0, 0, 0];
    /// `kind` of an IP address.
    pub const IP: [u8; 4] = [2, 0, 0, 0];

    /// The key of a MAC address.
    pub const fn mac(mac: Mac) -> Self {
        let m = mac.0;
        Self {
            kind: Self::MAC,
            address: [
                m[0], m[1], m[2], m[3], m[4], m[5], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        }
    }

    /// The key of an IP address in 16-byte form.
    pub const fn ip(address: [u8; 16]) -> Self {
        Self {
            kind: Self::IP,
            address,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    fn key() -> FlowKey {
        FlowKey {
            src: FlowKey::mapped([192, 168, 1, 9]),
            dst: FlowKey::mapped([10, 0, 0, 1]),
            src_port: 5000u16.to_be_bytes(),
            dst_port: 53u16.to_be_bytes(),
            vlan: [0, 7],
            protocol: 17,
            version: 4,
        }
    }

    #[test]
    fn both_directions_share_one_canonical_key() {
        let (a, a_turned) = key().canonical();
        let (b, b_turned) = key().reversed().canonical();
        assert_eq!(a, b);
        assert_ne!(a_turned, b_turned);
        assert_eq!(key().reversed().reversed(), key());
    }

    #[test]
    fn shows_addresses_and_numbers() {
        assert_eq!(key().source().to_string(), "192.168.1.9");
        assert_eq!((key().source_port(), key().vlan_id()), (5000, 7));
    }

    #[test]
    fn parses_and_prints_mac_addresses() {
        let mac: Mac = "02:00:5e:10:00:0A".parse().expect("valid");
        assert_eq!(mac.to_string(), "02:00:5e:10:00:0a");
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "2:00:5e:10:00:01",
            "+2:00:5e:10:00:01",
            "zz:00:5e:10:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
