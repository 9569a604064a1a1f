//! A descriptor or working directory of the host that leaks into a jail allows an escape (CVE-2024-21626,
//! CVE-2016-9962).

use crate::host;
use bailiwick_sys::namespace::{self, Kind};
use bailiwick_sys::{proc, process, socket};
use bailiwick_tests::{profiles, until};
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

#[test]
fn a_session_has_its_three_streams_and_nothing_else() {
    let host = host();
    for tenant in profiles() {
        // 3 is the directory that ls reads.
        let (status, out, err) = host.inside(tenant, "ls -l /proc/self/fd | tail -n +2 | sed 's/.* -> //'");
        assert_eq!(status, 0, "{err}");
        let targets: Vec<&str> = out.lines().collect();
        assert_eq!(targets.len(), 4, "{tenant}: {out}");
        assert!(targets[..3].iter().all(|target| target.starts_with("pipe:")), "{tenant}: {out}");
    }
}

#[test]
fn init_holds_its_socket_and_its_signals_and_nothing_else() {
    let host = host();
    for tenant in profiles() {
        let fd = format!("/proc/{}/fd", host.init(tenant));
        let is_own = |target: &str| {
            target.starts_with("/dev/null") || target.starts_with("socket:") || target.contains("signalfd")
        };
        // Init closes the descriptors of a session when it is notified of its end.
        until("nothing else is open", || {
            let open = std::fs::read_dir(&fd)
                .expect("init runs")
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            open.map(|target| target.display().to_string()).all(|target| is_own(&target))
        });
        // Nobody in the jail can read even those.
        let (status, _, _) = host.inside(tenant, "ls /proc/1/fd/");
        assert_ne!(status, 0, "{tenant}");
    }
}

/// The network namespaces of all open sockets of a process.
fn networks(pid: u32) -> BTreeSet<u64> {
    let held = process::open(pid).expect("init runs");
    let open = proc::sockets(pid, usize::MAX).expect("root reads it").sockets;
    let copies = open.iter().filter_map(|(number, _)| process::descriptor_of(&held, *number).ok());
    copies.map(|copy| socket::network(copy).expect("a socket")).collect()
}

#[test]
fn no_socket_in_a_jail_shows_the_hosts_network() {
    let host = host();
    let of_host = socket::network(socket::unbound().expect("a socket")).expect("cookie");
    let mut all = BTreeSet::new();
    for tenant in profiles() {
        let init = host.init(tenant);
        // bailiwickd asks init now and then how it is, and each time a connection is open for a moment.
        let mut own = BTreeSet::new();
        until("only its own socket is open", || {
            own = networks(init);
            own.len() == 1
        });
        assert!(!own.contains(&of_host) && all.insert(own.clone()), "{tenant}: {own:?}, {of_host}");
        // A session adds its channel, which bailiwickd created.
        let mut child = host.command(&["exec", tenant, "--", "sh", "-c", "echo in; read line"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 3]).expect("it runs");
        let with_session = networks(init);
        assert!(with_session.len() == 2 && !with_session.contains(&of_host), "{tenant}: {with_session:?}, {of_host}");
        let report = host.ok(&["audit", tenant]);
        assert!(!report.contains("BW00"), "{report}");
        drop(child.stdin.take());
        child.wait().expect("ends");
    }
}

/// Both ends of a connection belong to the network namespace of the connecting process. A connection to init from
/// the host would therefore put a socket of the host into a jail. The audit finds it.
#[test]
fn a_host_socket_in_a_jail_is_found() {
    let host = host();
    for tenant in profiles() {
        let init = process::open(host.init(tenant)).expect("init runs");
        until("the audit finds it", || {
            let path = host.path(&format!("run/jails/{tenant}/init.sock"));
            let mut planted = UnixStream::connect(path).expect("connects");
            // The connection is accepted once init sends its first message. Init is then stopped before it can time
            // out.
            planted.read_exact(&mut [0; 4]).expect("init speaks first");
            process::signal(&init, rustix::process::Signal::STOP).expect("it runs");
            let report = host.cli(&["audit", tenant]);
            process::signal(&init, rustix::process::Signal::CONT).expect("it runs");
            String::from_utf8_lossy(&report.stdout).contains("BW004")
        });
        until("it is gone", || !String::from_utf8_lossy(&host.cli(&["audit", tenant]).stdout).contains("BW004"));
    }
}

/// The same from the network namespace of a neighbour, which is as empty as that of bailiwickd.
#[test]
fn a_neighbours_socket_in_a_jail_is_found() {
    let host = host();
    let [tenant, neighbour] = profiles()[..2] else { panic!("two profiles run everywhere") };
    let init = process::open(host.init(tenant)).expect("init runs");
    let network = namespace::open(host.init(neighbour), "net").expect("its network");
    let path = host.path(&format!("run/jails/{tenant}/init.sock"));
    until("the audit finds it", || {
        let (path, network) = (path.clone(), network.try_clone().expect("dup"));
        // A thread of its own, because it stays in the neighbour's network namespace.
        let connect = move || {
            namespace::enter(network, Kind::Network).expect("enters");
            UnixStream::connect(path).expect("connects")
        };
        let mut planted = std::thread::spawn(connect).join().expect("a connection");
        planted.read_exact(&mut [0; 4]).expect("init speaks first");
        process::signal(&init, rustix::process::Signal::STOP).expect("it runs");
        let report = host.cli(&["audit", tenant]);
        process::signal(&init, rustix::process::Signal::CONT).expect("it runs");
        let told = String::from_utf8_lossy(&report.stdout).into_owned();
        told.contains("BW004") && told.contains("another network than the jail's")
    });
    until("it is gone", || !String::from_utf8_lossy(&host.cli(&["audit", tenant]).stdout).contains("BW004"));
}

#[test]
fn no_descriptor_number_is_a_way_to_the_hosts_root() {
    let host = host();
    let canary = host.path("canary");
    for tenant in profiles() {
        let line = format!(
            "for n in $(seq 0 64); do for p in self 1; do \
             [ -e /proc/$p/fd/$n/../../../../../../..{0} ] && echo out; (cd /proc/$p/fd/$n 2>/dev/null && [ -e ..{0} ] && echo out); done; done; \
             [ -e /proc/1/root{0} ] && echo out; [ -e /proc/1/cwd{0} ] && echo out; true",
            canary.display()
        );
        assert_eq!(host.inside(tenant, &line).1, "", "{tenant}");
    }
}

#[test]
fn a_session_starts_in_its_home_or_the_requested_directory_or_fails() {
    let host = host();
    for tenant in profiles() {
        assert_eq!(host.inside(tenant, "pwd -P").1.trim(), "/root", "{tenant}");
        let asked = |directory: &str| {
            let output = host.cli(&["exec", tenant, "--cwd", directory, "--", "pwd", "-P"]);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        assert_eq!(asked("/usr/share"), (Some(0), "/usr/share".to_owned(), String::new()), "{tenant}");
        assert_eq!(asked("../usr"), (Some(0), "/usr".to_owned(), String::new()), "from its home, {tenant}");
        let (status, out, told) = asked("/nowhere");
        assert_eq!((status, out.as_str()), (Some(125), ""), "{tenant}: {told}");
        assert!(told.contains("cannot enter the directory") && told.contains("No such file"), "{tenant}: {told}");
    }
}
