//! What a kind of target does: which events go to it, and how one delivery is made.

use crate::state::{Delivery, NewDelivery, Payload, Queue};
use bailiwick_types::{Event, NoticesHost, TargetKind, TenantName, TenantNotices};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What the policy says, as `bailiwickd` last told it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The host.
    pub host: NoticesHost,
    /// The tenants.
    pub tenants: BTreeMap<TenantName, TenantNotices>,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The target has it.
    Delivered,
    /// The attempt failed for this reason, and another one may not.
    Again(String),
    /// The attempt failed for this reason, and the target wants no other one for this long.
    Later(String, Duration),
    /// No attempt can succeed, for this reason.
    Never(String),
    /// The policy has no such target any more.
    Unwanted,
}

/// A kind of target.
pub trait Target: fmt::Debug + Send + Sync {
    /// The kind.
    fn kind(&self) -> TargetKind;

    /// The names of the targets of this kind that an event goes to.
    fn targets_of(&self, event: &Event, settings: &Settings) -> Vec<String>;

    /// What came of an earlier attempt whose end nobody could wait for, or that it still goes on. With `None` the delivery is made.
    fn earlier(&self, _: &Delivery) -> Option<Outcome> {
        None
    }

    /// An operator says that whatever was wrong is mended.
    fn forgive(&self) {}

    /// Makes a delivery. It takes a bounded time, and several threads may call it at once, each for another lane.
    fn deliver(&self, delivery: &Delivery, settings: &Settings) -> Outcome;

    /// Makes many deliveries to one address as one. Only mail does this.
    fn deliver_together(&self, deliveries: &[Delivery], _: &Settings) -> Outcome {
        Outcome::Never(format!("{} deliveries to a {} are not made as one", deliveries.len(), self.kind()))
    }
}

/// The deliveries of events, in their order.
pub(crate) fn deliveries(targets: &[Box<dyn Target>], events: &[Event], settings: &Settings) -> Vec<NewDelivery> {
    let mut all = Vec::new();
    for event in events {
        for target in targets {
            all.extend(target.targets_of(event, settings).into_iter().map(|name| NewDelivery {
                queue: Queue { kind: target.kind(), target: name, tenant: event.tenant.clone() },
                payload: Payload::Event(event.clone()),
            }));
        }
    }
    all
}
