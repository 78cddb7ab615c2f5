//! Sockets to a collector.

use std::fmt;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Target;

/// Port of IPFIX over UDP and TCP.
const PORT: u16 = 4739;
/// How long a connection, or one write to it, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each; what gets lost is lost, the collector sees it by the sequence numbers.
    Udp,
    /// One after another.
    Tcp,
}

/// Where a collector listens: `ipfix://HOST:PORT` for UDP, `ipfix+tcp://HOST:PORT` for TCP; port 4739 when not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// How messages travel.
    pub transport: Transport,
    /// Name or address, IPv6 in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Not the address of a collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ipfix://HOST:PORT or ipfix+tcp://HOST:PORT, such as ipfix://10.0.0.5:4739 or ipfix://[2001:db8::5]"
)]
pub struct CollectorError;

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let (scheme, rest) = text.split_once("://").ok_or(CollectorError)?;
        let transport = match scheme {
            "ipfix" | "ipfix+udp" => Transport::Udp,
            "ipfix+tcp" => Transport::Tcp,
            _ => return Err(CollectorError),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| CollectorError)?)
            }
            _ => (rest, PORT),
        };
        let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || port == 0 || is_bare_v6 || host.contains(['/', ' ']) {
            return Err(CollectorError);
        }
        Ok(Self {
            transport,
            host: host.into(),
            port,
        })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Udp => "ipfix",
            Transport::Tcp => "ipfix+tcp",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Collector {
    /// Opens a socket to it. With UDP nothing is sent, so nothing tells whether anybody listens.
    ///
    /// # Errors
    /// The name is not known, or nobody takes the connection within ten seconds.
    pub fn tcp(&self) -> io::Result<TcpStream> {
        let mut last = None;
        for address in (self.host(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    return Ok(stream);
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(no_address))
    }

    /// Opens a socket that sends to it. Nothing is sent, so nothing tells whether anybody listens.
    ///
    /// # Errors
    /// The name is not known or there is no way to it.
    pub fn udp(&self) -> io::Result<UdpTarget> {
        let address = (self.host(), self.port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(no_address)?;
        let here = if address.is_ipv6() {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(here)?;
        socket.connect(address)?;
        Ok(UdpTarget {
            socket,
            refused: Arc::default(),
        })
    }

    fn host(&self) -> &str {
        self.host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(&self.host)
    }
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

impl Target for TcpStream {}

/// Sends each write as one datagram. A collector that is away does not stop the meter: refused datagrams are counted.
pub struct UdpTarget {
    socket: UdpSocket,
    refused: Arc<AtomicU64>,
}

impl UdpTarget {
    /// Counts datagrams that were refused: the system had no room or no way, or nobody listened.
    pub fn refused(&self) -> Arc<AtomicU64> {
        self.refused.clone()
    }
}

impl Write for UdpTarget {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        // Linux tells by the next datagram that the one before it was refused.
        if self.socket.send(message).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for UdpTarget {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_collectors_are_read_and_written() {
        for (text, expected) in [
            ("ipfix://10.0.0.5:2055", "ipfix://10.0.0.5:2055"),
            (
                "ipfix://collector.example",
                "ipfix://collector.example:4739",
            ),
            (
                "ipfix+tcp://[2001:db8::5]:9000/",
                "ipfix+tcp://[2001:db8::5]:9000",
            ),
            ("ipfix://[::1]", "ipfix://[::1]:4739"),
        ] {
            assert_eq!(
                text.parse::<Collector>().map(|c| c.to_string()),
                Ok(expected.into())
            );
        }
        for text in [
            "10.0.0.5:2055",
            "http://a",
            "ipfix://",
            "ipfix://a:b",
            "ipfix://::1",
            "ipfix://a:70000",
            "ipfix://a:0",
            "ipfix://a b",
        ] {
            assert_eq!(text.parse::<Collector>(), Err(CollectorError), "{text}");
        }
    }
}
