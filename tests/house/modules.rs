//! The order of the modules inside a crate: no circle. The list at the head of `lib.rs` says the order.

use crate::root;
use std::fs;
use std::path::Path;

/// The crates that have such a list.
const ORDERED: &[&str] = &["src/root/warden", "src/broker/control"];

/// The modules in the list of a `lib.rs`, in their order.
fn listed(head: &str) -> Vec<&str> {
    let list = head.lines().skip_while(|line| !line.starts_with("//! - ")).take_while(|line| line.starts_with("//! "));
    list.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The module that a path begins with, of those that are listed: the longest one.
fn module<'a>(path: &str, listed: &[&'a str]) -> Option<&'a str> {
    let is_prefix = |module: &&str| {
        let rest = path.strip_prefix(module);
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
    };
    listed.iter().copied().filter(is_prefix).max_by_key(|module| module.len())
}

/// The code of a file below `src` without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split("#[cfg(test)]\nmod tests").next().expect("the first part").to_owned()
}

/// Every module file below `src`, as a path in the crate: `jail::start`.
fn files(folder: &Path, above: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().expect("a name").to_str().expect("plain");
        let name = if above.is_empty() { stem.to_owned() } else { format!("{above}::{stem}") };
        if path.is_dir() {
            found.extend(files(&path, &name));
        } else {
            found.push((name, code(&path)));
        }
    }
    found
}

/// Whether a module only declares the modules in its folder.
fn is_folder(code: &str) -> bool {
    let is_declaration = |line: &str| line.starts_with("pub(crate) mod ") || line.starts_with("mod ");
    code.lines().all(|line| line.is_empty() || line.starts_with("//") || is_declaration(line))
}

#[test]
fn modules_use_only_those_before_them() {
    for krate in ORDERED {
        let sources = root().join(krate).join("src");
        let head = fs::read_to_string(sources.join("lib.rs")).expect("text");
        let listed = listed(&head);
        assert!(listed.len() > 30, "{krate}: the list was read: {listed:?}");
        for (name, code) in files(&sources, "") {
            let is_for_tests = head.contains(&format!("#[cfg(test)]\nmod {name};"));
            if ["lib", "main"].contains(&name.as_str()) || is_for_tests || is_folder(&code) {
                continue;
            }
            let own = module(&name, &listed).unwrap_or_else(|| panic!("{krate}: {name} is not in the list of lib.rs"));
            let place = listed.iter().position(|module| *module == own).expect("listed");
            let is_listed = own == name;
            let code = code.replace("pub(super)", "");
            assert!(!is_listed || !code.contains("super::"), "{krate}: {name}: a path must begin with `crate`");
            for path in code.split("crate::").skip(1) {
                let used = module(path, &listed).unwrap_or_else(|| panic!("{name} uses a module that is not listed"));
                assert!(used == own || listed[..place].contains(&used), "{name} uses {used}, which is not before it");
            }
        }
        let missing: Vec<_> = listed
            .iter()
            .filter(|name| !sources.join(name.replace("::", "/")).with_extension("rs").is_file())
            .collect();
        assert!(missing.is_empty(), "{krate}: listed and not there: {missing:?}");
    }
}
