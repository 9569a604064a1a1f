//! Requests to `bailiwick-net`, which connects jails to the network: a verb and a tenant's name.
//!
//! The warden asks for changes. `bailiwickd` asks for what the kernel says. `bailiwick-net` reads from the root-owned policy what
//! a tenant may do.
//!
//! Danger: only root may ask for a change. Requests that change something come over a socket of their own, which only root can
//! connect to.

use crate::Failure;
use bailiwick_types::{NetworkConnection, NetworkFacts, NetworkTraffic, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The socket of `bailiwick-net` for requests that change nothing, below the runtime directory.
pub const NET_SOCKET: &str = "network/net.sock";
/// Its socket for all requests, which only root can connect to.
pub const NET_ROOT_SOCKET: &str = "network/root.sock";
/// The file that `bailiwickd` writes when somebody needs a network and nobody serves, or when the link to the host is to follow changed
/// settings at once, below the runtime directory. It has no content.
pub const NET_WANTED: &str = "control/network.wanted";
/// The file in which `bailiwick-net --uplink` says why it could not make the link, below the runtime directory. Everybody may read it.
pub const NET_ERROR: &str = "network/error";
/// What came of the last `bailiwick-net --uplink`, below the runtime directory. Only `bailiwick-net` reads it.
pub const NET_REPORT: &str = "network/uplink.json";
/// The directory of these sockets, below the runtime directory.
pub const NET_DIR: &str = "network";
/// The file in that directory that `bailiwick-net --uplink` leaves for the cache of names. The cache runs while it is there.
pub const NET_CACHE: &str = "unbound.conf";
/// The most bytes of a request.
pub const MAX_NET_REQUEST: usize = 16 << 10;
/// The most tenants of one `Observe`.
pub const MOST_NETWORKS: usize = 64;
/// The most connections in a reply.
pub const MOST_CONNECTIONS: usize = 1000;

/// A request to `bailiwick-net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetRequest {
    /// Ask for the version. Safe: the reply tells nothing that the binary does not.
    Hello,
    /// Connect a jail that is being made, as the policy says. One descriptor: the jail's network namespace. Only from root.
    Connect {
        /// The tenant.
        tenant: TenantName,
        /// The number of its range of ids, from which its addresses follow.
        number: u32,
    },
    /// Put the policy of a tenant in force for the jail that runs. Only from root.
    Update {
        /// The tenant.
        tenant: TenantName,
    },
    /// Forget what a tenant has used: its data is purged. Only from root.
    Forget {
        /// The tenant.
        tenant: TenantName,
    },
    /// Read what the kernel says of tenants' networks.
    Observe {
        /// The tenants, each once, at most [`MOST_NETWORKS`]. The reply has the same order.
        tenants: Vec<TenantName>,
    },
    /// Read what every tenant has sent and received.
    Traffic,
    /// List the open connections of a tenant.
    Connections {
        /// The tenant.
        tenant: TenantName,
    },
    /// Compare the router with what it should be.
    Problems,
}

impl NetRequest {
    /// Whether it changes something, so that only root may ask.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Update { .. } | Self::Forget { .. } => true,
            Self::Hello | Self::Observe { .. } | Self::Traffic | Self::Connections { .. } | Self::Problems => false,
        }
    }
}

/// A reply of `bailiwick-net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetReply {
    /// To `Hello`.
    Hello {
        /// The version.
        version: String,
    },
    /// The request was carried out and changed something.
    Done,
    /// The request had nothing to change.
    Unchanged,
    /// To `Observe`.
    Observed(Vec<NetworkFacts>),
    /// To `Traffic`.
    Traffic(BTreeMap<TenantName, NetworkTraffic>),
    /// To `Connections`.
    Connections {
        /// At most [`MOST_CONNECTIONS`].
        connections: Vec<NetworkConnection>,
        /// Whether there are more.
        cut: bool,
    },
    /// To `Problems`: differences between the router and what it should be, each by its finding.
    Problems(Vec<NetProblem>),
    /// The request failed and left nothing half done.
    Failed(Failure),
}

/// A difference between the router and what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetProblem {
    /// The id of the finding of an audit, such as `BW122`.
    pub finding: String,
    /// The tenant that it concerns; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// What differs.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::RefusedPacket;

    #[test]
    fn a_reason_is_the_same_word_in_messages_and_in_counters() {
        for reason in RefusedPacket::ALL {
            assert_eq!(serde_json::to_string(reason).expect("JSON"), format!("\"{}\"", reason.word()));
        }
    }

    #[test]
    fn only_what_changes_something_is_roots() {
        let tenant: TenantName = "alice".parse().expect("a name");
        let free = [
            NetRequest::Hello,
            NetRequest::Observe { tenants: vec![tenant.clone()] },
            NetRequest::Traffic,
            NetRequest::Connections { tenant: tenant.clone() },
            NetRequest::Problems,
        ];
        assert!(free.iter().all(|request| !request.changes()));
        let changes = [
            NetRequest::Connect { tenant: tenant.clone(), number: 1 },
            NetRequest::Update { tenant: tenant.clone() },
            NetRequest::Forget { tenant },
        ];
        assert!(changes.iter().all(NetRequest::changes));
    }
}
