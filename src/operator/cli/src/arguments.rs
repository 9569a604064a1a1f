//! The one definition of the command line. The parser, the help, the man pages and the completions are made from it.

mod options;
mod setup;

pub(crate) use options::{
    Column, Format, HookOptions, ListOptions, NewTenantOptions, OptionalTenants, RequiredTenants, SessionOptions,
    WindowOptions,
};
pub(crate) use setup::{PoolCommand, SetupOptions};

use crate::style::Color;
use crate::usage::Threshold;
use crate::web::WebServer;
use bailiwick_types::{
    ByteSize, Door, EventTypes, Measure, MetricsDetail, Period, PlanName, ServiceName, TenantName, UnitName,
};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

const EXIT_STATUS: &str = "\
Exit status: 0 success, 1 failure, 2 wrong usage or invalid configuration, 3 not found, 4 already exists or conflicts, \
5 refused by policy or state, 6 over a limit, 7 partial success, 8 not supported by this host. plan and audit: 10 when \
there is drift or a finding. exec and shell: the exit status of the command, 128+N for signal N, 126 cannot execute, \
127 not found, 125 when bailiwick itself failed.";

/// Sandboxes for the customers of a shared host
#[derive(Debug, Parser)]
#[command(name = "bailiwick", version, arg_required_else_help = false, after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) options: CommonOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command lines that enter a jail, as [`Arguments`] understands them. Making the definition of all other commands too
/// takes longer than everything else that such a command does.
#[derive(Debug, Parser)]
#[command(name = "bailiwick")]
struct EnterArguments {
    #[command(flatten)]
    options: CommonOptions,
    #[command(subcommand)]
    command: EnterCommand,
}

impl Arguments {
    /// Parses the command line of this process.
    pub(crate) fn of_process() -> Result<Self, clap::Error> {
        Self::of(&std::env::args_os().collect::<Vec<_>>())
    }

