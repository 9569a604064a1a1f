//! The router's process: what is in force for whom, and the requests that change or read it.
//!
//! ```text
//!               Connect: rules, then the link, then up            its link is gone
//!   (no link) -----------------------------------------> connected ----------------> (no link)
//!                                                          |    ^
//!                                                          +----+ Update: the difference of the rules
//! ```
//!
//! The kernel holds everything that is in force. A new process reads it back and changes what differs. Counts stay.
//!
//! Danger: rules come before a link and go after it. A change is one transaction: if it fails, what was in force stays.

mod desired;
mod evidence;
mod force;
mod found;
mod host_side;
mod jail_link;
mod links;
mod parts;
mod read;
mod routes;

use crate::link_maker::LinkMaker;
use crate::step::{self, FailPoint, Step};
use crate::uplink::{self, OtherAddresses, Report, side_of_router, wanted_instead};
use crate::usage::{self, Counting, Usage};
use bailiwick_netfilter::conntrack::Conntrack;
use bailiwick_netfilter::nft::NftSocket;
use bailiwick_netlink::route::RouteSocket;
use bailiwick_observe::network::NetworkError;
use bailiwick_plan::network::{CACHE_LINK, NoAddress, Pools, ROUTER_LINK, link_name};
use bailiwick_policy::{Host, Store};
use bailiwick_proto::net::NetProblem;
use bailiwick_proto::{Failure, NetReply, NetRequest};
use bailiwick_rules::router::{PUBLISHED, RouterSettings, published};
use bailiwick_types::{ExitStatus, Ipv6Pool, NetworkMode, NetworkTraffic, Port, TenantName};
use desired::{Desired, NoNumber};
use evidence::Evidence;
use force::NO_ENTRY;
use found::{Difference, Found};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

/// How often everything in the kernel is compared with what it should be.
const COMPARE: Duration = Duration::from_secs(60);
/// How often the counts are looked at, for volumes of the month.
const COUNT: Duration = Duration::from_secs(10);
/// The most links of jails nobody knows that are named.
const MOST_STRANGERS: usize = 5;
/// A report of the host's side that is older says that nobody looks after it any more.
const REPORT_AGE: Duration = Duration::from_secs(300);

