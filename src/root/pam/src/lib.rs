//! `pam_bailiwick.so`: a PAM module (`pam(8)`) that checks the login of an FTP server and puts the server's process into the
//! jail.
//!
//! The process enters the jail when the server asks whether the login may come in (`account`), because a server may never open a
//! session. If it does not ask, the process enters with the session. The options are `runtime_dir=DIR`, the `runtime_dir` of
//! bailiwick.toml, and `passive_ports=FIRST-LAST`, the ports for data connections.
//!
//! Danger: this code runs in a server that is root and that strangers talk to. A wrong password, a daemon that does not answer,
//! and a wall that cannot be put up must each be a refusal. Nobody may get in without every wall.

mod ask;
mod jail;

use ask::{AskError, Connection};
use bailiwick_proto::{CONTROL_SOCKET, ControlReply, ControlRequest, WARDEN_SOCKET, WardenReply, WardenRequest};
use bailiwick_sys::{file, password};
use bailiwick_types::FtpUser;
use nonstick::items::Items;
use nonstick::{
    AuthnFlags, BaseFlags, CredAction, ErrorCode, ModuleClient, PamModule, Result as PamResult, error, pam_export,
};
use std::ffi::{CStr, OsStr};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Mutex;

const RUNTIME_DIR: &str = "/run/bailiwick";

/// The module.
#[derive(Debug)]
struct Bailiwick;
pam_export!(Bailiwick);

impl<T: ModuleClient> PamModule<T> for Bailiwick {
    /// Compares the password with the hash that `bailiwickd` gives to root.
    fn authenticate(handle: &mut T, args: Vec<&CStr>, _: AuthnFlags) -> PamResult<()> {
        let login = Login::of(handle, &args)?;
        let password = handle.authtok(None)?;
        match login.verify_password(password.as_bytes()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ErrorCode::AuthenticationError),
            Err(failure) => Err(report(handle, ErrorCode::AuthInfoUnavailable, &failure)),
        }
    }

    /// Puts this process into the jail. So whatever the server does after a "yes", it does there.
    fn account_management(handle: &mut T, args: Vec<&CStr>, _: AuthnFlags) -> PamResult<()> {
        let login = Login::of(handle, &args)?;
        login.enter_once().map_err(|failure| report(handle, ErrorCode::PermissionDenied, &failure))
    }

    fn set_credentials(_: &mut T, _: Vec<&CStr>, _: CredAction, _: BaseFlags) -> PamResult<()> {
        Ok(())
    }

    /// Puts this process into the jail, unless it is there already.
    fn open_session(handle: &mut T, args: Vec<&CStr>, _: BaseFlags) -> PamResult<()> {
        let login = Login::of(handle, &args)?;
        login.enter_once().map_err(|failure| report(handle, ErrorCode::SessionError, &failure))
    }

    /// Does nothing: the session ends with its process.
    fn close_session(_: &mut T, _: Vec<&CStr>, _: BaseFlags) -> PamResult<()> {
        Ok(())
    }
}

/// Writes the failure to the log of the system, and returns the code for the server.
fn report<T: ModuleClient>(handle: &mut T, code: ErrorCode, failure: &dyn Display) -> ErrorCode {
    error!(handle, "bailiwick: {failure}");
    code
}

/// Why a login is refused.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("\"{0}\" is no login of a tenant (NAME@TENANT)")]
    InvalidName(String),
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("cannot compare the password: {0}")]
    Password(std::io::Error),
    #[error("cannot enter the jail: {0}")]
    Jail(#[from] jail::JailError),
    #[error("the process is in the jail, but its session is not counted: {0}")]
    NotCounted(AskError),
    #[error("this process has entered the jail of \"{0}\", or has tried to, and cannot enter another")]
    OtherJail(String),
}

/// A login, as the server describes it, and the options of the module.
#[derive(Debug)]
struct Login {
    user: String,
    source: Option<String>,
    runtime_dir: PathBuf,
    passive_ports: Option<RangeInclusive<u16>>,
}

/// The login whose jail this process has entered, or has tried to enter.
static ENTERED: Mutex<Option<(String, EntryState)>> = Mutex::new(None);

/// How far an entry into a jail came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    /// All walls are up.
    Complete,
    /// Some walls are missing. This process is refused for ever.
    Failed,
}

/// Parses a range of ports, `FIRST-LAST`. Ports below 1024 belong to the services of the host and are refused.
fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && first >= 1024).then_some(first..=last)
}

