//! Frozen before asleep: an idle tenant is frozen, and whatever needs it thaws it at once.

use bailiwick_proto::{WardenReply, WardenRequest};
use bailiwick_tests::{Host, name, profiles, until};
use bailiwick_types::FrozenBy;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Answers each connection to the listening socket 3, and keeps those open that do not ask. At its end it leaves a file.
const SERVER: &str = r#"use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new_from_fd(3, "r+") or die $!; $SIG{PIPE} = "IGNORE"; $SIG{CHLD} = "IGNORE"; $SIG{TERM} = sub { open my $f, ">", "$ENV{HOME}/stopped"; exit 0 }; while (1) { my $c = $l->accept or next; if (!fork) { $SIG{TERM} = "DEFAULT"; my $r = <$c>; print $c "HTTP/1.0 200 OK\r\n\r\n$$\n"; exit 0 } close $c; }"#;

fn tenant() -> &'static str {
    profiles()[0]
}

fn sleeper(after: &str, more: &str) -> String {
    format!(
        "plan = \"{}\"\ndoors = [\"exec\", \"cron\", \"socket\"]\n\
         [sleep]\nafter = \"{after}\"\nfreeze_after = \"10s\"\n{more}\
         [[service]]\nname = \"app\"\ncommand = [\"/usr/bin/perl\", \"-e\", {SERVER:?}]\n\
         [[service.socket]]\nname = \"web\"\npass = \"fd\"\n",
        tenant()
    )
}

fn host(tenants: &[&str], text: &str) -> Host {
    let mut host = Host::with_many_ids(u32::try_from(tenants.len()).expect("few") / 16 + 1);
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"www-data\" }\n"));
    for name in tenants {
        host.write(&format!("etc/tenants.d/{name}.toml"), text);
    }
    host.start();
    host.ok(&["apply"]);
    host
}

fn path(host: &Host, tenant: &str) -> PathBuf {
    host.path("run/web").join(tenant).join("web.sock")
}

