//! The reserve for a session of a tenant that is at a limit.

use super::*;

impl Warden {
    /// Gives a tenant the reserve for a session that could not be begun without.
    pub(super) fn rescue(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let (_, tenant) = self.declared(name)?;
        self.running(name)?;
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "rescue", error);
        let groups = self.groups.of(name).map_err(|error| failed(&error))?;
        if self.is_frozen(name) {
            return Err(Refusal::Frozen { tenant: name.clone() }.into());
        }
        if groups.is_of_an_earlier_version() {
            return Err(Refusal::EarlierVersion { tenant: name.clone() }.into());
        }
        let Some(jail) = self.jails.get(name) else { return Ok(WardenReply::Unchanged) };
        let controls = controls(&tenant.settings.limits, &self.facts);
        let given = self.emergencies.give(&self.groups, name, controls, jail.record.pid);
        given.map_err(|error| match error {
            EmergencyError::Group(error) => failed(&error),
            error => Failure::new(ExitStatus::OverLimit, &error),
        })?;
        self.still_runs(name)
    }

    /// Init has forked the session.
    pub(super) fn rescued(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        self.running(name)?;
        let Some(jail) = self.jails.get(name) else { return Ok(WardenReply::Unchanged) };
        let back = self.emergencies.forked(&self.groups, name, jail.record.pid);
        back.map_err(|error| failure(ExitStatus::Failed, name, "rescue", &error))?;
        self.still_runs(name)
    }

    /// Init was moved by its number, which was its own if it runs still.
    pub(super) fn still_runs(&self, name: &TenantName) -> Result<WardenReply, Failure> {
        match self.jails.get(name).map(|jail| process::has_ended(&jail.pidfd, Duration::ZERO)) {
            Some(Ok(false)) => Ok(WardenReply::Done),
            _ => Err(Failure::of(ExitStatus::Refused, format!("the jail of \"{name}\" has ended"))),
        }
    }

    /// Writes down what a full disk has kept from being written; says what is new of it.
    pub(crate) fn check_ledger(&mut self, now: Instant) -> Option<String> {
        self.ledger.write_pending(now)
    }

    /// Takes reserves back in which nobody is any more; says which could not be.
    pub(crate) fn check_emergency_sessions(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for name in self.emergencies.due() {
            let Some(jail) = self.jails.get(&name) else { continue };
            let declared = match self.policy.tenant(&name) {
                Ok((_, Some(tenant))) => Some(controls(&tenant.settings.limits, &self.facts)),
                _ => None,
            };
            let taken = self.emergencies.forked(&self.groups, &name, jail.record.pid);
            if let Err(error) = taken.and_then(|()| self.emergencies.take_back(&self.groups, &name, declared))
                && self.emergencies.is_news(&name)
            {
                let reason = Failure::new(ExitStatus::Failed, &error).message;
                problems.push(format!("tenant={name} event=reserve-not-taken-back reason={reason:?}"));
            }
        }
        problems
    }
}
