//! `bailiwick explain`: what a word of Bailiwick's answers means, without a daemon and without the network.
//!
//! The texts are those of the documentation: its tables are part of the program, so both say the same.

use crate::output::{self, Form};
use crate::table::{pairs, render};
use bailiwick_audit::FINDINGS;
use bailiwick_declare::keys::{self, KEYS, Key};
use bailiwick_proto::Failure;
use bailiwick_types::{ExitStatus, LimitKey, RefusedPacket};
use serde::Serialize;
use std::collections::BTreeMap;

const FINDINGS_PAGE: &str = include_str!("../../../../docs/findings.md");
const LIMITS_PAGE: &str = include_str!("../../../../docs/limits.md");
/// What the paths of limits begin with.
const LIMITS: &str = "limits.";
/// What `exit-6` begins with.
const EXIT: &str = "exit-";

/// What is known of a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Explanation {
    /// The word.
    topic: String,
    /// What it is: `finding`, `limit`, `key`, `exit status` or `refused packet`.
    kind: &'static str,
    /// What it means.
    meaning: String,
    /// More, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    more: BTreeMap<&'static str, String>,
    /// The page of the documentation.
    page: &'static str,
}

/// `bailiwick explain [WORD]`.
///
/// # Errors
/// Not found when nothing is known of the word.
pub(crate) fn run(word: &[String], form: Form) -> Result<(), Failure> {
    let all = all();
    let wanted = word.join(" ").to_lowercase();
    let wanted = of_incident(&wanted).unwrap_or(&wanted);
    if wanted.is_empty() {
        return output::show(form, &all, |all| list(all));
    }
    // `service.web.command` is the key `service.*.command`.
    let key = keys::find(wanted).ok().map(|found| topic_of(found.key));
    let is_wanted =
        |explanation: &Explanation| is_called(explanation, wanted) || Some(&explanation.topic) == key.as_ref();
    let found: Vec<_> = all.into_iter().filter(is_wanted).collect();
    if found.is_empty() {
        let message = format!("nothing is known of {wanted:?}; `bailiwick explain` lists all words");
        return Err(Failure::of(ExitStatus::NotFound, message));
    }
    output::show(form, &found, |found| found.iter().map(text).collect::<Vec<_>>().join("\n"))
}

/// The word for what an incident or a fault of the network is about: `network-dns` is a refused packet, and `network-month-80` a share
/// of the volume of the month.
fn of_incident(word: &str) -> Option<&str> {
    let event = word.strip_prefix("network-")?;
    Some(if event.starts_with("month-") { "month" } else { event })
}

/// Whether an operator means this by a word: `BW027`, `memory` or `limit memory`, `exit-6` or `exit 6`.
fn is_called(explanation: &Explanation, wanted: &str) -> bool {
    let topic = explanation.topic.to_lowercase();
    let kind = explanation.kind.split(' ').next().unwrap_or_default();
    wanted == topic || wanted == format!("{kind} {topic}") || wanted.replace(' ', "-") == topic
}

fn all() -> Vec<Explanation> {
    let mut all = exit_statuses();
    all.extend(LimitKey::ALL.into_iter().map(limit));
    all.extend(KEYS.iter().filter(|key| !key.path.starts_with(LIMITS)).map(setting));
    all.extend(RefusedPacket::ALL.iter().map(|reason| refused(*reason)));
    all.extend(FINDINGS.iter().map(|kind| {
        let row = row(FINDINGS_PAGE, |cell| cell == kind.id);
        Explanation {
            topic: kind.id.to_owned(),
            kind: "finding",
            meaning: row.last().cloned().unwrap_or_default(),
            more: BTreeMap::from([
                ("about", kind.about.to_owned()),
                ("severity", output::word(kind.severity)),
                ("remedy", kind.remedy.to_owned()),
            ]),
            page: "findings.md",
        }
    }));
    all
}

fn exit_statuses() -> Vec<Explanation> {
    let explained = |status: ExitStatus| Explanation {
        topic: format!("{EXIT}{}", status.code()),
        kind: "exit status",
        meaning: status.meaning().to_owned(),
        more: BTreeMap::new(),
        page: "guide.md",
    };
    ExitStatus::ALL.into_iter().map(explained).collect()
}

/// A limit is explained under its own name.
fn topic_of(key: &Key) -> String {
    key.path.strip_prefix(LIMITS).unwrap_or(key.path).to_owned()
}

fn setting(key: &Key) -> Explanation {
    // Links have no names, and are no part of a plan.
    let is_link = key.path == "link" || key.path.starts_with("link.");
    let set = match is_link {
        true => "`bailiwick edit TENANT`".to_owned(),
        false => format!("`bailiwick set TENANT {}=VALUE`, or `bailiwick edit TENANT`", key.path.replace('*', "NAME")),
    };
    Explanation {
        topic: topic_of(key),
        kind: "key",
        meaning: key.meaning.to_owned(),
        more: BTreeMap::from([("set", set)]),
        page: if is_link { "man/bailiwick-tenants.5" } else { "man/bailiwick-plans.5" },
    }
}

