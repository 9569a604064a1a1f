//! The door `exec`, end to end: pipes, exit statuses, signals, terminals and refusals.

use bailiwick_tests::{Host, profiles, stage, until};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

fn host() -> Host {
    let mut host = Host::new();
    for profile in profiles() {
        host.declare(profile, profile);
    }
    host.start();
    host.ok(&["apply"]);
    host
}

fn exec(host: &Host, tenant: &str) -> Command {
    // A shell that starts the tests in the background may make them ignore signals, and ignored signals are
    // inherited.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,QUIT,TERM", "--"]).arg(stage().join("bailiwick"));
    command.args(["exec", "--config"]).arg(host.path("etc")).args([tenant, "--"]);
    command
}

fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn a_missing_lock_directory_is_created_at_the_next_start() {
    let host = host();
    for tenant in profiles() {
        assert_eq!(host.inside(tenant, "readlink /var/lock").1.trim(), "/run/lock", "{tenant}");
        // As created by an earlier version.
        assert_eq!(host.inside(tenant, "rm /var/lock").0, 0, "{tenant}");
        host.ok(&["restart", tenant]);
        assert_eq!(host.inside(tenant, "touch /var/lock/x && readlink /var/lock").1.trim(), "/run/lock", "{tenant}");
        // Existing files of the tenant stay.
        assert_eq!(host.inside(tenant, "rm /var/lock; mkdir /var/lock; touch /var/lock/own").0, 0, "{tenant}");
        host.ok(&["restart", tenant]);
        assert_eq!(host.inside(tenant, "ls /var/lock").1.trim(), "own", "{tenant}");
    }
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    let host = host();
    for status in [0, 1, 7, 255] {
        assert_eq!(host.inside("web", &format!("exit {status}")).0, status);
    }
    assert_eq!(host.inside("web", "kill -9 $$").0, 128 + 9);
    assert_eq!(host.inside("web", "kill -15 $$").0, 128 + 15);
    for (command, status) in [("/usr", 126), ("/etc/passwd", 126), ("/no/such", 127), ("no-such-command", 127)] {
        let output = host.cli(&["exec", "web", "--", command]);
        assert_eq!(code(&output), Some(status), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_refusal_exits_with_125_and_a_reason() {
    let host = host();
    let refused = |arguments: &[&str], word: &str| {
        let output = host.cli(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), Some(125), "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    };
    refused(&["exec", "nobody-here", "--", "true"], "no tenant");
    host.ok(&["stop", "web"]);
    refused(&["exec", "web", "--", "true"], "bailiwick start web");
    host.ok(&["start", "web"]);
    host.ok(&["freeze", "web"]);
    refused(&["exec", "web", "--", "true"], "bailiwick thaw web");
    host.ok(&["thaw", "web"]);
    host.ok(&["suspend", "web", "--reason", "invoice 17"]);
    refused(&["exec", "web", "--", "true"], "invoice 17");
    host.ok(&["unsuspend", "web"]);
    assert_eq!(host.inside("web", "echo back").1.trim(), "back");
    host.write("etc/plans.d/web.toml", "profile = \"web\"\ndoors = [\"ssh\"]\n");
    host.ok(&["apply"]);
    refused(&["exec", "web", "--", "true"], "doors");
    host.write("etc/plans.d/web.toml", "profile = \"web\"\n[limits]\nmemory = \"128M\"\ntasks = 64\nsessions = 1\n");
    host.ok(&["apply"]);
    let mut first = piped({
        let mut command = exec(&host, "web");
        command.args(["sh", "-c", "echo in; read line"]);
        command
    });
    first.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
    refused(&["exec", "web", "--", "true"], "sessions");
    let audit: serde_json::Value = serde_json::from_slice(&host.cli(&["audit", "web", "--json"]).stdout).expect("JSON");
    let rows = audit["tenants"][0]["limits"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["resource"] == "sessions").expect("a row");
    assert_eq!(
        (&row["declared"], &row["used"], &row["peak"], &row["faults"], &row["verdict"]),
        (&"1".into(), &1.into(), &1.into(), &1.into(), &"enforced".into())
    );
    drop(first.stdin.take());
    first.wait().expect("ends");
    // The place is free as soon as the client has ended.
    until("a free place", || code(&host.cli(&["exec", "web", "--", "true"])) == Some(0));
}

#[test]
fn bytes_pass_unchanged_both_ways() {
    let host = host();
    let sent: Vec<u8> = (0..20_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for files in [false, true] {
        let mut command = exec(&host, "web");
        command.arg("cat");
        let received = if files {
            // Files, not pipes: here the command line creates its own pipes and copies.
            std::fs::write(host.path("in"), &sent).expect("writes");
            command.stdin(std::fs::File::open(host.path("in")).expect("opens"));
            command.stdout(std::fs::File::create(host.path("out")).expect("creates"));
            assert!(command.status().expect("runs").success());
            std::fs::read(host.path("out")).expect("reads")
        } else {
            let mut child = piped(command);
            let mut to = child.stdin.take().expect("a pipe");
            let copy = sent.clone();
            let writer = std::thread::spawn(move || to.write_all(&copy).expect("writes"));
            let output = child.wait_with_output().expect("ends");
            writer.join().expect("wrote");
            output.stdout
        };
        assert!(received == sent, "{} of {} bytes, files: {files}", received.len(), sent.len());
    }
}

#[test]
fn arguments_are_bytes_and_streams_are_separate() {
    let host = host();
    let odd: [&[u8]; 5] = [b"", b"a b", b"two\nlines", b"\xff\xfe", "ü".as_bytes()];
    let mut command = exec(&host, "web");
    command.args(["printf", "%s|"]).args(odd.iter().map(|bytes| std::ffi::OsStr::from_bytes(bytes)));
    let output = command.stdin(Stdio::null()).output().expect("runs");
    assert_eq!(output.stdout, b"|a b|two\nlines|\xff\xfe|\xc3\xbc|");
    let (status, out, err) = host.inside("web", "echo out; echo err >&2; exit 3");
    assert_eq!((status, out.as_str(), err.as_str()), (3, "out\n", "err\n"));
    let large = "x".repeat(100_000);
    assert_eq!(host.cli(&["exec", "web", "--", "printf", "%s", &large]).stdout.len(), large.len());
}

#[test]
fn a_slow_reader_gets_all_output() {
    // More than fits into the reader's pipe, but not more than fits into it and the pipe of the command: only the
    // client waits for the reader.
    const MANY: usize = 100 << 10;
    let host = host();
    // Only the inits: other processes after a start end by themselves.
    let idle = profiles().len();
    let mut command = exec(&host, "web");
    // A background process keeps the output open.
    command.args(["sh", "-c", &format!("sleep 1000 & head -c {MANY} /dev/zero; kill -0 $$; exit 7")]);
    let mut child = piped(command);
    until("only background processes run", || host.processes().len() == idle + 1 && !host.ok(&["list"]).is_empty());
    // The client cannot be observed to wait for its reader. If it did not wait, it would end a second after its
    // command.
    let late = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < late && child.try_wait().expect("wait").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("ends though its output is still open inside");
    assert_eq!((code(&output), output.stdout.len()), (Some(7), MANY));
}

/// The standard input of an operator's command is a pipe of the host, from which the next command of a script reads
/// too.
#[test]
fn background_processes_do_not_hold_an_operators_pipe() {
    let host = host();
    for tenant in profiles() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        let dup = || reader.try_clone().expect("dup");
        let mut command = exec(&host, tenant);
        let thief = "(trap '' HUP; while read -r line; do echo $line >> /root/stolen; done; echo over >> /root/stolen) <&3 & echo left";
        command.args(["sh", "-c", &format!("exec 3<&0; {thief}")]);
        let output = command.stdin(dup()).output().expect("runs");
        assert_eq!(output.stdout, b"left\n", "{tenant}");
        writer.write_all(b"for the next command\n").expect("writes");
        until("the previous one has lost its input", || host.inside(tenant, "grep -q over /root/stolen").0 == 0);
        assert_eq!(host.inside(tenant, "cat /root/stolen").1, "over\n", "{tenant}");
        let mut next = exec(&host, tenant);
        next.args(["head", "-n", "1"]);
        assert_eq!(next.stdin(dup()).output().expect("runs").stdout, b"for the next command\n", "{tenant}");

        // It can neither change the blocking mode of the pipe nor write after its command has ended.
        let mut command = exec(&host, tenant);
        command.args(["perl", "-e", "use Fcntl; fcntl($_, F_SETFL, O_NONBLOCK) for (STDIN, STDOUT, STDERR)"]);
        let (out_reader, out) = std::io::pipe().expect("pipe");
        let status = command.stdin(dup()).stdout(out.try_clone().expect("dup")).status().expect("runs");
        assert!(status.success());
        drop(command);
        for fd in [std::os::fd::AsFd::as_fd(&reader), std::os::fd::AsFd::as_fd(&out)] {
            let flags = rustix::fs::fcntl_getfl(fd).expect("flags");
            assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "{tenant}");
        }
        let mut command = exec(&host, tenant);
        command.args([
            "sh",
            "-c",
            "(trap '' PIPE; until [ -e /root/go ]; do sleep 0.05; done; echo late; touch /root/said) & echo soon",
        ]);
        let status =
            command.stdin(Stdio::null()).stdout(out).status().expect("ends, although a process holds its output");
        assert!(status.success());
        assert_eq!(host.inside(tenant, "touch /root/go; until [ -e /root/said ]; do sleep 0.05; done").0, 0);
        drop(command);
        let mut said = String::new();
        Read::read_to_string(&mut { out_reader }, &mut said).expect("the end");
        assert_eq!(said, "soon\n", "{tenant}");
    }
}

#[test]
fn a_fifo_of_the_host_is_not_passed_into_a_jail() {
    let host = host();
    let fifo = host.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    // Opened for reading and writing, so that opening does not block.
    let both = std::fs::File::options().read(true).write(true).open(&fifo).expect("opens");
    let read = std::fs::File::open(&fifo).expect("opens");
    let mut command_out = exec(&host, "web");
    command_out.args(["readlink", "/proc/self/fd/1"]);
    assert!(command_out.stdin(Stdio::null()).stdout(both.try_clone().expect("dup")).status().expect("runs").success());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(read), &mut line).expect("a line");
    assert!(line.starts_with("pipe:["), "what is inside is a pipe of ours: {line}");
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    let host = host();
    let mut command = exec(&host, "web");
    command.arg("yes").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    let mut some = [0; 1000];
    child.stdout.take().expect("a pipe").read_exact(&mut some).expect("reads");
    let status = child.wait().expect("ends");
    assert!(!status.success() || status.signal().is_some(), "{status:?}");
}

#[test]
fn signals_reach_the_command_and_a_dead_client_hangs_up() {
    let host = host();
    let session = |line: &str| {
        let mut command = exec(&host, "shell");
        command.args(["sh", "-c", line]);
        let mut child = piped(command);
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
        child
    };
    let signal = |child: &Child, number: &str| {
        assert!(Command::new("kill").args([number, &child.id().to_string()]).status().expect("kill").success());
    };
    for (number, status) in [("-INT", 21), ("-TERM", 22)] {
        let mut child = session("trap 'exit 21' INT; trap 'exit 22' TERM; echo in; while :; do sleep 0.05; done");
        signal(&child, number);
        assert_eq!(child.wait().expect("ends").code(), Some(status), "{number}");
    }
    let mut child =
        session("exec 2>/dev/null; trap 'touch /root/hung-up; exit' HUP; echo in; while :; do sleep 0.05; done");
    signal(&child, "-KILL");
    child.wait().expect("ends");
    until("the session gets the signal", || host.inside("shell", "test -e /root/hung-up").0 == 0);
}

/// Starts `yes` with a reader that does not read, and waits until the reader's pipe is full.
fn unread(host: &Host, tenant: &str) -> (Child, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().expect("pipe");
    let mut command = exec(host, tenant);
    let child = command.arg("yes").stdin(Stdio::null()).stdout(writer).stderr(Stdio::null()).spawn().expect("runs");
    until("a full pipe", || bailiwick_sys::stream::unread(&reader).expect("fionread") >= 60 << 10);
    (child, reader)
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill").success());
}

fn sessions(host: &Host) -> String {
    host.ok(&["sessions", "--json"])
}

#[test]
fn a_stopped_reader_blocks_neither_signals_nor_the_end_of_a_session() {
    let host = host();
    let (mut child, _reader) = unread(&host, "web");
    signal(&child, "TERM");
    until("the end of a client with a signal", || child.try_wait().expect("wait").is_some());
    assert_eq!(child.wait().expect("ended").code(), Some(128 + 15));

    let (mut child, _reader) = unread(&host, "web");
    let output = host.cli(&["sessions", "kill", "--tenant", "web"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(child.wait().expect("ends").code(), Some(125));

    let (mut child, _reader) = unread(&host, "web");
    let output = host.cli(&["suspend", "web"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !text.contains("do not end"), "{text}");
    assert_eq!(child.wait().expect("ends").code(), Some(125));
}

#[test]
fn sessions_end_with_their_jail() {
    let host = host();
    let (mut child, reader) = unread(&host, "web");
    host.ok(&["stop", "web"]);
    assert_eq!(sessions(&host).trim(), "[]");
    // It still delivers the rest to its reader.
    assert!(child.try_wait().expect("wait").is_none());
    drop(reader);
    child.wait().expect("ends");
    // A client that cannot be notified does not block this either.
    for end in [&["restart", "shell"][..], &["stop", "shell"]] {
        let mut child = piped({
            let mut command = exec(&host, "shell");
            command.args(["sh", "-c", "echo in; exec sleep 1000"]);
            command
        });
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
        signal(&child, "STOP");
        host.ok(end);
        assert_eq!(sessions(&host).trim(), "[]", "{end:?}");
        signal(&child, "CONT");
        child.wait().expect("ends");
    }
    // A jail may also end by itself.
    host.ok(&["start", "web"]);
    let mut child = piped({
        let mut command = exec(&host, "web");
        command.args(["sh", "-c", "echo in; exec sleep 1000"]);
        command
    });
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
    signal(&child, "STOP");
    assert!(Command::new("kill").args(["-KILL", &host.init("web").to_string()]).status().expect("kill").success());
    until("no session in it", || sessions(&host).trim() == "[]");
    signal(&child, "CONT");
    assert_eq!(child.wait().expect("ends").code(), Some(125));
}

#[test]
fn a_second_interrupt_ends_a_command_that_ignores_signals_or_is_stopped() {
    let host = host();
    for (line, name, status) in [
        ("trap '' INT TERM HUP; echo in; while :; do sleep 0.05; done", "TERM", 143),
        ("trap '' INT; echo in; while :; do sleep 0.05; done", "INT", 130),
        ("echo in; kill -STOP $$", "TERM", 143),
    ] {
        let mut command = exec(&host, "shell");
        command.args(["sh", "-c", line]);
        let mut child = piped(command);
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
        signal(&child, name);
        // Each signal is awaited: two pending signals of one kind are merged.
        until("the first signal to arrive", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
            status.lines().any(|line| line == "ShdPnd:\t0000000000000000")
        });
        assert!(child.try_wait().expect("wait").is_none(), "{line}: one signal is the command's");
        signal(&child, name);
        until("the end of a client with two signals", || child.try_wait().expect("wait").is_some());
        assert_eq!(child.wait().expect("ended").code(), Some(status), "{line}");
    }
    assert_eq!(sessions(&host).trim(), "[]");
}

#[test]
fn commands_report_tenants_that_needed_no_change() {
    let host = host();
    for (verb, first) in [("start", "web: unchanged\n"), ("freeze", ""), ("thaw", ""), ("stop", ""), ("suspend", "")] {
        assert_eq!(host.ok(&[verb, "web"]), first, "{verb}");
        assert_eq!(host.ok(&[verb, "web"]), "web: unchanged\n", "{verb} again");
    }
    assert_eq!(host.ok(&["unsuspend", "web"]), "");
    assert_eq!(host.ok(&["unsuspend", "web", "--json"]).matches("\"unchanged\"").count(), 1);
}

#[test]
fn many_sessions_run_at_once() {
    let host = host();
    let mut children = Vec::new();
    for number in 0..20 {
        let mut command = exec(&host, if number % 2 == 0 { "web" } else { "shell" });
        command.args(["sh", "-c", &format!("sleep 0.2; exit {number}")]);
        children.push(piped(command));
    }
    for (number, child) in (0..).zip(children) {
        assert_eq!(code(&child.wait_with_output().expect("ends")), Some(number));
    }
}

/// Runs a command on a terminal of this test, created by script(1), and types `keys` when `prompt` appears.
fn on_a_terminal(host: &Host, arguments: &str, prompt: &str, keys: &str) -> String {
    let line = format!("{} {arguments}", stage().join("bailiwick").display());
    let line = line.replace("CONFIG", &host.path("etc").display().to_string());
    let mut child = Command::new("script")
        .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script runs");
    let mut to = child.stdin.take().expect("a pipe");
    let mut from = child.stdout.take().expect("a pipe");
    let mut text = String::new();
    let mut buffer = [0; 256];
    while !text.contains(prompt) {
        let len = from.read(&mut buffer).expect("reads");
        assert!(len > 0, "no {prompt:?} in {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    to.write_all(keys.as_bytes()).expect("types");
    from.read_to_string(&mut text).expect("reads");
    drop(to);
    text.push_str(&format!("[{}]", child.wait().expect("ends").code().unwrap_or(-1)));
    text
}

#[test]
fn a_terminal_is_the_jails_own_and_ctrl_c_interrupts() {
    let host = host();
    for tenant in profiles() {
        let text = on_a_terminal(
            &host,
            &format!("exec --tty --config CONFIG {tenant} -- sh -c 'tty; stty size; exit 5'"),
            "",
            "",
        );
        assert!(text.contains("/dev/pts/0") && text.ends_with("[5]"), "{text:?}");
        let text = on_a_terminal(
            &host,
            &format!("exec --tty --config CONFIG {tenant} -- sh -c 'echo in; exec sleep 30'"),
            "in",
            "\u{3}",
        );
        assert!(text.ends_with("[130]"), "{text:?}");
    }
    let text = on_a_terminal(&host, "shell --config CONFIG web", "#", "echo login $0\nexit 6\n");
    assert!(text.contains("login -bash") && text.ends_with("[6]"), "{text:?}");
}

#[test]
fn the_terminal_follows_the_size_of_the_window() {
    let host = host();
    // A terminal of this test, whose size changes while the session waits for it.
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).expect("a terminal");
    rustix::pty::unlockpt(&master).expect("unlocks");
    let resize = |rows| {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).expect("resizes");
    };
    resize(33);
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags).expect("the other side");
    let side = || Stdio::from(peer.try_clone().expect("dup"));
    // setsid --ctty makes it the controlling terminal, so that the command line gets SIGWINCH.
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(stage().join("bailiwick"))
        .args(["exec", "--tty", "--config"])
        .arg(host.path("etc"))
        .args(["web", "--", "sh", "-c"])
        .arg("stty size; while [ \"$(stty size)\" = '33 99' ]; do sleep 0.05; done; stty size")
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .expect("setsid runs");
    drop(peer);
    let mut text = String::new();
    let mut reader = std::fs::File::from(master.try_clone().expect("dup"));
    let mut buffer = [0; 256];
    // Reading the master of a closed terminal fails, which ends the loop.
    while let Ok(len @ 1..) = reader.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..len]));
        if text.contains("33 99") && !text.contains("44 99") {
            resize(44);
        }
    }
    assert_eq!(child.wait().expect("ends").code(), Some(0), "{text:?}");
    assert!(text.contains("44 99"), "{text:?}");
}

