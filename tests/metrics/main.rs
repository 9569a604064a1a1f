//! The metrics: what is told of real jails, to whom, and what hostile clients of `bailiwick-exporter` can do.

mod clients;
mod exporter;
mod prometheus;
mod rights;
mod told;

use bailiwick_tests::Host;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user that the exporter runs as.
const OBSERVER: u32 = 65_097;
/// A user that no list has.
const STRANGER: u32 = 65_098;

/// A file of the sources.
fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(path)
}

/// A host whose metrics tell this much of tenants, with `alice`, who runs, and `bob`, who does not.
fn host(tenants: &str) -> Host {
    let host = Host::new();
    let more = format!("observers = [\"{OBSERVER}\"]\nmetrics = {{ tenants = \"{tenants}\", cache = \"1s\" }}\n");
    host.write("etc/bailiwick.toml", &host.default_config(&more));
    for tenant in ["alice", "bob"] {
        host.declare(tenant, "web");
    }
    host
}

/// A program of this host that another user can run: others may have no access to the directory of the programs.
fn for_others(host: &Host, program: &str) -> PathBuf {
    let copy = host.path("bin").join(program);
    if !copy.exists() {
        bailiwick_tests::copy_program(&bailiwick_tests::stage().join(program), &copy);
    }
    copy
}

/// A command that runs as another user.
fn as_user(uid: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let uid = uid.to_string();
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).arg(program);
    command
}
