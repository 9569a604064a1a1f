//! Parts that the pages of a host and of a tenant share.

use crate::data::{Report, ReportedService, ReportedTenant};
use crate::html::{Column, badge, bar, counted, isolated, rate, short_text, table, text, utc};
use crate::verdict::{Level, Note, Summary};
use bailiwick_types::{
    Event, EventType, Incident, Measure, Network, Period, Publish, ServiceState, SessionRecord, TenantName,
    TenantUsage, percent,
};
use std::collections::BTreeSet;

/// The most characters of a text in a table.
pub(crate) const CELL: usize = 240;

/// Whether a table has a column of tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It is about several.
    All,
    /// It is about one.
    One,
}

impl Whose {
    /// The columns, with that of tenants if there is one.
    fn columns(self, rest: &[Column]) -> Vec<Column> {
        let tenant = (self == Self::All).then_some(Column::Text("Tenant"));
        tenant.into_iter().chain(rest.iter().copied()).collect()
    }

    fn cells(self, tenant: Option<&TenantName>, rest: impl IntoIterator<Item = String>) -> Vec<String> {
        let tenant = (self == Self::All).then(|| tenant.map_or("the host".to_owned(), ToString::to_string));
        tenant.into_iter().chain(rest).collect()
    }
}

/// The verdict at the top of the page.
pub(crate) fn verdict(summary: &Summary, about: &str) -> String {
    // A tick, an exclamation mark, a cross: each in a circle.
    let (class, word, sign) = match summary.level {
        Level::Fine => ("is-good", "All is well", "M8.5 14.5l4 4 7.5-9"),
        Level::Near => ("is-mild", "Look at this", "M14 8v8M14 20v.2"),
        Level::Problem => ("is-bad", "Something is wrong", "M9.5 9.5l9 9M18.5 9.5l-9 9"),
    };
    format!(
        "<section class=\"verdict {class}\" aria-label=\"Verdict\">\n\
         <svg viewBox=\"0 0 28 28\" role=\"img\" aria-label=\"{word}\"><circle cx=\"14\" cy=\"14\" r=\"12.5\"/><path d=\"{sign}\"/></svg>\n\
         <div><p class=\"say\">{}</p>\n<p>{about}</p></div>\n</section>\n",
        text(&summary.sentence)
    )
}

/// Some numbers in large type: name, number, and what else is to be said of it.
pub(crate) fn tiles(tiles: &[(&str, String, String)]) -> String {
    let tile = |(name, number, more): &(&str, String, String)| {
        let more = if more.is_empty() { String::new() } else { format!("<small>{more}</small>") };
        format!("<div><dt>{name}</dt><dd>{number}{more}</dd></div>\n")
    };
    format!("<dl class=\"tiles\">\n{}</dl>\n", tiles.iter().map(tile).collect::<String>())
}

/// The links to the sections of the page.
pub(crate) fn contents(sections: &[(&str, &str)]) -> String {
    let item = |(id, name): &(&str, &str)| format!("<li><a href=\"#{id}\">{name}</a></li>\n");
    format!("<nav aria-label=\"Contents\">\n<ul>\n{}</ul>\n</nav>\n", sections.iter().map(item).collect::<String>())
}

/// A list of what needs attention, at most `most`. Tenants in `linked` have a section on the page.
pub(crate) fn notes(notes: &[Note], whose: Whose, linked: &BTreeSet<&TenantName>, most: usize) -> String {
    let mut out = "<ul class=\"notes\">\n".to_owned();
    for note in notes.iter().take(most) {
        let who = match (&note.tenant, whose) {
            (_, Whose::One) => String::new(),
            (None, Whose::All) => "the host: ".to_owned(),
            (Some(name), Whose::All) if linked.contains(name) => format!("<a href=\"#tenant-{name}\">{name}</a>: "),
            (Some(name), Whose::All) => format!("{name}: "),
        };
        out.push_str(&format!("<li>{}<span>{who}{}</span></li>\n", badge(note.level.word()), isolated(&note.text)));
    }
    out.push_str("</ul>\n");
    if notes.len() > most {
        out.push_str(&format!("<p class=\"none\">And {} more.</p>\n", notes.len() - most));
    }
    out
}

