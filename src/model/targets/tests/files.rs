//! Files of hooks and webhooks on disk: what they mean, and what is refused, with its place.

use bailiwick_policy::Diagnostic;
use bailiwick_targets::{HookWhen, hook, hooks, webhooks};
use bailiwick_types::{EventType, Period};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A configuration with one program.
fn config() -> TempDir {
    let temp = tempfile::tempdir().expect("temporary directory");
    write(&temp, "run", "#!/bin/sh\n", 0o755);
    temp
}

fn write(config: &TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = config.path().canonicalize().expect("real path").join(name);
    let folder = path.parent().expect("a parent");
    fs::create_dir_all(folder).expect("mkdir");
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("chmod");
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
    path
}

/// The problems, each as `LINE:COLUMN: TEXT` or with the path of another file.
fn said(config: &TempDir, file: &str, diagnostics: &[Diagnostic]) -> String {
    let path = config.path().join(file).display().to_string();
    let lines = diagnostics.iter().map(|diagnostic| diagnostic.to_string().replace(&format!("{path}:"), ""));
    lines.collect::<Vec<_>>().join("\n")
}

/// The program of the configuration, as a word of TOML.
fn program(config: &TempDir) -> String {
    format!("{:?}", config.path().canonicalize().expect("real path").join("run"))
}

#[test]
fn a_hook_has_defaults_and_each_type_of_a_family() {
    let config = config();
    assert!(hooks(config.path()).good.is_empty() && hooks(config.path()).is_known);
    write(
        &config,
        "hooks.d/dns.toml",
        &format!("on = [\"tenant.created\", \"disk\"]\nrun = [{}, \"a\"]\n", program(&config)),
        0o644,
    );
    let before =
        format!("on = [\"tenant.deleted\"]\nwhen = \"before\"\ntimeout = \"5s\"\nrun = [{}]\n", program(&config));
    write(&config, "hooks.d/ask.toml", &before, 0o644);
    write(&config, "hooks.d/README", "no hook", 0o644);
    let read = hooks(config.path());
    assert_eq!(said(&config, "", &read.diagnostics), "");
    let (ask, dns) = (&read.good[&"ask".parse().expect("a name")], &read.good[&"dns".parse().expect("a name")]);
    assert_eq!((dns.when, dns.timeout, dns.retries, dns.run.len()), (HookWhen::After, Period(30), 5, 2));
    assert_eq!(dns.on[..2], [EventType::TenantCreated, EventType::DiskSoft]);
    assert_eq!((ask.when, ask.timeout, ask.retries), (HookWhen::Before, Period(5), 0));
    assert_eq!(hook(config.path(), &"ask".parse().expect("a name")).expect("is good").as_ref(), Some(ask));
    assert_eq!(hook(config.path(), &"other".parse().expect("a name")), Ok(None));
}

