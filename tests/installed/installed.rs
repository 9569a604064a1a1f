//! A complete host with the package: Debian, systemd, unified control groups. Each test starts with the package
//! installed and `bailiwick.target` enabled, and runs alone.
//!
//! Danger: these tests install, stop, upgrade and purge Bailiwick on the machine they run on, and destroy its
//! tenants. They run only in the virtual machine (`make vm-test`). `BAILIWICK_DEB` and `BAILIWICK_DEB_NEXT` name
//! the packages.

use bailiwick_tests::connected::network_of_host;
use bailiwick_tests::machine::{
    init, install, journal, main_pid, ok, package, print_measurement, running, sh, until, version,
};
use bailiwick_tests::wire::{NameServer, Space};
use bailiwick_tests::{profiles, supports};
use bailiwick_types::Profile;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TENANTS: [&str; 2] = ["alice", "bob"];

/// A host with two tenants whose jails run.
fn host() {
    install();
    std::fs::write("/etc/bailiwick/bailiwick.toml", "require = [\"cpu\", \"memory\", \"tasks\"]\n").expect("writes");
    for tenant in TENANTS {
        std::fs::write(format!("/etc/bailiwick/tenants.d/{tenant}.toml"), "plan = \"small\"\n").expect("writes");
    }
    ok("systemctl reset-failed; systemctl enable --now bailiwick.target; systemctl start bailiwickd bailiwick-warden");
    ok("bailiwick apply; bailiwick unsuspend alice bob; bailiwick start alice bob");
    assert_eq!(running(), TENANTS.map(str::to_owned).into());
}

/// The init of each tenant, identified by process id and start time.
fn inits() -> Vec<String> {
    TENANTS.map(init).to_vec()
}

/// A session that echoes each line.
struct Session {
    child: Child,
    from: BufReader<std::process::ChildStdout>,
    number: u32,
}

