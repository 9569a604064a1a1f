//! A daemon for tests. It answers with the replies that the test gives it.

use crate::Daemon;
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, ControlRequest, Incoming, transport};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Starts a daemon below `runtime_dir`. Each connection gets one request answered with the next list of `answers`. The thread
/// ends after the last list and returns the requests.
pub fn fake(runtime_dir: &Path, answers: Vec<Vec<ControlReply>>) -> (Daemon, JoinHandle<Vec<ControlRequest>>) {
    let daemon = Daemon::of(runtime_dir);
    std::fs::create_dir_all(daemon.path.parent().expect("has a parent")).expect("directory");
    let listener = UnixListener::bind(&daemon.path).expect("binds");
    let served = std::thread::spawn(move || answers.into_iter().map(|answer| serve(&listener, answer)).collect());
    (daemon, served)
}

fn serve(listener: &UnixListener, answer: Vec<ControlReply>) -> ControlRequest {
    let (stream, _) = listener.accept().expect("accepts");
    let soon = Instant::now() + Duration::from_secs(10);
    let (request, _) = transport::receive(&stream, &mut Incoming::new(MAX_REQUEST, 4), soon).expect("a request");
    for reply in answer {
        transport::send(&stream, &reply, MAX_REPLY, &[]).expect("sends");
    }
    request
}
