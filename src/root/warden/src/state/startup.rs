//! The start of the warden: its state is opened and locked, and it takes hold of the jails that run.

use super::*;
use bailiwick_plan::capability::CapabilitySet;

/// What the warden keeps of root's capabilities (`capabilities(7)`), and for what.
const CAPABILITIES: CapabilitySet = CapabilitySet::all_of(&[
    CapabilitySet::CHOWN,           // seeds of storage, sockets for the daemon's group
    CapabilitySet::DAC_OVERRIDE,    // tenants' storage belongs to others
    CapabilitySet::DAC_READ_SEARCH, // likewise, and /proc of tenants' processes
    CapabilitySet::FOWNER,          // permissions of what is not the warden's
    CapabilitySet::FSETID,          // set-group-id bits survive a change of mode
    CapabilitySet::KILL,            // end a jail
    CapabilitySet::SETGID,          // id maps, and the owner of a user namespace
    CapabilitySet::SETUID,          // likewise
    CapabilitySet::SETPCAP,         // the bounding set of a jail
    CapabilitySet::SYS_PTRACE,      // namespaces of tenants' processes
    CapabilitySet::SYS_ADMIN,       // mounts, control groups, seccomp without no_new_privs
    CapabilitySet::SYS_RESOURCE,    // limits of processes above the warden's own
]);

