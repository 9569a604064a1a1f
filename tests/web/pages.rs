//! Sites: a real nginx of the host serves pages of jails, with the configuration that Bailiwick prints.

use bailiwick_tests::web::{Response, WebServer, request, socket_path};
use bailiwick_tests::{Host, profiles, until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

fn tenant() -> &'static str {
    profiles()[0]
}

/// A host with one tenant, whose file has these services; and a site of the tenant below its home.
fn host(services: &str) -> Host {
    let mut host = Host::new();
    host.write("etc/bailiwick.toml", &host.default_config("web = { group = \"www-data\" }\n"));
    let text = format!(
        "plan = \"{0}\"\ndoors = [\"exec\", \"socket\"]\n[limits]\nmemory = \"256M\"\ntasks = 100\n{services}",
        tenant()
    );
    host.write(&format!("etc/tenants.d/{}.toml", tenant()), &text);
    host.start();
    host.ok(&["apply"]);
    host
}

/// Writes a file of the site as the login user.
fn site(host: &Host, name: &str, text: &str) {
    let path = format!("/home/{}/{name}", tenant());
    let line = format!("mkdir -p $(dirname {path}) && cat > {path}");
    let mut command = host.command(&["exec", "--user", tenant(), tenant(), "--", "/bin/sh", "-c", &line]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("writes");
    assert!(child.wait().expect("ends").success());
}

/// An nginx with the printed configuration.
fn nginx(host: &Host) -> WebServer {
    let folder = host.path("nginx");
    fs::create_dir_all(&folder).expect("mkdir");
    host.ok(&["web", "nginx", "--write", &folder.display().to_string()]);
    let http = format!("include {}/bailiwick.conf;", folder.display());
    let locations = format!("include {}/bailiwick.d/{}.conf;", folder.display(), tenant());
    WebServer::nginx(&http, &locations)
}

fn answers(nginx: &WebServer, path: &str) -> Response {
    let mut last = None;
    until("the site answers", || {
        last = nginx.get(path, &[]).ok();
        last.as_ref().is_some_and(|answer| answer.status == 200)
    });
    last.expect("an answer")
}

/// Debian's PHP-FPM, as the host has it.
fn fpm() -> PathBuf {
    let found = fs::read_dir("/usr/sbin").expect("a folder").flatten().map(|entry| entry.path());
    let is_fpm = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    found.into_iter().find(is_fpm).expect("php-fpm is installed (tests/deps)")
}

/// The service of PHP, with a configuration inside.
fn php(entries: u32) -> String {
    format!(
        "[[service]]\nname = \"php\"\ncommand = [{:?}, \"-F\", \"-y\", \"/home/{}/fpm.conf\"]\n\
         [[service.socket]]\nname = \"web\"\npass = \"fpm\"\nto = \"/run/php.sock\"\nentries = {entries}\n",
        fpm(),
        tenant()
    )
}

const POOL: &str = "[global]\nerror_log = /proc/self/fd/2\n[www]\nlisten = /run/php.sock\npm = static\npm.max_children = 4\n\
                    clear_env = no\ncatch_workers_output = yes\n";

#[test]
fn a_php_page_of_a_jail_is_served_through_nginx() {
    let host = host(&php(20));
    site(&host, "fpm.conf", POOL);
    site(&host, "www/index.php", "<?php echo get_current_user(), ' ', posix_getuid(), ' ', $_SERVER['REQUEST_URI'];");
    host.ok(&["service", "restart", tenant()]);
    let nginx = nginx(&host);
    let page = answers(&nginx, "/index.php?a=b");
    assert!(page.text().contains("1000 /index.php?a=b"), "{page:?}\n{}", nginx.errors());
}

/// A host with a site in PHP and files, and the folder of a web server's configuration of it.
fn php_and_files(server: &str) -> (Host, PathBuf) {
    let files = "[[service]]\nname = \"files\"\nfiles = \"www\"\n[[service.socket]]\nname = \"files\"\n";
    let host = host(&(php(20) + files));
    site(&host, "fpm.conf", POOL);
    site(&host, "www/index.php", "<?php echo posix_getuid(), ' ', $_SERVER['REQUEST_URI'];");
    site(&host, "www/busy.php", "<?php http_response_code(503); header('Retry-After: 77'); echo 'busy';");
    site(&host, "www/style.css", "p { color: blue }");
    host.ok(&["service", "restart", tenant()]);
    let folder = host.path(server);
    host.ok(&["web", server, "--write", &folder.display().to_string()]);
    (host, folder)
}

/// Checks what a web server makes of that site. `missing_file` is the status for the name of a file that is not there: Apache
/// does not ask PHP then.
fn check_site(server: &WebServer, missing_file: u16) {
    let get = |path: &str| server.get(path, &[]);
    for (path, golden) in [
        ("/index.php?a=b", "1000 /index.php?a=b"),
        ("/a/pretty/name", "1000 /a/pretty/name"),
        ("/style.css", "p { color: blue }"),
    ] {
        let mut last = None;
        until("the web server answers", || {
            last = get(path).ok();
            last.as_ref().is_some_and(|answer| answer.status == 200)
        });
        assert_eq!(last.expect("an answer").text(), golden, "{path}: {}", server.errors());
    }
    let missing = get("/nothing.css").expect("an answer");
    assert_eq!(missing.status, missing_file, "{missing:?}");
    let busy = get("/busy.php").expect("an answer");
    let waits = busy.header.to_lowercase().matches("retry-after:").count();
    let told = (busy.status, waits, busy.field("Retry-After"), busy.text());
    assert_eq!(told, (503, 1, Some("77"), "busy".to_owned()), "a service's own answer is left alone: {busy:?}");
}

/// Says the names of a script as a script reads them, with its own.
fn names(script: &str) -> String {
    format!(
        "<?php echo '{script} ', $_SERVER['SCRIPT_NAME'], ' ', $_SERVER['PHP_SELF'], ' ', $_SERVER['SCRIPT_FILENAME'];"
    )
}

/// Checks which script answers a name, and what it is called.
fn check_names(host: &Host, server: &WebServer) {
    site(host, "www/index.php", &names("front"));
    site(host, "www/sub/index.php", &names("sub"));
    site(host, "www/pages/index.html", "pages");
    let root = format!("/home/{}/www", tenant());
    let script = |name: &str, script: &str| format!("{script} {name} {name} {root}{name}");
    let all = [
        ("/", script("/index.php", "front")),
        ("/sub/", script("/sub/index.php", "sub")),
        ("/s%75b/?a=b", script("/sub/index.php", "sub")),
        ("/a/pretty/name", script("/index.php", "front")),
        ("/a/pretty/name/", script("/index.php", "front")),
        ("/a%0Aline%0A/", script("/index.php", "front")),
        ("/a%3Fquery/", script("/index.php", "front")),
        ("/sub/index.php", script("/sub/index.php", "sub")),
        ("/pages/", "pages".to_owned()),
    ];
    for (path, golden) in all {
        assert_eq!(answers(server, path).text(), golden, "{path}: {}", server.errors());
    }
    site(host, "www/post/index.php", "<?php echo $_SERVER['REQUEST_METHOD'], ' ', file_get_contents('php://input');");
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    stream.write_all(b"POST /post/ HTTP/1.0\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na=b").expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("POST a=b"), "{answer}\n{}", server.errors());
}

