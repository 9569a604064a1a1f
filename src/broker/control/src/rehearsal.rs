//! Answers `why`: runs the checks of a login or a write in their order, by the code that decides, without doing either.

use crate::door;
use crate::ftp_entry::FtpEntry;
use crate::metrics;
use crate::permission::OperatorPermission;
use crate::refusals::check;
use crate::service_keeper::ServiceKeeper;
use crate::session_entry::SessionEntry;
use crate::sessions;
use crate::tenants::Tenants;
use bailiwick_plan::mount::{Flags, Mount, Source, table};
use bailiwick_policy::{Declared, Tenant};
use bailiwick_proto::control::{SocketStatus, WhyCheck, WhyQuestion, WhyWhat};
use bailiwick_proto::{Failure, WardenReply, WardenRequest};
use bailiwick_types::{Access, ByteSize, Door, ExitStatus, LimitKey, LimitValue, QuotaFact};
use std::path::Path;
use std::sync::Arc;

/// Answers `why`.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) session_entry: Arc<SessionEntry>,
    pub(crate) ftp_entry: Arc<FtpEntry>,
    pub(crate) service_keeper: Arc<ServiceKeeper>,
}

impl Rehearsal {
    /// Runs the checks that a question is about.
    pub(crate) async fn run(
        &self,
        _permission: OperatorPermission,
        question: &WhyQuestion,
    ) -> Result<Vec<WhyCheck>, Failure> {
        let tenant = match self.tenants.policy.declared(&question.tenant) {
            Ok(tenant) => tenant,
            Err(failure) if failure.status == ExitStatus::NotFound => return Err(failure),
            Err(failure) => return Ok(vec![check("policy", "no valid version", Err(failure))]),
        };
        let state = match &tenant.state {
            Declared::Active => "the tenant is declared, and active",
            Declared::Suspended { .. } => "the tenant is declared, and suspended",
        };
        let mut checks = vec![check("policy", state, Ok(()))];
        checks.extend(match &question.what {
            WhyWhat::Login { door, user, source } => {
                self.login(&tenant, *door, user.as_deref(), source.as_deref()).await?
            }
            WhyWhat::Write { path, bytes } => self.write(&tenant, path.as_deref(), *bytes).await?,
        });
        Ok(checks)
    }

    async fn login(
        &self,
        tenant: &Tenant,
        door: Door,
        user: Option<&str>,
        source: Option<&str>,
    ) -> Result<Vec<WhyCheck>, Failure> {
        let mut checks = Vec::new();
        if matches!(door, Door::Ssh | Door::Sftp) {
            checks.push(self.session_entry.rehearse_host_user(tenant).await);
        }
        if let Some(source) = source {
            let found = format!("{source} is an address; no address is refused by itself");
            checks.push(check("client", found, door::check_client(Some(source), None)));
        }
        match door {
            Door::Socket => {
                checks.push(check("door", "it is open", door::check_open(tenant, door)));
                checks.extend(self.sockets(tenant).await?);
            }
            Door::Ftp => {
                checks.extend(self.ftp_entry.rehearse(tenant, user));
                // FTP counts its sessions by login, and has no user of the host.
                let of_jail = self.session_entry.rehearse(tenant, door, None).await;
                checks.extend(
                    of_jail.into_iter().filter(|check| ["frozen", "room", "jail"].contains(&check.check.as_str())),
                );
            }
            _ => checks.extend(self.session_entry.rehearse(tenant, door, user).await),
        }
        Ok(checks)
    }

    /// The sockets of a tenant's services, as the web server finds them.
    async fn sockets(&self, tenant: &Tenant) -> Result<Vec<WhyCheck>, Failure> {
        let listed = self.service_keeper.list(std::slice::from_ref(&tenant.name)).await?;
        let mut checks = Vec::new();
        for of_tenant in listed {
            let problem = of_tenant.problem.map_or(Ok(()), |problem| Err(Failure::of(ExitStatus::Refused, problem)));
            checks.push(check("services", format!("{} of them", of_tenant.services.len()), problem));
            for service in of_tenant.services {
                for SocketStatus { name, path, connections, problem, .. } in service.sockets {
                    let connections = connections.map_or_else(String::new, |count| format!(", {count} connection(s)"));
                    let state = service.report.as_ref().map_or("not started", |report| report.state.word());
                    let found = format!("\"{path}\"{connections}; the service \"{}\" is {state}", service.name);
                    let result = problem.map_or(Ok(()), |problem| Err(Failure::of(ExitStatus::Refused, problem)));
                    checks.push(check(&format!("socket {name}"), found, result));
                }
            }
        }
        let has_none = !checks.iter().any(|check| check.check.starts_with("socket "));
        if has_none {
            let message = format!("no service of \"{}\" has a socket: add [[service.socket]]", tenant.name);
            checks.push(check("socket", "none", Err(Failure::of(ExitStatus::Refused, message))));
        }
        Ok(checks)
    }

