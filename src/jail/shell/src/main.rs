//! Floor 7: `bailiwick-shell`, the login shell of tenants' host users. It runs a session in the tenant's jail and ends as the
//! command inside ends.
//!
//! Danger: it runs on the host, as the tenant's host user, with arguments and an environment that the tenant's client can
//! influence. It may read no file of the tenant, start no program, and never be set-user-ID. The file in which sshd describes
//! the login belongs to sshd. Without `bailiwickd` nobody gets in.

use bailiwick_client::{Caller, Daemon, SessionSpec, StreamKind, run, stdin_is_terminal};
use bailiwick_proto::{Bytes, Failure};
use bailiwick_types::{Door, ExitStatus};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// The configuration directory without `--config`. sshd never passes that option.
const CONFIG: &str = "/etc/bailiwick";
/// The name of this program in `ForceCommand`. It means the command that the client asked for, or else a login.
const FORCED: &[u8] = b"bailiwick-shell";
/// The variable with the client's command, when sshd runs a forced one instead (`sshd_config(5)`, `ForceCommand`).
const ORIGINAL_COMMAND: &str = "SSH_ORIGINAL_COMMAND";
/// The variable with address and port of the client and of the host (`ssh(1)`).
const CONNECTION: &str = "SSH_CONNECTION";
/// The variable with the path of sshd's file about the authentication (`sshd_config(5)`, `ExposeAuthInfo`).
const AUTH_INFO: &str = "SSH_USER_AUTH";
/// The most bytes that are read of that file. It has one line for each method of authentication.
const MAX_AUTH_INFO: u64 = 64 << 10;
/// The variables that a session inside gets from its client.
const PASSED: &[&str] = &["LANG", "LANGUAGE", "TZ", CONNECTION, "SSH_CLIENT"];
/// The prefix of further variables that a session gets.
const PASSED_PREFIX: &str = "LC_";

fn main() -> ExitCode {
    let mut config = OsString::from(CONFIG);
    let mut command = None;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"-c" => command = arguments.next(),
            // `su` and `runuser` pass this on when root starts them. sshd does not.
            b"-l" | b"--login" => {}
            b"--config" => config = arguments.next().unwrap_or_default(),
            b"--version" => {
                let line = format!("bailiwick-shell {}\n", env!("CARGO_PKG_VERSION"));
                return if std::io::stdout().write_all(line.as_bytes()).is_ok() {
                    ExitCode::SUCCESS
                } else {
                    ExitStatus::Failed.into()
                };
            }
            _ => {
                complain("usage: bailiwick-shell [--config DIR] [-l] [-c COMMAND]");
                return ExitStatus::Invalid.into();
            }
        }
    }
    match enter(Path::new(&config), requested_command(command, std::env::var_os(ORIGINAL_COMMAND))) {
        Ok(status) => status.into(),
        Err(failure) => {
            complain(&failure.message);
            failure.status.into()
        }
    }
}

/// Writes a message to the client, through sshd. A message that cannot be written is lost.
fn complain(message: &str) {
    let text: String = message.lines().map(|line| format!("bailiwick: {line}\n")).collect();
    std::io::stderr().write_all(text.as_bytes()).ok();
}

/// The command to run inside; `None` for a login. The client's own command counts, even when sshd ran a forced one.
fn requested_command(command: Option<OsString>, original: Option<OsString>) -> Option<OsString> {
    original.or(command.filter(|command| command.as_bytes().rsplit(|byte| *byte == b'/').next() != Some(FORCED)))
}

/// The door that a command uses. sshd runs its subsystem `sftp` as a command: either the path of the program, or the word for the
/// server in sshd itself.
fn door(command: Option<&OsStr>) -> Door {
    let first = command.and_then(|command| command.as_bytes().split(|byte| *byte == b' ').next()).unwrap_or_default();
    let name = first.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if name == b"sftp-server" || first == b"internal-sftp" { Door::Sftp } else { Door::Ssh }
}

