//! Logins by FTP: real servers with the shipped configuration, real clients, and what a session can reach, use and
//! leave behind.
//!
//! A server runs in a mount namespace where `/etc/pam.d` is the test's. If a server is not installed, the test
//! prints its name; the virtual machine has both.

use bailiwick_tests::{Host, profiles, stage, until};
use serde_json::Value;
use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const PASSWORD: &str = "open sesame";

/// Whether a program is installed. If not, prints its name directly to standard error, because the test harness
/// captures `eprintln!`.
fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).exists())
    });
    if !found {
        drop(writeln!(std::io::stderr(), "{program} is not installed here: this test runs in the virtual machine"));
    }
    found
}

/// The hash that `bailiwick password` prints.
fn hash(password: &str) -> String {
    let mut child = Command::new(stage().join("bailiwick"))
        .arg("password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bailiwick runs");
    child.stdin.take().expect("a pipe").write_all(format!("{password}\n").as_bytes()).expect("writes");
    let output = child.wait_with_output().expect("ends");
    assert_success(&output).trim_end().to_owned()
}

/// A host with a tenant of each profile and two logins for each: its home, and a directory with at most one
/// session.
fn host() -> Host {
    let mut host = Host::new();
    let hash = hash(PASSWORD);
    for tenant in profiles() {
        let logins = format!(
            "[[ftp]]\nname = \"all\"\npassword = \"{hash}\"\n\
             [[ftp]]\nname = \"blog\"\npassword = \"{hash}\"\ndirectory = \"www/blog\"\nsessions = 1\n"
        );
        host.write(
            &format!("etc/tenants.d/{tenant}.toml"),
            &format!("plan = \"{tenant}\"\ndoors = [\"exec\", \"ftp\"]\n{logins}"),
        );
    }
    host.start();
    host.ok(&["apply"]);
    for tenant in profiles() {
        host.ok(&["exec", tenant, "--user", tenant, "--", "mkdir", "-p", &format!("/home/{tenant}/www/blog")]);
    }
    host
}

/// A running server.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn certificate(host: &Host) -> (PathBuf, PathBuf) {
    let (key, certificate) = (host.path("ftp/key.pem"), host.path("ftp/certificate.pem"));
    std::fs::create_dir_all(host.path("ftp")).expect("mkdir");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "openssl makes a certificate");
    (key, certificate)
}

const PAM: &str = include_str!("../../config/ftp/pam.d-bailiwick-ftp");
const VSFTPD: &str = include_str!("../../config/ftp/vsftpd.conf");
const PROFTPD: &str = include_str!("../../config/ftp/proftpd.conf");

/// Starts a server where `/etc/pam.d` has the shipped files, with the paths of this host.
fn start(host: &Host, port: u16, command: &str) -> Server {
    let module = stage().join("pam_bailiwick.so");
    let of_host = format!("{} runtime_dir={}", module.display(), host.path("run").display());
    host.write("ftp/pam.d/bailiwick-ftp", &PAM.replace("pam_bailiwick.so", &of_host));
    let script = format!("mount --bind {} /etc/pam.d && exec {command}", host.path("ftp/pam.d").display());
    let log = std::fs::File::create(host.path("ftp/log")).expect("a log");
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("dup"))
        .stderr(log)
        .spawn()
        .expect("unshare runs");
    let mut server = Server { child, port };
    until("the server listens", || {
        let ended = server.child.try_wait().expect("wait");
        let log = || std::fs::read_to_string(host.path("ftp/log")).unwrap_or_default();
        assert!(ended.is_none(), "{command}: {ended:?} {}", log());
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    server
}

/// vsftpd with the shipped configuration and some other settings.
fn vsftpd_with(host: &Host, other: &[(&str, &str)]) -> Server {
    std::fs::create_dir_all(host.path("ftp/empty")).expect("mkdir");
    let port = free_port();
    let (key, certificate) = certificate(host);
    let mut text = VSFTPD.to_owned();
    for (name, value) in [
        ("secure_chroot_dir", host.path("ftp/empty").display().to_string()),
        ("rsa_cert_file", certificate.display().to_string()),
        ("rsa_private_key_file", key.display().to_string()),
    ]
    .into_iter()
    .chain(other.iter().map(|(name, value)| (*name, (*value).to_owned())))
    {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}="))).unwrap_or_else(|| panic!("{name}"));
        text = text.replace(line, &format!("{name}={value}"));
    }
    host.write("ftp/vsftpd.conf", &format!("{text}listen_address=127.0.0.1\nlisten_port={port}\n"));
    start(host, port, &format!("vsftpd {}", host.path("ftp/vsftpd.conf").display()))
}

