//! Slow work delays nobody: jails whose processes do not end, inits that do not stop, data that cannot be removed.

use bailiwick_proto::frame::{Decoder, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::warden::RosterEntry;
use bailiwick_proto::{Hold, WardenReply, WardenRequest};
use bailiwick_sys::process;
use bailiwick_tests::{Host, Pool, name, until};
use bailiwick_types::FrozenBy;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A request whose reply is read later.
struct Asked(UnixStream);

impl Asked {
    fn new(host: &Host, request: &WardenRequest) -> Self {
        let mut stream = UnixStream::connect(host.path("run/warden.sock")).expect("connects");
        stream.write_all(&encode(request, MAX_REQUEST).expect("small")).expect("writes");
        Self(stream)
    }

    fn reply(mut self) -> WardenReply {
        let (mut decoder, mut buffer) = (Decoder::new(MAX_REPLY), [0; 4096]);
        loop {
            let len = self.0.read(&mut buffer).expect("reads");
            assert_ne!(len, 0, "the warden closed the connection");
            decoder.push(&buffer[..len]);
            if let Some(reply) = decoder.next().expect("the protocol") {
                return reply;
            }
        }
    }
}

fn roster(host: &Host) -> BTreeMap<String, RosterEntry> {
    match host.warden(&WardenRequest::Roster) {
        WardenReply::Roster(roster) => roster.into_iter().map(|(name, entry)| (name.to_string(), entry)).collect(),
        other => panic!("{other:?}"),
    }
}

fn start(tenant: &str) -> WardenRequest {
    WardenRequest::Start { tenant: name(tenant) }
}

fn stop(tenant: &str) -> WardenRequest {
    WardenRequest::Stop { tenant: name(tenant), hold: Hold::Keep }
}

fn reply_text(reply: &WardenReply) -> String {
    match reply {
        WardenReply::Failed(failure) => failure.message.clone(),
        other => format!("{other:?}"),
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output().expect("runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system that blocks every write in the kernel until the value is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: &Path) -> Self {
        run("fsfreeze", &["-f"], path);
        Self(path.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Command::new("fsfreeze").arg("-u").arg(&self.0).status().ok();
    }
}

/// Whether a process of this host's tenants is in an uninterruptible sleep.
fn is_uninterruptible(host: &Host) -> bool {
    let state = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    host.processes().iter().any(|pid| state(pid).contains("\nState:\tD"))
}

#[test]
fn a_jail_whose_process_cannot_be_killed_is_clearing_and_delays_nobody() {
    // Dropped after the host, which reads the log and ledger on it if the test fails.
    let pool;
    let mut host = Host::new();
    pool = Pool::for_state_of(&host, "512M", &["mkfs.ext4", "-q"]);
    host.declare("alice", "web");
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    // Its writes go to the file system that will be frozen.
    let writer = "nohup sh -c 'while :; do echo x > /root/file; done' </dev/null >/dev/null 2>&1 &";
    assert_eq!(host.inside("alice", writer).0, 0);
    host.kill();
    host.start_warden();

    let frozen = Frozen::new(pool.path());
    until("a process that cannot be killed", || is_uninterruptible(&host));
    let stopping = Asked::new(&host, &stop("alice"));
    until("alice's jail is clearing", || roster(&host)["alice"].clearing);
    let entry = roster(&host).remove("alice").expect("known");
    assert_eq!((entry.pid, entry.access), (None, None), "it is not reported as running");
    // All other tenants are served meanwhile.
    assert_eq!(host.warden(&WardenRequest::Freeze { tenant: name("bob"), by: FrozenBy::Operator }), WardenReply::Done);
    assert_eq!(host.warden(&WardenRequest::Thaw { tenant: name("bob"), by: FrozenBy::Operator }), WardenReply::Done);
    assert_eq!(host.warden(&stop("bob")), WardenReply::Done);
    let reply = stopping.reply();
    assert!(reply_text(&reply).contains("clearing"), "{reply:?}");
    let reply = host.ask(&start("alice")).expect("an answer");
    assert!(reply_text(&reply).contains("clearing"), "nothing starts while processes are left: {reply:?}");
    let reply = host.warden(&WardenRequest::Problems);
    assert!(
        matches!(&reply, WardenReply::Problems { tenants, .. } if tenants.len() == 1 && tenants[0].contains("alice")),
        "{reply:?}"
    );

    drop(frozen);
    until("it is cleared", || !roster(&host)["alice"].clearing);
    let reply = host.warden(&WardenRequest::Problems);
    assert!(matches!(&reply, WardenReply::Problems { tenants, .. } if tenants.is_empty()), "{reply:?}");
    assert_eq!(host.warden(&start("alice")), WardenReply::Done);
    assert_eq!(host.warden(&stop("alice")), WardenReply::Done);
    assert_eq!(host.processes().len(), 0);
    host.kill();
    drop(pool);
}

#[test]
fn a_hundred_stubborn_inits_are_stopped_at_once() {
    const COUNT: usize = 100;
    let mut host = Host::with_many_ids(7);
    let names: Vec<String> = (0..COUNT).map(|number| format!("t{number:02}")).collect();
    names.iter().for_each(|tenant| host.declare(tenant, "web"));
    host.start_warden();
    for reply in names.iter().map(|tenant| Asked::new(&host, &start(tenant))).collect::<Vec<_>>() {
        assert_eq!(reply.reply(), WardenReply::Done);
    }
    // A stopped init reacts only to SIGKILL.
    for entry in roster(&host).values() {
        let init = process::open(entry.pid.expect("it runs")).expect("opens");
        process::signal(&init, Signal::STOP).expect("is sent");
    }
    let stopping: Vec<Asked> = names.iter().map(|tenant| Asked::new(&host, &stop(tenant))).collect();
    // If the jails were stopped one after another, most would still be reported as running.
    let mut most = 0;
    until("all of them to be clearing at the same time, or stopped", || {
        let roster = roster(&host);
        most = most.max(roster.values().filter(|entry| entry.clearing).count());
        roster.values().all(|entry| entry.pid.is_none())
    });
    assert!(most > COUNT / 2, "only {most} at a time");
    for reply in stopping {
        assert_eq!(reply.reply(), WardenReply::Done);
    }
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

/// The ledger as JSON.
fn ledger(host: &Host) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(host.path("state/ledger.json")).expect("a ledger")).expect("JSON")
}

/// A file that cannot be removed until the value is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn new(path: PathBuf) -> Self {
        std::fs::write(&path, b"x").expect("writes");
        run("chattr", &["+i"], &path);
        Self(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        Command::new("find").arg(&self.0).args(["-exec", "chattr", "-i", "{}", ";"]).status().ok();
    }
}

#[test]
fn data_that_cannot_be_removed_keeps_its_ids_and_delays_nobody() {
    // Dropped after the host, which reads the log and ledger on it if the test fails.
    let pool;
    let mut host = Host::new();
    pool = Pool::for_state_of(&host, "512M", &["mkfs.ext4", "-q"]);
    host.declare("alice", "web");
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    let home = host.path("state/tenants/alice");
    let top =
        std::fs::read_dir(&home).expect("lists").flatten().find(|entry| entry.path().is_dir()).expect("a directory");
    let stuck = Immutable::new(top.path().join("stuck"));
    let ids = ledger(&host)["tenants"]["alice"]["index"].clone();

    // The second purge gives the same result as the first.
    for round in 0..2 {
        let output = host.cli(&["delete", "alice", "--purge"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "round {round}: {text}");
        assert!(text.contains("stuck") && text.contains("ids stay reserved"), "round {round}: {text}");
        let purged = ledger(&host)["purged"].clone();
        assert!(purged.as_object().is_some_and(|all| all.values().eq([&ids])), "round {round}: {purged}");
    }
    // No other tenant gets its ids, not even one with the same name.
    host.declare("alice", "web");
    host.declare("carol", "web");
    host.ok(&["apply"]);
    for tenant in ["alice", "bob", "carol"] {
        assert_ne!(ledger(&host)["tenants"][tenant]["index"], ids, "{tenant}");
    }
    assert!(host.ok(&["status"]).contains("stuck"), "it is told");
    // It does not delay the start of the warden either.
    host.kill();
    host.start();
    assert_eq!(host.inside("bob", "echo in").1.trim(), "in");
    until("it is reported again", || host.ok(&["status"]).contains("stuck"));
    host.ok(&["stop", "alice"]);
    std::fs::remove_file(host.path("etc/tenants.d/alice.toml")).expect("removes");
    host.ok(&["reload"]);

    let purged = host.path("state/.purged");
    drop(Immutable(purged.clone()));
    drop(stuck);
    host.ok(&["delete", "alice", "--purge"]);
    until("nothing is left", || !purged.exists());
    assert!(ledger(&host)["purged"].is_null());
    host.declare("dave", "web");
    host.ok(&["apply"]);
    let tenants = ledger(&host)["tenants"].clone();
    assert_eq!(tenants["dave"]["index"], ids, "the lowest that is free: {tenants}");
    host.ok(&["stop", "bob", "carol", "dave"]);
    host.kill();
    drop(pool);
}

#[test]
fn data_on_a_damaged_file_system_is_reported_and_removed_after_a_repair() {
    // Dropped after the host, as above.
    let pool;
    let mut host = Host::new();
    pool = Pool::for_state_of(&host, "512M", &["mkfs.ext4", "-q"]);
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let home = host.path("state/tenants/alice");
    // Kept as a path, because a directory handle would keep the file system busy.
    let top = std::fs::read_dir(&home).expect("lists").flatten().map(|entry| entry.path()).find(|path| path.is_dir());
    let top = top.expect("a directory");
    std::fs::create_dir_all(top.join("deep/lost")).expect("mkdir");
    for file in ["broken", "whole", "deep/whole"] {
        std::fs::write(top.join(file), b"x").expect("writes");
    }
    let inode = |name: &str| std::fs::metadata(top.join(name)).expect("is there").ino();
    let damage: Vec<_> = ["broken", "deep/lost"].iter().map(|name| format!("clri <{}>", inode(name))).collect();
    let ids = ledger(&host)["tenants"]["alice"]["index"].clone();
    host.ok(&["stop", "alice"]);
    host.end();
    // Names whose inodes are lost on disk: access returns an error.
    for command in &damage {
        let output = pool.unmounted("debugfs", &["-w", "-R", command]);
        assert!(output.status.success(), "{output:?}");
    }
    host.start();
    let output = host.cli(&["delete", "alice", "--purge"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(7) && text.contains("ids stay reserved"), "{text}");
    assert!(text.contains("broken") && text.contains("lost") && text.contains("needs cleaning"), "{text}");
    assert!(ledger(&host)["purged"].as_object().is_some_and(|all| all.values().eq([&ids])));
    assert!(host.ok(&["status"]).contains("broken"), "it is told");
    let purged = host.path("state/.purged");
    let left = Command::new("find").arg(&purged).args(["-name", "whole"]).output().expect("find runs");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "everything else is removed");
    // Other tenants are created and deleted meanwhile, and none gets its ids.
    host.declare("bob", "web");
    host.ok(&["apply"]);
    assert_ne!(ledger(&host)["tenants"]["bob"]["index"], ids);
    host.ok(&["delete", "bob", "--purge"]);
    host.end();
    // Its exit status says that it fixed something.
    pool.unmounted("e2fsck", &["-f", "-y"]);
    host.start();
    until("nothing is left", || !purged.exists());
    until("its ids are free", || ledger(&host)["purged"].is_null());
    host.kill();
    drop(pool);
}

#[test]
fn a_warden_answers_before_the_purge_of_an_earlier_one_is_finished() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start_warden();
    host.kill();
    // A request that was waiting before the warden ran is answered first.
    let socket = host.path("run/warden.sock");
    std::fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket).expect("binds");
    let asked = Asked::new(&host, &WardenRequest::Roster);
    for number in 0..100 {
        let dir = host.path(&format!("state/.purged/gone.{number}"));
        std::fs::create_dir_all(&dir).expect("mkdir");
        for file in 0..200 {
            std::fs::File::create(dir.join(file.to_string())).expect("creates");
        }
    }
    host.spawn_warden_with(&listener);
    let reply = asked.reply();
    assert!(matches!(reply, WardenReply::Roster(_)), "{reply:?}");
    assert!(host.path("state/.purged").exists(), "it was silent until everything was removed");
    until("nothing is left", || !host.path("state/.purged").exists());
}

