//! The page of a host: its verdict, what needs attention, and all tenants, the worst first.
//!
//! A host may have thousands of tenants, and a page must stay small enough to open. So each table has a bound, charts are
//! for the tenants that matter most, and the page says what it leaves out.

use crate::audit_page::{LEGEND, features, word};
use crate::chart::{self, Axis, CHARTS, HOST_CHARTS};
use crate::data::{Report, ReportedTenant};
use crate::html::{self, Column, badge, bytes, counted, isolated, section, short_text, table, text};
use crate::parts::{self, FREQUENT, Whose, hits, share_cell};
use crate::verdict::{Level, Summary};
use bailiwick_types::{Event, FeatureState, Finding, Measure, Severity, TenantName, TenantState, part, percent};
use std::collections::{BTreeMap, BTreeSet};

/// The most rows of the table of tenants.
const MOST_TENANTS: usize = 1000;
/// The most tenants with charts.
const MOST_CHARTED: usize = 20;
/// The most columns of a chart of the host, and of one of a tenant.
const COLUMNS: (u64, u64) = (240, 120);
/// The most lines of what needs attention.
const MOST_NOTES: usize = 40;
/// The most rows of any other table.
const MOST_ROWS: usize = 100;

/// Renders the page.
pub(crate) fn page(report: &Report) -> String {
    let summary = report.summary();
    let by_name: BTreeMap<&TenantName, &ReportedTenant> =
        report.tenants.iter().map(|tenant| (&tenant.name, tenant)).collect();
    let ranked: Vec<&ReportedTenant> = summary.order.iter().filter_map(|name| by_name.get(name).copied()).collect();
    let charted: Vec<&ReportedTenant> =
        ranked.iter().filter(|tenant| !tenant.history.is_empty()).take(MOST_CHARTED).copied().collect();
    let linked: BTreeSet<&TenantName> = charted.iter().map(|tenant| &tenant.name).collect();
    let events: Vec<Event> = report.events.iter().filter(|event| !FREQUENT.contains(&event.kind)).cloned().collect();

    let name = text(&report.host);
    let mut out = parts::header(report, "Bailiwick report", &name);
    out.push_str("<main>\n");
    out.push_str(&parts::verdict(
        &summary,
        &format!("{}, {}", counted(number(ranked.len()), "tenant"), parts::window(report)),
    ));
    out.push_str(&tiles(report));
    out.push_str(&parts::contents(&[
        ("attention", "Attention"),
        ("use", "Use"),
        ("tenants", "Tenants"),
        ("charts", "Charts of tenants"),
        ("sessions", "Sessions"),
        ("services", "Services"),
        ("network", "Network"),
        ("incidents", "Incidents"),
        ("findings", "Findings"),
        ("events", "Events"),
        ("about", "About this page"),
    ]));
    out.push_str(&attention(&summary, &linked));
    out.push_str(&host_use(report));
    out.push_str(&section("tenants", "Tenants", &tenants(&ranked, &summary, &linked)));
    out.push_str(&charts(&charted, &summary));
    let sessions = || report.tenants.iter().flat_map(|tenant| tenant.sessions.iter().flatten());
    out.push_str(&section("sessions", "Sessions", &parts::sessions(Whose::All, sessions(), MOST_ROWS)));
    let services =
        || report.tenants.iter().flat_map(|tenant| tenant.services.iter().map(|service| (&tenant.name, service)));
    out.push_str(&section("services", "Services", &parts::services(Whose::All, services(), MOST_ROWS)));
    let networks = networks(&ranked);
    out.push_str(&section("network", "Network", &network(&networks)));
    out.push_str(&section("incidents", "Incidents", &parts::incidents(Whose::All, &report.incidents, MOST_ROWS)));
    out.push_str(&section("findings", "Findings of the audit", &findings(report)));
    out.push_str(&section("events", "Events", &parts::events(Whose::All, &events, MOST_ROWS)));

    let mut left_out: Vec<String> = [
        parts::left_out("tenant", ranked.len(), MOST_TENANTS, "bailiwick usage"),
        parts::left_out("open session", sessions().count(), MOST_ROWS, "bailiwick sessions"),
        parts::left_out("service", services().count(), MOST_ROWS, "bailiwick service list"),
        parts::left_out("tenant with a network", networks.len(), MOST_ROWS, "bailiwick usage --json"),
        parts::left_out("incident", report.incidents.len(), MOST_ROWS, "bailiwick incidents"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if ranked.len() > charted.len() {
        left_out.push(format!(
            "Charts are of {} of {}: those that need attention most. <code>bailiwick report TENANT --html</code> has \
             those of any tenant.",
            charted.len(),
            counted(number(ranked.len()), "tenant")
        ));
    }
    left_out.push("Sessions that were opened and closed, and jobs, are not among the events; <code>bailiwick events</code> has them.".to_owned());
    if report.more_events || events.len() > MOST_ROWS {
        left_out
            .push("Only the newest events are here; <code>bailiwick events --since</code> has the others.".to_owned());
    }
    left_out.push("This page shows each tenant to the reader. A page for a customer is <code>bailiwick report TENANT --html</code>.".to_owned());
    out.push_str(&parts::about(report, &left_out));
    out.push_str("</main>\n");
    html::document(&format!("Report of {name}, {} UTC", html::utc(report.at)), &out)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn tiles(report: &Report) -> String {
    let mut states: BTreeMap<TenantState, u64> = BTreeMap::new();
    for state in report.tenants.iter().filter_map(|tenant| tenant.state) {
        *states.entry(state).or_default() += 1;
    }
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {}", state.word())).collect();
    let usages = || report.tenants.iter().filter_map(|tenant| tenant.usage.as_ref());
    let all_hits: u64 = usages().map(hits).sum();
    let hit = usages().filter(|usage| hits(usage) > 0).count();
    let sessions: usize = report.tenants.iter().map(|tenant| tenant.sessions.as_ref().map_or(0, Vec::len)).sum();
    let running = |service: &&crate::data::ReportedService| {
        service.report.as_ref().is_some_and(|report| report.state == bailiwick_types::ServiceState::Running)
    };
    let services = || report.tenants.iter().flat_map(|tenant| &tenant.services);
    let failed = services().filter(|service| !service.problem.is_empty()).count();
    let findings = all_findings(report);
    let above = findings.iter().filter(|finding| finding.severity >= Severity::Warning).count();
    let mut tiles = vec![
        ("Tenants", report.tenants.len().to_string(), states.join(", ")),
        ("Open sessions", sessions.to_string(), String::new()),
    ];
    if services().next().is_some() {
        let more = if failed > 0 { format!("{failed} with a problem") } else { "none with a problem".to_owned() };
        tiles.push((
            "Services running",
            format!("{} of {}", services().filter(running).count(), services().count()),
            more,
        ));
    }
    tiles.push(("Hits of limits", all_hits.to_string(), format!("by {}", counted(number(hit), "tenant"))));
    tiles.push(("Incidents", report.incidents.len().to_string(), String::new()));
    let audited = report.tenants.iter().any(|tenant| tenant.audit.is_some());
    if audited {
        let notices = findings.len() - above;
        tiles.push(("Findings", above.to_string(), format!("and {}", counted(number(notices), "notice"))));
    }
    if let Some(pool) = report.pool {
        let used = pool.size.saturating_sub(pool.free);
        let share = percent(part(used, pool.size));
        tiles.push(("Disk of tenants", share, format!("{} of {} used", bytes(used), bytes(pool.size))));
    }
    if let Some((sent, received)) = parts::traffic(report.tenants.iter()) {
        tiles.push((
            "Network",
            bytes(sent.saturating_add(received)),
            format!("{} sent, {} received", bytes(sent), bytes(received)),
        ));
    }
    parts::tiles(&tiles)
}

fn attention(summary: &Summary, linked: &BTreeSet<&TenantName>) -> String {
    let body = if summary.notes.is_empty() {
        "<p class=\"none\">Nothing needs attention.</p>\n".to_owned()
    } else {
        parts::notes(&summary.notes, Whose::All, linked, MOST_NOTES)
    };
    section("attention", "What needs attention", &body)
}

fn host_use(report: &Report) -> String {
    let axis = Axis::of(std::iter::once(&report.history[..]), COLUMNS.0);
    let figures =
        chart::figures(HOST_CHARTS, "all-tenants", &report.history, axis.as_ref(), &report.capacity, "host has");
    let body = if report.history.is_empty() {
        "<p class=\"none\">Nothing was measured in this time.</p>\n".to_owned()
    } else {
        format!("<p class=\"soft\">What all tenants used together. A gap: not measured.</p>\n{figures}")
    };
    section("use", "Use of the host", &body)
}

fn tenants(ranked: &[&ReportedTenant], summary: &Summary, linked: &BTreeSet<&TenantName>) -> String {
    if ranked.is_empty() {
        return "<p class=\"none\">There is no tenant.</p>\n".to_owned();
    }
    let mut levels: BTreeMap<&TenantName, Level> = BTreeMap::new();
    for note in &summary.notes {
        if let Some(name) = &note.tenant {
            let level = levels.entry(name).or_insert(note.level);
            *level = (*level).max(note.level);
        }
    }
    let columns = [
        Column::Text("Tenant"),
        Column::Text("Verdict"),
        Column::Text("State"),
        Column::Text("Audit"),
        Column::Number("Processor"),
        Column::Number("Memory"),
        Column::Number("Disk"),
        Column::Number("Tasks"),
        Column::Number("Sessions"),
        Column::Number("Hits"),
    ];
    let row = |tenant: &&ReportedTenant| {
        let name = tenant.name.as_str();
        let usage = tenant.usage.as_ref();
        let link = if linked.contains(&tenant.name) {
            format!("<a href=\"#tenant-{name}\">{name}</a>")
        } else {
            name.to_owned()
        };
        let plan = tenant.plan.as_ref().map(|plan| format!("<br/><small>{plan}</small>")).unwrap_or_default();
        vec![
            format!("{link}{plan}"),
            badge(levels.get(&tenant.name).map_or(Level::Fine, |level| *level).word()),
            tenant.state.map_or("-".to_owned(), |state| badge(state.word())),
            tenant.audit.as_ref().map_or("-".to_owned(), |audit| badge(word(audit.verdict))),
            share_cell(usage, Measure::Cpu),
            share_cell(usage, Measure::Memory),
            share_cell(usage, Measure::Disk),
            share_cell(usage, Measure::Tasks),
            share_cell(usage, Measure::Sessions),
            usage.map_or("-".to_owned(), |usage| hits(usage).to_string()),
        ]
    };
    let caption = "Problems first, then those nearest to a limit. Processor: the average. Memory (without page cache), disk, tasks \
                   and sessions: the highest. Hits: of all limits, also while that of the processor held it back.";
    table(caption, &columns, MOST_TENANTS, ranked.iter().map(row))
}

fn charts(charted: &[&ReportedTenant], summary: &Summary) -> String {
    if charted.is_empty() {
        return section("charts", "Charts of tenants", "<p class=\"none\">Nothing was measured in this time.</p>\n");
    }
    let axis = Axis::of(charted.iter().map(|tenant| &tenant.history[..]), COLUMNS.1);
    let mut out = section("charts", "Charts of tenants", &format!("<p class=\"soft\">{LEGEND}</p>\n"));
    for tenant in charted {
        let name = tenant.name.as_str();
        out.push_str(&format!(
            "<section class=\"tenant\" aria-labelledby=\"tenant-{name}\">\n<h3 id=\"tenant-{name}\">{name}</h3>\n"
        ));
        let own: Vec<_> =
            summary.notes.iter().filter(|note| note.tenant.as_ref() == Some(&tenant.name)).cloned().collect();
        if !own.is_empty() {
            out.push_str(&parts::notes(&own, Whose::One, &BTreeSet::new(), 10));
        }
        let limits = tenant.usage.as_ref().map(|usage| usage.limits.clone()).unwrap_or_default();
        out.push_str(&chart::figures(CHARTS, name, &tenant.history, axis.as_ref(), &limits, "limit"));
        out.push_str("</section>\n");
    }
    out
}

/// The tenants with a network: those with the most traffic first.
fn networks<'a>(ranked: &[&'a ReportedTenant]) -> Vec<&'a ReportedTenant> {
    let traffic = |tenant: &&ReportedTenant| parts::traffic(std::iter::once(*tenant));
    let has_network = |tenant: &&ReportedTenant| tenant.network.is_some() || traffic(tenant).is_some();
    let mut found: Vec<&ReportedTenant> = ranked.iter().copied().filter(has_network).collect();
    found.sort_by_key(|tenant| {
        std::cmp::Reverse(traffic(tenant).map_or(0, |(sent, received)| sent.saturating_add(received)))
    });
    found
}

