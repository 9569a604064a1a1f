//! `check`, `dump` and `keys`, and how the other commands read the configuration.

use crate::output::{self, Form};
use crate::style::Working;
use bailiwick_client::Daemon;
use bailiwick_plan::PlanError;
use bailiwick_policy::{Diagnostic, Host, Machine, Policy, Proposed, Reading, Severity, Store, Tenant};
use bailiwick_proto::Failure;
use bailiwick_sys::proc;
use bailiwick_types::{ByteSize, ExitStatus, LimitKey, Port, TenantName, Transport};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Socket of the system log.
const LOG_SOCKET: &str = "/dev/log";
/// How long a directory service may take to answer about 256 users.
const DIRECTORY_TIME: Duration = Duration::from_secs(10);

/// Reads `bailiwick.toml`. If it has errors, this is its last valid version, as in the daemon.
pub(crate) fn host(config: &Path) -> Result<Host, Failure> {
    let (host, problems) = Store::new(config).host().map_err(|diagnostics| unusable(&diagnostics))?;
    if !problems.is_empty() {
        output::complain("bailiwick.toml has errors; its last valid version is in force; see `bailiwick check`");
    }
    Ok(host)
}

/// The daemon that this configuration names.
pub(crate) fn daemon(config: &Path) -> Result<Daemon, Failure> {
    Ok(Daemon::of(&host(config)?.runtime_dir))
}

/// The failure of a command that needs a valid configuration. It is caused by too few descriptors, or by errors in the files.
fn unusable(diagnostics: &[Diagnostic]) -> Failure {
    match bailiwick_client::descriptor_shortage() {
        Some(error) => {
            Failure::of(ExitStatus::Failed, format!("this command has too few descriptors (`ulimit -n`): {error}"))
        }
        None => invalid(diagnostics),
    }
}

/// Prints the problems of the files that a command used: those of `tenants`, or all files if it is empty. Valid settings that
/// cannot work on this machine are printed too. Returns `status`, with success lowered to partial success if there are errors.
/// Warnings lower nothing. So a command ends with 0 whenever `check` does.
pub(crate) fn report_problems(config: &Path, tenants: &[TenantName], status: ExitStatus) -> ExitStatus {
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    if tenants.is_empty() {
        diagnostics = bailiwick_policy::read(config).diagnostics;
    }
    for tenant in tenants {
        let problems = bailiwick_policy::read_tenant(config, tenant).err().unwrap_or_default();
        for problem in problems {
            if !diagnostics.contains(&problem) {
                diagnostics.push(problem);
            }
        }
    }
    let mut of_host = impossible(config, tenants);
    if tenants.is_empty() {
        of_host.extend(of_targets(config));
    }
    output::complain_raw(&bailiwick_diagnostics::render(&of_host));
    if has_error(&of_host) {
        output::complain("this host refuses what these errors are about; everything else in these files is in force");
    }
    if !diagnostics.is_empty() {
        output::complain_raw(&bailiwick_diagnostics::render(&diagnostics));
        output::complain("the last valid version of these files is in force; all other files are in force as they are");
    }
    let is_whole = diagnostics.is_empty() && !has_error(&of_host);
    if status == ExitStatus::Done && !is_whole { ExitStatus::Partly } else { status }
}

/// The problems of hooks and webhooks. No tenant depends on those. The files of webhooks have secrets, so others than root are told
/// nothing of them.
pub(crate) fn of_targets(config: &Path) -> Vec<Diagnostic> {
    let group = Store::new(config).host().ok().and_then(|(host, _)| bailiwick_observe::group_id(&host.notices.user));
    let mut problems = bailiwick_targets::hooks(config).diagnostics;
    if rustix::process::geteuid().is_root() {
        problems.extend(bailiwick_targets::webhooks(config, group).diagnostics);
    }
    problems
}

