//! Entries: requests beyond the limit of a socket are refused by the web server, and counted as faults of the tenant.

use bailiwick_tests::web::{Response, WebServer};
use bailiwick_tests::{Host, profiles, until};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Answers each connection in a process of its own. A request for `/hold` leaves a file and is not answered, and one for `/own` is
/// answered with 503.
const SERVER: &str = r#"use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new_from_fd(3, "r+") or die $!; $SIG{CHLD} = "IGNORE"; $SIG{PIPE} = "IGNORE";
    while (1) { my $c = $l->accept or next; next if fork; my $first = <$c>; while (my $r = <$c>) { last if $r eq "\r\n"; }
        if ($first =~ /hold/) { open my $f, ">", "$ENV{HOME}/held"; close $f; sleep 300 } print $c "HTTP/1.0 503 No\r\n\r\nown" if $first =~ /own/; print $c "HTTP/1.0 200 OK\r\n\r\nhello\n"; close $c; exit; }"#;

/// The longest wait for what the sample of a minute writes.
const SAMPLE_TIME: Duration = Duration::from_secs(120);

fn tenant() -> &'static str {
    profiles()[0]
}

/// A host with a tenant whose only socket takes one request at a time.
fn host() -> Host {
    let mut host = Host::new();
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"www-data\" }\n"));
    let text = format!(
        "plan = \"{}\"\ndoors = [\"exec\", \"socket\"]\n\
         [[service]]\nname = \"app\"\ncommand = [\"/usr/bin/perl\", \"-e\", {SERVER:?}]\n\
         [[service.socket]]\nname = \"web\"\npass = \"fd\"\nentries = 1\n",
        tenant()
    );
    host.write(&format!("etc/tenants.d/{}.toml", tenant()), &text);
    host.start();
    host.ok(&["apply"]);
    host
}

fn nginx(host: &Host) -> WebServer {
    let folder = host.path("nginx");
    host.ok(&["web", "nginx", "--write", &folder.display().to_string()]);
    let http = format!("include {}/bailiwick.conf;", folder.display());
    let locations = format!("include {}/bailiwick.d/{}.conf;", folder.display(), tenant());
    WebServer::nginx(&http, &locations)
}

fn json(host: &Host, command: &[&str]) -> Value {
    serde_json::from_str(&host.ok(&[command, &["--json"]].concat())).expect("JSON")
}

/// The incident of the limit `entries`, if there is one.
fn incident(host: &Host) -> Option<Value> {
    let all = json(host, &["incidents"]);
    all.as_array().expect("rows").iter().find(|incident| incident["kind"] == "entries").cloned()
}

/// The same with its evidence.
fn evidence(host: &Host) -> Value {
    let id = incident(host).expect("an incident")["id"].to_string();
    json(host, &["incidents", "--show", &id])
}

