//! `doctor --probe`: a temporary tenant runs into each of its limits, on this host, file system and disk.
//!
//! The tenant has a host of its own below the state directory. Nothing of the real tenants is read, changed or started.
//! Danger: an interrupted probe must not leave a running jail. Signals are therefore blocked, and checked between two
//! steps; a probe that was killed is cleaned up by the next one.

mod test_host;

use bailiwick_policy::Host;
use bailiwick_proto::Failure;
use bailiwick_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals};
use bailiwick_types::{ExitStatus, FeatureReport, FeatureState, HostReport};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use test_host::{FOLDER, TENANT, TestHost};

/// The result of a probe, with its evidence.
enum ProbeResult {
    Enforced(String),
    NotEnforced(String),
    Inconclusive(String),
}

/// One limit, and how it is tested.
struct LimitProbe {
    name: &'static str,
    /// The feature of `doctor` whose remedy applies; empty if there is none.
    feature: &'static str,
    run: fn(&TestHost) -> io::Result<ProbeResult>,
}

const PROBES: &[LimitProbe] = &[
    LimitProbe { name: "cpu", feature: "cpu", run: cpu },
    LimitProbe { name: "memory", feature: "memory", run: memory },
    LimitProbe { name: "swap", feature: "swap", run: swap },
    LimitProbe { name: "tasks", feature: "tasks", run: tasks },
    LimitProbe { name: "disk", feature: "disk", run: disk },
    LimitProbe { name: "inodes", feature: "inodes", run: inodes },
    LimitProbe { name: "io_write", feature: "io", run: io_write },
    LimitProbe { name: "io_read", feature: "io", run: io_read },
    LimitProbe { name: "sessions", feature: "", run: sessions },
    LimitProbe { name: "open_files", feature: "", run: open_files },
    LimitProbe { name: "tmp", feature: "", run: tmp },
    LimitProbe { name: "shm", feature: "", run: shm },
];

/// Tests every limit and adds the results to a report. `progress` is called with each step.
pub(crate) fn add_probes(host: &Host, report: &mut HostReport, progress: impl Fn(&str)) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::of(ExitStatus::Refused, "--probe requires root: it starts a temporary tenant"));
    }
    let signals =
        Signals::block(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(|error| failed("handle signals for", &error))?;
    let place = host.state_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let folder = place.join(FOLDER);
    let mut lock = test_host::lock(&folder)?;
    if folder.join(TENANT).exists() {
        progress("removing the temporary tenant of a probe that was killed");
        TestHost::start(&folder, lock).map_err(|error| failed("remove", &error))?;
        lock = test_host::lock(&folder)?;
    }
    progress("creating a temporary tenant");
    let test_host = TestHost::create(host, &folder, lock).map_err(|error| failed("create", &error));
    fail_if_interrupted(&signals)?;
    let test_host = test_host?;
    for probe in PROBES {
        progress(&format!("testing the limit {}", probe.name));
        let result = (probe.run)(&test_host).map_err(|error| failed(&format!("test \"{}\" with", probe.name), &error));
        // A signal from the terminal also reaches the command of the probe, so its result is no evidence.
        fail_if_interrupted(&signals)?;
        let feature = feature_of(probe, result?, report);
        report.features.push(feature);
    }
    Ok(())
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::of(ExitStatus::Failed, format!("cannot {what} the temporary tenant: {error}"))
}

fn fail_if_interrupted(signals: &Signals) -> Result<(), Failure> {
    match signals.take() {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Failure::of(ExitStatus::Failed, "interrupted; the temporary tenant is removed")),
        Err(error) => Err(failed("handle signals for", &error)),
    }
}

/// The row of the report for the result of a probe.
fn feature_of(probe: &LimitProbe, result: ProbeResult, report: &HostReport) -> FeatureReport {
    let (state, evidence, remedy) = match result {
        ProbeResult::Enforced(evidence) => (FeatureState::Works, evidence, String::new()),
        ProbeResult::NotEnforced(evidence) => (FeatureState::Limited, evidence, remedy_of(probe, report)),
        ProbeResult::Inconclusive(evidence) => {
            let remedy = "fix what the evidence names, and run `bailiwick doctor --probe` again".to_owned();
            (FeatureState::Limited, format!("not tested: {evidence}"), remedy)
        }
    };
    FeatureReport { feature: format!("probe-{}", probe.name), state, evidence, remedy }
}

fn remedy_of(probe: &LimitProbe, report: &HostReport) -> String {
    let feature = report.features.iter().find(|feature| feature.feature == probe.feature);
    match feature {
        Some(feature) if !feature.remedy.is_empty() => feature.remedy.clone(),
        _ => "report it as a defect".to_owned(),
    }
}

/// The last line of output, where commands report their error.
fn last_line(output: &str) -> String {
    output.lines().last().unwrap_or("no output").to_owned()
}

fn cpu(test_host: &TestHost) -> io::Result<ProbeResult> {
    let (begin, before) = (Instant::now(), test_host.processor_time()?);
    test_host.inside("timeout 3 sh -c 'while :; do :; done'")?;
    let used = test_host.processor_time()?.saturating_sub(before);
    let per_cent = u128::from(used) * 100 / begin.elapsed().as_micros().max(1);
    let evidence = format!("a busy loop got {per_cent}% of a core; the limit is 20%");
    Ok(if per_cent <= 30 { ProbeResult::Enforced(evidence) } else { ProbeResult::NotEnforced(evidence) })
}

