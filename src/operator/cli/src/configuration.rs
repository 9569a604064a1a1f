//! `check`, `dump` and `keys`, and what every other command needs of the configuration.

use crate::output::{self, Form};
use bailiwick_client::Daemon;
use bailiwick_policy::{Diagnostic, Host, Machine, Reading, Store};
use bailiwick_proto::Failure;
use bailiwick_sys::proc;
use bailiwick_types::{ByteSize, ExitStatus, TenantName};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the log of the system listens.
const LOG: &str = "/dev/log";
/// How long a directory service may take to say which of 256 users it has.
const DIRECTORY_TIME: Duration = Duration::from_secs(10);

/// What `bailiwick.toml` says, or said last: beside a wrong line the daemon goes on, and so do the commands.
pub(crate) fn host(config: &Path) -> Result<Host, Failure> {
    let (host, problems) = Store::new(config).host().map_err(|diagnostics| unusable(&diagnostics))?;
    if !problems.is_empty() {
        output::complain("bailiwick.toml has errors, so what it last said without is in force; see `bailiwick check`");
    }
    Ok(host)
}

/// The daemon that this configuration names.
pub(crate) fn daemon(config: &Path) -> Result<Daemon, Failure> {
    Ok(Daemon::of(&host(config)?.runtime_dir))
}

/// The failure to read what this command cannot do without: for want of descriptors, or since it is not valid.
fn unusable(diagnostics: &[Diagnostic]) -> Failure {
    match bailiwick_client::descriptor_shortage() {
        Some(error) => {
            Failure::of(ExitStatus::Failed, format!("this command has too few descriptors (`ulimit -n`): {error}"))
        }
        None => invalid(diagnostics),
    }
}

/// Tells what is wrong with the files that a command was about: those of these tenants, or all. What was done well was then done only
/// in part; `status` is what it would be otherwise. What is well written and cannot work is told too, and changes no status: it was
/// taken as it is.
pub(crate) fn tell_problems(config: &Path, tenants: &[TenantName], status: ExitStatus) -> ExitStatus {
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    if tenants.is_empty() {
        diagnostics = bailiwick_policy::read(config).diagnostics;
    }
    for tenant in tenants {
        let of_it = bailiwick_policy::read_tenant(config, tenant).err().unwrap_or_default();
        for problem in of_it {
            if !diagnostics.contains(&problem) {
                diagnostics.push(problem);
            }
        }
    }
    output::complain_raw(&bailiwick_diagnostics::render(&impossible(config, tenants)));
    if diagnostics.is_empty() {
        return status;
    }
    output::complain_raw(&bailiwick_diagnostics::render(&diagnostics));
    output::complain("what these files last said without an error is in force; the rest is as it is declared");
    if status == ExitStatus::Done { ExitStatus::Partly } else { status }
}

/// What `check` finds beside problems of reading: in what these tenants are made of, or in all. No directory service is asked, which may
/// take its time.
pub(crate) fn impossible(config: &Path, tenants: &[TenantName]) -> Vec<Diagnostic> {
    let Reading { policy: Some(policy), diagnostics, .. } = bailiwick_policy::read(config) else { return Vec::new() };
    let Ok(machine) = bailiwick_observe::user_readings()
        .map_err(|error| Failure::new(ExitStatus::Failed, &error))
        .and_then(|readings| machine_of(config, readings.users))
    else {
        return Vec::new();
    };
    let of_it = |problem: &Diagnostic, name: &TenantName| {
        let plan = policy.tenants.get(name).map(|tenant| format!("plans.d/{}.toml", tenant.plan));
        problem.file.ends_with(format!("tenants.d/{name}.toml"))
            || plan.is_some_and(|plan| problem.file.ends_with(plan))
    };
    let is_meant = |problem: &Diagnostic| {
        tenants.is_empty()
            || problem.file.ends_with("bailiwick.toml")
            || tenants.iter().any(|name| of_it(problem, name))
    };
    let found = bailiwick_policy::check(config, &machine).into_iter();
    found.filter(|problem| !diagnostics.contains(problem) && is_meant(problem)).collect()
}

/// The failure that problems of the files are.
pub(crate) fn invalid(diagnostics: &[Diagnostic]) -> Failure {
    let problems = bailiwick_diagnostics::render(diagnostics);
    Failure::of(ExitStatus::Invalid, format!("the configuration is not valid\n{}", problems.trim_end()))
}

