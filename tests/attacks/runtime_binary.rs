//! The entering program is overwritten from inside (CVE-2019-5736). Here no privileged program enters a jail, and
//! init can be executed, but neither read nor written. The same holds for `bailiwick-web`.

use crate::host;
use bailiwick_tests::{profiles, stage};
use std::os::unix::fs::PermissionsExt;

#[test]
fn what_runs_in_every_jail_cannot_be_changed_through_proc_nor_by_its_path() {
    let programs = ["bailiwick-init", "bailiwick-web"].map(|name| stage().join(name));
    let before = programs.clone().map(|program| std::fs::read(program).expect("a program"));
    let host = host();
    for tenant in profiles() {
        let line = "for f in /proc/1/exe /run/host/init /run/host/bin/bailiwick-web; do (: >> $f) 2>/dev/null && echo open; \
                    chmod 777 $f 2>/dev/null && echo mode; mv $f /tmp/x 2>/dev/null && echo moved; rm -f $f 2>/dev/null && echo gone; done; \
                    perl -e 'open(F, \"+<\", \"/proc/1/exe\") and print \"open\"'; true";
        let out = host.inside(tenant, line).1;
        assert!(
            !out.contains("open") && !out.contains("mode") && !out.contains("moved") && !out.contains("gone"),
            "{tenant}: {out}"
        );
    }
    assert!(programs.map(|program| std::fs::read(program).expect("a program")) == before);
}

#[test]
fn an_init_that_tenants_could_read_is_refused() {
    let host = host();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let copy = dir.path().join("init");
    bailiwick_tests::copy_program(&stage().join("bailiwick-init"), &copy);
    for (mode, is_refused) in [(0o755, true), (0o750, true), (0o711, false)] {
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let mut command = std::process::Command::new(stage().join("bailiwick-warden"));
        let output = command.arg("--config").arg(host.path("etc")).arg("--init").arg(&copy).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Another warden runs on this state, so this one always ends.
        assert!(!output.status.success() && said.contains("chmod 0711") == is_refused, "{mode:o}: {said}");
    }
}

#[test]
fn no_process_of_the_host_appears_inside_when_a_session_begins() {
    let host = host();
    // A process in the jail records all processes that it sees, with their programs, while sessions start and end.
    let line = "perl -e 'my %s; my $e = time + 3; while (time < $e) { for (glob(\"/proc/[0-9]*\")) { \
                my $x = readlink(\"$_/exe\"); next unless defined $x; $s{$x} = 1 } } print join(\"\\n\", sort keys %s)'";
    let watched = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| host.inside("shell", line).1);
        for _ in 0..20 {
            host.inside("shell", "true");
        }
        watcher.join().expect("watched")
    });
    for program in watched.lines() {
        assert!(program.starts_with("/usr/") || program == "/run/host/init", "{program} was seen inside");
    }
    assert!(watched.contains("/run/host/init"), "{watched}");
}
