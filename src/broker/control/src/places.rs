//! Places: the limits on each user's connections, and on the bytes of its unfinished requests.
//!
//! Danger: every user of the host can connect, and one user can have thousands of ids (`subuid(5)`). So each user has a
//! share, all users without permission together have a small one, and no user's connections keep an operator out.

use crate::sync::lock;
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, HostUid, IdPool};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The most connections of clients that are not operators. A session holds one for its whole life.
const MOST: usize = 16_384;
/// At most 1/`PART_OF_DESCRIPTORS` of the process's descriptors may be connections of clients that are not operators.
const PART_OF_DESCRIPTORS: usize = 2;
/// The most connections of one tenant's users, without sessions, and the most bytes of their unfinished requests.
const OF_TENANT: Share = Share { connections: 128, bytes: 1 << 20 };
/// The same for an operator who is not root.
const OF_OPERATOR: Share = Share { connections: 1024, bytes: 16 << 20 };
/// The same for one of the `observers`: its requests are small.
const OF_OBSERVER: Share = Share { connections: 16, bytes: 16 << 10 };
/// The same for any other user: enough to receive a refusal.
const OF_STRANGER: Share = Share { connections: 8, bytes: 0 };
/// The most connections of all such users together.
const STRANGERS: usize = 64;

/// The most bytes of an unfinished request from a session's client, which only reports how the session ended.
const OF_SESSION: usize = 16 << 10;

/// What one user may hold.
#[derive(Debug, Clone, Copy)]
struct Share {
    connections: usize,
    bytes: usize,
}

/// The user whose share a connection counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Root,
    /// A user of `admins`.
    Operator(u32),
    /// A user of `observers`.
    Observer(u32),
    /// Any id of a tenant, by the first id of its range.
    Tenant(u32),
    Stranger(u32),
}

impl Who {
    /// Decides by the id, and by whether the id was last known as an operator's.
    pub(crate) fn of(uid: u32, pool: IdPool, is_admin: bool) -> Self {
        match uid {
            0 => Self::Root,
            _ if is_admin => Self::Operator(uid),
            // No tenant has an id below the pool. Above its start, the range follows from the id alone.
            _ if uid >= pool.host_users() => {
                let of_host_user = pool.range_of_host_user(HostUid(uid)).map(|range| range.first);
                let of_jail = || uid.checked_sub(pool.first()).map(|above| uid - above % pool.per_tenant());
                of_host_user.or_else(of_jail).map_or(Self::Stranger(uid), Self::Tenant)
            }
            _ => Self::Stranger(uid),
        }
    }

    fn share(self) -> Option<Share> {
        match self {
            Self::Root => None,
            Self::Operator(_) => Some(OF_OPERATOR),
            Self::Observer(_) => Some(OF_OBSERVER),
            Self::Tenant(_) => Some(OF_TENANT),
            Self::Stranger(_) => Some(OF_STRANGER),
        }
    }

    fn is_operator(self) -> bool {
        matches!(self, Self::Root | Self::Operator(_))
    }
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<Who, Held>,
    /// Connections of all but operators, including sessions.
    of_others: usize,
    of_strangers: usize,
}

#[derive(Debug, Default)]
struct Held {
    connections: usize,
    bytes: usize,
}

/// The places of all users.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    state: Mutex<State>,
}

