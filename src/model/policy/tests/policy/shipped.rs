//! The files that are installed under `/etc/bailiwick`.

use crate::directory::Directory;
use bailiwick_policy::{Machine, Pass, Run, check};
use bailiwick_types::{ByteSize, Limits, Profile};
use std::path::Path;

/// A copy, because the checkout may belong to anyone.
fn shipped() -> Directory {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../config");
    let directory = Directory::with(&[]);
    for folder in ["", "plans.d", "tenants.d"] {
        for entry in std::fs::read_dir(config.join(folder)).expect(folder) {
            let path = entry.expect("entry").path();
            if path.is_file() {
                let name = path.strip_prefix(&config).expect("below").to_str().expect("UTF-8").to_owned();
                directory.write(&name, std::fs::read(&path).expect("readable"));
            }
        }
    }
    directory
}

#[test]
fn they_are_without_a_problem_and_need_no_quotas() {
    let reading = shipped().read();
    assert_eq!(reading.diagnostics, []);
    let policy = reading.policy.expect("a policy");
    assert_eq!(policy.plans.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["php", "shell", "small", "system"]);
    let tenants: Vec<_> = policy.tenants.values().map(|t| (t.name.as_str(), t.settings.profile)).collect();
    assert_eq!(tenants, [("alice", Profile::Web), ("bob", Profile::Shell), ("carol", Profile::System)]);
    for tenant in policy.tenants.values() {
        assert_eq!(tenant.settings.limits.disk.value(), None, "{}", tenant.name);
        assert_eq!(tenant.settings.limits.inodes.value(), None, "{}", tenant.name);
    }
}

/// One line makes a site: the plan has everything, and the configuration of PHP-FPM fits to it.
#[test]
fn a_tenant_with_the_plan_php_has_a_site() {
    let shipped = shipped();
    shipped.write("bailiwick.toml", "web = { group = \"www-data\" }\n");
    shipped.write("tenants.d/alice.toml", "plan = \"php\"\n");
    let machine = Machine {
        memory: ByteSize(8 << 30),
        tasks: 32_768,
        disk: None,
        users: vec![("root".to_owned(), 0)],
        has_user: |_| true,
        has_web_group: true,
        has_path: |_| true,
        mail_problem: None,
        has_address: |_| false,
        listening: Vec::new(),
        no_resolver: None,
        unenforceable: std::collections::BTreeMap::new(),
    };
    assert_eq!(check(shipped.path(), bailiwick_policy::read(shipped.path()), &machine), []);
    let policy = shipped.read().policy.expect("a policy");
    let alice = policy.tenants.values().find(|tenant| tenant.plan.as_str() == "php").expect("alice");
    let [php, files] = alice.settings.services.as_slice() else { panic!("{:?}", alice.settings.services) };
    assert_eq!(files.run, Run::Files("www".to_owned()));
    let Pass::Fpm(listen) = &php.sockets[0].pass else { panic!("{php:?}") };
    let fpm = include_str!("../../../../../config/web/php-fpm.conf");
    assert!(fpm.contains(&format!("\nlisten = {listen}\n")), "{listen}");
    assert!(php.sockets[0].entries.is_some() && fpm.contains("\npm.max_children = ${BAILIWICK_ENTRIES}\n"));
}

#[test]
fn bailiwick_toml_holds_every_key_with_its_default() {
    let shipped = shipped();
    let written = shipped.read().policy.expect("a policy").host;
    shipped.write("bailiwick.toml", "");
    assert_eq!(written, shipped.read().policy.expect("a policy").host);

    let text = include_str!("../../../../../config/bailiwick.toml");
    for key in [
        "state_dir",
        "runtime_dir",
        "ids",
        "require",
        "admins",
        "observers",
        "metrics",
        "notices",
        "user",
        "web",
        "mail",
        "network",
    ] {
        let is_shown = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(text.lines().any(is_shown), "{key} is not shown");
    }
}

/// The defaults in the comments of `small.toml` are right, and no limit is missing.
#[test]
fn the_comments_of_the_first_plan_show_every_limit() {
    let text = include_str!("../../../../../config/plans.d/small.toml");
    let limits = text.split_once("[limits]").expect("a section").1;
    let uncommented: String = limits
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line))
        .filter(|line| !line.starts_with("disk = ") && !line.starts_with("inodes = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let directory = Directory::with(&[("plans.d/all.toml", &format!("[limits]\n{uncommented}"))]);
    assert_eq!(directory.complaints(), Vec::<String>::new());
    let serde_json::Value::Object(fields) = serde_json::to_value(Limits::default()).expect("serialises") else {
        panic!("a structure is an object");
    };
    for key in fields.keys() {
        let shown = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(limits.lines().any(shown), "{key} is not shown");
    }
    // The limits that the plan sets itself are not at their defaults; all others must be.
    let policy = directory.read().policy.expect("a policy");
    let read = &policy.plans.values().next().expect("the plan").settings.limits;
    let set =
        Limits { cpu: read.cpu, memory: read.memory, tasks: read.tasks, sessions: read.sessions, ..Limits::default() };
    assert_eq!(*read, set);
}

/// The manual pages of the three kinds of file: their examples are valid together, and no limit is missing.
#[test]
fn the_manual_pages_have_every_limit_and_examples_that_are_valid() {
    let example = |page: &str| {
        let text =
            page.split_once(".Bd -literal\n").and_then(|(_, rest)| rest.split_once(".Ed")).expect("an example").0;
        text.to_owned()
    };
    let plans = include_str!("../../../../../docs/man/bailiwick-plans.5");
    let directory = Directory::with(&[
        ("bailiwick.toml", &example(include_str!("../../../../../docs/man/bailiwick.toml.5"))),
        ("plans.d/small.toml", &example(plans)),
        ("tenants.d/alice.toml", &example(include_str!("../../../../../docs/man/bailiwick-tenants.5"))),
    ]);
    assert_eq!(directory.complaints(), Vec::<String>::new());
    let serde_json::Value::Object(limits) = serde_json::to_value(Limits::default()).expect("serialises") else {
        panic!("a structure is an object");
    };
    let words: Vec<&str> = plans.lines().filter_map(|line| line.strip_prefix(".It Li ")).collect();
    let words: Vec<&str> = words.iter().flat_map(|line| line.split(" , ")).collect();
    for limit in limits.keys() {
        assert!(words.contains(&limit.as_str()), "bailiwick-plans(5) says nothing of {limit}");
    }
}
