//! The reserve for emergency sessions: a tenant at a limit gets it for one session, and the warden takes it back.
//!
//! Danger: the reserve is above the tenant's limits, and each move between groups delays every fork of the host by
//! some milliseconds. So it is given to one tenant at a time, and seldom to the same one. The groups in the kernel
//! say who has it: the next warden finds them.

use crate::limits::cgroups::Groups;
use crate::limits::tenant_groups::GroupError;
use bailiwick_plan::control::Control;
use bailiwick_plan::rescue;
use bailiwick_types::TenantName;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Least time between two reserves for the same tenant, and between two for anybody.
const SAME_TIME: Duration = Duration::from_secs(5);
const ANY_TIME: Duration = Duration::from_millis(250);
/// How long init may stay in the emergency group if nobody reports its fork.
const AWAY_TIME: Duration = Duration::from_secs(5);
/// Between two looks at who is in the emergency group.
const LOOK_TIME: Duration = Duration::from_millis(500);

/// Why the reserve is not given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmergencyError {
    #[error("the reserve of \"{0}\" for an emergency session is in use")]
    InUse(TenantName),
    #[error("the reserve for an emergency session was given a moment ago; try again in a few seconds")]
    TooSoon,
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// A reserve that is given.
#[derive(Debug)]
struct Given {
    since: Instant,
    /// Whether init is back in the jail's group.
    is_back: bool,
    /// The declared limits that the reserve raised; `None` if an earlier warden gave it.
    controls: Option<Vec<Control>>,
    /// Whether the log says that it cannot be taken back.
    is_logged: bool,
}

impl Given {
    fn new(since: Instant, is_back: bool, controls: Option<Vec<Control>>) -> Self {
        Self { since, is_back, controls, is_logged: false }
    }
}

/// How often reserves are given.
#[derive(Debug, Default)]
struct Pace {
    /// When each tenant got its last.
    last: BTreeMap<TenantName, Instant>,
}

impl Pace {
    /// Whether a tenant may have one now. If so, this counts as its last.
    fn allows(&mut self, tenant: &TenantName, now: Instant) -> bool {
        let too_soon = |(of, since): (&TenantName, &Instant)| {
            now.duration_since(*since) < if of == tenant { SAME_TIME } else { ANY_TIME }
        };
        if self.last.iter().any(too_soon) {
            return false;
        }
        self.last.retain(|_, since| now.duration_since(*since) < SAME_TIME);
        self.last.insert(tenant.clone(), now);
        true
    }
}

/// All reserves that are given.
#[derive(Debug, Default)]
pub(crate) struct EmergencySessions {
    given: BTreeMap<TenantName, Given>,
    pace: Pace,
    /// When they were last looked at.
    looked: Option<Instant>,
}

impl EmergencySessions {
    /// Takes over a reserve that an earlier warden gave.
    pub(crate) fn adopt(&mut self, groups: &Groups, tenant: &TenantName) -> Result<(), GroupError> {
        if groups.in_rescue(tenant)?.is_some() {
            // As if the time was over, so init goes back at the first look.
            let since = Instant::now().checked_sub(AWAY_TIME).unwrap_or_else(Instant::now);
            self.given.insert(tenant.clone(), Given::new(since, false, None));
        }
        Ok(())
    }

    /// Gives the reserve and moves init to the emergency group. The caller holds `init`.
    pub(crate) fn give(
        &mut self,
        groups: &Groups,
        tenant: &TenantName,
        controls: Vec<Control>,
        init: u32,
    ) -> Result<(), EmergencyError> {
        let now = Instant::now();
        if self.is_given(tenant, now)? {
            return Ok(());
        }
        // Noted before it begins, so a failure on the way is taken back like everything else.
        self.given.insert(tenant.clone(), Given::new(now, true, Some(controls.clone())));
        groups.make_rescue(tenant)?;
        raise(groups, tenant, &controls, false)?;
        groups.move_init(tenant, init, true)?;
        self.given.entry(tenant.clone()).and_modify(|given| given.is_back = false);
        Ok(())
    }

    /// Whether a tenant has the reserve already, and init is still in the emergency group: the answer to an earlier request was
    /// lost. If not, it may be given now.
    fn is_given(&mut self, tenant: &TenantName, now: Instant) -> Result<bool, EmergencyError> {
        match self.given.get(tenant) {
            Some(given) if given.is_back => Err(EmergencyError::InUse(tenant.clone())),
            Some(_) => Ok(true),
            None if self.pace.allows(tenant, now) => Ok(false),
            None => Err(EmergencyError::TooSoon),
        }
    }

    /// Writes declared limits, raised by the reserve if it is given.
    pub(crate) fn limit(
        &mut self,
        groups: &Groups,
        tenant: &TenantName,
        controls: Vec<Control>,
    ) -> Result<(), GroupError> {
        match self.given.get_mut(tenant) {
            Some(given) => {
                raise(groups, tenant, &controls, given.is_back)?;
                given.controls = Some(controls);
                Ok(())
            }
            None => groups.of(tenant)?.limit(&controls),
        }
    }

