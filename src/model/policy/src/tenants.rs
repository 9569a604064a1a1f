//! Reads and writes the files of `tenants.d`: each tenant on top of its plan.

use crate::diagnostic::{Diagnostic, Problem};
use crate::folder::Folder;
use crate::model::{Declared, FtpLogin, Host, Login, Settings, Tenant, Timer};
use crate::plans::{Found, Plans};
use crate::reader::{Report, Section, Table, line, number, parsed, parsed_name, text};
use crate::source::Source;
use crate::{items, links, mail, network, notices, services, settings, sleep, sshkey, unserved};
use bailiwick_types::{CRONTAB_JOB, Door, NetworkMode, NotHash, PasswordHash, PlanName, TenantName, TimerName, When};
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::DeValue;

const TOP: Section = Section {
    title: "at the top of the file",
    keys: &[
        "plan",
        "state",
        "suspend_reason",
        "image",
        "profile",
        "nesting",
        "doors",
        "suspended_doors",
        "inherit_services",
        "inherit_notices",
        "host_sockets",
        "limits",
        "sleep",
        "mail",
        "network",
        "login",
        "service",
        "timer",
        "ftp",
        "link",
        "notice",
        "contact",
    ],
};
const LOGIN: Section = Section { title: "below [login]", keys: &["user", "ssh_keys"] };
const TIMER: Section = Section { title: "below [[timer]]", keys: &["name", "schedule", "command"] };
const FTP: Section = Section { title: "below [[ftp]]", keys: &["name", "password", "directory", "sessions"] };
const SECTIONS: &[Section] = &[
    TOP,
    settings::LIMITS,
    sleep::SLEEP,
    mail::MAIL,
    LOGIN,
    services::SERVICE,
    services::SOCKET,
    services::STOP,
    services::LOG,
    services::LIMITS,
    TIMER,
    FTP,
    network::NETWORK,
    network::ALLOW,
    network::PUBLISH,
    network::MONTH,
    links::LINK,
    notices::NOTICE,
    notices::CONTACT,
];
/// The sections of a tenant's file, each with its title in messages and its keys.
pub fn keys() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    SECTIONS.iter().map(|section| (section.title, section.keys))
}

/// The most FTP logins of a tenant.
const MAX_FTP: usize = 256;

/// The result of a file with errors.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The problems of the file.
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) taken: Taken,
}

/// What a file with an error takes from its tenant all the same, because somebody wrote it and it only takes rights away.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The suspension that the file declares, if it could be read.
    pub(crate) suspended: Option<Declared>,
    /// The doors that the file leaves open, if it has no other error than words that nothing serves.
    pub(crate) doors: Option<BTreeSet<Door>>,
}

/// Reads the tenant of a file. Returns `None` when only its plan has problems, which `plans` reports.
pub(crate) fn read<F: Folder>(
    source: &Source,
    name: &TenantName,
    plans: &mut Plans<'_, F>,
) -> Result<Option<Tenant>, Broken> {
    let mut report = Report::new(source);
    let (mut tenant, mut doors) = (None, None);
    let state = if let Some(entries) = report.parse() {
        let top = Table::new(&mut report, &entries, &TOP, SECTIONS);
        let state = read_state(&mut report, &top);
        let read = read_top(&mut report, &top, state.clone(), name, plans);
        if let (Some((read, inherited)), Some(host)) = (&read, plans.host()) {
            // A setting that could not be read would make others look useless.
            if report.is_clean() {
                doors = Some(read.settings.doors.clone());
                report_unserved(&mut report, read, inherited, host);
            }
        }
        tenant = read.map(|(read, _)| read);
        state
    } else {
        // The problems of the file are reported already.
        let mut ignored = Report::new(source);
        let entries = report.recovered();
        let top = Table::new(&mut ignored, &entries, &TOP, SECTIONS);
        read_state(&mut ignored, &top)
    };
    let suspended = Some(state).filter(|state| *state != Declared::Active);
    let taken = Taken { suspended, doors };
    if report.is_clean() { Ok(tenant) } else { Err(Broken { diagnostics: report.finish(), taken }) }
}

