//! `set` and `edit`: a file changes in one step, only to something valid, and the jail with it.

use bailiwick_tests::{Host, until};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Output, Stdio};

const ALICE: &str = "# a good customer\nplan  = \"web\"  # since May\n\n[limits] # more\nmemory = \"256M\" # paid\n";

/// A host with the tenant alice, whose jail runs if the daemons do.
fn host() -> Host {
    let host = Host::new();
    host.write("etc/tenants.d/alice.toml", ALICE);
    host
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(host: &Host, below: &str) -> String {
    fs::read_to_string(host.path(below)).expect("a file")
}

fn memory(host: &Host) -> Value {
    let shown: Value = serde_json::from_str(&host.ok(&["show", "alice", "--json"])).expect("JSON");
    let limits = shown["limits"].as_array().expect("limits").clone();
    limits.into_iter().find(|limit| limit["resource"] == "memory").expect("memory")["enforced"].clone()
}

/// Runs `edit` with a shell script as the editor, which gets the copy as `$2`. `answers` is what the operator types.
fn edit(host: &Host, arguments: &[&str], script: &str, answers: &str) -> Output {
    host.write("editor", &format!("{script}\n"));
    let mut command = host.command(&[&["edit"], arguments].concat());
    // The editor has an argument of its own, and is not the wrong one.
    command.env("VISUAL", format!("/bin/sh {} --wait", host.path("editor").display())).env("EDITOR", "/bin/false");
    command.env("TMPDIR", host.path("tmp")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    fs::create_dir_all(host.path("tmp")).expect("mkdir");
    let mut child = command.spawn().expect("starts");
    child.stdin.take().expect("a pipe").write_all(answers.as_bytes()).expect("writes");
    child.wait_with_output().expect("ends")
}

#[test]
fn set_changes_a_running_jail_and_keeps_comments() {
    let mut host = host();
    host.start();
    host.ok(&["apply"]);
    assert_eq!(memory(&host), "256M");
    let told = host.ok(&["set", "alice", "memory=192M", "tasks=50"]);
    let golden = "WHAT           BEFORE  AFTER\nlimits.memory  256M    192M\nlimits.tasks   64      50\n";
    assert!(told.starts_with(golden), "{told}");
    assert_eq!(memory(&host), "192M", "it is in force at once");
    let golden = ALICE.replace("256M", "192M") + "tasks = 50\n";
    assert_eq!(file(&host, "etc/tenants.d/alice.toml"), golden);

    let told = host.ok(&["set", "alice", "--unset", "tasks", "memory=", "--json"]);
    let report: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&report["written"], &report["file"]), (&Value::Bool(true), &Value::from("tenants.d/alice.toml")));
    assert_eq!(report["changes"][0], serde_json::json!({"what": "limits.memory", "before": "192M", "after": "128M"}));
    assert_eq!(report["outcomes"][0]["tenant"], "alice");
    assert_eq!(memory(&host), "128M", "the plan's");
    host.ok(&["set", "alice", "doors=exec,cron"]);
    let again = host.cli(&["set", "alice", "doors=exec,cron"]);
    assert!(again.status.success() && text(&again.stderr).contains("nothing was changed"), "{again:?}");
    assert!(file(&host, "etc/tenants.d/alice.toml").contains("doors = [\"exec\", \"cron\"]\n"));
}

