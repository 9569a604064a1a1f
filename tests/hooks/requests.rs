//! Who may ask `bailiwick-hooks` for what, and what becomes of a run that nobody waits for any more.

use crate::runner::Runner;
use crate::{HOOKS, NOTIFY, hook, out, processes_with};
use bailiwick_tests::{Host, stage, until};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// A request as the protocol frames it: four bytes of length, and JSON.
pub(crate) fn frame(hook: &str, body: &str) -> Vec<u8> {
    let json = serde_json::json!({ "hook": hook, "body": body }).to_string();
    [&u32::try_from(json.len()).expect("small").to_le_bytes()[..], json.as_bytes()].concat()
}

pub(crate) fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.path("run/hooks.sock")).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
    stream
}

/// Asks for a hook as root, and returns the reply; nothing when the connection is closed without one.
pub(crate) fn ask(host: &Host, bytes: &[u8]) -> String {
    let mut stream = connect(host);
    stream.write_all(bytes).expect("writes");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("reads");
    String::from_utf8_lossy(reply.get(4..).unwrap_or_default()).into_owned()
}

/// Asks as another user.
fn ask_as(host: &Host, uid: u32, hook: &str) -> String {
    const SCRIPT: &str = "import socket, struct, sys, json\n\
        s = socket.socket(socket.AF_UNIX)\n\
        try: s.connect(sys.argv[1])\n\
        except PermissionError: print('denied'); sys.exit()\n\
        b = json.dumps({'hook': sys.argv[2], 'body': '{}'}).encode()\n\
        s.sendall(struct.pack('<I', len(b)) + b)\n\
        d = b''\n\
        while True:\n\
        \x20   p = s.recv(65536)\n\
        \x20   if not p: break\n\
        \x20   d += p\n\
        print(d[4:].decode())\n";
    let uid = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--", "/usr/bin/python3", "-c", SCRIPT]);
    let output = command.arg(host.path("run/hooks.sock")).arg(hook).output().expect("runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn only_root_may_ask_for_a_hook_that_refuses_commands_and_strangers_for_none() {
    let host = Host::new();
    hook(&host, "before", "exit 0", "on = [\"tenant.created\"]\nwhen = \"before\"");
    hook(&host, "after", "cat >&2; exit 4", "on = [\"tenant\"]");
    let runner = Runner::start(&host);
    let done = "{\"end\":{\"exited\":0},\"said\":\"\"}";
    assert_eq!(ask(&host, &frame("before", "{}")), done);
    let after = "{\"end\":{\"exited\":4},\"said\":\"{}\"}";
    assert_eq!(ask_as(&host, NOTIFY, "after"), after);
    assert!(ask_as(&host, NOTIFY, "before").contains("only root may ask for a hook that runs before a command"));
    assert_eq!(ask_as(&host, HOOKS, "after"), "denied");
    assert_eq!(ask_as(&host, HOOKS + 5, "after"), "denied");
    assert!(ask(&host, &frame("other", "{}")).contains("there is no hook \\\"other\\\""));
    // What is no request ends the connection, and costs nobody else anything.
    for hostile in
        [&b"\xff\xff\xff\x7f"[..], b"\x02\0\0\0{}", &frame("../etc", "{}"), &frame("after", &"x".repeat(300_000))]
    {
        let mut stream = connect(&host);
        stream.write_all(hostile).ok();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).ok();
        assert_eq!(reply.len(), 0, "{:?}", String::from_utf8_lossy(&reply));
    }
    assert_eq!(ask(&host, &frame("before", "{}")), done);
    assert_eq!(runner.log(), "");
}

