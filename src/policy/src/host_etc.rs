//! Which parts of the host's `/etc` programs of its `/usr` find in a jail.
//!
//! Danger: every tenant reads what this lets through. A file passes when it is, byte for byte, what a package brought, which
//! anybody can read in that package; when it is one of a few that the host makes from packages; or when the operator says so.
//! A file that somebody wrote into is none of the first, so a password in it never shows, whatever its name and mode.

use crate::model::EtcWishes;

/// Entries that the host makes from what packages bring, and that hold nothing of anybody. A directory stands for all in it.
pub const GENERATED: &[&str] = &[
    "alternatives", // what `awk`, `editor`, `php` mean on this distribution
    "ld.so.cache",  // without it every library is searched for
    "mailcap",
    "mime.types",
    "protocols",
    "services",
    "ssl/certs", // never `ssl`: private keys lie beside
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
pub fn is_barred(path: &str, wishes: &EtcWishes) -> bool {
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
    NEVER.iter().any(is_named)
        || path.split('/').any(is_secret)
        || wishes.never.iter().any(|entry| is_within(path, entry))
}

/// Whether a path is shown as it is now, without a comparison with what a package brought.
#[must_use]
pub fn is_taken_whole(path: &str, wishes: &EtcWishes) -> bool {
    GENERATED.iter().any(|entry| is_within(path, entry)) || wishes.extra.iter().any(|entry| is_within(path, entry))
}

/// Where a link of the host's `/etc` leads, when a jail has the same there: into `/usr`, or to what is not barred of `/etc`.
/// `path` is the link's own, below `/etc`.
#[must_use]
pub fn is_link_shown(path: &str, to: &str, wishes: &EtcWishes) -> bool {
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
        Some((&"usr", below)) => below.first() != Some(&"local"),
        Some((&"etc", below)) => !below.is_empty() && !is_barred(&below.join("/"), wishes),
        _ => false,
    }
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

/// The same of those that a package's own scripts put there, from `/var/lib/ucf/hashfile`.
pub fn ucf_files(hashes: &str) -> impl Iterator<Item = (&str, &str)> {
    hashes.lines().filter_map(|line| {
        let (digest, path) = line.split_once("  ")?;
        Some((path.strip_prefix("/etc/")?, digest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_jail_has_itself_and_what_may_be_secret_is_barred() {
        let wishes = EtcWishes { extra: vec!["php".into()], never: vec!["fonts/local".into()] };
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
            assert!(is_barred(barred, &wishes), "{barred}");
        }
        for open in [
            "php/8.2/cli/php.ini",
            "ssl/openssl.cnf",
            "ssl/certs/x.pem",
            "fonts/fonts.conf",
            "ImageMagick-6/policy.xml",
            "rc.x",
        ] {
            assert!(!is_barred(open, &wishes), "{open}");
        }
        assert!(is_taken_whole("ssl/certs/ca.pem", &wishes) && is_taken_whole("php/x", &wishes));
        assert!(
            !is_taken_whole("ssl/certs-of-mine", &wishes)
                && !is_taken_whole("phpx", &wishes)
                && !is_taken_whole("ssl", &wishes)
        );
    }

    #[test]
    fn links_lead_to_what_a_jail_has() {
        let wishes = EtcWishes::default();
        for (path, to) in [
            ("php/8.2/cli/conf.d/20-curl.ini", "/etc/php/8.2/mods-available/curl.ini"),
            ("fonts/conf.d/10-x.conf", "../conf.avail/10-x.conf"),
            ("fonts/conf.d/10-x.conf", "/usr/share/fontconfig/conf.avail/10-x.conf"),
            ("alternatives/awk", "../../usr/bin/mawk"),
        ] {
            assert!(is_link_shown(path, to, &wishes), "{path} -> {to}");
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
            assert!(!is_link_shown("a/b", to, &wishes), "{to}");
        }
    }

    #[test]
    fn what_packages_brought_is_read_from_what_dpkg_and_ucf_note() {
        let status = "Package: php\nConffiles:\n /etc/php/a.ini 00aa\n /etc/php/b.ini 00bb obsolete\n /opt/x 11\nDescription: y\n /etc/z 22\n";
        assert_eq!(conffiles(status).collect::<Vec<_>>(), [("php/a.ini", "00aa"), ("php/b.ini", "00bb")]);
        assert_eq!(ucf_files("00cc  /etc/php/c.ini\nnonsense\n").collect::<Vec<_>>(), [("php/c.ini", "00cc")]);
    }
}
