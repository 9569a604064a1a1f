//! What is told of tenants and of the host; nothing is changed but the end of a time of grace.

use super::*;

impl Warden {
    pub(super) fn facts(&mut self) -> Result<WardenReply, Failure> {
        self.read_host()?;
        Ok(WardenReply::Facts(Box::new(self.facts.clone())))
    }

    /// Looks at the host anew: an operator may have switched quotas on or off since. Whatever writes limits or tells what holds
    /// them begins with this.
    pub(super) fn read_host(&mut self) -> Result<(), Failure> {
        let facts = bailiwick_observe::host_facts(&self.host.state_dir);
        self.facts = facts.map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
        Ok(())
    }

    /// A tenant's quota as the kernel has it; `None` where nothing counts, or it cannot be read.
    pub(super) fn disk_now(&self, name: &TenantName, ids: IdRange) -> Option<DiskFact> {
        let dir = self.storage.open_of(name)?;
        bailiwick_observe::disk_fact(&dir, ids.first, &self.facts.storage.quota).ok().flatten()
    }

    /// Notes that the disk limits of a plan were written. A note that cannot be kept is no reason to fail: no limit rests on it.
    pub(super) fn note_disk(&mut self, name: &TenantName, ids: IdRange, plan: &DiskPlan, before: Option<&DiskFact>) {
        if let Some(now) = self.disk_now(name, ids) {
            let note = DiskNote::after_write(self.ledger.disk(name), plan, before, &now);
            drop(self.ledger.set_disk(name, note));
        }
    }

    /// Adds to what the kernel says of a quota what the warden knows of it.
    fn explain_disk(&self, name: &TenantName, fact: &mut DiskFact) {
        fact.held_back = self.reserve.is_reached();
        if let Some(note) = self.ledger.disk(name) {
            note.explain(fact);
        }
    }

