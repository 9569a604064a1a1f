//! Removes what purged tenants left, in slices: the warden's loop goes on, however many files there are.
//!
//! What cannot be removed (an immutable file, a mount, a swap file, a disk error) stays where it was set aside, is
//! reported, and is tried again. The tenant's ids stay reserved until nothing is left.
//!
//! Danger: these files were a tenant's. No link is followed and no mount is entered: what an operator has mounted
//! there is not the tenant's to lose.

use crate::limits::quota;
use bailiwick_sys::file;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

/// The first and the longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long a file system has to update its count, and the pause between looks: XFS frees inodes in the background.
const COUNTING_TIME: Duration = Duration::from_secs(5);
const COUNTING_PAUSE: Duration = Duration::from_millis(50);
/// The most names in a message about what cannot be removed.
const MOST_TOLD: usize = 3;

/// One removal. However deep the tree, two directories are open at a time and no path grows: before a directory is
/// removed, its subdirectories move to the top.
#[derive(Debug)]
pub(crate) struct Removal {
    parent: OwnedFd,
    name: String,
    pass: Option<Pass>,
    /// Prefix of the names that moved directories get. No tenant can guess it.
    mark: u64,
    moved: u64,
    pause: Duration,
    due: Instant,
    stuck: Option<Stuck>,
    /// Since when nothing is left to remove.
    gone_since: Option<Instant>,
}

/// What could not be removed in the last try.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stuck {
    count: u64,
    first: Vec<String>,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.count == 0 {
            return f.write_str(&self.first.join(", "));
        }
        write!(f, "{} files or directories cannot be removed: {}", self.count, self.first.join(", "))?;
        if self.count > MOST_TOLD as u64 { f.write_str(", ...") } else { Ok(()) }
    }
}

impl Stuck {
    fn add(&mut self, name: &OsStr, error: &io::Error) {
        self.count += 1;
        if self.first.len() < MOST_TOLD {
            self.first.push(format!("\"{}\" ({error})", name.to_string_lossy().escape_debug()));
        }
    }
}

/// The result of a slice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// There is more to do now.
    More,
    /// Nothing is left.
    Gone,
    /// Something cannot be removed. [`Removal::due`] says when to try again.
    Stuck(Stuck),
}

/// One pass over what is left.
#[derive(Debug)]
struct Pass {
    top: OwnedFd,
    names: Dir,
    /// The directory that is being emptied.
    inner: Option<(OsString, OwnedFd, Dir)>,
    is_empty: bool,
    has_progressed: bool,
    stuck: Stuck,
}

impl Removal {
    /// A removal that has not child.
    pub(crate) fn new(parent: OwnedFd, name: String) -> io::Result<Self> {
        let mut mark = [0; 8];
        rustix::rand::getrandom(&mut mark, rustix::rand::GetRandomFlags::empty())?;
        let (pass, due, pause) = (None, Instant::now(), FIRST_PAUSE);
        Ok(Self {
            parent,
            name,
            pass,
            mark: u64::from_ne_bytes(mark),
            moved: 0,
            pause,
            due,
            stuck: None,
            gone_since: None,
        })
    }

    /// Removes something small at once. It is no error if it is missing.
    pub(crate) fn whole(parent: &OwnedFd, name: &str) -> io::Result<()> {
        let mut removal = Self::new(parent.try_clone()?, name.to_owned())?;
        loop {
            match removal.slice(Instant::now()) {
                Slice::More => {}
                Slice::Gone => return Ok(()),
                Slice::Stuck(stuck) => return Err(io::Error::other(stuck.to_string())),
            }
        }
    }

    /// When to go on.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// What could not be removed in the last try.
    pub(crate) fn stuck(&self) -> Option<&Stuck> {
        self.stuck.as_ref()
    }

    /// Nothing is left, but something other than a file keeps it from ending. It counts as stuck only after a while.
    pub(crate) fn keep(&mut self, why: &str) {
        let now = Instant::now();
        // What was stuck before is gone too.
        self.stuck = None;
        if now < *self.gone_since.get_or_insert(now) + COUNTING_TIME {
            self.due = now + COUNTING_PAUSE;
            return;
        }
        self.end(Slice::Stuck(Stuck { count: 0, first: vec![why.to_owned()] }));
    }

