//! TLS over TCP: records to handshake messages to hellos.

use super::super::fingerprint::{Transport, ja3, ja3s, ja4, ja4_ndpi};
use super::super::names;
use super::super::stream::Stream;
use super::super::tls::{
    CERTIFICATE, CLIENT_HELLO, ClientHello, Message, Record, SERVER_HELLO, ServerHello, record,
};
use super::super::{Seen, services, text, x509};
use super::{Dialect, Found, Verdict};

/// Packets after the first of TLS that may still bring the ServerHello.
pub(super) const PATIENCE: u8 = 12;
const TLS13: u16 = 0x0304;

/// Hellos of a connection that are read; there are two or four.
const MAX_HELLOS: u8 = 8;
/// Longest handshake message that is put together from several records, bytes.
const MAX_MESSAGE: usize = 16 * 1024;

/// What is known of a TLS connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Tls {
    sides: [Side; 2],
    /// Which side sent the ClientHello.
    pub(super) client: Option<usize>,
    tls13: bool,
    server_hello: bool,
    certificate: bool,
    identified: bool,
    hellos: u8,
    /// Text may come before the first record.
    plain: bool,
    /// Only the server's name is wanted.
    no_fingerprints: bool,
    /// A port that stands for mail over TLS, or 0.
    port: u16,
}

#[derive(Clone, Debug, Default)]
struct Side {
    stream: Stream,
    /// Start of a handshake message whose rest is in the next record.
    message: Vec<u8>,
    encrypted: bool,
    data: bool,
}

/// Whether a payload may begin with a record.
pub(super) fn may_begin(payload: &[u8]) -> bool {
    payload.first().is_some_and(is_kind)
}

fn is_kind(first: &u8) -> bool {
    (record::CHANGE_CIPHER_SPEC..=record::HEARTBEAT).contains(first)
}

impl Tls {
    /// TLS that another protocol has asked for in the clear.
    pub(super) fn after_plain_text(fingerprints: bool) -> Self {
        Self {
            identified: true,
            plain: true,
            no_fingerprints: !fingerprints,
            ..Self::default()
        }
    }

    /// Bytes that wait for the rest of a handshake.
    pub(super) fn held(&self) -> usize {
        let sides = self.sides.iter();
        sides.map(|s| s.stream.held() + s.message.capacity()).sum()
    }

    pub(super) fn packet(
        &mut self,
        dialect: Dialect,
        packet: &Seen<'_>,
        found: &mut Found,
    ) -> Verdict {
        if self.plain && packet.payload.first() != Some(&record::HANDSHAKE) {
            return self.verdict();
        }
        self.plain = false;
        let mail = |port: &u16| matches!(port, 465 | 993 | 995);
        self.port = packet.ports.into_iter().find(mail).unwrap_or(0);

        let side = usize::from(!packet.forward);
        let mut state = std::mem::take(&mut self.sides[side]);
        let fresh = state
            .stream
            .push(dialect.order(), packet.tcp_sequence, packet.payload);
        let sound = !fresh || self.records(dialect, side, &mut state, found);
        self.sides[side] = state;
        match sound {
            true => self.verdict(),
            false if self.identified => Verdict::Finished,
            false => Verdict::No,
        }
    }

    fn verdict(&self) -> Verdict {
        let told = self.server_hello && (self.tls13 || self.certificate);
        let answered = self
            .client
            .is_some_and(|client| told || self.sides[1 - client].data);
        match self.identified {
            true if answered || self.hellos >= MAX_HELLOS => Verdict::Finished,
            true => Verdict::Mine,
            false => Verdict::Perhaps,
        }
    }

    /// Reads the whole records that a side has sent; false when they cannot be some.
    fn records(
        &mut self,
        dialect: Dialect,
        side: usize,
        state: &mut Side,
        found: &mut Found,
    ) -> bool {
        let Side {
            stream,
            message,
            encrypted,
            data,
        } = state;
        let mut at = 0;
        while let Some(first) = stream.bytes().get(at) {
            if !is_kind(first) {
                return false;
            }
            let record = Record::parse(&stream.bytes()[at..]);
            let Some(record) = record.filter(Record::is_whole) else {
                break;
            };
            match record.kind {
                record::CHANGE_CIPHER_SPEC => {
                    *encrypted = true;
                    self.identify(found);
                }
                record::ALERT => self.identify(found),
                record::APPLICATION_DATA if record.version >> 8 == 3 && record.length > 0 => {
                    *data = true;
                    self.identify(found);
                }
                record::HANDSHAKE
                    if !*encrypted
                        && !self.handshake(dialect, side, record.content, message, found) =>
                {
                    return false;
                }
                _ => {}
            }
            at += record::HEADER + record.length;
        }
        let stuck = at == 0 && stream.is_full();
        stream.consume(at);
        !stuck
    }

