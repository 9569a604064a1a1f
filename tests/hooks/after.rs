//! Hooks and webhooks after events, with the real `bailiwick-notify`: in order, at least once, whoever is killed meanwhile.

use crate::runner::Runner;
use crate::{NOTIFY, hook, out};
use bailiwick_tests::{Host, until};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, channel};

/// A host whose deliveries are made by a user of its own.
fn host() -> Host {
    let host = Host::new();
    let notices = format!("notices = {{ user = \"{NOTIFY}\" }}\n");
    host.write("etc/bailiwick.toml", &host.default_config(&notices));
    host.declare("alice", "web");
    host.declare("bob", "web");
    out(&host);
    host
}

/// What a hook has written, a line of JSON for each run.
fn runs(host: &Host) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out(host).join("log")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn seqs(runs: &[serde_json::Value], tenant: &str) -> Vec<u64> {
    runs.iter().filter(|run| run["tenant"] == tenant).map(|run| run["seq"].as_u64().expect("a number")).collect()
}

/// Waits until `bailiwick-notify` takes events: what happened before its first start is told to nobody.
fn ready(host: &Host) {
    until("it takes events", || {
        let output = host.cli(&["notices", "dead", "--json"]);
        output.status.success()
    });
    // A first event that comes through shows that the cursor is set.
    let mut round = 0;
    until("an event has come", || {
        if round % 100 == 0 {
            host.ok(&["suspend", "bob"]);
            host.ok(&["unsuspend", "bob"]);
        }
        round += 1;
        !runs(host).is_empty()
    });
}

#[test]
fn a_hook_that_fails_runs_again_and_the_next_event_of_its_tenant_waits() {
    let mut host = host();
    let out = out(&host);
    // The first run for alice fails.
    let program = format!(
        "cat > {out}/$$; printf '%s\\n' \"$(cat {out}/$$)\" >> {out}/log\n\
         if grep -q alice {out}/$$ && [ ! -e {out}/failed ]; then touch {out}/failed; echo 'try later' >&2; exit 1; fi",
        out = out.display()
    );
    hook(&host, "log", &program, "on = [\"tenant.suspended\", \"tenant.unsuspended\"]");
    host.start();
    let runner = Runner::start(&host);
    ready(&host);
    host.ok(&["suspend", "alice"]);
    host.ok(&["unsuspend", "alice"]);
    until("three runs for alice", || seqs(&runs(&host), "alice").len() >= 3);
    let alice = seqs(&runs(&host), "alice");
    assert_eq!(alice[0], alice[1], "the same event again: {alice:?}");
    assert!(alice[2] > alice[1] && alice.len() == 3, "in their order: {alice:?}");
    let kinds: Vec<String> =
        runs(&host).iter().filter(|run| run["tenant"] == "alice").map(|run| run["type"].to_string()).collect();
    assert_eq!(kinds, ["\"tenant.suspended\"", "\"tenant.suspended\"", "\"tenant.unsuspended\""]);
    assert!(runs(&host).iter().all(|run| run["when"] == "after"));
    assert_eq!(runner.log(), "");
}

#[test]
fn a_delivery_whose_program_was_killed_is_made_again() {
    let mut host = host();
    let out = out(&host);
    let program = format!(
        "cat > {out}/$$; printf '%s\\n' \"$(cat {out}/$$)\" >> {out}/log\n\
         if grep -q alice {out}/$$ && [ ! -e {out}/go ]; then exec sleep 1000; fi",
        out = out.display()
    );
    hook(&host, "log", &program, "on = [\"tenant.suspended\", \"tenant.unsuspended\"]\ntimeout = \"5m\"");
    host.start();
    let _runner = Runner::start(&host);
    ready(&host);
    host.ok(&["suspend", "alice"]);
    until("it runs for alice", || seqs(&runs(&host), "alice").len() == 1);
    let before = host.program("bailiwick-notify");
    let pid = i32::try_from(before).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    std::fs::write(out.join("go"), "").expect("writes");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    until("it is delivered again", || seqs(&runs(&host), "alice").len() == 2);
    let alice = seqs(&runs(&host), "alice");
    assert_eq!(alice[0], alice[1]);
    host.ok(&["unsuspend", "alice"]);
    until("the next one comes", || seqs(&runs(&host), "alice").len() == 3);
}

