//! What takes time: children on their way to init, jails that end, groups that freeze, storage that is prepared, data that is
//! removed. Each is a state of the loop, which looks at it when its descriptor tells or its time has come, so that the warden waits for none of them.
//!
//! ```text
//!            start                child reported              stop: init is asked       its time is over, or it ended
//!   (down) --------> starting --------------------> running ----------------> asked -----------------> killed
//!                       |                              |                                                 |  ^ again, told once
//!                       | a step failed, or its        | init ended by itself                            +--+
//!                       | time is over                 v                                                 | its groups are empty
//!                       +--------------------------> killed                                            (down)
//! ```
//!
//! `asked` and `killed` are what `list` calls `clearing`. A request that waits for one of them has a ticket; its connection gets
//! the reply when it is there, and a failure when that takes too long, while the warden goes on.

use super::*;
use crate::jail::step::reach_work;
use crate::storage::layout::Preparation;

/// How long a jail has to end by itself: init gives its processes two seconds.
const STOP_TIME: Duration = Duration::from_secs(3);
/// How long the kernel may take to empty a group that was killed, before those who wait are told that it does not.
const CLEAR_TIME: Duration = Duration::from_secs(5);
/// Between two looks at a group that is not empty yet; its file tells sooner.
const LOOK_TIME: Duration = Duration::from_millis(20);
/// The same once it was told that it does not empty.
const LATE_LOOK_TIME: Duration = Duration::from_secs(1);
/// The first of the pauses, each twice the last, in which the kernel lets go of an empty group.
const LEAST_PAUSE: Duration = Duration::from_micros(50);
/// How long the kernel may take to freeze a group.
const FREEZE_TIME: Duration = Duration::from_secs(5);
/// How long a child may take to give file systems in memory another size.
const RESIZE_TIME: Duration = Duration::from_secs(5);
/// How long whoever asked for a purge waits for its end.
const PURGE_TIME: Duration = Duration::from_secs(5);
/// How long whoever asked for a start waits until the tenant's storage is prepared.
const PREPARE_TIME: Duration = Duration::from_secs(5);
/// How much of a removal is done in one turn of the loop.
const SLICE_TIME: Duration = Duration::from_millis(5);

/// A child on its way to init.
#[derive(Debug)]
pub(super) struct Starting {
    begun: Begun,
    ids: IdRange,
    ticket: Ticket,
}

/// A jail that ends.
#[derive(Debug)]
pub(super) struct Ending {
    init: Option<OwnedFd>,
    /// Until when init may end by itself; `None` once all is killed.
    asked_until: Option<Instant>,
    /// When it was killed, or will be at the latest.
    killed: Instant,
    /// When to look again.
    due: Instant,
    pause: Duration,
    /// The file that tells when its processes are gone.
    events: Option<OwnedFd>,
    is_empty: bool,
    problem: Option<String>,
    is_told: bool,
    /// Its init ended without being asked to.
    by_itself: bool,
}

impl Ending {
    fn new(init: Option<OwnedFd>) -> Self {
        let now = Instant::now();
        Self {
            init,
            asked_until: None,
            killed: now,
            due: now,
            pause: LEAST_PAUSE,
            events: None,
            is_empty: false,
            problem: None,
            is_told: false,
            by_itself: false,
        }
    }

    /// Whether those who wait are told that it does not end.
    fn is_late(&self, now: Instant) -> bool {
        now >= self.killed + CLEAR_TIME
    }

    fn is_due(&self, now: Instant) -> bool {
        if let Some(until) = self.asked_until {
            let ended = |init| process::has_ended(init, Duration::ZERO).unwrap_or(true);
            return now >= until || self.init.as_ref().is_none_or(ended);
        }
        now >= self.due || (!self.is_empty && self.events.as_ref().is_some_and(cgroups::is_empty))
    }
}

/// A child that prepares a tenant's storage.
#[derive(Debug)]
struct Preparing {
    helper: Helper,
    preparation: Preparation,
    since: Instant,
}

