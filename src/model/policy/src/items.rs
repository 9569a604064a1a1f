//! Reads lists of tables, such as `[[timer]]`: the tables, their names and their commands.

use crate::diagnostic::Problem;
use crate::reader::{Report, Section, Table, expected, line, meant, text};
use std::collections::BTreeSet;
use std::fmt::Display;
use toml::Spanned;
use toml::de::DeValue;

/// The most bytes of a command. A longer one belongs into a file.
const MAX_COMMAND: usize = 32 << 10;
/// The most bytes of a path below the login user's home.
const MAX_BELOW_HOME: usize = 1024;

/// Reads each table of a list, which has the header of `section`.
pub(crate) fn tables<T>(
    report: &mut Report<'_>,
    top: &Table<'_, '_>,
    key: &'static str,
    section: &'static Section,
    mut read: impl FnMut(&mut Report<'_>, &Spanned<DeValue<'_>>) -> Option<T>,
) -> Vec<T> {
    let Some(list) = top.get(key) else { return Vec::new() };
    let Some(items) = list.get_ref().as_array() else {
        report.error(list.span(), || {
            expected("a list of tables", list.get_ref())
                .hint(format!("write {}, in two pairs of brackets", header(section)))
        });
        return Vec::new();
    };
    items.iter().filter_map(|item| read(report, item)).collect()
}

fn header(section: &Section) -> &'static str {
    section.title.trim_start_matches("below ")
}

/// Reads one table of a list. The first `must` keys of its section are required.
pub(crate) fn table<'t, 'i>(
    report: &mut Report<'_>,
    item: &'t Spanned<DeValue<'i>>,
    what: &'static str,
    section: &'static Section,
    file: &'static [Section],
    must: usize,
) -> Option<Table<'t, 'i>> {
    let Some(entries) = item.get_ref().as_table() else {
        report.error(item.span(), || {
            expected("a table", item.get_ref()).hint(format!("write {}, and its keys below", header(section)))
        });
        return None;
    };
    let table = Table::new(report, entries, section, file);
    // A key that is written wrongly is one mistake, and is reported already.
    let is_meant = |key: &str| entries.keys().any(|other| meant(other.get_ref(), section) == Some(key));
    for key in section.keys[..must].iter().filter(|key| table.get(key).is_none() && !is_meant(key)) {
        report.error(item.span(), || missing(what, key));
    }
    Some(table)
}

/// The problem of an item without a key that it must have.
fn missing(what: &str, key: &str) -> Problem {
    let problem = Problem::new(format!("the {what} has no \"{key}\""));
    match key {
        "name" => problem.hint("write a short word, such as name = \"main\""),
        "schedule" => problem.hint("write when it runs, such as schedule = \"daily\""),
        "command" => problem.hint("write the program and its arguments: command = [\"/usr/bin/php\", \"cron.php\"]"),
        "resource" => problem.hint("write what it is about, such as resource = \"disk\""),
        "at" => problem.hint("write when somebody is told, such as at = [\"80%\", \"95%\"]"),
        "password" => problem.hint("`bailiwick password` makes the line"),
        "port" => problem.hint("write the port that is connected to, such as port = \"tcp/5432\""),
        "path" => problem.hint("write where it is on the host, such as path = \"/run/mysqld/mysqld.sock\""),
        _ => problem,
    }
}

/// Reads the name of an item, and records a problem when another item has the same name.
pub(crate) fn name<N: Display + Ord + Clone>(
    report: &mut Report<'_>,
    table: &Table<'_, '_>,
    what: &'static str,
    names: &mut BTreeSet<N>,
    read: impl Fn(&DeValue<'_>) -> Result<N, Problem>,
) -> Option<Spanned<N>> {
    let name: Spanned<N> = table.read(report, "name", read)?;
    if !names.insert(name.get_ref().clone()) {
        report.error(name.span(), || {
            Problem::new(format!("there are two {what}s \"{}\"", name.get_ref()))
                .hint("give one of them another name, or take it out")
        });
    }
    Some(name)
}

/// Reads `command`: a program and its arguments.
pub(crate) fn command(report: &mut Report<'_>, table: &Table<'_, '_>) -> Option<Vec<String>> {
    let mut arguments = 0;
    let command = table.list(report, "command", |value| {
        arguments += 1;
        if arguments == 1 { program(value) } else { argument(value) }
    })?;
    if arguments == 0 {
        report.error(command.span(), || {
            Problem::new("the command is empty").hint("a program and its arguments: [\"/usr/sbin/nginx\", \"-g\"]")
        });
    }
    let place = command.span();
    let command: Vec<String> = command.into_inner().into_iter().map(Spanned::into_inner).collect();
    if command.iter().map(String::len).sum::<usize>() > MAX_COMMAND {
        report.error(place, || {
            Problem::new(format!("the command is longer than {MAX_COMMAND} bytes")).hint("write it into a file inside")
        });
    }
    Some(command)
}

/// Reads the path of a program inside the jail.
fn program(value: &DeValue<'_>) -> Result<String, Problem> {
    let path = argument(value)?;
    if !path.starts_with('/') {
        return Err(Problem::new(format!("the program {path:?} is not an absolute path"))
            .hint("write where it is inside the jail, such as \"/usr/sbin/nginx\""));
    }
    Ok(path)
}

/// Reads an argument of a program (`execve(2)`).
fn argument(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    if text.contains('\0') {
        return Err(Problem::new("an argument must not hold a NUL character"));
    }
    Ok(text.to_owned())
}

/// Reads a path below the login user's home.
pub(crate) fn below_home(value: &DeValue<'_>) -> Result<String, Problem> {
    let path = line(value)?;
    let hint = "write it from the login user's home on, such as \"www/blog\"";
    if path.starts_with('/') {
        return Err(Problem::new(format!("{path:?} is an absolute path")).hint(hint));
    }
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(Problem::new(format!("{path:?} is no plain path")).hint(hint));
    }
    if path.len() > MAX_BELOW_HOME {
        return Err(Problem::new(format!("the path is longer than {MAX_BELOW_HOME} bytes")));
    }
    Ok(path)
}
