//! What hooks and receivers of webhooks get: JSON of an event.

use crate::hook::HookWhen;
use bailiwick_types::{Event, EventData, EventType, Moment, TenantName};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// An event on the standard input of a hook. The names are those of `bailiwick events --json`, and `when`.
#[derive(Serialize)]
struct Input<'a> {
    when: HookWhen,
    seq: Option<u64>,
    at: Moment,
    #[serde(rename = "type")]
    kind: EventType,
    tenant: Option<&'a TenantName>,
    actor: Option<u32>,
    data: &'a EventData,
}

/// What a hook that runs after an event reads.
#[must_use]
pub fn after_body(event: &Event) -> String {
    let Event { seq, at, kind, tenant, actor, data } = event;
    let (when, kind, tenant) = (HookWhen::After, *kind, tenant.as_ref());
    json(&Input { when, seq: Some(*seq), at: *at, kind, tenant, actor: *actor, data })
}

/// What a hook reads that runs before a command of the user `actor` makes an event of this type.
#[must_use]
pub fn before_body(kind: EventType, tenant: &TenantName, actor: u32, data: &EventData, at: Moment) -> String {
    json(&Input { when: HookWhen::Before, seq: None, at, kind, tenant: Some(tenant), actor: Some(actor), data })
}

/// The body of a webhook, in the form of Standard Webhooks: a type, a time, and the event as `bailiwick events --json` prints it.
#[must_use]
pub fn webhook_body(event: &Event) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(rename = "type")]
        kind: EventType,
        timestamp: String,
        data: &'a Event,
    }
    json(&Body { kind: event.kind, timestamp: rfc3339(event.at), data: event })
}

/// The time in the form of RFC 3339; that of the year 9999 for one that has no such form.
fn rfc3339(at: Moment) -> String {
    const LAST: u64 = 253_402_300_799;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at.0.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("only texts are keys, so it can be written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::EventValue;

    fn event() -> Event {
        Event {
            seq: 7,
            at: Moment(1_796_000_000),
            kind: EventType::TenantCreated,
            tenant: Some("alice".parse().expect("a name")),
            actor: Some(0),
            data: EventData::from([("plan".to_owned(), EventValue::text("small"))]),
        }
    }

    #[test]
    fn the_forms_are_as_documented() {
        let alice = "alice".parse().expect("a name");
        let event = event();
        assert_eq!(
            after_body(&event),
            "{\"when\":\"after\",\"seq\":7,\"at\":1796000000,\"type\":\"tenant.created\",\"tenant\":\"alice\",\"actor\":0,\
             \"data\":{\"plan\":\"small\"}}"
        );
        assert_eq!(
            before_body(EventType::TenantDeleted, &alice, 0, &EventData::new(), Moment(5)),
            "{\"when\":\"before\",\"seq\":null,\"at\":5,\"type\":\"tenant.deleted\",\"tenant\":\"alice\",\"actor\":0,\"data\":{}}"
        );
        assert_eq!(
            webhook_body(&event),
            "{\"type\":\"tenant.created\",\"timestamp\":\"2026-11-30T00:53:20Z\",\"data\":{\"seq\":7,\"at\":1796000000,\
             \"type\":\"tenant.created\",\"tenant\":\"alice\",\"actor\":0,\"data\":{\"plan\":\"small\"}}}"
        );
        assert_eq!(rfc3339(Moment(u64::MAX)), "9999-12-31T23:59:59Z");
    }
}
