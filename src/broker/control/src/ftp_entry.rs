//! Logins by FTP: which logins exist, and which processes of a server have entered a jail.
//!
//! Danger: only root makes these requests. The warden proves what the client says of a process before the process
//! counts as inside.

use crate::door;
use crate::ftp::{Ftp, Held, Note};
use crate::permission::{OperatorPermission, RootPermission};
use crate::refusals::{Client, Refusals, check};
use crate::sessions::{SessionGuard, SessionRequest, Sessions};
use crate::tenants::Tenants;
use crate::waking::{Cause, Waking};
use bailiwick_plan::seed::LOGIN_ID;
use bailiwick_policy::Tenant;
use bailiwick_proto::control::WhyCheck;
use bailiwick_proto::warden::FtpProcess;
use bailiwick_proto::{Failure, WardenRequest};
use bailiwick_sys::process;
use bailiwick_types::{Door, ExitStatus, FtpUser, PasswordHash, visible};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// A hash of random bytes that nobody has kept, with the method and cost of `bailiwick password`. It is used when no
/// login exists to take the method from.
const NOBODY: &str = "$y$j9T$D7TvcSFvIlGpEkFVkXmRs0$PVJVZr.iZXKXOrpzJwLvzzeg65p20T86Q0D3KhW3Dv0";

fn no_login(what: &str) -> Failure {
    Failure::of(ExitStatus::Refused, format!("there is no login {what}"))
}

/// Lets FTP logins into jails and counts them.
#[derive(Debug)]
pub(crate) struct FtpEntry {
    tenants: Arc<Tenants>,
    sessions: Arc<Sessions>,
    notes: Ftp,
    refusals: Arc<Refusals>,
    waking: Arc<Waking>,
}

impl FtpEntry {
    pub(crate) fn new(
        tenants: Arc<Tenants>,
        sessions: Arc<Sessions>,
        notes: Ftp,
        refusals: Arc<Refusals>,
        waking: Arc<Waking>,
    ) -> Self {
        Self { tenants, sessions, notes, refusals, waking }
    }

    /// The hash to compare the password of an FTP login with. For an unknown login it is a dummy hash with the method
    /// and cost of its tenant's logins, or of other tenants' logins, so that timing reveals nothing.
    pub(crate) fn hash(&self, _permission: RootPermission, user: &str) -> PasswordHash {
        let user = user.parse::<FtpUser>().ok();
        let loaded = self.tenants.policy.loaded();
        let own = user.as_ref().and_then(|user| loaded.policy.tenants.get(&user.tenant));
        let own = own.map_or(&[][..], |tenant| &tenant.ftp);
        if let Some(login) = own.iter().find(|login| user.as_ref().is_some_and(|user| user.name == login.name)) {
            return login.password.clone();
        }
        let others = loaded.policy.tenants.values().flat_map(|tenant| &tenant.ftp);
        let like = own.iter().chain(others).next();
        like.map_or_else(|| NOBODY.parse().expect("a hash"), |login| login.password.of_nobody())
    }

    /// Counts and logs a wrong FTP password.
    pub(crate) fn refused(&self, permission: RootPermission, pid: u32, user: &str, source: Option<String>) {
        let client = Client { door: Door::Ftp, uid: OperatorPermission::from(permission).uid, pid, source, key: None };
        let user = door::short(visible(user).into_owned());
        let failure = Failure::of(ExitStatus::Refused, format!("a wrong login or password for \"{user}\""));
        let known = user.parse::<FtpUser>().ok().filter(|user| self.tenants.knows(&user.tenant));
        match known {
            Some(user) => self.refusals.log(&client, &user.tenant, &failure),
            None => self.refusals.log(&client, &format_args!("-"), &failure),
        }
    }

