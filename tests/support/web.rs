//! A web server of the host in front of jails: a real nginx, Apache or Caddy with a folder of its own, and requests to it.

use crate::until;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A web server that runs on a port of the loopback.
#[derive(Debug)]
pub struct WebServer {
    name: &'static str,
    folder: tempfile::TempDir,
    child: Child,
    /// Where it writes its errors, in its folder.
    log: &'static str,
    /// The port that it listens on.
    pub port: u16,
}

impl WebServer {
    /// Starts nginx. `http` goes into its block `http`, `locations` into its only server.
    ///
    /// # Panics
    /// When nginx refuses the configuration or does not begin to listen.
    #[must_use]
    pub fn nginx(http: &str, locations: &str) -> Self {
        Self::start("nginx", "error.log", |folder, port| {
            let own = folder.display();
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {own}/{kind};\n"))
                .concat();
            let text = format!(
                "user www-data;\nworker_processes 2;\ndaemon off;\npid {own}/pid;\nerror_log {own}/error.log warn;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{\n{temporary}access_log {own}/access.log;\n{http}\n\
                 server {{ listen 127.0.0.1:{port};\nserver_name localhost;\n{locations}\n}}\n}}\n"
            );
            fs::write(folder.join("nginx.conf"), text).expect("writes");
            let mut command = Command::new("/usr/sbin/nginx");
            command.arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log"));
            command
        })
    }

    /// Starts Apache. `host` goes into its only virtual host, `server` into what is outside of it.
    ///
    /// # Panics
    /// When Apache refuses the configuration or does not begin to listen.
    #[must_use]
    pub fn apache(server: &str, host: &str) -> Self {
        Self::start("Apache", "error.log", |folder, port| {
            let own = folder.display();
            let modules: String =
                ["mpm_event", "authz_core", "proxy", "proxy_http", "proxy_fcgi", "rewrite", "headers"]
                    .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
                    .concat();
            let text = format!(
                "ServerRoot {own}\nServerName localhost\nPidFile {own}/pid\nErrorLog {own}/error.log\n\
                 DefaultRuntimeDir {own}\nListen 127.0.0.1:{port}\n{modules}User www-data\nGroup www-data\n{server}\n\
                 <VirtualHost 127.0.0.1:{port}>\n{host}\n</VirtualHost>\n"
            );
            fs::write(folder.join("apache.conf"), text).expect("writes");
            let mut command = Command::new("/usr/sbin/apache2");
            command.arg("-DFOREGROUND").arg("-f").arg(folder.join("apache.conf"));
            command
        })
    }

    /// Starts Caddy as the web server's user. `site` goes into its only site.
    ///
    /// # Panics
    /// When Caddy refuses the configuration or does not begin to listen.
    #[must_use]
    pub fn caddy(site: &str) -> Self {
        Self::start("Caddy", "log", |folder, port| {
            let text = format!(
                "{{\n\tadmin off\n\tauto_https off\n}}\nhttp://localhost:{port} {{\n\tbind 127.0.0.1\n{site}\n}}\n"
            );
            fs::write(folder.join("Caddyfile"), text).expect("writes");
            let mut command = Command::new("setpriv");
            let user = ["--reuid", "www-data", "--regid", "www-data", "--clear-groups"];
            command.args(user).args(["/usr/bin/caddy", "run", "--config"]).arg(folder.join("Caddyfile"));
            // It keeps its files below these, and www-data has no home of its own.
            command.envs(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, "/nonexistent")));
            command.stderr(fs::File::create(folder.join("log")).expect("a log"));
            command
        })
    }

    fn start(name: &'static str, log: &'static str, configured: impl FnOnce(&Path, u16) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let port = free_port();
        let mut command = configured(folder.path(), port);
        let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{name} runs: {error}"));
        let mut server = Self { name, folder, child, log, port };
        until(&format!("{name} listens"), || {
            let ended = server.child.try_wait().expect("wait");
            assert!(ended.is_none(), "{} ended: {}", server.name, server.errors());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    /// What it has written into its log of errors.
    #[must_use]
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join(self.log)).unwrap_or_default()
    }

    /// Requests a path with more lines of the header.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no answer.
    pub fn get(&self, path: &str, header: &[&str]) -> std::io::Result<Response> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        request(&mut stream, path, header)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // The master ends its workers on SIGTERM, and not when it is killed.
        drop(Command::new("kill").arg(self.child.id().to_string()).status());
        drop(self.child.wait());
    }
}

/// A port of the loopback that nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// An answer of a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The header, as it came.
    pub header: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a field of the header.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.header.lines().find(is_it).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }
}

/// One request over a connection that the server closes after it. Version 1.0, so that no body comes in chunks.
///
/// # Errors
/// When the connection breaks, or what comes is no answer.
pub fn request<S: Read + Write>(stream: &mut S, path: &str, header: &[&str]) -> std::io::Result<Response> {
    let more: String = header.iter().map(|line| format!("{line}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{more}\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let wrong = || std::io::Error::other(format!("no answer: {:?}", String::from_utf8_lossy(&answer)));
    let end = end.ok_or_else(wrong)?;
    let header = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = header.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(wrong)?;
    Ok(Response { status, header, body: answer[end + 4..].to_vec() })
}

/// The path of a socket of a tenant's service.
#[must_use]
pub fn socket_path(runtime: &Path, tenant: &str, socket: &str) -> PathBuf {
    runtime.join("web").join(tenant).join(format!("{socket}.sock"))
}
