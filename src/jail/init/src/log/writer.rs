//! One log: lines with the time, in files of a bounded size, at a bounded rate. What does not fit is counted, and the log says so.

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

/// The longest line, in bytes. A longer one is broken.
const MAX_LINE: usize = 16 << 10;
/// How many bytes a second a program may log, and how many it may log at once after a pause.
const RATE: u64 = 1_000_000;
/// How long a line without an end waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes one log.
#[derive(Debug)]
pub(super) struct Writer {
    path: String,
    size: u64,
    keep: u32,
    file: Option<(OwnedFd, u64)>,
    /// A line whose end has not come yet, and since when.
    line: Vec<u8>,
    line_since: Option<Instant>,
    /// How many bytes may be written now.
    allowance: u64,
    allowance_at: Instant,
    /// How many bytes were not written since the log said so.
    dropped: u64,
}

impl Writer {
    pub(super) fn new(path: String, size: u64, keep: u32, now: Instant) -> Self {
        Self {
            path,
            size,
            keep,
            file: None,
            line: Vec::new(),
            line_since: None,
            allowance: RATE,
            allowance_at: now,
            dropped: 0,
        }
    }

    /// Goes on with other bounds.
    pub(super) fn change(&mut self, path: String, size: u64, keep: u32) {
        if path != self.path {
            self.file = None;
        }
        (self.path, self.size, self.keep) = (path, size, keep);
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let line = self.line_since.map(|since| since + PATIENCE);
        let dropped = (self.dropped > 0).then(|| now + PATIENCE);
        line.into_iter().chain(dropped).min()
    }

