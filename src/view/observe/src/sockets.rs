//! The sockets of a jail's processes, and the network namespace in which each was created. A socket that was created
//! outside shows its holder the interfaces and addresses of that other namespace.
//!
//! Danger: the kernel reports the namespace only for a process's own descriptors. So each descriptor is copied from the
//! tenant's process (`pidfd_getfd(2)`). If that process closes its descriptor meanwhile, the copy is the last one, and
//! a tenant can make the close of the last one block. So a child process does all this. It closes no copy
//! before it ends, and it has a deadline.

use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::{proc, process, socket};
use bailiwick_types::{ForeignSocket, MAX_FOREIGN, ProcessFacts, SocketFacts, UNIFIED, is_bound_web_socket};
use rustix::net::SocketAddrUnix;
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The deadline of the child process: a thousand times the usual duration.
const TIME: Duration = Duration::from_secs(2);
/// How long the child may take to end after it was killed.
const END_TIME: Duration = Duration::from_secs(1);
/// The most sockets, and the most descriptors, of one jail that are examined.
const MAX_SOCKETS: usize = 2048;
const MAX_DESCRIPTORS: usize = 16_384;
/// The most bytes of the child's reply.
const MAX_TOLD: u64 = 64 << 10;

/// Examines the sockets of a jail's processes. `networks` are the network namespaces of all jails. All of them except
/// this jail's own belong to neighbours. `None` when the examination fails or misses its deadline. A process in a
/// network namespace of the host is left out, because another wall reports it.
pub(crate) fn sockets(
    init: &ProcessFacts,
    processes: &[ProcessFacts],
    host_namespaces: &BTreeSet<u64>,
    networks: &BTreeSet<u64>,
) -> Option<SocketFacts> {
    let beside = processes.iter().filter(|process| process.pid != init.pid);
    let beside =
        beside.filter(|process| process.namespaces.get("net").is_none_or(|inode| !host_namespaces.contains(inode)));
    // An FTP server's process holds the connection of its client. Such a process has walls of its own.
    let is_ftp = |process: &ProcessFacts| process.cgroups.get(UNIFIED).is_some_and(|group| group.ends_with("/ftp"));
    let beside = beside.filter(|process| !is_ftp(process));
    let all: Vec<&ProcessFacts> = std::iter::once(init).chain(beside).collect();
    apart(|| look(&all, networks)).ok()
}

/// Runs `tell` in a child process and returns what it reports.
fn apart(tell: impl FnOnce() -> io::Result<SocketFacts>) -> io::Result<SocketFacts> {
    let (read, mut write) = io::pipe()?;
    let Some(pid) = process::fork()? else {
        // The child may block. So it does not keep its parent's descriptors open.
        let told = process::keep_only(&[write.as_fd()]).and_then(|()| tell());
        let told = told.and_then(|facts| write.write_all(written(&facts).as_bytes()));
        process::exit_now(i32::from(told.is_err()))
    };
    drop(write);
    let pidfd = process::open(pid)?;
    let facts = hear(read);
    // The child has replied, or takes too long.
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

/// Writes the facts as text: one line of numbers, and one line for each foreign socket.
fn written(facts: &SocketFacts) -> String {
    let SocketFacts { own, host, looked, foreign, cut } = facts;
    let socket = |socket: &ForeignSocket| format!("{} {} {}\n", socket.network, socket.pid, socket.descriptor);
    let head = format!("{own} {host} {looked} {} {}\n", u8::from(*cut), foreign.len());
    foreign.iter().map(socket).fold(head, |text, line| text + &line)
}

/// Reads that text back. `None` when a part is missing, because the child may have been killed.
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

/// Whether a socket of another network namespace than the jail's is foreign. It is foreign if it belongs to the host or
/// to a neighbour, or if its namespace has addresses. A socket of `bailiwickd` is not foreign: its namespace leads
/// nowhere (systemd gives it a loopback only). That namespace is not known by number, because each start of
/// `bailiwickd` makes another one, and sessions outlive it. A neighbour's namespace leads nowhere either, but its
/// sockets are foreign.
fn is_foreign(network: u64, host: u64, neighbours: &BTreeSet<u64>, shows: bool) -> bool {
    network == host || neighbours.contains(&network) || shows
}

/// Whether a socket is a connection of the host's web server to a service: a Unix socket of connections that was accepted at the
/// path of a tenant's socket. It has the network namespace of the web server, and the filter of every jail refuses to show that one.
fn is_web_connection(socket: impl AsFd) -> bool {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let bound = rustix::net::getsockname(&socket).ok().and_then(|name| SocketAddrUnix::try_from(name).ok());
    let path = bound.as_ref().and_then(SocketAddrUnix::path_bytes).map(|path| Path::new(OsStr::from_bytes(path)));
    sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
        && path.is_some_and(is_bound_web_socket)
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
            // The process has ended meanwhile.
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
                // The descriptor was closed, or the process ended, meanwhile.
                Err(error) if matches!(error.raw_os_error(), Some(EBADF | ESRCH)) => continue,
                Err(error) => return Err(error),
            };
            // The number may be another descriptor by now. Then that descriptor is the one to judge.
            let network = socket::network(&copy);
            // A socket that cannot be queried may show anything.
            let shows = socket::shows_addresses(&copy).unwrap_or(true);
            let is_web = is_web_connection(&copy);
            // The copy is not closed here: see the head of this file.
            std::mem::forget(copy);
            let Ok(network) = network else { continue };
            seen.insert(inode);
            if is_web {
                continue;
            }
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

/// Error numbers (linux/errno).
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
