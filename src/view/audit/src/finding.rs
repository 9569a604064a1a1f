//! Every kind of finding, in one table. The meaning of an id never changes, and a dropped id is not used again.

use bailiwick_types::Severity::{self, Critical, Notice, Warning};
use bailiwick_types::{Finding, TenantName, Verdict};

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindingKind {
    /// `BW` and three digits.
    pub id: &'static str,
    /// The wall that the finding concerns, or `limits`, `state` or `probe`.
    pub about: &'static str,
    /// Severity of the finding.
    pub severity: Severity,
    /// What the operator should do about it.
    pub remedy: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $id:literal $about:literal $severity:ident, $remedy:expr;)*) => {
        $(pub(crate) const $name: FindingKind =
            FindingKind { id: $id, about: $about, severity: $severity, remedy: $remedy };)*
        /// Every kind of finding, each with its own id.
        pub const FINDINGS: &[FindingKind] = &[$($name),*];
    };
}

const RESTART: &str = "restart the tenant; if it comes back, report it as a defect";
const STOP: &str = "stop the tenant and look at how it came to this before starting it again";

kinds! {
    NAMESPACE_SHARED = "BW001" "namespaces" Critical, STOP;
    NAMESPACE_LEFT = "BW002" "namespaces" Critical, STOP;
    NAMESPACE_OWNER = "BW003" "namespaces" Critical, RESTART;
    SOCKET_FOREIGN = "BW004" "namespaces" Critical,
        "restart the tenant, which makes its sockets anew; if it comes back, find out who handed the socket in";
    SOCKETS_UNSEEN = "BW005" "namespaces" Warning, "audit again; a tenant with fewer open files can be looked at";
    ID_MAP = "BW010" "id-maps" Critical, STOP;
    MOUNT_MISSING = "BW020" "mounts" Critical, RESTART;
    MOUNT_OTHER = "BW021" "mounts" Critical, RESTART;
    MOUNT_FLAGS = "BW022" "mounts" Critical, RESTART;
    MOUNT_PROPAGATES = "BW023" "mounts" Critical, RESTART;
    MOUNT_UNEXPECTED = "BW024" "mounts" Critical, STOP;
    MOUNT_OWN = "BW025" "mounts" Notice, "nothing: profile \"system\" lets a tenant mount inside its own jail";
    MOUNT_STALE = "BW026" "mounts" Warning, "restart the tenant: the host's /etc has changed since it was started";
    MOUNT_CHANGED = "BW027" "mounts" Warning,
        "ask the tenant, or restart it: its own root has changed what the jail was started with";
    MOUNT_OLD = "BW028" "mounts" Warning,
        "restart the tenant: its jail was made by an older version, so that its watches and locks are on the host's own files";
    MASK_MISSING = "BW030" "masks" Critical, RESTART;
    MASK_CHANGED = "BW031" "masks" Warning, "ask the tenant, or restart it: its own root has uncovered what was masked";
    INTERFACE_FOREIGN = "BW035" "network" Critical, STOP;
    INTERFACE_OWN = "BW036" "network" Notice,
        "ask the tenant: its jail was made by an earlier version, which let it make interfaces; restart it";
    MEMORY_FILES_UNBOUND = "BW037" "mounts" Warning, RESTART;
    CAPABILITY_EXCESS = "BW040" "capabilities" Critical, STOP;
    CAPABILITY_INHERITED = "BW041" "capabilities" Warning,
        "ask the tenant: a program of its own has made capabilities inheritable; none goes beyond the jail's set";
    SECCOMP_MISSING = "BW050" "seccomp" Critical, STOP;
    SECCOMP_OLD = "BW051" "seccomp" Warning,
        "restart the tenant: what is refused inside is what the version refused that made its jail";
    PRIVILEGES_GAINED = "BW060" "no-new-privs" Critical, STOP;
    PRIVILEGES_BARRED = "BW061" "no-new-privs" Warning,
        "restart the tenant: set-user-id programs do not work in it, though its profile has them";
    LANDLOCK_DOWN = "BW070" "landlock" Critical, STOP;
    LANDLOCK_SILENT = "BW071" "landlock" Warning,
        "audit again; if init stays silent, restart the tenant: its own root may have stopped init";
    DOMAIN_NOT_INHERITED = "BW072" "landlock" Critical, STOP;
    STRAY = "BW080" "membership" Critical,
        "end these processes, then find out what started them: they are outside every limit of the tenant";
    GROUP_LEFT = "BW081" "membership" Critical, RESTART;
    PROCESSES_CUT = "BW082" "membership" Warning, "lower the limit \"tasks\": there are too many processes to look at each";
    FTP_UNJAILED = "BW085" "ftp" Critical,
        "end it with `bailiwick sessions kill`; find out which FTP server has let it in, and how it is configured";
    VISITOR = "BW088" "membership" Critical,
        "find out what started it, and end it: what it does in the jail is under no limit and behind no wall of the tenant's";
    RANK_RAISED = "BW089" "priorities" Warning,
        "find out who has changed it: nobody inside can; restart the tenant, or set it back with renice, chrt or choom";
    LIMIT_DRIFT = "BW090" "limits" Warning, "run `bailiwick apply`; find out who writes to the tenant's control group";
    LIMIT_UNREAD = "BW091" "limits" Warning, "run `bailiwick doctor`, then restart the tenant";
    LIMIT_NOMINAL = "BW092" "limits" Notice,
        "nothing holds this limit on this host: see `bailiwick doctor`, or declare it \"unlimited\"";
    LIMIT_REQUIRED = "BW093" "limits" Warning,
        "`require` in bailiwick.toml lists it: see `bailiwick doctor`; the tenant will not start again like this";
    UNCHARGED = "BW094" "limits" Critical,
        "restart the tenant, which charges all its files to it; find out who changed the project of its directory";
    OVER_LIMIT = "BW095" "limits" Notice,
        "nothing, if the limit was lowered on purpose: the tenant can write again once it has removed enough";
    HELD_BACK = "BW096" "limits" Warning,
        "free space where the state directory is: less is free than `reserve` in bailiwick.toml keeps for the host";
    MEMORY_UNCHARGED = "BW097" "limits" Notice,
        "nothing on this host bounds it (docs/limits.md): keep `reserve.memory`, and give profile \"web\" where it is enough";
    POOL_SHARED = "BW098" "limits" Notice,
        "see `bailiwick doctor` and docs/limits.md; restart the tenant if its jail is of an earlier version";
    ABOVE_LIMIT = "BW104" "limits" Warning,
        "find out who wrote past the limit: quotas were off for a while, or root of the host wrote there; the tenant can write \
         again once it has removed enough";
    PROCESS_LIMIT = "BW106" "limits" Warning,
        "run `bailiwick apply`, if `open_files` was lowered; else find out who has changed it: nobody inside can; restart the tenant, or \
         set it back with prlimit";
    GROUP_SETTING = "BW107" "limits" Warning,
        "restart the tenant, which gives it fresh groups; find out who writes to its control group";
    SUSPENDED_RUNS = "BW100" "state" Warning, "run `bailiwick apply`";
    ACTIVE_READ_ONLY = "BW101" "state" Warning, "run `bailiwick apply`";
    LAST_GOOD = "BW102" "state" Warning, "`bailiwick check` names the errors; mend them, then run `bailiwick apply`";
    INIT_SILENT = "BW105" "state" Warning,
        "`bailiwick restart` makes its jail anew; `replace_silent_init` in bailiwick.toml says when that is done by itself";
    PROBE_PASSED = "BW110" "probe" Critical, STOP;
    PROBE_SILENT = "BW111" "probe" Warning,
        "audit again; if init stays silent, restart the tenant: its own root may have stopped or replaced it";
    METADATA_FREE = "BW114" "limits" Notice,
        "nothing bounds it but `cpu` and `inodes`: declare them, or give the tenant a disk of its own";
    POOL_UNBACKED = "BW140" "limits" Warning,
        "run `bailiwick setup`, which allocates the pool file and has udev turn discards off; `bailiwick pool show` tells more";
    POOL_CUT = "BW141" "limits" Critical,
        "stop the tenants, and restore the pool file from a backup: what was behind its new end is lost";
    INTERFACE_OTHER = "BW120" "network" Warning,
        "restart the tenant: its interface is made with its jail; find out who has changed it: only root can";
    LINK_OTHER = "BW121" "network" Warning,
        "run `bailiwick apply` if the policy has changed, else restart the tenant, which makes its link anew";
    ROUTER_RULES = "BW122" "network" Critical,
        "find out who has changed the rules of the router: only root can; bailiwick-net has put them right";
    ROUTER_ELEMENTS = "BW123" "network" Warning,
        "find out who has changed the sets of the router: only root can; bailiwick-net has put them right";
    UPLINK = "BW124" "network" Warning,
        "mend what the evidence names; `bailiwick-net --uplink` makes what is missing or says why it cannot";
    ROUTER_ROUTES = "BW125" "network" Critical,
        "find out who has changed the routes of the router: only root can; `ip route` and `ip rule` in its namespace show them";
    COUNT_BACKWARD = "BW126" "network" Warning,
        "find out who has changed the counters of the router: only root can; what the tenant used this month may be more than is told";
    MONTH_USED = "BW127" "network" Notice,
        "nothing, or raise `month`: the tenant has used its volume of this month, and `then` says what happens";
    ROUTER_SILENT = "BW128" "network" Warning,
        "see `systemctl status bailiwick-net`, then audit again: nobody has looked at the router";
    CACHE_DOWN = "BW138" "network" Warning,
        "see `systemctl status bailiwick-dns`; names resolve again in jails when the cache runs, or with cache = false below [network]";
    PACKET_PASSED = "BW129" "probe" Critical, STOP;
    WEB_SOCKET_WRONG = "BW130" "services" Warning,
        "bailiwickd puts it right within a minute; find out who has changed it: only root can";
    LISTENER_BROKEN = "BW132" "services" Notice,
        "look at the service's log: a program of the tenant shut the socket down, and it is made anew after growing pauses";
    SERVICE_FAILING = "BW133" "services" Notice, "`bailiwick service status` and `bailiwick logs` say why";
    ASLEEP_WITH_PROCESSES = "BW134" "state" Warning,
        "end these processes, then find out what started them: a tenant that is asleep has none";
    FROZEN_WITH_CONNECTIONS = "BW135" "state" Warning,
        "run `bailiwick thaw`; if it comes back, report it as a defect: a connection thaws a tenant that is frozen because it is idle";
    LENT_OTHER = "BW136" "lending" Warning,
        "run `bailiwick apply`: a socket of the host is lent to the tenant, and its file and plan do not name it";
    LENDER_FOREIGN = "BW137" "lending" Critical,
        "stop the tenant, which ends the process; find out what has put it there: only root can";
}

