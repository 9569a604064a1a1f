//! How many messages a tenant may send within any hour: the times of the last ones, in a file of the warden, so that a new server
//! knows them too.

use rustix::io::{pread, pwrite};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// In seconds.
const HOUR: u64 = 3600;
const ENTRY: usize = size_of::<u64>();

/// The times of the last messages.
#[derive(Debug)]
pub struct Rate {
    file: OwnedFd,
    most: usize,
}

/// The present, in seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Rate {
    /// At most `most` messages, by the times in `file`.
    #[must_use]
    pub const fn new(file: OwnedFd, most: usize) -> Self {
        Self { file, most }
    }

    /// Takes the place of a message. When there is none, returns in how many seconds there is one.
    ///
    /// # Errors
    /// The file cannot be read or written. The place is not taken then.
    pub fn take(&mut self, now: u64) -> io::Result<Result<(), u64>> {
        let mut times = self.read()?;
        // A time that is more than an hour away was written before the clock was set.
        times.retain(|time| now.abs_diff(*time) < HOUR);
        if times.len() >= self.most {
            // The places of the latest `most` messages: a lower limit counts them too.
            times.sort_unstable();
            let frees = times[times.len() - self.most] + HOUR;
            return Ok(Err(frees.saturating_sub(now).max(1)));
        }
        times.push(now);
        self.write(&times)?;
        Ok(Ok(()))
    }

    /// The times of the latest messages, as many as can matter.
    fn read(&self) -> io::Result<Vec<u64>> {
        let count = self.count()?;
        let latest = usize::min(count, self.most + 1);
        let begin = ENTRY * (1 + count - latest);
        let len = latest * ENTRY;
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            match pread(&self.file, &mut bytes[done..len], (begin + done) as u64)? {
                0 => break,
                more => done += more,
            }
        }
        let times = bytes[..done].chunks_exact(ENTRY);
        Ok(times.map(|time| u64::from_le_bytes(time.try_into().expect("of this length"))).collect())
    }

    /// How many times the file has: its first number, but never more than there is room for.
    fn count(&self) -> io::Result<usize> {
        let mut number = [0; ENTRY];
        let len = pread(&self.file, &mut number, 0)?;
        let said = if len == ENTRY { usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX) } else { 0 };
        let room = usize::try_from(rustix::fs::fstat(&self.file)?.st_size).unwrap_or(0) / ENTRY;
        Ok(said.min(room.saturating_sub(1)))
    }

    fn write(&self, times: &[u64]) -> io::Result<()> {
        let count = times.len() as u64;
        let bytes: Vec<u8> = [count].iter().chain(times).flat_map(|number| number.to_le_bytes()).collect();
        let mut done = 0;
        while done < bytes.len() {
            done += pwrite(&self.file, &bytes[done..], done as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(file: &std::fs::File, most: usize) -> Rate {
        Rate::new(file.try_clone().expect("a descriptor").into(), most)
    }

    #[test]
    fn within_any_hour_there_are_no_more_and_a_new_server_knows_them() {
        let file = tempfile::tempfile().expect("a file");
        let mut times = Vec::new();
        for now in (0..20_000).step_by(100) {
            // Another process each time.
            match rate(&file, 5).take(now).expect("works") {
                Ok(()) => times.push(now),
                Err(wait) => assert!(wait <= HOUR, "{wait}"),
            }
        }
        for window in times.windows(6) {
            assert!(window[5] - window[0] >= HOUR, "{window:?}");
        }
        assert_eq!(times.len(), 5 * 20_000_usize.div_ceil(3600));
    }

    #[test]
    fn the_wait_is_told_and_a_clock_that_was_set_blocks_nobody() {
        let file = tempfile::tempfile().expect("a file");
        let mut rate = rate(&file, 2);
        assert_eq!((rate.take(1000).expect("works"), rate.take(1500).expect("works")), (Ok(()), Ok(())));
        assert_eq!(rate.take(2000).expect("works"), Err(2600));
        assert_eq!(rate.take(4600).expect("works"), Ok(()));
        assert_eq!(rate.take(4600).expect("works"), Err(500));
        assert_eq!(rate.take(100_000).expect("works"), Ok(()));
        assert_eq!(rate.take(50).expect("works"), Ok(()), "the clock was set back");
    }

    #[test]
    fn a_lower_limit_counts_the_latest_messages() {
        let file = tempfile::tempfile().expect("a file");
        let before = [0, 10, 20, 3000, 3010, 3020, 3030];
        assert!(before.iter().all(|now| rate(&file, 100).take(*now).expect("works") == Ok(())));
        // The first three do not count any more, and the last four are more than enough.
        assert!(rate(&file, 2).take(3700).expect("works").is_err());
        assert!(rate(&file, 2).take(6619).expect("works").is_err());
        assert_eq!(rate(&file, 2).take(6620).expect("works"), Ok(()));
    }

    #[test]
    fn a_file_that_is_damaged_is_no_reason_to_read_without_end() {
        let file = tempfile::tempfile().expect("a file");
        pwrite(&file, &[0xff; 20], 0).expect("writes");
        assert_eq!(rate(&file, 3).take(5000).expect("works"), Ok(()));
        let lower = rate(&file, 1).take(5001).expect("works");
        assert!(lower.is_err(), "{lower:?}");
    }
}
