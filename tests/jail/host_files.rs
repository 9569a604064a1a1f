//! What a jail sees of the host's files: always the current `/usr`, and the parts of `/etc` that belong to
//! packages.

use bailiwick_policy::{EtcSettings, host_etc};
use bailiwick_tests::{Host, profiles, supports, until};
use bailiwick_types::Profile;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn host(more: &str) -> Host {
    let mut host = Host::new();
    host.write("etc/bailiwick.toml", &host.default_config(more));
    for profile in profiles() {
        host.declare(profile, profile);
    }
    host.start();
    host.ok(&["apply"]);
    host
}

/// A file beside the host's own files, removed on drop.
struct Own(PathBuf);

impl Own {
    fn name() -> String {
        format!("bailiwick-test-{}", std::process::id())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) }.ok();
    }
}

fn write(path: &Path, mode: u32) {
    fs::write(path, "of the host\n").expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn programs_of_the_host_find_the_files_of_their_packages() {
    let host = host("");
    let wanted =
        ["/etc/ssl/openssl.cnf", "/etc/fonts/fonts.conf", "/etc/manpath.config", "/etc/ImageMagick-6/policy.xml"];
    let status = fs::read_to_string("/var/lib/dpkg/status").expect("a host with packages");
    let is_brought = |path: &&&str| {
        let output = Command::new("md5sum").arg(path).output().expect("md5sum runs").stdout;
        let digest = String::from_utf8_lossy(&output).split(' ').next().unwrap_or_default().to_owned();
        host_etc::conffiles(&status).any(|(brought, of)| path.ends_with(&format!("/etc/{brought}")) && of == digest)
    };
    let found: Vec<&&str> = wanted.iter().filter(is_brought).collect();
    assert!(found.contains(&&"/etc/ssl/openssl.cnf"), "openssl is a dependency of these tests: {found:?}");
    for tenant in profiles() {
        for path in &found {
            let (status, out, err) = host.inside(tenant, &format!("cat {path}"));
            assert_eq!((status, err.as_str()), (0, ""), "{tenant}: {path}");
            assert_eq!(out, String::from_utf8_lossy(&fs::read(path).expect("reads")), "{tenant}: {path}");
        }
        let line = "openssl req -new -newkey rsa:2048 -nodes -keyout /tmp/key -subj /CN=x -out /tmp/request 2>&1";
        let (status, out, _) = host.inside(tenant, line);
        assert_eq!(status, 0, "{tenant}: {out}");
    }
}

#[test]
fn private_and_modified_files_are_hidden() {
    let own = Own(Path::new("/etc").join(Own::name()));
    fs::create_dir_all(own.0.join("closed")).expect("mkdir");
    for (name, mode) in
        [("open", 0o644), ("secret-by-mode", 0o640), ("password.conf", 0o644), ("closed/x", 0o644), ("not", 0o644)]
    {
        write(&own.0.join(name), mode);
    }
    fs::set_permissions(own.0.join("closed"), fs::Permissions::from_mode(0o750)).expect("chmod");
    fs::write(own.0.join("pair.pem"), "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n").expect("write");
    // The last link has the name of a customer and points to a hidden file.
    for (link, to) in [
        ("out", "/root"),
        ("shadow-by-link", "../shadow"),
        ("up", "../../root/x"),
        ("to", "open"),
        ("customer.example", "secret-by-mode"),
    ] {
        std::os::unix::fs::symlink(to, own.0.join(link)).expect("symlink");
    }
    let name = Own::name();
    // By default it is hidden: it belongs to no package.
    let without = host("");
    assert_eq!(without.inside("web", &format!("ls /etc/{name} /run/host/etc/{name} 2>/dev/null")).1, "");
    drop(without);

    let host = host(&format!("etc_extra = [\"{name}\"]\netc_never = [\"{name}/not\"]\n"));
    for tenant in profiles() {
        assert_eq!(host.inside(tenant, &format!("ls /etc/{name}/")).1, "open\nto\n", "{tenant}");
        assert_eq!(host.inside(tenant, &format!("cat /etc/{name}/to")).1, "of the host\n", "{tenant}");
        // Every visible file can be read by every user of the host.
        let (_, all, _) = host.inside(tenant, "cd /run/host/etc && find . -type f");
        assert!(all.lines().count() > 10, "{tenant}: {all}");
        for path in all.lines().filter_map(|path| path.strip_prefix("./")) {
            let mode = fs::metadata(Path::new("/etc").join(path)).expect("the host has it").permissions().mode();
            assert!(
                mode & 0o004 != 0 && !host_etc::is_barred(path, &EtcSettings::default()),
                "{tenant}: {path} {mode:o}"
            );
        }
        let line = format!(
            "mount -o remount,rw,bind /run/host/etc 2>/dev/null; (echo x > /run/host/etc/{name}/open) 2>/dev/null && echo written; \
                            rm -f /run/host/etc/{name}/open 2>/dev/null && echo removed; true"
        );
        assert_eq!(host.inside(tenant, &line).1, "", "{tenant}");
    }
    // The same while jails run.
    write(&own.0.join("later"), 0o644);
    write(&own.0.join("later-and-secret"), 0o600);
    fs::set_permissions(own.0.join("open"), fs::Permissions::from_mode(0o600)).expect("chmod");
    for tenant in profiles() {
        until("a jail sees the current files", || {
            host.inside(tenant, &format!("ls -I to /etc/{name}/")).1 == "later\n"
        });
    }
}

#[test]
fn a_part_of_etc_that_is_always_hidden_is_an_error() {
    let host = Host::new();
    for entry in ["shadow", "ssh", "ssl/private", "sudoers.d", "bailiwick", "../root", "/etc/php", ""] {
        host.write("etc/bailiwick.toml", &host.default_config(&format!("etc_extra = [\"{entry}\"]\n")));
        assert_eq!(host.cli(&["check"]).status.code(), Some(2), "{entry:?}");
    }
    host.write("etc/bailiwick.toml", &host.default_config("etc_extra = [\"php\"]\netc_never = [\"fonts\"]\n"));
    assert_eq!(host.cli(&["check"]).status.code(), Some(0));
}

#[test]
fn files_installed_on_the_host_appear_in_a_running_jail() {
    let host = host("");
    let own = Own(Path::new("/usr/share").join(Own::name()));
    let look = |tenant: &str| host.inside(tenant, &format!("cat {}", own.0.display())).1;
    // The kernel caches that there is none.
    for tenant in profiles() {
        assert_eq!(look(tenant), "", "{tenant}");
    }
    write(&own.0, 0o644);
    for tenant in profiles() {
        until("the jail sees what was installed", || look(tenant) == "of the host\n");
    }
    let new = Own(own.0.with_extension("new"));
    fs::write(&new.0, "replaced\n").expect("write");
    fs::set_permissions(&new.0, fs::Permissions::from_mode(0o644)).expect("chmod");
    fs::rename(&new.0, &own.0).expect("rename");
    for tenant in profiles() {
        until("the jail sees what was upgraded", || look(tenant) == "replaced\n");
    }
    if !supports(Profile::System) {
        return;
    }
    // A file that the tenant created stays.
    assert_eq!(host.inside("system", &format!("echo own > {0}; cat {0}", own.0.display())).1, "own\n");
    fs::write(&own.0, "once more\n").expect("write");
    assert_eq!(look("system"), "own\n");
}
