//! File systems for tests, on loop devices.

use crate::{Host, run, until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A file system on a loop device. Dropping it unmounts the file system and removes the device.
#[derive(Debug)]
pub struct Pool {
    mount: PathBuf,
    dir: tempfile::TempDir,
}

impl Pool {
    /// Creates a file system of a size as for `truncate(1)`, with a program such as `mkfs.ext4` and its arguments.
    #[must_use]
    pub fn new(size: &str, make: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real path");
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        Self::at(real.join("pool"), dir, size, make, "loop")
    }

    /// Like [`Self::new`], but backed by memory if there is enough: faster for tests with many syncs.
    #[must_use]
    pub fn in_memory(size: &str, make: &[&str]) -> Self {
        let room = rustix::fs::statvfs("/dev/shm").map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        if room < 1 << 30 {
            return Self::new(size, make);
        }
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        Self::at(dir.path().join("pool"), dir, size, make, "loop")
    }

    /// An ext4 file system with project quotas, which the kernel must support.
    #[must_use]
    pub fn ext4_with_quotas() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real path");
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let make = ["mkfs.ext4", "-q", "-m", "0", "-O", "quota,project", "-E", "quotatype=prjquota"];
        Self::at(real.join("pool"), dir, "512M", &make, "loop,prjquota")
    }

    /// An XFS file system with project quotas, which the kernel must support.
    #[must_use]
    pub fn xfs_with_quotas() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("real path");
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        Self::at(real.join("pool"), dir, "512M", &["mkfs.xfs", "-q"], "loop,prjquota")
    }

    /// Like [`Self::new`], but mounted on the state directory of a host.
    #[must_use]
    pub fn for_state_of(host: &Host, size: &str, make: &[&str]) -> Self {
        let pool =
            Self::at(host.path("state"), tempfile::tempdir().expect("a temporary directory"), size, make, "loop");
        fs::set_permissions(pool.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
        pool
    }

    fn at(mount: PathBuf, dir: tempfile::TempDir, size: &str, make: &[&str], options: &str) -> Self {
        let image = dir.path().join("image");
        fs::create_dir(&mount).expect("mkdir");
        run(Command::new("truncate").args(["-s", size]).arg(&image));
        run(Command::new(make[0]).args(&make[1..]).arg(&image));
        // As `bailiwick setup` makes a pool: the audit tells of one whose file has holes, or gets some.
        run(Command::new("fallocate").args(["--length", size]).arg(&image));
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(&mount));
        keep_allocated(&image);
        Self { mount, dir }
    }

    /// A btrfs file system with quotas.
    #[must_use]
    pub fn btrfs() -> Self {
        let pool = Self::new("512M", &["mkfs.btrfs", "-q"]);
        run(Command::new("btrfs").args(["quota", "enable"]).arg(pool.path()));
        pool
    }

    /// The mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Unmounts the file system, runs a program such as `fsck` on its image, and mounts it again. Returns the
    /// output of the program, whatever its exit status.
    pub fn unmounted(&self, program: &str, arguments: &[&str]) -> Output {
        // A jail that is still ending may keep the file system busy.
        let unmount = || Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
        until("the file system to be free", || unmount().is_ok_and(|status| status.success()));
        let image = self.dir.path().join("image");
        let output = Command::new(program).args(arguments).arg(&image).output();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&self.mount));
        keep_allocated(&image);
        output.unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

/// Lets nobody make holes in the file of a loop device.
fn keep_allocated(image: &Path) {
    let devices =
        Command::new("losetup").args(["--noheadings", "--output", "NAME", "--associated"]).arg(image).output();
    let devices = devices.expect("losetup runs").stdout;
    for device in String::from_utf8_lossy(&devices).lines() {
        let name = device.trim().trim_start_matches("/dev/");
        fs::write(format!("/sys/block/{name}/queue/discard_max_bytes"), "0").expect("discards are turned off");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A jail that is still ending may keep the file system busy.
        let deadline = Instant::now() + Duration::from_secs(5);
        let unmount = || Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
        while !unmount().is_ok_and(|status| status.success()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        // After a failure it may stay busy for longer.
        Command::new("umount").arg("-l").arg(&self.mount).stderr(Stdio::null()).status().ok();
    }
}
