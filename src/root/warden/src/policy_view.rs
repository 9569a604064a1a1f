//! What the operator has declared, and what the host can do.
//!
//! Danger: a request names a tenant and nothing else; what to do comes from the root-owned policy. When a file has an
//! error, its last good text is used, which is also root's.

use bailiwick_plan::control::{Control, controls};
use bailiwick_policy::{Diagnostic, Host, Store, Tenant};
use bailiwick_proto::warden::MOST_KEPT;
use bailiwick_proto::{Failure, Refusal};
use bailiwick_sys::file;
use bailiwick_types::{ExitStatus, HostFacts, TenantName};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) const MOVED: &str =
    "`state_dir`, `runtime_dir` or `ids` in bailiwick.toml changed; restart bailiwick-warden";

/// The declared state, and the host as it was last read.
#[derive(Debug)]
pub(crate) struct PolicyView {
    config: PathBuf,
    store: Store,
    /// Directories and ids are those of the warden's start. Reserve, `etc` and `web` are those last read. `mail` and the
    /// sockets of the host are those that `bailiwickd` has put in force ([`Self::keep`]).
    pub(crate) host: Host,
    pub(crate) facts: HostFacts,
    /// The group that may read the copies of the policy in force.
    gid: u32,
    /// Time of change, inode and size of the `bailiwick.toml` that was read last.
    read: Option<(i128, u64, u64)>,
}

impl PolicyView {
    pub(crate) fn new(config: PathBuf, store: Store, host: Host, facts: HostFacts, gid: u32) -> Self {
        Self { config, store, host, facts, gid, read: None }
    }

    /// The host and a tenant as they are declared now.
    pub(crate) fn declared(&mut self, name: &TenantName) -> Result<(Host, Tenant), Failure> {
        let invalid = |problems: Vec<Diagnostic>| Failure::of(ExitStatus::Invalid, bailiwick_policy::lines(&problems));
        let (host, tenant) = self.store.tenant(name).map_err(invalid)?;
        if self.is_moved(&host) {
            return Err(Failure::of(ExitStatus::Refused, MOVED));
        }
        self.host.reserve = host.reserve;
        self.host.etc.clone_from(&host.etc);
        self.host.web.clone_from(&host.web);
        let tenant = tenant.ok_or_else(|| Refusal::UnknownTenant { tenant: name.clone() })?;
        Ok((host, tenant))
    }

    /// The tenant, if the policy can be read and declares it.
    pub(crate) fn find(&mut self, name: &TenantName) -> Option<Tenant> {
        self.store.tenant(name).ok().and_then(|(_, tenant)| tenant)
    }

    /// The control-group limits that a tenant is declared with, if the policy can be read.
    pub(crate) fn controls(&mut self, name: &TenantName) -> Option<Vec<Control>> {
        self.find(name).map(|tenant| controls(&tenant.settings.limits, &self.facts))
    }

    /// Whether the policy now names other directories or ids than this warden uses.
    pub(crate) fn has_moved(&mut self) -> bool {
        self.store.host().is_ok_and(|(host, _)| self.is_moved(&host))
    }

    fn is_moved(&self, host: &Host) -> bool {
        host.state_dir != self.host.state_dir || host.runtime_dir != self.host.runtime_dir || host.ids != self.host.ids
    }

    /// Reads the host's facts again: an operator may have switched quotas on or off. Everything that writes or
    /// explains limits begins with this.
    pub(crate) fn read_facts(&mut self) -> Result<(), Failure> {
        let facts = bailiwick_observe::host_facts(&self.host.state_dir);
        self.facts = facts.map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
        Ok(())
    }

    /// Reads the reserve again if `bailiwick.toml` has changed; returns whether it did. A file with errors changes
    /// nothing.
    pub(crate) fn read_reserve(&mut self) -> bool {
        let file = file::open_dir(&self.config).and_then(|dir| file::metadata_at(dir, "bailiwick.toml")).ok();
        let now = file.map(|metadata| (metadata.modified, metadata.inode, metadata.size));
        if now == self.read {
            return false;
        }
        self.read = now;
        let Ok((host, _)) = self.store.host() else { return false };
        (self.host.reserve, self.host.etc, self.host.web) = (host.reserve, host.etc, host.web);
        true
    }