    async fn write(&self, tenant: &Tenant, path: Option<&str>, bytes: u64) -> Result<Vec<WhyCheck>, Failure> {
        let facts = self.tenants.warden.facts().await?;
        let access = tenant.access().unwrap_or(Access::ReadOnly);
        let refused = |message: String| Err(Failure::of(ExitStatus::Refused, message));
        let writable = match (&tenant.state, access) {
            (Declared::Suspended { reason }, Access::ReadOnly) => {
                Err(door::suspended(&tenant.name, reason.as_deref()).into())
            }
            _ => Ok(()),
        };
        let mut checks = vec![check("access", "the storage may be written to", writable)];
        let mut is_storage = true;
        if let Some(path) = path {
            let (rows, _) = table(tenant.settings.profile, Access::ReadWrite, &tenant.settings.limits, &facts);
            let row = row_of(&rows, path);
            let place = row.map_or("/", |row| row.target.as_str());
            let is_read_only = row.is_some_and(|row| row.flags.has(Flags::READ_ONLY));
            let result = match is_read_only {
                true => refused(format!("\"{place}\" is read-only in the profile \"{}\"", tenant.settings.profile)),
                false => Ok(()),
            };
            checks.push(check("place", format!("\"{path}\" is below \"{place}\", which may be written to"), result));
            is_storage = !row.is_some_and(|row| matches!(row.source, Source::JailTmpfs(_) | Source::Tmpfs { .. }));
            if !is_storage && let Some(key) = limit_of(place) {
                let size = tenant.settings.limits.value(key).map(|value| key.in_words(value)).unwrap_or_default();
                checks.push(check("size", format!("what lies there is memory; `{key}` is {size}"), Ok(())));
            }
        }
        if is_storage
            && let Ok(WardenReply::Problems { reserve, .. }) = self.tenants.warden.ask(&WardenRequest::Problems).await
        {
            let result = reserve.map_or(Ok(()), |problem| Err(Failure::of(ExitStatus::OverLimit, problem)));
            checks.push(check("reserve", "the host keeps its reserve of disk space", result));
        }
        if is_storage {
            let host = self.tenants.policy.host();
            let space = metrics::space(host.state_dir.clone()).await;
            checks.push(of_space(space.map(|space| space.free), host.reserve.disk.0, bytes));
        }
        checks.extend(self.limits(tenant, is_storage, bytes).await);
        Ok(checks)
    }

    /// The limits that a write meets, each by one reading of the kernel.
    async fn limits(&self, tenant: &Tenant, is_storage: bool, bytes: u64) -> Vec<WhyCheck> {
        let mut checks = Vec::new();
        let hard = |key| tenant.settings.limits.value(key).and_then(LimitValue::hard);
        if is_storage
            && let Ok(WardenReply::Disks(disks)) = self.tenants.warden.ask(&WardenRequest::Disks).await
            && let Some(disk) = disks.get(&tenant.name)
        {
            for (key, quota, more) in [(LimitKey::Disk, Some(disk.bytes), bytes), (LimitKey::Inodes, disk.inodes, 1)] {
                checks.extend(quota.filter(|_| hard(key).is_some()).map(|quota| of_quota(key, &quota, more)));
            }
        }
        let entry = self.tenants.warden.entry(&tenant.name).await.ok().flatten();
        let cgroups = entry.map(|entry| entry.cgroups).unwrap_or_default();
        if let Some(meter) = self.tenants.warden.meter().await {
            let room = meter.room(&cgroups, 0);
            let more = if is_storage { 0 } else { bytes };
            checks.push(limit(LimitKey::Memory, room.memory, hard(LimitKey::Memory), more));
            checks.push(limit(LimitKey::Tasks, room.tasks, hard(LimitKey::Tasks), 0));
        }
        checks
    }
}

/// Whether a write leaves the host its reserve on the disk of the tenants.
fn of_space(free: Option<u64>, kept: u64, bytes: u64) -> WhyCheck {
    let Some(free) = free else { return check("space", "the free space of the tenants' disk is not known", Ok(())) };
    let [shown, reserve, wanted] = [free, kept, bytes].map(|bytes| ByteSize(bytes).rounded());
    let found = format!("{shown} are free on the disk of the tenants, of which the host keeps {reserve}");
    let result = if bytes > free.saturating_sub(kept) {
        let message = format!("{found}, so {wanted} do not fit: make room there, or `bailiwick pool grow`");
        Err(Failure::of(ExitStatus::OverLimit, message))
    } else {
        Ok(())
    };
    check("space", found, result)
}

