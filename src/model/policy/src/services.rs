//! Reads and writes `[[service]]`: the long-running programs of a tenant and their sockets.
//!
//! A file's service replaces an inherited one of the same name as a whole. So every key that it does not have has its default.

use crate::diagnostic::Problem;
use crate::items;
use crate::limits::bounded;
use crate::model::{Log, Pass, Run, Service, ServiceLimits, ServiceSocket, ServiceUser, Stop};
use crate::reader::{Report, Section, Span, Table, distinct, expected, parsed, switch, text};
use crate::suggest::nearest;
use bailiwick_types::{
    ByteSize, CpuShare, LoginName, MAX_SERVICES, MAX_SOCKETS, Period, Readiness, Restart, ServiceName, SocketName,
    StopSignal,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const SERVICE: Section = Section {
    title: "below [[service]]",
    keys: &[
        "name",
        "enabled",
        "command",
        "files",
        "user",
        "directory",
        "env",
        "after",
        "restart",
        "stop",
        "ready",
        "log",
        "limits",
        "socket",
    ],
};
pub(crate) const SOCKET: Section =
    Section { title: "below [[service.socket]]", keys: &["name", "pass", "to", "backlog", "entries"] };
pub(crate) const STOP: Section = Section { title: "in \"stop\"", keys: &["signal", "within"] };
pub(crate) const LOG: Section = Section { title: "in \"log\"", keys: &["size", "keep"] };
pub(crate) const LIMITS: Section =
    Section { title: "in \"limits\" of a [[service]]", keys: &["memory", "tasks", "cpu"] };

/// The variables that Bailiwick sets for a service.
const OWN_VARIABLES: &[&str] =
    &["BAILIWICK_ENTRIES", "FPM_SOCKETS", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "PORT"];
/// The most bytes of the variables of a service.
const MAX_ENV: usize = 32 << 10;
/// The most bytes of a path (`PATH_MAX` without its NUL).
const MAX_PATH: usize = 4095;

/// The services that one file declares.
#[derive(Debug)]
pub(crate) struct Declared {
    /// Whether the services of the plan are there too.
    inherits: bool,
    place: Span,
    items: Vec<Item>,
    /// Whether the name of a service could not be read, so that it is unknown which there are.
    has_nameless: bool,
}

/// One `[[service]]` of a file.
#[derive(Debug)]
struct Item {
    name: Spanned<ServiceName>,
    content: Content,
    after: Vec<Spanned<ServiceName>>,
    sockets: Vec<Spanned<SocketName>>,
}

#[derive(Debug)]
enum Content {
    /// A whole service.
    Whole(Box<Service>),
    /// `enabled = false`. With `only_name`, it is about a service of the plan.
    TakenAway { only_name: bool },
    /// It has problems, which were reported.
    Unreadable,
}

impl Declared {
    /// Reads the services from the top table of a file. `login` is the tenant's login user; a plan does not know it.
    pub(crate) fn read(
        report: &mut Report<'_>,
        top: &Table<'_, '_>,
        file: &'static [Section],
        login: Option<&LoginName>,
    ) -> Self {
        let inherits = top.read(report, "inherit_services", switch).is_none_or(Spanned::into_inner);
        let (mut names, mut sockets) = (BTreeSet::new(), BTreeSet::new());
        let mut has_nameless = false;
        let items = items::tables(report, top, "service", &SERVICE, |report, entry| {
            let item = read_service(report, entry, file, login, (&mut names, &mut sockets));
            has_nameless |= item.is_none();
            item
        });
        let place = top.get("service").map(Spanned::span).unwrap_or_default();
        Self { inherits, place, items, has_nameless }
    }

    /// Returns the services of a tenant or a plan: the inherited ones, with those of this file in their place or after them.
    pub(crate) fn apply(self, report: &mut Report<'_>, inherited: &[Service]) -> Vec<Service> {
        let mut merged = if self.inherits { inherited.to_vec() } else { Vec::new() };
        if self.items.len() > MAX_SERVICES {
            report.error(self.place, too_many);
            return merged;
        }
        for item in &self.items {
            let place = merged.iter().position(|service| service.name == *item.name.get_ref());
            match (&item.content, place) {
                (Content::Whole(service), Some(place)) => merged[place] = *service.clone(),
                (Content::Whole(service), None) => merged.push(*service.clone()),
                (Content::TakenAway { .. }, Some(place)) => drop(merged.remove(place)),
                (Content::TakenAway { only_name: true }, None) => {
                    report.error(item.name.span(), || nothing_to_take_away(item.name.get_ref(), inherited));
                }
                (Content::TakenAway { only_name: false } | Content::Unreadable, _) => {}
            }
        }
        if merged.len() > MAX_SERVICES {
            report.error(self.place.clone(), too_many);
            return merged;
        }
        self.check_order(report, &merged);
        self.check_sockets(report, &merged);
        merged
    }

    /// Reports services that come after one that is not there, or after each other.
    fn check_order(&self, report: &mut Report<'_>, merged: &[Service]) {
        if self.has_nameless {
            return;
        }
        let unreadable = |name: &ServiceName| {
            self.items.iter().any(|item| item.name.get_ref() == name && matches!(item.content, Content::Unreadable))
        };
        let is_there = |name: &ServiceName| unreadable(name) || merged.iter().any(|service| service.name == *name);
        let whole = self.items.iter().filter(|item| matches!(item.content, Content::Whole(_)));
        for missing in whole.clone().flat_map(|item| &item.after).filter(|name| !is_there(name.get_ref())) {
            report.error(missing.span(), || no_service(missing.get_ref(), merged));
        }
        // An inherited service may come after one that this file takes away.
        for item in self.items.iter().filter(|item| matches!(item.content, Content::TakenAway { .. })) {
            let waits = |service: &&Service| service.after.contains(item.name.get_ref());
            let waiting = merged.iter().filter(waits).find(|service| !whole.clone().any(|own| own.is_of(service)));
            if let Some(waiting) = waiting {
                report.error(item.name.span(), || {
                    Problem::new(format!("the service \"{}\" comes after \"{}\"", waiting.name, item.name.get_ref()))
                        .hint(format!("give this file a \"{}\" of its own, or take it away too", waiting.name))
                });
            }
        }
        let mut reported: BTreeSet<&ServiceName> = BTreeSet::new();
        for item in whole {
            let circle = circle(item.name.get_ref(), merged);
            if circle.is_empty() || circle.iter().any(|name| reported.contains(name)) {
                continue;
            }
            let place = item.after.iter().find(|name| circle.get(1) == Some(&name.get_ref()));
            let names: Vec<&str> = circle.iter().map(|name| name.as_str()).collect();
            report.error(place.unwrap_or(&item.name).span(), || {
                Problem::new(format!("the services come after each other in a circle: {}", names.join(" -> ")))
                    .hint("remove one of them from \"after\"")
            });
            reported.extend(circle);
        }
    }

    /// Reports sockets of this file that have the name of an inherited one.
    fn check_sockets(&self, report: &mut Report<'_>, merged: &[Service]) {
        let is_own = |service: &&Service| self.items.iter().any(|item| item.is_of(service));
        let inherited = merged.iter().filter(|service| !is_own(service));
        let names: BTreeMap<&SocketName, &ServiceName> =
            inherited.flat_map(|service| service.sockets.iter().map(|socket| (&socket.name, &service.name))).collect();
        for socket in self.items.iter().flat_map(|item| &item.sockets) {
            if let Some(other) = names.get(socket.get_ref()) {
                report.error(socket.span(), || {
                    Problem::new(format!("there are two sockets \"{}\"", socket.get_ref()))
                        .hint(format!("the service \"{other}\" of the plan has the other one; rename this one"))
                });
            }
        }
    }
}

impl Item {
    fn is_of(&self, service: &Service) -> bool {
        *self.name.get_ref() == service.name
    }
}

fn too_many() -> Problem {
    Problem::new(format!("more than {MAX_SERVICES} services, those of the plan included"))
        .hint("let one service start several programs")
}

fn no_service(name: &ServiceName, services: &[Service]) -> Problem {
    let problem = Problem::new(format!("there is no service \"{name}\""));
    match nearest(name.as_str(), services.iter().map(|service| service.name.as_str())) {
        Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
        None => problem.hint("a service comes after others of the same tenant"),
    }
}

fn nothing_to_take_away(name: &ServiceName, inherited: &[Service]) -> Problem {
    let problem = Problem::new(format!("the plan has no service \"{name}\" to take away"));
    match nearest(name.as_str(), inherited.iter().map(|service| service.name.as_str())) {
        Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
        None => problem.hint("remove this [[service]]"),
    }
}

/// The shortest circle of `after` from a service to itself; empty when there is none.
fn circle<'a>(start: &'a ServiceName, services: &'a [Service]) -> Vec<&'a ServiceName> {
    // The one that leads to each service that was reached.
    let mut before: BTreeMap<&ServiceName, &ServiceName> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(name) = next.pop_front() {
        for reached in services.iter().filter(|service| service.name == *name).flat_map(|service| &service.after) {
            if reached == start {
                let mut circle = vec![start, name];
                while let Some(earlier) = before.get(circle[circle.len() - 1]) {
                    circle.push(earlier);
                }
                circle.reverse();
                return circle;
            }
            if !before.contains_key(reached) {
                before.insert(reached, name);
                next.push_back(reached);
            }
        }
    }
    Vec::new()
}

/// Reads one service. Returns `None` when its name cannot be read.
fn read_service(
    report: &mut Report<'_>,
    entry: &Spanned<DeValue<'_>>,
    file: &'static [Section],
    login: Option<&LoginName>,
    (names, socket_names): (&mut BTreeSet<ServiceName>, &mut BTreeSet<SocketName>),
) -> Option<Item> {
    let problems = report.count();
    let table = items::table(report, entry, "service", &SERVICE, file, 1)?;
    let name = items::name(report, &table, "service", names, parsed);
    let enabled = value(report, &table, "enabled", switch, true);
    let only_name = SERVICE.keys[2..].iter().all(|key| table.get(key).is_none());
    if !enabled && only_name {
        let content = Content::TakenAway { only_name };
        return Some(Item { name: name?, content, after: Vec::new(), sockets: Vec::new() });
    }
    let run = read_run(report, &table, entry.span());
    let after = table.list(report, "after", parsed).map(Spanned::into_inner).unwrap_or_default();
    let after_names = distinct(report, after.clone(), ServiceName::to_string);
    let ready = table.read(report, "ready", parsed);
    let mut sockets = Vec::new();
    let mut places = Vec::new();
    for (place, socket) in read_sockets(report, &table, file, matches!(run, Some(Run::Files(_))), socket_names) {
        places.push(Spanned::new(place, socket.name.clone()));
        sockets.push(socket);
    }
    let has_problems = report.count() > problems;
    if let Some(ready) = ready.as_ref().filter(|_| !has_problems) {
        check_ready(report, ready, run.as_ref(), &sockets);
    }
    if let (Some(Run::Files(_)), false) = (&run, has_problems)
        && sockets.len() != 1
    {
        report.error(entry.span(), || {
            Problem::new("a service with \"files\" has exactly one socket")
                .hint("write one [[service.socket]] below it")
        });
    }
    let parts = (
        value(report, &table, "user", |value| user(value, login), ServiceUser::Login),
        table.read(report, "directory", absolute).map(Spanned::into_inner),
        read_env(report, &table),
    );
    let (stop, log, limits) =
        (read_stop(report, &table, file), read_log(report, &table, file), read_limits(report, &table, file));
    let restart = value(report, &table, "restart", parsed, Restart::Always);
    let (name, (user, directory, env)) = (name?, parts);
    let content = match run.filter(|_| report.count() == problems) {
        None => Content::Unreadable,
        Some(_) if !enabled => Content::TakenAway { only_name },
        Some(run) => Content::Whole(Box::new(Service {
            name: name.get_ref().clone(),
            run,
            user,
            directory,
            env,
            after: after_names.into_iter().collect(),
            restart,
            stop,
            ready: ready.map_or(Readiness::None, Spanned::into_inner),
            log,
            limits,
            sockets,
        })),
    };
    Some(Item { name, content, after, sockets: places })
}

/// Reads the value of a key, with a default when there is none.
fn value<T>(
    report: &mut Report<'_>,
    table: &Table<'_, '_>,
    key: &'static str,
    parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    default: T,
) -> T {
    table.read(report, key, parse).map_or(default, Spanned::into_inner)
}

fn read_run(report: &mut Report<'_>, table: &Table<'_, '_>, place: Span) -> Option<Run> {
    match (table.get("command"), table.get("files")) {
        (Some(_), None) => items::command(report, table).map(Run::Command),
        (None, Some(_)) => Some(Run::Files(table.read(report, "files", files)?.into_inner())),
        (Some(_), Some(files)) => {
            report.error(files.span(), || {
                Problem::new("a service has \"command\" or \"files\", not both")
                    .hint("Bailiwick's own server serves \"files\"; write two services")
            });
            None
        }
        (None, None) => {
            report.error(place, || {
                Problem::new("the service has no \"command\" and no \"files\"")
                    .hint("write a program and its arguments, such as command = [\"/usr/bin/node\", \"app.js\"]")
            });
            None
        }
    }
}

/// Reads a directory inside the jail: an absolute path, or one below the login user's home.
fn files(value: &DeValue<'_>) -> Result<String, Problem> {
    if text(value)?.starts_with('/') { absolute(value) } else { items::below_home(value) }
}

fn read_sockets(
    report: &mut Report<'_>,
    table: &Table<'_, '_>,
    file: &'static [Section],
    of_files: bool,
    names: &mut BTreeSet<SocketName>,
) -> Vec<(Span, ServiceSocket)> {
    let sockets = items::tables(report, table, "socket", &SOCKET, |report, entry| {
        read_socket(report, entry, file, of_files, names)
    });
    if let Some(list) = table.get("socket").filter(|_| sockets.len() > MAX_SOCKETS) {
        report.error(list.span(), || Problem::new(format!("more than {MAX_SOCKETS} sockets of one service")));
    }
    sockets
}

fn read_socket(
    report: &mut Report<'_>,
    entry: &Spanned<DeValue<'_>>,
    file: &'static [Section],
    of_files: bool,
    names: &mut BTreeSet<SocketName>,
) -> Option<(Span, ServiceSocket)> {
    let table = items::table(report, entry, "socket", &SOCKET, file, 1)?;
    let name = items::name(report, &table, "socket", names, parsed);
    let pass = read_pass(report, &table, entry.span(), of_files);
    let backlog = value(report, &table, "backlog", |value| bounded(value, 1, 4096, BACKLOG), ServiceSocket::BACKLOG);
    let entries = table.read(report, "entries", |value| bounded(value, 1, 100_000, ENTRIES)).map(Spanned::into_inner);
    let name = name?;
    Some((name.span(), ServiceSocket { name: name.into_inner(), pass: pass?, backlog, entries }))
}

const BACKLOG: &str = "from 1 to 4096; 128 is the norm";
const ENTRIES: &str = "from 1 to 100000; leave it out for no limit of its own";

fn read_pass(report: &mut Report<'_>, table: &Table<'_, '_>, place: Span, of_files: bool) -> Option<Pass> {
    let word = match table.get("pass") {
        Some(_) => table.read(report, "pass", |value| pass(value, of_files))?.into_inner(),
        None => "fd",
    };
    let to = table.get("to");
    match (word, to) {
        ("fd", None) => Some(Pass::Fd),
        ("fd", Some(to)) => {
            report.error(to.span(), || {
                Problem::new("with pass = \"fd\" there is no use for \"to\"")
                    .hint("the service inherits the listening socket; remove \"to\", or write pass = \"relay\"")
            });
            None
        }
        ("fpm", Some(_)) => table.read(report, "to", listen_of_fpm).map(|path| Pass::Fpm(path.into_inner())),
        (_, Some(_)) => table.read(report, "to", address).map(|address| Pass::Relay(address.into_inner())),
        (word, None) => {
            let hint = if word == "fpm" {
                "the value of `listen` in PHP-FPM's configuration: to = \"/run/php.sock\""
            } else {
                "the address inside that the service listens on: to = \"127.0.0.1:3000\""
            };
            report.error(place, || Problem::new(format!("the socket has no \"to\", and pass = \"{word}\"")).hint(hint));
            None
        }
    }
}

fn pass(value: &DeValue<'_>, of_files: bool) -> Result<&'static str, Problem> {
    let word = text(value)?;
    let known = ["fd", "fpm", "relay"].into_iter().find(|known| *known == word).ok_or_else(|| {
        Problem::new(format!("unknown pass {word:?}")).hint(
            "\"fd\" (the service inherits the listening socket), \"fpm\" (PHP-FPM inherits it), or \"relay\" (the \
             service listens on an address inside)",
        )
    })?;
    if of_files && known != "fd" {
        let problem = Problem::new(format!("a service with \"files\" cannot have pass = \"{known}\""));
        return Err(problem.hint("remove it: Bailiwick's own server inherits the listening socket"));
    }
    Ok(known)
}

/// Reads the value of `listen` in a configuration of PHP-FPM, as it stands in `FPM_SOCKETS`.
fn listen_of_fpm(value: &DeValue<'_>) -> Result<String, Problem> {
    let path = absolute(value)?;
    match path.chars().find(|c| matches!(c, '=' | ',') || c.is_control()) {
        Some(found) => {
            Err(Problem::new(format!("the path must not hold {found:?}")).hint("FPM_SOCKETS has no such path"))
        }
        None => Ok(path),
    }
}

/// Reads an address of the jail's own loopback.
fn address(value: &DeValue<'_>) -> Result<SocketAddr, Problem> {
    let hint = "write an address and a port, such as \"127.0.0.1:3000\" or \"[::1]:3000\"";
    if matches!(value, DeValue::Integer(_)) {
        return Err(expected("an address in quotes", value).hint(hint));
    }
    let word = text(value)?;
    let Ok(address) = word.parse::<SocketAddr>() else {
        return Err(Problem::new(format!("{word:?} is no address with a port")).hint(hint));
    };
    if !address.ip().is_loopback() || address != SocketAddr::new(address.ip(), address.port()) {
        let problem = Problem::new(format!("{word:?} is no loopback address"));
        return Err(problem.hint("the relay connects inside the jail: write 127.0.0.1 or [::1]"));
    }
    if address.port() == 0 {
        return Err(Problem::new("nothing listens on port 0").hint(hint));
    }
    Ok(address)
}

fn check_ready(report: &mut Report<'_>, ready: &Spanned<Readiness>, run: Option<&Run>, sockets: &[ServiceSocket]) {
    let is_relayed = sockets.iter().any(|socket| matches!(socket.pass, Pass::Relay(_)));
    match (ready.get_ref(), run) {
        (Readiness::Notify | Readiness::Connect, Some(Run::Files(_))) => report.error(ready.span(), || {
            Problem::new(format!("a service with \"files\" cannot have ready = \"{}\"", ready.get_ref()))
                .hint("remove it: Bailiwick's own server is ready at once")
        }),
        (Readiness::Connect, _) if !is_relayed => report.error(ready.span(), || {
            Problem::new("ready = \"connect\" needs a socket with pass = \"relay\"")
                .hint("there is no address to connect to; write \"none\" or \"notify\"")
        }),
        _ => {}
    }
}

/// Reads the user of a service.
fn user(value: &DeValue<'_>, login: Option<&LoginName>) -> Result<ServiceUser, Problem> {
    let name = text(value)?;
    match login {
        _ if name == "root" => Ok(ServiceUser::Root),
        Some(login) if name == login.as_str() => Ok(ServiceUser::Login),
        Some(login) => Err(Problem::new(format!("a service cannot run as {name:?}"))
            .hint(format!("\"{login}\" (the login user, which is the default) or \"root\""))),
        None => Err(Problem::new(format!("a plan's service cannot run as {name:?}"))
            .hint("\"root\"; without this line it runs as the tenant's login user")),
    }
}

/// Reads an absolute path inside the jail.
fn absolute(value: &DeValue<'_>) -> Result<String, Problem> {
    let path = text(value)?;
    if !path.starts_with('/') {
        return Err(
            Problem::new(format!("the path {path:?} is not absolute")).hint("write where it is inside the jail")
        );
    }
    if path.contains('\0') {
        return Err(Problem::new("a path must not hold a NUL character"));
    }
    if path.len() > MAX_PATH {
        return Err(Problem::new(format!("the path is longer than {MAX_PATH} bytes")));
    }
    Ok(path.to_owned())
}

fn read_env(report: &mut Report<'_>, table: &Table<'_, '_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(value) = table.get("env") else { return env };
    let Some(entries) = value.get_ref().as_table() else {
        report.error(value.span(), || expected("a table such as { APP_ENV = \"prod\" }", value.get_ref()));
        return env;
    };
    for (name, value) in entries {
        let (name, value) = (
            report.accept(name.span(), variable(name.get_ref())),
            report.accept(value.span(), content(value.get_ref())),
        );
        if let (Some(name), Some(value)) = (name, value) {
            env.insert(name.into_inner(), value.into_inner());
        }
    }
    if env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_ENV {
        report.error(value.span(), || {
            Problem::new(format!("the variables are longer than {MAX_ENV} bytes")).hint("write them into a file inside")
        });
    }
    env
}

/// Checks the name of a variable.
fn variable(name: &str) -> Result<String, Problem> {
    if name.is_empty() {
        return Err(Problem::new("the name of a variable must not be empty"));
    }
    if let Some(found) = name.chars().find(|c| *c == '=' || c.is_control()) {
        return Err(Problem::new(format!("the name of a variable must not hold {found:?}")));
    }
    if OWN_VARIABLES.contains(&name) {
        return Err(Problem::new(format!("Bailiwick sets {name} itself")).hint("remove it"));
    }
    Ok(name.to_owned())
}

/// Reads the value of a variable.
fn content(value: &DeValue<'_>) -> Result<String, Problem> {
    match value {
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {
            Err(expected("a text in quotes", value).hint("every variable is a text: write it in quotes"))
        }
        _ => {
            let text = text(value)?;
            if text.contains('\0') {
                return Err(Problem::new("a variable must not hold a NUL character"));
            }
            Ok(text.to_owned())
        }
    }
}

fn read_stop(report: &mut Report<'_>, table: &Table<'_, '_>, file: &'static [Section]) -> Stop {
    let Some(stop) = table.table(report, "stop", &STOP, file) else { return Stop::default() };
    let Stop { signal: default_signal, within } = Stop::default();
    Stop {
        signal: value(report, &stop, "signal", signal, default_signal),
        within: value(report, &stop, "within", |value| bounded(value, Period(1), Period(300), "from 1s to 5m"), within),
    }
}

fn signal(value: &DeValue<'_>) -> Result<StopSignal, Problem> {
    let word = text(value)?;
    let problem = match word.parse::<StopSignal>() {
        Ok(signal) => return Ok(signal),
        Err(error) => Problem::from(error),
    };
    let meant = word.to_ascii_uppercase();
    match meant.strip_prefix("SIG").unwrap_or(&meant).parse::<StopSignal>() {
        Ok(signal) => Err(problem.hint(format!("write \"{signal}\""))),
        Err(_) => Err(problem),
    }
}

fn read_log(report: &mut Report<'_>, table: &Table<'_, '_>, file: &'static [Section]) -> Log {
    let Some(log) = table.table(report, "log", &LOG, file) else { return Log::default() };
    let Log { size, keep } = Log::default();
    let (least, most) = (ByteSize(4 << 10), ByteSize(1 << 30));
    Log {
        size: value(report, &log, "size", |value| bounded(value, least, most, "from 4K to 1G"), size),
        keep: value(
            report,
            &log,
            "keep",
            |value| bounded(value, 0, 20, "from 0 to 20 full files beside the current one"),
            keep,
        ),
    }
}

fn read_limits(report: &mut Report<'_>, table: &Table<'_, '_>, file: &'static [Section]) -> ServiceLimits {
    let Some(limits) = table.table(report, "limits", &LIMITS, file) else { return ServiceLimits::default() };
    let memory = |value: &DeValue<'_>| bounded(value, ByteSize(1 << 20), ByteSize(1 << 50), MEMORY);
    let tasks = |value: &DeValue<'_>| bounded(value, 1, 4_194_304, TASKS);
    let cpu = |value: &DeValue<'_>| bounded(value, CpuShare(1000), CpuShare(1_000_000_000), CPU);
    ServiceLimits {
        memory: limits.read(report, "memory", memory).map(Spanned::into_inner),
        tasks: limits.read(report, "tasks", tasks).map(Spanned::into_inner),
        cpu: limits.read(report, "cpu", cpu).map(Spanned::into_inner),
    }
}

const MEMORY: &str = "from 1M; without it only the tenant's own limit counts";
const TASKS: &str = "from 1; without it only the tenant's own limit counts";
const CPU: &str = "a share of one core, from 1%; without it only the tenant's own limit counts";

/// Writes every service with every setting. What is missing (the user, the directory, the entries, the limits) has no other
/// word.
pub(crate) fn write(services: &[Service]) -> String {
    services.iter().map(write_service).collect()
}

/// A key in quotes. It holds no control characters, and TOML knows no other quotes for a key with both kinds.
fn quoted_key(key: &str) -> String {
    format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))
}