/// Rows of a table of sessions.
pub(crate) fn sessions<'a>(whose: Whose, all: impl Iterator<Item = &'a SessionRecord>, most: usize) -> String {
    let mut all: Vec<&SessionRecord> = all.collect();
    if all.is_empty() {
        return "<p class=\"none\">No session is open.</p>\n".to_owned();
    }
    all.sort_by_key(|session| std::cmp::Reverse(session.since));
    let columns = [
        Column::Word("Session"),
        Column::Word("Door"),
        Column::Text("User"),
        Column::Text("From"),
        Column::Word("Since"),
        Column::Text("Command"),
    ];
    let row = |session: &&SessionRecord| {
        let SessionRecord { id, tenant, door, user, source, command, since, .. } = session;
        let optional = |text: &Option<String>, none: &str| {
            text.as_ref().map_or_else(|| format!("<small>{none}</small>"), |text| short_text(text, CELL))
        };
        let command = match command {
            Some(command) => format!("<code>{}</code>", short_text(command, CELL)),
            None => "<small>a login shell</small>".to_owned(),
        };
        let cells = [
            id.to_string(),
            text(&door.to_string()),
            short_text(user, 64),
            optional(source, "this host"),
            utc(*since),
            command,
        ];
        whose.cells(Some(tenant), cells)
    };
    table("Open sessions, the newest first", &whose.columns(&columns), most, all.iter().map(row))
}

/// The word and class of a state of a service.
fn service_state(service: &ReportedService) -> String {
    let Some(report) = &service.report else { return "<small>not known</small>".to_owned() };
    let class = match report.state {
        ServiceState::Running | ServiceState::Ended => "fine",
        ServiceState::Failed | ServiceState::BackOff => "problem",
        _ => "notice",
    };
    format!("<strong class=\"{class}\">{}</strong>", report.state)
}

/// A table of services, those with problems first.
pub(crate) fn services<'a>(
    whose: Whose,
    all: impl Iterator<Item = (&'a TenantName, &'a ReportedService)>,
    most: usize,
) -> String {
    let mut all: Vec<_> = all.collect();
    if all.is_empty() {
        return "<p class=\"none\">No service is declared.</p>\n".to_owned();
    }
    all.sort_by_key(|(_, service)| service.problem.is_empty());
    let columns = [
        Column::Text("Service"),
        Column::Text("State"),
        Column::Word("Since"),
        Column::Number("Restarts"),
        Column::Text("Sockets"),
        Column::Text("Problem"),
    ];
    let row = |(tenant, service): &(&TenantName, &ReportedService)| {
        let report = service.report.as_ref();
        let sockets: Vec<&str> = service.sockets.iter().map(|socket| socket.as_str()).collect();
        let cells = [
            service.name.to_string(),
            service_state(service),
            report.map(|report| utc(report.since)).unwrap_or_default(),
            report.map(|report| report.restarts.to_string()).unwrap_or_default(),
            if sockets.is_empty() { "-".to_owned() } else { sockets.join(", ") },
            if service.problem.is_empty() { "-".to_owned() } else { short_text(&service.problem, CELL) },
        ];
        whose.cells(Some(tenant), cells)
    };
    let caption = "What init of each jail reports, which is the tenant's word; those with problems first";
    table(caption, &whose.columns(&columns), most, all.iter().map(row))
}

/// A table of incidents.
pub(crate) fn incidents(whose: Whose, all: &[Incident], most: usize) -> String {
    if all.is_empty() {
        return "<p class=\"none\">There was no incident in this time.</p>\n".to_owned();
    }
    let columns = [
        Column::Text("Number"),
        Column::Text("Kind"),
        Column::Word("Began"),
        Column::Word("Lasted"),
        Column::Number("Faults"),
    ];
    let row = |incident: &Incident| {
        let lasted = Period(incident.until.0.saturating_sub(incident.from.0));
        let cells = [
            incident.id.to_string(),
            short_text(&incident.kind, 64),
            utc(incident.from),
            lasted.to_string(),
            incident.faults.to_string(),
        ];
        let mut cells = whose.cells(Some(&incident.tenant), cells);
        // The number is what `bailiwick incidents --show` takes; it heads the row.
        if whose == Whose::All {
            cells.swap(0, 1);
        }
        cells
    };
    let mut columns = whose.columns(&columns);
    if whose == Whose::All {
        columns.swap(0, 1);
    }
    let caption = "Series of hits of one limit, the newest first; <code>bailiwick incidents --show NUMBER</code> has the evidence";
    table(caption, &columns, most, all.iter().map(row))
}

