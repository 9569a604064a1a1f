//! What a hook cannot do to other hooks and to `bailiwick-hooks`, though all of them have one user, and how it begins.

use crate::requests::{ask, connect, frame, parent};
use crate::runner::Runner;
use crate::{HOOKS, hook, out, processes_with};
use bailiwick_sys::landlock;
use bailiwick_tests::{Host, until, write_program};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

/// The first Landlock ABI that keeps signals inside a domain (Linux 6.12).
const SCOPE_ABI: u32 = 6;

/// A host with a hook that goes on, and the text by which its processes are found.
fn host() -> (Host, String) {
    let host = Host::new();
    let marker = host.path("programs/marker").display().to_string();
    host.write("programs/marker", "");
    hook(&host, "long", &format!("exec tail -f {marker}"), "on = [\"tenant\"]\ntimeout = \"5m\"");
    (host, marker)
}

/// Asks for the hook that goes on, and returns the connection, and the numbers of its process and of its run.
fn long(host: &Host, marker: &str, runner: &Runner) -> (UnixStream, u32, u32) {
    let mut stream = connect(host);
    stream.write_all(&frame("long", "{}")).expect("writes");
    until("it runs", || processes_with(marker).len() == 1);
    let process = &processes_with(marker)[0];
    (stream, process.parse().expect("a number"), parent(process, runner.pid()))
}

fn signal(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("kill");
}

/// Runs a hook that gets the numbers of three processes, and returns the reply.
fn ask_hostile(host: &Host, program: &str, [process, run, listener]: [String; 3]) -> String {
    let path = host.path("programs/hostile");
    write_program(&path, program);
    let text = format!("run = [{path:?}, \"{process}\", \"{run}\", \"{listener}\"]\non = [\"tenant\"]\n");
    host.write("etc/hooks.d/hostile.toml", &text);
    ask(host, &frame("hostile", "{}"))
}

#[test]
fn a_hook_traces_and_signals_its_own_processes_and_no_other_hooks() {
    const PROGRAM: &str = "#!/usr/bin/python3\n\
        import ctypes, os, signal, sys\n\
        libc, zero = ctypes.CDLL(None), ctypes.c_long(0)\n\
        PTRACE_SEIZE = 0x4206\n\
        def traces(pid): return libc.ptrace(PTRACE_SEIZE, pid, zero, zero) == 0\n\
        def signals(pid):\n\
        \x20   try: os.kill(pid, 0)\n\
        \x20   except PermissionError: return False\n\
        \x20   return True\n\
        own = os.fork()\n\
        if own == 0:\n\
        \x20   while True: signal.pause()\n\
        others = [int(number) for number in sys.argv[1:]]\n\
        print(signals(own), traces(own), *map(signals, others), *map(traces, others))\n\
        os.kill(own, signal.SIGKILL)\n\
        os.waitpid(own, 0)\n";
    let (host, marker) = host();
    let mut runner = Runner::start(&host);
    let (_stream, process, run) = long(&host, &marker, &runner);
    let reply = ask_hostile(&host, PROGRAM, [process.to_string(), run.to_string(), runner.pid().to_string()]);
    let said = |signals: &str, traces: &str| format!("\"said\":\"True True {signals} {traces}\"");
    let golden = match landlock::abi() {
        0 => panic!("this kernel has no Landlock, which jails need: nothing keeps hooks apart"),
        SCOPE_ABI.. => said("False False False", "False False False"),
        _ => said("True True True", "False False False"),
    };
    assert!(reply.contains(&golden), "{golden} is not in {reply}");
    assert_eq!(runner.end(), Some(0));
}

#[test]
fn a_hook_in_a_session_of_its_own_cannot_stop_or_kill_what_ends_it() {
    if landlock::abi() < SCOPE_ABI {
        // There the service manager ends it.
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(std::io::stderr(), "{test}: NOT on this kernel: Landlock has scopes from Linux 6.12 on").ok();
        return;
    }
    let host = Host::new();
    let (marker, out) = (host.path("programs/marker").display().to_string(), out(&host));
    host.write("programs/marker", "");
    let program = format!(
        "run=$PPID\n\
         while read -r key value; do [ \"$key\" = PPid: ] && listener=$value; done < /proc/$run/status\n\
         setsid sh -c 'for signal in STOP KILL; do kill -$signal '$run' '$listener' ; done 2> {out}/said\n\
                       exec tail -f {marker}' > /dev/null 2>&1 < /dev/null &\n\
         exec tail -f {marker}",
        out = out.display()
    );
    hook(&host, "hostile", &program, "on = [\"tenant\"]\ntimeout = \"2s\"");
    let mut runner = Runner::start(&host);
    let reply = ask(&host, &frame("hostile", "{}"));
    assert!(reply.contains("\"late\""), "{reply}");
    assert_eq!(processes_with(&marker), [""; 0]);
    let said = std::fs::read_to_string(out.join("said")).expect("it has tried");
    assert_eq!(said.matches("not permitted").count(), 4, "each is refused: {said}");
    assert_eq!(runner.log(), "");
    assert_eq!(runner.end(), Some(0));
}

