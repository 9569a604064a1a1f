//! Landlock (`landlock(7)`): the kernel's ABI, a domain for this thread and its children, and one for a program that is started.
//!
//! Danger: a domain must be enforced as a whole or not at all. A part of it would look like a wall.

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The highest Landlock ABI of the kernel; 0 when it has no Landlock, or Landlock is switched off.
#[must_use]
pub fn abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with the version flag the call takes a null pointer and a size of zero, and reads and makes nothing. The crate
    // `landlock` makes this call too, but does not return the number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Why a domain could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The library does not know a bit of the domain.
    #[error("unknown Landlock right {0:#x}")]
    Unknown(u64),
    /// The kernel refused the domain, or would enforce only a part of it.
    #[error("Landlock refused the domain")]
    Refused(#[from] landlock::RulesetError),
    /// The root directory, which a rule is for, cannot be opened.
    #[error("cannot open \"/\"")]
    Top(#[source] io::Error),
    /// The kernel has enforced only a part of the domain.
    #[error("Landlock enforced only a part of the domain")]
    Partial,
}

impl From<LandlockError> for io::Error {
    fn from(error: LandlockError) -> Self {
        Self::other(error)
    }
}

/// Enters a domain for good. The rights of `handled` are refused wherever no rule grants them. A rule is an open file or
/// directory, and the rights below it. `scoped` are the scopes of IPC that end at the domain. The caller needs `CAP_SYS_ADMIN`
/// over its user namespace, because this does not set `no_new_privs`.
///
/// # Errors
/// When the kernel would enforce less than the whole domain.
pub fn restrict(handled: u64, scoped: u64, rules: Vec<(OwnedFd, u64)>) -> Result<(), LandlockError> {
    restrict_with(handled, scoped, rules, Tcp::default())
}

/// The TCP connections of a domain (Linux 6.7 and later).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tcp {
    /// Whether every connection to a port is refused.
    pub never_connects: bool,
    /// The ports that may be bound; every port when `None`.
    pub ports: Option<RangeInclusive<u16>>,
}

/// As [`restrict`], with rules for TCP.
///
/// # Errors
/// As for [`restrict`].
pub fn restrict_with(handled: u64, scoped: u64, rules: Vec<(OwnedFd, u64)>, tcp: Tcp) -> Result<(), LandlockError> {
    let rights = |bits| BitFlags::<AccessFs>::from_bits(bits).map_err(|_| LandlockError::Unknown(bits));
    if handled == 0 && scoped == 0 && tcp == Tcp::default() {
        return Ok(());
    }
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if handled != 0 {
        ruleset = ruleset.handle_access(rights(handled)?)?;
    }
    if scoped != 0 {
        let scopes = BitFlags::<Scope>::from_bits(scoped).map_err(|_| LandlockError::Unknown(scoped))?;
        ruleset = ruleset.scope(scopes)?;
    }
    if tcp.never_connects {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if tcp.ports.is_some() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    let mut created = ruleset.create()?;
    for (fd, access) in rules {
        created = created.add_rule(PathBeneath::new(fd, rights(access)?))?;
    }
    for port in tcp.ports.into_iter().flatten() {
        created = created.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
    }
    let status = created.no_new_privs(false).restrict_self()?;
    if status.ruleset == landlock::RulesetStatus::FullyEnforced { Ok(()) } else { Err(LandlockError::Partial) }
}

/// Makes the process of a command begin in a domain of its own, which takes nothing from it that a user without rights has. No process
/// of a domain traces one outside, or reads its memory or its environment. From ABI 6 on (Linux 6.12) it sends no signal there either.
/// Whoever is in no domain traces and signals those inside, and they each other.
///
/// `abi` is that of the kernel or a lower one; with 0 nothing is done. With 1 a file that is renamed or linked into another directory
/// gives `EXDEV` (`link(2)`). The process that calls this must have set `no_new_privs`, or have `CAP_SYS_ADMIN`.
///
/// # Errors
/// When the kernel refuses the domain. That it cannot be entered is an error of starting the command.
pub fn apart(command: &mut Command, abi: u32) -> Result<(), LandlockError> {
    /// The first ABI that lets a rule allow to rename into another directory, and the first one with scopes.
    const REFER_ABI: u32 = 2;
    const SCOPE_ABI: u32 = 6;
    if abi == 0 {
        return Ok(());
    }
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let created = if abi >= SCOPE_ABI {
        ruleset.scope(Scope::Signal)?.create()?
    } else if abi >= REFER_ABI {
        // A domain must handle a right. This one is root's anyway. With files in it, the kernel allows to rename only by a rule.
        let created = ruleset.handle_access(AccessFs::MakeBlock | AccessFs::Refer)?.create()?;
        let top = crate::file::open_dir(Path::new("/")).map_err(LandlockError::Top)?;
        created.add_rule(PathBeneath::new(top, AccessFs::Refer))?
    } else {
        ruleset.handle_access(AccessFs::MakeBlock)?.create()?
    };
    let domain = Option::<OwnedFd>::from(created).ok_or(LandlockError::Partial)?;
    let prepare = move || {
        // SAFETY: the call takes an open descriptor and a number of flags, and reads no memory. The crate `landlock` makes it too, but
        // only for the calling process and with what it allocates.
        let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, domain.as_raw_fd(), 0 as libc::c_uint) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec, `prepare` only makes a system call. It takes no lock and allocates no memory. No library has a
    // safe way to make calls of the caller's choice there.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_program_apart_reaches_no_process_outside_and_has_all_files() {
        for abi in [0, 1, 2, 6].into_iter().filter(|wanted| *wanted <= abi()) {
            let temp = tempfile::tempdir().expect("temporary directory");
            let inode = |name: &str| std::fs::metadata(temp.path().join(name)).map(|metadata| metadata.ino()).ok();
            std::fs::create_dir(temp.path().join("d")).expect("mkdir");
            std::fs::write(temp.path().join("file"), "").expect("writes");
            let before = inode("file").expect("is there");
            let mut other = Command::new("sleep").arg("1000").spawn().expect("starts");
            // Whoever reads where a process is needs the right to trace it.
            let script = "sleep 1000 & own=$!\n\
                          readlink /proc/$1/cwd > /dev/null && echo traces-other\n\
                          readlink /proc/$own/cwd > /dev/null && echo traces-own\n\
                          kill -0 $1 2> /dev/null && echo signals-other\n\
                          mv file d/file\n\
                          kill -KILL $own && echo signals-own";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", &other.id().to_string()]).current_dir(temp.path());
            apart(&mut command, abi).expect("prepares");
            let output = command.output().expect("runs");
            other.kill().expect("kills");
            other.wait().expect("ends");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let golden: Vec<&str> = match abi {
                0 => vec!["traces-other", "traces-own", "signals-other", "signals-own"],
                1 | 2 => vec!["traces-own", "signals-other", "signals-own"],
                _ => vec!["traces-own", "signals-own"],
            };
            assert_eq!(said.lines().collect::<Vec<_>>(), golden, "{abi}: {}", String::from_utf8_lossy(&output.stderr));
            // It was renamed and not copied.
            assert_eq!(inode("d/file") == Some(before), abi != 1, "{abi}");
        }
    }
}
