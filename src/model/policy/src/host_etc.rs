//! Decides which parts of the host's `/etc` a jail sees, for the programs of the host's `/usr`.
//!
//! A file passes in three cases. It is byte for byte the file of a package, which anybody can read in that package. It is one
//! of a few files that the host makes from packages. Or the operator names it.
//!
//! Danger: every tenant can read what passes. A file that was changed after its installation must not pass by the first rule,
//! even if a package's script has changed it, because it may hold an answer of the operator. No private key may pass, and no
//! link to a path that does not pass, because the name of the target may be that of a customer.

use crate::model::EtcSettings;
use std::collections::{BTreeMap, BTreeSet};

/// The entries that the host makes from packages. They hold nothing private. A directory stands for everything in it.
pub const GENERATED: &[&str] = &[
    "alternatives", // the programs behind `awk`, `editor`, `php` on this distribution
    "inputrc",      // base-files copies it once, and no package owns it
    "ld.so.cache",  // without it the loader searches for every library
    "mailcap",
    "mime.types",
    "protocols",
    "python3/debian_config",
    "services",
    "sgml/catalog", // the paths of document types, registered by packages
    "ssl/certs",    // never the whole `ssl`, which holds private keys
    "xml/catalog",
];

/// The names of entries that are never shown: a jail has its own, or they tell how the host is run. A star stands for any
/// characters.
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

/// The words that bar any name that holds them, anywhere below `/etc`.
const SECRET: &[&str] = &["credential", "keytab", "passw", "private", "secret", "shadow", "token"];

/// Whether `path` is `entry` or lies below it.
fn is_within(path: &str, entry: &str) -> bool {
    path.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path below `/etc` must not be shown, whatever it holds. `etc` are the operator's settings.
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

/// Whether a path below `/etc` is shown as it is, without a comparison with the file of a package.
#[must_use]
pub fn is_taken_whole(path: &str, etc: &EtcSettings) -> bool {
    GENERATED.iter().any(|entry| is_within(path, entry)) || etc.extra.iter().any(|entry| is_within(path, entry))
}

/// The target of a link in the host's `/etc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// A path in `/usr`, which every jail has.
    Usr,
    /// This path below `/etc`. A jail has it only if it is shown.
    Etc(String),
}

/// The target of a link, if a jail may have the same link; otherwise `None`. `path` is that of the link, below `/etc`, and `to`
/// is its content.
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

/// Whether a file holds a private key in PEM (RFC 7468). Such a file is never shown, whatever its name.
#[must_use]
pub fn holds_private_key(content: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    content.windows(MARK.len()).any(|window| window == MARK)
}

/// The configuration files of packages, each as its path below `/etc` and the MD5 digest of the package's version. `status` is
/// the content of `/var/lib/dpkg/status`.
pub fn conffiles(status: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut within = false;
    status.lines().filter_map(move |line| {
        let is_continued = line.starts_with(' ');
        within = if is_continued { within } else { line == "Conffiles:" };
        let mut words = line.split_ascii_whitespace();
        let (path, digest) = (words.next()?, words.next()?);
        // The word "obsolete" may follow: the package no longer has the file, but did have it.
        (within && is_continued).then_some(())?;
        Some((path.strip_prefix("/etc/")?, digest))
    })
}

/// The configuration files that packages' scripts have installed, each as its path below `/etc` and its MD5 digest. `hashes` is
/// the content of `/var/lib/ucf/hashfile`. Such a file may hold an answer of the operator. So its digest counts only if a file
/// of a package of the same source has the same digest ([`digests`], [`packages_by_source`]).
pub fn ucf_files(hashes: &str) -> impl Iterator<Item = (&str, &str)> {
    hashes.lines().filter_map(|line| {
        let (digest, path) = line.split_once("  ")?;
        Some((path.strip_prefix("/etc/")?, digest))
    })
}

/// The packages whose scripts have installed files, each as the path below `/etc` and the package. `registry` is the content of
/// `/var/lib/ucf/registry`.
pub fn ucf_owners(registry: &str) -> impl Iterator<Item = (&str, &str)> {
    registry.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (package, path) = (words.next()?, words.next()?);
        is_package(package).then_some((path.strip_prefix("/etc/")?, package))
    })
}

/// The packages of each source package, by the name of the source. `status` is the content of `/var/lib/dpkg/status`.
pub fn packages_by_source(status: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for stanza in status.split("\n\n") {
        let field = |name: &str| {
            let mut values = stanza.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            values.next().and_then(|value| value.split_ascii_whitespace().next())
        };
        // A version may follow the name of the source. Without a source, the package has the source's name.
        if let Some(package) = field("Package").filter(|package| is_package(package)) {
            all.entry(field("Source").unwrap_or(package)).or_default().insert(package);
        }
    }
    all
}

fn is_package(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// The MD5 digests of a package's files. `md5sums` is the content of `/var/lib/dpkg/info/PACKAGE.md5sums`.
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
        let status = "Package: php8.2-fpm\nSource: php8.2 (8.2.1)\nDescription: a\n Package: b\n\nPackage: php8.2-common\nSource: php8.2\n\nPackage: ../x\n\nPackage: nginx\n";
        let of = |names: &[&'static str]| BTreeSet::from_iter(names.iter().copied());
        let golden = [("nginx", of(&["nginx"])), ("php8.2", of(&["php8.2-common", "php8.2-fpm"]))];
        assert_eq!(packages_by_source(status), golden.into());
        assert_eq!(digests("00cc  usr/lib/php/c.ini\nnonsense\n").collect::<Vec<_>>(), ["00cc"]);
    }
}
