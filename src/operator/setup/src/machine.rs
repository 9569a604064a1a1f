//! The machine that is set up: its files, and the programs that are run on it.
//!
//! Every effect passes through here. A test puts a folder in the place of `/`, and a program of its own in the place of
//! [`ThisHost`]; so it can also stop a run before and after each effect, as a power cut would.

use bailiwick_proto::Failure;
use bailiwick_sys::file::{self, FileType, Outlives};
use bailiwick_sys::quota::{self, Project, Quota, Share};
use bailiwick_types::{ExitStatus, QuotaFacts, StorageFacts};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The most bytes of a file that setup reads or keeps a copy of.
const MAX_FILE: usize = 4 << 20;
/// Where programs are found, whatever the caller's environment says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What a program said, and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The exit status; `None` after a signal.
    pub status: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// Whether it succeeded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == Some(0)
    }

    /// What it complained about, in one line.
    #[must_use]
    pub fn complaint(&self) -> String {
        let lines = self.err.lines().chain(self.out.lines()).map(str::trim).filter(|line| !line.is_empty());
        let shown: Vec<&str> = lines.take(4).collect();
        if shown.is_empty() { format!("it ended with {:?}", self.status) } else { shown.join("; ") }
    }
}

/// What setup needs of a system beside its files.
pub trait System {
    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    fn run(&mut self, program: &str, arguments: &[&str]) -> io::Result<Said>;
    /// The file system that holds a directory, and what it enforces.
    fn storage(&mut self, directory: &Path) -> StorageFacts;
    /// Writes past a quota of a project in a directory; returns what the kernel did about it.
    ///
    /// # Errors
    /// When it cannot be tried.
    fn writes_past_quota(&mut self, directory: &Path) -> io::Result<bool>;
    /// The number of a group.
    fn group(&mut self, name: &str) -> Option<u32>;
    /// Waits a moment for something to appear.
    fn pause(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
    }
    /// Called before and after each effect. An error ends the run at once, with nothing tidied up.
    ///
    /// # Errors
    /// In tests.
    fn reached(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// The host that this program runs on.
#[derive(Debug, Default)]
pub struct ThisHost;

impl System for ThisHost {
    fn run(&mut self, program: &str, arguments: &[&str]) -> io::Result<Said> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).env_clear().current_dir("/");
        command.env("PATH", PATH).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        let output = command.output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    fn storage(&mut self, directory: &Path) -> StorageFacts {
        let nothing = |why: String| StorageFacts {
            fs_type: "unknown".to_owned(),
            quota: QuotaFacts::Nothing { why, remedy: "look at it as root".to_owned() },
            devices: Vec::new(),
        };
        bailiwick_observe::host_facts(directory).map_or_else(|error| nothing(error.to_string()), |facts| facts.storage)
    }

    fn writes_past_quota(&mut self, directory: &Path) -> io::Result<bool> {
        /// A project that no tenant has: ids of tenants are smaller.
        const PROJECT: u32 = u32::MAX - 7;
        const ALLOWED: u64 = 1 << 20;
        let path = directory.join(".bailiwick-setup-proof");
        let clear = || std::fs::remove_dir_all(&path).or_else(|error| unless_missing(error, ()));
        clear()?;
        std::fs::create_dir(&path)?;
        let tried = (|| {
            let dir = file::open_dir(&path.canonicalize()?)?;
            quota::set_project(&dir, Project { id: PROJECT, inherited: true })?;
            let most = Share { hard: Some(ALLOWED), ..Share::default() };
            quota::write(&dir, PROJECT, &Quota { bytes: most, ..Quota::default() })?;
            let fits = write_bytes(&path.join("fits"), ALLOWED / 2);
            let beyond = write_bytes(&path.join("beyond"), ALLOWED);
            std::fs::remove_file(path.join("beyond")).or_else(|error| unless_missing(error, ()))?;
            quota::write(&dir, PROJECT, &Quota::default())?;
            fits?;
            // ext4 says EDQUOT, XFS says ENOSPC for projects (linux/errno).
            match beyond {
                Ok(()) => Ok(true),
                Err(error) if matches!(error.raw_os_error(), Some(28 | 122)) => Ok(false),
                Err(error) => Err(error),
            }
        })();
        clear()?;
        tried
    }

    fn group(&mut self, name: &str) -> Option<u32> {
        bailiwick_observe::group_id(name)
    }
}

fn write_bytes(path: &Path, count: u64) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let block = [7_u8; 64 << 10];
    for _ in 0..count.div_ceil(block.len() as u64) {
        file.write_all(&block)?;
    }
    file.sync_all()
}

