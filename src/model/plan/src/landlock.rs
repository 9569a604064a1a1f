//! The Landlock domain of a jail: a second wall behind the mount table (`landlock(7)`).
//!
//! In a domain that handles every file-system right, the kernel refuses every call that changes mounts, whatever
//! capabilities the process has. Rules refer to inodes of the jail's root at the time when the domain is made. The
//! tenant cannot replace those inodes.

use crate::ftp::FTP_HOME;
use bailiwick_types::Profile;

// From linux/landlock.h.
/// File-system rights, with the kernel's numbers.
pub mod access {
    #![expect(missing_docs, reason = "the names are the kernel's, and landlock(7) describes them")]
    pub const EXECUTE: u64 = 1 << 0;
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const READ_DIR: u64 = 1 << 3;
    pub const REMOVE_DIR: u64 = 1 << 4;
    pub const REMOVE_FILE: u64 = 1 << 5;
    pub const MAKE_CHAR: u64 = 1 << 6;
    pub const MAKE_DIR: u64 = 1 << 7;
    pub const MAKE_REG: u64 = 1 << 8;
    pub const MAKE_SOCK: u64 = 1 << 9;
    pub const MAKE_FIFO: u64 = 1 << 10;
    pub const MAKE_BLOCK: u64 = 1 << 11;
    pub const MAKE_SYM: u64 = 1 << 12;
    pub const REFER: u64 = 1 << 13;
    pub const TRUNCATE: u64 = 1 << 14;
    pub const IOCTL_DEV: u64 = 1 << 15;
}
use access::*;

/// Scopes, with the kernel's numbers.
pub mod scope {
    /// A process cannot connect to abstract Unix sockets of other domains.
    pub const ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
    /// A process cannot signal processes of other domains.
    pub const SIGNAL: u64 = 1 << 1;
}

/// The newest ABI that this table knows. On a newer kernel a domain handles the rights of this ABI only.
pub const NEWEST_KNOWN_ABI: u32 = 7;

/// The rights that a domain grants below one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The path inside the jail.
    pub path: &'static str,
    /// The granted rights.
    pub access: u64,
}

/// A Landlock domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// The ABI that limits the rights and scopes below.
    pub abi: u32,
    /// The rights that need a rule. 0 means no file-system domain.
    pub handled: u64,
    /// The scopes.
    pub scoped: u64,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// The kernel's Landlock ABI is lower than the profile accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("profile \"{profile}\" needs Landlock ABI {needs}, this kernel has {has}")]
pub struct TooOld {
    /// The profile that needs more.
    pub profile: Profile,
    /// The lowest ABI that it accepts.
    pub needs: u32,
    /// The ABI of the kernel; 0 without Landlock.
    pub has: u32,
}

/// The lowest ABI that a profile accepts. ABI 2 (Linux 5.19) allows renames across directories. ABI 6 (Linux 6.12) has
/// the scopes, and the profile `system` uses nothing else of Landlock.
#[must_use]
pub fn lowest_abi(profile: Profile) -> u32 {
    match profile {
        Profile::Web | Profile::Shell => 2,
        Profile::System => 6,
    }
}

/// All file-system rights of an ABI.
fn rights(abi: u32) -> u64 {
    let mut all = (REFER << 1) - 1;
    if abi >= 3 {
        all |= TRUNCATE;
    }
    if abi >= 5 {
        all |= IOCTL_DEV;
    }
    all
}

impl Domain {
    /// The domain of an FTP server's process inside a jail: the files of its login, and no program.
    ///
    /// # Errors
    /// When the kernel's ABI is lower than the profile `web` accepts.
    pub fn of_ftp(kernel_abi: u32) -> Result<Self, TooOld> {
        let mut domain = Self::of(Profile::Web, kernel_abi)?;
        let files = !(EXECUTE | MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK | MAKE_FIFO | IOCTL_DEV);
        let rule = |path, access: u64| Rule { path, access: access & domain.handled };
        domain.rules = vec![rule("/", READ_DIR), rule("/etc", READ_FILE), rule(FTP_HOME, files)];
        Ok(domain)
    }

