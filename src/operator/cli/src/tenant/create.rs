//! `create`: writes the file of a new tenant and starts its jail. Undoes both on failure.

use super::{Requests, Stopped, failure, outcome};
use crate::before::{BeforeHooks, Hooks};
use crate::change::{Printed, ask, print_outcomes, warn_about_host};
use crate::configuration;
use crate::output::{self, Form};
use bailiwick_client::{AskError, Daemon};
use bailiwick_declare::{NewTenant, PriorData, TenantFiles};
use bailiwick_proto::control::{Done, Verb};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{EventData, EventType, EventValue, ExitStatus, TenantName};
use std::path::Path;

/// `bailiwick create`.
pub(crate) fn create(
    config: &Path,
    name: TenantName,
    tenant: NewTenant,
    hooks: Hooks,
    form: Form,
) -> Result<ExitStatus, Failure> {
    let daemon = configuration::daemon(config)?;
    let hooks = BeforeHooks::read(config, hooks)?;
    if hooks.are_for(EventType::TenantCreated) {
        // No hook is asked for what cannot be done. The lock is free again while they run.
        TenantFiles::open(config)
            .and_then(|files| files.prepare(name.clone(), tenant.clone()).map(drop))
            .map_err(failure)?;
        hooks.ask(EventType::TenantCreated, &name, &data(&tenant))?;
    }
    let prior = write_file(&daemon, config, &name, tenant)?;
    let undo = || undo_create(&daemon, config, &name, prior);
    match ask(&daemon, &ControlRequest::Apply { tenants: vec![name.clone()], now: false, restart: false }) {
        Ok(outcomes) if outcomes.iter().any(|outcome| outcome.failure.is_some()) => {
            undo();
            print_outcomes(&outcomes, Printed::Nothing, form)
        }
        // Deleting the tenant stopped its jail, and a stopped jail starts only on request.
        Ok(_) if prior == PriorData::Present => {
            let start = ControlRequest::Lifecycle { verb: Verb::Start, tenants: vec![name.clone()] };
            let started = ask(&daemon, &start).inspect_err(|_| undo())?;
            if started.iter().any(|outcome| outcome.failure.is_some()) {
                undo();
            }
            print_outcomes(&started, Printed::Nothing, form)
        }
        Ok(outcomes) => {
            warn_about_host(&daemon, &outcomes);
            print_outcomes(&outcomes, Printed::Nothing, form)
        }
        Err(error) if error.is_no_answer() => {
            output::complain(&format!("the file is written, but the jail is not started: {}", Failure::from(error)));
            print_outcomes(&[outcome(&name, Done::Written)], Printed::Nothing, form)?;
            Ok(ExitStatus::Partly)
        }
        Err(error) => {
            undo();
            Err(error.into())
        }
    }
}

/// What a hook is told of a new tenant.
fn data(tenant: &NewTenant) -> EventData {
    let values = [
        ("plan", Some(tenant.plan.to_string())),
        ("profile", tenant.profile.map(|profile| profile.word().to_owned())),
        ("login", tenant.login.as_ref().map(ToString::to_string)),
    ];
    values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), EventValue::text(&value?)))).collect()
}

/// Writes the file of a new tenant. Returns whether data of that name existed before.
fn write_file(daemon: &Daemon, config: &Path, name: &TenantName, tenant: NewTenant) -> Result<PriorData, Failure> {
    let files = TenantFiles::open(config).map_err(failure)?;
    let creation = files.prepare(name.clone(), tenant).map_err(failure)?;
    if creation.has_host_user() {
        check_name(daemon, name)?;
    }
    // Asked under the lock of `files`: no other command can create or delete the tenant meanwhile.
    let prior = prior_data(daemon, name)?;
    creation.write().map_err(failure)?;
    if prior == PriorData::Present {
        let mut message = format!("the new tenant gets the data of the deleted tenant \"{name}\"");
        if let Some(path) = files.deleted_file(name).map_err(failure)? {
            message.push_str(&format!("; the file of the deleted tenant is \"{}\"", path.display()));
        }
        output::complain(&message);
    }
    Ok(prior)
}

/// Refuses the name of an existing user of the host. If the daemon does not answer, the later apply checks the name.
fn check_name(daemon: &Daemon, name: &TenantName) -> Result<(), Failure> {
    match daemon.ask(&ControlRequest::CheckName { tenant: name.clone() }) {
        Err(AskError::Failed(failure)) if failure.status == ExitStatus::Conflict => Err(failure),
        _ => Ok(()),
    }
}

/// Asks the daemon for data of a deleted tenant of this name. Fails if the daemon answers with an error: then nothing is created.
fn prior_data(daemon: &Daemon, name: &TenantName) -> Result<PriorData, Failure> {
    match daemon.ask(&ControlRequest::Show { tenant: name.clone() }) {
        // The state is not checked: the daemon may not know yet that the file was removed.
        Ok(ControlReply::Show(detail)) if detail.ids.is_some() => Ok(PriorData::Present),
        Ok(_) => Ok(PriorData::Unknown),
        Err(AskError::Failed(failure)) if failure.status == ExitStatus::NotFound => Ok(PriorData::Absent),
        Err(error) if error.is_no_answer() => Ok(PriorData::Unknown),
        Err(error) => Err(error.into()),
    }
}

