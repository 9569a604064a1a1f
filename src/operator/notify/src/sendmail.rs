//! Hands a message to the host's `sendmail`, within a bounded time, and judges its exit status (`sysexits.h`).
//!
//! Danger: the program is not ours, and may hang, or print without end. It gets a file in memory of a fixed size for each direction, so
//! nobody waits for a pipe, and a process group of its own, all of which is ended with it. One with rights of its own, such as Exim's,
//! cannot be ended: it goes on, and may deliver yet. So what came of it is waited for before its message is handed over again.

use bailiwick_sys::process;
use bailiwick_sys::signal::{SIGKILL, send_to_group};
use bailiwick_types::MailAddress;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long it may take to end once it was killed.
const KILL_TIME: Duration = Duration::from_secs(5);
/// The most bytes that it can say, and of how many the meaning is told.
const MAX_SAID: u64 = 64 << 10;
const MAX_TOLD: usize = 500;
/// The most programs at a time, with those that could not be ended.
const MOST_RUNNING: usize = 8;
/// Of how many that have ended at last it is remembered that they have taken their message.
const MOST_TAKEN: usize = 1000;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MailResult {
    /// It has taken the message.
    Taken,
    /// It may take the message later.
    NotNow(String),
    /// It never takes this message.
    Refused(String),
}

/// Statuses after which another attempt is useless: wrong data, no such user, no such host.
const FINAL: [i32; 3] = [65, 67, 68];

/// The program, and what it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    command: &'a Path,
    most: Duration,
    kill_time: Duration,
    /// Ends its process group.
    kill: fn(u32) -> io::Result<()>,
}

impl<'a> Program<'a> {
    /// A program that has this long.
    pub(crate) fn new(command: &'a Path, most: Duration) -> Self {
        Self { command, most, kill_time: KILL_TIME, kill: |group| send_to_group(group, SIGKILL) }
    }
}

/// The programs that run, and what came of those that could not be ended.
#[derive(Debug, Default)]
pub(crate) struct Running(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    /// How many run.
    count: usize,
    survivors: Vec<Survivor>,
}

/// A program that could not be ended.
#[derive(Debug)]
struct Survivor {
    pid: u32,
    /// The deliveries that its message is of.
    ids: Vec<u64>,
    /// Whether it has taken the message at last; until then it goes on.
    has_taken: bool,
}

/// The place of a program among those that run.
struct Place(Arc<Mutex<Shared>>);

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.0).count -= 1;
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Whoever panics while holding it leaves whole values.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// What is known of a delivery whose program could not be ended: that it still goes on, or that it has taken the message. `None`
    /// when the message can be handed over.
    pub(crate) fn earlier(&self, id: u64) -> Option<MailResult> {
        let mut shared = lock(&self.0);
        let index = shared.survivors.iter().position(|survivor| survivor.ids.contains(&id))?;
        let Survivor { pid, ids, has_taken } = &mut shared.survivors[index];
        if !*has_taken {
            return Some(MailResult::NotNow(format!(
                "the program that could not be killed before still goes on as process {pid}; no other one gets the message before \
                 that has ended"
            )));
        }
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            shared.survivors.remove(index);
        }
        Some(MailResult::Taken)
    }

    fn place(&self) -> Option<Place> {
        let mut shared = lock(&self.0);
        if shared.count >= MOST_RUNNING {
            return None;
        }
        shared.count += 1;
        Some(Place(Arc::clone(&self.0)))
    }

    /// Waits for a program in the background, and remembers for its deliveries what comes of it.
    fn keep(&self, command: &Path, mut child: Child, place: Place, ids: &[u64]) -> io::Result<()> {
        let (pid, shared, command) = (child.id(), Arc::clone(&self.0), command.to_owned());
        lock(&shared).survivors.push(Survivor { pid, ids: ids.to_vec(), has_taken: false });
        let wait = move || {
            let is_taken = child.wait().is_ok_and(|status| judge(&command, status, "") == MailResult::Taken);
            let mut locked = lock(&shared);
            locked.survivors.retain_mut(|survivor| {
                let is_it = survivor.pid == pid && !survivor.has_taken;
                survivor.has_taken |= is_it && is_taken;
                !is_it || (is_taken && !survivor.ids.is_empty())
            });
            let taken = locked.survivors.iter().filter(|survivor| survivor.has_taken).count();
            let oldest = locked.survivors.iter().position(|survivor| survivor.has_taken);
            if let Some(oldest) = oldest.filter(|_| taken > MOST_TAKEN) {
                locked.survivors.remove(oldest);
            }
            drop(locked);
            drop(place);
        };
        thread::Builder::new().name(format!("sendmail-{pid}")).spawn(wait).map(drop)
    }
}

