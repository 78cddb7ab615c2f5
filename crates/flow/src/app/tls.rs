//! TLS hellos: records, ClientHello, ServerHello (RFC 8446, RFC 5246, RFC 6066, RFC 7301).

use super::bytes::{Reader, u16s};

/// `client_hello` of the handshake header.
pub const CLIENT_HELLO: u8 = 1;
/// `server_hello` of the handshake header.
pub const SERVER_HELLO: u8 = 2;
/// `certificate` of the handshake header.
pub const CERTIFICATE: u8 = 11;

pub(super) const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const QUIC_TRANSPORT_PARAMETERS: u16 = 57;
const QUIC_TRANSPORT_PARAMETERS_DRAFT: u16 = 0xffa5;

/// What a ClientHello says, in its order, GREASE included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// `legacy_version` of the hello's body.
    pub version: u16,
    /// Cipher suites.
    pub ciphers: Vec<u16>,
    /// Extension types.
    pub extensions: Vec<u16>,
    /// Supported groups.
    pub groups: Vec<u16>,
    /// Formats of elliptic curve points.
    pub formats: Vec<u8>,
    /// Signature algorithms.
    pub signature_algorithms: Vec<u16>,
    /// Supported versions, empty before TLS 1.3.
    pub versions: Vec<u16>,
    /// Host name of the server name extension, as sent.
    pub server_name: Option<Vec<u8>>,
    /// Protocols of ALPN.
    pub alpn: Vec<Vec<u8>>,
    /// Value of QUIC's transport parameters.
    pub transport_parameters: Option<Vec<u8>>,
}

/// What a ServerHello says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerHello {
    /// `legacy_version` of the hello's body.
    pub version: u16,
    /// Chosen cipher suite.
    pub cipher: u16,
    /// Extension types in their order.
    pub extensions: Vec<u16>,
    /// The protocol that the server chose, when it says so in clear text.
    pub alpn: Option<Vec<u8>>,
    /// The version that `supported_versions` chose.
    pub selected_version: Option<u16>,
}

/// Whether a value is one of the reserved ones that clients sprinkle in (RFC 8701).
pub const fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

/// Type of a record.
pub mod record {
    #![allow(missing_docs, reason = "names of RFC 8446, section 5.1")]
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
    pub const HEARTBEAT: u8 = 24;
    /// Bytes before the content.
    pub const HEADER: usize = 5;
}

/// A record at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// One of [`record`].
    pub kind: u8,
    /// As sent.
    pub version: u16,
    /// Length of the content that the header tells, bytes.
    pub length: usize,
    /// Content, as far as it is there.
    pub content: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a record's header and what is there of its content; `None` with less than a header.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (kind, version, length) = (reader.u8()?, reader.u16()?, reader.u16()? as usize);
        Some(Self {
            kind,
            version,
            length,
            content: reader.take_at_most(length),
        })
    }

    /// Whether all of it is there.
    pub const fn is_whole(&self) -> bool {
        self.content.len() == self.length
    }
}

/// A handshake message at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Such as [`CLIENT_HELLO`].
    pub kind: u8,
    /// Length of the body that the header tells, bytes.
    pub length: usize,
    /// Body, as far as it is there.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Bytes before the body.
    pub const HEADER: usize = 4;

    /// Reads a message's header and what is there of its body; `None` with less than a header.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (kind, length) = (reader.u8()?, reader.u24()? as usize);
        Some(Self {
            kind,
            length,
            body: reader.take_at_most(length),
        })
    }

    /// Whether all of it is there.
    pub const fn is_whole(&self) -> bool {
        self.body.len() == self.length
    }
}