    /// Makes it due now.
    pub(crate) fn hurry(&mut self) {
        self.due = Instant::now();
    }

    /// Goes on until this time.
    pub(crate) fn slice(&mut self, until: Instant) -> Slice {
        loop {
            match self.step() {
                Ok(None) if Instant::now() < until => {}
                Ok(None) => return Slice::More,
                Ok(Some(end)) => return self.end(end),
                Err(error) => {
                    let mut stuck = Stuck::default();
                    stuck.add(OsStr::new(&self.name), &error);
                    self.pass = None;
                    return self.end(Slice::Stuck(stuck));
                }
            }
        }
    }

    fn end(&mut self, end: Slice) -> Slice {
        if let Slice::Stuck(stuck) = &end {
            self.pass = None;
            self.due = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.stuck = Some(stuck.clone());
        }
        end
    }

    /// Handles one name; returns a result when there is no more to do now.
    fn step(&mut self) -> io::Result<Option<Slice>> {
        let Some(pass) = &mut self.pass else {
            quota::remove_whole(&self.parent, OsStr::new(&self.name));
            let top = match open(&self.parent, OsStr::new(&self.name)) {
                Ok(top) => top,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Slice::Gone)),
                Err(error) => return Err(error),
            };
            let names = Dir::read_from(&top)?;
            let (inner, stuck) = (None, Stuck::default());
            self.pass = Some(Pass { top, names, inner, is_empty: true, has_progressed: false, stuck });
            return Ok(None);
        };
        if let Some((_, dir, names)) = &mut pass.inner {
            match next(names)? {
                Some((name, kind)) => {
                    let done = if is_directory(dir, &name, kind) {
                        self.moved += 1;
                        rustix::fs::renameat_with(
                            &*dir,
                            name.as_os_str(),
                            &pass.top,
                            format!("{:016x}.{}", self.mark, self.moved),
                            rustix::fs::RenameFlags::NOREPLACE,
                        )
                        .map_err(io::Error::from)
                    } else {
                        file::remove_file_at(&*dir, &name)
                    };
                    pass.count(&name, done);
                }
                None => pass.leave(),
            }
            return Ok(None);
        }
        match next(&mut pass.names)? {
            Some((name, kind)) => {
                pass.is_empty = false;
                if is_directory(&pass.top, &name, kind) {
                    match open(&pass.top, &name).and_then(|dir| Ok((Dir::read_from(&dir)?, dir))) {
                        Ok((names, dir)) => pass.inner = Some((name, dir, names)),
                        Err(error) => pass.count(&name, Err(error)),
                    }
                } else {
                    let done = file::remove_file_at(&pass.top, &name);
                    pass.count(&name, done);
                }
                Ok(None)
            }
            None => self.pass_ended(),
        }
    }

    fn pass_ended(&mut self) -> io::Result<Option<Slice>> {
        let Some(pass) = self.pass.take() else { return Ok(None) };
        if pass.is_empty {
            file::remove_dir_at(&self.parent, &self.name)?;
            return Ok(Some(Slice::Gone));
        }
        Ok((!pass.has_progressed).then_some(Slice::Stuck(pass.stuck)))
    }
}

impl Pass {
    fn count(&mut self, name: &OsStr, done: io::Result<()>) {
        match done {
            Ok(()) => self.has_progressed = true,
            Err(error) => self.stuck.add(name, &error),
        }
    }

    /// Removes the emptied directory. If something is stuck in it, that was counted.
    fn leave(&mut self) {
        if let Some((name, ..)) = self.inner.take() {
            match file::remove_dir_at(&self.top, &name) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                done => self.count(&name, done),
            }
        }
    }
}

/// Opens a directory that is not a link and not a mount point.
fn open(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)?)
}

/// The next name, with its kind as the directory reports it.
fn next(names: &mut Dir) -> io::Result<Option<(OsString, FileType)>> {
    for entry in names {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            return Ok(Some((OsString::from_vec(name.to_vec()), entry.file_type())));
        }
    }
    Ok(None)
}

