//! The plan: which steps make this host what the operator chose. Pure; the same facts give the same plan.
//!
//! Danger: a device is written to only if the facts say that nothing was found on it, or if this setup made its file system.

use crate::doors;
use crate::facts::{DeviceFacts, Facts, FileSystemFacts, OwnPool, SMALL_PLAN, package_of};
use crate::options::{DoorChoice, FileSystemChoice, Options, PoolChoice, PoolSize};
use crate::step::{FileSystem, Step, Work};
use crate::units::{self, POOL_FILE, POOL_LINK, POOL_SERVICE, UDEV_RULE, UNITS};
use bailiwick_proto::Failure;
use bailiwick_types::{ByteSize, ExitStatus, QuotaFacts};
use serde::Serialize;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, InlineTable, Item, Value, value};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The smallest pool: XFS wants 300 MiB, and a tenant some room.
const LEAST_POOL: u64 = 512 * MIB;
/// The line of the package's plan that waits for a disk with limits.
const NO_LIMIT: &str = "# disk = \"10G:11G\"\n";
/// The largest disk limit that setup writes.
const MOST_OF_TENANT: u64 = 10 * GIB;
/// The group of Debian's web servers.
const WEB_GROUP: &str = "www-data";
/// Where nginx finds the files of sites.
const SITES: &str = "/etc/nginx/bailiwick";
const NGINX_INCLUDE: &str = "/etc/nginx/conf.d/bailiwick.conf";

/// What will be done, in order, and what the operator should know about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// Remarks.
    pub notes: Vec<String>,
}

/// Makes the plan.
///
/// # Errors
/// When the host cannot become what the operator chose, with the reason and what to do. Then nothing is to be done at all.
pub fn plan(options: &Options, facts: &Facts) -> Result<Plan, Failure> {
    let (steps, notes, config) = (Vec::new(), Vec::new(), facts.config_text.clone());
    let mut plan = Draft { facts, steps, notes, config, disk: 0 };
    let doors = plan.doors(options)?;
    let kept = plan.storage(options)?;
    plan.settings(kept, &doors)?;
    plan.first_limit();
    plan.drop_ins();
    let is_held = options.pool != PoolChoice::None;
    if is_held && !matches!(facts.state_quota, QuotaFacts::Groups) {
        let directory = facts.state_dir.clone();
        let what = format!("prove that the kernel holds a disk limit below {}", directory.display());
        plan.add("proof", what, Work::Proof { directory });
    }
    plan.servers(&doors);
    let config = facts.config.clone();
    plan.add("start", "start bailiwick.target, now and at every boot".to_owned(), Work::Started { config });
    Ok(Plan { steps: plan.steps, notes: plan.notes })
}

struct Draft<'a> {
    facts: &'a Facts,
    steps: Vec<Step>,
    notes: Vec<String>,
    /// `bailiwick.toml` as it should be.
    config: String,
    /// The size of the tenants' disk, if limits hold there.
    disk: u64,
}

fn refuse<T>(status: ExitStatus, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::of(status, message))
}

