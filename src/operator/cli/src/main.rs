//! Floor 7: `bailiwick`, the command line. Arguments, wiring and the exit status.

mod arguments;
mod before;
mod change;
mod complete;
mod configuration;
mod edit;
mod events;
mod explain;
mod generate;
mod inspect;
mod limit_probe;
mod logs;
mod metrics;
mod network;
mod notices;
mod origin;
mod output;
mod password;
mod recorded;
mod report;
mod reporting;
mod service;
mod sessions;
mod setup;
mod simulation;
mod style;
mod support;
mod table;
mod tenant;
mod top;
mod usage;
mod web;
mod why;
mod window;

use arguments::{Arguments, Command, EnterCommand, Generate, SessionCommand, SessionOptions, WindowOptions};
use bailiwick_client::{Daemon, SessionSpec, StreamKind, exec_failure};
use bailiwick_declare::{ConfigFile, StateChange};
use bailiwick_metrics::Format as MetricsFormat;
use bailiwick_proto::control::Depth;
use bailiwick_proto::control::Verb;
use bailiwick_proto::{ControlRequest, Failure};
use bailiwick_types::{ExitStatus, TenantName};
use before::Hooks;
use edit::Then;
use output::Form;
use report::AuditForm;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use style::Style;
use tenant::Data;

fn main() -> ExitCode {
    let Arguments { options, command } = match Arguments::of_process() {
        Ok(arguments) => arguments,
        Err(message) => {
            // Help and version are no errors. A failure to print cannot be reported anywhere.
            message.print().ok();
            if let Some(tip) = arguments::tip(&std::env::args_os().collect::<Vec<_>>(), message.kind()) {
                output::complain(tip);
            }
            return if message.use_stderr() { ExitStatus::Invalid } else { ExitStatus::Done }.into();
        }
    };
    style::set(Style { color: options.color, no_pager: options.no_pager });
    match run(&options.config, command) {
        Ok(status) => status.into(),
        Err(failure) => {
            output::complain(&failure.message);
            failure.status.into()
        }
    }
}

