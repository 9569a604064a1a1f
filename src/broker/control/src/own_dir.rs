//! The directory for this program's own files: the history, the audit log, and the state of timers.
//!
//! The service manager gives the directory (`StateDirectory=`), wherever `state_dir` is. So the files are not on a disk
//! of the tenants, and do not move with one. Without a service manager the directory is `history` below `state_dir`,
//! which the warden makes.
//!
//! Danger: the files of an earlier version are the only copy. All of them are moved, in steps, and the power may fail
//! after any step. Files that are in the way are set aside, never removed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The directory from the service manager, or several separated by colons (`systemd.exec(5)`).
const GIVEN: &str = "STATE_DIRECTORY";
/// A directory of files that are being moved here. It may be incomplete.
const TAKING: &str = "taking";
/// The same directory once it is complete, and once the files that were in the way are set aside.
const TAKEN: &str = "taken";
/// The prefix of directories with the files that were replaced by newer ones. A number follows.
const EARLIER: &str = "earlier-";

/// The directory of this program.
pub(crate) fn find(state_dir: &Path) -> PathBuf {
    given(std::env::var_os(GIVEN).as_deref()).unwrap_or_else(|| below(state_dir))
}

fn given(variable: Option<&OsStr>) -> Option<PathBuf> {
    let first = variable?.as_bytes().split(|byte| *byte == b':').next()?;
    Some(PathBuf::from(OsStr::from_bytes(first))).filter(|path| path.is_absolute())
}

/// The directory without a service manager. Earlier versions used it with one too.
pub(crate) fn below(state_dir: &Path) -> PathBuf {
    state_dir.join("history")
}

/// Moves the files of an earlier directory to this program's own one if they are newer. The files that are already
/// there are set aside. Returns whether files were moved.
pub(crate) fn move_from(from: &Path, own: &Path) -> io::Result<bool> {
    if fs::canonicalize(from).ok() == fs::canonicalize(own).ok() {
        return Ok(false);
    }
    let (taking, taken) = (own.join(TAKING), own.join(TAKEN));
    if !taken.is_dir() {
        if !taking.is_dir() && newest(from)? <= newest(own)? {
            return Ok(false);
        }
        make(&taking)?;
        for name in files(from)? {
            carry(&from.join(&name), &taking.join(&name))?;
        }
        let in_the_way = files(own)?;
        if !in_the_way.is_empty() {
            let aside = (1_u32..).map(|number| own.join(format!("{EARLIER}{number}"))).find(|path| !path.exists());
            let aside = aside.ok_or(io::ErrorKind::AlreadyExists)?;
            make(&aside)?;
            for name in in_the_way {
                fs::rename(own.join(&name), aside.join(&name))?;
            }
        }
        sync(&taking)?;
        fs::rename(&taking, &taken)?;
        sync(own)?;
    }
    for name in files(&taken)? {
        fs::rename(taken.join(&name), own.join(&name))?;
    }
    sync(own)?;
    fs::remove_dir(&taken)?;
    for name in files(from)? {
        // A file that cannot be removed stays. It is no newer than its copy here, so the next start does not move it.
        fs::remove_file(from.join(name)).ok();
    }
    Ok(true)
}

/// Moves a file, also to another file system. A file that cannot be removed is copied.
fn carry(from: &Path, to: &Path) -> io::Result<()> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The plain files in a directory; none if the directory does not exist.
fn entries(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let all = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        all => all?,
    };
    let mut found = Vec::new();
    for entry in all {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            found.push(entry);
        }
    }
    Ok(found)
}

fn files(dir: &Path) -> io::Result<Vec<OsString>> {
    Ok(entries(dir)?.iter().map(DirEntry::file_name).collect())
}

