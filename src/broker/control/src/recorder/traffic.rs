//! What tenants send and receive over the network: one question to `bailiwick-net` for all of them.
//!
//! Its counters go on while this program is down, so the history stores how much they have grown. Here only the last
//! readings are kept, for the use at present.

use crate::net_client::{NetError, NetLink};
use bailiwick_observe::Reading;
use bailiwick_proto::Failure;
use bailiwick_types::{TenantName, Usage};
use std::collections::BTreeMap;

/// The counters of tenants' traffic.
#[derive(Debug)]
pub(super) struct TrafficMeter {
    link: NetLink,
    /// The last reading of each tenant's counters. Empty when the last question had no answer.
    counters: BTreeMap<TenantName, Usage>,
    /// Whether the last question was answered. Without it the next minute's sample asks again, and nobody before it.
    answers: bool,
}

impl TrafficMeter {
    /// A meter that asks over this link. It asks nothing yet.
    pub(super) fn new(link: NetLink) -> Self {
        Self { link, counters: BTreeMap::new(), answers: false }
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
        self.answers = false;
        match self.link.traffic() {
            Ok(all) => {
                self.counters.extend(all.into_iter().map(|(tenant, traffic)| (tenant, Usage::of_traffic(traffic))));
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
    }

    /// The last reading of each tenant's counters.
    pub(super) fn counters(&self) -> &BTreeMap<TenantName, Usage> {
        &self.counters
    }

    /// Adds the last reading of a tenant's counters to that of its control groups.
    pub(super) fn add_to(&self, tenant: &TenantName, reading: &mut Reading) {
        reading.usage.0.extend(self.counters.get(tenant).into_iter().flat_map(|counters| counters.0.clone()));
    }
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
    use bailiwick_proto::NetReply;
    use bailiwick_types::{Measure, NetworkTraffic, Traffic, Volume};
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
    fn without_bailiwick_net_nothing_is_known_and_without_its_socket_nothing_is_wrong() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let socket = temp.path().join("net.sock");
        let mut meter = TrafficMeter::new(NetLink::new(socket.clone()));
        assert_eq!((meter.read(), meter.answers()), (Ok(()), false));
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
