//! What takes time holds up nobody: jails whose processes do not end, stubborn inits, data that cannot be removed.

use bailiwick_proto::frame::{Decoder, MAX_REPLY, MAX_REQUEST, encode};
use bailiwick_proto::warden::RosterEntry;
use bailiwick_proto::{Hold, WardenReply, WardenRequest};
use bailiwick_sys::process;
use bailiwick_tests::{Host, Pool, name, until};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A request whose reply is waited for later.
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

fn said(reply: &WardenReply) -> String {
    match reply {
        WardenReply::Failed(failure) => failure.message.clone(),
        other => format!("{other:?}"),
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output().expect("runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system on which every write waits in the kernel, for as long as the value lives.
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

/// Whether a process of this host's tenants waits in the kernel and cannot be killed.
fn is_uninterruptible(host: &Host) -> bool {
    let state = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    host.processes().iter().any(|pid| state(pid).contains("\nState:\tD"))
}

#[test]
fn a_jail_whose_process_cannot_be_killed_is_clearing_and_holds_up_nobody() {
    // Dropped after the host, which must be able to read what is on it when the test fails.
    let pool;
    let mut host = Host::new();
    pool = Pool::for_state_of(&host, "512M", &["mkfs.ext4", "-q"]);
    host.declare("alice", "web");
    host.declare("bob", "web");
    host.start();
    host.ok(&["apply"]);
    // Its writes go to the file system that will be frozen, for good.
    let writer = "nohup sh -c 'while :; do echo x > /root/file; done' </dev/null >/dev/null 2>&1 &";
    assert_eq!(host.inside("alice", writer).0, 0);
    host.kill();
    host.start_warden();

    let frozen = Frozen::new(pool.path());
    until("a process that cannot be killed", || is_uninterruptible(&host));
    let stopping = Asked::new(&host, &stop("alice"));
    until("alice's jail is clearing", || roster(&host)["alice"].clearing);
    let entry = roster(&host).remove("alice").expect("known");
    assert_eq!((entry.pid, entry.access), (None, None), "it is not told as running");
    // Everybody else is served meanwhile.
    assert_eq!(host.warden(&WardenRequest::Freeze { tenant: name("bob") }), WardenReply::Done);
    assert_eq!(host.warden(&WardenRequest::Thaw { tenant: name("bob") }), WardenReply::Done);
    assert_eq!(host.warden(&stop("bob")), WardenReply::Done);
    let reply = stopping.reply();
    assert!(said(&reply).contains("clearing"), "{reply:?}");
    let reply = host.ask(&start("alice")).expect("an answer");
    assert!(said(&reply).contains("clearing"), "nothing starts beside what is left: {reply:?}");
    let reply = host.warden(&WardenRequest::Problems);
    assert!(
        matches!(&reply, WardenReply::Problems { tenants, .. } if tenants.len() == 1 && tenants[0].contains("alice")),
        "{reply:?}"
    );

    drop(frozen);
    until("it is cleared", || !roster(&host)["alice"].clearing);
    // The reserve of disk space is more than this small file system has, which is another problem.
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
    // An init that stands still hears no signal but the one that kills it.
    for entry in roster(&host).values() {
        let init = process::open(entry.pid.expect("it runs")).expect("opens");
        process::signal(&init, Signal::STOP).expect("is sent");
    }
    let stopping: Vec<Asked> = names.iter().map(|tenant| Asked::new(&host, &stop(tenant))).collect();
    // One after another they would be told as running until it is their turn.
    let mut most = 0;
    until("all of them clear at the same time, or are gone", || {
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

/// The ledger, as text.
fn ledger(host: &Host) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(host.path("state/ledger.json")).expect("a ledger")).expect("JSON")
}

/// A file that nobody can remove, for as long as the value lives.
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
fn what_cannot_be_removed_keeps_its_ids_and_stops_nobody() {
    // Dropped after the host, which must be able to read what is on it when the test fails.
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

    // The first purge and the second say the same.
    for round in 0..2 {
        let output = host.cli(&["delete", "alice", "--purge"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "round {round}: {text}");
        assert!(text.contains("stuck") && text.contains("ids stay taken"), "round {round}: {text}");
        let purged = ledger(&host)["purged"].clone();
        assert!(purged.as_object().is_some_and(|all| all.values().eq([&ids])), "round {round}: {purged}");
    }
    // Nobody gets its ids, not even who gets its name.
    host.declare("alice", "web");
    host.declare("carol", "web");
    host.ok(&["apply"]);
    for tenant in ["alice", "bob", "carol"] {
        assert_ne!(ledger(&host)["tenants"][tenant]["index"], ids, "{tenant}");
    }
    assert!(host.ok(&["status"]).contains("stuck"), "it is told");
    // A start of the warden is held up by it neither.
    host.kill();
    host.start();
    assert_eq!(host.inside("bob", "echo in").1.trim(), "in");
    until("it is told again", || host.ok(&["status"]).contains("stuck"));
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
fn what_a_damaged_file_system_keeps_is_told_and_goes_once_it_is_mended() {
    // Dropped after the host, as above.
    let pool;
    let mut host = Host::new();
    pool = Pool::for_state_of(&host, "512M", &["mkfs.ext4", "-q"]);
    host.declare("alice", "web");
    host.start();
    host.ok(&["apply"]);
    let home = host.path("state/tenants/alice");
    // As a path: what the directory lists would hold it open.
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
    // Names whose inodes the disk has lost: whoever touches one hears of an error.
    for command in &damage {
        let output = pool.unmounted("debugfs", &["-w", "-R", command]);
        assert!(output.status.success(), "{output:?}");
    }
    host.start();
    let output = host.cli(&["delete", "alice", "--purge"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(7) && text.contains("ids stay taken"), "{text}");
    assert!(text.contains("broken") && text.contains("lost") && text.contains("needs cleaning"), "{text}");
    assert!(ledger(&host)["purged"].as_object().is_some_and(|all| all.values().eq([&ids])));
    assert!(host.ok(&["status"]).contains("broken"), "it is told");
    let purged = host.path("state/.purged");
    let left = Command::new("find").arg(&purged).args(["-name", "whole"]).output().expect("find runs");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "all else is gone");
    // Others come and go beside it, and nobody gets its ids.
    host.declare("bob", "web");
    host.ok(&["apply"]);
    assert_ne!(ledger(&host)["tenants"]["bob"]["index"], ids);
    host.ok(&["delete", "bob", "--purge"]);
    host.end();
    // It says by its exit status that it has mended something.
    pool.unmounted("e2fsck", &["-f", "-y"]);
    host.start();
    until("nothing is left", || !purged.exists());
    until("its ids are free", || ledger(&host)["purged"].is_null());
    host.kill();
    drop(pool);
}

#[test]
fn a_warden_answers_before_what_an_earlier_one_set_aside_is_gone() {
    let mut host = Host::new();
    host.declare("alice", "web");
    host.start_warden();
    host.kill();
    // Who asked before it ran is answered first.
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
    assert!(host.path("state/.purged").exists(), "it was silent until all of it was gone");
    until("nothing is left", || !host.path("state/.purged").exists());
}

#[test]
fn what_an_earlier_warden_set_aside_keeps_the_ids_that_its_tenant_has() {
    // As it is when the warden was killed between the two.
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
fn a_purge_on_a_full_disk_makes_room_and_is_whole() {
    // Dropped after the host, which must be able to read what is on it when the test fails.
    let pool;
    let mut host = Host::new();
    pool = Pool::for_state_of(&host, "64M", &["mkfs.ext4", "-q"]);
    host.declare("alice", "web");
    host.start_warden();
    assert_eq!(host.warden(&start("alice")), WardenReply::Done);
    assert_eq!(host.warden(&stop("alice")), WardenReply::Done);
    let ids = ledger(&host)["tenants"]["alice"]["index"].clone();
    // Something set aside before made the place.
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
    // Of btrfs, where each tenant's directory has the same inode. Dropped after the host that is on it.
    let pool = Pool::btrfs();
    let mut host = Host::within(pool.path());
    host.start_warden();
    let mut taken = Vec::new();
    for round in 0..2 {
        host.declare("alice", "web");
        assert_eq!(host.warden(&start("alice")), WardenReply::Done);
        assert_eq!(host.warden(&stop("alice")), WardenReply::Done);
        taken.push(ledger(&host)["tenants"]["alice"]["index"].clone());
        // What holds another subvolume is not removed as a whole.
        let inner = host.path("state/tenants/alice/home/inner");
        run("btrfs", &["-q", "subvolume", "create"], &inner);
        std::mem::forget(Immutable::new(inner.join("stuck")));
        std::fs::remove_file(host.path("etc/tenants.d/alice.toml")).expect("removes");
        let reply = host.ask(&WardenRequest::Purge { tenant: name("alice") }).expect("an answer");
        assert!(said(&reply).contains("ids stay taken"), "round {round}: {reply:?}");
        let purged = ledger(&host)["purged"].clone();
        let held: Vec<_> = purged.as_object().expect("some").values().cloned().collect();
        assert_eq!(held, taken, "round {round}: {purged}");
    }
    // What was set aside without a row in the ledger has the ids that its name tells.
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
fn a_look_at_all_tenants_opens_nothing_of_a_jail() {
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
    // Somebody else may look through all directories of the machine meanwhile, and opens no file.
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
    // What is told is the kernel's word all the same, whoever froze it.
    std::fs::write(group.join("cgroup.freeze"), "1").expect("writes");
    assert!(roster(&host)["alice"].frozen);
    assert_eq!(opens(), 1, "an open is heard of");
    std::fs::write(group.join("cgroup.freeze"), "0").expect("writes");
    assert!(!roster(&host)["alice"].frozen);
    host.warden(&stop("alice"));
}

#[test]
fn a_process_of_an_ftp_server_is_ended_with_what_it_has_started() {
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
    // Both are in the group: whoever is started there is.
    let enter = format!("echo $$ > {}/cgroup.procs; sleep 1000 & wait", group.display());
    let mut server = Command::new("sh").args(["-c", &enter]).spawn().expect("runs");
    let processes = || match host.warden(&WardenRequest::FtpProcesses { tenant: Some(name("alice")) }) {
        WardenReply::FtpProcesses(all) => all,
        other => panic!("{other:?}"),
    };
    until("it is in, and has started another", || processes().len() == 2);
    let is_server = |process: &FtpProcess| process.pid == server.id();
    let process = processes().into_iter().find(is_server).expect("it is in");
    let other = FtpProcess { started: process.started + 1, ..process.clone() };
    let refused = host.ask(&WardenRequest::EndFtp { process: other }).expect("an answer");
    assert!(said(&refused).contains("in no session"), "{refused:?}");
    // It is this test's child, and so not gone before it is waited for.
    let ending = Asked::new(&host, &WardenRequest::EndFtp { process });
    assert_eq!(server.wait().expect("ends").signal(), Some(9));
    assert_eq!(ending.reply(), WardenReply::Done);
    until("what it has started is gone", || processes().is_empty());
    host.warden(&stop("alice"));
}
