//! Settings that are valid but cannot work on the machine.

use crate::directory::Directory;
use bailiwick_policy::{Diagnostic, Machine, Severity};
use bailiwick_types::{ByteSize, LimitKey, Port, Transport};
use std::collections::BTreeMap;
use std::path::Path;

fn machine() -> Machine {
    let users = [("root", 0), ("bailiwick", 990), ("nobody", 65_534), ("ldap", 10_000_007)];
    let users = users.map(|(name, uid)| (name.to_owned(), uid)).into();
    Machine {
        memory: ByteSize(8 << 30),
        tasks: 32_768,
        disk: Some(ByteSize(40 << 30)),
        users,
        has_user: |user| user.starts_with("bailiwick"),
        has_web_group: false,
        has_path: |_| true,
        mail_problem: None,
        has_address: |_| false,
        listening: Vec::new(),
        no_resolver: None,
        unenforceable: BTreeMap::new(),
    }
}

fn check(directory: &Path, machine: &Machine) -> Vec<Diagnostic> {
    bailiwick_policy::check(directory, bailiwick_policy::read(directory), machine)
}

/// The problems of one file, each as its place and its message.
fn wrong(file: &str, text: &str) -> Vec<String> {
    let directory = Directory::with(&[
        ("bailiwick.toml", "ids.first = 20000000\n"),
        ("plans.d/small.toml", "doors = [\"cron\", \"ftp\"]\n"),
    ]);
    directory.write(file, text);
    let found = check(directory.path(), &machine());
    found.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect()
}

#[test]
fn settings_that_cannot_work_are_found_at_their_places() {
    let hash = |setting: &str, len: usize| {
        format!("plan = \"small\"\n[[ftp]]\nname = \"blog\"\npassword = \"{setting}{}\"\n", "x".repeat(len))
    };
    let few = hash("$6$rounds=5000000$salt$", 86);
    let cases: &[(&str, &str, &str)] = &[
        ("bailiwick.toml", "ids.first = 20000000\nstate_dir = \"/etc\"\n", "2: \"/etc\" is the host's own"),
        ("bailiwick.toml", "ids.first = 20000000\nstate_dir = \"/var/lib\"\n", "2: \"/var/lib\" is"),
        ("bailiwick.toml", "ids.first = 20000000\nruntime_dir = \"/usr/x\"\n", "2: \"/usr/x\" is"),
        (
            "bailiwick.toml",
            "# reserve = \nids.first = 20000000\nreserve = { memory = \"100T\" }\n",
            "3: a reserve of 100T leaves nothing of the machine's 8G",
        ),
        ("bailiwick.toml", "ids.first = 20000000\nreserve = { tasks = 40000 }\n", "2: a reserve of 40000 tasks"),
        (
            "bailiwick.toml",
            "ids.first = 20000000\nreserve = { disk = \"100T\" }\n",
            "2: a reserve of 100T leaves nothing of the 40G that \"/var/lib/bailiwick\" is on",
        ),
        ("bailiwick.toml", "ids.first = 20000000\nlogin_group = \"3000000000\"\n", "2: tenants' host users would have"),
        ("bailiwick.toml", "ids.first = 20000000\nstate_dir = \"/run/xyz\"\n", "2: what is in \"/run/xyz\" is gone"),
        ("bailiwick.toml", "ids.first = 20000000\nuser = \"19999999\"\n", "2: bailiwickd would have the id 19999999"),
        ("bailiwick.toml", "user = \"ldap\"\n", "1: bailiwickd would have the id 10000007"),
        ("bailiwick.toml", "ids = { first = 10000000 }\n", "1: the host's user \"ldap\" has the id 10000007"),
        ("bailiwick.toml", "ids = { first = 4294967295 }\n", "1: the first id"),
        ("plans.d/small.toml", "[limits]\ntmp = \"999T\"\n", "2: tmp = \"999T\" is more than"),
        ("plans.d/small.toml", "[limits]\nshm = \"9G\"\n", "2: shm = \"9G\" is more than"),
        ("tenants.d/a.toml", "plan = \"small\"\n[limits]\ntmp = \"999T\"\n", "3: tmp = \"999T\""),
        (
            "bailiwick.toml",
            "ids.first = 20000000\nweb = { group = \"apache\" }\n",
            "2: the host has no group \"apache\"",
        ),
        ("tenants.d/a.toml", &hash("$6$rounds=999999999$salt$", 86), "4: comparing the password of"),
        (
            "tenants.d/ldap.toml",
            "plan = \"small\"\ndoors = [\"ssh\"]\n",
            "2: the host has a user \"ldap\" already, with the id 10000007",
        ),
        ("tenants.d/a.toml", &hash("$2y$31$", 53), "4: comparing the password of"),
        (
            "tenants.d/a.toml",
            "plan = \"small\"\ndoors = [\"exec\"]\n[[timer]]\nname = \"t\"\nschedule = \"daily\"\ncommand = [\"/bin/t\"]\n",
            "3: the door \"cron\" is closed, so no [[timer]]",
        ),
        (
            "tenants.d/a.toml",
            &format!("doors = [\"exec\", \"cron\"]\n{}", hash("$y$j9T$salt$", 43)),
            "3: the door \"ftp\" is closed, so no [[ftp]]",
        ),
    ];
    for (file, text, golden) in cases {
        let found = wrong(file, text);
        assert!(found.len() == 1 && found[0].starts_with(golden), "{file} {text}: {found:?}");
    }
    assert_eq!(wrong("tenants.d/a.toml", &few), [""; 0]);
    // A plan may open the door for sockets without a service.
    assert_eq!(wrong("plans.d/small.toml", "doors = [\"socket\"]\n"), [""; 0]);
    assert_eq!(wrong("tenants.d/a.toml", "plan = \"small\"\n[[service]]\nname = \"w\"\ncommand = [\"/w\"]\n"), [""; 0]);
    // A tenant without a door of sshd has no host user.
    assert_eq!(wrong("tenants.d/ldap.toml", "plan = \"small\"\ndoors = [\"exec\"]\n"), [""; 0]);
    assert_eq!(wrong("tenants.d/a.toml", &hash("$y$j9T$salt$", 43)), [""; 0]);
    assert_eq!(wrong("bailiwick.toml", "ids.first = 20000000\nstate_dir = \"/srv/bailiwick\"\n"), [""; 0]);
}

