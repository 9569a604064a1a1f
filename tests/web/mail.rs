//! Mail: a tenant's message reaches the host's `sendmail` as the tenant's own, within its bounds, and nothing else does.
//!
//! In place of the host's `sendmail` there is a script that records what it gets and what it is.

use bailiwick_tests::{Host, profiles, until};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The group of tenants' host users in these tests.
const LOGIN_GROUP: &str = "64998";
const MAIL: &str = "[mail]\nper_hour = 10000\n";
/// `sendmail` as every jail has it that may send.
const SENDMAIL: &str = "/run/host/bin/sendmail";
/// Records the message and its own state in a folder of its own, whose name ends in `.done` when it is whole. A file `first` beside
/// it is run before.
const RECORDER: &str = r#"#!/bin/sh
dir=@DIR@
[ ! -e $dir/first ] || . $dir/first
out=$(mktemp -d $dir/got/XXXXXXXX)
printf '%s\n' "$@" > $out/arguments
cat > $out/message
cat /proc/$$/status > $out/status
tr '\0' '\n' < /proc/$$/environ > $out/environment
ls -l /proc/$$/fd > $out/descriptors
cat /proc/$$/cgroup > $out/groups
pwd > $out/directory
[ ! -e $dir/last ] || . $dir/last
mv $out $out.done
"#;

/// A host with tenants, and its folder for mail.
struct Mail {
    host: Host,
    dir: PathBuf,
}

/// What the host's `sendmail` has got once: the recorded texts by name.
type Got = BTreeMap<String, String>;

impl Mail {
    /// Tenants are names with their plan and more lines of their files.
    fn with(host: Host, tenants: &[(&str, &str, &str)]) -> Self {
        let dir = host.path("mail");
        fs::create_dir_all(dir.join("got")).expect("mkdir");
        fs::set_permissions(dir.join("got"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        let command = dir.join("sendmail");
        bailiwick_tests::write_program(&command, &RECORDER.replace("@DIR@", &dir.display().to_string()));
        let mail = format!("mail = {{ command = {command:?}, domain = \"host.example\" }}\n");
        host.write("etc/bailiwick.toml", &host.default_config(&mail));
        host.write("etc/plans.d/many.toml", "profile = \"web\"\n[limits]\nmemory = \"1G\"\ntasks = 3000\n");
        let mut mail = Self { host, dir };
        for (name, plan, more) in tenants {
            mail.declare(name, plan, more);
        }
        mail.host.start();
        mail.host.ok(&["apply"]);
        mail
    }

    fn new(tenants: &[(&str, &str, &str)]) -> Self {
        Self::with(Host::new(), tenants)
    }

    fn declare(&self, name: &str, plan: &str, more: &str) {
        self.host.write(&format!("etc/tenants.d/{name}.toml"), &format!("plan = \"{plan}\"\n{more}"));
    }

    /// Runs a shell line inside as the login user. Returns its exit status, and standard error.
    fn inside(&self, tenant: &str, line: &str) -> (i32, String) {
        let output = self.host.cli(&["exec", tenant, "--user", tenant, "--", "/bin/sh", "-c", line]);
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Sends a message to one recipient.
    fn send(&self, tenant: &str, to: &str) -> (i32, String) {
        self.inside(tenant, &format!("printf 'Subject: x\\n\\nhello\\n' | {SENDMAIL} -i {to}"))
    }

    #[track_caller]
    fn sent(&self, tenant: &str, to: &str) {
        let sent = self.send(tenant, to);
        assert_eq!(sent.0, 0, "{sent:?}\n{}", self.host.log());
    }

    /// A session with a shell line, which goes on.
    fn begin(&self, tenant: &str, line: &str) -> Child {
        let mut command = self.host.command(&["exec", tenant, "--user", tenant, "--", "/bin/sh", "-c", line]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs")
    }

    fn folders(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.dir.join("got")).expect("lists").flatten().map(|entry| entry.path());
        all.filter(|path| path.extension().is_some_and(|end| end == "done")).collect()
    }

    /// Everything that the host's `sendmail` has got.
    fn got(&self) -> Vec<Got> {
        let text = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let read = |folder: &PathBuf| -> Got {
            let files = fs::read_dir(folder).expect("lists").flatten();
            files
                .map(|file| (file.file_name().to_string_lossy().into_owned(), text(&file.path()).expect("reads")))
                .collect()
        };
        self.folders().iter().map(read).collect()
    }

    /// The only message that it has got; forgets it.
    #[track_caller]
    fn take(&self) -> Got {
        let mut all = self.got();
        assert_eq!(all.len(), 1, "{all:#?}\n{}", self.host.log());
        for folder in self.folders() {
            fs::remove_dir_all(folder).expect("removes");
        }
        all.remove(0)
    }

    /// What the host's `sendmail` does before or after it records.
    fn script(&self, when: &str, text: &str) {
        fs::write(self.dir.join(when), text).expect("writes");
    }

    /// The processes of the host's `sendmail`.
    fn running(&self) -> Vec<u32> {
        let command = self.dir.join("sendmail").display().to_string();
        let is_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&command) && !String::from_utf8_lossy(&line).contains("serve")
        };
        self.host.processes().into_iter().filter(is_it).collect()
    }

    /// The servers of mail.
    fn servers(&self) -> Vec<u32> {
        let is_one = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"serve")
        };
        self.host.processes().into_iter().filter(is_one).collect()
    }
}

