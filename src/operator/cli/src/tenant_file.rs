//! `create`, `delete`, `suspend` and `unsuspend`: the operator's own files in `tenants.d`.
//!
//! A file is written whole or not at all, read back as the daemons will read it, and put back as it was when they
//! could not. Comments and order of a file that a person wrote stay.
//!
//! Danger: the warden does as root what these files say. `delete` destroys nothing without `--purge`, and `create` nothing that
//! it has not made.

use crate::arguments::Wishes;
use crate::change::{Telling, UNCHANGED, ask, tell, warn_of_reserve};
use crate::configuration;
use crate::output::{self, Form};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{TenantOutcome, Verb};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_sys::file;
use bailiwick_types::{Door, ExitStatus, PlanName, TenantName};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml_edit::{Array, Decor, DocumentMut, Item, Table, Value, value};

const MODE: u32 = 0o644;
const MAX_FILE: usize = 1 << 20;
/// How often and how long another command is waited for; it holds the lock for as long as one file takes.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// What was done for a tenant whose file alone was changed.
const WRITTEN: &str = "written";

/// What becomes of a deleted tenant's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// It stays.
    Keep,
    /// It is destroyed.
    Destroy,
}

/// What a tenant's state is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It may run.
    Active,
    /// It is to be down.
    Suspended {
        /// Why; as it was when `None`.
        reason: Option<String>,
    },
}

/// `tenants.d`, while no other command changes it.
#[derive(Debug)]
struct Tenants {
    config: PathBuf,
    top: OwnedFd,
    dir: OwnedFd,
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::of(ExitStatus::Failed, format!("cannot {what} \"{}\": {error}", path.display()))
}

impl Tenants {
    fn open(config: &Path) -> Result<Self, Failure> {
        let open = || {
            let top = file::open_dir(&config.canonicalize()?)?;
            let dir = file::ensure_dir_at(&top, "tenants.d", 0o755)?;
            let mut tries = TRIES;
            loop {
                match file::lock(dir.as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries > 0 => {
                        tries -= 1;
                        std::thread::sleep(PAUSE);
                    }
                    other => return other.map(|()| (top, dir)),
                }
            }
        };
        match open() {
            Ok((top, dir)) => Ok(Self { config: config.to_owned(), top, dir }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let path = config.join("tenants.d");
                let message = format!("another command holds \"{}\"; try again when it is done", path.display());
                Err(Failure::of(ExitStatus::Conflict, message))
            }
            Err(error) => Err(failed("open", &config.join("tenants.d"), &error)),
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.config.join("tenants.d").join(file)
    }

    fn holds(&self, file: &str) -> Result<bool, Failure> {
        exists(&self.dir, file).map_err(|error| failed("look at", &self.path(file), &error))
    }

    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, Failure> {
        match file::open_file_at(&self.dir, file).and_then(|fd| file::read_bounded(fd, MAX_FILE)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &self.path(file), &error)),
        }
    }

    fn write(&self, file: &str, content: &[u8]) -> Result<(), Failure> {
        file::replace_at(&self.dir, file, content, MODE, file::Outlives::PowerCut)
            .map_err(|error| failed("write", &self.path(file), &error))
    }

    fn remove(&self, file: &str) -> Result<(), Failure> {
        file::remove_file_at(&self.dir, file).map_err(|error| failed("remove", &self.path(file), &error))
    }

    /// Writes a tenant's file, and puts back what was there when it does not read as a tenant.
    /// That it did not before is no reason: what the operator asks for must not wait for a mend of something else.
    fn install(&self, name: &TenantName, content: &str) -> Result<(), Failure> {
        let file = file_of(name);
        let before = self.read(&file)?;
        let problems = || bailiwick_policy::read_tenant(&self.config, name).err().unwrap_or_default();
        let had = if before.is_some() { problems().len() } else { 0 };
        self.write(&file, content.as_bytes())?;
        let diagnostics = problems();
        if diagnostics.len() <= had {
            return Ok(());
        }
        let mut failure = configuration::invalid(&diagnostics);
        let undone = match before {
            Some(before) => self.write(&file, &before),
            None => self.remove(&file),
        };
        if let Err(left) = undone {
            failure.message.push_str(&format!("\nand the file could not be put back: {left}"));
        }
        Err(failure)
    }

    /// Moves a tenant's file to a name that nobody reads.
    fn set_aside(&self, name: &TenantName) -> Result<(), Failure> {
        if let Some(content) = self.read(&file_of(name))? {
            self.write(&aside(name), &content)?;
            self.remove(&file_of(name))?;
        }
        Ok(())
    }

    fn require_plan(&self, plan: &PlanName) -> Result<(), Failure> {
        let path = self.config.join("plans.d");
        let file = format!("plans.d/{plan}.toml");
        match exists(&self.top, &file) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let message = format!("no plan \"{plan}\": there is no \"{}\"", self.config.join(&file).display());
                Err(Failure::of(ExitStatus::NotFound, message))
            }
            Err(error) => Err(failed("look at", &path, &error)),
        }
    }
}

