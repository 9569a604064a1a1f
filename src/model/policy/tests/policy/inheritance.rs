//! Inheritance: from defaults over parents and plan to the tenant.

use crate::directory::Directory;
use bailiwick_policy::{Declared, Mail, Run, Service, Settings, Sleep, Tenant, read_tenant};
use bailiwick_types::{Access, Bound, ByteSize, CpuShare, Door, Limits, Nesting, Network, Period, Profile, TenantName};
use std::collections::BTreeSet;

fn tenant(directory: &Directory, name: &str) -> Tenant {
    let reading = directory.read();
    assert_eq!(reading.diagnostics, []);
    let name = name.parse().expect("a name");
    let tenant = reading.policy.expect("a policy").tenants.remove(&name).expect("the tenant");
    let (_, alone) = read_tenant(directory.path(), &name).expect("readable alone");
    assert_eq!(alone.as_ref(), Some(&tenant), "the warden and bailiwickd must see the same");
    tenant
}

#[test]
fn settings_that_nobody_makes_have_their_defaults() {
    let directory = Directory::with(&[("plans.d/p.toml", ""), ("tenants.d/alice.toml", "plan = \"p\"")]);
    let alice = tenant(&directory, "alice");
    assert_eq!(
        alice.settings,
        Settings {
            image: "host".parse().expect("a name"),
            profile: Profile::Web,
            nesting: Nesting::Refused,
            doors: BTreeSet::from([Door::Exec]),
            suspended_doors: BTreeSet::new(),
            limits: Limits::default(),
            services: Vec::new(),
            sleep: None,
            mail: None,
            host_sockets: BTreeSet::new(),
            network: Network::default(),
            notices: Vec::new(),
        }
    );
    assert_eq!(alice.state, Declared::Active);
    assert_eq!(alice.login.user.as_str(), "alice");
    assert!(alice.login.ssh_keys.is_empty() && alice.settings.services.is_empty());
}

#[test]
fn the_nearest_setting_wins() {
    let lent = |name: &str| format!("[[host_socket]]\nname = \"{name}\"\npath = \"/run/{name}/socket\"\n");
    let directory = Directory::with(&[
        ("bailiwick.toml", &(lent("mysql") + &lent("pg"))),
        (
            "plans.d/base.toml",
            "profile = \"system\"\nimage = \"debian-12\"\nhost_sockets = [\"mysql\"]\n[mail]\nper_hour = 7\nsize = \"1M\"\n[limits]\ncpu = \"50%\"\nmemory = \"1G\"\ntasks = 50",
        ),
        (
            "plans.d/big.toml",
            "plan = \"base\"\ndoors = []\nhost_sockets = [\"pg\"]\nsuspended_doors = [\"ftp\"]\n[limits]\nmemory = \"4G\"\ntasks = \"inherit\"",
        ),
        (
            "tenants.d/alice.toml",
            "plan = \"big\"\nprofile = \"web\"\nnesting = false\n[limits]\ntasks = \"unlimited\"\nmemory = \"inherit\"\nswap = \"1G\"\n[mail]\nrecipients = 3",
        ),
    ]);
    let Settings {
        image,
        profile,
        nesting,
        doors,
        suspended_doors,
        limits,
        services,
        sleep,
        mail,
        host_sockets,
        network,
        notices,
    } = tenant(&directory, "alice").settings;
    assert_eq!(nesting, Nesting::Refused, "the nearest file says so");
    assert!(services.is_empty() && notices.is_empty() && sleep.is_none() && network == Network::default());
    assert_eq!((image.as_str(), profile, doors.len()), ("debian-12", Profile::Web, 0));
    assert_eq!(suspended_doors, BTreeSet::from([Door::Ftp]));
    assert_eq!(mail, Some(Mail { per_hour: 7, recipients: 3, size: ByteSize(1 << 20) }), "each key by itself");
    assert_eq!(host_sockets, BTreeSet::from(["pg".parse().expect("a name")]), "a list replaces the inherited one");
    let expected = Limits {
        cpu: Bound::At(CpuShare(50_000)),
        memory: Bound::At(ByteSize(4 << 30)),
        tasks: Bound::Unlimited,
        swap: Bound::At(ByteSize(1 << 30)),
        ..Limits::default()
    };
    assert_eq!(limits, expected);
}

