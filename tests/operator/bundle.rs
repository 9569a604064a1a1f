//! A support bundle has what somebody needs who looks for a fault, and no secret of the host.

use bailiwick_tests::{Host, until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

const HASH: &str = "$y$j9T$D7TvcSFvIlGpEkFVkXmRs0$PVJVZr.iZXKXOrpzJwLvzzeg65p20T86Q0D3KhW3Dv0";
const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIOYLw5YBOneLZfK674Sm+a9FdrvywT3Y9KltLOLL1fTS";

/// Runs the command with programs of ours in place of those of systemd.
fn bundle(host: &Host, more: &[&str]) -> Output {
    let path = format!("{}:{}", host.path("bin").display(), std::env::var("PATH").expect("PATH"));
    host.command(&[&["support-bundle"], more].concat())
        .env("PATH", path)
        .current_dir(host.path("out"))
        .output()
        .expect("runs")
}

/// Makes a program. By another process: a descriptor of this one that is open for writing may be in a child of another test, and
/// then nobody can execute the file.
fn fake(host: &Host, name: &str, script: &str) {
    host.write(&format!("made/{name}"), &format!("#!/bin/sh\n{script}\n"));
    let mut install = Command::new("install");
    install.args(["-D", "-m", "755"]).arg(host.path(&format!("made/{name}"))).arg(host.path(&format!("bin/{name}")));
    assert!(install.status().expect("install runs").success());
}

#[test]
fn a_bundle_has_every_part_and_no_secret() {
    let mut host = Host::new();
    let socket = "[[service]]\nname = \"app\"\ncommand = [\"/bin/sleep\", \"secretargument1\"]\nenv = { DATABASE = \"secretvariable2\" }\n";
    host.write(
        "etc/plans.d/p.toml",
        &format!("profile = \"web\"\ndoors = [\"exec\", \"ssh\", \"ftp\", \"cron\"]\n# secretcomment3\n{socket}"),
    );
    host.write(
        "etc/tenants.d/alice.toml",
        &format!(
            "plan = \"p\"\nstate = \"suspended\"\nsuspend_reason = \"secretreason4 of joe5@example.org\"\n[login]\nssh_keys = [\"ssh-ed25519 {KEY} secretowner6@example.org\"]\n\
             [[ftp]]\nname = \"files\"\npassword = \"{HASH}\"\n[[timer]]\nname = \"t\"\nschedule = \"daily\"\ncommand = [\"/bin/x\", \"--token=secrettoken7\"]\n"
        ),
    );
    // Words of files that cannot be read stay away too.
    host.write("etc/tenants.d/bob.toml", "plan = \"p\"\n[[ftp]]\npassword = \"secretbroken8\n");
    host.write("etc/hooks.d/dns.toml", "run = [\"/usr/lib/x\", \"secrethook9\"]\nsecrets = [\"whsec_secretwebhook10\"]\nurl = \"https://example.org/secreturl11\"\n");
    host.start();
    host.ok(&["apply", "alice"]);
    // A reason that holds no more, and is shorter than a word that would be looked for.
    host.declare("dave", "web");
    // The hook cannot be read, and might refuse this.
    host.ok(&["suspend", "dave", "--reason", "pst15", "--skip-hooks"]);
    let told = || host.ok(&["events", "--tenant", "dave", "--json"]);
    until("it is told", || told().contains("pst15"));
    host.ok(&["unsuspend", "dave"]);
    fs::create_dir_all(host.path("out")).expect("mkdir");
    let lines = format!(
        "echo 'x: password=secretlog12 mail to <who13@example.org> key ssh-rsa {KEY} hash {HASH}'; echo 'used secretvariable2 and secretbroken8'; \
         printf '%s\\n' '-----BEGIN OPENSSH PRIVATE KEY-----' secretprivate14 '-----END OPENSSH PRIVATE KEY-----' 'the last line'"
    );
    fake(&host, "journalctl", &lines);
    fake(&host, "systemctl", "echo Id=bailiwickd.service; echo \"$@\"");

    let output = bundle(&host, &["--output", "b.tar.gz"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(7),
        "bob's file is shown as a problem: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let file = host.path("out/b.tar.gz");
    assert_eq!(fs::metadata(&file).expect("written").permissions().mode() & 0o7777, 0o600);
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").args(arguments).arg(&file).output().expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let names = tar(&["-tzf"]);
    for name in [
        "kernel.txt",
        "system.txt",
        "status.json",
        "doctor.json",
        "check.json",
        "list.json",
        "plan.json",
        "audit.json",
        "events.json",
        "incidents.json",
        "units.txt",
        "journal.txt",
        "policy/bailiwick.toml",
        "policy/plans.d/p.toml",
        "policy/tenants.d/alice.toml",
        "policy/tenants.d/bob.toml",
        "policy/hooks.d/dns.toml",
        "bailiwick.txt",
        "README.txt",
    ] {
        assert!(names.contains(&format!("bailiwick-support/{name}\n")), "{name}: {names}");
        assert!(name == "README.txt" || said.contains(name), "{name}: {said}");
    }
    let all = tar(&["-xzOf"]);
    for secret in [
        "secretargument1",
        "secretvariable2",
        "secretcomment3",
        "secretreason4",
        "joe5",
        "secretowner6",
        "secrettoken7",
        "secretbroken8",
        "secrethook9",
        "secretwebhook10",
        "secreturl11",
        "secretlog12",
        "who13",
        "secretprivate14",
        "pst15",
        KEY,
        HASH,
        "example.org",
    ] {
        let line = all.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    for kept in ["the last line", "plan = \"p\"", "\"alice\"", "Id=bailiwickd.service", "/bin/sleep", "\"features\""] {
        assert!(all.contains(kept), "{kept}");
    }

    // Nothing is overwritten, and the report is there for programs.
    assert_eq!(bundle(&host, &["--output", "b.tar.gz"]).status.code(), Some(4));
    fs::remove_file(host.path("etc/tenants.d/bob.toml")).expect("removes");
    let output = bundle(&host, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(host.path("out").join(report["file"].as_str().expect("a path")).exists());
}

#[test]
fn a_host_whose_daemons_are_down_gets_a_bundle_too() {
    let host = Host::new();
    host.declare("alice", "web");
    fs::create_dir_all(host.path("out")).expect("mkdir");
    fake(&host, "journalctl", "exit 1");
    fake(&host, "systemctl", "exit 1");
    let output = bundle(&host, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(7));
    let part = |name: &str| {
        report["parts"].as_array().expect("parts").iter().find(|part| part["name"] == name).expect(name).clone()
    };
    assert!(part("status.json")["problem"].is_string() && part("check.json")["problem"].is_null(), "{report:#}");
}
