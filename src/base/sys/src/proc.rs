//! What `/proc` says of a process: one function per file, each with a parser that is a pure function over its text.
//!
//! Danger: a tenant chooses part of these texts (program names, mount points, paths of control groups) and may make
//! them as long as the kernel lets it. Every read is bounded, every parser takes arbitrary bytes, and nothing here
//! panics. A process is looked up once and then read through a descriptor of its directory, so that all facts are of
//! one process even when its number is given to another meanwhile. Credentials are those of the first thread.

use crate::file;
use bailiwick_types::{MountFact, NAMESPACES, ProcessFacts, ProcessRank};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Bound of a file about one process whose size a tenant cannot drive far.
const MAX_SMALL: usize = 64 << 10;
/// Bound of a mount table: a jail that may mount can hold `fs.mount-max` (100,000) mounts with long names.
const MAX_TABLE: usize = 32 << 20;

/// What `/proc/PID/status` says (`proc_pid_status(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Program name, with the kernel's escapes for line ends and backslashes.
    pub command: String,
    /// Parent, as the reader's pid namespace counts.
    pub parent: u32,
    /// Real, effective, saved and file-system user, as the reader's user namespace counts.
    pub uids: [u32; 4],
    /// Likewise the groups.
    pub gids: [u32; 4],
    /// Number in each pid namespace, the reader's first; empty on a kernel without pid namespaces.
    pub ns_pids: Vec<u32>,
    /// Threads.
    pub threads: u32,
    /// Inheritable set of capabilities.
    pub cap_inheritable: u64,
    /// Permitted set.
    pub cap_permitted: u64,
    /// Effective set.
    pub cap_effective: u64,
    /// Bounding set.
    pub cap_bounding: u64,
    /// Ambient set.
    pub cap_ambient: u64,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Number of filters.
    pub seccomp_filters: u32,
}

/// Which map of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// `uid_map`.
    User,
    /// `gid_map`.
    Group,
}

impl IdKind {
    /// The file's name.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::User => "uid_map",
            Self::Group => "gid_map",
        }
    }
}

fn malformed(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected content in \"{file}\""))
}

/// The directory of a process. It stays that process's: reads fail with `ESRCH` once it is gone.
fn directory(pid: u32) -> io::Result<OwnedFd> {
    file::open_dir(Path::new(&format!("/proc/{pid}")))
}

fn read(process: BorrowedFd<'_>, name: &str, max: usize) -> io::Result<Vec<u8>> {
    file::read_bounded(file::open_file_at(process, name)?, max)
}

/// The status of a process.
///
/// # Errors
/// `ENOENT` or `ESRCH` when there is no such process.
pub fn status(pid: u32) -> io::Result<Status> {
    status_at(directory(pid)?.as_fd())
}

fn status_at(process: BorrowedFd<'_>) -> io::Result<Status> {
    parse_status(&read(process, "status", MAX_SMALL)?).ok_or_else(|| malformed("status"))
}

/// Parses `/proc/PID/status`; `None` when a line that is relied upon is missing or no number.
#[must_use]
pub fn parse_status(text: &[u8]) -> Option<Status> {
    let text = String::from_utf8_lossy(text);
    let mut lines: HashMap<&str, &str> = HashMap::new();
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(':') {
            // The name comes first and the kernel escapes its line ends: no later line is the tenant's.
            lines.entry(key).or_insert(value.trim());
        }
    }
    let number = |key: &str| lines.get(key)?.parse::<u32>().ok();
    let set = |key: &str| u64::from_str_radix(lines.get(key)?, 16).ok();
    let four = |key: &str| -> Option<[u32; 4]> {
        let ids: Vec<u32> = lines.get(key)?.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        ids.try_into().ok()
    };
    let ns_pids = lines.get("NSpid").copied().unwrap_or_default();
    Some(Status {
        command: (*lines.get("Name")?).to_owned(),
        parent: number("PPid")?,
        uids: four("Uid")?,
        gids: four("Gid")?,
        ns_pids: ns_pids.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?,
        threads: number("Threads")?,
        cap_inheritable: set("CapInh")?,
        cap_permitted: set("CapPrm")?,
        cap_effective: set("CapEff")?,
        cap_bounding: set("CapBnd")?,
        cap_ambient: set("CapAmb")?,
        no_new_privs: number("NoNewPrivs")? != 0,
        seccomp: number("Seccomp")?,
        seccomp_filters: number("Seccomp_filters")?,
    })
}

