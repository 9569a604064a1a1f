//! The texts that setup writes for udev and systemd, and whether the units as loaded fit the policy.

use crate::machine::System;
use crate::step::FileSystem;
use bailiwick_policy::Host;
use bailiwick_types::{FeatureReport, FeatureState};
use std::path::{Path, PathBuf};

/// The pool file. It is beside the state directory, and not in it.
pub const POOL_FILE: &str = "/var/lib/bailiwick.pool";
/// The name of its device.
pub(crate) const POOL_LINK: &str = "/dev/bailiwick-pool";
/// The unit that makes the device.
pub(crate) const POOL_SERVICE: &str = "bailiwick-pool.service";
/// The rule for udev.
pub(crate) const UDEV_RULE: &str = "/etc/udev/rules.d/60-bailiwick-pool.rules";
/// Where an administrator's units are.
pub(crate) const UNITS: &str = "/etc/systemd/system";
/// How the tenants' storage is mounted.
const OPTIONS: &str = "prjquota,nosuid,nodev,noatime";
/// What was written by setup says so.
const HEAD: &str = "# Written by `bailiwick setup`, and removed by `bailiwick setup --undo`.\n";

/// The rule for the pool's device. A discard would punch holes into the pool file, which then is not allocated any more: the host's
/// disk could fill up below it. So nothing is ever discarded.
pub(crate) fn udev_rule() -> String {
    format!(
        "{HEAD}ACTION!=\"remove\", SUBSYSTEM==\"block\", KERNEL==\"loop*\", ATTR{{loop/backing_file}}==\"{POOL_FILE}\", \\\n  \
         ATTR{{queue/discard_max_bytes}}=\"0\", SYMLINK+=\"bailiwick-pool\", TAG+=\"systemd\"\n"
    )
}

/// The unit that makes a block device of the pool file, before anything is mounted.
pub(crate) fn pool_service() -> String {
    let list = format!("/usr/sbin/losetup -n -O NAME -j {POOL_FILE}");
    format!(
        "{HEAD}[Unit]\n\
         Description=The disk of Bailiwick's tenants, in {POOL_FILE}\n\
         Documentation=man:bailiwick-setup(1)\n\
         DefaultDependencies=no\n\
         RequiresMountsFor={POOL_FILE}\n\
         Wants=systemd-udevd.service modprobe@loop.service\n\
         After=systemd-udevd.service systemd-remount-fs.service modprobe@loop.service\n\
         Before=local-fs.target umount.target\n\
         Conflicts=umount.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/bin/sh -c '{list} | grep -q . || exec /usr/sbin/losetup -f --direct-io=on --sector-size 4096 {POOL_FILE}'\n\
         ExecStop=/bin/sh -c '{list} | xargs -r /usr/sbin/losetup -d'\n\
         \n\
         [Install]\n\
         WantedBy=local-fs.target\n"
    )
}

/// The unit that mounts the tenants' storage. Without it the host boots all the same, and the warden does not start.
pub(crate) fn mount_unit(device: &Path, target: &Path, file_system: FileSystem, is_pool: bool) -> String {
    let mut needs = String::new();
    if is_pool {
        needs.push_str(&format!("Requires={POOL_SERVICE}\nAfter={POOL_SERVICE}\n"));
    }
    if file_system == FileSystem::Ext4 {
        let check = format!("systemd-fsck@{}.service", escaped(device));
        needs.push_str(&format!("Wants={check}\nAfter={check}\n"));
    }
    format!(
        "{HEAD}[Unit]\n\
         Description=Storage of Bailiwick's tenants\n\
         Documentation=man:bailiwick-setup(1)\n\
         {needs}\
         \n\
         [Mount]\n\
         What={}\n\
         Where={}\n\
         Type={}\n\
         Options={OPTIONS}\n\
         \n\
         [Install]\n\
         WantedBy=local-fs.target\n",
        device.display(),
        target.display(),
        file_system.word()
    )
}

