//! Tenants against each other: none can see, signal or reach another.

use crate::host;
use bailiwick_tests::profiles;
use std::process::{Command, Stdio};

#[test]
fn processes_and_ipc_of_others_do_not_exist() {
    let host = host();
    for tenant in profiles() {
        let (_, out, _) = host.inside(tenant, "ls /proc | grep -c '^[0-9]'");
        assert!(out.trim().parse::<u32>().expect("a number") <= 5, "{tenant}: {out}");
        // Every process id but its own: there is nobody to signal.
        let (_, out, _) =
            host.inside(tenant, "n=0; for p in $(seq 20 400); do kill -0 $p 2>/dev/null && n=$((n+1)); done; echo $n");
        assert_eq!(out.trim(), "0", "{tenant}");
        assert_eq!(host.inside(tenant, "ipcs -m | grep -c '^0x'").1.trim(), "0", "{tenant}");
    }
}

#[test]
fn nothing_listens_on_a_shared_loopback_and_no_abstract_socket_is_shared() {
    let host = host();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let name = format!("bailiwick-test-{port}");
    let abstract_address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
    let _abstract = std::os::unix::net::UnixListener::bind_addr(&abstract_address.expect("a name")).expect("binds");
    for tenant in profiles() {
        let line = format!(
            "perl -MSocket -e 'socket(my $s, PF_INET, SOCK_STREAM, 0); print connect($s, sockaddr_in({port}, inet_aton(\"127.0.0.1\"))) ? \"reached\" : \"\"; \
             socket(my $u, PF_UNIX, SOCK_STREAM, 0); print connect($u, pack(\"Sa*\", 1, \"\\0{name}\")) ? \"reached\" : \"\"'"
        );
        let (status, out, err) = host.inside(tenant, &line);
        assert_eq!((status, out.as_str()), (0, ""), "{tenant}: {err}");
    }
}

#[test]
fn the_end_of_one_tenant_does_not_affect_another() {
    let host = host();
    let mut session = Command::new(bailiwick_tests::stage().join("bailiwick"))
        .args(["exec", "--config"])
        .arg(host.path("etc"))
        .args(["shell", "--", "/bin/sh", "-c", "read line; echo $line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    for neighbour in profiles().into_iter().filter(|name| *name != "shell") {
        host.ok(&["restart", neighbour]);
    }
    std::io::Write::write_all(&mut session.stdin.take().expect("a pipe"), b"still here\n").expect("writes");
    let output = session.wait_with_output().expect("ends");
    assert_eq!(output.stdout, b"still here\n");
}
