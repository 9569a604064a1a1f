//! Limits of a running jail: new limits, and the reserve of an emergency session.

use crate::jail::registry::Jails;
use crate::jail::resize;
use crate::limits::cgroups::Groups;
use crate::limits::disk;
use crate::limits::emergency_session::{EmergencyError, EmergencySessions};
use crate::requests::{Begins, Ticket, WaitsFor, failed, has_ended};
use crate::state::Warden;
use bailiwick_plan::control::controls;
use bailiwick_plan::disk::DiskPlan;
use bailiwick_proto::{Failure, Refusal, WardenReply};
use bailiwick_types::{ExitStatus, TenantName};
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
        if let Some(ids) = self.ledger.ids(name) {
            let (plan, quota) = (DiskPlan::new(limits, facts), &facts.storage.quota);
            let before = disk::now(&self.storage, quota, name, ids);
            self.storage.bound(name, ids.first, &plan, quota).map_err(failed(name, "limit"))?;
            let now = disk::now(&self.storage, quota, name, ids);
            disk::note_written(&mut self.ledger, name, &plan, before.as_ref(), now);
            self.reserve.clamp(&self.storage, quota, name, ids);
        }
        let controls = controls(limits, facts);
        self.emergencies.limit(&self.groups, name, controls).map_err(failed(name, "limit"))?;
        let Some(jail) = self.jails.get(name) else { return Ok(Some(WardenReply::Unchanged)) };
        let sizes = [("/tmp", limits.tmp_size()), ("/dev/shm", limits.shm_size())];
        let resizing = resize::begin(jail.record.pid, sizes).map_err(failed(name, "limit"))?;
        let what = WaitsFor::Resized { tenant: name.clone(), resizing };
        self.waiting.add(ticket, Instant::now() + RESIZE_TIME, what);
        Ok(None)
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
