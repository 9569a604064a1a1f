//! A setup on a simulated host that is killed before and after each of its effects: it goes on, or is taken back, and leaves
//! nothing half done.

use bailiwick_proto::Failure;
use bailiwick_setup::{Machine, Options, Outcome, PoolSize, Said, Setup, StepOutcome, System};
use bailiwick_types::{ExitStatus, QuotaFacts, StorageFacts};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const POOL: &str = "var/lib/bailiwick.pool";
const RULE: &str = "etc/udev/rules.d/60-bailiwick-pool.rules";
const CONFIG: &str = "etc/bailiwick/bailiwick.toml";

/// A host whose programs only pretend.
struct Host {
    root: tempfile::TempDir,
    /// The number of the file system on the pool's device.
    file_system: Option<String>,
    is_mounted: bool,
    enabled: BTreeSet<String>,
    active: BTreeSet<String>,
    /// How many effects there were, and at which one the program is killed.
    effects: usize,
    killed_at: Option<usize>,
    sshd_is_broken: bool,
    holds: bool,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("temporary directory");
        let make = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            fs::write(path, text).expect("writes");
        };
        make(CONFIG, include_str!("../../../../config/bailiwick.toml"));
        make("etc/bailiwick/plans.d/small.toml", include_str!("../../../../config/plans.d/small.toml"));
        make("etc/ssh/sshd_config", "Port 22\n");
        make("proc/filesystems", "\text4\n\txfs\n");
        make("proc/sys/kernel/random/uuid", "5bd0c0de-0000-4000-8000-000000000001\n");
        for program in ["sshd", "mkfs.xfs", "mkfs.ext4"] {
            make(&format!("usr/sbin/{program}"), "");
        }
        for folder in ["var/lib/bailiwick", "dev", "sys/block", "run/userdb", "etc/bailiwick/tenants.d"] {
            fs::create_dir_all(root.path().join(folder)).expect("mkdir");
        }
        Self {
            root,
            file_system: None,
            is_mounted: false,
            enabled: BTreeSet::new(),
            active: ["ssh.service".to_owned()].into(),
            effects: 0,
            killed_at: None,
            sshd_is_broken: false,
            holds: true,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn has_device(&self) -> bool {
        self.at("sys/block/loop0").exists()
    }

    fn apply_rule(&self) {
        if !self.has_device() {
            return;
        }
        let has_rule = self.at(RULE).exists();
        fs::write(self.at("sys/block/loop0/queue/discard_max_bytes"), if has_rule { "0" } else { "4096" })
            .expect("writes");
        if has_rule && !self.at("dev/bailiwick-pool").exists() {
            symlink("loop0", self.at("dev/bailiwick-pool")).expect("symlink");
        }
    }

    fn systemctl(&mut self, arguments: &[&str]) -> Said {
        let units = || arguments.iter().skip(1).filter(|word| !word.starts_with('-')).map(|word| (*word).to_owned());
        match arguments[0] {
            "enable" => self.enabled.extend(units()),
            "disable" => self.enabled.retain(|unit| !units().any(|other| other == *unit)),
            "is-enabled" => return said(units().all(|unit| self.enabled.contains(&unit)), ""),
            "is-active" => return said(units().all(|unit| self.active.contains(&unit)), ""),
            "start" | "restart" => return said(units().all(|unit| self.start(&unit)), ""),
            "stop" => units().for_each(|unit| self.stop(&unit)),
            _ => {}
        }
        said(true, "")
    }

    fn start(&mut self, unit: &str) -> bool {
        let written = |host: &Self| host.at("etc/systemd/system").join(unit).exists();
        match unit {
            "bailiwick-pool.service" => {
                if !written(self) || !self.at(POOL).exists() {
                    return false;
                }
                if !self.has_device() {
                    for folder in ["loop", "queue"] {
                        fs::create_dir_all(self.at("sys/block/loop0").join(folder)).expect("mkdir");
                    }
                    fs::write(self.at("dev/loop0"), "").expect("writes");
                    let file = self.at(POOL).display().to_string();
                    fs::write(self.at("sys/block/loop0/loop/backing_file"), file).expect("writes");
                }
                self.apply_rule();
            }
            "var-lib-bailiwick.mount" => {
                if !written(self) || self.file_system.is_none() || !self.has_device() {
                    return false;
                }
                self.is_mounted = true;
            }
            "bailiwick.target" => {
                let all = ["bailiwick.target", "bailiwickd.service", "bailiwick-warden.service"];
                self.active.extend(all.map(str::to_owned));
            }
            _ => {}
        }
        self.active.insert(unit.to_owned());
        true
    }

    fn stop(&mut self, unit: &str) {
        match unit {
            "bailiwick-pool.service" => self.detach(),
            "var-lib-bailiwick.mount" => self.is_mounted = false,
            _ => {}
        }
        self.active.remove(unit);
    }

    fn detach(&mut self) {
        assert!(!self.is_mounted, "a device in use was taken away");
        for path in ["dev/loop0", "dev/bailiwick-pool"] {
            fs::remove_file(self.at(path)).ok();
        }
        fs::remove_dir_all(self.at("sys/block/loop0")).ok();
        // The file goes with it.
        self.file_system = None;
    }

    /// Everything that an administrator can see, without the journal.
    fn state(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let path = entry.path();
                let name = path.strip_prefix(self.root.path()).expect("below").display().to_string();
                let is_link = path.symlink_metadata().expect("there").is_symlink();
                match name.as_str() {
                    "var/lib/bailiwick-setup" | "sys" => {}
                    POOL => drop(all.insert(name, "the pool".to_owned())),
                    _ if is_link => drop(all.insert(name, "a link".to_owned())),
                    _ if path.is_dir() => folders.push(path),
                    _ => drop(all.insert(name, fs::read_to_string(path).expect("text"))),
                }
            }
        }
        all.insert("mounted".to_owned(), self.is_mounted.to_string());
        all.insert("file system".to_owned(), format!("{:?}", self.file_system));
        all.insert("enabled".to_owned(), format!("{:?}", self.enabled));
        all
    }

    fn setup(&mut self) -> Result<Vec<StepOutcome>, Failure> {
        let options = Options { size: PoolSize::Bytes(512 << 20), ..Options::default() };
        let root = self.root.path().to_owned();
        let mut setup = Setup::open(Machine::new(&root, self), Path::new("/etc/bailiwick"))?;
        let (plan, _) = setup.plan(&options)?;
        setup.carry_out(&options, &plan, &mut |_, _| {})
    }

    fn undo(&mut self) -> Result<Vec<StepOutcome>, Failure> {
        let root = self.root.path().to_owned();
        Setup::open(Machine::new(&root, self), Path::new("/etc/bailiwick"))?.undo(&mut |_, _| {})
    }
}

