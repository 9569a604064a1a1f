//! `pam_bailiwick.so`: an FTP server asks it (`pam(8)`) whether a login may come in, and has itself put into the jail.
//!
//! Danger: this runs inside a server that is root and that strangers talk to. A wrong password, a daemon that does not answer, a wall that
//! cannot be put up: each is a refusal, and no session is opened without every wall. The options are `runtime_dir=DIR`, the
//! `runtime_dir` of bailiwick.toml, and nothing else.

mod ask;
mod jail;

use ask::{AskError, Conversation};
use bailiwick_proto::{CONTROL_SOCKET, ControlReply, ControlRequest, WARDEN_SOCKET, WardenReply, WardenRequest};
use bailiwick_sys::password;
use bailiwick_types::FtpUser;
use nonstick::items::Items;
use nonstick::{
    AuthnFlags, BaseFlags, CredAction, ErrorCode, ModuleClient, PamModule, Result as PamResult, error, pam_export,
};
use std::ffi::{CStr, OsStr};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

const RUNTIME_DIR: &str = "/run/bailiwick";

/// The module.
#[derive(Debug)]
struct Bailiwick;
pam_export!(Bailiwick);

impl<T: ModuleClient> PamModule<T> for Bailiwick {
    /// Compares the password with the hash that `bailiwickd` gives to root.
    fn authenticate(handle: &mut T, args: Vec<&CStr>, _: AuthnFlags) -> PamResult<()> {
        let client = Client::of(handle, &args)?;
        let password = handle.authtok(None)?;
        match client.knows(password.as_bytes()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ErrorCode::AuthenticationError),
            Err(failure) => Err(say(handle, ErrorCode::AuthInfoUnavailable, &failure)),
        }
    }

    /// Who may come in is asked when the session is opened.
    fn account_management(_: &mut T, _: Vec<&CStr>, _: AuthnFlags) -> PamResult<()> {
        Ok(())
    }

    fn set_credentials(_: &mut T, _: Vec<&CStr>, _: CredAction, _: BaseFlags) -> PamResult<()> {
        Ok(())
    }

    /// Puts this process into the jail.
    fn open_session(handle: &mut T, args: Vec<&CStr>, _: BaseFlags) -> PamResult<()> {
        let client = Client::of(handle, &args)?;
        client.enter().map_err(|failure| say(handle, ErrorCode::SessionError, &failure))
    }

    /// The session ends with its process.
    fn close_session(_: &mut T, _: Vec<&CStr>, _: BaseFlags) -> PamResult<()> {
        Ok(())
    }
}

/// Tells the log of the system why, and the server that it failed.
fn say<T: ModuleClient>(handle: &mut T, code: ErrorCode, failure: &dyn Display) -> ErrorCode {
    error!(handle, "bailiwick: {failure}");
    code
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("\"{0}\" is no login of a tenant (NAME@TENANT)")]
    NoLogin(String),
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("cannot compare the password: {0}")]
    Password(std::io::Error),
    #[error("cannot enter the jail: {0}")]
    Jail(#[from] jail::JailError),
}

/// Who wants to come in, as the server says.
#[derive(Debug)]
struct Client {
    user: String,
    source: Option<String>,
    runtime_dir: PathBuf,
}

impl Client {
    fn of<T: ModuleClient>(handle: &mut T, args: &[&CStr]) -> PamResult<Self> {
        let mut runtime_dir = PathBuf::from(RUNTIME_DIR);
        for arg in args {
            match arg.to_bytes().strip_prefix(b"runtime_dir=") {
                Some(dir) => runtime_dir = PathBuf::from(OsStr::from_bytes(dir)),
                None => return Err(say(handle, ErrorCode::ServiceError, &format_args!("unknown option {arg:?}"))),
            }
        }
        let user = handle.username(None)?.into_string().map_err(|_| ErrorCode::UserUnknown)?;
        let source = handle.items().remote_host()?.and_then(|host| host.into_string().ok());
        // A server that gives a name instead of an address has asked somebody whom the client may have told what to say.
        let source = source.filter(|source| source.parse::<std::net::IpAddr>().is_ok());
        Ok(Self { user, source, runtime_dir })
    }

    fn bailiwickd(&self) -> Result<Conversation, AskError> {
        Conversation::with("bailiwickd", &self.runtime_dir.join(CONTROL_SOCKET))
    }

    fn knows(&self, password: &[u8]) -> Result<bool, Refusal> {
        let mut bailiwickd = self.bailiwickd()?;
        let request = ControlRequest::FtpHash { user: self.user.clone() };
        let (ControlReply::FtpHash(hash), _) = bailiwickd.ask(&request, ask::of_bailiwickd)? else {
            return Err(AskError::Misunderstood("bailiwickd").into());
        };
        let right = password::matches(password, hash.as_str()).map_err(Refusal::Password)?;
        if !right {
            let request = ControlRequest::FtpRefused { user: self.user.clone(), source: self.source.clone() };
            bailiwickd.ask(&request, ask::of_bailiwickd)?;
        }
        Ok(right)
    }

    fn enter(&self) -> Result<(), Refusal> {
        let user: FtpUser = self.user.parse().map_err(|_| Refusal::NoLogin(self.user.clone()))?;
        let mut bailiwickd = self.bailiwickd()?;
        let request = ControlRequest::FtpEnter { user: user.clone(), source: self.source.clone() };
        // Counted while this connection lasts, so that a failure below uncounts it.
        bailiwickd.ask(&request, ask::of_bailiwickd)?;
        let mut warden = Conversation::with("bailiwick-warden", &self.runtime_dir.join(WARDEN_SOCKET))?;
        let (WardenReply::FtpView(view), fds) = warden.ask(&WardenRequest::FtpView { user }, ask::of_warden)? else {
            return Err(AskError::Misunderstood("bailiwick-warden").into());
        };
        drop(warden);
        jail::enter(&view, fds)?;
        bailiwickd.ask(&ControlRequest::FtpEntered, ask::of_bailiwickd)?;
        Ok(())
    }
}
