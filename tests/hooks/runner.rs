//! `bailiwick-hooks` as the service manager starts it.

use crate::{HOOKS, NOTIFY};
use bailiwick_tests::{Host, copy_program, stage, until};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The runner, until this is dropped.
#[derive(Debug)]
pub(crate) struct Runner {
    child: Child,
    log: PathBuf,
}

impl Runner {
    /// Starts it with a socket that root and the group of `bailiwick-notify` may connect to.
    pub(crate) fn start(host: &Host) -> Self {
        Self::start_as(host, HOOKS, &[])
    }

    /// Starts it as a user, by a command that executes what follows, such as `env` or `prlimit`.
    pub(crate) fn start_as(host: &Host, uid: u32, wrapper: &[&str]) -> Self {
        let program = host.path("bin/bailiwick-hooks");
        copy_program(&stage().join("bailiwick-hooks"), &program);
        std::fs::create_dir_all(host.path("run")).expect("mkdir");
        let socket = host.path("run/hooks.sock");
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).expect("binds");
        std::os::unix::fs::chown(&socket, None, Some(NOTIFY)).expect("chown");
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o660)).expect("chmod");
        let log = host.path("hooks.log");
        let mut command = Command::new("sh");
        let uid = uid.to_string();
        // And a descriptor that whoever started it has left open.
        command.args(["-c", "exec 9< /etc/shadow; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"", "sh"]);
        command.args(wrapper).args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
        command.arg(program).arg("--config").arg(host.path("etc"));
        // A hook must see nothing of it.
        command.env("SECRET_OF_THE_RUNNER", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a log"));
        bailiwick_sys::process::inherit(&mut command, &[listener.as_fd()]).expect("inherits");
        let child = command.spawn().expect("runs");
        let runner = Self { child, log };
        drop(listener);
        let comm = format!("/proc/{}/comm", runner.pid());
        until("it runs", || std::fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "bailiwick-hooks"));
        runner
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end, and returns its exit status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        self.child.wait().expect("wait").code()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It ends its hooks itself.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}
