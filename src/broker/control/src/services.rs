//! The services of `bailiwickd`: each gets the services that it needs. Only this module knows all of them.

use crate::audits::Audits;
use crate::callers::Callers;
use crate::connections::Counter;
use crate::event_reader::EventReader;
use crate::ftp::Ftp;
use crate::ftp_entry::FtpEntry;
use crate::init_watch::InitWatch;
use crate::inits::Inits;
use crate::metrics::Metrics;
use crate::net_client::{NetClient, NetLink};
use crate::network_start::NetworkStart;
use crate::networks::Networks;
use crate::notices::Notices;
use crate::outbox::Outbox;
use crate::overview::Overview;
use crate::own_dir;
use crate::places::Places;
use crate::policy_copies::PolicyCopies;
use crate::policy_store::{OpenError, PolicyStore};
use crate::reconciler::{Parts, Reconciler};
use crate::recorder::{Recorder, Sources};
use crate::records::Records;
use crate::refusals::Refusals;
use crate::refused_requests::RefusedRequests;
use crate::rehearsal::Rehearsal;
use crate::service_keeper::ServiceKeeper;
use crate::session_end::SessionEnd;
use crate::session_entry::SessionEntry;
use crate::sessions::Sessions;
use crate::sleeping::Sleeping;
use crate::start_failures::StartFailures;
use crate::sync::Wake;
use crate::tenants::Tenants;
use crate::timer_runner::TimerRunner;
use crate::timers::Timers;
use crate::waker::Waker;
use crate::waking::Waking;
use crate::warden_client::WardenClient;
use crate::warden_link::WardenLink;
use crate::web_sockets::{DescriptorStore, WebSockets};
use bailiwick_policy::Host;
use bailiwick_proto::{CONTROL_DIR, Failure, NET_SOCKET, WARDEN_SOCKET};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tracing::{info, warn};

/// All services of one host.
#[derive(Debug)]
pub struct Services {
    own_dir: PathBuf,
    wake_reconciler: Wake,
    /// Woken after each reading of the policy, for the recorder.
    policy_read: Wake,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) copies: Arc<PolicyCopies>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) callers: Callers,
    pub(crate) records: Arc<Records>,
    pub(crate) event_reader: EventReader,
    pub(crate) session_end: Arc<SessionEnd>,
    pub(crate) session_entry: Arc<SessionEntry>,
    pub(crate) ftp_entry: Arc<FtpEntry>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) waking: Arc<Waking>,
    pub(crate) sleeping: Arc<Sleeping>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) timer_runner: Arc<TimerRunner>,
    pub(crate) init_watch: Arc<InitWatch>,
    pub(crate) service_keeper: Arc<ServiceKeeper>,
    pub(crate) networks: Networks,
    pub(crate) overview: Arc<Overview>,
    pub(crate) rehearsal: Rehearsal,
    pub(crate) metrics: Metrics,
    pub(crate) notices: Notices,
    pub(crate) audits: Audits,
}

/// Moves the history from the directory of an earlier version. What cannot be moved stays there and is tried again at
/// the next start.
fn move_history(from: &Path, own: &Path) {
    match own_dir::move_from(from, own) {
        Ok(false) => {}
        Ok(true) => {
            info!(event = "history-moved", from = %from.display(), "the history is now in \"{}\"", own.display())
        }
        Err(error) => {
            warn!(event = "history-not-moved", from = %from.display(), "cannot move the history to \"{}\": {error}", own.display());
        }
    }
}