fn exists(dir: &OwnedFd, name: &str) -> io::Result<bool> {
    match file::metadata_at(dir, name) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn file_of(name: &TenantName) -> String {
    format!("{name}.toml")
}

/// Where the file of a deleted tenant lies: hidden files are no tenants.
fn aside(name: &TenantName) -> String {
    format!(".{name}.toml.deleted")
}

fn no_tenant(name: &TenantName) -> Failure {
    Failure::of(ExitStatus::NotFound, format!("no tenant \"{name}\""))
}

fn outcome(tenant: &TenantName, done: &str) -> TenantOutcome {
    TenantOutcome { tenant: tenant.clone(), done: done.to_owned(), failure: None }
}

/// `bailiwick create`.
pub(crate) fn create(config: &Path, name: TenantName, wishes: &Wishes, form: Form) -> Result<ExitStatus, Failure> {
    let daemon = configuration::daemon(config)?;
    let tenants = Tenants::open(config)?;
    let file = tenants.path(&file_of(&name));
    if tenants.holds(&file_of(&name))? {
        let message = format!("the tenant \"{name}\" exists already: \"{}\"", file.display());
        return Err(Failure::of(ExitStatus::Conflict, message));
    }
    tenants.require_plan(&wishes.plan)?;
    check_name(&daemon, config, &name, &wishes.plan)?;
    // While no other command can make or delete the tenant.
    let before = Before::of(&daemon, &name)?;
    let has_data = before == Before::Data;
    tenants.install(&name, &declaration(wishes))?;
    if has_data {
        let mut message = format!("the data of the deleted tenant \"{name}\" is back and belongs to the new one");
        if tenants.holds(&aside(&name))? {
            message
                .push_str(&format!("; what was declared for it is in \"{}\"", tenants.path(&aside(&name)).display()));
        }
        output::complain(&message);
    }
    drop(tenants);

    let made = Made { daemon: &daemon, config, name: &name, before };
    match ask(&daemon, &ControlRequest::Apply { tenants: vec![name.clone()], now: false, restart: false }) {
        Ok(outcomes) if outcomes.iter().any(|outcome| outcome.failure.is_some()) => {
            made.take_back();
            tell(&outcomes, Telling::Nothing, form)
        }
        // A deleted tenant was stopped by the operator and is held down until it is started by the operator.
        Ok(_) if has_data => {
            let start = ControlRequest::Lifecycle { verb: Verb::Start, tenants: vec![name.clone()] };
            let started = ask(&daemon, &start).inspect_err(|_| made.take_back())?;
            if started.iter().any(|outcome| outcome.failure.is_some()) {
                made.take_back();
            }
            tell(&started, Telling::Nothing, form)
        }
        Ok(outcomes) => {
            warn_of_reserve(&daemon, &outcomes);
            tell(&outcomes, Telling::Nothing, form)
        }
        Err(error) if error.is_no_answer() => {
            output::complain(&format!("the file is written, the jail is not started: {}", Failure::from(error)));
            tell(&[outcome(&name, WRITTEN)], Telling::Nothing, form)
        }
        Err(error) => {
            made.take_back();
            Err(error.into())
        }
    }
}

/// Refuses a name that the host has a user of, where the tenant would have one. Where the daemon cannot say, the apply that follows
/// does.
fn check_name(daemon: &Daemon, config: &Path, name: &TenantName, plan: &PlanName) -> Result<(), Failure> {
    let policy = bailiwick_policy::Store::new(config).read().policy;
    let doors = policy.and_then(|mut policy| policy.plans.remove(plan)).map(|plan| plan.settings.doors);
    if !doors.is_some_and(|doors| doors.iter().any(|door| matches!(door, Door::Ssh | Door::Sftp))) {
        return Ok(());
    }
    match daemon.ask(&ControlRequest::CheckName { tenant: name.clone() }) {
        Err(AskError::Failed(failure)) if failure.status == ExitStatus::Conflict => Err(failure),
        _ => Ok(()),
    }
}

/// What there was under a name before its file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing: whatever is there later was made by this command.
    Nothing,
    /// The data of a tenant whose file is gone.
    Data,
    /// Nobody could say.
    Unknown,
}

impl Before {
    /// Asks the daemon. Where it is there and cannot say, nothing is to be created.
    fn of(daemon: &Daemon, name: &TenantName) -> Result<Self, Failure> {
        match daemon.ask(&ControlRequest::Show { tenant: name.clone() }) {
            // Whatever state the daemon thinks the tenant is in: it may have not read yet that the file is gone.
            Ok(ControlReply::Show(detail)) if detail.ids.is_some() => Ok(Self::Data),
            Ok(_) => Ok(Self::Unknown),
            Err(AskError::Failed(failure)) if failure.status == ExitStatus::NotFound => Ok(Self::Nothing),
            Err(error) if error.is_no_answer() => Ok(Self::Unknown),
            Err(error) => Err(error.into()),
        }
    }
}

/// What `create` has made so far.
struct Made<'a> {
    daemon: &'a Daemon,
    config: &'a Path,
    name: &'a TenantName,
    before: Before,
}

