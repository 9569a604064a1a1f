//! Every key of a tenant's file as one table: its path, the form of its value, and what it means.

use bailiwick_policy::nearest;

/// The form of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueForm {
    /// A text, such as a size, a word or a name.
    Text,
    /// A whole number, or a word such as `unlimited`.
    Number,
    /// `true` or `false`.
    Switch,
    /// A list of texts.
    List,
    /// A table in braces, or a list of such tables.
    Table,
    /// Tables with headers of their own. Only an editor changes all of them at once.
    Tables,
}

/// A key of a tenant's file. Most of them may be in a plan too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its path, such as `limits.memory`. `*` stands for the name of an item, as in `service.*.command`.
    pub path: &'static str,
    /// The form of its value.
    pub form: ValueForm,
    /// What it means, in a sentence without its full stop.
    pub meaning: &'static str,
}

const fn key(path: &'static str, form: ValueForm, meaning: &'static str) -> Key {
    Key { path, form, meaning }
}

use ValueForm::{List, Number, Switch, Table, Tables, Text};

/// All keys, in the order in which `bailiwick dump` writes them.
pub const KEYS: &[Key] = &[
    key("plan", Text, "the plan that supplies what the tenant's file does not set"),
    key("state", Text, "\"active\", or \"suspended\": no processes, and closed doors"),
    key("suspend_reason", Text, "why the tenant is suspended; logins are told"),
    key("image", Text, "the root file system; \"host\" is a read-only view of the host's /usr"),
    key("profile", Text, "how tightly the jail is confined: \"web\", \"shell\" or \"system\""),
    key("nesting", Switch, "whether users inside may make user namespaces, as rootless containers need"),
    key("doors", List, "the ways in: exec, ssh, sftp, ftp, cron, socket"),
    key("suspended_doors", List, "the doors that stay open for reading while the tenant is suspended"),
    key("inherit_services", Switch, "whether the services of the plan are there too"),
    key("inherit_notices", Switch, "whether the notices of the plan are there too"),
    key("host_sockets", List, "the sockets of the host that the tenant may use"),
    key("limits.cpu", Text, "the share of processor time, in per cent of one core"),
    key("limits.cpu_burst", Text, "how much unused processor time may be saved up"),
    key("limits.cpu_weight", Number, "the weight when processors are short, from 1 to 10000; 100 is the norm"),
    key("limits.memory", Text, "memory of all processes; above it the kernel kills processes inside the jail"),
    key("limits.memory_high", Text, "memory above which the kernel slows the jail down"),
    key("limits.swap", Text, "memory that may be swapped out; \"0\" is none"),
    key("limits.tasks", Number, "processes and threads"),
    key("limits.io_read", Text, "bytes a second that may be read from the disk of the tenants"),
    key("limits.io_write", Text, "bytes a second that may be written to the disk of the tenants"),
    key("limits.iops_read", Text, "read operations a second on the disk of the tenants"),
    key("limits.iops_write", Text, "write operations a second on the disk of the tenants"),
    key("limits.io_weight", Number, "the weight when the disk is busy, from 1 to 10000; 100 is the norm"),
    key("limits.disk", Text, "bytes of all files of the tenant, as SOFT:HARD or one value"),
    key("limits.disk_grace", Text, "how long the use may stay above a soft limit of disk or inodes"),
    key("limits.inodes", Text, "files and directories of the tenant, as SOFT:HARD or one value"),
    key("limits.sessions", Number, "open sessions at a time, of all doors"),
    key("limits.sessions_exec", Number, "open sessions at a time by the door exec"),
    key("limits.sessions_ssh", Number, "open sessions at a time by the door ssh"),
    key("limits.sessions_sftp", Number, "open sessions at a time by the door sftp"),
    key("limits.sessions_ftp", Number, "open sessions at a time by the door ftp"),
    key("limits.sessions_cron", Number, "jobs at a time by the door cron"),
    key("limits.open_files", Number, "open files of each process"),
    key("limits.tmp", Text, "the size of /tmp; what lies there counts as memory"),
    key("limits.shm", Text, "the size of /dev/shm; what lies there counts as memory"),
    key("sleep.after", Text, "how long the tenant must be idle before its jail is ended until somebody needs it"),
    key("sleep.freeze_after", Text, "how long the tenant must be idle before its processes are frozen"),
    key("mail.per_hour", Number, "messages that the tenant may send within any hour; 0 is none"),
    key("mail.recipients", Number, "recipients of one message"),
    key("mail.size", Text, "the largest message"),
    key(
        "network.mode",
        Text,
        "\"none\", \"outbound\", or \"published\": outbound, and ports of the host that lead inside",
    ),
    key("network.allow", List, "where the jail may send to; everywhere, when it is missing"),
    key("network.ports", List, "the ports that the jail may send to"),
    key("network.smtp", Switch, "whether the jail may send to the ports 25, 465 and 587"),
    key("network.publish", Table, "the ports of the host that lead into the jail"),
    key("network.up", Text, "bytes a second out of the jail"),
    key("network.down", Text, "bytes a second into the jail"),
    key("network.month", Table, "the bytes that the jail may send and receive in a month, and what happens then"),
    key("network.month.bytes", Text, "the bytes that the jail may send and receive in a month of UTC"),
    key("network.month.then", Text, "what happens above that: \"stop\", \"shape RATE\" or \"notify\""),
    key("network.month.notify", Table, "the shares in per cent at which the log tells of it"),
    key("network.connections", Number, "connections at a time, in each direction"),
    key("notice", Tables, "whom the use of limits is told to"),
    key("notice.*.resource", Text, "what the notice is about, such as disk or memory"),
    key("notice.*.at", List, "when somebody is told: shares such as \"80%\", \"soft\", \"grace:2d\", \"hard\""),
    key("notice.*.clear", Text, "the share below which the notice may be told again"),
    key("notice.*.to", List, "who is told: \"tenant\", \"admin\", addresses"),
    key("notice.*.repeat", Text, "how long after it is told again"),
    key("login.user", Text, "the name of the tenant's own user inside"),
    key("login.ssh_keys", List, "the keys that may log in, each a line of authorized_keys"),
    key("service", Tables, "the programs that run all the time"),
    key("service.*.name", Text, "the name of the service"),
    key("service.*.enabled", Switch, "whether the service is there"),
    key("service.*.command", List, "the program and its arguments"),
    key("service.*.files", Text, "the directory that Bailiwick's own server of static files serves"),
    key("service.*.user", Text, "the user that the service runs as"),
    key("service.*.directory", Text, "the working directory"),
    key("service.*.env", Table, "variables that are added to the environment"),
    key("service.*.after", List, "the services that must be ready before this one starts"),
    key("service.*.restart", Text, "when the service is started again: \"always\", \"on-failure\" or \"never\""),
    key("service.*.stop", Table, "how the service is asked to end, and when it is killed"),
    key("service.*.stop.signal", Text, "the signal that asks the service to end"),
    key("service.*.stop.within", Text, "the time after which the service is killed"),
    key("service.*.ready", Text, "when the service counts as ready: \"none\", \"notify\" or \"connect\""),
    key("service.*.log", Table, "how much of its output is kept"),
    key("service.*.log.size", Text, "the size of its log"),
    key("service.*.log.keep", Number, "how many full logs are kept beside"),
    key("service.*.limits", Table, "limits of its own, inside those of the tenant"),
    key("service.*.limits.memory", Text, "memory of the service"),
    key("service.*.limits.tasks", Number, "processes and threads of the service"),
    key("service.*.limits.cpu", Text, "processor time of the service, in per cent of one core"),
    key("service.*.socket", Tables, "the sockets that the host's web server connects to"),
    key("service.*.socket.*.name", Text, "the name of the socket"),
    key("service.*.socket.*.pass", Text, "how the service gets the socket: \"fd\", \"fpm\" or \"relay\""),
    key("service.*.socket.*.to", Text, "where the service listens inside"),
    key("service.*.socket.*.backlog", Number, "the most connections that wait to be accepted"),
    key("service.*.socket.*.entries", Number, "the most requests at a time"),
    key("timer", Tables, "the commands that run at given times"),
    key("timer.*.name", Text, "the name of the timer"),
    key("timer.*.schedule", Text, "when the command runs"),
    key("timer.*.command", List, "the command and its arguments"),
    key("ftp", Tables, "the logins for FTP"),
    key("ftp.*.name", Text, "the first part of the login NAME@TENANT"),
    key("ftp.*.password", Text, "a hash of the password, as `bailiwick password` makes it"),
    key("ftp.*.directory", Text, "the directory that the login is locked to, below the login user's home"),
    key("ftp.*.sessions", Number, "how many sessions may use the login at a time"),
    key("link", Tables, "the connections to other tenants, and the consents to them"),
    key("link.*.to", Text, "the tenant that this one may connect to"),
    key("link.*.from", Text, "the tenant that may connect to this one"),
    key("link.*.port", Text, "the port of the one that is connected to"),
    key("contact.mail", List, "the addresses that notices to the tenant go to"),
    key("contact.language", Text, "the language of notices to the tenant: \"en\" or \"de\""),
];

