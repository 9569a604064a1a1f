//! Who is told of things by an installed package: notices by Postfix into a mailbox, hooks, a webhook, and a scrape, each by the
//! unit that the package brings. Each test runs alone.
//!
//! Danger: as in `installed.rs`, these tests change the machine they run on.

use bailiwick_tests::machine::{install, journal, main_pid, ok, sh, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const LOG: &str = "/var/lib/bailiwick-hooks/log";
const RECEIVED: &str = "/root/received";
const RECEIVER: &str = "import http.server\n\
    class Receiver(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_POST(self):\n\
    \x20       body = self.rfile.read(int(self.headers['content-length']))\n\
    \x20       open('/root/received', 'ab').write(self.headers['webhook-signature'].encode() + b' ' + body + b'\\n')\n\
    \x20       self.send_response(204); self.end_headers()\n\
    http.server.HTTPServer(('127.0.0.1', 8097), Receiver).serve_forever()\n";

/// A receiver of webhooks, until this is dropped.
struct Receiver(Child);

impl Receiver {
    fn start() -> Self {
        fs::remove_file(RECEIVED).ok();
        let mut command = Command::new("/usr/bin/python3");
        let child = command.args(["-c", RECEIVER]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        until("the receiver listens", || std::net::TcpStream::connect("127.0.0.1:8097").is_ok());
        Self(child)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

fn program(name: &str, body: &str) {
    let path = format!("/usr/local/lib/bailiwick/{name}");
    ok("mkdir -p /usr/local/lib/bailiwick /etc/bailiwick/hooks.d /etc/bailiwick/webhooks.d");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Leaves nothing that other suites on this machine would meet.
struct Host;

impl Drop for Host {
    fn drop(&mut self) {
        sh(
            "systemctl stop bailiwick-jails.service bailiwick.target postfix; rm -rf /etc/bailiwick/hooks.d /etc/bailiwick/webhooks.d \
            /etc/bailiwick/tenants.d/*.toml; printf 'require = []\\n' > /etc/bailiwick/bailiwick.toml",
        );
    }
}

/// The package with a tenant that may have few tasks, and a mail server that delivers to the user `ops`.
fn host() -> Host {
    install();
    let host = Host;
    ok("rm -rf /etc/bailiwick/tenants.d/*.toml /etc/bailiwick/hooks.d /etc/bailiwick/webhooks.d");
    ok("id ops > /dev/null 2>&1 || useradd --create-home ops");
    ok("postconf -e mydestination=mail.example inet_interfaces=loopback-only home_mailbox= mailbox_command=");
    ok("rm -f /var/mail/ops; systemctl restart postfix");
    let config = "require = [\"cpu\", \"memory\", \"tasks\"]\n\
        mail = { command = \"/usr/sbin/sendmail\", domain = \"mail.example\" }\n\
        notices = { every = \"1s\" }\nmetrics = { cache = \"1s\" }\n\
        [contact]\nmail = [\"ops@mail.example\"]\n\
        [[notice]]\nresource = \"tasks\"\nat = [\"50%\"]\nto = [\"admin\"]\n";
    fs::write("/etc/bailiwick/bailiwick.toml", config).expect("writes");
    for tenant in ["alice", "carol"] {
        let file = format!("/etc/bailiwick/tenants.d/{tenant}.toml");
        fs::write(file, "plan = \"small\"\n[limits]\ntasks = 64\n").expect("writes");
    }
    ok("systemctl reset-failed; systemctl enable bailiwick.target; systemctl restart bailiwick.target");
    ok("bailiwick apply; bailiwick start alice carol");
    host
}

/// Has a tenant pass the threshold, until its jail is stopped.
fn is_greedy(tenant: &str) -> Child {
    let line = "for n in $(seq 40); do sleep 1000 & done; sleep 1000";
    let mut command = Command::new("bailiwick");
    command.args(["exec", tenant, "--", "sh", "-c", line]);
    // Whoever waits for the output of this test must not wait for them.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs")
}

fn mailbox() -> String {
    fs::read_to_string("/var/mail/ops").unwrap_or_default()
}

fn lines(path: &str, of: &str) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().filter(|line| line.contains(of)).count()
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_notice_goes_through_a_real_mail_server_into_a_mailbox() {
    let _host = host();
    let text = ok("bailiwick notices test && bailiwick notices list");
    assert!(text.contains("sendmail has taken it"), "{text}");
    until("the test arrives", || mailbox().contains("To: ops@mail.example"));
    // Postfix needs rights of groups and directories of its own: the unit leaves them to it.
    let mut alice = is_greedy("alice");
    until("the notice arrives", || mailbox().contains("alice"));
    let mail = mailbox();
    let is_whole =
        mail.contains(" of 64 of its number of processes") && mail.contains("From: Bailiwick <bailiwick@mail.example>");
    assert!(is_whole, "{mail}");
    assert!(!ok("bailiwick status; true").contains("notices"), "{}", journal());
    // What is queued while no mail server takes anything arrives when one does.
    ok("mv /usr/sbin/sendmail /usr/sbin/sendmail.away");
    let tasks =
        "awk 'NR == 1 { for (n = 1; n <= NF; n++) if ($n == \"TASKS\") column = n } NR == 2 { exit !($column > 40) }'";
    ok(&format!("bailiwick usage --now alice | {tasks}"));
    let mut carol = is_greedy("carol");
    until("a failure is known", || ok("bailiwick notices waiting").contains("ops@mail.example"));
    let pid = main_pid("bailiwick-notify");
    ok(&format!("kill -9 {pid}; mv /usr/sbin/sendmail.away /usr/sbin/sendmail"));
    until("it runs again", || !["0".to_owned(), pid.clone()].contains(&main_pid("bailiwick-notify")));
    until("it is tried again", || sh("bailiwick notices retry").0 == 0 || mailbox().contains("carol"));
    until("what waited arrives", || mailbox().contains("carol"));
    ok("bailiwick stop alice carol");
    alice.wait().and(carol.wait()).expect("ends");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn hooks_a_webhook_and_a_scrape_work_from_their_units() {
    let _host = host();
    let _receiver = Receiver::start();
    program("log", &format!("printf '%s %s\\n' \"$(id -un)\" \"$(cat)\" >> {LOG}"));
    program("ask", "grep -q '\"tenant\":\"mallory\"' && { echo 'not this one' >&2; exit 5; }; exit 0");
    fs::remove_file(LOG).ok();
    let write = |path: &str, text: &str| fs::write(Path::new("/etc/bailiwick").join(path), text).expect("writes");
    write("hooks.d/log.toml", "on = [\"tenant\"]\nrun = [\"/usr/local/lib/bailiwick/log\"]\n");
    let ask = "on = [\"tenant.created\"]\nrun = [\"/usr/local/lib/bailiwick/ask\"]\nwhen = \"before\"\n";
    write("hooks.d/ask.toml", ask);
    let secret = ok("head -c 32 /dev/urandom | base64 -w0");
    ok("install -m 0640 -o root -g bailiwick-notify /dev/null /etc/bailiwick/webhooks.d/panel.toml");
    let webhook = format!(
        "url = \"http://127.0.0.1:8097/\"\ntypes = [\"tenant\"]\nsecrets = [\"whsec_{secret}\"]\nallow = [\"127.0.0.0/8\"]\n"
    );
    write("webhooks.d/panel.toml", &webhook);
    ok("bailiwick check");

    let (status, text) = sh("bailiwick create mallory --plan small");
    assert_eq!((status, text.contains("not this one")), (5, true), "{text}\n{}", journal());
    ok("bailiwick create bob --plan small");
    until("the hook has run", || lines(LOG, "bailiwick-hooks {\"when\":\"after\"") > 0 && lines(LOG, "\"bob\"") > 0);
    until("the webhook has come", || lines(RECEIVED, "v1,") > 0 && lines(RECEIVED, "\"bob\"") > 0);
    assert_eq!(lines(LOG, "mallory") + lines(RECEIVED, "mallory"), 0);
    // After a kill of either nothing is missing.
    for unit in ["bailiwick-hooks", "bailiwick-notify"] {
        let pid = main_pid(unit);
        ok(&format!("kill -9 {pid}"));
        let reason = format!("killed {unit}");
        ok(&format!("bailiwick suspend bob --reason '{reason}'"));
        until("the hook runs again", || lines(LOG, &reason) > 0);
        until("the webhook comes again", || lines(RECEIVED, &reason) > 0);
        ok("bailiwick unsuspend bob");
    }
    ok("bailiwick delete bob --purge");

    let scrape = "bailiwick_tenant_info{tenant=\"alice\"";
    for line in ["--unix-socket /run/bailiwick/metrics.sock http://host/metrics", "http://127.0.0.1:9811/metrics"] {
        let text = ok(&format!("curl -sS --fail {line}"));
        assert!(text.contains(scrape), "{line}: {text}");
    }
    // An ordinary user of the host reaches the port, and not the socket.
    let (status, _) = sh(
        "setpriv --reuid ops --regid ops --clear-groups -- curl -sS --unix-socket /run/bailiwick/metrics.sock http://host/",
    );
    assert_ne!(status, 0);
}
