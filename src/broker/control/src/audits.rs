//! Audits: an operator's request to verify every wall and limit.

use crate::init_client;
use crate::inits::Inits;
use crate::net_client::NetClient;
use crate::permission::OperatorPermission;
use crate::reconcile;
use crate::records::Records;
use crate::service_keeper::ServiceKeeper;
use crate::sessions::Sessions;
use crate::sync::at_once;
use crate::tenants::Tenants;
use crate::waking::{Cause, Claim, Waking};
use crate::warden_client::Roster;
use bailiwick_audit::{NetworkSeen, RouterProblem};
use bailiwick_plan::lifecycle::{Declaration, JailStep, desired, next};
use bailiwick_plan::mount::confinement;
use bailiwick_plan::network::{PacketProbe, PacketProbes};
use bailiwick_policy::{Host, Tenant};
use bailiwick_proto::control::Depth;
use bailiwick_proto::net::NetProblem;
use bailiwick_proto::warden::MOST_OBSERVED;
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_types::{AuditReport, NetworkFacts, NetworkMode, RefusedPacket, SocketName, TenantName, TenantReport};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The connections to the sockets of tenants, by tenant and socket.
type Connections = BTreeMap<TenantName, BTreeMap<SocketName, u64>>;

/// A connection that thaws a tenant has done so after this time.
const THAW_TIME: Duration = Duration::from_millis(500);