fn write_service(service: &Service) -> String {
    let Service { name, run, user, directory, env, after, restart, stop, ready, log, limits, sockets } = service;
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |items: Vec<String>| items.join(", ");
    let mut text = format!("\n[[service]]\nname = \"{name}\"\n");
    match run {
        Run::Command(command) => {
            text.push_str(&format!("command = [{}]\n", list(command.iter().map(|item| quoted(item)).collect())));
        }
        Run::Files(files) => text.push_str(&format!("files = {}\n", quoted(files))),
    }
    if *user == ServiceUser::Root {
        text.push_str("user = \"root\"\n");
    }
    if let Some(directory) = directory {
        text.push_str(&format!("directory = {}\n", quoted(directory)));
    }
    let env = env.iter().map(|(name, value)| format!("{} = {}", quoted_key(name), quoted(value))).collect();
    text.push_str(&format!("env = {{ {} }}\n", list(env)));
    text.push_str(&format!("after = [{}]\n", list(after.iter().map(|name| format!("\"{name}\"")).collect())));
    text.push_str(&format!(
        "restart = \"{restart}\"\nstop = {{ signal = \"{}\", within = \"{}\" }}\nready = \"{ready}\"\n\
         log = {{ size = \"{}\", keep = {} }}\n",
        stop.signal, stop.within, log.size, log.keep
    ));
    let ServiceLimits { memory, tasks, cpu } = limits;
    let limits = [
        memory.map(|memory| format!("memory = \"{memory}\"")),
        tasks.map(|tasks| format!("tasks = {tasks}")),
        cpu.map(|cpu| format!("cpu = \"{cpu}\"")),
    ];
    text.push_str(&format!("limits = {{ {} }}\n", list(limits.into_iter().flatten().collect())));
    for ServiceSocket { name, pass, backlog, entries } in sockets {
        let pass = match pass {
            Pass::Fd => "pass = \"fd\"".to_owned(),
            Pass::Fpm(listen) => format!("pass = \"fpm\"\nto = {}", quoted(listen)),
            Pass::Relay(address) => format!("pass = \"relay\"\nto = \"{address}\""),
        };
        text.push_str(&format!("\n[[service.socket]]\nname = \"{name}\"\n{pass}\nbacklog = {backlog}\n"));
        if let Some(entries) = entries {
            text.push_str(&format!("entries = {entries}\n"));
        }
    }
    text
}
