//! The pool file on a real loop device: it is allocated, it stays so, and it grows. Needs root; the service manager and udev are
//! played, and quotas are left to the virtual machines.

use bailiwick_observe::PoolBacking;
use bailiwick_setup::{FileSystemChoice, GrowTo, Machine, Options, PoolSize, Said, Setup, System};
use bailiwick_types::{QuotaFacts, StorageFacts};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

/// A folder that plays `/`, with real programs except for the service manager.
struct Host {
    root: tempfile::TempDir,
    device: Option<PathBuf>,
    is_mounted: bool,
}

impl Host {
    fn new() -> Self {
        let root =
            tempfile::Builder::new().prefix("bailiwick-setup").tempdir_in("/var/tmp").expect("temporary directory");
        for folder in
            ["var/lib/bailiwick", "dev", "run", "etc/bailiwick/tenants.d", "usr/sbin", "proc/sys/kernel/random"]
        {
            fs::create_dir_all(root.path().join(folder)).expect("mkdir");
        }
        symlink("/sys", root.path().join("sys")).expect("symlink");
        for (path, text) in [
            ("etc/bailiwick/bailiwick.toml", ""),
            ("proc/filesystems", "\txfs\n\text4\n\tquota_v2\n"),
            ("usr/sbin/mkfs.xfs", ""),
            ("usr/sbin/mkfs.ext4", ""),
        ] {
            fs::write(root.path().join(path), text).expect("writes");
        }
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a number");
        fs::write(root.path().join("proc/sys/kernel/random/uuid"), uuid).expect("writes");
        Self { root, device: None, is_mounted: false }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn pool(&self) -> PathBuf {
        self.at("var/lib/bailiwick.pool")
    }

    /// What the unit does, and what udev does by the rule.
    fn attach(&mut self) -> bool {
        if self.device.is_none() {
            let arguments = ["-f", "--show", "--direct-io=on", "--sector-size", "4096"];
            let output = Command::new("losetup").args(arguments).arg(self.pool()).output().expect("losetup runs");
            if !output.status.success() {
                return false;
            }
            self.device = Some(String::from_utf8_lossy(&output.stdout).trim().into());
        }
        let device = self.device.clone().expect("made above");
        let name = device.file_name().expect("a name").to_string_lossy().into_owned();
        fs::write(format!("/sys/block/{name}/queue/discard_max_bytes"), "0").expect("discard is turned off");
        let link = self.at("dev/bailiwick-pool");
        link.symlink_metadata().is_ok() || symlink(device, link).is_ok()
    }

    fn detach(&mut self) {
        if let Some(device) = self.device.take() {
            assert!(Command::new("losetup").arg("-d").arg(device).status().expect("losetup runs").success());
            fs::remove_file(self.at("dev/bailiwick-pool")).ok();
        }
    }

    fn backing(&self) -> PoolBacking {
        let name = self.device.as_ref().and_then(|device| device.file_name()).expect("a device").to_string_lossy();
        let device = bailiwick_types::BlockDevice { number: String::new(), name: name.into_owned(), weight: None };
        let storage = StorageFacts { devices: vec![device], ..nothing("xfs") };
        bailiwick_observe::pool_backing(&storage).expect("a pool")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.is_mounted {
            Command::new("umount").arg(self.at("var/lib/bailiwick")).status().ok();
        }
        if let Some(device) = &self.device {
            Command::new("losetup").arg("-d").arg(device).status().ok();
        }
    }
}

fn nothing(fs_type: &str) -> StorageFacts {
    let quota = QuotaFacts::Nothing { why: "not here".to_owned(), remedy: String::new() };
    StorageFacts { fs_type: fs_type.to_owned(), quota, devices: Vec::new() }
}

fn said(is_ok: bool) -> Said {
    Said { status: Some(i32::from(!is_ok)), ..Said::default() }
}

impl System for Host {
    fn run(&mut self, program: &str, arguments: &[&str]) -> io::Result<Said> {
        match (program, arguments) {
            ("systemctl", ["start", "bailiwick-pool.service"]) => return Ok(said(self.attach())),
            ("systemctl", ["stop", "bailiwick-pool.service"]) => self.detach(),
            ("systemctl", ["start", "var-lib-bailiwick.mount"]) => {
                let (device, target) = (self.at("dev/bailiwick-pool"), self.at("var/lib/bailiwick"));
                let mut mount = Command::new("mount");
                let status = mount.args(["-o", "nosuid,nodev,noatime"]).arg(device).arg(target).status()?;
                self.is_mounted = status.success();
                return Ok(said(self.is_mounted));
            }
            ("systemctl", ["stop", "var-lib-bailiwick.mount"]) => {
                assert!(Command::new("umount").arg(self.at("var/lib/bailiwick")).status()?.success());
                self.is_mounted = false;
            }
            ("systemctl" | "udevadm" | "modprobe" | "apt-cache", _) => {}
            _ => {
                let output = Command::new(program).args(arguments).output()?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                return Ok(Said { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) });
            }
        }
        Ok(said(true))
    }

    fn storage(&mut self, directory: &Path) -> StorageFacts {
        if self.is_mounted && directory.ends_with("var/lib/bailiwick") {
            return StorageFacts { quota: QuotaFacts::Projects, ..nothing("xfs") };
        }
        nothing("ext4")
    }

