//! Carries out one step, finds out whether it is needed, and takes it back.
//!
//! Danger: each of these may be killed at any point, and is called again afterwards. So each does only what is still missing.

use crate::doors;
use crate::facts;
use crate::journal::{Before, Entry, Journal, copy_path};
use crate::machine::{Machine, digest, part_of};
use crate::step::{FileSystem, Step, Work};
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, QuotaFacts};
use std::path::{Path, PathBuf};

/// How often something is looked for that another program makes, with a pause between.
const LOOKS: u32 = 300;
/// What the package's units are, in the order in which they are stopped.
const DAEMONS: [&str; 5] = [
    "bailiwick.target",
    "bailiwickd.socket",
    "bailiwickd.service",
    "bailiwick-warden.socket",
    "bailiwick-warden.service",
];
const TARGET: &str = "bailiwick.target";
/// The permission bits of the root of the tenants' storage.
const ROOT_MODE: u32 = 0o711;

fn refused<T>(status: ExitStatus, message: String) -> Result<T, Failure> {
    Err(Failure::of(status, message))
}

/// Whether a step has nothing left to do. `is_fresh` says that an earlier step of this run did something.
pub(crate) fn is_done(
    machine: &mut Machine<'_>,
    step: &Step,
    entry: Option<&Entry>,
    is_fresh: bool,
) -> Result<bool, Failure> {
    let was_done = entry.is_some_and(|entry| entry.is_done);
    Ok(match &step.work {
        Work::Package { program, .. } => machine.exists(program),
        Work::File { path, text } => machine.read(path)?.as_deref() == Some(text.as_bytes()),
        Work::PoolFile { path, size } => is_allocated(machine, path, *size, entry.is_some())?,
        Work::Attach { file, link, .. } => is_attached(machine, file, link),
        Work::FileSystem { device, uuid, .. } => was_done && is_file_system(machine, device, uuid)?,
        Work::Mount { device, target, .. } => {
            is_mounted(machine, device, target)? && machine.mode(target) == Some(ROOT_MODE)
        }
        Work::Enabled { units } => enabled(machine, units)?.len() == units.len(),
        Work::Proof { directory } => was_done && !is_fresh && enforces(machine, directory),
        Work::Sshd { .. } | Work::Server { .. } | Work::Sites { .. } => was_done && !is_fresh,
        Work::Started { .. } => !is_fresh && was_done && runs(machine)?,
    })
}

/// What must be put back when a step is taken back. It fails if the step must not be carried out at all.
pub(crate) fn before(machine: &mut Machine<'_>, step: &Step) -> Result<Before, Failure> {
    match &step.work {
        Work::File { path, .. } => Journal::keep_copy(machine, step, path),
        Work::FileSystem { device, .. } => {
            let at = machine.text_at(device);
            match facts::signature(machine, &at)? {
                None => Ok(Before::Nothing),
                Some(found) => {
                    let device = device.display();
                    refused(ExitStatus::Refused, format!("{device} is not used, because it is not empty: {found}"))
                }
            }
        }
        Work::Enabled { units } => Ok(Before::Units { enabled: enabled(machine, units)?, is_active: false }),
        Work::Server { unit, .. } => {
            let is_active = is_active(machine, unit)?;
            Ok(Before::Units { enabled: enabled(machine, std::slice::from_ref(unit))?, is_active })
        }
        Work::Started { .. } => {
            let is_active = is_active(machine, TARGET)?;
            Ok(Before::Units { enabled: enabled(machine, &[TARGET.to_owned()])?, is_active })
        }
        _ => Ok(Before::Nothing),
    }
}

/// Carries out a step.
pub(crate) fn carry_out(machine: &mut Machine<'_>, step: &Step) -> Result<(), Failure> {
    match &step.work {
        Work::Package { name, .. } => {
            let arguments = ["-o", "DPkg::Lock::Timeout=120", "install", "-y", "-q", "--no-install-recommends", name];
            machine.must("apt-get", &arguments).map(drop)
        }
        Work::File { path, text } => {
            let mode = machine.mode(path).unwrap_or(0o644);
            machine.write(path, text.as_bytes(), mode)
        }
        Work::PoolFile { path, size } => match machine.allocation(path) {
            None => machine.make_allocated(path, *size),
            Some((now, _)) => machine.allocate_to(path, now.max(*size)),
        },
        Work::Attach { service, file, link } => attach(machine, service, file, link),
        Work::FileSystem { device, file_system, uuid, .. } => make_file_system(machine, device, *file_system, uuid),
        Work::Mount { unit, device, target } => mount(machine, unit, device, target),
        Work::Enabled { units } => {
            machine.must("systemctl", &["daemon-reload"])?;
            systemctl(machine, &["enable", "-q"], units)
        }
        Work::Proof { directory } => prove(machine, directory),
        Work::Sshd { group, free_id, records } => {
            doors::prove_sshd(machine, group, *free_id, records)?;
            machine.must("systemctl", &["try-reload-or-restart", "ssh.service"]).map(drop)
        }
        Work::Server { unit, check } => {
            if let Some((program, arguments)) = check.split_first() {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                machine.must(program, &arguments)?;
            }
            machine.must("systemctl", &["enable", "-q", unit])?;
            machine.must("systemctl", &["restart", unit]).map(drop)
        }
        Work::Sites { folder, config } => {
            let (config, folder) = (machine.text_at(config), machine.text_at(folder));
            machine.must("bailiwick", &["--config", &config, "web", "nginx", "--write", &folder]).map(drop)
        }
        Work::Started { .. } => start(machine),
    }
}

