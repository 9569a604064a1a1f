//! The settings of the kernel that let the host and the router pass packets on (`ip-sysctl.rst` of the kernel).
//!
//! Danger: a host that forwards IPv6 no longer follows the announcements of routers (`accept_ra = 1`), and so would lose its own
//! default route. Interfaces that follow them are told first to go on doing so (`accept_ra = 2`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const IPV4: &str = "/proc/sys/net/ipv4";
const IPV6: &str = "/proc/sys/net/ipv6";

/// Whether the host has IPv6 to forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    /// Jails have addresses of IPv4 only.
    Ipv4,
    /// Jails have addresses of both families.
    Both,
}

/// The settings of the router: name below `/proc/sys/net`, value, and why.
const ROUTER_IPV4: &[(&str, &str)] = &[
    ("ip_forward", "1"),
    // Answers of the router itself (refusals, "packet too big") take the route of what they answer.
    ("fwmark_reflect", "1"),
    // Whoever is refused hears of each packet: the kernel's limits would make the seventh connection wait in vain, and older
    // kernels share one of them with the host. The answer goes to the jail that sent the packet, and to nobody else.
    ("icmp_ratemask", "0"),
    // Its rules compare each source address with that of its link. This check would not see the mark.
    ("conf/all/rp_filter", "0"),
    ("conf/default/rp_filter", "0"),
    ("conf/all/accept_redirects", "0"),
    ("conf/default/accept_redirects", "0"),
    ("conf/all/send_redirects", "0"),
    ("conf/default/send_redirects", "0"),
    // It answers no question about addresses: all neighbours are permanent.
    ("conf/all/arp_ignore", "8"),
    ("conf/default/arp_ignore", "8"),
];
const ROUTER_IPV6: &[(&str, &str)] = &[
    ("conf/all/forwarding", "1"),
    ("conf/default/forwarding", "1"),
    ("fwmark_reflect", "1"),
    ("icmp/ratelimit", "0"),
    ("conf/all/accept_ra", "0"),
    ("conf/default/accept_ra", "0"),
    ("conf/all/accept_redirects", "0"),
    ("conf/default/accept_redirects", "0"),
    // No link-local address on any link: it would cost time for each of them at each new one.
    ("conf/default/addr_gen_mode", "1"),
];

/// A setting that has another value than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) path: PathBuf,
    pub(crate) value: &'static str,
}

impl Setting {
    fn of(base: &str, name: &str, value: &'static str) -> Self {
        Self { path: Path::new(base).join(name), value }
    }

    /// Whether the kernel has the value.
    pub(crate) fn holds(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(&self.path)?.trim() == self.value)
    }

    /// Writes the value, unless the kernel has it; returns whether it was written.
    pub(crate) fn ensure(&self) -> io::Result<bool> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        if self.holds().map_err(named)? {
            return Ok(false);
        }
        fs::write(&self.path, self.value).map_err(named)?;
        Ok(true)
    }
}

/// The settings of the router. The caller is in its network namespace.
pub(crate) fn of_router(families: Families) -> Vec<Setting> {
    let mut all: Vec<_> = ROUTER_IPV4.iter().map(|(name, value)| Setting::of(IPV4, name, value)).collect();
    if families == Families::Both {
        all.extend(ROUTER_IPV6.iter().map(|(name, value)| Setting::of(IPV6, name, value)));
    }
    all
}

/// The settings of the host, in the order in which they must be written.
pub(crate) fn of_host(families: Families, link: &str) -> io::Result<Vec<Setting>> {
    let mut all = vec![Setting::of(IPV4, "ip_forward", "1")];
    if families == Families::Both {
        let forwarding = Setting::of(IPV6, "conf/all/forwarding", "1");
        if !forwarding.holds()? {
            all.extend(following_routers(Path::new(IPV6), link)?);
        }
        all.push(forwarding);
        all.push(Setting::of(IPV6, &format!("conf/{link}/accept_ra"), "0"));
    }
    Ok(all)
}

/// The interfaces that follow announcements of routers, and would not while the host forwards.
fn following_routers(base: &Path, link: &str) -> io::Result<Vec<Setting>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(base.join("conf"))? {
        let entry = entry?;
        let path = entry.path().join("accept_ra");
        // An interface may go away meanwhile. "all" has no meaning for this setting.
        let follows = fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1");
        if follows && entry.file_name() != "all" && entry.file_name() != link {
            all.push(Setting { path, value: "2" });
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_that_follow_routers_go_on_doing_so() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, value: &str| {
            let dir = temp.path().join("conf").join(name);
            fs::create_dir_all(&dir).expect("mkdir");
            fs::write(dir.join("accept_ra"), value).expect("writes");
        };
        for (name, value) in
            [("all", "1"), ("default", "1\n"), ("eth0", "1\n"), ("eth1", "0\n"), ("eth2", "2\n"), ("bwk0", "1")]
        {
            write(name, value);
        }
        let found = following_routers(temp.path(), "bwk0").expect("reads");
        let path = |name: &str| temp.path().join("conf").join(name).join("accept_ra");
        let golden = ["default", "eth0"].map(|name| Setting { path: path(name), value: "2" });
        assert_eq!(found, golden);
        for setting in found {
            assert!(setting.ensure().expect("writes") && !setting.ensure().expect("is there"));
        }
        assert_eq!(following_routers(temp.path(), "bwk0").expect("reads"), []);
    }
}
