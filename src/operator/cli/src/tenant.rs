//! `create`, `delete`, `suspend` and `unsuspend`: changes files in `tenants.d`, asks the daemon to apply them, and prints the outcome.
//!
//! Danger: without `--purge`, `delete` destroys no data. `create` removes only what it created itself.

mod create;

pub(crate) use create::create;

use crate::before::{BeforeHooks, Hooks};
use crate::change::{Printed, ask, print_outcomes};
use crate::configuration;
use crate::output::{self, Form};
use bailiwick_client::{AskError, Daemon};
use bailiwick_declare::{DaemonRequests, DeclareError, Deletion, FileChange, StateChange, TenantFiles};
use bailiwick_proto::control::{Done, TenantOutcome, Verb};
use bailiwick_proto::{ControlRequest, Failure};
use bailiwick_types::{EventData, EventType, EventValue, ExitStatus, TenantName};
use std::collections::BTreeSet;
use std::path::Path;

/// What becomes of a deleted tenant's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// It is kept.
    Keep,
    /// It is destroyed.
    Destroy,
}

/// The failure of a command because of an error with a tenant's file.
pub(crate) fn failure(error: DeclareError) -> Failure {
    let status = match &error {
        DeclareError::Locked { .. } | DeclareError::Exists { .. } | DeclareError::Changed { .. } => {
            ExitStatus::Conflict
        }
        DeclareError::NoPlan { .. } | DeclareError::NoTenant { .. } => ExitStatus::NotFound,
        DeclareError::Invalid { diagnostics, not_restored } => {
            let mut failure = configuration::invalid(diagnostics);
            if let Some(left) = not_restored {
                let left = Failure::new(failure.status, left.as_ref());
                failure.message.push_str(&format!("\nand the file could not be restored: {left}"));
            }
            return failure;
        }
        DeclareError::Open { .. }
        | DeclareError::Inspect { .. }
        | DeclareError::Read { .. }
        | DeclareError::Write { .. }
        | DeclareError::Remove { .. } => ExitStatus::Failed,
    };
    Failure::new(status, &error)
}

/// The requests that multi-step changes of files send to the daemon.
struct Requests<'a>(&'a Daemon);

/// Why a multi-step change stopped.
struct Stopped(Failure);

impl From<DeclareError> for Stopped {
    fn from(error: DeclareError) -> Self {
        Self(failure(error))
    }
}

impl DaemonRequests for Requests<'_> {
    type Error = Stopped;

    fn stop(&self, tenant: &TenantName) -> Result<(), Stopped> {
        unless_missing(ask(self.0, &ControlRequest::Lifecycle { verb: Verb::Stop, tenants: vec![tenant.clone()] }))
    }

    /// Ignores errors in other files: they do not concern this command, and `status` shows them.
    fn reload(&self) -> Result<(), Stopped> {
        match ask(self.0, &ControlRequest::Reload) {
            Err(AskError::Failed(failure)) if failure.status == ExitStatus::Invalid => Ok(()),
            other => other.map(drop).map_err(|error| Stopped(error.into())),
        }
    }

    fn purge(&self, tenant: &TenantName) -> Result<(), Stopped> {
        unless_missing(ask(self.0, &ControlRequest::Purge { tenant: tenant.clone() }))
    }
}

/// Fails with the first failure among the outcomes, except "not found": a missing tenant needs no change.
fn unless_missing(answer: Result<Vec<TenantOutcome>, AskError>) -> Result<(), Stopped> {
    let failure = match answer {
        Ok(outcomes) => outcomes.into_iter().find_map(|outcome| outcome.failure),
        Err(error) => Some(error.into()),
    };
    match failure {
        Some(failure) if failure.status != ExitStatus::NotFound => Err(Stopped(failure)),
        _ => Ok(()),
    }
}

fn outcome(tenant: &TenantName, done: Done) -> TenantOutcome {
    TenantOutcome { tenant: tenant.clone(), done, failure: None }
}

