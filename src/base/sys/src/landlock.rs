//! Landlock (`landlock(7)`): the kernel's ABI, and a domain for this thread and all it starts.

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

/// The kernel's highest Landlock ABI; 0 when it has no Landlock or it is switched off.
#[must_use]
pub fn abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with the version flag the call takes a null pointer and a size of zero, reads nothing and makes nothing. The crate
    // `landlock` asks for it too, and keeps the answer to itself.
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
    /// A bit that the library does not know.
    #[error("unknown Landlock right {0:#x}")]
    Unknown(u64),
    /// The kernel refused, or would enforce less than was asked for.
    #[error("Landlock refused the domain")]
    Refused(#[from] landlock::RulesetError),
    /// The kernel enforced only a part.
    #[error("Landlock enforced only a part of the domain")]
    Partial,
}

impl From<LandlockError> for io::Error {
    fn from(error: LandlockError) -> Self {
        Self::other(error)
    }
}

/// Enters a domain for good: rights in `handled` are refused wherever no rule grants them. Does not set
/// `no_new_privs`, so the caller needs `CAP_SYS_ADMIN` over its user namespace.
///
/// # Errors
/// When the kernel would enforce anything less than all of it.
pub fn restrict(handled: u64, scoped: u64, rules: Vec<(OwnedFd, u64)>) -> Result<(), LandlockError> {
    restrict_with(handled, scoped, rules, Tcp::default())
}

/// What a domain may do by TCP (kernels from 6.7 on).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tcp {
    /// It connects to nowhere.
    pub never_connects: bool,
    /// Where it may wait for connections; everywhere when `None`.
    pub ports: Option<RangeInclusive<u16>>,
}

/// As [`restrict`], and with a word on connections.
///
/// # Errors
/// As [`restrict`].
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
