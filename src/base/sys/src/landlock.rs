//! Landlock (`landlock(7)`): the kernel's ABI, and a domain for this thread and its children.
//!
//! Danger: a domain must be enforced as a whole or not at all. A part of it would look like a wall.

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

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
