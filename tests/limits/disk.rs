//! Disk limits of tenants: by project quotas on XFS and ext4, by quota groups on btrfs (THREATS V51 to V55).
//!
//! If the directory for temporary files has quotas, it is used; otherwise a btrfs with quotas on a loop device.
//! Features that btrfs does not have are skipped by name, and tested where project quotas exist.

use bailiwick_proto::{WardenReply, WardenRequest};
use bailiwick_tests::{Host, Pool, name, profiles, supports, until};
use bailiwick_types::{DiskFact, Profile, QuotaFacts};
use serde_json::Value;
use std::io::Write;
use std::time::{Duration, SystemTime};

const MIB: u64 = 1 << 20;

/// A host with quotas, and its file system if that was created for it.
struct Bounded {
    host: Host,
    kind: QuotaFacts,
    _pool: Option<Pool>,
}

/// A host with a tenant of each supported profile, each with a disk limit of 16 MiB.
fn bounded(limits: &str) -> Bounded {
    bounded_on(None, limits)
}

/// The same on a separate file system, so that no other test changes its free space.
fn bounded_alone(limits: &str) -> Bounded {
    let probe = Host::new();
    let projects =
        bailiwick_observe::host_facts(&probe.path("state")).expect("facts").storage.quota == QuotaFacts::Projects;
    bounded_on(Some(if projects { Pool::ext4_with_quotas() } else { Pool::btrfs() }), limits)
}

fn bounded_on(pool: Option<Pool>, limits: &str) -> Bounded {
    let kind = |host: &Host| {
        let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
        facts.storage.quota
    };
    // Dropped after the host on it.
    let mut pool = pool;
    let mut host = pool.as_ref().map_or_else(Host::new, |pool| Host::within(pool.path()));
    if !kind(&host).bounds_anything() {
        let made = Pool::btrfs();
        host = Host::within(made.path());
        pool = Some(made);
    }
    let kind = kind(&host);
    assert!(kind.bounds_anything(), "{kind:?}");
    let config = host.default_config("reserve = { disk = \"1M\" }\n").replace("\"tasks\"]", "\"tasks\", \"disk\"]");
    host.write("etc/bailiwick.toml", &config);
    for profile in profiles() {
        let text = format!("plan = \"{profile}\"\ndoors = [\"exec\", \"ssh\"]\n[limits]\n{limits}\n");
        host.write(&format!("etc/tenants.d/{profile}.toml"), &text);
    }
    host.start();
    host.ok(&["apply"]);
    Bounded { host, kind, _pool: pool }
}

/// Whether the file system has project quotas. If not, prints what is skipped.
fn has_projects(bounded: &Bounded) -> bool {
    let has = bounded.kind == QuotaFacts::Projects;
    if !has {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(std::io::stderr(), "{test}: NOT on btrfs: it has nothing of the kind").ok();
    }
    has
}

impl Bounded {
    fn fact(&self, tenant: &str) -> DiskFact {
        // btrfs updates its counters at a commit.
        std::process::Command::new("sync").args(["-f"]).arg(self.host.path("state")).status().expect("sync runs");
        match self.host.warden(&WardenRequest::Disks) {
            WardenReply::Disks(disks) => *disks.get(&name(tenant)).expect("a tenant with storage"),
            other => panic!("{other:?}"),
        }
    }

    fn used(&self, tenant: &str) -> u64 {
        self.fact(tenant).bytes.used
    }

    /// Runs a shell line that must not be able to write more than the limit.
    fn fills(&self, tenant: &str, line: &str) -> String {
        let (status, _, err) = self.host.inside(tenant, line);
        assert_ne!(status, 0, "{tenant}: {line}");
        assert!(err.contains("quota exceeded") || err.contains("No space left"), "{tenant}: {line}: {err}");
        err
    }

