//! Floor 3: reads `hooks.d` and `webhooks.d`: who is told of events, and how.
//!
//! [`hooks`] and [`webhooks`] read all files and go on after a problem, as the policy does. No program that runs as root links this
//! crate but `bailiwick`, which checks the files and asks before-hooks.
//!
//! Danger: what a hook names is executed, and a webhook's file holds secrets. A file, a program and every directory on the way to
//! them must belong to root and be writable by nobody else. Nobody but root and the group of `bailiwick-notify` may read a secret.

mod address;
mod body;
mod hook;
mod secret;
mod trust;
mod url;
mod webhook;

pub use address::refused_address;
pub use body::{after_body, before_body, webhook_body};
pub use hook::{BEFORE_TYPES, Hook, HookWhen, check_program};
pub use secret::{NotSecret, Secret};
pub use url::{NotUrl, WebhookUrl};
pub use webhook::Webhook;

use bailiwick_policy::Diagnostic;
use bailiwick_policy::files::{Directory, Folder, Problem, Source, names};
use bailiwick_types::TargetName;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;

/// The folder of the hooks, below the configuration directory.
pub const HOOKS: &str = "hooks.d";
/// The folder of the webhooks, below the configuration directory.
pub const WEBHOOKS: &str = "webhooks.d";
/// How the names of files end that webhooks name: those with secrets and with certificates.
const NAMED_BY_WEBHOOKS: [&str; 3] = ["secret", "pem", "crt"];

/// What a folder of targets declares.
#[derive(Debug, Clone)]
pub struct Targets<T> {
    /// The targets whose file has no error, by name.
    pub good: BTreeMap<TargetName, T>,
    /// Those whose file has one. What they mean is unknown.
    pub broken: BTreeSet<TargetName>,
    /// Every problem of every file.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether the folder could be listed, or is missing. Otherwise nobody knows which targets there are.
    pub is_known: bool,
}

/// Reads every hook of a configuration directory.
#[must_use]
pub fn hooks(config: &Path) -> Targets<Hook> {
    folder(config, HOOKS, |_, source, name| hook::read(source, name))
}

/// Reads one hook. `None` when it has no file.
///
/// # Errors
/// All problems of its file.
pub fn hook(config: &Path, name: &TargetName) -> Result<Option<Hook>, Vec<Diagnostic>> {
    let Some(folder) = Directory::open(config)?.folder(HOOKS)? else { return Ok(None) };
    let source = folder.file(&format!("{name}.toml"))?;
    source.map(|source| hook::read(&source, name)).transpose()
}

/// Reads every webhook of a configuration directory. Members of `group`, beside root, may be able to read the files: that is the
/// group of `bailiwick-notify`. Without one no group may.
#[must_use]
pub fn webhooks(config: &Path, group: Option<u32>) -> Targets<Webhook> {
    let read = |folder: &Directory, source: &Source, name: &TargetName| {
        let others = trust::unreadable_by_others(folder, source, name, group);
        match (others, webhook::read(source, name, group)) {
            (Ok(()), webhook) => webhook,
            (Err(problems), Ok(_)) => Err(problems),
            (Err(problems), Err(more)) => Err([problems, more].concat()),
        }
    };
    let mut targets = folder(config, WEBHOOKS, read);
    // A line may hold a secret, also where the problem is another one.
    targets.diagnostics = targets.diagnostics.into_iter().map(Diagnostic::without_excerpt).collect();
    targets
}

/// The problem of an entry that is read as no target, and that somebody may have meant as one. Nothing is said of hidden files, of what
/// editors leave, of a `README`, and of the files that webhooks name.
fn unread(folder: &Path, name: &OsStr) -> Option<Diagnostic> {
    let text = name.to_string_lossy();
    let is_leftover = text.starts_with('.') || text.ends_with('~') || text.starts_with('#') && text.ends_with('#');
    let extension = Path::new(name).extension();
    let is_named = folder.ends_with(WEBHOOKS) && NAMED_BY_WEBHOOKS.iter().any(|end| extension == Some(OsStr::new(end)));
    if extension == Some(OsStr::new("toml")) || is_leftover || is_named || text == "README" {
        return None;
    }
    let problem = Problem::new("this is not read, because its name does not end in \".toml\"");
    let stem = Path::new(name).file_stem().unwrap_or(name).to_string_lossy();
    let is_other_case = extension.is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let better = if is_other_case { format!("{stem}.toml") } else { format!("{text}.toml") };
    let hint = match better.strip_suffix(".toml").map(str::parse::<TargetName>) {
        Some(Ok(_)) => format!("rename it to {better:?}, or take it out of this folder"),
        _ => "take it out of this folder".to_owned(),
    };
    Some(Diagnostic::whole(&folder.join(name), problem.hint(hint)))
}

fn folder<T>(
    config: &Path,
    folder: &str,
    read: impl Fn(&Directory, &Source, &TargetName) -> Result<T, Vec<Diagnostic>>,
) -> Targets<T> {
    let mut targets =
        Targets { good: BTreeMap::new(), broken: BTreeSet::new(), diagnostics: Vec::new(), is_known: true };
    let folder = match Directory::open(config).and_then(|top| top.folder(folder)) {
        Ok(Some(folder)) => folder,
        Ok(None) => return targets,
        Err(diagnostics) => return Targets { is_known: false, diagnostics, ..targets },
    };
    let Some(names) = names::<_, TargetName>(&folder, &mut targets.diagnostics) else {
        return Targets { is_known: false, ..targets };
    };
    match folder.names() {
        Ok(all) => targets.diagnostics.extend(all.iter().filter_map(|name| unread(folder.path(), name))),
        Err(diagnostics) => return Targets { is_known: false, diagnostics, ..targets },
    }
    for name in names {
        let target = match folder.file(&format!("{name}.toml")) {
            // The file was removed after the folder was listed.
            Ok(None) => continue,
            Ok(Some(source)) => read(&folder, &source, &name),
            Err(diagnostics) => Err(diagnostics),
        };
        match target {
            Ok(target) => {
                targets.good.insert(name, target);
            }
            Err(diagnostics) => {
                targets.diagnostics.extend(diagnostics);
                targets.broken.insert(name);
            }
        }
    }
    targets
}
