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
                let verdict = request(dialect, family, target, &head, found);
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
        dialect: Dialect,
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
                return request(dialect, family, target, &head, found);
            }
            return Verdict::Mine;
        };
        if side == client {
            continuation(dialect, packet.payload, found);
            return Verdict::Mine;
        }
        if let Some(head) = Head::parse(packet.payload)
            && let Start::Response(Some(_)) = head.start
        {
            response(&head, found);
        }
        Verdict::Finished
    }
}

fn request(
    dialect: Dialect,
    family: Family,
    target: &[u8],
    head: &Head<'_>,
    found: &mut Found,
) -> Verdict {
    // RTSP through a proxy (QuickTime's tunnel) names itself only here.
    if is_rtsp(target) || head.get("accept") == Some(b"application/x-rtsp-tunnelled") {
        found.name(names::RTSP);
        return Verdict::Finished;
    }
    let host = head.get("host").map(without_port);
    if let Some(host) = host {
        found.server(text::host(host), dialect);
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
    purpose(target, head, found);
    Verdict::Mine
}

fn is_rtsp(target: &[u8]) -> bool {
    target.len() > 7 && target[..7].eq_ignore_ascii_case(b"rtsp://")
}

/// What a request is for, where its target or headers say more than the server's name.
fn purpose(target: &[u8], head: &Head<'_>, found: &mut Found) {
    let upgrade = head.get("upgrade").unwrap_or_default();
    let app = if upgrade.eq_ignore_ascii_case(b"websocket") {
        names::WEBSOCKET
    } else if target.starts_with(b"/announce?info_hash") {
        names::BITTORRENT
    } else if target.ends_with(b".mp4") {
        names::MPEG_DASH
    } else if found.hints.user_agent.contains("Valve/Steam HTTP Client") {
        names::STEAM
    } else {
        if target == b"/generate_204" {
            found.category = Some("ConnCheck");
        }
        return;
    };
    found.carries(app);
}

/// Header lines of a request that did not fit into its first segment.
fn continuation(dialect: Dialect, payload: &[u8], found: &mut Found) {
    let head = Headers::parse(payload);
    if found.hints.user_agent.is_empty()
        && let Some(agent) = head.get("user-agent")
    {
        found.hints.user_agent = text::head(agent, text::MAX_USER_AGENT);
    }
    if found.hints.server_name.is_empty()
        && let Some(host) = head.get("host")
    {
        found.server(text::host(without_port(host)), dialect);
    }
}

fn response(head: &Head<'_>, found: &mut Found) {
    if let Some(kind) = head.get("content-type") {
        let end = kind.iter().position(|b| *b == b';').unwrap_or(kind.len());
        found.hints.content_type = text::head(&kind[..end], MAX_CONTENT_TYPE);
        transfer(found);
    }
    if head
        .get("content-disposition")
        .is_some_and(|d| d.starts_with(b"attachment"))
    {
        found.category = Some("Download");
    }
}

/// What is transferred, where its type says more than the server.
fn transfer(found: &mut Found) {
    let Some((kind, subtype)) = found.hints.content_type.split_once('/') else {
        return;
    };
    match (kind, subtype) {
        ("audio" | "video", _) => found.category = Some("Media"),
        (
            "application",
            "octet-stream" | "x-msdownload" | "x-dosexec" | "x-tar" | "vnd.ms-cab-compressed",
        ) => found.category = Some("Download"),
        ("application", "ocsp-response") => found.carries(names::OCSP),
        ("application", "vnd.apple.mpegurl") => found.carries(names::HLS),
        _ => {}
    }
}

/// A host without what follows its last colon.
fn without_port(host: &[u8]) -> &[u8] {
    let end = host.iter().rposition(|b| *b == b':').unwrap_or(host.len());
    &host[..end]
}
