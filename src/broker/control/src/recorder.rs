//! The recorder: a separate thread that measures every tenant each minute, receives faults as they happen, and owns the
//! history. Reads of SQLite and of control group files block, and sessions must not wait for them.
//!
//! Danger: the evidence of incidents contains names that tenants choose, and a tenant can cause faults without end. The
//! size of an incident is bounded, and of faults only the number is kept.

mod events;
mod limits;
mod metering;
mod sampling;
mod traffic;

use crate::audit_log::{self, AuditLog, Looked};
use crate::incident::{IncidentKind, Incidents};
use crate::net_client::NetLink;
use crate::outbox::{Outbox, now};
use crate::policy_store::PolicyStore;
use crate::pressure::{self, Span};
use crate::sessions::Sessions;
use crate::sync::{Wake, lock};
use crate::warden_link;
use bailiwick_audit::chain::Head;
use bailiwick_history::{History, Retention, Sample};
use bailiwick_observe::{Gauge, Meter, Reading};
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::warden::{QuotaHit, Reached, RosterEntry, WardenEvent};
use bailiwick_proto::{
    Failure, Incoming, NET_SOCKET, TransportError, WARDEN_SOCKET, WardenReply, WardenRequest, time_limits, transport,
};
use bailiwick_sys::proc;
use bailiwick_sys::watch::{Changes, Watched};
use bailiwick_types::{
    AuditReport, DiskFact, ExitStatus, Fault, Incident, LimitKey, Measure, Moment, RefusedPacket, Resource, Snapshot,
    SocketName, SocketUse, TenantName, TenantUsage, Usage, Window,
};
use events::EventWriter;
use metering::Metering;
use rustix::event::{PollFd, PollFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::{info, warn};
use traffic::TrafficMeter;

/// The time between two samples.
const PERIOD: Duration = Duration::from_secs(60);
/// The pause before the next attempt to connect to a warden that has gone away.
const RETRY_TIME: Duration = Duration::from_secs(2);
/// The least time between two reads of the roster. It matters when a thousand jails start one after another.
const REFRESH_TIME: Duration = Duration::from_secs(1);
const COMPLAINT_TIME: Duration = Duration::from_secs(600);

type Command = Box<dyn FnOnce(&mut RecorderState) + Send>;

/// Numbers of requests that the web server refused, by tenant and socket.
pub(crate) type Refused = BTreeMap<TenantName, BTreeMap<SocketName, u64>>;

/// The handle of the thread. Nothing is recorded before `start`.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    thread: OnceLock<Thread>,
    problem: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
struct Thread {
    commands: Mutex<Sender<Command>>,
    wake: UnixStream,
}

/// What the thread uses from outside itself.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) policy: Arc<PolicyStore>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) reconciler: Wake,
    pub(crate) outbox: Arc<Outbox>,
    /// The directory for this program's own files.
    pub(crate) own_dir: PathBuf,
}

impl Recorder {
    /// Starts the thread, which ends when this handle is dropped. A second call does nothing.
    pub(crate) fn start(&self, sources: Sources) -> io::Result<()> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        sources.outbox.wakes(wake.try_clone()?);
        #[expect(
            clippy::disallowed_methods,
            reason = "a request waits for its answer, and the rest comes no faster than jails do"
        )]
        let (commands, received) = channel();
        let mut state = RecorderState::new(sources, Arc::clone(&self.problem))?;
        if self.thread.set(Thread { commands: Mutex::new(commands), wake }).is_ok() {
            std::thread::Builder::new().name("recorder".to_owned()).spawn(move || state.run(&received, &woken))?;
        }
        Ok(())
    }

    pub(crate) fn is_started(&self) -> bool {
        self.thread.get().is_some()
    }

    /// Why the history is not written; `None` when it is written.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    /// Runs a command on the thread and waits for its result.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut RecorderState) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let thread = self.thread.get().ok_or_else(|| Failure::of(ExitStatus::Failed, "nothing is recorded"))?;
        let (sender, receiver) = oneshot::channel();
        thread.send(Box::new(move |state| {
            // The caller may have stopped waiting.
            drop(sender.send(command(state)));
        }));
        receiver.await.map_err(|_| Failure::of(ExitStatus::Failed, "the recorder of the history has ended"))
    }

    /// Tells the thread of requests that the web server refused.
    pub(crate) fn refused_requests(&self, refused: Refused) {
        if let Some(thread) = self.thread.get() {
            thread.send(Box::new(|state| state.refused_requests(refused)));
        }
    }

    /// Tells the thread that the policy was read again.
    pub(crate) fn policy_was_read(&self) {
        if let Some(thread) = self.thread.get() {
            thread.send(Box::new(RecorderState::compare_policy));
        }
    }

    /// Tells the thread that jails have started or ended.
    pub(crate) fn jails_changed(&self) {
        if let Some(thread) = self.thread.get() {
            thread.send(Box::new(|state| state.stale = true));
        }
    }
}

