//! Which files the reader trusts.

use crate::directory::Directory;
use bailiwick_policy::{read, read_host, read_tenant};
use bailiwick_types::TenantName;
use std::fs::{Permissions, create_dir, remove_file, rename, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;

const TENANT: (&str, &str) = ("tenants.d/alice.toml", "plan = \"small\"");
const PLAN: (&str, &str) = ("plans.d/small.toml", "");

fn alice() -> TenantName {
    "alice".parse().expect("a name")
}

fn chmod(directory: &Directory, path: &str, mode: u32) {
    set_permissions(directory.path().join(path), Permissions::from_mode(mode)).expect("chmod");
}

/// Every function that reads the path must refuse it with this message.
fn refused(directory: &Directory, complaint: &str) {
    assert_eq!(directory.complaints(), [complaint]);
    let reading = directory.read();
    assert!(reading.policy.is_none_or(|policy| !policy.tenants.contains_key(&alice())));
    let diagnostics = read_tenant(directory.path(), &alice()).expect_err("not trusted");
    assert_eq!(diagnostics.iter().map(|d| directory.anonymous(&d.to_string())).collect::<Vec<_>>(), [complaint]);
}

#[test]
fn only_root_may_own_what_is_read() {
    for (path, policy_is_known) in [
        ("", false),
        ("bailiwick.toml", false),
        ("tenants.d", false),
        ("plans.d", false),
        (TENANT.0, true),
        (PLAN.0, true),
    ] {
        let directory = Directory::with(&[TENANT, PLAN]);
        let full = if path.is_empty() { directory.path().to_owned() } else { directory.path().join(path) };
        chown(&full, Some(1234), None).expect("chown");
        let shown = directory.anonymous(&full.display().to_string());
        let hint = format!("chown root:root {}", full.display());
        refused(
            &directory,
            &directory.anonymous(&format!(
                "{shown}:1:1: the owner is user 1234, not root, and could change the policy ({hint})"
            )),
        );
        assert_eq!(directory.read().policy.is_some(), policy_is_known, "{path:?}");
        chown(&full, Some(0), None).expect("chown");
        assert_eq!(directory.complaints(), Vec::<String>::new());
    }
}

#[test]
fn nobody_else_may_write_what_is_read() {
    for (path, mode) in [("bailiwick.toml", 0o664), ("tenants.d", 0o1777), (TENANT.0, 0o646), (PLAN.0, 0o620)] {
        let directory = Directory::with(&[TENANT, PLAN]);
        chmod(&directory, path, mode);
        refused(
            &directory,
            &format!(
                "CONFIG/{path}:1:1: others than root can write it (mode {mode:04o}) and change the policy \
                 (chmod go-w CONFIG/{path})"
            ),
        );
        chmod(&directory, path, mode & !0o022);
        assert_eq!(directory.complaints(), Vec::<String>::new());
    }
}

#[test]
fn links_and_special_files_are_refused() {
    let directory = Directory::with(&[TENANT, PLAN]);
    let alice = directory.path().join(TENANT.0);
    rename(&alice, directory.path().join("elsewhere")).expect("rename");
    symlink(directory.path().join("elsewhere"), &alice).expect("symlink");
    refused(
        &directory,
        "CONFIG/tenants.d/alice.toml:1:1: this is a symbolic link, not a file \
         (put the file itself here; whoever can change where a link leads could change the policy)",
    );
    remove_file(&alice).expect("remove");
    symlink("/nowhere", &alice).expect("symlink");
    assert_eq!(directory.complaints().len(), 1, "a link to nowhere is not the same as no file");

    remove_file(&alice).expect("remove");
    create_dir(&alice).expect("mkdir");
    refused(&directory, "CONFIG/tenants.d/alice.toml:1:1: this is a directory, not a file");

    std::fs::remove_dir(&alice).expect("rmdir");
    drop(UnixListener::bind(&alice).expect("socket"));
    refused(&directory, "CONFIG/tenants.d/alice.toml:1:1: this is not a regular file");
}

#[test]
fn a_directory_behind_a_link_is_refused_below_but_not_at_the_top() {
    let directory = Directory::with(&[TENANT, PLAN]);
    let top = directory.path().join("link");
    symlink(directory.path(), &top).expect("symlink");
    assert_eq!(read(&top).diagnostics, []);
    assert!(read_tenant(&top, &alice()).is_ok_and(|(_, tenant)| tenant.is_some()));

    rename(directory.path().join("tenants.d"), directory.path().join("real")).expect("rename");
    symlink("real", directory.path().join("tenants.d")).expect("symlink");
    refused(
        &directory,
        "CONFIG/tenants.d:1:1: this is a symbolic link, not a directory \
         (put the directory itself here; whoever can change where a link leads could change the policy)",
    );
}

#[test]
fn large_files_are_refused_by_their_size() {
    let directory = Directory::with(&[PLAN]);
    let content = |len: usize| format!("plan = \"small\"\n{}", "#".repeat(len - 15));
    directory.write(TENANT.0, content(1 << 20));
    assert_eq!(directory.complaints(), Vec::<String>::new());
    directory.write(TENANT.0, content(10 << 20));
    refused(
        &directory,
        "CONFIG/tenants.d/alice.toml:1:1: the file is too large: 10485760 bytes \
         (a configuration file has at most 1048576 bytes)",
    );
}

#[test]
fn missing_files_and_directories_are_reported() {
    let directory = Directory::with(&[]);
    let reading = directory.read();
    assert_eq!(reading.diagnostics, []);
    assert!(reading.policy.is_some_and(|policy| policy.plans.is_empty() && policy.tenants.is_empty()));
    assert!(read_tenant(directory.path(), &alice()).is_ok_and(|(_, tenant)| tenant.is_none()));

    remove_file(directory.path().join("bailiwick.toml")).expect("remove");
    let complaint =
        ["CONFIG/bailiwick.toml:1:1: there is no such file (an empty file is enough: every key has a default)"];
    assert_eq!(directory.complaints(), complaint);
    assert!(directory.read().policy.is_none());
    assert!(read_host(directory.path()).is_err() && read_tenant(directory.path(), &alice()).is_err());

    let nowhere = read(&directory.path().join("nowhere"));
    assert!(nowhere.policy.is_none() && nowhere.diagnostics[0].message == "there is no such directory");
}

#[test]
fn files_of_editors_and_package_managers_are_skipped() {
    let directory = Directory::with(&[TENANT, PLAN]);
    for name in [".alice.toml.swp", ".hidden.toml", "alice.toml~", "alice.toml.dpkg-old", "#alice.toml#", "README"] {
        directory.write(&format!("tenants.d/{name}"), "no TOML");
    }
    assert_eq!(directory.complaints(), Vec::<String>::new());
}

#[test]
fn one_request_does_not_depend_on_the_files_of_others() {
    let directory =
        Directory::with(&[TENANT, PLAN, ("tenants.d/bob.toml", "broken"), ("plans.d/other.toml", "broken")]);
    let (_, tenant) = read_tenant(directory.path(), &alice()).expect("alice's files are good");
    assert_eq!(tenant, directory.read().policy.expect("a policy").tenants.remove(&alice()));
}
