//! `/proc/PID/cmdline`: the arguments of a process, which it may change itself.

use std::io;
use std::os::fd::AsFd;

/// The most bytes that are read.
const MAX_LINE: usize = 4 << 10;

/// The arguments of a process; bytes that are no text are replaced.
///
/// # Errors
/// The error of reading the file. `FileTooLarge` when there are more than 4 KiB.
pub fn command_line(pid: u32) -> io::Result<Vec<String>> {
    Ok(parse_command_line(&super::read(super::directory(pid)?.as_fd(), "cmdline", MAX_LINE)?))
}

/// The arguments in the text of the file.
#[must_use]
pub fn parse_command_line(text: &[u8]) -> Vec<String> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_argument_ends_with_a_zero() {
        assert_eq!(parse_command_line(b"a\0b c\0\0"), ["a", "b c", ""]);
        assert_eq!(parse_command_line(b"changed by itself"), ["changed by itself"]);
        assert_eq!(parse_command_line(b"\xff\0"), ["\u{fffd}"]);
        assert_eq!(parse_command_line(b""), [""; 0]);
        let own = command_line(std::process::id()).expect("reads");
        assert_eq!(own, std::env::args().collect::<Vec<_>>());
    }
}
