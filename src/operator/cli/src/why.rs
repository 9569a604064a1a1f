//! `why`: the checks of a login or a write, what each found, which refuses, and the last refusals of the tenant.

use crate::arguments::WhyOptions;
use crate::events;
use crate::output;
use crate::table::render;
use bailiwick_client::{AskError, Daemon};
use bailiwick_policy::{Store, Tenant};
use bailiwick_proto::control::{EventsWanted, MOST_EVENTS, WhyCheck, WhyQuestion, WhyWhat};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{ByteSize, Door, Event, EventType, ExitStatus, Moment, TenantName};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How far back refusals are looked for, in seconds.
const PAST: u64 = 7 * 86_400;
/// The most refusals that are shown.
const MOST_SHOWN: usize = 5;
/// The most pages of events that are read for them.
const MOST_PAGES: usize = 20;

/// What `why --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    tenant: TenantName,
    /// The door; null for a write.
    door: Option<Door>,
    /// Whether nothing refuses.
    passes: bool,
    /// The name of the first check that refuses.
    refused_by: Option<String>,
    /// What whoever tries it is told.
    message: Option<String>,
    /// The exit status.
    status: u8,
    checks: Vec<Check>,
    /// The last refusals, oldest first.
    refusals: Vec<Event>,
}

#[derive(Debug, Serialize)]
struct Check {
    check: String,
    found: String,
    passes: bool,
    message: Option<String>,
}

/// `bailiwick why`.
pub(crate) fn run(daemon: &Daemon, config: &Path, options: &WhyOptions) -> Result<ExitStatus, Failure> {
    let form = options.format.into();
    let tenant = Store::new(config).tenant(&options.tenant).ok().and_then(|(_, tenant)| tenant);
    let what = question(options, tenant.as_ref())?;
    let door = match &what {
        WhyWhat::Login { door, .. } => Some(*door),
        WhyWhat::Write { .. } => None,
    };
    let request = ControlRequest::Why(WhyQuestion { tenant: options.tenant.clone(), what });
    let ControlReply::Why(mut checks) = daemon.ask(&request)? else { return Err(AskError::Unexpected.into()) };
    checks.insert(0, of_files(config, &options.tenant));
    // sshd asks for the keys once it knows the user.
    let place = checks.iter().position(|check| check.check == "host-user");
    if let (Some(place), Some(tenant)) = (place, &tenant) {
        checks.insert(place + 1, of_key(tenant, options.key.as_deref()));
    }
    let refusal = checks.iter().find_map(|check| check.refusal.as_ref().map(|failure| (check, failure)));
    let status = refusal.map_or(ExitStatus::Done, |(_, failure)| failure.status);
    let report = Report {
        tenant: options.tenant.clone(),
        door,
        passes: refusal.is_none(),
        refused_by: refusal.map(|(check, _)| check.check.clone()),
        message: refusal.map(|(_, failure)| failure.message.clone()),
        status: status.code(),
        refusals: refusals(daemon, &options.tenant)?,
        checks: checks.into_iter().map(Check::from).collect(),
    };
    output::show(form, &report, text)?;
    Ok(status)
}

impl From<WhyCheck> for Check {
    fn from(WhyCheck { check, found, refusal }: WhyCheck) -> Self {
        Self { check, found, passes: refusal.is_none(), message: refusal.map(|failure| failure.message) }
    }
}

/// What is asked. Without a door it is the one that most people use.
fn question(options: &WhyOptions, tenant: Option<&Tenant>) -> Result<WhyWhat, Failure> {
    if let Some(write) = &options.write {
        return if write.starts_with('/') {
            Ok(WhyWhat::Write { path: Some(write.clone()), bytes: 1 })
        } else {
            let wrong = |_| {
                let message = format!("{write:?} is neither an absolute path inside nor an amount such as 100M");
                Failure::of(ExitStatus::Invalid, message)
            };
            write.parse().map(|ByteSize(bytes)| WhyWhat::Write { path: None, bytes }).map_err(wrong)
        };
    }
    let of_tenant = tenant.map(|tenant| &tenant.settings.doors);
    let usual = of_tenant.and_then(|doors| doors.get(&Door::Ssh).or_else(|| doors.first()));
    let door = options.door.or(usual.copied()).unwrap_or(Door::Exec);
    if options.key.is_some() && !matches!(door, Door::Ssh | Door::Sftp) {
        let message = format!("the door \"{door}\" takes no key; leave --key out, or name --door ssh");
        return Err(Failure::of(ExitStatus::Invalid, message));
    }
    if let Some(key) = options.key.as_ref().filter(|key| !key.starts_with("SHA256:") && fingerprint(key).is_none()) {
        let message = format!(
            "--key {key:?} is neither a fingerprint (SHA256:...) nor a key; \"$(cat FILE)\" hands over the key in a file"
        );
        return Err(Failure::of(ExitStatus::Invalid, message));
    }
    if let Some(from) = options.from.as_ref().filter(|from| from.parse::<IpAddr>().is_err()) {
        return Err(Failure::of(ExitStatus::Invalid, format!("--from {from:?} is no address, such as 192.0.2.1")));
    }
    Ok(WhyWhat::Login { door, user: options.user.clone(), source: options.from.clone() })
}

