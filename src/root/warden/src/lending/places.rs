//! The directories of lent sockets: `TENANT/sockets/NAME/FILE`, of which a jail sees `sockets`, and `TENANT/NAME.counts`.

use crate::runtime::path_of;
use bailiwick_plan::lending::COUNTS_SIZE;
use bailiwick_sys::{file, socket};
use bailiwick_types::{HostSocketName, TenantName};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The directory that a jail sees.
const SOCKETS: &str = "sockets";
/// Length of the queue of connections.
const BACKLOG: i32 = 128;
/// The name of a new socket before it takes its place.
const NEW: &str = ".new";

/// What the process of one socket has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The open connections.
    pub(crate) connections: u64,
    /// The connections that were refused.
    pub(crate) refused: u64,
    /// Why the last connection to the host's socket was not made.
    pub(crate) error: Option<Errno>,
}

/// The open directory of all tenants. Only root may enter it, so no user of the host reaches a socket in it.
#[derive(Debug)]
pub(crate) struct Places {
    lent: OwnedFd,
    /// The times of tenants' last messages. They stay when a jail ends.
    rates: OwnedFd,
}

impl Places {
    pub(crate) fn new(lent: OwnedFd, rates: OwnedFd) -> Self {
        Self { lent, rates }
    }

    /// Makes the directories of a tenant; returns the one that its jail sees.
    pub(crate) fn make(&self, tenant: &TenantName) -> io::Result<OwnedFd> {
        let own = file::ensure_dir_at(&self.lent, tenant, 0o755)?;
        ensure(&own, SOCKETS)
    }

    /// The directory of one socket.
    pub(crate) fn socket_dir(&self, tenant: &TenantName, name: &HostSocketName) -> io::Result<OwnedFd> {
        ensure(&self.make(tenant)?, name.as_str())
    }

    /// The file with the counts of one socket.
    pub(crate) fn counts(&self, tenant: &TenantName, name: &HostSocketName) -> io::Result<OwnedFd> {
        let own = file::open_dir_at(&self.lent, tenant)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        file::open_at(own, counts_name(name), flags, Mode::from_raw_mode(0o600))
    }

    /// The file with the times of a tenant's last messages.
    pub(crate) fn rate(&self, tenant: &TenantName) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        file::open_at(&self.rates, tenant.as_str(), flags, Mode::from_raw_mode(0o600))
    }

    /// What the process of one socket has counted.
    pub(crate) fn read_counts(&self, tenant: &TenantName, name: &HostSocketName) -> Option<Counts> {
        let own = file::open_dir_at(&self.lent, tenant).ok()?;
        let bytes = file::open_file_at(own, counts_name(name))
            .and_then(|fd| file::read_bounded(fd, usize::try_from(COUNTS_SIZE).map_err(io::Error::other)?));
        let bytes = bytes.ok()?;
        let mut numbers = bytes.as_chunks().0.iter().map(|number| u64::from_ne_bytes(*number));
        let (connections, refused) = (numbers.next()?, numbers.next()?);
        // A process of an earlier version does not say.
        let error = numbers.next().and_then(|error| i32::try_from(error).ok()).filter(|error| *error != 0);
        Some(Counts { connections, refused, error: error.map(Errno::from_raw_os_error) })
    }

    /// Removes one socket, so that nobody can connect any more.
    pub(crate) fn remove_socket(&self, tenant: &TenantName, name: &HostSocketName) -> io::Result<()> {
        let own = file::open_dir_at(&self.lent, tenant)?;
        file::remove_file_at(&own, counts_name(name))?;
        remove_with_files(&file::open_dir_at(&own, SOCKETS)?, name.as_str())
    }

    /// Removes all of a tenant. It is no error if nothing is there.
    pub(crate) fn remove(&self, tenant: &str) -> io::Result<()> {
        let own = match file::open_dir_at(&self.lent, tenant) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            own => own?,
        };
        if let Ok(sockets) = file::open_dir_at(&own, SOCKETS) {
            for name in file::names(file::open_dir_at(&sockets, ".")?)? {
                remove_with_files(&sockets, &name.to_string_lossy())?;
            }
            file::remove_dir_at(&own, SOCKETS)?;
        }
        remove_with_files(&self.lent, tenant)
    }

    /// The names of all tenants that have a directory.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = file::open_dir_at(&self.lent, ".").and_then(file::names).unwrap_or_default();
        names.into_iter().filter_map(|name| name.into_string().ok()).collect()
    }
}

fn counts_name(name: &HostSocketName) -> String {
    format!("{name}.counts")
}

/// Makes a directory that every user inside may enter, whatever the umask is.
fn ensure(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let made = file::ensure_dir_at(dir, name, 0o755)?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
    Ok(made)
}

/// Removes a directory with the files in it. It is no error if there is none.
fn remove_with_files(dir: &OwnedFd, name: &str) -> io::Result<()> {
    let inner = match file::open_dir_at(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        inner => inner?,
    };
    for file in file::names(&inner)? {
        file::remove_file_at(&inner, file)?;
    }
    file::remove_dir_at(dir, name)
}

/// Makes a listening socket for every user inside, in place of an earlier one. The caller is in the jail's network.
pub(crate) fn listen(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let listener = socket::unbound()?;
    file::remove_file_at(dir, NEW)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(path_of(dir, NEW).as_str())?)?;
    rustix::fs::chmodat(dir, NEW, Mode::from_raw_mode(0o666), rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&listener, BACKLOG)?;
    rustix::fs::renameat(dir, NEW, dir.as_fd(), name)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_place_is_made_and_removed_with_all_that_is_in_it() {
        let temp = tempfile::tempdir().expect("a directory");
        let real = temp.path().canonicalize().expect("a path");
        let places = Places::new(file::open_dir(&real).expect("opens"), file::open_dir(&real).expect("opens"));
        let (alice, mysql): (TenantName, HostSocketName) =
            ("alice".parse().expect("a name"), "mysql".parse().expect("a name"));
        let dir = places.socket_dir(&alice, &mysql).expect("makes");
        let first = listen(dir.as_fd(), "mysqld.sock").expect("listens");
        let path = real.join("alice/sockets/mysql/mysqld.sock");
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o666);
        drop(first);
        let _second = listen(dir.as_fd(), "mysqld.sock").expect("takes its place");
        std::os::unix::net::UnixStream::connect(&path).expect("connects");
        let counts = places.counts(&alice, &mysql).expect("makes");
        assert_eq!(places.read_counts(&alice, &mysql), None, "nothing was counted");
        rustix::io::pwrite(&counts, &[7_u64.to_ne_bytes(), 9_u64.to_ne_bytes()].concat(), 0).expect("writes");
        let golden = Counts { connections: 7, refused: 9, error: None };
        assert_eq!(places.read_counts(&alice, &mysql), Some(golden), "of an earlier version");
        rustix::io::pwrite(&counts, &13_u64.to_ne_bytes(), 16).expect("writes");
        assert_eq!(places.read_counts(&alice, &mysql), Some(Counts { error: Some(Errno::ACCESS), ..golden }));
        assert_eq!(places.names(), ["alice"]);
        places.remove_socket(&alice, &mysql).expect("removes");
        assert!(!path.exists() && real.join("alice/sockets").exists());
        places.socket_dir(&alice, &mysql).expect("makes it again");
        places.remove("alice").expect("removes");
        places.remove("alice").expect("nothing is there");
        assert_eq!(places.names(), [""; 0]);
    }
}