#[test]
fn each_mistake_of_a_hook_has_one_clear_error() {
    let config = config();
    let run = program(&config);
    let cases = [
        (
            "".to_owned(),
            "1:1: there is no \"on\" (write the types of events, such as on = [\"tenant.created\", \"incident\"])\n\
          1:1: there is no \"run\" (write a program and its arguments, such as run = [\"/usr/local/lib/bailiwick/dns\", \"--quiet\"])",
        ),
        (
            format!("on = [\"tenant.made\"]\nrun = [{run}]"),
            "1:7: there are no events of the type \"tenant.made\"; the families are ",
        ),
        (
            format!("on = [\"tenant\", \"tenant.created\"]\nrun = [{run}]"),
            "1:17: \"tenant.created\" is in the list twice (take one of them out)",
        ),
        (
            format!("on = []\nrun = [{run}]"),
            "1:6: the list is empty, so nothing is ever told (write a type, or remove the file)",
        ),
        (
            format!("on = [\"disk\"]\nrun = [{run}]\nretry = 1"),
            "3:1: unknown key \"retry\" (in the file of a hook there are: on, run, when, timeout, retries)",
        ),
        (format!("on = [\"disk\"]\nrun = [{run}]\nretries = 6"), "3:11: at most 5 retries are possible"),
        (
            format!("on = [\"disk\"]\nrun = [{run}]\ntimeout = \"11m\""),
            "3:11: a time limit of 11m is not possible (from 1s to 10m)",
        ),
        (
            format!("on = [\"disk\"]\nrun = [{run}]\ntimeout = \"0s\""),
            "3:11: a time limit of 0s is not possible (from 1s to 10m)",
        ),
        (format!("on = [\"disk\"]\nrun = [{run}]\nwhen = \"now\""), "3:8: a hook runs \"before\" or \"after\""),
        (
            format!("on = [\"disk\", \"tenant.created\"]\nrun = [{run}]\nwhen = \"before\""),
            "1:7: nothing can run before this event (when = \"before\" is for: tenant.created, \
          tenant.suspended, tenant.deleted)",
        ),
        (
            format!("on = [\"tenant.created\"]\nrun = [{run}]\nwhen = \"before\"\nretries = 1"),
            "4:11: a hook that runs before a command is not run again (remove \"retries\")",
        ),
        (
            "on = [\"disk\"]\nrun = []".to_owned(),
            "2:7: no program is named (write a program and its arguments, such as run = [\"/usr/",
        ),
        (
            "on = [\"disk\"]\nrun = [\"dns\"]".to_owned(),
            "2:8: \"dns\" is not an absolute path (write it from \"/\" on, without \"..\")",
        ),
        (
            "on = [\"disk\"]\nrun = \"/bin/true x\"".to_owned(),
            "2:7: expected a list in square brackets, found a text in quotes (write run = [\"/bin/true\", \"x\"])",
        ),
        (
            "on = [\"disk\"]\nrun = [\"/bin/nothing-like-this\"]".to_owned(),
            "2:8: there is no \"/bin/nothing-like-this\"",
        ),
        (
            "on = [\"disk\"]\nrun = [\"/etc/passwd\"]".to_owned(),
            "2:8: \"/etc/passwd\" is not executable (chmod 0755 /etc/passwd)",
        ),
        ("on = [\"disk\"]\nrun = [\"/etc\"]".to_owned(), "2:8: \"/etc\" is no file"),
    ];
    for (text, golden) in &cases {
        let file = "hooks.d/dns.toml";
        write(&config, file, text, 0o644);
        let read = hooks(config.path());
        let said = said(&config, file, &read.diagnostics);
        assert!(said.starts_with(golden), "{text}\n{said}");
        assert!(said.lines().count() == golden.lines().count(), "{text}\n{said}");
        assert!(read.good.is_empty() && read.broken.len() == 1 && read.is_known);
    }
    // What somebody else can change.
    write(&config, "hooks.d/dns.toml", &format!("on = [\"disk\"]\nrun = [{run}]"), 0o664);
    let read = hooks(config.path());
    assert!(said(&config, "hooks.d/dns.toml", &read.diagnostics).contains("others than root can write it"), "{read:?}");
    fs::set_permissions(config.path().join("hooks.d"), Permissions::from_mode(0o777)).expect("chmod");
    assert!(!hooks(config.path()).is_known);
}

