//! Storage that is being prepared: a child does the work for each tenant, and the tenant's jail starts afterwards.

use crate::helper::Helper;
use crate::jail::step::reach_work;
use crate::storage::seed::Preparation;
use bailiwick_types::TenantName;
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long whoever asked for a start waits for this.
pub(crate) const PREPARE_TIME: Duration = Duration::from_secs(5);

/// A child that prepares a tenant's storage.
#[derive(Debug)]
struct Preparing {
    helper: Helper,
    preparation: Preparation,
    since: Instant,
}

/// A preparation that has ended.
pub(crate) struct Prepared {
    pub(crate) tenant: TenantName,
    /// The word of the work.
    pub(crate) what: &'static str,
    pub(crate) result: io::Result<()>,
}

/// All that goes on.
#[derive(Debug, Default)]
pub(crate) struct Preparations(BTreeMap<TenantName, Preparing>);

impl Preparations {
    /// Whether a tenant's storage is being prepared.
    pub(crate) fn has(&self, tenant: &TenantName) -> bool {
        self.0.contains_key(tenant)
    }

    /// Has a child do the work.
    pub(crate) fn begin(&mut self, tenant: &TenantName, preparation: Preparation) -> io::Result<()> {
        let helper = Helper::begin(&[preparation.dir()], || {
            reach_work(preparation.word(), tenant);
            preparation.work()
        })?;
        self.0.insert(tenant.clone(), Preparing { helper, preparation, since: Instant::now() });
        Ok(())
    }

    /// Ends what is done to storage that is about to be destroyed.
    pub(crate) fn cancel(&mut self, tenant: &TenantName) {
        self.0.remove(tenant);
    }

    /// Takes those that have ended.
    pub(crate) fn take_ended(&mut self) -> Vec<Prepared> {
        let mut ended = Vec::new();
        self.0.retain(|tenant, preparing| {
            let Some(result) = preparing.helper.end() else { return true };
            ended.push(Prepared { tenant: tenant.clone(), what: preparing.preparation.word(), result });
            false
        });
        ended
    }

    /// The descriptors that report an end.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.0.values().map(|preparing| (preparing.helper.report().as_fd(), PollFlags::IN))
    }

    /// Which take long, for `status`.
    pub(crate) fn problems(&self, now: Instant) -> Vec<String> {
        let late = self.0.iter().filter(|(_, preparing)| preparing.since + PREPARE_TIME <= now);
        let problem = |(tenant, preparing): (&TenantName, &Preparing)| {
            format!("the files of \"{tenant}\" {}; it starts afterwards", preparing.preparation.told())
        };
        late.map(problem).collect()
    }
}
