//! What a tenant sees of the sockets of the host that are lent to it, and where the programs that serve them are.
//!
//! The warden has one directory on the host for each running jail, with one directory for each lent socket. A jail sees its own
//! at [`SOCKETS`], read-only. A socket has the same file name inside as on the host, because clients look for it
//! (`.s.PGSQL.5432`). Links lead to it from where it is on the host, so most clients need no setting.

use crate::mount::{HOST_ETC_INSIDE, Link, RUN};
use bailiwick_policy::{Host, HostSocket, Settings};
use bailiwick_types::{ByteSize, HostSocketName, Mail};
use std::collections::BTreeSet;
use std::path::Path;

/// The directory of a jail with the sockets that are lent to it: `NAME/FILE`.
pub const SOCKETS: &str = "/run/host/sockets";

/// The control group of the program that serves a lent socket is named after it, with this before its name. It is beside the group
/// of the jail, so the limits of the tenant hold above it.
pub const GROUP: &str = "lent-";

/// The name of the program, as `/proc/PID/comm` has it.
pub const COMMAND: &str = "bailiwick-lend";

/// The name of the lent socket behind which the server of the tenant's mail is. No socket of the host has it.
pub const MAIL: &str = bailiwick_policy::MAIL_SOCKET;

/// The name of the server of mail, as `/proc/PID/comm` has it.
pub const MAIL_COMMAND: &str = "bailiwick-mail";

/// The file of its socket.
pub const MAIL_FILE: &str = "mail.sock";

/// The bytes of the file with the counts of a lent socket: its open connections, those that were refused, and the number of the
/// error of its last connection to the host's socket (0 when that was made), as numbers of the machine.
pub const COUNTS_SIZE: u64 = 24;

/// The directories of the host that hold run-time files. Inside, `/var/run` leads to `/run` too.
const RUN_DIRS: [&str; 2] = ["/run", "/var/run"];

/// The directory of `/run` that a socket of the host is in, if it is directly in one.
fn run_dir(socket: &HostSocket) -> Option<&str> {
    let dir = socket.path.parent()?;
    let is_run = |above: &Path| RUN_DIRS.iter().any(|run| above == Path::new(run));
    dir.parent().filter(|above| is_run(above))?;
    dir.file_name()?.to_str()
}

/// The links from the places of lent sockets on the host to their places inside. The first of two sockets in one directory has
/// the link.
#[must_use]
pub fn links(settings: &Settings, host: &Host) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    let lent = settings.host_sockets.iter().filter_map(|name| Some((name, host.host_sockets.get(name)?)));
    for (name, dir) in lent.filter_map(|(name, socket)| Some((name, run_dir(socket)?))) {
        let path = format!("/run/{dir}");
        let is_ours = RUN.iter().any(|(own, ..)| *own == dir) || HOST_ETC_INSIDE.starts_with(&format!("{path}/"));
        if !is_ours && links.iter().all(|link| link.path != path) {
            links.push(Link { path, to: inside(name).trim_start_matches("/run/").to_owned() });
        }
    }
    links
}

/// The word with which the server of mail is started.
const SERVE: &str = "serve";

/// The command line of the server of mail: what runs the host's `sendmail`, the sender of every message, and the limits.
#[must_use]
pub fn mail_command_line(command: &str, sender: &str, mail: Mail) -> Vec<String> {
    let Mail { per_hour, recipients, size } = mail;
    let words = [MAIL_COMMAND, SERVE, command, sender].map(str::to_owned);
    words
        .into_iter()
        .chain([u64::from(per_hour), u64::from(recipients), size.0].map(|number| number.to_string()))
        .collect()
}

/// Reads such a command line: the program, the sender and the limits.
#[must_use]
pub fn read_mail_command_line<'a>(words: &[&'a str]) -> Option<(&'a str, &'a str, Mail)> {
    let [MAIL_COMMAND, SERVE, command, sender, per_hour, recipients, size] = *words else { return None };
    let (per_hour, recipients, size) = (per_hour.parse().ok()?, recipients.parse().ok()?, ByteSize(size.parse().ok()?));
    Some((command, sender, Mail { per_hour, recipients, size }))
}

/// What a tenant is lent: the sockets of the host that it may use, and that of its mail.
#[must_use]
pub fn names(settings: &Settings) -> BTreeSet<HostSocketName> {
    let mail = settings.mail.iter().map(|_| MAIL.parse().expect("a name"));
    settings.host_sockets.iter().cloned().chain(mail).collect()
}

/// The directory of a lent socket inside.
#[must_use]
pub fn inside(name: &HostSocketName) -> String {
    format!("{SOCKETS}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_a_socket_where_it_is_on_the_host() {
        let socket = |name: &str, path: &str| format!("[[host_socket]]\nname = \"{name}\"\npath = \"{path}\"\n");
        let all = [
            ("cluster", "/run/postgresql/.s.PGSQL.5433"),
            ("deep", "/run/a/b/s"),
            ("far", "/var/lib/mysql/mysql.sock"),
            ("mysql", "/var/run/mysqld/mysqld.sock"),
            ("postgresql", "/run/postgresql/.s.PGSQL.5432"),
            ("taken", "/run/screen/s"),
            ("theirs", "/run/host/s"),
        ];
        let names: Vec<String> = all.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let files = [
            ("bailiwick.toml".into(), all.map(|(name, path)| socket(name, path)).concat()),
            ("plans.d/p.toml".into(), format!("host_sockets = [{}]", names.join(", "))),
        ];
        let policy = bailiwick_policy::parse(&files).policy.expect("a policy");
        let plan = policy.plans.into_values().next().expect("a plan");
        let links = links(&plan.settings, &policy.host).into_iter().map(|link| (link.path, link.to));
        let golden = [("/run/postgresql", "host/sockets/cluster"), ("/run/mysqld", "host/sockets/mysql")];
        assert_eq!(links.collect::<Vec<_>>(), golden.map(|(path, to)| (path.to_owned(), to.to_owned())));
    }
    #[test]
    fn a_command_line_of_mail_reads_to_itself_and_no_other_does() {
        let mail = Mail { per_hour: 7, recipients: 3, size: ByteSize(1 << 20) };
        let line = mail_command_line("/usr/sbin/sendmail", "alice@example.org", mail);
        let mut words: Vec<&str> = line.iter().map(String::as_str).collect();
        assert_eq!(read_mail_command_line(&words), Some(("/usr/sbin/sendmail", "alice@example.org", mail)));
        words[4] = "many";
        assert_eq!(read_mail_command_line(&words), None);
        assert_eq!(read_mail_command_line(&words[..4]), None);
    }
}
