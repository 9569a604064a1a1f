//! Reads the login user's crontab for `bailiwickd`, which cannot reach into the jail.
//!
//! Danger: this program is root inside, and the login user owns the file. It may read only a regular file of that user, on a path
//! without links. Otherwise a link could show the user a file that only root inside may read, in an error message.

use bailiwick_proto::init::CrontabFile;
use bailiwick_sys::file::{self, FileType, Metadata};
use bailiwick_types::MAX_CRONTAB;
use std::io;
use std::path::Path;

/// Reads the crontab at `path`, unless its stamp is still `last_stamp`.
pub(crate) fn read(path: &str, owner: u32, last_stamp: Option<&str>) -> CrontabFile {
    read_crontab(path, owner, last_stamp).unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => CrontabFile::Absent,
        _ => CrontabFile::Unusable,
    })
}

fn read_crontab(path: &str, owner: u32, last_stamp: Option<&str>) -> io::Result<CrontabFile> {
    let (dir, name) = path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
    let file = file::open_file_at(file::open_dir(Path::new(dir))?, name)?;
    let Metadata { kind, uid, inode, size, modified, .. } = file::metadata(&file)?;
    if kind != FileType::RegularFile || uid != owner {
        return Ok(CrontabFile::Unusable);
    }
    let stamp = format!("{inode}:{size}:{modified}");
    if last_stamp == Some(stamp.as_str()) {
        return Ok(CrontabFile::Same);
    }
    let text = file::read_bounded(file, MAX_CRONTAB)?;
    Ok(CrontabFile::Text { stamp, text: String::from_utf8_lossy(&text).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn only_a_plain_file_of_its_owner_is_read() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().canonicalize().expect("real path");
        let path = dir.join("alice");
        let path = path.to_str().expect("text");
        let owner = fs::metadata(&dir).expect("there").uid();
        assert_eq!(read(path, owner, None), CrontabFile::Absent);
        assert_eq!(read(&format!("{path}/none/alice"), owner, None), CrontabFile::Absent);
        fs::write(path, "* * * * * a\n").expect("writes");
        let CrontabFile::Text { stamp, text } = read(path, owner, None) else { panic!("there is one") };
        assert_eq!(text, "* * * * * a\n");
        assert_eq!(read(path, owner, Some(&stamp)), CrontabFile::Same);
        assert_eq!(read(path, owner + 1, None), CrontabFile::Unusable, "a file of another user");
        fs::write(path, b"* * * * * b\xff\n").expect("writes");
        assert!(matches!(read(path, owner, Some(&stamp)), CrontabFile::Text { .. }));
        fs::write(path, vec![b'#'; MAX_CRONTAB + 1]).expect("writes");
        assert_eq!(read(path, owner, None), CrontabFile::Unusable, "too large");

        fs::write(dir.join("secret"), "secret").expect("writes");
        fs::remove_file(path).expect("removes");
        symlink(dir.join("secret"), path).expect("links");
        assert_eq!(read(path, owner, None), CrontabFile::Unusable, "a link");
        fs::remove_file(path).expect("removes");
        symlink(&dir, dir.join("by")).expect("links");
        assert_eq!(read(dir.join("by/secret").to_str().expect("text"), owner, None), CrontabFile::Unusable);
        fs::create_dir(path).expect("makes");
        assert_eq!(read(path, owner, None), CrontabFile::Unusable, "a directory");
        fs::remove_dir(path).expect("removes");
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600)).expect("makes");
        assert_eq!(read(path, owner, None), CrontabFile::Unusable, "a FIFO");
    }
}
