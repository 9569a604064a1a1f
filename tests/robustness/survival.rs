//! Both daemons are killed again and again, and no jail, session or open pipe is affected.

use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{CONTROL_SOCKET, ControlReply, ControlRequest, Decoder, Hold, WardenRequest, encode};
use bailiwick_tests::{Host, name, profiles, stage, until};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the warden waits for a jail to end by itself.
const STOP_TIME: Duration = Duration::from_secs(3);

fn host() -> Host {
    let mut host = Host::new();
    for tenant in profiles() {
        host.declare(tenant, tenant);
    }
    host.start();
    host.ok(&["apply"]);
    host
}

/// Kills a program that the supervisor has started. Returns its process id.
fn kill(host: &Host, name: &str) -> u32 {
    let pid = host.program(name);
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
    pid
}

/// The init of each jail, once the service answers again.
fn inits(host: &Host) -> BTreeMap<&'static str, u64> {
    let ask = |tenant| {
        let output = host.cli(&["show", tenant, "--json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()?["pid"].as_u64()
    };
    let mut found = BTreeMap::new();
    until("the init of each jail", || {
        found = profiles().into_iter().filter_map(|tenant| Some((tenant, ask(tenant)?))).collect();
        found.len() == profiles().len()
    });
    found
}

/// A session that echoes each line.
struct Echo {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Echo {
    fn open(host: &Host, tenant: &str) -> Self {
        let mut child = Command::new(stage().join("bailiwick"))
            .args(["exec", "--config"])
            .arg(host.path("etc"))
            .args([tenant, "--", "/bin/sh", "-c", "while read line; do echo $line; done; exit 42"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child, to, from: BufReader::new(from) }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("the session reads");
        let mut answer = String::new();
        self.from.read_line(&mut answer).expect("the session answers");
        assert_eq!(answer.trim(), line);
    }

    fn end(mut self) {
        drop(self.to);
        assert_eq!(self.child.wait().expect("ends").code(), Some(42), "the exit status still arrives");
    }
}

fn survives(name: &str) {
    let host = host();
    let before = inits(&host);
    let mut sessions: Vec<Echo> = profiles().into_iter().map(|tenant| Echo::open(&host, tenant)).collect();
    for session in &mut sessions {
        session.say("before");
    }
    // The supervisor gives up on a program that exits ten times in a row immediately after its start.
    for round in 0..8 {
        kill(&host, name);
        for session in &mut sessions {
            session.say(&format!("round {round}"));
        }
        assert_eq!(inits(&host), before, "round {round}");
    }
    // New sessions start, old ones end normally, and there is no drift.
    for tenant in profiles() {
        assert_eq!(host.inside(tenant, "echo new").1.trim(), "new");
    }
    for session in sessions {
        session.end();
    }
    host.ok(&["audit"]);
    assert_eq!(host.cli(&["plan"]).status.code(), Some(0));
}

#[test]
fn a_jail_that_is_ended_right_after_its_start_ends_by_itself() {
    // A signal that PID 1 neither blocks nor handles yet is lost. Then only the time limit of seconds would end the
    // jail.
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start_warden();
    for round in 0..20 {
        host.warden(&WardenRequest::Start { tenant: name("alice") });
        let begin = Instant::now();
        host.warden(&WardenRequest::Stop { tenant: name("alice"), hold: Hold::Keep });
        assert!(begin.elapsed() < STOP_TIME, "round {round} took {:?}", begin.elapsed());
    }
}

#[test]
fn a_changed_memory_limit_restarts_no_jail() {
    let host = host();
    let before = inits(&host);
    let mut sessions: Vec<Echo> = profiles().into_iter().map(|tenant| Echo::open(&host, tenant)).collect();
    sessions.iter_mut().for_each(|session| session.say("before"));
    let sizes = |tenant| {
        let (status, out, err) = host.inside(tenant, "df -k --output=size /tmp /dev/shm | tail -n 2 | xargs");
        assert_eq!(status, 0, "{err}");
        out.trim().to_owned()
    };
    // /tmp and /dev/shm are half and a quarter of the memory: first smaller, then larger.
    for (memory, golden) in [("64M", "32768 16384"), ("192M", "98304 49152")] {
        for tenant in profiles() {
            let plan = format!("profile = \"{tenant}\"\n[limits]\nmemory = \"{memory}\"\ntasks = 64\n");
            host.write(&format!("etc/plans.d/{tenant}.toml"), &plan);
        }
        let output = host.cli(&["plan"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(10) && !text.contains("restart"), "{text}");
        host.ok(&["apply"]);
        for tenant in profiles() {
            assert_eq!(sizes(tenant), golden, "{tenant}");
        }
        assert_eq!(host.cli(&["plan"]).status.code(), Some(0), "nothing is left to do");
        assert_eq!(inits(&host), before, "the jails are the same");
        sessions.iter_mut().for_each(|session| session.say("after"));
    }
    sessions.into_iter().for_each(Echo::end);
}

#[test]
fn a_size_below_the_usage_is_refused_with_a_remedy() {
    let host = host();
    let size = |text: &str| {
        host.write("etc/tenants.d/web.toml", &format!("plan = \"web\"\n[limits]\ntmp = \"{text}\"\n"));
    };
    assert_eq!(host.inside("web", "head -c 8M /dev/zero > /tmp/much").0, 0);
    size("4M");
    let output = host.cli(&["apply", "web"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("more is in one of them than the new size") && said.contains("remove some"), "{said}");
    assert_eq!(host.inside("web", "stat -c %s /tmp/much").1.trim(), "8388608", "nothing of it is lost");
    assert_eq!(host.inside("web", "rm /tmp/much").0, 0);
    host.ok(&["apply", "web"]);
    assert_eq!(host.inside("web", "df -k --output=size /tmp | tail -n 1").1.trim(), "4096");
}

#[test]
fn apply_restarts_no_jail_with_sessions_unless_requested() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let mut session = Echo::open(&host, "alice");
    session.say("before");
    host.declare("alice", "shell");
    let text = |output: std::process::Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (status, said) = text(host.cli(&["plan"]));
    assert!(status == Some(10) && said.contains("restart"), "{said}");
    let (status, said) = text(host.cli(&["apply"]));
    assert!(status == Some(5) && said.contains("apply --restart alice"), "{status:?} {said}");
    session.say("after");
    let (status, said) = text(host.cli(&["apply", "--restart"]));
    assert!(status == Some(0) && said.contains("restarted"), "{status:?} {said}");
    assert_eq!(host.cli(&["plan"]).status.code(), Some(0));
    drop(session.to);
    assert_ne!(session.child.wait().expect("ends").code(), Some(42), "it was ended");
}

#[test]
fn an_accepted_request_is_answered_before_bailiwickd_ends() {
    let host = host();
    let ends = host.program("bailiwickd");
    let mut session = Echo::open(&host, profiles()[0]);
    session.say("before");
    let mut late = UnixStream::connect(host.path("run").join(CONTROL_SOCKET)).expect("connects");
    // The connection is accepted now, and only this program can answer it.
    std::thread::sleep(Duration::from_millis(200));
    assert!(Command::new("kill").arg(ends.to_string()).status().expect("kill").success());
    std::thread::sleep(Duration::from_millis(200));
    late.write_all(&encode(&ControlRequest::List, MAX_REQUEST).expect("small")).expect("is read");
    let (mut decoder, mut buffer) = (Decoder::new(MAX_REPLY), [0; 4096]);
    let reply = loop {
        let len = late.read(&mut buffer).expect("is answered");
        assert_ne!(len, 0, "the connection ends without an answer\n{}", host.log());
        decoder.push(&buffer[..len]);
        if let Some(reply) = decoder.next().expect("the protocol") {
            break reply;
        }
    };
    assert!(matches!(reply, ControlReply::List(ref all) if all.len() == profiles().len()), "{reply:?}");
    // The program then ends although it opened a session; the next one serves.
    until("it ends", || host.find_program("bailiwickd").is_some_and(|pid| pid != ends));
    session.say("after");
    session.end();
}

#[test]
fn the_death_of_bailiwickd_is_not_noticed_inside() {
    survives("bailiwickd");
}

#[test]
fn the_death_of_the_warden_is_not_noticed_inside() {
    survives("bailiwick-warden");
}

#[test]
fn the_death_of_everything_is_not_noticed_inside() {
    let mut host = host();
    let before = inits(&host);
    let mut session = Echo::open(&host, "shell");
    session.say("before");
    host.kill();
    session.say("alone");
    host.start();
    assert_eq!(inits(&host), before);
    session.say("after");
    session.end();
    host.ok(&["audit"]);
}

#[test]
fn with_all_places_taken_operators_are_served_and_others_refused() {
    use std::os::unix::process::CommandExt;
    let host = host();
    let as_nobody = || {
        let mut command = Command::new(stage().join("bailiwick"));
        command.args(["status", "--config", host.path("etc").to_str().expect("text")]).uid(65_534).gid(65_534);
        let output = command.output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(as_nobody().0, Some(5), "refused as ever: {}", as_nobody().1);
    // Other connections of the same user hold all its places. A silent connection is closed after a while.
    let socket = host.path("run").join(CONTROL_SOCKET);
    let script = "import socket,sys,time\nsys.stdout.write('.')\nall=[]\nwhile True:\n s=socket.socket(socket.AF_UNIX)\n \
                  s.connect(sys.argv[1])\n all.append(s)\n all=all[-64:]\n time.sleep(0.001)";
    let mut command = Command::new("python3");
    let mut others = command.args(["-c", script]).arg(&socket).uid(65_534).gid(65_534).spawn().expect("python3 runs");
    until("a refusal for lack of a place", || {
        host.ok(&["status"]);
        let (status, told) = as_nobody();
        status == Some(6) && told.contains("this user has 8 connections to bailiwickd and has no place for more")
    });
    others.kill().expect("kill");
    others.wait().expect("wait");
    until("a free place", || as_nobody().0 == Some(5));
}

#[test]
fn a_warden_waits_for_an_earlier_one_to_end() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start_warden();
    host.kill();
    let state = host.path("state");
    let held = bailiwick_sys::file::open_dir(&state).expect("opens");
    bailiwick_sys::file::lock(held.as_fd()).expect("locks");
    let has_it = |pid: &str| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|path| path == state)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let own = std::process::id().to_string();
            until("the next one to run", || {
                let all = std::fs::read_dir("/proc").expect("lists").flatten();
                let mut names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
                names.any(|pid| pid.starts_with(|digit: char| digit.is_ascii_digit()) && pid != own && has_it(&pid))
            });
            drop(held);
        });
        host.start_warden();
    });
    host.warden(&WardenRequest::Start { tenant: name("alice") });
    host.warden(&WardenRequest::Stop { tenant: name("alice"), hold: Hold::Keep });
}