/// When a process started, in clock ticks after boot: with its number, its identity.
///
/// # Errors
/// As [`status`].
pub fn start_time(pid: u32) -> io::Result<u64> {
    start_time_at(directory(pid)?.as_fd())
}

/// How long ago a process started.
///
/// # Errors
/// As [`status`].
pub fn age(pid: u32) -> io::Result<Duration> {
    let started = Duration::from_micros(start_time(pid)?.saturating_mul(MICROS_PER_TICK));
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    Ok(now.saturating_sub(started))
}

fn start_time_at(process: BorrowedFd<'_>) -> io::Result<u64> {
    parse_start_time(&read(process, "stat", MAX_SMALL)?).ok_or_else(|| malformed("stat"))
}

/// Parses field 22 of `/proc/PID/stat` (`proc_pid_stat(5)`). The second field is the program's name in parentheses,
/// which may itself hold spaces, line ends and parentheses: the last one is the kernel's.
#[must_use]
pub fn parse_start_time(text: &[u8]) -> Option<u64> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
    // What follows the name starts with field 3.
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The control groups of a process by hierarchy: `unified`, and for version 1 each controller by its name; hierarchies
/// without a controller as `name=NAME`. They are those of its first thread that lives.
///
/// # Errors
/// As [`status`]; `ESRCH` also while it ends.
pub fn cgroups(pid: u32) -> io::Result<BTreeMap<String, String>> {
    cgroups_at(directory(pid)?.as_fd())
}

/// A thread that is ending is shown in the root of every hierarchy of version 1, long before it is a corpse
/// (`proc_cgroup_show` in the kernel): wherever it was, it would look like one that got out.
fn cgroups_at(process: BorrowedFd<'_>) -> io::Result<BTreeMap<String, String>> {
    /// The groups of a thread, or `None` when it was ending by the time they had been read.
    fn of_living(thread: BorrowedFd<'_>) -> io::Result<Option<BTreeMap<String, String>>> {
        let groups = parse_cgroups(&read(thread, "cgroup", MAX_SMALL)?).ok_or_else(|| malformed("cgroup"))?;
        let is_ending = parse_is_ending(&read(thread, "stat", MAX_SMALL)?).ok_or_else(|| malformed("stat"))?;
        Ok((!is_ending).then_some(groups))
    }
    // What the directory of a process shows is of its first thread, which may end before the others.
    if let Some(groups) = of_living(process)? {
        return Ok(groups);
    }
    let threads = file::open_dir_at(process, "task")?;
    for thread in file::names(threads.as_fd())? {
        let thread = file::open_dir_at(threads.as_fd(), &thread);
        if let Some(groups) = thread.ok().and_then(|thread| of_living(thread.as_fd()).ok().flatten()) {
            return Ok(groups);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

/// Parses field 9 of `/proc/PID/stat`, the kernel's flags of a thread: whether it is ending (`PF_EXITING`).
#[must_use]
pub fn parse_is_ending(text: &[u8]) -> Option<bool> {
    const PF_EXITING: u64 = 0x4;
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
    let flags: u64 = rest.split_ascii_whitespace().nth(9 - 3)?.parse().ok()?;
    Some(flags & PF_EXITING != 0)
}

/// Parses `/proc/PID/cgroup` (`cgroups(7)`). The kernel refuses line ends in names of groups; colons it does not.
#[must_use]
pub fn parse_cgroups(text: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut groups = BTreeMap::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.splitn(3, ':');
        let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = if controllers.is_empty() { "unified" } else { controllers };
        for controller in controllers.split(',') {
            groups.insert(controller.to_owned(), path.to_owned());
        }
    }
    Some(groups)
}

/// The mounts that a process sees below its root; a mount comes after the one it is mounted on, so that of several at
/// one target the last is on top.
///
/// # Errors
/// As [`status`]; `EFBIG` when the table is larger than 32 MiB.
pub fn mounts(pid: u32) -> io::Result<Vec<MountFact>> {
    mounts_at(directory(pid)?.as_fd())
}

fn mounts_at(process: BorrowedFd<'_>) -> io::Result<Vec<MountFact>> {
    parse_mounts(&read(process, "mountinfo", MAX_TABLE)?).ok_or_else(|| malformed("mountinfo"))
}

/// One row of a mount table before the tree is known.
struct Row {
    id: u64,
    parent: u64,
    fact: MountFact,
}

/// Parses `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).
#[must_use]
pub fn parse_mounts(text: &[u8]) -> Option<Vec<MountFact>> {
    let rows = String::from_utf8_lossy(text).lines().map(parse_row).collect::<Option<Vec<Row>>>()?;
    Some(arrange(rows))
}

fn parse_row(line: &str) -> Option<Row> {
    let mut fields = line.split(' ');
    let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let _device = fields.next()?;
    let (root, target, options) = (fields.next()?, fields.next()?, fields.next()?);
    // Optional fields end at a lone hyphen.
    let mut propagation = Vec::new();
    loop {
        match fields.next()? {
            "-" => break,
            field => propagation.push(field.to_owned()),
        }
    }
    let (fs_type, _source) = (fields.next()?, fields.next()?);
    // File systems such as overlay may write spaces that are not escaped.
    let super_options = fields.collect::<Vec<_>>().join(" ");
    let list = |options: &str| options.split(',').filter(|option| !option.is_empty()).map(unescape).collect();
    let fact = MountFact {
        target: unescape(target),
        root: unescape(root),
        fs_type: unescape(fs_type),
        options: list(options),
        super_options: list(&super_options),
        propagation,
        covered: false,
    };
    Some(Row { id, parent, fact })
}

/// Puts each mount after the one that carries it and marks those that no path leads to.
///
/// The kernel lists mounts by age, and one that was made detached may be older than what it was put upon.
fn arrange(rows: Vec<Row>) -> Vec<MountFact> {
    let ids: HashSet<u64> = rows.iter().map(|row| row.id).collect();
    let mut children: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut waiting: Vec<(usize, bool)> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if row.parent != row.id && ids.contains(&row.parent) {
            children.entry(row.parent).or_default().push(index);
        } else {
            waiting.push((index, false));
        }
    }
    waiting.reverse();
    let mut order = Vec::with_capacity(rows.len());
    while let Some((index, below_cover)) = waiting.pop() {
        let Some(row) = rows.get(index) else { continue };
        let upon = children.remove(&row.id).unwrap_or_default();
        let targets: HashSet<&str> = upon.iter().map(|child| rows[*child].fact.target.as_str()).collect();
        order.push((index, below_cover || targets.contains(row.fact.target.as_str())));
        for child in upon.into_iter().rev() {
            // Hidden by a sibling mounted on a directory above, this mount's own root among them.
            let hidden = above(&rows[child].fact.target, &row.fact.target).any(|path| targets.contains(path));
            waiting.push((child, below_cover || hidden));
        }
    }
    let mut facts: Vec<Option<MountFact>> = rows.into_iter().map(|row| Some(row.fact)).collect();
    order
        .into_iter()
        .filter_map(|(index, covered)| Some(MountFact { covered, ..facts.get_mut(index)?.take()? }))
        .collect()
}

/// The directories above `path`, down to and with `root`.
fn above<'a>(path: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    let parent = |path: &&'a str| match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(at) if at > 0 => Some(&path[..at]),
        _ => None,
    };
    std::iter::successors(parent(&path), parent).take_while(|path| path.len() >= root.len())
}