/// The row of a mount table that a path is below.
fn row_of<'a>(rows: &'a [Mount], path: &str) -> Option<&'a Mount> {
    rows.iter().filter(|row| Path::new(path).starts_with(&row.target)).max_by_key(|row| row.target.len())
}

fn limit_of(place: &str) -> Option<LimitKey> {
    match place {
        "/tmp" => Some(LimitKey::Tmp),
        "/dev/shm" => Some(LimitKey::Shm),
        _ => None,
    }
}

/// Whether `more` still fits into a quota. Above the soft bound nothing does once the grace time is over.
fn of_quota(key: LimitKey, quota: &QuotaFact, more: u64) -> WhyCheck {
    let now = sessions::now();
    let is_over =
        quota.soft.is_some_and(|soft| quota.used > soft) && quota.grace_until.is_some_and(|until| until <= now);
    match quota.soft.filter(|_| is_over) {
        Some(soft) => limit(key, Some(quota.used), Some(soft), more),
        None => limit(key, Some(quota.used), quota.hard, more),
    }
}

/// Whether `more` still fits into a limit. Memory that a write does not take refuses nothing, and tasks are needed for any program.
fn limit(key: LimitKey, used: Option<u64>, hard: Option<u64>, more: u64) -> WhyCheck {
    let amount = |number: u64| match key {
        LimitKey::Disk | LimitKey::Memory => ByteSize(number).rounded().to_string(),
        _ => number.to_string(),
    };
    let found = match (used, hard) {
        (None, _) => "its use is not known".to_owned(),
        (Some(used), Some(hard)) => format!("{} of {} are used", amount(used), amount(hard)),
        (Some(used), None) => format!("{} are used, and there is no limit", amount(used)),
    };
    let is_over = |(used, hard): &(u64, u64)| match key {
        LimitKey::Tasks => used >= hard,
        _ => more > 0 && used.saturating_add(more) > *hard,
    };
    let result = match used.zip(hard).filter(is_over) {
        Some((used, hard)) => {
            let (hard, used) = (amount(hard), amount(used));
            let message = format!(
                "`{key}` is {hard}, and {used} are used: have the tenant free some, or raise it with `bailiwick set`"
            );
            Err(Failure::of(ExitStatus::OverLimit, message))
        }
        None => Ok(()),
    };
    check(key.word(), found, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_refused_where_it_does_not_fit() {
        for (key, used, hard, more, refuses) in [
            (LimitKey::Disk, 90, 100, 10, false),
            (LimitKey::Disk, 90, 100, 11, true),
            (LimitKey::Inodes, 100, 100, 1, true),
            (LimitKey::Memory, 100, 100, 0, false),
            (LimitKey::Tasks, 99, 100, 0, false),
            (LimitKey::Tasks, 100, 100, 0, true),
        ] {
            let check = limit(key, Some(used), Some(hard), more);
            assert_eq!(check.refusal.is_some(), refuses, "{key} {used} {more}");
            assert_eq!(check.refusal.map_or(ExitStatus::OverLimit, |refusal| refusal.status), ExitStatus::OverLimit);
        }
        assert_eq!(limit(LimitKey::Disk, None, None, 1 << 40).refusal, None);
        let quota =
            |grace_until| QuotaFact { used: 90, soft: Some(80), hard: Some(200), grace_until, lowered_at: None };
        for (until, refuses) in [(None, false), (Some(u64::MAX), false), (Some(1), true)] {
            assert_eq!(of_quota(LimitKey::Disk, &quota(until), 1).refusal.is_some(), refuses, "{until:?}");
        }
    }

    #[test]
    fn a_write_leaves_the_host_its_reserve() {
        for (free, kept, bytes, refuses) in
            [(Some(100), 10, 90, false), (Some(100), 10, 91, true), (Some(5), 10, 1, true), (None, 10, 1, false)]
        {
            assert_eq!(of_space(free, kept, bytes).refusal.is_some(), refuses, "{free:?} {kept} {bytes}");
        }
    }

    #[test]
    fn a_path_is_below_the_nearest_row() {
        let row = |target: &str| Mount { target: target.to_owned(), source: Source::Proc, flags: Flags::NONE };
        let rows = ["/", "/usr", "/usr/local", "/tmp"].map(row);
        for (path, target) in [("/usr/bin/x", "/usr"), ("/usrx", "/"), ("/tmp", "/tmp"), ("/usr/local/x", "/usr/local")]
        {
            assert_eq!(row_of(&rows, path).map(|row| row.target.as_str()), Some(target), "{path}");
        }
    }
}