/// Nothing, if what was asked for does not exist.
pub(crate) fn unless_missing<T>(error: io::Error, value: T) -> io::Result<T> {
    if error.kind() == io::ErrorKind::NotFound { Ok(value) } else { Err(error) }
}

/// Files and programs of the host.
pub struct Machine<'a> {
    root: PathBuf,
    system: &'a mut dyn System,
}

impl fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("root", &self.root).finish_non_exhaustive()
    }
}

impl<'a> Machine<'a> {
    /// A machine whose files are below a folder: `/`, except in tests.
    #[must_use]
    pub fn new(root: &Path, system: &'a mut dyn System) -> Self {
        Self { root: root.to_owned(), system }
    }

    /// Where a file of the machine is.
    #[must_use]
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The same as text, for the arguments of programs.
    pub(crate) fn text_at(&self, path: impl AsRef<Path>) -> String {
        self.at(path).to_string_lossy().into_owned()
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    /// The content of a file; `None` when it does not exist.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>, Failure> {
        let path = path.as_ref();
        let read = || {
            let (dir, name) = self.folder(path)?;
            let metadata = file::metadata_at(&dir, &name)?;
            if metadata.kind != FileType::RegularFile {
                return Err(io::Error::other("it is no plain file; put the file itself there, and no link"));
            }
            file::read_bounded(file::open_file_at(&dir, &name)?, MAX_FILE).map(Some)
        };
        read().or_else(|error| unless_missing(error, None)).map_err(|error| failed("read", path, &error))
    }

    /// As [`Machine::read`], as text.
    pub(crate) fn read_text(&self, path: impl AsRef<Path>) -> Result<Option<String>, Failure> {
        let path = path.as_ref();
        let bytes = self.read(path)?;
        let no_text = |_| failed("read", path, &io::Error::other("it is no text"));
        bytes.map(String::from_utf8).transpose().map_err(no_text)
    }

