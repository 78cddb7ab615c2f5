//! What the devices of a home do, as scripts of packets.

use super::Random;
use super::frame::{ACK, End, FIN, Frame, From, PSH, Path, RST, SYN, Segment, Transport};
use super::payload;

/// Something that devices of a home do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A page or an API call over TLS, after its name look-up.
    Web,
    /// The same over QUIC.
    Quic,
    /// A name look-up that leads to nothing.
    Lookup,
    /// A stretch of a video over TLS.
    Video,
    /// A small request over plain HTTP.
    Http,
    /// Asking for the time.
    Ntp,
    /// Announcing a service to the home.
    Mdns,
    /// Searching for services in the home.
    Ssdp,
    /// Asking for an address.
    Dhcp,
    /// Asking for a MAC address; no IP.
    Arp,
    /// A few echo requests.
    Ping,
    /// A knock from outside that nobody answers, or a reset does.
    Scan,
    /// An MQTT connection that stays.
    Mqtt,
    /// A push connection over TLS that stays.
    Push,
    /// A camera's datagrams.
    Camera,
}

impl Kind {
    /// Draws what happens next in a home.
    pub(crate) fn draw(random: &mut Random) -> Self {
        match random.below(1000) {
            0..300 => Self::Web,
            300..420 => Self::Quic,
            420..640 => Self::Lookup,
            640..645 => Self::Video,
            645..680 => Self::Http,
            680..730 => Self::Ntp,
            730..790 => Self::Mdns,
            790..820 => Self::Ssdp,
            820..830 => Self::Dhcp,
            830..880 => Self::Arp,
            880..910 => Self::Ping,
            _ => Self::Scan,
        }
    }
}

/// One packet of a script.
#[derive(Clone, Debug)]
struct Step {
    /// Microseconds since the packet before it.
    gap: u64,
    from: From,
    flags: u8,
    payload: Payload,
}

#[derive(Clone, Debug)]
enum Payload {
    None,
    /// These bytes.
    Bytes(Vec<u8>),
    /// As many bytes of noise.
    Noise(u16),
    /// As many bytes, the first of them the header of a TLS record.
    Tls(u16),
    /// A QUIC packet with a short header.
    Quic(u16),
}

/// Packets of one flow, still to come.
#[derive(Debug)]
pub(crate) struct Session {
    path: Path,
    steps: std::vec::IntoIter<Step>,
    /// Next TCP sequence number of client and server.
    sequence: [u32; 2],
    payload: Vec<u8>,
}

/// Largest TCP payload with timestamps over Ethernet, IPv6.
const SEGMENT: u16 = 1428;

impl Session {
    /// Scripts of what happens: each with its delay in microseconds. `lasting_us` is how long connections that stay do so.
    pub(crate) fn begin(
        kind: Kind,
        home: u64,
        lasting_us: u64,
        random: &mut Random,
    ) -> Vec<(u64, Self)> {
        let place = Place::draw(home, random);
        match kind {
            Kind::Lookup => place.lookup(random),
            Kind::Web => place.after_lookup(Transport::Tcp, 443, web(&place, random), random),
            Kind::Quic => place.after_lookup(Transport::Udp, 443, quic(random), random),
            Kind::Video => place.after_lookup(Transport::Tcp, 443, video(&place, random), random),
            Kind::Http => place.after_lookup(Transport::Tcp, 80, http(&place, random), random),
            Kind::Mqtt => place.one(
                Transport::Tcp,
                1883,
                mqtt(&place, lasting_us, random),
                random,
            ),
            Kind::Push => place.one(
                Transport::Tcp,
                5223,
                push(&place, lasting_us, random),
                random,
            ),
            Kind::Camera => place.one(Transport::Udp, 32_100, camera(lasting_us, random), random),
            Kind::Ntp => place.one(Transport::Udp, 123, ntp(random), random),
            Kind::Ping => place.one(Transport::Ping, 0, ping(random), random),
            Kind::Scan => place.scan(random),
            Kind::Mdns | Kind::Ssdp | Kind::Dhcp | Kind::Arp => place.local(kind, random),
        }
    }

    fn new(path: Path, steps: Vec<Step>, random: &mut Random) -> Self {
        Self {
            path,
            steps: steps.into_iter(),
            sequence: [random.next() as u32, random.next() as u32],
            payload: Vec::new(),
        }
    }

