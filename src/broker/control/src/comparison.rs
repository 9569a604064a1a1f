//! Compares the declaration of a tenant with its actual state. Pure.

use crate::reconcile;
use bailiwick_plan::lifecycle::{Actual, Declaration, desired};
use bailiwick_policy::{Host, Tenant};
use bailiwick_proto::warden::RosterEntry;
use bailiwick_types::{HostFacts, InForce};

/// The actual state of a tenant, by the roster and by the later reading of its jail; `None` if the jail was not read.
pub(crate) fn actual_now(tenant: Option<&Tenant>, entry: Option<&RosterEntry>, in_force: Option<&InForce>) -> Actual {
    let mut actual = reconcile::actual(entry);
    // The jail of a deleted tenant is not read.
    if tenant.is_some() {
        let access = in_force.and_then(|in_force| in_force.jail.as_ref()).map(|jail| jail.access);
        actual.jail = actual.jail.seen_again(access);
    }
    actual
}

pub(crate) fn declared(tenant: Option<&Tenant>) -> Declaration<'_> {
    tenant.map_or(Declaration::Deleted, Declaration::Known)
}

/// Why this host could not start the declared jail of a tenant. A suspended tenant without open doors should have no
/// jail.
pub(crate) fn cannot_start(tenant: &Tenant, host: &Host, facts: &HostFacts) -> Option<String> {
    desired(Declaration::Known(tenant)).jail.access()?;
    bailiwick_plan::check(tenant, host, facts).err().map(|error| error.to_string())
}