/// Undoes the octal escapes of the kernel's `mangle_path`: `\040` is a space.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let digits = bytes.get(index + 1..index + 4).filter(|_| byte == b'\\');
        let value = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| {
            digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| u8::from_str_radix(digits, 8).ok())?
        });
        out.push(value.unwrap_or(byte));
        index += if value.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A map of ids: inside, outside (as the reader's user namespace counts), count.
///
/// # Errors
/// As [`status`].
pub fn id_map(pid: u32, kind: IdKind) -> io::Result<Vec<[u32; 3]>> {
    let text = read(directory(pid)?.as_fd(), kind.file(), MAX_SMALL)?;
    parse_id_map(&text).ok_or_else(|| malformed(kind.file()))
}

/// Parses `/proc/PID/uid_map` (`user_namespaces(7)`).
#[must_use]
pub fn parse_id_map(text: &[u8]) -> Option<Vec<[u32; 3]>> {
    let row = |line: &str| -> Option<[u32; 3]> {
        let numbers: Vec<u32> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        numbers.try_into().ok()
    };
    std::str::from_utf8(text).ok()?.lines().map(row).collect()
}

/// The hard limit on open descriptors of a process; `None` is "no limit".
///
/// # Errors
/// As [`status`].
pub fn open_files(pid: u32) -> io::Result<Option<u64>> {
    parse_open_files(&read(directory(pid)?.as_fd(), "limits", MAX_SMALL)?).ok_or_else(|| malformed("limits"))
}

/// Parses the row "Max open files" of `/proc/PID/limits` (`proc_pid_limits(5)`): soft, hard, unit.
#[must_use]
pub fn parse_open_files(text: &[u8]) -> Option<Option<u64>> {
    parse_hard_limit(text, "Max open files ")
}

/// Parses the hard limit in one row of `/proc/PID/limits`; the inner `None` is "no limit".
#[must_use]
pub fn parse_hard_limit(text: &[u8], row: &str) -> Option<Option<u64>> {
    let text = std::str::from_utf8(text).ok()?;
    let row = text.lines().find_map(|line| line.strip_prefix(row))?;
    match row.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// The rank of a process, of its first thread, and its own limits.
fn rank_at(process: BorrowedFd<'_>, stat: &[u8]) -> io::Result<ProcessRank> {
    let (nice, scheduler) = parse_rank(stat).ok_or_else(|| malformed("stat"))?;
    let limits = read(process, "limits", MAX_SMALL)?;
    let hard = |row| parse_hard_limit(&limits, row).ok_or_else(|| malformed("limits"));
    let score = String::from_utf8_lossy(&read(process, "oom_score_adj", MAX_SMALL)?).trim().parse();
    Ok(ProcessRank {
        nice,
        scheduler,
        oom_score_adj: score.map_err(|_| malformed("oom_score_adj"))?,
        open_files: hard("Max open files ")?,
        core: hard("Max core file size ")?,
    })
}

/// Parses fields 19 and 41 of `/proc/PID/stat`: nice, and how it is scheduled.
#[must_use]
pub fn parse_rank(text: &[u8]) -> Option<(i32, u32)> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some((fields.get(19 - 3)?.parse().ok()?, fields.get(41 - 3)?.parse().ok()?))
}

/// The names of the interfaces in the network namespace of a process.
///
/// # Errors
/// As [`status`]; `EFBIG` when there are more than a jail of a plan could have by far.
pub fn interfaces(pid: u32) -> io::Result<Vec<String>> {
    Ok(parse_interfaces(&read(directory(pid)?.as_fd(), "net/dev", MAX_SMALL)?))
}

/// Parses `/proc/PID/net/dev` (`proc_pid_net(5)`): two lines of titles, then one for each interface. The kernel takes no colon
/// and no space into a name.
#[must_use]
pub fn parse_interfaces(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// The namespaces of a process that is no tenant's, by kind.
///
/// # Errors
/// As [`status`]; `EACCES` when the reader may not look at it.
pub fn namespaces_of(pid: u32) -> io::Result<BTreeMap<String, u64>> {
    namespaces(directory(pid)?.as_fd())
}

/// Every process that the reader can see.
///
/// # Errors
/// What reading `/proc` says.
pub fn pids() -> io::Result<Vec<u32>> {
    let names = file::names(file::open_dir(Path::new("/proc"))?)?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// What a process with one thread has started and not waited for (`proc_pid_children(5)`). Exact only while these cannot end.
///
/// # Errors
/// `ENOENT` when there is no such process, or the kernel was built without this file.
pub fn children(pid: u32) -> io::Result<Vec<u32>> {
    const MOST: usize = 64 << 10;
    let bytes = read(directory(pid)?.as_fd(), &format!("task/{pid}/children"), MOST)?;
    let text = String::from_utf8(bytes).map_err(|_| malformed("children"))?;
    text.split_whitespace().map(|number| number.parse().map_err(|_| malformed("children"))).collect()
}

/// The sockets that a process has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSockets {
    /// Each with its number and the inode that it alone has.
    pub sockets: Vec<(i32, u64)>,
    /// How many descriptors were looked at.
    pub looked: usize,
    /// Whether there were more.
    pub cut: bool,
}

/// The sockets among the first `most` descriptors that a process has open.
///
/// # Errors
/// `ENOENT` or `ESRCH` when there is no such process, `EACCES` when the reader may not look at it.
pub fn sockets(pid: u32, most: usize) -> io::Result<OpenSockets> {
    let dir = file::open_dir_at(directory(pid)?, "fd")?;
    let mut found = OpenSockets { sockets: Vec::new(), looked: 0, cut: false };
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        if found.looked == most {
            found.cut = true;
            break;
        }
        found.looked += 1;
        // Closed meanwhile.
        let Ok(link) = rustix::fs::readlinkat(&dir, entry.file_name(), Vec::new()) else { continue };
        found.sockets.extend(parse_socket(link.to_bytes()).map(|inode| (number, inode)));
    }
    Ok(found)
}

/// The inode of a socket, as the link of its descriptor has it.
#[must_use]
pub fn parse_socket(link: &[u8]) -> Option<u64> {
    std::str::from_utf8(link).ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Everything that a report needs of one process.
///
/// # Errors
/// `ENOENT` or `ESRCH` when it died, also meanwhile and when only its corpse is left; `EACCES` when the reader may not
/// look at it.
pub fn facts(pid: u32) -> io::Result<ProcessFacts> {
    let process = directory(pid)?;
    let process = process.as_fd();
    let status = status_at(process)?;
    let stat = read(process, "stat", MAX_SMALL)?;
    // Before the namespaces: a process that ends loses those first, so who has them still had its groups a moment ago.
    let cgroups = cgroups_at(process)?;
    Ok(ProcessFacts {
        pid,
        start_time: parse_start_time(&stat).ok_or_else(|| malformed("stat"))?,
        command: status.command,
        uids: status.uids,
        namespaces: namespaces(process)?,
        cap_bounding: status.cap_bounding,
        cap_permitted: status.cap_permitted,
        cap_inheritable: status.cap_inheritable,
        cap_ambient: status.cap_ambient,
        no_new_privs: status.no_new_privs,
        seccomp: status.seccomp,
        seccomp_filters: status.seccomp_filters,
        cgroups,
        rank: Some(rank_at(process, &stat)?),
    })
}

/// The namespaces of a process, of its first thread that lives: the leader may have ended before the others, and then
/// has none.
fn namespaces(process: BorrowedFd<'_>) -> io::Result<BTreeMap<String, u64>> {
    let all = |dir: BorrowedFd<'_>| -> io::Result<BTreeMap<String, u64>> {
        NAMESPACES.iter().map(|kind| Ok(((*kind).to_owned(), inode_at(dir, kind)?))).collect()
    };
    let error = match all(process) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => error,
        result => return result,
    };
    let threads = file::open_dir_at(process, "task")?;
    for thread in file::names(threads.as_fd())? {
        let thread = file::open_dir_at(threads.as_fd(), &thread);
        if let Some(found) = thread.ok().and_then(|thread| all(thread.as_fd()).ok()) {
            return Ok(found);
        }
    }
    Err(error)
}

