//! A `sendmail` that fails, hostile addresses, wrong templates, and a program that does not run.

use crate::Mail;

const RULE: &str = "[[notice]]\nresource = \"tasks\"\nat = [\"50%\"]\nto = [\"admin\"]\n";

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_test_says_why_it_failed_and_a_delivery_that_fails_is_tried_again() {
    let mut mail = Mail::new(RULE, "");
    mail.hook("first", "echo 'the queue is full' >&2; exit 75\n");
    mail.host.start();
    mail.until_it_answers();
    let test = mail.host.cli(&["notices", "test"]);
    assert_eq!(test.status.code(), Some(1), "{}", said(&test));
    assert!(said(&test).contains("ended with 75 (temporary failure): the queue is full"), "{}", said(&test));
    let none = mail.host.cli(&["notices", "test", "alice"]);
    assert_eq!(none.status.code(), Some(5), "{}", said(&none));
    assert!(said(&none).contains("has no address"), "{}", said(&none));
    let mut session = mail.busy();
    mail.until("it was tried", |mail| mail.host.ok(&["notices", "list", "--json"]).contains("\"50%\":"));
    std::fs::remove_file(mail.dir.join("first")).expect("removes");
    mail.until("it comes after a pause", |mail| mail.got().len() == 1);
    session.kill().expect("kills");
    session.wait().expect("ends");
}

#[test]
fn what_no_attempt_can_deliver_is_listed_and_tried_again_on_request() {
    let mut mail = Mail::new(RULE, "");
    mail.hook("first", "exit 67\n");
    mail.host.start();
    mail.until_it_answers();
    let mut session = mail.busy();
    mail.until("it is given up", |mail| mail.host.ok(&["notices", "dead"]).contains("(no such user)"));
    let status = mail.host.ok(&["status"]);
    assert!(status.contains("notices that could not be delivered: 1;"), "{status}");
    let doctor = said(&mail.host.cli(&["doctor"]));
    assert!(doctor.contains("could not deliver 1"), "{doctor}");
    let wrong = mail.host.cli(&["notices", "retry", "4711"]);
    assert_eq!(wrong.status.code(), Some(3), "{}", said(&wrong));
    std::fs::remove_file(mail.dir.join("first")).expect("removes");
    mail.host.ok(&["notices", "retry"]);
    mail.until("it comes", |mail| mail.got().len() == 1);
    mail.until("nothing is left", |mail| !mail.host.ok(&["status"]).contains("could not be delivered"));
    session.kill().expect("kills");
    session.wait().expect("ends");
}

#[test]
fn hostile_addresses_and_words_that_nothing_serves_are_errors() {
    let mail = Mail::new(RULE, "");
    for (text, why) in [
        ("[contact]\nmail = [\"a@b\\nBcc: c@d\"]\n", "is no domain"),
        ("[contact]\nmail = [\"-oQtmp@example.org\"]\n", "is no address of mail"),
        ("[contact]\nmail = [\"|/bin/sh@example.org\"]\n", "cannot have '|'"),
        ("[contact]\nmail = [\"bücher@example.org\"]\n", "cannot have 'ü'"),
        ("[contact]\nmail = [\"a@b\"]\nlanguage = \"fr\"\n", "is no language of notices; one of en, de"),
        ("[[notice]]\nresource = \"tasks\"\nat = [\"50%\"]\nto = [\"group\"]\n", "there are no groups of tenants yet"),
        ("[[notice]]\nresource = \"tasks\"\nat = [\"50%\"]\nto = [\"tenant\"]\n", "the tenant has no address"),
        ("[[notice]]\nresource = \"cpu\"\nat = [\"50%\"]\nto = [\"admin\"]\n", "is nothing that notices are about"),
        ("[[notice]]\nresource = \"disk\"\nat = [\"50%\"]\nto = [\"admin\"]\n", "the tenant has no such limit"),
        ("[[notice]]\nresource = \"tasks\"\nat = [\"soft\"]\nto = [\"admin\"]\n", "has no soft limit"),
        (
            "[[notice]]\nresource = \"tasks\"\nat = [\"50%\"]\nclear = \"60%\"\nto = [\"admin\"]\n",
            "is not below \"50%\"",
        ),
    ] {
        mail.host.write("etc/tenants.d/alice.toml", &format!("plan = \"web\"\n{text}"));
        let output = mail.host.cli(&["check"]);
        assert_eq!(output.status.code(), Some(2), "{text}: {}", said(&output));
        assert!(said(&output).contains(why) && said(&output).contains("alice.toml:"), "{text}: {}", said(&output));
    }
}

#[test]
fn a_template_of_the_operator_is_used_and_a_wrong_one_is_an_error_and_is_not() {
    let mut mail = Mail::new(RULE, "");
    mail.host.write("etc/templates.d/en/test.txt", "Subject: Hello from {host}\n\nOur own words.\n");
    mail.host.start();
    mail.until_it_answers();
    mail.host.ok(&["notices", "test"]);
    assert!(mail.got()[0].message.contains("Our own words."), "{:#?}", mail.got());
    mail.host.write("etc/templates.d/en/test.txt", "Subject: Hello\n\nOur own words for {nobody}.\n");
    let check = mail.host.cli(&["check"]);
    assert_eq!(check.status.code(), Some(2), "{}", said(&check));
    assert!(
        said(&check).contains("test.txt:3") && said(&check).contains("{nobody} stands for nothing"),
        "{}",
        said(&check)
    );
    mail.host.ok(&["notices", "test"]);
    assert!(mail.got()[1].message.contains("This is a test."), "{:#?}", mail.got());
}

#[test]
fn a_sendmail_that_hangs_holds_up_nobody_else() {
    let rule = "[[notice]]\nresource = \"tasks\"\nat = [\"50%\"]\nto = [\"admin\", \"slow@example.org\"]\n";
    let mut mail = Mail::new(rule, "");
    mail.hook("first", "case \"$*\" in *slow@*) exec sleep 1000 ;; esac\n");
    mail.host.start();
    mail.until_it_answers();
    let mut session = mail.busy();
    mail.until("the other one is told", |mail| mail.got().len() == 1);
    assert_eq!(mail.got()[0].to(), "ops@example.org");
    mail.host.ok(&["notices", "test"]);
    // It ends while one hangs, too, and that one with it.
    mail.host.end();
    mail.until("nothing of its user is left", |mail| mail.processes() == 0);
    session.kill().expect("kills");
    session.wait().expect("ends");
}

#[test]
fn without_the_program_every_command_says_so() {
    let mut mail = Mail::new("", "");
    mail.host.start();
    assert!(!mail.host.ok(&["status"]).contains("notices"));
    for command in [&["notices", "list"][..], &["notices", "test"], &["notices", "dead"], &["notices", "retry"]] {
        let output = mail.host.cli(command);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("bailiwick-notify does not run"), "{}", said(&output));
    }
    assert_eq!(mail.host.find_program("bailiwick-notify"), None);
    mail.rules(RULE);
    mail.host.ok(&["reload"]);
    mail.until_it_answers();
}
