//! `complete`: the names that may stand at a place of the command line, for the completions of shells.
//!
//! The definition of the command line says what stands where. Tenants, plans and services are read from the configuration, and
//! no daemon is asked: a shell waits for the answer at each key.

use crate::arguments::Arguments;
use bailiwick_declare::keys::{KEYS, ValueForm};
use bailiwick_types::TenantName;
use clap::{Arg, ArgAction, Command, CommandFactory};
use std::path::{Path, PathBuf};

/// The most names that are printed. More help nobody.
const MOST: usize = 10_000;

/// What may stand somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Tenants,
    Plans,
    /// The services of a tenant.
    Services(String),
    /// Keys of a tenant's file, each with an equals sign after it.
    Assignments,
    Keys,
}

/// The names that may follow these words, which are those after `bailiwick`. None where a shell has to complete something else.
pub(crate) fn names(default_config: &Path, words: &[String]) -> Vec<String> {
    let mut root = Arguments::command();
    root.build();
    let place = Place::after(&root, words);
    let config = place.config.unwrap_or_else(|| default_config.to_owned());
    match place.wanted {
        None => Vec::new(),
        Some(Wanted::Tenants) => files(&config.join("tenants.d")),
        Some(Wanted::Plans) => files(&config.join("plans.d")),
        Some(Wanted::Services(tenant)) => services(&config, &tenant),
        Some(Wanted::Keys) => keys(""),
        Some(Wanted::Assignments) => keys("="),
    }
}

/// The names of the files of a folder that are tenants or plans.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let stem = name.strip_suffix(".toml")?;
        // A name with anything else could be taken for shell code.
        stem.parse::<TenantName>().ok().map(|name| name.to_string())
    };
    let mut names: Vec<String> = entries.filter_map(name).take(MOST).collect();
    names.sort();
    names
}

fn services(config: &Path, tenant: &str) -> Vec<String> {
    let Ok(tenant) = tenant.parse::<TenantName>() else { return Vec::new() };
    let declared = bailiwick_policy::read_tenant(config, &tenant).ok().and_then(|(_, tenant)| tenant);
    let services = declared.map(|tenant| tenant.settings.services).unwrap_or_default();
    services.into_iter().map(|service| service.name.to_string()).collect()
}

fn keys(after: &str) -> Vec<String> {
    let is_settable = |path: &str, form| form != ValueForm::Tables && !path.contains('*');
    KEYS.iter().filter(|key| is_settable(key.path, key.form)).map(|key| format!("{}{after}", key.path)).collect()
}

/// What was found out about a place of the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    wanted: Option<Wanted>,
    config: Option<PathBuf>,
}

impl Place {
    /// Walks over the words before the place.
    fn after(root: &Command, words: &[String]) -> Self {
        let (mut command, mut config, mut tenant) = (root, None, None);
        let (mut position, mut pending): (usize, Option<&Arg>) = (0, None);
        for word in words {
            if let Some(option) = pending.take() {
                if option.get_id() == "config" {
                    config = Some(PathBuf::from(word));
                }
                continue;
            }
            // What follows belongs to the command in the jail.
            if word == "--" {
                return Self { wanted: None, config };
            }
            if let Some(option) = word.strip_prefix("--") {
                let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
                let known = command.get_arguments().find(|known| known.get_long() == Some(name));
                if name == "config" {
                    config = value.map(PathBuf::from).or(config);
                }
                pending = known.filter(|known| value.is_none() && takes_value(known));
            } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
                let known = command.get_arguments().find(|known| known.get_short() == short.chars().next());
                pending = known.filter(|known| takes_value(known) && short.chars().count() == 1);
            } else if let Some(inner) = command.find_subcommand(word) {
                (command, position) = (inner, 0);
            } else {
                let operand = operand(command, position);
                if operand.is_some_and(|operand| wanted(operand, None) == Some(Wanted::Tenants)) {
                    tenant = Some(word.clone());
                }
                position += 1;
            }
        }
        let next = pending.or_else(|| operand(command, position));
        Self { wanted: next.and_then(|next| wanted(next, tenant)), config }
    }
}

fn takes_value(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The operand at a position. The last one may take several words.
fn operand(command: &Command, position: usize) -> Option<&Arg> {
    let operands: Vec<&Arg> = command.get_positionals().filter(|operand| !operand.is_last_set()).collect();
    let several = operands.last().filter(|last| matches!(last.get_action(), ArgAction::Append));
    operands.get(position).or(several).copied()
}

/// What an argument wants, by the name of its value in the help.
fn wanted(argument: &Arg, tenant: Option<String>) -> Option<Wanted> {
    let name = argument.get_value_names().and_then(|names| names.first()).map(|name| name.as_str())?;
    match (name, argument.get_id().as_str(), tenant) {
        ("TENANT", ..) => Some(Wanted::Tenants),
        ("PLAN", ..) => Some(Wanted::Plans),
        ("KEY=VALUE", "changes", _) => Some(Wanted::Assignments),
        ("KEY", "unset", _) => Some(Wanted::Keys),
        ("NAME", "name" | "names", Some(tenant)) => Some(Wanted::Services(tenant)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: &str) -> Place {
        let mut root = Arguments::command();
        root.build();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Place::after(&root, &words)
    }

    #[test]
    fn the_definition_says_what_stands_where() {
        let services = || Some(Wanted::Services("alice".to_owned()));
        for (line, wanted) in [
            ("show", Some(Wanted::Tenants)),
            ("show --json", Some(Wanted::Tenants)),
            ("show alice", None),
            ("start alice bob", Some(Wanted::Tenants)),
            ("exec alice --user", None),
            ("exec alice -- ls", None),
            ("events --tenant", Some(Wanted::Tenants)),
            ("events --type session --tenant", Some(Wanted::Tenants)),
            ("list --plan", Some(Wanted::Plans)),
            ("create bob --plan", Some(Wanted::Plans)),
            ("create", None),
            ("delete", Some(Wanted::Tenants)),
            ("service restart alice", services()),
            ("service restart alice web", services()),
            ("service status alice", services()),
            ("logs -n 5 alice", services()),
            ("set alice", Some(Wanted::Assignments)),
            ("set alice memory=1G --unset", Some(Wanted::Keys)),
            ("edit --plan", Some(Wanted::Plans)),
            ("web nginx", Some(Wanted::Tenants)),
            ("", None),
            ("nothing", None),
        ] {
            assert_eq!(place(line).wanted, wanted, "{line}");
        }
        for line in ["--config /x show", "show --config /x", "show --config=/x"] {
            assert_eq!(place(line), Place { wanted: Some(Wanted::Tenants), config: Some("/x".into()) }, "{line}");
        }
    }

    #[test]
    fn only_names_of_files_are_names() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let folder = temp.path().join("tenants.d");
        std::fs::create_dir(&folder).expect("makes");
        for file in ["bob.toml", "alice.toml", ".carol.toml.deleted", "$(reboot).toml", "x.toml~"] {
            std::fs::write(folder.join(file), "").expect("writes");
        }
        let words = ["show".to_owned()];
        assert_eq!(names(temp.path(), &words), ["alice", "bob"]);
        assert_eq!(names(&temp.path().join("none"), &words), Vec::<String>::new());
    }
}
