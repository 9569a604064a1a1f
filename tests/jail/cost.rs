//! What a start, a stop and a session cost in system calls. These numbers do not depend on how busy the machine is: when one rises,
//! a program does more than before. Times are in `benches/`.

use bailiwick_proto::{Hold, WardenReply, WardenRequest};
use bailiwick_tests::{Host, name, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// How often each is measured at the most, until it was as few as they should be: what else a program does in the meantime, such as a
/// look each second on a busy machine, only adds calls.
const ROUNDS: usize = 40;

/// strace, attached to programs and whatever they start.
struct Trace {
    strace: Child,
    file: std::path::PathBuf,
}

impl Trace {
    fn of(host: &Host, pids: &[u32]) -> Self {
        let file = host.path("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&file);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let strace = command.stdin(Stdio::null()).spawn().expect("strace runs: tests/deps installs it");
        until("strace is attached", || pids.iter().all(|pid| is_traced(*pid)));
        Self { strace, file }
    }

    /// Detaches, and returns the number of calls.
    fn end(mut self) -> usize {
        let pid = Pid::from_child(&self.strace);
        kill_process(pid, Signal::INT).expect("strace is there");
        self.strace.wait().expect("waits");
        calls_in(&self.file)
    }
}

/// Whether every thread of a process is traced.
fn is_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("status")).unwrap_or_default()).all(|status| {
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}

/// The calls that strace has written: not its lines about signals and ends, and each call once that is told in two pieces. A program
/// with checks looks at each descriptor before it closes it, and a release does not, so that look does not count.
fn calls_in(file: &Path) -> usize {
    let text = fs::read(file).expect("strace wrote");
    let text = String::from_utf8_lossy(&text);
    let is_call = |line: &&str| {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        call.starts_with(|first: char| first.is_ascii_lowercase() || first == '_') && !call.contains(", F_GETFD)")
    };
    text.lines().filter(is_call).count()
}

/// `most` is what was measured when this was written, and a twentieth more: the kernel and the host's packages differ a little.
/// Much less means that nothing was traced, or that the number should be lowered.
fn is_within(what: &str, most: usize, mut round: impl FnMut() -> usize) {
    let mut fewest = usize::MAX;
    for _ in 0..ROUNDS {
        fewest = fewest.min(round());
        if fewest <= most {
            break;
        }
    }
    assert!(fewest <= most, "{what}: {fewest} system calls, and it was at most {most}");
    assert!(
        fewest * 10 >= most * 8,
        "{what}: {fewest} system calls are much less than {most}: lower the number in this test"
    );
}

#[test]
fn a_start_and_a_stop_make_no_more_system_calls_than_before() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.declare("neighbour", "web");
    host.start_warden();
    let done = |request: &WardenRequest| assert_eq!(host.warden(request), WardenReply::Done, "{request:?}");
    let start = |tenant| WardenRequest::Start { tenant: name(tenant) };
    let stop = || WardenRequest::Stop { tenant: name("alice"), hold: Hold::Keep };
    // The first start makes the storage, and without a neighbour each makes what all share.
    for tenant in ["neighbour", "alice"] {
        done(&start(tenant));
    }
    done(&stop());
    let warden = host.pid();
    is_within("a start", 1625, || {
        let trace = Trace::of(&host, &[warden]);
        done(&start("alice"));
        let calls = trace.end();
        done(&stop());
        calls
    });
    is_within("a stop", 182, || {
        done(&start("alice"));
        let trace = Trace::of(&host, &[warden]);
        done(&stop());
        trace.end()
    });
}

#[test]
fn a_session_makes_no_more_system_calls_than_before() {
    let mut host = Host::new();
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\n");
    host.start();
    host.ok(&["apply"]);
    host.ok(&["exec", "alice", "--", "true"]);
    // With glibc it is 136, with musl 151. Those before `main` are no calls: glibc asks the processor (decision 61).
    is_within("`bailiwick exec`", 158, || {
        let file = host.path("trace");
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-o"]).arg(&file);
        let exec = host.command(&["exec", "alice", "--", "true"]);
        traced.arg(exec.get_program()).args(exec.get_args()).stdin(Stdio::null());
        assert!(traced.status().expect("strace runs").success());
        calls_in(&file)
    });
    let daemon = host.program("bailiwickd");
    is_within("bailiwickd for one session", 60, || {
        let trace = Trace::of(&host, &[daemon]);
        host.ok(&["exec", "alice", "--", "true"]);
        trace.end()
    });
    is_within("init and `true`", 178, || {
        let trace = Trace::of(&host, &[host.init("alice")]);
        host.ok(&["exec", "alice", "--", "true"]);
        trace.end()
    });
}
