//! `/proc/PID/stat`: start time, priority and memory of a process.

use super::machine::MICROS_PER_TICK;
use super::{MAX_SMALL, directory, malformed, read};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// When a process started, in clock ticks after the boot. Together with its number this identifies the process.
///
/// # Errors
/// As for [`status`](super::status()).
pub fn start_time(pid: u32) -> io::Result<u64> {
    start_time_at(directory(pid)?.as_fd())
}

/// How long ago a process started.
///
/// # Errors
/// As for [`status`](super::status()).
pub fn age(pid: u32) -> io::Result<Duration> {
    let started = Duration::from_micros(start_time(pid)?.saturating_mul(MICROS_PER_TICK));
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    Ok(now.saturating_sub(started))
}

fn start_time_at(process: BorrowedFd<'_>) -> io::Result<u64> {
    parse_start_time(&read(process, "stat", MAX_SMALL)?).ok_or_else(|| malformed("stat"))
}

/// Where the name in the second field ends. The name is in parentheses and may hold any bytes, also spaces, line ends and
/// parentheses. So the last parenthesis is the kernel's.
fn end_of_name(text: &[u8]) -> Option<usize> {
    text.iter().rposition(|byte| *byte == b')')
}

/// A field behind the name, by its number in `proc_pid_stat(5)`, which is 3 or more.
fn field(text: &[u8], number: usize) -> Option<&str> {
    let rest = std::str::from_utf8(text.get(end_of_name(text)? + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

/// Parses field 22 of `/proc/PID/stat` (`proc_pid_stat(5)`), the start time.
#[must_use]
pub fn parse_start_time(text: &[u8]) -> Option<u64> {
    field(text, 22)?.parse().ok()
}

/// Parses field 9 of `/proc/PID/stat`, the kernel's flags of a thread. Returns whether it is ending (`PF_EXITING`).
#[must_use]
pub fn parse_is_ending(text: &[u8]) -> Option<bool> {
    const PF_EXITING: u64 = 0x4;
    let flags: u64 = field(text, 9)?.parse().ok()?;
    Some(flags & PF_EXITING != 0)
}

/// Parses fields 19 and 41 of `/proc/PID/stat`: the nice value, and the scheduling policy (`sched(7)`).
#[must_use]
pub fn parse_rank(text: &[u8]) -> Option<(i32, u32)> {
    Some((field(text, 19)?.parse().ok()?, field(text, 41)?.parse().ok()?))
}

/// A part of `/proc/PID/stat`, which any user may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat {
    /// The parent, in this process's pid namespace.
    pub parent: u32,
    /// The first 15 bytes of the program's name. Whoever runs the program chooses it.
    pub command: String,
    /// The resident memory in bytes.
    pub memory: u64,
}

/// Reads `/proc/PID/stat` of a process.
///
/// # Errors
/// `ENOENT` or `ESRCH` when the process is gone.
pub fn stat(pid: u32) -> io::Result<ProcessStat> {
    parse_stat(&read(directory(pid)?.as_fd(), "stat", MAX_SMALL)?).ok_or_else(|| malformed("stat"))
}

/// Parses fields 2, 4 and 24 of `/proc/PID/stat` (`proc_pid_stat(5)`).
#[must_use]
pub fn parse_stat(text: &[u8]) -> Option<ProcessStat> {
    let begin = text.iter().position(|byte| *byte == b'(')?;
    let command = String::from_utf8_lossy(text.get(begin + 1..end_of_name(text)?)?).into_owned();
    let pages: u64 = field(text, 24)?.parse().ok()?;
    Some(ProcessStat { parent: field(text, 4)?.parse().ok()?, command, memory: pages.saturating_mul(page_size()) })
}

/// The size of a page of memory in bytes, which libc has known since the start of the program.
///
/// rustix would read the auxiliary vector from `/proc`. Before Linux 6.4 an undumpable process cannot do that, and rustix
/// panics. Its feature `param` is off, so that nobody uses it.
fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::super::facts;
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_program_name() {
        for name in ["cat", "a b", "a) R 1 2 3", "a\n1 (b)", ")))", "", "\u{fffd}"] {
            let text =
                format!("6474 ({name}) R 6466 6466 5983 0 -1 4194304 98 0 0 0 0 0 0 0 20 0 1 0 484726 3133440 380\n");
            assert_eq!(parse_start_time(text.as_bytes()), Some(484_726), "{name:?}");
        }
        let mut bytes = b"1 (\xff\xfe) R".to_vec();
        bytes.extend_from_slice(&b" 1".repeat(18));
        bytes.extend_from_slice(b" 99 1");
        assert_eq!(parse_start_time(&bytes), Some(99));
        assert_eq!(parse_start_time(b"1 (a) R 1 2 3"), None);
        assert_eq!(parse_start_time(b"1 a"), None);
    }

    #[test]
    fn the_rank_is_found_behind_any_program_name() {
        let fields = format!("{} -20 1 0 484726 {} 1 0 0\n", "1 ".repeat(15), "0 ".repeat(18).trim());
        for name in ["cat", "a) R 1 2 3", ")))"] {
            assert_eq!(parse_rank(format!("6474 ({name}) R {fields}").as_bytes()), Some((-20, 1)), "{name}");
        }
        assert_eq!(parse_rank(b"1 (a) R 1 2 3"), None);
        let own = facts(std::process::id()).expect("this process").rank.expect("is read");
        assert!((-20..20).contains(&own.nice) && (-1000..=1000).contains(&own.oom_score_adj), "{own:?}");
    }

    #[test]
    fn a_name_with_parentheses_is_no_field() {
        let fields: Vec<String> = (4..60).map(|number| number.to_string()).collect();
        let text = format!("7 (a) b) (c) S {}", fields.join(" "));
        let stat = parse_stat(text.as_bytes()).expect("parses");
        let page = page_size();
        assert_eq!((stat.parent, stat.command.as_str(), stat.memory), (4, "a) b) (c", 24 * page));
        assert_eq!(parse_stat(b"7 (a) S 1"), None);
        assert_eq!(parse_stat(b")("), None);
    }
}
