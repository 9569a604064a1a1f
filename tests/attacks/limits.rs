//! Limits: a tenant that tries to exceed one is stopped, and the host is not affected.

use crate::host;
use bailiwick_tests::{profiles, until};

#[test]
fn a_fork_bomb_stops_at_the_tenants_own_limit() {
    let host = host();
    // The plans of these tests allow 64 tasks.
    let line = "perl -e 'my $n = 0; while ($n < 1000) { my $p = fork; last unless defined $p; if (!$p) { sleep 3; exit } $n++ } print $n; kill 9, -1'";
    for tenant in profiles() {
        let (_, out, err) = host.inside(tenant, line);
        let started: u32 = out.trim().parse().unwrap_or_else(|_| panic!("{tenant}: {out:?} {err:?}"));
        assert!((40..64).contains(&started), "{tenant} started {started}");
    }
}

#[test]
fn memory_of_every_kind_ends_at_the_limit() {
    let host = host();
    // The limit is 128 MiB. Tried with anonymous memory, /dev/shm and /tmp, which are memory with a size limit of
    // their own.
    let (status, out, _) = host.inside("web", "perl -e 'my $x = \"x\" x (300 * 1024 * 1024); print length $x'");
    assert!(status != 0 && out.is_empty(), "{status} {out}");
    let (status, _, _) = host.inside("web", "head -c 300M /dev/zero > /tmp/big");
    assert_ne!(status, 0);
    let (status, _, _) = host.inside("web", "rm -f /tmp/big; head -c 100M /dev/zero > /dev/shm/big");
    assert_ne!(status, 0);
    host.inside("web", "rm -f /dev/shm/big");
    assert_eq!(host.inside("web", "echo alive").1.trim(), "alive");
}

#[test]
fn open_files_are_bounded() {
    let host = host();
    assert_eq!(host.inside("web", "ulimit -Hn").1.trim(), "4096");
    assert_ne!(host.inside("web", "ulimit -n 5000").0, 0);
}

#[test]
fn a_limit_changes_while_the_jail_runs() {
    let host = host();
    let pid = host.ok(&["show", "web", "--json"]);
    host.write("etc/tenants.d/web.toml", "plan = \"web\"\n[limits]\ntasks = 16\n");
    let plan = host.cli(&["plan", "web"]);
    assert_eq!(plan.status.code(), Some(10), "{}", String::from_utf8_lossy(&plan.stdout));
    host.ok(&["apply", "web"]);
    assert_eq!(host.cli(&["plan", "web"]).status.code(), Some(0));
    let field = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON")["pid"].clone();
    assert_eq!(field(&pid), field(&host.ok(&["show", "web", "--json"])), "the jail was not restarted");
    let (_, out, _) = host.inside("web", "perl -e 'my $n = 0; while ($n < 100) { my $p = fork; last unless defined $p; if (!$p) { sleep 3; exit } $n++ } print $n; kill 9, -1'");
    assert!(out.trim().parse::<u32>().expect("a number") < 16, "{out}");
}

#[test]
fn a_changed_limit_of_open_files_is_planned_applied_and_audited() {
    let host = host();
    let json =
        |arguments: &[&str]| serde_json::from_slice::<serde_json::Value>(&host.cli(arguments).stdout).expect("JSON");
    let row = || {
        let report = json(&["audit", "web", "--json"]);
        let rows = report["tenants"][0]["limits"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["resource"] == "open_files").expect("a row");
        (
            row["enforced"].as_str().unwrap_or_default().to_owned(),
            row["verdict"].as_str().unwrap_or_default().to_owned(),
        )
    };
    for (most, before) in [("8192", "4096"), ("256", "8192")] {
        host.write("etc/tenants.d/web.toml", &format!("plan = \"web\"\n[limits]\nopen_files = {most}\n"));
        let plan = host.cli(&["plan", "web"]);
        let text = String::from_utf8_lossy(&plan.stdout).into_owned();
        assert!(plan.status.code() == Some(10) && text.contains("limits.open_files"), "{text}");
        assert_eq!(row(), (before.to_owned(), "drift".to_owned()));
        host.ok(&["apply", "web"]);
        assert_eq!(host.cli(&["plan", "web"]).status.code(), Some(0), "nothing is left to do");
        assert_eq!(row(), (most.to_owned(), "enforced".to_owned()));
        assert_eq!(host.inside("web", "ulimit -Hn; ulimit -Sn").1, format!("{most}\n{most}\n"));
    }
}

#[test]
fn a_size_that_is_rounded_to_pages_is_no_drift() {
    let host = host();
    // The kernel rounds up to whole pages, at a start and while the jail runs.
    host.write("etc/tenants.d/web.toml", "plan = \"web\"\n[limits]\ntmp = \"65K\"\nshm = \"129K\"\n");
    for begin in ["apply", "restart"] {
        host.ok(&[begin, "web"]);
        assert_eq!(host.cli(&["plan", "web"]).status.code(), Some(0), "after {begin}");
        assert_eq!(host.inside("web", "df -k --output=size /tmp /dev/shm | tail -n 2 | xargs").1.trim(), "68 132");
    }
}

#[test]
fn all_tenants_together_leave_the_host_its_reserve() {
    let host = host();
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", "web", "--json"])).expect("JSON");
    let hierarchies = bailiwick_sys::cgroup::hierarchies().expect("hierarchies");
    let base = |hierarchy: &str| {
        let path = shown["cgroup"][hierarchy].as_str()?;
        let mount = hierarchies.mount_of(hierarchy).expect("mounted");
        Some(mount.join(path.trim_start_matches('/')).parent().expect("a parent").to_owned())
    };
    let read = |hierarchy: &str, file: &str| -> u64 {
        // A version 1 controller has a hierarchy of its own.
        let (group, file) = match base(hierarchy) {
            Some(group) => (group, file),
            None => {
                (base("unified").expect("a group"), file.strip_suffix(".limit_in_bytes").map_or(file, |_| "memory.max"))
            }
        };
        let text = std::fs::read_to_string(group.join(file)).expect(file);
        text.trim().parse().unwrap_or_else(|_| panic!("{file} in {group:?}: {text:?}"))
    };
    let memory = bailiwick_sys::proc::memory_bytes().expect("reads") - (256 << 20);
    assert_eq!(read("memory", "memory.limit_in_bytes"), memory / 4096 * 4096);
    assert_eq!(read("pids", "pids.max"), bailiwick_sys::proc::max_tasks().expect("reads") - 1000);
    // The reserve is read again when it changes, without a restart.
    for (reserve, kept, tasks) in
        [("memory = \"512M\", tasks = 2000", 512 << 20, 2000), ("tasks = 1500", 256 << 20, 1500)]
    {
        host.write("etc/bailiwick.toml", &host.default_config(&format!("reserve = {{ {reserve} }}\n")));
        let memory = (bailiwick_sys::proc::memory_bytes().expect("reads") - kept) / 4096 * 4096;
        let tasks = bailiwick_sys::proc::max_tasks().expect("reads") - tasks;
        until("it is in force", || {
            read("memory", "memory.limit_in_bytes") == memory && read("pids", "pids.max") == tasks
        });
    }
    // A reserve of all memory is impossible and is reported.
    host.write("etc/bailiwick.toml", &host.default_config("reserve = { memory = \"900T\" }\n"));
    until("it is told", || host.ok(&["status"]).contains("`reserve` in bailiwick.toml keeps"));
}
