//! The peers, each as it is normally used: a command that is started and waited for. All use the host's `/usr`.

use crate::rounds::{Subject, time, try_time};
use bailiwick_tests::Host;
use rustix::thread::LinkNameSpaceType;
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A dynamically linked program, on the host and inside.
pub(crate) const DYNAMIC: &str = "/bin/true";
/// A static program, inside.
pub(crate) const STATIC: &str = "/srv/static";
/// Source of the static program: it ends at once and has no start-up code.
const PAYLOAD: &str = "void _start(void) { __asm__ volatile(\"xor %edi, %edi\\n\\tmov $60, %eax\\n\\tsyscall\"); }\n";
/// Symlinks to directories of `/usr` in a merged system.
const LINKS: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// The limits of the tenants of the test host.
const MEMORY: u64 = 128 << 20;
const TASKS: u64 = 64;

/// The peers, and the directory with their root, bundles and state.
#[derive(Debug)]
pub(crate) struct Peers<'a> {
    host: &'a Host,
    payload: PathBuf,
    root: PathBuf,
    here: File,
    /// A mount namespace with only one version of control groups: crun refuses both at once.
    plain: File,
}

/// A container of crun that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    peers: &'a Peers<'a>,
    id: String,
}

/// The same of runc.
#[derive(Debug)]
pub(crate) struct RuncContainer<'a> {
    peers: &'a Peers<'a>,
    id: String,
}

/// The same of LXC.
#[derive(Debug)]
pub(crate) struct LxcContainer<'a> {
    peers: &'a Peers<'a>,
    id: String,
}

impl<'a> Peers<'a> {
    /// Builds the static program and the root.
    pub(crate) fn new(host: &'a Host) -> Self {
        host.write("peers/static.c", PAYLOAD);
        let root = host.path("peers/root");
        for below in ["usr", "proc", "dev", "tmp", "srv"] {
            fs::create_dir_all(root.join(below)).expect("mkdir");
        }
        for link in LINKS {
            symlink(format!("usr/{link}"), root.join(link)).expect("symlink");
        }
        let payload = root.join("srv/static");
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-nostdlib", "-Os", "-s", "-o"]).args([&payload, &host.path("peers/static.c")]);
        run(&mut compiler);
        fs::set_permissions(&payload, fs::Permissions::from_mode(0o755)).expect("chmod");
        let here = File::open("/proc/self/ns/mnt").expect("own mount namespace");
        let peers = Self { host, payload, root, here, plain: plain_groups() };
        for (bundle, program) in [("static", STATIC), ("dynamic", DYNAMIC)] {
            peers.write_bundle(bundle, &[program]);
        }
        peers.write_bundle("sleeping", &["/bin/sleep", "infinity"]);
        peers
    }

    /// The path of the static program on the host.
    pub(crate) fn payload(&self) -> &Path {
        &self.payload
    }