#[test]
fn data_set_aside_by_an_earlier_warden_keeps_the_ids_of_its_tenant() {
    // As after a warden that was killed between the two steps.
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start_warden();
    host.warden(&start("alice"));
    host.warden(&stop("alice"));
    host.kill();
    std::fs::create_dir(host.path("state/.purged")).expect("mkdir");
    std::fs::rename(host.path("state/tenants/alice"), host.path("state/.purged/alice.77")).expect("moves");
    std::fs::remove_file(host.path("etc/tenants.d/alice.toml")).expect("removes");
    host.start_warden();
    until("nothing is left", || !host.path("state/.purged").exists());
    until("its ids are free", || ledger(&host)["purged"].is_null() && ledger(&host)["tenants"]["alice"].is_null());
}

#[test]
fn a_purge_on_a_full_disk_frees_space_and_is_complete() {
    // Dropped after the host, which reads the log and ledger on it if the test fails.
    let pool;
    let mut host = Host::new();
    pool = Pool::for_state_of(&host, "64M", &["mkfs.ext4", "-q"]);
    host.declare("alice", "web");
    host.start_warden();
    assert_eq!(host.warden(&start("alice")), WardenReply::Done);
    assert_eq!(host.warden(&stop("alice")), WardenReply::Done);
    let ids = ledger(&host)["tenants"]["alice"]["index"].clone();
    // An earlier purge created the directory.
    std::fs::create_dir(host.path("state/.purged")).expect("mkdir");
    let mut fill = std::fs::File::create(host.path("state/fill")).expect("creates");
    let no_room = host.path("state/no-room");
    until("the ledger cannot be written", || {
        for size in [1 << 20, 4096, 1] {
            while fill.write_all(&vec![b'x'; size]).is_ok() {}
        }
        fill.sync_all().expect("is on the disk");
        let written = std::fs::File::create(&no_room).and_then(|mut file| {
            file.write_all(b"x")?;
            file.sync_all()
        });
        std::fs::remove_file(&no_room).ok();
        written.is_err()
    });
    std::fs::remove_file(host.path("etc/tenants.d/alice.toml")).expect("removes");
    assert_eq!(host.warden(&WardenRequest::Purge { tenant: name("alice") }), WardenReply::Done);
    until("nothing is left", || !host.path("state/.purged").exists());
    until("the ledger says so", || ledger(&host)["tenants"]["alice"].is_null() && ledger(&host)["purged"].is_null());
    drop(fill);
    std::fs::remove_file(host.path("state/fill")).expect("removes");
    host.declare("bob", "web");
    assert_eq!(host.warden(&start("bob")), WardenReply::Done);
    assert_eq!(ledger(&host)["tenants"]["bob"]["index"], ids, "its ids are free");
    assert_eq!(host.warden(&stop("bob")), WardenReply::Done);
    host.kill();
    drop(pool);
}

