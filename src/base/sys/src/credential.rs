//! Users, groups and capabilities of this thread, each set and then proved.

use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};
use std::io;

fn uid(number: u32) -> Uid {
    Uid::from_raw(number)
}

fn gid(number: u32) -> Gid {
    Gid::from_raw(number)
}

/// Sets the effective user alone, keeping the real and the saved one.
///
/// # Errors
/// What `setresuid(2)` says.
pub fn set_effective_user(number: u32) -> io::Result<()> {
    Ok(rustix::thread::set_thread_res_uid(None, uid(number), None)?)
}

/// Sets the effective group alone.
///
/// # Errors
/// What `setresgid(2)` says.
pub fn set_effective_group(number: u32) -> io::Result<()> {
    Ok(rustix::thread::set_thread_res_gid(None, gid(number), None)?)
}

/// Becomes a user and a group for good: no supplementary groups, all three ids of each kind, in the order in which it
/// cannot fail half-way, then read back.
///
/// # Errors
/// What the calls say; `EPERM` when the ids are not what was asked for.
pub fn become_for_good(user: u32, group: u32) -> io::Result<()> {
    become_for_good_in(user, group, &[])
}

/// The same with supplementary groups.
///
/// # Errors
/// As [`become_for_good`].
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

/// Capabilities are not lost when the effective user changes (`SECBIT_NO_SETUID_FIXUP`, `capabilities(7)`).
///
/// # Errors
/// What `prctl(2)` says.
pub fn keep_capabilities_over_user_changes() -> io::Result<()> {
    let bits = rustix::thread::capabilities_secure_bits()?;
    Ok(rustix::thread::set_capabilities_secure_bits(bits | rustix::thread::CapabilitiesSecureBits::NO_SETUID_FIXUP)?)
}

/// Takes back [`keep_capabilities_over_user_changes`].
///
/// # Errors
/// What `prctl(2)` says.
pub fn reset_secure_bits() -> io::Result<()> {
    Ok(rustix::thread::set_capabilities_secure_bits(rustix::thread::CapabilitiesSecureBits::empty())?)
}

/// Cuts the bounding, permitted and effective sets to `keep` (one bit a capability) and empties the inheritable and
/// ambient sets; then proves that the permitted set is no larger.
///
/// # Errors
/// What `prctl(2)` and `capset(2)` say; `EPERM` when a capability is left that should not be.
pub fn limit_capabilities(keep: u64) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for bit in 0..64u32 {
        if keep & (1 << bit) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // Past the last capability that the kernel knows.
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
    let clean = after.permitted == kept && after.inheritable.is_empty();
    if clean { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// No program that this process starts can gain privileges (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// What `prctl(2)` says.
pub fn set_no_new_privs() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// This process cannot be traced or its memory read by others of its user, and leaves no core.
///
/// # Errors
/// What `prctl(2)` says.
pub fn set_undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Takes back [`set_undumpable`] for this process: what `/proc` has of it is its own user's again.
///
/// # Errors
/// What `prctl(2)` says.
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
/// How many descriptors this process may have; `None` when there is no limit.
#[must_use]
pub fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Raises this process's soft limit of open descriptors to its hard one.
///
/// # Errors
/// What `setrlimit(2)` says.
pub fn raise_open_files() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
