//! The one definition of the command line: the parser, the help, the man pages and the completions come from it.

mod options;

pub(crate) use options::{Any, Entry, Format, Named, When, Wishes};

use crate::usage::Threshold;
use bailiwick_types::{Measure, Period, SessionId, TenantName};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

const EXIT_STATUS: &str = "\
Exit status: 0 done, 1 failed, 2 usage or invalid configuration, 3 no such thing, 4 exists or conflicts, 5 refused by \
policy or state, 6 over a limit, 7 partly done, 8 the host cannot. plan and audit: 10 when there is drift or a \
finding. exec and shell: the command's own, 128+N for signal N, 126 cannot execute, 127 not found, 125 when bailiwick \
itself failed.";

/// Sandboxes for the customers of a shared host
#[derive(Debug, Parser)]
#[command(name = "bailiwick", version, arg_required_else_help = false, after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    /// Directory of the configuration
    #[arg(long, global = true, value_name = "DIR", default_value = "/etc/bailiwick")]
    pub(crate) config: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Parse and validate all files, print every problem; nothing is changed
    Check {
        #[command(flatten)]
        format: Format,
    },
    /// Print the configuration as it takes effect, with every default and inherited value
    Dump {
        /// Write a tree of files to this directory, which must be empty or not exist
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Show what this host can enforce, feature by feature, with the remedy for what it cannot
    Doctor {
        /// Prove it: a throw-away tenant runs into each limit (as root; takes about half a minute)
        #[arg(long)]
        probe: bool,
        /// Rebuild a ledger of ids that is missing or damaged, from records of running jails and from storage, and say what is
        /// not certain (as root, while the service is down)
        #[arg(long, conflicts_with_all = ["probe", "json"])]
        repair_ledger: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Show the difference between declared and actual
    Plan {
        #[command(flatten)]
        tenants: Any,
        /// A plan's file: say how often the tenants of that plan, or those named, would have met its limits
        #[arg(long, value_name = "FILE")]
        simulate: Option<PathBuf>,
        /// With --simulate: from when on the history is looked at
        #[arg(long, value_name = "WHEN", default_value = "7d", requires = "simulate")]
        since: String,
        #[command(flatten)]
        format: Format,
    },
    /// Make it so: read the files again, then start, stop and change what differs
    Apply {
        #[command(flatten)]
        tenants: Any,
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
        /// Also end sessions that would no longer be let in: their key, their door or their tenant is gone
        #[arg(long, conflicts_with = "dry_run")]
        now: bool,
        /// Also restart jails that have sessions in them, where a change needs it
        #[arg(long, conflicts_with = "dry_run")]
        restart: bool,
        #[command(flatten)]
        format: Format,
    },
    /// List all tenants
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show one tenant
    Show {
        /// Name of the tenant
        tenant: TenantName,
        #[command(flatten)]
        format: Format,
    },
    /// Show how the service is
    Status {
        #[command(flatten)]
        format: Format,
    },
    /// Run a command in a jail, with its exit status
    ///
    /// SIGHUP, SIGINT, SIGQUIT and SIGTERM are passed on to it. A second SIGINT or SIGTERM hangs the session up as `sessions kill` does,
    /// whether the command hears or not: it is over within two seconds.
    Exec {
        /// Name of the tenant
        tenant: TenantName,
        #[command(flatten)]
        entry: Entry,
        /// Give the command a terminal
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
        entry: Entry,
    },
    /// Show who is in: by which door, from where, since when, running what
    Sessions {
        #[command(flatten)]
        tenants: Any,
        #[command(flatten)]
        format: Format,
        #[command(subcommand)]
        what: Option<SessionCommand>,
    },
    /// Show what is run at times: when next, and how it ended last
    Timers {
        #[command(flatten)]
        tenants: Any,
        #[command(flatten)]
        format: Format,
    },
    /// Start jails
    Start {
        #[command(flatten)]
        tenants: Named,
        #[command(flatten)]
        format: Format,
    },
    /// Stop jails and hold them down
    Stop {
        #[command(flatten)]
        tenants: Named,
        #[command(flatten)]
        format: Format,
    },
    /// Stop jails and start them anew
    Restart {
        #[command(flatten)]
        tenants: Named,
        #[command(flatten)]
        format: Format,
    },
    /// Suspend tenants: what they run ends and their doors close, their data stays
    ///
    /// Doors that the tenant or its plan names in `suspended_doors` stay open for reading: its jail is started anew with all of
    /// its storage read-only, and `unsuspend` starts the usual one.
    Suspend {
        #[command(flatten)]
        tenants: Named,
        /// Why, for the record and for the tenant
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Let suspended tenants run again
    Unsuspend {
        #[command(flatten)]
        tenants: Named,
        #[command(flatten)]
        format: Format,
    },
    /// Stop all processes of jails where they are, until `thaw`, a restart of the jail or of the host
    Freeze {
        #[command(flatten)]
        tenants: Named,
        #[command(flatten)]
        format: Format,
    },
    /// Let the processes of frozen jails go on
    Thaw {
        #[command(flatten)]
        tenants: Named,
        #[command(flatten)]
        format: Format,
    },
    /// Write the file of a new tenant and start its jail
    Create {
        /// Name of the tenant
        name: TenantName,
        #[command(flatten)]
        wishes: Wishes,
        #[command(flatten)]
        format: Format,
    },
    /// End a tenant's jail and remove its file; its data stays unless --purge is given
    Delete {
        /// Name of the tenant
        name: TenantName,
        /// Destroy its data too, also that of a tenant that was deleted before
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Prove, from the kernel's own word, that every limit and every wall stands
    Audit {
        #[command(flatten)]
        tenants: Any,
        /// Print comma-separated values, one line for each limit and each wall
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// Write one page of HTML, with charts of each tenant's history, that a person can read and hand on
        #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "csv"])]
        html: Option<PathBuf>,
        /// How far the charts of --html go back
        #[arg(long, value_name = "WHEN", default_value = "7d")]
        since: String,
        /// Audit nothing: look through the log of earlier audits for lines that were changed or are missing
        #[arg(long, conflicts_with_all = ["csv", "html", "probe", "tenants"])]
        verify: bool,
        /// With --verify: a mark that was noted elsewhere, as the journal has it
        #[arg(long, value_name = "MARK", requires = "verify")]
        mark: Option<String>,
        /// Also have a throw-away process in each jail try what must fail there
        #[arg(long)]
        probe: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Show what tenants used: averages, peaks, limits and faults
    Usage {
        #[command(flatten)]
        tenants: Any,
        #[command(flatten)]
        window: When,
        /// What they use now, and not what was recorded
        #[arg(long, conflicts_with_all = ["since", "until"])]
        now: bool,
        /// Sort by a measure, the highest first: cpu, memory, tasks, disk, io_read, ...
        #[arg(long, value_name = "MEASURE")]
        by: Option<Measure>,
        /// Only tenants whose peak reached this part of some limit, such as 90%
        #[arg(long, value_name = "PERCENT")]
        threshold: Option<Threshold>,
        #[command(flatten)]
        format: Format,
    },
    /// Show what a tenant used, step by step
    History {
        /// Name of the tenant
        tenant: TenantName,
        #[command(flatten)]
        window: When,
        /// Length of a step, from 1m; chosen by the window when it is not given
        #[arg(long, value_name = "TIME")]
        step: Option<Period>,
        #[command(flatten)]
        format: Format,
    },
    /// Watch who uses what, live
    Top {
        /// Sort by a measure, the highest first, to begin with
        #[arg(long, value_name = "MEASURE")]
        by: Option<Measure>,
    },
    /// Show how often limits were hit, the newest first
    Faults {
        #[command(flatten)]
        tenants: Any,
        #[command(flatten)]
        window: When,
        #[command(flatten)]
        format: Format,
    },
    /// Show runs of faults, the newest first, or the evidence of one
    Incidents {
        #[command(flatten)]
        tenants: Any,
        #[command(flatten)]
        window: When,
        /// Number of the incident whose evidence is shown
        #[arg(long, value_name = "NUMBER", conflicts_with_all = ["tenants", "since", "until"])]
        show: Option<u64>,
        #[command(flatten)]
        format: Format,
    },
    /// Make the service read its files again
    Reload {
        #[command(flatten)]
        format: Format,
    },
    /// Make the hash of a password, for `password` below `[[ftp]]`: asks for it twice at a terminal, else reads one line
    Password,
    /// Print the keys that may log in as a tenant, for AuthorizedKeysCommand of sshd
    Keys {
        /// Name of the tenant
        tenant: TenantName,
    },
    /// Generate documentation and editor support
    Generate {
        #[command(subcommand)]
        what: Generate,
    },
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// End sessions; what they left running in the background goes on
    Kill(Ending),
}

/// Which sessions end.
#[derive(Debug, Args)]
pub(crate) struct Ending {
    /// Names of sessions, as `bailiwick sessions` shows them
    #[arg(value_name = "SESSION", required_unless_present = "tenants")]
    pub(crate) sessions: Vec<SessionId>,
    /// All sessions of this tenant; may be given several times
    #[arg(long = "tenant", value_name = "TENANT")]
    pub(crate) tenants: Vec<TenantName>,
    /// Why, for those who are in
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// What to generate.
#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// Write the man pages
    Man {
        /// Directory to write to; it is made when it is missing
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Print the schema of what `audit --json` prints (JSON Schema, draft 2020-12)
    Schema,
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// A shell that completes.
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
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("bailiwick").chain(line.split_whitespace()))
    }

    fn walk(command: &clap::Command, see: &mut dyn FnMut(&clap::Command)) {
        see(command);
        for inner in command.get_subcommands() {
            walk(inner, see);
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_flag_has_help() {
        let mut root = Arguments::command();
        root.build();
        let mut seen = 0;
        walk(&root, &mut |command| {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {} has no help", argument.get_id(), command.get_name());
                seen += 1;
            }
        });
        assert!(seen > 50);
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
        let golden = "check dump doctor plan apply list show status exec shell sessions timers start stop restart suspend unsuspend \
                      freeze thaw create delete audit usage history top faults incidents reload password keys generate help";
        assert_eq!(listed, golden.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn commands_are_understood() {
        let Command::Exec { tenant, entry, tty, argv } =
            parse("exec alice --user 33 -t --env A=b=c --cwd /srv -- ls -l").expect("valid").command
        else {
            panic!("not exec")
        };
        assert_eq!((tenant.as_str(), tty, entry.user.as_deref()), ("alice", true, Some("33")));
        assert_eq!(argv, ["ls", "-l"]);
        assert_eq!((entry.env[0].0.as_bytes(), entry.env[0].1.as_bytes()), (&b"A"[..], &b"b=c"[..]));

        let arguments = parse("plan --config /tmp/x --json").expect("valid");
        assert_eq!(arguments.config, PathBuf::from("/tmp/x"));
        assert!(
            matches!(arguments.command, Command::Plan { tenants: Any { tenants }, format: Format { json: true }, .. } if tenants.is_empty())
        );

        for good in [
            "check",
            "dump --output /tmp/x",
            "doctor --json",
            "doctor --repair-ledger",
            "apply a b --dry-run",
            "apply --now a",
            "apply --restart a",
            "timers a --json",
            "sessions",
            "sessions a b --json",
            "sessions kill 0f3a91c7 00000001 --reason enough",
            "sessions kill --tenant a --json",
            "sessions --config /tmp kill 0f3a91c7",
            "show a",
            "shell a --user root",
            "suspend a --reason unpaid",
            "create a --plan small --profile shell --login b",
            "delete a --purge",
            "audit --csv",
            "generate completions zsh",
            "generate man --output /tmp",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn wrong_usage_is_told_shortly() {
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
            ("audit --csv --json", ErrorKind::ArgumentConflict),
            ("doctor --probe --repair-ledger", ErrorKind::ArgumentConflict),
            ("generate completions tcsh", ErrorKind::InvalidValue),
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