/// A wall or a limit that is not as declared: a finding without the name of its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) kind: FindingKind,
    pub(crate) evidence: String,
}

impl FindingKind {
    pub(crate) fn violation(self, evidence: String) -> Violation {
        Violation { kind: self, evidence }
    }

    /// The verdict on a wall or limit with a finding of this kind.
    pub(crate) fn verdict(self) -> Verdict {
        match self.severity {
            Notice => Verdict::Enforced,
            Warning => Verdict::Drift,
            Critical => Verdict::Breached,
        }
    }
}

/// Makes one finding for each kind, in the order of the violations.
pub(crate) fn findings(tenant: &TenantName, violations: &[Violation]) -> Vec<Finding> {
    let mut kinds: Vec<FindingKind> = Vec::new();
    for violation in violations {
        if !kinds.contains(&violation.kind) {
            kinds.push(violation.kind);
        }
    }
    let evidence = |kind| {
        violations.iter().filter(move |violation| violation.kind == kind).map(|violation| violation.evidence.clone())
    };
    kinds
        .into_iter()
        .map(|kind| Finding {
            id: kind.id.to_owned(),
            severity: kind.severity,
            tenant: Some(tenant.clone()),
            evidence: list(evidence(kind)),
            remedy: kind.remedy.to_owned(),
        })
        .collect()
}

