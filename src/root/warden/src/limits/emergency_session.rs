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
    #[error("the reserve of \"{0}\" for a rescue session is in use")]
    InUse(TenantName),
    #[error("the reserve for a rescue session was given a moment ago; try again in a few seconds")]
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
    is_told: bool,
}

impl Given {
    fn new(since: Instant, is_back: bool, controls: Option<Vec<Control>>) -> Self {
        Self { since, is_back, controls, is_told: false }
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
    pub(crate) fn found(&mut self, groups: &Groups, tenant: &TenantName) -> Result<(), GroupError> {
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
        if let Some(given) = self.given.get(tenant) {
            // The answer to an earlier request was lost.
            return if given.is_back { Err(EmergencyError::InUse(tenant.clone())) } else { Ok(()) };
        }
        let now = Instant::now();
        if !self.pace.allows(tenant, now) {
            return Err(EmergencyError::TooSoon);
        }
        // Noted before it begins, so a failure on the way is taken back like everything else.
        self.given.insert(tenant.clone(), Given::new(now, true, Some(controls.clone())));
        groups.make_rescue(tenant)?;
        raise(groups, tenant, &controls, false)?;
        groups.move_init(tenant, init, true)?;
        self.given.entry(tenant.clone()).and_modify(|given| given.is_back = false);
        Ok(())
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
        match groups.in_rescue(tenant)? {
            Some(pids) if !pids.is_empty() => return Ok(()),
            Some(_) => {
                // The policy has had errors since before this warden: wait until they are corrected.
                let Some(controls) = declared.as_ref().or(given.controls.as_ref()) else { return Ok(()) };
                groups.of(tenant)?.limit(controls)?;
                if !groups.remove_rescue(tenant)? {
                    return Ok(());
                }
            }
            None => {}
        }
        self.given.remove(tenant);
        Ok(())
    }

    /// Whether this is the first failure to take it back.
    pub(crate) fn is_news(&mut self, tenant: &TenantName) -> bool {
        self.given.get_mut(tenant).is_some_and(|given| !std::mem::replace(&mut given.is_told, true))
    }

    /// The jail is gone, with its groups.
    pub(crate) fn forget(&mut self, tenant: &TenantName) {
        self.given.remove(tenant);
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
    fn nobody_has_it_often_and_no_two_at_once() {
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
}