/// The words of a line of `/proc/PID/status`.
fn words<'a>(got: &'a Got, name: &str) -> Vec<&'a str> {
    let line = got["status"].lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {}", got["status"])).split_whitespace().collect()
}

#[test]
fn a_message_reaches_the_hosts_sendmail_as_the_tenants_host_user() {
    let tenants: Vec<(&str, &str, &str)> = profiles().into_iter().map(|profile| (profile, profile, MAIL)).collect();
    let mail = Mail::new(&tenants);
    mail.script("last", "setpriv --dump > $out/rights");
    for (tenant, ..) in &tenants {
        let text =
            "To: A <you@example.org>,\\n b@example.org\\nBcc: hidden@example.org\\nSubject: x\\n\\nhello\\n.\\nend\\n";
        let sent = mail.inside(tenant, &format!("printf '{text}' | {SENDMAIL} -t -i -f evil@else.where"));
        assert_eq!(sent.0, 0, "{sent:?}\n{}", mail.host.log());
        let got = mail.take();
        let arguments: Vec<&str> = got["arguments"].lines().collect();
        let sender = format!("{tenant}@host.example");
        let (options, mut recipients) = (arguments[..4].to_vec(), arguments[4..].to_vec());
        recipients.sort_unstable();
        assert_eq!(options, ["-i", "-f", sender.as_str(), "--"]);
        assert_eq!(recipients, ["b@example.org", "hidden@example.org", "you@example.org"]);
        let without = "To: A <you@example.org>,\n b@example.org\nSubject: x\n\nhello\n.\nend\n";
        assert_eq!(got["message"], without);
        // Who it is: the host user alone, with nothing beside.
        let uids = words(&got, "Uid");
        let uid: u32 = uids[0].parse().expect("a number");
        assert!(uids.iter().all(|other| *other == uids[0]) && mail.host.ids().contains(&uid), "{uids:?}");
        assert!(uid < mail.host.ids().start + 65_536, "{uid} is no host user");
        assert_eq!(words(&got, "Gid"), [LOGIN_GROUP; 4]);
        assert_eq!(words(&got, "Groups"), [""; 0]);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(words(&got, set), ["0000000000000000"], "{set}");
        }
        // An MTA with a spool needs its group.
        assert_eq!(words(&got, "NoNewPrivs"), ["0"]);
        // A program that writes to nobody ends, as everywhere.
        let ignored = u64::from_str_radix(words(&got, "SigIgn")[0], 16).expect("a set");
        assert_eq!(ignored & (1 << (13 - 1)), 0, "SIGPIPE");
        // A set-user-id program that gives up root has no capability any more.
        assert!(got["rights"].contains("Securebits: [none]"), "{}", got["rights"]);
        let unified = got["groups"].lines().find_map(|line| line.strip_prefix("0::")).expect("a group");
        assert!(unified.contains(&format!("/{tenant}/")), "{unified}");
        assert_eq!(got["directory"].trim(), "/");
        let variables: Vec<&str> = got["environment"].lines().filter_map(|line| line.split('=').next()).collect();
        assert!(variables.iter().all(|name| ["PATH", "PWD", "OLDPWD", "_", "SHLVL"].contains(name)), "{variables:?}");
        let lent: Vec<&str> = got["descriptors"].lines().filter(|line| line.contains("socket:")).collect();
        assert_eq!(lent, [""; 0], "the host's sendmail has no socket of ours");
        let rate =
            got["descriptors"].lines().filter(|line| line.contains(&mail.host.path("state").display().to_string()));
        assert_eq!(rate.count(), 0, "{}", got["descriptors"]);
        // Nobody outside of its jail needs it, and an audit knows what it is.
        let audit = mail.host.cli(&["audit", tenant, "--json"]);
        let text = String::from_utf8_lossy(&audit.stdout);
        assert!(audit.status.success(), "{text}");
    }
    assert_eq!(mail.servers().len(), tenants.len());
}