    fn write_bundle(&self, name: &str, argv: &[&str]) {
        let ids = json!([{ "containerID": 0, "hostID": self.host.ids().start, "size": 65_536 }]);
        let namespaces =
            ["pid", "network", "ipc", "uts", "mount", "cgroup", "user"].map(|kind| json!({ "type": kind }));
        let capabilities =
            json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]);
        let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
        let config = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": argv, "env": ["PATH=/usr/bin:/bin"], "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            },
            "root": { "path": self.root, "readonly": true },
            "hostname": "bench",
            "mounts": [
                mount("/usr", "bind", "/usr", &["bind", "ro"]),
                mount("/proc", "proc", "proc", &["nosuid", "nodev", "noexec"]),
                mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755", "size=65536"]),
                mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev"]),
            ],
            "linux": {
                "uidMappings": ids, "gidMappings": ids, "namespaces": namespaces,
                "resources": { "memory": { "limit": MEMORY }, "pids": { "limit": TASKS } },
            },
        });
        self.host.write(&format!("peers/{name}/config.json"), &config.to_string());
    }

    /// Runs a function in the mount namespace with one version of control groups.
    fn in_plain<T>(&self, run: impl FnOnce() -> T) -> T {
        let enter = |namespace: &File| {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
                .expect("root may enter its own mount namespaces");
        };
        enter(&self.plain);
        let result = run();
        enter(&self.here);
        result
    }

    pub(crate) fn native_command(&self, argv: &[&str]) -> Command {
        command(argv)
    }

    pub(crate) fn floor_command(&self) -> Command {
        let itself = std::env::current_exe().expect("own path");
        let mut command = command(&[itself.to_str().expect("text"), crate::floor::VERB]);
        command.args([self.root.as_os_str(), STATIC.as_ref()]).arg(self.host.ids().start.to_string());
        command
    }

    pub(crate) fn unshare_command(&self, program: &str) -> Command {
        let kinds = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork"];
        let mut command = command(&["unshare"]);
        command.args(kinds).arg(program);
        command
    }

    pub(crate) fn bwrap_command(&self, program: &str) -> Command {
        let mut command = command(&["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr"]);
        for link in LINKS {
            command.args(["--symlink".to_owned(), format!("usr/{link}"), format!("/{link}")]);
        }
        command.arg("--ro-bind").arg(self.root.join("srv")).arg("/srv");
        command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", program]);
        command
    }

    pub(crate) fn crun_command(&self, id: &str, program: &str) -> Command {
        let bundle = if program == STATIC { "static" } else { "dynamic" };
        let mut command = self.crun_verb("run");
        command.arg("--bundle").arg(self.host.path("peers").join(bundle)).arg(self.id(id));
        command
    }

    fn crun_verb(&self, verb: &str) -> Command {
        let mut command = command(&["crun", "--root"]);
        command.arg(self.host.path("run/crun")).arg(verb);
        command
    }

    /// A container id that no other run of this program uses.
    fn id(&self, name: &str) -> String {
        format!("bench-{}-{name}", self.host.ids().start)
    }

    pub(crate) fn native<'s>(&'s self, name: &str, argv: &[&str]) -> Subject<'s> {
        let mut command = self.native_command(argv);
        Subject::one(name, move || time(|| run(&mut command)))
    }

    pub(crate) fn floor(&self) -> Subject<'_> {
        let mut command = self.floor_command();
        Subject::one("floor, static", move || time(|| run(&mut command)))
    }

    pub(crate) fn unshare(&self, name: &str, program: &str) -> Subject<'_> {
        let mut command = self.unshare_command(program);
        Subject::peer(name, move || try_time(|| try_run(&mut command)))
    }

    pub(crate) fn bwrap(&self, name: &str, program: &str) -> Subject<'_> {
        let mut command = self.bwrap_command(program);
        Subject::peer(name, move || try_time(|| try_run(&mut command)))
    }

    pub(crate) fn crun(&self, name: &str, program: &str) -> Subject<'_> {
        let mut command = self.crun_command("run", program);
        Subject::peer(name, move || self.in_plain(|| try_time(|| try_run(&mut command))))
    }

    /// A container that is started and later stopped, comparable with start and stop of a jail.
    pub(crate) fn crun_phases(&self) -> Subject<'_> {
        let id = self.id("phases");
        let mut start = self.crun_verb("run");
        start.arg("--detach").arg("--bundle").arg(self.host.path("peers/sleeping")).arg(&id);
        let mut stop = self.crun_verb("delete");
        stop.args(["--force", &id]);
        let names = ["start and stop", "start", "stop"].map(|phase| format!("crun, detached: {phase}"));
        let run = move || {
            self.in_plain(|| {
                let started = try_time(|| try_run(&mut start))?;
                let stopped = try_time(|| try_run(&mut stop))?;
                Ok(vec![started + stopped, started, stopped])
            })
        };
        Subject { names: names.to_vec(), run: Box::new(run) }
    }

    /// Starts many commands, then waits for all; the time of each is the total divided by their number.
    pub(crate) fn at_once<'s>(&'s self, name: &str, count: usize, make: impl Fn(usize) -> Command) -> Subject<'s> {
        let mut commands: Vec<Command> = (0..count).map(make).collect();
        Subject::peer(name, move || {
            let whole = self.in_plain(|| {
                try_time(|| {
                    let mut children = Vec::new();
                    let mut failure = None;
                    for command in &mut commands {
                        match command.spawn() {
                            Ok(child) => children.push(child),
                            Err(error) => failure = Some(format!("{command:?}: {error}")),
                        }
                    }
                    // Waits for all of them, also after a failure.
                    for mut child in children {
                        let status = child.wait().expect("waits");
                        if !status.success() {
                            failure = Some(format!("one of them: {status}"));
                        }
                    }
                    failure.map_or(Ok(()), Err)
                })
            })?;
            Ok(whole / u32::try_from(count).expect("a few"))
        })
    }

    pub(crate) fn nsenter(&self, pid: u32, argv: &[&str]) -> Subject<'_> {
        let mut command = command(&["nsenter", "--target", &pid.to_string(), "--all"]);
        command.args(argv);
        Subject::peer("nsenter", move || try_time(|| try_run(&mut command)))
    }

    /// A running container.
    pub(crate) fn container(&self) -> Result<Container<'_>, String> {
        let id = self.id("entered");
        let mut start = self.crun_verb("run");
        start.arg("--detach").arg("--bundle").arg(self.host.path("peers/sleeping")).arg(&id);
        self.in_plain(|| try_run(&mut start))?;
        Ok(Container { peers: self, id })
    }

    pub(crate) fn crun_exec<'s>(&'s self, container: &Result<Container<'_>, String>, argv: &[&str]) -> Subject<'s> {
        let container = match container {
            Ok(container) => container,
            Err(why) => return failed("crun exec", why),
        };
        let mut command = self.crun_verb("exec");
        command.arg(&container.id).args(argv);
        Subject::peer("crun exec", move || self.in_plain(|| try_time(|| try_run(&mut command))))
    }

    /// The same with `runc`.
    pub(crate) fn runc_container(&self) -> Result<RuncContainer<'_>, String> {
        let id = self.id("runc");
        let mut start = self.runc_verb("run");
        start.arg("--detach").arg("--bundle").arg(self.host.path("peers/sleeping")).arg(&id);
        self.in_plain(|| try_run(&mut start))?;
        Ok(RuncContainer { peers: self, id })
    }

    pub(crate) fn runc_exec<'s>(&'s self, container: &Result<RuncContainer<'_>, String>, argv: &[&str]) -> Subject<'s> {
        let container = match container {
            Ok(container) => container,
            Err(why) => return failed("runc exec", why),
        };
        let mut command = self.runc_verb("exec");
        command.arg(&container.id).args(argv);
        Subject::peer("runc exec", move || self.in_plain(|| try_time(|| try_run(&mut command))))
    }

    /// The same with LXC, which supports both versions of control groups at once.
    pub(crate) fn lxc_container(&self) -> Result<LxcContainer<'_>, String> {
        let id = self.id("lxc");
        let root = self.root.display();
        let ids = format!("0 {} 65536", self.host.ids().start);
        let config = format!(
            "lxc.rootfs.path = dir:{root}\nlxc.uts.name = bench\nlxc.net.0.type = empty\n\
             lxc.idmap = u {ids}\nlxc.idmap = g {ids}\n\
             lxc.mount.entry = /usr usr none bind,ro 0 0\nlxc.mount.entry = proc proc proc nosuid,nodev,noexec 0 0\n\
             lxc.mount.entry = tmpfs tmp tmpfs nosuid,nodev 0 0\nlxc.autodev = 1\nlxc.console.path = none\n\
             lxc.cap.keep = chown dac_override fowner kill setgid setuid\nlxc.no_new_privs = 1\n\
             lxc.cgroup.dir.monitor = {id}-monitor\nlxc.cgroup.dir.monitor.pivot = {id}-pivot\n\
             lxc.cgroup.dir.container = {id}-jail\nlxc.cgroup.dir.container.inner = inner\n\
             lxc.init.cmd = /bin/sleep infinity\n"
        );
        self.host.write("peers/lxc/config", &config);
        let container = LxcContainer { peers: self, id };
        let mut start = self.lxc_verb("lxc-start", &container.id);
        start.arg("-d").arg("-f").arg(self.host.path("peers/lxc/config"));
        try_run(&mut start)?;
        Ok(container)
    }

    pub(crate) fn lxc_attach<'s>(&'s self, container: &Result<LxcContainer<'_>, String>, argv: &[&str]) -> Subject<'s> {
        let container = match container {
            Ok(container) => container,
            Err(why) => return failed("lxc-attach", why),
        };
        let mut command = self.lxc_verb("lxc-attach", &container.id);
        command.args(["--clear-env", "--"]).args(argv);
        Subject::peer("lxc-attach", move || try_time(|| try_run(&mut command)))
    }

    fn lxc_verb(&self, program: &str, id: &str) -> Command {
        let mut command = command(&[program, "-n", id, "-P"]);
        command.arg(self.host.path("peers/lxc"));
        command
    }

    fn runc_verb(&self, verb: &str) -> Command {
        let mut command = command(&["runc", "--root"]);
        command.arg(self.host.path("run/runc")).arg(verb);
        command
    }

    /// Removes what a failure left; otherwise there is nothing to remove.
    fn end(&self, id: &str) {
        let mut stop = self.crun_verb("delete");
        stop.args(["--force", id]).stderr(Stdio::null());
        self.in_plain(|| stop.status().ok());
    }
}

