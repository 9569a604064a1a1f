//! The house has floors: a crate knows those below it and nobody beside or above. And some rules of the house that a
//! compiler does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate and floor. The only place where the order is written down for a machine; `docs/architecture.md` explains it.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("sys", 1),
    ("policy", 2),
    ("proto", 2),
    ("diagnostics", 3),
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

/// Everything that the programs which run as root are made of, beside crates of our own: what each is there for. Whatever is
/// resolved and is not here, and whatever is here and is not resolved, turns the test red.
const TRUSTED: &[(&str, &str)] = &[
    ("bitflags", "rustix: sets of flags"),
    ("enumflags2", "landlock: sets of access rights"),
    ("humantime", "types: spans of time in words"),
    ("itoa", "serde_json: numbers in text"),
    ("landlock", "sys: the rules of Landlock by version of the kernel"),
    ("libc", "sys: numbers and structures of the kernel; calls that rustix has not"),
    ("libpam-sys", "pam, by nonstick: what libpam has"),
    ("libpam-sys-helpers", "pam, by nonstick: messages of libpam"),
    ("linux-raw-sys", "sys: structures of new system calls"),
    ("log", "uzers: asks for it, says nothing by it"),
    ("memchr", "serde_json: ends of strings"),
    ("nonstick", "pam: a PAM module without unsafe code of ours"),
    ("rustix", "system calls with types"),
    ("sd-notify", "warden: readiness, watchdog and kept descriptors"),
    ("sendfd", "sd-notify: descriptors in messages"),
    ("serde", "messages, ledger and records"),
    ("serde_core", "serde: its traits"),
    ("serde_json", "the text of messages, ledger and records"),
    ("serde_spanned", "toml: where a value stands"),
    ("thiserror", "errors without boilerplate"),
    ("toml", "policy: the operator's files"),
    ("toml_datetime", "toml: a kind of value that every file refuses"),
    ("toml_parser", "toml: its grammar"),
    ("toml_writer", "toml: `dump`, for tests of round trips and `show`"),
    ("uzers", "warden: the user that bailiwickd runs as"),
    ("winnow", "toml_parser: streams of tokens"),
    ("zmij", "serde_json: broken numbers in text"),
];

/// What runs at build time alone, for the crates above.
const MACROS: &[&str] = &[
    "enumflags2_derive",
    "libpam-sys-impls",
    "proc-macro2",
    "quote",
    "serde_derive",
    "syn",
    "thiserror-impl",
    "unicode-ident",
];

/// The programs that run as root of the host, and how many lines of our own, comments and tests among them, each may be made of. Who must
/// raise a budget has found what else could leave the program.
const BUDGETS: &[(&str, usize)] = &[("warden", 29_500), ("pam", 18_500)];

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

/// Names of packages that a program of ours is resolved to on this machine: at run time and for its macros.
fn resolved(krate: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = command.args(["-p", &format!("bailiwick-{krate}")]).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn what_runs_as_root_is_made_of_what_is_listed() {
    let mut used = BTreeSet::new();
    for (krate, budget) in BUDGETS {
        let packages = resolved(krate);
        for package in &packages {
            let is_ours = package.starts_with("bailiwick-");
            let is_listed = TRUSTED.iter().any(|(name, _)| name == package) || MACROS.contains(&package.as_str());
            assert!(is_ours || is_listed, "{krate} is made of {package}, and nobody said why");
        }
        let ours = packages.iter().filter_map(|package| package.strip_prefix("bailiwick-"));
        let lines: usize = ours.map(|name| lines(&root().join("src").join(name).join("src"))).sum();
        assert!(lines <= *budget, "{krate} is made of {lines} lines of our own: more than its {budget}");
        assert!(lines + 1000 > *budget, "{krate} is made of {lines} lines of our own: lower its budget of {budget}");
        used.extend(packages);
    }
    let listed = TRUSTED.iter().map(|(name, _)| *name).chain(MACROS.iter().copied());
    let unused: Vec<_> = listed.filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "no program that runs as root is made of {unused:?}");
}

/// Lines of all sources below a folder.
fn lines(folder: &Path) -> usize {
    let below: Vec<_> = sources().into_iter().filter(|path| path.starts_with(folder)).collect();
    below.iter().map(|path| fs::read_to_string(path).expect("text").lines().count()).sum()
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

/// What a comment in the unit argues for, and what a jail inherits from it.
#[test]
fn the_wardens_unit_keeps_what_nothing_else_tests() {
    let found = settings("bailiwick-warden.service");
    for (key, value) in [
        // At 1, and at no other value, a crash starts no handler of the host's (core(5)).
        ("LimitCORE", "1"),
        ("SocketBindDeny", "any"),
        ("RestrictFileSystems", "~@network fuse fuseblk"),
    ] {
        let values: Vec<&str> = found.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, [value], "{key}");
    }
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
