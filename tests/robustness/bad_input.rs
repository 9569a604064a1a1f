//! Bad input: each mistake causes one clear error, no partial change and no loss of data.

use bailiwick_proto::{WardenReply, WardenRequest};
use bailiwick_tests::{Host, Pool, name, stage, supports, until};
use bailiwick_types::Profile;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn output_text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command and expects an exit status and words in its output.
fn assert_fails(host: &Host, arguments: &[&str], status: i32, words: &[&str]) {
    let output = host.cli(arguments);
    let text = output_text(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?} does not say {word:?}: {text}");
    }
}

/// Starts the service and expects it to exit with a status and words in its log.
fn assert_refuses_to_start(host: &mut Host, status: i32, words: &[&str]) {
    let output = Command::new(stage().join("bailiwickd"))
        .args(["--standalone", "--config"])
        .arg(host.path("etc"))
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let text = output_text(&output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?}: {text}");
    }
}

#[test]
fn every_problem_of_every_file_is_reported_in_one_run() {
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
    assert_fails(&host, &["check"], 2, &words);
}

#[test]
fn invalid_names_on_the_command_line_are_refused() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    let long = "x".repeat(300);
    for (bad, word) in [("../x", "'.'"), ("root", "reserved"), (long.as_str(), "32 bytes"), ("", "empty")] {
        assert_fails(&host, &["show", "--", bad], 2, &[word]);
        assert_fails(&host, &["create", "--plan", "web", "--", bad], 2, &[word]);
    }
    assert_fails(&host, &["show", "nobody-knows"], 3, &["nobody-knows"]);
    assert_fails(&host, &["create", "bob", "--plan", "nosuch"], 3, &["nosuch"]);
    assert_fails(&host, &["create", "alice", "--plan", "web"], 4, &["alice"]);
    assert_fails(&host, &["exec", "nobody-knows", "--", "true"], 125, &["nobody-knows"]);
}

#[test]
fn limits_that_the_host_cannot_enforce_are_refused_by_name() {
    let mut host = Host::new();
    // A file system without quotas, independent of the machine.
    let _pool = Pool::for_state_of(&host, "64M", &["mkfs.ext4", "-q"]);
    host.write("etc/bailiwick.toml", &host.default_config("").replace("\"tasks\"]", "\"tasks\", \"disk\"]"));
    host.write("etc/tenants.d/full.toml", "plan = \"web\"\n[limits]\ndisk = \"1G\"\n");
    host.write("etc/tenants.d/image.toml", "plan = \"image\"\n");
    host.write("etc/plans.d/image.toml", "image = \"debian-99\"\n");
    host.declare("good", "web");
    host.start();
    assert_fails(&host, &["start", "full"], 8, &["disk = 1G", "require", "doctor"]);
    assert_fails(&host, &["start", "image"], 8, &["debian-99", "host"]);
    host.ok(&["start", "good"]);
    assert_eq!(host.inside("good", "echo in").1.trim(), "in");
    host.ok(&["stop", "good"]);
}

#[test]
fn a_restart_that_would_fail_stops_nothing_and_the_reason_of_a_down_tenant_is_shown() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let init = host.init("alice");
    let why = "no image \"debian-99\"";
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\nimage = \"debian-99\"\n");
    assert_fails(&host, &["plan"], 10, &["alice", why]);
    assert_fails(&host, &["restart", "alice"], 8, &["alice", why]);
    let status = host.ok(&["status"]);
    assert!(status.contains("could not be started again") && status.contains(why), "{status}");
    assert_eq!(host.init("alice"), init, "it runs as before");

    assert!(Command::new("kill").args(["-KILL", &init.to_string()]).status().expect("kill").success());
    let listed = |host: &Host| -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&host.ok(&["list", "--json"])).expect("JSON")[0].clone()
    };
    until("it was tried", || listed(&host)["failure"].as_str().is_some_and(|told| told.contains(why)));
    assert_eq!(listed(&host)["state"], "down");
    for arguments in [&["list"][..], &["show", "alice"], &["status"]] {
        assert_fails(&host, arguments, 0, &[why]);
    }
    assert_fails(&host, &["exec", "alice", "--", "true"], 125, &["does not run", why]);

    host.declare("alice", "web");
    host.ok(&["apply"]);
    let init = host.init("alice");
    assert!(listed(&host)["failure"].is_null() && listed(&host)["state"] == "running");
    // The running warden uses an earlier configuration than the one it would start with now.
    let moved = host.default_config("").replace(&host.path("state").display().to_string(), "/srv/elsewhere");
    host.write("etc/bailiwick.toml", &moved);
    assert_fails(&host, &["restart", "alice"], 5, &["state_dir", "restart bailiwick-warden"]);
    assert_fails(&host, &["status"], 0, &["no jail can start", "state_dir"]);
    assert_eq!(host.init("alice"), init);
    host.write("etc/bailiwick.toml", &host.default_config(""));
    host.ok(&["restart", "alice"]);
    assert_ne!(host.init("alice"), init);
}

