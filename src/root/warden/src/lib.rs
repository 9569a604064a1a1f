//! Floor 5: the privileged core. Makes, changes and removes jails; the only program that changes the machine.
//!
//! One thread, no async runtime, a closed set of requests. It reads the root-owned policy itself, so a request can only
//! ask for what the operator wrote down. The start of a jail is the list of [`Step`]s. Every step can be undone, and a
//! test makes each one fail.
//!
//! The modules in order. Each uses only modules before it, and a test reads this list:
//!
//! - the outside: `helper`, `systemd`, `policy_view`, `host_files::md5`, `host_files::etc_view`
//! - limits: `limits::quota`, `limits::disk_note`, `limits::watch`, `limits::tenant_groups`, `limits::cgroups`,
//!   `limits::emergency_group`, `limits::emergency_session`
//! - identity: `identity::ledger`, `identity::host_user`
//! - one jail: `jail::step`, `jail::record`, `jail::child_mounts`, `jail::child_setup`, `jail::resize`, `jail::stop`
//! - storage: `runtime`, `storage::grave`, `storage::purge`, `storage::removals`, `storage::seed`,
//!   `storage::preparing`, `storage::layout`
//! - what needs storage: `jail::start`, `limits::host_reserve`, `ftp`
//! - the state: `requests`, `jail::registry`, `limits::disk`, `state`
//! - requests: `handlers::doors`, `handlers::limits`, `handlers::lifecycle`, `query`, `dispatch`, `progress`
//! - the program: `startup::error`, `startup::adopt`, `startup`, `repair`, `host_files::renew`, `serve`

mod dispatch;
mod ftp;
mod handlers;
mod helper;
mod host_files;
mod identity;
mod jail;
mod limits;
mod policy_view;
mod progress;
mod query;
mod repair;
mod requests;
mod runtime;
mod serve;
mod startup;
mod state;
mod storage;
mod systemd;

pub use jail::step::Step;
pub use repair::repair_ledger;
pub use serve::{ServeError, serve};
pub use startup::error::OpenError;
pub use state::Warden;
pub use systemd::{InheritedFds, Waiting};

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The module that a path begins with, of those that are listed: the longest one.
    fn module<'a>(path: &str, listed: &[&'a str]) -> Option<&'a str> {
        let is_prefix = |module: &&str| {
            let rest = path.strip_prefix(module);
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
        };
        listed.iter().copied().filter(is_prefix).max_by_key(|module| module.len())
    }

    #[test]
    fn every_module_uses_only_those_before_it() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let list = include_str!("lib.rs").lines().skip_while(|line| !line.starts_with("//! - "));
        let list = list.take_while(|line| line.starts_with("//! "));
        let listed: Vec<&str> = list.flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
        assert!(listed.len() > 40, "the list was read: {listed:?}");
        for (place, name) in listed.iter().enumerate() {
            let path = sources.join(name.replace("::", "/")).with_extension("rs");
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let code = text.split("#[cfg(test)]").next().expect("the first part").replace("pub(super)", "");
            assert!(!code.contains("super::"), "{name}: a path begins with `crate`, or this test does not see it");
            for path in code.split("crate::").skip(1) {
                let used = module(path, &listed).unwrap_or_else(|| panic!("{name} uses a module that is not listed"));
                assert!(listed[..place].contains(&used), "{name} uses {used}, which is not before it");
            }
        }
    }
}