    /// A short text of the kernel, such as a file below `/sys`; `None` when it cannot be read.
    pub(crate) fn kernel_text(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.at(path)).ok().map(|text| text.trim().to_owned())
    }

    fn folder(&self, path: &Path) -> io::Result<(OwnedFd, String)> {
        let real = self.at(path);
        let missing = || io::Error::from(io::ErrorKind::InvalidInput);
        let name = real.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?.to_owned();
        let dir = file::open_dir(&real.parent().ok_or_else(missing)?.canonicalize()?)?;
        Ok((dir, name))
    }

    /// Replaces a file in one step, with the folders above it.
    pub(crate) fn write(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
        self.system.reached()?;
        let write = || {
            let parent = self.at(path).parent().map(Path::to_owned).unwrap_or_default();
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            let (dir, name) = self.folder(path)?;
            file::replace_at(&dir, &name, content, mode, Outlives::PowerCut)
        };
        write().map_err(|error| failed("write", path, &error))?;
        self.system.reached()
    }

    /// Removes a file. A missing one is no error.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), Failure> {
        self.system.reached()?;
        let remove = || {
            let (dir, name) = self.folder(path)?;
            file::remove_file_at(&dir, &name)?;
            Ok(rustix::fs::fsync(&dir)?)
        };
        remove().or_else(|error| unless_missing(error, ())).map_err(|error| failed("remove", path, &error))?;
        self.system.reached()
    }

    /// Removes a folder of files that setup had written by a program, with all in it. A missing one is no error.
    pub(crate) fn remove_folder(&mut self, path: &Path) -> Result<(), Failure> {
        self.system.reached()?;
        let removed = std::fs::remove_dir_all(self.at(path)).or_else(|error| unless_missing(error, ()));
        removed.map_err(|error| failed("remove", path, &error))?;
        self.system.reached()
    }

    /// Makes a folder, or changes the mode of one that is there.
    pub(crate) fn make_folder(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        self.system.reached()?;
        let real = self.at(path);
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&real);
        let made = made.and_then(|()| std::fs::set_permissions(&real, std::fs::Permissions::from_mode(mode)));
        made.map_err(|error| failed("make", path, &error))?;
        self.system.reached()
    }

    /// The permission bits of a file.
    pub(crate) fn mode(&self, path: &Path) -> Option<u32> {
        Some(self.at(path).symlink_metadata().ok()?.mode() & 0o7777)
    }

    /// Makes a file of a size whose blocks all exist, under another name first, so that a killed run leaves no half of it.
    pub(crate) fn make_allocated(&mut self, path: &Path, size: u64) -> Result<(), Failure> {
        let part = part_of(path);
        self.remove(&part)?;
        self.system.reached()?;
        let make = || -> io::Result<()> {
            let (dir, name) = self.folder(&part)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let fd = file::open_at(&dir, &name, flags, Mode::from_raw_mode(0o600))?;
            rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, size)?;
            rustix::fs::fsync(&fd)?;
            let last = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            rustix::fs::renameat(&dir, &name, &dir, last)?;
            Ok(rustix::fs::fsync(&dir)?)
        };
        if let Err(error) = make() {
            self.remove(&part)?;
            return Err(failed("allocate", path, &error));
        }
        self.system.reached()
    }

    /// Allocates what is missing of a file, up to a size; what it holds stays. When there is no room, it keeps its size.
    pub(crate) fn allocate_to(&mut self, path: &Path, size: u64) -> Result<(), Failure> {
        self.system.reached()?;
        let allocate = || -> io::Result<()> {
            let (dir, name) = self.folder(path)?;
            let fd = file::open_at(&dir, &name, OFlags::RDWR, Mode::empty())?;
            let before = file::metadata(&fd)?.size;
            if let Err(error) = rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, size) {
                // No device sees the new part yet.
                rustix::fs::ftruncate(&fd, before)?;
                return Err(error.into());
            }
            Ok(rustix::fs::fsync(&fd)?)
        };
        allocate().map_err(|error| failed("allocate", path, &error))?;
        self.system.reached()
    }

    /// The size of a file and how many bytes of it are allocated; `None` when it does not exist.
    pub(crate) fn allocation(&self, path: &Path) -> Option<(u64, u64)> {
        let metadata = self.at(path).symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((metadata.len(), metadata.blocks().saturating_mul(512)))
    }

    /// Runs a program that only reads.
    pub(crate) fn ask(&mut self, program: &str, arguments: &[&str]) -> Result<Said, Failure> {
        let missing = |error: &io::Error| {
            Failure::of(
                ExitStatus::HostCannot,
                format!("cannot run \"{program}\": {error}; install the package that has it"),
            )
        };
        self.system.run(program, arguments).map_err(|error| missing(&error))
    }

    /// Runs a program that changes something, and that must succeed.
    pub(crate) fn must(&mut self, program: &str, arguments: &[&str]) -> Result<Said, Failure> {
        self.system.reached()?;
        let said = self.ask(program, arguments)?;
        if !said.is_ok() {
            let line = [&[program], arguments].concat().join(" ");
            return Err(Failure::of(ExitStatus::Failed, format!("`{line}` failed: {}", said.complaint())));
        }
        self.system.reached()?;
        Ok(said)
    }

    pub(crate) fn system(&mut self) -> &mut dyn System {
        self.system
    }

    /// The space of the file system of a path: all of it, and the free part.
    pub(crate) fn space(&self, path: &Path) -> (u64, u64) {
        bailiwick_observe::space(&self.at(path)).unwrap_or((0, 0))
    }
}

/// The name of a pool file while it is made.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// The failure of something that was tried on a file.
pub(crate) fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "; free some space, or choose a smaller size",
        _ => "",
    };
    Failure::of(ExitStatus::Failed, format!("cannot {what} \"{}\": {error}{hint}", path.display()))
}

/// The digest of a content, which a later run is compared with.
pub(crate) fn digest(content: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(content) {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}