#[test]
fn two_purges_of_one_name_keep_the_ids_of_both() {
    // On btrfs, the directories of all tenants have the same inode number. Dropped after the host on it.
    let pool = Pool::btrfs();
    let mut host = Host::within(pool.path());
    host.start_warden();
    let mut taken = Vec::new();
    for round in 0..2 {
        host.declare("alice", "web");
        assert_eq!(host.warden(&start("alice")), WardenReply::Done);
        assert_eq!(host.warden(&stop("alice")), WardenReply::Done);
        taken.push(ledger(&host)["tenants"]["alice"]["index"].clone());
        // A directory with a nested subvolume cannot be removed as a whole.
        let inner = host.path("state/tenants/alice/home/inner");
        run("btrfs", &["-q", "subvolume", "create"], &inner);
        std::mem::forget(Immutable::new(inner.join("stuck")));
        std::fs::remove_file(host.path("etc/tenants.d/alice.toml")).expect("removes");
        let reply = host.ask(&WardenRequest::Purge { tenant: name("alice") }).expect("an answer");
        assert!(reply_text(&reply).contains("ids stay reserved"), "round {round}: {reply:?}");
        let purged = ledger(&host)["purged"].clone();
        let held: Vec<_> = purged.as_object().expect("some").values().cloned().collect();
        assert_eq!(held, taken, "round {round}: {purged}");
    }
    // A purged directory without a row in the ledger belongs to the ids in its name.
    let file = host.path("state/ledger.json");
    host.kill();
    let mut lost = ledger(&host);
    lost.as_object_mut().expect("a ledger").remove("purged");
    std::fs::write(&file, lost.to_string()).expect("writes");
    host.start_warden();
    let held: Vec<_> = ledger(&host)["purged"].as_object().expect("some").values().cloned().collect();
    assert_eq!(held, taken);
    drop(Immutable(host.path("state/.purged")));
    let gone = host.ask(&WardenRequest::Purge { tenant: name("alice") }).expect("an answer");
    assert!(matches!(gone, WardenReply::Done | WardenReply::GoesOn), "{gone:?}");
    until("nothing is left", || !host.path("state/.purged").exists() && ledger(&host)["purged"].is_null());
}

