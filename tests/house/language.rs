//! Words that the sources and documents do not use, each with the standard term to use instead.

use crate::{root, sources};
use std::fs;
use std::path::{Path, PathBuf};

/// Former names in code, and the standard terms.
const NAMES: &[(&str, &str)] = &[
    ("Ahead", "NextDueCache"),
    ("Handed", "InheritedFds"),
    ("Need", "Action"),
    ("Newcomer", "SessionRequest"),
    ("ProcessSight", "ProcessSnapshot"),
    ("Telling", "Printed"),
    ("Throwaway", "TestHost"),
    ("Wish", "SessionSpec"),
    ("hold_back", "clamp_quota"),
];

/// Phrases in comments and prose, and plain English for them.
const PHRASES: &[(&str, &str)] = &[
    ("as it is to be", "as declared"),
    ("in its stead", "instead"),
    ("is no wonder", "is expected"),
    ("its own affair", "is ignored"),
    ("not a word", "no message"),
    ("of it is told", "is reported"),
    ("of which is told", "is reported"),
    ("takes its leave", "exits"),
    ("the way back", "undo"),
    ("throw-away", "temporary"),
    ("whoever it is", "any user"),
];

fn sources_but_this() -> impl Iterator<Item = PathBuf> {
    let this = root().join("tests/house/language.rs");
    sources().into_iter().filter(move |path| *path != this)
}

/// The Markdown files of the repository, without those of dependencies and builds.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs"), root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root().join(name)));
    found
}

/// Whether a line contains a term as whole words.
fn contains(line: &str, term: &str) -> bool {
    let is_part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(term).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + term.len()..]);
        !before.ends_with(is_part_of_word) && !after.starts_with(is_part_of_word)
    })
}

/// The places of terms in a file, each with its remedy.
fn uses(path: &Path, terms: &[(&str, &str)]) -> Vec<String> {
    let text = fs::read_to_string(path).expect("text");
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (term, standard) in terms.iter().filter(|(term, _)| contains(line, term)) {
            found.push(format!("{}:{}: \"{term}\": use {standard}", path.display(), number + 1));
        }
    }
    found
}

#[test]
fn former_names_are_not_used_again() {
    let found: Vec<String> = sources_but_this().flat_map(|path| uses(&path, NAMES)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn sources_and_documents_use_plain_english() {
    let files = sources_but_this().chain(documents());
    let found: Vec<String> = files.flat_map(|path| uses(&path, PHRASES)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn only_whole_words_are_found() {
    assert!(contains("let Wish { env } = wish;", "Wish"));
    assert!(!contains("let WishList = wish;", "Wish"));
    assert!(!contains("the_way back", "way back"));
    assert!(contains("undo it, and the way back", "the way back"));
}
