//! Tenants' storage: directories below the state directory, made from seeds, bounded by quotas, removed by a purge.
//!
//! Danger: a tenant's directory is the tenant's. After the first day, nothing here opens a name in it, with two
//! exceptions: the removal of everything, and the directory that an operator has locked an FTP login to. Neither
//! follows links or mounts, and the removal looks up no name twice.

use crate::limits::quota::{self, QuotaError};
use crate::runtime::DaemonUser;
use crate::storage::grave;
use crate::storage::purge::Removal;
use crate::storage::seed::{Preparation, is_top};
use bailiwick_plan::JailPlan;
use bailiwick_plan::disk::DiskPlan;
use bailiwick_plan::seed::Seed;
use bailiwick_sys::{file, mount};
use bailiwick_types::{IdRange, QuotaFacts, TenantName};
use rustix::fs::{Gid, Mode, OFlags, RenameFlags, Uid};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TENANTS: &str = "tenants";
const HISTORY: &str = "history";
const PURGED: &str = ".purged";
/// How long to wait for another warden, and between two tries. One that was killed may take a while to end.
const LOCK_TIME: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("cannot open the state directory \"{path}\"{hint}", path = path.display())]
    Open {
        path: PathBuf,
        hint: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the state directory \"{path}\" must belong to root with mode 0711 or 0700, it belongs to user {uid} with mode {mode:04o}; `chown root:root` and `chmod 0711` it if it is there for nothing else", path = path.display())]
    Trust { path: PathBuf, uid: u32, mode: u32 },
    #[error("cannot write the first files of a tenant's storage")]
    Seed(#[source] io::Error),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error("another bailiwick-warden works on the state directory \"{path}\"", path = path.display())]
    Locked { path: PathBuf },
}

/// Whether a directory may be closed to others: it is empty like a new file system, or it has our ledger and only
/// root could write to it.
fn is_ours_alone(state: &OwnedFd, mode: u32) -> io::Result<bool> {
    let names = file::names(state)?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    Ok(names.iter().all(|name| name == "lost+found") || (mode & 0o022 == 0 && has(crate::identity::ledger::FILE)))
}

/// The open state directory.
#[derive(Debug)]
pub(crate) struct Storage {
    state: OwnedFd,
    tenants: OwnedFd,
}

