//! `sendmail` inside a jail: what PHP, cron and scripts use of the interface of `sendmail(8)`.

use crate::request::{self, MAX_REPLY, Refusal, read_reply};
use crate::{SOCKET, status};
use mailparse::{MailAddr, MailHeader, SingleInfo};
use std::ffi::OsString;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The most bytes of a message. The server has a limit of its own.
const MOST: usize = 100 << 20;
/// How long a server that is being started again is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// How long the answer may take: the host's sendmail has a minute, and others may be before.
const ANSWER_TIME: Duration = Duration::from_secs(300);
/// Options with a value, as in Postfix's `sendmail(1)`.
const WITH_VALUE: &[u8] = b"ABCFLNORVXbefhopqr";

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Whether the recipients are in the header.
    reads_header: bool,
    /// Whether a line with one dot is text.
    ignores_dots: bool,
    recipients: Vec<String>,
}

/// Sends the message on standard input. Returns the exit status.
#[must_use]
pub fn main(arguments: &[OsString]) -> u8 {
    match run(arguments, io::stdin().lock(), Path::new(SOCKET)) {
        Ok(()) => status::OK,
        Err(Refusal { status, why }) => {
            // Nobody is told when standard error is closed.
            writeln!(io::stderr(), "sendmail: {why}").ok();
            status
        }
    }
}

/// Sends a message to the server at a socket, as the arguments of `sendmail(8)` say.
///
/// # Errors
/// The status and the reason that `sendmail` ends with.
pub fn run(arguments: &[OsString], input: impl BufRead, socket: &Path) -> Result<(), Refusal> {
    let mut wanted = parse(arguments)?;
    let mut message = read(input, wanted.ignores_dots)?;
    if wanted.reads_header {
        let found = recipients(&message)?;
        wanted.recipients.extend(found);
        message = without_hidden(&message);
    }
    wanted.recipients.sort();
    wanted.recipients.dedup();
    if wanted.recipients.is_empty() {
        return Err(Refusal::new(status::USAGE, "the message has no recipient"));
    }
    // A line break in a recipient would be another recipient. The server checks the rest.
    if let Some(wrong) = wanted.recipients.iter().find(|recipient| recipient.is_empty() || recipient.contains('\n')) {
        return Err(Refusal::new(status::DATA, format!("{wrong:?} is no recipient")));
    }
    send(&wanted.recipients, &message, socket)
}

fn parse(arguments: &[OsString]) -> Result<Wanted, Refusal> {
    let usage = |why: String| Err(Refusal::new(status::USAGE, why));
    let mut wanted = Wanted::default();
    let mut words = arguments.iter().map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = words.next() {
        let Some(options) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            wanted.recipients.push(word);
            continue;
        };
        if options == "-" {
            wanted.recipients.extend(words.by_ref());
            break;
        }
        let mut letters = options.char_indices();
        while let Some((at, letter)) = letters.next() {
            let has_value = u8::try_from(letter).is_ok_and(|letter| WITH_VALUE.contains(&letter));
            let value = if has_value {
                let attached = &options[at + 1..];
                letters = "".char_indices();
                if attached.is_empty() { words.next().unwrap_or_default() } else { attached.to_owned() }
            } else {
                String::new()
            };
            match (letter, value.as_str()) {
                ('t', _) => wanted.reads_header = true,
                ('i', _) | ('o', "i") => wanted.ignores_dots = true,
                // Delivers a message, which is what this does.
                ('b', "m") => {}
                ('b', mode) => return usage(format!("-b{mode} is not possible in a jail: only messages can be sent")),
                ('q', _) => return usage("the queue of the host is not seen in a jail".to_owned()),
                // The sender is always the tenant. Everything else is about how the host delivers.
                _ => {}
            }
        }
    }
    Ok(wanted)
}

/// Reads the message. Unless dots are ignored, a line with one dot ends it.
fn read(input: impl BufRead, ignores_dots: bool) -> Result<Vec<u8>, Refusal> {
    let mut input = input.take(MOST as u64 + 1);
    let failed = |error: io::Error| Refusal::new(status::OS, format!("the message cannot be read: {error}"));
    let mut message = Vec::new();
    if ignores_dots {
        input.read_to_end(&mut message).map_err(failed)?;
    } else {
        loop {
            let begin = message.len();
            if input.read_until(b'\n', &mut message).map_err(failed)? == 0 {
                break;
            }
            if matches!(&message[begin..], b"." | b".\n" | b".\r\n") {
                message.truncate(begin);
                break;
            }
        }
    }
    if message.len() > MOST {
        return Err(Refusal::new(status::UNAVAILABLE, format!("the message has more than {} MiB", MOST >> 20)));
    }
    Ok(message)
}

