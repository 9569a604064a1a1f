//! The programs that customers use, as they are: what they fetch is outside, and they know nothing but its name.

use bailiwick_tests::wire::{HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, Program, RESOLVER, Wire};
use bailiwick_tests::{supports, until};
use bailiwick_types::Profile;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

/// The name of everything outside.
const NAME: &str = "mirror.bailiwick.test";

/// Serves a directory by HTTP and HTTPS, by both families of addresses.
const SERVER: &str = "
import functools, http.server, socket, ssl, sys, threading
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
plain, tls = Server(('::', 80), handler), Server(('::', 443), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
tls.socket = context.wrap_socket(tls.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=tls.serve_forever).start()
plain.serve_forever()
";

/// What is outside: a package for each client, of which each says the same when it is used. `$1` is the directory.
const SITE: &str = r#"set -eu
cd "$1"
openssl req -x509 -newkey rsa:2048 -nodes -keyout ../key.pem -out ca.pem -days 2 -subj /CN=mirror.bailiwick.test \
    -addext subjectAltName=DNS:mirror.bailiwick.test 2> /dev/null
echo 'hello from afar' > greeting

# A flat repository of Debian.
mkdir -p debian deb/DEBIAN deb/opt
printf 'Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@bailiwick.test>\nDescription: greets\n' \
    > deb/DEBIAN/control
cp greeting deb/opt/greeting
dpkg-deb --root-owner-group -b deb debian/greeting.deb > /dev/null
sum() { sha256sum < "$1" | cut -d ' ' -f 1; }
{ dpkg-deb -f debian/greeting.deb; echo "Filename: ./greeting.deb"; echo "Size: $(stat -c %s debian/greeting.deb)"
  echo "SHA256: $(sum debian/greeting.deb)"; } > debian/Packages
printf 'Date: %s\nSHA256:\n %s %s Packages\n' "$(LC_ALL=C date -Ru)" "$(sum debian/Packages)" "$(stat -c %s debian/Packages)" \
    > debian/Release

# A repository of git, for clients that only fetch files.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
git init -q work && cp greeting work && cd work && git add greeting
git -c user.name=nobody -c user.email=nobody@bailiwick.test commit -q -m 'a greeting' && cd ..
git clone -q --bare work greeting.git && git --git-dir greeting.git update-server-info

# An index of Python packages.
mkdir -p simple/greeting
python3 - <<'WHEEL'
import zipfile
with zipfile.ZipFile("simple/greeting/greeting-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("greeting.py", "print('hello from afar')\n")
    at = "greeting-1.0.dist-info/"
    wheel.writestr(at + "METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    wheel.writestr(at + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(at + "RECORD", "greeting.py,,\n" + "".join(at + name + ",,\n" for name in ("METADATA", "WHEEL", "RECORD")))
WHEEL
echo '<a href="greeting-1.0-py3-none-any.whl">greeting-1.0-py3-none-any.whl</a>' > simple/greeting/index.html

# A registry of Node packages.
mkdir -p npm package
printf '{"name":"greeting","version":"1.0.0","main":"index.js"}' > package/package.json
printf 'console.log("hello from afar")\n' > package/index.js
tar -czf npm/greeting-1.0.0.tgz package
printf '{"name":"greeting","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"greeting","version":"1.0.0","dist":{"shasum":"%s","tarball":"http://mirror.bailiwick.test/npm/greeting-1.0.0.tgz"}}}}' \
    "$(sha1sum < npm/greeting-1.0.0.tgz | cut -d ' ' -f 1)" > npm/greeting
"#;

/// A jail, and a world outside that has one name.
struct World {
    wire: Wire,
    _programs: [Program; 2],
}

impl World {
    fn new() -> Self {
        let mut wire = Wire::without_servers("");
        let site = wire.host.path("site");
        std::fs::create_dir(&site).expect("mkdir");
        let made = Command::new("sh").args(["-c", SITE, "sh"]).arg(&site).output().expect("sh runs");
        assert!(made.status.success(), "{made:?}");
        let log = wire.host.path("outside.log");
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let (ca, key) = (text(&site.join("ca.pem")), text(&wire.host.path("key.pem")));
        let server = wire.outside.start(&["python3", "-c", SERVER, &text(&site), &ca, &key], &log);
        let (v4, v6) = (format!("--address=/{NAME}/{OUTSIDE_V4}"), format!("--address=/{NAME}/{OUTSIDE_V6}"));
        let listen = format!("--listen-address={RESOLVER}");
        let settings =
            ["--bind-interfaces", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file", "--user=root"];
        let resolver = [&["dnsmasq", "--keep-in-foreground", &listen, &v4, &v6][..], &settings].concat();
        let resolver = wire.outside.start(&resolver, &log);
        // Package managers need more than a small web site.
        wire.host.write("etc/plans.d/web.toml", "profile = \"web\"\n[limits]\nmemory = \"1G\"\ntasks = 128\n");
        wire.host.write("etc/plans.d/system.toml", "profile = \"system\"\n[limits]\nmemory = \"1G\"\ntasks = 128\n");
        if supports(Profile::System) {
            wire.host.write("etc/tenants.d/bob.toml", "plan = \"system\"\n[network]\nmode = \"outbound\"\n");
        }
        wire.start(&[("alice", "")]);
        let world = Self { wire, _programs: [server, resolver] };
        let line = format!("curl -sSf http://{NAME}/greeting");
        until("the world answers", || world.run("alice", "alice", &line).status.success());
        world
    }

    /// Runs a line in a jail as one of its users. It must succeed, and the last that it says must be the greeting.
    #[track_caller]
    fn greets(&self, tenant: &str, user: &str, line: &str) {
        let output = self.run(tenant, user, &format!("set -e; {line}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = std::fs::read_to_string(self.wire.host.path("outside.log")).unwrap_or_default();
        let text = format!("{line}\n{said}\n{}\n--- outside ---\n{log}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            (output.status.code(), said.trim_end().lines().last()),
            (Some(0), Some("hello from afar")),
            "{text}"
        );
    }

    fn run(&self, tenant: &str, user: &str, line: &str) -> Output {
        self.wire.host.cli(&["exec", tenant, "--user", user, "--", "/bin/sh", "-c", line])
    }
}

#[test]
fn curl_apt_git_pip_and_npm_fetch_what_has_a_name() {
    let world = World::new();
    let arrivals = world.wire.arrivals();
    for family in ["-4", "-6"] {
        world.greets("alice", "alice", &format!("curl {family} -sSf http://{NAME}/greeting"));
        world.greets("alice", "alice", &format!("curl -sSf -o ~/ca.pem http://{NAME}/ca.pem; curl {family} -sSf --cacert ~/ca.pem https://{NAME}/greeting"));
    }
    world.greets("alice", "alice", &format!("git clone -q http://{NAME}/greeting.git ~/clone; cat ~/clone/greeting"));
    world.greets(
        "alice",
        "alice",
        &format!(
            "/usr/bin/python3 -m pip install -q --no-cache-dir --cert ~/ca.pem --index-url https://{NAME}/simple/ --target ~/lib greeting; \
             cd ~/lib; /usr/bin/python3 -c 'import greeting'"
        ),
    );
    let apt = format!(
        "echo 'deb [trusted=yes] http://{NAME}/debian ./' > /root/mirror.list; cd /root; \
         options='-q -o Dir::Etc::SourceList=/root/mirror.list -o Dir::Etc::SourceParts=-'; apt-get update $options"
    );
    // Only a jail of "system" has packages of its own.
    let unpack = "apt-get download $options greeting; dpkg-deb -x greeting_1.0_all.deb out; cat out/opt/greeting";
    world.greets("alice", "root", &format!("{apt}; {unpack}"));
    if supports(Profile::System) {
        let empty = "mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates; touch /var/lib/dpkg/status";
        world.greets(
            "bob",
            "root",
            &format!("{apt}; {empty}; apt-get install -y $options greeting >&2; cat /opt/greeting"),
        );
    }
    if Path::new("/usr/bin/npm").exists() {
        let install = "npm install --silent --no-audit --no-fund --no-update-notifier";
        let line = format!(
            "mkdir ~/app; cd ~/app; {install} --registry http://{NAME}/npm/ greeting; node -e 'require(\"greeting\")'"
        );
        world.greets("alice", "alice", &line);
    } else {
        // Written directly to standard error, because the test harness captures `eprintln!`.
        std::io::stderr().write_all(b"clients: NOT with npm: this machine has none\n").ok();
    }
    let wrong = arrivals.matching(|packet| {
        packet.addresses().is_some_and(|(_, to)| {
            let may = if to == RESOLVER { [53, 53] } else { [80, 443] };
            let is_known = to == RESOLVER || to == OUTSIDE_V4 || to == OUTSIDE_V6;
            packet.port().is_some_and(|port| !is_known || !may.contains(&port))
        })
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A server of ssh, as a tenant runs it: with keys of its own, on a port that needs no rights.
const SSHD: &str = "[[service]]
name = \"ssh\"
command = [\"/bin/sh\", \"-c\", \"umask 077; mkdir -p ~/.ssh; cat /home/alice/key.pub > ~/.ssh/authorized_keys; \
            [ -e ~/host.key ] || dropbearkey -t ed25519 -f ~/host.key; exec dropbear -F -E -s -r ~/host.key -p 2222 -P ~/ssh.pid\"]
";

#[test]
fn ssh_from_outside_reaches_a_server_that_is_a_service() {
    let mut wire = Wire::with(", ports = \"40000-40009\"");
    let network = "[network]\nmode = \"published\"\npublish = [{ host = \"tcp/40002\", to = \"tcp/2222\" }]\n";
    wire.host.write("etc/tenants.d/alice.toml", &format!("plan = \"web\"\n{SSHD}{network}"));
    wire.start(&[]);
    let key = wire.host.path("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen runs").success());
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("a key");
    let put = format!("echo '{}' > /home/alice/key.pub && chown alice /home/alice/key.pub", public.trim());
    assert_eq!(wire.host.inside("alice", &put).0, 0);
    wire.host.ok(&["service", "restart", "alice", "ssh"]);
    for host in [HOST_V4.to_string(), HOST_V6.to_string()] {
        let ssh = |line: &str| {
            let key = key.display();
            let options = "-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o ConnectTimeout=30";
            wire.outside.sh(&format!("ssh {options} -p 40002 -i {key} alice@{host} '{line}'"))
        };
        until("ssh lets us in", || ssh("true").status.success());
        let output = ssh("id -un; echo $SSH_CONNECTION; hostname");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let from = if host.contains(':') { OUTSIDE_V6.to_string() } else { OUTSIDE_V4.to_string() };
        assert!(said.starts_with(&format!("alice\n{from} ")), "{output:?}");
        // More than fits into any buffer.
        let copied = ssh("head -c 3000000 /dev/zero | wc -c");
        assert_eq!(String::from_utf8_lossy(&copied.stdout).trim(), "3000000", "{copied:?}");
    }
    let logs = wire.host.ok(&["logs", "alice", "ssh"]);
    for client in [OUTSIDE_V4.to_string(), OUTSIDE_V6.to_string()] {
        assert!(logs.contains(&client), "the server knows its clients: {logs}");
    }
}
