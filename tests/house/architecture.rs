//! Rules of the source tree that a compiler does not check. Crates have floors: a crate may use only crates of
//! lower floors.

mod language;
mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All external crates in the programs that run as root, each with its purpose. The list must match the resolved
/// dependencies exactly.
const TRUSTED: &[(&str, &str)] = &[
    ("bitflags", "rustix: sets of flags"),
    ("cfg-if", "nix: differences between systems"),
    ("enumflags2", "landlock: sets of access rights"),
    ("humantime", "types: durations in text"),
    ("itoa", "serde_json: numbers in text"),
    ("landlock", "sys: rules of Landlock by kernel version"),
    ("libc", "sys: constants and structures of the kernel; calls that rustix and nix lack"),
    ("libpam-sys", "pam, by nonstick: the interface of libpam"),
    ("libpam-sys-helpers", "pam, by nonstick: messages of libpam"),
    ("linux-raw-sys", "sys: structures of new system calls"),
    ("log", "uzers: a dependency that it does not use to print"),
    ("memchr", "serde_json: search for the end of strings"),
    ("memoffset", "nix: offsets of fields in socket structures"),
    ("nix", "sys: typed calls of the C library"),
    ("nonstick", "pam: a PAM module without unsafe code of ours"),
    ("rustix", "typed system calls"),
    ("sd-notify", "warden: readiness, watchdog and kept descriptors"),
    ("sendfd", "sd-notify: descriptors in messages"),
    ("serde", "messages, ledger and records"),
    ("serde_core", "serde: its traits"),
    ("serde_json", "serialisation of messages, ledger and records"),
    ("serde_spanned", "toml: positions of values"),
    ("thiserror", "errors without boilerplate"),
    ("toml", "policy: the operator's files"),
    ("toml_datetime", "toml: a type of value that every file refuses"),
    ("toml_parser", "toml: its grammar"),
    ("toml_writer", "toml: `dump`, for tests of round trips and `show`"),
    ("uzers", "warden: the user that bailiwickd runs as"),
    ("winnow", "toml_parser: streams of tokens"),
    ("zmij", "serde_json: floating-point numbers in text"),
];

/// Their dependencies that run only at build time.
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