fn enter(config: &Path, command: Option<OsString>) -> Result<u8, Failure> {
    let (host, _) = bailiwick_policy::Store::new(config).host().map_err(|_| {
        let reason = bailiwick_client::descriptor_shortage().map_or_else(
            || "this host is not set up; its operator can say more".to_owned(),
            |error| format!("this login has too few descriptors (`nofile` in limits.conf(5)): {error}"),
        );
        Failure::of(ExitStatus::Failed, reason)
    })?;
    let source = std::env::var(CONNECTION).ok().and_then(|text| text.split(' ').next().map(str::to_owned));
    let streams = if stdin_is_terminal() { StreamKind::Terminal } else { StreamKind::Pipes };
    let caller = Caller::Login { door: door(command.as_deref()), command, source, key: key() };
    run(&Daemon::of(&host.runtime_dir), SessionSpec { caller, env: environment(std::env::vars_os()), streams })
}

/// The key that the client proved to have, if sshd names it (`ExposeAuthInfo`).
fn key() -> Option<String> {
    let file = std::fs::File::open(std::env::var_os(AUTH_INFO)?).ok()?;
    let mut text = String::new();
    file.take(MAX_AUTH_INFO).read_to_string(&mut text).ok()?;
    first_key(&text)
}

/// Type and text of the first key in sshd's description of an authentication.
fn first_key(text: &str) -> Option<String> {
    let words = text.lines().find_map(|line| line.strip_prefix("publickey "))?;
    let mut words = words.split(' ');
    let (kind, key) = (words.next()?, words.next()?);
    Some(format!("{kind} {key}"))
}

/// The variables of this process that go into the session.
fn environment(own: impl Iterator<Item = (OsString, OsString)>) -> Vec<(Bytes, Bytes)> {
    let passes = |key: &OsStr| key.to_str().is_some_and(|key| PASSED.contains(&key) || key.starts_with(PASSED_PREFIX));
    own.filter(|(key, _)| passes(key))
        .filter_map(|(key, value)| Some((Bytes::from_os(key).ok()?, Bytes::from_os(value).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_command_counts_and_not_the_forced_one() {
        let some = |text: &str| Some(OsString::from(text));
        assert_eq!(requested_command(None, None), None);
        assert_eq!(
            requested_command(some("bailiwick-shell"), None),
            None,
            "a forced command without one of the client is a login"
        );
        assert_eq!(requested_command(some("/usr/bin/bailiwick-shell"), None), None);
        assert_eq!(requested_command(some("/usr/bin/bailiwick-shell"), some("ls -l")), some("ls -l"));
        assert_eq!(requested_command(some("ls"), None), some("ls"));
        assert_eq!(
            requested_command(some("ls"), some("bailiwick-shell")),
            some("bailiwick-shell"),
            "the client's own command has no special words"
        );
    }

    #[test]
    fn the_door_follows_from_the_program() {
        for (command, golden) in [
            ("/usr/lib/openssh/sftp-server", Door::Sftp),
            ("/usr/libexec/sftp-server -l INFO", Door::Sftp),
            ("internal-sftp", Door::Sftp),
            ("internal-sftp -d /", Door::Sftp),
            ("sftp-server", Door::Sftp),
            ("scp -t .", Door::Ssh),
            ("rsync --server . sftp-server", Door::Ssh),
            ("echo /usr/lib/openssh/sftp-server", Door::Ssh),
            ("./internal-sftp", Door::Ssh),
            ("", Door::Ssh),
        ] {
            assert_eq!(door(Some(OsStr::new(command))), golden, "{command}");
        }
        assert_eq!(door(None), Door::Ssh);
    }

    #[test]
    fn the_first_key_of_sshds_description_counts() {
        assert_eq!(first_key("publickey ssh-ed25519 AAAA\n").as_deref(), Some("ssh-ed25519 AAAA"));
        assert_eq!(first_key("password\npublickey ssh-rsa BBBB x\n").as_deref(), Some("ssh-rsa BBBB"));
        for text in ["", "password\n", "publickey \n", "publickey ssh-rsa\n", " publickey ssh-rsa AAAA"] {
            assert_eq!(first_key(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_listed_variables_go_in() {
        let own =
            ["LANG=C", "LC_ALL=C", "TZ=UTC", "LD_PRELOAD=/x", "PATH=/x", "SSH_CONNECTION=a 1 b 2", "HOME=/", "LCX=1"];
        let pairs = own.iter().map(|pair| pair.split_once('=').expect("a pair"));
        let passed = environment(pairs.map(|(key, value)| (key.into(), value.into())));
        let keys: Vec<_> = passed.iter().map(|(key, _)| key.as_os_str().to_str().expect("text")).collect();
        assert_eq!(keys, ["LANG", "LC_ALL", "TZ", "SSH_CONNECTION"]);
    }
}
