//! Hooks that start themselves anew without end, up to a limit of processes that is set before they begin.

use crate::requests::{ask, frame};
use crate::runner::Runner;
use crate::{hook, processes_with};
use bailiwick_tests::{Host, write_program};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;

/// A user of its own: the limit counts all processes of a user.
const BOMB: u32 = 65_086;
/// The most processes of that user.
const MOST: &str = "--nproc=100:100";

/// Ends what a test has left, as root: if the test fails, then these would go on for ever.
struct Remains(String);

impl Drop for Remains {
    fn drop(&mut self) {
        const ROUNDS: u32 = 200;
        let send = |pid: &String, signal| {
            let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a pid");
            // It may have ended.
            kill_process(pid, signal).ok();
        };
        for _ in 0..ROUNDS {
            let mut stopped = BTreeSet::new();
            loop {
                let new: Vec<String> =
                    processes_with(&self.0).into_iter().filter(|pid| !stopped.contains(pid)).collect();
                if new.is_empty() {
                    break;
                }
                new.iter().for_each(|pid| send(pid, Signal::STOP));
                stopped.extend(new);
            }
            if stopped.is_empty() {
                return;
            }
            stopped.iter().for_each(|pid| send(pid, Signal::KILL));
        }
    }
}

#[test]
fn a_hook_that_fills_the_limit_of_processes_is_ended_too() {
    // The first process ends once nothing more can be started. Each of the others is in a session of its own, and goes on.
    let bomb = |more: &str, each: &str| {
        format!(
            "#!/usr/bin/perl\nuse POSIX ();\nmy $first = 1;\n{more}\n\
             for (;;) {{\n  my $pid = fork;\n  if (!defined $pid) {{ exit 0 if $first }}\n\
             \x20 elsif ($pid == 0) {{ $first = 0; POSIX::setsid() }}\n  {each}\n}}\n"
        )
    };
    // The second one lets go on what was stopped, and leaves nothing to reap.
    for text in [bomb("", ""), bomb("$SIG{CHLD} = 'IGNORE';", "kill 'CONT', -1;")] {
        let host = Host::new();
        let path = hook(&host, "bomb", "exit 0", "on = [\"tenant\"]\ntimeout = \"1m\"");
        let remains = Remains(path.display().to_string());
        let mut runner = Runner::start_as(&host, BOMB, &["prlimit", MOST, "--"]);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", runner.pid())).expect("reads");
        let limit = limits.lines().find(|line| line.starts_with("Max processes")).expect("is there");
        assert_eq!(limit.split_whitespace().nth(2), Some("100"), "a bomb must be bounded: {limit}");
        assert_eq!(ask(&host, &frame("bomb", "{}")), "{\"end\":{\"exited\":0},\"said\":\"\"}");
        write_program(&path, &text);
        let reply = ask(&host, &frame("bomb", "{}"));
        assert_eq!(processes_with(&remains.0), [""; 0], "{reply}");
        assert_eq!(reply, "{\"end\":{\"exited\":0},\"said\":\"\"}");
        assert_eq!(runner.log(), "");
        assert_eq!(runner.end(), Some(0));
    }
}
