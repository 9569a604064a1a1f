//! For tests: a daemon that answers what it is told to.

use crate::Daemon;
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::{ControlReply, ControlRequest, Decoder, encode};
use bailiwick_sys::socket;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

/// A daemon that answers each request in turn with frames of these replies, and gives back what it was asked.
pub fn fake(runtime_dir: &Path, answers: Vec<Vec<ControlReply>>) -> (Daemon, JoinHandle<Vec<ControlRequest>>) {
    let daemon = Daemon::of(runtime_dir);
    std::fs::create_dir_all(daemon.path.parent().expect("has a parent")).expect("directory");
    let listener = UnixListener::bind(&daemon.path).expect("binds");
    let served = std::thread::spawn(move || answers.into_iter().map(|answer| serve(&listener, answer)).collect());
    (daemon, served)
}

fn serve(listener: &UnixListener, answer: Vec<ControlReply>) -> ControlRequest {
    let (mut stream, _) = listener.accept().expect("accepts");
    let mut decoder = Decoder::new(MAX_REQUEST);
    let mut buffer = [0; 4096];
    let request = loop {
        let (len, _) = socket::receive(&stream, &mut buffer, 4).expect("receives");
        decoder.push(&buffer[..len]);
        if let Some(request) = decoder.next().expect("valid") {
            break request;
        }
    };
    for reply in answer {
        stream.write_all(&encode(&reply, MAX_REPLY).expect("small")).expect("writes");
    }
    request
}
