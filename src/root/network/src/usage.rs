//! What each tenant has used of its volume this month, and which number its link has. The only facts that no kernel keeps.
//!
//! The kernel counts while the router lives, and forgets with a reboot. Each minute, and before this program ends, the counts are
//! added to the file. A count that is lower than the last one is that of a new router, and is added whole. So the sum is never
//! less than what was sent, but for the last minute before a loss of power.

use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::TenantName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

const FILE: &str = "usage.json";
/// The month of a tenant that was never counted.
const NEVER: u32 = 0;
/// The most bytes of the file: more than 65,536 tenants with the longest names need.
const MAX_FILE: usize = 32 << 20;

/// What is known of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Used {
    /// The number of its range of ids, after which its link is named.
    pub(crate) number: u32,
    /// The month that `bytes` counts: years since 0 times twelve, plus the months.
    month: u32,
    /// Bytes of both directions in that month, up to `counted`.
    bytes: u64,
    /// The kernel's count that was added last.
    counted: u64,
}

impl Used {
    /// Adds what the kernel has counted since the last time; returns how the count went on.
    ///
    /// A month that has begun goes on while a clock that was ahead says the month before. A clock that is further off is believed.
    fn add(&mut self, count: u64, month: u32) -> Counting {
        let (new, counting) = match count.checked_sub(self.counted) {
            Some(new) => (new, Counting::Forward),
            None => (count, Counting::Backward { before: self.counted, now: count }),
        };
        if self.month != month && self.month != month + 1 {
            (self.month, self.bytes) = (month, 0);
        }
        self.bytes = self.bytes.saturating_add(new);
        self.counted = count;
        counting
    }
}

/// How the kernel's count of a tenant has gone on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// As it should.
    Forward,
    /// It is lower than it was: the router is new, or somebody has set it back.
    Backward {
        /// The count that was added last.
        before: u64,
        /// The count of now.
        now: u64,
    },
}

/// All tenants that ever had a network, until their data is purged.
#[derive(Debug)]
pub(crate) struct Usage {
    dir: OwnedFd,
    tenants: BTreeMap<TenantName, Used>,
    /// The numbers of those for whom a month has begun, and whose volumes in the kernel are those of the last one.
    begun: BTreeSet<u32>,
    changed: bool,
}

impl Usage {
    /// Reads the file in a directory; a missing one is empty.
    pub(crate) fn open(dir: OwnedFd) -> io::Result<Self> {
        let tenants = match file::open_file_at(dir.as_fd(), FILE).and_then(|file| file::read_bounded(file, MAX_FILE)) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("\"{FILE}\": {error}")))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { dir, tenants, begun: BTreeSet::new(), changed: false })
    }

    /// The tenants with their numbers.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (&TenantName, u32)> {
        self.tenants.iter().map(|(tenant, used)| (tenant, used.number))
    }

    /// The number of a tenant.
    pub(crate) fn number(&self, tenant: &TenantName) -> Option<u32> {
        self.tenants.get(tenant).map(|used| used.number)
    }

    /// The tenant that has a number.
    pub(crate) fn tenant(&self, number: u32) -> Option<&TenantName> {
        self.numbers().find(|(_, other)| *other == number).map(|(name, _)| name)
    }

    /// Notes which number a tenant has, and writes that down before its jail is connected. A tenant with another number than before
    /// is another tenant of the same name: the data of the first was purged. It and whoever had the number are forgotten.
    ///
    /// Danger: what the kernel has counted for the number must be gone by then, or the tenant pays for another one.
    pub(crate) fn note(&mut self, tenant: &TenantName, number: u32) -> io::Result<()> {
        if self.number(tenant) == Some(number) {
            return Ok(());
        }
        self.tenants.retain(|_, used| used.number != number);
        self.tenants.insert(tenant.clone(), Used { number, ..Used::default() });
        self.changed = true;
        self.save()
    }

    /// Forgets a tenant, and writes that down.
    pub(crate) fn forget(&mut self, tenant: &TenantName) -> io::Result<()> {
        self.changed |= self.tenants.remove(tenant).is_some();
        self.save()
    }

    /// What a tenant has used this month, up to the last count, in bytes.
    pub(crate) fn used(&self, tenant: &TenantName) -> u64 {
        self.tenants.get(tenant).map_or(0, |used| used.bytes)
    }

    /// The directory of the file.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Adds what the kernel has counted for a tenant; returns how its count went on.
    pub(crate) fn add(&mut self, tenant: &TenantName, count: u64, month: u32) -> Counting {
        let Some(used) = self.tenants.get_mut(tenant) else { return Counting::Forward };
        let before = used.clone();
        let counting = used.add(count, month);
        // Whoever was never counted has used nothing of a month before.
        if used.month != before.month && before.month != NEVER {
            self.begun.insert(used.number);
        }
        self.changed |= *used != before;
        counting
    }

    /// The numbers of those for whom a month has begun.
    pub(crate) fn begun(&self) -> BTreeSet<u32> {
        self.begun.clone()
    }

    /// Their volumes in the kernel are those of the new month.
    pub(crate) fn have_begun(&mut self, numbers: &BTreeSet<u32>) {
        self.begun.retain(|number| !numbers.contains(number));
    }

    /// The kernel's counts of all tenants begin at zero: the router has lost them, or is a new one. This must be written down before
    /// they are made again, so that what is counted then is added whole.
    pub(crate) fn counts_begin_anew(&mut self) {
        for used in self.tenants.values_mut().filter(|used| used.counted != 0) {
            used.counted = 0;
            self.changed = true;
        }
    }

    /// Writes the file, if anything has changed.
    pub(crate) fn save(&mut self) -> io::Result<()> {
        if self.changed {
            let text = serde_json::to_vec(&self.tenants)?;
            file::replace_at(&self.dir, FILE, &text, 0o600, Outlives::PowerCut)?;
            self.changed = false;
        }
        Ok(())
    }
}