/// Why the router cannot be set up, or a change of it was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouterError {
    /// What is used cannot be read or written.
    #[error(
        "cannot keep what tenants use of their monthly volumes, in \"network/usage.json\" of the state directory; if it is damaged, move it away, and restart the tenants with a network: their month begins anew"
    )]
    Usage(#[source] io::Error),
    /// What was found cannot be written.
    #[error("cannot remember what was put right")]
    Found(#[source] io::Error),
    /// The report of the host's side cannot be read.
    #[error("cannot read what `bailiwick-net --uplink` found")]
    Report(#[source] io::Error),
    /// The host has never had its side made.
    #[error("`bailiwick-net --uplink` has not run yet, which makes the link to the host")]
    NoReport,
    /// The settings do not fit the machine.
    #[error(transparent)]
    Machine(#[from] NetworkError),
    /// The pool is too small.
    #[error(transparent)]
    Address(#[from] NoAddress),
    /// A policy cannot be told from others.
    #[error(transparent)]
    Number(#[from] NoNumber),
    /// The kernel refused a change.
    #[error(transparent)]
    Netlink(#[from] bailiwick_netlink::Error),
    /// A test has made a step fail.
    #[error(transparent)]
    Step(#[from] FailPoint),
    /// The addresses of jails have changed in `bailiwick.toml`.
    #[error(transparent)]
    OtherAddresses(#[from] OtherAddresses),
    /// No link was made.
    #[error("cannot make the link between the jail and the router")]
    Link(#[source] io::Error),
}

/// What the process that starts the router has opened for it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) host: Host,
    /// The directory of the socket and of the host's report.
    pub(crate) runtime: OwnedFd,
    /// The directory of what this program must remember.
    pub(crate) state: OwnedFd,
    pub(crate) maker: LinkMaker,
}

/// The router.
#[derive(Debug)]
pub(crate) struct Router {
    store: Store,
    host: Host,
    runtime: OwnedFd,
    maker: LinkMaker,
    usage: Usage,
    nft: NftSocket,
    route: RouteSocket,
    conntrack: Conntrack,
    evidence: Evidence,
    pools: Pools,
    report: Report,
    /// Which file the report was.
    report_file: Option<(u64, i64, u64)>,
    settings: RouterSettings,
    /// What should be in force for each tenant with a link.
    tenants: BTreeMap<TenantName, Desired>,
    /// The tenants that ports of the host led to when this process started, until all are taken over.
    held: BTreeMap<Port, TenantName>,
    /// Addresses of jails that are gone. Their connections still count until they are forgotten, within a second.
    left: BTreeSet<IpAddr>,
    /// The number of nftables' changes after the last one of ours.
    generation: u32,
    compared: Instant,
    /// The link to the host, whose classes bound what jails send. One that was made anew has none.
    uplink: Option<u32>,
    /// When the counts were looked at.
    counted: Instant,
    /// What comparisons have found and put right.
    found: Found,
    /// Whether counts were added since this process started: until then a lower one may be that of a new router.
    has_counted: bool,
    /// Whether a change has failed, so that something half done may be there.
    is_half_done: bool,
    broken: Option<io::Error>,
}

impl Router {
    /// Takes over what the kernel has, and puts right what differs from the policy.
    pub(crate) fn open(opened: Opened, log: &mut impl FnMut(&str)) -> Result<Self, RouterError> {
        let Opened { store, host, runtime, state, maker } = opened;
        let usage = Usage::open(state).map_err(RouterError::Usage)?;
        let found = Found::open(usage.directory());
        let report_file = uplink::report_identity(&runtime);
        let report = uplink::read_report(&runtime).map_err(RouterError::Report)?.ok_or(RouterError::NoReport)?;
        let pools = bailiwick_observe::network::pools(&host.network)?;
        let settings = host_side::settings(&host, pools, &report);
        let (nft, mut route, conntrack) = (NftSocket::open()?, RouteSocket::open()?, Conntrack::open()?);
        check_side(&mut route, pools)?;
        let evidence = Evidence::open()?;
        let tenants = BTreeMap::new();
        let mut router = Self {
            store,
            host,
            runtime,
            maker,
            usage,
            nft,
            route,
            conntrack,
            evidence,
            pools,
            report,
            report_file,
            settings,
            tenants,
            held: BTreeMap::new(),
            left: BTreeSet::new(),
            generation: 0,
            compared: Instant::now(),
            uplink: None,
            counted: Instant::now(),
            found,
            has_counted: false,
            is_half_done: false,
            broken: None,
        };
        step::reach(Step::StartLinks)?;
        // What follows from a volume of the month follows from all that was used.
        router.count()?;
        router.adopt(log)?;
        step::reach(Step::StartRules)?;
        let mut differences = router.compare()?;
        step::reach(Step::StartRoutes)?;
        differences.extend(router.compare_routes()?);
        step::reach(Step::StartJails)?;
        differences.extend(router.compare_links()?);
        step::reach(Step::StartCounts)?;
        router.remove_counts_of_nobody()?;
        for Difference { text, .. } in &differences {
            log(&format!("event=repaired what={text:?}"));
        }
        Ok(router)
    }

    pub(crate) fn runtime(&self) -> &OwnedFd {
        &self.runtime
    }

    pub(crate) fn state(&self) -> BorrowedFd<'_> {
        self.usage.directory()
    }

    /// A problem after which this process must end, because it no longer knows what is in force.
    pub(crate) fn broken(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// Becomes readable with records of refused packets.
    pub(crate) fn records(&self) -> BorrowedFd<'_> {
        self.evidence.fd()
    }

    /// Takes the records of refused packets that have come.
    pub(crate) fn take_records(&mut self, log: &mut impl FnMut(&str)) {
        if let Err(error) = self.evidence.take() {
            log(&format!("event=records-lost reason={:?}", Failure::new(ExitStatus::Failed, &error).message));
        }
    }

    /// Writes down what was used, before the process ends.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.count().map_err(io::Error::other)?;
        self.found.save(self.usage.directory())?;
        self.usage.save()
    }

    /// Finds the tenants whose links are there. A port of the host goes on leading where it led.
    fn adopt(&mut self, log: &mut impl FnMut(&str)) -> Result<(), RouterError> {
        let linked = jail_link::numbers(&mut self.route)?;
        let known: Vec<_> = self.usage.numbers().map(|(name, number)| (name.clone(), number)).collect();
        self.held = self.holders(known.iter().filter(|(_, number)| linked.contains(number)))?;
        for (name, number) in known {
            if !linked.contains(&number) {
                // The connections of a jail that ended while nobody looked.
                self.left.extend(self.pools.tenant(number).iter().flat_map(|addresses| addresses.all()));
                continue;
            }
            match self.desired_at_start(&name, number) {
                Ok(Some(desired)) => drop(self.tenants.insert(name, desired)),
                Ok(None) => log(&format!("tenant={name} event=not-declared what=\"its link has no rules\"")),
                Err(failure) => log(&format!("tenant={name} event=policy-problem reason={:?}", failure.message)),
            }
        }
        self.held.clear();
        let waiting = self.tenants.iter().filter(|(_, desired)| !desired.left_out.is_empty());
        for (name, number) in waiting.map(|(name, desired)| (name.clone(), desired.number)).collect::<Vec<_>>() {
            // Whoever had the port may publish it no longer.
            match self.desired(&name, number) {
                Ok(Some(desired)) => drop(self.tenants.insert(name, desired)),
                Ok(None) => {}
                Err(failure) => log(&format!("tenant={name} event=policy-problem reason={:?}", failure.message)),
            }
        }
        Ok(())
    }

    /// Which of these tenants the ports of the host lead to, by the kernel's word.
    fn holders<'a>(
        &mut self,
        tenants: impl Iterator<Item = &'a (TenantName, u32)>,
    ) -> Result<BTreeMap<Port, TenantName>, RouterError> {
        let addresses = |(name, number): &'a (TenantName, u32)| {
            let own = self.pools.tenant(*number).ok();
            own.into_iter().flat_map(|own| own.all().collect::<Vec<_>>()).map(move |address| (address, name))
        };
        let owners: BTreeMap<IpAddr, &TenantName> = tenants.flat_map(addresses).collect();
        let mut held = BTreeMap::new();
        for set in PUBLISHED {
            let led = match self.elements_of(set) {
                // There are no rules.
                Err(RouterError::Netlink(error)) if error.errno() == Some(NO_ENTRY) => Vec::new(),
                led => led?,
            };
            let owner = |(port, address)| Some((port, (*owners.get(&address)?).clone()));
            held.extend(led.iter().filter_map(published).filter_map(owner));
        }
        Ok(held)
    }

    /// Looks at everything that may have changed by itself. Once a second.
    pub(crate) fn look(&mut self, log: &mut impl FnMut(&str)) {
        // With other addresses in bailiwick.toml, this process goes on for the last jail that has an earlier one.
        let host = self.store.host().ok().map(|(host, _)| host);
        let is_other = |router: &mut Self| matches!(router.check_router(), Err(RouterError::OtherAddresses(_)));
        let has_others = host.as_ref().is_some_and(|host| self.check_addresses(host).is_err()) || is_other(self);
        if has_others && self.forget_unlinked().is_ok() && self.tenants.is_empty() {
            self.broken = Some(io::Error::other("bailiwick.toml gives jails other addresses, which need a new start"));
            return;
        }
        // One that fails keeps none of the others from being done.
        let looked = [
            self.look_at_report(host.as_ref(), log),
            self.look_at_kernel(log),
            self.look_at_months(log),
            self.forget_connections(),
            self.save_found(),
        ];
        for error in looked.into_iter().filter_map(Result::err) {
            log(&format!("event=not-compared reason={:?}", Failure::new(ExitStatus::Failed, &error).message));
        }
    }

    fn save_found(&mut self) -> Result<(), RouterError> {
        self.found.save(self.usage.directory()).map_err(RouterError::Found)
    }

    /// Puts in force what `--uplink` has reported since, before requests are answered: after a change of the host's settings they come
    /// right after a report.
    pub(crate) fn follow_report(&mut self, log: &mut impl FnMut(&str)) {
        let file = uplink::report_identity(&self.runtime);
        if file == self.report_file {
            return;
        }
        self.report_file = file;
        let host = self.store.host().ok().map(|(host, _)| host);
        // The next look tries it again.
        if let Err(error) = self.look_at_report(host.as_ref(), log) {
            log(&format!("event=not-compared reason={:?}", Failure::new(ExitStatus::Failed, &error).message));
        }
    }

    fn look_at_report(&mut self, host: Option<&Host>, log: &mut impl FnMut(&str)) -> Result<(), RouterError> {
        let report = uplink::read_report(&self.runtime).map_err(RouterError::Report)?.ok_or(RouterError::NoReport)?;
        if report == self.report {
            return Ok(());
        }
        // The second report of a run, which has the answers for names, tells the same again.
        let is_told = (report.at, &report.repaired) == (self.report.at, &self.report.repaired);
        self.report = report;
        if !is_told {
            self.note_repairs_of_host();
        }
        self.look_at_uplink(log)?;
        self.follow_host(host)
    }

    /// Remembers what `--uplink` has put back: for a while packets took no way of ours.
    fn note_repairs_of_host(&mut self) {
        let text = |what: &String| Difference::of_uplink(format!("was put back on the host's side: {what}"));
        self.found.note(self.report.repaired.iter().map(text).collect(), SystemTime::now());
    }

    /// Puts the rates of what jails send in force again, when the link to the host was made anew.
    fn look_at_uplink(&mut self, log: &mut impl FnMut(&str)) -> Result<(), RouterError> {
        let uplink = self.route.link(ROUTER_LINK)?.map(|link| link.index);
        if uplink.is_some() && uplink != self.uplink {
            let differences = self.compare_links()?;
            self.note(differences, log);
        }
        Ok(())
    }

    /// Tells what a comparison has found, now and for a day.
    fn note(&mut self, differences: Vec<Difference>, log: &mut impl FnMut(&str)) {
        for Difference { text, .. } in &differences {
            log(&format!("event=difference what={text:?}"));
        }
        self.found.note(differences, SystemTime::now());
    }

    /// Whether `bailiwick.toml` gives jails the addresses that are in force.
    fn check_addresses(&self, host: &Host) -> Result<(), OtherAddresses> {
        let (new, old) = (&host.network, &self.host.network);
        let router = self.pools.router();
        if new.ipv4 != old.ipv4 {
            let wanted = format!("ipv4 = \"{}\"", new.ipv4);
            return Err(OtherAddresses { wanted, there: router.ipv4.into() });
        }
        if new.ipv6 != old.ipv6 {
            let wanted = match new.ipv6 {
                Ipv6Pool::Auto => "ipv6 = \"auto\"".to_owned(),
                Ipv6Pool::Off => "ipv6 = \"off\"".to_owned(),
                Ipv6Pool::Prefix(prefix) => format!("ipv6 = \"{prefix}\""),
            };
            let there = router.ipv6.map_or(IpAddr::V4(router.ipv4), IpAddr::V6);
            return Err(OtherAddresses { wanted, there });
        }
        Ok(())
    }

    /// Whether the router still has the addresses that this process gives jails. `--uplink` gives it others, when no jail runs.
    fn check_router(&mut self) -> Result<(), RouterError> {
        check_side(&mut self.route, self.pools)
    }

    /// Puts in force what the host's settings and the report of its side say of all tenants. Without a file that can be read, the
    /// settings stay.
    fn follow_host(&mut self, host: Option<&Host>) -> Result<(), RouterError> {
        if let Some(host) = host {
            self.host.network.block.clone_from(&host.network.block);
            self.host.network.cache = host.network.cache;
        }
        let settings = host_side::settings(&self.host, self.pools, &self.report);
        if settings != self.settings {
            self.put_common_in_force(&settings)?;
            let earlier = std::mem::replace(&mut self.settings, settings);
            if earlier.names != self.settings.names
                && let Err(error) = self.follow_names()
            {
                // The next report, within a minute, has it tried again.
                self.settings.names = earlier.names;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts the addresses in force that names have now, for those whose policies have names. Open connections go on: a name of a
    /// large service has other addresses each minute.
    fn follow_names(&mut self) -> Result<(), RouterError> {
        let mut failure = None;
        for name in self.tenants.keys().cloned().collect::<Vec<_>>() {
            // One that fails keeps none of the others from the addresses of today.
            if let Err(error) = self.follow_names_of(&name) {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn follow_names_of(&mut self, name: &TenantName) -> Result<(), RouterError> {
        let Some(old) = self.tenants.get(name).cloned() else { return Ok(()) };
        let desired = self.desired_with_names(&old)?;
        if !old.is_as(&desired) {
            self.put_in_force(name, &desired)?;
            self.tenants.insert(name.clone(), desired);
        }
        Ok(())
    }

    fn look_at_kernel(&mut self, log: &mut impl FnMut(&str)) -> Result<(), RouterError> {
        let is_changed = self.nft.generation()? != self.generation;
        let is_half_done = std::mem::take(&mut self.is_half_done);
        let is_due = self.compared.elapsed() >= COMPARE;
        if !is_changed && !is_half_done && !is_due {
            return Ok(());
        }
        self.compared = Instant::now();
        self.forget_unlinked()?;
        let mut differences = self.compare()?;
        differences.extend(self.compare_routes()?);
        if is_half_done || is_due {
            differences.extend(self.compare_links()?);
        }
        differences.extend(self.count()?);
        self.note(differences, log);
        self.usage.save().map_err(RouterError::Usage)
    }

    /// Looks at what was used, and holds those back whose volume of the month is used up.
    fn look_at_months(&mut self, log: &mut impl FnMut(&str)) -> Result<(), RouterError> {
        if self.counted.elapsed() < COUNT {
            return Ok(());
        }
        self.counted = Instant::now();
        let differences = self.count()?;
        self.found.note(differences, SystemTime::now());
        let stops = self.stops()?;
        let limited = self.tenants.iter().filter(|(_, desired)| desired.has_volume());
        for name in limited.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let Some(old) = self.tenants.get(&name).cloned() else { continue };
            let used = self.used(&name, &stops);
            for share in old.new_shares(used) {
                log(&format!("tenant={name} event=month-used percent={share}"));
            }
            // Only what was used has changed. Everything else of the policy waits for a request.
            let desired = old.with_used(used);
            if desired.is_held_back() != old.is_held_back() {
                log(&format!("tenant={name} event=month-over held_back={}", desired.is_held_back()));
                jail_link::change_rates(&mut self.route, &old, &desired)?;
            }
            self.tenants.insert(name, desired);
        }
        Ok(())
    }

    /// Takes the rules of tenants away whose links are gone with their jails.
    fn forget_unlinked(&mut self) -> Result<(), RouterError> {
        let links = self.route.links()?;
        self.evidence.keep_only(|index| links.iter().any(|link| link.index == index));
        let linked = jail_link::numbers_in(&links);
        let gone = self.tenants.iter().filter(|(_, desired)| !linked.contains(&desired.number));
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.disconnect(&name)?;
        }
        Ok(())
    }

    /// Forgets the connections of jails that are gone.
    fn forget_connections(&mut self) -> Result<(), RouterError> {
        self.conntrack.delete_of(&self.left)?;
        self.left.clear();
        Ok(())
    }

    /// Forgets the connections of an earlier jail of a tenant, if it ended a moment ago and had some.
    fn forget_connections_of_last_jail(&mut self, name: &TenantName, next: &Desired) -> Result<(), RouterError> {
        let last = self.tenants.get(name).cloned();
        let has_some = last.map_or(Ok(false), |last| self.has_connections(&last))?;
        if has_some || next.addresses.all().any(|address| self.left.contains(&address)) {
            self.left.extend(next.addresses.all());
            self.forget_connections()?;
        }
        Ok(())
    }

    /// Adds to the volumes of the month what the kernel has counted since the last time; returns which counts went backwards.
    fn count(&mut self) -> Result<Vec<Difference>, RouterError> {
        let traffic = match self.traffic() {
            // There are no rules, and so no counts.
            Err(RouterError::Netlink(error)) if error.errno() == Some(NO_ENTRY) => {
                self.usage.counts_begin_anew();
                return Ok(Vec::new());
            }
            traffic => traffic?,
        };
        let differences = self.add_all(&traffic);
        self.begin_months()?;
        Ok(differences)
    }

    /// The same of what was read already.
    fn add_all(&mut self, traffic: &BTreeMap<TenantName, NetworkTraffic>) -> Vec<Difference> {
        let mut differences = Vec::new();
        for name in self.usage.numbers().map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            // A count that is missing is made again, from zero.
            differences.extend(self.add(&name, traffic.get(&name).copied().unwrap_or_default()));
        }
        self.has_counted = true;
        differences
    }

    /// The same of one tenant.
    fn count_one(&mut self, name: &TenantName, number: u32) -> Result<(), RouterError> {
        let traffic = self.traffic_of(number)?;
        let differences = self.add(name, traffic).into_iter().collect();
        self.found.note(differences, SystemTime::now());
        self.begin_months()
    }

    fn add(&mut self, name: &TenantName, traffic: NetworkTraffic) -> Option<Difference> {
        match self.usage.add(name, traffic.bytes(), usage::month(SystemTime::now())) {
            Counting::Backward { before, now } if self.has_counted => {
                Some(Difference::backward(name.clone(), before, now))
            }
            Counting::Backward { .. } | Counting::Forward => None,
        }
    }

    /// Handles a request. Changes come from root only, which the caller has checked.
    pub(crate) fn answer(&mut self, request: NetRequest, fds: Vec<OwnedFd>) -> NetReply {
        let is_change = request.changes();
        let result = match request {
            NetRequest::Hello => Ok(NetReply::Hello { version: env!("CARGO_PKG_VERSION").to_owned() }),
            NetRequest::Connect { tenant, number } => self.connect(&tenant, number, fds),
            NetRequest::Update { tenant } => self.update(&tenant),
            NetRequest::Forget { tenant } => {
                self.forget(&tenant).map(|()| NetReply::Done).map_err(|error| failed(&tenant, "forget", &error))
            }
            NetRequest::Observe { tenants } => self.observe(&tenants),
            NetRequest::Traffic => {
                self.traffic().map(NetReply::Traffic).map_err(|error| Failure::new(ExitStatus::Failed, &error))
            }
            NetRequest::Connections { tenant } => self.connections(&tenant),
            NetRequest::Problems => Ok(NetReply::Problems(self.problems())),
        };
        self.is_half_done |= is_change && result.is_err();
        result.unwrap_or_else(NetReply::Failed)
    }

    /// Connects a jail that is being made.
    fn connect(&mut self, name: &TenantName, number: u32, mut fds: Vec<OwnedFd>) -> Result<NetReply, Failure> {
        let jail =
            fds.pop().ok_or_else(|| Failure::of(ExitStatus::Invalid, "no network namespace came with the request"))?;
        let desired = self.desired_now(name, number, "connect")?;
        let connected = self.make_connection(name, desired, &jail);
        if let Err(error) = &connected
            && let RouterError::Link(source) = error
            && is_lost(source.kind())
        {
            self.broken = Some(io::Error::other("the process that makes links does not answer"));
        }
        connected.map(|()| NetReply::Done).map_err(|error| failed(name, "connect", &error))
    }

    fn make_connection(&mut self, name: &TenantName, desired: Desired, jail: &OwnedFd) -> Result<(), RouterError> {
        let number = desired.number;
        step::reach(Step::ConnectNumber)?;
        if self.usage.number(name) != Some(number) {
            // Its data was purged.
            if let Some(earlier) = self.usage.tenant(number).cloned() {
                self.disconnect(&earlier)?;
            }
            self.begin_anew(number)?;
            step::reach(Step::ConnectNote)?;
            self.usage.note(name, number).map_err(RouterError::Usage)?;
        }
        self.end_links_to_earlier(name, number)?;
        step::reach(Step::ConnectOldLink)?;
        self.forget_connections_of_last_jail(name, &desired)?;
        // A link of an earlier jail with this number leads nowhere any more.
        jail_link::remove(&mut self.route, number)?;
        // Whatever was changed by others is put right before anybody can send.
        if self.nft.generation()? != self.generation {
            let differences = self.compare()?;
            self.found.note(differences, SystemTime::now());
        }
        step::reach(Step::ConnectRules)?;
        self.put_in_force(name, &desired)?;
        // From here on this is what is in force, whatever becomes of the link.
        self.tenants.insert(name.clone(), desired.clone());
        // Before anybody reaches it: it may have taken back what it allowed while it was down.
        step::reach(Step::ConnectPeers)?;
        self.link_peers(name)?;
        step::reach(Step::ConnectLink)?;
        self.maker.connect(number, jail.as_fd()).map_err(RouterError::Link)?;
        jail_link::set_up(&mut self.route, &desired)?;
        Ok(step::reach(Step::ConnectReply)?)
    }

    /// What the policy of today says of a tenant that has a network, with what it has used of its volume up to now. The files are read
    /// once, and what they say of the host is in force first.
    fn desired_now(&mut self, name: &TenantName, number: u32, verb: &str) -> Result<Desired, Failure> {
        let (host, tenant) = self.declared(name)?;
        self.check_addresses(&host).map_err(|error| failed(name, verb, &error))?;
        self.check_router().map_err(|error| failed(name, verb, &error))?;
        self.follow_host(Some(&host)).map_err(|error| failed(name, verb, &error))?;
        let tenant = tenant.ok_or_else(|| no_network(name))?;
        if tenant.settings.network.month.is_some() {
            self.count_one(name, number).map_err(|error| failed(name, "count for", &error))?;
        }
        self.desired_of(&tenant, number)
    }

    /// Puts the policy of today in force for a jail that runs.
    fn update(&mut self, name: &TenantName) -> Result<NetReply, Failure> {
        let number = self.tenants.get(name).map(|desired| desired.number).ok_or_else(|| no_network(name))?;
        let desired = self.desired_now(name, number, "change the network of")?;
        let put = match self.tenants.get(name) {
            // What it says of others is among their rules.
            Some(old) if old.is_as(&desired) => self.link_peers(name),
            _ => self.change(name, desired).map(|()| NetReply::Done),
        };
        put.map_err(|error| failed(name, "change the network of", &error))
    }

    /// Puts another policy in force for a tenant. If that fails, what was in force stays.
    fn change(&mut self, name: &TenantName, desired: Desired) -> Result<(), RouterError> {
        let Some(old) = self.tenants.get(name).cloned() else { return Ok(()) };
        let changed = jail_link::change_rates(&mut self.route, &old, &desired)
            .and_then(|()| Ok(step::reach(Step::ChangeRules)?))
            .and_then(|()| self.put_in_force(name, &desired));
        if let Err(error) = changed {
            jail_link::change_rates(&mut self.route, &desired, &old)?;
            return Err(error);
        }
        self.tenants.insert(name.clone(), desired);
        step::reach(Step::ChangePeers)?;
        self.link_peers(name)?;
        Ok(step::reach(Step::ChangeReply)?)
    }

    /// Puts the links in force that other tenants have to a tenant, as far as it agrees and its number is known.
    fn link_peers(&mut self, name: &TenantName) -> Result<NetReply, RouterError> {
        let mut reply = NetReply::Unchanged;
        let others = self.tenants.iter().filter(|(_, desired)| desired.peers.contains(name));
        for (other, number) in others.map(|(other, desired)| (other.clone(), desired.number)).collect::<Vec<_>>() {
            let desired = match (self.desired(&other, number), self.tenants.get(&other).cloned()) {
                (Ok(Some(desired)), _) => desired,
                // What its own file says today cannot be in force, or waits for a restart. What others have taken back ends all the same.
                (Ok(None) | Err(_), Some(old)) => self.with_consented_links(&other, &old),
                (Ok(None) | Err(_), None) => continue,
            };
            if self.tenants.get(&other).is_none_or(|old| !old.is_as(&desired)) {
                self.change(&other, desired)?;
                reply = NetReply::Done;
            }
        }
        Ok(reply)
    }

    /// Ends the links that lead to an earlier tenant of a number. This is looked at for each jail, whatever has failed when the earlier
    /// one was forgotten.
    fn end_links_to_earlier(&mut self, name: &TenantName, number: u32) -> Result<(), RouterError> {
        let stale = self.tenants.iter().filter(|(_, desired)| desired.leads_to_earlier(name, number));
        for (other, old) in stale.map(|(other, desired)| (other.clone(), desired.clone())).collect::<Vec<_>>() {
            let desired = self.with_consented_links(&other, &old);
            self.change(&other, desired)?;
        }
        Ok(())
    }

    /// Takes the rules of a tenant away. What it has used stays.
    fn disconnect(&mut self, name: &TenantName) -> Result<(), RouterError> {
        let Some(old) = self.tenants.remove(name) else { return Ok(()) };
        self.left.extend(old.addresses.all());
        let gone = self.take_away(&old);
        self.is_half_done |= gone.is_err();
        gone
    }

    fn take_away(&mut self, old: &Desired) -> Result<(), RouterError> {
        step::reach(Step::DisconnectRules)?;
        self.take_out_of_force(old)?;
        step::reach(Step::DisconnectPolicy)?;
        self.remove_shared_of(old)?;
        step::reach(Step::DisconnectRate)?;
        // The rate into the jail went with its link.
        Ok(jail_link::remove_rate_out(&mut self.route, old)?)
    }

    /// Forgets a tenant whose data is purged: the next one of that name begins at zero.
    fn forget(&mut self, name: &TenantName) -> Result<(), RouterError> {
        let number = self.usage.number(name);
        step::reach(Step::ForgetUsage)?;
        // First what it has used: a number that nobody has begins at zero when somebody gets it, whatever fails below.
        self.usage.forget(name).map_err(RouterError::Usage)?;
        self.found.forget(name);
        step::reach(Step::ForgetRules)?;
        self.disconnect(name)?;
        // Its number is the next tenant's.
        self.link_peers(name)?;
        let Some(number) = number else { return Ok(()) };
        step::reach(Step::ForgetLink)?;
        jail_link::remove(&mut self.route, number)?;
        step::reach(Step::ForgetCounts)?;
        self.begin_anew(number)?;
        Ok(step::reach(Step::ForgetReply)?)
    }

    fn problems(&mut self) -> Vec<NetProblem> {
        let problem = |finding: &str, text: String| NetProblem { finding: finding.to_owned(), tenant: None, text };
        let mut all: Vec<_> = self.report.problems.iter().map(|text| problem("BW124", text.clone())).collect();
        if let Some(age) = self.report.age(SystemTime::now()).filter(|age| *age > REPORT_AGE) {
            let text = format!(
                "the host's side was last looked at {} minutes ago; `systemctl status bailiwick-uplink.timer`",
                age.as_secs() / 60
            );
            all.push(problem("BW124", text));
        }
        if let Some(text) = self.cache_problem() {
            all.push(problem(found::CACHE, text));
        }
        all.extend(self.stranger_text().map(|text| problem("BW121", text)));
        all.extend(self.found.problems(SystemTime::now()));
        for (name, desired) in &self.tenants {
            for port in &desired.left_out {
                let text = format!("the host's port {port} does not lead to \"{name}\": another tenant has it");
                all.push(NetProblem { finding: "BW121".to_owned(), tenant: Some(name.clone()), text });
            }
            if let Some(text) = desired.month_text(name) {
                all.push(NetProblem { finding: "BW127".to_owned(), tenant: Some(name.clone()), text });
            }
        }
        all
    }
}

impl Router {
    /// What is said of jails that the router has links to and knows nothing of: the file with their numbers was lost.
    fn stranger_text(&mut self) -> Option<String> {
        let known: BTreeSet<_> = self.tenants.values().map(|desired| desired.number).collect();
        let linked = jail_link::numbers(&mut self.route).ok()?;
        let strangers: Vec<_> = linked.difference(&known).map(|number| link_name(*number)).collect();
        let names = strangers.iter().take(MOST_STRANGERS).map(String::as_str).collect::<Vec<_>>().join(", ");
        (!strangers.is_empty()).then(|| {
            let count = strangers.len();
            format!("{count} jail(s) at {names} are cut off, because nobody knows whose they are; `bailiwick restart` connects a tenant anew")
        })
    }

    /// Why the cache of names does not answer, if jails ask one. Its link is there as long as it runs.
    fn cache_problem(&mut self) -> Option<String> {
        let runs = matches!(self.route.link(CACHE_LINK), Ok(Some(_)));
        if !self.settings.cache || runs && self.report.cache.is_none() {
            return None;
        }
        let why = self.report.cache.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("the cache of names does not run, so no name resolves in a jail{why}"))
    }
}

/// Whether an error says that the process that makes links is gone, or that its answer comes late. A late one would be taken for that
/// of the next request.
fn is_lost(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionReset | NotConnected | TimedOut | UnexpectedEof)
}

/// Whether the router has the addresses of `bailiwick.toml`. One without a link to the host has none yet.
fn check_side(socket: &mut RouteSocket, pools: Pools) -> Result<(), RouterError> {
    let Some(link) = socket.link(ROUTER_LINK)? else { return Ok(()) };
    match side_of_router(pools).other_address(&socket.addresses_of(link.index)?) {
        Some(there) => Err(OtherAddresses { wanted: wanted_instead(pools, there), there }.into()),
        None => Ok(()),
    }
}

fn no_network(name: &TenantName) -> Failure {
    Failure::of(ExitStatus::Refused, format!("\"{name}\" has no network: mode = \"{}\"", NetworkMode::None))
}

fn failed(name: &TenantName, verb: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut failure = Failure::new(ExitStatus::Failed, error);
    failure.message = format!("cannot {verb} \"{name}\": {}", failure.message);
    failure
}
