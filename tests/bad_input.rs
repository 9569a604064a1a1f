//! Bad input: each gets one clear error, nothing is half done, nothing is lost.

use bailiwick_proto::{WardenReply, WardenRequest};
use bailiwick_tests::{Host, Pool, name, runs, stage};
use bailiwick_types::Profile;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs the command line and expects a status and words in what it says.
fn fails(host: &Host, arguments: &[&str], status: i32, words: &[&str]) {
    let output = host.cli(arguments);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?} does not say {word:?}: {text}");
    }
}

/// Starts the service and expects it to end with a status and words.
fn refuses_to_start(host: &mut Host, status: i32, words: &[&str]) {
    let output = Command::new(stage().join("bailiwickd"))
        .args(["--standalone", "--config"])
        .arg(host.path("etc"))
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?}: {text}");
    }
}

#[test]
fn every_problem_of_every_file_in_one_run() {
    let host = Host::new();
    host.write("etc/plans.d/a.toml", "plan = \"b\"\n");
    host.write("etc/plans.d/b.toml", "plan = \"a\"\n");
    host.declare("noplan", "nosuch");
    host.declare("root", "web");
    host.write("etc/tenants.d/empty.toml", "");
    host.write("etc/tenants.d/large.toml", &format!("plan = \"web\"\n#{}\n", "x".repeat(10 << 20)));
    std::fs::write(host.path("etc/tenants.d/bytes.toml"), b"plan = \"web\"\nstate = \"\xff\"\n").expect("writes");
    host.write("etc/tenants.d/open.toml", "plan = \"web\"\n");
    std::fs::set_permissions(host.path("etc/tenants.d/open.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o664))
        .expect("chmod");
    std::os::unix::fs::symlink("/etc/passwd", host.path("etc/tenants.d/link.toml")).expect("symlink");
    host.write(&format!("etc/tenants.d/{}.toml", "x".repeat(200)), "plan = \"web\"\n");
    let words = [
        "noplan.toml:1:8",
        "nosuch",
        "a -> b -> a",
        "root.toml",
        "reserved",
        "empty.toml",
        "large.toml",
        "bytes.toml:2:10",
        "open.toml",
        "link.toml",
        "at most 32 bytes",
    ];
    fails(&host, &["check"], 2, &words);
}

#[test]
fn names_on_the_command_line() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    let long = "x".repeat(300);
    for (bad, word) in [("../x", "'.'"), ("root", "reserved"), (long.as_str(), "32 bytes"), ("", "empty")] {
        fails(&host, &["show", "--", bad], 2, &[word]);
        fails(&host, &["create", "--plan", "web", "--", bad], 2, &[word]);
    }
    fails(&host, &["show", "nobody-knows"], 3, &["nobody-knows"]);
    fails(&host, &["create", "bob", "--plan", "nosuch"], 3, &["nosuch"]);
    fails(&host, &["create", "alice", "--plan", "web"], 4, &["alice"]);
    fails(&host, &["exec", "nobody-knows", "--", "true"], 125, &["nobody-knows"]);
}

#[test]
fn what_the_host_cannot_hold_is_refused_by_name() {
    let mut host = Host::new();
    // Without quotas, wherever this runs.
    let _pool = Pool::for_state_of(&host, "64M", &["mkfs.ext4", "-q"]);
    host.write("etc/bailiwick.toml", &host.default_config("").replace("\"tasks\"]", "\"tasks\", \"disk\"]"));
    host.write("etc/tenants.d/full.toml", "plan = \"web\"\n[limits]\ndisk = \"1G\"\n");
    host.write("etc/tenants.d/image.toml", "plan = \"image\"\n");
    host.write("etc/plans.d/image.toml", "image = \"debian-99\"\n");
    host.declare("good", "web");
    host.start();
    fails(&host, &["start", "full"], 8, &["disk = 1G", "require", "doctor"]);
    fails(&host, &["start", "image"], 8, &["debian-99", "host"]);
    host.ok(&["start", "good"]);
    assert_eq!(host.inside("good", "echo in").1.trim(), "in");
    host.ok(&["stop", "good"]);
}

#[test]
fn a_state_directory_that_cannot_be_trusted() {
    let mut host = Host::new();
    std::fs::create_dir(host.path("real")).expect("mkdir");
    std::os::unix::fs::symlink(host.path("real"), host.path("state")).expect("symlink");
    refuses_to_start(&mut host, 1, &["symbolic link", "state_dir"]);
    assert_eq!(std::fs::read_dir(host.path("real")).expect("still there").count(), 0);
    std::fs::remove_file(host.path("state")).expect("the link");
    std::fs::create_dir(host.path("state")).expect("mkdir");
    std::fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    refuses_to_start(&mut host, 1, &["0700", "chmod"]);
}

#[test]
fn a_damaged_ledger_stops_the_warden_and_is_kept() {
    let mut host = Host::new();
    std::fs::create_dir(host.path("state")).expect("mkdir");
    std::fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    host.write("state/ledger.json", "{\"version\":1,");
    refuses_to_start(&mut host, 8, &["ledger", "backup", "--repair-ledger"]);
    assert_eq!(std::fs::read_to_string(host.path("state/ledger.json")).expect("kept"), "{\"version\":1,");
    // So that the host can be dropped: it reads the ledger to find its control groups.
    std::fs::remove_file(host.path("state/ledger.json")).expect("removes");
}

/// The index of each tenant's range, as the ledger has it.
fn indexes(host: &Host) -> serde_json::Value {
    let text = std::fs::read_to_string(host.path("state/ledger.json")).expect("a ledger");
    serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["tenants"].clone()
}

#[test]
fn a_ledger_that_is_missing_beside_running_jails_is_rebuilt_and_never_begun_anew() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.declare("bob", "web");
    host.write("etc/tenants.d/down.toml", "plan = \"web\"\ndoors = [\"exec\"]\n");
    host.start();
    host.ok(&["apply"]);
    host.ok(&["stop", "down"]);
    // So that alice is not the first: a ledger that is begun anew would give her another range.
    let before = indexes(&host);
    host.kill();
    let ledger = host.path("state/ledger.json");
    let kept = std::fs::read(&ledger).expect("reads");
    for damage in ["", "{\"version\":1,"] {
        if damage.is_empty() {
            std::fs::remove_file(&ledger).expect("removes");
        } else {
            std::fs::write(&ledger, damage).expect("writes");
        }
        refuses_to_start(&mut host, 8, &["ledger", "backup", "--repair-ledger"]);
        let said = host.ok(&["doctor", "--repair-ledger"]);
        assert!(said.contains("\"alice\" has the ids from") && said.contains("\"down\" is NOT certain"), "{said}");
        let (now, running) = (indexes(&host), ["alice", "bob"]);
        assert!(running.iter().all(|tenant| now[tenant]["index"] == before[tenant]["index"]), "{now} {before}");
        assert_eq!(host.cli(&["doctor", "--repair-ledger"]).status.code(), Some(4), "it is in order now");
    }
    // One whose process runs and whose record is gone is not guessed at.
    std::fs::remove_file(&ledger).expect("removes");
    let record = host.path("run/jails/bob/record.json");
    std::fs::rename(&record, host.path("kept")).expect("moves");
    let output = host.cli(&["doctor", "--repair-ledger"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("nothing tells whose"), "{}", said(&output));
    assert!(!ledger.exists());
    std::fs::rename(host.path("kept"), &record).expect("moves");
    std::fs::write(&ledger, kept).expect("writes");
    host.start();
    assert_eq!(host.inside("alice", "echo in").1.trim(), "in");
}

#[test]
fn a_second_service_on_one_state_directory() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    refuses_to_start(&mut host, 4, &["another bailiwick-warden"]);
    assert_eq!(host.inside("alice", "echo on").1.trim(), "on");
}

