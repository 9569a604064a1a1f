//! Many clients at once, and clients that send nothing: others are served all the same, and operators first.

use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::warden::MOST_COMPARED;
use bailiwick_proto::{ControlReply, ControlRequest, Decoder, WardenReply, WardenRequest, encode, time_limits};
use bailiwick_sys::socket::connect_at_once;
use bailiwick_tests::{Host, name, profiles, until};
use bailiwick_types::{Door, ExitStatus, Moment, SessionId, SessionRecord};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Gid, Pid, Signal, Uid, kill_process};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

const CONTROL: &str = "run/control/bailiwick.sock";

fn host() -> Host {
    let mut host = Host::new();
    for tenant in ["one", "two"] {
        let text = "plan = \"web\"\ndoors = [\"exec\", \"ssh\"]\n";
        host.write(&format!("etc/tenants.d/{tenant}.toml"), text);
    }
    host.start();
    host.ok(&["apply"]);
    host
}

/// Connects as another user. Only this thread changes its user, and only during the call.
fn connect_as(host: &Host, uid: u32) -> UnixStream {
    connect_to(&host.path(CONTROL), uid)
}

/// The same to any socket.
fn connect_to(socket: &Path, uid: u32) -> UnixStream {
    let root = Uid::ROOT;
    rustix::thread::set_thread_groups(&[]).expect("no groups");
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::from_raw(uid), Gid::ROOT).expect("another group");
    rustix::thread::set_thread_res_uid(root, Uid::from_raw(uid), root).expect("another user");
    let mut found = None;
    until("room in the queue", || {
        found = connect_at_once(socket).ok();
        found.is_some()
    });
    rustix::thread::set_thread_res_uid(root, root, root).expect("root again");
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).expect("its group again");
    found.map(UnixStream::from).expect("was found")
}

/// Sends a request of 200 KiB except for its end, as far as the peer accepts it.
fn begin(stream: &mut UnixStream) {
    let mut part = vec![b' '; 190 << 10];
    part[..4].copy_from_slice(&(200_u32 << 10).to_le_bytes());
    stream.set_nonblocking(true).expect("never blocks");
    // A refused connection accepts nothing.
    drop(stream.write(&part));
}

/// The memory of a process in MiB and its number of connections. Other descriptors are not counted, because the
/// recorder opens some for each tenant at its first measurement.
fn memory_and_sockets(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let memory: u64 = memory.trim().trim_end_matches(" kB").parse().expect("a number");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let is_socket =
        |path: PathBuf| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    (memory >> 10, open.filter(|entry| is_socket(entry.path())).count())
}

/// The id of a tenant's host user.
fn host_user(host: &Host, tenant: &str) -> u32 {
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    u32::try_from(shown["host_user"].as_u64().expect("an id")).expect("an id")
}

/// Sends a request over a connection and reads the reply.
fn answer(mut stream: UnixStream, request: &ControlRequest) -> ControlReply {
    stream.set_nonblocking(false).expect("blocks");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
    // A refused connection may already be closed.
    stream.write_all(&encode(request, MAX_REQUEST).expect("small")).ok();
    let mut decoder = Decoder::new(MAX_REPLY);
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer).expect("an answer");
        assert_ne!(len, 0, "the end without an answer");
        decoder.push(&buffer[..len]);
        if let Some(reply) = decoder.next().expect("the protocol") {
            return reply;
        }
    }
}

fn is_over(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).expect("polls");
    fds[0].revents().contains(PollFlags::HUP)
}

#[test]
fn unprivileged_users_hold_few_connections_and_little_memory_whatever_ids_they_use() {
    let host = host();
    let daemon = host.program("bailiwickd");
    let (memory, sockets) = memory_and_sockets(daemon);
    // The ids of this host's tenants are far above these.
    let mut all = Vec::new();
    for number in 0..3000 {
        let mut stream = connect_as(&host, 300_000 + number % 500);
        begin(&mut stream);
        all.push(stream);
    }
    host.ok(&["list"]);
    assert_eq!(host.inside("one", "echo in").1, "in\n");
    let (memory_now, sockets_now) = memory_and_sockets(daemon);
    assert!(memory_now < memory + 48, "{memory} MiB became {memory_now} MiB");
    assert!(sockets_now < sockets + 128, "{sockets} sockets became {sockets_now}");
    // The user of a tenant is not one of these.
    let own = ControlRequest::Usage { tenants: vec![name("two")], window: None };
    let reply = answer(connect_as(&host, host_user(&host, "two")), &own);
    assert!(!matches!(&reply, ControlReply::Failed(failure) if failure.status == ExitStatus::OverLimit), "{reply:?}");
    until("the unfinished requests to be dropped", || memory_and_sockets(daemon).1 < sockets + 16);
}

