//! Compares the mount table of a jail with the rows of its plan.
//!
//! In the profiles `web` and `shell` nobody inside can mount. So every row must exist, and no other mount may. In
//! `system` the tenant's root may mount. There a row that was covered, moved or removed is a finding but no breach,
//! because the walls of that profile do not rest on it.

use crate::finding::{self, FindingKind, Violation, quoted};
use crate::walls::Wall;
use bailiwick_plan::kernel;
use bailiwick_plan::mount::{HOST_ETC_LAYER, JAIL_TMPFS_SIZE, Mount, Source};
use bailiwick_types::{LimitKey, MAX_MOUNTS, MountFact, ObservedJail, Profile, UNIFIED};
use std::collections::BTreeSet;

/// Whether this host's kernel has a path. A plan masks or fixes some paths only where they exist.
pub(crate) type Presence<'a> = &'a dyn Fn(&str) -> bool;

/// The wall of the mount table, without the masks.
pub(crate) fn mounts(profile: Profile, rows: &[Mount], jail: &ObservedJail, present: Presence<'_>) -> Wall {
    let mut violations = Vec::new();
    let own = rows.iter().filter(|row| row.source != Source::Mask);
    violations.extend(own.filter_map(|row| row_violation(profile, row, jail, present)));
    violations.extend(jail.mounts.iter().filter_map(|mount| propagation_violation(profile, mount)));
    violations.extend(unplanned(profile, rows, jail));
    if jail.mounts_cut {
        let kind = if profile == Profile::System { finding::MOUNT_OWN } else { finding::MOUNT_UNEXPECTED };
        violations.push(kind.violation(format!("more than {MAX_MOUNTS} mounts")));
    }
    let evidence = format!("{} mounts as planned, none propagates (/proc/PID/mountinfo)", jail.mounts.len());
    Wall { name: "mounts", evidence, violations }
}

/// The wall of the masks.
pub(crate) fn masks(profile: Profile, rows: &[Mount], jail: &ObservedJail, present: Presence<'_>) -> Wall {
    let masks: Vec<&Mount> = rows.iter().filter(|row| row.source == Source::Mask && present(&row.target)).collect();
    let violations = masks.iter().filter_map(|row| row_violation(profile, row, jail, present)).collect();
    Wall { name: "masks", evidence: format!("{} paths masked (/proc/PID/mountinfo)", masks.len()), violations }
}

/// Compares a row with the mounts at its target. `None` when the row is as planned, or when this kernel lacks the path.
fn row_violation(profile: Profile, row: &Mount, jail: &ObservedJail, present: Presence<'_>) -> Option<Violation> {
    if row.only_if_present() && !present(&row.target) {
        return None;
    }
    let at = || jail.mounts.iter().filter(|mount| mount.target == row.target);
    if profile == Profile::System {
        // A mount that the tenant made over this row does not remove the row.
        if at().any(|mount| difference(row, mount).is_none()) {
            return None;
        }
        let is_old = |mount| difference(row, mount).is_some_and(|(kind, _)| kind == finding::MOUNT_OLD);
        let kind = match row.source {
            Source::Mask => finding::MASK_CHANGED,
            Source::HostEtc if at().any(is_old) || shows_single_files(row, jail) => finding::MOUNT_OLD,
            Source::HostEtc => finding::MOUNT_STALE,
            _ => finding::MOUNT_CHANGED,
        };
        return Some(kind.violation(format!("{} is not as planned", row.target)));
    }
    let Some(mount) = at().rfind(|mount| !mount.covered) else {
        let kind = match row.source {
            Source::Mask => finding::MASK_MISSING,
            Source::HostEtc if shows_single_files(row, jail) => finding::MOUNT_OLD,
            Source::HostEtc => finding::MOUNT_STALE,
            _ => finding::MOUNT_MISSING,
        };
        return Some(kind.violation(format!("nothing is mounted at {}", row.target)));
    };
    let (kind, evidence) = difference(row, mount)?;
    let kind = if row.source == Source::Mask { finding::MASK_MISSING } else { kind };
    Some(kind.violation(format!("{}: {evidence}", row.target)))
}

/// Whether the jail shows single files of the host where the plan has one overlay. Earlier versions did this.
fn shows_single_files(row: &Mount, jail: &ObservedJail) -> bool {
    let is_below = |target: &str| target.strip_prefix(&row.target).is_some_and(|rest| rest.starts_with('/'));
    jail.mounts.iter().any(|mount| is_below(&mount.target) && mount.fs_type != "overlay")
}

