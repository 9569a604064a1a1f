//! The mount table of a jail: one row for each mount, in the order in which the warden makes them.
//!
//! Danger: no row may show a file of the host through the jail's id map, in any profile. The tenant's root would own
//! that file. `ro` stops writes and nothing else that an owner may do to an inode, and this inode is the host's own and
//! every other tenant's. Therefore the host's `/usr` is the lower layer of an overlay, whose inodes belong to the jail.
//! The copies of the host's `/etc` are such a layer too. Every other file of the host keeps the host's ids.
//!
//! A tenant that can mount can remove `ro` from its storage. Therefore the jail of a suspended tenant is confined as
//! `web` ([`confinement`]).

use crate::kernel::{ANSWERED, Answer, SYSFS};
use crate::lending::SOCKETS;
use crate::seed::LOGIN_ID;
use bailiwick_types::{Access, ByteSize, Hierarchy, HostFacts, Limits, Profile, UNIFIED};
use std::fmt;

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Copies of those parts of the host's `/etc` that a jail may see ([`bailiwick_policy::host_etc`]). The warden
    /// keeps one set of copies fresh for all jails. The copies are the lower layer of an overlay and keep the host's
    /// ids. So the jail's root owns none of them, and its watches and locks are on the jail's own inodes.
    HostEtc,
    /// The static program that becomes PID 1.
    Init,
    /// The static program behind sockets of services: static files, and the relay.
    Web,
    /// The static program that is `sendmail` inside.
    Mail,
    /// The directory of the host with the sockets that are lent to the tenant. The warden makes one for each jail.
    HostSockets,
    /// A directory of the tenant's storage, mounted with the jail's id map.
    Storage(&'static str),
    /// An overlay (overlayfs, mounted inside the user namespace): the host's directory is the lower layer, and the
    /// tenant's changes are the upper one. Without an upper layer the file system itself is read-only.
    Overlay {
        /// The host's directory, read-only.
        lower: &'static str,
        /// The directory of the tenant's storage that holds `upper` and `work`; `None` for an overlay without changes.
        upper: Option<&'static str>,
    },
    /// A directory of the one tmpfs of the jail's own that holds everything small: the root, `/run`, `/dev` and the masks. In each
    /// memory group of the host the kernel keeps a record for each file system, so a jail makes few of them.
    JailTmpfs(&'static str),
    /// A new tmpfs whose size is a limit of its own. Its memory is charged to the tenant.
    Tmpfs {
        /// Its size.
        size: ByteSize,
        /// Permissions of its root.
        mode: u32,
    },
    /// A new procfs of the jail's pid namespace.
    Proc,
    /// A new file system of empty directories and files, which are the targets of later rows.
    Skeleton,
    /// A part of a new sysfs of the jail's network namespace.
    Sysfs(&'static str),
    /// The tenant's own control group: in the unified hierarchy, or in the hierarchy of this controller of version 1.
    Group(&'static str),
    /// A file that the warden writes, over a file of the kernel that describes the whole host.
    Answer(Answer),
    /// A new devpts instance.
    Devpts,
    /// The POSIX message queues of the jail's ipc namespace.
    Mqueue,
    /// A device node of the host.
    Device(&'static str),
    /// An empty file or directory that hides its target.
    Mask,
    /// A bind mount of the target onto itself, to make it read-only.
    Itself,
}

/// Flags of a mount (`mount_setattr(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// `ro`.
    pub const READ_ONLY: Self = Self(1);
    /// `nosuid`.
    pub const NO_SUID: Self = Self(2);
    /// `nodev`.
    pub const NO_DEV: Self = Self(4);
    /// `noexec`.
    pub const NO_EXEC: Self = Self(8);

    /// The union of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the flags of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether this set contains all flags of `other`.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The words of `/proc/PID/mountinfo` for the flags that are set.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        [(Self::READ_ONLY, "ro"), (Self::NO_SUID, "nosuid"), (Self::NO_DEV, "nodev"), (Self::NO_EXEC, "noexec")]
            .into_iter()
            .filter_map(|(flag, word)| self.has(flag).then_some(word))
            .collect()
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words().join(","))
    }
}

/// One row of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The absolute path of the mount point inside the jail.
    pub target: String,
    /// What is mounted there.
    pub source: Source,
    /// The flags of the mount.
    pub flags: Flags,
}

impl Mount {
    /// The flags while the warden builds the jail. The root becomes read-only after the last row only, because earlier
    /// rows may have to create their mount points in it.
    #[must_use]
    pub fn flags_while_built(&self) -> Flags {
        if self.target == "/" { self.flags.without(Flags::READ_ONLY) } else { self.flags }
    }

