//! Questions to `bailiwick-net`, the program that connects jails to the network. Only what reads is asked.
//!
//! A link is one connection. It is made for the first question, and anew when it breaks. The recorder has one on its own
//! thread, and the other services share another, so that nobody's question waits for the measurement of all tenants.
//!
//! Danger: a reply is believed about the tenants that it was asked for, and about no others. Lists are bounded.

use bailiwick_proto::frame::MAX_REPLY;
use bailiwick_proto::net::{MAX_NET_REQUEST, MOST_CONNECTIONS, MOST_NETWORKS, NetProblem};
use bailiwick_proto::{Failure, Incoming, NetReply, NetRequest, TransportError, time_limits, transport};
use bailiwick_sys::{file, socket};
use bailiwick_types::{ExitStatus, NetworkConnection, NetworkFacts, NetworkTraffic, TenantName};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The file beside the socket with the reason why the link could not be made ([`bailiwick_proto::NET_ERROR`]), and its most bytes.
const ERROR: &str = "error";
const MAX_ERROR: usize = 64 << 10;
/// The most problems that `status` shows.
const MOST_PROBLEMS: usize = 100;
/// The most that an audit judges: more than `bailiwick-net` remembers.
const MOST_DIFFERENCES: usize = 1000;

/// Why `bailiwick-net` gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// There is no socket. On a host where no tenant has a network, this is as it should be.
    #[error("bailiwick-net does not run; `systemctl status bailiwick-net` says why")]
    NoSocket,
    /// There is a socket, and nobody listens on it.
    #[error("bailiwick-net does not run; `systemctl status bailiwick-net` says why")]
    NobodyListens,
    /// It did not answer in time.
    #[error("bailiwick-net does not answer; `systemctl status bailiwick-net` says how it is")]
    Late,
    /// It closed the connection.
    #[error("bailiwick-net ended the connection without an answer; its log says why")]
    Ended,
    /// The kernel refused the connection, or an operation on it.
    #[error("cannot talk to bailiwick-net")]
    Io(#[source] io::Error),
    /// The answer is no message of the protocol, or is too large.
    #[error("the answer of bailiwick-net cannot be understood; are it and bailiwickd of one version?")]
    Unreadable(#[source] TransportError),
    /// The answer belongs to another question.
    #[error("bailiwick-net gave an answer of the wrong kind; are it and bailiwickd of one version?")]
    Unexpected,
    /// It cannot say it, and gives the reason.
    #[error(transparent)]
    Failed(Failure),
}

impl From<TransportError> for NetError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Io(error) if error.kind() == ErrorKind::NotFound => Self::NoSocket,
            TransportError::Io(error) if error.kind() == ErrorKind::ConnectionRefused => Self::NobodyListens,
            TransportError::Late => Self::Late,
            TransportError::Ended => Self::Ended,
            TransportError::Io(error) => Self::Io(error),
            error @ (TransportError::Frame(_) | TransportError::Descriptors) => Self::Unreadable(error),
        }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Failed(failure) => failure,
            error => Self::new(ExitStatus::Failed, &error),
        }
    }
}

/// A connection to `bailiwick-net`. Each question blocks until the answer has come or the time limit has passed.
#[derive(Debug)]
pub(crate) struct NetLink {
    socket: PathBuf,
    stream: Option<UnixStream>,
    limit: Duration,
}

/// The finding of a tenant that has used its volume of the month, or a share of it.
const MONTH_USED: &str = "BW127";

