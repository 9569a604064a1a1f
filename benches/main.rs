//! The cost of a jail: starting, stopping, entering and keeping one, compared with bubblewrap, crun, unshare,
//! nsenter and the bare system calls, in interleaved rounds of one run.
//!
//! Like a test, it panics if anything of ours fails, because the result would be wrong, and removes what it
//! created. A failing peer is reported in its row.
//!
//! Danger: it must stay single-threaded. It moves between mount namespaces, and the lower bound clones it.

mod doors;
mod floor;
mod jails;
mod machine;
mod network;
mod peers;
mod report;
mod rounds;

use bailiwick_tests::Host;
use bailiwick_types::ExitStatus;
use jails::Jails;
use peers::Peers;
use report::{Earlier, Form, Report, Table, Unit};
use rounds::{Subject, interleave};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str =
    "usage: bailiwick-bench [--rounds N] [--json] [--against JSON] [network [--tenants N] | memory [--tenants N]]\n";
/// Number of jails that are started at once. A host of the tests has ids for 16 tenants.
const MANY: usize = 10;
/// Number of new jails whose memory is measured.
const IDLE: usize = 200;
/// A jail that always runs: without one, each start would create the shared parts and each stop remove them.
const NEIGHBOUR: &str = "neighbour";

/// The parsed arguments.
#[derive(Debug)]
enum Wanted {
    Measure { what: What, rounds: usize, form: Form, against: Option<String> },
    Floor { root: String, program: String, first_id: u32 },
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
enum What {
    /// Making, entering and keeping jails.
    Jails,
    /// Their network, on a host with so many tenants.
    Network { tenants: usize },
    /// The memory of up to so many idle jails.
    Memory { tenants: usize },
}

fn main() -> ExitCode {
    match arguments() {
        None => {
            std::io::stderr().write_all(USAGE.as_bytes()).ok();
            ExitStatus::Invalid.into()
        }
        Some(Wanted::Floor { root, program, first_id }) => match floor::run(&root, &program, first_id) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("floor: {error}"));
                ExitStatus::Failed.into()
            }
        },
        Some(Wanted::Measure { what, rounds, form, against }) => {
            let earlier = match against.map(|path| read_earlier(&path)).transpose() {
                Ok(earlier) => earlier,
                Err(why) => {
                    say(&why);
                    return ExitStatus::Invalid.into();
                }
            };
            let mut report = Report::new(form, rounds, earlier);
            match what {
                What::Jails => measure(&mut report, rounds),
                What::Network { tenants } => network::measure(&mut report, tenants, rounds),
                What::Memory { tenants } => memory(&mut report, tenants),
            }
            match report.finish() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitStatus::Failed.into(),
            }
        }
    }
}

fn read_earlier(path: &str) -> Result<Earlier, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read \"{path}\": {error}"))?;
    Earlier::parse(&text).map_err(|error| format!("\"{path}\" is no result of --json: {error}"))
}

fn arguments() -> Option<Wanted> {
    let (mut what, mut rounds, mut form, mut against) = (What::Jails, 200, Form::Markdown, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            floor::VERB => {
                let (root, program) = (arguments.next()?, arguments.next()?);
                return Some(Wanted::Floor { root, program, first_id: arguments.next()?.parse().ok()? });
            }
            "--rounds" => rounds = arguments.next()?.parse().ok().filter(|rounds| *rounds > 0)?,
            "--json" => form = Form::Json,
            "--against" => against = Some(arguments.next()?),
            "network" => what = What::Network { tenants: 1000 },
            "memory" => what = What::Memory { tenants: 1000 },
            "--tenants" => match &mut what {
                What::Network { tenants } | What::Memory { tenants } => *tenants = arguments.next()?.parse().ok()?,
                What::Jails => return None,
            },
            _ => return None,
        }
    }
    Some(Wanted::Measure { what, rounds, form, against })
}

/// Prints what is being measured.
fn say(text: &str) {
    std::io::stderr().write_all(format!("bench: {text}\n").as_bytes()).ok();
}

