//! `bailiwick-net --remove`: takes the router, its link to the host and the host's rules away.
//!
//! Only what is ours goes, and only when no jail is connected. That the host forwards packets stays: others may need it by now.

use super::{UplinkError, in_router, is_host_end, report, router_namespace, rules, system};
use crate::cache;
use bailiwick_netlink::route::RouteSocket;
use bailiwick_plan::network::{self, number_of_link};
use bailiwick_policy::Store;
use bailiwick_proto::NET_SOCKET;
use bailiwick_sys::{mount, socket};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to remove the links of jails that have ended. It does so later and by itself.
const LINKS_TIME: Duration = Duration::from_secs(3);

/// Somebody still needs what should be removed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InUse {
    /// The program that serves the router runs.
    #[error("bailiwick-net still runs; end it first: `systemctl stop bailiwick-uplink.timer bailiwick-net`")]
    Served,
    /// Jails are connected.
    #[error(
        "the router has links of {0} jails; end them first: `bailiwick stop NAME` for each, or `systemctl stop bailiwick-jails`"
    )]
    Connected(usize),
}

/// Removes everything; returns what was there. On a host without it this changes nothing.
pub(crate) fn run(config: &Path) -> Result<Vec<String>, UplinkError> {
    let (host, _) = Store::new(config).host().map_err(UplinkError::Policy)?;
    if socket::connect_at_once(&host.runtime_dir.join(NET_SOCKET)).is_ok() {
        return Err(InUse::Served.into());
    }
    let path = host.router_namespace();
    if let Some(router) = router_namespace::open(&path).map_err(system("open the router"))? {
        wait_for_no_jail(&router)?;
    }
    let mut removed = Vec::new();
    let mut links = RouteSocket::open()?;
    if let Some(link) = links.link(network::HOST_LINK)?.filter(is_host_end) {
        links.delete_link(link.index)?;
        removed.push(format!("the link {}", link.name));
    }
    if remove_namespace(&path).map_err(system("remove the router"))? {
        removed.push(format!("the router \"{}\"", path.display()));
    }
    removed.extend(rules::remove()?);
    cache::remove(&host).map_err(system("end the cache of names"))?;
    report::remove(&host).map_err(system("remove the word for bailiwick-net"))?;
    Ok(removed)
}

/// Whether the policy gives anybody a network, or the host has a router: then `--uplink` has something to do.
pub(crate) fn is_wanted(config: &Path) -> bool {
    let mut store = Store::new(config);
    store.host().is_ok_and(|(host, _)| bailiwick_observe::network::has_router(&host))
        || store.read().policy.is_some_and(|policy| policy.gives_networks())
}

pub(super) fn wait_for_no_jail(router: &OwnedFd) -> Result<(), UplinkError> {
    let deadline = Instant::now() + LINKS_TIME;
    let mut inside = in_router(router, RouteSocket::open)??;
    loop {
        let left = inside.links()?.iter().filter(|link| number_of_link(&link.name).is_some()).count();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(InUse::Connected(left).into());
        }
        // No event says that the kernel has cleared a network namespace away.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Unmounts the file that holds the router, and removes it. A file with content is none of ours.
fn remove_namespace(path: &Path) -> io::Result<bool> {
    while mount::detach(path).is_ok() {}
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => fs::remove_file(path).map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_file_is_the_place_of_a_router() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (empty, full) = (temp.path().join("empty"), temp.path().join("full"));
        fs::write(&empty, "").expect("writes");
        fs::write(&full, "mine").expect("writes");
        assert!(remove_namespace(&empty).expect("removes"));
        assert!(!remove_namespace(&empty).expect("is gone") && !empty.exists());
        assert!(!remove_namespace(&full).expect("looks") && full.exists());
        assert!(!remove_namespace(&full.join("below")).expect("looks"));
        assert!(!remove_namespace(temp.path()).expect("looks"));
    }
}
