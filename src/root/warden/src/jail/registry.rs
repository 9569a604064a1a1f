//! The jails that start, run and end.
//!
//! ```text
//!            start                child reported              stop, or its init ends
//!   (down) --------> starting --------------------> running -------------------------> ending --> (down)
//!                       |                                                               ^
//!                       +---------------------------------------------------------------+
//!                         a step failed, or its time is over
//! ```

use crate::jail::init_set::InitSet;
use crate::jail::record::Record;
use crate::jail::start::StartingChild;
use crate::jail::stop::{CLEAR_TIME, Ending};
use crate::limits::cgroups::Groups;
use crate::limits::tenant_groups::Freezer;
use crate::requests::Ticket;
use crate::runtime::Runtime;
use bailiwick_policy::Mail;
use bailiwick_proto::{Failure, Refusal, WardenRequest};
use bailiwick_sys::process;
use bailiwick_types::{FrozenBy, HostSocketName, IdRange, NetworkInForce, TenantName};
use rustix::event::PollFlags;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A running jail.
#[derive(Debug)]
pub(crate) struct Jail {
    pub(crate) record: Record,
    pub(crate) pidfd: OwnedFd,
    /// Reports whether it is frozen. It stays open, because opening it is the largest cost of a look.
    freezer: Option<Freezer>,
}

impl Jail {
    pub(crate) fn new(groups: &Groups, tenant: &TenantName, record: Record, pidfd: OwnedFd) -> Self {
        let freezer = groups.of(tenant).and_then(|groups| groups.freezer()).ok();
        Self { record, pidfd, freezer }
    }

    /// Whether it is frozen, or about to be.
    pub(crate) fn is_frozen(&self) -> bool {
        self.freezer.as_ref().is_some_and(Freezer::is_frozen)
    }

    /// Who had it frozen; `None` if it is not frozen.
    pub(crate) fn frozen(&self) -> Option<FrozenBy> {
        self.is_frozen().then_some(self.record.frozen_by)
    }

    /// Whether its init still runs, so that its number is certainly its own.
    pub(crate) fn still_runs(&self) -> bool {
        matches!(process::has_ended(&self.pidfd, Duration::ZERO), Ok(false))
    }
}

/// A child that becomes init.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) child: StartingChild,
    pub(crate) ids: IdRange,
    /// The sockets of the host that are lent to it once it runs.
    pub(crate) host_sockets: BTreeSet<HostSocketName>,
    pub(crate) mail: Option<Mail>,
    pub(crate) ticket: Ticket,
}

/// How a jail ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Ask init first, so that databases can close their files. Its services may take this long.
    Ask(Duration),
    /// Init has ended.
    ByItself,
}

/// All jails. A tenant is in at most one of the maps.
#[derive(Debug)]
pub(crate) struct Jails {
    running: BTreeMap<TenantName, Jail>,
    /// The inits of those that run.
    inits: InitSet,
    /// Those that run and whose inits had no room in the set.
    crowded_out: BTreeSet<TenantName>,
    starting: BTreeMap<TenantName, Starting>,
    ending: BTreeMap<TenantName, Ending>,
}

