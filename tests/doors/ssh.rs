//! Logins by SSH: requests of unmodified clients run in the jail, with their bytes and exit status, or are refused.
//!
//! In place of a network and sshd, a script starts `bailiwick-shell` as sshd does: [`Host::write_ssh`]. The clients
//! are real.

use bailiwick_proto::{Hold, WardenReply, WardenRequest};
use bailiwick_tests::{Host, profiles, stage, until, without_waiting};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

/// The doors of most tests.
const OPEN: &str = "doors = [\"exec\", \"ssh\", \"sftp\"]\n";

fn host(more: &str) -> Host {
    let mut host = Host::new();
    for tenant in profiles() {
        host.write(&format!("etc/tenants.d/{tenant}.toml"), &format!("plan = \"{tenant}\"\n{more}"));
    }
    host.start();
    host.ok(&["apply"]);
    host.write_ssh();
    host
}

fn ssh(host: &Host, arguments: &[&str]) -> Command {
    host.ssh(arguments)
}

/// Runs a client with a text as its input.
fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut to = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || to.write_all(&input).ok());
    let mut output = child.wait_with_output().expect("ends");
    output.stderr = without_waiting(&output.stderr);
    writer.join().expect("writes");
    output
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn assert_success(command: &mut Command, input: &[u8]) -> String {
    let output = run(command, input);
    assert!(output.status.success(), "{command:?}: {:?} {}", output.status, text(&output));
    text(&output)
}

/// Bytes of all values, in an order that a terminal's line discipline would change.
fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}

#[test]
fn a_command_has_its_user_its_status_and_its_bytes() {
    let host = host(OPEN);
    for tenant in profiles() {
        for status in [0, 1, 7, 255] {
            assert_eq!(run(&mut ssh(&host, &[tenant, &format!("exit {status}")]), b"").status.code(), Some(status));
        }
        assert_eq!(run(&mut ssh(&host, &[tenant, "kill -9 $$"]), b"").status.code(), Some(128 + 9));
        let sent = bytes(3_000_000);
        let output = run(&mut ssh(&host, &[tenant, "cat; echo oops >&2"]), &sent);
        assert!(output.stdout == sent && output.stderr == b"oops\n", "{tenant}: {} bytes", output.stdout.len());
        let said = assert_success(&mut ssh(&host, &[tenant, "id -u; id -g; pwd; echo $SSH_CONNECTION"]), b"");
        assert_eq!(said, format!("1000\n1000\n/home/{tenant}\n192.0.2.7 50000 192.0.2.1 22\n"));
        // Without a command: a login shell that reads commands from its input.
        assert_eq!(assert_success(&mut ssh(&host, &[tenant]), b"echo $0\nexit\n"), "-bash\n");
    }
    let log = host.log();
    assert!(log.contains("door=ssh") && log.contains("source=\"192.0.2.7\""), "{log}");
}

#[test]
fn sftp_scp_rsync_and_git_work_and_their_files_belong_to_the_tenant() {
    let host = host(OPEN);
    let sent = bytes(2_000_000);
    std::fs::write(host.path("sent"), &sent).expect("writes");
    let (script, sent_path) = (host.path("bin/ssh").display().to_string(), host.path("sent").display().to_string());
    let back = host.path("back").display().to_string();
    for tenant in profiles() {
        let returned = |what: &str| {
            assert!(std::fs::read(&back).expect("came back") == sent, "{tenant}: {what}");
            std::fs::remove_file(&back).expect("removes");
        };
        let batch = format!("put {sent_path} a\nmkdir d\nrename a d/b\nget d/b {back}\nls -l d\n");
        assert_success(Command::new("sftp").args(["-S", &script, "-b", "-", tenant]), batch.as_bytes());
        returned("sftp");
        for old in [&[][..], &["-O"]] {
            assert_success(
                Command::new("scp").args(old).args(["-S", &script, &sent_path, &format!("{tenant}:c")]),
                b"",
            );
            assert_success(Command::new("scp").args(old).args(["-S", &script, &format!("{tenant}:c"), &back]), b"");
            returned("scp");
        }
        assert_success(Command::new("rsync").args(["-e", &script, &sent_path, &format!("{tenant}:e")]), b"");
        assert_success(Command::new("rsync").args(["-e", &script, &format!("{tenant}:e"), &back]), b"");
        returned("rsync");
        let owners = host.inside(tenant, &format!("cd /home/{tenant} && stat -c %u:%g d/b c e")).1;
        assert_eq!(owners, "1000:1000\n".repeat(3), "{tenant}");

        assert_success(&mut ssh(&host, &[tenant, "git init -q --bare r.git"]), b"");
        let clone = host.path(&format!("clone-{tenant}")).display().to_string();
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.env("GIT_SSH", &script).env("GIT_SSH_VARIANT", "simple").env("HOME", host.path("")).args([
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@example.org",
            ]);
            assert_success(command.args(arguments), b"")
        };
        git(&["clone", "-q", &format!("{tenant}:r.git"), &clone]);
        std::fs::write(format!("{clone}/file"), &sent).expect("writes");
        git(&["-C", &clone, "add", "file"]);
        git(&["-C", &clone, "commit", "-q", "-m", "first"]);
        git(&["-C", &clone, "push", "-q", "origin", "HEAD:main"]);
        let log = assert_success(&mut ssh(&host, &[tenant, "git -C r.git log --format=%s main"]), b"");
        assert_eq!(log, "first\n");
    }
}