/// What happened, in one sentence. The values are those that the type of the event has.
fn told(event: &Event) -> String {
    if let Some(sentence) = event.data.get(Event::TEXT) {
        return short_text(&sentence.to_string(), CELL);
    }
    let values: Vec<String> = event.data.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let meaning = event.kind.meaning().trim_end_matches('.');
    if values.is_empty() {
        text(meaning)
    } else {
        format!("{}: {}", text(meaning), short_text(&values.join(", "), CELL))
    }
}

/// A table of events.
pub(crate) fn events(whose: Whose, all: &[Event], most: usize) -> String {
    if all.is_empty() {
        return "<p class=\"none\">There was no event in this time.</p>\n".to_owned();
    }
    let columns = [Column::Word("Time"), Column::Word("Event"), Column::Text("What happened")];
    let mut columns = whose.columns(&columns);
    let row = |event: &Event| {
        let cells = [utc(event.at), format!("<code>{}</code>", event.kind.word()), told(event)];
        let mut cells = whose.cells(event.tenant.as_ref(), cells);
        if whose == Whose::All {
            cells.swap(0, 1);
        }
        cells
    };
    if whose == Whose::All {
        columns.swap(0, 1);
    }
    table("The newest first", &columns, most, all.iter().map(row))
}

/// Types of events that are so frequent, and mean so little by themselves, that they leave no room for others.
pub(crate) const FREQUENT: [EventType; 3] = [EventType::SessionOpened, EventType::SessionClosed, EventType::JobEnded];

/// The share of a limit as a cell: amount, bar and per cent.
pub(crate) fn share_cell(usage: Option<&TenantUsage>, measure: Measure) -> String {
    let Some(usage) = usage else { return "-".to_owned() };
    let counted = usage.total.counted(measure);
    let used = match counted.kind() {
        bailiwick_types::Kind::Level => usage.total.peak_rate(counted).max(usage.total.rate(counted)),
        bailiwick_types::Kind::Sum => usage.total.rate(counted),
    };
    let Some(used) = used else { return "-".to_owned() };
    let words = rate(measure, used);
    match (usage.limits.get(measure), usage.part(measure)) {
        (Some(limit), Some(share)) => {
            let limit = rate(measure, limit);
            format!("{words}<br/><small>{} of {limit}</small>{}", percent(share), bar(share))
        }
        _ => words,
    }
}

/// What a tenant used, measure by measure, as a table.
pub(crate) fn usage_table(usage: &TenantUsage) -> String {
    let columns = [
        Column::Text("Measure"),
        Column::Text("What it is"),
        Column::Number("Average"),
        Column::Number("Highest"),
        Column::Number("Limit"),
        Column::Number("Share of the limit"),
        Column::Number("Hits"),
    ];
    let total = &usage.total;
    let measured: Vec<Measure> = Measure::ALL
        .into_iter()
        .filter(|measure| total.rate(*measure).is_some() || usage.limits.get(*measure).is_some())
        // A part of what is in the table already.
        .filter(|measure| !matches!(measure, Measure::Net6Sent | Measure::Net6Received))
        .collect();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |measure: &Measure| {
        let words = |value: Option<u64>| or_dash(value.map(|value| rate(*measure, value)));
        let share = usage.part(*measure);
        vec![
            format!("<code>{}</code>", measure.word()),
            text(&measure.description().trim_end_matches('.').replace('`', "")),
            words(total.rate(*measure)),
            words(total.peak_rate(*measure)),
            words(usage.limits.get(*measure)),
            or_dash(share.map(|share| format!("{}{}", percent(share), bar(share)))),
            or_dash(usage.faults.get(measure.word()).map(ToString::to_string)),
        ]
    };
    let caption = "Highest: the highest minute. Share: of a level its highest, of a rate its average; \
                   that of memory is without page cache.";
    table(caption, &columns, measured.len(), measured.iter().map(row))
}

