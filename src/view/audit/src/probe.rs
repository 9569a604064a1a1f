//! Compares the results of forbidden attempts inside a jail with the results that its profile requires.
//!
//! Danger: the text comes from the tenant's own init. It is bounded before it comes here. A line of any other form is
//! ignored. An attempt without a result is a finding, not a pass.

use crate::finding::{self, Violation, findings};
use crate::judge::verdict;
use bailiwick_plan::network::{PacketProbe, Verb};
use bailiwick_plan::probe::expected;
use bailiwick_plan::seccomp::Verdict as Filtered;
use bailiwick_sys::denied_calls::{DENIED_CALLS, DENIED_FILES, FileAccess};
use bailiwick_types::{ProbeReport, Profile, RefusedPacket, TenantReport, Verdict};
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

/// Adds packets that must not arrive, as a process inside has tried them. `told` is the text that it wrote; `refused` says by how
/// much the router's counts of refused packets have risen meanwhile, by reason, as far as that is known.
pub fn add_packets(
    report: &mut TenantReport,
    packets: &[PacketProbe],
    told: Option<&str>,
    refused: &BTreeMap<RefusedPacket, u64>,
) {
    let told: BTreeMap<(&str, &str), i32> = told.unwrap_or_default().lines().filter_map(line).collect();
    let mut violations = Vec::new();
    for PacketProbe { verb, address, what, reason } in packets {
        let text = address.to_string();
        let got = told.get(&(verb.word(), text.as_str())).copied();
        let counted = refused.get(reason).copied().unwrap_or_default();
        let (attempt, arrived) = match verb {
            Verb::Connect => (format!("connect to {text} ({what})"), "connected"),
            Verb::Ask => (format!("ask {text} ({what})"), "answered"),
            Verb::SendFrom => (format!("send from {} ({what})", address.ip()), "sent"),
        };
        let came = match got {
            Some(0) => arrived.to_owned(),
            Some(NO_ANSWER) => "no answer".to_owned(),
            Some(errno) => format!("refused at once with {errno}"),
            None => "nothing was told".to_owned(),
        };
        // A packet that was sent has not arrived when the router has refused it.
        let holds = got.is_some_and(|errno| errno != 0 || *verb == Verb::SendFrom && counted > 0);
        let verdict = match (holds, got) {
            (true, _) => Verdict::Enforced,
            (false, Some(_)) => Verdict::Breached,
            (false, None) => Verdict::Drift,
        };
        let told = if counted == 0 { came } else { format!("{came}; the router refused {counted} {}", reason.text()) };
        if !holds {
            let kind = if got.is_some() { finding::PACKET_PASSED } else { finding::PROBE_SILENT };
            violations.push(kind.violation(format!("{attempt}: {told}")));
        }
        report.probes.push(ProbeReport { attempt, expected: "no connection".to_owned(), told, verdict });
    }
    report.verdict = report.verdict.max(verdict(&violations));
    report.findings.extend(findings(&report.name.clone(), &violations));
}

/// The number of "no answer" (`errno(3)`).
const NO_ANSWER: i32 = 110;

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
    fn a_packet_that_arrives_is_a_finding_and_one_that_does_not_is_none() {
        let packet = |verb, address: &str, reason| PacketProbe {
            verb,
            address: address.parse().expect("an address"),
            what: "it",
            reason,
        };
        let packets = [
            packet(Verb::Connect, "169.254.169.254:80", RefusedPacket::Blocked),
            packet(Verb::Connect, "[fd12::2]:22", RefusedPacket::Blocked),
            packet(Verb::Ask, "9.9.9.9:53", RefusedPacket::Dns),
            packet(Verb::SendFrom, "100.64.0.17:0", RefusedPacket::Spoofed),
        ];
        let good = "tcp 169.254.169.254:80 113\ntcp [fd12::2]:22 110\ndns 9.9.9.9:53 111\nfrom 100.64.0.17:0 22\n";
        let judged = |told: Option<&str>, refused: &BTreeMap<RefusedPacket, u64>| {
            let mut report = report();
            add_packets(&mut report, &packets, told, refused);
            let ids: Vec<String> = report.findings.iter().map(|finding| finding.id.clone()).collect();
            (ids.join(" "), report.verdict, report.probes.into_iter().map(|probe| probe.told).collect::<Vec<_>>())
        };
        let counts = BTreeMap::from([(RefusedPacket::Blocked, 2)]);
        let (ids, verdict, told) = judged(Some(good), &counts);
        assert_eq!((ids.as_str(), verdict), ("", Verdict::Enforced));
        let router = "the router refused 2 to an address that is always blocked";
        let golden = [
            &format!("refused at once with 113; {router}"),
            &format!("no answer; {router}"),
            "refused at once with 111",
            "refused at once with 22",
        ];
        assert_eq!(told, golden);
        let sent = good.replace("0:0 22", "0:0 0").replace("17:0 22", "17:0 0");
        assert_eq!(judged(Some(&sent), &counts).0, "BW129", "nobody has refused it");
        let spoofed = BTreeMap::from([(RefusedPacket::Spoofed, 1)]);
        assert_eq!(judged(Some(&sent), &spoofed).0, "", "the router has refused it");
        for passed in ["80 113", "22 110", "53 111"] {
            let port = passed.split(' ').next().expect("a port");
            let (ids, verdict, _) = judged(Some(&good.replace(passed, &format!("{port} 0"))), &counts);
            assert_eq!((ids.as_str(), verdict), ("BW129", Verdict::Breached), "{passed}");
        }
        assert_eq!(judged(None, &counts).0, "BW111");
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