/// Words for the two parts of a limit such as `limits.disk`.
pub(crate) const PARTS: [&str; 2] = ["soft", "hard"];
/// The limits that have such parts.
const WITH_PARTS: [&str; 2] = ["limits.disk", "limits.inodes"];
/// Sections whose keys may be written without the section, as `memory` for `limits.memory`.
const SHORT: [&str; 5] = ["limits", "login", "network", "sleep", "mail"];

/// Why no key was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("there is no key \"{key}\"{}", nearest.as_ref().map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default())]
    Unknown {
        /// What was written.
        key: String,
        /// The known key that is nearest to it.
        nearest: Option<String>,
    },
    /// Several sections have the key.
    #[error("\"{key}\" is not one key; write one of: {}", keys.join(", "))]
    Ambiguous {
        /// What was written.
        key: String,
        /// The keys that may be meant.
        keys: Vec<String>,
    },
}

/// A key that was written in full or short, as `memory`, `limits.memory`, `disk.hard` or `service.web.enabled`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The row of the table.
    pub key: &'static Key,
    /// The whole path, with the names of items in place of `*`.
    pub path: Vec<String>,
    /// `0` for the soft and `1` for the hard part of a limit, if only this part is meant.
    pub part: Option<usize>,
}

/// Finds the row of a whole path.
#[must_use]
pub fn of_path(path: &[&str]) -> Option<&'static Key> {
    let is_of = |key: &&Key| {
        let pattern: Vec<&str> = key.path.split('.').collect();
        pattern.len() == path.len() && pattern.iter().zip(path).all(|(known, word)| *known == "*" || known == word)
    };
    // A row without `*` is the closer one.
    KEYS.iter().filter(is_of).min_by_key(|key| key.path.matches('*').count())
}

