//! A session against an init that the test plays, with files, pipes and terminals as local streams.

use super::attend::{EndReason, ForcedEnd, LATE_TIME};
use super::*;
use bailiwick_proto::frame::MAX_EVENT;
use bailiwick_proto::{SessionEvent, SessionSignal, transport};
use bailiwick_sys::signal::{SIGCONT, SIGKILL};
use bailiwick_sys::socket;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Local streams that are files, so that pumps are needed. Also returns the files of standard output and error.
fn files(input: &[u8]) -> (LocalStreams, File, File) {
    let mut stdin = tempfile::tempfile().expect("file");
    stdin.write_all(input).expect("writes");
    stdin.rewind().expect("seeks");
    let (stdout, stderr) = (tempfile::tempfile().expect("file"), tempfile::tempfile().expect("file"));
    let dup = |file: &File| file.try_clone().expect("dup").into();
    (LocalStreams { stdin: stdin.into(), stdout: dup(&stdout), stderr: dup(&stderr) }, stdout, stderr)
}

fn content(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().expect("seeks");
    file.read_to_string(&mut text).expect("text");
    text
}

fn attend(local: &LocalStreams, kind: StreamKind, pumps: Pumps, channel: OwnedFd) -> Result<u8, SessionError> {
    let command = "prog".to_owned();
    Session::new(channel, local, kind, StreamOwner::Tenant, pumps, command)
        .attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"))
}

fn send_event(init: &OwnedFd, event: SessionEvent, fds: &[&OwnedFd]) {
    let message = serde_json::to_vec(&event).expect("serialises");
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    socket::send(init, &message, &fds).expect("sends");
}

/// Runs a session without streams whose init sends these messages and closes its end.
fn run_with_events(kind: StreamKind, events: &[&[u8]]) -> Result<u8, SessionError> {
    let (ours, init) = socket::channel().expect("pair");
    for message in events {
        socket::send(&init, message, &[]).expect("sends");
    }
    drop(init);
    attend(&files(b"").0, kind, Pumps::default(), ours)
}

fn status(result: Result<u8, SessionError>) -> u8 {
    result.unwrap_or_else(|error| Failure::from(error).status.code())
}

#[test]
fn files_are_pumped_through_pipes() {
    let (local, stdout, stderr) = files(b"some input");
    let (pumps, remote) = connect_streams(&local, StreamOwner::Tenant).expect("pipes");
    for fd in &remote {
        assert!(stream::pipe_direction(fd).expect("stat").is_some(), "only pipes cross");
    }
    let (ours, init) = socket::channel().expect("pair");
    let jail = std::thread::spawn(move || {
        let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
        send_event(&init, SessionEvent::Started, &[]);
        let mut input = String::new();
        (&stdin).read_to_string(&mut input).expect("the end of standard input comes");
        write!(&stdout, "got {input}").expect("writes");
        write!(&stderr, "and more").expect("writes");
        send_event(&init, SessionEvent::Exited(7), &[]);
        drop(init);
        // A background process of a tenant's command may still write after the command's end.
        std::thread::sleep(Duration::from_millis(50));
        write!(&stdout, ", late").expect("writes");
    });
    assert_eq!(attend(&local, StreamKind::Pipes, pumps, ours).expect("ends"), 7);
    jail.join().expect("jail");
    assert_eq!((content(stdout), content(stderr)), ("got some input, late".to_owned(), "and more".to_owned()));
}

#[test]
fn a_tenants_pipe_crosses_as_it_is_when_it_is_the_right_end() {
    let (reader, writer) = io::pipe().expect("pipe");
    let dup = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("dup");
    let local = LocalStreams { stdin: dup(&reader), stdout: dup(&writer), stderr: dup(&writer) };
    let (pumps, remote) = connect_streams(&local, StreamOwner::Tenant).expect("crosses");
    assert!(pumps.inward.is_none() && pumps.outward.is_empty());
    assert!(remote.iter().all(|fd| stream::is_same(fd, &reader).expect("stat")));

    let local = LocalStreams { stdin: dup(&writer), stdout: dup(&reader), stderr: dup(&writer) };
    let (pumps, remote) = connect_streams(&local, StreamOwner::Tenant).expect("crosses");
    assert!(pumps.inward.is_some());
    assert!(!stream::is_same(&remote[0], &reader).expect("stat"), "the jail could write to its own input");
}

