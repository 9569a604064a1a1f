//! The outside of a start, step by step. The inside is in `child_setup`.
//!
//! Danger: between `clone3` and the child's report, a process with the tenant's identity runs our code. It has copies
//! of this process's memory. No process of the tenant exists in the new namespaces until init runs; before that,
//! nothing that belongs to another tenant may be within reach.

use crate::jail::child_mounts::{self, Sources};
use crate::jail::child_setup::{self, Inside, JailNetwork};
use crate::jail::record::{Record, confinement_digest};
use crate::jail::step::{Step, reach};
use crate::limits::cgroups::Groups;
use crate::limits::tenant_groups::{GroupError, TenantGroups};
use crate::net_client::NetAsk;
use crate::runtime::Runtime;
use crate::storage::layout::Storage;
use bailiwick_plan::mount::{Flags, Mount, Source};
use bailiwick_plan::{JailPlan, OOM_SCORE};
use bailiwick_proto::NetRequest;
use bailiwick_sys::process::{ALL_NAMESPACES, Cloned};
use bailiwick_sys::{credential, mount, namespace, process, socket};
use bailiwick_types::{Access, IdRange, Nesting, NetworkInForce, Profile, QuotaFacts, TenantName};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the child may take to become init. It is generous: a loaded host is slow, not broken.
const CHILD_TIME: Duration = Duration::from_secs(20);
/// The most bytes of a child's report.
const MAX_REPORT: usize = 4096;

/// Why a jail could not be made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("cannot {purpose}{at} (step \"{step}\")", purpose = step.purpose())]
pub(crate) struct BuildError {
    step: Step,
    /// The row or file, with a leading space; empty if the step has only one object.
    at: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl BuildError {
    fn new(step: Step, at: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let at = if at.is_empty() { String::new() } else { format!(" \"{at}\"") };
        Self { step, at, source: source.into() }
    }

    pub(crate) fn at(step: Step) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(step, "", source)
    }

    fn of_group(step: Step) -> impl FnOnce(GroupError) -> Self {
        move |source| Self::new(step, "", source)
    }
}

/// What a jail is made from.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    pub(crate) plan: &'a JailPlan,
    pub(crate) storage: &'a Storage,
    pub(crate) runtime: &'a Runtime,
    pub(crate) groups: &'a Groups,
    pub(crate) init: &'a OwnedFd,
    pub(crate) web: &'a OwnedFd,
    pub(crate) mail: &'a OwnedFd,
    /// The directory of the lent sockets of the host.
    pub(crate) host_sockets: &'a OwnedFd,
    /// The copies of the host's `/etc` that jails see.
    pub(crate) host_etc: BorrowedFd<'a>,
    pub(crate) quota: &'a QuotaFacts,
    /// Its network; `None` for a loopback alone.
    pub(crate) network: Option<&'a JailNetwork>,
}

/// A jail whose child is becoming init.
#[derive(Debug)]
pub(crate) struct StartingChild {
    pid: u32,
    /// Held until the child is init or has ended.
    pub(crate) pidfd: OwnedFd,
    /// Brings the child's listening socket first, then [`child_setup::LANDLOCKED`] and its end, or a failure. The end
    /// comes when the child is init.
    report: OwnedFd,
    /// What the warden must do before the child may go on; `None` once it may.
    held: Option<Held>,
    connection: Connection,
    /// What it is connected with; `None` for a loopback alone.
    in_force: Option<NetworkInForce>,
    tenant: TenantName,
    /// Whether the child reported its Landlock domain. Nothing that runs later can leave the domain, and the kernel
    /// never shows it again.
    landlock: bool,
    /// The jail's network namespace, read from the child's socket.
    network: Option<u64>,
    runtime: OwnedFd,
    group: OwnedFd,
    ids: IdRange,
    access: Access,
    profile: Profile,
    nesting: Nesting,
    /// When the child's time is over.
    pub(crate) deadline: Instant,
}

/// How far the connection of a jail to the router is. The child makes its root meanwhile.
#[derive(Debug)]
enum Connection {
    /// It needs one, with this number.
    Wanted(u32),
    /// `bailiwick-net` was asked. A second byte tells the child that it is connected.
    Asked { ask: NetAsk, go: OwnedFd },
    /// It is connected, or needs no connection.
    Whole,
}

