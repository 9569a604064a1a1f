//! Reads and writes `[[host_socket]]` of `bailiwick.toml`, and `host_sockets` of plans and tenants: the sockets of the host that
//! are lent to tenants.
//!
//! Danger: whoever serves a lent socket sees a directory of the host, and no more ([`crate::HostSocket::path`]). So the socket must be
//! in a directory of its own: beside it, in a directory such as `/run`, are the sockets of the whole host.

use crate::diagnostic::Problem;
use crate::host::directory;
use crate::items;
use crate::model::HostSocket;
use crate::reader::{Report, Section, Table, distinct, number, parsed};
use bailiwick_types::HostSocketName;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const HOST_SOCKET: Section =
    Section { title: "below [[host_socket]]", keys: &["name", "path", "connections"] };

/// What the server of a tenant's mail is called among the sockets that are lent.
pub const MAIL_SOCKET: &str = "mail";

/// The most sockets of the host that can be declared.
const MAX_HOST_SOCKETS: usize = 32;
/// The most bytes of the name of a socket's file. A tenant reaches it by a longer path (`sun_path` of `unix(7)` has 107).
const MAX_FILE_NAME: usize = 64;
/// Directories that all daemons of the host share.
const SHARED: &[&str] = &["/", "/dev", "/dev/shm", "/etc", "/run", "/run/lock", "/tmp", "/var", "/var/tmp"];
/// Directories of the host's managers: a tenant that talks to one of them has a way out.
const MANAGERS: &[&str] = &["/proc", "/run/dbus", "/run/systemd", "/run/user", "/sys"];

/// Reads the sockets that the host may lend. None may be below the directories `own` of Bailiwick.
pub(crate) fn read(
    report: &mut Report<'_>,
    top: &Table<'_, '_>,
    file: &'static [Section],
    own: &[&Path],
) -> BTreeMap<HostSocketName, HostSocket> {
    let mut names = BTreeSet::new();
    let all = items::tables(report, top, "host_socket", &HOST_SOCKET, |report, entry| {
        let table = items::table(report, entry, "host socket", &HOST_SOCKET, file, 2)?;
        let name = items::name(report, &table, "host socket", &mut names, name);
        let path = table.read(report, "path", |value| path(value, own));
        let connections = match table.get("connections") {
            None => Some(HostSocket::CONNECTIONS),
            Some(_) => table.read(report, "connections", connections).map(Spanned::into_inner),
        };
        Some((name?.into_inner(), HostSocket { path: path?.into_inner(), connections: connections? }))
    });
    if let Some(list) = top.get("host_socket").filter(|_| all.len() > MAX_HOST_SOCKETS) {
        report.error(list.span(), || {
            Problem::new(format!("more than {MAX_HOST_SOCKETS} sockets of the host"))
                .hint("take out those that nobody uses")
        });
    }
    all.into_iter().collect()
}

fn name(value: &DeValue<'_>) -> Result<HostSocketName, Problem> {
    let name: HostSocketName = parsed(value)?;
    if name.as_str() == MAIL_SOCKET {
        return Err(Problem::new("\"mail\" is the socket of tenants' own mail").hint("choose another name"));
    }
    Ok(name)
}

/// Why no socket of a directory may be lent, and what to do; `None` when one may.
pub(crate) fn shared_directory(dir: &Path) -> Option<(&'static str, &'static str)> {
    if SHARED.iter().any(|shared| dir == Path::new(shared)) {
        let remedy = "have the program make its socket in a directory of its own, such as /run/mysqld";
        return Some(("is in a directory of the whole host", remedy));
    }
    let is_manager = MANAGERS.iter().any(|manager| dir.starts_with(manager));
    is_manager.then_some(("is the host's own", "no tenant may use what manages the host"))
}

fn path(value: &DeValue<'_>, own: &[&Path]) -> Result<PathBuf, Problem> {
    let path = directory(value)?;
    let shown = path.display();
    let (dir, name) = path.parent().zip(path.file_name()).ok_or_else(|| Problem::new("a socket is a file"))?;
    // On every Debian, `/var/run` is a link to `/run`.
    let plain = |path: &Path| {
        path.strip_prefix("/var/run").map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest))
    };
    if let Some((why, remedy)) = shared_directory(&plain(dir)) {
        return Err(Problem::new(format!("\"{shown}\" {why}")).hint(remedy));
    }
    if own.iter().any(|own| plain(&path).starts_with(plain(own))) {
        return Err(Problem::new(format!("\"{shown}\" is a socket of Bailiwick")).hint("no tenant may use one"));
    }
    if name.len() > MAX_FILE_NAME {
        return Err(Problem::new(format!("the name of the socket's file is longer than {MAX_FILE_NAME} bytes"))
            .hint("have the program that makes it give it a shorter one"));
    }
    Ok(path)
}

fn connections(value: &DeValue<'_>) -> Result<u32, Problem> {
    let most = HostSocket::MAX_CONNECTIONS;
    let connections: u32 = number(value)?;
    if (1..=most).contains(&connections) {
        Ok(connections)
    } else {
        Err(Problem::new(format!("{connections} connections of one tenant"))
            .hint(format!("write a number from 1 to {most}")))
    }
}

/// Reads the names of the sockets that a plan or a tenant gets. Whether the host has them is a question for
/// [`check`](crate::check()).
pub(crate) fn read_names(report: &mut Report<'_>, top: &Table<'_, '_>) -> Option<BTreeSet<HostSocketName>> {
    let names = top.list(report, "host_sockets", parsed::<HostSocketName>)?;
    Some(distinct(report, names.into_inner(), HostSocketName::to_string).into_iter().collect())
}

/// Writes the names. No name is written too: an inherited list must not come back.
pub(crate) fn write_names(names: &BTreeSet<HostSocketName>) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("host_sockets = [{}]\n", names.join(", "))
}

/// Writes the sockets that the host may lend.
pub(crate) fn write(sockets: &BTreeMap<HostSocketName, HostSocket>) -> String {
    let table = |(name, socket): (&HostSocketName, &HostSocket)| {
        let path = toml::Value::from(&*socket.path.to_string_lossy());
        format!("\n[[host_socket]]\nname = \"{name}\"\npath = {path}\nconnections = {}\n", socket.connections)
    };
    sockets.iter().map(table).collect()
}
