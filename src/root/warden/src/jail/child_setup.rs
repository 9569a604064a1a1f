//! Makes a jail, step by step, from the inside: runs in the child of `clone3`, as the tenant's root in the tenant's own
//! namespaces, and ends by becoming init.
//!
//! Danger: the order is the security. Nothing of the tenant's runs before the last step; every target is resolved below
//! the new root without following a link; mounts are sealed before Landlock, which forbids all further mounting; the
//! seccomp filter comes before the capabilities go, because loading it needs one; and the last step looks nothing up.

use crate::jail::step::{Step, reach};
use bailiwick_plan::kernel::{self, ANSWERED};
use bailiwick_plan::mount::{CANARY, Flags, HOST_ETC_LAYER, INIT, Mount, RUN, Source, TERMINALS};
use bailiwick_plan::seed::LOCAL_DIRS;
use bailiwick_plan::{CORE_LIMIT, JailPlan, Rlimit, kernel_memory, seccomp};
use bailiwick_sys::mount::{Parameter, attr};
use bailiwick_sys::signal::{SIGTERM, Signals};
use bailiwick_sys::{credential, file, landlock, mount, network, process, signal, socket};
use bailiwick_types::ByteSize;
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the warden leaves the listening socket of init.
const LISTENER: i32 = 3;
/// Directories that every host has. The new root is put on the first before it becomes the root, a private file system
/// with the masks on the second, and a whole sysfs on the third; all are left behind with the host's tree.
const STAGE: [&str; 3] = ["/usr", "/etc", "/sys"];
/// The most that is read of a file of the kernel which is answered: one line for each processor and interrupt.
const MAX_ANSWERED: usize = 1 << 20;
/// What the child reports once it is in its Landlock domain, before anything else: no text of a [`Report`] begins so.
pub(crate) const LANDLOCKED: u8 = b'L';

/// Where the layers of an overlay are while it is made: the host's, the tenant's, and the one between.
const LOWER: &str = "lower";
const UPPER: &str = "upper";
const HIDDEN: &str = "hidden";
/// What the one between hides.
const LOCAL: &str = "local";

/// What a row of the mount table is made from, opened outside.
#[derive(Debug)]
pub(crate) enum Sources {
    /// Nothing: the row is made inside.
    Fresh,
    /// With the host's ids.
    Plain(OwnedFd),
    /// With the jail's ids.
    Mapped(OwnedFd),
    /// The layers of an overlay, both with the jail's ids.
    Overlay {
        /// The host's directory.
        lower: OwnedFd,
        /// The tenant's directory with `upper` and `work`, if it has any.
        upper: Option<OwnedFd>,
    },
}

impl Sources {
    /// Every mount.
    pub(crate) fn all(&self) -> Vec<&OwnedFd> {
        match self {
            Self::Fresh => Vec::new(),
            Self::Plain(fd) | Self::Mapped(fd) => vec![fd],
            Self::Overlay { lower, upper } => [lower].into_iter().chain(upper).collect(),
        }
    }

    /// Those that are shown through the jail's id map.
    pub(crate) fn into_mapped(self) -> Vec<OwnedFd> {
        match self {
            Self::Fresh | Self::Plain(_) => Vec::new(),
            Self::Mapped(fd) => vec![fd],
            Self::Overlay { lower, upper } => [lower].into_iter().chain(upper).collect(),
        }
    }
}

/// The flags of a row as `mount_setattr(2)` takes them.
pub(crate) fn attributes(flags: Flags) -> u64 {
    [
        (Flags::READ_ONLY, attr::READ_ONLY),
        (Flags::NO_SUID, attr::NO_SUID),
        (Flags::NO_DEV, attr::NO_DEV),
        (Flags::NO_EXEC, attr::NO_EXEC),
    ]
    .into_iter()
    .fold(0, |set, (flag, bit)| if flags.has(flag) { set | bit } else { set })
}

/// What the child needs.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) plan: &'a JailPlan,
    pub(crate) sources: Vec<Sources>,
    /// A byte comes when the ids are mapped; the end without one means that the warden gave up.
    pub(crate) go: OwnedFd,
    /// First the listening socket goes out here, then what went wrong.
    pub(crate) report: OwnedFd,
}

