//! A PHP site of one line on a complete host: Debian's nginx and PHP-FPM, the plan that the package brings, systemd's store
//! of descriptors. Each test runs alone.
//!
//! Danger: as in `installed.rs`, these tests change the machine they run on.

use bailiwick_tests::machine::{install, journal, main_pid, ok, package, print_measurement, sh, until};
use bailiwick_tests::web::{Response, request};
use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PORT: u16 = 8099;

/// A host with the tenant `site`, whose file has one line, behind nginx.
fn host() {
    install();
    ok("rm -f /etc/bailiwick/tenants.d/*.toml");
    let config = "require = [\"cpu\", \"memory\", \"tasks\"]\nweb = { group = \"www-data\" }\n";
    fs::write("/etc/bailiwick/bailiwick.toml", config).expect("writes");
    fs::write("/etc/bailiwick/tenants.d/site.toml", "plan = \"php\"\n").expect("writes");
    // Who may connect to the sockets is decided when the daemons start.
    ok("systemctl reset-failed; systemctl enable bailiwick.target; systemctl restart bailiwick.target");
    ok("bailiwick apply; bailiwick start site");
    ok("bailiwick web nginx --write /etc/nginx/bailiwick");
    let server = format!(
        "include /etc/nginx/bailiwick/bailiwick.conf;\nserver {{\n    listen 127.0.0.1:{PORT};\n    \
         include /etc/nginx/bailiwick/bailiwick.d/site.conf;\n}}\n"
    );
    fs::write("/etc/nginx/conf.d/sites.conf", server).expect("writes");
    ok("rm -f /etc/nginx/sites-enabled/default; systemctl restart nginx");
}

fn inside(line: &str) {
    ok(&format!("bailiwick exec site --user site -- sh -c '{line}'"));
}

fn get(path: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    request(&mut stream, path, &[])
}

fn answers(path: &str) -> String {
    let mut last = None;
    until("the site answers", || {
        last = get(path).ok();
        last.as_ref().is_some_and(|answer| answer.status == 200)
    });
    last.expect("an answer").text()
}

/// What the tenant's init says of a service.
fn service(name: &str) -> serde_json::Value {
    let text = ok("bailiwick service list site --json");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let services = all[0]["services"].as_array().expect("services").iter();
    services.clone().find(|service| service["name"] == name).unwrap_or_else(|| panic!("no {name}: {text}")).clone()
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn one_line_makes_a_site_that_sleeps_and_wakes() {
    host();
    inside("echo \"<?php echo get_current_user(), posix_getuid();\" > ~/www/index.php; echo hello > ~/www/a.txt");
    assert_eq!(answers("/index.php"), "site1000");
    assert_eq!(answers("/"), "site1000");
    assert_eq!(answers("/a.txt").trim(), "hello");
    // As with `try_files`: what is no file is for PHP.
    assert_eq!(answers("/a/pretty/name"), "site1000");
    ok("bailiwick audit site");
    // Nobody else on the host reaches its sockets.
    let (status, said) = sh("setpriv --reuid nobody --regid nogroup --clear-groups ls /run/bailiwick/web/site");
    assert!(status != 0 && said.contains("Permission denied"), "{status} {said}");
    let sleeps = "plan = \"php\"\nsleep = { after = \"1h\" }\n";
    fs::write("/etc/bailiwick/tenants.d/site.toml", sleeps).expect("writes");
    ok("bailiwick apply");
    until("it may sleep", || sh("bailiwick sleep site").0 == 0);
    assert!(ok("bailiwick list").contains("asleep"), "{}", journal());
    assert_eq!(sh("find /sys/fs/cgroup -path '*tenants/site*' -name cgroup.procs").1, "", "it has a process");
    assert_eq!(get("/index.php").expect("an answer").text(), "site1000", "the first request wakes it");
    let told = ok("journalctl -b --no-pager -o cat BAILIWICK_EVENT=awake BAILIWICK_TENANT=site");
    assert!(told.contains("site is awake: socket"), "{told}");
}

#[test]
#[ignore = "needs a host of its own: make vm-test"]
fn no_request_fails_while_daemons_are_killed_and_the_package_is_upgraded() {
    host();
    inside("echo \"<?php echo 1 + 1;\" > ~/www/index.php");
    answers("/index.php");
    let stored = || ok("systemctl show -p NFileDescriptorStore --value bailiwickd").trim().to_owned();
    until("the sockets are stored", || stored() == "2");
    let before = service("php");
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let visitor = {
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match get("/index.php") {
                    Ok(answer) if answer.status == 200 && answer.text() == "2" => {}
                    other => failed.push(format!("{other:?}")),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            failed
        })
    };
    let goes_on = || {
        let seen = count.load(Ordering::Relaxed);
        until("requests are served", || count.load(Ordering::Relaxed) > seen + 2);
    };
    let is_new = |unit: &str, old: &str| {
        until("it runs again", || {
            let now = main_pid(unit);
            now != "0" && now != old && sh(&format!("systemctl is-active {unit}")).0 == 0
        });
    };
    for unit in ["bailiwickd.service", "bailiwick-warden.service"] {
        for line in ["kill -9", "kill -9", "systemctl restart"] {
            let pid = main_pid(unit);
            ok(&if line == "kill -9" { format!("kill -9 {pid}") } else { format!("{line} {unit}") });
            goes_on();
            is_new(unit, &pid);
            goes_on();
        }
    }
    let pid = main_pid("bailiwickd.service");
    ok(&format!("apt-get install -y {}", package("BAILIWICK_DEB_NEXT").display()));
    goes_on();
    is_new("bailiwickd.service", &pid);
    until("the sockets are stored", || stored() == "2");
    goes_on();
    stop.store(true, Ordering::Relaxed);
    let failed = visitor.join().expect("ends");
    assert!(failed.is_empty(), "{failed:#?}\n{}", journal());
    let after = service("php");
    assert_eq!(after["report"]["pid"], before["report"]["pid"], "{after}\n{before}");
    print_measurement(&format!("four kills, two restarts, one upgrade: 0 of {count:?} requests failed"));
    ok("bailiwick audit site");
}