#[test]
fn nginx_finds_the_index_of_a_directory() {
    let (host, _folder) = php_and_files("nginx");
    let nginx = nginx(&host);
    check_names(&host, &nginx);
}

#[test]
fn caddy_finds_the_index_of_a_directory() {
    let (host, folder) = php_and_files("caddy");
    let caddy = WebServer::caddy(&format!(
        "\timport {}/bailiwick.d/{}.con?\n\timport {0}/none.con?",
        folder.display(),
        tenant()
    ));
    check_names(&host, &caddy);
}

#[test]
fn apache_finds_the_index_of_a_directory_that_the_operator_names() {
    let (host, folder) = php_and_files("apache");
    let directories = "RewriteEngine On\nRewriteRule \"^(/(sub|post)/)$\" \"$1index.php\"\n\
                       RewriteRule \"^(/pages/)$\" \"$1index.html\"";
    let folder = folder.display();
    let apache = WebServer::apache(
        "",
        &format!(
            "{directories}\nIncludeOptional {folder}/bailiwick.d/{}.conf\nIncludeOptional {folder}/none.conf",
            tenant()
        ),
    );
    check_names(&host, &apache);
}

#[test]
fn a_program_beside_php_leaves_the_site_to_php() {
    let app = "[[service]]\nname = \"api\"\ncommand = [\"/bin/sleep\", \"1000\"]\n\
               [[service.socket]]\nname = \"api\"\npass = \"relay\"\nto = \"127.0.0.1:3000\"\nentries = 5\n";
    let host = host(&(php(20) + app));
    site(&host, "fpm.conf", POOL);
    site(&host, "www/index.php", "<?php echo 'php';");
    host.ok(&["service", "restart", tenant()]);
    assert_eq!(answers(&nginx(&host), "/").text(), "php");
    for server in ["apache", "caddy"] {
        let folder = host.path(server);
        host.ok(&["web", server, "--write", &folder.display().to_string()]);
        let file = format!("{}/bailiwick.d/{}.conf", folder.display(), tenant());
        let server = match server {
            "apache" => WebServer::apache("", &format!("Include {file}")),
            _ => WebServer::caddy(&format!("\timport {file}")),
        };
        assert_eq!(answers(&server, "/").text(), "php", "{}", server.errors());
    }
}