/// As a hook can do it before Linux 6.12.
#[test]
fn a_run_that_was_stopped_is_killed_with_its_hook() {
    let (host, marker) = host();
    let mut runner = Runner::start(&host);
    let (mut stream, _, run) = long(&host, &marker, &runner);
    signal(run, Signal::STOP);
    until("both are ended", || processes_with(&marker).is_empty());
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("reads");
    assert!(reply.is_empty(), "a connection without a reply is no consent");
    assert_eq!(runner.end(), Some(0));
}

#[test]
fn the_service_manager_hears_that_the_listener_lives() {
    let host = Host::new();
    let path = host.path("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("binds");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("chmod");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    let mut runner = Runner::start_as(&host, HOOKS, &["env", &socket, "WATCHDOG_USEC=300000"]);
    let message = || {
        let mut bytes = [0; 256];
        let len = manager.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..len]).trim().to_owned()
    };
    assert_eq!(message(), "READY=1");
    // Nobody asks for anything meanwhile.
    for _ in 0..4 {
        assert_eq!(message(), "WATCHDOG=1");
    }
    assert_eq!(runner.end(), Some(0));
}

#[test]
fn no_signal_is_blocked_in_a_hook_and_in_its_run() {
    const NONE: &str = "SigBlk:\t0000000000000000";
    let (host, marker) = host();
    // No shell, which would unblock them itself.
    host.write("etc/hooks.d/mask.toml", "run = [\"/usr/bin/cat\", \"/proc/self/status\"]\non = [\"tenant\"]\n");
    let mut runner = Runner::start(&host);
    let reply: serde_json::Value = serde_json::from_str(&ask(&host, &frame("mask", "{}"))).expect("JSON");
    let said = reply["said"].as_str().expect("a text");
    assert!(said.lines().any(|line| line == NONE), "{said}");
    let (_stream, _, run) = long(&host, &marker, &runner);
    let status = std::fs::read_to_string(format!("/proc/{run}/status")).expect("reads");
    assert!(status.lines().any(|line| line == NONE), "{status}");
    assert_eq!(runner.end(), Some(0));
}

#[test]
fn a_hook_changes_its_own_limits_and_those_of_no_other_process() {
    const PROGRAM: &str = "#!/usr/bin/python3\n\
        import resource, sys\n\
        def changes(pid):\n\
        \x20   try: resource.prlimit(pid, resource.RLIMIT_NOFILE, (9, 9))\n\
        \x20   except PermissionError: return False\n\
        \x20   return True\n\
        print(*map(changes, map(int, sys.argv[1:])), changes(0), resource.getrlimit(resource.RLIMIT_NOFILE))\n";
    let (host, marker) = host();
    let mut runner = Runner::start(&host);
    let (_stream, process, run) = long(&host, &marker, &runner);
    let reply = ask_hostile(&host, PROGRAM, [process.to_string(), run.to_string(), runner.pid().to_string()]);
    assert!(reply.contains("\"said\":\"False False False True (9, 9)\""), "{reply}");
    assert_eq!(runner.end(), Some(0));
}

#[test]
fn a_hook_moves_files_between_its_directories() {
    let host = Host::new();
    let out = out(&host);
    let program = format!(
        "cd {} && mkdir -p d && echo x > file && ls -i file | cut -d' ' -f1\n\
         mv file d/file && ls -i d/file | cut -d' ' -f1",
        out.display()
    );
    hook(&host, "move", &program, "on = [\"tenant\"]");
    let _runner = Runner::start(&host);
    let reply: serde_json::Value = serde_json::from_str(&ask(&host, &frame("move", "{}"))).expect("JSON");
    let lines: Vec<&str> = reply["said"].as_str().expect("a text").lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{reply}");
}