#[test]
fn a_pipe_of_an_operator_never_crosses() {
    let (reader, writer) = io::pipe().expect("pipe");
    let dup = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("dup");
    let local = LocalStreams { stdin: dup(&reader), stdout: dup(&writer), stderr: dup(&writer) };
    let (pumps, remote) = connect_streams(&local, StreamOwner::Operator).expect("crosses");
    assert!(pumps.inward.is_some() && pumps.outward.len() == 1);
    assert!(remote.iter().all(|fd| !stream::is_same(fd, &reader).expect("stat")));
}

#[test]
fn a_session_without_readers_is_hung_up_and_then_killed() {
    let (mut local, _, _) = files(b"");
    let ((out_reader, out), (err_reader, err)) = (io::pipe().expect("pipe"), io::pipe().expect("pipe"));
    (local.stdout, local.stderr) = (out.into(), err.into());
    let (pumps, _remote) = connect_streams(&local, StreamOwner::Tenant).expect("crosses");
    let (ours, init) = socket::channel().expect("pair");
    send_event(&init, SessionEvent::Started, &[]);
    drop((out_reader, err_reader));
    // Init sends nothing more, and the command ignores every signal.
    let result = attend(&local, StreamKind::Pipes, pumps, ours);
    assert!(matches!(result, Err(SessionError::Abandoned)), "{result:?}");
    let mut received = Vec::new();
    while let Ok((signal, _)) = transport::receive_datagram::<SessionSignal>(&init, 0) {
        received.push(signal);
    }
    assert_eq!(received, [SIGHUP, SIGCONT, SIGKILL].map(SessionSignal::Signal));
}

#[test]
fn a_session_with_one_reader_of_two_goes_on() {
    let (mut local, _, stderr) = files(b"");
    let (reader, out) = io::pipe().expect("pipe");
    local.stdout = out.into();
    let (pumps, remote) = connect_streams(&local, StreamOwner::Tenant).expect("crosses");
    let (ours, init) = socket::channel().expect("pair");
    drop((reader, stderr, remote));
    send_event(&init, SessionEvent::Started, &[]);
    send_event(&init, SessionEvent::Exited(4), &[]);
    assert_eq!(attend(&local, StreamKind::Pipes, pumps, ours).expect("ends"), 4);
}

#[test]
fn background_processes_of_an_operators_command_hold_nobody() {
    let (local, _, _) = files(b"");
    let (pumps, remote) = connect_streams(&local, StreamOwner::Operator).expect("pipes");
    let (ours, init) = socket::channel().expect("pair");
    send_event(&init, SessionEvent::Started, &[]);
    send_event(&init, SessionEvent::Exited(6), &[]);
    let mut session = Session::new(ours, &local, StreamKind::Pipes, StreamOwner::Operator, pumps, String::new());
    let ended = session.attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"));
    assert_eq!(ended.expect("ends though its output is still open"), 6);
    drop(remote);
}

#[test]
fn a_slow_reader_loses_nothing_though_others_write_on() {
    const MANY: usize = 180 << 10;
    let (mut local, _, stderr) = files(b"");
    let (mut reader, out) = io::pipe().expect("pipe");
    local.stdout = out.into();
    drop(stderr);
    let (pumps, remote) = connect_streams(&local, StreamOwner::Operator).expect("pipes");
    let (ours, init) = socket::channel().expect("pair");
    send_event(&init, SessionEvent::Started, &[]);
    let attended = std::thread::spawn(move || {
        let mut session = Session::new(ours, &local, StreamKind::Pipes, StreamOwner::Operator, pumps, String::new());
        session.attend(&Signals::block(&[SIGWINCH]).expect("a signal's number"))
    });
    let [_, mut stdout, _] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
    // As much as fits into the reader's pipe, the buffer and the command's pipe.
    stdout.write_all(&[b'a'; MANY]).expect("writes");
    send_event(&init, SessionEvent::Exited(6), &[]);
    // Nothing shows from outside that the session waits for the reader alone.
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
    assert!(got.len() < MANY + (64 << 10), "later output is not waited for, but {} bytes came", got.len());
}

