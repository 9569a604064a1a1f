//! The verdict that a system call inside a jail must get. It comes from the table that also makes the filter.

use crate::seccomp::{ARCHITECTURE, SeccompData, Verdict, evaluate, filter};
use bailiwick_types::Profile;

/// The verdict of a profile's filter on a call.
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
