//! Changes the state in a tenant's file that is no TOML, line by line.

use crate::state::StateChange;
use toml_edit::Value;

/// The mark that comments out a line that looks like a state. In a file that is no TOML, such a line may also be a part of a
/// text with several lines.
pub(crate) const COMMENTED_OUT: &[u8] = b"#bailiwick: ";
const SUSPENDED: &[u8] = b"state = \"suspended\"\n";

fn sets(key: &str, line: &[u8]) -> bool {
    let rest = line.trim_ascii_start().strip_prefix(key.as_bytes());
    rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
}

/// Undoes [`edit_lines`]. Returns the lines that it has put first, and the others as they were before.
pub(crate) fn uncommented(text: &[u8]) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let mut rest: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut first = Vec::new();
    if rest.first() == Some(&SUSPENDED) {
        let has_reason = rest.get(1).is_some_and(|line| sets("suspend_reason", line));
        first = rest.drain(..1 + usize::from(has_reason)).collect();
    }
    let rest = rest.into_iter().map(|line| line.strip_prefix(COMMENTED_OUT).unwrap_or(line)).collect();
    (first, rest)
}

/// Returns the text of a file that is no TOML with a new state. The lines for the state come first, where the rest of the file
/// cannot keep them from being read. Other lines before the first header that look like a state are commented out, until the
/// tenant is active again.
pub(crate) fn edit_lines(before: &[u8], change: &StateChange) -> Vec<u8> {
    let (first, rest) = uncommented(before);
    let header = rest.iter().position(|line| line.trim_ascii_start().starts_with(b"[")).unwrap_or(rest.len());
    let (top, tables) = rest.split_at(header);
    let is_reason = |line: &&&[u8]| sets("suspend_reason", line);
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
        // An operator has written the suspension into the file by hand.
        StateChange::Activate => {
            top.iter().any(|line| sets("state", line) && line.windows(9).any(|word| word == b"suspended"))
        }
    };
    for line in top {
        if comments_out && (sets("state", line) || sets("suspend_reason", line)) {
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
    fn the_state_comes_first_in_a_file_that_is_no_toml() {
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
            assert_eq!(edit_lines(text, &StateChange::Activate), text, "activating comments nothing out");
        }
        let text = b"plan = \"small\nstate = \"suspended\"\nsuspend_reason = \"x\"\n[limits]\nstate = 1\n";
        let golden =
            b"state = \"suspended\"\nsuspend_reason = \"x\"\nplan = \"small\n#bailiwick: state = \"suspended\"\n\
                       #bailiwick: suspend_reason = \"x\"\n[limits]\nstate = 1\n";
        assert_eq!(edit_lines(text, &plain), golden, "a key that would be there twice after a repair is commented out");
        let golden = b"plan = \"small\n#bailiwick: state = \"suspended\"\n#bailiwick: suspend_reason = \"x\"\n[limits]\nstate = 1\n";
        assert_eq!(edit_lines(text, &StateChange::Activate), golden);
        assert_eq!(edit_lines(golden, &StateChange::Activate), golden);
    }
}