#[test]
fn two_streams_to_one_file_keep_their_order() {
    let (mut local, stdout, _) = files(b"");
    local.stderr = local.stdout.try_clone().expect("dup");
    let (pumps, remote) = connect_streams(&local, StreamOwner::Tenant).expect("pipes");
    assert_eq!(pumps.outward.len(), 1);
    let (ours, init) = socket::channel().expect("pair");
    let [_, out, err] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
    for (stream, text) in [(&out, "1"), (&err, "2"), (&out, "3"), (&err, "4")] {
        write!({ stream }, "{text}").expect("writes");
    }
    drop((out, err));
    send_event(&init, SessionEvent::Exited(0), &[]);
    assert_eq!(attend(&local, StreamKind::Pipes, pumps, ours).expect("ends"), 0);
    assert_eq!(content(stdout), "1234");
}

#[test]
fn output_that_cannot_be_written_is_bailiwicks_failure() {
    let (mut local, _, _) = files(b"");
    local.stdout = File::options().write(true).open("/dev/full").expect("opens").into();
    let (pumps, remote) = connect_streams(&local, StreamOwner::Tenant).expect("pipes");
    let (ours, init) = socket::channel().expect("pair");
    send_event(&init, SessionEvent::Started, &[]);
    let [_, mut out, _] = <[OwnedFd; 3]>::try_from(remote).expect("three").map(File::from);
    out.write_all(b"x").expect("fits the pipe");
    drop(out);
    send_event(&init, SessionEvent::Exited(0), &[]);
    assert_eq!(status(attend(&local, StreamKind::Pipes, pumps, ours)), 125);
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
        assert_eq!(status(run_with_events(StreamKind::Pipes, &[started, event])), *expected, "{text}");
        assert_eq!(status(run_with_events(StreamKind::Pipes, &[event])), *expected, "{text} before the start");
    }
}

