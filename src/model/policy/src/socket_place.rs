//! Where a socket of the host is, as the file system shows it now, and whether it may be lent from there.
//!
//! Danger: whoever serves a lent socket sees the whole directory of the socket. A path is a text, and a link or a user of the
//! host could make it mean another directory. So all directories above that of the socket must be root's alone. The last one may
//! belong to the user of the server: that is who serves the socket.

use crate::host_sockets::shared_directory;
use crate::model::{Host, HostSocket};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// The most links on the way, as for the kernel.
const MAX_LINKS: usize = 40;

/// The place of a socket that may be lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlace {
    /// Its directory, by a path without links.
    pub directory: PathBuf,
    /// Device and inode of that.
    pub id: (u64, u64),
    /// Owner, group and mode of the directory.
    pub of_directory: (u32, u32, u32),
    /// Owner, group and mode of the socket.
    pub of_socket: (u32, u32, u32),
}

/// Why a socket cannot be lent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLent {
    /// It is not there.
    Missing,
    /// It may not be lent from there.
    Refused {
        /// In words.
        why: String,
        /// What to do.
        remedy: String,
    },
}

impl NotLent {
    fn refused(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { why: why.into(), remedy: remedy.into() }
    }
}

impl From<io::Error> for NotLent {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            _ => Self::refused(format!("it cannot be looked at: {error}"), "see that root can read its directory"),
        }
    }
}

/// Finds a socket of the host.
///
/// # Errors
/// Why it cannot be lent.
pub fn find_socket(host: &Host, socket: &HostSocket) -> Result<SocketPlace, NotLent> {
    let (parent, name) = socket.path.parent().zip(socket.path.file_name()).ok_or(NotLent::Missing)?;
    let way = walk(parent)?;
    let directory = way.last().ok_or(NotLent::Missing)?;
    let own: Vec<(u64, u64)> = [&host.state_dir, &host.runtime_dir]
        .iter()
        .filter_map(|dir| fs::metadata(dir).ok())
        .map(|dir| id(&dir))
        .collect();
    if way.iter().any(|step| own.contains(&id(&step.metadata))) {
        let why = format!("\"{}\" leads to a directory of Bailiwick", socket.path.display());
        return Err(NotLent::refused(why, "take its [[host_socket]] out: no tenant may use a socket of Bailiwick"));
    }
    if let Some((why, remedy)) = shared_directory(&directory.path) {
        return Err(NotLent::refused(format!("\"{}\" {why}", socket.path.display()), remedy));
    }
    let (_, above) = way.split_last().ok_or(NotLent::Missing)?;
    if let Some(step) = above.iter().find(|step| step.metadata.uid() != 0 || step.metadata.mode() & 0o022 != 0) {
        let why = format!(
            "others than root may change \"{}\", so they could put another directory in the place of \"{}\"",
            step.path.display(),
            directory.path.display()
        );
        let remedy = "give it to root, writable for nobody else, or have the socket made elsewhere";
        return Err(NotLent::refused(why, remedy));
    }
    let found = fs::symlink_metadata(directory.path.join(name))?;
    let (shown, kind) = (socket.path.display(), found.file_type());
    if kind.is_symlink() {
        return Err(NotLent::refused(
            format!("\"{shown}\" is a link"),
            "write the path of the socket that it leads to",
        ));
    }
    if !kind.is_socket() {
        return Err(NotLent::refused(format!("\"{shown}\" is no socket"), "write the path of a socket"));
    }
    let access = |of: &Metadata| (of.uid(), of.gid(), of.mode());
    Ok(SocketPlace {
        directory: directory.path.clone(),
        id: id(&directory.metadata),
        of_directory: access(&directory.metadata),
        of_socket: access(&found),
    })
}

