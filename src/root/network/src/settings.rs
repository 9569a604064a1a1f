//! Who runs the router, as `bailiwick.toml` says.

use bailiwick_policy::Host;

/// The user and the group of the host that are root in the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouterUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// There is no such user.
    #[error(
        "the user \"{0}\" that is root in the router does not exist; make it with `useradd --system {0}`, or set \"user\" below \
         [network] in bailiwick.toml"
    )]
    User(String),
}

/// The user of `[network]`: a number, which is also its group, or a name.
pub(crate) fn user(host: &Host) -> Result<RouterUser, SettingsError> {
    let text = &host.network.user;
    if let Ok(number) = text.parse() {
        return Ok(RouterUser { uid: number, gid: number });
    }
    let user = users::get_user_by_name(text).ok_or_else(|| SettingsError::User(text.clone()))?;
    Ok(RouterUser { uid: user.uid(), gid: user.primary_group_id() })
}