/// Takes the only place: a request that is not answered as long as the stream is open.
fn hold(host: &Host, server: &WebServer) -> TcpStream {
    until("the site answers", || server.get("/", &[]).is_ok_and(|answer| answer.status == 200));
    let open = || {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("connects");
        stream.set_nonblocking(true).expect("set");
        stream.write_all(b"GET /hold HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("writes");
        stream
    };
    let mut stream = open();
    until("the service holds it", || {
        // The web server may not have forgotten the request before yet, and then it refuses this one.
        if stream.peek(&mut [0]).is_ok() {
            stream = open();
        }
        host.inside(tenant(), &format!("rm /home/{}/held", tenant())).0 == 0
    });
    stream
}

fn refused(nginx: &WebServer) -> Response {
    let mut last = None;
    until("a request is refused", || {
        last = nginx.get("/", &[]).ok();
        last.as_ref().is_some_and(|answer| answer.status == 508)
    });
    last.expect("an answer")
}

#[test]
fn a_request_that_nginx_refuses_is_a_fault_with_evidence() {
    let host = host();
    let nginx = nginx(&host);
    let held = hold(&host, &nginx);
    let counted = || {
        let open = json(&host, &["sessions"]);
        open.as_array().expect("rows").iter().any(|one| one["door"] == "socket" && one["connections"] == 1)
    };
    until("the connection is a row of the sessions", counted);
    assert!(host.ok(&["sessions", tenant()]).contains("web: 1 connection"));
    let running = || json(&host, &["usage", "--now"])[0]["services"]["running"] == 1;
    until("the service is counted", running);
    assert!(refused(&nginx).field("Retry-After").is_some());
    until("there is an incident", || incident(&host).is_some());
    let found = evidence(&host);
    assert_eq!(found["tenant"], tenant());
    let evidence = &found["snapshots"][0];
    let sockets = evidence["sockets"].as_array().expect("sockets");
    assert_eq!(sockets.len(), 1, "{found}");
    assert_eq!((&sockets[0]["socket"], &sockets[0]["connections"]), (&Value::from("web"), &Value::from(1)), "{found}");
    assert!(sockets[0]["refused"].as_u64() >= Some(1), "{found}");
    let perl = |process: &Value| process["command"] == "perl";
    assert!(evidence["processes"].as_array().expect("processes").iter().any(perl), "{found}");
    let shown = host.ok(&["incidents", "--show", &found["id"].to_string()]);
    assert!(shown.contains("SOCKET") && shown.contains("web"), "{shown}");
    // The sample of a minute writes the count.
    let deadline = Instant::now() + SAMPLE_TIME;
    let usage = loop {
        let usage = json(&host, &["usage"]);
        if usage[0]["faults"]["entries"].as_u64() >= Some(1) {
            break usage;
        }
        assert!(Instant::now() < deadline, "{usage}\n{}", host.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(usage[0]["tenant"], tenant());
    let faults = json(&host, &["faults"]);
    let of_entries = |fault: &&Value| fault["limit"] == "entries" && fault["tenant"] == tenant();
    assert!(faults.as_array().expect("rows").iter().any(|fault| of_entries(&fault)), "{faults}");
    drop(held);
    until("there is a place again", || nginx.get("/", &[]).is_ok_and(|answer| answer.status == 200));
}

#[test]
fn a_request_that_apache_refuses_is_a_fault_and_an_answer_of_the_service_is_none() {
    let host = host();
    let folder = host.path("apache");
    host.ok(&["web", "apache", "--write", &folder.display().to_string()]);
    // Each process of Apache has a count of its own.
    let server = format!(
        "StartServers 1\nServerLimit 1\nThreadsPerChild 25\nMaxRequestWorkers 25\nInclude {}/bailiwick.conf",
        folder.display()
    );
    let apache = WebServer::apache(&server, &format!("Include {}/bailiwick.d/{}.conf", folder.display(), tenant()));
    until("the site answers", || apache.get("/", &[]).is_ok_and(|answer| answer.status == 200));
    let own = apache.get("/own", &[]).expect("an answer");
    assert_eq!((own.status, own.field("X-Bailiwick")), (503, None), "{own:?}");
    assert!(own.text().starts_with("own"), "{own:?}");
    assert_eq!(incident(&host), None);
    let _held = hold(&host, &apache);
    let mut refused = None;
    until("a request is refused", || {
        refused = apache.get("/", &[]).ok();
        refused.as_ref().is_some_and(|answer| answer.status == 503)
    });
    assert_eq!(refused.expect("an answer").field("Retry-After"), Some("5"));
    until("there is an incident", || incident(&host).is_some());
    let found = evidence(&host);
    assert_eq!(found["tenant"], tenant());
    assert!(found["faults"].as_u64() >= Some(1), "{found}");
    assert_eq!(found["snapshots"][0]["sockets"][0]["socket"], "web", "{found}");
}

#[test]
fn the_count_goes_on_after_a_killed_daemon_and_nonsense_counts_nothing() {
    let host = host();
    let nginx = nginx(&host);
    let path = host.path("run/web/refused.sock");
    until("there is a socket", || path.exists());
    let stat = rustix::fs::stat(&path).expect("a file");
    let above = rustix::fs::stat(path.parent().expect("a directory")).expect("a directory");
    assert_eq!((stat.st_mode & 0o7777, stat.st_gid), (0o660, above.st_gid));
    let client = UnixDatagram::unbound().expect("a socket");
    client.connect(&path).expect("connects");
    let other = "<190>Nov 29 06:31:15 bailiwick: nobody-here.web";
    for datagram in [&b"x"[..], &[0; 2000], other.as_bytes()] {
        client.send(datagram).expect("sends");
    }
    assert_eq!(incident(&host), None);
    let _held = hold(&host, &nginx);
    refused(&nginx);
    let faults = || incident(&host).and_then(|incident| incident["faults"].as_u64()).unwrap_or(0);
    until("it is counted", || faults() > 0);
    let daemon = host.program("bailiwickd");
    let inode = fs::metadata(&path).map(|file| std::os::unix::fs::MetadataExt::ino(&file)).expect("a file");
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kills");
    // Nobody listens, and nginx answers.
    refused(&nginx);
    until("there is another socket", || {
        fs::metadata(&path).is_ok_and(|file| std::os::unix::fs::MetadataExt::ino(&file) != inode)
    });
    let before = {
        until("bailiwickd answers", || host.cli(&["status"]).status.success());
        faults()
    };
    until("it is counted again", || {
        refused(&nginx);
        faults() > before
    });
}
