//! A tenant creates as many kernel objects of each kind as it can. Each row of the table is tried in each profile:
//! the memory is charged and bounded as the row says, or the audit reports that nothing bounds it.
//!
//! Charges are read from the control group of the tenant, which nothing else on the machine changes.

use crate::{host, syscall};
use bailiwick_plan::kernel_memory::{self, Charge, Held, Object};
use bailiwick_tests::{Host, profiles, until};
use bailiwick_types::{Hierarchy, HostFacts, Profile};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

const MIB: u64 = 1 << 20;
const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;
const ENOPROTOOPT: i32 = 92;

/// Prefix of every script.
const PERL: &str = "use strict; use Socket; use Fcntl; use IO::Handle; $| = 1; my @kept; ";

/// A tenant, and where its memory is accounted.
struct Tenant<'a> {
    host: &'a Host,
    name: &'static str,
    profile: Profile,
    group: PathBuf,
    hierarchy: Hierarchy,
}

impl<'a> Tenant<'a> {
    fn new(host: &'a Host, name: &'static str, facts: &HostFacts) -> Self {
        let shown: Value = serde_json::from_str(&host.ok(&["show", name, "--json"])).expect("JSON");
        let hierarchy = facts.controller("memory").expect("the controller memory");
        let key = if hierarchy == Hierarchy::V1 { "memory" } else { "unified" };
        let mount = bailiwick_sys::cgroup::hierarchies().expect("hierarchies");
        let path = shown["cgroup"][key].as_str().expect("a path").trim_start_matches('/').to_owned();
        let group = mount.mount_of(key).expect("mounted").join(path);
        let profile = Profile::ALL.iter().find(|profile| profile.word() == name).expect("named like its profile");
        Self { host, name, profile: *profile, group, hierarchy }
    }