/// The inode of a namespace below the directory of a process or thread.
pub(crate) fn inode_at(process: BorrowedFd<'_>, kind: &str) -> io::Result<u64> {
    // Following the link reaches the namespace itself; nothing in it is opened.
    let stat = rustix::fs::statat(process, format!("ns/{kind}"), AtFlags::empty())?;
    Ok(stat.st_ino)
}

/// A namespace of a process, opened.
pub(crate) fn namespace_at(process: BorrowedFd<'_>, kind: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(process, format!("ns/{kind}"), flags, Mode::empty())?)
}

/// The directory of a process, for [`crate::namespace`].
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    directory(pid)
}

/// What a look at a process tells that anybody may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its parent, as this process's pid namespace counts.
    pub parent: u32,
    /// First 15 bytes of the program's name; chosen by whoever runs it.
    pub command: String,
    /// Resident memory in bytes.
    pub memory: u64,
}

/// A look at a process.
///
/// # Errors
/// `ENOENT` or `ESRCH` when it is gone.
pub fn stat(pid: u32) -> io::Result<ProcessStat> {
    parse_stat(&read(directory(pid)?.as_fd(), "stat", MAX_SMALL)?).ok_or_else(|| malformed("stat"))
}

/// The same in the text of `/proc/PID/stat` (`proc_pid_stat(5)`, fields 2, 4 and 24).
#[must_use]
pub fn parse_stat(text: &[u8]) -> Option<ProcessStat> {
    // The name may hold anything, parentheses among it: it ends at the last one.
    let (begin, end) = (text.iter().position(|byte| *byte == b'(')?, text.iter().rposition(|byte| *byte == b')')?);
    let command = String::from_utf8_lossy(text.get(begin + 1..end)?).into_owned();
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let pages: u64 = fields.get(21)?.parse().ok()?;
    Some(ProcessStat { parent: fields.get(1)?.parse().ok()?, command, memory: pages.saturating_mul(page_size()) })
}

