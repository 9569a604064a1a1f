//! Puts the calling process into a jail: namespaces, identity, Landlock, seccomp, capabilities, groups.
//!
//! Danger: the order is the security, and there is no way back. As long as the process is root of the host it runs nothing but this; from
//! the user namespace on it has no right outside the jail; and whatever fails leaves a process that has less than it had.

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

/// The lowest Landlock ABI that knows of TCP.
const ABI_OF_TCP: u32 = 4;

/// Which wall could not be put up.
#[derive(Debug, thiserror::Error)]
#[error("{wall}: {source}")]
pub(crate) struct JailError {
    wall: &'static str,
    source: io::Error,
}

fn at(wall: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError { wall, source }
}

/// Enters. `ports` are those that the server may wait for data connections at, where that was said. `fds` are those beside [`FtpView`]: user namespace, mount namespace, a file of each group.
pub(crate) fn enter(view: &FtpView, fds: Vec<OwnedFd>, ports: Option<RangeInclusive<u16>>) -> Result<(), JailError> {
    let mut fds = fds.into_iter();
    let missing = || at("descriptors")(io::ErrorKind::NotFound.into());
    let users = fds.next().ok_or_else(missing)?;
    let mounts = fds.next().ok_or_else(missing)?;
    let groups: Vec<OwnedFd> = fds.collect();
    if groups.is_empty() {
        return Err(missing());
    }
    // While there is a /proc to read: what the server has put aside for the work of TLS belongs to the session.
    let children = proc::children(std::process::id()).map_err(at("list what this process has started"))?;
    credential::set_rlimit(Resource::Nofile, view.open_files).map_err(at("open_files"))?;
    credential::set_rlimit(Resource::Core, CORE_LIMIT).map_err(at("core dumps"))?;
    namespace::enter(&mounts, Kind::Mount).map_err(at("mount namespace"))?;
    namespace::enter(&users, Kind::User).map_err(at("user namespace"))?;
    credential::become_for_good(0, 0).map_err(at("identity"))?;
    confine(ports)?;
    // Last, so that nothing in the tenant's group ever has rights over the host.
    join(&groups, &children).map_err(at("control groups"))
}

/// Moves this process and what it has started: the files were opened by root, which is what counts.
fn join(groups: &[OwnedFd], children: &[u32]) -> io::Result<()> {
    for group in groups {
        for child in children {
            match rustix::io::write(group, child.to_string().as_bytes()) {
                // It has ended.
                Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rustix::io::write(group, b"0")?;
    }
    Ok(())
}

fn confine(ports: Option<RangeInclusive<u16>>) -> Result<(), JailError> {
    let abi = landlock::abi();
    let domain = Domain::of_ftp(abi).map_err(|error| at("Landlock")(io::Error::other(error)))?;
    let mut rules = Vec::new();
    for rule in &domain.rules {
        let fd = rustix::fs::open(rule.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        rules.push((fd.map_err(|error| at(rule.path)(error.into()))?, rule.access));
    }
    // On an older kernel the filter alone refuses connections, and nothing says where the server may wait for them.
    let tcp = if abi >= ABI_OF_TCP { Tcp { never_connects: true, ports } } else { Tcp::default() };
    landlock::restrict_with(domain.handled, domain.scoped, rules, tcp).map_err(|error| at("Landlock")(error.into()))?;
    let program = seccomp::filter_of_ftp();
    let program: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    bailiwick_sys::seccomp::load(&program).map_err(at("seccomp"))?;
    credential::limit_capabilities(CAPABILITIES.0).map_err(at("capabilities"))?;
    credential::set_no_new_privs().map_err(at("no_new_privs"))?;
    credential::set_undumpable().map_err(at("memory"))
}
