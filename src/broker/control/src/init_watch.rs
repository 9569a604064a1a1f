//! Asks silent inits again, asks all others regularly, and replaces jails whose init stays silent.

use crate::init_client::{self, InitError};
use crate::inits::Inits;
use crate::reconciler::Reconciler;
use crate::tenants::Tenants;
use bailiwick_types::TenantName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::warn;

/// The number of portions in a round. Each init is asked once in a round, that is in 300 s.
const ROUND: u32 = 30;
/// The time between two portions of a round.
const PORTION_TIME: Duration = Duration::from_secs(10);
/// How many inits are asked at once.
const AT_ONCE: usize = 64;

/// Watches the inits of the host.
#[derive(Debug)]
pub(crate) struct InitWatch {
    tenants: Arc<Tenants>,
    inits: Arc<Inits>,
    reconciler: Arc<Reconciler>,
    asking: Arc<Semaphore>,
}

impl InitWatch {
    pub(crate) fn new(tenants: Arc<Tenants>, inits: Arc<Inits>, reconciler: Arc<Reconciler>) -> Self {
        Self { tenants, inits, reconciler, asking: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Runs without end: asks silent inits again and all others regularly, and replaces the jails whose init was silent
    /// for the time that the operator set.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut round = Round::default();
        let mut portion = Instant::now() + PORTION_TIME;
        loop {
            let (due, next) = self.inits.health.due();
            for tenant in due {
                let watch = Arc::clone(&self);
                tokio::spawn(async move {
                    {
                        let _place = watch.asking.acquire().await;
                        watch.ask_again(&tenant).await;
                    }
                    // The permit is released before this, because a restart of a jail takes long.
                    watch.replace_long_silent(&tenant).await;
                    watch.inits.health.was_asked(&tenant);
                });
            }
            if Instant::now() >= portion {
                portion = Instant::now() + PORTION_TIME;
                for tenant in round.next(self.tenants.awake()) {
                    let watch = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _place = watch.asking.acquire().await;
                        if let Some((socket, ids)) = watch.tenants.init_of_name(&tenant).await {
                            drop(watch.inits.talk(&tenant, init_client::connect(&socket, ids)).await);
                        }
                    });
                }
            }
            let next = next.map_or(portion, |next| portion.min(next));
            drop(tokio::time::timeout_at(next, self.inits.health.changed()).await);
        }
    }

    /// Asks an init that was silent.
    async fn ask_again(&self, tenant: &TenantName) {
        let Some((socket, ids)) = self.tenants.init_of_name(tenant).await else {
            return self.inits.health.forget(tenant);
        };
        let error = init_client::connect(&socket, ids).await.err();
        if matches!(error, Some(InitError::Silent | InitError::Broken(_)))
            && self.tenants.frozen(tenant).await.is_some()
        {
            // A frozen tenant does not cause the silence, so it is not counted. A thaw makes this program forget it too.
            return self.inits.health.forget(tenant);
        }
        self.inits.note_answer(tenant, error.as_ref(), true);
    }

    /// Restarts a jail whose init was silent for the time in `replace_silent_init`.
    async fn replace_long_silent(&self, tenant: &TenantName) {
        let Some(after) = self.tenants.policy.host().replace_silent_init else { return };
        if self.inits.health.silent_for(tenant).is_none_or(|time| time.as_secs() < after.0) {
            return;
        }
        match self.reconciler.replace_silent(tenant).await {
            Ok(true) => {
                warn!(target: "bailiwick::event", tenant = %tenant, event = "init-replaced", "init of {tenant} did not answer for {after}, so its jail was made anew (`replace_silent_init`)");
            }
            Ok(false) => {}
            Err(failure) => {
                warn!(target: "bailiwick::event", tenant = %tenant, event = "init-not-replaced", "{failure}");
            }
        }
    }
}

/// Divides all tenants into portions.
#[derive(Debug, Default)]
struct Round {
    portion: u32,
}

