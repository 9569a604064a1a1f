//! The policy in force when files have errors, before and after a restart.

use bailiwick_policy::{Declared, Reading, Store, fingerprint};
use bailiwick_types::{Bound, ByteSize, Door, TenantName};
use proptest::collection::vec;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::TempDir;

fn name(text: &str) -> TenantName {
    text.parse().expect("a name")
}

fn write(top: &Path, file: &str, text: &str) {
    let path = top.join(file);
    fs::create_dir_all(path.parent().expect("a directory")).expect("makes");
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
}

/// Two tenants of two plans, saved as the warden saves them.
fn kept() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let top = dir.path();
    write(top, "bailiwick.toml", "runtime_dir = \"/run/elsewhere\"\n");
    write(top, "plans.d/base.toml", "[limits]\nmemory = \"256M\"\n");
    write(top, "plans.d/small.toml", "plan = \"base\"\n");
    write(top, "plans.d/large.toml", "[limits]\nmemory = \"1G\"\n");
    write(top, "tenants.d/alice.toml", "plan = \"small\"\n[login]\nssh_keys = []\n");
    write(top, "tenants.d/bob.toml", "plan = \"large\"\n");
    let mut store = Store::new(top);
    assert!(store.read().diagnostics.is_empty());
    for tenant in ["alice", "bob"] {
        store.save(Some(&name(tenant)), 0).expect("keeps");
    }
    (dir, store)
}

fn memory(reading: &Reading, tenant: &str) -> Option<Bound<ByteSize>> {
    let limits = |tenant: &bailiwick_policy::Tenant| tenant.settings.limits.memory;
    reading.policy.as_ref()?.tenants.get(&name(tenant)).map(limits)
}

/// A tenant as both ways of reading return it, which must agree.
fn both(store: &mut Store, tenant: &str) -> Option<Bound<ByteSize>> {
    let whole = memory(&store.read(), tenant);
    let alone =
        store.tenant(&name(tenant)).ok().and_then(|(_, tenant)| tenant).map(|tenant| tenant.settings.limits.memory);
    assert_eq!(whole, alone, "{tenant}: one policy, however it is read");
    whole
}

/// Each wrong line, and the part that stays in force.
const WRONG: &[(&str, &str)] = &[
    ("bailiwick.toml", "requir = []\n"),
    ("bailiwick.toml", "state_dir = \n"),
    ("plans.d/base.toml", "[limits]\nmemory = 256\n"),
    ("plans.d/small.toml", "plan = \"nowhere\"\n"),
    ("plans.d/small.toml", "plan = \"small\"\n"),
    ("tenants.d/alice.toml", "plan = \"small\"\nstate = \"actve\"\n"),
    ("tenants.d/alice.toml", "plan = \"small\n"),
    ("tenants.d/alice.toml", "plan = \"nowhere\"\n"),
    ("tenants.d/alice.toml", ""),
];

#[test]
fn a_wrong_line_locks_nobody_out() {
    for (file, text) in WRONG {
        let (dir, running) = kept();
        write(dir.path(), file, text);
        // One program has run before the error, and one starts after it.
        for (mut store, which) in [(running, "running"), (Store::new(dir.path()), "started")] {
            let reading = store.read();
            assert!(!reading.diagnostics.is_empty(), "{which}: {file} {text:?}");
            assert_eq!(both(&mut store, "alice"), Some(Bound::At(ByteSize(256 << 20))), "{which}: {file} {text:?}");
            assert_eq!(both(&mut store, "bob"), Some(Bound::At(ByteSize(1 << 30))), "{which}: {file} {text:?}");
            let (host, _) = store.host().expect("known");
            assert_eq!(host.runtime_dir, Path::new("/run/elsewhere"), "{which}: {file} {text:?}");
            assert_eq!(reading.last_good.host, *file == "bailiwick.toml", "{which}: {file} {text:?}");
            assert_eq!(reading.invalid.contains(&name("alice")), file.starts_with("tenants.d"), "{which}: {file}");
            assert!(!reading.invalid.contains(&name("bob")));
        }
        assert!(!bailiwick_policy::read(dir.path()).diagnostics.is_empty(), "the files alone are what they are");
    }
}