const SITE: &str =
    "plan = \"small\"\n[[service]]\nname = \"php\"\ncommand = [\"/php\"]\n[[service.socket]]\nname = \"web\"\n";

/// The problems of a host with this `bailiwick.toml`, this plan `small` and this tenant, each as its file, place and message.
fn of_site(host: &str, plan: &str, tenant: &str) -> Vec<String> {
    let host = format!("ids.first = 20000000\n{host}");
    let directory =
        Directory::with(&[("bailiwick.toml", &host), ("plans.d/small.toml", plan), ("tenants.d/alice.toml", tenant)]);
    let found = check(directory.path(), &Machine { has_web_group: true, ..machine() });
    let name = |problem: &Diagnostic| problem.file.file_name().map(|name| name.to_string_lossy().into_owned());
    let line =
        |problem: &Diagnostic| format!("{}:{}: {}", name(problem).unwrap_or_default(), problem.line, problem.message);
    found.iter().map(line).collect()
}

#[test]
fn a_socket_needs_a_door_and_a_web_server() {
    let (web, door) = ("web = { group = \"www-data\" }\n", "doors = [\"socket\"]\n");
    assert_eq!(of_site(web, door, SITE), [""; 0]);
    let nobody = "bailiwick.toml:1: nobody may connect to the socket \"web\" of the tenant \"alice\"";
    assert_eq!(of_site("", door, SITE), [nobody]);
    let closed = "the door \"socket\" is closed, so no [[service.socket]] is of use";
    assert_eq!(of_site(web, "", SITE), [format!("alice.toml:5: {closed}")]);
    let inherited = SITE.split_once('\n').expect("a line").1;
    let shut = "plan = \"small\"\ndoors = [\"exec\"]\n";
    assert_eq!(of_site(web, &format!("{door}{inherited}"), shut), [format!("alice.toml:1: {closed}")]);
    let group = "the web server would have the group 19999999, which is a tenant's";
    assert_eq!(of_site("[web]\ngroup = \"19999999\"\n", door, SITE), [format!("bailiwick.toml:2: {group}")]);
}

