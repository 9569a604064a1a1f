//! The real server with a program in place of the host's `sendmail`, and the client.

use bailiwick_mail::request::Refusal;
use bailiwick_mail::{client, status};
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A server, and a folder with its socket and what its `sendmail` has got.
struct Served {
    dir: tempfile::TempDir,
    child: Child,
    /// As the warden has it.
    listener: UnixListener,
    /// More arguments of the server.
    more: Vec<&'static str>,
}

impl Served {
    /// `script` is the host's sendmail, whose folder is `$DIR`.
    fn new(script: &str, per_hour: u32) -> Self {
        Self::with(script, per_hour, &[])
    }

    fn with(script: &str, per_hour: u32, more: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let command = dir.path().join("sendmail");
        fs::write(&command, format!("#!/bin/sh\nDIR={}\n{script}\n", dir.path().display())).expect("writes");
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::write(dir.path().join("rate"), "").expect("writes");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("listens");
        let mut served =
            Self { child: Command::new("true").spawn().expect("runs"), dir, listener, more: more.to_vec() };
        served.start(per_hour);
        served
    }

    fn start(&mut self, per_hour: u32) {
        self.child.wait().expect("ends");
        self.child = self.serve(per_hour);
    }

    /// One more server.
    fn serve(&self, per_hour: u32) -> Child {
        let listener = self.listener.try_clone().expect("a descriptor");
        let mut command = Command::new("sh");
        let line = format!("exec \"$0\" \"$@\" 3<&0 4<>{} < /dev/null", self.path("rate").display());
        command.args(["-c", &line, env!("CARGO_BIN_EXE_bailiwick-mail"), "serve"]);
        command.arg(self.path("sendmail")).args(["alice@host.example", &per_hour.to_string(), "3", "100000"]);
        command.args(&self.more);
        command.stdin(Stdio::from(OwnedFd::from(listener))).spawn().expect("runs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn send(&self, arguments: &[&str], message: &str) -> Result<(), Refusal> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        client::run(&arguments, message.as_bytes(), &self.path("socket"))
    }
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const RECORDS: &str = "printf '%s\\n' \"$@\" > $DIR/arguments; env > $DIR/environment; cat > $DIR/message";

#[test]
fn a_message_reaches_the_hosts_sendmail_with_the_tenant_as_sender() {
    let served = Served::new(RECORDS, 10);
    let message = "To: a@b.org\nBcc: c@d.org\nSubject: x\n\nhello\n.\nmore\n";
    assert_eq!(served.send(&["-t", "-i", "-f", "root@elsewhere.org"], message), Ok(()));
    assert_eq!(served.text("arguments"), "-i\n-f\nalice@host.example\n--\na@b.org\nc@d.org\n");
    assert_eq!(served.text("message"), "To: a@b.org\nSubject: x\n\nhello\n.\nmore\n");
    let environment = served.text("environment");
    assert!(
        environment.lines().all(|line| ["PATH=", "PWD=/", "SHLVL=", "_="].iter().any(|name| line.starts_with(name))),
        "{environment}"
    );
}

#[test]
fn what_is_not_a_recipient_never_reaches_it() {
    let served = Served::new(RECORDS, 100);
    for recipient in ["-oQ/tmp@x", "|sh@x.org", "/etc/passwd", "root", "a@b\nc@d", "\"x y\"@z.org"] {
        let refusal = served.send(&["--", recipient], "text").expect_err("refused");
        assert_eq!(refusal.status, status::DATA, "{recipient}: {refusal:?}");
    }
    assert_eq!(served.send(&["a@b", "b@b", "c@b", "d@b"], "x").expect_err("refused").status, status::DATA);
    let large = "x".repeat(100_001);
    let refusal = served.send(&["a@b.org"], &large).expect_err("refused");
    assert!(refusal.status == status::UNAVAILABLE && refusal.why.contains("100000 bytes"), "{refusal:?}");
    assert!(!served.path("arguments").exists());
    // None of these took a place, and the server goes on.
    assert_eq!(served.send(&["a@b.org"], &large[1..]), Ok(()));
}

#[test]
fn the_rate_holds_over_a_new_server() {
    let mut served = Served::new(RECORDS, 3);
    for _ in 0..3 {
        assert_eq!(served.send(&["a@b.org"], "x"), Ok(()));
    }
    let full = |refusal: Refusal| {
        assert!(refusal.status == status::TEMPORARY && refusal.why.contains("try again in 60 min"), "{refusal:?}");
    };
    full(served.send(&["a@b.org"], "x").expect_err("full"));
    served.child.kill().expect("kills");
    served.start(3);
    full(served.send(&["a@b.org"], "x").expect_err("still full"));
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_it_has_and_the_next_one_takes_the_rest() {
    let script = "case \"$*\" in *slow*) : > $DIR/waits; until [ -e $DIR/go ]; do sleep 0.02; done ;; esac\n\
        grep SigBlk /proc/self/status > $DIR/mask; echo \"$5\" >> $DIR/got";
    let mut served = Served::new(script, 10);
    let mut half = UnixStream::connect(served.path("socket")).expect("connects");
    half.write_all(b"6\nhalf@b.org\n\nhel").expect("writes");
    let next = thread::scope(|scope| {
        let slow = scope.spawn(|| served.send(&["slow@b.org"], "x"));
        until("one is with the host's sendmail", || served.path("waits").exists());
        assert!(Command::new("kill").arg(served.child.id().to_string()).status().expect("kill").success());
        // Nobody takes this one until there is a new server.
        let waits = scope.spawn(|| served.send(&["next@b.org"], "x"));
        half.write_all(b"lo\n").expect("writes");
        let mut reply = String::new();
        half.read_to_string(&mut reply).expect("a reply");
        assert_eq!((reply.as_str(), served.text("got").as_str()), ("0\n", "half@b.org\n"));
        let next = served.serve(10);
        assert_eq!(waits.join().expect("ends"), Ok(()));
        fs::write(served.path("go"), "").expect("writes");
        assert_eq!(slow.join().expect("ends"), Ok(()));
        next
    });
    let mut old = std::mem::replace(&mut served.child, next);
    assert!(old.wait().expect("ends").success());
    assert_eq!(served.text("got"), "half@b.org\nnext@b.org\nslow@b.org\n", "each of them once");
    assert_eq!(served.text("mask"), "SigBlk:\t0000000000000000\n");
}

#[test]
fn what_the_hosts_sendmail_says_reaches_the_sender() {
    let served = Served::new("echo no such user >&2; exit 67", 10);
    let refusal = served.send(&["a@b.org"], "x").expect_err("refused");
    assert_eq!((refusal.status, refusal.why.as_str()), (67, "the host's sendmail refused it: no such user"));
    let served = Served::new("kill -9 $$", 10);
    assert_eq!(served.send(&["a@b.org"], "x").expect_err("ended").status, status::TEMPORARY);
    let served = Served::new("", 10);
    fs::remove_file(served.path("sendmail")).expect("removes");
    let refusal = served.send(&["a@b.org"], "x").expect_err("missing");
    assert!(refusal.status == status::OS && refusal.why.contains("cannot be started"), "{refusal:?}");
}

#[test]
fn a_program_that_hangs_has_its_time_and_harms_nobody_else() {
    let hangs = "case \"$*\" in *hang@*) echo $$ > $DIR/hangs; echo it waits >&2; sleep 1000 & wait ;; esac";
    let served = Served::with(hangs, 10, &["2"]);
    let begun = Instant::now();
    thread::scope(|scope| {
        let hanging = scope.spawn(|| served.send(&["hang@b.org"], "x"));
        until("it hangs", || served.text("hangs").ends_with('\n'));
        assert_eq!(served.send(&["a@b.org"], "x"), Ok(()), "others get through");
        let refusal = hanging.join().expect("ends").expect_err("its time is over");
        let why = "the host's sendmail took more than 2 s: it waits";
        assert_eq!((refusal.status, refusal.why.as_str()), (status::TEMPORARY, why));
    });
    assert!(begun.elapsed() >= Duration::from_secs(2), "it had its time");
    let group = format!("-{}", served.text("hangs").trim());
    let is_left =
        || Command::new("kill").args(["-0", "--", &group]).stderr(Stdio::null()).status().expect("kill").success();
    until("nothing of it is left", || !is_left());
}

#[test]
fn a_program_that_leaves_children_or_floods_holds_nobody() {
    let served = Served::new("sleep 1000 & head -c 1000000 /dev/zero | tr '\\0' x >&2; echo $! > $DIR/left", 10);
    assert_eq!(served.send(&["a@b.org"], "x"), Ok(()));
    let left = served.text("left");
    assert!(Command::new("kill").arg(left.trim()).status().expect("kill").success(), "it goes on by itself");
}

#[test]
fn clients_that_send_nothing_or_go_away_hold_nobody_for_long() {
    let served = Served::new(RECORDS, 10);
    for text in [b"".as_slice(), b"9\na@b.org\n", b"9\na@b.org\n\nhalf", &[b'x'; 5000], b"\0\0\0\0"] {
        let mut stream = UnixStream::connect(served.path("socket")).expect("connects");
        // The server may have refused it already.
        stream.write_all(text).ok();
    }
    // One that keeps silent has one place of four.
    let mut silent = UnixStream::connect(served.path("socket")).expect("connects");
    assert_eq!(served.send(&["a@b.org"], "whole"), Ok(()));
    assert_eq!(served.text("message"), "whole");
    silent.shutdown(std::net::Shutdown::Write).expect("shuts");
    let mut reply = String::new();
    silent.read_to_string(&mut reply).expect("a reply");
    assert!(reply.starts_with("65 the list of recipients has no end"), "{reply}");
}

#[test]
fn a_thousand_messages_at_once_are_taken_or_told() {
    let served = Served::new("cat > /dev/null; echo >> $DIR/count", 500);
    let some = || (0..50).map(|_| served.send(&["a@b.org"], "x")).collect::<Vec<_>>();
    let all: Vec<Result<(), Refusal>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("ends")).collect()
    });
    let sent = all.iter().filter(|result| result.is_ok()).count();
    let told = all.iter().filter(|result| matches!(result, Err(refusal) if refusal.why.contains("in an hour"))).count();
    assert_eq!((sent, told, served.text("count").len()), (500, 500, 500));
}
