//! Everything that takes time: children that become init, jails that end, data that is removed, storage that is
//! prepared, and the requests that wait for them. The loop looks at each when its descriptor reports or its time has
//! come, so the warden never waits.
//!
//! A waiting request has a ticket. When the result is there, the loop sends the reply. When it takes too long, the
//! loop replies with a failure, and the work goes on. The diagrams of a jail's states are in `jail::registry` and
//! `jail::stop`.

use crate::ftp::FtpError;
use crate::handlers::lifecycle::start_failed;
use crate::helper::Helper;
use crate::jail::registry::{Jail, Jails, Starting};
use crate::jail::start::Advanced;
use crate::jail::stop::{Ending, STUCK};
use crate::limits::tenant_groups::{self, Freezing};
use crate::net_client::NetAsk;
use crate::requests::{Answer, NetworkUpdate, Progress, WaitingRequest, WaitsFor, failure, has_ended};
use crate::state::Warden;
use crate::storage::grave;
use crate::storage::removals::{PurgeState, Turn};
use crate::systemd;
use bailiwick_proto::warden::WardenEvent;
use bailiwick_proto::{Failure, WardenReply};
use bailiwick_sys::process;
use bailiwick_types::{ExitStatus, TenantName};
use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

impl Warden {
    /// Looks at everything that is in progress.
    pub(crate) fn progress(&mut self) -> Progress {
        let mut progress = Progress::default();
        self.look_at_children(&mut progress);
        self.look_at_ends(&mut progress);
        self.look_at_removals(&mut progress);
        self.look_at_preparations(&mut progress);
        self.look_at_waiting(&mut progress);
        progress.lines.extend(self.check_lending());
        progress
    }

    fn look_at_children(&mut self, progress: &mut Progress) {
        for (name, Starting { child, ids, host_sockets, mail, ticket }) in self.jails.take_children() {
            match child.advance(&self.init, &self.runtime) {
                Ok(Advanced::NotYet(child)) => {
                    self.jails.add_child(name, Starting { child, ids, host_sockets, mail, ticket });
                }
                Ok(Advanced::Runs { record, pidfd }) => {
                    systemd::keep(&name, &pidfd);
                    self.jails.add(name.clone(), Jail::new(&self.groups, &name, record, pidfd));
                    self.lending.follow(&self.groups, &name, &host_sockets, mail);
                    self.ledger.set_held(&name, false);
                    self.reserve.clamp(&self.storage, &self.policy.facts.storage.quota, &name, ids);
                    progress.replies.push((ticket, WardenReply::Done));
                }
                Err(failed) => start_failed(&mut self.jails, &mut self.waiting, &name, failed, ticket),
            }
        }
    }

    fn look_at_ends(&mut self, progress: &mut Progress) {
        let now = Instant::now();
        for name in self.jails.due_endings(now) {
            let Some(mut ending) = self.jails.take_ending(&name) else { continue };
            ending.kill(now);
            let problem = match self.clear(&name, &mut ending) {
                Ok(true) => {
                    report_cleared(name, &ending, progress);
                    continue;
                }
                Ok(false) => None,
                Err(problem) => Some(problem),
            };
            let is_empty = ending.events.as_ref().is_some_and(tenant_groups::is_empty);
            if let Some(why) = ending.look_again(problem, is_empty, now) {
                progress.lines.push(format!("tenant={name} event=not-cleared reason={why:?}"));
            }
            self.jails.keep_ending(name, ending);
        }
    }

    /// Kills the jail's processes, then removes its groups, its runtime directory and its notes. `false` while a
    /// group is not empty.
    fn clear(&mut self, name: &TenantName, ending: &mut Ending) -> Result<bool, String> {
        let cleared = self.groups.clear(name, &mut ending.events);
        if !cleared.map_err(|error| Failure::new(ExitStatus::Failed, &error).message)? {
            return Ok(false);
        }
        if let Some(init) = &ending.init {
            process::reap(init).ok();
        }
        let removed = self.runtime.remove(name.as_str());
        removed.map_err(|error| format!("cannot remove the jail's runtime directory: {error}"))?;
        self.lending
            .forget(name)
            .map_err(|error| format!("cannot remove the directory of its lent sockets: {error}"))?;
        self.emergencies.forget(name);
        systemd::forget(name.as_str());
        if self.jails.is_empty() {
            self.groups.remove_empty_bases();
        }
        Ok(true)
    }

    fn look_at_removals(&mut self, progress: &mut Progress) {
        let not_purged = |grave: &str, why: &str| {
            format!("tenant={} event=not-purged reason={why:?}", grave::tenant(grave).escape_debug())
        };
        match self.removals.turn() {
            Turn::Nothing => {}
            Turn::Stuck { grave, why } => progress.lines.push(not_purged(&grave, &why)),
            Turn::Gone(grave) => match self.give_ids_back(&grave) {
                Ok(()) => {
                    if self.removals.end(&grave) {
                        self.storage.remove_empty_place();
                    }
                }
                Err(why) => {
                    if self.removals.keep(&grave, &why) {
                        progress.lines.push(not_purged(&grave, &why));
                    }
                }
            },
        }
    }

