//! The house has floors: a crate knows those below it and nobody beside or above. And some rules of the house that a
//! compiler does not know.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Crate and floor. The only place where the order is written down for a machine; `docs/architecture.md` explains it.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("sys", 1),
    ("policy", 2),
    ("proto", 2),
    ("plan", 3),
    ("history", 3),
    ("observe", 4),
    ("warden", 5),
    ("audit", 5),
    ("control", 6),
    ("client", 6),
    ("daemon", 7),
    ("cli", 7),
    ("init", 7),
    ("shell", 7),
    ("pam", 7),
];

/// What the privileged programs may be made of, each with its reason. Nothing else gets in.
const CORE: &[(&str, &str)] = &[
    ("rustix", "system calls with types"),
    ("serde", "messages, ledger and records"),
    ("sd-notify", "readiness, watchdog and kept descriptors; brings sendfd"),
    ("serde_json", "their text"),
    ("thiserror", "error enums without boilerplate"),
    ("users", "the user that bailiwickd runs as"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn manifest(krate: &str) -> toml::Table {
    let path = root().join("src").join(krate).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dependencies(krate: &str) -> Vec<String> {
    let manifest = manifest(krate);
    ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section).and_then(|section| section.as_table()))
        .flat_map(|section| section.keys().cloned())
        .collect()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_crate_has_a_floor_and_knows_only_lower_ones() {
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    for entry in fs::read_dir(root().join("src")).expect("src").flatten() {
        let krate = entry.file_name().into_string().expect("a name");
        let floor = floors.get(krate.as_str()).unwrap_or_else(|| panic!("crate {krate} has no floor"));
        for dependency in dependencies(&krate) {
            let Some(name) = dependency.strip_prefix("bailiwick-") else { continue };
            let below = floors.get(name).unwrap_or_else(|| panic!("{krate} depends on unknown {name}"));
            assert!(below < floor, "{krate} (floor {floor}) must not know {name} (floor {below})");
        }
    }
}

#[test]
fn only_sys_may_hold_unsafe_code() {
    for (krate, _) in FLOORS {
        let manifest = manifest(krate);
        let inherits = manifest["lints"].get("workspace").is_some_and(|value| value.as_bool() == Some(true));
        assert_eq!(inherits, *krate != "sys", "{krate} must take the workspace's lints, which forbid unsafe code");
    }
}

#[test]
fn the_privileged_core_is_made_of_little() {
    for krate in ["warden", "observe", "plan", "init"] {
        for dependency in dependencies(krate) {
            let known = dependency.starts_with("bailiwick-")
                || CORE.iter().any(|(name, _)| *name == dependency)
                || (krate == "plan" && dependency == "linux-raw-sys");
            assert!(known, "{krate} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_file_opens_with_its_job() {
    for path in sources() {
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.starts_with("//! "), "{} does not say its job in its first line", path.display());
    }
}

#[test]
fn names_say_what_a_thing_is() {
    for path in sources() {
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(!["utils", "util", "common", "helpers", "misc"].contains(&stem.as_str()), "{}", path.display());
    }
}

#[test]
fn nothing_silences_a_lint_without_a_reason() {
    for path in sources() {
        let text = fs::read_to_string(&path).expect("text");
        for (number, line) in text.lines().enumerate() {
            // Built from two parts so that this line does not find itself.
            let silent =
                line.trim_start().starts_with(concat!("#[", "allow(")) || line.contains(concat!("#![", "allow("));
            assert!(!silent, "{}:{}: use `expect` with a reason", path.display(), number + 1);
        }
    }
}

/// Decision 25: a bug ends the program that has it, before anything else of it runs.
#[test]
fn what_is_released_ends_at_a_panic_and_at_a_number_that_does_not_fit() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    let release = &manifest["profile"]["release"];
    assert_eq!(release["panic"].as_str(), Some("abort"));
    assert_eq!(release["overflow-checks"].as_bool(), Some(true));
}

/// The settings of a unit, in order.
fn settings(unit: &str) -> Vec<(String, String)> {
    let path = root().join("systemd").join(unit);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Decision 9: where controllers are on version 1, tenants' groups lie below the warden's own.
#[test]
fn the_wardens_unit_bounds_no_control_group() {
    /// What `systemd.resource-control(5)` writes into a group as a limit or a share; devices are all jails' to have refused.
    const OF_GROUPS: &[&str] =
        &["Memory", "CPU", "StartupCPU", "IO", "StartupIO", "BlockIO", "Allowed", "StartupAllowed", "ManagedOOM"];
    let found = settings("bailiwick-warden.service");
    for (key, value) in &found {
        let is_bound = OF_GROUPS.iter().any(|prefix| key.starts_with(prefix)) && key != "MemoryDenyWriteExecute";
        assert!(!is_bound, "{key}={value} would bound all tenants together");
    }
    for unit in ["bailiwick-warden.service", "bailiwick-jails.service"] {
        let tasks: Vec<_> = settings(unit).into_iter().filter(|(key, _)| key == "TasksMax").collect();
        // The manager has a default of its own.
        assert_eq!(tasks, [("TasksMax".to_owned(), "infinity".to_owned())], "{unit}");
    }
}