fn network(networks: &[&ReportedTenant]) -> String {
    if networks.is_empty() {
        return "<p class=\"none\">No tenant has a network.</p>\n".to_owned();
    }
    let columns = [
        Column::Text("Tenant"),
        Column::Number("Sent"),
        Column::Number("Received"),
        Column::Number("This month"),
        Column::Number("Packets refused"),
        Column::Text("Published ports"),
    ];
    let row = |tenant: &&ReportedTenant| {
        let traffic = parts::traffic(std::iter::once(*tenant));
        let facts = tenant.network.as_ref();
        let month = facts.map_or("-".to_owned(), |facts| match facts.volume() {
            Some(volume) => {
                let share = part(facts.month, volume.bytes.0);
                format!(
                    "{}<br/><small>{} of {}</small>{}",
                    bytes(facts.month),
                    percent(share),
                    volume.bytes,
                    html::bar(share)
                )
            }
            None => bytes(facts.month),
        });
        let (refused, reasons) = parts::refused(tenant.usage.as_ref());
        let reasons = if reasons.is_empty() { String::new() } else { format!("<br/><small>{reasons}</small>") };
        let in_force = facts.and_then(|facts| facts.in_force.as_deref());
        let ports = match in_force.map(parts::published) {
            Some(ports) if !ports.is_empty() => short_text(&ports, parts::CELL),
            Some(_) => "none".to_owned(),
            None => "-".to_owned(),
        };
        vec![
            tenant.name.to_string(),
            traffic.map_or("-".to_owned(), |(sent, _)| bytes(sent)),
            traffic.map_or("-".to_owned(), |(_, received)| bytes(received)),
            month,
            format!("{refused}{reasons}"),
            ports,
        ]
    };
    let caption = "Those with the most traffic first. Sent, received and refused: in the time of this page.";
    table(caption, &columns, MOST_ROWS, networks.iter().map(row))
}