/// The programs that run as root of the host, and how many lines of our own code each may be made of, without comments and
/// tests. Raise a budget only after looking for what else could leave the program.
const BUDGETS: &[(&str, usize)] = &[("warden", 29_700), ("network", 29_000), ("pam", 18_300)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A crate of ours, as a row of the table in `docs/architecture.md`.
struct Crate {
    /// Folder below `src/`, named after who runs it.
    folder: String,
    name: String,
    floor: u8,
}

impl Crate {
    fn path(&self) -> PathBuf {
        root().join("src").join(&self.folder).join(&self.name)
    }

    fn manifest(&self) -> toml::Table {
        let path = self.path().join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Our crates in some sections of its manifest.
    fn uses(&self, sections: &[&str]) -> Vec<String> {
        let manifest = self.manifest();
        let sections = sections.iter().filter_map(|section| manifest.get(*section).and_then(toml::Value::as_table));
        sections
            .flat_map(toml::Table::keys)
            .filter_map(|name| Some(name.strip_prefix("bailiwick-")?.to_owned()))
            .collect()
    }
}

/// The rows of the table of floors.
fn crates() -> Vec<Crate> {
    let document = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let floor = cells.next()?.parse().ok()?;
        let (folder, name) = cells.next()?.trim_matches('`').split_once('/')?;
        Some(Crate { folder: folder.to_owned(), name: name.to_owned(), floor })
    };
    document.lines().filter_map(row).collect()
}

/// The names in a folder of the repository.
fn names_in(path: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.flatten().map(|entry| entry.file_name().into_string().expect("a name")).collect()
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
fn every_crate_has_a_floor_and_uses_only_lower_ones() {
    let crates = crates();
    for krate in &crates {
        for used in krate.uses(&["dependencies", "build-dependencies"]) {
            let below =
                crates.iter().find(|other| other.name == used).unwrap_or_else(|| panic!("unknown crate {used}"));
            assert!(
                below.floor < krate.floor,
                "{} (floor {}) uses {used} (floor {})",
                krate.name,
                krate.floor,
                below.floor
            );
        }
    }
}

#[test]
fn crates_use_only_folders_that_the_readme_of_their_folder_names() {
    let crates = crates();
    let folders: BTreeSet<_> = crates.iter().map(|krate| krate.folder.clone()).collect();
    assert_eq!(names_in(&root().join("src")), folders, "src/ and docs/architecture.md differ");
    for folder in &folders {
        let path = root().join("src").join(folder);
        let listed: BTreeSet<_> =
            crates.iter().filter(|krate| krate.folder == *folder).map(|krate| krate.name.clone()).collect();
        let mut there = names_in(&path);
        assert!(there.remove("README.md"), "src/{folder} has no README.md");
        assert_eq!(there, listed, "src/{folder} and docs/architecture.md differ");
        let readme = fs::read_to_string(path.join("README.md")).expect("text");
        for word in ["Runs as: ", "Trusts: ", "May be attacked by: ", "May use: "] {
            assert_eq!(readme.matches(&format!("- {word}")).count(), 1, "src/{folder}/README.md: {word}");
        }
        let allowed = readme.split_once("- May use: ").expect("found above").1.split_once('\n').expect("a line").0;
        // Dependencies of tests are in no program.
        let allowed = allowed.split(" (").next().expect("the first part");
        for krate in crates.iter().filter(|krate| krate.folder == *folder) {
            for used in krate.uses(&["dependencies", "build-dependencies"]) {
                let used = crates.iter().find(|other| other.name == used).expect("tested by the floors");
                let may = used.folder == *folder || allowed.contains(&format!("`{}`", used.folder));
                assert!(
                    may,
                    "{folder}/{} uses {}/{}, and src/{folder}/README.md does not allow it",
                    krate.name, used.folder, used.name
                );
            }
        }
    }
}

#[test]
fn only_sys_contains_unsafe_code() {
    for krate in crates() {
        let manifest = krate.manifest();
        let inherits = manifest["lints"].get("workspace").is_some_and(|value| value.as_bool() == Some(true));
        assert_eq!(
            inherits,
            krate.name != "sys",
            "{} must take the workspace's lints, which forbid unsafe code",
            krate.name
        );
    }
}

/// Packages that a program of ours resolves to on this machine: at run time, and for its macros.
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
fn programs_of_root_have_only_listed_dependencies() {
    let crates = crates();
    let mut used = BTreeSet::new();
    for (krate, budget) in BUDGETS {
        let packages = resolved(krate);
        for package in &packages {
            let is_ours = package.starts_with("bailiwick-");
            let is_listed = TRUSTED.iter().any(|(name, _)| name == package) || MACROS.contains(&package.as_str());
            assert!(is_ours || is_listed, "{krate} depends on {package}, which TRUSTED does not list");
        }
        let ours = packages.iter().filter_map(|package| package.strip_prefix("bailiwick-"));
        let path = |name: &str| crates.iter().find(|krate| krate.name == name).expect("a crate of the table").path();
        let lines: usize = ours.map(|name| lines(&path(name).join("src"))).sum();
        assert!(lines <= *budget, "{krate} has {lines} lines of our own, more than its budget of {budget}");
        assert!(lines + 1000 > *budget, "{krate} has {lines} lines of our own: lower its budget of {budget}");
        used.extend(packages);
    }
    let listed = TRUSTED.iter().map(|(name, _)| *name).chain(MACROS.iter().copied());
    let unused: Vec<_> = listed.filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "no program of root depends on {unused:?}: remove them from the list");
}

/// Lines of code of all sources below a folder: no blank lines, no comments, no unit tests.
fn lines(folder: &Path) -> usize {
    let is_test = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == "tests");
    let below = sources().into_iter().filter(|path| path.starts_with(folder) && !is_test(path));
    below.map(|path| lines_of_code(&fs::read_to_string(path).expect("text"))).sum()
}