    /// Frees the ids of a purged tenant of whom nothing is left.
    fn give_ids_back(&mut self, grave: &str) -> Result<(), String> {
        let ids = self.ledger.purged().find(|(name, _)| *name == grave).and_then(|(_, ids)| ids);
        if ids.is_some_and(|ids| self.storage.is_charged(ids.first, &self.policy.facts.storage.quota)) {
            return Err("files without a name are still charged to it".to_owned());
        }
        self.ledger.give_back(grave).map_err(|error| Failure::new(ExitStatus::Failed, &error).message)
    }

    fn look_at_preparations(&mut self, progress: &mut Progress) {
        let mut failures = BTreeMap::new();
        for ended in self.preparations.take_ended() {
            let tenant = ended.tenant;
            if let Err(error) = ended.result {
                let (what, reason) = (ended.what, error.to_string());
                progress.lines.push(format!("tenant={tenant} event=not-prepared what={what} reason={reason:?}"));
                let failure = failure(ExitStatus::Failed, &tenant, "prepare the storage of", &error);
                failures.insert(tenant.clone(), failure);
            }
            progress.events.push(WardenEvent::Prepared { tenant });
        }
        progress.replies.extend(self.waiting.fail_unprepared(&failures));
    }

    fn look_at_waiting(&mut self, progress: &mut Progress) {
        let now = Instant::now();
        for mut waiting in self.waiting.take() {
            let ticket = waiting.ticket;
            match self.outcome(&mut waiting, now) {
                Outcome::Reply(reply) => progress.replies.push((ticket, reply)),
                Outcome::Wait => self.waiting.keep(waiting),
                Outcome::Handle => {
                    let reply = match waiting.what {
                        WaitsFor::Settled { request, .. } | WaitsFor::Prepared { request, .. } => {
                            match self.begin(ticket, request) {
                                Answer::Now(reply) => Some(reply),
                                Answer::Later(_) => None,
                            }
                        }
                        WaitsFor::NetworkAnswers { tenant, .. } => {
                            self.replace(&tenant, ticket).unwrap_or_else(|failure| Some(WardenReply::Failed(failure)))
                        }
                        _ => None,
                    };
                    // Otherwise it waits again, for something else.
                    progress.replies.extend(reply.map(|reply| (ticket, reply)));
                }
            }
        }
    }

    fn outcome(&mut self, waiting: &mut WaitingRequest, now: Instant) -> Outcome {
        let is_late = waiting.is_late(now);
        let when_late = |reply: WardenReply| if is_late { Outcome::Reply(reply) } else { Outcome::Wait };
        match &mut waiting.what {
            WaitsFor::Cleared { tenant, done } => match self.jails.ending(tenant) {
                None => Outcome::Reply(done.clone()),
                ending => when_late(not_cleared(tenant, ending, Some(done))),
            },
            WaitsFor::Settled { tenant, request } => match self.jails.must_wait(request) {
                None => Outcome::Handle,
                Some(_) => when_late(not_cleared(tenant, self.jails.ending(tenant), None)),
            },
            WaitsFor::Frozen { tenant, freezing } => frozen(&self.jails, tenant, freezing, is_late).into(),
            WaitsFor::Left { leaving } if leaving.is_over(&self.groups) => Outcome::Reply(WardenReply::Done),
            WaitsFor::Left { leaving } => {
                let (verb, error) = ("end the FTP session of", FtpError::Stuck);
                when_late(WardenReply::Failed(failure(ExitStatus::Failed, leaving.tenant(), verb, &error)))
            }
            WaitsFor::Resized { tenant, resizing, network } => {
                let updated = network.as_mut().map_or(Some(Ok(())), |update| update.ask.answer());
                match updated {
                    None => Outcome::Wait,
                    Some(Ok(())) => {
                        let noted = network.take().map_or(Ok(()), |NetworkUpdate { settings, .. }| {
                            self.jails.note_network(&self.runtime, tenant, settings)
                        });
                        match noted {
                            Ok(()) => resized(tenant, resizing, is_late).into(),
                            Err(error) => Outcome::Reply(WardenReply::Failed(failure(
                                ExitStatus::Failed,
                                tenant,
                                "note the network of",
                                &error,
                            ))),
                        }
                    }
                    Some(Err(error)) => {
                        let failed = failure(ExitStatus::Failed, tenant, "change the network of", &error);
                        Outcome::Reply(WardenReply::Failed(failed))
                    }
                }
            }
            WaitsFor::NetworkAnswers { tenant, ask } => match ask.answer() {
                None => Outcome::Wait,
                Some(Ok(())) => Outcome::Handle,
                Some(Err(error)) => {
                    Outcome::Reply(WardenReply::Failed(failure(ExitStatus::Failed, tenant, "restart", &error)))
                }
            },
            WaitsFor::Purged { tenant, forgetting } => {
                match forgetting.as_mut().map_or(Some(Ok(())), NetAsk::answer) {
                    None => return Outcome::Wait,
                    Some(Ok(())) => *forgetting = None,
                    Some(Err(error)) => {
                        let what = "forget the traffic of the purged tenant";
                        return Outcome::Reply(WardenReply::Failed(failure(ExitStatus::Partly, tenant, what, &error)));
                    }
                }
                match self.removals.state(tenant, now) {
                    PurgeState::Gone => Outcome::Reply(WardenReply::Done),
                    PurgeState::Stuck(why) => Outcome::Reply(not_purged(tenant, &why)),
                    PurgeState::GoesOn => when_late(WardenReply::GoesOn),
                }
            }
            WaitsFor::Prepared { tenant, .. } if !self.preparations.has(tenant) => Outcome::Handle,
            WaitsFor::Prepared { tenant, .. } => {
                if is_late {
                    // The tenant starts when its storage is ready; nobody has to ask again.
                    self.ledger.set_held(tenant, false);
                }
                when_late(WardenReply::GoesOn)
            }
        }
    }
}

