//! Which parts of the host's `/etc` programs of its `/usr` find in a jail.
//!
//! Danger: every tenant reads what this lets through. A file passes when it is, byte for byte, what a package holds, which
//! anybody can read in that package; when it is one of a few that the host makes from packages; or when the operator says so.
//! A file that somebody wrote into, a package's script with an answer of the operator's among them, is none of the first. No
//! private key passes, and no link whose target does not: its name may be a customer's.

use crate::model::EtcSettings;

/// Entries that the host makes from what packages bring, and that hold nothing of anybody. A directory stands for all in it.
pub const GENERATED: &[&str] = &[
    "alternatives", // what `awk`, `editor`, `php` mean on this distribution
    "inputrc",      // base-files copies it once, and no package counts it as its own
    "ld.so.cache",  // without it every library is searched for
    "mailcap",
    "mime.types",
    "protocols",
    "python3/debian_config",
    "services",
    "sgml/catalog", // where document types lie, as packages registered them
    "ssl/certs",    // never `ssl`: private keys lie beside
    "xml/catalog",
];

/// Names of entries that a jail has of its own, or that say how the host is run: never shown, whoever brought them. A star stands
/// for whatever follows.
const NEVER: &[&str] = &[
    "anacrontab",
    "apparmor*",
    "bailiwick",
    "cron*",
    "default",
    "fstab",
    "grub.d",
    "group*",
    "gshadow*",
    "host.conf",
    "hostname",
    "hosts*",
    "init.d",
    "initramfs-tools",
    "kernel",
    "localtime",
    "logrotate*",
    "machine-id",
    "modprobe.d",
    "modules*",
    "mtab",
    "netplan",
    "network*",
    "NetworkManager",
    "nsswitch.conf",
    "os-release",
    "pam.conf",
    "pam.d",
    "passwd*",
    "profile",
    "rc*.d",
    "resolv*",
    "security",
    "selinux",
    "shadow*",
    "shells",
    "ssh",
    "subgid*",
    "subuid*",
    "sudo*",
    "systemd",
    "timezone",
    "udev",
    "ufw",
];

/// What a name anywhere below `/etc` may not hold.
const SECRET: &[&str] = &["credential", "keytab", "passw", "private", "secret", "shadow", "token"];

/// Whether `path` is `entry` or lies in it.
fn is_within(path: &str, entry: &str) -> bool {
    path.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path below `/etc` may not be shown, whatever is in it.
#[must_use]
pub fn is_barred(path: &str, etc: &EtcSettings) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    let is_named = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) if pattern.ends_with("*") => first.starts_with(start),
        _ => match pattern.split_once('*') {
            Some((start, end)) => first.len() >= pattern.len() - 1 && first.starts_with(start) && first.ends_with(end),
            None => first == *pattern,
        },
    };
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.ends_with(".key") || SECRET.iter().any(|word| name.contains(word))
    };
    NEVER.iter().any(is_named) || path.split('/').any(is_secret) || etc.never.iter().any(|entry| is_within(path, entry))
}

/// Whether a path is shown as it is now, without a comparison with what a package brought.
#[must_use]
pub fn is_taken_whole(path: &str, etc: &EtcSettings) -> bool {
    GENERATED.iter().any(|entry| is_within(path, entry)) || etc.extra.iter().any(|entry| is_within(path, entry))
}

/// Where a link of the host's `/etc` leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// Into `/usr`, which every jail has.
    Usr,
    /// To this path below `/etc`: a jail has it only if it is shown.
    Etc(String),
}

/// Where a link leads, when a jail may have the same there. `path` is the link's own, below `/etc`.
#[must_use]
pub fn link_target(path: &str, to: &str, etc: &EtcSettings) -> Option<LinkTarget> {
    let mut parts: Vec<&str> =
        if to.starts_with('/') { Vec::new() } else { std::iter::once("etc").chain(path.split('/')).collect() };
    parts.pop();
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    match parts.split_first() {
        Some((&"usr", below)) => (below.first() != Some(&"local")).then_some(LinkTarget::Usr),
        Some((&"etc", below)) if !below.is_empty() => {
            let below = below.join("/");
            (!is_barred(&below, etc)).then_some(LinkTarget::Etc(below))
        }
        _ => None,
    }
}

/// Whether a file holds a private key, as PEM (RFC 7468) has it. None is ever shown, whatever its name.
#[must_use]
pub fn holds_private_key(content: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    content.windows(MARK.len()).any(|window| window == MARK)
}

/// The files below `/etc` that packages brought, each with the MD5 of what they brought: from `/var/lib/dpkg/status`.
pub fn conffiles(status: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut within = false;
    status.lines().filter_map(move |line| {
        let is_continued = line.starts_with(' ');
        within = if is_continued { within } else { line == "Conffiles:" };
        let mut words = line.split_ascii_whitespace();
        let (path, digest) = (words.next()?, words.next()?);
        // A file that a package no longer brings has the word "obsolete" behind it: it was brought all the same.
        (within && is_continued).then_some(())?;
        Some((path.strip_prefix("/etc/")?, digest))
    })
}

