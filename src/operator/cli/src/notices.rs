//! `notices`: what tenants and operators are told, a test of the way, and what could not be delivered. Asks `bailiwick-notify`.

use crate::arguments::NoticesCommand;
use crate::configuration;
use crate::output::{self, Form};
use crate::table::render;
use crate::usage::{clock, local};
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::notify::{FailedDelivery, NoticeStatus, NotifyStatus};
use bailiwick_proto::{Failure, Incoming, NOTIFY_SOCKET, NotifyReply, NotifyRequest, TransportError, transport};
use bailiwick_sys::socket;
use bailiwick_types::{ExitStatus, FeatureReport, FeatureState, MailAddress, Notice, TenantName};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long `bailiwick-notify` may take to answer, also while it sends a test for somebody else.
const ANSWER_TIME: Duration = Duration::from_secs(90);
/// How long a test may take: `sendmail` has a minute for each address.
const TEST_TIME: Duration = Duration::from_secs(20 * 60);
/// How long `status` and `doctor` wait.
const LOOK_TIME: Duration = Duration::from_secs(2);
const FEATURE: &str = "notices";
const START: &str = "systemctl start bailiwick-notify";

/// Why there is no answer.
#[derive(Debug)]
enum NoAnswer {
    /// Nobody listens.
    Down,
    /// This user may not ask.
    NotRoot,
    /// Something else.
    Other(Failure),
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Down => Self::of(
                ExitStatus::Failed,
                format!(
                    "bailiwick-notify does not run; start it with \"{START}\" (bailiwickd --standalone starts it when there are notices)"
                ),
            ),
            NoAnswer::NotRoot => Self::of(ExitStatus::Refused, "only root may ask bailiwick-notify"),
            NoAnswer::Other(failure) => failure,
        }
    }
}

fn ask(config: &Path, request: &NotifyRequest, within: Duration) -> Result<NotifyReply, NoAnswer> {
    let path = configuration::host(config).map_err(NoAnswer::Other)?.runtime_dir.join(NOTIFY_SOCKET);
    let stream =
        socket::connect_within(&path, Some(within)).map(UnixStream::from).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => NoAnswer::NotRoot,
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => NoAnswer::Down,
            _ => NoAnswer::Other(Failure::new(ExitStatus::Failed, &error)),
        })?;
    let failed = |error: TransportError| {
        NoAnswer::Other(Failure::of(
            ExitStatus::Failed,
            format!("bailiwick-notify has not answered: {error}; see its log"),
        ))
    };
    transport::send(&stream, request, MAX_REQUEST, &[]).map_err(failed)?;
    let mut incoming = Incoming::new(MAX_REPLY, 0);
    match transport::receive(&stream, &mut incoming, Instant::now() + within).map_err(failed)?.0 {
        NotifyReply::Failed(failure) => Err(NoAnswer::Other(failure)),
        reply => Ok(reply),
    }
}

fn unexpected() -> Failure {
    let message = "bailiwick-notify sent a reply to another request; are \"bailiwick\" and it of one version?";
    Failure::of(ExitStatus::Failed, message)
}

/// `bailiwick notices`.
pub(crate) fn run(config: &Path, command: NoticesCommand) -> Result<ExitStatus, Failure> {
    match command {
        NoticesCommand::List { tenants, format } => {
            let request = NotifyRequest::List { tenants: tenants.tenants };
            let NotifyReply::List(list) = ask(config, &request, ANSWER_TIME)? else { return Err(unexpected()) };
            output::show(format.into(), &list, |list| list_text(list, &local()))?;
            Ok(ExitStatus::Done)
        }
        NoticesCommand::Test { tenant, format } => test(config, tenant, format.into()),
        NoticesCommand::Waiting { format } => failures(config, &NotifyRequest::Waiting, format.into()),
        NoticesCommand::Dead { format } => failures(config, &NotifyRequest::Dead, format.into()),
        NoticesCommand::Retry { ids, format } => {
            let request = NotifyRequest::Retry { ids: ids.clone() };
            let NotifyReply::Retried(retried) = ask(config, &request, ANSWER_TIME)? else { return Err(unexpected()) };
            match Form::from(format) {
                Form::Json => output::print_json(&retried)?,
                Form::Text if retried.is_empty() => {}
                Form::Text => output::print(&format!("tried again now: {} deliveries\n", retried.len()))?,
            }
            if ids.is_empty() && retried.is_empty() {
                let message = "no delivery has failed, so nothing is tried again";
                return Err(Failure::of(ExitStatus::NotFound, message));
            }
            let unknown: Vec<String> = ids.iter().filter(|id| !retried.contains(id)).map(u64::to_string).collect();
            if unknown.is_empty() {
                return Ok(ExitStatus::Done);
            }
            let message = format!("no delivery with these numbers has failed: {}", unknown.join(", "));
            let status = if retried.is_empty() { ExitStatus::NotFound } else { ExitStatus::Partly };
            Err(Failure::of(status, message))
        }
    }
}