const CRON: &str = "doors = [\"exec\", \"cron\"]\n";
const TIMER: &str = "[[timer]]\nname = \"t\"\nschedule = \"daily\"\ncommand = [\"/bin/true\"]\n";

/// What reads as if it had an effect and has none is an error like any other. The last good version stays in force.
#[test]
fn a_word_that_nothing_serves_is_an_error_for_every_program() {
    let service = "[[service]]\nname = \"s\"\ncommand = [\"/bin/s\"]\n";
    let socket = format!("{service}[[service.socket]]\nname = \"web\"\n");
    let more = "limits.memory = \"2G\"\n";
    let cases = [
        (format!("{more}{TIMER}"), 3, "the door \"cron\" is closed, so no [[timer]] is of use"),
        (format!("{more}{socket}"), 6, "the door \"socket\" is closed, so no [[service.socket]] is of use"),
        (format!("{more}host_sockets = [\"nope\"]\n"), 3, "the host lends no socket \"nope\""),
        (
            format!("{more}[sleep]\nafter = \"15m\"\n{service}"),
            5,
            "the service \"s\" has no socket, so its tenant never sleeps",
        ),
    ];
    for (text, line, golden) in &cases {
        let (dir, running) = kept();
        write(dir.path(), "tenants.d/alice.toml", &format!("plan = \"small\"\n{text}"));
        for (mut store, which) in [(running, "running"), (Store::new(dir.path()), "started")] {
            let reading = store.read();
            let [only] = reading.diagnostics.as_slice() else { panic!("{which}: {:?}", reading.diagnostics) };
            assert_eq!((only.line, only.message.as_str()), (*line, *golden), "{which}: {text:?}");
            assert!(reading.invalid.contains(&name("alice")), "{which}: {text:?}");
            assert_eq!(both(&mut store, "alice"), Some(Bound::At(ByteSize(256 << 20))), "{which}: {text:?}");
        }
        assert!(bailiwick_policy::read_tenant(dir.path(), &name("alice")).is_err(), "{text:?}");
    }
    // In a plan, it is an error of the plan alone.
    let (dir, mut store) = kept();
    write(dir.path(), "plans.d/small.toml", &format!("plan = \"base\"\n{}", cases[2].0));
    let reading = store.read();
    let [only] = reading.diagnostics.as_slice() else { panic!("{:?}", reading.diagnostics) };
    assert!(
        only.file.ends_with("plans.d/small.toml")
            && reading.last_good.plans.contains(&"small".parse().expect("a name"))
    );
    assert_eq!(both(&mut store, "alice"), Some(Bound::At(ByteSize(256 << 20))));
}

/// Whoever closes a door does not wait until nothing behind it is declared any more.
#[test]
fn a_closed_door_is_closed_although_something_is_behind_it() {
    let (dir, mut store) = kept();
    let has_cron = |store: &mut Store| {
        let tenant = store.tenant(&name("alice")).expect("known").1.expect("declared");
        assert_eq!(store.read().policy.expect("known").tenants[&name("alice")], tenant);
        assert_eq!(tenant.timers.len(), 1, "what it last declared without an error");
        tenant.settings.doors.contains(&Door::Cron)
    };
    let declare = |doors: &str| write(dir.path(), "tenants.d/alice.toml", &format!("plan = \"small\"\n{doors}{TIMER}"));
    declare(CRON);
    assert!(has_cron(&mut store));
    store.save(Some(&name("alice")), 0).expect("keeps");
    declare("doors = [\"exec\"]\n");
    assert!(!has_cron(&mut store) && !has_cron(&mut Store::new(dir.path())));
    store.save(Some(&name("alice")), 0).expect("keeps");
    // A file with another error does not open it again, and cannot close another.
    declare("doors = [\"cron\", \"exc\"]\n");
    assert!(!has_cron(&mut store) && !has_cron(&mut Store::new(dir.path())));
    declare(CRON);
    assert!(has_cron(&mut store));
    // So it is if the plan closes the door.
    declare("");
    write(dir.path(), "plans.d/small.toml", "plan = \"base\"\ndoors = [\"cron\"]\n");
    assert!(has_cron(&mut store));
    write(dir.path(), "plans.d/small.toml", "plan = \"base\"\ndoors = []\n");
    assert!(!has_cron(&mut store));
}

