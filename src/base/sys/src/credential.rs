//! Users, groups and capabilities of this thread. Each change is read back to prove that it holds.
//!
//! Danger: the changes hold for the calling thread alone. A process must have one thread when it gives up rights for good.

use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};
use std::io;

fn uid(number: u32) -> Uid {
    Uid::from_raw(number)
}

fn gid(number: u32) -> Gid {
    Gid::from_raw(number)
}

/// Sets the effective user, and leaves the real and the saved one.
///
/// # Errors
/// The error of `setresuid(2)`.
pub fn set_effective_user(number: u32) -> io::Result<()> {
    Ok(rustix::thread::set_thread_res_uid(None, uid(number), None)?)
}

/// Sets the effective group, and leaves the real and the saved one.
///
/// # Errors
/// The error of `setresgid(2)`.
pub fn set_effective_group(number: u32) -> io::Result<()> {
    Ok(rustix::thread::set_thread_res_gid(None, gid(number), None)?)
}

/// Becomes a user and a group for good: sets all three ids of each kind, and drops the supplementary groups. The order is
/// groups, group, user, because the user's rights are needed for the others. Then reads the ids back.
///
/// # Errors
/// The error of a call; `EPERM` when an id is not the requested one.
pub fn become_for_good(user: u32, group: u32) -> io::Result<()> {
    become_for_good_in(user, group, &[])
}

/// As [`become_for_good`], with the supplementary groups `others`.
///
/// # Errors
/// As for [`become_for_good`].
pub fn become_for_good_in(user: u32, group: u32, others: &[u32]) -> io::Result<()> {
    let others: Vec<Gid> = others.iter().copied().map(gid).collect();
    rustix::thread::set_thread_groups(&others)?;
    rustix::thread::set_thread_res_gid(gid(group), gid(group), gid(group))?;
    rustix::thread::set_thread_res_uid(uid(user), uid(user), uid(user))?;
    let same = rustix::process::getuid() == uid(user)
        && rustix::process::geteuid() == uid(user)
        && rustix::process::getgid() == gid(group)
        && rustix::process::getegid() == gid(group);
    if same { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Becomes a user and a group of the user namespace that this thread has entered, for good. The supplementary groups stay: a
/// namespace whose map lacks them cannot name them. Then reads the ids back.
///
/// # Errors
/// The error of a call; `EPERM` when an id is not the requested one.
pub fn become_inside(user: u32, group: u32) -> io::Result<()> {
    rustix::thread::set_thread_res_gid(gid(group), gid(group), gid(group))?;
    rustix::thread::set_thread_res_uid(uid(user), uid(user), uid(user))?;
    let same = rustix::process::geteuid() == uid(user) && rustix::process::getegid() == gid(group);
    if same { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Makes this thread keep its capabilities when its effective user changes (`SECBIT_NO_SETUID_FIXUP`, `capabilities(7)`).
///
/// # Errors
/// The error of `prctl(2)`.
pub fn keep_capabilities_over_user_changes() -> io::Result<()> {
    let bits = rustix::thread::capabilities_secure_bits()?;
    Ok(rustix::thread::set_capabilities_secure_bits(bits | rustix::thread::CapabilitiesSecureBits::NO_SETUID_FIXUP)?)
}

/// Undoes [`keep_capabilities_over_user_changes`] by clearing all secure bits.
///
/// # Errors
/// The error of `prctl(2)`.
pub fn reset_secure_bits() -> io::Result<()> {
    Ok(rustix::thread::set_capabilities_secure_bits(rustix::thread::CapabilitiesSecureBits::empty())?)
}

/// Empties every set but the bounding one, so that only a set-user-id program of the host could have capabilities again. Then
/// reads the permitted and inheritable sets back.
///
/// # Errors
/// The errors of `prctl(2)` and `capset(2)`; `EPERM` when a set is not empty.
pub fn give_up_capabilities() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let after = rustix::thread::capabilities(None)?;
    let has_none = after.permitted.is_empty() && after.inheritable.is_empty();
    if has_none { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Limits the bounding, permitted and effective sets to `keep`, which has one bit for each capability. Empties the inheritable
/// and the ambient set. Then reads the permitted and inheritable sets back.
///
/// # Errors
/// The errors of `prctl(2)` and `capset(2)`; `EPERM` when a set is larger than it should be.
pub fn limit_capabilities(keep: u64) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for bit in 0..64u32 {
        if keep & (1 << bit) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // The kernel knows no capability of this number or a higher one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let now = rustix::thread::capabilities(None)?;
    let kept = now.permitted & CapabilitySet::from_bits_retain(keep);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    let after = rustix::thread::capabilities(None)?;
    let is_limited = after.permitted == kept && after.inheritable.is_empty();
    if is_limited { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Makes sure that no program that this process starts can gain privileges (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// The error of `prctl(2)`.
pub fn set_no_new_privs() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Makes this process undumpable: other processes of its user cannot trace it or read its memory, and it leaves no core
/// (`PR_SET_DUMPABLE`, `prctl(2)`).
///
/// # Errors
/// The error of `prctl(2)`.
pub fn set_undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Undoes [`set_undumpable`]. The process's own user owns its files in `/proc` again.
///
/// # Errors
/// The error of `prctl(2)`.
pub fn set_dumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?)
}

/// Sets both the soft and the hard limit of a resource (`setrlimit(2)`).
///
/// # Errors
/// `EPERM` when the hard limit would have to be raised.
pub fn set_rlimit(resource: rustix::process::Resource, value: u64) -> io::Result<()> {
    let limit = rustix::process::Rlimit { current: Some(value), maximum: Some(value) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// The soft limit on open descriptors of this process; `None` when there is no limit.
#[must_use]
pub fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Raises this process's soft limit on open descriptors to the hard one, and the hard one to at least `wanted` if the process may
/// do that.
///
/// # Errors
/// The error of `setrlimit(2)`.
pub fn raise_open_files(wanted: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let raise = |maximum| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(raise(maximum.map(|maximum| maximum.max(wanted))).or_else(|_| raise(maximum))?)
}