/// What the machine has, with the users of directory services who are called as a tenant with a host user.
fn machine(config: &Path) -> Result<Machine, Failure> {
    let of_users = |error| Failure::new(ExitStatus::Failed, &error);
    let mut users = bailiwick_observe::user_readings().map_err(of_users)?.users;
    let tenants = bailiwick_policy::read(config).policy.map(|policy| policy.tenants).unwrap_or_default();
    let named = tenants.values().filter(|tenant| tenant.has_host_user()).map(|tenant| tenant.name.to_string());
    let directory = bailiwick_observe::directory_users(&named.collect::<Vec<_>>(), DIRECTORY_TIME).map_err(of_users)?;
    for service in directory.silent {
        let what = "whether it has users who are called as tenants is not known";
        output::complain(&format!("the directory service \"{service}\" of /etc/nsswitch.conf does not answer: {what}"));
    }
    users.extend(directory.users);
    machine_of(config, users)
}

fn machine_of(config: &Path, users: Vec<(String, u32)>) -> Result<Machine, Failure> {
    let failed = |error: io::Error| Failure::of(ExitStatus::Failed, format!("cannot look at the machine: {error}"));
    // Where it is, or the nearest that is there of where it will be.
    let state_dir = Store::new(config).host().ok().map(|(host, _)| host.state_dir);
    let stat = state_dir.iter().flat_map(|dir| dir.ancestors()).find_map(|dir| rustix::fs::statvfs(dir).ok());
    let disk = stat.map(|stat| ByteSize(stat.f_blocks.saturating_mul(stat.f_frsize)));
    Ok(Machine {
        memory: proc::memory_bytes().map(ByteSize).map_err(failed)?,
        tasks: proc::max_tasks().map_err(failed)?,
        disk,
        users,
    })
}

/// `bailiwick check`.
pub(crate) fn check(config: &Path, form: Form) -> Result<ExitStatus, Failure> {
    let diagnostics = bailiwick_policy::check(config, &machine(config)?);
    match form {
        Form::Text => output::complain_raw(&bailiwick_diagnostics::render(&diagnostics)),
        Form::Json => output::print_json(&diagnostics)?,
    }
    if diagnostics.is_empty() {
        return Ok(ExitStatus::Done);
    }
    let in_force = Store::new(config).read();
    match (form, &in_force.policy) {
        (Form::Json, _) => {}
        (Form::Text, None) => output::complain("nothing is known of what these files said before"),
        (Form::Text, Some(policy)) => {
            let lost: Vec<String> = in_force
                .invalid
                .iter()
                .filter(|name| !policy.tenants.contains_key(*name))
                .map(ToString::to_string)
                .collect();
            let but = if lost.is_empty() {
                String::new()
            } else {
                format!("; of these nothing is known from before, and nobody gets in: {}", lost.join(", "))
            };
            output::complain(&format!("what these files last said without an error is in force{but}"));
        }
    }
    Ok(ExitStatus::Invalid)
}

/// `bailiwick dump`. With a problem in any file nothing is printed: a dump without a tenant would read as if the tenant
/// were to go.
pub(crate) fn dump(config: &Path, to: Option<&Path>) -> Result<(), Failure> {
    let reading = bailiwick_policy::read(config);
    let policy = match reading.policy {
        Some(policy) if reading.diagnostics.is_empty() => policy,
        _ => return Err(invalid(&reading.diagnostics)),
    };
    let files = bailiwick_policy::dump(&policy);
    match to {
        None => output::print(&output::visible_lines(&listing(&files))),
        Some(dir) => write_tree(dir, &files),
    }
}

/// `bailiwick keys`: as the policy that is in force has them, with every right taken away but a terminal's (`sshd(8)`).
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

/// Names a refused login in the log of the system: sshd throws away what its command for keys complains of. Where nobody keeps a log,
/// there is nobody to tell.
fn log_refusal(tenant: &TenantName, diagnostics: &[Diagnostic]) {
    /// Facility `auth`, severity `warning` (`syslog(3)`).
    const PRIORITY: u32 = 4 << 3 | 4;
    let reason = diagnostics.first().map(ToString::to_string).unwrap_or_default();
    let line = format!("<{PRIORITY}>bailiwick: event=login-refused tenant={tenant} reason={reason:?}");
    if let Ok(socket) = UnixDatagram::unbound() {
        socket.set_nonblocking(true).and_then(|()| socket.send_to(line.as_bytes(), LOG)).ok();
    }
}

fn listing(files: &[(PathBuf, String)]) -> String {
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
    fn a_tree_is_written_once_and_never_over_something() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("a/b");
        write_tree(&dir, &files()).expect("writes");
        assert_eq!(fs::read_to_string(dir.join("plans.d/small.toml")).expect("written"), "profile = \"web\"\n");
        let failure = write_tree(&dir, &files()).expect_err("not empty");
        assert_eq!(failure.status, ExitStatus::Conflict);
        assert!(failure.message.contains("is not empty"), "{}", failure.message);
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
