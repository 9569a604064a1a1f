//! Audits: an operator's request to verify every wall and limit.

use crate::init_client;
use crate::inits::Inits;
use crate::permission::OperatorPermission;
use crate::records::Records;
use crate::service_keeper::ServiceKeeper;
use crate::sessions::Sessions;
use crate::tenants::Tenants;
use bailiwick_plan::mount::confinement;
use bailiwick_policy::Tenant;
use bailiwick_proto::Failure;
use bailiwick_proto::control::Depth;
use bailiwick_proto::warden::MOST_OBSERVED;
use bailiwick_types::{AuditReport, TenantName, TenantReport};
use std::sync::Arc;

/// Audits tenants.
#[derive(Debug)]
pub(crate) struct Audits {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) inits: Arc<Inits>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) records: Arc<Records>,
    pub(crate) service_keeper: Arc<ServiceKeeper>,
}

impl Audits {
    /// Audits the named tenants, or all, and logs the report.
    pub(crate) async fn audit(
        &self,
        _permission: OperatorPermission,
        names: &[TenantName],
        depth: Depth,
    ) -> Result<AuditReport, Failure> {
        self.tenants.policy.reload().ok();
        let roster = self.tenants.warden.roster().await?;
        let (host, facts) = (self.tenants.policy.host(), self.tenants.warden.fresh_facts().await?);
        let declared: Vec<Tenant> =
            self.tenants.meant(names, &roster)?.into_iter().filter_map(|(_, tenant)| tenant).collect();
        let mut tenants = Vec::new();
        for portion in declared.chunks(MOST_OBSERVED) {
            let names: Vec<TenantName> = portion.iter().map(|tenant| tenant.name.clone()).collect();
            let mut all = self.tenants.warden.observe(&names).await?;
            self.inits.ask_inits(&mut all).await;
            for (tenant, observed) in portion.iter().zip(all) {
                let mut report = bailiwick_audit::judge(tenant, &host, &facts, &observed);
                add_sessions(&mut report, tenant, &self.sessions);
                if let Some(silent) = self.inits.health.silent_for(&tenant.name) {
                    bailiwick_audit::add_silence(&mut report, silent.as_secs());
                }
                self.add_state_of_file(&mut report, tenant);
                bailiwick_audit::add_services(&mut report, self.service_keeper.seen(tenant));
                if let (Depth::Probe, Some(jail), Some(ids)) = (depth, &observed.jail, observed.ids)
                    && !jail.frozen
                {
                    let socket = self.tenants.init_socket(&tenant.name, jail.access);
                    let told = self.inits.talk(&tenant.name, init_client::probe(&socket, ids)).await.ok();
                    let profile = confinement(tenant.settings.profile, jail.access);
                    bailiwick_audit::add_probes(&mut report, profile, told.as_deref());
                }
                tenants.push(report);
            }
        }
        let host = bailiwick_audit::host_report_with(&host.state_dir, Some(&facts));
        let report = AuditReport { tenants, host };
        self.records.log_audit(report.clone()).await;
        Ok(report)
    }

    fn add_state_of_file(&self, report: &mut TenantReport, tenant: &Tenant) {
        if self.tenants.policy.loaded().is_last_good(tenant) {
            bailiwick_audit::add_last_good(report);
        }
    }
}

/// Adds the counts of a tenant's sessions, which only this program has, to its report.
pub(crate) fn add_sessions(report: &mut TenantReport, tenant: &Tenant, sessions: &Sessions) {
    let (all, by) = (sessions.of(&tenant.name), sessions.by_door(&tenant.name));
    bailiwick_audit::add_sessions(report, tenant, all, &by);
}
