//! Reads the host's users, as far as they could conflict with tenants.

use crate::ObserveError;
use crate::host::text;
use bailiwick_sys::process;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The most bytes of a directory service's answer about 256 users.
const MAX_TOLD: usize = 1 << 20;

/// A row of `/etc/subuid` or `/etc/subgid` (`subuid(5)`): ids that a user of the host may map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubordinateIds {
    /// Path of the file.
    pub file: &'static str,
    /// Name or number of the user.
    pub owner: String,
    /// First id.
    pub first: u32,
    /// Number of ids.
    pub count: u32,
}

/// What was read of the host's users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserReadings {
    /// Name and number of each user in `/etc/passwd`. Users of a directory service cannot be listed reliably.
    pub users: Vec<(String, u32)>,
    /// Rows of `/etc/subuid` and `/etc/subgid`.
    pub subordinate: Vec<SubordinateIds>,
}

/// What directory services answered about users that were looked up by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectoryUsers {
    /// Name and number of each user that exists.
    pub users: Vec<(String, u32)>,
    /// Services that could not be queried, or did not answer in time.
    pub silent: Vec<String>,
}

/// Queries every directory service of the host for users with these names. The services are the sources in the row
/// `passwd` of `/etc/nsswitch.conf`, except the host's own file and records. `time` is the deadline of each query. A
/// query may take all of it, so a daemon must not call this.
///
/// # Errors
/// When `/etc/nsswitch.conf` exists but cannot be read.
pub fn directory_users(names: &[String], time: Duration) -> Result<DirectoryUsers, ObserveError> {
    let mut found = DirectoryUsers::default();
    for source in directories(&user_sources()?) {
        // A few hundred names make an argument list of a few KiB.
        for names in names.chunks(256) {
            match ask(source, names, time) {
                Ok(text) => found.users.extend(parse_users(&text)),
                Err(_) => {
                    found.silent.push(source.to_owned());
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// The directory services among the sources of users, in their order. Actions (`[NOTFOUND=return]`) are left out.
pub fn directories(sources: &[String]) -> impl Iterator<Item = &str> {
    let is_own = |source: &&str| ["files", "systemd", "compat"].contains(source) || source.contains(['[', ']', '=']);
    sources.iter().map(String::as_str).filter(move |source| !is_own(source))
}

/// Queries one source for users by `getent(1)`. The answer has rows of `passwd(5)`.
fn ask(source: &str, names: &[String], time: Duration) -> io::Result<String> {
    let mut child = Command::new("getent")
        .args(["-s", source, "passwd"])
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (mut text, mut buffer, deadline) = (Vec::new(), [0; 4096], Instant::now() + time);
    let mut read = || -> io::Result<()> {
        let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        while text.len() < MAX_TOLD {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !process::readable(&stdout, left)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match stdout.read(&mut buffer)? {
                0 => return Ok(()),
                len => text.extend_from_slice(&buffer[..len]),
            }
        }
        Err(io::ErrorKind::FileTooLarge.into())
    };
    let end = read();
    if end.is_err() {
        child.kill().ok();
    }
    let status = child.wait()?;
    end?;
    // `getent` exits with 0 when it found all names, and with 2 when it did not.
    match status.code() {
        Some(0 | 2) => Ok(String::from_utf8_lossy(&text).into_owned()),
        _ => Err(io::Error::other(format!("getent: {status}"))),
    }
}

/// Reads the local user database. A file that does not exist has no rows.
///
/// # Errors
/// When a file exists but cannot be read.
pub fn user_readings() -> Result<UserReadings, ObserveError> {
    let mut readings = UserReadings { users: parse_users(&unless_missing("/etc/passwd")?), subordinate: Vec::new() };
    for file in ["/etc/subuid", "/etc/subgid"] {
        readings.subordinate.extend(parse_subordinate(file, &unless_missing(file)?));
    }
    Ok(readings)
}

/// The sources of users on this host, in their order: the row `passwd` of `/etc/nsswitch.conf` (`nsswitch.conf(5)`).
///
/// # Errors
/// When the file exists but cannot be read.
pub fn user_sources() -> Result<Vec<String>, ObserveError> {
    let text = unless_missing("/etc/nsswitch.conf")?;
    let row = text.lines().find_map(|line| line.trim_start().strip_prefix("passwd:")).unwrap_or("files");
    Ok(row.split('#').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect())
}

/// Whether any database of the host has this group. Every number counts as a group.
#[must_use]
pub fn group_exists(group: &str) -> bool {
    group.parse::<u32>().is_ok() || is_known("group", group)
}

/// The number of a group, from any database of the host.
#[must_use]
pub fn group_id(group: &str) -> Option<u32> {
    let asked = || {
        let output = Command::new("getent").args(["group", group]).stdin(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.split(':').nth(2)?.parse().ok()
    };
    group.parse().ok().or_else(asked)
}

/// Whether any database of the host has this user. Every number counts as a user.
#[must_use]
pub fn user_exists(user: &str) -> bool {
    user.parse::<u32>().is_ok() || is_known("passwd", user)
}

/// Queries a database by `getent(1)`. That program loads the modules of the host's databases. A static program such as
/// this one cannot load them.
fn is_known(database: &str, name: &str) -> bool {
    let asked = Command::new("getent").args([database, name]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

fn unless_missing(path: &str) -> Result<String, ObserveError> {
    match text(path) {
        Err(ObserveError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

fn parse_users(text: &str) -> Vec<(String, u32)> {
    let row = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password, uid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name.to_owned(), uid.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

fn parse_subordinate(file: &'static str, text: &str) -> Vec<SubordinateIds> {
    let row = |line: &str| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        Some(SubordinateIds { file, owner: owner.to_owned(), first: first.parse().ok()?, count: count.parse().ok()? })
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_user_database() {
        assert_eq!(parse_users("root:x:0:0:root:/root:/bin/sh\n+::::::\n# note\n"), [("root".to_owned(), 0)]);
        let rows = parse_subordinate("/etc/subuid", "alice:100000:65536\nbroken:1\n1001:5:6\n");
        assert_eq!(
            rows.iter().map(|row| (row.owner.as_str(), row.first, row.count)).collect::<Vec<_>>(),
            [("alice", 100_000, 65_536), ("1001", 5, 6)]
        );
    }

    #[test]
    fn directories_are_what_is_neither_the_hosts_file_nor_its_records() {
        let sources = ["files", "systemd", "sss", "[NOTFOUND=return]", "ldap", "compat"].map(str::to_owned);
        assert_eq!(directories(&sources).collect::<Vec<_>>(), ["sss", "ldap"]);
    }

    #[test]
    fn a_source_of_users_is_asked_for_names_and_has_so_much_time() {
        let names = ["root", "no-such-user-here", "daemon"].map(str::to_owned);
        let time = Duration::from_secs(60);
        let said = parse_users(&ask("files", &names, time).expect("is asked"));
        assert_eq!(said, [("root".to_owned(), 0), ("daemon".to_owned(), 1)]);
        assert!(ask("files", &names, Duration::ZERO).is_err(), "no time");
    }

    #[test]
    fn root_is_a_user_and_a_number_always_is() {
        assert!(user_exists("root") && user_exists("4000000") && !user_exists("no-such-user-here"));
        assert!(user_readings().expect("reads").users.contains(&("root".to_owned(), 0)));
    }
}
