//! Programs whose terminal is closed, or whose daemon does not answer: each ends.

use bailiwick_tests::{Host, until};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

fn host() -> Host {
    let mut host = Host::new();
    host.declare("web", "web");
    host.start();
    host.ok(&["apply"]);
    host
}

/// A pseudo terminal: its master and its slave.
fn terminal() -> (File, OwnedFd) {
    let master = rustix::fs::open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .expect("a terminal");
    rustix::pty::unlockpt(&master).expect("unlocks");
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .expect("its side");
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).expect("a size");
    (master.into(), slave)
}

/// Starts a command on a terminal that is not its controlling one, so that no signal reports its end.
fn at_terminal(mut command: Command) -> (Child, File) {
    let (master, slave) = terminal();
    let dup = || Stdio::from(slave.try_clone().expect("dup"));
    let child = command.stdin(dup()).stdout(dup()).stderr(dup()).env("TERM", "xterm").process_group(0).spawn();
    (child.expect("starts"), master)
}

/// Reads until a text appears.
fn wait_for(terminal: &mut File, text: &str) {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&said).contains(text) {
        let len = terminal.read(&mut buffer).unwrap_or(0);
        assert_ne!(len, 0, "{text:?} did not appear: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..len]);
    }
}

fn wait_for_end(mut child: Child, what: &str) {
    until(&format!("the end of {what}"), || child.try_wait().expect("wait").is_some());
}

#[test]
fn programs_end_when_their_terminal_is_closed() {
    let host = host();
    for (arguments, text) in [
        (&["top"][..], "bailiwick top"),
        (&["shell", "web"], "web"),
        (&["exec", "web", "--tty", "--", "/bin/sh", "-c", "echo in side; exec sleep 1000"], "in side"),
    ] {
        let (child, mut terminal) = at_terminal(host.command(arguments));
        wait_for(&mut terminal, text);
        drop(terminal);
        wait_for_end(child, &format!("{arguments:?}"));
    }
    until("the jail to be without sessions", || host.ok(&["sessions", "--json"]).trim() == "[]");
}

#[test]
fn a_terminal_that_nobody_reads_blocks_no_exit() {
    let host = host();
    for how in ["kill", "signal"] {
        let (child, mut terminal) = at_terminal(host.command(&["exec", "web", "--tty", "--", "yes", "in side"]));
        wait_for(&mut terminal, "in side");
        // The terminal buffers a few thousand bytes and then blocks.
        let mut before = 0;
        until("a full terminal", || {
            let written = written(&child);
            written > 8192 && std::mem::replace(&mut before, written) == written
        });
        if how == "kill" {
            host.ok(&["sessions", "kill", "--tenant", "web"]);
        } else {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a number");
            kill_process(pid, Signal::TERM).expect("kill");
        }
        until("no open session", || host.ok(&["sessions", "--json"]).trim() == "[]");
        // Its last message goes to the same terminal.
        drop(terminal);
        wait_for_end(child, how);
    }
}

/// How many bytes a process has written.
fn written(child: &Child) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", child.id())).expect("it runs");
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).expect("a number")
}

#[test]
fn a_password_prompt_ends_with_its_terminal() {
    let (child, mut terminal) = {
        let mut command = Command::new("setsid");
        // It prompts on its controlling terminal.
        command.args(["--ctty", "--wait"]).arg(bailiwick_tests::stage().join("bailiwick")).arg("password");
        at_terminal(command)
    };
    wait_for(&mut terminal, "Password");
    drop(terminal);
    wait_for_end(child, "password");
}

#[test]
fn top_ends_on_a_signal_while_the_daemon_does_not_answer() {
    let host = host();
    let (child, mut terminal) = at_terminal(host.command(&["top"]));
    wait_for(&mut terminal, "bailiwick top");
    let signal = |pid: u32, signal| {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a number");
        kill_process(pid, signal).expect("kill");
    };
    let daemon = host.program("bailiwickd");
    signal(daemon, Signal::STOP);
    // A refresh: the program asks the daemon and reads no more keys.
    terminal.write_all(b" ").expect("a key");
    until("a question without an answer", || {
        let wchan = std::fs::read_to_string(format!("/proc/{}/task/{0}/wchan", child.id())).unwrap_or_default();
        let call = std::fs::read_to_string(format!("/proc/{}/task/{0}/syscall", child.id())).unwrap_or_default();
        // recvmsg(2)
        wchan.contains("unix_stream") || call.starts_with("47 ")
    });
    signal(child.id(), Signal::TERM);
    wait_for_end(child, "top");
    signal(daemon, Signal::CONT);
}