#[test]
fn one_broken_file_leaves_out_one_tenant_and_a_removed_one_is_named() {
    let host = host(&php(20));
    for name in ["erin", "frank"] {
        let text = format!("plan = \"{}\"\ndoors = [\"exec\", \"socket\"]\n{}", tenant(), php(20));
        host.write(&format!("etc/tenants.d/{name}.toml"), &text);
    }
    let folder = host.path("nginx");
    let folder = folder.display().to_string();
    let of = |name: &str| fs::read_to_string(format!("{folder}/bailiwick.d/{name}.conf"));
    host.ok(&["web", "nginx", "--write", &folder]);
    let before = of("frank").expect("a file");
    host.write("etc/tenants.d/frank.toml", "plan = \"nothing-like-this\"\n");
    fs::remove_file(host.path("etc/tenants.d/erin.toml")).expect("removes");
    let partly = host.cli(&["web", "nginx", "--write", &folder]);
    let (said, complaint) = (String::from_utf8_lossy(&partly.stdout), String::from_utf8_lossy(&partly.stderr));
    assert_eq!(partly.status.code(), Some(7), "{partly:?}");
    assert!(said.contains("erin.conf is removed: take its `include` away"), "{said}");
    assert!(complaint.contains("frank.toml:1:8") && complaint.contains("stays: frank"), "{complaint}");
    assert_eq!(of("frank").expect("a file"), before);
    assert!(of("erin").is_err());
    // A real nginx takes the file that stays, and the include of the one that is gone.
    let includes: String =
        [tenant(), "erin"].map(|name| format!("include {folder}/bailiwick.d/{name}.con[f];")).concat();
    let other = format!(
        "include {folder}/bailiwick.conf;\nserver {{ listen unix:{folder}/frank.sock; include {folder}/bailiwick.d/frank.conf; }}"
    );
    drop(WebServer::nginx(&other, &includes));
    host.ok(&["web", "nginx", tenant(), "--write", &folder]);
    let shared = fs::read_to_string(format!("{folder}/bailiwick.conf")).expect("a file");
    assert!(shared.contains("upstream bailiwick.frank.web"), "{shared}");
    let named = host.cli(&["web", "nginx", "frank"]);
    assert_eq!(named.status.code(), Some(2), "{named:?}");
}

#[test]
fn what_is_printed_for_caddy_is_a_caddyfile() {
    let (host, _folder) = php_and_files("caddy");
    let printed = host.ok(&["web", "caddy", tenant()]);
    assert_eq!(answers(&WebServer::caddy(&printed), "/style.css").text(), "p { color: blue }");
}

#[test]
fn nginx_serves_it() {
    let (host, _folder) = php_and_files("nginx");
    let nginx = nginx(&host);
    check_site(&nginx, 200);
}

