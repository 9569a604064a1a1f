//! Notices, for `--standalone`: `bailiwick-notify` beside the other programs, once the policy tells anybody of anything.

use super::beside::{MakeCommand, Purpose};
use super::{hooks, user};
use bailiwick_policy::{Host, Store};
use bailiwick_proto::NOTIFY_DIR;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Notices, and what hooks and webhooks are told.
pub(super) struct Notices {
    program_path: PathBuf,
    config: PathBuf,
    store: Store,
    /// The fingerprint of the policy that was read last, if it told nobody of anything.
    nobody: Option<u64>,
}

impl Notices {
    /// `program_path` is `bailiwick-notify`.
    pub(super) fn new(program_path: PathBuf, config: &Path) -> Self {
        Self { program_path, config: config.to_owned(), store: Store::new(config), nobody: None }
    }
}

impl Purpose for Notices {
    const NAME: &'static str = "bailiwick-notify";
    const LOSS: &'static str = "nobody is told of anything";

    /// Reads the policy, if any of its files changed, and returns whether it tells anybody of anything.
    fn is_wanted(&mut self) -> bool {
        if ["hooks.d", "webhooks.d"].iter().any(|folder| hooks::has_files(&self.config.join(folder))) {
            return true;
        }
        let fingerprint = bailiwick_policy::fingerprint(&self.config);
        if self.nobody == Some(fingerprint) {
            return false;
        }
        let tells = self.store.read().policy.is_some_and(|policy| policy.gives_notices());
        self.nobody = (!tells).then_some(fingerprint);
        tells
    }

    fn prepare(&mut self) -> Result<MakeCommand, String> {
        let (host, _) = self.store.host().map_err(|problems| bailiwick_diagnostics::render(&problems))?;
        let (uid, gid) = user(&host.notices.user).map_err(|ended| ended.message)?;
        make_directories(&host, uid, gid)?;
        let (path, config) = (self.program_path.clone(), self.config.clone());
        Ok(Box::new(move || {
            let mut command = Command::new(&path);
            command.arg("--config").arg(&config).env_clear().current_dir("/").uid(uid).gid(gid);
            command
        }))
    }
}

/// Makes its directories for the socket and for the deliveries, which only its user and root enter.
fn make_directories(host: &Host, uid: u32, gid: u32) -> Result<(), String> {
    for dir in [host.runtime_dir.join(NOTIFY_DIR), host.state_dir.join(NOTIFY_DIR)] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        let made = made.and_then(|()| chown(&dir, Some(uid), Some(gid)));
        made.map_err(|error| format!("cannot make \"{}\": {error}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::beside::Beside;
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::time::{Duration, Instant};

    /// A host whose `bailiwick-notify` is a script that notes its user and waits.
    fn host(rules: &str) -> (tempfile::TempDir, Beside<Notices>) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let real = temp.path().canonicalize().expect("real path");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).expect("chmod");
        let path = |name: &str| real.join(name);
        for folder in ["etc/tenants.d", "etc/plans.d", "run", "state"] {
            fs::create_dir_all(path(folder)).expect("mkdir");
        }
        let own = rustix::process::geteuid().as_raw();
        // Root may become anybody. Somebody else stays who they are.
        let user = if own == 0 { 64_996 } else { own };
        let toml = format!(
            "state_dir = {:?}\nruntime_dir = {:?}\nnotices = {{ user = \"{user}\" }}\n[contact]\nmail = [\"a@b\"]\n{rules}",
            path("state"),
            path("run")
        );
        fs::write(path("etc/bailiwick.toml"), toml).expect("writes");
        fs::write(path("etc/plans.d/p.toml"), "").expect("writes");
        fs::write(path("etc/tenants.d/alice.toml"), "plan = \"p\"\n").expect("writes");
        let script = format!("#!/bin/sh\nid -u > {0}/state/notify/uid\nexec sleep 60\n", real.display());
        fs::write(path("notify"), script).expect("writes");
        fs::set_permissions(path("notify"), fs::Permissions::from_mode(0o755)).expect("chmod");
        (temp, Beside::new(Notices::new(path("notify"), &path("etc"))))
    }

    fn until(notices: &mut Beside<Notices>, what: &str, mut is_so: impl FnMut(&Beside<Notices>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(notices) {
            assert!(Instant::now() < deadline, "waited for: {what}; {:?}", notices.told);
            notices.look();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    const RULE: &str = "[[notice]]\nresource = \"tasks\"\nat = [\"90%\"]\nto = [\"admin\"]\n";

    #[test]
    fn it_runs_as_its_own_user_once_somebody_is_told_of_something() {
        let (temp, mut notices) = host("");
        notices.look();
        assert!(notices.program.is_none() && notices.purpose.nobody.is_some());
        let file = temp.path().join("etc/bailiwick.toml");
        let text = fs::read_to_string(&file).expect("reads");
        fs::write(&file, text + RULE).expect("writes");
        let uid = temp.path().join("state/notify/uid");
        let read = || fs::read_to_string(&uid).ok().filter(|text| text.ends_with('\n'));
        until(&mut notices, "it runs", |_| read().is_some());
        let owner = fs::metadata(temp.path().join("run/notify")).expect("is there");
        assert_eq!(owner.mode() & 0o777, 0o700);
        assert_eq!(read().expect("is there").trim(), owner.uid().to_string());
        // It is started again when it dies.
        fs::remove_file(&uid).expect("removes");
        notices.program.as_mut().and_then(|program| program.child.as_mut()).expect("runs").kill().expect("kills");
        until(&mut notices, "it runs again", |_| read().is_some());
        notices.end();
    }

    #[test]
    fn a_failure_is_told_once_and_tried_again() {
        let (_temp, mut notices) = host(RULE);
        let path = std::mem::replace(&mut notices.purpose.program_path, PathBuf::from("/nonexistent/notify"));
        until(&mut notices, "three failures", |notices| notices.failures == 3);
        assert!(notices.told.as_ref().is_some_and(|told| told.contains("cannot start bailiwick-notify")));
        notices.purpose.program_path = path;
        notices.next_look = Instant::now();
        until(&mut notices, "it runs", |notices| notices.failures == 0);
        notices.end();
    }
}