fn has_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Valid settings that cannot work on this machine, in the files of `tenants`, or in all if empty. A directory service may be slow:
/// it is asked for nothing but users of the network that are no local ones.
pub(crate) fn impossible(config: &Path, tenants: &[TenantName]) -> Vec<Diagnostic> {
    let reading = bailiwick_policy::read(config);
    let Some(policy) = reading.policy.clone() else { return Vec::new() };
    let diagnostics = reading.diagnostics.clone();
    let Ok(machine) = bailiwick_observe::user_readings()
        .map_err(|error| Failure::new(ExitStatus::Failed, &error))
        .and_then(|readings| {
            machine_of(host_in_force(config), readings.users, Accounts { has_group: |_| true, ..Accounts::OF_HOST })
        })
    else {
        return Vec::new();
    };
    let mut problems = bailiwick_policy::check(config, reading, &machine);
    problems.retain(|problem| !diagnostics.contains(problem) && is_about(problem, &policy, tenants));
    problems
}

/// Whether a problem is in a file that these tenants depend on; all tenants if `tenants` is empty.
fn is_about(problem: &Diagnostic, policy: &Policy, tenants: &[TenantName]) -> bool {
    let is_file_of = |name: &TenantName| {
        let plan = policy.tenants.get(name).map(|tenant| format!("plans.d/{}.toml", tenant.plan));
        problem.file.ends_with(format!("tenants.d/{name}.toml"))
            || plan.is_some_and(|plan| problem.file.ends_with(plan))
    };
    tenants.is_empty() || problem.file.ends_with("bailiwick.toml") || tenants.iter().any(is_file_of)
}

/// The failure of a command because of errors in the files.
pub(crate) fn invalid(diagnostics: &[Diagnostic]) -> Failure {
    let problems = bailiwick_diagnostics::render(diagnostics);
    Failure::of(ExitStatus::Invalid, format!("the configuration is not valid\n{}", problems.trim_end()))
}

/// The resources and users of this machine. Directory services are asked for users named like tenants with a host user.
fn machine(config: &Path, reading: &Reading) -> Result<Machine, Failure> {
    let _working = Working::on("looking at the users of this machine");
    let of_users = |error| Failure::new(ExitStatus::Failed, &error);
    let mut users = bailiwick_observe::user_readings().map_err(of_users)?.users;
    let (policy, none) = (reading.policy.as_ref(), BTreeMap::new());
    let tenants = policy.map(|policy| &policy.tenants).unwrap_or(&none);
    let named = tenants.values().filter(|tenant| tenant.has_host_user()).map(|tenant| tenant.name.to_string());
    let directory = bailiwick_observe::directory_users(&named.collect::<Vec<_>>(), DIRECTORY_TIME).map_err(of_users)?;
    for service in directory.silent {
        output::complain(&format!(
            "the directory service \"{service}\" of /etc/nsswitch.conf does not answer; it may have users with names of tenants"
        ));
    }
    users.extend(directory.users);
    let host = policy.map(|policy| policy.host.clone()).or_else(|| host_in_force(config));
    let unenforceable = host.as_ref().map(|host| unenforceable(host, tenants)).unwrap_or_default();
    Ok(Machine { unenforceable, ..machine_of(host, users, Accounts::OF_HOST)? })
}

fn host_in_force(config: &Path) -> Option<Host> {
    Store::new(config).host().ok().map(|(host, _)| host)
}

/// Everything that `check` would say of a configuration with one file as it would be.
pub(crate) fn check_proposed(config: &Path, proposed: &Proposed) -> Result<Vec<Diagnostic>, Failure> {
    let machine = machine(config, &bailiwick_policy::read_proposed(config, proposed))?;
    Ok(bailiwick_policy::check_proposed(config, proposed, &machine))
}

/// Everything that `check` says now.
pub(crate) fn check_now(config: &Path) -> Result<Vec<Diagnostic>, Failure> {
    let reading = bailiwick_policy::read(config);
    let machine = machine(config, &reading)?;
    let _working = Working::on("checking the configuration");
    Ok(bailiwick_policy::check(config, reading, &machine))
}

/// How to learn whether the host has a user or a group that a file names.
struct Accounts {
    has_user: fn(&str) -> bool,
    has_group: fn(&str) -> bool,
}

