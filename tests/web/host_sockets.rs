//! Sockets of the host that are lent to tenants: what is behind them sees the tenant's host user, and the program between both has
//! nothing that would be worth taking.

use bailiwick_tests::{Host, profiles, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Connects, sends a line, closes its half, and prints the answer.
const CLIENT: &str = r#"use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!\n"; print $s "hello\n"; $s->flush; shutdown $s, 1; print <$s>;"#;

/// A directory in the host's `/run`, where daemons have their sockets.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let path = tempfile::Builder::new().prefix("bwtest").tempdir_in("/run").expect("a directory").keep();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s.sock")
    }

    /// A program of the host: it says who the client is, and then echoes what comes.
    fn serve(&self) {
        let listener = UnixListener::bind(self.socket()).expect("binds");
        fs::set_permissions(self.socket(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn echo(mut stream: UnixStream) -> Option<()> {
    let peer = bailiwick_sys::socket::peer(&stream).ok()?;
    writeln!(stream, "{} {}", peer.uid, peer.gid).ok()?;
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer).ok()?;
        if len == 0 {
            return stream.shutdown(std::net::Shutdown::Write).ok();
        }
        stream.write_all(&buffer[..len]).ok()?;
    }
}

fn configure(host: &Host, sockets: &[(&str, &Path)], connections: u32) {
    let table = |(name, path): &(&str, &Path)| {
        format!("[[host_socket]]\nname = \"{name}\"\npath = \"{}\"\nconnections = {connections}\n", path.display())
    };
    let all: String = sockets.iter().map(table).collect();
    host.write("etc/bailiwick.toml", &host.default_config(&all));
}

fn declare(host: &Host, tenant: &str, plan: &str, sockets: &str) {
    let text = format!("plan = \"{plan}\"\nhost_sockets = [{sockets}]\n");
    host.write(&format!("etc/tenants.d/{tenant}.toml"), &text);
}

/// A host with the tenant `alice`, who may use the socket `db` of the place.
fn lent(place: &Place, connections: u32) -> Host {
    let mut host = Host::new();
    configure(&host, &[("db", &place.socket())], connections);
    declare(&host, "alice", profiles()[0], "\"db\"");
    host.start();
    host.ok(&["apply"]);
    host
}

fn json(host: &Host, arguments: &[&str]) -> Value {
    serde_json::from_str(&host.ok(arguments)).expect("JSON")
}

fn shown(host: &Host, tenant: &str) -> Value {
    json(host, &["show", tenant, "--json"])
}

/// What a client inside gets.
fn ask(host: &Host, tenant: &str, user: &str, path: &str) -> String {
    let arguments = ["exec", "--user", user, tenant, "--", "/usr/bin/perl", "-e", CLIENT, path];
    let output = host.cli(&arguments);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn inside() -> &'static str {
    "/run/host/sockets/db/s.sock"
}

/// The socket that a tenant sees, as the host's root reaches it.
fn door(host: &Host, tenant: &str) -> PathBuf {
    host.path(&format!("run/lent/{tenant}/sockets/db/s.sock"))
}

/// The process that serves a tenant's socket.
fn lender(host: &Host, tenant: &str) -> Option<u32> {
    let group = shown(host, tenant)["cgroup"]["unified"].as_str()?.to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4))?;
    let members = fs::read_to_string(format!("{mount}{group}/lent-db/cgroup.procs")).ok()?;
    let pids: Vec<u32> = members.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(pids.len() <= 1, "{pids:?}");
    let pid = *pids.first()?;
    // Until then it is the warden's child.
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (command == "bailiwick-lend\n").then_some(pid)
}

fn served(host: &Host, tenant: &str) -> u32 {
    let mut pid = None;
    until("the socket is served", || {
        pid = lender(host, tenant).filter(|pid| status(*pid, "Seccomp") == "2");
        pid.is_some()
    });
    pid.expect("served")
}

fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Connects as the tenant's programs do, and reads the first line.
fn connect(host: &Host, tenant: &str) -> UnixStream {
    let mut stream = None;
    until("the socket is served", || {
        let made = UnixStream::connect(door(host, tenant)).ok().filter(|made| line(made).is_some());
        stream = made;
        stream.is_some()
    });
    stream.expect("connected")
}

