//! The portable engine: an asynchronous TUN interface and a UDP socket on one thread.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use chaff_abi::Nanos;
use chaff_sys::clock::monotonic;
use tokio::io::Interest;
use tokio_tun::Tun;

use crate::driver::{Options, Shared};
use crate::turns::take_short;
use crate::udp::{MESSAGE, Room};

/// Packets taken from the interface before they are sent.
const DRAIN: usize = 64;
/// Room for one packet.
const PACKET: usize = 9_216;

fn open(name: &str, mtu: u16, busy: Duration) -> io::Result<Tun> {
    let end = Instant::now() + busy;
    loop {
        let made = Tun::builder().name(name).mtu(mtu.into()).up().build();
        let error = match made {
            Ok(mut queues) => match queues.pop() {
                Some(tun) => return Ok(tun),
                None => io::Error::other("no queue"),
            },
            Err(tokio_tun::Error::IoError(e)) => e,
            Err(tokio_tun::Error::NixError(e)) => e.into(),
        };
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= end {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs until the driver stops; tells first whether it could start.
pub(crate) fn run(
    shared: &Shared,
    options: Options,
    busy: Duration,
    tell: &SyncSender<io::Result<()>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(r) => r,
        Err(e) => {
            let _told = tell.send(Err(e));
            return;
        }
    };
    let inside = runtime.enter();
    let mtu = shared.mtu();
    let opened = open(&options.interface, mtu, busy).and_then(|tun| {
        let udp = tokio::net::UdpSocket::from_std(shared.udp.try_clone_std()?)?;
        Ok((tun, udp))
    });
    drop(inside);
    match opened {
        Ok((tun, udp)) => {
            let _told = tell.send(Ok(()));
            runtime.block_on(serve(shared, options, &tun, &udp));
        }
        Err(e) => {
            let _told = tell.send(Err(e));
        }
    }
}

async fn serve(shared: &Shared, options: Options, tun: &Tun, udp: &tokio::net::UdpSocket) {
    // In bulk transfers too: at the interface each packet is a call of its own, whatever the batch.
    take_short();
    let mut heartbeat = options.heartbeat;
    let mut beat_at = monotonic();
    let mut room = Room::new(MESSAGE);
    let mut packets = vec![vec![0u8; PACKET]; DRAIN];
    let mut lens = [0usize; DRAIN];
    let (mut out, mut inner) = (Vec::new(), Vec::new());
    let started = (monotonic(), tokio::time::Instant::now());
    let Some(notify) = &shared.notify else { return };
    while !shared.stopping() {
        let next = shared.alarm(match &heartbeat {
            Some(_) => beat_at,
            None => Nanos::MAX,
        });
        let due = started.1 + Duration::from_nanos(next.since(started.0).0.min(1 << 55));
        let [first, ..] = &mut packets[..] else {
            return;
        };
        tokio::select! {
            read = tun.recv(first) => {
                let mut filled = 0;
                let mut read = read;
                while let Ok(n) = read {
                    lens[filled] = n;
                    filled += 1;
                    if filled == DRAIN {
                        break;
                    }
                    read = tun.try_recv(&mut packets[filled]);
                }
                let at = monotonic();
                shared.serve(&mut out, &mut inner, |tunnel| {
                    for (packet, len) in packets.iter().zip(lens).take(filled) {
                        tunnel.handle_inner(at, &packet[..len]);
                    }
                });
            }
            _ = udp.readable() => {
                // Only `WouldBlock` matters, and tokio takes note of it.
                let got = udp.try_io(Interest::READABLE, || shared.udp.receive(&mut room));
                if got.is_ok() {
                    shared.serve(&mut out, &mut inner, |tunnel| Shared::take(tunnel, &mut room));
                }
            }
            () = tokio::time::sleep_until(due) => {}
            () = notify.notified() => {}
        }
        shared.awake();
        let at = monotonic();
        if at >= shared.next_timeout() {
            shared.serve(&mut out, &mut inner, |tunnel| tunnel.handle_timeout(at));
        }
        if let Some(h) = heartbeat.as_mut().filter(|_| at >= beat_at) {
            (h.beat)();
            beat_at = at + h.every;
        }
        shared.send(&mut out);
        for packet in inner.drain(..) {
            if tun.try_send(packet.as_ref()).is_err() {
                shared.interface_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
