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
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The first line of every file that is written. A file without it is the operator's, and is left alone.
const MARK: &str = "# Written by `bailiwick web`. Changes here are lost.";
/// The file that all tenants share.
const SHARED: &str = "bailiwick.conf";
/// The folder of tenants' files.
const TENANTS: &str = "bailiwick.d";
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
) -> Result<ExitStatus, Failure> {
    let reading = bailiwick_policy::read(config);
    let Some(policy) = &reading.policy else { return Err(invalid(&reading.diagnostics)) };
    if let Some(name) = only.filter(|name| reading.invalid.contains(*name)) {
        return Err(invalid(&bailiwick_policy::read_tenant(config, name).err().unwrap_or(reading.diagnostics)));
    }
    let left_out: Vec<&TenantName> = reading.invalid.iter().collect();
    let sites = Sites { all: sites(policy)?, only };
    sites.check(policy)?;
    let options = options(policy, upload)?;
    match folder {
        None => {
            let files = files(server, &sites.wanted(), &sites.wanted(), &options, &Earlier::nothing());
            if form == Form::Json {
                let by_name: BTreeMap<_, _> =
                    files.iter().map(|(path, text)| (path.display().to_string(), text)).collect();
                output::print_json(&by_name)?;
            } else {
                output::print(&output::visible_text(&listing(&files)))?;
            }
        }
        Some(folder) => {
            let earlier = Earlier { shared: earlier(folder)?, kept: &left_out };
            let files = files(server, &sites.wanted(), &sites.all.iter().collect::<Vec<_>>(), &options, &earlier);
            let written = write(folder, &files, &left_out, only.is_none())?;
            output::show(form, &written, |written| written.in_words(server, folder))?;
        }
    }
    if only.is_some() || reading.diagnostics.is_empty() {
        return Ok(ExitStatus::Done);
    }
    output::complain_raw(&bailiwick_diagnostics::render(&reading.diagnostics));
    if !left_out.is_empty() {
        let names: Vec<&str> = left_out.iter().map(|name| name.as_str()).collect();
        output::complain(&format!("left out, and what was written for them before stays: {}", names.join(", ")));
    }
    Ok(ExitStatus::Partly)
}

/// The sites of all tenants that have one.
fn sites(policy: &Policy) -> Result<Vec<Site>, Failure> {
    let of_tenants = policy.tenants.values().map(|tenant| site(&policy.host, tenant));
    of_tenants.filter_map(Result::transpose).collect()
}

/// The sites, and the tenant that the operator named.
struct Sites<'a> {
    all: Vec<Site>,
    only: Option<&'a TenantName>,
}

impl Sites<'_> {
    /// Those that the operator wants.
    fn wanted(&self) -> Vec<&Site> {
        self.all.iter().filter(|site| self.only.is_none_or(|only| site.tenant == *only)).collect()
    }

    /// Refuses what can lead nowhere.
    fn check(&self, policy: &Policy) -> Result<(), Failure> {
        if let Some(name) = self.only.filter(|name| !policy.tenants.contains_key(*name)) {
            return Err(Failure::of(ExitStatus::NotFound, format!("there is no tenant \"{name}\"")));
        }
        if policy.host.web.group.is_none() {
            let message =
                "bailiwick.toml has no `web`, so no web server may connect; write web = { group = \"www-data\" }";
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        if let (Some(name), true) = (self.only, self.wanted().is_empty()) {
            let message =
                format!("\"{name}\" has no [[service.socket]], so there is nothing for a web server to connect to");
            return Err(Failure::of(ExitStatus::Refused, message));
        }
        Ok(())
    }
}

fn options(policy: &Policy, upload: ByteSize) -> Result<Options, Failure> {
    let refused = quoted(&refused_socket(&policy.host.runtime_dir).to_string_lossy())?.to_owned();
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/bailiwick"));
    let program = quoted(&program.to_string_lossy())?.to_owned();
    Ok(Options { upload, refused, program })
}

/// What was written before, for tenants whose declaration has an error now.
struct Earlier<'a> {
    /// `bailiwick.conf`.
    shared: String,
    /// The tenants, whose own files stay as they are.
    kept: &'a [&'a TenantName],
}

impl Earlier<'_> {
    fn nothing() -> Self {
        Self { shared: String::new(), kept: &[] }
    }
}

/// The file that all tenants share, if the web server needs one, and a file for each of `sites`.
fn files(server: WebServer, sites: &[&Site], all: &[&Site], options: &Options, earlier: &Earlier<'_>) -> Vec<File> {
    let shared = match server {
        WebServer::Nginx => Some(nginx::shared(all, &earlier.shared, earlier.kept)),
        WebServer::Apache => apache::shared(all, options),
        WebServer::Caddy => None,
    };
    let of_site = |site: &&Site| {
        let text = match server {
            WebServer::Nginx => nginx::site(site, options),
            WebServer::Apache => apache::site(site, options),
            WebServer::Caddy => caddy::site(site, options),
        };
        (PathBuf::from(of_tenant(&site.tenant)), text)
    };
    let shared = shared.map(|text| (PathBuf::from(SHARED), text));
    shared.into_iter().chain(sites.iter().map(of_site)).map(|(name, text)| (name, format!("{MARK}\n{text}"))).collect()
}