impl Jails {
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            running: BTreeMap::new(),
            inits: InitSet::new()?,
            crowded_out: BTreeSet::new(),
            starting: BTreeMap::new(),
            ending: BTreeMap::new(),
        })
    }

    pub(crate) fn get(&self, tenant: &TenantName) -> Option<&Jail> {
        self.running.get(tenant)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (&TenantName, &Jail)> {
        self.running.iter()
    }

    pub(crate) fn add(&mut self, tenant: TenantName, jail: Jail) {
        if !self.inits.add(&jail.pidfd, jail.record.pid) {
            self.crowded_out.insert(tenant.clone());
        }
        self.running.insert(tenant, jail);
    }

    pub(crate) fn add_child(&mut self, tenant: TenantName, starting: Starting) {
        self.starting.insert(tenant, starting);
    }

    /// Takes all children, to look at each. [`Self::add_child`] puts back those that go on.
    pub(crate) fn take_children(&mut self) -> BTreeMap<TenantName, Starting> {
        std::mem::take(&mut self.starting)
    }

    /// Whether a jail runs. If its init has ended unnoticed, the jail ends here.
    pub(crate) fn runs(&mut self, tenant: &TenantName) -> bool {
        let Some(jail) = self.running.get(tenant) else { return false };
        if process::has_ended(&jail.pidfd, Duration::ZERO).unwrap_or(false) {
            self.end(tenant, End::ByItself);
        }
        self.running.contains_key(tenant)
    }

    /// Refuses a request that needs a running jail.
    pub(crate) fn require(&mut self, tenant: &TenantName) -> Result<(), Failure> {
        if self.runs(tenant) {
            return Ok(());
        }
        let is_clearing = self.clears(tenant);
        let tenant = tenant.clone();
        Err(if is_clearing { Refusal::Clearing { tenant } } else { Refusal::NotRunning { tenant, why: None } }.into())
    }

    /// Whether a tenant's jail is frozen, or about to be.
    pub(crate) fn is_frozen(&self, tenant: &TenantName) -> bool {
        self.get(tenant).is_some_and(Jail::is_frozen)
    }

    /// Who had a tenant's jail frozen; `None` if it is not frozen.
    pub(crate) fn frozen(&self, tenant: &TenantName) -> Option<FrozenBy> {
        self.get(tenant).and_then(Jail::frozen)
    }

    /// Notes in the record of a jail who has it frozen, so that a later warden knows it too.
    pub(crate) fn note_frozen_by(&mut self, runtime: &Runtime, tenant: &TenantName, by: FrozenBy) -> io::Result<()> {
        let Some(jail) = self.running.get_mut(tenant).filter(|jail| jail.record.frozen_by != by) else { return Ok(()) };
        let record = Record { frozen_by: by, ..jail.record.clone() };
        runtime.record(tenant, &record)?;
        jail.record = record;
        Ok(())
    }

    /// Notes in the record of a jail which policy of its network is in force.
    pub(crate) fn note_network(
        &mut self,
        runtime: &Runtime,
        tenant: &TenantName,
        settings: BTreeMap<String, String>,
    ) -> io::Result<()> {
        let Some(jail) = self.running.get_mut(tenant) else { return Ok(()) };
        let Some(before) = jail.record.in_force.as_ref().filter(|before| before.settings != settings) else {
            return Ok(());
        };
        let in_force = NetworkInForce { settings, ..before.clone() };
        let record = Record { in_force: Some(in_force), ..jail.record.clone() };
        runtime.record(tenant, &record)?;
        jail.record = record;
        Ok(())
    }

    /// Begins to end a jail.
    pub(crate) fn end(&mut self, tenant: &TenantName, how: End) {
        let Some(jail) = self.running.remove(tenant) else { return };
        self.inits.remove(&jail.pidfd);
        self.crowded_out.remove(tenant);
        let now = Instant::now();
        let asked = || !jail.is_frozen() && process::signal(&jail.pidfd, Signal::TERM).is_ok();
        let ending = match how {
            End::Ask(services) if asked() => Ending::asked(jail.pidfd, services, now),
            _ => Ending::new(Some(jail.pidfd), how == End::ByItself, now),
        };
        self.ending.insert(tenant.clone(), ending);
    }

    /// Clears away a jail that never ran, or that an earlier warden left.
    pub(crate) fn clear_away(&mut self, tenant: &TenantName, child: Option<OwnedFd>) {
        self.ending.entry(tenant.clone()).or_insert_with(|| Ending::new(child, false, Instant::now()));
    }

    /// Whether a tenant's jail is ending.
    pub(crate) fn clears(&self, tenant: &TenantName) -> bool {
        self.ending.contains_key(tenant)
    }

    pub(crate) fn ending(&self, tenant: &TenantName) -> Option<&Ending> {
        self.ending.get(tenant)
    }

    /// The jails that are ending and must be looked at now.
    pub(crate) fn due_endings(&self, now: Instant) -> Vec<TenantName> {
        self.ending.iter().filter(|(_, ending)| ending.is_due(now)).map(|(tenant, _)| tenant.clone()).collect()
    }

    pub(crate) fn take_ending(&mut self, tenant: &TenantName) -> Option<Ending> {
        self.ending.remove(tenant)
    }

    pub(crate) fn keep_ending(&mut self, tenant: TenantName, ending: Ending) {
        self.ending.insert(tenant, ending);
    }

    /// Whether there is no jail in any state.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.starting.is_empty() && self.ending.is_empty()
    }

    /// Whether a request must wait for a jail that starts or ends: the tenant, and the time from which the reply is a
    /// failure.
    pub(crate) fn must_wait(&self, request: &WardenRequest) -> Option<(TenantName, Instant)> {
        let (tenant, waits_for_end) = changes_jail(request)?;
        let late = match (self.starting.get(tenant), self.ending.get(tenant)) {
            // By then the outcome of the start is known.
            (Some(starting), _) => starting.child.deadline + CLEAR_TIME,
            (None, Some(ending)) if waits_for_end => ending.late(),
            _ => return None,
        };
        Some((tenant.clone(), late))
    }

    /// Descriptors that report changes of starting and ending jails.
    pub(crate) fn changing_fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let starting = self.starting.values().flat_map(|starting| starting.child.fds()).map(|fd| (fd, PollFlags::IN));
        starting.chain(self.ending.values().filter_map(Ending::fd))
    }

    /// The time of the next look at starting and ending jails at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        let starting = self.starting.values().map(|starting| starting.child.due());
        starting.chain(self.ending.values().map(Ending::due)).min()
    }

    /// Descriptors of which one is readable when a running jail's init has ended.
    pub(crate) fn inits(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let alone = self.crowded_out.iter().filter_map(|tenant| self.running.get(tenant));
        std::iter::once(self.inits.as_fd()).chain(alone.map(|jail| jail.pidfd.as_fd()))
    }

    /// The running jails whose inits have ended, or some of them if they are many.
    ///
    /// # Errors
    /// The kernel refuses to wait, which it has no reason for.
    pub(crate) fn ended(&self) -> io::Result<Vec<TenantName>> {
        let pids = self.inits.ended()?;
        let has_ended = |(tenant, jail): &(&TenantName, &Jail)| {
            (pids.contains(&jail.record.pid) || self.crowded_out.contains(*tenant)) && !jail.still_runs()
        };
        if pids.is_empty() && self.crowded_out.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.running.iter().filter(has_ended).map(|(tenant, _)| tenant.clone()).collect())
    }

    /// The running jails, with the numbers of their inits.
    pub(crate) fn init_numbers(&self) -> BTreeSet<(TenantName, u32)> {
        self.running.iter().map(|(tenant, jail)| (tenant.clone(), jail.record.pid)).collect()
    }

    /// Whether a tenant's jail runs and is connected to the router.
    pub(crate) fn is_connected(&self, tenant: &TenantName) -> bool {
        self.get(tenant).is_some_and(|jail| jail.record.connected)
    }

    /// The network namespaces of running jails, as far as their records have them.
    pub(crate) fn networks(&self) -> BTreeSet<u64> {
        self.running.values().filter_map(|jail| jail.record.network).collect()
    }

    /// The jails that do not end, for `status`.
    pub(crate) fn problems(&self, now: Instant) -> Vec<String> {
        let stuck = self.ending.iter().filter(|(_, ending)| ending.is_stuck(now));
        let problem = |(tenant, ending): (&TenantName, &Ending)| {
            let why = ending.problem.as_deref().unwrap_or("its processes do not end");
            format!("the jail of \"{tenant}\" cannot be cleared: {why}; it is tried again")
        };
        stuck.map(problem).collect()
    }
}