impl Accounts {
    /// From every database of the host.
    const OF_HOST: Self = Self { has_user: bailiwick_observe::user_exists, has_group: bailiwick_observe::group_exists };
}

/// The ports at which others reach a program of the host.
fn listening(all: &[SocketAddr]) -> Vec<Port> {
    let reached = all.iter().filter(|address| !address.ip().to_canonical().is_loopback());
    reached.map(|address| Port { transport: Transport::Tcp, number: address.port() }).collect()
}

fn machine_of(host: Option<Host>, users: Vec<(String, u32)>, accounts: Accounts) -> Result<Machine, Failure> {
    let failed = |error: io::Error| {
        Failure::of(ExitStatus::Failed, format!("cannot read the resources of the machine: {error}"))
    };
    let network = host.as_ref().map(|host| &host.network);
    let no_resolver = network.and_then(|network| bailiwick_observe::network::resolvers(network).err());
    let mail_problem = host.as_ref().and_then(|host| bailiwick_observe::sendmail_problem(&host.mail.command));
    // The state directory, or its nearest existing ancestor.
    let stat = host.iter().flat_map(|host| host.state_dir.ancestors()).find_map(|dir| rustix::fs::statvfs(dir).ok());
    let disk = stat.map(|stat| ByteSize(stat.f_blocks.saturating_mul(stat.f_frsize)));
    Ok(Machine {
        memory: proc::memory_bytes().map(ByteSize).map_err(failed)?,
        tasks: proc::max_tasks().map_err(failed)?,
        disk,
        users,
        // What cannot be looked at may be there.
        has_path: |path| path.try_exists().unwrap_or(true),
        has_user: accounts.has_user,
        has_web_group: host.and_then(|host| host.web.group).is_none_or(|group| (accounts.has_group)(&group)),
        mail_problem,
        has_address: |address| UdpSocket::bind((address, 0)).is_ok(),
        no_resolver: no_resolver.map(|error| error.to_string()),
        // What cannot be read is not said to be taken.
        listening: listening(&proc::listeners().unwrap_or_default()),
        unenforceable: BTreeMap::new(),
    })
}

/// The tenants that cannot start because a limit that `bailiwick.toml` requires cannot hold. Only root can read all that decides it.
fn unenforceable(host: &Host, tenants: &BTreeMap<TenantName, Tenant>) -> BTreeMap<TenantName, (LimitKey, String)> {
    let facts = rustix::process::geteuid().is_root().then(|| bailiwick_observe::host_facts(&host.state_dir));
    let Some(Ok(facts)) = facts else { return BTreeMap::new() };
    let lacking = |tenant: &Tenant| match bailiwick_plan::check(tenant, host, &facts) {
        Err(PlanError::Nominal(limit)) => Some((limit.key, PlanError::Nominal(limit).to_string())),
        _ => None,
    };
    tenants.iter().filter_map(|(name, tenant)| Some((name.clone(), lacking(tenant)?))).collect()
}

/// The problems of the operator's templates of notices. In place of a template with one the embedded one is used.
fn templates(config: &Path) -> impl Iterator<Item = Diagnostic> {
    let (_, problems) = bailiwick_notice::Templates::read(config);
    problems.into_iter().map(|problem| {
        Diagnostic::in_line(
            &problem.file,
            problem.line,
            format!("{}; the embedded template is used", problem.message),
            problem.hint,
        )
    })
}

