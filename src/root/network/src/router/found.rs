//! What comparisons have found: differences between the kernel and what should be there, remembered for a day.
//!
//! A difference is put right when it is found. So without a memory the daily audit would never see one.

use bailiwick_proto::net::NetProblem;
use bailiwick_types::TenantName;
use std::time::{Duration, SystemTime};

/// How long a difference is told: the time between two daily audits, and some more.
const TOLD: Duration = Duration::from_secs(26 * 3600);
/// The most that are remembered.
const MOST: usize = 256;

/// The finding of the cache of names.
pub(super) const CACHE: &str = "BW138";

/// A difference between the kernel and what should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// The id of its finding.
    finding: &'static str,
    /// The tenant that it concerns; `None` for all.
    tenant: Option<TenantName>,
    /// What it is.
    pub(super) text: String,
}

impl Difference {
    /// The rules that all tenants have in common.
    pub(super) fn of_rules(text: String) -> Self {
        Self { finding: "BW122", tenant: None, text }
    }

    /// Elements of sets.
    pub(super) fn of_elements(tenant: Option<TenantName>, text: String) -> Self {
        Self { finding: "BW123", tenant, text }
    }

    /// The link of a tenant.
    pub(super) fn of_link(tenant: TenantName, text: String) -> Self {
        Self { finding: "BW121", tenant: Some(tenant), text }
    }

    /// Something is missing between the router and the host, so that no packet passes.
    pub(super) fn of_uplink(text: String) -> Self {
        Self { finding: "BW124", tenant: None, text }
    }

    /// A route or a rule leads packets out that the rules did not let through.
    pub(super) fn of_routes(text: String) -> Self {
        Self { finding: "BW125", tenant: None, text }
    }

    /// The link to the cache of names is not as it was made.
    pub(super) fn of_cache(text: String) -> Self {
        Self { finding: CACHE, tenant: None, text }
    }

    /// A count of a tenant is lower than it was.
    pub(super) fn backward(tenant: TenantName, before: u64, now: u64) -> Self {
        let text = format!("the count of its traffic went from {before} bytes back to {now}");
        Self { finding: "BW126", tenant: Some(tenant), text }
    }
}

/// A difference, and how often it was found.
#[derive(Debug)]
struct Seen {
    difference: Difference,
    times: u32,
    last: SystemTime,
}

/// The differences of the last day.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<Seen>);

impl Found {
    /// Remembers differences that were found now. When there are too many, the first ones stay.
    pub(super) fn note(&mut self, differences: Vec<Difference>, now: SystemTime) {
        self.0.retain(|seen| now.duration_since(seen.last).unwrap_or_default() < TOLD);
        for difference in differences {
            if let Some(seen) = self.0.iter_mut().find(|seen| seen.difference == difference) {
                (seen.times, seen.last) = (seen.times.saturating_add(1), now);
            } else if self.0.len() < MOST {
                self.0.push(Seen { difference, times: 1, last: now });
            }
        }
    }

    /// What is told of them.
    pub(super) fn problems(&self, now: SystemTime) -> Vec<NetProblem> {
        let mut all = Vec::new();
        for Seen { difference: Difference { finding, tenant, text }, times, last } in &self.0 {
            let age = now.duration_since(*last).unwrap_or_default();
            if age < TOLD {
                let often = if *times == 1 { String::new() } else { format!("{times} times, ") };
                let text = format!("{text} ({often}{} minutes ago)", age.as_secs() / 60);
                all.push(NetProblem { finding: (*finding).to_owned(), tenant: tenant.clone(), text });
            }
        }
        all
    }

    /// Forgets what concerns a tenant alone.
    pub(super) fn forget(&mut self, tenant: &TenantName) {
        self.0.retain(|seen| seen.difference.tenant.as_ref() != Some(tenant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_that_was_put_right_is_told_for_a_day() {
        let begin = SystemTime::UNIX_EPOCH;
        let minutes = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        let rules = || Difference::of_rules("the router had no rules".to_owned());
        let mut found = Found::default();
        found.note(vec![rules()], begin);
        let alice: TenantName = "alice".parse().expect("a name");
        found.note(vec![rules(), Difference::backward(alice.clone(), 5, 3)], minutes(10));
        let texts = |found: &Found, now| -> Vec<String> {
            let problems = found.problems(now).into_iter();
            problems.map(|problem| format!("{} {}", problem.finding, problem.text)).collect()
        };
        let both = [
            "BW122 the router had no rules (2 times, 90 minutes ago)",
            "BW126 the count of its traffic went from 5 bytes back to 3 (90 minutes ago)",
        ];
        assert_eq!(texts(&found, minutes(100)), both);
        assert_eq!(texts(&found, begin + TOLD + Duration::from_secs(601)), [""; 0]);
        found.forget(&alice);
        assert_eq!(texts(&found, minutes(100)), both[..1]);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut found = Found::default();
        let many = (0..2 * MOST).map(|number| Difference::of_uplink(number.to_string())).collect();
        found.note(many, SystemTime::UNIX_EPOCH);
        assert_eq!(found.problems(SystemTime::UNIX_EPOCH).len(), MOST);
    }
}
