//! The sockets of a jail's processes, and the network namespace in which each was created. A socket that was created outside shows its
//! holder the interfaces and addresses of that namespace.
//!
//! Danger: the kernel reports this only for a process's own descriptors, so each descriptor is copied from the tenant's process
//! (`pidfd_getfd(2)`). If that process closes its copy meanwhile, ours is the last one, and a tenant can make its close block. So a
//! separate process does this. It closes nothing, ends, and has a deadline.

use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::{proc, process, socket};
use bailiwick_types::{ForeignSocket, MAX_FOREIGN, ProcessFacts, SocketFacts, UNIFIED};
use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

/// The deadline: a thousand times the usual duration.
const TIME: Duration = Duration::from_secs(2);
/// How long the killed process may take to end.
const END_TIME: Duration = Duration::from_secs(1);
/// The most sockets of one jail that are examined, and the most descriptors.
const MAX_SOCKETS: usize = 2048;
const MAX_DESCRIPTORS: usize = 16_384;
/// The most bytes of the answer.
const MAX_TOLD: u64 = 64 << 10;

/// Examines the sockets of a jail's processes. `networks` are the network namespaces of all jails: each but this jail's own belongs to a
/// neighbour. `None` when it fails or misses the deadline. A process in a network namespace of the host is not judged by its sockets.
pub(crate) fn sockets(
    init: &ProcessFacts,
    processes: &[ProcessFacts],
    host_namespaces: &BTreeSet<u64>,
    networks: &BTreeSet<u64>,
) -> Option<SocketFacts> {
    let beside = processes.iter().filter(|process| process.pid != init.pid);
    let beside =
        beside.filter(|process| process.namespaces.get("net").is_none_or(|inode| !host_namespaces.contains(inode)));
    // An FTP server's process has the connection of its client. It has walls of its own.
    let is_ftp = |process: &ProcessFacts| process.cgroups.get(UNIFIED).is_some_and(|group| group.ends_with("/ftp"));
    let beside = beside.filter(|process| !is_ftp(process));
    let all: Vec<&ProcessFacts> = std::iter::once(init).chain(beside).collect();
    apart(|| look(&all, networks)).ok()
}

/// What a process that is a copy of this one tells.
fn apart(tell: impl FnOnce() -> io::Result<SocketFacts>) -> io::Result<SocketFacts> {
    let (read, mut write) = io::pipe()?;
    let Some(pid) = process::fork()? else {
        // It may be made to wait: nothing of its parent's is held open by it meanwhile.
        let told = process::keep_only(&[write.as_fd()]).and_then(|()| tell());
        let told = told.and_then(|facts| write.write_all(written(&facts).as_bytes()));
        process::exit_now(i32::from(told.is_err()))
    };
    drop(write);
    let pidfd = process::open(pid)?;
    let facts = hear(read);
    // It has told what it had to tell, or it takes too long.
    process::kill(&pidfd).ok();
    process::has_ended(&pidfd, END_TIME)?;
    process::reap(&pidfd)?;
    facts
}

