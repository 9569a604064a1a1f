//! `doctor --probe`: a throw-away tenant on this host, this file system and this disk, that really runs into each limit.
//!
//! It has a host of its own below the state directory: nothing of the real tenants' is read, changed or started.
//! Danger: whoever interrupts this must not be left with a jail that runs. A signal is therefore heard between two steps, and
//! what a killed probe left is taken down by the next one.

mod throwaway;

use bailiwick_policy::Host;
use bailiwick_proto::Failure;
use bailiwick_sys::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, Signals};
use bailiwick_types::{ExitStatus, FeatureReport, FeatureState, HostReport};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use throwaway::{FOLDER, TENANT, Throwaway};

/// What came of trying.
enum Came {
    Enforced(String),
    NotEnforced(String),
    Untried(String),
}

/// One limit, and how it is run into.
struct Trial {
    name: &'static str,
    /// The feature of `doctor` whose remedy is this one's.
    feature: &'static str,
    run: fn(&Throwaway) -> io::Result<Came>,
}

const TRIALS: &[Trial] = &[
    Trial { name: "cpu", feature: "cpu", run: cpu },
    Trial { name: "memory", feature: "memory", run: memory },
    Trial { name: "swap", feature: "swap", run: swap },
    Trial { name: "tasks", feature: "tasks", run: tasks },
    Trial { name: "disk", feature: "disk", run: disk },
    Trial { name: "inodes", feature: "inodes", run: inodes },
    Trial { name: "io_write", feature: "io", run: io_write },
    Trial { name: "io_read", feature: "io", run: io_read },
    Trial { name: "sessions", feature: "", run: sessions },
    Trial { name: "open_files", feature: "", run: open_files },
    Trial { name: "tmp", feature: "", run: tmp },
    Trial { name: "shm", feature: "", run: shm },
];

/// Tries every limit and adds what came of it to a report. `progress` hears which is tried.
pub(crate) fn add_trials(host: &Host, report: &mut HostReport, progress: impl Fn(&str)) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::of(ExitStatus::Failed, format!("cannot {what} the throw-away tenant: {error}"))
    };
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::of(ExitStatus::Refused, "only root can make the throw-away tenant of --probe"));
    }
    let signals = Signals::block(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(|error| failed("guard", &error))?;
    let unless_interrupted = || match signals.take() {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Failure::of(ExitStatus::Failed, "interrupted; the throw-away tenant is taken down")),
        Err(error) => Err(failed("guard", &error)),
    };
    let place = host.state_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let folder = place.join(FOLDER);
    let mut claim = throwaway::claim(&folder)?;
    if folder.join(TENANT).exists() {
        progress("taking down what a probe left that was killed");
        Throwaway::over(&folder, claim).map_err(|error| failed("take down", &error))?;
        claim = throwaway::claim(&folder)?;
    }
    progress("making a throw-away tenant");
    let throwaway = Throwaway::new(host, &folder, claim).map_err(|error| failed("make", &error));
    unless_interrupted()?;
    let throwaway = throwaway?;
    for trial in TRIALS {
        progress(&format!("running into {}", trial.name));
        let came = (trial.run)(&throwaway).map_err(|error| failed(&format!("try \"{}\" with", trial.name), &error));
        // A signal of the terminal's reaches what the trial runs too: what came of that is no evidence.
        unless_interrupted()?;
        let came = came?;
        let remedy = || {
            let feature = report.features.iter().find(|feature| feature.feature == trial.feature);
            let remedy = feature.map(|feature| feature.remedy.clone()).unwrap_or_default();
            if remedy.is_empty() { "report it as a defect".to_owned() } else { remedy }
        };
        let (state, evidence, remedy) = match came {
            Came::Enforced(evidence) => (FeatureState::Works, evidence, String::new()),
            Came::NotEnforced(evidence) => (FeatureState::Limited, evidence, remedy()),
            Came::Untried(evidence) => {
                let remedy = "remove what stood in the way, and run `bailiwick doctor --probe` again".to_owned();
                (FeatureState::Limited, format!("not tried: {evidence}"), remedy)
            }
        };
        report.features.push(FeatureReport { feature: format!("probe-{}", trial.name), state, evidence, remedy });
    }
    Ok(())
}

/// The last line of what was said, in which commands say what went wrong.
fn last(said: &str) -> String {
    said.lines().last().unwrap_or("nothing was said").to_owned()
}

fn cpu(throwaway: &Throwaway) -> io::Result<Came> {
    let (begin, before) = (Instant::now(), throwaway.processor_time()?);
    throwaway.inside("timeout 3 sh -c 'while :; do :; done'")?;
    let used = throwaway.processor_time()?.saturating_sub(before);
    let per_cent = u128::from(used) * 100 / begin.elapsed().as_micros().max(1);
    let evidence = format!("a loop got {per_cent}% of a core, 20% are allowed");
    Ok(if per_cent <= 30 { Came::Enforced(evidence) } else { Came::NotEnforced(evidence) })
}

