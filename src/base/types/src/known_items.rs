//! Lists in messages that a newer program may have sent.

use serde::de::{Deserialize, Deserializer, IgnoredAny};

/// Reads a list and omits each item that this version cannot read. So an item of a newer program, such as a limit that
/// this version does not know, does not make the whole message unreadable. Use it only for lists whose reader counts a
/// missing item as unproven.
///
/// # Errors
/// When the value is not a list.
pub fn known_items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Item<T> {
        Known(T),
        Unknown(IgnoredAny),
    }
    let items = Vec::<Item<T>>::deserialize(deserializer)?.into_iter();
    Ok(items.filter_map(|item| if let Item::Known(known) = item { Some(known) } else { None }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LimitKey;
    use serde::de::value::{Error, SeqDeserializer};

    #[test]
    fn a_limit_of_a_later_version_is_left_out_of_a_list() {
        let list = SeqDeserializer::<_, Error>::new(["memory", "of_a_later_version", "tasks"].into_iter());
        assert_eq!(known_items::<_, LimitKey>(list), Ok(vec![LimitKey::Memory, LimitKey::Tasks]));
    }
}
