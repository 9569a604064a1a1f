//! What a process of an FTP server sees and may do once it is in a jail: an empty root, a user database of one line, and the directory
//! that its login is locked to.
//!
//! Danger: the process is the host's program, in the host's network and pid namespace, with the memory that it had. It must find
//! nothing there that could run in it: no program, no library, no configuration of the tenant's.

use crate::capability::CapabilitySet;
use crate::mount::Flags;
use crate::seed::LOGIN_ID;
use bailiwick_types::FtpUser;

/// Where what the login may see is. It is the home of its line in the user database.
pub const FTP_HOME: &str = "/home";
/// The user database.
pub const FTP_PASSWD: &str = "/etc/passwd";

/// The flags of the empty root.
pub const ROOT_FLAGS: Flags = Flags::READ_ONLY.and(Flags::NO_SUID).and(Flags::NO_DEV).and(Flags::NO_EXEC);
/// The flags of the login's directory. What is not executable cannot be mapped as a library either.
pub const HOME_FLAGS: Flags = Flags::NO_SUID.and(Flags::NO_DEV).and(Flags::NO_EXEC);

/// What the server needs of a root: to become the login user (`setuid`, `setgid`), to lock it into its directory (`sys_chroot`), and to
/// hand files over (`chown`).
pub const CAPABILITIES: CapabilitySet = CapabilitySet(1 << 0 | 1 << 6 | 1 << 7 | 1 << 18);

/// The line of a login in a user database, as ids inside the jail.
#[must_use]
pub fn passwd_line(user: &FtpUser) -> String {
    format!("{user}:x:{LOGIN_ID}:{LOGIN_ID}::{FTP_HOME}:/usr/sbin/nologin\n")
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
        assert_eq!(passwd_line(&user), "blog@alice:x:1000:1000::/home:/usr/sbin/nologin\n");
    }
}
