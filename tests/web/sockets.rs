//! The sockets of services: the host's web server connects to them, whatever happens to the daemons and the tenant.

use bailiwick_tests::{Host, profiles, until};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Answers each connection to the listening socket 3 with its process id.
const SERVER: &str = r#"use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new_from_fd(3, "r+") or die $!; $SIG{PIPE} = "IGNORE"; while (1) { my $c = $l->accept or next; my $r = <$c>; print $c "HTTP/1.0 200 OK\r\n\r\n$$\n"; close $c; }"#;

fn tenant() -> &'static str {
    profiles()[0]
}

/// A table of a service with one socket.
fn service(name: &str, program: &str, socket: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\ncommand = [\"/usr/bin/perl\", \"-e\", {program:?}]\n\
         [[service.socket]]\nname = \"{socket}\"\npass = \"fd\"\n"
    )
}

fn declare(host: &Host, tenant: &str, services: &str) {
    let text = format!("plan = \"{tenant}\"\ndoors = [\"exec\", \"socket\"]\n{services}");
    host.write(&format!("etc/tenants.d/{tenant}.toml"), &text);
}

fn host(services: &str) -> Host {
    let mut host = Host::new();
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"www-data\" }\n"));
    declare(&host, tenant(), services);
    host.start();
    host.ok(&["apply"]);
    host
}

fn path(host: &Host, socket: &str) -> PathBuf {
    host.path("run/web").join(tenant()).join(format!("{socket}.sock"))
}

/// One request. Returns the body of the answer.
fn get(path: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(format!("{answer:?}")))?;
    Ok(body.trim().to_owned())
}

fn answers(host: &Host, socket: &str) -> String {
    let mut body = String::new();
    until("the service answers", || {
        get(&path(host, socket)).is_ok_and(|said| {
            body = said;
            !body.is_empty()
        })
    });
    body
}

/// Requests without a pause until it is dropped, and counts what failed.
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<String>>>,
    done: Arc<AtomicU64>,
}

impl Load {
    fn on(path: PathBuf) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match get(&path) {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failed.push(error.to_string()),
                }
            }
            failed
        });
        Self { stop, thread: Some(thread), done }
    }

    /// Waits for some more requests.
    fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        until("requests go on", || self.done.load(Ordering::Relaxed) > before + 20);
    }

    fn end(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.thread.take().expect("runs").join().expect("ends");
        (self.done.load(Ordering::Relaxed), failed)
    }
}

#[test]
fn a_group_that_the_host_does_not_have_is_told_by_every_command() {
    let mut host = Host::new();
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"no-such-group\" }\n"));
    declare(&host, tenant(), &service("app", SERVER, "web"));
    host.start();
    let told = |arguments: &[&str]| {
        let output = host.cli(arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("no-such-group"), "{arguments:?}: {said}");
        output.status.code()
    };
    assert_eq!(told(&["apply"]), Some(0));
    assert_eq!(told(&["check"]), Some(0), "a warning: a web server may be installed later");
    told(&["status"]);
    told(&["doctor"]);
    // The warden looks again by itself.
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"www-data\" }\n"));
    host.ok(&["reload"]);
    until("the site is served", || get(&path(&host, "web")).is_ok());
}

fn group_id(name: &str) -> u32 {
    let groups = std::fs::read_to_string("/etc/group").expect("a file");
    let line = groups.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":x:"));
    line.expect("the group").split(':').next().expect("a number").parse().expect("a number")
}

#[test]
fn another_group_gets_the_sockets_that_are_there() {
    let host = host(&service("app", SERVER, "web"));
    let served = answers(&host, "web");
    let group = group_id("games");
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"games\" }\n"));
    host.ok(&["reload"]);
    let all = [host.path("run/web"), host.path("run/web").join(tenant()), path(&host, "web")];
    until("the other group has all", || {
        all.iter().all(|one| std::fs::symlink_metadata(one).is_ok_and(|found| found.gid() == group))
    });
    assert_eq!(answers(&host, "web"), served, "the service goes on");
    assert_eq!(host.path("run/web").metadata().expect("a directory").mode() & 0o7777, 0o2750);
}

#[test]
fn a_socket_belongs_to_the_web_servers_group_alone() {
    let host = host(&service("app", SERVER, "web"));
    answers(&host, "web");
    let group = group_id("www-data");
    let file = std::fs::symlink_metadata(path(&host, "web")).expect("a file");
    assert!(file.file_type().is_socket());
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (64999, group, 0o660));
    for directory in [host.path("run/web"), host.path("run/web").join(tenant())] {
        let found = std::fs::metadata(&directory).expect("a directory");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7), (64999, group, 0), "{directory:?}");
    }
    let connects = |uid: u32, gid: u32| {
        let program = "use IO::Socket::UNIX; exit(IO::Socket::UNIX->new(Peer => $ARGV[0]) ? 0 : $!)";
        let mut command = Command::new("/usr/bin/perl");
        command.args(["-e", program]).arg(path(&host, "web")).uid(uid).gid(gid).current_dir("/");
        command.status().expect("runs").code()
    };
    assert_eq!(connects(33, group), Some(0));
    // EACCES, for another user and for the tenant's own ids.
    assert_eq!(connects(65534, 65534), Some(13));
    assert_eq!(connects(host.ids().end - 1, host.ids().end - 1), Some(13));
}

