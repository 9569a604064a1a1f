//! `audit` and `doctor`: prints their reports as text, JSON, comma-separated values or a page of HTML.

use crate::limit_probe;
use crate::output::{self, Form, visible, word};
use crate::recorded;
use crate::table::{indented, render};
use bailiwick_client::{AskError, Daemon};
use bailiwick_proto::control::Depth;
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_types::{
    AuditReport, ByteSize, ExitStatus, FeatureReport, FeatureState, Finding, HostReport, LimitReport, LimitUnit,
    Resource, Severity, TenantName, TenantReport, Verdict, WallReport, Window,
};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How an audit is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AuditForm {
    /// For people, or JSON.
    Plain(Form),
    /// One line for each limit and each wall.
    Csv,
    /// A page of HTML in a file, with charts of a window.
    Page {
        /// Path of the page.
        file: PathBuf,
        /// Time window of the charts.
        window: Window,
    },
}

/// `bailiwick audit`.
pub(crate) fn audit(
    daemon: &Daemon,
    tenants: Vec<TenantName>,
    depth: Depth,
    form: AuditForm,
) -> Result<ExitStatus, Failure> {
    let ControlReply::Audit(report) = daemon.ask(&ControlRequest::Audit { tenants, depth })? else {
        return Err(AskError::Unexpected.into());
    };
    match form {
        AuditForm::Plain(form) => output::show(form, &*report, audit_text)?,
        AuditForm::Csv => output::print(&csv(&report))?,
        AuditForm::Page { file, window } => write_page(daemon, &report, &file, window)?,
    }
    Ok(audit_status(&report))
}

/// Writes an audit as a page.
fn write_page(daemon: &Daemon, report: &AuditReport, file: &Path, window: Window) -> Result<(), Failure> {
    const POINTS: u64 = 240;
    let step = recorded::fitting_step(window, POINTS);
    let mut history = BTreeMap::new();
    for tenant in &report.tenants {
        history.insert(tenant.name.clone(), recorded::series(daemon, tenant.name.clone(), window, step)?);
    }
    write_private(file, &bailiwick_report::audit_page(report, &history, window.until, &host_name()))
}

/// The name of this host.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Writes a file in one step. Only its owner may read it, because it shows data of customers.
pub(crate) fn write_private(file: &Path, text: &str) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut beside = tempfile::NamedTempFile::new_in(dir)?;
        beside.write_all(text.as_bytes())?;
        beside.as_file().sync_all()?;
        beside.persist(file)?;
        Ok(())
    };
    write().map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot write {}: {error}", file.display())))
}

/// `bailiwick audit --verify`.
pub(crate) fn verify(daemon: &Daemon, mark: Option<String>, form: Form) -> Result<ExitStatus, Failure> {
    #[derive(serde::Serialize)]
    struct Verified {
        mark: Option<String>,
        problems: Vec<String>,
    }
    let ControlReply::Verified { mark, problems } = daemon.ask(&ControlRequest::VerifyAudits { mark })? else {
        return Err(AskError::Unexpected.into());
    };
    let verified = Verified { mark, problems };
    output::show(form, &verified, |verified| match &verified.mark {
        Some(mark) => format!("no line of the log was changed or is missing; its last mark is {}\n", visible(mark)),
        None => verified.problems.iter().map(|problem| format!("{}\n", visible(problem))).collect(),
    })?;
    Ok(if verified.problems.is_empty() { ExitStatus::Done } else { ExitStatus::Finding })
}

fn audit_status(report: &AuditReport) -> ExitStatus {
    let mut findings = report.tenants.iter().flat_map(|tenant| &tenant.findings);
    if findings.any(|finding| finding.severity >= Severity::Warning) { ExitStatus::Finding } else { ExitStatus::Done }
}

/// `bailiwick doctor`.
pub(crate) fn doctor(config: &Path, depth: Depth, form: Form) -> Result<ExitStatus, Failure> {
    let host = crate::configuration::host(config)?;
    let mut report = bailiwick_audit::doctor(config);
    report.features.extend(crate::setup::features(config));
    report.features.extend(crate::notices::feature(config));
    if depth == Depth::Probe {
        limit_probe::add_probes(&host, &mut report, |what| output::complain_raw(&format!("{what}\n")))?;
    }
    output::show(form, &report, doctor_text)?;
    Ok(doctor_status(&report, host.require))
}