/// Whether a name is a directory. Some file systems do not report kinds.
fn is_directory(dir: &OwnedFd, name: &OsStr, kind: FileType) -> bool {
    match kind {
        FileType::Unknown => file::metadata_at(dir, name).is_ok_and(|metadata| metadata.kind == FileType::Directory),
        kind => kind == FileType::Directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn real(temp: &tempfile::TempDir) -> PathBuf {
        temp.path().canonicalize().expect("real path")
    }

    fn removal(at: &Path) -> Removal {
        Removal::new(file::open_dir(at).expect("opens"), "grave".to_owned()).expect("random")
    }

    /// With slices that end at once, so each handles one name.
    fn run(removal: &mut Removal) -> (usize, Slice) {
        for count in 1.. {
            match removal.slice(Instant::now()) {
                Slice::More => {}
                end => return (count, end),
            }
        }
        unreachable!("a removal ends")
    }

    #[test]
    fn a_file_that_was_stuck_and_is_gone_is_not_reported() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut removal = removal(&real(&temp));
        removal.end(Slice::Stuck(Stuck { count: 1, first: vec!["a swap file".to_owned()] }));
        assert!(removal.stuck().is_some());
        removal.keep("the file system counts it for a moment yet");
        assert_eq!(removal.stuck(), None);
    }

    #[test]
    fn a_deep_tree_is_removed_in_slices_and_links_are_not_followed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let outside = real(&temp).join("outside");
        std::fs::create_dir(&outside).expect("mkdir");
        std::fs::write(outside.join("kept"), b"x").expect("writes");
        let parent = file::open_dir(&real(&temp)).expect("opens");
        // Deeper than any path can be (PATH_MAX).
        let mut dir = file::ensure_dir_at(&parent, "grave", 0o700).expect("mkdir");
        rustix::fs::symlinkat(&outside, &dir, "link").expect("symlink");
        for _ in 0..3000 {
            file::make_dir_at(&dir, "1", 0o700).expect("mkdir");
            dir = file::open_dir_at(&dir, "1").expect("opens");
        }
        let (slices, end) = run(&mut removal(&real(&temp)));
        assert_eq!(end, Slice::Gone);
        assert!(slices > 3000, "{slices}");
        assert!(outside.join("kept").exists() && !real(&temp).join("grave").exists());
    }

    #[test]
    fn a_late_count_of_the_file_system_is_stuck_only_after_a_while() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut removal = removal(&real(&temp));
        assert_eq!(run(&mut removal).1, Slice::Gone);
        removal.keep("it is still counted");
        assert!(removal.stuck().is_none() && removal.due() <= Instant::now() + COUNTING_PAUSE);
        removal.gone_since = Instant::now().checked_sub(COUNTING_TIME);
        removal.keep("it is still counted");
        assert_eq!(removal.stuck().expect("it sticks").to_string(), "it is still counted");
    }

    #[test]
    fn mounts_are_not_entered_and_everything_else_is_removed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let at = |below: &str| real(&temp).join(below);
        for dir in ["grave/a/deep/mount", "grave/b", "outside"] {
            std::fs::create_dir_all(at(dir)).expect("mkdir");
        }
        std::fs::write(at("outside/kept"), b"x").expect("writes");
        std::fs::write(at("grave/b/file"), b"x").expect("writes");
        let mount = |arguments: &[&OsStr]| {
            let status = std::process::Command::new(arguments[0]).args(&arguments[1..]).status().expect("runs");
            assert!(status.success(), "{arguments:?}");
        };
        mount(&["mount".as_ref(), "--bind".as_ref(), at("outside").as_ref(), at("grave/a/deep/mount").as_ref()]);
        let mut removal = removal(&real(&temp));
        let (_, end) = run(&mut removal);
        let kept = at("outside/kept").exists();
        let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let below = at("grave").display().to_string();
        let found = text.lines().filter_map(|line| line.split(' ').nth(4)).find(|point| point.starts_with(&below));
        mount(&["umount".as_ref(), found.expect("it is mounted still").as_ref()]);
        assert!(kept, "what is mounted is not the tenant's");
        let Slice::Stuck(stuck) = end else { panic!("{end:?}") };
        assert!(stuck.count == 1 && stuck.to_string().contains("1 files or directories"), "{stuck}");
        assert!(!at("grave/b").exists(), "all else is gone");
        removal.hurry();
        assert_eq!(run(&mut removal).1, Slice::Gone);
    }
}
