//! What tenants send and receive over the network, and what was refused to them: what `bailiwick-net` has counted.
//!
//! Its counters go on while this program is down. The history stores how much traffic has grown; here only the last
//! readings are kept, for the use at present. Refused packets count from the first reading on, as the hits of limits do.

use crate::net_client::{NetError, NetLink};
use bailiwick_observe::Reading;
use bailiwick_proto::Failure;
use bailiwick_types::{Moment, MonthUse, NetworkFacts, NetworkTraffic, RefusedPacket, TenantName, Usage};
use std::collections::BTreeMap;

/// Refused packets of one tenant by reason.
type Refused = BTreeMap<RefusedPacket, u64>;

/// The counters of tenants' traffic.
#[derive(Debug)]
pub(super) struct TrafficMeter {
    link: NetLink,
    /// The last reading of each tenant's counters. Empty when the last question had no answer.
    counters: BTreeMap<TenantName, Usage>,
    /// The same reading, by version of IP.
    families: BTreeMap<TenantName, NetworkTraffic>,
    /// The refused packets of each tenant at the last reading; `None` before the first.
    refused: Option<BTreeMap<TenantName, Refused>>,
    /// The shares of the volume of the month that each tenant of the last answer has reached.
    shares: BTreeMap<TenantName, Vec<u8>>,
    /// When this month began, and what was last told of the use of tenants' volumes in it.
    months: (Moment, BTreeMap<TenantName, MonthUse>),
    /// Whether the last question was answered. Without it the next minute's sample asks again, and nobody before it.
    answers: bool,
}

impl TrafficMeter {
    /// A meter that asks over this link. It asks nothing yet.
    pub(super) fn new(link: NetLink) -> Self {
        Self {
            link,
            counters: BTreeMap::new(),
            families: BTreeMap::new(),
            refused: None,
            shares: BTreeMap::new(),
            months: (Moment(0), BTreeMap::new()),
            answers: false,
        }
    }

    /// Whether the last question was answered.
    pub(super) fn answers(&self) -> bool {
        self.answers
    }