impl Preparing {
    fn told(&self, tenant: &TenantName) -> String {
        format!("the files of \"{tenant}\" {}", self.preparation.told())
    }
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    until: Instant,
    what: What,
}

/// What a request waits for.
#[derive(Debug)]
enum What {
    /// A jail is gone; then this is the reply.
    Cleared { tenant: TenantName, done: WardenReply },
    /// A jail neither starts nor ends; then the request is dealt with.
    Settled { tenant: TenantName, request: WardenRequest },
    /// A group stands still, or goes on.
    Frozen { tenant: TenantName, freezing: Freezing },
    /// A process of an FTP server has ended, with those it has started.
    Left { leaving: ftp::Leaving },
    /// File systems in memory have their new size.
    Resized { tenant: TenantName, resizing: Helper },
    /// What was set aside of a tenant is gone.
    Purged { tenant: TenantName },
    /// A tenant's storage is prepared; then the request is dealt with.
    Prepared { tenant: TenantName, request: WardenRequest },
}

/// All that takes time.
#[derive(Debug, Default)]
pub(super) struct Slow {
    pub(super) starting: BTreeMap<TenantName, Starting>,
    pub(super) ending: BTreeMap<TenantName, Ending>,
    removals: BTreeMap<String, Removal>,
    /// Children that prepare tenants' storage.
    preparing: BTreeMap<TenantName, Preparing>,
    waiting: Vec<Waiting>,
}

/// What has come of it since it was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Replies to requests that have waited.
    pub(crate) replies: Vec<(Ticket, WardenReply)>,
    /// What watchers are told.
    pub(crate) events: Vec<WardenEvent>,
    /// What the log is told.
    pub(crate) lines: Vec<String>,
}

impl Slow {
    fn wait(&mut self, ticket: Ticket, until: Instant, what: What) {
        self.waiting.push(Waiting { ticket, until, what });
    }

    /// Whether a tenant's jail ends.
    pub(super) fn clears(&self, tenant: &TenantName) -> bool {
        self.ending.contains_key(tenant)
    }

    /// Whether a tenant's storage is being prepared.
    pub(super) fn prepares(&self, tenant: &TenantName) -> bool {
        self.preparing.contains_key(tenant)
    }

    /// Whether nothing of any jail is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.starting.is_empty() && self.ending.is_empty()
    }

    /// What is told of those that do not get on, for `status`.
    pub(super) fn problems(&self) -> Vec<String> {
        let now = Instant::now();
        let ending = self.ending.iter().filter(|(_, ending)| ending.is_late(now));
        let jails = ending.map(|(tenant, ending)| {
            let why = ending.problem.as_deref().unwrap_or("its processes do not end");
            format!("the jail of \"{tenant}\" cannot be cleared: {why}; it is tried again")
        });
        let graves = self.removals.iter().filter_map(|(grave, removal)| {
            let stuck = removal.stuck()?;
            Some(format!("what is left of the purged tenant \"{}\" keeps its ids: {stuck}", grave::tenant(grave)))
        });
        let late = self.preparing.iter().filter(|(_, preparing)| preparing.since + PREPARE_TIME <= now);
        let preparing = late.map(|(tenant, preparing)| format!("{}; it starts afterwards", preparing.told(tenant)));
        jails.chain(graves).chain(preparing).collect()
    }
}

impl Warden {
    /// What to wait for beside requests, watchers and jails that run.
    pub(crate) fn slow_fds(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut fds = Vec::new();
        for starting in self.slow.starting.values() {
            fds.push((starting.begun.report().as_fd(), PollFlags::IN));
        }
        for ending in self.slow.ending.values() {
            match (&ending.init, &ending.events) {
                (Some(init), _) if ending.asked_until.is_some() => fds.push((init.as_fd(), PollFlags::IN)),
                (_, Some(events)) if !ending.is_empty => fds.push((events.as_fd(), PollFlags::PRI)),
                _ => {}
            }
        }
        fds.extend(self.slow.preparing.values().map(|preparing| (preparing.helper.report().as_fd(), PollFlags::IN)));
        for waiting in &self.slow.waiting {
            match &waiting.what {
                What::Frozen { freezing, .. } => fds.push((freezing.events().as_fd(), PollFlags::PRI)),
                What::Resized { resizing, .. } => fds.push((resizing.report().as_fd(), PollFlags::IN)),
                _ => {}
            }
        }
        fds
    }