    fn row(&self, tenant: &str, resource: &str) -> Value {
        let output = self.host.cli(&["audit", tenant, "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let limits = report["tenants"][0]["limits"].as_array().expect("limits").clone();
        limits.into_iter().find(|limit| limit["resource"] == resource).unwrap_or_else(|| panic!("{resource}: {report}"))
    }
}

#[test]
fn a_tenant_stops_at_its_limit_and_its_neighbour_is_not_affected() {
    let bounded = bounded("disk = \"16M\"");
    for tenant in profiles() {
        bounded.fills(tenant, "head -c 40M /dev/zero > /home/big");
        let fact = bounded.fact(tenant);
        assert!(fact.charged && fact.bytes.hard == Some(16 * MIB), "{fact:?}");
        assert!((15 * MIB..=16 * MIB).contains(&fact.bytes.used), "{tenant}: {fact:?}");
        let row = bounded.row(tenant, "disk");
        assert_eq!((row["enforced"].as_str(), row["verdict"].as_str()), (Some("16M"), Some("enforced")), "{row}");
    }
    // A tenant at its disk limit can log in, look around and free space.
    bounded.host.write_ssh();
    for tenant in profiles() {
        let output = bounded.host.ssh(&[tenant, "df -h /home; ls -l /home/big && history -w; echo in"]).output();
        let output = output.expect("runs");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("in\n"), "{tenant}: {output:?}");
    }
    // Each of the tenants is full, and none affected another.
    let (status, ..) = bounded.host.inside("web", "rm /home/big && sync && head -c 10M /dev/zero > /home/again");
    assert_eq!(status, 0, "space that was given back can be used");
    assert!(bounded.used("shell") >= 15 * MIB);
}

#[test]
fn a_limit_changes_while_the_jail_runs() {
    let bounded = bounded("disk = \"16M\"");
    let host = &bounded.host;
    let pid = |text: String| serde_json::from_str::<Value>(&text).expect("JSON")["pid"].clone();
    let before = pid(host.ok(&["show", "web", "--json"]));
    bounded.fills("web", "head -c 20M /dev/zero > /home/big");
    host.write("etc/tenants.d/web.toml", "plan = \"web\"\n[limits]\ndisk = \"32M\"\n");
    let plan = host.cli(&["plan", "web"]);
    assert_eq!(plan.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&plan.stdout).contains("limits.disk"));
    host.ok(&["apply", "web"]);
    assert_eq!(host.cli(&["plan", "web"]).status.code(), Some(0));
    assert_eq!(host.inside("web", "head -c 20M /dev/zero > /home/big").0, 0);
    // Below the usage: nothing more can be written, and the audit says why.
    host.write("etc/tenants.d/web.toml", "plan = \"web\"\n[limits]\ndisk = \"8M\"\n");
    host.ok(&["apply", "web"]);
    bounded.fills("web", "head -c 1M /dev/zero > /home/more");
    bounded.used("web");
    assert!(host.ok(&["audit", "web"]).contains("BW095"));
    host.write("etc/tenants.d/web.toml", "plan = \"web\"\n");
    host.ok(&["apply", "web"]);
    assert_eq!(bounded.fact("web").bytes.hard, None);
    assert_eq!(host.inside("web", "head -c 64M /dev/zero > /home/big").0, 0);
    assert_eq!(before, pid(host.ok(&["show", "web", "--json"])), "the jail was not restarted");
}

/// Ways to hold space that a naive count misses, each a shell line that leaves 6 MiB.
const TRICKS: &[(&str, &str)] = &[
    ("a hard link", "head -c 6M /dev/zero > /home/a && ln /home/a /var/b && rm /home/a"),
    ("a rename", "head -c 6M /dev/zero > /home/a && mkdir -p /home/deep/er && mv /home/a /home/deep/er"),
    ("beyond the end", "perl -e 'open F, \">\", \"/home/a\"; syscall(285, fileno F, 1, 0, 6 << 20) == 0 or die $!'"),
    (
        "a file without a name",
        "perl -e 'my ($home, $to, $x) = (\"/home\", \"/home/linked\", \"x\" x (6 << 20)); \
         my $fd = syscall(257, -100, $home, 0x410002, 0600); die $! if $fd < 0; open F, \">&=\", $fd; \
         syscall(1, $fd, $x, 6 << 20) == 6 << 20 or die $!; my $from = \"/proc/self/fd/$fd\"; \
         syscall(265, -100, $from, -100, $to, 0x400) == 0 or die $!'",
    ),
    (
        "many directories",
        "cd /var && for i in $(seq 1536); do mkdir d$i || exit 1; done; head -c 3M /dev/zero > /var/f",
    ),
    ("a sparse copy", "cd /var/tmp && head -c 6M /dev/urandom > a && cp --sparse=always a b && rm a"),
];

/// What a count may differ by although nobody wrote a file: btrfs charges the nodes of its trees (16 KiB each) as
/// well, and those become fewer when many names have gone.
const NODES: u64 = MIB / 2;