/// What went wrong, for the warden.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) step: Step,
    pub(crate) at: String,
    pub(crate) errno: Option<i32>,
    pub(crate) message: String,
}

/// A step that failed, on which object.
struct Failed {
    step: Step,
    at: String,
    source: io::Error,
}

fn at(step: Step, object: &str) -> impl FnOnce(io::Error) -> Failed {
    let at = object.to_owned();
    move |source| Failed { step, at, source }
}

/// Runs in the child and never returns.
pub(crate) fn run(inside: Inside<'_>) -> ! {
    let report = match inside.report.try_clone() {
        Ok(report) => report,
        Err(_) => process::exit_now(1),
    };
    let Err(failed) = inside.run();
    let text = Report {
        step: failed.step,
        at: failed.at,
        errno: failed.source.raw_os_error(),
        message: failed.source.to_string(),
    };
    // If the warden is gone, nobody hears it and nobody needs to.
    if let Ok(text) = serde_json::to_vec(&text) {
        rustix::io::write(&report, &text).ok();
    }
    process::exit_now(1)
}

impl Inside<'_> {
    fn run(mut self) -> Result<std::convert::Infallible, Failed> {
        let step = |step: Step| reach(step).map_err(at(step, ""));
        let plan = self.plan;

        // Here, where the network is the jail's already: a socket keeps the one that it was made in.
        step(Step::Listener)?;
        let listener = self.hand_out_listener().map_err(at(Step::Listener, ""))?;
        let here = at(Step::Identity, "");
        self.wait().map_err(here)?;
        step(Step::Identity)?;
        identity().map_err(at(Step::Identity, ""))?;

        step(Step::Root)?;
        mount::make_all_private().map_err(at(Step::Root, ""))?;
        let masks = Masks::new(&plan.mounts).map_err(at(Step::Root, "masks"))?;
        let sysfs = stage_sysfs().map_err(at(Step::Root, "/sys"))?;
        let sources = std::mem::take(&mut self.sources);
        let mut rows = plan.mounts.iter().zip(sources);
        let (root_row, root_source) = rows.next().expect("the first row of every table is the root");
        let root = stage(root_row, root_source).map_err(at(Step::Root, "/"))?;

        step(Step::Mounts)?;
        for (row, source) in rows {
            put(&root, row, source, &masks, &sysfs, kernel_memory::counts(plan.profile))
                .map_err(at(Step::Mounts, &row.target))?;
        }
        hide_unlisted(&root, &masks)?;
        make_run(&root).map_err(at(Step::Mounts, "/run"))?;
        for link in &plan.links {
            match rustix::fs::symlinkat(link.to.as_str(), &root, link.path.trim_start_matches('/')) {
                // In a root that is the tenant's own they are there already, or are what the tenant made of them.
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(at(Step::Mounts, &link.path)(error.into())),
            }
        }
        if plan.landlock.handled != 0 {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            file::open_at(&root, CANARY.trim_start_matches('/'), flags, Mode::from_raw_mode(0o444))
                .map_err(at(Step::Mounts, CANARY))?;
        }
        if root_row.flags.has(Flags::READ_ONLY) {
            mount::set_attributes(&root, attr::READ_ONLY, None).map_err(at(Step::Mounts, "/"))?;
        }

        step(Step::Pivot)?;
        rustix::process::fchdir(&root).map_err(|error| at(Step::Pivot, "")(error.into()))?;
        mount::pivot_to_current_directory().map_err(at(Step::Pivot, ""))?;

        step(Step::Settings)?;
        self.settings().map_err(at(Step::Settings, ""))?;

        step(Step::Confine)?;
        let init =
            file::open_at(rustix_root().map_err(at(Step::Confine, "/"))?, &INIT[1..], OFlags::PATH, Mode::empty())
                .map_err(at(Step::Confine, INIT))?;
        self.confine()?;

        step(Step::Exec)?;
        Err(at(Step::Exec, INIT)(self.become_init(&init, &listener)))
    }

    /// The socket that init will listen on. The warden binds it where no tenant could.
    fn hand_out_listener(&self) -> io::Result<OwnedFd> {
        let listener = socket::unbound()?;
        socket::send(&self.report, b"s", &[listener.as_fd()])?;
        Ok(listener)
    }

    fn wait(&self) -> io::Result<()> {
        let mut byte = [0];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.go, &mut byte))? {
            1 => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn settings(&self) -> io::Result<()> {
        rustix::system::sethostname(self.plan.hostname.as_bytes())?;
        network::loopback_up()?;
        for rlimit in &self.plan.rlimits {
            match rlimit {
                Rlimit::OpenFiles(count) => credential::set_rlimit(rustix::process::Resource::Nofile, *count)?,
                Rlimit::NoCore => credential::set_rlimit(rustix::process::Resource::Core, CORE_LIMIT)?,
            }
        }
        Ok(())
    }

    fn confine(&self) -> Result<(), Failed> {
        let domain = &self.plan.landlock;
        let mut rules = Vec::new();
        for rule in &domain.rules {
            let fd = rustix::fs::open(rule.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| at(Step::Confine, rule.path)(error.into()))?;
            rules.push((fd, rule.access));
        }
        landlock::restrict(domain.handled, domain.scoped, rules)
            .map_err(|error| at(Step::Confine, "landlock")(error.into()))?;
        // Every profile has a domain, if one of scopes alone, and the warden takes silence for a failure.
        rustix::io::write(&self.report, &[LANDLOCKED]).map_err(|error| at(Step::Confine, "landlock")(error.into()))?;
        let program: Vec<(u16, u8, u8, u32)> = seccomp::filter(self.plan.profile)
            .iter()
            .map(|instruction| (instruction.code, instruction.jt, instruction.jf, instruction.k))
            .collect();
        bailiwick_sys::seccomp::load(&program).map_err(at(Step::Confine, "seccomp"))?;
        credential::reset_secure_bits().map_err(at(Step::Confine, "secure bits"))?;
        credential::limit_capabilities(self.plan.capabilities.0).map_err(at(Step::Confine, "capabilities"))?;
        if self.plan.no_new_privs {
            credential::set_no_new_privs().map_err(at(Step::Confine, "no_new_privs"))?;
        }
        Ok(())
    }

    /// Comes back only with an error.
    fn become_init(&self, init: &OwnedFd, listener: &OwnedFd) -> io::Error {
        let prepare = || -> io::Result<OwnedFd> {
            // Out of the way of the numbers that are about to be overwritten.
            let init = rustix::io::fcntl_dupfd_cloexec(init, 16)?;
            let listener = rustix::io::fcntl_dupfd_cloexec(listener, 16)?;
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            let null = rustix::io::fcntl_dupfd_cloexec(&null, 16)?;
            rustix::io::fcntl_dupfd_cloexec(&self.report, 16)?;
            for stream in 0..3 {
                process::place(&null, stream)?;
            }
            // The report's own number may be 3: `run` holds a copy, and that copy is marked below as all are.
            process::close_on_exec_from(3)?;
            process::place(&listener, LISTENER)?;
            // A jail that is ended before init listens to signals: PID 1 loses a signal that it neither blocks nor
            // handles (pid_namespaces(7)), and the warden would wait in vain. Blocked, it waits for init.
            drop(Signals::block(&[SIGTERM])?);
            Ok(init)
        };
        match prepare() {
            Ok(init) => process::execute(init, &[CString::from(c"bailiwick-init")], &[]),
            Err(error) => error,
        }
    }
}