/// `bailiwick delete`. Data is destroyed only after the file is set aside and the daemon has reloaded.
pub(crate) fn delete(
    config: &Path,
    name: &TenantName,
    data: Data,
    hooks: Hooks,
    form: Form,
) -> Result<ExitStatus, Failure> {
    let daemon = configuration::daemon(config)?;
    let hooks = BeforeHooks::read(config, hooks)?;
    if hooks.are_for(EventType::TenantDeleted) && (data == Data::Destroy || is_declared(config, name)?) {
        let purge = EventData::from([("purge".to_owned(), EventValue::Flag(data == Data::Destroy))]);
        hooks.ask(EventType::TenantDeleted, name, &purge)?;
    }
    let deletion = bailiwick_declare::delete(config, name, &Requests(&daemon)).map_err(|Stopped(failure)| failure)?;
    match (data, deletion) {
        (Data::Keep, Deletion::Done { file, deleted_file }) => {
            output::complain(&format!(
                "the data of \"{name}\" is kept; to restore the tenant: mv {} {} && bailiwick reload && bailiwick start \
                 {name}",
                deleted_file.display(),
                file.display(),
            ));
            print_outcomes(&[outcome(name, Done::Deleted)], Printed::Nothing, form)
        }
        (Data::Keep, Deletion::DoneBefore) => {
            let message = format!("the tenant \"{name}\" is already deleted; add --purge to destroy its data");
            Err(Failure::of(ExitStatus::NotFound, message))
        }
        (Data::Keep, Deletion::NoTenant) => Err(failure(DeclareError::NoTenant { tenant: name.clone() })),
        (Data::Destroy, deletion) => purge(&daemon, config, name, &deletion, form),
    }
}

fn purge(
    daemon: &Daemon,
    config: &Path,
    name: &TenantName,
    deletion: &Deletion,
    form: Form,
) -> Result<ExitStatus, Failure> {
    let mut outcomes = ask(daemon, &ControlRequest::Purge { tenant: name.clone() })?;
    // A tenant whose file never was without an error has no data, and its file is all that there is to remove.
    if *deletion != Deletion::NoTenant {
        let has_no_data = |failure: &Failure| failure.status == ExitStatus::NotFound;
        for done in outcomes.iter_mut().filter(|done| done.failure.as_ref().is_some_and(has_no_data)) {
            *done = outcome(name, Done::Deleted);
        }
    }
    if outcomes.iter().all(|outcome| outcome.failure.is_none()) {
        TenantFiles::open(config).and_then(|files| files.remove_deleted(name)).map_err(failure)?;
    }
    print_outcomes(&outcomes, Printed::Nothing, form)
}

/// Whether a tenant has a file. The folder is not locked when this returns.
fn is_declared(config: &Path, name: &TenantName) -> Result<bool, Failure> {
    TenantFiles::open(config).and_then(|files| files.is_declared(name)).map_err(failure)
}

/// The outcomes of the tenants that a hook does not let be suspended. Those without a file are none of its business.
fn refused(
    config: &Path,
    names: &[TenantName],
    change: &StateChange,
    hooks: Hooks,
) -> Result<Vec<TenantOutcome>, Failure> {
    let StateChange::Suspend { reason } = change else { return Ok(Vec::new()) };
    let hooks = BeforeHooks::read(config, hooks)?;
    let mut refused = Vec::new();
    if hooks.are_for(EventType::TenantSuspended) {
        let reason = reason.iter().map(|reason| ("reason".to_owned(), EventValue::text(reason)));
        let data: EventData = reason.collect();
        for name in names {
            if is_declared(config, name)?
                && let Err(failure) = hooks.ask(EventType::TenantSuspended, name, &data)
            {
                refused.push(TenantOutcome { failure: Some(failure), ..outcome(name, Done::Unchanged) });
            }
        }
    }
    Ok(refused)
}

/// `bailiwick suspend` and `unsuspend`.
pub(crate) fn set_state(
    config: &Path,
    names: &[TenantName],
    change: &StateChange,
    hooks: Hooks,
    form: Form,
) -> Result<ExitStatus, Failure> {
    let daemon = configuration::daemon(config)?;
    let mut outcomes = refused(config, names, change, hooks)?;
    let files = TenantFiles::open(config).map_err(failure)?;
    let (mut changed, mut written) = (Vec::new(), BTreeSet::new());
    let is_refused = |name: &TenantName| outcomes.iter().any(|outcome| outcome.tenant == *name);
    let allowed: Vec<&TenantName> = names.iter().filter(|name| !is_refused(name)).collect();
    for name in allowed {
        match files.set_state(name, change) {
            Ok(file) => {
                changed.push(name.clone());
                if file == FileChange::Written {
                    written.insert(name.clone());
                }
            }
            Err(error) => {
                let failure = Some(state_failure(error, name, change));
                outcomes.push(TenantOutcome { failure, ..outcome(name, Done::Unchanged) });
            }
        }
    }
    drop(files);
    if changed.is_empty() {
        return print_outcomes(&outcomes, Printed::Unchanged, form);
    }
    match ask(&daemon, &ControlRequest::Apply { tenants: changed.clone(), now: true, restart: false }) {
        Ok(applied) => {
            configuration::report_problems(config, &changed, ExitStatus::Done);
            let untouched = |name: &&TenantName| applied.iter().all(|outcome| outcome.tenant != **name);
            outcomes.extend(changed.iter().filter(untouched).map(|name| outcome(name, Done::Unchanged)));
            outcomes.extend(applied);
            // The jail needed no change, but the file was written.
            for outcome in outcomes.iter_mut().filter(|outcome| written.contains(&outcome.tenant)) {
                if outcome.failure.is_none() && outcome.done == Done::Unchanged {
                    outcome.done = Done::Written;
                }
            }
            print_outcomes(&outcomes, Printed::Unchanged, form)
        }
        Err(error) if matches!(error, AskError::Failed(_)) => Err(error.into()),
        // Until the daemon is back, the jails differ from the files: a partial success.
        Err(error) => {
            output::complain(&format!("the files are written, but the jails are unchanged: {}", Failure::from(error)));
            outcomes.extend(changed.iter().map(|name| outcome(name, Done::Written)));
            print_outcomes(&outcomes, Printed::Unchanged, form)?;
            Ok(ExitStatus::Partly)
        }
    }
}