/// What a child waits for after it has made its socket.
#[derive(Debug)]
struct Held {
    /// One byte means "go". The end without it means that the warden gave up.
    go: OwnedFd,
    /// Mounts that need the child's id map, with the path of each.
    mapped: Vec<(String, OwnedFd)>,
}

/// Why a jail could not be made, and its killed child, if there is one.
pub(crate) type FailedStart = (BuildError, Option<OwnedFd>);

impl Builder<'_> {
    /// Takes the steps from [`Step::Storage`] to the child. If one fails, the caller removes the results of the
    /// others. [`StartingChild::advance`] takes the remaining steps as the child reports.
    pub(crate) fn begin(&self) -> Result<StartingChild, FailedStart> {
        let mut child = None;
        self.steps(&mut child).map_err(|error| (error, child.inspect(kill)))
    }

    fn steps(&self, child: &mut Option<OwnedFd>) -> Result<StartingChild, BuildError> {
        let plan = self.plan;
        let take = |step| reach(step).map_err(BuildError::at(step));

        take(Step::Storage)?;
        self.storage.ensure_bound(plan, self.quota).map_err(|error| BuildError::new(Step::Storage, "", error))?;

        take(Step::Runtime)?;
        let runtime = self.runtime.make(&plan.tenant).map_err(BuildError::at(Step::Runtime))?;

        take(Step::Groups)?;
        let groups = self.groups.create(&plan.tenant).map_err(BuildError::of_group(Step::Groups))?;

        take(Step::Limits)?;
        groups.limit(&plan.controls).map_err(BuildError::of_group(Step::Limits))?;

        take(Step::Sources)?;
        let sources = self.sources(&groups)?;

        take(Step::Clone)?;
        let (go_read, go_write) = pipe(Step::Clone)?;
        let (report_read, report_write) = socket::pair().map_err(BuildError::at(Step::Clone))?;
        let keep = sources.iter().flat_map(Sources::all).chain([&go_read, &report_write]).map(AsFd::as_fd);
        let keep: Vec<_> = keep.collect();
        let (pid, pidfd) = match self.clone(&groups, &keep).map_err(BuildError::at(Step::Clone))? {
            Cloned::Child => {
                let inside = Inside { plan, sources, network: self.network, go: go_read, report: report_write };
                child_setup::run(inside)
            }
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((go_read, report_write));
        // From here on a child waits. It must not outlive a failure.
        let pidfd = &*child.insert(pidfd);
        let rows = plan.mounts.iter().zip(sources);
        let mapped = rows.flat_map(|(row, source)| source.into_mapped().into_iter().map(|fd| (row.target.clone(), fd)));
        let held = Held { go: go_write, mapped: mapped.collect() };
        Ok(StartingChild {
            pid,
            pidfd: pidfd.try_clone().map_err(BuildError::at(Step::Socket))?,
            report: report_read,
            held: Some(held),
            connection: self.network.map_or(Connection::Whole, |network| Connection::Wanted(network.number)),
            in_force: self.network.map(|network| NetworkInForce {
                resolvers: network.resolvers.clone(),
                settings: network.settings.clone(),
            }),
            tenant: plan.tenant.clone(),
            landlock: false,
            network: None,
            runtime,
            group: groups.jail,
            ids: plan.ids,
            access: plan.access,
            profile: plan.profile,
            nesting: plan.nesting,
            deadline: Instant::now() + CHILD_TIME,
        })
    }

    /// Opens everything that is mounted from outside, as detached mounts with their flags set, while this process
    /// still sees the host.
    fn sources(&self, groups: &TenantGroups) -> Result<Vec<Sources>, BuildError> {
        let storage = |name| self.storage.mount(&self.plan.tenant, name);
        let open = |source: &Source| -> io::Result<Sources> {
            Ok(match source {
                Source::Device(name) => Sources::Plain(mount::detached_copy(rustix::fs::CWD, format!("/dev/{name}"))?),
                Source::Group(hierarchy) => Sources::Plain(mount::detached_copy_of(groups.shown(hierarchy)?)?),
                Source::HostEtc => Sources::Plain(mount::detached_copy_of(self.host_etc)?),
                Source::Init => Sources::Plain(mount::detached_copy_of(self.init)?),
                Source::Web => Sources::Plain(mount::detached_copy_of(self.web)?),
                Source::Mail => Sources::Plain(mount::detached_copy_of(self.mail)?),
                Source::HostSockets => Sources::Plain(mount::detached_copy_of(self.host_sockets)?),
                Source::Storage(name) => Sources::Mapped(storage(name)?),
                Source::Overlay { lower, upper } => Sources::Overlay {
                    lower: mount::detached_copy(rustix::fs::CWD, lower)?,
                    upper: upper.map(storage).transpose()?,
                },
                Source::JailTmpfs(_)
                | Source::Tmpfs { .. }
                | Source::Proc
                | Source::Skeleton
                | Source::Sysfs(_)
                | Source::Answer(_)
                | Source::Devpts
                | Source::Mqueue
                | Source::Mask
                | Source::Itself => Sources::Fresh,
            })
        };
        let mut sources = Vec::with_capacity(self.plan.mounts.len());
        for row in &self.plan.mounts {
            let at = |source| BuildError::new(Step::Sources, &row.target, source);
            let opened = open(&row.source).map_err(at)?;
            for fd in opened.all() {
                mount::replace_attributes(fd, child_mounts::attributes(outside_flags(row))).map_err(at)?;
            }
            sources.push(opened);
        }
        Ok(sources)
    }

    /// Makes the child in all of the tenant's control groups, in a user namespace that belongs to the tenant's first
    /// host id. Only the effective ids change, and only around this call.
    fn clone(&self, groups: &TenantGroups, keep: &[BorrowedFd<'_>]) -> io::Result<Cloned> {
        let _visit = self.groups.visit(groups).map_err(io::Error::other)?;
        let ids = self.plan.ids;
        credential::set_effective_group(ids.root_gid().0)?;
        let cloned = credential::set_effective_user(ids.root_uid().0)
            .and_then(|()| process::clone_into(ALL_NAMESPACES, Some(groups.jail.as_fd()), keep));
        if let Ok(Cloned::Child) = cloned {
            // The child stays in the tenant's groups: it must not run the destructor, which returns to the warden's.
            std::mem::forget(_visit);
            return cloned;
        }
        // A warden that cannot become root again has no rights, and must not go on.
        credential::set_effective_user(0).expect("the real user is root");
        credential::set_effective_group(0).expect("the real group is root");
        cloned
    }
}

/// The flags that are set outside. An overlay has its own flags: its layers are never visible, and it writes to them.
fn outside_flags(row: &Mount) -> Flags {
    let flags = row.flags_while_built();
    match row.source {
        Source::Overlay { .. } | Source::HostEtc if flags.has(Flags::READ_ONLY) => Flags::NO_DEV.and(Flags::READ_ONLY),
        Source::Overlay { .. } => Flags::NO_DEV,
        _ => flags,
    }
}

/// Kills a child that is not init yet. It may have ended; the caller kills its group and waits for that anyway.
fn kill(child: &OwnedFd) {
    process::signal(child, rustix::process::Signal::KILL).ok();
}

impl StartingChild {
    /// Reads the child's reports; returns whether the socket has ended, as it does when the child is init or has
    /// ended. Each report is one small write and arrives whole, so nothing is waited for.
    fn read_reports(&mut self) -> Result<bool, BuildError> {
        while process::readable(&self.report, Duration::ZERO).map_err(BuildError::at(Step::Exec))? {
            let mut text = vec![0; MAX_REPORT];
            let len =
                rustix::io::read(&self.report, &mut text).map_err(|error| BuildError::at(Step::Exec)(error.into()))?;
            text.truncate(len);
            if text.is_empty() && self.landlock {
                return Ok(true);
            }
            if text.is_empty() {
                // Before it can be init, it reports its domain, or why there is none.
                return Err(BuildError::at(Step::Exec)(silent()));
            }
            let is_word = text[0] == child_setup::LANDLOCKED && !self.landlock;
            self.landlock |= is_word;
            let rest = if is_word { &text[1..] } else { &text };
            if !rest.is_empty() {
                return Err(failure_in(rest)?);
            }
        }
        Ok(false)
    }

    /// Become readable when the child has reported, and when it is connected.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ask = if let Connection::Asked { ask, .. } = &self.connection { Some(ask.fd()) } else { None };
        std::iter::once(self.report.as_fd()).chain(ask)
    }

    /// The time of the next look at the latest.
    pub(crate) fn due(&self) -> Instant {
        match &self.connection {
            Connection::Asked { ask, .. } => self.deadline.min(ask.until),
            Connection::Wanted(_) | Connection::Whole => self.deadline,
        }
    }

    /// Does what a child waits for that has made its socket, and tells it to go on.
    fn release(&mut self, runtime: &Runtime) -> Result<(), BuildError> {
        if !process::readable(&self.report, Duration::ZERO).map_err(BuildError::at(Step::Socket))? {
            return Ok(());
        }
        let Some(Held { go, mapped }) = self.held.take() else { return Ok(()) };
        let take = |step| reach(step).map_err(BuildError::at(step));
        let listener = listener(&self.report)?;
        self.network = Some(socket::network(&listener).map_err(BuildError::at(Step::Listener))?);

        take(Step::Socket)?;
        runtime.bind_init(&self.runtime, self.access, &listener).map_err(BuildError::at(Step::Socket))?;

        take(Step::IdMaps)?;
        map_ids(self.pid, self.ids).map_err(BuildError::at(Step::IdMaps))?;

        take(Step::MapMounts)?;
        let user_namespace = namespace::open(self.pid, "user").map_err(BuildError::at(Step::MapMounts))?;
        for (target, fd) in mapped {
            mount::set_attributes(&fd, 0, Some(user_namespace.as_fd()))
                .map_err(|source| BuildError::new(Step::MapMounts, &target, source))?;
        }
        write_proc(self.pid, "oom_score_adj", &OOM_SCORE.to_string()).map_err(BuildError::at(Step::MapMounts))?;

        take(Step::Network)?;
        let connection = std::mem::replace(&mut self.connection, Connection::Whole);
        let ask = match connection {
            Connection::Wanted(number) => Some(self.ask_for_network(runtime, number)?),
            Connection::Asked { .. } | Connection::Whole => None,
        };
        tell(&go).map_err(BuildError::at(Step::Identity))?;
        if let Some(ask) = ask {
            self.connection = Connection::Asked { ask, go };
        }
        Ok(())
    }

    fn ask_for_network(&self, runtime: &Runtime, number: u32) -> Result<NetAsk, BuildError> {
        let network = namespace::open(self.pid, "net").map_err(BuildError::at(Step::Network))?;
        let request = NetRequest::Connect { tenant: self.tenant.clone(), number };
        NetAsk::begin(runtime, &request, Some(network.as_fd()))
            .map_err(|error| BuildError::new(Step::Network, "", error))
    }

    /// Tells the child when it is connected.
    fn look_at_connection(&mut self) -> Result<(), BuildError> {
        let Connection::Asked { ask, go } = &mut self.connection else { return Ok(()) };
        match ask.answer() {
            None => return Ok(()),
            Some(Ok(())) => tell(go).map_err(BuildError::at(Step::Network))?,
            Some(Err(error)) => return Err(BuildError::new(Step::Network, "", error)),
        }
        self.connection = Connection::Whole;
        Ok(())
    }

    /// Reads the reports so far; returns whether the child is init.
    fn poll_reports(&mut self, runtime: &Runtime) -> Result<bool, BuildError> {
        if self.held.is_some() {
            self.release(runtime)?;
        }
        if self.held.is_some() {
            return Ok(false);
        }
        self.look_at_connection()?;
        self.read_reports()
    }

    /// Takes the next steps if the child has reported or its time is over.
    pub(crate) fn advance(mut self, init: &OwnedFd, runtime: &Runtime) -> Result<Advanced, FailedStart> {
        let is_init = self.poll_reports(runtime);
        if let Ok(false) = is_init
            && Instant::now() < self.deadline
        {
            return Ok(Advanced::NotYet(self));
        }
        let end = || -> Result<Record, BuildError> {
            if !is_init? {
                let step = if self.held.is_some() { Step::Listener } else { Step::Exec };
                return Err(BuildError::at(step)(io::ErrorKind::TimedOut.into()));
            }
            prove_init(self.pid, init).map_err(BuildError::at(Step::Exec))?;
            reach(Step::Record).map_err(BuildError::at(Step::Record))?;
            let record = Record::of(self.pid, &self.group, self.access).map_err(BuildError::at(Step::Record))?;
            let confinement = Some(confinement_digest(self.profile, self.nesting));
            let record = Record {
                landlock: self.landlock,
                confinement,
                network: self.network,
                // The child becomes init only once it is connected.
                nesting: Some(self.nesting),
                connected: self.in_force.is_some(),
                in_force: self.in_force.clone(),
                ..record
            };
            record.write(&self.runtime).map_err(BuildError::at(Step::Record))?;
            Ok(record)
        };
        match end() {
            Ok(record) => Ok(Advanced::Runs { record, pidfd: self.pidfd }),
            Err(error) => {
                kill(&self.pidfd);
                Err((error, Some(self.pidfd)))
            }
        }
    }
}