impl NetLink {
    /// A link to the socket at this path. It does not connect yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, stream: None, limit: time_limits::NET_ANSWER }
    }

    /// What every tenant with a network has sent and received since its counters were made.
    pub(crate) fn traffic(&mut self) -> Result<BTreeMap<TenantName, NetworkTraffic>, NetError> {
        match self.ask(&NetRequest::Traffic)? {
            NetReply::Traffic(traffic) => Ok(traffic),
            _ => Err(NetError::Unexpected),
        }
    }

    /// The networks of these tenants, each named once, in their order. Those that have none may be left out.
    pub(crate) fn observe(&mut self, tenants: &[TenantName]) -> Result<Vec<NetworkFacts>, NetError> {
        let mut all = Vec::new();
        for portion in tenants.chunks(MOST_NETWORKS) {
            let NetReply::Observed(facts) = self.ask(&NetRequest::Observe { tenants: portion.to_vec() })? else {
                return Err(NetError::Unexpected);
            };
            let mut asked = portion.iter();
            if !facts.iter().all(|facts| asked.any(|tenant| *tenant == facts.tenant)) {
                return Err(NetError::Unexpected);
            }
            all.extend(facts);
        }
        Ok(all)
    }

    /// The network of one tenant; `None` when it has none.
    pub(crate) fn observe_one(&mut self, tenant: &TenantName) -> Result<Option<NetworkFacts>, NetError> {
        Ok(self.observe(std::slice::from_ref(tenant))?.pop())
    }

    /// Open connections of a tenant, at most [`MOST_CONNECTIONS`], and whether there are more.
    pub(crate) fn connections(&mut self, tenant: &TenantName) -> Result<(Vec<NetworkConnection>, bool), NetError> {
        match self.ask(&NetRequest::Connections { tenant: tenant.clone() })? {
            NetReply::Connections { mut connections, cut } => {
                let cut = cut || connections.len() > MOST_CONNECTIONS;
                connections.truncate(MOST_CONNECTIONS);
                Ok((connections, cut))
            }
            _ => Err(NetError::Unexpected),
        }
    }

    /// What is wrong with the network, as sentences, at most about [`MOST_PROBLEMS`]. Nothing on a host without a socket.
    pub(crate) fn problems(&mut self) -> Vec<String> {
        let problems = match self.ask(&NetRequest::Problems) {
            Ok(NetReply::Problems(problems)) => problems,
            Ok(_) => return vec![NetError::Unexpected.to_string()],
            Err(NetError::NoSocket) => return self.reason().into_iter().collect(),
            // The socket is there, so it ran before.
            Err(NetError::NobodyListens) => return vec![self.with_reason(NetError::Late.to_string())],
            Err(error) => return vec![self.with_reason(Failure::from(error).message)],
        };
        let more = problems.len().saturating_sub(MOST_PROBLEMS);
        let mut texts: Vec<String> = problems.into_iter().take(MOST_PROBLEMS).map(|problem| problem.text).collect();
        if more > 0 {
            texts.push(format!("the network has {more} more problems"));
        }
        texts
    }

    /// Why the link to the host could not be made, if it could not.
    fn reason(&self) -> Option<String> {
        let file = std::fs::File::open(self.socket.with_file_name(ERROR)).ok()?;
        let text = file::read_bounded(file.into(), MAX_ERROR).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn with_reason(&self, text: String) -> String {
        match self.reason() {
            Some(reason) => format!("{text}: {reason}"),
            None => text,
        }
    }

    /// What is worth telling of the volumes of the month, by tenant: a share that is reached, or all of it. It is among the problems too.
    pub(crate) fn months(&mut self) -> BTreeMap<TenantName, String> {
        let all = self.differences().unwrap_or_default().into_iter();
        all.filter(|problem| problem.finding == MONTH_USED)
            .filter_map(|problem| Some((problem.tenant?, problem.text)))
            .collect()
    }

    /// What differs between the router and what it should be, each with its finding, at most [`MOST_DIFFERENCES`].
    pub(crate) fn differences(&mut self) -> Result<Vec<NetProblem>, NetError> {
        match self.ask(&NetRequest::Problems)? {
            NetReply::Problems(mut problems) => {
                problems.truncate(MOST_DIFFERENCES);
                Ok(problems)
            }
            _ => Err(NetError::Unexpected),
        }
    }

    fn ask(&mut self, request: &NetRequest) -> Result<NetReply, NetError> {
        let kept = self.stream.take();
        let answer = match kept {
            Some(stream) => match self.ask_on(stream, request) {
                // A `bailiwick-net` that was restarted has closed what was connected to the earlier one.
                Err(TransportError::Ended) => self.connect().and_then(|stream| self.ask_on(stream, request)),
                answer => answer,
            },
            None => self.connect().and_then(|stream| self.ask_on(stream, request)),
        };
        match answer? {
            NetReply::Failed(failure) => Err(NetError::Failed(failure)),
            reply => Ok(reply),
        }
    }

    fn connect(&self) -> Result<UnixStream, TransportError> {
        Ok(socket::connect_within(&self.socket, Some(self.limit))?.into())
    }

    /// Asks over a connection, and keeps it only with the reply. A late reply to a question that was given up would be
    /// read as that to the next one.
    fn ask_on(&mut self, stream: UnixStream, request: &NetRequest) -> Result<NetReply, TransportError> {
        let deadline = Instant::now() + self.limit;
        transport::send(&stream, request, MAX_NET_REQUEST, &[])?;
        let (reply, _) = transport::receive(&stream, &mut Incoming::new(MAX_REPLY, 0), deadline)?;
        self.stream = Some(stream);
        Ok(reply)
    }
}

