//! Renders an audit as one HTML page that a customer can read and print. The page has no script, loads nothing, and has
//! a bounded size.
//!
//! Danger: evidence quotes text that tenants choose, and the operator opens the page in a browser. Every text passes
//! through [`text`]. The page's content security policy forbids scripts, pictures, fonts and everything else that a
//! page could load.

use crate::Run;
use crate::chart::{self, CHARTS};
use bailiwick_types::{
    AuditReport, ByteSize, FeatureState, Finding, LimitReport, LimitUnit, Moment, Point, Severity, TenantName,
    TenantReport, Usage, Verdict, WallReport, is_dangerous, part, percent,
};
use std::collections::BTreeMap;

/// The most columns of one chart, and the fewest, which apply when there are many tenants.
const COLUMNS: (u64, u64) = (240, 24);

/// About how many columns all charts of a page have together.
const ALL_COLUMNS: u64 = 240_000;

/// The most characters of one text.
const MAX_TEXT: usize = 2000;

/// The most rows of one table.
const MAX_ROWS: usize = 200;

/// Every verdict, its word and its meaning, the worst first.
const VERDICTS: [(Verdict, &str, &str); 5] = [
    (Verdict::Breached, "breached", "a wall is down"),
    (Verdict::Drift, "drift", "a wall or limit is not as declared, or could not be looked at"),
    (Verdict::Nominal, "nominal", "as declared, but for a limit that this host cannot hold"),
    (Verdict::Down, "down", "not running, stopped or asleep: there is nothing to look at"),
    (Verdict::Enforced, "enforced", "every wall and every limit is as declared, by the kernel's own word"),
];

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1f24;--paper:#fff;--soft:#5a6270;--rule:#d5d9e0;--line:#0b5fa5;--other:#9a4a00;\
--limit:#a3123a;--good:#0a6b3d;--mild:#7a5600;--bad:#a3123a}\
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ec;--paper:#14171c;--soft:#a3abb8;--rule:#3a414c;--line:#6db6f5;\
--other:#f0a35e;--limit:#ff8fa8;--good:#6fd6a1;--mild:#e5c06b;--bad:#ff8fa8}}\
@media print{:root{color-scheme:light;--ink:#000;--paper:#fff;--soft:#444;--rule:#bbb;--line:#0b5fa5;--other:#9a4a00;\
--limit:#a3123a;--good:#0a6b3d;--mild:#7a5600;--bad:#a3123a}nav{display:none}section.tenant{break-before:page}\
figure,tr,dl div{break-inside:avoid}h2,h3{break-after:avoid}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:0 auto;padding:1rem}\
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}caption{text-align:left;color:var(--soft);padding:.25rem 0}\
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--rule);\
overflow-wrap:anywhere}th,td.n,strong{white-space:nowrap;overflow-wrap:normal}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.scroll{overflow-x:auto}section.tenant{border-top:3px solid var(--rule);margin-top:2rem}a{color:var(--line)}\
.none,.soft{color:var(--soft)}nav ul{columns:12rem;padding-left:1.25rem}dt{font-weight:600}dd{margin:0 0 .5rem 1.25rem;\
overflow-wrap:anywhere}.enforced,.works,.notice{color:var(--good)}.nominal,.down,.limited,.warning{color:var(--mild)}\
.drift,.breached,.missing,.critical{color:var(--bad)}figure{margin:1rem 0}figcaption{font-size:.9rem}\
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}\
svg path{fill:none;stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round}path.grid{stroke:var(--rule);stroke-width:1}\
path.line0{stroke:var(--line)}path.line1{stroke:var(--other);stroke-dasharray:5 3}path.peak{opacity:.45;stroke-width:1}\
path.limit{stroke:var(--limit);stroke-dasharray:2 4}svg text.limit{fill:var(--limit)}";

/// Renders an audit as a page. The tenants with the worst verdicts come first. A tenant with points in `history` gets
/// charts of them.
#[must_use]
pub fn page(report: &AuditReport, history: &BTreeMap<TenantName, Vec<Point>>, run: &Run<'_>) -> String {
    let mut tenants: Vec<&TenantReport> = report.tenants.iter().collect();
    tenants.sort_by(|a, b| b.verdict.cmp(&a.verdict).then_with(|| a.name.cmp(&b.name)));
    let with_history = tenants.iter().filter(|tenant| history.contains_key(&tenant.name)).count();
    let lines = u64::try_from(with_history.saturating_mul(chart::lines())).unwrap_or(u64::MAX);
    let most = (ALL_COLUMNS / lines.max(1)).clamp(COLUMNS.1, COLUMNS.0);

    let (host, time) = (text(run.host), utc(run.at));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"referrer\" content=\"no-referrer\"/>\n\
         <title>Audit of {host}, {time}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>Audit of {host}</h1>\n<p>{time}, kernel {}. All times are UTC.</p>\n</header>\n<main>\n",
        text(&report.host.kernel)
    );
    out.push_str(&summary(&tenants));
    for tenant in &tenants {
        out.push_str(&tenant_section(tenant, history.get(&tenant.name), most));
    }
    out.push_str(&host_section(report));
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

