//! Logging: events go to the journal with fixed field names, or as lines to standard error if there is no journal. They
//! also go to the system log if `syslog` in `bailiwick.toml` says so, and to the outbox of events (`events`).
//!
//! Danger: tenants cause events, and some contain text of tenants. Equal events of one tenant are limited in rate. A
//! line end in a message is escaped, because a tenant could otherwise forge lines.

mod events;

pub(crate) use events::to_outbox;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The target of events for the operator, as opposed to the program's own messages.
const EVENTS: &str = "bailiwick::event";
/// Events that say who entered and who changed something. Their facility is `auth`.
const OF_AUTH: [&str; 7] =
    ["session-opened", "session-closed", "session-refused", "end-sessions", "apply", "lifecycle", "purge"];
/// How many events of one kind of one tenant pass in a row, and how long until one more may pass.
const BURST: u32 = 30;
const REFILL: Duration = Duration::from_secs(2);
/// The most pairs of event and tenant that are counted. Above it, old pairs are dropped.
const MOST_COUNTED: usize = 4096;

static SYSLOG: OnceLock<Syslog> = OnceLock::new();

/// Starts logging: to the journal if standard error goes there.
pub(crate) fn begin() {
    let filter = || EnvFilter::builder().with_default_directive(Level::INFO.into()).parse_lossy("");
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let to_journal = |facility: &'static str| {
        let layer = tracing_journald::layer().ok()?.with_field_prefix(Some("BAILIWICK".to_owned()));
        Some(layer.with_custom_fields([("SYSLOG_FACILITY", facility)]).with_syslog_identifier("bailiwickd".to_owned()))
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry();
    // Facility numbers of syslog(3): 3 is daemon, 4 is auth.
    let begun = match journal {
        Some(_) => registry
            .with(to_journal("4").with_filter(Bounded::new(Part::Auth)).with_filter(filter()))
            .with(to_journal("3").with_filter(Bounded::new(Part::Rest)).with_filter(filter()))
            .with(ToSyslog.with_filter(Bounded::new(Part::All)).with_filter(filter()))
            .with(events::ToOutbox.with_filter(filter()))
            .try_init(),
        None => registry
            .with(lines.with_filter(Bounded::new(Part::All)).with_filter(filter()))
            .with(ToSyslog.with_filter(Bounded::new(Part::All)).with_filter(filter()))
            .with(events::ToOutbox.with_filter(filter()))
            .try_init(),
    };
    // If logging has already started, it stays as it is.
    drop(begun);
}

/// Starts sending events to the system log too.
pub(crate) fn to_syslog() {
    SYSLOG.get_or_init(|| Syslog::new(None));
}

/// Which events pass a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Auth,
    Rest,
    All,
}

/// The content of an event.
#[derive(Debug, Default)]
struct Said {
    event: String,
    tenant: String,
    text: String,
}

impl Said {
    fn of(event: &Event<'_>) -> Self {
        let mut said = Self::default();
        event.record(&mut said);
        said
    }

    fn add(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.event = value.to_owned(),
            "tenant" => self.tenant = value.to_owned(),
            _ => {}
        }
        let name = if field.name() == "message" { String::new() } else { format!("{}=", field.name()) };
        let space = if self.text.is_empty() { "" } else { " " };
        write!(self.text, "{space}{name}{}", escaped(value)).expect("a string takes everything");
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// The text with control characters escaped, so it stays one line.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// A filter for the events of one part, with a rate limit for each kind of event of each tenant.
struct Bounded {
    part: Part,
    counted: Mutex<BTreeMap<(String, String), Bucket>>,
}

/// How many events of one kind may still pass.
#[derive(Debug)]
struct Bucket {
    room: u32,
    at: Instant,
}

impl Bounded {
    fn new(part: Part) -> Self {
        Self { part, counted: Mutex::default() }
    }

    fn has_room(&self, said: Said, now: Instant) -> bool {
        let mut counted = self.counted.lock().expect("nobody panics while holding it");
        if counted.len() >= MOST_COUNTED {
            counted.retain(|_, bucket| now.duration_since(bucket.at) < REFILL * BURST);
            if counted.len() >= MOST_COUNTED {
                counted.pop_first();
            }
        }
        let bucket = counted.entry((said.event, said.tenant)).or_insert(Bucket { room: BURST, at: now });
        let refilled = now.duration_since(bucket.at).as_millis() / REFILL.as_millis();
        if refilled > 0 {
            bucket.room = bucket.room.saturating_add(u32::try_from(refilled).unwrap_or(BURST)).min(BURST);
            bucket.at = now;
        }
        let has = bucket.room > 0;
        bucket.room = bucket.room.saturating_sub(1);
        has
    }
}

impl<S: Subscriber> Filter<S> for Bounded {
    fn enabled(&self, _: &tracing::Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let said = Said::of(event);
        let of_auth = event.metadata().target() == EVENTS && OF_AUTH.contains(&said.event.as_str());
        let wanted = match self.part {
            Part::Auth => of_auth,
            Part::Rest => !of_auth,
            Part::All => true,
        };
        wanted && (event.metadata().target() != EVENTS || self.has_room(said, Instant::now()))
    }
}

/// Sends events to the system log.
struct ToSyslog;

impl<S: Subscriber> Layer<S> for ToSyslog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(syslog) = SYSLOG.get() {
            let said = Said::of(event);
            let of_auth = OF_AUTH.contains(&said.event.as_str());
            syslog.write(*event.metadata().level(), of_auth, &said.text);
        }
    }
}

