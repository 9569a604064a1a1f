//! Undoes the creation of a tenant whose jail cannot be started.
//!
//! Danger: this is the only code of this crate that destroys data.

use crate::daemon::DaemonRequests;
use crate::error::DeclareError;
use crate::files::{TenantFiles, file_name};
use bailiwick_types::TenantName;
use std::path::Path;

/// Whether a tenant had data before its file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorData {
    /// It had none. So any later data was made for the new tenant.
    Absent,
    /// It had the data of an earlier tenant, whose file is gone.
    Present,
    /// This could not be found out.
    Unknown,
}

/// Undoes the creation of a tenant: stops its jail, removes its file, makes the daemon read the policy again, and destroys its
/// data if `prior` is [`PriorData::Absent`]. Every step is tried, even after one that fails.
///
/// This function opens and locks the folder, so the caller must hold no [`TenantFiles`].
///
/// Returns the errors of the steps that failed, in their order; an empty list when everything is undone.
#[must_use]
pub fn undo_create<D: DaemonRequests>(
    config: &Path,
    tenant: &TenantName,
    prior: PriorData,
    daemon: &D,
) -> Vec<D::Error> {
    let mut steps = vec![daemon.stop(tenant), remove_file(config, tenant).map_err(D::Error::from), daemon.reload()];
    if prior == PriorData::Absent {
        steps.push(daemon.purge(tenant));
    }
    steps.into_iter().filter_map(Result::err).collect()
}

fn remove_file(config: &Path, tenant: &TenantName) -> Result<(), DeclareError> {
    TenantFiles::open(config)?.remove(&file_name(tenant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{FakeDaemon, FakeError, config, name, tenant_file};

    #[test]
    fn data_is_destroyed_last_and_only_where_there_was_none_before() {
        for (prior, is_purged) in [(PriorData::Absent, true), (PriorData::Present, false), (PriorData::Unknown, false)]
        {
            let config = config();
            let daemon = FakeDaemon::new(&config, "alice.toml");
            assert_eq!(undo_create(config.path(), &name("alice"), prior, &daemon), []);
            let mut golden = vec!["stop alice, with a file", "reload, without a file"];
            golden.extend(is_purged.then_some("purge alice, without a file"));
            assert_eq!(daemon.asked(), golden, "{prior:?}");
        }
    }

    #[test]
    fn a_failed_step_is_reported_and_the_others_are_tried() {
        let config = config();
        let daemon = FakeDaemon::new(&config, "alice.toml").failing("stop");
        let left = undo_create(config.path(), &name("alice"), PriorData::Absent, &daemon);
        assert_eq!(left, [FakeError("stop".to_owned())]);
        assert_eq!(daemon.asked().len(), 3);
        assert_eq!(tenant_file(&config, "alice.toml"), None);
    }
}