/// Escapes a text from any source for the page. The result is one line. It is cut after [`MAX_TEXT`] characters of the
/// source, and contains no markup and no characters that could mislead a reader.
fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    for c in chars.by_ref().take(MAX_TEXT) {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if is_dangerous(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    if chars.next().is_some() {
        safe.push_str(" ...");
    }
    safe
}

/// A time in UTC, as text.
fn utc(moment: Moment) -> String {
    let stamp = i64::try_from(moment.0).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    stamp.map_or_else(|| format!("second {}", moment.0), |stamp| stamp.strftime("%Y-%m-%d %H:%M").to_string())
}

fn word(verdict: Verdict) -> &'static str {
    VERDICTS.iter().find(|(other, ..)| *other == verdict).map_or("", |(_, word, _)| word)
}

fn badge(word: &str) -> String {
    format!("<strong class=\"{word}\">{word}</strong>")
}

/// Renders a table with a caption. Cells are HTML, and the first cell of each row is its header. The columns from the
/// second to `numbers` contain numbers.
fn table(caption: &str, header: &[&str], numbers: usize, rows: impl ExactSizeIterator<Item = Vec<String>>) -> String {
    let class = |column: usize| if column > 0 && column <= numbers { " class=\"n\"" } else { "" };
    let more = rows.len().saturating_sub(MAX_ROWS);
    let mut out = format!("<div class=\"scroll\"><table>\n<caption>{caption}</caption>\n<thead><tr>");
    for (column, name) in header.iter().enumerate() {
        out.push_str(&format!("<th scope=\"col\"{}>{name}</th>", class(column)));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows.take(MAX_ROWS) {
        out.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            if column == 0 {
                out.push_str(&format!("<th scope=\"row\">{cell}</th>"));
            } else {
                out.push_str(&format!("<td{}>{cell}</td>", class(column)));
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    if more > 0 {
        out.push_str(&format!("<p class=\"none\">And {more} more.</p>\n"));
    }
    out
}

fn summary(tenants: &[&TenantReport]) -> String {
    let count = |verdict| tenants.iter().filter(|tenant| tenant.verdict == verdict).count();
    let rows = VERDICTS
        .iter()
        .map(|(verdict, word, meaning)| vec![badge(word), count(*verdict).to_string(), (*meaning).to_owned()]);
    let mut out = format!(
        "<section aria-labelledby=\"summary\">\n<h2 id=\"summary\">Summary</h2>\n{}",
        table(
            &format!("{} tenants, by the worst that was found", tenants.len()),
            &["Verdict", "Tenants", "Meaning"],
            1,
            rows
        )
    );
    if tenants.is_empty() {
        out.push_str("<p class=\"none\">There is no tenant.</p>\n");
    } else {
        out.push_str("<nav aria-label=\"Tenants\">\n<ul>\n");
        for tenant in tenants {
            let (name, verdict) = (tenant.name.as_str(), word(tenant.verdict));
            out.push_str(&format!(
                "<li><a href=\"#tenant-{name}\">{name}</a> <span class=\"{verdict}\">{verdict}</span></li>\n"
            ));
        }
        out.push_str("</ul>\n</nav>\n");
    }
    out.push_str("</section>\n");
    out
}

fn tenant_section(tenant: &TenantReport, history: Option<&Vec<Point>>, most: u64) -> String {
    let name = tenant.name.as_str();
    let mut out = format!(
        "<section class=\"tenant\" aria-labelledby=\"tenant-{name}\">\n<h2 id=\"tenant-{name}\">{name}: {}</h2>\n",
        badge(word(tenant.verdict))
    );
    if tenant.walls.is_empty() && tenant.limits.is_empty() {
        out.push_str("<p class=\"none\">The tenant has no jail at present, so there are no walls and no limits.</p>\n");
    }
    if !tenant.findings.is_empty() {
        out.push_str("<h3>Findings</h3>\n<dl>\n");
        tenant.findings.iter().take(MAX_ROWS).for_each(|finding| out.push_str(&finding_item(finding)));
        out.push_str("</dl>\n");
    }
    if !tenant.limits.is_empty() {
        out.push_str("<h3>Limits</h3>\n");
        let header = ["Limit", "Declared", "Enforced", "In use", "Peak", "Faults", "Headroom", "Verdict"];
        let caption = "Faults: how often the limit was hit. Headroom: the part of the enforced limit that is free now.";
        out.push_str(&table(caption, &header, 6, tenant.limits.iter().map(limit_row)));
    }
    if !tenant.walls.is_empty() {
        out.push_str("<h3>Walls</h3>\n");
        let row = |wall: &WallReport| vec![text(&wall.wall), badge(word(wall.verdict)), text(&wall.evidence)];
        out.push_str(&table(
            "What was read of each wall",
            &["Wall", "Verdict", "Evidence"],
            0,
            tenant.walls.iter().map(row),
        ));
    }
    if let Some(points) = history {
        out.push_str(
            "<h3>History</h3>\n<p class=\"soft\">Strong line: average. Light line: the highest minute. \
             Dotted line: the limit. A gap: not measured.</p>\n",
        );
        let mut points: Vec<&Point> = points.iter().collect();
        points.sort_by_key(|point| point.at);
        let limits = limits(&tenant.limits);
        for chart in CHARTS {
            out.push_str(&chart::figure(chart, name, &points, &limits, most, utc));
        }
    }
    out.push_str("</section>\n");
    out
}

fn finding_item(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    };
    format!(
        "<div><dt>{} {}</dt>\n<dd>{}<br/>What to do: {}</dd></div>\n",
        text(&finding.id),
        badge(severity),
        text(&finding.evidence),
        text(&finding.remedy)
    )
}

fn limit_row(limit: &LimitReport) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let amount = |value: Option<u64>| {
        let is_size = limit.key.unit() == LimitUnit::Bytes;
        or_dash(value.map(|value| if is_size { ByteSize(value).rounded() } else { value.to_string() }))
    };
    vec![
        text(limit.key.word()),
        text(&limit.key.in_words(limit.declared)),
        or_dash(limit.enforced.map(|enforced| text(&limit.key.in_words(enforced)))),
        amount(limit.used),
        amount(limit.peak),
        or_dash(limit.faults.map(|faults| faults.to_string())),
        or_dash(limit.headroom().zip(limit.used).map(|(free, used)| percent(part(free, free.saturating_add(used))))),
        badge(word(limit.verdict)),
    ]
}

fn limits(reports: &[LimitReport]) -> Usage {
    Usage(reports.iter().filter_map(|limit| limit.key.bound(limit.enforced?)).collect())
}

fn host_section(report: &AuditReport) -> String {
    let row = |feature: &bailiwick_types::FeatureReport| {
        let state = match feature.state {
            FeatureState::Works => "works",
            FeatureState::Limited => "limited",
            FeatureState::Missing => "missing",
        };
        vec![text(&feature.feature), badge(state), text(&feature.evidence), text(&feature.remedy)]
    };
    let rows = report.host.features.iter().map(row);
    format!(
        "<section class=\"tenant\" aria-labelledby=\"host\">\n<h2 id=\"host\">The host</h2>\n{}</section>\n",
        table("What this host can enforce", &["Feature", "State", "Evidence", "What to do"], 0, rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{CpuShare, FeatureReport, HostReport, LimitKey, LimitValue, Measure, SoftHard};
    use std::collections::BTreeSet;

    const HOSTILE: &str = "<script>alert('1')</script>\"&\u{1b}[2J\n\u{202e}\u{0}]]>--><style>";

    fn name(text: &str) -> TenantName {
        text.parse().expect("valid")
    }

    fn limit(key: LimitKey, enforced: LimitValue, used: Option<u64>) -> LimitReport {
        LimitReport {
            key,
            declared: enforced,
            enforced: Some(enforced),
            used,
            peak: used,
            faults: Some(3),
            verdict: Verdict::Enforced,
        }
    }

    fn tenant(name: &str, verdict: Verdict, evidence: &str) -> TenantReport {
        let name: TenantName = name.parse().expect("valid");
        TenantReport {
            verdict,
            walls: vec![WallReport { wall: "membership".to_owned(), evidence: evidence.to_owned(), verdict }],
            limits: vec![
                limit(LimitKey::Memory, ByteSize(1 << 30).into(), Some(256 << 20)),
                limit(LimitKey::Cpu, CpuShare(150_000).into(), None),
                limit(LimitKey::Disk, SoftHard { soft: 10_u64 << 30, hard: 11 << 30 }.into(), Some(12 << 30)),
            ],
            probes: Vec::new(),
            findings: vec![Finding {
                id: "BW080".to_owned(),
                severity: Severity::Critical,
                tenant: Some(name.clone()),
                evidence: evidence.to_owned(),
                remedy: "end it".to_owned(),
            }],
            name,
        }
    }

    /// The style keeps browsers from breaking a name, a verdict or a number. The result was checked in a browser at
    /// widths of 1000 and 520 pixels.
    #[test]
    fn names_verdicts_and_numbers_are_never_broken() {
        let rule = STYLE.split('}').find(|rule| rule.contains("white-space:nowrap")).expect("a rule");
        assert!(rule.starts_with("th,td.n,strong{") && rule.contains("overflow-wrap:normal"), "{rule}");
        assert!(!STYLE.contains("white-space:normal"), "nothing takes it back");
        let html = shown(&report(vec![tenant("alice", Verdict::Drift, &"x".repeat(300))]), &BTreeMap::new());
        assert!(
            html.contains("<th scope=\"row\">membership</th>")
                && html.contains("<strong class=\"drift\">drift</strong>")
        );
        assert!(
            html.contains("<div class=\"scroll\"><table>"),
            "a table that is wider than the page moves in its own frame"
        );
    }

    fn report(tenants: Vec<TenantReport>) -> AuditReport {
        let feature = FeatureReport {
            feature: "disk".to_owned(),
            state: FeatureState::Missing,
            evidence: HOSTILE.to_owned(),
            remedy: "mount with prjquota".to_owned(),
        };
        AuditReport { tenants, host: HostReport { kernel: "6.12".to_owned(), features: vec![feature] } }
    }

    fn points(many: u64) -> Vec<Point> {
        let point = |number: u64| {
            let usage: BTreeMap<_, _> =
                Measure::ALL.into_iter().map(|measure| (measure, number * 977 % 5000)).collect();
            Point {
                at: Moment(1_800_000_000 + number * 60),
                seconds: 60,
                peak: Usage(usage.clone()),
                usage: Usage(usage),
            }
        };
        (0..many).map(point).collect()
    }

    fn shown(report: &AuditReport, history: &BTreeMap<TenantName, Vec<Point>>) -> String {
        let html = page(report, history, &Run { at: Moment(1_800_000_000), host: "web1 <b>" });
        check(&html);
        html
    }

    /// Checks that every tag is closed in order, every attribute is quoted, every id is unique and every link leads to
    /// an id.
    fn check(html: &str) {
        let mut rest = html.strip_prefix("<!DOCTYPE html>").expect("a doctype");
        let (mut open, mut ids, mut links): (Vec<&str>, BTreeSet<&str>, Vec<&str>) = Default::default();
        while let Some((before, tag)) = rest.split_once('<') {
            assert!(!before.contains('>'), "{before}");
            assert!(
                before.split('&').skip(1).all(|entity| entity.split_once(';').is_some_and(|(name, _)| name.len() < 6))
            );
            let (tag, after) = tag.split_once('>').expect("tags end");
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let (tag, alone) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{name}");
            let parts: Vec<&str> = attributes.split('"').collect();
            assert_eq!(parts.len() % 2, 1, "{attributes}");
            for pair in parts.chunks_exact(2) {
                assert!(pair[0].trim().strip_suffix('=').is_some_and(|key| !key.contains([' ', '='])), "{attributes}");
                match pair[0].trim() {
                    "id=" => assert!(ids.insert(pair[1]), "{} twice", pair[1]),
                    "href=" => links.push(pair[1].strip_prefix('#').expect("a link within the page")),
                    "aria-labelledby=" => links.extend(pair[1].split(' ')),
                    "src=" | "action=" | "style=" | "onload=" => panic!("{attributes}"),
                    _ => {}
                }
            }
            if !alone {
                open.push(name);
            }
        }
        assert_eq!((open, rest.trim()), (Vec::new(), ""));
        assert!(links.iter().all(|link| ids.contains(link)));
    }

    #[test]
    fn a_page_has_all_of_a_report_worst_first() {
        let all = report(vec![tenant("alice", Verdict::Enforced, "fine"), tenant("zoe", Verdict::Breached, "pid 7")]);
        let html = shown(&all, &BTreeMap::from([(name("zoe"), points(100))]));
        let golden = [
            "<title>Audit of web1 &lt;b&gt;, 2027-01-15 08:00</title>",
            "<caption>2 tenants, by the worst that was found</caption>",
            "<tr><th scope=\"row\"><strong class=\"breached\">breached</strong></th><td class=\"n\">1</td><td>a wall is down</td></tr>",
            "<li><a href=\"#tenant-zoe\">zoe</a> <span class=\"breached\">breached</span></li>",
            "<h2 id=\"tenant-zoe\">zoe: <strong class=\"breached\">breached</strong></h2>",
            "<dt>BW080 <strong class=\"critical\">critical</strong></dt>\n<dd>pid 7<br/>What to do: end it</dd>",
            "<tr><th scope=\"row\">memory</th><td class=\"n\">1G</td><td class=\"n\">1G</td><td class=\"n\">256.0M</td>\
             <td class=\"n\">256.0M</td><td class=\"n\">3</td><td class=\"n\">75.0%</td>\
             <td><strong class=\"enforced\">enforced</strong></td></tr>",
            "limit 150.0%",
            "limit 11.0G",
            "<h2 id=\"tenant-alice\">",
            "mount with prjquota",
        ];
        let mut from = 0;
        for part in golden {
            let place = html[from..].find(part).unwrap_or_else(|| panic!("{part} is not in {}", &html[from..]));
            from += place;
        }
        assert_eq!(html.matches("<svg").count(), CHARTS.len());
    }

    #[test]
    fn nothing_that_a_tenant_chose_is_more_than_text() {
        let html = shown(&report(vec![tenant("alice", Verdict::Drift, HOSTILE)]), &BTreeMap::new());
        assert!(html.contains(
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\\u{1b}[2J\\n\\u{202e}\\u{0}]]&gt;--&gt;&lt;style&gt;"
        ));
        assert!(!html.contains("<script") && !html.contains(|c| c != '\n' && is_dangerous(c)));
        let long = shown(&report(vec![tenant("alice", Verdict::Drift, &"<".repeat(1 << 20))]), &BTreeMap::new());
        assert!(long.len() < 64 << 10, "{}", long.len());
    }

    #[test]
    fn nothing_comes_from_outside() {
        let html =
            shown(&report(vec![tenant("alice", Verdict::Drift, "x")]), &BTreeMap::from([(name("alice"), points(9))]));
        for outside in
            ["http:", "https:", "//", "url(", "@import", "<link", "<img", "<script", "<iframe", "<base", "srcset"]
        {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains(
            "content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\""
        ));
    }

    #[test]
    fn an_empty_report_and_a_tenant_that_is_down_say_so() {
        let empty =
            AuditReport { tenants: Vec::new(), host: HostReport { kernel: String::new(), features: Vec::new() } };
        assert!(shown(&empty, &BTreeMap::new()).contains("There is no tenant."));
        let down = TenantReport {
            walls: Vec::new(),
            limits: Vec::new(),
            probes: Vec::new(),
            findings: Vec::new(),
            ..tenant("alice", Verdict::Down, "")
        };
        let html = shown(&report(vec![down]), &BTreeMap::from([(name("alice"), Vec::new())]));
        assert!(html.contains("The tenant has no jail at present"));
        assert!(html.contains("Memory: not measured."));
    }

    #[test]
    fn many_tenants_with_long_histories_fit() {
        let many = (0..1000).map(|number| tenant(&format!("tenant-{number}"), Verdict::Enforced, "as it should be"));
        let all = report(many.collect());
        let history = all.tenants.iter().map(|tenant| (tenant.name.clone(), points(500))).collect();
        let html = page(&all, &history, &Run { at: Moment(u64::MAX), host: "web1" });
        assert!(html.len() < 16 << 20, "{}", html.len());
        let one = page(&report(vec![all.tenants[0].clone()]), &history, &Run { at: Moment(0), host: "web1" });
        assert!(one.len() < 128 << 10, "{}", one.len());
    }

    #[test]
    fn words_are_those_of_json_and_the_worst_is_first() {
        for (verdict, word, _) in VERDICTS {
            assert_eq!(serde_json::to_value(verdict).expect("a word"), word);
        }
        assert!(VERDICTS.is_sorted_by(|a, b| a.0 > b.0));
        let rows: String = VERDICTS.iter().map(|(_, word, meaning)| format!("| {word} | {meaning} |\n")).collect();
        assert!(include_str!("../../../../docs/audit.md").contains(&rows), "docs/audit.md has other verdicts");
    }
}