/// `bailiwick check`. It fails for errors alone: what only a warning is about is in force.
pub(crate) fn check(config: &Path, form: Form) -> Result<ExitStatus, Failure> {
    let mut diagnostics = check_now(config)?;
    diagnostics.extend(templates(config));
    diagnostics.extend(of_targets(config));
    match form {
        Form::Text => output::complain_raw(&bailiwick_diagnostics::render(&diagnostics)),
        Form::Json => output::print_json(&diagnostics)?,
    }
    if diagnostics.is_empty() {
        return Ok(ExitStatus::Done);
    }
    let status = if has_error(&diagnostics) { ExitStatus::Invalid } else { ExitStatus::Done };
    let is_valid = bailiwick_policy::read(config).diagnostics.is_empty();
    let in_force = Store::new(config).read();
    match (form, &in_force.policy) {
        (Form::Json, _) => {}
        (Form::Text, _) if status == ExitStatus::Done => {
            output::complain("there is no error: `bailiwick apply` puts these files in force as they are");
        }
        (Form::Text, _) if is_valid => {
            output::complain(
                "this host refuses what the errors are about; `bailiwick apply` does the rest, and ends with 7",
            );
        }
        (Form::Text, None) => output::complain("there is no earlier valid version of these files"),
        (Form::Text, Some(policy)) => {
            let lost: Vec<String> = in_force
                .invalid
                .iter()
                .filter(|name| !policy.tenants.contains_key(*name))
                .map(ToString::to_string)
                .collect();
            let lost = if lost.is_empty() {
                String::new()
            } else {
                format!("; these tenants have none, and their doors are closed: {}", lost.join(", "))
            };
            output::complain(&format!("the last valid version of these files is in force{lost}"));
        }
    }
    Ok(status)
}

/// `bailiwick dump`. If any file has an error, nothing is printed: a dump without a tenant would look as if that tenant were
/// removed.
pub(crate) fn dump(config: &Path, to: Option<&Path>) -> Result<(), Failure> {
    let reading = bailiwick_policy::read(config);
    let policy = match reading.policy {
        Some(policy) if reading.diagnostics.is_empty() => policy,
        _ => return Err(invalid(&reading.diagnostics)),
    };
    let files = bailiwick_policy::dump(&policy);
    match to {
        None => output::page(&output::visible_lines(&listing(&files))),
        Some(dir) => write_tree(dir, &files),
    }
}

/// `bailiwick keys`: the keys of the policy in force. They permit a terminal and no other feature of `sshd(8)`.
pub(crate) fn keys(config: &Path, tenant: &TenantName) -> Result<(), Failure> {
    match Store::new(config).tenant(tenant) {
        Ok((_, Some(tenant))) => {
            let lines: String = tenant.login.ssh_keys.iter().map(|key| format!("restrict,pty {key}\n")).collect();
            output::print(&lines)
        }
        Ok((_, None)) => Err(Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{tenant}\""))),
        Err(diagnostics) => {
            log_refusal(tenant, &diagnostics);
            Err(unusable(&diagnostics))
        }
    }
}

/// Logs a refused login to the system log: sshd discards the standard error of `AuthorizedKeysCommand`. Without a system log
/// nothing is written.
fn log_refusal(tenant: &TenantName, diagnostics: &[Diagnostic]) {
    /// Facility `auth`, severity `warning` (`syslog(3)`).
    const PRIORITY: u32 = 4 << 3 | 4;
    let reason = diagnostics.first().map(ToString::to_string).unwrap_or_default();
    let line = format!("<{PRIORITY}>bailiwick: event=login-refused tenant={tenant} reason={reason:?}");
    if let Ok(socket) = UnixDatagram::unbound() {
        socket.set_nonblocking(true).and_then(|()| socket.send_to(line.as_bytes(), LOG_SOCKET)).ok();
    }
}

pub(crate) fn listing(files: &[(PathBuf, String)]) -> String {
    let parts: Vec<_> =
        files.iter().map(|(path, content)| format!("# file: {}\n{}\n", path.display(), content.trim_end())).collect();
    parts.join("\n")
}

