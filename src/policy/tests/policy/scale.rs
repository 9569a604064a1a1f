//! Ten thousand tenants.

use crate::directory::Directory;
use bailiwick_policy::read_tenant;
use std::time::{Duration, Instant};

/// A bound that only a change of the order of growth breaks, not a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn ten_thousand_tenants_are_read_quickly_and_one_much_quicker() {
    let directory = Directory::with(&[("plans.d/small.toml", "[limits]\nmemory = \"1G\"")]);
    for n in 0..10_000 {
        directory.write(&format!("tenants.d/t{n}.toml"), "plan = \"small\"\n[limits]\nmemory = \"2G\"\n");
    }
    let start = Instant::now();
    let reading = directory.read();
    let all = start.elapsed();
    assert_eq!((reading.diagnostics.len(), reading.policy.expect("a policy").tenants.len()), (0, 10_000));

    let start = Instant::now();
    for _ in 0..100 {
        read_tenant(directory.path(), &"t77".parse().expect("a name")).expect("valid").1.expect("declared");
    }
    let one = start.elapsed() / 100;
    assert!(all < PATIENCE && one * 100 < PATIENCE, "all: {all:?}, one: {one:?}");
    // One tenant must not cost what all cost.
    assert!(one * 20 < all, "all: {all:?}, one: {one:?}");
}

#[test]
fn a_file_of_nothing_but_mistakes_is_cut_short() {
    let mistakes: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let directory = Directory::with(&[("plans.d/bad.toml", &mistakes)]);
    let complaints = directory.complaints();
    assert_eq!(complaints.len(), 101);
    assert!(complaints.iter().any(|line| line.ends_with("49900 more problems in this file are not shown")));
}
