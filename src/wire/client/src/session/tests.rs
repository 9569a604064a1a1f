use super::attend::{Ending, LATE_TIME, Reason};
use super::*;
use bailiwick_proto::frame::MAX_EVENT;
use bailiwick_proto::{SessionEvent, SessionSignal, transport};
use bailiwick_sys::signal::{SIGCONT, SIGKILL};
use bailiwick_sys::socket;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Files where a terminal would be: what pumps are for.
fn files(input: &[u8]) -> (Local, File, File) {
    let mut stdin = tempfile::tempfile().expect("file");
    stdin.write_all(input).expect("writes");
    stdin.rewind().expect("seeks");
    let (stdout, stderr) = (tempfile::tempfile().expect("file"), tempfile::tempfile().expect("file"));
    let dup = |file: &File| file.try_clone().expect("dup").into();
    (Local { stdin: stdin.into(), stdout: dup(&stdout), stderr: dup(&stderr) }, stdout, stderr)
}

fn content(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().expect("seeks");
    file.read_to_string(&mut text).expect("text");
    text
}

fn attend(local: &Local, kind: StreamKind, streams: Streams, channel: OwnedFd) -> Result<u8, SessionError> {
    let command = "prog".to_owned();
    Session::new(channel, local, kind, Whose::Tenants, streams, command)
        .attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"))
}

fn tell(init: &OwnedFd, event: SessionEvent, fds: &[&OwnedFd]) {
    let message = serde_json::to_vec(&event).expect("serialises");
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    socket::send(init, &message, &fds).expect("sends");
}

/// A session without streams whose init says these things and goes.
fn told(kind: StreamKind, says: &[&[u8]]) -> Result<u8, SessionError> {
    let (ours, init) = socket::channel().expect("pair");
    for message in says {
        socket::send(&init, message, &[]).expect("sends");
    }
    drop(init);
    attend(&files(b"").0, kind, Streams::default(), ours)
}

fn status(result: Result<u8, SessionError>) -> u8 {
    result.unwrap_or_else(|error| Failure::from(error).status.code())
}

#[test]
fn files_are_pumped_through_pipes() {
    let (local, stdout, stderr) = files(b"some input");
    let (streams, remote) = cross(&local, Whose::Tenants).expect("pipes");
    for fd in &remote {
        assert!(stream::pipe_direction(fd).expect("stat").is_some(), "only pipes cross");
    }
    let (ours, init) = socket::channel().expect("pair");
    let jail = std::thread::spawn(move || {
        let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
        tell(&init, SessionEvent::Started, &[]);
        let mut input = String::new();
        (&stdin).read_to_string(&mut input).expect("the end of standard input comes");
        write!(&stdout, "got {input}").expect("writes");
        write!(&stderr, "and more").expect("writes");
        tell(&init, SessionEvent::Exited(7), &[]);
        drop(init);
        // What is written after the end of the command, by what it left behind, comes too.
        std::thread::sleep(Duration::from_millis(50));
        write!(&stdout, ", late").expect("writes");
    });
    assert_eq!(attend(&local, StreamKind::Pipes, streams, ours).expect("ends"), 7);
    jail.join().expect("jail");
    assert_eq!((content(stdout), content(stderr)), ("got some input, late".to_owned(), "and more".to_owned()));
}

#[test]
fn pipes_cross_as_they_are_but_only_the_right_end() {
    let (reader, writer) = io::pipe().expect("pipe");
    let dup = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("dup");
    let local = Local { stdin: dup(&reader), stdout: dup(&writer), stderr: dup(&writer) };
    let (streams, remote) = cross(&local, Whose::Tenants).expect("crosses");
    assert!(streams.inward.is_none() && streams.outward.is_empty());
    assert!(remote.iter().all(|fd| stream::is_same(fd, &reader).expect("stat")));

    let local = Local { stdin: dup(&writer), stdout: dup(&reader), stderr: dup(&writer) };
    let (streams, remote) = cross(&local, Whose::Tenants).expect("crosses");
    assert!(streams.inward.is_some());
    assert!(!stream::is_same(&remote[0], &reader).expect("stat"), "the jail could write to its own input");
}

