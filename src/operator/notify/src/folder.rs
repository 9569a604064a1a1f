//! The folders `hooks.d` and `webhooks.d`, read again when a second has passed.
//!
//! A target whose file has an error keeps its deliveries: it gets every event, because nobody knows which ones it wants, and each
//! waits until the file is mended, or until it has failed as often as any other.

use crate::engine::complain;
use bailiwick_policy::lines;
use bailiwick_targets::Targets;
use bailiwick_types::{Event, EventType, TargetName};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a reading is used.
const FRESH: Duration = Duration::from_secs(1);

/// A folder of targets.
pub(crate) struct Folder<T> {
    read: Box<dyn Fn() -> Targets<T> + Send + Sync>,
    last: Mutex<Option<Reading<T>>>,
}

struct Reading<T> {
    at: Instant,
    targets: Arc<Targets<T>>,
    /// The problems that were told last.
    told: String,
}

/// What is known of a target.
#[derive(Debug)]
pub(crate) enum Known<T> {
    /// What its file says.
    Good(T),
    /// Its file, or the folder, cannot be read.
    Broken,
    /// It has no file.
    Missing,
}

impl<T> fmt::Debug for Folder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").finish_non_exhaustive()
    }
}

impl<T: Clone> Folder<T> {
    pub(crate) fn new(read: impl Fn() -> Targets<T> + Send + Sync + 'static) -> Self {
        Self { read: Box::new(read), last: Mutex::new(None) }
    }

    /// The last reading, or a new one. While the folder cannot be listed, the targets that were known stay.
    fn targets(&self) -> Arc<Targets<T>> {
        // A thread that panicked has left the former reading.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reading) = last.as_ref().filter(|reading| reading.at.elapsed() < FRESH) {
            return Arc::clone(&reading.targets);
        }
        let found = (self.read)();
        let problems = lines(&found.diagnostics);
        let (told, before) = last.take().map(|reading| (reading.told, reading.targets)).unzip();
        if told.as_ref() != Some(&problems) && !problems.is_empty() {
            complain(&problems);
        }
        let targets = match before {
            Some(before) if !found.is_known => before,
            _ => Arc::new(found),
        };
        *last = Some(Reading { at: Instant::now(), targets: Arc::clone(&targets), told: problems });
        targets
    }

    /// The targets of an event: those that want it, and those of which nobody knows what they want.
    pub(crate) fn of_event(&self, event: &Event, types: impl Fn(&T) -> &[EventType]) -> Vec<String> {
        let targets = self.targets();
        let wants = targets.good.iter().filter(|(_, target)| types(target).contains(&event.kind));
        wants.map(|(name, _)| name).chain(&targets.broken).map(ToString::to_string).collect()
    }

    /// What is known of a target.
    pub(crate) fn get(&self, name: &str) -> Known<T> {
        let Ok(name) = name.parse::<TargetName>() else { return Known::Missing };
        let targets = self.targets();
        match targets.good.get(&name) {
            Some(target) => Known::Good(target.clone()),
            None if targets.broken.contains(&name) || !targets.is_known => Known::Broken,
            None => Known::Missing,
        }
    }
}
