//! SMTP, POP3, IMAP and FTP: told apart by a few lines, then perhaps TLS.

use super::super::mail::{Command, Line, greeting_host, line};
use super::super::names::{self, App};
use super::super::text;
use super::{Dialect, Found};

/// What is known of a dialogue of lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Mail {
    /// SMTP: kinds of lines seen.
    smtp: u8,
    /// POP3: commands since its greeting.
    pop: Option<u8>,
    /// IMAP: commands since its greeting.
    imap: Option<u8>,
    /// FTP: whether a user was named.
    user: bool,
    /// Tag of IMAP's STARTTLS.
    tag: Vec<u8>,
}

/// What follows from a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next line will tell.
    More,
    /// It is this protocol, and nothing more will be told.
    Is(App),
    /// It is this protocol, and TLS follows.
    Tls(App),
}

const GREETING: u8 = 1;
const HELLO: u8 = 2;
const REPLY: u8 = 4;
const MAIL: u8 = 8;
const OTHER: u8 = 16;

/// Whether a payload may begin such a dialogue.
pub(super) fn may_begin(payload: &[u8]) -> bool {
    const STARTS: [&[u8]; 7] = [
        b"220", b"+OK", b"* OK", b"EHLO ", b"HELO ", b"USER ", b"421",
    ];
    STARTS.iter().any(|s| payload.starts_with(s))
}

impl Mail {
    pub(super) fn payload(&mut self, dialect: Dialect, payload: &[u8], found: &mut Found) -> Step {
        let Some(line) = line(payload) else {
            return Step::More;
        };
        match line {
            Line::Greeting(text) => {
                self.smtp |= GREETING;
                if let Some(host) =
                    greeting_host(text).filter(|_| found.hints.server_name.is_empty())
                {
                    found.server(text::host(host), dialect);
                }
            }
            Line::Done => self.smtp |= REPLY,
            Line::Ok => {
                self.pop.get_or_insert(0);
            }
            Line::Untagged => {
                self.imap.get_or_insert(0);
            }
            Line::Command(command, rest) => return self.command(command, rest, found),
            Line::Tagged(tag, command) => return self.tagged(tag, command),
            Line::TaggedOk(tag) if !self.tag.is_empty() && self.tag == tag => {
                return Step::Tls(names::IMAPS);
            }
            Line::TaggedOk(_) => {}
        }
        self.smtp(found)
    }

    /// SMTP shows in three kinds of lines; before the first mail may still come STARTTLS.
    fn smtp(&self, found: &mut Found) -> Step {
        if self.smtp.count_ones() < 3 {
            return Step::More;
        }
        found.name(names::SMTP);
        match self.smtp & MAIL != 0 {
            true => Step::Is(names::SMTP),
            false => Step::More,
        }
    }

    fn tagged(&mut self, tag: &[u8], command: Command) -> Step {
        let Some(commands) = &mut self.imap else {
            return Step::More;
        };
        *commands = commands.saturating_add(1);
        if command == Command::StartTls {
            self.tag = tag.to_vec();
        } else if *commands > 1 || matches!(command, Command::Login | Command::Authenticate) {
            return Step::Is(names::IMAP);
        }
        Step::More
    }

    fn command(&mut self, command: Command, rest: &[u8], found: &mut Found) -> Step {
        if let Some(commands) = &mut self.pop {
            *commands = commands.saturating_add(1);
            return match command {
                Command::Stls => Step::Tls(names::POPS),
                _ if *commands > 1 => Step::Is(names::POP3),
                _ => Step::More,
            };
        }
        match command {
            Command::Helo | Command::Ehlo => self.smtp |= HELLO,
            Command::Mail => self.smtp |= MAIL,
            Command::Rcpt | Command::Data => self.smtp |= OTHER,
            Command::StartTls if self.smtp.count_ones() > 2 => return Step::Tls(names::SMTPS),
            Command::Auth if self.smtp & HELLO == 0 => {
                let kinds = [&b"TLS"[..], b"SSL", b"TLS-C", b"TLS-P"];
                if kinds.iter().any(|kind| rest.eq_ignore_ascii_case(kind)) {
                    found.hints.server_name.clear();
                    return Step::Tls(names::FTPS);
                }
            }
            Command::User => self.user = true,
            Command::Pass if self.user => {
                found.hints.server_name.clear();
                return Step::Is(names::FTP_CONTROL);
            }
            _ => {}
        }
        self.smtp(found)
    }
}