#[test]
fn a_service_without_a_socket_keeps_its_tenant_awake() {
    let plan = "[sleep]\nafter = \"1h\"\n";
    let service = "plan = \"small\"\n[[service]]\nname = \"queue\"\ncommand = [\"/queue\"]\n";
    let found = of_site("", plan, service);
    let golden = "alice.toml:2: the service \"queue\" has no socket, so its tenant never sleeps";
    assert_eq!(found, [golden]);
    assert_eq!(
        of_site("", plan, &format!("{service}[sleep]\nafter = \"never\"\n")),
        of_site("", plan, "plan = \"small\"\n")
    );
}

#[test]
fn the_path_of_a_socket_fits_into_an_address() {
    // Of the path, "/web/alice/web.sock" is 19 bytes.
    let host = |len: usize| format!("web = {{ group = \"www-data\" }}\nruntime_dir = \"/{}\"\n", "r".repeat(len - 1));
    let door = "doors = [\"socket\"]\n";
    assert_eq!(of_site(&host(107 - 19), door, SITE), [""; 0]);
    let found = of_site(&host(108 - 19), door, SITE);
    let golden = "bailiwick.toml:3: the path of a socket has 108 bytes, and the kernel allows 107: \"/rrr";
    assert!(found.len() == 1 && found[0].starts_with(golden), "{found:?}");
}

#[test]
fn a_service_whose_program_the_host_lacks_is_named_where_it_is_written() {
    fn has_path(path: &Path) -> bool {
        ["/bin/sh", "/etc/php/8.2"].iter().any(|known| path == Path::new(known))
    }
    let plan = "# \"/usr/share/x.conf\"\n[[service]]\nname = \"php\"\ncommand = [\"/bin/sh\", \"/usr/share/x.conf\", \"/usr/local/y\"]\n";
    let of = |host: &str, small: &str, tenant: &str| {
        let directory = Directory::with(&[
            ("bailiwick.toml", &format!("ids.first = 20000000\n{host}")),
            ("plans.d/php.toml", plan),
            ("plans.d/small.toml", small),
            ("tenants.d/alice.toml", tenant),
        ]);
        let found = check(directory.path(), &Machine { has_path, ..machine() });
        let line = |problem: &Diagnostic| {
            let name = problem.file.file_name().expect("a file").to_string_lossy().into_owned();
            format!("{name}:{}: {}", problem.line, problem.message)
        };
        found.iter().map(line).collect::<Vec<_>>()
    };
    let golden = "php.toml:4: the service \"php\" needs \"/usr/share/x.conf\", which the host does not have";
    assert_eq!(of("", "", "plan = \"php\"\n"), [golden]);
    assert_eq!(of("", "", "plan = \"small\"\n"), [""; 0], "nobody has the plan php");
    let other = "plan = \"php\"\n[[service]]\nname = \"php\"\ncommand = [\"/bin/sh\"]\n";
    assert_eq!(of("", "", other), [""; 0], "its service of that name is another one");
    assert_eq!(of("", "plan = \"php\"\nprofile = \"system\"\n", "plan = \"small\"\n"), [""; 0]);
    let own = "[[service]]\nname = \"own\"\ncommand = [\"/usr/bin/own\"]\n";
    assert_eq!(
        of("", "", &format!("plan = \"small\"\n{own}")),
        ["alice.toml:4: the service \"own\" needs \"/usr/bin/own\", which the host does not have"]
    );
    assert_eq!(
        of("etc_extra = [\"php/8.2\", \"php/8.9\"]\n", "", "plan = \"small\"\n"),
        ["bailiwick.toml:2: the host has no /etc/php/8.9, so no jail sees it"]
    );
}

#[test]
fn every_tenant_has_ids() {
    let pool = |first: u32| format!("ids = {{ first = {first} }}\n");
    let directory = Directory::with(&[("bailiwick.toml", &pool(4_294_901_758)), ("plans.d/small.toml", "")]);
    directory.write("tenants.d/a.toml", "plan = \"small\"\n");
    assert_eq!(check(directory.path(), &machine()), []);
    directory.write("tenants.d/b.toml", "plan = \"small\"\n");
    let found = check(directory.path(), &machine());
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert!(only.line == 1 && only.message.contains("all of the 2 tenants"), "{only}");
    directory.write("bailiwick.toml", pool(4_294_901_758 - 65_536));
    assert_eq!(check(directory.path(), &machine()), []);
}

