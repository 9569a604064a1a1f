//! Events on their way into the history: a queue in memory, and the same in a file of the runtime directory.
//!
//! Whoever notes an event waits for no disk: the file is in memory too (`runtime_dir` is gone after a boot). What was
//! noted before this program is killed is in the file, and the next one takes it over. The recorder writes the queue
//! into the history, and then empties both.
//!
//! Danger: tenants and strangers cause events without end, and the history may not be writable for long. The queue is
//! bounded, and one tenant has a share of it. What finds no room is counted, and told when there is room again.

use crate::sync::lock;
use bailiwick_history::{NewEvent, Told, ToldStates};
use bailiwick_types::{Event, EventData, EventType, EventValue, Moment, TenantName};
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The name of the file.
const FILE: &str = "events.spool";
/// The most bytes of the queue.
const MAX_QUEUE: usize = 8 << 20;
/// The part of the queue that one tenant may take.
const SHARE: usize = 4;
/// A file larger than this is written anew, without the events that are in the history.
const MAX_FILE: u64 = 16 << 20;
/// The most events that the recorder takes at once.
const MAX_BATCH: usize = 5000;
/// The pause before the next attempt to open the file.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// The queue of events that are not in the history yet.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    /// Wakes the recorder.
    wake: OnceLock<UnixStream>,
    /// The largest number of the events in the history.
    written: watch::Sender<u64>,
}

#[derive(Debug)]
struct Queue {
    /// The number of this program's own part of the file.
    spool: u64,
    /// The place of the last event of this program.
    place: u64,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// The bytes of each tenant's events; those of the host are below `None`.
    bytes_of: BTreeMap<Option<TenantName>, usize>,
    /// How many events found no room since the last one that was told.
    lost: u64,
    /// What was told, with what is in the queue.
    told: ToldStates,
    file: SpoolFile,
    /// Whether the recorder was woken since it last took events.
    is_woken: bool,
}

#[derive(Debug)]
struct Waiting {
    spool: u64,
    event: NewEvent,
    /// As many bytes as its line in the file has.
    bytes: usize,
}

/// A line of the file: the number of the spool that the lines below belong to, or an event.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Line {
    Spool(u64),
    Event(Box<Entry>),
}

/// The place of an event, the event, and what it tells: a subject and its state.
type Entry = (u64, Event, Option<(String, Option<String>)>);

#[derive(Debug)]
struct SpoolFile {
    path: PathBuf,
    open: Option<File>,
    len: u64,
    tried: Option<Instant>,
    /// Why events are not in the file; `None` when they are.
    problem: Option<String>,
}

fn line(new: &NewEvent) -> Vec<u8> {
    let told = new.told.as_ref().map(|told| (told.subject.clone(), told.state.clone()));
    encoded(&Line::Event(Box::new((new.place, new.event.clone(), told))))
}

fn encoded(line: &Line) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("plain data is written as JSON");
    bytes.push(b'\n');
    bytes
}

