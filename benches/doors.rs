//! Benchmarks of the doors: the login shell as sshd starts it, and a complete login through a real sshd with and
//! without it.
//!
//! Danger: sshd needs users that the host does not have. They are in a copy of `/etc/passwd` that is mounted over
//! it only in the mount namespace of this program.

use crate::peers::{command, run};
use crate::rounds::{Subject, time};
use bailiwick_tests::{Host, stage};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The command that a login runs.
pub(crate) const COMMAND: &str = "true";
/// A user of the host that is no tenant.
const PLAIN: &str = "plain";
const PRIVILEGES: &str = "/run/sshd";

/// The login shell of a tenant's host user.
pub(crate) struct Shell<'a> {
    host: &'a Host,
    program: PathBuf,
    user: u32,
}

impl<'a> Shell<'a> {
    pub(crate) fn new(host: &'a Host, tenant: &str) -> Self {
        let shown: serde_json::Value = serde_json::from_str(&host.ok(&["show", tenant, "--json"])).expect("JSON");
        let user = shown["host_user"].as_u64().and_then(|user| u32::try_from(user).ok()).expect("a host user");
        // Other users may have no access to the directory of the programs.
        let program = host.path("bin/bailiwick-shell");
        fs::create_dir_all(host.path("bin")).expect("mkdir");
        fs::copy(stage().join("bailiwick-shell"), &program).expect("copies");
        Self { host, program, user }
    }

    /// The login shell as sshd starts it.
    pub(crate) fn alone(&self) -> Subject<'_> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.host.path("etc")).args(["-c", COMMAND]);
        command.uid(self.user).gid(self.user).stdin(Stdio::null()).stdout(Stdio::null());
        Subject::one("bailiwick-shell", move || time(|| run(&mut command)))
    }
}

/// An sshd on a free port of the loopback interface, with one user of the host and one of a tenant.
pub(crate) struct Sshd<'a> {
    host: &'a Host,
    child: Child,
    port: u16,
}

impl<'a> Sshd<'a> {
    pub(crate) fn new(host: &'a Host, shell: &Shell<'_>, tenant: &str) -> Self {
        let path = |below: &str| host.path(&format!("sshd/{below}")).display().to_string();
        fs::create_dir_all(host.path("sshd")).expect("mkdir");
        for key in ["host", "key"] {
            run(&mut command(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path(key)]));
        }
        let (program, etc) = (shell.program.display(), host.path("etc"));
        let users = fs::read_to_string("/etc/passwd").expect("passwd");
        let (user, plain) = (shell.user, shell.user + 1);
        // The login shell would use the installed policy, so another shell starts it with this host's.
        let users = format!(
            "{users}sshd:x:64996:65534::{PRIVILEGES}:/usr/sbin/nologin\n{tenant}:x:{user}:{user}::/:/bin/sh\n\
             {PLAIN}:x:{plain}:{plain}::/:/bin/bash\n"
        );
        host.write("sshd/passwd", &users);
        run(&mut command(&["mount", "--bind", &path("passwd"), "/etc/passwd"]));
        fs::create_dir_all(PRIVILEGES).expect("mkdir");
        fs::set_permissions(PRIVILEGES, fs::Permissions::from_mode(0o755)).expect("chmod");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {}\nPasswordAuthentication no\nMaxStartups 100\n\
             Match User {tenant}\n  ForceCommand {program} --config {}\n",
            path("host"),
            path("key.pub"),
            etc.display()
        );
        host.write("sshd/config", &text);
        let sshd = std::env::var("BAILIWICK_SSHD").unwrap_or_else(|_| "/usr/sbin/sshd".to_owned());
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f", &path("config")]).stdin(Stdio::null());
        let log = fs::File::create(host.path("sshd/log")).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("sshd runs");
        let sshd = Self { host, child, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !sshd.client(tenant).status().expect("ssh runs").success() {
            let log = fs::read_to_string(host.path("sshd/log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "no login succeeds:\n{log}\n{}", host.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        sshd
    }

    fn client(&self, user: &str) -> Command {
        let key = self.host.path("sshd/key").display().to_string();
        let mut command = command(&["ssh", "-F", "none", "-i", &key, "-p", &self.port.to_string()]);
        for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
            command.args(["-o", option]);
        }
        command.args([&format!("{user}@127.0.0.1"), COMMAND]);
        command
    }

    /// A login of a user of the host, whose shell runs the command directly.
    pub(crate) fn plain(&self) -> Subject<'_> {
        let mut command = self.client(PLAIN);
        Subject::one("ssh, a user of the host", move || time(|| run(&mut command)))
    }

    /// A login of a tenant.
    pub(crate) fn through(&self, tenant: &str) -> Subject<'_> {
        let mut command = self.client(tenant);
        Subject::one("ssh, through the door", move || time(|| run(&mut command)))
    }
}

impl Drop for Sshd<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        command(&["umount", "/etc/passwd"]).status().ok();
        // Fails if it belongs to another program, because it is in use then.
        fs::remove_dir(PRIVILEGES).ok();
    }
}