fn write_tree(dir: &Path, files: &[(PathBuf, String)]) -> Result<(), Failure> {
    let failed = |path: &Path, error: io::Error| {
        Failure::of(ExitStatus::Failed, format!("cannot write \"{}\": {error}", path.display()))
    };
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    make(dir).map_err(|error| failed(dir, error))?;
    if fs::read_dir(dir).map_err(|error| failed(dir, error))?.next().is_some() {
        let message = format!("the directory \"{}\" is not empty; name another one", dir.display());
        return Err(Failure::of(ExitStatus::Conflict, message));
    }
    for (name, content) in files {
        let path = dir.join(name);
        let write = || {
            path.parent().map_or(Ok(()), make)?;
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?.write_all(content.as_bytes())
        };
        write().map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn files() -> Vec<(PathBuf, String)> {
        vec![
            (PathBuf::from("bailiwick.toml"), "user = \"bailiwick\"\n".to_owned()),
            (PathBuf::from("plans.d/small.toml"), "profile = \"web\"\n".to_owned()),
        ]
    }

    #[test]
    fn a_listing_names_each_file() {
        let golden = "# file: bailiwick.toml\nuser = \"bailiwick\"\n\n# file: plans.d/small.toml\nprofile = \"web\"\n";
        assert_eq!(listing(&files()), golden);
    }

    #[test]
    fn a_tree_is_only_written_to_an_empty_directory() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("a/b");
        write_tree(&dir, &files()).expect("writes");
        assert_eq!(fs::read_to_string(dir.join("plans.d/small.toml")).expect("written"), "profile = \"web\"\n");
        let failure = write_tree(&dir, &files()).expect_err("not empty");
        assert_eq!(failure.status, ExitStatus::Conflict);
        assert!(failure.message.contains("is not empty"), "{}", failure.message);
    }

    /// A configuration with a tenant `alice`, whose file and whose `bailiwick.toml` have these lines.
    fn configured(host: &str, alice: &str) -> tempfile::TempDir {
        let temp = tempfile::tempdir().expect("temporary directory");
        let files = [("bailiwick.toml", host), ("plans.d/p.toml", ""), ("tenants.d/alice.toml", alice)];
        for (path, text) in files {
            let path = temp.path().join(path);
            let folder = path.parent().expect("a parent");
            fs::create_dir_all(folder).expect("makes");
            fs::write(&path, text).expect("writes");
            // Whatever the umask is.
            fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("chmod");
            fs::set_permissions(path, Permissions::from_mode(0o644)).expect("chmod");
        }
        temp
    }

    /// What `check` calls an error, no other command ends with 0 for, and the other way round.
    #[test]
    fn check_and_apply_have_one_verdict() {
        let link = "plan = \"p\"\n[network]\nmode = \"outbound\"\n[[link]]\nto = \"bob\"\nport = \"tcp/1\"\n";
        let (pool, plain) = ("ids.first = 2000000000\n", "plan = \"p\"\n");
        let (number, reserve) = ("network.user = \"4000\"\n", "reserve = { memory = \"900T\" }\n");
        for (host, alice, check_status, apply_status) in [
            ("", plain, ExitStatus::Done, ExitStatus::Done),
            (number, link, ExitStatus::Done, ExitStatus::Done),
            ("network.user = \"no-such-user-here\"\n", plain, ExitStatus::Invalid, ExitStatus::Partly),
            (reserve, plain, ExitStatus::Invalid, ExitStatus::Partly),
            ("", "plan = \"q\"\n", ExitStatus::Invalid, ExitStatus::Partly),
        ] {
            let temp = configured(&format!("{pool}{host}"), alice);
            let case = format!("{host}{alice}");
            assert_eq!(check(temp.path(), Form::Text), Ok(check_status), "{case}");
            assert_eq!(report_problems(temp.path(), &[], ExitStatus::Done), apply_status, "{case}");
            assert_eq!(report_problems(temp.path(), &[], ExitStatus::Failed), ExitStatus::Failed, "{case}");
        }
    }

    #[test]
    fn a_missing_configuration_is_invalid_and_named() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let missing = temp.path().join("nowhere");
        let failure = daemon(&missing).expect_err("missing");
        assert_eq!(failure.status, ExitStatus::Invalid);
        assert!(failure.message.contains("nowhere"), "{}", failure.message);
        assert_eq!(dump(&missing, None).expect_err("missing").status, ExitStatus::Invalid);
        assert_eq!(check(&missing, Form::Text), Ok(ExitStatus::Invalid));
    }
}