impl Thread {
    fn send(&self, command: Command) {
        let sent = lock(&self.commands).send(command);
        if sent.is_ok() {
            // When the pipe is full, the thread wakes anyway.
            drop((&self.wake).write(&[1]));
        }
    }
}

/// The measurement of a tenant whose jail runs.
#[derive(Debug)]
struct TenantSampler {
    entry: RosterEntry,
    gauge: Gauge,
    /// The time and the reading of the last sample.
    sampled: (Instant, Reading),
    /// The reading up to which faults are counted.
    seen: Reading,
    /// The time and the reading of the last live query.
    looked: Option<(Instant, Reading)>,
    /// The last reading of all tenants, for the metrics.
    metered: Reading,
}

/// Faults that are not in the history yet.
#[derive(Debug)]
struct Pending {
    at: Moment,
    tenant: TenantName,
    kind: IncidentKind,
    count: u64,
}

/// The state of the thread.
#[derive(Debug)]
pub(crate) struct RecorderState {
    sources: Sources,
    /// Why the history is not written; `None` when it is.
    problem: Arc<Mutex<Option<String>>>,
    socket: PathBuf,
    history: Result<History, String>,
    meter: Option<Meter>,
    live: BTreeMap<TenantName, TenantSampler>,
    disks: BTreeMap<TenantName, DiskFact>,
    traffic: TrafficMeter,
    /// When the month began, and which shares of their volume were told of tenants in it; `None` before that is known.
    told_shares: Option<(Moment, BTreeMap<TenantName, BTreeSet<u8>>)>,
    /// Faults since the last sample.
    pending: Vec<Pending>,
    incidents: Incidents,
    audits: AuditLog,
    changes: Changes,
    watched: BTreeMap<Watched, TenantName>,
    /// The connection on which the warden sends events.
    told: Option<(UnixStream, Incoming)>,
    told_at: Instant,
    next: Instant,
    /// Jails have started or ended since the last read of the roster.
    stale: bool,
    refreshed: Instant,
    /// The time of the last sample, and what it measured over how many seconds.
    last: Option<(Instant, Span)>,
    /// The busy time of the machine's processors at the last sample, in microseconds.
    busy: u64,
    pressed: BTreeMap<Resource, Instant>,
    complained: Option<Instant>,
    /// The same for traffic that is not measured.
    complained_of_traffic: Option<Instant>,
    events: EventWriter,
    metering: Metering,
}

/// Takes the events that have arrived.
///
/// # Errors
/// When the bytes that have arrived cannot be read. The connection is unusable then.
fn take_events(incoming: &mut Incoming, events: &mut Vec<WardenEvent>) -> Result<(), TransportError> {
    while let Some((reply, _)) = incoming.take::<WardenReply>()? {
        if let WardenReply::Event(event) = reply {
            events.push(event);
        }
    }
    Ok(())
}

impl RecorderState {
    fn new(sources: Sources, problem: Arc<Mutex<Option<String>>>) -> io::Result<Self> {
        let host = sources.policy.host();
        Ok(Self {
            problem,
            socket: host.runtime_dir.join(WARDEN_SOCKET),
            history: Err("the history is not open yet".to_owned()),
            meter: None,
            live: BTreeMap::new(),
            disks: BTreeMap::new(),
            traffic: TrafficMeter::new(NetLink::new(host.runtime_dir.join(NET_SOCKET))),
            told_shares: None,
            pending: Vec::new(),
            incidents: Incidents::default(),
            audits: AuditLog::new(sources.own_dir.clone()),
            sources,
            changes: Changes::new()?,
            watched: BTreeMap::new(),
            told: None,
            told_at: Instant::now(),
            next: Instant::now() + PERIOD,
            stale: false,
            refreshed: Instant::now(),
            last: None,
            busy: proc::busy_micros().unwrap_or(0),
            pressed: BTreeMap::new(),
            complained: None,
            complained_of_traffic: None,
            events: EventWriter::default(),
            metering: Metering::default(),
        })
    }