#[test]
fn php_and_scripts_find_it() {
    let tenants: Vec<(&str, &str, &str)> = profiles().into_iter().map(|profile| (profile, profile, MAIL)).collect();
    let mail = Mail::new(&tenants);
    let fpm = include_str!("../../config/web/php-fpm.conf");
    let path = fpm.lines().find_map(|line| line.strip_prefix("php_admin_value[sendmail_path] = "));
    let path = path.expect("the configuration of PHP-FPM names it");
    for (tenant, ..) in tenants {
        let sent = mail.inside(tenant, "echo hello | PATH=/run/host/bin sendmail you@example.org");
        assert_eq!(sent.0, 0, "{sent:?}");
        assert_eq!(mail.take()["message"], "hello\n");
        let line = format!(
            "php -d sendmail_path='{path}' -r 'exit(mail(\"you@example.org, b@example.org\", \"A subject\", \"the text\", \"From: me@example.org\\r\\nBcc: c@example.org\") ? 0 : 1);'"
        );
        let sent = mail.inside(tenant, &line);
        assert_eq!(sent.0, 0, "{sent:?}");
        let got = mail.take();
        assert!(got["message"].contains("Subject: A subject") && got["message"].contains("the text"), "{got:#?}");
        assert!(
            got["message"].contains("From: me@example.org") && !got["message"].contains("c@example.org"),
            "{got:#?}"
        );
        let recipients: Vec<&str> = got["arguments"].lines().skip(4).collect();
        assert_eq!(recipients, ["b@example.org", "c@example.org", "you@example.org"]);
    }
}

#[test]
fn who_may_send_no_mail_has_no_way_to() {
    let mail = Mail::new(&[("alice", "web", MAIL), ("bob", "web", ""), ("carol", "web", "[mail]\nper_hour = 0\n")]);
    for tenant in ["bob", "carol"] {
        assert_ne!(mail.inside(tenant, "test -e /run/host/sockets/mail").0, 0, "{tenant}");
        let sent = mail.send(tenant, "you@example.org");
        assert!([69, 126, 127].contains(&sent.0), "{sent:?}");
    }
    // Not even root inside can put something else in the place of the socket.
    let (status, _, said) = mail.host.inside("alice", "rm -f /run/host/sockets/mail/mail.sock");
    assert_ne!(status, 0, "{said}");
    assert_ne!(mail.host.inside("alice", "touch /run/host/sockets/mail/x").0, 0);
    mail.sent("alice", "you@example.org");
    assert_eq!(mail.take()["arguments"].lines().nth(2), Some("alice@host.example"));
    assert_eq!(mail.servers().len(), 1);
}

