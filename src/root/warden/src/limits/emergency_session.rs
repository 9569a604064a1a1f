//! The reserve for rescue sessions: given to a tenant at a limit for one session at a time, and taken back.
//!
//! Danger: what is given is above the tenant's limits, and moving a process between groups makes every fork of the host wait for
//! some milliseconds. So it is given one after another, not often to the same tenant, and what was given is known from the kernel: a
//! warden that comes back finds the groups.

use crate::limits::cgroups::Groups;
use crate::limits::tenant_groups::GroupError;
use bailiwick_plan::control::Control;
use bailiwick_plan::rescue;
use bailiwick_types::TenantName;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two that are given to the same tenant, and between two of whomever.
const SAME_TIME: Duration = Duration::from_secs(5);
const ANY_TIME: Duration = Duration::from_millis(250);
/// How long init may stay where it was put, should nobody say that it has forked.
const AWAY_TIME: Duration = Duration::from_secs(5);
/// Between two looks at who is in.
const LOOK_TIME: Duration = Duration::from_millis(500);

/// Why it is not given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmergencyError {
    /// Somebody has it.
    #[error("the reserve of \"{0}\" for a rescue session is in use")]
    InUse(TenantName),
    /// It was given a moment ago.
    #[error("the reserve for a rescue session was given a moment ago; try again in a few seconds")]
    TooSoon,
    /// Its groups.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// One that is given.
#[derive(Debug)]
struct Given {
    since: Instant,
    /// Whether init is back in the jail's group.
    is_back: bool,
    /// The limits that it raised, as they were declared; those of an earlier warden's are not known.
    controls: Option<Vec<Control>>,
    /// Whether it was said that it cannot be taken back.
    is_told: bool,
}

impl Given {
    fn new(since: Instant, is_back: bool, controls: Option<Vec<Control>>) -> Self {
        Self { since, is_back, controls, is_told: false }
    }
}

/// How often it is given.
#[derive(Debug, Default)]
struct Pace {
    /// When each tenant had its last.
    last: BTreeMap<TenantName, Instant>,
}

impl Pace {
    /// Whether a tenant may have it now, which is then its last.
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

/// Those that are given.
#[derive(Debug, Default)]
pub(crate) struct EmergencySessions {
    given: BTreeMap<TenantName, Given>,
    pace: Pace,
    /// When they were looked at.
    looked: Option<Instant>,
}

impl EmergencySessions {
    /// Takes up one that an earlier warden gave.
    pub(crate) fn found(&mut self, groups: &Groups, tenant: &TenantName) -> Result<(), GroupError> {
        if groups.in_rescue(tenant)?.is_some() {
            // As if its time were over: init goes back at the first look.
            let since = Instant::now().checked_sub(AWAY_TIME).unwrap_or_else(Instant::now);
            self.given.insert(tenant.clone(), Given::new(since, false, None));
        }
        Ok(())
    }

    /// Gives it: init is in its group from then on. `init` is held by the caller.
    pub(crate) fn give(
        &mut self,
        groups: &Groups,
        tenant: &TenantName,
        controls: Vec<Control>,
        init: u32,
    ) -> Result<(), EmergencyError> {
        if let Some(given) = self.given.get(tenant) {
            // Asked for twice because the answer was lost.
            return if given.is_back { Err(EmergencyError::InUse(tenant.clone())) } else { Ok(()) };
        }
        let now = Instant::now();
        if !self.pace.allows(tenant, now) {
            return Err(EmergencyError::TooSoon);
        }
        // Known before it is begun: what fails on the way is taken back like all else.
        self.given.insert(tenant.clone(), Given::new(now, true, Some(controls.clone())));
        groups.make_rescue(tenant)?;
        raise(groups, tenant, &controls, false)?;
        groups.move_init(tenant, init, true)?;
        self.given.entry(tenant.clone()).and_modify(|given| given.is_back = false);
        Ok(())
    }

    /// Writes limits that are declared, with the reserve where it is given.
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

    /// Init has forked what it was to fork.
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

    /// Those at which the warden should look now: init is away for too long, or nobody may be in any more.
    pub(crate) fn due(&mut self) -> Vec<TenantName> {
        if self.given.is_empty() || self.looked.is_some_and(|looked| looked.elapsed() < LOOK_TIME) {
            return Vec::new();
        }
        self.looked = Some(Instant::now());
        let is_due = |given: &Given| given.is_back || given.since.elapsed() >= AWAY_TIME;
        self.given.iter().filter(|(_, given)| is_due(given)).map(|(tenant, _)| tenant.clone()).collect()
    }

    /// Takes it back when nobody is in. `declared` are the limits as they are in the policy, if that can be read.
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
                // Without either, its file has errors since before this warden: then it waits until they are mended.
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

    /// Whether this is the first time that it cannot be taken back.
    pub(crate) fn is_news(&mut self, tenant: &TenantName) -> bool {
        self.given.get_mut(tenant).is_some_and(|given| !std::mem::replace(&mut given.is_told, true))
    }

    /// Its jail is gone, and with it the groups.
    pub(crate) fn forget(&mut self, tenant: &TenantName) {
        self.given.remove(tenant);
    }
}

/// The limits while it is given.
fn raise(groups: &Groups, tenant: &TenantName, controls: &[Control], init_is_in: bool) -> Result<(), GroupError> {
    // First that of the jail, so that it gets nothing of what is added.
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
            // Who is refused is not put off for that.
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