    /// Whether the warden skips the row if its target does not exist. Kernels differ in the entries of `/proc` and
    /// `/sys`.
    #[must_use]
    pub fn only_if_present(&self) -> bool {
        matches!(self.source, Source::Mask | Source::Itself | Source::Sysfs(_) | Source::Answer(_))
    }
}

/// A symbolic link below the jail's new root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The absolute path of the link inside the jail.
    pub path: String,
    /// The target of the link.
    pub to: String,
}

const RO: Flags = Flags::READ_ONLY;
const DATA: Flags = Flags::NO_DEV;
const QUIET: Flags = Flags::NO_SUID.and(Flags::NO_DEV).and(Flags::NO_EXEC);

/// The parts of the host's `/etc` that every jail has from its first start: files that the host generates.
pub const HOST_ETC: &[&str] = bailiwick_policy::host_etc::GENERATED;

/// The directory of a jail with the parts of the host's `/etc` that it may see.
pub const HOST_ETC_INSIDE: &str = "/run/host/etc";

/// The name of the overlay's layer at [`HOST_ETC_INSIDE`]. The audit recognises the layer by it.
pub const HOST_ETC_LAYER: &str = "host-etc";

/// The limit of pseudo terminals of a jail. The whole host has one pool of them (`kernel.pty.max`).
pub const TERMINALS: u32 = 64;

/// The size of the tmpfs of [`Source::JailTmpfs`]: 16 MiB for `/run`, and the rest for all others.
pub const JAIL_TMPFS_SIZE: ByteSize = ByteSize(17 << 20);

/// The device nodes of a jail. None of them holds state or reaches hardware.
pub const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// The version 1 controllers whose groups a jail sees. Programs read their limits there.
const GROUPS_V1: [&str; 2] = ["cpu", "memory"];

/// A file in the jail's root that all permission bits allow to read. Only Landlock refuses it. A process that can open
/// it has no Landlock domain.
pub const CANARY: &str = "/.landlock";

/// Directories of `/run` that programs expect: path, permissions and owner inside the jail. Parents come first.
pub const RUN: &[(&str, u32, u32)] = &[
    ("lock", 0o1777, 0),
    ("screen", 0o1777, 0),
    ("user", 0o755, 0),
    // `XDG_RUNTIME_DIR` of root and of the login user.
    ("user/0", 0o700, 0),
    ("user/1000", 0o700, LOGIN_ID),
];

/// The path of init inside the jail.
pub const INIT: &str = "/run/host/init";

/// The path of `bailiwick-web` inside the jail.
pub const WEB: &str = "/run/host/bin/bailiwick-web";

/// The path of the tenant's own command for its services, inside the jail. It is init under another name.
pub const SERVICE_COMMAND: &str = "/run/host/bin/bailiwick-service";

/// The path of the program that hands mail to the host, inside the jail.
pub const MAIL: &str = "/run/host/bin/bailiwick-mail";

/// The same under the name that programs look for.
pub const SENDMAIL: &str = "/run/host/bin/sendmail";

/// The profile that confines a jail: it decides about capabilities, system calls and `no_new_privs`. A jail with
/// read-only storage gets `web`, because a process that can mount could remove `ro`. The kernel locks mount flags only
/// when it copies mounts into a user namespace, and the warden moves these mounts in.
#[must_use]
pub fn confinement(profile: Profile, access: Access) -> Profile {
    match access {
        Access::ReadWrite => profile,
        Access::ReadOnly => Profile::Web,
    }
}

