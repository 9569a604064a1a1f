//! Reads and writes `bailiwick.toml`.

use crate::diagnostic::{Diagnostic, Problem};
use crate::host_etc::is_barred;
use crate::host_metrics::{self, HOST_METRICS};
use crate::host_network::{self, HOST_NETWORK};
use crate::host_notices::{self, HOST_NOTICES};
use crate::host_sockets::{self, HOST_SOCKET};
use crate::mail::{self, HOST_MAIL, up_to};
use crate::model::{EtcSettings, EventsKept, Host, HostMail, MetricsSettings, NoticeSettings, Principal, Reserve, Web};
use crate::notices::{self, CONTACT, NOTICE};
use crate::reader::{NEVER, Report, Section, Span, Table, distinct, expected, line, number, parsed, switch, text};
use crate::source::Source;
use bailiwick_types::{ByteSize, Contact, HostNetwork, IdPool, Period, Resource};
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::DeValue;

/// The name of the file.
pub(crate) const FILE: &str = "bailiwick.toml";

const TOP: Section = Section {
    title: "at the top of bailiwick.toml",
    keys: &[
        "state_dir",
        "runtime_dir",
        "ids",
        "require",
        "reserve",
        "admins",
        "observers",
        "syslog",
        "user",
        "login_group",
        "replace_silent_init",
        "web",
        "etc_extra",
        "etc_never",
        "mail",
        "network",
        "metrics",
        "host_socket",
        "events",
        "notices",
        "notice",
        "contact",
    ],
};
const IDS: Section = Section { title: "in \"ids\"", keys: &["first", "per_tenant"] };
const RESERVE: Section = Section { title: "in \"reserve\"", keys: &["memory", "tasks", "disk"] };
const WEB: Section = Section { title: "in \"web\"", keys: &["group"] };
const EVENTS: Section = Section { title: "in \"events\"", keys: &["keep", "most"] };
const SECTIONS: &[Section] = &[
    TOP,
    IDS,
    RESERVE,
    WEB,
    HOST_MAIL,
    HOST_SOCKET,
    HOST_NETWORK,
    HOST_METRICS,
    EVENTS,
    HOST_NOTICES,
    NOTICE,
    CONTACT,
];

/// The values of the settings that the file does not have.
pub(crate) fn defaults() -> Host {
    Host {
        state_dir: PathBuf::from("/var/lib/bailiwick"),
        runtime_dir: PathBuf::from("/run/bailiwick"),
        ids: IdPool::default(),
        require: [Resource::Cpu, Resource::Memory, Resource::Tasks, Resource::Disk].into(),
        admins: vec![Principal::User("root".to_owned()), Principal::Group("bailiwick-admin".to_owned())],
        observers: vec![Principal::User("bailiwick-exporter".to_owned())],
        reserve: Reserve { memory: ByteSize(256 << 20), tasks: 1000, disk: ByteSize(1 << 30) },
        syslog: false,
        user: "bailiwick".to_owned(),
        login_group: "bailiwick-tenants".to_owned(),
        replace_silent_init: Some(Period(300)),
        web: Web { group: None },
        etc: EtcSettings::default(),
        mail: HostMail::default(),
        host_sockets: BTreeMap::new(),
        network: HostNetwork::default(),
        events: EventsKept::default(),
        metrics: MetricsSettings::default(),
        notices: NoticeSettings::default(),
        default_notices: Vec::new(),
        contact: Contact::default(),
    }
}