/// How a mount differs from its row; `None` when it does not.
fn difference(row: &Mount, mount: &MountFact) -> Option<(FindingKind, String)> {
    let other = |text: String| Some((finding::MOUNT_OTHER, text));
    let fs_type = mount.fs_type.as_str();
    let want = match row.source {
        Source::JailTmpfs(_) | Source::Tmpfs { .. } | Source::Skeleton | Source::Answer(_) => Some("tmpfs"),
        Source::Proc | Source::Itself => Some("proc"),
        Source::Sysfs(_) => Some("sysfs"),
        Source::Group(UNIFIED) => Some("cgroup2"),
        Source::Group(_) => Some("cgroup"),
        Source::Devpts => Some("devpts"),
        Source::Mqueue => Some("mqueue"),
        Source::Overlay { .. } | Source::HostEtc => Some("overlay"),
        Source::Init
        | Source::Web
        | Source::Mail
        | Source::HostSockets
        | Source::Storage(_)
        | Source::Device(_)
        | Source::Mask => None,
    };
    let mapped = mount.options.iter().any(|option| option == "idmapped");
    // The kernel appends this to the root of a mount that was replaced or removed after it was mounted.
    if row.source == Source::HostEtc && mount.root.ends_with("//deleted") {
        return Some((finding::MOUNT_STALE, format!("shows {}, which is there no more", quoted(&mount.root))));
    }
    // Versions before the overlays made bind mounts of the host's own files here.
    let was_bound = match row.source {
        Source::Overlay { upper: None, .. } => mapped,
        Source::HostEtc => !mapped,
        _ => false,
    };
    if was_bound && fs_type != "overlay" {
        return Some((finding::MOUNT_OLD, format!("the host's own inodes ({})", quoted(fs_type))));
    }
    if let Some(want) = want
        && want != fs_type
    {
        return other(format!("{} instead of {want}", quoted(fs_type)));
    }
    match &row.source {
        Source::Storage(_) if !mapped => return other("not id-mapped".to_owned()),
        Source::HostEtc | Source::Init | Source::Web | Source::Mail | Source::HostSockets if mapped => {
            return other("id-mapped".to_owned());
        }
        Source::Mask if ["proc", "sysfs"].contains(&fs_type) => {
            return other("what it should hide is there".to_owned());
        }
        Source::HostEtc if !is_of_host_etc(mount) => {
            return Some((finding::MOUNT_STALE, "an overlay of something else".to_owned()));
        }
        Source::Device(name) if !mount.root.ends_with(&format!("/{name}")) => {
            return other(format!("shows {}", quoted(&mount.root)));
        }
        _ => {}
    }
    let missing: Vec<&str> =
        row.flags.words().into_iter().filter(|word| !mount.options.iter().any(|option| option == word)).collect();
    if !missing.is_empty() {
        return Some((finding::MOUNT_FLAGS, format!("without {}", missing.join(","))));
    }
    let unbound = unbound(row, mount)?;
    Some((finding::MEMORY_FILES_UNBOUND, unbound))
}

/// How a file system in memory exceeds its plan; `None` when it does not. The plan leaves the number of inodes to the
/// kernel. The kernel then allows one inode for every two pages of the machine's memory, and shows no number. A shown 0
/// means no bound. The sizes of /tmp and /dev/shm are limits with rows of their own.
fn unbound(row: &Mount, mount: &MountFact) -> Option<String> {
    /// More inodes than the kernel allows by itself on any machine of less than 2 TiB.
    const MOST_INODES: u64 = 1 << 28;
    let size = match row.source {
        Source::JailTmpfs(_) => JAIL_TMPFS_SIZE,
        Source::Tmpfs { size, .. } => size,
        _ => return None,
    };
    if let Some(inodes) = mount.super_options.iter().rev().find_map(|option| option.strip_prefix("nr_inodes="))
        && inodes.parse().is_ok_and(|inodes: u64| inodes == 0 || inodes > MOST_INODES)
    {
        return Some("without a bound of inodes".to_owned());
    }
    if LimitKey::of_tmpfs(&row.target).is_some() {
        return None;
    }
    match mount.tmpfs_size() {
        Some(actual) if actual.kibibytes <= size.0.div_ceil(4096) * 4 => None,
        Some(actual) => Some(format!("{} KiB instead of {}", actual.kibibytes, size.0 / 1024)),
        None => Some("without a size".to_owned()),
    }
}

/// Whether an overlay has the warden's copies as a layer. The kernel shows all layers in one option, or each layer in
/// an option of its own.
fn is_of_host_etc(mount: &MountFact) -> bool {
    let layer = |option: &str| {
        let (name, layers) = option.split_once('=')?;
        name.starts_with("lowerdir").then(|| layers.split(':').any(|layer| layer == HOST_ETC_LAYER))
    };
    mount.super_options.iter().filter_map(|option| layer(option)).any(|is_it| is_it)
}

/// The violation of a mount that receives mount events from elsewhere or sends them there.
fn propagation_violation(profile: Profile, mount: &MountFact) -> Option<Violation> {
    // A tenant that may mount may share mounts among its own namespaces. A mount with a master follows the host.
    let bad = |field: &&String| profile != Profile::System || !field.starts_with("shared:");
    let field = mount.propagation.iter().find(bad)?;
    Some(finding::MOUNT_PROPAGATES.violation(format!("{} has {}", quoted(&mount.target), quoted(field))))
}

/// Whether a mount only hides a path that no list names. The kernel had this path when the jail was made, and may lack
/// it now.
fn hides(mount: &MountFact) -> bool {
    mount.target.starts_with("/proc/") && mount.fs_type == "tmpfs" && !kernel::may_show(&mount.target)
}

/// Mounts that no row asks for. A second mount at the target of a row is one of them.
fn unplanned(profile: Profile, rows: &[Mount], jail: &ObservedJail) -> Vec<Violation> {
    let planned: BTreeSet<&str> = rows.iter().map(|row| row.target.as_str()).collect();
    let mut seen = BTreeSet::new();
    let extra = jail.mounts.iter().filter(|mount| {
        let target = mount.target.as_str();
        let again = !seen.insert(target);
        (again || !planned.contains(target)) && !hides(mount)
    });
    extra
        .map(|mount| {
            let kind = match profile {
                Profile::System => finding::MOUNT_OWN,
                // A part of the host's /etc that no longer exists still existed when the jail was started.
                _ if mount.target.starts_with("/run/host/etc/") => finding::MOUNT_STALE,
                _ => finding::MOUNT_UNEXPECTED,
            };
            kind.violation(format!("{} at {}", quoted(&mount.fs_type), quoted(&mount.target)))
        })
        .collect()
}
