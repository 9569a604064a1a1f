//! The steps of a start, in order. Error messages name them, and tests make them fail.

#[cfg(feature = "failpoints")]
use bailiwick_sys::process;
use bailiwick_types::TenantName;
use std::fmt;
use std::io;

/// Declares the steps in one table: variant, word, and the purpose, which follows "cannot" in an error message.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $word:literal, $purpose:literal;)*) => {
        /// One step.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum Step {
            $($(#[$doc])* #[serde(rename = $word)] $step,)*
        }

        impl Step {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$step),*];

            /// The word of the step: printed by `--steps`, and used by tests to make the step fail.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$step => $word,)*
                }
            }

            /// The purpose of the step, which follows "cannot" in an error message.
            #[must_use]
            pub fn purpose(self) -> &'static str {
                match self {
                    $(Self::$step => $purpose,)*
                }
            }
        }
    };
}

steps! {
    /// Give the tenant its ids, on disk.
    Ledger = "ledger", "give the tenant its ids";
    /// Make the tenant's storage, the first time.
    Storage = "storage", "make the tenant's storage";
    /// Make the jail's runtime directory.
    Runtime = "runtime", "make the jail's runtime directory";
    /// Make the control groups.
    Groups = "groups", "make the control groups";
    /// Write the limits, read them back.
    Limits = "limits", "set the limits";
    /// Open what will be mounted.
    Sources = "sources", "open what is to be mounted";
    /// Make init in its namespaces and its control group.
    Clone = "clone", "make the namespaces";
    /// Inside: make the socket that init will listen on.
    Listener = "listener", "make the socket of init";
    /// Bind that socket.
    Socket = "socket", "bind the socket of init";
    /// Map its ids.
    IdMaps = "id-maps", "map the ids";
    /// Apply that map to the mounts.
    MapMounts = "map-mounts", "map the mounts";
    /// Connect it to the router, if it has a network.
    Network = "network", "connect it to the network";
    /// Inside: take the tenant's identity.
    Identity = "identity", "take the tenant's identity";
    /// Inside: make the root.
    Root = "root", "make the root file system";
    /// Inside: mount the table.
    Mounts = "mounts", "mount";
    /// Inside: leave the host's root.
    Pivot = "pivot", "leave the host's root";
    /// Inside: host name, network, limits of processes.
    Settings = "settings", "set up the jail's own settings";
    /// Inside: Landlock, seccomp, capabilities.
    Confine = "confine", "confine the jail";
    /// Inside: become init.
    Exec = "exec", "start init";
    /// Record the jail.
    Record = "record", "record the jail";
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Marks the begin of a step. In a test build, it can fail here.
///
/// # Errors
/// Only in a test build, if the fail-point file names this step.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "the signature is that of the test build")]
pub(crate) fn reach(_step: Step) -> io::Result<()> {
    Ok(())
}

/// As above, in a test build. The file named by `BAILIWICK_FAILPOINT` holds `STEP error`, `STEP kill` or `STEP wait`,
/// which never ends. It is read at the first step: later steps do not see the host's files.
#[cfg(feature = "failpoints")]
pub(crate) fn reach(step: Step) -> io::Result<()> {
    static FAILPOINT: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    let mut failpoint = FAILPOINT.lock().expect("one thread");
    if step == Step::Ledger {
        let path = std::env::var_os("BAILIWICK_FAILPOINT");
        *failpoint = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    }
    match failpoint.trim().split_once(' ') {
        Some((word, "error")) if word == step.word() => Err(io::Error::other("fail-point")),
        // Not SIGKILL: init of a pid namespace cannot send that to itself. This end is as sudden.
        Some((word, "kill")) if word == step.word() => process::exit_now(137),
        Some((word, "wait")) if word == step.word() => wait(),
        _ => Ok(()),
    }
}

/// Marks the begin of work for a tenant that can take long. In a test build it blocks while the fail-point file holds
/// `WORK TENANT`.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn reach_work(_work: &str, _tenant: &TenantName) {}

/// As above, in a test build.
#[cfg(feature = "failpoints")]
pub(crate) fn reach_work(work: &str, tenant: &TenantName) {
    let path = std::env::var_os("BAILIWICK_FAILPOINT");
    let is_held_up = || {
        let failpoint = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        failpoint.trim().split_once(' ') == Some((work, tenant.as_str()))
    };
    while is_held_up() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Blocks, like a process that the kernel does not let go.
#[cfg(feature = "failpoints")]
fn wait() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
