//! `setup` and `pool`: makes this host ready for its first tenant, and looks after the tenants' disk.
//!
//! The crate `bailiwick-setup` does the work. This asks the operator, shows the progress, and creates the first tenant.

use crate::arguments::{PoolCommand, SetupOptions};
use crate::before::Hooks;
use crate::configuration;
use crate::output::{self, Form, word};
use crate::table::pairs;
use crate::tenant;
use bailiwick_client::{AskError, Daemon};
use bailiwick_declare::NewTenant;
use bailiwick_proto::control::Depth;
use bailiwick_proto::{ControlReply, ControlRequest, Failure};
use bailiwick_setup::{
    Answers, Machine, Options, Outcome, Plan, PoolReport, Setup, Step, StepOutcome, System, ThisHost,
};
use bailiwick_types::{ByteSize, ExitStatus, FeatureReport, LimitKey, PlanName, TenantName, Verdict};
use serde::Serialize;
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the daemons may take to answer once they are started.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `setup` says as JSON.
#[derive(Debug, Serialize)]
struct Report {
    notes: Vec<String>,
    steps: Vec<StepOutcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<First>,
}

/// The first tenant, and the proof of its disk limit.
#[derive(Debug, Serialize)]
struct First {
    name: TenantName,
    created: bool,
    disk: String,
}

/// `bailiwick setup`.
pub(crate) fn run(config: &Path, options: SetupOptions, form: Form) -> Result<ExitStatus, Failure> {
    check_host()?;
    let answers = options.answers.as_deref().map(Answers::read).transpose()?.unwrap_or_default();
    let mut system = ThisHost;
    let config = config.canonicalize().map_err(|error| {
        Failure::of(ExitStatus::Invalid, format!("\"{}\", the configuration directory: {error}", config.display()))
    })?;
    let mut setup = Setup::open(Machine::new(Path::new("/"), &mut system), &config)?;
    if options.undo {
        return undo(&mut setup, &options, form);
    }
    let doors = (!options.doors.is_empty()).then(|| options.doors.clone());
    let chosen = answers.or_options(options.pool.clone(), options.size, options.fs, doors);
    let first = first_tenant(&config, &options, &answers)?;
    let (plan, is_resumed) = setup.plan(&chosen)?;
    let needed = setup.preview(&plan)?;
    if is_resumed {
        output::complain("an earlier setup was interrupted; this goes on with it");
    }
    let is_needed = needed.iter().any(|step| step.outcome == Outcome::Needed);
    let is_new = first.as_ref().is_some_and(|(name, _)| !is_declared(&config, name));
    if options.dry_run {
        let report = Report { notes: plan.notes, steps: needed, first: None };
        output::show(form, &report, |report| text(report, first.as_ref().map(|(name, _)| name)))?;
        return Ok(ExitStatus::Done);
    }
    if is_needed || is_new {
        let report = Report { notes: plan.notes.clone(), steps: needed, first: None };
        let shown = text(&report, first.as_ref().map(|(name, _)| name));
        confirm(&shown, options.yes || answers.yes)?;
    }
    let steps = carry_out(&mut setup, &chosen, &plan)?;
    // Others may set up again: creating a tenant may take a while.
    drop(setup);
    let first = first.map(|(name, tenant)| make_first(&config, name, tenant, is_new)).transpose()?;
    let report = Report { notes: plan.notes, steps, first };
    output::show(form, &report, |report| done_text(report, is_needed))?;
    Ok(ExitStatus::Done)
}

/// Fails where setup cannot work at all.
fn check_host() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::of(ExitStatus::Refused, "this requires root: it makes file systems and writes units"));
    }
    if !Path::new("/run/systemd/system").is_dir() {
        let message = "this host has no systemd, which setup needs to mount the tenants' disk at every boot; README.md says how to \
                       do without";
        return Err(Failure::of(ExitStatus::HostCannot, message));
    }
    Ok(())
}

fn carry_out(setup: &mut Setup<'_>, options: &Options, plan: &Plan) -> Result<Vec<StepOutcome>, Failure> {
    let count = plan.steps.len();
    let mut progress = |number: usize, step: &Step| {
        output::complain_raw(&format!("[{}/{count}] {}\n", number + 1, step.what));
    };
    setup.carry_out(options, plan, &mut progress).map_err(|failure| Failure {
        message: format!(
            "{}\nwhat was done until then is noted: run `bailiwick setup` again to go on, or `bailiwick setup --undo`",
            failure.message
        ),
        ..failure
    })
}

