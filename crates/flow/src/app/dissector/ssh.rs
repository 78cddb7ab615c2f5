//! SSH: both identification lines, then both key exchange messages.

use super::super::fingerprint::md5_hex;
use super::super::ssh::{KexInit, MAX_MESSAGE, banner_length, is_banner};
use super::super::stream::Stream;
use super::super::{Seen, names};
use super::{Dialect, Found, Verdict};

/// Packets after the first identification line that may still bring the key exchange.
pub(super) const PATIENCE: u8 = 12;

/// What is known of an SSH connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Ssh {
    banners: [bool; 2],
    /// The server went on before the client had said who it is.
    lost: bool,
    prints: [bool; 2],
    streams: [Stream; 2],
}

impl Ssh {
    /// Bytes that wait for the rest of a message.
    pub(super) fn held(&self) -> usize {
        self.streams.iter().map(Stream::held).sum()
    }

    pub(super) fn packet(
        &mut self,
        dialect: Dialect,
        packet: &Seen<'_>,
        found: &mut Found,
    ) -> Verdict {
        match dialect {
            Dialect::Ndpi => self.segment(packet, found),
            Dialect::Standard => self.stream(dialect, packet, found),
        }
        if found.master.is_none() {
            return Verdict::Perhaps;
        }
        match self.prints {
            [true, true] => Verdict::Finished,
            _ => Verdict::Mine,
        }
    }

    /// As nDPI: each message alone in its segment, nothing before both identification lines.
    fn segment(&mut self, packet: &Seen<'_>, found: &mut Found) {
        let side = usize::from(!is_client(packet));
        if self.banners != [true, true] {
            if is_banner(packet.payload) {
                self.banners[side] = true;
                if self.banners[0] && !self.lost {
                    found.name(names::SSH);
                }
            } else {
                self.lost |= !self.banners[0];
            }
        } else if !self.lost && KexInit::is(packet.payload) {
            let kex = KexInit::parse(packet.payload);
            let print = match side {
                0 => kex.map(|kex| kex.hassh()),
                _ => kex.and_then(|kex| kex.hassh_server()),
            };
            let print = print.unwrap_or_else(|| md5_hex(b""));
            self.note(side, print.to_ascii_uppercase(), found);
        }
    }

    fn stream(&mut self, dialect: Dialect, packet: &Seen<'_>, found: &mut Found) {
        let side = usize::from(!packet.forward);
        let stream = &mut self.streams[side];
        if self.prints[side] || !stream.push(dialect.order(), packet.tcp_sequence, packet.payload) {
            return;
        }
        if !self.banners[side] {
            // A server may send other lines first.
            while let Some(length) = banner_length(stream.bytes()) {
                let banner = is_banner(stream.bytes());
                stream.consume(length);
                if banner {
                    self.banners[side] = true;
                    found.name(names::SSH);
                    break;
                }
            }
        }
        let bytes = stream.bytes();
        let whole = KexInit::length(bytes).is_some_and(|n| n <= bytes.len().min(MAX_MESSAGE));
        if self.banners[side] && whole {
            let kex = KexInit::parse(bytes);
            let print = match side {
                0 => kex.map(|kex| kex.hassh()),
                _ => kex.and_then(|kex| kex.hassh_server()),
            };
            self.note(side, print.unwrap_or_default(), found);
        }
    }

    fn note(&mut self, side: usize, print: String, found: &mut Found) {
        self.prints[side] = true;
        match side {
            0 => found.hints.client_fingerprint = print,
            _ => found.hints.server_fingerprint = print,
        }
    }
}

/// Whether the sender is the client as nDPI has it: the side with the higher port.
fn is_client(packet: &Seen<'_>) -> bool {
    let [initiator, responder] = packet.ports;
    match initiator == responder {
        true => packet.forward,
        false => (initiator > responder) == packet.forward,
    }
}