#[test]
fn impossible_settings_are_reported_by_the_commands_that_use_them() {
    let mut host = Host::new();
    host.declare("bob", "web");
    host.write("etc/tenants.d/games.toml", "plan = \"web\"\ndoors = [\"exec\", \"ssh\"]\n");
    host.start();
    host.write("etc/bailiwick.toml", &host.default_config("reserve = { memory = \"900T\" }\n"));
    let words = ["reserve of 900T", "user \"games\""];
    assert_fails(&host, &["check"], 2, &words);
    assert_fails(&host, &["check"], 2, &["refuses what the errors are about", "`bailiwick apply` does the rest"]);
    let (status, text) = status_and_text(&host, &["apply"]);
    assert_ne!(status, 0, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert_fails(&host, &["status"], 0, &words);
    // A restart of an unaffected tenant reports only the problems that concern everyone.
    let (_, text) = status_and_text(&host, &["restart", "bob"]);
    assert!(text.contains(words[0]) && words[1..].iter().all(|word| !text.contains(word)), "{text}");
}

/// What `check` calls an error, `apply` does not put in force.
#[test]
fn check_and_apply_agree_about_words_that_nothing_serves() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let service = "[[service]]\nname = \"w\"\ncommand = [\"/bin/w\"]\n";
    let timer = "[[timer]]\nname = \"t\"\nschedule = \"daily\"\ncommand = [\"/bin/true\"]\n";
    for (words, golden) in [
        (&format!("{service}[[service.socket]]\nname = \"w\"\n")[..], "the door \"socket\" is closed"),
        (&format!("{service}[sleep]\nafter = \"15m\"\n"), "its tenant never sleeps"),
        ("host_sockets = [\"nope\"]\n", "the host lends no socket \"nope\""),
        (timer, "the door \"cron\" is closed"),
    ] {
        host.write("etc/tenants.d/alice.toml", &format!("plan = \"web\"\nlogin.user = \"al\"\n{words}"));
        assert_fails(&host, &["check"], 2, &[golden, "the last valid version of these files is in force"]);
        assert_fails(&host, &["apply", "alice"], 2, &[golden, "the file of \"alice\" has errors"]);
        assert_fails(&host, &["status"], 0, &["the last valid versions of these tenants are in force: alice"]);
        assert_eq!(host.inside("alice", "id -un").1.trim(), "root");
        assert_ne!(host.inside("alice", "id al").0, 0, "{golden}: the file is not in force");
    }
    host.declare("alice", "web");
    host.ok(&["apply"]);
    host.ok(&["check"]);
}

#[test]
fn an_untrusted_state_directory_is_refused() {
    let mut host = Host::new();
    std::fs::create_dir(host.path("real")).expect("mkdir");
    std::os::unix::fs::symlink(host.path("real"), host.path("state")).expect("symlink");
    assert_refuses_to_start(&mut host, 8, &["symbolic link", "state_dir"]);
    assert_eq!(std::fs::read_dir(host.path("real")).expect("still there").count(), 0);
    std::fs::remove_file(host.path("state")).expect("the link");
    std::fs::create_dir(host.path("state")).expect("mkdir");
    std::fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    host.write("state/of-somebody", "");
    assert_refuses_to_start(&mut host, 8, &["0700", "chmod"]);
    let word = std::fs::read_to_string(host.path("run/warden.error")).expect("for those who wait");
    assert!(word.contains("0700"), "{word}");
    // Root can fix a directory created by an operator, and the warden does.
    std::fs::remove_file(host.path("state/of-somebody")).expect("removes");
    std::fs::create_dir(host.path("state/lost+found")).expect("mkdir");
    host.start();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(host.path("state")).expect("there").permissions());
    assert_eq!(mode & 0o7777, 0o711);
    assert!(!host.path("run/warden.error").exists());
    assert!(host.ok(&["status"]).contains("problems    none"));
    host.end();
    // A reserve larger than any file system is reported, with and without quotas.
    let reserve = "reserve = { disk = \"1000000G\" }\n";
    host.write("etc/bailiwick.toml", &host.default_config(reserve));
    host.start();
    until("it is told", || host.ok(&["status"]).contains("at most half"));
    host.end();
    host.write("etc/bailiwick.toml", &host.default_config(""));
    // The same if the mode is widened later.
    std::fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    host.start();
    host.end();
}

