//! A complete machine: Debian with systemd, which the package under test is installed on. Only for suites that run in a
//! virtual machine.

use crate::without_waiting;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The path of a package under test, from an environment variable.
///
/// # Panics
/// When it is not set.
#[must_use]
pub fn package(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: see `make vm-test`")).into()
}

/// The version of a package.
#[must_use]
pub fn version(deb: &Path) -> String {
    ok(&format!("dpkg-deb -f {} Version", deb.display())).trim().to_owned()
}

/// Installs the package under test, unless this version is there.
pub fn install() {
    let deb = package("BAILIWICK_DEB");
    if sh("dpkg-query -W -f '${db:Status-Abbrev} ${Version}' bailiwick").1 != format!("ii  {}", version(&deb)) {
        ok(&format!("apt-get install -y --allow-downgrades {}", deb.display()));
    }
    ok("rm -rf /etc/systemd/system/bailiwick*.d; systemctl daemon-reload");
}

/// Runs a shell line. Returns its exit status and output.
///
/// # Panics
/// When there is no bash.
pub fn sh(line: &str) -> (i32, String) {
    let output = Command::new("bash").args(["-c", line]).stdin(Stdio::null()).output().expect("bash runs");
    let text = [output.stdout, without_waiting(&output.stderr)].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// Runs a shell line that must succeed. Returns its output.
///
/// # Panics
/// When it fails.
pub fn ok(line: &str) -> String {
    let (status, text) = sh(line);
    assert_eq!(status, 0, "{line}\n{text}\n{}", journal());
    text
}

/// Prints a measurement directly to standard error, because the test harness captures `eprintln!`.
pub fn print_measurement(text: &str) {
    std::io::stderr().write_all(format!("  {text}\n").as_bytes()).ok();
}

/// What the daemons have said last.
#[must_use]
pub fn journal() -> String {
    sh("journalctl -b --no-pager -o short-monotonic -u 'bailiwick*' | tail -n 60").1
}

/// Waits until a condition holds, for at most one minute.
///
/// # Panics
/// When it does not come.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited for: {what}\n{}", journal());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The main process of a unit, as a number in text; "0" if none.
#[must_use]
pub fn main_pid(unit: &str) -> String {
    ok(&format!("systemctl show -p MainPID --value {unit}")).trim().to_owned()
}

/// The tenants whose jails run.
///
/// # Panics
/// When `bailiwickd` does not answer.
#[must_use]
pub fn running() -> BTreeSet<String> {
    // Errors of the policy are printed to standard error.
    let text = ok("bailiwick list --json 2> /dev/null");
    let list: serde_json::Value = serde_json::from_str(&text).expect("json");
    let list = list.as_array().expect("an array").iter();
    list.filter(|tenant| tenant["state"] == "running")
        .map(|tenant| tenant["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// The init of a tenant, identified by process id and start time.
///
/// # Panics
/// When its jail is down.
#[must_use]
pub fn init(tenant: &str) -> String {
    let text = ok(&format!("bailiwick show {tenant} --json"));
    let show: serde_json::Value = serde_json::from_str(&text).expect("json");
    let pid = show["pid"].as_u64().unwrap_or_else(|| panic!("{tenant} is down: {text}"));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
    format!("{pid} {}", stat.rsplit(')').next().expect("fields").split_whitespace().nth(19).expect("start time"))
}