/// Whether the files as they are now are in force. An error in them refuses nobody by itself.
fn of_files(config: &Path, tenant: &TenantName) -> WhyCheck {
    let found = match bailiwick_policy::read_tenant(config, tenant) {
        Ok(_) => "no error in the tenant's files".to_owned(),
        Err(diagnostics) => {
            let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
            format!("an error, so the last valid version is in force: {first}")
        }
    };
    WhyCheck { check: "files".to_owned(), found, refusal: None }
}

/// Whether sshd gets a key of the tenant that is the client's; for no client, whether it gets any.
fn of_key(tenant: &Tenant, wanted: Option<&str>) -> WhyCheck {
    let keys = &tenant.login.ssh_keys;
    let Some(wanted) = wanted else {
        let found = format!("the tenant has {}; --key asks about the client's", keys.len());
        let message = format!(
            "\"{0}\" has no key, so sshd refuses every client; `bailiwick edit {0}` adds one to `ssh_keys` below [login]",
            tenant.name
        );
        let refusal = keys.is_empty().then(|| Failure::of(ExitStatus::Refused, message));
        return WhyCheck { check: "key".to_owned(), found, refusal };
    };
    let is_it = |line: &&String| {
        let same_text = line.split(' ').take(2).eq(wanted.split(' ').take(2)) && wanted.contains(' ');
        same_text || fingerprint(line).as_deref() == Some(wanted.trim_end_matches('='))
    };
    let (found, refusal) = match keys.iter().find(is_it) {
        Some(line) => {
            let comment = line.splitn(3, ' ').nth(2).unwrap_or("without a comment");
            (format!("the key is among the {} of the tenant: {comment}", keys.len()), None)
        }
        None => {
            let known: Vec<String> = keys.iter().filter_map(|line| fingerprint(line)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!(
                "\"{0}\" has no such key, so sshd refuses it; its keys are: {known}; `bailiwick edit {0}` adds one",
                tenant.name
            );
            (String::new(), Some(Failure::of(ExitStatus::Refused, message)))
        }
    };
    WhyCheck { check: "key".to_owned(), found, refusal }
}

/// The fingerprint of a line of `ssh_keys`, as ssh-keygen(1) prints it.
fn fingerprint(line: &str) -> Option<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let hash = Sha256::digest(bailiwick_policy::key_bytes(line)?);
    let mut text = "SHA256:".to_owned();
    for three in hash.chunks(3) {
        let number = three.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        let digit = |place: usize| char::from(DIGITS[number >> (18 - 6 * place) & 63]);
        text.extend((0..=three.len()).map(digit));
    }
    Some(text)
}

/// The last refusals of a tenant in the outbox, oldest first.
fn refusals(daemon: &Daemon, tenant: &TenantName) -> Result<Vec<Event>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut wanted = EventsWanted {
        after: 0,
        since: Moment(now.saturating_sub(PAST)),
        tenants: vec![tenant.clone()],
        types: vec![EventType::SessionRefused],
        most: MOST_EVENTS,
        wait: false,
    };
    let mut last_ones: Vec<Event> = Vec::new();
    for _ in 0..MOST_PAGES {
        let reply = match daemon.ask(&ControlRequest::Events(wanted.clone())) {
            Ok(ControlReply::Events { events, next, last }) => Some((events, next, last)),
            Ok(_) => return Err(AskError::Unexpected.into()),
            // Without a history there is no outbox. The checks are the answer all the same.
            Err(AskError::Failed(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let Some((events, next, last)) = reply else { break };
        last_ones.extend(events);
        last_ones.drain(..last_ones.len().saturating_sub(MOST_SHOWN));
        if next >= last || next <= wanted.after {
            break;
        }
        wanted.after = next;
    }
    Ok(last_ones)
}

fn text(report: &Report) -> String {
    let row = |check: &Check| {
        let verdict = if check.passes { "passes" } else { "refuses" };
        let found = check.message.clone().unwrap_or_else(|| check.found.clone());
        vec![check.check.clone(), verdict.to_owned(), found]
    };
    let mut out = render(&["CHECK", "VERDICT", "FOUND"], report.checks.iter().map(row));
    let what = report.door.map_or_else(|| "a write".to_owned(), |door| format!("a session by the door \"{door}\""));
    let verdict = match (&report.refused_by, &report.message) {
        (Some(by), Some(message)) => format!("{what} is refused by the check \"{by}\": {message}"),
        _ => format!("nothing refuses {what}"),
    };
    out.push_str(&format!("\n{}\n", output::visible_lines(&verdict)));
    if !report.refusals.is_empty() {
        out.push_str("\nthe last refusals:\n");
        out.push_str(&events::lines(&report.refusals));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_that_of_ssh_keygen() {
        // As `ssh-keygen -lf` prints it.
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOYLw5YBOneLZfK674Sm+a9FdrvywT3Y9KltLOLL1fTS alice@example.org";
        assert_eq!(fingerprint(line).as_deref(), Some("SHA256:jxVzEiZaRQK02CsdokjdhQG170Q4yIgmuj7Ybl+wNrI"));
        assert_eq!(fingerprint("ssh-ed25519"), None);
    }
}
