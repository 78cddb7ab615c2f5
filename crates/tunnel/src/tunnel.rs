//! A tunnel end: datagrams and inner packets in, datagrams and inner packets out.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use chaff_abi::Nanos;
use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::x25519;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::allowed::Allowed;
use crate::bins::{Bins, MAX_MTU, MIN_MTU};
use crate::budget::MonthBudget;
use crate::config::{Config, ConfigError, PeerConfig};
use crate::flood::Flood;
use crate::inner;
use crate::key::{PrivateKey, PublicKey};
use crate::peer::{Peer, Received, Shared};
use crate::report::TunnelReport;

/// What a datagram is; only this end and its peer know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A real packet.
    Real,
    /// A dummy.
    Cover,
    /// A handshake message or cookie reply.
    Handshake,
    /// An empty data message.
    Keepalive,
}

/// A WireGuard message to be sent.
#[derive(Debug)]
pub struct Datagram {
    /// Where to.
    pub to: SocketAddr,
    /// Number of the peer it belongs to.
    pub peer: usize,
    /// What it is.
    pub class: Class,
    /// When a real packet came to this end.
    pub came: Nanos,
    /// The number that a real packet came with; 0 for everything else.
    pub tag: u32,
    pub(crate) bytes: Packet,
}

impl AsRef<[u8]> for Datagram {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An inner packet that arrived, without padding.
#[derive(Debug)]
pub struct InnerPacket {
    /// Number of the peer it came from.
    pub peer: usize,
    bytes: Packet,
}

impl AsRef<[u8]> for InnerPacket {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Something the driver acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Full-size packets do not arrive: set the inner MTU to this, here ([`Tunnel::set_mtu`]) and at the interface.
    LowerMtu(u16),
}

/// A data message as only the two ends know it, for testbeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Nanos,
    /// Number of the peer.
    pub peer: usize,
    /// Whether it was received here, or else sent.
    pub received: bool,
    /// UDP payload bytes.
    pub len: usize,
    /// What it is.
    pub class: Class,
}

/// Messages of [`Tunnel::record`] that wait for [`Tunnel::poll_seen`]; older ones go.
const MAX_SEEN: usize = 65_536;
/// Steps by which the MTU goes down on a path that is narrower than it says.
const MTU_STEPS: [u16; 5] = [1_420, 1_392, 1_360, 1_320, MIN_MTU];
/// Time without cover after the network refused to take a packet.
const CONGESTION: Nanos = Nanos::from_millis(100);
/// Indices kept of each peer: sessions, and initiations without an answer.
const MAX_INDICES: usize = 32;

/// A tunnel end with one or more peers: a state machine without clock, socket or thread.
///
/// Input: [`handle_inner`](Self::handle_inner), [`handle_datagram`](Self::handle_datagram), [`plan`](Self::plan),
/// [`ask_downlink`](Self::ask_downlink), [`handle_timeout`](Self::handle_timeout). Output, to be drained after each of them:
/// [`poll_datagram`](Self::poll_datagram), [`poll_inner`](Self::poll_inner), [`poll_event`](Self::poll_event).
pub struct Tunnel {
    config: Config,
    bins: Bins,
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
    /// Asks every source for a cookie.
    strict: RateLimiter,
    flood: Flood,
    peers: Vec<Peer>,
    by_key: BTreeMap<[u8; 32], usize>,
    by_index: BTreeMap<u32, usize>,
    indices_of: Vec<VecDeque<u32>>,
    allowed: Allowed,
    out: VecDeque<Datagram>,
    inner: VecDeque<InnerPacket>,
    events: VecDeque<Event>,
    fresh: Vec<u32>,
    seen: Option<VecDeque<Seen>>,
    paused: bool,
    now: Nanos,
    report: TunnelReport,
}

