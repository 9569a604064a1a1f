//! Whether only root can change what a file names, and who can read a secret.

use bailiwick_policy::Diagnostic;
use bailiwick_policy::files::{Directory, Problem, Source};
use bailiwick_sys::file;
use bailiwick_types::TargetName;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The bit of a directory in which nobody renames or removes what belongs to another (`inode(7)`).
const STICKY: u32 = 0o1000;

/// The most links on the way to a file, as the kernel has it (`path_resolution(7)`).
const MOST_LINKS: u32 = 40;

/// Checks that nobody but root can change what an absolute path leads to: every directory and link on the way, and the file itself.
/// Returns the metadata of the file.
///
/// A directory with the sticky bit, such as `/tmp`, may be writable: nobody replaces there what belongs to root.
pub(crate) fn only_roots(path: &Path) -> Result<Metadata, Problem> {
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !is_plain {
        return Err(
            Problem::new(format!("{path:?} is not an absolute path")).hint("write it from \"/\" on, without \"..\"")
        );
    }
    // One name after the other, as the kernel walks. A link's owner decides where it leads, also in the middle of a chain of links.
    // So `place` never has a link in it, and what is behind each link comes before what was left.
    let (mut place, mut links) = (PathBuf::from("/"), 0);
    let mut metadata = check(&place, path)?;
    let mut left: Vec<OsString> = parts(path);
    while let Some(name) = left.pop() {
        if name == ".." {
            place.pop();
            metadata = check(&place, path)?;
            continue;
        }
        let next = place.join(name);
        metadata = check(&next, path)?;
        if !metadata.is_symlink() {
            place = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Problem::new(format!("\"{}\" leads over more than {MOST_LINKS} links", path.display())));
        }
        let target = fs::read_link(&next).map_err(|error| unreadable(&next, &error))?;
        if target.is_absolute() {
            place = PathBuf::from("/");
        }
        left.extend(parts(&target));
    }
    Ok(metadata)
}

/// The names of a path, the first one at the end.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// Checks that nobody but root can change one directory, link or file on the way of a path, and returns its metadata.
fn check(place: &Path, of: &Path) -> Result<Metadata, Problem> {
    let metadata = fs::symlink_metadata(place).map_err(|error| unreadable(of, &error))?;
    let shown = place.display();
    if metadata.uid() != 0 {
        return Err(Problem::new(format!("\"{shown}\" belongs to user {}, not to root", metadata.uid()))
            .hint(format!("chown -h root:root {shown}")));
    }
    let is_sticky = metadata.is_dir() && metadata.mode() & STICKY != 0;
    if metadata.mode() & 0o022 != 0 && !metadata.is_symlink() && !is_sticky {
        return Err(Problem::new(format!(
            "others than root can write \"{shown}\" (mode {:04o})",
            metadata.mode() & 0o7777
        ))
        .hint(format!("chmod go-w {shown}")));
    }
    Ok(metadata)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::NotFound => Problem::new(format!("there is no \"{}\"", path.display())),
        _ => Problem::new(format!("\"{}\" cannot be looked at: {error}", path.display())),
    }
}

/// Checks that nobody can read the file of a webhook but root and members of `group`.
pub(crate) fn unreadable_by_others(
    folder: &Directory,
    source: &Source,
    name: &TargetName,
    group: Option<u32>,
) -> Result<(), Vec<Diagnostic>> {
    let path = source.path();
    let metadata = file::metadata_at(folder.fd(), format!("{name}.toml"))
        .map_err(|error| vec![Diagnostic::whole(path, Problem::new(format!("cannot be read: {error}")))])?;
    let problem = readers(metadata.mode, metadata.gid, path, group);
    problem.map_or(Ok(()), |problem| Err(vec![Diagnostic::whole(path, problem)]))
}

/// The problem of a file with secrets that others can read, or that the members of `group` cannot.
pub(crate) fn readers(mode: u32, gid: u32, path: &Path, group: Option<u32>) -> Option<Problem> {
    let hint = || format!("chown root:bailiwick-notify {path} && chmod 0640 {path}", path = path.display());
    if mode & 0o004 != 0 {
        let problem = Problem::new(format!("every user of the host can read the secrets (mode {:04o})", mode & 0o7777));
        return Some(problem.hint(hint()));
    }
    let is_known = gid == 0 || Some(gid) == group;
    if mode & 0o040 != 0 && !is_known {
        let problem =
            Problem::new(format!("members of the group {gid} can read the secrets (mode {:04o})", mode & 0o7777));
        return Some(problem.hint(hint()));
    }
    if group.is_some_and(|group| group != 0 && (mode & 0o040 == 0 || gid != group)) {
        let problem =
            Problem::new(format!("bailiwick-notify cannot read it (mode {:04o}, group {gid})", mode & 0o7777));
        return Some(problem.hint(hint()));
    }
    None
}

/// Reads a file that holds one secret, which nobody may read but root and members of `group`.
pub(crate) fn secret_file(path: &Path, group: Option<u32>) -> Result<String, Problem> {
    const MAX: usize = 4096;
    let metadata = only_roots(path)?;
    if !metadata.is_file() {
        return Err(Problem::new(format!("\"{}\" is no file", path.display())));
    }
    if let Some(problem) = readers(metadata.mode(), metadata.gid(), path, group) {
        return Err(problem);
    }
    let read = || file::read_bounded(fs::File::open(path)?.into(), MAX);
    let bytes = read().map_err(|error| unreadable(path, &error))?;
    let text = String::from_utf8(bytes).map_err(|_| Problem::new(format!("\"{}\" is no text", path.display())))?;
    Ok(text.trim().to_owned())
}

