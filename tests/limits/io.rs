//! Limits of block devices: bytes and operations per second, on the disk of the state directory, through LVM and
//! md.
//!
//! They require version 2 of control groups. Without its controller `io`, the tests print what is skipped.

use bailiwick_tests::Host;
use bailiwick_types::{Hierarchy, HostFacts};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn facts(host: &Host) -> HostFacts {
    bailiwick_observe::host_facts(&host.path("state")).expect("facts")
}

/// Whether this machine has the controller. If not, prints what is skipped.
fn has_io(host: &Host) -> bool {
    let facts = facts(host);
    let has = facts.controller("io") == Some(Hierarchy::Unified) && !facts.storage.devices.is_empty();
    if !has {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(std::io::stderr(), "{test}: NOT here: version 2 of control groups has no controller io, or no disk")
            .ok();
    }
    has
}

fn declare(host: &Host, limits: &str) {
    host.write("etc/tenants.d/web.toml", &format!("plan = \"web\"\n[limits]\n{limits}\n"));
}

/// The duration of a shell line in the jail, in seconds.
fn seconds(host: &Host, line: &str) -> f64 {
    let begin = Instant::now();
    let (status, _, err) = host.inside("web", line);
    assert_eq!(status, 0, "{line}: {err}");
    begin.elapsed().as_secs_f64()
}

