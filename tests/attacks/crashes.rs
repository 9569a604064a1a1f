//! Core dumps: if the host's `core_pattern` is a pipe, the kernel runs a host program as root, outside the tenant's
//! control groups, on data of the tenant. With a core limit of exactly 1 byte it does not (`core(5)`).
//! `installed.rs` tests this on a real host with such a handler.

use crate::host;
use bailiwick_tests::profiles;

/// The row of `/proc/PID/limits`, with single spaces between the columns.
const LIMIT: &str = "grep -h \"Max core\" /proc/1/limits /proc/self/limits | tr -s \" \" | cut -d \" \" -f 5,6";

#[test]
fn the_limit_of_core_dumps_is_one_byte_everywhere_and_stays() {
    let host = host();
    for tenant in profiles() {
        assert_eq!(host.inside(tenant, LIMIT).1, "1 1\n1 1\n", "{tenant}");
        // setrlimit and prlimit64, on the process itself, on init, and with a pointer whose lower half is zero.
        let line = format!(
            "perl -e 'my $zero = pack(\"QQ\", 0, 0); my $old = pack(\"QQ\", 7, 7); \
             print join(\" \", map {{ $_ == -1 ? $! + 0 : $_ }} syscall(160, 4, $zero), syscall(302, 0, 4, $zero, 0), \
             syscall(302, 1, 4, $zero, 0), syscall(302, 0, 4, 1 << 32, 0), syscall(302, 0, 4, 0, $old)), \" \", join(\" \", unpack(\"QQ\", $old)), \"\\n\"; \
             exec \"/bin/sh\", \"-c\", q({LIMIT})'"
        );
        assert_eq!(host.inside(tenant, &line).1, "0 0 0 0 0 1 1\n1 1\n1 1\n", "{tenant}");
        // Programs that disable their own core dumps still work.
        assert_eq!(host.inside(tenant, &format!("ulimit -c 0 && {LIMIT}")).1, "1 1\n1 1\n", "{tenant}");
        // The same in sessions of the login user, which cannot see init.
        let output = host.cli(&["exec", "--user", "1000", tenant, "--", "/bin/sh", "-c", LIMIT]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1 1\n", "{tenant}: {output:?}");
    }
}