    /// Writes the next packet into `frame`.
    pub(crate) fn fill(&mut self, frame: &mut Frame, random: &mut Random) {
        let Some(step) = self.steps.next() else {
            return;
        };
        self.payload.clear();
        match &step.payload {
            Payload::None => (),
            Payload::Bytes(bytes) => self.payload.extend_from_slice(bytes),
            Payload::Noise(n) => payload::bytes(&mut self.payload, usize::from(*n), random),
            Payload::Tls(n) => {
                payload::bytes(&mut self.payload, usize::from(*n), random);
                payload::tls_data(&mut self.payload);
            }
            Payload::Quic(n) => {
                payload::bytes(&mut self.payload, usize::from(*n), random);
                if let Some(first) = self.payload.first_mut() {
                    *first = 0x40 | (*first & 0x3f);
                }
            }
        }
        let (own, other) = match step.from {
            From::Client => (0, 1),
            From::Server => (1, 0),
        };
        let acknowledges = step.flags & ACK != 0;
        let segment = Segment {
            from: step.from,
            flags: step.flags,
            sequence: self.sequence[own],
            acknowledgement: if acknowledges {
                self.sequence[other]
            } else {
                0
            },
            payload: &self.payload,
        };
        frame.fill(&self.path, segment, random);
        let counts = self.payload.len() as u32 + u32::from(step.flags & (SYN | FIN) != 0);
        self.sequence[own] = self.sequence[own]
            .wrapping_add(counts.max(u32::from(self.path.transport == Transport::Ping)));
    }

    /// Microseconds to the packet after the last one; `None` when there is none.
    pub(crate) fn next_gap(&self) -> Option<u64> {
        self.steps.as_slice().first().map(|step| step.gap)
    }
}

/// Who talks to whom.
struct Place {
    home: u64,
    device: u64,
    server: u64,
    ipv6: bool,
    vlan: u16,
}

impl Place {
    fn draw(home: u64, random: &mut Random) -> Self {
        Self {
            home,
            device: random.below(14),
            // Few servers have most of the visits.
            server: random.below(700) * random.below(700) / 700,
            ipv6: random.chance(38),
            vlan: if home % 8 == 7 { 20 } else { 0 },
        }
    }

    fn client(&self, random: &mut Random) -> End {
        let (home, device) = (self.home as u8, self.device as u8);
        let mut address = [0; 16];
        if self.ipv6 {
            address = [
                0xfd, 0x12, 0x34, 0, 0, 0, 0, home, 2, 0, 0x5e, 0xff, 0xfe, 0, 0, device,
            ];
        } else {
            address[12..].copy_from_slice(&[10, 7, home, 10 + device]);
        }
        End {
            mac: self.device_mac(),
            address,
            port: random.between(32_768, 60_999) as u16,
        }
    }

    fn device_mac(&self) -> [u8; 6] {
        [2, 0, 0x5e, 0x10, self.home as u8, 10 + self.device as u8]
    }

    fn router_mac(&self) -> [u8; 6] {
        [2, 0, 0x5e, 0x10, self.home as u8, 1]
    }

    fn remote(&self, port: u16) -> End {
        let number = (self.server as u16).to_be_bytes();
        let mut address = [0; 16];
        if self.ipv6 {
            address[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
            address[14..].copy_from_slice(&number);
        } else {
            // 198.18.0.0/15 is reserved for benchmarks (RFC 2544).
            address[12..].copy_from_slice(&[198, 18, number[0], number[1]]);
        }
        End {
            mac: self.router_mac(),
            address,
            port,
        }
    }

    fn path(&self, transport: Transport, server: End, random: &mut Random) -> Path {
        Path {
            client: self.client(random),
            server,
            transport,
            ipv6: self.ipv6,
            vlan: self.vlan,
        }
    }

    fn one(
        &self,
        transport: Transport,
        port: u16,
        steps: Vec<Step>,
        random: &mut Random,
    ) -> Vec<(u64, Session)> {
        let path = self.path(transport, self.remote(port), random);
        vec![(0, Session::new(path, steps, random))]
    }

    /// Both questions of a look-up, each from a port of its own, to the router.
    fn lookup(&self, random: &mut Random) -> Vec<(u64, Session)> {
        let name = payload::host(self.server);
        let mut out = Vec::new();
        for ask_ipv6 in [false, true] {
            let mut resolver = self.remote(53);
            if self.ipv6 {
                resolver.address = [0; 16];
                resolver.address[..8].copy_from_slice(&[
                    0xfd,
                    0x12,
                    0x34,
                    0,
                    0,
                    0,
                    0,
                    self.home as u8,
                ]);
                resolver.address[15] = 1;
            } else {
                resolver.address[12..].copy_from_slice(&[10, 7, self.home as u8, 1]);
            }
            let id = random.next() as u16;
            let address = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7];
            let answer = if ask_ipv6 {
                &address[..]
            } else {
                &[198, 18, 1, 7][..]
            };
            let query = Payload::Bytes(payload::dns_query(id, &name, ask_ipv6));
            let answer = Payload::Bytes(payload::dns_answer(id, &name, ask_ipv6, answer));
            let wait = random.between(300, 40_000);
            let steps = vec![
                step(0, From::Client, 0, query),
                step(wait, From::Server, 0, answer),
            ];
            let path = self.path(Transport::Udp, resolver, random);
            out.push((0, Session::new(path, steps, random)));
        }
        out
    }

