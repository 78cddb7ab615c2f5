//! A flood in which every packet is a new flow: all are forwarded, and each is in exactly one account.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaff_abi::{FlowKey, MeterConfig, Nanos, Reason};
use chaff_gateway::datapath::{Hook, Meter, MeterOptions};
use chaff_sys::clock::monotonic;
use chaff_tests::{Home, Layout, SINK, skip_without_root};
use xtask::netns::inside;

/// Packets of the flood; `CHAFF_FLOOD_PACKETS` asks for another number, up to five million.
const PACKETS: u32 = 200_000;
const MOST: u32 = 5_000_000;
/// Flows that a generation of the kernel's map holds.
const FLOWS: u32 = 65_536;
/// Flows per sending socket: one for each destination port.
const PORTS: u32 = 50_000;
const BODY: [u8; 32] = [7; 32];
const IP_BYTES: u64 = BODY.len() as u64 + 28;
const FIRST_SOURCE: u16 = 20_000;
const FIRST_TARGET: u16 = 10_000;
const DEVICE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// Packets between two drains: twice what the map holds. The ring is read all the time, but not before the first drain.
const DRAIN: u64 = 2 * FLOWS as u64;

/// Sends packets `from..to` of the flood, each with its own pair of ports, from the caller's namespace.
fn flood(from: u32, to: u32) -> Result<()> {
    let sink: Ipv4Addr = SINK.parse()?;
    let mut socket: Option<(u32, UdpSocket)> = None;
    for i in from..to {
        let (source, target) = (i / PORTS, i % PORTS);
        if socket.as_ref().is_none_or(|(n, _)| *n != source) {
            let port = FIRST_SOURCE + u16::try_from(source)?;
            let bound =
                UdpSocket::bind((DEVICE, port)).with_context(|| format!("source port {port}"))?;
            socket = Some((source, bound));
        }
        if let Some((_, s)) = &socket {
            let to = SocketAddr::from((sink, FIRST_TARGET + u16::try_from(target)?));
            s.send_to(&BODY, to).context("while sending")?;
        }
    }
    Ok(())
}

/// The number of the packet that made a flow; `None` for flows that are not of the flood.
fn number(k: &FlowKey) -> Option<usize> {
    let source = u32::from(k.source_port().checked_sub(FIRST_SOURCE)?);
    let target = u32::from(k.destination_port().checked_sub(FIRST_TARGET)?);
    let ours = k.protocol == 17 && k.src == FlowKey::mapped(DEVICE.octets()) && target < PORTS;
    ours.then_some((source * PORTS + target) as usize)
}

/// Datagrams that reached the network's host, where nobody listens.
fn arrived(home: &Home) -> Result<u64> {
    let out = home.in_network("cat").arg("/proc/net/snmp").output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut udp = text.lines().filter_map(|l| l.strip_prefix("Udp: "));
    let (names, values) = udp.next().zip(udp.next()).context("no UDP counters")?;
    let of = |name: &str| {
        let mut columns = names.split_whitespace().zip(values.split_whitespace());
        let found = columns.find(|(n, _)| *n == name).map(|(_, v)| v);
        found.unwrap_or("0").parse::<u64>()
    };
    Ok(of("NoPorts")?)
}

/// What user space was given, and whether anything came twice.
struct Accounts {
    seen: Vec<bool>,
    in_flows: u64,
    in_records: u64,
    bytes: u64,
    twice: u64,
    foreign: u64,
}

impl Accounts {
    fn note(&mut self, key: &FlowKey, bytes: u64) {
        self.bytes += bytes;
        match number(key).and_then(|i| self.seen.get_mut(i)) {
            Some(seen) if *seen => self.twice += 1,
            Some(seen) => *seen = true,
            None => self.foreign += 1,
        }
    }

    fn take_records(&mut self, meter: &mut Meter) {
        meter.poll_records(|r| {
            self.in_records += u64::from(r.segments.max(1));
            self.note(&r.key, u64::from(r.bytes));
        });
    }

    fn take_flows(&mut self, meter: &mut Meter) -> Result<()> {
        meter.drain(|k, v| {
            let c = v.counters[0];
            self.in_flows += c.packets + v.counters[1].packets;
            self.note(&k, c.bytes);
        })?;
        Ok(())
    }
}

