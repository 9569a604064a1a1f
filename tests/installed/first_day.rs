//! An operator's first day on a bare host: the package, the one command of README's "Five minutes", a tenant with a disk limit that
//! holds, a reboot, and all of it taken back. Each test runs alone, in this order, and the machine is rebooted where a name says so.
//!
//! Danger: as in `installed.rs`, these tests change the machine they run on, and fill its disk for a moment.

use bailiwick_tests::machine::{ok, package, print_measurement, sh, until};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const README: &str = include_str!("../../README.md");
const POOL: &str = "/var/lib/bailiwick.pool";
const JOURNAL: &str = "/var/lib/bailiwick-setup/journal.json";

/// The lines of the first block below "Five minutes".
fn five_minutes() -> Vec<&'static str> {
    let (_, section) = README.split_once("\n## Five minutes\n").expect("the section");
    let block = section.split("```").nth(1).expect("a block");
    block.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// A line of README without its remark.
fn line_with(word: &str) -> &'static str {
    let line = five_minutes().into_iter().find(|line| line.contains(word));
    let line = line.unwrap_or_else(|| panic!("no line with {word:?} in README's \"Five minutes\""));
    line.split("  #").next().unwrap_or(line).trim()
}

/// What an administrator finds: files, mounts, devices and units that setup could change. The daemons write the policy in force.
fn state() -> String {
    ok(
        "cd /; sha256sum $(find etc/ssh etc/bailiwick etc/udev etc/systemd etc/vsftpd.conf etc/proftpd etc/nginx -type f -not -path '*/.in-force/*' 2>/dev/null | sort); \
        findmnt -rno TARGET,SOURCE /var/lib/bailiwick; losetup -nO BACK-FILE; ls /var/lib | grep -v systemd; \
        systemctl list-unit-files --no-legend 'bailiwick*' 'var-lib*' | sort; true",
    )
}

fn bare() {
    sh(
        "systemctl stop bailiwick-jails.service; bailiwick setup --undo --yes; DEBIAN_FRONTEND=noninteractive apt-get purge -y bailiwick",
    );
    ok("rm -rf /var/lib/bailiwick /etc/bailiwick /root/day; mkdir -p /root/day; systemctl daemon-reload");
}

