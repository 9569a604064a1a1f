//! The addresses of names in `allow`, as the host's resolver has them.
//!
//! A name is looked up each minute. Its addresses are those of the last answer; without an answer, the earlier ones stay. A name of a
//! large service has other addresses for each who asks, so a jail may be refused what its own look-up has given it: that is told in
//! the documentation, and a prefix is better then.
//!
//! Name servers that do not answer hold up nobody else's names: several are asked at a time, each tenant's in turn, and when time is
//! over, those that were not asked come first the next time.
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The most names of all tenants together that one run asks for.
const MOST_NAMES: usize = 2000;
/// The most addresses of one name.
const MOST_ADDRESSES: usize = 64;
/// How long all look-ups together may take: half of what the service manager gives a run (`TimeoutStartSec=`, and `UPLINK_TIME` of
/// `bailiwickd`), so that its end comes before.
const TIME: Duration = Duration::from_secs(10);
/// How long after the start another name is asked. So each has the other half of [`TIME`], in which glibc asks one server or two.
const BEGIN_TIME: Duration = Duration::from_secs(5);
/// How many names are asked at a time.
const AT_A_TIME: usize = 32;
/// The most bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;

/// Addresses by name.
pub(super) type Names = BTreeMap<DomainName, Vec<IpAddr>>;

/// When names were last asked, in seconds since 1970. It is empty when the last run has asked all.
pub(super) type Asked = BTreeMap<DomainName, u64>;

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

/// What is known of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The addresses of those that have some.
    pub(super) names: Names,
    /// When they were asked.
    pub(super) asked: Asked,
    /// Which have none.
    pub(super) problems: Vec<String>,
}

impl Known {
    /// What was known before a look-up. A name that is no longer wanted is forgotten. Of names without an address those are told that
    /// were told before: the others may have one in a moment.
    pub(super) fn before(wanted: &Wanted, names: &Names, asked: Asked, told: &[String]) -> Self {
        let (names, mut problems) = merged(wanted, &Names::new(), names);
        problems.retain(|text| told.contains(text));
        Self { names, asked, problems }
    }

    /// Looks names up. A name without an answer keeps its earlier addresses.
    pub(super) fn look_up(self, wanted: &Wanted, now: u64, user: RouterUser) -> io::Result<Self> {
        let answers = ask_apart(&in_turn(wanted, &self.asked), user)?;
        let (names, problems) = merged(wanted, &answers.found, &self.names);
        Ok(Self { names, asked: asked(wanted, &answers.asked, self.asked, now), problems })
    }
}

/// In which order names are asked: one of each tenant, then the next one of each. Those come first that have waited longest.
fn in_turn<'a>(wanted: &'a Wanted, asked: &Asked) -> Vec<&'a DomainName> {
    let mut of_tenants: BTreeMap<&TenantName, Vec<(u64, &DomainName)>> = BTreeMap::new();
    for (name, tenant) in wanted {
        of_tenants.entry(tenant).or_default().push((asked.get(name).copied().unwrap_or(0), name));
    }
    let mut all = Vec::with_capacity(wanted.len());
    for names in of_tenants.values_mut() {
        names.sort_unstable();
        all.extend(names.iter().enumerate().map(|(turn, (at, name))| (turn, *at, *name)));
    }
    all.sort_unstable();
    all.into_iter().take(MOST_NAMES).map(|(_, _, name)| name).collect()
}

/// When names were asked, after a run that has asked some of them.
fn asked(wanted: &Wanted, now_asked: &BTreeSet<DomainName>, mut asked: Asked, now: u64) -> Asked {
    if wanted.keys().all(|name| now_asked.contains(name)) {
        return Asked::new();
    }
    asked.retain(|name, _| wanted.contains_key(name));
    asked.extend(now_asked.iter().map(|name| (name.clone(), now)));
    asked
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
            "{} names below [network] are more than {MOST_NAMES}; so many are looked up each minute, in turn",
            wanted.len()
        ));
    }
    (all, problems)
}

/// What a look-up has found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    /// The names that were asked.
    asked: BTreeSet<DomainName>,
    /// The addresses of those that have some.
    found: Names,
}

