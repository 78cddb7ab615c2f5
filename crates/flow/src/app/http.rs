//! HTTP/1 messages (RFC 9112), also those of SSDP: first line and the headers that say who talks.

/// Longest header value that is kept, bytes.
pub const MAX_VALUE: usize = 512;
/// Header lines that are looked at.
const MAX_LINES: usize = 128;

/// First line of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// Of a request.
    Request {
        /// Such as `GET`.
        method: &'a str,
        /// What the method belongs to.
        family: Family,
        /// What is asked for.
        target: &'a [u8],
    },
    /// Of a response: its status code, when that is there.
    Response(Option<u16>),
}

/// First line and headers of a message, as far as they are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// First line.
    pub start: Start<'a>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// Headers, as far as they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    /// Names and values; spaces around values are cut.
    pub pairs: Vec<(&'a [u8], &'a [u8])>,
    /// Whether the empty line after the headers was seen.
    pub complete: bool,
}

/// What a request method belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The web.
    Web,
    /// Tunnels through a proxy: `CONNECT`.
    Tunnel,
    /// WebDAV (RFC 4918).
    WebDav,
    /// Remote procedure calls of Windows over HTTP.
    Rpc,
    /// UPnP: discovery and events.
    Upnp,
    /// Diagnosis: `TRACE`.
    Trace,
}

const METHODS: [(&str, Family); 24] = [
    ("GET", Family::Web),
    ("POST", Family::Web),
    ("OPTIONS", Family::Web),
    ("HEAD", Family::Web),
    ("PUT", Family::Web),
    ("PATCH", Family::Web),
    ("DELETE", Family::Web),
    ("REPORT", Family::Web),
    ("CONNECT", Family::Tunnel),
    ("PROPFIND", Family::WebDav),
    ("PROPPATCH", Family::WebDav),
    ("MKCOL", Family::WebDav),
    ("MOVE", Family::WebDav),
    ("COPY", Family::WebDav),
    ("LOCK", Family::WebDav),
    ("UNLOCK", Family::WebDav),
    ("RPC_CONNECT", Family::Rpc),
    ("RPC_IN_DATA", Family::Rpc),
    ("RPC_OUT_DATA", Family::Rpc),
    ("NOTIFY", Family::Upnp),
    ("M-SEARCH", Family::Upnp),
    ("SUBSCRIBE", Family::Upnp),
    ("UNSUBSCRIBE", Family::Upnp),
    ("TRACE", Family::Trace),
];

/// The method that `bytes` begin with, followed by a space and something more.
pub fn method(bytes: &[u8]) -> Option<(&'static str, Family)> {
    if !bytes.first()?.is_ascii_uppercase() {
        return None;
    }
    METHODS.into_iter().find(|(method, _)| {
        bytes
            .strip_prefix(method.as_bytes())
            .is_some_and(|rest| rest.len() > 1 && rest[0] == b' ')
    })
}

impl<'a> Head<'a> {
    /// Reads a message from its first byte; `None` when that is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        // Most payloads are none, and have no line end for long.
        if method(bytes).is_none() && !is_response(bytes) {
            return None;
        }
        let mut lines = Lines(bytes);
        let first = lines.next()?;
        let start = match method(first) {
            Some((method, family)) => {
                let rest = &first[method.len() + 1..];
                let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
                Start::Request {
                    method,
                    family,
                    target: &rest[..end],
                }
            }
            None if is_response(bytes) => Start::Response(status(first)),
            None => return None,
        };
        Some(Self {
            start,
            headers: Headers::parse(lines.0),
        })
    }

    /// Value of the last header of that name, any case; at most [`MAX_VALUE`] bytes.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.get(name)
    }
}

impl<'a> Headers<'a> {
    /// Reads header lines; the last one may have no end.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut headers = Self::default();
        for line in Lines(bytes).take(MAX_LINES) {
            if line.is_empty() {
                headers.complete = true;
                break;
            }
            if let Some(colon) = line.iter().position(|b| *b == b':') {
                let value = trim(&line[colon + 1..]);
                headers.pairs.push((&line[..colon], value));
            }
        }
        headers
    }

    /// Value of the last header of that name, any case; at most [`MAX_VALUE`] bytes.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        let (_, value) = self
            .pairs
            .iter()
            .rfind(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(&value[..value.len().min(MAX_VALUE)])
    }
}

/// Without spaces around it.
fn trim(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|b| *b != b' ').unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|b| *b != b' ')
        .map_or(start, |e| e + 1);
    &value[start..end]
}

fn is_response(bytes: &[u8]) -> bool {
    let start = bytes.first_chunk::<8>();
    start.is_some_and(|s| s[..7].eq_ignore_ascii_case(b"HTTP/1."))
}

/// Status code of a response's first line.
fn status(line: &[u8]) -> Option<u16> {
    let digits = line.get(9..12)?;
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Lines without their ends, which are CR LF; the last one may have none.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.windows(2).position(|pair| pair == b"\r\n");
        let (line, rest) = match end {
            Some(end) => (&self.0[..end], &self.0[end + 2..]),
            None => (self.0, &[][..]),
        };
        self.0 = rest;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_request() {
        let head = Head::parse(
            b"GET /a b HTTP/1.1\r\nHOST:  a.example \r\nX: 1\r\nhost: b\r\n\r\nbody: c\r\n",
        );
        let head = head.expect("a message");
        let Start::Request {
            method,
            family,
            target,
        } = head.start
        else {
            panic!("a request");
        };
        assert_eq!((method, family, target), ("GET", Family::Web, &b"/a"[..]));
        assert_eq!(head.get("host"), Some(&b"b"[..]));
        assert_eq!((head.get("x"), head.get("body")), (Some(&b"1"[..]), None));
        assert!(head.headers.complete);
    }

    #[test]
    fn reads_a_response_that_is_cut() {
        let head =
            Head::parse(b"HTTP/1.1 204 No\r\nContent-Type: text/html; ch").expect("a message");
        assert_eq!(head.start, Start::Response(Some(204)));
        assert_eq!(head.get("content-type"), Some(&b"text/html; ch"[..]));
        assert!(!head.headers.complete);
        assert_eq!(
            Head::parse(b"HTTP/1.1").map(|h| h.start),
            Some(Start::Response(None))
        );
    }

    #[test]
    fn refuses_what_is_no_message() {
        for bytes in [
            &b""[..],
            b"GET",
            b"GET ",
            b"get / HTTP/1.1",
            b"HTTP/2 200",
            b"\r\n\r\n",
        ] {
            assert_eq!(Head::parse(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Head::parse(&bytes);
            let request = [&b"POST "[..], &bytes].concat();
            if let Some(head) = Head::parse(&request) {
                prop_assert!(head.get("host").is_none_or(|h| h.len() <= MAX_VALUE));
            }
        }

        #[test]
        fn keeps_a_bounded_number_of_headers(lines in 0usize..400) {
            let text = "a: b\r\n".repeat(lines);
            let headers = Headers::parse(text.as_bytes());
            prop_assert!(headers.pairs.len() <= MAX_LINES);
        }
    }
}
