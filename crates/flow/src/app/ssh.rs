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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(lists: [&str; 10]) -> Vec<u8> {
        let mut payload = vec![KEX_INIT];
        payload.extend([9; 16]);
        for list in lists {
            payload.extend((list.len() as u32).to_be_bytes());
            payload.extend(list.bytes());
        }
        payload.extend([0; 5]);
        let length = payload.len() as u32 + 1 + 4;
        [&length.to_be_bytes()[..], &[4], &payload, &[0; 4]].concat()
    }

    const LISTS: [&str; 10] = [
        "curve25519-sha256,ecdh",
        "ssh-ed25519",
        "aes128-ctr",
        "aes256-ctr",
        "hmac-sha2-256",
        "hmac-sha1",
        "none",
        "zlib",
        "",
        "",
    ];

    #[test]
    fn makes_hassh_of_both_directions() {
        let bytes = packet(LISTS);
        let kex = KexInit::parse(&bytes).expect("a message");
        // MD5 of "curve25519-sha256,ecdh;aes128-ctr;hmac-sha2-256;none".
        assert_eq!(kex.hassh(), "30483031d9cbf4c2bc2a05c67f6295ca");
        assert_eq!(
            kex.hassh_server(),
            Some(md5_hex(b"curve25519-sha256,ecdh;aes256-ctr;hmac-sha1;zlib"))
        );
        assert_eq!(KexInit::length(&bytes), Some(bytes.len()));
    }

    #[test]
    fn needs_the_lists_of_the_direction() {
        let bytes = packet(LISTS);
        let end = 22 + LISTS[..8].iter().map(|l| l.len() + 4).sum::<usize>();
        let cut = KexInit::parse(&bytes[..end - 1]).expect("a message");
        assert_eq!(cut.hassh(), "30483031d9cbf4c2bc2a05c67f6295ca");
        assert_eq!(cut.hassh_server(), None);
        assert_eq!(KexInit::parse(&bytes[..end - 5]), None);
    }

    #[test]
    fn knows_identification_lines() {
        assert!(is_banner(b"SSH-2.0-OpenSSH_9.2\r\n"));
        assert!(!is_banner(b"SSH-2.0") && !is_banner(b"ssh-2.0-x\r\n"));
        assert_eq!(banner_length(b"SSH-2.0-x\r\nrest"), Some(11));
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            KexInit::parse(&bytes);
            KexInit::length(&bytes);
            let kex = [&[0, 0, 1, 0, 4, KEX_INIT][..], &[0; 16], &bytes].concat();
            if let Some(kex) = KexInit::parse(&kex) {
                kex.hassh();
                kex.hassh_server();
            }
        }
    }
}
