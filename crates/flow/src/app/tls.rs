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
