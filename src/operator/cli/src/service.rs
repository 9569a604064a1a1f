//! `service`: lists the services of tenants, shows them in full, and starts, stops and restarts them.

use crate::arguments::ServiceCommand;
use crate::output::{self, Form, visible};
use crate::table::{pairs, render};
use crate::usage::{clock, local};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{ServiceStatus, SocketStatus, TenantServices, TenantState};
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{ExitStatus, ServiceName, ServiceReport, ServiceState, ServiceVerb, TenantName};
use jiff::tz::TimeZone;

/// `bailiwick service`.
pub(crate) fn run(daemon: &Daemon, command: ServiceCommand) -> Result<(), Failure> {
    match command {
        ServiceCommand::List { tenants, format } => list(daemon, tenants.tenants, format.into()),
        ServiceCommand::Status { tenant, name, format } => status(daemon, tenant, name.as_ref(), format.into()),
        ServiceCommand::Start(options) => {
            tell(daemon, options.tenant, options.names, ServiceVerb::Start, options.format.into())
        }
        ServiceCommand::Stop(options) => {
            tell(daemon, options.tenant, options.names, ServiceVerb::Stop, options.format.into())
        }
        ServiceCommand::Restart(options) => {
            tell(daemon, options.tenant, options.names, ServiceVerb::Restart, options.format.into())
        }
    }
}

/// The services of tenants; of all tenants when `tenants` is empty. Tenants without services are left out.
pub(crate) fn services(daemon: &Daemon, tenants: Vec<TenantName>) -> Result<Vec<TenantServices>, Failure> {
    match daemon.ask(&ControlRequest::Services { tenants })? {
        ControlReply::Services(services) => Ok(services),
        _ => Err(AskError::Unexpected.into()),
    }
}

/// The services of one tenant, of which there is at least one; only that of `name` if there is a name.
pub(crate) fn of_tenant(
    daemon: &Daemon,
    tenant: TenantName,
    name: Option<&ServiceName>,
) -> Result<TenantServices, Failure> {
    let not_found = |message: String| Failure::of(ExitStatus::NotFound, message);
    let found = services(daemon, vec![tenant.clone()])?.into_iter().find(|services| services.tenant == tenant);
    let Some(mut found) = found.filter(|found| !found.services.is_empty()) else {
        return Err(not_found(format!("\"{tenant}\" has no services")));
    };
    if let Some(name) = name {
        let names: Vec<&str> = found.services.iter().map(|service| service.name.as_str()).collect();
        let missing = not_found(format!("\"{tenant}\" has no service \"{name}\"; it has {}", names.join(", ")));
        found.services.retain(|service| service.name == *name);
        if found.services.is_empty() {
            return Err(missing);
        }
    }
    Ok(found)
}

fn list(daemon: &Daemon, tenants: Vec<TenantName>, form: Form) -> Result<(), Failure> {
    output::show(form, &services(daemon, tenants)?, |services| list_text(services, &local()))
}

fn status(daemon: &Daemon, tenant: TenantName, name: Option<&ServiceName>, form: Form) -> Result<(), Failure> {
    // A list of one, so that the output has the form of `list`.
    output::show(form, &[of_tenant(daemon, tenant, name)?], |services| status_text(&services[0], &local()))
}

fn tell(
    daemon: &Daemon,
    tenant: TenantName,
    names: Vec<ServiceName>,
    verb: ServiceVerb,
    form: Form,
) -> Result<(), Failure> {
    let ControlReply::ServicesDone(done) = daemon.ask(&ControlRequest::ServiceVerb { tenant, names, verb })? else {
        return Err(AskError::Unexpected.into());
    };
    if form == Form::Json { output::print_json(&done) } else { Ok(()) }
}

/// The services of a tenant in one line; `None` when it has none, or when they are not known.
pub(crate) fn summary(daemon: &Daemon, tenant: TenantName) -> Option<String> {
    let services = of_tenant(daemon, tenant, None).ok()?;
    let words = services.services.iter().map(|service| {
        let state = format!("{} {}", service.name, state_text(&services, service.report.as_ref()));
        match problem(service) {
            none if none.is_empty() => state,
            problem => format!("{state} ({problem})"),
        }
    });
    Some(words.collect::<Vec<_>>().join(", "))
}

fn list_text(tenants: &[TenantServices], zone: &TimeZone) -> String {
    if tenants.is_empty() {
        return String::new();
    }
    let rows = tenants.iter().flat_map(|tenant| {
        tenant.services.iter().map(move |service| {
            let report = service.report.as_ref();
            vec![
                tenant.tenant.to_string(),
                service.name.to_string(),
                state_text(tenant, report),
                report.map(|report| clock(report.since, zone)).unwrap_or_default(),
                report.map(|report| report.restarts.to_string()).unwrap_or_default(),
                service.sockets.iter().map(|socket| socket.name.to_string()).collect::<Vec<_>>().join(","),
                problem(service),
            ]
        })
    });
    let mut text = render(&["TENANT", "SERVICE", "STATE", "SINCE", "RESTARTS", "SOCKETS", "PROBLEM"], rows);
    for tenant in tenants {
        if let Some(problem) = &tenant.problem {
            text.push_str(&format!("{}: {}\n", tenant.tenant, visible(problem)));
        }
    }
    text
}

