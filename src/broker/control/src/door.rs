//! The checks of a session: whether the door is open, which user it has inside, its environment, and which descriptors
//! may cross.
//!
//! Danger: a descriptor of the host inside a jail is a way out. Only pipes may cross. A process could walk up from a
//! directory, type into a terminal, use the network that a socket was made in, and read a file back.

use bailiwick_policy::{Declared, Tenant};
use bailiwick_proto::control::{Exec, Login};
use bailiwick_proto::init::{JailUser, Spawn};
use bailiwick_proto::{Bytes, Failure, Refusal};
use bailiwick_sys::stream::{self, Direction};
use bailiwick_types::{Access, Door, ExitStatus, MAX_COMMAND, TenantName};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// The most variables that a client may add to a session's environment, and the most bytes in them.
const MAX_ENV: usize = 256;
const MAX_ENV_BYTES: usize = 64 << 10;
/// The longest public key text that is accepted, in bytes. An RSA key of 16384 bits has 2,800 bytes.
const MAX_KEY: usize = 8 << 10;
/// Where commands are looked up inside. The last directory has what Bailiwick lends.
pub(crate) const PATH_INSIDE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/host/bin";
/// The login shell of every user inside.
pub(crate) const SHELL: &str = "/bin/bash";
/// The SFTP server at Debian's path (package openssh-sftp-server). It runs inside the jail, never on the host.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
/// The user id and group id of the login user inside every jail.
pub(crate) const LOGIN_ID: u32 = bailiwick_plan::seed::LOGIN_ID;

fn refused(message: impl Into<String>) -> Failure {
    Failure::of(ExitStatus::Refused, message)
}

/// The refusal for clients of a suspended tenant, and the text for its open sessions.
pub(crate) fn suspended(tenant: &TenantName, reason: Option<&str>) -> Refusal {
    Refusal::Suspended { tenant: tenant.clone(), why: reason.map(str::to_owned) }
}

/// The session for a login through sshd: the login user's shell, or the SFTP server.
pub(crate) fn of_login(tenant: &Tenant, login: &Login) -> Result<Exec, Failure> {
    let text = |text: &str| Bytes::new(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
    let argv = match (login.door, &login.command) {
        (Door::Ssh, None) => Vec::new(),
        (Door::Ssh, Some(command)) => vec![text(SHELL)?, text("-c")?, command.clone()],
        // `-R` tells the client that nothing can be written (`sftp-server(8)`). The read-only mounts enforce it.
        (Door::Sftp, _) if tenant.access() == Some(Access::ReadOnly) => vec![text(SFTP_SERVER)?, text("-R")?],
        (Door::Sftp, _) => vec![text(SFTP_SERVER)?],
        (door, _) => {
            let message = format!("nobody logs in by the door \"{door}\"; \"ssh\" and \"sftp\" are those of sshd");
            return Err(Failure::of(ExitStatus::Invalid, message));
        }
    };
    check_client(login.source.as_deref(), login.key.as_deref())?;
    Ok(Exec {
        tenant: tenant.name.clone(),
        user: Some(tenant.login.user.to_string()),
        argv,
        env: login.env.clone(),
        cwd: None,
        terminal: login.terminal,
    })
}

/// Checks what the login shell says of the client, because it goes into the log: the source must be an IP address, and
/// the key must have only the characters of a public key.
pub(crate) fn check_client(source: Option<&str>, key: Option<&str>) -> Result<(), Failure> {
    if let Some(source) = source.filter(|source| source.parse::<IpAddr>().is_err()) {
        return Err(Failure::of(ExitStatus::Invalid, format!("{source:?} is no address of a client")));
    }
    let of_a_key = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    match key.filter(|key| key.len() > MAX_KEY || !key.bytes().all(of_a_key)) {
        Some(_) => Err(Failure::of(ExitStatus::Invalid, "this is no public key")),
        None => Ok(()),
    }
}

/// The command as text for people: words separated by spaces, cut to the length of a record. `None` for a login shell.
pub(crate) fn in_words(exec: &Exec) -> Option<String> {
    let words: Vec<_> = exec.argv.iter().map(|word| word.as_os_str().to_string_lossy()).collect();
    (!exec.argv.is_empty()).then(|| short(words.join(" ")))
}

/// Cuts a text to the length that a record keeps.
pub(crate) fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_COMMAND));
    text
}

/// Checks that the door is open.
pub(crate) fn check_open(tenant: &Tenant, door: Door) -> Result<(), Failure> {
    if let Declared::Suspended { reason } = &tenant.state
        && !tenant.is_open(door)
    {
        return Err(suspended(&tenant.name, reason.as_deref()).into());
    }
    if tenant.settings.doors.contains(&door) {
        return Ok(());
    }
    Err(refused(format!("the door \"{door}\" of \"{}\" is closed: `doors` in its plan or file", tenant.name)))
}

