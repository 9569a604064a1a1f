//! Finds where in a file something is that is judged after the whole file was read: by its key, or by its number in a list.
//!
//! Danger: a value has more than one spelling. What the operator has to change is found by its place in the lists of the file,
//! and never by the text that we would write for it.

use crate::reader::Span;
use crate::source::Source;
use std::borrow::Cow;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The first place of a key, of a header, or of a text in quotes.
    Key(Cow<'static, str>),
    /// The other tenant of a link with this number.
    Link(usize),
    /// The port of the host of a published port with this number.
    Publish(usize),
    /// The entry of `allow` with this number.
    Allow(usize),
    /// The entry of `ports` with this number.
    Ports(usize),
    /// A key of `network` of `bailiwick.toml`, or that is missing.
    HostNetwork(&'static str),
    /// The first of these keys of `[network]` that the file has.
    Network(&'static [&'static str]),
}

impl Place {
    /// Finds it in a file. What the file inherits is at its `[network]`, or where it names its plan.
    pub(crate) fn find(&self, source: &Source) -> Option<Span> {
        if let Self::Key(key) = self {
            return source.place_of(key);
        }
        let top = DeTable::parse(source.text()).ok()?;
        self.find_in(top.get_ref())
    }

    fn find_in(&self, top: &DeTable<'_>) -> Option<Span> {
        let network = top.get("network");
        let inside = |key: &str| network?.get_ref().as_table()?.get(key);
        let item = |list: Option<&Spanned<DeValue<'_>>>, index: usize, keys: [&str; 2]| {
            let item = list?.get_ref().as_array()?.get(index)?;
            let part = item.get_ref().as_table().and_then(|table| keys.iter().find_map(|key| table.get(*key)));
            Some(part.map_or_else(|| item.span(), Spanned::span))
        };
        let found = match self {
            Self::Key(_) => None,
            Self::Link(index) => return item(top.get("link"), *index, ["to", "from"]),
            Self::Publish(index) => item(inside("publish"), *index, ["host", "host"]),
            Self::Allow(index) => item(inside("allow"), *index, ["to", "to"]),
            Self::Ports(index) => item(inside("ports"), *index, ["", ""]),
            Self::HostNetwork(key) => inside(key).map(Spanned::span),
            Self::Network(keys) => keys.iter().find_map(|key| inside(key)).map(Spanned::span),
        };
        found.or_else(|| network.or_else(|| top.get("plan")).map(Spanned::span))
    }
}