fn failures(config: &Path, request: &NotifyRequest, form: Form) -> Result<ExitStatus, Failure> {
    let NotifyReply::Failures(failures) = ask(config, request, ANSWER_TIME)? else { return Err(unexpected()) };
    output::show(form, &failures, |failures| failures_text(failures, &local()))?;
    if form == Form::Text
        && let NotifyReply::Status(status) = ask(config, &NotifyRequest::Status, ANSWER_TIME)?
    {
        // The lists show what was given up.
        let others = troubles(&NotifyStatus { dead: 0, ..status });
        output::print(&others.iter().map(|trouble| format!("{trouble}\n")).collect::<String>())?;
    }
    Ok(ExitStatus::Done)
}

fn test(config: &Path, tenant: Option<TenantName>, form: Form) -> Result<ExitStatus, Failure> {
    let NotifyReply::Tested(tested) = ask(config, &NotifyRequest::Test { tenant }, TEST_TIME)? else {
        return Err(unexpected());
    };
    output::show(form, &tested, tested_text)?;
    let sent = tested.values().filter(|why| why.is_none()).count();
    Ok(match sent {
        0 => ExitStatus::Failed,
        sent if sent < tested.len() => ExitStatus::Partly,
        _ => ExitStatus::Done,
    })
}

fn tested_text(tested: &BTreeMap<MailAddress, Option<String>>) -> String {
    let row = |(address, why): (&MailAddress, &Option<String>)| {
        vec![address.to_string(), why.clone().unwrap_or_else(|| "sendmail has taken it".to_owned())]
    };
    render(&["ADDRESS", "RESULT"], tested.iter().map(row))
}

/// A rule in one line, for `show`.
pub(crate) fn rule_text(notice: &Notice) -> String {
    let words = |words: Vec<String>| words.join(", ");
    let at = words(notice.at.iter().map(ToString::to_string).collect());
    let to = words(notice.to.iter().map(ToString::to_string).collect());
    format!("{} at {at} to {to}", notice.resource)
}

fn list_text(list: &[NoticeStatus], zone: &TimeZone) -> String {
    let words = |words: Vec<String>| words.join(",");
    let row = |status: &NoticeStatus| {
        let notice = &status.notice;
        let told = status.told.iter().map(|(threshold, at)| {
            let clear =
                status.clear_since.get(threshold).map(|since| format!(" (below since {})", clock(*since, zone)));
            format!("{threshold} since {}{}", clock(*at, zone), clear.unwrap_or_default())
        });
        vec![
            status.tenant.to_string(),
            notice.resource.to_string(),
            words(notice.at.iter().map(ToString::to_string).collect()),
            words(notice.to.iter().map(ToString::to_string).collect()),
            if status.addresses.is_empty() { "nobody".to_owned() } else { status.addresses.len().to_string() },
            told.collect::<Vec<_>>().join(", "),
        ]
    };
    render(&["TENANT", "RESOURCE", "AT", "TO", "ADDRESSES", "TOLD"], list.iter().map(row))
}

