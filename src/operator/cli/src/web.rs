//! `web`: prints, or writes, the part of a web server's configuration that leads requests to the sockets of tenants' services.
//!
//! It reads the policy's files and not the daemon, so that a web server can be configured while Bailiwick is down. It knows no
//! domain and no certificate: the operator's own server blocks include what is printed here.
//!
//! Danger: what is printed is executed by a web server. Only names and paths that the policy has checked get into it, and
//! [`quoted`] refuses what a configuration would not take as one word.

mod apache;
mod caddy;
mod nginx;
pub(crate) mod refused;

use crate::configuration::{invalid, listing};
use crate::output::{self, Form};
use bailiwick_policy::{Host, Pass, Policy, Run, Tenant};
use bailiwick_proto::{Failure, refused_socket, web_socket};
use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::{ByteSize, ExitStatus, TenantName};
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The first line of every file that is written. A file without it is the operator's, and is left alone.
const MARK: &str = "# Written by `bailiwick web`. Changes here are lost.";
/// The largest file that is compared with what would be written, in bytes.
const LARGEST: usize = 16 << 20;

/// A web server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WebServer {
    /// nginx
    Nginx,
    /// Apache
    Apache,
    /// Caddy
    Caddy,
}

/// What all sites have in common.
#[derive(Debug, Clone)]
struct Options {
    /// The largest body of a request.
    upload: ByteSize,
    /// The path of the socket that hears of refused requests.
    refused: String,
    /// The path of this program, which Apache starts.
    program: String,
}

/// A file: its path below the folder that is written, and its text.
type File = (PathBuf, String);

/// The site of one tenant: where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    tenant: TenantName,
    /// PHP, by FastCGI.
    php: Option<Backend>,
    /// Files of the jail, by HTTP.
    files: Option<Backend>,
    /// Programs that speak HTTP, in the order of the policy.
    programs: Vec<Backend>,
    /// The directory inside that PHP's scripts are in.
    root: String,
}

/// A socket of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    /// `TENANT.SOCKET`, which no other socket has.
    name: String,
    /// The path on the host.
    path: String,
    entries: Option<u64>,
}

impl Site {
    /// Whether requests beyond a number at a time are refused.
    fn has_entries(&self) -> bool {
        self.php.iter().chain(&self.files).chain(&self.programs).any(|backend| backend.entries.is_some())
    }
}

/// The site of a tenant; `None` when it has no socket, or none that is open.
fn site(host: &Host, tenant: &Tenant) -> Result<Option<Site>, Failure> {
    let home = format!("/home/{}", tenant.login.user);
    let mut site =
        Site { tenant: tenant.name.clone(), php: None, files: None, programs: Vec::new(), root: format!("{home}/www") };
    for service in &tenant.settings.services {
        for socket in &service.sockets {
            let path = web_socket(&host.runtime_dir, &tenant.name, &socket.name);
            let backend = Backend {
                name: format!("{}.{}", tenant.name, socket.name),
                path: quoted(&path.to_string_lossy())?.to_owned(),
                entries: socket.entries,
            };
            match (&service.run, &socket.pass) {
                (_, Pass::Fpm(_)) => site.php = site.php.or(Some(backend)),
                (Run::Files(directory), _) if site.files.is_none() => {
                    site.files = Some(backend);
                    let directory = Path::new(&home).join(directory);
                    site.root = quoted(directory.to_string_lossy().trim_end_matches('/'))?.to_owned();
                }
                (Run::Files(_), _) => {}
                (Run::Command(_), Pass::Fd | Pass::Relay(_)) => site.programs.push(backend),
            }
        }
    }
    let has_any = site.php.is_some() || site.files.is_some() || !site.programs.is_empty();
    Ok(has_any.then_some(site))
}

