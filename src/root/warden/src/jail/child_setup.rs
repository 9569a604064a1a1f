//! The inside of a start, step by step: the child of `clone3` runs this as the tenant's root, in the tenant's
//! namespaces, and ends by becoming init.
//!
//! Danger: the order is the security. Nothing of the tenant runs before the last step. Every target is resolved below
//! the new root without following a link. Mounts are sealed before Landlock, which forbids further mounting. The
//! seccomp filter comes before the capabilities are dropped, because loading it needs one. The last step looks up no
//! name.

use crate::jail::child_mounts::{JailTmpfs, Sources, hide_unlisted, make_run, mount_row, stage, stage_sysfs};
use crate::jail::child_network;
use crate::jail::step::{Step, reach};
use bailiwick_plan::mount::{CANARY, Flags, INIT};
use bailiwick_plan::network::Addresses;
use bailiwick_plan::{CORE_LIMIT, JailPlan, Rlimit, kernel_memory, seccomp};
use bailiwick_sys::mount::attr;
use bailiwick_sys::signal::{SIGTERM, Signals};
use bailiwick_sys::{credential, file, landlock, mount, network, process, signal, socket};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The descriptor of init's listening socket.
const LISTENER: i32 = 3;
/// The first byte of the report, sent once the child is in its Landlock domain. No text of a [`Report`] begins with
/// it.
pub(crate) const LANDLOCKED: u8 = b'L';

/// The network of a jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JailNetwork {
    /// The number of the tenant's range of ids.
    pub(crate) number: u32,
    /// What follows from that.
    pub(crate) addresses: Addresses,
    /// Where names are looked up.
    pub(crate) resolvers: Vec<IpAddr>,
    /// The settings of the policy with which it is connected, for the record of the jail.
    pub(crate) settings: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) plan: &'a JailPlan,
    pub(crate) sources: Vec<Sources>,
    /// Its network; `None` for a loopback alone.
    pub(crate) network: Option<&'a JailNetwork>,
    /// One byte means that the ids are mapped, and a second one that it is connected. An end without it means that the warden gave
    /// up.
    pub(crate) go: OwnedFd,
    /// First brings out the listening socket, then the failure, if any.
    pub(crate) report: OwnedFd,
}

/// A failure, as sent to the warden.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) step: Step,
    pub(crate) at: String,
    pub(crate) errno: Option<i32>,
    pub(crate) message: String,
}

struct Failed {
    step: Step,
    at: String,
    source: io::Error,
}

fn at(step: Step, object: &str) -> impl FnOnce(io::Error) -> Failed {
    let at = object.to_owned();
    move |source| Failed { step, at, source }
}

fn step(step: Step) -> Result<(), Failed> {
    reach(step).map_err(at(step, ""))
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
    // If the warden is gone, nobody needs the report.
    if let Ok(text) = serde_json::to_vec(&text) {
        rustix::io::write(&report, &text).ok();
    }
    process::exit_now(1)
}