#[derive(Debug)]
pub(crate) enum Advanced {
    /// It is still becoming init.
    NotYet(StartingChild),
    /// It is init.
    Runs {
        record: Record,
        /// Holds init.
        pidfd: OwnedFd,
    },
}

/// A child killed before its last step is as silent as one that took it: check which program runs. A process that has
/// ended runs none.
fn prove_init(pid: u32, init: &OwnedFd) -> io::Result<()> {
    let runs = match rustix::fs::stat(format!("/proc/{pid}/exe")) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => return Err(silent()),
        runs => runs?,
    };
    let init = bailiwick_sys::file::metadata(init)?;
    if (runs.st_dev, runs.st_ino) == (init.device, init.inode) { Ok(()) } else { Err(silent()) }
}

/// Tells a child to go on. A child that has ended is noticed by its report.
fn tell(go: &OwnedFd) -> io::Result<()> {
    match rustix::io::write(go, b"1") {
        Ok(_) | Err(rustix::io::Errno::PIPE) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn silent() -> io::Error {
    io::Error::other("the child ended without a word: it was killed")
}

fn pipe(step: Step) -> Result<(OwnedFd, OwnedFd), BuildError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|source| BuildError::at(step)(source.into()))
}

fn map_ids(pid: u32, ids: IdRange) -> io::Result<()> {
    let row = format!("0 {} {}\n", ids.first, ids.count);
    write_proc(pid, "uid_map", &row)?;
    write_proc(pid, "gid_map", &row)
}