    /// Init has forked the session.
    pub(crate) fn forked(&mut self, groups: &Groups, tenant: &TenantName, init: u32) -> Result<(), GroupError> {
        match self.given.get_mut(tenant) {
            Some(given) if !given.is_back => {
                groups.move_init(tenant, init, false)?;
                given.is_back = true;
                match given.controls.as_ref().and_then(|controls| rescue::tasks_of_jail(controls, true)) {
                    Some(tasks) => groups.bound_jail(tenant, tasks),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Reserves to look at now: init is away too long, or the session may be over.
    pub(crate) fn due(&mut self) -> Vec<TenantName> {
        if self.given.is_empty() || self.looked.is_some_and(|looked| looked.elapsed() < LOOK_TIME) {
            return Vec::new();
        }
        self.looked = Some(Instant::now());
        let is_due = |given: &Given| given.is_back || given.since.elapsed() >= AWAY_TIME;
        self.given.iter().filter(|(_, given)| is_due(given)).map(|(tenant, _)| tenant.clone()).collect()
    }

    /// Takes a reserve back if its session is over. `declared` are the limits in the policy, if that can be read.
    pub(crate) fn take_back(
        &mut self,
        groups: &Groups,
        tenant: &TenantName,
        declared: Option<Vec<Control>>,
    ) -> Result<(), GroupError> {
        let Some(given) = self.given.get(tenant) else { return Ok(()) };
        let members = groups.in_rescue(tenant)?;
        match next(members.as_deref(), declared.as_ref(), given.controls.as_ref()) {
            Next::Wait => return Ok(()),
            Next::Lower(controls) => {
                groups.of(tenant)?.limit(controls)?;
                if !groups.remove_rescue(tenant)? {
                    return Ok(());
                }
            }
            Next::Forget => {}
        }
        self.given.remove(tenant);
        Ok(())
    }

    /// Whether this is the first failure to take it back.
    pub(crate) fn is_news(&mut self, tenant: &TenantName) -> bool {
        self.given.get_mut(tenant).is_some_and(|given| !std::mem::replace(&mut given.is_logged, true))
    }

    /// The jail is gone, with its groups.
    pub(crate) fn forget(&mut self, tenant: &TenantName) {
        self.given.remove(tenant);
    }
}

/// What to do with a reserve that is given.
#[derive(Debug, PartialEq, Eq)]
enum Next<T> {
    /// The session goes on, or nobody knows the limits that are to be in force after it.
    Wait,
    /// The session is over: write these limits, and remove the emergency group.
    Lower(T),
    /// There is no emergency group any more.
    Forget,
}

/// Decides by the processes in the emergency group, and by the limits that are declared now or were when it was given. It has neither
/// if the policy has had errors since before this warden.
fn next<T>(members: Option<&[u32]>, declared: Option<T>, given: Option<T>) -> Next<T> {
    match members {
        None => Next::Forget,
        Some([]) => declared.or(given).map_or(Next::Wait, Next::Lower),
        Some(_) => Next::Wait,
    }
}

/// Writes the limits with the reserve.
fn raise(groups: &Groups, tenant: &TenantName, controls: &[Control], init_is_in: bool) -> Result<(), GroupError> {
    // The jail's limit comes first, so the jail gets nothing of the reserve.
    if let Some(tasks) = rescue::tasks_of_jail(controls, init_is_in) {
        groups.bound_jail(tenant, tasks)?;
    }
    groups.of(tenant)?.limit(&rescue::during(controls.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_are_given_seldom_and_one_at_a_time() {
        let [alice, bob] = ["alice", "bob"].map(|name| name.parse::<TenantName>().expect("a name"));
        let begin = Instant::now();
        let mut pace = Pace::default();
        let rounds = [
            (&alice, 0, true),
            (&bob, 249, false),
            (&bob, 250, true),
            // A refusal does not delay the next.
            (&alice, 4_999, false),
            (&alice, 5_000, true),
            (&bob, 5_249, false),
            (&bob, 5_250, true),
        ];
        for (tenant, at, golden) in rounds {
            assert_eq!(pace.allows(tenant, begin + Duration::from_millis(at)), golden, "{tenant} at {at}");
        }
        assert_eq!(pace.last.len(), 2);
        assert!(pace.allows(&"carol".parse().expect("a name"), begin + Duration::from_secs(60)));
        assert_eq!(pace.last.len(), 1, "what is over is forgotten");
    }

    #[test]
    fn a_reserve_in_use_is_refused_and_a_repeated_request_is_not() {
        let alice: TenantName = "alice".parse().expect("a name");
        let begin = Instant::now();
        let mut all = EmergencySessions::default();
        assert!(!all.is_given(&alice, begin).expect("it may be given"));
        assert!(matches!(all.is_given(&alice, begin), Err(EmergencyError::TooSoon)));
        all.given.insert(alice.clone(), Given::new(begin, false, None));
        assert!(all.is_given(&alice, begin).expect("the session was not forked yet"));
        all.given.insert(alice.clone(), Given::new(begin, true, None));
        let later = begin + SAME_TIME;
        assert!(matches!(all.is_given(&alice, later), Err(EmergencyError::InUse(tenant)) if tenant == alice));
    }

    #[test]
    fn limits_are_lowered_when_the_session_is_over_and_they_are_known() {
        for (members, declared, given, golden) in [
            (Some(&[7][..]), Some(1), Some(2), Next::Wait),
            (Some(&[]), Some(1), Some(2), Next::Lower(1)),
            (Some(&[]), None, Some(2), Next::Lower(2)),
            (Some(&[]), None, None, Next::Wait),
            (None, Some(1), None, Next::Forget),
        ] {
            assert_eq!(next(members, declared, given), golden, "{members:?} {declared:?} {given:?}");
        }
    }
}
