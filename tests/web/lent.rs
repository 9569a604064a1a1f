//! `bailiwick-web` where jails find it: it serves the tenant's files from inside, also as the login user.

use bailiwick_tests::{Host, profiles};

/// Listens on a socket, starts the program with it at descriptor 3, asks it for two files, and ends it.
const SERVE: &str = r#"mkdir -p /tmp/site && cd /tmp/site && echo hello > index.html && ln -sf /etc/passwd out && exec perl -e '
use Socket; use POSIX (); $^F = 9; $| = 1; unlink "/tmp/s";
socket(my $l, AF_UNIX, SOCK_STREAM, 0) or die "socket $!"; bind($l, pack_sockaddr_un("/tmp/s")) or die "bind $!"; listen($l, 8) or die "listen $!";
my $pid = fork; if (!$pid) { POSIX::dup2(fileno $l, 3); $ENV{LISTEN_PID} = $$; $ENV{LISTEN_FDS} = 1;
    exec "/run/host/bin/bailiwick-web", "files", "/tmp/site" or die "exec $!"; }
for my $path ("/", "/out") { socket(my $c, AF_UNIX, SOCK_STREAM, 0); connect($c, pack_sockaddr_un("/tmp/s")) or die "connect $!";
    syswrite $c, "GET $path HTTP/1.0\r\n\r\n"; local $/; my $answer = <$c>; print $answer =~ m{ (\d+) }, " ", $answer =~ m{\r\n\r\n(.*)}s; }
kill "TERM", $pid; waitpid $pid, 0; print "ended $?\n"'"#;

#[test]
fn every_jail_can_serve_its_files() {
    let mut host = Host::new();
    for profile in profiles() {
        host.declare(profile, profile);
    }
    host.start();
    host.ok(&["apply"]);
    let audit = host.cli(&["audit"]).stdout;
    assert!(!String::from_utf8_lossy(&audit).contains("/run/host/bin"), "the audit expects it");
    for tenant in profiles() {
        for user in [tenant, "root"] {
            let output = host.command(&["exec", "--user", user, tenant, "--", "/bin/sh", "-c", SERVE]).output();
            let output = output.expect("runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said, "200 hello\n404 there is no such file\nended 0\n", "{tenant}, {user}: {output:?}");
            // Nobody inside can read, watch or lock the one file that all jails share.
            let line = "cat /run/host/bin/bailiwick-web > /dev/null 2>&1 && echo read; rm -rf /tmp/site /tmp/s; true";
            let output = host.command(&["exec", "--user", user, tenant, "--", "/bin/sh", "-c", line]).output();
            assert_eq!(String::from_utf8_lossy(&output.expect("runs").stdout), "", "{tenant}, {user}");
        }
    }
}