impl Services {
    /// Reads the policy and wires the services. It starts none of them.
    ///
    /// # Errors
    /// When `bailiwick.toml` is unusable and no earlier version of it is known. A tenant's file with errors affects
    /// that tenant alone.
    pub fn open(config: &Path) -> Result<Arc<Self>, OpenError> {
        let (wake_timers, wake_keeper, wake_reconciler) = (Wake::default(), Wake::default(), Wake::default());
        let policy_read = Wake::default();
        let followers = vec![wake_timers.clone(), wake_keeper.clone(), policy_read.clone()];
        let policy = Arc::new(PolicyStore::open(config, followers)?);
        let host = policy.host();
        let outbox = Arc::new(Outbox::new(&host.runtime_dir.join(CONTROL_DIR)));
        let own_dir = own_dir::find(&host.state_dir);
        move_history(&own_dir::below(&host.state_dir), &own_dir);
        let link = WardenLink::new(host.runtime_dir.join(WARDEN_SOCKET));
        let warden = Arc::new(WardenClient::new(link));
        let copies = PolicyCopies::new(Arc::clone(&policy), Arc::clone(&warden), wake_reconciler.clone());
        let copies = Arc::new(copies);
        let tenants = Arc::new(Tenants { policy, warden });
        let inits = Arc::new(Inits::new(Arc::clone(&tenants)));
        let sessions = Arc::<Sessions>::default();
        let failures = Arc::<StartFailures>::default();
        let refusals = Arc::<Refusals>::default();
        let recorder = Arc::<Recorder>::default();
        let records = Arc::new(Records::new(Arc::clone(&tenants), Arc::clone(&recorder)));
        let timers = Arc::new(Timers::new(wake_timers, own_dir.clone()));
        let session_end = Arc::new(SessionEnd::new(Arc::clone(&tenants), Arc::clone(&sessions)));
        let (first_round, first_round_over) = watch::channel(false);
        let sockets = Arc::new(WebSockets::new(Wake::default()));
        let counter = Arc::new(Counter::new(Arc::clone(&tenants), Arc::clone(&sockets)));
        let reconciler = Arc::new(Reconciler::new(Parts {
            tenants: Arc::clone(&tenants),
            inits: Arc::clone(&inits),
            sessions: Arc::clone(&sessions),
            session_end: Arc::clone(&session_end),
            timers: Arc::clone(&timers),
            recorder: Arc::clone(&recorder),
            failures: Arc::clone(&failures),
            network: NetworkStart::new(&host.runtime_dir, &host.network),
            wake: wake_reconciler.clone(),
            wake_keeper: wake_keeper.clone(),
            first_round,
        }));
        let waking = Arc::new(Waking::new(Arc::clone(&tenants), Arc::clone(&reconciler), Arc::clone(&failures)));
        let sleeping = Arc::new(Sleeping::new(
            Arc::clone(&tenants),
            Arc::clone(&sessions),
            Arc::clone(&reconciler),
            Arc::clone(&waking),
            Arc::clone(&counter),
        ));
        let waker = Arc::new(Waker::new(
            Arc::clone(&tenants),
            Arc::clone(&inits),
            Arc::clone(&reconciler),
            Arc::clone(&waking),
            Arc::clone(&sockets) as Arc<dyn crate::waker::Listeners>,
        ));
        let session_entry = Arc::new(SessionEntry::new(
            Arc::clone(&tenants),
            Arc::clone(&inits),
            Arc::clone(&sessions),
            Arc::clone(&failures),
            Arc::clone(&refusals),
            Arc::clone(&waking),
        ));
        let ftp_entry = Arc::new(FtpEntry::new(
            Arc::clone(&tenants),
            Arc::clone(&sessions),
            Ftp::new(host.runtime_dir.join(CONTROL_DIR)),
            Arc::clone(&refusals),
            Arc::clone(&waking),
        ));
        let timer_runner = Arc::new(TimerRunner::new(
            Arc::clone(&tenants),
            Arc::clone(&inits),
            Arc::clone(&session_entry),
            timers,
            first_round_over,
        ));
        let init_watch = Arc::new(InitWatch::new(Arc::clone(&tenants), Arc::clone(&inits), Arc::clone(&reconciler)));
        let service_keeper =
            Arc::new(ServiceKeeper::new(Arc::clone(&tenants), Arc::clone(&inits), sockets, counter, wake_keeper));
        let places = Places::new(bailiwick_sys::credential::open_files());
        let net = Arc::new(NetClient::new(NetLink::new(host.runtime_dir.join(NET_SOCKET))));
        let networks = Networks::new(Arc::clone(&tenants), Arc::clone(&net));
        let overview = Arc::new(Overview {
            tenants: Arc::clone(&tenants),
            inits: Arc::clone(&inits),
            sessions: Arc::clone(&sessions),
            failures,
            refusals: Arc::clone(&refusals),
            recorder: Arc::clone(&recorder),
            copies: Arc::clone(&copies),
            service_keeper: Arc::clone(&service_keeper),
            net: Arc::clone(&net),
            started: Instant::now(),
        });
        let rehearsal = Rehearsal {
            tenants: Arc::clone(&tenants),
            session_entry: Arc::clone(&session_entry),
            ftp_entry: Arc::clone(&ftp_entry),
            service_keeper: Arc::clone(&service_keeper),
        };
        let metrics = Metrics { overview: Arc::clone(&overview), reconciler: Arc::clone(&reconciler) };
        let notices = Notices { tenants: Arc::clone(&tenants) };
        let audits = Audits {
            tenants: Arc::clone(&tenants),
            inits,
            sessions: Arc::clone(&sessions),
            records: Arc::clone(&records),
            service_keeper: Arc::clone(&service_keeper),
            waking: Arc::clone(&waking),
            net,
        };
        Ok(Arc::new(Self {
            own_dir,
            wake_reconciler,
            policy_read,
            event_reader: EventReader::new(Arc::clone(&recorder), Arc::clone(&outbox)),
            outbox,
            callers: Callers::new(Arc::clone(&tenants), places),
            tenants,
            sessions,
            recorder,
            copies,
            refusals,
            records,
            session_end,
            session_entry,
            ftp_entry,
            reconciler,
            waking,
            sleeping,
            waker,
            timer_runner,
            init_watch,
            service_keeper,
            networks,
            overview,
            rehearsal,
            metrics,
            notices,
            audits,
        }))
    }