#[test]
fn no_request_of_a_client_runs_on_the_host() {
    let host = host(OPEN);
    host.write("bin/canary", "a secret of the host");
    let canary = host.path("bin/canary").display().to_string();
    std::fs::set_permissions(&canary, PermissionsExt::from_mode(0o644)).expect("chmod");
    let up = "../".repeat(20);
    for tenant in profiles() {
        for wish in [
            format!("cat {canary}"),
            format!("cat {up}{canary}"),
            format!("bailiwick-shell -c 'cat {canary}'"),
            format!("-c 'cat {canary}'"),
            format!("--config /tmp; cat {canary}"),
            format!("cat /proc/1/root{canary}"),
            format!("ln -sf {canary} link; cat link"),
            format!("\ncat {canary}"),
        ] {
            let output = run(&mut ssh(&host, &[tenant, &wish]), b"");
            assert!(!text(&output).contains("secret"), "{tenant}: {wish}: {}", text(&output));
        }
        let script = host.path("bin/ssh").display().to_string();
        let back = host.path("stolen").display().to_string();
        for path in [canary.clone(), format!("{up}{canary}"), "link".to_owned(), format!("/proc/1/root{canary}")] {
            let batch = format!("get {path} {back}\n");
            let output = run(Command::new("sftp").args(["-S", &script, "-b", "-", tenant]), batch.as_bytes());
            assert!(!output.status.success() && std::fs::metadata(&back).is_err(), "{tenant}: {path}");
        }
        // Environment variables that change the behaviour of programs have no effect on a program that reads none
        // of them and has no dynamic loader.
        let program = std::fs::File::open(host.path("bin/bailiwick-shell")).expect("opens");
        assert!(!bailiwick_sys::elf::needs_loader(program).expect("a program"));
        let mut command = ssh(&host, &[tenant, "env"]);
        for key in ["BASH_ENV", "ENV", "SHELLOPTS", "PYTHONPATH", "HOME", "LD_LIBRARY_PATH", "XDG_CONFIG_HOME"] {
            command.env(key, "/forged");
        }
        let said = assert_success(&mut command, b"");
        assert!(!said.contains("forged"), "{tenant}: {said}");
    }
}

/// A tenant's own files about users, names and libraries affect only the programs inside. The policy alone decides
/// who may enter, and no program of the host reads these files.
#[test]
fn files_of_a_tenant_do_not_affect_logins() {
    let host = host(OPEN);
    host.write("bin/canary", "a secret of the host");
    let ran = host.path("bin/ran").display().to_string();
    for tenant in profiles() {
        let plant = format!(
            "mkdir -p /home/{tenant}/.ssh && cd /home/{tenant}/.ssh && echo 'touch {ran}' > rc && chmod 755 rc && echo 'LD_PRELOAD=/evil.so' > environment
             printf '{tenant}:x:0:0::/:/bin/evil\\nevil:x:1000:0::/root:/bin/evil\\n' > /etc/passwd; echo 'evil:x:1000:' > /etc/group; echo 'passwd: evil files' > /etc/nsswitch.conf
             echo /usr/local/lib/evil.so > /etc/ld.so.preload; echo evil > /etc/nologin; echo 'LD_PRELOAD=/evil.so' > /etc/environment
             mkdir -p /etc/security && echo '{tenant} - nproc 0' > /etc/security/limits.conf"
        );
        assert_eq!(host.inside(tenant, &plant).0, 0, "{tenant}");
        let line = "echo $(id -u):$(id -g):$HOME:$LD_PRELOAD";
        let output = run(&mut ssh(&host, &[tenant, line]), b"");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("1000:1000:/home/{tenant}:\n"),
            "{}",
            text(&output)
        );
        let listed = sftp(&host, tenant, "ls -l .ssh\n");
        assert!(listed.status.success(), "{tenant}: {}", text(&listed));
        // They lock nobody out either: the operator can enter and fix them.
        assert_eq!(host.inside(tenant, "rm /etc/ld.so.preload; id -u").1, "0\n");
        host.ok(&["audit", tenant]);
        host.ok(&["sessions", tenant]);
    }
    assert!(!std::path::Path::new(&ran).exists(), "nothing of it ran on the host");
}

#[test]
fn a_closed_door_refuses_with_a_reason() {
    let mut host = host("doors = [\"sftp\"]\n");
    let tenant = profiles()[0];
    assert_refused(&mut ssh(&host, &[tenant, "id"]), 5, "the door \"ssh\"");
    assert_refused(&mut ssh(&host, &[tenant]), 5, "the door \"ssh\"");
    // Whatever is appended to the name of the one allowed program.
    assert_refused(&mut ssh(&host, &[tenant, "/usr/lib/openssh/sftp-server; id"]), 5, "the door \"ssh\"");
    let script = host.path("bin/ssh").display().to_string();
    assert_success(Command::new("sftp").args(["-S", &script, "-b", "-", tenant]), b"ls\n");
    let said = text(&run(&mut ssh(&host, &[tenant, "/usr/lib/openssh/sftp-server -h; id"]), b""));
    assert!(!said.contains("uid="), "{said}");

    host.write(
        &format!("etc/tenants.d/{tenant}.toml"),
        &format!("plan = \"{tenant}\"\n{OPEN}[limits]\nsessions = 1\n"),
    );
    host.ok(&["apply"]);
    let mut first = waiting_session(&host, tenant);
    // A tenant that has used all its places gets one more session, which says so. Operators have places of their
    // own.
    let mut more = waiting_session(&host, tenant);
    assert_refused(&mut ssh(&host, &[tenant, "id"]), 6, "2 sessions");
    assert_eq!(host.inside(tenant, "echo fine").1, "fine\n");
    drop(first.stdin.take());
    assert!(first.wait().expect("ends").success());
    until("its place is free", || sessions(&host).len() == 1);
    let said = run(&mut ssh(&host, &[tenant, "true"]), b"");
    assert!(said.status.success() && text(&said).contains("one more"), "{}", text(&said));
    drop(more.stdin.take());
    assert!(more.wait().expect("ends").success());
    host.ok(&["suspend", tenant, "--reason", "invoice 17"]);
    assert_refused(&mut ssh(&host, &[tenant, "id"]), 5, "invoice 17");
    assert_refused(Command::new("sftp").args(["-S", &script, "-b", "-", tenant]), 255, "invoice 17");
    host.ok(&["unsuspend", tenant]);
    assert_success(&mut ssh(&host, &[tenant, "true"]), b"");

    // Only the host user itself may enter: not the login user, root inside, another tenant's user or anyone else.
    let number = |name: &str| -> u32 {
        std::fs::read_to_string(host.path(&format!("bin/{name}.id"))).expect("text").parse().expect("id")
    };
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    let first = u32::try_from(shown["ids"]["first"].as_u64().expect("a number")).expect("an id");
    for other in [first, first + 1000, number(tenant) + 60_000, 0, 64_997] {
        assert_refused(ssh(&host, &[tenant, "id"]).env("AS", other.to_string()), 5, "");
    }
    host.end();
    assert_refused(&mut ssh(&host, &[tenant, "id"]), 1, "does not answer");
}

