//! What is asked of the warden, and what it last told: of each tenant and of the host.

use crate::directory::Directory;
use crate::sync::lock;
use crate::warden_link::WardenLink;
use bailiwick_observe::Meter;
use bailiwick_policy::Tenant;
use bailiwick_proto::warden::{FtpProcess, MOST_OBSERVED, RosterEntry};
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_types::{ExitStatus, HostFacts, InForce, Observed, TenantName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub(crate) type Roster = BTreeMap<TenantName, RosterEntry>;

/// The warden, as the rest of this program sees it.
#[derive(Debug)]
pub(crate) struct WardenClient {
    link: WardenLink,
    /// Tenants as the warden last told of them: what a session needs to know, so that none waits for the warden.
    known: Mutex<Directory>,
    /// What the host is capable of, as the warden last told it: some of it only root can learn.
    facts: Mutex<Option<Arc<HostFacts>>>,
    meter: OnceLock<Option<Meter>>,
}

impl WardenClient {
    pub(crate) fn new(link: WardenLink) -> Self {
        Self { link, known: Mutex::default(), facts: Mutex::default(), meter: OnceLock::new() }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, request: &WardenRequest) -> Result<WardenReply, Failure> {
        self.link.ask(request).await
    }

    /// Tenants as the warden last told of them. Nothing is awaited while it is held.
    pub(crate) fn known(&self) -> MutexGuard<'_, Directory> {
        lock(&self.known)
    }

    /// Everybody who has ids.
    pub(crate) async fn roster(&self) -> Result<Roster, Failure> {
        match self.link.ask(&WardenRequest::Roster).await? {
            WardenReply::Roster(roster) => {
                self.known().replace(&roster);
                Ok(roster)
            }
            _ => Err(unexpected()),
        }
    }

    /// One tenant; `None` when it has no ids.
    pub(crate) async fn entry(&self, name: &TenantName) -> Result<Option<RosterEntry>, Failure> {
        match self.link.ask(&WardenRequest::Entry { tenant: name.clone() }).await? {
            WardenReply::Entry(entry) => {
                match &entry {
                    Some(entry) => self.known().put(name, entry),
                    None => self.known().remove(name),
                };
                Ok(entry.map(|entry| *entry))
            }
            _ => Err(unexpected()),
        }
    }

    /// What the host was capable of when it was last asked for: at most one round of the reconciler ago. Whoever compares or
    /// changes limits asks for [`Self::fresh_facts`]: an operator may have switched quotas on or off a moment ago.
    pub(crate) async fn facts(&self) -> Result<Arc<HostFacts>, Failure> {
        let known = lock(&self.facts).clone();
        match known {
            Some(facts) => Ok(facts),
            None => self.fresh_facts().await,
        }
    }

    /// What the host is capable of now.
    pub(crate) async fn fresh_facts(&self) -> Result<Arc<HostFacts>, Failure> {
        match self.link.ask(&WardenRequest::Facts).await? {
            WardenReply::Facts(facts) => {
                let facts = Arc::new(*facts);
                *lock(&self.facts) = Some(Arc::clone(&facts));
                Ok(facts)
            }
            _ => Err(unexpected()),
        }
    }

    /// What reads the groups of tenants; `None` on a host whose groups cannot be found.
    pub(crate) async fn meter(&self) -> Option<&Meter> {
        if let Some(known) = self.meter.get() {
            return known.as_ref();
        }
        let facts = self.facts().await.ok()?;
        self.meter.get_or_init(|| Meter::new(&facts).ok()).as_ref()
    }

    /// What is in force for those of a portion whose jails run; of one that is down the roster says enough: 10,000 of them
    /// cost nothing.
    pub(crate) async fn in_force(
        &self,
        portion: &[(TenantName, Option<Tenant>)],
        roster: &Roster,
    ) -> Result<Vec<Option<InForce>>, Failure> {
        let is_up = |name: &TenantName| roster.get(name).is_some_and(|entry| entry.pid.is_some());
        let up: Vec<TenantName> = portion
            .iter()
            .filter(|(name, tenant)| tenant.is_some() && is_up(name))
            .map(|(name, _)| name.clone())
            .collect();
        if up.is_empty() {
            return Ok(portion.iter().map(|_| None).collect());
        }
        let WardenReply::InForce(all) = self.link.ask(&WardenRequest::InForce { tenants: up }).await? else {
            return Err(unexpected());
        };
        let mut all = all.into_iter().peekable();
        Ok(portion.iter().map(|(name, _)| all.next_if(|actual| actual.tenant == *name)).collect())
    }

    /// The kernel's view of tenants, in their order. Asked for in portions; one that does not fit into an answer, because a
    /// tenant has made as many processes and mounts as it may, is asked for one by one.
    pub(crate) async fn observe(&self, tenants: &[TenantName]) -> Result<Vec<Observed>, Failure> {
        let mut all = Vec::with_capacity(tenants.len());
        for portion in tenants.chunks(MOST_OBSERVED) {
            match self.link.ask(&WardenRequest::Observe { tenants: portion.to_vec() }).await {
                Ok(WardenReply::Observed(observed)) if observed.len() == portion.len() => all.extend(observed),
                Ok(_) => return Err(unexpected()),
                Err(failure) if portion.len() == 1 => return Err(failure),
                Err(_) => {
                    for tenant in portion {
                        let request = WardenRequest::Observe { tenants: vec![tenant.clone()] };
                        match self.link.ask(&request).await? {
                            WardenReply::Observed(observed) if observed.len() == 1 => all.extend(observed),
                            _ => return Err(unexpected()),
                        }
                    }
                }
            }
        }
        Ok(all)
    }

    /// The kernel's view of one tenant.
    pub(crate) async fn observe_one(&self, tenant: &TenantName) -> Result<Observed, Failure> {
        self.observe(std::slice::from_ref(tenant)).await?.pop().ok_or_else(unexpected)
    }

    /// Processes of FTP servers that are in the jail of a tenant, or of anybody.
    pub(crate) async fn ftp_processes(&self, tenant: Option<&TenantName>) -> Result<Vec<FtpProcess>, Failure> {
        match self.link.ask(&WardenRequest::FtpProcesses { tenant: tenant.cloned() }).await? {
            WardenReply::FtpProcesses(processes) => Ok(processes),
            _ => Err(unexpected()),
        }
    }
}

pub(crate) fn unexpected() -> Failure {
    Failure::of(ExitStatus::Failed, "bailiwick-warden gave an answer of the wrong kind")
}