/// Fails if a step must not be taken back: something has changed since that somebody would miss.
pub(crate) fn may_undo(machine: &mut Machine<'_>, entry: &Entry) -> Result<(), Failure> {
    let Work::File { path, text } = &entry.step.work else { return Ok(()) };
    let now = machine.read(path)?;
    let is_ours = now.as_deref() == Some(text.as_bytes());
    let is_before = match (&entry.before, &now) {
        (Before::File { digest: before, .. }, Some(now)) => *before == digest(now),
        (_, None) => true,
        _ => false,
    };
    if is_ours || is_before {
        return Ok(());
    }
    let hint = match &entry.before {
        Before::File { copy, .. } => format!("what it was before is \"{}\"", copy_path(copy).display()),
        _ => "it did not exist before".to_owned(),
    };
    let message = format!(
        "\"{}\" has changed since setup wrote it, so nothing is taken back; {hint}: put that back by hand, and run this again",
        path.display()
    );
    refused(ExitStatus::Refused, message)
}

/// Takes a step back.
pub(crate) fn take_back(machine: &mut Machine<'_>, entry: &Entry) -> Result<(), Failure> {
    match (&entry.step.work, &entry.before) {
        (Work::File { path, .. }, Before::File { copy, mode, .. }) => {
            let Some(content) = machine.read(copy_path(copy))? else {
                let (copy, path) = (copy_path(copy), path.display());
                return refused(ExitStatus::Failed, format!("\"{}\", the copy of \"{path}\", is gone", copy.display()));
            };
            machine.write(path, &content, *mode)
        }
        (Work::File { path, .. }, _) => machine.remove(path),
        (Work::PoolFile { path, .. }, _) => {
            machine.remove(&part_of(path))?;
            machine.remove(path)
        }
        (Work::Attach { service, file, .. }, _) => detach(machine, service, file),
        (Work::FileSystem { device, uuid, is_pool: false, .. }, _) => {
            if is_file_system(machine, device, uuid)? {
                let at = machine.text_at(device);
                machine.must("wipefs", &["-a", "-q", &at])?;
            }
            Ok(())
        }
        (Work::Mount { unit, device, target }, _) => unmount(machine, unit, device, target),
        (Work::Enabled { units }, Before::Units { enabled, .. }) => {
            let ours: Vec<String> = units.iter().filter(|unit| !enabled.contains(unit)).cloned().collect();
            systemctl(machine, &["disable", "-q"], &ours)
        }
        // A run that was killed may have left the user that sshd was asked about.
        (Work::Sshd { records, .. }, _) => machine.remove(&doors::proof_record(records)),
        (Work::Server { unit, .. }, Before::Units { enabled, is_active }) => {
            take_back_unit(machine, unit, enabled.contains(unit), *is_active)
        }
        (Work::Sites { folder, .. }, _) => machine.remove_folder(folder),
        (Work::Started { .. }, Before::Units { enabled, is_active }) => {
            stop_daemons(machine)?;
            if !is_active {
                machine.ask("systemctl", &["stop", "bailiwick-jails.service"])?;
            }
            if enabled.is_empty() { systemctl(machine, &["disable", "-q"], &[TARGET.to_owned()]) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// What follows once everything is taken back: the programs that read the files read them again.
pub(crate) fn after_undo(machine: &mut Machine<'_>, entries: &[Entry]) -> Result<(), Failure> {
    machine.must("systemctl", &["daemon-reload"])?;
    let is = |wanted: fn(&Work) -> bool| entries.iter().any(|entry| wanted(&entry.step.work));
    if is(|work| matches!(work, Work::Attach { .. })) {
        machine.must("udevadm", &["control", "--reload"])?;
    }
    if is(|work| matches!(work, Work::Sshd { .. })) {
        machine.must("systemctl", &["try-reload-or-restart", "ssh.service"])?;
    }
    let was_active = entries.iter().any(|entry| {
        matches!((&entry.step.work, &entry.before), (Work::Started { .. }, Before::Units { is_active: true, .. }))
    });
    if was_active {
        machine.must("systemctl", &["start", TARGET])?;
    }
    Ok(())
}

/// Whether the pool file is as it was made. One that has become smaller holds no whole file system any more.
fn is_allocated(machine: &Machine<'_>, path: &Path, size: u64, is_ours: bool) -> Result<bool, Failure> {
    let Some((now, allocated)) = machine.allocation(path) else { return Ok(false) };
    let path = path.display();
    if !is_ours {
        return refused(ExitStatus::Conflict, format!("\"{path}\" is there, and no setup that is known here made it"));
    }
    if now < size {
        let message = format!(
            "\"{path}\" has {now} bytes, and setup made it with {size}: somebody has cut it; stop the tenants, and restore it \
             from a backup (docs/setup.md)"
        );
        return refused(ExitStatus::Conflict, message);
    }
    Ok(allocated >= now)
}

/// The name of the device that a link leads to, such as `loop0`.
pub(crate) fn device_name(machine: &Machine<'_>, link: &Path) -> Option<String> {
    Some(machine.at(link).canonicalize().ok()?.file_name()?.to_string_lossy().into_owned())
}

fn is_attached(machine: &Machine<'_>, file: &Path, link: &Path) -> bool {
    let Some(name) = device_name(machine, link) else { return false };
    let read = |what: &str| machine.kernel_text(format!("/sys/block/{name}/{what}"));
    let is_of_file = read("loop/backing_file").is_some_and(|backing| machine.at(file) == Path::new(&backing));
    is_of_file && read("queue/discard_max_bytes").as_deref() == Some("0")
}

fn attach(machine: &mut Machine<'_>, service: &str, file: &Path, link: &Path) -> Result<(), Failure> {
    machine.must("udevadm", &["control", "--reload"])?;
    machine.must("systemctl", &["daemon-reload"])?;
    machine.must("systemctl", &["start", service])?;
    // A device that was there before the rule is looked at anew.
    machine.must("udevadm", &["trigger", "--settle", "--subsystem-match=block", "--sysname-match=loop*"])?;
    for _ in 0..LOOKS {
        if is_attached(machine, file, link) {
            return Ok(());
        }
        machine.system().pause();
    }
    let (file, link) = (file.display(), link.display());
    refused(
        ExitStatus::HostCannot,
        format!(
            "{link} does not become the device of \"{file}\" without discard; see `systemctl status {service}` and `losetup`, and whether udev runs"
        ),
    )
}

fn detach(machine: &mut Machine<'_>, service: &str, file: &Path) -> Result<(), Failure> {
    machine.ask("systemctl", &["stop", service])?;
    let at = machine.text_at(file);
    for _ in 0..LOOKS {
        let left = machine.ask("losetup", &["-n", "-O", "NAME", "-j", &at])?;
        let Some(name) = left.out.split_whitespace().next() else { return Ok(()) };
        machine.must("losetup", &["-d", name])?;
        machine.system().pause();
    }
    refused(ExitStatus::Failed, format!("\"{}\" stays a block device; something uses it", file.display()))
}

fn is_file_system(machine: &mut Machine<'_>, device: &Path, uuid: &str) -> Result<bool, Failure> {
    let at = machine.text_at(device);
    let said = machine.ask("blkid", &["-p", "-s", "UUID", "-o", "value", &at])?;
    let found = said.out.trim();
    Ok(!found.is_empty() && found == uuid)
}

fn make_file_system(machine: &mut Machine<'_>, device: &Path, kind: FileSystem, uuid: &str) -> Result<(), Failure> {
    let at = machine.text_at(device);
    // Nothing was found on it before this step began, so what is on it now is a part of this file system.
    match kind {
        FileSystem::Xfs => {
            let uuid = format!("uuid={uuid}");
            machine.must("mkfs.xfs", &["-q", "-f", "-K", "-L", "bailiwick", "-m", &uuid, &at])?
        }
        FileSystem::Ext4 => {
            let options = ["-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota,nodiscard", "-L", "bailiwick"];
            machine.must("mkfs.ext4", &[&options[..], &["-U", uuid, &at]].concat())?
        }
    };
    // Its name by number comes from udev.
    machine.ask("udevadm", &["settle"]).map(drop)
}

fn is_mounted(machine: &mut Machine<'_>, device: &Path, target: &Path) -> Result<bool, Failure> {
    let at = machine.text_at(target);
    let said = machine.ask("findmnt", &["-n", "-o", "SOURCE", "--mountpoint", &at])?;
    // Of several mounts on each other the last one is seen.
    let Some(source) = said.out.split_whitespace().last() else { return Ok(false) };
    let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
    Ok(real(PathBuf::from(source)) == real(machine.at(device)))
}

fn mount(machine: &mut Machine<'_>, unit: &str, device: &Path, target: &Path) -> Result<(), Failure> {
    if !is_mounted(machine, device, target)? {
        stop_daemons(machine)?;
        machine.make_folder(target, ROOT_MODE)?;
        machine.must("systemctl", &["daemon-reload"])?;
        if !machine.ask("systemctl", &["start", unit])?.is_ok() {
            let said = machine.ask("journalctl", &["-b", "-u", unit, "-n", "5", "-o", "cat", "--no-pager"])?;
            let (device, target) = (device.display(), target.display());
            let why =
                said.out.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
            return refused(
                ExitStatus::HostCannot,
                format!("{device} cannot be mounted at {target} with project quotas: {why}"),
            );
        }
    }
    machine.make_folder(target, ROOT_MODE)
}

fn unmount(machine: &mut Machine<'_>, unit: &str, device: &Path, target: &Path) -> Result<(), Failure> {
    stop_daemons(machine)?;
    if is_mounted(machine, device, target)? {
        machine.must("systemctl", &["stop", unit])?;
    }
    if is_mounted(machine, device, target)? {
        let target = target.display();
        return refused(
            ExitStatus::Failed,
            format!("{target} is in use, so it stays mounted: `fuser -vm {target}` says by what"),
        );
    }
    Ok(())
}

fn stop_daemons(machine: &mut Machine<'_>) -> Result<(), Failure> {
    // A host without the units has nothing to stop.
    machine.ask("systemctl", &[&["stop"], &DAEMONS[..]].concat()).map(drop)
}

fn systemctl(machine: &mut Machine<'_>, verb: &[&str], units: &[String]) -> Result<(), Failure> {
    if units.is_empty() {
        return Ok(());
    }
    let units: Vec<&str> = units.iter().map(String::as_str).collect();
    machine.must("systemctl", &[verb, &units[..]].concat()).map(drop)
}

fn enabled(machine: &mut Machine<'_>, units: &[String]) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for unit in units {
        if machine.ask("systemctl", &["is-enabled", "-q", unit])?.is_ok() {
            all.push(unit.clone());
        }
    }
    Ok(all)
}

fn is_active(machine: &mut Machine<'_>, unit: &str) -> Result<bool, Failure> {
    Ok(machine.ask("systemctl", &["is-active", "-q", unit])?.is_ok())
}

fn take_back_unit(machine: &mut Machine<'_>, unit: &str, was_enabled: bool, was_active: bool) -> Result<(), Failure> {
    if !was_active {
        machine.must("systemctl", &["stop", unit])?;
    }
    if was_enabled { Ok(()) } else { machine.must("systemctl", &["disable", "-q", unit]).map(drop) }
}

fn runs(machine: &mut Machine<'_>) -> Result<bool, Failure> {
    Ok(is_active(machine, TARGET)? && enabled(machine, &[TARGET.to_owned()])?.len() == 1)
}

/// Starts the daemons anew: they may have begun on another disk, or with other settings. Jails go on.
fn start(machine: &mut Machine<'_>) -> Result<(), Failure> {
    machine.must("systemctl", &["daemon-reload"])?;
    machine.must("systemctl", &["enable", "-q", TARGET])?;
    machine.must("systemctl", &["restart", TARGET])?;
    for _ in 0..LOOKS {
        if is_active(machine, "bailiwickd.service")? && is_active(machine, "bailiwick-warden.service")? {
            return Ok(());
        }
        machine.system().pause();
    }
    refused(
        ExitStatus::Failed,
        "the daemons do not start; see `journalctl -b -u bailiwickd -u bailiwick-warden`".to_owned(),
    )
}

fn enforces(machine: &mut Machine<'_>, directory: &Path) -> bool {
    let at = machine.at(directory);
    machine.system().storage(&at).quota == QuotaFacts::Projects
}

fn prove(machine: &mut Machine<'_>, directory: &Path) -> Result<(), Failure> {
    let at = machine.at(directory);
    if let QuotaFacts::Nothing { why, remedy } = machine.system().storage(&at).quota {
        return refused(ExitStatus::HostCannot, format!("no disk limit holds below {}: {why}; {remedy}", at.display()));
    }
    let why = match machine.system().writes_past_quota(&at) {
        Ok(false) => return Ok(()),
        Ok(true) => "two megabytes were written past a quota of one".to_owned(),
        Err(error) => error.to_string(),
    };
    refused(ExitStatus::HostCannot, format!("cannot prove that a disk limit holds below {}: {why}", at.display()))
}