/// Runs a command and returns its exit status: a number, because `exec` and `shell` return that of the command in the jail.
fn run(config: &Path, command: Command) -> Result<u8, Failure> {
    let daemon = || configuration::daemon(config);
    let status = match command {
        Command::Enter(EnterCommand::Exec { tenant, options, tty, argv }) => {
            let kind = if tty { StreamKind::Terminal } else { StreamKind::Pipes };
            return run_session(daemon(), tenant, options, kind, argv);
        }
        Command::Enter(EnterCommand::Shell { tenant, options }) => {
            // Without a terminal the login shell reads its commands from standard input.
            let kind = if bailiwick_client::stdin_is_terminal() { StreamKind::Terminal } else { StreamKind::Pipes };
            return run_session(daemon(), tenant, options, kind, Vec::new());
        }
        Command::Check { format } => configuration::check(config, format.into())?,
        Command::Dump { output } => done(configuration::dump(config, output.as_deref()))?,
        Command::Password => done(password::hash_password())?,
        Command::Keys { tenant } => done(configuration::keys(config, &tenant))?,
        Command::Doctor { repair_ledger: true, .. } => return report::repair_ledger(config),
        Command::Doctor { probe, format, .. } => {
            let depth = if probe { Depth::Probe } else { Depth::Read };
            report::doctor(config, depth, format.into())?
        }
        Command::Setup(options) => {
            let form = options.format.into();
            setup::run(config, options, form)?
        }
        Command::Pool { what } => setup::pool(config, what)?,
        Command::Plan { tenants, simulate: Some(file), since, format } => {
            let window = window::between(&WindowOptions { since, until: None })?;
            done(simulation::simulate(&daemon()?, config, &file, tenants.tenants, window, format.into()))?
        }
        Command::Plan { tenants, simulate: None, format, .. } => {
            let status = inspect::plan(&daemon()?, tenants.tenants.clone(), format.into())?;
            configuration::report_problems(config, &tenants.tenants, status)
        }
        Command::Apply { tenants, dry_run: true, format, .. } => {
            inspect::rehearse(&daemon()?, tenants.tenants.clone(), format.into())?;
            configuration::report_problems(config, &tenants.tenants, ExitStatus::Done)
        }
        Command::Apply { tenants, now, restart, format, .. } => {
            let status = change::apply(&daemon()?, tenants.tenants.clone(), now, restart, format.into())?;
            configuration::report_problems(config, &tenants.tenants, status)
        }
        Command::Sessions { what: Some(SessionCommand::Kill(options)), .. } => sessions::kill(&daemon()?, options)?,
        Command::Sessions { tenants, format, what: None } => {
            done(sessions::list(&daemon()?, tenants.tenants, format.into()))?
        }
        Command::Timers { tenants, format } => done(sessions::timers(&daemon()?, tenants.tenants, format.into()))?,
        Command::Service { what } => done(service::run(&daemon()?, what))?,
        Command::Logs(options) => done(logs::run(&daemon()?, config, options))?,
        Command::Network { tenant, connections, format } => {
            done(network::run(&daemon()?, ControlRequest::Network { tenant, connections }, format.into()))?
        }
        Command::List { selection, format } => done(inspect::list(&daemon()?, &selection, format.into()))?,
        Command::Explain { word, format } => done(explain::run(&word, format.into()))?,
        Command::Why(options) => why::run(&daemon()?, config, &options)?,
        Command::Show { tenant, explain: true, format } => done(origin::explain(config, &tenant, format.into()))?,
        Command::Show { tenant, format, .. } => done(inspect::show(&daemon()?, tenant, format.into()))?,
        Command::Status { format } => inspect::status(&daemon()?, config, format.into())?,
        Command::Start { tenants, format } => lifecycle(config, Verb::Start, tenants.tenants, format.into())?,
        Command::Stop { tenants, format } => lifecycle(config, Verb::Stop, tenants.tenants, format.into())?,
        Command::Restart { tenants, format } => lifecycle(config, Verb::Restart, tenants.tenants, format.into())?,
        Command::Freeze { tenants, format } => lifecycle(config, Verb::Freeze, tenants.tenants, format.into())?,
        Command::Thaw { tenants, format } => lifecycle(config, Verb::Thaw, tenants.tenants, format.into())?,
        Command::Sleep { tenants, format } => lifecycle(config, Verb::Sleep, tenants.tenants, format.into())?,
        Command::Wake { tenants, format } => lifecycle(config, Verb::Wake, tenants.tenants, format.into())?,
        Command::Suspend { tenants, reason, hooks, format } => {
            let change = StateChange::Suspend { reason };
            tenant::set_state(config, &tenants.tenants, &change, hooks.into(), format.into())?
        }
        Command::Unsuspend { tenants, format } => {
            tenant::set_state(config, &tenants.tenants, &StateChange::Activate, Hooks::Skip, format.into())?
        }
        Command::Create { name, options, hooks, format } => {
            tenant::create(config, name, options.into(), hooks.into(), format.into())?
        }
        Command::Set { tenant, changes, unset, dry_run, no_apply, format } => {
            let then = if dry_run { Then::Nothing } else { Then::of(no_apply) };
            edit::set(config, tenant, &changes, &unset, then, format.into())?
        }
        Command::Edit { tenant, plan, no_apply, format, .. } => {
            let file = match (tenant, plan) {
                (Some(tenant), _) => ConfigFile::Tenant(tenant),
                (None, Some(plan)) => ConfigFile::Plan(plan),
                (None, None) => ConfigFile::Host,
            };
            edit::edit(config, &file, Then::of(no_apply), format.into())?
        }
        Command::Delete { name, purge, hooks, format } => {
            let data = if purge { Data::Destroy } else { Data::Keep };
            tenant::delete(config, &name, data, hooks.into(), format.into())?
        }
        Command::Audit { verify: true, mark, format, .. } => report::verify(&daemon()?, mark, format.into())?,
        Command::Audit { tenants, csv, probe, html, since, format, .. } => {
            let depth = if probe { Depth::Probe } else { Depth::Read };
            let form = match html {
                Some(file) => {
                    let window = window::between(&WindowOptions { since, until: None })?;
                    AuditForm::Page { file, window }
                }
                None if csv => AuditForm::Csv,
                None => AuditForm::Plain(format.into()),
            };
            let status = report::audit(&daemon()?, tenants.tenants.clone(), depth, form)?;
            configuration::report_problems(config, &tenants.tenants, status)
        }
        Command::Report(options) => done(reporting::run(&daemon()?, options))?,
        Command::Usage { tenants, window, now, by, threshold, format } => {
            let window = if now { None } else { Some(window::between(&window)?) };
            let selection = usage::Selection { by, threshold };
            done(recorded::usage(&daemon()?, tenants.tenants, window, selection, format.into()))?
        }
        Command::History { tenant, window, step, format } => {
            done(recorded::history(&daemon()?, tenant, window::between(&window)?, step, format.into()))?
        }
        Command::Top { by } => done(recorded::top(&daemon()?, by))?,
        Command::Faults { tenants, window, format } => {
            done(recorded::faults(&daemon()?, tenants.tenants, window::between(&window)?, format.into()))?
        }
        Command::Incidents { show: Some(id), format, .. } => done(recorded::incident(&daemon()?, id, format.into()))?,
        Command::Incidents { tenants, window, show: None, format } => {
            done(recorded::incidents(&daemon()?, tenants.tenants, window::between(&window)?, format.into()))?
        }
        Command::Metrics { textfile: Some(file), tenants, .. } => done(metrics::write(&daemon()?, tenants, &file))?,
        Command::Metrics { textfile: None, tenants, openmetrics } => {
            let format = if openmetrics { MetricsFormat::OpenMetrics } else { MetricsFormat::Classic };
            done(metrics::print(&daemon()?, tenants, format))?
        }
        Command::RefusedRequests { socket } => done(web::refused::run(&socket, std::io::stdin().lock()))?,
        Command::Complete { words } => {
            let names: String = complete::names(config, &words).into_iter().map(|name| name + "\n").collect();
            done(output::print(&names))?
        }
        Command::SupportBundle { output, format } => support::run(config, output, format.into())?,
        Command::Events(options) => done(events::run(&daemon()?, options))?,
        Command::Notices { what } => notices::run(config, what)?,
        Command::Web { server, tenant, write, upload, format } => {
            web::run(config, server, tenant.as_ref(), write.as_deref(), upload, format.into())?
        }
        Command::Reload { format } => change::reload(&daemon()?, format.into())?,
        Command::Generate { what: Generate::Man { output } } => done(generate::man(&output))?,
        Command::Generate { what: Generate::Schema } => done(output::print(generate::AUDIT_SCHEMA))?,
        Command::Generate { what: Generate::Completions { shell } } => done(generate::completions(shell))?,
    };
    Ok(status.code())
}

fn lifecycle(config: &Path, verb: Verb, tenants: Vec<TenantName>, form: Form) -> Result<ExitStatus, Failure> {
    let status = change::lifecycle(&configuration::daemon(config)?, verb, tenants.clone(), form)?;
    // The other verbs do not use the configuration of the tenants.
    let uses_policy = matches!(verb, Verb::Start | Verb::Restart | Verb::Wake);
    Ok(if uses_policy { configuration::report_problems(config, &tenants, status) } else { status })
}

/// Runs a session and returns the exit status of its command.
fn run_session(
    daemon: Result<Daemon, Failure>,
    tenant: TenantName,
    options: SessionOptions,
    kind: StreamKind,
    argv: Vec<OsString>,
) -> Result<u8, Failure> {
    let SessionOptions { user, env, cwd } = options;
    let caller = bailiwick_client::Caller::Operator { tenant, user, cwd, argv };
    bailiwick_client::run(&daemon.map_err(exec_failure)?, SessionSpec { caller, env, streams: kind })
}

fn done(result: Result<(), Failure>) -> Result<ExitStatus, Failure> {
    result.map(|()| ExitStatus::Done)
}
