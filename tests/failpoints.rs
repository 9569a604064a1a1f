//! Every step of a start is made to fail and made to end the process: nothing may be left behind, and the next start
//! must work.

use bailiwick_proto::{Hold, WardenReply, WardenRequest};
use bailiwick_tests::{Host, name, profiles, stage, until};
use std::process::Command;

/// The steps, as the program itself lists them: a new step is covered the day it is written.
fn steps() -> Vec<String> {
    let output = Command::new(stage().join("failpoints/bailiwick-warden")).arg("--steps").output().expect("runs");
    let steps: Vec<String> = String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect();
    assert!(steps.len() >= 19, "{steps:?}");
    steps
}

/// Steps that are taken in the child: ending the process there ends the child, not the warden.
const INSIDE: &[&str] = &["listener", "identity", "root", "mounts", "pivot", "settings", "confine", "exec"];

fn start() -> WardenRequest {
    WardenRequest::Start { tenant: name("alice") }
}

fn works(host: &Host) {
    assert_eq!(host.warden(&start()), WardenReply::Done);
    assert!(!host.processes().is_empty());
    assert_eq!(host.warden(&WardenRequest::Stop { tenant: name("alice"), hold: Hold::Keep }), WardenReply::Done);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

/// The number of the warden's descriptors, once it has closed the connection of the last question.
fn settled(host: &Host) -> usize {
    let count = || std::fs::read_dir(format!("/proc/{}/fd", host.pid())).expect("fds").count();
    let mut last = count();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let now = count();
        if now == last {
            return now;
        }
        last = now;
    }
}

#[test]
fn a_step_that_fails_leaves_nothing_and_is_named() {
    for plan in profiles() {
        let mut host = Host::with_failpoints();
        host.declare("alice", plan);
        host.start_warden();
        let before = settled(&host);
        for step in steps() {
            host.write("failpoint", &format!("{step} error"));
            let WardenReply::Failed(failure) = host.ask(&start()).expect("the warden lives") else {
                panic!("step {step} was not reached");
            };
            assert!(failure.message.contains(&format!("(step \"{step}\"): fail-point")), "{step}: {failure}");
            assert_eq!(host.leftovers(), Vec::<String>::new(), "after {step}");
            assert_eq!(settled(&host), before, "descriptors after {step}");
        }
        host.write("failpoint", "");
        works(&host);
    }
}

#[test]
fn a_process_that_is_killed_at_any_step_leaves_nothing() {
    let mut host = Host::with_failpoints();
    host.declare("alice", "shell");
    for step in steps() {
        host.write("failpoint", "");
        host.start_warden();
        host.write("failpoint", &format!("{step} kill"));
        let answer = host.ask(&start());
        if INSIDE.contains(&step.as_str()) {
            assert!(matches!(answer, Ok(WardenReply::Failed(_))), "{step}: {answer:?}");
            host.kill();
        } else {
            assert!(answer.is_err(), "{step}: {answer:?}");
            host.wait();
        }
        // The next warden clears away what it finds.
        host.write("failpoint", "");
        host.start_warden();
        until(&format!("nothing is left after {step}"), || host.leftovers().is_empty());
        host.kill();
    }
    host.start_warden();
    works(&host);
}

/// The first that a child does is on the way of its start alone: the warden serves others meanwhile.
#[test]
fn a_child_that_says_nothing_holds_up_nobody() {
    let mut host = Host::with_failpoints();
    host.declare("alice", "shell");
    host.declare("bob", "shell");
    host.start_warden();
    host.write("failpoint", "listener hold");
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| host.ask(&start()));
        until("its child is there", || !host.processes().is_empty());
        let child = host.processes();
        host.write("failpoint", "");
        let bob = name("bob");
        assert_eq!(host.warden(&WardenRequest::Start { tenant: bob.clone() }), WardenReply::Done);
        assert_eq!(host.warden(&WardenRequest::Stop { tenant: bob, hold: Hold::Keep }), WardenReply::Done);
        assert!(!silent.is_finished());
        assert_eq!(host.processes(), child);
        for pid in child {
            let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kills");
        }
        let answer = silent.join().expect("the warden answers");
        assert!(
            matches!(&answer, Ok(WardenReply::Failed(failure)) if failure.message.contains("without a word")),
            "{answer:?}"
        );
    });
    works(&host);
}