fn vsftpd(host: &Host) -> Server {
    vsftpd_with(host, &[])
}

fn proftpd(host: &Host) -> Server {
    let port = free_port();
    let (key, certificate) = certificate(host);
    let mut text = PROFTPD.to_owned();
    for (name, value) in [
        ("Port", port.to_string()),
        ("AuthUserFile", host.path("run/control/ftp.passwd").display().to_string()),
        ("TLSRSACertificateFile", certificate.display().to_string()),
        ("TLSRSACertificateKeyFile", key.display().to_string()),
    ] {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
        text = text.replace(line, &format!("{name} {value}"));
    }
    // Without a syslog daemon it does not start, so it writes to a file here.
    text = text.lines().filter(|line| !line.starts_with("SyslogFacility ")).map(|line| format!("{line}\n")).collect();
    let own = |name: &str| host.path(&format!("ftp/{name}")).display().to_string();
    let more = format!(
        "DefaultAddress 127.0.0.1\nPidFile {}\nScoreboardFile {}\nSystemLog {}\n<IfModule mod_ctrls.c>\nControlsEngine off\n</IfModule>\n",
        own("pid"),
        own("scoreboard"),
        own("system-log")
    );
    host.write("ftp/proftpd.conf", &format!("{text}{more}"));
    start(host, port, &format!("proftpd --nodaemon --config {}", own("proftpd.conf")))
}

type Start = fn(&Host) -> Server;

/// The installed servers, with their start functions.
fn servers() -> Vec<Start> {
    let all = [("vsftpd", vsftpd as Start), ("proftpd", proftpd)];
    all.into_iter().filter(|(program, _)| installed(program)).map(|(_, start)| start).collect()
}

/// Sends the commands that it reads, one per line, and prints the replies of the server.
const TALK: &str = r#"
import ftplib, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
ftp = ftplib.FTP_TLS(context=context)
def say(work):
    try:
        print(str(work()).splitlines()[-1], flush=True)
    except (ftplib.Error, OSError, EOFError) as error:
        print(str(error).splitlines()[-1] if str(error) else "gone", flush=True)
def enter():
    ftp.connect("127.0.0.1", int(sys.argv[1]), 30)
    answer = ftp.login(sys.argv[2], sys.argv[3])
    ftp.sendcmd("TYPE I")
    return answer
say(enter)
for line in sys.stdin:
    say(lambda: ftp.sendcmd(line.strip()))
"#;

