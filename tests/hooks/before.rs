//! Hooks that run before `create`, `suspend` and `delete`.

use crate::runner::Runner;
use crate::{HOOKS, hook, out, processes_with, script};
use bailiwick_tests::{Host, until};
use std::process::Output;
use std::time::{Duration, Instant};

fn host() -> Host {
    let host = Host::new();
    host.declare("alice", "web");
    out(&host);
    host
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn state(host: &Host, tenant: &str) -> String {
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    shown["state"].as_str().expect("a word").to_owned()
}

fn has_file(host: &Host, tenant: &str) -> bool {
    host.path(&format!("etc/tenants.d/{tenant}.toml")).exists()
}

#[test]
fn a_hook_that_consents_reads_what_is_meant_and_nothing_else() {
    let mut host = host();
    let out = out(&host);
    let program = format!(
        "cat > {out}/body; env | sort > {out}/env; id > {out}/id; pwd > {out}/pwd; ls /proc/self/fd | wc -l > {out}/fds; cat /proc/self/status > {out}/status",
        out = out.display()
    );
    hook(&host, "ask", &program, "on = [\"tenant.created\", \"tenant.deleted\"]\nwhen = \"before\"");
    host.start();
    let mut runner = Runner::start(&host);
    host.ok(&["create", "bob", "--plan", "web", "--login", "bo"]);
    assert!(has_file(&host, "bob"));
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let body: serde_json::Value = serde_json::from_str(&read("body")).expect("JSON");
    assert_eq!(
        (&body["when"], &body["type"], &body["tenant"]),
        (&"before".into(), &"tenant.created".into(), &"bob".into())
    );
    assert_eq!((&body["actor"], &body["seq"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!((&body["data"]["plan"], &body["data"]["login"]), (&"web".into(), &"bo".into()));
    let env = read("env");
    let names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    // The shell adds those that it always sets.
    assert!(names.iter().all(|name| ["LANG", "PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name)), "{env}");
    assert!(read("id").starts_with(&format!("uid={HOOKS} gid={HOOKS}")), "{}", read("id"));
    assert_eq!(read("pwd"), "/\n");
    // The standard streams and the folder itself.
    assert_eq!(read("fds").trim(), "4");
    for line in
        ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "SigBlk:\t0000000000000000"]
    {
        assert!(read("status").lines().any(|own| own == line), "{line} is not in {}", read("status"));
    }
    // Nobody is asked for what no hook is for.
    std::fs::remove_file(out.join("body")).expect("removes");
    host.ok(&["suspend", "bob"]);
    host.ok(&["unsuspend", "bob"]);
    assert!(!out.join("body").exists());
    host.ok(&["delete", "bob", "--purge"]);
    let body: serde_json::Value = serde_json::from_str(&read("body")).expect("JSON");
    assert_eq!((&body["type"], &body["data"]["purge"]), (&"tenant.deleted".into(), &true.into()));
    assert_eq!(runner.log(), "");
    assert_eq!(runner.end(), Some(0));
}

#[test]
fn a_hook_that_refuses_leaves_everything_as_it_was() {
    let mut host = host();
    let program = "cat > /dev/null; echo 'the contract has ended' >&2; echo 'ask the office' >&2; exit 5";
    hook(
        &host,
        "contract",
        program,
        "on = [\"tenant.created\", \"tenant.suspended\", \"tenant.deleted\"]\nwhen = \"before\"",
    );
    host.start();
    until("alice runs", || state(&host, "alice") == "running");
    let _runner = Runner::start(&host);
    let before = std::fs::read_to_string(host.path("etc/tenants.d/alice.toml")).expect("reads");
    for command in [
        &["create", "bob", "--plan", "web"][..],
        &["delete", "alice"],
        &["delete", "alice", "--purge"],
        &["suspend", "alice"],
    ] {
        let output = host.cli(command);
        assert_eq!(output.status.code(), Some(5), "{command:?}: {}", said(&output));
        let said = said(&output);
        assert!(
            said.contains("the hook \"contract\" refuses this, and says:\nthe contract has ended\nask the office"),
            "{said}"
        );
        assert!(said.contains("nothing was changed for "), "{said}");
    }
    assert!(!has_file(&host, "bob"));
    assert_eq!(std::fs::read_to_string(host.path("etc/tenants.d/alice.toml")).expect("reads"), before);
    assert_eq!(state(&host, "alice"), "running");
    // What cannot be done anyway is refused before a hook is asked.
    assert_eq!(host.cli(&["create", "alice", "--plan", "web"]).status.code(), Some(4));
    assert_eq!(host.cli(&["create", "bob", "--plan", "none"]).status.code(), Some(3));
    assert_eq!(host.cli(&["delete", "ghost"]).status.code(), Some(3));
    assert_eq!(host.cli(&["suspend", "ghost"]).status.code(), Some(3));
    // Of several tenants each is asked for.
    script(&host, "contract", "grep -q alice && exit 5\nexit 0");
    host.ok(&["create", "bob", "--plan", "web"]);
    let output = host.cli(&["suspend", "alice", "bob"]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(state(&host, "bob"), "suspended");
    assert_eq!(state(&host, "alice"), "running");
    // An operator can go on without the hook.
    host.ok(&["suspend", "alice", "--skip-hooks"]);
    assert_eq!(state(&host, "alice"), "suspended");
}

#[test]
fn whatever_is_no_consent_refuses() {
    let mut host = host();
    let when = "on = [\"tenant.created\"]\nwhen = \"before\"";
    host.start();
    hook(&host, "ask", "exit 0", when);
    let create = |status: i32, why: &str| {
        let output = host.cli(&["create", "bob", "--plan", "web"]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(status), "{why}: {said}");
        assert!(said.contains(why), "{why} is not in {said}");
        assert!(said.contains("--skip-hooks"), "{said}");
        assert!(!has_file(&host, "bob"));
    };
    create(1, "bailiwick-hooks does not answer on ");
    let runner = Runner::start(&host);
    hook(&host, "ask", "echo 'no luck' >&2; exit 3", when);
    create(1, "it ended with 3: no luck");
    hook(&host, "ask", "kill -KILL $$", when);
    create(1, "it was killed by signal 9");
    hook(&host, "ask", "exec sleep 1000", &format!("{when}\ntimeout = \"1s\""));
    let begun = Instant::now();
    create(1, "it was killed after its time limit of 1s");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    bailiwick_tests::write_program(&host.path("programs/ask"), "#!/no/such/program\n");
    create(1, "cannot be executed: No such file");
    // It may write far more than is kept, and reads nothing of its input.
    hook(&host, "ask", "head -c 20000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the end >&2; exit 5", when);
    let output = host.cli(&["create", "bob", "--plan", "web"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(said(&output).len() < 6000 && said(&output).contains("xxx\nthe end"), "{}", said(&output));
    // A file that cannot be read may be a hook that refuses.
    host.write("etc/hooks.d/ask.toml", "on = [\"tenant.created\"]\nwhen = \"sometimes\"\n");
    create(2, "a hook runs \"before\" or \"after\"");
    let check = host.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2), "{}", said(&check));
    assert!(said(&check).contains("hooks.d/ask.toml:2:8"), "{}", said(&check));
    assert_eq!(host.cli(&["apply"]).status.code(), Some(7), "as `check` says");
    // A file that would be one under its right name is never run, which is no consent.
    let [wrong, right] = ["etc/hooks.d/quota.TOML", "etc/hooks.d/ask.toml"].map(|below| host.path(below));
    std::fs::rename(right, wrong).expect("renames");
    create(2, "this is not read, because its name does not end in \".toml\"");
    let check = host.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2), "{}", said(&check));
    assert!(said(&check).contains("hooks.d/quota.TOML") && said(&check).contains("quota.toml"), "{}", said(&check));
    host.ok(&["create", "bob", "--plan", "web", "--skip-hooks"]);
    assert!(has_file(&host, "bob"));
    assert_eq!(runner.log(), "");
}

#[test]
fn nothing_that_a_hook_has_started_outlives_it() {
    let mut host = host();
    host.start();
    let runner = Runner::start(&host);
    let marker = host.path("programs/marker").display().to_string();
    host.write("programs/marker", "");
    let when = "on = [\"tenant.created\"]\nwhen = \"before\"\ntimeout = \"2s\"";
    // A session of its own, a second parent that ends, and one that ignores every signal that can be ignored.
    let away = format!(
        "setsid sh -c 'tail -f {marker} & (tail -f {marker} &) ; exec tail -f {marker}' > /dev/null 2>&1 < /dev/null &\n\
         (trap '' TERM HUP INT; setsid tail -f {marker} &)\n"
    );
    for (end, status) in [("exit 5", 5), ("exit 0", 0), ("exec tail -f", 1)] {
        let end = if status == 1 { format!("{end} {marker}") } else { end.to_owned() };
        hook(&host, "ask", &format!("{away}{end}"), when);
        let output = host.cli(&["create", "bob", "--plan", "web"]);
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        assert_eq!(processes_with(&marker), [""; 0], "after {end}");
        if status == 0 {
            host.ok(&["delete", "bob", "--purge"]);
        }
    }
    // A program that starts itself anew all the time, each time in a session of its own.
    let path = hook(&host, "runs-away", "[ \"$1\" = on ] || { \"$0\" on & exit 0; }\nsetsid \"$0\" on &\nexit 0", when);
    std::fs::remove_file(host.path("etc/hooks.d/ask.toml")).expect("removes");
    host.ok(&["create", "bob", "--plan", "web"]);
    assert_eq!(processes_with(&path.display().to_string()), [""; 0]);
    assert_eq!(runner.log(), "");
}