/// A path that stands in a configuration as one word.
fn quoted(path: &str) -> Result<&str, Failure> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '@' | ':');
    if path.chars().all(is_plain) {
        return Ok(path);
    }
    let message = format!(
        "the path {path:?} cannot stand in a web server's configuration; name a directory of letters, digits and \"._-+@:\""
    );
    Err(Failure::of(ExitStatus::Invalid, message))
}

/// Runs the command.
pub(crate) fn run(
    config: &Path,
    server: WebServer,
    only: Option<&TenantName>,
    folder: Option<&Path>,
    upload: ByteSize,
    form: Form,
) -> Result<(), Failure> {
    let reading = bailiwick_policy::read(config);
    let policy = match reading.policy {
        Some(policy) if reading.diagnostics.is_empty() => policy,
        _ => return Err(invalid(&reading.diagnostics)),
    };
    let files = render(&policy, server, only, upload)?;
    match folder {
        None if form == Form::Json => {
            let by_name: BTreeMap<_, _> = files.iter().map(|(path, text)| (path.display().to_string(), text)).collect();
            output::print_json(&by_name)
        }
        None => output::print(&output::visible_lines(&listing(&files))),
        Some(folder) => {
            let written = write(folder, &files, only.is_none())?;
            output::show(form, &written, |written| written.in_words(server, folder))
        }
    }
}

/// The files for all tenants, or for one.
fn render(
    policy: &Policy,
    server: WebServer,
    only: Option<&TenantName>,
    upload: ByteSize,
) -> Result<Vec<File>, Failure> {
    if let Some(name) = only.filter(|name| !policy.tenants.contains_key(*name)) {
        return Err(Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{name}\"")));
    }
    if policy.host.web.group.is_none() {
        let message = "bailiwick.toml has no `web`, so no web server may connect; write web = { group = \"www-data\" }";
        return Err(Failure::of(ExitStatus::Refused, message));
    }
    let mut sites = Vec::new();
    for tenant in policy.tenants.values().filter(|tenant| only.is_none_or(|only| tenant.name == *only)) {
        sites.extend(site(&policy.host, tenant)?);
    }
    if let (Some(name), true) = (only, sites.is_empty()) {
        let message =
            format!("\"{name}\" has no [[service.socket]], so there is nothing for a web server to connect to");
        return Err(Failure::of(ExitStatus::Refused, message));
    }
    let refused = quoted(&refused_socket(&policy.host.runtime_dir).to_string_lossy())?.to_owned();
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/bailiwick"));
    let program = quoted(&program.to_string_lossy())?.to_owned();
    let options = Options { upload, refused, program };
    let mut files = match server {
        WebServer::Nginx => nginx::files(&sites, &options),
        WebServer::Apache => apache::files(&sites, &options),
        WebServer::Caddy => caddy::files(&sites, &options),
    };
    for (_, text) in &mut files {
        *text = format!("{MARK}\n{text}");
    }
    Ok(files)
}

/// What was written.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Written {
    /// Whether anything changed, so that the web server must read it again.
    changed: bool,
    /// The files that were written.
    written: Vec<PathBuf>,
    /// The files of tenants that have no socket any more, which were removed.
    removed: Vec<PathBuf>,
}

impl Written {
    fn in_words(&self, server: WebServer, folder: &Path) -> String {
        if !self.changed {
            return format!("{}: nothing has changed, no reload is needed\n", folder.display());
        }
        let reload = match server {
            WebServer::Nginx => "nginx -t && systemctl reload nginx",
            WebServer::Apache => "apachectl configtest && systemctl reload apache2",
            WebServer::Caddy => "systemctl reload caddy",
        };
        let count = self.written.len() + self.removed.len();
        format!("{}: {count} files have changed; now run: {reload}\n", folder.display())
    }
}

