//! Jails begin and end: start, stop, clear, freeze, purge.

use super::*;

/// How long a jail has to end by itself: init gives its processes two seconds.
const STOP_TIME: Duration = Duration::from_secs(3);

impl Warden {
    pub(super) fn start(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let (host, tenant) = self.declared(name)?;
        if let (None, Declared::Suspended { reason }) = (tenant.access(), &tenant.state) {
            let reason = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            return Err(Failure::of(ExitStatus::Refused, format!("tenant \"{name}\" is suspended{reason}")));
        }
        if self.runs(name) {
            if self.jails.get(name).map(|jail| jail.record.access) != tenant.access() {
                let message = format!(
                    "the jail of \"{name}\" is another one than is declared; `bailiwick apply {name}` replaces it"
                );
                return Err(Failure::of(ExitStatus::Refused, message));
            }
            self.ledger.set_held(name, false).map_err(|error| failure(ExitStatus::Failed, name, "start", &error))?;
            return Ok(WardenReply::Unchanged);
        }
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "start", error);
        reach(Step::Ledger).map_err(|error| failed(&BuildError::at(Step::Ledger)(error)))?;
        let ids = self.ledger.assign(name).map_err(|error| failed(&error))?;
        let plan = JailPlan::new(&tenant, &host, ids, &self.facts)
            .map_err(|error| failure(ExitStatus::HostCannot, name, "start", &error))?;
        if self.groups.ensure_bases(&self.facts, &host.reserve).map_err(|error| failed(&error))? {
            self.watch.listen_to(self.groups.pressure_triggers());
        }
        let builder = Builder {
            plan: &plan,
            storage: &self.storage,
            runtime: &self.runtime,
            groups: &self.groups,
            init: &self.init,
            quota: &self.facts.storage.quota,
        };
        match builder.build() {
            Ok(built) => {
                manager::keep(name, &built.pidfd);
                self.jails.insert(name.clone(), Jail { record: built.record, pidfd: built.pidfd });
                self.ledger.set_held(name, false).map_err(|error| failed(&error))?;
                self.hold_back_again(name, ids);
                Ok(WardenReply::Done)
            }
            Err(error) => {
                let mut failure = failed(&error);
                if let Err(more) = self.clear(name) {
                    failure.message.push_str("; and then ");
                    failure.message.push_str(&more.message);
                }
                Err(failure)
            }
        }
    }

    /// Whether a jail runs; one whose init has ended unseen is cleared away first.
    pub(super) fn runs(&mut self, name: &TenantName) -> bool {
        let Some(jail) = self.jails.get(name) else { return false };
        if process::has_ended(&jail.pidfd, Duration::ZERO).unwrap_or(false) {
            // What could not be cleared fails the start that follows, with its reason.
            drop(self.clear(name));
        }
        self.jails.contains_key(name)
    }

    pub(super) fn running(&mut self, name: &TenantName) -> Result<(), Failure> {
        if self.runs(name) {
            return Ok(());
        }
        let message = format!("the jail of \"{name}\" does not run; `bailiwick start {name}` starts it");
        Err(Failure::of(ExitStatus::Refused, message))
    }

    pub(super) fn stop(&mut self, name: &TenantName, hold: Hold) -> Result<WardenReply, Failure> {
        if hold == Hold::Hold {
            self.ledger.set_held(name, true).map_err(|error| failure(ExitStatus::Failed, name, "stop", &error))?;
        }
        if !self.runs(name) {
            return Ok(WardenReply::Unchanged);
        }
        let frozen = self.groups.of(name).is_ok_and(|groups| groups.frozen());
        if let Some(jail) = self.jails.get(name)
            && !frozen
        {
            // Asked first, so that databases can close their files; a jail that does not listen is killed below.
            process::signal(&jail.pidfd, Signal::TERM).ok();
            process::has_ended(&jail.pidfd, STOP_TIME).ok();
        }
        self.clear(name)?;
        Ok(WardenReply::Done)
    }

    /// Removes all that a jail has outside its storage: processes, groups, sockets. Goes on past a failure and tells
    /// all of them.
    pub(super) fn clear(&mut self, name: &TenantName) -> Result<(), Failure> {
        let mut problems = Vec::new();
        if let Err(error) = self.groups.destroy(name) {
            problems.push(Failure::new(ExitStatus::Failed, &error).message);
        }
        if let Some(jail) = self.jails.get(name) {
            process::reap(&jail.pidfd).ok();
        }
        if problems.is_empty() {
            self.rescues.forget(name);
            if self.jails.remove(name).is_some() {
                manager::forget(name.as_str());
            }
            if let Err(error) = self.runtime.remove(name.as_str()) {
                problems.push(format!("cannot remove the jail's runtime directory: {error}"));
            }
        }
        if self.jails.is_empty() {
            self.groups.remove_empty_bases();
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Failure::of(ExitStatus::Failed, format!("cannot clear the jail of \"{name}\": {}", problems.join("; "))))
    }

    pub(super) fn freeze(&mut self, name: &TenantName, frozen: bool) -> Result<WardenReply, Failure> {
        self.running(name)?;
        let verb = if frozen { "freeze" } else { "thaw" };
        let failed = |error| failure(ExitStatus::Failed, name, verb, &error);
        let groups = self.groups.of(name).map_err(failed)?;
        if groups.frozen() == frozen {
            return Ok(WardenReply::Unchanged);
        }
        groups.freeze(frozen).map_err(failed)?;
        Ok(WardenReply::Done)
    }

    pub(super) fn purge(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        match bailiwick_policy::read_tenant(&self.config, name) {
            Ok((_, None)) => {}
            // A file that cannot be read may still mean the tenant: nothing is destroyed on a guess.
            Ok((_, Some(_))) | Err(_) => {
                let message = format!(
                    "tenant \"{name}\" is still declared; `bailiwick delete {name}` first, then its data can be purged"
                );
                return Err(Failure::of(ExitStatus::Refused, message));
            }
        }
        if self.runs(name) {
            let message = format!("the jail of \"{name}\" runs; `bailiwick stop {name}` first");
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        if !self.storage.holds(name) && self.ledger.ids(name).is_none() {
            return Err(Failure::of(ExitStatus::NotFound, format!("there is no data of a tenant \"{name}\"")));
        }
        self.host_users.remove(name).map_err(|error| failure(ExitStatus::Failed, name, "purge", &error))?;
        self.storage.purge(name).map_err(|error| failure(ExitStatus::Failed, name, "purge", &error))?;
        self.ledger.forget(name).map_err(|error| failure(ExitStatus::Failed, name, "purge", &error))?;
        Ok(WardenReply::Done)
    }
}
