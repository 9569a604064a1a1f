//! Who is told what: thresholds, their end, the rules of host, plan and tenant, storms, and what was told before a kill.

use crate::Mail;
use std::fs;

/// Half of its processes, of the 64 that the plan lets it have.
const HALF: &str = "[[notice]]\nresource = \"tasks\"\nat = [\"50%\", \"90%\"]\nto = [\"tenant\", \"admin\"]\n";
/// More of them, for somebody else.
const CANARY: &str = "[[notice]]\nresource = \"tasks\"\nat = [\"80%\"]\nto = [\"canary@example.org\"]\n";
const ALICE: &str = "[contact]\nmail = [\"alice@example.org\"]\nlanguage = \"de\"\n";

#[test]
fn a_tenant_and_the_operator_are_told_once_each_in_their_language_and_of_the_end() {
    let mut mail = Mail::new(HALF, ALICE);
    mail.host.start();
    mail.until_it_answers();
    let mut session = mail.busy();
    mail.until("both are told", |mail| mail.got().len() == 2);
    let mut got = mail.got();
    got.sort_by(|a, b| a.to().cmp(b.to()));
    assert_eq!((got[0].to(), got[1].to()), ("alice@example.org", "ops@example.org"));
    assert_eq!(got[0].arguments[..4], ["-i", "-f", "bailiwick@host.example", "--"]);
    assert!(
        got[0].message.contains("Anzahl der Prozesse und Threads") && got[1].message.contains("processes and threads"),
        "{got:#?}"
    );
    assert!(got[1].header("Subject").contains("alice: "), "{got:#?}");
    // What is told stays told over a restart of everything.
    let list = mail.host.ok(&["notices", "list", "alice", "--json"]);
    assert!(list.contains("\"50%\":") && !list.contains("\"90%\":"), "{list}");
    mail.host.end();
    mail.host.start();
    mail.until_it_answers();
    session.kill().expect("kills");
    session.wait().expect("ends");
    mail.host.ok(&["stop", "alice"]);
    mail.host.ok(&["start", "alice"]);
    let list = |mail: &Mail| mail.host.ok(&["notices", "list", "alice", "--json"]);
    mail.until("it is clear", |mail| list(mail).contains("\"clear_since\":"));
    assert_eq!(mail.got().len(), 2, "its end is not told before it has lasted");
    let earlier = |mail: &Mail, change: &str| {
        let file = rusqlite::Connection::open(mail.host.path("state/notify/notify.db")).expect("opens");
        assert_eq!(file.execute(change, []).expect("updates"), 1);
    };
    // As if five minutes had passed.
    mail.host.end();
    earlier(&mail, "UPDATE told SET since = since - 300");
    mail.host.start();
    mail.until("both hear of the end", |mail| mail.got().len() >= 4);
    let got = mail.got();
    assert_eq!(got.len(), 4, "{got:#?}");
    assert!(
        got[2..].iter().all(|got| got.message.contains("below the limit again") || got.message.contains("auf")),
        "{got:#?}"
    );
    assert!(!list(&mail).contains("\"50%\":"));
    // Within the hour it is not told again: the reading that tells the canary shows that it is passed.
    mail.rules(&[HALF, CANARY].concat());
    mail.host.ok(&["reload"]);
    let mut session = mail.busy_with(50);
    let canary = |mail: &Mail| mail.got().iter().filter(|got| got.to() == "canary@example.org").count();
    mail.until("the canary is told", |mail| canary(mail) == 1);
    assert_eq!(mail.got().len(), 5, "{:#?}", mail.got());
    // When the hour is over it is told, for it lasts.
    mail.host.end();
    earlier(&mail, "UPDATE told SET at = at - 3600 WHERE threshold = '50%'");
    mail.host.start();
    mail.until("both are told again", |mail| mail.got().len() == 7);
    assert_eq!(canary(&mail), 1);
    session.kill().expect("kills");
    session.wait().expect("ends");
}

#[test]
fn the_rules_of_a_tenant_replace_those_of_its_plan_and_of_the_host() {
    let own = "[[notice]]\nresource = \"memory\"\nat = []\n[[notice]]\nresource = \"tasks\"\nat = [\"75%\"]\nto = [\"ops@example.org\"]\n";
    let memory = "[[notice]]\nresource = \"memory\"\nat = [\"90%\"]\nto = [\"admin\"]\n";
    let mut mail = Mail::new(&[HALF, memory].concat(), own);
    mail.host.write("etc/tenants.d/bob.toml", "plan = \"web\"\n");
    mail.host.start();
    mail.until_it_answers();
    let list: serde_json::Value = serde_json::from_str(&mail.host.ok(&["notices", "list", "--json"])).expect("JSON");
    let rows: Vec<(&str, &str, usize)> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().expect("text");
            (text("tenant"), text("resource"), row["addresses"].as_array().expect("a list").len())
        })
        .collect();
    // Bob has no address, so only the operator is told of his tasks.
    assert_eq!(rows, [("alice", "tasks", 1), ("bob", "tasks", 1), ("bob", "memory", 1)]);
    let unknown = mail.host.cli(&["notices", "list", "carol"]);
    assert_eq!(unknown.status.code(), Some(3));
}

#[test]
fn a_storm_becomes_one_message() {
    let mut mail = Mail::new(HALF, ALICE);
    mail.host.start();
    mail.until_it_answers();
    mail.host.end();
    // As a storm leaves it, before the first of it was sent.
    let file = rusqlite::Connection::open(mail.host.path("state/notify/notify.db")).expect("opens");
    for number in 0..200 {
        let payload = serde_json::json!({"notice": {
            "tenant": "alice", "resource": "tasks", "kind": {"passed": "50%"}, "used": number, "limit": 64,
            "grace_until": null, "at": number, "language": "en",
        }});
        file.execute(
            "INSERT INTO delivery (kind, target, tenant, payload, created, next) VALUES ('mail', 'ops@example.org', 'alice', ?1, 1, 1)",
            [payload.to_string()],
        )
        .expect("inserts");
    }
    drop(file);
    mail.host.start();
    mail.until("the digest is there", |mail| mail.got().len() == 1);
    mail.until_it_answers();
    let got = mail.got();
    assert_eq!((got.len(), got[0].header("Subject").starts_with("200 notices of ")), (1, true), "{got:#?}");
    assert_eq!(got[0].message.matches("alice: ").count(), 200, "{}", got[0].message);
    let waiting: serde_json::Value = serde_json::from_str(&mail.host.ok(&["notices", "dead", "--json"])).expect("JSON");
    assert_eq!(waiting, serde_json::json!([]));
}

#[test]
fn a_kill_between_the_delivery_and_its_mark_delivers_twice_with_one_name() {
    let mut mail = Mail::new(HALF, "");
    // `sendmail` kills whoever started it, once it has the message.
    mail.hook("last", "if [ ! -e $dir/got/killed ]; then : > $dir/got/killed; kill -9 $PPID; fi\n");
    mail.host.start();
    mail.until_it_answers();
    let mut session = mail.busy();
    mail.until("the message comes again", |mail| mail.got().len() == 2);
    let got = mail.got();
    assert_eq!((got[0].to(), got[1].to()), ("ops@example.org", "ops@example.org"));
    assert!(got[0].header("Message-ID").len() > 10, "{got:#?}");
    assert_eq!(got[0].header("Message-ID"), got[1].header("Message-ID"));
    mail.until_it_answers();
    session.kill().expect("kills");
    session.wait().expect("ends");
    assert_eq!(fs::read_dir(mail.dir.join("got")).expect("lists").count(), 3);
}
