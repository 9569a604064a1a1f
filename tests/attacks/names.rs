//! Names and values that look like paths, options or lines (CVE-2022-0811, CVE-2026-23953, CVE-2026-30892).

use crate::host;

#[test]
fn no_name_is_a_path_or_an_option() {
    let host = host();
    let files = || std::fs::read_dir(host.path("etc/tenants.d")).expect("tenants").count();
    let before = files();
    let long = "x".repeat(300);
    for bad in ["../x", "/etc", ".", "..", "-rf", "a b", "a\nb", "root", "", "web/../shell", "web;id", long.as_str()] {
        let output = host.cli(&["exec", "--", bad, "id"]);
        assert!(!output.status.success(), "{bad:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("uid="), "{bad:?}");
        let output = host.cli(&["create", "--plan", "web", "--", bad]);
        assert!(!output.status.success(), "{bad:?}");
    }
    assert_eq!(files(), before);
}

#[test]
fn a_user_is_a_known_name_or_an_exact_number() {
    let host = host();
    for (user, expected) in
        [("root", Some("0")), ("0", Some("0")), ("1", Some("1")), ("1000", Some("1000")), ("web", Some("1000"))]
    {
        let output = host.cli(&["exec", "web", &format!("--user={user}"), "--", "id", "-u"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected.expect("known"), "{user}");
    }
    for user in ["", "+0", "-1", "00", "0x0", "1 ", " 0", "65536", "4294967295", "4294967296", "1e1", "daemon", "0\n"] {
        let output = host.cli(&["exec", "web", &format!("--user={user}"), "--", "id", "-u"]);
        assert_eq!(output.status.code(), Some(125), "{user:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_environment_is_clean_and_has_no_line_breaks() {
    let host = host();
    let output = host.cli(&["exec", "web", "--", "env"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in text.lines() {
        let key = line.split('=').next().expect("a key");
        let known = [
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "LANG",
            "TERM",
            "PWD",
            "_",
            "SHLVL",
            "XDG_RUNTIME_DIR",
            "BAILIWICK_MEMORY",
            "BAILIWICK_CPUS",
        ];
        assert!(known.contains(&key), "{line}");
    }
    for bad in ["A", "=x", "1A=x", "A B=x", "A\nB=x", "LD-X=1"] {
        let output = host.cli(&["exec", "web", "--env", bad, "--", "true"]);
        assert!(!output.status.success(), "{bad:?}");
    }
}
