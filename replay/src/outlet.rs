//! Opening the interfaces, sockets and devices that a replay sends to.
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use tokio_tun::Tun;

use crate::ReplayError;
use crate::options::{Place, Target};
use crate::plan::{Outlet, Shape};
use crate::send::Output;
use crate::sys;

/// Largest UDP payload over IPv4, bytes.
const MAX_DATAGRAM: u32 = 65_507;

/// Open sockets of one lane.
#[derive(Debug)]
pub struct Port {
    /// Name and limit.
    pub outlet: Outlet,
    /// Where frames leave.
    pub output: Output,
    /// Where frames of the *other* lane arrive, or echoes of this one; opened for verification only.
    pub input: Option<OwnedFd>,
}

/// Everything a target needs, opened in the right namespaces.
///
/// # Errors
/// [`ReplayError::Interface`], [`ReplayError::Down`], [`ReplayError::NotEthernet`].
pub fn open(target: &Target, verify: bool) -> Result<Vec<Port>, ReplayError> {
    match target {
        Target::Interface(a) => Ok(vec![packet_port(a, false)?]),
        Target::Pair(a, b) => Ok(vec![packet_port(a, verify)?, packet_port(b, verify)?]),
        Target::Udp(address, netns) => {
            let name = address.to_string();
            let (output, input) = sys::in_netns(netns.as_deref(), || udp(*address))
                .map_err(|source| interface_error(&name, source))?;
            Ok(vec![Port {
                outlet: Outlet {
                    name,
                    mtu: MAX_DATAGRAM,
                },
                output: Output::Socket(output),
                input: Some(input),
            }])
        }
        Target::Tun(place) => {
            let name = place.to_string();
            let (fd, mtu) = sys::in_netns(place.netns.as_deref(), || tun(&place.name))
                .map_err(|source| interface_error(&name, source))?;
            Ok(vec![Port {
                outlet: Outlet { name, mtu },
                output: Output::Tun(fd),
                input: None,
            }])
        }
    }
}

impl Target {
    /// What leaves there.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Interface(_) | Self::Pair(..) => Shape::Frames,
            Self::Udp(..) => Shape::Payloads,
            Self::Tun(_) => Shape::IpPackets,
        }
    }
}

fn interface_error(target: &str, source: io::Error) -> ReplayError {
    ReplayError::Interface {
        target: target.to_owned(),
        source,
    }
}

fn packet_port(place: &Place, receive: bool) -> Result<Port, ReplayError> {
    let name = place.to_string();
    let opened = sys::in_netns(place.netns.as_deref(), || {
        let at = sys::interface(&place.name)?;
        let output = sys::open_sender(at.index)?;
        let input = receive.then(|| sys::open_receiver(at.index)).transpose()?;
        Ok((at, output, input))
    });
    let (at, output, input) = opened.map_err(|source| interface_error(&name, source))?;
    if !at.up {
        return Err(ReplayError::Down(name));
    }
    if !at.ethernet {
        return Err(ReplayError::NotEthernet {
            target: name,
            mac: at.mac,
        });
    }
    Ok(Port {
        outlet: Outlet { name, mtu: at.mtu },
        output: Output::Socket(output),
        input,
    })
}

fn udp(address: SocketAddr) -> io::Result<(OwnedFd, OwnedFd)> {
    let any: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    let fd = OwnedFd::from(socket);
    sys::timestamps(&fd)?;
    Ok((fd.try_clone()?, fd))
}

/// Makes or opens a TUN device and brings it up. It goes away with the descriptor unless it was persistent before.
fn tun(name: &str) -> io::Result<(OwnedFd, u32)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let built = runtime.block_on(async { Tun::builder().name(name).up().build() });
    let mut queues = built.map_err(|e| match e {
        tokio_tun::Error::NixError(e) => e.into(),
        tokio_tun::Error::IoError(e) => e,
    })?;
    let queue = queues
        .pop()
        .ok_or_else(|| io::Error::other("the TUN device has no queue"))?;
    // The sending thread writes to its own descriptor; the runtime is not needed any more.
    let fd = sys::duplicate(&queue)?;
    let mtu = sys::interface(name)?.mtu;
    Ok((fd, mtu))
}
