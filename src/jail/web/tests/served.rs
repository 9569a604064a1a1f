//! The real program on a real socket.

use bailiwick_sys::process;
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program with this socket at descriptor 3.
fn command(listener: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 < /dev/null", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_bailiwick-web")).args(arguments).stdin(Stdio::from(listener.into()));
    command
}

/// A running program, and a folder with its socket and the folder `www`.
struct Served {
    dir: tempfile::TempDir,
    child: Child,
}

impl Served {
    fn new(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("www")).expect("a folder");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("listens");
        let arguments = arguments(dir.path());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let child = command(listener, &arguments).spawn().expect("runs");
        Self { dir, child }
    }

    fn files() -> Self {
        Self::new(|dir| vec!["files".to_owned(), dir.join("www").to_str().expect("text").to_owned()])
    }

    fn www(&self, name: &str) -> PathBuf {
        self.dir.path().join("www").join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.www(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("writes");
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("socket")).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        stream
    }

    /// Sends one request and reads to the end of the connection.
    fn ask(&self, head: &str) -> Answer {
        let mut stream = self.connect();
        write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sends");
        let mut bytes = Vec::new();
        // A request that was refused before its end resets the connection, after the answer.
        stream.read_to_end(&mut bytes).ok();
        Answer::read(&bytes)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1"))
    }

    fn terminate(&self) {
        let pidfd = process::open(self.child.id()).expect("held");
        process::signal(&pidfd, Signal::TERM).expect("a signal");
    }

    fn stop(&mut self) -> std::process::ExitStatus {
        self.terminate();
        self.child.wait().expect("ends")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {bytes:?}"));
        let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn files_have_types_and_sizes() {
    let served = Served::files();
    served.write("index.html", "home");
    served.write("sub/index.html", "sub");
    served.write("a.css", "a{}");
    served.write("name with %.bin", [0, 1, 2]);
    served.write(".well-known/x", "known");
    for (path, kind, body) in [
        ("/", "text/html; charset=utf-8", "home"),
        ("/index.html?x=1", "text/html; charset=utf-8", "home"),
        ("/sub/", "text/html; charset=utf-8", "sub"),
        ("/a.css", "text/css; charset=utf-8", "a{}"),
        ("/name%20with%20%25.bin", "application/octet-stream", "\0\u{1}\u{2}"),
        ("/.well-known/x", "application/octet-stream", "known"),
    ] {
        let answer = served.get(path);
        assert_eq!((answer.status, answer.header("content-type"), answer.text()), (200, Some(kind), body), "{path}");
        assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
        let head = served.ask(&format!("HEAD {path} HTTP/1.1"));
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-length"), answer.header("content-length"), "{path}");
    }
    let moved = served.get("/sub?x=1");
    assert_eq!((moved.status, moved.header("location")), (301, Some("./sub/?x=1")));
    for path in ["/none", "/a.css/", "/a.css/b", "/none/"] {
        assert_eq!(served.get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FOO"] {
        let answer = served.ask(&format!("{method} / HTTP/1.1"));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn a_folder_without_an_index_is_not_listed() {
    let served = Served::files();
    served.write("sub/secret", "x");
    for path in ["/", "/sub/"] {
        let answer = served.get(path);
        assert!(answer.status == 404 && !answer.text().contains("secret"), "{answer:?}");
    }
}

#[test]
fn nothing_outside_of_the_tree_is_served() {
    let served = Served::files();
    let outside = served.dir.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("secret"), "secret").expect("writes");
    served.write("sub/a", "inside");
    let held = fs::File::open(outside.join("secret")).expect("opens");
    for (link, to) in [
        ("relative", "../outside/secret".to_owned()),
        ("absolute", outside.join("secret").to_str().expect("text").to_owned()),
        ("folder", "../outside".to_owned()),
        ("magic", "/proc/self/root".to_owned()),
        ("magic-fd", format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&held))),
        ("up", "..".to_owned()),
        ("loop", "loop".to_owned()),
        ("inside", "sub/a".to_owned()),
        ("inside-up", "sub/../sub/a".to_owned()),
    ] {
        symlink(to, served.www(link)).expect("a link");
    }
    for path in ["/inside", "/inside-up"] {
        assert_eq!(served.get(path).text(), "inside", "{path}");
    }
    let real = outside.join("secret");
    for path in [
        "/relative",
        "/absolute",
        "/folder/secret",
        "/magic-fd",
        "/up/outside/secret",
        "/loop",
        "/../outside/secret",
        "/sub/../../outside/secret",
        "/..%2foutside%2fsecret",
        "/%2e%2e/outside/secret",
        "/.%2e/outside/secret",
        "/%2e%2e%2foutside/secret",
        "/..%5coutside/secret",
        "/sub/..%2f..%2foutside%2fsecret",
        &format!("/{}", real.display()),
        &format!("/{}", real.display().to_string().replace('/', "%2f")),
        &format!("/magic{}", real.display()),
    ] {
        let answer = served.get(path);
        assert!(answer.status == 404 && !answer.text().contains("secret"), "{path}: {answer:?}");
    }
}

#[test]
fn links_of_the_kernel_lead_nowhere() {
    let served = Served::new(|_| vec!["files".to_owned(), "/proc/self".to_owned()]);
    assert_eq!(served.get("/status").status, 200, "a file of /proc");
    for path in ["/exe", "/root/etc/passwd", "/cwd/Cargo.toml", "/fd/0", "/task/../exe"] {
        assert_eq!(served.get(path).status, 404, "{path}");
    }
}

#[test]
fn what_is_hidden_special_or_a_program_is_not_served() {
    let served = Served::files();
    for name in [".env", ".git/config", "a/.htaccess", "wp-config.php", "wp-config.php.bak", "a.php~"] {
        served.write(name, "secret");
        assert_eq!(served.get(&format!("/{name}")).status, 404, "{name}");
    }
    // Opening a FIFO would wait for somebody to write.
    let fifo = served.www("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o644), 0)
        .expect("a fifo");
    let _socket = UnixListener::bind(served.www("socket")).expect("a socket");
    for path in ["/fifo", "/socket"] {
        assert_eq!(served.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_client_that_has_the_file_gets_no_body() {
    let served = Served::files();
    served.write("a.txt", "text");
    let first = served.get("/a.txt");
    let (tag, date) = (first.header("etag").expect("a tag"), first.header("last-modified").expect("a date"));
    assert!(tag.starts_with('"'), "a strong tag: {tag}");
    for header in [
        format!("If-None-Match: {tag}"),
        format!("If-None-Match: \"x\", W/{tag}"),
        "If-None-Match: *".to_owned(),
        format!("If-Modified-Since: {date}"),
        format!("If-None-Match: {tag}\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"),
    ] {
        let answer = served.ask(&format!("GET /a.txt HTTP/1.1\r\n{header}"));
        assert_eq!((answer.status, answer.text()), (304, ""), "{header}");
        assert_eq!(answer.header("etag"), Some(tag), "{header}");
    }
    for header in [
        "If-None-Match: \"x\"".to_owned(),
        format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}"),
        "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT".to_owned(),
        "If-Modified-Since: nonsense".to_owned(),
    ] {
        assert_eq!(served.ask(&format!("GET /a.txt HTTP/1.1\r\n{header}")).status, 200, "{header}");
    }
    served.write("b.txt", "other");
    fs::rename(served.www("b.txt"), served.www("a.txt")).expect("renames");
    assert_ne!(served.get("/a.txt").header("etag"), Some(tag));
}

#[test]
fn parts_of_a_file_are_sent() {
    let served = Served::files();
    served.write("a.txt", "0123456789");
    let ask = |headers: &str| served.ask(&format!("GET /a.txt HTTP/1.1\r\n{headers}"));
    let part = ask("Range: bytes=2-4");
    assert_eq!((part.status, part.text(), part.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(ask("Range: bytes=-2").text(), "89");
    let none = ask("Range: bytes=10-");
    assert_eq!((none.status, none.header("content-range")), (416, Some("bytes */10")));
    assert_eq!((ask("Range: bytes=0-1,4-5").status, ask("Range: x").status), (200, 200));
    let tag = part.header("etag").expect("a tag");
    let date = part.header("last-modified").expect("a date");
    assert_eq!(ask(&format!("Range: bytes=0-1\r\nIf-Range: {tag}")).text(), "01");
    assert_eq!(ask(&format!("Range: bytes=0-1\r\nIf-Range: {date}")).text(), "01");
    assert_eq!(ask("Range: bytes=0-1\r\nIf-Range: \"other\"").status, 200);
    assert_eq!(ask(&format!("Range: bytes=0-1\r\nIf-Range: W/{tag}")).status, 200);
    assert_eq!(served.ask("HEAD /a.txt HTTP/1.1\r\nRange: bytes=0-1").status, 200);
}

#[test]
fn compressed_copies_are_sent_to_those_who_take_them() {
    let served = Served::files();
    served.write("a.js", "plain");
    served.write("a.js.gz", "gz");
    served.write("a.png", "plain");
    served.write("a.png.gz", "gz");
    let ask = |path: &str, accept: &str| served.ask(&format!("GET {path} HTTP/1.1\r\nAccept-Encoding: {accept}"));
    for (accept, coding, body) in [("gzip, br", Some("gzip"), "gz"), ("br", None, "plain"), ("gzip;q=0", None, "plain")]
    {
        let answer = ask("/a.js", accept);
        assert_eq!((answer.header("content-encoding"), answer.text()), (coding, body), "{accept}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"), "{accept}");
        assert_eq!(answer.header("content-type"), Some("text/javascript; charset=utf-8"), "{accept}");
    }
    served.write("a.js.br", "br");
    assert_eq!(ask("/a.js", "gzip, br").header("content-encoding"), Some("br"));
    assert_ne!(ask("/a.js", "br").header("etag"), ask("/a.js", "gzip").header("etag"));
    assert_eq!(ask("/a.png", "gzip").text(), "plain");
}

#[test]
fn a_large_file_arrives_whole_over_one_connection_with_others() {
    let served = Served::files();
    let large: Vec<u8> = (0..3_000_001_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    served.write("large", &large);
    served.write("small", "s");
    let mut stream = served.connect();
    write!(stream, "GET /small HTTP/1.1\r\nHost: x\r\n\r\nGET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("sends");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("reads");
    let second = bytes.windows(5).skip(5).position(|word| word == b"HTTP/").expect("two answers") + 5;
    assert_eq!(Answer::read(&bytes[..second]).text(), "s");
    assert!(Answer::read(&bytes[second..]).body == large);
}

#[test]
fn a_file_that_is_cut_while_it_is_sent_ends_the_connection() {
    let served = Served::files();
    served.write("large", vec![b'x'; 8 << 20]);
    let mut stream = served.connect();
    write!(stream, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").expect("sends");
    stream.read_exact(&mut [0; 64]).expect("it begins");
    served.write("large", "");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok();
    assert!(rest.len() < 8 << 20);
    assert_eq!(served.get("/large").status, 200);
}

#[test]
fn what_is_no_request_or_too_large_is_refused() {
    let served = Served::files();
    let long = "x".repeat(20 << 10);
    for (head, status) in [
        ("nonsense".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1"), 431),
        (format!("GET / HTTP/1.1\r\nX: {long}"), 431),
        (format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(200).trim_end()), 431),
    ] {
        let answer = served.ask(&head);
        assert!([status, 414].contains(&answer.status), "{status}: {}", answer.head);
    }
}

#[test]
fn a_site_that_is_renewed_by_a_link_is_seen_at_once() {
    let served = Served::new(|dir| {
        for release in ["one", "two"] {
            fs::create_dir(dir.join(release)).expect("a folder");
            fs::write(dir.join(release).join("a"), release).expect("writes");
        }
        symlink("one", dir.join("current")).expect("a link");
        vec!["files".to_owned(), dir.join("current").to_str().expect("text").to_owned()]
    });
    assert_eq!(served.get("/a").text(), "one");
    symlink("two", served.dir.path().join("next")).expect("a link");
    fs::rename(served.dir.path().join("next"), served.dir.path().join("current")).expect("renames");
    assert_eq!(served.get("/a").text(), "two");
}

#[test]
fn more_connections_than_are_served_wait() {
    let served = Served::files();
    served.write("a", "x");
    let mut idle: Vec<_> = (0..512).map(|_| served.connect()).collect();
    let mut last = served.connect();
    write!(last, "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sends");
    last.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
    assert!(last.read(&mut [0]).is_err(), "it waits");
    last.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    idle.pop();
    let mut bytes = Vec::new();
    last.read_to_end(&mut bytes).expect("reads");
    assert_eq!(Answer::read(&bytes).text(), "x");
}

#[test]
fn a_stop_ends_idle_connections_and_finishes_the_others() {
    let mut served = Served::files();
    let size = 8 << 20;
    served.write("large", vec![b'x'; size]);
    let mut idle = served.connect();
    write!(idle, "HEAD /large HTTP/1.1\r\nHost: x\r\n\r\n").expect("sends");
    idle.read_exact(&mut [0; 16]).expect("an answer");
    let mut busy = served.connect();
    write!(busy, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").expect("sends");
    busy.read_exact(&mut [0; 16]).expect("it begins");
    served.terminate();
    idle.read_to_end(&mut Vec::new()).expect("it is closed");
    let mut rest = Vec::new();
    busy.read_to_end(&mut rest).expect("the rest");
    assert!(rest.len() >= size);
    assert_eq!(served.child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_socket_that_accepts_no_more_ends_the_program() {
    let mut served = Served::files();
    served.write("a", "x");
    assert_eq!(served.get("/a").status, 200);
    // The socket of this very file: who shuts it down, does it for all.
    let dir = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(dir.path().join("socket")).expect("listens");
    let same: OwnedFd = listener.try_clone().expect("the same").into();
    let mut child = command(listener, &["files", served.www("").to_str().expect("text")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stream = UnixStream::connect(dir.path().join("socket")).expect("connects");
    write!(stream, "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sends");
    stream.read_to_end(&mut Vec::new()).expect("it is served");
    rustix::net::shutdown(&same, rustix::net::Shutdown::Both).expect("shuts");
    assert_eq!(child.wait().expect("ends").code(), Some(1));
    assert_eq!(served.stop().code(), Some(0));
}

#[test]
fn a_missing_directory_is_made_and_a_link_that_leads_nowhere_is_told() {
    let mut served =
        Served::new(|dir| vec!["files".to_owned(), dir.join("www/new").to_str().expect("text").to_owned()]);
    assert_eq!(served.get("/").status, 404);
    served.write("new/index.html", "<p>hello</p>");
    assert_eq!(served.get("/").status, 200);
    assert_eq!(served.stop().code(), Some(0));
    symlink("nowhere", served.www("dangling")).expect("a link");
    let listener = UnixListener::bind(served.dir.path().join("other")).expect("listens");
    let output = command(listener, &["files", served.www("dangling").to_str().expect("text")]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"), "{output:?}");
}

#[test]
fn what_it_cannot_serve_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let unix =
        || OwnedFd::from(UnixListener::bind(tempfile::tempdir().expect("a folder").keep().join("s")).expect("listens"));
    let said = |output: Output| (output.status.code(), String::from_utf8(output.stderr).expect("text"));
    let missing = dir.path().join("missing/www");
    let (status, text) = said(command(unix(), &["files", missing.to_str().expect("text")]).output().expect("runs"));
    assert!(status == Some(1) && text.contains("cannot serve") && text.contains("missing"), "{text}");
    let (pair, _other) = UnixStream::pair().expect("a pair");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("listens");
    let datagrams = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    let file = fs::File::open("/dev/null").expect("opens");
    for fd in [OwnedFd::from(pair), tcp.into(), datagrams.into(), file.into()] {
        let mut child = command(fd, &["files", "/"]).stderr(Stdio::piped()).spawn().expect("runs");
        let deadline = Instant::now() + Duration::from_secs(60);
        while child.try_wait().expect("wait").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("a signal");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let (status, text) = said(child.wait_with_output().expect("ended"));
        assert!(status == Some(1) && text.contains("no listening Unix stream socket"), "{status:?}: {text}");
    }
    let alone = Command::new(env!("CARGO_BIN_EXE_bailiwick-web")).args(["files", "/"]).output().expect("runs");
    assert!(said(alone).1.contains("LISTEN_FDS"));
}

#[test]
fn the_inherited_socket_stays_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(dir.path().join("socket")).expect("listens");
    let same = listener.try_clone().expect("the same");
    let mut child = command(listener, &["files", dir.path().to_str().expect("text")]).spawn().expect("runs");
    let mut stream = UnixStream::connect(dir.path().join("socket")).expect("connects");
    write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sends");
    stream.read_to_end(&mut Vec::new()).expect("it is served");
    let flags = rustix::fs::fcntl_getfl(&same).expect("flags");
    child.kill().expect("a signal");
    child.wait().expect("ends");
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "the next program that inherits it may not expect EAGAIN");
}

/// A relay to a port where a program listens.
fn relayed() -> (Served, TcpListener) {
    let inside = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = inside.local_addr().expect("an address").to_string();
    (Served::new(|_| vec!["relay".to_owned(), address]), inside)
}

#[test]
fn a_relay_copies_both_ways_and_passes_each_end_on() {
    let (served, inside) = relayed();
    let mut outer = served.connect();
    let (mut inner, _) = inside.accept().expect("a connection");
    outer.write_all(b"to").expect("sends");
    outer.shutdown(Shutdown::Write).expect("ends");
    let mut text = String::new();
    inner.read_to_string(&mut text).expect("reads to the end");
    assert_eq!(text, "to");
    // The other direction is still open.
    let large = vec![b'x'; 3 << 20];
    let sent = large.clone();
    let sender = std::thread::spawn(move || inner.write_all(&sent));
    let mut bytes = Vec::new();
    outer.read_to_end(&mut bytes).expect("reads");
    sender.join().expect("ends").expect("all is sent");
    assert!(bytes == large);
}

#[test]
fn a_relay_waits_for_a_program_that_is_starting() {
    let (served, inside) = relayed();
    let address = inside.local_addr().expect("an address");
    drop(inside);
    let mut outer = served.connect();
    outer.write_all(b"early").expect("sends");
    std::thread::sleep(Duration::from_millis(100));
    let inside = TcpListener::bind(address).expect("listens again");
    let (mut inner, _) = inside.accept().expect("a connection");
    let mut text = [0; 5];
    inner.read_exact(&mut text).expect("reads");
    assert_eq!(&text, b"early");
}

#[test]
fn a_relay_gives_up_when_nobody_comes() {
    let (served, inside) = relayed();
    drop(inside);
    let mut outer = served.connect();
    assert_eq!(outer.read(&mut [0]).expect("it is closed"), 0);
}

#[test]
fn a_relay_that_is_stopped_finishes_what_runs() {
    let (mut served, inside) = relayed();
    let mut outer = served.connect();
    let (mut inner, _) = inside.accept().expect("a connection");
    served.terminate();
    let refuses = || {
        let mut late = served.connect();
        late.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
        let taken = inside.set_nonblocking(true).is_ok() && inside.accept().is_ok();
        late.write_all(b"x").is_ok() && !taken
    };
    until("it accepts no more", refuses);
    inner.write_all(b"last").expect("sends");
    drop(inner);
    let mut text = String::new();
    outer.shutdown(Shutdown::Write).expect("ends");
    outer.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "last");
    assert_eq!(served.child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_relay_that_is_stopped_closes_what_waits_for_nothing() {
    let (mut served, inside) = relayed();
    let mut idle = served.connect();
    let (mut inner_of_idle, _) = inside.accept().expect("a connection");
    let mut busy = served.connect();
    let (mut inner_of_busy, _) = inside.accept().expect("a connection");
    for (outer, inner) in [(&mut idle, &mut inner_of_idle), (&mut busy, &mut inner_of_busy)] {
        outer.write_all(b"ask").expect("sends");
        inner.read_exact(&mut [0; 3]).expect("reads");
    }
    inner_of_idle.write_all(b"answer").expect("sends");
    idle.read_exact(&mut [0; 6]).expect("reads");
    served.terminate();
    assert_eq!(idle.read(&mut [0]).expect("it is closed"), 0);
    // The other one still waits for its answer.
    inner_of_busy.write_all(b"answer").expect("sends");
    let mut text = String::new();
    busy.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "answer");
    assert_eq!(served.child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_connection_that_was_accepted_before_a_stop_is_answered_after_it() {
    let mut served = Served::files();
    served.write("a", "x");
    // No body, so no thread that reads.
    assert_eq!(served.ask("HEAD /a HTTP/1.1").status, 200);
    let open = |served: &Served| fs::read_dir(format!("/proc/{}/fd", served.child.id())).expect("descriptors").count();
    until("the first connection is closed", || {
        let before = open(&served);
        std::thread::sleep(Duration::from_millis(20));
        before == open(&served)
    });
    let before = open(&served);
    let mut early = served.connect();
    until("it is accepted", || open(&served) > before);
    served.terminate();
    // The pipe that ends the thread, and the thread itself, are gone: nothing is accepted any more.
    until("it stops", || fs::read_dir(format!("/proc/{}/task", served.child.id())).expect("threads").count() == 1);
    write!(early, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n").expect("sends");
    let mut bytes = Vec::new();
    early.read_to_end(&mut bytes).expect("reads");
    assert_eq!(Answer::read(&bytes).text(), "x");
    assert_eq!(served.child.wait().expect("ends").code(), Some(0));
}
