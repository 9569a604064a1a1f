//! The configuration of the cache, which `--uplink` leaves for it, and what has to be there for it.
//!
//! The cache runs while there is a file. Another content has it started anew.

use crate::settings;
use crate::uplink::network_directory;
use bailiwick_observe::network as observed;
use bailiwick_plan::network::Pools;
use bailiwick_policy::{Host, UNBOUND};
use bailiwick_proto::{Failure, NET_CACHE as FILE, NET_DIR};
use bailiwick_sys::file::{self, Outlives};
use bailiwick_types::{ALWAYS_BLOCKED, ExitStatus};
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

const MAX_FILE: usize = 64 << 10;

/// What every cache has. It runs as who starts it, in the directory `/`, and answers nobody but jails.
const SETTINGS: &str = "\
# Made by bailiwick-net from bailiwick.toml. It is made anew when that changes.
server:
    username: \"\"
    chroot: \"\"
    directory: \"\"
    pidfile: \"\"
    do-daemonize: no
    use-syslog: no
    logfile: \"\"
    verbosity: 0
    log-queries: no
    num-threads: 1
    # The resolvers that it asks decide what is true.
    module-config: \"iterator\"
    hide-identity: yes
    hide-version: yes
    minimal-responses: yes
    access-control: 0.0.0.0/0 refuse
    access-control: ::/0 refuse
    # The router bounds packets; many questions fit into one of TCP.
    ip-ratelimit: 200
    incoming-num-tcp: 256
    outgoing-num-tcp: 64
    outgoing-range: 4096
    num-queries-per-thread: 2048
    msg-cache-size: 16m
    rrset-cache-size: 32m
    key-cache-size: 1m
    neg-cache-size: 1m
    infra-cache-numhosts: 1000
    # Names that nobody answers for must not make a resolver count as down for all tenants.
    infra-host-ttl: 30
    infra-keep-probing: yes
";

/// Has the cache run with what is declared, or has it end; returns why it cannot run.
pub(crate) fn follow(host: &Host, resolvers: &[IpAddr]) -> io::Result<Option<String>> {
    let dir = network_directory(host)?;
    let wanted = host.network.cache.then(|| wanted(host, resolvers));
    let (text, problem) = match wanted {
        None => (None, None),
        Some(Ok(text)) => (Some(text), None),
        Some(Err(problem)) => (None, Some(problem)),
    };
    match (text, read(&dir)?) {
        (None, None) => {}
        (None, Some(_)) => file::remove_file_at(&dir, FILE)?,
        (Some(text), there) if there.as_deref() == Some(text.as_str()) => {}
        (Some(text), _) => file::replace_at(&dir, FILE, text.as_bytes(), 0o644, Outlives::Process)?,
    }
    Ok(problem)
}

fn wanted(host: &Host, resolvers: &[IpAddr]) -> Result<String, String> {
    let message = |error: &(dyn std::error::Error + 'static)| Failure::new(ExitStatus::Failed, error).message;
    if !Path::new(UNBOUND).exists() {
        return Err(format!(
            "\"{UNBOUND}\" is not there; install the package \"unbound\", or write cache = false below [network]"
        ));
    }
    settings::cache_user(host).map_err(|error| message(&error))?;
    let pools = observed::pools(&host.network).map_err(|error| message(&error))?;
    if resolvers.is_empty() {
        return Err("there is no resolver that it could ask".to_owned());
    }
    Ok(text(pools, resolvers))
}

/// Removes the configuration, so that the cache ends.
pub(crate) fn remove(host: &Host) -> io::Result<()> {
    match file::open_dir(&host.runtime_dir.join(NET_DIR)) {
        Ok(dir) if read(&dir)?.is_some() => file::remove_file_at(dir, FILE),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads the configuration in the directory of the network; `None` when there is none.
pub(super) fn read(dir: impl AsFd) -> io::Result<Option<String>> {
    match file::open_file_at(dir, FILE).and_then(|file| file::read_bounded(file, MAX_FILE)) {
        Ok(text) => String::from_utf8(text).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The configuration (`unbound.conf(5)`).
fn text(pools: Pools, resolvers: &[IpAddr]) -> String {
    let mut text = SETTINGS.to_owned();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "    {key}: {value}").expect("a String takes every text");
    };
    let prefixes = || std::iter::once(pools.ipv4()).chain(pools.ipv6());
    line("do-ip6", &if pools.ipv6().is_some() { "yes" } else { "no" });
    for address in pools.cache().all() {
        line("interface", &address);
        line("outgoing-interface", &address);
    }
    for pool in prefixes() {
        line("access-control", &format!("{pool} allow"));
    }
    // No name of the Internet leads to a private address. Names of jails may, and lists of senders of spam answer with 127.0.0.2.
    let is_private = |source: &str, own: bool| own || ["RFC 3927", "RFC 4291, 2.5.6"].contains(&source);
    let private = ALWAYS_BLOCKED.iter().filter(|blocked| is_private(blocked.source, blocked.is_private()));
    for blocked in private.filter(|blocked| !prefixes().any(|pool| pool.overlaps(blocked.prefix))) {
        line("private-address", &blocked.prefix);
    }
    text += "forward-zone:\n    name: \".\"\n    forward-first: no\n";
    for resolver in resolvers {
        writeln!(text, "    forward-addr: {resolver}").expect("a String takes every text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_answers_jails_and_asks_resolvers() {
        let prefix = |text: &str| text.parse().expect("a prefix");
        let pools = Pools::new(prefix("100.64.0.0/10"), Some(prefix("fd12::/48"))).expect("each of its family");
        let resolvers = ["192.0.2.53", "2001:db8::53"].map(|text| text.parse().expect("an address"));
        let golden = "    do-ip6: yes\n    interface: 100.64.0.3\n    outgoing-interface: 100.64.0.3\n    interface: fd12::3\n    \
                      outgoing-interface: fd12::3\n    access-control: 100.64.0.0/10 allow\n    access-control: fd12::/48 \
                      allow\n    private-address: 10.0.0.0/8\n    private-address: 169.254.0.0/16\n    private-address: \
                      172.16.0.0/12\n    private-address: 192.168.0.0/16\n    private-address: fe80::/10\nforward-zone:\n    \
                      name: \".\"\n    forward-first: no\n    forward-addr: 192.0.2.53\n    forward-addr: 2001:db8::53\n";
        assert_eq!(text(pools, &resolvers), format!("{SETTINGS}{golden}"));
        let alone = text(Pools::new(prefix("10.0.0.0/16"), None).expect("a family"), &resolvers[..1]);
        assert!(alone.contains("do-ip6: no\n") && !alone.contains("private-address: 10."), "{alone}");
    }
}