/// The month of a time, in UTC: years since 0 times twelve, plus the months since January.
pub(crate) fn month(time: SystemTime) -> u32 {
    let days = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() / 86_400;
    // The calendar repeats each 400 years of 146,097 days. Years begin in March here, so that a leap day is the last day.
    let from_march = days + 719_468;
    let (era, day) = (from_march / 146_097, from_march % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let months_from_march = (5 * day + 2) / 153;
    u32::try_from((era * 400 + year) * 12 + months_from_march + 2).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_new_router_and_a_new_month_lose_nothing() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let open = || Usage::open(file::open_dir(temp.path()).expect("opens")).expect("reads");
        let mut usage = open();
        let (alice, bob) = (name("alice"), name("bob"));
        let add = |usage: &mut Usage, tenant: &TenantName, count, month| {
            usage.add(tenant, count, month);
            usage.used(tenant)
        };
        usage.note(&alice, 3).expect("writes");
        assert_eq!(add(&mut usage, &alice, 100, 7), 100);
        assert_eq!(add(&mut usage, &alice, 150, 7), 150);
        usage.save().expect("writes");
        let mut usage = open();
        assert_eq!(add(&mut usage, &alice, 160, 7), 160, "the same router");
        assert_eq!(usage.add(&alice, 160, 7), Counting::Forward);
        assert_eq!(usage.add(&alice, 40, 7), Counting::Backward { before: 160, now: 40 });
        assert_eq!(usage.used(&alice), 200, "a new router has counted 40");
        assert_eq!(add(&mut usage, &alice, 45, 8), 5, "a new month");
        assert_eq!(add(&mut usage, &alice, 50, 7), 10, "the clock was ahead");
        assert_eq!(add(&mut usage, &alice, 60, 8), 20, "it is a month once");
        assert_eq!(add(&mut usage, &bob, 45, 8), 0, "nobody");
        assert_eq!(usage.tenant(3), Some(&alice));
        usage.note(&bob, 3).expect("writes");
        assert_eq!((usage.number(&alice), usage.number(&bob)), (None, Some(3)));
        assert_eq!(open().number(&bob), Some(3), "it is written down at once");
    }

    #[test]
    fn what_a_new_router_has_counted_before_anybody_looked_is_not_lost() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let open = || Usage::open(file::open_dir(temp.path()).expect("opens")).expect("reads");
        let mut usage = open();
        let alice = name("alice");
        usage.note(&alice, 3).expect("writes");
        usage.add(&alice, 100, 7);
        usage.counts_begin_anew();
        usage.save().expect("writes");
        let mut usage = open();
        usage.add(&alice, 500, 7);
        assert_eq!(usage.used(&alice), 600);
    }

    #[test]
    fn the_next_tenant_of_a_name_begins_at_zero() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let open = || Usage::open(file::open_dir(temp.path()).expect("opens")).expect("reads");
        let mut usage = open();
        let alice = name("alice");
        usage.note(&alice, 3).expect("writes");
        usage.add(&alice, 100, 7);
        usage.note(&alice, 3).expect("writes");
        assert_eq!(usage.used(&alice), 100, "another jail of the same tenant");
        usage.note(&alice, 4).expect("writes");
        assert_eq!(usage.used(&alice), 0, "it was purged, and made again");
        usage.add(&alice, 100, 7);
        usage.forget(&alice).expect("writes");
        assert_eq!((usage.used(&alice), usage.number(&alice), open().number(&alice)), (0, None, None));
        usage.note(&alice, 4).expect("the same number again");
        assert_eq!(usage.used(&alice), 0);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::write(temp.path().join(FILE), "{").expect("writes");
        let error = Usage::open(file::open_dir(temp.path()).expect("opens")).expect_err("damaged");
        assert!(error.to_string().contains(FILE), "{error}");
        assert_eq!(std::fs::read(temp.path().join(FILE)).expect("is there"), b"{");
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let at = |seconds| month(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        // date -u -d @SECONDS
        for (seconds, year, of_year) in [
            (0, 1970, 1),
            (2_678_399, 1970, 1),
            (2_678_400, 1970, 2),
            (951_782_400, 2000, 2),
            (951_868_799, 2000, 2),
            (951_868_800, 2000, 3),
            (1_798_761_599, 2026, 12),
            (1_798_761_600, 2027, 1),
            (4_107_542_400, 2100, 3),
        ] {
            assert_eq!(at(seconds), year * 12 + of_year - 1, "{seconds}");
        }
    }
}