/// Writes the files that differ, each in one step. With `all`, removes files of ours that are not among them.
fn write(folder: &Path, files: &[File], all: bool) -> Result<Written, Failure> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Failure::of(ExitStatus::Failed, format!("cannot write \"{path}\": {error}"))
    };
    let mut outcome = Written { changed: false, written: Vec::new(), removed: Vec::new() };
    let mut folders: BTreeMap<PathBuf, OwnedFd> = BTreeMap::new();
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().expect("it is below the folder").to_owned();
        if !folders.contains_key(&parent) {
            fs::create_dir_all(&parent).map_err(failed(&parent))?;
            let real = parent.canonicalize().map_err(failed(&parent))?;
            folders.insert(parent.clone(), file::open_dir(&real).map_err(failed(&parent))?);
        }
        let dir = &folders[&parent];
        let name = path.file_name().expect("files have names").to_string_lossy().into_owned();
        let present = read(dir, &name).map_err(failed(&path))?;
        if present.as_deref() == Some(text.as_bytes()) {
            continue;
        }
        if present.is_some_and(|present| !present.starts_with(MARK.as_bytes())) {
            let message = format!("\"{}\" was not written by `bailiwick web`; move it away first", path.display());
            return Err(Failure::of(ExitStatus::Conflict, message));
        }
        file::replace_at(dir, &name, text.as_bytes(), 0o644, Outlives::PowerCut).map_err(failed(&path))?;
        outcome.written.push(path);
    }
    if all {
        for (parent, dir) in &folders {
            for name in file::names(dir).map_err(failed(parent))? {
                let Some(name) = name.to_str().filter(|name| name.ends_with(".conf")) else { continue };
                let path = parent.join(name);
                let is_planned = files.iter().any(|(planned, _)| folder.join(planned) == path);
                let is_ours =
                    read(dir, name).is_ok_and(|text| text.is_some_and(|text| text.starts_with(MARK.as_bytes())));
                if !is_planned && is_ours {
                    file::remove_file_at(dir, name).map_err(failed(&path))?;
                    outcome.removed.push(path);
                }
            }
        }
    }
    outcome.changed = !outcome.written.is_empty() || !outcome.removed.is_empty();
    Ok(outcome)
}