pub(crate) fn now() -> Moment {
    // A clock before 1970 is not set. It counts as 0.
    Moment(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// What an event from the log tells, so that a later comparison does not tell it again.
fn told_by(kind: EventType, data: &EventData) -> Option<Told> {
    let told = |subject: &str, state: Option<&str>| {
        Some(Told { subject: subject.to_owned(), state: state.map(str::to_owned) })
    };
    let word = |key: &str| match data.get(key) {
        Some(EventValue::Text(text)) => text.as_str(),
        _ => "",
    };
    match kind {
        EventType::TenantStarted | EventType::TenantRestarted | EventType::TenantAwake => told(JAIL, Some(RUNNING)),
        EventType::TenantStopped | EventType::TenantEnded | EventType::TenantAsleep => told(JAIL, Some(DOWN)),
        EventType::DiskSoft => told(&format!("{DISK}{}", word("limit")), Some(SOFT)),
        _ => None,
    }
}

/// The subject of what is declared.
pub(crate) const DECLARED: &str = bailiwick_history::DECLARED;
/// The subject of whether a jail runs, and its states.
pub(crate) const JAIL: &str = "jail";
pub(crate) const RUNNING: &str = "running";
pub(crate) const DOWN: &str = "down";
/// Before the word of a disk limit; and the state above the soft limit.
pub(crate) const DISK: &str = "disk:";
pub(crate) const SOFT: &str = "soft";

impl Outbox {
    /// The outbox whose file is in `dir`, with the events that an earlier program has left there. The directory may be
    /// made later.
    pub(crate) fn new(dir: &Path) -> Self {
        let mut spool = [0; 8];
        // Without random numbers, the time is as good: no two programs start in one nanosecond.
        let spool = match rustix::rand::getrandom(&mut spool, rustix::rand::GetRandomFlags::empty()) {
            Ok(8) => u64::from_ne_bytes(spool),
            _ => {
                u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(0)
            }
        };
        let file = SpoolFile { path: dir.join(FILE), open: None, len: 0, tried: None, problem: None };
        let mut queue = Queue {
            spool,
            place: 0,
            waiting: VecDeque::new(),
            bytes: 0,
            bytes_of: BTreeMap::new(),
            lost: 0,
            told: ToldStates::new(),
            file,
            is_woken: false,
        };
        queue.open_file();
        Self { queue: Mutex::new(queue), wake: OnceLock::new(), written: watch::Sender::new(0) }
    }

    /// Notes an event of the log.
    pub fn note(&self, kind: EventType, tenant: Option<TenantName>, actor: Option<u32>, data: EventData) {
        let told = told_by(kind, &data);
        let mut queue = lock(&self.queue);
        queue.add(Event { seq: 0, at: now(), kind, tenant, actor, data }, told);
        self.wake(&mut queue);
    }

    /// Notes a state, and the event that tells of it if the state was not told before. `event` gets the state that was
    /// told last. The caller has compared with nothing older than what was told when it looked.
    pub(crate) fn observe(
        &self,
        tenant: Option<&TenantName>,
        subject: &str,
        state: Option<&str>,
        event: impl FnOnce(Option<&str>) -> (EventType, EventData),
    ) {
        let mut queue = lock(&self.queue);
        let before = queue.told.get(&(tenant.cloned(), subject.to_owned())).cloned();
        if before.as_deref() == state {
            return;
        }
        let (kind, data) = event(before.as_deref());
        let told = Told { subject: subject.to_owned(), state: state.map(str::to_owned) };
        queue.add(Event { seq: 0, at: now(), kind, tenant: tenant.cloned(), actor: None, data }, Some(told));
        self.wake(&mut queue);
    }

    /// What was told so far. It is complete once the history is open.
    pub(crate) fn told(&self) -> ToldStates {
        lock(&self.queue).told.clone()
    }

    /// The state that was told last.
    pub(crate) fn told_of(&self, tenant: &TenantName, subject: &str) -> Option<String> {
        lock(&self.queue).told.get(&(Some(tenant.clone()), subject.to_owned())).cloned()
    }

    /// Learns what the history knows was told, and its largest number.
    pub(crate) fn learn(&self, mut told: ToldStates, last: u64) {
        let mut queue = lock(&self.queue);
        for waiting in &queue.waiting {
            tell(&mut told, &waiting.event);
        }
        queue.told = told;
        drop(queue);
        self.written.send_replace(last);
    }

    /// Gives the recorder's thread the means to be woken.
    pub(crate) fn wakes(&self, recorder: UnixStream) {
        // A second recorder is never started.
        drop(self.wake.set(recorder));
    }

    fn wake(&self, queue: &mut Queue) {
        if let (false, Some(mut stream)) = (queue.is_woken, self.wake.get()) {
            queue.is_woken = true;
            // When the pipe is full, the thread wakes anyway.
            drop(stream.write(&[1]));
        }
    }

    /// Whether events wait for the history.
    pub(crate) fn is_waiting(&self) -> bool {
        !lock(&self.queue).waiting.is_empty()
    }

    /// The next events of one spool, in order.
    pub(crate) fn batch(&self) -> (u64, Vec<NewEvent>) {
        let mut queue = lock(&self.queue);
        queue.is_woken = false;
        let Some(spool) = queue.waiting.front().map(|waiting| waiting.spool) else { return (0, Vec::new()) };
        let of_spool = queue.waiting.iter().take_while(|waiting| waiting.spool == spool).take(MAX_BATCH);
        (spool, of_spool.map(|waiting| waiting.event.clone()).collect())
    }

    /// The first `count` events are in the history, whose largest number is now `last`.
    pub(crate) fn is_written(&self, count: usize, last: u64) {
        let mut queue = lock(&self.queue);
        queue.remove(count);
        let lost = std::mem::take(&mut queue.lost);
        if lost > 0 {
            let data = EventData::from([("count".to_owned(), EventValue::from(lost))]);
            queue.add(Event { seq: 0, at: now(), kind: EventType::EventsLost, tenant: None, actor: None, data }, None);
        }
        queue.shorten_file();
        drop(queue);
        self.written.send_replace(last);
    }

    /// Follows the largest number of the events in the history.
    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Why the last events would be lost if this program were killed; `None` if they would not.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.queue).file.problem.clone()
    }
}