impl Made<'_> {
    /// Takes all of it back, and says what it could not. Data is destroyed only where it is certain that this command made it.
    fn take_back(&self) {
        let mut left = Vec::new();
        let mut note = |result: Result<(), Failure>| {
            // What never came to be needs no taking back.
            if let Err(failure) = result
                && failure.status != ExitStatus::NotFound
            {
                left.push(failure.message);
            }
        };
        note(stop(self.daemon, self.name));
        note(Tenants::open(self.config).and_then(|tenants| tenants.remove(&file_of(self.name))));
        note(reload(self.daemon));
        if self.before == Before::Nothing {
            let purged = ask(self.daemon, &ControlRequest::Purge { tenant: self.name.clone() });
            note(
                purged
                    .map_err(Failure::from)
                    .and_then(|outcomes| outcomes.into_iter().find_map(|outcome| outcome.failure).map_or(Ok(()), Err)),
            );
        }
        let name = self.name;
        if left.is_empty() {
            let data = match self.before {
                Before::Nothing => "nothing of it is left",
                Before::Data => "the data that was there is kept",
                Before::Unknown => "data of that name, if there is any, is kept",
            };
            output::complain(&format!("the tenant \"{name}\" was not created, and {data}"));
        } else {
            let left = left.join("; ");
            output::complain(&format!(
                "the tenant \"{name}\" was not created, and not all of it is taken back: {left}"
            ));
        }
    }
}

