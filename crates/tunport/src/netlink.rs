//! Addresses, routes and rules by rtnetlink, as far as a tunnel needs them. Works on the calling thread's network
//! namespace.
//!
//! Message layouts: rtnetlink(7), `linux/rtnetlink.h`, `linux/fib_rules.h`.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use chaff_tunnel::Prefix;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Subsystem of connection tracking, and its message that deletes.
const DELETE_CONNECTIONS: u16 = 1 << 8 | 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const ERROR: u16 = 2;

const REQUEST_ACK: u16 = 1 | 4;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }
}

/// A policy rule that looks up a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// IP version.
    pub family: Family,
    /// Place among the rules; lower comes first.
    pub priority: u32,
    /// Only packets with this mark.
    pub mark: Option<u32>,
    /// Only packets that came in here.
    pub interface: Option<String>,
    /// Only packets from this address.
    pub source: Option<IpAddr>,
    /// Table to look up.
    pub table: u32,
    /// Routes that this many bits or less of the destination decided do not count: 0 leaves out default routes.
    pub suppress: Option<u32>,
}

/// The kernel's main table.
pub const MAIN: u32 = 254;

/// A connection to the kernel.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST_ACK).to_ne_bytes());
        bytes.extend_from_slice(head);
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = 4 + value.len() as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Number of an interface.
///
/// # Errors
/// There is none of this name.
pub fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

impl Netlink {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        Ok(Self { fd, sequence: 0 })
    }

    fn call(&mut self, message: Message) -> io::Result<()> {
        let mut bytes = message.0;
        self.sequence += 1;
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let fd = self.fd.as_raw_fd();
        sendto(fd, &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; 4_096];
        loop {
            let n = recv(fd, &mut answer, MsgFlags::empty())?;
            let Some((head, body)) = answer[..n].split_at_checked(16) else {
                return Err(io::Error::other("a short answer of the kernel"));
            };
            let word = |b: &[u8], at: usize| {
                let mut w = [0; 4];
                w.copy_from_slice(&b[at..at + 4]);
                w
            };
            let kind = u16::from_ne_bytes([head[4], head[5]]);
            if u32::from_ne_bytes(word(head, 8)) != self.sequence || kind != ERROR || body.len() < 4
            {
                continue;
            }
            return match i32::from_ne_bytes(word(body, 0)) {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(-error)),
            };
        }
    }

    /// Forgets the connections whose mark has all bits of `mark`, with the addresses that they were translated to.
    ///
    /// # Errors
    /// What the kernel says; it may lack connection tracking.
    pub fn forget_connections(mark: u32) -> io::Result<()> {
        let mut kernel = Self::open(SockProtocol::NetlinkNetFilter)?;
        // Any family; the message's version and resource.
        let mut m = Message::new(DELETE_CONNECTIONS, 0, &[0; 4]);
        m.attribute(8, &mark.to_be_bytes());
        m.attribute(21, &mark.to_be_bytes());
        kernel.call(m)
    }

    /// Gives an interface an address, usable at once (no duplicate address detection). One that is there stays.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&mut self, interface: u32, address: Prefix) -> io::Result<()> {
        let family = if address.address().is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let mut head = vec![family.number(), address.bits(), 0, 0];
        head.extend_from_slice(&interface.to_ne_bytes());
        let mut m = Message::new(NEW_ADDRESS, CREATE | REPLACE, &head);
        let bytes = octets(address.address());
        m.attribute(1, &bytes);
        m.attribute(2, &bytes);
        const NO_DAD: u32 = 2;
        m.attribute(8, &NO_DAD.to_ne_bytes());
        self.call(m)
    }

    /// Sets the MTU of an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mtu(&mut self, interface: u32, mtu: u16) -> io::Result<()> {
        let mut head = vec![0; 4];
        head.extend_from_slice(&interface.to_ne_bytes());
        head.extend_from_slice(&[0; 8]);
        let mut m = Message::new(NEW_LINK, 0, &head);
        m.attribute(4, &u32::from(mtu).to_ne_bytes());
        self.call(m)
    }

    /// Sets the default route of a table: out of an interface, or unreachable. A route of the same metric is replaced.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_default(
        &mut self,
        family: Family,
        table: u32,
        metric: u32,
        interface: Option<u32>,
    ) -> io::Result<()> {
        self.call(default_route(
            NEW_ROUTE,
            CREATE | REPLACE,
            family,
            table,
            metric,
            interface,
        ))
    }

    /// Removes what [`Netlink::set_default`] set; nothing there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_default(
        &mut self,
        family: Family,
        table: u32,
        metric: u32,
        interface: Option<u32>,
    ) -> io::Result<()> {
        let m = default_route(DELETE_ROUTE, 0, family, table, metric, interface);
        match self.call(m) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(()),
            other => other,
        }
    }

    /// Adds a route to a range, out of an interface, to the main table. One that is there is replaced.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_route(&mut self, to: Prefix, interface: u32) -> io::Result<()> {
        let family = if to.address().is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let head = [family.number(), to.bits(), 0, 0, 254, 4, 253, 1, 0, 0, 0, 0];
        let mut m = Message::new(NEW_ROUTE, CREATE | REPLACE, &head);
        m.attribute(1, &octets(to.network()));
        m.attribute(4, &interface.to_ne_bytes());
        self.call(m)
    }

    /// Adds a rule; one that is there stays.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        match self.call(rule_message(NEW_RULE, CREATE | EXCLUSIVE, rule)) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Removes a rule; nothing there is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_rule(&mut self, rule: &Rule) -> io::Result<()> {
        match self.call(rule_message(DELETE_RULE, 0, rule)) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
            other => other,
        }
    }
}

fn default_route(
    kind: u16,
    flags: u16,
    family: Family,
    table: u32,
    metric: u32,
    interface: Option<u32>,
) -> Message {
    let (scope, action) = match (interface, family) {
        (Some(_), Family::V4) => (253, 1),
        (Some(_), Family::V6) => (0, 1),
        (None, _) => (0, 7),
    };
    // A table above 255 is in the attribute alone.
    let small = u8::try_from(table).unwrap_or(0);
    let head = [
        family.number(),
        0,
        0,
        0,
        small,
        4,
        scope,
        action,
        0,
        0,
        0,
        0,
    ];
    let mut m = Message::new(kind, flags, &head);
    m.attribute(15, &table.to_ne_bytes());
    m.attribute(6, &metric.to_ne_bytes());
    if let Some(index) = interface {
        m.attribute(4, &index.to_ne_bytes());
    }
    m
}

fn rule_message(kind: u16, flags: u16, rule: &Rule) -> Message {
    let small = u8::try_from(rule.table).unwrap_or(0);
    let source = rule.source.map(octets);
    let source_bits = source.as_ref().map_or(0, |s| 8 * s.len() as u8);
    let family = rule.family.number();
    let head = [family, 0, source_bits, 0, small, 0, 0, 1, 0, 0, 0, 0];
    let mut m = Message::new(kind, flags, &head);
    m.attribute(6, &rule.priority.to_ne_bytes());
    m.attribute(15, &rule.table.to_ne_bytes());
    if let Some(mark) = rule.mark {
        m.attribute(10, &mark.to_ne_bytes());
        m.attribute(16, &u32::MAX.to_ne_bytes());
    }
    if let Some(name) = &rule.interface {
        let mut name = name.clone().into_bytes();
        name.push(0);
        m.attribute(3, &name);
    }
    if let Some(source) = source {
        m.attribute(2, &source);
    }
    if let Some(bits) = rule.suppress {
        m.attribute(14, &bits.to_ne_bytes());
    }
    m
}