#[test]
fn notices_of_a_resource_replace_the_inherited_ones() {
    let rule = |resource: &str, at: &str, to: &str| {
        let to = if to.is_empty() { String::new() } else { format!("to = [\"{to}\"]\n") };
        format!("[[notice]]\nresource = \"{resource}\"\nat = [{at}]\n{to}")
    };
    let host =
        rule("memory", "\"80%\"", "admin") + &rule("tasks", "\"80%\"", "admin") + &rule("swap", "\"80%\"", "admin");
    let directory = Directory::with(&[
        ("bailiwick.toml", &format!("[contact]\nmail = [\"ops@example.org\"]\n{host}")),
        ("plans.d/p.toml", &(rule("memory", "\"50%\"", "admin") + &rule("disk", "\"50%\"", "tenant"))),
        (
            "tenants.d/alice.toml",
            &("plan = \"p\"\nlimits.tasks = 9\n".to_owned()
                + &rule("tasks", "\"hard\"", "a@b")
                + &rule("swap", "", "")),
        ),
        ("tenants.d/bob.toml", "plan = \"p\"\ninherit_notices = false\n"),
    ]);
    assert_eq!(directory.complaints(), Vec::<String>::new());
    let policy = directory.read().policy.expect("a policy");
    let of = |name: &str| -> Vec<String> {
        let notices = policy.notices_of(&policy.tenants[&name.parse::<TenantName>().expect("a name")]);
        let at =
            |notice: &bailiwick_types::Notice| notice.at.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        notices.iter().map(|notice| format!("{} {}", notice.resource, at(notice))).collect()
    };
    assert_eq!(of("alice"), ["memory 50%", "disk 50%", "tasks hard"]);
    assert_eq!(of("bob"), ["memory 80%", "tasks 80%", "swap 80%"]);
    assert!(policy.gives_notices());
}

#[test]
fn every_key_of_a_tenants_file_is_read() {
    let directory = Directory::with(&[
        ("plans.d/p.toml", "doors = [\"cron\"]"),
        (
            "tenants.d/alice.toml",
            r#"
plan = "p"
state = "suspended"
suspend_reason = "unpaid since März"
[login]
user = "al"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f alice@laptop"]
[[service]]
name = "web"
command = ["/usr/sbin/php-fpm8.2", "-F", ""]
[[service]]
name = "queue"
command = ["/bin/sh", "-c", "while :; do\n work\ndone"]
[[timer]]
name = "nightly"
schedule = "15 3 * * *"
command = ["/usr/bin/php", "cron.php"]
"#,
        ),
    ]);
    let alice = tenant(&directory, "alice");
    assert_eq!(alice.state, Declared::Suspended { reason: Some("unpaid since März".to_owned()) });
    assert_eq!((alice.login.user.as_str(), alice.login.ssh_keys.len()), ("al", 1));
    let arguments = |run: &Run| if let Run::Command(command) = run { command.len() } else { 0 };
    let services: Vec<_> =
        alice.settings.services.iter().map(|service| (service.name.as_str(), arguments(&service.run))).collect();
    assert_eq!(services, [("web", 3), ("queue", 3)]);
    let timers: Vec<_> = alice.timers.iter().map(|timer| (timer.name.as_str(), timer.schedule.to_string())).collect();
    assert_eq!(timers, [("nightly", "15 3 * * *".to_owned())]);
}

/// The services of a tenant, each as its name and its program, and the time after which it sleeps.
fn services(plan: &str, own: &str) -> (Vec<(String, String)>, Option<Sleep>) {
    let own = format!("plan = \"p\"\n{own}");
    let directory = Directory::with(&[("plans.d/p.toml", plan), ("tenants.d/alice.toml", &own)]);
    let settings = tenant(&directory, "alice").settings;
    let what = |service: &Service| match &service.run {
        Run::Command(command) => (service.name.to_string(), command[0].clone()),
        Run::Files(files) => (service.name.to_string(), files.clone()),
    };
    (settings.services.iter().map(what).collect(), settings.sleep)
}