/// `bailiwick doctor --repair-ledger`: runs the warden's program, which is the only one that writes the ledger.
pub(crate) fn repair_ledger(config: &Path) -> Result<u8, Failure> {
    let beside = std::env::current_exe().unwrap_or_default().with_file_name("bailiwick-warden");
    let program = if beside.exists() { beside } else { "/usr/libexec/bailiwick/bailiwick-warden".into() };
    let mut command = std::process::Command::new(&program);
    command.arg("--repair-ledger").arg("--config").arg(config);
    let status = command
        .status()
        .map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot run \"{}\": {error}", program.display())))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(ExitStatus::Failed.code()))
}

fn doctor_status(report: &HostReport, required: impl IntoIterator<Item = Resource>) -> ExitStatus {
    let missing = |resource: Resource| {
        let of_it = |feature: &&FeatureReport| feature.resource() == Some(resource);
        report.features.iter().find(of_it).is_some_and(|feature| feature.state == FeatureState::Missing)
    };
    if required.into_iter().any(missing) { ExitStatus::HostCannot } else { ExitStatus::Done }
}

fn doctor_text(report: &HostReport) -> String {
    let table = render(&["FEATURE", "STATE", "EVIDENCE"], report.features.iter().map(feature_row));
    let lacking = report.features.iter().filter(|feature| !feature.remedy.is_empty());
    let remedies: Vec<_> = lacking.map(|feature| vec![feature.feature.clone(), feature.remedy.clone()]).collect();
    // In a table of their own: beside the remedies, each line would be as long as the longest evidence.
    let remedies =
        if remedies.is_empty() { String::new() } else { format!("\n{}", render(&["FEATURE", "REMEDY"], remedies)) };
    format!("kernel {}\n\n{table}{remedies}", visible(&report.kernel))
}

fn feature_row(feature: &FeatureReport) -> Vec<String> {
    vec![feature.feature.clone(), word(feature.state), feature.evidence.clone()]
}

fn audit_text(report: &AuditReport) -> String {
    let mut out: String = report.tenants.iter().map(|tenant| format!("{}\n", tenant_text(tenant))).collect();
    let lacking = report.host.features.iter().filter(|feature| feature.state != FeatureState::Works);
    out.push_str(&format!("host: kernel {}\n", visible(&report.host.kernel)));
    for feature in lacking {
        let (name, evidence) = (visible(&feature.feature), visible(&feature.evidence));
        out.push_str(&format!("  {name} {}: {evidence}\n", word(feature.state)));
        if !feature.remedy.is_empty() {
            out.push_str(&format!("    remedy: {}\n", visible(&feature.remedy)));
        }
    }
    out
}

fn tenant_text(tenant: &TenantReport) -> String {
    let mut out = format!("{}: {}\n", tenant.name, word(tenant.verdict));
    if !tenant.walls.is_empty() {
        out.push_str(&indented(&walls_table(&tenant.walls)));
    }
    if !tenant.limits.is_empty() {
        out.push_str(&indented(&limits_table(&tenant.limits)));
    }
    if !tenant.probes.is_empty() {
        let passed = tenant.probes.iter().filter(|probe| probe.verdict == Verdict::Enforced).count();
        out.push_str(&format!("  {passed} of {} probes had the expected result\n", tenant.probes.len()));
    }
    for finding in &tenant.findings {
        out.push_str(&finding_text(finding));
    }
    out
}

fn finding_text(finding: &Finding) -> String {
    let (id, evidence, remedy) = (visible(&finding.id), visible(&finding.evidence), visible(&finding.remedy));
    format!("  {id} {}: {evidence}\n    remedy: {remedy}\n", word(finding.severity))
}