/// Reports the words of a tenant that nothing serves. Those of its plan are reported there.
fn report_unserved(report: &mut Report<'_>, tenant: &Tenant, inherited: &Settings, host: &Host) {
    let of_plan = unserved::of_settings(inherited, host);
    let own = unserved::of_settings(&tenant.settings, host).into_iter().filter(|found| !of_plan.contains(found));
    for (place, problem) in own.chain(unserved::of_tenant(tenant)).chain(notices::of_tenant(tenant, inherited)) {
        report.error_at(&place, problem);
    }
}

/// Reads the tenant, and what it inherits.
fn read_top<F: Folder>(
    report: &mut Report<'_>,
    top: &Table<'_, '_>,
    state: Declared,
    name: &TenantName,
    plans: &mut Plans<'_, F>,
) -> Option<(Tenant, Settings)> {
    let login = read_login(report, top, name);
    let declared = settings::Declared::read(report, top, SECTIONS, Some(&login.user));
    let mut names = BTreeSet::new();
    let timers = items::tables(report, top, "timer", &TIMER, |report, item| read_timer(report, item, &mut names));
    let mut names = BTreeSet::new();
    let ftp = items::tables(report, top, "ftp", &FTP, |report, item| read_ftp(report, item, &mut names));
    if let Some(list) = top.get("ftp").filter(|_| ftp.len() > MAX_FTP) {
        report.error(list.span(), || Problem::new(format!("more than {MAX_FTP} logins for FTP")));
    }
    let links = links::read(report, top, SECTIONS, name);
    let contact = notices::read_contact(report, top, SECTIONS);
    if top.get("plan").is_none() {
        report.error(0..0, || {
            Problem::new("no plan: every tenant has one").hint("start the file with a line such as plan = \"small\"")
        });
    }
    let plan: Spanned<PlanName> = top.read(report, "plan", parsed)?;
    let inherited: Settings = match plans.find(plan.get_ref()) {
        Found::Good(inherited) => inherited.clone(),
        Found::Bad => return None,
        Found::Missing(problem) => {
            report.error(plan.span(), || problem);
            return None;
        }
    };
    let settings = declared.apply(report, &inherited);
    if let Some(problem) = settings.mail.and_then(|_| mail::taken(name)) {
        report.error(top.get("mail").map_or_else(|| plan.span(), Spanned::span), || problem);
    }
    let publishes = settings.network.mode == NetworkMode::Published;
    if publishes && settings.network.publish.is_empty() && report.is_clean() {
        report.error(top.get("network").map_or_else(|| plan.span(), Spanned::span), network::nothing_published);
    }
    let has_network = settings.network.mode != NetworkMode::None;
    if let Some(list) = top.get("link").filter(|_| !links.is_empty() && !has_network && report.is_clean()) {
        report.error(list.span(), links::without_network);
    }
    let (name, plan) = (name.clone(), plan.into_inner());
    let tenant = Tenant { name, plan, state, settings, login, timers, ftp, contact, links };
    Some((tenant, inherited))
}

fn read_state(report: &mut Report<'_>, top: &Table<'_, '_>) -> Declared {
    let suspended = top.read(report, "state", |value| match text(value)? {
        "active" => Ok(false),
        "suspended" => Ok(true),
        other => Err(Problem::new(format!("unknown state {other:?}")).hint("\"active\" or \"suspended\"")),
    });
    let reason = top.read(report, "suspend_reason", line);
    // With a state that cannot be read, the reason may be right.
    let unreadable = top.get("state").is_some() && suspended.is_none();
    match (suspended.is_some_and(Spanned::into_inner), reason) {
        (true, reason) => Declared::Suspended { reason: reason.map(Spanned::into_inner) },
        (false, Some(reason)) if !unreadable => {
            report.error(reason.span(), || {
                Problem::new("a reason to suspend, but the tenant is not suspended")
                    .hint("add state = \"suspended\", or remove this line")
            });
            Declared::Active
        }
        (false, _) => Declared::Active,
    }
}

fn read_login(report: &mut Report<'_>, top: &Table<'_, '_>, name: &TenantName) -> Login {
    let table = top.table(report, "login", &LOGIN, SECTIONS);
    let user = table
        .as_ref()
        .and_then(|table| table.read(report, "user", |value| parsed_name(value, "choose another name")))
        .map(Spanned::into_inner);
    let keys = table.and_then(|table| table.list(report, "ssh_keys", |value| sshkey::parse(text(value)?)));
    Login {
        user: user.unwrap_or_else(|| name.as_str().parse().expect("a tenant's name is a login name")),
        ssh_keys: keys.map(Spanned::into_inner).unwrap_or_default().into_iter().map(Spanned::into_inner).collect(),
    }
}