fn said(is_ok: bool, out: &str) -> Said {
    Said { status: Some(i32::from(!is_ok)), out: out.to_owned(), err: String::new() }
}

impl System for Host {
    fn run(&mut self, program: &str, arguments: &[&str]) -> io::Result<Said> {
        let last = arguments.last().copied().unwrap_or_default();
        Ok(match program {
            "systemctl" => self.systemctl(arguments),
            "udevadm" => {
                self.apply_rule();
                said(true, "")
            }
            "losetup" if arguments[0] == "-d" => {
                self.detach();
                said(true, "")
            }
            "losetup" => said(true, if self.has_device() { "/dev/loop0\n" } else { "" }),
            "wipefs" => said(true, self.file_system.as_deref().map_or("", |_| "xfs bailiwick\n")),
            "blkid" if arguments.contains(&"UUID") => said(true, self.file_system.as_deref().unwrap_or_default()),
            "blkid" => Said { status: Some(if self.file_system.is_some() { 0 } else { 2 }), ..Said::default() },
            "lsblk" => said(true, "loop0 loop \n"),
            "mkfs.xfs" => {
                let discard = fs::read_to_string(self.at("sys/block/loop0/queue/discard_max_bytes"));
                assert_eq!(discard.expect("a device"), "0", "discard is off before the file system is made");
                assert!(Path::new(last).exists(), "{last}");
                let uuid = arguments.iter().find_map(|word| word.strip_prefix("uuid=")).expect("a number");
                self.file_system = Some(uuid.to_owned());
                said(true, "")
            }
            "findmnt" => {
                let source = self.at("dev/loop0").display().to_string();
                said(self.is_mounted, if self.is_mounted { &source } else { "" })
            }
            "/usr/sbin/sshd" if arguments[0] == "-t" => said(!self.sshd_is_broken, "line 3: Bad configuration option"),
            "/usr/sbin/sshd" => {
                let has = self.at("etc/ssh/sshd_config.d/00-bailiwick.conf").exists()
                    && fs::read_to_string(self.at("etc/ssh/sshd_config")).is_ok_and(|text| text.starts_with("Include"))
                    && self.at("run/userdb/bailiwick-proof.user").exists();
                let text = "forcecommand /usr/bin/bailiwick-shell\nauthorizedkeyscommand /usr/bin/bailiwick keys %u\n\
                            authorizedkeysfile none\ndisableforwarding yes\n";
                said(true, if has { text } else { "" })
            }
            _ => said(false, ""),
        })
    }