    fn identify(&mut self, found: &mut Found) {
        if !self.identified {
            self.identified = true;
            found.name(match self.port {
                465 => names::SMTPS,
                993 => names::IMAPS,
                995 => names::POPS,
                _ => names::TLS,
            });
            found.own_category = self.port != 0;
        }
    }

    /// Reads the handshake messages of a record; `message` is what the record before left of one.
    fn handshake(
        &mut self,
        dialect: Dialect,
        side: usize,
        content: &[u8],
        message: &mut Vec<u8>,
        found: &mut Found,
    ) -> bool {
        if dialect == Dialect::Ndpi {
            // Each record for itself.
            return self.messages(dialect, side, content, found) == content.len()
                || self.identified;
        }
        if message.is_empty() {
            let read = self.messages(dialect, side, content, found);
            message.extend_from_slice(&content[read..]);
        } else {
            message.extend_from_slice(content);
            if Message::parse(message).is_some_and(|m| m.is_whole()) {
                let read = self.messages(dialect, side, message, found);
                message.drain(..read);
            }
        }
        message.len() <= MAX_MESSAGE
    }

    /// Reads the whole handshake messages in `bytes`; gives where the first one that is not whole begins.
    fn messages(
        &mut self,
        dialect: Dialect,
        side: usize,
        bytes: &[u8],
        found: &mut Found,
    ) -> usize {
        let mut at = 0;
        while let Some(message) = Message::parse(&bytes[at..]).filter(Message::is_whole) {
            self.message(dialect, side, &message, found);
            at += Message::HEADER + message.length;
            if self.server_hello && self.tls13 && self.client.is_some() {
                return bytes.len();
            }
        }
        at
    }

    fn message(&mut self, dialect: Dialect, side: usize, message: &Message<'_>, found: &mut Found) {
        match message.kind {
            CLIENT_HELLO | SERVER_HELLO if self.hellos >= MAX_HELLOS => {}
            CLIENT_HELLO => {
                self.hellos += 1;
                self.identify(found);
                self.client = Some(side);
                if let Some(hello) = ClientHello::parse(message.body, false) {
                    client(dialect, Transport::Tcp, hello, found);
                }
            }
            SERVER_HELLO => {
                self.hellos += 1;
                self.identify(found);
                self.server_hello = true;
                if let Some(hello) = ServerHello::parse(message.body) {
                    self.tls13 |= hello.selected_version == Some(TLS13);
                    server(hello, found);
                }
            }
            CERTIFICATE if !self.certificate => {
                self.certificate = true;
                certificate(dialect, message.body, found);
            }
            _ => {}
        }
        if self.no_fingerprints {
            found.hints.client_fingerprint.clear();
            found.hints.server_fingerprint.clear();
        }
    }
}

/// Notes what a ClientHello says.
pub(super) fn client(
    dialect: Dialect,
    transport: Transport,
    hello: ClientHello,
    found: &mut Found,
) {
    if let Some(name) = hello.server_name.as_ref().filter(|name| !name.is_empty()) {
        found.server(text::host(name), dialect);
    }
    let hints = &mut found.hints;
    match dialect {
        // It has no JA3 of clients any more.
        Dialect::Ndpi => {
            let print = ja4_ndpi(&hello, transport, &hints.server_name);
            hints.client_fingerprint = print.unwrap_or_default();
        }
        Dialect::Standard => {
            hints.ja3 = ja3(&hello);
            hints.client_fingerprint = ja4(&hello, transport);
        }
    }
    if let Some(protocol) = hello.alpn.first() {
        hints.alpn = text::utf8(protocol);
    }
}

/// Names the application of a server that was not asked for by name, by its certificate.
pub(super) fn certificate(dialect: Dialect, message: &[u8], found: &mut Found) {
    if found.service.is_some() || found.category.is_some() {
        return;
    }
    let devices = dialect == Dialect::Standard;
    let names = x509::first(message).map(x509::names).unwrap_or_default();
    let mut services = names.into_iter().filter_map(|name| {
        let name = name.strip_prefix(b"*.").unwrap_or(name);
        services::lookup(&text::host(name), devices)
    });
    if let Some(app) = services.find(|app| !app.name.is_empty()) {
        found.carries(app);
    }
}

/// Notes what a ServerHello says.
pub(super) fn server(hello: ServerHello, found: &mut Found) {
    found.hints.server_fingerprint = ja3s(&hello);
    if let Some(protocol) = hello.alpn {
        found.hints.alpn = text::utf8(&protocol);
    }
}
