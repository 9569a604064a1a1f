//! What comparisons have found: differences between the kernel and what should be there, remembered for a day.
//!
//! A difference is put right when it is found. So without a memory the daily audit would never see one. The memory is a file, because
//! whoever breaks the router's rules may also make this program start anew.

use bailiwick_proto::net::NetProblem;
use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::TenantName;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

/// The file of the memory.
const FILE: &str = "found.json";
/// The most bytes of it: [`MOST`] differences with long texts.
const MAX_FILE: usize = 4 << 20;

/// How long a difference is told: the time between two daily audits, and some more.
const TOLD: Duration = Duration::from_secs(26 * 3600);
/// The most that are remembered.
const MOST: usize = 256;

/// The finding of the cache of names.
pub(super) const CACHE: &str = "BW138";

/// A difference between the kernel and what should be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Difference {
    /// The id of its finding.
    finding: String,
    /// The tenant that it concerns; `None` for all.
    tenant: Option<TenantName>,
    /// What it is.
    pub(super) text: String,
}

impl Difference {
    /// The rules that all tenants have in common.
    pub(super) fn of_rules(text: String) -> Self {
        Self { finding: "BW122".to_owned(), tenant: None, text }
    }

    /// Elements of sets.
    pub(super) fn of_elements(tenant: Option<TenantName>, text: String) -> Self {
        Self { finding: "BW123".to_owned(), tenant, text }
    }

    /// The link of a tenant.
    pub(super) fn of_link(tenant: TenantName, text: String) -> Self {
        Self { finding: "BW121".to_owned(), tenant: Some(tenant), text }
    }

    /// Something is missing between the router and the host, so that no packet passes.
    pub(super) fn of_uplink(text: String) -> Self {
        Self { finding: "BW124".to_owned(), tenant: None, text }
    }

    /// A route or a rule leads packets out that the rules did not let through.
    pub(super) fn of_routes(text: String) -> Self {
        Self { finding: "BW125".to_owned(), tenant: None, text }
    }

    /// The link to the cache of names is not as it was made.
    pub(super) fn of_cache(text: String) -> Self {
        Self { finding: CACHE.to_owned(), tenant: None, text }
    }

    /// A count of a tenant is lower than it was.
    pub(super) fn backward(tenant: TenantName, before: u64, now: u64) -> Self {
        let text = format!("the count of its traffic went from {before} bytes back to {now}");
        Self { finding: "BW126".to_owned(), tenant: Some(tenant), text }
    }
}

/// A difference, and how often it was found.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    difference: Difference,
    times: u32,
    last: SystemTime,
}

/// The differences of the last day.
#[derive(Debug, Default)]
pub(super) struct Found {
    seen: Vec<Seen>,
    /// Whether the file says less.
    is_changed: bool,
}

impl Found {
    /// Reads the file in a directory. A missing one is empty, and so is a damaged one: that is a difference.
    pub(super) fn open(dir: BorrowedFd<'_>) -> Self {
        let read = file::open_file_at(dir, FILE).and_then(|file| file::read_bounded(file, MAX_FILE));
        let read = read.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
        let mut found = Self::default();
        match read {
            Ok(seen) => found.seen = seen,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let text = format!("what was found before is not known any more: \"{FILE}\": {error}");
                found.note(vec![Difference::of_rules(text)], SystemTime::now());
            }
        }
        found
    }

    /// Writes the file, if there is something new. It is tried again with the next look.
    pub(super) fn save(&mut self, dir: impl AsFd) -> io::Result<()> {
        if self.is_changed {
            file::replace_at(dir, FILE, &serde_json::to_vec(&self.seen)?, 0o600, Outlives::Process)?;
            self.is_changed = false;
        }
        Ok(())
    }

    /// Remembers differences that were found now. When there are too many, the first ones stay.
    pub(super) fn note(&mut self, differences: Vec<Difference>, now: SystemTime) {
        self.seen.retain(|seen| now.duration_since(seen.last).unwrap_or_default() < TOLD);
        for difference in differences {
            self.is_changed = true;
            if let Some(seen) = self.seen.iter_mut().find(|seen| seen.difference == difference) {
                (seen.times, seen.last) = (seen.times.saturating_add(1), now);
            } else if self.seen.len() < MOST {
                self.seen.push(Seen { difference, times: 1, last: now });
            }
        }
    }

    /// What is told of them.
    pub(super) fn problems(&self, now: SystemTime) -> Vec<NetProblem> {
        let mut all = Vec::new();
        for Seen { difference: Difference { finding, tenant, text }, times, last } in &self.seen {
            let age = now.duration_since(*last).unwrap_or_default();
            if age < TOLD {
                let often = if *times == 1 { String::new() } else { format!("{times} times, ") };
                let text = format!("{text} ({often}{} minutes ago)", age.as_secs() / 60);
                all.push(NetProblem { finding: finding.clone(), tenant: tenant.clone(), text });
            }
        }
        all
    }

    /// Forgets what concerns a tenant alone.
    pub(super) fn forget(&mut self, tenant: &TenantName) {
        self.is_changed = true;
        self.seen.retain(|seen| seen.difference.tenant.as_ref() != Some(tenant));
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
    fn the_memory_outlives_the_program() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = file::open_dir(temp.path()).expect("opens");
        let now = SystemTime::now();
        let mut found = Found::open(dir.as_fd());
        assert!(found.problems(now).is_empty());
        found.note(vec![Difference::of_uplink("the table was missing".to_owned())], now);
        found.save(&dir).expect("writes");
        let told = found.problems(now);
        assert_eq!((told.len(), &Found::open(dir.as_fd()).problems(now)), (1, &told));
        std::fs::write(temp.path().join(FILE), "[{").expect("writes");
        let told = Found::open(dir.as_fd()).problems(SystemTime::now());
        assert!(told.len() == 1 && told[0].text.contains(FILE), "{told:?}");
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut found = Found::default();
        let many = (0..2 * MOST).map(|number| Difference::of_uplink(number.to_string())).collect();
        found.note(many, SystemTime::UNIX_EPOCH);
        assert_eq!(found.problems(SystemTime::UNIX_EPOCH).len(), MOST);
    }
}
