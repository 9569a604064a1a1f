//! The page of one tenant. It has nothing of other tenants, so a customer may read it.

use crate::audit_page::{LEGEND, findings, limits_table, word};
use crate::chart::{self, ALL_CHARTS, Axis};
use crate::data::{Report, ReportedTenant, Scope};
use crate::html::{self, Column, badge, bytes, counted, section, short_text, table, text, utc};
use crate::parts::{self, Whose, hits};
use bailiwick_types::{Moment, NetworkFacts, RefusedPacket, RefusedRecord, Severity, WallReport, part, percent};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The most columns of a chart.
const COLUMNS: u64 = 240;
/// The most rows of a table.
const MOST_ROWS: usize = 200;

/// Renders the page.
pub(crate) fn page(report: &Report, tenant: &ReportedTenant) -> String {
    let summary = report.summary();
    let name = tenant.name.as_str();
    let host = text(&report.host);
    let mut out = parts::header(report, &format!("Bailiwick report, {host}"), name);
    out.push_str("<main>\n");
    out.push_str(&parts::verdict(&summary, &parts::window(report)));
    out.push_str(&tiles(report, tenant));

    let mut sections = Vec::new();
    if !summary.notes.is_empty() {
        let notes = parts::notes(&summary.notes, Whose::One, &BTreeSet::new(), MOST_ROWS);
        sections.push(("attention", "Attention", section("attention", "What needs attention", &notes)));
    }
    sections.push(("use", "Use", section("use", "Use over time", &use_over_time(tenant))));
    if let Some(audit) = &tenant.audit {
        let body = if audit.limits.is_empty() {
            "<p class=\"none\">There is no jail at present, so no limit is in force.</p>\n".to_owned()
        } else {
            limits_table(&audit.limits)
        };
        sections.push(("limits", "Limits", section("limits", "Limits in force", &body)));
    }
    if let Some(open) = &tenant.sessions {
        sections.push((
            "sessions",
            "Sessions",
            section("sessions", "Sessions", &parts::sessions(Whose::One, open.iter(), MOST_ROWS)),
        ));
    }
    let services = tenant.services.iter().map(|service| (&tenant.name, service));
    sections.push((
        "services",
        "Services",
        section("services", "Services", &parts::services(Whose::One, services, MOST_ROWS)),
    ));
    if let Some(facts) = &tenant.network {
        sections.push(("network", "Network", section("network", "Network", &network(facts, tenant))));
    }
    let incidents = parts::incidents(Whose::One, &report.incidents, MOST_ROWS);
    sections.push(("incidents", "Incidents", section("incidents", "Incidents", &incidents)));
    if let Some(audit) = &tenant.audit {
        sections.push(("findings", "Audit", section("findings", "Audit", &audited(audit))));
    }
    let events = parts::events(Whose::One, &report.events, MOST_ROWS);
    sections.push(("events", "Events", section("events", "Events", &events)));

    let mut left_out: Vec<String> = [
        parts::left_out("incident", report.incidents.len(), MOST_ROWS, "bailiwick incidents"),
        parts::left_out("event", report.events.len(), MOST_ROWS, "bailiwick events"),
        parts::left_out("open session", tenant.sessions.as_ref().map_or(0, Vec::len), MOST_ROWS, "bailiwick sessions"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if report.more_events && report.events.len() <= MOST_ROWS {
        left_out
            .push("Only the newest events are here; <code>bailiwick events --since</code> has the others.".to_owned());
    }
    if report.scope == Scope::OwnTenant {
        left_out.push(
            "It was made by the tenant's own user, who may not ask for open sessions, the network and the audit."
                .to_owned(),
        );
    }
    left_out.push("It has nothing of other tenants.".to_owned());

    let mut links: Vec<(&str, &str)> = sections.iter().map(|(id, name, _)| (*id, *name)).collect();
    links.push(("about", "About this page"));
    out.push_str(&parts::contents(&links));
    sections.iter().for_each(|(_, _, section)| out.push_str(section));
    out.push_str(&parts::about(report, &left_out));
    out.push_str("</main>\n");
    html::document(&format!("Report of {name} on {host}, {} UTC", utc(report.at)), &out)
}

fn tiles(report: &Report, tenant: &ReportedTenant) -> String {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mut tiles = Vec::new();
    if let Some(state) = tenant.state {
        let made_of = [
            tenant.plan.as_ref().map(|plan| format!("plan {plan}")),
            tenant.image.as_ref().map(|image| format!("image {image}")),
            tenant.profile.map(|profile| format!("profile {profile}")),
        ];
        tiles.push(("State", state.word().to_owned(), made_of.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    }
    if let Some(open) = &tenant.sessions {
        tiles.push(("Open sessions", open.len().to_string(), String::new()));
    }
    if !tenant.services.is_empty() {
        let failed = tenant.services.iter().filter(|service| !service.problem.is_empty()).count();
        let more = if failed > 0 { format!("{failed} with a problem") } else { "none with a problem".to_owned() };
        tiles.push(("Services", tenant.services.len().to_string(), more));
    }
    if let Some(usage) = &tenant.usage {
        tiles.push(("Hits of limits", hits(usage).to_string(), String::new()));
        if let Some((measure, share)) = crate::verdict::nearest(usage) {
            tiles.push(("Nearest limit", percent(share), format!("{measure}, in this time")));
        }
    }
    tiles.push(("Incidents", report.incidents.len().to_string(), String::new()));
    if let Some(audit) = &tenant.audit {
        let above = audit.findings.iter().filter(|finding| finding.severity >= Severity::Warning).count();
        let notices = counted(number(audit.findings.len() - above), "notice");
        tiles.push(("Findings", above.to_string(), format!("and {notices}; verdict: {}", word(audit.verdict))));
    }
    if let Some((sent, received)) = parts::traffic(std::iter::once(tenant)) {
        tiles.push((
            "Network",
            bytes(sent.saturating_add(received)),
            format!("{} sent, {} received", bytes(sent), bytes(received)),
        ));
    }
    parts::tiles(&tiles)
}

fn use_over_time(tenant: &ReportedTenant) -> String {
    let Some(usage) = tenant.usage.as_ref().filter(|usage| usage.total.seconds > 0) else {
        return "<p class=\"none\">Nothing was measured in this time.</p>\n".to_owned();
    };
    let axis = Axis::of(std::iter::once(&tenant.history[..]), COLUMNS);
    let figures =
        chart::figures(ALL_CHARTS, tenant.name.as_str(), &tenant.history, axis.as_ref(), &usage.limits, "limit");
    format!("<p class=\"soft\">{LEGEND}</p>\n{figures}<h3>In numbers</h3>\n{}", parts::usage_table(usage))
}

fn network(facts: &NetworkFacts, tenant: &ReportedTenant) -> String {
    let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    let link = match (&facts.link, facts.is_up) {
        (None, _) => "none".to_owned(),
        (Some(_), true) => "up".to_owned(),
        (Some(_), false) => "down".to_owned(),
    };
    let month = facts.volume().map_or_else(
        || bytes(facts.month),
        |volume| {
            let share = part(facts.month, volume.bytes.0);
            let then = text(&volume.then.to_string());
            format!(
                "{}, {} of {}, then &quot;{then}&quot;{}",
                bytes(facts.month),
                percent(share),
                volume.bytes,
                html::bar(share)
            )
        },
    );
    let mut rows = vec![("Link", link)];
    if !addresses.is_empty() {
        rows.push(("Addresses", text(&addresses.join(", "))));
    }
    if let Some((sent, received)) = parts::traffic(std::iter::once(tenant)) {
        rows.push(("In this time", format!("{} sent, {} received", bytes(sent), bytes(received))));
    }
    rows.push(("This month", month));
    if let Some(in_force) = facts.in_force.as_deref() {
        let ports = parts::published(in_force);
        rows.push(("Published ports", if ports.is_empty() { "none".to_owned() } else { text(&ports) }));
        let settings = bailiwick_policy::network_settings(in_force);
        let rest = settings.into_iter().filter(|(key, _)| *key != "publish");
        let rest: Vec<String> =
            rest.map(|(key, value)| format!("<code>{}</code> {}", text(key), text(&value))).collect();
        rows.push(("Policy in force", rest.join("<br/>")));
    }
    let mut out = html::pairs(&rows);
    out.push_str("<h3>Refused packets</h3>\n");
    if facts.refused.is_empty() {
        out.push_str("<p class=\"none\">No packet was refused since the router was made.</p>\n");
    } else {
        let row =
            |(reason, count): (&RefusedPacket, &u64)| vec![text(reason.word()), count.to_string(), text(reason.text())];
        let columns = [Column::Text("Reason"), Column::Number("Packets"), Column::Text("Meaning")];
        out.push_str(&table("Since the router was made", &columns, MOST_ROWS, facts.refused.iter().map(row)));
    }
    if !facts.last_refused.is_empty() {
        let row = |refused: &RefusedRecord| {
            let RefusedRecord { at, reason, source, destination, protocol, port } = refused;
            let to =
                port.map_or_else(|| destination.to_string(), |port| SocketAddr::new(*destination, port).to_string());
            vec![utc(Moment(*at)), short_text(protocol, 32), source.to_string(), to, text(reason.word())]
        };
        let columns = ["Time", "Protocol", "From", "To", "Reason"].map(Column::Text);
        let newest = facts.last_refused.iter().rev();
        out.push_str(&table("Some of the last ones, the newest first", &columns, MOST_ROWS, newest.map(row)));
    }
    out
}

fn audited(audit: &bailiwick_types::TenantReport) -> String {
    let mut out = if audit.findings.is_empty() {
        "<p class=\"none\">The audit has no findings.</p>\n".to_owned()
    } else {
        findings(&audit.findings, MOST_ROWS)
    };
    if !audit.walls.is_empty() {
        out.push_str("<h3>Walls</h3>\n");
        let row = |wall: &WallReport| vec![text(&wall.wall), badge(word(wall.verdict)), text(&wall.evidence)];
        let columns = ["Wall", "Verdict", "Evidence"].map(Column::Text);
        out.push_str(&table("What was read of each wall", &columns, MOST_ROWS, audit.walls.iter().map(row)));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::check::check;
    use crate::data::{Report, Scope};
    use crate::samples::{HOSTILE, hostile, report, tenant};
    use bailiwick_types::is_dangerous;

    #[test]
    fn a_page_has_every_section_of_its_tenant() {
        let found = check(&hostile(Scope::Tenant).page()).text;
        let golden = [
            "Bailiwick report, web1 <b>",
            "bad",
            "Staterunningplan small, image host",
            "Nearest limit",
            "What needs attention",
            "the network has used 95.0G, 95.0% of the volume of the month",
            "Use over time",
            "limit 100.0%",
            "In numbers",
            "Limits in force",
            "Sessions",
            "00000007",
            "Services",
            "Network",
            "100.64.0.2",
            "95.0G, 95.0% of 100G, then \"stop\"",
            "tcp/8443 to 443",
            "Refused packets",
            "[2001:db8::1]:25",
            "Incidents",
            "Audit",
            "BW080 critical",
            "Events",
            "It has nothing of other tenants.",
        ];
        let mut from = 0;
        for part in golden {
            let place = found[from..].find(part).unwrap_or_else(|| panic!("{part} is not in {}", &found[from..]));
            from += place;
        }
    }

    #[test]
    fn nothing_that_anybody_chose_is_more_than_text() {
        let html = hostile(Scope::Tenant).page();
        check(&html);
        assert!(!html.contains("<script") && !html.contains(|c| c != '\n' && is_dangerous(c)));
        assert!(!html.contains(HOSTILE));
    }

    #[test]
    fn what_a_tenants_own_user_may_not_ask_for_is_absent() {
        let mut own = report(Scope::OwnTenant, vec![tenant("alice", 24)]);
        own.version = None;
        let alice = &mut own.tenants[0];
        (alice.state, alice.audit, alice.sessions) = (None, None, None);
        let found = check(&own.page()).text;
        for part in ["Open sessions", "Limits in force", "Verdict", "No session is open"] {
            assert!(!found.contains(part), "{part}");
        }
        assert!(found.contains("may not ask for open sessions, the network and the audit"));
    }

    #[test]
    fn a_tenant_that_never_ran_has_a_page_and_pages_are_small() {
        let never = crate::data::ReportedTenant::new("alice".parse().expect("valid"));
        let found = check(&report(Scope::Tenant, vec![never]).page()).text;
        assert!(found.contains("Nothing was measured in this time."));
        let long = Report { more_events: true, ..report(Scope::Tenant, vec![tenant("alice", 2000)]) }.page();
        assert!(check(&long).text.contains("Only the newest events are here"));
        assert!(long.len() < 128 << 10, "{}", long.len());
    }
}
