//! The real init as PID 1 of a pid namespace, with real programs. No jail is around it.

use bailiwick_proto::frame::MAX_REQUEST;
use bailiwick_proto::init::{JailUser, MAX_SERVICES_REPLY, ServiceOrder};
use bailiwick_proto::{Bytes, Incoming, InitReply, InitRequest, transport};
use bailiwick_sys::process;
use bailiwick_types::{Readiness, Restart, ServiceEnd, ServiceReport, ServiceState, ServiceVerb, StopSignal, UnitName};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running init, and a folder with its socket and with the logs.
struct Init {
    dir: tempfile::TempDir,
    child: Child,
}

impl Init {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(dir.path().join("log")).expect("a folder");
        chown(dir.path().join("log"), Some(1000), Some(1000)).expect("chown");
        symlink(env!("CARGO_BIN_EXE_bailiwick-init"), dir.path().join("bailiwick-service")).expect("a link");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("listens");
        let line = "mount -t tmpfs none /run && mount -t tmpfs none /var && mount -t proc proc /proc && \
                    ip link set lo up && exec \"$0\" 3<&0 < /dev/null";
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount", "--net", "sh", "-c", line]);
        command.arg(env!("CARGO_BIN_EXE_bailiwick-init")).stdin(Stdio::from(OwnedFd::from(listener)));
        Self { child: command.spawn().expect("unshare runs"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ask(&self, request: &InitRequest, fds: &[BorrowedFd<'_>]) -> InitReply {
        let connection = UnixStream::connect(self.path("socket")).expect("connects");
        let mut incoming = Incoming::new(MAX_SERVICES_REPLY, 0);
        let mut next = || transport::receive::<InitReply>(&connection, &mut incoming, Instant::now() + LIMIT);
        assert_eq!(next().expect("a greeting").0, InitReply::Ready);
        transport::send(&connection, request, MAX_REQUEST, fds).expect("sent");
        next().expect("a reply").0
    }

    /// An order for a shell command of root inside.
    fn order(&self, name: &str, line: &str) -> ServiceOrder {
        let text = |text: &str| Bytes::new(text).expect("no NUL");
        ServiceOrder {
            name: name.parse().expect("a name"),
            digest: line.chars().take(32).collect(),
            user: JailUser { uid: 0, gid: 0, home: "/".to_owned() },
            argv: ["/bin/sh", "-c", line].map(text).to_vec(),
            env: vec![(text("PATH"), text("/usr/sbin:/usr/bin:/sbin:/bin")), (text("DIR"), text(&self.text("")))],
            directory: None,
            after: Vec::new(),
            restart: Restart::Never,
            stop_signal: StopSignal::Term,
            stop_within: 10_000,
            ready: Readiness::None,
            connect: None,
            log: self.text(&format!("log/{name}.log")),
            log_size: 1 << 20,
            log_keep: 1,
            sockets: 0,
        }
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    fn give(&self, order: &ServiceOrder) {
        assert_eq!(self.ask(&InitRequest::Service(Box::new(order.clone())), &[]), InitReply::Ordered);
    }

    fn run(&self, name: &str, line: &str) {
        self.give(&self.order(name, line));
    }

    fn tell(&self, name: &str, verb: ServiceVerb) -> InitReply {
        self.ask(&InitRequest::ServiceVerb { name: name.parse().expect("a name"), verb }, &[])
    }

    fn reports(&self) -> Vec<ServiceReport> {
        match self.ask(&InitRequest::Services, &[]) {
            InitReply::Services(reports) => reports,
            other => panic!("{other:?}"),
        }
    }

    fn report(&self, name: &str) -> ServiceReport {
        let name: UnitName = name.parse().expect("a name");
        self.reports().into_iter().find(|report| report.name == name).expect("it is supervised")
    }

    fn becomes(&self, name: &str, state: ServiceState) -> ServiceReport {
        until(&format!("{name} is {state}"), || self.report(name).state == state);
        self.report(name)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("log/{name}.log"))).unwrap_or_default()
    }

    fn says(&self, name: &str, text: &str) {
        until(&format!("{name} says {text:?}: {}", self.log(name)), || self.log(name).contains(text));
    }

    /// The process of init on the host.
    fn pid(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(path).expect("its children").trim().parse().expect("one child")
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn an_order_that_is_followed_changes_nothing_and_another_restarts_its_program_alone() {
    let init = Init::new();
    init.run("calm", "exec sleep 1000");
    init.run("app", "exec sleep 1001");
    let (calm, app) = (init.becomes("calm", ServiceState::Running).pid, init.becomes("app", ServiceState::Running).pid);
    init.run("calm", "exec sleep 1000");
    init.run("app", "echo anew; exec sleep 1002");
    init.says("app", "anew");
    assert_eq!(init.report("calm").pid, calm);
    let now = init.becomes("app", ServiceState::Running);
    assert!(now.pid.is_some() && now.pid != app, "{now:?}");
    let keep = InitRequest::KeepServices { names: vec!["calm".parse().expect("a name")] };
    assert_eq!(init.ask(&keep, &[]), InitReply::Ordered);
    until("the other is forgotten", || init.reports().len() == 1);
    assert_eq!(init.report("calm").pid, calm);
    assert_eq!(init.tell("app", ServiceVerb::Start), InitReply::NoSuchService);
}

#[test]
fn one_that_ends_comes_back_and_one_that_cannot_start_says_why() {
    let init = Init::new();
    init.give(&ServiceOrder { restart: Restart::Always, ..init.order("app", "exit 3") });
    until("it was started again", || init.report("app").restarts >= 3);
    assert_eq!(init.report("app").last_end, Some(ServiceEnd::Exited(3)));
    init.give(&ServiceOrder { argv: vec![Bytes::new("/no/such").expect("no NUL")], ..init.order("none", "") });
    assert_eq!(init.becomes("none", ServiceState::Failed).last_end, Some(ServiceEnd::NotStarted(2)));
    let nowhere = Some(Bytes::new("/no/such").expect("no NUL"));
    init.give(&ServiceOrder { directory: nowhere, ..init.order("nowhere", "exit 0") });
    assert_eq!(init.becomes("nowhere", ServiceState::Failed).last_end, Some(ServiceEnd::NotStarted(2)));
    // One that forks away has ended, and nothing of its group is left.
    init.run("forker", "sleep 1000 & echo $!");
    init.becomes("forker", ServiceState::Ended);
    init.says("forker", "Z ");
    let child = init.log("forker");
    let child = child.split_whitespace().last().expect("a number");
    init.run("look", &format!("while [ -d /proc/{child} ]; do sleep 0.05; done; echo gone"));
    init.says("look", "gone");
}

#[test]
fn listening_unix_sockets_come_in_and_nothing_else_does() {
    let init = Init::new();
    let listener = UnixListener::bind(init.path("web.sock")).expect("binds");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let file = fs::File::create(init.path("file")).expect("makes");
    let line = "[ $LISTEN_PID = $$ ] && readlink /proc/$$/fd/3 && ls /proc/$$/fd; exec sleep 1000";
    let order = ServiceOrder { sockets: 1, ..init.order("web", line) };
    let give =
        |order: &ServiceOrder, fds: &[BorrowedFd<'_>]| init.ask(&InitRequest::Service(Box::new(order.clone())), fds);
    for fds in
        [&[tcp.as_fd()][..], &[file.as_fd()], &[], &[listener.as_fd(), file.as_fd()], &[listener.as_fd(), tcp.as_fd()]]
    {
        assert_eq!(give(&order, fds), InitReply::Refused);
    }
    assert!(init.reports().is_empty());
    assert_eq!(give(&order, &[listener.as_fd()]), InitReply::Ordered);
    init.says("web", "socket:[");
    // Beside its three streams it has nothing else.
    until("it has listed all", || init.log("web").lines().count() >= 5);
    let log = init.log("web");
    let listed: Vec<&str> = log.lines().skip(1).filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(listed, ["0", "1", "2", "3"]);
    // An order with all descriptors that it may have arrives.
    let many: Vec<UnixListener> =
        (0..8).map(|number| UnixListener::bind(init.path(&format!("{number}.sock"))).expect("binds")).collect();
    let fds: Vec<BorrowedFd<'_>> = many.iter().map(AsFd::as_fd).collect();
    let line = "readlink /proc/$$/fd/10; exec sleep 1000";
    assert_eq!(give(&ServiceOrder { sockets: 8, ..init.order("many", line) }, &fds), InitReply::Ordered);
    init.says("many", "socket:[");
}

#[test]
fn what_comes_after_waits_and_a_program_that_goes_on_telling_its_state_does_not_block() {
    let init = Init::new();
    let line = "until [ -e $DIR/go ]; do sleep 0.05; done; exec perl -MIO::Socket::UNIX -e '$| = 1; \
        $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $ENV{NOTIFY_SOCKET}) or die; $s->send(\"READY=1\"); \
        $s->send(\"STATUS=$_\") for 1 .. 2000; print \"through\\n\"; sleep 1000'";
    // The order in which they are given does not count.
    init.give(&ServiceOrder { after: vec!["db".parse().expect("a name")], ..init.order("app", "exec sleep 1000") });
    init.give(&ServiceOrder { ready: Readiness::Notify, ..init.order("db", line) });
    init.becomes("db", ServiceState::Starting);
    assert_eq!(init.report("app").state, ServiceState::Waiting);
    fs::write(init.path("go"), "").expect("writes");
    init.becomes("app", ServiceState::Running);
    init.says("db", "through");
}

#[test]
fn one_is_ready_when_somebody_can_connect() {
    let init = Init::new();
    let line = "until [ -e $DIR/go ]; do sleep 0.05; done; exec perl -MIO::Socket::INET -e \
        '$s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:3000\", Listen => 5) or die; sleep 1000'";
    let connect = Some("127.0.0.1:3000".parse().expect("an address"));
    init.give(&ServiceOrder { ready: Readiness::Connect, connect, ..init.order("node", line) });
    init.becomes("node", ServiceState::Starting);
    fs::write(init.path("go"), "").expect("writes");
    init.becomes("node", ServiceState::Running);
}

#[test]
fn one_that_ignores_its_stop_signal_is_killed_with_its_group() {
    let init = Init::new();
    let line = "trap '' TERM; sleep 1000 & echo ready; while :; do wait; done";
    init.give(&ServiceOrder { stop_within: 100, restart: Restart::Always, ..init.order("deaf", line) });
    init.says("deaf", "ready");
    assert_eq!(init.tell("deaf", ServiceVerb::Stop), InitReply::Ordered);
    assert_eq!(init.becomes("deaf", ServiceState::Stopped).last_end, Some(ServiceEnd::Killed(9)));
    init.run("look", "while pgrep -x sleep; do sleep 0.01; done > /dev/null; echo gone");
    init.says("look", "gone");
    assert_eq!(init.tell("deaf", ServiceVerb::Start), InitReply::Ordered);
    init.becomes("deaf", ServiceState::Running);
}

#[test]
fn another_helper_goes_on_with_the_logs_and_the_last_words_are_kept() {
    let mut init = Init::new();
    init.run("app", "trap 'echo farewell; exit 0' TERM; echo hello; while :; do sleep 0.05; done");
    init.says("app", "hello");
    init.run("killer", "for p in $(pgrep -u 1000 bailiwick-init); do kill -9 $p && echo killed; done; exec sleep 1000");
    init.says("killer", "killed");
    // The streams of a program may be opened anew by their user.
    let user = JailUser { uid: 1000, gid: 1000, home: "/".to_owned() };
    init.give(&ServiceOrder { user, ..init.order("user", "echo opened > /proc/self/fd/2; exec sleep 1000") });
    init.says("user", "opened");
    let pid = process::open(init.pid()).expect("init");
    process::signal(pid, rustix::process::Signal::TERM).expect("sent");
    init.child.wait().expect("it ends");
    assert!(init.log("app").contains("farewell"), "{}", init.log("app"));
}

#[test]
fn the_tenant_lists_and_directs_its_own_and_others_inside_do_not() {
    let init = Init::new();
    init.run("app", "exec sleep 1000");
    init.becomes("app", ServiceState::Running);
    let as_user = |name: &str, uid: u32, line: &str| {
        let user = JailUser { uid, gid: uid, home: "/".to_owned() };
        init.give(&ServiceOrder { user, ..init.order(name, &format!("{line}; echo \"result $?\"")) });
        init.says(name, "result ");
        init.log(name)
    };
    let listed = as_user("list", 1000, "$DIR/bailiwick-service list");
    assert!(listed.contains("running") && listed.contains("result 0"), "{listed}");
    assert!(as_user("missing", 1000, "$DIR/bailiwick-service stop nothing").contains("result 3"));
    assert!(as_user("usage", 1000, "$DIR/bailiwick-service stop").contains("result 2"));
    let refused = as_user("other", 33, "$DIR/bailiwick-service stop app");
    assert!(refused.contains("only root and the login user") && refused.contains("result 5"), "{refused}");
    assert_eq!(init.report("app").state, ServiceState::Running);
    assert!(as_user("stop", 0, "$DIR/bailiwick-service stop app").contains("result 0"));
    init.becomes("app", ServiceState::Stopped);
}
