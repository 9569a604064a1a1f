//! What is missing closes, and who may not ask gets nothing.

use crate::outside;
use bailiwick_proto::{NET_ROOT_SOCKET, NetReply, NetRequest};
use bailiwick_sys::namespace;
use bailiwick_tests::name;
use bailiwick_tests::wire::{Talk, Wire};
use bailiwick_types::ExitStatus;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;

fn assert_failed(reply: &NetReply, status: ExitStatus) {
    assert!(matches!(reply, NetReply::Failed(failure) if failure.status == status), "{reply:?}");
}

#[test]
fn without_bailiwick_net_only_tenants_without_a_network_start() {
    let mut wire = Wire::new();
    wire.declare("alice", "");
    wire.host.declare("bob", "web");
    wire.host.start_without_network();
    let output = wire.host.cli(&["apply"]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_ne!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("bailiwick-net does not run") && text.contains("systemctl status bailiwick-uplink bailiwick-net"),
        "{text}"
    );
    let list = wire.host.ok(&["list"]);
    let line = |tenant: &str| list.lines().find(|line| line.contains(tenant)).unwrap_or_default().to_owned();
    assert!(!line("alice").contains("running") && line("bob").contains("running"), "{list}");
    wire.start_network();
    wire.host.ok(&["apply"]);
    Talk::open(&wire.jail("alice"), outside(80)).expect("has a network now");
    // A jail without a network has no link, whoever else has one.
    let bob = wire.jail("bob");
    assert_eq!(bob.ok("ip -o link | wc -l").trim(), "1");
}

#[test]
fn only_root_changes_anything_and_only_jails_get_links() {
    let wire = Wire::running(&[("alice", "")]);
    wire.declare("mallory", "");
    let links = || wire.space.ok("ip -o link");
    let (before, in_router) = (links(), wire.router().ok("ip -o link"));
    let connect = NetRequest::Connect { tenant: name("mallory"), number: 77 };
    let host = namespace::open(std::process::id(), "net").expect("a namespace");
    let (router, user) = (wire.router(), namespace::open(std::process::id(), "user").expect("a namespace"));
    let file = std::fs::File::open("/dev/null").expect("opens");
    let descriptors: [(&str, BorrowedFd<'_>); 6] = [
        ("the host's", wire.space.fd().as_fd()),
        ("the outside's", wire.outside.fd().as_fd()),
        ("the machine's", host.as_fd()),
        ("the router's", router.fd().as_fd()),
        ("no network", user.as_fd()),
        ("a file", file.as_fd()),
    ];
    let machine = std::fs::read_to_string("/proc/net/dev").expect("links").lines().count();
    for (what, descriptor) in descriptors {
        let reply = wire.try_ask(&connect, &[descriptor]).expect("answers");
        assert!(
            matches!(&reply, NetReply::Failed(failure) if failure.message.contains("is of no jail's network")),
            "{what}: {reply:?}"
        );
    }
    assert_failed(&wire.try_ask(&connect, &[]).expect("answers"), ExitStatus::Invalid);
    assert_eq!((links(), wire.router().ok("ip -o link")), (before, in_router), "no link was made");
    assert_eq!(std::fs::read_to_string("/proc/net/dev").expect("links").lines().count(), machine);

    for request in
        [connect.clone(), NetRequest::Update { tenant: name("alice") }, NetRequest::Forget { tenant: name("alice") }]
    {
        assert_failed(&wire.ask_as_reader(&request, &[]).expect("answers"), ExitStatus::Refused);
    }
    assert_failed(&wire.ask_as_reader(&connect, &[wire.space.fd().as_fd()]).expect("answers"), ExitStatus::Refused);
    assert!(matches!(wire.ask_as_reader(&NetRequest::Traffic, &[]), Ok(NetReply::Traffic(_))));

    let path = wire.host.path("run").join(NET_ROOT_SOCKET);
    for user in ["64999", "64996", "65534"] {
        let line = "use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0); exit(connect($s, pack_sockaddr_un($ARGV[0])) ? 0 : $! + 0)";
        let status = Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups", "perl", "-e", line])
            .arg(&path)
            .status()
            .expect("setpriv runs");
        assert_eq!(status.code(), Some(13), "EACCES for {user}");
    }
    Talk::open(&wire.jail("alice"), outside(80)).expect("alice goes on");
}