    /// When to look again at the latest, if something is on its way.
    pub(crate) fn due(&self) -> Option<Instant> {
        let starting = self.slow.starting.values().map(|starting| starting.begun.deadline);
        let ending = self.slow.ending.values().map(|ending| ending.asked_until.unwrap_or(ending.due));
        let removals = self.slow.removals.values().map(Removal::due);
        // Those that it has started are no children of ours, and nothing tells of their end.
        let soon = Instant::now() + LOOK_TIME;
        let waiting = self.slow.waiting.iter().map(|waiting| match waiting.what {
            What::Left { .. } => soon.min(waiting.until),
            _ => waiting.until,
        });
        let reserve = self.reserve.is_due().then(Instant::now);
        starting.chain(ending).chain(removals).chain(waiting).chain(reserve).min()
    }

    /// Looks at all that is on its way.
    pub(crate) fn progress(&mut self) -> Progress {
        let mut progress = Progress::default();
        self.look_at_children(&mut progress);
        self.look_at_ends(&mut progress);
        self.look_at_removals(&mut progress);
        self.look_at_preparing(&mut progress);
        self.look_at_waiting(&mut progress);
        progress
    }

    /// Whether a request must wait until a tenant's jail neither starts nor ends, and then waits.
    pub(super) fn is_put_off(&mut self, ticket: Ticket, request: &WardenRequest) -> bool {
        use WardenRequest::{Freeze, Limit, Purge, Rescue, Rescued, Restart, Start, Stop, Thaw};
        let (tenant, while_it_ends) = match request {
            Start { tenant } | Restart { tenant } | Purge { tenant } => (tenant, true),
            Stop { tenant, .. } | Limit { tenant } | Freeze { tenant } | Thaw { tenant } => (tenant, false),
            Rescue { tenant } | Rescued { tenant } => (tenant, false),
            _ => return false,
        };
        let until = match (self.slow.starting.get(tenant), self.slow.ending.get(tenant)) {
            // It is told of its end by then.
            (Some(starting), _) => starting.begun.deadline + CLEAR_TIME,
            (None, Some(ending)) if while_it_ends => ending.killed + CLEAR_TIME,
            _ => return false,
        };
        self.slow.wait(ticket, until, What::Settled { tenant: tenant.clone(), request: request.clone() });
        true
    }

    /// Has a request wait for a child.
    pub(super) fn await_child(&mut self, name: &TenantName, ids: IdRange, begun: Begun, ticket: Ticket) {
        self.slow.starting.insert(name.clone(), Starting { begun, ids, ticket });
    }

    /// Has a request wait until a jail is gone, and then reply.
    pub(super) fn await_clear(&mut self, name: &TenantName, done: WardenReply, ticket: Ticket) {
        let killed = self.slow.ending.get(name).map_or_else(Instant::now, |ending| ending.killed);
        self.slow.wait(ticket, killed + CLEAR_TIME, What::Cleared { tenant: name.clone(), done });
    }

    /// Has a request wait until a group stands still, or goes on.
    pub(super) fn await_freeze(&mut self, name: &TenantName, freezing: Freezing, ticket: Ticket) {
        let what = What::Frozen { tenant: name.clone(), freezing };
        self.slow.wait(ticket, Instant::now() + FREEZE_TIME, what);
    }

    /// Has a request wait until a process of an FTP server has ended.
    pub(super) fn await_ftp(&mut self, leaving: ftp::Leaving, ticket: Ticket) {
        self.slow.wait(ticket, Instant::now() + CLEAR_TIME, What::Left { leaving });
    }

    /// Has a request wait until file systems in memory have their new size.
    pub(super) fn await_resize(&mut self, name: &TenantName, resizing: Helper, ticket: Ticket) {
        let what = What::Resized { tenant: name.clone(), resizing };
        self.slow.wait(ticket, Instant::now() + RESIZE_TIME, what);
    }