/// Has the daemon read the policy. What else it finds in the files is not this command's business; it is in `status`.
fn reload(daemon: &Daemon) -> Result<(), Failure> {
    match ask(daemon, &ControlRequest::Reload) {
        Err(AskError::Failed(failure)) if failure.status == ExitStatus::Invalid => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// The file of a new tenant.
fn declaration(wishes: &Wishes) -> String {
    let mut document = DocumentMut::new();
    document["plan"] = value(wishes.plan.as_str());
    document["state"] = value("active");
    if let Some(profile) = wishes.profile {
        document["profile"] = value(profile.word());
    }
    let mut login = Table::new();
    if let Some(user) = &wishes.login {
        login["user"] = value(user.as_str());
    }
    if !wishes.ssh_key.is_empty() {
        login["ssh_keys"] = value(wishes.ssh_key.iter().map(|key| key.trim()).collect::<Array>());
    }
    if !login.is_empty() {
        document["login"] = Item::Table(login);
    }
    document.to_string()
}

/// `bailiwick delete`: the jail is stopped, the file is set aside, the daemon is told, and only then data may go.
pub(crate) fn delete(config: &Path, name: &TenantName, data: Data, form: Form) -> Result<ExitStatus, Failure> {
    let daemon = configuration::daemon(config)?;
    let tenants = Tenants::open(config)?;
    let (declared, deleted) = (tenants.holds(&file_of(name))?, tenants.holds(&aside(name))?);
    // Stopping may take long, and other commands need not wait for it.
    drop(tenants);
    if !declared && data == Data::Keep {
        let mut failure = no_tenant(name);
        if deleted {
            failure.message = format!("the tenant \"{name}\" is deleted already; add --purge to destroy its data");
        }
        return Err(failure);
    }
    if declared {
        stop(&daemon, name)?;
        Tenants::open(config)?.set_aside(name)?;
        reload(&daemon)?;
    }
    if data == Data::Keep {
        let tenants = Tenants::open(config)?;
        output::complain(&format!(
            "the data of \"{name}\" is kept; to bring the tenant back: mv {} {} && bailiwick reload && bailiwick start \
             {name}",
            tenants.path(&aside(name)).display(),
            tenants.path(&file_of(name)).display(),
        ));
        return tell(&[outcome(name, "deleted")], Telling::Nothing, form);
    }
    let outcomes = ask(&daemon, &ControlRequest::Purge { tenant: name.clone() })?;
    if outcomes.iter().all(|outcome| outcome.failure.is_none()) {
        Tenants::open(config)?.remove(&aside(name))?;
    }
    tell(&outcomes, Telling::Nothing, form)
}

/// Stops a jail. One that never ran is stopped.
fn stop(daemon: &Daemon, name: &TenantName) -> Result<(), Failure> {
    let failure = match ask(daemon, &ControlRequest::Lifecycle { verb: Verb::Stop, tenants: vec![name.clone()] }) {
        Ok(outcomes) => outcomes.into_iter().find_map(|outcome| outcome.failure),
        Err(error) => Some(error.into()),
    };
    match failure {
        Some(failure) if failure.status != ExitStatus::NotFound => Err(failure),
        _ => Ok(()),
    }
}

/// `bailiwick suspend` and `unsuspend`.
pub(crate) fn set_state(
    config: &Path,
    names: &[TenantName],
    wanted: &Wanted,
    form: Form,
) -> Result<ExitStatus, Failure> {
    let daemon = configuration::daemon(config)?;
    let tenants = Tenants::open(config)?;
    let (mut outcomes, mut meant, mut written) = (Vec::new(), Vec::new(), BTreeSet::new());
    for name in names {
        match declare(&tenants, name, wanted) {
            Ok(file) => {
                meant.push(name.clone());
                if file == File::Written {
                    written.insert(name.clone());
                }
            }
            Err(failure) => outcomes.push(TenantOutcome { failure: Some(failure), ..outcome(name, UNCHANGED) }),
        }
    }
    drop(tenants);
    if meant.is_empty() {
        return tell(&outcomes, Telling::Unchanged, form);
    }
    match ask(&daemon, &ControlRequest::Apply { tenants: meant.clone(), now: true, restart: false }) {
        Ok(applied) => {
            configuration::tell_problems(config, &meant, ExitStatus::Done);
            let untouched = |name: &&TenantName| applied.iter().all(|outcome| outcome.tenant != **name);
            outcomes.extend(meant.iter().filter(untouched).map(|name| outcome(name, UNCHANGED)));
            outcomes.extend(applied);
            // Its jail was as it is to be, its file was not.
            for outcome in outcomes.iter_mut().filter(|outcome| written.contains(&outcome.tenant)) {
                if outcome.failure.is_none() && outcome.done == UNCHANGED {
                    outcome.done = WRITTEN.to_owned();
                }
            }
            tell(&outcomes, Telling::Unchanged, form)
        }
        Err(error) if matches!(error, AskError::Failed(_)) => Err(error.into()),
        // The files say one thing and the jails another until the daemon is back: that is not all that was asked for.
        Err(error) => {
            output::complain(&format!("the files are written, the jails are as they were: {}", Failure::from(error)));
            outcomes.extend(meant.iter().map(|name| outcome(name, WRITTEN)));
            tell(&outcomes, Telling::Unchanged, form)?;
            Ok(ExitStatus::Partly)
        }
    }
}

/// What became of a tenant's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Written,
    /// It said so already.
    AsItWas,
}

/// Writes the wanted state to a tenant's file, if it does not say so already.
fn declare(tenants: &Tenants, name: &TenantName, wanted: &Wanted) -> Result<File, Failure> {
    let file = file_of(name);
    let before = tenants.read(&file).map_err(|mut failure| {
        if matches!(wanted, Wanted::Suspended { .. }) {
            failure.message.push_str(&format!("; `bailiwick stop {name}` ends its jail"));
        }
        failure
    })?;
    let before = before.ok_or_else(|| no_tenant(name))?;
    match std::str::from_utf8(&before).ok().and_then(|text| Some((text, edited(text, wanted).ok()?))) {
        Some((before, after)) if after == before => return Ok(File::AsItWas),
        Some((_, after)) => tenants.install(name, &after)?,
        // It reads as a tenant neither before nor after this, and is believed all the same.
        None => {
            let after = edited_lines(&before, wanted);
            if after == before {
                return Ok(File::AsItWas);
            }
            tenants.write(&file, &after)?;
        }
    }
    Ok(File::Written)
}

/// Before a line for the state in a file that is no TOML, while other lines stand first: nobody knows whether it is one, or within a
/// text of several lines.
const SET_ASIDE: &[u8] = b"#bailiwick: ";
const SUSPENDED: &[u8] = b"state = \"suspended\"\n";

fn is_of(key: &str, line: &[u8]) -> bool {
    let rest = line.trim_ascii_start().strip_prefix(key.as_bytes());
    rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
}

/// The lines for the state that [`edited_lines`] has put first, and the others as they were before.
fn taken_back(text: &[u8]) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let mut rest: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut first = Vec::new();
    if rest.first() == Some(&SUSPENDED) {
        let has_reason = rest.get(1).is_some_and(|line| is_of("suspend_reason", line));
        first = rest.drain(..1 + usize::from(has_reason)).collect();
    }
    let rest = rest.into_iter().map(|line| line.strip_prefix(SET_ASIDE).unwrap_or(line)).collect();
    (first, rest)
}

/// The same of a file that is no TOML: the lines for the state stand first, where whatever else is in the file does not keep them from
/// being read. What reads as one before the first header is set aside until the tenant is suspended no more.
fn edited_lines(before: &[u8], wanted: &Wanted) -> Vec<u8> {
    let (first, rest) = taken_back(before);
    let header = rest.iter().position(|line| line.trim_ascii_start().starts_with(b"[")).unwrap_or(rest.len());
    let (top, tables) = rest.split_at(header);
    let is_reason = |line: &&&[u8]| is_of("suspend_reason", line);
    let mut after = Vec::new();
    let is_set_aside = match wanted {
        Wanted::Suspended { reason } => {
            after.extend_from_slice(SUSPENDED);
            match reason {
                Some(reason) => {
                    after.extend_from_slice(format!("suspend_reason = {}\n", Value::from(reason)).as_bytes());
                }
                None => after.extend(first.iter().chain(top).find(is_reason).copied().into_iter().flatten()),
            }
            true
        }
        // Somebody has written it there by hand.
        Wanted::Active => {
            top.iter().any(|line| is_of("state", line) && line.windows(9).any(|word| word == b"suspended"))
        }
    };
    for line in top {
        if is_set_aside && (is_of("state", line) || is_of("suspend_reason", line)) {
            after.extend_from_slice(SET_ASIDE);
        }
        after.extend_from_slice(line);
    }
    after.extend(tables.iter().copied().flatten());
    after
}

