//! The metrics, and what notices are delivered by, collected page by page over one connection.
//!
//! Danger: nobody waits at a terminal, so everything has a time limit. A reply that does not go on where the last one ended would
//! make this ask for ever.

use crate::{AskError, Daemon};
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, ControlRequest, Incoming, TransportError, transport};
use bailiwick_sys::socket;
use bailiwick_types::{HostMetrics, MetricsDetail, NoticesHost, TenantMetrics, TenantName, TenantNotices};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

impl Daemon {
    /// The metrics of the host and of tenants. Everything together takes at most as long as `within`.
    ///
    /// # Errors
    /// Why there are none.
    pub fn metrics(
        &self,
        detail: Option<MetricsDetail>,
        within: Duration,
    ) -> Result<(Box<HostMetrics>, Vec<TenantMetrics>), AskError> {
        let deadline = Instant::now() + within;
        let connection = self.connect_within(within)?;
        collect(|after| match ask(&connection, &ControlRequest::Metrics { detail, after }, deadline)? {
            ControlReply::Metrics(page) => Ok((page.host, page.tenants, page.next)),
            _ => Err(AskError::Unexpected),
        })
    }

    /// What notices are delivered by: the settings of the host and of tenants. Everything together takes at most as long as
    /// `within`.
    ///
    /// # Errors
    /// Why there are none.
    pub fn notices(&self, within: Duration) -> Result<(Box<NoticesHost>, Vec<TenantNotices>), AskError> {
        let deadline = Instant::now() + within;
        let connection = self.connect_within(within)?;
        collect(|after| match ask(&connection, &ControlRequest::Notices { after }, deadline)? {
            ControlReply::Notices(page) => Ok((page.host, page.tenants, page.next)),
            _ => Err(AskError::Unexpected),
        })
    }

    /// Sends a request and waits for its one reply, without a message to anybody, and at most as long as `within`.
    ///
    /// # Errors
    /// Why there is no reply. [`ControlReply::Failed`] is an error too.
    pub fn ask_within(&self, request: &ControlRequest, within: Duration) -> Result<ControlReply, AskError> {
        let deadline = Instant::now() + within;
        ask(&self.connect_within(within)?, request, deadline)
    }

    fn connect_within(&self, within: Duration) -> Result<UnixStream, AskError> {
        let connected = socket::connect_within(&self.path, Some(within)).map(UnixStream::from);
        connected.map_err(|source| {
            let path = self.path.clone();
            match source.kind() {
                ErrorKind::PermissionDenied => AskError::Denied { path, source },
                _ => AskError::NoAnswer { path, source },
            }
        })
    }
}

/// A page: the host, tenants, and the tenant after which the next page begins.
type Page<H, T> = (Option<Box<H>>, Vec<T>, Option<TenantName>);

/// Asks for page after page. A page that does not go on where the last one ended is an error.
fn collect<H, T>(
    mut page_after: impl FnMut(Option<TenantName>) -> Result<Page<H, T>, AskError>,
) -> Result<(Box<H>, Vec<T>), AskError> {
    let (host, mut tenants, mut next) = page_after(None)?;
    let host = host.ok_or(AskError::Unexpected)?;
    let mut last: Option<TenantName> = None;
    while let Some(after) = next.take() {
        if last.as_ref().is_some_and(|last| *last >= after) {
            return Err(AskError::Unexpected);
        }
        last = Some(after.clone());
        let (_, mut more, following) = page_after(Some(after))?;
        tenants.append(&mut more);
        next = following;
    }
    Ok((host, tenants))
}