impl Inside<'_> {
    fn run(mut self) -> Result<std::convert::Infallible, Failed> {
        // Here the network is the jail's already. A socket keeps the network that it was made in.
        step(Step::Listener)?;
        let listener = self.hand_out_listener().map_err(at(Step::Listener, ""))?;
        self.wait().map_err(at(Step::Identity, ""))?;
        step(Step::Identity)?;
        identity().map_err(at(Step::Identity, ""))?;

        let root = self.make_root()?;

        step(Step::Pivot)?;
        rustix::process::fchdir(&root).map_err(|error| at(Step::Pivot, "")(error.into()))?;
        mount::pivot_to_current_directory().map_err(at(Step::Pivot, ""))?;

        step(Step::Settings)?;
        self.settings().map_err(at(Step::Settings, ""))?;
        self.set_up_network().map_err(at(Step::Settings, "network"))?;

        step(Step::Confine)?;
        let init = file::open_at(
            file::open_dir(Path::new("/")).map_err(at(Step::Confine, "/"))?,
            &INIT[1..],
            OFlags::PATH,
            Mode::empty(),
        )
        .map_err(at(Step::Confine, INIT))?;
        self.confine()?;

        step(Step::Exec)?;
        Err(at(Step::Exec, INIT)(self.become_init(&init, &listener)))
    }

    /// Makes the new root with all mounts. It does not become this process's root yet.
    fn make_root(&mut self) -> Result<OwnedFd, Failed> {
        let plan = self.plan;
        step(Step::Root)?;
        mount::make_all_private().map_err(at(Step::Root, ""))?;
        let own = JailTmpfs::new(&plan.mounts).map_err(at(Step::Root, "tmpfs"))?;
        let sysfs = stage_sysfs().map_err(at(Step::Root, "/sys"))?;
        let sources = std::mem::take(&mut self.sources);
        let mut rows = plan.mounts.iter().zip(sources);
        let (root_row, root_source) = rows.next().expect("the first row of every table is the root");
        let root = stage(root_row, root_source, &own).map_err(at(Step::Root, "/"))?;

        step(Step::Mounts)?;
        for (row, source) in rows {
            mount_row(&root, row, source, &own, &sysfs, kernel_memory::counts(plan.profile, plan.nesting))
                .map_err(at(Step::Mounts, &row.target))?;
        }
        hide_unlisted(&root, &own).map_err(|(path, error)| at(Step::Mounts, &path)(error))?;
        make_run(&root).map_err(at(Step::Mounts, "/run"))?;
        for link in &plan.links {
            match rustix::fs::symlinkat(link.to.as_str(), &root, link.path.trim_start_matches('/')) {
                // A root that is the tenant's own has these links already, or whatever the tenant made of them.
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
        Ok(root)
    }

    /// Makes init's listening socket and sends it out: the warden binds it where no tenant could.
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

    fn set_up_network(&self) -> io::Result<()> {
        let Some(JailNetwork { addresses, resolvers, .. }) = self.network else {
            return child_network::name_resolvers(&[]);
        };
        self.wait()?;
        child_network::set_up(*addresses).map_err(io::Error::other)?;
        child_network::name_resolvers(resolvers)
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
        // Every profile has a domain, if only one of scopes. The warden takes silence for a failure.
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

    /// Returns only an error.
    fn become_init(&self, init: &OwnedFd, listener: &OwnedFd) -> io::Error {
        let prepare = || -> io::Result<OwnedFd> {
            // Away from the numbers that are overwritten below.
            let init = rustix::io::fcntl_dupfd_cloexec(init, 16)?;
            let listener = rustix::io::fcntl_dupfd_cloexec(listener, 16)?;
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            let null = rustix::io::fcntl_dupfd_cloexec(&null, 16)?;
            rustix::io::fcntl_dupfd_cloexec(&self.report, 16)?;
            for stream in 0..3 {
                process::place(&null, stream)?;
            }
            // The report's own number may be 3. `run` has a copy of it, which is marked below like all others.
            process::close_on_exec_from(3)?;
            process::place(&listener, LISTENER)?;
            // PID 1 loses a signal that it neither blocks nor handles (pid_namespaces(7)). If the jail is ended
            // before init handles SIGTERM, the warden would wait in vain. A blocked signal stays pending until init
            // handles it.
            drop(Signals::block(&[SIGTERM])?);
            Ok(init)
        };
        match prepare() {
            Ok(init) => process::execute(init, &[CString::from(c"bailiwick-init")], &[]),
            Err(error) => error,
        }
    }
}

/// Becomes root of the jail and drops the rest of the warden. Also makes the jail's group the root of the groups that
/// it sees: `clone3` had made the cgroup namespace while the process was still in the warden's group.
fn identity() -> io::Result<()> {
    signal::unblock_all()?;
    credential::become_for_good(0, 0)?;
    credential::set_undumpable()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid()?;
    process::new_cgroup_namespace()
}