#[test]
fn a_damaged_ledger_stops_the_warden_and_is_kept() {
    let mut host = Host::new();
    std::fs::create_dir(host.path("state")).expect("mkdir");
    std::fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    host.write("state/ledger.json", "{\"version\":1,");
    assert_refuses_to_start(&mut host, 8, &["ledger", "backup", "--repair-ledger"]);
    assert_eq!(std::fs::read_to_string(host.path("state/ledger.json")).expect("kept"), "{\"version\":1,");
    // Dropping the host reads the ledger to find its control groups.
    std::fs::remove_file(host.path("state/ledger.json")).expect("removes");
}

/// The index of each tenant's id range, from the ledger.
fn indexes(host: &Host) -> serde_json::Value {
    let text = std::fs::read_to_string(host.path("state/ledger.json")).expect("a ledger");
    serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["tenants"].clone()
}

#[test]
fn a_missing_ledger_with_running_jails_is_rebuilt_and_never_started_empty() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.declare("bob", "web");
    host.write("etc/tenants.d/down.toml", "plan = \"web\"\ndoors = [\"exec\"]\n");
    host.start();
    host.ok(&["apply"]);
    host.ok(&["stop", "down"]);
    // Makes alice not the first tenant: a new ledger would give her another range.
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
        assert_refuses_to_start(&mut host, 8, &["ledger", "backup", "--repair-ledger"]);
        let said = host.ok(&["doctor", "--repair-ledger"]);
        assert!(said.contains("\"alice\" has the ids from") && said.contains("\"down\" is NOT certain"), "{said}");
        let (now, running) = (indexes(&host), ["alice", "bob"]);
        assert!(running.iter().all(|tenant| now[tenant]["index"] == before[tenant]["index"]), "{now} {before}");
        assert_eq!(host.cli(&["doctor", "--repair-ledger"]).status.code(), Some(4), "it is in order now");
    }
    // A running jail without a record is not guessed.
    std::fs::remove_file(&ledger).expect("removes");
    let record = host.path("run/jails/bob/record.json");
    std::fs::rename(&record, host.path("kept")).expect("moves");
    let output = host.cli(&["doctor", "--repair-ledger"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output_text(&output).contains("nothing tells whose"), "{}", output_text(&output));
    assert!(!ledger.exists());
    std::fs::rename(host.path("kept"), &record).expect("moves");
    std::fs::write(&ledger, kept).expect("writes");
    host.start();
    assert_eq!(host.inside("alice", "echo in").1.trim(), "in");
}

#[test]
fn a_ledger_is_not_rebuilt_from_a_moved_state_directory() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    host.kill();
    let (state, kept) = (host.path("state"), host.path("kept"));
    std::fs::rename(&state, &kept).expect("moves");
    let path = state.to_str().expect("text");
    assert_refuses_to_start(&mut host, 8, &[path, "/ledger.json\"", "not mounted or was moved"]);
    let output = host.cli(&["doctor", "--repair-ledger"]);
    let text = output_text(&output);
    let is_told =
        ["nothing was written", "the storage of \"alice\", whose jails run", path].map(|word| text.contains(word));
    let is_written = state.join("ledger.json").exists();
    std::fs::remove_dir_all(&state).expect("removes");
    std::fs::rename(&kept, &state).expect("moves back");
    assert_eq!((output.status.code(), is_told, is_written), (Some(1), [true; 3], false), "{text}");
    host.start();
    assert_eq!(host.inside("alice", "echo in").1.trim(), "in");
}

