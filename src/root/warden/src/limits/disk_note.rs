//! Why a tenant may use more than its hard limit: the limit was lowered below its use. A tenant above its limit for
//! any other reason has written while nothing enforced the limit.
//!
//! Danger: no limit depends on this, but a finding of the audit does. A wrong note either hides that a limit was not
//! enforced, or alarms an operator who lowered a limit on purpose.

use bailiwick_plan::disk::DiskPlan;
use bailiwick_types::{DiskFact, QuotaFact};
use serde::{Deserialize, Serialize};

/// What was last written for a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskNote {
    bytes: Noted,
    inodes: Noted,
}

/// What was last written for one of its quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    /// `None` is no limit.
    hard: Option<u64>,
    /// The use when the limit was lowered below it; 0 if it was not.
    lowered_at: u64,
}

impl DiskNote {
    /// The note after a plan's limits were written. `before` is the kernel's state until then, `now` its state since.
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

    /// The note after a look at the use. Once a tenant is below its limit, the past explains nothing more.
    pub(crate) fn after_look(self, now: &DiskFact) -> Self {
        Self {
            bytes: self.bytes.after_look(now.bytes.used),
            inodes: self.inodes.after_look(now.inodes.map_or(0, |inodes| inodes.used)),
        }
    }

    /// Adds the note to what the kernel reports.
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
            // An earlier version wrote no note. If the kernel enforced no limit either, quotas were off.
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
    fn only_a_lowered_limit_explains_a_use_above_it() {
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
