//! For tests: checks that no module uses one on its own line or below. The order is the list at the head of `lib.rs`.

use std::collections::BTreeMap;
use std::path::Path;

const HEAD: &str = include_str!("lib.rs");

/// The line of each module in the list.
fn lines() -> BTreeMap<&'static str, usize> {
    let list = HEAD.split("//! ```").nth(1).expect("the list").lines().skip(1);
    let words = |(line, text): (usize, &'static str)| {
        text.trim_start_matches("//!").split_whitespace().map(move |module| (module, line))
    };
    list.enumerate().flat_map(words).collect()
}

/// The modules that a text names, except in its tests.
fn used(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let names = code.split("crate::").skip(1);
    names.map(|rest| rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()).collect()
}

/// Collects all files of the modules with their text, also those in folders.
fn files(folder: &Path, module: Option<&str>, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().expect("a name").to_str().expect("plain").to_owned();
        let module = module.map_or(stem, str::to_owned);
        if path.is_dir() {
            files(&path, Some(&module), found);
        } else {
            found.push((module, std::fs::read_to_string(&path).expect("a text")));
        }
    }
}

#[test]
fn modules_use_only_those_on_lines_above_theirs() {
    let (lines, mut found) = (lines(), Vec::new());
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut found);
    found.retain(|(module, _)| !["lib", "fake", "order"].contains(&module.as_str()));
    for (module, text) in &found {
        let own = lines.get(module.as_str()).unwrap_or_else(|| panic!("{module} is not in the list of lib.rs"));
        for name in used(text).iter().filter(|name| *name != module) {
            let other = lines.get(name.as_str()).unwrap_or_else(|| panic!("{module} uses {name}, which is not listed"));
            assert!(other < own, "{module} uses {name}, which is not on a line above its own");
        }
    }
    assert!(
        lines.keys().all(|module| found.iter().any(|(other, _)| other == module)),
        "a module is listed and not there"
    );
}