/// The connection to the system log. The log daemon may restart and make its socket again; then this connects again.
struct Syslog {
    /// The path of its socket, if it is not the usual one.
    socket: Option<PathBuf>,
    connected: Mutex<BTreeMap<bool, Logger<LoggerBackend, Formatter3164>>>,
}

impl Syslog {
    fn new(socket: Option<PathBuf>) -> Self {
        Self { socket, connected: Mutex::default() }
    }

    fn connect(&self, of_auth: bool) -> Option<Logger<LoggerBackend, Formatter3164>> {
        let formatter = Formatter3164 {
            facility: if of_auth { Facility::LOG_AUTH } else { Facility::LOG_DAEMON },
            hostname: None,
            process: "bailiwickd".to_owned(),
            pid: std::process::id(),
        };
        match &self.socket {
            Some(socket) => syslog::unix_custom(formatter, socket).ok(),
            None => syslog::unix(formatter).ok(),
        }
    }

    /// Writes a line. If that fails twice, the second time after a new connection, the line is lost.
    fn write(&self, level: Level, of_auth: bool, text: &str) {
        let mut connected = self.connected.lock().expect("nobody panics while holding it");
        for _ in 0..2 {
            if let std::collections::btree_map::Entry::Vacant(entry) = connected.entry(of_auth) {
                let Some(logger) = self.connect(of_auth) else { return };
                entry.insert(logger);
            }
            let Some(logger) = connected.get_mut(&of_auth) else { return };
            let written = match level {
                Level::ERROR => logger.err(text),
                Level::WARN => logger.warning(text),
                Level::INFO => logger.info(text),
                _ => logger.debug(text),
            };
            if written.is_ok() {
                return;
            }
            connected.remove(&of_auth);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn received(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
        let mut buffer = [0; 1024];
        let len = socket.recv(&mut buffer).expect("a line");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[test]
    fn the_log_daemon_may_be_restarted() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("log");
        let first = UnixDatagram::bind(&path).expect("binds");
        let syslog = Syslog::new(Some(path.clone()));
        syslog.write(Level::INFO, true, "event=session-opened tenant=alice");
        let line = received(&first);
        // Facility 4 (auth) and severity 6 (informational): 4 * 8 + 6.
        assert!(line.starts_with("<38>") && line.contains("bailiwickd") && line.ends_with("tenant=alice"), "{line}");
        drop(first);
        std::fs::remove_file(&path).expect("removes");
        syslog.write(Level::WARN, false, "nobody listens");
        let second = UnixDatagram::bind(&path).expect("binds");
        syslog.write(Level::WARN, true, "back");
        assert!(received(&second).starts_with("<36>"));
        syslog.write(Level::ERROR, false, "the other facility");
        assert!(received(&second).starts_with("<27>"));
    }

    #[test]
    fn no_text_is_two_lines() {
        assert_eq!(escaped("a\nb\r\u{1b}[2J\u{0}ü"), "a\\nb\\r\\u{1b}[2J\\u{0}ü");
    }

    #[test]
    fn the_same_of_one_tenant_is_told_so_often_and_others_are_not_touched() {
        let bounded = Bounded::new(Part::All);
        let said = |tenant: &str| Said { event: "ended".to_owned(), tenant: tenant.to_owned(), text: String::new() };
        let begin = Instant::now();
        let told = (0..1000).filter(|_| bounded.has_room(said("loud"), begin)).count();
        assert_eq!(told, usize::try_from(BURST).expect("small"));
        assert!(bounded.has_room(said("quiet"), begin));
        assert!(bounded.has_room(said("loud"), begin + REFILL));
        assert!(!bounded.has_room(said("loud"), begin + REFILL));
        for index in 0..2 * MOST_COUNTED {
            bounded.has_room(said(&index.to_string()), begin);
        }
        assert!(bounded.counted.lock().expect("sound").len() <= MOST_COUNTED);
    }
}
