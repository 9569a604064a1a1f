//! The removal of the package, as far as it can be tested beside a host's own packages;
//! `tests/installed/installed.rs` tests all of it.

use bailiwick_tests::{stage, until};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where a process runs, and as which user.
struct Held {
    child: Child,
    group: Option<PathBuf>,
}

impl Held {
    /// Runs a program that does nothing, in a control group if one is given.
    fn new(program: &Path, user: u32, group: Option<&str>) -> Self {
        let group = group.map(|name| root_group().join(name));
        let mut line = "exec setpriv --reuid $0 --clear-groups $1 --hold".to_owned();
        if let Some(group) = &group {
            std::fs::create_dir_all(group).expect("mkdir");
            line = format!("echo $$ > {}/cgroup.procs && {line}", group.display());
        }
        let mut command = Command::new("sh");
        command.args(["-c", &line, &user.to_string()]).arg(program);
        let child = command.stdin(Stdio::null()).process_group(0).spawn().expect("sh runs");
        let exe = format!("/proc/{}/exe", child.id());
        until("it runs", || std::fs::read_link(&exe).is_ok_and(|exe| exe == program));
        Self { child, group }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        let Some(group) = &self.group else { return };
        // The kernel releases it once it is empty.
        until("the group is empty", || std::fs::remove_dir(group).is_ok() || !group.exists());
        for above in group.ancestors().skip(1).take_while(|above| *above != root_group()) {
            // Another test's group may be in it.
            std::fs::remove_dir(above).ok();
        }
    }
}

/// The root of the unified hierarchy.
fn root_group() -> &'static Path {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.exists() { hybrid } else { Path::new("/sys/fs/cgroup") }
}

/// Whether the package's script reports a running jail when it sees one process and itself.
fn says_that_jails_run(held: &Held) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../debian/bailiwick.postrm");
    let text = std::fs::read_to_string(&script).expect("the script");
    let begin = text.find("jails_run() {").expect("the function");
    let function = &text[begin..begin + text[begin..].find("\n}\n").expect("its end") + 3];
    // Other processes of the machine are hidden from it.
    let line = format!(
        "set -e\nmount -t tmpfs none /mnt && mkdir /mnt/$0 && mount --bind /proc/$0 /mnt/$0 && mount --rbind /mnt /proc\n\
         {function}\nif jails_run; then echo yes; else echo no; fi"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", &line, &held.child.id().to_string()])
        .output()
        .expect("unshare runs");
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => true,
        "no" => false,
        _ => panic!("{output:?}"),
    }
}

#[test]
fn only_a_running_jail_prevents_a_purge_of_the_package() {
    const NOBODY: u32 = 65_534;
    let temp = tempfile::tempdir().expect("a temporary directory");
    let real = temp.path().canonicalize().expect("real path");
    std::fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let copy = |folder: &str, owner: u32| {
        let path = real.join(folder).join("bailiwick-init");
        std::fs::create_dir(path.parent().expect("has one")).expect("mkdir");
        std::fs::copy(stage().join("bailiwick-init"), &path).expect("copies");
        std::os::unix::fs::chown(&path, Some(owner), None).expect("chown");
        path
    };
    let (own, of_root) = (copy("own", NOBODY), copy("root", 0));
    let base = format!("bailiwick-{:08x}", std::process::id());
    let jail = format!("{base}/alice/jail");
    let of_user = format!("user@1000.service/{jail}");
    let of_package = format!("bailiwick.slice/{}/alice/jail", std::process::id());
    for (program, user, group, is_jail) in [
        (&own, NOBODY, None, false),
        (&own, NOBODY, Some(jail.as_str()), false),
        (&of_root, NOBODY, None, false),
        (&of_root, NOBODY, Some(of_user.as_str()), false),
        (&of_root, NOBODY, Some(jail.as_str()), true),
        (&of_root, 10_000_000, Some(&of_package), true),
    ] {
        let held = Held::new(program, user, group);
        assert_eq!(says_that_jails_run(&held), is_jail, "{} {user} {group:?}", program.display());
        // Its program file is removed: the jail counts all the same.
        if is_jail {
            std::fs::copy(program, real.join("new")).expect("copies");
            std::fs::rename(real.join("new"), program).expect("replaces");
            assert!(says_that_jails_run(&held), "without its program");
        }
    }
}
