//! Init belongs to the tenant. Whatever it answers, or if it does not answer, only that tenant is affected.

use crate::{host, syscall};
use bailiwick_sys::process;
use bailiwick_tests::{Host, profiles, until};
use rustix::process::Signal;
use std::io::Read;
use std::os::fd::OwnedFd;

/// Stops an init from outside, as its tenant might: inside, init cannot be traced.
fn stop(host: &Host, tenant: &str) -> OwnedFd {
    let init = process::open(host.init(tenant)).expect("it runs");
    process::signal(&init, Signal::STOP).expect("it runs");
    init
}

fn state(host: &Host, tenant: &str) -> String {
    let all: Vec<serde_json::Value> = serde_json::from_str(&host.ok(&["list", "--json"])).expect("JSON");
    let row = all.iter().find(|row| row["name"] == tenant).expect("listed");
    row["state"].as_str().expect("a word").to_owned()
}

#[test]
fn nobody_inside_can_trace_init_or_take_its_descriptors() {
    let host = host();
    for tenant in profiles() {
        const EPERM: i32 = 1;
        // PTRACE_ATTACH and PTRACE_SEIZE. A session can still trace its own child.
        for request in [16, 0x4206] {
            assert_eq!(syscall(&host, tenant, 101, &format!(", {request}, 1, 0, 0")), EPERM, "{tenant}");
            let (_, out, _) = host
                .inside(tenant, &format!("sleep 60 & perl -e 'print syscall(101, {request}, '$!', 0, 0)'; kill -9 $!"));
            assert_eq!(out, "0", "{tenant}");
        }
        // pidfd_open, pidfd_getfd.
        let (_, out, _) = host.inside(
            tenant,
            "perl -e '$p = syscall(434, 1, 0); print $p > 0 ? \"held \" : \"no \"; for $n (0..63) { print \"taken\" if syscall(438, $p, $n, 0) >= 0 }'",
        );
        assert_eq!(out, "held ", "{tenant}");
        let closed = "for f in mem maps environ exe cwd root fd ns auxv; do cat /proc/1/$f /proc/1/$f/* >/dev/null 2>&1 && echo $f; \
                      readlink /proc/1/$f; done; true";
        assert_eq!(host.inside(tenant, closed).1, "", "{tenant}");
        // Root inside can still see init.
        assert_eq!(host.inside(tenant, "cut -d' ' -f1 /proc/1/stat").1.trim(), "1", "{tenant}");
        // The OOM killer still prefers processes that init starts.
        assert_eq!(host.inside(tenant, "cat /proc/self/oom_score_adj").1.trim(), "700", "{tenant}");
    }
}

#[test]
fn a_silent_init_affects_only_its_tenant_and_is_replaced() {
    let host = host();
    let tenant = "shell";
    let before = stop(&host, tenant);
    // The door reports within a bounded time that init does not answer, and from then on at once.
    for _ in 0..3 {
        let output = host.cli(&["exec", tenant, "--", "true"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(125) && said.contains("does not answer"), "{said}");
    }
    until("it is known to be silent", || state(&host, tenant) == "unresponsive");
    assert_eq!(state(&host, "web"), "running");
    assert!(host.ok(&["show", tenant]).contains("unresponsive"));
    assert!(host.ok(&["status"]).contains("unresponsive"));
    assert!(host.log().contains("init-silent"), "{}", host.log());
    let report = host.cli(&["audit", tenant]);
    assert!(String::from_utf8_lossy(&report.stdout).contains("BW105"), "{report:?}");
    assert_eq!(host.inside("web", "echo fine").1.trim(), "fine");
    // Init continues and is still the same process.
    process::signal(&before, Signal::CONT).expect("it exists");
    until("it is known to answer", || state(&host, tenant) == "running");
    assert_eq!(host.inside(tenant, "echo fine").1.trim(), "fine");

    // The operator sets the time after which init is replaced.
    let was = host.init(tenant);
    host.write("etc/bailiwick.toml", &host.default_config("replace_silent_init = \"1s\"\n"));
    host.ok(&["apply"]);
    drop(stop(&host, tenant));
    drop(host.cli(&["exec", tenant, "--", "true"]));
    until("it is replaced", || {
        let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
        shown["state"] == "running" && shown["pid"].as_u64().is_some_and(|pid| pid != u64::from(was))
    });
    assert_eq!(host.inside(tenant, "echo again").1.trim(), "again");
    assert!(host.log().contains("init-replaced"), "{}", host.log());
}

#[test]
fn a_session_that_init_takes_but_never_starts_is_given_up() {
    let host = host();
    // Listens in place of init, like one changed by its tenant: it sends `ready`, takes the session, and never
    // answers again.
    let path = host.path("run/jails/web/init.sock");
    std::fs::remove_file(&path).expect("it exists");
    let mut impostor = std::process::Command::new("perl");
    impostor.args(["-MIO::Socket::UNIX", "-e"]).arg(IMPOSTOR).arg(&path);
    let mut impostor = impostor.stdout(std::process::Stdio::piped()).spawn().expect("perl");
    impostor.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it listens");
    let output = host.cli(&["exec", "web", "--", "true"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(125) && said.contains("does not begin"), "{said}");
    impostor.kill().expect("it runs");
    impostor.wait().expect("ends");
}

/// Sends `ready` on every connection and keeps it open.
const IMPOSTOR: &str = r#"
my ($path) = @ARGV;
my $socket = IO::Socket::UNIX->new(Local => $path, Listen => 16) or die $!;
chmod 0666, $path;
$| = 1; print "in\n";
while (my $client = $socket->accept) { push @all, $client; print $client "\x07\0\0\0\"ready\""; $client->flush }
"#;

#[test]
fn a_jail_that_ends_itself_is_removed_and_can_be_started_again() {
    let host = host();
    host.inside("web", "kill -TERM 1; sleep 5");
    until("it is down", || {
        let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", "web", "--json"])).expect("JSON");
        shown["pid"].is_null()
    });
    host.ok(&["start", "web"]);
    assert_eq!(host.inside("web", "echo again").1.trim(), "again");
}
