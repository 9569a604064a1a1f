//! The connections to the sockets of tenants' services. The warden counts those that a service has accepted: they belong to the
//! network namespace of the web server. Those that wait are at the listening socket, which this program alone can ask.

use crate::tenants::Tenants;
use crate::unavailable::{Waits, waits};
use crate::warden_client::unexpected;
use crate::web_sockets::WebSockets;
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_types::{SocketName, TenantName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The number of connections, by tenant and socket. The kernel tells this program only whether some wait: those are counted as one.
pub(crate) type Connections = BTreeMap<TenantName, BTreeMap<SocketName, u64>>;

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Counter {
    tenants: Arc<Tenants>,
    sockets: Arc<WebSockets>,
}

impl Counter {
    pub(crate) fn new(tenants: Arc<Tenants>, sockets: Arc<WebSockets>) -> Self {
        Self { tenants, sockets }
    }

    /// The connections of these tenants. One without any is left out.
    ///
    /// # Errors
    /// When the warden cannot be asked, or its kernel lists no sockets.
    pub(crate) async fn of<'a>(
        &self,
        tenants: impl IntoIterator<Item = &'a TenantName>,
    ) -> Result<Connections, Failure> {
        let mut accepted = match self.tenants.warden.ask(&WardenRequest::Connections).await? {
            WardenReply::Connections(connections) => connections,
            _ => return Err(unexpected()),
        };
        let mut all = Connections::new();
        for tenant in tenants {
            let mut own = accepted.remove(tenant).unwrap_or_default();
            for (socket, listener) in self.sockets.of(tenant) {
                if waits(&*listener) == Waits::Somebody {
                    *own.entry(socket).or_default() += 1;
                }
            }
            if !own.is_empty() {
                all.insert(tenant.clone(), own);
            }
        }
        Ok(all)
    }
}
