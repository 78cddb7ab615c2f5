//! TLS over TCP: records to handshake messages to hellos.

use super::super::fingerprint::{Transport, ja3, ja3s, ja4, ja4_ndpi};
use super::super::names;
use super::super::stream::Stream;
use super::super::tls::{
    CERTIFICATE, CLIENT_HELLO, ClientHello, Message, Record, SERVER_HELLO, ServerHello, record,
};
use super::super::{Seen, services, text, x509};
use super::{Dialect, Found, Verdict};

/// Packets after the ClientHello that may still bring the ServerHello.
pub(super) const PATIENCE: u8 = 12;
const TLS13: u16 = 0x0304;

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
        let mail = packet
            .ports
            .into_iter()
            .find(|p| matches!(p, 465 | 993 | 995));
        self.port = mail.unwrap_or(0);
        let side = usize::from(!packet.forward);
        let stream = &mut self.sides[side].stream;
        if !stream.push(dialect.order(), packet.tcp_sequence, packet.payload) {
            return self.verdict();
        }
        let mut at = 0;
        loop {
            let bytes = &self.sides[side].stream.bytes()[at..];
            let Some(first) = bytes.first() else { break };
            if !(record::CHANGE_CIPHER_SPEC..=record::HEARTBEAT).contains(first) {
                return self.refuse();
            }
            let Some(record) = Record::parse(bytes).filter(Record::is_whole) else {
                break;
            };
            at += record::HEADER + record.length;
            if !self.record(
                dialect,
                side,
                record.kind,
                record.version,
                at - record.length..at,
                found,
            ) {
                return self.refuse();
            }
        }
        let full = self.sides[side].stream.is_full();
        self.sides[side].stream.consume(at);
        if full && at == 0 {
            return self.refuse();
        }
        self.verdict()
    }

    fn refuse(&self) -> Verdict {
        match self.identified {
            true => Verdict::Finished,
            false => Verdict::No,
        }
    }

    fn verdict(&self) -> Verdict {
        let told = self.server_hello && (self.tls13 || self.certificate);
        let answered = self
            .client
            .is_some_and(|client| told || self.sides[1 - client].data);
        match self.identified {
            true if answered => Verdict::Finished,
            true => Verdict::Mine,
            false => Verdict::Perhaps,
        }
    }

    /// Reads a whole record whose content is `content` of the side's stream; false when it cannot be one.
    fn record(
        &mut self,
        dialect: Dialect,
        side: usize,
        kind: u8,
        version: u16,
        content: std::ops::Range<usize>,
        found: &mut Found,
    ) -> bool {
        match kind {
            record::CHANGE_CIPHER_SPEC => {
                self.sides[side].encrypted = true;
                self.identify(found);
            }
            record::ALERT => self.identify(found),
            record::APPLICATION_DATA if version >> 8 == 3 && !content.is_empty() => {
                self.sides[side].data = true;
                self.identify(found);
            }
            record::HANDSHAKE if !self.sides[side].encrypted => {
                let mut bytes = std::mem::take(&mut self.sides[side].message);
                bytes.extend_from_slice(&self.sides[side].stream.bytes()[content]);
                let Some(rest) = self.messages(dialect, side, &bytes, found) else {
                    return false;
                };
                if rest < bytes.len() {
                    if dialect == Dialect::Ndpi {
                        return self.identified;
                    }
                    self.sides[side].message = bytes.split_off(rest);
                }
            }
            _ => {}
        }
        true
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

    /// Reads the whole handshake messages in `bytes`; gives where the first one that is not whole begins.
    fn messages(
        &mut self,
        dialect: Dialect,
        side: usize,
        bytes: &[u8],
        found: &mut Found,
    ) -> Option<usize> {
        let mut at = 0;
        while let Some(message) = Message::parse(&bytes[at..]).filter(Message::is_whole) {
            match message.kind {
                CLIENT_HELLO => {
                    self.identify(found);
                    self.client = Some(side);
                    if let Some(hello) = ClientHello::parse(message.body, false) {
                        client(dialect, Transport::Tcp, hello, found);
                        if self.no_fingerprints {
                            found.hints.client_fingerprint.clear();
                        }
                    }
                }
                SERVER_HELLO => {
                    self.identify(found);
                    let hello = ServerHello::parse(message.body);
                    self.server_hello = true;
                    if let Some(hello) = hello {
                        self.tls13 |= hello.selected_version == Some(TLS13);
                        if !self.no_fingerprints {
                            server(hello, found);
                        }
                    }
                }
                CERTIFICATE => {
                    self.certificate = true;
                    certificate(dialect, message.body, found);
                }
                _ => {}
            }
            at += Message::HEADER + message.length;
            if self.server_hello && self.tls13 && self.client.is_some() {
                break;
            }
        }
        Some(at)
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
    hints.ja3 = ja3(&hello);
    hints.client_fingerprint = match dialect {
        Dialect::Ndpi => ja4_ndpi(&hello, transport, &hints.server_name).unwrap_or_default(),
        Dialect::Standard => ja4(&hello, transport),
    };
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
