//! Requests to the warden, and its last replies about each tenant and the host.

use crate::directory::Directory;
use crate::sync::lock;
use crate::warden_link::WardenLink;
use bailiwick_observe::Meter;
use bailiwick_policy::Tenant;
use bailiwick_proto::init::MAX_ORDER_FDS;
use bailiwick_proto::warden::{FtpProcess, MOST_OBSERVED, RosterEntry};
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_types::{ExitStatus, HostFacts, InForce, Observed, ServiceName, TenantName};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub(crate) type Roster = BTreeMap<TenantName, RosterEntry>;

/// The warden, for the other services.
#[derive(Debug)]
pub(crate) struct WardenClient {
    link: WardenLink,
    /// The warden's last report of each tenant: what a session needs to know without waiting for the warden.
    known: Mutex<Directory>,
    /// The warden's last report of what the host can do. Only root can learn some of it.
    facts: Mutex<Option<Arc<HostFacts>>>,
    meter: OnceLock<Option<Meter>>,
}

impl WardenClient {
    pub(crate) fn new(link: WardenLink) -> Self {
        Self { link, known: Mutex::default(), facts: Mutex::default(), meter: OnceLock::new() }
    }

    /// Sends a request and waits for the reply.
    pub(crate) async fn ask(&self, request: &WardenRequest) -> Result<WardenReply, Failure> {
        self.link.ask(request).await
    }

    /// The files by which a process joins the control groups of a service, with its limits in force.
    pub(crate) async fn service_groups(
        &self,
        tenant: &TenantName,
        service: &ServiceName,
    ) -> Result<Vec<OwnedFd>, Failure> {
        let request = WardenRequest::ServiceGroups { tenant: tenant.clone(), service: service.clone() };
        match self.link.ask_for_fds(&request, MAX_ORDER_FDS).await? {
            (WardenReply::ServiceGroups, fds) => Ok(fds),
            _ => Err(unexpected()),
        }
    }

    /// The warden's last report of each tenant. Nothing is awaited while the lock is held.
    pub(crate) fn known(&self) -> MutexGuard<'_, Directory> {
        lock(&self.known)
    }

    /// Reads the entries of all tenants that have ids.
    pub(crate) async fn roster(&self) -> Result<Roster, Failure> {
        let asked = self.known().ask();
        match self.link.ask(&WardenRequest::Roster).await? {
            WardenReply::Roster(roster) => {
                self.known().replace(&roster, asked);
                Ok(roster)
            }
            _ => Err(unexpected()),
        }
    }

    /// Reads the entry of one tenant; `None` when it has no ids.
    pub(crate) async fn entry(&self, name: &TenantName) -> Result<Option<RosterEntry>, Failure> {
        let asked = self.known().ask();
        match self.link.ask(&WardenRequest::Entry { tenant: name.clone() }).await? {
            WardenReply::Entry(entry) => {
                match &entry {
                    Some(entry) => self.known().put(name, entry, asked),
                    None => self.known().remove(name, asked),
                }
                Ok(entry.map(|entry| *entry))
            }
            _ => Err(unexpected()),
        }
    }

    /// What the host can do, at most one round of the reconciler old. A caller that compares or changes limits must use
    /// [`Self::fresh_facts`], because an operator may just have switched quotas on or off.
    pub(crate) async fn facts(&self) -> Result<Arc<HostFacts>, Failure> {
        let known = lock(&self.facts).clone();
        match known {
            Some(facts) => Ok(facts),
            None => self.fresh_facts().await,
        }
    }

    /// What the host can do now.
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

    /// The meter that reads tenants' groups; `None` on a host whose groups cannot be found.
    pub(crate) async fn meter(&self) -> Option<&Meter> {
        if let Some(known) = self.meter.get() {
            return known.as_ref();
        }
        let facts = self.facts().await.ok()?;
        self.meter.get_or_init(|| Meter::new(&facts).ok()).as_ref()
    }

    /// The same meter, if it was found before.
    pub(crate) fn known_meter(&self) -> Option<&Meter> {
        self.meter.get()?.as_ref()
    }

    /// The settings in force of those tenants in a portion whose jails run. For a jail that is down the roster is
    /// enough, so 10,000 of them cost nothing.
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

    /// The kernel's state of these tenants, in their order. It is requested in portions. If a reply would be too large,
    /// because a tenant has very many processes and mounts, each tenant of the portion is requested alone.
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

    /// The kernel's state of one tenant.
    pub(crate) async fn observe_one(&self, tenant: &TenantName) -> Result<Observed, Failure> {
        self.observe(std::slice::from_ref(tenant)).await?.pop().ok_or_else(unexpected)
    }

    /// The processes of FTP servers in the jail of one tenant, or of all.
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