/// The state of a service. Without a report it is the state of the tenant, if this explains why there is none.
fn state_text(tenant: &TenantServices, report: Option<&ServiceReport>) -> String {
    match report {
        Some(report) => report.state.to_string(),
        None if tenant.state == TenantState::Running => "unknown".to_owned(),
        None => tenant.state.word().to_owned(),
    }
}

/// What is wrong with a service, its relays or its sockets, in a few words; empty when nothing is.
pub(crate) fn problem(service: &ServiceStatus) -> String {
    let relays = service.sockets.iter().filter_map(|socket| socket.relay.as_ref());
    let reports = service.report.iter().chain(relays);
    let failures = reports.filter(|report| is_failing(report)).map(|report| match &report.last_end {
        Some(end) if report.name.socket.is_some() => format!("the relay of {}: {}", report.name, end),
        Some(end) => end.to_string(),
        None => report.state.to_string(),
    });
    let sockets = service.sockets.iter();
    let problems =
        sockets.filter_map(|socket| socket.problem.as_ref().map(|problem| format!("{}: {problem}", socket.name)));
    failures.chain(problems).collect::<Vec<_>>().join("; ")
}

fn is_failing(report: &ServiceReport) -> bool {
    matches!(report.state, ServiceState::BackOff | ServiceState::Failed)
}

fn status_text(tenant: &TenantServices, zone: &TimeZone) -> String {
    let texts: Vec<String> = tenant.services.iter().map(|service| service_text(tenant, service, zone)).collect();
    let problem = tenant.problem.as_ref().map(|problem| format!("\n{}: {}\n", tenant.tenant, visible(problem)));
    texts.join("\n") + &problem.unwrap_or_default()
}

fn service_text(tenant: &TenantServices, service: &ServiceStatus, zone: &TimeZone) -> String {
    let mut rows =
        vec![("service", service.name.to_string()), ("tenant", format!("{}, {}", tenant.tenant, tenant.state.word()))];
    match &service.report {
        None => rows.push(("state", state_text(tenant, None))),
        Some(report) => rows.extend(report_rows(report, zone)),
    }
    rows.push(("log", service.log.clone()));
    for socket in &service.sockets {
        rows.extend(socket_rows(socket, zone));
    }
    pairs(rows)
}

fn report_rows(report: &ServiceReport, zone: &TimeZone) -> Vec<(&'static str, String)> {
    let mut rows = vec![("state", format!("{}, since {}", report.state, clock(report.since, zone)))];
    rows.extend(report.again.map(|again| ("again", clock(again, zone))));
    rows.extend(report.pid.map(|pid| ("pid", format!("{pid} inside"))));
    rows.push(("restarts", report.restarts.to_string()));
    rows.extend(report.last_end.map(|end| ("last end", end.to_string())));
    rows
}