/// A path as names of units have it (`systemd.unit(5)`, "String escaping").
pub(crate) fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.trim_matches('/');
    if text.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::new();
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if index == 0 => out.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => out.push(char::from(byte)),
            other => out.push_str(&format!("\\x{other:02x}")),
        }
    }
    out
}

/// The unit that mounts at a path.
pub(crate) fn mount_name(target: &Path) -> String {
    format!("{}.mount", escaped(target))
}

/// Where a unit has a drop-in of setup.
pub(crate) fn drop_in(unit: &str) -> PathBuf {
    Path::new(UNITS).join(format!("{unit}.d/50-bailiwick-setup.conf"))
}

/// The directories that the package's units know.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/bailiwick";
pub(crate) const DEFAULT_RUNTIME: &str = "/run/bailiwick";

/// What the units of the daemons need beside what the package wrote, if `bailiwick.toml` names other directories: each with its
/// drop-in.
pub(crate) fn drop_ins(state_dir: &Path, runtime_dir: &Path) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let moved_state = state_dir != Path::new(DEFAULT_STATE);
    let moved_runtime = runtime_dir != Path::new(DEFAULT_RUNTIME);
    let mounts = format!("[Unit]\nRequiresMountsFor={}\n", state_dir.display());
    if moved_state {
        all.push(("bailiwick-warden.service", format!("{HEAD}{mounts}")));
    }
    if moved_state || moved_runtime {
        let paths = format!("[Service]\nReadWritePaths=-{}\n", runtime_dir.display());
        let text = [(moved_state, mounts), (moved_runtime, paths)];
        let text: String = text.into_iter().filter_map(|(is_moved, text)| is_moved.then_some(text)).collect();
        all.push(("bailiwickd.service", format!("{HEAD}{text}")));
    }
    all
}