/// `bailiwick setup --undo`.
fn undo(setup: &mut Setup<'_>, options: &SetupOptions, form: Form) -> Result<ExitStatus, Failure> {
    let planned = setup.preview_undo()?;
    let report = |steps| Report { notes: Vec::new(), steps, first: None };
    if options.dry_run || planned.is_empty() {
        let all = report(planned);
        output::show(form, &all, |all| match all.steps.is_empty() {
            true => "no setup was made here, so there is nothing to take back\n".to_owned(),
            false => format!("would be taken back:\n{}", lines(&all.steps)),
        })?;
        return Ok(ExitStatus::Done);
    }
    let shown = format!("these are taken back; what the tenants' disk holds is destroyed:\n{}", lines(&planned));
    confirm(&shown, options.yes)?;
    let count = planned.len();
    let done = setup.undo(&mut |number, step| {
        output::complain_raw(&format!("[{}/{count}] take back: {}\n", number + 1, step.what));
    });
    let done = done.map_err(|failure| Failure {
        message: format!("{}\nonce that is mended, run `bailiwick setup --undo` again", failure.message),
        ..failure
    })?;
    output::show(form, &report(done), |_| "all of it is taken back; installed packages stay\n".to_owned())?;
    Ok(ExitStatus::Done)
}

/// Shows what is about to happen on standard error, and asks whether it shall.
fn confirm(shown: &str, is_agreed: bool) -> Result<(), Failure> {
    output::complain_raw(shown);
    if is_agreed {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let message = "nothing is done without a yes: add --yes, or run this on a terminal; --dry-run shows the plan";
        return Err(Failure::of(ExitStatus::Invalid, message));
    }
    output::complain_raw("Go on? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot read the answer: {error}")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::of(ExitStatus::Refused, "nothing is done"))
}

fn lines(steps: &[StepOutcome]) -> String {
    let line = |step: &StepOutcome| {
        let mark = if step.outcome == Outcome::Unchanged { "is so already: " } else { "" };
        format!("  - {mark}{}\n", step.what)
    };
    steps.iter().map(line).collect()
}

fn text(report: &Report, first: Option<&TenantName>) -> String {
    let notes: String = report.notes.iter().map(|note| format!("note: {note}\n")).collect();
    let first =
        first.map_or_else(String::new, |name| format!("  - create the tenant {name}, and prove its disk limit\n"));
    format!("{notes}the plan:\n{}{first}", lines(&report.steps))
}

fn done_text(report: &Report, was_needed: bool) -> String {
    let mut out = match was_needed {
        true => "this host is set up; `bailiwick doctor` says what it can enforce\n".to_owned(),
        false => "nothing to do: this host is as `bailiwick setup` makes it\n".to_owned(),
    };
    if let Some(First { name, created, disk }) = &report.first {
        let what = if *created { "is created" } else { "exists already" };
        out += &format!(
            "the tenant {name} {what}; {disk}\n`bailiwick shell {name}` enters it, and so does ssh {name}@HOST\n"
        );
    }
    out
}

/// The tenant to create, with its keys. Everything that is wrong with it is told before anything is done.
fn first_tenant(
    config: &Path,
    options: &SetupOptions,
    answers: &Answers,
) -> Result<Option<(TenantName, NewTenant)>, Failure> {
    let Some(name) = options.first.clone().or_else(|| answers.first.clone()) else { return Ok(None) };
    let plan: PlanName = options.plan.clone();
    if !config.join("plans.d").join(format!("{plan}.toml")).exists() {
        return Err(Failure::of(ExitStatus::NotFound, format!("there is no plan \"{plan}\" in {}", config.display())));
    }
    let ssh_keys = match options.ssh_key.as_ref().or(answers.ssh_key.as_ref()) {
        Some(file) => keys(file)?,
        None => Vec::new(),
    };
    Ok(Some((name, NewTenant { plan, profile: None, login: None, ssh_keys })))
}

