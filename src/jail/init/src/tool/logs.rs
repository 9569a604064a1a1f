//! `bailiwick-service logs`: prints the log of a service, and what is added to it.
//!
//! Danger: every byte is a program's. It is escaped before it is printed.

use super::{no_such, reports};
use bailiwick_proto::Failure;
use bailiwick_sys::file::{self, FileType};
use bailiwick_types::visible_lines;
use bailiwick_types::{ExitStatus, LoginName, MAX_GROUP_FILE, UnitName, service_log};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The most full files of a log that are looked for.
const MAX_KEPT: u32 = 100;
/// The most bytes of a line that are printed at once.
const PORTION: u64 = 64 << 10;
/// The pause between two looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(250);

/// Prints the log, the oldest full file first. With `follow`, goes on until the reader has gone.
pub(super) fn print(name: &UnitName, follow: bool) -> Result<(), Failure> {
    let path = service_log(&login()?, name);
    let kept = (1..=MAX_KEPT).map_while(|number| open(&format!("{path}.{number}")).ok()).collect::<Vec<_>>();
    let mut log = match open(&path) {
        Ok(log) => Some(BufReader::new(log)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(&path, &error)),
    };
    // A service that has said nothing has no log.
    if log.is_none() && kept.is_empty() && !reports()?.iter().any(|report| report.name == *name) {
        return Err(no_such(name));
    }
    for full in kept.into_iter().rev() {
        if !copy(&mut BufReader::new(full), &path)? {
            return Ok(());
        }
    }
    loop {
        if let Some(log) = &mut log
            && !copy(log, &path)?
        {
            return Ok(());
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
        let Ok(now) = open(&path) else { continue };
        if log.as_ref().is_none_or(|log| is_another(log.get_ref(), &now))
            && let Some(mut full) = log.replace(BufReader::new(now))
        {
            // What was added before it was renamed.
            copy(&mut full, &path)?;
        }
    }
}

/// The name of the login user, as the jail's own `/etc/passwd` has it.
fn login() -> Result<LoginName, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let passwd = rustix::fs::open("/etc/passwd", flags, Mode::empty()).map_err(io::Error::from);
    let passwd = passwd.and_then(|passwd| file::read_bounded(passwd, MAX_GROUP_FILE));
    passwd.ok().and_then(|passwd| login_of(&passwd)).ok_or_else(|| {
        let message = format!("/etc/passwd names no user {}, whose home has the logs", crate::LOGIN);
        Failure::of(ExitStatus::Failed, message)
    })
}

fn login_of(passwd: &[u8]) -> Option<LoginName> {
    let passwd = String::from_utf8_lossy(passwd);
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(crate::LOGIN)).then(|| name.parse().ok())?
    })
}

/// Opens a file of a log. A name that leads elsewhere, and what is no file, is an error.
fn open(path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let fd: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
    match file::metadata(&fd)?.kind {
        FileType::RegularFile => Ok(fd.into()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Whether the file that has the name now is another than the one that is read, or was emptied.
fn is_another(read: &File, now: &File) -> bool {
    let (Ok(then), Ok(now)) = (file::metadata(read), file::metadata(now)) else { return true };
    let position = rustix::fs::tell(read).unwrap_or(0);
    (then.device, then.inode) != (now.device, now.inode) || now.size < position
}

fn unreadable(path: &str, error: &io::Error) -> Failure {
    Failure::of(ExitStatus::Failed, format!("cannot read {path}: {error}"))
}

/// Prints what is left of a file. Returns `false` when nobody reads any more.
fn copy(log: &mut BufReader<File>, path: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        match log.by_ref().take(PORTION).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
        let text = String::from_utf8_lossy(&line);
        if stdout.write_all(visible_lines(&text).as_bytes()).and_then(|()| stdout.flush()).is_err() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_user_is_the_one_with_its_number() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nbroken\n\xff:x:1:1\nalice:x:1000:1000:alice:/home/alice:/bin/bash\n";
        assert_eq!(login_of(passwd).expect("a login").as_str(), "alice");
        for passwd in [&b""[..], b"root:x:0:0", b"../x:x:1000:1000", b"alice:x:10000:1000"] {
            assert_eq!(login_of(passwd), None, "{passwd:?}");
        }
    }

    #[test]
    fn a_renamed_and_an_emptied_file_are_others() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("app.log");
        let path = path.to_str().expect("text");
        std::fs::write(path, "line\n").expect("writes");
        let mut log = BufReader::new(open(path).expect("opens"));
        assert!(!is_another(log.get_ref(), &open(path).expect("opens")));
        log.read_line(&mut String::new()).expect("reads");
        std::fs::write(path, "").expect("writes");
        assert!(is_another(log.get_ref(), &open(path).expect("opens")));
        std::fs::rename(path, format!("{path}.1")).expect("renames");
        std::fs::write(path, "another line\n").expect("writes");
        assert!(is_another(log.get_ref(), &open(path).expect("opens")));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
        std::fs::write(at("file"), "").expect("writes");
        std::os::unix::fs::symlink(at("file"), at("link")).expect("links");
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("makes");
        assert!(open(&at("file")).is_ok());
        for name in ["link", "fifo", "."] {
            assert!(open(&at(name)).is_err(), "{name}");
        }
    }
}