fn hear(read: io::PipeReader) -> io::Result<SocketFacts> {
    if !process::readable(&read, TIME)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut text = String::new();
    read.take(MAX_TOLD).read_to_string(&mut text)?;
    understood(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A line of numbers for all, and one for each socket that is foreign.
fn written(facts: &SocketFacts) -> String {
    let SocketFacts { own, host, looked, foreign, cut } = facts;
    let socket = |socket: &ForeignSocket| format!("{} {} {}\n", socket.network, socket.pid, socket.descriptor);
    let head = format!("{own} {host} {looked} {} {}\n", u8::from(*cut), foreign.len());
    foreign.iter().map(socket).fold(head, |text, line| text + &line)
}

/// The same read back; nothing when a part is missing, since the process may have been killed.
fn understood(text: &str) -> Option<SocketFacts> {
    let mut lines = text.lines().map(|line| line.split(' '));
    let mut head = lines.next()?;
    let (own, host) = (head.next()?.parse().ok()?, head.next()?.parse().ok()?);
    let looked = head.next()?.parse().ok()?;
    let (cut, count) = (head.next()? == "1", head.next()?.parse().ok()?);
    let socket = |mut line: std::str::Split<'_, char>| {
        let (network, pid) = (line.next()?.parse().ok()?, line.next()?.parse().ok()?);
        Some(ForeignSocket { network, pid, descriptor: line.next()?.parse().ok()? })
    };
    let foreign: Vec<ForeignSocket> = lines.map(socket).collect::<Option<_>>()?;
    (foreign.len() == count).then_some(SocketFacts { own, host, looked, foreign, cut })
}

/// Whether a socket of another network than the jail's may be in it. `bailiwickd` is in one that leads nowhere (systemd's has a
/// loopback), another one after each of its starts, and sessions outlive it; a neighbour's leads nowhere either, and is no less foreign.
fn is_foreign(network: u64, host: u64, neighbours: &BTreeSet<u64>, shows: bool) -> bool {
    network == host || neighbours.contains(&network) || shows
}

fn look(processes: &[&ProcessFacts], networks: &BTreeSet<u64>) -> io::Result<SocketFacts> {
    let host = socket::network(socket::unbound()?)?;
    let init = processes.first().ok_or(io::ErrorKind::InvalidInput)?;
    namespace::enter(namespace::open(init.pid, "net")?, Kind::Network)?;
    let own = socket::network(socket::unbound()?)?;
    let mut facts = SocketFacts { own, host, looked: 0, foreign: Vec::new(), cut: false };
    let (mut seen, mut descriptors) = (HashSet::new(), 0);
    for process in processes {
        let Ok(held) = process::open(process.pid) else { continue };
        if proc::start_time(process.pid).ok() != Some(process.start_time) {
            continue;
        }
        let open = match proc::sockets(process.pid, MAX_DESCRIPTORS - descriptors) {
            Ok(open) => open,
            // It has ended meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(ENOENT | ESRCH)) => continue,
            Err(error) => return Err(error),
        };
        descriptors += open.looked;
        facts.cut |= open.cut;
        for (descriptor, inode) in open.sockets {
            if seen.contains(&inode) {
                continue;
            }
            if seen.len() == MAX_SOCKETS {
                facts.cut = true;
                break;
            }
            let copy = match process::descriptor_of(&held, descriptor) {
                Ok(copy) => copy,
                // Closed, or ended, meanwhile.
                Err(error) if matches!(error.raw_os_error(), Some(EBADF | ESRCH)) => continue,
                Err(error) => return Err(error),
            };
            // Another descriptor may have this number by now; then what is there now is judged by itself.
            let network = socket::network(&copy);
            // One that cannot be asked may show anything.
            let shows = socket::shows_addresses(&copy).unwrap_or(true);
            // Never closed here: see the head of this file.
            std::mem::forget(copy);
            let Ok(network) = network else { continue };
            seen.insert(inode);
            let room = if network == host { MAX_FOREIGN } else { MAX_FOREIGN / 2 };
            if network == own || !is_foreign(network, host, networks, shows) {
                continue;
            } else if facts.foreign.len() < room {
                facts.foreign.push(ForeignSocket { network, pid: process.pid, descriptor });
            } else {
                facts.cut = true;
            }
        }
    }
    facts.looked = u32::try_from(seen.len()).unwrap_or(u32::MAX);
    Ok(facts)
}

/// linux/errno.
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EBADF: i32 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_leads_nowhere_is_foreign_when_it_is_a_neighbours() {
        let neighbours = [7, 9].into();
        for (network, shows, want) in [(1, false, true), (7, false, true), (8, false, false), (8, true, true)] {
            assert_eq!(is_foreign(network, 1, &neighbours, shows), want, "{network} {shows}");
        }
    }

    #[test]
    fn what_is_told_is_understood_and_half_of_it_is_not() {
        let socket = |network| ForeignSocket { network, pid: 7, descriptor: 3 };
        for foreign in [Vec::new(), vec![socket(1)], vec![socket(1), socket(u64::MAX)]] {
            let facts = SocketFacts { own: 5, host: 1, looked: 9, foreign, cut: true };
            let text = written(&facts);
            assert_eq!(understood(&text), Some(facts.clone()));
            let half = text.trim_end().rsplit_once([' ', '\n']).expect("more than one word").0;
            assert_eq!(understood(half), None, "{half:?}");
        }
        assert_eq!(understood(""), None);
    }
}