impl Draft<'_> {
    fn add(&mut self, name: &str, what: String, work: Work) {
        self.steps.push(Step { name: name.to_owned(), what, work });
    }

    fn add_file(&mut self, name: &str, path: impl Into<PathBuf>, text: String) {
        let path = path.into();
        self.add(name, format!("write {}", path.display()), Work::File { path, text });
    }

    /// The doors to wire. What cannot be wired is refused before anything is planned.
    fn doors(&mut self, options: &Options) -> Result<Vec<DoorChoice>, Failure> {
        let facts = &self.facts.doors;
        let Some(chosen) = &options.doors else {
            if facts.sshd.is_none() {
                self.notes
                    .push("there is no sshd here, so no door is wired; `bailiwick shell TENANT` works".to_owned());
                return Ok(Vec::new());
            }
            self.check_sshd()?;
            return Ok(vec![DoorChoice::Ssh, DoorChoice::Sftp]);
        };
        for door in chosen {
            match door {
                DoorChoice::Ssh | DoorChoice::Sftp => self.check_sshd()?,
                DoorChoice::Ftp => self.check_ftp()?,
                DoorChoice::Web => self.check_nginx()?,
            }
        }
        Ok(chosen.clone())
    }

    fn check_sshd(&self) -> Result<(), Failure> {
        match &self.facts.doors.sshd {
            None => refuse(ExitStatus::HostCannot, "the doors ssh and sftp need sshd: apt install openssh-server"),
            Some(sshd) => match &sshd.problem {
                Some(why) => refuse(
                    ExitStatus::Conflict,
                    format!(
                        "sshd cannot read its own configuration, so nothing is changed: {why}; mend it, `sshd -t` says when it is whole"
                    ),
                ),
                None => Ok(()),
            },
        }
    }

    fn check_ftp(&self) -> Result<(), Failure> {
        let Some(ftp) = &self.facts.doors.ftp else {
            return refuse(
                ExitStatus::HostCannot,
                "the door ftp needs a server: apt install proftpd-core proftpd-mod-crypto",
            );
        };
        if let Some(missing) = &ftp.missing {
            let missing = missing.display();
            return refuse(
                ExitStatus::HostCannot,
                format!(
                    "\"{missing}\" is not there: apt install ssl-cert, or leave out the door ftp and see docs/doors/ftp.md"
                ),
            );
        }
        if ftp.is_changed {
            let config = ftp.config.display();
            return refuse(
                ExitStatus::Conflict,
                format!(
                    "\"{config}\" is not as its package brought it, and setup would replace it: merge docs/doors/ftp.md by hand, and leave out the door ftp"
                ),
            );
        }
        Ok(())
    }

    fn check_nginx(&self) -> Result<(), Failure> {
        match &self.facts.doors.nginx {
            None => refuse(
                ExitStatus::HostCannot,
                "the door web needs nginx: apt install nginx-light php-fpm; docs/services.md has Apache and Caddy",
            ),
            Some(Some(why)) => refuse(
                ExitStatus::Conflict,
                format!("nginx cannot read its own configuration, so nothing is changed: {why}"),
            ),
            Some(None) => Ok(()),
        }
    }

    /// Where the tenants' disk is. Returns how much of it at most is to be kept for the host, if that is ours to say.
    fn storage(&mut self, options: &Options) -> Result<Option<u64>, Failure> {
        if let Some(pool) = &self.facts.own_pool {
            return self.own_pool(options, pool);
        }
        let dir = self.facts.state_dir.display();
        match (&options.pool, &self.facts.state_quota) {
            (PoolChoice::Auto | PoolChoice::Here, QuotaFacts::Projects | QuotaFacts::Groups) => {
                self.notes.push(format!("{dir} is on {} with quotas already, and stays there", self.facts.state_type));
                let size = self.facts.state_size;
                self.disk = size;
                Ok((self.facts.reserve > size / 2).then(|| kept_of(size)))
            }
            (PoolChoice::Here, QuotaFacts::Nothing { why, remedy }) => {
                refuse(ExitStatus::HostCannot, format!("no disk limit would hold in {dir}: {why}; {remedy}"))
            }
            (PoolChoice::None, _) => {
                self.notes.push(format!("no disk limit holds in {dir}; tenants with one do not start while `require` in bailiwick.toml lists \"disk\""));
                Ok(None)
            }
            (PoolChoice::Auto | PoolChoice::File, _) => self.new_file(options).map(Some),
            (PoolChoice::Device(path), _) => self.new_device(options, path).map(Some),
        }
    }

    /// A pool that exists covers the state directory, so that one must hold nobody's data.
    fn check_no_tenants(&self) -> Result<(), Failure> {
        if self.facts.tenants.is_empty() {
            return Ok(());
        }
        let (tenants, dir) = (self.facts.tenants.join(", "), self.facts.state_dir.display());
        refuse(
            ExitStatus::Refused,
            format!(
                "a new disk at {dir} would cover the data of these tenants: {tenants}; move them there by hand (docs/setup.md), or purge them"
            ),
        )
    }

    fn new_file(&mut self, options: &Options) -> Result<u64, Failure> {
        self.check_no_tenants()?;
        let facts = self.facts;
        if let Some(size) = facts.pool_file {
            let size = ByteSize(size).rounded();
            return refuse(
                ExitStatus::Conflict,
                format!("\"{POOL_FILE}\" is there, with {size}, and no setup that is known here made it; move it away"),
            );
        }
        if !matches!(facts.below_type.as_str(), "ext4" | "xfs") {
            let kind = &facts.below_type;
            let hint = if kind == "btrfs" {
                "switch its quotas on (`btrfs quota enable`) and use `--pool here`"
            } else {
                "name a disk with `--pool device:DEV`"
            };
            return refuse(
                ExitStatus::HostCannot,
                format!("a pool file that stays allocated needs ext4 or XFS below /var/lib, which is {kind}: {hint}"),
            );
        }
        let file_system = self.file_system(options)?;
        let size = pool_size(options.size, facts.below_space)?;
        let pool = OwnPool { device: POOL_LINK.into(), file_system, uuid: facts.uuid.clone(), size: Some(size) };
        self.pool_steps(&pool);
        self.disk = size;
        Ok(kept_of(size))
    }

    fn new_device(&mut self, options: &Options, path: &Path) -> Result<u64, Failure> {
        self.check_no_tenants()?;
        let shown = path.display();
        let DeviceFacts { size, found } = self.facts.device.clone().unwrap_or_default();
        if let Some(found) = found {
            return refuse(
                ExitStatus::Refused,
                format!(
                    "{shown} is not used, because it is not empty: {found}; name another, or empty it yourself (`wipefs -a {shown}` destroys what it holds)"
                ),
            );
        }
        if size < LEAST_POOL {
            let (size, least) = (ByteSize(size).rounded(), ByteSize(LEAST_POOL));
            return refuse(ExitStatus::HostCannot, format!("{shown} has {size}, and a pool needs {least}"));
        }
        let file_system = self.file_system(options)?;
        let pool = OwnPool { device: path.to_owned(), file_system, uuid: self.facts.uuid.clone(), size: None };
        self.pool_steps(&pool);
        self.disk = size;
        Ok(kept_of(size))
    }

    /// The pool of an earlier setup: its steps again, which put back what is missing of it.
    fn own_pool(&mut self, options: &Options, pool: &OwnPool) -> Result<Option<u64>, Failure> {
        let is_same = match &options.pool {
            PoolChoice::Auto => true,
            PoolChoice::Here => matches!(self.facts.state_quota, QuotaFacts::Projects),
            PoolChoice::File => pool.size.is_some(),
            PoolChoice::Device(path) => *path == pool.device,
            PoolChoice::None => false,
        };
        if !is_same {
            let device = pool.device.display();
            return refuse(
                ExitStatus::Conflict,
                format!(
                    "an earlier setup has made a pool on {device}; `bailiwick setup --undo` takes it back, `bailiwick pool grow` makes a pool file larger"
                ),
            );
        }
        self.pool_steps(pool);
        Ok(None)
    }

    /// XFS where it can be had, or else ext4.
    fn file_system(&mut self, options: &Options) -> Result<FileSystem, Failure> {
        let facts = self.facts;
        let of = |kind: FileSystem| if kind == FileSystem::Xfs { facts.xfs } else { facts.ext4 };
        let kinds: &[FileSystem] = match options.file_system {
            FileSystemChoice::Auto => &[FileSystem::Xfs, FileSystem::Ext4],
            FileSystemChoice::Xfs => &[FileSystem::Xfs],
            FileSystemChoice::Ext4 => &[FileSystem::Ext4],
        };
        let Some(kind) = kinds.iter().copied().find(|kind| of(*kind).can_be_had()) else {
            let lacks: Vec<String> = kinds.iter().map(|kind| lack(*kind, of(*kind), &facts.kernel)).collect();
            return refuse(
                ExitStatus::HostCannot,
                format!("no file system with quotas can be made: {}", lacks.join("; ")),
            );
        };
        if kind != kinds[0] {
            self.notes.push(format!("ext4 instead of XFS: {}", lack(kinds[0], of(kinds[0]), &facts.kernel)));
        }
        Ok(kind)
    }

    fn pool_steps(&mut self, pool: &OwnPool) {
        let kind = pool.file_system;
        let facts = if kind == FileSystem::Xfs { self.facts.xfs } else { self.facts.ext4 };
        if !facts.program {
            let name = package_of(kind).to_owned();
            let program = PathBuf::from(format!("/usr/sbin/mkfs.{}", kind.word()));
            self.add("package", format!("install the package {name}"), Work::Package { name, program });
        }
        let is_pool = pool.size.is_some();
        if let Some(size) = pool.size {
            // The rule comes first: a discard would take away what is allocated.
            self.add_file("udev-rule", UDEV_RULE, units::udev_rule());
            let path = PathBuf::from(POOL_FILE);
            let what = format!("allocate {} in {POOL_FILE}", ByteSize(size).rounded());
            self.add("pool-file", what, Work::PoolFile { path: path.clone(), size });
            self.add_file("pool-unit", Path::new(UNITS).join(POOL_SERVICE), units::pool_service());
            let what = format!("make it the block device {POOL_LINK}, with direct I/O and without discard");
            self.add(
                "attach",
                what,
                Work::Attach { service: POOL_SERVICE.to_owned(), file: path, link: POOL_LINK.into() },
            );
        }
        let (device, uuid) = (pool.device.clone(), pool.uuid.clone());
        let what = format!("make {} with project quotas on {}", kind.word(), device.display());
        self.add(
            "file-system",
            what,
            Work::FileSystem { device: device.clone(), file_system: kind, uuid: uuid.clone(), is_pool },
        );
        // The names of disks change from boot to boot.
        let device = if is_pool { device } else { Path::new("/dev/disk/by-uuid").join(uuid) };
        let target = self.facts.state_dir.clone();
        let unit = units::mount_name(&target);
        self.add_file("mount-unit", Path::new(UNITS).join(&unit), units::mount_unit(&device, &target, kind, is_pool));
        let what = format!("mount it at {}", target.display());
        self.add("mount", what, Work::Mount { unit: unit.clone(), device, target });
        let units = if is_pool { vec![POOL_SERVICE.to_owned(), unit] } else { vec![unit] };
        self.add("boot", "have it mounted at every boot".to_owned(), Work::Enabled { units });
    }

    /// Changes `bailiwick.toml`: what is kept for the host, and the group of the web server.
    fn settings(&mut self, kept: Option<u64>, doors: &[DoorChoice]) -> Result<(), Failure> {
        if let Some(kept) = kept.filter(|kept| self.facts.reserve > *kept) {
            self.notes.push(format!("reserve.disk becomes {}: of a small disk, 1G would be too much", ByteSize(kept)));
            self.set("reserve", "disk", &ByteSize(kept).to_string())?;
        }
        if doors.contains(&DoorChoice::Web) && self.facts.web_group.is_none() {
            self.set("web", "group", WEB_GROUP)?;
        }
        if self.config != self.facts.config_text {
            let path = self.facts.config.join("bailiwick.toml");
            self.add_file("settings", path, self.config.clone());
        }
        Ok(())
    }

    /// Gives the package's plan a disk limit, which it lacks because no limit holds before: a tenth of the disk, 10G at most. Limits
    /// of tenants that exist stay as they are.
    fn first_limit(&mut self) {
        let Some(text) = self.facts.small_plan.as_ref().filter(|text| text.contains(NO_LIMIT)) else { return };
        if self.disk == 0 || !self.facts.tenants.is_empty() {
            return;
        }
        let limit = ByteSize(MOST_OF_TENANT.min(self.disk / 10) / MIB * MIB);
        self.notes.push(format!("tenants of the plan \"small\" get a disk limit of {limit}"));
        let text = text.replace(NO_LIMIT, &format!("disk = \"{limit}\"\n"));
        self.add_file("plan-small", self.facts.config.join(SMALL_PLAN), text);
    }

    /// Sets a key of a table in `bailiwick.toml`; all else stays as it is.
    fn set(&mut self, table: &str, key: &str, text: &str) -> Result<(), Failure> {
        let invalid =
            |error: toml_edit::TomlError| Failure::of(ExitStatus::Invalid, format!("bailiwick.toml: {error}"));
        let mut document: DocumentMut = self.config.parse().map_err(invalid)?;
        match document.get_mut(table) {
            Some(Item::Value(Value::InlineTable(inner))) => match inner.get_mut(key) {
                Some(old) => {
                    let mut new = Value::from(text);
                    *new.decor_mut() = old.decor().clone();
                    *old = new;
                }
                None => {
                    inner.insert(key, text.into());
                }
            },
            Some(other) => other[key] = value(text),
            None => {
                let mut inner = InlineTable::new();
                inner.insert(key, text.into());
                document.insert(table, value(inner));
            }
        }
        self.config = document.to_string();
        Ok(())
    }

    fn drop_ins(&mut self) {
        for (unit, text) in units::drop_ins(&self.facts.state_dir, &self.facts.runtime_dir) {
            let name = format!("drop-in-{}", unit.trim_end_matches(".service"));
            self.add_file(&name, units::drop_in(unit), text);
        }
    }

    fn servers(&mut self, doors: &[DoorChoice]) {
        let facts = self.facts;
        if let Some(sshd) = facts.doors.sshd.as_ref().filter(|_| doors.iter().any(|door| *door <= DoorChoice::Sftp)) {
            if !sshd.has_drop_in {
                self.add_file("sshd-drop-in", doors::SSHD_DROP_IN, doors::SSHD_DROP_IN_TEXT.to_owned());
            }
            if !doors::reads_drop_ins(&sshd.config) {
                self.add_file("sshd-include", doors::SSHD_CONFIG, format!("{}{}", doors::SSHD_INCLUDE, sshd.config));
            }
            let (group, free_id, records) = (facts.login_group.clone(), facts.free_id, facts.records.clone());
            let what = "have sshd hand tenants to bailiwick-shell, prove it, and reload sshd".to_owned();
            self.add("sshd", what, Work::Sshd { group, free_id, records });
        }
        if let Some(ftp) = facts.doors.ftp.as_ref().filter(|_| doors.contains(&DoorChoice::Ftp)) {
            self.add_file("ftp-config", ftp.config.clone(), ftp.wanted.clone());
            let check = if ftp.unit == "proftpd.service" {
                vec!["/usr/sbin/proftpd".to_owned(), "-t".to_owned()]
            } else {
                Vec::new()
            };
            let what = format!("start {} with it, now and at every boot", ftp.unit);
            self.add("ftp", what, Work::Server { unit: ftp.unit.clone(), check });
        }
        if doors.contains(&DoorChoice::Web) {
            let what = format!("write the files of sites to {SITES}");
            self.add("sites", what, Work::Sites { folder: SITES.into(), config: facts.config.clone() });
            self.add_file("nginx-include", NGINX_INCLUDE, format!("include {SITES}/bailiwick.conf;\n"));
            let check = ["/usr/sbin/nginx", "-t", "-q"].map(str::to_owned).into();
            let what = "start nginx.service with them, now and at every boot".to_owned();
            self.add("nginx", what, Work::Server { unit: "nginx.service".to_owned(), check });
            self.notes.push(format!(
                "each site needs a server block that includes its file of {SITES}/bailiwick.d: docs/services.md"
            ));
        }
    }
}