#[test]
fn an_answer_of_a_tenant_leads_nginx_nowhere_else() {
    let redirect = "X-Accel-Redirect";
    let (host, _folder) = php_and_files("nginx");
    site(&host, "www/to.php", &format!("<?php header('{redirect}: ' . $_GET['to']); echo 'own';"));
    let program = format!(
        r#"use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new_from_fd(3, "r+"); while (my $c = $l->accept) {{ my ($to) = <$c> =~ /to=(\S+)/; while (<$c> =~ /\S/) {{}} print $c "HTTP/1.0 200 OK\r\n{redirect}: $to\r\n\r\nown"; close $c }}"#
    );
    let text = format!(
        "plan = \"{}\"\ndoors = [\"exec\", \"socket\"]\n[[service]]\nname = \"app\"\ncommand = [\"/usr/bin/perl\", \"-e\", {program:?}]\n\
         [[service.socket]]\nname = \"web\"\npass = \"fd\"\nentries = 9\n",
        tenant()
    );
    host.write("etc/tenants.d/other.toml", &text);
    host.ok(&["apply"]);
    let folder = host.path("nginx");
    host.ok(&["web", "nginx", "--write", &folder.display().to_string()]);
    let secret = host.path("secret");
    fs::create_dir_all(&secret).expect("mkdir");
    fs::write(secret.join("file"), "the operator's").expect("writes");
    let http = format!(
        "include {0}/bailiwick.conf; server {{ listen unix:{1}/other.sock; include {0}/bailiwick.d/other.conf; \
         location /internal/ {{ internal; alias {2}/; }} }}",
        folder.display(),
        host.path("nginx").display(),
        secret.display()
    );
    let locations = format!(
        "include {}/bailiwick.d/{}.conf; location /internal/ {{ internal; alias {}/; }}",
        folder.display(),
        tenant(),
        secret.display()
    );
    let nginx = WebServer::nginx(&http, &locations);
    answers(&nginx, "/index.php");
    let other = host.path("nginx/other.sock");
    for to in ["/internal/file", &format!("@bailiwick.{}.busy", tenant()), "@bailiwick.other.busy"] {
        let answer = nginx.get(&format!("/to.php?to={to}"), &[]).expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "own"), "{to}: {answer:?}");
        let mut stream = UnixStream::connect(&other).expect("connects");
        let answer = request(&mut stream, &format!("/?to={to}"), &[]).expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "own"), "{to}: {answer:?}");
    }
}

#[test]
fn apache_serves_the_same_site() {
    let (_host, folder) = php_and_files("apache");
    let apache = WebServer::apache("", &format!("Include {}/bailiwick.d/{}.conf", folder.display(), tenant()));
    check_site(&apache, 404);
}

#[test]
fn caddy_serves_the_same_site() {
    let (_host, folder) = php_and_files("caddy");
    let caddy = WebServer::caddy(&format!("\timport {}/bailiwick.d/{}.conf", folder.display(), tenant()));
    check_site(&caddy, 200);
}

/// A page like that of a large content management system: 300 files are included, each with a class, and a database is
/// asked and written.
const LARGE_PAGE: &str = r#"<?php
    $parts = __DIR__ . '/parts';
    if (!is_dir($parts)) {
        mkdir($parts);
        for ($i = 0; $i < 300; $i++)
            file_put_contents("$parts/$i.php", "<?php class Part$i { function value() { return $i; } }");
    }
    $sum = 0;
    for ($i = 0; $i < 300; $i++) { require_once "$parts/$i.php"; $name = "Part$i"; $sum += (new $name)->value(); }
    $db = new SQLite3(__DIR__ . '/site.db');
    $db->busyTimeout(30000);
    $db->exec('PRAGMA journal_mode = WAL');
    $db->exec('CREATE TABLE IF NOT EXISTS post (id INTEGER PRIMARY KEY, title TEXT)');
    $db->exec("INSERT INTO post (title) VALUES ('hello')");
    echo $sum, ' ', count(get_included_files()), ' ', $db->querySingle('SELECT count(*) FROM post');
"#;

#[test]
fn a_page_of_many_files_with_a_database_works_for_many_visitors() {
    let host = host(&php(20));
    site(&host, "fpm.conf", POOL);
    site(&host, "www/index.php", LARGE_PAGE);
    host.ok(&["service", "restart", tenant()]);
    let nginx = nginx(&host);
    assert_eq!(answers(&nginx, "/index.php").text(), "44850 301 1");
    let visit = || (0..10).map(|_| nginx.get("/index.php", &[]).expect("an answer").text()).collect::<Vec<_>>();
    let mut all: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(visit)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("ends")).collect()
    });
    all.sort();
    let seen = all.iter().filter(|text| text.starts_with("44850 301 ")).count();
    assert_eq!(seen, 40, "{all:?}\n{}", nginx.errors());
    assert_eq!(answers(&nginx, "/index.php").text(), "44850 301 42");
}

