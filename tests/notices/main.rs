//! Notices: what real jails use becomes mail, once and in order, whatever `sendmail` does and whoever is killed meanwhile.

mod mailbox;
mod rights;
mod told;
mod trouble;

use bailiwick_tests::Host;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The user that `bailiwick-notify` runs as. Each host has one of its own, so that no test can end programs of another.
fn next_user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(65_060);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// In place of `sendmail`: keeps each message in a folder, whose name ends in `.done` when it is whole. A file `first` beside it is
/// run before, and a file `last` after.
const RECORDER: &str = r#"#!/bin/sh
dir=@DIR@
[ ! -e $dir/first ] || . $dir/first
out=$(mktemp -d $dir/got/XXXXXXXX)
printf '%s\n' "$@" > $out/arguments
cat > $out/message
mv $out $out.done
[ ! -e $dir/last ] || . $dir/last
"#;

/// A host whose `sendmail` is a script.
struct Mail {
    host: Host,
    user: u32,
    dir: PathBuf,
}

/// What `sendmail` got once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    arguments: Vec<String>,
    message: String,
}

impl Got {
    fn to(&self) -> &str {
        self.arguments.last().map_or("", String::as_str)
    }

    /// A line of the head.
    fn header(&self, name: &str) -> &str {
        let head = self.message.split("\n\n").next().unwrap_or_default();
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
    }
}

impl Mail {
    /// `rules` are `[[notice]]` of the host, and `tenant` is the end of alice's file. Nothing runs yet.
    fn new(rules: &str, tenant: &str) -> Self {
        let host = Host::new();
        let (dir, user) = (host.path("mail"), next_user());
        fs::create_dir_all(dir.join("got")).expect("mkdir");
        fs::set_permissions(dir.join("got"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        let mail = Self { user, dir, host };
        mail.sendmail(RECORDER);
        mail.rules(rules);
        mail.host.write("etc/tenants.d/alice.toml", &format!("plan = \"web\"\n{tenant}"));
        mail
    }

    /// Writes `bailiwick.toml` with these rules.
    fn rules(&self, rules: &str) {
        let more = format!(
            "mail = {{ command = {:?}, domain = \"host.example\" }}\nnotices = {{ user = \"{}\", every = \"1s\" }}\n\
             metrics = {{ cache = \"1s\" }}\n[contact]\nmail = [\"ops@example.org\"]\n{rules}",
            self.dir.join("sendmail"),
            self.user
        );
        self.host.write("etc/bailiwick.toml", &self.host.default_config(&more));
    }

    /// Puts another script in place of `sendmail`, in one step.
    fn sendmail(&self, script: &str) {
        let new = self.dir.join("sendmail.new");
        bailiwick_tests::write_program(&new, &script.replace("@DIR@", &self.dir.display().to_string()));
        fs::rename(&new, self.dir.join("sendmail")).expect("renames");
    }

    /// Writes a script that is run before or after each message.
    fn hook(&self, name: &str, script: &str) {
        fs::write(self.dir.join(name), script).expect("writes");
    }

    /// Everything that `sendmail` has got, the oldest first.
    fn got(&self) -> Vec<Got> {
        let done = |path: &PathBuf| path.extension().is_some_and(|end| end == "done");
        let mut folders: Vec<PathBuf> = fs::read_dir(self.dir.join("got"))
            .expect("lists")
            .flatten()
            .map(|entry| entry.path())
            .filter(done)
            .collect();
        folders.sort_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
        let read = |folder: &Path| Got {
            arguments: fs::read_to_string(folder.join("arguments"))
                .expect("reads")
                .lines()
                .map(str::to_owned)
                .collect(),
            message: fs::read_to_string(folder.join("message")).expect("reads"),
        };
        folders.iter().map(|folder| read(folder)).collect()
    }

    /// How many processes the user of `bailiwick-notify` has.
    fn processes(&self) -> usize {
        let uids = format!("\nUid:\t{0}\t{0}\t{0}\t{0}\n", self.user);
        let all = fs::read_dir("/proc").expect("lists").flatten();
        let is_its = |path: PathBuf| fs::read_to_string(path.join("status")).is_ok_and(|status| status.contains(&uids));
        all.filter(|entry| is_its(entry.path())).count()
    }

    /// Waits until something is so, and says what the log has if it does not come.
    #[track_caller]
    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(90);
        while !is_so(self) {
            assert!(std::time::Instant::now() < deadline, "waited for: {what}\n{:#?}\n{}", self.got(), self.host.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Lets alice have forty processes for as long as the returned session lives. Her jail may have to start first.
    #[track_caller]
    fn busy(&self) -> std::process::Child {
        self.busy_with(40)
    }

    /// The same with as many processes.
    #[track_caller]
    fn busy_with(&self, count: u32) -> std::process::Child {
        self.until("alice's jail runs", |mail| mail.host.cli(&["exec", "alice", "--", "/bin/true"]).status.success());
        let line = format!("for i in $(seq {count}); do sleep 1000 & done; wait");
        self.host.command(&["exec", "alice", "--", "/bin/sh", "-c", &line]).spawn().expect("runs")
    }

    /// Waits until `bailiwick-notify` answers.
    #[track_caller]
    fn until_it_answers(&self) {
        self.until("bailiwick-notify answers", |mail| {
            mail.host.cli(&["notices", "list"]).status.success() && mail.host.cli(&["notices", "dead"]).status.success()
        });
    }
}