fn read_timer(report: &mut Report<'_>, entry: &Spanned<DeValue<'_>>, names: &mut BTreeSet<TimerName>) -> Option<Timer> {
    let table = items::table(report, entry, "timer", &TIMER, SECTIONS, 3)?;
    let name = items::name(report, &table, "timer", names, timer_name);
    let command = items::command(report, &table);
    let schedule: Option<Spanned<When>> = table.read(report, "schedule", parsed);
    Some(Timer { name: name?.into_inner(), schedule: schedule?.into_inner(), command: command? })
}

fn read_ftp(
    report: &mut Report<'_>,
    entry: &Spanned<DeValue<'_>>,
    names: &mut BTreeSet<bailiwick_types::FtpName>,
) -> Option<FtpLogin> {
    let table = items::table(report, entry, "ftp login", &FTP, SECTIONS, 2)?;
    let name = items::name(report, &table, "ftp login", names, parsed);
    let password = table.read(report, "password", password);
    let has_directory = table.get("directory").is_some();
    let directory = table.read(report, "directory", items::below_home);
    let has_sessions = table.get("sessions").is_some();
    let sessions = table.read(report, "sessions", |value| match number(value)? {
        0 => Err(Problem::new("no session at all").hint("take the whole [[ftp]] out to close it")),
        most => Ok(most),
    });
    let whole = (!has_directory || directory.is_some()) && (!has_sessions || sessions.is_some());
    Some(FtpLogin {
        name: name?.into_inner(),
        password: password?.into_inner(),
        directory: directory.map(Spanned::into_inner).unwrap_or_default(),
        sessions: sessions.map(Spanned::into_inner),
    })
    .filter(|_| whole)
}

/// Reads the hash of a password. A problem does not quote it, because it may be a password.
fn password(value: &DeValue<'_>) -> Result<PasswordHash, Problem> {
    text(value)?.parse().map_err(|error: NotHash| {
        Problem::new(error.to_string()).hint("`bailiwick password` makes one; a password itself must never stand here")
    })
}

fn timer_name(value: &DeValue<'_>) -> Result<TimerName, Problem> {
    let name: TimerName = parsed(value)?;
    if name.as_str().starts_with(CRONTAB_JOB) {
        return Err(Problem::new(format!("a timer must not be called \"{name}\""))
            .hint("names that begin so are those of lines of the tenant's own crontab"));
    }
    Ok(name)
}

/// Writes a tenant as a file with every setting. Reading it gives the same tenant, whatever its plan says.
pub(crate) fn write(tenant: &Tenant) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |items: &[String]| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
    let (top, tables) = settings::write(&tenant.settings);
    let mut text = format!("plan = \"{}\"\n", tenant.plan);
    match &tenant.state {
        Declared::Active => text.push_str("state = \"active\"\n"),
        Declared::Suspended { reason } => {
            text.push_str("state = \"suspended\"\n");
            if let Some(reason) = reason {
                text.push_str(&format!("suspend_reason = {}\n", quoted(reason)));
            }
        }
    }
    text.push_str(&top);
    text.push_str(&tables);
    let Login { user, ssh_keys } = &tenant.login;
    text.push_str(&format!("\n[login]\nuser = \"{user}\"\nssh_keys = [{}]\n", list(ssh_keys)));
    for Timer { name, schedule, command } in &tenant.timers {
        let schedule = quoted(&schedule.to_string());
        let command = list(command);
        text.push_str(&format!("\n[[timer]]\nname = \"{name}\"\nschedule = {schedule}\ncommand = [{command}]\n"));
    }
    for FtpLogin { name, password, directory, sessions } in &tenant.ftp {
        text.push_str(&format!("\n[[ftp]]\nname = \"{name}\"\npassword = \"{}\"\n", password.as_str()));
        if !directory.is_empty() {
            text.push_str(&format!("directory = {}\n", quoted(directory)));
        }
        if let Some(sessions) = sessions {
            text.push_str(&format!("sessions = {sessions}\n"));
        }
    }
    text + &links::write(&tenant.links) + &notices::write_contact(&tenant.contact)
}
