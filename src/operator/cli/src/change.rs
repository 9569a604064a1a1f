//! `apply`, `reload` and the life cycle: asks the daemon for a change and prints the outcome.

use crate::output::{self, Form, visible};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{Done, TenantOutcome, Verb, overall};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{ExitStatus, TenantName};

/// What is printed about tenants that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Printed {
    /// Every change: the operator did not ask for a particular one.
    Changes,
    /// Every tenant that was left unchanged: all others are now as the operator asked.
    Unchanged,
    /// Nothing: the outcome is what the operator asked for.
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
    warn_about_host(daemon, &outcomes);
    print_outcomes(&outcomes, Printed::Changes, form)
}

/// Warns if no site can be served; and, if a tenant was changed, that the host's reserve is reached, so that it can take no disk
/// space, and that the tenant has used its volume of the month, so that its network stops at once.
pub(crate) fn warn_about_host(daemon: &Daemon, outcomes: &[TenantOutcome]) {
    let Ok(ControlReply::Status(status)) = daemon.ask(&ControlRequest::Status) else { return };
    let was_changed = outcomes.iter().any(|outcome| outcome.failure.is_none());
    status.reserve.iter().filter(|_| was_changed).chain(&status.web).for_each(|problem| output::complain(problem));
    let changed = outcomes.iter().filter(|outcome| outcome.failure.is_none() && outcome.done != Done::Unchanged);
    changed.filter_map(|outcome| status.months.get(&outcome.tenant)).for_each(|problem| output::complain(problem));
}

/// `bailiwick start`, `stop`, `restart`, `freeze`, `thaw`, `sleep` and `wake`.
pub(crate) fn lifecycle(
    daemon: &Daemon,
    verb: Verb,
    tenants: Vec<TenantName>,
    form: Form,
) -> Result<ExitStatus, Failure> {
    print_outcomes(&ask(daemon, &ControlRequest::Lifecycle { verb, tenants })?, Printed::Unchanged, form)
}

/// `bailiwick reload`.
pub(crate) fn reload(daemon: &Daemon, form: Form) -> Result<ExitStatus, Failure> {
    print_outcomes(&ask(daemon, &ControlRequest::Reload)?, Printed::Changes, form)
}

/// Sends a request whose reply lists outcomes.
pub(crate) fn ask(daemon: &Daemon, request: &ControlRequest) -> Result<Vec<TenantOutcome>, AskError> {
    match daemon.ask(request)? {
        ControlReply::Outcome(outcomes) => Ok(outcomes),
        _ => Err(AskError::Unexpected),
    }
}

/// Prints outcomes: failures to standard error, the rest to standard output.
pub(crate) fn print_outcomes(outcomes: &[TenantOutcome], printed: Printed, form: Form) -> Result<ExitStatus, Failure> {
    if form == Form::Json {
        output::print_json(&outcomes)?;
    } else {
        output::print(&outcome_lines(outcomes, printed))?;
        for outcome in outcomes {
            if let Some(failure) = &outcome.failure {
                output::complain(&format!("{}: {}", outcome.tenant, failure.message));
            } else if outcome.done == Done::BeingPrepared && printed == Printed::Nothing {
                output::complain(&format!(
                    "{}: its storage is being prepared; its jail starts when that is done",
                    outcome.tenant
                ));
            }
        }
    }
    Ok(overall(outcomes))
}

fn outcome_lines(outcomes: &[TenantOutcome], printed: Printed) -> String {
    let mut lines = String::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.failure.is_none()) {
        let is_printed = match printed {
            Printed::Changes => outcome.done != Done::Unchanged,
            Printed::Unchanged => outcome.done == Done::Unchanged,
            Printed::Nothing => false,
        };
        if is_printed {
            lines.push_str(&format!("{}: {}\n", outcome.tenant, visible(&outcome.done.to_string())));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;

    fn outcome(tenant: &str, done: &str, failure: Option<ExitStatus>) -> TenantOutcome {
        TenantOutcome {
            tenant: tenant.parse().expect("valid"),
            done: Done::from(done.to_owned()),
            failure: failure.map(|status| Failure::of(status, "no memory controller")),
        }
    }

    #[test]
    fn changed_or_unchanged_tenants_are_printed() {
        let outcomes = [
            outcome("a", "started", None),
            outcome("b", "unchanged", None),
            outcome("c", "started", Some(ExitStatus::HostCannot)),
        ];
        for (printed, golden) in
            [(Printed::Changes, "a: started\n"), (Printed::Unchanged, "b: unchanged\n"), (Printed::Nothing, "")]
        {
            assert_eq!(outcome_lines(&outcomes, printed), golden);
        }
    }

    #[test]
    fn the_exit_status_combines_all_outcomes() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let bad = outcome("a", "", Some(ExitStatus::HostCannot));
        let good = outcome("b", "unchanged", None);
        let answers = [vec![bad.clone()], vec![bad, good.clone()], vec![good]]
            .map(|outcomes| vec![ControlReply::Progress { done: 0, total: 1 }, ControlReply::Outcome(outcomes)]);
        let [applied, reloaded, frozen] = answers;
        // `apply` then asks for the host's state, and goes without.
        let no_status = vec![ControlReply::Outcome(Vec::new())];
        let (daemon, served) = fake(temp.path(), vec![applied, no_status, reloaded, frozen]);
        assert_eq!(apply(&daemon, Vec::new(), false, false, Form::Text), Ok(ExitStatus::HostCannot));
        assert_eq!(reload(&daemon, Form::Text), Ok(ExitStatus::Partly));
        let tenants: Vec<TenantName> = vec!["b".parse().expect("valid")];
        assert_eq!(lifecycle(&daemon, Verb::Freeze, tenants.clone(), Form::Text), Ok(ExitStatus::Done));
        let asked = served.join().expect("served");
        assert_eq!(asked[1], ControlRequest::Status);
        assert_eq!(asked[3], ControlRequest::Lifecycle { verb: Verb::Freeze, tenants });
    }
}
