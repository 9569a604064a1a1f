//! The last reading, in each form that somebody asked for. A thread of its own asks `bailiwickd` and writes the text.
//!
//! Clients that ask soon after one another get the same reading, so that thousands of them cost no more than one.

use crate::complain;
use crate::confinement;
use crate::negotiation::{Coding, Form};
use bailiwick_client::Daemon;
use bailiwick_metrics::{Format, Gathered, classic, render};
use bailiwick_proto::{Failure, time_limits};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long a reading without an answer of `bailiwickd` is used, so that it is not asked by everybody who asks here.
const RETRY: Duration = Duration::from_secs(1);
/// The most clients that wait for the thread. Others get no answer then.
const MOST_WAITING: usize = 128;

/// Somebody who waits for a text.
type Waiting = (Form, oneshot::Sender<Bytes>);

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Readings {
    waiting: mpsc::Sender<Waiting>,
}

impl Readings {
    /// Starts the thread. It ends when this is dropped.
    pub(crate) fn start(daemon: Daemon) -> io::Result<Self> {
        Self::start_with(move || ask(&daemon), confinement::of_thread)
    }

    fn start_with(
        ask: impl FnMut() -> Result<Gathered, Failure> + Send + 'static,
        confine: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (waiting, mut asked) = mpsc::channel::<Waiting>(MOST_WAITING);
        let (sender, confined) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("readings".to_owned()).spawn(move || {
            let is_confined = confine();
            let is_over = is_confined.is_err();
            sender.send(is_confined).ok();
            let mut last = Last { ask, texts: BTreeMap::new(), at: None, fresh: Duration::ZERO, is_up: None };
            while let Some((form, client)) = asked.blocking_recv().filter(|_| !is_over) {
                // The client may have left.
                client.send(last.text(form)).ok();
            }
        })?;
        confined.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { waiting })
    }

    /// The metrics in a form; `None` when too many clients wait.
    pub(crate) async fn text(&self, form: Form) -> Option<Bytes> {
        let (client, text) = oneshot::channel();
        self.waiting.try_send((form, client)).ok()?;
        text.await.ok()
    }
}

/// Asks `bailiwickd`.
fn ask(daemon: &Daemon) -> Result<Gathered, Failure> {
    let begun = Instant::now();
    let (host, tenants) = daemon.metrics(None, time_limits::METRICS).map_err(Failure::from)?;
    Ok(Gathered { host: Some(host), tenants, took: begun.elapsed() })
}

/// The last reading.
struct Last<A> {
    ask: A,
    /// The text in each form; that of OpenMetrics is always there once something was read.
    texts: BTreeMap<Form, Bytes>,
    at: Option<Instant>,
    /// How long it is used.
    fresh: Duration,
    /// Whether `bailiwickd` answered; `None` before it was asked.
    is_up: Option<bool>,
}

impl<A: FnMut() -> Result<Gathered, Failure>> Last<A> {
    fn text(&mut self, form: Form) -> Bytes {
        if self.at.is_none_or(|at| at.elapsed() >= self.fresh) {
            self.read();
        }
        self.in_form(form)
    }

    /// Asks, and writes what is told as OpenMetrics.
    fn read(&mut self) {
        // The former text is not needed while the next one is made.
        self.texts.clear();
        let begun = Instant::now();
        let asked = (self.ask)();
        self.note(&asked);
        let gathered = asked.unwrap_or_else(|_| Gathered { took: begun.elapsed(), ..Gathered::default() });
        self.fresh = gathered.host.as_ref().map_or(RETRY, |host| Duration::from_secs(host.cache));
        let form = Form { format: Format::OpenMetrics, coding: Coding::Identity };
        self.texts.insert(form, Bytes::from(render(gathered, Format::OpenMetrics)));
        self.at = Some(Instant::now());
        // With many tenants the parts of this text were several megabytes.
        bailiwick_sys::process::give_back_memory();
    }

    fn in_form(&mut self, form: Form) -> Bytes {
        if let Some(text) = self.texts.get(&form) {
            return text.clone();
        }
        let made = match form {
            Form { coding: Coding::Gzip, format } => {
                let plain = self.in_form(Form { format, coding: Coding::Identity });
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&plain).and_then(|()| encoder.finish()).map(Bytes::from).unwrap_or_default()
            }
            Form { coding: Coding::Identity, .. } => {
                let open = self.in_form(Form { format: Format::OpenMetrics, coding: Coding::Identity });
                Bytes::from(classic(&String::from_utf8_lossy(&open)))
            }
        };
        self.texts.insert(form, made.clone());
        made
    }

    /// Logs when `bailiwickd` begins or ceases to answer.
    fn note(&mut self, asked: &Result<Gathered, Failure>) {
        let is_up = asked.is_ok();
        match (asked, self.is_up) {
            (Err(failure), None | Some(true)) => complain(&format!("there are no metrics: {failure}")),
            (Ok(_), Some(false)) => complain("bailiwickd answers again"),
            _ => {}
        }
        self.is_up = Some(is_up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{ExitStatus, HostMetrics};
    use flate2::read::GzDecoder;
    use std::io::Read;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn form(format: Format, coding: Coding) -> Form {
        Form { format, coding }
    }

    fn unzipped(bytes: &[u8]) -> String {
        let mut text = String::new();
        GzDecoder::new(bytes).read_to_string(&mut text).expect("is gzip");
        text
    }

    #[tokio::test]
    async fn all_forms_are_of_one_reading_as_long_as_it_is_fresh() {
        let count = Arc::<AtomicU64>::default();
        let asked = Arc::clone(&count);
        let ask = move || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            // The first reading may be used for an hour, and none of the rest again.
            let cache = if number == 0 { 3600 } else { 0 };
            let host = HostMetrics { policy_problems: number, cache, ..HostMetrics::default() };
            Ok(Gathered { host: Some(Box::new(host)), ..Gathered::default() })
        };
        let readings = Readings::start_with(ask, || Ok(())).expect("starts");
        let open = readings.text(form(Format::OpenMetrics, Coding::Identity)).await.expect("a text");
        let open = String::from_utf8(open.to_vec()).expect("text");
        assert!(open.contains("\nbailiwick_policy_problems 0\n") && open.ends_with("# EOF\n"));
        let short = readings.text(form(Format::OpenMetrics, Coding::Gzip)).await.expect("a text");
        assert_eq!(unzipped(&short), open);
        let old = readings.text(form(Format::Classic, Coding::Gzip)).await.expect("a text");
        assert_eq!(unzipped(&old), classic(&open));
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn without_an_answer_that_is_told_and_soon_asked_again() {
        let count = Arc::<AtomicU64>::default();
        let asked = Arc::clone(&count);
        let ask = move || match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Err(Failure::of(ExitStatus::Failed, "no answer")),
            _ => Ok(Gathered { host: Some(Box::default()), ..Gathered::default() }),
        };
        let readings = Readings::start_with(ask, || Ok(())).expect("starts");
        let mut text = String::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !text.contains("\nbailiwick_up 1\n") {
            assert!(Instant::now() < deadline, "{text}");
            let told = readings.text(form(Format::Classic, Coding::Identity)).await.expect("a text");
            text = String::from_utf8(told.to_vec()).expect("text");
            assert!(count.load(Ordering::Relaxed) > 1 || text.contains("\nbailiwick_up 0\n"), "{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_thread_without_walls_does_not_serve() {
        let ask = || Ok(Gathered::default());
        let error = Readings::start_with(ask, || Err(io::ErrorKind::PermissionDenied.into())).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
