//! `bailiwickd --standalone`, which starts `bailiwick-hooks` itself.

use crate::{HOOKS, NOTIFY, hook, out, processes_with};
use bailiwick_tests::{Host, until};

fn refusal(host: &Host) -> (Option<i32>, String) {
    let output = host.cli(&["create", "bob", "--plan", "web"]);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn without_systemd_hooks_run_from_their_first_file_on_also_after_a_kill() {
    let mut host = Host::new();
    host.write("etc/bailiwick.toml", &host.default_config(&format!("notices = {{ user = \"{NOTIFY}\" }}\n")));
    host.declare("alice", "web");
    let out = out(&host);
    host.start_with(&["--hooks-user", &HOOKS.to_string()]);
    host.ok(&["list"]);
    let name = format!("{}\0", host.path("etc").display());
    let runners = || {
        let of_hooks = |pid: &String| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "bailiwick-hooks")
        };
        processes_with(&name).into_iter().filter(of_hooks).collect::<Vec<_>>()
    };
    assert!(runners().is_empty() && !host.path("run/hooks.sock").exists(), "there is no hook");

    let program = format!("id -u > {}/uid; echo 'not today' >&2; exit 5", out.display());
    hook(&host, "ask", &program, "on = [\"tenant.created\"]\nwhen = \"before\"");
    // Until it runs, nothing is done, and the message says what is missing.
    until("it runs", || {
        let (status, said) = refusal(&host);
        assert!(status == Some(5) || status == Some(1) && said.contains("bailiwick-hooks does not answer"), "{said}");
        status == Some(5)
    });
    assert_eq!(std::fs::read_to_string(out.join("uid")).expect("has run").trim(), HOOKS.to_string());
    let metadata = std::fs::symlink_metadata(host.path("run/hooks.sock")).expect("is there");
    let (mode, gid) =
        (std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777, std::os::unix::fs::MetadataExt::gid(&metadata));
    assert_eq!((mode, gid), (0o660, NOTIFY));

    // The socket stays while it is started again, so that nobody is turned away.
    let [pid] = &runners()[..] else { panic!("{:?}", runners()) };
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("may");
    let (status, said) = refusal(&host);
    assert_eq!(status, Some(5), "{said}");

    host.end();
    assert!(runners().is_empty() && !host.path("run/hooks.sock").exists());
}