    /// The host as last declared.
    #[must_use]
    pub fn host(&self) -> Host {
        self.tenants.policy.host()
    }

    /// Takes the events that the log tells of.
    #[must_use]
    pub fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// Reads the policy again and logs every problem.
    ///
    /// # Errors
    /// Returns all problems. The rest of the policy is in force anyway.
    pub fn reload(&self) -> Result<(), Failure> {
        self.tenants.policy.reload()
    }

    /// Starts the recorder, which measures tenants on its own thread, and the thread that hears of refused requests.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start_recorder(&self) -> std::io::Result<()> {
        self.recorder.start(Sources {
            policy: Arc::clone(&self.tenants.policy),
            sessions: Arc::clone(&self.sessions),
            reconciler: self.wake_reconciler.clone(),
            outbox: Arc::clone(&self.outbox),
            own_dir: self.own_dir.clone(),
        })?;
        let (policy, recorder) = (Arc::clone(&self.tenants.policy), Arc::clone(&self.recorder));
        RefusedRequests { policy, recorder }.start()
    }

    /// Takes the listening sockets that an earlier process of this program left in the store, each with its name there. Call it
    /// before [`Self::spawn`].
    pub fn restore_sockets(&self, kept: Vec<(String, OwnedFd)>, store: Box<dyn DescriptorStore>) {
        self.service_keeper.sockets.restore(&self.tenants.policy.loaded().policy, kept, store);
    }

    /// Spawns the services that run as long as this program. Needs a runtime.
    pub fn spawn(&self) {
        tokio::spawn(Arc::clone(&self.reconciler).run());
        tokio::spawn(Arc::clone(&self.copies).run());
        tokio::spawn(Arc::clone(&self.timer_runner).run());
        tokio::spawn(Arc::clone(&self.init_watch).run());
        tokio::spawn(Arc::clone(&self.service_keeper).run());
        tokio::spawn(Arc::clone(&self.sleeping).run());
        tokio::spawn(Arc::clone(&self.waker).run());
        tokio::spawn(Arc::clone(&self.ftp_entry).resume());
        let (recorder, policy_read) = (Arc::clone(&self.recorder), self.policy_read.clone());
        tokio::spawn(async move {
            loop {
                policy_read.wait().await;
                recorder.policy_was_read();
            }
        });
    }
}