/// A version that judges more words than an earlier one keeps what that one had put in force.
#[test]
fn what_is_in_force_is_not_judged_again() {
    let (dir, _) = kept();
    let copy = dir.path().join(".in-force/tenants.d/alice.toml");
    let saved = fs::read_to_string(&copy).expect("is there");
    fs::write(&copy, format!("{saved}{TIMER}")).expect("writes");
    write(dir.path(), "tenants.d/alice.toml", &format!("plan = \"small\"\n{TIMER}"));
    assert_eq!(both(&mut Store::new(dir.path()), "alice"), Some(Bound::At(ByteSize(256 << 20))));
}

#[test]
fn an_unusable_folder_locks_nobody_out() {
    for folder in ["", "plans.d", "tenants.d"] {
        let (dir, running) = kept();
        fs::set_permissions(dir.path().join(folder), fs::Permissions::from_mode(0o777)).expect("chmod");
        for (mut store, which) in [(running, "running"), (Store::new(dir.path()), "started")] {
            // A copy below a folder that others can write is not trusted. A running program goes on, and a new one fails.
            let known = which == "running" || !folder.is_empty();
            let golden = known.then_some(Bound::At(ByteSize(256 << 20)));
            assert_eq!(both(&mut store, "alice"), golden, "{which}: {folder:?}");
        }
    }
}

#[test]
fn a_good_file_is_in_force_beside_a_bad_one() {
    let (dir, mut store) = kept();
    write(dir.path(), "plans.d/base.toml", "[limits]\nmemory = 256\n");
    write(dir.path(), "tenants.d/alice.toml", "plan = \"small\"\nstate = \"suspended\"\nsuspend_reason = \"unpaid\"\n");
    let suspended = |store: &mut Store| {
        let tenant = store.tenant(&name("alice")).expect("known").1.expect("declared");
        assert_eq!(store.read().policy.expect("known").tenants[&name("alice")], tenant);
        tenant.state == Declared::Suspended { reason: Some("unpaid".to_owned()) }
    };
    assert!(suspended(&mut store), "its plan is broken, its file is not");
    // The tenant's own file may have an error too.
    write(
        dir.path(),
        "tenants.d/alice.toml",
        "state = \"suspended\"\nsuspend_reason = \"unpaid\"\nplan = \"small\"\ncolour = 7\n",
    );
    assert!(suspended(&mut store));
    assert!(suspended(&mut Store::new(dir.path())));
    // Ending the suspension needs a file without an error.
    write(dir.path(), "tenants.d/alice.toml", "plan = \"small\"\nstate = \"suspended\"\nsuspend_reason = \"unpaid\"\n");
    write(dir.path(), "plans.d/base.toml", "[limits]\nmemory = \"256M\"\n");
    store.read();
    write(dir.path(), "tenants.d/alice.toml", "plan = \"small\"\nstate = \"active\"\ncolour = 7\n");
    assert!(suspended(&mut store));
}

#[test]
fn a_suspension_in_a_file_with_errors_lasts_until_a_good_file() {
    let (dir, mut store) = kept();
    let state = |store: &mut Store| {
        let tenant = store.tenant(&name("alice")).expect("known").1.expect("declared");
        assert_eq!(store.read().policy.expect("known").tenants[&name("alice")], tenant);
        tenant.state
    };
    let file = dir.path().join("tenants.d/alice.toml");
    let rests = [&b"plan = \"small\nstate = \"active\"\n"[..], b"\xff\0", b"[state\n]]]", b"\r\0\n'''", b"state = [\n"];
    for rest in rests {
        let lines = &b"state = \"suspended\"\nsuspend_reason = \"unpaid\"\n"[..];
        fs::write(&file, [lines, rest].concat()).expect("writes");
        let golden = Declared::Suspended { reason: Some("unpaid".to_owned()) };
        assert_eq!(state(&mut store), golden, "{rest:?}");
        assert_eq!(state(&mut Store::new(dir.path())), golden, "{rest:?}: and when it is read first of all");
        store.save(Some(&name("alice")), 0).expect("writes");
        for less in [rest, b"", b"plan = \"small\"\nstate = \"active\"\ncolour = 7\n"] {
            fs::write(&file, less).expect("writes");
            assert_eq!(state(&mut store), golden, "{rest:?}, then {less:?}");
            assert_eq!(state(&mut Store::new(dir.path())), golden, "{rest:?}, then {less:?}, for who starts now");
        }
        fs::write(&file, "plan = \"small\"\n").expect("writes");
        assert_eq!(state(&mut store), Declared::Active, "{rest:?}");
        store.save(Some(&name("alice")), 0).expect("writes");
        fs::write(&file, rest).expect("writes");
        assert_eq!(state(&mut Store::new(dir.path())), Declared::Active, "{rest:?}");
    }
}

