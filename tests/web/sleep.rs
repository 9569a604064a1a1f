//! Sleep: an idle tenant costs no process, and whatever wants it wakes it.

use bailiwick_tests::{Host, profiles, until};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Answers each connection to the listening socket 3.
const SERVER: &str = r#"use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new_from_fd(3, "r+") or die $!; $SIG{PIPE} = "IGNORE"; while (1) { my $c = $l->accept or next; my $r = <$c>; print $c "HTTP/1.0 200 OK\r\n\r\n$$\n"; close $c; }"#;

fn tenant() -> &'static str {
    profiles()[0]
}

fn sleeper(plan: &str, program: &str, more: &str) -> String {
    format!(
        "plan = \"{plan}\"\ndoors = [\"exec\", \"cron\", \"socket\"]\n\
         [sleep]\nafter = \"1m\"\n{more}\
         [[service]]\nname = \"app\"\ncommand = [\"/usr/bin/perl\", \"-e\", {program:?}]\n\
         [[service.socket]]\nname = \"web\"\npass = \"fd\"\n"
    )
}

fn host(tenants: &[(&str, String)]) -> Host {
    let mut host = Host::with_many_ids(u32::try_from(tenants.len()).expect("few") / 16 + 1);
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"www-data\" }\n"));
    for (name, text) in tenants {
        host.write(&format!("etc/tenants.d/{name}.toml"), text);
    }
    host.start();
    host
}

fn path(host: &Host, tenant: &str) -> PathBuf {
    host.path("run/web").join(tenant).join("web.sock")
}