impl Round {
    /// The tenants of the next portion. The portion of a tenant depends only on its name, so each tenant is in exactly
    /// one.
    fn next(&mut self, all: Vec<TenantName>) -> Vec<TenantName> {
        self.portion = (self.portion + 1) % ROUND;
        let of = |tenant: &TenantName| {
            tenant.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
        };
        all.into_iter().filter(|tenant| of(tenant) % ROUND == self.portion).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::entry_of;
    use crate::fake::{self, Answer};
    use crate::services::Services;
    use bailiwick_proto::warden::RosterEntry;
    use bailiwick_proto::{WardenReply, WardenRequest};
    use bailiwick_types::{Access, IdRange, Moment};
    use tempfile::TempDir;
    use tokio::net::UnixListener;
    use tokio::sync::mpsc::{Sender, channel};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    const IDS: IdRange = IdRange { first: 0, count: 65_536 };

    /// A daemon whose warden reports `alice` as running, and an init of hers that listens and does not answer.
    async fn with_silent_init(frozen: bool, stops: Sender<()>) -> (TempDir, Arc<Services>, UnixListener) {
        let (temp, services) = fake::host();
        let entry = RosterEntry { frozen, pid: Some(1), access: Some(Access::ReadWrite), ..entry_of(IDS) };
        fake::warden(&services, move |request| match request {
            WardenRequest::Entry { .. } => Answer::Reply(WardenReply::Entry(Some(Box::new(entry.clone())))),
            _ => {
                stops.try_send(()).ok();
                Answer::Never
            }
        });
        assert!(services.tenants.warden.entry(&name("alice")).await.is_ok());
        let (socket, _) = services.tenants.init_of_name(&name("alice")).await.expect("one that runs");
        std::fs::create_dir_all(socket.parent().expect("a directory")).expect("makes");
        let init = UnixListener::bind(socket).expect("binds");
        (temp, services, init)
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_tenant_is_not_asked_again_and_again() {
        let (stops, _) = channel(1);
        let (_temp, services, init) = with_silent_init(true, stops).await;
        let tenants = services.tenants.policy.tenants_with_timers();
        assert_eq!((tenants.len(), services.timer_runner.read_crontabs(&tenants, Moment(0)).await.len()), (1, 0));
        // Some service found the init silent.
        services.init_watch.inits.health.did_not_answer(&name("alice"), false);
        let keeping = tokio::spawn(Arc::clone(&services.init_watch).run());
        let (mut asked, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(3600));
        while let Ok(connection) = tokio::time::timeout_at(deadline, init.accept()).await {
            asked.push(connection.expect("accepts"));
        }
        assert_eq!(asked.len(), 1, "in an hour");
        assert!(
            services.init_watch.inits.health.may_ask(&name("alice")).is_ok()
                && services.init_watch.inits.health.silent_for(&name("alice")).is_none()
        );
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_jail_that_is_made_anew_takes_no_place_of_those_who_ask() {
        let (stops, mut stopped) = channel(1);
        let (_temp, services, _init) = with_silent_init(false, stops).await;
        services.init_watch.inits.health.did_not_answer(&name("alice"), true);
        let keeping = tokio::spawn(Arc::clone(&services.init_watch).run());
        // The warden never replies.
        stopped.recv().await.expect("the warden is asked to stop it");
        assert_eq!(services.init_watch.asking.available_permits(), AT_ONCE);
        keeping.abort();
    }

    #[test]
    fn everybody_is_in_one_portion_of_a_round() {
        let all: Vec<TenantName> = (0..100).map(|index| name(&format!("t{index}"))).collect();
        let mut round = Round::default();
        let mut met: Vec<TenantName> = (0..ROUND).flat_map(|_| round.next(all.clone())).collect();
        met.sort();
        let mut all = all;
        all.sort();
        assert_eq!(met, all);
    }
}