/// Looks names up in a process of its own, without rights. What it has found when its time is over counts.
fn ask_apart(names: &[&DomainName], user: RouterUser) -> io::Result<Answers> {
    let (answer, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(child) = process::fork()? else {
        drop(answer);
        // Without an answer the earlier addresses stay.
        ask(names, user, write).ok();
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

/// Writes one line for each name that is asked, and another one when it has addresses.
fn ask(names: &[&DomainName], user: RouterUser, answer: OwnedFd) -> io::Result<()> {
    credential::become_for_good(user.uid, user.gid)?;
    credential::give_up_capabilities()?;
    credential::set_no_new_privs()?;
    let answer = std::fs::File::from(answer);
    // A line is shorter than what a pipe takes in one piece (`pipe(7)`), so lines of several threads do not mix.
    ask_each(names, Instant::now() + BEGIN_TIME, addresses_of, |line| (&answer).write_all(line.as_bytes()));
    Ok(())
}

fn addresses_of(name: &DomainName) -> BTreeSet<IpAddr> {
    #[expect(clippy::disallowed_methods, reason = "this process is killed when its time is over")]
    let found = (name.as_str(), 0).to_socket_addrs();
    found.into_iter().flatten().map(|address| address.ip()).take(MOST_ADDRESSES).collect()
}

/// Asks several names at a time, and begins with none after `until`.
fn ask_each(
    names: &[&DomainName],
    until: Instant,
    find: impl Fn(&DomainName) -> BTreeSet<IpAddr> + Sync,
    say: impl Fn(&str) -> io::Result<()> + Sync,
) {
    let next = AtomicUsize::new(0);
    let work = || {
        while Instant::now() < until
            && let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let is_said = say(&format!("{name}\n"));
            let addresses: Vec<_> = find(name).iter().map(IpAddr::to_string).collect();
            let line = format!("{name} {}\n", addresses.join(" "));
            if is_said.and_then(|()| say(&line)).is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_A_TIME.min(names.len()) {
            // Without a thread the others ask its names.
            thread::Builder::new().spawn_scoped(scope, work).ok();
        }
        work();
    });
}

/// Parses whole lines of names, most of them with addresses.
fn parse(text: &[u8]) -> Answers {
    let text = String::from_utf8_lossy(text);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut answers = Answers::default();
    for line in whole.lines() {
        let mut words = line.split(' ');
        let Some(name) = words.next().and_then(|word| word.parse::<DomainName>().ok()) else { continue };
        let addresses: Vec<IpAddr> = words.filter_map(|word| word.parse().ok()).take(MOST_ADDRESSES).collect();
        if !addresses.is_empty() {
            answers.found.insert(name.clone(), addresses);
        }
        answers.asked.insert(name);
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().expect("a name")
    }

    fn wanted(names: &[(&str, &str)]) -> Wanted {
        names.iter().map(|(text, tenant)| (name(text), tenant.parse().expect("a name"))).collect()
    }

    #[test]
    fn only_whole_lines_are_answers() {
        let answers =
            parse(b"a.example\na.example 192.0.2.1 2001:db8::1\nb.example\nno name 1.2.3.4\nc.example 192.0.2.9");
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address"));
        assert_eq!(answers.found, Names::from([(name("a.example"), addresses.into())]));
        assert_eq!(answers.asked, BTreeSet::from(["a.example", "b.example"].map(name)));
    }

    #[test]
    fn tenants_take_turns_and_who_waits_longest_comes_first() {
        let wanted = wanted(&[
            ("a.example", "mallory"),
            ("b.example", "mallory"),
            ("c.example", "mallory"),
            ("y.example", "bob"),
            ("z.example", "alice"),
        ]);
        let order =
            |asked: &Asked| in_turn(&wanted, asked).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(order(&Asked::new()), "a.example y.example z.example b.example c.example");
        // Time was over after three of them.
        let first = asked(&wanted, &["a.example", "y.example", "z.example"].map(name).into(), Asked::new(), 1);
        assert_eq!(order(&first), "b.example y.example z.example c.example a.example");
        // And after one: two others have waited as long as it before, and longer now.
        let second = asked(&wanted, &[name("b.example"), name("y.example")].into(), first, 2);
        assert_eq!(order(&second), "c.example z.example y.example a.example b.example");
        assert_eq!(asked(&wanted, &wanted.keys().cloned().collect(), second, 3), Asked::new(), "all were asked");
    }

    #[test]
    fn silent_names_keep_no_other_from_being_asked() {
        let names: Vec<DomainName> = (0..AT_A_TIME).map(|number| name(&format!("n{number}.example"))).collect();
        let (first, last) = (&names[0], &names[AT_A_TIME - 1]);
        // The first name has no answer before the last one is asked.
        let (told, hears) = std::sync::mpsc::sync_channel(1);
        let hears = std::sync::Mutex::new(hears);
        let find = |name: &DomainName| {
            if name == last {
                told.send(()).expect("somebody hears it");
            }
            let wait = || hears.lock().expect("unlocked").recv_timeout(Duration::from_secs(30));
            if name == first && wait().is_err() { BTreeSet::new() } else { [IpAddr::from([192, 0, 2, 1])].into() }
        };
        let said = std::sync::Mutex::new(String::new());
        let say = |line: &str| {
            said.lock().expect("unlocked").push_str(line);
            Ok(())
        };
        ask_each(&names.iter().collect::<Vec<_>>(), Instant::now() + BEGIN_TIME, find, say);
        let answers = parse(said.lock().expect("unlocked").as_bytes());
        assert_eq!((answers.asked.len(), answers.found.len()), (AT_A_TIME, AT_A_TIME));
        // After its time no name is asked.
        ask_each(&[first], Instant::now(), |_| unreachable!("it is late"), |_| unreachable!("it is late"));
    }

    #[test]
    fn a_name_without_an_answer_keeps_its_addresses() {
        let earlier = Names::from([(name("gone.invalid"), vec![IpAddr::from([192, 0, 2, 1])])]);
        let both = wanted(&[("gone.invalid", "alice"), ("never.invalid", "alice")]);
        let (found, problems) = merged(&both, &Names::new(), &earlier);
        assert_eq!(found, earlier);
        assert!(
            problems.len() == 1 && problems[0].contains("\"never.invalid\" in \"allow\" of the tenant \"alice\""),
            "{problems:?}"
        );
        // Before it was asked nobody is told, and after that until it has one.
        let before = |told: &[String]| Known::before(&both, &earlier, Asked::new(), told);
        assert_eq!((before(&[]).names, before(&[]).problems), (earlier.clone(), Vec::new()));
        assert_eq!(before(&problems).problems, problems);
        let now = Names::from([(name("gone.invalid"), vec![IpAddr::from([192, 0, 2, 2])])]);
        assert_eq!(merged(&wanted(&[("gone.invalid", "alice")]), &now, &earlier), (now, Vec::new()));
    }
}