/// A session that waits for the end of its input.
fn waiting_session(host: &Host, tenant: &str) -> Child {
    let mut child =
        ssh(host, &[tenant, "echo in; cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
    child
}

/// Checks that a command is refused with a status and a word.
fn assert_refused(command: &mut Command, status: i32, word: &str) {
    let output = run(command, b"");
    assert_eq!(output.status.code(), Some(status), "{command:?}: {}", text(&output));
    assert!(text(&output).contains(word), "{command:?}: {}", text(&output));
}

/// The open sessions from `bailiwick sessions`.
fn sessions(host: &Host) -> Vec<serde_json::Value> {
    serde_json::from_str(&host.ok(&["sessions", "--json"])).expect("JSON")
}

/// Checks that an ended session printed the reason.
fn assert_ended(mut child: Child, reason: &str) {
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("ends").code(), Some(5), "{said}");
    assert!(said.contains(reason), "{said}");
}

/// A session that ignores SIGHUP and runs until it is ended.
fn stubborn_session(host: &Host, tenant: &str, key: &str) -> Child {
    host.write(&format!("bin/{key}.auth"), &format!("publickey {key}\n"));
    let mut command = ssh(host, &[tenant, "trap '' HUP; echo in; while :; do sleep 1; done"]);
    command.env("SSH_USER_AUTH", host.path(&format!("bin/{key}.auth")));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
    child
}

/// When a client is killed, sshd only closes the pipes of its session.
#[test]
fn sessions_of_dead_clients_free_their_places() {
    let host = host(&format!("{OPEN}limits.sessions = 6\n"));
    let tenant = profiles()[0];
    for line in
        ["echo in; sleep 600", "trap '' HUP PIPE TERM; echo in; while :; do sleep 1; done", "echo in; exec sleep 600"]
    {
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut command = ssh(&host, &[tenant, line]);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
            child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
            clients.push(child);
        }
        assert_eq!(sessions(&host).len(), 6);
        for mut child in clients {
            drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
            child.wait().expect("it ends by itself");
        }
        until("all places are free", || sessions(&host).is_empty());
        until("nothing of them runs", || host.inside(tenant, "pgrep -x sleep").0 != 0);
        assert_success(&mut ssh(&host, &[tenant, "true"]), b"");
    }
    let log = host.log();
    assert!(log.lines().any(|line| line.contains("session-closed") && line.contains("hung up")), "{log}");
    // A client that closed one of its two streams still has its session.
    let mut child = ssh(&host, &[tenant, "echo in; read line; echo $line >&2"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    child.stdout.take().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
    child.stdin.take().expect("a pipe").write_all(b"still here\n").expect("writes");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && without_waiting(&output.stderr) == b"still here\n", "{}", text(&output));
}

#[test]
fn open_sessions_are_listed_ended_and_known_to_the_next_daemon() {
    let mut host = host(OPEN);
    let tenant = profiles()[0];
    host.write(&format!("etc/tenants.d/{tenant}.toml"), &format!("plan = \"{tenant}\"\n{OPEN}limits.sessions = 2\n"));
    host.ok(&["apply"]);
    assert_eq!(sessions(&host).len(), 0);
    let stays = stubborn_session(&host, tenant, "ssh-ed25519 AAAA");
    let mut ends = waiting_session(&host, tenant);
    let before = sessions(&host);
    let find = |sessions: &[serde_json::Value], command: &str| {
        let has = |session: &&serde_json::Value| session["command"].as_str().is_some_and(|text| text.contains(command));
        sessions.iter().find(has).cloned().unwrap_or_else(|| panic!("{command}: {sessions:?}"))
    };
    let listed = find(&before, "trap");
    for (key, value) in
        [("tenant", tenant), ("door", "ssh"), ("user", tenant), ("source", "192.0.2.7"), ("key", "ssh-ed25519 AAAA")]
    {
        assert_eq!(listed[key], value, "{listed}");
    }
    assert_eq!(listed["pid"].as_u64(), Some(u64::from(stays.id())));

    // After the daemon is killed, the next one knows the open sessions and counts them.
    for ending in ["kill", "end"] {
        if ending == "kill" {
            host.kill()
        } else {
            host.end()
        }
        host.start();
        until("they are running again", || sessions(&host).len() == 2);
        assert_eq!(sessions(&host), before);
        let mut more = waiting_session(&host, tenant);
        assert_refused(&mut ssh(&host, &[tenant, "id"]), 6, "3 sessions");
        drop(more.stdin.take());
        assert!(more.wait().expect("ends").success());
        until("it has left", || sessions(&host).len() == 2);
    }
    drop(ends.stdin.take());
    assert!(ends.wait().expect("ends").success());
    until("it has left", || sessions(&host).len() == 1);
    assert!(ssh(&host, &[tenant, "exit 7"]).status().expect("runs").code() == Some(7));
    until("its end is in the log", || {
        let log = host.log();
        let line =
            |line: &str| line.contains("session-closed") && line.contains("status=\"7\"") && line.contains("192.0.2.7");
        log.lines().any(line)
    });

    // Sessions are ended by id and by tenant; an unknown id is an error.
    let id = listed["id"].as_str().expect("text").to_owned();
    let missing = host.cli(&["sessions", "kill", "00000000", &id]);
    assert_eq!((missing.status.code(), sessions(&host).len()), (Some(3), 1), "no partial change");
    host.ok(&["sessions", "kill", &id, "--reason", "maintenance at six"]);
    assert_ended(stays, "maintenance at six");
    let (first, second) = (stubborn_session(&host, tenant, "a b"), stubborn_session(&host, tenant, "a b"));
    host.ok(&["sessions", "kill", "--tenant", tenant]);
    assert_ended(first, "an operator");
    assert_ended(second, "an operator");
    assert_eq!(sessions(&host).len(), 0);

    // A session of an operator: the reported status must not be that of the command.
    let mut command = Command::new(stage().join("bailiwick"));
    command.args(["exec", "--config"]).arg(host.path("etc")).args([tenant, "--", "sleep", "60"]);
    let mut exec = command.stderr(Stdio::piped()).spawn().expect("runs");
    until("it is in", || sessions(&host).len() == 1);
    host.ok(&["sessions", "kill", "--tenant", tenant]);
    assert_eq!(exec.wait().expect("ends").code(), Some(125));
}

#[test]
fn apply_now_ends_sessions_that_are_no_longer_allowed() {
    let host = host(OPEN);
    let tenant = profiles()[0];
    let key = |letter: &str| {
        let body = format!("AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA{letter}A");
        format!("ssh-ed25519 {body}")
    };
    let declare = |keys: &[String], more: &str| {
        let text = format!("plan = \"{tenant}\"\n{more}[login]\nssh_keys = {keys:?}\n");
        host.write(&format!("etc/tenants.d/{tenant}.toml"), &text);
    };
    declare(&[key("A"), format!("{} b@laptop", key("B"))], OPEN);
    host.ok(&["apply", "--now"]);
    let (first, second) = (stubborn_session(&host, tenant, &key("A")), stubborn_session(&host, tenant, &key("B")));
    declare(&[format!("{} b@laptop", key("B"))], OPEN);
    host.ok(&["apply"]);
    assert_eq!(sessions(&host).len(), 2, "open sessions stay");
    assert_eq!(host.ok(&["apply", "--now"]), format!("{tenant}: sessions ended: 1\n"));
    assert_ended(first, "its key may no longer log in");
    let left = sessions(&host);
    assert!(left.len() == 1 && left[0]["key"] == key("B"), "{left:?}");

    declare(&[key("B")], "doors = [\"exec\", \"sftp\"]\n");
    host.ok(&["apply", "--now"]);
    assert_ended(second, "closed");
    declare(&[key("B")], OPEN);
    host.ok(&["apply"]);
    let third = stubborn_session(&host, tenant, &key("B"));
    host.ok(&["suspend", tenant, "--reason", "invoice 17"]);
    assert_ended(third, "invoice 17");
}

#[test]
fn host_users_come_and_go_with_the_policy() {
    let mut host = host(OPEN);
    let (first, second) = (profiles()[0], "second");
    host.write("etc/tenants.d/second.toml", &format!("plan = \"{first}\"\n{OPEN}"));
    host.ok(&["apply"]);
    let record = |tenant: &str| std::fs::read_to_string(host.path(&format!("userdb/{tenant}.user"))).ok();
    let id = |tenant: &&str| {
        let text = record(tenant).expect("a record");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["uid"].as_u64().expect("an id")
    };
    let ids: BTreeSet<u64> = profiles().iter().chain(&[second]).map(id).collect();
    assert_eq!(ids.len(), profiles().len() + 1, "{ids:?}");
    assert_eq!(
        std::fs::read_dir(host.path("userdb")).expect("lists").count(),
        2 * ids.len(),
        "one and its symlink each"
    );
    assert_eq!(host.cli(&["plan"]).status.code(), Some(0));

    host.write(&format!("etc/tenants.d/{first}.toml"), &format!("plan = \"{first}\"\ndoors = [\"exec\"]\n"));
    let planned = host.cli(&["plan", first]);
    let said = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(planned.status.code() == Some(10) && said.contains("host user"), "{said}");
    host.ok(&["apply"]);
    assert!(record(first).is_none() && host.ok(&["show", first, "--json"]).contains("\"host_user\": null"));
    // The door tells a suspended tenant the reason.
    host.ok(&["suspend", second]);
    assert!(record(second).is_some());
    host.write("etc/tenants.d/guest.toml", &format!("plan = \"{first}\"\n{OPEN}"));
    host.ok(&["apply"]);
    assert!(record("guest").is_some());
    host.ok(&["delete", "guest"]);
    host.ok(&["apply"]);
    assert!(record("guest").is_none());

    // After a reboot all host users are missing, and are created again.
    host.end();
    std::fs::remove_dir_all(host.path("userdb")).expect("removes");
    host.start();
    until("it exists again", || host.path(&format!("userdb/{second}.user")).exists());
    // A tenant with the name of a user of the host is refused.
    host.write("etc/tenants.d/daemon.toml", &format!("plan = \"{first}\"\n{OPEN}"));
    let refused = host.cli(&["apply", "daemon"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(4) && said.contains("rename the tenant"), "{said}");
    assert!(!host.path("userdb/daemon.user").exists());
}

#[test]
fn changed_keys_take_effect_at_once() {
    let host = host("");
    let tenant = profiles()[0];
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA a@b";
    let declare = |keys: &str| {
        let text = format!("plan = \"{tenant}\"\n[login]\nssh_keys = [{keys}]\n");
        host.write(&format!("etc/tenants.d/{tenant}.toml"), &text);
    };
    declare(&format!("\"{key}\""));
    assert_eq!(host.ok(&["keys", tenant]), format!("restrict,pty {key}\n"));
    declare("");
    assert_eq!(host.ok(&["keys", tenant]), "");
    // With an error in the file, the last valid version applies: here the version at the start of the daemon,
    // without a key.
    until("the copy of it", || host.path(&format!("etc/.in-force/tenants.d/{tenant}.toml")).exists());
    for text in ["nonsense", "ssh_keys = []"] {
        host.write(&format!("etc/tenants.d/{tenant}.toml"), text);
        assert_eq!(host.ok(&["keys", tenant]), "", "{text}");
        // Nobody can enter a tenant without any valid version.
        host.write("etc/tenants.d/late.toml", text);
        let output = host.cli(&["keys", "late"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{text}");
    }
    assert_eq!(host.cli(&["keys", "nemo"]).status.code(), Some(3));
}

#[test]
fn an_error_in_a_plan_or_host_file_closes_no_door() {
    let mut host = Host::new();
    let tenant = profiles()[0];
    let plan =
        format!("profile = \"{tenant}\"\ndoors = [\"exec\", \"ssh\", \"sftp\", \"cron\"]\n[limits]\ntasks = 64\n");
    let timer = "[[timer]]\nname = \"often\"\nschedule = \"*:*:0/1\"\ncommand = [\"/bin/sh\", \"-c\", \"echo run >> /tmp/runs\"]\n";
    host.write("etc/plans.d/doors.toml", &plan);
    for tenant in profiles() {
        host.write(&format!("etc/tenants.d/{tenant}.toml"), &format!("plan = \"doors\"\n{timer}"));
    }
    host.start();
    host.ok(&["apply"]);
    host.write_ssh();
    until("the copy of it", || host.path(&format!("etc/.in-force/tenants.d/{tenant}.toml")).exists());
    let script = host.path("bin/ssh").display().to_string();
    for (file, text) in [("etc/plans.d/doors.toml", plan), ("etc/bailiwick.toml", host.default_config(""))] {
        host.write(file, &format!("colour = 7\n{text}"));
        for round in ["running", "restarted"] {
            let place = format!("{round}: with an error in {file}");
            assert_eq!(host.cli(&["reload"]).status.code(), Some(2), "{place}");
            assert!(assert_success(&mut ssh(&host, &[tenant, "echo in"]), b"").starts_with("in\n"), "{place}");
            assert_success(Command::new("sftp").args(["-S", &script, "-b", "-", tenant]), b"ls\n");
            assert_eq!(host.inside(tenant, "rm -f /tmp/runs").0, 0, "{place}");
            until(&format!("its timer runs, {place}"), || host.inside(tenant, "cat /tmp/runs").1.starts_with("run\n"));
            if round == "running" {
                host.end();
                host.start();
            }
        }
        host.write(file, &text);
        host.ok(&["reload"]);
    }
}

#[test]
fn a_login_with_too_few_descriptors_fails_with_a_reason() {
    use std::os::unix::process::CommandExt;
    let host = host(OPEN);
    let id = std::fs::read_to_string(host.path("bin/web.id")).expect("an id").parse().expect("a number");
    let mut command = Command::new("prlimit");
    command.arg("--nofile=4:4").arg(host.path("bin/bailiwick-shell")).arg("--config").arg(host.path("etc"));
    let output = command.args(["-c", "true"]).uid(id).gid(id).stdin(Stdio::null()).output().expect("runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("too few descriptors"), "{told}");
    // The command line reports it as well, and does not blame the files.
    for (most, arguments) in [(4, &["list"][..]), (4, &["keys", "web"]), (5, &["keys", "web"])] {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={most}:{most}"))
            .arg(stage().join("bailiwick"))
            .arg("--config")
            .arg(host.path("etc"));
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("too few descriptors") && !told.contains("not valid"), "{told}");
    }
}

#[test]
fn a_transfer_survives_the_death_of_bailiwickd() {
    const SIZE: u64 = 200 << 20;
    let host = host(OPEN);
    let (script, back) = (host.path("bin/ssh").display().to_string(), host.path("back").display().to_string());
    let tenant = profiles()[0];
    assert_success(&mut ssh(&host, &[tenant, &format!("head -c {SIZE} /dev/zero > large")]), b"");
    let mut client = Command::new("sftp")
        .args(["-q", "-S", &script, "-l", "200000", &format!("{tenant}:large"), &back])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    until("the transfer begins", || std::fs::metadata(&back).is_ok_and(|metadata| metadata.len() >= SIZE / 10));
    kill_daemon(&host, "bailiwickd");
    assert!(std::fs::metadata(&back).expect("there").len() < SIZE, "it was in the middle");
    assert!(client.wait().expect("ends").success());
    assert_eq!(std::fs::metadata(&back).expect("there").len(), SIZE);
}

/// While the tenant is suspended, only one door is open, for reading.
const READABLE: &str = "doors = [\"exec\", \"ssh\", \"sftp\", \"cron\"]\nsuspended_doors = [\"sftp\"]\n";

fn init_of(host: &Host, tenant: &str) -> Option<u64> {
    let shown: serde_json::Value = serde_json::from_slice(&host.cli(&["show", tenant, "--json"]).stdout).ok()?;
    shown["pid"].as_u64()
}

fn state_of(host: &Host, tenant: &str) -> String {
    let output = host.cli(&["show", tenant, "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    shown["state"].as_str().unwrap_or_default().to_owned()
}

/// Checks that nothing is writable: as root of the host inside the mount namespace of the jail, where only the
/// mount flags can refuse.
fn sealed(host: &Host, tenant: &str) -> Vec<String> {
    let pid = init_of(host, tenant).expect("it runs");
    let all = ["etc", "home", "opt", "root", "srv", "var", "usr/local"];
    let is_sealed = |dir: &&str| {
        let file = format!("/proc/{pid}/root/{dir}/of-the-host");
        match std::fs::write(&file, "x") {
            Err(error) => error.kind() == std::io::ErrorKind::ReadOnlyFilesystem,
            Ok(()) => std::fs::remove_file(file).is_err(),
        }
    };
    all.into_iter().filter(is_sealed).map(str::to_owned).collect()
}

fn sftp(host: &Host, tenant: &str, batch: &str) -> Output {
    let script = host.path("bin/ssh").display().to_string();
    run(Command::new("sftp").args(["-S", &script, "-b", "-", tenant]), batch.as_bytes())
}

/// The files of a tenant on the host's disk, with their content.
fn files(host: &Host, tenant: &str) -> String {
    let dir = host.path(&format!("state/tenants/{tenant}"));
    let line = "find . -printf '%p %s %m %T@\\n' | sort";
    let output = Command::new("sh").args(["-c", line]).current_dir(dir).output().expect("find runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_suspended_tenant_can_only_read_its_files_through_the_open_door() {
    let timer =
        "[[timer]]\nname = \"tick\"\nschedule = \"*:*:0/1\"\ncommand = [\"/bin/sh\", \"-c\", \"echo x >> ticks\"]\n";
    let mut host = host(&format!("{READABLE}{timer}"));
    let sent = bytes(300_000);
    std::fs::write(host.path("sent"), &sent).expect("writes");
    let (sent_path, back) = (host.path("sent").display().to_string(), host.path("back").display().to_string());
    let script = host.path("bin/ssh").display().to_string();
    let ticks = |host: &Host, tenant: &str| {
        std::fs::metadata(host.path(&format!("state/tenants/{tenant}/home/{tenant}/ticks")))
            .map_or(0, |file| file.len())
    };
    let mut inside = Vec::new();
    for tenant in profiles() {
        let output = sftp(&host, tenant, &format!("put {sent_path} kept\nmkdir d\n"));
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(sealed(&host, tenant), [""; 0], "it is not suspended");
        until("the timer runs", || ticks(&host, tenant) > 0);
        let files = Command::new("sftp")
            .args(["-S", &script, tenant])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        inside.push((files, stubborn_session(&host, tenant, "a b")));
    }
    until("all are in", || {
        let all = sessions(&host);
        profiles().len() * 2 == all.iter().filter(|session| session["door"] != "cron").count()
    });

    let all: Vec<&str> = ["suspend"].into_iter().chain(profiles()).chain(["--reason", "invoice 17"]).collect();
    host.ok(&all);
    for (mut files, shell) in inside {
        assert_ended(shell, "invoice 17");
        drop(files.stdin.take());
        let mut said = String::new();
        files.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        files.wait().expect("ends");
        assert!(said.contains("invoice 17"), "{said}");
    }
    let wishes = [
        format!("put {sent_path} more"),
        format!("put {sent_path} kept"),
        "rm kept".to_owned(),
        "rename kept lost".to_owned(),
        "chmod 777 kept".to_owned(),
        "mkdir e".to_owned(),
        "rmdir d".to_owned(),
        "ln -s kept link".to_owned(),
    ];
    let reads_and_no_more = |host: &Host, tenant: &str, wishes: &[String]| {
        assert_eq!(state_of(host, tenant), "suspended-read-only");
        let planned = host.cli(&["plan", tenant]);
        assert_eq!(planned.status.code(), Some(0), "{}", text(&planned));
        host.ok(&["audit", tenant]);
        assert_eq!(sealed(host, tenant).len(), 7, "{:?}", sealed(host, tenant));
        let before = files(host, tenant);
        let output = sftp(host, tenant, &format!("get kept {back}\nls -l\n"));
        assert!(output.status.success(), "{tenant}: {}", text(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("invoice 17"), "{}", text(&output));
        assert!(std::fs::read(&back).expect("came") == sent);
        std::fs::remove_file(&back).expect("removes");
        for wish in wishes {
            let output = sftp(host, tenant, &format!("{wish}\n"));
            assert!(!output.status.success(), "{tenant}: {wish}: {}", text(&output));
            assert!(text(&output).to_lowercase().contains("denied"), "{tenant}: {wish}: {}", text(&output));
        }
        assert_refused(&mut ssh(host, &[tenant, "id"]), 5, "invoice 17");
        assert_refused(&mut ssh(host, &[tenant]), 5, "invoice 17");
        assert_refused(
            Command::new("scp").args(["-O", "-S", &script, &format!("{tenant}:kept"), &back]),
            1,
            "invoice 17",
        );
        assert_refused(&mut host.command(&["exec", tenant, "--", "id"]), 125, "invoice 17");
        assert_eq!(files(host, tenant), before, "{tenant}");
    };
    for tenant in profiles() {
        reads_and_no_more(&host, tenant, &wishes);
        let timers: Vec<serde_json::Value> =
            serde_json::from_str(&host.ok(&["timers", tenant, "--json"])).expect("JSON");
        assert!(timers[0]["next"].is_null(), "{timers:?}");
    }
    let ticked = ticks(&host, profiles()[0]);
    let probed = host.cli(&["audit", "--probe"]);
    assert_eq!(probed.status.code(), Some(0), "{}", text(&probed));
    let status = host.ok(&["status"]);
    assert!(status.contains(&format!("{} suspended-read-only", profiles().len())), "{status}");

    // Whichever process is killed, the declared state is restored, and nothing else.
    let inits = |host: &Host| -> Vec<_> { profiles().into_iter().map(|tenant| init_of(host, tenant)).collect() };
    let before = inits(&host);
    for program in ["bailiwickd", "bailiwick-warden"] {
        kill_daemon(&host, program);
        until("it is running again", || host.cli(&["status"]).status.success() && inits(&host) == before);
        profiles().into_iter().for_each(|tenant| reads_and_no_more(&host, tenant, &wishes[..1]));
    }
    host.end();
    for pid in before.iter().flatten() {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill").success());
    }
    host.start();
    let again = |host: &Host| profiles().into_iter().all(|tenant| state_of(host, tenant) == "suspended-read-only");
    until("they are running again", || again(&host) && !inits(&host).contains(&before[0]));
    profiles().into_iter().for_each(|tenant| reads_and_no_more(&host, tenant, &wishes[..1]));

    // The warden follows only the policy, whatever is requested, and by whom.
    for tenant in profiles() {
        let of = || bailiwick_tests::name(tenant);
        assert_eq!(host.warden(&WardenRequest::Start { tenant: of() }), WardenReply::Unchanged);
        assert_eq!(host.warden(&WardenRequest::Stop { tenant: of(), hold: Hold::Keep }), WardenReply::Done);
        host.ask(&WardenRequest::Start { tenant: of() }).expect("an answer");
        until("it is back", || state_of(&host, tenant) == "suspended-read-only");
        reads_and_no_more(&host, tenant, &wishes[..1]);
    }

    // After `unsuspend`, open sessions are told.
    let tenant = profiles()[0];
    let mut reader = Command::new("sftp")
        .args(["-S", &script, tenant])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    until("it is in", || sessions(&host).len() == 1);
    assert_eq!(ticks(&host, tenant), ticked);
    host.ok(&["unsuspend", tenant]);
    drop(reader.stdin.take());
    let mut said = String::new();
    reader.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    reader.wait().expect("ends");
    assert!(said.contains("no longer suspended"), "{said}");
    assert_eq!((state_of(&host, tenant).as_str(), sealed(&host, tenant).len()), ("running", 0));
    let output = sftp(&host, tenant, &format!("put {sent_path} more\nrm kept\n"));
    assert!(output.status.success() && !text(&output).contains("suspended"), "{}", text(&output));
    assert_success(&mut ssh(&host, &[tenant, "echo x > written"]), b"");
    until("the timer runs again", || ticks(&host, tenant) > ticked);
    host.ok(&["audit", tenant]);
    assert_eq!(host.cli(&["plan", tenant]).status.code(), Some(0));
}

#[test]
fn a_jail_is_read_only_while_suspended_even_at_its_first_start() {
    let host = host(READABLE);
    let tenant = profiles()[0];
    let declare = |name: &str, more: &str| {
        host.write(&format!("etc/tenants.d/{name}.toml"), &format!("plan = \"{tenant}\"\n{more}"));
    };
    let suspended = "state = \"suspended\"\nsuspend_reason = \"invoice 17\"\n";
    // The audit reads the files too, so it is the first to report that the running jail is not the declared one.
    // From then on no door leads into the old jail, not even the one that will stay open. The daemon may restart
    // the jail before all this is observed; then the test tries again.
    let (audit, shell, early, planned) = loop {
        declare(tenant, READABLE);
        host.ok(&["apply"]);
        let before = init_of(&host, tenant);
        declare(tenant, &format!("{suspended}{READABLE}"));
        let audit = host.cli(&["audit", tenant]);
        let shell = run(&mut ssh(&host, &[tenant, "id"]), b"");
        let early = sftp(&host, tenant, "ls /\n");
        let planned = host.cli(&["plan", tenant]);
        if init_of(&host, tenant) == before {
            break (audit, shell, early, planned);
        }
    };
    assert!(audit.status.code() == Some(10) && text(&audit).contains("BW100"), "{}", text(&audit));
    assert!(shell.status.code() == Some(5) && text(&shell).contains("invoice 17"), "{}", text(&shell));
    assert!(!early.status.success() && text(&early).contains("invoice 17"), "{}", text(&early));
    assert!(planned.status.code() == Some(10) && text(&planned).contains("suspended, read-only"), "{}", text(&planned));
    host.ok(&["apply"]);
    assert_eq!((state_of(&host, tenant).as_str(), sealed(&host, tenant).len()), ("suspended-read-only", 7));
    assert!(sftp(&host, tenant, "ls\n").status.success());

    // A changed reason needs no new jail, and an operator may stop it.
    let pid = init_of(&host, tenant);
    declare(tenant, &format!("{}{READABLE}", suspended.replace("17", "18")));
    host.ok(&["apply", "--now"]);
    assert_eq!(init_of(&host, tenant), pid);
    host.ok(&["stop", tenant]);
    assert!(text(&sftp(&host, tenant, "ls\n")).contains("invoice 18"));
    drop(host.cli(&["plan", tenant]));
    assert_eq!(state_of(&host, tenant), "suspended");
    host.ok(&["start", tenant]);
    assert_eq!((state_of(&host, tenant).as_str(), sealed(&host, tenant).len()), ("suspended-read-only", 7));

    // Without a door that stays open there is no jail.
    declare(tenant, &format!("{suspended}{OPEN}"));
    host.ok(&["apply", "--now"]);
    assert_eq!((state_of(&host, tenant).as_str(), init_of(&host, tenant)), ("suspended", None));
    assert!(text(&sftp(&host, tenant, "ls\n")).contains("invoice 17"));
    assert_eq!(host.cli(&["start", tenant]).status.code(), Some(5));
    // Back again, only by changing the file.
    declare(tenant, READABLE);
    host.ok(&["apply"]);
    assert_eq!((state_of(&host, tenant).as_str(), sealed(&host, tenant).len()), ("running", 0));

    for plan in profiles() {
        let name = format!("new{plan}");
        host.write(&format!("etc/tenants.d/{name}.toml"), &format!("plan = \"{plan}\"\n{suspended}{READABLE}"));
        host.ok(&["apply", &name]);
        let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", &name, "--json"])).expect("JSON");
        host.write(&format!("bin/{name}.id"), &shown["host_user"].as_u64().expect("a host user").to_string());
        let listed = sftp(&host, &name, "ls /etc\npwd\n");
        assert!(listed.status.success() && text(&listed).contains("/etc/passwd"), "{}", text(&listed));
        assert!(text(&listed).contains(&format!("/home/{name}")), "{}", text(&listed));
        assert_eq!(sealed(&host, &name).len(), 7);
        host.ok(&["audit", &name]);
        host.ok(&["unsuspend", &name]);
        assert_eq!(host.inside(&name, "echo > /home/first; echo > /usr/local/first").0, 0);
    }
}

/// In `system`, /usr and so the program behind the door belong to the tenant. The replaced program tries
/// everything.
#[test]
fn a_replaced_sftp_server_can_only_read() {
    if !profiles().contains(&"system") {
        return;
    }
    let host = host(READABLE);
    // With the most rights that a jail can have.
    host.write("etc/tenants.d/system.toml", &format!("plan = \"system\"\nnesting = true\n{READABLE}"));
    host.ok(&["apply"]);
    let server = r#"#!/bin/bash -p
exec 2>&1
echo here as $(id -u)
try() {
    for target in / /home /etc /usr /var; do
        mount -o remount,bind,rw "$target" && echo "remounted $target"
        mount -o remount,rw "$target" && echo "remounted $target"
        mount --bind / /tmp && echo "bound"
    done
    for dir in / /home /home/system /etc /usr /usr/lib /var /srv /opt /root /usr/local; do
        { echo x > "$dir/stolen"; } && echo "written $dir"
    done
    umount /home && echo "unmounted"
}
try
[ -x /usr/root-shell ] || echo "no shell"
/usr/root-shell -p -c "echo as \$(id -u) now; $(declare -f try); try"
/usr/bin/unshare -Urm /bin/bash -c "echo nested; $(declare -f try); try"
echo x > /tmp/x && echo "tmp is fresh"
/opt/own -c "echo storage is run"
echo done
"#;
    host.write("server", server);
    let put = format!(
        "cat > /usr/lib/openssh/sftp-server <<'END'\n{server}END\ncp /bin/bash /usr/root-shell; chmod 4755 /usr/root-shell; cp /bin/bash /opt/own; chmod 777 /home /etc /var /srv /opt / /usr/local"
    );
    assert_eq!(host.inside("system", &put).0, 0);
    let tried = assert_success(&mut ssh(&host, &["-s", "system", "sftp"]), b"");
    for line in [
        "here as 1000\n",
        "as 0 now\n",
        "written /home\n",
        "remounted /home\n",
        "storage is run\n",
        "tmp is fresh\n",
        "done\n",
    ] {
        assert!(tried.contains(line), "it can do harm: {line}{tried}");
    }
    assert_eq!(host.inside("system", "rm -f /stolen /*/stolen /usr/*/stolen /home/system/stolen").0, 0);
    host.ok(&["suspend", "system", "--reason", "invoice 17"]);
    let before = files(&host, "system");
    let tried = assert_success(&mut ssh(&host, &["-s", "system", "sftp"]), b"");
    for line in ["here as 1000\n", "as 1000 now\n", "tmp is fresh\n", "done\n"] {
        assert!(tried.contains(line), "{line}{tried}");
    }
    for word in ["remounted", "written", "bound", "unmounted", "nested", "as 0", "no shell", "storage is run"] {
        assert!(!tried.contains(word), "{word}: {tried}");
    }
    assert_eq!(files(&host, "system"), before);
    assert_eq!(sealed(&host, "system").len(), 7);
    host.ok(&["audit", "system"]);
}

/// Kills a daemon that the supervisor restarts.
fn kill_daemon(host: &Host, name: &str) {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.pid())).expect("children");
    // The kernel truncates the name to 15 bytes.
    let name = &name[..name.len().min(15)];
    let is_it = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    let daemon = children.split_whitespace().find(is_it).unwrap_or_else(|| panic!("{name} runs"));
    assert!(Command::new("kill").args(["-9", daemon]).status().expect("kill").success());
}