/// Reads the settings of the host from a file.
pub(crate) fn read(source: &Source) -> Result<Host, Vec<Diagnostic>> {
    let mut report = Report::new(source);
    let mut host = defaults();
    if let Some(entries) = report.parse() {
        let top = Table::new(&mut report, &entries, &TOP, SECTIONS);
        read_directories(&mut report, &top, &mut host);
        if let Some(ids) = top.table(&mut report, "ids", &IDS, SECTIONS) {
            host.ids = read_ids(&mut report, &ids);
        }
        if let Some(require) = top.list(&mut report, "require", parsed::<Resource>) {
            let require = distinct(&mut report, require.into_inner(), Resource::to_string);
            host.require = require.into_iter().collect();
        }
        if let Some(reserve) = top.table(&mut report, "reserve", &RESERVE, SECTIONS) {
            let (memory, tasks) =
                (reserve.read(&mut report, "memory", size), reserve.read(&mut report, "tasks", number));
            host.reserve.memory = memory.map_or(host.reserve.memory, Spanned::into_inner);
            host.reserve.tasks = tasks.map_or(host.reserve.tasks, Spanned::into_inner);
            let disk = reserve.read(&mut report, "disk", size);
            host.reserve.disk = disk.map_or(host.reserve.disk, Spanned::into_inner);
        }
        if let Some(admins) = top.list(&mut report, "admins", principal) {
            host.admins = distinct(&mut report, admins.into_inner(), written);
        }
        if let Some(observers) = top.list(&mut report, "observers", principal) {
            host.observers = distinct(&mut report, observers.into_inner(), written);
        }
        host.syslog = top.read(&mut report, "syslog", switch).map_or(host.syslog, Spanned::into_inner);
        host.user = top.read(&mut report, "user", user).map_or(host.user, Spanned::into_inner);
        let group = top.read(&mut report, "login_group", login_group);
        host.login_group = group.map_or(host.login_group, Spanned::into_inner);
        let silent = top.read(&mut report, "replace_silent_init", silence);
        host.replace_silent_init = silent.map_or(host.replace_silent_init, Spanned::into_inner);
        if let Some(web) = top.filled_table(&mut report, "web", &WEB, SECTIONS) {
            let group = web.read(&mut report, "group", |value| web_group(value, &host.login_group));
            host.web.group = group.map(Spanned::into_inner);
        }
        if let Some(extra) = top.list(&mut report, "etc_extra", extra_of_etc) {
            host.etc.extra = distinct(&mut report, extra.into_inner(), Clone::clone);
        }
        if let Some(never) = top.list(&mut report, "etc_never", below_etc) {
            host.etc.never = distinct(&mut report, never.into_inner(), Clone::clone);
        }
        if let Some(events) = top.table(&mut report, "events", &EVENTS, SECTIONS) {
            let keep = events.read(&mut report, "keep", kept_time);
            let most = events.read(&mut report, "most", kept_number);
            host.events.keep = keep.map_or(host.events.keep, Spanned::into_inner);
            host.events.most = most.map_or(host.events.most, Spanned::into_inner);
        }
        host.mail = mail::read_host(&mut report, &top, SECTIONS);
        host.metrics = host_metrics::read(&mut report, &top, SECTIONS);
        host.notices = host_notices::read(&mut report, &top, SECTIONS, &host.user);
        host.default_notices = notices::read(&mut report, &top, SECTIONS);
        host.contact = notices::read_contact(&mut report, &top, SECTIONS);
        if let Some((place, problem)) = notices::of_host(&host).filter(|_| report.is_clean()) {
            report.error_at(&place, problem);
        }
        host.network = host_network::read(&mut report, &top, SECTIONS, host.ids, &host.user);
        host.host_sockets = host_sockets::read(&mut report, &top, SECTIONS, &[&host.state_dir, &host.runtime_dir]);
    }
    if report.is_clean() { Ok(host) } else { Err(report.finish()) }
}

fn read_directories(report: &mut Report<'_>, top: &Table<'_, '_>, host: &mut Host) {
    let state = top.read(report, "state_dir", directory);
    let runtime = top.read(report, "runtime_dir", directory);
    let place: Option<Span> = runtime.as_ref().or(state.as_ref()).map(Spanned::span);
    host.state_dir = state.map_or_else(|| host.state_dir.clone(), Spanned::into_inner);
    host.runtime_dir = runtime.map_or_else(|| host.runtime_dir.clone(), Spanned::into_inner);
    let nested = host.state_dir.starts_with(&host.runtime_dir) || host.runtime_dir.starts_with(&host.state_dir);
    if let (true, Some(place)) = (nested, place) {
        let dirs = (host.state_dir.display(), host.runtime_dir.display());
        report.error(place, || {
            Problem::new(format!("state_dir \"{}\" and runtime_dir \"{}\" are one inside the other", dirs.0, dirs.1))
                .hint("one is kept over a restart of the machine, the other is not: choose two separate directories")
        });
    }
}

