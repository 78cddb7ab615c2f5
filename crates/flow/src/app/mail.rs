//! Lines of mail and file transfer: SMTP (RFC 5321), POP3 (RFC 1939), IMAP (RFC 9051), FTP (RFC 959), and their ways to TLS.

/// What a line is, of those that tell the protocols apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// `220` of SMTP and FTP, with the text after it.
    Greeting(&'a [u8]),
    /// `250` of SMTP.
    Done,
    /// `+OK` of POP3.
    Ok,
    /// `* OK` of IMAP.
    Untagged,
    /// A command that all or none of the protocols have, in upper case, and what follows it.
    Command(Command, &'a [u8]),
    /// A tagged command of IMAP.
    Tagged(&'a [u8], Command),
    /// `TAG OK` of IMAP.
    TaggedOk(&'a [u8]),
}

macro_rules! commands {
    ($($name:ident = $word:literal),* $(,)?) => {
        /// Commands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the words of the RFCs")]
        pub enum Command { $($name),* }

        impl Command {
            fn parse(word: &[u8]) -> Option<Self> {
                $(if word.eq_ignore_ascii_case($word) { return Some(Self::$name); })*
                None
            }
        }
    };
}

commands! {
    Helo = b"HELO", Ehlo = b"EHLO", Mail = b"MAIL", Rcpt = b"RCPT", Data = b"DATA", StartTls = b"STARTTLS",
    User = b"USER", Pass = b"PASS", Auth = b"AUTH", Capa = b"CAPA", Stls = b"STLS", Stat = b"STAT", Uidl = b"UIDL",
    Retr = b"RETR", Apop = b"APOP", List = b"LIST", Login = b"LOGIN", Capability = b"CAPABILITY", Select = b"SELECT",
    Examine = b"EXAMINE", Fetch = b"FETCH", Authenticate = b"AUTHENTICATE", Id = b"ID",
}

/// Longest line that is looked at, bytes.
const MAX_LINE: usize = 512;

/// Reads the first line of a payload; `None` when it has no end or tells nothing.
pub fn line(payload: &[u8]) -> Option<Line<'_>> {
    let area = &payload[..payload.len().min(MAX_LINE)];
    let end = area.windows(2).position(|w| w == b"\r\n")?;
    let line = &area[..end];
    if let Some(rest) = line.strip_prefix(b"220")
        && let [b' ' | b'-', text @ ..] = rest
    {
        return Some(Line::Greeting(text));
    }
    if line.starts_with(b"250 ") || line.starts_with(b"250-") {
        return Some(Line::Done);
    }
    if line.starts_with(b"+OK") {
        return Some(Line::Ok);
    }
    if line.starts_with(b"* OK") {
        return Some(Line::Untagged);
    }
    let (first, rest) = word(line);
    if let Some(command) = Command::parse(first) {
        return Some(Line::Command(command, rest));
    }
    let tag = !first.is_empty() && first.iter().all(u8::is_ascii_alphanumeric);
    let (second, _) = word(rest);
    match tag && !rest.is_empty() {
        true if second == b"OK" => Some(Line::TaggedOk(first)),
        true => Some(Line::Tagged(first, Command::parse(second)?)),
        false => None,
    }
}

/// The first word of a line and what follows the space after it.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|b| *b == b' ') {
        Some(space) => (&line[..space], &line[space + 1..]),
        None => (line, &[]),
    }
}

/// The host that a greeting names: its first word, if another follows.
pub fn greeting_host(text: &[u8]) -> Option<&[u8]> {
    let space = text.iter().position(|b| *b == b' ')?;
    let host = &text[..space];
    (!host.is_empty() && host[0] != b'(').then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_lines() {
        assert_eq!(
            line(b"220 mx.example.org ESMTP\r\n"),
            Some(Line::Greeting(b"mx.example.org ESMTP"))
        );
        assert_eq!(
            line(b"ehlo me\r\nx"),
            Some(Line::Command(Command::Ehlo, b"me"))
        );
        assert_eq!(
            line(b"a1 LOGIN a b\r\n"),
            Some(Line::Tagged(b"a1", Command::Login))
        );
        assert_eq!(line(b"a1 OK done\r\n"), Some(Line::TaggedOk(b"a1")));
        assert_eq!(line(b"+OK\r\n"), Some(Line::Ok));
        assert_eq!(line(b"220 no end"), None);
        assert_eq!(line(b"hello there\r\n"), None);
    }

    #[test]
    fn takes_the_host_of_a_greeting() {
        assert_eq!(
            greeting_host(b"mx.example.org ESMTP"),
            Some(&b"mx.example.org"[..])
        );
        assert_eq!(greeting_host(b"mx.example.org"), None);
        assert_eq!(greeting_host(b"(vsFTPd 3.0.3) x"), None);
        assert_eq!(greeting_host(b" x"), None);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(Line::Greeting(text)) = line(&bytes) {
                greeting_host(text);
            }
        }
    }
}
