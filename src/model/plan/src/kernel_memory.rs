//! Kernel objects that a tenant can create: whether the kernel charges them to the tenant, and what bounds them if not.
//! Also the pools that have a fixed size for the whole host. Each object and each pool has one row. `docs/limits.md`
//! repeats the rows, and `tests/attacks` tries them.
//!
//! Danger: the audit of the limit `memory` relies on this table. A row that promises more than the kernel does makes
//! the audit wrong. Nothing bounds an object without a row.

use crate::mount::TERMINALS;
use bailiwick_types::{ByteSize, Hierarchy, Nesting, Profile};

/// How much of an object's memory the control group `memory` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// All memory that matters.
    Whole,
    /// A separate counter with a limit of its own counts it.
    Apart,
    /// A part. The other part grows in proportion to it, so the limit bounds both.
    Part,
    /// Nothing.
    Nothing,
}

/// What keeps a tenant from using more of an object than its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The tenant cannot create the object. The text names the wall that refuses it.
    Refused(&'static str),
    /// The text names the bound.
    By(&'static str),
    /// Nothing bounds it. The text says why.
    Nothing(&'static str),
}

/// One kind of object, or one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: &'static str,
    /// What the memory controller of version 1 charges.
    pub v1: Charge,
    /// What the memory controller of version 2 charges.
    pub v2: Charge,
    web: Held,
    shell: Held,
    system: Held,
}

impl Object {
    /// What bounds the object in a profile.
    #[must_use]
    pub fn held(&self, profile: Profile) -> Held {
        match profile {
            Profile::Web => self.web,
            Profile::Shell => self.shell,
            Profile::System => self.system,
        }
    }

    /// What is charged if the memory controller is in this hierarchy. `None` is a host without the controller: nothing
    /// is charged.
    #[must_use]
    pub fn charge(&self, hierarchy: Option<Hierarchy>) -> Charge {
        match hierarchy {
            Some(Hierarchy::Unified) => self.v2,
            Some(Hierarchy::V1) => self.v1,
            None => Nothing,
        }
    }
}

/// Memory of a socket that nothing charges. A default of the kernel bounds it for each socket; nothing bounds the
/// number of sockets.
const SMALL_OPTIONS: &str = "net.core.optmem_max of each socket; options that keep much are refused";

const fn row(name: &'static str, v1: Charge, v2: Charge, [web, shell, system]: [Held; 3]) -> Object {
    Object { name, v1, v2, web, shell, system }
}

const fn same(held: Held) -> [Held; 3] {
    [held, held, held]
}

use Charge::{Apart, Nothing, Part, Whole};
use Held::{By, Nothing as Unheld, Refused};

/// The kernel memory of each kind of object.
pub const MEMORY: &[Object] = &[
    row("processes, page tables, open files", Whole, Whole, same(By("memory, tasks, open_files"))),
    row("pipes", Whole, Whole, same(By("memory"))),
    row("unix sockets", Whole, Whole, same(By("memory"))),
    row("tcp and udp sockets", Apart, Whole, same(By("memory_sockets on version 1, memory on version 2"))),
    row(
        "tcp connections that nobody has accepted",
        Nothing,
        Nothing,
        same(Unheld(
            "what arrives before accept(2) is charged to nobody: some 128 KiB (the default of net.ipv4.tcp_rmem) for each of \
             net.core.somaxconn connections of each listener",
        )),
    ),
    row(
        "netlink sockets",
        Nothing,
        Nothing,
        [
            Refused("filter"),
            Unheld(
                "their queues are charged to nobody, and nothing bounds their number; each holds net.core.rmem_default",
            ),
            Unheld(
                "their queues are charged to nobody, and nothing bounds their number; each holds net.core.rmem_default",
            ),
        ],
    ),
    row(
        "record locks",
        Nothing,
        Nothing,
        same(Unheld(
            "the kernel neither charges nor counts them (RLIMIT_LOCKS has no effect), and every database needs them",
        )),
    ),
    row("socket filters", Part, Part, same(Refused("filter"))),
    row("filters of system calls", Part, Part, same(By("tasks: 32,768 instructions for each"))),
    row("socket options", Nothing, Nothing, same(By(SMALL_OPTIONS))),
    row(
        "multicast memberships",
        Nothing,
        Nothing,
        same(By("net.ipv4.igmp_max_memberships of each socket; of ipv6 refused")),
    ),
    row("epoll watches", Whole, Whole, same(By("memory, fs.epoll.max_user_watches"))),
    row("inotify watches", Whole, Whole, same(By("memory, fs.inotify.max_user_watches of the tenant"))),
    row("event, timer and signal descriptors", Whole, Whole, same(By("memory, open_files"))),
    row("posix message queues", Whole, Whole, same(By("memory, RLIMIT_MSGQUEUE of the tenant"))),
    row("system v queues, semaphores, segments", Whole, Whole, same(By("memory, the jail's ipc namespace"))),
    row("queued signals and timers", Whole, Whole, same(By("memory, RLIMIT_SIGPENDING of the tenant"))),
    row("inodes and attributes of files in memory", Whole, Whole, same(By("memory"))),
    row(
        "access lists of files in memory",
        Nothing,
        Nothing,
        same(By("filter: attributes of less than 1 KiB; memory pays for the files that have them")),
    ),
    row("names of anonymous memory", Nothing, Nothing, same(Refused("filter"))),
    row("pseudo terminals", Whole, Whole, same(By("memory"))),
    row(
        "closed tcp connections that wait",
        Nothing,
        Nothing,
        same(By("net.ipv4.tcp_max_tw_buckets of the jail's network")),
    ),
    row(
        "ip fragments",
        Nothing,
        Nothing,
        same(By("net.ipv4.ipfrag_high_thresh and net.ipv6.ip6frag_high_thresh, 4 MiB each")),
    ),
    row(
        "packets that wait for a rate",
        Nothing,
        Nothing,
        same(By(
            "network.up, network.down: from 100 to 256 packets in each direction, of 64 KiB at the most, or of 32 KiB that a \
             small one keeps",
        )),
    ),
    row("network namespaces", Part, Part, same(Refused("user.max_net_namespaces of the jail"))),
    row("neighbours, routes, links, rules", Nothing, Nothing, same(Refused("no CAP_NET_ADMIN over any network"))),
    row("contexts of asynchronous input and output", Nothing, Nothing, same(Refused("filter"))),
    row("keys, bpf maps, rings of io_uring and perf", Part, Part, same(Refused("filter"))),
    row(
        "file systems that a tenant mounts",
        Part,
        Part,
        [
            Refused("filter"),
            Refused("filter"),
            Unheld("each adds a word to a table in every memory group of the host, which is charged to nobody"),
        ],
    ),
];

/// The pools with a fixed size for the whole host.
pub const POOLS: &[Object] = &[
    row(
        "pseudo terminals (kernel.pty.max)",
        Whole,
        Whole,
        [
            By(SHARE_OF_TERMINALS),
            By(SHARE_OF_TERMINALS),
            Unheld("a tenant mounts a devpts of its own without max=; kernel.pty.reserve of them stay the host's"),
        ],
    ),
    row("asynchronous input and output (fs.aio-max-nr)", Nothing, Nothing, same(Refused("filter"))),
    row(
        "neighbour tables (net.ipv4.neigh.default.gc_thresh3)",
        Nothing,
        Nothing,
        same(Refused("no CAP_NET_ADMIN over any network")),
    ),
    row("compiled filters (net.core.bpf_jit_limit)", Nothing, Nothing, same(By("tasks; socket filters are refused"))),
    row("ipv6 flow labels", Nothing, Nothing, same(Refused("filter"))),
    row("open files (fs.file-max)", Whole, Whole, same(By("tasks times open_files"))),
    row("numbers of processes (kernel.pid_max)", Whole, Whole, same(By("tasks, reserve.tasks"))),
    row(
        "inotify instances (fs.inotify.max_user_instances)",
        Whole,
        Whole,
        same(By("counted to the tenant's first id")),
    ),
    row("bytes in posix queues", Whole, Whole, same(By("RLIMIT_MSGQUEUE, counted to the tenant's first id"))),
    row("system v objects (kernel.shmmni, msgmni, sem)", Whole, Whole, same(By("the jail's ipc namespace"))),
    row(
        "memory of tcp (net.ipv4.tcp_mem)",
        Nothing,
        Nothing,
        same(Unheld(
            "connections that nobody has accepted count in it and are charged to nobody; when it is full, every connection of \
             the host waits for memory",
        )),
    ),
    row("memory of udp (net.ipv4.udp_mem)", Apart, Whole, same(By("memory_sockets on version 1, memory on version 2"))),
    row(
        "closed tcp connections that still send (net.ipv4.tcp_max_orphans)",
        Part,
        Whole,
        same(Unheld(
            "only what they hold is charged, which is little; beyond it the kernel cuts off what anybody on the host closes",
        )),
    ),
    row(
        "the log of the kernel (log_buf_len)",
        Nothing,
        Nothing,
        same(Unheld(
            "each death for want of memory writes a line for each process of the tenant, ten times in five seconds for the whole \
             host; what nobody has read by then is lost",
        )),
    ),
    row(
        "connections that are tracked (nf_conntrack_max)",
        Part,
        Part,
        same(By(
            "network.connections: as many that the tenant opens, as many that others open, and those of two minutes that have \
             ended, of which both open a twentieth of that number in a second, between 50 and 500; without CAP_NET_ADMIN a \
             jail tracks none of its own",
        )),
    ),
    row("keys (kernel.keys.maxkeys), fanotify", Whole, Whole, same(Refused("filter"))),
    row(
        "namespaces (user.max_*_namespaces)",
        Part,
        Part,
        [Refused("filter"), Refused("filter"), By("counted to the tenant's first id; of networks none")],
    ),
    row(
        "device numbers of file systems",
        Nothing,
        Nothing,
        [
            Refused("filter"),
            Refused("filter"),
            Unheld("each file system that a tenant mounts takes one of 1,048,576, and only its memory bounds how many"),
        ],
    ),
];

const SHARE_OF_TERMINALS: &str = "max=64 of the jail's devpts";
const _: () = assert!(TERMINALS == 64, "the line above says it");

/// The kernel memory that is neither fully charged nor bounded in a profile: name and reason of each object.
pub fn unbounded(profile: Profile, hierarchy: Option<Hierarchy>) -> impl Iterator<Item = (&'static str, &'static str)> {
    let is_charged = move |object: &Object| matches!(object.charge(hierarchy), Whole);
    MEMORY.iter().filter(move |object| !is_charged(object)).filter_map(move |object| reason(object, profile))
}

/// The pools of the host that a tenant of a profile can exhaust: name and reason of each pool.
pub fn unshared(profile: Profile) -> impl Iterator<Item = (&'static str, &'static str)> {
    POOLS.iter().filter_map(move |object| reason(object, profile))
}

fn reason(object: &Object, profile: Profile) -> Option<(&'static str, &'static str)> {
    match object.held(profile) {
        Unheld(why) => Some((object.name, why)),
        Refused(_) | By(_) => None,
    }
}

/// The limits of the kernel's counters in a jail's user namespace (`/proc/sys/user`). The warden writes them before the
/// tenant's first process runs. No process of the tenant can change them: that needs CAP_SYS_RESOURCE, which no profile
/// has. The kernel counts separately for each id, and a tenant has 65,536 ids. So only the value 0 bounds a tenant.
#[must_use]
pub fn counts(profile: Profile, nesting: Nesting) -> &'static [(&'static str, u64)] {
    match (profile, nesting) {
        // In `web` and `shell` the filter also refuses calls that make a namespace.
        (Profile::Web | Profile::Shell, _) | (Profile::System, Nesting::Refused) => {
            &[("max_net_namespaces", 0), ("max_user_namespaces", 0)]
        }
        // A tenant would have every capability over a network of its own. It could then fill the host's only neighbour
        // table, for example.
        (Profile::System, Nesting::Allowed) => &[("max_net_namespaces", 0)],
    }
}

