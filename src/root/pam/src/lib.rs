//! `pam_bailiwick.so`: an FTP server asks it (`pam(8)`) whether a login may come in, and has itself put into the jail.
//!
//! Danger: this runs inside a server that is root and that strangers talk to. A wrong password, a daemon that does not answer, a wall that
//! cannot be put up: each is a refusal, and nobody is let in without every wall. The jail is entered when the server asks whether the
//! login may come in (`account`), which a server may do without ever opening a session; if it has not asked, then with the session. The
//! options are `runtime_dir=DIR`, the `runtime_dir` of bailiwick.toml, `passive_ports=FIRST-LAST`, where the server may wait for data
//! connections, and nothing else.

mod ask;
mod jail;

use ask::{AskError, Conversation};
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
        let client = Client::of(handle, &args)?;
        let password = handle.authtok(None)?;
        match client.knows(password.as_bytes()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ErrorCode::AuthenticationError),
            Err(failure) => Err(say(handle, ErrorCode::AuthInfoUnavailable, &failure)),
        }
    }

    /// Puts this process into the jail: whatever the server does with "yes", it does there.
    fn account_management(handle: &mut T, args: Vec<&CStr>, _: AuthnFlags) -> PamResult<()> {
        let client = Client::of(handle, &args)?;
        client.enter_once().map_err(|failure| say(handle, ErrorCode::PermissionDenied, &failure))
    }

    fn set_credentials(_: &mut T, _: Vec<&CStr>, _: CredAction, _: BaseFlags) -> PamResult<()> {
        Ok(())
    }

    /// Puts this process into the jail, if it is not in it.
    fn open_session(handle: &mut T, args: Vec<&CStr>, _: BaseFlags) -> PamResult<()> {
        let client = Client::of(handle, &args)?;
        client.enter_once().map_err(|failure| say(handle, ErrorCode::SessionError, &failure))
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
    #[error("in the jail, but not counted: {0}")]
    Uncounted(AskError),
    #[error("this process is in the jail of \"{0}\", or on its way there, and goes nowhere else")]
    Elsewhere(String),
}

/// Who wants to come in, as the server says.
#[derive(Debug)]
struct Client {
    user: String,
    source: Option<String>,
    runtime_dir: PathBuf,
    passive_ports: Option<RangeInclusive<u16>>,
}

/// Whose jail this process is in, or has tried to enter.
static ENTERED: Mutex<Option<(String, Entered)>> = Mutex::new(None);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entered {
    Whole,
    /// Not all walls are up: never again.
    Failed,
}

/// Two ports, the first not above the last, neither of them of the host's services.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && first >= 1024).then_some(first..=last)
}

impl Client {
    fn of<T: ModuleClient>(handle: &mut T, args: &[&CStr]) -> PamResult<Self> {
        let mut runtime_dir = PathBuf::from(RUNTIME_DIR);
        let mut passive_ports = None;
        for arg in args {
            if let Some(dir) = arg.to_bytes().strip_prefix(b"runtime_dir=") {
                runtime_dir = PathBuf::from(OsStr::from_bytes(dir));
            } else if let Some(range) = arg.to_str().ok().and_then(|arg| ports(arg.strip_prefix("passive_ports=")?)) {
                passive_ports = Some(range);
            } else {
                return Err(say(handle, ErrorCode::ServiceError, &format_args!("unknown option {arg:?}")));
            }
        }
        let user = handle.username(None)?.into_string().map_err(|_| ErrorCode::UserUnknown)?;
        let source = handle.items().remote_host()?.and_then(|host| host.into_string().ok());
        // A server that gives a name instead of an address has asked somebody whom the client may have told what to say.
        let source = source.filter(|source| source.parse::<std::net::IpAddr>().is_ok());
        Ok(Self { user, source, runtime_dir, passive_ports })
    }

    fn bailiwickd(&self) -> Result<Conversation, AskError> {
        let socket = self.runtime_dir.join(CONTROL_SOCKET);
        // Where there is no service manager to listen for it, it is whose directory that is, which root has made for it.
        let owner =
            socket.parent().and_then(|dir| file::open_dir(dir).and_then(file::metadata).ok()).map(|dir| dir.uid);
        Conversation::with("bailiwickd", &socket, &self.runtime_dir, owner)
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

    /// Enters, unless this process has.
    fn enter_once(&self) -> Result<(), Refusal> {
        let mut entered = ENTERED.lock().map_err(|_| Refusal::Elsewhere(self.user.clone()))?;
        match &*entered {
            Some((user, Entered::Whole)) if *user == self.user => return Ok(()),
            Some((user, _)) => return Err(Refusal::Elsewhere(user.clone())),
            None => {}
        }
        let result = self.enter();
        // A refusal before the first wall leaves the process as it was, and another login may be tried.
        *entered = match &result {
            Ok(()) => Some((self.user.clone(), Entered::Whole)),
            Err(Refusal::Jail(_) | Refusal::Uncounted(_)) => Some((self.user.clone(), Entered::Failed)),
            Err(_) => None,
        };
        result
    }

    fn enter(&self) -> Result<(), Refusal> {
        let user: FtpUser = self.user.parse().map_err(|_| Refusal::NoLogin(self.user.clone()))?;
        let mut bailiwickd = self.bailiwickd()?;
        let request = ControlRequest::FtpEnter { user: user.clone(), source: self.source.clone() };
        // Counted while this connection lasts, so that a failure below uncounts it.
        bailiwickd.ask(&request, ask::of_bailiwickd)?;
        let mut warden =
            Conversation::with("bailiwick-warden", &self.runtime_dir.join(WARDEN_SOCKET), &self.runtime_dir, None)?;
        let (WardenReply::FtpView(view), fds) = warden.ask(&WardenRequest::FtpView { user }, ask::of_warden)? else {
            return Err(AskError::Misunderstood("bailiwick-warden").into());
        };
        drop(warden);
        jail::enter(&view, fds, self.passive_ports.clone())?;
        bailiwickd.ask(&ControlRequest::FtpEntered, ask::of_bailiwickd).map_err(Refusal::Uncounted)?;
        Ok(())
    }
}
