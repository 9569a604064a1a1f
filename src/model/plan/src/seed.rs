//! The first content of a tenant's storage. The warden writes it once, before the tenant's first start. After that the
//! content belongs to the tenant, and no program of this project reads or writes it.

use bailiwick_policy::Tenant;
use bailiwick_types::Profile;

/// The file below `/etc` that says where names are looked up (`resolv.conf(5)`).
pub const RESOLV_CONF: &str = "resolv.conf";
/// Where it leads: a file that is made at each start.
pub const RUN_RESOLV_CONF: &str = "/run/resolv.conf";
/// What earlier versions wrote there. It is replaced by that link.
pub const RESOLV_CONF_BEFORE: &str = "# No name server yet: a jail has a network of its own.\n";

/// One file, directory or link of the first content. Seeds are in the order in which they are made: parents come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The path below the tenant's storage.
    pub path: String,
    /// Its kind and content.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// Its owner and group inside the jail. The disk stores the same numbers, unmapped.
    pub owner: u32,
}

/// What a seed is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file with this content.
    File(String),
    /// A symbolic link.
    Link(String),
}

/// The id of the login user and of its group inside every jail.
pub const LOGIN_ID: u32 = 1000;

/// The directories in `/usr/local`.
pub const LOCAL_DIRS: &[&str] = &["bin", "etc", "include", "lib", "sbin", "share", "src"];