impl Login {
    fn of<T: ModuleClient>(handle: &mut T, args: &[&CStr]) -> PamResult<Self> {
        let mut runtime_dir = PathBuf::from(RUNTIME_DIR);
        let mut passive_ports = None;
        for arg in args {
            if let Some(dir) = arg.to_bytes().strip_prefix(b"runtime_dir=") {
                runtime_dir = PathBuf::from(OsStr::from_bytes(dir));
            } else if let Some(range) =
                arg.to_str().ok().and_then(|arg| parse_ports(arg.strip_prefix("passive_ports=")?))
            {
                passive_ports = Some(range);
            } else {
                return Err(report(handle, ErrorCode::ServiceError, &format_args!("unknown option {arg:?}")));
            }
        }
        let user = handle.username(None)?.into_string().map_err(|_| ErrorCode::UserUnknown)?;
        let source = handle.items().remote_host()?.and_then(|host| host.into_string().ok());
        // Only an address counts. A name comes from a resolver whose answer the client may control.
        let source = source.filter(|source| source.parse::<std::net::IpAddr>().is_ok());
        Ok(Self { user, source, runtime_dir, passive_ports })
    }

    fn bailiwickd(&self) -> Result<Connection, AskError> {
        let socket = self.runtime_dir.join(CONTROL_SOCKET);
        // Without a service manager, `bailiwickd` itself listens. Its user owns this directory, which root has made.
        let owner =
            socket.parent().and_then(|dir| file::open_dir(dir).and_then(file::metadata).ok()).map(|dir| dir.uid);
        Connection::open("bailiwickd", &socket, &self.runtime_dir, owner)
    }

    /// Compares the password with the login's hash, and reports a wrong one to `bailiwickd`.
    fn verify_password(&self, password: &[u8]) -> Result<bool, LoginError> {
        let mut bailiwickd = self.bailiwickd()?;
        let request = ControlRequest::FtpHash { user: self.user.clone() };
        let (ControlReply::FtpHash(hash), _) = bailiwickd.ask(&request, ask::check_control)? else {
            return Err(AskError::Unexpected("bailiwickd").into());
        };
        let is_right = password::matches(password, hash.as_str()).map_err(LoginError::Password)?;
        if !is_right {
            let request = ControlRequest::FtpRefused { user: self.user.clone(), source: self.source.clone() };
            bailiwickd.ask(&request, ask::check_control)?;
        }
        Ok(is_right)
    }

    /// Enters the jail, unless this process has done so for this login.
    fn enter_once(&self) -> Result<(), LoginError> {
        let mut entered = ENTERED.lock().map_err(|_| LoginError::OtherJail(self.user.clone()))?;
        match &*entered {
            Some((user, EntryState::Complete)) if *user == self.user => return Ok(()),
            Some((user, _)) => return Err(LoginError::OtherJail(user.clone())),
            None => {}
        }
        let result = self.enter();
        // A refusal before the first wall leaves the process unchanged, so another login may be tried.
        *entered = match &result {
            Ok(()) => Some((self.user.clone(), EntryState::Complete)),
            Err(LoginError::Jail(_) | LoginError::NotCounted(_)) => Some((self.user.clone(), EntryState::Failed)),
            Err(_) => None,
        };
        result
    }

    fn enter(&self) -> Result<(), LoginError> {
        let user: FtpUser = self.user.parse().map_err(|_| LoginError::InvalidName(self.user.clone()))?;
        let mut bailiwickd = self.bailiwickd()?;
        let request = ControlRequest::FtpEnter { user: user.clone(), source: self.source.clone() };
        // The session counts as long as this connection lasts. So a failure below ends the count.
        bailiwickd.ask(&request, ask::check_control)?;
        let mut warden =
            Connection::open("bailiwick-warden", &self.runtime_dir.join(WARDEN_SOCKET), &self.runtime_dir, None)?;
        let (WardenReply::FtpView(view), fds) = warden.ask(&WardenRequest::FtpView { user }, ask::check_warden)? else {
            return Err(AskError::Unexpected("bailiwick-warden").into());
        };
        drop(warden);
        jail::enter(&view, fds, self.passive_ports.clone())?;
        bailiwickd.ask(&ControlRequest::FtpEntered, ask::check_control).map_err(LoginError::NotCounted)?;
        Ok(())
    }
}