#[test]
fn two_tenants_send_each_as_itself() {
    let mail = Mail::new(&[("alice", "web", MAIL), ("bob", "web", MAIL)]);
    for tenant in ["alice", "bob"] {
        mail.sent(tenant, "you@example.org");
        let got = mail.take();
        assert_eq!(got["arguments"].lines().nth(2), Some(format!("{tenant}@host.example").as_str()));
    }
    let uid = |tenant: &str| {
        mail.sent(tenant, "you@example.org");
        words(&mail.take(), "Uid")[0].to_owned()
    };
    assert_ne!(uid("alice"), uid("bob"));
}

#[test]
fn nobody_sends_as_a_user_of_the_host() {
    let mail = Mail::new(&[("alice", "web", MAIL)]);
    mail.sent("alice", "you@example.org");
    mail.take();
    // On every Debian, `sys` is user 3.
    mail.declare("sys", "web", MAIL);
    assert_eq!(mail.host.cli(&["apply"]).status.code(), Some(4));
    let told = |what: &str| mail.host.ok(&["status"]).contains(what);
    until("the status names it", || told("\"sys\" cannot send mail: the host has a user \"sys\" with the id 3"));
    assert_ne!(mail.send("sys", "you@example.org").0, 0);
    assert_eq!(mail.servers().len(), 1);
    // Somebody else takes the name of a tenant that has sent mail before.
    let record = mail.host.path("userdb/alice.user");
    fs::remove_file(&record).expect("removes");
    fs::write(&record, "{\"userName\":\"alice\",\"uid\":7000,\"service\":\"other\"}").expect("writes");
    until("nobody serves", || mail.servers().is_empty());
    assert_ne!(mail.send("alice", "you@example.org").0, 0);
    assert!(told("\"alice\" cannot send mail: ") && told("is a record of another service"));
    assert_eq!(mail.got().len(), 0);
    fs::remove_file(&record).expect("removes");
    until("it can send again", || mail.send("alice", "you@example.org").0 == 0);
}

#[test]
fn what_is_no_recipient_reaches_nobody() {
    let mail = Mail::new(&[("alice", "web", MAIL)]);
    for recipient in [
        "root",
        "-oQ/tmp@example.org",
        "-C/etc/passwd",
        "|/bin/sh@example.org",
        "/etc/passwd@example.org",
        ":include:/etc/passwd@x",
        "\"a b\"@example.org",
        "a@b@example.org",
        "a@",
        "@b",
        "a@[127.0.0.1]",
        "a@-b",
        "a@b\\nc@d",
        "\\\\a@b",
        "ä@example.org",
        "a b@example.org",
    ] {
        let line = format!("r=$(printf '%b' '{recipient}'); echo hello | {SENDMAIL} -i -- \"$r\" you@example.org");
        let refused = mail.inside("alice", &line);
        assert_eq!(refused.0, 65, "{recipient}: {refused:?}");
        assert_eq!(refused.1.lines().count(), 1, "{recipient}: {refused:?}");
        let header = mail.inside("alice", &format!("printf 'To: {recipient}\\n\\nhello\\n' | {SENDMAIL} -t -i"));
        // A header may fold or split such a text into something that is an address; then this is its only recipient.
        let sent = mail.got();
        assert!(header.0 != 0 || sent.len() == 1, "{recipient}: {header:?} {sent:#?}");
        for got in &sent {
            let plain = |to: &str| to.bytes().all(|byte| byte.is_ascii_graphic() && !b"|/:<>\"\\".contains(&byte));
            assert!(got["arguments"].lines().skip(4).all(|to| plain(to) && !to.starts_with('-')), "{got:#?}");
        }
        for folder in mail.folders() {
            fs::remove_dir_all(folder).expect("removes");
        }
    }
    // Whoever speaks to the socket without our client gets no further.
    let raw = |head: &str| {
        let line = format!(
            "printf '{head}' | php -r '$s = stream_socket_client(\"unix:///run/host/sockets/mail/mail.sock\"); fwrite($s, stream_get_contents(STDIN)); stream_socket_shutdown($s, STREAM_SHUT_WR); fwrite(STDERR, stream_get_contents($s));'"
        );
        mail.inside("alice", &line).1
    };
    assert!(raw("6\\na@example.org\\n\\nhello\\n").starts_with('0'));
    mail.take();
    for head in [
        "6\\n-oQ/tmp@example.org\\n\\nhello\\n",
        "6\\na@example.org\\n\\nhell",
        "-6\\na@example.org\\n\\nhello\\n",
        "99999999999999999999\\na@example.org\\n\\nhello\\n",
        "6\\n\\nhello\\n",
        "\\0\\0\\0\\0",
        "",
        // What a relay could take for the end of a line, or of the message.
        "6\\na@example.org\\n\\nhe\\r.\\r\\n",
        "6\\na@example.org\\n\\nhell\\0\\n",
    ] {
        let said = raw(head);
        assert!(!said.starts_with('0') || said.is_empty(), "{head}: {said}");
    }
    assert_eq!(mail.got().len(), 0);
    mail.sent("alice", "you@example.org");
}