/// Reads an absolute path in its normal form, so that paths can be compared.
pub(crate) fn directory(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let path = line(value)?;
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let normal = format!("/{}", parts.join("/"));
    if !path.starts_with('/') {
        Err(Problem::new(format!("the path {path:?} is not absolute")).hint("a path starts with \"/\""))
    } else if parts.contains(&"..") {
        Err(Problem::new(format!("the path {path:?} holds \"..\"")).hint("write the path without it"))
    } else if parts.is_empty() {
        Err(Problem::new("the root directory cannot be used").hint("give it a directory of its own"))
    } else if path != normal {
        Err(Problem::new(format!("the path {path:?} is not in its plain form")).hint(format!("write {normal:?}")))
    } else {
        Ok(PathBuf::from(path))
    }
}

/// Reads a path below `/etc` in its normal form.
fn below_etc(value: &DeValue<'_>) -> Result<String, Problem> {
    let path = line(value)?;
    if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        let problem = Problem::new(format!("{path:?} is no path below /etc"));
        return Err(problem.hint("write it without \"/etc/\" before it, such as \"php/8.4\""));
    }
    Ok(path.to_owned())
}

/// Reads a path below `/etc` that may be shown in a jail.
fn extra_of_etc(value: &DeValue<'_>) -> Result<String, Problem> {
    let path = below_etc(value)?;
    if is_barred(&path, &EtcSettings::default()) {
        return Err(Problem::new(format!("/etc/{path} is never shown in a jail"))
            .hint("it may hold secrets, or a jail has its own; see bailiwick.toml(5)"));
    }
    Ok(path)
}

fn read_ids(report: &mut Report<'_>, table: &Table<'_, '_>) -> IdPool {
    let default = IdPool::default();
    // Each number is checked with the default of the other, so that one run finds the problems of both.
    let first = table.read(report, "first", |value| Ok(IdPool::new(number(value)?, default.per_tenant())?.first()));
    let per_tenant =
        table.read(report, "per_tenant", |value| Ok(IdPool::new(default.first(), number(value)?)?.per_tenant()));
    IdPool::new(
        first.map_or(default.first(), Spanned::into_inner),
        per_tenant.map_or(default.per_tenant(), Spanned::into_inner),
    )
    .expect("the two numbers are checked independently")
}

/// Reads how long an init may be silent. A busy host could not keep to less than a second.
fn silence(value: &DeValue<'_>) -> Result<Option<Period>, Problem> {
    if value.as_str() == Some(NEVER) {
        return Ok(None);
    }
    let period: Period = match value {
        DeValue::Integer(_) | DeValue::Float(_) => {
            return Err(
                expected("a time such as \"5m\", or \"never\"", value).hint("write it in quotes, with its unit")
            );
        }
        _ => parsed(value)?,
    };
    if (1..=86_400).contains(&period.0) {
        Ok(Some(period))
    } else {
        Err(Problem::new(format!("{period} is no time to wait for an init"))
            .hint("write a time from 1s to 1d, or \"never\""))
    }
}

/// Reads how long events are kept.
fn kept_time(value: &DeValue<'_>) -> Result<Period, Problem> {
    let period: Period = match value {
        DeValue::Integer(_) | DeValue::Float(_) => {
            return Err(expected("a time such as \"30d\"", value).hint("write it in quotes, with its unit"));
        }
        _ => parsed(value)?,
    };
    if (3600..=400 * 86_400).contains(&period.0) {
        Ok(period)
    } else {
        Err(Problem::new(format!("{period} is no time to keep events")).hint("write a time from 1h to 400d"))
    }
}

/// Reads how many events are kept.
fn kept_number(value: &DeValue<'_>) -> Result<u32, Problem> {
    up_to(value, 1000, 1_000_000, "events")
}

fn size(value: &DeValue<'_>) -> Result<ByteSize, Problem> {
    match value {
        DeValue::Integer(_) | DeValue::Float(_) => {
            Err(expected("a size such as \"512M\"", value).hint("write it in quotes, with its unit"))
        }
        _ => parsed(value),
    }
}

fn principal(value: &DeValue<'_>) -> Result<Principal, Problem> {
    let text = text(value)?;
    let (make, name): (fn(String) -> Principal, &str) = match text.strip_prefix("group:") {
        Some(name) => (Principal::Group, name),
        None => (Principal::User, text),
    };
    Ok(make(account(name)?))
}

/// The text of a principal in the file, without quotes.
pub(crate) fn written(principal: &Principal) -> String {
    match principal {
        Principal::User(name) => name.clone(),
        Principal::Group(name) => format!("group:{name}"),
    }
}

