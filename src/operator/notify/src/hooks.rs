//! Hooks that run after events: `bailiwick-hooks` is asked to run them.

use crate::engine::chain;
use crate::folder::{Folder, Known};
use crate::state::{Delivery, Payload};
use crate::target::{Outcome, Settings, Target};
use bailiwick_hooks::{HookRequest, ask};
use bailiwick_targets::{Hook, HookWhen, after_body, hooks};
use bailiwick_types::{Event, EventType, TargetKind};
use std::path::PathBuf;

/// The hooks of a configuration directory.
#[derive(Debug)]
pub struct Hooks {
    folder: Folder<Hook>,
    socket: PathBuf,
}

impl Hooks {
    /// The hooks below `config`, run by whoever listens on `socket`.
    #[must_use]
    pub fn new(config: PathBuf, socket: PathBuf) -> Self {
        Self { folder: Folder::new(move || hooks(&config)), socket }
    }
}

/// The types of events that a hook runs after.
fn types(hook: &Hook) -> &[EventType] {
    if hook.when == HookWhen::After { &hook.on } else { &[] }
}

impl Target for Hooks {
    fn kind(&self) -> TargetKind {
        TargetKind::Hook
    }

    fn targets_of(&self, event: &Event, _: &Settings) -> Vec<String> {
        self.folder.of_event(event, types)
    }

    fn deliver(&self, delivery: &Delivery, _: &Settings) -> Outcome {
        let Payload::Event(event) = &delivery.payload else {
            return Outcome::Never("a hook gets events only".to_owned());
        };
        let hook = match self.folder.get(&delivery.queue.target) {
            Known::Good(hook) => hook,
            Known::Broken => return Outcome::Again("its file cannot be read; see `bailiwick check`".to_owned()),
            Known::Missing => return Outcome::Unwanted,
        };
        if !types(&hook).contains(&event.kind) {
            return Outcome::Unwanted;
        }
        let request = HookRequest { hook: hook.name.clone(), body: after_body(event) };
        let why = match ask(&self.socket, &request, hook.timeout.duration()) {
            Ok(reply) if reply.is_done() => return Outcome::Delivered,
            Ok(reply) => reply.failure(),
            Err(error) => chain(&error),
        };
        if delivery.attempts < hook.retries { Outcome::Again(why) } else { Outcome::Never(why) }
    }
}
