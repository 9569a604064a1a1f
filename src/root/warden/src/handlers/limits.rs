//! Limits of a running jail: new limits, those of services, and the reserve of an emergency session.

use crate::jail::registry::Jails;
use crate::jail::resize;
use crate::limits::cgroups::Groups;
use crate::limits::disk;
use crate::limits::emergency_session::{EmergencyError, EmergencySessions};
use crate::limits::tenant_groups::GroupError;
use crate::net_client::NetAsk;
use crate::requests::{Begins, NetworkUpdate, Ticket, WaitsFor, failed, failure, has_ended};
use crate::state::Warden;
use bailiwick_plan::control::{controls, service_controls};
use bailiwick_plan::disk::DiskPlan;
use bailiwick_plan::lending;
use bailiwick_policy::{Host, ServiceLimits, Tenant};
use bailiwick_proto::{Failure, NetRequest, Refusal, WardenReply};
use bailiwick_types::{Access, ExitStatus, HostFacts, NetworkMode, ServiceName, TenantName};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a child may take to resize tmpfs mounts.
const RESIZE_TIME: Duration = Duration::from_secs(5);

impl Warden {
    /// Writes the limits that are declared now.
    pub(crate) fn limit(&mut self, name: &TenantName, ticket: Ticket) -> Begins {
        let (host, tenant) = self.policy.declared(name)?;
        self.jails.require(name)?;
        self.policy.read_facts()?;
        let (facts, limits) = (&self.policy.facts, &tenant.settings.limits);
        self.groups.reserve(facts, &host.reserve).map_err(failed(name, "limit"))?;
        if self.jails.get(name).is_some_and(|jail| jail.record.access == Access::ReadWrite) {
            self.lending.follow(&self.groups, name, &lending::names(&tenant.settings), tenant.settings.mail);
        }
        if let Some(ids) = self.ledger.ids(name) {
            let (plan, quota) = (DiskPlan::new(limits, facts), &facts.storage.quota);
            let before = disk::now(&self.storage, quota, name, ids);
            self.storage.bound(name, ids.first, &plan, quota).map_err(failed(name, "limit"))?;
            let now = disk::now(&self.storage, quota, name, ids);
            disk::note_written(&mut self.ledger, name, &plan, before.as_ref(), now);
            self.reserve.clamp(&self.storage, quota, name, ids);
        }
        let controls = controls(limits, facts);
        self.groups.free_service_cpu(name).map_err(failed(name, "limit"))?;
        let written = self.emergencies.limit(&self.groups, name, controls);
        let of_services = limit_services(&self.groups, &tenant, facts);
        written.and(of_services).map_err(failed(name, "limit"))?;
        let Some(jail) = self.jails.get(name) else { return Ok(Some(WardenReply::Unchanged)) };
        let sizes = [("/tmp", limits.tmp_size()), ("/dev/shm", limits.shm_size())];
        let resizing = resize::begin(jail.record.pid, sizes).map_err(failed(name, "limit"))?;
        let network = self.update_network(&tenant, &host)?;
        let what = WaitsFor::Resized { tenant: name.clone(), resizing, network };
        self.waiting.add(ticket, Instant::now() + RESIZE_TIME, what);
        Ok(None)
    }

    /// Asks for the rules of the network that is declared now; `None` for a jail without one.
    fn update_network(&self, tenant: &Tenant, host: &Host) -> Result<Option<NetworkUpdate>, Failure> {
        let name = &tenant.name;
        if tenant.settings.network.mode == NetworkMode::None || !self.jails.is_connected(name) {
            return Ok(None);
        }
        let request = NetRequest::Update { tenant: name.clone() };
        // `bailiwick-net` reads the policy after this. If that is a later one, the next comparison shows what it is already.
        let settings = bailiwick_plan::network::settings(tenant, &host.network);
        let ask = NetAsk::begin(&self.runtime, &request, None).map_err(failed(name, "change the network of"))?;
        Ok(Some(NetworkUpdate { ask, settings }))
    }

