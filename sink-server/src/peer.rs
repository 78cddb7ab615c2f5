//! The far end of real flows in a testbed: echoes or forwards UDP and TCP. Connections and UDP clients are bounded.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

/// TCP connections served at once by the process; further ones are closed at once. Each has at most two sockets and two
/// threads, so that with [`MAX_LIVE_CLIENTS`] the usual limit of 1,024 open files is never reached.
const MAX_CONNECTIONS: usize = 256;
/// UDP clients of a forward; the one that was silent longest makes room.
const MAX_CLIENTS: usize = 128;
/// UDP clients with a live thread and socket in the process, those that made room and still wind down included; further
/// ones are not served.
const MAX_LIVE_CLIENTS: usize = 256;
/// A TCP connection or UDP client that is silent for this long is closed.
const SILENT: Duration = Duration::from_secs(120);
/// Pause after a failed receive or accept, such as one for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(20);

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// A place among a bounded number; dropping it frees the place.
struct Place(&'static AtomicUsize);

impl Place {
    fn take(taken: &'static AtomicUsize, most: usize) -> Option<Self> {
        if taken.fetch_add(1, Ordering::Relaxed) < most {
            return Some(Self(taken));
        }
        taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts threads that answer at `at` with what was sent there.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn echo(at: SocketAddr) -> anyhow::Result<()> {
    let udp = UdpSocket::bind(at).with_context(|| format!("while binding UDP {at} for --echo"))?;
    let tcp =
        TcpListener::bind(at).with_context(|| format!("while binding TCP {at} for --echo"))?;
    std::thread::Builder::new()
        .name("echo-udp".into())
        .spawn(move || {
            let mut buf = [0; 65_536];
            loop {
                match udp.recv_from(&mut buf) {
                    Ok((n, from)) => {
                        let _lost = udp.send_to(&buf[..n], from);
                    }
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        })?;
    serve(tcp, |stream| copy(stream, stream))
}

/// Starts threads that pass traffic for `from` on to `to`, and the answers back.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn forward(from: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let udp =
        UdpSocket::bind(from).with_context(|| format!("while binding UDP {from} for --forward"))?;
    let tcp = TcpListener::bind(from)
        .with_context(|| format!("while binding TCP {from} for --forward"))?;
    std::thread::Builder::new()
        .name("forward-udp".into())
        .spawn(move || forward_udp(&Arc::new(udp), to))?;
    serve(tcp, move |stream| {
        let Ok(server) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else {
            return;
        };
        if limit(&server).is_err() {
            return;
        }
        std::thread::scope(|scope| {
            let back = std::thread::Builder::new()
                .name("forward-back".into())
                .spawn_scoped(scope, || copy(&server, stream));
            if back.is_ok() {
                copy(stream, &server);
            }
        });
    })
}

fn serve(
    listener: TcpListener,
    handle: impl Fn(&TcpStream) + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let handle = Arc::new(handle);
    std::thread::Builder::new()
        .name("tcp".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    std::thread::sleep(PAUSE);
                    continue;
                };
                let Some(place) = Place::take(&CONNECTIONS, MAX_CONNECTIONS) else {
                    continue;
                };
                let handle = Arc::clone(&handle);
                let spawned = std::thread::Builder::new()
                    .name("tcp-connection".into())
                    .spawn(move || {
                        if limit(&stream).is_ok() {
                            handle(&stream);
                        }
                        drop(stream);
                        drop(place);
                    });
                if spawned.is_err() {
                    std::thread::sleep(PAUSE);
                }
            }
        })?;
    Ok(())
}

/// Bounds how long a silent peer, or one that takes nothing, keeps a thread.
fn limit(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENT))?;
    stream.set_write_timeout(Some(SILENT))
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buf = [0; 16_384];
    while let Ok(n) = from.read(&mut buf) {
        if n == 0 || to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(std::net::Shutdown::Write);
}

fn forward_udp(socket: &Arc<UdpSocket>, to: SocketAddr) {
    let mut clients: BTreeMap<SocketAddr, (Arc<UdpSocket>, Instant)> = BTreeMap::new();
    let mut buf = [0; 65_536];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buf) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        if !clients.contains_key(&from) {
            clients.retain(|_, (_, at)| at.elapsed() < SILENT);
            let Some(place) = Place::take(&CLIENTS, MAX_LIVE_CLIENTS) else {
                continue;
            };
            if clients.len() >= MAX_CLIENTS {
                let oldest = clients
                    .iter()
                    .min_by_key(|(_, (_, at))| *at)
                    .map(|(a, _)| *a);
                oldest.and_then(|a| clients.remove(&a));
            }
            let Some(upstream) = upstream(socket, from, to, place) else {
                continue;
            };
            clients.insert(from, (upstream, Instant::now()));
        }
        if let Some((upstream, at)) = clients.get_mut(&from) {
            *at = Instant::now();
            let _lost = upstream.send(&buf[..n]);
        }
    }
}

/// A socket towards the server for one client, with a thread that carries the answers back until nobody needs it.
fn upstream(
    socket: &Arc<UdpSocket>,
    client: SocketAddr,
    to: SocketAddr,
    place: Place,
) -> Option<Arc<UdpSocket>> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let upstream = Arc::new(UdpSocket::bind(any).ok()?);
    upstream.connect(to).ok()?;
    upstream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .ok()?;
    let (answers, socket) = (Arc::clone(&upstream), Arc::clone(socket));
    std::thread::Builder::new()
        .name("forward-answers".into())
        .spawn(move || {
            let mut buf = [0; 65_536];
            while Arc::strong_count(&answers) > 1 {
                match answers.recv(&mut buf) {
                    Ok(n) => {
                        let _lost = socket.send_to(&buf[..n], client);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
            drop(answers);
            drop(place);
        })
        .ok()?;
    Some(upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
    }

    #[test]
    fn a_forwarded_echo_comes_back_over_udp_and_tcp() {
        let (server, front) = (free(), free());
        echo(server).expect("binds");
        forward(front, server).expect("binds");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("binds");
        udp.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("set");
        udp.send_to(b"over udp", front).expect("sends");
        let mut buf = [0; 64];
        let n = udp.recv(&mut buf).expect("an answer");
        assert_eq!(&buf[..n], b"over udp");
        let mut tcp = TcpStream::connect(front).expect("connects");
        tcp.write_all(b"over tcp").expect("sends");
        tcp.shutdown(std::net::Shutdown::Write).expect("shuts");
        let mut got = Vec::new();
        tcp.read_to_end(&mut got).expect("an answer");
        assert_eq!(got, b"over tcp");
    }

    #[test]
    fn more_udp_clients_than_places_take_no_more_than_the_places() {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let places: Vec<_> = (0..9).map(|_| Place::take(&TAKEN, 4)).collect();
        assert_eq!(places.iter().flatten().count(), 4);
        drop(places);
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
        let (server, front) = (free(), free());
        echo(server).expect("binds");
        forward(front, server).expect("binds");
        let sockets: Vec<_> = (0..2 * MAX_LIVE_CLIENTS)
            .filter_map(|_| UdpSocket::bind("127.0.0.1:0").ok())
            .collect();
        for s in &sockets {
            s.send_to(b"x", front).expect("sends");
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(CLIENTS.load(Ordering::Relaxed) <= MAX_LIVE_CLIENTS);
    }
}
