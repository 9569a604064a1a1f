//! Start, restart, stop, freeze and purge.

use crate::ftp;
use crate::identity::ledger::Ledger;
use crate::jail::child_setup::JailNetwork;
use crate::jail::registry::{End, Jails, Starting};
use crate::jail::start::{BuildError, Builder, FailedStart};
use crate::jail::step::{Step, reach};
use crate::jail::stop::CLEAR_TIME;
use crate::limits::cgroups::Groups;
use crate::limits::disk;
use crate::net_client::NetAsk;
use crate::requests::{Begins, Ticket, WaitingRequests, WaitsFor, failed, failure};
use crate::runtime::Runtime;
use crate::state::Warden;
use crate::storage::grave;
use crate::storage::preparing::PREPARE_TIME;
use crate::storage::removals::PURGE_TIME;
use crate::storage::seed::Preparation;
use bailiwick_plan::JailPlan;
use bailiwick_policy::{Declared, Host, Tenant};
use bailiwick_proto::{Failure, Hold, NetRequest, Refusal, WardenReply, WardenRequest};
use bailiwick_types::{Access, DiskFact, ExitStatus, FrozenBy, IdRange, NetworkMode, TenantName};
use std::error::Error;
use std::time::{Duration, Instant};

/// How long the kernel may take to freeze a group.
const FREEZE_TIME: Duration = Duration::from_secs(5);

impl Warden {
    /// Starts the jail that is declared.
    pub(crate) fn start(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        let (host, tenant) = self.policy.declared(name)?;
        if let (None, Declared::Suspended { reason }) = (tenant.access(), &tenant.state) {
            return Err(Refusal::Suspended { tenant: name.clone(), why: reason.clone() }.into());
        }
        if self.jails.runs(name) {
            if self.jails.get(name).map(|jail| jail.record.access) != tenant.access() {
                return Err(Refusal::OtherJail { tenant: name.clone() }.into());
            }
            self.ledger.set_held(name, false);
            return Ok(Some(WardenReply::Unchanged));
        }
        if self.is_put_off(ticket, &WardenRequest::Start { tenant: name.clone() }) {
            // Init had ended, and nobody had noticed.
            return Ok(None);
        }
        reach(Step::Ledger).map_err(|error| failed(name, "start")(BuildError::at(Step::Ledger)(error)))?;
        let ids = self.ledger.assign(name).map_err(failed(name, "start"))?;
        self.policy.read_facts()?;
        let before = disk::now(&self.storage, &self.policy.facts.storage.quota, name, ids);
        let plan = JailPlan::new(&tenant, &host, ids, &self.policy.facts)
            .map_err(|error| failure(ExitStatus::HostCannot, name, "start", &error))?;
        if self.is_preparing(&plan, ticket)? {
            return Ok(None);
        }
        let network = self.network_of(&tenant, &host, ids, "start")?;
        self.build(&plan, network.as_ref(), &host, before.as_ref(), ticket)
    }

    /// Makes the jail as far as its child, which then becomes init.
    fn build(
        &mut self,
        plan: &JailPlan,
        network: Option<&JailNetwork>,
        host: &Host,
        before: Option<&DiskFact>,
        ticket: Ticket,
    ) -> Begins {
        let (name, facts) = (&plan.tenant, &self.policy.facts);
        if self.groups.ensure_bases(facts, &host.reserve).map_err(failed(name, "start"))? {
            self.watch.listen_to(self.groups.pressure_triggers());
        }
        self.etc_view.look_again(&self.policy.host.etc);
        let host_sockets =
            self.lending.make_place(name).map_err(BuildError::at(Step::Runtime)).map_err(failed(name, "start"))?;
        let builder = Builder {
            plan,
            storage: &self.storage,
            runtime: &self.runtime,
            groups: &self.groups,
            init: &self.init,
            web: &self.web,
            mail: &self.mail,
            host_sockets: &host_sockets,
            host_etc: self.etc_view.dir(),
            quota: &facts.storage.quota,
            network,
        };
        match builder.begin() {
            Ok(child) => {
                self.note_disk(plan, before);
                self.jails.add_child(
                    name.clone(),
                    Starting { child, ids: plan.ids, host_sockets: plan.host_sockets.clone(), mail: plan.mail, ticket },
                );
            }
            Err(failed) => start_failed(&mut self.jails, &mut self.waiting, name, failed, ticket),
        }
        Ok(None)
    }