/// For a tenant whose file cannot be read, a failed suspend also names the command that stops its jail.
fn state_failure(error: DeclareError, name: &TenantName, change: &StateChange) -> Failure {
    let is_unreadable = matches!(error, DeclareError::Read { .. });
    let mut failure = failure(error);
    if is_unreadable && matches!(change, StateChange::Suspend { .. }) {
        failure.message.push_str(&format!("; `bailiwick stop {name}` stops its jail"));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;
    use bailiwick_proto::{CONTROL_SOCKET, ControlReply};
    use std::fs;
    use std::io;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use tempfile::TempDir;

    const ALICE: &str = "# a good customer\nplan  = \"small\"  # since May\nstate = \"active\" # for now\n\n[limits] # more\nmemory = \"2G\"\n";

    /// A configuration with one plan and the tenant alice; its runtime directory is `run` below it.
    pub(super) fn config() -> TempDir {
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

    pub(super) fn name(text: &str) -> TenantName {
        text.parse().expect("valid")
    }

    pub(super) fn tenant_file(config: &TempDir, file: &str) -> Option<String> {
        fs::read_to_string(config.path().join("tenants.d").join(file)).ok()
    }

    pub(super) fn outcomes(outcomes: &[TenantOutcome]) -> Vec<ControlReply> {
        vec![ControlReply::Outcome(outcomes.to_vec())]
    }

    fn unpaid() -> StateChange {
        StateChange::Suspend { reason: Some("unpaid \"twice\"".to_owned()) }
    }

    #[test]
    fn file_errors_have_a_message_and_an_exit_status() {
        let path = || PathBuf::from("c/tenants.d/bob.toml");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let (bob, file) = (name("bob"), "\"c/tenants.d/bob.toml\"");
        let no_plan = DeclareError::NoPlan { plan: "huge".parse().expect("valid"), path: path() };
        let not_restored = Some(Box::new(DeclareError::Write { path: path(), source: full() }));
        let no_place = |did: &str| format!("cannot {did} {file}: no storage space");
        for (error, status, golden) in [
            (DeclareError::Open { path: path(), source: full() }, ExitStatus::Failed, no_place("open")),
            (DeclareError::Inspect { path: path(), source: full() }, ExitStatus::Failed, no_place("look at")),
            (DeclareError::Read { path: path(), source: full() }, ExitStatus::Failed, no_place("read")),
            (DeclareError::Write { path: path(), source: full() }, ExitStatus::Failed, no_place("write")),
            (DeclareError::Remove { path: path(), source: full() }, ExitStatus::Failed, no_place("remove")),
            (
                DeclareError::Locked { path: path() },
                ExitStatus::Conflict,
                format!("another command holds {file}; try again when it is done"),
            ),
            (
                DeclareError::Exists { tenant: bob.clone(), path: path() },
                ExitStatus::Conflict,
                format!("the tenant \"bob\" exists already: {file}"),
            ),
            (no_plan, ExitStatus::NotFound, format!("no plan \"huge\": there is no {file}")),
            (DeclareError::NoTenant { tenant: bob.clone() }, ExitStatus::NotFound, "no tenant \"bob\"".to_owned()),
            (
                DeclareError::Invalid { diagnostics: Vec::new(), not_restored },
                ExitStatus::Invalid,
                format!("the configuration is not valid\n\nand the file could not be restored: {}", no_place("write")),
            ),
        ] {
            assert_eq!(failure(error), Failure::of(status, golden));
        }

        let unreadable = || DeclareError::Read { path: path(), source: full() };
        let suspend = state_failure(unreadable(), &bob, &unpaid()).message;
        assert_eq!(suspend, no_place("read") + "; `bailiwick stop bob` stops its jail");
        assert_eq!(state_failure(unreadable(), &bob, &StateChange::Activate).message, no_place("read"));
    }

    #[test]
    fn delete_sets_the_file_aside_and_purge_removes_it() {
        let config = config();
        let alice = name("alice");
        let purge = ControlRequest::Purge { tenant: alice.clone() };
        let refused = TenantOutcome {
            failure: Some(Failure::of(ExitStatus::Refused, "it runs")),
            ..outcome(&alice, Done::Failed)
        };
        let no_data = TenantOutcome {
            failure: Some(Failure::of(ExitStatus::NotFound, "there is no data")),
            ..outcome(&alice, Done::Failed)
        };
        let (_, served) = fake(
            &config.path().join("run"),
            vec![
                outcomes(&[outcome(&alice, Done::Stopped)]),
                outcomes(&[]),
                outcomes(&[refused]),
                outcomes(&[outcome(&alice, Done::Purged)]),
                outcomes(std::slice::from_ref(&no_data)),
                outcomes(&[no_data]),
            ],
        );
        let delete = |data| delete(config.path(), &alice, data, Hooks::Ask, Form::Text);
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
        assert_eq!(delete(Data::Destroy), Ok(ExitStatus::NotFound), "there is nothing left");
        fs::write(config.path().join("tenants.d/.alice.toml.deleted"), "plan = 7\n").expect("writes");
        assert_eq!(delete(Data::Destroy), Ok(ExitStatus::Done), "it had no data");
        assert_eq!(tenant_file(&config, ".alice.toml.deleted"), None);

        let asked = served.join().expect("served");
        let stop = ControlRequest::Lifecycle { verb: Verb::Stop, tenants: vec![alice.clone()] };
        let purges = [purge.clone(), purge.clone(), purge.clone(), purge];
        assert_eq!((&asked[..2], &asked[2..]), (&[stop, ControlRequest::Reload][..], &purges[..]));
    }

    #[test]
    fn nothing_is_deleted_when_the_jail_cannot_be_stopped() {
        let config = config();
        let alice = name("alice");
        assert_eq!(
            delete(config.path(), &alice, Data::Destroy, Hooks::Ask, Form::Text).expect_err("no daemon").status,
            ExitStatus::Failed
        );
        let stuck = TenantOutcome {
            failure: Some(Failure::of(ExitStatus::Failed, "it does not die")),
            ..outcome(&alice, Done::Failed)
        };
        let (_, served) = fake(&config.path().join("run"), vec![outcomes(&[stuck])]);
        let failure = delete(config.path(), &alice, Data::Destroy, Hooks::Ask, Form::Text).expect_err("stuck");
        assert_eq!(failure.message, "it does not die");
        served.join().expect("served");
        assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(ALICE));
    }

    #[test]
    fn suspend_asks_the_daemon_and_reports_each_tenant() {
        let config = config();
        let (alice, ghost) = (name("alice"), name("ghost"));
        let (_, served) = fake(
            &config.path().join("run"),
            vec![outcomes(&[outcome(&alice, Done::Stopped)]), outcomes(&[]), outcomes(&[])],
        );
        let set = |names: &[TenantName], change: &StateChange| {
            set_state(config.path(), names, change, Hooks::Ask, Form::Text)
        };
        assert_eq!(set(std::slice::from_ref(&alice), &unpaid()), Ok(ExitStatus::Done));
        assert!(tenant_file(&config, "alice.toml").expect("is there").contains("state = \"suspended\""));
        assert_eq!(set(std::slice::from_ref(&alice), &unpaid()), Ok(ExitStatus::Done), "again");
        assert_eq!(set(&[ghost.clone(), alice.clone()], &StateChange::Activate), Ok(ExitStatus::Partly));
        assert_eq!(tenant_file(&config, "alice.toml").as_deref(), Some(ALICE));
        let asked = served.join().expect("served");
        assert!(asked.iter().all(
            |request| *request == ControlRequest::Apply { tenants: vec![alice.clone()], now: true, restart: false }
        ));

        assert_eq!(set(std::slice::from_ref(&ghost), &unpaid()), Ok(ExitStatus::NotFound));
        fs::remove_file(config.path().join("run").join(CONTROL_SOCKET)).expect("removes");
        assert_eq!(set(&[alice], &unpaid()), Ok(ExitStatus::Partly), "the jail still runs");
    }
}