    /// Counts a session for a process of an FTP server that is about to enter a jail, and wakes the tenant for it.
    pub(crate) async fn enter(
        &self,
        permission: RootPermission,
        pid: u32,
        user: &FtpUser,
        source: Option<String>,
    ) -> Result<SessionGuard, Failure> {
        let uid = OperatorPermission::from(permission).uid;
        let client = Client { door: Door::Ftp, uid, pid, source: source.clone(), key: None };
        let entered = async {
            door::check_client(source.as_deref(), None)?;
            let tenant = self.tenants.policy.declared(&user.tenant)?;
            door::check_open(&tenant, Door::Ftp)?;
            let login = tenant.ftp.iter().find(|login| login.name == user.name);
            let login = login.ok_or_else(|| no_login(&format!("\"{user}\"")))?;
            let request = SessionRequest {
                door: Door::Ftp,
                user: user.to_string(),
                source: source.clone(),
                key: None,
                command: (!login.directory.is_empty()).then(|| door::short(login.directory.clone())),
                uid,
                pid,
                most: login.sessions,
            };
            let counted = self.sessions.enter(&tenant, request)?;
            // The session is counted, so the tenant stays awake. It may just be falling asleep, though.
            drop(self.waking.keep_awake(&tenant.name).await);
            self.waking.wake_if_asleep(&tenant, Cause::Door(Door::Ftp)).await?;
            Ok(counted)
        };
        entered.await.inspect_err(|failure| self.refusals.log(&client, &user.tenant, failure))
    }

    /// Runs the checks of [`Self::enter`] for one session more, in their order. Nothing is counted or woken.
    pub(crate) fn rehearse(&self, tenant: &Tenant, login: Option<&str>) -> Vec<WhyCheck> {
        let mut checks = vec![check("door", "it is open", door::check_open(tenant, Door::Ftp))];
        let name = login.map(|login| login.split('@').next().unwrap_or_default());
        let known = tenant.ftp.iter().find(|known| name.is_none_or(|name| known.name.as_str() == name));
        let logins = tenant.ftp.iter().map(|login| format!("{}@{}", login.name, tenant.name)).collect::<Vec<_>>();
        let refusal = || match (name, logins.as_slice()) {
            (_, []) => no_login(&format!("for FTP in the file of \"{}\": add one below [[ftp]]", tenant.name)),
            (name, logins) => {
                let name = name.unwrap_or_default();
                no_login(&format!("\"{name}@{}\"; there are: {}", tenant.name, logins.join(", ")))
            }
        };
        checks.push(check("login", format!("there are: {}", logins.join(", ")), known.map(drop).ok_or_else(refusal)));
        if let Some(login) = known {
            let user = format!("{}@{}", login.name, tenant.name);
            let (found, counted) = self.sessions.would_enter(tenant, Door::Ftp, &user, login.sessions);
            checks.push(check("sessions", found, counted));
        }
        checks
    }

