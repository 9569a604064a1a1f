//! Answers `network`: what `bailiwick-net` says of a tenant's network.
//!
//! Danger: the list of connections makes `bailiwick-net` read the kernel's whole table. So only operators may ask; a tenant
//! reads its traffic in `usage` and `history`.

use crate::net_client::NetClient;
use crate::permission::OperatorPermission;
use crate::tenants::Tenants;
use bailiwick_proto::Failure;
use bailiwick_proto::control::TenantNetwork;
use bailiwick_types::{ExitStatus, NetworkConnection, NetworkFacts, NetworkMode, NetworkTraffic, TenantName};
use std::sync::Arc;

/// The networks of tenants.
#[derive(Debug)]
pub(crate) struct Networks {
    tenants: Arc<Tenants>,
    net: Arc<NetClient>,
}

impl Networks {
    pub(crate) fn new(tenants: Arc<Tenants>, net: Arc<NetClient>) -> Self {
        Self { tenants, net }
    }

    /// The network of a tenant, without its connections.
    pub(crate) async fn of(
        &self,
        _permission: OperatorPermission,
        tenant: &TenantName,
    ) -> Result<TenantNetwork, Failure> {
        self.tenants.check_known(std::slice::from_ref(tenant))?;
        let asked = tenant.clone();
        let facts = self.net.with(move |link| link.observe_one(&asked)).await?;
        let facts = facts.filter(has_network).ok_or_else(|| self.without(tenant))?;
        Ok(TenantNetwork { facts, connections: None, cut: false })
    }

    /// Why `bailiwick-net` has nothing to say of a tenant.
    fn without(&self, tenant: &TenantName) -> Failure {
        let declared =
            self.tenants.policy.declared(tenant).is_ok_and(|tenant| tenant.settings.network.mode != NetworkMode::None);
        let message = if !declared {
            format!("{tenant} has no network: write mode = \"outbound\" below [network]")
        } else if self.tenants.awake().contains(tenant) {
            format!("the jail of {tenant} runs and is not connected; `bailiwick restart {tenant}` connects it")
        } else {
            format!("the jail of {tenant} is not connected, because it does not run; `bailiwick start {tenant}`")
        };
        Failure::of(ExitStatus::Refused, message)
    }

    /// Open connections of a tenant, and whether there are more.
    pub(crate) async fn connections(
        &self,
        _permission: OperatorPermission,
        tenant: TenantName,
    ) -> Result<(Vec<NetworkConnection>, bool), Failure> {
        self.net.with(move |link| link.connections(&tenant)).await
    }
}

/// Whether a tenant has a network, or had one: `bailiwick-net` has something to say of it.
fn has_network(facts: &NetworkFacts) -> bool {
    let NetworkFacts { link, addresses, traffic, month, refused, differences, .. } = facts;
    let is_quiet = *traffic == NetworkTraffic::default() && *month == 0 && refused.is_empty();
    link.is_some() || !addresses.is_empty() || !is_quiet || !differences.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, NetAnswer};
    use crate::permission::RootPermission;
    use bailiwick_proto::{NET_SOCKET, NetReply, NetRequest};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[tokio::test]
    async fn each_reason_for_no_network_has_its_status() {
        let (_temp, services) = fake::host();
        let root = || OperatorPermission::from(RootPermission::of(0).expect("root"));
        let ask = async |tenant: &str| {
            let tenant = name(tenant);
            services.networks.of(root(), &tenant).await.map_err(|failure| (failure.status, failure.message))
        };
        let (status, message) = ask("alice").await.expect_err("nobody answers");
        assert_eq!(status, ExitStatus::Failed);
        assert!(message.starts_with("bailiwick-net does not run; `systemctl status bailiwick-net`"), "{message}");
        assert_eq!(ask("nemo").await.expect_err("unknown").0, ExitStatus::NotFound);

        let without = Arc::new(std::sync::Mutex::new(true));
        let is_without = Arc::clone(&without);
        fake::net_at(&services.host().runtime_dir.join(NET_SOCKET), move |request| {
            let alice = fake::facts(&name("alice"));
            let none = NetworkFacts { link: None, is_up: false, addresses: Vec::new(), ..alice.clone() };
            let facts = if *is_without.lock().expect("free") { none } else { alice };
            NetAnswer::Reply(match request {
                NetRequest::Observe { .. } => NetReply::Observed(vec![facts]),
                NetRequest::Connections { .. } => {
                    NetReply::Connections { connections: vec![fake::connection()], cut: true }
                }
                _ => NetReply::Unchanged,
            })
        });
        let golden = "alice has no network: write mode = \"outbound\" below [network]";
        assert_eq!(ask("alice").await, Err((ExitStatus::Refused, golden.to_owned())));
        *without.lock().expect("free") = false;
        assert_eq!(ask("alice").await.expect("it has one").facts, fake::facts(&name("alice")));
        let connections = services.networks.connections(root(), name("alice")).await;
        assert_eq!(connections, Ok((vec![fake::connection()], true)));
        let status = services.overview.status(root()).await;
        assert!(status.problems.iter().any(|problem| problem.contains("wrong kind")), "{status:?}");
    }

    #[test]
    fn a_tenant_that_ever_sent_something_has_a_network() {
        let connected = fake::facts(&name("alice"));
        let none = NetworkFacts { link: None, addresses: Vec::new(), is_up: false, ..connected.clone() };
        let used = NetworkFacts { month: 1, ..none.clone() };
        let refused = bailiwick_types::RefusedPacket::Dns;
        let all = [
            none.clone(),
            NetworkFacts { refused: [(refused, 1)].into(), ..none.clone() },
            NetworkFacts { differences: vec!["no link".to_owned()], ..none },
            used,
            connected,
        ];
        assert_eq!(all.map(|facts| has_network(&facts)), [false, true, true, true, true]);
    }
}
