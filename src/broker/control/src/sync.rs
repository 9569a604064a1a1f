//! Locks, wake-ups and bounded concurrency for all services.

use bailiwick_types::TenantName;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use tokio::sync::{Notify, OwnedMutexGuard};

/// How many jails are asked or changed at once.
pub(crate) const ASKED_AT_ONCE: usize = 32;

/// Locks a mutex whose holders never panic. Nothing is awaited while it is held.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}

/// Wakes a loop that sleeps between its rounds. A loop that is in a round begins another one after it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake(Arc<Notify>);

impl Wake {
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn wait(&self) {
        self.0.notified().await;
    }
}

/// A lock for each tenant. Whoever waits for one gets it in order.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<TenantName, Arc<tokio::sync::Mutex<()>>>>);

/// The lock of one tenant, held until this value is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _held: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the lock of a tenant.
    pub(crate) async fn of(&self, tenant: &TenantName) -> Turn {
        let turn = {
            let mut turns = lock(&self.0);
            // A lock that nobody holds or waits for is dropped; the next caller makes a new one.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(tenant.clone()).or_default())
        };
        Turn { _held: turn.lock_owned().await }
    }
}

/// Runs all futures, [`ASKED_AT_ONCE`] at a time, and returns their results in order. A slow one delays few others.
pub(crate) async fn at_once<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut done = Vec::with_capacity(all.len());
    let mut waiting = all.into_iter().map(Box::pin);
    let mut running: Vec<(usize, Pin<Box<_>>)> = Vec::new();
    let mut started = 0;
    std::future::poll_fn(move |context| {
        loop {
            while running.len() < ASKED_AT_ONCE
                && let Some(next) = waiting.next()
            {
                running.push((started, next));
                started += 1;
            }
            let before = running.len();
            running.retain_mut(|(index, one)| match one.as_mut().poll(context) {
                Poll::Ready(output) => {
                    done.push((*index, output));
                    false
                }
                Poll::Pending => true,
            });
            if running.is_empty() && waiting.len() == 0 {
                done.sort_by_key(|(index, _)| *index);
                return Poll::Ready(std::mem::take(&mut done).into_iter().map(|(_, output)| output).collect());
            }
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_for_one_another_is_done_at_once_and_told_in_order() {
        // Each future waits until all of its group run. One after another they would wait for ever.
        let all = tokio::sync::Barrier::new(ASKED_AT_ONCE);
        let one = |number: usize| {
            let all = &all;
            async move {
                all.wait().await;
                number
            }
        };
        let done = at_once((0..ASKED_AT_ONCE * 3).map(one).collect()).await;
        assert_eq!(done, (0..ASKED_AT_ONCE * 3).collect::<Vec<_>>());
        assert_eq!(at_once(Vec::<std::future::Ready<()>>::new()).await, []);
    }
}
