//! A mail server on the loopback that keeps what it gets, and Debian's `msmtp`, which hands messages to it.

use crate::Mail;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A server of SMTP (RFC 5321) that takes every message.
pub(crate) struct Server {
    pub(crate) port: u16,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&messages);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &kept).ok();
            }
        });
        Self { port, messages }
    }

    /// The messages, each with its envelope before it.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.messages.lock().expect("lock").clone()
    }
}

fn serve(stream: TcpStream, kept: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    let mut message = String::new();
    out.write_all(b"220 test\r\n")?;
    while let Some(line) = lines.next().transpose()? {
        let word = line.to_ascii_uppercase();
        if word.starts_with("DATA") {
            out.write_all(b"354 go on\r\n")?;
            for line in lines.by_ref() {
                let line = line?;
                if line == "." {
                    break;
                }
                message.push_str(&line);
                message.push('\n');
            }
            kept.lock().expect("lock").push(std::mem::take(&mut message));
        } else if word.starts_with("MAIL") || word.starts_with("RCPT") {
            message.push_str(&format!("{line}\n"));
        } else if word.starts_with("QUIT") {
            out.write_all(b"221 bye\r\n")?;
            return Ok(());
        }
        out.write_all(b"250 ok\r\n")?;
    }
    Ok(())
}

#[test]
fn a_message_reaches_a_mailbox_by_a_real_sendmail() {
    assert!(std::path::Path::new("/usr/bin/msmtp").exists(), "no msmtp: run tests/deps");
    let server = Server::start();
    let mut mail = Mail::new(
        "",
        "[contact]\nmail = [\"alice+notices@example.org\"]\nlanguage = \"de\"\n[[notice]]\nresource = \"tasks\"\nat = [\"90%\"]\nto = [\"tenant\"]\n",
    );
    let settings = mail.dir.join("msmtprc");
    let text = format!(
        "account default\nhost 127.0.0.1\nport {}\ntls off\nauth off\nfrom nobody@host.example\nallow_from_override on\n",
        server.port
    );
    std::fs::write(&settings, text).expect("writes");
    mail.sendmail(&format!("#!/bin/sh\nexec /usr/bin/msmtp -C {} \"$@\"\n", settings.display()));
    mail.host.start();
    mail.until_it_answers();
    let said = mail.host.ok(&["notices", "test", "alice"]);
    assert!(said.contains("alice+notices@example.org  sendmail has taken it"), "{said}");
    let all = server.messages();
    assert_eq!(all.len(), 1, "{all:?}");
    for line in [
        "MAIL FROM:<bailiwick@host.example>",
        "RCPT TO:<alice+notices@example.org>",
        "From: Bailiwick <bailiwick@host.example>",
        "To: alice+notices@example.org",
        "Auto-Submitted: auto-generated",
    ] {
        assert!(
            all[0].lines().any(|other| other == line || other.starts_with(&format!("{line} "))),
            "{line}: {}",
            all[0]
        );
    }
    assert!(all[0].contains("Dies ist eine Probe.") && all[0].contains("alice"), "{}", all[0]);
}
