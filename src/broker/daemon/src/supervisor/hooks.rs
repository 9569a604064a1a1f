//! Hooks, for `--standalone`: `bailiwick-hooks` beside the other programs, once there is a file of a hook.

use super::beside::{MakeCommand, Purpose};
use super::user;
use bailiwick_policy::Store;
use bailiwick_proto::HOOKS_SOCKET;
use bailiwick_sys::process;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// The operator's programs for events.
pub(super) struct Hooks {
    program_path: PathBuf,
    config: PathBuf,
    store: Store,
    /// The user that hooks run as: a name or a number.
    user: String,
    /// Where requests come in. It stays open while the program is started anew, so that requests wait meanwhile.
    socket: Option<Rc<Socket>>,
}

impl Hooks {
    /// `program_path` is `bailiwick-hooks`.
    pub(super) fn new(program_path: PathBuf, config: &Path, user: &str) -> Self {
        let (config, store) = (config.to_owned(), Store::new(config));
        Self { program_path, config, store, user: user.to_owned(), socket: None }
    }
}

impl Purpose for Hooks {
    const NAME: &'static str = "bailiwick-hooks";
    const LOSS: &'static str = "no hook runs";

    fn is_wanted(&mut self) -> bool {
        has_files(&self.config.join("hooks.d"))
    }

    fn prepare(&mut self) -> Result<MakeCommand, String> {
        let (host, _) = self.store.host().map_err(|problems| bailiwick_diagnostics::render(&problems))?;
        let (uid, gid) = user(&self.user).map_err(|ended| ended.message)?;
        let (_, clients) = user(&host.notices.user).map_err(|ended| ended.message)?;
        let socket = if let Some(socket) = &self.socket {
            Rc::clone(socket)
        } else {
            let path = host.runtime_dir.join(HOOKS_SOCKET);
            let made = Socket::new(&path, clients);
            Rc::new(made.map_err(|error| format!("cannot listen on \"{}\": {error}", path.display()))?)
        };
        self.socket = Some(Rc::clone(&socket));
        let (path, config) = (self.program_path.clone(), self.config.clone());
        Ok(Box::new(move || {
            let mut command = Command::new(&path);
            command.arg("--inherited").arg("--config").arg(&config).env_clear().current_dir("/").uid(uid).gid(gid);
            if let Err(error) = process::inherit(&mut command, &[socket.listener.as_fd()]) {
                // The program ends when there is no socket, and says so.
                tracing::warn!(event = "descriptors-lost", "bailiwick-hooks has no socket: {error}");
            }
            command
        }))
    }
}

/// A listening socket, until this is dropped.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Root and one group may connect.
    fn new(path: &Path, group: u32) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(ErrorKind::AddrInUse, "another program listens there"));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        chown(path, Some(0), Some(group))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// Whether a folder has a file of a hook or of a webhook. Whoever reads them says what is wrong with them.
pub(super) fn has_files(folder: &Path) -> bool {
    let is_file = |name: &OsStr| Path::new(name).extension().is_some_and(|extension| extension == "toml");
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| is_file(&entry.file_name()))
}
