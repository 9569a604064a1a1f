//! Inits that do not answer: which, since when, when each is asked again, and when its jail is made anew.
//!
//! Danger: an init is its tenant's, who may stop it at any moment, between any two words of it. So whoever asks one waits for so long
//! and no longer; one that was silent is not asked by everybody who would like to know something, but by nobody for a time that
//! grows; and for no tenant anything is waited for that is another's.

use crate::daemon::Daemon;
use crate::door::{self, DoorError};
use crate::sync::lock;
use bailiwick_types::TenantName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::{info, warn};

/// How long nobody asks an init that was silent; twice as long each time that it is silent again.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// In how long every init is asked once, though nobody wants anything of it.
const ROUND: u32 = 30;
/// How long there is between two portions of a round.
const PORTION_TIME: Duration = Duration::from_secs(10);
/// How many that were silent are asked at a time.
const AT_ONCE: usize = 64;

/// One that did not answer.
#[derive(Debug)]
struct Silence {
    since: Instant,
    /// When it may be asked again.
    again: Instant,
    pause: Duration,
    /// Whether it was silent twice, the second time for as long as anybody waits: once a busy host may have been the reason.
    is_certain: bool,
    /// Whether somebody asks it right now.
    is_asked: bool,
}

#[derive(Debug, Default)]
struct State {
    silent: BTreeMap<TenantName, Silence>,
    /// Those that answer, and not soon.
    slow: BTreeSet<TenantName>,
}

/// The inits of a host.
#[derive(Debug)]
pub(crate) struct Inits {
    state: Mutex<State>,
    changed: Notify,
    asking: Arc<Semaphore>,
}

impl Default for Inits {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), asking: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Inits {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether somebody who wants something may ask it now.
    pub(crate) fn may_ask(&self, tenant: &TenantName) -> Result<(), DoorError> {
        match self.state().silent.get(tenant) {
            Some(silence) if Instant::now() < silence.again => Err(DoorError::Silent),
            _ => Ok(()),
        }
    }

    /// It has answered.
    fn answered(&self, tenant: &TenantName) {
        let silence = self.state().silent.remove(tenant);
        if let Some(Silence { since, is_certain: true, .. }) = silence {
            let seconds = since.elapsed().as_secs();
            info!(target: "bailiwick::event", tenant = %tenant, event = "init-answers", seconds, "init of {tenant} answers again, after {seconds} s");
        }
    }

    /// It has not, in time.
    fn did_not_answer(&self, tenant: &TenantName, is_certain: bool) {
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

    /// Its jail is another now, or in another state.
    pub(crate) fn forget(&self, tenant: &TenantName) {
        let mut state = self.state();
        state.silent.remove(tenant);
        state.slow.remove(tenant);
    }

    /// Whether it is certain that it does not answer, and for how long it has not.
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

    /// Those that are to be asked now, and when the next is.
    fn due(&self) -> (Vec<TenantName>, Option<Instant>) {
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

    fn was_asked(&self, tenant: &TenantName) {
        if let Some(silence) = self.state().silent.get_mut(tenant) {
            silence.is_asked = false;
            // Also when nothing came of it.
            silence.again = silence.again.max(Instant::now() + FIRST_PAUSE);
        }
        self.changed.notify_one();
    }
}

impl Daemon {
    /// Talks with the init of a tenant, if it is not one that was silent a moment ago, and notes whether it answers.
    pub(crate) async fn talk<T>(
        &self,
        tenant: &TenantName,
        talk: impl Future<Output = Result<T, DoorError>>,
    ) -> Result<T, DoorError> {
        self.inits().may_ask(tenant)?;
        let result = talk.await;
        self.note_answer(tenant, result.as_ref().err(), false);
        result
    }

    fn note_answer(&self, tenant: &TenantName, error: Option<&DoorError>, is_certain: bool) {
        match error {
            None | Some(DoorError::Refused) => self.inits().answered(tenant),
            Some(DoorError::Down) => self.inits().forget(tenant),
            // It was not even asked.
            Some(DoorError::Own(_)) => {}
            // Nonsense in the place of an answer is none.
            Some(DoorError::Silent | DoorError::Broken(_)) => self.inits().did_not_answer(tenant, is_certain),
        }
    }

    /// Asks inits that were silent again, and now and then all others, and replaces what is silent for as long as the operator said; for
    /// good.
    pub async fn keep_inits(self: Arc<Self>) {
        let mut round = Round::default();
        let mut portion = Instant::now() + PORTION_TIME;
        loop {
            let (due, next) = self.inits().due();
            for tenant in due {
                let daemon = Arc::clone(&self);
                tokio::spawn(async move {
                    {
                        let _place = daemon.inits().asking.acquire().await;
                        daemon.ask_again(&tenant).await;
                    }
                    // Without a place: a jail takes its time to be made anew.
                    daemon.replace_long_silent(&tenant).await;
                    daemon.inits().was_asked(&tenant);
                });
            }
            if Instant::now() >= portion {
                portion = Instant::now() + PORTION_TIME;
                for tenant in round.next(self.awake()) {
                    let daemon = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _place = daemon.inits().asking.acquire().await;
                        if let Some((socket, ids)) = daemon.init_of_name(&tenant).await {
                            drop(daemon.talk(&tenant, door::greet(&socket, ids)).await);
                        }
                    });
                }
            }
            let next = next.map_or(portion, |next| portion.min(next));
            drop(tokio::time::timeout_at(next, self.inits().changed.notified()).await);
        }
    }