#[test]
fn a_message_beyond_the_bounds_is_refused_and_the_next_one_is_not() {
    let bounds = "[mail]\nper_hour = 100\nrecipients = 2\nsize = \"64K\"\n";
    let mail = Mail::new(&[("alice", "many", bounds), ("bob", "web", "[mail]\nper_hour = 100\nsize = \"100M\"\n")]);
    let sized = |bytes: usize| format!("head -c {bytes} /dev/zero | tr '\\0' x | {SENDMAIL} -i you@example.org");
    assert_eq!(mail.inside("alice", &sized(64 << 10)).0, 0);
    assert_eq!(mail.take()["message"].len(), 64 << 10);
    let refused = mail.inside("alice", &sized((64 << 10) + 1));
    assert!(refused.0 == 69 && refused.1.contains("more than"), "{refused:?}");
    let refused = mail.inside("alice", &sized(100_000_000));
    assert_eq!(refused.0, 69, "{refused:?}");
    // More than a client can hold in memory.
    let refused = mail.inside("alice", &sized(101 << 20));
    assert_eq!(refused.0, 69, "{refused:?}");
    let refused = mail.inside("alice", &format!("echo x | {SENDMAIL} a@example.org b@example.org c@example.org"));
    assert!(refused.0 == 65 && refused.1.contains("recipients"), "{refused:?}");
    // Its memory ends before the limit of the message does: it harms only itself.
    assert_ne!(mail.inside("bob", &sized(100_000_000)).0, 0);
    assert_eq!(mail.got().len(), 0);
    mail.sent("alice", "you@example.org");
    until("bob can send again", || mail.send("bob", "you@example.org").0 == 0);
}

#[test]
fn nobody_sends_more_within_an_hour_whatever_is_killed() {
    let mut mail = Mail::new(&[("alice", "web", "[mail]\nper_hour = 3\n"), ("bob", "web", MAIL)]);
    for _ in 0..3 {
        mail.sent("alice", "you@example.org");
    }
    let refused = |mail: &Mail| {
        let refused = mail.send("alice", "you@example.org");
        assert!(refused.0 == 75 && refused.1.contains("hour"), "{refused:?}\n{}", mail.host.log());
    };
    refused(&mail);
    mail.sent("bob", "you@example.org");
    for program in ["bailiwickd", "bailiwick-warden"] {
        let before = mail.host.program(program);
        kill(before);
        until("it is back", || mail.host.find_program(program).is_some_and(|now| now != before));
        until("it answers", || mail.host.cli(&["status"]).status.success());
        refused(&mail);
    }
    // A server that is killed comes back, and knows what was sent.
    for server in mail.servers() {
        kill(server);
    }
    until("the servers are back", || mail.servers().len() == 2);
    refused(&mail);
    mail.sent("bob", "you@example.org");
    mail.host.ok(&["restart", "alice"]);
    refused(&mail);
    mail.host.kill();
    mail.host.start();
    until("it answers", || mail.host.cli(&["status"]).status.success());
    refused(&mail);
    assert_eq!(mail.got().len(), 5, "three of alice and two of bob");
}