/// The names of headers with recipients (RFC 5322, 3.6.3), and with those of a message that is sent on (3.6.6).
const LISTS: [&str; 3] = ["to", "cc", "bcc"];
const LISTS_AGAIN: [&str; 3] = ["resent-to", "resent-cc", "resent-bcc"];
/// Those that nobody else may see.
const HIDDEN: [&str; 2] = ["bcc", "resent-bcc"];

/// Whether a header has one of these names. There may be space before the colon (RFC 5322, 4.5.3).
fn is_named(name: &str, names: &[&str]) -> bool {
    names.iter().any(|one| name.trim_end().eq_ignore_ascii_case(one))
}

/// The recipients that the header names. When a message is sent on, these are no others, as with every `sendmail`.
fn recipients(message: &[u8]) -> Result<Vec<String>, Refusal> {
    let wrong = |what: &str| Refusal::new(status::DATA, format!("the header of the message is wrong: {what}"));
    let (headers, _) = mailparse::parse_headers(message).map_err(|error| wrong(&error.to_string()))?;
    let with = |names: [&'static str; 3]| {
        headers.iter().filter(move |header| is_named(&header.get_key_ref(), &names)).collect::<Vec<&MailHeader<'_>>>()
    };
    let again = with(LISTS_AGAIN);
    let lists = if again.is_empty() { with(LISTS) } else { again };
    // Programs write lists with nothing between two commas.
    let plain = |one: &SingleInfo| one.addr.trim_start_matches([',', ' ', '\t']).to_owned();
    let mut found = Vec::new();
    for header in lists {
        let list = mailparse::addrparse_header(header).map_err(|error| wrong(&error.to_string()))?;
        for address in list.iter() {
            match address {
                MailAddr::Single(one) => found.push(plain(one)),
                MailAddr::Group(group) => found.extend(group.addrs.iter().map(plain)),
            }
        }
    }
    Ok(found)
}

/// The message without the lines of `Bcc:` and `Resent-Bcc:`.
fn without_hidden(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    let (mut is_header, mut drops) = (true, false);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if is_header {
            let continues = line.starts_with(b" ") || line.starts_with(b"\t");
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            let begins = is_named(&String::from_utf8_lossy(name), &HIDDEN);
            is_header = !matches!(line, b"\n" | b"\r\n");
            drops = is_header && if continues { drops } else { begins };
        }
        if !drops {
            out.extend_from_slice(line);
        }
    }
    out
}

fn send(recipients: &[String], message: &[u8], socket: &Path) -> Result<(), Refusal> {
    let mut stream = connect(socket)?;
    let head = request::head(recipients, message.len());
    let failed = |error: io::Error| {
        Refusal::new(status::TEMPORARY, format!("the message cannot be handed over: {error}; try again later"))
    };
    stream.set_read_timeout(Some(ANSWER_TIME)).map_err(failed)?;
    stream.set_write_timeout(Some(ANSWER_TIME)).map_err(failed)?;
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(message));
    match sent.and_then(|()| stream.shutdown(Shutdown::Write)) {
        Ok(()) => {}
        // The server has refused it before the end, and says why.
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut reply = String::new();
    // Not to the end of the stream: what the server has not read breaks the connection behind its reply.
    io::BufReader::new(stream.take(MAX_REPLY as u64)).read_line(&mut reply).map_err(failed)?;
    read_reply(&reply)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::NotConnected | ErrorKind::ConnectionReset)
}