    /// The file-system rights that the domain of the router's process handles; `None` on a kernel without Landlock.
    #[must_use]
    pub fn of_router(kernel_abi: u32) -> Option<u64> {
        (kernel_abi > 0).then(|| rights(kernel_abi.min(NEWEST_KNOWN_ABI)))
    }

    /// The domain of a profile on a kernel with this ABI.
    ///
    /// # Errors
    /// When the kernel's ABI is lower than the profile accepts.
    pub fn of(profile: Profile, kernel_abi: u32) -> Result<Self, TooOld> {
        let needs = lowest_abi(profile);
        if kernel_abi < needs {
            return Err(TooOld { profile, needs, has: kernel_abi });
        }
        let abi = kernel_abi.min(NEWEST_KNOWN_ABI);
        let scoped = if abi >= 6 { scope::ABSTRACT_UNIX_SOCKET | scope::SIGNAL } else { 0 };
        if profile == Profile::System {
            return Ok(Self { abi, handled: 0, scoped, rules: Vec::new() });
        }
        let handled = rights(abi);
        let own = handled & !(MAKE_CHAR | MAKE_BLOCK);
        let see = READ_FILE | READ_DIR;
        let rule = |path, access: u64| Rule { path, access: access & handled };
        let rules = vec![
            rule("/", READ_DIR), // not READ_FILE: the canary is in this directory
            rule("/usr", see | EXECUTE),
            rule("/usr/local", own),
            rule("/etc", own),
            rule("/home", own),
            rule("/opt", own),
            rule("/root", own),
            rule("/srv", own),
            rule("/var", own),
            rule("/tmp", own),
            rule("/run", own),
            rule("/dev", see | WRITE_FILE | IOCTL_DEV),
            rule("/dev/shm", own),
            rule("/dev/mqueue", own),
            rule("/proc", see | WRITE_FILE),
            rule("/sys", see),
        ];
        Ok(Self { abi, handled, scoped, rules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_is_an_error_and_never_less_protection() {
        assert_eq!(Domain::of(Profile::System, 5), Err(TooOld { profile: Profile::System, needs: 6, has: 5 }));
        assert!(Domain::of(Profile::Web, 0).is_err());
    }

    #[test]
    fn nothing_is_granted_that_the_abi_does_not_know() {
        for abi in 2..=20 {
            let domain = Domain::of(Profile::Web, abi).expect("accepted");
            assert!(domain.rules.iter().all(|rule| rule.access & !domain.handled == 0 && rule.access != 0));
            assert_eq!(domain.handled & TRUNCATE != 0, abi >= 3);
        }
        assert_eq!(Domain::of(Profile::Web, 20), Domain::of(Profile::Web, NEWEST_KNOWN_ABI));
    }

    #[test]
    fn an_ftp_server_runs_no_program_and_makes_files_below_its_directory_alone() {
        for abi in 2..=20 {
            let domain = Domain::of_ftp(abi).expect("accepted");
            let execute = domain.rules.iter().any(|rule| rule.access & EXECUTE != 0);
            assert!(domain.handled & EXECUTE != 0 && !execute);
            let writes: Vec<_> =
                domain.rules.iter().filter(|rule| rule.access & MAKE_REG != 0).map(|rule| rule.path).collect();
            assert_eq!(writes, [FTP_HOME]);
            assert!(domain.rules.iter().all(|rule| rule.access & !domain.handled == 0));
        }
        assert!(Domain::of_ftp(1).is_err());
    }

    #[test]
    fn nowhere_can_a_device_node_be_made_and_the_canary_is_refused() {
        let domain = Domain::of(Profile::Shell, 7).expect("accepted");
        assert!(domain.rules.iter().all(|rule| rule.access & (MAKE_CHAR | MAKE_BLOCK) == 0));
        let root = domain.rules.iter().find(|rule| rule.path == "/").expect("root has a rule");
        assert_eq!(root.access & READ_FILE, 0);
    }
}
