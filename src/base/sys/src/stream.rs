//! Pipes, terminals and files as streams of bytes: waiting for them (`poll(2)`), and the direction of a pipe.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, OFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read, or the end has come.
    Read,
    /// Something can be written, or nobody reads any more.
    Write,
    /// The other side was closed.
    End,
}

/// Waits until at least one descriptor is ready, at most for `time`, or without a limit. Returns for each entry of `watched`
/// whether it is ready. An error or a hang-up makes a descriptor ready, and the read or write that follows reports it. A signal
/// ends the wait with nothing ready.
///
/// # Errors
/// The error of `poll(2)`, except `EINTR`.
pub fn wait(watched: &[(BorrowedFd<'_>, Interest)], time: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut fds: Vec<_> = watched
        .iter()
        .map(|(fd, interest)| {
            let flags = match interest {
                Interest::Read => PollFlags::IN,
                Interest::Write => PollFlags::OUT,
                Interest::End => PollFlags::empty(),
            };
            PollFd::from_borrowed_fd(*fd, flags)
        })
        .collect();
    // A time that does not fit into a `Timespec` is longer than any process lives, so it means no limit.
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    match rustix::event::poll(&mut fds, time.as_ref()) {
        Ok(_) => Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(rustix::io::Errno::INTR) => Ok(vec![false; fds.len()]),
        Err(error) => Err(error.into()),
    }
}

/// Makes an open file non-blocking: reads and writes return `EAGAIN` instead of waiting.
///
/// Danger: this holds for every process that shares the open file, so it must not be used on inherited terminals and files.
///
/// # Errors
/// The error of `ioctl(2)` with `FIONBIO`.
pub fn never_block(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// The end of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The end to read from.
    Reading,
    /// The end to write to.
    Writing,
}

/// The end of an unnamed pipe that a descriptor is. `None` means that the descriptor is no pipe, a FIFO (which any process may
/// open by its name), open for reading and writing, or an `O_PATH` descriptor.
///
/// # Errors
/// The errors of `fstat(2)`, `fcntl(2)` and `pipe(2)`.
pub fn pipe_direction(fd: impl AsFd) -> io::Result<Option<Direction>> {
    let stat = rustix::fs::fstat(fd.as_fd())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo || stat.st_dev != device_of_pipes()? {
        return Ok(None);
    }
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(if flags.contains(OFlags::PATH) || flags.contains(OFlags::RDWR) {
        None
    } else if flags.contains(OFlags::WRONLY) {
        Some(Direction::Writing)
    } else {
        Some(Direction::Reading)
    })
}

/// The device number of the kernel's file system for unnamed pipes.
fn device_of_pipes() -> io::Result<u64> {
    static DEVICE: OnceLock<u64> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(*device);
    }
    let (reader, _writer) = io::pipe()?;
    let device = rustix::fs::fstat(&reader)?.st_dev;
    Ok(*DEVICE.get_or_init(|| device))
}

/// How many bytes of a pipe or a terminal can be read now.
///
/// # Errors
/// The error of `ioctl(2)` with `FIONREAD`.
pub fn unread(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(fd)?)
}

/// Whether two descriptors are of the same terminal, file or device.
///
/// # Errors
/// The error of `fstat(2)`.
pub fn is_same(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn answers_stand_in_the_order_of_the_questions() {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        let now = Some(Duration::ZERO);
        let ask = |reader: &io::PipeReader, writer: &io::PipeWriter| {
            let watched =
                [(reader.as_fd(), Interest::Read), (writer.as_fd(), Interest::Write), (writer.as_fd(), Interest::End)];
            wait(&watched, now).expect("polls")
        };
        assert_eq!(ask(&reader, &writer), [false, true, false]);
        writer.write_all(b"x").expect("writes");
        assert_eq!(ask(&reader, &writer), [true, true, false]);
        reader.read_exact(&mut [0]).expect("reads");
        drop(reader);
        assert_eq!(wait(&[(writer.as_fd(), Interest::End)], now).expect("polls"), [true]);
    }

    #[test]
    fn an_empty_pipe_does_not_block() {
        let (mut reader, _writer) = io::pipe().expect("pipe");
        never_block(&reader).expect("fionbio");
        assert_eq!(reader.read(&mut [0]).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_waits_in_a_pipe_is_counted() {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        assert_eq!(unread(&reader).expect("fionread"), 0);
        writer.write_all(b"hello").expect("writes");
        assert_eq!(unread(&reader).expect("fionread"), 5);
        reader.read_exact(&mut [0; 2]).expect("reads");
        assert_eq!(unread(&reader).expect("fionread"), 3);
    }

    #[test]
    fn a_pipe_knows_its_direction_and_nothing_else_has_one() {
        let (reader, writer) = io::pipe().expect("pipe");
        assert_eq!(pipe_direction(&reader).expect("stat"), Some(Direction::Reading));
        assert_eq!(pipe_direction(&writer).expect("stat"), Some(Direction::Writing));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let both = std::fs::File::options().read(true).write(true).open(path).expect("opens");
        assert_eq!(pipe_direction(&both).expect("stat"), None);
        assert!(is_same(&both, &writer).expect("stat"));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let named = rustix::fs::open(path, OFlags::PATH, rustix::fs::Mode::empty()).expect("opens");
        assert_eq!(pipe_direction(&named).expect("stat"), None, "an O_PATH descriptor");
        let dir = std::env::temp_dir().join(format!("bailiwick-fifo-{}", std::process::id()));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &dir, FileType::Fifo, mode, 0).expect("a FIFO");
        let fifo = std::fs::File::options().read(true).write(true).open(&dir).expect("opens");
        let end = std::fs::File::open(&dir).expect("opens");
        std::fs::remove_file(&dir).expect("removes");
        assert_eq!(pipe_direction(&end).expect("stat"), None, "a FIFO");
        drop(fifo);
        let null = std::fs::File::open("/dev/null").expect("opens");
        assert_eq!(pipe_direction(&null).expect("stat"), None);
        assert!(!is_same(&null, &writer).expect("stat"));
    }
}