fn json(line: &str) -> serde_json::Value {
    // `pool show` ends with 10 when something is wrong.
    let (_, text) = sh(&format!("{line} 2>/dev/null"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
}

fn problems() -> Vec<String> {
    let report = json("bailiwick pool show --json");
    let all = report["problems"].as_array().expect("an array").iter();
    all.map(|problem| problem.as_str().expect("text").to_owned()).collect()
}

/// Writes megabytes inside, and says whether that worked.
fn writes(megabytes: u32) -> bool {
    let line = format!("dd if=/dev/zero of=/home/alice/big bs=1M count={megabytes} conv=fsync status=none");
    let is_written = sh(&format!("bailiwick exec alice --user alice -- sh -c '{line}'")).0 == 0;
    ok("bailiwick exec alice --user alice -- rm -f /home/alice/big");
    is_written
}

fn holds_its_limit() {
    assert!(writes(20), "a write within the limit");
    assert!(!writes(60), "a write past the limit");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn a_killed_setup_goes_on_or_goes_back() {
    bare();
    let deb = package("BAILIWICK_DEB");
    let text = ok(&format!("apt-get install -y {} 2>&1", deb.display()));
    assert!(text.contains("bailiwick setup"), "the package names the one command: {text}");
    ok("systemctl start ssh");
    let before = state();
    let plan = json("bailiwick setup --size 512M --dry-run --json");
    let count = plan["steps"].as_array().expect("steps").len();
    assert_eq!(state(), before, "a dry run changes nothing");
    let all = std::env::var_os("BAILIWICK_SOAK").is_some();
    for number in (1..=count).filter(|number| all || number % 4 == 0 || number % 4 == 3) {
        let kind = if number % 8 == 0 { "ext4" } else { "xfs" };
        let line = format!("bailiwick setup --size 512M --fs {kind} --yes");
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        let mut child = command.args(words).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("runs");
        let said = BufReader::new(child.stderr.take().expect("a pipe"));
        let mark = format!("[{number}/");
        let reached = said.lines().map_while(Result::ok).any(|line| line.starts_with(&mark));
        child.kill().expect("kills");
        child.wait().expect("ends");
        assert!(reached, "step {number} of {count}");
        if number % 2 == 0 {
            ok("bailiwick setup --undo --yes");
        } else {
            ok("bailiwick setup --yes && bailiwick doctor | grep -q '^disk  *works' && bailiwick setup --undo --yes");
        }
        assert_eq!(state(), before, "killed at step {number} of {count}");
    }
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn bad_input_changes_nothing() {
    let before = state();
    let refused = |line: &str, status: i32, word: &str| {
        let (got, text) = sh(line);
        assert!(got == status && text.contains(word), "{line}: {got} {text}");
        assert_eq!(state(), before, "{line}");
    };
    // A disk that holds something, mounted or not.
    refused("bailiwick setup --pool device:/dev/vdb --yes", 5, "not empty");
    refused("bailiwick setup --pool device:/dev/null --yes", 5, "no block device");
    refused("bailiwick setup --pool here --yes", 8, "no disk limit would hold");
    refused("bailiwick setup --size 900G --yes", 8, "does not fit");
    refused("bailiwick setup --size 1M --yes", 8, "512M at least");
    refused("bailiwick setup < /dev/null", 2, "--yes");
    refused("bailiwick setup --first alice --ssh-key /nowhere --yes", 2, "/nowhere");
    refused("bailiwick setup --first alice --plan none --yes", 3, "no plan");
    refused("bailiwick pool grow +1G", 3, "there is no");
    ok("echo 'pol = 1' > /root/day/answers.toml");
    refused("bailiwick setup --answers /root/day/answers.toml --yes", 2, "unknown field");
    let config = fs::read_to_string("/etc/ssh/sshd_config").expect("text");
    fs::write("/etc/ssh/sshd_config", format!("Nonsense yes\n{config}")).expect("writes");
    let (status, text) = sh("bailiwick setup --yes");
    assert!(status == 4 && text.contains("Nonsense"), "{status} {text}");
    fs::write("/etc/ssh/sshd_config", config).expect("writes");
    assert_eq!(state(), before);
}

/// The kernel of Ubuntu's cloud images has no `quota_v2`, which ext4 needs and XFS does not.
#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn bad_input_of_a_kernel_without_formats_of_quotas() {
    let modules = "/lib/modules/$(uname -r)";
    ok("systemctl stop bailiwick.target data-ext4.mount; modprobe -r quota_v2 || true");
    assert!(!ok("cat /proc/modules").contains("quota_v2 "), "it can be unloaded");
    ok(&format!(
        "mkdir /root/modules && find {modules}/kernel -name 'quota_*.ko*' -exec mv -t /root/modules {{}} + && depmod"
    ));
    let before = state();
    let plan = ok("bailiwick setup --size 512M --dry-run");
    let refused = sh("bailiwick setup --size 512M --fs ext4 --yes");
    let made =
        sh("bailiwick setup --size 512M --yes && findmnt -no FSTYPE,OPTIONS /var/lib/bailiwick && bailiwick doctor");
    let undone = sh("bailiwick setup --undo --yes");
    ok(&format!(
        "mv /root/modules/* {modules}/kernel/fs/quota/ && rmdir /root/modules && depmod && systemctl start data-ext4.mount"
    ));
    assert!(plan.contains("XFS") || plan.contains("xfs"), "{plan}");
    assert!(refused.0 == 8 && refused.1.contains("quota_v2"), "{refused:?}");
    assert!(made.0 == 0 && made.1.contains("xfs") && made.1.contains("prjquota"), "{made:?}");
    assert!(made.1.lines().any(|row| row.starts_with("disk ") && row.contains("works")), "{made:?}");
    assert_eq!((undone.0, state()), (0, before), "{undone:?}");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn before_a_reboot_one_command_makes_a_tenant_with_a_disk_limit() {
    ok("cd /root/day && ssh-keygen -q -t ed25519 -N '' -f id_ed25519 && systemctl start ssh");
    fs::write("/root/day/before", state()).expect("writes");
    let begin = Instant::now();
    let text = ok(&format!("cd /root/day && {} --yes 2>&1", line_with("bailiwick setup")));
    print_measurement(&format!("one command to the first tenant: {:.1} s", begin.elapsed().as_secs_f32()));
    assert!(text.contains("disk limit"), "{text}");
    let mode = |path: &str| ok(&format!("stat -c '%a %U' {path}")).trim().to_owned();
    assert_eq!(
        (mode(POOL), mode(JOURNAL), mode("/var/lib/bailiwick")),
        ("600 root".into(), "600 root".into(), "711 root".into())
    );
    assert_eq!(problems(), [""; 0]);
    let again = ok("cd /root/day && bailiwick setup --yes 2>&1");
    assert!(again.contains("nothing to do"), "{again}");
    // As README says.
    let id = ok(
        "cd /root/day && ssh -n -q -i id_ed25519 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null alice@localhost id -un",
    );
    assert!(id.ends_with("alice\n"), "{id}");
    ok("printf '[limits]\\ndisk = \"40M\"\\n' >> /etc/bailiwick/tenants.d/alice.toml && bailiwick apply");
    holds_its_limit();
    ok("bailiwick doctor | grep -E '^(pool|units|disk|reserve) ' | tee /dev/stderr | grep -c ' works ' | grep -qx 4");
    ok("bailiwick audit alice");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn before_a_reboot_the_pool_stays_whole() {
    // A trim takes nothing away.
    sh("fstrim -v /var/lib/bailiwick");
    assert_eq!(problems(), [""; 0]);
    // It grows while a tenant runs.
    let size = || json("bailiwick pool show --json")["size"].as_u64().expect("a size");
    let was = size();
    ok("bailiwick pool grow +128M");
    assert!(size() > was + (100 << 20) && problems().is_empty(), "{} {was}", size());
    // A full disk of the host takes nothing from tenants.
    ok(
        "fallocate -l $(( $(df --output=avail -B1 / | tail -1) - 4096 )) /full || dd if=/dev/zero of=/full bs=1M status=none || true",
    );
    holds_its_limit();
    ok("rm -f /full");
    // A hole is told by everything that looks, and filled again by setup.
    let end = fs::metadata(POOL).expect("there").len();
    ok(&format!("fallocate --punch-hole --offset {} --length 65536 {POOL}", end - 65536));
    assert!(problems()[0].contains("are allocated"), "{:?}", problems());
    assert!(sh("bailiwick audit alice").1.contains("BW140"));
    assert!(ok("bailiwick status").contains("are allocated"));
    assert!(sh("bailiwick doctor").1.contains("are allocated"));
    let text = ok("bailiwick setup --yes 2>&1");
    assert!(text.contains("allocate") && problems().is_empty(), "{text}");
    // A pool that was cut is told; here it gets its size back at once, because nothing was at its end.
    ok(&format!("truncate -s -65536 {POOL}"));
    assert!(problems()[0].contains("cut or removed"), "{:?}", problems());
    assert!(sh("bailiwick audit alice").1.contains("BW141"));
    assert!(ok("bailiwick status").contains("cut or removed"));
    ok(&format!("fallocate -l {end} {POOL}"));
    assert_eq!(problems(), [""; 0]);
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn after_a_reboot_limits_hold_and_all_is_taken_back() {
    until("alice runs", || sh("bailiwick list --json").1.contains("\"running\""));
    assert_eq!(problems(), [""; 0]);
    assert!(ok("findmnt -no OPTIONS /var/lib/bailiwick").contains("prjquota"));
    assert_eq!(
        ok("losetup -nO DIO,LOG-SEC -j /var/lib/bailiwick.pool").split_whitespace().collect::<Vec<_>>(),
        ["1", "4096"]
    );
    holds_its_limit();
    ok("bailiwick audit alice");
    let (status, text) = sh("bailiwick setup --undo --yes");
    assert!(status == 5 && text.contains("alice"), "{status} {text}");
    ok("bailiwick delete alice --purge");
    ok("cp /etc/bailiwick/bailiwick.toml /root/day/toml; echo '# mine' >> /etc/bailiwick/bailiwick.toml");
    let (status, text) = sh("bailiwick setup --undo --yes");
    assert!(status == 5 && text.contains("has changed since"), "{status} {text}");
    ok("cp /root/day/toml /etc/bailiwick/bailiwick.toml");
    ok("bailiwick setup --undo --yes");
    assert_eq!(state(), fs::read_to_string("/root/day/before").expect("text"));
    assert!(!Path::new(JOURNAL).exists() && !Path::new(POOL).exists());
    assert!(ok("bailiwick setup --undo --yes").contains("nothing to take back"));
    // A disk of its own: here a second loop device plays it.
    let disk = ok("truncate -s 1G /root/day/disk && losetup -f --show /root/day/disk").trim().to_owned();
    ok(&format!("bailiwick setup --pool device:{disk} --yes && bailiwick doctor | grep -q '^disk  *works'"));
    ok("bailiwick setup --undo --yes");
    assert_eq!(ok(&format!("wipefs -n {disk}")), "");
    ok(&format!("losetup -d {disk}; rm /root/day/disk"));
    bare();
}
