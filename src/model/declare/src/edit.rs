//! Changes the state in a tenant's file that is TOML, and keeps its comments and its order.

use crate::lines::{COMMENTED_OUT, uncommented};
use crate::state::StateChange;
use toml_edit::{Decor, DocumentMut, Item, Table, Value, value};

/// Returns the text with the new state and nothing else changed.
pub(crate) fn edit_document(text: &str, change: &StateChange) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = text.parse()?;
    // The file was no TOML when its state was changed, and somebody has repaired it since. So the lines that were commented out
    // then can return.
    if *change == StateChange::Activate
        && text.as_bytes().windows(COMMENTED_OUT.len()).any(|part| part == COMMENTED_OUT)
        && let Ok(whole) = String::from_utf8(uncommented(text.as_bytes()).1.concat())
        && let Ok(before) = whole.parse()
    {
        document = before;
    }
    match change {
        StateChange::Suspend { reason } => {
            set(&mut document, "state", "suspended");
            if let Some(reason) = reason {
                set(&mut document, "suspend_reason", reason);
            }
        }
        StateChange::Activate => {
            if document.contains_key("state") {
                set(&mut document, "state", "active");
            }
            remove(&mut document, "suspend_reason");
        }
    }
    Ok(document.to_string())
}

/// Sets a key at the top of the file. The new value keeps the blanks and comments around the old one.
fn set(document: &mut DocumentMut, key: &str, text: &str) {
    match document.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) if old.as_str() == Some(text) => {}
        Some(old) => {
            let mut new = Value::from(text);
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => document[key] = value(text),
    }
}

/// Removes a key at the top of the file. The comment lines above it move to the next key.
fn remove(document: &mut DocumentMut, key: &str) {
    let above = document.key(key).map(|key| prefix(key.leaf_decor())).unwrap_or_default();
    let next = document.iter().map(|(key, _)| key.to_owned()).skip_while(|other| other != key).nth(1);
    document.remove(key);
    match next {
        _ if !above.contains('#') => {}
        Some(next) => put_above(document.as_table_mut(), &next, &above),
        None => {
            let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
            document.set_trailing(above + &trailing);
        }
    }
}

/// Puts lines above the header or the line of a key.
fn put_above(table: &mut Table, key: &str, lines: &str) {
    let put = |decor: &mut Decor| decor.set_prefix(lines.to_owned() + &prefix(decor));
    match table.get_mut(key) {
        // `login.user = "x"` has no header. Its line belongs to the inner key.
        Some(Item::Table(inner)) if inner.is_dotted() => {
            let first = inner.iter().next().map(|(key, _)| key.to_owned());
            put_above(inner, &first.unwrap_or_default(), lines);
        }
        Some(Item::Table(inner)) => put(inner.decor_mut()),
        Some(Item::ArrayOfTables(tables)) => tables.iter_mut().take(1).for_each(|table| put(table.decor_mut())),
        _ => table.key_mut(key).iter_mut().for_each(|key| put(key.leaf_decor_mut())),
    }
}

fn prefix(decor: &Decor) -> String {
    decor.prefix().and_then(|text| text.as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ALICE, unpaid};
    use crate::lines::edit_lines;

    #[test]
    fn suspending_keeps_comments_and_order() {
        let suspended = edit_document(ALICE, &unpaid()).expect("valid");
        let golden = "# a good customer\nplan  = \"small\"  # since May\nstate = \"suspended\" # for now\n\
                      suspend_reason = 'unpaid \"twice\"'\n\n[limits] # more\nmemory = \"2G\"\n";
        assert_eq!(suspended, golden);
        assert_eq!(edit_document(&suspended, &unpaid()).expect("valid"), suspended, "again is no change");
        let plain = StateChange::Suspend { reason: None };
        assert_eq!(edit_document(&suspended, &plain).expect("valid"), suspended, "the reason stays");
        assert_eq!(edit_document(&suspended, &StateChange::Activate).expect("valid"), ALICE, "and back");
        assert_eq!(edit_document(ALICE, &StateChange::Activate).expect("valid"), ALICE);
    }

    #[test]
    fn lines_that_were_commented_out_return_when_the_file_was_repaired() {
        let text = "plan = \"small\nnote = \"\"\"\nstate = 1\n\"\"\"\nstate = \"active\" # for now\n";
        let suspended = String::from_utf8(edit_lines(text.as_bytes(), &unpaid())).expect("text");
        let repaired = suspended.replace("\"small\n", "\"small\"\n");
        assert_eq!(
            edit_document(&repaired, &StateChange::Activate).expect("valid"),
            text.replace("\"small\n", "\"small\"\n")
        );
    }

    #[test]
    fn a_new_state_goes_before_the_tables() {
        let text = "plan = \"small\"\n\n# limits\n[limits]\nmemory = \"2G\"\n[[service]]\nname = \"web\"\n";
        let suspended = edit_document(text, &StateChange::Suspend { reason: None }).expect("valid");
        assert_eq!(suspended, text.replace("small\"\n", "small\"\nstate = \"suspended\"\n"));
        assert_eq!(edit_document(text, &StateChange::Activate).expect("valid"), text);
        assert!(edit_document("plan = ", &StateChange::Activate).is_err());
    }

    #[test]
    fn comments_above_the_reason_outlive_it() {
        let before = |rest: &str| format!("plan = \"p\"\n# called on the 3rd\nsuspend_reason = \"unpaid\"\n{rest}");
        let after = |rest: &str| format!("plan = \"p\"\n# called on the 3rd\n{rest}");
        for rest in [
            "",
            "image = \"host\"\n",
            "# x\n[limits]\ntasks = 1\n",
            "[[service]]\nname = \"a\"\n",
            "login.user = \"u\"\n",
        ] {
            assert_eq!(edit_document(&before(rest), &StateChange::Activate).expect("valid"), after(rest));
        }
    }
}
