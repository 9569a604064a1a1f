//! Changes single keys of a tenant's file, and lists all keys of a file with their lines.
//!
//! A value that is there is replaced where it stands, and one that goes takes its own line with it. So all other comments, blank
//! lines and the order of the file stay.

use crate::keys::{Found, KEYS, KeyError, PARTS, ValueForm, find, of_path};
use bailiwick_policy::nearest;
use std::ops::Range;
use toml_edit::{Array, ArrayOfTables, Document, InlineTable, Item, Table, TableLike, Value};

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The key.
    pub key: Found,
    /// Its new value as it was written, or `None` to remove the key.
    pub value: Option<String>,
}

/// Why keys were not changed.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// There is no such key, or several.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no equals sign.
    #[error("\"{written}\" sets nothing; write KEY=VALUE, or --unset {written}")]
    NoValue {
        /// What was written.
        written: String,
    },
    /// The file is no TOML.
    #[error("the file is not valid TOML; `bailiwick check` shows where, and `bailiwick edit` mends it")]
    NotToml {
        /// The first error in it.
        source: toml_edit::TomlError,
    },
    /// The value has another form than the key.
    #[error("{key}: \"{value}\" is not {expected}")]
    Form {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The tables of this key have headers of their own.
    #[error(
        "{key} has tables of its own; set the keys of one that has a name, such as {key}.NAME.KEY, or use `bailiwick edit`"
    )]
    Tables {
        /// The key.
        key: String,
    },
    /// The file has no item of this name.
    #[error("the file has no {kind} \"{name}\"{}", nearest.as_ref().map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_else(|| ": add it with `bailiwick edit`".to_owned()))]
    NoItem {
        /// The kind of the item, such as `service`.
        kind: String,
        /// The name.
        name: String,
        /// The nearest name of one that is there.
        nearest: Option<String>,
    },
    /// The soft or the hard part of a limit that has none.
    #[error("{key} is unlimited now, so it has no parts; write {key}=SOFT:HARD")]
    NoParts {
        /// The key.
        key: String,
    },
}

impl std::str::FromStr for Assignment {
    type Err = AssignError;

    /// Reads `KEY=VALUE`. `KEY=` removes the key.
    fn from_str(written: &str) -> Result<Self, AssignError> {
        let (key, value) =
            written.split_once('=').ok_or_else(|| AssignError::NoValue { written: written.to_owned() })?;
        Ok(Self { key: find(key)?, value: Some(value.to_owned()).filter(|value| !value.is_empty()) })
    }
}

/// Returns the text of a file with some keys changed, in their order. `effective` gives the value in force of a limit with a
/// soft and a hard part.
///
/// # Errors
/// All but [`AssignError::Key`] and [`AssignError::NoValue`]. Whether the values are right is left to
/// [`bailiwick_policy::check_proposed`].
///
/// # Examples
/// ```
/// let text = "plan = \"small\" # since May\n\n[limits]\nmemory = \"2G\"\n";
/// let changes = ["memory=4G", "tasks=200"].map(|change| change.parse().expect("known keys"));
/// let changed = bailiwick_declare::assign(text, &changes, |_| None).expect("TOML");
/// assert_eq!(changed, "plan = \"small\" # since May\n\n[limits]\nmemory = \"4G\"\ntasks = 200\n");
/// ```
pub fn assign(
    text: &str,
    assignments: &[Assignment],
    effective: impl Fn(&str) -> Option<String>,
) -> Result<String, AssignError> {
    let mut text = text.to_owned();
    for Assignment { key, value } in assignments {
        let path = key.path.join(".");
        let before = || own(&text, &key.path).or_else(|| effective(&path));
        let value = match (value, key.part) {
            (Some(value), Some(part)) => Some(with_part(&path, before(), part, value)?),
            // A limit is removed as a whole.
            (value, _) => value.clone(),
        };
        text = match value {
            Some(written) => set(&text, &key.path, value_of(key, &written)?)?,
            None => unset(&text, &key.path)?,
        };
    }
    Ok(text)
}

