//! Which inits do not answer, since when, and when each may be asked again. This module sends no request itself.
//!
//! Danger: an init belongs to its tenant, who may stop it at any moment, also in the middle of a reply. A silent init
//! is not asked for a time that grows, and no tenant waits for another tenant's init.

use crate::init_client::InitError;
use crate::sync::lock;
use bailiwick_types::TenantName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

/// The pause after the first silence of an init. It doubles each time up to `LAST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// An init that did not answer.
#[derive(Debug)]
struct Silence {
    since: Instant,
    /// When the init may be asked again.
    again: Instant,
    pause: Duration,
    /// Whether the silence is certain: the init was silent twice, the second time for the longest wait. A single
    /// silence may come from a busy host.
    is_certain: bool,
    /// Whether a request to it is under way.
    is_asked: bool,
}

#[derive(Debug, Default)]
struct State {
    silent: BTreeMap<TenantName, Silence>,
    /// Tenants whose init answers, but slowly.
    slow: BTreeSet<TenantName>,
}

/// The health of the host's inits.
#[derive(Debug)]
pub(crate) struct InitHealth {
    state: Mutex<State>,
    changed: Notify,
}

impl Default for InitHealth {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: Notify::new() }
    }
}

impl InitHealth {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether a service may ask the init now.
    pub(crate) fn may_ask(&self, tenant: &TenantName) -> Result<(), InitError> {
        match self.state().silent.get(tenant) {
            Some(silence) if Instant::now() < silence.again => Err(InitError::Silent),
            _ => Ok(()),
        }
    }

    /// Records that the init has answered.
    pub(crate) fn answered(&self, tenant: &TenantName) {
        let silence = self.state().silent.remove(tenant);
        if let Some(Silence { since, is_certain: true, .. }) = silence {
            let seconds = since.elapsed().as_secs();
            info!(target: "bailiwick::event", tenant = %tenant, event = "init-answers", seconds, "init of {tenant} answers again, after {seconds} s");
        }
    }

    /// Records that the init did not answer in time.
    pub(crate) fn did_not_answer(&self, tenant: &TenantName, is_certain: bool) {
        let now = Instant::now();
        let mut state = self.state();
        let fresh = Silence { since: now, again: now, pause: FIRST_PAUSE, is_certain: false, is_asked: false };
        let silence = state.silent.entry(tenant.clone()).or_insert(fresh);
        silence.again = now + silence.pause;
        silence.pause = (silence.pause * 2).min(LAST_PAUSE);
        if is_certain && !silence.is_certain {
            silence.is_certain = true;
            warn!(target: "bailiwick::event", tenant = %tenant, event = "init-silent", "init of {tenant} does not answer: its tenant may have stopped it");
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets a tenant whose jail was replaced or changed its state.
    pub(crate) fn forget(&self, tenant: &TenantName) {
        let mut state = self.state();
        state.silent.remove(tenant);
        state.slow.remove(tenant);
    }

    /// How long the init has been silent, if that is certain.
    pub(crate) fn silent_for(&self, tenant: &TenantName) -> Option<Duration> {
        let state = self.state();
        state.silent.get(tenant).filter(|silence| silence.is_certain).map(|silence| silence.since.elapsed())
    }

    pub(crate) fn is_slow(&self, tenant: &TenantName) -> bool {
        self.state().slow.contains(tenant)
    }

    pub(crate) fn note_slow(&self, tenant: &TenantName, is_slow: bool) {
        let slow = &mut self.state().slow;
        if is_slow {
            slow.insert(tenant.clone());
        } else {
            slow.remove(tenant);
        }
    }

    /// The inits that must be asked now, and when the next one is due.
    pub(crate) fn due(&self) -> (Vec<TenantName>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.state();
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (tenant, silence) in state.silent.iter_mut().filter(|(_, silence)| !silence.is_asked) {
            if silence.again <= now {
                silence.is_asked = true;
                due.push(tenant.clone());
            } else {
                next = Some(next.map_or(silence.again, |next| next.min(silence.again)));
            }
        }
        (due, next)
    }

    pub(crate) fn was_asked(&self, tenant: &TenantName) {
        if let Some(silence) = self.state().silent.get_mut(tenant) {
            silence.is_asked = false;
            // The pause also holds if the request had no result.
            silence.again = silence.again.max(Instant::now() + FIRST_PAUSE);
        }
        self.changed.notify_one();
    }
}

impl InitHealth {
    /// Returns when the next due time may have changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_silent_is_not_asked_by_everybody_and_nobody_else_is_touched() {
        let (inits, alice, bob) = (InitHealth::default(), name("alice"), name("bob"));
        assert!(inits.may_ask(&alice).is_ok());
        inits.did_not_answer(&alice, false);
        assert!(matches!(inits.may_ask(&alice), Err(InitError::Silent)) && inits.may_ask(&bob).is_ok());
        assert_eq!(inits.silent_for(&alice), None, "a busy host may have been the reason");
        let (due, next) = inits.due();
        assert!(due.is_empty() && next.is_some(), "nor by us, for a moment");
        tokio::time::advance(FIRST_PAUSE).await;
        assert_eq!(inits.due().0, std::slice::from_ref(&alice), "then it is asked whether it was");
        assert_eq!(inits.due().0, [], "by one");
        inits.did_not_answer(&alice, true);
        inits.was_asked(&alice);
        assert!(inits.silent_for(&alice).is_some() && inits.silent_for(&bob).is_none());
        let (due, next) = inits.due();
        assert!(due.is_empty() && next.is_some_and(|next| next > Instant::now()));
        inits.answered(&alice);
        assert!(inits.may_ask(&alice).is_ok() && inits.silent_for(&alice).is_none());
        inits.did_not_answer(&alice, true);
        inits.forget(&alice);
        assert!(inits.may_ask(&alice).is_ok());
    }

    #[test]
    fn the_pause_grows_and_ends() {
        let (inits, alice) = (InitHealth::default(), name("alice"));
        let pause = || inits.state().silent[&alice].again.saturating_duration_since(Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..3 {
            inits.did_not_answer(&alice, true);
            assert!(pause() > last);
            last = pause();
        }
        (0..100).for_each(|_| inits.did_not_answer(&alice, true));
        assert!(pause() <= LAST_PAUSE);
    }
}