/// The rows of a jail's mount table, and the links in its root.
#[must_use]
pub fn table(profile: Profile, access: Access, limits: &Limits, facts: &HostFacts) -> (Vec<Mount>, Vec<Link>) {
    let mut rows = Vec::new();
    let mut add = |target: &str, source: Source, flags: Flags| {
        rows.push(Mount { target: target.to_owned(), source, flags });
    };
    if profile == Profile::System {
        // The root is the tenant's storage. The lower layer of /usr is the host's /usr without /usr/local; the upper
        // layer is the tenant's.
        add("/", Source::Storage("rootfs"), DATA);
        add("/usr", Source::Overlay { lower: "/usr", upper: Some("usr") }, DATA);
    } else {
        // No process can create an entry in this root beside the rows below.
        add("/", Source::JailTmpfs("root"), RO.and(QUIET));
        add("/usr", Source::Overlay { lower: "/usr", upper: None }, RO.and(DATA));
        // The image does not contain the programs that the operator installed in /usr/local.
        add("/usr/local", Source::Storage("local"), DATA);
    }
    for (target, storage) in
        [("/etc", "etc"), ("/home", "home"), ("/opt", "opt"), ("/root", "root"), ("/srv", "srv"), ("/var", "var")]
    {
        add(target, Source::Storage(storage), DATA);
    }
    add("/tmp", Source::Tmpfs { size: limits.tmp_size(), mode: 0o1777 }, Flags::NO_SUID.and(DATA));
    add("/run", Source::JailTmpfs("run"), Flags::NO_SUID.and(DATA));
    add(HOST_ETC_INSIDE, Source::HostEtc, RO.and(QUIET));
    add(INIT, Source::Init, RO.and(Flags::NO_SUID).and(DATA));
    add(WEB, Source::Web, RO.and(Flags::NO_SUID).and(DATA));
    add(MAIL, Source::Mail, RO.and(Flags::NO_SUID).and(DATA));
    add(SOCKETS, Source::HostSockets, RO.and(QUIET));
    add("/dev", Source::JailTmpfs("dev"), Flags::NO_SUID.and(Flags::NO_EXEC));
    for device in DEVICES {
        add(&format!("/dev/{device}"), Source::Device(device), Flags::NO_SUID.and(Flags::NO_EXEC));
    }
    add("/dev/pts", Source::Devpts, Flags::NO_SUID.and(Flags::NO_EXEC));
    add("/dev/shm", Source::Tmpfs { size: limits.shm_size(), mode: 0o1777 }, QUIET);
    add("/dev/mqueue", Source::Mqueue, QUIET);
    add("/proc", Source::Proc, QUIET);
    for answer in ANSWERED {
        add(answer.path(), Source::Answer(*answer), RO.and(QUIET));
    }
    // No process can write to the visible entries, even if the kernel would allow it to the root of a namespace.
    add("/proc/sys", Source::Itself, RO.and(QUIET));
    for path in &facts.unlisted {
        add(path, Source::Mask, RO.and(QUIET));
    }
    add("/sys", Source::Skeleton, RO.and(QUIET));
    for part in SYSFS {
        add(&format!("/sys/{part}"), Source::Sysfs(part), RO.and(QUIET));
    }
    let v1 = |name: &&&str| facts.controller(name) == Some(Hierarchy::V1);
    if GROUPS_V1.iter().any(|name| v1(&name)) {
        for controller in GROUPS_V1.iter().filter(v1) {
            add(&format!("/sys/fs/cgroup/{controller}"), Source::Group(controller), RO.and(QUIET));
        }
    } else {
        add("/sys/fs/cgroup", Source::Group(UNIFIED), RO.and(QUIET));
    }
    if access == Access::ReadOnly {
        for row in &mut rows {
            let more = match row.source {
                // `noexec` too: a program that serves a door would run a library that the tenant's /etc names.
                Source::Storage(_) => RO.and(Flags::NO_EXEC),
                Source::Overlay { .. } => RO,
                _ => Flags::NONE,
            };
            row.flags = row.flags.and(more);
        }
    }

    let mut links: Vec<Link> =
        facts.root_links.iter().map(|(name, to)| Link { path: format!("/{name}"), to: to.clone() }).collect();
    for (path, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
        (SERVICE_COMMAND, "../init"),
        (SENDMAIL, "bailiwick-mail"),
    ] {
        links.push(Link { path: path.to_owned(), to: to.to_owned() });
    }
    (rows, links)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> HostFacts {
        HostFacts {
            kernel: "6.18".into(),
            landlock_abi: 7,
            controllers: Default::default(),
            root_links: [("bin".to_owned(), "usr/bin".to_owned())].into(),
            host_etc: HOST_ETC.iter().map(|entry| (*entry).to_owned()).collect(),
            unlisted: vec!["/proc/cmdline".to_owned(), "/proc/sys/fs/file-nr".to_owned()],
            storage: bailiwick_types::StorageFacts {
                fs_type: "xfs".to_owned(),
                quota: bailiwick_types::QuotaFacts::Projects,
                devices: Vec::new(),
            },
        }
    }

    #[test]
    fn parents_come_before_what_lies_in_them_and_no_target_twice() {
        for profile in Profile::ALL {
            let (rows, _) = table(*profile, Access::ReadWrite, &Limits::default(), &facts());
            for (index, row) in rows.iter().enumerate() {
                assert!(!rows[..index].iter().any(|earlier| earlier.target == row.target), "{} twice", row.target);
                assert!(
                    !rows[..index].iter().any(|earlier| earlier.target.starts_with(&format!("{}/", row.target))),
                    "{} would hide an earlier row",
                    row.target
                );
            }
        }
    }

    #[test]
    fn what_is_the_hosts_is_read_only_and_nowhere_the_tenants_own() {
        for profile in Profile::ALL {
            let (rows, _) = table(*profile, Access::ReadWrite, &Limits::default(), &facts());
            for row in rows {
                match row.source {
                    Source::Overlay { upper, .. } => {
                        assert_eq!(row.flags.has(RO), upper.is_none(), "{}", row.target);
                        assert_eq!(upper.is_some(), *profile == Profile::System, "{}", row.target);
                    }
                    Source::HostEtc | Source::Init | Source::Web | Source::Mail | Source::HostSockets => {
                        assert!(row.flags.has(RO), "{}", row.target)
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn device_nodes_work_nowhere_but_in_dev() {
        for profile in Profile::ALL {
            let (rows, _) = table(*profile, Access::ReadWrite, &Limits::default(), &facts());
            for row in rows.iter().filter(|row| !row.target.starts_with("/dev")) {
                assert!(row.flags.has(Flags::NO_DEV), "{}", row.target);
            }
        }
    }

    #[test]
    fn nothing_that_lasts_can_be_written_in_the_jail_of_a_suspended_tenant() {
        for profile in Profile::ALL {
            let (rows, links) = table(*profile, Access::ReadOnly, &Limits::default(), &facts());
            for row in &rows {
                let fresh = matches!(
                    row.source,
                    Source::JailTmpfs(_)
                        | Source::Tmpfs { .. }
                        | Source::Proc
                        | Source::Devpts
                        | Source::Mqueue
                        | Source::Device(_)
                );
                assert!(fresh || row.flags.has(RO), "{profile}: {}", row.target);
                assert!(!matches!(row.source, Source::Storage(_)) || row.flags.has(Flags::NO_EXEC), "{}", row.target);
            }
            // Nothing else differs from the table of an active tenant.
            let (mut written, same) = table(*profile, Access::ReadWrite, &Limits::default(), &facts());
            let storage =
                |row: &Mount| matches!(row.source, Source::Storage(_) | Source::Overlay { upper: Some(_), .. });
            assert!(
                written.iter().any(storage) && written.iter().filter(|row| storage(row)).all(|row| !row.flags.has(RO))
            );
            for (row, same) in written.iter_mut().zip(&rows).filter(|(row, _)| storage(row)) {
                row.flags = same.flags;
            }
            assert_eq!((rows, links), (written, same));
            // No process inside can remove `ro`: the profile has no call that mounts and no capability for it.
            let confined = confinement(*profile, Access::ReadOnly);
            assert_eq!(confined, Profile::Web);
            assert!(!crate::capability::CapabilitySet::of(confined).names().contains(&"cap_sys_admin".to_owned()));
            assert_eq!(confinement(*profile, Access::ReadWrite), *profile);
        }
    }

    #[test]
    fn what_is_not_listed_is_hidden_over_what_can_be_written_by_nobody() {
        for profile in Profile::ALL {
            let (rows, _) = table(*profile, Access::ReadWrite, &Limits::default(), &facts());
            let place = |target: &str| rows.iter().position(|row| row.target == target).expect(target);
            assert!(place("/proc/sys") < place("/proc/sys/fs/file-nr"), "or the mask would be below");
            assert!(rows.iter().all(|row| !matches!(row.source, Source::Sysfs("" | "/"))), "never a whole sysfs");
        }
    }

    #[test]
    fn a_jail_sees_its_own_group_where_programs_look_for_it() {
        let groups = |hierarchy| {
            let mut facts = facts();
            facts.controllers = ["cpu", "memory", "pids"].map(|name| (name.to_owned(), hierarchy)).into();
            let (rows, _) = table(Profile::Web, Access::ReadWrite, &Limits::default(), &facts);
            let shown = rows.into_iter().filter(|row| matches!(row.source, Source::Group(_)));
            shown.map(|row| (row.target, row.flags.has(RO))).collect::<Vec<_>>()
        };
        assert_eq!(groups(Hierarchy::Unified), [("/sys/fs/cgroup".to_owned(), true)]);
        let v1 = ["cpu", "memory"].map(|name| (format!("/sys/fs/cgroup/{name}"), true));
        assert_eq!(groups(Hierarchy::V1), v1);
    }

    #[test]
    fn private_keys_of_the_host_are_not_in_the_list() {
        assert!(HOST_ETC.iter().all(|entry| *entry != "ssl" && !entry.contains("private") && *entry != "shadow"));
    }
}