/// The time of the newest file in a directory.
fn newest(dir: &Path) -> io::Result<Option<SystemTime>> {
    entries(dir)?
        .iter()
        .map(|entry| entry.metadata()?.modified())
        .try_fold(None, |newest, time| Ok(newest.max(Some(time?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Two directories for a test, with files of given age whose text says where they are from.
    struct Dirs(tempfile::TempDir);

    impl Dirs {
        fn new(files: &[(&str, u64)]) -> Self {
            let dirs = Self(tempfile::tempdir().expect("temporary directory"));
            dirs.write("from", &[]);
            dirs.write("own", files);
            dirs
        }

        fn path(&self, below: &str) -> PathBuf {
            self.0.path().join(below)
        }

        fn write(&self, dir: &str, files: &[(&str, u64)]) {
            fs::create_dir_all(self.path(dir)).expect("makes");
            for (name, time) in files {
                let path = self.path(dir).join(name);
                fs::write(&path, format!("{name} of {dir}")).expect("writes");
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(*time);
                File::options().write(true).open(path).expect("opens").set_modified(time).expect("a time");
            }
        }

        fn move_from(&self) -> bool {
            move_from(&self.path("from"), &self.path("own")).expect("takes over")
        }

        fn says(&self, dir: &str) -> BTreeMap<String, String> {
            let text = |name: &OsString| fs::read_to_string(self.path(dir).join(name)).expect("reads");
            let all = files(&self.path(dir)).expect("lists");
            all.iter().map(|name| (name.to_string_lossy().into_owned(), text(name))).collect()
        }
    }

    fn all(dir: &str, names: &[&str]) -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), format!("{name} of {dir}"))).collect()
    }

    #[test]
    fn the_service_manager_says_where() {
        let of = |text: &str| given(Some(OsStr::new(text)));
        assert_eq!(of("/var/lib/bailiwick/history"), Some("/var/lib/bailiwick/history".into()));
        assert_eq!(of("/a:/b"), Some("/a".into()));
        assert_eq!((of(""), of("relative"), given(None)), (None, None, None));
    }

    #[test]
    fn what_is_newer_comes_and_what_is_there_is_set_aside() {
        let dirs = Dirs::new(&[]);
        assert!(!dirs.move_from(), "there is nothing");
        dirs.write("from", &[("history.db", 5), ("audit.log", 3)]);
        assert!(dirs.move_from());
        assert_eq!(dirs.says("own"), all("from", &["audit.log", "history.db"]));
        assert_eq!(dirs.says("from"), BTreeMap::new());
        assert!(!dirs.move_from(), "it is there");
        // This file is as old as the one there, like a copy whose original could not be removed.
        dirs.write("from", &[("history.db", 5)]);
        assert!(!dirs.move_from());
        // No existing file may be taken for a part of the new history, least of all a write-ahead log.
        dirs.write("own", &[("history.db", 6), ("history.db-wal", 6)]);
        dirs.write("from", &[("history.db", 7)]);
        assert!(dirs.move_from());
        assert_eq!(dirs.says("own"), all("from", &["history.db"]));
        let mut aside = all("own", &["history.db", "history.db-wal"]);
        aside.extend(all("from", &["audit.log"]));
        assert_eq!(dirs.says("own/earlier-1"), aside);
        // The same directory under another path is not moved.
        std::os::unix::fs::symlink(dirs.path("own"), dirs.path("link")).expect("links");
        assert!(!move_from(&dirs.path("link"), &dirs.path("own")).expect("nothing to do"));
        assert!(!move_from(&dirs.path("nowhere"), &dirs.path("own")).expect("nothing to do"));
    }

    #[test]
    fn whatever_was_the_last_step_the_next_run_ends_it() {
        let whole = all("from", &["a", "b", "c"]);
        // The last run ended after it had moved the first file, copied the second one and copied a part of the third.
        let dirs = Dirs::new(&[("a", 9), ("x", 9)]);
        dirs.write("from", &[("a", 5), ("b", 6), ("c", 7)]);
        fs::create_dir(dirs.path("own/taking")).expect("makes");
        fs::rename(dirs.path("from/a"), dirs.path("own/taking/a")).expect("moves");
        fs::copy(dirs.path("from/b"), dirs.path("own/taking/b")).expect("copies");
        fs::write(dirs.path("own/taking/c"), "c o").expect("writes");
        assert!(dirs.move_from());
        assert_eq!((dirs.says("own"), dirs.says("own/earlier-1")), (whole.clone(), all("own", &["a", "x"])));
        // The last run ended after it had set aside some of the files in the way.
        let dirs = Dirs::new(&[("x", 9)]);
        dirs.write("own/taking", &[]);
        dirs.write("own/earlier-1", &[("a", 9)]);
        dirs.write("from", &[("a", 5), ("b", 6), ("c", 7)]);
        assert!(dirs.move_from());
        assert_eq!(dirs.says("own"), whole);
        assert_eq!(
            (dirs.says("own/earlier-1"), dirs.says("own/earlier-2")),
            (all("own/earlier-1", &["a"]), all("own", &["x"]))
        );
        // The last run ended after it had moved some of the files to their place.
        let dirs = Dirs::new(&[]);
        dirs.write("from", &[("a", 5), ("b", 6), ("c", 7)]);
        fs::create_dir(dirs.path("own/taken")).expect("makes");
        for name in ["a", "b", "c"] {
            fs::rename(dirs.path("from").join(name), dirs.path("own/taken").join(name)).expect("moves");
        }
        fs::rename(dirs.path("own/taken/b"), dirs.path("own/b")).expect("moves");
        assert!(dirs.move_from());
        assert_eq!(dirs.says("own"), whole);
        assert!(!dirs.path("own/taken").exists() && !dirs.path("own/earlier-1").exists());
    }

    #[test]
    fn it_comes_from_another_file_system_and_from_what_may_only_be_read() {
        let elsewhere = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
        let dirs = Dirs::new(&[]);
        fs::write(elsewhere.path().join("history.db"), "history").expect("writes");
        assert!(move_from(elsewhere.path(), &dirs.path("own")).expect("takes over"));
        assert_eq!(fs::read(dirs.path("own/history.db")).expect("reads"), b"history");
        assert_eq!(files(elsewhere.path()).expect("lists"), [""; 0]);
    }
}
