//! Compares the results of forbidden attempts inside a jail with the results that its profile requires.
//!
//! Danger: the text comes from the tenant's own init. It is bounded before it comes here. A line of any other form is
//! ignored. An attempt without a result is a finding, not a pass.

use crate::finding::{self, Violation, findings};
use bailiwick_plan::probe::expected;
use bailiwick_plan::seccomp::Verdict as Filtered;
use bailiwick_sys::denied_calls::{DENIED_CALLS, DENIED_FILES, FileAccess};
use bailiwick_types::{ProbeReport, Profile, TenantReport, Verdict};
use std::collections::BTreeMap;

/// Adds the attempts of a process inside to a report. `told` is the text that it wrote; `None` when no attempt could be
/// made.
pub fn add_probes(report: &mut TenantReport, profile: Profile, told: Option<&str>) {
    let told: BTreeMap<(&str, &str), i32> = told.unwrap_or_default().lines().filter_map(line).collect();
    let mut violations = Vec::new();
    for call in DENIED_CALLS {
        let name = call.name().replace(' ', "-");
        let wanted = match expected(profile, call.number(), call.arguments()) {
            Filtered::Errno(errno) => Some(i32::from(errno)),
            // The profile allows the call. The kernel then rejects its arguments.
            Filtered::Allow => None,
            Filtered::Kill => Some(-1),
        };
        let got = told.get(&("call", name.as_str())).copied();
        let holds = match (wanted, got) {
            (Some(wanted), Some(got)) => wanted == got,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let expected =
            wanted.map_or_else(|| "allowed by the profile".to_owned(), |errno| format!("refused with {errno}"));
        add(report, &mut violations, &format!("call {name}"), &expected, got, holds);
    }
    for (path, access) in DENIED_FILES {
        let verb = match access {
            FileAccess::Read => "read",
            FileAccess::Write => "write",
        };
        let got = told.get(&(verb, *path)).copied();
        add(report, &mut violations, &format!("{verb} {path}"), "refused", got, got.is_some_and(|errno| errno != 0));
    }
    for finding in findings(&report.name.clone(), &violations) {
        report.findings.push(finding);
    }
    let worst = report.probes.iter().map(|probe| probe.verdict).max().unwrap_or(Verdict::Enforced);
    report.verdict = report.verdict.max(worst);
}

fn add(
    report: &mut TenantReport,
    violations: &mut Vec<Violation>,
    attempt: &str,
    expected: &str,
    got: Option<i32>,
    holds: bool,
) {
    let told = match got {
        Some(0) => "not refused".to_owned(),
        Some(errno) => format!("refused with {errno}"),
        None => "nothing was told".to_owned(),
    };
    let verdict = match (holds, got) {
        (true, _) => Verdict::Enforced,
        (false, Some(_)) => Verdict::Breached,
        (false, None) => Verdict::Drift,
    };
    if !holds {
        let kind = if got.is_some() { finding::PROBE_PASSED } else { finding::PROBE_SILENT };
        violations.push(kind.violation(format!("{attempt}: {told}, expected: {expected}")));
    }
    let (attempt, expected) = (attempt.to_owned(), expected.to_owned());
    report.probes.push(ProbeReport { attempt, expected, told, verdict });
}

/// Parses a line such as `call mount 1`: the verb, the object and the error number.
fn line(text: &str) -> Option<((&str, &str), i32)> {
    let mut words = text.split(' ');
    let (verb, what, errno) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(((verb, what), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> TenantReport {
        TenantReport {
            name: "alice".parse().expect("a name"),
            verdict: Verdict::Enforced,
            walls: Vec::new(),
            limits: Vec::new(),
            probes: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// The text that comes from a jail whose walls hold.
    fn good(profile: Profile) -> String {
        let mut text = String::new();
        for call in DENIED_CALLS {
            let errno = match expected(profile, call.number(), call.arguments()) {
                Filtered::Errno(errno) => i32::from(errno),
                _ => 14,
            };
            text.push_str(&format!("call {} {errno}\n", call.name().replace(' ', "-")));
        }
        for (path, access) in DENIED_FILES {
            text.push_str(&format!("{} {path} 13\n", if *access == FileAccess::Read { "read" } else { "write" }));
        }
        text
    }

    #[test]
    fn walls_that_stand_and_walls_that_do_not() {
        for profile in Profile::ALL {
            let mut standing = report();
            add_probes(&mut standing, *profile, Some(&good(*profile)));
            assert_eq!((standing.findings.len(), standing.verdict), (0, Verdict::Enforced), "{:?}", standing.findings);
            let mut down = report();
            // A call that passes the filter meets a null pointer (EFAULT). This is no refusal by the filter.
            let passed = good(*profile).replace("call bpf 1", "call bpf 14").replace("call bpf 38", "call bpf 14");
            add_probes(
                &mut down,
                *profile,
                Some(&passed.replace("write /proc/sysrq-trigger 13", "write /proc/sysrq-trigger 0")),
            );
            assert_eq!((down.findings[0].id.as_str(), down.verdict), ("BW110", Verdict::Breached));
            assert!(down.findings[0].evidence.contains("bpf") && down.findings[0].evidence.contains("sysrq"));
        }
    }

    #[test]
    fn silence_is_a_finding_and_nonsense_is_silence() {
        for told in [None, Some(""), Some("call mount\ncall mount 1 1\ncall  1\n\u{1b}[2J\ncall mount x\n")] {
            let mut silent = report();
            add_probes(&mut silent, Profile::Web, told);
            assert_eq!((silent.findings[0].id.as_str(), silent.verdict), ("BW111", Verdict::Drift));
            assert_eq!(silent.findings.len(), 1);
        }
    }
}
