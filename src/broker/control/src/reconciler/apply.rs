//! `apply`: reads the policy again and puts it in force, a few tenants at a time.

use super::*;
use crate::comparison::{actual_now, cannot_start, declared};
use crate::policy_store::without_policy;
use crate::sync::ASKED_AT_ONCE;
use bailiwick_plan::difference;
use bailiwick_plan::lifecycle::{HostUserStep, JailStep, Next, desired, next};
use bailiwick_policy::{Declared, Tenant};
use bailiwick_proto::warden::MOST_COMPARED;
use bailiwick_types::{Action, Change, InForce};
use std::collections::BTreeSet;
use std::time::Instant;
use tokio::sync::mpsc;

/// What `apply` may do to open sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApplyOptions {
    /// End sessions that the policy no longer permits.
    pub(crate) now: bool,
    /// Restart jails that have sessions.
    pub(crate) restart: bool,
}

impl Reconciler {
    /// Reads the policy again and puts it in force. Sends `progress` the number of tenants that are done, and of all.
    pub(crate) async fn apply(
        &self,
        permission: OperatorPermission,
        names: &[TenantName],
        options: ApplyOptions,
        progress: mpsc::Sender<(u64, u64)>,
    ) -> Result<Vec<TenantOutcome>, Failure> {
        self.tenants.policy.reload().ok();
        let uid = permission.uid;
        if names.is_empty() {
            info!(target: "bailiwick::event", event = "apply", uid, "user {uid} applies the policy");
        }
        for name in names {
            info!(target: "bailiwick::event", tenant = %name, event = "apply", uid, "user {uid} applies the policy of {name}");
        }
        let _one = self.changing.lock().await;
        let roster = self.tenants.warden.roster().await?;
        // Nothing is known of these tenants, which their outcome reports. They do not stop the others.
        let (hopeless, broken): (BTreeSet<TenantName>, BTreeSet<TenantName>) = {
            let loaded = self.tenants.policy.loaded();
            let asked = |name: &&TenantName| names.is_empty() || names.contains(*name);
            loaded.invalid.iter().filter(asked).cloned().partition(|name| loaded.has_nothing_of(name))
        };
        let left: Vec<TenantName> = names.iter().filter(|name| !hopeless.contains(*name)).cloned().collect();
        let meant =
            if left.is_empty() && !names.is_empty() { Vec::new() } else { self.tenants.meant(&left, &roster)? };
        if meant.iter().any(|(name, _)| self.has_network(name)) {
            self.network.wait().await;
        }
        if self.tenants.policy.loaded().policy.gives_networks() {
            self.network.follow(&self.tenants.policy.host().network).await;
        }
        let (host, facts) = (self.tenants.policy.host(), self.tenants.warden.fresh_facts().await?);
        // End sessions first, while clients can still leave in good order and learn the reason.
        let mut outcomes = if options.now { self.session_end.end_unwanted(names, &roster).await } else { Vec::new() };
        let mut last = Instant::now();
        let total = meant.len() as u64;
        let mut done: u64 = 0;
        for portion in meant.chunks(MOST_COMPARED) {
            let in_force = self.tenants.warden.in_force(portion, &roster).await?;
            for some in portion.iter().zip(in_force).collect::<Vec<_>>().chunks(ASKED_AT_ONCE) {
                if last.elapsed() >= Duration::from_millis(200) {
                    // The receiver may be gone or slow. A missing number does no harm.
                    progress.try_send((done, total)).ok();
                    last = Instant::now();
                }
                done += some.len() as u64;
                let one = |((name, tenant), in_force): &(&(TenantName, Option<Tenant>), Option<InForce>)| {
                    let declaration = declared(tenant.as_ref());
                    let actual = actual_now(tenant.as_ref(), roster.get(name), in_force.as_ref());
                    let step = next(desired(declaration), &actual);
                    let changes = difference(name, declaration, &actual, in_force.as_ref(), &facts, &host.network);
                    let name = name.clone();
                    // A running jail continues although this host could not start it again. The outcome reports it.
                    let is_up = roster.get(&name).is_some_and(|entry| entry.pid.is_some());
                    let tenant = tenant.as_ref().filter(|_| is_up);
                    let impossible = tenant.and_then(|tenant| cannot_start(tenant, &host, &facts));
                    async move { (name.clone(), self.apply_one(&name, step, &changes, options).await, impossible) }
                };
                for (name, result, impossible) in at_once(some.iter().map(one).collect()).await {
                    match result {
                        Ok(done) if impossible.is_some() => {
                            let failure = impossible.map(|why| Failure::of(ExitStatus::HostCannot, why));
                            outcomes.push(TenantOutcome { tenant: name, done, failure });
                        }
                        Ok(done) if broken.contains(&name) => {
                            let meant = meant.iter().find(|(other, _)| *other == name);
                            let state = meant.and_then(|(_, tenant)| tenant.as_ref()).map(|tenant| &tenant.state);
                            let failure = Some(last_good_failure(&name, state));
                            outcomes.push(TenantOutcome { tenant: name, done, failure });
                        }
                        Ok(Done::Unchanged | Done::Asleep) if names.is_empty() => {}
                        result => outcomes.push(outcome(name, result)),
                    }
                }
            }
        }
        let nothing = |name: &TenantName| outcome(name.clone(), Err(without_policy(name)));
        outcomes.extend(hopeless.iter().map(nothing));
        Ok(outcomes)
    }

