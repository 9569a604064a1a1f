//! What a child of init does before it becomes the program of a session or of a service.

use bailiwick_proto::Bytes;
use bailiwick_proto::init::JailUser;
use bailiwick_sys::{credential, file, process, signal};
use bailiwick_types::{MAX_GROUP_FILE, groups_of};
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;
use std::io;

/// The `oom_score_adj` of a child (`proc_pid_oom_score_adj(5)`). Init has 500 from the warden, so the kernel kills a child first.
const OOM_SCORE: &[u8] = b"700";

/// The error number of an error; `EIO` for one that has none.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error())
}

/// Gives this child its own session, and every signal its default action.
pub(crate) fn begin() -> io::Result<()> {
    signal::reset_all()?;
    rustix::process::setsid()?;
    Ok(())
}

/// Makes this child the first that the kernel kills when memory runs out. If this cannot be set, it goes on all the same.
pub(crate) fn set_oom_score() -> io::Result<()> {
    // Until it executes another program, this child is undumpable like init, and nobody inside owns its files in `/proc`. The
    // next step writes one of them.
    credential::set_dumpable()?;
    if let Ok(score) = rustix::fs::open("/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        rustix::io::write(&score, OOM_SCORE).ok();
    }
    Ok(())
}

/// Makes this child the user, with the groups that the jail's files give it, in its home or in `/`.
pub(crate) fn become_user(user: &JailUser) -> io::Result<()> {
    let groups = groups(user.uid);
    credential::become_for_good_in(user.uid, user.gid, &groups)?;
    // A missing home does not keep its user out.
    if rustix::process::chdir(user.home.as_bytes()).is_err() {
        rustix::process::chdir("/")?;
    }
    Ok(())
}

/// The supplementary groups of a user in the jail's own `/etc/passwd` and `/etc/group`. Files that cannot be read give no
/// groups. A file that blocks the reader blocks only this child.
fn groups(uid: u32) -> Vec<u32> {
    let read = |path: &str| -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        if file::metadata(&fd)?.kind != rustix::fs::FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file::read_bounded(fd, MAX_GROUP_FILE)
    };
    match (read("/etc/passwd"), read("/etc/group")) {
        (Ok(passwd), Ok(group)) => groups_of(uid, &passwd, &group),
        _ => Vec::new(),
    }
}

/// Executes a command, and looks it up in the `PATH` of `env` as execvp(3) does. The program sees `arg0` in place of its first
/// argument. Returns only an error.
pub(crate) fn execute(argv: &[Bytes], arg0: Option<&Bytes>, env: &[(Bytes, Bytes)]) -> io::Error {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let build = || -> io::Result<(Vec<CString>, Vec<CString>)> {
        let mut args = argv.iter().map(|argument| text(argument.as_bytes())).collect::<io::Result<Vec<_>>>()?;
        if let (Some(name), Some(first)) = (arg0, args.first_mut()) {
            *first = text(name.as_bytes())?;
        }
        let env = env
            .iter()
            .map(|(key, value)| text(&[key.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<io::Result<Vec<_>>>()?;
        Ok((args, env))
    };
    let (args, variables) = match build() {
        Ok(built) => built,
        Err(error) => return error,
    };
    let program = argv[0].as_bytes();
    let try_path = |path: &[u8]| match text(path) {
        Ok(path) => process::execute_path(&path, &args, &variables),
        Err(error) => error,
    };
    if program.contains(&b'/') {
        return try_path(program);
    }
    let path = env.iter().rev().find(|(key, _)| key.as_bytes() == b"PATH");
    let path = path.map_or(&b"/usr/bin:/bin"[..], |(_, value)| value.as_bytes());
    let mut denied: Option<io::Error> = None;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let error = try_path(&[directory, b"/", program].concat());
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            // A program that exists but may not be executed must not be reported as "not found".
            io::ErrorKind::PermissionDenied => denied = Some(error),
            _ => return error,
        }
    }
    denied.unwrap_or_else(|| rustix::io::Errno::NOENT.into())
}
