//! `/proc/meminfo`, `/proc/stat` and `/proc/sys/kernel`: facts about the whole machine.

use super::malformed;
use std::io;

/// The memory of the machine in bytes (`proc_meminfo(5)`, `MemTotal`).
///
/// # Errors
/// The error of reading the file.
pub fn memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let kibibytes: Option<u64> = kibibytes.and_then(|number| number.trim().parse().ok());
    Ok(kibibytes.ok_or(io::ErrorKind::InvalidData)?.saturating_mul(1024))
}

/// How long all processors together have worked since the boot, in microseconds (`proc_stat(5)`). The kernel counts in clock
/// ticks.
///
/// # Errors
/// The error of reading the file.
pub fn busy_micros() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    parse_busy(&text).ok_or_else(|| malformed("stat"))
}

/// The length of a clock tick. `USER_HZ` is 100 on every architecture that Rust knows (include/asm-generic/param.h). It is a
/// constant here because an undumpable process cannot read it from its auxiliary vector before Linux 6.4.
pub(super) const MICROS_PER_TICK: u64 = 10_000;

fn parse_busy(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut next = || words.next()?.parse::<u64>().ok();
    // "user" and "nice" include the time of guests.
    let (user, nice, system, _idle, _waiting) = (next()?, next()?, next()?, next()?, next()?);
    let (interrupts, soft_interrupts) = (next()?, next()?);
    let ticks = user + nice + system + interrupts + soft_interrupts;
    Some(ticks.saturating_mul(MICROS_PER_TICK))
}

/// The most processes and threads that the kernel allows: the lower of `kernel.pid_max` and `kernel.threads-max`.
///
/// # Errors
/// The error of reading a file.
pub fn max_tasks() -> io::Result<u64> {
    let read_sysctl = |name: &str| -> io::Result<u64> {
        std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))?.trim().parse().map_err(io::Error::other)
    };
    Ok(read_sysctl("pid_max")?.min(read_sysctl("threads-max")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_all_processors_is_what_is_neither_idle_nor_waiting() {
        assert_eq!(parse_busy("cpu  10 20 30 400 50 6 7 0 99 98\ncpu0 1 2\n"), Some(730_000));
        assert_eq!(parse_busy("cpu  10 20 30 400\n"), None);
        assert_eq!(parse_busy(""), None);
        assert!(busy_micros().expect("reads") > 0);
    }

    #[test]
    fn the_machine_has_memory_and_room_for_tasks() {
        assert!(memory_bytes().expect("reads") > 64 << 20);
        assert!(max_tasks().expect("reads") > 300);
    }
}
