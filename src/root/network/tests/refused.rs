//! `bailiwick-net` in hands that have no right to it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A user without any right.
const NOBODY: u32 = 65_534;

/// Whoever is not root learns that, and not which of its calls the kernel has refused.
#[test]
fn it_must_be_started_as_root() {
    let temp = tempfile::tempdir().expect("temporary directory");
    let program = temp.path().join("bailiwick-net");
    fs::copy(env!("CARGO_BIN_EXE_bailiwick-net"), &program).expect("copies");
    fs::create_dir(temp.path().join("etc")).expect("mkdir");
    // Whatever the umask is.
    for path in [temp.path(), &program, &temp.path().join("etc")] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("chmod");
    }
    for option in [None, Some("--uplink"), Some("--remove"), Some("--cache")] {
        let mut command = Command::new(&program);
        command.arg("--config").arg(temp.path().join("etc")).args(option);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{option:?}: {text}");
        assert!(text.ends_with("must be started as root\n") && text.lines().count() == 1, "{option:?}: {text}");
    }
}
