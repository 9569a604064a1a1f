//! A tenant as it is declared beside what it has. Pure.

use crate::reconcile;
use bailiwick_plan::lifecycle::{Actual, Declaration, desired};
use bailiwick_policy::{Host, Tenant};
use bailiwick_proto::warden::RosterEntry;
use bailiwick_types::{HostFacts, InForce};

/// What a tenant has now, by the roster and by what was read in its jail later; `None` when that was not asked for.
pub(crate) fn actual_now(tenant: Option<&Tenant>, entry: Option<&RosterEntry>, in_force: Option<&InForce>) -> Actual {
    let mut actual = reconcile::actual(entry);
    // Of a deleted tenant nothing is read.
    if tenant.is_some() {
        let access = in_force.and_then(|in_force| in_force.jail.as_ref()).map(|jail| jail.access);
        actual.jail = actual.jail.seen_again(access);
    }
    actual
}

pub(crate) fn declared(tenant: Option<&Tenant>) -> Declaration<'_> {
    tenant.map_or(Declaration::Deleted, Declaration::Known)
}

/// Why this host could not hold the jail that a tenant is declared to have. Who is suspended altogether is to have none.
pub(crate) fn cannot_start(tenant: &Tenant, host: &Host, facts: &HostFacts) -> Option<String> {
    desired(Declaration::Known(tenant)).jail.access()?;
    bailiwick_plan::check(tenant, host, facts).err().map(|error| error.to_string())
}