#[test]
fn a_list_of_all_tenants_opens_no_file_of_a_jail() {
    use rustix::fs::inotify;
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start_warden();
    host.warden(&start("alice"));
    let groups = host.groups();
    let group =
        groups.iter().find(|group| Path::new(group).join("cgroup.freeze").exists() && group.ends_with("/alice"));
    let group = Path::new(group.expect("a group of the unified hierarchy"));
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
    inotify::add_watch(&watch, group, inotify::WatchFlags::OPEN).expect("watches");
    for _ in 0..5 {
        assert!(!roster(&host)["alice"].frozen);
    }
    // Other programs may search all directories of the machine meanwhile, but open no file.
    let opens = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        let mut count = 0;
        while let Ok(event) = reader.next() {
            count += usize::from(event.file_name().is_some_and(|name| name.to_bytes() == b"cgroup.freeze"));
        }
        count
    };
    assert_eq!(opens(), 0, "nothing was opened");
    // The reported state is that of the kernel, whoever froze the group.
    std::fs::write(group.join("cgroup.freeze"), "1").expect("writes");
    assert!(roster(&host)["alice"].frozen);
    assert_eq!(opens(), 1, "an open is noticed");
    std::fs::write(group.join("cgroup.freeze"), "0").expect("writes");
    assert!(!roster(&host)["alice"].frozen);
    host.warden(&stop("alice"));
}