#[test]
fn a_session_finds_its_own_limits_in_the_cgroup_files() {
    let host = host();
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("reads");
    let file = match facts.controller("memory") {
        Some(bailiwick_types::Hierarchy::Unified) => "/sys/fs/cgroup/memory.max",
        _ => "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    };
    let plan = |name: &str| format!("profile = \"{name}\"\n[limits]\nmemory = \"128M\"\ncpu = \"150%\"\ntasks = 64\n");
    for tenant in profiles() {
        host.write(&format!("etc/plans.d/{tenant}.toml"), &plan(tenant));
    }
    host.ok(&["apply"]);
    for tenant in profiles() {
        let (_, out, err) = host.inside(tenant, &format!("echo $BAILIWICK_MEMORY $BAILIWICK_CPUS; cat {file}"));
        assert_eq!(out, "134217728 1.5\n134217728\n", "{tenant}: {err}");
        // No group of another tenant is visible, and no foreign process.
        let (_, out, _) = host.inside(tenant, "find /sys/fs/cgroup | grep -e bailiwick -e web -e shell -e system");
        assert_eq!(out, "", "{tenant}");
        let line = "for f in $(find /sys/fs/cgroup -name cgroup.procs); do cat $f; done | sort -n | head -1";
        assert_eq!(host.inside(tenant, line).1, "1\n", "{tenant}: init is the first");
        // Root of `system` cannot write there either, whatever it does to the mount.
        let line = format!(
            "mount -o remount,rw,bind {file} 2>/dev/null; mount -o remount,rw /sys/fs/cgroup 2>/dev/null; \
                            (echo max > {file}) 2>/dev/null && echo written; mkdir ${{x:-/sys/fs/cgroup}}/own 2>/dev/null; true"
        );
        assert_eq!(host.inside(tenant, &line).1, "", "{tenant}");
        assert_eq!(host.inside(tenant, &format!("cat {file}")).1, "134217728\n", "{tenant}");
    }
}

#[test]
fn the_run_directory_has_what_programs_expect() {
    let host = host();
    for tenant in profiles() {
        let line = "touch /var/lock/mine && stat -c '%a %u' /run/lock /run/screen /run/user/0 /run/user/1000 && \
                    touch $XDG_RUNTIME_DIR/mine && echo $XDG_RUNTIME_DIR";
        assert_eq!(host.inside(tenant, line).1, "1777 0\n1777 0\n700 0\n700 1000\n/run/user/0\n", "{tenant}");
        let output = host.cli(&[
            "exec",
            tenant,
            "--user",
            "1000",
            "--",
            "sh",
            "-c",
            "touch $XDG_RUNTIME_DIR/mine /run/lock/own && echo $XDG_RUNTIME_DIR",
        ]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/run/user/1000\n", "{tenant}");
    }
}

#[test]
fn groups_come_from_the_jails_own_file() {
    let host = host();
    let id = |tenant: &str, user: &str| {
        let output = host.cli(&["exec", tenant, "--user", user, "--", "id", "-G"]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    for tenant in profiles() {
        assert_eq!(id(tenant, "1000"), "1000", "{tenant}: none before");
        host.inside(tenant, &format!("sed -i -e 's/^www-data:.*/&{tenant}/' -e 's/^staff:.*/&x,{tenant}/' /etc/group"));
        assert_eq!(id(tenant, "1000"), "1000 33 50", "{tenant}");
        let line = "install -d -m 0770 -g www-data /srv/shared";
        assert_eq!(host.inside(tenant, line).0, 0, "{tenant}");
        let output = host.cli(&["exec", tenant, "--user", "1000", "--", "touch", "/srv/shared/mine"]);
        assert!(output.status.success(), "{tenant}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(id(tenant, "33"), "33", "{tenant}: no other user is in them");
        // Files that are invalid, endless or blocking give no groups, and lock nobody out.
        for file in
            ["ln -sf /dev/zero /etc/group", "rm /etc/group; mkfifo /etc/group", "rm /etc/group; mkdir /etc/group"]
        {
            host.inside(tenant, file);
            assert_eq!(id(tenant, "1000"), "1000", "{tenant}: {file}");
        }
    }
}
