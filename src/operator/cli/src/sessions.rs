//! `sessions`, `sessions kill` and `timers`: lists open sessions, ends them, and lists timers.

use crate::arguments::KillOptions;
use crate::output::{self, Form};
use crate::table::render;
use crate::usage::{clock, local};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{
    Door, ExitStatus, Moment, SessionId, SessionRecord, SocketName, TenantName, TimerReport, TimerRun,
};
use jiff::tz::TimeZone;
use serde::Serialize;
use std::collections::BTreeMap;

/// `bailiwick sessions`.
pub(crate) fn list(daemon: &Daemon, tenants: Vec<TenantName>, form: Form) -> Result<(), Failure> {
    let ControlReply::Sessions(sessions) = daemon.ask(&ControlRequest::Sessions { tenants: tenants.clone() })? else {
        return Err(AskError::Unexpected.into());
    };
    let sockets = match daemon.ask(&ControlRequest::Connections { tenants }) {
        Ok(ControlReply::Connections(connections)) => sockets_of(connections),
        Ok(_) => return Err(AskError::Unexpected.into()),
        // The kernel may list no sockets. The sessions are known anyway.
        Err(error) => {
            output::complain(&format!(
                "the connections by the door \"socket\" are not counted: {}",
                Failure::from(error)
            ));
            Vec::new()
        }
    };
    let all: Vec<Open> = sessions.into_iter().map(Open::Session).chain(sockets.into_iter().map(Open::Socket)).collect();
    output::show(form, &all, |all| sessions_text(all, &local()))
}

/// What is open by a door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Open {
    Session(SessionRecord),
    Socket(OpenSocket),
}

/// The connections to a socket of a service: all that is known of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct OpenSocket {
    tenant: TenantName,
    /// Always `socket`.
    door: Door,
    socket: SocketName,
    connections: u64,
}

fn sockets_of(connections: BTreeMap<TenantName, BTreeMap<SocketName, u64>>) -> Vec<OpenSocket> {
    let mut all = Vec::new();
    for (tenant, sockets) in connections {
        for (socket, connections) in sockets {
            all.push(OpenSocket { tenant: tenant.clone(), door: Door::Socket, socket, connections });
        }
    }
    all
}

/// `bailiwick sessions kill`.
pub(crate) fn kill(daemon: &Daemon, options: KillOptions) -> Result<ExitStatus, Failure> {
    #[derive(serde::Serialize)]
    struct Killed {
        ended: Vec<SessionRecord>,
        left: Vec<SessionRecord>,
    }
    let KillOptions { sessions, tenants, reason, format } = options;
    let sessions = sessions.iter().map(|text| session_id(text)).collect::<Result<_, Failure>>()?;
    let ControlReply::EndedSessions { ended, left } =
        daemon.ask(&ControlRequest::EndSessions { sessions, tenants, reason })?
    else {
        return Err(AskError::Unexpected.into());
    };
    let form = Form::from(format);
    if form == Form::Json {
        output::print_json(&Killed { ended: ended.clone(), left: left.clone() })?;
    }
    for session in &left {
        let (id, pid) = (session.id, session.pid);
        output::complain(&format!("{id}: its client, process {pid}, was asked to end and still runs"));
    }
    Ok(match (left.is_empty(), ended.is_empty()) {
        (true, _) => ExitStatus::Done,
        (false, true) => ExitStatus::Failed,
        (false, false) => ExitStatus::Partly,
    })
}

/// A word that is no id of a session is the id of none.
fn session_id(text: &str) -> Result<SessionId, Failure> {
    text.parse().map_err(|_| {
        let message = format!("there is no session {text:?}; `bailiwick sessions` lists them");
        Failure::of(ExitStatus::NotFound, message)
    })
}

/// `bailiwick timers`.
pub(crate) fn timers(daemon: &Daemon, tenants: Vec<TenantName>, form: Form) -> Result<(), Failure> {
    let ControlReply::Timers(timers) = daemon.ask(&ControlRequest::Timers { tenants })? else {
        return Err(AskError::Unexpected.into());
    };
    output::show(form, &timers, |timers| timers_text(timers, &local()))
}