/// What is kept of a disk for the host: a gigabyte, and 5 % at most.
fn kept_of(size: u64) -> u64 {
    GIB.min(size / 20) / MIB * MIB
}

/// The size of a new pool file. The host keeps a gigabyte, or 5 % of a small disk.
fn pool_size(chosen: PoolSize, (all, free): (u64, u64)) -> Result<u64, Failure> {
    let size = match chosen {
        PoolSize::Percent(percent) => free / 100 * u64::from(percent),
        PoolSize::Bytes(bytes) => bytes,
    } / MIB
        * MIB;
    let least = ByteSize(LEAST_POOL);
    if size < LEAST_POOL {
        let (size, free) = (ByteSize(size).rounded(), ByteSize(free).rounded());
        return refuse(
            ExitStatus::HostCannot,
            format!(
                "a pool needs {least} at least, and would have {size}: {free} are free below /var/lib; free some space, choose another `--size`, or name a disk with `--pool device:DEV`"
            ),
        );
    }
    let kept = kept_of(all);
    if size.saturating_add(kept) > free {
        let [size, free, kept] = [size, free, kept].map(|bytes| ByteSize(bytes).rounded());
        return refuse(
            ExitStatus::HostCannot,
            format!(
                "a pool of {size} does not fit: {free} are free below /var/lib, of which the host keeps {kept}; choose a smaller `--size`, or name a disk with `--pool device:DEV`"
            ),
        );
    }
    Ok(size)
}

