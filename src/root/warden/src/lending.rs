//! Sockets of the host that are lent to tenants: which process serves each, and when it is started again.
//!
//! ```text
//!            the host's socket is there           the process ended, or serves another directory
//!   absent -----------------------------> served -----------------------------------------------> pause --> absent
//! ```
//!
//! The list of a tenant is that of its policy when its jail starts, and after that of its last `Limit`. What the host declares of
//! a socket is followed at once. A process outlives the warden: its control group tells the next warden what it serves.

pub(crate) mod places;
pub(crate) mod proxy;
pub(crate) mod users;

use crate::identity::host_user::HostUsers;
use crate::identity::ledger::Ledger;
use crate::jail::registry::{Jail, Jails};
use crate::lending::places::Places;
use crate::lending::proxy::{Programs, Proxy, Target};
use crate::lending::users::{Known, NotOurs, Users};
use crate::limits::cgroups::Groups;
use bailiwick_plan::lending::MAIL;
use bailiwick_policy::{Host, HostSocket, Mail, NotLent};
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, HostSocketName, HostUid, LentSocket, TenantName};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How often to look for the host's sockets.
const LOOK: Duration = Duration::from_secs(1);
/// The first pause before a process is started again. Each further one is twice as long.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
const MOST_PAUSE: Duration = Duration::from_secs(10);
/// A process that ran this long was well.
const WELL: Duration = Duration::from_secs(10);

/// What lending needs of the rest of the warden.
pub(crate) struct Around<'a> {
    pub(crate) groups: &'a Groups,
    pub(crate) jails: &'a Jails,
    pub(crate) host: &'a Host,
    pub(crate) ledger: &'a Ledger,
    pub(crate) host_users: &'a HostUsers,
}

impl<'a> Around<'a> {
    fn known(&self) -> Known<'a> {
        Known { host: self.host, ledger: self.ledger, host_users: self.host_users }
    }
}

/// One socket of one tenant.
#[derive(Debug)]
struct Lent {
    proxy: Option<Proxy>,
    /// When the process was started, or may be.
    from: Instant,
    pause: Duration,
    /// Why no process serves it, or did not the last time.
    why: Option<String>,
}

impl Lent {
    fn new(proxy: Option<Proxy>) -> Self {
        Self { proxy, from: Instant::now(), pause: LEAST_PAUSE, why: None }
    }

    /// The process has ended: another one may be started after a pause. Returns whether this is news.
    fn ended(&mut self, now: Instant, why: String) -> bool {
        let was_well = now.duration_since(self.from) >= WELL;
        self.pause = if was_well { LEAST_PAUSE } else { (self.pause * 2).min(MOST_PAUSE) };
        self.from = now + self.pause;
        let is_news = was_well || self.why.as_ref() != Some(&why);
        self.why = Some(why);
        is_news
    }
}

/// A process that serves nobody any more and has not ended yet.
#[derive(Debug)]
struct Leaving {
    tenant: TenantName,
    name: HostSocketName,
    proxy: Proxy,
    /// It is killed then; `None` when it was.
    until: Option<Instant>,
}

impl Leaving {
    /// Ends a process.
    fn end((tenant, name): (&TenantName, &HostSocketName), proxy: Proxy) -> Self {
        let until = proxy.end().map(|time| Instant::now() + time);
        Self { tenant: tenant.clone(), name: name.clone(), proxy, until }
    }

    fn is_killed(&self, tenant: &TenantName, name: &HostSocketName) -> bool {
        self.until.is_none() && (&self.tenant, &self.name) == (tenant, name)
    }
}

/// All sockets that are lent.
#[derive(Debug)]
pub(crate) struct Lending {
    programs: Programs,
    places: Places,
    tenants: BTreeMap<TenantName, BTreeMap<HostSocketName, Lent>>,
    /// The mail of the tenants that may send any.
    mail: BTreeMap<TenantName, Mail>,
    /// The domain of senders, as it was at the last look.
    domain: String,
    /// Processes that were ended because their socket is not lent any more, or is served by another one.
    leaving: Vec<Leaving>,
    /// Groups of sockets that are not lent any more. What the host's sendmail has started may still be there.
    emptying: BTreeSet<(TenantName, HostSocketName)>,
    /// The sockets of the host that tenants may use, as they were at the last look.
    there: BTreeMap<HostSocketName, Result<Target, NotLent>>,
    users: Users,
    looked: Option<Instant>,
}