#[test]
fn more_requests_than_entries_are_answered_508_with_a_time_to_retry() {
    // Its own limit of requests must not stand before that of PHP.
    let files = "[[service]]\nname = \"files\"\nfiles = \"www\"\n[[service.socket]]\nname = \"files\"\nentries = 50\n";
    let host = host(&(php(2) + files));
    site(&host, "fpm.conf", POOL);
    site(&host, "www/index.php", "<?php sleep(5); echo 'done';");
    host.ok(&["service", "restart", tenant()]);
    let nginx = nginx(&host);
    answers(&nginx, "/index.php");
    for path in ["/index.php", "/a/pretty/name"] {
        let all: Vec<Response> = std::thread::scope(|scope| {
            let one = || nginx.get(path, &[]).expect("an answer");
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
        });
        let of = |status| all.iter().filter(|answer| answer.status == status).count();
        assert_eq!((of(200), of(508)), (2, 4), "{all:?}");
        assert!(all.iter().all(|answer| answer.status == 200 || answer.field("Retry-After").is_some()), "{all:?}");
    }
}

#[test]
fn static_files_come_from_inside_the_jail() {
    let services = format!(
        "[[service]]\nname = \"files\"\nfiles = \"/home/{}/www\"\n[[service.socket]]\nname = \"files\"\npass = \"fd\"\n",
        tenant()
    );
    let host = host(&services);
    site(&host, "www/index.html", "<p>hello</p>");
    site(&host, "www/a/data.txt", "0123456789");
    let (status, _, err) = host.inside(
        tenant(),
        &format!(
            "cd /home/{}/www && ln -s /etc/passwd out && ln -s a/data.txt within && ln -s ../../../etc/passwd up",
            tenant()
        ),
    );
    assert_eq!(status, 0, "{err}");
    host.ok(&["service", "restart", tenant()]);
    let nginx = nginx(&host);
    assert_eq!(answers(&nginx, "/").text(), "<p>hello</p>");
    let whole = answers(&nginx, "/a/data.txt");
    assert_eq!((whole.text().as_str(), whole.field("Content-Type")), ("0123456789", Some("text/plain; charset=utf-8")));
    let part = nginx.get("/a/data.txt", &["Range: bytes=2-4"]).expect("an answer");
    assert_eq!((part.status, part.text().as_str()), (206, "234"), "{part:?}");
    let etag = whole.field("ETag").expect("an ETag").to_owned();
    let same = nginx.get("/a/data.txt", &[&format!("If-None-Match: {etag}")]).expect("an answer");
    assert_eq!(same.status, 304);
    assert_eq!(answers(&nginx, "/within").text(), "0123456789");
    for path in ["/out", "/up", "/..%2f..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/nothing", "/.hidden"] {
        let answer = nginx.get(path, &[]).expect("an answer");
        assert!(answer.status == 404 || answer.status == 400 || answer.status == 403, "{path}: {answer:?}");
    }
}

#[test]
fn a_program_that_listens_itself_is_relayed_with_websockets() {
    // Says HTTP, or switches the protocol and echoes.
    let program = r#"use IO::Socket::INET; $SIG{CHLD} = "IGNORE"; $SIG{PIPE} = "IGNORE";
        my $l = IO::Socket::INET->new(Listen => 8, LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, ReuseAddr => 1) or die $!;
        while (1) { my $c = $l->accept or next; next if fork; my $upgrade = 0;
            while (my $r = <$c>) { $upgrade = 1 if $r =~ /^upgrade: *websocket/i; last if $r eq "\r\n"; }
            $| = 1; select $c; $| = 1;
            if ($upgrade) { print $c "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"; my $b; while (sysread $c, $b, 100) { syswrite $c, $b; } }
            else { print $c "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"; }
            exit; }"#;
    let services = format!(
        "[[service]]\nname = \"node\"\ncommand = [\"/usr/bin/perl\", \"-e\", {program:?}]\n\
         [[service.socket]]\nname = \"web\"\npass = \"relay\"\nto = \"127.0.0.1:3000\"\n"
    );
    let host = host(&services);
    let nginx = nginx(&host);
    assert_eq!(answers(&nginx, "/").text(), "hello");
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("writes");
    let mut told = Vec::new();
    while !told.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        told.push(byte[0]);
    }
    assert!(told.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&told));
    stream.write_all(b"echo").expect("writes");
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).expect("reads");
    assert_eq!(&echo, b"echo");
}

