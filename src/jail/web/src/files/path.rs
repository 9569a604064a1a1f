//! The path of a request: which file below the tree it names.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The one name with a dot before it that is served (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";
/// What stands in a path as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A file or directory below the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Decoded names, joined by slashes; empty for the tree itself.
    relative: Vec<u8>,
    /// Whether the path ended with a slash, so that it names a directory.
    pub(crate) is_directory: bool,
}

impl Wanted {
    /// Reads the path of a request; `None` when nothing of that name is served.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let mut relative = Vec::with_capacity(path.len());
        // Empty names are skipped, as the kernel does.
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let name: Cow<'_, [u8]> = percent_decode_str(name).into();
            if !is_served(&name) {
                return None;
            }
            if !relative.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(&name);
        }
        Some(Self { relative, is_directory: path.is_empty() || path.ends_with('/') })
    }

    /// The path, relative to the tree.
    pub(crate) fn path(&self) -> &Path {
        if self.relative.is_empty() { Path::new(".") } else { as_path(&self.relative) }
    }

    /// The path of a file in this directory.
    pub(crate) fn within(&self, name: &str) -> Self {
        Self { relative: self.path().join(name).into_os_string().into_encoded_bytes(), is_directory: false }
    }

    /// The path of a file beside this one, whose name has this ending too.
    pub(crate) fn with_ending(&self, ending: &str) -> Self {
        Self { relative: [&self.relative, ending.as_bytes()].concat(), is_directory: false }
    }

    /// A reference to this directory, relative to the path without the slash (RFC 3986, section 4.2). It has no name of a
    /// host, whatever the directory is called.
    pub(crate) fn with_slash(&self, query: Option<&str>) -> String {
        let name = self.relative.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("./{}/{query}", percent_encode(name, ENCODED))
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Whether a file or directory of this name may be served.
fn is_served(name: &[u8]) -> bool {
    let is_plain = !name.contains(&b'/') && !name.contains(&0);
    let is_hidden = name.starts_with(b".") && name != WELL_KNOWN;
    is_plain && !is_hidden && !is_source(name)
}

/// Whether a file of this name holds PHP, or is a copy of such a file. A server of static files would show its text, and the
/// passwords in it.
fn is_source(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let mut endings = name.split(|byte| *byte == b'.').skip(1);
    let is_page = name.ends_with(b".html") || name.ends_with(b".htm");
    let is_php = |ending: &[u8]| {
        let letters = ending.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        [&b"php"[..], b"phps", b"pht", b"phtml", b"phar"].contains(&&ending[..letters])
    };
    !is_page && endings.any(is_php)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(path: &str) -> Option<String> {
        Wanted::parse(path).map(|wanted| wanted.path().to_str().expect("text").to_owned())
    }

    #[test]
    fn names_are_decoded_once() {
        for (path, relative) in [
            ("/", "."),
            ("//", "."),
            ("/a", "a"),
            ("/a/b.txt", "a/b.txt"),
            ("//a///b/", "a/b"),
            ("/a%20b/%C3%A4", "a b/ä"),
            ("/%2561", "%61"),
            ("/50%", "50%"),
            ("/a+b", "a+b"),
            ("/.well-known/acme-challenge/x", ".well-known/acme-challenge/x"),
            ("/a..b", "a..b"),
            ("/index.php.html", "index.php.html"),
            ("/jquery.phpunit.js", "jquery.phpunit.js"),
        ] {
            assert_eq!(parsed(path).as_deref(), Some(relative), "{path}");
        }
    }

    #[test]
    fn what_leads_out_or_hides_is_not_served() {
        for path in [
            "",
            "*",
            "a",
            "/..",
            "/../x",
            "/a/../b",
            "/a/..",
            "/%2e%2e/x",
            "/.%2e/x",
            "/..%2fx",
            "/a%2Fb",
            "/%2fetc",
            "/.",
            "/./a",
            "/.env",
            "/a/.git/config",
            "/%2egit",
            "/a%00",
            "/a\0",
            "/.well-known2",
            "/x/.htaccess",
        ] {
            assert_eq!(parsed(path), None, "{path:?}");
        }
    }

    #[test]
    fn the_text_of_programs_is_not_served() {
        for path in [
            "/index.php",
            "/a/b.PHP",
            "/x.php5",
            "/x.phtml",
            "/x.phar",
            "/wp-config.php.bak",
            "/wp-config.php~",
            "/x.phps",
            "/x.p%68p",
            "/x.php.gz",
            "/a.php/b",
        ] {
            assert_eq!(parsed(path), None, "{path:?}");
        }
    }

    #[test]
    fn a_directory_is_named_without_a_host() {
        let to = |path: &str, query| Wanted::parse(path).expect(path).with_slash(query);
        assert_eq!(to("/a/b", None), "./b/");
        assert_eq!(to("//evil.example", Some("x=1&y")), "./evil.example/?x=1&y");
        assert_eq!(to("/a%0d%0aX: y", None), "./a%0D%0AX%3A%20y/");
    }

    proptest! {
        #[test]
        fn no_path_leads_out(path in "[/a.%2eE5cf0\\PC]{0,40}") {
            if let Some(wanted) = Wanted::parse(&path) {
                let bytes = wanted.path().as_os_str().as_bytes();
                prop_assert!(!bytes.starts_with(b"/") && !bytes.contains(&0));
                if bytes != b"." {
                    for name in bytes.split(|byte| *byte == b'/') {
                        prop_assert!(!name.is_empty() && (!name.starts_with(b".") || name == WELL_KNOWN));
                    }
                }
            }
        }

        #[test]
        fn a_name_that_is_encoded_is_found_again(name in "[^/\0.]{1,20}") {
            let path = format!("/{}", percent_encode(name.as_bytes(), ENCODED));
            prop_assert_eq!(parsed(&path), Some(name));
        }
    }
}