    /// Asks one that was silent.
    async fn ask_again(&self, tenant: &TenantName) {
        let Some((socket, ids)) = self.init_of_name(tenant).await else { return self.inits().forget(tenant) };
        let error = door::greet(&socket, ids).await.err();
        if matches!(error, Some(DoorError::Silent | DoorError::Broken(_))) && self.is_frozen(tenant).await {
            // It is not its own doing, and who thaws it has it forgotten too.
            return self.inits().forget(tenant);
        }
        self.note_answer(tenant, error.as_ref(), true);
    }

    /// Makes a jail anew whose init has been silent for as long as the operator said.
    async fn replace_long_silent(&self, tenant: &TenantName) {
        let Some(after) = self.policy().host().replace_silent_init else { return };
        if self.inits().silent_for(tenant).is_none_or(|time| time.as_secs() < after.0) {
            return;
        }
        match self.replace_silent(tenant).await {
            Ok(true) => {
                warn!(target: "bailiwick::event", tenant = %tenant, event = "init-replaced", "init of {tenant} did not answer for {after}, so its jail was made anew (`replace_silent_init`)");
            }
            Ok(false) => {}
            Err(failure) => {
                warn!(target: "bailiwick::event", tenant = %tenant, event = "init-not-replaced", "{failure}");
            }
        }
    }

    /// Whether an operator has frozen it, as the warden tells now.
    pub(crate) async fn is_frozen(&self, tenant: &TenantName) -> bool {
        matches!(self.warden().entry(tenant).await, Ok(Some(entry)) if entry.frozen)
    }
}

/// Everybody, in portions.
#[derive(Debug, Default)]
struct Round {
    portion: u32,
}

impl Round {
    /// The next portion. Who is in which depends on nothing but the name, so that each is in one.
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
    use bailiwick_proto::warden::RosterEntry;
    use bailiwick_proto::{WardenReply, WardenRequest};
    use bailiwick_types::{Access, IdRange, Moment};
    use std::io;
    use tempfile::TempDir;
    use tokio::net::UnixListener;
    use tokio::sync::mpsc::{Sender, channel};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_silent_is_not_asked_by_everybody_and_nobody_else_is_touched() {
        let (inits, alice, bob) = (Inits::default(), name("alice"), name("bob"));
        assert!(inits.may_ask(&alice).is_ok());
        inits.did_not_answer(&alice, false);
        assert!(matches!(inits.may_ask(&alice), Err(DoorError::Silent)) && inits.may_ask(&bob).is_ok());
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
        let (inits, alice) = (Inits::default(), name("alice"));
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

    const IDS: IdRange = IdRange { first: 0, count: 65_536 };

    /// A daemon whose warden knows `alice`, who runs, and an init of hers that listens and says nothing.
    async fn with_silent_init(frozen: bool, stops: Sender<()>) -> (TempDir, Arc<Daemon>, UnixListener) {
        let (temp, daemon) = fake::host();
        let entry = RosterEntry { frozen, pid: Some(1), access: Some(Access::ReadWrite), ..entry_of(IDS) };
        fake::warden(&daemon, move |request| match request {
            WardenRequest::Entry { .. } => Answer::Reply(WardenReply::Entry(Some(Box::new(entry.clone())))),
            _ => {
                stops.try_send(()).ok();
                Answer::Never
            }
        });
        assert!(daemon.warden().entry(&name("alice")).await.is_ok());
        let (socket, _) = daemon.init_of_name(&name("alice")).await.expect("one that runs");
        std::fs::create_dir_all(socket.parent().expect("a directory")).expect("makes");
        let init = UnixListener::bind(socket).expect("binds");
        (temp, daemon, init)
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_tenant_is_not_asked_again_and_again() {
        let (stops, _) = channel(1);
        let (_temp, daemon, init) = with_silent_init(true, stops).await;
        let tenants = daemon.policy().tenants_with_timers();
        assert_eq!((tenants.len(), daemon.read_crontabs(&tenants, Moment(0)).await.len()), (1, 0));
        // Somebody wanted something of it.
        daemon.inits().did_not_answer(&name("alice"), false);
        let keeping = tokio::spawn(Arc::clone(&daemon).keep_inits());
        let (mut asked, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(3600));
        while let Ok(connection) = tokio::time::timeout_at(deadline, init.accept()).await {
            asked.push(connection.expect("accepts"));
        }
        assert_eq!(asked.len(), 1, "in an hour");
        assert!(daemon.inits().may_ask(&name("alice")).is_ok() && daemon.inits().silent_for(&name("alice")).is_none());
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_jail_that_is_made_anew_takes_no_place_of_those_who_ask() {
        let (stops, mut stopped) = channel(1);
        let (_temp, daemon, _init) = with_silent_init(false, stops).await;
        daemon.inits().did_not_answer(&name("alice"), true);
        let keeping = tokio::spawn(Arc::clone(&daemon).keep_inits());
        // And never is.
        stopped.recv().await.expect("the warden is asked to stop it");
        assert_eq!(daemon.inits().asking.available_permits(), AT_ONCE);
        keeping.abort();
    }

    #[tokio::test]
    async fn what_we_cannot_ask_is_not_silent() {
        let (_temp, daemon) = fake::host();
        let alice = name("alice");
        let want = || io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let talk = daemon.talk(&alice, async { Err::<(), _>(DoorError::from(want())) });
        assert!(matches!(talk.await, Err(DoorError::Own(_))));
        assert!(daemon.inits().may_ask(&alice).is_ok());
        // Nor does it answer again.
        daemon.inits().did_not_answer(&alice, true);
        daemon.note_answer(&alice, Some(&DoorError::from(want())), true);
        assert!(daemon.inits().silent_for(&alice).is_some());
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