    /// For each hierarchy in which a service has limits of its own, the file by which a process moves itself to the
    /// service's group. The limits are in force. Groups of services that the policy does not have are removed.
    pub(crate) fn service_groups(&mut self, name: &TenantName, service: &ServiceName) -> Result<Vec<OwnedFd>, Failure> {
        let (_, tenant) = self.policy.declared(name)?;
        let limits = tenant
            .settings
            .services
            .iter()
            .find(|declared| declared.name == *service)
            .ok_or_else(|| Failure::of(ExitStatus::NotFound, format!("\"{name}\" has no service \"{service}\"")))?;
        self.jails.require(name)?;
        if self.jails.get(name).is_none() {
            return Err(Failure::of(ExitStatus::Refused, format!("\"{name}\" has no jail")));
        }
        self.groups.remove_services_except(name, |group| declares_limits(&tenant, group));
        let controls = service_controls(&limits.limits, &tenant.settings.limits, &self.policy.facts);
        self.groups.service(name, service, &controls).map_err(|error| {
            let status =
                if matches!(error, GroupError::Nominal { .. }) { ExitStatus::HostCannot } else { ExitStatus::Failed };
            failure(status, name, "limit a service of", &error)
        })
    }

    /// Gives a tenant the reserve for a session that could not start without it.
    pub(crate) fn begin_emergency(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let (_, tenant) = self.policy.declared(name)?;
        self.jails.require(name)?;
        let groups = self.groups.of(name).map_err(failed(name, "rescue"))?;
        if self.jails.is_frozen(name) {
            return Err(Refusal::Frozen { tenant: name.clone() }.into());
        }
        if groups.is_of_an_earlier_version() {
            return Err(Refusal::EarlierVersion { tenant: name.clone() }.into());
        }
        let Some(jail) = self.jails.get(name) else { return Ok(WardenReply::Unchanged) };
        let controls = controls(&tenant.settings.limits, &self.policy.facts);
        let given = self.emergencies.give(&self.groups, name, controls, jail.record.pid);
        given.map_err(|error| match error {
            EmergencyError::Group(error) => failed(name, "rescue")(error),
            error => Failure::new(ExitStatus::OverLimit, &error),
        })?;
        still_runs(&self.jails, name)
    }
}

/// Whether a service has limits of its own.
fn declares_limits(tenant: &Tenant, service: &str) -> bool {
    let of_that_name = tenant.settings.services.iter().find(|declared| declared.name.as_str() == service);
    of_that_name.is_some_and(|declared| declared.limits != ServiceLimits::default())
}

/// Writes the limits that are declared now to the groups of services, as far as they have one.
fn limit_services(groups: &Groups, tenant: &Tenant, facts: &HostFacts) -> Result<(), GroupError> {
    groups.remove_services_except(&tenant.name, |group| declares_limits(tenant, group));
    let made = groups.service_names(&tenant.name);
    for service in tenant.settings.services.iter().filter(|service| made.contains(service.name.as_str())) {
        let controls = service_controls(&service.limits, &tenant.settings.limits, facts);
        groups.service(&tenant.name, &service.name, &controls)?;
    }
    Ok(())
}

/// Init has forked the emergency session.
pub(crate) fn emergency_forked(
    groups: &Groups,
    emergencies: &mut EmergencySessions,
    jails: &mut Jails,
    name: &TenantName,
) -> Result<WardenReply, Failure> {
    jails.require(name)?;
    let Some(jail) = jails.get(name) else { return Ok(WardenReply::Unchanged) };
    emergencies.forked(groups, name, jail.record.pid).map_err(failed(name, "rescue"))?;
    still_runs(jails, name)
}

/// The number of init was used. It was certainly init's if init still runs.
fn still_runs(jails: &Jails, name: &TenantName) -> Result<WardenReply, Failure> {
    let runs = jails.get(name).is_some_and(|jail| jail.still_runs());
    if runs { Ok(WardenReply::Done) } else { Err(has_ended(name)) }
}
