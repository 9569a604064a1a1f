//! Takes secrets out of a file of the configuration, for whoever shows it to others.

use toml_edit::{Array, Decor, DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// What stands in place of a secret.
pub const REMOVED: &str = "(removed)";
/// Keys whose values are secrets, or tell who somebody is, wherever they stand. A key that ends in one of them with an underscore
/// before it is one too.
const SECRET_KEYS: &[&str] = &[
    "address",
    "contact",
    "env",
    "key",
    "keys",
    "mail_to",
    "pass",
    "passwd",
    "password",
    "secret",
    "secrets",
    "ssh_keys",
    "suspend_reason",
    "token",
    "tokens",
    "url",
    "webhook",
];
/// A key of the policy that only sounds so: how a service gets its socket.
const NO_SECRETS: &[(&str, &[&str])] = &[("pass", &["fd", "fpm", "relay"])];
/// Keys with a program and its arguments. The arguments may hold secrets.
const COMMANDS: &[&str] = &["command", "run"];
/// A shorter text is not looked for elsewhere: it would be found in the middle of words.
const SHORTEST: usize = 6;

/// A file without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The text, without comments: they may hold anything.
    pub text: String,
    /// The secrets that were in it, to be looked for elsewhere.
    pub secrets: Vec<String>,
}

/// Takes the secrets and all comments out of a file. `None` for a file that is no TOML, of which nothing can be shown.
#[must_use]
pub fn redacted(text: &str) -> Option<Redacted> {
    let mut document: DocumentMut = text.parse().ok()?;
    let mut secrets = Vec::new();
    redact(document.as_table_mut(), &mut secrets);
    document.set_trailing("");
    secrets.retain(|secret| secret.len() >= SHORTEST);
    Some(Redacted { text: document.to_string(), secrets })
}

fn is_secret(key: &str, item: &Item) -> bool {
    let key = key.to_ascii_lowercase();
    let is_word =
        |secret: &&&str| key == **secret || key.strip_suffix(**secret).is_some_and(|rest| rest.ends_with('_'));
    let Some(found) = SECRET_KEYS.iter().find(is_word) else { return false };
    let words = NO_SECRETS.iter().find(|(known, _)| known == found).map_or(&[][..], |(_, words)| words);
    !item.as_str().is_some_and(|text| words.contains(&text))
}

fn redact(table: &mut Table, secrets: &mut Vec<String>) {
    plain(table.decor_mut());
    let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys {
        if let Some(mut key) = table.key_mut(&key) {
            plain(key.leaf_decor_mut());
        }
        let Some(item) = table.get_mut(&key) else { continue };
        redact_item(&key, item, secrets);
    }
}

fn redact_item(key: &str, item: &mut Item, secrets: &mut Vec<String>) {
    let secret = is_secret(key, item);
    match item {
        Item::Table(inner) if secret => replace_all(inner, secrets),
        Item::Table(inner) => redact(inner, secrets),
        Item::ArrayOfTables(tables) if secret => tables.iter_mut().for_each(|table| replace_all(table, secrets)),
        Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| redact(table, secrets)),
        Item::Value(value) => redact_value(key, value, secret, secrets),
        Item::None => {}
    }
}

/// A secret table keeps its keys.
fn replace_all(table: &mut Table, secrets: &mut Vec<String>) {
    plain(table.decor_mut());
    for (mut key, item) in table.iter_mut() {
        plain(key.leaf_decor_mut());
        match item {
            Item::Value(value) => replace(value, secrets),
            Item::Table(inner) => replace_all(inner, secrets),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| replace_all(table, secrets)),
            Item::None => {}
        }
    }
}

fn redact_value(key: &str, value: &mut Value, secret: bool, secrets: &mut Vec<String>) {
    plain(value.decor_mut());
    match value {
        _ if secret => replace(value, secrets),
        Value::Array(array) if COMMANDS.contains(&key) => {
            tidy(array);
            array.iter_mut().skip(1).for_each(|argument| replace(argument, secrets));
        }
        Value::Array(array) => {
            tidy(array);
            array.iter_mut().for_each(|item| redact_value(key, item, false, secrets));
        }
        Value::InlineTable(table) => redact_inline(table, secrets),
        Value::String(text) if text.value().contains('@') => replace(value, secrets),
        _ => {}
    }
}