fn timers_text(timers: &[TimerReport], zone: &TimeZone) -> String {
    let rows = timers.iter().map(|timer| timer_row(timer, zone));
    render(&["TENANT", "TIMER", "SCHEDULE", "NEXT", "LAST", "STATUS", "COMMAND"], rows)
}

fn timer_row(timer: &TimerReport, zone: &TimeZone) -> Vec<String> {
    let moment = |moment: Option<Moment>| moment.map(|moment| clock(moment, zone)).unwrap_or_default();
    vec![
        timer.tenant.to_string(),
        timer.timer.to_string(),
        timer.schedule.clone(),
        if timer.door_closed { "door closed".to_owned() } else { moment(timer.next) },
        moment(timer.last.as_ref().map(|run| run.begun)),
        timer.last.as_ref().map(run_status).unwrap_or_default(),
        timer.command.clone(),
    ]
}

fn run_status(run: &TimerRun) -> String {
    match (&run.refused, run.status, run.ended) {
        (Some(why), ..) => format!("not run: {why}"),
        (None, Some(status), _) => status.to_string(),
        (None, None, None) => "runs".to_owned(),
        (None, None, Some(_)) => "unknown".to_owned(),
    }
}

fn sessions_text(all: &[Open], zone: &TimeZone) -> String {
    let rows = all.iter().map(|one| match one {
        Open::Session(session) => session_row(session, zone),
        Open::Socket(socket) => socket_row(socket),
    });
    render(&["SESSION", "TENANT", "DOOR", "USER", "FROM", "SINCE", "PID", "COMMAND"], rows)
}

fn session_row(session: &SessionRecord, zone: &TimeZone) -> Vec<String> {
    vec![
        session.id.to_string(),
        session.tenant.to_string(),
        session.door.to_string(),
        session.user.clone(),
        session.source.clone().unwrap_or_default(),
        clock(session.since, zone),
        session.pid.to_string(),
        session.command.clone().unwrap_or_default(),
    ]
}

