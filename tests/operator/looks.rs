//! Colours and the pager: on a terminal only, and not where the operator wants none.

use bailiwick_tests::Host;
use std::process::{Command, Stdio};

const ESCAPE: &str = "\u{1b}[";

/// Runs a command on a terminal of its own with ten rows, and returns what it shows.
fn on_terminal(host: &Host, before: &str, arguments: &str) -> String {
    let program = bailiwick_tests::stage().join("bailiwick");
    let line = format!(
        "stty rows 10 cols 250; {before} '{}' --config '{}' {arguments}",
        program.display(),
        host.path("etc").display()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("PAGER").env_remove("LESS").stdin(Stdio::null());
    let output = command.output().expect("script runs");
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}

fn host() -> Host {
    let host = Host::new();
    host.declare("alice", "web");
    host
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    let host = host();
    let with = |before: &str, arguments: &str| on_terminal(&host, before, arguments).contains(ESCAPE);
    assert!(with("", "--no-pager show alice --explain"));
    for (before, arguments) in [
        ("NO_COLOR=1", "--no-pager show alice --explain"),
        ("TERM=dumb", "--no-pager show alice --explain"),
        ("", "--no-pager --color never show alice --explain"),
        ("", "--no-pager show alice --explain --json"),
        ("", "generate completions bash"),
    ] {
        assert!(!with(before, arguments), "{before} {arguments}");
    }
    assert!(!host.ok(&["show", "alice", "--explain"]).contains(ESCAPE), "no terminal");
    assert!(host.ok(&["show", "alice", "--explain", "--color", "always"]).contains(ESCAPE));
    assert!(!host.ok(&["show", "alice", "--explain", "--json", "--color", "always"]).contains(ESCAPE));
    host.write("etc/tenants.d/alice.toml", "plan = 3\n");
    let said = host.cli(&["check", "--color", "always"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("\u{1b}[31merror:"), "{said:?}");
}

#[test]
fn what_is_longer_than_the_screen_goes_through_the_pager() {
    let host = host();
    let paged = |before: &str, arguments: &str| on_terminal(&host, before, arguments).contains("PAGED:");
    assert!(paged("PAGER='sed s/^/PAGED:/'", "show alice --explain"));
    for (before, arguments) in [
        ("PAGER='sed s/^/PAGED:/'", "explain memory"),
        ("PAGER='sed s/^/PAGED:/'", "show alice --explain --no-pager"),
        ("PAGER='sed s/^/PAGED:/'", "show alice --explain --json"),
        ("PAGER='sed s/^/PAGED:/'", "show alice --explain | cat"),
        ("PAGER=", "show alice --explain"),
    ] {
        assert!(!paged(before, arguments), "{before} {arguments}");
    }
    // A pager that is not there hides nothing.
    assert!(on_terminal(&host, "PAGER=/nowhere/pager", "show alice --explain").contains("limits.memory"));
}
