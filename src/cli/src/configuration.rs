//! `check`, `dump` and `keys`, and what every other command needs of the configuration.

use crate::output::{self, Form};
use bailiwick_client::Daemon;
use bailiwick_policy::Diagnostic;
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, TenantName};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The daemon that this configuration names.
pub(crate) fn daemon(config: &Path) -> Result<Daemon, Failure> {
    let host = bailiwick_policy::read_host(config).map_err(|diagnostics| invalid(&diagnostics))?;
    Ok(Daemon::of(&host.runtime_dir))
}

/// The failure that problems of the files are.
pub(crate) fn invalid(diagnostics: &[Diagnostic]) -> Failure {
    let problems = bailiwick_policy::render(diagnostics);
    Failure::of(ExitStatus::Invalid, format!("the configuration is not valid\n{}", problems.trim_end()))
}

/// `bailiwick check`.
pub(crate) fn check(config: &Path, form: Form) -> Result<ExitStatus, Failure> {
    let diagnostics = bailiwick_policy::read(config).diagnostics;
    match form {
        Form::Text => output::complain_raw(&bailiwick_policy::render(&diagnostics)),
        Form::Json => output::print_json(&diagnostics)?,
    }
    Ok(if diagnostics.is_empty() { ExitStatus::Done } else { ExitStatus::Invalid })
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

/// `bailiwick keys`: as the policy has them now, with every right taken away but a terminal's (`sshd(8)`). Nobody whose files
/// have an error is let in.
pub(crate) fn keys(config: &Path, tenant: &TenantName) -> Result<(), Failure> {
    match bailiwick_policy::read_tenant(config, tenant) {
        Ok((_, Some(tenant))) => {
            let lines: String = tenant.login.ssh_keys.iter().map(|key| format!("restrict,pty {key}\n")).collect();
            output::print(&lines)
        }
        Ok((_, None)) => Err(Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{tenant}\""))),
        Err(diagnostics) => Err(invalid(&diagnostics)),
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
