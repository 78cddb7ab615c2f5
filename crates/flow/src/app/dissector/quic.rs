//! QUIC: the client's hello over as many Initial packets as it takes.

use super::super::fingerprint::Transport;
use super::super::quic::{self, Chlo, Crypto};
use super::super::tls::{CLIENT_HELLO, ClientHello, Message};
use super::super::{Seen, names, text};
use super::{Dialect, Found, Verdict, tls};

/// Bytes of the datagram with the first Initial packet, at least (RFC 9000, section 14.1).
const MIN_INITIAL: usize = 1200;
/// Packets after the first that may still bring the rest of the hello.
pub(super) const PATIENCE: u8 = 15;
/// Longest ClientHello that nDPI puts together, bytes.
const NDPI_HELLO: usize = 4096;

/// What is known of a QUIC connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Quic {
    crypto: Crypto,
    /// Which side sent the first packet.
    client: bool,
}

impl Quic {
    /// Looks at the flow's first datagram.
    pub(super) fn first(
        dialect: Dialect,
        packet: &Seen<'_>,
        found: &mut Found,
    ) -> Option<(Self, Verdict)> {
        let mut state = Self {
            client: packet.forward,
            ..Self::default()
        };
        if quic::google_version(packet.payload).is_some() {
            let chlo = Chlo::find(packet.payload)?;
            found.name(names::QUIC);
            note(dialect, &chlo, found);
            return Some((state, Verdict::Finished));
        }
        quic::Long::initial(packet.payload).filter(|_| packet.payload.len() >= MIN_INITIAL)?;
        found.name(names::QUIC);
        let verdict = state.packet(dialect, packet, found);
        Some((state, verdict))
    }

    /// Bytes that wait for the rest of the hello.
    pub(super) fn held(&self) -> usize {
        self.crypto.held()
    }

    /// Looks at a later datagram.
    pub(super) fn packet(
        &mut self,
        dialect: Dialect,
        packet: &Seen<'_>,
        found: &mut Found,
    ) -> Verdict {
        if packet.forward != self.client || !self.crypto.datagram(packet.payload) {
            return Verdict::Mine;
        }
        let bytes = self.crypto.bytes();
        if bytes.starts_with(b"CHLO") {
            if let Some(chlo) = Chlo::parse(bytes) {
                note(dialect, &chlo, found);
            }
            return Verdict::Finished;
        }
        let Some(message) = Message::parse(bytes) else {
            return Verdict::Mine;
        };
        if message.kind != CLIENT_HELLO {
            return Verdict::Finished;
        }
        if dialect == Dialect::Ndpi && Message::HEADER + message.length > NDPI_HELLO {
            return Verdict::Finished;
        }
        if !message.is_whole() {
            return Verdict::Mine;
        }
        if let Some(hello) = ClientHello::parse(message.body, false) {
            let parameters = hello.transport_parameters.as_deref();
            if dialect == Dialect::Standard
                && let Some(agent) = parameters.and_then(quic::user_agent)
            {
                found.hints.user_agent = text::head(agent, text::MAX_USER_AGENT);
            }
            tls::client(dialect, Transport::Quic, hello, found);
        }
        Verdict::Finished
    }
}

fn note(dialect: Dialect, chlo: &Chlo<'_>, found: &mut Found) {
    if let Some(name) = chlo.server_name {
        found.server(text::host(name), dialect);
    }
    if dialect == Dialect::Standard
        && let Some(agent) = chlo.user_agent
    {
        found.hints.user_agent = text::head(agent, text::MAX_USER_AGENT);
    }
}