fn walls_table(walls: &[WallReport]) -> String {
    let rows = walls.iter().map(|wall| vec![wall.wall.clone(), word(wall.verdict), wall.evidence.clone()]);
    render(&["WALL", "VERDICT", "EVIDENCE"], rows)
}

/// A table of the limits of a tenant.
pub(crate) fn limits_table(limits: &[LimitReport]) -> String {
    let header = ["LIMIT", "DECLARED", "ENFORCED", "USED", "PEAK", "FAULTS", "HEADROOM", "VERDICT"];
    render(&header, limits.iter().map(limit_row))
}

fn limit_row(limit: &LimitReport) -> Vec<String> {
    vec![
        limit.key.to_string(),
        limit.key.in_words(limit.declared),
        limit.enforced.map(|enforced| limit.key.in_words(enforced)).unwrap_or_default(),
        amount(limit, limit.used),
        amount(limit, limit.peak),
        limit.faults.map(|faults| faults.to_string()).unwrap_or_default(),
        amount(limit, limit.headroom()),
        word(limit.verdict),
    ]
}

/// An amount of a limited resource: bytes with a unit, other amounts as plain numbers.
fn amount(limit: &LimitReport, value: Option<u64>) -> String {
    match value {
        None => String::new(),
        Some(value) if limit.key.unit() == LimitUnit::Bytes => ByteSize(value).rounded(),
        Some(value) => value.to_string(),
    }
}

fn csv(report: &AuditReport) -> String {
    let mut out = csv_record(&[
        "tenant", "kind", "name", "declared", "enforced", "used", "peak", "faults", "headroom", "verdict", "evidence",
    ]);
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    for tenant in &report.tenants {
        let name = tenant.name.as_str();
        for limit in &tenant.limits {
            out.push_str(&csv_record(&[
                name,
                "limit",
                limit.key.word(),
                &limit.key.in_words(limit.declared),
                &limit.enforced.map(|enforced| limit.key.in_words(enforced)).unwrap_or_default(),
                &number(limit.used),
                &number(limit.peak),
                &number(limit.faults),
                &number(limit.headroom()),
                &word(limit.verdict),
                "",
            ]));
        }
        for wall in &tenant.walls {
            let verdict = word(wall.verdict);
            out.push_str(&csv_record(&[name, "wall", &wall.wall, "", "", "", "", "", "", &verdict, &wall.evidence]));
        }
    }
    out
}

/// One CSV record (RFC 4180).
fn csv_record(fields: &[&str]) -> String {
    let fields: Vec<_> = fields.iter().map(|field| csv_field(field)).collect();
    format!("{}\r\n", fields.join(","))
}

