//! Services: init keeps the declared programs of a tenant running, and nobody else's time goes to them.

use bailiwick_tests::{Host, profiles, until};
use serde_json::Value;
use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

/// The services of a test: each a name, a shell line, and more keys of its table.
type Declared<'a> = &'a [(&'a str, &'a str, &'a str)];

fn tenant() -> &'static str {
    profiles()[0]
}

fn declare(host: &Host, tenant: &str, services: Declared<'_>) {
    let mut text = format!("plan = \"{tenant}\"\ndoors = [\"exec\"]\n");
    for (name, line, more) in services {
        writeln!(text, "[[service]]\nname = \"{name}\"\ncommand = [\"/bin/sh\", \"-c\", {line:?}]\n{more}")
            .expect("text");
    }
    host.write(&format!("etc/tenants.d/{tenant}.toml"), &text);
}

fn host(services: Declared<'_>) -> Host {
    let mut host = Host::new();
    declare(&host, tenant(), services);
    host.start();
    host.ok(&["apply"]);
    host
}

/// What `service status` says of one service.
fn status(host: &Host, name: &str) -> Value {
    let text = host.ok(&["service", "status", tenant(), name, "--json"]);
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let service = &all[0]["services"][0];
    assert_eq!(service["name"], name, "{text}");
    service.clone()
}

fn state(host: &Host, name: &str) -> String {
    status(host, name)["report"]["state"].as_str().unwrap_or("unknown").to_owned()
}

fn pid(host: &Host, name: &str) -> u64 {
    status(host, name)["report"]["pid"].as_u64().unwrap_or(0)
}

fn becomes(host: &Host, name: &str, wanted: &str) {
    let mut last = String::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while last != wanted {
        assert!(Instant::now() < deadline, "{name} is {last}, not {wanted}: {}\n{}", status(host, name), host.log());
        std::thread::sleep(Duration::from_millis(20));
        last = state(host, name);
    }
}

fn inside(host: &Host, line: &str) -> String {
    host.inside(tenant(), line).1.trim().to_owned()
}

/// The log of a service, as it is inside.
fn log(host: &Host, name: &str) -> String {
    inside(host, &format!("cat /home/{}/.local/state/services/{name}.log", tenant()))
}

#[test]
fn a_service_runs_as_the_login_user_and_comes_back_when_it_is_killed() {
    let line = "echo I am $(id -u) in $(pwd) with $COLOUR; echo wrong >&2; exec sleep 1000";
    let host = host(&[("app", line, "env = { COLOUR = \"blue\" }")]);
    becomes(&host, "app", "running");
    let home = format!("/home/{}", tenant());
    until("its output is in the log", || log(&host, "app").contains("wrong"));
    let said = log(&host, "app");
    let first = said.lines().find(|line| line.ends_with(&format!("I am 1000 in {home} with blue"))).expect("a line");
    // 2026-01-01T00:00:00.000Z
    assert!(first.as_bytes()[10] == b'T' && first.as_bytes()[23] == b'Z', "{first}");
    let before = pid(&host, "app");
    assert!(before > 1);
    inside(&host, &format!("kill -9 {before}"));
    until("it runs again", || pid(&host, "app") > before);
    becomes(&host, "app", "running");
    let report = status(&host, "app")["report"].clone();
    assert_eq!((&report["restarts"], &report["last_end"]["killed"]), (&1.into(), &9.into()), "{report}");
    let printed = host.ok(&["logs", tenant(), "app"]);
    assert!(printed.contains("I am 1000"), "{printed}");
}

#[test]
fn a_log_that_is_no_file_holds_nobody_up() {
    let host = host(&[("app", "echo here; exec sleep 1000", "")]);
    until("its output is in the log", || log(&host, "app").contains("here"));
    inside(&host, &format!("cd /home/{}/.local/state/services && rm app.log && mkfifo app.log", tenant()));
    let mut logs = host.command(&["logs", tenant(), "app"]).spawn().expect("runs");
    until("it ends", || logs.try_wait().expect("waits").is_some());
}

#[test]
fn a_changed_service_restarts_alone_and_one_that_left_is_ended() {
    let host = host(&[("one", "exec sleep 1000", ""), ("two", "exec sleep 1001", ""), ("gone", "exec sleep 1002", "")]);
    for name in ["one", "two", "gone"] {
        becomes(&host, name, "running");
    }
    let (init, one, two) = (host.init(tenant()), pid(&host, "one"), pid(&host, "two"));
    declare(&host, tenant(), &[("one", "exec sleep 1000", ""), ("two", "exec sleep 1001", "env = { X = \"1\" }")]);
    host.ok(&["apply"]);
    until("the changed one is new", || pid(&host, "two") > two);
    until("the third has ended", || !inside(&host, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("sleep 1002"));
    assert_eq!((host.init(tenant()), pid(&host, "one")), (init, one));
    host.ok(&["apply"]);
    assert_eq!(pid(&host, "one"), one);
}

#[test]
fn a_service_that_exits_at_once_is_told_and_takes_nobodys_time() {
    let host =
        host(&[("bad", "exit 3", ""), ("good", "exec sleep 1000", ""), ("once", "exit 4", "restart = \"never\"")]);
    becomes(&host, "good", "running");
    until("it was started again some times", || status(&host, "bad")["report"]["restarts"].as_u64() > Some(3));
    assert_eq!(status(&host, "bad")["report"]["last_end"]["exited"], 3);
    becomes(&host, "once", "failed");
    until("the event is in the log", || host.log().contains("service-failed"));
    let shown = host.ok(&["status"]);
    assert!(shown.contains("bad"), "{shown}");
    // The pause has grown: it stays down for longer than a second.
    until("the pause grows", || status(&host, "bad")["report"]["restarts"].as_u64() > Some(5));
    let restarts = || status(&host, "bad")["report"]["restarts"].as_u64().expect("a number");
    let before = restarts();
    std::thread::sleep(Duration::from_secs(1));
    assert!(restarts() - before <= 1, "it is restarted in a loop");
}

#[test]
fn verbs_start_and_stop_it_and_a_name_that_is_not_there_is_told() {
    let host = host(&[("app", "exec sleep 1000", "")]);
    becomes(&host, "app", "running");
    host.ok(&["service", "stop", tenant(), "app"]);
    becomes(&host, "app", "stopped");
    host.ok(&["apply"]);
    assert_eq!(state(&host, "app"), "stopped");
    host.ok(&["service", "start", tenant(), "app"]);
    becomes(&host, "app", "running");
    let before = pid(&host, "app");
    host.ok(&["service", "restart", tenant()]);
    until("it is another process", || pid(&host, "app") > before);
    let failed = host.cli(&["service", "restart", tenant(), "nothing"]);
    assert_eq!(failed.status.code(), Some(3), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("app"), "{failed:?}");
    let failed = host.cli(&["service", "stop", "nobody-here", "app"]);
    assert_eq!(failed.status.code(), Some(3), "{failed:?}");
}

#[test]
fn a_service_that_ignores_its_signal_is_killed_with_all_it_started() {
    let line = "trap '' TERM; sleep 1003 & while :; do sleep 0.1; done";
    let host = host(&[("deaf", line, "stop = { signal = \"TERM\", within = \"1s\" }")]);
    becomes(&host, "deaf", "running");
    host.ok(&["service", "stop", tenant(), "deaf"]);
    becomes(&host, "deaf", "stopped");
    until("nothing of it is left", || !inside(&host, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("sleep 1003"));
}

#[test]
fn services_start_in_order_when_the_earlier_one_is_ready() {
    let notify = "sleep 0.5; echo first > /home/$USER/first; systemd-notify --ready 2>/dev/null || \
                  perl -e 'use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $ENV{NOTIFY_SOCKET}) or die; $s->send(\"READY=1\")'; \
                  exec sleep 1000";
    let second = "test -e /home/$USER/first && echo in order; exec sleep 1000";
    let host = host(&[("web", second, "after = [\"db\"]"), ("db", notify, "ready = \"notify\"")]);
    becomes(&host, "web", "running");
    becomes(&host, "db", "running");
    until("it says so", || log(&host, "web").contains("in order"));
}

#[test]
fn services_go_on_when_both_daemons_are_killed() {
    let host = host(&[("app", "exec sleep 1000", "")]);
    becomes(&host, "app", "running");
    let before = pid(&host, "app");
    for program in ["bailiwickd", "bailiwick-warden"] {
        for _ in 0..3 {
            let pid = host.program(program);
            assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
            until("it is there again", || host.find_program(program).is_some_and(|new| new != pid));
            until("it answers", || host.cli(&["service", "status", tenant(), "app"]).status.success());
        }
    }
    becomes(&host, "app", "running");
    assert_eq!((pid(&host, "app"), status(&host, "app")["report"]["restarts"].as_u64()), (before, Some(0)));
    // Killed while no daemon looks, it comes back all the same.
    inside(&host, &format!("kill -9 {before}"));
    until("it runs again", || pid(&host, "app") > before);
}

#[test]
fn a_flood_of_output_is_bounded_and_a_session_still_enters() {
    let host = host(&[("loud", "yes a line of a flood", "log = { size = \"64K\", keep = 1 }")]);
    becomes(&host, "loud", "running");
    let directory = format!("/home/{}/.local/state/services", tenant());
    until("it was rotated", || inside(&host, &format!("ls {directory}")).contains("loud.log.1"));
    until("it says what is missing", || inside(&host, &format!("cat {directory}/loud.log*")).contains("dropped"));
    let size: u64 = inside(&host, &format!("cat {directory}/loud.log* | wc -c")).parse().expect("a number");
    assert!(size <= 3 * (64 << 10), "{size}");
    assert_eq!(inside(&host, "echo here"), "here");
}

#[test]
fn a_limit_of_a_service_stops_it_and_not_its_neighbour() {
    let line = "exec perl -e '$x = \"x\" x (1 << 20); push @a, $x . $_ for 1 .. 200; sleep 1000'";
    let host = host(&[
        ("greedy", line, "restart = \"never\"\nlimits = { memory = \"24M\", tasks = 10 }"),
        ("calm", "exec sleep 1000", ""),
    ]);
    becomes(&host, "calm", "running");
    let calm = pid(&host, "calm");
    becomes(&host, "greedy", "failed");
    assert_eq!((status(&host, "greedy")["report"]["last_end"]["killed"].as_u64(), pid(&host, "calm")), (Some(9), calm));
    host.ok(&["stop", tenant()]);
    assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
}

#[test]
fn the_tenant_manages_its_own_from_inside() {
    let host = host(&[("app", "echo hello; exec sleep 1000", "")]);
    becomes(&host, "app", "running");
    let as_login = |line: &str| host.ok(&["exec", "--user", tenant(), tenant(), "--", "/bin/sh", "-c", line]);
    let listed = as_login("bailiwick-service list");
    assert!(listed.contains("app") && listed.contains("running"), "{listed}");
    let before = pid(&host, "app");
    as_login("bailiwick-service restart app");
    until("it is another process", || pid(&host, "app") > before);
    assert!(as_login("bailiwick-service logs app").contains("hello"));
    let (status, _, err) = host.inside(tenant(), "bailiwick-service stop nothing");
    assert_eq!(status, 3, "{err}");
    // Another user inside may not.
    let (status, _, _) =
        host.inside(tenant(), "setpriv --reuid 33 --regid 33 --clear-groups bailiwick-service stop app");
    assert_ne!(status, 0);
    assert_eq!(state(&host, "app"), "running");
}

#[test]
fn programs_that_cannot_start_say_why() {
    let mut host = Host::new();
    let text = format!(
        "plan = \"{0}\"\n[[service]]\nname = \"none\"\ncommand = [\"/no/such/program\"]\n\
         [[service]]\nname = \"nowhere\"\ncommand = [\"/bin/true\"]\ndirectory = \"/no/such/directory\"\n",
        tenant()
    );
    host.write(&format!("etc/tenants.d/{}.toml", tenant()), &text);
    host.start();
    host.ok(&["apply"]);
    for name in ["none", "nowhere"] {
        until("it has failed", || status(&host, name)["report"]["last_end"]["not-started"].as_i64() == Some(2));
    }
    let shown = host.ok(&["service", "status", tenant()]);
    assert!(shown.contains("No such file"), "{shown}");
    for (name, golden) in [
        ("none", "cannot execute \"/no/such/program\": No such file"),
        ("nowhere", "cannot enter the directory \"/no/such/directory\": No such file"),
    ] {
        until("its log says what", || host.ok(&["logs", tenant(), name]).contains(golden));
    }
}

#[test]
fn services_have_their_own_time_to_end_with_the_jail() {
    let saves = "trap 'sleep 4; echo saved >> /home/$USER/saved; exit 0' TERM; echo up >> /home/$USER/up; while :; do sleep 0.1; done";
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    let host =
        host(&[("saves", saves, "stop = { within = \"1m\" }\n"), ("deaf", deaf, "stop = { within = \"1s\" }\n")]);
    let lines = |file: &str| {
        let text = inside(&host, &format!("cat /home/*/{file} 2>/dev/null || true"));
        text.lines().count()
    };
    for (verbs, count) in [(&["restart"][..], 1), (&["stop", "start"], 2)] {
        until("the service runs", || lines("up") == count);
        for verb in verbs {
            host.ok(&[verb, tenant()]);
        }
        assert_eq!(lines("saved"), count, "{verbs:?}: it was killed while it saved");
    }
}