/// Finds a key as an operator writes it.
///
/// # Errors
/// There is no such key, or several.
pub fn find(written: &str) -> Result<Found, KeyError> {
    let words: Vec<&str> = written.split('.').collect();
    let mut found: Vec<Found> = Vec::new();
    for section in std::iter::once(None).chain(SHORT.map(Some)) {
        let path: Vec<&str> = section.into_iter().chain(words.iter().copied()).collect();
        let owned = |path: &[&str]| path.iter().map(|word| (*word).to_owned()).collect();
        if let Some(key) = of_path(&path) {
            found.push(Found { key, path: owned(&path), part: None });
        } else if let Some((last, limit)) = path.split_last()
            && let Some(part) = PARTS.iter().position(|part| part == last)
            && let Some(key) = of_path(limit).filter(|key| WITH_PARTS.contains(&key.path))
        {
            found.push(Found { key, path: owned(limit), part: Some(part) });
        }
        // What is written in full is meant so.
        if section.is_none() && !found.is_empty() {
            break;
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(KeyError::Unknown { key: written.to_owned(), nearest: near(written) }),
        _ => Err(KeyError::Ambiguous {
            key: written.to_owned(),
            keys: found.into_iter().map(|found| found.path.join(".")).collect(),
        }),
    }
}

/// The nearest key. Names of items stay as they are written.
fn near(written: &str) -> Option<String> {
    let words: Vec<&str> = written.split('.').collect();
    let named = |key: &Key| {
        let parts = key.path.split('.').enumerate();
        let named = parts.map(|(place, part)| match part {
            "*" => words.get(place).copied().unwrap_or(part),
            part => part,
        });
        named.collect::<Vec<_>>().join(".")
    };
    let full: Vec<String> = KEYS.iter().map(named).collect();
    let short = |key: &&Key| key.path.split_once('.').is_some_and(|(section, _)| SHORT.contains(&section));
    let shorts: Vec<&str> = KEYS.iter().filter(short).filter_map(|key| Some(key.path.split_once('.')?.1)).collect();
    let all = full.iter().map(String::as_str).chain(shorts);
    nearest(written, all).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_has_every_key_of_a_tenants_file() {
        let sections = [
            ("at the top of the file", ""),
            ("below [limits]", "limits."),
            ("below [sleep]", "sleep."),
            ("below [mail]", "mail."),
            ("below [login]", "login."),
            ("below [network]", "network."),
            ("in \"month\"", "network.month."),
            ("below [[service]]", "service.*."),
            ("below [[service.socket]]", "service.*.socket.*."),
            ("in \"stop\"", "service.*.stop."),
            ("in \"log\"", "service.*.log."),
            ("in \"limits\" of a [[service]]", "service.*.limits."),
            ("below [[timer]]", "timer.*."),
            ("below [[ftp]]", "ftp.*."),
            ("below [[link]]", "link.*."),
            ("below [[notice]]", "notice.*."),
            ("below [contact]", "contact."),
        ];
        // The entries of these two have no keys of their own here: they are set as a whole.
        let whole = ["in an entry of \"allow\"", "in an entry of \"publish\""];
        let (mut known, tables) = (BTreeSet::new(), ["limits", "sleep", "mail", "login", "network", "contact"]);
        for (title, keys) in bailiwick_policy::keys().filter(|(title, _)| !whole.contains(title)) {
            let (_, prefix) = sections.iter().find(|(known, _)| *known == title).unwrap_or_else(|| panic!("{title}"));
            let keys = keys.iter().filter(|key| !(prefix.is_empty() && tables.contains(key)));
            known.extend(keys.map(|key| format!("{prefix}{key}")));
        }
        let listed: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(listed, known);
        assert_eq!(KEYS.len(), known.len(), "a key is in the table twice");
    }

    #[test]
    fn a_key_may_be_written_short() {
        for (written, path, part) in [
            ("memory", "limits.memory", None),
            ("limits.memory", "limits.memory", None),
            ("disk.hard", "limits.disk", Some(1)),
            ("limits.inodes.soft", "limits.inodes", Some(0)),
            ("plan", "plan", None),
            ("ports", "network.ports", None),
            ("service.web.enabled", "service.web.enabled", None),
            ("service.web.socket.app.entries", "service.web.socket.app.entries", None),
        ] {
            let found = find(written).expect(written);
            assert_eq!((found.path.join("."), found.part), (path.to_owned(), part), "{written}");
        }
    }

    #[test]
    fn an_unknown_key_gets_the_nearest_one() {
        for (written, near) in [
            ("memroy", Some("memory")),
            ("limits.memroy", Some("limits.memory")),
            ("service.web.comand", Some("service.web.command")),
            ("colour", None),
            ("memory.hard", None),
            ("", None),
        ] {
            let nearest = near.map(str::to_owned);
            assert_eq!(find(written), Err(KeyError::Unknown { key: written.to_owned(), nearest }));
        }
    }
}