#[test]
fn a_start_that_only_an_operator_can_fix_is_not_retried() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    host.ok(&["stop", "alice"]);
    host.end();
    let good = host.default_config("");
    let first = format!("first = {}", host.ids().start + 65_536);
    let other = format!("first = {}", host.ids().start + 2 * 65_536);
    host.write("etc/bailiwick.toml", &good.replace(&first, &other));
    assert_refuses_to_start(&mut host, 8, &["`ids`", "put it back"]);
    host.write("etc/bailiwick.toml", &good);
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(host.path("run"), mode).expect("chmod");
    };
    mode(0o777);
    let refused = |words: &[&str]| {
        let mut command = Command::new(stage().join("bailiwick-warden"));
        let output = command.arg("--config").arg(host.path("etc")).output().expect("runs");
        let text = output_text(&output);
        assert_eq!(output.status.code(), Some(8), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refused(&["run", "root"]);
    mode(0o755);
    // The host users are recorded here.
    std::fs::remove_dir_all(host.path("run/host-users")).expect("removes");
    host.write("run/host-users", "");
    refused(&["run/host-users"]);
    std::fs::remove_file(host.path("run/host-users")).expect("removes");
    let init = host.path("init");
    bailiwick_tests::copy_program(&stage().join("bailiwick-init"), &init);
    let mut command = Command::new(stage().join("bailiwick-warden"));
    let output = command.arg("--config").arg(host.path("etc")).arg("--init").arg(&init).output().expect("runs");
    assert_eq!(output.status.code(), Some(8), "{}", output_text(&output));
    host.start();
    host.ok(&["start", "alice"]);
}

#[test]
fn a_second_service_on_one_state_directory_is_refused() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    assert_refuses_to_start(&mut host, 4, &["another bailiwickd answers"]);
    let second = Command::new(stage().join("bailiwick-warden")).arg("--config").arg(host.path("etc")).output();
    let second = second.expect("runs");
    assert_eq!(second.status.code(), Some(4), "{}", output_text(&second));
    assert!(output_text(&second).contains("another bailiwick-warden"), "{}", output_text(&second));
    assert_eq!(host.inside("alice", "echo on").1.trim(), "on");
}

#[test]
fn a_broken_policy_does_not_affect_running_tenants() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.declare("bob", "shell");
    host.start();
    host.ok(&["apply"]);
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\nstate = \"actve\"\n");
    host.ok(&["apply", "bob"]);
    assert_fails(&host, &["apply", "alice"], 2, &["alice", "check"]);
    let list = host.ok(&["list"]);
    assert!(list.lines().any(|line| line.starts_with("alice") && line.contains("running,invalid")), "{list}");
    let list: serde_json::Value = serde_json::from_str(&host.ok(&["list", "--json"])).expect("JSON");
    assert!(list[0]["state"] == "running" && list[0]["invalid"] == true && list[1]["invalid"].is_null(), "{list}");
    assert!(host.ok(&["status"]).contains("actve"));
    assert_eq!(host.processes().len(), 2, "alice still runs");
    host.write("etc/bailiwick.toml", "state_dir = 7\n");
    // The command line needs this file to find the socket, so the service is told by a signal. It keeps its last
    // configuration.
    assert!(Command::new("kill").args(["-HUP", &host.pid().to_string()]).status().expect("kill").success());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.processes().len(), 2);
    host.write("etc/bailiwick.toml", &host.default_config(""));
    host.declare("alice", "web");
    host.ok(&["apply"]);
    assert_eq!(host.inside("alice", "echo on").1.trim(), "on");
}

#[test]
fn a_full_disk_is_an_error_without_partial_changes() {
    let mut host = Host::new();
    let pool = Pool::for_state_of(&host, "2M", &["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"]);
    let state = pool.path();
    host.declare("alice", "web");
    host.start_warden();
    let free = || rustix::fs::statvfs(state).expect("statvfs").f_bfree;
    let room = free();
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
    // The kernel frees the blocks after it has finished a write of the file that is on its way.
    until("the space of the removed file is free", || free() >= room / 2);
    assert_eq!(host.warden(&WardenRequest::Start { tenant: name("alice") }), WardenReply::Done);
    let stop = WardenRequest::Stop { tenant: name("alice"), hold: bailiwick_proto::Hold::Keep };
    assert_eq!(host.warden(&stop), WardenReply::Done);
}

#[test]
fn garbage_on_the_control_socket_is_refused() {
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
    // Half a request, then silence: the connection is closed in bounded time, while others are served.
    let mut half = UnixStream::connect(&socket).expect("connects");
    half.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
    half.write_all(&[200, 0, 0, 0, b'{']).expect("writes");
    assert_eq!(host.inside("alice", "echo on").1.trim(), "on");
    // Unlike a single read, `read_to_end` continues after a signal.
    assert_eq!(half.read_to_end(&mut Vec::new()).expect("closed"), 0);
}