impl Lending {
    pub(crate) fn new(programs: Programs, places: Places) -> Self {
        Self {
            programs,
            places,
            tenants: BTreeMap::new(),
            mail: BTreeMap::new(),
            domain: String::new(),
            leaving: Vec::new(),
            emptying: BTreeSet::new(),
            there: BTreeMap::new(),
            users: Users::default(),
            looked: None,
        }
    }

    /// The directory that a new jail of a tenant sees. Nothing is in it.
    pub(crate) fn make_place(&self, tenant: &TenantName) -> io::Result<OwnedFd> {
        self.places.remove(tenant.as_str())?;
        self.places.make(tenant)
    }

    /// Lends a running jail these sockets, and no others.
    pub(crate) fn follow(
        &mut self,
        groups: &Groups,
        tenant: &TenantName,
        names: &BTreeSet<HostSocketName>,
        mail: Option<Mail>,
    ) {
        self.note_mail(tenant, mail);
        let lent = self.tenants.entry(tenant.clone()).or_default();
        let (stays, goes) = std::mem::take(lent).into_iter().partition(|(name, _)| names.contains(name));
        *lent = stays;
        for name in names.iter().filter(|name| !lent.contains_key(name)).collect::<Vec<_>>() {
            // If it cannot be made now, the start of the process tells why.
            groups.lending(tenant, name).ok();
            lent.insert(name.clone(), Lent::new(None));
            self.emptying.remove(&(tenant.clone(), name.clone()));
            self.looked = None;
        }
        let goes: BTreeMap<HostSocketName, Lent> = goes;
        for (name, lent) in goes {
            // Nobody connects any more, whatever becomes of the process.
            self.places.remove_socket(tenant, &name).ok();
            self.leaving.extend(lent.proxy.map(|proxy| Leaving::end((tenant, &name), proxy)));
            if !groups.remove_lending(tenant, &name) {
                self.emptying.insert((tenant.clone(), name));
            }
        }
        if names.is_empty() {
            self.tenants.remove(tenant);
        }
    }

    fn note_mail(&mut self, tenant: &TenantName, mail: Option<Mail>) {
        match mail {
            Some(mail) => drop(self.mail.insert(tenant.clone(), mail)),
            None => drop(self.mail.remove(tenant)),
        }
    }

    /// Takes over what an earlier warden has lent to a running jail.
    pub(crate) fn adopt(&mut self, groups: &Groups, tenant: &TenantName, mail: Option<Mail>) {
        self.note_mail(tenant, mail);
        let names = groups.lending_names(tenant);
        let mut lent = BTreeMap::new();
        for name in names {
            let mut servers = Proxy::adopt(groups, tenant, &name);
            let last = servers.pop();
            self.leaving.extend(servers.into_iter().map(|proxy| Leaving::end((tenant, &name), proxy)));
            lent.insert(name, Lent::new(last));
        }
        if !lent.is_empty() {
            self.tenants.insert(tenant.clone(), lent);
        }
    }

    /// Removes the directories of tenants that have no jail.
    pub(crate) fn remove_others(&self, has_jail: impl Fn(&str) -> bool) {
        for name in self.places.names().into_iter().filter(|name| !has_jail(name)) {
            self.places.remove(&name).ok();
        }
    }

    /// The jail is gone, with every process in its groups.
    pub(crate) fn forget(&mut self, tenant: &TenantName) -> io::Result<()> {
        let lent = self.tenants.remove(tenant).into_iter().flatten().filter_map(|(_, lent)| lent.proxy);
        let gone = self.leaving.extract_if(.., |old| old.tenant == *tenant).map(|old| old.proxy);
        lent.chain(gone).for_each(|proxy| proxy.reap());
        self.emptying.retain(|(other, _)| other != tenant);
        self.mail.remove(tenant);
        self.users.forget(tenant);
        self.places.remove(tenant.as_str())
    }

