//! What came of the last `--uplink`, for `bailiwick-net`: it does not see the host's network itself.

use crate::settings::RouterUser;
use crate::uplink::UplinkError;
use crate::uplink::names::Known;
use bailiwick_observe::network::NetworkError;
use bailiwick_policy::Host;
use bailiwick_proto::{Failure, NET_DIR};
use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::{DomainName, ExitStatus, PortRange};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

/// As in [`bailiwick_proto::NET_REPORT`].
const FILE: &str = "uplink.json";
/// As in [`bailiwick_proto::NET_ERROR`].
const ERROR: &str = "error";
const MAX_FILE: usize = 4 << 20;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    /// When, in seconds since 1970.
    pub(crate) at: u64,
    /// All addresses of the host. No jail reaches one.
    pub(crate) addresses: Vec<IpAddr>,
    /// The resolvers of jails.
    pub(crate) resolvers: Vec<IpAddr>,
    /// The ports that tenants may publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<PortRange>,
    /// How many connections the host remembers of one jail's address; 0 in the report of an older version.
    #[serde(default)]
    pub(crate) connections: u32,
    /// The addresses of names that policies allow.
    #[serde(default)]
    pub(crate) names: BTreeMap<DomainName, Vec<IpAddr>>,
    /// When they were asked, if time was over before all were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) asked: BTreeMap<DomainName, u64>,
    /// Why the cache of names cannot run, if it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<String>,
    /// What is wrong with the host's side.
    pub(crate) problems: Vec<String>,
    /// What was missing on the host's side, and was put back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) repaired: Vec<String>,
}

impl Report {
    /// What was found, and why the link is not whole.
    pub(crate) fn new(
        addresses: Vec<IpAddr>,
        resolvers: Result<Vec<IpAddr>, NetworkError>,
        error: Option<&UplinkError>,
    ) -> Self {
        let text = |error: &(dyn std::error::Error + 'static)| Failure::new(ExitStatus::Failed, error).message;
        let mut problems: Vec<_> = error.map(|error| text(error)).into_iter().collect();
        let resolvers = resolvers.unwrap_or_else(|error| {
            problems.push(text(&error));
            Vec::new()
        });
        let own = resolvers.iter().filter(|resolver| addresses.contains(resolver));
        problems.extend(own.map(|resolver| {
            format!(
                "no name resolves through {resolver}: it is an address of this host, which no jail reaches; write a resolver on another \
                 machine as \"resolvers\" below [network] in bailiwick.toml"
            )
        }));
        Self {
            at: now(),
            addresses,
            resolvers,
            ports: None,
            connections: 0,
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            cache: None,
            problems,
            repaired: Vec::new(),
        }
    }

    /// The same, with what is known of names.
    pub(super) fn with_names(&self, known: &Known) -> Self {
        let problems = self.problems.iter().chain(&known.problems).cloned().collect();
        Self { names: known.names.clone(), asked: known.asked.clone(), problems, ..self.clone() }
    }

    /// How long ago it was made.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(self.at)).ok()
    }

    /// The report of the last time, if there is a readable one.
    pub(crate) fn last(host: &Host) -> Option<Self> {
        read(file::open_dir(&host.runtime_dir.join(NET_DIR)).ok()?).ok().flatten()
    }

    /// Leaves the report in the directory of `bailiwick-net`'s socket.
    pub(crate) fn write(&self, host: &Host, user: RouterUser) -> io::Result<()> {
        let dir = directory(host)?;
        let text = serde_json::to_vec(self)?;
        file::replace_at(&dir, FILE, &text, 0o640, Outlives::Process)?;
        let file = file::open_file_at(&dir, FILE)?;
        Ok(rustix::fs::fchown(&file, None, Some(rustix::fs::Gid::from_raw(user.gid)))?)
    }
}

/// The directory of `bailiwick-net`'s socket, which is made if it is missing.
pub(crate) fn directory(host: &Host) -> io::Result<OwnedFd> {
    let (above, folder) =
        host.runtime_dir.parent().zip(host.runtime_dir.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    // The first one after a boot may come before the warden.
    let runtime = file::ensure_dir_at(file::open_dir(above)?, folder, 0o755)?;
    let dir = file::ensure_dir_at(&runtime, NET_DIR, 0o755)?;
    rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(0o755))?;
    Ok(dir)
}

/// Says for everybody why the link could not be made, or that it could: then there is no such file.
pub(crate) fn tell(host: &Host, error: Option<&UplinkError>) -> io::Result<()> {
    let Some(error) = error else { return remove_file(host, ERROR) };
    let text = Failure::new(ExitStatus::Failed, error).message;
    file::replace_at(&directory(host)?, ERROR, text.as_bytes(), 0o644, Outlives::Process)
}

/// Removes the last report, if there is one.
pub(crate) fn remove(host: &Host) -> io::Result<()> {
    remove_file(host, ERROR)?;
    remove_file(host, FILE)
}

fn remove_file(host: &Host, name: &str) -> io::Result<()> {
    match file::open_dir(&host.runtime_dir.join(NET_DIR)) {
        Ok(dir) => file::remove_file_at(dir, name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads the last report; `None` when there is none.
pub(crate) fn read(dir: impl AsFd) -> io::Result<Option<Report>> {
    match file::open_file_at(dir, FILE).and_then(|file| file::read_bounded(file, MAX_FILE)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which file the last report is: each one is a new file. `None` when there is none.
pub(crate) fn identity(dir: impl AsFd) -> Option<(u64, i64, u64)> {
    let facts = rustix::fs::statat(dir, FILE, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((facts.st_ino, facts.st_mtime, facts.st_mtime_nsec))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_the_host_itself_is_told() {
        let [own, other] = ["203.0.113.1", "203.0.113.53"].map(|text| text.parse::<IpAddr>().expect("an address"));
        let of = |resolvers| Report::new(vec![own], Ok(resolvers), None).problems;
        assert_eq!(of(vec![other]), [""; 0]);
        let told = of(vec![other, own]);
        assert!(told.len() == 1 && told[0].starts_with("no name resolves through 203.0.113.1"), "{told:?}");
    }

    #[test]
    fn everybody_finds_the_error_where_it_is_told() {
        assert_eq!(bailiwick_proto::NET_ERROR, format!("{NET_DIR}/{ERROR}"));
        assert_eq!(bailiwick_proto::NET_REPORT, format!("{NET_DIR}/{FILE}"));
    }
}