#[test]
fn a_flood_of_new_flows_is_forwarded_and_accounted_for_to_the_packet() -> Result<()> {
    const NAME: &str = "a_flood_of_new_flows_is_forwarded_and_accounted_for_to_the_packet";
    if skip_without_root(NAME) {
        return Ok(());
    }
    let packets = match std::env::var("CHAFF_FLOOD_PACKETS") {
        Ok(n) => n.parse::<u32>().context("CHAFF_FLOOD_PACKETS")?.min(MOST),
        Err(_) => PACKETS,
    };
    let home = Home::new("flood", Layout::Route)?;
    // Nobody listens in the network: its complaints would be packets of their own.
    let silent = home
        .in_network("ip")
        .args(["route", "replace", "blackhole", "192.168.77.0/24"])
        .status()?;
    ensure!(silent.success(), "ip route: {silent}");
    let options = MeterOptions {
        hook: Hook::Tcx,
        lan: vec!["lan0".into()],
        wan: Some("wan0".into()),
        max_flows: FLOWS,
        config: MeterConfig {
            slot_epoch: monotonic(),
            slot_len: Nanos::from_secs(100_000),
            ..MeterConfig::default()
        },
        ..MeterOptions::default()
    };
    let mut meter = inside(&home.topology().gateway(), || Meter::load(&options))??;
    let before = arrived(&home)?;
    let mut accounts = Accounts {
        seen: vec![false; packets as usize],
        in_flows: 0,
        in_records: 0,
        bytes: 0,
        twice: 0,
        foreign: 0,
    };
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (sending, drains) = std::thread::scope(|scope| -> Result<_> {
        let space = home.topology().home();
        // Whole sockets to each of two senders.
        let middle = (packets / 2).div_ceil(PORTS) * PORTS;
        let middle = middle.min(packets);
        let senders = [(0, middle), (middle, packets)].map(|(from, to)| {
            let space = space.clone();
            scope.spawn(move || inside(&space, || flood(from, to))?)
        });
        let done = &done;
        let sent = scope.spawn(move || -> Result<Duration> {
            let results = senders.map(std::thread::ScopedJoinHandle::join);
            done.store(true, Ordering::Release);
            for r in results {
                r.map_err(|_| anyhow::anyhow!("a sender panicked"))??;
            }
            Ok(start.elapsed())
        });
        let (mut next, mut drains) = (DRAIN, 0u32);
        while !done.load(Ordering::Acquire) {
            if drains > 0 {
                accounts.take_records(&mut meter);
            }
            let seen = meter.reasons()?[Reason::Seen as usize];
            if seen >= next {
                accounts.take_flows(&mut meter)?;
                next = seen + DRAIN;
                drains += 1;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let sending = sent
            .join()
            .map_err(|_| anyhow::anyhow!("waiting panicked"))??;
        Ok((sending, drains))
    })?;
    // Frames that were in a queue when the last call returned.
    let until = Instant::now() + Duration::from_secs(5);
    while arrived(&home)? - before < u64::from(packets) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..2 {
        accounts.take_flows(&mut meter)?;
        accounts.take_records(&mut meter);
    }

    let reasons = meter.reasons()?;
    let of = |r: Reason| reasons[r as usize];
    let forwarded = arrived(&home)? - before;
    let sent = u64::from(packets);
    eprintln!(
        "{sent} packets, each a new flow, in {:.1} s ({:.0} a second): {forwarded} forwarded; {} in flows ({drains} drains \
         of a map of {FLOWS}), {} in records of the ring, {} counted as lost to records",
        sending.as_secs_f64(),
        f64::from(packets) / sending.as_secs_f64(),
        accounts.in_flows,
        accounts.in_records,
        of(Reason::Lost),
    );
    ensure!(forwarded == sent, "{forwarded} of {sent} arrived");
    ensure!(of(Reason::WanOut) == sent, "{} left", of(Reason::WanOut));
    ensure!(of(Reason::WanOutBytes) == sent * IP_BYTES);
    ensure!(of(Reason::Seen) == sent, "{} seen", of(Reason::Seen));
    ensure!(
        of(Reason::Flow) == accounts.in_flows,
        "{} counted into flows",
        of(Reason::Flow)
    );
    ensure!(
        of(Reason::Ring) == accounts.in_records,
        "{} sent as records",
        of(Reason::Ring)
    );
    let recorded = accounts.in_flows + accounts.in_records;
    ensure!(
        recorded + of(Reason::Lost) == sent,
        "{recorded} + {} lost of {sent}",
        of(Reason::Lost)
    );
    ensure!(accounts.bytes == recorded * IP_BYTES);
    ensure!(
        (accounts.twice, accounts.foreign) == (0, 0),
        "{} twice, {} foreign",
        accounts.twice,
        accounts.foreign
    );
    let slot = meter.slots().read(0, 0);
    ensure!(slot.packets == [sent, 0] && slot.bytes[0] == sent * IP_BYTES);
    ensure!(
        accounts.in_flows > 0 && accounts.in_records > 0 && of(Reason::Lost) > 0,
        "the flood did not fill map and ring"
    );
    meter.detach()?;
    Ok(())
}