fn line(mut stream: &UnixStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("sets");
    let mut text = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).ok()? == 1 {
        if byte == *b"\n" {
            return String::from_utf8(text).ok();
        }
        text.push(byte[0]);
    }
    None
}

fn goes_on(mut stream: &UnixStream) {
    stream.write_all(b"still here\n").expect("it can be written");
    assert_eq!(line(stream).as_deref(), Some("still here"));
}

fn findings(host: &Host) -> Vec<String> {
    let report: Value = serde_json::from_slice(&host.cli(&["audit", "--json"]).stdout).expect("JSON");
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    let of_tenants = report["tenants"].as_array().cloned().unwrap_or_default();
    let of_tenants = of_tenants.iter().flat_map(|tenant| tenant["findings"].as_array().cloned().unwrap_or_default());
    let text = |finding: Value| format!("{} {}", finding["id"], finding["evidence"]);
    all.into_iter().chain(of_tenants).map(text).collect()
}

#[test]
fn what_is_behind_a_lent_socket_sees_the_tenants_host_user() {
    let place = Place::new();
    place.serve();
    let mut host = Host::new();
    configure(&host, &[("db", &place.socket())], 20);
    for profile in profiles() {
        declare(&host, profile, profile, "\"db\"");
    }
    declare(&host, "neighbour", profiles()[0], "");
    host.start();
    host.ok(&["apply"]);
    let mut users = BTreeSet::new();
    for tenant in profiles() {
        served(&host, tenant);
        let user = shown(&host, tenant)["host_user"].as_u64().expect("a host user");
        users.insert(user);
        let golden = format!("{user} 64998\nhello\n");
        // Where it is on the host, and where all are.
        for path in [place.socket().to_str().expect("a path"), inside()] {
            for login in [tenant, "root"] {
                assert_eq!(ask(&host, tenant, login, path), golden, "{tenant}, {login}, {path}");
            }
        }
        let socket = &shown(&host, tenant)["host_sockets"]["db"];
        assert_eq!((&socket["served"], &socket["refused"]), (&Value::Bool(true), &Value::from(0)), "{socket}");
        // Nobody inside can take its place, not even root.
        let line = "cd /run/host/sockets && (rm -f db/s.sock; mv db x; mkdir y; touch db/z) 2>/dev/null; find . | sort";
        assert_eq!(host.inside(tenant, line).1, ".\n./db\n./db/s.sock\n", "{tenant}");
    }
    assert_eq!(users.len(), profiles().len(), "each tenant is another user");
    let nothing = format!("ls -A /run/host/sockets; ls -d {} 2>/dev/null; true", place.0.display());
    assert_eq!(host.inside("neighbour", &nothing).1, "");
    assert!(shown(&host, "neighbour").get("host_sockets").is_none());
    assert!(shown(&host, "neighbour")["host_user"].is_null());
    let found = findings(&host);
    let wrong = ["BW004", "BW020", "BW024", "BW072", "BW080", "BW081", "BW088", "BW136", "BW137"];
    assert!(!found.iter().any(|finding| wrong.iter().any(|id| finding.contains(id))), "{found:#?}");
    let audit = String::from_utf8(host.cli(&["audit"]).stdout).expect("text");
    assert!(audit.contains("lending"), "{audit}");
}

