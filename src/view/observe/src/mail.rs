//! How mail leaves the host: its `sendmail`, and the domain of senders.

use bailiwick_policy::is_domain;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The domain of the host's mail on Debian.
const NAME: &str = "/etc/mailname";

/// What is wrong with the host's `sendmail`; `None` when every user can run it.
#[must_use]
pub fn sendmail_problem(command: &Path) -> Option<String> {
    let path = command.display();
    match fs::metadata(command) {
        Err(error) if error.kind() == ErrorKind::NotFound => Some(format!("there is no \"{path}\"")),
        Err(error) => Some(format!("\"{path}\" cannot be used: {error}")),
        Ok(metadata) if metadata.is_dir() => Some(format!("\"{path}\" is a directory")),
        Ok(metadata) if !metadata.is_file() => Some(format!("\"{path}\" is no program")),
        Ok(metadata) if metadata.permissions().mode() & 0o001 == 0 => {
            Some(format!("\"{path}\" cannot be executed by every user"))
        }
        Ok(_) => None,
    }
}

/// The domain of senders when the operator has named none: the first line of `/etc/mailname`, or else the name of the host.
#[must_use]
pub fn mail_domain() -> String {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    domain_of(fs::read_to_string(NAME).ok().as_deref(), &node)
}

fn domain_of(named: Option<&str>, node: &str) -> String {
    let first = named.and_then(|text| text.lines().next()).map(str::trim);
    first.into_iter().chain([node]).find(|text| is_domain(text)).unwrap_or("localhost").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_the_first_line_of_mailname_or_the_name_of_the_host() {
        for (named, node, golden) in [
            (Some("example.org\n"), "node", "example.org"),
            (Some(" example.org \r\nother.org\n"), "node", "example.org"),
            (Some("# no domain\nexample.org\n"), "node.example", "node.example"),
            (Some(""), "node", "node"),
            (Some("-x.org"), "node", "node"),
            (Some("a@b.org"), "bad_name", "localhost"),
            (None, "node", "node"),
        ] {
            assert_eq!(domain_of(named, node), golden, "{named:?}");
        }
    }

    #[test]
    fn what_every_user_can_run_is_no_problem() {
        let temp = tempfile::tempdir().expect("a folder");
        let program = temp.path().join("sendmail");
        let problem = |path: &Path| sendmail_problem(path).unwrap_or_default();
        assert!(problem(&program).starts_with("there is no "));
        assert!(problem(temp.path()).ends_with(" is a directory"));
        assert!(problem(Path::new("/dev/null")).ends_with(" is no program"));
        fs::write(&program, "").expect("writes");
        for (mode, golden) in [(0o644, false), (0o750, false), (0o755, true), (0o2711, true)] {
            fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(sendmail_problem(&program).is_none(), golden, "{mode:o}");
        }
        assert!(problem(&program.join("x")).contains("cannot be used: Not a directory"));
    }
}