    /// Whether a start must wait until the tenant's storage is prepared, and then waits.
    pub(super) fn is_preparing(&mut self, plan: &JailPlan, ticket: Ticket) -> Result<bool, Failure> {
        let name = &plan.tenant;
        let failed = |error: &(dyn std::error::Error + 'static)| failure(ExitStatus::Failed, name, "start", error);
        if !self.slow.preparing.contains_key(name) {
            let unprepared = self.storage.unprepared(plan, &self.facts.storage.quota);
            let Some(preparation) = unprepared.map_err(|error| failed(&error))? else { return Ok(false) };
            if !ftp::processes(&self.groups, name).is_empty() {
                // Of a jail that is gone. They may write, and whoever moves directories meanwhile is not charged for all of them.
                self.clear_away(name, None);
                return Ok(self.is_put_off(ticket, &WardenRequest::Start { tenant: name.clone() }));
            }
            if let Preparation::Seed { .. } = preparation {
                // Before anything is written: who is full and gets more starts with that.
                let before = self.disk_now(name, plan.ids);
                let bound = self.storage.ensure_bound(plan, &self.facts.storage.quota);
                bound.map_err(|error| failed(&error))?;
                self.note_disk(name, plan.ids, &plan.disk, before.as_ref());
            }
            let helper = Helper::begin(&[preparation.dir()], || {
                reach_work(preparation.word(), name);
                preparation.work()
            });
            let helper = helper.map_err(|error| failed(&error))?;
            self.slow.preparing.insert(name.clone(), Preparing { helper, preparation, since: Instant::now() });
        }
        let request = WardenRequest::Start { tenant: name.clone() };
        self.slow.wait(ticket, Instant::now() + PREPARE_TIME, What::Prepared { tenant: name.clone(), request });
        Ok(true)
    }

    /// Ends what is done to the storage that is to be destroyed.
    pub(super) fn prepare_no_more(&mut self, name: &TenantName) {
        self.slow.preparing.remove(name);
    }

    /// Has a request wait until nothing is left of a purged tenant.
    pub(super) fn await_purge(&mut self, name: &TenantName, ticket: Ticket) {
        self.slow.wait(ticket, Instant::now() + PURGE_TIME, What::Purged { tenant: name.clone() });
    }

    /// Ends a jail: asks its init first if that is wanted, so that databases can close their files.
    pub(super) fn end(&mut self, name: &TenantName, how: End) {
        let Some(jail) = self.jails.remove(name) else { return };
        let is_frozen = jail.freezer.as_ref().is_some_and(Freezer::is_frozen);
        let asked = how == End::Ask && !is_frozen && process::signal(&jail.pidfd, Signal::TERM).is_ok();
        let mut ending = Ending::new(Some(jail.pidfd));
        if asked {
            ending.killed += STOP_TIME;
            ending.asked_until = Some(ending.killed);
        }
        ending.by_itself = how == End::ByItself;
        self.slow.ending.insert(name.clone(), ending);
    }

    /// Clears away what is left of a jail that never ran, or that an earlier warden made.
    pub(super) fn clear_away(&mut self, name: &TenantName, child: Option<OwnedFd>) {
        self.slow.ending.entry(name.clone()).or_insert_with(|| Ending::new(child));
    }

    fn look_at_children(&mut self, progress: &mut Progress) {
        let names: Vec<TenantName> = self.slow.starting.keys().cloned().collect();
        for name in names {
            let Some(Starting { begun, ids, ticket }) = self.slow.starting.remove(&name) else { continue };
            match begun.go_on(&self.init, &self.runtime) {
                Ok(Finished::NotYet(begun)) => drop(self.slow.starting.insert(name, Starting { begun, ids, ticket })),
                Ok(Finished::Runs { record, pidfd }) => {
                    let result = self.started(&name, ids, record, pidfd);
                    progress.replies.push((ticket, result.unwrap_or_else(WardenReply::Failed)));
                }
                Err(unmade) => self.unmade(&name, unmade, ticket),
            }
        }
    }

    /// A jail could not be made: what is left is cleared away before that is told.
    pub(super) fn unmade(&mut self, name: &TenantName, (error, child): Unmade, ticket: Ticket) {
        self.clear_away(name, child);
        self.await_clear(name, WardenReply::Failed(failure(ExitStatus::Failed, name, "start", &error)), ticket);
    }

    fn look_at_ends(&mut self, progress: &mut Progress) {
        let now = Instant::now();
        let due = self.slow.ending.iter().filter(|(_, ending)| ending.is_due(now));
        let names: Vec<TenantName> = due.map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(mut ending) = self.slow.ending.remove(&name) else { continue };
            if ending.asked_until.take().is_some() {
                ending.killed = now;
            }
            let cleared = match self.groups.clear(&name, &mut ending.events) {
                Ok(true) => self.cleared(&name, &ending),
                Ok(false) => Ok(false),
                Err(error) => Err(Failure::new(ExitStatus::Failed, &error).message),
            };
            match cleared {
                Ok(true) => {
                    if ending.by_itself {
                        progress.lines.push(format!("tenant={name} event=ended"));
                        progress.events.push(WardenEvent::Ended { tenant: name });
                    } else if ending.is_told {
                        progress.lines.push(format!("tenant={name} event=cleared reason=\"it took its time\""));
                    }
                    continue;
                }
                Ok(false) => ending.problem = None,
                Err(problem) => ending.problem = Some(problem),
            }
            let is_late = ending.is_late(now);
            if is_late && !ending.is_told {
                ending.is_told = true;
                let why =
                    ending.problem.as_deref().unwrap_or("its processes do not end (uninterruptible in the kernel?)");
                progress.lines.push(format!("tenant={name} event=not-cleared reason={why:?}"));
            }
            ending.is_empty = ending.events.as_ref().is_some_and(cgroups::is_empty);
            ending.pause = (ending.pause * 2).min(LOOK_TIME);
            let is_quick = ending.is_empty && ending.problem.is_none();
            let pause = if is_late {
                LATE_LOOK_TIME
            } else if is_quick {
                ending.pause
            } else {
                LOOK_TIME
            };
            ending.due = now + pause;
            self.slow.ending.insert(name, ending);
        }
    }