/// The seeds of a tenant. `host_etc` lists the parts of the host's `/etc` that the jail links to, and `root_links` the
/// links in its root.
#[must_use]
pub fn seeds(
    tenant: &Tenant,
    host_etc: &[String],
    root_links: &std::collections::BTreeMap<String, String>,
) -> Vec<Seed> {
    let user = &tenant.login.user;
    let mut seeds = Vec::new();
    let mut add = |path: &str, kind: Kind, mode: u32, owner: u32| {
        seeds.push(Seed { path: path.to_owned(), kind, mode, owner });
    };
    let directory = || Kind::Directory;
    let text = |content: String| Kind::File(content);
    for path in ["etc", "home", "opt", "srv", "local", "var"] {
        add(path, directory(), 0o755, 0);
    }
    add("root", directory(), 0o700, 0);
    for path in LOCAL_DIRS {
        add(&format!("local/{path}"), directory(), 0o755, 0);
    }
    for path in ["cache", "lib", "log", "mail", "opt", "spool", "www"] {
        add(&format!("var/{path}"), directory(), 0o755, 0);
    }
    add("var/spool/cron", directory(), 0o755, 0);
    // The login user owns it. So crontab(1) needs no set-group-id, which has no effect here.
    add("var/spool/cron/crontabs", directory(), 0o700, LOGIN_ID);
    add("var/tmp", directory(), 0o1777, 0);
    add("var/run", Kind::Link("/run".into()), 0, 0);
    add("var/lock", Kind::Link("/run/lock".into()), 0, 0);
    add(&format!("home/{user}"), directory(), 0o750, LOGIN_ID);

    let shell = "/bin/bash";
    add(
        "etc/passwd",
        text(format!(
            "root:x:0:0:root:/root:{shell}\n\
             daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
             bin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
             sys:x:3:3:sys:/dev:/usr/sbin/nologin\n\
             mail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n\
             www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
             _apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
             {user}:x:{LOGIN_ID}:{LOGIN_ID}:{user}:/home/{user}:{shell}\n"
        )),
        0o644,
        0,
    );
    add(
        "etc/group",
        text(format!(
            "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\nshadow:x:42:\n\
             www-data:x:33:\nutmp:x:43:\nstaff:x:50:\nusers:x:100:\nnogroup:x:65534:\n{user}:x:{LOGIN_ID}:\n"
        )),
        0o644,
        0,
    );
    // No user has a password. Tenants enter through doors, and the host checks their keys.
    add("etc/shadow", text(format!("root:*:20000:0:99999:7:::\n{user}:*:20000:0:99999:7:::\n")), 0o600, 0);
    add("etc/hostname", text(format!("{}\n", tenant.name)), 0o644, 0);
    add("etc/hosts", text(format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost\n", tenant.name)), 0o644, 0);
    add(&format!("etc/{RESOLV_CONF}"), Kind::Link(RUN_RESOLV_CONF.into()), 0, 0);
    add("etc/nsswitch.conf", text("passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n".into()), 0o644, 0);
    add("etc/host.conf", text("multi on\n".into()), 0o644, 0);
    add("etc/shells", text("/bin/sh\n/bin/bash\n/bin/dash\n".into()), 0o644, 0);
    add(
        "etc/profile",
        text(
            "if [ \"$(id -u)\" = 0 ]; then PS1='# '; else PS1='$ '; fi\n\
             [ -n \"$BASH\" ] && PS1='\\u@\\h:\\w\\$ '\numask 022\nexport PS1\n"
                .into(),
        ),
        0o644,
        0,
    );
    add("etc/localtime", Kind::Link("/usr/share/zoneinfo/Etc/UTC".into()), 0, 0);
    add("etc/os-release", Kind::Link("../usr/lib/os-release".into()), 0, 0);
    add("etc/mtab", Kind::Link("/proc/self/mounts".into()), 0, 0);
    // Directories of the tenant that contain a link to an entry of the host's /etc.
    let above = |entry: &'_ String| entry.rsplit_once('/').map(|(above, _)| above.to_owned());
    let mut above: std::collections::BTreeSet<String> = host_etc.iter().filter_map(above).collect();
    above.insert("ssl".to_owned());
    for path in above {
        add(&format!("etc/{path}"), directory(), 0o755, 0);
    }
    for entry in host_etc {
        add(&format!("etc/{entry}"), Kind::Link(format!("/run/host/etc/{entry}")), 0, 0);
    }
    // su(1) uses PAM. Inside, root may become any user. Other users would need a password, and no user has one.
    add("etc/pam.d", directory(), 0o755, 0);
    add(
        "etc/pam.d/other",
        text(
            "auth sufficient pam_rootok.so\nauth required pam_unix.so\naccount required pam_unix.so\n\
             password required pam_unix.so\nsession required pam_unix.so\n"
                .into(),
        ),
        0o644,
        0,
    );

    if tenant.settings.profile == Profile::System {
        add("usr", directory(), 0o755, 0);
        add("usr/upper", directory(), 0o755, 0);
        add("usr/work", directory(), 0o755, 0);
        add("rootfs", directory(), 0o755, 0);
        for path in [
            "boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr",
            "var",
        ] {
            add(&format!("rootfs/{path}"), directory(), 0o755, 0);
        }
        for (name, to) in root_links {
            add(&format!("rootfs/{name}"), Kind::Link(to.clone()), 0, 0);
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::HOST_ETC;

    #[test]
    fn whatever_the_host_lends_each_seed_lies_in_one_that_comes_before_it() {
        let files = [
            (std::path::PathBuf::from("bailiwick.toml"), ""),
            ("plans.d/p.toml".into(), "profile = \"system\"\n"),
            ("tenants.d/alice.toml".into(), "plan = \"p\"\n"),
        ];
        let policy = bailiwick_policy::parse(&files).policy.expect("good");
        let host_etc: Vec<String> = HOST_ETC.iter().map(|entry| (*entry).to_owned()).collect();
        let tenant = policy.tenants.values().next().expect("one");
        let mut made = std::collections::BTreeSet::new();
        for seed in seeds(tenant, &host_etc, &std::collections::BTreeMap::new()) {
            let above = seed.path.rsplit_once('/').map(|(above, _)| above.to_owned());
            assert!(above.is_none_or(|above| made.contains(&above)), "{}", seed.path);
            assert!(made.insert(seed.path.clone()), "{} is made twice", seed.path);
        }
    }
}