    /// Reads the counters of all tenants. Without an answer nothing is known of any.
    ///
    /// # Errors
    /// Why there is no answer. On a host without a socket of `bailiwick-net` that is no error.
    pub(super) fn read(&mut self) -> Result<(), Failure> {
        self.counters.clear();
        self.families.clear();
        self.answers = false;
        match self.link.traffic() {
            Ok(all) => {
                self.counters.extend(all.iter().map(|(tenant, traffic)| (tenant.clone(), Usage::of_traffic(*traffic))));
                self.families = all;
                self.answers = true;
                Ok(())
            }
            Err(NetError::NoSocket) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets the last readings of tenants that nobody knows.
    pub(super) fn retain(&mut self, is_known: impl Fn(&TenantName) -> bool) {
        self.counters.retain(|tenant, _| is_known(tenant));
        self.families.retain(|tenant, _| is_known(tenant));
    }

    /// Forgets what was used in an earlier month.
    pub(super) fn month_is(&mut self, begin: Moment) {
        if self.months.0 != begin {
            self.months = (begin, BTreeMap::new());
        }
    }

    /// What a tenant has sent and received, by version of IP.
    pub(super) fn families(&self, tenant: &TenantName) -> Option<NetworkTraffic> {
        self.families.get(tenant).copied()
    }

    /// The packets that were refused to a tenant, and the use of its volume of the month, as was last told.
    pub(super) fn told(&self, tenant: &TenantName) -> (Refused, Option<MonthUse>) {
        let refused = self.refused.as_ref().and_then(|refused| refused.get(tenant)).cloned();
        (refused.unwrap_or_default(), self.months.1.get(tenant).copied())
    }

    /// The last reading of each tenant's counters.
    pub(super) fn counters(&self) -> &BTreeMap<TenantName, Usage> {
        &self.counters
    }

    /// The packets that the router refused since the last call, of each tenant with such packets. The first call only
    /// remembers what was refused before. It asks of the tenants of the last reading of traffic that are new or whose
    /// jails run, and of nobody when that reading had no answer.
    ///
    /// # Errors
    /// Why there is no answer. The next call then returns what was refused meanwhile.
    pub(super) fn newly_refused(
        &mut self,
        runs: impl Fn(&TenantName) -> bool,
    ) -> Result<BTreeMap<TenantName, Refused>, Failure> {
        let mut new = BTreeMap::new();
        self.shares.clear();
        if !self.answers {
            return Ok(new);
        }
        let is_meant = |tenant: &&TenantName| {
            let is_new = self.refused.as_ref().is_none_or(|refused| !refused.contains_key(*tenant));
            is_new || runs(tenant)
        };
        let meant: Vec<TenantName> = self.counters.keys().filter(is_meant).cloned().collect();
        let all = self.link.observe(&meant)?;
        self.shares.extend(all.iter().map(|facts| (facts.tenant.clone(), facts.shares_reached())));
        let month = |facts: &NetworkFacts| {
            let volume = facts.volume().map(|volume| volume.bytes.0);
            (facts.tenant.clone(), MonthUse { used: facts.month, volume })
        };
        self.months.1.extend(all.iter().map(month));
        let is_first = self.refused.is_none();
        let last = self.refused.get_or_insert_default();
        last.retain(|tenant, _| self.counters.contains_key(tenant));
        self.months.1.retain(|tenant, _| self.counters.contains_key(tenant));
        let mut found: BTreeMap<TenantName, Refused> =
            all.into_iter().map(|facts| (facts.tenant, facts.refused)).collect();
        for tenant in meant {
            let now = found.remove(&tenant).unwrap_or_default();
            let before = last.insert(tenant.clone(), now.clone()).unwrap_or_default();
            let grown = growth(&now, &before);
            if !is_first && !grown.is_empty() {
                new.insert(tenant, grown);
            }
        }
        Ok(new)
    }

    /// The shares of the volume of the month, in per cent, that are reached: of the tenants that [`Self::newly_refused`] asked of last,
    /// and of those shares that their policy wants told.
    pub(super) fn shares(&self) -> &BTreeMap<TenantName, Vec<u8>> {
        &self.shares
    }

    /// Adds the last reading of a tenant's counters to that of its control groups.
    pub(super) fn add_to(&self, tenant: &TenantName, reading: &mut Reading) {
        reading.usage.0.extend(self.counters.get(tenant).into_iter().flat_map(|counters| counters.0.clone()));
    }
}

/// How much each counter has grown; only those that have. One that is lower than before was made anew and counts whole.
fn growth(now: &Refused, before: &Refused) -> Refused {
    let grown = now.iter().map(|(reason, count)| {
        let before = before.get(reason).copied().unwrap_or(0);
        (*reason, count.checked_sub(before).unwrap_or(*count))
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

/// The use since an earlier reading. Traffic that the earlier reading lacks may be days old, and is left out.
pub(super) fn since(reading: &Reading, earlier: &Reading) -> Usage {
    let mut usage = reading.since(earlier);
    usage.0.retain(|measure, _| !measure.is_traffic() || earlier.usage.get(*measure).is_some());
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, NetAnswer};
    use bailiwick_proto::{NetReply, NetRequest};
    use bailiwick_types::{Measure, Traffic, Volume};
    use std::sync::{Arc, Mutex};

    fn name(text: &str) -> TenantName {
        text.parse().expect("a name")
    }

    /// The traffic of a tenant that has sent these bytes in as many packets.
    fn sent(bytes: u64) -> NetworkTraffic {
        let sent = Volume { bytes, packets: bytes };
        NetworkTraffic { ipv4: Traffic { sent, ..Traffic::default() }, ..NetworkTraffic::default() }
    }

    #[test]
    fn traffic_is_counted_from_the_second_reading_on() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let socket = temp.path().join("net.sock");
        let bytes = Arc::new(Mutex::new(1000));
        let now = Arc::clone(&bytes);
        fake::net_at(&socket, move |_| {
            let traffic = [(name("alice"), sent(*now.lock().expect("free"))), (name("mallory"), sent(u64::MAX))];
            NetAnswer::Reply(NetReply::Traffic(traffic.into()))
        });
        let mut meter = TrafficMeter::new(NetLink::new(socket));
        let mut reading = |value: u64| {
            *bytes.lock().expect("free") = value;
            meter.read().expect("answers");
            meter.retain(|tenant| *tenant == name("alice"));
            assert_eq!(meter.counters().keys().collect::<Vec<_>>(), [&name("alice")], "nobody knows mallory");
            let mut reading = Reading::default();
            reading.usage.0.insert(Measure::Cpu, 5);
            meter.add_to(&name("alice"), &mut reading);
            reading
        };
        let all = [reading(1000), reading(1200), reading(30)];
        let sent = |earlier: &Reading, later: &Reading| since(later, earlier).get(Measure::NetSent);
        assert_eq!(sent(&Reading::default(), &all[0]), None, "it may be days old");
        assert_eq!(
            (sent(&all[0], &all[1]), sent(&all[1], &all[2])),
            (Some(200), Some(30)),
            "a new router counts whole"
        );
        assert_eq!(since(&all[0], &Reading::default()).get(Measure::Cpu), Some(5));
    }

    #[test]
    fn refused_packets_count_from_the_first_reading_on() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let socket = temp.path().join("net.sock");
        // The tenants with their refused questions to resolvers; a larger number is no answer.
        let all = Arc::new(Mutex::new(Vec::<(&str, u64)>::new()));
        let (now, asked) = (Arc::clone(&all), Arc::<Mutex<Vec<String>>>::default());
        let noted = Arc::clone(&asked);
        fake::net_at(&socket, move |request| {
            let now = now.lock().expect("free").clone();
            NetAnswer::Reply(match request {
                NetRequest::Traffic => {
                    NetReply::Traffic(now.iter().map(|(tenant, _)| (name(tenant), sent(1))).collect())
                }
                NetRequest::Observe { tenants } => {
                    noted.lock().expect("free").extend(tenants.iter().map(ToString::to_string));
                    if now.iter().any(|(_, count)| *count > 1000) {
                        return NetAnswer::Close;
                    }
                    let of = |(tenant, count): &(&str, u64)| NetworkFacts {
                        refused: [(RefusedPacket::Dns, *count), (RefusedPacket::Smtp, 7)].into(),
                        ..fake::facts(&name(tenant))
                    };
                    let found = now.iter().filter(|(tenant, _)| tenants.contains(&name(tenant)));
                    NetReply::Observed(found.map(of).collect())
                }
                _ => NetReply::Done,
            })
        });
        let mut meter = TrafficMeter::new(NetLink::new(socket));
        let mut read = |tenants: &[(&'static str, u64)]| {
            *all.lock().expect("free") = tenants.to_vec();
            meter.read().expect("answers");
            let new = meter.newly_refused(|tenant| *tenant != name("sleeper")).map_err(|failure| failure.message);
            let line = |(tenant, refused): (TenantName, Refused)| {
                let words: Vec<String> =
                    refused.iter().map(|(reason, count)| format!("{}={count}", reason.word())).collect();
                format!("{tenant} {}", words.join(" "))
            };
            (
                new.map(|new| new.into_iter().map(line).collect::<Vec<_>>()),
                std::mem::take(&mut *asked.lock().expect("free")),
            )
        };
        let found = |lines: &[&str], asked: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
            (Ok(owned(lines)), owned(asked))
        };
        assert_eq!(read(&[("alice", 10), ("sleeper", 4)]), found(&[], &["alice", "sleeper"]), "that was before");
        assert_eq!(read(&[("alice", 10), ("sleeper", 4)]), found(&[], &["alice"]), "who sleeps sends nothing");
        // A tenant that came since counts from the first packet.
        let both = found(&["alice dns=5", "bob dns=2 smtp=7"], &["alice", "bob"]);
        assert_eq!(read(&[("alice", 15), ("bob", 2), ("sleeper", 4)]), both);
        // What was refused while nobody answered counts with the next answer.
        let (failed, _) = read(&[("alice", 1001)]);
        assert!(failed.is_err_and(|message| message.contains("ended the connection")));
        assert_eq!(read(&[("alice", 20)]), found(&["alice dns=5"], &["alice"]));
        // The router is made anew.
        assert_eq!(read(&[("alice", 3)]), found(&["alice dns=3"], &["alice"]));
    }

    #[test]
    fn without_bailiwick_net_nothing_is_known_and_without_its_socket_nothing_is_wrong() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let socket = temp.path().join("net.sock");
        let mut meter = TrafficMeter::new(NetLink::new(socket.clone()));
        assert_eq!((meter.read(), meter.answers()), (Ok(()), false));
        assert_eq!(meter.newly_refused(|_| true), Ok(BTreeMap::new()));
        let made = fake::net_at(&socket, |_| NetAnswer::Reply(NetReply::Traffic([(name("alice"), sent(1))].into())));
        meter.read().expect("answers");
        assert!(meter.answers() && meter.counters().len() == 1);
        assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), 1);
        // Another program answers now, in a strange way.
        std::fs::remove_file(&socket).expect("removes");
        fake::net_at(&socket, |_| NetAnswer::Reply(NetReply::Done));
        let mut meter = TrafficMeter { link: NetLink::new(socket), ..meter };
        let failure = meter.read().expect_err("another kind");
        assert!(failure.message.contains("wrong kind"), "{failure}");
        assert!(!meter.answers() && meter.counters().is_empty());
    }
}
