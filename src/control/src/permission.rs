//! Who may use the control socket.

use bailiwick_policy::{Host, Principal};
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, TenantName};
use users::{get_group_by_name, get_user_by_name};

/// A decision that somebody may ask for anything that the policy allows. Handlers of requests take it, so none can be
/// reached without it.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Permission {
    /// For the log.
    pub(crate) uid: u32,
}

impl Permission {
    /// Decides by the user at the other end and its groups, as the kernel names them: what the user database says of
    /// the user may have changed since, and a service has groups that no database knows.
    pub(crate) fn of(uid: u32, groups: &[u32], host: &Host) -> Result<Self, Failure> {
        if uid == 0 || host.admins.iter().any(|principal| includes(principal, uid, groups)) {
            return Ok(Self { uid });
        }
        let message = format!("user {uid} is not among `admins` in bailiwick.toml");
        Err(Failure::of(ExitStatus::Refused, message))
    }
}

impl Permission {
    /// For a tenant's own host user. Whoever calls this passes the tenant's own name on with it, and no other.
    pub(crate) fn over_own(uid: u32) -> Self {
        Self { uid }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// May ask for anything that the policy allows.
    Operator(Permission),
    /// Has one of a tenant's host ids: may see what is the tenant's.
    Tenant(TenantName, Permission),
}

fn includes(principal: &Principal, uid: u32, groups: &[u32]) -> bool {
    match principal {
        Principal::User(name) => get_user_by_name(name).is_some_and(|user| user.uid() == uid),
        Principal::Group(name) => get_group_by_name(name).is_some_and(|group| groups.contains(&group.gid())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_policy::Reserve;
    use bailiwick_types::ByteSize;

    fn host(admins: Vec<Principal>) -> Host {
        Host {
            state_dir: "/s".into(),
            runtime_dir: "/r".into(),
            ids: Default::default(),
            require: Default::default(),
            syslog: false,
            reserve: Reserve { memory: ByteSize(0), tasks: 0, disk: ByteSize(0) },
            admins,
            user: "nobody".into(),
            login_group: "bailiwick-tenants".into(),
        }
    }

    #[test]
    fn root_and_the_listed_may_and_nobody_else() {
        let host = host(vec![Principal::User("daemon".into()), Principal::Group("mail".into())]);
        assert!(Permission::of(0, &[], &host).is_ok());
        // `daemon` is user 1, `mail` is group 8 on every Debian.
        assert!(Permission::of(1, &[1], &host).is_ok());
        assert!(Permission::of(4_000_000_000, &[7, 8], &host).is_ok());
        for uid in [2, 8, 33, 65_534, 4_000_000_000] {
            let failure = Permission::of(uid, &[uid - 1, 0], &host).expect_err("refused");
            assert_eq!(failure.status, ExitStatus::Refused);
        }
    }
}