    fn storage(&mut self, directory: &Path) -> StorageFacts {
        let is_pool = self.is_mounted && directory.ends_with("bailiwick");
        let nothing = QuotaFacts::Nothing { why: "ext4 has no project quotas".to_owned(), remedy: "none".to_owned() };
        StorageFacts {
            fs_type: if is_pool { "xfs" } else { "ext4" }.to_owned(),
            quota: if is_pool { QuotaFacts::Projects } else { nothing },
            devices: Vec::new(),
        }
    }

    fn writes_past_quota(&mut self, _: &Path) -> io::Result<bool> {
        Ok(!self.holds)
    }

    fn group(&mut self, _: &str) -> Option<u32> {
        Some(990)
    }

    fn pause(&mut self) {}

    fn reached(&mut self) -> Result<(), Failure> {
        if self.killed_at == Some(self.effects) {
            return Err(Failure::of(ExitStatus::Failed, "killed"));
        }
        self.effects += 1;
        Ok(())
    }
}

/// Fails with the names of what differs.
#[track_caller]
fn assert_same(now: &BTreeMap<String, String>, golden: &BTreeMap<String, String>, when: &str) {
    let names: BTreeSet<&String> = now.keys().chain(golden.keys()).collect();
    let differ: Vec<_> = names.into_iter().filter(|name| now.get(*name) != golden.get(*name)).collect();
    assert!(differ.is_empty(), "{when}: {differ:?} differ");
}

fn outcomes(all: &[StepOutcome], wanted: Outcome) -> usize {
    all.iter().filter(|step| step.outcome == wanted).count()
}

#[test]
fn a_second_run_changes_nothing_and_an_undo_leaves_nothing() {
    let mut host = Host::new();
    let before = host.state();
    let done = host.setup().expect("works");
    assert_eq!(outcomes(&done, Outcome::Done), done.len());
    let (after, effects) = (host.state(), host.effects);
    assert!(after.contains_key(POOL) && host.is_mounted && host.active.contains("bailiwickd.service"));
    assert!(after[CONFIG].contains("disk = \"25M\""), "{}", after[CONFIG]);
    assert!(after["etc/bailiwick/plans.d/small.toml"].contains("\ndisk = \"51M\"\n"));
    let again = host.setup().expect("works");
    assert_eq!(outcomes(&again, Outcome::Unchanged), again.len());
    assert_same(&host.state(), &after, "after a second run");
    assert_eq!(host.effects, effects, "a second run has no effect");
    let journal = fs::metadata(host.at("var/lib/bailiwick-setup/journal.json")).expect("there");
    let folder = fs::metadata(host.at("var/lib/bailiwick-setup")).expect("there");
    let mode = |metadata: &fs::Metadata| std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    assert_eq!((mode(&journal), mode(&folder)), (0o600, 0o700));
    let back = host.undo().expect("works");
    assert_eq!(outcomes(&back, Outcome::TakenBack), done.len());
    assert_same(&host.state(), &before, "after an undo");
    assert!(!host.at("var/lib/bailiwick-setup").exists());
    assert_eq!(host.undo().expect("nothing to do"), []);
}

/// The number of effects of a whole setup, and of a whole undo.
fn counts() -> (usize, usize) {
    let mut host = Host::new();
    host.setup().expect("works");
    let setup = host.effects;
    host.undo().expect("works");
    (setup, host.effects - setup)
}

/// Tries something for each effect. Most of the time goes by with waiting for disks, so many are tried at once.
fn at_each_effect(count: usize, attempt: impl Fn(usize) + Sync) {
    const AT_ONCE: usize = 8;
    assert!(count > AT_ONCE, "{count}");
    let attempt = &attempt;
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            scope.spawn(move || (first..count).step_by(AT_ONCE).for_each(attempt));
        }
    });
}

#[test]
fn a_setup_that_is_killed_goes_on_where_it_was() {
    let mut host = Host::new();
    host.setup().expect("works");
    let golden = host.state();
    at_each_effect(counts().0, |at| {
        let mut host = Host::new();
        host.killed_at = Some(at);
        host.setup().expect_err("killed");
        host.killed_at = None;
        host.setup().unwrap_or_else(|failure| panic!("killed at {at}: {failure}"));
        assert_same(&host.state(), &golden, &format!("killed at {at}"));
        let again = host.setup().expect("works");
        assert_eq!(outcomes(&again, Outcome::Unchanged), again.len(), "killed at {at}: {again:?}");
    });
}

#[test]
fn a_setup_that_is_killed_can_be_taken_back() {
    at_each_effect(counts().0, |at| {
        let mut host = Host::new();
        let before = host.state();
        host.killed_at = Some(at);
        host.setup().expect_err("killed");
        host.killed_at = None;
        host.undo().unwrap_or_else(|failure| panic!("killed at {at}: {failure}"));
        assert_same(&host.state(), &before, &format!("killed at {at}"));
    });
}