/// Checks that the door is open, and makes the request to init.
pub(crate) fn admit(tenant: &Tenant, door: Door, exec: &Exec, streams: &[OwnedFd]) -> Result<Spawn, Failure> {
    check_open(tenant, door)?;
    check_streams(exec, streams)?;
    let (user, name) = user(tenant, exec.user.as_deref())?;
    let env = environment(tenant, &user, &name, exec)?;
    let text = |text: &str| Bytes::new(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
    let (argv, arg0) = if exec.argv.is_empty() {
        // A dash before the name tells a shell that it is a login shell.
        (vec![text(SHELL)?], Some(text("-bash")?))
    } else {
        (exec.argv.clone(), None)
    };
    Ok(Spawn { user, argv, arg0, env, cwd: exec.cwd.clone(), terminal: exec.terminal })
}

/// Checks that each stream is an end of an unnamed pipe, in the right direction. A FIFO has a name on the host, and
/// leads to any process that opens it. A descriptor with `O_PATH`, or one open for both directions, is refused.
fn check_streams(exec: &Exec, streams: &[OwnedFd]) -> Result<(), Failure> {
    let wanted: &[Direction] =
        if exec.terminal.is_some() { &[] } else { &[Direction::Reading, Direction::Writing, Direction::Writing] };
    if streams.len() != wanted.len() {
        let message = format!("{} descriptors came with the request instead of {}", streams.len(), wanted.len());
        return Err(Failure::of(ExitStatus::Invalid, message));
    }
    for (stream, wanted) in streams.iter().zip(wanted) {
        if !matches!(stream::pipe_direction(stream), Ok(Some(direction)) if direction == *wanted) {
            return Err(refused("only pipes without a name may cross into a jail, by their right ends"));
        }
    }
    Ok(())
}

/// The user inside. Names come from the policy, never from a file of the tenant. Numbers must be exact.
pub(crate) fn user(tenant: &Tenant, wanted: Option<&str>) -> Result<(JailUser, String), Failure> {
    let login = tenant.login.user.as_str();
    let root = || (JailUser { uid: 0, gid: 0, home: "/root".into() }, "root".to_owned());
    let own = || (JailUser { uid: LOGIN_ID, gid: LOGIN_ID, home: format!("/home/{login}") }, login.to_owned());
    match wanted {
        None | Some("root" | "0") => Ok(root()),
        Some(name) if name == login || name == LOGIN_ID.to_string() => Ok(own()),
        Some(text) => {
            let exact = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
            if let (true, Ok(number @ 1..=65_535)) = (exact, text.parse()) {
                return Ok((JailUser { uid: number, gid: number, home: "/".into() }, number.to_string()));
            }
            let message = format!(
                "there is no user {text:?} in \"{}\"; known are \"root\", \"{login}\" and numbers from 0 to 65535",
                tenant.name
            );
            Err(Failure::of(ExitStatus::NotFound, message))
        }
    }
}

/// A clean environment, with the client's variables added.
fn environment(tenant: &Tenant, user: &JailUser, name: &str, exec: &Exec) -> Result<Vec<(Bytes, Bytes)>, Failure> {
    let bytes: usize = exec.env.iter().map(|(key, value)| key.as_bytes().len() + value.as_bytes().len()).sum();
    if exec.env.len() > MAX_ENV || bytes > MAX_ENV_BYTES {
        let message = format!("the environment is over {MAX_ENV} variables or {MAX_ENV_BYTES} bytes");
        return Err(Failure::of(ExitStatus::Invalid, message));
    }
    let mut env: Vec<(Bytes, Bytes)> = Vec::new();
    let mut base = vec![
        ("PATH", PATH_INSIDE),
        ("HOME", user.home.as_str()),
        ("USER", name),
        ("LOGNAME", name),
        ("SHELL", SHELL),
        ("LANG", "C.UTF-8"),
    ];
    if exec.terminal.is_some() {
        base.push(("TERM", "xterm"));
    }
    // The plan makes these directories only for root and the login user.
    let runtime_dir = format!("/run/user/{}", user.uid);
    if [0, LOGIN_ID].contains(&user.uid) {
        base.push(("XDG_RUNTIME_DIR", &runtime_dir));
    }
    let limits = &tenant.settings.limits;
    let memory = limits.memory.value().map(|size| size.0.to_string());
    let cpus = limits.cpu.value().map(|share| share.cores());
    base.extend(memory.iter().map(|bytes| ("BAILIWICK_MEMORY", bytes.as_str())));
    base.extend(cpus.iter().map(|cores| ("BAILIWICK_CPUS", cores.as_str())));
    for (key, value) in base {
        if !exec.env.iter().any(|(own, _)| own.as_bytes() == key.as_bytes()) {
            let text = |text| Bytes::new(text).map_err(|error| Failure::new(ExitStatus::Invalid, &error));
            env.push((text(key)?, text(value)?));
        }
    }
    for (key, value) in &exec.env {
        let name = key.as_bytes();
        let first = name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
        if !first || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            let message = format!("{key:?} is no name of an environment variable");
            return Err(Failure::of(ExitStatus::Invalid, message));
        }
        env.push((key.clone(), value.clone()));
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_sys::socket;
    use std::io;
    use std::os::fd::AsFd;

    use bailiwick_proto::init::WindowSize;

    fn tenant(more: &str) -> Tenant {
        let files = [
            (std::path::PathBuf::from("bailiwick.toml"), String::new()),
            ("plans.d/small.toml".into(), format!("profile = \"web\"\n{more}")),
            ("tenants.d/alice.toml".into(), "plan = \"small\"\n".into()),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert!(reading.diagnostics.is_empty(), "{}", bailiwick_diagnostics::render(&reading.diagnostics));
        reading.policy.expect("valid").tenants.into_values().next().expect("one tenant")
    }

    fn exec() -> Exec {
        Exec {
            tenant: "alice".parse().expect("a name"),
            user: None,
            argv: vec![Bytes::new("id").expect("no NUL")],
            env: Vec::new(),
            cwd: None,
            terminal: Some(WindowSize { rows: 24, columns: 80 }),
        }
    }

    #[test]
    fn of_a_suspended_tenant_only_the_doors_that_stay_open_are() {
        let open = tenant("doors = [\"exec\", \"ssh\", \"sftp\", \"cron\"]\nsuspended_doors = [\"sftp\", \"ftp\"]\n");
        let reason = Some("unpaid".to_owned());
        let shut = Tenant { state: Declared::Suspended { reason }, ..open.clone() };
        for (tenant, admitted) in
            [(&open, &[Door::Exec, Door::Ssh, Door::Sftp, Door::Cron][..]), (&shut, &[Door::Sftp])]
        {
            for door in Door::ALL {
                let result = admit(tenant, *door, &exec(), &[]);
                assert_eq!(result.is_ok(), admitted.contains(door), "{door}: {result:?}");
                if let (Err(failure), Declared::Suspended { .. }) = (result, &tenant.state) {
                    assert_eq!(
                        (failure.status, failure.message.as_str()),
                        (ExitStatus::Refused, "tenant \"alice\" is suspended: unpaid")
                    );
                }
            }
        }
        let login = |tenant: &Tenant| {
            let login =
                Login { door: Door::Sftp, command: None, env: Vec::new(), terminal: None, source: None, key: None };
            of_login(tenant, &login).expect("a login").argv.len()
        };
        assert_eq!((login(&open), login(&shut)), (1, 2), "the client is told in words that nothing can be written");
    }

    #[test]
    fn a_closed_door_stays_closed() {
        let failure = admit(&tenant("doors = [\"ssh\"]\n"), Door::Exec, &exec(), &[]).expect_err("closed");
        assert_eq!(failure.status, ExitStatus::Refused);
    }

    #[test]
    fn a_login_is_the_login_users_shell_or_sftp_and_nothing_else() {
        let tenant = tenant("doors = [\"ssh\"]\n");
        let login = |door, command: Option<&str>| Login {
            door,
            command: command.map(|text| Bytes::new(text).expect("no NUL")),
            env: Vec::new(),
            terminal: Some(WindowSize { rows: 24, columns: 80 }),
            source: Some("2001:db8::7".to_owned()),
            key: None,
        };
        let argv = |login: &Login| -> Vec<String> {
            let exec = of_login(&tenant, login).expect("a login");
            assert_eq!(exec.user.as_deref(), Some("alice"));
            exec.argv.iter().map(|word| word.as_os_str().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(argv(&login(Door::Ssh, None)), [""; 0]);
        assert_eq!(argv(&login(Door::Ssh, Some("-x; id"))), ["/bin/bash", "-c", "-x; id"]);
        // The command that the client sends for `sftp` is ignored.
        assert_eq!(argv(&login(Door::Sftp, Some("rm -r /"))), ["/usr/lib/openssh/sftp-server"]);
        for door in [Door::Exec, Door::Ftp, Door::Cron, Door::Socket] {
            assert_eq!(of_login(&tenant, &login(door, None)).expect_err("no login").status, ExitStatus::Invalid);
        }
        let forged = Login { source: Some("10.0.0.1\nroot entered".to_owned()), ..login(Door::Ssh, None) };
        assert_eq!(of_login(&tenant, &forged).expect_err("no address").status, ExitStatus::Invalid);
        for key in ["ssh-ed25519 AAAA\nroot entered", "\u{1b}", &"A".repeat(MAX_KEY + 1)] {
            let forged = Login { key: Some(key.to_owned()), ..login(Door::Ssh, None) };
            assert_eq!(of_login(&tenant, &forged).expect_err("no key").status, ExitStatus::Invalid);
        }
        let sftp = of_login(&tenant, &login(Door::Sftp, None)).expect("a login");
        assert_eq!(admit(&tenant, Door::Sftp, &sftp, &[]).expect_err("closed").status, ExitStatus::Refused);
        assert_eq!(admit(&tenant, Door::Ssh, &sftp, &[]).expect("open").user.uid, LOGIN_ID);
    }

    #[test]
    fn users_are_known_names_or_exact_numbers() {
        let tenant = tenant("");
        for (text, uid) in [("root", 0), ("0", 0), ("alice", 1000), ("1000", 1000), ("1", 1), ("65535", 65_535)] {
            assert_eq!(user(&tenant, Some(text)).expect(text).0.uid, uid);
        }
        for text in ["", "+1", "-1", "01", "00", "0x1", " 1", "1 ", "65536", "4294967296", "daemon", "1\n", "١"] {
            assert!(user(&tenant, Some(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_environment_is_clean_and_bounded() {
        let bytes = |text: &str| Bytes::new(text).expect("no NUL");
        let with = |env: Vec<(Bytes, Bytes)>| admit(&tenant(""), Door::Exec, &Exec { env, ..exec() }, &[]);
        let spawn = with(vec![(bytes("PATH"), bytes("/x")), (bytes("A_1"), bytes("b=c\n"))]).expect("admitted");
        let paths: Vec<_> = spawn.env.iter().filter(|(key, _)| key.as_bytes() == b"PATH").collect();
        assert_eq!(paths.len(), 1);
        let value = |name: &str| {
            let found = spawn.env.iter().find(|(key, _)| key.as_bytes() == name.as_bytes());
            found.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let limits = tenant("").settings.limits;
        assert_eq!(value("BAILIWICK_MEMORY"), limits.memory.value().map(|size| size.0.to_string()));
        assert_eq!(value("BAILIWICK_CPUS"), limits.cpu.value().map(|share| share.cores()));
        assert_eq!(value("XDG_RUNTIME_DIR").as_deref(), Some("/run/user/0"));
        for bad in ["", "=", "A=", "1A", "A B", "A\n", "LD-X"] {
            assert!(with(vec![(bytes(bad), bytes("x"))]).is_err(), "{bad:?}");
        }
        assert!(with(vec![(bytes("A"), bytes("x")); 257]).is_err());
        assert!(with(vec![(bytes("A"), bytes(&"x".repeat(65 << 10)))]).is_err());
    }

    #[test]
    fn only_pipes_without_a_name_cross_by_their_right_ends() {
        let (reader, writer) = io::pipe().expect("pipe");
        let dup = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("dup");
        let tenant = tenant("");
        let piped = Exec { terminal: None, ..exec() };
        let check = |streams: &[OwnedFd]| admit(&tenant, Door::Exec, &piped, streams).map(drop);
        let good = || vec![dup(&reader), dup(&writer), dup(&writer)];
        assert!(check(&good()).is_ok());
        let temp = tempfile::tempdir().expect("temporary directory");
        let fifo = temp.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("a FIFO");
        let both = std::fs::File::options().read(true).write(true).open(&fifo).expect("opens");
        let end = std::fs::File::open(&fifo).expect("opens");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let named = rustix::fs::open(&path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("opens");
        let open_both = std::fs::File::options().read(true).write(true).open(&path).expect("opens");
        let null = std::fs::File::open("/dev/null").expect("opens");
        let folder = std::fs::File::open("/").expect("opens");
        let file = std::fs::File::open("/proc/self/exe").expect("opens");
        let (socket, _peer) = socket::channel().expect("pair");
        let wrong: [&dyn AsFd; 9] = [&both, &end, &named, &open_both, &null, &folder, &file, &socket, &writer];
        for (index, fd) in wrong.into_iter().enumerate() {
            let mut streams = good();
            streams[0] = dup(fd);
            let failure = check(&streams).expect_err("no end of a pipe");
            let message = "only pipes without a name may cross into a jail, by their right ends";
            assert_eq!(failure, Failure::of(ExitStatus::Refused, message), "{index}");
        }
        let mut streams = good();
        streams[2] = dup(&reader);
        assert!(check(&streams).is_err(), "the jail could read what it says");
        assert!(check(&good()[..2]).is_err());
        assert!(admit(&tenant, Door::Exec, &exec(), &good()[..1]).is_err(), "nothing crosses beside a terminal");
    }
}