fn redact_inline(table: &mut InlineTable, secrets: &mut Vec<String>) {
    let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys {
        if let Some(mut key) = TableLike::key_mut(table, &key) {
            plain(key.leaf_decor_mut());
        }
        let secret = table.get(&key).is_some_and(|value| is_secret(&key, &Item::Value(value.clone())));
        if let Some(value) = table.get_mut(&key) {
            redact_value(&key, value, secret, secrets);
        }
    }
}

/// Replaces a value by one of the same form.
fn replace(value: &mut Value, secrets: &mut Vec<String>) {
    match value {
        Value::Array(array) => {
            tidy(array);
            array.iter_mut().for_each(|item| replace(item, secrets));
        }
        Value::InlineTable(table) => table.iter_mut().for_each(|(_, item)| replace(item, secrets)),
        Value::Boolean(_) => {}
        other => {
            match other.as_str() {
                Some(text) => {
                    secrets.push(text.to_owned());
                    // A key of sshd is quoted elsewhere without its comment, and the comment without the key.
                    secrets.extend(text.split_whitespace().map(str::to_owned));
                }
                None => secrets.push(other.to_string().trim().to_owned()),
            }
            *other = Value::from(REMOVED);
        }
    }
}

fn tidy(array: &mut Array) {
    array.iter_mut().for_each(|item| plain(item.decor_mut()));
    array.set_trailing("");
    array.fmt();
}

/// Takes comments out of what is around a key or a value.
fn plain(decor: &mut Decor) {
    let without = |text: Option<&toml_edit::RawString>| {
        let text = text.and_then(|text| text.as_str()).unwrap_or_default();
        let lines = text.split_inclusive('\n').map(|line| {
            line.split_once('#').map_or(line, |(before, _)| if before.trim().is_empty() { "" } else { before })
        });
        lines.collect::<String>()
    };
    if let Some(prefix) = decor.prefix().map(|prefix| without(Some(prefix))) {
        decor.set_prefix(prefix);
    }
    if let Some(suffix) = decor.suffix().map(|suffix| without(Some(suffix))) {
        decor.set_suffix(suffix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_comments_go_and_the_rest_stays() {
        let text = "# comment1\nplan = \"small\" # comment2\nstate = \"suspended\"\nsuspend_reason = \"reason1 of x@example.org\"\n\
                    notify = \"who1@example.org\"\n\n[limits] # comment3\nmemory = \"2G\"\n\n[login]\nssh_keys = [\n  # comment4\n  \"ssh-ed25519 KEYBODY1 comment5\",\n]\n\n\
                    [[service]]\nname = \"web\"\ncommand = [\"/bin/x\", \"--password=argument1\"]\nenv = { TOKEN = \"env1234\", N = 17171717 }\n\
                    \n[[service.socket]]\nname = \"s\"\npass = \"fd\"\n\n[[ftp]]\nname = \"f\"\npassword = \"$y$hash1234\"\n\n\
                    [[hook]]\nwebhook = { url = \"https://h/secret1\", secrets = [\"whsec1234\"] }\nsmtp_password = \"mailpass\"\n# comment6\n";
        let Redacted { text: shown, secrets } = redacted(text).expect("TOML");
        for secret in [
            "comment",
            "reason1",
            "who1",
            "KEYBODY1",
            "argument1",
            "env1234",
            "17171717",
            "hash1234",
            "secret1",
            "whsec1234",
            "mailpass",
            "@",
        ] {
            assert!(!shown.contains(secret), "{secret} {shown}");
        }
        for kept in
            ["plan = \"small\"", "memory = \"2G\"", "pass = \"fd\"", "/bin/x", "name = \"web\"", "[[ftp]]", "TOKEN"]
        {
            assert!(shown.contains(kept), "{kept} {shown}");
        }
        assert!(shown.parse::<DocumentMut>().is_ok(), "{shown}");
        for secret in ["KEYBODY1", "$y$hash1234", "whsec1234", "17171717"] {
            assert!(secrets.iter().any(|known| known == secret), "{secret} {secrets:?}");
        }
        assert_eq!(redacted("plan = "), None);
    }
}