    fn after_lookup(
        &self,
        transport: Transport,
        port: u16,
        steps: Vec<Step>,
        random: &mut Random,
    ) -> Vec<(u64, Session)> {
        // Names are often known already.
        let mut out = if random.chance(45) {
            self.lookup(random)
        } else {
            Vec::new()
        };
        for (delay, session) in self.one(transport, port, steps, random) {
            out.push((delay + 45_000, session));
        }
        out
    }

    /// What stays inside the home.
    fn local(&self, kind: Kind, random: &mut Random) -> Vec<(u64, Session)> {
        let ipv6 = self.ipv6 && kind == Kind::Mdns;
        let place = Self { ipv6, ..*self };
        let mut client = place.client(random);
        let (transport, multicast, port, bytes): (_, [u8; 4], u16, _) = match kind {
            Kind::Mdns => (
                Transport::Udp,
                [224, 0, 0, 251],
                5353,
                payload::mdns(self.device),
            ),
            Kind::Ssdp => (Transport::Udp, [239, 255, 255, 250], 1900, payload::ssdp()),
            Kind::Arp => (Transport::Arp, [10, 7, self.home as u8, 1], 0, Vec::new()),
            _ => (
                Transport::Udp,
                [255; 4],
                67,
                payload::dhcp(client.mac, self.device),
            ),
        };
        let mut group = End {
            mac: [1, 0, 0x5e, multicast[1] & 0x7f, multicast[2], multicast[3]],
            address: [0; 16],
            port,
        };
        if ipv6 {
            group.address = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb];
            group.mac = [0x33, 0x33, 0, 0, 0, 0xfb];
        } else {
            group.address[12..].copy_from_slice(&multicast);
        }
        match kind {
            Kind::Mdns => client.port = 5353,
            Kind::Arp => group.mac = [0xff; 6],
            Kind::Dhcp => {
                client.port = 68;
                client.address = [0; 16];
                group.mac = [0xff; 6];
            }
            _ => (),
        }
        let times = if kind == Kind::Arp || kind == Kind::Dhcp {
            1
        } else {
            random.between(1, 3)
        };
        let steps = (0..times)
            .map(|_| step(1_000_000, From::Client, 0, Payload::Bytes(bytes.clone())))
            .collect();
        let path = Path {
            client,
            server: group,
            transport,
            ipv6,
            vlan: self.vlan,
        };
        vec![(0, Session::new(path, steps, random))]
    }

    /// Someone outside tries a port of a device.
    fn scan(&self, random: &mut Random) -> Vec<(u64, Session)> {
        let mut path = self.path(Transport::Tcp, self.remote(0), random);
        let ports = [22, 23, 80, 443, 445, 1883, 5555, 8080, 8443, 7547];
        path.server.port = path.client.port;
        path.client.port = ports[random.below(ports.len() as u64) as usize];
        // The one outside begins.
        std::mem::swap(&mut path.client, &mut path.server);
        let mut steps = vec![step(0, From::Client, SYN, Payload::None)];
        if random.chance(40) {
            steps.push(step(400, From::Server, RST | ACK, Payload::None));
        }
        vec![(0, Session::new(path, steps, random))]
    }
}

fn step(gap: u64, from: From, flags: u8, payload: Payload) -> Step {
    Step {
        gap,
        from,
        flags,
        payload,
    }
}