impl Storage {
    /// Opens and locks a state directory; makes it if its parent exists. Waits some seconds for another warden that
    /// has it. The daemon gets its own directory in it, for the history.
    pub(crate) fn open(path: &Path, daemon: DaemonUser) -> Result<Self, StorageError> {
        let error = |source: io::Error| {
            let hint = match source.raw_os_error() {
                Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                    "; its path must hold no symbolic link: write the real path into `state_dir`"
                }
                Some(code) if code == rustix::io::Errno::NOENT.raw_os_error() => "; make its parent directory first",
                _ => "",
            };
            StorageError::Open { path: path.to_owned(), hint, source }
        };
        let state = match file::open_dir(path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(|| error(missing))?;
                let parent = file::open_dir(parent).map_err(error)?;
                file::ensure_dir_at(&parent, name, 0o700).map_err(error)?
            }
            opened => opened.map_err(error)?,
        };
        let mut metadata = file::metadata(&state).map_err(error)?;
        if metadata.uid == 0 && metadata.mode & 0o066 != 0 && is_ours_alone(&state, metadata.mode).map_err(error)? {
            // This is how an operator makes one. It is not the host's, and nobody can have put anything into it.
            let narrow = rustix::fs::fchmod(&state, Mode::from_raw_mode(0o700)).map_err(io::Error::from);
            narrow.map_err(error)?;
            metadata = file::metadata(&state).map_err(error)?;
        }
        // Others may pass through to what they may reach by name, and see nothing else.
        if metadata.uid != 0 || metadata.mode & 0o066 != 0 {
            return Err(StorageError::Trust { path: path.to_owned(), uid: metadata.uid, mode: metadata.mode });
        }
        lock(&state).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => StorageError::Locked { path: path.to_owned() },
            _ => error(source),
        })?;
        let tenants = file::ensure_dir_at(&state, TENANTS, 0o700).map_err(error)?;
        let history = file::ensure_dir_at(&state, HISTORY, 0o700).map_err(error)?;
        let (uid, gid) = (Uid::from_raw(daemon.uid), Gid::from_raw(daemon.gid));
        let open_to_daemon = || -> io::Result<()> {
            rustix::fs::fchown(&history, Some(uid), Some(gid))?;
            rustix::fs::fchmod(&history, Mode::from_raw_mode(0o700))?;
            Ok(rustix::fs::fchmod(&state, Mode::from_raw_mode(0o711))?)
        };
        open_to_daemon().map_err(error)?;
        Ok(Self { state, tenants })
    }

    /// A descriptor of the state directory, for the ledger.
    pub(crate) fn state(&self) -> io::Result<OwnedFd> {
        self.state.try_clone()
    }

    /// The names of tenants' directories.
    pub(crate) fn tenants(&self) -> io::Result<Vec<String>> {
        visible(&file::open_dir_at(&self.tenants, ".")?)
    }

    /// The names under which data of purged tenants was set aside.
    pub(crate) fn graves(&self) -> io::Result<Vec<String>> {
        match file::open_dir_at(&self.state, PURGED) {
            Ok(purged) => visible(&purged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Makes a tenant's directory if it is missing, and charges it to the tenant. Returns the work that is left
    /// before its jail can use it.
    pub(crate) fn unprepared(&self, plan: &JailPlan, kind: &QuotaFacts) -> Result<Option<Preparation>, StorageError> {
        let (tenant, project) = (plan.tenant.as_str(), plan.ids.first);
        if let Some(dir) = quota::uncharged(&self.tenants, tenant, project, kind)? {
            return Ok(Some(Preparation::Charge { dir, project }));
        }
        let dir = quota::ensure_charged(&self.tenants, tenant, project, kind)?;
        let is_there = |seed: &Seed| file::metadata_at(&dir, &seed.path).is_ok();
        let is_whole = plan.seeds.iter().filter(|seed| is_top(seed)).all(is_there);
        Ok((!is_whole).then(|| Preparation::Seed { dir, seeds: plan.seeds.clone() }))
    }

    /// Makes and charges a tenant's directory, and writes its quota.
    pub(crate) fn ensure_bound(&self, plan: &JailPlan, kind: &QuotaFacts) -> Result<(), StorageError> {
        let dir = quota::ensure_charged(&self.tenants, plan.tenant.as_str(), plan.ids.first, kind)?;
        Ok(quota::bound(&self.tenants, &dir, plan.ids.first, &plan.disk, kind)?)
    }

    /// A detached mount of one directory of a tenant's storage.
    pub(crate) fn mount(&self, tenant: &TenantName, name: &str) -> io::Result<OwnedFd> {
        let dir = file::open_dir_at(&self.tenants, tenant)?;
        mount::detached_copy_of(file::open_dir_at(&dir, name)?)
    }

    /// The same of a directory below it, where every name is the tenant's. A link, or a way out, is refused.
    pub(crate) fn mount_below(&self, tenant: &TenantName, name: &str, below: &str) -> io::Result<OwnedFd> {
        let dir = file::open_dir_at(file::open_dir_at(&self.tenants, tenant)?, name)?;
        // Opened without reading: even its owner may lack that right.
        mount::detached_copy_of(file::open_at(&dir, below, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?)
    }

    /// Whether a tenant has any data.
    pub(crate) fn holds(&self, tenant: &TenantName) -> bool {
        file::metadata_at(&self.tenants, tenant).is_ok()
    }

    /// A tenant's directory; `None` if it has none.
    pub(crate) fn open_of(&self, tenant: &TenantName) -> Option<OwnedFd> {
        file::open_dir_at(&self.tenants, tenant).ok()
    }

    /// Writes a tenant's quota. A tenant without storage gets it when that is made.
    pub(crate) fn bound(
        &self,
        tenant: &TenantName,
        project: u32,
        plan: &DiskPlan,
        kind: &QuotaFacts,
    ) -> Result<(), StorageError> {
        match self.open_of(tenant) {
            Some(dir) => Ok(quota::bound(&self.tenants, &dir, project, plan, kind)?),
            None => Ok(()),
        }
    }

    /// Bounds a tenant by what it uses now.
    pub(crate) fn clamp_quota(&self, tenant: &TenantName, project: u32, kind: &QuotaFacts) -> Result<(), StorageError> {
        match self.open_of(tenant) {
            Some(dir) => Ok(quota::clamp_quota(&self.tenants, &dir, project, kind)?),
            None => Ok(()),
        }
    }

    /// The size of the file system, in bytes.
    pub(crate) fn size(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.state)?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// The free space of the file system, in bytes.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.state)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Sets a tenant's data aside, in one step; the tenant has no storage any more. Returns the new name, or `None`
    /// if there was no data. [`Self::removal`] removes it.
    pub(crate) fn bury(&self, tenant: &TenantName, ids: Option<IdRange>) -> io::Result<Option<String>> {
        let Ok(metadata) = file::metadata_at(&self.tenants, tenant) else { return Ok(None) };
        let purged = file::ensure_dir_at(&self.state, PURGED, 0o700)?;
        let grave = ids.map_or_else(|| grave::name_without_ids(tenant, metadata.inode), |ids| grave::name(tenant, ids));
        rustix::fs::renameat_with(&self.tenants, tenant.as_str(), &purged, &grave, RenameFlags::NOREPLACE)?;
        Ok(Some(grave))
    }

    /// The removal of data that was set aside under a name.
    pub(crate) fn removal(&self, grave: &str) -> io::Result<Removal> {
        Removal::new(file::ensure_dir_at(&self.state, PURGED, 0o700)?, grave.to_owned())
    }

    /// Opens data that was set aside.
    pub(crate) fn open_grave(&self, grave: &str) -> Option<OwnedFd> {
        file::open_dir_at(&self.state, PURGED).and_then(|purged| file::open_dir_at(purged, grave)).ok()
    }

    /// Removes the directory of data that was set aside, if it is empty.
    pub(crate) fn remove_empty_place(&self) {
        // The kernel refuses while something is in it, as it should.
        drop(file::remove_dir_at(&self.state, PURGED));
    }

    /// Whether the kernel still charges something to a project: open files without a name.
    pub(crate) fn is_charged(&self, project: u32, kind: &QuotaFacts) -> bool {
        *kind == QuotaFacts::Projects && quota::is_charged(&self.state, project)
    }
}

/// Locks a state directory, once no other warden has the lock.
fn lock(state: &OwnedFd) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_TIME;
    loop {
        match file::lock(state.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            done => return done,
        }
    }
}

/// The names in a directory, in a printable form.
fn visible(dir: &OwnedFd) -> io::Result<Vec<String>> {
    Ok(file::names(dir)?.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON: DaemonUser = DaemonUser { uid: 64_999, gid: 64_999 };

    fn real(temp: &tempfile::TempDir) -> PathBuf {
        temp.path().canonicalize().expect("real path")
    }

    #[test]
    fn a_link_a_wrong_mode_and_a_second_warden_are_refused() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let state = real(&temp).join("state");
        let first = Storage::open(&state, DAEMON).expect("made");
        let second = Storage::open(&state, DAEMON).unwrap_err();
        assert!(matches!(second, StorageError::Locked { .. }), "{second}");
        drop(first);
        std::os::unix::fs::symlink(&state, real(&temp).join("link")).expect("symlink");
        let error = Storage::open(&real(&temp).join("link"), DAEMON).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        assert!(matches!(Storage::open(&state, DAEMON), Err(StorageError::Trust { mode: 0o755, .. })));
    }
}