/// Bytes of a page of memory, as libc was told when this program began: the auxiliary vector itself cannot be read by an
/// undumpable process before Linux 6.4, and rustix panics then (its feature `param` is off, so that nobody tries).
fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// Bytes of memory that the machine has (`proc_meminfo(5)`, `MemTotal`).
///
/// # Errors
/// What reading the file says.
pub fn memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let kibibytes: Option<u64> = kibibytes.and_then(|number| number.trim().parse().ok());
    Ok(kibibytes.ok_or(io::ErrorKind::InvalidData)?.saturating_mul(1024))
}

/// Microseconds that the machine's processors have worked since it was booted, all together and for whomever
/// (`proc_stat(5)`, in steps of a clock tick).
///
/// # Errors
/// What reading the file says.
pub fn busy_micros() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    parse_busy(&text).ok_or_else(|| malformed("stat"))
}

/// What the kernel counts the time of processes in, in microseconds: `USER_HZ` is 100 on every architecture that Rust knows
/// (include/asm-generic/param.h). Asking for it means reading this process's auxiliary vector, which an undumpable process
/// cannot before Linux 6.4.
const MICROS_PER_TICK: u64 = 10_000;

fn parse_busy(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut next = || words.next()?.parse::<u64>().ok();
    // What guests used is counted in "user" and "nice" as well.
    let (user, nice, system, _idle, _waiting) = (next()?, next()?, next()?, next()?, next()?);
    let (interrupts, soft_interrupts) = (next()?, next()?);
    let ticks = user + nice + system + interrupts + soft_interrupts;
    Some(ticks.saturating_mul(MICROS_PER_TICK))
}