fn handshake(random: &mut Random) -> (Vec<Step>, u64) {
    let round_trip = random.between(4_000, 60_000);
    let steps = vec![
        step(0, From::Client, SYN, Payload::None),
        step(round_trip, From::Server, SYN | ACK, Payload::None),
        step(150, From::Client, ACK, Payload::None),
    ];
    (steps, round_trip)
}

fn farewell(steps: &mut Vec<Step>, round_trip: u64, random: &mut Random) {
    match random.below(10) {
        0 => steps.push(step(2_000, From::Client, RST | ACK, Payload::None)),
        1 => (),
        _ => {
            steps.push(step(2_000, From::Client, FIN | ACK, Payload::None));
            steps.push(step(round_trip, From::Server, FIN | ACK, Payload::None));
            steps.push(step(150, From::Client, ACK, Payload::None));
        }
    }
}

/// TCP and TLS openings.
fn tls(place: &Place, random: &mut Random) -> (Vec<Step>, u64) {
    let (mut steps, round_trip) = handshake(random);
    let hello = payload::client_hello(&payload::host(place.server), random);
    let answer = payload::server_hello(usize::from(SEGMENT), random);
    steps.push(step(300, From::Client, PSH | ACK, Payload::Bytes(hello)));
    steps.push(step(round_trip, From::Server, ACK, Payload::None));
    steps.push(step(900, From::Server, ACK, Payload::Bytes(answer)));
    steps.push(step(20, From::Server, ACK, Payload::Noise(SEGMENT)));
    let rest = random.between(200, 1_300) as u16;
    steps.push(step(20, From::Server, PSH | ACK, Payload::Noise(rest)));
    steps.push(step(100, From::Client, ACK, Payload::None));
    steps.push(step(1_500, From::Client, PSH | ACK, Payload::Tls(74)));
    (steps, round_trip)
}

/// A response of `bytes` in full segments, every second one acknowledged.
fn response(steps: &mut Vec<Step>, wait: u64, mut bytes: u64, random: &mut Random) {
    let mut gap = wait;
    let mut n = 0;
    while bytes > 0 {
        let size = bytes.min(u64::from(SEGMENT)) as u16;
        bytes -= u64::from(size);
        let last = bytes == 0;
        // Noise inside a record that began earlier looks like any other.
        let payload = if n == 0 {
            Payload::Tls(size)
        } else {
            Payload::Noise(size)
        };
        let flags = if last { PSH | ACK } else { ACK };
        steps.push(step(gap, From::Server, flags, payload));
        gap = random.between(10, 400);
        n += 1;
        if n % 2 == 0 || last {
            steps.push(step(60, From::Client, ACK, Payload::None));
        }
    }
}

/// A size with a long tail: mostly near `typical`, now and then fifty times of it.
fn heavy(typical: u64, random: &mut Random) -> u64 {
    let mut size = random.exponential(typical);
    while random.chance(12) && size < 50 * typical {
        size += random.exponential(4 * typical);
    }
    size.max(40)
}

fn web(place: &Place, random: &mut Random) -> Vec<Step> {
    let (mut steps, round_trip) = tls(place, random);
    for _ in 0..random.between(1, 3) {
        let think = random.exponential(400_000) + 1_000;
        let request = random.between(90, 900) as u16;
        steps.push(step(think, From::Client, PSH | ACK, Payload::Tls(request)));
        response(&mut steps, round_trip + 2_000, heavy(1_800, random), random);
    }
    farewell(&mut steps, round_trip, random);
    steps
}

fn video(place: &Place, random: &mut Random) -> Vec<Step> {
    let (mut steps, round_trip) = tls(place, random);
    for _ in 0..random.between(2, 5) {
        steps.push(step(4_000_000, From::Client, PSH | ACK, Payload::Tls(420)));
        response(
            &mut steps,
            round_trip,
            100_000 + random.exponential(80_000),
            random,
        );
    }
    farewell(&mut steps, round_trip, random);
    steps
}

fn http(place: &Place, random: &mut Random) -> Vec<Step> {
    let (mut steps, round_trip) = handshake(random);
    let request = payload::http_request(&payload::host(place.server));
    steps.push(step(200, From::Client, PSH | ACK, Payload::Bytes(request)));
    let head = Payload::Bytes(payload::http_response());
    steps.push(step(round_trip + 3_000, From::Server, ACK, head));
    response(&mut steps, 50, 5_120, random);
    farewell(&mut steps, round_trip, random);
    steps
}