/// Hands a message over. `sender` is the address that it comes back to, and `ids` are the deliveries that it is of.
pub(crate) fn hand_over(
    running: &Running,
    program: &Program<'_>,
    [sender, to]: [&MailAddress; 2],
    message: &[u8],
    ids: &[u64],
) -> MailResult {
    run(running, program, [sender, to], message, ids).unwrap_or_else(|(what, error)| {
        MailResult::NotNow(format!("\"{}\" {what}: {error}", program.command.display()))
    })
}

type Failed = (&'static str, io::Error);

fn run(
    running: &Running,
    Program { command, most, kill_time, kill }: &Program<'_>,
    [sender, to]: [&MailAddress; 2],
    message: &[u8],
    ids: &[u64],
) -> Result<MailResult, Failed> {
    let failed = |what: &'static str| move |error: io::Error| (what, error);
    let Some(place) = running.place() else {
        let why = format!("{MOST_RUNNING} programs run that could not be killed, so no other one is started; end them");
        return Ok(MailResult::NotNow(format!("\"{}\": {why}", command.display())));
    };
    let input = input(message).map_err(failed("has no memory"))?;
    let said = output().map_err(failed("has no memory"))?;
    let told = said.try_clone().map_err(failed("has no memory"))?;
    let mut started = Command::new(command);
    started.args(["-i", "-f", sender.as_str(), "--", to.as_str()]);
    started.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/").process_group(0);
    started.stdin(input).stdout(Stdio::null()).stderr(told);
    // The thread that starts it waits for it. When this program ends, nobody would hear of it, and the message is handed over again.
    process::unblock_signals(&mut started);
    process::end_with_parent(&mut started);
    let mut child = started.spawn().map_err(failed("cannot be started"))?;
    let pidfd = process::open(child.id()).map_err(failed("cannot be watched"))?;
    if !process::has_ended(&pidfd, *most).map_err(failed("cannot be watched"))? {
        // The child is not reaped yet, so the number is still that of its group.
        let killed = kill(child.id());
        let late = format!("\"{}\" has not ended within {}s, and", command.display(), most.as_secs());
        if !process::has_ended(&pidfd, *kill_time).unwrap_or(false) {
            let pid = child.id();
            let why = killed.err().map_or_else(|| "it has not ended".to_owned(), |error| error.to_string());
            let mut message = format!("{late} could not be killed: {why}; it goes on as process {pid}");
            if let Err(error) = running.keep(command, child, place, ids) {
                message.push_str(&format!(", and cannot be waited for: {error}"));
            }
            return Ok(MailResult::NotNow(message));
        }
        // It may have done its work meanwhile.
        let status = child.wait().map_err(failed("cannot be watched"))?;
        return Ok(if status.success() { MailResult::Taken } else { MailResult::NotNow(format!("{late} was killed")) });
    }
    let status = child.wait().map_err(failed("cannot be watched"))?;
    let mut kept = vec![0; MAX_TOLD];
    let len = said.read_at(&mut kept, 0).unwrap_or(0);
    // The file has its size from the beginning, and what nobody has written is zeros.
    let end = kept[..len].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let words = String::from_utf8_lossy(&kept[..end]).split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(judge(command, status, &words))
}

/// A file in memory with these bytes, which nobody can change.
fn input(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(file)
}

/// A file in memory that has its size. Whoever writes beyond it gets an error.
fn output() -> io::Result<File> {
    let file = File::from(memfd_create("said", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    ftruncate(&file, MAX_SAID)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

fn judge(command: &Path, status: ExitStatus, said: &str) -> MailResult {
    let Some(code) = status.code() else {
        let signal = status.signal().unwrap_or_default();
        return MailResult::NotNow(format!("\"{}\" was ended by signal {signal}", command.display()));
    };
    if code == 0 {
        return MailResult::Taken;
    }
    let meaning = match code {
        64 => " (wrong usage)",
        65 => " (wrong data)",
        67 => " (no such user)",
        68 => " (no such host)",
        69 => " (service unavailable)",
        75 => " (temporary failure)",
        77 => " (not permitted)",
        78 => " (wrong configuration)",
        _ => "",
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let text = format!("\"{}\" ended with {code}{meaning}{said}", command.display());
    if FINAL.contains(&code) { MailResult::Refused(text) } else { MailResult::NotNow(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_sys::signal::{SIGTERM, Signals};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    /// Runs a script in place of `sendmail`; `$D` is its directory.
    fn with(script: &str, most: Duration) -> (tempfile::TempDir, MailResult) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("sendmail");
        let text = format!("#!/bin/sh\nD={}\n{script}\n", temp.path().display());
        std::fs::write(&path, text).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let [from, to] = ["bailiwick@host.example", "a@b"].map(|text| text.parse().expect("an address"));
        // Another test may be forking while this file was open for writing.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let program = Program::new(&path, most);
            match hand_over(&Running::default(), &program, [&from, &to], &vec![b'x'; 300_000], &[]) {
                MailResult::NotNow(why) if why.contains("os error 26") && Instant::now() < deadline => {}
                handed => return (temp, handed),
            }
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_gets_the_message_and_plain_arguments() {
        let (temp, handed) = with("echo \"$@\" > $D/arguments; env > $D/environment; cat > $D/message", LONG);
        assert_eq!(handed, MailResult::Taken);
        let read = |name: &str| std::fs::read_to_string(temp.path().join(name)).expect("reads");
        assert_eq!(read("arguments"), "-i -f bailiwick@host.example -- a@b\n");
        assert_eq!(read("message").len(), 300_000);
        assert!(!read("environment").contains("CARGO"), "{}", read("environment"));
    }

    #[test]
    fn it_can_be_asked_to_end_though_its_parent_waits_for_signals() {
        // Of this thread alone, as the threads that deliver have it from the first one.
        let _signals = Signals::block(&[SIGTERM]).expect("blocks");
        let (temp, handed) = with("exec grep SigBlk /proc/self/status > $D/blocked", LONG);
        assert_eq!(handed, MailResult::Taken);
        let blocked = std::fs::read_to_string(temp.path().join("blocked")).expect("reads");
        assert_eq!(blocked.trim(), "SigBlk:\t0000000000000000");
    }

    #[test]
    fn statuses_mean_what_sysexits_says() {
        let (_temp, later) = with("echo 'queue   is\nfull' >&2; exit 75", LONG);
        assert!(
            matches!(&later, MailResult::NotNow(why) if why.ends_with("ended with 75 (temporary failure): queue is full")),
            "{later:?}"
        );
        for (status, is_final) in
            [(65, true), (67, true), (68, true), (1, false), (64, false), (69, false), (78, false)]
        {
            let (_temp, handed) = with(&format!("exit {status}"), LONG);
            assert_eq!(matches!(handed, MailResult::Refused(_)), is_final, "{status}: {handed:?}");
        }
        let (_temp, killed) = with("kill -9 $$", LONG);
        assert!(matches!(&killed, MailResult::NotNow(why) if why.ends_with("was ended by signal 9")), "{killed:?}");
        let [from, to] = ["a@b", "c@d"].map(|text| text.parse().expect("an address"));
        let missing = Program::new(Path::new("/nonexistent/sendmail"), LONG);
        let missing = hand_over(&Running::default(), &missing, [&from, &to], b"", &[]);
        assert!(matches!(&missing, MailResult::NotNow(why) if why.contains("cannot be started")), "{missing:?}");
    }

    #[test]
    fn what_it_says_has_a_bound_and_its_beginning_is_kept() {
        let script = "exec 3>&2\necho 'queue full' >&3; head -c 1000000 /dev/zero | tr '\\0' x >&3 2> $D/errors\n\
                      stat -L -c '%s %b' /proc/self/fd/3 > $D/kept; exit 75";
        let (temp, handed) = with(script, LONG);
        assert!(
            matches!(&handed, MailResult::NotNow(why) if why.contains("(temporary failure): queue full xxx")),
            "{handed:?}"
        );
        let read = |name: &str| std::fs::read_to_string(temp.path().join(name)).expect("reads");
        let kept: Vec<u64> = read("kept").split_whitespace().map(|word| word.parse().expect("a number")).collect();
        // Blocks are of 512 bytes.
        assert!(kept[0] == MAX_SAID && kept[1] * 512 <= MAX_SAID, "{kept:?}");
        assert!(read("errors").contains("Operation not permitted"), "{}", read("errors"));
        // One that writes for ever is ended by its error.
        let (_temp, handed) = with("exec 3>&2; yes >&3 2> /dev/null; exit 69", LONG);
        assert!(matches!(&handed, MailResult::NotNow(why) if why.contains("(service unavailable): y y")), "{handed:?}");
        // What it reads cannot be written either.
        let (_temp, handed) = with("echo more >&0 || exit 68", LONG);
        assert!(matches!(handed, MailResult::Refused(_)), "{handed:?}");
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + LONG;
        while !is_so() {
            assert!(Instant::now() < deadline, "waited for: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Hands messages to a program that cannot be killed and ends once `$D/go` is there.
    struct Immortal(tempfile::TempDir, Running);

    impl Immortal {
        fn new(status: u8) -> Self {
            let temp = tempfile::tempdir().expect("temporary directory");
            let text = format!(
                "#!/bin/sh\nD={}\necho $$ >> $D/pids\nwhile [ ! -e $D/go ]; do sleep 0.02; done\nexit {status}\n",
                temp.path().display()
            );
            std::fs::write(temp.path().join("sendmail"), text).expect("writes");
            Self(temp, Running::default())
        }

        fn hand(&self, ids: &[u64]) -> MailResult {
            let [from, to] = ["a@b", "c@d"].map(|text| text.parse().expect("an address"));
            let command = self.0.path().join("sendmail");
            std::fs::set_permissions(&command, std::fs::Permissions::from_mode(0o755)).expect("chmod");
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let program = Program {
                    command: &command,
                    most: Duration::from_millis(200),
                    kill_time: Duration::from_millis(1),
                    kill: |_| Err(io::Error::from_raw_os_error(1)),
                };
                match hand_over(&self.1, &program, [&from, &to], b"", ids) {
                    MailResult::NotNow(why) if why.contains("os error 26") && Instant::now() < deadline => {}
                    handed => return handed,
                }
            }
        }

        fn let_go(&self) {
            std::fs::write(self.0.path().join("go"), "").expect("writes");
        }

        /// Whether none that was started is there any more, not even as one that nobody has reaped.
        fn are_gone(&self) -> bool {
            let pids = std::fs::read_to_string(self.0.path().join("pids")).expect("reads");
            pids.lines().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        }
    }

    #[test]
    fn one_that_cannot_be_killed_is_said_to_go_on_and_its_message_waits_for_what_comes_of_it() {
        for (status, golden) in [(0, Some(MailResult::Taken)), (75, None)] {
            let immortal = Immortal::new(status);
            let handed = immortal.hand(&[7, 8]);
            let why = "has not ended within 0s, and could not be killed: Operation not permitted";
            assert!(matches!(&handed, MailResult::NotNow(text) if text.contains(why)), "{handed:?}");
            for id in [7, 8, 7] {
                let earlier = immortal.1.earlier(id);
                assert!(
                    matches!(&earlier, Some(MailResult::NotNow(why)) if why.contains("still goes on as process")),
                    "{earlier:?}"
                );
            }
            assert_eq!(immortal.1.earlier(9), None);
            immortal.let_go();
            until("it is reaped", || immortal.are_gone());
            until("its end is known", || lock(&immortal.1.0).count == 0);
            // Each of its deliveries hears of it once.
            for (id, golden) in [(7, &golden), (8, &golden), (7, &None), (8, &None)] {
                assert_eq!(immortal.1.earlier(id), *golden, "{id}");
            }
            assert!(lock(&immortal.1.0).survivors.is_empty());
        }
    }

    #[test]
    fn those_that_cannot_be_killed_are_bounded() {
        let immortal = Immortal::new(0);
        for id in 0..MOST_RUNNING {
            let handed = immortal.hand(&[u64::try_from(id).expect("small")]);
            assert!(matches!(&handed, MailResult::NotNow(why) if why.contains("could not be killed:")), "{handed:?}");
        }
        let refused = immortal.hand(&[99]);
        assert!(matches!(&refused, MailResult::NotNow(why) if why.contains("no other one is started")), "{refused:?}");
        immortal.let_go();
        until("all are reaped", || lock(&immortal.1.0).count == 0);
        assert_eq!(immortal.hand(&[99]), MailResult::Taken);
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_children() {
        let begun = Instant::now();
        let script = "sleep 1000 & echo $! > $D/child; echo talk >&2; wait";
        let (temp, handed) = with(script, Duration::from_secs(2));
        assert!(matches!(&handed, MailResult::NotNow(why) if why.contains("has not ended within 2s")), "{handed:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        let child = std::fs::read_to_string(temp.path().join("child")).expect("reads");
        let is_gone = || {
            let status = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            status.is_empty() || status.contains(") Z ")
        };
        let deadline = Instant::now() + LONG;
        while !is_gone() {
            assert!(Instant::now() < deadline, "the child goes on");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
