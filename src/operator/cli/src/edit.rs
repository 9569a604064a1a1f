//! `set` and `edit`: changes a file of the configuration directory, after a check of all that `check` refuses, and applies it.
//!
//! Danger: the warden does as root what these files say, and they hold hashes of passwords. A copy for an editor is in a folder
//! that only its user can enter, and is there only while the editor runs.

use crate::change::{Printed, ask, print_outcomes, warn_about_host};
use crate::configuration;
use crate::output::{self, Form};
use crate::table::render;
use crate::tenant::failure;
use bailiwick_client::AskError;
use bailiwick_declare::{AssignError, Assignment, ConfigFile, FlatValue, TenantFiles, assign, flat, keys};
use bailiwick_policy::{Diagnostic, Policy, Proposed, Reading, Severity};
use bailiwick_proto::control::TenantOutcome;
use bailiwick_proto::{ControlRequest, Failure};
use bailiwick_sys::process::{self, unblock_signals};
use bailiwick_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals, unblock_all};
use bailiwick_sys::stream::{self, Interest};
use bailiwick_types::{ExitStatus, TenantName};
use rustix::process::Signal;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// What is shown in place of a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// What follows a valid change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: the change is shown, and the file stays as it is.
    Nothing,
    /// The file is written.
    Write,
    /// The file is written, and the change is applied.
    Apply,
}

impl Then {
    pub(crate) fn of(no_apply: bool) -> Self {
        if no_apply { Self::Write } else { Self::Apply }
    }
}

/// One changed value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ValueChange {
    /// The key.
    what: String,
    /// The value in force before; null when there was none.
    before: Option<String>,
    /// The value in force after; null when there is none.
    after: Option<String>,
}

/// What `set --json` and `edit --json` print.
#[derive(Debug, Serialize)]
struct Report {
    /// The file, below the configuration directory.
    file: PathBuf,
    /// Whether the file was written.
    written: bool,
    /// The values that differ.
    changes: Vec<ValueChange>,
    /// What was done for each tenant; missing when nothing was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<Vec<TenantOutcome>>,
}

/// `bailiwick set`.
pub(crate) fn set(
    config: &Path,
    tenant: TenantName,
    changes: &[String],
    unset: &[String],
    then: Then,
    form: Form,
) -> Result<ExitStatus, Failure> {
    let mut wanted: Vec<Assignment> = Vec::new();
    for change in changes {
        wanted.push(change.parse().map_err(|error: AssignError| wrong(&error))?);
    }
    for key in unset {
        wanted.push(Assignment { key: keys::find(key).map_err(|error| wrong(&error))?, value: None });
    }
    let file = ConfigFile::Tenant(tenant);
    let files = TenantFiles::open(config).map_err(failure)?;
    let before = files.content(&file).map_err(failure)?;
    let text = std::str::from_utf8(&before).map_err(|error| wrong(&error))?;
    let reading = bailiwick_policy::read(config);
    let effective = |key: &str| {
        let values = values_of(reading.policy.as_ref(), &file)?;
        values.into_iter().find(|(path, _)| path == key).map(|(_, value)| value)
    };
    let after = assign(text, &wanted, effective).map_err(|error| wrong(&error))?.into_bytes();
    let proposed = Proposed { file: file.path(), content: after };
    refuse(config, &proposed)?;
    let changes = compare(&reading, &before, &bailiwick_policy::read_proposed(config, &proposed), &proposed, &file);
    let is_written = then != Then::Nothing && proposed.content != before;
    if is_written {
        files.replace(&file, &before, &proposed.content).map_err(failure)?;
    }
    drop(files);
    if proposed.content == before {
        output::complain("nothing was changed: the file has these values already");
    }
    finish(config, &file, changes, is_written, then, form)
}

