//! `apply`, `reload` and the life cycle: asks for a change and tells what came of it.

use crate::output::{self, Form, visible};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{BEING_PREPARED, TenantOutcome, Verb, overall};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{ExitStatus, TenantName};

/// What was done for a tenant for whom there was nothing to do.
pub(crate) const UNCHANGED: &str = "unchanged";

/// What is told of tenants that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// What changed: the operator did not say what to do.
    Changes,
    /// Who was left as it was: all others are now as the operator said.
    Unchanged,
    /// Nothing: it is what the operator said.
    Nothing,
}

/// `bailiwick apply`.
pub(crate) fn apply(
    daemon: &Daemon,
    tenants: Vec<TenantName>,
    now: bool,
    restart: bool,
    form: Form,
) -> Result<ExitStatus, Failure> {
    let outcomes = ask(daemon, &ControlRequest::Apply { tenants, now, restart })?;
    warn_of_reserve(daemon, &outcomes);
    tell(&outcomes, Telling::Changes, form)
}

/// Says so where tenants that were changed can take no disk space, because the host's reserve is reached.
pub(crate) fn warn_of_reserve(daemon: &Daemon, outcomes: &[TenantOutcome]) {
    if outcomes.iter().any(|outcome| outcome.failure.is_none())
        && let Ok(ControlReply::Status(status)) = daemon.ask(&ControlRequest::Status)
        && let Some(reserve) = status.reserve
    {
        output::complain(&reserve);
    }
}

/// `bailiwick start`, `stop`, `restart`, `freeze` and `thaw`.
pub(crate) fn lifecycle(
    daemon: &Daemon,
    verb: Verb,
    tenants: Vec<TenantName>,
    form: Form,
) -> Result<ExitStatus, Failure> {
    tell(&ask(daemon, &ControlRequest::Lifecycle { verb, tenants })?, Telling::Unchanged, form)
}

/// `bailiwick reload`.
pub(crate) fn reload(daemon: &Daemon, form: Form) -> Result<ExitStatus, Failure> {
    tell(&ask(daemon, &ControlRequest::Reload)?, Telling::Changes, form)
}

/// Asks for something that is answered with what was done.
pub(crate) fn ask(daemon: &Daemon, request: &ControlRequest) -> Result<Vec<TenantOutcome>, AskError> {
    match daemon.ask(request)? {
        ControlReply::Outcome(outcomes) => Ok(outcomes),
        _ => Err(AskError::Unexpected),
    }
}

/// Tells what was done: failures on standard error, the rest on standard output.
pub(crate) fn tell(outcomes: &[TenantOutcome], telling: Telling, form: Form) -> Result<ExitStatus, Failure> {
    if form == Form::Json {
        output::print_json(&outcomes)?;
    } else {
        output::print(&done(outcomes, telling))?;
        for outcome in outcomes {
            if let Some(failure) = &outcome.failure {
                output::complain(&format!("{}: {}", outcome.tenant, failure.message));
            } else if outcome.done == BEING_PREPARED && telling == Telling::Nothing {
                output::complain(&format!(
                    "{}: its storage is being prepared; it starts when that is done",
                    outcome.tenant
                ));
            }
        }
    }
    Ok(overall(outcomes))
}

fn done(outcomes: &[TenantOutcome], telling: Telling) -> String {
    let is_told = |outcome: &&TenantOutcome| match telling {
        _ if outcome.failure.is_some() => false,
        Telling::Changes => outcome.done != UNCHANGED,
        Telling::Unchanged => outcome.done == UNCHANGED,
        Telling::Nothing => false,
    };
    let line = |outcome: &TenantOutcome| format!("{}: {}\n", outcome.tenant, visible(&outcome.done));
    outcomes.iter().filter(is_told).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;

    fn outcome(tenant: &str, done: &str, failure: Option<ExitStatus>) -> TenantOutcome {
        TenantOutcome {
            tenant: tenant.parse().expect("valid"),
            done: done.to_owned(),
            failure: failure.map(|status| Failure::of(status, "no memory controller")),
        }
    }

    #[test]
    fn what_changed_is_told_or_what_did_not_as_the_operator_asked() {
        let outcomes = [
            outcome("a", "started", None),
            outcome("b", "unchanged", None),
            outcome("c", "started", Some(ExitStatus::HostCannot)),
        ];
        for (telling, golden) in
            [(Telling::Changes, "a: started\n"), (Telling::Unchanged, "b: unchanged\n"), (Telling::Nothing, "")]
        {
            assert_eq!(done(&outcomes, telling), golden);
        }
    }

    #[test]
    fn the_status_is_that_of_all_together() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let bad = outcome("a", "", Some(ExitStatus::HostCannot));
        let good = outcome("b", "unchanged", None);
        let answers = [vec![bad.clone()], vec![bad, good.clone()], vec![good]]
            .map(|outcomes| vec![ControlReply::Progress { done: 0, total: 1 }, ControlReply::Outcome(outcomes)]);
        let (daemon, served) = fake(temp.path(), answers.to_vec());
        assert_eq!(apply(&daemon, Vec::new(), false, false, Form::Text), Ok(ExitStatus::HostCannot));
        assert_eq!(reload(&daemon, Form::Text), Ok(ExitStatus::Partly));
        let tenants: Vec<TenantName> = vec!["b".parse().expect("valid")];
        assert_eq!(lifecycle(&daemon, Verb::Freeze, tenants.clone(), Form::Text), Ok(ExitStatus::Done));
        let asked = served.join().expect("served");
        assert_eq!(asked[2], ControlRequest::Lifecycle { verb: Verb::Freeze, tenants });
    }
}
