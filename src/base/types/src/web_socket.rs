//! Where the sockets of tenants' services are.

use crate::{SocketName, TenantName};
use std::path::{Path, PathBuf};

/// The directory of the sockets of tenants' services, below the runtime directory. The warden makes it.
pub const WEB_DIR: &str = "web";

/// The path of the socket on which `bailiwickd` hears of requests that the web server of the host refused. No tenant has this name.
#[must_use]
pub fn refused_socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(WEB_DIR).join("refused.sock")
}

/// The path of a socket, which the web server of the host connects to.
#[must_use]
pub fn web_socket(runtime_dir: &Path, tenant: &TenantName, socket: &SocketName) -> PathBuf {
    runtime_dir.join(WEB_DIR).join(tenant).join(format!("{socket}.sock"))
}

/// The path that a socket is bound to before it is renamed to [`web_socket`]. The kernel knows the socket by this path for ever
/// (`unix(7)`, `sock_diag(7)`). It is in the directory whose group the socket gets, and as long as the other path.
#[must_use]
pub fn bound_web_socket(runtime_dir: &Path, tenant: &TenantName, socket: &SocketName) -> PathBuf {
    runtime_dir.join(WEB_DIR).join(format!(".{tenant}.{socket}.new"))
}

/// The socket that the kernel knows by a path; `None` for any other path.
#[must_use]
pub fn web_socket_of(runtime_dir: &Path, bound: &Path) -> Option<(TenantName, SocketName)> {
    let name = bound.strip_prefix(runtime_dir.join(WEB_DIR)).ok()?.to_str()?;
    let (tenant, socket) = name.strip_prefix('.')?.strip_suffix(".new")?.split_once('.')?;
    Some((tenant.parse().ok()?, socket.parse().ok()?))
}

/// Whether the kernel knows a socket by a path of this kind, below any runtime directory: a connection to a tenant's service.
#[must_use]
pub fn is_bound_web_socket(bound: &Path) -> bool {
    let web = bound.parent().filter(|directory| directory.ends_with(WEB_DIR));
    web.and_then(Path::parent).is_some_and(|runtime| web_socket_of(runtime, bound).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_path_names_its_socket_and_is_as_long_as_the_other() {
        let runtime = Path::new("/run/bailiwick");
        let (tenant, socket): (TenantName, SocketName) =
            ("alice".parse().expect("a name"), "web".parse().expect("a name"));
        let bound = bound_web_socket(runtime, &tenant, &socket);
        assert_eq!(bound.as_os_str().len(), web_socket(runtime, &tenant, &socket).as_os_str().len());
        assert_eq!(web_socket_of(runtime, &bound), Some((tenant, socket)));
        assert!(is_bound_web_socket(&bound) && !is_bound_web_socket(Path::new("/run/bailiwick/web/alice/web.sock")));
        for other in [
            "/run/bailiwick/web/alice/web.sock",
            "/run/bailiwick/.alice.web.new",
            "/run/bailiwick/web/.alice.new",
            "/x",
            "",
        ] {
            assert_eq!(web_socket_of(runtime, Path::new(other)), None, "{other}");
        }
    }
}