fn socket_row(OpenSocket { tenant, door, socket, connections }: &OpenSocket) -> Vec<String> {
    let word = if *connections == 1 { "connection" } else { "connections" };
    let empty = String::new;
    let what = format!("{socket}: {connections} {word}");
    vec![empty(), tenant.to_string(), door.to_string(), empty(), empty(), empty(), empty(), what]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Format;
    use bailiwick_client::fake;

    fn session(id: u32) -> SessionRecord {
        SessionRecord {
            id: SessionId(id),
            tenant: "alice".parse().expect("valid"),
            door: Door::Ssh,
            user: "alice".to_owned(),
            source: Some("192.0.2.7".to_owned()),
            key: Some("ssh-ed25519 AAAA".to_owned()),
            command: Some("sh -c \u{1b}[2J".to_owned()),
            since: Moment(1_790_000_000),
            uid: 9_934_464,
            pid: 4711,
        }
    }

    #[test]
    fn each_session_is_one_line_and_tenants_text_is_escaped() {
        let login = SessionRecord { source: None, command: None, ..session(8) };
        let golden = "\
SESSION   TENANT  DOOR  USER   FROM       SINCE                      PID   COMMAND
00000007  alice   ssh   alice  192.0.2.7  2026-09-21T14:13:20+00:00  4711  sh -c \\u{1b}[2J
00000008  alice   ssh   alice  -          2026-09-21T14:13:20+00:00  4711  -
";
        assert_eq!(sessions_text(&[Open::Session(session(7)), Open::Session(login)], &TimeZone::UTC), golden);
        assert_eq!(sessions_text(&[], &TimeZone::UTC), "SESSION  TENANT  DOOR  USER  FROM  SINCE  PID  COMMAND\n");
        assert_eq!(session_id("nosuch").expect_err("none").status, ExitStatus::NotFound);
        let json = serde_json::to_value(session(7)).expect("serialises");
        for key in ["id", "tenant", "door", "user", "source", "key", "command", "since", "uid", "pid"] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn connections_to_sockets_follow_the_sessions() {
        let name = |text: &str| text.parse::<TenantName>().expect("valid");
        let socket = |text: &str| text.parse::<SocketName>().expect("valid");
        let counted = BTreeMap::from([
            (name("alice"), BTreeMap::from([(socket("api"), 1), (socket("web"), 20)])),
            (name("bob"), BTreeMap::from([(socket("web"), 2)])),
        ]);
        let all: Vec<Open> =
            [Open::Session(session(7))].into_iter().chain(sockets_of(counted).into_iter().map(Open::Socket)).collect();
        let golden = "\
SESSION   TENANT  DOOR    USER   FROM       SINCE                      PID   COMMAND
00000007  alice   ssh     alice  192.0.2.7  2026-09-21T14:13:20+00:00  4711  sh -c \\u{1b}[2J
-         alice   socket  -      -          -                          -     api: 1 connection
-         alice   socket  -      -          -                          -     web: 20 connections
-         bob     socket  -      -          -                          -     web: 2 connections
";
        assert_eq!(sessions_text(&all, &TimeZone::UTC), golden);
        let json = serde_json::to_value(&all).expect("serialises");
        assert_eq!(json[0]["id"], "00000007");
        let golden = serde_json::json!({ "tenant": "bob", "door": "socket", "socket": "web", "connections": 2 });
        assert_eq!(json[3], golden);
    }

    #[test]
    fn a_timer_shows_its_next_and_last_run() {
        let timer = |timer: &str, next: Option<u64>, last: Option<TimerRun>| TimerReport {
            tenant: "alice".parse().expect("valid"),
            timer: timer.parse().expect("valid"),
            schedule: "daily".to_owned(),
            command: "/bin/a b".to_owned(),
            next: next.map(Moment),
            door_closed: false,
            last,
        };
        let run = |ended: Option<u64>, status, refused: Option<&str>| {
            let (begun, refused) = (Moment(1_790_000_000), refused.map(str::to_owned));
            Some(TimerRun { begun, ended: ended.map(Moment), status, refused })
        };
        let golden = "\
TENANT  TIMER  SCHEDULE  NEXT                       LAST                       STATUS         COMMAND
alice   a      daily     2026-09-22T00:00:00+00:00  2026-09-21T14:13:20+00:00  7              /bin/a b
alice   b      daily     -                          2026-09-21T14:13:20+00:00  runs           /bin/a b
alice   c      daily     -                          2026-09-21T14:13:20+00:00  not run: full  /bin/a b
alice   d      daily     -                          -                          -              /bin/a b
alice   e      daily     door closed                -                          -              /bin/a b
";
        let timers = [
            timer("a", Some(1_790_035_200), run(Some(1_790_000_001), Some(7), None)),
            timer("b", None, run(None, None, None)),
            timer("c", None, run(Some(1_790_000_001), None, Some("full"))),
            timer("d", None, None),
            TimerReport { door_closed: true, ..timer("e", None, None) },
        ];
        assert_eq!(timers_text(&timers, &TimeZone::UTC), golden);
        assert_eq!(timers_text(&[], &TimeZone::UTC), "TENANT  TIMER  SCHEDULE  NEXT  LAST  STATUS  COMMAND\n");
    }

    #[test]
    fn the_exit_status_counts_sessions_that_did_not_end() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let cases = [
            (vec![session(1)], Vec::new(), ExitStatus::Done),
            (Vec::new(), vec![session(1)], ExitStatus::Failed),
            (vec![session(1)], vec![session(2)], ExitStatus::Partly),
        ];
        let answers = cases.clone().map(|(ended, left, _)| vec![ControlReply::EndedSessions { ended, left }]);
        let (daemon, served) = fake(temp.path(), answers.to_vec());
        for (.., status) in cases {
            let options = KillOptions {
                sessions: vec!["00000001".to_owned()],
                tenants: Vec::new(),
                reason: Some("enough".to_owned()),
                format: Format { json: false },
            };
            assert_eq!(kill(&daemon, options), Ok(status));
        }
        let asked = served.join().expect("served");
        let request = ControlRequest::EndSessions {
            sessions: vec![SessionId(1)],
            tenants: Vec::new(),
            reason: Some("enough".to_owned()),
        };
        assert_eq!(asked[0], request);
    }
}