#[test]
fn a_run_that_nobody_waits_for_is_ended() {
    let host = Host::new();
    let marker = host.path("programs/marker").display().to_string();
    host.write("programs/marker", "");
    hook(&host, "long", &format!("setsid tail -f {marker} &\nexec tail -f {marker}"), "on = [\"tenant\"]");
    let mut runner = Runner::start(&host);
    let mut stream = connect(&host);
    stream.write_all(&frame("long", "{}")).expect("writes");
    until("it runs", || processes_with(&marker).len() == 2);
    drop(stream);
    until("both are ended", || processes_with(&marker).is_empty());

    // The process of the run is killed, so that it cannot end what it has started.
    let mut stream = connect(&host);
    stream.write_all(&frame("long", "{}")).expect("writes");
    until("it runs", || processes_with(&marker).len() == 2);
    let run = parent(&processes_with(&marker)[0], runner.pid());
    let pid = i32::try_from(run).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    until("both are ended", || processes_with(&marker).is_empty());
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("reads");
    assert!(reply.is_empty(), "a connection without a reply is no consent");

    // The runner is asked to end.
    let mut stream = connect(&host);
    stream.write_all(&frame("long", "{}")).expect("writes");
    until("it runs", || processes_with(&marker).len() == 2);
    assert_eq!(runner.end(), Some(0));
    assert!(processes_with(&marker).is_empty());
    assert_eq!(runner.log(), "");
}

#[test]
fn when_the_answer_comes_nothing_of_the_hook_runs_any_more() {
    let host = Host::new();
    let marker = host.path("programs/marker").display().to_string();
    host.write("programs/marker", "");
    let away = format!("setsid tail -f {marker} > /dev/null 2>&1 < /dev/null &\nexit 0");
    hook(&host, "away", &away, "on = [\"tenant\"]");
    let _runner = Runner::start(&host);
    for round in 0..20 {
        assert!(ask(&host, &frame("away", "{}")).contains("\"exited\":0"));
        assert_eq!(processes_with(&marker), [""; 0], "in round {round}");
    }
}

/// The process of a run: the one above a process of the hook whose parent is the runner.
pub(crate) fn parent(pid: &str, runner: u32) -> u32 {
    let mut pid: u32 = pid.parse().expect("a number");
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("is there");
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).expect("a parent");
        let above: u32 = line.parse().expect("a number");
        assert!(above > 1, "it is no descendant of the runner");
        if above == runner {
            return pid;
        }
        pid = above;
    }
}

#[test]
fn root_is_refused_and_the_program_of_a_hook_must_be_roots() {
    let host = Host::new();
    out(&host);
    let mut as_root = Command::new(stage().join("bailiwick-hooks"));
    let refused = as_root.arg("--config").arg(host.path("etc")).output().expect("runs");
    assert_eq!(refused.status.code(), Some(5));
    let path = hook(&host, "after", "exit 0", "on = [\"tenant\"]");
    let _runner = Runner::start(&host);
    assert_eq!(ask(&host, &frame("after", "{}")), "{\"end\":{\"exited\":0},\"said\":\"\"}");
    // Nor does one that others can change, or in a folder where they can put another in its place.
    for (place, mode) in [(path.clone(), 0o775), (host.path("programs"), 0o777)] {
        let set = |mode| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).expect("chmod");
        set(mode);
        let reply = ask(&host, &frame("after", "{}"));
        assert!(reply.contains("not_run") && reply.contains("others than root can write"), "{reply}");
        set(0o755);
    }
    // Nor does one behind a link of somebody else, wherever in a chain of root's links it is.
    let (link, chain) = (host.path("out/link"), host.path("programs/chain"));
    std::os::unix::fs::chown(host.path("out"), Some(0), None).expect("chown");
    std::os::unix::fs::symlink(&path, &link).expect("symlink");
    std::os::unix::fs::symlink(&link, &chain).expect("symlink");
    host.write("etc/hooks.d/chain.toml", &format!("run = [{chain:?}]\non = [\"tenant\"]\n"));
    assert_eq!(ask(&host, &frame("chain", "{}")), "{\"end\":{\"exited\":0},\"said\":\"\"}");
    std::os::unix::fs::lchown(&link, Some(HOOKS), None).expect("lchown");
    let reply = ask(&host, &frame("chain", "{}"));
    assert!(reply.contains("not_run") && reply.contains(&format!("belongs to user {HOOKS}, not to root")), "{reply}");
    // Somebody else's program runs for nobody, also when it was root's before.
    std::os::unix::fs::chown(&path, Some(HOOKS), None).expect("chown");
    let reply = ask(&host, &frame("after", "{}"));
    assert!(reply.contains("not_run") && reply.contains(&format!("belongs to user {HOOKS}, not to root")), "{reply}");
}