/// A line that must fail, with one of these words, and what it does. That it fails for another reason proves nothing.
fn refused(throwaway: &Throwaway, line: &str, words: &[&str], what: &str) -> io::Result<Came> {
    let (status, said) = throwaway.inside(line)?;
    let because = said.lines().find(|line| words.iter().any(|word| line.contains(word)));
    Ok(match (status, because) {
        (Some(0), _) => Came::NotEnforced(format!("{what} was not refused")),
        (_, Some(because)) => Came::Enforced(format!("{what} was refused: {because}")),
        (_, None) => Came::Untried(format!("it failed for another reason: {}", last(&said))),
    })
}

/// What the kernel says at a limit of a file system.
const NO_SPACE: &[&str] = &["quota exceeded", "No space left"];

fn memory(throwaway: &Throwaway) -> io::Result<Came> {
    let (status, _) = throwaway.inside("head -c 128M /dev/zero | tail -c 127M | wc -c | grep -q 133169152")?;
    Ok(match status {
        Some(0) => Came::NotEnforced("128M were held, 64M are allowed".to_owned()),
        _ => Came::Enforced("a process that wanted to hold 128M was ended, 64M are allowed".to_owned()),
    })
}

fn swap(throwaway: &Throwaway) -> io::Result<Came> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() < 2 {
        return Ok(Came::Untried("this machine has no swap space now".to_owned()));
    }
    memory(throwaway)
}

fn tasks(throwaway: &Throwaway) -> io::Result<Came> {
    // Whatever was started is ended with the shell.
    let line = "trap 'kill -9 0' EXIT; i=0; while [ $i -lt 64 ]; do sleep 60 & i=$((i+1)); done; exit 0";
    let came = refused(throwaway, line, &["fork", "temporarily"], "the 64th process, of 32 allowed,")?;
    Ok(match came {
        // Killed by its own hand, it has no status that tells anything; that no word of refusal was said does.
        Came::Untried(_) => Came::NotEnforced("64 processes, of 32 allowed, were started".to_owned()),
        came => came,
    })
}

fn disk(throwaway: &Throwaway) -> io::Result<Came> {
    let line =
        "dd if=/dev/zero of=/home/big bs=1M count=32 conv=fsync status=none; s=$?; rm -f /home/big; sync; exit $s";
    let came = refused(throwaway, line, NO_SPACE, "a file of 32M, of 16M allowed,");
    throwaway.wait_for_room()?;
    came
}

fn inodes(throwaway: &Throwaway) -> io::Result<Came> {
    // Not `:`, of which a shell that cannot redirect it takes its leave.
    let line = "mkdir -p /home/i && cd /home/i && i=0; s=0; \
                while [ $i -lt 600 ]; do true > f$i || { s=1; break; }; i=$((i+1)); done; rm -rf /home/i; exit $s";
    let came = refused(throwaway, line, NO_SPACE, "the 600th file, of 500 allowed,");
    throwaway.wait_for_room()?;
    came
}

/// 8M at 2M a second.
fn slow(throwaway: &Throwaway, line: &str) -> io::Result<Came> {
    let begin = Instant::now();
    let (status, said) = throwaway.inside(line)?;
    if status != Some(0) {
        return Ok(Came::Untried(last(&said)));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let evidence = format!("8M took {seconds:.1} s, 2M a second are allowed");
    Ok(if seconds > 2.5 { Came::Enforced(evidence) } else { Came::NotEnforced(evidence) })
}

fn io_write(throwaway: &Throwaway) -> io::Result<Came> {
    slow(throwaway, "dd if=/dev/zero of=/home/io bs=1M count=8 oflag=direct status=none")
}

fn io_read(throwaway: &Throwaway) -> io::Result<Came> {
    slow(throwaway, "dd if=/home/io of=/dev/null bs=1M iflag=direct status=none")
}

fn sessions(throwaway: &Throwaway) -> io::Result<Came> {
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut command = throwaway.command(&["exec", "probe", "--", "sleep", "20"]);
        held.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    std::thread::sleep(Duration::from_millis(500));
    let third = throwaway.bailiwick(&["exec", "probe", "--", "true"]);
    for mut child in held {
        child.kill()?;
        child.wait()?;
    }
    let third = third?;
    let said = last(&String::from_utf8_lossy(&third.stderr));
    // A session that is hung up ends a moment later.
    std::thread::sleep(Duration::from_millis(500));
    Ok(match third.status.code() {
        Some(0) => Came::NotEnforced("a third session, of 2 allowed, was let in".to_owned()),
        _ => Came::Enforced(format!("a third session was refused: {said}")),
    })
}

fn open_files(throwaway: &Throwaway) -> io::Result<Came> {
    refused(throwaway, "ulimit -n 65", &["not permitted"], "to allow itself a 65th descriptor, of 64,")
}

fn tmp(throwaway: &Throwaway) -> io::Result<Came> {
    refused(
        throwaway,
        "head -c 2M /dev/zero > /tmp/probe; s=$?; rm -f /tmp/probe; exit $s",
        NO_SPACE,
        "2M in /tmp, of 1M allowed,",
    )
}

fn shm(throwaway: &Throwaway) -> io::Result<Came> {
    let line = "head -c 2M /dev/zero > /dev/shm/probe; s=$?; rm -f /dev/shm/probe; exit $s";
    refused(throwaway, line, NO_SPACE, "2M in /dev/shm, of 1M allowed,")
}