#[test]
fn a_policy_that_breaks_while_tenants_run() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.declare("bob", "shell");
    host.start();
    host.ok(&["apply"]);
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\nstate = \"actve\"\n");
    host.ok(&["apply", "bob"]);
    fails(&host, &["apply", "alice"], 2, &["alice", "check"]);
    let list = host.ok(&["list"]);
    assert!(list.lines().any(|line| line.starts_with("alice") && line.contains("invalid")), "{list}");
    assert!(host.ok(&["status"]).contains("actve"));
    assert_eq!(host.processes().len(), 2, "alice goes on as she is");
    host.write("etc/bailiwick.toml", "state_dir = 7\n");
    // The command line needs the file to find the socket, so the service is told in the other way. It goes on with
    // what it knew.
    assert!(Command::new("kill").args(["-HUP", &host.pid().to_string()]).status().expect("kill").success());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.processes().len(), 2);
    host.write("etc/bailiwick.toml", &host.default_config(""));
    host.declare("alice", "web");
    host.ok(&["apply"]);
    assert_eq!(host.inside("alice", "echo on").1.trim(), "on");
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_half_done() {
    let mut host = Host::new();
    let pool = Pool::for_state_of(&host, "2M", &["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"]);
    let state = pool.path();
    host.declare("alice", "web");
    host.start_warden();
    let filler = state.join("filler");
    let mut full = std::fs::File::create(&filler).expect("creates");
    while full.write(&[0; 4096]).is_ok_and(|len| len > 0) {}
    let WardenReply::Failed(failure) = host.ask(&WardenRequest::Start { tenant: name("alice") }).expect("lives") else {
        panic!("a jail without storage");
    };
    assert!(failure.message.contains("No space left"), "{failure}");
    assert!(host.processes().is_empty());
    assert!(host.groups().is_empty());
    drop(full);
    std::fs::remove_file(&filler).expect("removes");
    assert_eq!(host.warden(&WardenRequest::Start { tenant: name("alice") }), WardenReply::Done);
    let stop = WardenRequest::Stop { tenant: name("alice"), hold: bailiwick_proto::Hold::Keep };
    assert_eq!(host.warden(&stop), WardenReply::Done);
}

