//! Timers: due jobs run in the jail as the login user, one run at a time, and survive `bailiwickd`.

use bailiwick_tests::{Host, profiles};
use std::io::Write;
use std::time::{Duration, Instant};

/// A host with a tenant that has the door `cron` and these timers, each with a schedule and a shell line.
fn host(more: &str, timers: &[(&str, &str, &str)]) -> Host {
    let mut host = Host::new();
    declare(&host, more, timers);
    host.start();
    host.ok(&["apply"]);
    host
}

fn tenant() -> &'static str {
    profiles()[0]
}

fn declare(host: &Host, more: &str, timers: &[(&str, &str, &str)]) {
    let timer = |(name, schedule, line): &(&str, &str, &str)| {
        format!("[[timer]]\nname = \"{name}\"\nschedule = \"{schedule}\"\ncommand = [\"/bin/sh\", \"-c\", {line:?}]\n")
    };
    let timers: String = timers.iter().map(timer).collect();
    let tenant = tenant();
    host.write(&format!("etc/tenants.d/{tenant}.toml"), &format!("plan = \"{tenant}\"\n{more}{timers}"));
}

const OPEN: &str = "doors = [\"exec\", \"cron\"]\n";

fn inside(host: &Host, line: &str) -> String {
    host.inside(tenant(), line).1.trim().to_owned()
}

fn as_login(host: &Host, line: &str) -> String {
    host.ok(&["exec", "--user", tenant(), tenant(), "--", "/bin/sh", "-c", line])
}

fn until(what: &str, host: &Host, holds: impl FnMut() -> bool) {
    within(Duration::from_secs(40), what, host, holds);
}