fn failures_text(failures: &[FailedDelivery], zone: &TimeZone) -> String {
    let row = |failure: &FailedDelivery| {
        vec![
            failure.id.to_string(),
            clock(failure.created, zone),
            format!("{} {}", failure.kind, failure.target),
            failure.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            failure.about.clone(),
            failure.attempts.to_string(),
            failure.next.map_or_else(|| "never".to_owned(), |next| clock(next, zone)),
            failure.error.clone(),
        ]
    };
    render(&["NUMBER", "FROM", "TO", "TENANT", "ABOUT", "ATTEMPTS", "AGAIN", "ERROR"], failures.iter().map(row))
}

/// Whether anybody is to be told of anything.
fn has_notices(config: &Path) -> bool {
    bailiwick_policy::Store::new(config).read().policy.is_some_and(|policy| policy.gives_notices())
}

/// What is wrong with what `bailiwick-notify` has to deliver; empty when all is well.
fn troubles(status: &NotifyStatus) -> Vec<String> {
    let NotifyStatus { waiting: _, dead, lost, held } = *status;
    [
        (dead, format!("notices that could not be delivered: {dead}; see `bailiwick notices dead`")),
        (lost, format!("deliveries lost in the last seven days, because too many waited: {lost}")),
        (held, format!("notices held back, because too many wait: {held}; see `bailiwick notices waiting`")),
    ]
    .into_iter()
    .filter_map(|(count, text)| (count > 0).then_some(text))
    .collect()
}

/// What `status` says of notices; `None` when all is well, and to a user who may not ask.
pub(crate) fn problem(config: &Path) -> Option<String> {
    match ask(config, &NotifyRequest::Status, LOOK_TIME) {
        Ok(NotifyReply::Status(status)) => {
            Some(troubles(&status)).filter(|all| !all.is_empty()).map(|all| all.join("; "))
        }
        Err(NoAnswer::NotRoot) => None,
        Ok(_) => Some(unexpected().message),
        Err(NoAnswer::Down) => has_notices(config)
            .then(|| format!("notices are not delivered: bailiwick-notify does not run; start it with \"{START}\"")),
        Err(NoAnswer::Other(failure)) => Some(failure.message),
    }
}

