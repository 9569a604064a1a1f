//! Webhooks: events are sent to receivers over HTTP.

use crate::folder::{Folder, Known};
use crate::state::{Delivery, Payload};
use crate::target::{Outcome, Settings, Target};
use bailiwick_targets::{Webhook, webhook_body, webhooks};
use bailiwick_types::{Event, TargetKind, TargetName};
use bailiwick_webhook::{Outcome as Answer, Sender};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// The webhooks of a configuration directory.
#[derive(Debug)]
pub struct Webhooks {
    folder: Folder<Webhook>,
    sender: Sender,
    /// Those whose receiver wants nothing any more, as their files were then.
    gone: Mutex<BTreeMap<TargetName, (Webhook, String)>>,
}

impl Webhooks {
    /// The webhooks below `config`. Members of `group` may be able to read their files.
    #[must_use]
    pub fn new(config: PathBuf, group: u32) -> Self {
        let folder = Folder::new(move || webhooks(&config, Some(group)));
        Self { folder, sender: Sender::new(), gone: Mutex::default() }
    }

    /// Why nothing is sent to a receiver, if it has said so and its file is still the same.
    fn gone(&self, webhook: &Webhook) -> Option<String> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.get(&webhook.name).filter(|(then, _)| then == webhook).map(|(_, why)| why.clone())
    }
}

impl Target for Webhooks {
    fn kind(&self) -> TargetKind {
        TargetKind::Webhook
    }

    fn targets_of(&self, event: &Event, _: &Settings) -> Vec<String> {
        self.folder.of_event(event, |webhook| &webhook.types)
    }

    fn forgive(&self) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn deliver(&self, delivery: &Delivery, _: &Settings) -> Outcome {
        let Payload::Event(event) = &delivery.payload else {
            return Outcome::Never("a webhook gets events only".to_owned());
        };
        let webhook = match self.folder.get(&delivery.queue.target) {
            Known::Good(webhook) => webhook,
            Known::Broken => return Outcome::Again("its file cannot be read; see `bailiwick check`".to_owned()),
            Known::Missing => return Outcome::Unwanted,
        };
        if !webhook.types.contains(&event.kind) {
            return Outcome::Unwanted;
        }
        if let Some(why) = self.gone(&webhook) {
            return Outcome::Never(why);
        }
        // The moment tells deliveries of a file that was lost from those of the next one.
        let id = format!("bw_{}_{}", delivery.created.0, delivery.id);
        match self.sender.send_and_wait(&webhook, &id, &webhook_body(event), SystemTime::now()) {
            Answer::Done => Outcome::Delivered,
            Answer::Again { reason, wait: None } => Outcome::Again(reason),
            Answer::Again { reason, wait: Some(wait) } => Outcome::Later(reason, wait),
            Answer::Gone { reason } => {
                let why = format!(
                    "{reason}, so nothing more is sent there until its file changes, or `bailiwick notices retry`"
                );
                let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
                gone.insert(webhook.name.clone(), (webhook, why.clone()));
                Outcome::Never(why)
            }
        }
    }
}