/// The name of a tenant's file below the folder.
fn of_tenant(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}.conf")
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
        let (include, reload) = match server {
            WebServer::Nginx => ("include", "nginx -t && systemctl reload nginx"),
            WebServer::Apache => ("Include", "apachectl configtest && systemctl reload apache2"),
            WebServer::Caddy => ("import", "systemctl reload caddy"),
        };
        let removed = self.removed.iter().map(|path| {
            let name = path.file_name().unwrap_or_default().display();
            format!("{name} is removed: take its `{include}` away\n")
        });
        let count = self.written.len() + self.removed.len();
        let changed = format!("{}: {count} files have changed; now run: {reload}\n", folder.display());
        removed.chain([changed]).collect()
    }
}

/// The failure of writing a file or a folder.
fn failed(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| {
        let (status, message) = match Errno::from_io_error(&error) {
            Some(Errno::EXIST | Errno::NOTDIR) => (ExitStatus::Conflict, format!("\"{path}\" is no directory")),
            Some(Errno::LOOP) => (ExitStatus::Conflict, format!("\"{path}\" is a symbolic link; move it away first")),
            _ => (ExitStatus::Failed, format!("cannot write \"{path}\": {error}")),
        };
        Failure::of(status, message)
    }
}

/// The file that all tenants share, as it is now. It is empty when there is none.
fn earlier(folder: &Path) -> Result<String, Failure> {
    let path = folder.join(SHARED);
    let dir = match folder.canonicalize().and_then(|folder| file::open_dir(&folder)) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(folder)(error)),
    };
    let text = read(&dir, SHARED).map_err(failed(&path))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes the files that differ, each in one step. With `all`, removes files of ours that are not among them, but not those of