impl Session {
    fn new(tenant: &str) -> Self {
        let mut child = Command::new("bailiwick")
            .args(["exec", tenant, "--", "sh", "-c", "while read line; do echo \"$line\"; done; exit 7"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bailiwick runs");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut session = Self { child, from, number: 0 };
        session.lives();
        session
    }

    fn lives(&mut self) {
        self.number += 1;
        let line = format!("line {}\n", self.number);
        self.child.stdin.as_mut().expect("a pipe").write_all(line.as_bytes()).expect("the session reads");
        let mut answer = String::new();
        self.from.read_line(&mut answer).expect("the session writes");
        assert_eq!(answer, line, "{}", journal());
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert_eq!(self.child.wait().expect("ends").code(), Some(7));
    }
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_package_and_one_command_make_a_working_host() {
    sh("systemctl stop bailiwick-jails.service; apt-get purge -y bailiwick; rm -rf /var/lib/bailiwick /etc/bailiwick");
    let deb = package("BAILIWICK_DEB");
    ok(&format!("apt-get install -y {}", deb.display()));
    assert!(sh("systemctl is-active bailiwickd").1.starts_with("inactive"), "nothing runs unasked");
    ok("systemctl enable --now bailiwick.target");
    // The root file system of this guest has no project quotas, and `doctor` says so because `require` lists them.
    let text = sh("bailiwick doctor").1;
    let missing: Vec<&str> =
        text.lines().filter(|line| line.contains("missing") && !line.starts_with("disk")).collect();
    assert!(missing.is_empty() && !text.contains("load it, every"), "{text}");
    ok("bailiwick create alice --plan small");
    assert_eq!(ok("bailiwick exec alice -- id -u").trim(), "0");
    ok("bailiwick audit alice");
    let files = ok("dpkg -L bailiwick");
    for page in [
        "man1/bailiwick.1",
        "man1/bailiwick-exec.1",
        "man1/bailiwick-service.1",
        "man5/bailiwick.toml.5",
        "man5/bailiwick-tenants.5",
        "man7/bailiwick-service.7",
        "man8/bailiwickd.8",
        "man8/bailiwick-exporter.8",
        "man8/bailiwick-notify.8",
        "man5/bailiwick-hooks.d.5",
        "man5/bailiwick-webhooks.d.5",
        "man8/bailiwick-hooks.8",
        "man8/bailiwick-net.8",
        "man8/bailiwick-web.8",
    ] {
        assert!(files.contains(&format!("/usr/share/man/{page}.gz")), "{files}");
    }
    assert_eq!(sh("systemctl --failed --no-legend --plain | grep bailiwick").1, "");
    host();
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn units_are_valid_and_hardened() {
    host();
    let text = ok("systemd-analyze verify --man=no bailiwick.target bailiwickd.service bailiwick-warden.service \
                   bailiwick-jails.service bailiwick-audit.timer bailiwick-audit.service \
                   bailiwick-net.service bailiwick-uplink.service bailiwick-uplink-check.service bailiwick-uplink.timer \
                   bailiwick-dns.path bailiwick-dns.service bailiwick-exporter.socket bailiwick-exporter.service bailiwick-notify.service \
                   bailiwick-hooks.socket bailiwick-hooks.service 2>&1");
    // systemd before 254 does not know all settings, and ignores the unknown ones.
    let odd: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("bailiwick"))
        .filter(|line| !["DelegateSubgroup", "RestartSteps", "RestartMaxDelaySec"].iter().any(|new| line.contains(new)))
        .collect();
    assert!(odd.is_empty(), "{odd:#?}");
    // The exposure level of each unit in tenths; lower is better. These values may only decrease.
    for (unit, most) in [
        ("bailiwickd", 15),
        ("bailiwick-audit", 15),
        ("bailiwick-jails", 15),
        ("bailiwick-warden", 81),
        ("bailiwick-net", 26),
        // It finds a router whose file is gone by the processes that serve it (CAP_SYS_PTRACE), and asks resolvers for names.
        ("bailiwick-uplink", 59),
        ("bailiwick-uplink-check", 12),
        ("bailiwick-dns", 36),
        ("bailiwick-exporter", 12),
        // Most switches would keep the sendmail that it executes from its rights.
        ("bailiwick-notify", 64),
        // What it runs is the operator's, and may need the network.
        ("bailiwick-hooks", 40),
    ] {
        let (status, text) = sh(&format!("systemd-analyze security --threshold={most} --no-pager {unit}.service"));
        let last = text.lines().last().unwrap_or_default();
        print_measurement(last);
        assert_eq!(status, 0, "{text}");
    }
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_session_started_while_the_daemon_restarts_waits_and_then_works() {
    host();
    for _ in 0..5 {
        let restart = Command::new("systemctl").args(["restart", "bailiwickd.service"]).spawn().expect("systemctl");
        let sessions: Vec<Child> = (0..4)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(40));
                Command::new("bailiwick").args(["exec", "alice", "--", "sh", "-c", "exit 9"]).spawn().expect("runs")
            })
            .collect();
        for mut session in sessions {
            assert_eq!(session.wait().expect("ends").code(), Some(9), "{}", journal());
        }
        assert!({ restart }.wait().expect("ends").success());
    }
}

/// How often a slow test repeats: `few` shows that it works, `make soak` does `all`.
fn repeats(few: usize, all: usize) -> usize {
    if std::env::var_os("BAILIWICK_SOAK").is_some() { all } else { few }
}

/// Kills a daemon again and again: running sessions survive, and new ones start.
fn kill_again_and_again(unit: &str) {
    let kills = repeats(10, 50);
    host();
    let before = inits();
    let mut sessions: Vec<Session> = TENANTS.iter().map(|tenant| Session::new(tenant)).collect();
    let mut refused = 0;
    for _ in 0..kills {
        let pid = main_pid(unit);
        ok(&format!("kill -9 {pid}"));
        for session in &mut sessions {
            session.lives();
        }
        // Started while the daemon may be down.
        refused += u32::from(sh("bailiwick exec alice -- true").0 != 0);
        until("the daemon is back", || {
            let now = main_pid(unit);
            now != "0" && now != pid && sh(&format!("systemctl is-active {unit}")).0 == 0
        });
    }
    assert_eq!(inits(), before, "{}", journal());
    sessions.into_iter().for_each(Session::end);
    ok("bailiwick audit");
    print_measurement(&format!(
        "{unit}: killed {kills} times, 0 of {} sessions and 0 tenants lost, {refused} of {kills} new sessions refused",
        TENANTS.len()
    ));
    assert_eq!(refused, 0, "{}", journal());
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn the_daemon_is_killed_again_and_again() {
    kill_again_and_again("bailiwickd.service");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn the_warden_is_killed_again_and_again() {
    kill_again_and_again("bailiwick-warden.service");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn the_manager_keeps_a_descriptor_of_every_init() {
    host();
    let stored = || ok("systemctl show -p NFileDescriptorStore --value bailiwick-warden").trim().to_owned();
    until("both are stored", || stored() == "2");
    ok("bailiwick stop bob");
    until("one is let go", || stored() == "1");
    ok("bailiwick start bob");
    until("and stored again", || stored() == "2");
    let before = inits();
    ok("systemctl restart bailiwick-warden.service");
    assert_eq!(inits(), before);
    until("still stored", || stored() == "2");
    // A jail that ended while no warden ran is noticed.
    ok("systemctl stop bailiwickd.service bailiwickd.socket bailiwick-warden.socket bailiwick-warden.service");
    let pid = before[0].split(' ').next().expect("a pid").to_owned();
    ok(&format!("kill -9 {pid}"));
    ok("systemctl start bailiwick.target bailiwick-warden.service bailiwickd.service");
    until("a new one runs", || sh("bailiwick show alice --json").1.contains("\"running\""));
    let after = inits();
    assert_eq!(after[1], before[1]);
    assert_ne!(after[0], before[0]);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn an_upgrade_does_not_affect_sessions() {
    host();
    let before = inits();
    let mut sessions: Vec<Session> = TENANTS.iter().map(|tenant| Session::new(tenant)).collect();
    let daemons = [main_pid("bailiwickd.service"), main_pid("bailiwick-warden.service")];
    let next = package("BAILIWICK_DEB_NEXT");
    assert_ne!(version(&next), version(&package("BAILIWICK_DEB")));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let entering = {
        let stop = std::sync::Arc::clone(&stop);
        std::thread::spawn(move || {
            let (mut tried, mut lost) = (0, BTreeSet::new());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                tried += 1;
                let (status, text) = sh("bailiwick exec bob -- true");
                if status != 0 {
                    lost.insert(format!("{status} {text}"));
                }
            }
            (tried, lost)
        })
    };
    ok(&format!("apt-get install -y {}", next.display()));
    for session in &mut sessions {
        session.lives();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (tried, lost) = entering.join().expect("ends");
    assert!(lost.is_empty(), "{lost:#?}\n{}", journal());
    print_measurement(&format!(
        "upgrade: 0 of {} sessions and 0 tenants lost, 0 of {tried} new sessions refused",
        sessions.len()
    ));
    assert_eq!(inits(), before, "{}", journal());
    let now = [main_pid("bailiwickd.service"), main_pid("bailiwick-warden.service")];
    assert!(now.iter().zip(&daemons).all(|(now, then)| now != then), "the new programs run: {now:?} {daemons:?}");
    sessions.into_iter().for_each(Session::end);
    ok("bailiwick audit");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_warden_with_an_error_that_only_an_operator_can_fix_is_not_restarted() {
    host();
    ok("systemctl stop bailiwick.target");
    ok("chmod 0755 /var/lib/bailiwick; mv /var/lib/bailiwick/ledger.json /root/; touch /var/lib/bailiwick/of-somebody");
    let since = ok("date +%s.%N");
    ok("systemctl start bailiwick.target");
    until("it has ended", || sh("systemctl is-failed bailiwick-warden.service").0 == 0);
    // A restart would happen every two seconds. That none happens can only be seen by waiting.
    std::thread::sleep(Duration::from_secs(10));
    let starts = sh(&format!(
        "journalctl -b --since @{} -o cat UNIT=bailiwick-warden.service | grep -c ^Starting",
        since.trim()
    ));
    let starts: u32 = starts.1.trim().parse().expect("a number");
    let listens = sh("systemctl is-active bailiwick-warden.socket").0;
    let (status, said) = sh("bailiwick list 2>&1");
    let told = journal();
    // Restored before any comparison, because later tests need it.
    ok("rm /var/lib/bailiwick/of-somebody; mv /root/ledger.json /var/lib/bailiwick/; chmod 0711 /var/lib/bailiwick");
    ok("systemctl restart bailiwick.target");
    until("every tenant is in its declared state", || running().len() == 2);
    assert!((1..=2).contains(&starts), "{starts} starts\n{told}");
    assert_eq!(listens, 0, "{told}");
    assert!(status != 0 && said.contains("0711"), "{status} {said}");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn stopping_the_target_spares_jails_and_stopping_the_jails_ends_them() {
    host();
    let before = inits();
    let mut session = Session::new("alice");
    let daemons = [main_pid("bailiwickd.service"), main_pid("bailiwick-warden.service")];
    ok("systemctl stop bailiwick.target");
    until("the daemons end", || daemons.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    // No other process is left either, for example one that a killed warden had started.
    let left = || {
        sh("for pid in $(pgrep -x bailiwickd; pgrep -x bailiwick-warde); do
        ps -o pid,ppid,lstart,stat,comm,args -p $pid; cat /proc/$pid/cgroup /proc/$pid/stack; ls -l /proc/$pid/fd; done").1
    };
    assert_eq!(left(), "", "{}", journal());
    session.lives();
    assert_ne!(sh("bailiwick list").0, 0);
    ok("systemctl start bailiwick.target");
    until("it is back", || sh("bailiwick list").0 == 0);
    assert_eq!(inits(), before);
    session.end();
    ok("systemctl stop bailiwick-jails.service");
    for init in before {
        let (pid, _) = init.split_once(' ').expect("two words");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    assert!(!std::path::Path::new("/sys/fs/cgroup/bailiwick.slice/bailiwick-jails.service").exists());
    ok("systemctl start bailiwick.target bailiwick-warden.service bailiwickd.service");
    until("every tenant is in its declared state", || running().len() == 2);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_daemon_that_hangs_is_replaced() {
    host();
    let before = inits();
    for unit in ["bailiwickd.service", "bailiwick-warden.service"] {
        ok(&format!(
            "mkdir -p /run/systemd/system/{unit}.d; \
             printf '[Service]\\nWatchdogSec=4s\\n' > /run/systemd/system/{unit}.d/watchdog.conf; \
             systemctl daemon-reload; systemctl restart {unit}"
        ));
        // Longer than the watchdog interval.
        let pid = main_pid(unit);
        std::thread::sleep(Duration::from_secs(6));
        assert_eq!(main_pid(unit), pid, "{}", journal());
        ok(&format!("kill -STOP {pid}"));
        until("another one runs", || {
            let now = main_pid(unit);
            now != "0" && now != pid && sh(&format!("systemctl is-active {unit}")).0 == 0
        });
        ok(&format!("rm -r /run/systemd/system/{unit}.d; systemctl daemon-reload; systemctl restart {unit}"));
    }
    assert_eq!(inits(), before);
    assert_eq!(sh("bailiwick exec alice -- sh -c 'exit 3'").0, 3);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_reload_reads_the_policy_and_reports_its_errors() {
    host();
    std::fs::write("/etc/bailiwick/tenants.d/carol.toml", "plan = \"small\"\n").expect("writes");
    ok("systemctl reload bailiwickd.service");
    assert!(ok("bailiwick list").contains("carol"));
    std::fs::write("/etc/bailiwick/tenants.d/carol.toml", "plan = \"smal\"\n").expect("writes");
    assert_ne!(sh("systemctl reload bailiwickd.service").0, 0);
    assert!(journal().contains("carol.toml"));
    std::fs::remove_file("/etc/bailiwick/tenants.d/carol.toml").expect("removes");
    ok("systemctl reload bailiwickd.service; bailiwick apply");
    assert_eq!(running().len(), 2);
    // An error in the host's file is reported, and the last valid version stays in force, also for a daemon that
    // starts.
    std::fs::write("/etc/bailiwick/bailiwick.toml", "requir = []\n").expect("writes");
    ok("systemctl restart bailiwickd.service");
    until("it is said", || journal().contains("bailiwick.toml:1:1"));
    assert_eq!(sh("systemctl show -p NRestarts --value bailiwickd.service").1.trim(), "0");
    assert_eq!(running().len(), 2);
    host();
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_tenant_reaches_no_device_even_if_given_a_node() {
    host();
    let group = "/sys/fs/cgroup/bailiwick.slice/bailiwick-jails.service/tenants/alice/jail/cgroup.procs";
    let within = |device: &str| sh(&format!("bash -c 'echo $$ > {group}; exec head -c 1 {device}' | wc -c")).1;
    assert!(within("/dev/zero").trim().ends_with('1'));
    let text = within("/dev/vda");
    assert!(text.contains("Operation not permitted"), "{text}");
    assert_eq!(ok("head -c 1 /dev/vda | wc -c").trim(), "1", "the device itself exists");
}

/// A jail of each supported profile beside the two of `host()`, until dropped.
struct Profiles;

impl Profiles {
    fn new() -> Self {
        let made = Self;
        for profile in profiles() {
            let text = format!("plan = \"small\"\nprofile = \"{profile}\"\n");
            std::fs::write(format!("/etc/bailiwick/tenants.d/in-{profile}.toml"), text).expect("writes");
        }
        ok("bailiwick apply");
        made
    }
}

impl Drop for Profiles {
    fn drop(&mut self) {
        for profile in profiles() {
            sh(&format!("bailiwick delete in-{profile} --purge"));
        }
    }
}

/// `core(5)`: with a limit of exactly 1 byte the kernel starts no crash handler. A crash on the host proves that
/// this host has a handler.
#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_crash_inside_starts_no_handler_of_the_host() {
    host();
    let _profiles = Profiles::new();
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("reads");
    ok(
        "rm -f /run/crashes; printf '#!/bin/sh\\necho \"$1\" >> /run/crashes\\n' > /root/handler; chmod 755 /root/handler",
    );
    std::fs::write("/proc/sys/kernel/core_pattern", "|/root/handler %e").expect("writes");
    let doctor = sh("bailiwick doctor").1;
    assert!(doctor.contains("crash-handler") && doctor.contains("/root/handler"), "{doctor}");
    for profile in profiles() {
        for user in ["root", "1000"] {
            let line = format!(
                r#"bailiwick exec in-{profile} --user {user} -- sh -c 'sh -c "kill -SEGV \$\$"; echo $?' 2> /dev/null"#
            );
            assert_eq!(ok(&line), "139\n", "{profile} {user}");
        }
    }
    ok("cp /bin/sh /root/of-the-host; /root/of-the-host -c 'kill -SEGV $$' || true");
    until("the host's own crash is handled", || sh("cat /run/crashes").1.contains("of-the-host"));
    std::fs::write("/proc/sys/kernel/core_pattern", pattern.trim()).expect("writes");
    assert_eq!(ok("cat /run/crashes"), "of-the-host\n");
    ok("rm /run/crashes /root/handler /root/of-the-host");
}

/// A socket, asked for bridges and for VLANs.
const ASK_FOR_BRIDGES_AND_VLANS: &str = "perl -e 'socket(my $s, 2, 2, 0); my $r = \"\\0\" x 256; \
                                         ioctl($s, $_, $r) for 0x8940, 0x8941, 0x89a0, 0x89a1, 0x8982, 0x8983'";

/// A program with an unknown binary format. Older kernels ask for `binfmt-fffe`.
const RUN_WHAT_NOBODY_KNOWS: &str = "printf \"\\377\\377\\376\\377\" > /root/odd; chmod 755 /root/odd; perl -e 'exec {\"/root/odd\"} \"odd\"'; rm /root/odd";

/// The report of `doctor` about modules is true in every profile: a mount inside loads a module, on older kernels
/// an unknown program asks for one, and the remedy prevents both. No other request loads a module, and the same
/// requests on the host show that they would.
#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_module_that_a_tenant_requests_is_blocked_as_doctor_says() {
    host();
    let _profiles = Profiles::new();
    let doctor = sh("bailiwick doctor").1;
    assert!(doctor.contains("modules") && doctor.contains("install NAME /bin/false"), "{doctor}");
    assert!(doctor.contains("binfmt-XXXX"), "{doctor}");
    let is_loaded = |name: &str| sh(&format!("grep -q '^{name} ' /proc/modules")).0 == 0;
    let inside = |profile: &str, line: &str| sh(&format!("bailiwick exec in-{profile} -- sh -c {}", quoted(line)));

    let sockets = ["bridge", "8021q"];
    for name in sockets {
        assert!(!is_loaded(name), "{name} is loaded before anybody has asked");
        ok(&format!("modprobe -n -q {name}"));
    }
    for profile in profiles() {
        inside(profile, ASK_FOR_BRIDGES_AND_VLANS);
        assert_eq!(sockets.map(is_loaded), [false; 2], "{profile}");
    }
    sh(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups {ASK_FOR_BRIDGES_AND_VLANS}"));
    assert_eq!(sockets.map(is_loaded), [true; 2], "no user of the host may do this, so the test above proves nothing");
    ok("modprobe -r bridge 8021q");

    // The rule runs a program of the test instead of loading the module.
    let rule = "/etc/modprobe.d/odd.conf";
    std::fs::write(rule, "install binfmt-fffe /bin/touch /run/asked\n").expect("writes");
    let asked = |run: &dyn Fn()| {
        sh("rm -f /run/asked");
        run();
        std::path::Path::new("/run/asked").exists()
    };
    let on_the_host = asked(&|| drop(sh(RUN_WHAT_NOBODY_KNOWS)));
    for profile in profiles() {
        let by_a_tenant = asked(&|| drop(inside(profile, RUN_WHAT_NOBODY_KNOWS)));
        assert_eq!(by_a_tenant, on_the_host, "{profile}: what doctor says of older kernels is no longer so");
    }
    print_measurement(&format!("a program of an unknown kind asks for a module: {on_the_host}"));
    ok(&format!("rm -f {rule} /run/asked"));

    let there = |name: &&str| sh(&format!("modprobe -n -q fs-{name}")).0 == 0 && !is_loaded(name);
    let name = ["squashfs", "udf", "isofs", "f2fs", "cifs", "ceph", "hfsplus", "minix"].into_iter().find(there);
    let name = name.expect("the guest's kernel has a file system as a module that nothing has loaded");
    let ask = |profile: &str| {
        inside(profile, &format!("mount -t {name} none /mnt 2>&1; test ! -e /mnt/x"));
        is_loaded(name)
    };
    // Profiles that cannot mount load nothing.
    for profile in profiles().into_iter().filter(|profile| *profile != "system") {
        assert!(!ask(profile), "{profile}: {name}");
    }
    if !supports(Profile::System) {
        return;
    }
    let rule = format!("/etc/modprobe.d/out-{name}.conf");
    std::fs::write(&rule, format!("install {name} /bin/false\n")).expect("writes");
    assert!(!ask("system"), "{name} was loaded though its rule keeps it out");
    std::fs::remove_file(&rule).expect("removes");
    // Proves that the rule is necessary.
    assert!(ask("system"), "{name} is not loaded by a mount: what doctor says of modules is no longer so");
    ok(&format!("modprobe -r {name}"));
}

/// Quotes a line as one word of the shell.
fn quoted(line: &str) -> String {
    format!("'{}'", line.replace('\'', "'\\''"))
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn the_daily_audit_fails_when_there_is_a_finding() {
    host();
    ok("systemctl start bailiwick-audit.service");
    ok("systemctl list-timers --all | grep bailiwick-audit");
    let limit = "/sys/fs/cgroup/bailiwick.slice/bailiwick-jails.service/tenants/alice/memory.max";
    ok(&format!("echo max > {limit}"));
    assert_ne!(sh("systemctl start bailiwick-audit.service").0, 0);
    assert!(ok("journalctl -b -u bailiwick-audit.service --no-pager").contains("BW090"));
    ok("bailiwick apply; systemctl reset-failed; systemctl start bailiwick-audit.service");
}

/// A plan with a network, for one tenant.
fn give_alice_a_network() {
    let plan = ok("cat /etc/bailiwick/plans.d/small.toml") + "\n[network]\nmode = \"outbound\"\n";
    std::fs::write("/etc/bailiwick/plans.d/connected.toml", plan).expect("writes");
    std::fs::write("/etc/bailiwick/tenants.d/alice.toml", "plan = \"connected\"\n").expect("writes");
    let toml = ok("cat /etc/bailiwick/bailiwick.toml") + "network = { resolvers = [\"192.0.2.53\"] }\n";
    std::fs::write("/etc/bailiwick/bailiwick.toml", toml).expect("writes");
}

/// A removal of the package leaves nothing of the network, and the next test has none.
fn take_the_network_away() {
    ok("rm /etc/bailiwick/plans.d/connected.toml");
    ok("DEBIAN_FRONTEND=noninteractive apt-get remove -y bailiwick");
    assert_eq!(network_of_host(), (false, false, false));
    host();
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_cache_of_names_runs_while_the_policy_wants_one() {
    host();
    // A resolver behind a wire.
    let outside = Space::new();
    let pid = outside.pid();
    ok(&format!(
        "ip link add wire type veth peer name eth0 netns {pid}; ip addr add 203.0.114.1/24 dev wire; ip link set wire up"
    ));
    outside.ok("ip addr add 203.0.114.53/24 dev eth0 && ip link set eth0 up");
    let upstream = NameServer::start(&outside, [203, 0, 114, 53].into());
    give_alice_a_network();
    let cached = |cache: bool| {
        let network = format!("network = {{ resolvers = [\"203.0.114.53\"], cache = {cache} }}\n");
        let toml = "require = [\"cpu\", \"memory\", \"tasks\"]\n".to_owned() + &network;
        std::fs::write("/etc/bailiwick/bailiwick.toml", toml).expect("writes");
        ok("systemctl start bailiwick-uplink-check.service");
    };
    let state = || sh("systemctl is-active bailiwick-dns.service").1.trim().to_owned();
    cached(true);
    until("the cache runs", || state() == "active");
    ok("bailiwick apply --restart; bailiwick restart alice");
    let resolves =
        |name: &str| sh(&format!("bailiwick exec alice -- getent ahostsv4 {name}")).1.contains("203.0.115.80");
    until("a name resolves", || resolves("one.example.org"));
    assert!(resolves("one.example.org") && upstream.asked("one.example.org") == 1, "{}", journal());
    // It is the package's own program, beside the host's service.
    let unbound = || sh("pgrep -u bailiwick-dns -x unbound").1.trim().to_owned();
    let killed = unbound();
    ok(&format!("kill -9 {killed}"));
    until("a name resolves again", || unbound() != killed && resolves("two.example.org"));
    ok("systemctl stop bailiwick.target");
    assert_eq!(state(), "active", "jails that go on ask it");
    ok("systemctl start bailiwick.target bailiwickd bailiwick-warden");
    cached(false);
    until("the cache has ended", || state() == "inactive");
    assert_eq!(sh("systemctl --failed --no-legend --plain | grep bailiwick").1, "");
    ok("ip link delete wire");
    take_the_network_away();
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn removing_keeps_the_data_and_purging_asks() {
    host();
    ok("bailiwick exec alice -- sh -c 'echo precious > /home/alice/precious'");
    let found = || sh("find /var/lib/bailiwick -xdev -name precious -path '*alice*' | xargs -r cat").1;
    assert_eq!(found().trim(), "precious");
    let declared = "plan = \"small\"\ndoors = [\"exec\", \"ssh\"]\n";
    std::fs::write("/etc/bailiwick/tenants.d/alice.toml", declared).expect("writes");
    ok("bailiwick apply; ls /run/userdb/alice.user; cp /usr/libexec/bailiwick/bailiwick-init /root/bailiwick-init");
    let before = inits();
    ok("DEBIAN_FRONTEND=noninteractive apt-get remove -y bailiwick");
    assert_eq!(sh("grep -ls '\"service\":\"bailiwick\"' /run/userdb/*.user").1, "", "a user of the host is left");
    for init in before {
        let (pid, _) = init.split_once(' ').expect("two words");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "no jail without its host");
    }
    assert_eq!(found().trim(), "precious");
    assert_eq!(sh("find /sys/fs/cgroup -name 'bailiwick*'").1, "", "nothing of it is left");
    // The files of an init that still runs are not removed.
    let group = "/sys/fs/cgroup/bailiwick.slice/left";
    ok(&format!("mkdir -p {group}"));
    let line = format!("echo $$ > {group}/cgroup.procs && exec /root/bailiwick-init --hold");
    let mut left = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).spawn().expect("sh runs");
    until("it runs", || sh(&format!("readlink /proc/{}/exe", left.id())).1.trim() == "/root/bailiwick-init");
    let (status, said) = sh("DEBIAN_FRONTEND=noninteractive dpkg --purge bailiwick");
    assert!(status == 1 && said.contains("jails still run"), "{status} {said}");
    left.kill().expect("kills");
    left.wait().expect("ends");
    until("its group is empty", || {
        sh(&format!("rmdir {group}; rmdir /sys/fs/cgroup/bailiwick.slice"));
        !std::path::Path::new("/sys/fs/cgroup/bailiwick.slice").exists()
    });
    ok("rm /root/bailiwick-init");
    host();
    assert_eq!(ok("bailiwick exec alice -- cat /home/alice/precious").trim(), "precious");
    ok("DEBIAN_FRONTEND=noninteractive apt-get purge -y bailiwick");
    assert_eq!(found().trim(), "precious", "nobody said that it may go");
    host();
    assert_eq!(ok("bailiwick exec alice -- cat /home/alice/precious").trim(), "precious");
    ok("echo 'bailiwick bailiwick/purge-data boolean true' | debconf-set-selections");
    ok("DEBIAN_FRONTEND=noninteractive apt-get purge -y bailiwick");
    assert!(!std::path::Path::new("/var/lib/bailiwick").exists());
    assert!(!std::path::Path::new("/etc/bailiwick").exists());
    host();
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn events_reach_the_journal_by_fields_and_syslog_by_facility() {
    host();
    let config = "require = [\"cpu\", \"memory\", \"tasks\"]\nsyslog = true\n";
    std::fs::write("/etc/bailiwick/bailiwick.toml", config).expect("writes");
    ok("systemctl restart bailiwickd.service");
    let count = |filter: &str| sh(&format!("journalctl -b --no-pager -o cat {filter}")).1.lines().count();
    // The facilities of syslog(3): 4 is auth, 3 is daemon.
    let ways = [
        "_TRANSPORT=journal BAILIWICK_EVENT=session-opened BAILIWICK_TENANT=alice BAILIWICK_DOOR=exec SYSLOG_FACILITY=4",
        "_TRANSPORT=syslog SYSLOG_IDENTIFIER=bailiwickd SYSLOG_FACILITY=4",
        "_TRANSPORT=journal BAILIWICK_EVENT=frozen BAILIWICK_TENANT=alice SYSLOG_FACILITY=3",
        "_TRANSPORT=syslog SYSLOG_IDENTIFIER=bailiwickd SYSLOG_FACILITY=3",
    ];
    // The log daemon may be restarted meanwhile.
    for before in ["true", "systemctl restart systemd-journald.service"] {
        ok(before);
        let known = ways.map(count);
        ok("bailiwick exec alice -- true; bailiwick freeze alice; bailiwick thaw alice");
        for (way, known) in ways.iter().zip(known) {
            until(way, || count(way) > known);
        }
    }
    host();
    ok("systemctl restart bailiwickd.service");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn sshd_lets_a_tenants_clients_into_its_jail_and_nowhere_else() {
    host();
    ok("rm -f /root/key /root/key.pub; ssh-keygen -q -t ed25519 -N '' -f /root/key");
    let key = std::fs::read_to_string("/root/key.pub").expect("a key");
    let declare = |keys: &str| {
        let doors = "doors = [\"exec\", \"ssh\", \"sftp\"]";
        let text = format!("plan = \"small\"\n{doors}\n[login]\nssh_keys = [{keys}]\n");
        std::fs::write("/etc/bailiwick/tenants.d/alice.toml", text).expect("writes");
    };
    declare(&format!("{:?}", key.trim()));
    ok("bailiwick apply");
    let shown: serde_json::Value = serde_json::from_str(&ok("bailiwick show alice --json")).expect("json");
    let id = shown["host_user"].as_u64().expect("a number");
    assert_eq!(
        ok("getent passwd alice"),
        format!(
            "alice:x:{id}:{}:Tenant alice:/:/usr/bin/bailiwick-shell\n",
            ok("getent group bailiwick-tenants | cut -d: -f3").trim()
        )
    );
    assert_eq!(ok(&format!("id -un {id}; id -Gn alice")), "alice\nbailiwick-tenants\n");
    // The worst case of other configuration: sshd's internal sftp, which serves the host's files.
    ok("sed -i.before 's|^Subsystem.*|Subsystem sftp internal-sftp|' /etc/ssh/sshd_config; systemctl restart ssh");
    let ssh = |more: &str, command: &str| sh(&format!("ssh {OPTIONS} {more} alice@127.0.0.1 {command}"));

    assert_eq!(ssh("", "'id -u; pwd; echo $SSH_AUTH_SOCK; exit 7'"), (7, "1000\n/home/alice\n\n".to_owned()));
    let (status, said) = ssh("-tt", "'tty; echo $TERM'");
    assert!(status == 0 && said.contains("/dev/pts/"), "{said}");
    std::fs::write("/root/sent", vec![7_u8; 3_000_000]).expect("writes");
    ok(&format!("printf 'put /root/sent a\\nget a /root/back\\n' | sftp {OPTIONS} -b - alice@127.0.0.1"));
    ok("cmp /root/sent /root/back");
    for old in ["", "-O"] {
        ok(&format!("rm /root/back; scp {old} {OPTIONS} alice@127.0.0.1:a /root/back; cmp /root/sent /root/back"));
    }
    ok(&format!("rm /root/back; rsync -e 'ssh {OPTIONS}' alice@127.0.0.1:a /root/back; cmp /root/sent /root/back"));
    assert_eq!(ok("bailiwick exec alice -- stat -c %u:%s /home/alice/a"), "1000:3000000\n");

    // Nothing of the host is reachable: no network, no agent, no other way to authenticate.
    assert_eq!(ssh("-W 127.0.0.1:22", "").0, 255);
    assert_ne!(ssh("-o ExitOnForwardFailure=yes -R 2223:127.0.0.1:22", "true").0, 0);
    assert_ne!(ssh("-w any:any -o ExitOnForwardFailure=yes", "true").0, 0);
    assert_eq!(ssh("-A", "'echo \"$SSH_AUTH_SOCK\"'"), (0, "\n".to_owned()));
    assert_eq!(ssh("-o SetEnv=LD_PRELOAD=/x -o SendEnv=*", "'echo \"$LD_PRELOAD\"'"), (0, "\n".to_owned()));
    assert_eq!(ssh("-o PubkeyAuthentication=no", "true").0, 255);
    assert_ne!(
        sh("sshpass -p secret ssh -o StrictHostKeyChecking=no -o PubkeyAuthentication=no alice@127.0.0.1 id").0,
        0
    );
    // sshd reads no file of the tenant, whatever the host's configuration says about such files.
    ok(
        "bailiwick exec alice --user alice -- sh -c 'mkdir -p ~/.ssh; echo \"touch /tmp/rc-ran\" > ~/.ssh/rc; echo EVIL=1 > ~/.ssh/environment'",
    );
    ok("sed -i '1i PermitUserEnvironment yes\\nPermitUserRC yes' /etc/ssh/sshd_config; sshd -t; systemctl restart ssh");
    assert_eq!(ssh("", "'echo \"$EVIL\"; ls /tmp/rc-ran 2> /dev/null'"), (2, "\n".to_owned()));
    assert!(!std::path::Path::new("/tmp/rc-ran").exists());
    // A subsystem is served in the jail or refused.
    for name in ["../../../bin/sh", "/bin/sh", "internal-sftp", "sftp /root", "-s"] {
        let (status, said) = sh(&format!("ssh {OPTIONS} -s alice@127.0.0.1 '{name}' < /dev/null"));
        assert!(status != 0 && !said.contains("root"), "{name}: {status} {said}");
    }
    let (_, said) = ssh("", "'cat /etc/bailiwick/bailiwick.toml /root/key; ls /var/lib/bailiwick'");
    assert!(!said.contains("require") && !said.contains("PRIVATE") && !said.contains("tenants"), "{said}");
    assert!(
        sh("journalctl -b -u bailiwickd BAILIWICK_DOOR=sftp BAILIWICK_SOURCE=127.0.0.1 -o cat").1.contains("alice")
    );

    // While a session is open, the processes of sshd and systemd for it on the host are no strays: they have no id
    // of the jail.
    let (_, held) = sh(&format!("ssh {OPTIONS} alice@127.0.0.1 'sleep 60' > /dev/null 2>&1 & echo $!"));
    until("it is in", || ok("bailiwick exec alice -- pgrep -c sleep || true").trim() == "1");
    ok("bailiwick audit alice");
    let sessions: serde_json::Value = serde_json::from_str(&ok("bailiwick sessions alice --json")).expect("json");
    let proved = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert!(sessions[0]["key"] == proved && sessions[0]["source"] == "127.0.0.1", "{sessions}");
    ok("bailiwick sessions kill --tenant alice --reason 'maintenance at six'");
    until("its client has ended", || sh(&format!("kill -0 {held}")).0 != 0);

    // A door that cannot jail does not open, and a removed key opens none.
    ok("bailiwick suspend alice --reason 'invoice 17'");
    let (status, said) = ssh("", "true");
    assert!(status == 5 && said.contains("invoice 17"), "{status} {said}");
    ok("bailiwick unsuspend alice; systemctl stop bailiwickd.socket bailiwickd.service");
    assert_ne!(ssh("", "id").0, 0);
    ok("systemctl start bailiwickd.socket bailiwickd.service");
    until("it is back", || ssh("", "true").0 == 0);
    // A removed key opens no door, and with `--now` its sessions end.
    let (_, held) = sh(&format!("ssh {OPTIONS} alice@127.0.0.1 'sleep 60' > /dev/null 2>&1 & echo $!"));
    until("it is in", || ok("bailiwick sessions").contains("sleep 60"));
    declare("");
    assert_eq!(ssh("", "true").0, 255);
    ok("bailiwick apply; bailiwick sessions | grep -q 'sleep 60'");
    assert_eq!(ok("bailiwick apply --now"), "alice: sessions ended: 1\n");
    until("its client has ended", || sh(&format!("kill -0 {held}")).0 != 0);
    ok("bailiwick audit alice");

    // A tenant without a door through sshd, or a deleted one, has no host user; existing users of the host keep
    // their ids. No user manager is left running or failed.
    let units = ok("systemctl list-units --all --no-legend --plain 'user@*.service'");
    let own = ok("id -u alice").trim().to_owned();
    assert!(!units.contains(&format!("user@{own}.service")), "{units}");
    std::fs::write("/etc/bailiwick/tenants.d/alice.toml", "plan = \"small\"\ndoors = [\"exec\"]\n").expect("writes");
    ok("bailiwick apply; ! getent passwd alice; ! ls /run/userdb/alice.user");
    std::fs::write("/etc/bailiwick/tenants.d/daemon.toml", "plan = \"small\"\ndoors = [\"ssh\"]\n").expect("writes");
    let (status, said) = sh("bailiwick apply daemon 2>&1");
    assert!(status == 4 && said.contains("rename the tenant"), "{status} {said}");
    ok("getent passwd daemon | grep -q ^daemon:x:1:; bailiwick delete daemon --purge");
    ok("mv /etc/ssh/sshd_config.before /etc/ssh/sshd_config; systemctl restart ssh");
}

/// A login that waits for the exit status with which to end.
struct Login(Child);

impl Login {
    /// Starts a login over one of a tenant's connections: sshd allows ten sessions per connection, and each takes a
    /// second to start here.
    fn begin(tenant: &str, connection: usize) -> Self {
        let shared = format!("-o ControlMaster=auto -o ControlPath=/run/crowd-{connection}-%r -o ControlPersist=yes");
        let line = format!("exec ssh {OPTIONS} {shared} {tenant}@127.0.0.1 'echo in; read status; exit $status'");
        let mut command = Command::new("bash");
        command.args(["-c", &line]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().expect("bash runs"))
    }

    fn is_in(&mut self) {
        let mut said = [0; 3];
        std::io::Read::read_exact(self.0.stdout.as_mut().expect("a pipe"), &mut said).expect("it is logged in");
        assert_eq!(&said, b"in\n");
    }

    fn end(mut self, status: u8) {
        let told = format!("{status}\n");
        self.0.stdin.as_mut().expect("a pipe").write_all(told.as_bytes()).expect("it reads");
        assert_eq!(self.0.wait().expect("ends").code(), Some(i32::from(status)), "{}", journal());
    }
}

const OPTIONS: &str =
    "-i /root/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";

/// A client that logs in and does nothing. (A client with a rate limit reads existing data at once.)
const STAY: &str = r#"
import ftplib, ssl, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
ftp = ftplib.FTP_TLS(context=context)
ftp.connect("127.0.0.1", 21, 60)
ftp.login("blog@alice", "open sesame")
print("in", flush=True)
time.sleep(500)
"#;

/// The servers with the configuration of the package, under systemd.
#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn ftp_servers_let_tenants_into_their_jails() {
    host();
    ok(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout /etc/ftp.pem -out /etc/ftp.crt 2> /dev/null",
    );
    let hash = ok("echo 'open sesame' | bailiwick password");
    let logins = format!(
        "doors = [\"exec\", \"ftp\"]\n[[ftp]]\nname = \"all\"\npassword = \"{0}\"\n[[ftp]]\nname = \"blog\"\npassword = \"{0}\"\n\
         directory = \"blog\"\nsessions = 1\n",
        hash.trim()
    );
    std::fs::write("/etc/bailiwick/tenants.d/alice.toml", format!("plan = \"small\"\n{logins}")).expect("writes");
    ok("bailiwick apply; bailiwick exec alice --user alice -- mkdir -p /home/alice/blog");
    let examples = "/usr/share/doc/bailiwick/examples/ftp";
    for (server, file, unit) in
        [("vsftpd", "/etc/vsftpd.conf", "vsftpd.service"), ("proftpd", "/etc/proftpd/proftpd.conf", "proftpd.service")]
    {
        let certificate = "s,/etc/ssl/certs/ssl-cert-snakeoil.pem,/etc/ftp.crt,; s,/etc/ssl/private/ssl-cert-snakeoil.key,/etc/ftp.pem,";
        ok(&format!("sed '{certificate}' {examples}/{server}.conf > {file}; systemctl restart {unit}"));
        let curl = |user: &str, more: &str| {
            sh(&format!("curl -sS --ssl-reqd -k --tls-max 1.2 --disable-epsv -m 60 --user '{user}:open sesame' {more}"))
        };
        until("the server to listen", || sh("ss -Hltn | grep -q ':21 '").0 == 0);
        ok("head -c 100000 /dev/urandom > /tmp/sent");
        assert_eq!(
            curl("blog@alice", "-T /tmp/sent ftp://127.0.0.1/file"),
            (0, String::new()),
            "{server}\n{}",
            journal()
        );
        ok("cmp /tmp/sent <(bailiwick exec alice -- cat /home/alice/blog/file)");
        assert_eq!(ok("bailiwick exec alice -- stat -c '%u %g' /home/alice/blog/file"), "1000 1000\n");
        assert_eq!(curl("all@bob", "ftp://127.0.0.1/").0, 67, "{server}");
        // lftp with its default TLS version, both ways.
        let lftp =
            "set ssl:verify-certificate no; set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set net:max-retries 1";
        ok(&format!(
            "lftp -u 'all@alice,open sesame' -e '{lftp}; put /tmp/sent -o other; get other -o /tmp/back; rm other; bye' 127.0.0.1"
        ));
        ok("cmp /tmp/sent /tmp/back; rm /tmp/back");
        // An open session survives a restart, and the audit and the next daemon see it.
        std::fs::write("/tmp/stay.py", STAY).expect("writes");
        let client = ok("python3 /tmp/stay.py > /tmp/stay 2>&1 & echo $!");
        until("only one session to be open", || sh("cat /tmp/stay").1 == "in\n" && count_sessions() == 1);
        ok("systemctl restart bailiwickd bailiwick-warden");
        let is_known = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            count_sessions() == 1
        });
        let why = || sh("cat /tmp/stay; journalctl -b --no-pager -o short-monotonic | tail -n 60").1;
        assert!(is_known, "{server}: {}", why());
        let (status, said) = sh("bailiwick audit alice");
        assert_eq!(status, 0, "{said}");
        assert_eq!(curl("blog@alice", "ftp://127.0.0.1/").0, 67, "{server}: the second by a login for one");
        ok("bailiwick sessions kill --tenant alice");
        until("it to end", || count_sessions() == 0);
        sh(&format!("kill {client}"));
        ok(&format!("systemctl stop {unit}"));
    }
    ok("bailiwick exec alice -- rm -r /home/alice/blog; rm /tmp/sent");
    std::fs::write("/etc/bailiwick/tenants.d/alice.toml", "plan = \"small\"\n").expect("writes");
    ok("bailiwick apply");
}

/// The number of open sessions, as counted by the daemon.
fn count_sessions() -> usize {
    let (status, text) = sh("bailiwick sessions --json");
    let list = serde_json::from_str::<serde_json::Value>(&text).ok();
    list.filter(|_| status == 0).and_then(|list| Some(list.as_array()?.len())).unwrap_or(usize::MAX)
}

/// All are open at once, a killed daemon loses none, and each ends with its own exit status.
fn check_crowd(what: &str, tenants: &[String], each: usize) {
    let begin = Instant::now();
    let mut logins = Vec::new();
    for number in 0..each {
        // In batches: sshd drops connections from too many unauthenticated clients.
        for some in tenants.chunks(5) {
            let mut fresh: Vec<Login> = some.iter().map(|tenant| Login::begin(tenant, number / 10)).collect();
            fresh.iter_mut().for_each(Login::is_in);
            logins.append(&mut fresh);
        }
    }
    let entered = begin.elapsed();
    let all = tenants.len() * each;
    assert_eq!(count_sessions(), all);
    // One more emergency session can start, and only one.
    let mut last = Login::begin(&tenants[0], each / 10);
    last.is_in();
    let (status, said) = sh(&format!("ssh {OPTIONS} {}@127.0.0.1 true", tenants[0]));
    assert!(status == 6 && said.contains(&format!("may have {each}")), "{status} {said}");
    last.end(0);
    until("the additional session has ended", || count_sessions() == all);
    let rss = ok(&format!("awk '/^VmRSS/ {{ print $2 }}' /proc/{}/status", main_pid("bailiwickd.service")));
    ok("systemctl kill -s KILL bailiwickd");
    let killed = Instant::now();
    until("all are known again", || count_sessions() == all);
    print_measurement(&format!(
        "{what}: {all} sessions, each in after {} ms, bailiwickd {} KiB; all known {} ms after its kill -9",
        entered.as_millis() / all as u128,
        rss.trim(),
        killed.elapsed().as_millis()
    ));
    for (index, login) in logins.into_iter().enumerate() {
        login.end(u8::try_from(index % 200).expect("small"));
    }
    until("all have left", || count_sessions() == 0);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_crowd_of_sessions_is_open_at_once_and_none_is_lost() {
    host();
    ok("test -e /root/key || ssh-keygen -q -t ed25519 -N '' -f /root/key; systemctl restart ssh");
    let key = std::fs::read_to_string("/root/key.pub").expect("a key");
    let write = |path: String, text: String| std::fs::write(path, text).expect("writes");
    let declare = |tenants: &[String], sessions: usize| {
        let limits = format!("[limits]\nsessions = {sessions}\ntasks = 500\nmemory = \"256M\"\ndisk = \"unlimited\"\n");
        write(
            "/etc/bailiwick/plans.d/crowd.toml".to_owned(),
            format!("profile = \"web\"\ndoors = [\"exec\", \"ssh\"]\n{limits}"),
        );
        for tenant in tenants {
            let text = format!("plan = \"crowd\"\n[login]\nssh_keys = [{:?}]\n", key.trim());
            write(format!("/etc/bailiwick/tenants.d/{tenant}.toml"), text);
        }
        ok("bailiwick apply");
    };
    let one = ["one".to_owned()];
    declare(&one, 100);
    check_crowd("one tenant", &one, repeats(50, 100));
    let many: Vec<String> = (0..repeats(20, 50)).map(|number| format!("crowd{number}")).collect();
    declare(&many, 10);
    check_crowd(&format!("{} tenants", many.len()), &many, repeats(5, 10));
    ok("bailiwick audit");
    for tenant in many.iter().chain(&one) {
        sh(&format!("for path in /run/crowd-*-{tenant}; do ssh -o ControlPath=$path -O exit {tenant}@127.0.0.1; done"));
        ok(&format!("bailiwick delete {tenant} --purge"));
    }
    ok("rm /etc/bailiwick/plans.d/crowd.toml");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_transfer_of_a_gigabyte_survives_the_death_of_bailiwickd() {
    host();
    ok("test -e /root/key || ssh-keygen -q -t ed25519 -N '' -f /root/key; systemctl restart ssh");
    let key = std::fs::read_to_string("/root/key.pub").expect("a key");
    let text = format!("plan = \"small\"\n[login]\nssh_keys = [{:?}]\n", key.trim());
    std::fs::write("/etc/bailiwick/tenants.d/alice.toml", text).expect("writes");
    ok("bailiwick apply");
    ok("head -c 1G /dev/urandom > /root/sent");
    let line = format!("printf 'put /root/sent a\n' | sftp {OPTIONS} -b - alice@127.0.0.1");
    let mut transfer = Command::new("bash").args(["-c", &line]).stdout(Stdio::null()).spawn().expect("bash runs");
    let mut kills = 0;
    while transfer.try_wait().expect("waits").is_none() {
        ok("systemctl kill -s KILL bailiwickd; systemctl reset-failed bailiwickd");
        kills += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(transfer.wait().expect("ends").success(), "{}", journal());
    assert!(kills > 3, "it was too fast to be disturbed: {kills}");
    ok(
        "bailiwick exec alice -- cat /home/alice/a | cmp - /root/sent; bailiwick exec alice -- rm /home/alice/a; rm /root/sent",
    );
    print_measurement(&format!("1 GiB by sftp: whole, with bailiwickd killed {kills} times"));
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn timer_runs_are_known_to_the_next_bailiwickd() {
    host();
    let declare = |schedule: &str| {
        let command = "command = [\"/bin/sh\", \"-c\", \"exit 3\"]";
        let timer = format!("[[timer]]\nname = \"often\"\nschedule = \"{schedule}\"\n{command}\n");
        std::fs::write("/etc/bailiwick/tenants.d/alice.toml", format!("plan = \"small\"\n{timer}")).expect("writes");
        ok("bailiwick apply");
    };
    declare("*:*:0/5");
    let last = || -> serde_json::Value {
        let timers: serde_json::Value = serde_json::from_str(&ok("bailiwick timers alice --json")).expect("json");
        timers[0]["last"].clone()
    };
    until("it is run", || last()["status"] == 3);
    declare("yearly");
    until("the last run has ended", || last()["ended"].is_u64());
    let before = last();
    ok("systemctl restart bailiwickd");
    assert_eq!(last(), before);
    assert!(!journal().contains("timers-not-kept"), "{}", journal());
    host();
}
