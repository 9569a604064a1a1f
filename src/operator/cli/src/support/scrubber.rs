//! Removes secrets from texts that nobody has structured: logs, events, messages.

use aho_corasick::{AhoCorasick, MatchKind};
use bailiwick_declare::REMOVED;
use std::collections::{BTreeSet, HashSet};

/// What secrets begin with, wherever they stand: keys of SSH, hashes of crypt(5), secrets of webhooks.
const BEGINNINGS: &[&str] = &["AAAA", "$y$", "$gy$", "$7$", "$6$", "$5$", "$2b$", "$2y$", "$1$", "whsec_"];
/// The fewest characters of a word with such a beginning.
const SHORTEST: usize = 12;
/// Words before an equals sign or a colon whose value is a secret.
const NAMES: &[&str] = &["password", "passwd", "secret", "token", "api_key", "apikey"];
/// A header after which the rest of the line is a secret.
const HEADER: &str = "authorization";

/// Knows the secrets of a host.
pub(super) struct Scrubber {
    /// All of them, wherever they stand; of two that begin at one place the longer one. `None` if they are too many.
    secrets: Option<AhoCorasick>,
    /// Their parts between blanks and the like.
    parts: HashSet<String>,
}

impl Scrubber {
    pub(super) fn new(secrets: Vec<String>) -> Self {
        // The kind of a key is in every message about keys, and says nothing.
        let is_secret =
            |secret: &str| secret.len() >= 6 && !secret.starts_with("ssh-") && !secret.starts_with("ecdsa-");
        let parts = secrets.iter().flat_map(|secret| secret.split(|c| is_end(c) || is_mark(c)));
        let parts = parts.filter(|part| is_secret(part)).map(str::to_owned).collect();
        // In JSON a quote in a secret has a backslash before it.
        let escaped = |secret: &String| secret.replace('\\', "\\\\").replace('"', "\\\"");
        let secrets: BTreeSet<String> = secrets.into_iter().filter(|secret| is_secret(secret)).collect();
        let forms: BTreeSet<String> = secrets.iter().map(escaped).chain(secrets.iter().cloned()).collect();
        let secrets = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(forms).ok();
        Self { secrets, parts }
    }

    /// The text without secrets.
    pub(super) fn scrub(&self, text: &str) -> String {
        let Some(secrets) = &self.secrets else { return format!("{REMOVED}: the host has too many secrets\n") };
        let mut out = String::new();
        secrets.replace_all_with(text, &mut out, |_, _, out| {
            out.push_str(REMOVED);
            true
        });
        without_keys(&out).split_inclusive('\n').map(|line| self.line(&without_logins(line))).collect()
    }

    fn line(&self, line: &str) -> String {
        let mut out = String::new();
        let (mut is_value, mut is_header) = (false, false);
        for piece in line.split_inclusive(|c| is_end(c) || is_mark(c)) {
            let word = piece.trim_end_matches(|c| is_end(c) || is_mark(c));
            let end = &piece[word.len()..];
            let is_known = || is_mail(word) || has_beginning(word) || self.parts.contains(word);
            let removed = !word.is_empty() && (is_value || is_header || is_known());
            out.push_str(if removed { REMOVED } else { word });
            out.push_str(end);
            // A blank or a quote may stand between a name and its value.
            if !word.is_empty() {
                let name = word.to_ascii_lowercase();
                let is_name = NAMES.iter().any(|secret| name.ends_with(secret));
                // An option may have its value after a blank.
                let is_option = name.starts_with("--") && end.starts_with(' ');
                is_value = is_name && (is_option || end.starts_with(['=', ':', '"', '\'']));
                is_header = is_header || name == HEADER;
            }
            // In JSON a value ends with its quote.
            is_header = is_header && !(removed && end.contains('"'));
        }
        out
    }
}

/// What ends a word.
fn is_end(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ',' | ';' | '<' | '>' | '(' | ')' | '[' | ']' | '{' | '}')
}

