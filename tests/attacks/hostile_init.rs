//! Init belongs to the tenant. Whatever it answers, or does not answer, concerns that tenant alone.

use crate::host;
use bailiwick_tests::until;
use std::io::Read;
use std::time::{Duration, Instant};

/// How long `bailiwickd` waits for one that does not answer.
const INIT_TIME: Duration = Duration::from_secs(5);

#[test]
fn an_init_that_is_stopped_by_its_tenant_holds_up_nobody_else() {
    let host = host();
    // Root inside traces PID 1 and leaves it stopped (PTRACE_ATTACH = 16), for as long as the tracer lives.
    let mut tracer = std::process::Command::new(bailiwick_tests::stage().join("bailiwick"))
        .args(["exec", "--config"])
        .arg(host.path("etc"))
        .args(["shell", "--", "perl", "-e", "$| = 1; print syscall(101, 16, 1, 0, 0), \"\\n\"; sleep 20"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let mut said = [0; 2];
    tracer.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("it says so");
    assert_eq!(&said, b"0\n");
    let begin = Instant::now();
    assert_eq!(host.inside("web", "echo fine").1.trim(), "fine");
    assert!(begin.elapsed() < INIT_TIME, "{:?}", begin.elapsed());
    // The tenant's own door says that it does not answer, and in bounded time.
    // Not over a pipe of this test's: what was sent to init waits in its queue for as long as it is stopped.
    let status = std::process::Command::new(bailiwick_tests::stage().join("bailiwick"))
        .args(["exec", "--config"])
        .arg(host.path("etc"))
        .args(["shell", "--", "true"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    assert_eq!(status.expect("runs").code(), Some(125));
    // And the operator can still end it.
    host.ok(&["stop", "shell"]);
    tracer.wait().expect("ended with its jail");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_jail_that_ends_itself_is_cleared_away_and_can_be_started_again() {
    let host = host();
    host.inside("web", "kill -TERM 1; sleep 5");
    until("it is down", || {
        let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", "web", "--json"])).expect("JSON");
        shown["pid"].is_null()
    });
    host.ok(&["start", "web"]);
    assert_eq!(host.inside("web", "echo again").1.trim(), "again");
}