impl ClientHello {
    /// Reads the body of a ClientHello; with `dtls` it has a cookie. `None` when it ends before its extensions.
    ///
    /// Extensions that do not hold what they should are listed in [`Self::extensions`], their content is left out.
    pub fn parse(body: &[u8], dtls: bool) -> Option<Self> {
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        reader.take(32)?;
        reader.vector8()?;
        if dtls {
            reader.vector8()?;
        }
        let ciphers = u16s(reader.vector16()?).collect();
        reader.vector8()?;
        let mut hello = Self {
            version,
            ciphers,
            ..Self::default()
        };
        if reader.is_empty() {
            return Some(hello);
        }
        let mut extensions = Reader::new(reader.vector16()?);
        while let Some(kind) = extensions.u16() {
            let value = extensions.vector16()?;
            hello.extensions.push(kind);
            hello.extension(kind, value);
        }
        Some(hello)
    }

    fn extension(&mut self, kind: u16, value: &[u8]) {
        let mut reader = Reader::new(value);
        match kind {
            SERVER_NAME => {
                if let Some(name) = server_name(value) {
                    self.server_name = Some(name.to_vec());
                }
            }
            SUPPORTED_GROUPS => self.groups = u16s(reader.vector16().unwrap_or(&[])).collect(),
            POINT_FORMATS => self.formats = reader.vector8().unwrap_or(&[]).to_vec(),
            SIGNATURE_ALGORITHMS => {
                let length = reader.u16().unwrap_or(0) as usize;
                self.signature_algorithms = u16s(reader.take_at_most(length)).collect();
            }
            ALPN => {
                let mut names = Reader::new(reader.vector16().unwrap_or(&[]));
                while let Some(name) = names.vector8() {
                    self.alpn.push(name.to_vec());
                }
            }
            SUPPORTED_VERSIONS => self.versions = u16s(reader.vector8().unwrap_or(&[])).collect(),
            QUIC_TRANSPORT_PARAMETERS | QUIC_TRANSPORT_PARAMETERS_DRAFT => {
                self.transport_parameters = Some(value.to_vec());
            }
            _ => {}
        }
    }
}

/// The first name of a server name extension; host names are the only kind there is.
fn server_name(value: &[u8]) -> Option<&[u8]> {
    let mut list = Reader::new(value);
    let mut names = Reader::new(list.vector16()?);
    names.u8()?;
    names.vector16()
}

