//! Puts the calling process into a jail: namespaces, identity, Landlock, seccomp, capabilities, groups.
//!
//! Danger: the order of the steps is the security, and there is no way back. While the process is root of the host, it may run
//! nothing but this function. From the user namespace on it has no rights outside the jail. A step that fails must leave the
//! process with fewer rights than before, never with more.

use bailiwick_plan::CORE_LIMIT;
use bailiwick_plan::ftp::CAPABILITIES;
use bailiwick_plan::landlock::Domain;
use bailiwick_plan::seccomp;
use bailiwick_proto::warden::FtpView;
use bailiwick_sys::landlock::Tcp;
use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::{credential, landlock, proc};
use rustix::fs::{Mode, OFlags};
use rustix::process::Resource;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

/// The first Landlock ABI with rights for TCP (`landlock(7)`).
const TCP_ABI: u32 = 4;

/// A wall that could not be put up.
#[derive(Debug, thiserror::Error)]
#[error("{wall}: {source}")]
pub(crate) struct JailError {
    wall: &'static str,
    source: io::Error,
}

/// A function that names the wall of an error.
fn at(wall: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError { wall, source }
}

/// Enters the jail. `fds` are the descriptors beside [`FtpView`]: the user namespace, the mount namespace, and a file of each
/// control group. `ports` are the ports for data connections; every port when `None`.
pub(crate) fn enter(view: &FtpView, fds: Vec<OwnedFd>, ports: Option<RangeInclusive<u16>>) -> Result<(), JailError> {
    let mut fds = fds.into_iter();
    let missing = || at("descriptors")(io::ErrorKind::NotFound.into());
    let users = fds.next().ok_or_else(missing)?;
    let mounts = fds.next().ok_or_else(missing)?;
    let groups: Vec<OwnedFd> = fds.collect();
    if groups.is_empty() {
        return Err(missing());
    }
    // The children that the server has started for the work of TLS belong to the session. The mount namespace of the login has
    // no /proc to list them.
    let children = proc::children(std::process::id()).map_err(at("list what this process has started"))?;
    credential::set_rlimit(Resource::Nofile, view.open_files).map_err(at("open_files"))?;
    credential::set_rlimit(Resource::Core, CORE_LIMIT).map_err(at("core dumps"))?;
    namespace::enter(&mounts, Kind::Mount).map_err(at("mount namespace"))?;
    namespace::enter(&users, Kind::User).map_err(at("user namespace"))?;
    credential::become_for_good(0, 0).map_err(at("identity"))?;
    confine(ports)?;
    // This comes last, so that no process in the tenant's group ever has rights over the host.
    join(&groups, &children).map_err(at("control groups"))
}

/// Moves this process and its children into the groups. The kernel checks the rights of root, who has opened the files.
fn join(groups: &[OwnedFd], children: &[u32]) -> io::Result<()> {
    for group in groups {
        for child in children {
            match rustix::io::write(group, child.to_string().as_bytes()) {
                // A child that has ended is in no group.
                Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rustix::io::write(group, b"0")?;
    }
    Ok(())
}

/// Puts up the walls of the process itself: Landlock, seccomp, capabilities.
fn confine(ports: Option<RangeInclusive<u16>>) -> Result<(), JailError> {
    let abi = landlock::abi();
    let domain = Domain::of_ftp(abi).map_err(|error| at("Landlock")(io::Error::other(error)))?;
    let mut rules = Vec::new();
    for rule in &domain.rules {
        let fd = rustix::fs::open(rule.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        rules.push((fd.map_err(|error| at(rule.path)(error.into()))?, rule.access));
    }
    // On an older kernel only the seccomp filter refuses connections, and every port can be bound.
    let tcp = if abi >= TCP_ABI { Tcp { never_connects: true, ports } } else { Tcp::default() };
    landlock::restrict_with(domain.handled, domain.scoped, rules, tcp).map_err(|error| at("Landlock")(error.into()))?;
    let program = seccomp::filter_of_ftp();
    let program: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    bailiwick_sys::seccomp::load(&program).map_err(at("seccomp"))?;
    credential::limit_capabilities(CAPABILITIES.0).map_err(at("capabilities"))?;
    credential::set_no_new_privs().map_err(at("no_new_privs"))?;
    credential::set_undumpable().map_err(at("memory"))
}