/// Reads the user of `bailiwickd`. It must not be root: root can write the policy, and only the policy limits a `bailiwickd` in
/// an attacker's hands.
fn user(value: &DeValue<'_>) -> Result<String, Problem> {
    let hint =
        || Problem::new("bailiwickd must not run as root").hint("give it a user of its own, such as \"bailiwick\"");
    not_root(value, "user", hint)
}

/// Reads the group of tenants' host users. It must not be root's group, which may read files that others may not.
fn login_group(value: &DeValue<'_>) -> Result<String, Problem> {
    let hint = || Problem::new("tenants' host users must not be in root's group").hint("write \"bailiwick-tenants\"");
    not_root(value, "group", hint)
}

/// Reads the group that may connect to tenants' sockets. It must not be root's group, which most daemons of a host are not in,
/// nor that of tenants' host users.
fn web_group(value: &DeValue<'_>, login_group: &str) -> Result<String, Problem> {
    let hint = || Problem::new("the web server's group must not be root's").hint("write \"www-data\"");
    let group = not_root(value, "group", hint)?;
    if group == login_group {
        let problem = Problem::new(format!("\"{group}\" is the group of all tenants' host users (login_group)"));
        return Err(problem.hint("each tenant could connect to the sockets of all others; write \"www-data\""));
    }
    Ok(group)
}

pub(crate) fn not_root(value: &DeValue<'_>, kind: &str, is_root: impl Fn() -> Problem) -> Result<String, Problem> {
    let name = account(text(value)?)?;
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let id = name.parse::<u32>();
    if name == "root" || id == Ok(0) {
        Err(is_root())
    } else if !is_number || id.is_ok_and(|id| id != u32::MAX) {
        Ok(name)
    } else {
        Err(Problem::new(format!("no {kind} can have the number {name}")))
    }
}

/// Checks a name of a user or a group. Directory services allow more names than `useradd(8)`, so this check is wider.
fn account(name: &str) -> Result<String, Problem> {
    let separates = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | ',' | '/');
    let problem = if name.is_empty() {
        "the name of a user or a group must not be empty".to_owned()
    } else if let Some(found) = name.chars().find(|c| separates(*c)) {
        format!("the name of a user or a group must not hold {found:?}")
    } else if name.starts_with('-') || name.len() > 256 {
        format!("{name:?} cannot be the name of a user or a group")
    } else {
        return Ok(name.to_owned());
    };
    Err(Problem::new(problem).hint("write \"name\" for a user or \"group:name\" for a group"))
}

/// Writes a file with every setting. Reading it gives the same host.
pub(crate) fn write(host: &Host) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |items: Vec<String>| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
    let text = format!(
        "state_dir = {}\nruntime_dir = {}\nids = {{ first = {}, per_tenant = {} }}\nrequire = [{}]\n\
         reserve = {{ memory = \"{}\", tasks = {}, disk = \"{}\" }}\nadmins = [{}]\nobservers = [{}]\nsyslog = {}\nuser = {}\nlogin_group = {}\n\
         replace_silent_init = \"{}\"\n{}\
         etc_extra = [{}]\netc_never = [{}]\nevents = {{ keep = \"{}\", most = {} }}\n",
        quoted(&host.state_dir.to_string_lossy()),
        quoted(&host.runtime_dir.to_string_lossy()),
        host.ids.first(),
        host.ids.per_tenant(),
        list(host.require.iter().map(Resource::to_string).collect()),
        host.reserve.memory,
        host.reserve.tasks,
        host.reserve.disk,
        list(host.admins.iter().map(written).collect()),
        list(host.observers.iter().map(written).collect()),
        host.syslog,
        quoted(&host.user),
        quoted(&host.login_group),
        host.replace_silent_init.map_or_else(|| NEVER.to_owned(), |period| period.to_string()),
        host.web.group.as_ref().map(|group| format!("web = {{ group = {} }}\n", quoted(group))).unwrap_or_default(),
        list(host.etc.extra.clone()),
        list(host.etc.never.clone()),
        host.events.keep,
        host.events.most,
    );
    text + &mail::write_host(&host.mail)
        + &host_network::write(&host.network)
        + &host_metrics::write(host.metrics)
        + &host_notices::write(&host.notices)
        + &host_sockets::write(&host.host_sockets)
        + &notices::write_contact(&host.contact)
        + &notices::write(&host.default_notices)
}
