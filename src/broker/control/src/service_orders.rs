//! What init is told to run: the orders for the declared services of a tenant. Pure.

use crate::door::{self, PATH_INSIDE, SHELL};
use crate::web_sockets::Listener;
use bailiwick_plan::mount;
use bailiwick_policy::{Pass, Run, Service, ServiceLimits, ServiceSocket, ServiceUser, Tenant};
use bailiwick_proto::Bytes;
use bailiwick_proto::init::ServiceOrder;
use bailiwick_types::{Readiness, Restart, ServiceName, SocketName, StopSignal, UnitName, service_log};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;

/// An order without its descriptors, and what these are.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// Its digest is empty until [`Draft::with`] has seen the listening sockets.
    order: ServiceOrder,
    /// The sockets whose listeners go with it, in their order.
    pub(crate) sockets: Vec<SocketName>,
    /// The service whose control groups it joins, if the service has limits of its own.
    pub(crate) groups: Option<ServiceName>,
    limits: ServiceLimits,
}

impl Draft {
    pub(crate) fn name(&self) -> &UnitName {
        &self.order.name
    }

    /// The order for these listening sockets. Its digest changes with everything in it, with the sockets, and with the limits.
    pub(crate) fn with(mut self, listeners: &[Listener]) -> ServiceOrder {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&self.order).expect("an order is JSON"));
        for listener in listeners {
            hash.update(listener.cookie.to_le_bytes());
        }
        hash.update(format!("{:?}", self.limits));
        let digest = hash.finalize();
        self.order.digest = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        self.order
    }
}

/// The drafts for the services of a tenant. A service with a relayed socket has one more for the relay.
pub(crate) fn drafts(tenant: &Tenant) -> Vec<Draft> {
    let mut all = Vec::new();
    for service in &tenant.settings.services {
        all.push(of_service(tenant, service));
        for socket in &service.sockets {
            if let Pass::Relay(to) = socket.pass {
                all.push(of_relay(tenant, service, socket, to));
            }
        }
    }
    all
}

fn text(text: impl AsRef<str>) -> Bytes {
    Bytes::new(text.as_ref()).expect("the policy holds no NUL")
}

/// What every unit of a service has.
fn base(tenant: &Tenant, service: &Service, name: UnitName, argv: Vec<Bytes>) -> ServiceOrder {
    let wanted = match service.user {
        ServiceUser::Login => tenant.login.user.as_str(),
        ServiceUser::Root => "root",
    };
    let (user, user_name) = door::user(tenant, Some(wanted)).expect("root and the login user are in every jail");
    let env = [
        ("PATH", PATH_INSIDE),
        ("HOME", user.home.as_str()),
        ("USER", &user_name),
        ("LOGNAME", &user_name),
        ("SHELL", SHELL),
        ("LANG", "C.UTF-8"),
    ];
    let env = env.into_iter().map(|(key, value)| (text(key), text(value))).collect();
    ServiceOrder {
        log: service_log(&tenant.login.user, &name),
        name,
        digest: String::new(),
        user,
        argv,
        env,
        directory: None,
        after: Vec::new(),
        restart: Restart::Always,
        stop_signal: StopSignal::Term,
        stop_within: service.stop.within.0.saturating_mul(1000),
        ready: Readiness::None,
        connect: None,
        log_size: service.log.size.0,
        log_keep: service.log.keep,
        sockets: 0,
    }
}

