//! Floor 7: `bailiwick-shell`, the login shell of tenants' host users: hands what sshd gives it to the jail, and ends as the
//! command inside ends.
//!
//! Danger: it runs on the host, as the tenant's host user, with arguments and an environment that the tenant's client had a
//! part in. So it reads no file of the tenant's (what sshd says of the login is sshd's own file), starts no program, and never was set-user-ID. Without `bailiwickd` there is
//! no way in.

use bailiwick_client::{Caller, Daemon, SessionSpec, StreamKind, run, stdin_is_terminal};
use bailiwick_proto::{Bytes, Failure};
use bailiwick_types::{Door, ExitStatus};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// Where the policy is, unless whoever starts this says otherwise: sshd says nothing.
const CONFIG: &str = "/etc/bailiwick";
/// The program that `ForceCommand` names: a login, or what sshd was asked for.
const FORCED: &[u8] = b"bailiwick-shell";
/// What sshd was asked for, when it runs something else (`sshd_config(5)`, `ForceCommand`).
const ASKED: &str = "SSH_ORIGINAL_COMMAND";
/// The client's address and port, and the host's (`ssh(1)`).
const CONNECTION: &str = "SSH_CONNECTION";
/// The file in which sshd says how the client proved who it is (`sshd_config(5)`, `ExposeAuthInfo`).
const PROVED: &str = "SSH_USER_AUTH";
/// It has a line for each way.
const MAX_PROVED: u64 = 64 << 10;
/// What a session inside is told of its client.
const PASSED: &[&str] = &["LANG", "LANGUAGE", "TZ", CONNECTION, "SSH_CLIENT"];
/// The same, all that begin so.
const PASSED_PREFIX: &str = "LC_";

fn main() -> ExitCode {
    let mut config = OsString::from(CONFIG);
    let mut command = None;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"-c" => command = arguments.next(),
            // As root starts it: `su` and `runuser` pass it on, sshd does not.
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
    match enter(Path::new(&config), asked(command, std::env::var_os(ASKED))) {
        Ok(status) => status.into(),
        Err(failure) => {
            complain(&failure.message);
            failure.status.into()
        }
    }
}

/// To the client, by way of sshd. When nobody reads it, there is nobody to tell.
fn complain(message: &str) {
    let text: String = message.lines().map(|line| format!("bailiwick: {line}\n")).collect();
    std::io::stderr().write_all(text.as_bytes()).ok();
}

/// What is to be run inside: what the client asked sshd for, whatever it was that sshd ran then.
fn asked(command: Option<OsString>, original: Option<OsString>) -> Option<OsString> {
    original.or(command.filter(|command| command.as_bytes().rsplit(|byte| *byte == b'/').next() != Some(FORCED)))
}

/// The door that a command goes through. sshd runs its subsystem `sftp` as a command: the program's path, or the word
/// that stands for the one in sshd itself.
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

/// The key that the client proved to have, if sshd tells (`ExposeAuthInfo`).
fn key() -> Option<String> {
    let file = std::fs::File::open(std::env::var_os(PROVED)?).ok()?;
    let mut text = String::new();
    file.take(MAX_PROVED).read_to_string(&mut text).ok()?;
    first_key(&text)
}

/// The first line that tells of a key: its type and the key itself.
fn first_key(text: &str) -> Option<String> {
    let words = text.lines().find_map(|line| line.strip_prefix("publickey "))?;
    let mut words = words.split(' ');
    let (kind, key) = (words.next()?, words.next()?);
    Some(format!("{kind} {key}"))
}

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
    fn what_the_client_asked_for_is_run_whatever_sshd_ran() {
        let some = |text: &str| Some(OsString::from(text));
        assert_eq!(asked(None, None), None);
        assert_eq!(asked(some("bailiwick-shell"), None), None, "a forced command without a wish is a login");
        assert_eq!(asked(some("/usr/bin/bailiwick-shell"), None), None);
        assert_eq!(asked(some("/usr/bin/bailiwick-shell"), some("ls -l")), some("ls -l"));
        assert_eq!(asked(some("ls"), None), some("ls"));
        assert_eq!(asked(some("ls"), some("bailiwick-shell")), some("bailiwick-shell"), "a word like any other inside");
    }

    #[test]
    fn sftp_is_told_by_the_program() {
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
    fn the_key_is_what_sshd_says() {
        assert_eq!(first_key("publickey ssh-ed25519 AAAA\n").as_deref(), Some("ssh-ed25519 AAAA"));
        assert_eq!(first_key("password\npublickey ssh-rsa BBBB x\n").as_deref(), Some("ssh-rsa BBBB"));
        for text in ["", "password\n", "publickey \n", "publickey ssh-rsa\n", " publickey ssh-rsa AAAA"] {
            assert_eq!(first_key(text), None, "{text:?}");
        }
    }

    #[test]
    fn little_of_the_environment_goes_in() {
        let own =
            ["LANG=C", "LC_ALL=C", "TZ=UTC", "LD_PRELOAD=/x", "PATH=/x", "SSH_CONNECTION=a 1 b 2", "HOME=/", "LCX=1"];
        let pairs = own.iter().map(|pair| pair.split_once('=').expect("a pair"));
        let kept = environment(pairs.map(|(key, value)| (key.into(), value.into())));
        let keys: Vec<_> = kept.iter().map(|(key, _)| key.as_os_str().to_str().expect("text")).collect();
        assert_eq!(keys, ["LANG", "LC_ALL", "TZ", "SSH_CONNECTION"]);
    }
}