#[test]
fn users_of_one_tenant_take_no_share_of_another() {
    let host = host();
    let daemon = host.program("bailiwickd");
    let (one, two) = (host_user(&host, "one"), host_user(&host, "two"));
    let (memory, sockets) = memory_and_sockets(daemon);
    let mut all = Vec::new();
    for _ in 0..2000 {
        let mut stream = connect_as(&host, one);
        begin(&mut stream);
        all.push(stream);
    }
    host.ok(&["list"]);
    let (memory_now, sockets_now) = memory_and_sockets(daemon);
    assert!(memory_now < memory + 48, "{memory} MiB became {memory_now} MiB");
    assert!(sockets_now < sockets + 256, "{sockets} sockets became {sockets_now}");
    let own = |tenant| ControlRequest::Usage { tenants: vec![name(tenant)], window: None };
    let reply = answer(connect_as(&host, two), &own("two"));
    assert!(!matches!(&reply, ControlReply::Failed(failure) if failure.status == ExitStatus::OverLimit), "{reply:?}");
    drop(all);
    until("free places again", || {
        let reply = answer(connect_as(&host, one), &own("one"));
        !matches!(&reply, ControlReply::Failed(failure) if failure.status == ExitStatus::OverLimit)
    });
}

#[test]
fn a_request_that_comes_byte_by_byte_is_not_waited_for() {
    let host = host();
    for uid in [0, host_user(&host, "one"), 300_000] {
        let mut stream = connect_as(&host, uid);
        stream.write_all(&(200_u32 << 10).to_le_bytes()).expect("writes");
        // Less than the size of the request.
        let mut left = 100 << 10;
        until("the end of a request that does not end", || {
            left -= 1;
            assert!(left > 0, "there was time for all of it");
            stream.write(b" ").is_err() || is_over(&stream)
        });
    }
}

#[test]
fn claims_of_a_client_about_an_earlier_session_are_not_trusted() {
    let host = host();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    let before = now();
    let record = |user: &str, since: u64| SessionRecord {
        id: SessionId(7),
        tenant: name("one"),
        door: Door::Exec,
        user: user.to_owned(),
        source: Some("10.0.0.1".to_owned()),
        key: Some("forged".to_owned()),
        command: Some("x\u{1b}[2J".to_owned()),
        since: Moment(since),
        uid: 12345,
        pid: 1,
    };
    for user in ["nobody of one", "root\nforged", ""] {
        let reply = answer(connect_as(&host, 0), &ControlRequest::Resume(Box::new(record(user, before))));
        assert!(matches!(reply, ControlReply::Failed(_)), "{user:?}: {reply:?}");
    }
    for since in [0, u64::MAX] {
        let mut stream = connect_as(&host, 0);
        stream.set_nonblocking(false).expect("blocks");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        let request = ControlRequest::Resume(Box::new(record("33", since)));
        stream.write_all(&encode(&request, MAX_REQUEST).expect("small")).expect("writes");
        let mut known = serde_json::Value::Null;
        until("the session", || {
            known = serde_json::from_str(&host.ok(&["sessions", "--json"])).expect("JSON");
            known[0]["user"] == "33"
        });
        let session = &known[0];
        // Not older than this process, and not zero.
        let since = session["since"].as_u64().expect("a time");
        assert!(since + 3600 > before && since <= now(), "{session}");
        assert_eq!((&session["uid"], &session["pid"]), (&0.into(), &std::process::id().into()), "{session}");
        assert!(session["source"].is_null() && session["key"].is_null(), "{session}");
        assert!(!session["command"].as_str().expect("text").contains('\u{1b}'), "{session}");
        drop(stream);
        until("its end", || host.ok(&["sessions", "--json"]).trim() == "[]");
    }
}

#[test]
fn a_removed_socket_is_created_again() {
    let host = host();
    for socket in [CONTROL, "run/warden.sock"] {
        std::fs::remove_file(host.path(socket)).expect("removes");
        until("the socket", || UnixStream::connect(host.path(socket)).is_ok());
        host.ok(&["list"]);
        host.ask(&WardenRequest::Roster).expect("the warden answers");
    }
    assert_eq!(host.log().matches("socket-made-again").count(), 2, "{}", host.log());
}

