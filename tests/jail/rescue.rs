//! A tenant at a limit logs in to recover: one emergency session at a time, on a small reserve, which leaves
//! nothing behind.

use bailiwick_tests::{Host, profiles, until};
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The limits of the tenants.
const TASKS: u64 = 40;
const MEMORY: u64 = 64 << 20;
/// As documented in `docs/limits.md`.
const RESERVE_OF_TASKS: u64 = 16;
const RESERVE_OF_MEMORY: u64 = 32 << 20;

fn host() -> Host {
    let mut host = Host::new();
    for tenant in profiles() {
        let limits = format!("[limits]\ntasks = {TASKS}\nmemory = \"64M\"\n");
        let text = format!("plan = \"{tenant}\"\ndoors = [\"exec\", \"ssh\", \"sftp\"]\n{limits}");
        host.write(&format!("etc/tenants.d/{tenant}.toml"), &text);
    }
    host.start();
    host.ok(&["apply"]);
    host.write_ssh();
    host
}

/// The most and the least confined profile; the others behave the same here.
fn extreme_profiles() -> Vec<&'static str> {
    let all = profiles();
    let mut ends = vec![all[0], all[all.len() - 1]];
    ends.dedup();
    ends
}

/// The control group directory of a tenant's limit, by controller.
fn group(host: &Host, tenant: &str, controller: &str) -> PathBuf {
    let shown: Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
    let groups = shown["cgroup"].as_object().expect("groups").clone();
    let of = |hierarchy: &str| {
        groups.get(hierarchy).and_then(Value::as_str).map(|path| path.trim_start_matches('/').to_owned())
    };
    match of(controller) {
        Some(path) => PathBuf::from("/sys/fs/cgroup").join(controller).join(path),
        None => {
            let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
                .into_iter()
                .find(|dir| PathBuf::from(dir).join("cgroup.controllers").exists());
            PathBuf::from(unified.expect("is mounted")).join(of("unified").expect("a group"))
        }
    }
}

fn read(host: &Host, tenant: &str, file: &str) -> u64 {
    let (controller, names) = match file {
        "memory" => ("memory", ["memory.max", "memory.limit_in_bytes"]),
        other => ("pids", [other, other]),
    };
    let group = group(host, tenant, controller);
    let text = names.iter().find_map(|name| std::fs::read_to_string(group.join(name)).ok());
    text.unwrap_or_else(|| panic!("{file} of {}", group.display())).trim().parse().expect("a number")
}

fn limits(host: &Host, tenant: &str) -> (u64, u64) {
    (read(host, tenant, "pids.max"), read(host, tenant, "memory"))
}

/// A command of the tenant, ended on drop.
struct Held(Child);