impl Places {
    /// Makes the places of a process that may have this many descriptors.
    pub(crate) fn new(descriptors: Option<u64>) -> Arc<Self> {
        let descriptors = descriptors.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        Arc::new(Self { most: MOST.min(descriptors / PART_OF_DESCRIPTORS), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a place for a connection, or refuses it.
    pub(crate) fn take(self: &Arc<Self>, who: Who) -> Result<Place, Failure> {
        let mut state = self.state();
        if !who.is_operator() && state.of_others >= self.most {
            return Err(full(&format!("bailiwickd serves {} connections", self.most)));
        }
        let is_stranger = matches!(who, Who::Stranger(_));
        if is_stranger && state.of_strangers >= STRANGERS {
            return Err(full(&format!("bailiwickd serves {STRANGERS} connections of users who may not ask")));
        }
        let held = state.held.entry(who).or_default();
        if let Some(share) = who.share().filter(|share| held.connections >= share.connections) {
            return Err(full(&format!("this user has {} connections to bailiwickd", share.connections)));
        }
        held.connections += 1;
        state.of_others += usize::from(!who.is_operator());
        state.of_strangers += usize::from(is_stranger);
        Ok(Place { places: Arc::clone(self), who, bytes: 0, is_session: false })
    }
}

fn full(what: &str) -> Failure {
    Failure::of(ExitStatus::OverLimit, format!("{what} and has no place for more; try again"))
}

/// A place that is held until this value is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    who: Who,
    bytes: usize,
    is_session: bool,
}

impl Place {
    pub(crate) fn who(&self) -> Who {
        self.who
    }

    /// Sets how many bytes of an unfinished request are held now. Refuses what is over the share.
    pub(crate) fn holds(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.is_session {
            let too_much = format!("a session says no more than {OF_SESSION} bytes");
            return if bytes <= OF_SESSION { Ok(()) } else { Err(Failure::of(ExitStatus::Invalid, too_much)) };
        }
        let mut state = self.places.state();
        let Some(held) = state.held.get_mut(&self.who) else { return Ok(()) };
        let all = held.bytes.saturating_sub(self.bytes) + bytes;
        if let Some(share) = self.who.share().filter(|share| bytes > self.bytes && all > share.bytes) {
            return Err(full(&format!("this user has {} bytes of unfinished requests at bailiwickd", share.bytes)));
        }
        (held.bytes, self.bytes) = (all, bytes);
        Ok(())
    }

    /// Makes this the place of a session and frees the user's share. The tenant's limit `sessions` bounds the number of
    /// sessions.
    pub(crate) fn becomes_session(&mut self) {
        if !std::mem::replace(&mut self.is_session, true) {
            self.leave_share(&mut self.places.state());
        }
    }

    fn leave_share(&self, state: &mut State) {
        if let Some(held) = state.held.get_mut(&self.who) {
            held.connections -= 1;
            held.bytes = held.bytes.saturating_sub(self.bytes);
            if held.connections == 0 {
                state.held.remove(&self.who);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        if !self.is_session {
            self.leave_share(&mut state);
        }
        state.of_others -= usize::from(!self.who.is_operator());
        state.of_strangers -= usize::from(matches!(self.who, Who::Stranger(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(places: &Arc<Places>, who: impl Fn(u32) -> Who, wanted: u32) -> Vec<Place> {
        (0..wanted).filter_map(|number| places.take(who(number)).ok()).collect()
    }

    #[test]
    fn nobody_takes_the_places_of_another_however_many_ids_it_has() {
        let places = Places::new(None);
        let one = many(&places, |_| Who::Stranger(1000), 5000);
        assert_eq!(one.len(), OF_STRANGER.connections);
        let others = many(&places, |number| Who::Stranger(100_000 + number), 5000);
        assert_eq!(one.len() + others.len(), STRANGERS);
        let tenant = many(&places, |_| Who::Tenant(1 << 20), 5000);
        assert_eq!(tenant.len(), OF_TENANT.connections);
        assert!(places.take(Who::Tenant(2 << 20)).is_ok());
        assert_eq!(many(&places, |_| Who::Operator(1001), 5000).len(), OF_OPERATOR.connections);
        assert_eq!(many(&places, |_| Who::Root, 5000).len(), 5000);
        drop((one, others, tenant));
        let state = places.state();
        assert!(state.held.is_empty() && state.of_others == 0 && state.of_strangers == 0, "{state:?}");
    }

    #[test]
    fn operators_get_in_when_all_places_are_taken() {
        let places = Places::new(Some(200));
        let mut sessions = many(&places, |number| Who::Tenant(number << 16), 1000);
        assert_eq!(sessions.len(), 100);
        sessions.iter_mut().for_each(Place::becomes_session);
        assert_eq!(places.take(Who::Tenant(1 << 30)).expect_err("full").status, ExitStatus::OverLimit);
        assert!(places.take(Who::Root).is_ok() && places.take(Who::Operator(7)).is_ok());
        sessions.pop();
        assert!(places.take(Who::Tenant(1 << 30)).is_ok());
    }

    #[test]
    fn unfinished_requests_have_a_share_and_give_it_back() {
        let places = Places::new(None);
        let mut all = many(&places, |_| Who::Tenant(1 << 20), 8);
        let held = all.iter_mut().filter_map(|place| place.holds(256 << 10).ok()).count();
        assert_eq!(held, 4);
        assert!(places.take(Who::Tenant(2 << 20)).expect("a place").holds(256 << 10).is_ok());
        all[0].holds(0).expect("less");
        all[7].holds(256 << 10).expect("room");
        all.truncate(1);
        assert!(all[0].holds(1 << 20).is_ok());
        assert!(places.take(Who::Stranger(9)).expect("a place").holds(1).is_err());
        assert!(places.take(Who::Root).expect("a place").holds(1 << 30).is_ok());
    }

    #[test]
    fn a_session_is_none_of_those_who_ask() {
        let places = Places::new(None);
        let mut sessions = many(&places, |_| Who::Tenant(1 << 20), 128);
        assert!(places.take(Who::Tenant(1 << 20)).is_err());
        sessions.iter_mut().for_each(Place::becomes_session);
        sessions.iter_mut().for_each(Place::becomes_session);
        assert_eq!(many(&places, |_| Who::Tenant(1 << 20), 1000).len(), 128);
        assert!(sessions[0].holds(64).is_ok() && sessions[0].holds(1 << 20).is_err());
        drop(sessions);
        assert!(places.state().held.is_empty());
    }

    #[test]
    fn whose_an_id_is_is_told_by_the_id() {
        let pool = IdPool::new(200_000, 65_536).expect("valid");
        let range = pool.range(3).expect("a range");
        for uid in [range.first, range.first + 1000, range.first + 65_535, pool.host_user(range).0] {
            assert_eq!(Who::of(uid, pool, false), Who::Tenant(range.first), "{uid}");
        }
        assert_eq!(Who::of(0, pool, false), Who::Root);
        for uid in [1, 1000, pool.host_users() - 1] {
            assert_eq!(Who::of(uid, pool, false), Who::Stranger(uid));
            assert_eq!(Who::of(uid, pool, true), Who::Operator(uid));
        }
    }
}
