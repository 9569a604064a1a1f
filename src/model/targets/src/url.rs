//! The address of a webhook's receiver.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The most bytes of an address.
const MAX: usize = 2000;

/// Where a webhook sends to: `https://HOST[:PORT][/PATH][?QUERY]`, or `http` for receivers in private ranges.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    is_secure: bool,
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no address of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotUrl {
    /// It is too long, or has blanks, control characters or letters outside of ASCII.
    #[error("an address has at most {MAX} characters of ASCII, and no blanks")]
    Characters,
    /// It is no address at all.
    #[error("this is no address such as \"https://panel.example/bailiwick\"")]
    Form,
    /// It begins with another scheme.
    #[error("the address must begin with \"https://\", or with \"http://\" for a receiver in a private range")]
    Scheme,
    /// It has a user before the host.
    #[error("the address must not hold a user or a password; each request is signed instead")]
    User,
    /// It has a fragment.
    #[error("the address has a part after \"#\", which no receiver gets")]
    Fragment,
    /// The port is zero or too large.
    #[error("the port of the address is no number from 1 to 65535")]
    Port,
}

impl WebhookUrl {
    /// Whether it is reached by TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The name or the address of the receiver, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address, if the host is written as one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path and the query, as the first line of a request has them.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of the header `host`.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.is_secure { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for WebhookUrl {
    type Err = NotUrl;

    fn from_str(text: &str) -> Result<Self, NotUrl> {
        if text.len() > MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotUrl::Characters);
        }
        if text.contains('#') {
            return Err(NotUrl::Fragment);
        }
        let uri: http::Uri = text.parse().map_err(|_| NotUrl::Form)?;
        let is_secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(NotUrl::Scheme),
            None => return Err(NotUrl::Form),
        };
        let authority = uri.authority().ok_or(NotUrl::Form)?;
        if authority.as_str().contains('@') {
            return Err(NotUrl::User);
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // `Uri` accepts more, and an address in brackets must be one.
        let is_literal = authority.as_str().starts_with('[');
        let is_name =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        let is_right = if is_literal { host.parse::<std::net::Ipv6Addr>().is_ok() } else { is_name };
        if !is_right {
            return Err(NotUrl::Form);
        }
        let written = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let port = match written {
            None => {
                if is_secure {
                    443
                } else {
                    80
                }
            }
            Some((_, port)) => match port.parse() {
                Ok(port @ 1..) => port,
                _ => return Err(NotUrl::Port),
            },
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { is_secure, host: host.to_ascii_lowercase(), port, path })
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl fmt::Debug for WebhookUrl {
    /// A query may hold a token, so it is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "\"{}{path}\"", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_has_a_host_a_port_and_a_path() {
        for (text, host, port, path, shown) in [
            ("https://panel.example/hook?a=b", "panel.example", 443, "/hook?a=b", None),
            ("https://panel.example", "panel.example", 443, "/", Some("https://panel.example/")),
            ("http://10.0.0.1:8080/x", "10.0.0.1", 8080, "/x", None),
            ("http://[fd00::1]:81/", "fd00::1", 81, "/", None),
            ("https://[fd00::1]/", "fd00::1", 443, "/", None),
            ("https://Panel.Example:443/x", "panel.example", 443, "/x", Some("https://panel.example/x")),
            ("https://h?q", "h", 443, "/?q", Some("https://h/?q")),
        ] {
            let url: WebhookUrl = text.parse().expect(text);
            assert_eq!((url.host(), url.port(), url.path()), (host, port, path), "{text}");
            assert_eq!(url.to_string(), shown.unwrap_or(text));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("https://h/{}", "x".repeat(MAX));
        for (text, error) in [
            ("", NotUrl::Form),
            ("panel.example", NotUrl::Form),
            ("/x", NotUrl::Form),
            ("https://", NotUrl::Form),
            ("https://[10.0.0.1]/", NotUrl::Form),
            ("https://a,b/", NotUrl::Form),
            ("ftp://h/", NotUrl::Scheme),
            ("https://u:p@h/", NotUrl::User),
            ("https://h/#x", NotUrl::Fragment),
            ("https://h:0/", NotUrl::Port),
            ("https://h:/", NotUrl::Port),
            ("https://h/ x", NotUrl::Characters),
            ("https://h/\r\nx: y", NotUrl::Characters),
            ("https://münchen.example/", NotUrl::Characters),
            (&long, NotUrl::Characters),
        ] {
            assert_eq!(text.parse::<WebhookUrl>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_query_is_not_in_a_log() {
        let url: WebhookUrl = "https://h/x?token=secret".parse().expect("an address");
        assert_eq!(format!("{url:?}"), "\"h/x\"");
    }

    proptest! {
        #[test]
        fn an_address_is_read_as_it_is_written(text in "(https?://)?[a-z0-9.:@\\[\\]/?#%-]{0,40}") {
            if let Ok(url) = text.parse::<WebhookUrl>() {
                prop_assert_eq!(url.to_string().parse(), Ok(url.clone()));
                prop_assert!(url.path().starts_with('/') && !url.path().contains(['\r', '\n', ' ']));
            }
        }
    }
}