fn socket_rows(socket: &SocketStatus, zone: &TimeZone) -> Vec<(&'static str, String)> {
    let connections = socket.connections.map(|count| format!(", {count} connections")).unwrap_or_default();
    let mut rows = vec![("socket", format!("{}: {}{connections}", socket.name, socket.path))];
    rows.extend(socket.problem.as_ref().map(|problem| ("problem", problem.clone())));
    if let Some(relay) = &socket.relay {
        let since = clock(relay.since, zone);
        let end = relay.last_end.filter(|_| is_failing(relay)).map(|end| format!(": {}", end));
        rows.push(("relay", format!("{}, since {since}{}", relay.state, end.unwrap_or_default())));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Format, OptionalTenants, ServiceOptions};
    use bailiwick_client::fake;
    use bailiwick_types::{Moment, ServiceEnd};

    fn report(name: &str, state: ServiceState, last_end: Option<ServiceEnd>) -> ServiceReport {
        ServiceReport {
            name: name.parse().expect("valid"),
            digest: "0".to_owned(),
            state,
            pid: (state == ServiceState::Running).then_some(7),
            since: Moment(1_790_000_000),
            restarts: 3,
            last_end,
            again: (state == ServiceState::BackOff).then_some(Moment(1_790_000_060)),
        }
    }

    fn service(name: &str, report: Option<ServiceReport>, sockets: Vec<SocketStatus>) -> ServiceStatus {
        let log = format!("/home/alice/.local/state/services/{name}.log");
        ServiceStatus { name: name.parse().expect("valid"), report, sockets, log }
    }

    fn socket(relay: Option<ServiceReport>, problem: Option<&str>) -> SocketStatus {
        SocketStatus {
            name: "web".parse().expect("valid"),
            path: "/run/bailiwick/web/alice/web.sock".to_owned(),
            connections: Some(2),
            problem: problem.map(str::to_owned),
            relay,
        }
    }

    fn alice() -> TenantServices {
        let relay = report("node.web", ServiceState::BackOff, Some(ServiceEnd::Exited(1)));
        TenantServices {
            tenant: "alice".parse().expect("valid"),
            state: TenantState::Running,
            problem: Some("init\u{1b}".to_owned()),
            services: vec![
                service("db", Some(report("db", ServiceState::BackOff, Some(ServiceEnd::NotStarted(2)))), Vec::new()),
                service(
                    "node",
                    Some(report("node", ServiceState::Running, None)),
                    vec![socket(Some(relay), Some("broken\u{1b}"))],
                ),
            ],
        }
    }

    #[test]
    fn each_service_is_one_line_with_what_is_wrong() {
        let bob = TenantServices {
            tenant: "bob".parse().expect("valid"),
            state: TenantState::Asleep,
            problem: None,
            services: vec![service("php", None, Vec::new())],
        };
        let carol =
            TenantServices { tenant: "carol".parse().expect("valid"), state: TenantState::Running, ..bob.clone() };
        let golden = "\
TENANT  SERVICE  STATE     SINCE                      RESTARTS  SOCKETS  PROBLEM
alice   db       back-off  2026-09-21T14:13:20+00:00  3         -        it cannot be started: No such file or directory (os error 2)
alice   node     running   2026-09-21T14:13:20+00:00  3         web      the relay of node.web: it ended with status 1; web: broken\\u{1b}
bob     php      asleep    -                          -         -        -
carol   php      unknown   -                          -         -        -
alice: init\\u{1b}
";
        assert_eq!(list_text(&[alice(), bob, carol], &TimeZone::UTC), golden);
        assert_eq!(list_text(&[], &TimeZone::UTC), "");
    }

    #[test]
    fn a_service_in_full() {
        let golden = "\
service   db
tenant    alice, running
state     back-off, since 2026-09-21T14:13:20+00:00
again     2026-09-21T14:14:20+00:00
restarts  3
last end  it cannot be started: No such file or directory (os error 2)
log       /home/alice/.local/state/services/db.log

service   node
tenant    alice, running
state     running, since 2026-09-21T14:13:20+00:00
pid       7 inside
restarts  3
log       /home/alice/.local/state/services/node.log
socket    web: /run/bailiwick/web/alice/web.sock, 2 connections
problem   broken\\u{1b}
relay     back-off, since 2026-09-21T14:13:20+00:00: it ended with status 1

alice: init\\u{1b}
";
        assert_eq!(status_text(&alice(), &TimeZone::UTC), golden);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let answers = [vec![alice()], vec![alice()], Vec::new(), vec![alice()], Vec::new()]
            .map(|services| vec![ControlReply::Services(services)]);
        let (daemon, served) = fake(temp.path(), answers.to_vec());
        let (name, other) = ("db".parse().expect("valid"), "dbb".parse().expect("valid"));
        let tenant: TenantName = "alice".parse().expect("valid");
        let found = of_tenant(&daemon, tenant.clone(), Some(&name)).expect("is there");
        assert_eq!(found.services.len(), 1);
        let failure = of_tenant(&daemon, tenant.clone(), Some(&other)).expect_err("is not there");
        assert_eq!(failure.status, ExitStatus::NotFound);
        assert_eq!(failure.message, "\"alice\" has no service \"dbb\"; it has db, node");
        let failure = of_tenant(&daemon, tenant.clone(), None).expect_err("no services");
        assert_eq!((failure.status, &*failure.message), (ExitStatus::NotFound, "\"alice\" has no services"));
        let golden = "db back-off (it cannot be started: No such file or directory (os error 2)), \
                      node running (the relay of node.web: it ended with status 1; web: broken\u{1b})";
        assert_eq!(summary(&daemon, tenant.clone()).as_deref(), Some(golden));
        assert_eq!(summary(&daemon, tenant.clone()), None);
        assert_eq!(served.join().expect("served")[0], ControlRequest::Services { tenants: vec![tenant] });
    }

    #[test]
    fn each_verb_is_asked_for() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let name: ServiceName = "db".parse().expect("valid");
        let tenant: TenantName = "alice".parse().expect("valid");
        let done = vec![ControlReply::ServicesDone(vec![name.clone()])];
        let (daemon, served) =
            fake(temp.path(), vec![done.clone(), done.clone(), done, vec![ControlReply::Services(Vec::new())]]);
        let format = Format { json: false };
        let options = || ServiceOptions { tenant: tenant.clone(), names: vec![name.clone()], format };
        for command in [
            ServiceCommand::Start(options()),
            ServiceCommand::Stop(options()),
            ServiceCommand::Restart(options()),
            ServiceCommand::List { tenants: OptionalTenants { tenants: Vec::new() }, format },
        ] {
            run(&daemon, command).expect("done");
        }
        let verbs = [ServiceVerb::Start, ServiceVerb::Stop, ServiceVerb::Restart];
        let mut golden: Vec<ControlRequest> = verbs
            .map(|verb| ControlRequest::ServiceVerb { tenant: tenant.clone(), names: vec![name.clone()], verb })
            .into();
        golden.push(ControlRequest::Services { tenants: Vec::new() });
        assert_eq!(served.join().expect("served"), golden);
    }
}