#[test]
fn a_problem_of_a_plan_is_reported_once() {
    let directory = Directory::with(&[
        ("bailiwick.toml", "ids.first = 20000000\n"),
        ("plans.d/small.toml", "[limits]\ntmp = \"999T\"\n"),
    ]);
    directory.write("plans.d/large.toml", "plan = \"small\"\n");
    directory.write("tenants.d/a.toml", "plan = \"small\"\n");
    directory.write("tenants.d/b.toml", "plan = \"large\"\n");
    let found = check(directory.path(), &machine());
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert!(only.file.ends_with("plans.d/small.toml"), "{only}");
}

#[test]
fn no_alias_makes_a_socket_of_bailiwick_one_that_can_be_lent() {
    let directory = Directory::with(&[]);
    let base = directory.path().join("base");
    std::fs::create_dir_all(base.join("run")).expect("makes");
    std::os::unix::fs::symlink("run", base.join("alias")).expect("links");
    let text = format!(
        "runtime_dir = \"{0}/run\"\nstate_dir = \"{0}/state\"\n[[host_socket]]\nname = \"db\"\npath = \"/run/no-such-place/s\"\n\
         [[host_socket]]\nname = \"own\"\npath = \"{0}/alias/control.sock\"\n",
        base.display()
    );
    directory.write("bailiwick.toml", text);
    let found = check(directory.path(), &Machine { users: Vec::new(), ..machine() });
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(only.line, 8, "{only}");
    assert!(only.message.ends_with("leads to a directory of Bailiwick") && only.hint.is_some(), "{only}");
}

#[test]
fn a_plan_and_a_tenant_name_only_what_the_host_lends() {
    let lent = "[[host_socket]]\nname = \"mysql\"\npath = \"/run/mysqld/mysqld.sock\"\n";
    let of = |host: &str, plan: &str, tenant: &str| {
        let directory = Directory::with(&[
            ("bailiwick.toml", host),
            ("plans.d/p.toml", plan),
            ("tenants.d/alice.toml", &format!("plan = \"p\"\n{tenant}")),
        ]);
        let found = check(directory.path(), &Machine { users: Vec::new(), ..machine() });
        let name = |problem: &Diagnostic| problem.file.file_name().expect("a file").to_string_lossy().into_owned();
        let line = |problem: &Diagnostic| {
            let hint = problem.hint.as_deref().unwrap_or_default();
            format!("{}:{}: {} ({hint})", name(problem), problem.line, problem.message)
        };
        found.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        of(lent, "host_sockets = [\"mysq\"]\n", ""),
        ["p.toml:1: the host lends no socket \"mysq\" (did you mean \"mysql\"?)"]
    );
    assert_eq!(
        of("", "", "host_sockets = [\"redis\"]\n"),
        [
            "alice.toml:2: the host lends no socket \"redis\" (declare it as [[host_socket]] in bailiwick.toml, or remove it)"
        ]
    );
    assert_eq!(of(lent, "host_sockets = [\"mysql\"]\n", "host_sockets = []\n"), [""; 0]);
}

#[test]
fn a_cache_without_its_program_is_told_when_somebody_has_a_network() {
    let found = |plan: &str, has_path: fn(&Path) -> bool| {
        let host = "ids.first = 20000000\nnetwork = { cache = true }\n";
        let directory = Directory::with(&[("bailiwick.toml", host), ("plans.d/small.toml", plan)]);
        let found = check(directory.path(), &Machine { has_path, ..machine() });
        found.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect::<Vec<_>>()
    };
    let lacks: fn(&Path) -> bool = |path| path != Path::new("/usr/sbin/unbound");
    let plan = "[network]\nmode = \"outbound\"\n";
    assert_eq!(found(plan, lacks), ["2: no name resolves in jails: there is no \"/usr/sbin/unbound\""]);
    assert_eq!(found("", lacks), [""; 0]);
    assert_eq!(found(plan, |_| true), [""; 0]);
}

#[test]
fn a_sendmail_that_cannot_be_run_is_told_when_somebody_may_send() {
    let config = "mail = { command = \"/usr/sbin/sendmial\" }\n";
    let found = |plan: &str| {
        let host = format!("ids.first = 20000000\n{config}");
        let files = [
            ("bailiwick.toml", host.as_str()),
            ("plans.d/small.toml", plan),
            ("tenants.d/a.toml", "plan = \"small\"\n"),
        ];
        let directory = Directory::with(&files);
        let machine = Machine { mail_problem: Some("there is no \"/usr/sbin/sendmial\"".to_owned()), ..machine() };
        let found = check(directory.path(), &machine);
        found.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect::<Vec<_>>()
    };
    assert_eq!(found(""), [""; 0]);
    let golden = "2: the mail of 1 tenant(s) cannot be sent: there is no \"/usr/sbin/sendmial\"";
    assert_eq!(found("[mail]\nper_hour = 5\n"), [golden]);
}