/// What becomes of a request that has waited.
enum Outcome {
    Reply(WardenReply),
    /// What it waited for has happened: handle it now.
    Handle,
    Wait,
}

impl From<Option<WardenReply>> for Outcome {
    fn from(reply: Option<WardenReply>) -> Self {
        reply.map_or(Self::Wait, Self::Reply)
    }
}

fn report_cleared(tenant: TenantName, ending: &Ending, progress: &mut Progress) {
    if ending.by_itself {
        progress.lines.push(format!("tenant={tenant} event=ended"));
        progress.events.push(WardenEvent::Ended { tenant });
    } else if ending.is_logged {
        progress.lines.push(format!("tenant={tenant} event=cleared reason=\"it took longer than usual\""));
    }
}

/// The reply to a request that has waited too long for a jail. `done` is the reply that it would get; if that is a
/// failure, the message tells both.
fn not_cleared(name: &TenantName, ending: Option<&Ending>, done: Option<&WardenReply>) -> WardenReply {
    if ending.is_some_and(Ending::has_time) {
        if done == Some(&WardenReply::Done) {
            return WardenReply::GoesOn;
        }
        let message = format!("services of \"{name}\" have not ended yet, and may take longer; try again");
        return WardenReply::Failed(Failure::of(ExitStatus::Failed, message));
    }
    let why = ending.and_then(|ending| ending.problem.as_deref()).unwrap_or(STUCK);
    let message = format!("cannot clear the jail of \"{name}\": {why}; it is \"clearing\" and tried again");
    WardenReply::Failed(match done {
        Some(WardenReply::Failed(first)) => Failure::of(first.status, format!("{}; and then {message}", first.message)),
        _ => Failure::of(ExitStatus::Failed, message),
    })
}

fn not_purged(name: &TenantName, why: &str) -> WardenReply {
    let message = format!(
        "the data of \"{name}\" was set aside, but {why}; the warden tries again, and the ids stay reserved until nothing is left"
    );
    WardenReply::Failed(Failure::of(ExitStatus::Partly, message))
}

fn frozen(jails: &Jails, name: &TenantName, freezing: &Freezing, is_late: bool) -> Option<WardenReply> {
    if jails.get(name).is_none() {
        return Some(WardenReply::Failed(has_ended(name)));
    }
    match freezing.is_done() {
        Ok(true) => Some(WardenReply::Done),
        Ok(false) if is_late => {
            let message = format!(
                "a process of \"{name}\" is not frozen or thawed yet (uninterruptible in the kernel?); the kernel does it as soon as it can"
            );
            Some(WardenReply::Failed(Failure::of(ExitStatus::Failed, message)))
        }
        Ok(false) => None,
        Err(error) => Some(WardenReply::Failed(failure(ExitStatus::Failed, name, "freeze or thaw", &error))),
    }
}

fn resized(name: &TenantName, resizing: &Helper, is_late: bool) -> Option<WardenReply> {
    let why = match resizing.end() {
        Some(Ok(())) => return Some(WardenReply::Done),
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
            "more is in one of them than the new size; remove some of it, or restart the tenant".to_owned()
        }
        Some(Err(error)) => error.to_string(),
        None if is_late => "something that is mounted there does not answer".to_owned(),
        None => return None,
    };
    let message = format!("cannot give /tmp and /dev/shm of \"{name}\" their size: {why}");
    Some(WardenReply::Failed(Failure::of(ExitStatus::Failed, message)))
}