#[test]
fn a_warden_that_cannot_start_closes_waiting_connections() {
    let mut host = Host::new();
    std::fs::create_dir(host.path("run")).expect("mkdir");
    // A directory of another owner.
    host.write("state/of-somebody", "");
    std::fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let listener = UnixListener::bind(host.path("run/warden.sock")).expect("binds");
    let mut waiting: Vec<UnixStream> =
        (0..3).map(|_| UnixStream::connect(host.path("run/warden.sock")).expect("waits")).collect();
    host.spawn_warden_with(&listener);
    assert_eq!(host.wait().code(), Some(8), "{}", host.log());
    // The listening socket of the service manager: a waiting connection would make it start the next warden.
    listener.set_nonblocking(true).expect("fcntl");
    let left = listener.accept().map_err(|error| error.kind());
    assert_eq!(left.err(), Some(std::io::ErrorKind::WouldBlock));
    for stream in &mut waiting {
        assert_eq!(stream.read(&mut [0]).map_err(|error| error.kind()).unwrap_or_default(), 0, "it is told");
    }
    // An operator fixes it, and the next warden serves on the same socket.
    std::fs::remove_file(host.path("state/of-somebody")).expect("removes");
    host.spawn_warden_with(&listener);
    until("it is served", || host.ask(&WardenRequest::Hello).is_ok());
}

#[test]
fn the_managers_socket_works_even_if_an_earlier_warden_created_another() {
    let mut host = Host::new();
    let path = host.path("run/warden.sock");
    std::fs::create_dir(host.path("run")).expect("mkdir");
    let listener = UnixListener::bind(&path).expect("binds");
    let is_served = |host: &Host| host.ask(&WardenRequest::Hello).is_ok();
    host.spawn_warden_with(&listener);
    until("the manager's socket is served", || is_served(&host));
    let inode = || std::fs::symlink_metadata(&path).ok().map(|metadata| metadata.ino());
    let before = inode();
    // The next warden adopts what still exists.
    host.kill();
    host.spawn_warden_with(&listener);
    until("it is served again", || is_served(&host));
    assert_eq!(inode(), before, "and is the manager's");
    std::fs::remove_file(&path).expect("removes");
    until("another one is made", || is_served(&host));
    host.kill();
    host.spawn_warden_with(&listener);
    until("it is served, by the next warden too", || is_served(&host));
}
