//! Readers of the outbox of events: each reads what it may, and may wait for more.
//!
//! Danger: a tenant that reads in a circle uses the recorder's thread. Each look reads the tenant's own events alone,
//! and a reader that waits looks only when something was written, at most five times a second.

use crate::outbox::Outbox;
use crate::permission::Scope;
use crate::recorder::Recorder;
use bailiwick_history::{EventPage, EventQuery, EventReader as Reader};
use bailiwick_proto::control::{EventsWanted, MOST_EVENTS};
use bailiwick_proto::{ControlReply, Failure, time_limits};
use bailiwick_types::{Event, Moment};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// The least time between two looks of one reader that waits.
const LOOK_TIME: Duration = Duration::from_millis(200);
/// A moment that no event is after, and that SQLite can compare.
const LAST: u64 = 1 << 40;

/// Answers readers of events.
#[derive(Debug)]
pub(crate) struct EventReader {
    recorder: Arc<Recorder>,
    outbox: Arc<Outbox>,
}

impl EventReader {
    pub(crate) fn new(recorder: Arc<Recorder>, outbox: Arc<Outbox>) -> Self {
        Self { recorder, outbox }
    }

    /// The events that a caller wants and may read. An operator may ask for tenants that are gone: their events stay. A caller that waits gets an empty reply after
    /// [`time_limits::EVENT`], and when `stop` turns true.
    pub(crate) async fn read(
        &self,
        scope: &Scope,
        wanted: EventsWanted,
        mut stop: watch::Receiver<bool>,
    ) -> Result<ControlReply, Failure> {
        let EventsWanted { after, since, tenants, types, most, wait } = wanted;
        let tenants = scope.of(tenants)?;
        let reader = if matches!(scope, Scope::Own(_)) { Reader::Tenant } else { Reader::Operator };
        let most = most.min(MOST_EVENTS);
        let mut query = EventQuery {
            after,
            since: Moment(since.0.min(LAST)),
            tenants: (!tenants.is_empty()).then_some(tenants),
            types,
            most: usize::try_from(most).unwrap_or(usize::MAX),
            reader,
        };
        let until = Instant::now() + time_limits::EVENT;
        let mut written = self.outbox.written();
        loop {
            written.borrow_and_update();
            let asked = query.clone();
            let EventPage { events, next, last } = self.recorder.with(move |state| state.events(&asked)).await??;
            let events: Vec<Event> = match reader {
                Reader::Operator => events,
                Reader::Tenant => events.into_iter().filter_map(Event::for_tenant).collect(),
            };
            if !wait || most == 0 || !events.is_empty() {
                return Ok(ControlReply::Events { events, next, last });
            }
            query.after = next;
            // A page of which nothing is for the reader is followed by the next one.
            if next < last {
                continue;
            }
            let more = async {
                sleep(LOOK_TIME).await;
                written.changed().await.is_ok()
            };
            let more = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => false,
                more = timeout_at(until, more) => more.unwrap_or(false),
            };
            if !more {
                return Ok(ControlReply::Events { events, next, last });
            }
        }
    }
}