fn all_findings(report: &Report) -> Vec<&Finding> {
    let mut all: Vec<&Finding> =
        report.tenants.iter().filter_map(|tenant| tenant.audit.as_ref()).flat_map(|audit| &audit.findings).collect();
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    all
}

fn findings(report: &Report) -> String {
    if report.tenants.iter().all(|tenant| tenant.audit.is_none()) {
        return "<p class=\"none\">Nothing was audited.</p>\n".to_owned();
    }
    let all = all_findings(report);
    let mut out = if all.is_empty() {
        "<p class=\"none\">The audit has no findings.</p>\n".to_owned()
    } else {
        let columns = ["Finding", "Severity", "Tenant", "Evidence", "What to do"].map(Column::Text);
        let row = |finding: &&Finding| {
            vec![
                text(&finding.id),
                badge(finding.severity.word()),
                finding.tenant.as_ref().map_or("the host".to_owned(), ToString::to_string),
                isolated(&finding.evidence),
                isolated(&finding.remedy),
            ]
        };
        table("The most severe first; <code>bailiwick audit</code> has all", &columns, MOST_ROWS, all.iter().map(row))
    };
    let features_of_host = report.features.iter().flat_map(|host| &host.features);
    let lacking: Vec<_> = features_of_host.filter(|feature| feature.state != FeatureState::Works).cloned().collect();
    if !lacking.is_empty() {
        out.push_str("<h3>What this host cannot enforce in full</h3>\n");
        out.push_str(&features(&lacking));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::check::check;
    use crate::data::Scope;
    use crate::samples::{HOSTILE, hostile, report, tenant};
    use bailiwick_types::{Incident, Moment, is_dangerous};

    #[test]
    fn a_page_has_every_section_and_tells_the_worst_first() {
        let mut all = hostile(Scope::Host);
        all.problems = vec!["the history is not written".to_owned()];
        all.gaps = Vec::new();
        let html = all.page();
        let found = check(&html).text;
        let golden = [
            "Bailiwick report",
            "web1 <b>",
            "Made 2027-01-22 08:00 UTC",
            "One limit or wall does not hold",
            "3 tenants, 2027-01-15 08:00 to 2027-01-22 08:00 UTC (7d)",
            "Disk of tenants60.0%60.0G of 100.0G used",
            "What needs attention",
            "the host: the history is not written",
            "bad: the last start failed",
            "bad: the limit memory was hit 2 times",
            "Use of the host",
            "host has 400.0%",
            "Tenants",
            "badsmallproblem",
            "alicesmallfine",
            "Charts of tenants",
            "Sessions",
            "00000007",
            "Services",
            "back-off",
            "Network",
            "tcp/8443 to 443",
            "Incidents",
            "2m5s",
            "Findings of the audit",
            "BW080critical",
            "Events",
            "session.refused",
            "About this page",
        ];
        let mut from = 0;
        for part in golden {
            let place = found[from..].find(part).unwrap_or_else(|| panic!("{part} is not in {}", &found[from..]));
            from += place;
        }
        assert!(html.contains("<a href=\"#tenant-bad\">bad</a>"));
    }

    #[test]
    fn nothing_that_anybody_chose_is_more_than_text() {
        let html = hostile(Scope::Host).page();
        let found = check(&html);
        let escaped = "<script>alert('1')</script>\"&\\u{1b}[2J\\n\\u{202e}\\u{0}]]>--></style><style>*{display:none}";
        assert!(found.text.matches(escaped).count() > 20, "{}", found.text.matches(escaped).count());
        assert!(!html.contains("<script") && !html.contains(|c| c != '\n' && is_dangerous(c)));
        assert!(!html.contains(HOSTILE));
    }

    #[test]
    fn a_host_without_tenants_has_a_page() {
        let empty = report(Scope::Host, Vec::new());
        let found = check(&empty.page()).text;
        for part in
            ["There is no tenant.", "Nothing needs attention.", "No session is open.", "No tenant has a network."]
        {
            assert!(found.contains(part), "{part}");
        }
    }

    #[test]
    fn a_page_of_a_thousand_tenants_fits_and_says_what_it_leaves_out() {
        let many = |count: usize| {
            let mut all = hostile(Scope::Host);
            let bad = all.tenants[0].clone();
            all.tenants = (0..count)
                .map(|number| crate::data::ReportedTenant {
                    name: format!("tenant-{number}").parse().expect("valid"),
                    sessions: bad.sessions.clone(),
                    ..if number % 2 == 0 { bad.clone() } else { tenant("x", 100) }
                })
                .collect();
            let incident = all.incidents[0].clone();
            all.incidents = (0..count).map(|_| Incident { until: Moment(0), ..incident.clone() }).collect();
            all.add_up();
            all.page()
        };
        let (thousand, more) = (many(1000), many(3000));
        let found = check(&more).text;
        println!("1,000 tenants: {} bytes, 3,000 tenants: {} bytes", thousand.len(), more.len());
        assert!(thousand.len() < 4 << 20, "{}", thousand.len());
        assert!(more.len() < thousand.len() + (64 << 10), "{} {}", more.len(), thousand.len());
        for part in [
            "Of 3000 tenants, the first 1000 are here; bailiwick usage has all.",
            "Of 3000 incidents, the first 100 are here",
            "Charts are of 20 of 3000 tenants",
            "And 2000 more.",
        ] {
            assert!(found.contains(part), "{part}");
        }
    }
}
