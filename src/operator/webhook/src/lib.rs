//! Floor 6: sends an event to the receiver of a webhook, once, and judges its answer. It retries nothing and remembers nothing.
//!
//! A request is one connection: resolve the name, check each address, connect, TLS, one request, the head of the answer. Its form is
//! that of Standard Webhooks, version 1 (<https://www.standardwebhooks.com>).
//!
//! Danger: strangers answer, and whoever controls the name of a receiver chooses the address. Addresses are checked after the name was
//! resolved, and those very ones are connected to. No redirect is followed and no proxy is used. The head and the part of the body that
//! is read are bounded, and so is the time of it all. Nothing that a receiver sends is shown as it is.

mod answer;
mod connect;
mod exchange;
mod lookup;
mod sign;

pub use answer::Outcome;
pub use sign::signatures;

use bailiwick_targets::Webhook;
use connect::Authorities;
use lookup::Lookups;
use std::time::SystemTime;
use tokio::time::{Instant, timeout_at};

/// Sends requests. It keeps the certificates of authorities for some minutes.
#[derive(Debug, Default)]
pub struct Sender {
    authorities: Authorities,
    lookups: Lookups,
}

impl Sender {
    /// A sender that has read no certificate yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends one delivery and waits for the answer, at most as long as the webhook says. `id` is the same for each try of a
    /// delivery, so that the receiver can tell a repetition. `now` is the time that is signed.
    ///
    /// It must run on a runtime with input, output and time. The look-up of a name may keep a thread longer than the time limit. Few
    /// do: then a try whose name is not looked up in its time fails.
    pub async fn send(&self, webhook: &Webhook, id: &str, body: &str, now: SystemTime) -> Outcome {
        let deadline = Instant::now() + webhook.timeout.duration();
        let exchange = exchange::exchange((&self.authorities, &self.lookups), webhook, (id, body, now), deadline);
        match timeout_at(deadline, exchange).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::failed(&error),
            Err(_) => Outcome::again(format!("there was no whole answer within {}", webhook.timeout)),
        }
    }

    /// The same for a caller without a runtime: blocks the thread until there is an outcome.
    pub fn send_and_wait(&self, webhook: &Webhook, id: &str, body: &str, now: SystemTime) -> Outcome {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return Outcome::again(format!("cannot wait for an answer: {error}")),
        };
        runtime.block_on(self.send(webhook, id, body, now))
    }
}