#[test]
fn a_process_of_an_ftp_server_ends_with_its_children() {
    use bailiwick_proto::warden::FtpProcess;
    use std::os::unix::process::ExitStatusExt;
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start_warden();
    host.warden(&start("alice"));
    let groups = host.groups();
    let group =
        groups.iter().find(|group| Path::new(group).join("cgroup.freeze").exists() && group.ends_with("/alice"));
    let group = Path::new(group.expect("a group of the unified hierarchy")).join("ftp");
    std::fs::create_dir(&group).expect("mkdir");
    // Both are in the group: a new process is in the group of its parent.
    let enter = format!("echo $$ > {}/cgroup.procs; sleep 1000 & wait", group.display());
    let mut server = Command::new("sh").args(["-c", &enter]).spawn().expect("runs");
    let processes = || match host.warden(&WardenRequest::FtpProcesses { tenant: Some(name("alice")) }) {
        WardenReply::FtpProcesses(all) => all,
        other => panic!("{other:?}"),
    };
    until("it has entered and started a child", || processes().len() == 2);
    let is_server = |process: &FtpProcess| process.pid == server.id();
    let process = processes().into_iter().find(is_server).expect("it is in");
    let other = FtpProcess { started: process.started + 1, ..process.clone() };
    let refused = host.ask(&WardenRequest::EndFtp { process: other }).expect("an answer");
    assert!(reply_text(&refused).contains("in no FTP session"), "{refused:?}");
    // The process is a child of this test, so it exists until the test waits for it.
    let ending = Asked::new(&host, &WardenRequest::EndFtp { process });
    assert_eq!(server.wait().expect("ends").signal(), Some(9));
    assert_eq!(ending.reply(), WardenReply::Done);
    until("its children have ended", || processes().is_empty());
    host.warden(&stop("alice"));
}

#[test]
fn whoever_is_told_of_a_stop_finds_it_on_disk() {
    let mut host = Host::new();
    let tenants: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
    for tenant in &tenants {
        host.declare(tenant, "web");
    }
    host.start_warden();
    for tenant in &tenants {
        assert_eq!(host.warden(&start(tenant)), WardenReply::Done);
    }
    let ledger = host.path("state/ledger.json");
    let hold = |tenant: &str| WardenRequest::Stop { tenant: name(tenant), hold: Hold::Hold };
    let is_held = |tenant: &str| {
        let ledger: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&ledger).expect("reads")).expect("a ledger");
        ledger["tenants"][tenant]["held"] == true
    };
    let (host, is_held) = (&host, &is_held);
    // All at once, so that some are written together.
    std::thread::scope(|scope| {
        for tenant in &tenants {
            scope.spawn(move || {
                assert!(!is_held(tenant), "{tenant}");
                assert_eq!(host.warden(&hold(tenant)), WardenReply::Done);
                assert!(is_held(tenant), "{tenant}");
            });
        }
    });
    // A tenant that is down is held at once.
    let tenant = &tenants[0];
    assert_eq!(host.warden(&start(tenant)), WardenReply::Done);
    assert!(!is_held(tenant), "a start ends it");
    assert_eq!(host.warden(&stop(tenant)), WardenReply::Done);
    assert!(!is_held(tenant));
    assert_eq!(host.warden(&hold(tenant)), WardenReply::Done);
    assert!(is_held(tenant));
}