#[test]
fn a_user_who_is_no_admin_is_refused() {
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
    assert_eq!(output.status.code(), Some(5), "{}", output_text(&output));
    let output = as_user(&["exec", "--config", &config, "alice", "--", "id"]);
    assert_eq!(output.status.code(), Some(125), "{}", output_text(&output));
    assert!(!output_text(&output).contains("uid="));
    // The user cannot even connect to the sockets of the warden and of init.
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
    if supports(Profile::System) {
        host.ok(&["apply"]);
        return;
    }
    assert_fails(&host, &["apply"], 8, &["Landlock", "system", "6"]);
    assert_eq!(host.leftovers(), Vec::<String>::new());
    assert_fails(&host, &["doctor"], 0, &["landlock", "system"]);
}

#[test]
fn a_reload_reports_errors_and_applies_valid_files() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["reload"]);
    host.declare("bob", "nosuch");
    host.declare("carol", "web");
    assert_fails(&host, &["reload"], 2, &["bob.toml:1:8", "nosuch"]);
    assert!(host.ok(&["list"]).contains("carol"));
    let good = std::fs::read_to_string(host.path("etc/bailiwick.toml")).expect("reads");
    host.write("etc/bailiwick.toml", "requir = []\n");
    assert_fails(&host, &["reload"], 2, &["bailiwick.toml:1:1"]);
    host.write("etc/bailiwick.toml", &good);
    std::fs::remove_file(host.path("etc/tenants.d/bob.toml")).expect("removes");
    host.ok(&["reload"]);
}

/// Runs a command and returns its exit status and output.
fn status_and_text(host: &Host, arguments: &[&str]) -> (i32, String) {
    let output = host.cli(arguments);
    (output.status.code().unwrap_or(-1), output_text(&output))
}

#[test]
fn an_error_in_a_file_locks_nobody_out_even_after_a_restart() {
    let mut host = Host::new();
    host.write("etc/plans.d/login.toml", "doors = [\"exec\", \"ssh\"]\n[limits]\ntasks = 64\n");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ alice";
    let alice = format!("plan = \"login\"\n[login]\nssh_keys = [\"{key}\"]\n");
    host.write("etc/tenants.d/alice.toml", &alice);
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    until("the copies of both", || {
        ["alice", "bob"].iter().all(|name| host.path(&format!("etc/.in-force/tenants.d/{name}.toml")).exists())
    });
    let good = [
        ("etc/bailiwick.toml", host.default_config("")),
        ("etc/plans.d/login.toml", "doors = [\"exec\", \"ssh\"]\n[limits]\ntasks = 64\n".to_owned()),
        ("etc/tenants.d/alice.toml", alice),
    ];
    for (file, text) in &good {
        host.write(file, &format!("{text}colour = 7\n"));
        for round in ["running", "restarted"] {
            let place = format!("{round}: with an error in {file}");
            // Every reader of the policy: the daemons, the command for sshd, and the command line.
            assert_eq!(status_and_text(&host, &["reload"]).0, 2, "{place}");
            assert_eq!(host.inside("alice", "echo in").1, "in\n", "{place}");
            assert_eq!(host.inside("bob", "echo in").1, "in\n", "{place}");
            assert!(host.ok(&["keys", "alice"]).contains("restrict,pty ssh-ed25519 AAAA"), "{place}");
            // Independent of what the host supports.
            let (status, text) = status_and_text(&host, &["doctor"]);
            assert!([0, 8].contains(&status) && text.contains("FEATURE"), "{place}: {text}");
            let (status, text) = status_and_text(&host, &["check"]);
            assert!(status == 2 && text.contains("colour") && text.contains("is in force"), "{place}: {text}");
            let status: serde_json::Value = serde_json::from_str(&host.ok(&["status", "--json"])).expect("JSON");
            assert_eq!(status["policy"]["problems"], 1, "{place}: {status}");
            assert_eq!(status["policy"]["host_is_last_good"], file.ends_with("bailiwick.toml"), "{place}: {status}");
            let held =
                if file.ends_with("bailiwick.toml") { serde_json::json!([]) } else { serde_json::json!(["alice"]) };
            assert_eq!(status["policy"]["last_good_tenants"], held, "{place}: {status}");
            assert!(host.log().contains("colour"), "{place}: the log has what is wrong");
            if round == "running" {
                host.end();
                host.start();
                until("every tenant runs", || host.processes().len() == 2);
            }
        }
        // The file is fixed, without a reload.
        host.write(file, text);
        until("the fixed file is in force", || {
            let status: serde_json::Value = serde_json::from_str(&host.ok(&["status", "--json"])).expect("JSON");
            status["policy"]["problems"] == 0 && status["policy"]["last_good_tenants"] == serde_json::json!([])
        });
    }
    host.ok(&["apply"]);
}

