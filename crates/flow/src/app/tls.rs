//! TLS hellos: records, ClientHello, ServerHello (RFC 8446, RFC 5246, RFC 6066, RFC 7301).

use super::bytes::{Reader, u16s};

/// Longest hello that is read, bytes with its handshake header; a longer one is no hello of this world.
pub const MAX_HELLO: usize = 16 * 1024;

/// `client_hello` of the handshake header.
pub const CLIENT_HELLO: u8 = 1;
/// `server_hello` of the handshake header.
pub const SERVER_HELLO: u8 = 2;

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
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

/// What the start of a byte stream says about being TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Not TLS records.
    No,
    /// Too few bytes to say more.
    More,
    /// TLS, and the handshake messages in its clear-text records were copied.
    Handshake,
    /// TLS records, but not of a handshake.
    Other,
}

/// Copies the handshake bytes of the leading handshake records of `stream` to `out`, at most [`MAX_HELLO`] bytes.
///
/// Stops at the first record of another type. A record that is cut gives what is there.
pub fn handshake(stream: &[u8], out: &mut Vec<u8>) -> Records {
    let mut reader = Reader::new(stream);
    let mut result = Records::More;
    while let Some(kind) = reader.u8() {
        if !(20..=24).contains(&kind) {
            return if result == Records::More {
                Records::No
            } else {
                result
            };
        }
        let Some(version) = reader.u16() else { break };
        if version >> 8 != 3 {
            return if result == Records::More {
                Records::No
            } else {
                result
            };
        }
        let Some(length) = reader.u16() else { break };
        if kind != 22 {
            return if result == Records::More {
                Records::Other
            } else {
                result
            };
        }
        let part = reader.take_at_most(length as usize);
        let room = MAX_HELLO.saturating_sub(out.len());
        out.extend_from_slice(&part[..part.len().min(room)]);
        result = Records::Handshake;
    }
    result
}

/// A handshake message at the start of `bytes`: type, whole length with its header of four bytes, body as far as it is there.
pub fn message(bytes: &[u8]) -> Option<(u8, usize, &[u8])> {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8()?;
    let length = reader.u24()? as usize;
    Some((kind, length + 4, reader.take_at_most(length)))
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
            let Some(value) = extensions.vector16() else {
                break;
            };
            hello.extensions.push(kind);
            hello.extension(kind, value);
        }
        Some(hello)
    }

    fn extension(&mut self, kind: u16, value: &[u8]) {
        let mut reader = Reader::new(value);
        match kind {
            SERVER_NAME => self.server_name = server_name(value).map(<[u8]>::to_vec),
            SUPPORTED_GROUPS => self.groups = u16s(reader.vector16().unwrap_or(&[])).collect(),
            POINT_FORMATS => self.formats = reader.vector8().unwrap_or(&[]).to_vec(),
            SIGNATURE_ALGORITHMS => {
                self.signature_algorithms = u16s(reader.vector16().unwrap_or(&[])).collect();
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

/// The first host name of a server name extension.
fn server_name(value: &[u8]) -> Option<&[u8]> {
    let mut list = Reader::new(value);
    let mut names = Reader::new(list.vector16()?);
    while let Some(kind) = names.u8() {
        let name = names.vector16()?;
        if kind == 0 {
            return Some(name);
        }
    }
    None
}

impl ServerHello {
    /// Reads the body of a ServerHello, also of DTLS. `None` when it ends before its extensions.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        reader.take(32)?;
        reader.vector8()?;
        let cipher = reader.u16()?;
        reader.u8()?;
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
