//! Storage that is being prepared. A child does the work for each tenant; then the tenant's jail starts.

use crate::helper::Helper;
use crate::jail::step::reach_work;
use crate::storage::seed::Preparation;
use bailiwick_types::TenantName;
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long a start request waits for this.
pub(crate) const PREPARE_TIME: Duration = Duration::from_secs(5);

/// A child that prepares a tenant's storage.
#[derive(Debug)]
struct Preparing {
    helper: Helper,
    preparation: Preparation,
    since: Instant,
}

pub(crate) struct Prepared {
    pub(crate) tenant: TenantName,
    /// The word for the work.
    pub(crate) what: &'static str,
    pub(crate) result: io::Result<()>,
}

/// All preparations.
#[derive(Debug, Default)]
pub(crate) struct Preparations(BTreeMap<TenantName, Preparing>);

impl Preparations {
    /// Whether a tenant's storage is being prepared.
    pub(crate) fn has(&self, tenant: &TenantName) -> bool {
        self.0.contains_key(tenant)
    }

    /// Begins the work in a child.
    pub(crate) fn begin(&mut self, tenant: &TenantName, preparation: Preparation) -> io::Result<()> {
        let helper = Helper::begin(&[preparation.dir()], || {
            reach_work(preparation.word(), tenant);
            preparation.work()
        })?;
        self.0.insert(tenant.clone(), Preparing { helper, preparation, since: Instant::now() });
        Ok(())
    }

    /// Stops work on storage that is about to be destroyed.
    pub(crate) fn cancel(&mut self, tenant: &TenantName) {
        self.0.remove(tenant);
    }

    /// Takes the preparations that have ended.
    pub(crate) fn take_ended(&mut self) -> Vec<Prepared> {
        let mut ended = Vec::new();
        self.0.retain(|tenant, preparing| {
            let Some(result) = preparing.helper.end() else { return true };
            ended.push(Prepared { tenant: tenant.clone(), what: preparing.preparation.word(), result });
            false
        });
        ended
    }

    /// Descriptors that report an end.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.0.values().map(|preparing| (preparing.helper.report().as_fd(), PollFlags::IN))
    }

    /// The preparations that take long, for `status`.
    pub(crate) fn problems(&self, now: Instant) -> Vec<String> {
        let late = self.0.iter().filter(|(_, preparing)| preparing.since + PREPARE_TIME <= now);
        let problem = |(tenant, preparing): (&TenantName, &Preparing)| {
            format!("the files of \"{tenant}\" {}; its jail starts afterwards", preparing.preparation.in_words())
        };
        late.map(problem).collect()
    }
}
