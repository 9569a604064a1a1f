//! The view and the permissions of an FTP server's process inside a jail: an empty root, a user database of one line,
//! and the directory of the login.
//!
//! Danger: the process runs the host's program in the host's network and pid namespaces, and keeps its memory from
//! before. It must not find a file that it could execute or load: no program, no library, no configuration of the
//! tenant.

use crate::capability::CapabilitySet;
use crate::mount::Flags;
use crate::seed::LOGIN_ID;
use bailiwick_types::{FtpUser, IdRange};

/// The mount point of the login's directory. The user database names it as the home directory.
pub const FTP_HOME: &str = "/home";
/// The path of the user database.
pub const FTP_PASSWD: &str = "/etc/passwd";

/// The flags of the empty root.
pub const ROOT_FLAGS: Flags = Flags::READ_ONLY.and(Flags::NO_SUID).and(Flags::NO_DEV).and(Flags::NO_EXEC);
/// The flags of the login's directory. With `noexec`, files cannot be mapped as libraries either.
pub const HOME_FLAGS: Flags = Flags::NO_SUID.and(Flags::NO_DEV).and(Flags::NO_EXEC);

/// The capabilities of the server: to become the login user (`setuid`, `setgid`), to lock the process into the login's
/// directory (`sys_chroot`), and to give files to the login user (`chown`).
pub const CAPABILITIES: CapabilitySet = CapabilitySet::all_of(&[
    CapabilitySet::CHOWN,
    CapabilitySet::SETGID,
    CapabilitySet::SETUID,
    CapabilitySet::SYS_CHROOT,
]);

/// The user id of a login's process inside. ProFTPD reads the number on the host, before it asks whether the login is
/// allowed. So on the host the number must belong to no user, even after an error. Debian gives 1000 to the first user
/// of a host and never assigns this number (Debian policy, 9.2.2).
pub const FTP_ID: u32 = 65_533;

/// The line of a login in the user database, with ids inside the jail.
#[must_use]
pub fn passwd_line(user: &FtpUser) -> String {
    format!("{user}:x:{FTP_ID}:{FTP_ID}::{FTP_HOME}:/usr/sbin/nologin\n")
}

/// The id map of the login's directory. It is the jail's map with two ids exchanged: files of the login user belong to
/// [`FTP_ID`], and files of that id to the login user. So the files that the process makes belong to the login user in
/// the jail. Each row has the first id inside, the first id outside, and the count.
#[must_use]
pub fn id_map(ids: IdRange) -> [[u32; 3]; 5] {
    let row = |inside: u32, outside: u32, count: u32| [inside, ids.first + outside, count];
    [
        row(0, 0, LOGIN_ID),
        row(LOGIN_ID, FTP_ID, 1),
        row(LOGIN_ID + 1, LOGIN_ID + 1, FTP_ID - LOGIN_ID - 1),
        row(FTP_ID, LOGIN_ID, 1),
        row(FTP_ID + 1, FTP_ID + 1, ids.count - FTP_ID - 1),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_override_permissions_nor_reach_the_kernel() {
        assert_eq!(CAPABILITIES.names(), ["cap_chown", "cap_setgid", "cap_setuid", "cap_sys_chroot"]);
        assert!([ROOT_FLAGS, HOME_FLAGS].iter().all(|flags| flags.has(Flags::NO_EXEC) && flags.has(Flags::NO_SUID)));
    }

    #[test]
    fn a_line_has_seven_fields() {
        let user = "blog@alice".parse().expect("a login");
        assert_eq!(passwd_line(&user), "blog@alice:x:65533:65533::/home:/usr/sbin/nologin\n");
    }

    #[test]
    fn every_id_is_mapped_once_and_two_change_places() {
        let ids = IdRange { first: 10_000_000, count: 65_536 };
        let mut inside: Vec<(u32, u32)> = id_map(ids)
            .iter()
            .flat_map(|[inside, outside, count]| (0..*count).map(move |n| (inside + n, outside + n)))
            .collect();
        inside.sort_unstable();
        let golden = |id| match id {
            LOGIN_ID => FTP_ID,
            FTP_ID => LOGIN_ID,
            id => id,
        };
        assert_eq!(inside, (0..65_536).map(|id| (id, 10_000_000 + golden(id))).collect::<Vec<_>>());
    }
}