fn tell(told: &mut ToldStates, new: &NewEvent) {
    let tenant = &new.event.tenant;
    if new.event.kind == EventType::TenantPurged {
        // Whether it is declared is compared with the policy, as of others.
        told.retain(|(whose, subject), _| whose != tenant || tenant.is_none() || subject == DECLARED);
    }
    match &new.told {
        Some(Told { subject, state: Some(state) }) => {
            drop(told.insert((tenant.clone(), subject.clone()), state.clone()))
        }
        Some(Told { subject, state: None }) => drop(told.remove(&(tenant.clone(), subject.clone()))),
        None => {}
    }
}

impl Queue {
    fn add(&mut self, event: Event, told: Option<Told>) {
        let new = NewEvent { place: self.place + 1, event, told };
        let line = line(&new);
        let of_tenant = self.bytes_of.get(&new.event.tenant).copied().unwrap_or(0);
        if self.bytes + line.len() > MAX_QUEUE || of_tenant + line.len() > MAX_QUEUE / SHARE {
            // What it tells is not remembered either: a later comparison tells it, when there is room.
            self.lost += 1;
            return;
        }
        self.place += 1;
        self.open_file();
        self.file.append(&line);
        tell(&mut self.told, &new);
        self.push(Waiting { spool: self.spool, bytes: line.len(), event: new });
    }

    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes;
        *self.bytes_of.entry(waiting.event.event.tenant.clone()).or_default() += waiting.bytes;
        self.waiting.push_back(waiting);
    }

    fn remove(&mut self, count: usize) {
        for waiting in self.waiting.drain(..count.min(self.waiting.len())) {
            self.bytes -= waiting.bytes;
            if let Some(bytes) = self.bytes_of.get_mut(&waiting.event.event.tenant) {
                *bytes -= waiting.bytes;
            }
        }
        self.bytes_of.retain(|_, bytes| *bytes > 0);
    }

    /// Opens the file, if it is not open, and takes over what an earlier program has left.
    fn open_file(&mut self) {
        let Some(left) = self.file.open_now() else { return };
        let own: Vec<Waiting> = self.waiting.drain(..).collect();
        (self.bytes, self.bytes_of) = (0, BTreeMap::new());
        for (spool, event) in left {
            let bytes = line(&event).len();
            self.push(Waiting { spool, event, bytes });
        }
        self.file.append(&encoded(&Line::Spool(self.spool)));
        for waiting in own {
            self.file.append(&line(&waiting.event));
            self.push(waiting);
        }
    }

    /// Empties the file when nothing waits. A file that has grown large nevertheless is written anew.
    fn shorten_file(&mut self) {
        if self.waiting.is_empty() {
            if self.file.empty() {
                self.file.append(&encoded(&Line::Spool(self.spool)));
            }
        } else if self.file.len > MAX_FILE {
            let mut text = Vec::new();
            let mut spool = None;
            for waiting in &self.waiting {
                if spool.replace(waiting.spool) != Some(waiting.spool) {
                    text.extend(encoded(&Line::Spool(waiting.spool)));
                }
                text.extend(line(&waiting.event));
            }
            if spool != Some(self.spool) {
                text.extend(encoded(&Line::Spool(self.spool)));
            }
            self.file.replace(&text);
        }
    }
}

impl SpoolFile {
    /// Opens the file if it is time for an attempt. Returns the events in it when it was just opened.
    fn open_now(&mut self) -> Option<Vec<(u64, NewEvent)>> {
        let is_early = self.tried.is_some_and(|tried| tried.elapsed() < RETRY_TIME);
        if self.open.is_some() || is_early {
            return None;
        }
        self.tried = Some(Instant::now());
        match self.open_and_read() {
            Ok(left) => {
                self.problem = None;
                Some(left)
            }
            Err(error) => {
                self.problem = Some(format!("cannot open \"{}\": {error}", self.path.display()));
                None
            }
        }
    }

