//! Receivers that accept, refuse, hang, redirect, flood, or are somebody else.

use bailiwick_targets::{Webhook, webhooks};
use bailiwick_webhook::{Outcome, Sender};
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW: u64 = 1_796_000_000;

/// A webhook with these lines in its file, beside the ones that every webhook needs.
fn webhook(url: &str, more: &str) -> Webhook {
    let temp = tempfile::tempdir().expect("temporary directory");
    let folder = temp.path().join("webhooks.d");
    fs::create_dir(&folder).expect("mkdir");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("chmod");
    let path = folder.join("panel.toml");
    let text = format!("url = \"{url}\"\ntypes = [\"tenant\"]\nsecrets = [\"{SECRET}\"]\n{more}\n");
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    let read = webhooks(temp.path(), None);
    read.good.into_values().next().unwrap_or_else(|| panic!("{:?}", read.diagnostics))
}

/// Sends one delivery to it.
fn send(webhook: &Webhook) -> Outcome {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    Sender::new().send_and_wait(webhook, "evt_1", "{\"a\":1}", now)
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Again { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// Reads a request: its head, and as many bytes as that says.
fn request(stream: &mut impl Read) -> io::Result<(String, String)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).expect("text").to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body)?;
    Ok((head, String::from_utf8(body).expect("text")))
}

/// A receiver of one connection, which does this with it.
fn receiver<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("an address").port();
    (port, std::thread::spawn(move || serve(listener.accept().expect("a connection").0)))
}

/// A receiver that reads the request and sends these bytes.
fn answering(answer: &'static [u8]) -> (Webhook, JoinHandle<(String, String)>) {
    let (port, served) = receiver(move |mut stream| {
        let request = request(&mut stream).expect("a request");
        // The sender may have closed the connection.
        stream.write_all(answer).ok();
        request
    });
    (webhook(&format!("http://127.0.0.1:{port}/in?k=1"), "allow = [\"127.0.0.0/8\"]"), served)
}

