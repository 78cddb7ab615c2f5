//! SSH: identification line and key exchange (RFC 4253), HASSH fingerprints (Salesforce 2018).

use super::bytes::Reader;
use super::fingerprint::md5_hex;

/// Longest key exchange message that is put together, bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;

const KEX_INIT: u8 = 20;

/// Whether a payload begins with an identification line.
pub fn is_banner(payload: &[u8]) -> bool {
    payload.len() > 7 && payload.starts_with(b"SSH-")
}

/// Length of the identification line with its end, when that is there.
pub fn banner_length(payload: &[u8]) -> Option<usize> {
    payload.iter().position(|b| *b == b'\n').map(|end| end + 1)
}

/// Lists of a key exchange message that fingerprints are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KexInit<'a> {
    /// Key exchange methods.
    pub methods: &'a [u8],
    /// Ciphers, to the server and to the client.
    pub ciphers: [&'a [u8]; 2],
    /// Message authentication, to the server and to the client.
    pub macs: [&'a [u8]; 2],
    /// Compression, to the server and to the client; the second is empty when the message was cut there.
    pub compressions: [&'a [u8]; 2],
    whole: bool,
}

impl<'a> KexInit<'a> {
    /// Whether a packet is a key exchange message.
    pub fn is(packet: &[u8]) -> bool {
        packet.get(5) == Some(&KEX_INIT)
    }

    /// Length of the packet with its length field, when that is there.
    pub fn length(packet: &[u8]) -> Option<usize> {
        Reader::new(packet)
            .u32()
            .map(|n| (n as usize).saturating_add(4))
    }

    /// Reads a binary packet with a key exchange message; `None` when it is none or cut before the second compression list.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(packet);
        reader.u32()?;
        reader.u8()?;
        if reader.u8()? != KEX_INIT {
            return None;
        }
        reader.take(16)?;
        let mut list = || {
            let length = reader.u32()? as usize;
            Some((length, reader.take_at_most(length)))
        };
        let mut whole = || list().filter(|(length, text)| *length == text.len());
        let methods = whole()?.1;
        whole()?;
        let mut kex = Self {
            methods,
            ciphers: [whole()?.1, whole()?.1],
            macs: [whole()?.1, whole()?.1],
            compressions: [whole()?.1, &[]],
            whole: false,
        };
        let (length, text) = list()?;
        kex.compressions[1] = text;
        kex.whole = length == text.len();
        Some(kex)
    }

    /// HASSH: MD5 in lower-case hex of methods, ciphers, authentication and compression of the direction in which the sender sends.
    pub fn hassh(&self) -> String {
        self.print(0)
    }

    /// HASSH of a server; `None` when the message was cut.
    pub fn hassh_server(&self) -> Option<String> {
        self.whole.then(|| self.print(1))
    }

    fn print(&self, to: usize) -> String {
        let lists = [
            self.methods,
            self.ciphers[to],
            self.macs[to],
            self.compressions[to],
        ];
        md5_hex(&lists.join(&b';'))
    }
}