#[test]
fn a_host_without_a_resolver_for_jails_is_told_of_where_somebody_has_a_network() {
    let of = |mode: &str| {
        let directory = Directory::with(&[
            ("bailiwick.toml", "ids.first = 20000000\n"),
            ("plans.d/small.toml", &format!("[network]\nmode = \"{mode}\"\n")),
            ("tenants.d/a.toml", "plan = \"small\"\n"),
        ]);
        let why = "the host has no resolver that a jail can reach".to_owned();
        let found = check(directory.path(), &Machine { no_resolver: Some(why), ..machine() });
        found.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect::<Vec<_>>()
    };
    assert_eq!(of("none"), [""; 0]);
    let golden = "no name resolves in jails: the host has no resolver that a jail can reach";
    assert!(matches!(&of("outbound")[..], [one] if one.ends_with(golden)), "{:?}", of("outbound"));
}

#[test]
fn a_network_does_not_ask_for_what_the_host_has_for_itself() {
    let of = |text: &str| {
        let directory = Directory::with(&[
            ("bailiwick.toml", "ids.first = 20000000\nnetwork = { ports = \"40000-49999\" }\n"),
            ("plans.d/small.toml", "[network]\nmode = \"outbound\"\n"),
            ("tenants.d/a.toml", &format!("plan = \"small\"\n[network]\n{text}")),
        ]);
        let listening = vec![Port { transport: Transport::Tcp, number: 40_001 }];
        let has_address = |address: std::net::IpAddr| address.to_string() == "203.0.114.1";
        let found = check(directory.path(), &Machine { has_address, listening, ..machine() });
        found.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect::<Vec<_>>()
    };
    assert_eq!(of("allow = [\"203.0.114.0/24\", \"203.0.114.2\"]\n"), [""; 0]);
    let golden = "3: \"203.0.114.1\" is an address of this host, which no jail reaches";
    assert_eq!(of("allow = [\"9.9.9.9\", \"203.0.114.1\"]\n"), [golden]);
    let publish =
        |port: &str| format!("mode = \"published\"\npublish = [{{ host = \"{port}\", to = \"{}/22\" }}]\n", &port[..3]);
    assert_eq!(of(&publish("tcp/40002")), [""; 0]);
    assert_eq!(of(&publish("udp/40001")), [""; 0]);
    let golden = "4: a program on this host listens on \"tcp/40001\", and nobody reaches it once the port is published";
    assert_eq!(of(&publish("tcp/40001")), [golden]);
}

#[test]
fn the_users_of_the_network_exist_and_are_three() {
    let of = |plan: &str, lines: &str| {
        let host = format!("ids.first = 20000000\n[network]\n{lines}\n");
        let directory = Directory::with(&[("bailiwick.toml", &host), ("plans.d/small.toml", plan)]);
        let users = [("bailiwick", 990), ("net", 991), ("also-net", 991), ("again", 990)];
        let users = users.map(|(name, uid)| (name.to_owned(), uid)).into();
        let found =
            check(directory.path(), &Machine { users, has_user: |user| user.parse::<u32>().is_ok(), ..machine() });
        assert!(found.iter().all(|problem| problem.severity == Severity::Error), "{found:?}");
        let line = |problem: &Diagnostic| {
            format!("{}: {} ({})", problem.line, problem.message, problem.hint.as_deref().unwrap_or_default())
        };
        found.iter().map(line).collect::<Vec<_>>()
    };
    let missing = |line: u8, who: &str, user: &str, default: &str| {
        let remedy = format!("make it with `useradd --system {user}`, or remove this line for \"{default}\"");
        format!("{line}: {who} cannot run: the host has no user \"{user}\" ({remedy})")
    };
    assert_eq!(of("", "user = \"nosuchnet\""), [missing(3, "the router", "nosuchnet", "bailiwick-net")]);
    // The cache is off, and nobody has a network.
    assert_eq!(of("", "cache_user = \"nosuchdns\""), [""; 0]);
    assert_eq!(
        of("", "cache = true\ncache_user = \"nosuchdns\""),
        [missing(4, "the cache of names", "nosuchdns", "bailiwick-dns")]
    );
    assert_eq!(of("", "cache = true"), [""; 0]);
    let router =
        "the router cannot run: the host has no user \"bailiwick-net\" (make it with `useradd --system bailiwick-net`)";
    assert_eq!(of("[network]\nmode = \"outbound\"\n", "cache = false"), [format!("2: {router}")]);
    let own = "(give it a user of its own)";
    assert_eq!(of("", "user = \"net\""), [""; 0]);
    assert_eq!(
        of("", "user = \"990\""),
        [format!("3: the router must not run as \"990\": that is \"bailiwick\", the user of bailiwickd {own}")]
    );
    assert_eq!(
        of("", "user = \"net\"\ncache = true\ncache_user = \"also-net\""),
        [format!("5: the cache of names must not run as \"also-net\": that is \"net\", the user of the router {own}")]
    );
}