/// The row of `doctor`; `None` on a host without notices.
pub(crate) fn feature(config: &Path) -> Option<FeatureReport> {
    let row = |state, evidence: String, remedy: &str| FeatureReport {
        feature: FEATURE.to_owned(),
        state,
        evidence,
        remedy: remedy.to_owned(),
    };
    match ask(config, &NotifyRequest::Status, LOOK_TIME) {
        Ok(NotifyReply::Status(NotifyStatus { waiting, dead: 0, lost: 0, held: 0 })) => {
            Some(row(FeatureState::Works, format!("bailiwick-notify runs, {waiting} deliveries wait"), ""))
        }
        Ok(NotifyReply::Status(NotifyStatus { waiting, dead: 0, lost, held })) => Some(row(
            FeatureState::Limited,
            format!(
                "bailiwick-notify runs, {waiting} deliveries wait, and others found no room: {lost} lost, {held} held back"
            ),
            "see `bailiwick notices waiting`, and mend what it says",
        )),
        Ok(NotifyReply::Status(NotifyStatus { dead, .. })) => Some(row(
            FeatureState::Limited,
            format!("bailiwick-notify runs, and could not deliver {dead}"),
            "see `bailiwick notices dead`, mend what it says, and run `bailiwick notices retry`",
        )),
        Err(NoAnswer::Down) => {
            has_notices(config).then(|| row(FeatureState::Missing, "bailiwick-notify does not run".to_owned(), START))
        }
        Ok(_) => Some(row(FeatureState::Limited, unexpected().message, START)),
        Err(error) => {
            has_notices(config).then(|| row(FeatureState::Limited, Failure::from(error).message, "run this as root"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Moment, Notice, NoticeResource, Period, TargetKind};

    #[test]
    fn lists_are_tables() {
        let at = ["80%", "grace:2d"].map(|word| word.parse().expect("a threshold")).into();
        let notice = Notice {
            resource: NoticeResource::Disk,
            clear: 75,
            at,
            to: ["tenant", "admin"].map(|word| word.parse().expect("a recipient")).into(),
            repeat: Some(Period(7 * 86_400)),
        };
        let status = NoticeStatus {
            tenant: "alice".parse().expect("a name"),
            notice,
            addresses: Vec::new(),
            told: [("80%".parse().expect("a threshold"), Moment(0))].into(),
            clear_since: BTreeMap::new(),
        };
        let golden = "TENANT  RESOURCE  AT            TO            ADDRESSES  TOLD\n\
                      alice   disk      80%,grace:2d  tenant,admin  nobody     80% since 1970-01-01T00:00:00+00:00\n";
        assert_eq!(list_text(std::slice::from_ref(&status), &TimeZone::UTC), golden);
        let ending = NoticeStatus { clear_since: status.told.clone(), ..status.clone() };
        assert!(
            list_text(&[ending], &TimeZone::UTC).contains("80% since 1970-01-01T00:00:00+00:00 (below since 1970-")
        );
        let json = serde_json::to_value(&status).expect("JSON");
        assert_eq!((json["resource"].as_str(), json["told"]["80%"].as_u64()), (Some("disk"), Some(0)));
        let dead = FailedDelivery {
            id: 7,
            kind: TargetKind::Mail,
            target: "a@b".to_owned(),
            tenant: None,
            about: "notice disk 80%".to_owned(),
            created: Moment(0),
            attempts: 6,
            next: None,
            error: "no\u{1b}[2J".to_owned(),
        };
        let golden = "NUMBER  FROM                       TO        TENANT  ABOUT            ATTEMPTS  AGAIN  ERROR\n\
                      7       1970-01-01T00:00:00+00:00  mail a@b  -       notice disk 80%  6         never  no\\u{1b}[2J\n";
        assert_eq!(failures_text(&[dead], &TimeZone::UTC), golden);
    }

    #[test]
    fn what_found_no_room_is_said() {
        let status = |dead, lost, held| NotifyStatus { waiting: 7, dead, lost, held };
        assert_eq!(troubles(&status(0, 0, 0)), Vec::<String>::new());
        let golden = ["deliveries lost in the last seven days, because too many waited: 3"];
        assert_eq!(troubles(&status(0, 3, 0)), golden);
        assert_eq!(troubles(&status(1, 3, 2)).len(), 3);
        // One of an earlier version says nothing of it.
        let earlier: NotifyStatus = serde_json::from_str("{\"waiting\":7,\"dead\":0}").expect("JSON");
        assert_eq!(earlier, status(0, 0, 0));
    }

    #[test]
    fn without_the_program_only_a_host_with_notices_has_a_problem() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, text: &str| {
            let path = temp.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("makes");
            std::fs::write(path, text).expect("writes");
        };
        let (state, run) = (temp.path().join("state"), temp.path().join("run"));
        let host = format!("state_dir = {state:?}\nruntime_dir = {run:?}\n");
        write("bailiwick.toml", &host);
        write("plans.d/p.toml", "");
        write("tenants.d/alice.toml", "plan = \"p\"\n");
        assert_eq!((problem(temp.path()), feature(temp.path())), (None, None));
        let rule = "[contact]\nmail = [\"ops@example.org\"]\n[[notice]]\nresource = \"tasks\"\nat = [\"90%\"]\nto = [\"admin\"]\n";
        write("bailiwick.toml", &format!("{host}{rule}"));
        assert!(problem(temp.path()).is_some_and(|problem| problem.contains("does not run")));
        assert_eq!(feature(temp.path()).map(|row| row.state), Some(FeatureState::Missing));
        let failure = run_list(temp.path());
        assert_eq!(failure.status, ExitStatus::Failed);
        assert!(failure.message.starts_with("bailiwick-notify does not run; start it with"), "{}", failure.message);
    }

    fn run_list(config: &Path) -> Failure {
        ask(config, &NotifyRequest::Dead, LOOK_TIME).map(drop).map_err(Failure::from).expect_err("nobody answers")
    }
}
