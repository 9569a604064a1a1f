//! Doors that need something of the host: FTP logins, and host users for sshd.

use crate::ftp::{self, FtpError};
use crate::identity::host_user::HostUserError;
use crate::jail::registry::Jails;
use crate::jail::stop::CLEAR_TIME;
use crate::limits::cgroups::Groups;
use crate::requests::{Begins, Ticket, WaitingRequests, WaitsFor, failed, failure, has_ended};
use crate::state::Warden;
use bailiwick_plan::JailPlan;
use bailiwick_proto::warden::{FtpProcess, FtpView};
use bailiwick_proto::{Failure, Refusal, WardenReply};
use bailiwick_sys::process;
use bailiwick_types::{Door, ExitStatus, FtpUser, TenantName};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

impl Warden {
    /// What a process of an FTP server needs to enter the jail for a login. The caller has checked with the kernel
    /// that root asks.
    pub(crate) fn ftp_view(&mut self, user: &FtpUser) -> Result<(FtpView, Vec<OwnedFd>), Failure> {
        let name = &user.tenant;
        let (host, tenant) = self.policy.declared(name)?;
        let login = tenant.ftp.iter().find(|login| login.name == user.name);
        let login = login.filter(|_| tenant.is_open(Door::Ftp)).ok_or_else(|| {
            let message = format!("there is no FTP login \"{user}\", or the door \"ftp\" of \"{name}\" is closed");
            Failure::of(ExitStatus::Refused, message)
        })?;
        self.jails.require(name)?;
        if self.jails.is_frozen(name) {
            return Err(Refusal::Frozen { tenant: name.clone() }.into());
        }
        let (Some(ids), Some(jail)) = (self.ledger.ids(name), self.jails.get(name)) else {
            return Err(Failure::of(ExitStatus::Refused, format!("\"{name}\" has no jail")));
        };
        let plan = JailPlan::new(&tenant, &host, ids, &self.policy.facts).map_err(failed(name, "enter"))?;
        let fds = ftp::view(&self.storage, &self.groups, &plan, &tenant, login, jail.record.pid);
        let fds = fds.map_err(failed(name, "enter"))?;
        // If init still runs, its number was its own all the time.
        if process::has_ended(&jail.pidfd, Duration::ZERO).unwrap_or(true) {
            return Err(has_ended(name));
        }
        Ok((FtpView { profile: plan.profile, open_files: tenant.settings.limits.open_files }, fds))
    }

    /// A tenant with a door of sshd has a host user, even while suspended: the login then says why it is refused.
    pub(crate) fn host_user(&mut self, name: &TenantName) -> Result<WardenReply, Failure> {
        let is_wanted = match self.policy.declared(name) {
            Ok((_, tenant)) => tenant.has_host_user(),
            Err(failure) if failure.status == ExitStatus::NotFound => false,
            Err(failure) => return Err(failure),
        };
        let changed = match self.ledger.ids(name).filter(|_| is_wanted) {
            Some(ids) => self.host_users.make(name, self.policy.host.ids.host_user(ids)),
            None => self.host_users.remove(name),
        };
        self.lending.note_host_user(name);
        let changed = changed.map_err(|error| {
            let status = match error {
                HostUserError::Taken { .. } | HostUserError::Foreign(_) => ExitStatus::Conflict,
                HostUserError::NoGroup(_) => ExitStatus::HostCannot,
                _ => ExitStatus::Failed,
            };
            failure(status, name, "change the host user of", &error)
        })?;
        Ok(if changed { WardenReply::Done } else { WardenReply::Unchanged })
    }
}

/// Begins to end a process of an FTP server.
pub(crate) fn end_ftp(
    groups: &Groups,
    jails: &mut Jails,
    waiting: &mut WaitingRequests,
    process: &FtpProcess,
    ticket: Ticket,
) -> Begins {
    jails.require(&process.tenant)?;
    let leaving = ftp::end(groups, process).map_err(|error| {
        let status = match error {
            FtpError::NotIn(..) => ExitStatus::NotFound,
            _ => ExitStatus::Failed,
        };
        Failure::new(status, &error)
    })?;
    waiting.add(ticket, Instant::now() + CLEAR_TIME, WaitsFor::Left { leaving });
    Ok(None)
}

/// The FTP processes in running jails, of one tenant or of all.
pub(crate) fn ftp_processes(groups: &Groups, jails: &Jails, tenant: Option<&TenantName>) -> Vec<FtpProcess> {
    let names = jails.running().map(|(name, _)| name);
    let meant = names.filter(|name| tenant.is_none_or(|tenant| *name == tenant));
    meant.flat_map(|name| ftp::processes(groups, name)).collect()
}
