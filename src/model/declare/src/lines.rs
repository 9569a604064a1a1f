//! Edits the state in a tenant's file that is no TOML: line by line.

use crate::state::StateChange;
use toml_edit::Value;

/// Before a line for the state in a file that is no TOML, while other lines stand first: nobody knows whether it is one, or within a
/// text of several lines.
pub(crate) const COMMENTED_OUT: &[u8] = b"#bailiwick: ";
const SUSPENDED: &[u8] = b"state = \"suspended\"\n";

fn is_of(key: &str, line: &[u8]) -> bool {
    let rest = line.trim_ascii_start().strip_prefix(key.as_bytes());
    rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
}

/// The lines for the state that [`edit_lines`] has put first, and the others as they were before.
pub(crate) fn uncommented(text: &[u8]) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let mut rest: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut first = Vec::new();
    if rest.first() == Some(&SUSPENDED) {
        let has_reason = rest.get(1).is_some_and(|line| is_of("suspend_reason", line));
        first = rest.drain(..1 + usize::from(has_reason)).collect();
    }
    let rest = rest.into_iter().map(|line| line.strip_prefix(COMMENTED_OUT).unwrap_or(line)).collect();
    (first, rest)
}

/// The text of a file that is no TOML with another state. The lines for the state stand first, where whatever else is in the file does
/// not keep them from being read. What reads as one before the first header is commented out until the tenant is suspended no more.
pub(crate) fn edit_lines(before: &[u8], change: &StateChange) -> Vec<u8> {
    let (first, rest) = uncommented(before);
    let header = rest.iter().position(|line| line.trim_ascii_start().starts_with(b"[")).unwrap_or(rest.len());
    let (top, tables) = rest.split_at(header);
    let is_reason = |line: &&&[u8]| is_of("suspend_reason", line);
    let mut after = Vec::new();
    let comments_out = match change {
        StateChange::Suspend { reason } => {
            after.extend_from_slice(SUSPENDED);
            match reason {
                Some(reason) => {
                    after.extend_from_slice(format!("suspend_reason = {}\n", Value::from(reason)).as_bytes());
                }
                None => after.extend(first.iter().chain(top).find(is_reason).copied().into_iter().flatten()),
            }
            true
        }
        // Somebody has written it there by hand.
        StateChange::Activate => {
            top.iter().any(|line| is_of("state", line) && line.windows(9).any(|word| word == b"suspended"))
        }
    };
    for line in top {
        if comments_out && (is_of("state", line) || is_of("suspend_reason", line)) {
            after.extend_from_slice(COMMENTED_OUT);
        }
        after.extend_from_slice(line);
    }
    after.extend(tables.iter().copied().flatten());
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::unpaid;

    #[test]
    fn the_state_of_what_is_no_toml_stands_first() {
        let plain = StateChange::Suspend { reason: None };
        for (text, aside) in [
            (&b"plan = \"small\nmemory"[..], None),
            (b"\0\xff\xfe", None),
            (b"", None),
            (b"# [x\n  [limits\nstate = 1\n", None),
            (b"stateful = ]", None),
            (b"plan = \"small\nstate=\"active\"", Some(&b"plan = \"small\n#bailiwick: state=\"active\""[..])),
            (
                b"x = \"\"\"\n  state = 1\nsuspend_reason = 2\n\"\"\"\nplan = ]\n[a]\nstate = 2\n",
                Some(
                    b"x = \"\"\"\n#bailiwick:   state = 1\n#bailiwick: suspend_reason = 2\n\"\"\"\nplan = ]\n[a]\nstate = 2\n",
                ),
            ),
        ] {
            let suspended = edit_lines(text, &unpaid());
            let lines = &b"state = \"suspended\"\nsuspend_reason = 'unpaid \"twice\"'\n"[..];
            let golden = [lines, aside.unwrap_or(text)].concat();
            assert_eq!(suspended, golden);
            assert_eq!(edit_lines(&suspended, &unpaid()), golden, "again is no change");
            assert_eq!(edit_lines(&suspended, &plain), golden, "the reason stays");
            assert_eq!(edit_lines(&suspended, &StateChange::Activate), text, "and back");
            assert_eq!(edit_lines(text, &StateChange::Activate), text, "nothing is commented out for that");
        }
        let text = b"plan = \"small\nstate = \"suspended\"\nsuspend_reason = \"x\"\n[limits]\nstate = 1\n";
        let golden =
            b"state = \"suspended\"\nsuspend_reason = \"x\"\nplan = \"small\n#bailiwick: state = \"suspended\"\n\
                       #bailiwick: suspend_reason = \"x\"\n[limits]\nstate = 1\n";
        assert_eq!(edit_lines(text, &plain), golden, "what would be twice there once the file is mended is no line");
        let golden = b"plan = \"small\n#bailiwick: state = \"suspended\"\n#bailiwick: suspend_reason = \"x\"\n[limits]\nstate = 1\n";
        assert_eq!(edit_lines(text, &StateChange::Activate), golden);
        assert_eq!(edit_lines(golden, &StateChange::Activate), golden);
    }
}