/// tenants that are `kept`.
fn write(folder: &Path, files: &[File], kept: &[&TenantName], all: bool) -> Result<Written, Failure> {
    let mut outcome = Written { changed: false, written: Vec::new(), removed: Vec::new() };
    let open = |parent: &Path| -> Result<OwnedFd, Failure> {
        fs::create_dir_all(parent).map_err(failed(parent))?;
        parent.canonicalize().and_then(|real| file::open_dir(&real)).map_err(failed(parent))
    };
    let folders = [folder.to_owned(), folder.join(TENANTS)];
    let dirs = [open(&folders[0])?, open(&folders[1])?];
    for (name, text) in files {
        let path = folder.join(name);
        let dir = &dirs[usize::from(name.starts_with(TENANTS))];
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
        let stay: Vec<PathBuf> = kept.iter().map(|tenant| PathBuf::from(of_tenant(tenant))).collect();
        for (parent, dir) in folders.iter().zip(&dirs) {
            for name in file::names(dir).map_err(failed(parent))? {
                let Some(name) = name.to_str().filter(|name| name.ends_with(".conf")) else { continue };
                let path = parent.join(name);
                let is_planned =
                    files.iter().map(|(planned, _)| planned).chain(&stay).any(|planned| folder.join(planned) == path);
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

    /// All that is printed for a site.
    fn text(server: WebServer, site: &Site) -> String {
        files(server, &[site], &[site], &options(), &Earlier::nothing()).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn nginx_tells_of_refused_requests_where_there_are_entries() {
        for mut site in sites() {
            let log =
                "access_log syslog:server=unix:/run/bailiwick/web/refused.sock,nohostname,tag=bailiwick bailiwick;";
            let limited = text(WebServer::Nginx, &site);
            assert_eq!(limited.matches(log).count(), 1, "{limited}");
            assert!(limited.contains("log_format bailiwick $bailiwick_socket;"), "{limited}");
            for backend in site.php.iter_mut().chain(&mut site.files).chain(&mut site.programs) {
                backend.entries = None;
            }
            let free = text(WebServer::Nginx, &site);
            assert!(!free.contains("log") && !free.contains("busy") && !free.contains("limit_conn"), "{free}");
        }
    }

    #[test]
    fn apache_has_a_program_tell_of_refused_requests_where_there_are_entries() {
        for mut site in sites() {
            let log =
                "GlobalLog \"|/usr/bin/bailiwick refused-requests /run/bailiwick/web/refused.sock\" bailiwick \"expr=";
            let limited = text(WebServer::Apache, &site);
            assert_eq!(limited.matches(log).count(), 1, "{limited}");
            assert!(
                limited.contains("E=BAILIWICK_SOCKET:alice.") && limited.contains("bailiwick-answered"),
                "{limited}"
            );
            for backend in site.php.iter_mut().chain(&mut site.files).chain(&mut site.programs) {
                backend.entries = None;
            }
            let free = text(WebServer::Apache, &site);
            assert!(!free.contains("GlobalLog") && !free.contains("onsuccess"), "{free}");
        }
    }

    #[test]
    fn each_kind_of_site_leads_to_its_sockets() {
        for site in sites() {
            for server in WebServer::value_variants() {
                let text = text(*server, &site);
                assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
                assert!(text.contains("67108864") && text.contains("Retry-After"), "{text}");
                for backend in site.php.iter().chain(&site.programs) {
                    assert!(text.contains(&backend.path), "{}: {text}", backend.path);
                }
            }
        }
    }

    #[test]
    fn a_program_beside_php_does_not_take_the_site() {
        let site = sites().pop().expect("PHP, files and a program");
        for server in WebServer::value_variants() {
            let text = text(*server, &site);
            let in_force: String = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert!(in_force.contains("alice.php") || in_force.contains("alice/php.sock"), "{text}");
            assert!(in_force.contains("alice.files") || in_force.contains("alice/files.sock"), "{text}");
            assert!(!in_force.contains("proxy_pass http://bailiwick.alice.app0"), "{text}");
            assert!(!in_force.contains("ProxyPass /"), "{text}");
            assert!(text.lines().any(|line| line.starts_with('#') && line.contains("app0")), "{text}");
        }
    }

    #[test]
    fn nginx_knows_the_variable_of_entries_only_where_a_location_sets_it() {
        let mut site = sites().remove(0);
        site.php.as_mut().expect("PHP").entries = None;
        let text = text(WebServer::Nginx, &site);
        assert!(!text.contains("$bailiwick_socket"), "{text}");
    }

    #[test]
    fn nginx_keeps_what_the_file_of_a_broken_tenant_needs() {
        let (site, tenant) = (sites().remove(0), "alice".parse().expect("a name"));
        let shared = nginx::shared(&[&site], "", &[]);
        let kept = nginx::shared(&[], &shared, &[&tenant]);
        for part in ["upstream bailiwick.alice.php {", "upstream bailiwick.alice.files {", "limit_conn_zone"] {
            assert_eq!(kept.matches(part).count(), 1, "{kept}");
        }
        assert_eq!(kept.matches('{').count(), kept.matches('}').count(), "{kept}");
        assert!(!nginx::shared(&[], &shared, &[]).contains("alice"), "nobody is kept");
    }

    #[test]
    fn each_obstacle_has_an_error_of_its_own() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let files = [(PathBuf::from("bailiwick.d/alice.conf"), format!("{MARK}\n"))];
        let failure = |folder: &Path| write(folder, &files, &[], true).expect_err("an obstacle");
        for (folder, golden) in [("/dev/null", "\"/dev/null\" is no directory"), ("/dev/null/a", "is no directory")] {
            let failure = failure(Path::new(folder));
            assert!(failure.message.contains(golden), "{failure:?}");
            let before = earlier(Path::new(folder)).expect_err("an obstacle");
            assert!(before.message.contains(golden), "{before:?}");
        }
        fs::create_dir(temp.path().join("bailiwick.d")).expect("mkdir");
        std::os::unix::fs::symlink("/dev/null", temp.path().join("bailiwick.d/alice.conf")).expect("a link");
        let failure = failure(temp.path());
        assert_eq!(failure.status, ExitStatus::Conflict);
        assert!(failure.message.contains("is a symbolic link"), "{failure:?}");
    }

    #[test]
    fn a_removed_file_is_named() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let files = [(PathBuf::from("bailiwick.d/erin.conf"), format!("{MARK}\n"))];
        let erin = "erin".parse().expect("a name");
        write(temp.path(), &files, &[], true).expect("writes");
        assert!(!write(temp.path(), &[], &[&erin], true).expect("writes").changed, "a broken tenant keeps its file");
        let written = write(temp.path(), &[], &[], true).expect("writes");
        let words = written.in_words(WebServer::Nginx, temp.path());
        assert!(words.starts_with("erin.conf is removed: take its `include` away\n"), "{words}");
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
        let written = write(&folder, &files, &[], true).expect("writes");
        assert_eq!((written.changed, written.written.len()), (true, 3));
        assert!(!write(&folder, &files, &[], true).expect("writes").changed);
        fs::write(folder.join("bailiwick.d/mine.conf"), "mine").expect("writes");
        let fewer = &files[..2];
        assert!(!write(&folder, fewer, &[], false).expect("writes").changed);
        let written = write(&folder, fewer, &[], true).expect("writes");
        assert_eq!(written.removed, [folder.join("bailiwick.d/bob.conf")]);
        assert!(folder.join("bailiwick.d/mine.conf").exists());
        let failure =
            write(&folder, &[file("bailiwick.d/mine.conf", "ours")], &[], false).expect_err("it is another's");
        assert_eq!(failure.status, ExitStatus::Conflict);
    }
}
