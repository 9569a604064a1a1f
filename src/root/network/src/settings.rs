//! Who runs the router, as `bailiwick.toml` says.

use bailiwick_policy::Host;

/// A user of the host and its group: that which is root in the router, or that of the cache.
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
    /// There is no such user.
    #[error(
        "the user \"{0}\" that the cache of names runs as does not exist; make it with `useradd --system {0}`, or set \"cache_user\" \
         below [network] in bailiwick.toml"
    )]
    CacheUser(String),
}

/// The user of `[network]`: a number, which is also its group, or a name.
pub(crate) fn user(host: &Host) -> Result<RouterUser, SettingsError> {
    named(&host.network.user, SettingsError::User)
}

/// The user that the cache of names runs as.
pub(crate) fn cache_user(host: &Host) -> Result<RouterUser, SettingsError> {
    named(&host.network.cache_user, SettingsError::CacheUser)
}

fn named(text: &str, missing: impl FnOnce(String) -> SettingsError) -> Result<RouterUser, SettingsError> {
    if let Ok(number) = text.parse() {
        return Ok(RouterUser { uid: number, gid: number });
    }
    let user = users::get_user_by_name(text).ok_or_else(|| missing(text.to_owned()))?;
    Ok(RouterUser { uid: user.uid(), gid: user.primary_group_id() })
}