/// Sends a signal to a program that the supervisor has started.
fn signal(host: &Host, program: &str, signal: &str) -> u32 {
    let pid = host.program(program);
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill").success());
    pid
}

/// A running command without a terminal.
struct Waiting {
    child: Child,
    told: BufReader<ChildStderr>,
}

impl Waiting {
    fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs");
        let told = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { child, told }
    }

    /// Its first line of output. The command is still running then.
    fn first(&mut self) -> String {
        let mut line = String::new();
        self.told.read_line(&mut line).expect("reads");
        assert!(self.child.try_wait().expect("waits").is_none(), "it has ended: {line}");
        line
    }

    /// The rest of its output, and its exit status.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.told.read_to_string(&mut rest).expect("reads");
        (self.child.wait().expect("waits").code(), rest)
    }
}

const WAITING: &str = "bailiwick: waiting for bailiwickd; \"systemctl status bailiwickd bailiwick-warden\" says how bailiwickd and \
                       the warden are\n";

#[test]
fn a_silent_daemon_is_reported_while_waiting_and_replaced_even_without_systemd() {
    let host = host();
    let pid = signal(&host, "bailiwickd", "-STOP");
    let exec = host.command(&["exec", "one", "--", "true"]);
    let mut large = host.command(&["exec", "one"]);
    // More than an unread socket buffers, in arguments that the kernel accepts.
    large.args(["--", "true"]).args([&"x".repeat(120 << 10), &"y".repeat(120 << 10)]);
    let mut all = vec![(host.command(&["list"]), 1), (exec, 125), (large, 125)];
    let mut all: Vec<_> = all.drain(..).map(|(command, status)| (Waiting::new(command), status)).collect();
    let says_so = |waiting: &mut Waiting| {
        assert_eq!(waiting.first().replace(" and init of the jail;", ";"), WAITING);
    };
    // Whoever has said this is connected, so none of them has to wait for a place in the queue.
    all.iter_mut().for_each(|(waiting, _)| says_so(waiting));
    // The same with a full queue of connections.
    let mut queue = Vec::new();
    while let Ok(connection) = connect_at_once(&host.path(CONTROL)) {
        queue.push(connection);
    }
    let mut late = Waiting::new(host.command(&["status"]));
    says_so(&mut late);
    all.push((late, 1));
    // Waiting clients get an error, later ones a reply.
    for (waiting, status) in all {
        let (ended, rest) = waiting.end();
        assert_eq!(ended, Some(status), "{rest}");
        assert!(!rest.contains("waiting") && rest.starts_with("bailiwick: bailiwickd "), "{rest}");
    }
    until("an answer", || host.cli(&["list"]).status.success());
    assert_ne!(host.program("bailiwickd"), pid);
    assert!(host.log().contains("answers nobody"), "{}", host.log());
}

#[test]
fn a_silent_warden_is_reported_while_waiting() {
    let host = host();
    signal(&host, "bailiwick-warden", "-STOP");
    let mut all = [&["list"][..], &["restart", "one"], &["show", "two"]].map(|line| Waiting::new(host.command(line)));
    for waiting in &mut all {
        assert_eq!(waiting.first(), WAITING);
    }
    signal(&host, "bailiwick-warden", "-CONT");
    for waiting in all {
        assert_eq!(waiting.end(), (Some(0), String::new()));
    }
}