/// Unit tests stand at the end of a file, in a module of their own.
fn lines_of_code(text: &str) -> usize {
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    let mut lines = text.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let is_module = lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{'));
        if line.starts_with("#[cfg(test)]") && is_module {
            break;
        }
        count += usize::from(is_code(&line.trim_start()));
    }
    count
}

#[test]
fn a_budget_counts_code_alone() {
    let text = "//! Job.\n\nuse a;\n#[cfg(test)]\nuse b;\nfn f() {\n    // why\n    g();\n}\n#[cfg(test)]\nmod tests {\n    fn h() {}\n}\n";
    assert_eq!(lines_of_code(text), 6);
}

#[test]
fn every_file_starts_with_a_description() {
    for path in sources() {
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.starts_with("//! "), "the first line of {} must be a `//!` description", path.display());
    }
}

#[test]
fn no_module_has_a_meaningless_name() {
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
            // Built from two parts, so that this line does not match itself.
            let silent =
                line.trim_start().starts_with(concat!("#[", "allow(")) || line.contains(concat!("#![", "allow("));
            assert!(!silent, "{}:{}: use `expect` with a reason", path.display(), number + 1);
        }
    }
}

/// Decision 25: a bug ends the program before it can do anything else.
#[test]
fn release_builds_abort_on_a_panic_and_check_overflow() {
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

/// The setting makes openat2(2) fail, by which every program of ours opens the files of the policy.
#[test]
fn no_unit_forbids_the_call_that_opens_files() {
    let units = fs::read_dir(root().join("systemd")).expect("lists").flatten();
    let names = units.filter_map(|unit| unit.file_name().into_string().ok()).filter(|name| name.ends_with(".service"));
    let names: Vec<String> = names.collect();
    assert!(names.len() > 8, "{names:?}");
    for unit in names {
        assert!(!settings(&unit).iter().any(|(key, value)| key == "RestrictSUIDSGID" && value != "no"), "{unit}");
    }
}

/// The child that looks up the names in `allow` asks DNS itself on a host without nss-resolve.
#[test]
fn the_uplinks_unit_lets_names_be_looked_up() {
    let found = settings("bailiwick-uplink.service");
    let families = found.iter().find(|(key, _)| key == "RestrictAddressFamilies").map(|(_, value)| value.as_str());
    assert_eq!(families, Some("AF_UNIX AF_NETLINK AF_INET AF_INET6"));
    for barred in ["IPAddressDeny", "IPAddressAllow", "PrivateNetwork"] {
        assert!(!found.iter().any(|(key, _)| key == barred), "{barred}");
    }
}

/// Settings that a comment in the unit explains, or that a jail inherits.
#[test]
fn the_wardens_unit_has_settings_that_nothing_else_tests() {
    let found = settings("bailiwick-warden.service");
    for (key, value) in [
        // Only with exactly 1 a crash starts no handler of the host (core(5)).
        ("LimitCORE", "1"),
        ("SocketBindDeny", "any"),
        ("RestrictFileSystems", "~@network fuse fuseblk"),
    ] {
        let values: Vec<&str> = found.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, [value], "{key}");
    }
}

/// Decision 9: with controllers on version 1, the tenants' groups are below the warden's own group.
#[test]
fn the_wardens_unit_bounds_no_control_group() {
    /// Settings that `systemd.resource-control(5)` writes to a group as a limit or share.
    const OF_GROUPS: &[&str] =
        &["Memory", "CPU", "StartupCPU", "IO", "StartupIO", "BlockIO", "Allowed", "StartupAllowed", "ManagedOOM"];
    let found = settings("bailiwick-warden.service");
    for (key, value) in &found {
        let is_bound = OF_GROUPS.iter().any(|prefix| key.starts_with(prefix)) && key != "MemoryDenyWriteExecute";
        assert!(!is_bound, "{key}={value} would bound all tenants together");
    }
    for unit in ["bailiwick-warden.service", "bailiwick-jails.service"] {
        let tasks: Vec<_> = settings(unit).into_iter().filter(|(key, _)| key == "TasksMax").collect();
        // The service manager has a default of its own.
        assert_eq!(tasks, [("TasksMax".to_owned(), "infinity".to_owned())], "{unit}");
    }
}
