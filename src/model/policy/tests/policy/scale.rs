//! How the time to read grows with the number of tenants.

use crate::directory::Directory;
use bailiwick_policy::read_tenant;
use std::time::{Duration, Instant};

/// The shorter of two times. Other work on the machine lengthens one of them, but seldom both.
fn time(mut work: impl FnMut()) -> Duration {
    let once = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    once(&mut work).min(once(&mut work))
}

/// Compares how the time grows, and not how long it is.
#[test]
fn ten_times_as_many_tenants_take_ten_times_as_long_and_one_takes_no_longer() {
    let directory = Directory::with(&[("plans.d/small.toml", "[limits]\nmemory = \"1G\"")]);
    let declare = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            directory.write(&format!("tenants.d/t{n}.toml"), "plan = \"small\"\n[limits]\nmemory = \"2G\"\n");
        }
    };
    // The fastest of several runs counts, so that other work on the machine does not.
    let all = |many: usize| {
        let once = || {
            time(|| {
                let reading = directory.read();
                assert_eq!((reading.diagnostics.len(), reading.policy.expect("a policy").tenants.len()), (0, many));
            })
        };
        (0..4).map(|_| once()).min().expect("four")
    };
    declare(0..1_000);
    let few = all(1_000);
    declare(1_000..10_000);
    let many = all(10_000);
    // A quadratic reader would take a hundred times as long.
    assert!(many < few * 40, "1,000: {few:?}, 10,000: {many:?}");

    let hundred = time(|| {
        for _ in 0..100 {
            read_tenant(directory.path(), &"t77".parse().expect("a name")).expect("valid").1.expect("declared");
        }
    });
    assert!(hundred < many, "100 times one: {hundred:?}, all 10,000: {many:?}");
}

#[test]
fn a_file_of_nothing_but_mistakes_is_cut_short() {
    let mistakes: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let directory = Directory::with(&[("plans.d/bad.toml", &mistakes)]);
    let complaints = directory.complaints();
    assert_eq!(complaints.len(), 101);
    assert!(complaints.iter().any(|line| line.ends_with("49900 more problems in this file are not shown")));
}