    /// The process has entered the jail, and counts until it ends. It waits for this reply, so its pid cannot belong to
    /// another process.
    pub(crate) async fn entered(self: &Arc<Self>, mut counted: SessionGuard) -> Result<(), Failure> {
        let record = counted.record().clone();
        let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, &error);
        let pidfd = process::open(record.pid).map_err(failed)?;
        let of = |process: &FtpProcess| process.tenant == record.tenant && process.pid == record.pid;
        let process =
            self.tenants.warden.ftp_processes(Some(&record.tenant)).await?.into_iter().find(of).ok_or_else(|| {
                Failure::of(
                    ExitStatus::Refused,
                    format!("process {} is not in the jail of \"{}\"", record.pid, record.tenant),
                )
            })?;
        self.notes.note(Note { record, process: process.clone() })?;
        counted.opened(LOGIN_ID);
        tokio::spawn(Arc::clone(self).attend(counted, process, pidfd));
        Ok(())
    }

    /// Counts a session until its process ends, and has the warden end the process when the session must end.
    async fn attend(self: Arc<Self>, counted: SessionGuard, process: FtpProcess, pidfd: OwnedFd) {
        let id = counted.record().id;
        let mut held = Held::new(counted);
        // If the descriptor cannot be waited on, the session is no longer counted, and a warning says so. The session
        // itself continues.
        #[expect(
            deprecated,
            reason = "what is deprecated about it are descriptors that somebody else may close: this one is owned"
        )]
        match AsyncFd::with_interest(pidfd, Interest::READABLE) {
            Ok(pidfd) => loop {
                tokio::select! {
                    biased;
                    _ = pidfd.readable() => break,
                    _ = held.counted().end() => {}
                }
                if let Err(failure) = self.tenants.warden.ask(&WardenRequest::EndFtp { process: process.clone() }).await
                {
                    warn!(target: "bailiwick::event", tenant = %process.tenant, event = "session-not-ended", session = %id, "{failure}");
                }
            },
            Err(error) => warn!(event = "session-not-counted", session = %id, "{error}"),
        }
        if let Err(failure) = self.notes.strike(id) {
            warn!(event = "session-not-struck", session = %id, "{failure}");
        }
        held.ended();
    }

    /// Writes the database of logins, and counts the FTP sessions that an earlier daemon counted.
    pub(crate) async fn resume(self: Arc<Self>) {
        self.tenants.policy.write_logins(&self.tenants.policy.loaded().policy);
        let earlier = self.notes.earlier();
        if earlier.is_empty() {
            return;
        }
        let processes = loop {
            match self.tenants.warden.ftp_processes(None).await {
                Ok(processes) => break processes,
                Err(failure) => warn!(event = "sessions-not-resumed", "{failure}"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        for note in earlier.into_iter().filter(|note| processes.contains(&note.process)) {
            // Open the process before the warden is asked again: then the answer is about the process that is held.
            let Ok(pidfd) = process::open(note.process.pid) else { continue };
            if !matches!(self.tenants.warden.ftp_processes(Some(&note.process.tenant)).await, Ok(now) if now.contains(&note.process))
            {
                continue;
            }
            match self.sessions.resume(note.record.clone()) {
                Ok(counted) => {
                    if let Err(failure) = self.notes.note(note.clone()) {
                        warn!(event = "session-not-noted", session = %note.record.id, "{failure}");
                    }
                    tokio::spawn(Arc::clone(&self).attend(counted, note.process, pidfd));
                }
                Err(failure) => warn!(event = "session-not-resumed", "{failure}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use crate::services::Services;

    #[test]
    fn the_method_of_a_hash_does_not_tell_which_logins_there_are() {
        let dir = tempfile::tempdir().expect("makes");
        let write = |file: &str, text: String| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("makes");
            std::fs::write(path, text).expect("writes");
        };
        let login = |setting: &str, len: usize| {
            format!("plan = \"small\"\n[[ftp]]\nname = \"blog\"\npassword = \"{setting}{}\"\n", "x".repeat(len))
        };
        write("bailiwick.toml", String::new());
        write("plans.d/small.toml", "doors = [\"ftp\"]\n".to_owned());
        for tenant in ["alice", "bob", "carol"] {
            write(&format!("tenants.d/{tenant}.toml"), "plan = \"small\"\n".to_owned());
        }
        let hash = |services: &Services, user: &str| {
            services.ftp_entry.hash(crate::permission::RootPermission::of(0).expect("root"), user).as_str().to_owned()
        };
        assert!(hash(&Services::open(dir.path()).expect("is valid"), "blog@alice").starts_with("$y$"));
        write("tenants.d/alice.toml", login("$6$saltsalt$", 86));
        write("tenants.d/bob.toml", login("$5$saltsalt$", 43));
        let services = Services::open(dir.path()).expect("is valid");
        for (user, golden) in [
            ("blog@alice", format!("$6$saltsalt${}", "x".repeat(86))),
            ("shop@alice", format!("$6$saltsalt${}", ".".repeat(86))),
            ("shop@bob", format!("$5$saltsalt${}", ".".repeat(43))),
            ("blog@carol", format!("$6$saltsalt${}", ".".repeat(86))),
            ("root", format!("$6$saltsalt${}", ".".repeat(86))),
        ] {
            assert_eq!(hash(&services, user), golden, "{user}");
        }
    }
}
