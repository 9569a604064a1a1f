//! Open incidents: which faults belong together, and when evidence is due. Pure: the caller gives the time.

use bailiwick_types::{Incident, LimitKey, Moment, RefusedPacket, Resource, Snapshot, TenantName};
use std::collections::BTreeMap;
use std::fmt;

/// The longest gap between two faults of one incident, in seconds.
const GAP: u64 = 300;
/// The least time between two snapshots of one incident, in seconds: two a minute.
const SNAPSHOT_GAP: u64 = 30;
/// The most snapshots of one incident.
const MOST_SNAPSHOTS: usize = 10;

/// What an incident is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum IncidentKind {
    /// A limit was hit.
    Limit(LimitKey),
    /// Others made the tenant wait for a resource.
    Pressure(Resource),
    /// The router refused packets of the tenant.
    Refused(RefusedPacket),
    /// The tenant has used this share of its volume of the month, in per cent, of which the operator wants to hear.
    Month(u8),
}

const PRESSURE: &str = "pressure-";
const NETWORK: &str = "network-";
/// Followed by a share in per cent.
const MONTH: &str = "network-month-";

impl fmt::Display for IncidentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(limit) => limit.fmt(f),
            Self::Pressure(resource) => write!(f, "{PRESSURE}{resource}"),
            Self::Refused(reason) => write!(f, "{NETWORK}{}", reason.word()),
            Self::Month(share) => write!(f, "{MONTH}{share}"),
        }
    }
}

impl IncidentKind {
    /// Reads a kind as the history stores it; `None` for one that this version does not know.
    pub(crate) fn read(text: &str) -> Option<Self> {
        if let Some(resource) = text.strip_prefix(PRESSURE) {
            return resource.parse().ok().map(Self::Pressure);
        }
        if let Some(share) = text.strip_prefix(MONTH) {
            return share.parse().ok().map(Self::Month);
        }
        if let Some(word) = text.strip_prefix(NETWORK) {
            return RefusedPacket::ALL.iter().copied().find(|reason| reason.word() == word).map(Self::Refused);
        }
        text.parse().ok().map(Self::Limit)
    }
}

/// The open incidents.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    open: BTreeMap<(TenantName, IncidentKind), Open>,
}

#[derive(Debug)]
struct Open {
    incident: Incident,
    last_snapshot: Option<Moment>,
    changed: bool,
}

impl Incidents {
    /// Restores the incidents that were open when the last daemon ended.
    pub(crate) fn restore(&mut self, incidents: Vec<Incident>, now: Moment) {
        for incident in incidents {
            if let Some(kind) = IncidentKind::read(&incident.kind)
                && now.0 <= incident.until.0.saturating_add(GAP)
            {
                let last_snapshot = incident.snapshots.last().map(|snapshot| snapshot.at);
                let key = (incident.tenant.clone(), kind);
                self.open.insert(key, Open { incident, last_snapshot, changed: false });
            }
        }
    }

    /// Records faults. Returns whether a snapshot must be taken now.
    #[must_use]
    pub(crate) fn note(&mut self, tenant: &TenantName, kind: IncidentKind, count: u64, now: Moment) -> bool {
        let open = self.open.entry((tenant.clone(), kind)).or_insert_with(|| Open {
            incident: Incident {
                id: 0,
                tenant: tenant.clone(),
                kind: kind.to_string(),
                from: now,
                until: now,
                faults: 0,
                snapshots: Vec::new(),
            },
            last_snapshot: None,
            changed: false,
        });
        open.incident.faults = open.incident.faults.saturating_add(count);
        open.incident.until = open.incident.until.max(now);
        open.changed = true;
        let due = open.last_snapshot.is_none_or(|last| now.0 >= last.0.saturating_add(SNAPSHOT_GAP));
        let wanted = due && open.incident.snapshots.len() < MOST_SNAPSHOTS;
        if wanted {
            open.last_snapshot = Some(now);
        }
        wanted
    }

    /// Adds a snapshot to an open incident and returns the incident.
    pub(crate) fn add(&mut self, tenant: &TenantName, kind: IncidentKind, snapshot: Snapshot) -> Option<&mut Incident> {
        let open = self.open.get_mut(&(tenant.clone(), kind))?;
        open.incident.snapshots.push(snapshot);
        Some(&mut open.incident)
    }

    /// Forgets the incidents of a tenant.
    pub(crate) fn forget(&mut self, tenant: &TenantName) {
        self.open.retain(|(whose, _), _| whose != tenant);
    }

    /// Returns the incidents that are over, which it forgets, and those that changed since the last call.
    pub(crate) fn settle(&mut self, now: Moment) -> (Vec<Incident>, Vec<&mut Incident>) {
        // A clock that was set back ends no incident.
        let is_over = |open: &Open| !open.changed && now.0 > open.incident.until.0.saturating_add(GAP);
        let keys: Vec<_> = self.open.iter().filter(|(_, open)| is_over(open)).map(|(key, _)| key.clone()).collect();
        let over = keys.iter().filter_map(|key| self.open.remove(key)).map(|open| open.incident).collect();
        let changed = |open: &mut Open| std::mem::take(&mut open.changed);
        (over, self.open.values_mut().filter_map(|open| changed(open).then_some(&mut open.incident)).collect())
    }