#[test]
fn the_program_between_both_has_nothing_to_take() {
    let place = Place::new();
    place.serve();
    fs::write(place.0.join("secret"), "x").expect("writes");
    let host = lent(&place, 3);
    let pid = served(&host, "alice");
    let user = shown(&host, "alice")["host_user"].as_u64().expect("a host user");
    assert_eq!(status(pid, "Uid"), [user, user, user, user].map(|uid| uid.to_string()).join(" "));
    assert_eq!((status(pid, "Gid"), status(pid, "Groups")), ("64998 64998 64998 64998".to_owned(), String::new()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Threads")), ("1".to_owned(), "1".to_owned()));
    assert!(status(pid, "Seccomp_filters").parse::<u32>().expect("a number") >= 2);
    // Its root is the directory of the host's socket, read-only, and no other mount is there.
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / ro,nosuid,nodev,noexec"), "{mounts}");
    let root = |path: PathBuf| fs::metadata(path).map(|found| (found.dev(), found.ino())).expect("a directory");
    assert_eq!(root(format!("/proc/{pid}/root").into()), root(place.0.clone()));
    let init = host.init("alice");
    let namespace = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    assert_eq!(namespace(pid, "net"), namespace(init, "net"));
    assert_ne!(namespace(pid, "mnt"), namespace(init, "mnt"));
    // It has the null device, its listening socket, its counts and its epoll set.
    let mut open = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten() {
        let path = fs::read_link(entry.path()).expect("a link").to_string_lossy().into_owned();
        open.insert(path.split([':', '(']).next().unwrap_or_default().to_owned());
    }
    let kinds: Vec<String> = open.iter().map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect();
    let golden: BTreeSet<&str> = ["db.counts", "null", "anon_inode", "socket"].into();
    assert_eq!(kinds.iter().map(String::as_str).collect::<BTreeSet<_>>(), golden, "{open:?}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let limit = |name: &str| {
        let row = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        row.split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        (limit("Max file size"), limit("Max open files"), limit("Max core file size")),
        ("24".into(), "70".into(), "1".into())
    );
    assert!(fs::read_to_string(format!("/proc/{pid}/environ")).expect("its environment").is_empty());
    // It is in every group of the tenant, so the tenant pays for it.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
    for (hierarchy, path) in shown(&host, "alice")["cgroup"].as_object().expect("groups") {
        let path = path.as_str().expect("a path");
        assert!(groups.lines().any(|line| line.contains(path)), "{hierarchy}: {groups}");
    }
    // No other user of the host reaches the tenant's socket.
    let line = format!("perl -e '{CLIENT}' {}", door(&host, "alice").display());
    let other =
        Command::new("setpriv").args(["--reuid=12345", "--regid=12345", "--clear-groups", "sh", "-c", &line]).output();
    assert!(String::from_utf8_lossy(&other.expect("runs").stderr).contains("Permission denied"));
}

#[test]
fn open_connections_outlive_both_daemons() {
    let place = Place::new();
    place.serve();
    let mut host = lent(&place, 20);
    let open = connect(&host, "alice");
    let pid = served(&host, "alice");
    for _ in 0..3 {
        for name in ["bailiwick-warden", "bailiwickd"] {
            let Some(daemon) = host.find_program(name) else { continue };
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(daemon.cast_signed()).expect("a number"),
                rustix::process::Signal::KILL,
            )
            .expect("kills");
            until("there is another", || host.find_program(name).is_some_and(|other| other != daemon));
            until("it answers", || host.cli(&["show", "alice"]).status.success());
            goes_on(&open);
            goes_on(&connect(&host, "alice"));
            assert_eq!(served(&host, "alice"), pid, "nothing is started again");
        }
    }
    // All of it, and started anew.
    host.kill();
    host.start();
    until("it answers", || host.cli(&["show", "alice"]).status.success());
    goes_on(&open);
    assert_eq!((served(&host, "alice"), findings(&host).iter().any(|finding| finding.contains("BW13"))), (pid, false));
    host.ok(&["stop", "alice"]);
    assert_eq!(line(&open), None, "it ends with the jail");
    assert!(!host.path("run/lent/alice").exists());
}

#[test]
fn another_list_needs_no_restart() {
    let place = Place::new();
    place.serve();
    let host = lent(&place, 20);
    let (init, open) = (host.init("alice"), connect(&host, "alice"));
    declare(&host, "alice", profiles()[0], "");
    let plan = |host: &Host| String::from_utf8_lossy(&host.cli(&["plan"]).stdout).into_owned();
    assert!(plan(&host).contains("host sockets  db      none      live"), "{}", plan(&host));
    host.ok(&["apply"]);
    assert_eq!(line(&open), None, "what is lent no more ends at once");
    until("its group is gone", || !plan(&host).contains("host sockets"));
    assert_eq!(host.inside("alice", "ls -A /run/host/sockets").1, "");
    declare(&host, "alice", profiles()[0], "\"db\"");
    host.ok(&["apply"]);
    until("it is lent", || ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    assert_eq!(host.init("alice"), init, "the jail goes on");
    // What the host declares of a socket is followed at once.
    let pid = served(&host, "alice");
    configure(&host, &[("db", &place.socket())], 1);
    host.ok(&["reload"]);
    until("another process serves it", || lender(&host, "alice").is_some_and(|other| other != pid));
    let _one = connect(&host, "alice");
    assert_eq!(
        UnixStream::connect(door(&host, "alice")).map(|mut second| second.read(&mut [0]).ok()).ok(),
        Some(Some(0))
    );
    configure(&host, &[], 1);
    // The tenant's file now names what the host does not lend. That is an error of this file, and lends nothing.
    let reload = host.cli(&["reload"]);
    assert_eq!(reload.status.code(), Some(2), "{}", String::from_utf8_lossy(&reload.stderr));
    until("nobody serves what is not declared", || lender(&host, "alice").is_none());
}

#[test]
fn a_tenant_that_opens_a_thousand_is_told_off_and_harms_nobody() {
    let place = Place::new();
    place.serve();
    let mut host = Host::new();
    configure(&host, &[("db", &place.socket())], 5);
    for tenant in ["alice", "bob"] {
        declare(&host, tenant, profiles()[0], "\"db\"");
    }
    host.start();
    host.ok(&["apply"]);
    served(&host, "alice");
    let line = r#"perl -e '$| = 1; use IO::Socket::UNIX; my (@held, $kept); for (1..1000) { my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or next;
        my $l = <$s>; if (defined $l) { $kept++; push @held, $s } } print "$kept\n"; <STDIN>' /run/host/sockets/db/s.sock"#;
    let mut command = host.command(&["exec", "alice", "--", "/bin/sh", "-c", line]);
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("runs");
    let mut said = [0; 2];
    child.stdout.as_mut().expect("piped").read_exact(&mut said).expect("reads");
    assert_eq!(&said, b"5\n");
    assert!(ask(&host, "bob", "bob", inside()).ends_with("hello\n"), "the neighbour is served");
    let socket = shown(&host, "alice")["host_sockets"]["db"].clone();
    assert_eq!((&socket["connections"], &socket["refused"]), (&Value::from(5), &Value::from(995)));
    drop(child.stdin.take());
    child.wait().expect("ends");
    until("all are over", || shown(&host, "alice")["host_sockets"]["db"]["connections"] == 0);
    assert!(ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
}

#[test]
fn a_database_may_come_and_go() {
    let place = Place::new();
    let host = lent(&place, 20);
    let problem = |host: &Host| {
        host.ok(&["status"]).contains(&format!("socket \"db\" is not there ({}", place.socket().display()))
    };
    until("the status names it", || problem(&host));
    let refused = ask(&host, "alice", "alice", inside());
    assert!(refused.contains("connect: No such file") || refused.contains("connect: Connection refused"), "{refused}");
    assert_eq!(shown(&host, "alice")["host_sockets"]["db"]["served"], Value::Bool(false));
    place.serve();
    until("it is served", || ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    until("the status is clean", || !problem(&host));
    // A restarted daemon makes a new file, or even a new directory (`RuntimeDirectory=`, systemd.exec(5)).
    fs::remove_file(place.socket()).expect("removes");
    until("who comes is refused", || ask(&host, "alice", "alice", inside()).contains("connect: Connection refused"));
    fs::remove_dir(&place.0).expect("removes");
    until("the status names it", || problem(&host));
    fs::create_dir(&place.0).expect("makes");
    place.serve();
    until("it is served", || ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    // The directory is replaced while the process runs.
    let pid = served(&host, "alice");
    let aside = place.0.with_extension("aside");
    fs::rename(&place.0, &aside).expect("renames");
    fs::create_dir(&place.0).expect("makes");
    place.serve();
    until("another process serves it", || lender(&host, "alice").is_some_and(|other| other != pid));
    assert!(ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    fs::remove_dir_all(&aside).expect("removes");
}

#[test]
fn an_old_connection_keeps_nobody_from_a_server_that_was_started_again() {
    let place = Place::new();
    place.serve();
    let host = lent(&place, 20);
    // The server ends, but a client keeps its connection: here the server's thread goes on, elsewhere a client reads nothing.
    let open = connect(&host, "alice");
    let pid = served(&host, "alice");
    fs::remove_file(place.socket()).expect("removes");
    for _ in 0..3 {
        let refused = ask(&host, "alice", "alice", inside());
        assert!(!refused.contains("hello"), "{refused}");
    }
    goes_on(&open);
    place.serve();
    until("the new server is reached", || ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    goes_on(&open);
    assert_eq!(served(&host, "alice"), pid, "the process goes on with both");
    // Another directory in its place: the process that has the old one is replaced.
    let aside = place.0.with_extension("aside");
    fs::rename(&place.0, &aside).expect("renames");
    assert!(!ask(&host, "alice", "alice", inside()).is_empty());
    fs::create_dir(&place.0).expect("makes");
    place.serve();
    until("the new server is reached", || lender(&host, "alice").is_some_and(|other| other != pid));
    until("it is served", || ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    fs::remove_dir_all(&aside).expect("removes");
    drop(open);
    // With nobody connected, who comes is refused as without a database.
    fs::remove_file(place.socket()).expect("removes");
    until("who comes is refused", || ask(&host, "alice", "alice", inside()).contains("connect: Connection refused"));
}

#[test]
fn nothing_is_lent_as_a_user_of_the_host() {
    let place = Place::new();
    place.serve();
    let host = lent(&place, 20);
    declare(&host, "sys", profiles()[0], "\"db\"");
    assert_eq!(host.cli(&["apply"]).status.code(), Some(4));
    let told = |what: &str| host.ok(&["status"]).contains(what);
    until("the status names it", || told("is not lent to \"sys\": the host has a user \"sys\" with the id 3"));
    assert_eq!(
        (lender(&host, "sys"), shown(&host, "sys")["host_sockets"]["db"]["served"].clone()),
        (None, false.into())
    );
    // Somebody else takes the id of a tenant that is connected.
    let open = connect(&host, "alice");
    let record = host.path(&format!("userdb/{}.user", shown(&host, "alice")["host_user"]));
    fs::remove_file(&record).expect("removes");
    std::os::unix::fs::symlink("bob.user", &record).expect("links");
    assert_eq!(line(&open), None, "it ends at once");
    until("the status names it", || told("is not lent to \"alice\": ") && told("is a record of another service"));
    assert_eq!(lender(&host, "alice"), None);
    fs::remove_file(&record).expect("removes");
    until("it is lent again", || ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
}

#[test]
fn a_saved_file_changes_nothing_before_it_is_read_by_command() {
    let (place, other) = (Place::new(), Place::new());
    for place in [&place, &other] {
        place.serve();
    }
    let sockets = [("db", place.socket()), ("other", other.socket())];
    let sockets: Vec<(&str, &Path)> = sockets.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let mut host = Host::new();
    configure(&host, &sockets, 20);
    declare(&host, "alice", profiles()[0], "\"db\", \"other\"");
    host.start();
    host.ok(&["apply"]);
    let (pid, open) = (served(&host, "alice"), connect(&host, "alice"));
    let path = host.path("etc/bailiwick.toml");
    configure(&host, &sockets[1..], 1);
    let text = fs::read_to_string(&path).expect("reads");
    fs::write(&path, text.replace("disk = \"1M\"", "disk = \"900T\"")).expect("writes");
    // The warden has read the file, and has looked for sockets since.
    until("the reserve is read", || host.ok(&["status"]).contains("900T"));
    fs::remove_file(other.socket()).expect("removes");
    until("the warden has looked", || host.ok(&["status"]).contains("\"other\" is not there"));
    goes_on(&open);
    assert_eq!(lender(&host, "alice"), Some(pid));
    assert_eq!(host.cli(&["reload"]).status.code(), Some(2), "alice's file names a socket that the host lends no more");
    assert_eq!(line(&open), None, "it is not declared any more");
    until("nobody serves it", || lender(&host, "alice").is_none());
}

#[test]
fn a_socket_that_tenants_cannot_use_is_told() {
    let place = Place::new();
    place.serve();
    let host = lent(&place, 20);
    let told = |what: &str| host.ok(&["status"]).contains(what);
    let doctor = |host: &Host| String::from_utf8_lossy(&host.cli(&["doctor"]).stdout).into_owned();
    served(&host, "alice");
    let chmod = |mode| fs::set_permissions(place.socket(), std::os::unix::fs::PermissionsExt::from_mode(mode));
    let all = "1 tenant(s), \"alice\" first,";
    // The server does not let the host user in.
    chmod(0o600).expect("chmod");
    assert!(!ask(&host, "alice", "alice", inside()).contains("hello"));
    let remedy = "make it writable for the group \"64998\", or for everybody";
    until("the status names it", || told(&format!("{all} may not open the host's socket \"db\"")) && told(remedy));
    assert!(doctor(&host).contains(remedy), "{}", doctor(&host));
    chmod(0o666).expect("chmod");
    assert!(ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    assert!(!told("may not open") && !doctor(&host).contains(remedy));
    // It is no stream socket.
    fs::remove_file(place.socket()).expect("removes");
    let _datagrams = std::os::unix::net::UnixDatagram::bind(place.socket()).expect("binds");
    chmod(0o666).expect("chmod");
    until("the status names it", || {
        ask(&host, "alice", "alice", inside());
        told("it is no stream socket")
    });
    assert!(doctor(&host).contains("it is no stream socket"), "{}", doctor(&host));
    // It is a link.
    fs::rename(place.socket(), place.0.join("real")).expect("renames");
    std::os::unix::fs::symlink(place.0.join("real"), place.socket()).expect("links");
    until("the status names it", || told("s.sock\" is a link; write the path of the socket that it leads to"));
    assert!(lender(&host, "alice").is_none() && doctor(&host).contains("is a link"), "{}", doctor(&host));
}

#[test]
fn no_alias_and_no_user_of_the_host_leads_a_tenant_elsewhere() {
    let place = Place::new();
    place.serve();
    let mut host = Host::new();
    let (alias, deep) = (place.0.join("alias"), place.0.join("deep"));
    std::os::unix::fs::symlink(host.path("run"), &alias).expect("links");
    fs::create_dir(&deep).expect("makes");
    let listener = UnixListener::bind(deep.join("s.sock")).expect("binds");
    fs::set_permissions(deep.join("s.sock"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            echo(stream);
        }
    });
    let paths = [("db", place.socket()), ("deep", deep.join("s.sock")), ("own", alias.join("control.sock"))];
    let paths: Vec<(&str, &Path)> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
    configure(&host, &paths, 20);
    declare(&host, "alice", profiles()[0], "\"db\", \"deep\", \"own\"");
    host.start();
    assert_eq!(host.cli(&["apply"]).status.code(), Some(7), "not all is in force");
    let check = host.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2));
    let check = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
    assert!(check.contains("leads to a directory of Bailiwick"), "{check}");
    let told = |what: &str| host.ok(&["status"]).contains(what);
    let asked = |name: &str| ask(&host, "alice", "alice", &format!("/run/host/sockets/{name}"));
    until("the others are lent", || {
        asked("db/s.sock").ends_with("hello\n") && asked("deep/s.sock").ends_with("hello\n")
    });
    until("the status names it", || told("\"own\" is lent to nobody") && told("leads to a directory of Bailiwick"));
    assert!(asked("own/control.sock").contains("connect: "));
    // The directory of the socket may be the server's. One above it may not: its owner could put another in its place.
    std::os::unix::fs::chown(&place.0, Some(12_345), None).expect("chown");
    until("the status names it", || told("\"deep\" is lent to nobody") && told("others than root may change"));
    assert!(asked("deep/s.sock").contains("connect: "));
    assert!(asked("db/s.sock").ends_with("hello\n"));
    let doctor = String::from_utf8_lossy(&host.cli(&["doctor"]).stdout).into_owned();
    assert!(doctor.contains("others than root may change"), "{doctor}");
}

#[test]
fn a_process_that_is_killed_comes_back_and_ends_with_its_jail() {
    let place = Place::new();
    place.serve();
    let host = lent(&place, 20);
    let kill = |pid: u32| Command::new("kill").args(["-9", &pid.to_string()]).status().expect("runs");
    let pid = served(&host, "alice");
    kill(pid);
    until("another one serves", || lender(&host, "alice").is_some_and(|other| other != pid));
    until("it serves", || ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    assert!(host.log().contains("event=host-socket-ended socket=db"), "{}", host.log());
    let last = served(&host, "alice");
    kill(host.init("alice"));
    until("it ends with init", || !Path::new(&format!("/proc/{last}")).exists());
    until("the new jail has its own", || lender(&host, "alice").is_some_and(|other| other != last));
    host.ok(&["freeze", "alice"]);
    host.ok(&["thaw", "alice"]);
    assert!(ask(&host, "alice", "alice", inside()).ends_with("hello\n"));
    host.ok(&["stop", "alice"]);
    assert_eq!(host.leftovers(), [""; 0]);
}

#[test]
fn a_program_in_the_group_of_a_lent_socket_is_a_finding() {
    let place = Place::new();
    place.serve();
    let host = lent(&place, 20);
    let pid = served(&host, "alice");
    let procs = |pid: u32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
        let own = groups.lines().find_map(|line| line.strip_prefix("0::")).expect("the unified hierarchy").to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
        format!("{}{own}/cgroup.procs", mount.expect("it is mounted"))
    };
    let own = procs(std::process::id());
    let mut stranger = Command::new("sleep").arg("600").spawn().expect("runs");
    fs::write(procs(pid), stranger.id().to_string()).expect("moves it");
    let found = findings(&host);
    fs::write(own, stranger.id().to_string()).expect("moves it back");
    stranger.kill().expect("kills");
    stranger.wait().expect("ends");
    assert!(found.iter().any(|finding| finding.contains("BW137") && finding.contains("sleep")), "{found:#?}");
}

/// PostgreSQL knows its clients by `SO_PEERCRED` alone (`peer`).
#[test]
fn postgresql_knows_the_tenant_as_its_peer() {
    let programs =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let Some(programs) = programs.filter(|bin| bin.join("initdb").exists()).max() else {
        eprintln!("postgresql_knows_the_tenant_as_its_peer: not tested here, there is no PostgreSQL on this machine");
        return;
    };
    let place = Place::new();
    let socket = place.0.join(".s.PGSQL.5432");
    let mut host = Host::new();
    configure(&host, &[("postgresql", &socket)], 20);
    declare(&host, "alice", profiles()[0], "\"postgresql\"");
    declare(&host, "bob", profiles()[0], "\"postgresql\"");
    host.start();
    host.ok(&["apply"]);
    let user = |tenant: &str| shown(&host, tenant)["host_user"].as_u64().expect("a host user");
    // The host of this test has no systemd that knows the host users, so the server sees a user database with them.
    let known: String = ["alice", "bob"].map(|name| format!("{name}:x:{}:64998::/:/bin/false\n", user(name))).concat();
    let passwd = host.path("passwd");
    let own = "bwpostgres:x:64990:64990::/:/bin/sh\n";
    fs::write(&passwd, fs::read_to_string("/etc/passwd").expect("reads") + own + &known).expect("writes");
    let data = host.path("postgres");
    let line = format!(
        "mount --bind {passwd} /etc/passwd && mkdir {data} && chown 64990:64990 {data} {place} && \
         exec setpriv --reuid=64990 --regid=64990 --clear-groups sh -c '{bin}/initdb -D {data} -U owner -A trust >/dev/null && \
         printf \"local all owner trust\\nlocal all all peer\\n\" > {data}/pg_hba.conf && \
         exec {bin}/postgres -D {data} -c listen_addresses= -c unix_socket_directories={place}'",
        passwd = passwd.display(),
        data = data.display(),
        place = place.0.display(),
        bin = programs.display(),
    );
    let log = fs::File::create(host.path("postgres.log")).expect("a log");
    let mut server = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", &line])
        .stderr(log)
        .spawn()
        .expect("runs");
    let sql = |user: &str, text: &str| {
        let mut command = Command::new(programs.join("psql"));
        command.args(["-h", place.0.to_str().expect("a path"), "-U", user, "-d", "postgres", "-tAc", text]);
        command.output().expect("runs")
    };
    until("PostgreSQL answers", || {
        let ended = server.try_wait().expect("wait");
        assert!(ended.is_none(), "{}", fs::read_to_string(host.path("postgres.log")).expect("reads"));
        sql("owner", "select 1").status.success()
    });
    assert!(
        sql("owner", "create role alice login").status.success()
            && sql("owner", "create role bob login").status.success()
    );
    let psql = |tenant: &str, role: &str| {
        let query = format!(
            "{}/psql -h {} -U {role} -d postgres -tAc 'select current_user' 2>&1",
            programs.display(),
            place.0.display()
        );
        host.inside(tenant, &query).1
    };
    until("alice is herself", || psql("alice", "alice") == "alice\n");
    until("bob is himself", || psql("bob", "bob") == "bob\n");
    for (tenant, role) in [("alice", "bob"), ("bob", "alice")] {
        let said = psql(tenant, role);
        assert!(said.contains("Peer authentication failed"), "{tenant} as {role}: {said}");
    }
    Command::new("kill").arg(server.id().to_string()).status().expect("runs");
    server.wait().expect("ends");
}
