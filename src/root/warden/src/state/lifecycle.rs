//! Jails begin and end: start, stop, freeze, purge. What takes time is in `slow`.

use super::*;

/// A reply, or nothing yet: then the request waits for its ticket.
pub(super) type Begins = Result<Option<WardenReply>, Failure>;

impl Warden {
    pub(super) fn start(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        let (host, tenant) = self.declared(name)?;
        if let (None, Declared::Suspended { reason }) = (tenant.access(), &tenant.state) {
            return Err(Refusal::Suspended { tenant: name.clone(), why: reason.clone() }.into());
        }
        if self.runs(name) {
            if self.jails.get(name).map(|jail| jail.record.access) != tenant.access() {
                return Err(Refusal::OtherJail { tenant: name.clone() }.into());
            }
            self.ledger.set_held(name, false);
            return Ok(Some(WardenReply::Unchanged));
        }
        let request = WardenRequest::Start { tenant: name.clone() };
        if self.is_put_off(ticket, &request) {
            // Its init had ended unseen.
            return Ok(None);
        }
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "start", error);
        reach(Step::Ledger).map_err(|error| failed(&BuildError::at(Step::Ledger)(error)))?;
        let ids = self.ledger.assign(name).map_err(|error| failed(&error))?;
        self.read_host()?;
        let before = self.disk_now(name, ids);
        let plan = JailPlan::new(&tenant, &host, ids, &self.facts)
            .map_err(|error| failure(ExitStatus::HostCannot, name, "start", &error))?;
        if self.is_preparing(&plan, ticket)? {
            return Ok(None);
        }
        if self.groups.ensure_bases(&self.facts, &host.reserve).map_err(|error| failed(&error))? {
            self.watch.listen_to(self.groups.pressure_triggers());
        }
        self.etc_view.look_again(&self.host.etc);
        let builder = Builder {
            plan: &plan,
            storage: &self.storage,
            runtime: &self.runtime,
            groups: &self.groups,
            init: &self.init,
            host_etc: self.etc_view.dir(),
            quota: &self.facts.storage.quota,
        };
        match builder.begin() {
            Ok(begun) => {
                self.note_disk(name, ids, &plan.disk, before.as_ref());
                self.await_child(name, ids, begun, ticket);
            }
            Err(unmade) => self.unmade(name, unmade, ticket),
        }
        Ok(None)
    }

    /// Ends a jail and starts the one that is declared. One that could not start leaves the jail as it is.
    pub(super) fn restart(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        let (host, tenant) = self.declared(name)?;
        // Who is suspended altogether is to be down.
        if tenant.access().is_some() {
            self.read_host()?;
            bailiwick_plan::check(&tenant, &host, &self.facts)
                .map_err(|error| failure(ExitStatus::HostCannot, name, "restart", &error))?;
        }
        if self.runs(name) {
            self.end(name, End::Ask);
        }
        if self.is_put_off(ticket, &WardenRequest::Start { tenant: name.clone() }) {
            return Ok(None);
        }
        self.start(name, ticket)
    }

    /// A child has become init.
    pub(super) fn started(
        &mut self,
        name: &TenantName,
        ids: IdRange,
        record: Record,
        pidfd: OwnedFd,
    ) -> Result<WardenReply, Failure> {
        systemd::keep(name, &pidfd);
        let jail = self.jail(name, record, pidfd);
        self.jails.insert(name.clone(), jail);
        self.ledger.set_held(name, false);
        self.clamp_again(name, ids);
        Ok(WardenReply::Done)
    }

    pub(super) fn jail(&self, name: &TenantName, record: Record, pidfd: OwnedFd) -> Jail {
        let freezer = self.groups.of(name).and_then(|groups| groups.freezer()).ok();
        Jail { record, pidfd, freezer }
    }

    /// Whether a jail runs; one whose init has ended unseen is cleared away.
    pub(super) fn runs(&mut self, name: &TenantName) -> bool {
        let Some(jail) = self.jails.get(name) else { return false };
        if process::has_ended(&jail.pidfd, Duration::ZERO).unwrap_or(false) {
            self.end(name, End::ByItself);
        }
        self.jails.contains_key(name)
    }

    pub(super) fn running(&mut self, name: &TenantName) -> Result<(), Failure> {
        if self.runs(name) {
            return Ok(());
        }
        let tenant = name.clone();
        Err(if self.slow.clears(name) {
            Refusal::Clearing { tenant }.into()
        } else {
            Refusal::NotRunning { tenant, why: None }.into()
        })
    }

    pub(super) fn stop(&mut self, name: &TenantName, hold: Hold, ticket: Ticket) -> Begins {
        if hold == Hold::Hold {
            self.ledger.set_held(name, true);
        }
        if self.runs(name) {
            self.end(name, End::Ask);
        }
        if !self.slow.clears(name) {
            return Ok(Some(WardenReply::Unchanged));
        }
        self.await_clear(name, WardenReply::Done, ticket);
        Ok(None)
    }

    pub(super) fn freeze(&mut self, name: &TenantName, frozen: bool, ticket: Ticket) -> Begins {
        self.running(name)?;
        let verb = if frozen { "freeze" } else { "thaw" };
        let failed = |error| failure(ExitStatus::Failed, name, verb, &error);
        if self.is_frozen(name) == frozen {
            return Ok(Some(WardenReply::Unchanged));
        }
        let freezing = self.groups.of(name).and_then(|groups| groups.freeze(frozen)).map_err(failed)?;
        self.await_freeze(name, freezing, ticket);
        Ok(None)
    }

    /// Whether a running jail is to stand still.
    pub(super) fn is_frozen(&self, name: &TenantName) -> bool {
        self.jails.get(name).and_then(|jail| jail.freezer.as_ref()).is_some_and(Freezer::is_frozen)
    }

    pub(super) fn purge(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        match bailiwick_policy::read_tenant(&self.config, name) {
            Ok((_, None)) => {}
            // A file that cannot be read may still mean the tenant: nothing is destroyed on a guess, nor by what was known before.
            Err(_) => {
                let message = format!(
                    "the policy has errors, so nobody knows whether \"{name}\" is still declared, and nothing is destroyed; see `bailiwick check`"
                );
                return Err(Failure::of(ExitStatus::Refused, message));
            }
            Ok((_, Some(_))) => {
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
        if self.is_put_off(ticket, &WardenRequest::Purge { tenant: name.clone() }) {
            return Ok(None);
        }
        let has_graves = self.hurry_graves(name);
        if !self.storage.holds(name) && self.ledger.ids(name).is_none() && !has_graves {
            return Err(Failure::of(ExitStatus::NotFound, format!("there is no data of a tenant \"{name}\"")));
        }
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "purge", error);
        self.host_users.remove(name).map_err(|error| failed(&error))?;
        let ids = self.ledger.ids(name);
        self.prepare_no_more(name);
        // Before the ledger: what is set aside and has no row there is found by its name (`take_up_graves`).
        let grave = self.storage.bury(name, ids).map_err(|error| failed(&error))?;
        // One that has ids and no data gets a name too, so that both go the same way.
        let grave = grave.or_else(|| ids.map(|ids| grave::name(name, ids)));
        if let Some(grave) = grave {
            let buried = self.ledger.bury(name, &grave);
            // Whatever came of that: nobody else would remove it.
            self.remove_grave(&grave).map_err(|error| failed(&error))?;
            buried.map_err(|error| failed(&error))?;
        }
        self.await_purge(name, ticket);
        Ok(None)
    }

    /// Goes on with what an earlier warden set aside. Its ids are those that its name or its disk quota tells, or that its tenant has
    /// still.
    pub(super) fn take_up_graves(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let found = self.storage.graves().unwrap_or_else(|error| {
            problems.push(format!("event=not-purged reason={:?}", error.to_string()));
            Vec::new()
        });
        let known: Vec<String> = self.ledger.purged().map(|(grave, _)| grave.clone()).collect();
        let all: BTreeSet<String> = found.into_iter().chain(known.iter().cloned()).collect();
        for grave in all {
            let mut row = Ok(());
            if !known.contains(&grave) {
                let named = grave::first_id(&grave);
                let is_its_own = |ids: IdRange| named.is_none_or(|first| first == ids.first);
                let of_tenant = grave::tenant(&grave).parse::<TenantName>().ok();
                let of_tenant =
                    of_tenant.filter(|name| !self.storage.holds(name) && self.ledger.ids(name).is_some_and(is_its_own));
                let project = || quota::project(&self.storage.open_grave(&grave)?, &self.facts.storage.quota);
                row = match (of_tenant, named.or_else(project)) {
                    (Some(name), _) => self.ledger.bury(&name, &grave),
                    (None, Some(first)) => self.ledger.take_for(&grave, first),
                    (None, None) => Ok(()),
                };
            }
            let removed = row.map_err(|error| Failure::new(ExitStatus::Failed, &error).message);
            let removed = removed.and_then(|()| self.remove_grave(&grave).map_err(|error| error.to_string()));
            if let Err(why) = removed {
                problems
                    .push(format!("tenant={} event=not-purged reason={why:?}", grave::tenant(&grave).escape_debug()));
            }
        }
        problems
    }
}