/// What a receiver got: the head in small letters, and the body.
type Request = (BTreeMap<String, String>, serde_json::Value);

/// A receiver that answers each request with the next of these, and with the last one from then on.
fn receiver(answers: &'static [&'static str]) -> (u16, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            let mut byte = [0];
            while !bytes.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).expect("a head");
                bytes.push(byte[0]);
            }
            let text = String::from_utf8(bytes).expect("text");
            let head: BTreeMap<String, String> = text
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let mut body = vec![0; head["content-length"].parse().expect("a number")];
            stream.read_exact(&mut body).expect("a body");
            let answer = answers[index.min(answers.len() - 1)];
            write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").expect("answers");
            if sender.send((head, serde_json::from_slice(&body).expect("JSON"))).is_err() {
                return;
            }
        }
    });
    (port, requests)
}

#[test]
fn a_receiver_gets_each_event_again_until_it_takes_it_and_nothing_once_it_is_gone() {
    let mut host = host();
    let (port, requests) = receiver(&["500 No", "200 OK", "410 Gone"]);
    let text = format!(
        "url = \"http://127.0.0.1:{port}/in\"\ntypes = [\"tenant.suspended\", \"tenant.unsuspended\"]\n\
         secrets = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\nallow = [\"127.0.0.1\"]\n"
    );
    host.write("etc/webhooks.d/panel.toml", &text);
    let path = host.path("etc/webhooks.d/panel.toml");
    std::os::unix::fs::chown(&path, None, Some(NOTIFY)).expect("chown");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    let out = out(&host);
    hook(
        &host,
        "log",
        &format!("printf '%s\\n' \"$(cat)\" >> {out}/log", out = out.display()),
        "on = [\"tenant.suspended\"]",
    );
    host.start();
    let _runner = Runner::start(&host);
    host.ok(&["check"]);
    ready(&host);
    let next = || requests.recv_timeout(std::time::Duration::from_secs(90)).expect("a request");
    let (first, again) = (next(), next());
    assert_eq!(first.1, again.1, "the same event");
    assert_eq!(first.0["webhook-id"], again.0["webhook-id"], "the same delivery");
    assert!(
        first.0["webhook-signature"].starts_with("v1,") && first.0["webhook-timestamp"] != again.0["webhook-timestamp"]
    );
    assert_eq!(first.1["data"]["tenant"], "bob");
    // The next one finds that the receiver is gone. Then it gets no further request, and the operator can see why.
    next();
    host.ok(&["suspend", "alice"]);
    until("the deliveries are dead", || {
        let dead = host.ok(&["notices", "dead", "--json"]);
        dead.contains("410") && dead.contains("panel")
    });
    until("another target has gone on", || seqs(&runs(&host), "alice").len() == 1);
    assert!(requests.try_recv().is_err(), "nothing more is sent");
    // Until an operator says that the receiver is back.
    host.ok(&["notices", "retry"]);
    next();
}

/// The host itself, and what it alone reaches, is no receiver: by its address or by a name.
#[test]
fn a_receiver_at_a_private_address_that_is_not_allowed_gets_no_connection() {
    let mut host = host();
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.set_nonblocking(true).expect("sets");
    let port = listener.local_addr().expect("an address").port();
    for (name, receiver) in [("address", "127.0.0.1"), ("name", "localhost")] {
        let below = format!("etc/webhooks.d/{name}.toml");
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        host.write(
            &below,
            &format!("url = \"https://{receiver}:{port}/\"\ntypes = [\"tenant\"]\nsecrets = [\"{secret}\"]\n"),
        );
        std::os::unix::fs::chown(host.path(&below), None, Some(NOTIFY)).expect("chown");
        std::fs::set_permissions(host.path(&below), std::fs::Permissions::from_mode(0o640)).expect("chmod");
    }
    host.start();
    let mut round = 0;
    until("it is told why", || {
        // What happened before the program had its place in the outbox is told to nobody.
        if round % 100 == 0 {
            host.ok(&["suspend", "bob"]);
            host.ok(&["unsuspend", "bob"]);
        }
        round += 1;
        let told = host.cli(&["notices", "waiting", "--json"]);
        String::from_utf8_lossy(&told.stdout).matches("is not reached").count() >= 2
    });
    let error = listener.accept().expect_err("nobody connects");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}
