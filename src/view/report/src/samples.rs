//! Reports for tests.

use crate::data::{Report, ReportedService, ReportedTenant, Scope};
use bailiwick_types::{
    AuditReport, ByteSize, CpuShare, Event, EventType, EventValue, FeatureReport, FeatureState, Finding, HostReport,
    Incident, LimitKey, LimitReport, Measure, Moment, MonthlyVolume, Network, NetworkFacts, NetworkMode,
    NetworkTraffic, Point, PoolSpace, Publish, RefusedPacket, RefusedRecord, ServiceEnd, ServiceReport, ServiceState,
    SessionId, SessionRecord, Severity, TenantReport, TenantState, TenantUsage, Transport, Usage, Verdict, WallReport,
    WhenOver, Window,
};
use std::collections::BTreeMap;

/// What a tenant could write wherever it may choose a text.
pub(crate) const HOSTILE: &str =
    "<script>alert('1')</script>\"&\u{1b}[2J\n\u{202e}\u{0}]]>--></style><style>*{display:none}";

const START: u64 = 1_800_000_000;

/// An empty report with these tenants.
pub(crate) fn report(scope: Scope, tenants: Vec<ReportedTenant>) -> Report {
    Report {
        scope,
        host: "web1 <b>".to_owned(),
        at: Moment(START + 7 * 86_400),
        window: Window { from: Moment(START), until: Moment(START + 7 * 86_400 + 1) },
        version: Some("0.1.0".to_owned()),
        problems: Vec::new(),
        gaps: Vec::new(),
        features: None,
        pool: Some(PoolSpace { size: 100 << 30, free: 40 << 30 }),
        capacity: Usage(BTreeMap::from([(Measure::Cpu, 4_000_000), (Measure::Memory, 16 << 30)])),
        history: Vec::new(),
        tenants,
        incidents: Vec::new(),
        events: Vec::new(),
        more_events: false,
    }
}

/// A tenant that runs and uses a little of everything.
pub(crate) fn tenant(name: &str, points: u64) -> ReportedTenant {
    let tenant = ReportedTenant::new(name.parse().expect("valid"));
    let history: Vec<Point> = (0..points).map(point).collect();
    let usage = |value: fn(&Point) -> &Usage| {
        let mut sum = Usage::default();
        for (measure, value) in history.iter().flat_map(|point| &value(point).0) {
            let entry = sum.0.entry(*measure).or_default();
            *entry = if measure.kind() == bailiwick_types::Kind::Sum { *entry + value } else { *value };
        }
        sum
    };
    let total = Point {
        at: Moment(START),
        seconds: points * 3600,
        usage: usage(|point| &point.usage),
        peak: history.first().map(|point| point.peak.clone()).unwrap_or_default(),
    };
    let limits = Usage(BTreeMap::from([
        (Measure::Cpu, 1_000_000),
        (Measure::Memory, 1 << 30),
        (Measure::Tasks, 100),
        (Measure::Disk, 10 << 30),
        (Measure::Sessions, 20),
    ]));
    ReportedTenant {
        state: Some(TenantState::Running),
        plan: Some("small".parse().expect("valid")),
        image: Some("host".parse().expect("valid")),
        usage: Some(TenantUsage {
            tenant: tenant.name.clone(),
            total,
            limits,
            faults: BTreeMap::new(),
            services: None,
        }),
        history,
        audit: Some(TenantReport {
            name: tenant.name.clone(),
            verdict: Verdict::Enforced,
            walls: vec![WallReport {
                wall: "membership".to_owned(),
                evidence: "as declared".to_owned(),
                verdict: Verdict::Enforced,
            }],
            limits: vec![
                limit(LimitKey::Memory, ByteSize(1 << 30).into()),
                limit(LimitKey::Cpu, CpuShare(100_000).into()),
            ],
            probes: Vec::new(),
            findings: Vec::new(),
        }),
        sessions: Some(Vec::new()),
        ..tenant
    }
}

fn limit(key: LimitKey, value: bailiwick_types::LimitValue) -> LimitReport {
    LimitReport {
        key,
        declared: value,
        enforced: Some(value),
        used: Some(256 << 20),
        peak: Some(512 << 20),
        faults: Some(0),
        verdict: Verdict::Enforced,
    }
}

fn point(number: u64) -> Point {
    let wave = 100 + number * 37 % 80;
    let usage = BTreeMap::from([
        (Measure::Cpu, wave * 3_000_000),
        (Measure::Memory, wave << 21),
        (Measure::MemoryUsed, wave << 20),
        (Measure::Tasks, wave / 10),
        (Measure::IoRead, wave << 20),
        (Measure::IoWrite, wave << 18),
        (Measure::Disk, (2 << 30) + (number << 20)),
        (Measure::Sessions, wave % 4),
        (Measure::NetSent, wave << 22),
        (Measure::NetReceived, wave << 20),
    ]);
    let peak = usage.iter().map(|(measure, value)| {
        let most = if measure.kind() == bailiwick_types::Kind::Sum { value / 40 } else { value + value / 4 };
        (*measure, most)
    });
    Point { at: Moment(START + number * 3600), seconds: 3600, peak: Usage(peak.collect()), usage: Usage(usage) }
}