#[test]
fn an_undo_that_is_killed_goes_on() {
    at_each_effect(counts().1, |at| {
        let mut host = Host::new();
        let before = host.state();
        host.setup().expect("works");
        host.killed_at = Some(host.effects + at);
        host.undo().expect_err("killed");
        host.killed_at = None;
        if let Err(failure) = host.setup() {
            assert_eq!(failure.status, ExitStatus::Conflict, "killed at {at}: {failure}");
            host.undo().unwrap_or_else(|failure| panic!("killed at {at}: {failure}"));
        } else {
            // It was killed before it had begun, or after it had ended.
            host.undo().expect("works");
        }
        assert_same(&host.state(), &before, &format!("killed at {at}"));
    });
}

#[test]
fn an_undo_is_refused_while_there_are_tenants_or_changed_files() {
    let mut host = Host::new();
    host.setup().expect("works");
    let (state, text) = (host.state(), fs::read_to_string(host.at(CONFIG)).expect("text"));
    let refused = |host: &mut Host, word: &str| {
        let failure = host.undo().expect_err("refused");
        assert!(failure.status == ExitStatus::Refused && failure.message.contains(word), "{failure}");
    };
    fs::write(host.at("etc/bailiwick/tenants.d/alice.toml"), "plan = \"small\"\n").expect("writes");
    refused(&mut host, "alice");
    fs::remove_file(host.at("etc/bailiwick/tenants.d/alice.toml")).expect("removes");
    fs::create_dir_all(host.at("var/lib/bailiwick/tenants/bob")).expect("mkdir");
    refused(&mut host, "bob");
    fs::remove_dir_all(host.at("var/lib/bailiwick/tenants")).expect("removes");
    fs::write(host.at(CONFIG), format!("{text}# mine\n")).expect("writes");
    refused(&mut host, "has changed since");
    fs::write(host.at(CONFIG), text).expect("writes");
    assert_same(&host.state(), &state, "nothing was taken back");
    host.undo().expect("works");
}

#[test]
fn what_was_lost_of_a_setup_is_put_back_by_another_run() {
    let mut host = Host::new();
    host.setup().expect("works");
    let golden = host.state();
    fs::remove_file(host.at(RULE)).expect("removes");
    // A hole, as a discard makes it.
    let pool = fs::File::options().write(true).open(host.at(POOL)).expect("opens");
    rustix::fs::fallocate(
        &pool,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        0,
        1 << 20,
    )
    .expect("punches");
    let again = host.setup().expect("works");
    for name in ["udev-rule", "pool-file"] {
        assert!(again.iter().any(|step| step.name == name && step.outcome == Outcome::Done), "{again:?}");
    }
    assert_same(&host.state(), &golden, "after another run");
    // A file that was cut holds no whole file system any more: that is told, and nothing is done.
    pool.set_len(1 << 20).expect("cuts");
    let failure = host.setup().expect_err("it is cut");
    assert!(failure.status == ExitStatus::Conflict && failure.message.contains("somebody has cut it"), "{failure}");
}

#[test]
fn a_configuration_that_does_not_parse_changes_nothing() {
    for spoil in [
        |host: &mut Host| host.sshd_is_broken = true,
        |host: &mut Host| fs::write(host.at(CONFIG), "state_dir = 5\n").expect("writes"),
    ] {
        let mut host = Host::new();
        spoil(&mut host);
        let before = host.state();
        let failure = host.setup().expect_err("it does not parse");
        assert!([ExitStatus::Conflict, ExitStatus::Invalid].contains(&failure.status), "{failure}");
        assert_same(&host.state(), &before, "nothing was changed");
        assert_eq!(host.effects, 0);
        assert!(!host.at("var/lib/bailiwick-setup").exists());
    }
}

#[test]
fn a_limit_that_does_not_hold_is_a_failure() {
    let mut host = Host::new();
    host.holds = false;
    let failure = host.setup().expect_err("it does not hold");
    assert!(failure.status == ExitStatus::HostCannot && failure.message.contains("past a quota"), "{failure}");
    host.holds = true;
    host.setup().expect("it goes on");
}

#[test]
fn a_foreign_pool_file_is_never_used() {
    let mut host = Host::new();
    fs::write(host.at(POOL), "mine").expect("writes");
    let failure = host.setup().expect_err("it is somebody's");
    assert_eq!(failure.status, ExitStatus::Conflict, "{failure}");
    assert_eq!(fs::read_to_string(host.at(POOL)).expect("text"), "mine");
}