#[test]
fn a_file_that_is_not_read_is_a_problem_unless_nobody_can_take_it_for_a_target() {
    let config = config();
    let text = format!("on = [\"tenant.created\"]\nwhen = \"before\"\nrun = [{}]\n", program(&config));
    let fine = ["README", ".quota.toml.swp", "quota.toml~", "#quota.toml#", ".hidden"];
    for name in fine {
        write(&config, &format!("hooks.d/{name}"), &text, 0o644);
        write(&config, &format!("webhooks.d/{name}"), &text, 0o600);
    }
    for name in ["panel.secret", "panel.pem", "panel.crt"] {
        write(&config, &format!("webhooks.d/{name}"), "x", 0o600);
    }
    assert_eq!(said(&config, "", &hooks(config.path()).diagnostics), "");
    assert_eq!(said(&config, "", &webhooks(config.path(), None).diagnostics), "");
    let rename = |to: &str| format!("(rename it to {to:?}, or take it out of this folder)");
    for (name, remedy) in [
        ("quota.TOML", rename("quota.toml")),
        ("quota.Toml", rename("quota.toml")),
        ("quota", rename("quota.toml")),
        ("quota.tml", "(take it out of this folder)".to_owned()),
        ("quota.toml.disabled", "(take it out of this folder)".to_owned()),
    ] {
        for folder in ["hooks.d", "webhooks.d"] {
            let file = format!("{folder}/{name}");
            let path = write(&config, &file, &text, 0o600);
            let (of_hooks, of_webhooks) = (hooks(config.path()), webhooks(config.path(), None));
            assert!(of_hooks.good.is_empty() && of_webhooks.good.is_empty());
            let problems = [of_hooks.diagnostics, of_webhooks.diagnostics].concat();
            let golden = "this is not read, because its name does not end in \".toml\" ";
            let shown: Vec<String> = problems.iter().map(Diagnostic::to_string).collect();
            assert!(shown.len() == 1 && shown[0].contains(&file), "{shown:?}");
            assert!(shown[0].ends_with(&format!("{golden}{remedy}")), "{shown:?}");
            fs::remove_file(path).expect("removes");
        }
    }
    // Only webhooks name such files.
    write(&config, "hooks.d/quota.secret", &text, 0o644);
    assert_eq!(hooks(config.path()).diagnostics.len(), 1);
}

#[test]
fn a_webhook_has_one_secret_or_two_inside_or_in_a_file() {
    let config = config();
    let file = write(&config, "webhooks.d/old.secret", &format!("{OTHER}\n"), 0o600);
    let text = format!(
        "url = \"https://panel.example/x\"\ntypes = [\"tenant\"]\nsecrets = [\"{SECRET}\", {{ file = {file:?} }}]\n"
    );
    write(&config, "webhooks.d/panel.toml", &text, 0o600);
    let read = webhooks(config.path(), None);
    assert_eq!(said(&config, "", &read.diagnostics), "");
    let panel = &read.good[&"panel".parse().expect("a name")];
    assert_eq!((panel.secrets.len(), panel.timeout, panel.url.host()), (2, Period(15), "panel.example"));
    assert!(panel.types.contains(&EventType::TenantEnded) && panel.allow.is_empty() && panel.roots.is_none());
    assert!(!format!("{read:?}").contains("AAAA"), "a secret is not shown");
}