/// Rows of `doctor`: whether the units of the daemons, as the service manager has loaded them, know the directories that
/// `bailiwick.toml` names. Nothing on a host without the service manager or without the units.
pub fn unit_features(host: &Host, system: &mut dyn System) -> Vec<FeatureReport> {
    let mut wrong = Vec::new();
    let mut is_loaded = false;
    for (unit, key, path) in [
        ("bailiwick-warden.service", "RequiresMountsFor", &host.state_dir),
        ("bailiwickd.service", "ReadWritePaths", &host.runtime_dir),
    ] {
        let asked = system.run("systemctl", &["show", "-p", "LoadState", "-p", "NeedDaemonReload", "-p", key, unit]);
        let Some(said) = asked.ok().filter(crate::machine::Said::is_ok) else { return Vec::new() };
        let value =
            |key: &str| said.out.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap_or_default();
        if value("LoadState") != "loaded" {
            continue;
        }
        is_loaded = true;
        if value("NeedDaemonReload") == "yes" {
            wrong.push(format!("{unit} has changed since the service manager read it"));
        }
        let path = path.to_string_lossy();
        if !value(key).split_whitespace().any(|word| word.trim_start_matches(['-', '+']) == path) {
            wrong.push(format!("{unit} is loaded without {key}={path}"));
        }
    }
    if !is_loaded {
        return Vec::new();
    }
    let (state, evidence, remedy) = if wrong.is_empty() {
        let evidence = format!("loaded for {} and {}", host.state_dir.display(), host.runtime_dir.display());
        (FeatureState::Works, evidence, String::new())
    } else {
        let remedy = "run `bailiwick setup --pool here`, which writes the drop-ins; or `systemctl daemon-reload`";
        (FeatureState::Limited, wrong.join("; "), remedy.to_owned())
    };
    vec![FeatureReport { feature: "units".to_owned(), state, evidence, remedy }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Said;
    use bailiwick_types::StorageFacts;
    use std::io;

    #[test]
    fn names_of_units_are_escaped() {
        for (path, name) in [
            ("/var/lib/bailiwick", "var-lib-bailiwick"),
            ("/srv/my tenants/", "srv-my\\x20tenants"),
            ("/dev/bailiwick-pool", "dev-bailiwick\\x2dpool"),
            ("/.a/b.c", "\\x2ea-b.c"),
            ("/", "-"),
        ] {
            assert_eq!(escaped(Path::new(path)), name);
        }
        assert_eq!(mount_name(Path::new("/var/lib/bailiwick")), "var-lib-bailiwick.mount");
    }

    #[test]
    fn the_rule_turns_discard_off_and_names_the_device() {
        let rule = udev_rule();
        for part in
            ["ATTR{queue/discard_max_bytes}=\"0\"", "SYMLINK+=\"bailiwick-pool\"", "TAG+=\"systemd\"", POOL_FILE]
        {
            assert!(rule.contains(part), "{rule}");
        }
        // udev ends a rule at the end of a line that has no backslash.
        assert_eq!(rule.lines().filter(|line| !line.starts_with('#') && !line.ends_with('\\')).count(), 1);
    }

    #[test]
    fn the_mount_waits_for_its_device_and_bounds_what_is_below() {
        let unit = mount_unit(Path::new(POOL_LINK), Path::new(DEFAULT_STATE), FileSystem::Xfs, true);
        for part in ["Options=prjquota,nosuid,nodev,noatime\n", "Requires=bailiwick-pool.service\n", "Type=xfs\n"] {
            assert!(unit.contains(part), "{unit}");
        }
        let unit = mount_unit(Path::new("/dev/disk/by-uuid/1-2"), Path::new("/srv"), FileSystem::Ext4, false);
        assert!(!unit.contains("bailiwick-pool.service") && unit.contains("systemd-fsck@dev-disk-by\\x2duuid-1\\x2d2"));
    }

    #[test]
    fn only_moved_directories_need_drop_ins() {
        let of = |state: &str, runtime: &str| drop_ins(Path::new(state), Path::new(runtime));
        assert_eq!(of(DEFAULT_STATE, DEFAULT_RUNTIME), []);
        let both = of("/srv/t", "/run/b");
        assert!(both[0].1.contains("RequiresMountsFor=/srv/t\n") && !both[0].1.contains("ReadWritePaths"));
        assert!(both[1].1.contains("ReadWritePaths=-/run/b\n") && both[1].1.contains("RequiresMountsFor=/srv/t\n"));
        assert_eq!(of(DEFAULT_STATE, "/run/b").len(), 1);
    }

    /// A service manager that has loaded these values.
    struct Loaded(&'static str);

    impl System for Loaded {
        fn run(&mut self, _: &str, arguments: &[&str]) -> io::Result<Said> {
            let is_warden = arguments.contains(&"bailiwick-warden.service");
            let key =
                if is_warden { "RequiresMountsFor=/var/lib/bailiwick " } else { "ReadWritePaths=-/run/bailiwick\nX=" };
            let out = format!("LoadState=loaded\nNeedDaemonReload={}\n{key}\n", self.0);
            Ok(Said { status: Some(0), out, err: String::new() })
        }
        fn storage(&mut self, _: &Path) -> StorageFacts {
            unreachable!("not asked")
        }
        fn writes_past_quota(&mut self, _: &Path) -> io::Result<bool> {
            unreachable!("not asked")
        }
        fn group(&mut self, _: &str) -> Option<u32> {
            None
        }
    }

    #[test]
    fn units_that_do_not_know_the_directories_are_told() {
        let host = |text: &str| {
            bailiwick_policy::parse(&[("bailiwick.toml".into(), text.to_owned())]).policy.expect("valid").host
        };
        let row = |text: &str, reload: &'static str| unit_features(&host(text), &mut Loaded(reload)).remove(0);
        assert_eq!(row("", "no").state, FeatureState::Works);
        assert_eq!(row("", "yes").state, FeatureState::Limited);
        let moved = row("state_dir = \"/srv/t\"\n", "no");
        assert!(moved.evidence.contains("without RequiresMountsFor=/srv/t") && !moved.remedy.is_empty(), "{moved:?}");
    }
}