/// Joins the first 8 items, and adds the number of the others.
pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let mut items: Vec<String> = items.collect();
    let more = items.len().saturating_sub(SHOWN);
    items.truncate(SHOWN);
    let shown = items.join("; ");
    if more == 0 { shown } else { format!("{shown}; and {more} more") }
}

/// A name that a tenant chose, cut to 80 characters and escaped for a terminal.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    let cut: String = text.chars().take(SHOWN).collect();
    let ellipsis = if text.chars().nth(SHOWN).is_some() { "..." } else { "" };
    format!("{cut:?}{ellipsis}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = include_str!("../../../../docs/findings.md");

    #[test]
    fn every_id_is_used_once_and_has_its_shape() {
        let ids: BTreeSet<&str> = FINDINGS.iter().map(|kind| kind.id).collect();
        assert_eq!(ids.len(), FINDINGS.len());
        for id in ids {
            assert!(id.len() == 5 && id.starts_with("BW") && id[2..].bytes().all(|byte| byte.is_ascii_digit()), "{id}");
        }
    }

    #[test]
    fn every_kind_is_documented_as_it_is_and_nothing_else_is() {
        let rows: Vec<Vec<&str>> = DOCUMENT
            .lines()
            .filter(|line| line.starts_with("| BW"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        for kind in FINDINGS {
            let row = rows.iter().find(|row| row[0] == kind.id);
            let row = row.unwrap_or_else(|| panic!("{} is not in docs/findings.md", kind.id));
            assert_eq!(
                (row[1], row[2]),
                (kind.about, format!("{:?}", kind.severity).to_lowercase().as_str()),
                "{}",
                kind.id
            );
            assert!(!row[3].is_empty(), "{} has no meaning", kind.id);
        }
        assert_eq!(rows.len(), FINDINGS.len(), "docs/findings.md has a row that no finding has");
    }

    #[test]
    fn what_a_tenant_names_cannot_reach_a_terminal() {
        assert_eq!(quoted("a\u{1b}[2Jb\n\u{202e}"), r#""a\u{1b}[2Jb\n\u{202e}""#);
        assert_eq!(quoted(&"x".repeat(81)), format!("\"{}\"...", "x".repeat(80)));
    }

    #[test]
    fn many_are_counted_and_few_are_shown() {
        assert_eq!(list((0..3).map(|number| number.to_string())), "0; 1; 2");
        assert!(list((0..20).map(|number| number.to_string())).ends_with("7; and 12 more"));
    }
}