fn of_service(tenant: &Tenant, service: &Service) -> Draft {
    let argv = match &service.run {
        Run::Command(command) => command.iter().map(text).collect(),
        Run::Files(directory) => {
            // A relative path is below the login user's home.
            let home = format!("/home/{}", tenant.login.user);
            let directory = std::path::Path::new(&home).join(directory);
            vec![text(mount::WEB), text("files"), text(directory.to_string_lossy())]
        }
    };
    let mut order = base(tenant, service, service.name.clone().into(), argv);
    let inherited: Vec<&ServiceSocket> =
        service.sockets.iter().filter(|socket| !matches!(socket.pass, Pass::Relay(_))).collect();
    let mut env: Vec<(String, String)> = Vec::new();
    let limits = &tenant.settings.limits;
    env.extend(limits.memory.value().map(|size| ("BAILIWICK_MEMORY".to_owned(), size.0.to_string())));
    env.extend(limits.cpu.value().map(|share| ("BAILIWICK_CPUS".to_owned(), share.cores())));
    if !inherited.is_empty() {
        env.push(("LISTEN_FDS".into(), inherited.len().to_string()));
        let names: Vec<&str> = inherited.iter().map(|socket| socket.name.as_str()).collect();
        env.push(("LISTEN_FDNAMES".into(), names.join(":")));
        let fpm = |(number, socket): (i32, &&ServiceSocket)| match &socket.pass {
            Pass::Fpm(listen) => Some(format!("{listen}={number}")),
            Pass::Fd | Pass::Relay(_) => None,
        };
        let fpm: Vec<String> = (3..).zip(&inherited).filter_map(fpm).collect();
        if !fpm.is_empty() {
            env.push(("FPM_SOCKETS".into(), fpm.join(",")));
        }
    }
    let relayed = service.sockets.iter().find_map(|socket| match socket.pass {
        Pass::Relay(to) => Some(to),
        Pass::Fd | Pass::Fpm(_) => None,
    });
    env.extend(relayed.map(|to| ("PORT".to_owned(), to.port().to_string())));
    let entries = service.sockets.iter().find_map(|socket| socket.entries);
    env.extend(entries.map(|entries| ("BAILIWICK_ENTRIES".to_owned(), entries.to_string())));
    order.env.extend(env.iter().map(|(key, value)| (text(key), text(value))));
    // The tenant's file has the last word, also over the first variables.
    order.env.retain(|(key, _)| !service.env.keys().any(|own| own.as_bytes() == key.as_bytes()));
    order.env.extend(service.env.iter().map(|(key, value)| (text(key), text(value))));
    order.directory = service.directory.as_ref().map(text);
    order.after = service.after.iter().cloned().map(UnitName::from).collect();
    order.restart = service.restart;
    order.stop_signal = service.stop.signal;
    order.ready = service.ready;
    order.connect = relayed.filter(|_| service.ready == Readiness::Connect);
    order.sockets = inherited.len();
    let limited = service.limits != ServiceLimits::default();
    Draft {
        order,
        sockets: inherited.into_iter().map(|socket| socket.name.clone()).collect(),
        groups: limited.then(|| service.name.clone()),
        limits: service.limits,
    }
}

