//! What all tenants together leave to the host: memory and tasks, whose bound the control group above all tenants' has, and disk
//! space.
//!
//! While less disk space is free than the reserve, every tenant's limit is what it uses. Which of the two is so is decided anew by each
//! warden, whatever an earlier one wrote, and written for one tenant after the other in slices.

use super::*;
use std::collections::VecDeque;

/// Between two looks. A host whose disks write more than the reserve in that time has chosen it too small.
const LOOK_TIME: Duration = Duration::from_secs(1);
/// How much is written in one turn of the loop.
const SLICE_TIME: Duration = Duration::from_millis(5);

/// How it stands.
#[derive(Debug, Default)]
pub(super) struct DiskReserve {
    /// Whether no tenant may take more; `None` before the first look.
    is_reached: Option<bool>,
    looked: Option<Instant>,
    /// Those for whom it is not written yet.
    left: VecDeque<(TenantName, IdRange)>,
    /// Of `bailiwick.toml` as it was read.
    read: Option<(i128, u64, u64)>,
    free: u64,
    /// Why that of memory or tasks is not in force.
    not_held: Option<String>,
}

impl DiskReserve {
    pub(super) fn is_reached(&self) -> bool {
        self.is_reached == Some(true)
    }

    /// Whether there is more to write now.
    pub(super) fn is_due(&self) -> bool {
        !self.left.is_empty()
    }
}

/// Whether less is free than is to be. Given back only with some room to spare, or it would come and go.
fn is_reached(was: Option<bool>, free: u64, reserve: u64) -> bool {
    let spare = if was == Some(true) { (reserve / 8).min(64 << 20) } else { 0 };
    free < reserve.saturating_add(spare)
}

/// The most that may be kept of a file system, or tenants would get nothing of it.
fn most(all: u64) -> u64 {
    all / 2
}

impl Warden {
    /// Looks at the free space, at most once a second, and at what `bailiwick.toml` reserves now.
    pub(super) fn check_reserve(&mut self) -> Option<WardenEvent> {
        self.write_reserve();
        if self.reserve.looked.is_some_and(|looked| looked.elapsed() < LOOK_TIME) {
            return None;
        }
        self.reserve.looked = Some(Instant::now());
        self.read_reserve();
        if !self.facts.storage.quota.bounds_anything() {
            return None;
        }
        let free = self.storage.free().ok()?;
        self.reserve.free = free;
        let was = self.reserve.is_reached;
        // One that is refused is not in force.
        let reached = self.usable_reserve().is_some_and(|reserve| is_reached(was, free, reserve));
        if was == Some(reached) {
            return None;
        }
        self.reserve.is_reached = Some(reached);
        self.reserve.left = self.ledger.tenants().map(|(name, ids)| (name.clone(), ids)).collect();
        self.write_reserve();
        // A warden that begins and finds room has nothing to tell.
        let is_news = reached || was.is_some();
        is_news.then_some(WardenEvent::Reserve { reached: if reached { Reached::Yes } else { Reached::NoLonger } })
    }

    /// Reads it anew when the file has changed. A file with errors changes nothing.
    fn read_reserve(&mut self) {
        let file = file::open_dir(&self.config).and_then(|dir| file::metadata_at(dir, "bailiwick.toml")).ok();
        let now = file.map(|metadata| (metadata.modified, metadata.inode, metadata.size));
        if now != self.reserve.read {
            self.reserve.read = now;
            if let Ok((host, _)) = self.policy.host() {
                self.host.reserve = host.reserve;
                self.host.etc = host.etc;
                let held = self.groups.reserve(&self.facts, &self.host.reserve);
                self.reserve.not_held = held.err().map(|error| Failure::new(ExitStatus::Failed, &error).message);
            }
        }
    }

    /// Writes for some tenants what is so now.
    fn write_reserve(&mut self) {
        let until = Instant::now() + SLICE_TIME;
        while Instant::now() < until
            && let Some((name, ids)) = self.reserve.left.pop_front()
        {
            if self.reserve.is_reached() {
                self.clamp_again(&name, ids);
            } else if let Ok((_, Some(tenant))) = self.policy.tenant(&name) {
                let plan = DiskPlan::new(&tenant.settings.limits, &self.facts);
                // One that fails stays held back, which the audit shows as drift.
                drop(self.storage.bound(&name, ids.first, &plan, &self.facts.storage.quota));
            }
        }
    }

    /// The reserve in bytes, if it leaves tenants at least half of the file system.
    pub(super) fn usable_reserve(&self) -> Option<u64> {
        let reserve = self.host.reserve.disk.0;
        (reserve <= most(self.storage.size().unwrap_or(u64::MAX))).then_some(reserve)
    }

    /// What is told of it everywhere: that it is reached, or that it cannot be.
    pub(super) fn reserve_problem(&self) -> Option<String> {
        if let Some(why) = &self.reserve.not_held {
            return Some(why.clone());
        }
        let (free, reserve) = (ByteSize(self.reserve.free), self.host.reserve.disk);
        if self.usable_reserve().is_none() {
            let all = self.storage.size().unwrap_or(u64::MAX);
            let (dir, all, most) = (self.host.state_dir.display(), ByteSize(all), ByteSize(most(all)));
            return Some(format!(
                "`reserve` in bailiwick.toml keeps {reserve} of disk space for the host, and the file system of \"{dir}\" has {all}. Nothing is kept, because at most half of it, {most}, can be: lower it"
            ));
        }
        self.reserve.is_reached().then(|| {
            format!(
                "no tenant can take more disk space: {free} are free, and `reserve` in bailiwick.toml keeps {reserve} for the host; free some, or lower it"
            )
        })
    }

    pub(super) fn clamp_again(&self, name: &TenantName, ids: IdRange) {
        if self.reserve.is_reached() {
            // A tenant that cannot be held back now is tried again when its limits are written.
            drop(self.storage.clamp_quota(name, ids.first, &self.facts.storage.quota));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_only_with_room_to_spare() {
        const MIB: u64 = 1 << 20;
        for (was, free, reserve, golden) in [
            (None, 100 * MIB, 100 * MIB, false),
            (None, 100 * MIB - 1, 100 * MIB, true),
            (Some(false), 100 * MIB, 100 * MIB, false),
            (Some(true), 112 * MIB, 100 * MIB, true),
            (Some(true), 113 * MIB, 100 * MIB, false),
            (Some(true), 0, 0, false),
            (Some(true), u64::MAX - 1, u64::MAX, true),
        ] {
            assert_eq!(is_reached(was, free, reserve), golden, "{was:?} {free} {reserve}");
        }
    }
}
