//! Renders an audit as one page that a customer can read and print. The page has no script, loads nothing, and has a
//! bounded size.

use crate::chart::{self, Axis, CHARTS};
use crate::html::{self, Column, badge, table, text, utc};
use bailiwick_types::{
    AuditReport, ByteSize, FeatureReport, FeatureState, Finding, LimitReport, LimitUnit, Moment, Point, TenantName,
    TenantReport, Usage, Verdict, WallReport, part, percent,
};
use std::collections::BTreeMap;

/// The most columns of one chart, and the fewest, which apply when there are many tenants.
const COLUMNS: (u64, u64) = (240, 24);

/// About how many columns all charts of a page have together.
const ALL_COLUMNS: u64 = 240_000;

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

/// Renders an audit as a page. The tenants with the worst verdicts come first. A tenant with points in `history` gets
/// charts of them. The audit ran at the time `at` on the host of the name `host`.
#[must_use]
pub fn audit_page(report: &AuditReport, history: &BTreeMap<TenantName, Vec<Point>>, at: Moment, host: &str) -> String {
    let mut tenants: Vec<&TenantReport> = report.tenants.iter().collect();
    tenants.sort_by(|a, b| b.verdict.cmp(&a.verdict).then_with(|| a.name.cmp(&b.name)));
    let with_history = tenants.iter().filter(|tenant| history.contains_key(&tenant.name)).count();
    let lines = u64::try_from(with_history.saturating_mul(chart::lines(CHARTS))).unwrap_or(u64::MAX);
    let most = (ALL_COLUMNS / lines.max(1)).clamp(COLUMNS.1, COLUMNS.0);

    let (host, time) = (text(host), utc(at));
    let mut out = format!(
        "<header>\n<p class=\"brand\">Bailiwick audit</p>\n<h1>Audit of {host}</h1>\n\
         <p class=\"soft\">{time} UTC, kernel {}. All times are UTC.</p>\n</header>\n<main>\n",
        text(&report.host.kernel)
    );
    out.push_str(&summary(&tenants));
    for tenant in &tenants {
        out.push_str(&tenant_section(tenant, history.get(&tenant.name), most));
    }
    out.push_str(&host_section(report));
    out.push_str("</main>\n");
    html::document(&format!("Audit of {host}, {time} UTC"), &out)
}

/// The word of a verdict.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    VERDICTS.iter().find(|(other, ..)| *other == verdict).map_or("", |(_, word, _)| word)
}

fn summary(tenants: &[&TenantReport]) -> String {
    let count = |verdict| tenants.iter().filter(|tenant| tenant.verdict == verdict).count();
    let rows = VERDICTS
        .iter()
        .map(|(verdict, word, meaning)| vec![badge(word), count(*verdict).to_string(), (*meaning).to_owned()]);
    let caption = format!("{} tenants, by the worst that was found", tenants.len());
    let columns = [Column::Text("Verdict"), Column::Number("Tenants"), Column::Text("Meaning")];
    let mut out = table(&caption, &columns, MAX_ROWS, rows);
    if tenants.is_empty() {
        out.push_str("<p class=\"none\">There is no tenant.</p>\n");
    } else {
        out.push_str("<nav class=\"names\" aria-label=\"Tenants\">\n<ul>\n");
        for tenant in tenants {
            let (name, verdict) = (tenant.name.as_str(), word(tenant.verdict));
            out.push_str(&format!(
                "<li><a href=\"#tenant-{name}\">{name}</a> <span class=\"{verdict}\">{verdict}</span></li>\n"
            ));
        }
        out.push_str("</ul>\n</nav>\n");
    }
    html::section("summary", "Summary", &out)
}

fn tenant_section(tenant: &TenantReport, history: Option<&Vec<Point>>, most: u64) -> String {
    let name = tenant.name.as_str();
    let mut out = format!(
        "<section class=\"tenant page\" aria-labelledby=\"tenant-{name}\">\n<h2 id=\"tenant-{name}\">{name}: {}</h2>\n",
        badge(word(tenant.verdict))
    );
    if tenant.walls.is_empty() && tenant.limits.is_empty() {
        out.push_str("<p class=\"none\">The tenant has no jail at present, so there are no walls and no limits.</p>\n");
    }
    if !tenant.findings.is_empty() {
        out.push_str("<h3>Findings</h3>\n");
        out.push_str(&findings(&tenant.findings, MAX_ROWS));
    }
    if !tenant.limits.is_empty() {
        out.push_str("<h3>Limits</h3>\n");
        out.push_str(&limits_table(&tenant.limits));
    }
    if !tenant.walls.is_empty() {
        out.push_str("<h3>Walls</h3>\n");
        let row = |wall: &WallReport| vec![text(&wall.wall), badge(word(wall.verdict)), text(&wall.evidence)];
        let columns = ["Wall", "Verdict", "Evidence"].map(Column::Text);
        out.push_str(&table("What was read of each wall", &columns, MAX_ROWS, tenant.walls.iter().map(row)));
    }
    if let Some(points) = history {
        out.push_str(&format!("<h3>History</h3>\n<p class=\"soft\">{LEGEND}</p>\n"));
        let mut points = points.clone();
        points.sort_by_key(|point| point.at);
        let axis = Axis::of(std::iter::once(&points[..]), most);
        out.push_str(&chart::figures(CHARTS, name, &points, axis.as_ref(), &limits(&tenant.limits), "limit"));
    }
    out.push_str("</section>\n");
    out
}

