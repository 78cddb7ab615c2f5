//! The fast engine: TUN with segmentation offload, UDP with segmentation and merged receives.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chaff_sys::clock::monotonic;
use tun_rs::{DeviceBuilder, GROTable, SyncDevice, VIRTIO_NET_HDR_LEN};

use crate::driver::Shared;
use crate::turns::Turns;
use crate::udp::{MESSAGE, Room};

/// Packets taken from the interface before they are sent.
const DRAIN: usize = 64;
/// Buffers for packets: one super-packet of 64 kB with small segments on top of [`DRAIN`].
const BUFFERS: usize = 512;
/// Room for one packet.
const PACKET: usize = 9_216;
/// Packets written to the interface at once.
const WRITE: usize = 128;

/// Opens the interface, up, with its MTU; a busy name is tried again for `busy`.
pub(crate) fn open(name: &str, mtu: u16, busy: Duration) -> io::Result<SyncDevice> {
    let end = Instant::now() + busy;
    loop {
        let made = DeviceBuilder::new()
            .name(name)
            .mtu(mtu)
            .offload(true)
            .enable(true)
            .build_sync();
        match made {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(e),
            Ok(device) => {
                device.set_nonblocking(true)?;
                return Ok(device);
            }
        }
    }
}

/// Interface to network.
pub(crate) fn outwards(shared: &Shared, device: &SyncDevice) {
    let mut raw = vec![0; VIRTIO_NET_HDR_LEN + 65_535];
    let mut buffers = vec![vec![0u8; PACKET]; BUFFERS];
    let mut sizes = vec![0usize; BUFFERS];
    let (mut out, mut inner) = (Vec::new(), Vec::new());
    let mut turns = Turns::short(&shared.bulk[0], &shared.bulk[1]);
    while !shared.stopping() {
        let mut filled = 0;
        let mut reads = 0;
        // Datagrams come one at a time: drained first, they still leave as one message.
        while filled < DRAIN && reads < DRAIN {
            let (room, lens) = (&mut buffers[filled..], &mut sizes[filled..]);
            match device.recv_multiple(&mut raw, room, lens, 0) {
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    // A packet that makes no sense; but an interface that is gone stays gone.
                    shared.interface_errors.fetch_add(1, Ordering::Relaxed);
                    if e.raw_os_error() == Some(libc::EBADFD) {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    break;
                }
            }
            reads += 1;
        }
        if filled == 0 {
            shared.wait(crate::sys::borrow(device));
            continue;
        }
        turns.note(filled);
        shared.serve(&mut out, &mut inner, |tunnel| {
            let at = monotonic();
            for (packet, len) in buffers.iter().zip(&sizes).take(filled) {
                if let Some(packet) = packet.get(..*len) {
                    tunnel.handle_inner(at, packet);
                }
            }
        });
        shared.send(&mut out);
    }
}

/// Network to interface.
pub(crate) fn inwards(shared: &Shared, device: &SyncDevice) {
    let mut room = Room::new(MESSAGE);
    let mut table = GROTable::new();
    let mut write: Vec<Vec<u8>> = (0..WRITE)
        .map(|_| Vec::with_capacity(2 * VIRTIO_NET_HDR_LEN + 65_535))
        .collect();
    let (mut out, mut inner) = (Vec::new(), Vec::new());
    let mut turns = Turns::short(&shared.bulk[1], &shared.bulk[0]);
    while !shared.stopping() {
        match shared.udp.receive(&mut room) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                shared.wait(shared.udp.as_fd());
                continue;
            }
            // What the network says of earlier datagrams; nothing was received.
            Err(_) => continue,
        }
        shared.serve(&mut out, &mut inner, |tunnel| {
            Shared::take(tunnel, &mut room)
        });
        shared.send(&mut out);
        turns.note(inner.len());
        for batch in inner.chunks(WRITE) {
            for (to, packet) in write.iter_mut().zip(batch) {
                to.clear();
                to.resize(VIRTIO_NET_HDR_LEN, 0);
                to.extend_from_slice(packet.as_ref());
            }
            let batch = &mut write[..batch.len()];
            if device
                .send_multiple(&mut table, batch, VIRTIO_NET_HDR_LEN)
                .is_err()
            {
                shared.interface_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        inner.clear();
    }
}