/// The tenant whose jail a request changes, and whether the request also needs the end of an ending jail.
fn changes_jail(request: &WardenRequest) -> Option<(&TenantName, bool)> {
    use WardenRequest::{Freeze, Limit, Purge, Rescue, Rescued, Restart, Start, Stop, Thaw};
    match request {
        Start { tenant } | Restart { tenant } | Purge { tenant } => Some((tenant, true)),
        Stop { tenant, .. } | Limit { tenant } | Freeze { tenant, .. } | Thaw { tenant, .. } => Some((tenant, false)),
        Rescue { tenant } | Rescued { tenant } => Some((tenant, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::Hold;
    use bailiwick_types::Access;
    use std::process::{Child, Command};

    /// A process in place of an init.
    fn jail() -> (Child, Jail) {
        let child = Command::new("sleep").arg("1000").spawn().expect("starts");
        let pidfd = process::open(child.id()).expect("runs");
        let group = OwnedFd::from(std::fs::File::open("/").expect("opens"));
        let record = Record::of(child.id(), &group, Access::ReadWrite).expect("runs");
        (child, Jail { record, pidfd, freezer: None })
    }

    #[test]
    fn the_end_of_an_init_is_seen_whether_or_not_the_set_had_room_for_it() {
        let mut jails = Jails::new().expect("a set");
        let ((mut one, first), (mut other, second)) = (jail(), jail());
        let [alice, bob]: [TenantName; 2] = ["alice", "bob"].map(|name| name.parse().expect("a name"));
        // What is in the set already is refused, as by a set without room.
        assert!(jails.inits.add(&second.pidfd, second.record.pid));
        jails.add(alice.clone(), first);
        jails.add(bob.clone(), second);
        jails.inits.remove(&jails.running[&bob].pidfd);
        assert_eq!((jails.inits().count(), jails.crowded_out.iter().collect::<Vec<_>>()), (2, vec![&bob]));
        assert!(jails.ended().expect("may").is_empty());
        for (child, tenant) in [(&mut one, &alice), (&mut other, &bob)] {
            child.kill().expect("may");
            assert!(process::has_ended(&jails.running[tenant].pidfd, Duration::from_secs(60)).expect("may"));
            assert_eq!(jails.ended().expect("may"), std::slice::from_ref(tenant));
            jails.end(tenant, End::ByItself);
            assert!(jails.ended().expect("may").is_empty() && jails.clears(tenant));
            child.wait().expect("ended");
        }
        assert_eq!(jails.inits().count(), 1);
    }

    #[test]
    fn only_requests_that_need_the_end_wait_for_an_ending_jail() {
        let tenant: TenantName = "alice".parse().expect("a name");
        let mut jails = Jails::new().expect("a set");
        let request = |word: &str| match word {
            "start" => WardenRequest::Start { tenant: tenant.clone() },
            "restart" => WardenRequest::Restart { tenant: tenant.clone() },
            "purge" => WardenRequest::Purge { tenant: tenant.clone() },
            "stop" => WardenRequest::Stop { tenant: tenant.clone(), hold: Hold::Hold },
            "limit" => WardenRequest::Limit { tenant: tenant.clone() },
            _ => WardenRequest::Roster,
        };
        assert_eq!(jails.must_wait(&request("start")), None, "nothing is on its way");
        jails.clear_away(&tenant, None);
        let late = jails.ending(&tenant).map(Ending::late);
        for (word, waits) in
            [("start", true), ("restart", true), ("purge", true), ("stop", false), ("limit", false), ("roster", false)]
        {
            let golden = late.filter(|_| waits).map(|late| (tenant.clone(), late));
            assert_eq!(jails.must_wait(&request(word)), golden, "{word}");
        }
        let bob = WardenRequest::Start { tenant: "bob".parse().expect("a name") };
        assert_eq!(jails.must_wait(&bob), None, "another tenant's end holds up nobody");
        // Clearing twice is clearing once: nobody's wait begins again.
        jails.clear_away(&tenant, None);
        assert_eq!(jails.ending(&tenant).map(Ending::late), late);
        assert!(jails.require(&tenant).is_err_and(|failure| failure.message.contains("is being cleared")));
        assert!(jails.take_ending(&tenant).is_some() && jails.is_empty());
    }
}