#[test]
fn a_service_of_a_tenant_replaces_that_of_the_plan() {
    let plan = "[[service]]\nname = \"php\"\ncommand = [\"/php\"]\nenv = { A = \"1\" }\n\
                [[service]]\nname = \"queue\"\ncommand = [\"/queue\"]\nafter = [\"php\"]\n";
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())).collect()
    };
    for (own, golden) in [
        ("", &[("php", "/php"), ("queue", "/queue")][..]),
        ("[[service]]\nname = \"php\"\ncommand = [\"/own\"]", &[("php", "/own"), ("queue", "/queue")]),
        (
            "[[service]]\nname = \"db\"\ncommand = [\"/db\"]\nafter = [\"php\"]",
            &[("php", "/php"), ("queue", "/queue"), ("db", "/db")],
        ),
        ("[[service]]\nname = \"queue\"\nenabled = false", &[("php", "/php")]),
        // What is taken away may keep its settings, for the day when it comes back.
        ("[[service]]\nname = \"queue\"\nenabled = false\ncommand = [\"/own\"]", &[("php", "/php")]),
        ("[[service]]\nname = \"db\"\nenabled = false\ncommand = [\"/db\"]", &[("php", "/php"), ("queue", "/queue")]),
        ("inherit_services = false", &[]),
        ("inherit_services = false\n[[service]]\nname = \"db\"\ncommand = [\"/db\"]", &[("db", "/db")]),
    ] {
        assert_eq!(services(plan, own).0, pairs(golden), "{own}");
    }
    let directory = Directory::with(&[("plans.d/p.toml", plan)]);
    for (own, complaint) in [
        (
            "[[service]]\nname = \"php\"\nenabled = false",
            "3:8: the service \"queue\" comes after \"php\" (give this file a \"queue\" of its own, or take it away too)",
        ),
        (
            "[[service]]\nname = \"php\"\ncommand = [\"/own\"]\nafter = [\"queue\"]",
            "5:10: the services come after each other in a circle: php -> queue -> php (remove one of them from \"after\")",
        ),
        (
            "inherit_services = false\n[[service]]\nname = \"db\"\ncommand = [\"/db\"]\nafter = [\"php\"]",
            "6:10: there is no service \"php\" (a service comes after others of the same tenant)",
        ),
    ] {
        directory.write("tenants.d/alice.toml", format!("plan = \"p\"\n{own}"));
        assert_eq!(directory.complaints(), [format!("CONFIG/tenants.d/alice.toml:{complaint}")], "{own}");
    }
    directory.write(
        "plans.d/p.toml",
        "doors = [\"socket\"]\n[[service]]\nname = \"php\"\ncommand = [\"/php\"]\n[[service.socket]]\nname = \"web\"\n",
    );
    directory.write(
        "tenants.d/alice.toml",
        "plan = \"p\"\n[[service]]\nname = \"own\"\ncommand = [\"/own\"]\n[[service.socket]]\nname = \"web\"\n",
    );
    assert_eq!(
        directory.complaints(),
        ["CONFIG/tenants.d/alice.toml:6:8: there are two sockets \"web\" \
         (the service \"php\" of the plan has the other one; rename this one)"]
    );
}

#[test]
fn a_tenant_sleeps_as_its_plan_says_unless_it_says_otherwise() {
    let times =
        |after, freeze_after: Option<u64>| Some(Sleep { after: Period(after), freeze_after: freeze_after.map(Period) });
    let plan = "[sleep]\nafter = \"1h\"\nfreeze_after = \"5m\"\n";
    for (plan, own, golden) in [
        ("", "", None),
        (plan, "", times(3600, Some(300))),
        (plan, "[sleep]\nafter = \"2h\"", times(7200, Some(300))),
        (plan, "[sleep]\nfreeze_after = \"1m\"", times(3600, Some(60))),
        (plan, "[sleep]\nfreeze_after = \"never\"", times(3600, None)),
        (plan, "[sleep]\nafter = \"never\"", None),
        ("", "[sleep]\nafter = \"1m\"", times(60, None)),
    ] {
        assert_eq!(services(plan, own).1, golden, "{plan}{own}");
    }
    let directory = Directory::with(&[("plans.d/p.toml", plan)]);
    directory.write("tenants.d/alice.toml", "plan = \"p\"\n[sleep]\nafter = \"2m\"");
    assert_eq!(
        directory.complaints(),
        [
            "CONFIG/tenants.d/alice.toml:3:9: \"freeze_after\" (5m) is not less than \"after\" (2m), so nothing would be \
         frozen (\"freeze_after\" is inherited; set it in this file too)"
        ]
    );
}

/// How a jail may use its storage, and which doors are open.
#[test]
fn some_doors_stay_open_while_a_tenant_is_suspended() {
    use Access::{ReadOnly, ReadWrite};
    let sftp_and_ssh = "doors = [\"ssh\", \"sftp\"]\n";
    for (plan, own, access, open) in [
        ("", "", Some(ReadWrite), &[Door::Exec][..]),
        ("suspended_doors = [\"sftp\"]\n", sftp_and_ssh, Some(ReadWrite), &[Door::Ssh, Door::Sftp]),
        (sftp_and_ssh, "state = \"suspended\"\n", None, &[]),
        (sftp_and_ssh, "state = \"suspended\"\nsuspended_doors = [\"sftp\"]\n", Some(ReadOnly), &[Door::Sftp]),
        (
            "suspended_doors = [\"sftp\", \"ftp\"]\n",
            "state = \"suspended\"\ndoors = [\"exec\", \"ftp\"]\n",
            Some(ReadOnly),
            &[Door::Ftp],
        ),
        // A door that the tenant does not have stays closed, and the tenant's own setting replaces that of its plan.
        ("suspended_doors = [\"sftp\"]\n", "state = \"suspended\"\ndoors = [\"ssh\"]\n", None, &[]),
        (
            "suspended_doors = [\"sftp\"]\n",
            "state = \"suspended\"\ndoors = [\"sftp\"]\nsuspended_doors = []\n",
            None,
            &[],
        ),
    ] {
        let own = format!("plan = \"p\"\n{own}");
        let directory = Directory::with(&[("plans.d/p.toml", plan), ("tenants.d/alice.toml", &own)]);
        let alice = tenant(&directory, "alice");
        let found: Vec<Door> = Door::ALL.iter().copied().filter(|door| alice.is_open(*door)).collect();
        assert_eq!((alice.access(), &found[..]), (access, open), "{plan}{own}");
    }
}