/// What stands between a name and its value.
fn is_mark(c: char) -> bool {
    matches!(c, '=' | ':')
}

/// Removes `user:password@` after the scheme of an address.
fn without_logins(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        let login = after.split(|c: char| is_end(c) || c == '/').next().unwrap_or_default().rsplit_once('@');
        out.push_str(before);
        out.push_str("://");
        rest = match login.filter(|(login, _)| login.contains(':')) {
            Some((login, _)) => {
                out.push_str(REMOVED);
                &after[login.len()..]
            }
            None => after,
        };
    }
    out + rest
}

/// Removes private keys, which are several lines.
fn without_keys(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("-----BEGIN ") {
        out.push_str(before);
        out.push_str(REMOVED);
        rest = match after.split_once("-----END ") {
            Some((_, end)) => end.split_once("-----").map_or("", |(_, rest)| rest),
            None => "",
        };
    }
    out + rest
}

/// `somebody@example.org`, and not a login for FTP (`files@alice`) or a unit (`x@1.service`).
fn is_mail(word: &str) -> bool {
    let Some((local, domain)) = word.trim_end_matches('.').split_once('@') else { return false };
    let is_unit = [".service", ".socket", ".slice", ".timer", ".scope"].iter().any(|end| domain.ends_with(end));
    !local.is_empty() && domain.contains('.') && !is_unit
}

fn has_beginning(word: &str) -> bool {
    let found = |start: &str| word.find(start).is_some_and(|at| word.len() - at >= SHORTEST);
    BEGINNINGS.iter().any(|start| found(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_of_a_line_stays() {
        let scrubber = Scrubber::new(vec!["known \"secret\"".to_owned(), "ssh-ed25519".to_owned(), "abc".to_owned()]);
        for (text, golden) in [
            ("nothing to hide at 12:30:01 for files@alice\n", "nothing to hide at 12:30:01 for files@alice\n"),
            ("a known \"secret\" b", "a (removed) b"),
            (r#"{"text": "a known \"secret\" b"}"#, r#"{"text": "a (removed) b"}"#),
            ("mail to <joe.x@example.org>, sent", "mail to <(removed)>, sent"),
            ("password=hunter2 user=x", "password=(removed) user=x"),
            (r#""smtp_password": "hunter2", "x": 1"#, r#""smtp_password": "(removed)", "x": 1"#),
            ("hash $y$j9T$D7TvcSFvIlGpEkFVkXmRs0$x", "hash (removed)"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 x", "ssh-ed25519 (removed) x"),
            ("a -----BEGIN OPENSSH PRIVATE KEY-----\nxyz\n-----END OPENSSH PRIVATE KEY-----\nb", "a (removed)\nb"),
            ("user@1000.service failed", "user@1000.service failed"),
            ("Authorization: Bearer x1y2 z\nnext\n", "Authorization: (removed) (removed) (removed)\nnext\n"),
            (r#"{"authorization": "Basic eDp5", "x": 1}"#, r#"{"authorization": "(removed) (removed)", "x": 1}"#),
            ("mysql://u:pw@localhost/db http://a/b@c", "mysql://(removed)@localhost/db http://a/b@c"),
            ("run --token abc --deep 1", "run --token (removed) --deep 1"),
            (
                "BW027: SHA256:jxVzEiZaRQK02CsdokjdhQG170Q4yIgmuj7Ybl+wNrI",
                "BW027: SHA256:jxVzEiZaRQK02CsdokjdhQG170Q4yIgmuj7Ybl+wNrI",
            ),
        ] {
            assert_eq!(scrubber.scrub(text), golden);
        }
    }

    #[test]
    fn a_short_secret_is_found_among_thousands_of_long_ones() {
        let keys = (0..5000).map(|number| format!("AAAA{number:060}"));
        let scrubber = Scrubber::new(keys.chain(["owes us 17 EUR".to_owned(), "owes us".to_owned()]).collect());
        assert_eq!(scrubber.scrub(r#""reason": "owes us 17 EUR""#), r#""reason": "(removed)""#);
    }
}