    /// Starts processes that are missing and ends those that serve something else. Returns lines for the log.
    pub(crate) fn check(&mut self, around: &Around<'_>) -> Vec<String> {
        if self.tenants.is_empty() && self.leaving.is_empty() && self.emptying.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let is_look = self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK);
        if is_look {
            self.look(around.host, now);
            self.users.look(around.host_users, now);
        }
        let ended = self.ended();
        // This is asked at each turn of the loop.
        if !is_look && ended.is_empty() && self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let has_ended = |proxy: &Proxy| ended.contains(&proxy.pid);
        for old in self.leaving.extract_if(.., |old| has_ended(&old.proxy)) {
            old.proxy.reap();
        }
        for old in self.leaving.iter_mut().filter(|old| old.until.is_some_and(|until| until <= now)) {
            old.proxy.kill();
            old.until = None;
        }
        self.emptying.retain(|(tenant, name)| !around.groups.remove_lending(tenant, name));
        let mut lines = Vec::new();
        let Self { programs, places, tenants, mail, domain, leaving, emptying, there, users, .. } = self;
        for (tenant, all) in &mut *tenants {
            for (name, lent) in all {
                let target = match name.as_str() {
                    MAIL => mail.get(tenant).map(|mail| Target::mail(tenant, domain, around.host, *mail)),
                    _ => there.get(name).and_then(|found| found.clone().ok()),
                };
                if let Some(proxy) = lent.proxy.take_if(|proxy| has_ended(proxy)) {
                    proxy.reap();
                    let why = proxy.why();
                    // Without the host's socket it has nothing to do, and ends by itself.
                    let now_there = around.host.host_sockets.get(name).map(|socket| Target::find(around.host, socket));
                    let is_gone = name.as_str() != MAIL && !matches!(now_there, Some(Ok(_)));
                    // It ends with its jail.
                    let jail_ends = !around.jails.get(tenant).is_some_and(Jail::still_runs);
                    if !(is_gone || jail_ends) && lent.ended(now, why.clone()) {
                        lines.push(format!("tenant={tenant} event=host-socket-ended socket={name} reason={why:?}"));
                    }
                }
                let user = match users.of(around.known(), tenant) {
                    Ok(user) => user,
                    Err(NotOurs { why, is_taken }) => {
                        if let Some(proxy) = lent.proxy.take() {
                            lines.push(format!(
                                "tenant={tenant} event=host-socket-not-lent socket={name} reason={why:?}"
                            ));
                            if is_taken {
                                // Nothing more may happen in the name of somebody else.
                                proxy.kill();
                            }
                            leaving.push(Leaving::end((tenant, name), proxy));
                        }
                        lent.why = Some(why);
                        continue;
                    }
                };
                let is_frozen = around.jails.get(tenant).is_none_or(Jail::is_frozen);
                // In a frozen jail nobody waits for another one.
                let is_refused = matches!(there.get(name), Some(Err(NotLent::Refused { .. })));
                let is_other = |proxy: &mut Proxy| {
                    let target = target.as_ref().filter(|_| !is_frozen);
                    is_refused
                        || !is_declared(around.host, name)
                        || target.is_some_and(|target| proxy.target != *target)
                };
                if let Some(proxy) = lent.proxy.take_if(is_other) {
                    leaving.push(Leaving::end((tenant, name), proxy));
                }
                let Some(target) = target.filter(|_| lent.proxy.is_none()) else { continue };
                // One that was killed has ended in a moment.
                if is_frozen || leaving.iter().any(|old| old.is_killed(tenant, name)) {
                    lent.from = lent.from.max(now + LEAST_PAUSE);
                }
                let Some(jail) = around.jails.get(tenant).filter(|_| now >= lent.from) else { continue };
                match start(programs, places, around, (tenant, jail.record.pid, name), (user, &target)) {
                    Ok(proxy) => (lent.proxy, lent.from, lent.why) = (Some(proxy), now, None),
                    Err(why) if lent.ended(now, why.clone()) => {
                        lines.push(format!("tenant={tenant} event=host-socket-not-lent socket={name} reason={why:?}"));
                    }
                    Err(_) => {}
                }
            }
        }
        // Its policy has changed, and its server, which outlived a warden, has ended.
        for (tenant, all) in tenants.iter_mut().filter(|(tenant, _)| !mail.contains_key(*tenant)) {
            let is_over = |name: &HostSocketName, lent: &mut Lent| name.as_str() == MAIL && lent.proxy.is_none();
            emptying.extend(all.extract_if(.., is_over).map(|(name, _)| (tenant.clone(), name)));
        }
        lines
    }

    /// Looks which sockets of the host are there, of those that somebody may use.
    fn look(&mut self, host: &Host, now: Instant) {
        self.looked = Some(now);
        if !self.mail.is_empty() {
            self.domain = host.mail.domain.clone().unwrap_or_else(proxy::mail_domain);
        }
        let names: BTreeSet<&HostSocketName> = self.tenants.values().flat_map(BTreeMap::keys).collect();
        let found = |name: &HostSocketName| Some((name.clone(), Target::find(host, host.host_sockets.get(name)?)));
        self.there = names.into_iter().filter_map(found).collect();
    }

    /// The processes that have ended.
    fn ended(&self) -> BTreeSet<u32> {
        let proxies: Vec<&Proxy> = self.proxies().collect();
        let mut fds: Vec<PollFd<'_>> = proxies.iter().map(|proxy| PollFd::new(&proxy.pidfd, PollFlags::IN)).collect();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&at_once)).is_err() {
            return BTreeSet::new();
        }
        let ended = proxies.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ended.map(|(proxy, _)| proxy.pid).collect()
    }

    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        let lent = self.tenants.values().flat_map(BTreeMap::values).filter_map(|lent| lent.proxy.as_ref());
        lent.chain(self.leaving.iter().map(|old| &old.proxy))
    }

    /// Descriptors that report the ends of processes.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.proxies().map(|proxy| (proxy.pidfd.as_fd(), PollFlags::IN))
    }

    /// The time of the next start at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        let may_serve = self.tenants.iter().filter(|(tenant, _)| self.users.may_serve(tenant));
        let all = may_serve.flat_map(|(_, all)| all);
        all.filter(|(name, lent)| lent.proxy.is_none() && self.is_there(name)).map(|(_, lent)| lent.from).min()
    }

    /// The host user of a tenant was made or removed.
    pub(crate) fn note_host_user(&mut self, tenant: &TenantName) {
        self.users.forget(tenant);
    }

    fn is_there(&self, name: &HostSocketName) -> bool {
        name.as_str() == MAIL || self.there.get(name).is_some_and(Result::is_ok)
    }

    /// The sockets of the host that are lent to a tenant.
    pub(crate) fn of(&self, tenant: &TenantName) -> BTreeMap<HostSocketName, LentSocket> {
        let lent = self.tenants.get(tenant).into_iter().flatten().filter(|(name, _)| name.as_str() != MAIL);
        let state = |(name, lent): (&HostSocketName, &Lent)| {
            let counts = self.places.read_counts(tenant, name).unwrap_or_default();
            let connections = if lent.proxy.is_some() { counts.connections } else { 0 };
            (name.clone(), LentSocket { served: lent.proxy.is_some(), connections, refused: counts.refused })
        };
        lent.map(state).collect()
    }

    /// What is lent to a tenant, and the mail that it may send as far as a server is there.
    pub(crate) fn in_force(&self, tenant: &TenantName) -> (BTreeSet<HostSocketName>, Option<Mail>) {
        let lent = self.tenants.get(tenant);
        let mail = lent.into_iter().flatten().find_map(|(_, lent)| lent.proxy.as_ref()?.mail());
        (lent.into_iter().flat_map(BTreeMap::keys).cloned().collect(), mail)
    }

    /// What an operator should know, for `status`.
    pub(crate) fn problems(&self, host: &Host) -> Vec<String> {
        let mut missing: BTreeMap<&HostSocketName, usize> = BTreeMap::new();
        let mut problems = Vec::new();
        // The first tenant of each, and how many there are.
        let mut failed: BTreeMap<(&HostSocketName, i32), (&TenantName, usize)> = BTreeMap::new();
        for (tenant, name, lent) in
            self.tenants.iter().flat_map(|(tenant, all)| all.iter().map(move |(name, lent)| (tenant, name, lent)))
        {
            if !self.is_there(name) {
                *missing.entry(name).or_default() += 1;
            } else if let (None, Some(why)) = (&lent.proxy, &lent.why) {
                problems.push(match name.as_str() {
                    MAIL => format!("\"{tenant}\" cannot send mail: {why}; it is tried again"),
                    _ => format!("the host's socket \"{name}\" is not lent to \"{tenant}\": {why}; it is tried again"),
                });
            } else if let Some(error) = self.places.read_counts(tenant, name).and_then(|counts| counts.error) {
                // A server that is just starting again is no problem.
                if ![Errno::NOENT, Errno::CONNREFUSED, Errno::AGAIN].contains(&error) {
                    failed.entry((name, error.raw_os_error())).or_insert((tenant, 0)).1 += 1;
                }
            }
        }
        problems.extend(failed.into_iter().map(|((name, error), (tenant, count))| {
            let path = host.host_sockets.get(name).map(|socket| socket.path.display().to_string()).unwrap_or_default();
            let (of, error) = (format!("{count} tenant(s), \"{tenant}\" first,"), Errno::from_raw_os_error(error));
            match error {
                Errno::ACCESS | Errno::PERM => format!(
                    "{of} may not open the host's socket \"{name}\" ({path}): make it writable for the group \"{}\", or for everybody",
                    host.login_group
                ),
                Errno::PROTOTYPE => format!("{of} cannot use the host's socket \"{name}\" ({path}): it is no stream socket; only such can be lent"),
                _ => format!("{of} cannot use the host's socket \"{name}\" ({path}): {error}"),
            }
        }));
        let of_host = missing.into_iter().map(|(name, count)| match host.host_sockets.get(name) {
            Some(_) if let Some(Err(NotLent::Refused { why, remedy })) = self.there.get(name) => {
                format!("the host's socket \"{name}\" is lent to nobody, and {count} tenant(s) may use it: {why}; {remedy}")
            }
            Some(HostSocket { path, .. }) => format!(
                "the host's socket \"{name}\" is not there ({}), and {count} tenant(s) may use it: start the program that makes it",
                path.display()
            ),
            None => format!("bailiwick.toml has no socket \"{name}\", and {count} tenant(s) may use it"),
        });
        let count = self.mail.len();
        let command = bailiwick_observe::sendmail_problem(&host.mail.command).filter(|_| count > 0);
        let no_command = command.map(|why| {
            format!("the mail of {count} tenant(s) cannot be sent: {why}; install a mail server, or set \"mail\" in bailiwick.toml")
        });
        of_host.chain(problems).chain(no_command).collect()
    }
}

