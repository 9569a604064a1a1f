//! Answers requests for the metrics: cumulative readings of the host and of tenants, page by page.

use crate::overview::Overview;
use crate::permission::ObserverPermission;
use crate::reconciler::Reconciler;
use bailiwick_policy::MetricsSettings;
use bailiwick_proto::Failure;
use bailiwick_sys::file;
use bailiwick_types::{HostMetrics, MetricsDetail, MetricsPage, Moment, PoolSpace, TenantName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The metrics of the host.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) overview: Arc<Overview>,
    pub(crate) reconciler: Arc<Reconciler>,
}

impl Metrics {
    /// A page of the metrics: what comes after a tenant, or the host and the first tenants.
    pub(crate) async fn page(
        &self,
        permission: ObserverPermission,
        wanted: Option<MetricsDetail>,
        after: Option<TenantName>,
    ) -> Result<MetricsPage, Failure> {
        let settings = self.overview.tenants.policy.loaded().policy.host.metrics;
        let detail = permission.detail(wanted, settings.tenants);
        let fresh = Duration::from_secs(settings.cache.0);
        let (is_first, recorder) = (after.is_none(), &self.overview.recorder);
        let read = recorder.with(move |work| (work.metrics(detail, after.as_ref(), fresh), work.host_meter()));
        let (read, states) = tokio::join!(read, async { if is_first { self.overview.states().await } else { None } });
        let ((mut tenants, next), meter) = read?;
        self.overview.service_keeper.add_metrics(&mut tenants);
        let host = if is_first {
            let host = self.host(settings, detail).await;
            let (reserve_reached, audited) = (meter.reserve_reached, meter.audited);
            let (warden_up, history_written) = (states.is_some(), meter.history_written);
            let host = HostMetrics { warden_up, tenants: states, reserve_reached, history_written, audited, ..host };
            Some(Box::new(host))
        } else {
            None
        };
        Ok(MetricsPage { host, tenants, next })
    }

    /// What this program knows of the host without the warden and the recorder.
    async fn host(&self, settings: MetricsSettings, detail: MetricsDetail) -> HostMetrics {
        let overview = &self.overview;
        let policy = overview.tenants.policy.status(overview.refusals.total());
        let started = SystemTime::now().checked_sub(overview.started.elapsed());
        let started = started.and_then(|started| started.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        HostMetrics {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            detail,
            cache: settings.cache.0,
            started: Moment(started.as_secs()),
            pool: space(overview.tenants.policy.host().state_dir).await,
            policy_problems: policy.problems,
            policy_read: Moment(policy.read_at),
            sessions_refused: policy.refused,
            jail_starts: self.reconciler.start_times(),
            ..HostMetrics::default()
        }
    }
}

/// The space of the file system of a directory. It may be one that does not answer, so a thread asks that may block.
pub(crate) async fn space(dir: PathBuf) -> Option<PoolSpace> {
    let asked = tokio::task::spawn_blocking(move || file::space(&dir));
    let (size, free) = tokio::time::timeout(Duration::from_secs(1), asked).await.ok()?.ok()?.ok()?;
    Some(PoolSpace { size, free })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer};
    use crate::permission::{Caller, OperatorPermission};
    use bailiwick_proto::{WardenReply, WardenRequest};
    use bailiwick_types::{MOST_METERED, TenantState};
    use std::collections::BTreeMap;

    fn operator() -> ObserverPermission {
        Caller::Operator(OperatorPermission { uid: 7 }).observer().expect("may")
    }

    fn name(number: usize) -> TenantName {
        format!("t{number:05}").parse().expect("a name")
    }

    #[tokio::test]
    async fn pages_have_every_tenant_once_and_only_the_first_has_the_host() {
        let (_temp, services) = fake::host();
        services.start_recorder().expect("starts");
        fake::warden(&services, |request| match request {
            WardenRequest::Roster => Answer::Reply(WardenReply::Roster(BTreeMap::new())),
            _ => Answer::Close,
        });
        let all: Vec<TenantName> = (0..2 * MOST_METERED).map(name).collect();
        fake::sleepers(&services, &all);
        let (mut after, mut told, mut hosts) = (None, Vec::new(), Vec::new());
        loop {
            let page = services.metrics.page(operator(), Some(MetricsDetail::All), after).await.expect("a page");
            assert!(page.tenants.len() <= MOST_METERED);
            told.extend(page.tenants.into_iter().map(|tenant| (tenant.tenant, tenant.more.is_some())));
            hosts.push(page.host);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let golden = ["alice".parse().expect("a name")].into_iter().chain(all);
        assert_eq!(told, golden.map(|name| (name, true)).collect::<Vec<_>>());
        assert_eq!(hosts.len(), 3);
        let host = hosts.remove(0).expect("the host");
        assert!(hosts.iter().all(Option::is_none));
        let states = host.tenants.expect("the warden answers");
        assert_eq!(states.values().sum::<u64>(), 2001);
        assert!(host.warden_up && host.pool.is_none(), "there is no storage");
        assert_eq!((host.detail, host.cache, host.policy_problems), (MetricsDetail::All, 15, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_warden_the_rest_is_told() {
        let (_temp, services) = fake::host();
        services.start_recorder().expect("starts");
        let caller = Caller::Observer;
        // Nobody listens. Then somebody does, and says nothing.
        for answers in [false, true] {
            if answers {
                fake::warden(&services, |_| Answer::Never);
            }
            let page = services.metrics.page(caller.observer().expect("may"), None, None).await.expect("a page");
            let host = page.host.expect("the host");
            assert_eq!((host.warden_up, host.tenants), (false, None));
            let told: Vec<_> = page.tenants.iter().map(|tenant| (tenant.tenant.as_str(), &tenant.more)).collect();
            assert_eq!(told, [("alice", &None)]);
        }
    }

    #[tokio::test]
    async fn an_observer_gets_what_the_policy_says() {
        let (temp, services) = fake::host();
        services.start_recorder().expect("starts");
        fake::warden(&services, |_| Answer::Close);
        let text = std::fs::read_to_string(temp.path().join("bailiwick.toml")).expect("reads");
        let text = format!("{text}[metrics]\ntenants = \"none\"\ncache = \"1s\"\n");
        std::fs::write(temp.path().join("bailiwick.toml"), text).expect("writes");
        services.reload().expect("is valid");
        let observer = Caller::Observer.observer().expect("may");
        for (permission, tenants) in [(observer, 0), (operator(), 1)] {
            let page = services.metrics.page(permission, Some(MetricsDetail::All), None).await.expect("a page");
            assert_eq!((page.tenants.len(), page.host.expect("the host").cache), (tenants, 1));
        }
        assert!(TenantState::ALL.is_sorted(), "the list of states is whole and in their order");
    }
}
