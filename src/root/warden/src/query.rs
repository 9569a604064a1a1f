//! Replies about tenants and the host. Nothing is changed, except the end of a grace period.

use crate::jail::registry::Jail;
use crate::limits::disk;
use crate::policy_view::{MOVED, bounded};
use crate::requests::failed;
use crate::state::Warden;
use bailiwick_observe::{Census, InitSubject, ObserveError, Subject};
use bailiwick_proto::warden::{MOST_COMPARED, RosterEntry};
use bailiwick_proto::{Failure, WardenReply, web_socket_of};
use bailiwick_types::{DiskFact, ExitStatus, IdRange, InForce, MAX_SERVICES, MAX_SOCKETS, SocketName, TenantName};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

impl Warden {
    pub(crate) fn facts(&mut self) -> Result<WardenReply, Failure> {
        self.policy.read_facts()?;
        Ok(WardenReply::Facts(Box::new(self.policy.facts.clone())))
    }

    /// What every tenant uses of its quota.
    pub(crate) fn disks(&mut self) -> Result<WardenReply, Failure> {
        let is_clamped = self.reserve.is_reached();
        disk::all(&self.storage, &mut self.ledger, &mut self.policy, is_clamped).map(WardenReply::Disks)
    }

    /// What the kernel shows of tenants; `read` selects how much.
    pub(crate) fn look<T>(
        &mut self,
        names: &[TenantName],
        most: usize,
        read: impl Fn(&Subject<'_>, &Census) -> Result<T, ObserveError>,
        disk: impl Fn(&mut T) -> &mut Option<DiskFact>,
    ) -> Result<Vec<T>, Failure> {
        bounded(names, most)?;
        let census = Census::take(self.policy.host.ids, self.jails.networks());
        let census = census.map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let mut seen = self.look_at(name, &census, &read)?;
            if let Some(fact) = disk(&mut seen) {
                disk::explain(&self.ledger, self.reserve.is_reached(), name, fact);
            }
            all.push(seen);
        }
        Ok(all)
    }

    /// What can differ from the declaration. What is lent is known here alone: a control group may outlive it. The
    /// network is as its record says.
    pub(crate) fn in_force(&mut self, names: &[TenantName]) -> Result<Vec<InForce>, Failure> {
        let mut all = self.look(names, MOST_COMPARED, bailiwick_observe::in_force, |all| &mut all.disk)?;
        for InForce { tenant, jail, .. } in &mut all {
            if let Some(jail) = jail {
                let (host_sockets, mail) = self.lending.in_force(tenant);
                (jail.host_sockets, jail.mail) = (Some(host_sockets), mail);
                let record = self.jails.get(tenant).map(|jail| &jail.record);
                jail.connected = record.map(|record| record.connected);
                jail.nesting = record.and_then(|record| record.nesting);
                jail.network = record.and_then(|record| record.in_force.clone());
            }
        }
        Ok(all)
    }

    fn look_at<T>(
        &mut self,
        name: &TenantName,
        census: &Census,
        read: impl Fn(&Subject<'_>, &Census) -> Result<T, ObserveError>,
    ) -> Result<T, Failure> {
        let controls = self.policy.controls(name).unwrap_or_default();
        let has_groups = self.jails.runs(name) || self.jails.clears(name);
        let init = self.jails.get(name).map(|jail| {
            let record = &jail.record;
            let confined_now = record.confinement.as_ref().is_some_and(|own| self.confinements.contains(own));
            InitSubject {
                pid: record.pid,
                start_time: record.start_time,
                access: record.access,
                landlock: record.landlock,
                confined_now,
            }
        });
        let cgroups = if has_groups { self.groups.paths(name) } else { BTreeMap::new() };
        let dir = self.storage.open_of(name);
        let storage = dir.as_ref().map(|dir| (dir.as_fd(), &self.policy.facts.storage.quota));
        let ids = self.ledger.ids(name);
        let subject = Subject { tenant: name, ids, init, cgroups: &cgroups, controls: &controls, storage };
        read(&subject, census).map_err(failed(name, "observe"))
    }

    /// A snapshot of the processes in a jail, for the audit.
    pub(crate) fn evidence(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        self.jails.require(name)?;
        let processes =
            bailiwick_observe::process_snapshots(&self.groups.paths(name)).map_err(failed(name, "observe"))?;
        Ok(WardenReply::Evidence(processes))
    }

    /// The connections to the sockets of tenants' services. Only those of this network namespace can be seen, which is that
    /// of the host's web server.
    pub(crate) fn connections(&self) -> Result<WardenReply, Failure> {
        let mut all: BTreeMap<TenantName, BTreeMap<SocketName, u64>> = BTreeMap::new();
        let failed = |error: io::Error| {
            let message = format!("the kernel of this host lists no Unix sockets (module unix_diag): {error}");
            Failure::of(ExitStatus::HostCannot, message)
        };
        let diag = self.unix_diag.as_ref().ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
        diag.connections(|path| {
            let Some((tenant, socket)) = web_socket_of(&self.policy.host.runtime_dir, path) else { return };
            // A user of the host may name a socket like this, so the answer is bounded.
            if self.ledger.ids(&tenant).is_some() {
                let sockets = all.entry(tenant).or_default();
                if sockets.len() < MAX_SERVICES * MAX_SOCKETS || sockets.contains_key(&socket) {
                    *sockets.entry(socket).or_default() += 1;
                }
            }
        })
        .map_err(failed)?;
        Ok(WardenReply::Connections(all))
    }

    /// What is stuck, and the state of the host's reserve.
    pub(crate) fn all_problems(&mut self) -> WardenReply {
        let mut tenants = self.problems();
        if self.policy.has_moved() {
            tenants.push(format!("no jail can start: {MOVED}"));
        }
        let size = self.storage.size().unwrap_or(u64::MAX);
        let web = self.runtime.web_problem().map(str::to_owned);
        WardenReply::Problems { reserve: self.reserve.problem(&self.policy.host, size), tenants, web }
    }

    pub(crate) fn roster(&self) -> WardenReply {
        let tenants = self.ledger.tenants();
        WardenReply::Roster(tenants.map(|(name, ids)| (name.clone(), self.entry(name, ids))).collect())
    }

    pub(crate) fn entry(&self, name: &TenantName, ids: IdRange) -> RosterEntry {
        let jail = self.jails.get(name);
        // Its file is read once.
        let frozen_by = jail.and_then(Jail::frozen);
        RosterEntry {
            ids,
            pid: jail.map(|jail| jail.record.pid),
            access: jail.map(|jail| jail.record.access),
            frozen: frozen_by.is_some(),
            frozen_by: frozen_by.unwrap_or_default(),
            clearing: self.jails.clears(name),
            preparing: self.preparations.has(name),
            held: self.ledger.held(name),
            host_user: self.host_users.has(name, self.policy.host.ids.host_user(ids)),
            cgroups: if jail.is_some() { self.groups.paths(name) } else { BTreeMap::new() },
            host_sockets: BTreeMap::new(),
        }
    }
}