/// How many processes and threads the kernel lets there be: the lower of `kernel.pid_max` and `kernel.threads-max`.
///
/// # Errors
/// What reading the files says.
pub fn max_tasks() -> io::Result<u64> {
    let read = |name: &str| -> io::Result<u64> {
        std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))?.trim().parse().map_err(io::Error::other)
    };
    Ok(read("pid_max")?.min(read("threads-max")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sockets_are_told_from_other_descriptors() {
        assert_eq!(parse_socket(b"socket:[7]"), Some(7));
        for other in [&b"pipe:[7]"[..], b"socket:[]", b"socket:[7", b"socket:[-7]", b"/home/socket:[7]", b"\xff"] {
            assert_eq!(parse_socket(other), None, "{}", other.escape_ascii());
        }
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("pair");
        let own = sockets(std::process::id(), usize::MAX).expect("reads");
        let number = std::os::fd::AsRawFd::as_raw_fd(&a);
        assert!(own.sockets.iter().any(|(other, inode)| *other == number && *inode > 0) && !own.cut, "{own:?}");
        assert!(sockets(std::process::id(), 1).expect("reads").cut);
    }

    #[test]
    fn a_child_is_its_parents() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        // A thread's children are its own, and tests run in threads.
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let path = format!("/proc/{}/task/{tid}/children", std::process::id());
        let of_thread = std::fs::read_to_string(path).expect("reads");
        let of_sleep = children(child.id());
        child.kill().expect("kills");
        child.wait().expect("ends");
        assert!(of_thread.split_whitespace().any(|number| number == child.id().to_string()), "{of_thread:?}");
        assert_eq!(of_sleep.expect("reads"), Vec::<u32>::new());
        assert!(children(child.id()).is_err());
    }

    /// Of a process whose first thread has ended, and of a corpse. On version 1 the kernel shows both in the root of each hierarchy.
    #[test]
    fn who_is_ending_is_in_no_group_and_whose_first_thread_has_ended_is_in_those_of_the_others() {
        const PROGRAM: &str = "import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print('two threads', flush=True)
ctypes.CDLL(None).pthread_exit(None)";
        let mut child = std::process::Command::new("python3").args(["-c", PROGRAM]).spawn().expect("starts");
        let pid = child.id();
        let has_ended = || {
            let stat = std::fs::read(format!("/proc/{pid}/task/{pid}/stat")).expect("reads");
            parse_is_ending(&stat).expect("a stat")
        };
        while !has_ended() {
            std::thread::yield_now();
        }
        let groups = cgroups(pid);
        let own = cgroups(std::process::id()).expect("own groups");
        child.kill().expect("kills");
        rustix::process::waitid(
            rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .expect("ends");
        let of_corpse = cgroups(pid);
        child.wait().expect("ends");
        assert_eq!(groups.expect("it lives"), own);
        assert_eq!(of_corpse.expect_err("a corpse").raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn the_work_of_all_processors_is_what_is_neither_idle_nor_waiting() {
        assert_eq!(parse_busy("cpu  10 20 30 400 50 6 7 0 99 98\ncpu0 1 2\n"), Some(730_000));
        assert_eq!(parse_busy("cpu  10 20 30 400\n"), None);
        assert_eq!(parse_busy(""), None);
        assert!(busy_micros().expect("reads") > 0);
    }

    const STATUS: &str = "Name:\tevil\\nUid:\t0\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t7\nPPid:\t3\n\
        Uid:\t10000000\t10000001\t10000002\t10000003\nGid:\t1\t2\t3\t4\nNSpid:\t7\t1\nThreads:\t2\n\
        CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000001\nCapBnd:\t00000000a80425fb\n\
        CapAmb:\t0000000000000002\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn a_status_is_read_and_its_name_cannot_forge_a_line() {
        let status = parse_status(STATUS.as_bytes()).expect("parses");
        assert_eq!(status.command, "evil\\nUid:\t0");
        assert_eq!(status.uids, [10_000_000, 10_000_001, 10_000_002, 10_000_003]);
        assert_eq!((status.parent, status.threads, status.ns_pids.as_slice()), (3, 2, [7, 1].as_slice()));
        assert_eq!((status.cap_effective, status.cap_bounding, status.cap_ambient), (1, 0xa804_25fb, 2));
        assert!(status.no_new_privs);
        assert_eq!((status.seccomp, status.seccomp_filters), (2, 3));
    }

    #[test]
    fn a_truncated_status_is_an_error_and_never_a_default() {
        for (end, _) in STATUS.match_indices('\n').filter(|(end, _)| *end + 1 < STATUS.len()) {
            assert_eq!(parse_status(&STATUS.as_bytes()[..end]), None, "cut at {end}");
        }
    }

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
    fn interfaces_are_read_by_name() {
        let text = b"Inter-|   Receive | Transmit\n face |bytes |bytes\n    lo: 0 0\nveth-7@x:1 2\n";
        assert_eq!(parse_interfaces(text), ["lo", "veth-7@x"]);
        assert_eq!(parse_interfaces(b""), [""; 0]);
        assert!(interfaces(std::process::id()).expect("reads").contains(&"lo".to_owned()));
    }

    #[test]
    fn control_groups_of_both_versions() {
        let groups = parse_cgroups(b"9:name=systemd:/\n2:cpu,cpuacct:/a:b/c\n0::/x\n").expect("parses");
        let want = [("cpu", "/a:b/c"), ("cpuacct", "/a:b/c"), ("name=systemd", "/"), ("unified", "/x")];
        assert_eq!(groups, want.map(|(key, path)| (key.to_owned(), path.to_owned())).into());
        assert_eq!(parse_cgroups(b"9:name"), None);
    }

    #[test]
    fn a_mount_table_with_escapes_and_propagation() {
        let text = b"27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard\n\
            30 27 0:5 /x\\040y /a\\011b\\134c ro,nosuid,idmapped - tmpfs none rw,size=4k\n";
        let mounts = parse_mounts(text).expect("parses");
        assert_eq!(mounts[0].propagation, ["shared:1", "master:2"]);
        assert_eq!(mounts[0].super_options, ["rw", "discard"]);
        assert_eq!((mounts[1].root.as_str(), mounts[1].target.as_str()), ("/x y", "/a\tb\\c"));
        assert_eq!(mounts[1].options, ["ro", "nosuid", "idmapped"]);
        assert_eq!(parse_mounts(b"27 1 254:0 / / rw"), None);
        assert_eq!(parse_mounts(b"27 1 254:0 / / rw - ext4"), None);
    }

    #[test]
    fn escapes_that_are_none_are_kept() {
        for text in ["\\", "\\0", "\\04", "\\999", "\\04x", "a\\"] {
            assert_eq!(unescape(text), text);
        }
        assert_eq!(unescape("\\134040"), "\\040");
    }

    fn arranged(table: &[(u64, u64, &str)]) -> Vec<(String, bool)> {
        let lines =
            table.iter().map(|(id, parent, target)| format!("{id} {parent} 0:1 / {target} rw - tmpfs none rw\n"));
        let mounts = parse_mounts(lines.collect::<String>().as_bytes()).expect("parses");
        mounts.into_iter().map(|mount| (mount.target, mount.covered)).collect()
    }

    #[test]
    fn what_is_hidden_is_marked_whatever_the_order() {
        let rows = arranged(&[(3, 2, "/a"), (5, 2, "/a/b"), (7, 5, "/a/b/c"), (2, 1, "/"), (4, 2, "/ab")]);
        assert_eq!(
            rows,
            [("/", false), ("/a", false), ("/a/b", true), ("/a/b/c", true), ("/ab", false)]
                .map(|(target, covered)| (target.to_owned(), covered))
        );
        let stacked = arranged(&[(9, 3, "/a"), (3, 2, "/a"), (4, 3, "/a/b"), (2, 1, "/")]);
        assert_eq!(
            stacked,
            [("/", false), ("/a", true), ("/a", false), ("/a/b", true)]
                .map(|(target, covered)| (target.to_owned(), covered))
        );
        assert_eq!(arranged(&[(2, 1, "/"), (3, 2, "/")]), [("/".to_owned(), true), ("/".to_owned(), false)]);
    }

    #[test]
    fn id_maps() {
        let text = b"         0   10000000      65536\n";
        assert_eq!(parse_id_map(text), Some(vec![[0, 10_000_000, 65_536]]));
        assert_eq!(parse_id_map(b""), Some(Vec::new()));
        assert_eq!(parse_id_map(b"0 1"), None);
        assert_eq!(parse_id_map(b"0 1 2 3"), None);
        assert_eq!(parse_id_map(b"0 1 4294967296"), None);
    }

    #[test]
    fn the_hard_limit_on_open_files() {
        let text = b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max processes             1                    2                    processes \n\
            Max open files            1024                 4096                 files     \n";
        assert_eq!(parse_open_files(text), Some(Some(4096)));
        assert_eq!(parse_open_files(b"Max open files  5  unlimited  files\n"), Some(None));
        assert_eq!(parse_open_files(b"Max open files  5\n"), None);
        assert!(open_files(std::process::id()).is_ok());
    }

    #[test]
    fn this_process_has_facts_that_fit_together() {
        let pid = std::process::id();
        let facts = facts(pid).expect("own facts");
        let status = status(pid).expect("own status");
        assert_eq!(facts.uids[1], rustix::process::geteuid().as_raw());
        assert_eq!(facts.start_time, start_time(pid).expect("start time"));
        assert_eq!(facts.cgroups, cgroups(pid).expect("groups"));
        assert_eq!(facts.namespaces.len(), NAMESPACES.len());
        assert_eq!(status.ns_pids.first(), Some(&pid));
        assert!(pids().expect("list").contains(&pid));
        assert!(mounts(pid).expect("table").iter().any(|mount| mount.target == "/proc" && !mount.covered));
        assert!(!id_map(pid, IdKind::User).expect("map").is_empty());
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_and_so_is_a_corpse() {
        let mut child = std::process::Command::new("true").spawn().expect("spawns");
        let pid = child.id();
        // Not yet reaped: the directory is there, the namespaces and groups are not.
        while start_time(pid).is_ok()
            && !std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status").contains("zombie")
        {
            std::thread::yield_now();
        }
        assert_eq!(facts(pid).expect_err("gone").raw_os_error(), Some(libc::ESRCH));
        child.wait().expect("reaped");
        assert_eq!(facts(pid).expect_err("gone").raw_os_error(), Some(libc::ENOENT));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _status = parse_status(&text);
            let _time = parse_start_time(&text);
            let _groups = parse_cgroups(&text);
            let _mounts = parse_mounts(&text);
            let _map = parse_id_map(&text);
            let _files = parse_open_files(&text);
            let _rank = parse_rank(&text);
            let _interfaces = parse_interfaces(&text);
        }

        #[test]
        fn no_tree_of_mounts_loses_or_doubles_a_row(
            rows in proptest::collection::vec((0u64..12, 0u64..12, "(/[ab]{1,2}){1,3}"), 0..12)
        ) {
            let mut ids = HashSet::new();
            // Numbers are unique in a real table, and a parent always leads to the root.
            let rows: Vec<_> = rows.into_iter().filter(|(id, ..)| ids.insert(*id)).map(|(id, parent, target)| {
                (id, if parent < id { parent } else { 100 }, target)
            }).collect();
            let table: Vec<(u64, u64, &str)> = rows.iter().map(|(id, parent, target)| (*id, *parent, target.as_str())).collect();
            let mut got: Vec<String> = arranged(&table).into_iter().map(|(target, _)| target).collect();
            let mut want: Vec<String> = rows.into_iter().map(|(_, _, target)| target).collect();
            got.sort();
            want.sort();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn the_machine_has_memory_and_room_for_tasks() {
        assert!(memory_bytes().expect("reads") > 64 << 20);
        assert!(max_tasks().expect("reads") > 300);
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
