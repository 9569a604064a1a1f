//! Reads any bytes as the files of a tenant and a plan, and as `bailiwick.toml`, with a NUL byte between them.
//!
//! The reader must not panic, and must report a problem for each tenant that it leaves out. A policy that it accepts must be the same after
//! it is written and read again.

#![no_main]

use bailiwick_diagnostics::render;
use bailiwick_policy::{dump, parse};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;

fuzz_target!(|data: &[u8]| {
    let names = ["tenants.d/alice.toml", "plans.d/small.toml", "bailiwick.toml"];
    let contents = data.splitn(names.len(), |byte| *byte == 0).chain(std::iter::repeat(&[][..]));
    let files: Vec<(PathBuf, &[u8])> = names.map(PathBuf::from).into_iter().zip(contents).collect();

    let reading = parse(&files);
    assert_eq!(render(&reading.diagnostics).is_empty(), reading.diagnostics.is_empty());
    let Some(policy) = reading.policy else {
        assert!(!reading.diagnostics.is_empty());
        return;
    };
    assert_eq!(policy.tenants.len() + reading.invalid.len(), 1);
    assert!(reading.invalid.is_empty() || !reading.diagnostics.is_empty());

    let again = parse(&dump(&policy));
    assert!(again.diagnostics.is_empty(), "{}", render(&again.diagnostics));
    assert_eq!(again.policy, Some(policy));
});
