//! Terminals: their size, raw mode, and the check that a descriptor is the master side of one.
//!
//! Danger: a terminal that stays in raw mode is useless to its owner. So raw mode must end with its guard, even after a panic.

use rustix::fs::FileType;
use rustix::termios::{OptionalActions, Termios};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The size of a terminal.
///
/// # Errors
/// `ENOTTY` when the descriptor is no terminal.
pub fn size(fd: impl AsFd) -> io::Result<Size> {
    let size = rustix::termios::tcgetwinsize(fd)?;
    Ok(Size { rows: size.ws_row, columns: size.ws_col })
}

/// A guard for the raw mode of a terminal (`cfmakeraw(3)`). Dropping it restores the mode from before.
pub struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Puts a terminal into raw mode.
    ///
    /// # Errors
    /// `ENOTTY` when the descriptor is no terminal, else the error of `tcsetattr(3)`.
    pub fn enter(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // This fails when the terminal has gone. Then there is nothing to restore.
        rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before).ok();
    }
}

impl std::fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

/// Whether a descriptor is the master side of a pseudo-terminal: the character device 5:2 on a `devpts` file system. No file,
/// socket or other device passes this check.
///
/// # Errors
/// The errors of `fstat(2)` and `fstatfs(2)`.
pub fn is_master(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd.as_fd())?;
    let on = rustix::fs::fstatfs(fd)?.f_type;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (5, 2)
        && on == libc::DEVPTS_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::OpenptFlags;
    use std::os::fd::OwnedFd;

    /// Opens a master by its name on `devpts`, because `/dev/ptmx` may be a node on another file system.
    fn master() -> OwnedFd {
        rustix::fs::open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("pseudo-terminal")
    }

    #[test]
    fn only_a_master_passes_for_one() {
        let master = master();
        assert!(is_master(&master).expect("stat"));
        rustix::pty::unlockpt(&master).expect("unlocks");
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("slave");
        assert!(!is_master(&slave).expect("stat"));
        let (reader, _writer) = io::pipe().expect("pipe");
        assert!(!is_master(&reader).expect("stat"));
        assert!(!is_master(std::fs::File::open("/dev/null").expect("opens")).expect("stat"));
        assert!(!is_master(std::fs::File::open("/dev/pts").expect("opens")).expect("stat"));
    }

    #[test]
    fn raw_mode_ends_with_its_guard() {
        let master = master();
        let before = rustix::termios::tcgetattr(&master).expect("terminal").local_modes;
        let outcome = std::panic::catch_unwind(|| {
            let _raw = Raw::enter(master.as_fd()).expect("raw");
            assert_ne!(rustix::termios::tcgetattr(&master).expect("terminal").local_modes, before);
            panic!("as a bug would");
        });
        assert!(outcome.is_err());
        assert_eq!(rustix::termios::tcgetattr(&master).expect("terminal").local_modes, before);
    }

    #[test]
    fn a_pipe_has_no_size() {
        let (reader, _writer) = io::pipe().expect("pipe");
        assert_eq!(size(&reader).expect_err("no terminal").raw_os_error(), Some(libc::ENOTTY));
    }
}