fn within(time: Duration, what: &str, host: &Host, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !holds() {
        let timers = String::from_utf8_lossy(&host.cli(&["timers"]).stdout).into_owned();
        assert!(Instant::now() < deadline, "{what}\n{timers}\n{}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn timers(host: &Host) -> Vec<serde_json::Value> {
    serde_json::from_str(&host.ok(&["timers", "--json"])).expect("JSON")
}

#[test]
fn due_jobs_run_as_the_login_user_and_their_output_is_kept() {
    let host = host(
        OPEN,
        &[("often", "*:*:0/1", "id -u; pwd; echo $USER; echo wrong >&2; exit 3"), ("never", "daily", "true")],
    );
    let home = format!("/home/{}", tenant());
    until("it is run", &host, || timers(&host)[0]["last"]["status"] == 3);
    let listed = timers(&host);
    assert_eq!((&listed[0]["timer"], &listed[0]["schedule"]), (&"often".into(), &"*:*:0/1".into()));
    assert!(listed[0]["next"].is_u64() && listed[1]["next"].is_u64() && listed[1]["last"].is_null(), "{listed:?}");
    let said = inside(
        &host,
        &format!("cat {home}/.local/state/timers/often.log; stat -c %u {home}/.local/state/timers/often.log"),
    );
    for line in ["1000\n", &format!("{home}\n"), &format!("{}\n", tenant()), "wrong\n", "ends with 3\n"] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    assert!(said.ends_with("1000"), "{said}");
    until("its end is in the log", &host, || {
        let log = host.log();
        let ended =
            |line: &str| line.contains("timer-ended") && line.contains("timer=often") && line.contains("status=\"3\"");
        log.lines().any(ended) && log.lines().any(|line| line.contains("session-opened") && line.contains("door=cron"))
    });
    host.ok(&["audit"]);
}

#[test]
fn one_run_at_a_time_which_survives_the_death_of_bailiwickd() {
    let mut host = host(OPEN, &[("slow", "*:*:0/1", "echo begin >> out; sleep 4; echo end >> out")]);
    let out = format!("cat /home/{}/out", tenant());
    until("it is run", &host, || inside(&host, &out).contains("begin"));
    host.kill();
    host.start();
    // The run that still runs prevents the next one, although this daemon does not know it.
    until("it has ended", &host, || inside(&host, &out).contains("end"));
    let said = inside(&host, &out);
    assert!(said.starts_with("begin\nend"), "{said}");
    until("a run was prevented", &host, || {
        let log = host.log();
        log.lines().any(|line| line.contains("timer-ended") && line.contains("status=\"75\""))
    });
    until("and again", &host, || inside(&host, &out).matches("end").count() >= 2);
    let said = inside(&host, &out);
    assert!(!said.contains("begin\nbegin"), "{said}");
}

#[test]
fn a_closed_door_runs_nothing_and_an_operator_can_end_a_run() {
    let host = host(OPEN, &[("long", "*:*:0/1", "echo begin >> out; exec sleep 600")]);
    let tenant = tenant();
    let sessions = || -> Vec<serde_json::Value> {
        let all: Vec<_> = serde_json::from_str(&host.ok(&["sessions", "--json"])).expect("JSON");
        all.into_iter().filter(|session: &serde_json::Value| session["door"] == "cron").collect()
    };
    until("it is in", &host, || !sessions().is_empty());
    assert!(sessions()[0]["command"].as_str().is_some_and(|command| command.contains("sleep 600")), "{:?}", sessions());
    declare(&host, "doors = [\"exec\"]\n", &[("long", "*:*:0/1", "echo begin >> out; exec sleep 600")]);
    // A timer behind a closed door is an error of the file, and the door is closed all the same.
    assert_eq!(host.cli(&["apply", "--now"]).status.code(), Some(7));
    until("it is out", &host, || sessions().is_empty());
    assert!(timers(&host)[0]["next"].is_null() && timers(&host)[0]["door_closed"] == true);
    assert!(host.ok(&["timers"]).contains("door closed"));
    let count = || inside(&host, &format!("grep -c begin /home/{tenant}/out"));
    let before = count();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(count(), before, "the door is closed");

    // Over the limit of tasks a run is refused and reported.
    declare(
        &host,
        &format!("{OPEN}limits.sessions_cron = 1\n"),
        &[("a", "*:*:0/1", "sleep 2"), ("b", "*:*:0/1", "sleep 2")],
    );
    host.ok(&["apply"]);
    until("one is refused", &host, || {
        let refused = |timer: &serde_json::Value| {
            timer["last"]["refused"].as_str().is_some_and(|why| why.contains("sessions_cron"))
        };
        timers(&host).iter().any(refused)
    });
    host.ok(&["suspend", tenant, "--reason", "invoice 17"]);
    assert!(timers(&host).iter().all(|timer| timer["next"].is_null()));
}

/// Whatever a run prints: its log is bounded, says so, and has the end of the output.
#[test]
fn the_log_of_one_run_is_bounded() {
    const MOST: u64 = (8 << 20) + (4 << 10) + 1024;
    let loud = "echo first; yes | head -c 20000000; echo; echo last; exit 5";
    let left = "(trap '' HUP; yes) & echo $! > left; echo said";
    let host = host(OPEN, &[("loud", "@reboot", loud), ("left", "@reboot", left)]);
    let dir = format!("/home/{}/.local/state/timers", tenant());
    let size = |timer: &str| -> u64 { inside(&host, &format!("stat -c %s {dir}/{timer}.log")).parse().unwrap_or(0) };
    until("it has ended normally", &host, || {
        timers(&host).iter().any(|timer| timer["timer"] == "loud" && timer["last"]["status"] == 5)
    });
    let said = inside(
        &host,
        &format!("head -n 2 {dir}/loud.log; grep -a 'cut here' {dir}/loud.log; tail -n 2 {dir}/loud.log"),
    );
    let said: Vec<&str> = said.lines().collect();
    assert!(said.len() == 5 && said[0].ends_with(" loud begins") && said[1] == "first", "{said:?}");
    assert!(said[2].contains(" loud is cut here: of a run 8 MiB are kept") && said[3] == "last", "{said:?}");
    assert!(said[4].ends_with(" loud ends with 5"), "{said:?}");
    assert!(size("loud") > 8 << 20 && size("loud") < MOST, "{}", size("loud"));
    // The output of a background process is bounded as well, and the process is not ended.
    until("it is cut", &host, || inside(&host, &format!("grep -ac 'cut here' {dir}/left.log")) == "1");
    inside(&host, &format!("kill -9 $(cat /home/{}/left)", tenant()));
    until("its end is kept", &host, || size("left") > (8 << 20) + (4 << 10));
    assert!(size("left") < MOST, "{}", size("left"));
    // The next run has a log file of its own.
    host.ok(&["restart", tenant()]);
    until("it is put aside", &host, || inside(&host, &format!("ls {dir}")).contains("loud.log.1"));
}

/// A job that was due while nothing ran waits for its jail, which starts with the host.
#[test]
fn jobs_missed_while_the_host_was_down_run_once_the_jail_is_up() {
    let seconds = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let mut host = host(OPEN, &[]);
    let mut due;
    // Repeated until the host is down before the job is due: stopping takes an unknown time.
    loop {
        due = seconds() + 10;
        let (hour, minute, second) = (due / 3600 % 24, due / 60 % 60, due % 60);
        declare(&host, OPEN, &[("due", &format!("{hour:02}:{minute:02}:{second:02} UTC"), "echo run >> runs")]);
        host.ok(&["reload"]);
        if timers(&host)[0]["next"] == due {
            let init = i32::try_from(host.init(tenant())).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
            host.kill();
            rustix::process::kill_process(init, rustix::process::Signal::KILL).expect("kill");
            if seconds() < due {
                break;
            }
            host.start();
            until("it is back", &host, || host.cli(&["exec", tenant(), "--", "true"]).status.success());
        }
    }
    while seconds() <= due {
        std::thread::sleep(Duration::from_millis(100));
    }
    host.start();
    until("it was run", &host, || timers(&host)[0]["last"]["ended"].is_u64());
    let last = &timers(&host)[0]["last"];
    assert!(last["status"] == 0 && last["refused"].is_null(), "{last}");
    assert!(inside(&host, &format!("cat /home/{}/runs", tenant())).starts_with("run"));
}

/// Background processes of a command belong to the jail, not to the timer.
#[test]
fn a_run_ends_with_its_command() {
    let host = host(
        OPEN,
        &[
            ("left", "*:*:0/1", "echo run >> runs; [ -e one ] || (trap '' HUP; sleep 600) & touch one; exit 4"),
            ("daemon", "*:*:0/1", "[ -e two ] || setsid sleep 600 & touch two; echo started"),
        ],
    );
    let count = || inside(&host, &format!("grep -c run /home/{}/runs", tenant())).parse().unwrap_or(0);
    until("it is run again and again", &host, || count() >= 3);
    until("it has ended as its command did", &host, || {
        let all = timers(&host);
        all[0]["last"]["status"] == 4
            && all[1]["last"]["status"] == 0
            && all.iter().all(|timer| timer["last"]["ended"].is_u64())
    });
    assert!(
        !host.log().contains("status=\"75\""),
        "no run was kept out by what the one before has left: {}",
        host.log()
    );
    until("none of them counts as a session", &host, || {
        let all: Vec<serde_json::Value> = serde_json::from_str(&host.ok(&["sessions", "--json"])).expect("JSON");
        all.iter().all(|session| session["door"] != "cron")
    });
}

/// The runs of each tenant wait only for its own init.
#[test]
fn runs_of_tenants_with_a_silent_init_delay_nobody() {
    let mut host = Host::new();
    let timers_of = |count: usize| -> String {
        let timer = |index| {
            format!(
                "[[timer]]\nname = \"t{index}\"\nschedule = \"*:*:0/1\"\ncommand = [\"/bin/sh\", \"-c\", \"echo run >> runs\"]\n"
            )
        };
        (0..count).map(timer).collect()
    };
    let silent: Vec<String> = (0..4).map(|index| format!("silent{index}")).collect();
    for name in &silent {
        host.write(&format!("etc/tenants.d/{name}.toml"), &format!("plan = \"{}\"\n{OPEN}{}", tenant(), timers_of(30)));
    }
    host.write("etc/tenants.d/well.toml", &format!("plan = \"{}\"\n{OPEN}{}", tenant(), timers_of(1)));
    // They are already stopped when the service starts: nobody knows yet that they are silent.
    host.start();
    host.ok(&["apply"]);
    let inits: Vec<_> =
        silent.iter().map(|name| bailiwick_sys::process::open(host.init(name)).expect("it runs")).collect();
    for init in &inits {
        bailiwick_sys::process::signal(init, rustix::process::Signal::STOP).expect("it runs");
    }
    let count = || host.inside("well", "grep -c run /home/well/runs").1.trim().parse().unwrap_or(0_u32);
    let before = count();
    // When 120 runs that never start took one of sixteen places each, every other run was delayed by five seconds
    // and more.
    until("the others' runs continue", &host, || count() >= before + 5);
    until("they are known to be silent", &host, || host.ok(&["list"]).matches("unresponsive").count() == silent.len());
    let (before, refused) = (count(), || {
        let all = timers(&host);
        all.iter()
            .filter(|timer| timer["last"]["refused"].as_str().is_some_and(|why| why.contains("does not answer")))
            .count()
    });
    until("they are refused, and reported", &host, || refused() >= 4);
    until("and still", &host, || count() >= before + 5);
    for init in &inits {
        bailiwick_sys::process::signal(init, rustix::process::Signal::CONT).expect("it runs");
    }
    until("they are back", &host, || !host.ok(&["list"]).contains("unresponsive"));
}

/// cron has a resolution of one minute, so this takes up to two minutes.
#[test]
fn jobs_of_the_tenants_crontab_run() {
    const PATH: &str = "/var/spool/cron/crontabs";
    let mut host = host(OPEN, &[("boot", "@reboot", "echo >> boots")]);
    let tenant = tenant();
    let log = format!("cat /home/{tenant}/.local/state/timers/crontab.log");
    let lines =
        "X='a  b'\n@reboot echo \"$X\" >> starts\n* * * * * id -u; echo \"$X\"; cat%hello%world\n0 0 1 1 * rare\n";
    let has_crontab = inside(&host, "command -v crontab") == "/usr/bin/crontab";
    if has_crontab {
        // Debian's crontab(1): it accepts no variable without a job, and no unknown line.
        let install = format!("crontab - << 'END' && crontab -l\n{lines}END\n");
        assert!(as_login(&host, &install).contains("0 0 1 1 * rare"));
    } else {
        // Written directly to standard error, because the test harness captures `eprintln!`.
        writeln!(std::io::stderr(), "jobs_of_the_tenants_crontab_run: NOT by crontab(1): this host has none").ok();
        as_login(&host, &format!("cat > {PATH}/{tenant} << 'END'\n{lines}END\n"));
    }
    as_login(&host, &format!("echo '@never x' >> {PATH}/{tenant}"));
    within(Duration::from_secs(100), "it is run", &host, || inside(&host, &log).matches("ends with 0").count() >= 2);
    let said = inside(&host, &log);
    // Simultaneous jobs write at the same time.
    for line in ["1000", "a  b", "hello", "world"] {
        assert!(said.lines().any(|said| said == line), "{line:?}: {said}");
    }
    assert!(said.contains(": not run: this is neither"), "{said}");
    let listed = timers(&host);
    let commands: Vec<_> = listed.iter().map(|timer| timer["command"].as_str().expect("text")).collect();
    assert!(
        commands[0].contains("boots") && listed[0]["schedule"] == "@reboot" && listed[0]["last"]["status"] == 0,
        "{listed:?}"
    );
    let (listed, commands) = (&listed[1..], &commands[1..]);
    assert_eq!(commands, ["echo \"$X\" >> starts", "id -u; echo \"$X\"; cat", "rare", ""]);
    assert_eq!((&listed[0]["schedule"], &listed[1]["schedule"]), (&"@reboot".into(), &"* * * * *".into()));
    assert!(listed[0]["next"].is_null() && listed[0]["last"].is_null(), "the jail was not started since: {listed:?}");
    assert!(listed[3]["last"]["refused"].as_str().expect("text").contains("neither"), "{listed:?}");

    // Once per start of the jail, even if the daemons die in between.
    let starts = format!("cat /home/{tenant}/starts");
    for golden in ["a  b", "a  b\na  b"] {
        host.ok(&["restart", tenant]);
        until("it is run for the start", &host, || inside(&host, &starts) == golden);
        host.kill();
        host.start();
        until("it is known", &host, || timers(&host).len() == 5);
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(inside(&host, &starts), "a  b\na  b");
    assert_eq!(
        inside(&host, &format!("wc -l < /home/{tenant}/boots")),
        "3",
        "the operator's too, from the first start on"
    );

    // The next bailiwickd knows the crontab at once. An invalid crontab is ignored, above all a symlink to a file
    // that only root inside may read.
    host.kill();
    host.start();
    until("it is known", &host, || timers(&host).len() == 5);
    inside(&host, &format!("cd {PATH} && mv {tenant} away && ln -s /etc/shadow {tenant}"));
    until("it is refused", &host, || timers(&host).len() == 2);
    assert!(timers(&host)[1]["last"]["refused"].as_str().expect("text").contains("no plain file"));
    inside(&host, &format!("rm {PATH}/{tenant}"));
    until("it is gone", &host, || timers(&host).len() == 1);
    assert!(!inside(&host, &log).contains("root:"), "nothing of that file was printed");
    host.ok(&["audit"]);
}