fn limit(key: LimitKey) -> Explanation {
    let is_of = |cell: &str| cell.split(',').any(|word| word.trim().trim_matches('`') == key.word());
    let row = row(LIMITS_PAGE, is_of);
    let cell = |place: usize| row.get(place).cloned().unwrap_or_default();
    Explanation {
        topic: key.word().to_owned(),
        kind: "limit",
        // A limit that no file sets is explained by what holds it.
        meaning: keys::of_path(&["limits", key.word()])
            .map_or_else(|| format!("a limit, held by: {}", cell(1)), |key| key.meaning.to_owned()),
        more: BTreeMap::from([("held by", cell(1)), ("needs", cell(2))]),
        page: "limits.md",
    }
}

fn refused(reason: RefusedPacket) -> Explanation {
    Explanation {
        topic: reason.word().to_owned(),
        kind: "refused packet",
        meaning: format!("the router refused a packet {}", reason.text()),
        more: BTreeMap::from([(
            "look",
            "`bailiwick network TENANT` shows how many, and the last addresses".to_owned(),
        )]),
        page: "network.md",
    }
}

/// The cells of the first row of a page's tables whose first cell is the wanted one, in plain text.
fn row(page: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| plain(cell.trim())).collect::<Vec<_>>();
    rows.map(cells).find(|cells| cells.first().is_some_and(|cell| is_wanted(cell))).unwrap_or_default()
}

/// Markdown without its links: `[text](page.md)` is `text`.
fn plain(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, link)) = rest.split_once('[') {
        match link.split_once("](").and_then(|(words, after)| Some((words, after.split_once(')')?.1))) {
            Some((words, after)) => {
                text.push_str(before);
                text.push_str(words);
                rest = after;
            }
            None => {
                text.push_str(before);
                text.push('[');
                rest = link;
            }
        }
    }
    text + rest
}

fn list(all: &[Explanation]) -> String {
    let rows = all.iter().map(|explanation| vec![explanation.topic.clone(), explanation.kind.to_owned()]);
    render(&["WORD", "WHAT"], rows)
}

fn text(explanation: &Explanation) -> String {
    let Explanation { topic, kind, meaning, more, page } = explanation;
    let more = more.iter().map(|(name, value)| (*name, value.clone()));
    let rows = std::iter::once(("word", format!("{topic} ({kind})")))
        .chain(std::iter::once(("meaning", meaning.clone())))
        .chain(more)
        .chain(std::iter::once(("page", format!("docs/{page}"))));
    pairs(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_explained() {
        for explanation in all() {
            let Explanation { topic, meaning, more, .. } = &explanation;
            assert!(!meaning.is_empty() && !meaning.ends_with(": "), "{topic}: {meaning:?}");
            assert!(more.iter().all(|(_, value)| !value.is_empty()), "{topic}: {more:?}");
            assert!(is_called(&explanation, &topic.to_lowercase()), "{topic}");
        }
    }

    #[test]
    fn what_incidents_of_the_network_are_called_is_explained() {
        for (word, topic) in [("network-dns", "dns"), ("network-month", "month"), ("network-month-80", "month")] {
            assert_eq!(of_incident(word), Some(topic));
            assert!(all().iter().any(|explanation| is_called(explanation, topic)), "{topic}");
        }
        assert_eq!(of_incident("network.ports"), None);
        let link = all().into_iter().find(|explanation| explanation.topic == "link").expect("a key");
        assert!(
            link.page.ends_with("tenants.5") && !link.more["set"].contains(" set "),
            "links have no names: {link:?}"
        );
    }

    #[test]
    fn a_word_is_found_by_what_operators_write() {
        let found = |words: &str| {
            let of = |explanation: &Explanation| (explanation.kind, explanation.topic.clone());
            all().iter().filter(|explanation| is_called(explanation, words)).map(of).collect::<Vec<_>>()
        };
        assert_eq!(found("bw027"), [("finding", "BW027".to_owned())]);
        for words in ["memory", "limit memory"] {
            assert_eq!(found(words), [("limit", "memory".to_owned())]);
        }
        for words in ["exit-6", "exit 6"] {
            assert_eq!(found(words), [("exit status", "exit-6".to_owned())]);
        }
        assert_eq!(found("refused smtp"), [("refused packet", "smtp".to_owned())]);
        assert_eq!(found("nonsense"), []);
    }

    #[test]
    fn links_are_their_words() {
        assert_eq!(plain("an [emergency session](doors.md#x) has [16] more"), "an emergency session has [16] more");
    }
}