    /// Whether an incident of a tenant is open.
    pub(crate) fn is_open(&self, tenant: &TenantName, kind: IncidentKind) -> bool {
        self.open.contains_key(&(tenant.clone(), kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::Usage;

    const MEMORY: IncidentKind = IncidentKind::Limit(LimitKey::Memory);
    const TASKS: IncidentKind = IncidentKind::Limit(LimitKey::Tasks);

    #[test]
    fn every_kind_reads_as_it_is_written() {
        let limits = LimitKey::ALL.map(IncidentKind::Limit);
        let refused = RefusedPacket::ALL.iter().copied().map(IncidentKind::Refused);
        for kind in limits.into_iter().chain(Resource::ALL.map(IncidentKind::Pressure)).chain(refused) {
            assert_eq!(IncidentKind::read(&kind.to_string()), Some(kind));
        }
        assert_eq!(IncidentKind::Pressure(Resource::Io).to_string(), "pressure-io");
        assert_eq!(IncidentKind::Refused(RefusedPacket::NotAllowed).to_string(), "network-not-allowed");
        assert_eq!(IncidentKind::Month(80).to_string(), "network-month-80");
        assert_eq!(IncidentKind::read("network-month-80"), Some(IncidentKind::Month(80)));
        let unknown = [
            "network-month-",
            "network-month-900",
            "pressure",
            "pressure-",
            "Memory",
            "network-",
            "network-later",
            "dns",
        ];
        assert_eq!(unknown.map(IncidentKind::read), [None; 8]);
    }

    fn name() -> TenantName {
        "alice".parse().expect("a name")
    }

    fn snapshot(at: u64) -> Snapshot {
        Snapshot {
            at: Moment(at),
            usage: Usage::default(),
            processes: Vec::new(),
            pressure: Vec::new(),
            sockets: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    #[test]
    fn faults_with_small_gaps_are_one_incident_and_the_evidence_is_bounded() {
        let mut incidents = Incidents::default();
        let mut taken = Vec::new();
        for at in (1000..5000).step_by(10) {
            if incidents.note(&name(), MEMORY, 2, Moment(at)) {
                incidents.add(&name(), MEMORY, snapshot(at)).expect("goes on");
                taken.push(at);
            }
        }
        assert_eq!(taken, (0..10).map(|index| 1000 + index * 30).collect::<Vec<_>>());
        let (_, settled) = incidents.settle(Moment(5000));
        assert_eq!(settled.len(), 1);
        assert_eq!((settled[0].from, settled[0].until, settled[0].faults), (Moment(1000), Moment(4990), 800));
        assert_eq!(incidents.settle(Moment(5001)).1.len(), 0, "nothing new");
    }

    #[test]
    fn after_five_quiet_minutes_it_is_another_one() {
        let mut incidents = Incidents::default();
        assert!(incidents.note(&name(), TASKS, 1, Moment(1000)));
        assert_eq!(incidents.settle(Moment(1290)).1.len(), 1);
        assert!(incidents.note(&name(), TASKS, 1, Moment(1300)));
        assert!(incidents.note(&name(), MEMORY, 1, Moment(1300)), "another kind is another incident");
        let (over, changed) = incidents.settle(Moment(1310));
        assert_eq!((over.len(), changed.len()), (0, 2));
        let (over, changed) = incidents.settle(Moment(1700));
        assert_eq!((over.len(), changed.len()), (2, 0));
        assert!(incidents.note(&name(), TASKS, 1, Moment(1700)));
        let incident = incidents.add(&name(), TASKS, snapshot(1700)).expect("new");
        assert_eq!((incident.from, incident.faults), (Moment(1700), 1));
    }

    #[test]
    fn one_that_went_on_when_the_daemon_ended_goes_on() {
        let mut incidents = Incidents::default();
        let old = |until| Incident {
            id: 7,
            tenant: name(),
            kind: "memory".into(),
            from: Moment(500),
            until: Moment(until),
            faults: 3,
            snapshots: vec![snapshot(990)],
        };
        incidents.restore(vec![old(1000)], Moment(1100));
        assert!(incidents.note(&name(), MEMORY, 1, Moment(1101)));
        assert_eq!(incidents.settle(Moment(1101)).1[0].id, 7);
        let mut incidents = Incidents::default();
        incidents.restore(vec![old(600)], Moment(1100));
        assert!(incidents.note(&name(), MEMORY, 1, Moment(1101)));
        assert_eq!(incidents.add(&name(), MEMORY, snapshot(1101)).expect("new").id, 0);
    }
}
