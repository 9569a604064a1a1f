//! Host users: records of the users that tenants have for sshd. `nss-systemd(8)` reads them beside the host's own
//! users.
//!
//! Danger: these records say who is who on this host. Their ids are never those of a process in a jail. Names and ids
//! of the host's users are refused, and records of other services are never touched. Users of a directory service are
//! not checked: the order of sources protects them (`docs/doors.md`).

use bailiwick_observe::ObserveError;
use bailiwick_policy::Host;
use bailiwick_sys::file;
use bailiwick_types::{HostUid, TenantName};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The field `service` of a JSON user record, which marks ours.
const SERVICE: &str = "bailiwick";
/// The directory, in the runtime directory, with a file for the id of each host user. systemd starts no manager for
/// these users (`user@.service.d/60-bailiwick.conf`). Other services' records look like ours; these files are ours
/// alone.
const MARKS: &str = "host-users";
/// The program that sshd runs for them, whatever they ask for.
const SHELL: &str = "/usr/bin/bailiwick-shell";
/// In bytes. Our records have some hundred.
const MAX_RECORD: usize = 16 << 10;

/// Why a host user cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum HostUserError {
    #[error(
        "the group \"{0}\" of tenants' host users does not exist; make it with `groupadd --system {0}`, or set `login_group` in bailiwick.toml, and restart bailiwick-warden"
    )]
    NoGroup(String),
    #[error("the host has a user \"{name}\" with the id {uid} in /etc/passwd; rename the tenant or the user")]
    Taken { name: String, uid: u32 },
    #[error("\"{}\" is a record of another service; rename the tenant or remove the record", .0.display())]
    Foreign(PathBuf),
    #[error("there is no host user \"{0}\" yet; `bailiwick apply` makes it")]
    Missing(TenantName),
    #[error(transparent)]
    Users(#[from] ObserveError),
    #[error("cannot use \"{}\"", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Time of change, inode and size of the files that say who is who: if they are the same, nobody has changed them.
pub(crate) type State = [Option<(i128, u64, u64)>; 2];

/// Our records.
#[derive(Debug)]
pub(crate) struct HostUsers {
    path: PathBuf,
    marks: OwnedFd,
    marks_path: PathBuf,
    group: String,
    gid: Option<u32>,
    /// Those that exist and are right.
    known: BTreeMap<TenantName, HostUid>,
}

impl HostUsers {
    /// Reads the records. Wrong ones of ours are removed; they are made again when needed.
    pub(crate) fn open(host: &Host) -> Result<Self, HostUserError> {
        let gid = host.login_group.parse().ok();
        let gid = gid.or_else(|| users::get_group_by_name(&host.login_group).map(|group| group.gid()));
        let marks_path = host.runtime_dir.join(MARKS);
        let marks = file::open_dir(&host.runtime_dir).and_then(|dir| file::ensure_dir_at(&dir, MARKS, 0o700));
        let marks = marks.map_err(|source| HostUserError::File { path: marks_path.clone(), source })?;
        let (path, group) = (host.user_records(), host.login_group.clone());
        let mut all = Self { path, marks, marks_path, group, gid, known: BTreeMap::new() };
        all.take_up()?;
        // A warden that was killed may leave marks without records; earlier versions left records without marks.
        let wanted: BTreeSet<String> = all.known.values().map(ToString::to_string).collect();
        for mark in file::names(&all.marks).map_err(all.at_mark())? {
            if mark.to_str().is_none_or(|mark| !wanted.contains(mark)) {
                file::remove_file_at(&all.marks, &mark).map_err(all.at_mark())?;
            }
        }
        all.known.values().try_for_each(|uid| all.mark(*uid))?;
        Ok(all)
    }

    fn take_up(&mut self) -> Result<(), HostUserError> {
        let all = self;
        let dir = match file::open_dir(&all.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => dir.map_err(all.at(None))?,
        };
        for name in file::names(&dir).map_err(all.at(None))? {
            let Some(tenant) = name.to_str().and_then(|name| name.strip_suffix(".user")) else { continue };
            let Ok(tenant) = tenant.parse::<TenantName>() else { continue };
            let Some((text, uid)) = own_record(&dir, &tenant) else { continue };
            let is_right =
                all.gid.is_some_and(|gid| text == record(&tenant, uid, gid)) && is_linked(&dir, &tenant, uid);
            if is_right {
                all.known.insert(tenant, uid);
            } else {
                all.erase(&dir, &tenant, uid)?;
            }
        }
        Ok(())
    }

    /// Whether a tenant's host user exists.
    pub(crate) fn has(&self, tenant: &TenantName, uid: HostUid) -> bool {
        self.known.get(tenant) == Some(&uid)
    }

    /// The group of all host users.
    pub(crate) fn gid(&self) -> Result<u32, HostUserError> {
        self.gid.ok_or_else(|| HostUserError::NoGroup(self.group.clone()))
    }

    /// The group of a tenant's host user, if that is there and nobody else has its name or its id. `users` are those of
    /// `/etc/passwd`.
    pub(crate) fn require(
        &self,
        tenant: &TenantName,
        uid: HostUid,
        users: &[(String, u32)],
    ) -> Result<u32, HostUserError> {
        not_taken(tenant, uid, users)?;
        if let Ok(dir) = file::open_dir(&self.path) {
            let (name, link) = (file_name(tenant), link_name(uid));
            let is_ours = own_record(&dir, tenant).is_some_and(|(_, own)| own == uid);
            let is_there = |name: &str| file::metadata_at(&dir, name).is_ok();
            if is_there(&name) && !is_ours {
                return Err(HostUserError::Foreign(self.path.join(name)));
            }
            if is_there(&link) && !is_linked(&dir, tenant, uid) {
                return Err(HostUserError::Foreign(self.path.join(link)));
            }
        }
        if self.has(tenant, uid) { self.gid() } else { Err(HostUserError::Missing(tenant.clone())) }
    }

    /// The state of `/etc/passwd` and of the directory of records.
    pub(crate) fn state(&self) -> State {
        let of = |metadata: file::Metadata| (metadata.modified, metadata.inode, metadata.size);
        let passwd = file::open_dir(Path::new("/etc")).and_then(|etc| file::metadata_at(etc, "passwd"));
        let records = file::open_dir(&self.path).and_then(file::metadata);
        [passwd, records].map(|metadata| metadata.ok().map(of))
    }

    /// Makes a host user; `false` if it existed.
    pub(crate) fn make(&mut self, tenant: &TenantName, uid: HostUid) -> Result<bool, HostUserError> {
        if self.has(tenant, uid) {
            return Ok(false);
        }
        let gid = self.gid()?;
        not_taken(tenant, uid, &bailiwick_observe::user_readings()?.users)?;
        let dir = self.dir()?;
        if let Some((_, stale)) = own_record(&dir, tenant) {
            self.erase(&dir, tenant, stale)?;
        } else if file::metadata_at(&dir, file_name(tenant)).is_ok() {
            return Err(HostUserError::Foreign(self.path.join(file_name(tenant))));
        }
        let (link, name) = (link_name(uid), file_name(tenant));
        // Before anybody can log in, so before systemd is asked for a manager.
        self.mark(uid)?;
        let write = || -> io::Result<()> {
            file::replace_at(&dir, &name, record(tenant, uid, gid).as_bytes(), 0o644, file::Outlives::Process)?;
            Ok(rustix::fs::symlinkat(&name, &dir, &link)?)
        };
        write().map_err(|source| {
            // Without its link, nobody finds the record by its number.
            drop(file::remove_file_at(&dir, &name));
            drop(file::remove_file_at(&self.marks, uid.to_string()));
            match source.kind() {
                io::ErrorKind::AlreadyExists => HostUserError::Foreign(self.path.join(&link)),
                _ => self.at(Some(&name))(source),
            }
        })?;
        self.known.insert(tenant.clone(), uid);
        Ok(true)
    }

    /// Removes a host user; `false` if there was none of ours.
    pub(crate) fn remove(&mut self, tenant: &TenantName) -> Result<bool, HostUserError> {
        let dir = match file::open_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            dir => dir.map_err(self.at(None))?,
        };
        let Some((_, uid)) = own_record(&dir, tenant) else { return Ok(false) };
        self.erase(&dir, tenant, uid)?;
        self.known.remove(tenant);
        Ok(true)
    }

    fn erase(&self, dir: &OwnedFd, tenant: &TenantName, uid: HostUid) -> Result<(), HostUserError> {
        let (link, name) = (link_name(uid), file_name(tenant));
        if is_linked(dir, tenant, uid) {
            file::remove_file_at(dir, &link).map_err(self.at(Some(&link)))?;
        }
        file::remove_file_at(dir, &name).map_err(self.at(Some(&name)))?;
        file::remove_file_at(&self.marks, uid.to_string()).map_err(self.at_mark())
    }

    fn mark(&self, uid: HostUid) -> Result<(), HostUserError> {
        let made =
            file::open_at(&self.marks, uid.to_string(), OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o600));
        made.map(drop).map_err(self.at_mark())
    }

    fn at_mark(&self) -> impl FnOnce(io::Error) -> HostUserError {
        |source| HostUserError::File { path: self.marks_path.clone(), source }
    }

    /// The directory; made if it is missing.
    fn dir(&self) -> Result<OwnedFd, HostUserError> {
        let open = || -> io::Result<OwnedFd> {
            let (parent, name) = self.path.parent().zip(self.path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
            let dir = file::ensure_dir_at(file::open_dir(parent)?, name, 0o755)?;
            let metadata = file::metadata(&dir)?;
            if metadata.uid != 0 || metadata.mode & 0o022 != 0 {
                return Err(io::Error::other("it must belong to root and be writable by nobody else"));
            }
            Ok(dir)
        };
        open().map_err(self.at(None))
    }

    fn at(&self, name: Option<&str>) -> impl FnOnce(io::Error) -> HostUserError {
        let path = name.map_or_else(|| self.path.clone(), |name| self.path.join(name));
        move |source| HostUserError::File { path, source }
    }
}

