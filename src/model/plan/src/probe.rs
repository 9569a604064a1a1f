//! What must come of an attempt inside a jail: by the same table that its filter is made from.

use crate::seccomp::{ARCHITECTURE, SeccompData, Verdict, evaluate, filter};
use bailiwick_types::Profile;

/// What the filter of a profile does with a call.
#[must_use]
pub fn expected(profile: Profile, number: u32, arguments: [u64; 6]) -> Verdict {
    evaluate(&filter(profile), &SeccompData { number, architecture: ARCHITECTURE, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_raw_sys::general::{__NR_bpf, __NR_mount};

    #[test]
    fn what_is_expected_is_what_the_table_says() {
        assert_eq!(expected(Profile::Web, __NR_mount, [0; 6]), Verdict::Errno(1));
        assert_eq!(expected(Profile::System, __NR_mount, [0; 6]), Verdict::Allow);
        assert!(matches!(expected(Profile::System, __NR_bpf, [0; 6]), Verdict::Errno(_)));
    }
}
