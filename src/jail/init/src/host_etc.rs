//! Makes links in the jail's `/etc` to the files that the host lends from its own, for names that the tenant does not have.
//!
//! So programs of the host find configuration files of packages that were installed after the tenant was created.
//!
//! Danger: `/etc` belongs to the tenant and may hold links that lead anywhere. No link may be followed, and nothing may be
//! replaced.

use bailiwick_sys::file;
use rustix::fs::FileType;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// How deep to look into directories that both sides have, and how many entries to look at in all.
const MAX_DEPTH: usize = 4;
const MAX_ENTRIES: usize = 10_000;

/// Makes the missing links. A link that cannot be made is left out: the jail of a suspended tenant has a read-only `/etc`.
pub(crate) fn link(lent: &Path, etc: &Path) {
    let mut left = MAX_ENTRIES;
    if let (Ok(from), Ok(etc)) = (file::open_dir(lent), file::open_dir(etc)) {
        link_below(&from, &etc, lent, 0, &mut left);
    }
}

fn link_below(from: &OwnedFd, etc: &OwnedFd, lent: &Path, depth: usize, left: &mut usize) {
    let names = file::open_dir_at(from, ".").and_then(file::names);
    for name in names.unwrap_or_default() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let at = lent.join(&name);
        match file::metadata_at(etc, &name) {
            // A failure must not keep the other links from being made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rustix::fs::symlinkat(&at, etc, &name).ok();
            }
            // A directory that the tenant has too gets the entries that it lacks.
            Ok(facts) if facts.kind == FileType::Directory && depth < MAX_DEPTH => {
                if let (Ok(from), Ok(below)) = (file::open_dir_at(from, &name), file::open_dir_at(etc, &name)) {
                    link_below(&from, &below, &at, depth + 1, left);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::link;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn missing_names_are_linked_and_the_tenants_own_stay() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        let (lent, etc, outside) = (root.join("lent"), root.join("etc"), root.join("outside"));
        for dir in [lent.join("php/8"), lent.join("ssl"), lent.join("fonts"), etc.join("ssl/own"), outside.clone()] {
            fs::create_dir_all(dir).expect("mkdir");
        }
        for file in [lent.join("magic"), lent.join("ssl/openssl.cnf"), lent.join("ssl/own"), lent.join("fonts/x")] {
            fs::write(file, "host").expect("write");
        }
        fs::write(etc.join("magic"), "own").expect("write");
        symlink(&outside, etc.join("fonts")).expect("symlink");
        for _ in 0..2 {
            link(&lent, &etc);
            assert_eq!(fs::read_link(etc.join("php")).expect("a link"), lent.join("php"));
            assert_eq!(fs::read_link(etc.join("ssl/openssl.cnf")).expect("a link"), lent.join("ssl/openssl.cnf"));
            assert_eq!(fs::read_to_string(etc.join("magic")).expect("reads"), "own");
            assert!(etc.join("ssl/own").is_dir());
            assert_eq!(fs::read_dir(&outside).expect("reads").count(), 0, "no link is followed");
        }
    }

    #[test]
    fn a_link_that_cannot_be_made_does_not_stop_the_others() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        let (lent, etc) = (root.join("lent"), root.join("etc"));
        for name in ["closed", "open", "open/more"] {
            for dir in [&lent, &etc] {
                fs::create_dir_all(dir.join(name)).expect("mkdir");
            }
            fs::write(lent.join(name).join("file"), "host").expect("write");
        }
        fs::write(lent.join("zzz"), "host").expect("write");
        for dir in [&root, &etc, &etc.join("open"), &etc.join("open/more")] {
            std::os::unix::fs::chown(dir, Some(65_534), None).expect("chown");
        }
        let (from, to) = (lent.clone(), etc.clone());
        let as_somebody = move || {
            // Another user, for this thread alone, because root may write in every directory.
            let somebody = rustix::fs::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(somebody, somebody, somebody).expect("another user");
            link(&from, &to);
        };
        std::thread::spawn(as_somebody).join().expect("links");
        assert!(!etc.join("closed/file").exists());
        for name in ["open/file", "open/more/file", "zzz"] {
            assert_eq!(fs::read_link(etc.join(name)).expect(name), lent.join(name));
        }
    }
}