/// One CSV field. A field that starts like a formula is prefixed with `'`: a tenant chooses names of processes, and a
/// spreadsheet would evaluate it.
fn csv_field(text: &str) -> String {
    let text = visible(text);
    let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    if text.contains([',', '"']) {
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{guard}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_client::fake;
    use bailiwick_types::{LimitKey, Verdict};

    fn report(severity: Severity) -> AuditReport {
        let tenant: TenantName = "alice".parse().expect("valid");
        AuditReport {
            tenants: vec![TenantReport {
                name: tenant.clone(),
                verdict: Verdict::Drift,
                walls: vec![WallReport {
                    wall: "membership".to_owned(),
                    evidence: "pid 7 \"=cmd|' /C calc'\u{1b}[2J\", outside".to_owned(),
                    verdict: Verdict::Enforced,
                }],
                limits: vec![LimitReport {
                    key: LimitKey::Memory,
                    declared: ByteSize(1 << 30).into(),
                    enforced: Some(ByteSize(1 << 30).into()),
                    used: Some(1_610_612_736),
                    peak: None,
                    faults: Some(2),
                    verdict: Verdict::Drift,
                }],
                probes: Vec::new(),
                findings: vec![Finding {
                    id: "BW012".to_owned(),
                    severity,
                    tenant: Some(tenant),
                    evidence: "memory.max is \"max\"".to_owned(),
                    remedy: "run \"bailiwick apply alice\"".to_owned(),
                }],
            }],
            host: host(FeatureState::Missing),
        }
    }

    fn host(state: FeatureState) -> HostReport {
        let feature = |name: &str, state, remedy: &str| FeatureReport {
            feature: name.to_owned(),
            state,
            evidence: "read".to_owned(),
            remedy: remedy.to_owned(),
        };
        HostReport {
            kernel: "6.12.0".to_owned(),
            features: vec![feature("disk", state, "mount with prjquota"), feature("memory", FeatureState::Works, "")],
        }
    }

    #[test]
    fn the_text_has_walls_limits_findings_and_the_host() {
        let golden = "alice: drift\n  \
             WALL        VERDICT   EVIDENCE\n  \
             membership  enforced  pid 7 \"=cmd|' /C calc'\\u{1b}[2J\", outside\n  \
             LIMIT   DECLARED  ENFORCED  USED  PEAK  FAULTS  HEADROOM  VERDICT\n  \
             memory  1G        1G        1.5G  -     2       0         drift\n  \
             BW012 warning: memory.max is \"max\"\n    \
             remedy: run \"bailiwick apply alice\"\n\n\
             host: kernel 6.12.0\n  \
             disk missing: read\n    \
             remedy: mount with prjquota\n";
        assert_eq!(audit_text(&report(Severity::Warning)), golden);
    }

    #[test]
    fn csv_has_one_line_for_each_limit_and_wall_and_no_formula() {
        let golden = "tenant,kind,name,declared,enforced,used,peak,faults,headroom,verdict,evidence\r\n\
             alice,limit,memory,1G,1G,1610612736,,2,0,drift,\r\n\
             alice,wall,membership,,,,,,,enforced,\"pid 7 \"\"=cmd|' /C calc'\\u{1b}[2J\"\", outside\"\r\n";
        assert_eq!(csv(&report(Severity::Warning)), golden);
        assert_eq!(csv_field("=1+1"), "'=1+1");
        assert_eq!(csv_field("@a,b"), "\"'@a,b\"");
        assert_eq!(csv_field("a\nb"), "a\\nb");
    }

    #[test]
    fn json_has_the_documented_shape() {
        let json = serde_json::to_value(report(Severity::Critical)).expect("serialises");
        let tenant = &json["tenants"][0];
        for key in ["name", "verdict", "limits", "findings"] {
            assert!(tenant.get(key).is_some(), "{key}");
        }
        for key in ["resource", "declared", "enforced", "used", "peak", "faults", "verdict"] {
            assert!(tenant["limits"][0].get(key).is_some(), "{key}");
        }
        for key in ["id", "severity", "tenant", "evidence", "remedy"] {
            assert!(tenant["findings"][0].get(key).is_some(), "{key}");
        }
        assert!(json["host"].is_object());
    }

    #[test]
    fn a_notice_does_not_change_the_exit_status() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let answers = [Severity::Notice, Severity::Warning, Severity::Critical]
            .map(|severity| vec![ControlReply::Audit(Box::new(report(severity)))]);
        let (daemon, served) = fake(temp.path(), answers.to_vec());
        for status in [ExitStatus::Done, ExitStatus::Finding, ExitStatus::Finding] {
            assert_eq!(audit(&daemon, Vec::new(), Depth::Read, AuditForm::Csv), Ok(status));
        }
        served.join().expect("served");
    }

    #[test]
    fn the_doctor_fails_only_for_required_features() {
        let (missing, limited) = (host(FeatureState::Missing), host(FeatureState::Limited));
        assert_eq!(doctor_status(&missing, [Resource::Disk]), ExitStatus::HostCannot);
        assert_eq!(doctor_status(&missing, [Resource::Memory]), ExitStatus::Done);
        assert_eq!(doctor_status(&missing, []), ExitStatus::Done);
        assert_eq!(doctor_status(&limited, [Resource::Disk]), ExitStatus::Done);
        let golden = "kernel 6.12.0\n\n\
                      FEATURE  STATE    EVIDENCE\n\
                      disk     missing  read\n\
                      memory   works    read\n\n\
                      FEATURE  REMEDY\n\
                      disk     mount with prjquota\n";
        assert_eq!(doctor_text(&missing), golden);
    }
}