    /// Stores the policy that is in force, for the host and for tenants. `bailiwickd` asks for this once it has read the
    /// policy anew.
    pub(crate) fn keep(&mut self, names: &[TenantName]) -> Result<(), Failure> {
        bounded(names, MOST_KEPT)?;
        if let Ok((host, _)) = self.store.host() {
            (self.host.host_sockets, self.host.mail) = (host.host_sockets, host.mail);
        }
        let failed = |error: io::Error| {
            let mut failure = Failure::new(ExitStatus::Failed, &error);
            failure.message = format!("cannot write down the policy that is in force: {}", failure.message);
            failure
        };
        self.keep_host().map_err(failed)?;
        names.iter().try_for_each(|name| self.store.save(Some(name), self.gid)).map_err(failed)
    }

    pub(crate) fn keep_host(&self) -> io::Result<()> {
        self.store.save(None, self.gid)
    }

    /// Refuses to destroy the data of a tenant that is, or may be, declared.
    pub(crate) fn require_undeclared(&self, name: &TenantName) -> Result<(), Failure> {
        require_undeclared(&self.config, name)
    }
}

fn require_undeclared(config: &Path, name: &TenantName) -> Result<(), Failure> {
    let message = match bailiwick_policy::read_tenant(config, name) {
        Ok((_, None)) => return Ok(()),
        // An unreadable file may still declare the tenant. Nothing is destroyed on a guess, nor by the last good
        // text.
        Err(_) => format!(
            "the policy has errors, so nobody knows whether \"{name}\" is still declared, and nothing is destroyed; see `bailiwick check`"
        ),
        Ok((_, Some(_))) => {
            format!("tenant \"{name}\" is still declared; `bailiwick delete {name}` first, then its data can be purged")
        }
    };
    Err(Failure::of(ExitStatus::Refused, message))
}

/// Refuses too many names, and repeated names, which would bypass that bound.
pub(crate) fn bounded(names: &[TenantName], most: usize) -> Result<(), Failure> {
    let refused = |message| Err(Failure::of(ExitStatus::Invalid, message));
    if names.len() > most {
        return refused(format!("{} tenants are more than one request may name", names.len()));
    }
    let mut known = BTreeSet::new();
    match names.iter().find(|name| !known.insert(*name)) {
        Some(name) => refused(format!("one request names \"{name}\" twice")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_tenant_that_may_be_declared_is_not_destroyed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let config = temp.path().canonicalize().expect("real path");
        let name: TenantName = "alice".parse().expect("a name");
        let refused = || require_undeclared(&config, &name).map_err(|failure| failure.message);
        std::fs::write(config.join("bailiwick.toml"), "").expect("writes");
        std::fs::create_dir(config.join("tenants.d")).expect("mkdir");
        assert_eq!(refused(), Ok(()), "nobody declares it");
        std::fs::write(config.join("tenants.d/alice.toml"), "no TOML").expect("writes");
        assert!(refused().is_err_and(|why| why.contains("nobody knows whether")));
        std::fs::write(config.join("tenants.d/alice.toml"), "").expect("writes");
        assert!(refused().is_err_and(|why| why.contains("is still declared") || why.contains("nobody knows")));
    }

    #[test]
    fn a_request_names_few_tenants_and_each_once() {
        let names =
            |text: &str| -> Vec<TenantName> { text.split(' ').map(|name| name.parse().expect("a name")).collect() };
        assert!(bounded(&names("alice bob"), 2).is_ok());
        assert!(bounded(&names("alice bob carol"), 2).is_err());
        assert!(
            bounded(&names("alice bob alice"), 3).is_err_and(|failure| failure.message.contains("\"alice\" twice"))
        );
    }
}