/// `bailiwick edit`.
pub(crate) fn edit(config: &Path, file: &ConfigFile, then: Then, form: Form) -> Result<ExitStatus, Failure> {
    // Nobody should lose an hour of work to a missing right.
    rustix::fs::access(config, rustix::fs::Access::WRITE_OK).map_err(|error| {
        let error = io::Error::from(error);
        Failure::of(
            ExitStatus::Failed,
            format!("\"{}\" cannot be changed: {error}; run this as root", config.display()),
        )
    })?;
    let before = TenantFiles::open(config).and_then(|files| files.content(file)).map_err(failure)?;
    let mut content = before.clone();
    let proposed = loop {
        content = edited(&file.path(), &content)?;
        if content == before {
            output::complain("nothing was changed");
            return finish(config, file, Vec::new(), false, Then::Nothing, form);
        }
        let proposed = Proposed { file: file.path(), content: content.clone() };
        match refuse(config, &proposed) {
            Ok(()) => break proposed,
            Err(failure) => {
                output::complain(&failure.message);
                if !wants_again()? {
                    return Err(Failure::of(ExitStatus::Invalid, "the copy was discarded, and the file is as it was"));
                }
            }
        }
    };
    let reading = bailiwick_policy::read(config);
    let after = bailiwick_policy::read_proposed(config, &proposed);
    let changes = compare(&reading, &before, &after, &proposed, file);
    let written = TenantFiles::open(config).and_then(|files| files.replace(file, &before, &proposed.content));
    if let Err(error) = written {
        let mut failure = failure(error);
        let (folder, _) = copy(&file.path(), &content).map_err(no_copy)?;
        failure.message.push_str(&format!("; your copy is in \"{}\"", folder.keep().display()));
        return Err(failure);
    }
    finish(config, file, changes, true, then, form)
}