/// The text with another state and nothing else changed.
fn edited(text: &str, wanted: &Wanted) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = text.parse()?;
    // Somebody has mended it since, and what was set aside has its place again.
    if *wanted == Wanted::Active
        && text.as_bytes().windows(SET_ASIDE.len()).any(|part| part == SET_ASIDE)
        && let Ok(whole) = String::from_utf8(taken_back(text.as_bytes()).1.concat())
        && let Ok(before) = whole.parse()
    {
        document = before;
    }
    match wanted {
        Wanted::Suspended { reason } => {
            set(&mut document, "state", "suspended");
            if let Some(reason) = reason {
                set(&mut document, "suspend_reason", reason);
            }
        }
        Wanted::Active => {
            if document.contains_key("state") {
                set(&mut document, "state", "active");
            }
            remove(&mut document, "suspend_reason");
        }
    }
    Ok(document.to_string())
}

/// Sets a key at the top, with the blanks and comments that its old value had around it.
fn set(document: &mut DocumentMut, key: &str, text: &str) {
    match document.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) if old.as_str() == Some(text) => {}
        Some(old) => {
            let mut new = Value::from(text);
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => document[key] = value(text),
    }
}

/// Removes a key at the top. The comment lines above it go to what comes next.
fn remove(document: &mut DocumentMut, key: &str) {
    let above = document.key(key).map(|key| prefix(key.leaf_decor())).unwrap_or_default();
    let next = document.iter().map(|(key, _)| key.to_owned()).skip_while(|other| other != key).nth(1);
    document.remove(key);
    match next {
        _ if !above.contains('#') => {}
        Some(next) => put_above(document.as_table_mut(), &next, &above),
        None => {
            let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
            document.set_trailing(above + &trailing);
        }
    }
}

/// Puts lines above what a key stands for: a header, or the line of a value.
fn put_above(table: &mut Table, key: &str, lines: &str) {
    let put = |decor: &mut Decor| decor.set_prefix(lines.to_owned() + &prefix(decor));
    match table.get_mut(key) {
        // `login.user = "x"` has no header: its line is that of the inner key.
        Some(Item::Table(inner)) if inner.is_dotted() => {
            let first = inner.iter().next().map(|(key, _)| key.to_owned());
            put_above(inner, &first.unwrap_or_default(), lines);
        }
        Some(Item::Table(inner)) => put(inner.decor_mut()),
        Some(Item::ArrayOfTables(tables)) => tables.iter_mut().take(1).for_each(|table| put(table.decor_mut())),
        _ => table.key_mut(key).iter_mut().for_each(|key| put(key.leaf_decor_mut())),
    }
}

