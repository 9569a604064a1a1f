//! Pages in a real browser: nothing is wider than a telephone, nothing runs, and nothing is loaded.
//!
//! Chromium is larger than everything else that the tests need together, so `tests/deps` does not install it, and this
//! suite runs by name: `cargo test -p bailiwick-tests --test browser -- --ignored`.

use bailiwick_tests::{Host, until};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Looks at the page in a frame of a width. The frame is in a page of the test, whose script measures what is in it. The
/// content security policy of the page itself is in force in the frame.
fn measured(chromium: &str, folder: &Path, page: &str, width: u32) -> String {
    let mut quoted = String::new();
    for c in page.chars() {
        match c {
            '&' => quoted.push_str("&amp;"),
            '"' => quoted.push_str("&quot;"),
            c => quoted.push(c),
        }
    }
    let script = "addEventListener('load', () => {
        const inner = document.querySelector('iframe').contentDocument;
        const root = inner.documentElement;
        const is_wide = element => element.getBoundingClientRect().right > root.clientWidth + 1;
        const wide = [...inner.querySelectorAll('main *')].filter(is_wide).slice(0, 5).map(element => element.outerHTML.slice(0, 200));
        const styled = inner.defaultView.getComputedStyle(inner.body).maxWidth !== 'none';
        document.body.textContent = `RESULT scroll=${root.scrollWidth} client=${root.clientWidth} styled=${styled} ` +
            `scripts=${inner.scripts.length} loaded=${inner.defaultView.performance.getEntriesByType('resource').length} ` +
            `headings=${inner.querySelectorAll('h2').length} wide=${JSON.stringify(wide)} END`;
    });";
    let mut outer = String::new();
    write!(outer, "<!DOCTYPE html><meta charset=\"utf-8\"><title>test</title><script>{script}</script>").expect("text");
    write!(outer, "<body><iframe width=\"{width}\" height=\"800\" srcdoc=\"{quoted}\"></iframe>").expect("text");
    let file = folder.join("outer.html");
    fs::write(&file, outer).expect("writes");
    let profile = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .output()
        .expect("chromium runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The words are in the script too, which is before the body.
    let result = text.rsplit("RESULT ").next().and_then(|rest| rest.split(" END").next());
    let result = result.filter(|found| !found.contains('$') && found.contains("scroll="));
    result.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

#[test]
#[ignore = "needs Chromium: run it by name"]
fn pages_fit_a_telephone_and_load_nothing() {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
    let mut host = Host::new();
    host.write("etc/tenants.d/busy.toml", "plan = \"web\"\n[limits]\nsessions = 3\n");
    let service = "[[service]]\nname = \"queue\"\ncommand = [\"/bin/false\"]\n";
    host.write("etc/tenants.d/with-a-name-that-is-very-long-01.toml", &format!("plan = \"web\"\n{service}"));
    host.start();
    host.ok(&["apply"]);
    let long = format!("sleep 300 # <script>alert(1)</script> <style>*{{width:9999px}}</style> {}", "x".repeat(200));
    let mut session = host
        .command(&["exec", "busy", "--", "sh", "-c", &long])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    // The first minute is measured within two.
    let deadline = Instant::now() + Duration::from_secs(120);
    while !host.ok(&["report", "busy", "--html"]).contains("<figure>") {
        assert!(Instant::now() < deadline, "no minute was measured");
        std::thread::sleep(Duration::from_secs(1));
    }
    until("the session is open", || host.ok(&["report", "busy", "--html"]).contains("&lt;script&gt;"));
    let audit = host.path("audit.html");
    // It ends with 10, because this host cannot enforce everything or the service has failed.
    let status = host.cli(&["audit", "--html", &audit.display().to_string()]).status.code();
    assert!(matches!(status, Some(0 | 10)), "{status:?}");
    let pages = [
        ("host", host.ok(&["report", "--html"])),
        ("tenant", host.ok(&["report", "busy", "--html"])),
        ("audit", fs::read_to_string(&audit).expect("a page")),
    ];
    for (name, page) in &pages {
        for width in [360, 768, 1280] {
            let found = measured(&chromium, &host.path(""), page, width);
            let value = |key: &str| found.split(key).nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
            assert_eq!(value("scroll="), value("client="), "{name} at {width}: {found}");
            assert_eq!(value("styled=").as_deref(), Some("true"), "{name}: the hash allows the style: {found}");
            assert_eq!(
                (value("scripts=").as_deref(), value("loaded=").as_deref()),
                (Some("0"), Some("0")),
                "{name}: {found}"
            );
            if width == 360 {
                assert!(found.ends_with("wide=[]"), "{name}: {found}");
            }
        }
    }
    session.kill().ok();
    session.wait().expect("ends");
}