    /// What every tenant uses of its quota. The kernel has one time of grace for all who pass a soft limit; here each gets
    /// its own.
    pub(super) fn disks(&mut self) -> Result<WardenReply, Failure> {
        let mut disks = BTreeMap::new();
        let tenants: Vec<(TenantName, IdRange)> =
            self.ledger.tenants().map(|(name, ids)| (name.clone(), ids)).collect();
        let kind = self.facts.storage.quota.clone();
        for (name, ids) in tenants {
            let Some(dir) = self.storage.open_of(&name) else { continue };
            let Ok(Some(mut fact)) = bailiwick_observe::disk_fact(&dir, ids.first, &kind) else { continue };
            if kind == QuotaFacts::Projects {
                let failed =
                    |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, &name, "limit", error);
                self.check_grace(&name, ids, &dir, &mut fact).map_err(|error| failed(&*error))?;
            }
            if let Some(note) = self.ledger.disk(&name) {
                drop(self.ledger.set_disk(&name, note.after_look(&fact)));
            }
            self.explain_disk(&name, &mut fact);
            disks.insert(name, fact);
        }
        Ok(WardenReply::Disks(disks))
    }

    pub(super) fn check_grace(
        &mut self,
        name: &TenantName,
        ids: IdRange,
        dir: &OwnedFd,
        fact: &mut DiskFact,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let noted = self.ledger.grace(name);
        let passed = fact.bytes.grace_until.is_some() || fact.inodes.is_some_and(|inodes| inodes.grace_until.is_some());
        if !passed && noted == Grace::default() {
            return Ok(());
        }
        let Ok((_, Some(tenant))) = self.policy.tenant(name) else { return Ok(()) };
        let own = tenant.settings.limits.disk_grace.0;
        if let Some(grace) = quota::grace(dir, ids.first, fact, own, noted)? {
            fact.bytes.grace_until = grace.bytes;
            if let Some(inodes) = &mut fact.inodes {
                inodes.grace_until = grace.inodes;
            }
            self.ledger.set_grace(name, grace);
        }
        Ok(())
    }

    /// What the kernel shows of tenants, as far as `read` looks.
    pub(super) fn look<T>(
        &mut self,
        names: &[TenantName],
        most: usize,
        read: impl Fn(&Subject<'_>, &Census) -> Result<T, ObserveError>,
        disk: impl Fn(&mut T) -> &mut Option<DiskFact>,
    ) -> Result<Vec<T>, Failure> {
        bounded(names, most)?;
        let census =
            Census::take(self.host.ids, self.networks()).map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let mut seen = self.look_at(name, &census, &read)?;
            if let Some(disk) = disk(&mut seen) {
                self.explain_disk(name, disk);
            }
            all.push(seen);
        }
        Ok(all)
    }

    /// The network namespaces of all jails that this version has made.
    fn networks(&self) -> BTreeSet<u64> {
        self.jails.values().filter_map(|jail| jail.record.network).collect()
    }

    pub(super) fn look_at<T>(
        &mut self,
        name: &TenantName,
        census: &Census,
        read: impl Fn(&Subject<'_>, &Census) -> Result<T, ObserveError>,
    ) -> Result<T, Failure> {
        let controls = match self.policy.tenant(name) {
            Ok((_, Some(tenant))) => controls(&tenant.settings.limits, &self.facts),
            _ => Vec::new(),
        };
        let runs = self.runs(name);
        let init = self.jails.get(name).map(|jail| {
            let Record { pid, start_time, access, landlock, .. } = jail.record;
            let confined_now = jail.record.confinement.as_ref().is_some_and(|own| self.confinements.contains(own));
            InitSubject { pid, start_time, access, landlock, confined_now }
        });
        let cgroups = if runs || self.slow.clears(name) { self.groups.paths(name) } else { BTreeMap::new() };
        let dir = self.storage.open_of(name);
        let storage = dir.as_ref().map(|dir| (dir.as_fd(), &self.facts.storage.quota));
        let ids = self.ledger.ids(name);
        let subject = Subject { tenant: name, ids, init, cgroups: &cgroups, controls: &controls, storage };
        read(&subject, census).map_err(|error| failure(ExitStatus::Failed, name, "observe", &error))
    }

    pub(super) fn evidence(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        self.running(name)?;
        let sights = bailiwick_observe::sights(&self.groups.paths(name))
            .map_err(|error| failure(ExitStatus::Failed, name, "observe", &error))?;
        Ok(WardenReply::Evidence(sights))
    }

    /// What does not get on by itself.
    pub(super) fn problems(&mut self) -> WardenReply {
        let mut tenants = self.slow.problems();
        tenants.extend(self.stale.iter().cloned());
        if self.policy.host().is_ok_and(|(host, _)| self.is_moved(&host)) {
            tenants.push(format!("no jail can start: {MOVED}"));
        }
        WardenReply::Problems { reserve: self.reserve_problem(), tenants }
    }

    /// Notes what is told of jails that show what the host had before.
    pub(crate) fn note_stale(&mut self, stale: Vec<String>) {
        self.stale = stale;
    }

    pub(super) fn roster(&self) -> WardenReply {
        let tenants = self.ledger.tenants();
        WardenReply::Roster(tenants.map(|(name, ids)| (name.clone(), self.entry(name, ids))).collect())
    }

    pub(super) fn entry(&self, name: &TenantName, ids: IdRange) -> RosterEntry {
        let jail = self.jails.get(name);
        RosterEntry {
            ids,
            pid: jail.map(|jail| jail.record.pid),
            access: jail.map(|jail| jail.record.access),
            frozen: self.is_frozen(name),
            clearing: self.slow.clears(name),
            preparing: self.slow.prepares(name),
            held: self.ledger.held(name),
            host_user: self.host_users.has(name, self.host.ids.host_user(ids)),
            cgroups: if jail.is_some() { self.groups.paths(name) } else { BTreeMap::new() },
        }
    }
}

/// Refuses more names than one request may have, and one that is there twice: the request would take as long as many.
pub(super) fn bounded(names: &[TenantName], most: usize) -> Result<(), Failure> {
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