fn connect(socket: &Path) -> Result<UnixStream, Refusal> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            // The directory is there while mail is allowed, also while the server is started again.
            Err(error) if error.kind() == ErrorKind::NotFound && !socket.parent().is_some_and(Path::exists) => {
                let why = "no mail can be sent from here: the operator has not allowed it";
                return Err(Refusal::new(status::UNAVAILABLE, why));
            }
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(error) => {
                let why = format!("mail cannot be sent now: {error}; try again later");
                return Err(Refusal::new(status::TEMPORARY, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: &str) -> Wanted {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>()).expect("possible")
    }

    #[test]
    fn the_options_of_sendmail_are_taken() {
        let header = Wanted { reads_header: true, ignores_dots: true, recipients: Vec::new() };
        for line in [
            "-t -i",
            "-ti",
            "-t -oi",
            "-oi -t -f a@b.org",
            "-fa@b.org -ti -Fname",
            "-t -i -F name -B8BITMIME",
            "-it -oem -bm",
        ] {
            assert_eq!(wanted(line), header, "{line}");
        }
        let two = ["a@b", "c@d"].map(str::to_owned).to_vec();
        for line in ["a@b c@d", "-f x a@b -- c@d", "-r x -oem a@b c@d"] {
            assert_eq!(wanted(line), Wanted { recipients: two.clone(), ..Wanted::default() }, "{line}");
        }
        assert_eq!(wanted("-- -a@b").recipients, ["-a@b"]);
        for line in ["-bs", "-bp", "-bi", "-q", "-q30m", "-b d"] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(parse(&words).expect_err("refused").status, status::USAGE, "{line}");
        }
    }

    #[test]
    fn recipients_are_found_and_hidden_ones_are_taken_out() {
        let message = b"To: A B <a@b.org>, c@d.org\r\nSubject: x\r\nBcc: hidden@e.org,\r\n\tmore@e.org\r\ncc: list: x@y.org, z@y.org;\r\n\r\nBcc: text@x\r\n";
        assert_eq!(
            recipients(message).expect("reads"),
            ["a@b.org", "c@d.org", "hidden@e.org", "more@e.org", "x@y.org", "z@y.org"]
        );
        let left = String::from_utf8(without_hidden(message)).expect("text");
        assert!(!left.contains("hidden") && !left.contains("more@") && left.contains("Bcc: text@x"), "{left}");
        assert!(left.contains("cc: list") && left.contains("Subject: x"), "{left}");
    }

    #[test]
    fn what_is_hidden_is_taken_out_however_it_is_written() {
        for header in
            ["Bcc : h@e.org\n", "BCC\t: h@e.org\n", "bcc:h@e.org\n", "Bcc \t :\n h@e.org\n", "Bcc: h@e.org\r\n"]
        {
            let message = format!("To: a@b.org\n{header}Subject: x\n\nhello\n");
            assert_eq!(recipients(message.as_bytes()).expect(header), ["a@b.org", "h@e.org"], "{header:?}");
            assert_eq!(without_hidden(message.as_bytes()), b"To: a@b.org\nSubject: x\n\nhello\n", "{header:?}");
        }
        // A line without a colon is left alone with its next line, and so is a name that only begins like it.
        for text in ["Bccx: a@b.org\n\n", "X\n\tBcc: h@e.org\n\n", "X-Bcc: h@e.org\n\n"] {
            assert_eq!(recipients(text.as_bytes()).expect(text), [""; 0], "{text:?}");
            assert_eq!(without_hidden(text.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn a_message_that_is_sent_on_has_its_new_recipients_alone() {
        let message = b"Resent-To: a@b.org\nResent-Bcc: h@e.org\nTo: first@c.org\nBcc: old@c.org\n\nhello\n";
        assert_eq!(recipients(message).expect("reads"), ["a@b.org", "h@e.org"]);
        assert_eq!(without_hidden(message), b"Resent-To: a@b.org\nTo: first@c.org\n\nhello\n");
    }

    #[test]
    fn headers_as_programs_write_them_name_their_recipients() {
        for (header, golden) in [
            ("To: a@b.org,\n", &["a@b.org"][..]),
            ("To: a@b.org , ,c@d.org\n", &["a@b.org", "c@d.org"]),
            ("To: undisclosed-recipients:;\nBcc: a@b.org\n", &["a@b.org"]),
            ("To: \"Doe, Jane\" <a@b.org>\n", &["a@b.org"]),
            ("To: =?utf-8?Q?A=2C_B?= <a@b.org>\n", &["a@b.org"]),
            ("To: J\u{e4}ne <a@b.org>\n", &["a@b.org"]),
            ("To: <a@b.org>\n", &["a@b.org"]),
            ("To:\nCc: a@b.org\n", &["a@b.org"]),
            ("To: a@b.org (a comment)\n", &["a@b.org"]),
        ] {
            let found = recipients(format!("{header}\nbody\n").as_bytes());
            assert_eq!(found.expect(header), golden, "{header}");
        }
    }

    #[test]
    fn a_dot_ends_a_message_unless_dots_are_ignored() {
        let text = b"a\n.\nb\n".as_slice();
        assert_eq!(read(text, false).expect("reads"), b"a\n");
        assert_eq!(read(text, true).expect("reads"), text);
        assert_eq!(read(b"a\n..".as_slice(), false).expect("reads"), b"a\n..");
    }

    #[test]
    fn without_a_socket_it_says_that_mail_is_not_allowed() {
        let temp = tempfile::tempdir().expect("a folder");
        let words = ["a@b.org".into()];
        let refusal = run(&words, b"x".as_slice(), &temp.path().join("none/socket")).expect_err("refused");
        assert!(refusal.status == status::UNAVAILABLE && refusal.why.contains("not allowed"), "{refusal:?}");
    }
}