impl Tunnel {
    /// Makes a tunnel end. The seed feeds sizes and times of cover; keys come from the system.
    ///
    /// # Errors
    /// No peer, a key twice, or a number out of range.
    pub fn new(
        key: &PrivateKey,
        config: Config,
        peers: &[PeerConfig],
        seed: [u8; 32],
        now: Nanos,
    ) -> Result<Self, ConfigError> {
        if !(1..=1_024).contains(&peers.len()) {
            return Err(ConfigError::Peers(peers.len()));
        }
        if !(MIN_MTU..=MAX_MTU).contains(&config.mtu) {
            return Err(ConfigError::Range {
                field: "mtu",
                value: config.mtu.into(),
                allowed: "1280 to 8920",
            });
        }
        if config.max_waiting < 4 || config.hold > Nanos::from_secs(1) {
            return Err(ConfigError::Range {
                field: "hold (ns)",
                value: config.hold.0,
                allowed: "0 to 1 s, with room for 4 packets at least",
            });
        }
        if config.clock > Nanos::from_millis(100) {
            return Err(ConfigError::Range {
                field: "clock (ns)",
                value: config.clock.0,
                allowed: "0 to 100 ms",
            });
        }
        if let Some(e) = &config.envelope {
            chaff_cover::Envelope::new(e.clone(), [0; 32], now).map_err(ConfigError::Envelope)?;
        }
        let secret = key.secret();
        let public = x25519::PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, config.handshakes_per_second));
        let strict = RateLimiter::new(&public, 0);
        let flood = Flood::new(config.handshakes_per_second, config.handshakes_in_all, now);
        let table = IndexTable::from_os_rng();
        let bins = Bins::new(config.profile, config.mtu);
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut by_key = BTreeMap::new();
        let mut allowed = Allowed::default();
        let mut made = Vec::with_capacity(peers.len());
        for (i, p) in peers.iter().enumerate() {
            if p.public_key.0 == *public.as_bytes() || by_key.insert(p.public_key.0, i).is_some() {
                return Err(ConfigError::Duplicate(p.public_key));
            }
            p.allowed.iter().for_each(|r| allowed.insert(*r, i));
            let tunn = Tunn::new(
                secret.clone(),
                x25519::PublicKey::from(p.public_key.0),
                p.preshared_key.as_ref().map(|k| k.bytes()),
                None,
                table.clone(),
                Arc::clone(&limiter),
            );
            let rng = ChaCha20Rng::from_seed(rng.random());
            let endpoint = p.endpoint.map(canonical);
            made.push(Peer::new(
                p.public_key,
                endpoint,
                tunn,
                &config,
                &bins,
                rng,
                now,
            ));
        }
        Ok(Self {
            indices_of: vec![VecDeque::new(); made.len()],
            report: TunnelReport {
                version: 1,
                ..TunnelReport::default()
            },
            config,
            bins,
            secret,
            public,
            limiter,
            strict,
            flood,
            peers: made,
            by_key,
            by_index: BTreeMap::new(),
            allowed,
            out: VecDeque::new(),
            inner: VecDeque::new(),
            events: VecDeque::new(),
            fresh: Vec::new(),
            seen: None,
            paused: false,
            now,
        })
    }

    /// Serves peer `number` and notes the indices that it gave out.
    fn with<T>(
        &mut self,
        number: usize,
        serve: impl FnOnce(&mut Peer, &mut Shared<'_>) -> T,
    ) -> Option<T> {
        let peer = self.peers.get_mut(number)?;
        let mut shared = Shared {
            config: &self.config,
            bins: &self.bins,
            paused: self.paused,
            out: &mut self.out,
            indices: &mut self.fresh,
            number,
        };
        let done = serve(peer, &mut shared);
        if peer.black_hole {
            peer.black_hole = false;
            let next = MTU_STEPS.into_iter().find(|m| *m < self.bins.mtu());
            // The MTU is that of all peers: where there are others, none has a say in it.
            let alone = self.indices_of.len() == 1;
            if let (Some(mtu), true) = (next, alone && self.events.is_empty()) {
                self.events.push_back(Event::LowerMtu(mtu));
            }
        }
        for index in self.fresh.drain(..) {
            self.by_index.insert(index, number);
            let mine = &mut self.indices_of[number];
            mine.push_back(index);
            if mine.len() > MAX_INDICES
                && let Some(old) = mine.pop_front()
            {
                self.by_index.remove(&old);
            }
        }
        Some(done)
    }

    fn advance(&mut self, now: Nanos) -> Nanos {
        self.now = self.now.max(now);
        self.now
    }

    /// Takes an inner packet from this end's side. Packets beyond the MTU are dropped and counted: the interface in
    /// front tells senders the MTU.
    pub fn handle_inner(&mut self, now: Nanos, packet: &[u8]) {
        self.handle_tagged(now, packet, 0);
    }

    /// As [`Tunnel::handle_inner`], with a number that the [`Datagram`] will carry, for whoever wants to know what became of it.
    pub fn handle_tagged(&mut self, now: Nanos, packet: &[u8], tag: u32) {
        let now = self.advance(now);
        let Some(found) = inner::parse(packet) else {
            self.report.no_peer += 1;
            return;
        };
        // What an interface says to its own link (router solicitations and the like) ends here.
        if is_local(found.source) || is_local(found.destination) {
            self.report.local += 1;
            return;
        }
        let Some(number) = self.allowed.owner(found.destination) else {
            self.report.no_peer += 1;
            return;
        };
        let bin = self.bins.fit(found.len);
        self.with(number, |peer, shared| match bin {
            Some(bin) => peer.send_real(now, &packet[..found.len], tag, bin, shared),
            None => *peer.report.real_dropped.entry("too_big").or_default() += 1,
        });
    }

    /// Takes a datagram from the network; it is decrypted in place.
    pub fn handle_datagram(&mut self, now: Nanos, from: SocketAddr, datagram: BytesMut) {
        let now = self.advance(now);
        let from = canonical(from);
        let len = datagram.len();
        let limiter = if datagram.first() == Some(&4) {
            &*self.limiter
        } else {
            // Cheap where nothing is due; they have a second of their own.
            self.limiter.try_reset_count();
            self.strict.try_reset_count();
            if self.flood.needs_proof(now) {
                &self.strict
            } else {
                &*self.limiter
            }
        };
        let message = match limiter.verify_packet(from, Packet::from_bytes(datagram)) {
            Ok(WgKind::HandshakeInit(_) | WgKind::HandshakeResp(_))
                if !self.flood.admit(from.ip()) =>
            {
                return self.refuse("flood");
            }
            Ok(message) => message,
            Err(TunnResult::WriteToNetwork(cookie)) => {
                self.report.cookies += 1;
                self.out.push_back(Datagram {
                    to: from,
                    peer: 0,
                    class: Class::Handshake,
                    came: now,
                    tag: 0,
                    bytes: cookie.into(),
                });
                return;
            }
            Err(_) => return self.refuse("malformed"),
        };
        let index = match &message {
            WgKind::HandshakeInit(init) => {
                let Ok(who) = parse_handshake_anon(&self.secret, &self.public, init) else {
                    return self.refuse("handshake");
                };
                let Some(number) = self.by_key.get(&who.peer_static_public).copied() else {
                    return self.refuse("unknown_peer");
                };
                self.with(number, |p, s| p.handle_handshake(now, from, message, s));
                return;
            }
            WgKind::HandshakeResp(m) => m.receiver_idx.get(),
            WgKind::CookieReply(m) => m.receiver_idx.get(),
            WgKind::Data(m) => m.header.receiver_idx.get(),
        };
        let Some(number) = self.by_index.get(&index).copied() else {
            return self.refuse("unknown_session");
        };
        let before = self.peers[number].report.cover_in.packets;
        let received = self.with(number, |p, s| match &message {
            WgKind::Data(_) => p.handle_data(now, from, message, s),
            _ => {
                p.handle_handshake(now, from, message, s);
                Received::Nothing
            }
        });
        if self.peers[number].report.cover_in.packets > before {
            self.note_seen(number, true, len, Class::Cover);
        }
        if let Some(Received::Packet(packet)) = received {
            self.note_seen(number, true, len, Class::Real);
            self.deliver(number, packet);
        }
    }

    fn deliver(&mut self, number: usize, mut packet: Packet) {
        let peer = &mut self.peers[number].report;
        let Some(found) = inner::parse(&packet) else {
            *peer.refused.entry("not_ip").or_default() += 1;
            return;
        };
        if self.allowed.owner(found.source) != Some(number) {
            *peer.refused.entry("source").or_default() += 1;
            return;
        }
        packet.truncate(found.len);
        peer.real_in.add(found.len);
        self.inner.push_back(InnerPacket {
            peer: number,
            bytes: packet,
        });
    }

    fn refuse(&mut self, why: &'static str) {
        *self.report.refused.entry(why).or_default() += 1;
    }

    /// The next message for the network.
    pub fn poll_datagram(&mut self) -> Option<Datagram> {
        let d = self.out.pop_front()?;
        if self.seen.is_some() {
            self.note_seen(d.peer, false, d.as_ref().len(), d.class);
        }
        Some(d)
    }

    /// Keeps a record of data messages from now on, which tells real ones and cover apart: for testbeds.
    pub fn record(&mut self) {
        self.seen.get_or_insert_default();
    }

    /// The next message of the record.
    pub fn poll_seen(&mut self) -> Option<Seen> {
        self.seen.as_mut()?.pop_front()
    }

    fn note_seen(&mut self, peer: usize, received: bool, len: usize, class: Class) {
        let at = self.now;
        if let Some(seen) = &mut self.seen {
            if seen.len() >= MAX_SEEN {
                seen.pop_front();
            }
            seen.push_back(Seen {
                at,
                peer,
                received,
                len,
                class,
            });
        }
    }

    /// The next inner packet for this end's side.
    pub fn poll_inner(&mut self) -> Option<InnerPacket> {
        self.inner.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Plans a dummy to peer `peer` for `due`; its size is drawn when it is due, or a waiting real packet takes its place.
    pub fn plan(&mut self, peer: usize, due: Nanos, stream: u16) {
        self.with(peer, |p, _| p.plan(due, stream, 0));
    }

    /// Asks peer `peer` to send dummies: when, and of which stream. The request rides on dummies that are sent anyway,
    /// or on one of its own within 100 ms. An empty request keeps the far end's lease.
    pub fn ask_downlink(&mut self, now: Nanos, peer: usize, dummies: &[(Nanos, u16)]) {
        let now = self.advance(now);
        self.with(peer, |p, _| p.ask(now, dummies));
    }

    /// When to call [`Tunnel::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Nanos, &'static str)> {
        let due = |p: &Peer| p.poll_timeout(self.now, &self.config);
        self.peers.iter().filter_map(due).min()
    }

    /// Does what is due. Safe to call early or late.
    pub fn handle_timeout(&mut self, now: Nanos) {
        let now = self.advance(now);
        for number in 0..self.peers.len() {
            self.with(number, |p, s| p.handle_timeout(now, s));
        }
    }

    /// Starts a handshake with a peer whose address is known, unless one is under way: two at the same moment are a replay to
    /// the far end.
    pub fn initiate(&mut self, now: Nanos, peer: usize) {
        let now = self.advance(now);
        self.with(peer, |p, s| {
            if p.waiting_since().is_none() {
                p.initiate(now, s);
            }
        });
    }

    /// Tells that the network took no more packets: cover stands back for a moment.
    pub fn note_congested(&mut self, now: Nanos) {
        let now = self.advance(now);
        self.peers
            .iter_mut()
            .for_each(|p| p.congested(now + CONGESTION));
    }

    /// Stops or resumes cover. What was planned meanwhile is dropped. Real packets and their padding go on.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        if paused {
            self.peers.iter_mut().for_each(Peer::forget_plans);
        }
    }

    /// Whether cover is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Changes the MTU, and with it the largest bin.
    pub fn set_mtu(&mut self, now: Nanos, mtu: u16) {
        let now = self.advance(now);
        self.config.mtu = mtu.clamp(MIN_MTU, MAX_MTU);
        self.bins = Bins::new(self.config.profile, self.config.mtu);
        self.events.clear();
        let bins = &self.bins;
        self.peers.iter_mut().for_each(|p| p.rebin(bins, now));
    }

    /// Sets what cover may cost in a calendar month, for all peers together of a gateway with one peer.
    pub fn set_month(&mut self, month: Option<MonthBudget>) {
        if let Some(p) = self.peers.first_mut() {
            p.budget().set_month(month);
        }
    }

    /// Multiplies the rate of the envelopes from their next epoch on, 0 to 16: how a volume lasts for its time.
    pub fn scale_cover(&mut self, scale: f64) {
        self.peers.iter_mut().for_each(|p| p.scale_cover(scale));
    }

    /// The month's budget with what is used of it; begins a new month when it is time.
    pub fn month(&mut self, unix: Nanos) -> Option<MonthBudget> {
        let budget = self.peers.first_mut()?.budget();
        budget.turn(unix);
        budget.month()
    }

    /// Changes where a peer is, as when its name resolves to a new address.
    pub fn set_endpoint(&mut self, peer: usize, endpoint: SocketAddr) {
        if let Some(p) = self.peers.get_mut(peer) {
            p.endpoint = Some(canonical(endpoint));
        }
    }

    /// Where a peer is, as its authentic messages say.
    pub fn endpoint(&self, peer: usize) -> Option<SocketAddr> {
        self.peers.get(peer)?.endpoint
    }

    /// Public key of a peer.
    pub fn public_key(&self, peer: usize) -> Option<PublicKey> {
        Some(self.peers.get(peer)?.key)
    }

    /// Whether a peer can be sent to without a handshake.
    pub fn has_session(&self, peer: usize) -> bool {
        let session = |p: &Peer| p.has_session(self.now);
        self.peers.get(peer).is_some_and(session)
    }

    /// How long a peer has left a handshake without answer; `None` when none waits.
    pub fn unanswered_for(&self, peer: usize, now: Nanos) -> Option<Nanos> {
        Some(now.since(self.peers.get(peer)?.waiting_since()?))
    }

    /// When a peer was heard last.
    pub fn last_received(&self, peer: usize) -> Option<Nanos> {
        self.peers.get(peer)?.last_received()
    }

    /// The bins in force.
    pub fn bins(&self) -> &Bins {
        &self.bins
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The counts so far.
    pub fn report(&self) -> TunnelReport {
        TunnelReport {
            mtu: self.bins.mtu(),
            peers: self.peers.iter().map(Peer::counts).collect(),
            ..self.report.clone()
        }
    }
}

/// Whether an address means something on its own link only.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast() || a.octets()[..3] == [224, 0, 0],
        IpAddr::V6(a) => {
            let link = a.is_multicast() && a.segments()[0] & 15 <= 2;
            a.is_unicast_link_local() || link || a.is_unspecified()
        }
    }
}

/// An IPv4 address that a dual-stack socket shows as IPv6 is the IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