/// Why a file system cannot be used, and what to do about it.
fn lack(kind: FileSystem, facts: FileSystemFacts, kernel: &str) -> String {
    let word = kind.word();
    let module = if kind == FileSystem::Xfs { "xfs" } else { "ext4 and quota_v2" };
    if !facts.kernel {
        return format!("{word}: this kernel lacks {module} (on Ubuntu: apt install linux-modules-extra-{kernel})");
    }
    format!("{word}: mkfs.{word} is not there (apt install {})", package_of(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::{DoorFacts, FtpFacts, SshdFacts};

    const FULL: FileSystemFacts = FileSystemFacts { kernel: true, program: true, package: false };
    const NONE: FileSystemFacts = FileSystemFacts { kernel: false, program: true, package: false };

    /// A fresh Debian with sshd, 40G of disk and 36G free.
    fn fresh() -> Facts {
        Facts {
            config: "/etc/bailiwick".into(),
            config_text: include_str!("../../../../config/bailiwick.toml").to_owned(),
            small_plan: None,
            state_dir: "/var/lib/bailiwick".into(),
            runtime_dir: "/run/bailiwick".into(),
            login_group: "bailiwick-tenants".to_owned(),
            free_id: 9_999_999,
            records: "/run/userdb".into(),
            reserve: GIB,
            web_group: None,
            tenants: Vec::new(),
            state_type: "ext4".to_owned(),
            state_quota: QuotaFacts::Nothing {
                why: "ext4 has no project quotas".to_owned(),
                remedy: "another".to_owned(),
            },
            state_size: 40 * GIB,
            below_type: "ext4".to_owned(),
            below_space: (40 * GIB, 36 * GIB),
            pool_file: None,
            own_pool: None,
            device: None,
            xfs: FULL,
            ext4: FULL,
            kernel: "6.12".to_owned(),
            uuid: "5bd0c0de-0000-4000-8000-000000000001".to_owned(),
            doors: DoorFacts {
                sshd: Some(SshdFacts { config: doors::SSHD_INCLUDE.to_owned(), has_drop_in: true, problem: None }),
                ftp: None,
                nginx: None,
            },
        }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.steps.iter().map(|step| step.name.as_str()).collect()
    }

    const POOL: [&str; 8] =
        ["udev-rule", "pool-file", "pool-unit", "attach", "file-system", "mount-unit", "mount", "boot"];

    fn with_pool(rest: &[&'static str]) -> Vec<&'static str> {
        POOL.iter().copied().chain(rest.iter().copied()).collect()
    }

    /// What a case changes of the facts and of the options, and the steps that follow.
    type Case = (fn(&mut Facts, &mut Options), Vec<&'static str>);

    #[test]
    fn the_plan_follows_from_the_facts() {
        let cases: Vec<Case> = vec![
            (
                |_, _| {},
                with_pool(&["settings", "proof", "sshd", "start"])
                    .into_iter()
                    .filter(|name| *name != "settings")
                    .collect(),
            ),
            (|f, _| f.state_quota = QuotaFacts::Projects, vec!["proof", "sshd", "start"]),
            (|f, _| f.state_quota = QuotaFacts::Groups, vec!["sshd", "start"]),
            (|_, o| o.pool = PoolChoice::None, vec!["sshd", "start"]),
            (|_, o| o.size = PoolSize::Bytes(2 * GIB), with_pool(&["settings", "proof", "sshd", "start"])),
            (|f, _| f.doors.sshd = None, with_pool(&["proof", "start"])),
            (
                |f, _| f.xfs = FileSystemFacts { kernel: true, program: false, package: true },
                [&["package"][..], &with_pool(&["proof", "sshd", "start"])].concat(),
            ),
            (
                |f, _| f.doors.sshd = Some(SshdFacts::default()),
                with_pool(&["proof", "sshd-drop-in", "sshd-include", "sshd", "start"]),
            ),
            (
                |f, o| {
                    o.pool = PoolChoice::Device("/dev/vdb".into());
                    f.device = Some(DeviceFacts { size: 100 * GIB, found: None });
                },
                vec!["file-system", "mount-unit", "mount", "boot", "proof", "sshd", "start"],
            ),
            (
                |f, _| f.state_dir = "/srv/tenants".into(),
                with_pool(&["drop-in-bailiwick-warden", "drop-in-bailiwickd", "proof", "sshd", "start"]),
            ),
            (
                |f, o| {
                    o.doors = Some(vec![DoorChoice::Ftp, DoorChoice::Web]);
                    f.doors.ftp = Some(FtpFacts { unit: "vsftpd.service".to_owned(), ..FtpFacts::default() });
                    f.doors.nginx = Some(None);
                },
                with_pool(&["settings", "proof", "ftp-config", "ftp", "sites", "nginx-include", "nginx", "start"]),
            ),
            (
                |f, _| {
                    f.own_pool = Some(OwnPool {
                        device: POOL_LINK.into(),
                        file_system: FileSystem::Ext4,
                        uuid: "u".to_owned(),
                        size: Some(GIB),
                    });
                    f.state_quota = QuotaFacts::Projects;
                    f.tenants = vec!["alice".to_owned()];
                },
                with_pool(&["proof", "sshd", "start"]),
            ),
        ];
        for (number, (change, golden)) in cases.into_iter().enumerate() {
            let (mut facts, mut options) = (fresh(), Options::default());
            change(&mut facts, &mut options);
            let made = plan(&options, &facts).unwrap_or_else(|failure| panic!("case {number}: {failure}"));
            assert_eq!(names(&made), golden, "case {number}");
            assert_eq!(plan(&options, &facts), Ok(made), "case {number}: the same facts give the same plan");
        }
    }

    /// What a case changes, the status, and a word of the message.
    type Refusal = (fn(&mut Facts, &mut Options), ExitStatus, &'static str);

    #[rustfmt::skip]
    const REFUSED: &[Refusal] = &[
        (|_, o| o.pool = PoolChoice::Here, ExitStatus::HostCannot, "ext4 has no project quotas"),
        (|f, _| f.below_space = (10 * GIB, 700 * MIB), ExitStatus::HostCannot, "700.0M are free"),
        (|_, o| o.size = PoolSize::Bytes(36 * GIB), ExitStatus::HostCannot, "does not fit"),
        (|_, o| o.size = PoolSize::Bytes(u64::MAX), ExitStatus::HostCannot, "does not fit"),
        (|_, o| o.size = PoolSize::Bytes(MIB), ExitStatus::HostCannot, "512M at least"),
        (|f, _| f.below_type = "btrfs".to_owned(), ExitStatus::HostCannot, "btrfs quota enable"),
        (|f, _| f.below_type = "overlay".to_owned(), ExitStatus::HostCannot, "--pool device:DEV"),
        (|f, _| f.pool_file = Some(GIB), ExitStatus::Conflict, "no setup that is known here made it"),
        (|f, _| f.tenants = vec!["alice".to_owned()], ExitStatus::Refused, "alice"),
        (|f, _| (f.xfs, f.ext4) = (NONE, NONE), ExitStatus::HostCannot, "linux-modules-extra-6.12"),
        (|f, o| { f.xfs = NONE; o.file_system = FileSystemChoice::Xfs; }, ExitStatus::HostCannot, "lacks xfs"),
        (|_, o| o.doors = Some(vec![DoorChoice::Ftp]), ExitStatus::HostCannot, "proftpd"),
        (|_, o| o.doors = Some(vec![DoorChoice::Web]), ExitStatus::HostCannot, "nginx"),
        (|f, _| f.doors.sshd = Some(SshdFacts { problem: Some("line 7: Bad".to_owned()), ..SshdFacts::default() }), ExitStatus::Conflict, "line 7: Bad"),
        (|f, o| { o.doors = Some(vec![DoorChoice::Ftp]); f.doors.ftp = Some(FtpFacts { is_changed: true, ..FtpFacts::default() }); }, ExitStatus::Conflict, "merge"),
        (|f, o| { o.doors = Some(vec![DoorChoice::Ftp]); f.doors.ftp = Some(FtpFacts { missing: Some("/c".into()), ..FtpFacts::default() }); }, ExitStatus::HostCannot, "ssl-cert"),
        (|f, o| { o.doors = Some(vec![DoorChoice::Web]); f.doors.nginx = Some(Some("unknown directive".to_owned())); }, ExitStatus::Conflict, "unknown directive"),
        (|f, o| { o.pool = PoolChoice::Device("/dev/vdb".into()); f.device = Some(DeviceFacts { size: GIB, found: Some("ext4 data".to_owned()) }); }, ExitStatus::Refused, "ext4 data"),
        (|f, o| { o.pool = PoolChoice::Device("/dev/vdb".into()); f.device = Some(DeviceFacts { size: MIB, found: None }); }, ExitStatus::HostCannot, "1.0M"),
        (|f, o| { o.pool = PoolChoice::None; f.own_pool = Some(OwnPool { device: POOL_LINK.into(), file_system: FileSystem::Xfs, uuid: String::new(), size: Some(GIB) }); }, ExitStatus::Conflict, "--undo"),
    ];

    #[test]
    fn what_cannot_be_done_is_refused_with_the_reason() {
        for (number, (change, status, word)) in REFUSED.iter().enumerate() {
            let (mut facts, mut options) = (fresh(), Options::default());
            change(&mut facts, &mut options);
            let failure = plan(&options, &facts).expect_err("refused");
            assert_eq!(failure.status, *status, "case {number}: {failure}");
            assert!(failure.message.contains(word), "case {number}: {failure}");
        }
    }

    #[test]
    fn without_xfs_it_is_ext4_and_that_is_told() {
        let facts = Facts { xfs: NONE, ..fresh() };
        let made = plan(&Options::default(), &facts).expect("a plan");
        assert!(made.notes.iter().any(|note| note.contains("ext4 instead of XFS")), "{:?}", made.notes);
        let is_ext4 = |step: &Step| matches!(step.work, Work::FileSystem { file_system: FileSystem::Ext4, .. });
        assert!(made.steps.iter().any(is_ext4));
    }

    #[test]
    fn the_plan_that_is_shipped_gets_a_disk_limit_before_the_first_tenant() {
        let shipped = include_str!("../../../../config/plans.d/small.toml");
        let written = |change: fn(&mut Facts)| {
            let mut facts = Facts { small_plan: Some(shipped.to_owned()), ..fresh() };
            change(&mut facts);
            let made = plan(&Options::default(), &facts).expect("a plan");
            made.steps.into_iter().find_map(|step| match step.work {
                Work::File { text, .. } if step.name == "plan-small" => Some(text),
                _ => None,
            })
        };
        let tenth = shipped.replace("# disk = \"10G:11G\"", "disk = \"2211M\"");
        assert_eq!(written(|_| {}), Some(tenth));
        let most = shipped.replace("# disk = \"10G:11G\"", "disk = \"10G\"");
        let large = |facts: &mut Facts| {
            facts.state_quota = QuotaFacts::Projects;
            facts.state_size = 900 * GIB;
        };
        assert_eq!(written(large), Some(most));
        assert_eq!(written(|facts| facts.small_plan = Some("disk = \"1G\"\n".to_owned())), None);
        let crowded = |facts: &mut Facts| {
            facts.state_quota = QuotaFacts::Projects;
            facts.tenants = vec!["alice".to_owned()];
        };
        assert_eq!(written(crowded), None, "limits of tenants stay");
    }

    #[test]
    fn a_share_of_what_is_free_leaves_the_host_its_part() {
        assert_eq!(pool_size(PoolSize::Percent(60), (40 * GIB, 36 * GIB)), Ok(36 * GIB / 100 * 60 / MIB * MIB));
        assert!(pool_size(PoolSize::Percent(95), (40 * GIB, 36 * GIB)).is_ok());
        assert!(pool_size(PoolSize::Percent(95), (400 * GIB, 10 * GIB)).is_err(), "a gigabyte stays");
        assert_eq!(kept_of(2 * GIB), 102 * MIB);
        assert_eq!(kept_of(200 * GIB), GIB);
    }

    #[test]
    fn the_reserve_of_a_small_pool_is_written_and_all_else_stays() {
        let options = Options { size: PoolSize::Bytes(2 * GIB), ..Options::default() };
        let text_of = |config_text: &str| {
            let facts = Facts { config_text: config_text.to_owned(), ..fresh() };
            let made = plan(&options, &facts).expect("a plan");
            let text = made.steps.iter().find_map(|step| match &step.work {
                Work::File { text, .. } if step.name == "settings" => Some(text.clone()),
                _ => None,
            });
            text.expect("it is written")
        };
        let shipped = fresh().config_text;
        let written = text_of(&shipped);
        assert_eq!(written, shipped.replace("disk = \"1G\" }", "disk = \"102M\" }"));
        for before in [
            "",
            "user = \"b\"\n",
            "[reserve]\ntasks = 5\n",
            "reserve = { tasks = 5 }\n",
            "[mail]\ncommand = \"/bin/true\"\n",
        ] {
            let written = text_of(before);
            let host =
                crate::facts::host(Path::new("x"), &written).unwrap_or_else(|failure| panic!("{written}: {failure}"));
            assert_eq!(host.reserve.disk.0, 102 * MIB, "{written}");
        }
    }
}
