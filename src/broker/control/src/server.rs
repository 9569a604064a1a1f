//! The server of the control socket: accepts connections, reads requests, checks permissions and sends replies.

use crate::permission::{Caller, OperatorPermission};
use crate::places::{Place, Who};
use crate::reconciler::ApplyOptions;
use crate::services::Services;
use crate::sessions::SessionGuard;
use crate::transport;
use crate::waking::Cause;
use bailiwick_proto::control::{TenantOutcome, Verb};
use bailiwick_proto::frame::{Decoder, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::{ControlReply, ControlRequest, Failure, Incoming, Refusal, TransportError, time_limits};
use bailiwick_sys::socket::{self, Peer, SpareDescriptor};
use bailiwick_types::{Door, ExitStatus, TenantName};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

/// The pause before the next `accept` when the process is out of descriptors and could not even send a refusal.
const PAUSE: Duration = Duration::from_millis(100);
/// The most descriptors beside a request: the three streams of a session.
const MAX_FDS: usize = 3;

/// Accepts connections until `stop` turns true or its sender is dropped. Then it finishes the accepted connections and
/// returns. The next daemon cannot see a connection that was already accepted, so its request must be answered here.
pub async fn serve(services: Arc<Services>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
    let mut reserve = SpareDescriptor::new(&listener);
    let shortage = watch::Sender::new(());
    // Each connection holds one sender until it ends.
    let (open, mut all_over) = mpsc::channel::<()>(1);
    tokio::spawn({
        let services = Arc::clone(&services);
        async move { services.callers.know_operators().await }
    });
    loop {
        let accept = async {
            while !reserve.hold(&listener) {
                warn!(event = "accept-failed", "no descriptor is left");
                shortage.send_replace(());
                tokio::time::sleep(PAUSE).await;
            }
            listener.accept().await
        };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(peer) = socket::peer(&stream) else { continue };
                let Ok(groups) = socket::peer_groups(&stream) else { continue };
                let place = match services.callers.places.take(services.callers.places_of(peer.uid, &groups)) {
                    Ok(place) => place,
                    Err(failure) => {
                        turn_away(&stream, failure);
                        continue;
                    }
                };
                let services = Arc::clone(&services);
                let shortage = shortage.subscribe();
                let connection =
                    Connection { services, stream, peer, place, session: None, stop: stop.clone(), shortage };
                let (stop, open) = (stop.clone(), open.clone());
                tokio::spawn(async move {
                    // A client may disconnect at any time. That is no error of this program.
                    drop(connection.run(&groups, stop).await);
                    drop(open);
                });
            }
            Err(error) => {
                warn!(event = "accept-failed", "{error}");
                let is_short = socket::is_shortage(&error);
                if is_short {
                    shortage.send_replace(());
                }
                if !(is_short && reserve.turn_away(&listener)) {
                    // Descriptors become free only when current connections end.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    drop((listener, reserve, open));
    all_over.recv().await;
}

/// Sends a refusal to a client that gets no place. It does not wait, because there may be thousands of such clients.
fn turn_away(stream: &UnixStream, failure: Failure) {
    if let Ok(frame) = encode(&ControlReply::Failed(failure), MAX_REPLY) {
        drop(socket::send(stream, &frame, &[]));
    }
}

struct Connection {
    services: Arc<Services>,
    stream: UnixStream,
    peer: Peer,
    place: Place,
    /// The session that was opened over this connection. After it only the end of the session is reported here.
    session: Option<SessionGuard>,
    /// Turns true when the daemon stops: then nobody waits for events.
    stop: watch::Receiver<bool>,
    /// Changes when a client could not be accepted for want of descriptors.
    shortage: watch::Receiver<()>,
}

impl Connection {
    async fn run(mut self, groups: &[u32], mut stop: watch::Receiver<bool>) -> io::Result<()> {
        let caller = match self.services.callers.caller(self.peer.uid, groups).await {
            Ok(caller) => caller,
            Err(failure) => {
                self.services.refusals.count();
                let status = failure.status.code();
                info!(target: "bailiwick::event", event = "caller-refused", uid = self.peer.uid, status, "{failure}");
                // Read the request before the reply: if the socket closed while the client still sends, the client
                // would see a broken connection and not the refusal. The wait is bounded, so it cannot delay the end of
                // this program, and the content is discarded.
                let heard = timeout(time_limits::REQUEST, self.hear_out());
                drop(timeout_from(&mut stop, time_limits::LAST_REQUEST, heard).await.transpose()?);
                return self.reply(&ControlReply::Failed(failure), &[]).await;
            }
        };
        // A client that proves to be an operator, or an observer, moves to such a place.
        let (who, idle) = match &caller {
            Caller::Operator(_) if self.peer.uid == 0 => (Who::Root, time_limits::IDLE),
            Caller::Operator(_) => (Who::Operator(self.peer.uid), time_limits::IDLE),
            Caller::Observer | Caller::Notifier => (Who::Observer(self.peer.uid), time_limits::REQUEST),
            Caller::Tenant(..) => (self.place.who(), time_limits::REQUEST),
        };
        if who != self.place.who() {
            match self.services.callers.places.take(who) {
                Ok(place) => self.place = place,
                Err(failure) => return self.reply(&ControlReply::Failed(failure), &[]).await,
            }
        }
        let mut incoming = Incoming::new(MAX_REQUEST, MAX_FDS);
        let mut next =
            timeout_from(&mut stop, time_limits::LAST_REQUEST, self.request(&mut incoming, Some(idle))).await;
        while let Some((request, fds)) = next.transpose()?.flatten() {
            self.answer(&caller, request, fds).await?;
            if let Some(session) = self.session.take() {
                self.place.becomes_session();
                return self.attend(session, incoming, stop).await;
            }
            next = timeout_from(&mut stop, Duration::ZERO, self.request(&mut incoming, Some(idle))).await;
        }
        Ok(())
    }

    /// Reads one request and discards it.
    async fn hear_out(&self) -> io::Result<()> {
        let mut decoder = Decoder::new(MAX_REQUEST);
        let mut heard = 0;
        loop {
            let receive = || {
                let mut portion = [0; 4096];
                let (len, _) = socket::receive(&self.stream, &mut portion, 0)?;
                decoder.push(&portion[..len.min(size_of::<u32>().saturating_sub(heard))]);
                Ok(len)
            };
            let len = self.stream.async_io(Interest::READABLE, receive).await?;
            heard += len;
            let is_whole = decoder.awaits().is_none_or(|whole| heard >= whole);
            if len == 0 || (heard >= size_of::<u32>() && is_whole) {
                return Ok(());
            }
        }
    }

    /// Keeps a session counted until its client reports the exit status or disconnects. Sends the client an `End` when
    /// the session must end.
    async fn attend(
        &mut self,
        mut session: SessionGuard,
        mut incoming: Incoming,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let last = loop {
            let end = tokio::select! {
                biased;
                last = timeout_from(&mut stop, Duration::ZERO, self.request(&mut incoming, None)) => break last,
                reason = session.end() => ControlReply::End { reason },
            };
            self.reply(&end, &[]).await?;
        };
        match last {
            // This program stops. The session continues without it.
            None => session.leave(),
            Some(Ok(Some((ControlRequest::Ended { status }, _)))) => session.ended(status),
            // The client has entered the jail by FTP. The connection ends and the session continues.
            Some(Ok(Some((ControlRequest::FtpEntered, _)))) if session.record().door == Door::Ftp => {
                let entered = self.services.ftp_entry.entered(session).await;
                self.reply(&entered.map_or_else(ControlReply::Failed, |()| ControlReply::Noted), &[]).await?;
            }
            // The client has disconnected, or it sent a request that no client of a session sends.
            Some(_) => {}
        }
        Ok(())
    }

    /// Reads the next request with its descriptors. `None` means that the client has disconnected or was refused. With
    /// `idle`, the request must begin within that time, and within [`time_limits::REQUEST`] while descriptors are short.
    async fn request(
        &mut self,
        incoming: &mut Incoming,
        idle: Option<Duration>,
    ) -> io::Result<Option<(ControlRequest, Vec<OwnedFd>)>> {
        // The deadline covers the whole request, however many parts it arrives in.
        let since = Instant::now();
        // Counts from now on.
        let mut shortage = self.shortage.clone();
        shortage.mark_unchanged();
        let mut until = idle.map(|idle| since + idle);
        let mut begun = false;
        loop {
            match incoming.take() {
                Ok(Some(request)) => {
                    // A smaller amount is always granted.
                    drop(self.place.holds(incoming.held()));
                    return Ok(Some(request));
                }
                Ok(None) => {}
                Err(TransportError::Frame(error)) => {
                    let failure = Failure::new(ExitStatus::Invalid, &error);
                    self.reply(&ControlReply::Failed(failure), &[]).await?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
            if !begun && incoming.held() > 0 {
                (until, begun) = (Some(Instant::now() + time_limits::REQUEST), true);
            }
            if let Err(failure) = self.place.holds(incoming.held()) {
                self.reply(&ControlReply::Failed(failure), &[]).await?;
                return Ok(None);
            }
            let receive = transport::receive_some(&self.stream, incoming);
            let len = match until {
                Some(end) => tokio::select! {
                    biased;
                    received = timeout_at(end, receive) => received??,
                    Ok(()) = shortage.changed(), if !begun => {
                        until = Some(end.min(since + time_limits::REQUEST));
                        continue;
                    }
                },
                None => receive.await?,
            };
            if len == 0 {
                return Ok(None);
            }
        }
    }

    /// Answers a request. The permission that each branch asks the caller for says who may make the request.
    async fn answer(&mut self, caller: &Caller, request: ControlRequest, fds: Vec<OwnedFd>) -> io::Result<()> {
        match request {
            ControlRequest::Exec(exec) => {
                let entered =
                    async { self.services.session_entry.exec(caller.operator()?, self.peer.pid, &exec, fds).await };
                let entered = entered.await;
                self.hand_over(entered).await
            }
            ControlRequest::Login(login) => {
                let entered =
                    async { self.services.session_entry.login(caller.tenant()?, self.peer.pid, &login, fds).await };
                let entered = entered.await;
                self.hand_over(entered).await
            }
            ControlRequest::Resume(record) => {
                let resumed = match caller {
                    Caller::Operator(permission) => {
                        self.services.session_entry.resume(*permission, self.peer.pid, *record)
                    }
                    Caller::Observer => Err(Refusal::OnlyMetrics.into()),
                    Caller::Notifier => Err(Refusal::OnlyNotices.into()),
                    Caller::Tenant(own) => self.services.session_entry.resume_login(own, self.peer.pid, *record),
                };
                self.resume(resumed).await
            }
            request => {
                let reply = self.reply_to(caller, request).await.unwrap_or_else(ControlReply::Failed);
                self.reply(&reply, &[]).await
            }
        }
    }

    /// Returns the reply to a request whose reply has no descriptors.
    async fn reply_to(&mut self, caller: &Caller, request: ControlRequest) -> Result<ControlReply, Failure> {
        use ControlReply as Reply;
        use ControlRequest as Request;
        let services = Arc::clone(&self.services);
        Ok(match request {
            // The host.
            Request::Status => Reply::Status(services.overview.status(caller.operator()?).await),
            Request::Reload => {
                caller.operator().and_then(|_| services.reload())?;
                Reply::Outcome(Vec::new())
            }
            // Tenants and their jails.
            Request::List => Reply::List(services.overview.list(caller.operator()?).await?),
            Request::Show { tenant } => {
                Reply::Show(Box::new(services.overview.show(caller.operator()?, &tenant).await?))
            }
            Request::Why(question) => Reply::Why(services.rehearsal.run(caller.operator()?, &question).await?),
            Request::Plan { tenants } => Reply::Plan(services.overview.plan(caller.operator()?, &tenants).await?),
            Request::Apply { tenants, now, restart } => {
                let options = ApplyOptions { now, restart };
                Reply::Outcome(self.apply(caller.operator()?, &tenants, options).await?)
            }
            Request::Lifecycle { verb, tenants } => {
                let permission = caller.operator()?;
                Reply::Outcome(match verb {
                    Verb::Wake => services.waking.wake_all(permission, &tenants).await,
                    Verb::Sleep => services.sleeping.sleep_all(permission, &tenants).await,
                    Verb::Start | Verb::Stop | Verb::Restart | Verb::Freeze | Verb::Thaw => {
                        services.reconciler.lifecycle(permission, verb, &tenants).await
                    }
                })
            }
            Request::CheckName { tenant } => {
                services.reconciler.check_name(caller.operator()?, &tenant).await?;
                Reply::Noted
            }
            Request::Purge { tenant } => {
                Reply::Outcome(vec![services.reconciler.purge(caller.operator()?, &tenant).await])
            }
            Request::Network { tenant, connections } => {
                let permission = caller.operator()?;
                let mut network = services.networks.of(permission, &tenant).await?;
                if connections {
                    let (listed, cut) = services.networks.connections(permission, tenant).await?;
                    (network.connections, network.cut) = (Some(listed), cut);
                }
                Reply::Network(Box::new(network))
            }
            // Sessions and timers.
            Request::Sessions { tenants } => Reply::Sessions(services.session_end.list(caller.operator()?, &tenants)?),
            Request::Connections { tenants } => {
                let permission = caller.operator()?;
                Reply::Connections(services.service_keeper.connections(permission, &tenants).await?)
            }
            Request::EndSessions { sessions, tenants, reason } => {
                let permission = caller.operator()?;
                let (ended, left) = services.session_end.end(permission, &sessions, &tenants, reason).await?;
                Reply::EndedSessions { ended, left }
            }
            Request::Services { tenants } => {
                let tenants = caller.scope()?.of(tenants)?;
                Reply::Services(services.service_keeper.list(&tenants).await?)
            }
            Request::ServiceVerb { tenant, names, verb } => {
                caller.scope()?.of(vec![tenant.clone()])?;
                let _awake = services.waking.keep_thawed(&tenant, Cause::Service).await?;
                Reply::ServicesDone(services.service_keeper.verb(&tenant, &names, verb).await?)
            }
            Request::Timers { tenants } => Reply::Timers(services.timer_runner.list(caller.operator()?, &tenants)?),
            Request::Ended { .. } | Request::FtpEntered => return Err(caller.session()),
            Request::Exec(_) | Request::Login(_) | Request::Resume(_) => return Err(Refusal::NoSession.into()),
            // The metrics, for observers.
            Request::Metrics { detail, after } => {
                Reply::Metrics(Box::new(services.metrics.page(caller.observer()?, detail, after).await?))
            }
            // What notices are delivered by.
            Request::Notices { after } => Reply::Notices(Box::new(services.notices.page(caller.notices()?, after))),
            // Logins by FTP.
            Request::FtpHash { user } => Reply::FtpHash(services.ftp_entry.hash(caller.root()?, &user)),
            Request::FtpRefused { user, source } => {
                services.ftp_entry.refused(caller.root()?, self.peer.pid, &user, source);
                Reply::Noted
            }
            Request::FtpEnter { user, source } => {
                let session = services.ftp_entry.enter(caller.root()?, self.peer.pid, &user, source).await?;
                let reply = Reply::Session { record: Box::new(session.record().clone()), notice: None };
                self.session = Some(session);
                reply
            }
            // Audits.
            Request::Audit { tenants, depth } => {
                Reply::Audit(Box::new(services.audits.audit(caller.operator()?, &tenants, depth).await?))
            }
            Request::VerifyAudits { mark } => {
                let (mark, problems) = services.records.verify_audits(caller.operator()?, mark).await?;
                Reply::Verified { mark, problems }
            }
            // Recorded data: operators read that of all tenants, a tenant's user that of its own tenant.
            Request::Usage { tenants, window } => {
                let mut usage = services.records.usage(&caller.scope()?, tenants, window).await?;
                if window.is_none() {
                    services.service_keeper.add_counts(&mut usage);
                }
                Reply::Usage(usage)
            }
            Request::History { tenant, window, step } => {
                Reply::History(services.records.history(&caller.scope()?, tenant, window, step).await?)
            }
            Request::Faults { tenants, window } => {
                Reply::Faults(services.records.faults(&caller.scope()?, tenants, window).await?)
            }
            Request::Incidents { tenants, window } => {
                Reply::Incidents(services.records.incidents(&caller.scope()?, tenants, window).await?)
            }
            Request::Incident { id } => Reply::Incidents(vec![services.records.incident(&caller.scope()?, id).await?]),
            Request::Events(wanted) => services.event_reader.read(&caller.events()?, wanted, self.stop.clone()).await?,
            Request::Simulate { window, bounds } => {
                Reply::Simulated(services.records.simulate(caller.operator()?, window, bounds).await?)
            }
        })
    }

    /// Applies the policy and sends the client progress messages.
    async fn apply(
        &self,
        permission: OperatorPermission,
        tenants: &[TenantName],
        options: ApplyOptions,
    ) -> Result<Vec<TenantOutcome>, Failure> {
        let (sender, mut progress) = mpsc::channel(4);
        let mut apply = std::pin::pin!(self.services.reconciler.apply(permission, tenants, options, sender));
        loop {
            tokio::select! {
                result = &mut apply => return result,
                Some((done, total)) = progress.recv() => {
                    // When the client no longer reads, its policy is still applied.
                    drop(self.reply(&ControlReply::Progress { done, total }, &[]).await);
                }
            }
        }
    }

    /// Sends the client its end of the session channel, or the refusal.
    async fn hand_over(&mut self, entered: Result<(OwnedFd, SessionGuard), Failure>) -> io::Result<()> {
        match entered {
            Ok((channel, session)) => {
                let (record, notice) = (Box::new(session.record().clone()), session.notice().map(str::to_owned));
                let reply = ControlReply::Session { record, notice };
                self.session = Some(session);
                self.reply(&reply, &[channel.as_fd()]).await
            }
            Err(failure) => self.reply(&ControlReply::Failed(failure), &[]).await,
        }
    }

    /// Resumes a session whose client already has the channel. Only a refusal gets a reply.
    async fn resume(&mut self, resumed: Result<SessionGuard, Failure>) -> io::Result<()> {
        match resumed {
            Ok(session) => self.session = Some(session),
            Err(failure) => self.reply(&ControlReply::Failed(failure), &[]).await?,
        }
        Ok(())
    }

    async fn reply(&self, reply: &ControlReply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = async {
            match transport::send(&self.stream, reply, MAX_REPLY, fds).await {
                // The reply is too large, and no part of it was sent.
                Err(TransportError::Frame(error)) => {
                    let failure = ControlReply::Failed(Failure::new(ExitStatus::Failed, &error));
                    transport::send(&self.stream, &failure, MAX_REPLY, &[]).await
                }
                sent => sent,
            }
        };
        Ok(timeout(time_limits::REPLY, send).await??)
    }
}

/// Returns the result of `work`, or `None` when `work` takes longer than `time` after the stop.
async fn timeout_from<T>(stop: &mut watch::Receiver<bool>, time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let end = async {
        drop(stop.wait_for(|stop| *stop).await);
        tokio::time::sleep(time).await;
    };
    tokio::select! {
        biased;
        result = work => Some(result),
        () = end => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use crate::permission::TenantPermission;
    use bailiwick_proto::WardenReply;
    use bailiwick_proto::control::{Depth, EventsWanted, Exec, Login, Verb, WhyQuestion, WhyWhat};
    use bailiwick_types::{
        Door, ExitStatus, FtpUser, MetricsDetail, Moment, ServiceVerb, SessionId, SessionRecord, TenantName, Window,
    };
    use std::collections::{BTreeMap, BTreeSet};
    use tokio::io::AsyncWriteExt;

    /// Who may make a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum May {
        Operators,
        /// Operators, observers, and the notifier.
        Observers,
        /// Operators, and the notifier.
        Notifier,
        /// Operators, the notifier, and a tenant's user for its tenant.
        Readers,
        Root,
        Tenants,
        /// Operators; and a tenant's user for what belongs to its tenant.
        Everybody,
        /// Allowed only within a session.
        Nobody,
    }

    /// A number for each kind of request. A new request needs a number here and a row in the table below.
    fn kind(request: &ControlRequest) -> usize {
        use ControlRequest as R;
        match request {
            R::Status => 0,
            R::List => 1,
            R::Show { .. } => 2,
            R::Reload => 3,
            R::Plan { .. } => 4,
            R::Apply { .. } => 5,
            R::Lifecycle { .. } => 6,
            R::Audit { .. } => 7,
            R::VerifyAudits { .. } => 8,
            R::Usage { .. } => 9,
            R::History { .. } => 10,
            R::Faults { .. } => 11,
            R::Incidents { .. } => 12,
            R::Incident { .. } => 13,
            R::Simulate { .. } => 14,
            R::CheckName { .. } => 15,
            R::Purge { .. } => 16,
            R::Exec(_) => 17,
            R::Login(_) => 18,
            R::Resume(_) => 19,
            R::FtpHash { .. } => 20,
            R::FtpRefused { .. } => 21,
            R::FtpEnter { .. } => 22,
            R::FtpEntered => 23,
            R::Ended { .. } => 24,
            R::Timers { .. } => 25,
            R::Sessions { .. } => 26,
            R::EndSessions { .. } => 27,
            R::Services { .. } => 28,
            R::ServiceVerb { .. } => 29,
            R::Connections { .. } => 30,
            R::Network { .. } => 31,
            R::Events(_) => 32,
            R::Metrics { .. } => 33,
            R::Notices { .. } => 34,
            R::Why(_) => 35,
        }
    }
    const KINDS: usize = 36;

    fn requests() -> Vec<(ControlRequest, May)> {
        use ControlRequest as R;
        use May::{Everybody, Nobody, Notifier, Observers, Operators, Readers, Root, Tenants};
        let alice = || "alice".parse::<TenantName>().expect("a name");
        let (own, others) = (|| vec![alice()], || vec!["bob".parse::<TenantName>().expect("a name")]);
        let window = Window { from: Moment(0), until: Moment(60) };
        let exec = Exec { tenant: alice(), user: None, argv: Vec::new(), env: Vec::new(), cwd: None, terminal: None };
        let login = Login { door: Door::Ssh, command: None, env: Vec::new(), terminal: None, source: None, key: None };
        let record = SessionRecord {
            id: SessionId(1),
            tenant: alice(),
            door: Door::Ftp,
            user: "alice".to_owned(),
            source: None,
            key: None,
            command: None,
            since: Moment(1),
            uid: 1,
            pid: 2,
        };
        let events = |tenants| {
            R::Events(EventsWanted { after: 0, since: Moment(0), tenants, types: Vec::new(), most: 1, wait: true })
        };
        let user = || FtpUser { tenant: alice(), name: "files".parse().expect("a name") };
        vec![
            (R::Status, Operators),
            (R::List, Operators),
            (R::Show { tenant: alice() }, Operators),
            (R::Reload, Operators),
            (R::Why(WhyQuestion { tenant: alice(), what: WhyWhat::Write { path: None, bytes: 1 } }), Operators),
            (R::Plan { tenants: own() }, Operators),
            (R::Apply { tenants: own(), now: false, restart: false }, Operators),
            (R::Lifecycle { verb: Verb::Start, tenants: own() }, Operators),
            (R::Audit { tenants: own(), depth: Depth::Read }, Operators),
            (R::VerifyAudits { mark: None }, Operators),
            (R::Usage { tenants: own(), window: None }, Everybody),
            (R::Usage { tenants: others(), window: None }, Operators),
            (R::Usage { tenants: [own(), others()].concat(), window: Some(window) }, Operators),
            (R::History { tenant: alice(), window, step: 60 }, Everybody),
            (R::History { tenant: others().remove(0), window, step: 60 }, Operators),
            (R::Faults { tenants: Vec::new(), window }, Everybody),
            (R::Faults { tenants: others(), window }, Operators),
            (R::Incidents { tenants: own(), window }, Everybody),
            (R::Incidents { tenants: others(), window }, Operators),
            (R::Incident { id: 1 }, Everybody),
            (events(Vec::new()), Readers),
            (events(own()), Readers),
            (events(others()), Notifier),
            (R::Notices { after: None }, Notifier),
            (R::Metrics { detail: None, after: None }, Observers),
            (R::Metrics { detail: Some(MetricsDetail::All), after: Some(alice()) }, Observers),
            (R::Simulate { window, bounds: BTreeMap::new() }, Operators),
            (R::CheckName { tenant: alice() }, Operators),
            (R::Purge { tenant: alice() }, Operators),
            (R::Exec(exec), Operators),
            (R::Login(login), Tenants),
            (R::Resume(Box::new(record)), Everybody),
            (R::FtpHash { user: "alice.files".to_owned() }, Root),
            (R::FtpRefused { user: "alice.files".to_owned(), source: None }, Root),
            (R::FtpEnter { user: user(), source: None }, Root),
            (R::FtpEntered, Nobody),
            (R::Ended { status: 0 }, Nobody),
            (R::Timers { tenants: own() }, Operators),
            (R::Sessions { tenants: own() }, Operators),
            (R::Connections { tenants: own() }, Operators),
            (R::Network { tenant: alice(), connections: true }, Operators),
            (R::EndSessions { sessions: Vec::new(), tenants: own(), reason: None }, Operators),
            (R::Services { tenants: own() }, Everybody),
            (R::Services { tenants: others() }, Operators),
            (R::ServiceVerb { tenant: alice(), names: Vec::new(), verb: ServiceVerb::Stop }, Everybody),
            (R::ServiceVerb { tenant: others().remove(0), names: Vec::new(), verb: ServiceVerb::Stop }, Operators),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_sooner_while_descriptors_are_short() {
        let (_temp, services) = fake::host();
        let (shortage, _) = watch::channel(());
        for (short, begins, time) in [
            (false, false, time_limits::IDLE),
            (true, false, time_limits::REQUEST),
            (true, true, time_limits::REQUEST * 2),
        ] {
            // One that is over counts for nothing.
            shortage.send_replace(());
            let (stream, mut client) = UnixStream::pair().expect("a pair");
            let unread = stream.as_fd().try_clone_to_owned().expect("a duplicate");
            let place = services.callers.places.take(Who::Root).expect("a place");
            let peer = Peer { pid: std::process::id(), uid: 0, gid: 0 };
            let (services, (_, stop)) = (Arc::clone(&services), watch::channel(true));
            let shortage_seen = shortage.subscribe();
            let mut connection =
                Connection { services, stream, peer, place, session: None, stop, shortage: shortage_seen };
            let mut incoming = Incoming::new(MAX_REQUEST, 0);
            let begun = Instant::now();
            let others = async {
                if begins {
                    tokio::time::sleep(time_limits::REQUEST).await;
                    client.write_all(&[0]).await.expect("sends");
                    while rustix::io::ioctl_fionread(&unread).expect("counts") > 0 {
                        tokio::task::yield_now().await;
                    }
                }
                if short {
                    shortage.send_replace(());
                }
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                biased;
                ended = connection.request(&mut incoming, Some(time_limits::IDLE)) => ended,
                () = others => unreachable!(),
            };
            assert_eq!(ended.expect_err("no request came").kind(), io::ErrorKind::TimedOut);
            assert_eq!(begun.elapsed(), time, "short: {short}, begins: {begins}");
        }
    }

    /// Whether a reply says that the caller may not make this request.
    fn is_forbidden(reply: &ControlReply) -> bool {
        let ControlReply::Failed(Failure { refusal: Some(refusal), .. }) = reply else { return false };
        use Refusal::{NoSession, NotOwn, OnlyFtpServers, OnlyHostUsers, OnlyMetrics, OnlyNotices};
        matches!(refusal, NotOwn { .. } | NoSession | OnlyFtpServers | OnlyHostUsers | OnlyMetrics | OnlyNotices)
    }

    #[tokio::test]
    async fn every_request_is_answered_to_those_who_may_make_it_and_to_nobody_else() {
        let kinds: BTreeSet<usize> = requests().iter().map(|(request, _)| kind(request)).collect();
        assert_eq!(kinds.len(), KINDS, "each kind of request is in the table");
        let (_temp, services) = fake::host();
        let no = Failure::of(ExitStatus::Failed, "no");
        fake::warden(&services, move |_| fake::Answer::Reply(WardenReply::Failed(no.clone())));
        let tenant = TenantPermission { tenant: "alice".parse().expect("a name"), uid: 1_000_000 };
        for (name, caller, may) in [
            (
                "root",
                Caller::Operator(OperatorPermission { uid: 0 }),
                &[May::Everybody, May::Operators, May::Observers, May::Notifier, May::Readers, May::Root][..],
            ),
            (
                "an admin",
                Caller::Operator(OperatorPermission { uid: 7 }),
                &[May::Everybody, May::Operators, May::Observers, May::Notifier, May::Readers],
            ),
            ("an observer", Caller::Observer, &[May::Observers]),
            ("the notifier", Caller::Notifier, &[May::Observers, May::Notifier, May::Readers]),
            ("a tenant's user", Caller::Tenant(tenant), &[May::Everybody, May::Readers, May::Tenants]),
        ] {
            for (request, who) in requests() {
                let (stream, client) = UnixStream::pair().expect("a pair");
                let place = services.callers.places.take(Who::Root).expect("a place");
                let peer = Peer { pid: std::process::id(), uid: 0, gid: 0 };
                let ((_, stop), (_, shortage)) = (watch::channel(true), watch::channel(()));
                let services = Arc::clone(&services);
                let mut connection = Connection { services, stream, peer, place, session: None, stop, shortage };
                let asked = format!("{request:?}");
                connection.answer(&caller, request, Vec::new()).await.expect("answers");
                let reply = loop {
                    let mut incoming = Incoming::new(MAX_REPLY, 1);
                    match transport::receive::<ControlReply>(&client, &mut incoming).await.expect("a reply").0 {
                        ControlReply::Progress { .. } => {}
                        reply => break reply,
                    }
                };
                let allowed = may.contains(&who);
                assert_eq!(!is_forbidden(&reply), allowed, "{name} asks {asked}: {reply:?}");
            }
        }
    }
}