fn prefix(decor: &Decor) -> String {
    decor.prefix().and_then(|text| text.as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;
    use bailiwick_proto::CONTROL_SOCKET;
    use bailiwick_proto::control::{TenantDetail, TenantState, TenantSummary};
    use bailiwick_types::IdRange;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    const ALICE: &str = "# a good customer\nplan  = \"small\"  # since May\nstate = \"active\" # for now\n\n[limits] # more\nmemory = \"2G\"\n";

    /// A configuration with one plan and the tenant alice; its runtime directory is `run` below it.
    fn config() -> TempDir {
        let temp = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, content: &str| {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
            fs::write(&path, content).expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        };
        let (state, run) = (temp.path().join("state"), temp.path().join("run"));
        write("bailiwick.toml", &format!("state_dir = {state:?}\nruntime_dir = {run:?}\n"));
        write("plans.d/small.toml", "profile = \"web\"\n");
        write("tenants.d/alice.toml", ALICE);
        temp
    }

    fn name(text: &str) -> TenantName {
        text.parse().expect("valid")
    }

    fn tenant_file(config: &TempDir, file: &str) -> Option<String> {
        fs::read_to_string(config.path().join("tenants.d").join(file)).ok()
    }

    fn wishes(plan: &str) -> Wishes {
        Wishes { plan: plan.parse().expect("valid"), profile: None, login: None, ssh_key: Vec::new() }
    }

    fn outcomes(outcomes: &[TenantOutcome]) -> Vec<ControlReply> {
        vec![ControlReply::Outcome(outcomes.to_vec())]
    }

    fn unpaid() -> Wanted {
        Wanted::Suspended { reason: Some("unpaid \"twice\"".to_owned()) }
    }

    #[test]
    fn suspending_keeps_comments_and_order() {
        let suspended = edited(ALICE, &unpaid()).expect("valid");
        let golden = "# a good customer\nplan  = \"small\"  # since May\nstate = \"suspended\" # for now\n\
                      suspend_reason = 'unpaid \"twice\"'\n\n[limits] # more\nmemory = \"2G\"\n";
        assert_eq!(suspended, golden);
        assert_eq!(edited(&suspended, &unpaid()).expect("valid"), suspended, "again is no change");
        let plain = Wanted::Suspended { reason: None };
        assert_eq!(edited(&suspended, &plain).expect("valid"), suspended, "the reason stays");
        assert_eq!(edited(&suspended, &Wanted::Active).expect("valid"), ALICE, "and back");
        assert_eq!(edited(ALICE, &Wanted::Active).expect("valid"), ALICE);
    }

    #[test]
    fn the_state_of_what_is_no_toml_stands_first() {
        let plain = Wanted::Suspended { reason: None };
        for (text, aside) in [
            (&b"plan = \"small\nmemory"[..], None),
            (b"\0\xff\xfe", None),
            (b"", None),
            (b"# [x\n  [limits\nstate = 1\n", None),
            (b"stateful = ]", None),
            (b"plan = \"small\nstate=\"active\"", Some(&b"plan = \"small\n#bailiwick: state=\"active\""[..])),
            (
                b"x = \"\"\"\n  state = 1\nsuspend_reason = 2\n\"\"\"\nplan = ]\n[a]\nstate = 2\n",
                Some(
                    b"x = \"\"\"\n#bailiwick:   state = 1\n#bailiwick: suspend_reason = 2\n\"\"\"\nplan = ]\n[a]\nstate = 2\n",
                ),
            ),
        ] {
            let suspended = edited_lines(text, &unpaid());
            let lines = &b"state = \"suspended\"\nsuspend_reason = 'unpaid \"twice\"'\n"[..];
            let golden = [lines, aside.unwrap_or(text)].concat();
            assert_eq!(suspended, golden);
            assert_eq!(edited_lines(&suspended, &unpaid()), golden, "again is no change");
            assert_eq!(edited_lines(&suspended, &plain), golden, "the reason stays");
            assert_eq!(edited_lines(&suspended, &Wanted::Active), text, "and back");
            assert_eq!(edited_lines(text, &Wanted::Active), text, "nothing is set aside for that");
        }
        let text = b"plan = \"small\nstate = \"suspended\"\nsuspend_reason = \"x\"\n[limits]\nstate = 1\n";
        let golden =
            b"state = \"suspended\"\nsuspend_reason = \"x\"\nplan = \"small\n#bailiwick: state = \"suspended\"\n\
                       #bailiwick: suspend_reason = \"x\"\n[limits]\nstate = 1\n";
        assert_eq!(edited_lines(text, &plain), golden, "what would be twice there once the file is mended is no line");
        let golden = b"plan = \"small\n#bailiwick: state = \"suspended\"\n#bailiwick: suspend_reason = \"x\"\n[limits]\nstate = 1\n";
        assert_eq!(edited_lines(text, &Wanted::Active), golden);
        assert_eq!(edited_lines(golden, &Wanted::Active), golden);
    }

    #[test]
    fn what_was_set_aside_is_back_once_the_file_was_mended() {
        let text = "plan = \"small\nnote = \"\"\"\nstate = 1\n\"\"\"\nstate = \"active\" # for now\n";
        let suspended = String::from_utf8(edited_lines(text.as_bytes(), &unpaid())).expect("text");
        let mended = suspended.replace("\"small\n", "\"small\"\n");
        assert_eq!(edited(&mended, &Wanted::Active).expect("valid"), text.replace("\"small\n", "\"small\"\n"));
    }

    #[test]
    fn a_state_that_was_not_written_goes_before_the_tables() {
        let text = "plan = \"small\"\n\n# limits\n[limits]\nmemory = \"2G\"\n[[service]]\nname = \"web\"\n";
        let suspended = edited(text, &Wanted::Suspended { reason: None }).expect("valid");
        assert_eq!(suspended, text.replace("small\"\n", "small\"\nstate = \"suspended\"\n"));
        assert_eq!(edited(text, &Wanted::Active).expect("valid"), text);
        assert!(edited("plan = ", &Wanted::Active).is_err());
    }

    #[test]
    fn comments_above_the_reason_outlive_it() {
        let before = |rest: &str| format!("plan = \"p\"\n# called on the 3rd\nsuspend_reason = \"unpaid\"\n{rest}");
        let after = |rest: &str| format!("plan = \"p\"\n# called on the 3rd\n{rest}");
        for rest in [
            "",
            "image = \"host\"\n",
            "# x\n[limits]\ntasks = 1\n",
            "[[service]]\nname = \"a\"\n",
            "login.user = \"u\"\n",
        ] {
            assert_eq!(edited(&before(rest), &Wanted::Active).expect("valid"), after(rest));
        }
    }

    #[test]
    fn a_declaration_has_what_was_wished() {
        assert_eq!(declaration(&wishes("small")), "plan = \"small\"\nstate = \"active\"\n");
        let all = Wishes {
            profile: Some(bailiwick_types::Profile::Shell),
            login: Some("al".parse().expect("valid")),
            ssh_key: vec!["ssh-ed25519 AAAA a".to_owned(), " ssh-ed25519 BBBB b\n".to_owned()],
            ..wishes("small")
        };
        let golden = "plan = \"small\"\nstate = \"active\"\nprofile = \"shell\"\n\n[login]\nuser = \"al\"\n\
                      ssh_keys = [\"ssh-ed25519 AAAA a\", \"ssh-ed25519 BBBB b\"]\n";
        assert_eq!(declaration(&all), golden);
    }

    #[test]
    fn create_works_without_the_daemon_and_refuses_what_is_there() {
        let config = config();
        let create = |tenant: &str, plan: &str| create(config.path(), name(tenant), &wishes(plan), Form::Text);
        assert_eq!(create("bob", "small"), Ok(ExitStatus::Done));
        let path = config.path().join("tenants.d/bob.toml");
        assert_eq!(fs::metadata(&path).expect("written").permissions().mode() & 0o7777, 0o644);
        assert_eq!(create("bob", "small").expect_err("exists").status, ExitStatus::Conflict);
        let failure = create("carol", "huge").expect_err("no plan");
        assert_eq!(failure.status, ExitStatus::NotFound);
        assert!(failure.message.contains("no plan \"huge\""), "{}", failure.message);
        assert_eq!(tenant_file(&config, "carol.toml"), None);
    }

    #[test]
    fn what_does_not_read_as_a_tenant_is_taken_back() {
        let config = config();
        let bad = Wishes { ssh_key: vec!["no key".to_owned()], ..wishes("small") };
        let failure = create(config.path(), name("bob"), &bad, Form::Text).expect_err("no key");
        assert_eq!(failure.status, ExitStatus::Invalid);
        assert_eq!(tenant_file(&config, "bob.toml"), None);

        let tenants = Tenants::open(config.path()).expect("opens");
        let failure = tenants.install(&name("alice"), "plan = \"huge\"\n").expect_err("no plan");
        assert_eq!(failure.status, ExitStatus::Invalid);
        assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(ALICE));
    }

    fn shown(state: TenantState, ids: Option<IdRange>) -> Vec<ControlReply> {
        let detail = TenantDetail {
            summary: TenantSummary {
                name: name("bob"),
                state,
                plan: None,
                image: None,
                profile: None,
                invalid: false,
                failure: None,
            },
            suspend_reason: None,
            pid: None,
            init_version: Some(2),
            ids,
            cgroup: BTreeMap::new(),
            login: None,
            host_user: None,
            doors: Vec::new(),
            suspended_doors: Vec::new(),
            limits: Vec::new(),
            memory: None,
        };
        vec![ControlReply::Show(Box::new(detail))]
    }

    const IDS: IdRange = IdRange { first: 1 << 20, count: 65_536 };

    fn answers(status: ExitStatus) -> Vec<ControlReply> {
        vec![ControlReply::Failed(Failure::of(status, "so it is"))]
    }

    #[test]
    fn what_is_taken_back_is_purged_only_where_nothing_was_before() {
        let bob = name("bob");
        for (said, is_purged) in [
            (answers(ExitStatus::NotFound), true),
            (shown(TenantState::Deleted, Some(IDS)), false),
            // The daemon has not read yet that the file is gone.
            (shown(TenantState::Running, Some(IDS)), false),
            (shown(TenantState::Down, None), false),
        ] {
            let config = config();
            let failed =
                TenantOutcome { failure: Some(Failure::of(ExitStatus::HostCannot, "no")), ..outcome(&bob, "") };
            let told = vec![said, outcomes(&[failed]), outcomes(&[]), outcomes(&[]), outcomes(&[])];
            let (daemon, served) = fake(&config.path().join("run"), told);
            assert_eq!(create(config.path(), bob.clone(), &wishes("small"), Form::Text), Ok(ExitStatus::HostCannot));
            let last = if is_purged {
                ControlRequest::Purge { tenant: bob.clone() }
            } else {
                ask(&daemon, &ControlRequest::Reload).expect("nothing was asked meanwhile");
                ControlRequest::Reload
            };
            let asked = served.join().expect("served");
            assert_eq!(asked[3..], [ControlRequest::Reload, last]);
            assert_eq!(tenant_file(&config, "bob.toml"), None);
        }
    }

    #[test]
    fn nothing_is_created_where_nobody_knows_what_was_before() {
        let config = config();
        let (_, served) = fake(&config.path().join("run"), vec![answers(ExitStatus::Failed)]);
        let failure = create(config.path(), name("bob"), &wishes("small"), Form::Text).expect_err("refused");
        assert_eq!(failure, Failure::of(ExitStatus::Failed, "so it is"));
        assert_eq!(served.join().expect("served"), [ControlRequest::Show { tenant: name("bob") }]);
        assert_eq!(tenant_file(&config, "bob.toml"), None);
    }

    #[test]
    fn data_that_was_kept_is_back_and_the_jail_is_started() {
        let config = config();
        let (_, served) = fake(
            &config.path().join("run"),
            vec![shown(TenantState::Deleted, Some(IDS)), outcomes(&[]), outcomes(&[outcome(&name("bob"), "started")])],
        );
        assert_eq!(create(config.path(), name("bob"), &wishes("small"), Form::Text), Ok(ExitStatus::Done));
        let asked = served.join().expect("served");
        assert_eq!(asked[1], ControlRequest::Apply { tenants: vec![name("bob")], now: false, restart: false });
        assert_eq!(asked[2], ControlRequest::Lifecycle { verb: Verb::Start, tenants: vec![name("bob")] });
    }

    #[test]
    fn delete_sets_the_file_aside_and_purge_removes_it_for_good() {
        let config = config();
        let alice = name("alice");
        let purge = ControlRequest::Purge { tenant: alice.clone() };
        let refused =
            TenantOutcome { failure: Some(Failure::of(ExitStatus::Refused, "it runs")), ..outcome(&alice, "") };
        let (_, served) = fake(
            &config.path().join("run"),
            vec![
                outcomes(&[outcome(&alice, "stopped")]),
                outcomes(&[]),
                outcomes(&[refused]),
                outcomes(&[outcome(&alice, "purged")]),
            ],
        );
        let delete = |data| delete(config.path(), &alice, data, Form::Text);
        assert_eq!(delete(Data::Keep), Ok(ExitStatus::Done));
        assert_eq!(tenant_file(&config, "alice.toml"), None);
        assert_eq!(tenant_file(&config, ".alice.toml.deleted").as_deref(), Some(ALICE));
        assert!(bailiwick_policy::read(config.path()).diagnostics.is_empty());

        let again = delete(Data::Keep).expect_err("deleted already");
        assert_eq!(again.status, ExitStatus::NotFound);
        assert!(again.message.contains("--purge"), "{}", again.message);

        assert_eq!(delete(Data::Destroy), Ok(ExitStatus::Refused));
        assert!(tenant_file(&config, ".alice.toml.deleted").is_some(), "kept until the data is gone");
        assert_eq!(delete(Data::Destroy), Ok(ExitStatus::Done));
        assert_eq!(tenant_file(&config, ".alice.toml.deleted"), None);

        let asked = served.join().expect("served");
        let stop = ControlRequest::Lifecycle { verb: Verb::Stop, tenants: vec![alice.clone()] };
        assert_eq!(asked, [stop, ControlRequest::Reload, purge.clone(), purge]);
    }

    #[test]
    fn nothing_is_deleted_when_the_jail_cannot_be_stopped() {
        let config = config();
        let alice = name("alice");
        assert_eq!(
            delete(config.path(), &alice, Data::Destroy, Form::Text).expect_err("no daemon").status,
            ExitStatus::Failed
        );
        let stuck =
            TenantOutcome { failure: Some(Failure::of(ExitStatus::Failed, "it does not die")), ..outcome(&alice, "") };
        let (_, served) = fake(&config.path().join("run"), vec![outcomes(&[stuck])]);
        let failure = delete(config.path(), &alice, Data::Destroy, Form::Text).expect_err("stuck");
        assert_eq!(failure.message, "it does not die");
        served.join().expect("served");
        assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(ALICE));
    }

    #[test]
    fn suspending_tells_the_daemon_and_counts_each_tenant() {
        let config = config();
        let (alice, ghost) = (name("alice"), name("ghost"));
        let (_, served) = fake(
            &config.path().join("run"),
            vec![outcomes(&[outcome(&alice, "stopped")]), outcomes(&[]), outcomes(&[])],
        );
        let set = |names: &[TenantName], wanted: &Wanted| set_state(config.path(), names, wanted, Form::Text);
        assert_eq!(set(std::slice::from_ref(&alice), &unpaid()), Ok(ExitStatus::Done));
        assert!(tenant_file(&config, "alice.toml").expect("is there").contains("state = \"suspended\""));
        assert_eq!(set(std::slice::from_ref(&alice), &unpaid()), Ok(ExitStatus::Done), "again");
        assert_eq!(set(&[ghost.clone(), alice.clone()], &Wanted::Active), Ok(ExitStatus::Partly));
        assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(ALICE));
        let asked = served.join().expect("served");
        assert!(asked.iter().all(
            |request| *request == ControlRequest::Apply { tenants: vec![alice.clone()], now: true, restart: false }
        ));

        assert_eq!(set(std::slice::from_ref(&ghost), &unpaid()), Ok(ExitStatus::NotFound));
        fs::remove_file(config.path().join("run").join(CONTROL_SOCKET)).expect("removes");
        assert_eq!(set(&[alice], &unpaid()), Ok(ExitStatus::Partly), "the jail still runs");
    }

    #[test]
    fn two_commands_do_not_change_the_files_at_once() {
        let config = config();
        let first = Tenants::open(config.path()).expect("opens");
        let path = config.path().to_owned();
        let second = std::thread::spawn(move || Tenants::open(&path).map(drop));
        std::thread::sleep(PAUSE * 3);
        assert!(!second.is_finished());
        drop(first);
        assert_eq!(second.join().expect("ends"), Ok(()));
    }
}