/// The ports of the host that lead to a tenant.
pub(crate) fn published(network: &Network) -> String {
    let port = |publish: &Publish| format!("{} to {}", publish.host_port(), publish.to);
    network.publish.iter().map(port).collect::<Vec<_>>().join(", ")
}

/// The number of packets that the router refused to a tenant in the window, with their reasons.
pub(crate) fn refused(usage: Option<&TenantUsage>) -> (u64, String) {
    let faults = usage.into_iter().flat_map(|usage| &usage.faults);
    let network: Vec<(&str, u64)> = faults
        .filter_map(|(word, count)| Some((word.strip_prefix("network-")?, *count)))
        .filter(|(reason, _)| !reason.starts_with("month-"))
        .collect();
    let words: Vec<String> =
        network.iter().map(|(reason, count)| format!("{count} {}", short_text(reason, 32))).collect();
    (network.iter().map(|(_, count)| count).sum(), words.join(", "))
}

/// What was sent and received in the window: of one tenant, or of several.
pub(crate) fn traffic<'a>(tenants: impl Iterator<Item = &'a ReportedTenant>) -> Option<(u64, u64)> {
    let mut sum = None;
    for usage in tenants.filter_map(|tenant| tenant.usage.as_ref()) {
        let value = |measure| usage.total.usage.get(measure);
        if let (Some(sent), Some(received)) = (value(Measure::NetSent), value(Measure::NetReceived)) {
            let (all_sent, all_received) = sum.unwrap_or((0_u64, 0_u64));
            sum = Some((all_sent.saturating_add(sent), all_received.saturating_add(received)));
        }
    }
    sum
}

/// The number of hits of limits of a tenant that are no refused packets.
pub(crate) fn hits(usage: &TenantUsage) -> u64 {
    usage.faults.iter().filter(|(word, _)| !word.starts_with("network-")).map(|(_, count)| count).sum()
}

/// The first lines of the page. `name` is HTML.
pub(crate) fn header(report: &Report, brand: &str, name: &str) -> String {
    let version = report.version.as_ref().map(|version| format!(", bailiwick {}", text(version))).unwrap_or_default();
    format!(
        "<header>\n<p class=\"brand\">{brand}</p>\n<h1>{name}</h1>\n<p class=\"soft\">Made {} UTC{version}. All times are UTC.</p>\n</header>\n",
        utc(report.at)
    )
}

/// The window in words, such as `2026-11-23 09:00 to 2026-11-30 09:00, 7d`.
pub(crate) fn window(report: &Report) -> String {
    let (from, until) = (report.window.from, report.window.until);
    // The end is the second after the last one.
    let length = until.0.saturating_sub(from.0).saturating_sub(1).max(1);
    let length = if length > 3600 { length - length % 60 } else { length };
    format!("{} to {} UTC ({})", utc(from), utc(until), Period(length))
}

/// How to read the page, and what it leaves out. `left_out` are sentences of HTML.
pub(crate) fn about(report: &Report, left_out: &[String]) -> String {
    let mut lines = vec![
        format!("Use, hits, incidents and events are from {}.", window(report)),
        "Use is measured once a minute; a peak between two measurements is not seen. A gap in a chart means that \
         nothing was measured, never zero."
            .to_owned(),
        "Bytes are 1024-based (K, M, G, T), rounded down. A per cent of processor time is a per cent of one core."
            .to_owned(),
        "A limit is near from 90 % of it.".to_owned(),
        "This file has no script and loads nothing.".to_owned(),
    ];
    lines.extend(left_out.iter().cloned());
    let items: String = lines.iter().map(|line| format!("<li>{line}</li>\n")).collect();
    crate::html::section("about", "About this page", &format!("<ul class=\"plain small\">\n{items}</ul>\n"))
}

/// A sentence about what a list leaves out; `None` when it leaves out nothing.
pub(crate) fn left_out(what: &str, all: usize, shown: usize, command: &str) -> Option<String> {
    let all_of_them = u64::try_from(all).unwrap_or(u64::MAX);
    (all > shown).then(|| {
        format!("Of {}, the first {shown} are here; <code>{command}</code> has all.", counted(all_of_them, what))
    })
}