    /// Parses a command line, which begins with the name of the program.
    fn of(words: &[OsString]) -> Result<Self, clap::Error> {
        let enters = words.iter().any(|word| word == "exec" || word == "shell");
        // The whole definition explains whatever the small one refuses.
        if let Some(EnterArguments { options, command }) =
            enters.then(|| EnterArguments::try_parse_from(words).ok()).flatten()
        {
            return Ok(Self { options, command: Command::Enter(command) });
        }
        Self::try_parse_from(words)
    }
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct CommonOptions {
    /// Configuration directory
    #[arg(long, global = true, value_name = "DIR", default_value = "/etc/bailiwick")]
    pub(crate) config: PathBuf,
    /// When to colour the output
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
    /// Do not show what is longer than the screen in $PAGER
    #[arg(long, global = true)]
    pub(crate) no_pager: bool,
}

/// A command that enters a jail.
#[derive(Debug, Subcommand)]
pub(crate) enum EnterCommand {
    /// Run a command in a jail and return its exit status
    ///
    /// SIGHUP, SIGINT, SIGQUIT and SIGTERM are forwarded to the command. A second SIGINT or SIGTERM ends the session as
    /// `sessions kill` does, within two seconds, even if the command ignores signals.
    Exec {
        /// Name of the tenant
        tenant: TenantName,
        #[command(flatten)]
        options: SessionOptions,
        /// Allocate a terminal for the command
        #[arg(long, short)]
        tty: bool,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "ARGV")]
        argv: Vec<OsString>,
    },
    /// Log in to a jail
    Shell {
        /// Name of the tenant
        tenant: TenantName,
        #[command(flatten)]
        options: SessionOptions,
    },
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Validate all configuration files and print every problem; changes nothing. Fails for errors, and not for warnings
    Check {
        #[command(flatten)]
        format: Format,
    },
    /// Print the effective configuration, with all default and inherited values
    Dump {
        /// Write the files to this directory, which must be empty or must not exist
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Show which features this host can enforce, and how to fix what it cannot
    Doctor {
        /// Also test each limit with a temporary tenant (requires root; takes about half a minute)
        #[arg(long)]
        probe: bool,
        /// Rebuild a missing or damaged id ledger from the records of running jails and from storage, and print what is
        /// uncertain (requires root; the service must be stopped)
        #[arg(long, conflicts_with_all = ["probe", "json"])]
        repair_ledger: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Make this host ready for its first tenant: a disk with limits, units, doors
    ///
    /// Prints the plan, asks, and carries it out. A run that was killed goes on where it was. A second run changes nothing.
    /// What a step replaces is kept in /var/lib/bailiwick-setup.
    Setup(SetupOptions),
    /// Show or grow the disk of the tenants
    Pool {
        #[command(subcommand)]
        what: PoolCommand,
    },
    /// Show the differences between the declared and the actual state
    Plan {
        #[command(flatten)]
        tenants: OptionalTenants,
        /// Simulate a plan file: show how often its tenants, or the named ones, would have reached its limits
        #[arg(long, value_name = "FILE")]
        simulate: Option<PathBuf>,
        /// With --simulate: start of the history to use
        #[arg(long, value_name = "WHEN", default_value = "7d", requires = "simulate")]
        since: String,
        #[command(flatten)]
        format: Format,
    },
    /// Reload the configuration, then start, stop and change jails to match it
    Apply {
        #[command(flatten)]
        tenants: OptionalTenants,
        /// Print what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Also end sessions that are no longer allowed, because their key, door or tenant was removed
        #[arg(long, conflicts_with = "dry_run")]
        now: bool,
        /// Also restart jails with open sessions where a change requires it
        #[arg(long, conflicts_with = "dry_run")]
        restart: bool,
        #[command(flatten)]
        format: Format,
    },
    /// List tenants
    List {
        #[command(flatten)]
        selection: ListOptions,
        #[command(flatten)]
        format: Format,
    },
    /// Show one tenant
    Show {
        /// Name of the tenant
        tenant: TenantName,
        /// Show for every setting where it comes from, and what it means; asks no service
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Show the state of the service
    Status {
        #[command(flatten)]
        format: Format,
    },
    #[command(flatten)]
    Enter(EnterCommand),
    /// List open sessions
    Sessions {
        #[command(flatten)]
        tenants: OptionalTenants,
        #[command(flatten)]
        format: Format,
        #[command(subcommand)]
        what: Option<SessionCommand>,
    },
    /// List timers, with their next run and last result
    Timers {
        #[command(flatten)]
        tenants: OptionalTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Manage the long-running programs of tenants
    Service {
        #[command(subcommand)]
        what: ServiceCommand,
    },
    /// Print what the services of a tenant wrote
    Logs(LogOptions),
    /// Show the network of a tenant: addresses, traffic, and what was refused
    Network {
        /// Name of the tenant
        tenant: TenantName,
        /// Also list its open connections
        #[arg(long)]
        connections: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Start jails
    Start {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Stop jails; they stay stopped until `start`
    Stop {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Stop jails and start them again
    Restart {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Suspend tenants: end their processes and close their doors, but keep their data
    ///
    /// Doors listed in `suspended_doors` of the tenant or its plan stay open for reading: the jail is restarted with all its
    /// storage read-only. `unsuspend` restarts it as before.
    Suspend {
        #[command(flatten)]
        tenants: RequiredTenants,
        /// Reason, for the record and for the tenant
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        hooks: HookOptions,
        #[command(flatten)]
        format: Format,
    },
    /// Let suspended tenants run again
    Unsuspend {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Pause all processes of jails until `thaw`, or until the jail or the host restarts
    Freeze {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Resume the processes of frozen jails
    Thaw {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// End idle jails now, until something wakes them: a connection, a login, a due timer or `wake`
    ///
    /// Only tenants with `[sleep]` sleep, and only while no session is in the jail and its sockets have no connection.
    Sleep {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Start the jails of tenants that are asleep, and thaw those that are frozen because they are idle
    Wake {
        #[command(flatten)]
        tenants: RequiredTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Write the file of a new tenant and start its jail
    Create {
        /// Name of the tenant
        name: TenantName,
        #[command(flatten)]
        options: NewTenantOptions,
        #[command(flatten)]
        hooks: HookOptions,
        #[command(flatten)]
        format: Format,
    },
    /// Change settings of a tenant: write its file, keeping comments and order, and apply the change
    ///
    /// The file is checked as `check` does before it is written, in one step. KEY is a key of the file, in full or short:
    /// `limits.memory` or `memory`, `disk.hard`, `service.web.enabled`. A list has commas. `explain KEY` tells what a key means.
    Set {
        /// Name of the tenant
        tenant: TenantName,
        /// The new value of a key; without a value the key is removed
        #[arg(value_name = "KEY=VALUE", required_unless_present = "unset")]
        changes: Vec<String>,
        /// Remove a key, so that the plan's value is in force; can be repeated
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        /// Show the change, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Write the file, and do not apply it
        #[arg(long, conflicts_with = "dry_run")]
        no_apply: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Edit the file of a tenant, of a plan or of the host, check it, and apply the change
    ///
    /// A copy is edited with $VISUAL, $EDITOR or sensible-editor. A copy with errors is not written: edit it again, or discard
    /// it. The file is replaced in one step, and only if nobody else has changed it meanwhile.
    Edit {
        /// Name of the tenant
        #[arg(required_unless_present_any = ["plan", "host"])]
        tenant: Option<TenantName>,
        /// Edit the file of this plan
        #[arg(long, value_name = "PLAN", conflicts_with_all = ["tenant", "host"])]
        plan: Option<PlanName>,
        /// Edit bailiwick.toml
        #[arg(long, conflicts_with = "tenant")]
        host: bool,
        /// Write the file, and do not apply it
        #[arg(long)]
        no_apply: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Stop a tenant's jail and remove its file; its data is kept unless --purge is given
    Delete {
        /// Name of the tenant
        #[arg(value_name = "TENANT")]
        name: TenantName,
        /// Also destroy its data; works for a tenant that is already deleted, too
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        hooks: HookOptions,
        #[command(flatten)]
        format: Format,
    },
    /// Verify, by reading the kernel's state, that every limit and every wall is in force
    Audit {
        #[command(flatten)]
        tenants: OptionalTenants,
        /// Print comma-separated values, one line for each limit and each wall
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// Write an HTML report, with charts of each tenant's history
        #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "csv"])]
        html: Option<PathBuf>,
        /// With --html: start of the charts
        #[arg(long, value_name = "WHEN", default_value = "7d")]
        since: String,
        /// Audit nothing; check the log of earlier audits for changed or missing lines
        #[arg(long, conflicts_with_all = ["csv", "html", "probe", "tenants"])]
        verify: bool,
        /// With --verify: a mark that was recorded elsewhere, for example in the journal
        #[arg(long, value_name = "MARK", requires = "verify")]
        mark: Option<String>,
        /// Also run a temporary process in each jail that attempts forbidden operations
        #[arg(long)]
        probe: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Report on the host, or on one tenant: a verdict, what needs attention, and use over time
    ///
    /// It audits too, as `audit` does. With --html it is a page to read, print and mail; that of a tenant has nothing of others.
    Report(ReportOptions),
    /// Show the resource usage of tenants: averages, peaks, limits and faults
    Usage {
        #[command(flatten)]
        tenants: OptionalTenants,
        #[command(flatten)]
        window: WindowOptions,
        /// Show the current usage, not the recorded usage
        #[arg(long, conflicts_with_all = ["since", "until"])]
        now: bool,
        /// Sort by a measure, highest first: cpu, memory, tasks, disk, io_read, ...
        #[arg(long, value_name = "MEASURE")]
        by: Option<Measure>,
        /// Show only tenants whose peak reached this share of a limit, for example 90%
        #[arg(long, value_name = "PERCENT")]
        threshold: Option<Threshold>,
        #[command(flatten)]
        format: Format,
    },
    /// Show the resource usage of a tenant over time
    History {
        /// Name of the tenant
        tenant: TenantName,
        #[command(flatten)]
        window: WindowOptions,
        /// Length of a step, at least 1m; by default it depends on the window
        #[arg(long, value_name = "TIME")]
        step: Option<Period>,
        #[command(flatten)]
        format: Format,
    },
    /// Watch the resource usage of all tenants live
    Top {
        /// Initial sort order: a measure, highest first
        #[arg(long, value_name = "MEASURE")]
        by: Option<Measure>,
    },
    /// Show how often limits were hit, newest first
    Faults {
        #[command(flatten)]
        tenants: OptionalTenants,
        #[command(flatten)]
        window: WindowOptions,
        #[command(flatten)]
        format: Format,
    },
    /// Show incidents (series of faults), newest first, or the evidence of one
    Incidents {
        #[command(flatten)]
        tenants: OptionalTenants,
        #[command(flatten)]
        window: WindowOptions,
        /// Show the evidence of the incident with this number
        #[arg(long, value_name = "NUMBER", value_parser = incident_number, conflicts_with_all = ["tenants", "since", "until"])]
        show: Option<u64>,
        #[command(flatten)]
        format: Format,
    },
    /// Show what happened on the host and to tenants, oldest first
    Events(EventOptions),
    /// Show whom the use of limits is told to, test the way, and see what could not be delivered; asks bailiwick-notify, as root
    Notices {
        #[command(subcommand)]
        what: NoticesCommand,
    },
    /// Explain a finding, a limit, a key, an exit status or a refused packet: `BW027`, `memory`, `doors`, `exit-6`, `smtp`
    ///
    /// It needs no service. Without a word it lists all that it knows.
    Explain {
        /// The word
        #[arg(value_name = "WORD")]
        word: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Say why a login or a write is refused: run every check that it meets, in order, without doing it
    ///
    /// The programs that decide run the checks. It ends with 0 when nothing refuses, and else with the status of the first
    /// refusal: 5 by policy or state, 6 over a limit. The last refusals of the tenant are shown too.
    Why(WhyOptions),
    /// Collect what somebody needs who looks for a fault of this host, without its secrets, in a tar file
    ///
    /// It has versions, the kernel, `status`, `doctor`, `check`, `plan`, `audit`, events, the states and the journal of the units, and
    /// the configuration. Keys, passwords, secrets, mail addresses, variables and arguments of services, and comments are removed.
    SupportBundle {
        /// The file; default: bailiwick-support-HOST-TIME.tar.gz
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        format: Format,
    },
    /// Print what bailiwick-exporter tells Prometheus: cumulative readings of the host and of tenants
    Metrics {
        /// Write to this file instead, in one step, for the textfile collector of node_exporter, which reads names that end in
        /// ".prom"; without an answer of bailiwickd the file says "bailiwick_up 0", and the command fails
        #[arg(long, value_name = "FILE")]
        textfile: Option<PathBuf>,
        /// How much to tell of each tenant: none, core or all; default: what bailiwick.toml says
        #[arg(long, value_name = "DETAIL")]
        tenants: Option<MetricsDetail>,
        /// Print OpenMetrics, instead of the older text format of Prometheus
        #[arg(long, conflicts_with = "textfile")]
        openmetrics: bool,
    },
    /// Make the service reload its configuration
    Reload {
        #[command(flatten)]
        format: Format,
    },
    /// Hash a password for `password` in `[[ftp]]`: asks twice on a terminal, else reads one line
    Password,
    /// Print the SSH keys of a tenant, for AuthorizedKeysCommand of sshd
    Keys {
        /// Name of the tenant
        tenant: TenantName,
    },
    /// Tell bailiwickd of the requests that Apache refused; Apache starts this itself
    #[command(hide = true)]
    RefusedRequests {
        /// Socket of bailiwickd
        socket: PathBuf,
    },
    /// Print a web server's configuration that leads requests to tenants' services
    ///
    /// It reads the configuration files, and needs no running daemon. What is printed has no domains and no certificates: your own
    /// server blocks include the file of a tenant. Run it again after each change of tenants.
    Web {
        /// The web server
        #[arg(value_enum)]
        server: WebServer,
        /// Name of a tenant; default: all with a socket
        tenant: Option<TenantName>,
        /// Write the files to this directory instead, those that changed, each in one step; say whether to reload the server
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
        /// Largest body of a request
        #[arg(long, value_name = "SIZE", default_value = "64M")]
        upload: ByteSize,
        #[command(flatten)]
        format: Format,
    },
    /// Print the names that may follow these words of a command line, for the completions of shells
    #[command(hide = true)]
    Complete {
        /// The words after `bailiwick`
        #[arg(last = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Generate man pages, schemas and shell completions
    Generate {
        #[command(subcommand)]
        what: Generate,
    },
}

/// What `why` asks.
#[derive(Debug, Args)]
pub(crate) struct WhyOptions {
    /// Name of the tenant
    pub(crate) tenant: TenantName,
    /// The door: ssh, sftp, ftp, cron, exec or socket; default: ssh if the tenant has it, else its first door
    #[arg(long, value_name = "DOOR", value_parser = why_door)]
    pub(crate) door: Option<Door>,
    /// The key of the client: its fingerprint as `ssh-add -l` prints it, or the key itself
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) key: Option<String>,
    /// The address of the client
    #[arg(long, value_name = "IP")]
    pub(crate) from: Option<String>,
    /// The user inside; for FTP the login
    #[arg(long, value_name = "LOGIN")]
    pub(crate) user: Option<String>,
    /// Ask about a write instead: a path inside, such as /home/alice, or an amount, such as 100M
    #[arg(long, value_name = "PATH|BYTES", conflicts_with_all = ["door", "key", "from", "user"])]
    pub(crate) write: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

fn why_door(text: &str) -> Result<Door, String> {
    // Operators speak of the web, and the policy of the sockets that lead to it.
    if text == "web" {
        Ok(Door::Socket)
    } else {
        text.parse().map_err(|error: bailiwick_types::UnknownWord| error.to_string())
    }
}

/// What a report is about, and its form.
#[derive(Debug, Args)]
pub(crate) struct ReportOptions {
    /// Name of a tenant; default: the host with all tenants
    pub(crate) tenant: Option<TenantName>,
    /// Print a page of HTML, with charts
    #[arg(long, conflicts_with = "json")]
    pub(crate) html: bool,
    /// With --html: write the page to this file instead, in one step, for its owner alone
    #[arg(long, value_name = "FILE", requires = "html")]
    pub(crate) output: Option<PathBuf>,
    /// Start: 4h, 1h30m, 7d (ago), today, yesterday, 2026-11-01, "2026-11-01 14:30"
    #[arg(long, value_name = "WHEN", default_value = "7d")]
    pub(crate) since: String,
    /// End; default: now
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Selects events.
#[derive(Debug, Args)]
pub(crate) struct EventOptions {
    /// Also print what happens from now on, until interrupted; goes on when bailiwickd restarts
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Start: 4h, 1h30m, 7d (ago), today, yesterday, 2026-11-01, "2026-11-01 14:30"; default: 1d, or now with --follow
    #[arg(long, value_name = "WHEN", conflicts_with = "after")]
    pub(crate) since: Option<String>,
    /// Only events after the one with this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<u64>,
    /// Only events of this tenant; can be repeated
    #[arg(long = "tenant", value_name = "TENANT")]
    pub(crate) tenants: Vec<TenantName>,
    /// Only events of this type, such as session.opened, or of this family, such as session; can be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<EventTypes>,
    /// Print JSON: an array, or with --follow one line for each event
    #[arg(long)]
    pub(crate) json: bool,
}

/// A command about notices.
#[derive(Debug, Subcommand)]
pub(crate) enum NoticesCommand {
    /// List the rules for tenants, who is told by each, and what was told and is not over yet
    List {
        #[command(flatten)]
        tenants: OptionalTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Send a message as notices are sent, at once, and say what came of it
    Test {
        /// Name of the tenant whose addresses get it; default: the operator's addresses in bailiwick.toml
        tenant: Option<TenantName>,
        #[command(flatten)]
        format: Format,
    },
    /// List the deliveries that have failed and are tried again, oldest first, with the last error
    Waiting {
        #[command(flatten)]
        format: Format,
    },
    /// List the deliveries that were given up, oldest first, with the last error
    Dead {
        #[command(flatten)]
        format: Format,
    },
    /// Try deliveries that have failed or were given up again, at once
    Retry {
        /// Their numbers; default: all
        #[arg(value_name = "NUMBER")]
        ids: Vec<u64>,
        #[command(flatten)]
        format: Format,
    },
}

/// A command about services.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List services, with their state and what is wrong
    List {
        #[command(flatten)]
        tenants: OptionalTenants,
        #[command(flatten)]
        format: Format,
    },
    /// Show the services of a tenant, or one of them, with process, last end, log and sockets
    Status {
        /// Name of the tenant
        tenant: TenantName,
        /// Name of the service; default: all of the tenant
        name: Option<ServiceName>,
        #[command(flatten)]
        format: Format,
    },
    /// Start services, without waiting for the rest of a pause
    Start(ServiceOptions),
    /// Stop services; they stay stopped until `start`, or until the jail starts anew
    Stop(ServiceOptions),
    /// Stop services and start them again
    Restart(ServiceOptions),
}

/// Selects services of a tenant.
#[derive(Debug, Args)]
pub(crate) struct ServiceOptions {
    /// Name of the tenant
    pub(crate) tenant: TenantName,
    /// Names of services; default: all of the tenant
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<ServiceName>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Selects lines of logs.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Name of the tenant
    pub(crate) tenant: TenantName,
    /// Name of a service, or SERVICE.SOCKET for the relay of a socket; default: all
    pub(crate) name: Option<UnitName>,
    /// Also print what is written from now on
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only lines since: 4h, 1h30m, 7d (ago), today, yesterday, 2026-11-01, "2026-11-01 14:30"
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Last lines of each log; default: 100, or all with --since
    #[arg(long, short = 'n', value_name = "NUMBER")]
    pub(crate) lines: Option<u64>,
}

/// A command about sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// End sessions; their background processes keep running
    Kill(KillOptions),
}

/// Selects the sessions to end.
#[derive(Debug, Args)]
pub(crate) struct KillOptions {
    /// Session ids, as shown by `bailiwick sessions`
    #[arg(value_name = "SESSION", required_unless_present = "tenants")]
    pub(crate) sessions: Vec<String>,
    /// End all sessions of this tenant; can be repeated
    #[arg(long = "tenant", value_name = "TENANT")]
    pub(crate) tenants: Vec<TenantName>,
    /// Reason, shown to the users of the sessions
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

fn incident_number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "this is no number; `bailiwick incidents` lists the numbers")
}

/// What is said beside a message about wrong arguments: the arguments of a command for a jail would be those of `bailiwick`.
pub(crate) fn tip(arguments: &[OsString], kind: ErrorKind) -> Option<&'static str> {
    let mut words = arguments.iter().skip(1);
    let mut verb = words.next();
    while let Some(option) = verb.filter(|word| word.as_encoded_bytes().starts_with(b"-")) {
        verb = if option == "--config" || option == "--color" { words.nth(1) } else { words.next() };
    }
    let is_exec = verb.is_some_and(|word| word == "exec");
    let has_command = arguments.iter().any(|word| word == "--");
    let is_about_it = matches!(kind, ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument);
    (is_exec && !has_command && is_about_it)
        .then_some("write `--` before the command: bailiwick exec TENANT -- COMMAND ARGUMENTS")
}

/// A kind of generated text.
#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// Write the man pages
    Man {
        /// Output directory; created if missing
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Print the JSON Schema (draft 2020-12) of the output of `audit --json`
    Schema,
    /// Print shell completions
    Completions {
        /// Shell
        shell: Shell,
    },
}

/// A shell with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// Friendly interactive shell
    Fish,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("bailiwick").chain(line.split_whitespace()))
    }

    fn walk(command: &clap::Command, visit: &mut dyn FnMut(&clap::Command)) {
        visit(command);
        for inner in command.get_subcommands() {
            walk(inner, visit);
        }
    }

    #[test]
    fn the_definition_is_valid() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_flag_has_help() {
        let mut root = Arguments::command();
        root.build();
        let mut checked = 0;
        walk(&root, &mut |command| {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {} has no help", argument.get_id(), command.get_name());
                checked += 1;
            }
        });
        assert!(checked > 50);
    }

    #[test]
    fn the_help_lists_every_command_in_its_order() {
        let help = Arguments::command().render_help().to_string();
        let listed: Vec<_> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let golden = "check dump doctor setup pool plan apply list show status exec shell sessions timers service logs network start stop restart suspend unsuspend \
                      freeze thaw sleep wake create set edit delete audit report usage history top faults incidents events notices explain why support-bundle metrics reload password keys web generate \
                      help";
        assert_eq!(listed, golden.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn entering_a_jail_is_parsed_as_by_the_whole_definition() {
        for line in [
            "exec alice -- true",
            "exec alice --user 33 -t --env A=b=c --cwd /srv -- ls -l --config x",
            "--config /tmp/x --color always exec alice -- exec shell",
            "exec --config /tmp/x alice --no-pager -- true",
            "shell alice --cwd /srv",
            "exec alice",
            "exec alice ls",
            "exec Alice! -- ls",
            "exec --help",
            "shell --version",
            "help exec",
            "exce alice -- exec",
            "show shell",
            "list --json -- exec",
        ] {
            let words: Vec<OsString> =
                std::iter::once("bailiwick").chain(line.split(' ')).map(OsString::from).collect();
            let text = |parsed: Result<Arguments, clap::Error>| match parsed {
                Ok(arguments) => format!("{arguments:?}"),
                Err(error) => format!("{:?}: {error}", error.kind()),
            };
            assert_eq!(text(Arguments::of(&words)), text(Arguments::try_parse_from(&words)), "{line}");
        }
    }

    #[test]
    fn commands_are_parsed() {
        let Command::Enter(EnterCommand::Exec { tenant, options, tty, argv }) =
            parse("exec alice --user 33 -t --env A=b=c --cwd /srv -- ls -l").expect("valid").command
        else {
            panic!("not exec")
        };
        assert_eq!((tenant.as_str(), tty, options.user.as_deref()), ("alice", true, Some("33")));
        assert_eq!(argv, ["ls", "-l"]);
        assert_eq!((options.env[0].0.as_bytes(), options.env[0].1.as_bytes()), (&b"A"[..], &b"b=c"[..]));

        let arguments = parse("plan --config /tmp/x --json").expect("valid");
        assert_eq!(arguments.options.config, PathBuf::from("/tmp/x"));
        assert!(
            matches!(arguments.command, Command::Plan { tenants: OptionalTenants { tenants }, format: Format { json: true }, .. } if tenants.is_empty())
        );

        for good in [
            "check",
            "dump --output /tmp/x",
            "doctor --json",
            "doctor --repair-ledger",
            "setup",
            "setup --pool device:/dev/vdb --fs ext4 --doors ssh,ftp --first a --ssh-key /k --yes --json",
            "setup --size 50G --dry-run --answers /a",
            "setup --undo --yes",
            "pool show --json",
            "pool grow +10G",
            "apply a b --dry-run",
            "apply --now a",
            "apply --restart a",
            "timers a --json",
            "sessions",
            "sessions a b --json",
            "sessions kill 0f3a91c7 00000001 --reason enough",
            "sessions kill --tenant a --json",
            "events -f --json --tenant a --tenant b --type session --type limit.near",
            "events --after 17",
            "notices list a b --json",
            "notices test",
            "notices test a",
            "notices dead --json",
            "notices waiting",
            "notices retry 7 8",
            "sessions --config /tmp kill 0f3a91c7",
            "show a",
            "show a --explain --json",
            "complete -- show --json",
            "support-bundle --output /tmp/x.tar.gz --json",
            "--color never --no-pager list",
            "list --color always",
            "why a",
            "why a --door web --json",
            "why a --door ssh --key SHA256:abc --from 192.0.2.1 --user a",
            "why a --write /home/a",
            "network a --connections --json",
            "shell a --user root",
            "suspend a --reason unpaid",
            "create a --plan small --profile shell --login b",
            "delete a --purge",
            "set a memory=2G disk.hard=10G --unset tasks --dry-run --json",
            "set a --unset tasks --no-apply",
            "edit a --no-apply",
            "edit --plan small --json",
            "edit --host",
            "audit --csv",
            "report",
            "report alice --json --since 30d",
            "report alice --html --output /tmp/alice.html --since 2026-11-01 --until 2026-12-01",
            "generate completions zsh",
            "generate man --output /tmp",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn who_forgets_the_dashes_before_a_command_gets_a_tip() {
        let tip_of = |line: &str| {
            let words: Vec<OsString> =
                std::iter::once("bailiwick").chain(line.split(' ')).map(OsString::from).collect();
            tip(&words, parse(line).expect_err(line).kind())
        };
        let golden = "write `--` before the command: bailiwick exec TENANT -- COMMAND ARGUMENTS";
        for line in ["exec alice id", "exec alice", "--config /etc exec alice id", "--config=/etc exec alice id"] {
            assert_eq!(tip_of(line), Some(golden), "{line}");
        }
        assert_eq!([tip_of("exec alice --nope -- id"), tip_of("list exec"), tip_of("exec Alice -- id")], [None; 3]);
        let shown = parse("incidents --show x").expect_err("no number").to_string();
        assert!(shown.contains("this is no number; `bailiwick incidents` lists the numbers"), "{shown}");
    }

    #[test]
    fn wrong_usage_is_reported_briefly() {
        let cases = [
            ("", ErrorKind::MissingSubcommand),
            ("fly", ErrorKind::InvalidSubcommand),
            ("start", ErrorKind::MissingRequiredArgument),
            ("start Alice", ErrorKind::ValueValidation),
            ("show ../x", ErrorKind::ValueValidation),
            ("exec alice", ErrorKind::MissingRequiredArgument),
            ("exec alice ls", ErrorKind::UnknownArgument),
            ("exec alice --env x -- ls", ErrorKind::ValueValidation),
            ("create alice", ErrorKind::MissingRequiredArgument),
            ("create alice --plan p --profile loose", ErrorKind::ValueValidation),
            ("why a --door telnet", ErrorKind::ValueValidation),
            ("why a --write 1M --door ssh", ErrorKind::ArgumentConflict),
            ("set a", ErrorKind::MissingRequiredArgument),
            ("edit", ErrorKind::MissingRequiredArgument),
            ("edit a --host", ErrorKind::ArgumentConflict),
            ("audit --csv --json", ErrorKind::ArgumentConflict),
            ("report --html --json", ErrorKind::ArgumentConflict),
            ("report --output /tmp/x", ErrorKind::MissingRequiredArgument),
            ("doctor --probe --repair-ledger", ErrorKind::ArgumentConflict),
            ("setup --pool lvm", ErrorKind::ValueValidation),
            ("setup --size 0%", ErrorKind::ValueValidation),
            ("setup --doors telnet", ErrorKind::ValueValidation),
            ("setup --undo --pool file", ErrorKind::ArgumentConflict),
            ("pool grow", ErrorKind::MissingRequiredArgument),
            ("generate completions tcsh", ErrorKind::InvalidValue),
            ("events --type nothing", ErrorKind::ValueValidation),
            ("events --since 1h --after 3", ErrorKind::ArgumentConflict),
            ("list --nope", ErrorKind::UnknownArgument),
        ];
        for (line, kind) in cases {
            let error = parse(line).expect_err(line);
            assert_eq!(error.kind(), kind, "{line}: {error}");
            assert_eq!(error.exit_code(), 2, "{line}");
            let text = error.to_string();
            assert!(
                text.contains("Usage:") || kind == ErrorKind::ValueValidation || kind == ErrorKind::InvalidValue,
                "{text}"
            );
            assert!(!text.contains("Options:"), "{line} shows the whole help: {text}");
        }
    }
}