    /// The groups of a jail are gone; removes all else that a jail has outside its storage.
    fn cleared(&mut self, name: &TenantName, ending: &Ending) -> Result<bool, String> {
        if let Some(init) = &ending.init {
            process::reap(init).ok();
        }
        let removed = self.runtime.remove(name.as_str());
        removed.map_err(|error| format!("cannot remove the jail's runtime directory: {error}"))?;
        self.emergencies.forget(name);
        systemd::forget(name.as_str());
        if self.jails.is_empty() && self.slow.is_idle() {
            self.groups.remove_empty_bases();
        }
        Ok(true)
    }

    /// Begins to remove what was set aside under a name.
    pub(super) fn remove_grave(&mut self, grave: &str) -> io::Result<()> {
        let removal = self.storage.removal(grave)?;
        self.slow.removals.insert(grave.to_owned(), removal);
        Ok(())
    }

    /// Whether something of a purged tenant is left, and then has it tried again now.
    pub(super) fn hurry_graves(&mut self, name: &TenantName) -> bool {
        let of_it = |(grave, _): &(&String, &mut Removal)| grave::tenant(grave) == name.as_str();
        self.slow.removals.iter_mut().filter(of_it).map(|(_, removal)| removal.hurry()).count() > 0
    }

    fn look_at_removals(&mut self, progress: &mut Progress) {
        let until = Instant::now() + SLICE_TIME;
        let due = self.slow.removals.iter().filter(|(_, removal)| removal.due() <= Instant::now());
        let Some(grave) = due.min_by_key(|(_, removal)| removal.due()).map(|(grave, _)| grave.clone()) else { return };
        let Some(removal) = self.slow.removals.get_mut(&grave) else { return };
        let was_stuck = removal.stuck().is_some();
        match removal.slice(until) {
            Slice::More => {}
            Slice::Stuck(stuck) if !was_stuck => {
                let tenant = grave::tenant(&grave).escape_debug();
                let why = stuck.to_string();
                progress.lines.push(format!("tenant={tenant} event=not-purged reason={why:?}"));
            }
            Slice::Stuck(_) => {}
            Slice::Gone => {
                if let Err(why) = self.grave_is_gone(&grave) {
                    let Some(removal) = self.slow.removals.get_mut(&grave) else { return };
                    removal.keep(&why);
                    if !was_stuck && removal.stuck().is_some() {
                        let tenant = grave::tenant(&grave).escape_debug();
                        progress.lines.push(format!("tenant={tenant} event=not-purged reason={why:?}"));
                    }
                    return;
                }
                self.slow.removals.remove(&grave);
                if self.slow.removals.is_empty() {
                    self.storage.remove_empty_place();
                }
            }
        }
    }