/// The same of those that a package's own scripts put there, from `/var/lib/ucf/hashfile`: what they put there may hold an answer of the
/// operator's, so a digest says something only if the package has a file of it ([`digests`]).
pub fn ucf_files(hashes: &str) -> impl Iterator<Item = (&str, &str)> {
    hashes.lines().filter_map(|line| {
        let (digest, path) = line.split_once("  ")?;
        Some((path.strip_prefix("/etc/")?, digest))
    })
}

/// Whose script put a file there, by path below `/etc`: from `/var/lib/ucf/registry`.
pub fn ucf_owners(registry: &str) -> impl Iterator<Item = (&str, &str)> {
    registry.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (package, path) = (words.next()?, words.next()?);
        let is_name = package.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        is_name.then_some((path.strip_prefix("/etc/")?, package))
    })
}

/// The digests of a package's files: from `/var/lib/dpkg/info/PACKAGE.md5sums`.
pub fn digests(md5sums: &str) -> impl Iterator<Item = &str> {
    md5sums.lines().filter_map(|line| Some(line.split_once("  ")?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_jail_has_itself_and_what_may_be_secret_is_barred() {
        let etc = EtcSettings { extra: vec!["php".into()], never: vec!["fonts/local".into()] };
        for barred in [
            "shadow",
            "shadow-",
            "passwd",
            "sudoers",
            "sudoers.d/x",
            "ssh/ssh_config",
            "ssl/private",
            "ssl/private/x.pem",
            "rc2.d/S01x",
            "cron.d/php",
            "php/secrets.ini",
            "x/server.KEY",
            "mysql/password.cnf",
            "fonts/local/x",
            "bailiwick/bailiwick.toml",
            "machine-id",
            "hosts.allow",
            "resolv.conf",
            "systemd/system.conf",
            "networks",
            "krb5.keytab",
        ] {
            assert!(is_barred(barred, &etc), "{barred}");
        }
        for open in [
            "php/8.2/cli/php.ini",
            "ssl/openssl.cnf",
            "ssl/certs/x.pem",
            "fonts/fonts.conf",
            "ImageMagick-6/policy.xml",
            "rc.x",
        ] {
            assert!(!is_barred(open, &etc), "{open}");
        }
        assert!(is_taken_whole("ssl/certs/ca.pem", &etc) && is_taken_whole("php/x", &etc));
        assert!(
            !is_taken_whole("ssl/certs-of-mine", &etc) && !is_taken_whole("phpx", &etc) && !is_taken_whole("ssl", &etc)
        );
    }

    #[test]
    fn links_lead_to_what_a_jail_has() {
        let etc = EtcSettings::default();
        let below_etc = |path: &str| Some(LinkTarget::Etc(path.to_owned()));
        for (path, to, target) in [
            (
                "php/8.2/cli/conf.d/20-curl.ini",
                "/etc/php/8.2/mods-available/curl.ini",
                below_etc("php/8.2/mods-available/curl.ini"),
            ),
            ("fonts/conf.d/10-x.conf", "../conf.avail/10-x.conf", below_etc("fonts/conf.avail/10-x.conf")),
            ("fonts/conf.d/10-x.conf", "/usr/share/fontconfig/conf.avail/10-x.conf", Some(LinkTarget::Usr)),
            ("alternatives/awk", "../../usr/bin/mawk", Some(LinkTarget::Usr)),
        ] {
            assert_eq!(link_target(path, to, &etc), target, "{path} -> {to}");
        }
        for to in [
            "/root/x",
            "../../root/x",
            "/etc/shadow",
            "../../../../etc/ssl/private/x",
            "/usr/local/x",
            "/etc",
            "/",
            "../..",
            "/srv",
        ] {
            assert_eq!(link_target("a/b", to, &etc), None, "{to}");
        }
    }

    #[test]
    fn a_private_key_is_known_whatever_it_is_called() {
        for kind in ["", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH "] {
            let text = format!("-----BEGIN CERTIFICATE-----\n-----BEGIN {kind}PRIVATE KEY-----\nx");
            assert!(holds_private_key(text.as_bytes()), "{kind}");
        }
        assert!(!holds_private_key(b"-----BEGIN CERTIFICATE-----") && !holds_private_key(b""));
    }

    #[test]
    fn what_packages_brought_is_read_from_what_dpkg_and_ucf_note() {
        let status = "Package: php\nConffiles:\n /etc/php/a.ini 00aa\n /etc/php/b.ini 00bb obsolete\n /opt/x 11\nDescription: y\n /etc/z 22\n";
        assert_eq!(conffiles(status).collect::<Vec<_>>(), [("php/a.ini", "00aa"), ("php/b.ini", "00bb")]);
        assert_eq!(ucf_files("00cc  /etc/php/c.ini\nnonsense\n").collect::<Vec<_>>(), [("php/c.ini", "00cc")]);
        let registry = "php8.2-cli \t /etc/php/c.ini\n../evil /etc/x\nlone\n";
        assert_eq!(ucf_owners(registry).collect::<Vec<_>>(), [("php/c.ini", "php8.2-cli")]);
        assert_eq!(digests("00cc  usr/lib/php/c.ini\nnonsense\n").collect::<Vec<_>>(), ["00cc"]);
    }
}