    fn read(&self, file: &str) -> u64 {
        let text = std::fs::read_to_string(self.group.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        text.trim().parse().unwrap_or_else(|_| panic!("{file}: {text:?}"))
    }

    fn charged(&self) -> u64 {
        self.read(if self.hierarchy == Hierarchy::V1 { "memory.usage_in_bytes" } else { "memory.current" })
    }

    /// Bytes charged for TCP and UDP sockets.
    fn of_sockets(&self) -> u64 {
        if self.hierarchy == Hierarchy::V1 {
            return self.read("memory.kmem.tcp.usage_in_bytes");
        }
        let text = std::fs::read_to_string(self.group.join("memory.stat")).expect("reads");
        let line = text.lines().find_map(|line| line.strip_prefix("sock "));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no sock in {text}"))
    }

    /// Runs a script as root in the jail. The script prints a number and keeps what it created while `look` runs.
    fn holding<T>(&self, script: &str, look: impl FnOnce(u64) -> T) -> T {
        let script = format!("{PERL}{script}; print scalar(@kept), \"\\n\"; <STDIN>;");
        let mut command = self.host.command(&["exec", self.name, "--", "perl", "-e", &script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("reads");
        let count = line.trim().parse().unwrap_or_else(|_| panic!("{}: {line:?} of {script}", self.name));
        let seen = look(count);
        drop(child.stdin.take());
        child.wait().expect("ends");
        seen
    }

    /// The largest number of objects that a script can create.
    fn most(&self, script: &str) -> u64 {
        self.holding(script, |count| count)
    }

    /// Checks that a script's objects are charged, at least `least` bytes. Objects of the previous attempt may
    /// still be freed and make the growth too small, so a failed measurement is repeated.
    fn is_charged(&self, object: &str, least: u64, script: &str) {
        until(&format!("{}: {least} bytes are charged for {object}", self.name), || {
            let before = self.charged();
            self.holding(script, |_| self.charged()).saturating_sub(before) >= least
        });
    }

    fn option(&self, family: u32, level: u32, option: u32) -> i32 {
        let line = format!(
            "exec perl -e 'socket(my $s, {family}, 2, 0) or die $!; $! = 0; \
             setsockopt($s, {level}, {option}, \"\\0\" x 256); print $! + 0'"
        );
        let (_, out, err) = self.host.inside(self.name, &line);
        out.trim().parse().unwrap_or_else(|_| panic!("{}: {out:?} {err:?}", self.name))
    }

    fn refuses_option(&self, family: u32, level: u32, option: u32) {
        assert_eq!(self.option(family, level, option), EPERM, "{}: option {option} of level {level}", self.name);
    }

    fn refuses_calls(&self, numbers: &[i64]) {
        for number in numbers {
            let errno = syscall(self.host, self.name, *number, ", 0, 0, 0, 0, 0");
            assert!([EPERM, ENOSYS].contains(&errno), "{}: call {number} gave {errno}", self.name);
        }
    }

    fn fails(&self, line: &str) {
        let (status, out, _) = self.host.inside(self.name, line);
        assert_ne!(status, 0, "{}: {line}: {out}", self.name);
    }

    /// Checks that access control lists above the size limit are refused by all calls, and small ones accepted.
    fn has_small_attributes(&self) {
        let written = |number: u32, users: u32| {
            let line = format!(
                "exec perl -e 'my $path = \"/dev/shm/acl\"; open(my $f, \">\", $path) or die $!; \
                 my $acl = pack(\"V\", 2) . pack(\"vvV\", 1, 7, ~0) . join(\"\", map {{ pack(\"vvV\", 2, 7, $_) }} 1 .. {users}) \
                 . join(\"\", map {{ pack(\"vvV\", $_, 7, ~0) }} 4, 16, 32); my $file = {number} == 190 ? fileno($f) : $path; my $name = \"system.posix_acl_access\"; $! = 0; \
                 my $r = syscall({number}, $file, $name, $acl, length $acl, 0); \
                 print($r == -1 ? $! + 0 : 0); unlink $path'"
            );
            let (_, out, err) = self.host.inside(self.name, &line);
            out.trim().parse::<i32>().unwrap_or_else(|_| panic!("{}: {out:?} {err:?}", self.name))
        };
        // setxattr, lsetxattr, fsetxattr.
        for number in [188, 189, 190] {
            assert_eq!(written(number, 100), 0, "{}: call {number}", self.name);
            assert_eq!(written(number, 130), ENOSPC, "{}: call {number}", self.name);
            assert_eq!(written(number, 8_000), ENOSPC, "{}: call {number}", self.name);
        }
        // setxattrat takes the size through a pointer.
        assert_eq!(syscall(self.host, self.name, 463, ", 0, 0, 0, 0, 0, 0"), ENOSYS, "{}", self.name);
    }

    /// Checks that naming anonymous memory fails as on a kernel without this feature.
    fn has_no_names_of_memory(&self) {
        let line = "exec perl -e 'my $page = syscall(9, 0, 4096, 3, 0x22, -1, 0); my $name = \"own\"; $! = 0; \
                    my $r = syscall(157, 0x53564d41, 0, $page, 4096, $name); print($r == -1 ? $! + 0 : 0)'";
        let (_, out, err) = self.host.inside(self.name, line);
        assert_eq!(out.trim(), EINVAL.to_string(), "{}: {err}", self.name);
    }

    /// Checks that no network namespace can be created and that the jail's own cannot be changed.
    fn has_no_right_over_a_network(&self) {
        self.fails("unshare --net true");
        self.fails("unshare --user --map-root-user --net true");
        let line = "exec perl -e 'use Socket; socket(my $s, 2, 2, 0) or die $!; $! = 0; my $r = pack(\"S n a4 x8\", 2, 0, \
                    inet_aton(\"192.0.2.1\")); ioctl($s, 0x8955, $r . (\"\\0\" x 60)); print $! + 0'";
        let (_, out, err) = self.host.inside(self.name, line);
        // ENOTTY of the filter, which comes before the question of rights.
        assert_eq!(out.trim(), "25", "{}: SIOCSARP {err}", self.name);
    }

    /// Checks a sysctl of the jail that bounds a kind of object.
    fn has_setting(&self, path: &str, most: u64) {
        let (_, out, err) = self.host.inside(self.name, &format!("cat /proc/sys/{path}"));
        let bound: u64 = out.trim().parse().unwrap_or_else(|_| panic!("{path}: {out:?} {err:?}"));
        assert!(bound <= most, "{}: {path} is {bound}", self.name);
    }

    /// Counts the seccomp filters of one thread, each with 4,000 instructions.
    fn has_few_filters(&self) {
        let filters = "my $f = pack(\"SCCL\", 0, 0, 0, 0) x 3999 . pack(\"SCCL\", 6, 0, 0, 0x7fff0000); \
                       my $p = pack(\"S x6 P\", 4000, $f); syscall(157, 38, 1, 0, 0, 0); \
                       while (@kept < 50 && syscall(317, 1, 0, $p) == 0) { push @kept, 1 }";
        let count = self.most(filters);
        assert!((1..=8).contains(&count), "{}: {count} filters of one thread", self.name);
    }

    fn has_few_queues(&self) {
        // Their bytes are counted to the tenant: the limit is 819,200 by default, and one queue takes about 82,000.
        let queues = "for my $n (1 .. 100) { my $q = \"bw$n\"; my $fd = syscall(240, $q, 0102, 0600, 0); last if $fd < 0; \
                      push @kept, $fd; my $m = \"x\" x 8192; for (1 .. 10) { syscall(242, $fd, $m, 8192, 0, 0) } \
                      syscall(241, $q) }";
        let count = self.most(queues);
        assert!(count < 30, "{}: {count} queues", self.name);
    }

    fn has_terminals(&self) {
        let count = self.most("while (@kept < 500 && open(my $p, '+<', '/dev/ptmx')) { push @kept, $p }");
        assert!((1..=64).contains(&count), "{}: {count} pseudo terminals", self.name);
    }

    /// Checks TCP and UDP sockets.
    fn sockets_are_counted(&self) {
        let sockets = "for (1 .. 200) { socket(my $s, 2, 2, 0); bind($s, pack_sockaddr_in(0, INADDR_LOOPBACK)); \
                       socket(my $c, 2, 2, 0); connect($c, getsockname($s)); \
                       for (1 .. 50) { send($c, 'x' x 30000, 0x40) or last } push @kept, $s, $c }";
        if self.hierarchy == Hierarchy::Unified {
            return self.is_charged("UDP sockets", 10 * MIB, sockets);
        }
        // Connections that are never accepted, and closed while full, are all that an attacker needs.
        let closed = "socket(my $l, 2, 1, 0); bind($l, pack_sockaddr_in(0, INADDR_LOOPBACK)); listen($l, 4000); \
                      for (1 .. 100) { socket(my $c, 2, 1, 0); connect($c, getsockname($l)) or last; $c->blocking(0); \
                      for (1 .. 1000) { defined syswrite($c, 'x' x 60000) or last } close($c) } push @kept, $l";
        let limit = self.read("memory.kmem.tcp.limit_in_bytes");
        assert_eq!(limit, 16 * MIB, "an eighth, and not less than this");
        for script in [sockets, closed] {
            let used = self.holding(script, |_| self.read("memory.kmem.tcp.usage_in_bytes"));
            // The kernel lets a sending socket exceed the limit somewhat.
            assert!((limit / 2..=limit * 4).contains(&used), "{}: sockets hold {used} of {limit}", self.name);
        }
    }

    /// Checks that sockets of every family keep their initial buffer sizes.
    fn buffers_keep_their_size(&self) {
        let line = "exec perl -e 'use Socket; for my $f (1, 2, 10, 16) { my $k = $f == 16 ? 3 : 2; \
                    socket(my $s, $f, $k, 0) or next; for my $o (SO_RCVBUF, SO_SNDBUF) { \
                    my $before = unpack(\"i\", getsockopt($s, SOL_SOCKET, $o)); \
                    setsockopt($s, SOL_SOCKET, $o, pack(\"i\", 4194304)) or print \"refused \"; \
                    setsockopt($s, SOL_SOCKET, $_, pack(\"i\", 4194304)) and print \"forced \" for (32, 33); \
                    print \"$f \" if unpack(\"i\", getsockopt($s, SOL_SOCKET, $o)) != $before } } print \"done\"'";
        assert_eq!(self.host.inside(self.name, line).1, "done", "{}", self.name);
    }

    /// Tries a row whose memory is charged or bounded.
    fn try_memory(&self, object: &Object) {
        match object.name {
            "processes, page tables, open files" => self.is_charged(
                object.name,
                3 * MIB,
                "pipe(my $r, my $w); for (1 .. 30) { my $p = fork; last unless defined $p; \
                 if (!$p) { my $x = 'x' x 200_000; syswrite($w, 'x'); sleep 100; exit } \
                 push @kept, $p; sysread($r, my $ready, 1) } END { kill 9, @kept }",
            ),
            "pipes" => self.is_charged(
                object.name,
                12 * MIB,
                "for (1 .. 250) { pipe(my $r, my $w); $w->blocking(0); 1 while syswrite($w, 'x' x 65536); push @kept, $r, $w }",
            ),
            "unix sockets" => self.is_charged(
                object.name,
                12 * MIB,
                "for (1 .. 150) { socketpair(my $a, my $b, 1, 1, 0); $a->blocking(0); 1 while syswrite($a, 'x' x 60000); \
                 push @kept, $a, $b }",
            ),
            "tcp and udp sockets" => {
                self.sockets_are_counted();
                self.buffers_keep_their_size();
            }
            "netlink sockets" => assert_eq!(syscall(self.host, self.name, 41, ", 16, 3, 0"), 97, "{}", self.name),
            "socket filters" => [26, 50, 51, 52].into_iter().for_each(|option| self.refuses_option(2, 1, option)),
            "filters of system calls" => self.has_few_filters(),
            "socket options" => {
                self.refuses_option(10, 41, 6);
                [14, 32, 38].into_iter().for_each(|option| self.refuses_option(2, 6, option));
                // TCP_ULP, which would enable TLS in the kernel.
                let line = "exec perl -e 'socket(my $s, 2, 1, 0) or die $!; $! = 0; setsockopt($s, 6, 31, \"tls\"); print $! + 0'";
                assert_eq!(self.host.inside(self.name, line).1, ENOPROTOOPT.to_string(), "{}", self.name);
            }
            "multicast memberships" => {
                [20, 27, 42, 46].into_iter().for_each(|option| self.refuses_option(10, 41, option));
                let joins = "socket(my $s, 2, 2, 0); for my $n (1 .. 200) { setsockopt($s, 0, 35, \
                             pack('C4 a4 i', 239, 1, 1, $n, INADDR_LOOPBACK, 1)) or last; push @kept, $n } push @kept, 0";
                let count = self.most(joins);
                assert!(count <= 21, "{}: {count} memberships of one socket", self.name);
            }
            "epoll watches" => self.is_charged(
                object.name,
                4 * MIB,
                "my @e = map { syscall(290, 0, 0) } 1 .. 2000; for (1 .. 20) { my $p = syscall(291, 0); \
                 for (@e) { my $v = pack('L Q', 1, 1); syscall(233, $p, 1, $_, $v) == 0 and push @kept, 1 } }",
            ),
            "inotify watches" => self.is_charged(
                object.name,
                2 * MIB,
                "mkdir '/tmp/w'; for (1 .. 500) { open(my $f, '>', \"/tmp/w/$_\") } for (1 .. 100) { my $i = syscall(253); \
                 last if $i < 0; for (1 .. 500) { my $f = \"/tmp/w/$_\"; syscall(254, $i, $f, 2) >= 0 and push @kept, 1 } } \
                 unlink glob '/tmp/w/*'",
            ),
            "event, timer and signal descriptors" => self.is_charged(
                object.name,
                MIB,
                "for (1 .. 3900) { my $t = syscall(283, 1, 0); last if $t < 0; push @kept, $t }",
            ),
            "posix message queues" => self.has_few_queues(),
            "system v queues, semaphores, segments" => self.is_charged(
                object.name,
                12 * MIB,
                "for (1 .. 4) { my $s = shmget(0, 4 << 20, 0600); last unless defined $s; \
                 shmwrite($s, 'x' x (4 << 20), 0, 4 << 20); push @kept, $s } END { shmctl($_, 0, 0) for @kept }",
            ),
            "queued signals and timers" => self.is_charged(
                object.name,
                MIB,
                "use POSIX; POSIX::sigprocmask(0, POSIX::SigSet->new(40)); my $i = pack('i i i x116', 40, 0, -1); \
                 for (1 .. 30000) { syscall(129, $$, 40, $i) == 0 or last; push @kept, 1 }",
            ),
            "inodes and attributes of files in memory" => self.is_charged(
                object.name,
                4 * MIB,
                "mkdir '/dev/shm/i'; for (1 .. 10000) { open(my $f, '>', \"/dev/shm/i/$_\") or last; push @kept, 1 } \
                 END { unlink glob '/dev/shm/i/*' }",
            ),
            "access lists of files in memory" => self.has_small_attributes(),
            "names of anonymous memory" => self.has_no_names_of_memory(),
            "pseudo terminals" => self.has_terminals(),
            "closed tcp connections that wait" => self.has_setting("net/ipv4/tcp_max_tw_buckets", 262_144),
            "ip fragments" => {
                self.has_setting("net/ipv4/ipfrag_high_thresh", 4 * MIB);
                self.has_setting("net/ipv6/ip6frag_high_thresh", 4 * MIB);
            }
            // Jails with a network are tried in `network::rates`. This one can make none for itself.
            "packets that wait for a rate" => self.has_no_right_over_a_network(),
            "network namespaces" | "neighbours, routes, links, rules" => self.has_no_right_over_a_network(),
            "contexts of asynchronous input and output" => self.refuses_calls(&[206]),
            "keys, bpf maps, rings of io_uring and perf" => self.refuses_calls(&[248, 321, 425, 298]),
            "file systems that a tenant mounts" => self.refuses_calls(&[165, 430]),
            other => panic!("there is no attempt for the row {other:?}"),
        }
    }

    /// Tries a pool.
    fn try_pool(&self, pool: &Object) {
        match pool.name.split(" (").next().expect("a name") {
            "pseudo terminals" => self.has_terminals(),
            "asynchronous input and output" => self.refuses_calls(&[206]),
            "neighbour tables" | "connections that are tracked" => self.has_no_right_over_a_network(),
            "compiled filters" => {
                self.refuses_option(2, 1, 26);
                self.has_few_filters();
            }
            "ipv6 flow labels" => self.refuses_option(10, 41, 32),
            "open files" => {
                assert_eq!(self.host.inside(self.name, "ulimit -Hn").1.trim(), "4096");
                self.fails("ulimit -n 5000");
            }
            "numbers of processes" => {
                // The number of an ended leader stays in use as the id of its group and session, but not beyond.
                let count = self.most(
                    "while (@kept < 500) { my $p = fork; last unless defined $p; if (!$p) { setpgrp; sleep 100; exit } \
                     push @kept, $p } END { kill 9, @kept }",
                );
                assert!(count < 64, "{}: {count} processes", self.name);
            }
            "inotify instances" => {
                let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").expect("reads");
                let most: u64 = most.trim().parse().expect("a number");
                // By three users inside, who count as one tenant.
                let count = self.most(
                    "for my $u (0, 1000, 2000) { $> = 0; $> = $u; \
                     while (@kept < 3000) { my $i = syscall(253); last if $i < 0; push @kept, $i } } $> = 0",
                );
                assert!((1..=most).contains(&count), "{}: {count} instances, {most} for each", self.name);
            }
            "bytes in posix queues" => self.has_few_queues(),
            "system v objects" => {
                let own = self.host.inside(self.name, "readlink /proc/self/ns/ipc").1;
                let hosts = std::fs::read_link("/proc/self/ns/ipc").expect("reads");
                assert!(own.starts_with("ipc:") && own.trim() != hosts.to_string_lossy(), "{}: {own}", self.name);
            }
            "memory of udp" => self.sockets_are_counted(),
            "keys" => self.refuses_calls(&[248, 300]),
            "namespaces" if self.profile == Profile::System => self.fails("unshare --net true"),
            "namespaces" => self.fails("unshare --user true"),
            "device numbers of file systems" => self.refuses_calls(&[165, 430]),
            other => panic!("there is no attempt for the pool {other:?}"),
        }
    }
}

/// The table's claim about TCP, on both versions of control groups: received data is charged at `accept(2)`, not
/// before.
#[test]
fn tcp_data_is_charged_once_it_is_accepted() {
    const EACH: u64 = 60_000;
    let host = host();
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    for name in profiles() {
        let tenant = Tenant::new(&host, name, &facts);
        // SIOCOUTQ: zero once everything is sent and acknowledged, so that all data is with the listener.
        let connections = format!(
            "socket(my $l, 2, 1, 0); bind($l, pack_sockaddr_in(0, INADDR_LOOPBACK)); listen($l, 4000); \
             for (1 .. 200) {{ socket(my $c, 2, 1, 0); connect($c, getsockname($l)) or die $!; \
             syswrite($c, 'x' x {EACH}) == {EACH} or die $!; push @kept, $c }} my $left = pack('i', 1); \
             for my $c (@kept) {{ select(undef, undef, undef, 0.001) while ioctl($c, 0x5411, $left) && unpack('i', $left) }}"
        );
        let accepted = format!("{connections} for (1 .. 200) {{ accept(my $a, $l) or die $!; push @kept, $a }}");
        let held = 200 * EACH;
        // The counters of version 2 are updated with a delay.
        until(&format!("{name}: what is accepted is charged"), || {
            tenant.holding(&accepted, |count| (count, tenant.of_sockets())) >= (400, held / 2)
        });
        until(&format!("{name}: nothing is charged after it"), || tenant.of_sockets() < held / 8);
        let early = tenant.holding(&connections, |count| {
            assert_eq!(count, 200, "{name}");
            tenant.of_sockets()
        });
        assert!(early < held / 4, "{name}: {early} of {held} bytes are charged: the table may say so");
    }
}

/// The evidence of a finding in an audit of a tenant; empty without one.
fn evidence(host: &Host, tenant: &str, id: &str) -> String {
    let report: Value = serde_json::from_str(&host.ok(&["audit", tenant, "--json"])).expect("JSON");
    let findings = report["tenants"][0]["findings"].as_array().expect("findings");
    let finding = findings.iter().find(|finding| finding["id"] == id);
    finding.map_or_else(String::new, |finding| finding["evidence"].as_str().expect("text").to_owned())
}

fn walk(table: &[Object], finding: &str, attempt: impl Fn(&Tenant<'_>, &Object)) {
    let host = host();
    let facts = bailiwick_observe::host_facts(&host.path("state")).expect("facts");
    for name in profiles() {
        let tenant = Tenant::new(&host, name, &facts);
        let evidence = evidence(&host, name, finding);
        for object in table {
            match object.held(tenant.profile) {
                Held::Refused(_) | Held::By(_) => attempt(&tenant, object),
                Held::Nothing(why) => {
                    assert!(evidence.contains(&format!("{}: {why}", object.name)), "{name}: {evidence}");
                    // A pool may be exhausted if each of its objects is charged.
                    assert!(
                        finding == "BW098" || object.charge(Some(tenant.hierarchy)) != Charge::Whole,
                        "{}",
                        object.name
                    );
                }
            }
        }
        assert_eq!(host.inside(name, "echo alive").1.trim(), "alive");
    }
}

#[test]
fn every_object_of_the_table_is_charged_or_bounded_or_reported() {
    walk(kernel_memory::MEMORY, "BW097", |tenant, object| tenant.try_memory(object));
}

#[test]
fn every_pool_that_a_tenant_can_exhaust_is_reported() {
    walk(kernel_memory::POOLS, "BW098", |tenant, pool| tenant.try_pool(pool));
}

#[test]
fn the_audit_does_not_report_memory_as_fully_enforced() {
    let host = host();
    for tenant in profiles() {
        let report: Value = serde_json::from_str(&host.ok(&["audit", tenant, "--json"])).expect("JSON");
        let limits = report["tenants"][0]["limits"].as_array().expect("limits");
        let memory = limits.iter().find(|limit| limit["resource"] == "memory").expect("memory");
        assert_eq!(memory["verdict"], "nominal", "{tenant}");
        assert!(evidence(&host, tenant, "BW097").contains("record locks"), "{tenant}");
    }
    let doctor: Value = serde_json::from_slice(&host.cli(&["doctor", "--json"]).stdout).expect("JSON");
    let features = doctor["features"].as_array().expect("features");
    let memory = features.iter().find(|feature| feature["feature"] == "kernel-memory").expect("told of");
    assert_eq!(memory["state"], "limited", "{memory}");
}