fn get(path: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn answers(host: &Host, tenant: &str) {
    let answer = get(&path(host, tenant)).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

fn shown(host: &Host, tenant: &str) -> Value {
    serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON")
}

fn state(host: &Host, tenant: &str) -> String {
    shown(host, tenant)["state"].as_str().expect("a word").to_owned()
}

fn becomes(host: &Host, tenant: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while state(host, tenant) != wanted {
        assert!(Instant::now() < deadline, "{tenant} is {}, not {wanted}\n{}", state(host, tenant), host.log());
        // Each look asks the tenant's init, and what that uses is the tenant's work: many looks keep it awake.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Whether the log tells that a tenant was frozen or thawed for this reason.
fn told(host: &Host, event: &str, cause: &str) -> bool {
    let (event, cause) = (format!("event=\"{event}\""), format!("cause=\"{cause}\""));
    host.log().lines().any(|line| line.contains(&event) && line.contains(&cause))
}

/// Freezes a tenant as `bailiwickd` does when it is idle, without its looks.
fn freeze_now(host: &Host, tenant: &str) {
    let request = WardenRequest::Freeze { tenant: name(tenant), by: FrozenBy::Idle };
    assert_eq!(host.warden(&request), WardenReply::Done);
    // `bailiwickd` hears of it so.
    assert_eq!(shown(host, tenant)["frozen_by"], "idle");
}

fn kill(host: &Host, program: &str) {
    let pid = host.program(program);
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("runs").success());
    until("the next one serves", || {
        host.find_program(program).is_some_and(|next| next != pid) && host.cli(&["status"]).status.success()
    });
}

/// The findings of an audit.
fn findings(host: &Host) -> Vec<String> {
    let report: Value = serde_json::from_slice(&host.cli(&["audit", tenant(), "--json"]).stdout).expect("JSON");
    let findings = report["tenants"][0]["findings"].as_array().expect("findings").clone();
    findings.iter().map(|finding| finding["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn an_idle_tenant_is_frozen_and_a_connection_thaws_it_also_after_new_daemons() {
    let host = host(&[tenant()], &sleeper("1h", ""));
    answers(&host, tenant());
    becomes(&host, tenant(), "frozen");
    let detail = shown(&host, tenant());
    assert_eq!(detail["frozen_by"], "idle");
    assert!(host.ok(&["list"]).contains("frozen (idle)"), "{}", host.ok(&["list"]));
    assert!(host.ok(&["show", tenant()]).contains("frozen (idle)"));
    let status: Value = serde_json::from_str(&host.ok(&["status", "--json"])).expect("JSON");
    assert_eq!(status["tenants"]["frozen (idle)"], 1, "{status}");
    assert!(told(&host, "frozen", "idle"), "{}", host.log());
    assert_eq!((host.ok(&["plan"]), host.ok(&["apply"])), (String::new(), String::new()), "nothing is to be done");
    let found = findings(&host);
    assert!(!found.iter().any(|id| id == "BW071" || id.starts_with("BW13")), "{found:?}");
    assert_eq!(state(&host, tenant()), "frozen", "an audit does not thaw it");
    answers(&host, tenant());
    assert_eq!(state(&host, tenant()), "running");
    assert_eq!(shown(&host, tenant())["pid"], detail["pid"], "it is the same jail");
    assert!(told(&host, "thawed", "socket"), "{}", host.log());
    for program in ["bailiwickd", "bailiwick-warden"] {
        becomes(&host, tenant(), "frozen");
        kill(&host, program);
        assert_eq!(shown(&host, tenant())["frozen_by"], "idle", "{program}");
        answers(&host, tenant());
        assert_eq!(shown(&host, tenant())["pid"], detail["pid"], "{program}");
    }
    // Without `freeze_after` it goes on.
    becomes(&host, tenant(), "frozen");
    let text = sleeper("1h", "").replace("freeze_after = \"10s\"\n", "");
    host.write(&format!("etc/tenants.d/{}.toml", tenant()), &text);
    host.ok(&["reload"]);
    becomes(&host, tenant(), "running");
}

#[test]
fn whatever_needs_an_idle_tenant_thaws_it_and_nobody_is_refused() {
    let host = host(&[tenant()], &sleeper("1h", ""));
    answers(&host, tenant());
    let pid = shown(&host, tenant())["pid"].clone();
    let is_running = |what: &str| {
        assert_eq!((state(&host, tenant()), &shown(&host, tenant())["pid"]), ("running".to_owned(), &pid), "{what}");
    };
    freeze_now(&host, tenant());
    assert_eq!(host.inside(tenant(), "echo here").1.trim(), "here");
    is_running("exec");
    for verb in ["wake", "start"] {
        freeze_now(&host, tenant());
        assert!(host.ok(&[verb, tenant(), "--json"]).contains("\"thawed\""), "{verb}");
        is_running(verb);
    }
    freeze_now(&host, tenant());
    assert_eq!(host.ok(&["thaw", tenant()]), "");
    is_running("thaw");
    freeze_now(&host, tenant());
    host.ok(&["logs", tenant()]);
    is_running("logs");
    freeze_now(&host, tenant());
    host.ok(&["service", "restart", tenant(), "app"]);
    is_running("service");
    freeze_now(&host, tenant());
    assert!(!String::from_utf8_lossy(&host.cli(&["audit", tenant(), "--probe"]).stdout).contains("BW111"));
    is_running("audit --probe");
    // Limits are written to a frozen jail, too.
    freeze_now(&host, tenant());
    host.write(&format!("etc/tenants.d/{}.toml", tenant()), &(sleeper("1h", "[limits]\ntasks = 77\n")));
    assert!(host.ok(&["apply"]).contains("limits written"));
    assert_eq!(state(&host, tenant()), "frozen");
    host.ok(&["wake", tenant()]);
    // A tenant that may not sleep any more is not frozen.
    freeze_now(&host, tenant());
    let text = sleeper("1h", "[limits]\ntasks = 77\n").replace("after = \"1h\"\nfreeze_", "");
    host.write(&format!("etc/tenants.d/{}.toml", tenant()), &text.replace("[sleep]\nafter = \"10s\"\n", ""));
    assert_eq!(host.ok(&["apply"]), format!("{}: thawed\n", tenant()));
    is_running("apply");
}

#[test]
fn an_operators_freeze_is_stronger_and_a_stop_of_a_frozen_tenant_is_told_to_its_services() {
    let host = host(&[tenant()], &sleeper("1h", ""));
    answers(&host, tenant());
    freeze_now(&host, tenant());
    assert_eq!(host.ok(&["freeze", tenant()]), "");
    assert_eq!(shown(&host, tenant())["frozen_by"], "operator");
    assert!(!host.ok(&["list"]).contains("idle"));
    for arguments in [&["wake", tenant()][..], &["sleep", tenant()], &["exec", tenant(), "--", "/bin/true"]] {
        let refused = host.cli(arguments);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("`bailiwick thaw"), "{refused:?}");
    }
    let idle = WardenRequest::Freeze { tenant: name(tenant()), by: FrozenBy::Idle };
    assert_eq!(host.warden(&idle), WardenReply::Unchanged, "an idle freeze takes nothing from an operator");
    let refused = host.ask(&WardenRequest::Thaw { tenant: name(tenant()), by: FrozenBy::Idle });
    assert!(matches!(refused, Ok(WardenReply::Failed(_))), "{refused:?}");
    kill(&host, "bailiwick-warden");
    assert_eq!(shown(&host, tenant())["frozen_by"], "operator");
    host.ok(&["thaw", tenant()]);
    assert_eq!(state(&host, tenant()), "running");
    for verb in ["sleep", "stop", "restart"] {
        host.ok(&["start", tenant()]);
        until("its service runs", || get(&path(&host, tenant())).is_ok_and(|answer| answer.contains("200")));
        assert_eq!(host.inside(tenant(), "rm -f /home/*/stopped").0, 0);
        until("nobody is there", || host.ok(&["sessions", tenant(), "--json"]).trim() == "[]");
        freeze_now(&host, tenant());
        host.ok(&[verb, tenant()]);
        host.ok(&["start", tenant()]);
        assert_eq!(host.inside(tenant(), "cat /home/*/stopped").0, 0, "{verb}: it was told to stop\n{}", host.log());
    }
}

#[test]
fn a_due_timer_thaws_it_and_what_stays_idle_falls_asleep() {
    let timer = "[[timer]]\nname = \"often\"\nschedule = \"*:*:0/20\"\ncommand = [\"/bin/true\"]\n";
    let text = sleeper("1m", "");
    let host = host(&["quiet"], &text);
    host.write("etc/tenants.d/busy.toml", &sleeper("1h", "").replace("[sleep]", &format!("{timer}[sleep]")));
    host.ok(&["apply"]);
    until("busy is frozen", || host.log().contains("the jail of busy was frozen: idle"));
    until("its timer thaws it", || host.log().contains("the jail of busy was thawed: cron"));
    until("the timer has run", || host.log().contains("the timer often of busy has ended with 0"));
    becomes(&host, "quiet", "asleep");
    assert!(host.log().contains("the jail of quiet was frozen: idle"), "{}", host.log());
    assert!(host.log().contains("quiet is asleep: idle"), "{}", host.log());
    answers(&host, "quiet");
}

/// Visitors who come at every time before, at and after the moment of the freeze all get their answer.
#[test]
fn who_connects_in_the_moment_of_the_freeze_is_answered() {
    let tenants: Vec<String> = (0..16).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
    let host = host(&names, &sleeper("1h", ""));
    for name in &names {
        until("it answers", || get(&path(&host, name)).is_ok_and(|answer| answer.contains("200")));
    }
    let visits = |number: usize, path: PathBuf| {
        for round in 0..4 {
            // A look each 10 s: the visits of one tenant, and of all together, are spread over this time.
            std::thread::sleep(Duration::from_millis(10_100 + 130 * ((number * 7 + round * 3) % 77) as u64));
            let answer = get(&path).expect("an answer");
            assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        }
    };
    std::thread::scope(|scope| {
        for (number, name) in names.iter().enumerate() {
            let path = path(&host, name);
            scope.spawn(move || visits(number, path));
        }
    });
    let count = |event: &str| host.log().matches(&format!("event=\"{event}\"")).count();
    assert!(count("frozen") > 8 && count("thawed") > 8, "{} {}", count("frozen"), count("thawed"));
    assert_eq!(count("not-frozen") + count("not-thawed"), 0, "{}", host.log());
}

#[test]
fn an_audit_finds_a_frozen_tenant_with_connections_and_a_sleeper_with_processes() {
    let host = host(&[tenant()], &sleeper("1h", ""));
    answers(&host, tenant());
    assert!(!findings(&host).iter().any(|id| id.starts_with("BW13")), "{:?}", findings(&host));
    // A connection that its service has accepted. Nothing but a look of `bailiwickd` thaws it for this.
    let open = UnixStream::connect(path(&host, tenant())).expect("connects");
    until("it is accepted", || host.ok(&["service", "status", tenant(), "--json"]).contains("\"connections\": 1"));
    let freeze = WardenRequest::Freeze { tenant: name(tenant()), by: FrozenBy::Idle };
    until("it is told", || {
        host.warden(&freeze);
        findings(&host).contains(&"BW135".to_owned())
    });
    becomes(&host, tenant(), "running");
    assert!(!findings(&host).contains(&"BW135".to_owned()));
    drop(open);
    let ids = shown(&host, tenant())["ids"]["first"].as_u64().expect("ids") + 1000;
    until("it sleeps", || host.cli(&["sleep", tenant()]).status.success());
    assert!(!findings(&host).iter().any(|id| id.starts_with("BW13")), "{:?}", findings(&host));
    let mut stray = Command::new("setpriv")
        .args([&format!("--reuid={ids}"), &format!("--regid={ids}"), "--clear-groups", "sleep", "1000"])
        .spawn()
        .expect("runs");
    until("it is told", || findings(&host).contains(&"BW134".to_owned()));
    stray.kill().expect("kills");
    stray.wait().expect("ends");
    assert!(!findings(&host).contains(&"BW134".to_owned()));
}
