//! The program itself, behind its filter: with a listening socket and a server that this test plays.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const FEW: usize = 4;

struct Lent {
    child: Child,
    dir: tempfile::TempDir,
}

impl Lent {
    /// `host.sock` is the host's, `lent.sock` is what the tenant sees.
    fn new() -> (Self, UnixListener) {
        let dir = tempfile::tempdir().expect("a directory");
        let host = UnixListener::bind(dir.path().join("host.sock")).expect("binds");
        let lent = UnixListener::bind(dir.path().join("lent.sock")).expect("binds");
        let counts = std::fs::File::create_new(dir.path().join("counts")).expect("makes");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bailiwick-lend"));
        command.args(["db", "host.sock", &FEW.to_string()]).current_dir(dir.path());
        bailiwick_sys::process::inherit(&mut command, &[lent.as_fd(), counts.as_fd()]).expect("hands on");
        let child = command.spawn().expect("runs");
        (Self { child, dir }, host)
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("lent.sock")
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).expect("connects")
    }

    fn counts(&self) -> [u64; 2] {
        let bytes = std::fs::read(self.dir.path().join("counts")).expect("reads");
        let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        [number(0), number(8)]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn status(pid: u32) -> String {
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("reads")
}

#[test]
fn bytes_go_both_ways_and_no_connection_waits_for_another() {
    let (lent, host) = Lent::new();
    let (mut idle, mut client) = (lent.connect(), lent.connect());
    let (mut idle_host, _) = host.accept().expect("accepts");
    let (mut of_client, _) = host.accept().expect("accepts");
    // Nobody reads what the first one sends, until it blocks.
    idle.set_nonblocking(true).expect("sets");
    while idle.write(&[1; 4096]).is_ok() {}
    for round in 0..100_u32 {
        let text = vec![u8::try_from(round).expect("small"); 100_000];
        let echo = std::thread::scope(|scope| {
            scope.spawn(|| client.try_clone().expect("clones").write_all(&text).expect("writes"));
            let mut got = vec![0; text.len()];
            of_client.read_exact(&mut got).expect("reads");
            got
        });
        assert_eq!(echo, text);
        of_client.write_all(b"ok").expect("writes");
        let mut answer = [0; 2];
        client.read_exact(&mut answer).expect("reads");
    }
    assert_eq!(lent.counts(), [2, 0]);
    drop((idle, client, of_client));
    let mut rest = Vec::new();
    idle_host.read_to_end(&mut rest).expect("ends");
    drop(idle_host);
    until("both are over", || lent.counts() == [0, 0]);
}

#[test]
fn too_many_are_closed_at_once_and_counted() {
    let (lent, host) = Lent::new();
    let held: Vec<_> = (0..FEW).map(|_| (lent.connect(), host.accept().expect("accepts"))).collect();
    for number in 1..=100 {
        let mut one_more = lent.connect();
        assert_eq!(one_more.read(&mut [0]).expect("an end"), 0);
        until("it is counted", || lent.counts() == [FEW as u64, number]);
    }
    drop(held);
    until("all are over", || lent.counts() == [0, 100]);
    let mut again = lent.connect();
    host.accept().expect("accepts").0.write_all(b"x").expect("writes");
    again.read_exact(&mut [0]).expect("it is served");
}

#[test]
fn a_restarted_server_is_found_and_without_its_file_everybody_is_refused() {
    let (mut lent, host) = Lent::new();
    drop(host);
    // Its file is there, and nobody listens.
    assert_eq!(lent.connect().read(&mut [0]).expect("an end"), 0);
    let file = lent.dir.path().join("host.sock");
    std::fs::remove_file(&file).expect("removes");
    let host = UnixListener::bind(&file).expect("binds");
    let mut client = lent.connect();
    let (mut served, _) = host.accept().expect("accepts");
    served.write_all(b"x").expect("writes");
    client.read_exact(&mut [0]).expect("it is served");
    std::fs::remove_file(&file).expect("removes");
    let mut turned_away = lent.connect();
    assert!(!matches!(turned_away.read(&mut [0]), Ok(1..)));
    served.write_all(b"y").expect("an open connection goes on");
    client.read_exact(&mut [0]).expect("it goes on");
    // It keeps nobody from a server that is started again.
    let host = UnixListener::bind(&file).expect("binds");
    let mut second = lent.connect();
    host.accept().expect("accepts").0.write_all(b"x").expect("writes");
    second.read_exact(&mut [0]).expect("it is served");
    std::fs::remove_file(&file).expect("removes");
    drop((client, served, second));
    until("without any it ends", || {
        UnixStream::connect(lent.path()).is_err() && lent.child.try_wait().expect("waits").is_some()
    });
    assert!(lent.child.wait().expect("ends").success());
}

#[test]
fn a_full_queue_of_the_host_is_waited_for() {
    let (lent, host) = Lent::new();
    rustix::net::listen(&host, 0).expect("listens");
    let mut clients: Vec<_> = (0..FEW).map(|_| lent.connect()).collect();
    for _ in 0..FEW {
        host.accept().expect("accepts").0.write_all(b"x").expect("writes");
    }
    for client in &mut clients {
        client.read_exact(&mut [0]).expect("each is served");
    }
}

#[test]
fn it_is_behind_a_filter_and_cannot_be_traced() {
    let (lent, _host) = Lent::new();
    until("it is confined", || status(lent.child.id()).contains("\nSeccomp:\t2\n"));
    let status = status(lent.child.id());
    assert!(status.contains("\nNoNewPrivs:\t1\n") && status.contains("\nThreads:\t1\n"), "{status}");
}
