//! Benchmarks of our jails: started and stopped through the warden's socket, entered through init's socket and by
//! the command line.

use crate::rounds::{Subject, time};
use bailiwick_proto::frame::{Decoder, MAX_EVENT, MAX_REPLY, MAX_REQUEST, decode, encode};
use bailiwick_proto::init::{JailUser, Spawn};
use bailiwick_proto::{
    Bytes, Hold, InitReply, InitRequest, JAILS, SessionEvent, WARDEN_SOCKET, WardenReply, WardenRequest, init_socket,
};
use bailiwick_sys::socket;
use bailiwick_tests::{Host, name, stage};
use bailiwick_types::Access;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The jails of a host.
#[derive(Debug)]
pub(crate) struct Jails<'a> {
    host: &'a Host,
}

impl<'a> Jails<'a> {
    /// The jails of a host whose tenants have run before.
    pub(crate) fn of(host: &'a Host) -> Self {
        Self { host }
    }

    /// Starts every tenant once, so that its storage exists, and copies the static program into it.
    pub(crate) fn new(host: &'a Host, payload: &Path) -> Self {
        let jails = Self { host };
        for entry in fs::read_dir(host.path("etc/tenants.d")).expect("tenants").flatten() {
            let file = entry.file_name().into_string().expect("a name");
            let tenant = file.strip_suffix(".toml").expect("a tenant's file");
            jails.start(tenant);
            let srv = host.path(&format!("state/tenants/{tenant}/srv"));
            if srv.exists() {
                fs::copy(payload, srv.join("static")).expect("the payload is copied");
            }
            jails.stop(tenant);
        }
        jails
    }

    /// Starts a jail; a running one is left alone.
    pub(crate) fn start(&self, tenant: &str) {
        self.host.warden(&WardenRequest::Start { tenant: name(tenant) });
    }

    /// Stops a jail; the service does not restart it.
    pub(crate) fn stop(&self, tenant: &str) {
        self.host.warden(&WardenRequest::Stop { tenant: name(tenant), hold: Hold::Hold });
    }

    /// The init of a running jail.
    pub(crate) fn pid(&self, tenant: &str) -> u32 {
        match self.host.warden(&WardenRequest::Roster) {
            WardenReply::Roster(roster) => roster[&name(tenant)].pid.expect("the jail runs"),
            reply => panic!("not a roster: {reply:?}"),
        }
    }

    fn done(&self, request: &WardenRequest) {
        assert_eq!(self.host.warden(request), WardenReply::Done, "{request:?}");
    }

    /// Start, stop, and both together, right after the last stop.
    pub(crate) fn phases(&self, tenant: &'static str) -> Subject<'_> {
        self.phases_after(Duration::ZERO, tenant)
    }

    /// The same some time after the last stop: the kernel removes a network namespace later than its last process.
    pub(crate) fn phases_after(&self, pause: Duration, tenant: &'static str) -> Subject<'_> {
        let start = WardenRequest::Start { tenant: name(tenant) };
        let stop = WardenRequest::Stop { tenant: name(tenant), hold: Hold::Keep };
        let names = ["start and stop", "start", "stop"].map(|phase| format!("bailiwick {tenant}: {phase}"));
        let run = move || {
            std::thread::sleep(pause);
            let started = time(|| self.done(&start));
            let stopped = time(|| self.done(&stop));
            Ok(vec![started + stopped, started, stopped])
        };
        Subject { names: names.to_vec(), run: Box::new(run) }
    }

    /// Start, run one program, stop.
    pub(crate) fn whole(&self, tenant: &'static str, label: &str, program: &'static str) -> Subject<'_> {
        let start = WardenRequest::Start { tenant: name(tenant) };
        let stop = WardenRequest::Stop { tenant: name(tenant), hold: Hold::Keep };
        let spawn = spawn(&[program]);
        Subject::one(label, move || {
            time(|| {
                self.done(&start);
                self.run_session(tenant, &spawn);
                self.done(&stop);
            })
        })
    }

    /// Many starts on one connection, then as many stops, as a service requests them.
    pub(crate) fn at_once(&self, tenants: Vec<String>) -> Subject<'_> {
        let count = u32::try_from(tenants.len()).expect("a few");
        let start = |tenant: &String| WardenRequest::Start { tenant: name(tenant) };
        let stop = |tenant: &String| WardenRequest::Stop { tenant: name(tenant), hold: Hold::Keep };
        let starts: Vec<_> = tenants.iter().map(start).collect();
        let stops: Vec<_> = tenants.iter().map(stop).collect();
        let names = ["start and stop", "start", "stop"].map(|phase| format!("bailiwick web: {phase}"));
        let run = move || {
            let started = time(|| self.all_done(&starts)) / count;
            let stopped = time(|| self.all_done(&stops)) / count;
            Ok(vec![started + stopped, started, stopped])
        };
        Subject { names: names.to_vec(), run: Box::new(run) }
    }