#[test]
fn a_server_that_is_told_to_end_tells_the_truth_first() {
    let mail = Mail::new(&[("alice", "web", MAIL)]);
    mail.script(
        "first",
        "case \"$*\" in *slow@*) : > $dir/got/waits; until [ -e $dir/go ]; do sleep 0.02; done ;; esac",
    );
    let slow = mail.begin("alice", &format!("echo x | {SENDMAIL} slow@example.org"));
    until("it has the message", || mail.dir.join("got/waits").exists());
    let server = mail.servers()[0];
    let pid = rustix::process::Pid::from_raw(i32::try_from(server).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
    fs::write(mail.dir.join("go"), "").expect("writes");
    let ended = slow.wait_with_output().expect("ends");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(mail.take()["arguments"].lines().last(), Some("slow@example.org"));
    until("another one serves", || mail.servers().first().is_some_and(|now| *now != server));
    mail.sent("alice", "you@example.org");
}

#[test]
fn a_new_tenant_of_the_same_name_begins_anew() {
    let one = "[mail]\nper_hour = 1\n";
    let mut mail = Mail::new(&[("alice", "web", one), ("bob", "web", one)]);
    for tenant in ["alice", "bob"] {
        mail.sent(tenant, "a@b.org");
        assert_eq!(mail.send(tenant, "a@b.org").0, 75, "one an hour");
    }
    let rates = mail.host.path("run/mail-rates");
    mail.host.ok(&["delete", "alice", "--purge"]);
    assert!(!rates.join("alice").exists());
    mail.declare("alice", "web", one);
    mail.host.ok(&["apply"]);
    mail.sent("alice", "a@b.org");
    // What an earlier version has left goes with the next start, and nothing else does.
    fs::write(rates.join("gone"), "").expect("writes");
    mail.host.kill();
    mail.host.start();
    until("it answers", || mail.host.cli(&["status"]).status.success());
    assert!(!rates.join("gone").exists());
    assert_eq!(mail.send("bob", "a@b.org").0, 75, "one an hour");
}

#[test]
fn a_sendmail_that_nobody_can_run_is_told_everywhere() {
    let mail = Mail::new(&[("alice", "web", MAIL)]);
    let told = |arguments: &[&str]| {
        let output = mail.host.cli(arguments);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let row = |word: &str| told(&["doctor"]).lines().any(|line| line.starts_with("mail ") && line.contains(word));
    assert!(row("TENANT@host.example"), "{}", told(&["doctor"]));
    assert!(!told(&["check"]).contains("mail") && !told(&["status"]).contains("mail"));
    let command = mail.dir.join("sendmail");
    fs::set_permissions(&command, fs::Permissions::from_mode(0o644)).expect("chmod");
    let expect = |why: &str| {
        assert!(row(why), "{}", told(&["doctor"]));
        assert!(told(&["check"]).contains(why), "{}", told(&["check"]));
        until("status tells it", || told(&["status"]).contains(why));
    };
    expect("cannot be executed by every user");
    assert_eq!(mail.send("alice", "a@b.org").0, 71);
    fs::remove_file(&command).expect("removes");
    expect("there is no ");
    fs::create_dir(&command).expect("mkdir");
    expect("is a directory");
}

#[test]
fn a_changed_limit_is_in_force_after_apply() {
    let mail = Mail::new(&[("web", "web", "[mail]\nper_hour = 1\n")]);
    mail.sent("web", "a@b.org");
    assert_eq!(mail.send("web", "a@b.org").0, 75, "one an hour");
    mail.declare("web", "web", "[mail]\nper_hour = 3\nrecipients = 1\n");
    let planned = mail.host.cli(&["plan"]);
    let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(
        planned.contains("1 an hour, up to 50 recipients") && planned.contains("3 an hour, up to 1 recipients"),
        "{planned}"
    );
    mail.host.ok(&["apply"]);
    until("the new limits are in force", || mail.host.cli(&["plan"]).stdout.is_empty());
    mail.sent("web", "a@b.org");
    assert_eq!(mail.send("web", "a@b.org c@d.org").0, 65, "one recipient");
    mail.sent("web", "a@b.org");
    assert_eq!(mail.send("web", "a@b.org").0, 75, "three an hour, with that of before");
    assert!(mail.host.ok(&["show", "web"]).contains("3 an hour, up to 1 recipients"));
}

#[test]
fn what_a_delivery_has_left_behind_keeps_nobody_from_mail() {
    let mail = Mail::new(&[("alice", "web", MAIL)]);
    let plan = || String::from_utf8_lossy(&mail.host.cli(&["plan"]).stdout).into_owned();
    mail.script("first", "case \"$*\" in *left@*) sleep 1000 > /dev/null 2>&1 < /dev/null & esac");
    mail.sent("alice", "left@example.org");
    assert_eq!(hangs(&mail), 1);
    mail.declare("alice", "web", "");
    mail.host.ok(&["apply"]);
    until("nothing is served", || mail.servers().is_empty());
    assert_eq!(plan(), "", "it is as declared");
    let audit = mail.host.cli(&["audit", "alice", "--json"]).stdout;
    assert!(!String::from_utf8_lossy(&audit).contains("BW136"), "{}", String::from_utf8_lossy(&audit));
    mail.declare("alice", "web", MAIL);
    assert!(plan().contains("mail"), "{}", plan());
    mail.host.ok(&["apply"]);
    until("it can send again", || mail.send("alice", "you@example.org").0 == 0);
    assert_eq!(hangs(&mail), 1);
    // The next warden knows as much.
    mail.declare("alice", "web", "");
    mail.host.ok(&["apply"]);
    until("nothing is served", || mail.servers().is_empty());
    let warden = mail.host.program("bailiwick-warden");
    kill(warden);
    until("it is back", || mail.host.find_program("bailiwick-warden").is_some_and(|now| now != warden));
    until("it is as declared", || mail.host.cli(&["status"]).status.success() && plan().is_empty());
    let [left] = hanging(&mail)[..] else { panic!("it hangs") };
    let group = group_of(left);
    assert!(group.ends_with("lent-mail") && group.exists(), "{}", group.display());
    kill(left);
    until("its group is gone", || !group.exists());
}

#[test]
fn a_message_that_is_being_delivered_outlives_a_changed_limit() {
    let mail = Mail::new(&[("alice", "web", MAIL)]);
    mail.script("first", "case \"$*\" in *slow@*) while [ ! -e $dir/go ]; do sleep 0.05; done; esac");
    let slow = mail.begin("alice", &format!("echo x | {SENDMAIL} slow@example.org"));
    until("it is being delivered", || mail.running().len() == 1);
    mail.declare("alice", "web", "[mail]\nper_hour = 10000\nrecipients = 1\n");
    mail.host.ok(&["apply"]);
    // Others go on beside it, by the new limits.
    until("the new limits are in force", || mail.send("alice", "a@example.org b@example.org").0 == 65);
    mail.sent("alice", "you@example.org");
    mail.declare("alice", "web", "");
    mail.host.ok(&["apply"]);
    assert_eq!(mail.running().len(), 1, "it is still being delivered");
    fs::write(mail.dir.join("go"), "").expect("writes");
    let ended = slow.wait_with_output().expect("ends");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    until("nobody serves", || mail.servers().is_empty());
}

#[test]
fn a_program_of_the_host_that_fails_or_hangs_is_told_and_harms_nobody_else() {
    let mail = Mail::new(&[("alice", "web", MAIL), ("bob", "web", MAIL)]);
    for (script, status, word) in [
        ("echo no such user >&2; exit 67", 67, "no such user"),
        ("exit 75", 75, "sendmail"),
        ("exit 1", 75, "ended with 1"),
        ("kill -9 $$", 75, "signal 9"),
        ("printf 'a\\033[31mb\\nc' >&2; exit 69", 69, "b"),
    ] {
        mail.script("first", script);
        let failed = mail.send("alice", "you@example.org");
        assert!(failed.0 == status && failed.1.contains(word), "{script}: {failed:?}");
        assert!(failed.1.lines().count() == 1 && !failed.1.contains('\u{1b}'), "{failed:?}");
    }
    // It floods what it says, and leaves somebody behind who holds that open.
    mail.script("first", "head -c 300000 /dev/zero | tr '\\0' x >&2; sleep 999 & ");
    mail.sent("alice", "you@example.org");
    mail.take();
    // It hangs: others of the tenant get through, and the neighbour. How long it may is a test of the server (`mailed`).
    mail.script("first", "case \"$*\" in *hang@*) sleep 1000 ;; esac");
    let hanging = mail.begin("alice", &format!("echo x | {SENDMAIL} hang@example.org"));
    until("it hangs", || !mail.servers().is_empty() && hangs(&mail) == 1);
    mail.sent("alice", "you@example.org");
    mail.sent("bob", "you@example.org");
    // What hangs ends with the jail.
    mail.host.ok(&["stop", "alice"]);
    until("nothing of it is left", || hangs(&mail) == 0);
    drop(hanging.wait_with_output());
    assert_eq!(mail.running(), [0; 0]);
}

/// How many of the host's `sendmail` hang.
fn hangs(mail: &Mail) -> usize {
    hanging(mail).len()
}

fn hanging(mail: &Mail) -> Vec<u32> {
    let is_it = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000\0");
    mail.host.processes().into_iter().filter(is_it).collect()
}

fn kill(number: u32) {
    let pid = rustix::process::Pid::from_raw(number.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kills");
}

/// The control group of a process.
fn group_of(pid: u32) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).expect("the unified hierarchy").to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    PathBuf::from(format!("{}{own}", mount.expect("it is mounted")))
}

#[test]
fn a_program_that_takes_a_group_of_its_own_gets_it() {
    // `/tmp` of many hosts is mounted without set-group-id.
    let mail = Mail::with(Host::within(Path::new("/var/tmp")), &[("alice", "web", MAIL)]);
    let helper = mail.dir.join("postdrop");
    bailiwick_tests::copy_program(Path::new("/usr/bin/id"), &helper);
    let done = Command::new("chgrp").arg("54321").arg(&helper).status().expect("chgrp");
    assert!(done.success());
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o2755)).expect("chmod");
    mail.script("last", "$dir/postdrop > $out/ids");
    mail.sent("alice", "you@example.org");
    let ids = &mail.take()["ids"];
    assert!(ids.contains("egid=54321"), "{ids}");
}

#[test]
fn a_thousand_messages_at_once_all_arrive_once() {
    let mail = Mail::new(&[("alice", "many", MAIL), ("bob", "web", MAIL)]);
    // As little as possible for each: a file with the recipient's name.
    mail.script("first", "for to; do :; done; cat > /dev/null; : > $dir/got/$to.done; exit 0");
    let line = format!(
        "echo hello > ~/message; failed=0; \
         for i in $(seq 1000); do ({SENDMAIL} -i a$i@example.org < ~/message || echo failed $i >&2) & done; wait"
    );
    let crowd = mail.begin("alice", &line);
    mail.sent("bob", "neighbour@example.org");
    let ended = crowd.wait_with_output().expect("ends");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}\n{}", mail.host.log());
    assert_eq!(mail.folders().len(), 1001);
}