    /// Gives ids back of which nothing is left.
    fn grave_is_gone(&mut self, grave: &str) -> Result<(), String> {
        let ids = self.ledger.purged().find(|(name, _)| *name == grave).and_then(|(_, ids)| ids);
        if ids.is_some_and(|ids| self.storage.is_charged(ids.first, &self.facts.storage.quota)) {
            return Err("files without a name are still charged to it".to_owned());
        }
        self.ledger.give_back(grave).map_err(|error| Failure::new(ExitStatus::Failed, &error).message)
    }

    fn look_at_preparing(&mut self, progress: &mut Progress) {
        let mut failures = BTreeMap::new();
        self.slow.preparing.retain(|tenant, preparing| {
            let end = preparing.helper.end();
            if let Some(Err(error)) = &end {
                let word = preparing.preparation.word();
                progress
                    .lines
                    .push(format!("tenant={tenant} event=not-prepared what={word} reason={:?}", error.to_string()));
                failures.insert(tenant.clone(), failure(ExitStatus::Failed, tenant, "prepare the storage of", error));
            }
            if end.is_some() {
                progress.events.push(WardenEvent::Prepared { tenant: tenant.clone() });
            }
            end.is_none()
        });
        let is_told = |waiting: &mut Waiting| {
            let What::Prepared { tenant, .. } = &waiting.what else { return false };
            failures.contains_key(tenant)
        };
        for Waiting { ticket, what, .. } in self.slow.waiting.extract_if(.., is_told) {
            if let What::Prepared { tenant, .. } = what
                && let Some(failure) = failures.get(&tenant)
            {
                progress.replies.push((ticket, WardenReply::Failed(failure.clone())));
            }
        }
    }