fn limit_row(host: &Host, resource: &str) -> Value {
    let output = host.cli(&["audit", "web", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let limits = report["tenants"][0]["limits"].as_array().expect("limits").clone();
    limits.into_iter().find(|limit| limit["resource"] == resource).unwrap_or_else(|| panic!("{resource}: {report}"))
}

/// With direct I/O, and through the page cache.
const DIRECT: &str = "dd if=/dev/zero of=/home/f bs=1M count=8 oflag=direct status=none";
const CACHED: &str = "dd if=/dev/zero of=/home/f bs=1M count=8 conv=fsync status=none";
const READ: &str = "dd if=/home/f of=/dev/null bs=1M iflag=direct status=none";

/// Minimum duration of 8 MiB at 2 MiB per second, in seconds; the kernel allows a small burst.
const AT_LEAST: f64 = 2.5;

#[test]
fn bytes_and_operations_are_limited_and_change_while_the_jail_runs() {
    let mut host = Host::new();
    if !has_io(&host) {
        return;
    }
    declare(&host, "io_read = \"2M\"\nio_write = \"2M\"");
    host.start();
    host.ok(&["apply"]);
    for (word, line) in [("io_write", DIRECT), ("io_write", CACHED), ("io_read", READ)] {
        let took = seconds(&host, line);
        assert!(took > AT_LEAST, "{line} took {took} s");
        let row = limit_row(&host, word);
        // Writes of the file system itself are not limited.
        let verdict = if word == "io_write" { "nominal" } else { "enforced" };
        assert_eq!((row["enforced"].as_str(), row["verdict"].as_str()), (Some("2M"), Some(verdict)), "{row}");
    }
    let audit = String::from_utf8_lossy(&host.cli(&["audit", "web"]).stdout).into_owned();
    assert!(audit.contains("BW114"), "{audit}");
    let pid = |text: String| serde_json::from_str::<Value>(&text).expect("JSON")["pid"].clone();
    let before = pid(host.ok(&["show", "web", "--json"]));
    declare(&host, "iops_write = \"10\"");
    assert_eq!(host.cli(&["plan", "web"]).status.code(), Some(10));
    host.ok(&["apply", "web"]);
    assert_eq!(limit_row(&host, "io_write")["enforced"].as_str(), Some("unlimited"));
    let took = seconds(&host, "dd if=/dev/zero of=/home/g bs=4k count=40 oflag=direct status=none");
    assert!(took > 2.0, "40 operations at 10 a second took {took} s");
    let took = seconds(&host, READ);
    assert!(took < AT_LEAST, "reading is not held any more, and took {took} s");
    assert_eq!(before, pid(host.ok(&["show", "web", "--json"])), "the jail was not restarted");
    // A change by hand: the comparison uses the value in the kernel, not a remembered one.
    let shown: Value = serde_json::from_str(&host.ok(&["show", "web", "--json"])).expect("JSON");
    let group = format!("/sys/fs/cgroup{}/io.max", shown["cgroup"]["unified"].as_str().expect("a path"));
    let number = facts(&host).storage.devices[0].number.clone();
    std::fs::write(&group, format!("{number} wiops=max")).expect("writes");
    assert!(String::from_utf8_lossy(&host.cli(&["audit", "web"]).stdout).contains("BW090"));
    host.ok(&["apply", "web"]);
    assert_eq!(limit_row(&host, "iops_write")["verdict"].as_str(), Some("nominal"));
}

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Shell lines that undo what a test created, run in reverse on drop, also after a failure.
struct Undo(Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        for command in self.0.iter().rev() {
            // The devices are busy for a moment after their last use.
            let deadline = Instant::now() + Duration::from_secs(10);
            let done = || Command::new("sh").args(["-c", command]).output().is_ok_and(|output| output.status.success());
            while !done() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

#[test]
fn through_a_logical_volume_over_a_mirror_to_the_real_disks() {
    let probe = Host::new();
    if !has_io(&probe) {
        return;
    }
    if !Path::new("/sbin/lvm").exists() || !Path::new("/sbin/mdadm").exists() {
        panic!("this machine has the controller io, and neither lvm2 nor mdadm to try it with");
    }
    drop(probe);
    let temp = tempfile::tempdir().expect("temporary directory");
    let mut undo = Undo(Vec::new());
    let mut disks = Vec::new();
    for index in 0..2 {
        let image = temp.path().join(format!("disk{index}"));
        run(&format!("truncate -s 192M {}", image.display()));
        let device = run(&format!("losetup -f --show {}", image.display()));
        undo.0.push(format!("losetup -d {device}"));
        disks.push(device);
    }
    let id = std::process::id();
    let (md, group) = (format!("/dev/md{}", 100 + id % 100), format!("bwtest{id}"));
    run(&format!(
        "modprobe raid1; mdadm --create {md} --run --assume-clean --metadata=1.2 --level=1 --raid-devices=2 {}",
        disks.join(" ")
    ));
    undo.0.push(format!("mdadm --stop {md}"));
    run(&format!("vgcreate -y {group} {md} && lvcreate -y -l 100%FREE -n state {group}"));
    undo.0.push(format!("vgremove -f -y {group}"));
    run(&format!("mkfs.ext4 -q /dev/{group}/state"));
    let mount = temp.path().canonicalize().expect("real path").join("pool");
    std::fs::create_dir(&mount).expect("mkdir");
    run(&format!("chmod 755 {} && mount /dev/{group}/state {}", temp.path().display(), mount.display()));
    undo.0.push(format!("umount {}", mount.display()));
    {
        let mut host = Host::within(&mount);
        let names: Vec<String> = facts(&host).storage.devices.iter().map(|device| device.name.clone()).collect();
        let expected: Vec<String> = disks.iter().map(|disk| disk.trim_start_matches("/dev/").to_owned()).collect();
        assert!(names[0].starts_with("dm-"), "{names:?}");
        assert_eq!(names[1..], expected, "{names:?}");
        declare(&host, "io_write = \"2M\"");
        host.start();
        host.ok(&["apply"]);
        let took = seconds(&host, DIRECT);
        assert!(took > AT_LEAST, "took {took} s");
        let shown: Value = serde_json::from_str(&host.ok(&["show", "web", "--json"])).expect("JSON");
        let path = format!("/sys/fs/cgroup{}/io.max", shown["cgroup"]["unified"].as_str().expect("a path"));
        let text = std::fs::read_to_string(path).expect("reads");
        assert_eq!(text.lines().filter(|line| line.contains(&format!("wbps={}", 2 * MIB))).count(), 3, "{text}");
        host.ok(&["stop", "web"]);
    }
}

#[test]
fn a_required_limit_that_cannot_be_enforced_is_refused() {
    let mut host = Host::new();
    if has_io(&host) {
        // A tmpfs has no disk. It cannot be id-mapped before Linux 6.3, but the start fails earlier.
        let state = host.path("state");
        std::fs::create_dir(&state).expect("mkdir");
        run(&format!("mount -t tmpfs -o mode=700 none {}", state.display()));
    }
    let _undo = Undo(if host.path("state").exists() {
        vec![format!("umount -l {}", host.path("state").display())]
    } else {
        Vec::new()
    });
    host.write("etc/bailiwick.toml", &host.default_config("").replace("\"tasks\"]", "\"tasks\", \"io\"]"));
    declare(&host, "io_write = \"2M\"");
    host.start();
    let output = host.cli(&["apply"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains("io_write = 2M") && text.contains("\"io\""), "{text}");
    declare(&host, "io_weight = 300");
    let output = host.cli(&["apply"]);
    assert_eq!(output.status.code(), Some(8), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn weights_are_set_if_the_disk_scheduler_supports_them() {
    let mut host = Host::new();
    if !has_io(&host) {
        return;
    }
    let disk = facts(&host).storage.devices.last().expect("a disk").name.clone();
    let scheduler = format!("/sys/class/block/{disk}/queue/scheduler");
    let text = std::fs::read_to_string(&scheduler).unwrap_or_default();
    Command::new("modprobe").arg("bfq").output().ok();
    let before = text.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("none").to_owned();
    if std::fs::write(&scheduler, "bfq").is_err() {
        writeln!(std::io::stderr(), "weights: NOT here: {disk} has no scheduler bfq").ok();
        return;
    }
    let _undo = Undo(vec![format!("echo {before} > {scheduler}")]);
    declare(&host, "io_weight = 300");
    host.start();
    host.ok(&["apply"]);
    let row = limit_row(&host, "io_weight");
    assert_eq!((row["enforced"].as_str(), row["verdict"].as_str()), (Some("300"), Some("enforced")), "{row}");
}