fn quic(random: &mut Random) -> Vec<Step> {
    let round_trip = random.between(4_000, 60_000);
    let initial = |random: &mut Random| {
        // A long header with version 1 and two connection identifiers; what follows cannot be decrypted.
        let mut bytes = vec![0xc3, 0, 0, 0, 1, 8];
        payload::bytes(&mut bytes, 8, random);
        bytes.extend([0, 0, 0x44, 0xc8]);
        let rest = 1_232 - bytes.len();
        payload::bytes(&mut bytes, rest, random);
        Payload::Bytes(bytes)
    };
    let mut steps = vec![
        step(0, From::Client, 0, initial(random)),
        step(round_trip, From::Server, 0, initial(random)),
        step(40, From::Server, 0, initial(random)),
        step(900, From::Client, 0, Payload::Quic(1_200)),
        step(200, From::Client, 0, Payload::Quic(320)),
    ];
    let mut bytes = heavy(3_500, random);
    let mut n = 0;
    let mut gap = round_trip;
    while bytes > 0 {
        let size = bytes.min(1_250);
        bytes -= size;
        steps.push(step(
            gap,
            From::Server,
            0,
            Payload::Quic(size.max(24) as u16),
        ));
        gap = random.between(10, 500);
        n += 1;
        if n % 4 == 0 || bytes == 0 {
            steps.push(step(100, From::Client, 0, Payload::Quic(33)));
        }
    }
    steps
}

fn ntp(random: &mut Random) -> Vec<Step> {
    vec![
        step(0, From::Client, 0, Payload::Bytes(payload::ntp(false))),
        step(
            random.between(5_000, 50_000),
            From::Server,
            0,
            Payload::Bytes(payload::ntp(true)),
        ),
    ]
}

fn ping(random: &mut Random) -> Vec<Step> {
    let wait = random.between(4_000, 60_000);
    (0..random.between(1, 4))
        .flat_map(|_| {
            [
                step(1_000_000, From::Client, 0, Payload::Noise(56)),
                step(wait, From::Server, 0, Payload::Noise(56)),
            ]
        })
        .collect()
}

fn mqtt(place: &Place, lasting_us: u64, random: &mut Random) -> Vec<Step> {
    let (mut steps, round_trip) = handshake(random);
    let connect = Payload::Bytes(payload::mqtt_connect(place.device));
    steps.push(step(500, From::Client, PSH | ACK, connect));
    steps.push(step(
        round_trip,
        From::Server,
        PSH | ACK,
        Payload::Bytes(vec![0x20, 2, 0, 0]),
    ));
    let mut left = lasting_us;
    while left > 0 {
        let gap = random.between(10_000_000, 20_000_000);
        left = left.saturating_sub(gap);
        // A PUBLISH of a few bytes, or a PINGREQ.
        let payload = if random.chance(60) {
            let mut publish = vec![0x30, 14, 0, 6, b's', b't', b'a', b't', b'u', b's'];
            payload::bytes(&mut publish, 6, random);
            publish
        } else {
            vec![0xc0, 0]
        };
        steps.push(step(gap, From::Client, PSH | ACK, Payload::Bytes(payload)));
        steps.push(step(round_trip, From::Server, ACK, Payload::None));
    }
    steps
}

fn push(place: &Place, lasting_us: u64, random: &mut Random) -> Vec<Step> {
    let (mut steps, round_trip) = tls(place, random);
    let mut left = lasting_us;
    while left > 0 {
        let gap = random.between(20_000_000, 110_000_000);
        left = left.saturating_sub(gap);
        let size = random.between(60, 600) as u16;
        steps.push(step(gap, From::Server, PSH | ACK, Payload::Tls(size)));
        steps.push(step(round_trip, From::Client, ACK, Payload::None));
    }
    steps
}

/// Two packets a second: a camera that is idle.
fn camera(lasting_us: u64, random: &mut Random) -> Vec<Step> {
    (0..lasting_us / 500_000)
        .map(|i| {
            let from = if i % 20 == 19 {
                From::Server
            } else {
                From::Client
            };
            step(
                500_000,
                from,
                0,
                Payload::Noise(random.between(60, 300) as u16),
            )
        })
        .collect()
}