/// Writes a file of a child that was not reaped, so its number is certainly its own.
fn write_proc(pid: u32, name: &str, text: &str) -> io::Result<()> {
    let flags = rustix::fs::OFlags::WRONLY;
    let dir = bailiwick_sys::file::open_dir(std::path::Path::new(&format!("/proc/{pid}")))?;
    let fd = bailiwick_sys::file::open_at(dir, name, flags, rustix::fs::Mode::empty())?;
    // In one write(2): the kernel takes an id map only whole.
    let len = rustix::io::write(&fd, text.as_bytes())?;
    if len == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The listening socket that the child made with its first instructions. A socket made by the warden would show its
/// holders the host's network.
fn listener(report: &OwnedFd) -> Result<OwnedFd, BuildError> {
    let mut text = [0; MAX_REPORT];
    let (len, mut fds) = socket::receive(report, &mut text, 1).map_err(BuildError::at(Step::Listener))?;
    match fds.pop() {
        Some(listener) => Ok(listener),
        None if len == 0 => Err(BuildError::at(Step::Listener)(silent())),
        None => Err(failure_in(&text[..len])?),
    }
}

/// The failure that a child reported.
fn failure_in(text: &[u8]) -> Result<BuildError, BuildError> {
    // Our own code wrote this, before any of the tenant's ran.
    let report: child_setup::Report =
        serde_json::from_slice(text).map_err(|error| BuildError::at(Step::Exec)(error.into()))?;
    let source: Box<dyn std::error::Error + Send + Sync> = match report.errno {
        Some(errno) => Box::new(io::Error::from_raw_os_error(errno)),
        None => report.message.into(),
    };
    Ok(BuildError::new(report.step, &report.at, source))
}
