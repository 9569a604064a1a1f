//! Calls the handler of each request.

use crate::handlers::doors::{end_ftp, ftp_processes};
use crate::handlers::lifecycle::{Freeze, freeze, stop, time_of_services};
use crate::handlers::limits::emergency_forked;
use crate::requests::{Answer, Ticket};
use crate::state::Warden;
use bailiwick_proto::warden::{MOST_OBSERVED, RosterEntry};
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_types::ExitStatus;
use std::time::Duration;

impl Warden {
    /// Handles a request, or begins to.
    pub(crate) fn handle(&mut self, request: WardenRequest) -> Answer {
        self.last_ticket += 1;
        self.begin(self.last_ticket, request)
    }

    /// The same, under a ticket that the request already has.
    pub(crate) fn begin(&mut self, ticket: Ticket, request: WardenRequest) -> Answer {
        if self.is_put_off(ticket, &request) {
            return Answer::Later(ticket);
        }
        let services = match &request {
            // It runs what the policy declares, or declared a short time ago.
            WardenRequest::Stop { tenant, .. } if self.jails.runs(tenant) => {
                self.policy.find(tenant).as_ref().map_or(Duration::ZERO, time_of_services)
            }
            _ => Duration::ZERO,
        };
        let (groups, jails, waiting) = (&self.groups, &mut self.jails, &mut self.waiting);
        let begins = match request {
            WardenRequest::Start { tenant } => self.start(&tenant, ticket),
            WardenRequest::Restart { tenant } => self.restart(&tenant, ticket),
            WardenRequest::Stop { tenant, hold } => {
                stop((&mut self.ledger, groups), jails, waiting, (&tenant, hold, services), ticket)
            }
            WardenRequest::Freeze { tenant, by } => {
                freeze((groups, &self.runtime), jails, waiting, (&tenant, Freeze::Stand, by), ticket)
            }
            WardenRequest::Thaw { tenant, by } => {
                freeze((groups, &self.runtime), jails, waiting, (&tenant, Freeze::GoOn, by), ticket)
            }
            WardenRequest::Purge { tenant } => self.purge(&tenant, ticket),
            WardenRequest::Limit { tenant } => self.limit(&tenant, ticket),
            WardenRequest::EndFtp { process } => end_ftp(groups, jails, waiting, &process, ticket),
            request => return Answer::Now(self.answer(request)),
        };
        match begins {
            Ok(Some(reply)) => Answer::Now(reply),
            Ok(None) => Answer::Later(ticket),
            Err(failure) => Answer::Now(WardenReply::Failed(failure)),
        }
    }

    /// Answers a request that takes no time.
    fn answer(&mut self, request: WardenRequest) -> WardenReply {
        let result = match request {
            WardenRequest::Hello => Ok(WardenReply::Hello { version: env!("CARGO_PKG_VERSION").to_owned() }),
            WardenRequest::Start { .. }
            | WardenRequest::Restart { .. }
            | WardenRequest::Stop { .. }
            | WardenRequest::Freeze { .. }
            | WardenRequest::Thaw { .. }
            | WardenRequest::Limit { .. }
            | WardenRequest::EndFtp { .. }
            | WardenRequest::Purge { .. } => unreachable!("they begin above"),
            WardenRequest::Rescue { tenant } => self.begin_emergency(&tenant),
            WardenRequest::Rescued { tenant } => {
                emergency_forked(&self.groups, &mut self.emergencies, &mut self.jails, &tenant)
            }
            WardenRequest::HostUser { tenant } => self.host_user(&tenant),
            WardenRequest::Keep { tenants } => self.policy.keep(&tenants).map(|()| WardenReply::Done),
            WardenRequest::Observe { tenants } => self
                .look(&tenants, MOST_OBSERVED, bailiwick_observe::observe_with, |all| &mut all.disk)
                .map(WardenReply::Observed),
            WardenRequest::InForce { tenants } => self.in_force(&tenants).map(WardenReply::InForce),
            WardenRequest::FtpProcesses { tenant } => {
                Ok(WardenReply::FtpProcesses(ftp_processes(&self.groups, &self.jails, tenant.as_ref())))
            }
            // The reply has descriptors: see `ftp_view`.
            WardenRequest::FtpView { .. } => Err(Failure::of(ExitStatus::Refused, "only root lets an FTP server in")),
            // The reply has descriptors: see `service_groups`.
            WardenRequest::ServiceGroups { .. } => unreachable!("the loop answers it"),
            WardenRequest::Connections => self.connections(),
            WardenRequest::Facts => self.facts(),
            WardenRequest::Disks => self.disks(),
            WardenRequest::Evidence { tenant } => self.evidence(&tenant),
            // The loop has noted the watcher.
            WardenRequest::Watch => Ok(WardenReply::Done),
            WardenRequest::Problems => Ok(self.all_problems()),
            WardenRequest::Roster => Ok(self.roster()),
            WardenRequest::Entry { tenant } => {
                let entry = self.ledger.ids(&tenant).map(|ids| Box::new(self.entry(&tenant, ids)));
                let host_sockets = self.lending.of(&tenant);
                Ok(WardenReply::Entry(entry.map(|entry| Box::new(RosterEntry { host_sockets, ..*entry }))))
            }
        };
        result.unwrap_or_else(WardenReply::Failed)
    }
}
