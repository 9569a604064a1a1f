//! Look-ups of names, of which few are under way at a time.
//!
//! Danger: nothing ends a look-up. The resolver of the C library keeps its thread for as long as the servers of a name are silent, also
//! when nobody waits any more. So what bounds look-ups goes with each to its own end, and the name that is slow leaves room for others.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// The most look-ups that are under way, and those of one name.
const MOST: usize = 8;
const MOST_OF_NAME: usize = 2;
/// The most addresses of a name that are of use.
const MOST_ADDRESSES: usize = 8;

/// Why a name has led to no addresses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// Earlier look-ups are still under way.
    #[error(
        "the name \"{host}\" was not looked up in time, because the resolver has not answered earlier look-ups yet"
    )]
    Busy { host: String },
    /// The resolver has not answered.
    #[error("the resolver has not answered for the name \"{host}\" in time")]
    Silent { host: String },
    /// The resolver refuses.
    #[error("the name \"{host}\" cannot be resolved")]
    Failed { host: String, source: io::Error },
}

type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Looks names up.
pub(crate) struct Lookups {
    resolve: Arc<Resolve>,
    all: Arc<Semaphore>,
    of_names: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("free", &self.all.available_permits()).finish_non_exhaustive()
    }
}

impl Default for Lookups {
    #[expect(
        clippy::disallowed_methods,
        reason = "it has a thread of its own, for which nobody waits longer than he has time"
    )]
    fn default() -> Self {
        Self::with(|host, port| Ok((host, port).to_socket_addrs()?.take(MOST_ADDRESSES).collect()))
    }
}

impl Lookups {
    fn with(resolve: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { resolve: Arc::new(resolve), all: Arc::new(Semaphore::new(MOST)), of_names: Mutex::default() }
    }

    fn of_name(&self, host: &str) -> Arc<Semaphore> {
        // A thread that panicked has left a whole map.
        let mut of_names = self.of_names.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits for a permit, or has one, holds the other count.
        of_names.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        Arc::clone(of_names.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(MOST_OF_NAME))))
    }

    /// The addresses of a name. The look-up may go on after `deadline`, and then counts until its end.
    pub(crate) async fn find(&self, host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, LookupError> {
        let host = host.to_owned();
        let (of_name, all) = (self.of_name(&host), Arc::clone(&self.all));
        let permits = async { of_name.acquire_owned().await.ok().zip(all.acquire_owned().await.ok()) };
        let Ok(Some(permits)) = timeout_at(deadline, permits).await else { return Err(LookupError::Busy { host }) };
        let (answer, answered) = oneshot::channel();
        let (resolve, name) = (Arc::clone(&self.resolve), host.clone());
        let look_up = move || {
            let found = resolve(&name, port);
            drop(permits);
            // Nobody may wait any more.
            answer.send(found).ok();
        };
        if let Err(source) = thread::Builder::new().name("look-up".to_owned()).spawn(look_up) {
            return Err(LookupError::Failed { host, source });
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(source))) => Err(LookupError::Failed { host, source }),
            Ok(Err(_)) => Err(LookupError::Failed { host, source: io::Error::other("the look-up has broken off") }),
            Err(_) => Err(LookupError::Silent { host }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::time::Duration;

    /// How many look-ups are under way, the most that ever were, and whether those of `slow` names may end.
    #[derive(Debug, Default)]
    struct Counts {
        now: usize,
        most: usize,
        is_free: bool,
    }

    /// A resolver that keeps silent about names that begin with `slow`, until it is let go.
    fn slow() -> (Arc<(Mutex<Counts>, Condvar)>, Lookups) {
        let shared = Arc::new((Mutex::new(Counts::default()), Condvar::new()));
        let counts = Arc::clone(&shared);
        let lookups = Lookups::with(move |host, port| {
            let (counts, changed) = &*counts;
            let mut counts = counts.lock().expect("lock");
            counts.now += 1;
            counts.most = counts.most.max(counts.now);
            let mut counts =
                changed.wait_while(counts, |counts| host.starts_with("slow") && !counts.is_free).expect("lock");
            counts.now -= 1;
            Ok(vec![SocketAddr::from(([192, 0, 32, 10], port))])
        });
        (shared, lookups)
    }

    /// One try, as of a caller with a runtime of its own.
    fn find(lookups: &Lookups, host: &str, time: Duration) -> Result<Vec<SocketAddr>, LookupError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async { lookups.find(host, 443, Instant::now() + time).await })
    }

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn tries_that_are_over_leave_few_look_ups_behind() {
        let (shared, lookups) = slow();
        for number in 0..40 {
            let host = format!("slow{}.example", number % 10);
            let error = find(&lookups, &host, SHORT).expect_err("nobody answers");
            assert!(matches!(error, LookupError::Busy { .. } | LookupError::Silent { .. }), "{error}");
        }
        let busy = find(&lookups, "slow0.example", SHORT).expect_err("nobody answers");
        assert!(busy.to_string().ends_with("because the resolver has not answered earlier look-ups yet"), "{busy}");
        assert!(shared.0.lock().expect("lock").most <= MOST);
        shared.0.lock().expect("lock").is_free = true;
        shared.1.notify_all();
        assert_eq!(find(&lookups, "slow0.example", LONG).expect("resolves").len(), 1);
        assert!(shared.0.lock().expect("lock").most <= MOST);
    }

    #[test]
    fn a_name_that_is_slow_leaves_room_for_others() {
        let (shared, lookups) = slow();
        for _ in 0..20 {
            find(&lookups, "slow.example", SHORT).expect_err("nobody answers");
        }
        assert_eq!(find(&lookups, "other.example", LONG).expect("resolves").len(), 1);
        assert!(shared.0.lock().expect("lock").most <= MOST_OF_NAME + 1);
        shared.0.lock().expect("lock").is_free = true;
        shared.1.notify_all();
        // Names of which no look-up is under way are forgotten.
        assert_eq!(find(&lookups, "slow.example", LONG).expect("resolves").len(), 1);
        let deadline = std::time::Instant::now() + LONG;
        while {
            drop(lookups.of_name("last.example"));
            lookups.of_names.lock().expect("lock").len() > 1
        } {
            assert!(std::time::Instant::now() < deadline, "{:?}", lookups.of_names);
            thread::sleep(Duration::from_millis(2));
        }
    }
}