#[test]
fn a_socket_that_others_may_use_is_a_finding() {
    let host = host(&service("app", SERVER, "web"));
    answers(&host, "web");
    let ids = || {
        let report: Value = serde_json::from_slice(&host.cli(&["audit", tenant(), "--json"]).stdout).expect("JSON");
        let findings = report["tenants"][0]["findings"].as_array().expect("findings").clone();
        findings.iter().map(|finding| finding["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    // A connection that the service has accepted and still serves: it belongs to the host's network namespace.
    let open = UnixStream::connect(path(&host, "web")).expect("connects");
    let status = || host.ok(&["service", "status", tenant(), "--json"]);
    until("it is accepted", || status().contains("\"connections\": 1"));
    assert!(!ids().iter().any(|id| id.starts_with("BW13") || id == "BW004"), "{:?}", ids());
    drop(open);
    until("it is over", || status().contains("\"connections\": 0"));
    let mode = |bits| std::fs::Permissions::from_mode(bits);
    // It may be put right before the audit looks.
    until("it is told", || {
        std::fs::set_permissions(path(&host, "web"), mode(0o666)).expect("chmod");
        ids().contains(&"BW130".to_owned())
    });
    until("it is put right", || !ids().contains(&"BW130".to_owned()));
    std::fs::remove_file(path(&host, "web")).expect("removes");
    until("it is made anew", || path(&host, "web").exists());
    answers(&host, "web");
    let shown: Value = serde_json::from_str(&host.ok(&["service", "status", tenant(), "--json"])).expect("JSON");
    assert_eq!(shown[0]["services"][0]["sockets"][0]["connections"], 0, "{shown}");
}

#[test]
fn no_request_fails_while_the_daemons_are_killed() {
    let host = host(&service("app", SERVER, "web"));
    let served = answers(&host, "web");
    let load = Load::on(path(&host, "web"));
    for _ in 0..5 {
        for program in ["bailiwickd", "bailiwick-warden"] {
            load.goes_on();
            let pid = host.program(program);
            assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
            until("it is there again", || host.find_program(program).is_some_and(|new| new != pid));
            load.goes_on();
            until("it answers", || host.cli(&["service", "status", tenant()]).status.success());
        }
    }
    let (done, failed) = load.end();
    assert!(failed.is_empty(), "{} of {done} failed: {:?}\n{}", failed.len(), failed.first(), host.log());
    assert_eq!(answers(&host, "web"), served, "the service was started again");
}

#[test]
fn a_restart_of_everything_serves_the_same_jail_again() {
    let mut host = host(&service("app", SERVER, "web"));
    answers(&host, "web");
    let init = host.init(tenant());
    host.end();
    host.start();
    let begun = Instant::now();
    answers(&host, "web");
    // The sockets are new, and the services get them at once: not in the next round, which comes after 30 s.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(host.init(tenant()), init);
}

#[test]
fn a_listener_that_its_tenant_broke_is_made_anew() {
    let broken = r#"use Socket; open L, "+<&=3"; shutdown(L, 0); sleep 1000"#;
    let host = host(&(service("bad", broken, "bad") + &service("app", SERVER, "web")));
    answers(&host, "web");
    let neighbour = Load::on(path(&host, "web"));
    until("it is told", || host.log().contains("listener-broken"));
    let (_, failed) = neighbour.end();
    assert!(failed.is_empty(), "{failed:?}");
    let shown: Value = serde_json::from_str(&host.ok(&["service", "status", tenant(), "--json"])).expect("JSON");
    assert!(shown.to_string().contains("problem"), "{shown}");
    // With a program that leaves the socket alone, it serves.
    declare(&host, tenant(), &(service("bad", SERVER, "bad") + &service("app", SERVER, "web")));
    host.ok(&["apply"]);
    answers(&host, "bad");
    answers(&host, "web");
}

#[test]
fn a_socket_that_left_the_policy_is_gone_and_a_new_one_is_there() {
    let host = host(&service("app", SERVER, "web"));
    answers(&host, "web");
    declare(&host, tenant(), &service("app", SERVER, "other"));
    host.ok(&["apply"]);
    answers(&host, "other");
    until("the old one is gone", || !path(&host, "web").exists());
    std::fs::remove_file(host.path(&format!("etc/tenants.d/{}.toml", tenant()))).expect("removes");
    host.ok(&["apply"]);
    until("the tenant's directory is gone", || !host.path("run/web").join(tenant()).exists());
}

#[test]
fn what_crosses_tells_nothing_of_the_hosts_network() {
    // SIOCGIFCONF, SIOCGIFNAME, SIOCGSKNS on an accepted connection; SO_PEERPIDFD; and that it is no way out.
    let program = r#"use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new_from_fd(3, "r+"); $SIG{PIPE} = "IGNORE";
        while (1) { my $c = $l->accept or next; my $r = <$c>; my @told;
            for my $request (0x8912, 0x8910, 0x894C) { my $b = pack("x64"); push @told, defined(ioctl($c, $request, $b)) ? "told" : "no"; }
            push @told, defined(getsockopt($c, 1, 77)) ? "told" : "no";
            my $nobody = "\0" x 16; push @told, syscall(42, fileno $c, $nobody, 16) == 0 ? "told" : "no";
            print $c "HTTP/1.0 200 OK\r\n\r\n@told\n"; close $c; }"#;
    let host = host(&service("app", program, "web"));
    assert_eq!(answers(&host, "web"), "no no no no no");
}