    async fn apply_one(
        &self,
        name: &TenantName,
        step: Next,
        changes: &[Change],
        options: ApplyOptions,
    ) -> Result<Done, Failure> {
        let done = self.apply_jail(name, step.jail, changes, options).await?;
        match step.host_user {
            HostUserStep::None => Ok(done),
            HostUserStep::Make | HostUserStep::Remove => {
                let changed = self.host_user(name).await?;
                Ok(if matches!(done, Done::Unchanged | Done::Asleep) { changed } else { done })
            }
        }
    }

    async fn apply_jail(
        &self,
        name: &TenantName,
        step: JailStep,
        changes: &[Change],
        options: ApplyOptions,
    ) -> Result<Done, Failure> {
        match step {
            JailStep::Stop => self.change(name, stop(name, Hold::Keep), Done::Stopped).await,
            // A tenant that was suspended or deleted must not continue as before, even if its jail has sessions.
            JailStep::Replace => self.restart(name).await,
            // An operator asked for this, and waits until the warden has finished.
            JailStep::Start | JailStep::Wait => {
                self.change(name, WardenRequest::Start { tenant: name.clone() }, Done::Started).await
            }
            JailStep::Held => Ok(Done::Unchanged),
            JailStep::Asleep => Ok(Done::Asleep),
            JailStep::Thaw => {
                let thawed = self.thaw_for_policy(name).await?;
                let done = self.apply_settings(name, changes, options).await?;
                Ok(if done == Done::Unchanged { thawed } else { done })
            }
            JailStep::None => self.apply_settings(name, changes, options).await,
        }
    }

    /// Applies changed settings to a jail that is otherwise as declared.
    async fn apply_settings(
        &self,
        name: &TenantName,
        changes: &[Change],
        options: ApplyOptions,
    ) -> Result<Done, Failure> {
        let of = |action| changes.iter().filter(move |change| change.action == action);
        let restarts: Vec<&str> = of(Action::Restart).map(|change| change.what.as_str()).collect();
        if !restarts.is_empty() {
            // This change is not urgent, so it waits for open sessions.
            let inside = self.sessions.inside(name);
            if inside > 0 && !options.restart {
                let what = restarts.join(", ");
                let message = format!(
                    "a changed {what} restarts the jail, and {inside} sessions are in it; `bailiwick apply --restart {name}` ends them"
                );
                return Err(Failure::of(ExitStatus::Refused, message));
            }
            return self.restart(name).await;
        }
        if of(Action::Live).next().is_some() {
            let request = WardenRequest::Limit { tenant: name.clone() };
            return self.change(name, request, Done::LimitsWritten).await;
        }
        Ok(Done::Unchanged)
    }
}

/// The outcome of a tenant whose file has errors. A suspension in the file is in force anyway.
fn last_good_failure(name: &TenantName, state: Option<&Declared>) -> Failure {
    if matches!(state, Some(Declared::Suspended { .. })) {
        let message = format!(
            "suspended until a file without errors says otherwise; that of \"{name}\" has errors, and all else is as in its last version without an error; see `bailiwick check`"
        );
        return Failure::of(ExitStatus::Partly, message);
    }
    let message = format!(
        "the file of \"{name}\" has errors, so its last version without an error is in force; see `bailiwick check`"
    );
    Failure::of(ExitStatus::Invalid, message)
}