#[test]
fn no_pipe_of_an_operators_crosses() {
    let (reader, writer) = io::pipe().expect("pipe");
    let dup = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("dup");
    let local = Local { stdin: dup(&reader), stdout: dup(&writer), stderr: dup(&writer) };
    let (streams, remote) = cross(&local, Whose::Operators).expect("crosses");
    assert!(streams.inward.is_some() && streams.outward.len() == 1);
    assert!(remote.iter().all(|fd| !stream::is_same(fd, &reader).expect("stat")));
}

#[test]
fn a_session_whose_readers_have_gone_is_hung_up_and_then_killed() {
    let (mut local, _, _) = files(b"");
    let ((out_reader, out), (err_reader, err)) = (io::pipe().expect("pipe"), io::pipe().expect("pipe"));
    (local.stdout, local.stderr) = (out.into(), err.into());
    let (streams, _remote) = cross(&local, Whose::Tenants).expect("crosses");
    let (ours, init) = socket::channel().expect("pair");
    tell(&init, SessionEvent::Started, &[]);
    drop((out_reader, err_reader));
    // Nothing is ever said, and the command ends by nothing.
    let result = attend(&local, StreamKind::Pipes, streams, ours);
    assert!(matches!(result, Err(SessionError::Abandoned)), "{result:?}");
    let mut heard = Vec::new();
    while let Ok((signal, _)) = transport::receive_datagram::<SessionSignal>(&init, 0) {
        heard.push(signal);
    }
    assert_eq!(heard, [SIGHUP, SIGCONT, SIGKILL].map(SessionSignal::Signal));
}

#[test]
fn who_reads_one_of_two_streams_is_still_there() {
    let (mut local, _, stderr) = files(b"");
    let (reader, out) = io::pipe().expect("pipe");
    local.stdout = out.into();
    let (streams, remote) = cross(&local, Whose::Tenants).expect("crosses");
    let (ours, init) = socket::channel().expect("pair");
    drop((reader, stderr, remote));
    tell(&init, SessionEvent::Started, &[]);
    tell(&init, SessionEvent::Exited(4), &[]);
    assert_eq!(attend(&local, StreamKind::Pipes, streams, ours).expect("ends"), 4);
}

#[test]
fn what_an_operators_command_leaves_behind_holds_nobody() {
    let (local, _, _) = files(b"");
    let (streams, remote) = cross(&local, Whose::Operators).expect("pipes");
    let (ours, init) = socket::channel().expect("pair");
    tell(&init, SessionEvent::Started, &[]);
    tell(&init, SessionEvent::Exited(6), &[]);
    let mut session = Session::new(ours, &local, StreamKind::Pipes, Whose::Operators, streams, String::new());
    let ended = session.attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"));
    assert_eq!(ended.expect("ends though its output is still open"), 6);
    drop(remote);
}

#[test]
fn who_reads_slowly_loses_nothing_though_others_write_on() {
    const MANY: usize = 180 << 10;
    let (mut local, _, stderr) = files(b"");
    let (mut reader, out) = io::pipe().expect("pipe");
    local.stdout = out.into();
    drop(stderr);
    let (streams, remote) = cross(&local, Whose::Operators).expect("pipes");
    let (ours, init) = socket::channel().expect("pair");
    tell(&init, SessionEvent::Started, &[]);
    let attended = std::thread::spawn(move || {
        let mut session = Session::new(ours, &local, StreamKind::Pipes, Whose::Operators, streams, String::new());
        session.attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"))
    });
    let [_, mut stdout, _] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
    // As much as fits: into the reader's pipe, the buffer, and the command's pipe.
    stdout.write_all(&[b'a'; MANY]).expect("writes");
    tell(&init, SessionEvent::Exited(6), &[]);
    // Nothing tells from outside that it waits for the reader alone.
    let asleep = Instant::now() + 2 * LATE_TIME;
    while Instant::now() < asleep && !attended.is_finished() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let background = std::thread::spawn(move || while stdout.write_all(b"b").is_ok() {});
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = reader.read(&mut buffer) {
        got.extend_from_slice(&buffer[..len]);
    }
    assert_eq!(attended.join().expect("no panic").expect("ends"), 6);
    background.join().expect("no panic");
    assert!(got.starts_with(&[b'a'; MANY]), "{} of {MANY} bytes", got.len());
    assert!(got.len() < MANY + (64 << 10), "what is written on afterwards is not waited for: {}", got.len());
}

