//! Why a tenant may use more than its hard limit: the limit was lowered below what was in use. Whoever is above its limit for any
//! other reason has written while nothing held it.
//!
//! Danger: no limit rests on this, a finding of the audit does. A note that is wrong in one direction hides that a limit did not
//! hold; in the other it alarms an operator who lowered a limit on purpose.

use bailiwick_plan::disk::DiskPlan;
use bailiwick_types::{DiskFact, QuotaFact};
use serde::{Deserialize, Serialize};

/// What was last written for one tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskNote {
    bytes: Noted,
    inodes: Noted,
}

/// The same of one quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    /// The hard limit; `None` is no limit.
    hard: Option<u64>,
    /// What was in use when it was lowered below that; 0 when it was not.
    lowered_at: u64,
}

impl DiskNote {
    /// The note after the limits of a plan were written. `before` is what the kernel had until then, `now` what it has.
    pub(crate) fn after_write(noted: Option<Self>, plan: &DiskPlan, before: Option<&DiskFact>, now: &DiskFact) -> Self {
        let inodes_now = now.inodes.map_or(0, |inodes| inodes.used);
        let inodes_before = before.and_then(|fact| fact.inodes.as_ref());
        Self {
            bytes: Noted::after_write(
                noted.map(|noted| noted.bytes),
                plan.bytes.map(|pair| pair.hard),
                before.map(|fact| &fact.bytes),
                now.bytes.used,
            ),
            inodes: Noted::after_write(
                noted.map(|noted| noted.inodes),
                plan.inodes.map(|pair| pair.hard),
                inodes_before,
                inodes_now,
            ),
        }
    }

    /// The note after a look at what is in use: who is below its limit again is not explained by the past any more.
    pub(crate) fn after_look(self, now: &DiskFact) -> Self {
        Self {
            bytes: self.bytes.after_look(now.bytes.used),
            inodes: self.inodes.after_look(now.inodes.map_or(0, |inodes| inodes.used)),
        }
    }

    /// Adds what is noted to what the kernel says.
    pub(crate) fn explain(self, fact: &mut DiskFact) {
        fact.bytes.lowered_at = Some(self.bytes.lowered_at);
        if let Some(inodes) = &mut fact.inodes {
            inodes.lowered_at = Some(self.inodes.lowered_at);
        }
    }
}

impl Noted {
    fn after_write(noted: Option<Self>, hard: Option<u64>, before: Option<&QuotaFact>, used: u64) -> Self {
        let is_over = hard.is_some_and(|hard| used > hard);
        let lowered_at = match noted {
            _ if !is_over => 0,
            // Lowered, or limited for the first time.
            Some(noted) if noted.hard.is_none_or(|was| hard.is_some_and(|hard| hard < was)) => used,
            Some(noted) => noted.lowered_at,
            // An earlier version wrote none. Where the kernel held no limit either, quotas were off.
            None if before.is_none_or(|before| before.hard.is_none()) => 0,
            None => used,
        };
        Self { hard, lowered_at }
    }

    fn after_look(self, used: u64) -> Self {
        let is_over = self.hard.is_some_and(|hard| used > hard);
        Self { lowered_at: if is_over { self.lowered_at } else { 0 }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_that_was_lowered_explains_more_than_it_allows() {
        let quota = |hard| QuotaFact { used: 0, soft: hard, hard, grace_until: None, lowered_at: None };
        let noted = |hard, lowered_at| Some(Noted { hard, lowered_at });
        for (name, before, kernel, hard, used, golden) in [
            ("a new tenant", None, None, Some(50), 1, 0),
            ("lowered", noted(Some(100), 0), Some(100), Some(50), 80, 80),
            ("limited for the first time", noted(None, 0), None, Some(50), 80, 80),
            ("written again", noted(Some(50), 80), Some(50), Some(50), 80, 80),
            ("raised, and still below", noted(Some(50), 80), Some(50), Some(60), 80, 80),
            ("raised far enough", noted(Some(50), 80), Some(50), Some(90), 80, 0),
            ("quotas were off for a while", noted(Some(50), 0), None, Some(50), 104, 0),
            ("quotas were always off", None, None, Some(50), 104, 0),
            ("noted by nobody, held by the kernel", None, Some(50), Some(50), 80, 80),
            ("no limit", noted(Some(50), 80), Some(50), None, 80, 0),
        ] {
            let after = Noted::after_write(before, hard, kernel.map(|hard| quota(Some(hard))).as_ref(), used);
            assert_eq!(after, Noted { hard, lowered_at: golden }, "{name}");
        }
        let lowered = Noted { hard: Some(50), lowered_at: 80 };
        assert_eq!(lowered.after_look(60), lowered);
        assert_eq!(lowered.after_look(50).lowered_at, 0, "what is written after this is written past the limit");
    }
}