/// A value in a file, as [`flat`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatValue {
    /// The path of the key. Items of a list of tables have their names in it.
    pub path: Vec<String>,
    /// The value in words: a text without its quotes, a list with commas.
    pub value: String,
    /// The line of the file, from 1.
    pub line: usize,
}

/// Lists all keys of a file of a tenant or a plan, with their values and lines. A file that is no TOML has none.
#[must_use]
pub fn flat(text: &str) -> Vec<FlatValue> {
    let mut all = Vec::new();
    if let Ok(document) = Document::parse(text) {
        flatten(text, document.as_table(), &mut Vec::new(), &mut all);
    }
    all
}

/// The value of a key in a file.
fn own(text: &str, path: &[String]) -> Option<String> {
    flat(text).into_iter().find(|found| found.path == path).map(|found| found.value)
}

fn flatten(text: &str, table: &dyn TableLike, path: &mut Vec<String>, all: &mut Vec<FlatValue>) {
    for (key, item) in table.iter() {
        path.push(key.to_owned());
        let line = |span: Option<Range<usize>>| {
            span.map_or(1, |span| text[..span.start].bytes().filter(|byte| *byte == b'\n').count() + 1)
        };
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let pattern = of_path(&words).map_or("", |key| key.path);
        let below = format!("{pattern}.");
        let has_below = path.len() == 1 || KEYS.iter().any(|key| key.path.starts_with(&below));
        match node(item) {
            Node::Table(inner) if has_below => flatten(text, inner, path, all),
            Node::Tables(tables) => tables.iter().enumerate().for_each(|(index, table)| {
                path.push(name_of(table).unwrap_or_else(|| index.to_string()));
                flatten(text, table, path, all);
                path.pop();
            }),
            Node::Array(array) if array.iter().any(Value::is_inline_table) && has_below => {
                array.iter().filter_map(Value::as_inline_table).enumerate().for_each(|(index, table)| {
                    path.push(name_of(table).unwrap_or_else(|| index.to_string()));
                    flatten(text, table, path, all);
                    path.pop();
                });
            }
            _ => all.push(FlatValue {
                path: path.clone(),
                value: item.as_value().map(in_words).unwrap_or_default(),
                line: line(item.span()),
            }),
        }
        path.pop();
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.value().clone(),
        Value::Array(array) => array.iter().map(in_words).collect::<Vec<_>>().join(", "),
        Value::InlineTable(table) => {
            let pairs = table.iter().map(|(key, value)| format!("{key} = {}", in_words(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string().trim().to_owned(),
    }
}

/// What can have something below it.
enum Node<'a> {
    Table(&'a dyn TableLike),
    Tables(&'a ArrayOfTables),
    Array(&'a Array),
    Leaf,
}

fn node(item: &Item) -> Node<'_> {
    match item {
        Item::ArrayOfTables(tables) => Node::Tables(tables),
        Item::Value(Value::Array(array)) => Node::Array(array),
        other => other.as_table_like().map_or(Node::Leaf, Node::Table),
    }
}

fn name_of(table: &dyn TableLike) -> Option<String> {
    table.get("name").and_then(Item::as_str).map(str::to_owned)
}

/// Where a key stands.
struct Place {
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    /// Whether the key is in braces, so that it has no line of its own.
    in_braces: bool,
}

/// Finds a key in a table.
fn find_in(table: &dyn TableLike, path: &[String], in_braces: bool) -> Option<Place> {
    let (first, rest) = path.split_first()?;
    let item = table.get(first)?;
    if rest.is_empty() {
        let key = table.key(first).and_then(toml_edit::Key::span);
        return Some(Place { key, value: item.span(), in_braces });
    }
    match node(item) {
        Node::Table(inner) => find_in(inner, rest, in_braces || item.is_inline_table()),
        Node::Tables(tables) => {
            let table = tables.iter().find(|table| name_of(*table).as_ref() == rest.first())?;
            find_in(table, &rest[1..], in_braces)
        }
        Node::Array(array) => {
            let mut tables = array.iter().filter_map(Value::as_inline_table);
            find_in(tables.find(|table| name_of(*table).as_ref() == rest.first())?, &rest[1..], true)
        }
        Node::Leaf => None,
    }
}

fn parse(text: &str) -> Result<Document<&str>, AssignError> {
    Document::parse(text).map_err(|source| AssignError::NotToml { source })
}

fn set(text: &str, path: &[String], value: Value) -> Result<String, AssignError> {
    let document = parse(text)?;
    let there = find_in(document.as_table(), path, false).and_then(|place| place.value);
    if let Some(Range { start, end }) = there {
        return Ok(format!("{}{value}{}", &text[..start], &text[end..]));
    }
    let mut document = document.into_mut();
    insert(document.as_table_mut(), path, value, Depth::Top)?;
    Ok(document.to_string())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Top,
    Below,
}

fn insert(table: &mut dyn TableLike, path: &[String], value: Value, depth: Depth) -> Result<(), AssignError> {
    let Some((first, rest)) = path.split_first() else { return Ok(()) };
    let Some(second) = rest.first() else {
        table.insert(first, Item::Value(value));
        return Ok(());
    };
    let no_item = |names: Vec<String>| AssignError::NoItem {
        kind: first.clone(),
        name: second.clone(),
        nearest: nearest(second, names.iter().map(String::as_str)).map(str::to_owned),
    };
    let is_named = of_path(&[first]).is_some_and(|key| key.form == ValueForm::Tables) || first == "socket";
    match table.get_mut(first) {
        Some(Item::ArrayOfTables(tables)) => {
            let names = tables.iter().filter_map(|table| name_of(table)).collect();
            match tables.iter_mut().find(|table| name_of(*table).as_ref() == Some(second)) {
                Some(table) => insert(table, &rest[1..], value, Depth::Below),
                None => Err(no_item(names)),
            }
        }
        Some(Item::Value(Value::Array(array))) => {
            let names = array.iter().filter_map(Value::as_inline_table).filter_map(|table| name_of(table)).collect();
            let mut tables = array.iter_mut().filter_map(Value::as_inline_table_mut);
            match tables.find(|table| name_of(*table).as_ref() == Some(second)) {
                Some(table) => insert(table, &rest[1..], value, Depth::Below),
                None => Err(no_item(names)),
            }
        }
        Some(item) => match item.as_table_like_mut() {
            Some(inner) => {
                insert(inner, rest, value, Depth::Below)?;
                item.as_inline_table_mut().iter_mut().for_each(|table| move_blanks_to_the_end(table));
                Ok(())
            }
            // What is there has a wrong form: the whole is replaced by what it should be.
            None => {
                *item = Item::Value(Value::InlineTable(InlineTable::new()));
                insert(table, path, value, depth)
            }
        },
        None if is_named => Err(no_item(Vec::new())),
        None => {
            let inner = if depth == Depth::Top {
                Item::Table(Table::new())
            } else {
                Item::Value(Value::InlineTable(InlineTable::new()))
            };
            table.insert(first, inner);
            insert(table, path, value, depth)
        }
    }
}

/// The blanks before a closing brace belong to the last value. A new last value takes them over.
fn move_blanks_to_the_end(table: &mut InlineTable) {
    let count = table.len();
    let mut blanks: Option<String> = None;
    for (index, (_, value)) in table.iter_mut().enumerate() {
        if index + 1 == count {
            if let Some(blanks) = blanks.take() {
                value.decor_mut().set_suffix(blanks);
            }
        } else if let Some(suffix) = value.decor().suffix().and_then(|suffix| suffix.as_str()).map(str::to_owned)
            && !suffix.is_empty()
            && suffix.trim().is_empty()
        {
            value.decor_mut().set_suffix("");
            blanks = Some(suffix);
        }
    }
}

fn unset(text: &str, path: &[String]) -> Result<String, AssignError> {
    let document = parse(text)?;
    let Some(place) = find_in(document.as_table(), path, false) else { return Ok(text.to_owned()) };
    let is_line = !place.in_braces && find_item(document.as_table(), path).is_some_and(|item| item.is_value());
    let lines = place.key.zip(place.value).filter(|_| is_line).map(|(key, value)| lines(text, key.start, value.end));
    let after = match lines {
        Some(Range { start, end }) => format!("{}{}", &text[..start], &text[end..]),
        None => {
            let mut document = document.into_mut();
            remove(document.as_table_mut(), path);
            document.to_string()
        }
    };
    without_empty(&after, path)
}

/// The whole lines that a range of bytes is in.
fn lines(text: &str, start: usize, end: usize) -> Range<usize> {
    let start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[end..].find('\n').map_or(text.len(), |newline| end + newline + 1);
    start..end
}

fn find_item<'a>(table: &'a dyn TableLike, path: &[String]) -> Option<&'a Item> {
    let (first, rest) = path.split_first()?;
    let item = table.get(first)?;
    if rest.is_empty() {
        return Some(item);
    }
    match node(item) {
        Node::Table(inner) => find_item(inner, rest),
        Node::Tables(tables) => {
            find_item(tables.iter().find(|table| name_of(*table).as_ref() == rest.first())?, &rest[1..])
        }
        Node::Array(_) | Node::Leaf => None,
    }
}

/// Removes what has no line of its own.
fn remove(table: &mut dyn TableLike, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Some(second) = rest.first() else {
        table.remove(first);
        return;
    };
    match table.get_mut(first) {
        Some(Item::ArrayOfTables(tables)) => {
            if let Some(table) = tables.iter_mut().find(|table| name_of(*table).as_ref() == Some(second)) {
                remove(table, &rest[1..]);
            }
        }
        Some(Item::Value(Value::Array(array))) => {
            let mut tables = array.iter_mut().filter_map(Value::as_inline_table_mut);
            if let Some(table) = tables.find(|table| name_of(*table).as_ref() == Some(second)) {
                remove(table, &rest[1..]);
            }
        }
        Some(item) => {
            if let Some(inner) = item.as_table_like_mut() {
                remove(inner, rest);
            }
        }
        None => {}
    }
}

/// Removes the table that a removed key was in, if nothing is left in it.
fn without_empty(text: &str, path: &[String]) -> Result<String, AssignError> {
    let Some((_, parent)) = path.split_last() else { return Ok(text.to_owned()) };
    let document = parse(text)?;
    let empty = find_item(document.as_table(), parent).filter(|_| !parent.is_empty());
    let is_empty = |item: &&Item| item.as_table_like().is_some_and(TableLike::is_empty);
    let Some(empty) = empty.filter(is_empty) else { return Ok(text.to_owned()) };
    if empty.is_value() {
        return unset(text, parent);
    }
    let Some(header) = empty.span() else { return Ok(text.to_owned()) };
    let Range { start, end } = lines(text, header.start, header.start);
    // The blank line above the header goes with it.
    let before = text[..start].strip_suffix("\n\n").map_or(&text[..start], |rest| &text[..rest.len() + 1]);
    Ok(format!("{before}{}", &text[end..]))
}

/// A limit with one part replaced: `10G:11G`.
fn with_part(key: &str, before: Option<String>, part: usize, value: &str) -> Result<String, AssignError> {
    let before =
        before.filter(|before| before != "unlimited").ok_or_else(|| AssignError::NoParts { key: key.to_owned() })?;
    let (soft, hard) = before.split_once(':').unwrap_or((&before, &before));
    let mut parts = [soft, hard];
    parts[part.min(PARTS.len() - 1)] = value;
    Ok(parts.join(":"))
}

/// The value that was written for a key.
fn value_of(found: &Found, written: &str) -> Result<Value, AssignError> {
    let wrong = |expected| AssignError::Form { key: found.path.join("."), value: written.to_owned(), expected };
    let parsed = || written.parse::<Value>();
    Ok(match found.key.form {
        ValueForm::Tables => return Err(AssignError::Tables { key: found.path.join(".") }),
        ValueForm::Text => Value::from(written),
        ValueForm::Number => written.parse::<i64>().map_or_else(|_| Value::from(written), Value::from),
        ValueForm::Switch => Value::from(written.parse::<bool>().map_err(|_| wrong("true or false"))?),
        ValueForm::List if written.starts_with('[') => {
            parsed().map_err(|_| wrong("a list such as [\"one\", \"two\"]"))?
        }
        // A key of sshd may have commas.
        ValueForm::List if found.key.path == "login.ssh_keys" => Value::from(Array::from_iter([written])),
        ValueForm::List => Value::from(Array::from_iter(written.split(',').map(str::trim))),
        ValueForm::Table if written.starts_with(['{', '[']) => {
            parsed().map_err(|_| wrong("a table such as { key = \"value\" }, or a list in square brackets"))?
        }
        // Where a table may stand, a word may too, such as `unlimited`. The reader of the policy says which.
        ValueForm::Table => Value::from(written),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, changes: &[&str]) -> Result<String, String> {
        let changes: Result<Vec<Assignment>, _> = changes.iter().map(|change| change.parse()).collect();
        let of_plan = |key: &str| (key == "limits.disk").then(|| "10G:11G".to_owned());
        assign(text, &changes.map_err(|error| error.to_string())?, of_plan).map_err(|error| error.to_string())
    }

    const ALICE: &str = "# a good customer\nplan  = \"small\"  # since May\n\n[limits] # more\n# paid\nmemory = \"2G\" # twice\n\
                         # the end\n\n[[service]]\nname = \"web\"\ncommand = [\n  \"/a\", # x\n]\nstop = { signal = \"TERM\" }\n";

    #[test]
    fn a_word_may_stand_where_a_table_may_and_a_list_has_commas() {
        let text = changed("plan = \"p\"\n", &["network.month=unlimited", "network.allow=1.1.1.1, 8.8.8.0/24"]);
        let text = text.expect("valid");
        assert!(text.contains("month = \"unlimited\"") && text.contains("[\"1.1.1.1\", \"8.8.8.0/24\"]"), "{text}");
        changed("", &["network.month={ bytes"]).expect_err("no table");
    }

    #[test]
    fn comments_and_order_stay() {
        assert_eq!(changed(ALICE, &["memory=4G"]).expect("valid"), ALICE.replace("\"2G\"", "\"4G\""));
        let golden = ALICE.replace("memory = \"2G\" # twice\n", "memory = \"2G\" # twice\ntasks = 100\n");
        assert_eq!(changed(ALICE, &["tasks=100"]).expect("valid"), golden);
        let golden = ALICE.replace("small\"  # since May\n", "small\"  # since May\nprofile = \"shell\"\n");
        assert_eq!(changed(ALICE, &["profile=shell"]).expect("valid"), golden);
        let golden = ALICE.replace("[\n  \"/a\", # x\n]", "[\"/b\", \"-c\"]");
        assert_eq!(changed(ALICE, &["service.web.command=/b,-c"]).expect("valid"), golden);
        let golden = ALICE.replace("\"TERM\"", "\"QUIT\"").replace("\" }", "\", within = \"5s\" }");
        assert_eq!(
            changed(ALICE, &["service.web.stop.signal=QUIT", "service.web.stop.within=5s"]).expect("valid"),
            golden
        );
    }

    #[test]
    fn a_new_table_comes_last() {
        let golden = format!("{ALICE}\n[login]\nssh_keys = [\"ssh-ed25519 AAAA a,b\"]\n");
        assert_eq!(changed(ALICE, &["ssh_keys=ssh-ed25519 AAAA a,b"]).expect("valid"), golden);
        assert_eq!(
            changed("plan = \"p\"\nlimits.memory = \"1G\"\n", &["tasks=9"]).expect("valid"),
            "plan = \"p\"\nlimits.memory = \"1G\"\nlimits.tasks = 9\n"
        );
        assert_eq!(
            changed("plan = \"p\"\nlimits = { memory = \"1G\" }\n", &["tasks=9"]).expect("valid"),
            "plan = \"p\"\nlimits = { memory = \"1G\", tasks = 9 }\n"
        );
    }

    #[test]
    fn a_key_that_goes_takes_its_line_with_it() {
        let golden =
            ALICE.replace("memory = \"2G\" # twice\n", "").replace("[limits] # more\n", "").replace("May\n\n", "May\n");
        assert_eq!(changed(ALICE, &["memory="]).expect("valid"), golden);
        let golden = ALICE.replace("command = [\n  \"/a\", # x\n]\n", "");
        assert_eq!(changed(ALICE, &["service.web.command="]).expect("valid"), golden);
        let golden = ALICE.replace("stop = { signal = \"TERM\" }\n", "");
        assert_eq!(changed(ALICE, &["service.web.stop.signal="]).expect("valid"), golden);
        assert_eq!(changed(ALICE, &["service.web.stop="]).expect("valid"), golden);
        assert_eq!(changed(ALICE, &["tasks="]).expect("valid"), ALICE, "it is not there");
        assert_eq!(changed("limits.tasks = 1\n", &["tasks="]).expect("valid"), "");
    }

    #[test]
    fn a_part_of_a_limit_keeps_the_other() {
        let text = |disk: &str| format!("plan = \"p\"\n\n[limits]\ndisk = \"{disk}\"\n");
        assert_eq!(changed("plan = \"p\"\n", &["disk.hard=20G"]).expect("valid"), text("10G:20G"));
        assert_eq!(changed(&text("1G"), &["disk.soft=512M"]).expect("valid"), text("512M:1G"));
        let error = changed(&text("unlimited"), &["disk.hard=1G"]).expect_err("no parts");
        assert_eq!(error, "limits.disk is unlimited now, so it has no parts; write limits.disk=SOFT:HARD");
    }

    #[test]
    fn what_cannot_be_set_is_told_with_its_remedy() {
        for (change, told) in [
            ("memroy=1G", "there is no key \"memroy\"; did you mean \"memory\"?"),
            ("memory", "\"memory\" sets nothing; write KEY=VALUE, or --unset memory"),
            ("nesting=yes", "nesting: \"yes\" is not true or false"),
            ("service.wbe.enabled=true", "the file has no service \"wbe\"; did you mean \"web\"?"),
            ("timer.x.schedule=daily", "the file has no timer \"x\": add it with `bailiwick edit`"),
            ("doors=[ssh", "doors: \"[ssh\" is not a list such as [\"one\", \"two\"]"),
        ] {
            assert_eq!(changed(ALICE, &[change]).expect_err(change), told);
        }
        assert!(changed("plan = ", &["memory=1G"]).expect_err("no TOML").contains("bailiwick edit"));
    }

    #[test]
    fn values_are_listed_with_their_lines() {
        let all: Vec<String> = flat(ALICE)
            .into_iter()
            .map(|FlatValue { path, value, line }| format!("{line} {} = {value}", path.join(".")))
            .collect();
        let golden = [
            "2 plan = small",
            "6 limits.memory = 2G",
            "10 service.web.name = web",
            "11 service.web.command = /a",
            "14 service.web.stop.signal = TERM",
        ];
        assert_eq!(all, golden);
        let inline = "service = [{ name = \"a\", env = { X = \"1\" } }]\nnetwork.allow = [{ to = \"b\" }]\n";
        let all: Vec<String> =
            flat(inline).into_iter().map(|flat| format!("{} {}", flat.path.join("."), flat.value)).collect();
        assert_eq!(all, ["service.a.name a", "service.a.env X = 1", "network.allow to = b"]);
    }
}