#[test]
fn python_servers_take_over_the_socket() {
    let home = format!("/home/{}", tenant());
    let service = |command: &str| {
        format!(
            "[[service]]\nname = \"app\"\ncommand = [{command}]\ndirectory = \"{home}\"\n\
             [[service.socket]]\nname = \"web\"\npass = \"fd\"\n"
        )
    };
    let wsgi = "def app(request, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    \
                return [b'gunicorn ' + request['PATH_INFO'].encode()]\n";
    let asgi = "async def app(scope, receive, send):\n    assert scope['type'] == 'http'\n    \
                await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    \
                await send({'type': 'http.response.body', 'body': b'uvicorn ' + scope['path'].encode()})\n";
    let host = host(&service("\"/usr/bin/gunicorn\", \"wsgi:app\""));
    site(&host, "wsgi.py", wsgi);
    site(&host, "asgi.py", asgi);
    host.ok(&["service", "restart", tenant()]);
    let nginx = nginx(&host);
    assert_eq!(answers(&nginx, "/a/page").text(), "gunicorn /a/page");
    let text = service("\"/usr/bin/uvicorn\", \"--lifespan\", \"off\", \"--fd\", \"3\", \"asgi:app\"");
    let file = format!("etc/tenants.d/{}.toml", tenant());
    let before = fs::read_to_string(host.path(&file)).expect("a file");
    let (head, _) = before.split_once("[[service]]").expect("a service");
    host.write(&file, &format!("{head}{text}"));
    host.ok(&["apply"]);
    until("the other server answers", || {
        nginx.get("/b", &[]).is_ok_and(|answer| answer.status == 200 && answer.text() == "uvicorn /b")
    });
}

#[test]
fn node_listens_on_a_port_or_takes_over_the_socket() {
    let service = |name: &str, listen: &str, socket: &str| {
        let program = format!("require('http').createServer((q, r) => r.end('{name} ' + q.url)).listen({listen})");
        format!(
            "[[service]]\nname = \"{name}\"\ncommand = [\"/usr/bin/node\", \"-e\", {program:?}]\n\
             [[service.socket]]\nname = \"{name}\"\n{socket}\n"
        )
    };
    let relayed = service("relayed", "process.env.PORT", "pass = \"relay\"\nto = \"127.0.0.1:3000\"");
    let host = host(&(relayed + &service("passed", "{fd: 3}", "pass = \"fd\"")));
    for (name, golden) in [("relayed", "relayed /a"), ("passed", "passed /a")] {
        let socket = socket_path(&host.path("run"), tenant(), name);
        let mut last = None;
        until("node answers", || {
            let stream = UnixStream::connect(&socket);
            last = stream.and_then(|mut stream| request(&mut stream, "/a", &[])).ok();
            last.as_ref().is_some_and(|answer| answer.status == 200)
        });
        assert_eq!(last.expect("an answer").text(), golden);
    }
}

#[test]
fn the_configuration_is_written_only_when_it_changed() {
    let host = host(&php(20));
    let folder = host.path("nginx");
    fs::create_dir_all(&folder).expect("mkdir");
    let write = || host.ok(&["web", "nginx", "--write", &folder.display().to_string(), "--json"]);
    assert!(write().contains("true"));
    assert!(write().contains("false"));
    // A real nginx accepts it.
    let nginx = nginx(&host);
    drop(nginx);
    for server in ["apache", "caddy"] {
        let printed = host.ok(&["web", server, tenant()]);
        assert!(printed.contains(&format!("run/web/{}/web.sock", tenant())), "{printed}");
    }
    let failed = host.cli(&["web", "nginx", "nobody-here"]);
    assert_eq!(failed.status.code(), Some(3), "{failed:?}");
    assert!(Command::new("/usr/sbin/nginx").arg("-v").status().expect("runs").success());
}