    fn all_done(&self, requests: &[WardenRequest]) {
        let mut stream = UnixStream::connect(self.host.path("run").join(WARDEN_SOCKET)).expect("connects");
        for request in requests {
            stream.write_all(&encode(request, MAX_REQUEST).expect("small")).expect("writes");
        }
        let mut decoder = Decoder::new(MAX_REPLY);
        let mut buffer = [0; 4096];
        for request in requests {
            let reply: WardenReply = loop {
                if let Some(reply) = decoder.next().expect("the warden speaks the protocol") {
                    break reply;
                }
                let len = stream.read(&mut buffer).expect("reads");
                assert!(len > 0, "the warden closed the connection:\n{}", self.host.log());
                decoder.push(&buffer[..len]);
            };
            assert_eq!(reply, WardenReply::Done, "{request:?}");
        }
    }

    /// A session through init's socket: the cost of the service without its client.
    pub(crate) fn session(&self, tenant: &'static str, argv: &[&str]) -> Subject<'_> {
        let spawn = spawn(argv);
        Subject::one("bailiwick, the service alone", move || time(|| self.run_session(tenant, &spawn)))
    }

    /// Connects, passes pipes and a channel, and waits for the end.
    fn run_session(&self, tenant: &str, spawn: &InitRequest) {
        let path = self.host.path("run").join(JAILS).join(tenant).join(init_socket(Access::ReadWrite));
        let connection = UnixStream::connect(path).expect("init listens");
        let (channel, remote) = socket::channel().expect("a channel");
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let (stdin, stdout, stderr) = (pipe(), pipe(), pipe());
        let frame = encode(spawn, MAX_REQUEST).expect("small");
        let fds = [remote.as_fd(), stdin.0.as_fd(), stdout.1.as_fd(), stderr.1.as_fd()];
        assert_eq!(socket::send(&connection, &frame, &fds).expect("sends"), frame.len());
        drop(remote);
        let mut buffer = [0; MAX_EVENT];
        // Events arrive on the channel; the reply on the connection may arrive after them.
        let mut started = false;
        loop {
            let (len, _) = socket::receive(&channel, &mut buffer, 0).expect("an event");
            assert!(len > 0, "init closed the channel: {:?}", reply(&connection));
            match decode(&buffer[..len], MAX_EVENT).expect("an event") {
                SessionEvent::Started => started = true,
                SessionEvent::Exited(0) if started => return,
                event => panic!("{event:?} from {spawn:?}"),
            }
        }
    }

    /// The same through `bailiwick exec`.
    pub(crate) fn command_line(&self, tenant: &'static str, argv: &[&str]) -> Subject<'_> {
        let mut command = Command::new(stage().join("bailiwick"));
        command.arg("exec").arg("--config").arg(self.host.path("etc")).args([tenant, "--"]).args(argv);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Subject::one("bailiwick exec", move || {
            time(|| {
                let status = command.status().expect("the command line runs");
                assert!(status.success(), "{command:?}: {status}\n{}", self.host.log());
            })
        })
    }
}

/// The reply of init on the connection of the request, if the session did not start.
fn reply(connection: &UnixStream) -> Option<InitReply> {
    let mut buffer = [0; MAX_EVENT];
    let (len, _) = socket::receive(connection, &mut buffer, 0).ok()?;
    let mut decoder = Decoder::new(MAX_EVENT);
    decoder.push(&buffer[..len]);
    decoder.next().ok()?
}

fn spawn(argv: &[&str]) -> InitRequest {
    let bytes = |text: &str| Bytes::new(text).expect("no NUL");
    InitRequest::Spawn(Spawn {
        user: JailUser { uid: 0, gid: 0, home: "/root".to_owned() },
        argv: argv.iter().map(|argument| bytes(argument)).collect(),
        arg0: None,
        env: vec![(bytes("PATH"), bytes("/usr/bin:/bin"))],
        cwd: None,
        terminal: None,
    })
}
