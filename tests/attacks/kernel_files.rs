//! What `/proc` and `/sys` show of the host as a whole: nothing that no list names, in every profile.

use crate::host;
use bailiwick_plan::kernel;
use bailiwick_tests::profiles;

/// Prints every file and directory of `/proc` and `/sys` that root inside can read and that has something in it; processes
/// are left out, and what is a link is where it leads.
const WALK: &str = r#"exec perl -e '
    sub walk {
        my ($path) = @_;
        if (-l $path) { return }
        if (-d _) {
            opendir(my $dir, $path) or return;
            for my $name (sort readdir $dir) {
                next if $name eq "." or $name eq ".." or ($path eq "/proc" and $name =~ /^[0-9]+$/);
                walk("$path/$name");
            }
        } elsif (-f _) {
            sysopen(my $file, $path, 2048) or return;
            my $got = sysread($file, my $byte, 1);
            print "$path\n" if $got;
        }
    }
    walk("/proc"); walk("/sys");'"#;

#[test]
fn nothing_can_be_read_that_no_list_names() {
    let host = host();
    for tenant in profiles() {
        for user in ["root", "1000"] {
            let output = host.cli(&["exec", tenant, "--user", user, "--", "/bin/sh", "-c", WALK]);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{tenant}: {}", String::from_utf8_lossy(&output.stderr));
            let unlisted: Vec<&str> = text.lines().filter(|path| !kernel::may_show(path)).collect();
            assert_eq!(unlisted, [""; 0], "{tenant}: user {user} reads what no list names");
            // The walk has walked.
            for shown in ["/proc/meminfo", "/proc/stat", "/proc/sys/kernel/osrelease", "/sys/devices/system/cpu/online"]
            {
                assert!(text.lines().any(|path| path == shown), "{tenant}: {shown} is not there\n{text}");
            }
        }
    }
}

#[test]
fn no_mount_uncovers_the_hosts_devices_and_file_systems() {
    let host = host();
    for tenant in profiles() {
        // Root of `system` may take its /sys away: nothing of the host's lies below it.
        let line = "mkdir -p /tmp/s; mount -t sysfs none /tmp/s 2>/dev/null && ls /tmp/s; umount -l /sys 2>/dev/null; \
                    mount -t sysfs none /tmp/s 2>/dev/null && ls /tmp/s; \
                    ls -d /sys/block /sys/fs/btrfs /sys/module /sys/kernel/slab /sys/firmware 2>/dev/null; true";
        assert_eq!(host.inside(tenant, line).1, "", "{tenant}");
    }
}

#[test]
fn the_answers_tell_how_many_processors_there_are_and_nothing_of_the_neighbours() {
    let host = host();
    let kernel = std::fs::read_to_string("/proc/stat").expect("reads");
    let processors = kernel.lines().filter(|line| line.starts_with("cpu")).count();
    let since = kernel.lines().find(|line| line.starts_with("btime")).expect("since when it runs");
    for tenant in profiles() {
        let (_, stat, _) = host.inside(tenant, "cat /proc/stat");
        assert_eq!(stat.lines().filter(|line| line.starts_with("cpu")).count(), processors, "{tenant}: {stat}");
        assert!(stat.lines().any(|line| line == since), "{tenant}: {stat}");
        let busy =
            |line: &&str| !line.starts_with("btime") && line.split(' ').skip(1).any(|word| !["0", "1"].contains(&word));
        assert_eq!(stat.lines().find(busy), None, "{tenant}");
        let (_, groups, _) = host.inside(tenant, "awk '!/^#/ && $3 != 1' /proc/cgroups");
        assert_eq!(groups, "", "{tenant}");
    }
}

#[test]
fn programs_that_read_the_kernel_go_on_working() {
    let host = host();
    for tenant in profiles() {
        for line in [
            "test $(nproc) -ge 1",
            "ps aux | grep -q '[p]s aux'",
            "ps -o lstart= -p $$ | grep -q :",
            "uptime | grep -q load",
            "free | grep -q Mem",
            "top -b -n 1 | grep -q PID",
            "lscpu | grep -q '^CPU(s)'",
            "ls /sys/class/net/lo/mtu && cat /sys/class/net/lo/address",
            "uname -r && cat /proc/sys/kernel/random/uuid",
        ] {
            let (status, out, err) = host.inside(tenant, line);
            assert_eq!((status, err.as_str()), (0, ""), "{tenant}: {line}\n{out}");
        }
    }
}
