//! The far end of real flows in a testbed: echoes or forwards UDP and TCP. Connections and UDP clients are bounded.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

/// TCP connections served at once; further ones are closed at once.
const MAX_CONNECTIONS: usize = 256;
/// UDP clients of a forward; the one that was silent longest makes room.
const MAX_CLIENTS: usize = 256;
/// A TCP connection that is silent for this long is closed.
const SILENT: Duration = Duration::from_secs(120);

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
                if let Ok((n, from)) = udp.recv_from(&mut buf) {
                    let _lost = udp.send_to(&buf[..n], from);
                }
            }
        })?;
    serve(tcp, |stream| {
        let Ok(mut back) = stream.try_clone() else {
            return;
        };
        copy(&stream, &mut back);
    })
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
        let (Ok(mut client_out), Ok(mut server_out)) = (stream.try_clone(), server.try_clone())
        else {
            return;
        };
        let back = std::thread::spawn(move || copy(&server, &mut client_out));
        copy(&stream, &mut server_out);
        let _ended = back.join();
    })
}

fn serve(
    listener: TcpListener,
    handle: impl Fn(TcpStream) + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let handle = Arc::new(handle);
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new()
        .name("tcp".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                    open.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (handle, open) = (Arc::clone(&handle), Arc::clone(&open));
                std::thread::spawn(move || {
                    let _unlimited = stream.set_read_timeout(Some(SILENT));
                    handle(stream);
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        })?;
    Ok(())
}

fn copy(mut from: &TcpStream, to: &mut TcpStream) {
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
            continue;
        };
        if !clients.contains_key(&from) {
            if clients.len() >= MAX_CLIENTS {
                let oldest = clients
                    .iter()
                    .min_by_key(|(_, (_, at))| *at)
                    .map(|(a, _)| *a);
                oldest.and_then(|a| clients.remove(&a));
            }
            let Some(upstream) = upstream(socket, from, to) else {
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
fn upstream(socket: &Arc<UdpSocket>, client: SocketAddr, to: SocketAddr) -> Option<Arc<UdpSocket>> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let upstream = Arc::new(UdpSocket::bind(any).ok()?);
    upstream.connect(to).ok()?;
    upstream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .ok()?;
    let (answers, socket) = (Arc::clone(&upstream), Arc::clone(socket));
    std::thread::spawn(move || {
        let mut buf = [0; 65_536];
        while Arc::strong_count(&answers) > 1 {
            if let Ok(n) = answers.recv(&mut buf) {
                let _lost = socket.send_to(&buf[..n], client);
            }
        }
    });
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
}