fn id(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// A directory on the way to a socket.
struct Step {
    path: PathBuf,
    metadata: Metadata,
}

/// All directories that decide where a path leads, also those with links on the way. The last one is where it leads.
fn walk(path: &Path) -> Result<Vec<Step>, NotLent> {
    let step = |path: PathBuf| fs::symlink_metadata(&path).map(|metadata| Step { path, metadata });
    let parts = |path: &Path| -> Vec<OsString> {
        let all = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
        all.map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut left: VecDeque<OsString> = parts(path).into();
    let mut now = PathBuf::from("/");
    let mut way = vec![step(now.clone())?];
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            now.pop();
            way.push(step(now.clone())?);
            continue;
        }
        let next = step(now.join(part))?;
        if next.metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(NotLent::refused(
                    format!("\"{}\" has too many links", path.display()),
                    "write where it leads",
                ));
            }
            let to = fs::read_link(&next.path)?;
            if to.is_absolute() {
                now = PathBuf::from("/");
            }
            parts(&to).into_iter().rev().for_each(|part| left.push_front(part));
        } else if next.metadata.is_dir() {
            now.clone_from(&next.path);
            way.push(next);
        } else {
            return Err(NotLent::Missing);
        }
    }
    // Where it leads is last, also if the way has come past it before.
    let last = step(now)?;
    if way.last().is_none_or(|step| step.path != last.path) {
        way.push(last);
    }
    Ok(way)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_way_has_every_directory_that_decides_where_it_leads() {
        let temp = tempfile::tempdir().expect("a directory");
        let real = temp.path().canonicalize().expect("a path");
        fs::create_dir_all(real.join("a/b")).and_then(|()| fs::create_dir(real.join("c"))).expect("makes");
        symlink("../a/b", real.join("c/link")).and_then(|()| symlink(real.join("c"), real.join("abs"))).expect("links");
        symlink("loop", real.join("loop")).expect("links");
        fs::write(real.join("file"), "").expect("writes");
        let names = |path: &str| -> Result<Vec<String>, NotLent> {
            let below = |step: Step| Some(step.path.strip_prefix(&real).ok()?.display().to_string());
            Ok(walk(&real.join(path))?.into_iter().filter_map(below).collect())
        };
        assert_eq!(names("a/b"), Ok(["", "a", "a/b"].map(str::to_owned).into()));
        assert_eq!(names("c/link"), Ok(["", "c", "", "a", "a/b"].map(str::to_owned).into()));
        let abs = names("abs/link").expect("leads somewhere");
        assert_eq!(abs.last().map(String::as_str), Some("a/b"));
        assert!(abs.iter().any(|name| name == "c"));
        assert_eq!(names("nothing/there"), Err(NotLent::Missing));
        assert_eq!(names("file/x"), Err(NotLent::Missing));
        assert!(matches!(names("loop/x"), Err(NotLent::Refused { why, .. }) if why.contains("too many links")));
    }

    #[test]
    fn a_socket_of_bailiwick_or_of_the_host_itself_is_found_behind_every_alias() {
        let temp = tempfile::tempdir().expect("a directory");
        let real = temp.path().canonicalize().expect("a path");
        fs::create_dir_all(real.join("run/lent/alice")).expect("makes");
        let _listener = UnixListener::bind(real.join("run/lent/alice/s")).expect("binds");
        for (name, to) in [
            ("own", real.join("run")),
            ("below", real.join("run/lent")),
            ("all", "/run".into()),
            ("k", "/proc/self".into()),
        ] {
            symlink(to, real.join(name)).expect("links");
        }
        let text = format!("state_dir = \"{0}/state\"\nruntime_dir = \"{0}/run\"\n", real.display());
        let host = crate::parse(&[("bailiwick.toml".into(), text)]).policy.expect("valid").host;
        let why = |path: &str| {
            let socket = HostSocket { path: real.join(path), connections: 1 };
            match find_socket(&host, &socket) {
                Err(NotLent::Refused { why, .. }) => why,
                other => format!("{other:?}"),
            }
        };
        for path in ["own/warden.sock", "own/lent/alice/s", "below/alice/s", "run/lent/alice/s"] {
            assert!(why(path).ends_with("leads to a directory of Bailiwick"), "{path}: {}", why(path));
        }
        assert!(why("all/x.sock").ends_with("is in a directory of the whole host"), "{}", why("all/x.sock"));
        assert!(why("k/x.sock").ends_with("is the host's own"), "{}", why("k/x.sock"));
    }
}