#[test]
fn no_trick_holds_space_that_is_not_charged() {
    let bounded = bounded("disk = \"64M\"");
    for tenant in profiles() {
        let idle = bounded.used(tenant);
        for (trick, line) in TRICKS {
            let before = bounded.used(tenant);
            let (status, _, err) = bounded.host.inside(tenant, line);
            if status != 0 && err.contains("cross-device") {
                // Two of its directories are different mounts, so nothing was moved in that case either.
                assert!(bounded.host.inside(tenant, "rm -rf /home/a").0 == 0);
                continue;
            }
            assert_eq!(status, 0, "{tenant}: {trick}: {err}");
            let grown = bounded.used(tenant).saturating_sub(before);
            let expected = if *trick == "many directories" { 3 * MIB } else { 6 * MIB };
            assert!(grown + NODES >= expected, "{tenant}: {trick}: only {grown} more");
        }
        let clean = "rm -rf /home/a /home/deep /home/linked /var/b /var/d* /var/f /var/tmp/a /var/tmp/b; sync";
        bounded.host.inside(tenant, clean);
        until("what was deleted is given back", || bounded.used(tenant) <= idle + NODES);
        // A deleted file is charged as long as it is open.
        let held = "exec 9<> /home/held; head -c 6M /dev/zero >&9; rm /home/held; sync; cat > /dev/null";
        let mut child = std::process::Command::new(bailiwick_tests::stage().join("bailiwick"))
            .args(["exec", "--config"])
            .arg(bounded.host.path("etc"))
            .args([tenant, "--", "sh", "-c", held])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("runs");
        until("a file without a name is counted", || bounded.used(tenant) + NODES >= idle + 6 * MIB);
        drop(child.stdin.take());
        child.wait().expect("ends");
    }
    // Shared extents are charged once for each file (XFS) or once for the tenant (btrfs), but never not at all.
    let reflink =
        "cd /home && head -c 30M /dev/urandom > a && for i in 1 2 3 4 5 6; do cp --reflink=auto a b$i || exit 1; done";
    bounded.host.inside("web", reflink);
    assert!((30 * MIB..=64 * MIB).contains(&bounded.used("web")), "{}", bounded.used("web"));
}

#[test]
fn files_copied_up_from_the_image_are_charged_to_the_tenant() {
    if !supports(Profile::System) {
        return;
    }
    let bounded = bounded("disk = \"64M\"");
    let before = bounded.used("system");
    let line = "cd /usr/bin && for file in bash perl; do chmod u+x $file && : >> $file; done; stat -c %s bash perl";
    let (status, out, err) = bounded.host.inside("system", line);
    assert_eq!(status, 0, "{err}");
    let size: u64 = out.lines().map(|line| line.parse::<u64>().expect("a size")).sum();
    assert!(bounded.used("system") >= before + size, "{before} + {size}: {}", bounded.used("system"));
}

#[test]
fn the_owner_of_a_file_cannot_take_it_out_of_the_quota() {
    let bounded = bounded("disk = \"64M\"");
    // FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR: another project id, none, and inheritance off. And a subvolume,
    // which would be counted separately.
    let line = r#"
        for user in 0 1000; do
            for change in 'substr($x, 12, 4) = pack "L", 0' 'substr($x, 12, 4) = pack "L", 7' 'substr($x, 0, 4) = pack "L", 0'; do
                setpriv --reuid $user --regid $user --clear-groups perl -e '
                    mkdir "/home/d$$"; opendir D, "/home/d$$" or die; my $x = "\0" x 28;
                    sysopen F, "/home/d$$", 0x10000 or die "open $!";
                    if (ioctl(F, 0x801c581f, $x)) {
                        my $was = $x; eval $ARGV[0]; ioctl(F, 0x401c5820, $x) and $x ne $was and print "changed @ARGV\n";
                    }
                    my $name = pack("q", 0) . "sub" . "\0" x 4085;
                    ioctl(F, 0x5000940e, $name) and print "a subvolume\n";' "$change"
            done
        done"#;
    for tenant in profiles() {
        let open = bounded.host.inside(tenant, "chmod 1777 /home; command -v setpriv");
        assert_eq!(open.0, 0, "{open:?}");
        let (_, out, err) = bounded.host.inside(tenant, line);
        assert_eq!(out, "", "{tenant}: {err}");
        assert!(!err.contains("open"), "{tenant}: {err}");
    }
}

#[test]
fn every_place_that_can_be_written_is_charged() {
    let bounded = bounded("disk = \"64M\"");
    for tenant in profiles() {
        let (_, mounts, _) = bounded.host.inside(tenant, "cut -d' ' -f5 /proc/self/mountinfo | sort -u");
        let mut places = 0;
        for place in mounts.lines() {
            let file = format!("{}/.charged", place.trim_end_matches('/'));
            let memory = || bounded.row(tenant, "memory")["used"].as_u64().expect("a number");
            let (disk, held) = (bounded.used(tenant), memory());
            let (status, ..) =
                bounded.host.inside(tenant, &format!("[ -d '{place}' ] && head -c 2M /dev/urandom > '{file}'"));
            let (disk, held) = (bounded.used(tenant).saturating_sub(disk), memory().saturating_sub(held));
            let (_, size, _) = bounded.host.inside(tenant, &format!("stat -c %s '{file}' && rm '{file}'"));
            let written: u64 = size.trim().parse().unwrap_or(0);
            if written >= MIB {
                places += 1;
                // The page cache varies, so data on disk must be charged to the disk. Memory is charged in batches,
                // one of which each processor may hold in advance.
                assert!(disk.max(held) >= written * 3 / 4, "{tenant}: {place}: {disk} on disk, {held} in memory");
            } else {
                assert!(status != 0 && written <= 64 << 10, "{tenant}: {place}: {written}");
            }
        }
        assert!(places >= 4, "{tenant}: only {places} of\n{mounts}");
    }
}