/// The memory of TCP and UDP sockets in addition to `memory`, in bytes. Version 1 counts it separately: an eighth of
/// `memory`, and at least 16 MiB.
#[must_use]
pub fn sockets(memory: ByteSize) -> ByteSize {
    ByteSize((memory.0 / 8).max(16 << 20) / 4096 * 4096)
}

/// Why `io_write` and `iops_write` do not bound all writes, on any file system.
pub const METADATA: &str = "what a file system writes for itself (names, attributes, its journal) is written by threads of the \
                            kernel and charged to nobody: only the data of files is held";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = include_str!("../../../../docs/limits.md");

    #[test]
    fn every_object_is_charged_or_bounded_or_says_why_not() {
        for object in MEMORY.iter().chain(POOLS) {
            for profile in Profile::ALL {
                let (Refused(text) | By(text) | Unheld(text)) = object.held(*profile);
                assert!(!text.is_empty(), "{}", object.name);
                // An object that is not charged must name another bound than `memory` alone.
                let free = [object.v1, object.v2].iter().any(|charge| matches!(charge, Nothing));
                assert!(!(free && text == "memory"), "{}", object.name);
            }
        }
        let names: BTreeSet<&str> = MEMORY.iter().map(|object| object.name).collect();
        assert_eq!(names.len(), MEMORY.len());
    }

    #[test]
    fn the_document_says_what_the_table_says() {
        let charge = |charge| match charge {
            Whole => "yes",
            Apart => "apart",
            Part => "in part",
            Nothing => "no",
        };
        let held = |held| match held {
            Refused(who) => format!("refused: {who}"),
            By(what) => what.to_owned(),
            Unheld(why) => format!("**nothing**: {why}"),
        };
        let cell = |object: &Object| {
            let texts = Profile::ALL.iter().map(|profile| (profile, held(object.held(*profile))));
            let texts: Vec<_> = texts.collect();
            if texts.iter().all(|(_, text)| *text == texts[0].1) {
                return texts[0].1.clone();
            }
            texts.iter().map(|(profile, text)| format!("`{profile}`: {text}")).collect::<Vec<_>>().join("<br>")
        };
        let memory = MEMORY.iter().map(|object| {
            format!("| {} | {} | {} | {} |", object.name, charge(object.v1), charge(object.v2), cell(object))
        });
        let pools = POOLS.iter().map(|object| format!("| {} | {} |", object.name, cell(object)));
        let lacking: Vec<String> =
            memory.chain(pools).filter(|row| !DOCUMENT.lines().any(|line| line == row.as_str())).collect();
        assert!(lacking.is_empty(), "docs/limits.md lacks:\n{}", lacking.join("\n"));
    }

    #[test]
    fn record_locks_are_told_of_in_every_profile_and_netlink_where_it_is() {
        let names = |profile| unbounded(profile, Some(Hierarchy::Unified)).map(|(name, _)| name).collect::<Vec<_>>();
        let [early, netlink, locks] = ["tcp connections that nobody has accepted", "netlink sockets", "record locks"];
        assert_eq!(names(Profile::Web), [early, locks]);
        assert_eq!(names(Profile::Shell), [early, netlink, locks]);
        assert_eq!(names(Profile::System), [early, netlink, locks, "file systems that a tenant mounts"]);
        assert_eq!(unshared(Profile::Web).count(), 3);
        assert_eq!(unshared(Profile::Shell).count(), 3);
        assert_eq!(unshared(Profile::System).count(), 5);
    }

    #[test]
    fn sockets_have_a_share_and_never_next_to_nothing() {
        assert_eq!(sockets(ByteSize(1 << 30)), ByteSize(128 << 20));
        assert_eq!(sockets(ByteSize(1 << 20)), ByteSize(16 << 20));
    }
}