    fn run(&mut self, commands: &Receiver<Command>, woken: &UnixStream) {
        self.open_history();
        self.compare_policy();
        loop {
            self.write_events();
            self.listen_to_warden();
            let (heard, changed) = self.wait(woken);
            drop({
                let mut woken = woken;
                woken.read(&mut [0; 256])
            });
            loop {
                match commands.try_recv() {
                    Ok(command) => command(self),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if heard {
                self.receive_events();
            }
            if changed {
                self.count_changed_groups();
            }
            if self.stale && self.refreshed.elapsed() >= REFRESH_TIME {
                // Without the warden the state stays stale, and the next round tries again.
                drop(self.refresh());
            }
            if Instant::now() >= self.next {
                // After a suspension of the machine, missed samples are not made up.
                self.next = (self.next + PERIOD).max(Instant::now());
                self.sample();
            }
        }
    }

    fn wait(&self, woken: &UnixStream) -> (bool, bool) {
        let mut fds = vec![PollFd::new(woken, PollFlags::IN), PollFd::new(&self.changes, PollFlags::IN)];
        if let Some((stream, _)) = &self.told {
            fds.push(PollFd::new(stream, PollFlags::IN));
        }
        let mut time = self.next.saturating_duration_since(Instant::now());
        if self.told.is_none() {
            time = time.min(RETRY_TIME);
        }
        if self.stale {
            time = time.min(REFRESH_TIME);
        }
        if self.sources.outbox.is_waiting() {
            time = time.min(self.events.next.saturating_duration_since(Instant::now()));
        }
        let time = rustix::time::Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(60),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        // Only a signal can make this call fail, and a signal ends the wait as well.
        rustix::event::poll(&mut fds, Some(&time)).ok();
        let heard = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        (heard(2), heard(1))
    }

    fn open_history(&mut self) {
        let path = self.sources.own_dir.join("history.db");
        self.history = History::open(&path, Retention::default())
            .map_err(|error| {
                let message = Failure::new(ExitStatus::Failed, &error).message;
                format!("{message}; bailiwickd must be able to write \"{}\"", path.with_file_name("").display())
            })
            .map(|(history, notice)| {
                if let Some(notice) = notice {
                    warn!(event = "history-damaged", "{notice}");
                }
                history
            });
        *lock(&self.problem) = self.history.as_ref().err().cloned();
        match &self.history {
            Ok(history) => {
                let recent = Window { from: Moment(now().0.saturating_sub(600)), until: Moment(u64::MAX >> 1) };
                let going_on = history.incidents(None, recent, 10_000).unwrap_or_default();
                self.incidents.restore(going_on, now());
                self.learn_told();
            }
            Err(_) => self.complain(),
        }
    }

    /// Warns that there is no history, at most once in [`COMPLAINT_TIME`].
    fn complain(&mut self) {
        let due = self.complained.is_none_or(|last| last.elapsed() >= COMPLAINT_TIME);
        if let (Err(message), true) = (&self.history, due) {
            self.complained = Some(Instant::now());
            warn!(event = "no-history", "{message}");
        }
    }

    /// Sends a request to the warden over a connection of this thread's own.
    fn ask(&self, request: &WardenRequest) -> io::Result<WardenReply> {
        let stream = warden_link::connect(&self.socket)?;
        stream.set_write_timeout(Some(time_limits::ANSWER))?;
        transport::send(&stream, request, MAX_REQUEST, &[])?;
        let deadline = Instant::now() + time_limits::ANSWER;
        Ok(transport::receive(&stream, &mut Incoming::new(MAX_REPLY, 0), deadline)?.0)
    }

    fn listen_to_warden(&mut self) {
        if self.told.is_some() || self.told_at > Instant::now() {
            return;
        }
        self.told_at = Instant::now() + RETRY_TIME;
        let listen = || -> io::Result<UnixStream> {
            let stream = warden_link::connect(&self.socket)?;
            transport::send(&stream, &WardenRequest::Watch, MAX_REQUEST, &[])?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        self.told = listen().ok().map(|stream| (stream, Incoming::new(MAX_REPLY, 0)));
        let before = self.sources.outbox.told();
        if self.told.is_some() && self.refresh().is_err() {
            self.told = None;
        }
        if self.told.is_some() {
            self.compare_jails(&before);
        }
    }

    /// Receives the events of the warden and acts on them.
    fn receive_events(&mut self) {
        let mut events = Vec::new();
        let mut gone = false;
        if let Some((stream, incoming)) = &mut self.told {
            loop {
                match incoming.receive(&*stream) {
                    Ok(0) => gone = true,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => gone = true,
                }
                // An event of a newer warden may be unreadable. Then the connection is closed and made again.
                gone |= take_events(incoming, &mut events).is_err();
                if gone || events.is_empty() || events.len() > 1000 {
                    break;
                }
                if rustix::io::ioctl_fionread(&*stream).is_ok_and(|waiting| waiting == 0) {
                    break;
                }
            }
        }
        if gone {
            self.told = None;
            self.tell_of_warden(events::LOST);
            // Wait before the next connection: a connection starts the warden again, and an operator may just be
            // stopping it.
            self.told_at = Instant::now() + RETRY_TIME;
        }
        for event in events {
            match event {
                WardenEvent::Ended { tenant } => {
                    info!(target: "bailiwick::event", tenant = %tenant, event = "jail-ended", "the jail of {tenant} has ended without a request");
                    self.live.remove(&tenant);
                    self.sources.reconciler.wake();
                }
                WardenEvent::Prepared { .. } => {
                    self.sources.reconciler.wake();
                }
                WardenEvent::Quota { tenant, limit, hit: QuotaHit::Refused } => self.fault(&tenant, limit, 1),
                WardenEvent::Quota { tenant, limit, hit: QuotaHit::SoftPassed } => {
                    info!(target: "bailiwick::event", tenant = %tenant, event = "soft-limit-passed", limit = limit.word(), "{tenant} has passed its soft limit of {limit}");
                }
                WardenEvent::Pressure { resource } => self.look_into_pressure(resource),
                WardenEvent::Reserve { reached } => {
                    self.metering.reserve_reached = Some(reached == Reached::Yes);
                    warn!(target: "bailiwick::event", event = "reserve-of-disk", reached = ?reached, "the reserve of disk space: {reached:?}");
                }
            }
        }
    }

    /// Reads the roster: forgets jails that no longer run, and watches jails that are new.
    fn refresh(&mut self) -> io::Result<()> {
        self.refreshed = Instant::now();
        let WardenReply::Roster(roster) = self.ask(&WardenRequest::Roster)? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if self.meter.is_none() {
            let WardenReply::Facts(facts) = self.ask(&WardenRequest::Facts)? else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            self.meter = Some(Meter::new(&facts)?);
        }
        let Some(meter) = &self.meter else { return Ok(()) };
        // A restarted jail has another init, and its counters start from zero.
        self.live.retain(|tenant, live| roster.get(tenant).is_some_and(|entry| entry.pid == live.entry.pid));
        for (tenant, entry) in roster {
            if entry.pid.is_none() || self.live.contains_key(&tenant) {
                continue;
            }
            for file in meter.event_files(&entry.cgroups) {
                if let Ok(watched) = self.changes.add(&file) {
                    self.watched.insert(watched, tenant.clone());
                }
            }
            // Usage before the first reading may be older than this minute, so it is not counted.
            let gauge = meter.gauge(&entry.cgroups);
            let reading = meter.read(&gauge);
            let (sampled, metered) = ((Instant::now(), reading.clone()), reading.clone());
            let live = TenantSampler { entry, gauge, sampled, seen: reading, looked: None, metered };
            self.live.insert(tenant, live);
        }
        let live = &self.live;
        self.watched.retain(|_, tenant| live.contains_key(tenant));
        self.stale = false;
        if self.history.is_err() {
            // The warden makes the directory of the history, and it may have started later than this program.
            self.open_history();
        }
        Ok(())
    }

    fn count_changed_groups(&mut self) {
        let changed: BTreeSet<TenantName> = self
            .changes
            .take()
            .unwrap_or_default()
            .iter()
            .filter_map(|watched| self.watched.get(watched).cloned())
            .collect();
        for tenant in changed {
            let (Some(meter), Some(live)) = (&self.meter, self.live.get_mut(&tenant)) else { continue };
            let reading = meter.read(&live.gauge);
            let new = reading.faults_since(&live.seen);
            live.seen = reading;
            for (limit, count) in new {
                self.fault(&tenant, limit, count);
            }
        }
    }

    /// Records that a limit was hit `count` times.
    fn fault(&mut self, tenant: &TenantName, limit: LimitKey, count: u64) {
        self.count(tenant, IncidentKind::Limit(limit), count);
        self.tell_of_fault(tenant, limit);
        // Reclaim at `memory_high` and processor throttling are the normal effect of those limits and happen every
        // minute. They are counted, and they make no incident here.
        if !matches!(limit, LimitKey::Cpu | LimitKey::MemoryHigh) {
            self.incident(tenant, IncidentKind::Limit(limit), count);
        }
    }

    /// Records requests that the web server refused as hits of `entries`.
    fn refused_requests(&mut self, refused: Refused) {
        for (tenant, sockets) in refused {
            self.tell_of_fault(&tenant, LimitKey::Entries);
            let count = sockets.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
            self.count(&tenant, IncidentKind::Limit(LimitKey::Entries), count);
            self.incident_at(&tenant, IncidentKind::Limit(LimitKey::Entries), count, &sockets);
        }
    }

    /// Records packets of a tenant that the router refused in the last minute, by reason.
    fn refused_packets(&mut self, tenant: &TenantName, refused: &BTreeMap<RefusedPacket, u64>) {
        let at = now();
        let mut due = Vec::new();
        for (reason, count) in refused {
            let kind = IncidentKind::Refused(*reason);
            self.count(tenant, kind, *count);
            // A packet that comes late for its connection is normal, so it makes no incident.
            if *reason != RefusedPacket::Invalid && self.incidents.note(tenant, kind, *count, at) {
                due.push(kind);
            }
        }
        if !due.is_empty() {
            let snapshot = Snapshot { refused: refused.clone(), ..self.snapshot(tenant, at) };
            due.into_iter().for_each(|kind| self.add_snapshot(tenant, kind, snapshot.clone()));
        }
    }

    /// Counts faults for the next sample.
    fn count(&mut self, tenant: &TenantName, kind: IncidentKind, count: u64) {
        self.metering.faulted(tenant, kind, count);
        match self.pending.iter_mut().find(|fault| fault.tenant == *tenant && fault.kind == kind) {
            Some(fault) => fault.count = fault.count.saturating_add(count),
            None => self.pending.push(Pending { at: now(), tenant: tenant.clone(), kind, count }),
        }
    }

    fn incident(&mut self, tenant: &TenantName, kind: IncidentKind, count: u64) {
        self.incident_at(tenant, kind, count, &BTreeMap::new());
    }

    /// An incident at sockets, each with the number of requests that were refused there.
    fn incident_at(
        &mut self,
        tenant: &TenantName,
        kind: IncidentKind,
        count: u64,
        refused: &BTreeMap<SocketName, u64>,
    ) {
        let at = now();
        if !self.incidents.note(tenant, kind, count, at) {
            return;
        }
        let mut snapshot = self.snapshot(tenant, at);
        if !refused.is_empty() {
            snapshot.sockets = self.sockets_of(tenant, refused);
        }
        self.add_snapshot(tenant, kind, snapshot);
    }

    /// Adds evidence to an incident, and stores it.
    fn add_snapshot(&mut self, tenant: &TenantName, kind: IncidentKind, snapshot: Snapshot) {
        let Some(incident) = self.incidents.add(tenant, kind, snapshot) else { return };
        if incident.id == 0 {
            self.metering.incident_began(tenant, kind);
            incident.id =
                self.history.as_mut().ok().and_then(|history| history.begin_incident(incident).ok()).unwrap_or(0);
            info!(target: "bailiwick::event", tenant = %tenant, event = "incident", limit = incident.kind, incident = incident.id, "{tenant} has an incident: {kind}");
        } else if let Ok(history) = &mut self.history {
            // If this fails, the next sample stores the incident again.
            drop(history.update_incident(incident));
        }
    }

    /// Appends an audit to the audit log.
    pub(crate) fn log_audit(&mut self, report: &AuditReport) -> io::Result<Head> {
        self.compare_findings(report);
        self.metering.audited(report);
        self.audits.add(report, now(), &audit_log::host_name())
    }

    /// Verifies the audit log.
    pub(crate) fn verify_audits(&self, expected: Option<Head>) -> io::Result<Looked> {
        self.audits.look(expected)
    }

    /// Forgets a tenant whose data was purged.
    pub(crate) fn forget(&mut self, tenant: &TenantName) -> Result<(), Failure> {
        self.disks.remove(tenant);
        self.pending.retain(|fault| fault.tenant != *tenant);
        self.incidents.forget(tenant);
        self.metering.forget(tenant);
        self.history()?.forget(tenant).map_err(|error| Failure::new(ExitStatus::Failed, &error))
    }

    /// The open history, or the reason why there is none.
    pub(crate) fn history(&mut self) -> Result<&mut History, Failure> {
        self.history
            .as_mut()
            .map_err(|message| Failure::of(ExitStatus::Failed, format!("there is no history: {message}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Answer, NetAnswer};
    use bailiwick_proto::{NetReply, NetRequest};
    use bailiwick_types::{
        HostFacts, MetricsDetail, MonthUse, NetworkFacts, NetworkTraffic, StorageFacts, Traffic, Volume,
    };

    /// A state whose history is that of the services.
    fn state(services: &crate::Services, own_dir: &std::path::Path) -> RecorderState {
        let sources = Sources {
            policy: Arc::clone(&services.tenants.policy),
            sessions: Arc::clone(&services.sessions),
            reconciler: Wake::default(),
            outbox: Arc::clone(&services.outbox),
            own_dir: own_dir.to_owned(),
        };
        let mut state = RecorderState::new(sources, Arc::default()).expect("makes");
        state.open_history();
        assert_eq!(state.history.as_ref().err(), None);
        state
    }

    #[tokio::test]
    async fn traffic_and_refused_packets_are_recorded_once_whoever_restarts() {
        let alice = || "alice".parse::<TenantName>().expect("a name");
        let (temp, services) = fake::host();
        let roster = BTreeMap::from([(alice(), fake::up(&services))]);
        let facts = HostFacts {
            kernel: String::new(),
            landlock_abi: 7,
            controllers: BTreeMap::new(),
            root_links: BTreeMap::new(),
            host_etc: Vec::new(),
            unlisted: Vec::new(),
            storage: StorageFacts {
                fs_type: "xfs".to_owned(),
                quota: bailiwick_types::QuotaFacts::Projects,
                devices: Vec::new(),
            },
        };
        fake::warden(&services, move |request| match request {
            WardenRequest::Roster => Answer::Reply(WardenReply::Roster(roster.clone())),
            WardenRequest::Facts => Answer::Reply(WardenReply::Facts(Box::new(facts.clone()))),
            _ => Answer::Close,
        });
        // The bytes that alice has sent, and her refused packets.
        let counted = Arc::new(Mutex::new((0, 0)));
        let counts = Arc::clone(&counted);
        fake::net_at(&services.host().runtime_dir.join(NET_SOCKET), move |request| {
            let (bytes, refused) = *lock(&counts);
            let sent = Volume { bytes, packets: 1 };
            let ipv6 = Traffic { sent, ..Traffic::default() };
            let traffic = NetworkTraffic { ipv6, ..NetworkTraffic::default() };
            let refused = [(RefusedPacket::Dns, refused), (RefusedPacket::Invalid, refused)].into();
            NetAnswer::Reply(match request {
                NetRequest::Traffic => {
                    NetReply::Traffic([(alice(), traffic), ("mallory".parse().expect("a name"), traffic)].into())
                }
                NetRequest::Observe { tenants } if tenants == [alice()] => {
                    NetReply::Observed(vec![NetworkFacts { traffic, refused, ..fake::facts(&alice()) }])
                }
                _ => NetReply::Done,
            })
        });
        let own_dir = temp.path().to_owned();
        let recorded = move || {
            let window = Window { from: Moment(now().0 - 3600), until: Moment(now().0 + 3600) };
            let mut first = state(&services, &own_dir);
            for count in [(1000, 5), (1500, 9)] {
                *lock(&counted) = count;
                first.sample();
            }
            drop(first);
            let mut second = state(&services, &own_dir);
            // Then the router is made anew.
            for count in [(2500, 20), (70, 0)] {
                *lock(&counted) = count;
                second.sample();
            }
            let shown = second.look().expect("answers");
            assert_eq!(shown[0].total.usage.get(Measure::NetSent), Some(0), "nothing since the last sample");
            let history = second.history().expect("is open");
            let totals = history.totals(window, None).expect("reads");
            assert_eq!(totals.iter().map(|(tenant, _)| tenant.clone()).collect::<Vec<_>>(), [alice()]);
            let sent = [Measure::NetSent, Measure::Net6Sent, Measure::NetReceived];
            let sent = sent.map(|measure| totals[0].1.usage.get(measure));
            assert_eq!(sent, [Some(2570), Some(2570), Some(0)]);
            let faults = history.fault_counts(window).expect("reads").remove(&alice());
            let golden = [("network-dns".to_owned(), 4), ("network-invalid".to_owned(), 4)];
            assert_eq!(faults, Some(golden.into()), "what was refused before the first reading may be old");
            let incidents = history.incidents(None, window, 9).expect("reads");
            assert_eq!(incidents.len(), 1, "{incidents:?}");
            assert_eq!((incidents[0].kind.as_str(), incidents[0].faults), ("network-dns", 4));
            let evidence = &incidents[0].snapshots[0].refused;
            assert_eq!(*evidence, [(RefusedPacket::Dns, 4), (RefusedPacket::Invalid, 4)].into());
            let (told, next) = second.metrics(MetricsDetail::All, None, Duration::ZERO);
            assert_eq!((told.len(), next), (1, None), "nobody knows mallory");
            assert_eq!((told[0].tenant.clone(), told[0].plan.is_some()), (alice(), true));
            let more = told[0].more.as_deref().expect("all");
            assert_eq!(more.traffic.expect("was counted").ipv6.sent.bytes, 70, "as the router counts");
            assert_eq!(more.refused, [(RefusedPacket::Dns, 0), (RefusedPacket::Invalid, 0)].into());
            assert_eq!(more.month, Some(MonthUse { used: 0, volume: None }));
            // The router counts what it refuses.
            assert_eq!((more.faults.len(), more.incidents.get("network-dns")), (0, None), "it began before a restart");
            second.fault(&alice(), LimitKey::Tasks, 3);
            second.fault(&alice(), LimitKey::Cpu, 2);
            let (told, _) = second.metrics(MetricsDetail::All, None, Duration::from_secs(3600));
            let more = told[0].more.as_deref().expect("all");
            assert_eq!(more.faults, [("tasks".to_owned(), 3), ("cpu".to_owned(), 2)].into());
            assert_eq!(more.incidents, [("tasks".to_owned(), 1)].into());
            let meter = second.host_meter();
            assert_eq!((meter.reserve_reached, meter.audited), (None, None), "the warden told nothing of disks");
            assert!(meter.history_written.is_some());
            assert_eq!(second.metrics(MetricsDetail::None, None, Duration::ZERO), (Vec::new(), None));
            assert_eq!(second.metrics(MetricsDetail::Core, Some(&alice()), Duration::ZERO), (Vec::new(), None));
        };
        tokio::task::spawn_blocking(recorded).await.expect("ends");
    }

    #[test]
    fn an_event_that_cannot_be_read_is_an_error_and_does_not_stay_in_the_way() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let known = WardenEvent::Pressure { resource: Resource::Io };
        transport::send(&theirs, &WardenReply::Event(known.clone()), MAX_REPLY, &[]).expect("sent");
        let of_a_later_version = BTreeMap::from([("event", BTreeMap::from([("later", "")]))]);
        transport::send(&theirs, &of_a_later_version, MAX_REPLY, &[]).expect("sent");
        drop(theirs);
        let mut incoming = Incoming::new(MAX_REPLY, 0);
        while incoming.receive(&ours).expect("received") > 0 {}
        let mut events = Vec::new();
        assert!(take_events(&mut incoming, &mut events).is_err());
        assert_eq!(events, [known]);
    }
}