#[test]
fn df_shows_a_tenant_its_own_limit() {
    let bounded = bounded("disk = \"64M\"\ninodes = \"5k\"");
    if !has_projects(&bounded) {
        return;
    }
    for (tenant, place) in [("web", "/home"), ("shell", "/var"), ("system", "/")] {
        if profiles().contains(&tenant) {
            let (_, out, _) =
                bounded.host.inside(tenant, &format!("df -k --output=size {place}; df --output=itotal {place}"));
            let numbers: Vec<u64> = out.lines().filter_map(|line| line.trim().parse().ok()).collect();
            assert_eq!(numbers, [64 << 10, 5000], "{tenant}: {out}");
        }
    }
}

#[test]
fn a_full_disk_costs_lines_of_a_log_and_no_service() {
    let bounded = bounded("disk = \"16M\"");
    let service = "[[service]]\nname = \"loud\"\nlog = { size = \"64K\", keep = 1 }\n\
                   command = [\"/bin/sh\", \"-c\", \"while :; do echo $$ $(date +%s.%N); sleep 0.01; done\"]\n";
    let file = bounded.host.path("etc/tenants.d/web.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    std::fs::write(&file, text + service).expect("writes");
    bounded.host.ok(&["apply"]);
    let log = "cat /home/web/.local/state/services/loud.log*";
    let last = || bounded.host.inside("web", &format!("{log} | sort | tail -n 1")).1.trim().to_owned();
    until("it logs", || !last().is_empty());
    let report = || {
        let shown: Value =
            serde_json::from_str(&bounded.host.ok(&["service", "status", "web", "--json"])).expect("JSON");
        shown[0]["services"][0]["report"].clone()
    };
    let before = report();
    bounded.fills("web", "head -c 40M /dev/zero > /home/big; while echo x; do :; done >> /home/big; exit 1");
    until("no line fits any more", || {
        let seen = last();
        std::thread::sleep(Duration::from_secs(1));
        last() == seen
    });
    assert_eq!(bounded.host.inside("web", "rm /home/big && sync").0, 0);
    let full = last();
    until("it logs again", || last() != full);
    let after = report();
    assert_eq!((&after["pid"], &after["state"]), (&before["pid"], &before["state"]), "{after}");
    let dropped = bounded.host.inside("web", &format!("{log} | grep -c dropped")).1;
    assert_ne!(dropped.trim(), "0", "what is missing is told");
}

#[test]
fn a_tenant_stops_at_its_limit_of_inodes() {
    let bounded = bounded("disk = \"64M\"\ninodes = \"1k\"");
    if !has_projects(&bounded) {
        return;
    }
    bounded.fills("web", "cd /home && for i in $(seq 1100); do : > f$i || exit 1; done");
    let row = bounded.row("web", "inodes");
    assert_eq!((row["used"].as_u64(), row["enforced"].as_str()), (Some(1000), Some("1k")), "{row}");
    assert_eq!(bounded.host.inside("shell", "echo x > /home/x").0, 0);
}

#[test]
fn a_soft_limit_holds_after_the_tenants_own_time_of_grace() {
    let bounded = bounded("disk = \"16M\"");
    if !has_projects(&bounded) {
        return;
    }
    let text = "plan = \"web\"\n[limits]\ndisk = \"8M:16M\"\ndisk_grace = \"1m\"\n";
    bounded.host.write("etc/tenants.d/web.toml", text);
    bounded.host.ok(&["apply", "web"]);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let before = now();
    assert_eq!(bounded.host.inside("web", "head -c 10M /dev/zero > /home/a; sync").0, 0);
    let after = now();
    let until = bounded.fact("web").bytes.grace_until.expect("the limit is exceeded");
    assert!((before + 59..=after + 61).contains(&until), "{until} is not a minute after {before} or {after}");
    assert_eq!(bounded.fact("web").bytes.grace_until, Some(until), "a second look changes nothing");
    assert_eq!(bounded.host.inside("web", "head -c 1M /dev/zero > /home/b; sync").0, 0);
    while now() <= until {
        std::thread::sleep(Duration::from_millis(500));
    }
    bounded.fills("web", "head -c 1M /dev/zero > /home/c");
    assert_eq!(bounded.host.inside("web", "rm /home/a /home/b; sync; head -c 1M /dev/zero > /home/c").0, 0);
}

#[test]
fn a_hit_of_a_disk_limit_is_told_by_the_kernel() {
    let bounded = bounded("disk = \"16M\"");
    if !has_projects(&bounded) {
        return;
    }
    bounded.host.write("etc/tenants.d/web.toml", "plan = \"web\"\n[limits]\ndisk = \"8M:16M\"\n");
    bounded.host.ok(&["apply", "web"]);
    assert_eq!(bounded.host.inside("web", "head -c 10M /dev/zero > /home/a; sync").0, 0);
    until("the soft limit", || bounded.host.log().contains("web has passed its soft limit of disk"));
    bounded.fills("web", "head -c 20M /dev/zero > /home/b");
    let incidents = || -> Value { serde_json::from_str(&bounded.host.ok(&["incidents", "--json"])).expect("JSON") };
    until("the hard one", || incidents().as_array().is_some_and(|rows| !rows.is_empty()));
    let rows = incidents();
    assert_eq!(
        (&rows[0]["tenant"], &rows[0]["kind"], rows.as_array().map(Vec::len)),
        (&"web".into(), &"disk".into(), Some(1))
    );
}

#[test]
fn uncharged_files_are_reported_and_charged_by_the_next_start() {
    let bounded = bounded("disk = \"64M\"");
    if !has_projects(&bounded) {
        return;
    }
    let host = &bounded.host;
    let line = "cd /home; head -c 3M /dev/zero > a; i=0; while [ $i -lt 40 ]; do mkdir d; cd d; i=$((i+1)); done; \
                head -c 3M /dev/zero > b; ln -s /etc/passwd link; mkfifo pipe; sync";
    assert_eq!(host.inside("web", line).0, 0);
    let before = bounded.used("web");
    host.ok(&["stop", "web"]);
    let dir = host.path("state/tenants/web");
    let chattr = std::process::Command::new("chattr").args(["-R", "-p", "0", "-P"]).arg(&dir).output().expect("runs");
    // Symlinks and pipes have no attributes; all other files are uncharged now.
    assert!(bounded.used("web") < MIB, "{chattr:?}");
    assert!(!bounded.fact("web").charged);
    assert!(host.ok(&["show", "web"]).contains("breached"));
    host.ok(&["start", "web"]);
    assert!(bounded.fact("web").charged);
    assert!(bounded.used("web") + (64 << 10) >= before, "{} of {before}", bounded.used("web"));
    assert_eq!(host.inside("web", "cat /home/d/d/d/../../../a | wc -c").1.trim(), (3 * MIB).to_string());
}

/// Files of a new profile are written after the new limit is set, not before.
#[test]
fn a_full_tenant_gets_a_new_profile_with_a_larger_limit() {
    if !supports(Profile::System) {
        return;
    }
    let bounded = bounded("disk = \"16M\"");
    let host = &bounded.host;
    bounded.fills("web", "head -c 30M /dev/zero > /home/full");
    let text = "plan = \"web\"\nprofile = \"system\"\n[limits]\ndisk = \"64M\"\n";
    host.write("etc/tenants.d/web.toml", text);
    host.ok(&["apply", "web"]);
    assert!(bounded.fact("web").bytes.hard.is_some_and(|hard| hard > 16 * MIB));
    assert_eq!(host.inside("web", "head -c 1M /dev/zero > /opt/more && echo written").1.trim(), "written");
}

#[test]
fn a_directory_that_was_taken_out_of_the_quota_is_named_and_charged_again() {
    let bounded = bounded("disk = \"64M\"");
    let host = &bounded.host;
    let run = |program: &str, arguments: &[&str], dir: &std::path::Path| {
        let status = std::process::Command::new(program).args(arguments).arg(dir).output().expect("runs");
        assert!(status.status.success(), "{program} {arguments:?}: {status:?}");
    };
    let found = || String::from_utf8_lossy(&host.cli(&["audit", "web"]).stdout).contains("BW094");
    assert!(!found());
    let tenant = host.path("state/tenants/web");
    if bounded.kind == QuotaFacts::Projects {
        run("chattr", &["-p", "0"], &tenant.join("home"));
        assert!(found());
        host.ok(&["restart", "web"]);
    } else {
        // A subvolume in it is counted separately.
        run("btrfs", &["subvolume", "create"], &tenant.join("extra"));
        assert!(found());
        run("btrfs", &["subvolume", "delete"], &tenant.join("extra"));
    }
    assert!(!found());
}

/// A host with a tenant of 16 MiB, on a separate file system, because the test disables its quotas.
fn with_16m(pool: &Pool, more: &str) -> Host {
    let mut host = Host::within(pool.path());
    let config = host.default_config("reserve = { disk = \"1M\" }\n");
    host.write("etc/bailiwick.toml", &config);
    host.write("etc/tenants.d/web.toml", &format!("plan = \"web\"\n[limits]\ndisk = \"16M\"\n{more}"));
    host.start();
    host.ok(&["apply"]);
    host
}

/// Checks that the quota refuses this file, and that the writer is not killed for lack of memory.
fn assert_refused(host: &Host, size: &str, file: &str) {
    let (status, _, why) = host.inside("web", &format!("head -c {size} /dev/zero > {file} && sync {file}"));
    assert!(matches!(status, 1 | 2), "{status}: {why}");
}

/// The verdict of an audit about the disk limit.
fn verdict(host: &Host) -> Option<Value> {
    let report: Value = serde_json::from_slice(&host.cli(&["audit", "web", "--json"]).stdout).expect("JSON");
    let limits = report["tenants"][0]["limits"].as_array().expect("limits").clone();
    limits.into_iter().find(|limit| limit["resource"] == "disk").map(|limit| limit["verdict"].clone())
}

#[test]
fn disabled_and_enabled_quotas_are_noticed_at_once() {
    let pool = Pool::btrfs();
    let btrfs = |verb: &str| {
        let output = std::process::Command::new("btrfs").args(["quota", verb]).arg(pool.path()).output();
        assert!(output.as_ref().is_ok_and(|output| output.status.success()), "{output:?}");
    };
    // btrfs does not count unwritten data in memory; the small memory limit forces larger files to disk.
    let host = with_16m(&pool, "memory = \"32M\"\n");
    let audit = || String::from_utf8_lossy(&host.cli(&["audit", "web"]).stdout).into_owned();
    assert_eq!(verdict(&host), Some("enforced".into()));
    btrfs("disable");
    assert_eq!(verdict(&host), Some("nominal".into()), "by what is so now, not half a minute ago");
    assert_eq!(host.inside("web", "head -c 90M /dev/zero > /home/past && sync /home/past").0, 0);
    btrfs("enable");
    let plan = host.cli(&["plan"]);
    assert_eq!(plan.status.code(), Some(10), "nothing enforces the limit: {plan:?}");
    assert!(host.ok(&["apply"]).contains("limits written"));
    assert_eq!(host.cli(&["plan"]).status.code(), Some(0));
    // More is in use than the limit allows, although nobody lowered it. btrfs recounts existing data in the
    // background.
    let counted = || {
        std::process::Command::new("sync").arg("-f").arg(pool.path()).status().expect("sync runs");
        std::process::Command::new("btrfs").args(["quota", "rescan", "-w"]).arg(pool.path()).output().expect("runs");
        audit()
    };
    until("it is told", || counted().contains("BW104"));
    assert_refused(&host, "5M", "/home/more");
    host.ok(&["restart", "web"]);
    assert!(counted().contains("BW104"), "a start writes the limit again and explains nothing");
    assert_eq!(host.inside("web", "rm -f /home/past /home/more").0, 0);
    until("it is fixed", || !counted().contains("BW104"));
    // A start must notice disabled quotas too.
    btrfs("disable");
    host.ok(&["restart", "web"]);
    btrfs("enable");
    host.ok(&["restart", "web"]);
    assert_refused(&host, "60M", "/home/past");
}

/// The same with project quotas: the kernel keeps counting, and the limits are still set when it enforces them
/// again.
#[test]
fn projects_whose_limits_were_disabled_and_enabled_are_noticed_at_once() {
    let probe = Host::new();
    let storage = bailiwick_observe::host_facts(&probe.path("state")).expect("facts").storage;
    if storage.quota != QuotaFacts::Projects {
        writeln!(
            std::io::stderr(),
            "projects_whose_limits_were_disabled_and_enabled_are_noticed_at_once: NOT on {}: it has no projects",
            storage.fs_type
        )
        .ok();
        return;
    }
    let is_xfs = storage.fs_type == "xfs";
    let pool = if is_xfs { Pool::xfs_with_quotas() } else { Pool::ext4_with_quotas() };
    let switch = |to: &str| {
        let mut command = if is_xfs {
            let mut command = std::process::Command::new("xfs_quota");
            command.args(["-x", "-c", if to == "on" { "enable -p" } else { "disable -p" }]);
            command
        } else {
            let mut command = std::process::Command::new(format!("quota{to}"));
            command.arg("-P");
            command
        };
        let output = command.arg(pool.path()).output();
        assert!(output.as_ref().is_ok_and(|output| output.status.success()), "{to}: {output:?}");
    };
    let host = with_16m(&pool, "");
    let audit = || String::from_utf8_lossy(&host.cli(&["audit", "web"]).stdout).into_owned();
    assert_eq!(verdict(&host), Some("enforced".into()));
    switch("off");
    assert_eq!(verdict(&host), Some("nominal".into()), "by what is so now, not half a minute ago");
    assert_eq!(host.inside("web", "head -c 60M /dev/zero > /home/past && sync /home/past").0, 0);
    // A start must notice disabled quotas too.
    host.ok(&["restart", "web"]);
    switch("on");
    host.ok(&["apply"]);
    // Enforced again, with more in use than the limit allows, although nobody lowered it.
    until("it is told", || audit().contains("BW104"));
    assert_refused(&host, "5M", "/home/more");
    assert_eq!(host.inside("web", "rm -f /home/past /home/more").0, 0);
    until("it is fixed", || !audit().contains("BW104"));
    assert_eq!(verdict(&host), Some("enforced".into()));
    assert_refused(&host, "60M", "/home/past");
}

#[test]
fn the_reserve_of_the_host_is_left_free() {
    let bounded = bounded_alone("");
    let host = &bounded.host;
    let free = || {
        let stat = rustix::fs::statvfs(host.path("state")).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    };
    let all = {
        let stat = rustix::fs::statvfs(host.path("state")).expect("statvfs");
        stat.f_blocks * stat.f_frsize
    };
    let reserve = (free() - 120 * MIB).min(all / 2 - MIB);
    let config = host.default_config(&format!("reserve = {{ disk = \"{reserve}\" }}\n"));
    host.write("etc/bailiwick.toml", &config);
    host.ok(&["apply", "web"]);
    host.ok(&["restart", "web"]);
    // btrfs does not count data that is not yet written back.
    let line = "for i in $(seq 40); do dd if=/dev/zero of=/home/big bs=1M count=10 oflag=append conv=notrunc,fsync status=none || exit 7; \
                sleep 0.3; done";
    let (status, _, err) = host.inside("web", line);
    assert_eq!(status, 7, "{err} {} free, {reserve} reserved\n{}", free(), host.log());
    assert!(free() > reserve - 60 * MIB, "{} of {reserve} are left", free());
    assert!(bounded.fact("shell").held_back);
    assert_ne!(host.inside("shell", "dd if=/dev/zero of=/home/more bs=1M count=5 conv=fsync status=none").0, 0);
    assert!(String::from_utf8_lossy(&host.cli(&["audit", "web"]).stdout).contains("BW096"));
    assert_eq!(host.cli(&["plan"]).status.code(), Some(0), "it is as it is declared");
    // It is freed without a command of the operator.
    assert_eq!(host.inside("web", "rm /home/big").0, 0);
    until("it is given back", || !bounded.fact("web").held_back);
    assert_eq!(host.inside("web", "head -c 10M /dev/zero > /home/again").0, 0);
    assert_eq!(bounded.fact("web").bytes.hard, None);
}

#[test]
fn a_changed_reserve_is_applied_by_a_running_and_a_new_warden() {
    let mut bounded = bounded_alone("");
    let space = |host: &Host| bailiwick_observe::space(&host.path("state")).expect("statvfs");
    let set = |host: &Host, reserve: u64| {
        let config = host.default_config(&format!("reserve = {{ disk = \"{reserve}\" }}\n"));
        host.write("etc/bailiwick.toml", &config);
    };
    let said = |host: &Host, arguments: &[&str]| {
        let output = host.cli(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    // The host itself fills more than half of it.
    let (all, free) = space(&bounded.host);
    let filler = std::fs::File::create(bounded.host.path("filler")).expect("creates");
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, free - all / 2 + 40 * MIB)
        .expect("allocates");
    until("less than half is free", || space(&bounded.host).1 < all / 2 - MIB);

    set(&bounded.host, all / 2 - MIB);
    until("it is reached without a command", || bounded.fact("web").held_back);
    let (status, text) = said(&bounded.host, &["status"]);
    assert!(status == Some(0) && text.contains("no tenant can take more disk space"), "{text}");
    bounded.host.write("etc/tenants.d/late.toml", "plan = \"web\"\n");
    let (status, text) = said(&bounded.host, &["apply", "late"]);
    assert!(status == Some(0) && text.contains("no tenant can take more disk space"), "{text}");
    assert!(said(&bounded.host, &["doctor"]).1.contains("no tenant can take more"));

    // The reserve of an earlier warden is replaced by that of the next.
    let host = &mut bounded.host;
    host.kill();
    set(host, MIB);
    host.start();
    until("it is lifted", || !bounded.fact("web").held_back && bounded.fact("web").bytes.hard.is_none());
    assert_eq!(bounded.host.inside("web", "head -c 5M /dev/zero > /home/again").0, 0);

    // A reserve that leaves nothing for tenants is refused and does not take effect.
    let host = &bounded.host;
    set(host, all);
    until("it is told", || said(host, &["status"]).1.contains("at most half"));
    // What is asked is done with the reserve in force, and says so.
    assert_eq!(said(host, &["restart", "web"]).0, Some(7));
    host.write("etc/tenants.d/later.toml", "plan = \"web\"\n");
    assert!(said(host, &["apply", "later"]).1.contains("at most half"));
    assert!(said(host, &["doctor"]).1.contains("half of the file system"));
    assert!(!bounded.fact("web").held_back);
    set(host, MIB);
    until("it is no longer reported", || !said(host, &["status"]).1.contains("at most half"));
}

#[test]
fn a_purge_frees_everything() {
    let bounded = bounded("disk = \"16M\"");
    let host = &bounded.host;
    assert_eq!(host.inside("web", "head -c 10M /dev/zero > /home/a; sync").0, 0);
    host.ok(&["delete", "web", "--purge"]);
    assert!(!host.path("state/tenants/web").exists());
    // The next tenant gets the same ids, and must find them empty and with a new limit.
    host.write("etc/tenants.d/next.toml", "plan = \"web\"\n[limits]\ndisk = \"32M\"\n");
    host.ok(&["apply", "next"]);
    let fact = bounded.fact("next");
    assert!(fact.bytes.used < 2 * MIB && fact.bytes.hard == Some(32 * MIB), "{fact:?}");
}

#[test]
fn without_quotas_a_tenant_that_requires_them_does_not_start() {
    let mut host = Host::new();
    let pool = Pool::for_state_of(&host, "64M", &["mkfs.ext4", "-q"]);
    let config = host.default_config("").replace("\"tasks\"]", "\"tasks\", \"disk\"]");
    host.write("etc/bailiwick.toml", &config);
    host.write("etc/tenants.d/web.toml", "plan = \"web\"\n[limits]\ndisk = \"16M\"\n");
    host.start();
    let output = host.cli(&["apply"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains("disk = 16M") && text.contains("bailiwick doctor"), "{text}");
    let output = host.cli(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains("tune2fs -O project,quota") && text.contains("prjquota"), "{text}");
    // A running jail keeps running, and every command that would set the limit reports that it is not enforced.
    let declare = |limits: &str| host.write("etc/tenants.d/web.toml", &format!("plan = \"web\"\n{limits}"));
    declare("");
    host.ok(&["apply"]);
    let init = host.init("web");
    declare("[limits]\ndisk = \"16M\"\n");
    for arguments in [&["apply"][..], &["apply", "web"], &["restart", "web"]] {
        let output = host.cli(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(8), "{arguments:?}: {text}");
        assert!(text.contains("disk = 16M"), "{arguments:?}: {text}");
    }
    assert_eq!(host.cli(&["plan"]).status.code(), Some(10));
    assert_eq!(host.init("web"), init);
    // All possible changes are made, and reported as partial.
    declare("[limits]\ndisk = \"16M\"\ntasks = 70\n");
    let output = host.cli(&["apply"]);
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("disk = 16M"), "{output:?}");
    drop(host);
    drop(pool);
}

/// Active swap files, disabled on drop.
struct Swap(std::path::PathBuf);

impl Drop for Swap {
    fn drop(&mut self) {
        // Wherever the file was moved to.
        std::process::Command::new("find")
            .arg(&self.0)
            .args(["-name", "swap-in-use", "-exec", "swapoff", "{}", ";"])
            .status()
            .ok();
    }
}

#[test]
fn an_active_swap_file_is_reported_and_removed_once_inactive() {
    // Swap belongs to the whole machine, so this runs only in a virtual machine.
    if std::env::var_os("BAILIWICK_GUEST").is_none() {
        writeln!(std::io::stderr(), "a_swap_file_in_use...: NOT here: in the guests of tests/vm, it turns swap on")
            .ok();
        return;
    }
    let bounded = bounded("disk = \"64M\"");
    let host = &bounded.host;
    let tenant = profiles()[0];
    let state = host.path("state");
    let home = state.join("tenants").join(tenant);
    let top =
        std::fs::read_dir(home).expect("lists").flatten().find(|entry| entry.path().is_dir()).expect("a directory");
    let line = "dd if=/dev/zero of=swap-in-use bs=1M count=8 && chmod 600 swap-in-use && mkswap swap-in-use && swapon swap-in-use";
    let output = std::process::Command::new("sh").args(["-c", line]).current_dir(top.path()).output().expect("sh runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let swap = Swap(state.clone());
    for round in 0..2 {
        let output = host.cli(&["delete", tenant, "--purge"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "round {round}: {text}");
        assert!(text.contains("swap-in-use") && text.contains("ids stay reserved"), "round {round}: {text}");
    }
    assert!(host.ok(&["status"]).contains("swap-in-use"), "it is told");
    drop(swap);
    host.ok(&["delete", tenant, "--purge"]);
    let left =
        || std::process::Command::new("find").arg(&state).args(["-name", "swap-in-use"]).output().expect("find runs");
    until("the file is removed", || left().stdout.is_empty());
}
