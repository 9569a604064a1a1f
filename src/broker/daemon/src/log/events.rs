//! Notes what the log tells of in the outbox of events: each line with a field `event`, by the table of event types.
//!
//! So an event is in the outbox because it is in the log. It is not limited in rate here: the outbox bounds what one
//! tenant takes.
//!
//! Danger: values may be chosen by tenants and strangers. They are cut, and stay data.

use bailiwick_control::Outbox;
use bailiwick_types::{Event as Noted, EventData, EventType, EventValue};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

static OUTBOX: OnceLock<Arc<Outbox>> = OnceLock::new();
/// What was logged before there was an outbox.
static EARLY: Mutex<Vec<Fields>> = Mutex::new(Vec::new());
/// What the log has as the tenant when a client asked for none that there is.
const NO_TENANT: &str = "-";
/// The most events that wait for the outbox.
const MAX_EARLY: usize = 200;

/// Starts noting events, with those that were logged before.
pub(crate) fn to_outbox(outbox: Arc<Outbox>) {
    let outbox = OUTBOX.get_or_init(|| outbox);
    let early = std::mem::take(&mut *EARLY.lock().expect("nobody panics while holding it"));
    early.into_iter().for_each(|fields| fields.note(outbox));
}

/// Notes events of the log in the outbox.
pub(super) struct ToOutbox;

impl<S: Subscriber> Layer<S> for ToOutbox {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.event.is_empty() {
            return;
        }
        match OUTBOX.get() {
            Some(outbox) => fields.note(outbox),
            None => {
                let mut early = EARLY.lock().expect("nobody panics while holding it");
                if early.len() < MAX_EARLY {
                    early.push(fields);
                }
            }
        }
    }
}

/// The fields of a line.
#[derive(Debug, Default)]
struct Fields {
    event: String,
    tenant: Option<String>,
    actor: Option<u32>,
    data: EventData,
}

impl Fields {
    fn add(&mut self, field: &Field, value: EventValue) {
        match (field.name(), value) {
            ("event", EventValue::Text(word)) => self.event = word,
            ("tenant", EventValue::Text(name)) => self.tenant = Some(name),
            ("uid", EventValue::Number(uid)) => self.actor = u32::try_from(uid).ok(),
            // The word of a type that stands for several is in the data too.
            (_, EventValue::Text(text)) if text.is_empty() => {}
            (name, value) if self.data.len() < Noted::MAX_VALUES => {
                let name = if name == "message" { Noted::TEXT } else { name };
                self.data.insert(name.to_owned(), value);
            }
            _ => {}
        }
    }

    fn note(mut self, outbox: &Outbox) {
        let Some(kind) = EventType::of_log(&self.event) else { return };
        if kind.log_words().len() > 1 {
            self.data.insert("what".to_owned(), EventValue::text(&self.event));
        }
        // A client may ask for a tenant by a name that is none, and then the name is data.
        let tenant = self.tenant.as_deref().filter(|name| *name != NO_TENANT).map(str::parse);
        if let (Some(name), Some(Err(_))) = (&self.tenant, &tenant) {
            self.data.insert("asked_for".to_owned(), EventValue::text(name));
        }
        outbox.note(kind, tenant.and_then(Result::ok), self.actor, self.data);
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, EventValue::Number(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, EventValue::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, EventValue::Flag(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, EventValue::text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, EventValue::text(&format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use tracing_subscriber::layer::SubscriberExt;

    /// Collects the fields of events, as the layer does.
    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<Fields>>>);

    impl<S: Subscriber> Layer<S> for Collected {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.0.lock().expect("sound").push(fields);
        }
    }

    #[test]
    fn the_fields_of_a_line_become_those_of_an_event() {
        let collected = Collected::default();
        let subscriber = tracing_subscriber::registry().with(collected.clone());
        tracing::subscriber::with_default(subscriber, || {
            let name = "alice";
            tracing::info!(tenant = %name, event = "session-opened", uid = 7_u32, seconds = 5_u64, source = "", "x {}", "\u{1b}[2J");
        });
        let fields = collected.0.lock().expect("sound").pop().expect("one");
        assert_eq!(
            (fields.event.as_str(), fields.tenant.as_deref(), fields.actor),
            ("session-opened", Some("alice"), Some(7))
        );
        let golden =
            [("seconds".to_owned(), EventValue::Number(5)), (Noted::TEXT.to_owned(), EventValue::text("x \u{1b}[2J"))];
        assert_eq!(fields.data, golden.into());
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() { sources(&path, found) } else { found.push(path) }
        }
    }

    /// The words after `event = ` in a source, without those of its tests.
    fn words(text: &str) -> Vec<String> {
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let after = product.split("event = \"").skip(1);
        after.filter_map(|rest| rest.split_once('"')).map(|(word, _)| word.to_owned()).collect()
    }

    #[test]
    fn every_event_of_the_log_has_a_type_and_every_word_of_a_type_is_logged() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = vec![here.join("service.rs")];
        sources(&here.join("../../control/src"), &mut files);
        let texts: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).expect("text")).collect();
        let mut logged: BTreeSet<String> = texts.iter().flat_map(|text| words(text)).collect();
        assert!(logged.len() > 60, "{logged:?}");
        // `reconciler` logs what was done for a tenant, in the word of `Done`.
        assert!(texts.iter().any(|text| text.contains("event = word,")));
        logged.extend(
            ["started", "stopped", "restarted", "frozen", "thawed", "purged", "limits written"].map(str::to_owned),
        );
        let told: BTreeSet<String> =
            EventType::ALL.iter().flat_map(|kind| kind.log_words()).map(|word| (*word).to_owned()).collect();
        for word in &logged {
            let is_told = EventType::of_log(word).is_some() || EventType::NOT_TOLD.contains(&word.as_str());
            assert!(is_told, "event = {word:?} is logged and has no type: add it in src/base/types/src/event.rs");
        }
        let never: Vec<_> = told.iter().filter(|word| !logged.contains(*word)).collect();
        assert!(never.is_empty(), "nothing logs {never:?}: remove them in src/base/types/src/event.rs");
    }
}