#[test]
fn two_streams_to_one_file_keep_their_order() {
    let (mut local, stdout, _) = files(b"");
    local.stderr = local.stdout.try_clone().expect("dup");
    let (streams, remote) = cross(&local, Whose::Tenants).expect("pipes");
    assert_eq!(streams.outward.len(), 1);
    let (ours, init) = socket::channel().expect("pair");
    let [_, out, err] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
    for (stream, text) in [(&out, "1"), (&err, "2"), (&out, "3"), (&err, "4")] {
        write!({ stream }, "{text}").expect("writes");
    }
    drop((out, err));
    tell(&init, SessionEvent::Exited(0), &[]);
    assert_eq!(attend(&local, StreamKind::Pipes, streams, ours).expect("ends"), 0);
    assert_eq!(content(stdout), "1234");
}

#[test]
fn output_that_cannot_be_written_is_bailiwicks_failure() {
    let (mut local, _, _) = files(b"");
    local.stdout = File::options().write(true).open("/dev/full").expect("opens").into();
    let (streams, remote) = cross(&local, Whose::Tenants).expect("pipes");
    let (ours, init) = socket::channel().expect("pair");
    tell(&init, SessionEvent::Started, &[]);
    let [_, mut out, _] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
    out.write_all(b"x").expect("fits the pipe");
    drop(out);
    tell(&init, SessionEvent::Exited(0), &[]);
    assert_eq!(status(attend(&local, StreamKind::Pipes, streams, ours)), 125);
}