/// The content of a file; `None` when there is none.
fn read(dir: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    match file::open_file_at(dir, name) {
        Ok(fd) => file::read_bounded(fd, LARGEST).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The page for a tenant that has as many requests as it may have.
const BUSY: &str = "<!DOCTYPE html><title>Busy</title><p>This site answers as many requests as it may. Try again in a few seconds.</p>";
/// The page for a tenant whose service does not answer.
const DOWN: &str =
    "<!DOCTYPE html><title>Not available</title><p>This site does not answer now. Try again in a few seconds.</p>";
/// How many seconds a client is told to wait.
const RETRY_AFTER: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(socket: &str) -> Backend {
        let path = format!("/run/bailiwick/web/alice/{socket}.sock");
        Backend { name: format!("alice.{socket}"), path, entries: Some(20) }
    }

    fn sites() -> Vec<Site> {
        let site = |php: bool, files: bool, programs: usize| Site {
            tenant: "alice".parse().expect("a name"),
            php: php.then(|| backend("php")),
            files: files.then(|| backend("files")),
            programs: (0..programs).map(|n| backend(&format!("app{n}"))).collect(),
            root: "/home/alice/www".to_owned(),
        };
        vec![
            site(true, true, 0),
            site(true, false, 0),
            site(false, true, 0),
            site(false, false, 2),
            site(true, true, 1),
        ]
    }

    fn options() -> Options {
        Options {
            upload: ByteSize(64 << 20),
            refused: "/run/bailiwick/web/refused.sock".to_owned(),
            program: "/usr/bin/bailiwick".to_owned(),
        }
    }

    #[test]
    fn nginx_tells_of_refused_requests_where_there_are_entries() {
        for mut site in sites() {
            let text = |site: &Site| -> String {
                nginx::files(std::slice::from_ref(site), &options()).into_iter().map(|(_, text)| text).collect()
            };
            let log =
                "access_log syslog:server=unix:/run/bailiwick/web/refused.sock,nohostname,tag=bailiwick bailiwick;";
            let limited = text(&site);
            assert_eq!(limited.matches(log).count(), 1, "{limited}");
            assert!(limited.contains("log_format bailiwick $bailiwick_socket;"), "{limited}");
            for backend in site.php.iter_mut().chain(&mut site.files).chain(&mut site.programs) {
                backend.entries = None;
            }
            let free = text(&site);
            assert!(!free.contains("log") && !free.contains("busy") && !free.contains("limit_conn"), "{free}");
        }
    }

    #[test]
    fn apache_has_a_program_tell_of_refused_requests_where_there_are_entries() {
        for mut site in sites() {
            let text = |site: &Site| -> String {
                apache::files(std::slice::from_ref(site), &options()).into_iter().map(|(_, text)| text).collect()
            };
            let log =
                "GlobalLog \"|/usr/bin/bailiwick refused-requests /run/bailiwick/web/refused.sock\" bailiwick \"expr=";
            let limited = text(&site);
            assert_eq!(limited.matches(log).count(), 1, "{limited}");
            assert!(
                limited.contains("E=BAILIWICK_SOCKET:alice.") && limited.contains("bailiwick-answered"),
                "{limited}"
            );
            for backend in site.php.iter_mut().chain(&mut site.files).chain(&mut site.programs) {
                backend.entries = None;
            }
            let free = text(&site);
            assert!(!free.contains("GlobalLog") && !free.contains("onsuccess"), "{free}");
        }
    }

    #[test]
    fn each_kind_of_site_leads_to_its_sockets() {
        let options = options();
        for site in sites() {
            let sites = [site.clone()];
            for server in
                [nginx::files(&sites, &options), apache::files(&sites, &options), caddy::files(&sites, &options)]
            {
                let text: String = server.into_iter().map(|(_, text)| text).collect();
                assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
                assert!(text.contains("67108864") && text.contains("Retry-After"), "{text}");
                let used = site.php.iter().filter(|_| site.programs.is_empty()).chain(&site.programs);
                for backend in used {
                    assert!(text.contains(&backend.path), "{}: {text}", backend.path);
                }
            }
        }
    }

    #[test]
    fn a_path_that_is_more_than_one_word_is_refused() {
        assert!(quoted("/run/bailiwick/web/alice/web.sock").is_ok());
        for path in [
            "/run/x y", "/run/x;", "/run/x\"", "/run/{x}", "/run/$x", "/run/\n", "/run/ü", "/run/x#", "/run/x'",
            "/run/x,y",
        ] {
            let failure = quoted(path).expect_err(path);
            assert_eq!(failure.status, ExitStatus::Invalid);
        }
    }

    #[test]
    fn only_what_differs_is_written_and_files_of_others_stay() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let folder = temp.path().join("nginx");
        let file = |name: &str, text: &str| (PathBuf::from(name), format!("{MARK}\n{text}"));
        let files =
            vec![file("bailiwick.conf", "a"), file("bailiwick.d/alice.conf", "b"), file("bailiwick.d/bob.conf", "c")];
        let written = write(&folder, &files, true).expect("writes");
        assert_eq!((written.changed, written.written.len()), (true, 3));
        assert!(!write(&folder, &files, true).expect("writes").changed);
        fs::write(folder.join("bailiwick.d/mine.conf"), "mine").expect("writes");
        let fewer = &files[..2];
        assert!(!write(&folder, fewer, false).expect("writes").changed);
        let written = write(&folder, fewer, true).expect("writes");
        assert_eq!(written.removed, [folder.join("bailiwick.d/bob.conf")]);
        assert!(folder.join("bailiwick.d/mine.conf").exists());
        let failure = write(&folder, &[file("bailiwick.d/mine.conf", "ours")], false).expect_err("it is another's");
        assert_eq!(failure.status, ExitStatus::Conflict);
    }
}