/// Runs a shell line that must fail with one of `words` in its output. A failure for another reason proves nothing. `what`
/// describes the attempt in the evidence.
fn expect_refusal(test_host: &TestHost, line: &str, words: &[&str], what: &str) -> io::Result<ProbeResult> {
    let (status, output) = test_host.inside(line)?;
    let because = output.lines().find(|line| words.iter().any(|word| line.contains(word)));
    Ok(match (status, because) {
        (Some(0), _) => ProbeResult::NotEnforced(format!("{what} was not refused")),
        (_, Some(because)) => ProbeResult::Enforced(format!("{what} was refused: {because}")),
        (_, None) => ProbeResult::Inconclusive(format!("{what} failed for another reason: {}", last_line(&output))),
    })
}

/// Error messages at a limit of a file system.
const NO_SPACE: &[&str] = &["quota exceeded", "No space left"];

fn memory(test_host: &TestHost) -> io::Result<ProbeResult> {
    let (status, _) = test_host.inside("head -c 128M /dev/zero | tail -c 127M | wc -c | grep -q 133169152")?;
    Ok(match status {
        Some(0) => ProbeResult::NotEnforced("128M were used; the limit is 64M".to_owned()),
        _ => ProbeResult::Enforced("a process that used 128M was ended; the limit is 64M".to_owned()),
    })
}

fn swap(test_host: &TestHost) -> io::Result<ProbeResult> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() < 2 {
        return Ok(ProbeResult::Inconclusive("this machine has no swap space at present".to_owned()));
    }
    memory(test_host)
}

fn tasks(test_host: &TestHost) -> io::Result<ProbeResult> {
    // The trap ends all started processes with the shell.
    let line = "trap 'kill -9 0' EXIT; i=0; while [ $i -lt 64 ]; do sleep 60 & i=$((i+1)); done; exit 0";
    let result = expect_refusal(test_host, line, &["fork", "temporarily"], "the 64th process (limit 32)")?;
    Ok(match result {
        // The shell kills itself, so its status says nothing; without a message of refusal, every process was started.
        ProbeResult::Inconclusive(_) => {
            ProbeResult::NotEnforced("64 processes were started; the limit is 32".to_owned())
        }
        result => result,
    })
}

fn disk(test_host: &TestHost) -> io::Result<ProbeResult> {
    let line =
        "dd if=/dev/zero of=/home/big bs=1M count=32 conv=fsync status=none; s=$?; rm -f /home/big; sync; exit $s";
    let result = expect_refusal(test_host, line, NO_SPACE, "a file of 32M (limit 16M)");
    test_host.wait_for_room()?;
    result
}

fn inodes(test_host: &TestHost) -> io::Result<ProbeResult> {
    // Not `:`: a shell exits when the redirection of a special builtin fails.
    let line = "mkdir -p /home/i && cd /home/i && i=0; s=0; \
                while [ $i -lt 600 ]; do true > f$i || { s=1; break; }; i=$((i+1)); done; rm -rf /home/i; exit $s";
    let result = expect_refusal(test_host, line, NO_SPACE, "the 600th file (limit 500)");
    test_host.wait_for_room()?;
    result
}

/// Runs a shell line that transfers 8M, with a limit of 2M per second.
fn expect_slow(test_host: &TestHost, line: &str) -> io::Result<ProbeResult> {
    let begin = Instant::now();
    let (status, output) = test_host.inside(line)?;
    if status != Some(0) {
        return Ok(ProbeResult::Inconclusive(last_line(&output)));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let evidence = format!("8M took {seconds:.1} s; the limit is 2M per second");
    Ok(if seconds > 2.5 { ProbeResult::Enforced(evidence) } else { ProbeResult::NotEnforced(evidence) })
}

fn io_write(test_host: &TestHost) -> io::Result<ProbeResult> {
    expect_slow(test_host, "dd if=/dev/zero of=/home/io bs=1M count=8 oflag=direct status=none")
}

fn io_read(test_host: &TestHost) -> io::Result<ProbeResult> {
    expect_slow(test_host, "dd if=/home/io of=/dev/null bs=1M iflag=direct status=none")
}

fn sessions(test_host: &TestHost) -> io::Result<ProbeResult> {
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut command = test_host.command(&["exec", "probe", "--", "sleep", "20"]);
        held.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    std::thread::sleep(Duration::from_millis(500));
    let third = test_host.bailiwick(&["exec", "probe", "--", "true"]);
    for mut child in held {
        child.kill()?;
        child.wait()?;
    }
    let third = third?;
    let message = last_line(&String::from_utf8_lossy(&third.stderr));
    // The sessions of the killed clients end shortly after them.
    std::thread::sleep(Duration::from_millis(500));
    Ok(match third.status.code() {
        Some(0) => ProbeResult::NotEnforced("a third session was opened; the limit is 2".to_owned()),
        _ => ProbeResult::Enforced(format!("a third session was refused: {message}")),
    })
}

fn open_files(test_host: &TestHost) -> io::Result<ProbeResult> {
    expect_refusal(test_host, "ulimit -n 65", &["not permitted"], "raising the number of descriptors to 65 (limit 64)")
}

fn tmp(test_host: &TestHost) -> io::Result<ProbeResult> {
    expect_refusal(
        test_host,
        "head -c 2M /dev/zero > /tmp/probe; s=$?; rm -f /tmp/probe; exit $s",
        NO_SPACE,
        "a file of 2M in /tmp (limit 1M)",
    )
}

fn shm(test_host: &TestHost) -> io::Result<ProbeResult> {
    let line = "head -c 2M /dev/zero > /dev/shm/probe; s=$?; rm -f /dev/shm/probe; exit $s";
    expect_refusal(test_host, line, NO_SPACE, "a file of 2M in /dev/shm (limit 1M)")
}