#[test]
fn the_status_says_how_the_command_ended() {
    let started = br#""started""#;
    let cases: &[(&[u8], u8)] = &[
        (br#"{"exited":0}"#, 0),
        (br#"{"exited":255}"#, 255),
        (br#"{"killed":9}"#, 137),
        (br#"{"killed":64}"#, 192),
        (br#"{"exec-failed":{"errno":2}}"#, 127),
        (br#"{"exec-failed":{"errno":13}}"#, 126),
        (br#"{"setup-failed":{"errno":24}}"#, 125),
    ];
    for (event, expected) in cases {
        let text = event.escape_ascii();
        assert_eq!(status(told(StreamKind::Pipes, &[started, event])), *expected, "{text}");
        assert_eq!(status(told(StreamKind::Pipes, &[event])), *expected, "{text} before the start");
    }
}

#[test]
fn nothing_that_init_says_is_trusted() {
    let long = [b' '; MAX_EVENT + 1];
    let cases: &[&[u8]] = &[
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        &long,
        br#"{"exited":256}"#,
        br#"{"exited":-1}"#,
        br#"{"killed":0}"#,
        br#"{"killed":65}"#,
        br#"{"killed":255}"#,
        br#"{"exec-failed":{"errno":99999999999}}"#,
        br#"{"exec-failed":{"errno":2,"more":"x"}}"#,
        br#"{"signal":9}"#,
    ];
    for says in cases {
        for kind in [StreamKind::Pipes, StreamKind::Terminal] {
            assert_eq!(status(told(kind, &[says])), 125, "{}", says.escape_ascii());
        }
    }
    assert_eq!(status(told(StreamKind::Pipes, &[br#"{"exec-failed":{"errno":-2147483648}}"#])), 126);
}

#[test]
fn a_jail_that_ends_takes_the_session_with_it() {
    for says in [&[][..], &[&br#""started""#[..]]] {
        let error = told(StreamKind::Pipes, says).expect_err("no status");
        assert!(matches!(error, SessionError::JailEnded));
        assert_eq!(Failure::from(error), Failure::of(ExitStatus::ExecFailed, "the jail ended"));
    }
}

#[test]
fn only_a_terminal_is_taken_for_one() {
    let (reader, writer) = io::pipe().expect("pipe");
    let (socket, _peer) = socket::channel().expect("pair");
    let null = File::options().read(true).write(true).open("/dev/null").expect("opens");
    let file = tempfile::tempfile().expect("file");
    let folder = File::open("/dev/pts").expect("opens");
    let impostors: [OwnedFd; 6] = [reader.into(), writer.into(), socket, null.into(), file.into(), folder.into()];
    for fd in &impostors {
        let (ours, init) = socket::channel().expect("pair");
        tell(&init, SessionEvent::Started, &[fd]);
        let result = attend(&files(b"secret").0, StreamKind::Terminal, Streams::default(), ours);
        assert!(matches!(result, Err(SessionError::NoTerminal)), "{result:?}");
    }
    assert!(matches!(told(StreamKind::Terminal, &[br#""started""#]), Err(SessionError::NoTerminal)));
    let (ours, init) = socket::channel().expect("pair");
    tell(&init, SessionEvent::Started, &[&impostors[0], &impostors[1]]);
    assert_eq!(status(attend(&files(b"").0, StreamKind::Terminal, Streams::default(), ours)), 125);
}

fn master() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/pts/ptmx").expect("pseudo-terminal").into()
}

#[test]
fn a_terminal_is_relayed_and_not_waited_for() {
    // Nobody has the other side of this terminal open: what is typed comes back as its echo.
    let (local, stdout, _) = files(b"typed");
    let (ours, init) = socket::channel().expect("pair");
    let seen = stdout.try_clone().expect("dup");
    let jail = std::thread::spawn(move || {
        tell(&init, SessionEvent::Started, &[&master()]);
        while seen.metadata().expect("stat").len() < 5 {
            std::thread::sleep(Duration::from_millis(5));
        }
        tell(&init, SessionEvent::Exited(3), &[]);
    });
    assert_eq!(attend(&local, StreamKind::Terminal, Streams::default(), ours).expect("ends"), 3);
    jail.join().expect("jail");
    assert!(content(stdout).starts_with("typed"));
}

#[test]
fn without_a_terminal_none_is_taken() {
    let (ours, init) = socket::channel().expect("pair");
    tell(&init, SessionEvent::Started, &[&master()]);
    tell(&init, SessionEvent::Exited(0), &[]);
    let (local, stdout, _) = files(b"typed");
    assert_eq!(attend(&local, StreamKind::Pipes, Streams::default(), ours).expect("ends"), 0);
    assert_eq!(content(stdout), "");
}

#[test]
fn signals_are_the_commands_once_it_runs() {
    let (local, _, _) = files(b"");
    let (channel, init) = socket::channel().expect("pair");
    let command = String::new();
    let streams = Streams::default();
    let mut session = Session::new(channel, &local, StreamKind::Pipes, Whose::Tenants, streams, command);
    assert_eq!(session.interrupt(SIGINT), None, "nothing runs yet, but may at any moment");
    assert_eq!(session.interrupt(SIGINT), Some(130), "nothing runs, and the operator insists");
    session.started = true;
    assert_eq!(session.interrupt(SIGINT), None);
    let (signal, _) = transport::receive_datagram::<SessionSignal>(&init, 0).expect("told");
    assert_eq!(signal, SessionSignal::Signal(SIGINT));
    session.kind = StreamKind::Terminal;
    assert_eq!(session.interrupt(SIGHUP), Some(129), "the operator's terminal has gone");
    assert!(session.ending.is_none());
    assert_eq!(session.interrupt(SIGTERM), None);
    assert!(matches!(session.ending, Some(Ending { reason: Reason::Signal(SIGTERM), .. })), "the second");
}

#[test]
fn a_jail_that_does_not_listen_does_not_hold_the_operator() {
    let (local, _, _) = files(b"");
    let (channel, _init) = socket::channel().expect("pair");
    stream::never_block(&channel).expect("fionbio");
    let (streams, command) = (Streams::default(), String::new());
    let mut session = Session::new(channel, &local, StreamKind::Pipes, Whose::Tenants, streams, command);
    session.started = true;
    for _ in 0..10_000 {
        session.say(SessionSignal::Signal(SIGINT));
    }
}

#[test]
fn a_request_has_what_was_asked_for() {
    let env = || vec![(Bytes::new("TERM").expect("no NUL"), Bytes::new("dumb").expect("no NUL"))];
    let caller = Caller::Operator {
        tenant: "alice".parse().expect("valid"),
        user: Some("33".to_owned()),
        cwd: Some("/srv".into()),
        argv: vec!["ls".into(), "-l".into()],
    };
    let window = WindowSize { rows: 5, columns: 9 };
    let asked =
        request(SessionSpec { caller, env: env(), streams: StreamKind::Terminal }, Some(window)).expect("valid");
    let ControlRequest::Exec(exec) = asked else { panic!("another request") };
    assert_eq!((exec.user.as_deref(), exec.terminal), (Some("33"), Some(window)));
    assert_eq!(exec.argv.iter().map(Bytes::as_bytes).collect::<Vec<_>>(), [b"ls", &b"-l"[..]]);
    assert_eq!(exec.env, env(), "what is given beats the operator's own TERM");
    assert_eq!(exec.cwd, Some(Bytes::new("/srv").expect("no NUL")));
}
