//! Why the last start of each jail failed.

use crate::sync::lock;
use bailiwick_types::TenantName;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The reasons, by tenant.
#[derive(Debug, Default)]
pub(crate) struct StartFailures(Mutex<BTreeMap<TenantName, String>>);

impl StartFailures {
    pub(crate) fn note(&self, tenant: &TenantName, why: String) {
        lock(&self.0).insert(tenant.clone(), why);
    }

    pub(crate) fn forget(&self, tenant: &TenantName) {
        lock(&self.0).remove(tenant);
    }

    pub(crate) fn of(&self, tenant: &TenantName) -> Option<String> {
        lock(&self.0).get(tenant).cloned()
    }
}