/// Starts the process for a socket of a tenant, whose init is `init`.
fn start(
    programs: &Programs,
    places: &Places,
    around: &Around<'_>,
    (tenant, init, name): (&TenantName, u32, &HostSocketName),
    (user, target): ((HostUid, u32), &Target),
) -> Result<Proxy, String> {
    let started = Proxy::start(programs, places, around.groups, (tenant, init, name), user, (around.host, target));
    started.map_err(|error| Failure::new(ExitStatus::Failed, &*error).message)
}

fn is_declared(host: &Host, name: &HostSocketName) -> bool {
    name.as_str() == MAIL || host.host_sockets.contains_key(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_again_and_again_is_started_more_and_more_slowly_and_logged_once() {
        let begin = Instant::now();
        let mut lent = Lent { from: begin, ..Lent::new(None) };
        assert!(lent.ended(begin, "it was killed".to_owned()));
        assert_eq!((lent.from - begin, lent.why.as_deref()), (LEAST_PAUSE * 2, Some("it was killed")));
        let mut now = begin;
        for _ in 0..20 {
            now = lent.from;
            assert!(!lent.ended(now, "it was killed".to_owned()), "it is no news");
        }
        assert_eq!(lent.from - now, MOST_PAUSE);
        lent.from = now;
        assert!(lent.ended(now + WELL, "it was killed".to_owned()));
        assert_eq!(lent.from, now + WELL + LEAST_PAUSE, "after it was well, the pauses begin anew");
    }
}