    fn look_at_waiting(&mut self, progress: &mut Progress) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.slow.waiting) {
            let ticket = waiting.ticket;
            let is_late = now >= waiting.until;
            let reply = match &waiting.what {
                What::Cleared { tenant, done } if !self.slow.clears(tenant) => Some(done.clone()),
                What::Cleared { tenant, done } if is_late => Some(self.not_cleared(tenant, Some(done))),
                What::Settled { tenant, request } => {
                    let starts = self.slow.starting.contains_key(tenant);
                    use WardenRequest::{Purge, Restart, Start};
                    let waits_for_end = matches!(request, Start { .. } | Restart { .. } | Purge { .. });
                    if !(starts || waits_for_end && self.slow.clears(tenant)) {
                        match self.begin(ticket, request.clone()) {
                            Answer::Now(reply) => Some(reply),
                            // It waits again, for something else.
                            Answer::Later(_) => continue,
                        }
                    } else {
                        is_late.then(|| self.not_cleared(tenant, None))
                    }
                }
                What::Frozen { tenant, freezing } => self.frozen(tenant, freezing, is_late),
                What::Left { leaving } if leaving.is_over(&self.groups) => Some(WardenReply::Done),
                What::Left { leaving } => is_late.then(|| {
                    let tenant = leaving.tenant();
                    WardenReply::Failed(failure(
                        ExitStatus::Failed,
                        tenant,
                        "end the session by FTP of",
                        &ftp::FtpError::Stuck,
                    ))
                }),
                What::Resized { tenant, resizing } => resized(tenant, resizing, is_late),
                What::Purged { tenant } => self.purged(tenant, is_late),
                What::Prepared { tenant, request } => match self.slow.preparing.get(tenant) {
                    Some(_) => is_late.then(|| {
                        // It is to start as soon as it can, without being asked for again.
                        self.ledger.set_held(tenant, false);
                        WardenReply::GoesOn
                    }),
                    None => match self.begin(ticket, request.clone()) {
                        Answer::Now(reply) => Some(reply),
                        Answer::Later(_) => continue,
                    },
                },
                What::Cleared { .. } => None,
            };
            match reply {
                Some(reply) => progress.replies.push((ticket, reply)),
                None => self.slow.waiting.push(waiting),
            }
        }
    }

    /// What is told to who has waited for too long.
    fn not_cleared(&self, name: &TenantName, done: Option<&WardenReply>) -> WardenReply {
        let problem = self.slow.ending.get(name).and_then(|ending| ending.problem.clone());
        let why = problem.unwrap_or_else(|| "its processes do not end (uninterruptible in the kernel?)".to_owned());
        let message = format!("cannot clear the jail of \"{name}\": {why}; it is \"clearing\" and tried again");
        WardenReply::Failed(match done {
            Some(WardenReply::Failed(first)) => {
                Failure::of(first.status, format!("{}; and then {message}", first.message))
            }
            _ => Failure::of(ExitStatus::Failed, message),
        })
    }

    fn frozen(&self, name: &TenantName, freezing: &Freezing, is_late: bool) -> Option<WardenReply> {
        if !self.jails.contains_key(name) {
            let message = format!("the jail of \"{name}\" has ended");
            return Some(WardenReply::Failed(Failure::of(ExitStatus::Refused, message)));
        }
        match freezing.is_done() {
            Ok(true) => Some(WardenReply::Done),
            Ok(false) if is_late => {
                let message = format!(
                    "not every process of \"{name}\" stands still or goes on yet (uninterruptible in the kernel?); it does as soon as it can"
                );
                Some(WardenReply::Failed(Failure::of(ExitStatus::Failed, message)))
            }
            Ok(false) => None,
            Err(error) => Some(WardenReply::Failed(failure(ExitStatus::Failed, name, "freeze or thaw", &error))),
        }
    }

    fn purged(&self, name: &TenantName, is_late: bool) -> Option<WardenReply> {
        let mut left = self.slow.removals.iter().filter(|(grave, _)| grave::tenant(grave) == name.as_str()).peekable();
        if left.peek().is_none() {
            return Some(WardenReply::Done);
        }
        // One that goes on is due; one that sticks is due later.
        let now = Instant::now();
        if left.all(|(_, removal)| removal.stuck().is_some() && removal.due() > now) {
            let of_it = self.slow.removals.iter().filter(|(grave, _)| grave::tenant(grave) == name.as_str());
            let stuck = of_it.filter_map(|(_, removal)| removal.stuck()).map(ToString::to_string).collect::<Vec<_>>();
            let message = format!(
                "the data of \"{name}\" was set aside, and {}; this is tried again, and its ids stay taken until nothing is left",
                stuck.join("; ")
            );
            return Some(WardenReply::Failed(Failure::of(ExitStatus::Partly, message)));
        }
        is_late.then_some(WardenReply::GoesOn)
    }
}

fn resized(name: &TenantName, resizing: &Helper, is_late: bool) -> Option<WardenReply> {
    let failed = |why: String| {
        let message = format!("cannot give /tmp and /dev/shm of \"{name}\" their size: {why}");
        Some(WardenReply::Failed(Failure::of(ExitStatus::Failed, message)))
    };
    match resizing.end() {
        Some(Ok(())) => Some(WardenReply::Done),
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
            failed("more is in one of them than the new size; remove some of it, or restart the tenant".to_owned())
        }
        Some(Err(error)) => failed(error.to_string()),
        None => is_late.then(|| failed("something that is mounted there does not answer".to_owned())).flatten(),
    }
}

/// How a jail ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its init is asked first.
    Ask,
    /// Its init has ended.
    ByItself,
}