/// Refuses the name and the id of a user of the host.
fn not_taken(tenant: &TenantName, uid: HostUid, users: &[(String, u32)]) -> Result<(), HostUserError> {
    match users.iter().find(|(name, other)| name == tenant.as_str() || *other == uid.0) {
        Some((name, uid)) => Err(HostUserError::Taken { name: name.clone(), uid: *uid }),
        None => Ok(()),
    }
}

/// The text and the id of a record, if it is ours.
fn own_record(dir: &OwnedFd, tenant: &TenantName) -> Option<(String, HostUid)> {
    // If it is not a file, or larger than ours, it is another service's.
    let bytes = file::open_file_at(dir, file_name(tenant)).and_then(|fd| file::read_bounded(fd, MAX_RECORD)).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let fields = serde_json::from_str::<Value>(&text).ok()?;
    let uid = fields["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok())?;
    (fields["service"] == SERVICE).then_some((text, HostUid(uid)))
}

/// The ids in our records, whether or not the records are right.
pub(crate) fn recorded(host: &Host) -> io::Result<BTreeMap<TenantName, HostUid>> {
    let dir = match file::open_dir(&host.user_records()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        dir => dir?,
    };
    let mut found = BTreeMap::new();
    for name in file::names(&dir)? {
        let Some(tenant) = name.to_str().and_then(|name| name.strip_suffix(".user")) else { continue };
        let Ok(tenant) = tenant.parse::<TenantName>() else { continue };
        if let Some((_, uid)) = own_record(&dir, &tenant) {
            // Ids of another pool belong to another host on this machine.
            if host.ids.range_of_host_user(uid).is_some() {
                found.insert(tenant, uid);
            }
        }
    }
    Ok(found)
}

fn file_name(tenant: &TenantName) -> String {
    format!("{tenant}.user")
}

fn link_name(uid: HostUid) -> String {
    format!("{uid}.user")
}

fn is_linked(dir: impl AsFd, tenant: &TenantName, uid: HostUid) -> bool {
    let target = rustix::fs::readlinkat(dir, Path::new(&link_name(uid)), Vec::new());
    target.is_ok_and(|target| target.as_bytes() == file_name(tenant).as_bytes())
}

/// A JSON user record (systemd's `USER_RECORD`), without a password, and with a home that only root can write.
fn record(tenant: &TenantName, uid: HostUid, gid: u32) -> String {
    let fields = json!({
        "userName": tenant,
        "uid": uid,
        "gid": gid,
        "realName": format!("Tenant {tenant}"),
        "homeDirectory": "/",
        "shell": SHELL,
        "disposition": "regular",
        "service": SERVICE,
    });
    format!("{fields}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host(at: &Path, group: &str) -> Host {
        fs::create_dir_all(at.join("run")).expect("mkdir");
        let text =
            format!("state_dir = \"{0}/state\"\nruntime_dir = \"{0}/run\"\nlogin_group = \"{group}\"\n", at.display());
        let reading = bailiwick_policy::parse(&[("bailiwick.toml".into(), text)]);
        reading.policy.expect("valid").host
    }

    fn tenant(name: &str) -> TenantName {
        name.parse().expect("a name")
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    #[test]
    fn a_record_comes_and_goes_and_is_known_again() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("userdb");
        let host = host(temp.path(), "64998");
        let (alice, uid) = (tenant("alice"), HostUid(9_934_464));
        let mut users = HostUsers::open(&host).expect("opens");
        assert!(!users.remove(&alice).expect("nothing to remove"));
        assert!(users.make(&alice, uid).expect("made") && users.has(&alice, uid));
        assert!(!users.make(&alice, uid).expect("there"));
        assert_eq!(names(&dir), ["9934464.user", "alice.user"]);
        let fields: Value = serde_json::from_slice(&fs::read(dir.join("9934464.user")).expect("reads")).expect("JSON");
        assert_eq!(
            (&fields["userName"], &fields["uid"], &fields["gid"]),
            (&"alice".into(), &json!(uid), &json!(64_998))
        );
        assert_eq!(fields["shell"], SHELL);
        let marks = || names(&temp.path().join("run").join(MARKS));
        assert_eq!(marks(), ["9934464"]);
        // A record of another service has no mark.
        std::os::unix::fs::symlink("carol.user", dir.join("7000.user")).expect("symlink");
        fs::write(dir.join("carol.user"), "{\"userName\":\"carol\",\"uid\":7000,\"service\":\"other\"}")
            .expect("writes");
        // What an earlier warden left is corrected.
        for mark in ["9934464", "9934465", "strange"] {
            let path = temp.path().join("run").join(MARKS).join(mark);
            fs::remove_file(&path).or_else(|_| fs::write(&path, "")).expect("changes");
        }
        drop(HostUsers::open(&host).expect("opens"));
        assert_eq!(marks(), ["9934464"]);
        fs::remove_file(dir.join("7000.user")).and_then(|()| fs::remove_file(dir.join("carol.user"))).expect("removes");
        // The next warden knows the record. One with another group removes it.
        let mut users = HostUsers::open(&host).expect("opens");
        assert!(users.has(&alice, uid) && !users.has(&alice, HostUid(1)));
        assert!(users.remove(&alice).expect("removed") && names(&dir).is_empty() && marks().is_empty());
        users.make(&alice, uid).expect("made");
        let other = HostUsers::open(&self::host(temp.path(), "64997")).expect("opens");
        assert!(!other.has(&alice, uid) && names(&dir).is_empty() && marks().is_empty());
    }

    #[test]
    fn systemd_looks_for_the_marks_and_for_nothing_else() {
        let unit = include_str!("../../../../../systemd/user@.service.d/60-bailiwick.conf");
        let conditions: Vec<&str> = unit.lines().filter(|line| line.starts_with("Condition")).collect();
        assert_eq!(conditions, [format!("ConditionPathExists=!/run/bailiwick/{MARKS}/%i")]);
    }

    #[test]
    fn users_of_the_host_and_records_of_others_are_never_replaced() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("userdb");
        let mut users = HostUsers::open(&host(temp.path(), "64998")).expect("opens");
        // On every Debian, `daemon` is user 1.
        for (name, uid) in [("daemon", 9_934_464), ("alice", 1), ("bin", 5), ("eve", 0)] {
            let error = users.make(&tenant(name), HostUid(uid)).expect_err("taken");
            assert!(matches!(error, HostUserError::Taken { .. }), "{name} {uid}: {error}");
        }
        assert_eq!(names(&dir), [""; 0]);
        fs::create_dir_all(&dir).expect("makes");
        let foreign = "{\"userName\":\"alice\",\"uid\":7000,\"service\":\"other\"}";
        for (file, content) in [("alice.user", foreign), ("9934465.user", foreign), ("carol.user", "no JSON")] {
            fs::write(dir.join(file), content).expect("writes");
        }
        for (name, uid) in [("alice", 9_934_464), ("bob", 9_934_465), ("carol", 9_934_466)] {
            let error = users.make(&tenant(name), HostUid(uid)).expect_err("another's");
            assert!(matches!(error, HostUserError::Foreign(_)), "{name}: {error}");
            assert!(!users.remove(&tenant(name)).expect("left alone"));
        }
        assert_eq!(names(&dir), ["9934465.user", "alice.user", "carol.user"]);
        assert_eq!(fs::read_to_string(dir.join("alice.user")).expect("reads"), foreign);
    }

    #[test]
    fn a_host_user_that_became_somebody_elses_is_not_ours_any_more() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("userdb");
        let mut users = HostUsers::open(&host(temp.path(), "64998")).expect("opens");
        let (alice, uid) = (tenant("alice"), HostUid(9_934_464));
        let passwd = |name: &str, uid: u32| vec![("root".to_owned(), 0), (name.to_owned(), uid)];
        let ask = |users: &HostUsers, passwd: &[(String, u32)]| match users.require(&alice, uid, passwd) {
            Ok(gid) => gid.to_string(),
            Err(error) => error.to_string(),
        };
        assert!(ask(&users, &[]).contains("no host user \"alice\" yet"));
        assert!(ask(&users, &passwd("alice", 1)).contains("the host has a user \"alice\""), "that comes first");
        users.make(&alice, uid).expect("made");
        let before = users.state();
        assert_eq!(ask(&users, &passwd("bob", 1)), "64998");
        // Added later, by name or by number.
        assert!(ask(&users, &passwd("alice", 1)).contains("with the id 1 in /etc/passwd"));
        assert!(ask(&users, &passwd("bob", uid.0)).contains("the host has a user \"bob\""));
        // By another service.
        fs::remove_file(dir.join("alice.user")).expect("removes");
        fs::write(dir.join("alice.user"), "{\"userName\":\"alice\",\"uid\":7000,\"service\":\"other\"}")
            .expect("writes");
        assert!(ask(&users, &[]).contains("is a record of another service"));
        fs::remove_file(dir.join("alice.user"))
            .and_then(|()| fs::remove_file(dir.join("9934464.user")))
            .expect("removes");
        std::os::unix::fs::symlink("bob.user", dir.join("9934464.user")).expect("symlink");
        assert!(ask(&users, &[]).contains("9934464.user\" is a record of another service"));
        assert_ne!(users.state()[1], before[1]);
    }

    #[test]
    fn without_the_login_group_no_host_user_is_made() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut users = HostUsers::open(&host(temp.path(), "no-such-group")).expect("opens");
        let error = users.make(&tenant("alice"), HostUid(9_934_464)).expect_err("no group");
        assert!(error.to_string().contains("groupadd --system no-such-group"), "{error}");
    }
}