/// `bailiwick-net`, for services that must not block.
#[derive(Debug)]
pub(crate) struct NetClient {
    link: Arc<Mutex<NetLink>>,
}

impl NetClient {
    pub(crate) fn new(link: NetLink) -> Self {
        Self { link: Arc::new(Mutex::new(link)) }
    }

    /// Asks on a thread that may block. One question waits for the end of another.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut NetLink) -> Result<T, NetError> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut link = Arc::clone(&self.link).lock_owned().await;
        let asked = tokio::task::spawn_blocking(move || ask(&mut link)).await;
        // The runtime ends.
        let asked = asked.map_err(|_| Failure::of(ExitStatus::Failed, "bailiwickd ends"))?;
        Ok(asked?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, NetAnswer};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    fn link_at(temp: &tempfile::TempDir) -> NetLink {
        NetLink::new(temp.path().join("net.sock"))
    }

    fn message(error: NetError) -> String {
        Failure::from(error).message
    }

    #[test]
    fn a_missing_and_a_refused_socket_have_the_same_sentence_and_are_told_apart() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut link = link_at(&temp);
        let golden = "bailiwick-net does not run; `systemctl status bailiwick-net` says why";
        let error = link.ask(&NetRequest::Traffic).expect_err("nobody");
        assert!(matches!(error, NetError::NoSocket), "{error:?}");
        assert!(message(error).starts_with(golden));
        assert_eq!(link.problems(), [""; 0], "a host without networks has no problem");
        drop(UnixListener::bind(&link.socket).expect("binds"));
        let error = link.ask(&NetRequest::Traffic).expect_err("nobody listens");
        assert!(matches!(error, NetError::NobodyListens), "{error:?}");
        assert!(message(error).starts_with(golden));
        assert!(link.problems()[0].starts_with("bailiwick-net does not answer"), "{:?}", link.problems());
    }

    #[test]
    fn who_accepts_and_says_nothing_is_waited_for_in_bounded_time() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut link = NetLink { limit: Duration::from_millis(1), ..link_at(&temp) };
        let _listener = UnixListener::bind(&link.socket).expect("binds");
        let error = link.ask(&NetRequest::Traffic).expect_err("no answer");
        assert!(matches!(error, NetError::Late), "{error:?}");
        assert!(link.stream.is_none(), "a late reply is nobody's");
    }

    #[test]
    fn a_connection_is_kept_and_made_anew_when_bailiwick_net_was_restarted() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut link = link_at(&temp);
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        // Each third answer is an end: of a kept connection first, then of a new one.
        let made = fake::net_at(&link.socket, move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            2 | 4 | 5 => NetAnswer::Close,
            _ => NetAnswer::Reply(NetReply::Problems(Vec::new())),
        });
        let ask = |link: &mut NetLink| link.ask(&NetRequest::Problems);
        assert!(ask(&mut link).is_ok() && ask(&mut link).is_ok());
        assert_eq!(made.load(Ordering::Relaxed), 1, "one connection");
        assert!(ask(&mut link).is_ok(), "asked again over a new connection");
        assert_eq!((made.load(Ordering::Relaxed), asked.load(Ordering::Relaxed)), (2, 4));
        let error = ask(&mut link).expect_err("it ends each time");
        assert!(matches!(error, NetError::Ended), "{error:?}");
        assert!(ask(&mut link).is_ok());
    }

    #[test]
    fn an_odd_answer_is_an_error_and_costs_the_connection() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut link = link_at(&temp);
        let facts = |tenant: &str| fake::facts(&name(tenant));
        let no = Failure::of(ExitStatus::HostCannot, "no router");
        let failed = no.clone();
        fake::net_at(&link.socket, move |request| match request {
            NetRequest::Traffic => NetAnswer::Bytes(u32::MAX.to_le_bytes().to_vec()),
            NetRequest::Observe { tenants } => match tenants[0].as_str() {
                "wrong" => NetAnswer::Reply(NetReply::Done),
                "other" => NetAnswer::Reply(NetReply::Observed(vec![facts("mallory")])),
                "twice" => NetAnswer::Reply(NetReply::Observed(vec![facts("twice"), facts("twice")])),
                "none" => NetAnswer::Reply(NetReply::Observed(Vec::new())),
                _ => NetAnswer::Reply(NetReply::Observed(tenants.iter().map(fake::facts).collect())),
            },
            NetRequest::Connections { .. } => NetAnswer::Reply(NetReply::Connections {
                connections: vec![fake::connection(); MOST_CONNECTIONS + 1],
                cut: false,
            }),
            NetRequest::Hello => NetAnswer::Bytes(b"\x04\0\0\0nope".to_vec()),
            _ => NetAnswer::Reply(NetReply::Failed(failed.clone())),
        });
        let too_large = link.ask(&NetRequest::Traffic).expect_err("4 GiB");
        assert!(matches!(too_large, NetError::Unreadable(_)), "{too_large:?}");
        assert!(message(too_large).contains("over the limit"));
        let nonsense = link.ask(&NetRequest::Hello).expect_err("no JSON");
        assert!(matches!(nonsense, NetError::Unreadable(_)), "{nonsense:?}");
        for tenant in ["wrong", "other", "twice"] {
            let error = link.observe(&[name(tenant)]).expect_err(tenant);
            assert!(matches!(error, NetError::Unexpected), "{tenant}: {error:?}");
        }
        assert_eq!(link.observe_one(&name("none")).expect("answers"), None);
        let many: Vec<TenantName> = (0..MOST_NETWORKS * 2 + 1).map(|number| name(&format!("t{number}"))).collect();
        let found: Vec<TenantName> =
            link.observe(&many).expect("answers").into_iter().map(|facts| facts.tenant).collect();
        assert_eq!(found, many);
        let (connections, cut) = link.connections(&name("alice")).expect("answers");
        assert_eq!((connections.len(), cut), (MOST_CONNECTIONS, true));
        assert_eq!(link.problems(), [no.message]);
    }

    #[test]
    fn the_reason_why_there_is_no_link_is_told() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut link = link_at(&temp);
        assert_eq!(link.problems(), [""; 0], "no network, and nothing wrong");
        let error = link.socket.with_file_name(ERROR);
        std::fs::create_dir_all(error.parent().expect("a folder")).expect("makes");
        std::fs::write(&error, "10.64.1.1 is an address of wan\n").expect("writes");
        assert_eq!(link.problems(), ["10.64.1.1 is an address of wan"]);
        drop(UnixListener::bind(&link.socket).expect("binds"));
        let late = "bailiwick-net does not answer; `systemctl status bailiwick-net` says how it is";
        assert_eq!(link.problems(), [format!("{late}: 10.64.1.1 is an address of wan")]);
        assert!(bailiwick_proto::NET_ERROR.ends_with(&format!("/{ERROR}")));
    }

    #[test]
    fn problems_are_sentences_and_bounded() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut link = link_at(&temp);
        fake::net_at(&link.socket, |_| {
            let problem =
                |number| NetProblem { finding: "BW122".to_owned(), tenant: None, text: format!("problem {number}") };
            NetAnswer::Reply(NetReply::Problems((0..MOST_PROBLEMS + 7).map(problem).collect()))
        });
        let problems = link.problems();
        assert_eq!(problems.len(), MOST_PROBLEMS + 1);
        assert_eq!([&problems[0], &problems[MOST_PROBLEMS]], ["problem 0", "the network has 7 more problems"]);
    }
}
