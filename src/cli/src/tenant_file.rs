//! `create`, `delete`, `suspend` and `unsuspend`: the operator's own files in `tenants.d`.
//!
//! A file is written whole or not at all, read back as the daemons will read it, and put back as it was when they
//! could not. Comments and order of a file that a person wrote stay.
//!
//! Danger: the warden does as root what these files say. `delete` destroys nothing without `--purge`.

use crate::arguments::Wishes;
use crate::change::{Telling, ask, tell};
use crate::configuration;
use crate::daemon::{AskError, Daemon};
use crate::output::{self, Form};
use bailiwick_proto::control::{TenantOutcome, TenantState, Verb};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_sys::file;
use bailiwick_types::{ExitStatus, PlanName, TenantName};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml_edit::{Array, DocumentMut, Item, Table, Value, value};

const MODE: u32 = 0o644;
const MAX_FILE: usize = 1 << 20;
/// How often and how long another command is waited for; it holds the lock for as long as one file takes.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

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
        file::replace_at(&self.dir, file, content, MODE).map_err(|error| failed("write", &self.path(file), &error))
    }

    fn remove(&self, file: &str) -> Result<(), Failure> {
        file::remove_file_at(&self.dir, file).map_err(|error| failed("remove", &self.path(file), &error))
    }

    /// Writes a tenant's file, and puts back what was there when it does not read as a tenant.
    fn install(&self, name: &TenantName, content: &str) -> Result<(), Failure> {
        let file = file_of(name);
        let before = self.read(&file)?;
        self.write(&file, content.as_bytes())?;
        let Err(diagnostics) = bailiwick_policy::read_tenant(&self.config, name) else {
            return Ok(());
        };
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
    let has_data = matches!(
        daemon.ask(&ControlRequest::Show { tenant: name.clone() }),
        Ok(ControlReply::Show(detail)) if detail.summary.state == TenantState::Deleted
    );
    let tenants = Tenants::open(config)?;
    let file = tenants.path(&file_of(&name));
    if tenants.holds(&file_of(&name))? {
        let message = format!("the tenant \"{name}\" exists already: \"{}\"", file.display());
        return Err(Failure::of(ExitStatus::Conflict, message));
    }
    tenants.require_plan(&wishes.plan)?;
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

    match ask(&daemon, &ControlRequest::Apply { tenants: vec![name.clone()] }) {
        // A deleted tenant was stopped by the operator and is held down until it is started by the operator.
        Ok(outcomes) if has_data && outcomes.iter().all(|outcome| outcome.failure.is_none()) => {
            let start = ControlRequest::Lifecycle { verb: Verb::Start, tenants: vec![name] };
            tell(&ask(&daemon, &start)?, Telling::Nothing, form)
        }
        Ok(outcomes) => tell(&outcomes, Telling::Nothing, form),
        Err(error) if error.is_no_answer() => {
            output::complain(&format!("the file is written, the jail is not started: {}", Failure::from(error)));
            tell(&[outcome(&name, "written")], Telling::Nothing, form)
        }
        Err(error) => Err(error.into()),
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
        // What else the daemon finds in its files is not this command's business; it is in `status`.
        ask(&daemon, &ControlRequest::Reload)?;
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
    let (mut outcomes, mut written) = (Vec::new(), Vec::new());
    for name in names {
        match declare(&tenants, name, wanted) {
            Ok(()) => written.push(name.clone()),
            Err(failure) => outcomes.push(TenantOutcome { failure: Some(failure), ..outcome(name, "unchanged") }),
        }
    }
    drop(tenants);
    if written.is_empty() {
        return tell(&outcomes, Telling::Nothing, form);
    }
    match ask(&daemon, &ControlRequest::Apply { tenants: written.clone() }) {
        Ok(applied) => {
            let untouched = |name: &&TenantName| applied.iter().all(|outcome| outcome.tenant != **name);
            outcomes.extend(written.iter().filter(untouched).map(|name| outcome(name, "unchanged")));
            outcomes.extend(applied);
            tell(&outcomes, Telling::Nothing, form)
        }
        Err(error) if matches!(error, AskError::Failed(_)) => Err(error.into()),
        // The files say one thing and the jails another until the daemon is back: that is not all that was asked for.
        Err(error) => {
            output::complain(&format!("the files are written, the jails are as they were: {}", Failure::from(error)));
            outcomes.extend(written.iter().map(|name| outcome(name, "written")));
            tell(&outcomes, Telling::Nothing, form)?;
            Ok(ExitStatus::Partly)
        }
    }
}

/// Writes the wanted state to a tenant's file, if it does not say so already.
fn declare(tenants: &Tenants, name: &TenantName, wanted: &Wanted) -> Result<(), Failure> {
    let file = file_of(name);
    let invalid = |error: &dyn std::fmt::Display| {
        let path = tenants.path(&file);
        Failure::of(ExitStatus::Invalid, format!("cannot change \"{}\": {error}", path.display()))
    };
    let before = tenants.read(&file)?.ok_or_else(|| no_tenant(name))?;
    let before = String::from_utf8(before).map_err(|error| invalid(&error))?;
    let after = edited(&before, wanted).map_err(|error| invalid(&error))?;
    if after == before { Ok(()) } else { tenants.install(name, &after) }
}

/// The text with another state and nothing else changed.
fn edited(text: &str, wanted: &Wanted) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = text.parse()?;
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
    let prefix = |decor: &toml_edit::Decor| decor.prefix().and_then(|text| text.as_str()).unwrap_or("").to_owned();
    let above = document.key(key).map(|key| prefix(key.leaf_decor())).unwrap_or_default();
    let next = document.iter().map(|(key, _)| key.to_owned()).skip_while(|other| other != key).nth(1);
    document.remove(key);
    if !above.contains('#') {
        return;
    }
    let Some(next) = next else {
        let trailing = document.trailing().as_str().unwrap_or("").to_owned();
        document.set_trailing(above + &trailing);
        return;
    };
    let decor = match document.get_mut(&next) {
        Some(Item::Table(table)) if !table.is_dotted() => Some(table.decor_mut()),
        Some(Item::ArrayOfTables(tables)) => tables.get_mut(0).map(Table::decor_mut),
        _ => None,
    };
    match decor {
        Some(decor) => decor.set_prefix(above + &prefix(decor)),
        None => {
            if let Some(mut key) = document.key_mut(&next) {
                let decor = key.leaf_decor_mut();
                decor.set_prefix(above + &prefix(decor));
            }
        }
    }
}
