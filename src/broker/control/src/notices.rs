//! Answers requests for what notices are delivered by: the settings of the host and of tenants, page by page.

use crate::permission::NoticesPermission;
use crate::tenants::Tenants;
use bailiwick_policy::{Policy, Tenant};
use bailiwick_types::{MOST_NOTIFIED, NoticesHost, NoticesPage, TenantName, TenantNotices, Usage};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

/// What notices are delivered by.
#[derive(Debug)]
pub(crate) struct Notices {
    pub(crate) tenants: Arc<Tenants>,
}

impl Notices {
    /// A page: the tenants after one, or the host and the first tenants.
    pub(crate) fn page(&self, _: NoticesPermission, after: Option<TenantName>) -> NoticesPage {
        let loaded = self.tenants.policy.loaded();
        let policy = &loaded.policy;
        let range = (after.as_ref().map_or(Unbounded, Excluded), Unbounded);
        let mut declared = policy.tenants.range::<TenantName, _>(range).map(|(_, tenant)| tenant);
        let first = declared.by_ref().take(MOST_NOTIFIED);
        let tenants: Vec<TenantNotices> = first.map(|tenant| of_tenant(policy, tenant)).collect();
        let next = declared.next().and(tenants.last()).map(|last| last.tenant.clone());
        NoticesPage { host: after.is_none().then(|| Box::new(of_host(policy))), tenants, next }
    }
}

fn of_host(policy: &Policy) -> NoticesHost {
    let mail = &policy.host.mail;
    NoticesHost {
        mail_command: mail.command.clone(),
        mail_domain: mail.domain.clone(),
        contact: policy.host.contact.clone(),
        every: policy.host.notices.every.0,
    }
}

fn of_tenant(policy: &Policy, tenant: &Tenant) -> TenantNotices {
    TenantNotices {
        tenant: tenant.name.clone(),
        contact: tenant.contact.clone(),
        notices: policy.notices_of(tenant),
        limits: Usage::bounds(&tenant.settings.limits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use crate::permission::Caller;

    #[tokio::test]
    async fn pages_have_every_tenant_once_and_only_the_first_has_the_host() {
        let (_temp, services) = fake::host();
        let all: Vec<TenantName> =
            (0..2 * MOST_NOTIFIED).map(|number| format!("t{number:05}").parse().expect("a name")).collect();
        fake::sleepers(&services, &all);
        let permission = || Caller::Notifier.notices().expect("may");
        let (mut after, mut told, mut hosts) = (None, Vec::new(), Vec::new());
        loop {
            let page = services.notices.page(permission(), after);
            assert!(page.tenants.len() <= MOST_NOTIFIED);
            told.extend(page.tenants.into_iter().map(|tenant| tenant.tenant));
            hosts.push(page.host.is_some());
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let golden = ["alice".parse().expect("a name")].into_iter().chain(all);
        assert_eq!((told, hosts), (golden.collect::<Vec<_>>(), vec![true, false, false]));
    }
}