#[test]
fn a_status_without_a_warden_ends_and_fails() {
    let host = host();
    signal(&host, "bailiwick-warden", "-STOP");
    let output = host.cli(&["status"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The process stays stopped until the test continues it.
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["warden      does not answer", "tenants     not known", "bailiwick-warden has not answered for"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    signal(&host, "bailiwick-warden", "-CONT");
    until("an unchanged status", || host.cli(&["status"]).status.success());
}

#[test]
fn a_peer_of_the_warden_that_does_not_read_delays_nobody() {
    let mut host = Host::new();
    for tenant in profiles() {
        host.declare(tenant, tenant);
    }
    host.start_warden();
    let mut silent = UnixStream::connect(host.path("run/warden.sock")).expect("connects");
    silent.set_nonblocking(true).expect("never blocks");
    let frame = encode(&WardenRequest::Roster, MAX_REQUEST).expect("small");
    // Sends until the warden stops reading, because its replies are not read. Others are served meanwhile.
    let mut sent = 0;
    let mut is_full = |silent: &mut UnixStream| match silent.write(&frame[sent..]) {
        Ok(len) => {
            sent = (sent + len) % frame.len();
            false
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Err(error) => panic!("{error}"),
    };
    until("the warden to have enough", || {
        while !is_full(&mut silent) {}
        // The warden has handled both connections meanwhile.
        host.ask(&WardenRequest::Roster).is_ok() && is_full(&mut silent)
    });
    until("the peer that does not read to be dropped", || is_over(&silent));
    assert!(host.log().contains("event=peer-dropped uid=0"), "{}", host.log());
    host.warden(&WardenRequest::Roster);
}

#[test]
fn a_request_of_root_waits_for_at_most_one_of_the_daemons_requests() {
    /// The daemon's user, as [`Host`] configures it.
    const DAEMON: u32 = 64_999;
    let mut host = Host::new();
    host.start_warden();
    let socket = host.path("run/warden.sock");
    // The most expensive request, from many connections, several times from each.
    let names = (0..MOST_COMPARED).map(|number| name(&format!("t{number}"))).collect();
    let frame = encode(&WardenRequest::InForce { tenants: names }, MAX_REQUEST).expect("small").repeat(2);
    let pid = Pid::from_raw(host.pid().cast_signed()).expect("a process");
    kill_process(pid, Signal::STOP).expect("stops");
    let mut crowd: Vec<UnixStream> = Vec::new();
    for _ in 0..100 {
        let mut stream = connect_to(&socket, DAEMON);
        stream.set_nonblocking(true).expect("never blocks");
        stream.write_all(&frame).expect("there is room");
        crowd.push(stream);
    }
    let mut root = connect_to(&socket, 0);
    root.set_nonblocking(false).expect("blocks");
    root.write_all(&encode(&WardenRequest::Hello, MAX_REQUEST).expect("small")).expect("there is room");
    kill_process(pid, Signal::CONT).expect("continues");
    root.read_exact(&mut [0]).expect("an answer");
    let mut fds: Vec<_> = crowd.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
    let answered = rustix::event::poll(&mut fds, Some(&rustix::time::Timespec::default())).expect("looks");
    // One or two, but fewer if the test is delayed while the next fifty are answered.
    assert!(answered < 50, "{answered} were answered before root");
}

#[test]
fn the_warden_accepts_a_name_only_once_in_a_request() {
    let mut host = host();
    let twice = || vec![name("one"), name("two"), name("one")];
    for request in [
        WardenRequest::Observe { tenants: twice() },
        WardenRequest::InForce { tenants: twice() },
        WardenRequest::Keep { tenants: twice() },
    ] {
        let WardenReply::Failed(failure) = host.ask(&request).expect("an answer") else { panic!("{request:?}") };
        assert_eq!(failure.message, "one request names \"one\" twice", "{request:?}");
    }
    // An operator may repeat a name.
    for line in [&["plan", "one", "one"][..], &["audit", "one", "two", "one"], &["apply", "one", "one"]] {
        host.ok(line);
    }
    host.end();
}

#[test]
fn without_descriptors_new_connections_are_closed_and_the_service_continues() {
    /// Enough for both programs to start, but fewer than the connections to the warden that one user may have in
    /// addition.
    const DESCRIPTORS: u32 = 44;
    let mut host = Host::new();
    host.start_with_descriptors(DESCRIPTORS);
    host.ok(&["list"]);
    for (program, socket) in [("bailiwickd", CONTROL), ("bailiwick-warden", "run/warden.sock")] {
        let pid = host.program(program);
        let all: Vec<_> = (0..DESCRIPTORS).map(|_| UnixStream::connect(host.path(socket)).expect("connects")).collect();
        // Some of them: how many descriptors a program uses itself changes from one moment to the next.
        until("a connection to be refused", || all.iter().any(is_over));
        if program == "bailiwickd" {
            // Those that hold the descriptors end when others come. Otherwise root's may be silent for a minute.
            let begun = Instant::now();
            until("an answer beside silent connections", || host.cli(&["list"]).status.success());
            assert!(begun.elapsed() < time_limits::IDLE / 2, "{:?}", begun.elapsed());
        }
        drop(all);
        until("an answer", || host.cli(&["list"]).status.success());
        assert_eq!(host.program(program), pid, "{program} has ended:\n{}", host.log());
    }
}
