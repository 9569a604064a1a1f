//! Device nodes: there are only a few, without state, and none can be created (CVE-2026-41579, CVE-2026-47766:
//! `/dev` as a symlink).

use crate::host;
use bailiwick_proto::{Hold, WardenReply, WardenRequest};
use bailiwick_tests::{name, profiles, supports};
use bailiwick_types::Profile;

#[test]
fn only_the_listed_nodes_exist_and_none_can_be_made() {
    let host = host();
    for tenant in profiles() {
        let (_, out, _) = host.inside(
            tenant,
            "for f in $(find /dev | sort); do [ ! -L $f ] && { [ -c $f ] || [ -b $f ]; } && printf '%s ' $f; done",
        );
        let expected = "/dev/full /dev/null /dev/pts/ptmx /dev/random /dev/tty /dev/urandom /dev/zero ";
        assert_eq!(out, expected, "{tenant}");
        for place in ["/dev/x", "/root/x", "/tmp/x", "/home/x"] {
            let (status, _, _) = host.inside(tenant, &format!("mknod {place} c 1 3"));
            assert_ne!(status, 0, "{tenant} {place}");
            let (status, _, _) = host.inside(tenant, &format!("mknod {place} b 254 0"));
            assert_ne!(status, 0, "{tenant} {place}");
        }
    }
}

#[test]
fn a_symlink_at_dev_in_a_tenants_own_root_is_refused() {
    if !supports(Profile::System) {
        return;
    }
    let host = host();
    let outside = host.path("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    assert_eq!(host.warden(&WardenRequest::Stop { tenant: name("system"), hold: Hold::Keep }), WardenReply::Done);
    // A running tenant can do this to its own root; the test does it while the jail is down.
    let root = host.path("state/tenants/system/rootfs");
    for target in ["dev", "proc", "run"] {
        std::fs::remove_dir(root.join(target)).expect("an empty directory");
        std::os::unix::fs::symlink(&outside, root.join(target)).expect("symlink");
        let WardenReply::Failed(failure) = host.ask(&WardenRequest::Start { tenant: name("system") }).expect("lives")
        else {
            panic!("a jail was built through a link at /{target}");
        };
        assert!(failure.message.contains(&format!("/{target}")), "{failure}");
        std::fs::remove_file(root.join(target)).expect("the link");
        std::fs::create_dir(root.join(target)).expect("mkdir");
    }
    assert_eq!(std::fs::read_dir(&outside).expect("still there").count(), 0);
    assert_eq!(host.warden(&WardenRequest::Start { tenant: name("system") }), WardenReply::Done);
}