/// An open session.
struct Talk {
    child: Child,
    answers: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Talk {
    fn new(server: &Server, user: &str) -> Self {
        let port = server.port.to_string();
        let mut child = Command::new("python3")
            .args(["-c", TALK, &port, user, PASSWORD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let answers = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut talk = Self { child, answers };
        let answer = talk.answer();
        assert!(answer.starts_with("230"), "{user}: {answer}");
        talk
    }

    fn answer(&mut self) -> String {
        self.answers.next().expect("an answer").expect("reads")
    }

    fn say(&mut self, command: &str) -> String {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{command}").expect("writes");
        self.answer()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn sessions(host: &Host) -> Vec<Value> {
    let sessions: Value = serde_json::from_str(&host.ok(&["sessions", "--json"])).expect("JSON");
    sessions.as_array().expect("a list").clone()
}

/// Waits for a number of sessions: a server notices the end of its client with a delay.
fn wait_for_sessions(host: &Host, count: usize) -> Vec<Value> {
    let mut now = Vec::new();
    until(&format!("{count} sessions"), || {
        now = sessions(host);
        now.len() == count
    });
    now
}

/// `curl(1)` with TLS 1.2. With TLS 1.3 it resets the connection of an upload before all data is sent, because it
/// does not read the session tickets of the server (vsftpd 3.0.3, curl 7.88).
fn curl(server: &Server, user: &str, password: &str, path: &str, more: &[&str]) -> Output {
    Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--ssl-reqd",
            "--insecure",
            "--tls-max",
            "1.2",
            "--disable-epsv",
            "--max-time",
            "60",
        ])
        .args(["--user", &format!("{user}:{password}")])
        .args(more)
        .arg(format!("ftp://127.0.0.1:{}/{path}", server.port))
        .output()
        .expect("curl runs")
}

fn text(output: &Output) -> String {
    format!(
        "{:?} {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn assert_success(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Checks that a login was refused: `CURLE_LOGIN_DENIED` of `libcurl-errors(3)`.
fn assert_refused(output: &Output) {
    assert_eq!(output.status.code(), Some(67), "{}", text(output));
}

#[test]
fn files_belong_to_the_tenant() {
    for start in servers() {
        let host = host();
        are_the_tenants(&host, &start(&host));
    }
}

/// Written files belong to the login user and count for it; a login locked to its directory sees it as the root.
fn are_the_tenants(host: &Host, server: &Server) {
    let sent = host.path("sent");
    std::fs::write(&sent, vec![7; 300_000]).expect("writes");
    std::fs::set_permissions(&sent, PermissionsExt::from_mode(0o644)).expect("chmod");
    let put = ["--upload-file", sent.to_str().expect("text"), "--ftp-create-dirs"];
    for tenant in profiles() {
        assert_success(&curl(server, &format!("all@{tenant}"), PASSWORD, "a", &put));
        assert_success(&curl(server, &format!("blog@{tenant}"), PASSWORD, "b", &put));
        let stat = ["exec", tenant, "--", "sh", "-c", "cd /home/*/ && stat -c '%u %g %s %n' a www/blog/b"];
        assert_eq!(host.ok(&stat), "1000 1000 300000 a\n1000 1000 300000 www/blog/b\n", "{tenant}");
        let back = curl(server, &format!("blog@{tenant}"), PASSWORD, "b", &[]);
        assert!(back.stdout == std::fs::read(&sent).expect("reads"), "{tenant}: {}", back.stdout.len());
        let listed = assert_success(&curl(server, &format!("blog@{tenant}"), PASSWORD, "", &["--list-only"]));
        assert_eq!(listed, "b\n", "{tenant}");
        for (user, password) in
            [("all", "open sesamE"), ("all", ""), ("nobody", PASSWORD), ("../all", PASSWORD), ("root", PASSWORD)]
        {
            assert_refused(&curl(server, &format!("{user}@{tenant}"), password, "", &[]));
        }
    }
    for user in ["root", "all", "all@", "@web", "all@nobody", "bailiwick"] {
        assert_refused(&curl(server, user, PASSWORD, "", &[]));
    }
    wait_for_sessions(host, 0);
    let log = host.log();
    for part in [
        "event=\"session-opened\"",
        "door=ftp",
        "login=\"blog@web\"",
        "source=\"127.0.0.1\"",
        "event=\"session-refused\"",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn a_session_is_known_counted_audited_and_ended() {
    for start in servers() {
        is_known_counted_audited_and_ended(host(), start);
    }
}

fn is_known_counted_audited_and_ended(mut host: Host, start: Start) {
    let server = start(&host);
    let mut blog = Talk::new(&server, "blog@web");
    let all = Talk::new(&server, "all@shell");
    let known = wait_for_sessions(&host, 2);
    let of = |known: &[Value], user: &str| known.iter().find(|session| session["user"] == user).expect(user).clone();
    let session = of(&known, "blog@web");
    assert_eq!((&session["door"], &session["source"]), (&"ftp".into(), &"127.0.0.1".into()), "{session}");
    assert_eq!(session["command"], "www/blog");
    // This login may have one session.
    assert_refused(&curl(&server, "blog@web", PASSWORD, "", &[]));
    assert!(host.log().contains("`sessions` of the login"), "{}", host.log());

    // The whole session is in the tenant's groups, including the process that does TLS, and every wall stands.
    let pid = session["pid"].as_u64().expect("a number");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("reads");
    let all_of_it: Vec<String> = children.split_whitespace().map(str::to_owned).chain([pid.to_string()]).collect();
    for pid in &all_of_it {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("reads");
        assert!(groups.lines().any(|line| line.starts_with("0::") && line.ends_with("/web/ftp")), "{groups}");
        assert!(groups.lines().filter(|line| line.contains("memory:")).all(|line| line.ends_with("/web")), "{groups}");
    }
    let audit: Value = serde_json::from_str(&host.ok(&["audit", "web", "shell", "--json"])).expect("JSON");
    for tenant in audit["tenants"].as_array().expect("a list") {
        let wall = tenant["walls"].as_array().expect("a list").iter().find(|wall| wall["wall"] == "ftp").cloned();
        assert_eq!(wall.expect("is looked at")["verdict"], "enforced", "{tenant}");
    }

    // The next daemon knows the session and can end it.
    host.kill();
    host.start();
    let known = wait_for_sessions(&host, 2);
    assert_eq!(of(&known, "blog@web"), session);
    assert!(blog.say("NOOP").starts_with("200"));
    host.ok(&["sessions", "kill", session["id"].as_str().expect("text")]);
    wait_for_sessions(&host, 1);
    let answer = blog.say("NOOP");
    assert!(!answer.starts_with('2'), "{answer}");
    for pid in all_of_it {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        assert!(status.is_empty() || status.contains("\nState:\tZ"), "process {pid} is left: {status}");
    }
    drop(all);
    wait_for_sessions(&host, 0);
    // The place is free again.
    assert_success(&curl(&server, "blog@web", PASSWORD, "", &["--list-only"]));
}

#[test]
fn nothing_outside_the_directory_can_be_reached() {
    for start in servers() {
        let host = host();
        stays_in_the_directory(&host, &start(&host));
    }
}

fn stays_in_the_directory(host: &Host, server: &Server) {
    for tenant in profiles() {
        let traps = "cd /home/*/ && ln -s / root && ln -s /etc/passwd passwd && ln -s ../.. www/blog/up && ln -s ../../a www/blog/a \
            && echo mine > a && mkdir -p etc lib && echo 'all@x:x:0:0::/:/bin/sh' > etc/passwd && echo /evil.so > etc/ld.so.preload \
            && echo 'passwd: evil' > etc/nsswitch.conf && echo x > lib/libnss_evil.so.2";
        host.ok(&["exec", tenant, "--user", tenant, "--", "sh", "-c", traps]);
        let mut all = Talk::new(server, &format!("all@{tenant}"));
        let mut blog = Talk::new(server, &format!("blog@{tenant}"));
        for command in [
            "CWD root/usr",
            "CWD root/proc",
            "SIZE root/etc/shadow",
            "SIZE ../../../../../../etc/shadow",
            "SIZE /proc/self/root/etc/shadow",
        ] {
            assert!(all.say(command).starts_with("550"), "{tenant}: {command}");
        }
        for command in ["SIZE a", "SIZE up/a", "SIZE ../../a", "CWD up/.ssh"] {
            assert!(blog.say(command).starts_with("550"), "{tenant}: {command}");
        }
        assert_eq!(all.say("SIZE a"), "213 5");
        // The parent of the root is the root.
        assert!(blog.say("CWD ../../..").starts_with("250"));
        let top = blog.say("PWD");
        assert!(top.starts_with("257 \"/\" is the current directory"), "{top}");
        for command in ["PORT 127,0,0,1,0,22", "EPRT |1|127.0.0.1|22|"] {
            assert!(all.say(command).starts_with('5'), "{tenant}: {command}");
        }
        for command in
            ["SITE EXEC id", "SITE CPFR /etc/passwd", "SITE CPTO passwd", "SITE SYMLINK / x", "SITE UTIME 1 a"]
        {
            assert!(all.say(command).starts_with('5'), "{tenant}: {command}");
        }
    }
    wait_for_sessions(host, 0);
}

/// The server's own check is disabled, so that only the kernel refuses.
#[test]
fn a_server_cannot_connect_to_other_hosts() {
    if !installed("vsftpd") {
        return;
    }
    let host = host();
    let server = vsftpd_with(&host, &[("port_enable", "YES"), ("force_local_data_ssl", "NO")]);
    let victim = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    victim.set_nonblocking(true).expect("sets");
    let port = victim.local_addr().expect("bound").port();
    let mut all = Talk::new(&server, "all@web");
    assert!(all.say(&format!("PORT 127,0,0,1,{},{}", port / 256, port % 256)).starts_with("200"));
    // 425, or the end of the session, whichever step of a connection is refused first.
    let answer = all.say("NLST");
    assert!(!answer.starts_with(['1', '2']), "{answer}");
    assert_eq!(victim.accept().expect_err("nobody came").kind(), std::io::ErrorKind::WouldBlock);
}

/// A malicious server: it asks for a login and for permission to enter, opens no session, and then does what it
/// likes.
const SERVER: &str = r#"
import ctypes, errno, fcntl, os, socket, sys
user, password = sys.argv[1].encode(), sys.argv[2].encode()
pam, libc = ctypes.CDLL("libpam.so.0"), ctypes.CDLL("libc.so.6", use_errno=True)
libc.calloc.restype = libc.strdup.restype = ctypes.c_void_p
class Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("code", ctypes.c_int)]
Talk = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
class Conversation(ctypes.Structure):
    _fields_ = [("talk", Talk), ("data", ctypes.c_void_p)]
@Talk
def talk(count, messages, responses, data):
    answers = libc.calloc(count, ctypes.sizeof(Response))
    for place in range(count):
        Response.from_address(answers + place * ctypes.sizeof(Response)).text = libc.strdup(password)
    responses[0] = answers
    return 0
handle, conversation = ctypes.c_void_p(), Conversation(talk, None)
assert pam.pam_start(b"bailiwick-ftp", user, ctypes.byref(conversation), ctypes.byref(handle)) == 0
print("authenticate", pam.pam_authenticate(handle, 0), flush=True)
print("account", pam.pam_acct_mgmt(handle, 0), flush=True)
def attempt(what, work):
    try:
        work()
        print(what, "done", flush=True)
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)
def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
print("root", sorted(os.listdir("/")), flush=True)
attempt("host", lambda: os.listdir("/usr"))
for family in ["AF_UNIX", "AF_NETLINK", "AF_PACKET"]:
    attempt(family, lambda: socket.socket(getattr(socket, family), socket.SOCK_DGRAM))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("tcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("pair", lambda: socket.socketpair())
address = ("127.0.0.1", int(sys.argv[3]))
attempt("connect", lambda: socket.socket().connect(address))
attempt("fast", lambda: socket.socket().sendto(b"x", 0x20000000, address))
attempt("other port", lambda: socket.socket().bind(("127.0.0.1", 0)))
def passive():
    for port in range(50000, 51000):
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", port))
            return listener.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
attempt("passive", passive)
attempt("exec", lambda: os.execv("/home/x", ["x"]))
attempt("ptrace", lambda: called(libc.ptrace(16, os.getppid(), 0, 0)))
attempt("shm", lambda: called(libc.shmget(0, 4096, 0o1600)))
# By a number, as of any process of the host's: of this one the kernel would let it, and the filter knows none but 0.
other, room = os.getpid(), ctypes.create_string_buffer(4096)
for what, number, *rest in [
    ("kill", 62, other, 0),
    ("tkill", 200, other, 0),
    ("tgkill", 234, other, other, 0),
    ("queue", 129, other, 0, room),
    ("limits", 302, other, 7, None, room),
    ("priority", 141, 0, other, 5),
    ("scheduler", 144, other, 0, room),
    ("affinity", 203, other, 8, room),
    ("io priority", 251, 1, other, 0),
    ("move", 279, other, 0, None, None, None, 0),
    ("migrate", 256, other, 64, room, room),
]:
    attempt(what, lambda: called(libc.syscall(number, *rest)))
asked = socket.socket()
for what, command in [("interfaces", 0x8912), ("hardware address", 0x8927), ("bridges", 0x8940)]:
    attempt(what, lambda: fcntl.ioctl(asked, command, bytes(256)))
attempt("own limits", lambda: called(libc.syscall(302, 0, 7, None, room)))
print("session", pam.pam_open_session(handle, 0), flush=True)
sys.stdin.read()
"#;

/// A server that asks whether a login may enter, and never opens a session, is in the jail all the same. It cannot
/// do what a server never does after a login.
#[test]
fn a_server_is_in_the_jail_after_the_answer_and_may_do_little() {
    let host = host();
    let victim = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    victim.set_nonblocking(true).expect("sets");
    let port = victim.local_addr().expect("bound").port().to_string();
    let module = stage().join("pam_bailiwick.so");
    let of_host = format!("{} runtime_dir={}", module.display(), host.path("run").display());
    host.write("ftp/pam.d/bailiwick-ftp", &PAM.replace("pam_bailiwick.so", &of_host));
    host.write("ftp/server.py", SERVER);
    for tenant in profiles() {
        let script = format!("mount --bind {} /etc/pam.d && exec python3 \"$@\"", host.path("ftp/pam.d").display());
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", &script, "sh"])
            .arg(host.path("ftp/server.py"))
            .args([&format!("all@{tenant}"), PASSWORD, &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut said = Vec::new();
        for line in std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines() {
            said.push(line.expect("reads"));
            if said.last().is_some_and(|line| line.starts_with("session")) {
                break;
            }
        }
        let known = wait_for_sessions(&host, 1);
        assert_eq!(known[0]["pid"].as_u64(), Some(u64::from(child.id())), "{known:?}");
        // If it crashes, no crash handler of the host starts.
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("reads");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
        assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["1", "1", "bytes"], "{tenant}");
        let audit: Value = serde_json::from_str(&host.ok(&["audit", tenant, "--json"])).expect("JSON");
        let walls = audit["tenants"][0]["walls"].as_array().expect("a list");
        assert_eq!(walls.iter().find(|wall| wall["wall"] == "ftp").expect("is looked at")["verdict"], "enforced");
        drop(child.stdin.take());
        child.wait().expect("wait");
        wait_for_sessions(&host, 0);
        let other_port = if bailiwick_sys::landlock::abi() < 4 { "other port done" } else { "other port EACCES" };
        let golden = [
            "authenticate 0",
            "account 0",
            "root ['etc', 'home']",
            "host ENOENT",
            "AF_UNIX EAFNOSUPPORT",
            "AF_NETLINK EAFNOSUPPORT",
            "AF_PACKET EAFNOSUPPORT",
            "udp EPROTONOSUPPORT",
            "tcp done",
            "pair done",
            "connect EACCES",
            "fast EACCES",
            other_port,
            "passive done",
            "exec EPERM",
            "ptrace EPERM",
            "shm EPERM",
            "kill EPERM",
            "tkill EPERM",
            "tgkill EPERM",
            "queue EPERM",
            "limits EPERM",
            "priority EPERM",
            "scheduler EPERM",
            "affinity EPERM",
            "io priority EPERM",
            "move EPERM",
            "migrate EPERM",
            "interfaces EPERM",
            "hardware address EPERM",
            "bridges EPERM",
            "own limits done",
            "session 0",
        ];
        assert_eq!(said, golden, "{tenant}: {}", host.log());
    }
    assert_eq!(victim.accept().expect_err("nobody came").kind(), std::io::ErrorKind::WouldBlock);
}

/// The identity of the process that listens for Bailiwick is checked before its answer is used.
#[test]
fn the_answer_of_an_impostor_is_not_used() {
    for start in servers() {
        let mut host = host();
        let server = start(&host);
        assert_success(&curl(&server, "all@web", PASSWORD, "", &["--list-only"]));
        host.end();
        // Another user of the host listens in place of the daemon.
        let socket = host.path("run/control/bailiwick.sock");
        let script = format!(
            "import os,socket,time\nos.setuid(12345)\ns=socket.socket(socket.AF_UNIX)\ns.bind('{0}')\ns.listen(8)\ntime.sleep(1000)",
            socket.display()
        );
        std::fs::set_permissions(socket.parent().expect("a parent"), PermissionsExt::from_mode(0o777)).expect("chmod");
        let mut other = Command::new("python3").args(["-c", &script]).spawn().expect("python3 runs");
        until("the other to listen", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        // The server would otherwise wait for an answer of that process.
        assert_refused(&curl(&server, "all@web", PASSWORD, "", &["--list-only", "--max-time", "20"]));
        other.kill().expect("kill");
        other.wait().expect("wait");
    }
}

#[test]
fn logins_that_are_not_allowed_are_refused() {
    for start in servers() {
        let host = host();
        refuses_whoever_may_not(&host, &start(&host));
    }
}

fn refuses_whoever_may_not(host: &Host, server: &Server) {
    let list = |user: &str| curl(server, user, PASSWORD, "", &["--list-only"]);
    assert_success(&list("all@web"));
    let declared = std::fs::read_to_string(host.path("etc/tenants.d/web.toml")).expect("reads");
    let with = |text: &str| {
        host.write("etc/tenants.d/web.toml", text);
        host.ok(&["apply", "web"]);
    };
    let refused_for = |why: &str| {
        assert_refused(&list("all@web"));
        assert!(host.log().contains(why), "{why}: {}", host.log());
    };
    with(&declared.replace("[\"exec\", \"ftp\"]", "[\"exec\"]"));
    refused_for("the door \"ftp\" of \"web\" is closed");
    with(&format!("limits.sessions_ftp = 1\n{declared}"));
    let one = Talk::new(server, "blog@web");
    refused_for("`sessions_ftp`");
    // A session whose login was removed stays, unless `apply --now` is used.
    with(&declared.replace("name = \"blog\"", "name = \"other\""));
    assert_eq!(wait_for_sessions(host, 1)[0]["user"], "blog@web");
    host.ok(&["apply", "--now", "web"]);
    wait_for_sessions(host, 0);
    drop(one);
    with(&declared);
    host.ok(&["freeze", "web"]);
    assert_refused(&list("all@web"));
    host.ok(&["thaw", "web"]);
    assert_success(&list("all@web"));
    let stays = Talk::new(server, "all@web");
    host.ok(&["suspend", "web", "--reason", "unpaid"]);
    wait_for_sessions(host, 0);
    drop(stays);
    refused_for("is suspended: unpaid");
    host.ok(&["unsuspend", "web"]);
    host.ok(&["stop", "web"]);
    assert_refused(&list("all@web"));
    host.ok(&["start", "web"]);
    // A directory replaced by a symlink leads nowhere.
    host.ok(&["exec", "web", "--", "sh", "-c", "mv /home/web/www /home/web/moved && ln -s moved /home/web/www"]);
    assert_refused(&list("blog@web"));
    assert_success(&list("all@web"));
}

#[test]
fn a_suspended_tenant_may_read_when_its_plan_says_so() {
    for start in servers() {
        let host = host();
        let server = start(&host);
        for tenant in profiles() {
            let path = format!("etc/tenants.d/{tenant}.toml");
            let declared = std::fs::read_to_string(host.path(&path)).expect("reads");
            host.write(&path, &format!("suspended_doors = [\"ftp\"]\n{declared}"));
            let user = format!("blog@{tenant}");
            let sent = host.path("sent");
            std::fs::write(&sent, "kept").expect("writes");
            let put = ["--upload-file", sent.to_str().expect("text")];
            assert_success(&curl(&server, &user, PASSWORD, "a", &put));
            host.ok(&["suspend", tenant, "--reason", "unpaid"]);
            assert_eq!(assert_success(&curl(&server, &user, PASSWORD, "a", &[])), "kept", "{tenant}");
            for name in ["a", "b"] {
                assert!(!curl(&server, &user, PASSWORD, name, &put).status.success(), "{tenant}: {name}");
            }
            let remove = curl(&server, &user, PASSWORD, "", &["--quote", "DELE a"]);
            assert!(!remove.status.success(), "{tenant}: {}", text(&remove));
            assert_eq!(assert_success(&curl(&server, &user, PASSWORD, "", &["--list-only"])), "a\n", "{tenant}");
            host.ok(&["audit", tenant]);
            host.ok(&["unsuspend", tenant]);
            assert_success(&curl(&server, &user, PASSWORD, "b", &put));
        }
    }
}