    /// Writes what has waited long enough.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.line_since.is_some_and(|since| now.duration_since(since) >= PATIENCE) {
            self.end_line(now);
        }
        if self.dropped > 0 {
            self.earn(now);
            // Only with room for more than the notice itself: otherwise every second line would be a notice.
            if self.allowance >= RATE / 2 {
                self.say_dropped();
            }
        }
    }

    /// Takes what the program has printed.
    pub(super) fn write(&mut self, bytes: &[u8], now: Instant) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            for piece in text.chunks(MAX_LINE) {
                if self.line.len() + piece.len() > MAX_LINE {
                    self.end_line(now);
                }
                self.line.extend_from_slice(piece);
            }
            if is_whole {
                self.end_line(now);
            } else if self.line_since.is_none() {
                self.line_since = Some(now);
            }
        }
    }

    /// Nothing comes any more.
    pub(super) fn finish(&mut self, now: Instant) {
        if !self.line.is_empty() {
            self.end_line(now);
        }
        if self.dropped > 0 {
            self.say_dropped();
        }
    }

    fn end_line(&mut self, now: Instant) {
        self.earn(now);
        let mut line = std::mem::take(&mut self.line);
        self.line_since = None;
        let cost = u64::try_from(line.len()).unwrap_or(u64::MAX) + 1;
        if self.dropped > 0 || cost > self.allowance || self.put(&line).is_err() {
            self.dropped += cost;
        } else {
            self.allowance -= cost;
        }
        line.clear();
        self.line = line;
    }

    fn earn(&mut self, now: Instant) {
        let micros = now.saturating_duration_since(self.allowance_at).as_micros();
        let earned = u64::try_from(micros).unwrap_or(u64::MAX).saturating_mul(RATE) / 1_000_000;
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(RATE);
            self.allowance_at = now;
        }
    }

    fn say_dropped(&mut self) {
        if self.put(format!("{} bytes dropped", self.dropped).as_bytes()).is_ok() {
            self.dropped = 0;
        }
    }

    /// Writes one line with the time before it.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let whole = [time.as_bytes(), b" ", line, b"\n"].concat();
        let len = u64::try_from(whole.len()).unwrap_or(u64::MAX);
        if self.file.as_ref().is_some_and(|(_, size)| size.saturating_add(len) > self.size) {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.file = Some(self.open()?);
        }
        let Some((file, size)) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        match rustix::io::write(&*file, &whole) {
            Ok(written) => {
                *size += u64::try_from(written).unwrap_or(0);
                // A part of a line was written: the disk is full.
                if written == whole.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
            }
            Err(error) => {
                // It may have been removed with its directory; the next line makes another.
                self.file = None;
                Err(error.into())
            }
        }
    }

    /// Opens the log to append to it, and makes the directories that it is in. No link is followed.
    fn open(&self) -> io::Result<(OwnedFd, u64)> {
        let (directory, name) = self.split()?;
        let mode =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&directory, name, mode, Mode::from_raw_mode(0o600))?;
        let stat = rustix::fs::fstat(&file)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// The directory of the log, and its name in it.
    fn split(&self) -> io::Result<(OwnedFd, &str)> {
        let (path, name) = self.path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = rustix::fs::open("/", flags, Mode::empty())?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(_) => {}
            }
            directory = rustix::fs::openat2(&directory, part, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        }
        Ok((directory, name))
    }

    /// Renames the full files by one, and forgets the oldest.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let (directory, name) = self.split()?;
        let numbered = |number: u32| if number == 0 { name.to_owned() } else { format!("{name}.{number}") };
        if self.keep == 0 {
            rustix::fs::unlinkat(directory.as_fd(), name, AtFlags::empty())?;
            return Ok(());
        }
        for number in (0..self.keep).rev() {
            match rustix::fs::renameat(&directory, numbered(number), &directory, numbered(number + 1)) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn writer(size: u64, keep: u32, now: Instant) -> (tempfile::TempDir, Writer) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().canonicalize().expect("a path").join("a/b/app.log");
        let path = path.to_str().expect("text").to_owned();
        (temp, Writer::new(path, size, keep, now))
    }

    fn lines(writer: &Writer) -> Vec<String> {
        let text = fs::read(&writer.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // The time has 24 characters.
        text.lines().map(|line| line[25..].to_owned()).collect()
    }

    #[test]
    fn each_line_gets_the_time_and_a_part_of_one_waits_for_its_end() {
        let now = Instant::now();
        let (_temp, mut writer) = writer(1 << 20, 1, now);
        writer.write(b"one\ntw", now);
        writer.write(b"o\n\nthree", now);
        assert_eq!(lines(&writer), ["one", "two", ""]);
        assert!(fs::read_to_string(&writer.path).expect("a file").starts_with("20"));
        writer.tick(now + PATIENCE);
        assert_eq!(lines(&writer)[3], "three");
        writer.write(&vec![b'x'; MAX_LINE + 10], now);
        writer.finish(now);
        assert_eq!(lines(&writer)[4..].iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 10]);
    }

    #[test]
    fn full_files_are_renamed_and_the_oldest_forgotten() {
        let now = Instant::now();
        let (temp, mut writer) = writer(100, 2, now);
        for number in 0..20 {
            writer.write(format!("line {number:02}\n").as_bytes(), now);
        }
        let folder = temp.path().join("a/b");
        let mut names: Vec<_> =
            fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        assert_eq!(names, ["app.log", "app.log.1", "app.log.2"]);
        assert!(fs::metadata(folder.join("app.log.2")).expect("a file").len() <= 100);
        assert_eq!(lines(&writer).last().expect("a line"), "line 19");
        // With none kept there is only the current one.
        let (temp, mut writer) = self::writer(100, 0, now);
        for _ in 0..20 {
            writer.write(b"line\n", now);
        }
        assert_eq!(fs::read_dir(temp.path().join("a/b")).expect("a folder").count(), 1);
    }

    #[test]
    fn a_flood_is_cut_and_the_log_says_how_much() {
        let mut now = Instant::now();
        let (_temp, mut writer) = writer(100 << 20, 1, now);
        let line = [vec![b'x'; 999], vec![b'\n']].concat();
        for _ in 0..3000 {
            writer.write(&line, now);
        }
        assert_eq!((lines(&writer).len(), writer.dropped), (1000, 2_000_000));
        assert!(writer.deadline(now).is_some());
        now += Duration::from_secs(1);
        writer.tick(now);
        assert_eq!((lines(&writer).last().expect("a line").as_str(), writer.dropped), ("2000000 bytes dropped", 0));
        writer.write(b"again\n", now);
        assert_eq!(lines(&writer).last().expect("a line"), "again");
    }

    #[test]
    fn a_link_in_the_way_is_not_followed_and_what_is_lost_is_counted() {
        let now = Instant::now();
        let (temp, mut writer) = writer(1 << 20, 1, now);
        let elsewhere = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink(elsewhere.path(), temp.path().join("a")).expect("links");
        writer.write(b"lost\n", now);
        assert_eq!((fs::read_dir(elsewhere.path()).expect("a folder").count(), writer.dropped), (0, 5));
        fs::remove_file(temp.path().join("a")).expect("removes");
        writer.tick(now + Duration::from_secs(1));
        assert_eq!(lines(&writer), ["5 bytes dropped"]);
        // Nor is the file itself.
        fs::remove_file(&writer.path).expect("removes");
        std::os::unix::fs::symlink(elsewhere.path().join("x"), &writer.path).expect("links");
        writer.file = None;
        writer.write(b"lost\n", now);
        assert_eq!((fs::read_dir(elsewhere.path()).expect("a folder").count(), writer.dropped), (0, 5));
    }
}