/// Undoes everything that `create` did, and prints what could not be undone.
fn undo_create(daemon: &Daemon, config: &Path, name: &TenantName, prior: PriorData) {
    let left = bailiwick_declare::undo_create(config, name, prior, &Requests(daemon));
    if left.is_empty() {
        let data = match prior {
            PriorData::Absent => "nothing of it is left",
            PriorData::Present => "the existing data is kept",
            PriorData::Unknown => "data of that name, if there is any, is kept",
        };
        output::complain(&format!("the tenant \"{name}\" was not created, and {data}"));
    } else {
        let left: Vec<String> = left.into_iter().map(|Stopped(failure)| failure.message).collect();
        let left = left.join("; ");
        output::complain(&format!("the tenant \"{name}\" was not created, and not everything could be undone: {left}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::{config, name, outcomes, tenant_file};
    use bailiwick_client::fake;
    use bailiwick_proto::control::{TenantDetail, TenantOutcome, TenantState, TenantSummary};
    use bailiwick_types::{Contact, IdRange};
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn create_works_without_the_daemon_and_refuses_an_existing_tenant() {
        let config = config();
        let create =
            |tenant: &str, plan: &str| create(config.path(), name(tenant), new_tenant(plan), Hooks::Ask, Form::Text);
        assert_eq!(create("bob", "small"), Ok(ExitStatus::Partly), "there is no jail yet");
        let path = config.path().join("tenants.d/bob.toml");
        assert_eq!(fs::metadata(&path).expect("written").permissions().mode() & 0o7777, 0o644);
        assert_eq!(create("bob", "small").expect_err("exists").status, ExitStatus::Conflict);
        let failure = create("carol", "huge").expect_err("no plan");
        assert_eq!(failure.status, ExitStatus::NotFound);
        assert!(failure.message.contains("no plan \"huge\""), "{}", failure.message);
        assert_eq!(tenant_file(&config, "carol.toml"), None);
    }

    #[test]
    fn an_invalid_setting_is_reported_with_its_position() {
        let config = config();
        let bad = NewTenant { ssh_keys: vec!["no key".to_owned()], ..new_tenant("small") };
        let failure = create(config.path(), name("bob"), bad, Hooks::Ask, Form::Text).expect_err("no key");
        assert_eq!(failure.status, ExitStatus::Invalid);
        assert!(failure.message.starts_with("the configuration is not valid\nerror: "), "{}", failure.message);
        assert_eq!(tenant_file(&config, "bob.toml"), None);
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
                frozen_by: None,
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
            host_sockets: BTreeMap::new(),
            mail: None,
            contact: Contact::default(),
            notices: Vec::new(),
        };
        vec![ControlReply::Show(Box::new(detail))]
    }

    const IDS: IdRange = IdRange { first: 1 << 20, count: 65_536 };

    fn answers(status: ExitStatus) -> Vec<ControlReply> {
        vec![ControlReply::Failed(Failure::of(status, "so it is"))]
    }

    #[test]
    fn undo_purges_only_if_no_data_existed_before() {
        let bob = name("bob");
        for (said, is_purged) in [
            (answers(ExitStatus::NotFound), true),
            (shown(TenantState::Deleted, Some(IDS)), false),
            // The daemon does not know yet that the file was removed.
            (shown(TenantState::Running, Some(IDS)), false),
            (shown(TenantState::Down, None), false),
        ] {
            let config = config();
            let failed = TenantOutcome {
                failure: Some(Failure::of(ExitStatus::HostCannot, "no")),
                ..outcome(&bob, Done::Failed)
            };
            let replies = vec![said, outcomes(&[failed]), outcomes(&[]), outcomes(&[]), outcomes(&[])];
            let (daemon, served) = fake(&config.path().join("run"), replies);
            assert_eq!(
                create(config.path(), bob.clone(), new_tenant("small"), Hooks::Ask, Form::Text),
                Ok(ExitStatus::HostCannot)
            );
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
    fn nothing_is_created_if_prior_data_is_unknown() {
        let config = config();
        let (_, served) = fake(&config.path().join("run"), vec![answers(ExitStatus::Failed)]);
        let failure =
            create(config.path(), name("bob"), new_tenant("small"), Hooks::Ask, Form::Text).expect_err("refused");
        assert_eq!(failure, Failure::of(ExitStatus::Failed, "so it is"));
        assert_eq!(served.join().expect("served"), [ControlRequest::Show { tenant: name("bob") }]);
        assert_eq!(tenant_file(&config, "bob.toml"), None);
    }

    #[test]
    fn a_deleted_tenant_is_recreated_and_its_jail_started() {
        let config = config();
        let (_, served) = fake(
            &config.path().join("run"),
            vec![
                shown(TenantState::Deleted, Some(IDS)),
                outcomes(&[]),
                outcomes(&[outcome(&name("bob"), Done::Started)]),
            ],
        );
        assert_eq!(
            create(config.path(), name("bob"), new_tenant("small"), Hooks::Ask, Form::Text),
            Ok(ExitStatus::Done)
        );
        let asked = served.join().expect("served");
        assert_eq!(asked[1], ControlRequest::Apply { tenants: vec![name("bob")], now: false, restart: false });
        assert_eq!(asked[2], ControlRequest::Lifecycle { verb: Verb::Start, tenants: vec![name("bob")] });
    }

    fn new_tenant(plan: &str) -> NewTenant {
        NewTenant { plan: plan.parse().expect("valid"), profile: None, login: None, ssh_keys: Vec::new() }
    }
}