fn rustix_root() -> io::Result<OwnedFd> {
    file::open_dir(std::path::Path::new("/"))
}

/// Becomes root of the jail, with nothing of the warden's left, and takes the control group it was born in as the root
/// of the groups that it sees: `clone3` made that namespace from the warden's place, one step too early.
fn identity() -> io::Result<()> {
    signal::unblock_all()?;
    credential::become_for_good(0, 0)?;
    credential::set_undumpable()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid()?;
    process::new_cgroup_namespace()
}

/// Puts the new root onto a directory of the host's tree, seen by this mount namespace alone.
fn stage(row: &Mount, source: Sources) -> io::Result<OwnedFd> {
    let root = match (&row.source, source) {
        (Source::Tmpfs { size, mode }, Sources::Fresh) => tmpfs(*size, *mode, row.flags_while_built())?,
        (_, Sources::Mapped(fd)) => fd,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let target = rustix::fs::open(STAGE[0], OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(&root, &target)?;
    Ok(root)
}

fn tmpfs(size: ByteSize, mode: u32, flags: Flags) -> io::Result<OwnedFd> {
    let (size, mode) = (size.0.to_string(), format!("{mode:o}"));
    let parameters = [Parameter::Text("size", &size), Parameter::Text("mode", &mode)];
    mount::new_file_system("tmpfs", &parameters, attributes(flags))
}

/// A whole sysfs of the jail's network, of which only parts are shown.
fn stage_sysfs() -> io::Result<OwnedFd> {
    let flags = attributes(Flags::READ_ONLY.and(Flags::NO_SUID).and(Flags::NO_DEV).and(Flags::NO_EXEC));
    let fresh = mount::new_file_system("sysfs", &[], flags)?;
    // Before 6.15 only what is attached can be copied.
    let target = rustix::fs::open(STAGE[2], OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(&fresh, &target)?;
    Ok(fresh)
}

/// On one file system of the jail's own, of which only parts are shown: an empty file and an empty directory to hide
/// with, the tree of `/sys` without its content, and the files that are ours. The layers of an overlay are there while it is made.
struct Masks {
    tree: OwnedFd,
    file: OwnedFd,
    dir: OwnedFd,
}

impl Masks {
    fn new(rows: &[Mount]) -> io::Result<Self> {
        let flags = Flags::READ_ONLY.and(Flags::NO_SUID).and(Flags::NO_DEV).and(Flags::NO_EXEC);
        let fresh = mount::new_file_system("tmpfs", &[Parameter::Text("size", "1M")], attributes(Flags::NO_DEV))?;
        file::open_at(&fresh, "file", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::empty())?;
        file::make_dir_at(&fresh, "dir", 0)?;
        for row in rows {
            match row.source {
                Source::Skeleton => drop(ensure(&fresh, &row.target, true)?),
                // What this kernel has not got is not seen as an empty file either.
                Source::Sysfs(_) => {
                    if let Ok(facts) = std::fs::symlink_metadata(&row.target) {
                        ensure(&fresh, &row.target, facts.is_dir())?;
                    }
                }
                Source::Group(_) => drop(ensure(&fresh, &row.target, true)?),
                _ => {}
            }
        }
        for answer in ANSWERED {
            let kernel = file::open_file_at(rustix_root()?, answer.path().trim_start_matches('/'))?;
            let kernel = file::read_bounded(kernel, MAX_ANSWERED)?;
            let name = answer.path().trim_start_matches("/proc/");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let ours = file::open_at(&fresh, name, flags, Mode::from_raw_mode(0o444))?;
            std::fs::File::from(ours).write_all(answer.text(&String::from_utf8_lossy(&kernel)).as_bytes())?;
        }
        for layer in [LOWER, HOST_ETC_LAYER, UPPER, HIDDEN] {
            file::make_dir_at(&fresh, layer, 0o755)?;
        }
        if rows.iter().any(|row| matches!(row.source, Source::Overlay { upper: Some(_), .. })) {
            hide_local(&fresh)?;
        }
        mount::set_attributes(&fresh, attributes(flags), None)?;
        // Before 6.15 only what is attached can be copied.
        let target = rustix::fs::open(STAGE[1], OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        mount::attach(&fresh, &target)?;
        let open = |name| file::open_at(&fresh, name, OFlags::PATH, Mode::empty());
        Ok(Self { file: open("file")?, dir: open("dir")?, tree: fresh })
    }

    /// A copy of a part of it, which has its flags.
    fn part(&self, path: &str) -> io::Result<OwnedFd> {
        mount::detached_copy(&self.tree, path.trim_start_matches('/'))
    }

    /// A copy of what hides the target.
    fn over(&self, target: &OwnedFd) -> io::Result<OwnedFd> {
        mount::detached_copy_of(if is_directory(target)? { &self.dir } else { &self.file })
    }
}

/// Hides what the kernel has below `/proc` and no list names. What it has is looked up here and now, in the jail's own
/// procfs, so that nothing rests on what somebody knew of the host before.
fn hide_unlisted(root: &OwnedFd, masks: &Masks) -> Result<(), Failed> {
    for (path, listed) in kernel::LISTED {
        let names = || file::names(file::open_dir_at(root, path.trim_start_matches('/'))?);
        for name in names().map_err(at(Step::Mounts, path))? {
            let name = name.to_string_lossy();
            if kernel::is_listed(listed, &name) {
                continue;
            }
            let path = format!("{path}/{name}");
            let target = match mount::target(root, &path) {
                Ok(target) => target,
                // What a link leads to is looked at by itself, and what went away meanwhile needs no hiding.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => continue,
                Err(error) => return Err(at(Step::Mounts, &path)(error)),
            };
            let hide = || mount::attach(masks.over(&target)?, &target);
            hide().map_err(at(Step::Mounts, &path))?;
        }
    }
    Ok(())
}

/// Makes the directories of `/run`, in the file system that is mounted there.
fn make_run(root: &OwnedFd) -> io::Result<()> {
    let run = mount::target(root, "/run")?;
    for (path, mode, owner) in RUN {
        file::make_dir_at(&run, path, 0o700)?;
        let made = file::open_dir_at(&run, path)?;
        rustix::fs::fchown(&made, Some(rustix::fs::Uid::from_raw(*owner)), Some(rustix::fs::Gid::from_raw(*owner)))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(*mode))?;
    }
    Ok(())
}

/// Bounds what the kernel counts in this user namespace: `/proc/sys/user` is that of whoever opens it.
fn count(proc: &OwnedFd, counts: &[(&str, u64)]) -> io::Result<()> {
    for (name, most) in counts {
        let file = file::open_at(proc, format!("sys/user/{name}"), OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(&file, most.to_string().as_bytes())?;
    }
    Ok(())
}

/// Makes a `/usr/local` in the layer between that hides the host's: what the tenant has in its own is seen as before. A
/// directory may have such an attribute in memory since Linux 6.6, which is older than what `system` needs.
fn hide_local(layers: &OwnedFd) -> io::Result<()> {
    let hidden = file::open_dir_at(layers, HIDDEN)?;
    file::make_dir_at(&hidden, LOCAL, 0o755)?;
    let local = file::open_dir_at(&hidden, LOCAL)?;
    for name in LOCAL_DIRS {
        file::make_dir_at(&local, name, 0o755)?;
    }
    Ok(rustix::fs::fsetxattr(&local, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::CREATE)?)
}

/// Makes one row.
fn put(
    root: &OwnedFd,
    row: &Mount,
    source: Sources,
    masks: &Masks,
    sysfs: &OwnedFd,
    counts: &[(&str, u64)],
) -> io::Result<()> {
    if row.source == Source::Mask {
        // After the last row, with all that the kernel has by then.
        return Ok(());
    }
    if row.only_if_present() {
        let target = match mount::target(root, &row.target) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let fd = match row.source {
            Source::Itself => {
                let fd = mount::detached_copy_of(&target)?;
                mount::set_attributes(&fd, attributes(row.flags), None)?;
                fd
            }
            // A copy has the flags of its original.
            Source::Sysfs(part) => mount::detached_copy(sysfs, part)?,
            Source::Answer(answer) => masks.part(answer.path().trim_start_matches("/proc"))?,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        return mount::attach(&fd, &target);
    }
    let flags = attributes(row.flags);
    let fd = match (&row.source, source) {
        (Source::HostEtc, Sources::Plain(lower)) => {
            let overlay = overlay(masks, HOST_ETC_LAYER, &lower, None, row.flags)?;
            return mount::attach(&overlay, ensure(root, &row.target, true)?);
        }
        (_, Sources::Plain(fd) | Sources::Mapped(fd)) => fd,
        (_, Sources::Overlay { lower, upper }) => {
            let overlay = overlay(masks, LOWER, &lower, upper.as_ref(), row.flags)?;
            return mount::attach(&overlay, ensure(root, &row.target, true)?);
        }
        (Source::Tmpfs { size, mode }, Sources::Fresh) => tmpfs(*size, *mode, row.flags)?,
        (Source::Proc, Sources::Fresh) => {
            // What a process may not trace is hidden from it, but for root: PID 1 is traced by nobody, and is there.
            let options = [Parameter::Text("hidepid", "invisible"), Parameter::Text("gid", "0")];
            let proc = mount::new_file_system("proc", &options, flags)?;
            count(&proc, counts)?;
            proc
        }
        (Source::Skeleton, Sources::Fresh) => masks.part(&row.target)?,
        (Source::Devpts, Sources::Fresh) => mount::new_file_system(
            "devpts",
            &[
                Parameter::Text("ptmxmode", "0666"),
                Parameter::Text("mode", "0620"),
                Parameter::Text("gid", "5"),
                Parameter::Text("max", &TERMINALS.to_string()),
            ],
            flags,
        )?,
        (Source::Mqueue, Sources::Fresh) => mount::new_file_system("mqueue", &[], flags)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let target = ensure(root, &row.target, is_directory(&fd)?)?;
    mount::attach(&fd, &target)
}

fn is_directory(fd: impl AsFd) -> io::Result<bool> {
    Ok(file::metadata(fd)?.kind == rustix::fs::FileType::Directory)
}

/// Opens a row's target; makes it, with its parents, where the root that is being built does not have it yet.
fn ensure(root: &OwnedFd, path: &str, directory: bool) -> io::Result<OwnedFd> {
    match mount::target(root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let mut parent: Option<OwnedFd> = None;
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let (last, above) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    for name in above {
        let dir = file::ensure_dir_at(parent.as_ref().map_or(root.as_fd(), AsFd::as_fd), name, 0o755)?;
        parent = Some(dir);
    }
    let parent: BorrowedFd<'_> = parent.as_ref().map_or(root.as_fd(), AsFd::as_fd);
    if directory {
        file::make_dir_at(parent, last, 0o755)?;
    } else {
        file::open_at(parent, last, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o444))?;
    }
    mount::target(root, path)
}

/// Mounts an overlay inside the user namespace (`userxattr`, kernel documentation, filesystems/overlayfs), so that its
/// upper layer is written as the jail's root. Its layers must have a path while it is made: they get one out of the
/// tenant's sight, the host's under a name that the audit sees, and lose it again.
///
/// Between the host's layer and the tenant's lies a third. An overlay that is only read needs two, and where the tenant has
/// one, it hides the operator's own programs: the host's `/usr/local` is not part of the image.
fn overlay(masks: &Masks, name: &str, lower: &OwnedFd, upper: Option<&OwnedFd>, flags: Flags) -> io::Result<OwnedFd> {
    mount::attach(lower, mount::target(&masks.tree, name)?)?;
    if let Some(upper) = upper {
        mount::attach(upper, mount::target(&masks.tree, UPPER)?)?;
    }
    rustix::process::fchdir(&masks.tree)?;
    let is_written = !flags.has(Flags::READ_ONLY);
    let (layers, written): (String, &[Parameter<'_>]) = match upper {
        // The host's first: the root of the overlay looks like the first layer's.
        None => (format!("{name}:{HIDDEN}"), &[]),
        Some(_) if is_written => (
            format!("{HIDDEN}:{name}"),
            &[Parameter::Text("upperdir", "upper/upper"), Parameter::Text("workdir", "upper/work")],
        ),
        Some(_) => (format!("upper/upper:{HIDDEN}:{name}"), &[]),
    };
    // Without `xino` a file seems to lie on another device than its directory, and `tar --one-file-system` leaves it out.
    let mut parameters =
        vec![Parameter::Text("lowerdir", &layers), Parameter::Text("xino", "auto"), Parameter::Flag("userxattr")];
    parameters.extend_from_slice(written);
    let overlay = mount::new_file_system("overlay", &parameters, attributes(flags))?;
    mount::detach(std::path::Path::new(name))?;
    if upper.is_some() {
        mount::detach(std::path::Path::new(UPPER))?;
    }
    rustix::process::chdir("/")?;
    if is_written {
        prove_writable(&overlay)?;
    }
    Ok(overlay)
}

/// An overlay whose upper layer cannot be written is mounted read-only without a word: prove that it is not.
fn prove_writable(overlay: &OwnedFd) -> io::Result<()> {
    let name = ".bailiwick-writable";
    file::remove_file_at(overlay, name)?;
    file::open_at(overlay, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o600))?;
    file::remove_file_at(overlay, name)
}