/// The failure of a command that was asked for something that is no valid change.
fn wrong(error: &(impl std::error::Error + 'static)) -> Failure {
    Failure::new(ExitStatus::Invalid, error)
}

/// Fails if the change makes something wrong: an error in the changed file, or one elsewhere that is not there now.
fn refuse(config: &Path, proposed: &Proposed) -> Result<(), Failure> {
    let after = configuration::check_proposed(config, proposed)?;
    let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
    if !after.iter().any(|diagnostic| is_error(&diagnostic)) {
        return Ok(());
    }
    let before = configuration::check_now(config)?;
    let of_file = bailiwick_policy::read_proposed(config, proposed).diagnostics;
    let path = config.join(&proposed.file);
    // A line may have moved, so its number does not count.
    let is_new = |diagnostic: &&Diagnostic| {
        let is_same = |other: &Diagnostic| other.file == diagnostic.file && other.message == diagnostic.message;
        diagnostic.file == path && of_file.contains(diagnostic) || !before.iter().any(is_same)
    };
    let new: Vec<Diagnostic> = after.iter().filter(is_error).filter(is_new).cloned().collect();
    if new.is_empty() { Ok(()) } else { Err(configuration::invalid(&new)) }
}

/// Prints the changes, and applies them.
fn finish(
    config: &Path,
    file: &ConfigFile,
    changes: Vec<ValueChange>,
    is_written: bool,
    then: Then,
    form: Form,
) -> Result<ExitStatus, Failure> {
    if form == Form::Text && !changes.is_empty() {
        output::print(&changes_text(&changes))?;
    }
    let (outcomes, status) =
        if is_written && then == Then::Apply { apply(config, file)? } else { (None, ExitStatus::Done) };
    if form == Form::Json {
        output::print_json(&Report { file: file.path(), written: is_written, changes, outcomes: outcomes.clone() })?;
    }
    let Some(outcomes) = outcomes else { return Ok(status) };
    let applied = match form {
        Form::Text => print_outcomes(&outcomes, Printed::Changes, form)?,
        Form::Json => bailiwick_proto::control::overall(&outcomes),
    };
    Ok(if status == ExitStatus::Done { applied } else { status })
}

/// Applies the change of a file to everybody it concerns.
fn apply(config: &Path, file: &ConfigFile) -> Result<(Option<Vec<TenantOutcome>>, ExitStatus), Failure> {
    let daemon = match configuration::daemon(config) {
        Ok(daemon) => daemon,
        Err(failure) => {
            output::complain(&format!("the file is written, and not applied: {}", failure.message));
            return Ok((None, ExitStatus::Partly));
        }
    };
    let tenants = match file {
        ConfigFile::Host => Vec::new(),
        ConfigFile::Tenant(tenant) => vec![tenant.clone()],
        ConfigFile::Plan(_) => tenants_of(config, file),
    };
    let concerns_nobody = tenants.is_empty() && *file != ConfigFile::Host;
    let request = if concerns_nobody {
        ControlRequest::Reload
    } else {
        ControlRequest::Apply { tenants: tenants.clone(), now: false, restart: false }
    };
    match ask(&daemon, &request) {
        Ok(outcomes) => {
            warn_about_host(&daemon, &outcomes);
            let status = configuration::report_problems(config, &tenants, ExitStatus::Done);
            Ok((Some(outcomes), status))
        }
        // Errors of other files are no failure of this change.
        Err(AskError::Failed(failure)) if concerns_nobody && failure.status == ExitStatus::Invalid => {
            Ok((None, ExitStatus::Done))
        }
        Err(error @ AskError::Failed(_)) => Err(error.into()),
        Err(error) => {
            output::complain(&format!("the file is written, and not applied: {}", Failure::from(error)));
            Ok((None, ExitStatus::Partly))
        }
    }
}

/// The tenants that have a plan, or one that inherits from it.
fn tenants_of(config: &Path, file: &ConfigFile) -> Vec<TenantName> {
    let (ConfigFile::Plan(plan), Some(policy)) = (file, bailiwick_policy::read(config).policy) else {
        return Vec::new();
    };
    let mut plans = BTreeSet::from([plan]);
    // A plan may come before the one that it inherits from.
    for _ in 0..policy.plans.len() {
        let inherits = |parent: &Option<_>| parent.as_ref().is_some_and(|parent| plans.contains(parent));
        let more: Vec<_> = policy.plans.values().filter(|plan| inherits(&plan.parent)).map(|plan| &plan.name).collect();
        let count = plans.len();
        plans.extend(more);
        if plans.len() == count {
            break;
        }
    }
    policy.tenants.values().filter(|tenant| plans.contains(&tenant.plan)).map(|tenant| tenant.name.clone()).collect()
}

/// The values in force that differ. What cannot be read has the values that are written in it.
fn compare(
    before: &Reading,
    text_before: &[u8],
    after: &Reading,
    proposed: &Proposed,
    file: &ConfigFile,
) -> Vec<ValueChange> {
    let written = |text: &[u8]| by_path(flat(&String::from_utf8_lossy(text)));
    let (before, after) = match (values_of(before.policy.as_ref(), file), values_of(after.policy.as_ref(), file)) {
        (Some(before), Some(after)) => (before, after),
        _ => (written(text_before), written(&proposed.content)),
    };
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |path: &&&String| before.get(**path) != after.get(**path);
    let shown = |path: &str, value: Option<&String>| {
        value.map(|value| if is_secret(path) { HIDDEN.to_owned() } else { value.clone() })
    };
    paths
        .iter()
        .filter(differs)
        .map(|path| ValueChange {
            what: (*path).clone(),
            before: shown(path, before.get(*path)),
            after: shown(path, after.get(*path)),
        })
        .collect()
}

pub(crate) fn is_secret(path: &str) -> bool {
    path.starts_with("ftp.") && path.ends_with(".password")
}

/// All values of a file as they are in force, with what it inherits.
pub(crate) fn values_of(policy: Option<&Policy>, file: &ConfigFile) -> Option<BTreeMap<String, String>> {
    let policy = policy?;
    let mut one = Policy { host: policy.host.clone(), plans: BTreeMap::new(), tenants: BTreeMap::new() };
    match file {
        ConfigFile::Host => {}
        ConfigFile::Plan(plan) => one.plans.extend([(plan.clone(), policy.plans.get(plan)?.clone())]),
        ConfigFile::Tenant(tenant) => {
            let declared = policy.tenants.get(tenant)?.clone();
            one.tenants = [(tenant.clone(), declared)].into_iter().collect();
        }
    }
    let files = bailiwick_policy::dump(&one);
    let (_, text) = files.iter().find(|(path, _)| *path == file.path())?;
    Some(by_path(flat(text)))
}

fn by_path(values: Vec<FlatValue>) -> BTreeMap<String, String> {
    values.into_iter().map(|FlatValue { path, value, .. }| (path.join("."), value)).collect()
}

fn changes_text(changes: &[ValueChange]) -> String {
    let cell = |value: &Option<String>| value.clone().unwrap_or_default();
    let row = |change: &ValueChange| vec![change.what.clone(), cell(&change.before), cell(&change.after)];
    render(&["WHAT", "BEFORE", "AFTER"], changes.iter().map(row))
}

/// The editor that the user wants, with its arguments.
fn editor() -> OsString {
    let wanted = |name| std::env::var_os(name).filter(|editor| !editor.is_empty());
    wanted("VISUAL").or_else(|| wanted("EDITOR")).unwrap_or_else(|| {
        let known = ["/usr/bin/sensible-editor", "/usr/bin/editor", "/usr/bin/nano"];
        known.into_iter().find(|editor| Path::new(editor).exists()).unwrap_or("vi").into()
    })
}

fn no_copy(error: io::Error) -> Failure {
    Failure::new(ExitStatus::Failed, &NoCopy(error))
}

#[derive(Debug, thiserror::Error)]
#[error("cannot make a copy to edit")]
struct NoCopy(#[source] io::Error);

/// Makes a copy of a file in a folder that goes with the returned value.
fn copy(file: &Path, content: &[u8]) -> io::Result<(TempDir, PathBuf)> {
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix("bailiwick-edit.").permissions(Permissions::from_mode(0o700)).tempdir()?;
    let path = folder.path().join(file.file_name().unwrap_or_default());
    std::fs::write(&path, content)?;
    Ok((folder, path))
}

/// What an editor makes of the content of a file. Whatever ends this command, no copy is left.
fn edited(file: &Path, content: &[u8]) -> Result<Vec<u8>, Failure> {
    let signals = Signals::block(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(no_copy)?;
    let after = copy(file, content).map_err(no_copy).and_then(|(folder, path)| {
        run_editor(&path, &signals)?;
        let after = std::fs::read(&path).map_err(no_copy)?;
        folder.close().map_err(no_copy)?;
        Ok(after)
    });
    unblock_all().map_err(no_copy)?;
    after
}

/// Runs the editor until it ends. Keys that would end a program are the editor's alone.
fn run_editor(copy: &Path, signals: &Signals) -> Result<(), Failure> {
    let editor = editor();
    let shown = editor.to_string_lossy().into_owned();
    let cannot = |error: io::Error| {
        Failure::of(
            ExitStatus::Failed,
            format!("cannot run the editor \"{shown}\": {error}; set EDITOR to another one"),
        )
    };
    // $EDITOR may have arguments, so a shell takes it apart.
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("exec $BAILIWICK_EDITOR \"$1\"").arg("sh").arg(copy).env("BAILIWICK_EDITOR", &editor);
    unblock_signals(&mut command);
    let mut child = command.spawn().map_err(cannot)?;
    let pidfd = process::open(child.id()).map_err(cannot)?;
    let mut is_ended = false;
    while !process::has_ended(&pidfd, Duration::ZERO).map_err(cannot)? {
        stream::wait(&[(signals.as_fd(), Interest::Read), (pidfd.as_fd(), Interest::Read)], None).map_err(cannot)?;
        while let Some(number) = signals.take().map_err(cannot)? {
            if [SIGHUP, SIGTERM].contains(&number) {
                is_ended = true;
                // It may have ended meanwhile, and that is what is wanted.
                process::signal(&pidfd, Signal::TERM).ok();
            }
        }
    }
    let status = child.wait().map_err(cannot)?;
    if is_ended {
        return Err(Failure::of(ExitStatus::Failed, "ended by a signal: nothing is changed"));
    }
    if status.success() {
        return Ok(());
    }
    let message = format!("the editor \"{shown}\" failed ({status}), so nothing is changed; set EDITOR to another one");
    Err(Failure::of(ExitStatus::Failed, message))
}

/// Asks what to do with a copy that has errors. The end of the input discards it.
fn wants_again() -> Result<bool, Failure> {
    let mut stdin = io::stdin().lock();
    loop {
        output::complain_raw("The file is not written. (e)dit it again, or (d)iscard the changes? ");
        let mut answer = String::new();
        let read = stdin.read_line(&mut answer);
        let length =
            read.map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot read the answer: {error}")))?;
        match answer.trim() {
            "e" | "edit" => return Ok(true),
            "d" | "discard" => return Ok(false),
            _ if length == 0 => return Ok(false),
            _ => {}
        }
    }
}