#[test]
fn invalid_messages_of_init_are_bailiwicks_failure() {
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
    for events in cases {
        for kind in [StreamKind::Pipes, StreamKind::Terminal] {
            assert_eq!(status(run_with_events(kind, &[events])), 125, "{}", events.escape_ascii());
        }
    }
    assert_eq!(status(run_with_events(StreamKind::Pipes, &[br#"{"exec-failed":{"errno":-2147483648}}"#])), 126);
}

#[test]
fn a_jail_that_ends_ends_the_session() {
    for events in [&[][..], &[&br#""started""#[..]]] {
        let error = run_with_events(StreamKind::Pipes, events).expect_err("no status");
        assert!(matches!(error, SessionError::JailEnded));
        assert_eq!(Failure::from(error), Failure::of(ExitStatus::ExecFailed, "the jail ended"));
    }
}

#[test]
fn only_the_master_side_of_a_terminal_is_accepted() {
    let (reader, writer) = io::pipe().expect("pipe");
    let (socket, _peer) = socket::channel().expect("pair");
    let null = File::options().read(true).write(true).open("/dev/null").expect("opens");
    let file = tempfile::tempfile().expect("file");
    let folder = File::open("/dev/pts").expect("opens");
    let impostors: [OwnedFd; 6] = [reader.into(), writer.into(), socket, null.into(), file.into(), folder.into()];
    for fd in &impostors {
        let (ours, init) = socket::channel().expect("pair");
        send_event(&init, SessionEvent::Started, &[fd]);
        let result = attend(&files(b"secret").0, StreamKind::Terminal, Pumps::default(), ours);
        assert!(matches!(result, Err(SessionError::NoTerminal)), "{result:?}");
    }
    assert!(matches!(run_with_events(StreamKind::Terminal, &[br#""started""#]), Err(SessionError::NoTerminal)));
    let (ours, init) = socket::channel().expect("pair");
    send_event(&init, SessionEvent::Started, &[&impostors[0], &impostors[1]]);
    assert_eq!(status(attend(&files(b"").0, StreamKind::Terminal, Pumps::default(), ours)), 125);
}

fn master() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/pts/ptmx").expect("pseudo-terminal").into()
}

#[test]
fn a_terminal_is_relayed_until_the_command_ends() {
    // Nobody has the other side of this terminal open. So the echo of the input is the output.
    let (local, stdout, _) = files(b"typed");
    let (ours, init) = socket::channel().expect("pair");
    let seen = stdout.try_clone().expect("dup");
    let jail = std::thread::spawn(move || {
        send_event(&init, SessionEvent::Started, &[&master()]);
        while seen.metadata().expect("stat").len() < 5 {
            std::thread::sleep(Duration::from_millis(5));
        }
        send_event(&init, SessionEvent::Exited(3), &[]);
    });
    assert_eq!(attend(&local, StreamKind::Terminal, Pumps::default(), ours).expect("ends"), 3);
    jail.join().expect("jail");
    assert!(content(stdout).starts_with("typed"));
}

#[test]
fn a_terminal_that_nobody_asked_for_is_ignored() {
    let (ours, init) = socket::channel().expect("pair");
    send_event(&init, SessionEvent::Started, &[&master()]);
    send_event(&init, SessionEvent::Exited(0), &[]);
    let (local, stdout, _) = files(b"typed");
    assert_eq!(attend(&local, StreamKind::Pipes, Pumps::default(), ours).expect("ends"), 0);
    assert_eq!(content(stdout), "");
}

#[test]
fn signals_go_to_the_command_once_it_runs() {
    let (local, _, _) = files(b"");
    let (channel, init) = socket::channel().expect("pair");
    let command = String::new();
    let pumps = Pumps::default();
    let mut session = Session::new(channel, &local, StreamKind::Pipes, StreamOwner::Tenant, pumps, command);
    assert_eq!(session.handle_signal(SIGINT), None, "the command may start at any moment");
    assert_eq!(session.handle_signal(SIGINT), Some(130), "the second signal before the start");
    session.started = true;
    assert_eq!(session.handle_signal(SIGINT), None);
    let (signal, _) = transport::receive_datagram::<SessionSignal>(&init, 0).expect("a signal");
    assert_eq!(signal, SessionSignal::Signal(SIGINT));
    session.kind = StreamKind::Terminal;
    assert_eq!(session.handle_signal(SIGHUP), Some(129), "the terminal of the operator has gone");
    assert!(session.forced_end.is_none());
    assert_eq!(session.handle_signal(SIGTERM), None);
    assert!(matches!(session.forced_end, Some(ForcedEnd { reason: EndReason::Signal(SIGTERM), .. })), "the second");
}

#[test]
fn a_full_channel_does_not_hold_the_operator() {
    let (local, _, _) = files(b"");
    let (channel, _init) = socket::channel().expect("pair");
    stream::never_block(&channel).expect("fionbio");
    let (pumps, command) = (Pumps::default(), String::new());
    let mut session = Session::new(channel, &local, StreamKind::Pipes, StreamOwner::Tenant, pumps, command);
    session.started = true;
    for _ in 0..10_000 {
        session.send(SessionSignal::Signal(SIGINT));
    }
}

#[test]
fn a_request_holds_the_whole_spec() {
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
    assert_eq!(exec.env, env(), "an explicit TERM replaces the operator's own");
    assert_eq!(exec.cwd, Some(Bytes::new("/srv").expect("no NUL")));
}
