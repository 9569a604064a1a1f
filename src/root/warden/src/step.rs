//! The steps of making a jail, in order: what error messages name, and where tests make a start fail.

#[cfg(feature = "failpoints")]
use bailiwick_sys::process;
use bailiwick_types::TenantName;
use std::fmt;
use std::io;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Give the tenant its ids, on disk.
    Ledger,
    /// Make the tenant's storage, the first time.
    Storage,
    /// Make the jail's runtime directory.
    Runtime,
    /// Make the control groups.
    Groups,
    /// Write the limits, read them back.
    Limits,
    /// Open what will be mounted.
    Sources,
    /// Make init in its namespaces and its control group.
    Clone,
    /// Inside: make the socket that init will listen on.
    Listener,
    /// Bind that socket.
    Socket,
    /// Map its ids.
    IdMaps,
    /// Show the mounts through that map.
    MapMounts,
    /// Inside: take the tenant's identity.
    Identity,
    /// Inside: make the root.
    Root,
    /// Inside: mount the table.
    Mounts,
    /// Inside: let the host's root go.
    Pivot,
    /// Inside: host name, network, limits of processes.
    Settings,
    /// Inside: Landlock, seccomp, capabilities.
    Confine,
    /// Inside: become init.
    Exec,
    /// Write down who runs.
    Record,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 19] = [
        Self::Ledger,
        Self::Storage,
        Self::Runtime,
        Self::Groups,
        Self::Limits,
        Self::Sources,
        Self::Clone,
        Self::Listener,
        Self::Socket,
        Self::IdMaps,
        Self::MapMounts,
        Self::Identity,
        Self::Root,
        Self::Mounts,
        Self::Pivot,
        Self::Settings,
        Self::Confine,
        Self::Exec,
        Self::Record,
    ];

    /// The word of the step.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Storage => "storage",
            Self::Runtime => "runtime",
            Self::Groups => "groups",
            Self::Limits => "limits",
            Self::Listener => "listener",
            Self::Socket => "socket",
            Self::Sources => "sources",
            Self::Clone => "clone",
            Self::IdMaps => "id-maps",
            Self::MapMounts => "map-mounts",
            Self::Identity => "identity",
            Self::Root => "root",
            Self::Mounts => "mounts",
            Self::Pivot => "pivot",
            Self::Settings => "settings",
            Self::Confine => "confine",
            Self::Exec => "exec",
            Self::Record => "record",
        }
    }

    /// What the step does, as an error message says it after "cannot".
    #[must_use]
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Ledger => "give the tenant its ids",
            Self::Storage => "make the tenant's storage",
            Self::Runtime => "make the jail's runtime directory",
            Self::Groups => "make the control groups",
            Self::Limits => "set the limits",
            Self::Listener => "make the socket of init",
            Self::Socket => "bind the socket of init",
            Self::Sources => "open what is to be mounted",
            Self::Clone => "make the namespaces",
            Self::IdMaps => "map the ids",
            Self::MapMounts => "map the mounts",
            Self::Identity => "take the tenant's identity",
            Self::Root => "make the root file system",
            Self::Mounts => "mount",
            Self::Pivot => "let the host's root go",
            Self::Settings => "set up the jail's own settings",
            Self::Confine => "confine the jail",
            Self::Exec => "start init",
            Self::Record => "write down who runs",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Marks that a step is about to be taken. In a test build the step can be told to fail here.
///
/// # Errors
/// Only in a test build, when the fail-point file names this step.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "the signature is that of the test build")]
pub(crate) fn reach(_step: Step) -> io::Result<()> {
    Ok(())
}

/// As above, in a test build: the file that `BAILIWICK_FAILPOINT` names holds `STEP error`, `STEP kill` or
/// `STEP wait`, which never ends. It is read at the first step, because the later ones no longer see the host's files.
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
        // Not SIGKILL: init of a pid namespace cannot send that to itself. The end is as sudden.
        Some((word, "kill")) if word == step.word() => process::exit_now(137),
        Some((word, "wait")) if word == step.word() => wait(),
        _ => Ok(()),
    }
}

/// Marks that a child is about to do something for a tenant that can take long. In a test build it never ends where the fail-point
/// file says `WORK TENANT`.
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

/// As whoever the kernel does not let go on.
#[cfg(feature = "failpoints")]
fn wait() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_listed_once_in_order() {
        for (index, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, index, "{step}");
        }
    }
}