    /// The network of a tenant's jail with these ids; `None` for a loopback alone. `verb` is what a failure says cannot be done.
    fn network_of(
        &self,
        tenant: &Tenant,
        host: &Host,
        ids: IdRange,
        verb: &str,
    ) -> Result<Option<JailNetwork>, Failure> {
        if !has_network(tenant) {
            return Ok(None);
        }
        let impossible = |error: &(dyn Error + 'static)| failure(ExitStatus::HostCannot, &tenant.name, verb, error);
        let pools = bailiwick_observe::network::pools(&host.network).map_err(|error| impossible(&error))?;
        let resolvers =
            bailiwick_observe::network::jail_resolvers(&host.network, pools).map_err(|error| impossible(&error))?;
        let number = host.ids.number(ids);
        let addresses = pools.tenant(number).map_err(|error| impossible(&error))?;
        let settings = bailiwick_plan::network::settings(tenant, &host.network);
        Ok(Some(JailNetwork { number, addresses, resolvers, settings }))
    }

    fn note_disk(&mut self, plan: &JailPlan, before: Option<&DiskFact>) {
        let now = disk::now(&self.storage, &self.policy.facts.storage.quota, &plan.tenant, plan.ids);
        disk::note_written(&mut self.ledger, &plan.tenant, &plan.disk, before, now);
    }

    /// Whether a start must wait for the tenant's storage. If so, it waits now.
    fn is_preparing(&mut self, plan: &JailPlan, ticket: Ticket) -> Result<bool, Failure> {
        let name = &plan.tenant;
        let request = WardenRequest::Start { tenant: name.clone() };
        if !self.preparations.has(name) {
            let unprepared = self.storage.unprepared(plan, &self.policy.facts.storage.quota);
            let Some(preparation) = unprepared.map_err(failed(name, "start"))? else { return Ok(false) };
            if !ftp::processes(&self.groups, name).is_empty() {
                // These processes belong to a jail that is gone. While they run, they could move directories past the
                // accounting.
                self.jails.clear_away(name, None);
                return Ok(self.is_put_off(ticket, &request));
            }
            if let Preparation::Seed { .. } = preparation {
                // Before anything is written: a full tenant whose limit was raised must be able to start.
                let quota = &self.policy.facts.storage.quota;
                let before = disk::now(&self.storage, quota, name, plan.ids);
                self.storage.ensure_bound(plan, quota).map_err(failed(name, "start"))?;
                self.note_disk(plan, before.as_ref());
            }
            self.preparations.begin(name, preparation).map_err(failed(name, "start"))?;
        }
        let what = WaitsFor::Prepared { tenant: name.clone(), request };
        self.waiting.add(ticket, Instant::now() + PREPARE_TIME, what);
        Ok(true)
    }

    /// Ends a jail and starts the declared one. If that one could not start, the jail is left as it is.
    pub(crate) fn restart(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        let (host, tenant) = self.policy.declared(name)?;
        // The jail of a fully suspended tenant must be down.
        if tenant.access().is_some() {
            self.policy.read_facts()?;
            bailiwick_plan::check(&tenant, &host, &self.policy.facts)
                .map_err(|error| failure(ExitStatus::HostCannot, name, "restart", &error))?;
        }
        if let Some(ids) = self.ledger.ids(name).filter(|_| has_network(&tenant) && self.jails.runs(name)) {
            self.network_of(&tenant, &host, ids, "restart")?;
            let ask = NetAsk::begin(&self.runtime, &NetRequest::Hello, None).map_err(failed(name, "restart"))?;
            let (until, what) = (ask.until, WaitsFor::NetworkAnswers { tenant: name.clone(), ask });
            self.waiting.add(ticket, until, what);
            return Ok(None);
        }
        self.replace(name, ticket)
    }

    /// Ends a jail and starts the declared one.
    pub(crate) fn replace(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        let (_, tenant) = self.policy.declared(name)?;
        if self.jails.runs(name) {
            ask_to_end(&self.groups, &mut self.jails, name, time_of_services(&tenant));
        }
        if self.is_put_off(ticket, &WardenRequest::Start { tenant: name.clone() }) {
            return Ok(None);
        }
        self.start(name, ticket)
    }

    /// Destroys the data of a tenant that is no longer declared.
    pub(crate) fn purge(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        self.policy.require_undeclared(name)?;
        if self.jails.runs(name) {
            let message = format!("the jail of \"{name}\" runs; `bailiwick stop {name}` first");
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        if self.is_put_off(ticket, &WardenRequest::Purge { tenant: name.clone() }) {
            return Ok(None);
        }
        let has_graves = self.removals.hurry(name);
        let ids = self.ledger.ids(name);
        if !self.storage.holds(name) && ids.is_none() && !has_graves {
            return Err(Failure::of(ExitStatus::NotFound, format!("there is no data of a tenant \"{name}\"")));
        }
        let forgetting = self.forget_network(name)?;
        self.host_users.remove(name).map_err(failed(name, "purge"))?;
        self.runtime.forget_mail(name).map_err(failed(name, "purge"))?;
        self.preparations.cancel(name);
        // First the storage, then the ledger: a warden that finds storage set aside without a ledger row knows it by
        // its name (`resume_removals`).
        let grave = self.storage.bury(name, ids).map_err(failed(name, "purge"))?;
        // A tenant with ids but without data gets a name too, so both cases go on alike.
        if let Some(grave) = grave.or_else(|| ids.map(|ids| grave::name(name, ids))) {
            let buried = self.ledger.bury(name, &grave);
            // Even if the ledger failed: nobody else would remove the data.
            self.removals.add(&grave, self.storage.removal(&grave).map_err(failed(name, "purge"))?);
            buried.map_err(failed(name, "purge"))?;
        }
        self.waiting.add(ticket, Instant::now() + PURGE_TIME, WaitsFor::Purged { tenant: name.clone(), forgetting });
        Ok(None)
    }

    /// Asks for what a tenant has sent and received to be forgotten: the next one of that name must not pay for it. `None` on a host
    /// without networks. When `bailiwick-net` is only down, nothing is destroyed yet.
    fn forget_network(&self, name: &TenantName) -> Result<Option<NetAsk>, Failure> {
        match NetAsk::begin(&self.runtime, &NetRequest::Forget { tenant: name.clone() }, None) {
            Ok(ask) => Ok(Some(ask)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(failed(name, "purge")(error)),
        }
    }
}

/// A jail could not be made: the request gets its failure once the rest is cleared away.
pub(crate) fn start_failed(
    jails: &mut Jails,
    waiting: &mut WaitingRequests,
    name: &TenantName,
    (error, child): FailedStart,
    ticket: Ticket,
) {
    jails.clear_away(name, child);
    await_clear(jails, waiting, name, WardenReply::Failed(failed(name, "start")(error)), ticket);
}

/// Makes a request wait until a jail is gone; then `done` is the reply.
fn await_clear(jails: &Jails, waiting: &mut WaitingRequests, name: &TenantName, done: WardenReply, ticket: Ticket) {
    let late = jails.ending(name).map_or_else(|| Instant::now() + CLEAR_TIME, |ending| ending.late());
    waiting.add(ticket, late, WaitsFor::Cleared { tenant: name.clone(), done });
}

/// Whether the jail of a tenant has an interface beside its loopback. That of a suspended tenant has none.
fn has_network(tenant: &Tenant) -> bool {
    tenant.access() == Some(Access::ReadWrite) && tenant.settings.network.mode != NetworkMode::None
}

/// The longest time that a service of a tenant may take to end.
pub(crate) fn time_of_services(tenant: &Tenant) -> Duration {
    let longest = tenant.settings.services.iter().map(|service| service.stop.within.0).max();
    Duration::from_secs(longest.unwrap_or(0))
}

/// Ends a jail. `Hold` also notes that an operator keeps it down. `services` is how long its services may take.
pub(crate) fn stop(
    (ledger, groups): (&mut Ledger, &Groups),
    jails: &mut Jails,
    waiting: &mut WaitingRequests,
    (name, hold, services): (&TenantName, Hold, Duration),
    ticket: Ticket,
) -> Begins {
    let was_held = ledger.held(name);
    if hold == Hold::Hold {
        ledger.set_held(name, true);
    }
    if jails.runs(name) {
        ask_to_end(groups, jails, name, services);
    }
    if !jails.clears(name) {
        // A tenant that sleeps is down, but not stopped: from now on nothing wakes it.
        let is_new = ledger.held(name) && !was_held;
        return Ok(Some(if is_new { WardenReply::Done } else { WardenReply::Unchanged }));
    }
    await_clear(jails, waiting, name, WardenReply::Done, ticket);
    Ok(None)
}

/// Asks a running jail to end. One that was frozen because it was idle is thawed first: its services get their stop
/// signals, as those of a jail that was never frozen.
fn ask_to_end(groups: &Groups, jails: &mut Jails, name: &TenantName, services: Duration) {
    if jails.frozen(name) == Some(FrozenBy::Idle) {
        // Without a thaw its processes are killed.
        groups.of(name).and_then(|groups| groups.freeze(false)).ok();
    }
    jails.end(name, End::Ask(services));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    Stand,
    GoOn,
}

/// Freezes or thaws a jail.
///
/// Danger: the record is written before the jail is frozen. A warden that is killed between the two must not leave an
/// idle freeze that looks like an operator's, because nobody would thaw it, nor the other way round.
pub(crate) fn freeze(
    (groups, runtime): (&Groups, &Runtime),
    jails: &mut Jails,
    waiting: &mut WaitingRequests,
    (name, freeze, by): (&TenantName, Freeze, FrozenBy),
    ticket: Ticket,
) -> Begins {
    jails.require(name)?;
    let verb = if freeze == Freeze::Stand { "freeze" } else { "thaw" };
    match (freeze, jails.frozen(name), by) {
        (Freeze::GoOn, Some(FrozenBy::Operator), FrozenBy::Idle) => {
            return Err(Refusal::Frozen { tenant: name.clone() }.into());
        }
        (Freeze::Stand, Some(FrozenBy::Idle), FrozenBy::Operator) => {
            jails.note_frozen_by(runtime, name, by).map_err(failed(name, verb))?;
            return Ok(Some(WardenReply::Done));
        }
        (Freeze::Stand, Some(_), _) | (Freeze::GoOn, None, _) => return Ok(Some(WardenReply::Unchanged)),
        (Freeze::Stand, None, _) => jails.note_frozen_by(runtime, name, by).map_err(failed(name, verb))?,
        (Freeze::GoOn, Some(_), _) => {}
    }
    let freezing =
        groups.of(name).and_then(|groups| groups.freeze(freeze == Freeze::Stand)).map_err(failed(name, verb))?;
    if freeze == Freeze::GoOn {
        // A freeze that nobody notes is an operator's.
        jails.note_frozen_by(runtime, name, FrozenBy::Operator).map_err(failed(name, verb))?;
    }
    waiting.add(ticket, Instant::now() + FREEZE_TIME, WaitsFor::Frozen { tenant: name.clone(), freezing });
    Ok(None)
}