proptest! {
    #[test]
    fn whatever_follows_it_the_state_is_read(rest in prop_oneof![vec(any::<u8>(), 0..300), "(?s)[\\[\\]\"'=\n\r# a-z.{}]{0,200}".prop_map(String::into_bytes)]) {
        let lines = &b"state = \"suspended\"\nsuspend_reason = \"unpaid\"\n"[..];
        let (dir, mut store) = kept();
        fs::write(dir.path().join("tenants.d/alice.toml"), [lines, &rest].concat()).expect("writes");
        let tenant = store.tenant(&name("alice")).expect("known").1.expect("declared");
        prop_assert_eq!(tenant.state, Declared::Suspended { reason: Some("unpaid".to_owned()) });
    }
}

#[test]
fn a_deleted_tenant_does_not_return() {
    let (dir, mut store) = kept();
    fs::remove_file(dir.path().join("tenants.d/alice.toml")).expect("removes");
    assert!(store.tenant(&name("alice")).expect("known").1.is_none());
    store.save(Some(&name("alice")), 0).expect("keeps");
    assert_eq!(store.saved_tenants(), [name("bob")]);
    // A new file of this name never was without an error.
    write(dir.path(), "tenants.d/alice.toml", "plan = \"nowhere\"\n");
    for mut store in [store, Store::new(dir.path())] {
        assert!(store.tenant(&name("alice")).is_err());
        let reading = store.read();
        assert!(reading.invalid.contains(&name("alice")) && memory(&reading, "alice").is_none());
    }
}

#[test]
fn the_copy_belongs_to_root_and_one_group_reads_tenants() {
    let (dir, store) = kept();
    store.save(Some(&name("alice")), 4711).expect("keeps");
    let copy = dir.path().join(".in-force");
    for (path, mode, gid) in
        [("", 0o755, 0), ("bailiwick.toml", 0o644, 0), ("plans.d", 0o755, 0), ("tenants.d", 0o750, 4711)]
    {
        let metadata = fs::metadata(copy.join(path)).expect("is there");
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (0, gid, mode), "{path}");
    }
    assert!(bailiwick_policy::read(&copy).diagnostics.is_empty(), "it reads as a configuration");
    // A copy that others could write does not count.
    write(dir.path(), "tenants.d/alice.toml", "plan = 7\n");
    assert!(Store::new(dir.path()).tenant(&name("alice")).is_ok());
    fs::set_permissions(copy.join("tenants.d/alice.toml"), fs::Permissions::from_mode(0o666)).expect("chmod");
    assert!(Store::new(dir.path()).tenant(&name("alice")).is_err());
}

#[test]
fn every_change_of_a_file_is_seen() {
    let (dir, _) = kept();
    let top = dir.path();
    let mut before = fingerprint(top);
    let mut changes = |what: &str| {
        let now = fingerprint(top);
        assert_ne!(now, before, "{what}");
        before = now;
        assert_eq!(fingerprint(top), now, "{what}: and nothing else is one");
    };
    write(top, "plans.d/base.toml", "[limits]\nmemory = \"257M\"\n# longer\n");
    changes("another size");
    write(top, "tenants.d/carol.toml", "plan = \"small\"\n");
    changes("a file more");
    fs::remove_file(top.join("tenants.d/carol.toml")).expect("removes");
    changes("a file less");
    fs::set_permissions(top.join("bailiwick.toml"), fs::Permissions::from_mode(0o600)).expect("chmod");
    changes("another mode");
}