fn measure(report: &mut Report, rounds: usize) {
    {
        let mut host = Host::new();
        let _runtime = machine::Runtime::below(&host.path("run"));
        host.declare(NEIGHBOUR, "web");
        for profile in ["web", "shell", "system"] {
            host.declare(profile, profile);
        }
        for index in 0..MANY {
            host.declare(&many(index), "web");
        }
        host.start_warden();
        let peers = Peers::new(&host);
        let jails = Jails::new(&host, peers.payload());
        jails.start(NEIGHBOUR);
        say("making and ending");
        report.add(making(rounds, &peers, &jails));
        say("making ten at once");
        report.add(making_many((rounds / 4).max(1), &peers, &jails));
        jails.stop(NEIGHBOUR);
    }
    {
        let mut host = Host::new();
        let _runtime = machine::Runtime::below(&host.path("run"));
        host.declare("web", "web");
        host.start();
        let peers = Peers::new(&host);
        let jails = Jails::new(&host, peers.payload());
        jails.start("web");
        let container = peers.container();
        say("entering");
        entering(report, rounds, &peers, &jails, &container);
        jails.stop("web");
    }
    {
        let mut host = Host::new();
        let _runtime = machine::Runtime::below(&host.path("run"));
        host.write("etc/tenants.d/web.toml", "plan = \"web\"\ndoors = [\"exec\", \"ssh\"]\n");
        host.start();
        host.ok(&["apply"]);
        say("doors");
        doors(report, rounds, &Peers::new(&host), &host);
    }
    memory(report, IDLE);
}

/// The memory of idle jails that have never run before, for ten of them and for all. In each memory group the kernel keeps records
/// of every file system of the host, so that the memory of a jail depends on how many there are.
fn memory(report: &mut Report, tenants: usize) {
    say("memory");
    let mut host = Host::with_many_ids(u32::try_from(tenants.div_ceil(16) + 1).expect("not so many"));
    let _runtime = machine::Runtime::below(&host.path("run"));
    let names: Vec<String> = (0..=tenants).map(many).collect();
    for name in &names {
        host.declare(name, "web");
    }
    host.start_warden();
    let jails = Jails::of(&host);
    let (neighbour, names) = names.split_last().expect("there is one more");
    jails.start(neighbour);
    let mut marks = vec![tenants];
    let mut mark = tenants / 2;
    while mark >= 50 {
        marks.push(mark);
        mark /= 2;
    }
    marks.reverse();
    machine::memory(&jails, names, &marks, |memory| report.add_memory(memory));
    for name in names.iter().chain([neighbour]) {
        jails.stop(name);
    }
}

/// The name of one of many tenants.
fn many(index: usize) -> String {
    format!("many-{index}")
}

/// One jail after another, started and stopped.
fn making(rounds: usize, peers: &Peers<'_>, jails: &Jails<'_>) -> Table {
    let dynamic = Path::new(peers::DYNAMIC);
    let fixed = peers.payload();
    let mut subjects = vec![
        peers.native("native", &[peers::DYNAMIC]),
        peers.floor(),
        peers.native("native, static", &[path(fixed)]),
        peers.unshare("unshare, static", path(fixed)),
        peers.unshare("unshare", path(dynamic)),
        peers.bwrap("bwrap, static", peers::STATIC),
        peers.bwrap("bwrap", peers::DYNAMIC),
        peers.crun("crun run, static", peers::STATIC),
        peers.crun("crun run", peers::DYNAMIC),
        peers.crun_phases(),
    ];
    for profile in ["web", "shell", "system"] {
        subjects.push(jails.phases(profile));
    }
    subjects.push(jails.whole("web", "bailiwick web: start, run static, stop", peers::STATIC));
    subjects.push(jails.whole("web", "bailiwick web: start, run, stop", peers::DYNAMIC));
    Table {
        title: "Make a jail, run `/bin/true` or a static program in it, end it".to_owned(),
        note:
            "`start` is until init runs confined, `stop` until nothing of the jail is left; both through the warden's \
               socket. Rows without `static` run the dynamic `/bin/true`."
                .to_owned(),
        unit: Unit::Ms,
        references: vec![0, 1],
        series: interleave(rounds, &mut subjects),
    }
}