/// An absolute path from a text.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, Problem> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Problem::new(format!("{text:?} is not an absolute path")).hint("write it from \"/\" on"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn write(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/sh\n").expect("writes");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn shown(result: Result<Metadata, Problem>) -> Option<String> {
        result.err().map(|problem| Diagnostic::whole(Path::new("f"), problem).to_string())
    }

    #[test]
    fn only_root_may_own_what_is_read_and_each_directory_above_it() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        fs::create_dir(root.join("d")).expect("mkdir");
        let program = root.join("d/run");
        write(&program, 0o755);
        assert_eq!(shown(only_roots(&program)), None);
        assert_eq!(shown(only_roots(Path::new("/bin/sh"))), None, "through the links of the system");

        let refused = |path: &Path, what: &str| {
            let said = shown(only_roots(path)).unwrap_or_default();
            assert!(said.contains(what), "{path:?}: {said:?}");
        };
        refused(Path::new("run"), "is not an absolute path");
        refused(&root.join("d/../d/run"), "is not an absolute path");
        refused(&root.join("d/nothing"), "there is no ");
        write(&program, 0o775);
        refused(&program, "others than root can write");
        write(&program, 0o755);
        fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o777)).expect("chmod");
        refused(&program, "others than root can write");
        fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        assert_eq!(shown(only_roots(&program)), None, "the sticky bit keeps what is root's");
        chown(&program, Some(1), None).expect("chown");
        refused(&program, "belongs to user 1, not to root");
        chown(&program, Some(0), None).expect("chown");
        // A link of somebody else, and one that leads to what somebody else can change.
        symlink(&program, root.join("link")).expect("symlink");
        assert_eq!(shown(only_roots(&root.join("link"))), None);
        std::os::unix::fs::lchown(root.join("link"), Some(1), None).expect("lchown");
        refused(&root.join("link"), "belongs to user 1, not to root");
        fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o777)).expect("chmod");
        symlink(&program, root.join("link2")).expect("symlink");
        refused(&root.join("link2"), "others than root can write");
    }

    #[test]
    fn each_link_of_a_chain_must_be_roots() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        for name in ["own", "others"] {
            fs::create_dir(root.join(name)).expect("mkdir");
        }
        let (program, middle, first) = (root.join("own/run"), root.join("others/middle"), root.join("own/first"));
        write(&program, 0o755);
        // A link of root leads to another link, which leads to what only root can change.
        symlink("../others/middle", &first).expect("symlink");
        symlink("./../own//run", &middle).expect("symlink");
        assert_eq!(shown(only_roots(&first)), None);
        let metadata = only_roots(&first).unwrap_or_else(|_| panic!("checked above"));
        assert_eq!(metadata.ino(), fs::metadata(&program).expect("is there").ino(), "of the file at the end");
        std::os::unix::fs::lchown(&middle, Some(1), None).expect("lchown");
        let said = shown(only_roots(&first)).unwrap_or_default();
        assert!(said.contains(&format!("{middle:?} belongs to user 1, not to root (chown -h root:root ")), "{said}");
        // The link is root's again, but in a directory where somebody else can put another in its place.
        std::os::unix::fs::lchown(&middle, Some(0), None).expect("lchown");
        chown(root.join("others"), Some(1), None).expect("chown");
        let said = shown(only_roots(&first)).unwrap_or_default();
        assert!(said.contains("others\" belongs to user 1, not to root"), "{said}");
        chown(root.join("others"), Some(0), None).expect("chown");
        // A directory that is a link in the middle.
        symlink(root.join("others"), root.join("own/dir")).expect("symlink");
        assert_eq!(shown(only_roots(&root.join("own/dir/middle"))), None);
        fs::set_permissions(root.join("others"), fs::Permissions::from_mode(0o777)).expect("chmod");
        let said = shown(only_roots(&root.join("own/dir/../dir/middle"))).unwrap_or_default();
        assert!(said.contains("is not an absolute path"), "{said}");
        let said = shown(only_roots(&root.join("own/dir/middle"))).unwrap_or_default();
        assert!(said.contains("others than root can write"), "{said}");
        // One that leads to itself.
        symlink("round", root.join("own/round")).expect("symlink");
        let said = shown(only_roots(&root.join("own/round"))).unwrap_or_default();
        assert!(said.contains("round\" leads over more than 40 links"), "{said}");
    }

    #[test]
    fn a_secret_is_for_root_and_one_group() {
        let path = Path::new("f");
        let is_fine = |mode, gid, group| readers(mode, gid, path, group).is_none();
        assert!(is_fine(0o600, 7, None) && is_fine(0o640, 0, None) && is_fine(0o640, 7, Some(7)));
        assert!(!is_fine(0o640, 7, None) && !is_fine(0o640, 8, Some(7)));
        assert!(!is_fine(0o644, 0, Some(0)) && !is_fine(0o604, 7, Some(7)));
        // Nor does it help to hide them from who must read them.
        assert!(!is_fine(0o640, 0, Some(7)) && !is_fine(0o600, 7, Some(7)));
    }
}