fn get(path: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    // Long enough for fifty at once in an emulated machine.
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn state(host: &Host, tenant: &str) -> String {
    let shown: Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    shown["state"].as_str().expect("a word").to_owned()
}

fn becomes(host: &Host, tenant: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while state(host, tenant) != wanted {
        assert!(Instant::now() < deadline, "{tenant} is {}, not {wanted}\n{}", state(host, tenant), host.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Puts a tenant to sleep as soon as nothing holds it awake.
fn to_sleep(host: &Host, tenant: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let asked = host.cli(&["sleep", tenant]);
        if asked.status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "{tenant} does not fall asleep: {asked:?}\n{}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    becomes(host, tenant, "asleep");
}

#[test]
fn a_tenant_that_may_sleep_is_not_started_and_a_connection_wakes_it() {
    let host = host(&[(tenant(), sleeper(tenant(), SERVER, ""))]);
    host.ok(&["apply"]);
    until("it has its ids and its socket", || path(&host, tenant()).exists());
    to_sleep(&host, tenant());
    assert!(host.processes().is_empty(), "{:?}", host.processes());
    let answer = get(&path(&host, tenant())).expect("an answer");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(state(&host, tenant()), "running");
    to_sleep(&host, tenant());
    host.ok(&["apply"]);
    assert_eq!(state(&host, tenant()), "asleep", "apply wakes nobody");
}

#[test]
fn a_session_and_a_verb_wake_it_and_a_stop_is_for_good() {
    let host = host(&[(tenant(), sleeper(tenant(), SERVER, ""))]);
    host.ok(&["apply"]);
    to_sleep(&host, tenant());
    let (status, out, err) = host.inside(tenant(), "echo here");
    assert_eq!((status, out.trim()), (0, "here"), "{err}");
    to_sleep(&host, tenant());
    host.ok(&["wake", tenant()]);
    becomes(&host, tenant(), "running");
    host.ok(&["stop", tenant()]);
    becomes(&host, tenant(), "stopped");
    let (status, _, err) = host.inside(tenant(), "true");
    assert_ne!(status, 0, "{err}");
    assert!(!host.cli(&["wake", tenant()]).status.success());
    assert_eq!(state(&host, tenant()), "stopped");
    host.ok(&["start", tenant()]);
    becomes(&host, tenant(), "running");
}

#[test]
fn a_due_timer_wakes_it() {
    let timer = "[[timer]]\nname = \"often\"\nschedule = \"*:*:0/5\"\ncommand = [\"/bin/sh\", \"-c\", \"date >> /home/$USER/ran\"]\n";
    let text = sleeper(tenant(), SERVER, "") + timer;
    let host = host(&[(tenant(), text)]);
    host.ok(&["apply"]);
    to_sleep(&host, tenant());
    until("the timer wakes it", || state(&host, tenant()) == "running" || host.log().contains("timer-ended"));
}

#[test]
fn it_does_not_sleep_while_somebody_is_there() {
    let slow = r#"use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new_from_fd(3, "r+"); while (1) { my $c = $l->accept; push @all, $c; syswrite $c, "hello\n"; }"#;
    let host = host(&[(tenant(), sleeper(tenant(), slow, ""))]);
    host.ok(&["apply"]);
    let mut stream = UnixStream::connect(path(&host, tenant())).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).expect("an answer");
    let refused = host.cli(&["sleep", tenant()]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("connection"), "{refused:?}");
    drop(stream);
    let mut session = host.command(&["exec", tenant(), "--", "/bin/sh", "-c", "echo in; sleep 1000"]);
    let mut session = session.stdout(std::process::Stdio::piped()).spawn().expect("runs");
    session.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 2]).expect("it is in");
    let refused = host.cli(&["sleep", tenant()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("session"), "{refused:?}");
    session.kill().expect("kills");
    session.wait().expect("ends");
    // The service keeps what it accepted, and nobody is at the other end.
    to_sleep(&host, tenant());
}

#[test]
fn whoever_waits_for_a_service_keeps_its_tenant_awake() {
    let host = host(&[(tenant(), sleeper(tenant(), "sleep 100000", ""))]);
    host.ok(&["apply"]);
    until("its socket is there", || path(&host, tenant()).exists());
    host.ok(&["wake", tenant()]);
    let _waiting = UnixStream::connect(path(&host, tenant())).expect("connects");
    let refused = host.cli(&["sleep", tenant()]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("its socket \"web\" has 1 connection"), "{refused:?}");
    let told: Value = serde_json::from_str(&host.ok(&["service", "status", tenant(), "--json"])).expect("JSON");
    assert!(told.to_string().contains("\"connections\":1"), "{told}");
}

#[test]
fn who_waits_while_the_jail_ends_is_served_by_the_next_one() {
    // It takes nothing in its first life.
    let program = format!(
        "if (!-e \"$ENV{{HOME}}/again\") {{ open my $f, \">\", \"$ENV{{HOME}}/again\"; close $f; sleep 100000 }} {SERVER}"
    );
    let host = host(&[(tenant(), sleeper(tenant(), &program, ""))]);
    host.ok(&["apply"]);
    until("its socket is there", || path(&host, tenant()).exists());
    // Its storage is there, and nobody has run the service.
    to_sleep(&host, tenant());
    let begun = Instant::now();
    drop(host.inside(tenant(), "rm -f /home/*/again"));
    let is_fast = begun.elapsed() < Duration::from_secs(1);
    to_sleep(&host, tenant());
    let socket = path(&host, tenant());
    let visitor = std::thread::spawn(move || {
        let begun = Instant::now();
        (get(&socket), begun.elapsed())
    });
    until("the service has begun its first life", || {
        state(&host, tenant()) == "running" && host.inside(tenant(), "ls /home/*/again").0 == 0
    });
    let init = host.init(tenant()).to_string();
    assert!(std::process::Command::new("kill").args(["-9", &init]).status().expect("kill").success());
    let (answer, taken) = visitor.join().expect("ends");
    assert!(answer.expect("an answer").starts_with("HTTP/1.0 200"), "{}", host.log());
    if is_fast {
        assert!(taken < Duration::from_secs(9), "it waited {taken:?}, as long as for a service that accepts nothing");
    } else {
        println!("how long a visitor waits is NOT checked: this machine takes long for every wake");
    }
}

#[test]
fn a_service_that_fails_answers_503_and_is_not_woken_in_a_loop() {
    let host = host(&[(tenant(), sleeper(tenant(), "exit 1", ""))]);
    host.ok(&["apply"]);
    until("it failed", || host.log().contains("service-failed"));
    to_sleep(&host, tenant());
    let socket = path(&host, tenant());
    let visit = || (0..20).map(|_| get(&socket).unwrap_or_else(|error| error.to_string())).collect::<Vec<_>>();
    let all: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(visit)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("ends")).collect()
    });
    let refused = all.iter().filter(|text| text.starts_with("HTTP/1.1 503") && text.contains("Retry-After")).count();
    assert_eq!(refused, 1000, "{:?}", all.iter().find(|text| !text.starts_with("HTTP/1.1 503")));
    let woken = host.log().matches("event=\"awake\"").count();
    assert!(woken < 10, "woken {woken} times");
}

#[test]
fn two_hundred_sleepers_survive_the_daemon_and_fifty_wake_at_once() {
    let tenants: Vec<(String, String)> = (0..200).map(|n| (format!("t{n}"), sleeper(tenant(), SERVER, ""))).collect();
    let tenants: Vec<(&str, String)> = tenants.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    let host = host(&tenants);
    host.ok(&["apply"]);
    let names: Vec<&str> = tenants.iter().map(|(name, _)| *name).collect();
    let asleep = || host.ok(&["list", "--json"]).matches("\"asleep\"").count();
    let verb: Vec<&str> = ["sleep"].iter().chain(&names).copied().collect();
    until("all are asleep", || {
        drop(host.cli(&verb));
        asleep() == 200
    });
    let pid = host.program("bailiwickd");
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
    let paths: Vec<PathBuf> = names.iter().step_by(4).map(|name| path(&host, name)).collect();
    let all: Vec<_> = paths.into_iter().map(|path| std::thread::spawn(move || get(&path))).collect();
    for one in all {
        let answer = one.join().expect("ends").expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    assert_eq!(asleep(), 150, "nobody else was woken");
}
