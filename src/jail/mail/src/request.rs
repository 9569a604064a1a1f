//! What the client sends: a line with the size of the message, a line for each recipient, an empty line, and the message; and what
//! the server answers: a status of `sysexits.h` and a line of text.

use crate::status;
use std::io::{self, BufRead, Read};

/// The most bytes of the part before "@", and of the domain behind it (RFC 5321, 4.5.3.1).
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;
/// The most bytes between two dots of a domain (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;
/// The most bytes of a recipient.
pub const MAX_RECIPIENT: usize = MAX_LOCAL + 1 + MAX_DOMAIN;
/// The most bytes of a reply.
pub const MAX_REPLY: usize = 1024;

/// A message and who gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The addresses, each as [`check_recipient`] wants it.
    pub recipients: Vec<String>,
    /// The message with its header. Its lines end in a line feed alone.
    pub message: Vec<u8>,
}

/// Why a message is not sent: a status of `sysexits.h` and a line for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u8,
    /// The reason.
    pub why: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: u8, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

/// The bounds of a request.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most recipients.
    pub recipients: usize,
    /// The most bytes of the message.
    pub size: usize,
}

/// Reads a request, and never more than the bounds allow.
///
/// # Errors
/// What is wrong with it. A stream that breaks is a temporary error.
pub fn read(from: impl Read, bounds: Bounds) -> Result<Request, Refusal> {
    let broken =
        |error: io::Error| Refusal::new(status::TEMPORARY, format!("the message did not arrive whole: {error}"));
    let mut from = io::BufReader::new(from);
    let mut next_line = || -> Result<String, Refusal> {
        let mut line = Vec::new();
        (&mut from).take(MAX_RECIPIENT as u64 + 2).read_until(b'\n', &mut line).map_err(broken)?;
        match line.pop() {
            Some(b'\n') => String::from_utf8(line).map_err(|_| not_plain()),
            Some(_) if line.len() > MAX_RECIPIENT => {
                Err(Refusal::new(status::DATA, format!("a recipient has more than {MAX_RECIPIENT} bytes")))
            }
            _ => Err(Refusal::new(status::DATA, "the list of recipients has no end")),
        }
    };
    let size = next_line()?.parse::<u64>().map_err(|_| Refusal::new(status::DATA, "the message has no size"))?;
    if size > bounds.size as u64 {
        return Err(Refusal::new(status::UNAVAILABLE, format!("the message has more than {} bytes", bounds.size)));
    }
    let mut recipients = Vec::new();
    loop {
        let line = next_line()?;
        if line.is_empty() {
            break;
        }
        if recipients.len() == bounds.recipients {
            let most = bounds.recipients;
            return Err(Refusal::new(status::DATA, format!("the message has more than {most} recipients")));
        }
        check_recipient(&line)?;
        recipients.push(line);
    }
    if recipients.is_empty() {
        return Err(Refusal::new(status::DATA, "the message has no recipient"));
    }
    let mut message = Vec::new();
    from.take(size).read_to_end(&mut message).map_err(broken)?;
    if message.len() as u64 != size {
        // Its client was ended meanwhile. A part of a message is never sent.
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(Request { recipients, message: uniform(message)? })
}

/// Gives all lines of a message the same end. What some program could take for the end of a line, and another one not, is
/// refused: a relay would see commands in the middle of a text.
fn uniform(mut message: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    if message.contains(&0) {
        return Err(Refusal::new(status::DATA, "the message has a zero byte, which no mail may have"));
    }
    let is_bare = |pair: &[u8]| pair[0] == b'\r' && pair[1] != b'\n';
    if message.ends_with(b"\r") || message.windows(2).any(is_bare) {
        let why = "the message has a carriage return without a line feed; end lines with a line feed alone";
        return Err(Refusal::new(status::DATA, why));
    }
    message.retain(|byte| *byte != b'\r');
    Ok(message)
}

/// The beginning of a request, before the message.
#[must_use]
pub fn head(recipients: &[String], size: usize) -> String {
    let lines = recipients.iter().map(|recipient| format!("{recipient}\n"));
    [format!("{size}\n")].into_iter().chain(lines).chain(["\n".to_owned()]).collect()
}

fn not_plain() -> Refusal {
    Refusal::new(status::DATA, "a recipient is no plain ASCII address")
}

/// Checks that a text is an address with a domain, which no mail program takes for an option, a file or a command: an
/// `Addr-spec` of RFC 5322 without quotes and comments.
///
/// # Errors
/// What is wrong with it.
pub fn check_recipient(text: &str) -> Result<(), Refusal> {
    let wrong = |why: &str| Err(Refusal::new(status::DATA, format!("{text:?} is no recipient: {why}")));
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(not_plain());
    }
    let Some((local, domain)) = text.split_once('@') else { return wrong("it has no domain") };
    // Of the characters of an atom, some program takes each of these for something else: a route over another host, a command,
    // a file, or a variable of a shell or of an MTA: ! % | / & ` $ { }
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"#'*+-=?^_~".contains(&byte);
    let mut atoms = local.split('.');
    // A name that begins with one of these is an option, a command or a file to some program.
    let begins_well = local.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    if !begins_well || !atoms.all(|atom| !atom.is_empty() && atom.bytes().all(is_atom)) || local.len() > MAX_LOCAL {
        return wrong("the part before \"@\" is no plain name");
    }
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_long = label.len() > MAX_LABEL;
        !(label.is_empty() || is_long || label.starts_with('-') || label.ends_with('-')) && label.bytes().all(is_inner)
    };
    if domain.len() > MAX_DOMAIN || !domain.split('.').all(is_label) {
        return wrong("the part behind \"@\" is no domain");
    }
    Ok(())
}

