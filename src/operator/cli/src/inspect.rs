//! `list`, `show`, `status` and `plan`: prints the state that `bailiwickd` reports.

use crate::arguments::{Column, ListOptions};
use crate::configuration;
use crate::notices;
use crate::output::{self, Form, visible, word};
use crate::report;
use crate::service;
use crate::table::{indented, pairs, render};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::{HostStatus, MemoryUse, TenantDetail, TenantState, TenantSummary};
use bailiwick_proto::init::VERSION;
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{Action, ByteSize, Change, Contact, ExitStatus, HostSocketName, LentSocket, Period, TenantName};
use clap::ValueEnum;
use std::path::Path;

/// `bailiwick list`.
pub(crate) fn list(daemon: &Daemon, options: &ListOptions, form: Form) -> Result<(), Failure> {
    let ControlReply::List(tenants) = daemon.ask(&ControlRequest::List)? else {
        return Err(AskError::Unexpected.into());
    };
    output::show(form, &selected(tenants, options), |tenants| list_text(tenants, &options.columns))
}

/// The tenants that are wanted, in the wanted order.
fn selected(mut tenants: Vec<TenantSummary>, options: &ListOptions) -> Vec<TenantSummary> {
    let ListOptions { state, plan, sort, reverse, columns: _ } = options;
    let is_in_state = |tenant: &TenantSummary| {
        state.is_empty() || state.contains(&tenant.state) || tenant.invalid && state.contains(&TenantState::Invalid)
    };
    let has_plan =
        |tenant: &TenantSummary| plan.is_empty() || tenant.plan.as_ref().is_some_and(|has| plan.contains(has));
    tenants.retain(|tenant| is_in_state(tenant) && has_plan(tenant));
    // Those that are equal stay in the order of their names.
    tenants.sort_by_cached_key(|tenant| cell(tenant, *sort));
    if *reverse {
        tenants.reverse();
    }
    tenants
}

/// `bailiwick show`.
pub(crate) fn show(daemon: &Daemon, tenant: TenantName, form: Form) -> Result<(), Failure> {
    let ControlReply::Show(detail) = daemon.ask(&ControlRequest::Show { tenant: tenant.clone() })? else {
        return Err(AskError::Unexpected.into());
    };
    output::show(form, &*detail, |detail| show_text(detail, service::summary(daemon, tenant)))
}

/// `bailiwick status`. Fails if the warden does not answer.
pub(crate) fn status(daemon: &Daemon, config: &Path, form: Form) -> Result<ExitStatus, Failure> {
    let ControlReply::Status(mut status) = daemon.ask(&ControlRequest::Status)? else {
        return Err(AskError::Unexpected.into());
    };
    // Read from the files, so that they are current without a reload.
    let impossible = configuration::impossible(config, &[]);
    status.problems.extend(impossible.iter().map(ToString::to_string));
    status.problems.extend(configuration::of_targets(config).iter().map(ToString::to_string));
    status.problems.extend(notices::problem(config));
    output::show(form, &status, status_text)?;
    Ok(if status.warden.is_some() { ExitStatus::Done } else { ExitStatus::Failed })
}

/// `bailiwick plan`.
pub(crate) fn plan(daemon: &Daemon, tenants: Vec<TenantName>, form: Form) -> Result<ExitStatus, Failure> {
    let changes = changes(daemon, tenants)?;
    if form == Form::Json || !changes.is_empty() {
        output::show(form, &changes, |changes| plan_text(changes))?;
    }
    Ok(if changes.is_empty() { ExitStatus::Done } else { ExitStatus::Finding })
}

/// `bailiwick apply --dry-run`.
pub(crate) fn rehearse(daemon: &Daemon, tenants: Vec<TenantName>, form: Form) -> Result<(), Failure> {
    output::show(form, &changes(daemon, tenants)?, |changes| rehearsal_text(changes))
}