/// Why the warden cannot begin its work.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `bailiwick.toml` is not usable.
    #[error("{}", bailiwick_policy::lines(.0))]
    Policy(Vec<Diagnostic>),
    /// Not root.
    #[error("bailiwick-warden must be started as root")]
    NotRoot,
    /// The daemon's user does not exist.
    #[error(
        "the user \"{0}\" that bailiwickd is to run as does not exist; make it with `useradd --system {0}`, or set `user` in bailiwick.toml"
    )]
    User(String),
    /// The program that becomes PID 1.
    #[error("cannot use \"{path}\" as init: {why}", path = path.display())]
    Init {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The state directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The runtime directory.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Control groups.
    #[error(transparent)]
    Groups(#[from] GroupError),
    /// Records of host users.
    #[error(transparent)]
    HostUsers(#[from] HostUserError),
    /// The host cannot be read.
    #[error(transparent)]
    Facts(#[from] ObserveError),
    /// What was found contradicts itself.
    #[error("the ledger cannot be rebuilt, and nothing was written: {}", .0.join("; "))]
    Uncertain(Vec<String>),
    /// Anything else of the system.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// What the program should exit with.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Policy(_) | Self::User(_) => ExitStatus::Invalid,
            // Only an operator can mend these: to be started again and again helps nobody.
            Self::Ledger(
                LedgerError::Damaged(_)
                | LedgerError::Missing { .. }
                | LedgerError::Overlap(_)
                | LedgerError::OverlapOfPurged(_)
                | LedgerError::PoolChanged(_),
            ) => ExitStatus::HostCannot,
            Self::Storage(StorageError::Locked { .. }) => ExitStatus::Conflict,
            Self::Ledger(LedgerError::InOrder) => ExitStatus::Conflict,
            Self::Groups(_)
            | Self::Init { .. }
            | Self::Storage(StorageError::Open { .. } | StorageError::Trust { .. }) => ExitStatus::HostCannot,
            Self::Runtime(_) | Self::HostUsers(_) if !self.may_pass() => ExitStatus::HostCannot,
            _ => ExitStatus::Failed,
        }
    }

    /// Whether it is for want of something that may be there at the next try.
    fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        const PASSING: [Errno; 5] = [Errno::NOSPC, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::INTR];
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            if error.downcast_ref().and_then(Errno::from_io_error).is_some_and(|errno| PASSING.contains(&errno)) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// The user of `bailiwickd`: a number, which is its group too, or a name of the host's user database.
pub(crate) fn daemon_user(text: &str) -> Option<DaemonUser> {
    if let Ok(number) = text.parse::<u32>() {
        return Some(DaemonUser { uid: number, gid: number });
    }
    users::get_user_by_name(text).map(|user| DaemonUser { uid: user.uid(), gid: user.primary_group_id() })
}

/// Opens the program that becomes PID 1. It must need no loader: the loader that it would find is the tenant's.
fn open_init(path: &Path) -> Result<OwnedFd, OpenError> {
    let wrong = |why: String| OpenError::Init { path: path.to_owned(), why };
    let real = path.canonicalize().map_err(|error| wrong(error.to_string()))?;
    let (dir, name) = real.parent().zip(real.file_name()).ok_or_else(|| wrong("it is no file".to_owned()))?;
    let open = || file::open_file_at(file::open_dir(dir)?, name);
    let fd = open().map_err(|error| wrong(error.to_string()))?;
    let metadata = file::metadata(&fd).map_err(|error| wrong(error.to_string()))?;
    if metadata.uid != 0 || metadata.mode & 0o022 != 0 {
        return Err(wrong("it must belong to root and be writable by nobody else".to_owned()));
    }
    match bailiwick_sys::elf::needs_loader(&fd) {
        // The kernel lets nobody inside trace what nobody inside can read (`ptrace(2)`).
        Ok(false) if metadata.mode & 0o044 != 0 => {
            Err(wrong("tenants could read it, and so trace PID 1; run `chmod 0711` on it".to_owned()))
        }
        Ok(false) => Ok(fd),
        Ok(true) => Err(wrong("it is linked dynamically; a jail would load the tenant's own loader".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Leaves word of why there is no warden, for those who wait for one; takes it away when there is one. It is for their convenience: where
/// it cannot be left they wait.
fn leave_word(config: &Path, error: Option<&OpenError>) {
    let Ok((host, _)) = Store::new(config).host() else { return };
    let Ok(dir) = file::open_dir(&host.runtime_dir) else { return };
    let is_ours = file::metadata(&dir).is_ok_and(|metadata| metadata.uid == 0 && metadata.mode & 0o022 == 0);
    match error {
        _ if !is_ours => {}
        // Another one works there.
        Some(error) if error.status() == ExitStatus::Conflict => {}
        Some(error) => {
            let said = Failure::new(error.status(), error).message;
            file::replace_at(&dir, WARDEN_ERROR, said.as_bytes(), 0o644, file::Outlives::Process).ok();
        }
        None => {
            file::remove_file_at(&dir, WARDEN_ERROR).ok();
        }
    }
}

impl Warden {
    /// Takes up the work on a host: opens and locks its state, and takes hold of the jails that run. What is left of
    /// others is cleared away; the second value says what was found. `group` is where jails are made in the unified
    /// hierarchy, if not below the warden's own group.
    ///
    /// # Errors
    /// When any part of the state cannot be trusted: then nothing is changed.
    pub fn open(
        config: &Path,
        init: &Path,
        group: Option<&str>,
        handed: InheritedFds,
    ) -> Result<(Self, Vec<String>), OpenError> {
        let opened = Self::open_unheard(config, init, group, handed);
        leave_word(config, opened.as_ref().err());
        opened
    }

    fn open_unheard(
        config: &Path,
        init: &Path,
        group: Option<&str>,
        handed: InheritedFds,
    ) -> Result<(Self, Vec<String>), OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        let system = |what| move |source| OpenError::System { what, source };
        let config = config.canonicalize().map_err(system("find the configuration directory"))?;
        let mut policy = Store::new(&config);
        let (host, problems) = policy.host().map_err(OpenError::Policy)?;
        let daemon = daemon_user(&host.user).ok_or_else(|| OpenError::User(host.user.clone()))?;
        let init = open_init(init)?;
        bailiwick_sys::signal::unblock_all().map_err(system("unblock signals"))?;
        credential::set_undumpable().map_err(system("close this process's memory to others"))?;
        credential::limit_capabilities(CAPABILITIES.0).map_err(system("give up capabilities"))?;
        credential::keep_capabilities_over_user_changes().map_err(system("keep capabilities"))?;
        // First, so that word can be left there of whatever follows.
        let runtime = Runtime::open(&host.runtime_dir, daemon)?;
        let storage = Storage::open(&host.state_dir, daemon)?;
        let state = storage.state().map_err(system("use the state directory"))?;
        let traces = traces(&host, &storage, &runtime).map_err(system("look for tenants"))?;
        let ledger = Ledger::open(state, &host.state_dir, host.ids, &traces)?;
        let facts = bailiwick_observe::host_facts(&host.state_dir)?;
        let groups = Groups::open(&facts, group, ledger.instance(), &runtime.known_groups())?;
        groups.reserve(&facts, &host.reserve)?;
        let host_users = HostUsers::open(&host)?;
        let etc_view = runtime.etc_view(&host.etc).map_err(system("show jails the host's /etc"))?;
        let watch = Watch::new();
        runtime.note_groups(groups.bases()).map_err(system("note where the control groups are"))?;
        let program = bailiwick_plan::seccomp::filter_of_warden();
        let program: Vec<_> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
        bailiwick_sys::seccomp::load(&program).map_err(system("load its seccomp filter"))?;
        let (jails, listener) = (BTreeMap::new(), handed.listener);
        let mut warden = Self {
            config,
            policy,
            host,
            facts,
            daemon,
            init,
            storage,
            ledger,
            runtime,
            groups,
            host_users,
            jails,
            slow: Slow::default(),
            last_ticket: 0,
            emergencies: EmergencySessions::default(),
            listener,
            watch,
            reserve: DiskReserve::default(),
            etc_view,
            stale: Vec::new(),
            confinements: Profile::ALL.iter().map(|profile| confinement_digest(*profile)).collect(),
        };
        let mut events: Vec<String> =
            problems.iter().map(|problem| format!("event=policy-problem {problem}")).collect();
        if let Err(error) = warden.policy.save(None, daemon.gid) {
            events.push(format!("event=policy-not-kept reason={:?}", error.to_string()));
        }
        events.extend(warden.adopt_running_jails(handed.inits)?);
        Ok((warden, events))
    }

    /// Takes hold of every jail whose init is provably the one that was recorded, by the descriptor that the service
    /// manager kept where there is one; what is left of others is cleared away by the loop. What fails for one tenant is told,
    /// and stands in no other's way.
    fn adopt_running_jails(&mut self, mut kept: BTreeMap<String, OwnedFd>) -> Result<Vec<String>, OpenError> {
        let system = |what| move |source| OpenError::System { what, source };
        let mut events = self.take_up_graves();
        for (name, record) in self.runtime.found().map_err(system("list the jails"))? {
            let kept = kept.remove(&name);
            let Ok(tenant) = name.parse::<TenantName>() else {
                // None of ours.
                systemd::forget(&name);
                if let Err(error) = self.runtime.remove(&name) {
                    let name = name.escape_debug();
                    events.push(format!("tenant={name} event=not-cleared reason={:?}", error.to_string()));
                }
                continue;
            };
            // Without its group there is no jail, whatever runs under the number.
            let held = match (record, self.groups.of(&tenant)) {
                (Some(record), Ok(groups)) => record
                    .take_hold(kept, &self.groups.homes_of_init(&tenant), &groups.jail)
                    .map(|pidfd| pidfd.map(|pidfd| (record, pidfd))),
                _ => Ok(None),
            };
            match held {
                Ok(Some((record, pidfd))) => {
                    events.push(format!("tenant={tenant} event=re-attached pid={}", record.pid));
                    systemd::keep(&tenant, &pidfd);
                    if let Err(error) = self.emergencies.found(&self.groups, &tenant) {
                        let why = Failure::new(ExitStatus::Failed, &error).message;
                        events.push(format!("tenant={tenant} event=reserve-not-taken-back reason={why:?}"));
                    }
                    let jail = self.jail(&tenant, record, pidfd);
                    self.jails.insert(tenant, jail);
                }
                gone => {
                    let why = gone.err().map_or("no such jail runs any more".to_owned(), |error| error.to_string());
                    events.push(format!("tenant={tenant} event=cleared reason={why:?}"));
                    self.clear_away(&tenant, None);
                }
            }
        }
        for name in self.groups.found()? {
            match name.parse::<TenantName>() {
                Ok(tenant) if !self.jails.contains_key(&tenant) && !self.slow.clears(&tenant) => {
                    events.push(format!("tenant={tenant} event=cleared reason=\"control group without a record\""));
                    self.clear_away(&tenant, None);
                }
                _ => {}
            }
        }
        for name in kept.keys() {
            systemd::forget(name);
        }
        if !self.jails.is_empty() {
            self.watch.listen_to(self.groups.pressure_triggers());
        } else if self.slow.is_idle() {
            self.groups.remove_empty_bases();
        }
        Ok(events)
    }
}

/// What tells that tenants have ids, beside the ledger.
fn traces(host: &Host, storage: &Storage, runtime: &Runtime) -> io::Result<Vec<String>> {
    let of = |what: &str, names: Vec<String>| names.into_iter().map(|name| format!("{what} \"{name}\"")).collect();
    let mut traces: Vec<String> = of("the jail", runtime.found()?.into_iter().map(|(name, _)| name).collect());
    traces.extend::<Vec<String>>(of("the data of", storage.tenants()?));
    traces.extend::<Vec<String>>(of("the purged data", storage.graves()?));
    traces
        .extend::<Vec<String>>(of("the host user", host_user::recorded(host)?.into_keys().map(String::from).collect()));
    Ok(traces)
}