/// The text of a reply.
#[must_use]
pub fn reply(result: &Result<(), Refusal>) -> String {
    match result {
        Ok(()) => format!("{}\n", status::OK),
        Err(Refusal { status, why }) => {
            let line: String =
                why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REPLY / 4 - 8).collect();
            format!("{status} {line}\n")
        }
    }
}

/// Reads a reply.
///
/// # Errors
/// The refusal that it is. What is no reply is a temporary error.
pub fn read_reply(text: &str) -> Result<(), Refusal> {
    let (number, why) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), ""));
    match number.parse() {
        Ok(status::OK) => Ok(()),
        Ok(status) => Err(Refusal::new(status, why)),
        Err(_) => Err(Refusal::new(status::TEMPORARY, "the server of mail did not answer; try again later")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { recipients: 2, size: 10 };

    fn refused(text: &[u8]) -> (u8, String) {
        let Refusal { status, why } = read(text, BOUNDS).expect_err("refused");
        (status, why)
    }

    #[test]
    fn a_request_is_recipients_and_a_message() {
        let request = read(b"6\na@b.org\nc.d+e@f\n\nhello\nmore".as_slice(), BOUNDS).expect("reads");
        assert_eq!(request.recipients, ["a@b.org", "c.d+e@f"]);
        assert_eq!(request.message, b"hello\n");
        assert_eq!(read(b"0\na@b\n\n".as_slice(), BOUNDS).expect("reads").message, b"");
        let made = head(&request.recipients, 6) + "hello\n";
        assert_eq!(read(made.as_bytes(), BOUNDS), Ok(request));
    }

    #[test]
    fn what_is_beyond_the_bounds_is_refused() {
        assert_eq!(refused(b"5\n\nhello").1, "the message has no recipient");
        assert_eq!(refused(b"5\na@b").1, "the list of recipients has no end");
        assert_eq!(refused(b"").1, "the list of recipients has no end");
        assert_eq!(refused(b"a@b\n\nhello").1, "the message has no size");
        assert_eq!(refused(b"1\na@b\na@b\na@b\n\n").1, "the message has more than 2 recipients");
        assert_eq!(
            refused(b"11\na@b\n\n12345678901"),
            (status::UNAVAILABLE, "the message has more than 10 bytes".into())
        );
        assert_eq!(refused(b"6\na@b\n\nhello").0, status::TEMPORARY, "a part of a message");
        let long = [b"1\na@".as_slice(), &[b'b'; 400], b"\n\n"].concat();
        assert_eq!(refused(&long).1, "a recipient has more than 320 bytes");
    }

    #[test]
    fn lines_of_a_message_end_in_one_way() {
        let message = |text: &str| read(format!("{}\na@b\n\n{text}", text.len()).as_bytes(), BOUNDS);
        for (text, golden) in [("a\r\nb\r\n", "a\nb\n"), ("\r\n\r\n", "\n\n"), ("a\n.\n", "a\n.\n"), ("", "")] {
            assert_eq!(message(text).expect(text).message, golden.as_bytes(), "{text:?}");
        }
        for (text, why) in [
            ("q\r.\r\nM:", "carriage return"),
            ("a\r\r\n", "carriage return"),
            ("a\n\rb", "carriage return"),
            ("a\r", "carriage return"),
            ("\r", "carriage return"),
            ("a\0b\n", "zero byte"),
        ] {
            let refusal = message(text).expect_err(text);
            assert!(refusal.status == status::DATA && refusal.why.contains(why), "{text:?}: {refusal:?}");
        }
    }

    #[test]
    fn what_some_program_could_take_for_something_else_is_no_recipient() {
        for text in [
            "alice",
            "-f@x.org",
            "|cat@x.org",
            "/etc/passwd@x.org",
            ":include:@x.org",
            "\"a b\"@x.org",
            "a@b@c",
            "a@",
            "@b",
            "a@-b.org",
            "a@b..c",
            "a b@c.org",
            "a@b\u{1}",
            "ä@b.org",
            "a,b@c.org",
            "a<b>@c.org",
            "a@[1.2.3.4]",
            "\\a@b.org",
            "&a@b.org",
            "!a@b.org",
            "host!a@b.org",
            "a%inner.org@b.org",
            "a|b@c.org",
            "a/b@c.org",
            "a`id`@b.org",
            "a${run{x}}@b.org",
            "a$b@c.org",
            "a{b@c.org",
            "a}b@c.org",
            "a&b@c.org",
            "a;b@c.org",
            "a<b@c.org",
            "a>b@c.org",
            "a!b@c.org",
            "a..b@c.org",
            "a.@c.org",
            ".a@c.org",
        ] {
            assert!(check_recipient(text).is_err(), "{text}");
        }
        let (name, label) = ("n".repeat(64), "l".repeat(63));
        assert_eq!(check_recipient(&format!("{name}@{label}.org")), Ok(()));
        assert!(check_recipient(&format!("{name}n@{label}.org")).is_err());
        assert!(check_recipient(&format!("{name}@{label}l.org")).is_err());
        for text in ["a@b", "first.last+tag@example.org", "o'brien@x-y.example", "_x@y.org", "1@2.org"] {
            assert_eq!(check_recipient(text), Ok(()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much_for_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(request) = read(bytes.as_slice(), BOUNDS) {
                prop_assert!(request.recipients.len() <= 2 && request.message.len() <= 10);
                for recipient in request.recipients {
                    prop_assert!(!recipient.starts_with('-') && recipient.bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }

        #[test]
        fn a_reply_is_one_line_and_reads_to_itself(status in 1u8.., why in "\\PC{0,300}") {
            let text = reply(&Err(Refusal::new(status, why.clone())));
            prop_assert!(text.len() <= MAX_REPLY && text.lines().count() == 1);
            let read = read_reply(&text).expect_err("a refusal");
            prop_assert_eq!(read.status, status);
            prop_assert!(why.trim_end().starts_with(&read.why) || why.chars().count() > 200);
        }
    }
}