/// How to read a chart.
pub(crate) const LEGEND: &str = "Strong line: average. Light line: the highest minute. Dashed line at the label: the limit. \
                                 A gap: not measured.";

/// A list of findings, at most `most`.
pub(crate) fn findings(findings: &[Finding], most: usize) -> String {
    let mut out = "<dl class=\"findings\">\n".to_owned();
    for finding in findings.iter().take(most) {
        out.push_str(&format!(
            "<div><dt>{} {}</dt>\n<dd>{}<br/>What to do: {}</dd></div>\n",
            text(&finding.id),
            badge(finding.severity.word()),
            text(&finding.evidence),
            text(&finding.remedy)
        ));
    }
    out.push_str("</dl>\n");
    if findings.len() > most {
        out.push_str(&format!("<p class=\"none\">And {} more.</p>\n", findings.len() - most));
    }
    out
}

/// The limits of a tenant as a table.
pub(crate) fn limits_table(limits: &[LimitReport]) -> String {
    let columns = [
        Column::Text("Limit"),
        Column::Number("Declared"),
        Column::Number("Enforced"),
        Column::Number("In use"),
        Column::Number("Peak"),
        Column::Number("Faults"),
        Column::Number("Headroom"),
        Column::Text("Verdict"),
    ];
    let caption = "Faults: how often the limit was hit. Headroom: the part of the enforced limit that is free now.";
    table(caption, &columns, MAX_ROWS, limits.iter().map(limit_row))
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
    html::section("host", "The host", &features(&report.host.features))
}

/// What the host can enforce, as a table.
pub(crate) fn features(features: &[FeatureReport]) -> String {
    let row = |feature: &FeatureReport| {
        let state = match feature.state {
            FeatureState::Works => "works",
            FeatureState::Limited => "limited",
            FeatureState::Missing => "missing",
        };
        vec![text(&feature.feature), badge(state), text(&feature.evidence), text(&feature.remedy)]
    };
    let columns = ["Feature", "State", "Evidence", "What to do"].map(Column::Text);
    table("What this host can enforce", &columns, MAX_ROWS, features.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;
    use crate::html::STYLE;
    use crate::samples::HOSTILE;
    use bailiwick_types::{CpuShare, HostReport, LimitKey, LimitValue, Measure, Severity, SoftHard, is_dangerous};

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

    /// The style keeps browsers from breaking a name of a column, a verdict or a number.
    #[test]
    fn names_verdicts_and_numbers_are_never_broken() {
        let rule = STYLE.split('}').find(|rule| rule.contains("white-space:nowrap")).expect("a rule");
        assert!(rule.trim().starts_with("th,td.n,td.w,strong{") && rule.contains("overflow-wrap:normal"), "{rule}");
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
        let html = audit_page(report, history, Moment(1_800_000_000), "web1 <b>");
        check(&html);
        html
    }

    #[test]
    fn a_page_has_all_of_a_report_worst_first() {
        let all = report(vec![tenant("alice", Verdict::Enforced, "fine"), tenant("zoe", Verdict::Breached, "pid 7")]);
        let html = shown(&all, &BTreeMap::from([(name("zoe"), points(100))]));
        let golden = [
            "<title>Audit of web1 &lt;b&gt;, 2027-01-15 08:00 UTC</title>",
            "<caption>2 tenants, by the worst that was found</caption>",
            "<tr><th scope=\"row\"><strong class=\"breached\">breached</strong></th><td class=\"n\" data-label=\"Tenants\">1</td><td data-label=\"Meaning\">a wall is down</td></tr>",
            "<li><a href=\"#tenant-zoe\">zoe</a> <span class=\"breached\">breached</span></li>",
            "<h2 id=\"tenant-zoe\">zoe: <strong class=\"breached\">breached</strong></h2>",
            "<dt>BW080 <strong class=\"critical\">critical</strong></dt>\n<dd>pid 7<br/>What to do: end it</dd>",
            "<tr><th scope=\"row\">memory</th><td class=\"n\" data-label=\"Declared\">1G</td>\
             <td class=\"n\" data-label=\"Enforced\">1G</td><td class=\"n\" data-label=\"In use\">256.0M</td>\
             <td class=\"n\" data-label=\"Peak\">256.0M</td><td class=\"n\" data-label=\"Faults\">3</td>\
             <td class=\"n\" data-label=\"Headroom\">75.0%</td><td data-label=\"Verdict\"><strong class=\"enforced\">enforced</strong></td></tr>",
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
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\\u{1b}[2J\\n\\u{202e}\\u{0}]]&gt;--&gt;&lt;/style&gt;"
        ));
        assert!(!html.contains("<script") && !html.contains(|c| c != '\n' && is_dangerous(c)));
        let long = shown(&report(vec![tenant("alice", Verdict::Drift, &"<".repeat(1 << 20))]), &BTreeMap::new());
        assert!(long.len() < 64 << 10, "{}", long.len());
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
        assert!(html.contains("Not measured: processor time, as a share of one core; memory; "));
    }

    #[test]
    fn many_tenants_with_long_histories_fit() {
        let many = (0..1000).map(|number| tenant(&format!("tenant-{number}"), Verdict::Enforced, "as it should be"));
        let all = report(many.collect());
        let history = all.tenants.iter().map(|tenant| (tenant.name.clone(), points(500))).collect();
        let html = audit_page(&all, &history, Moment(u64::MAX), "web1");
        assert!(html.len() < 16 << 20, "{}", html.len());
        let one = audit_page(&report(vec![all.tenants[0].clone()]), &history, Moment(0), "web1");
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
