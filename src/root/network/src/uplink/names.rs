//! The addresses of names in `allow`, as the host's resolver has them.
//!
//! A name is looked up each minute. Its addresses are those of the last answer; without an answer, the earlier ones stay. A name of a
//! large service has other addresses for each who asks, so a jail may be refused what its own look-up has given it: that is told in
//! the documentation, and a prefix is better then.
//!
//! Danger: answers come from the Internet. They are looked up by a process that has no right and ends soon, and only addresses come
//! out of it.

use crate::settings::RouterUser;
use bailiwick_policy::Policy;
use bailiwick_sys::{credential, process};
use bailiwick_types::{Destination, DomainName, NetworkMode, TenantName};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The most names of all tenants together.
const MOST_NAMES: usize = 2000;
/// The most addresses of one name.
const MOST_ADDRESSES: usize = 64;
/// How long all look-ups together may take.
const TIME: Duration = Duration::from_secs(20);
/// The most bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;

/// Addresses by name.
pub(super) type Names = BTreeMap<DomainName, Vec<IpAddr>>;

/// The names that tenants with a network may send to, each with a tenant that may.
pub(super) type Wanted = BTreeMap<DomainName, TenantName>;

/// The names that tenants with a network may send to.
pub(super) fn of_policy(policy: &Policy) -> Wanted {
    let mut all = Wanted::new();
    for tenant in policy.tenants.values().filter(|tenant| tenant.settings.network.mode != NetworkMode::None) {
        for allow in &tenant.settings.network.allow {
            if let Destination::Name(name) = &allow.to {
                all.entry(name.clone()).or_insert_with(|| tenant.name.clone());
            }
        }
    }
    all
}

/// Looks names up. A name without an answer keeps its earlier addresses. The second value says which names have none.
pub(super) fn look_up(wanted: &Wanted, earlier: &Names, user: RouterUser) -> io::Result<(Names, Vec<String>)> {
    if wanted.is_empty() {
        return Ok((Names::new(), Vec::new()));
    }
    Ok(merged(wanted, &ask_apart(wanted, user)?, earlier))
}

fn merged(wanted: &Wanted, found: &Names, earlier: &Names) -> (Names, Vec<String>) {
    let mut all = Names::new();
    let mut problems = Vec::new();
    for (name, tenant) in wanted {
        match found.get(name).or_else(|| earlier.get(name)) {
            Some(addresses) => drop(all.insert(name.clone(), addresses.clone())),
            None => problems
                .push(format!(
                    "\"{name}\" in \"allow\" of the tenant \"{tenant}\" has no address, so it allows nothing; correct the name in its \
                     file or plan, or see why the host's resolver does not know it"
                )),
        }
    }
    if wanted.len() > MOST_NAMES {
        problems.push(format!(
            "{} names below [network] are more than {MOST_NAMES}; the last ones are not looked up",
            wanted.len()
        ));
    }
    (all, problems)
}

/// Looks names up in a process of its own, without rights. What it has found when its time is over counts.
fn ask_apart(wanted: &Wanted, user: RouterUser) -> io::Result<Names> {
    let (answer, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(child) = process::fork()? else {
        drop(answer);
        // Without an answer the earlier addresses stay.
        ask(wanted, user, write).ok();
        process::exit_now(0)
    };
    let child = process::open(child)?;
    drop(write);
    let until = Instant::now() + TIME;
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while text.len() < MAX_ANSWER && process::readable(&answer, until.saturating_duration_since(Instant::now()))? {
        match rustix::io::read(&answer, &mut part)? {
            0 => break,
            len => text.extend_from_slice(&part[..len]),
        }
    }
    process::kill(&child).ok();
    process::has_ended(&child, Duration::from_secs(5))?;
    process::reap(&child)?;
    Ok(parse(&text))
}

/// Writes one line for each name that has an address.
fn ask(wanted: &Wanted, user: RouterUser, answer: OwnedFd) -> io::Result<()> {
    credential::become_for_good(user.uid, user.gid)?;
    credential::give_up_capabilities()?;
    credential::set_no_new_privs()?;
    let mut answer = std::fs::File::from(answer);
    for name in wanted.keys().take(MOST_NAMES) {
        #[expect(clippy::disallowed_methods, reason = "this process is killed when its time is over")]
        let Ok(found) = (name.as_str(), 0).to_socket_addrs() else { continue };
        let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).take(MOST_ADDRESSES).collect();
        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        writeln!(answer, "{name} {}", addresses.join(" "))?;
    }
    Ok(())
}

/// Parses whole lines of names with their addresses.
fn parse(text: &[u8]) -> Names {
    let text = String::from_utf8_lossy(text);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?.parse().ok()?;
        let addresses: Vec<IpAddr> = words.filter_map(|word| word.parse().ok()).take(MOST_ADDRESSES).collect();
        (!addresses.is_empty()).then_some((name, addresses))
    };
    whole.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_answers() {
        let found = parse(b"a.example 192.0.2.1 2001:db8::1\nb.example\nno name 1.2.3.4\nc.example 192.0.2.9");
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address"));
        assert_eq!(found, Names::from([("a.example".parse().expect("a name"), addresses.into())]));
    }

    #[test]
    fn a_name_without_an_answer_keeps_its_addresses() {
        let alice: TenantName = "alice".parse().expect("a name");
        let names = |texts: &[&str]| -> Wanted {
            texts.iter().map(|text| (text.parse().expect("a name"), alice.clone())).collect()
        };
        let earlier = Names::from([("gone.invalid".parse().expect("a name"), vec![IpAddr::from([192, 0, 2, 1])])]);
        let wanted = names(&["gone.invalid", "never.invalid"]);
        let (found, problems) = merged(&wanted, &Names::new(), &earlier);
        assert_eq!(found, earlier);
        assert!(
            problems.len() == 1 && problems[0].contains("\"never.invalid\" in \"allow\" of the tenant \"alice\""),
            "{problems:?}"
        );
        let now = Names::from([("gone.invalid".parse().expect("a name"), vec![IpAddr::from([192, 0, 2, 2])])]);
        assert_eq!(merged(&names(&["gone.invalid"]), &now, &earlier), (now, Vec::new()));
    }
}