impl ServerHello {
    /// Reads the body of a ServerHello, also of DTLS. `None` when it ends before its extensions.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        reader.take(32)?;
        // Drafts of TLS 1.3 up to 21 have neither a session id nor a compression.
        let draft = version >> 8 == 0x7f;
        if !draft {
            reader.vector8()?;
        }
        let cipher = reader.u16()?;
        if !draft {
            reader.u8()?;
        }
        let mut hello = Self {
            version,
            cipher,
            ..Self::default()
        };
        if reader.is_empty() {
            return Some(hello);
        }
        let mut extensions = Reader::new(reader.vector16()?);
        while let Some(kind) = extensions.u16() {
            let Some(value) = extensions.vector16() else {
                break;
            };
            hello.extensions.push(kind);
            let mut reader = Reader::new(value);
            match kind {
                ALPN => {
                    let mut names = Reader::new(reader.vector16().unwrap_or(&[]));
                    hello.alpn = names.vector8().map(<[u8]>::to_vec);
                }
                SUPPORTED_VERSIONS => hello.selected_version = reader.u16(),
                _ => {}
            }
        }
        Some(hello)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes after their length of two bytes.
    pub(in super::super) fn vector(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    /// An extension.
    pub(in super::super) fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(value)].concat()
    }

    /// Numbers as they are sent.
    pub(in super::super) fn numbers(values: &[u16]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_be_bytes()).collect()
    }

    /// Body of a ClientHello; without extensions it has no list of them.
    pub(in super::super) fn client_hello(
        version: u16,
        ciphers: &[u16],
        extensions: &[Vec<u8>],
    ) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(vector(&numbers(ciphers)));
        body.extend([1, 0]);
        if !extensions.is_empty() {
            body.extend(vector(&extensions.concat()));
        }
        body
    }

    /// The extension of a server's name.
    pub(in super::super) fn name_extension(name: &[u8]) -> Vec<u8> {
        let entry = [&[0][..], &vector(name)].concat();
        extension(SERVER_NAME, &vector(&entry))
    }

    #[test]
    fn reads_a_client_hello() {
        let body = client_hello(
            0x0303,
            &[0x1a1a, 0x1301],
            &[
                name_extension(b"example.org"),
                extension(SUPPORTED_GROUPS, &vector(&numbers(&[29, 23]))),
                extension(POINT_FORMATS, &[1, 0]),
                extension(SIGNATURE_ALGORITHMS, &vector(&numbers(&[0x0403]))),
                extension(ALPN, &vector(b"\x02h2\x08http/1.1")),
                extension(SUPPORTED_VERSIONS, &[4, 3, 4, 3, 3]),
            ],
        );
        let hello = ClientHello::parse(&body, false).expect("a hello");
        assert_eq!(hello.ciphers, [0x1a1a, 0x1301]);
        assert_eq!(hello.extensions, [0, 10, 11, 13, 16, 43]);
        assert_eq!(hello.server_name.as_deref(), Some(&b"example.org"[..]));
        assert_eq!((hello.groups, hello.formats), (vec![29, 23], vec![0]));
        assert_eq!(hello.alpn, [&b"h2"[..], b"http/1.1"]);
        assert_eq!(hello.versions, [0x0304, 0x0303]);
        assert_eq!(hello.signature_algorithms, [0x0403]);
        assert_eq!(ClientHello::parse(&body[..body.len() - 1], false), None);
    }

    #[test]
    fn reads_a_server_hello_of_version_and_of_draft() {
        let mut body = vec![3, 3];
        body.extend([1; 32]);
        body.extend([0, 0x13, 1, 0]);
        let chosen = [
            extension(SUPPORTED_VERSIONS, &[3, 4]),
            extension(51, &[0; 4]),
        ];
        body.extend(vector(&chosen.concat()));
        let hello = ServerHello::parse(&body).expect("a hello");
        assert_eq!((hello.version, hello.cipher), (0x0303, 0x1301));
        assert_eq!(
            (hello.selected_version, hello.extensions),
            (Some(0x0304), vec![43, 51])
        );
        let mut draft = vec![0x7f, 0x14];
        draft.extend([1; 32]);
        draft.extend([0x13, 3, 0, 4, 0, 40, 0, 0]);
        let hello = ServerHello::parse(&draft).expect("a hello");
        assert_eq!((hello.cipher, hello.extensions), (0x1303, vec![40]));
    }

    #[test]
    fn reads_records_and_messages() {
        let bytes = [22, 3, 1, 0, 6, 1, 0, 0, 2, 9, 8, 23];
        let record = Record::parse(&bytes).expect("a record");
        assert!(record.is_whole() && record.kind == record::HANDSHAKE);
        let message = Message::parse(record.content).expect("a message");
        assert!(message.is_whole() && message.body == [9, 8] && message.kind == CLIENT_HELLO);
        assert!(!Record::parse(&bytes[..10]).expect("a record").is_whole());
        assert_eq!(Record::parse(&bytes[..4]), None);
    }

    #[test]
    fn knows_grease() {
        let grease = (0..=0xffffu16).filter(|v| is_grease(*v)).count();
        assert!(is_grease(0x0a0a) && is_grease(0xfafa) && !is_grease(0x0a1a));
        assert_eq!(grease, 16);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            ClientHello::parse(&bytes, false);
            ClientHello::parse(&bytes, true);
            ServerHello::parse(&bytes);
            Record::parse(&bytes);
            Message::parse(&bytes);
        }

        #[test]
        fn takes_any_extension(kind in prop::sample::select(vec![0u16, 10, 11, 13, 16, 43, 57]), value in prop::collection::vec(any::<u8>(), 0..40)) {
            let body = client_hello(0x0303, &[1], &[extension(kind, &value)]);
            let hello = ClientHello::parse(&body, false).expect("a hello");
            prop_assert_eq!(hello.extensions, [kind]);
        }
    }
}