impl Held {
    /// Starts the command and waits until it reports that it is ready.
    fn new(host: &Host, tenant: &str, line: &str) -> Self {
        let mut command = host.command(&["exec", tenant, "--user", tenant, "--", "/bin/bash", "-c", line]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
        let mut said = [0; 6];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("it says so");
        assert_eq!(&said, b"ready\n");
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn status_and_output(command: &mut Command) -> (i32, String) {
    let output = command.stdin(Stdio::null()).output().expect("runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// Checks that the reserve is taken back and the limits are restored.
fn assert_restored(host: &Host, tenant: &str) {
    until("the reserve is taken back", || limits(host, tenant) == (TASKS, MEMORY));
    until("its group is removed", || !group(host, tenant, "pids").join("rescue").exists());
    let (status, text) = status_and_output(&mut host.command(&["audit", tenant]));
    assert_eq!(status, 0, "{tenant}: {text}");
}

/// Takes every task, and every one that becomes free.
const BOMB: &str = "exec python3 -c '
import os, time
full = False
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except BlockingIOError:
        if not full:
            print(\"ready\", flush=True)
        full = True
        time.sleep(0.01)
'";

/// Starts as many tasks as it can, prints their number, and leaves them running.
const BEHIND: &str = "python3 -c '
import os, time
count = 0
try:
    while os.fork() != 0:
        count += 1
    os.closerange(0, 3)
    time.sleep(1000)
except BlockingIOError:
    print(count)
'";

#[test]
fn whoever_has_used_up_its_tasks_logs_in_and_ends_them() {
    let host = host();
    for tenant in extreme_profiles() {
        let bomb = Held::new(&host, tenant, BOMB);
        assert_eq!(read(&host, tenant, "pids.current"), TASKS);
        // A pipeline, which needs a few tasks; it gets no more than the reserve, and some stay in use for a while.
        let line = format!("ps x | grep -c python3; {BEHIND}; cat /proc/$$/cgroup > /dev/stderr");
        let (_, text) = status_and_output(&mut host.ssh(&[tenant, &line]));
        assert!(text.contains("at its limit of tasks"), "{tenant}: {text}");
        let counts: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(counts[0] > 30 && (8..RESERVE_OF_TASKS).contains(&counts[1]), "{tenant}: {text}");
        let given = (TASKS + RESERVE_OF_TASKS, MEMORY + RESERVE_OF_MEMORY);
        assert_eq!(limits(&host, tenant), given, "{tenant}");
        let current = read(&host, tenant, "pids.current");
        assert!(current > TASKS && current <= TASKS + RESERVE_OF_TASKS, "{tenant}: {current}");
        assert_eq!(read(&host, tenant, "rescue/pids.max"), RESERVE_OF_TASKS, "{tenant}");
        assert!(read(&host, tenant, "jail/pids.current") <= TASKS, "the bomb gets nothing of it");
        // The raised limit is no drift: the audit accepts it, and `plan` shows no change.
        let (status, text) = status_and_output(&mut host.command(&["audit", tenant]));
        assert_eq!(status, 0, "{tenant}: {text}");
        assert_eq!(host.cli(&["plan", tenant]).status.code(), Some(0), "{tenant}");
        host.ok(&["apply", tenant]);
        assert_eq!(limits(&host, tenant), given, "{tenant}");
        // A limit that is changed meanwhile takes effect, for the jail too.
        let declared = std::fs::read_to_string(host.path(&format!("etc/tenants.d/{tenant}.toml"))).expect("reads");
        let more = declared.replace(&format!("tasks = {TASKS}"), &format!("tasks = {}", TASKS + 2));
        for (text, tasks) in [(&more, TASKS + 2), (&declared, TASKS)] {
            host.write(&format!("etc/tenants.d/{tenant}.toml"), text);
            host.ok(&["apply", tenant]);
            assert_eq!(limits(&host, tenant).0, tasks + RESERVE_OF_TASKS, "{tenant}");
            assert_eq!(read(&host, tenant, "jail/pids.max"), tasks, "{tenant}");
        }
        // Only one at a time: the next session is an ordinary one and is told why.
        let (status, text) = status_and_output(&mut host.ssh(&[tenant, "true"]));
        assert!(status != 0 && text.contains("limit of tasks"), "{tenant}: {status} {text}");
        let left = std::fs::read_to_string(group(&host, tenant, "pids").join("rescue/cgroup.procs")).expect("reads");
        assert!(Command::new("kill").arg("-9").args(left.split_whitespace()).status().expect("runs").success());
        until("the background processes have ended", || limits(&host, tenant) == (TASKS, MEMORY));
        until("it is given again", || {
            status_and_output(&mut host.ssh(&[tenant, "pkill -9 python3; echo done"])).1.contains("done")
        });
        drop(bomb);
        until("the tasks are free", || read(&host, tenant, "pids.current") < 5);
        assert_restored(&host, tenant);
        let (status, text) = status_and_output(&mut host.ssh(&[tenant, "true"]));
        assert_eq!((status, text.as_str()), (0, ""), "{tenant}");
    }
}

#[test]
fn whoever_has_used_up_its_memory_logs_in_and_no_process_is_killed() {
    let host = host();
    let kills = |tenant: &str| -> u64 {
        let audit: Value = serde_json::from_slice(&host.cli(&["audit", tenant, "--json"]).stdout).expect("JSON");
        let rows = audit["tenants"][0]["limits"].as_array().expect("limits").clone();
        rows.iter().find(|row| row["resource"] == "memory").expect("a row")["faults"].as_u64().expect("a number")
    };
    for tenant in extreme_profiles() {
        let hog = Held::new(
            &host,
            tenant,
            "exec python3 -c '
import time
held = []
def used():
    return sum(int(line.split()[1]) for line in open(\"/proc/self/status\") if line.startswith((\"RssAnon\",)))
while used() < 57 * 1024:
    held.append(bytearray(1 << 20))
print(\"ready\", flush=True)
time.sleep(1000)
'",
        );
        let (status, text) = status_and_output(
            &mut host.ssh(&[tenant, "x=$(head -c 12M /dev/zero | tr '\\0' x); echo ${#x}; pgrep -c python3"]),
        );
        assert!(
            status == 0 && text.contains("at its limit of memory") && text.contains("12582912\n1\n"),
            "{tenant}: {text}"
        );
        assert_restored(&host, tenant);
        assert_eq!(kills(tenant), 0, "{tenant}");
        let (status, text) = status_and_output(&mut host.ssh(&[tenant, "pkill python3; echo ended"]));
        assert!(status == 0 && text.contains("ended"), "{tenant}: {text}");
        drop(hog);
        assert_restored(&host, tenant);
    }
}

/// Files on a tmpfs belong to no process, so killing a process frees nothing.
#[test]
fn whoever_has_filled_its_memory_with_files_removes_them() {
    if !profiles().contains(&"system") {
        return;
    }
    let host = host();
    let fill = "mkdir -p /mnt/full && mount -t tmpfs none /mnt/full && chmod 777 /mnt/full && head -c 200M /dev/zero > /mnt/full/file";
    assert_ne!(host.inside("system", fill).0, 0);
    let (status, text) = status_and_output(&mut host.ssh(&["system", "ls /mnt/full"]));
    assert!(status == 0 && text.contains("file"), "{status} {text}");
    // Without the reserve `rm` may be killed after it removed the file.
    until("it is removed", || host.inside("system", "rm -f /mnt/full/file").0 == 0);
    assert_restored(&host, "system");
}

#[test]
fn what_was_given_is_taken_back_whoever_dies_meanwhile() {
    let mut host = host();
    let tenant = profiles()[0];
    let _bomb = Held::new(&host, tenant, BOMB);
    let init = |host: &Host| -> Value {
        serde_json::from_str::<Value>(&host.ok(&["show", tenant, "--json"])).expect("JSON")["pid"].clone()
    };
    let before = init(&host);
    let mut rescue = host
        .ssh(&[tenant, "echo in; read line; echo $line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut said = [0; 3];
    rescue.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("it is in");
    until("it is known", || host.ok(&["sessions"]).contains("echo in"));
    // All at once. The restarted daemons find the jail, the session and the reserve.
    host.kill();
    host.start();
    assert_eq!(init(&host), before);
    assert_eq!(limits(&host, tenant).0, TASKS + RESERVE_OF_TASKS);
    host.ok(&["audit", tenant]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(limits(&host, tenant).0, TASKS + RESERVE_OF_TASKS, "a session is open");
    drop(rescue.stdin.take());
    assert!(rescue.wait().expect("ends").success());
    assert_restored(&host, tenant);

    // Init has moved to the group of the session when the daemon dies: the warden moves it back.
    let name = || bailiwick_tests::name(tenant);
    until("it is given", || {
        host.ask(&bailiwick_proto::WardenRequest::Rescue { tenant: name() })
            .is_ok_and(|reply| reply == bailiwick_proto::WardenReply::Done)
    });
    let groups = std::fs::read_to_string(format!("/proc/{before}/cgroup")).expect("reads");
    assert!(groups.contains("/rescue"), "{groups}");
    host.ok(&["audit", tenant]);
    host.kill();
    host.start();
    assert_restored(&host, tenant);
    let groups = std::fs::read_to_string(format!("/proc/{before}/cgroup")).expect("reads");
    assert!(!groups.contains("/rescue"), "{groups}");
    assert_eq!(init(&host), before);
    // A jail that is stopped meanwhile leaves nothing.
    until("it is given", || {
        host.ask(&bailiwick_proto::WardenRequest::Rescue { tenant: name() })
            .is_ok_and(|reply| reply == bailiwick_proto::WardenReply::Done)
    });
    host.ok(&["stop", tenant]);
    assert!(!host.groups().iter().any(|group| group.contains(&format!("/{tenant}"))), "{:?}", host.groups());
    host.ok(&["start", tenant]);
    host.ok(&["audit", tenant]);
}