/// One reply.
fn ask(connection: &UnixStream, request: &ControlRequest, deadline: Instant) -> Result<ControlReply, AskError> {
    match transport::send(connection, request, MAX_REQUEST, &[]) {
        // A client that is turned away gets the reason before its request is read. The reason is the reply.
        Ok(()) | Err(TransportError::Ended) => {}
        Err(error) => return Err(error.into()),
    }
    match transport::receive(connection, &mut Incoming::new(MAX_REPLY, 0), deadline)?.0 {
        ControlReply::Failed(failure) => Err(AskError::Failed(failure)),
        reply => Ok(reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_proto::{CONTROL_SOCKET, Failure};
    use bailiwick_types::{ExitStatus, MetricsPage, Usage};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    const LONG: Duration = Duration::from_secs(60);

    /// A daemon that answers one connection with these replies. A missing one is never sent.
    fn serve(runtime_dir: &Path, replies: Vec<ControlReply>) -> (Daemon, std::thread::JoinHandle<Vec<ControlRequest>>) {
        let socket = runtime_dir.join(CONTROL_SOCKET);
        std::fs::create_dir_all(socket.parent().expect("a directory")).expect("makes");
        let listener = UnixListener::bind(socket).expect("binds");
        let serving = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepts");
            let mut replies = replies.into_iter();
            let (mut asked, mut incoming) = (Vec::new(), Incoming::new(MAX_REQUEST, 0));
            while let Ok((request, _)) = transport::receive(&stream, &mut incoming, Instant::now() + LONG) {
                asked.push(request);
                if let Some(reply) = replies.next() {
                    transport::send(&stream, &reply, MAX_REPLY, &[]).expect("sends");
                }
            }
            asked
        });
        (Daemon::of(runtime_dir), serving)
    }

    fn page(is_first: bool, name: &str, has_next: bool) -> ControlReply {
        let name: TenantName = name.parse().expect("a name");
        let tenant =
            TenantMetrics { tenant: name.clone(), plan: None, usage: Usage::default(), memory: None, more: None };
        ControlReply::Metrics(Box::new(MetricsPage {
            host: is_first.then(Box::default),
            tenants: vec![tenant],
            next: has_next.then_some(name),
        }))
    }

    #[test]
    fn pages_are_asked_for_until_the_last() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let pages = vec![page(true, "alice", true), page(false, "bob", true), page(false, "carol", false)];
        let (daemon, serving) = serve(temp.path(), pages);
        let (_, tenants) = daemon.metrics(Some(MetricsDetail::All), LONG).expect("answered");
        let told: Vec<&str> = tenants.iter().map(|tenant| tenant.tenant.as_str()).collect();
        assert_eq!(told, ["alice", "bob", "carol"]);
        let after = |name: Option<&str>| ControlRequest::Metrics {
            detail: Some(MetricsDetail::All),
            after: name.map(|name| name.parse().expect("a name")),
        };
        assert_eq!(serving.join().expect("ends"), [after(None), after(Some("alice")), after(Some("bob"))]);
    }

    #[test]
    fn a_daemon_that_goes_in_circles_is_left() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let pages = vec![page(true, "bob", true), page(false, "bob", true), page(false, "bob", true)];
        let (daemon, serving) = serve(temp.path(), pages);
        assert!(matches!(daemon.metrics(None, LONG), Err(AskError::Unexpected)));
        assert_eq!(serving.join().expect("ends").len(), 2);
    }

    #[test]
    fn a_refusal_a_silence_and_another_reply_are_errors() {
        let no = Failure::of(ExitStatus::Refused, "no");
        let of = |replies, within| {
            let temp = tempfile::tempdir().expect("temporary directory");
            let (daemon, serving) = serve(temp.path(), replies);
            let failure = daemon.metrics(None, within).map(drop).map_err(Failure::from).expect_err("no metrics");
            serving.join().expect("ends");
            failure.message
        };
        assert_eq!(of(vec![ControlReply::Failed(no)], LONG), "no");
        assert_eq!(of(Vec::new(), Duration::from_millis(20)), "bailiwickd has not answered in time; see its log");
        for reply in [ControlReply::Noted, page(false, "alice", false)] {
            assert!(of(vec![reply], LONG).starts_with("bailiwickd sent a reply to another request"));
        }
    }
}
