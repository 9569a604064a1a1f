//! Known attacks on jails of this kind, one file each: what the attacker does, and a proof that it fails.
//!
//! Each host has a victim, an attacker with root in its jail, and a canary file on the host that nobody in a jail
//! may see.

mod capabilities;
mod crashes;
mod descriptors;
mod devices;
mod host_files;
mod hostile_init;
mod identity;
mod kernel_files;
mod kernel_interfaces;
mod kernel_memory;
mod limits;
mod links;
mod mounts;
mod names;
mod neighbours;
mod remarks;
mod runtime_binary;

use bailiwick_tests::{Host, profiles};

/// A host with running tenants `web`, `shell` and `system`, each with the profile of its name.
fn host() -> Host {
    let mut host = Host::new();
    for profile in profiles() {
        host.declare(profile, profile);
    }
    host.write("canary", "the host's own");
    host.start();
    host.ok(&["apply"]);
    host
}

/// Makes one system call in a jail, with perl, which every Debian has. Returns the error number, or 0.
fn syscall(host: &Host, tenant: &str, number: i64, arguments: &str) -> i32 {
    let line = format!("exec perl -e '$! = 0; my $r = syscall({number}{arguments}); print($r == -1 ? $! + 0 : 0)'");
    let (status, out, err) = host.inside(tenant, &line);
    assert_eq!(status, 0, "{tenant} {number}: {err}");
    out.trim().parse().unwrap_or_else(|_| panic!("{tenant} {number}: {out:?} {err:?}"))
}