impl Drop for Peers<'_> {
    fn drop(&mut self) {
        let Ok(left) = fs::read_dir(self.host.path("run/crun")) else { return };
        for entry in left.flatten() {
            self.end(&entry.file_name().to_string_lossy());
        }
    }
}

impl Drop for LxcContainer<'_> {
    fn drop(&mut self) {
        let mut stop = self.peers.lxc_verb("lxc-stop", &self.id);
        stop.arg("-k").stderr(Stdio::null()).status().ok();
        // It leaves its control groups behind, and for a moment its monitor in one of them.
        let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
        let hierarchies: Vec<PathBuf> = hierarchies.flatten().map(|hierarchy| hierarchy.path()).collect();
        for _ in 0..100 {
            let groups = ["jail/inner", "jail", "monitor", "pivot/lxc.pivot", "pivot"]
                .map(|group| format!("{}-{group}", self.id));
            let each = hierarchies.iter().flat_map(|hierarchy| groups.iter().map(|group| hierarchy.join(group)));
            let busy = each.filter(|group| group.exists() && fs::remove_dir(group).is_err()).count();
            if busy == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for RuncContainer<'_> {
    fn drop(&mut self) {
        let mut stop = self.peers.runc_verb("delete");
        stop.args(["--force", &self.id]).stderr(Stdio::null());
        self.peers.in_plain(|| stop.status().ok());
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.peers.end(&self.id);
    }
}

pub(crate) fn command(argv: &[&str]) -> Command {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A peer whose container could not be created.
fn failed(name: &str, why: &str) -> Subject<'static> {
    let why = why.to_owned();
    Subject::peer(name, move || Err(why.clone()))
}

/// Runs a peer, which may be missing or fail on this machine.
fn try_run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

pub(crate) fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// A mount namespace like that of this program, but with one version of control groups. It exists as long as it is
/// held.
fn plain_groups() -> File {
    let script = "[ \"$(stat -fc %T /sys/fs/cgroup)\" = cgroup2fs ] || umount -a -t cgroup2; echo ready; read -r end";
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
    assert_eq!(line, "ready\n", "no mount namespace with one version of control groups");
    let namespace = File::open(format!("/proc/{}/ns/mnt", child.id())).expect("its namespace");
    drop(child.stdin.take());
    child.wait().expect("waits");
    namespace
}
