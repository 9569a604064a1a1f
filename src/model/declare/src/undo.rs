//! Takes back what creating a tenant has made, when its jail cannot be started.

use crate::daemon::DaemonRequests;
use crate::error::DeclareError;
use crate::files::{TenantFiles, file_name};
use bailiwick_types::TenantName;
use std::path::Path;

/// What there was of a tenant's data before its file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorData {
    /// Nothing: whatever is there later was made for the new tenant.
    Absent,
    /// The data of a tenant whose file is gone.
    Present,
    /// Nobody could say.
    Unknown,
}

/// Takes back a tenant that was created: stops its jail, removes its file, has the daemon read that, and destroys its data, the last
/// only where there was none before. A step that fails keeps none of the others from being tried.
///
/// Opens and locks the folder itself: the caller must hold no [`TenantFiles`].
///
/// Returns the errors of the steps that failed, in their order. Empty: all of it is taken back.
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
    fn a_step_that_fails_is_named_and_holds_up_no_other() {
        let config = config();
        let daemon = FakeDaemon::new(&config, "alice.toml").failing("stop");
        let left = undo_create(config.path(), &name("alice"), PriorData::Absent, &daemon);
        assert_eq!(left, [FakeError("stop".to_owned())]);
        assert_eq!(daemon.asked().len(), 3);
        assert_eq!(tenant_file(&config, "alice.toml"), None);
    }
}