#[test]
fn each_mistake_of_a_webhook_has_one_clear_error_that_shows_no_secret() {
    let config = config();
    let secrets = format!("secrets = [\"{SECRET}\"]");
    let of = |line: &str| format!("url = \"https://h.example/\"\ntypes = [\"disk\"]\n{line}");
    let make = "(make one with: echo \"whsec_$(openssl rand -base64 32)\")";
    let cases = [
        (String::new(), "1:1: there is no \"url\"".to_owned(), 3),
        (format!("url = \"ftp://h/\"\ntypes = [\"disk\"]\n{secrets}"), "1:1: the address must begin with \"https://\"".to_owned(), 1),
        (format!("url = \"https://127.0.0.1/\"\ntypes = [\"disk\"]\n{secrets}"), "1:7: 127.0.0.1 is not reached: loopback (if the receiver is there, write allow = [\"127.0.0.1\"])".to_owned(), 1),
        (format!("url = \"http://h.example/\"\ntypes = [\"disk\"]\n{secrets}"), "1:7: without TLS everybody on the way reads".to_owned(), 1),
        (format!("url = \"https://h.example/\"\ntypes = [\"disks\"]\n{secrets}"), "2:10: there are no events of the type \"disks\"".to_owned(), 1),
        (of("secrets = []"), format!("3:11: there is no secret, so no receiver could tell who sends {make}"), 1),
        (of("secrets = [\"hunter2-hunter2\"]"), format!("3:12: a secret begins with \"whsec_\" {make}"), 1),
        (of("secrets = [\"whsec_aGVsbG8=\"]"), format!("3:12: a secret has from 24 to 64 bytes, this one has 5 {make}"), 1),
        (of(&format!("secrets = [\"{SECRET}\", \"{SECRET}\"]")), "3:11: both secrets are the same".to_owned(), 1),
        (of(&format!("secrets = [\"{SECRET}\", \"{OTHER}\", \"{OTHER}\"]")), "3:11: there are 3 secrets".to_owned(), 1),
        (of("secrets = [{ file = \"x\" }]"), "3:22: \"x\" is not an absolute path".to_owned(), 1),
        (of("secrets = [{ file = \"/etc/passwd\" }]"), "3:12: every user of the host can read the secrets (mode 0644) (chown root:bailiwick-notify /etc/passwd && chmod 0640".to_owned(), 1),
        (of(&format!("{secrets}\nallow = [\"8.8.8.0/24\"]")), "4:10: \"8.8.8.0/24\" is not inside one range that is refused".to_owned(), 1),
        (of(&format!("{secrets}\nallow = [\"0.0.0.0/0\"]")), "4:10: \"0.0.0.0/0\" is not inside one range that is refused".to_owned(), 1),
        (of(&format!("{secrets}\ntimeout = \"2m\"")), "4:11: a time limit of 2m is not possible (from 1s to 1m)".to_owned(), 1),
        (of(&format!("{secrets}\nroots = \"/nothing-like-this\"")), "4:9: there is no \"/nothing-like-this\"".to_owned(), 1),
        (of(&format!("{secrets}\nproxy = \"x\"")), "4:1: unknown key \"proxy\" (in the file of a webhook there are: url, types,".to_owned(), 1),
    ];
    let file = "webhooks.d/panel.toml";
    for (text, golden, count) in &cases {
        write(&config, file, text, 0o600);
        let read = webhooks(config.path(), None);
        let said = said(&config, file, &read.diagnostics);
        assert!(said.starts_with(golden.as_str()) || said.contains(&golden[4..]), "{text}\n{said}");
        assert_eq!(said.lines().count(), *count, "{text}\n{said}");
        assert!(!said.contains("MfKQ9r8") && !said.contains("hunter2"), "{said}");
        assert!(read.diagnostics.iter().all(|diagnostic| diagnostic.excerpt().is_none()));
    }
}

#[test]
fn a_file_with_secrets_that_others_can_read_is_refused() {
    let config = config();
    let text = format!("url = \"https://h.example/\"\ntypes = [\"disk\"]\nsecrets = [\"{SECRET}\"]\n");
    let path = write(&config, "webhooks.d/panel.toml", &text, 0o644);
    let refused = |group: Option<u32>| {
        let read = webhooks(config.path(), group);
        assert_eq!(read.good.len() + read.broken.len(), 1);
        said(&config, "webhooks.d/panel.toml", &read.diagnostics)
    };
    assert!(refused(None).contains("every user of the host can read the secrets"));
    fs::write(&path, format!("{text}proxy = \"x\"\n")).expect("writes");
    let both = refused(None);
    assert!(both.contains("every user of the host") && both.contains("unknown key \"proxy\""), "{both}");
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
    assert_eq!(refused(None), "");
    std::os::unix::fs::chown(&path, None, Some(7)).expect("chown");
    assert!(refused(None).contains("members of the group 7 can read the secrets"));
    assert!(refused(Some(8)).contains("members of the group 7 can read the secrets"));
    assert_eq!(refused(Some(7)), "");
    assert!(Path::new(&path).exists());
}
