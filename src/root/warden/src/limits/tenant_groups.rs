//! The open control groups of one tenant: writes limits and reads them back, freezes and thaws.

use bailiwick_plan::control::{Control, Entry, Place};
use bailiwick_sys::{cgroup, file};
use bailiwick_types::{Hierarchy, UNIFIED};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

/// The controller that counts tasks, and the name of its hierarchy of version 1.
pub(super) const PIDS: &str = "pids";

/// Why a limit does not hold.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error("no unified control-group hierarchy is mounted; it is needed to hold and kill jails (mount cgroup2)")]
    NoUnified,
    #[error("cannot {what} \"{path}\"")]
    File {
        what: &'static str,
        /// A group or a file.
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("limit \"{word} = {declared}\" was written to {file}, but the kernel reports {got:?}")]
    NotHeld { word: &'static str, declared: String, file: &'static str, got: String },
    #[error("this host has no control group for \"{word} = {declared}\"")]
    Nominal { word: &'static str, declared: String },
    #[error("`reserve` in bailiwick.toml keeps {kept} of \"{word}\", and the host has only {all}; lower it")]
    Reserve { word: &'static str, all: u64, kept: u64 },
    #[error("processes in \"{0}\" have not ended (uninterruptible in the kernel?)")]
    Busy(String),
}

pub(super) fn failed(what: &'static str, path: impl Into<String>) -> impl FnOnce(io::Error) -> GroupError {
    let path = path.into();
    move |source| GroupError::File { what, path, source }
}

/// The contents of control files, by name.
type Files = BTreeMap<&'static str, String>;

/// Groups of one name in several hierarchies: those of a tenant, or of a service.
#[derive(Debug)]
pub(crate) struct LimitedGroups {
    pub(super) unified: OwnedFd,
    /// By controller.
    pub(super) v1: BTreeMap<String, OwnedFd>,
}

/// The open groups of one tenant.
#[derive(Debug)]
pub(crate) struct TenantGroups {
    pub(super) all: LimitedGroups,
    /// Where init is cloned into.
    pub(crate) jail: OwnedFd,
    /// The jail's own group in the hierarchy of version 1 that counts tasks.
    pub(super) tasks_v1: Option<OwnedFd>,
}

impl LimitedGroups {
    /// Writes every limit and reads it back.
    pub(crate) fn limit(&self, controls: &[Control]) -> Result<(), GroupError> {
        // A limit of memory and swap cannot be below that of memory alone, so the right order depends on whether they
        // grow or shrink. Two rounds serve both cases. Device limits are written only if they differ: a fresh group
        // has none, and mostly needs none.
        let mut files = Files::default();
        let mut again = Vec::new();
        for (control, place) in controls.iter().filter_map(|control| Some((control, control.place.as_ref()?))) {
            let of_devices = !matches!(place.entry, Entry::Whole);
            if of_devices && self.held(control, place, &mut files)?.is_ok() {
                continue;
            }
            if let Err(GroupError::File { .. }) = self.write(control, place) {
                again.push((control, place));
            }
            files = Files::default();
        }
        for (control, place) in again {
            self.write(control, place)?;
        }
        let mut files = Files::default();
        for (control, place) in controls.iter().filter_map(|control| Some((control, control.place.as_ref()?))) {
            if let Err(got) = self.held(control, place, &mut files)? {
                return Err(GroupError::NotHeld {
                    word: control.key.word(),
                    declared: control.key.in_words(control.declared),
                    file: place.file,
                    got,
                });
            }
        }
        Ok(())
    }

    /// Whether the kernel reports the right limit; if not, what it reports. Each file is read once.
    fn held(&self, control: &Control, place: &Place, files: &mut Files) -> Result<Result<(), String>, GroupError> {
        let text = match files.get(place.file) {
            Some(text) => text,
            None => {
                let dir = self.directory(control, place);
                let text = cgroup::read(dir, place.file).map_err(failed("read", place.file))?;
                files.entry(place.file).or_insert(text)
            }
        };
        let held = place.read_back(text).is_some_and(|value| place.holds(value));
        Ok(if held { Ok(()) } else { Err(text.trim().to_owned()) })
    }

    fn directory(&self, control: &Control, place: &Place) -> &OwnedFd {
        match place.hierarchy {
            Hierarchy::Unified => &self.unified,
            Hierarchy::V1 => &self.v1[control.key.controller().unwrap_or_default()],
        }
    }

    fn write(&self, control: &Control, place: &Place) -> Result<(), GroupError> {
        let text = place.text();
        cgroup::write(self.directory(control, place), place.file, &text)
            .map_err(failed("write a limit to", format!("{} = {text}", place.file)))
    }
}

impl TenantGroups {
    /// The tenant's group in a hierarchy, which has the limits.
    pub(crate) fn shown(&self, hierarchy: &str) -> io::Result<&OwnedFd> {
        let found = if hierarchy == UNIFIED { Some(&self.all.unified) } else { self.all.v1.get(hierarchy) };
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes every limit of the tenant and reads it back.
    pub(crate) fn limit(&self, controls: &[Control]) -> Result<(), GroupError> {
        self.all.limit(controls)
    }

    /// Freezes or thaws the group. [`Freezing::is_done`] reports when this is complete.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<Freezing, GroupError> {
        let text = if frozen { "1" } else { "0" };
        let events = open_events(&self.all.unified).map_err(failed("watch", "cgroup.events"))?;
        cgroup::write(&self.all.unified, "cgroup.freeze", text).map_err(failed("write", "cgroup.freeze"))?;
        Ok(Freezing { events, line: if frozen { "frozen 1" } else { "frozen 0" } })
    }

    /// The file that says whether the group is frozen. It can be read again and again.
    pub(crate) fn freezer(&self) -> Result<Freezer, GroupError> {
        let file = file::open_file_at(&self.all.unified, "cgroup.freeze").map_err(failed("open", "cgroup.freeze"))?;
        Ok(Freezer(file))
    }

    /// Whether an earlier version made the jail, without a group for its tasks.
    pub(crate) fn is_of_an_earlier_version(&self) -> bool {
        self.all.v1.contains_key(PIDS) && self.tasks_v1.is_none()
    }
}

/// The kernel's file that says whether a group is to be frozen.
#[derive(Debug)]
pub(crate) struct Freezer(OwnedFd);

impl Freezer {
    pub(crate) fn is_frozen(&self) -> bool {
        let mut buffer = [0; 8];
        rustix::io::pread(&self.0, &mut buffer, 0).is_ok_and(|len| buffer[..len].starts_with(b"1"))
    }
}

/// A group that is being frozen or thawed.
#[derive(Debug)]
pub(crate) struct Freezing {
    events: OwnedFd,
    line: &'static str,
}

impl Freezing {
    /// The file to wait for, with `POLLPRI`.
    pub(crate) fn events(&self) -> &OwnedFd {
        &self.events
    }

    pub(crate) fn is_done(&self) -> Result<bool, GroupError> {
        has_line(&self.events, self.line).map_err(failed("watch", "cgroup.events"))
    }
}

pub(super) fn bound_tasks(group: &OwnedFd, tasks: u64) -> Result<(), GroupError> {
    let text = tasks.to_string();
    cgroup::write(group, "pids.max", &text).map_err(failed("write a limit to", format!("pids.max = {text}")))
}

/// The file that reports changes of a group with `POLLPRI` (`cgroups(7)`).
pub(super) fn open_events(dir: &OwnedFd) -> io::Result<OwnedFd> {
    file::open_file_at(dir, "cgroup.events")
}

/// Whether the file has a line. It must be read through the polled descriptor: the read silences it until the next
/// change.
pub(super) fn has_line(events: &OwnedFd, line: &str) -> io::Result<bool> {
    let mut buffer = [0; 256];
    let len = match rustix::io::pread(events, &mut buffer, 0) {
        // The group is gone, with everything in it.
        Err(rustix::io::Errno::NODEV) => return Ok(line == "populated 0"),
        len => len?,
    };
    Ok(String::from_utf8_lossy(&buffer[..len]).lines().any(|found| found == line))
}

/// Whether a group has no process, from the file that `Groups::clear` keeps.
pub(crate) fn is_empty(events: &OwnedFd) -> bool {
    has_line(events, "populated 0").unwrap_or(false)
}