#[test]
fn a_suspend_works_despite_an_error_in_the_plan() {
    let mut host = Host::new();
    host.write("etc/plans.d/own.toml", "profile = \"web\"\n[limits]\ntasks = 64\n");
    host.declare("alice", "own");
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    host.write("etc/plans.d/own.toml", "profile = \"wob\"\n");
    let (status, text) = status_and_text(&host, &["suspend", "alice", "--reason", "unpaid"]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("wob"), "the error is reported as well: {text}");
    assert_eq!(host.processes().len(), 1, "bob's alone");
    let (status, text) = status_and_text(&host, &["exec", "alice", "--", "true"]);
    assert!(status == 125 && text.contains("unpaid"), "{status}: {text}");
    assert!(host.log().contains("session-refused") && host.log().contains("alice"), "a refused login is named");
    host.end();
    host.start();
    until("bob runs again or still", || host.processes().len() == 1);
    assert_eq!(status_and_text(&host, &["exec", "alice", "--", "true"]).0, 125, "after a restart too");
    // The same with an error in the tenant's own file.
    host.write("etc/tenants.d/bob.toml", "plan = \"web\"\ncolour = 7\n");
    let (status, text) = status_and_text(&host, &["suspend", "bob"]);
    assert!(status == 7 && text.contains("colour") && text.contains("bob: suspended until"), "{status}: {text}");
    assert!(host.processes().is_empty(), "{text}");
}

#[test]
fn a_tenant_whose_file_is_not_toml_can_be_suspended() {
    let mut host = Host::new();
    for tenant in ["alice", "bob", "carol"] {
        host.declare(tenant, "web");
    }
    host.start();
    host.ok(&["apply"]);
    let file = |tenant: &str| host.path(&format!("etc/tenants.d/{tenant}.toml"));
    let files = ["alice", "bob", "carol"].map(|tenant| (tenant, file(tenant)));
    let junk: [&[u8]; 3] = [
        b"plan = \"web\nstate = \"active\"\n[limits\n",
        b"\0\xff\x7fELF = [[[\n",
        b"plan = \"web\"\n<<<<<<< mine\ndoors = [\"exec\"]\n",
    ];
    let is_out = |host: &Host, tenant: &str| {
        let (status, text) = status_and_text(host, &["exec", tenant, "--", "true"]);
        assert!(status == 125 && text.contains("sends spam"), "{tenant}: {status}: {text}");
    };
    for ((tenant, file), junk) in files.iter().zip(junk) {
        std::fs::write(file, junk).expect("writes");
        let (status, text) = status_and_text(&host, &["suspend", tenant, "--reason", "sends spam"]);
        assert!(status == 7 && text.contains(&format!("{tenant}: suspended until")), "{status}: {text}");
        assert!(text.contains(&format!("{tenant}.toml:")), "the error is reported: {text}");
        is_out(&host, tenant);
    }
    assert!(host.processes().is_empty());
    // Also after a restart.
    host.end();
    host.start();
    files.iter().for_each(|(tenant, _)| is_out(&host, tenant));
    // Repeating the command changes nothing, and `unsuspend` restores the file. Its content takes effect once it is
    // fixed.
    let (bob, carol) = (&files[1].1, &files[2].1);
    let before = std::fs::read(bob).expect("reads");
    status_and_text(&host, &["suspend", "bob"]);
    assert_eq!(std::fs::read(bob).expect("reads"), before);
    let (status, text) = status_and_text(&host, &["unsuspend", "bob"]);
    assert!(status == 7 && text.contains("bob: suspended until a file without errors"), "{status}: {text}");
    assert_eq!(std::fs::read(bob).expect("reads"), junk[1]);
    is_out(&host, "bob");
    for less in [&b""[..], b"plan = \"nowhere\"\n"] {
        std::fs::write(bob, less).expect("writes");
        status_and_text(&host, &["apply"]);
        is_out(&host, "bob");
    }
    host.end();
    host.start();
    is_out(&host, "bob");
    host.declare("bob", "web");
    status_and_text(&host, &["apply"]);
    until("bob runs again", || host.cli(&["exec", "bob", "--", "true"]).status.success());
    // A fixed file may still say that the tenant is suspended.
    let text = std::fs::read_to_string(carol).expect("reads").replace("<<<<<<< mine\n", "");
    host.write("etc/tenants.d/carol.toml", &text);
    assert!(!status_and_text(&host, &["check"]).1.contains("carol"));
    status_and_text(&host, &["apply"]);
    is_out(&host, "carol");
    status_and_text(&host, &["unsuspend", "carol"]);
    until("carol runs again", || host.cli(&["exec", "carol", "--", "true"]).status.success());
}