#[test]
fn a_circle_is_reported_once_and_takes_its_tenants_with_it() {
    let directory = Directory::with(&[
        ("plans.d/a.toml", "plan = \"b\""),
        ("plans.d/b.toml", "plan = \"c\""),
        ("plans.d/c.toml", "plan = \"a\""),
        ("plans.d/self.toml", "plan = \"self\""),
        ("plans.d/x.toml", "plan = \"b\""),
        ("plans.d/good.toml", ""),
        ("tenants.d/alice.toml", "plan = \"x\""),
        ("tenants.d/bob.toml", "plan = \"good\""),
    ]);
    assert_eq!(
        directory.complaints(),
        [
            "CONFIG/plans.d/c.toml:1:8: the plans inherit from each other in a circle: a -> b -> c -> a \
             (remove \"plan\" from one of them)",
            "CONFIG/plans.d/self.toml:1:8: the plans inherit from each other in a circle: self -> self \
             (remove \"plan\" from one of them)",
        ]
    );
    let reading = directory.read();
    assert_eq!(reading.invalid.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["alice"]);
    let policy = reading.policy.expect("a policy");
    assert_eq!(policy.plans.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["good"]);
    assert_eq!(policy.tenants.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["bob"]);
    let alone = read_tenant(directory.path(), &"alice".parse().expect("a name")).expect_err("a circle");
    assert!(alone.len() == 1 && alone[0].message.ends_with(": b -> c -> a -> b"), "{alone:?}");
}

#[test]
fn a_line_of_sixteen_plans_and_no_more() {
    let files: Vec<(String, String)> = (1..=17)
        .map(|n| (format!("plans.d/p{n}.toml"), if n == 1 { String::new() } else { format!("plan = \"p{}\"", n - 1) }))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    let directory = Directory::with(&files[..16]);
    assert_eq!(directory.complaints(), Vec::<String>::new());
    directory.write(files[16].0, files[16].1);
    assert_eq!(
        directory.complaints(),
        ["CONFIG/plans.d/p17.toml:1:8: more than 16 plans inherit from each other in one line \
         (inherit from a plan that is nearer to the start of the line)"]
    );
}

#[test]
fn a_plan_with_a_problem_makes_its_tenants_invalid_without_a_second_complaint() {
    let directory = Directory::with(&[
        ("plans.d/p.toml", "[limits]\ntasks = 0"),
        ("plans.d/child.toml", "plan = \"p\""),
        ("tenants.d/alice.toml", "plan = \"child\""),
        ("tenants.d/bob.toml", "plan = \"p\"\ncolor = 1"),
    ]);
    let complaints = directory.complaints();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(complaints[0].starts_with("CONFIG/plans.d/p.toml:2:9: "), "{complaints:?}");
    assert!(complaints[1].starts_with("CONFIG/tenants.d/bob.toml:2:1: "), "{complaints:?}");
    assert_eq!(directory.read().invalid.len(), 2);
    let alone = read_tenant(directory.path(), &"bob".parse().expect("a name")).expect_err("invalid");
    assert_eq!(alone, directory.read().diagnostics);
}

#[test]
fn a_network_that_a_plan_or_a_tenant_has_needs_a_router() {
    let gives = |plan: &str, tenant: &str| {
        let tenant = format!("plan = \"p\"\n{tenant}");
        let directory = Directory::with(&[("plans.d/p.toml", plan), ("tenants.d/alice.toml", &tenant)]);
        directory.read().policy.expect("a policy").gives_networks()
    };
    let network = "[network]\nmode = \"outbound\"\n";
    assert!(!gives("", "") && gives(network, "") && gives("", network));
    assert!(gives(network, "[network]\nmode = \"none\"\n"), "the plan may give the next tenant one");
}