    fn writes_past_quota(&mut self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn group(&mut self, _: &str) -> Option<u32> {
        None
    }
}

/// Whether this machine can do what the test needs.
fn can(program: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let has = ["/usr/sbin", "/sbin"].iter().any(|folder| Path::new(folder).join(program).exists());
    let can = is_root && has && Path::new("/dev/loop-control").exists();
    if !can {
        let text = format!("not tested here: it needs root, loop devices and {program}\n");
        io::stderr().write_all(text.as_bytes()).ok();
    }
    can
}

#[test]
fn an_xfs_pool_is_allocated_stays_so_and_grows() {
    if !can("mkfs.xfs") {
        return;
    }
    let mut host = Host::new();
    let root = host.root.path().to_owned();
    let options =
        Options { size: PoolSize::Bytes(512 * MIB), file_system: FileSystemChoice::Xfs, ..Options::default() };
    let mut setup = Setup::open(Machine::new(&root, &mut host), Path::new("/etc/bailiwick")).expect("opens");
    let (plan, _) = setup.plan(&options).expect("a plan");
    // The daemons cannot be started here.
    let steps = plan.steps.into_iter().filter(|step| !["start"].contains(&step.name.as_str())).collect();
    let plan = bailiwick_setup::Plan { steps, ..plan };
    setup.carry_out(&options, &plan, &mut |_, _| {}).expect("works");
    drop(setup);
    assert!(host.is_mounted);
    // mkfs would have discarded all of it, and a trim whatever is free.
    assert_eq!(host.backing().problems(), [""; 0]);
    let trimmed = Command::new("fstrim").arg(host.at("var/lib/bailiwick")).output().expect("fstrim runs");
    assert_eq!(host.backing().problems(), [""; 0], "{trimmed:?}");
    // Zeroes that a file system asks for would be holes too.
    let zeroed = host.at("var/lib/bailiwick/zeroed");
    let file = fs::File::create(&zeroed).expect("creates");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::ZERO_RANGE, 0, 64 * MIB).expect("zeroes");
    file.sync_all().expect("syncs");
    drop(file);
    assert_eq!(host.backing().problems(), [""; 0]);
    let mode = fs::metadata(host.pool()).expect("there").mode() & 0o777;
    assert_eq!(mode, 0o600);

    let size = |host: &Host| bailiwick_observe::space(&host.at("var/lib/bailiwick")).expect("statvfs").0;
    let was = size(&host);
    let mut machine = Machine::new(&root, &mut host);
    let grow = |machine: &mut Machine<'_>, to| {
        bailiwick_setup::grow(machine, Path::new("/var/lib/bailiwick"), to, &mut |_| {})
    };
    assert_eq!(grow(&mut machine, GrowTo::By(128 * MIB)).expect("grows"), 640 * MIB);
    assert!(grow(&mut machine, GrowTo::Size(MIB)).is_err(), "it cannot become smaller");
    assert!(grow(&mut machine, GrowTo::Size(1 << 50)).is_err(), "there is no room");
    assert!(size(&host) > was + 100 * MIB, "{} {was}", size(&host));
    let backing = host.backing();
    assert_eq!((backing.size, backing.device_size, backing.problems()), (640 * MIB, 640 * MIB, Vec::new()));

    let mut setup = Setup::open(Machine::new(&root, &mut host), Path::new("/etc/bailiwick")).expect("opens");
    setup.undo(&mut |_, _| {}).expect("works");
    drop(setup);
    assert!(!host.pool().exists() && host.device.is_none() && !host.is_mounted);
}

#[test]
fn a_device_that_holds_something_is_refused_whatever_it_is() {
    if !can("mkfs.ext4") {
        return;
    }
    let temp = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
    let file = temp.path().join("disk");
    fs::File::create(&file).and_then(|file| file.set_len(600 * MIB)).expect("makes");
    let attached = Command::new("losetup").args(["-f", "--show"]).arg(&file).output().expect("losetup runs");
    let device = String::from_utf8_lossy(&attached.stdout).trim().to_owned();
    let mut host = Host::new();
    let root = host.root.path().to_owned();
    let name = Path::new(&device).file_name().expect("a name").to_owned();
    symlink(&device, root.join("dev").join(&name)).expect("symlink");
    let options = Options {
        pool: format!("device:/dev/{}", name.to_string_lossy()).parse().expect("a device"),
        ..Options::default()
    };
    let mut plan = || {
        let mut setup = Setup::open(Machine::new(&root, &mut host), Path::new("/etc/bailiwick")).expect("opens");
        setup.plan(&options).map(drop)
    };
    let run = |line: &str| Command::new("sh").args(["-c", line]).status().expect("sh runs").success();
    let mut told = Vec::new();
    let empty = plan();
    for make in [
        format!("mkfs.ext4 -q -F {device}"),
        format!("mkswap -q {device} 2>/dev/null"),
        format!("mkfs.btrfs -q -f {device}"),
    ] {
        assert!(run(&make), "{make}");
        told.push((make, plan()));
        run(&format!("wipefs -a -q {device} && dd if=/dev/zero of={device} bs=1M count=1 status=none"));
    }
    let is_detached = run(&format!("losetup -d {device}"));
    empty.expect("an empty device is used");
    assert!(is_detached);
    for (make, result) in told {
        let failure = result.expect_err(&make);
        assert!(failure.message.contains("not empty"), "{make}: {failure}");
    }
}