#[test]
fn files_that_were_not_applied_are_reported() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\ncolour = 7\n");
    let (status, text) = status_and_text(&host, &["apply"]);
    assert_eq!(status, 2, "{text}");
    for word in ["alice: ", "in force", "alice.toml:2:1", "colour"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // The output also says what was applied in the same run.
    host.write("etc/tenants.d/bob.toml", "plan = \"web\"\n[limits]\ntasks = 65\n");
    let (status, text) = status_and_text(&host, &["apply"]);
    assert!(status == 7 && text.contains("bob: limits written") && text.contains("colour"), "{status}: {text}");
    // A command about another tenant does not report it.
    assert_eq!(status_and_text(&host, &["apply", "bob"]), (0, String::new()));
    assert_eq!(status_and_text(&host, &["apply", "alice", "bob"]).0, 7);
    // A plan and bailiwick.toml concern everyone.
    host.declare("alice", "web");
    let good = std::fs::read_to_string(host.path("etc/bailiwick.toml")).expect("reads");
    for (file, good) in [("etc/plans.d/unused.toml", String::new()), ("etc/bailiwick.toml", good)] {
        host.write(file, &format!("colour = 7\n{good}"));
        for command in [&["apply"][..], &["plan"], &["audit"], &["apply", "--dry-run"]] {
            let (status, text) = status_and_text(&host, command);
            assert!([2, 7, 10].contains(&status) && text.contains("colour"), "{file} {command:?}: {status} {text}");
        }
        assert_eq!(status_and_text(&host, &["reload"]).0, 2);
        host.write(file, &good);
    }
    // The same for a tenant without any valid policy.
    host.declare("carol", "nosuch");
    let (status, text) = status_and_text(&host, &["apply"]);
    assert!(status == 2 && text.contains("carol") && text.contains("nosuch"), "{status}: {text}");
    for command in [&["start", "carol"][..], &["restart", "carol"], &["audit", "carol"], &["plan", "carol"]] {
        let (status, text) = status_and_text(&host, command);
        assert!([2, 3].contains(&status) && text.contains("carol"), "{command:?}: {status} {text}");
    }
    // For a tenant that runs by the last valid version of its file, both drift and the error of the file are found.
    std::fs::remove_file(host.path("etc/tenants.d/carol.toml")).expect("removes");
    host.write("etc/tenants.d/alice.toml", "plan = \"web\"\ncolour = 7\n");
    let (status, text) = status_and_text(&host, &["audit", "alice"]);
    assert!(status == 10 && text.contains("BW102"), "{status}: {text}");
}

#[test]
fn a_refused_create_leaves_nothing_behind() {
    let mut host = Host::new();
    host.write("etc/plans.d/login.toml", "doors = [\"exec\", \"ssh\"]\n[limits]\ntasks = 64\n");
    host.write("etc/plans.d/image.toml", "image = \"debian-99\"\n");
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let ledger = || std::fs::read_to_string(host.path("state/ledger.json")).expect("reads");
    let (before, names) = (ledger(), || {
        let mut names: Vec<_> = std::fs::read_dir(host.path("etc/tenants.d"))
            .expect("lists")
            .map(|entry| entry.expect("one").file_name())
            .collect();
        names.sort();
        names
    });
    let files = names();
    // Every Debian has the user `mail`; the other plan requires an image that does not exist.
    for (arguments, status, word) in [
        (&["create", "mail", "--plan", "login"], 4, "the host has a user \"mail\""),
        (&["create", "bob", "--plan", "image"], 8, "debian-99"),
        (&["create", "carol", "--plan", "nosuch"], 3, "nosuch"),
    ] {
        let (got, text) = status_and_text(&host, arguments);
        assert!(got == status && text.contains(word), "{arguments:?}: {got} {text}");
        assert_eq!(names(), files, "{arguments:?}");
        assert_eq!(host.processes().len(), 1, "{arguments:?}");
        assert_eq!(ledger(), before, "{arguments:?}");
        assert!(!host.path(&format!("state/tenants/{}", arguments[1])).exists(), "{arguments:?}");
        let list = host.ok(&["list"]);
        assert!(!list.contains(arguments[1]), "{list}");
        assert_eq!(host.ok(&["apply"]), "", "{arguments:?}: all others still run");
    }
    // Without a door through sshd, the name is free.
    host.ok(&["create", "mail", "--plan", "web"]);
    assert_eq!(host.processes().len(), 2);
    // A deleted tenant with data is restored completely, or stays deleted.
    host.ok(&["delete", "mail"]);
    assert_eq!(status_and_text(&host, &["create", "mail", "--plan", "image"]).0, 8);
    assert!(host.path("state/tenants/mail").exists() && host.path("etc/tenants.d/.mail.toml.deleted").exists());
    assert!(!host.path("etc/tenants.d/mail.toml").exists());
    // A delete works despite an error in another tenant's file.
    host.declare("dave", "nosuch");
    host.ok(&["create", "mail", "--plan", "web"]);
    host.ok(&["delete", "mail", "--purge"]);
    assert!(!host.path("state/tenants/mail").exists());
}

