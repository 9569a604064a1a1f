//! The measured machine, and the memory that a jail uses.

use crate::jails::Jails;
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The kernel removes network namespaces and control groups in the background.
const SETTLE: Duration = Duration::from_millis(300);

/// Facts that a reader needs to judge the results.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
    /// Whether the machine is virtual.
    pub(crate) virtual_machine: bool,
    pub(crate) kernel: String,
    pub(crate) date: String,
    /// Version of each peer, as it reports it.
    pub(crate) peers: BTreeMap<String, String>,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let output = |program: &str, argument: &str| {
            let output = Command::new(program).args(argument.split(' ')).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            text.lines().next().unwrap_or_default().to_owned()
        };
        let peers = [("bwrap", "--version"), ("crun", "--version"), ("unshare", "--version"), ("nsenter", "--version")];
        Self {
            processor: field("model name"),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: meminfo("MemTotal") / 1024,
            virtual_machine: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            date: output("date", "-u +%Y-%m-%d"),
            peers: peers.iter().map(|(program, argument)| ((*program).to_owned(), output(program, argument))).collect(),
        }
    }
}

/// A runtime directory in memory, like `/run`; the rest of a test host is on a disk, like `/var/lib`.
#[derive(Debug)]
pub(crate) struct Runtime(PathBuf);

impl Runtime {
    /// Mounts it. Only in a mount namespace of this program, so that no other program sees it.
    pub(crate) fn below(path: &Path) -> Self {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).expect("a mount namespace");
        let parent = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
        assert_ne!(
            namespace("self"),
            namespace(&parent.to_string()),
            "this mounts things: start it with `benches/run`"
        );
        fs::create_dir_all(path).expect("mkdir");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, c"mode=0755").expect("root may mount here");
        Self(path.to_owned())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Daemons may still use it; its parent directory must be removable.
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// Memory of jails that run only init.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Number of jails that run together.
    pub(crate) jails: usize,
    /// Kernel memory of one jail, in KiB: slabs, page tables, stacks, per-CPU memory.
    pub(crate) kernel: f64,
    /// Private memory of init, in KiB.
    pub(crate) init_private: u64,
    /// Init with its share of the program that all jails share, in KiB (Pss).
    pub(crate) init_shared: u64,
}

/// Starts these tenants for the first time and measures their memory when so many run as `marks` say. What a jail has used before
/// the kernel keeps for its next start, so a second start of the same tenants would look cheaper.
pub(crate) fn memory(jails: &Jails<'_>, tenants: &[String], marks: &[usize], mut each: impl FnMut(Memory)) {
    std::thread::sleep(SETTLE);
    let before = kernel_memory();
    for (index, tenant) in tenants.iter().enumerate() {
        jails.start(tenant);
        let running = index + 1;
        if !marks.contains(&running) {
            continue;
        }
        std::thread::sleep(SETTLE);
        let used = kernel_memory().saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "some millions")]
        let kernel = used as f64 / running as f64;
        let pid = jails.pid(tenant);
        let init_private = smaps(pid, &["Private_Dirty", "Private_Clean"]);
        each(Memory { jails: running, kernel, init_private, init_shared: smaps(pid, &["Pss"]) });
    }
}

fn smaps(pid: u32, keys: &[&str]) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process is there");
    keys.iter().map(|key| kib(&text, key)).sum()
}

fn kernel_memory() -> u64 {
    ["Slab", "KernelStack", "PageTables", "Percpu"].iter().map(|key| meminfo(key)).sum()
}

fn meminfo(key: &str) -> u64 {
    kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), key)
}

/// The value of a line such as `Slab:   1234 kB`.
fn kib(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_matched_whole() {
        let text = "SwapPss: 7 kB\nPss_Dirty: 9 kB\nPss:    20 kB\n";
        assert_eq!(kib(text, "Pss"), 20);
        assert_eq!(kib(text, "Slab"), 0);
    }
}