/// What is in force all the same is a warning.
#[test]
fn an_error_is_what_is_refused() {
    let severity = |files: &[(&str, &str)], expected: Severity| {
        let directory = Directory::with(&[("bailiwick.toml", "ids.first = 20000000\n"), ("plans.d/small.toml", "")]);
        for (file, text) in files {
            directory.write(file, text);
        }
        let has_address = |address: std::net::IpAddr| address.to_string() == "203.0.114.1";
        let found = check(directory.path(), &Machine { has_address, ..machine() });
        assert!(!found.is_empty(), "{files:?}");
        assert!(found.iter().all(|problem| problem.severity == expected), "{files:?}: {found:?}");
    };
    let network = "plan = \"small\"\n[network]\nmode = \"outbound\"\n";
    let own = format!("{network}allow = [\"203.0.114.1\"]\n");
    let link = format!("{network}[[link]]\nto = \"bob\"\nport = \"tcp/1\"\n");
    severity(&[("tenants.d/a.toml", &own)], Severity::Warning);
    severity(&[("tenants.d/a.toml", &link)], Severity::Warning);
    severity(
        &[("bailiwick.toml", "ids.first = 20000000\nnetwork = { resolvers = [\"203.0.114.1\"] }\n")],
        Severity::Warning,
    );
    let publish =
        format!("{}publish = [{{ host = \"tcp/40001\", to = \"tcp/1\" }}]\n", network.replace("outbound", "published"));
    let ports = "ids.first = 20000000\nnetwork = { ports = \"40000-49999\" }\n";
    let twice = [("bailiwick.toml", ports), ("tenants.d/a.toml", &publish), ("tenants.d/b.toml", &publish)];
    severity(&twice, Severity::Error);
    severity(&[("plans.d/small.toml", "[limits]\ntmp = \"999T\"\n")], Severity::Warning);
    severity(&[("tenants.d/a.toml", "plan = \"smal\"\n")], Severity::Error);
    severity(&[("tenants.d/ldap.toml", "plan = \"small\"\ndoors = [\"ssh\"]\n")], Severity::Error);
    severity(&[("bailiwick.toml", "ids.first = 20000000\nreserve = { memory = \"100T\" }\n")], Severity::Error);
}

#[test]
fn a_required_limit_that_cannot_hold_is_told_once_where_it_is_written() {
    let directory = Directory::with(&[
        ("bailiwick.toml", "require = [\"disk\"]\n"),
        ("plans.d/p.toml", "[limits]\ndisk = \"1G\"\n"),
        ("tenants.d/alice.toml", "plan = \"p\"\n"),
        ("tenants.d/bob.toml", "plan = \"p\"\n"),
        ("tenants.d/carol.toml", "plan = \"p\"\n[limits]\ndisk = \"1G:2G\"\n"),
    ]);
    let why = |name: &str| (name.parse().expect("a name"), (LimitKey::Disk, "cannot hold".to_owned()));
    let unenforceable: BTreeMap<_, _> = ["alice", "bob", "carol"].map(why).into();
    let found = check(directory.path(), &Machine { users: Vec::new(), unenforceable, ..machine() });
    let place = |problem: &Diagnostic| {
        let file = problem.file.file_name().expect("a file").to_string_lossy().into_owned();
        (file, problem.line, problem.severity == Severity::Error)
    };
    let places: Vec<_> = found.iter().map(place).collect();
    assert_eq!(places, [("p.toml".to_owned(), 2, true), ("carol.toml".to_owned(), 3, true)], "{found:?}");
}
