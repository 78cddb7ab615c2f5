//! DTLS: hellos in datagrams, put together from fragments.

use super::super::dtls::{Message, Record};
use super::super::fingerprint::Transport;
use super::super::tls::{
    CERTIFICATE, CLIENT_HELLO, ClientHello, SERVER_HELLO, ServerHello, record,
};
use super::super::{Seen, names};
use super::{Dialect, Found, Verdict, tls};

/// Messages of a connection that are read.
const MAX_MESSAGES: u8 = 32;
/// Longest handshake message that is put together, bytes.
const MAX_MESSAGE: usize = 16 * 1024;
const HELLO_VERIFY_REQUEST: u8 = 3;

/// What is known of a DTLS connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Dtls {
    /// Messages of both sides whose last fragment is missing.
    partial: [Vec<u8>; 2],
    /// Messages that were read.
    messages: u8,
}

impl Dtls {
    /// Bytes that wait for the rest of a handshake.
    pub(super) fn held(&self) -> usize {
        self.partial.iter().map(Vec::capacity).sum()
    }

    pub(super) fn packet(
        &mut self,
        dialect: Dialect,
        packet: &Seen<'_>,
        found: &mut Found,
    ) -> Verdict {
        let side = usize::from(!packet.forward);
        let known = found.master.is_some();
        let refused = match known {
            true => Verdict::Finished,
            false => Verdict::No,
        };
        let (mut rest, mut verdict) = (packet.payload, refused);
        while !rest.is_empty() {
            let Some(record) = Record::parse(rest).filter(|r| r.content.len() == r.length) else {
                return refused;
            };
            rest = &rest[Record::HEADER + record.length..];
            match record.kind {
                record::APPLICATION_DATA => {
                    if !known {
                        found.name(names::DTLS);
                    }
                    return Verdict::Finished;
                }
                record::HANDSHAKE if record.epoch == 0 => {
                    match self.handshake(dialect, side, record.content, found) {
                        None if found.master.is_none() => return refused,
                        None => return Verdict::Finished,
                        Some(more) => verdict = more,
                    }
                }
                _ if !known => return refused,
                _ => {}
            }
        }
        verdict
    }

    /// Reads the handshake messages of a record; `None` when they cannot be some.
    fn handshake(
        &mut self,
        dialect: Dialect,
        side: usize,
        mut content: &[u8],
        found: &mut Found,
    ) -> Option<Verdict> {
        let mut verdict = Verdict::Perhaps;
        while !content.is_empty() {
            let message = Message::parse(content)?;
            let size = Message::HEADER + message.fragment.len();
            if dialect == Dialect::Ndpi && size != content.len() || message.length > MAX_MESSAGE {
                return None;
            }
            content = &content[size..];
            if message.kind == HELLO_VERIFY_REQUEST {
                continue;
            }
            match message.kind {
                CLIENT_HELLO | SERVER_HELLO => found.name(names::DTLS),
                _ => {
                    found.master?;
                }
            }
            verdict = Verdict::Mine;
            let whole = match message.is_whole() {
                true => message.fragment,
                false => match self.fragment(side, &message) {
                    true => &self.partial[side],
                    false => continue,
                },
            };
            self.messages += 1;
            if self.messages > MAX_MESSAGES {
                return None;
            }
            match message.kind {
                CLIENT_HELLO => {
                    if let Some(hello) = ClientHello::parse(whole, true) {
                        tls::client(dialect, Transport::Dtls, hello, found);
                    }
                }
                SERVER_HELLO => {
                    if let Some(hello) = ServerHello::parse(whole) {
                        tls::server(hello, found);
                    }
                }
                CERTIFICATE => tls::certificate(dialect, whole, found),
                _ => {}
            }
        }
        Some(verdict)
    }

    /// Adds a fragment that continues what is there; true when that makes the message whole.
    fn fragment(&mut self, side: usize, message: &Message<'_>) -> bool {
        let partial = &mut self.partial[side];
        if message.offset == 0 {
            partial.clear();
        }
        if message.offset != partial.len()
            || partial.len() + message.fragment.len() > message.length
        {
            return false;
        }
        partial.extend_from_slice(message.fragment);
        partial.len() == message.length
    }
}

/// Whether a payload begins with a record of DTLS.
pub(super) fn is_start(payload: &[u8]) -> bool {
    Record::parse(payload).is_some()
}