fn of_relay(tenant: &Tenant, service: &Service, socket: &ServiceSocket, to: SocketAddr) -> Draft {
    let name = UnitName { service: service.name.clone(), socket: Some(socket.name.clone()) };
    let argv = vec![text(mount::WEB), text("relay"), text(to.to_string())];
    let mut order = base(tenant, service, name, argv);
    order.env.push((text("LISTEN_FDS"), text("1")));
    order.sockets = 1;
    Draft { order, sockets: vec![socket.name.clone()], groups: None, limits: ServiceLimits::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(services: &str) -> Tenant {
        let files = [
            (std::path::PathBuf::from("bailiwick.toml"), "web = { group = \"www-data\" }\n".to_owned()),
            ("plans.d/small.toml".into(), "doors = [\"socket\"]\n[limits]\nmemory = \"1G\"\n".into()),
            ("tenants.d/alice.toml".into(), format!("plan = \"small\"\n{services}")),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert!(reading.diagnostics.is_empty(), "{}", bailiwick_diagnostics::render(&reading.diagnostics));
        reading.policy.expect("valid").tenants.into_values().next().expect("one tenant")
    }

    fn env(order: &ServiceOrder) -> Vec<String> {
        let line = |(key, value): &(Bytes, Bytes)| {
            format!("{}={}", key.as_os_str().to_string_lossy(), value.as_os_str().to_string_lossy())
        };
        order.env.iter().map(line).collect()
    }

    fn argv(order: &ServiceOrder) -> Vec<String> {
        order.argv.iter().map(|word| word.as_os_str().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_service_gets_its_sockets_and_its_environment() {
        let services = r#"
            [[service]]
            name = "php"
            command = ["/usr/sbin/php-fpm8.2", "-F"]
            env = { LANG = "de_DE.UTF-8", MODE = "prod" }
            limits = { memory = "64M" }
            [[service.socket]]
            name = "api"
            pass = "fd"
            [[service.socket]]
            name = "web"
            pass = "fpm"
            to = "/run/php.sock"
            entries = 7
        "#;
        let drafts = drafts(&tenant(services));
        let [draft] = drafts.as_slice() else { panic!("{drafts:?}") };
        assert_eq!(draft.sockets.iter().map(SocketName::as_str).collect::<Vec<_>>(), ["api", "web"]);
        assert_eq!(draft.groups.as_ref().map(ServiceName::as_str), Some("php"));
        let env = env(&draft.order);
        for line in [
            "USER=alice",
            "HOME=/home/alice",
            "LANG=de_DE.UTF-8",
            "MODE=prod",
            "LISTEN_FDS=2",
            "LISTEN_FDNAMES=api:web",
            "FPM_SOCKETS=/run/php.sock=4",
            "BAILIWICK_ENTRIES=7",
            "BAILIWICK_MEMORY=1073741824",
        ] {
            assert_eq!(env.iter().filter(|found| *found == line).count(), 1, "{line}: {env:?}");
        }
        assert_eq!(env.iter().filter(|line| line.starts_with("LANG=")).count(), 1, "{env:?}");
        assert_eq!(draft.order.log, "/home/alice/.local/state/services/php.log");
        assert_eq!((draft.order.user.uid, draft.order.sockets), (1000, 2));
    }

    #[test]
    fn a_relay_and_a_server_of_files_are_programs_of_ours() {
        let services = r#"
            [[service]]
            name = "node"
            command = ["/usr/bin/node", "app.js"]
            ready = "connect"
            user = "root"
            [[service.socket]]
            name = "web"
            pass = "relay"
            to = "127.0.0.1:3000"
            [[service]]
            name = "files"
            files = "www"
            after = ["node"]
            [[service.socket]]
            name = "static"
            pass = "fd"
        "#;
        let drafts = drafts(&tenant(services));
        let names: Vec<String> = drafts.iter().map(|draft| draft.name().to_string()).collect();
        assert_eq!(names, ["node", "node.web", "files"]);
        let [node, relay, files] = drafts.as_slice() else { panic!("{drafts:?}") };
        assert!(env(&node.order).contains(&"PORT=3000".to_owned()));
        assert!(!env(&node.order).iter().any(|line| line.starts_with("LISTEN_")));
        assert_eq!((node.order.connect, node.order.user.uid), (Some("127.0.0.1:3000".parse().expect("valid")), 0));
        assert_eq!(argv(&relay.order), ["/run/host/bin/bailiwick-web", "relay", "127.0.0.1:3000"]);
        assert_eq!((relay.order.sockets, relay.order.user.uid), (1, 0));
        assert_eq!(argv(&files.order), ["/run/host/bin/bailiwick-web", "files", "/home/alice/www"]);
        assert_eq!(files.order.after.iter().map(ToString::to_string).collect::<Vec<_>>(), ["node"]);
    }

    #[test]
    fn a_digest_follows_everything_that_a_program_depends_on() {
        let service = |more: &str| {
            format!(
                "[[service]]\nname = \"app\"\ncommand = [\"/bin/app\"]\n{more}\n[[service.socket]]\nname = \"web\"\npass = \"fd\"\n"
            )
        };
        let listener = |cookie| Listener {
            fd: std::sync::Arc::new(std::io::stdin().as_fd().try_clone_to_owned().expect("duplicates")),
            cookie,
        };
        let digest = |more: &str, cookie| drafts(&tenant(&service(more))).remove(0).with(&[listener(cookie)]).digest;
        let first = digest("", 1);
        assert!(first.len() <= 64);
        assert_eq!(digest("", 1), first);
        for (more, cookie) in
            [("", 2), ("restart = \"never\"", 1), ("env = { A = \"b\" }", 1), ("limits = { tasks = 3 }", 1)]
        {
            assert_ne!(digest(more, cookie), first, "{more}");
        }
    }

    use std::os::fd::AsFd;
}
