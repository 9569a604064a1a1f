//! How many messages a tenant may send within any hour: the times of the last ones, in a file of the warden, so that a new server
//! knows them too.
//!
//! The file is a set of times in no order. A time that is over an hour old is a free place. A message is one write of eight bytes
//! into a free place, or behind the last one: whatever is killed when, no other time is lost.

use rustix::fs::FlockOperation;
use rustix::io::{pread, pwrite};
use rustix::time::ClockId;
use std::io;
use std::os::fd::OwnedFd;

/// In milliseconds.
const HOUR: u64 = 3_600_000;
const ENTRY: usize = size_of::<u64>();
/// The most times that are read: no tenant may send more within an hour.
const MOST: usize = 10_000;

/// The times of the last messages.
#[derive(Debug)]
pub struct Rate {
    file: OwnedFd,
    most: usize,
}

/// The present, in milliseconds since the boot, as the file is forgotten then. Nobody can set this clock.
#[must_use]
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::Boottime);
    let number = |part: i64| u64::try_from(part).unwrap_or(0);
    number(time.tv_sec) * 1000 + number(time.tv_nsec) / 1_000_000
}

impl Rate {
    /// At most `most` messages, by the times in `file`.
    #[must_use]
    pub const fn new(file: OwnedFd, most: usize) -> Self {
        Self { file, most }
    }

    /// Takes the place of a message. When there is none, returns in how many milliseconds there is one.
    ///
    /// # Errors
    /// The file cannot be read or written. The place is not taken then.
    pub fn take(&mut self, now: u64) -> io::Result<Result<(), u64>> {
        // A server that is about to end may count too.
        rustix::fs::flock(&self.file, FlockOperation::LockExclusive)?;
        let taken = self.take_alone(now);
        rustix::fs::flock(&self.file, FlockOperation::Unlock)?;
        taken
    }

    fn take_alone(&self, now: u64) -> io::Result<Result<(), u64>> {
        let times = self.read()?;
        let counts = |time: &u64| now.checked_sub(*time).is_some_and(|age| age < HOUR);
        let mut latest: Vec<u64> = times.iter().copied().filter(counts).collect();
        if latest.len() >= self.most {
            // The places of the latest `most` messages: a lower limit counts them too.
            latest.sort_unstable();
            let frees = latest[latest.len() - self.most] + HOUR;
            return Ok(Err(frees.saturating_sub(now).max(1)));
        }
        let place = times.iter().position(|time| !counts(time)).unwrap_or(times.len());
        let written = pwrite(&self.file, &now.to_le_bytes(), (place * ENTRY) as u64)?;
        if written == ENTRY { Ok(Ok(())) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn read(&self) -> io::Result<Vec<u64>> {
        let most = self.most.max(MOST) * ENTRY;
        let len = usize::try_from(rustix::fs::fstat(&self.file)?.st_size).unwrap_or(0).min(most);
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            match pread(&self.file, &mut bytes[done..], done as u64)? {
                0 => break,
                more => done += more,
            }
        }
        let times = bytes[..done].chunks_exact(ENTRY);
        Ok(times.map(|time| u64::from_le_bytes(time.try_into().expect("of this length"))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1000;

    fn rate(file: &std::fs::File, most: usize) -> Rate {
        Rate::new(file.try_clone().expect("a descriptor").into(), most)
    }

    /// Takes a place at a second.
    fn take(file: &std::fs::File, most: usize, second: u64) -> Result<(), u64> {
        rate(file, most).take(second * SECOND).expect("works")
    }

    #[test]
    fn within_any_hour_there_are_no_more_and_a_new_server_knows_them() {
        let file = tempfile::tempfile().expect("a file");
        let mut times = Vec::new();
        for now in (0..20_000).step_by(100) {
            // Another process each time.
            match take(&file, 5, now) {
                Ok(()) => times.push(now),
                Err(wait) => assert!(wait <= HOUR, "{wait}"),
            }
        }
        for window in times.windows(6) {
            assert!(window[5] - window[0] >= 3600, "{window:?}");
        }
        assert_eq!(times.len(), 5 * 20_000_usize.div_ceil(3600));
        assert_eq!(file.metadata().expect("is there").len(), 5 * 8, "old times make room");
    }

    #[test]
    fn the_wait_is_told() {
        let file = tempfile::tempfile().expect("a file");
        assert_eq!((take(&file, 2, 1000), take(&file, 2, 1500)), (Ok(()), Ok(())));
        assert_eq!(take(&file, 2, 2000), Err(2600 * SECOND));
        assert_eq!(take(&file, 2, 4600), Ok(()));
        assert_eq!(take(&file, 2, 4600), Err(500 * SECOND));
        assert_eq!(take(&file, 2, 100_000), Ok(()));
        assert_eq!(take(&file, 2, 50), Ok(()), "a time that is to come is damage, and blocks nobody");
    }

    #[test]
    fn a_lower_limit_counts_the_latest_messages() {
        let file = tempfile::tempfile().expect("a file");
        let before = [0, 10, 20, 3000, 3010, 3020, 3030];
        assert!(before.iter().all(|now| take(&file, 100, *now) == Ok(())));
        // The first three do not count any more, and the last four are more than enough.
        assert!(take(&file, 2, 3700).is_err());
        assert!(take(&file, 2, 6619).is_err());
        assert_eq!(take(&file, 2, 6620), Ok(()));
    }

    #[test]
    fn a_message_changes_no_time_of_another_one() {
        let file = tempfile::tempfile().expect("a file");
        let read = || {
            let mut bytes = vec![0; usize::try_from(file.metadata().expect("is there").len()).expect("small")];
            pread(&file, &mut bytes, 0).expect("reads");
            bytes
        };
        for now in 0..500 {
            let before = read();
            assert_eq!(take(&file, 1000, now), Ok(()));
            assert!(read().starts_with(&before), "a kill in the middle of this loses no time");
        }
        // Half of a time, behind the last one, is no time.
        pwrite(&file, &[1, 2, 3], 500 * 8).expect("writes");
        assert!(take(&file, 500, 500).is_err());
        assert_eq!(take(&file, 501, 500), Ok(()));
        assert_eq!(file.metadata().expect("is there").len(), 501 * 8);
    }

    #[test]
    fn two_servers_count_each_message_once() {
        let temp = tempfile::NamedTempFile::new().expect("a file");
        // Each with its own file, as the warden opens it.
        let server = || {
            let file = std::fs::File::options().read(true).write(true).open(temp.path()).expect("opens");
            (0..100).filter(|_| take(&file, 150, 1) == Ok(())).count()
        };
        let sent: usize = std::thread::scope(|scope| {
            let both = [scope.spawn(server), scope.spawn(server)];
            both.into_iter().map(|one| one.join().expect("ends")).sum()
        });
        assert_eq!(sent, 150);
    }

    #[test]
    fn a_file_that_is_damaged_is_no_reason_to_read_without_end() {
        let file = tempfile::tempfile().expect("a file");
        pwrite(&file, &[0xff; 20], 0).expect("writes");
        file.set_len(1 << 40).expect("sets");
        assert_eq!(take(&file, 3, 5000), Ok(()));
        assert!(take(&file, 1, 5001).is_err());
    }
}