#[test]
fn a_request_has_the_form_of_the_standard_and_a_signature_that_openssl_finds_too() {
    let (webhook, served) = answering(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(send(&webhook), Outcome::Done);
    let (head, body) = served.join().expect("served");
    assert!(head.starts_with("post /in?k=1 http/1.1\r\n"), "{head}");
    let port = webhook.url.port();
    for line in [
        &format!("host: 127.0.0.1:{port}"),
        "content-type: application/json",
        "webhook-id: evt_1",
        &format!("webhook-timestamp: {NOW}"),
    ] {
        assert!(head.lines().any(|other| other == line), "{line:?} is not in {head}");
    }
    assert_eq!(body, "{\"a\":1}");
    // The same by other means: openssl, with the bytes of the secret in hexadecimal.
    let script = "key=$(printf %s \"$1\" | base64 -d | od -An -v -tx1 | tr -d ' \\n'); \
                  printf %s \"$2\" | openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary | base64";
    let signed = format!("evt_1.{NOW}.{body}");
    let mut command = Command::new("sh");
    let output = command.args(["-c", script, "sh", &SECRET["whsec_".len()..], &signed]).output().expect("openssl runs");
    let golden = String::from_utf8(output.stdout).expect("text").trim().to_lowercase();
    assert!(!golden.is_empty() && head.contains(&format!("webhook-signature: v1,{golden}\r\n")), "{golden} {head}");
}

#[test]
fn two_secrets_give_two_signatures() {
    let (port, served) = receiver(|mut stream| {
        let (head, _) = request(&mut stream).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("writes");
        head
    });
    let mut webhook = webhook(&format!("http://127.0.0.1:{port}/"), "allow = [\"127.0.0.1\"]");
    webhook.secrets.push("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().expect("a secret"));
    assert_eq!(send(&webhook), Outcome::Done);
    let head = served.join().expect("served");
    let line = head.lines().find_map(|line| line.strip_prefix("webhook-signature: ")).expect("signed");
    assert_eq!(line.split(' ').filter(|word| word.starts_with("v1,")).count(), 2, "{line}");
}

#[test]
fn each_answer_has_its_outcome() {
    let outcome = |answer| {
        let (webhook, served) = answering(answer);
        let outcome = send(&webhook);
        served.join().expect("served");
        outcome
    };
    let again = |answer| reason(outcome(answer));
    assert_eq!(again(b"HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nsorry"), "the receiver answered 500: sorry");
    let redirect = b"HTTP/1.1 307 T\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    assert!(again(redirect).starts_with("the receiver answered 307 and names another address, which is not followed"));
    assert!(matches!(outcome(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"), Outcome::Gone { .. }));
    let slower = outcome(b"HTTP/1.1 429 Slow\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n");
    assert!(matches!(slower, Outcome::Again { wait: Some(wait), .. } if wait.as_secs() == 60), "{slower:?}");
    // A body that breaks off, and one that is announced and does not come.
    assert_eq!(again(b"HTTP/1.1 503 No\r\ncontent-length: 50\r\n\r\nlater"), "the receiver answered 503: later");
    // What is no HTTP.
    for answer in [&b""[..], b"\0\0\0\0", b"SSH-2.0-OpenSSH_10\r\n", b"HTTP/1.1 2", b"HTTP/9.9 200 OK\r\n\r\n"] {
        assert!(again(answer).starts_with("there is no answer that can be read"), "{answer:?}");
    }
    let long: &'static [u8] = [&b"HTTP/1.1 200 OK\r\nx: "[..], &[b'x'; 40_000], b"\r\n\r\n"].concat().leak();
    assert!(again(long).starts_with("there is no answer that can be read"), "a head without an end");
    let many: &'static [u8] = [&b"HTTP/1.1 200 OK\r\n"[..], &b"a: b\r\n".repeat(70), b"\r\n"].concat().leak();
    assert!(again(many).starts_with("there is no answer that can be read"), "a head with too many lines");
}

#[test]
fn a_receiver_that_hangs_or_trickles_costs_the_time_limit_and_no_more() {
    for trickle in [&b""[..], b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 100 Continue\r\n\r\n"] {
        let (port, served) = receiver(move |mut stream| {
            request(&mut stream).expect("a request");
            // Until the sender has enough.
            let mut sent = 0_u32;
            stream.set_read_timeout(Some(Duration::from_millis(100))).expect("sets");
            loop {
                match stream.read(&mut [0]) {
                    Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    _ => return sent,
                }
                if stream.write_all(trickle).is_err() {
                    return sent;
                }
                sent += 1;
            }
        });
        let webhook = webhook(&format!("http://127.0.0.1:{port}/"), "allow = [\"127.0.0.1\"]\ntimeout = \"1s\"");
        let begun = Instant::now();
        assert_eq!(reason(send(&webhook)), "there was no whole answer within 1s");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        served.join().expect("its connection was closed");
    }
}

#[test]
fn an_endless_body_is_not_read() {
    for (status, is_done) in [("200 OK", true), ("500 No", false)] {
        let (port, served) = receiver(move |mut stream| {
            request(&mut stream).expect("a request");
            write!(stream, "HTTP/1.1 {status}\r\n\r\n").expect("writes");
            let mut sent = 0_u64;
            while stream.write_all(&[b'x'; 65_536]).is_ok() {
                sent += 65_536;
            }
            sent
        });
        let outcome = send(&webhook(&format!("http://127.0.0.1:{port}/"), "allow = [\"127.0.0.1\"]"));
        assert_eq!(outcome == Outcome::Done, is_done, "{outcome:?}");
        let sent = served.join().expect("its connection was closed");
        assert!(sent < 64 << 20, "{sent} bytes were read");
    }
}

#[test]
fn a_private_address_is_not_connected_to_by_whatever_name() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.set_nonblocking(true).expect("sets");
    let port = listener.local_addr().expect("an address").port();
    // Names and spellings that the resolver turns into 127.0.0.1 or ::1.
    for host in ["localhost", "127.1", "2130706433", "0x7f.1"] {
        let reason = reason(send(&webhook(&format!("https://{host}:{port}/"), "")));
        let is_refused =
            reason.contains(" is not reached: loopback") || reason.contains(" is not reached: unspecified");
        assert!(is_refused, "{host}: {reason}");
        assert!(reason.contains("list it in \"allow\""), "{host}: {reason}");
    }
    let kind = listener.accept().expect_err("nobody has connected").kind();
    assert_eq!(kind, io::ErrorKind::WouldBlock);
    // A range that is listed opens no other.
    let other = webhook(&format!("https://localhost:{port}/"), "allow = [\"10.0.0.0/8\"]");
    assert!(reason(send(&other)).contains("is not reached"));
    assert!(
        reason(send(&webhook("https://no-such-name.invalid/", "")))
            .starts_with("the name \"no-such-name.invalid\" cannot be resolved")
    );
}

#[test]
fn a_public_address_of_this_host_is_not_connected_to_unless_it_is_listed() {
    const INSIDE: &str = "BAILIWICK_TEST_OWN_ADDRESS";
    const NAME: &str = "a_public_address_of_this_host_is_not_connected_to_unless_it_is_listed";
    if std::env::var_os(INSIDE).is_none() {
        // A network of its own, in which a public address is this host's.
        let script = "ip link set lo up && ip address add 192.0.32.10/32 dev lo && exec \"$0\" --exact \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
        command.arg(std::env::current_exe().expect("this program")).arg(NAME).env(INSIDE, "1");
        let output = command.output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let listener = TcpListener::bind("192.0.32.10:0").expect("binds");
    listener.set_nonblocking(true).expect("sets");
    let port = listener.local_addr().expect("an address").port();
    let refused = reason(send(&webhook(&format!("https://192.0.32.10:{port}/"), "")));
    assert!(refused.contains("192.0.32.10 is not reached: an address of this host; list it in \"allow\""), "{refused}");
    assert_eq!(listener.accept().expect_err("nobody has connected").kind(), io::ErrorKind::WouldBlock);
    let listed = webhook(&format!("http://192.0.32.10:{port}/"), "allow = [\"192.0.32.10\"]\ntimeout = \"1s\"");
    assert!(reason(send(&listed)).starts_with("there was no whole answer"));
    listener.accept().expect("somebody has connected");
    // One that is listed and another's is reached, and not without TLS.
    let other = webhook("http://192.0.32.11:9/", "allow = [\"192.0.32.11\"]");
    assert!(reason(send(&other)).contains("public, and not reached without TLS"));
}

#[test]
fn no_proxy_of_the_environment_is_used() {
    const INSIDE: &str = "BAILIWICK_TEST_PROXY";
    if let Ok(port) = std::env::var(INSIDE) {
        let outcome = send(&webhook(&format!("http://127.0.0.1:{port}/"), "allow = [\"127.0.0.1\"]"));
        assert_eq!(outcome, Outcome::Done);
        return;
    }
    let (port, served) = receiver(|mut stream| {
        let (head, _) = request(&mut stream).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("writes");
        head
    });
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "no_proxy_of_the_environment_is_used"]).env(INSIDE, port.to_string());
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1/");
    }
    assert!(command.output().expect("runs").status.success());
    assert!(served.join().expect("served").starts_with("post / http/1.1"));
}

/// A certificate for a name, which has signed itself, and its key.
fn certificate(folder: &Path, name: &str) {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
    ]);
    command.args(["-subj", "/CN=test", "-addext", &format!("subjectAltName={name}")]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.arg("-keyout").arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem"));
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::set_permissions(folder.join("cert.pem"), Permissions::from_mode(0o644)).expect("chmod");
}

/// A receiver with TLS, which answers one request, if the client goes on that long.
fn secure(folder: &TempDir, name: &str) -> (u16, JoinHandle<Option<String>>) {
    certificate(folder.path(), name);
    let chain = vec![CertificateDer::from_pem_file(folder.path().join("cert.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(folder.path().join("key.pem")).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).expect("a configuration"));
    receiver(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config).expect("a server"), stream);
        let (head, _) = request(&mut stream).ok()?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
        stream.flush().ok()?;
        Some(head)
    })
}

#[test]
fn a_receiver_proves_by_tls_who_it_is() {
    for (names, roots, expected) in [
        ("IP:127.0.0.1", true, None),
        // Nobody that is trusted has signed it.
        ("IP:127.0.0.1", false, Some("UnknownIssuer")),
        ("DNS:other.example", true, Some("not valid for name")),
    ] {
        let folder = tempfile::tempdir().expect("temporary directory");
        let (port, served) = secure(&folder, names);
        let roots = if roots {
            format!("roots = {:?}", folder.path().canonicalize().expect("a path").join("cert.pem"))
        } else {
            String::new()
        };
        let webhook = webhook(&format!("https://127.0.0.1:{port}/"), &format!("allow = [\"127.0.0.1\"]\n{roots}"));
        let outcome = send(&webhook);
        let got = served.join().expect("served");
        match expected {
            None => {
                assert_eq!(outcome, Outcome::Done);
                assert!(got.expect("a request").starts_with("post / http/1.1"));
            }
            Some(why) => {
                let reason = reason(outcome);
                assert!(reason.starts_with("TLS with \"127.0.0.1\" failed: ") && reason.contains(why), "{reason}");
                assert_eq!(got, None, "nothing was sent to somebody else");
            }
        }
    }
}

#[test]
fn what_speaks_no_tls_gets_nothing() {
    let (port, served) = receiver(|mut stream| {
        let mut first = [0; 5];
        stream.read_exact(&mut first).expect("the start of TLS");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("writes");
        first
    });
    let webhook = webhook(&format!("https://127.0.0.1:{port}/"), "allow = [\"127.0.0.1\"]");
    let reason = reason(send(&webhook));
    assert!(reason.starts_with("TLS with \"127.0.0.1\" failed"), "{reason}");
    assert_eq!(served.join().expect("served")[0], 22, "a record of a handshake");
}

#[test]
fn a_time_before_1970_is_signed_as_zero() {
    let (port, served) = receiver(|mut stream| {
        let (head, _) = request(&mut stream).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("writes");
        head
    });
    let webhook = webhook(&format!("http://127.0.0.1:{port}/"), "allow = [\"127.0.0.1\"]");
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(Sender::new().send_and_wait(&webhook, "evt_1", "{}", before), Outcome::Done);
    assert!(served.join().expect("served").contains("webhook-timestamp: 0\r\n"));
}