/// The keys in a file, as `authorized_keys` has them.
fn keys(file: &PathBuf) -> Result<Vec<String>, Failure> {
    let shown = file.display();
    let invalid = |why: &str| Failure::of(ExitStatus::Invalid, format!("\"{shown}\", the file of --ssh-key: {why}"));
    let text = std::fs::read_to_string(file).map_err(|error| invalid(&error.to_string()))?;
    if text.contains("PRIVATE KEY") {
        return Err(invalid("this is a private key; name the file that ends in .pub"));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    if keys.is_empty() { Err(invalid("it has no key")) } else { Ok(keys) }
}

fn is_declared(config: &Path, name: &TenantName) -> bool {
    config.join("tenants.d").join(format!("{name}.toml")).exists()
}

/// Creates the first tenant, and proves that its disk limit holds.
fn make_first(config: &Path, name: TenantName, tenant: NewTenant, is_new: bool) -> Result<First, Failure> {
    let daemon = configuration::daemon(config)?;
    await_daemon(&daemon)?;
    if is_new {
        output::complain_raw(&format!("creating the tenant {name}\n"));
        let status = tenant::create(config, name.clone(), tenant, Hooks::Ask, Form::Text)?;
        if status != ExitStatus::Done {
            return Err(Failure::of(status, format!("the tenant \"{name}\" was not created")));
        }
    }
    let disk = prove_disk(config, &daemon, &name)?;
    Ok(First { name, created: is_new, disk })
}

/// Waits until the daemon and the warden answer.
fn await_daemon(daemon: &Daemon) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        match daemon.ask(&ControlRequest::Status) {
            Ok(ControlReply::Status(status)) if status.warden.is_some() => return Ok(()),
            Err(error) if !error.is_no_answer() => return Err(error.into()),
            _ if Instant::now() > until => {
                let message = "the daemons do not answer; see `journalctl -b -u bailiwickd -u bailiwick-warden`";
                return Err(Failure::of(ExitStatus::Failed, message));
            }
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Proves the disk limit of a tenant: the kernel has it, and where there is room for more, it refuses more.
fn prove_disk(config: &Path, daemon: &Daemon, name: &TenantName) -> Result<String, Failure> {
    let request = ControlRequest::Audit { tenants: vec![name.clone()], depth: Depth::Read };
    let ControlReply::Audit(report) = daemon.ask(&request)? else { return Err(AskError::Unexpected.into()) };
    let limits = report.tenants.iter().flat_map(|tenant| &tenant.limits);
    let Some(limit) = limits.into_iter().find(|limit| limit.key == LimitKey::Disk) else {
        return Ok("it has no disk limit".to_owned());
    };
    let (hard, enforced) = (limit.declared.hard(), limit.enforced.and_then(bailiwick_types::LimitValue::hard));
    let Some(hard) = hard else {
        return Ok("it has no disk limit: neither its file nor its plan has one".to_owned());
    };
    let Some(enforced) = enforced else {
        return Ok("nothing holds its disk limit: see `bailiwick doctor`".to_owned());
    };
    let shown = ByteSize(enforced).rounded();
    if limit.verdict != Verdict::Enforced {
        let message = format!("the disk limit of \"{name}\" is not enforced: {}", word(limit.verdict));
        return Err(Failure::of(ExitStatus::HostCannot, message));
    }
    let beyond = hard.saturating_add(16 << 20);
    let host = configuration::host(config)?;
    let (_, free) = bailiwick_observe::space(&host.state_dir).unwrap_or((0, 0));
    if free < beyond {
        let free = ByteSize(free).rounded();
        return Ok(format!("the kernel holds its disk limit of {shown}, which is more than the {free} that are free"));
    }
    if is_refused(config, name, beyond)? {
        return Ok(format!("the kernel holds its disk limit: it refused to give more than {shown}"));
    }
    Err(Failure::of(
        ExitStatus::HostCannot,
        format!("the disk limit of \"{name}\", {shown}, does not hold: it got more"),
    ))
}

/// Whether a tenant is refused a file of a size.
fn is_refused(config: &Path, name: &TenantName, size: u64) -> Result<bool, Failure> {
    let failed = |error: io::Error| Failure::of(ExitStatus::Failed, format!("cannot try the disk limit: {error}"));
    let line = format!(
        "fallocate -l {size} /var/tmp/.bailiwick-proof 2>/dev/null; status=$?; rm -f /var/tmp/.bailiwick-proof; exit $status"
    );
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("--config").arg(config).args(["exec", name.as_str(), "--", "/bin/sh", "-c", &line]);
    let status = command.status().map_err(failed)?;
    match status.code() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        other => Err(failed(io::Error::other(format!("the command inside ended with {other:?}")))),
    }
}

/// `bailiwick pool`.
pub(crate) fn pool(config: &Path, command: PoolCommand) -> Result<ExitStatus, Failure> {
    let host = configuration::host(config)?;
    let mut system = ThisHost;
    let mut machine = Machine::new(Path::new("/"), &mut system);
    match command {
        PoolCommand::Show { format } => {
            let report = bailiwick_setup::pool_report(&mut machine, &host.state_dir);
            output::show(format.into(), &report, pool_text)?;
            Ok(if report.problems.is_empty() { ExitStatus::Done } else { ExitStatus::Finding })
        }
        PoolCommand::Grow { size, format } => {
            if !rustix::process::geteuid().is_root() {
                return Err(Failure::of(ExitStatus::Refused, "this requires root: it writes to the tenants' disk"));
            }
            let mut progress = |what: &str| output::complain_raw(&format!("{what}\n"));
            bailiwick_setup::grow(&mut machine, &host.state_dir, size, &mut progress)?;
            let report = bailiwick_setup::pool_report(&mut machine, &host.state_dir);
            output::show(format.into(), &report, pool_text)?;
            Ok(ExitStatus::Done)
        }
    }
}

fn pool_text(report: &PoolReport) -> String {
    let size = |bytes: u64| ByteSize(bytes).rounded();
    let holds = if report.limits_hold { "disk limits hold" } else { "no disk limit holds" };
    let mut rows = vec![
        ("directory", report.state_dir.clone()),
        ("file system", format!("{}; {holds}", report.fs_type)),
        ("size", format!("{}, {} free", size(report.size), size(report.free))),
    ];
    rows.extend(report.device.clone().map(|device| ("device", device)));
    if let Some(file) = &report.file {
        rows.push(("file", file.path.clone()));
        rows.push(("allocated", format!("{} of {}", size(file.allocated.min(file.size)), size(file.size))));
        rows.push(("free beside", size(file.free_beside)));
    }
    rows.extend(report.problems.iter().map(|problem| ("problem", problem.clone())));
    pairs(rows)
}

/// The rows of `doctor` that need the service manager.
pub(crate) fn features(config: &Path) -> Vec<FeatureReport> {
    let Ok(host) = bailiwick_policy::read_host(config) else { return Vec::new() };
    // Another configuration directory is another host, which has no units.
    if config != Path::new("/etc/bailiwick") || !Path::new("/run/systemd/system").is_dir() {
        return Vec::new();
    }
    let mut system = ThisHost;
    let system: &mut dyn System = &mut system;
    bailiwick_setup::unit_features(&host, system)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(what: &str, outcome: Outcome) -> StepOutcome {
        StepOutcome { name: what.to_owned(), what: what.to_owned(), outcome }
    }

    #[test]
    fn the_plan_says_what_is_so_already() {
        let steps = vec![step("write /a", Outcome::Unchanged), step("mount it", Outcome::Needed)];
        let report = Report { notes: vec!["ext4".to_owned()], steps, first: None };
        let golden = "note: ext4\nthe plan:\n  - is so already: write /a\n  - mount it\n";
        assert_eq!(text(&report, None), golden);
        assert!(done_text(&report, false).starts_with("nothing to do"));
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["steps"][1]["outcome"], "needed");
    }

    #[test]
    fn a_file_of_keys_is_read_before_anything_is_done() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("key");
        let of = |text: &str| {
            std::fs::write(&path, text).expect("writes");
            keys(&path)
        };
        assert_eq!(of("# mine\n\nssh-ed25519 AAAA a\n").expect("a key"), ["ssh-ed25519 AAAA a"]);
        for (text, wrong) in [("", "no key"), ("-----BEGIN OPENSSH PRIVATE KEY-----\n", ".pub")] {
            let failure = of(text).expect_err(text);
            assert!(failure.status == ExitStatus::Invalid && failure.message.contains(wrong), "{failure}");
        }
        assert_eq!(keys(&temp.path().join("none")).expect_err("missing").status, ExitStatus::Invalid);
    }

    #[test]
    fn a_pool_is_shown_with_what_is_wrong() {
        let report = PoolReport {
            state_dir: "/var/lib/bailiwick".to_owned(),
            fs_type: "xfs".to_owned(),
            limits_hold: true,
            size: 2 << 30,
            free: 1 << 30,
            device: Some("/dev/loop0".to_owned()),
            file: None,
            problems: vec!["it is cut".to_owned()],
        };
        let shown = pool_text(&report);
        assert!(shown.contains("xfs; disk limits hold\n") && shown.contains("it is cut\n"), "{shown}");
    }
}