    fn open_and_read(&mut self) -> io::Result<Vec<(u64, NewEvent)>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR)?);
        // Nothing makes it larger than this; what is above is damage.
        let mut reader = BufReader::new((&file).take(MAX_FILE * 2));
        let (mut left, mut spool, mut text) = (Vec::new(), None, Vec::new());
        loop {
            text.clear();
            let len = reader.read_until(b'\n', &mut text)?;
            if len == 0 {
                break;
            }
            // A line may be cut, because its writer was killed or had no room. The others are whole.
            match serde_json::from_slice(&text) {
                Ok(Line::Spool(number)) => spool = Some(number),
                Ok(Line::Event(event)) => left.extend(spool.map(|spool| (spool, read(*event)))),
                Err(_) => {}
            }
        }
        self.len = file.metadata()?.len();
        self.open = Some(file);
        if text_is_open(self.open.as_ref(), self.len) {
            self.append(b"\n");
        }
        Ok(left)
    }

    /// Appends a line, whole or not at all.
    fn append(&mut self, line: &[u8]) {
        let Some(mut file) = self.open.as_ref() else { return };
        match file.write_all(line) {
            Ok(()) => {
                self.len += line.len() as u64;
                self.problem = None;
            }
            Err(error) => {
                // What was written of the line is taken back. If that fails too, the next program skips the line.
                drop(file.set_len(self.len));
                self.problem = Some(format!("cannot write \"{}\": {error}", self.path.display()));
            }
        }
    }

    /// Empties the file. Returns whether it is empty now.
    fn empty(&mut self) -> bool {
        match self.open.as_ref().map(|file| file.set_len(0)) {
            Some(Ok(())) => {
                self.len = 0;
                true
            }
            _ => false,
        }
    }

    /// Replaces the file in one step.
    fn replace(&mut self, text: &[u8]) {
        let new = self.path.with_extension("new");
        let replaced = std::fs::remove_file(&new).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let replaced = replaced.and_then(|()| {
            let mut file = File::from(rustix::fs::open(&new, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(text)?;
            std::fs::rename(&new, &self.path)?;
            Ok(file)
        });
        match replaced {
            Ok(file) => (self.open, self.len) = (Some(file), text.len() as u64),
            Err(error) => self.problem = Some(format!("cannot write \"{}\": {error}", new.display())),
        }
    }
}

/// Whether the last line of the file has no end.
fn text_is_open(file: Option<&File>, len: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    let read = file.map(|file| file.read_exact_at(&mut last, len.saturating_sub(1)));
    len > 0 && matches!(read, Some(Ok(()))) && last != *b"\n"
}

fn read((place, event, told): Entry) -> NewEvent {
    NewEvent { place, event, told: told.map(|(subject, state)| Told { subject, state }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> TenantName {
        "alice".parse().expect("a name")
    }

    fn text(text: &str) -> EventData {
        [("text".to_owned(), EventValue::text(text))].into()
    }

    fn kinds(events: &[NewEvent]) -> Vec<EventType> {
        events.iter().map(|new| new.event.kind).collect()
    }

    #[test]
    fn what_a_killed_program_has_noted_is_taken_over_once_and_in_order() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let first = Outbox::new(temp.path());
        first.note(EventType::SessionOpened, Some(alice()), Some(7), text("a\nb\u{1b}"));
        first.note(EventType::HostReady, None, None, EventData::new());
        let (spool, noted) = first.batch();
        // It is killed: nothing is dropped, and nothing was written.
        std::mem::forget(first);
        let second = Outbox::new(temp.path());
        second.note(EventType::SessionClosed, Some(alice()), None, EventData::new());
        let (left_spool, left) = second.batch();
        assert_eq!((left_spool, &left), (spool, &noted), "with the places that it had");
        second.is_written(left.len(), 2);
        let (own_spool, own) = second.batch();
        assert_eq!((kinds(&own), own_spool == spool), (vec![EventType::SessionClosed], false));
        second.is_written(own.len(), 3);
        assert!(!second.is_waiting());
        let third = Outbox::new(temp.path());
        assert!(!third.is_waiting(), "all of it is in the history");
    }

    #[test]
    fn a_line_that_is_cut_or_scribbled_over_loses_only_itself() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let first = Outbox::new(temp.path());
        for kind in [EventType::SessionOpened, EventType::SessionClosed, EventType::HostReady] {
            first.note(kind, None, None, text("x"));
        }
        drop(first);
        let path = temp.path().join(FILE);
        let whole = std::fs::read(&path).expect("reads");
        let mut lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 4, "the number of the spool, and three events");
        lines[2] = b"\xff{]\n";
        let cut = &lines[3][..20];
        lines[3] = cut;
        std::fs::write(&path, lines.concat()).expect("writes");
        let second = Outbox::new(temp.path());
        second.note(EventType::HostReserve, None, None, EventData::new());
        assert_eq!(kinds(&second.batch().1), [EventType::SessionOpened]);
        drop(second);
        let third = Outbox::new(temp.path());
        third.is_written(1, 1);
        assert_eq!(kinds(&third.batch().1), [EventType::HostReserve], "the cut line ends before it");
    }

    #[test]
    fn a_directory_that_comes_later_gets_what_was_noted_before() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("control");
        let outbox = Outbox::new(&dir);
        outbox.note(EventType::HostReady, None, None, EventData::new());
        assert!(outbox.problem().is_some_and(|problem| problem.contains("events.spool")));
        std::fs::create_dir(&dir).expect("makes");
        lock(&outbox.queue).file.tried = None;
        outbox.note(EventType::HostReserve, None, None, EventData::new());
        assert_eq!(outbox.problem(), None);
        drop(outbox);
        assert_eq!(kinds(&Outbox::new(&dir).batch().1), [EventType::HostReady, EventType::HostReserve]);
    }

    #[test]
    fn a_flood_finds_no_room_for_itself_and_leaves_room_for_others() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let outbox = Outbox::new(temp.path());
        let long = "x".repeat(EventValue::MAX_TEXT);
        for _ in 0..5000 {
            outbox.note(EventType::SessionRefused, Some(alice()), None, text(&long));
        }
        {
            let queue = lock(&outbox.queue);
            assert!(queue.bytes <= MAX_QUEUE / SHARE && queue.lost > 1000, "{} {}", queue.bytes, queue.lost);
        }
        outbox.note(EventType::HostReserve, None, None, EventData::new());
        let count = lock(&outbox.queue).waiting.len();
        assert!(
            lock(&outbox.queue)
                .waiting
                .back()
                .is_some_and(|waiting| waiting.event.event.kind == EventType::HostReserve)
        );
        let lost = lock(&outbox.queue).lost;
        outbox.is_written(count, 1);
        let (_, told) = outbox.batch();
        assert_eq!(kinds(&told), [EventType::EventsLost]);
        assert_eq!(told[0].event.data.get("count"), Some(&EventValue::from(lost)));
    }

    #[test]
    fn a_file_does_not_grow_while_events_keep_coming() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let outbox = Outbox::new(temp.path());
        let long = "x".repeat(EventValue::MAX_TEXT);
        for round in 0..40 {
            for _ in 0..1000 {
                outbox.note(EventType::SessionOpened, Some(alice()), None, text(&long));
            }
            // One event always waits.
            let count = lock(&outbox.queue).waiting.len() - 1;
            outbox.is_written(count, round);
        }
        let len = std::fs::metadata(temp.path().join(FILE)).expect("is there").len();
        assert!(len < MAX_FILE + (4 << 20), "{len}");
        let (spool, last) = outbox.batch();
        assert_eq!(last.len(), 1);
        drop(outbox);
        // The next program takes over what is in the file, and the history skips what it has.
        let next = Outbox::new(temp.path());
        assert!(lock(&next.queue).waiting.back().is_some_and(|one| one.spool == spool && one.event == last[0]));
    }

    #[test]
    fn a_state_is_told_once_until_it_changes_whoever_is_killed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let outbox = Outbox::new(temp.path());
        let near = |outbox: &Outbox| {
            outbox.observe(Some(&alice()), "limit:memory", Some("near"), |before| {
                assert_eq!(before, None);
                (EventType::LimitNear, EventData::new())
            });
        };
        near(&outbox);
        near(&outbox);
        assert_eq!(outbox.batch().1.len(), 1);
        std::mem::forget(outbox);
        let second = Outbox::new(temp.path());
        // The history knows of an older state. What waits is newer.
        let older = [((Some(alice()), "limit:memory".to_owned()), "reached".to_owned())].into();
        second.learn(older, 0);
        near(&second);
        assert_eq!(second.batch().1.len(), 1);
        second.observe(Some(&alice()), "limit:memory", None, |before| {
            assert_eq!(before, Some("near"));
            (EventType::LimitCleared, EventData::new())
        });
        assert_eq!(second.told(), ToldStates::new());
        second.note(EventType::TenantStarted, Some(alice()), None, EventData::new());
        assert_eq!(second.told_of(&alice(), JAIL).as_deref(), Some(RUNNING));
        second.note(EventType::TenantPurged, Some(alice()), None, EventData::new());
        assert_eq!(second.told_of(&alice(), JAIL), None);
    }

    #[test]
    fn a_spool_without_room_is_told_and_loses_nothing_while_the_program_lives() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let outbox = Outbox::new(temp.path());
        // Every write to it fails as on a full disk.
        lock(&outbox.queue).file.open = Some(File::options().append(true).open("/dev/full").expect("opens"));
        outbox.note(EventType::HostReady, None, None, EventData::new());
        let problem = outbox.problem().expect("is told");
        assert!(problem.contains("No space left"), "{problem}");
        assert_eq!(outbox.batch().1.len(), 1);
    }
}
