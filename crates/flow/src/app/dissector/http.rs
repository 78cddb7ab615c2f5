//! HTTP/1 over TCP: the first request and the response to it.

use super::super::http::{Family, Head, Headers, Start};
use super::super::{Seen, names, text};
use super::{Dialect, Found, Verdict};

/// Packets after the first that may still bring the response.
pub(super) const PATIENCE: u8 = 8;
/// Bytes of a content type that are kept.
const MAX_CONTENT_TYPE: usize = 63;

/// What is known of an HTTP connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Http {
    /// Which side sent the request.
    client: Option<usize>,
}

impl Http {
    /// Looks at the flow's first payload.
    pub(super) fn first(
        dialect: Dialect,
        packet: &Seen<'_>,
        found: &mut Found,
    ) -> Option<(Self, Verdict)> {
        let head = Head::parse(packet.payload)?;
        let side = usize::from(!packet.forward);
        match head.start {
            Start::Request { family, target, .. } => {
                let known = !matches!(family, Family::Upnp | Family::Trace);
                if dialect == Dialect::Ndpi && !known {
                    return None;
                }
                let verdict = request(family, target, &head, found);
                Some((Self { client: Some(side) }, verdict))
            }
            Start::Response(_) => {
                found.name(names::HTTP);
                response(&head, found);
                Some((Self { client: None }, Verdict::Mine))
            }
        }
    }

    /// Looks at a later payload.
    pub(super) fn packet(
        &mut self,
        _dialect: Dialect,
        packet: &Seen<'_>,
        found: &mut Found,
    ) -> Verdict {
        let side = usize::from(!packet.forward);
        let Some(client) = self.client else {
            if let Some(head) = Head::parse(packet.payload)
                && let Start::Request { family, target, .. } = head.start
            {
                self.client = Some(side);
                found.hints.content_type.clear();
                return request(family, target, &head, found);
            }
            return Verdict::Mine;
        };
        if side == client {
            continuation(packet.payload, found);
            return Verdict::Mine;
        }
        if let Some(head) = Head::parse(packet.payload)
            && let Start::Response(_) = head.start
        {
            response(&head, found);
        }
        Verdict::Finished
    }
}

fn request(family: Family, target: &[u8], head: &Head<'_>, found: &mut Found) -> Verdict {
    let host = head.get("host").map(without_port);
    if let Some(host) = host {
        found.server(text::host(host));
    }
    if family == Family::Tunnel {
        found.name(names::HTTP_CONNECT);
        return Verdict::Finished;
    }
    if target.len() >= 7 && target[..7].eq_ignore_ascii_case(b"http://") {
        found.name(names::HTTP_PROXY);
        return Verdict::Finished;
    }
    found.name(names::HTTP);
    match family {
        Family::WebDav => found.service = Some(names::WEBDAV),
        Family::Rpc => found.service = Some(names::MS_RPCH),
        _ => {}
    }
    if let Some(agent) = head.get("user-agent") {
        found.hints.user_agent = text::head(agent, text::MAX_USER_AGENT);
    }
    Verdict::Mine
}

/// Header lines of a request that did not fit into its first segment.
fn continuation(payload: &[u8], found: &mut Found) {
    let head = Headers::parse(payload);
    if found.hints.user_agent.is_empty()
        && let Some(agent) = head.get("user-agent")
    {
        found.hints.user_agent = text::head(agent, text::MAX_USER_AGENT);
    }
    if found.hints.server_name.is_empty()
        && let Some(host) = head.get("host")
    {
        found.server(text::host(without_port(host)));
    }
}

fn response(head: &Head<'_>, found: &mut Found) {
    if let Some(kind) = head.get("content-type") {
        let end = kind.iter().position(|b| *b == b';').unwrap_or(kind.len());
        found.hints.content_type = text::head(&kind[..end], MAX_CONTENT_TYPE);
    }
}

/// A host without what follows its last colon.
fn without_port(host: &[u8]) -> &[u8] {
    let end = host.iter().rposition(|b| *b == b':').unwrap_or(host.len());
    &host[..end]
}