/// A report with a hostile text at every place where a tenant, a client or a file could put one, and with every section.
pub(crate) fn hostile(scope: Scope) -> Report {
    let text = || HOSTILE.to_owned();
    let mut bad = tenant("bad", 50);
    let name = bad.name.clone();
    bad.failure = Some(text());
    bad.invalid = true;
    bad.services_problem = Some(text());
    bad.services = vec![ReportedService {
        name: "web".parse().expect("valid"),
        report: Some(ServiceReport {
            name: "web".parse().expect("valid"),
            digest: text(),
            state: ServiceState::BackOff,
            pid: None,
            since: Moment(START),
            restarts: 3,
            last_end: Some(ServiceEnd::Exited(1)),
            again: None,
        }),
        sockets: vec!["http".parse().expect("valid")],
        problem: text(),
    }];
    bad.sessions = Some(vec![SessionRecord {
        id: SessionId(7),
        tenant: name.clone(),
        door: "ssh".parse().expect("a door"),
        user: text(),
        source: Some(text()),
        key: Some(text()),
        command: Some(text()),
        since: Moment(START),
        uid: 7,
        pid: 7,
    }]);
    bad.network = Some(network(&bad));
    let usage = bad.usage.as_mut().expect("measured");
    usage.faults = BTreeMap::from([
        (text(), 3),
        ("memory".to_owned(), 2),
        ("cpu".to_owned(), 900),
        ("network-smtp".to_owned(), 4),
        (format!("network-{HOSTILE}"), 4),
        (format!("network-month-{HOSTILE}"), 1),
    ]);
    let audit = bad.audit.as_mut().expect("audited");
    audit.verdict = Verdict::Breached;
    audit.walls = vec![WallReport { wall: text(), evidence: text(), verdict: Verdict::Breached }];
    audit.findings = vec![Finding {
        id: "BW080".to_owned(),
        severity: Severity::Critical,
        tenant: Some(name.clone()),
        evidence: text(),
        remedy: text(),
    }];
    let mut all = vec![bad];
    if scope == Scope::Host {
        all.extend(["alice", "carol"].map(|name| tenant(name, 50)));
    }
    let mut report = report(scope, all);
    report.version = Some(text());
    report.problems = vec![text()];
    report.gaps = vec![text()];
    report.incidents = vec![Incident {
        id: 4,
        tenant: name.clone(),
        kind: text(),
        from: Moment(START),
        until: Moment(START + 125),
        faults: 9,
        snapshots: Vec::new(),
    }];
    let data = BTreeMap::from([("user".to_owned(), EventValue::text(HOSTILE)), (text(), EventValue::Flag(true))]);
    let event = |kind, data| Event { seq: 1, at: Moment(START), kind, tenant: Some(name.clone()), actor: None, data };
    let sentence = BTreeMap::from([(Event::TEXT.to_owned(), EventValue::text(HOSTILE))]);
    report.events = vec![event(EventType::SessionRefused, data), event(EventType::TenantEnded, sentence)];
    let feature = FeatureReport { feature: text(), state: FeatureState::Missing, evidence: text(), remedy: text() };
    let host = HostReport { kernel: text(), features: vec![feature] };
    let audits = report.tenants.iter().filter_map(|tenant| tenant.audit.clone()).collect();
    report.add_audit(AuditReport { tenants: audits, host });
    report.add_up();
    report
}

fn network(tenant: &ReportedTenant) -> NetworkFacts {
    let month = MonthlyVolume { bytes: ByteSize(100 << 30), then: WhenOver::Stop, notify: vec![80] };
    NetworkFacts {
        tenant: tenant.name.clone(),
        link: Some("bw3".to_owned()),
        is_up: true,
        addresses: vec!["100.64.0.2".parse().expect("valid")],
        traffic: NetworkTraffic::default(),
        month: 95 << 30,
        in_force: Some(Box::new(Network {
            publish: vec![Publish { transport: Transport::Tcp, host: 8443, to: 443 }],
            month: Some(month),
            ..Network::with_mode(NetworkMode::Published)
        })),
        limits: None,
        refused: BTreeMap::from([(RefusedPacket::Smtp, 4)]),
        last_refused: vec![RefusedRecord {
            at: START,
            reason: RefusedPacket::Smtp,
            source: "100.64.0.2".parse().expect("valid"),
            destination: "2001:db8::1".parse().expect("valid"),
            protocol: HOSTILE.to_owned(),
            port: Some(25),
        }],
        differences: vec![HOSTILE.to_owned()],
    }
}
