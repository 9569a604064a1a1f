//! What the two processes of `bailiwick-net` may do.

use bailiwick_sys::namespace;
use bailiwick_tests::wire::Wire;
use std::fs;
use std::process::Command;

/// `CAP_NET_ADMIN`.
const NET_ADMIN: &str = "0000000000001000";

fn status(pid: u32) -> impl Fn(&str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    move |key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{key}")).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn each_process_has_one_capability_and_a_filter() {
    let wire = Wire::running(&[("alice", "")]);
    let router = wire.net_pid();
    let children = fs::read_to_string(format!("/proc/{router}/task/{router}/children")).expect("children");
    let children: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    let [maker] = children[..] else { panic!("one process makes links: {children:?}") };
    for pid in [router, maker] {
        let status = status(pid);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(set), NET_ADMIN, "{pid} {set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(status(set), "0000000000000000", "{pid} {set}");
        }
        assert_eq!((status("Seccomp"), status("NoNewPrivs"), status("Threads")), ("2".into(), "1".into(), "1".into()));
        assert_eq!(status("Uid"), ["64996"; 4].join(" "), "{pid}");
        assert_eq!(namespace::inode(pid, "net").ok(), namespace::inode(router, "net").ok(), "both are in the router");
    }
    let own = namespace::inode(std::process::id(), "user").expect("a namespace");
    assert_ne!(namespace::inode(router, "user").expect("a namespace"), own, "its capability is none over the host");
    assert_eq!(namespace::inode(maker, "user").expect("a namespace"), own);
    assert_ne!(namespace::inode(router, "net").ok(), namespace::inode(wire.space.pid(), "net").ok());
}

/// Asks for a link of another namespace or deletes it (`IFLA_TARGET_NETNSID`, linux/if_link.h), and prints the number of the error.
const LINK: &str = r#"use Socket; my ($type, $id, $name) = @ARGV; socket(my $s, 16, 3, 0) or die "socket: $!";
sub attribute { my ($kind, $value) = @_; pack("SSa*x!4", 4 + length $value, $kind, $value) }
my $body = pack("x16") . attribute(46, pack("i", $id)) . attribute(3, "$name\0");
send($s, pack("LSSLL", 16 + length $body, $type, 5, 1, 0) . $body, 0) or die "send: $!";
recv($s, my $reply, 65536, 0); my (undef, $kind) = unpack("LS", $reply); print $kind == 2 ? -unpack("l", substr($reply, 16, 4)) : 0"#;

#[test]
fn the_routers_rights_do_not_reach_the_host() {
    const GET: &str = "18";
    const DELETE: &str = "17";
    let wire = Wire::running(&[("alice", "")]);
    let router = wire.router();
    let text = router.ok("ip -d link show up0");
    let id = text.split("link-netnsid ").nth(1).and_then(|text| text.split_whitespace().next()).expect("a number");
    let ask = |with: &[&str], kind: &str, name: &str| {
        let mut command = Command::new("nsenter");
        let path = format!("--net=/proc/{}/ns/net", wire.net_pid());
        command.arg(path).args(with).args(["perl", "-e", LINK, kind, id, name]);
        let output = command.output().expect("nsenter runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // All rights of the router: more than its process has.
    let user = format!("--user=/proc/{}/ns/user", wire.net_pid());
    for name in ["wan", "bwk0", "lo"] {
        assert_eq!(ask(&[], GET, name), "0", "the number is right, and root of the host reads {name}");
        for kind in [GET, DELETE] {
            assert_eq!(ask(&[&user], kind, name), "13", "EACCES: {kind} {name}");
        }
    }
    wire.space.ok("ip link show wan && ip link show bwk0");
}