fn changes(daemon: &Daemon, tenants: Vec<TenantName>) -> Result<Vec<Change>, Failure> {
    match daemon.ask(&ControlRequest::Plan { tenants })? {
        ControlReply::Plan(changes) => Ok(changes),
        _ => Err(AskError::Unexpected.into()),
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The columns that are shown if none are named. A column of failures is shown if there are some.
const COLUMNS: [Column; 5] = [Column::Name, Column::State, Column::Plan, Column::Image, Column::Profile];

fn list_text(tenants: &[TenantSummary], columns: &[Column]) -> String {
    let mut columns = columns.to_vec();
    if columns.is_empty() {
        columns.extend(COLUMNS);
        columns.extend(tenants.iter().any(|tenant| tenant.failure.is_some()).then_some(Column::Failure));
    }
    let header: Vec<String> = columns.iter().map(|column| word_of(*column).to_uppercase()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    render(&header, tenants.iter().map(|tenant| columns.iter().map(|column| cell(tenant, *column)).collect()))
}

fn word_of(column: Column) -> String {
    column.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn cell(tenant: &TenantSummary, column: Column) -> String {
    match column {
        Column::Name => tenant.name.to_string(),
        Column::State => state_text(tenant),
        Column::Plan => text(tenant.plan.as_ref()),
        Column::Image => text(tenant.image.as_ref()),
        Column::Profile => text(tenant.profile),
        Column::Failure => text(tenant.failure.as_ref()),
    }
}

/// The state of a tenant, with a note if its file has errors.
fn state_text(tenant: &TenantSummary) -> String {
    let state = tenant.state_word();
    if tenant.invalid && tenant.state != TenantState::Invalid { format!("{state},invalid") } else { state.to_owned() }
}

fn show_text(tenant: &TenantDetail, services: Option<String>) -> String {
    let summary = &tenant.summary;
    let state = match &tenant.suspend_reason {
        Some(reason) => format!("{} ({reason})", state_text(summary)),
        None => state_text(summary),
    };
    let doors = match tenant.suspended_doors.join(", ") {
        none if none.is_empty() => tenant.doors.join(", "),
        some => format!("{}; read-only while suspended: {some}", tenant.doors.join(", ")),
    };
    let init = match tenant.init_version {
        Some(version) if version < VERSION => {
            format!("protocol version {version}; the newest is {VERSION}: restart the jail to upgrade")
        }
        version => text(version.map(|version| format!("protocol version {version}"))),
    };
    let mut rows = vec![
        ("name", summary.name.to_string()),
        ("state", state),
        ("plan", text(summary.plan.as_ref())),
        ("image", text(summary.image.as_ref())),
        ("profile", text(summary.profile)),
        ("pid", text(tenant.pid)),
        ("init", init),
        ("ids", text(tenant.ids.map(|ids| format!("{}, {} of them", ids.first, ids.count)))),
        ("login", text(tenant.login.as_ref())),
        ("host user", text(tenant.host_user)),
        ("doors", doors),
    ];
    rows.extend(services.map(|services| ("services", services)));
    rows.extend(tenant.host_sockets.iter().map(|(name, socket)| ("host socket", lent_text(name, *socket))));
    rows.extend(tenant.mail.map(|mail| ("mail", mail.to_string())));
    rows.extend((!tenant.contact.is_empty()).then(|| ("contact", contact_text(&tenant.contact))));
    rows.extend(tenant.notices.iter().map(|notice| ("notice", notices::rule_text(notice))));
    rows.extend(summary.failure.as_ref().map(|failure| ("failure", failure.clone())));
    if let Some(MemoryUse { used, cache }) = tenant.memory {
        let (used, cache) = (ByteSize(used).rounded(), ByteSize(cache).rounded());
        rows.push(("memory", format!("{used} in use, {cache} reclaimable cache")));
    }
    rows.extend(tenant.cgroup.iter().map(|(hierarchy, path)| ("cgroup", format!("{hierarchy}: {path}"))));
    let mut out = pairs(rows);
    if !tenant.limits.is_empty() {
        out.push('\n');
        out.push_str(&report::limits_table(&tenant.limits));
    }
    out
}

fn contact_text(contact: &Contact) -> String {
    let mail: Vec<String> = contact.mail.iter().map(ToString::to_string).collect();
    let language = contact.language.map(|language| format!("in {language}"));
    [Some(mail.join(", ")).filter(|mail| !mail.is_empty()), language]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

fn lent_text(name: &HostSocketName, socket: LentSocket) -> String {
    let LentSocket { served, connections, refused } = socket;
    match (served, refused) {
        (false, _) => format!("{name}: not served now"),
        (true, 0) => format!("{name}: {connections} connection(s)"),
        (true, refused) => format!("{name}: {connections} connection(s), {refused} too many were refused"),
    }
}

fn status_text(status: &HostStatus) -> String {
    let tenants: Vec<_> = status.tenants.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let no_tenants = if status.warden.is_some() { "none" } else { "not known" };
    let mut out = pairs([
        ("bailiwickd", format!("{}, up {}", status.version, Period(status.uptime))),
        ("warden", status.warden.clone().unwrap_or_else(|| "does not answer".to_owned())),
        ("tenants", if tenants.is_empty() { no_tenants.to_owned() } else { tenants.join(", ") }),
        ("sessions", status.sessions.to_string()),
        ("problems", if status.problems.is_empty() { "none".to_owned() } else { status.problems.len().to_string() }),
    ]);
    for problem in &status.problems {
        out.push_str(&indented(&output::visible_lines(problem)));
    }
    let policy = &status.policy;
    let named = |names: &[TenantName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if policy.host_is_last_good {
        out.push_str("the last valid version of bailiwick.toml is in force\n");
    }
    if !policy.last_good_plans.is_empty() {
        let plans: Vec<String> = policy.last_good_plans.iter().map(ToString::to_string).collect();
        out.push_str(&format!("the last valid versions of these plans are in force: {}\n", plans.join(", ")));
    }
    if !policy.last_good_tenants.is_empty() {
        let names = named(&policy.last_good_tenants);
        out.push_str(&format!("the last valid versions of these tenants are in force: {names}\n"));
    }
    if !policy.without_policy.is_empty() {
        let names = named(&policy.without_policy);
        out.push_str(&format!("these tenants have no valid version, and their doors are closed: {names}\n"));
    }
    out
}

fn plan_text(changes: &[Change]) -> String {
    render(&["TENANT", "WHAT", "ACTUAL", "DECLARED", "ACTION"], changes.iter().map(plan_row))
}

fn plan_row(change: &Change) -> Vec<String> {
    let Change { tenant, what, actual, declared, action } = change;
    vec![tenant.to_string(), what.clone(), actual.clone(), declared.clone(), word(action)]
}

fn rehearsal_text(changes: &[Change]) -> String {
    let mut lines = String::new();
    for change in changes {
        let would = match change.action {
            Action::Start => "would start",
            Action::Stop => "would stop",
            Action::Restart => "would restart",
            Action::Live => "would change while it runs",
            Action::HostUser => "would change on the host",
            Action::None => "would leave unchanged; needs a manual check",
        };
        let (what, actual, declared) = (visible(&change.what), visible(&change.actual), visible(&change.declared));
        lines.push_str(&format!("{}: {would} ({what}: {actual} -> {declared})\n", change.tenant));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;
    use bailiwick_proto::control::PolicyStatus;
    use bailiwick_types::{
        ByteSize, FrozenBy, HostUid, IdRange, LimitKey, LimitReport, Notice, NoticeLanguage, NoticeResource, Recipient,
        Threshold, Verdict,
    };
    use clap::Parser;
    use std::collections::BTreeMap;

    fn name(text: &str) -> TenantName {
        text.parse().expect("valid")
    }

    fn summary() -> TenantSummary {
        TenantSummary {
            name: name("alice"),
            state: TenantState::Running,
            plan: Some("small".parse().expect("valid")),
            image: Some("host".parse().expect("valid")),
            profile: Some(bailiwick_types::Profile::Web),
            invalid: false,
            failure: None,
            frozen_by: None,
        }
    }

    fn detail() -> TenantDetail {
        TenantDetail {
            summary: summary(),
            suspend_reason: None,
            pid: Some(4711),
            init_version: Some(2),
            ids: Some(IdRange { first: 10_000_000, count: 65_536 }),
            cgroup: BTreeMap::from([("unified".to_owned(), "/bailiwick/alice".to_owned())]),
            login: Some("alice".to_owned()),
            host_user: Some(HostUid(9_934_464)),
            doors: vec!["exec".to_owned(), "ssh".to_owned()],
            suspended_doors: vec!["sftp".to_owned()],
            limits: vec![LimitReport {
                key: LimitKey::Memory,
                declared: ByteSize(1 << 30).into(),
                enforced: Some(ByteSize(1 << 30).into()),
                used: Some(1 << 20),
                peak: None,
                faults: Some(0),
                verdict: Verdict::Enforced,
            }],
            memory: Some(MemoryUse { used: 256 << 10, cache: 768 << 10 }),
            host_sockets: BTreeMap::new(),
            mail: None,
            contact: Contact::default(),
            notices: Vec::new(),
        }
    }

    #[test]
    fn show_json_has_the_documented_keys() {
        let json = serde_json::to_value(detail()).expect("serialises");
        for key in
            ["name", "state", "plan", "image", "profile", "pid", "ids", "cgroup", "host_user", "limits", "memory"]
        {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["ids"], serde_json::json!({"first": 10_000_000, "count": 65_536}));
        assert_eq!(json["limits"][0]["declared"], "1G");
        let down = serde_json::to_value(TenantDetail { pid: None, ..detail() }).expect("serialises");
        assert!(down["pid"].is_null() && down.get("pid").is_some());
    }

    #[test]
    fn list_json_has_five_keys() {
        let json = serde_json::to_value([summary()]).expect("serialises");
        let golden = serde_json::json!([
            {"name": "alice", "state": "running", "plan": "small", "image": "host", "profile": "web"}
        ]);
        assert_eq!(json, golden);
    }

    #[test]
    fn texts_are_aligned() {
        let deleted = TenantSummary {
            name: name("b"),
            state: TenantState::Deleted,
            plan: None,
            image: None,
            profile: None,
            invalid: false,
            failure: None,
            frozen_by: None,
        };
        let golden = "NAME   STATE    PLAN   IMAGE  PROFILE\n\
                      alice  running  small  host   web\n\
                      b      deleted  -      -      -\n";
        assert_eq!(list_text(&[summary(), deleted.clone()], &[]), golden);
        let golden = "NAME   STATE            PLAN   IMAGE  PROFILE  FAILURE\n\
                      alice  running,invalid  small  host   web      -\n\
                      b      invalid          -      -      -        -\n\
                      c      down             small  host   web      no quotas\n";
        let down = TenantSummary {
            name: name("c"),
            state: TenantState::Down,
            failure: Some("no quotas".to_owned()),
            ..summary()
        };
        let frozen = |by| TenantSummary { state: TenantState::Frozen, frozen_by: Some(by), ..summary() };
        for (by, word) in [(FrozenBy::Operator, "frozen"), (FrozenBy::Idle, "frozen (idle)")] {
            assert_eq!(state_text(&frozen(by)), word);
        }
        let unknown = TenantSummary { state: TenantState::Invalid, invalid: true, ..deleted };
        assert_eq!(list_text(&[TenantSummary { invalid: true, ..summary() }, unknown, down.clone()], &[]), golden);
        let lent = LentSocket { served: true, connections: 3, refused: 2 };
        let host_sockets = [("mysql", lent), ("redis", LentSocket::default())];
        let host_sockets = host_sockets.map(|(name, socket)| (name.parse().expect("a name"), socket)).into();
        let shown = show_text(&TenantDetail { host_sockets, ..detail() }, None);
        assert!(shown.contains("host socket  mysql: 3 connection(s), 2 too many were refused\n"), "{shown}");
        assert!(shown.contains("host socket  redis: not served now\n"), "{shown}");
        let (mail, language) = (["a@b.example", "c@d.example"], Some(NoticeLanguage::De));
        let mail = mail.map(|address| address.parse().expect("an address")).into();
        let notice = Notice {
            resource: NoticeResource::Disk,
            at: [Threshold::Percent(80), Threshold::Soft].into(),
            clear: 75,
            to: [Recipient::Tenant, Recipient::Admin].into(),
            repeat: None,
        };
        let shown =
            show_text(&TenantDetail { contact: Contact { mail, language }, notices: vec![notice], ..detail() }, None);
        assert!(shown.contains("contact    a@b.example, c@d.example, in de\n"), "{shown}");
        assert!(shown.contains("notice     disk at 80%, soft to tenant, admin\n"), "{shown}");
        let shown = show_text(&TenantDetail { summary: down, ..detail() }, None);
        assert!(shown.contains("failure    no quotas\n"), "{shown}");
        let shown = show_text(
            &TenantDetail { suspend_reason: Some("unpaid\u{7}".to_owned()), ..detail() },
            Some("php running".to_owned()),
        );
        assert!(shown.contains("state      running (unpaid\\u{7})\n"), "{shown}");
        assert!(shown.contains("cgroup     unified: /bailiwick/alice\n"), "{shown}");
        assert!(shown.contains("\nservices   php running\n"), "{shown}");
        assert!(shown.contains("doors      exec, ssh; read-only while suspended: sftp\n"), "{shown}");
        let golden = "memory     256.0K in use, 768.0K reclaimable cache\n";
        assert!(shown.contains(golden), "{shown}");
    }

    #[test]
    fn a_list_is_selected_sorted_and_cut_to_columns() {
        let parse = |line: &str| {
            let words = ["bailiwick", "list"].into_iter().chain(line.split_whitespace());
            match crate::arguments::Arguments::try_parse_from(words).map(|arguments| arguments.command) {
                Ok(crate::arguments::Command::List { selection, .. }) => Ok(selection),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error.to_string()),
            }
        };
        let of = |text: &str, state, plan: &str| TenantSummary {
            name: name(text),
            state,
            plan: Some(plan.parse().expect("a plan")),
            ..summary()
        };
        let all = vec![
            of("alice", TenantState::Running, "small"),
            of("bob", TenantState::Down, "large"),
            TenantSummary { invalid: true, ..of("carol", TenantState::Running, "large") },
        ];
        for (line, names) in [
            ("", "alice bob carol"),
            ("--state down,asleep", "bob"),
            ("--state invalid", "carol"),
            ("--plan large", "bob carol"),
            ("--plan large --state running", "carol"),
            ("--sort plan", "bob carol alice"),
            ("--sort name --reverse", "carol bob alice"),
        ] {
            let shown = selected(all.clone(), &parse(line).expect(line));
            assert_eq!(
                shown.iter().map(|tenant| tenant.name.to_string()).collect::<Vec<_>>().join(" "),
                names,
                "{line}"
            );
        }
        let columns = parse("--columns plan,name").expect("columns").columns;
        assert_eq!(list_text(&all[..1], &columns), "PLAN   NAME\nsmall  alice\n");
        assert!(parse("--state ill").expect_err("no state").contains("running, frozen"));
        assert!(parse("--columns age").is_err() && parse("--columns name --json").is_err());
    }

    #[test]
    fn status_shows_problems() {
        let status = HostStatus {
            version: "0.1.0".to_owned(),
            warden: None,
            uptime: 3661,
            tenants: BTreeMap::new(),
            problems: vec!["tenants.d/x.toml:1:1: bad\u{1b}".to_owned()],
            months: BTreeMap::new(),
            reserve: None,
            web: None,
            sessions: 3,
            policy: Box::new(PolicyStatus { last_good_tenants: vec![name("x")], ..PolicyStatus::default() }),
        };
        let golden = "bailiwickd  0.1.0, up 1h1m1s\n\
                      warden      does not answer\n\
                      tenants     not known\n\
                      sessions    3\n\
                      problems    1\n  tenants.d/x.toml:1:1: bad\\u{1b}\n\
                      the last valid versions of these tenants are in force: x\n";
        assert_eq!(status_text(&status), golden);
        let tenants = BTreeMap::from([("running".to_owned(), 2), ("suspended".to_owned(), 1)]);
        let there = HostStatus { warden: Some("0.1.0".to_owned()), tenants, ..status.clone() };
        let text = status_text(&there);
        assert!(text.contains("warden      0.1.0\ntenants     2 running, 1 suspended\n"), "{text}");
        let temp = tempfile::tempdir().expect("temporary directory");
        let answers = [status, there].map(|status| vec![ControlReply::Status(status)]);
        let (daemon, served) = fake(temp.path(), answers.to_vec());
        assert_eq!(
            super::status(&daemon, Path::new("/nonexistent"), Form::Text),
            Ok(ExitStatus::Failed),
            "the warden does not answer"
        );
        assert_eq!(super::status(&daemon, Path::new("/nonexistent"), Form::Text), Ok(ExitStatus::Done));
        served.join().expect("served");
    }

    #[test]
    fn plan_reports_drift_in_its_exit_status() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let change = Change {
            tenant: name("alice"),
            what: "limits.memory".to_owned(),
            actual: "1G".to_owned(),
            declared: "2G".to_owned(),
            action: Action::Live,
        };
        let golden = "TENANT  WHAT           ACTUAL  DECLARED  ACTION\n\
                      alice   limits.memory  1G      2G        live\n";
        assert_eq!(plan_text(std::slice::from_ref(&change)), golden);
        let golden = "alice: would change while it runs (limits.memory: 1G -> 2G)\n";
        assert_eq!(rehearsal_text(std::slice::from_ref(&change)), golden);
        let answers = [vec![change], Vec::new()].map(|changes| vec![ControlReply::Plan(changes)]);
        let (daemon, served) = fake(temp.path(), answers.to_vec());
        assert_eq!(plan(&daemon, Vec::new(), Form::Text), Ok(ExitStatus::Finding));
        assert_eq!(plan(&daemon, vec![name("alice")], Form::Text), Ok(ExitStatus::Done));
        let asked = served.join().expect("served");
        assert_eq!(asked[1], ControlRequest::Plan { tenants: vec![name("alice")] });
    }
}