/// Audits tenants.
#[derive(Debug)]
pub(crate) struct Audits {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) inits: Arc<Inits>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) records: Arc<Records>,
    pub(crate) service_keeper: Arc<ServiceKeeper>,
    pub(crate) waking: Arc<Waking>,
    pub(crate) net: Arc<NetClient>,
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
        let pool = bailiwick_observe::pool_backing(&facts.storage);
        let mut tenants = Vec::new();
        for portion in declared.chunks(MOST_OBSERVED) {
            let names: Vec<TenantName> = portion.iter().map(|tenant| tenant.name.clone()).collect();
            let waiting = self.connected_although_frozen(&names).await;
            let _awake = if depth == Depth::Probe { self.keep_thawed(&names).await } else { Vec::new() };
            let mut all = self.tenants.warden.observe(&names).await?;
            self.inits.ask_inits(&mut all).await;
            let networks = self.networks(portion).await;
            for (tenant, observed) in portion.iter().zip(all) {
                let mut report = bailiwick_audit::judge(tenant, &host, &facts, &observed);
                add_sessions(&mut report, tenant, &self.sessions);
                if let Some(silent) = self.inits.health.silent_for(&tenant.name) {
                    bailiwick_audit::add_silence(&mut report, silent.as_secs());
                }
                self.add_state_of_file(&mut report, tenant);
                bailiwick_audit::add_pool(&mut report, pool.as_ref());
                let seen = match &networks {
                    Ok((all, problems)) => {
                        NetworkSeen::Answer { facts: all.iter().find(|facts| facts.tenant == tenant.name), problems }
                    }
                    Err(failure) => NetworkSeen::Silent(&failure.message),
                };
                bailiwick_audit::add_network(&mut report, tenant, observed.jail.as_ref(), seen);
                bailiwick_audit::add_services(&mut report, self.service_keeper.seen(tenant));
                let actual = reconcile::actual(roster.get(&tenant.name));
                if next(desired(Declaration::Known(tenant)), &actual).jail == JailStep::Asleep {
                    bailiwick_audit::add_asleep(&mut report, &observed);
                }
                if let Some(connections) = waiting.get(&tenant.name) {
                    bailiwick_audit::add_frozen(&mut report, connections);
                }
                if let (Depth::Probe, Some(jail), Some(ids)) = (depth, &observed.jail, observed.ids)
                    && !jail.frozen
                {
                    let socket = self.tenants.init_socket(&tenant.name, jail.access);
                    let before = networks.as_ref().ok().and_then(|(all, _)| {
                        all.iter().find(|facts| facts.tenant == tenant.name).filter(|facts| facts.link.is_some())
                    });
                    let packets = before.map_or_else(Vec::new, |_| packets(tenant, &host, &roster));
                    let told = self.inits.talk(&tenant.name, init_client::probe(&socket, ids, &packets)).await.ok();
                    if let Some(before) = before {
                        let refused = self.refused_since(before).await;
                        bailiwick_audit::add_packets(&mut report, &packets, told.as_deref(), &refused);
                    }
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

    /// What `bailiwick-net` says of those of these tenants that have a network, and of the router. It is not asked when none has one.
    async fn networks(&self, tenants: &[Tenant]) -> Result<(Vec<NetworkFacts>, Vec<RouterProblem>), Failure> {
        let with_network = tenants.iter().filter(|tenant| tenant.settings.network.mode != NetworkMode::None);
        let names: Vec<TenantName> = with_network.map(|tenant| tenant.name.clone()).collect();
        if names.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let (facts, problems) = self.net.with(move |link| Ok((link.observe(&names)?, link.differences()?))).await?;
        let problem = |NetProblem { finding, tenant, text }| RouterProblem { finding, tenant, text };
        Ok((facts, problems.into_iter().map(problem).collect()))
    }

    /// How many packets of a tenant the router has refused since it was asked, by reason; nothing if it does not say.
    async fn refused_since(&self, before: &NetworkFacts) -> BTreeMap<RefusedPacket, u64> {
        let name = before.tenant.clone();
        let now = self.net.with(move |link| link.observe_one(&name)).await;
        let now = now.ok().flatten().map(|facts| facts.refused).unwrap_or_default();
        let rise = |(reason, count): (RefusedPacket, u64)| {
            (reason, count.saturating_sub(before.refused.get(&reason).copied().unwrap_or_default()))
        };
        now.into_iter().map(rise).collect()
    }

    /// The tenants that are frozen because they were idle, although their sockets have connections that stay, with these.
    async fn connected_although_frozen(&self, names: &[TenantName]) -> Connections {
        let mut stay: Option<Connections> = None;
        for pause in [Duration::ZERO, THAW_TIME] {
            if stay.as_ref().map_or_else(|| !names.iter().any(|name| self.tenants.was_idle(name)), BTreeMap::is_empty) {
                break;
            }
            tokio::time::sleep(pause).await;
            let Ok(WardenReply::Connections(mut all)) = self.tenants.warden.ask(&WardenRequest::Connections).await
            else {
                return BTreeMap::new();
            };
            all.retain(|name, _| {
                names.contains(name)
                    && self.tenants.was_idle(name)
                    && stay.as_ref().is_none_or(|before| before.contains_key(name))
            });
            stay = Some(all);
        }
        stay.unwrap_or_default()
    }

    /// Thaws tenants that are frozen because they are idle: probes run inside. A tenant that cannot be thawed is judged
    /// without them.
    async fn keep_thawed(&self, names: &[TenantName]) -> Vec<Claim> {
        let all = names.iter().map(|name| self.waking.keep_thawed(name, Cause::Operator));
        at_once(all.collect()).await.into_iter().filter_map(Result::ok).collect()
    }

    fn add_state_of_file(&self, report: &mut TenantReport, tenant: &Tenant) {
        if self.tenants.policy.loaded().is_last_good(tenant) {
            bailiwick_audit::add_last_good(report);
        }
    }
}

/// The packets that must not arrive when a tenant sends them; none if this host does not say what addresses it gives to jails, for
/// then no jail starts.
fn packets(tenant: &Tenant, host: &Host, roster: &Roster) -> Vec<PacketProbe> {
    let Ok(pools) = bailiwick_observe::network::pools(&host.network) else { return Vec::new() };
    let resolvers = bailiwick_observe::network::jail_resolvers(&host.network, pools).unwrap_or_default();
    // One that runs would answer, if the packet arrived.
    let others = || roster.iter().filter(|(name, _)| **name != tenant.name);
    let other = others().find(|(_, entry)| entry.pid.is_some()).or_else(|| others().next());
    let neighbour = other.and_then(|(_, entry)| pools.tenant(host.ids.number(entry.ids)).ok());
    PacketProbes { network: &tenant.settings.network, pools, neighbour, resolvers: &resolvers }.all()
}

/// Adds the counts of a tenant's sessions, which only this program has, to its report.
pub(crate) fn add_sessions(report: &mut TenantReport, tenant: &Tenant, sessions: &Sessions) {
    let (all, by) = (sessions.of(&tenant.name), sessions.by_door(&tenant.name));
    bailiwick_audit::add_sessions(report, tenant, all, &by);
}