#[test]
fn a_refused_create_destroys_no_existing_data() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    assert_eq!(host.inside("alice", "echo precious > /srv/data").0, 0);
    let data = host.path("state/tenants/alice");
    let ids = || {
        serde_json::from_str::<serde_json::Value>(&host.ok(&["show", "alice", "--json"])).expect("JSON")["ids"].clone()
    };
    let before = ids();
    let mut session = host.command(&["exec", "alice", "--", "sleep", "1000"]).spawn().expect("runs");
    until("the session", || host.ok(&["sessions", "--json"]).contains("alice"));
    // Removed by hand, and the daemon has not reloaded yet.
    std::fs::remove_file(host.path("etc/tenants.d/alice.toml")).expect("removes");
    let (status, text) = status_and_text(&host, &["create", "alice", "--plan", "shell"]);
    assert!(status != 0 && text.contains("1 sessions are in it"), "{status}: {text}");
    assert!(text.contains("was not created, and the existing data is kept"), "{text}");
    assert!(data.exists() && !host.path("etc/tenants.d/alice.toml").exists());
    assert!(!session.wait().expect("ends").success());
    // The next create restores the data.
    host.ok(&["create", "alice", "--plan", "web"]);
    assert_eq!((host.inside("alice", "cat /srv/data").1.as_str(), ids()), ("precious\n", before));
}

#[test]
fn stopping_needs_no_disk() {
    let file_systems: [(&str, &[&str]); 2] =
        [("2M", &["mkfs.ext4", "-q", "-m", "0", "-N", "1024", "-O", "^has_journal"]), ("128M", &["mkfs.btrfs", "-q"])];
    for (size, make) in file_systems {
        let mut host = Host::new();
        let pool = Pool::for_state_of(&host, size, make);
        host.declare("alice", "web");
        host.declare("bob", "web");
        host.start_warden();
        for tenant in ["alice", "bob"] {
            assert_eq!(host.warden(&WardenRequest::Start { tenant: name(tenant) }), WardenReply::Done);
        }
        let filler = pool.path().join("filler");
        let mut full = std::fs::File::create(&filler).expect("creates");
        for size in [1 << 20, 4096, 1] {
            while full.write_all(&vec![1; size]).and_then(|()| full.sync_data()).is_ok() {}
        }
        let stop = |tenant| WardenRequest::Stop { tenant: name(tenant), hold: bailiwick_proto::Hold::Hold };
        assert_eq!(host.warden(&stop("alice")), WardenReply::Done, "{make:?}: {}", host.log());
        assert_eq!(host.processes().len(), 1, "{make:?}");
        let held = |host: &Host| match host.warden(&WardenRequest::Entry { tenant: name("alice") }) {
            WardenReply::Entry(Some(entry)) => entry.held,
            other => panic!("{other:?}"),
        };
        assert!(held(&host), "{make:?}: it is known at least");
        drop(full);
        std::fs::remove_file(&filler).expect("removes");
        let written = || std::fs::read_to_string(host.path("state/ledger.json")).expect("reads").contains("true");
        until("it is written once there is room", written);
        host.kill();
        host.start_warden();
        assert!(held(&host), "{make:?}: and outlives a restart");
        assert_eq!(host.warden(&stop("bob")), WardenReply::Done);
    }
}