#[test]
fn set_writes_nothing_that_is_not_valid_and_nothing_in_a_rehearsal() {
    let host = host();
    let path = host.path("etc/tenants.d/alice.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    for (arguments, status, told) in [
        (&["memroy=1G"][..], 2, "did you mean \"memory\"?"),
        (&["memory=1X"], 2, "alice.toml:5:10"),
        (&["plan=wbe"], 2, "did you mean \"web\"?"),
        (&["memory_high=1G"], 2, "memory"),
        (&["doors=exec,telnet"], 2, "telnet"),
        (&["service.x.enabled=true"], 2, "no service \"x\""),
        (&["memory"], 2, "KEY=VALUE"),
    ] {
        let output = host.cli(&[&["set", "alice"], arguments].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?} {said}");
        assert!(said.contains(told), "{arguments:?} {said}");
        assert_eq!(file(&host, "etc/tenants.d/alice.toml"), ALICE, "{arguments:?}");
    }
    assert_eq!(host.cli(&["set", "ghost", "memory=1G"]).status.code(), Some(3));
    let told = host.ok(&["set", "alice", "memory=1G", "--dry-run"]);
    assert!(told.contains("limits.memory  256M    1G\n"), "{told}");
    assert_eq!(file(&host, "etc/tenants.d/alice.toml"), ALICE);

    // Without the daemon the file is written, and the command says that nothing is applied.
    let output = host.cli(&["set", "alice", "memory=1G"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the file is written, and not applied"), "{}", text(&output.stderr));
    // Nor with a host file that nobody can read.
    let config = file(&host, "etc/bailiwick.toml");
    host.write("etc/bailiwick.toml", &format!("nonsense = 1\n{config}"));
    let output = host.cli(&["set", "alice", "memory=768M"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the file is written, and not applied"), "{}", text(&output.stderr));
    host.write("etc/bailiwick.toml", &config);
    host.ok(&["set", "alice", "memory=1G", "--no-apply"]);
    assert_eq!(host.ok(&["set", "alice", "memory=2G", "--no-apply"]).lines().count(), 2);
    assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o7777, 0o640, "its mode stays");
    assert_eq!(host.ok(&["set", "alice", "memory=2G"]), "", "nothing is left to change");
}

#[test]
fn an_error_elsewhere_does_not_hold_up_a_change_but_a_new_one_does() {
    let host = host();
    host.write("etc/tenants.d/bob.toml", "plan = \"nothing\"\n");
    host.ok(&["set", "alice", "memory=1G", "--no-apply"]);
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\nmemroy = 1\n");
    let output = host.cli(&["set", "alice", "memory=1G", "--no-apply"]);
    assert_eq!(output.status.code(), Some(2), "its own error counts, because nothing would be in force");
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\n[network]\nmode = \"outbound\"\n");
    // A change of the plan that makes a tenant's file wrong.
    let output = edit(&host, &["--plan", "web", "--no-apply"], "echo 'profile = 3' > \"$2\"", "");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn edit_asks_again_and_writes_what_is_valid() {
    let mut host = host();
    host.start();
    host.ok(&["apply"]);
    // The first time a mistake, and then the right word.
    let script = "if grep -q memroy \"$2\"; then sed -i s/memroy/memory/ \"$2\"; else sed -i 's/memory = .*/memroy = \"200M\"/' \"$2\"; fi";
    let output = edit(&host, &["alice"], script, "what\ne\n");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("tenants.d/alice.toml:5:1") && said.contains("did you mean \"memory\"?"), "{said}");
    assert_eq!(said.matches("(d)iscard").count(), 2, "{said}");
    assert!(text(&output.stdout).contains("limits.memory  256M    200M\n"), "{}", text(&output.stdout));
    assert_eq!(memory(&host), "200M");
    assert_eq!(fs::read_dir(host.path("tmp")).expect("a folder").count(), 0, "the copy is gone");

    let output = edit(
        &host,
        &["--host"],
        "echo 'reserve = { tasks = 10, disk = \"1M\" }' > \"$2.x\"; grep -v ^reserve \"$2\" >> \"$2.x\"; cp \"$2.x\" \"$2\"; rm \"$2.x\"",
        "",
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("reserve.tasks"), "{}", text(&output.stdout));
    let output = edit(&host, &["--plan", "web", "--json"], "sed -i s/64/70/ \"$2\"", "");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["changes"], serde_json::json!([{"what": "limits.tasks", "before": "64", "after": "70"}]));
    assert_eq!(report["outcomes"][0]["tenant"], "alice", "everybody with the plan is concerned");
}

#[test]
fn edit_leaves_the_file_when_it_should() {
    let host = host();
    let unchanged = |host: &Host| assert_eq!(file(host, "etc/tenants.d/alice.toml"), ALICE);
    for (script, answers, status, told) in [
        ("echo 'x = ' >> \"$2\"", "d\n", 2, "discarded"),
        ("echo 'x = ' >> \"$2\"", "", 2, "discarded"),
        ("echo 'x = ' >> \"$2\"; exit 3", "", 1, "set EDITOR"),
        (":", "", 0, "nothing was changed"),
        ("[ \"$(stat -c %a \"$(dirname \"$2\")\")\" = 700 ] || exit 1", "", 0, "nothing was changed"),
    ] {
        let output = edit(&host, &["alice"], script, answers);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(told), "{script} {said}");
        unchanged(&host);
    }
    // Somebody else changes the file meanwhile. The operator's work is kept.
    let theirs = host.path("etc/tenants.d/alice.toml");
    let script = format!("sed -i s/256M/512M/ \"$2\"; echo '# theirs' >> {}", theirs.display());
    let output = edit(&host, &["alice"], &script, "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("was changed by somebody else"), "{said}");
    assert_eq!(file(&host, "etc/tenants.d/alice.toml"), format!("{ALICE}# theirs\n"));
    let kept = said.rsplit('"').nth(1).expect("a path in quotes");
    assert!(fs::read_to_string(Path::new(kept).join("alice.toml")).expect("the copy").contains("512M"));
    for (arguments, status) in [(&["ghost"][..], 3), (&["--plan", "ghost"], 3)] {
        assert_eq!(edit(&host, arguments, ":", "").status.code(), Some(status));
    }
}

/// The editor has the keys to itself: an interrupt at the terminal ends neither the editor, which ignores it, nor the command.
#[test]
fn an_interrupt_in_the_editor_ends_no_command() {
    let host = host();
    let mark = host.path("mark");
    let script = format!(
        "trap 'touch {0}' INT; kill -INT $PPID; kill -INT $$; sed -i s/256M/300M/ \"$2\"; [ -e {0} ]",
        mark.display()
    );
    let output = edit(&host, &["alice", "--no-apply"], &script, "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    until("the file is written", || file(&host, "etc/tenants.d/alice.toml").contains("300M"));
}

/// A copy has hashes of passwords in it, and is gone however the command ends.
#[test]
fn a_signal_ends_the_editor_and_leaves_no_copy() {
    let host = host();
    let left = || fs::read_dir(host.path("tmp")).expect("a folder").count();
    for signal in ["HUP", "TERM"] {
        let script = format!("sed -i s/256M/300M/ \"$2\"; kill -{signal} $PPID; exec sleep 1000");
        let output = edit(&host, &["alice", "--no-apply"], &script, "");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("ended by a signal: nothing is changed"), "{}", text(&output.stderr));
        assert_eq!((left(), file(&host, "etc/tenants.d/alice.toml").contains("300M")), (0, false), "{signal}");
    }
    // Nor is one there while the operator is asked.
    let output = edit(&host, &["alice", "--no-apply"], "echo nonsense > \"$2\"", "");
    assert_eq!((output.status.code(), left()), (Some(2), 0), "{}", text(&output.stderr));
}
