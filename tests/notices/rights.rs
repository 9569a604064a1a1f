//! The user of `bailiwick-notify` may ask for what it needs and for nothing else, and nobody but root may ask it.

use crate::Mail;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

const RULE: &str = "[[notice]]\nresource = \"tasks\"\nat = [\"50%\"]\nto = [\"admin\"]\n";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Runs `bailiwick` as the notifier.
fn ask(mail: &Mail, arguments: &[&str]) -> Output {
    let copy = mail.host.path("bin/bailiwick");
    if !copy.exists() {
        bailiwick_tests::copy_program(&bailiwick_tests::stage().join("bailiwick"), &copy);
    }
    let uid = mail.user.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).arg(copy);
    command.arg(arguments[0]).arg("--config").arg(mail.host.path("etc")).args(&arguments[1..]).output().expect("runs")
}

#[test]
fn the_notifier_may_ask_for_events_and_metrics_and_for_nothing_else() {
    let mut mail = Mail::new(RULE, "");
    mail.host.start();
    mail.until_it_answers();
    mail.until("an event of alice is read", |mail| {
        let events = ask(mail, &["events", "--json"]);
        assert!(events.status.success(), "{}", said(&events));
        said(&events).contains("alice")
    });
    let metrics = ask(&mail, &["metrics", "--tenants", "all"]);
    assert!(metrics.status.success() && said(&metrics).contains("bailiwick_tenant_limit{"), "{}", said(&metrics));
    for command in [
        &["list"][..],
        &["show", "alice"],
        &["status"],
        &["plan"],
        &["apply"],
        &["usage"],
        &["history", "alice"],
        &["faults"],
        &["audit"],
        &["sessions"],
        &["stop", "alice"],
        &["reload"],
    ] {
        let output = ask(&mail, command);
        assert!(
            !output.status.success() && said(&output).contains("the user of `notices`"),
            "{command:?}: {}",
            said(&output)
        );
    }
    // Its socket is root's to ask.
    let own = ask(&mail, &["notices", "dead"]);
    assert_eq!(own.status.code(), Some(5), "{}", said(&own));
}

#[test]
fn it_is_no_root_and_its_files_are_its_own() {
    let mut mail = Mail::new(RULE, "");
    mail.host.start();
    mail.until_it_answers();
    let pid = mail.host.program("bailiwick-notify");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("reads");
    let uids = format!("Uid:\t{0}\t{0}\t{0}\t{0}", mail.user);
    for line in [uids.as_str(), "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Groups:\t "] {
        assert!(status.lines().any(|own| own == line), "{line} is not in\n{status}");
    }
    for dir in ["run/notify", "state/notify"] {
        let mode = std::fs::metadata(mail.host.path(dir)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{dir}");
    }
    let refused = mail.host.program_command("bailiwick-notify").output().expect("runs");
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
}
