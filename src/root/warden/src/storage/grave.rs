//! The names under which data of purged tenants is set aside. They say whose it was and which ids it has.
//!
//! The ids stay reserved while anything is left, so no two names may be equal. Inode numbers would not do: each
//! subvolume of btrfs has the same, and other file systems use numbers again. Earlier versions used inode numbers
//! (`alice.4711`), and data without ids still has them. Both forms say the tenant.

use bailiwick_types::{IdRange, TenantName};

const IDS: &str = "ids-";

/// The name for data with ids.
pub(crate) fn name(tenant: &TenantName, ids: IdRange) -> String {
    format!("{tenant}.{IDS}{}", ids.first)
}

/// The name for data without known ids.
pub(crate) fn name_without_ids(tenant: &TenantName, inode: u64) -> String {
    format!("{tenant}.{inode}")
}

/// Whose it was.
pub(crate) fn tenant(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(tenant, _)| tenant)
}

/// The first of its ids, if the name says it.
pub(crate) fn first_id(name: &str) -> Option<u32> {
    name.rsplit_once('.')?.1.strip_prefix(IDS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_tenant_and_newer_ones_the_ids() {
        let (alice, ids) = ("alice".parse().expect("a name"), IdRange { first: 10_065_536, count: 65_536 });
        let name = name(&alice, ids);
        assert_eq!((tenant(&name), first_id(&name)), ("alice", Some(10_065_536)));
        for old in ["alice.77".to_owned(), name_without_ids(&alice, 77)] {
            assert_eq!((tenant(&old), first_id(&old)), ("alice", None));
        }
        assert_eq!((tenant("strange"), first_id("alice.ids-"), first_id("alice.ids--1")), ("strange", None, None));
    }
}