#[test]
fn garbage_on_the_control_socket() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let socket = host.path("run/control/bailiwick.sock");
    let mut answers = Vec::new();
    for garbage in [&[0xff; 64][..], b"GET / HTTP/1.1\r\n\r\n", &[4, 0, 0, 0, b'n', b'o', b'p', b'e'], &[0, 0, 0, 0]] {
        let mut stream = UnixStream::connect(&socket).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
        stream.write_all(garbage).expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the connection is closed");
        answers.push(String::from_utf8_lossy(&answer).into_owned());
    }
    assert!(answers.iter().all(|answer| answer.contains("failed")), "{answers:?}");
    // Half a request, and silence: closed in bounded time, while others are served.
    let mut half = UnixStream::connect(&socket).expect("connects");
    half.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
    half.write_all(&[200, 0, 0, 0, b'{']).expect("writes");
    assert_eq!(host.inside("alice", "echo on").1.trim(), "on");
    assert_eq!(half.read(&mut [0; 8]).expect("closed"), 0);
}

#[test]
fn a_user_of_the_host_who_is_no_admin() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let as_user = |arguments: &[&str]| {
        let words: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
        let line = format!(
            "$) = '12345 12345'; $( = 12345; $< = $> = 12345; exec '{}', {}",
            stage().join("bailiwick").display(),
            words.join(", ")
        );
        Command::new("perl").args(["-e", &line]).stdin(Stdio::null()).output().expect("perl runs")
    };
    let config = host.path("etc").display().to_string();
    let output = as_user(&["list", "--config", &config]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let output = as_user(&["exec", "--config", &config, "alice", "--", "id"]);
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(!said(&output).contains("uid="));
    // The warden's socket and init's are not even reached.
    for socket in ["run/warden.sock", "run/jails/alice/init.sock"] {
        let path = host.path(socket).display().to_string();
        let line = format!(
            "use Socket; $) = '12345 12345'; $( = 12345; $< = $> = 12345; socket(my $s, PF_UNIX, SOCK_STREAM, 0); \
             exit(connect($s, pack_sockaddr_un('{path}')) ? 0 : $! + 0)"
        );
        let status = Command::new("perl").args(["-e", &line]).status().expect("perl runs");
        assert_eq!(status.code(), Some(13), "{socket}");
    }
}

#[test]
fn a_profile_that_the_kernel_cannot_run_is_refused() {
    let mut host = Host::new();
    host.declare("alice", "system");
    host.start();
    if runs(Profile::System) {
        host.ok(&["apply"]);
        return;
    }
    fails(&host, &["apply"], 8, &["Landlock", "system", "6"]);
    assert_eq!(host.leftovers(), Vec::<String>::new());
    fails(&host, &["doctor"], 0, &["landlock", "system"]);
}

#[test]
fn a_reload_says_what_is_wrong_and_uses_the_rest() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["reload"]);
    host.declare("bob", "nosuch");
    host.declare("carol", "web");
    fails(&host, &["reload"], 2, &["bob.toml:1:8", "nosuch"]);
    assert!(host.ok(&["list"]).contains("carol"));
    let good = std::fs::read_to_string(host.path("etc/bailiwick.toml")).expect("reads");
    host.write("etc/bailiwick.toml", "requir = []\n");
    fails(&host, &["reload"], 2, &["bailiwick.toml:1:1"]);
    host.write("etc/bailiwick.toml", &good);
    std::fs::remove_file(host.path("etc/tenants.d/bob.toml")).expect("removes");
    host.ok(&["reload"]);
}