/// Ten at once. The warden starts one after another; the peers use one process per jail.
fn making_many(rounds: usize, peers: &Peers<'_>, jails: &Jails<'_>) -> Table {
    let mut subjects: Vec<Subject<'_>> = vec![
        peers.at_once("native", MANY, |_| peers.native_command(&[peers::DYNAMIC])),
        peers.at_once("floor, static", MANY, |_| peers.floor_command()),
        peers.at_once("unshare", MANY, |_| peers.unshare_command(peers::DYNAMIC)),
        peers.at_once("bwrap", MANY, |_| peers.bwrap_command(peers::DYNAMIC)),
        peers.at_once("crun run", MANY, |index| peers.crun_command(&format!("many-{index}"), peers::DYNAMIC)),
        jails.at_once((0..MANY).map(many).collect()),
    ];
    Table {
        title: format!("The same, {MANY} at once, time for each"),
        note:
            "The warden has one thread and makes one jail after another; every peer is a process of its own for each \
               jail, on all processors."
                .to_owned(),
        unit: Unit::Ms,
        references: vec![0, 1],
        series: interleave(rounds, &mut subjects),
    }
}

/// Entering a running jail.
fn entering(
    report: &mut Report,
    rounds: usize,
    peers: &Peers<'_>,
    jails: &Jails<'_>,
    container: &Result<peers::Container<'_>, String>,
) {
    let pid = jails.pid("web");
    let static_path = path(peers.payload());
    let payloads: [(&str, Vec<&str>, Vec<&str>); 3] = [
        ("a static program", vec![static_path], vec![peers::STATIC]),
        ("the dynamic `/bin/true`", vec![peers::DYNAMIC], vec![peers::DYNAMIC]),
        ("`sh -c true`", vec!["/bin/sh", "-c", "true"], vec!["/bin/sh", "-c", "true"]),
    ];
    for (what, outside, inside) in payloads {
        let mut subjects = vec![
            peers.native("native", &outside),
            jails.session("web", &inside),
            jails.command_line("web", &inside),
            peers.nsenter(pid, &inside),
            peers.crun_exec(container, &inside),
        ];
        report.add(Table {
            title: format!("Enter a running jail: {what}"),
            note:
                "The jail is of profile `web` with every wall up; `nsenter` and this `crun` have no system-call filter \
                   and no Landlock."
                    .to_owned(),
            unit: Unit::Ms,
            references: vec![0],
            series: interleave(rounds, &mut subjects),
        });
    }
}

/// Entering through the doors.
fn doors(report: &mut Report, rounds: usize, peers: &Peers<'_>, host: &Host) {
    let bash = ["/bin/bash", "-c", doors::COMMAND];
    let shell = doors::Shell::new(host, "web");
    {
        let jails = Jails::new(host, peers.payload());
        jails.start("web");
        let (crun, runc, lxc) = (peers.container(), peers.runc_container(), peers.lxc_container());
        let mut subjects = vec![
            peers.native("native", &bash),
            jails.command_line("web", &bash),
            shell.alone(),
            peers.nsenter(jails.pid("web"), &bash),
            peers.crun_exec(&crun, &bash),
            peers.lxc_attach(&lxc, &bash),
            peers.runc_exec(&runc, &bash),
        ];
        report.add(Table {
            title: "Enter by a door: `bash -c true`".to_owned(),
            note: "`bailiwick-shell` as sshd starts it. The jail is of profile `web` with every wall up; the peers have no \
                   system-call filter and no Landlock."
                .to_owned(),
            unit: Unit::Ms,
            references: vec![0],
            series: interleave(rounds, &mut subjects),
        });
    }
    let sshd = doors::Sshd::new(host, &shell, "web");
    let mut subjects = vec![sshd.plain(), sshd.through("web")];
    report.add(Table {
        title: "A whole login: `ssh USER@127.0.0.1 true`".to_owned(),
        note: "One sshd, keys of Ed25519. The user of the host gets the host; the tenant gets its jail.".to_owned(),
        unit: Unit::Ms,
        references: vec![0],
        series: interleave((rounds / 2).max(1), &mut subjects),
    });
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the folder's name is text")
}
