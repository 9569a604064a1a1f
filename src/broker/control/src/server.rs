//! The control socket: connections, frames, and which request goes where.

use crate::daemon::{ApplyOptions, Daemon};
use crate::permission::{Caller, Permission};
use crate::places::{Place, Who};
use crate::sessions::Counted;
use crate::transport;
use bailiwick_proto::frame::{Decoder, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::{ControlReply, ControlRequest, Failure, Incoming, Refusal, TransportError, time_limits};
use bailiwick_sys::socket::{self, Peer, Reserve};
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

/// How long nobody is accepted after not even a refusal could be made.
const PAUSE: Duration = Duration::from_millis(100);
/// The most descriptors beside a request: the three streams of a session.
const MAX_FDS: usize = 3;

/// Accepts until `stop` turns true or its sender is gone; then answers what was accepted, and returns. A connection that
/// was taken from the queue is lost to the next daemon: its request must not be lost with it.
pub async fn serve(daemon: Arc<Daemon>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
    let mut reserve = Reserve::new(&listener);
    // Each connection holds one until it is over.
    let (open, mut all_over) = mpsc::channel::<()>(1);
    tokio::spawn({
        let daemon = Arc::clone(&daemon);
        async move { daemon.know_operators().await }
    });
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(peer) = socket::peer(&stream) else { continue };
                let Ok(groups) = socket::peer_groups(&stream) else { continue };
                let place = match daemon.places().take(daemon.places_of(peer.uid, &groups)) {
                    Ok(place) => place,
                    Err(failure) => {
                        turn_away(&stream, failure);
                        continue;
                    }
                };
                let connection = Connection { daemon: Arc::clone(&daemon), stream, peer, place, session: None };
                let (stop, open) = (stop.clone(), open.clone());
                tokio::spawn(async move {
                    // A client that goes away in the middle is no event of ours.
                    drop(connection.run(&groups, stop).await);
                    drop(open);
                });
            }
            Err(error) => {
                warn!(event = "accept-failed", "{error}");
                if !(socket::is_want(&error) && reserve.turn_away(&listener)) {
                    // Those who are served must be let go first.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    drop((listener, reserve, open));
    all_over.recv().await;
}

/// Tells somebody for whom there is no place, and waits for nothing: it may be one of thousands.
fn turn_away(stream: &UnixStream, failure: Failure) {
    if let Ok(frame) = encode(&ControlReply::Failed(failure), MAX_REPLY) {
        drop(socket::send(stream, &frame, &[]));
    }
}

struct Connection {
    daemon: Arc<Daemon>,
    stream: UnixStream,
    peer: Peer,
    place: Place,
    /// The session that was let in over this connection. It is its last word but for its end.
    session: Option<Counted>,
}

impl Connection {
    async fn run(mut self, groups: &[u32], mut stop: watch::Receiver<bool>) -> io::Result<()> {
        let caller = match self.daemon.caller(self.peer.uid, groups).await {
            Ok(caller) => caller,
            Err(failure) => {
                self.daemon.count_refusal();
                let status = failure.status.code();
                info!(target: "bailiwick::event", event = "caller-refused", uid = self.peer.uid, status, "{failure}");
                // Heard out before it is answered: a client that is still sending would see its socket break instead.
                // But it must not hold up the end of this program either, and nothing of what it says is kept.
                let heard = timeout(time_limits::REQUEST, self.hear_out());
                drop(timeout_from(&mut stop, time_limits::LAST_REQUEST, heard).await.transpose()?);
                return self.reply(&ControlReply::Failed(failure), &[]).await;
            }
        };
        // Whoever turned out to be an operator takes the place of one.
        let (who, idle) = match &caller {
            Caller::Operator(_) if self.peer.uid == 0 => (Who::Root, time_limits::IDLE),
            Caller::Operator(_) => (Who::Operator(self.peer.uid), time_limits::IDLE),
            Caller::Tenant(..) => (self.place.who(), time_limits::REQUEST),
        };
        if who != self.place.who() {
            match self.daemon.places().take(who) {
                Ok(place) => self.place = place,
                Err(failure) => return self.reply(&ControlReply::Failed(failure), &[]).await,
            }
        }
        let mut incoming = Incoming::new(MAX_REQUEST, MAX_FDS);
        let mut next =
            timeout_from(&mut stop, time_limits::LAST_REQUEST, self.request(&mut incoming, Some(idle))).await;
        while let Some((request, fds)) = next.transpose()?.flatten() {
            match &caller {
                Caller::Operator(permission) => self.answer(*permission, request, fds).await?,
                Caller::Tenant(tenant, permission) => self.answer_tenant(tenant, *permission, request, fds).await?,
            }
            if let Some(session) = self.session.take() {
                self.place.becomes_session();
                return self.attend(session, incoming, stop).await;
            }
            next = timeout_from(&mut stop, Duration::ZERO, self.request(&mut incoming, Some(idle))).await;
        }
        Ok(())
    }

    /// Takes one request and forgets it.
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

    /// Counts a session until its client says how it ended, or is gone; has the client end it when it must.
    async fn attend(
        &mut self,
        mut session: Counted,
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
            // The session goes on without us.
            None => session.leave(),
            Some(Ok(Some((ControlRequest::Ended { status }, _)))) => session.ended(status),
            // The connection ends, the session goes on.
            Some(Ok(Some((ControlRequest::FtpEntered, _)))) if session.record().door == Door::Ftp => {
                let entered = self.daemon.ftp_entered(session).await;
                self.reply(&entered.map_or_else(ControlReply::Failed, |()| ControlReply::Noted), &[]).await?;
            }
            // Its client is gone, or says what no client of a session says.
            Some(_) => {}
        }
        Ok(())
    }

    /// The next request with its descriptors; `None` when the client has gone. It may take `idle` to begin.
    async fn request(
        &mut self,
        incoming: &mut Incoming,
        idle: Option<Duration>,
    ) -> io::Result<Option<(ControlRequest, Vec<OwnedFd>)>> {
        // For all of it, whatever comes meanwhile.
        let mut until = idle.map(|idle| Instant::now() + idle);
        let mut begun = false;
        loop {
            match incoming.take() {
                Ok(Some(request)) => {
                    // Less is always granted.
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
                Some(until) => timeout_at(until, receive).await??,
                None => receive.await?,
            };
            if len == 0 {
                return Ok(None);
            }
        }
    }

    async fn answer(&mut self, permission: Permission, request: ControlRequest, fds: Vec<OwnedFd>) -> io::Result<()> {
        let daemon = Arc::clone(&self.daemon);
        let reply = match request {
            ControlRequest::Exec(exec) => {
                let entered = daemon.exec(permission, self.pid(), &exec, fds).await;
                return self.hand_over(entered).await;
            }
            ControlRequest::Resume(record) => return self.resume(daemon.resume(permission, self.pid(), *record)).await,
            ControlRequest::Ended { .. } | ControlRequest::FtpEntered => Err(Refusal::NoSession.into()),
            ControlRequest::FtpHash { .. } | ControlRequest::FtpRefused { .. } | ControlRequest::FtpEnter { .. }
                if permission.uid != 0 =>
            {
                Err(Refusal::OnlyFtpServers.into())
            }
            ControlRequest::FtpHash { user } => Ok(ControlReply::FtpHash(daemon.ftp_hash(permission, &user))),
            ControlRequest::FtpRefused { user, source } => {
                daemon.ftp_refused(permission, self.pid(), &user, source);
                Ok(ControlReply::Noted)
            }
            ControlRequest::FtpEnter { user, source } => {
                match daemon.ftp_enter(permission, self.pid(), &user, source) {
                    Ok(counted) => {
                        let reply = ControlReply::Session { record: Box::new(counted.record().clone()), notice: None };
                        self.session = Some(counted);
                        Ok(reply)
                    }
                    Err(failure) => Err(failure),
                }
            }
            ControlRequest::Timers { tenants } => daemon.list_timers(permission, &tenants).map(ControlReply::Timers),
            ControlRequest::Sessions { tenants } => {
                daemon.list_sessions(permission, &tenants).map(ControlReply::Sessions)
            }
            ControlRequest::EndSessions { sessions, tenants, reason } => daemon
                .end_sessions(permission, &sessions, &tenants, reason)
                .await
                .map(|(ended, left)| ControlReply::EndedSessions { ended, left }),
            ControlRequest::Login(_) => Err(Refusal::OnlyHostUsers.into()),
            ControlRequest::Status => Ok(ControlReply::Status(daemon.status(permission).await)),
            ControlRequest::List => daemon.list(permission).await.map(ControlReply::List),
            ControlRequest::Show { tenant } => {
                daemon.show(permission, &tenant).await.map(|detail| ControlReply::Show(Box::new(detail)))
            }
            ControlRequest::Reload => daemon.reload().map(|()| ControlReply::Outcome(Vec::new())),
            ControlRequest::Plan { tenants } => daemon.plan(permission, &tenants).await.map(ControlReply::Plan),
            ControlRequest::Apply { tenants, now, restart } => {
                let (sender, mut progress) = mpsc::channel(4);
                let mut apply =
                    std::pin::pin!(daemon.apply(permission, &tenants, ApplyOptions { now, restart }, sender));
                loop {
                    tokio::select! {
                        result = &mut apply => break result.map(ControlReply::Outcome),
                        Some((done, total)) = progress.recv() => {
                            // A client that no longer reads still gets its policy applied.
                            drop(self.reply(&ControlReply::Progress { done, total }, &[]).await);
                        }
                    }
                }
            }
            ControlRequest::Lifecycle { verb, tenants } => {
                Ok(ControlReply::Outcome(daemon.lifecycle(permission, verb, &tenants).await))
            }
            ControlRequest::Audit { tenants, depth } => {
                daemon.audit(permission, &tenants, depth).await.map(|report| ControlReply::Audit(Box::new(report)))
            }
            ControlRequest::VerifyAudits { mark } => daemon
                .verify_audits(permission, mark)
                .await
                .map(|(mark, problems)| ControlReply::Verified { mark, problems }),
            ControlRequest::Usage { tenants, window } => {
                daemon.usage(permission, tenants, window).await.map(ControlReply::Usage)
            }
            ControlRequest::History { tenant, window, step } => {
                daemon.history(permission, tenant, window, step).await.map(ControlReply::History)
            }
            ControlRequest::Faults { tenants, window } => {
                daemon.faults(permission, tenants, window).await.map(ControlReply::Faults)
            }
            ControlRequest::Incidents { tenants, window } => {
                daemon.incidents(permission, tenants, window).await.map(ControlReply::Incidents)
            }
            ControlRequest::Incident { id } => {
                daemon.incident(permission, id).await.map(|incident| ControlReply::Incidents(vec![incident]))
            }
            ControlRequest::Simulate { window, bounds } => {
                daemon.simulate(permission, window, bounds).await.map(ControlReply::Simulated)
            }
            ControlRequest::CheckName { tenant } => {
                daemon.check_name(permission, &tenant).await.map(|()| ControlReply::Noted)
            }
            ControlRequest::Purge { tenant } => {
                Ok(ControlReply::Outcome(vec![daemon.purge(permission, &tenant).await]))
            }
        };
        self.reply(&reply.unwrap_or_else(ControlReply::Failed), &[]).await
    }

    /// A tenant sees what is its own, and of others not even that they are there.
    async fn answer_tenant(
        &mut self,
        own: &TenantName,
        permission: Permission,
        request: ControlRequest,
        fds: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let daemon = Arc::clone(&self.daemon);
        let only_own = |tenants: &[TenantName]| tenants.iter().all(|tenant| tenant == own);
        let mine = || vec![own.clone()];
        let reply = match request {
            ControlRequest::Login(login) => {
                let entered = daemon.login(own, permission, self.pid(), &login, fds).await;
                return self.hand_over(entered).await;
            }
            ControlRequest::Resume(record) => {
                return self.resume(daemon.resume_login(own, permission, self.pid(), *record)).await;
            }
            ControlRequest::Usage { tenants, window } if only_own(&tenants) => {
                daemon.usage(permission, mine(), window).await.map(ControlReply::Usage)
            }
            ControlRequest::History { tenant, window, step } if tenant == *own => {
                daemon.history(permission, tenant, window, step).await.map(ControlReply::History)
            }
            ControlRequest::Faults { tenants, window } if only_own(&tenants) => {
                daemon.faults(permission, mine(), window).await.map(ControlReply::Faults)
            }
            ControlRequest::Incidents { tenants, window } if only_own(&tenants) => {
                daemon.incidents(permission, mine(), window).await.map(ControlReply::Incidents)
            }
            ControlRequest::Incident { id } => daemon.own_incident(permission, own, id).await,
            _ => Err(Refusal::NotOwn { tenant: own.clone() }.into()),
        };
        self.reply(&reply.unwrap_or_else(ControlReply::Failed), &[]).await
    }

    /// Gives a client its end of the session that it was let into, or the reason why it was not.
    async fn hand_over(&mut self, entered: Result<(OwnedFd, Counted), Failure>) -> io::Result<()> {
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

    /// Takes up a session whose client has the channel already. Only a refusal is told.
    async fn resume(&mut self, resumed: Result<Counted, Failure>) -> io::Result<()> {
        match resumed {
            Ok(session) => self.session = Some(session),
            Err(failure) => self.reply(&ControlReply::Failed(failure), &[]).await?,
        }
        Ok(())
    }

    /// The client's process.
    fn pid(&self) -> u32 {
        self.peer.pid
    }

    async fn reply(&self, reply: &ControlReply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = async {
            match transport::send(&self.stream, reply, MAX_REPLY, fds).await {
                // It is too large, and nothing of it was sent.
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

/// What `work` results in; `None` when it lasts longer than `time` after the stop.
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
