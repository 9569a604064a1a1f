//! Hostile clients: whatever they send, and however slowly, others get their answer.

use crate::exporter::{Answer, Exporter, request};
use crate::host;
use std::io::{Read, Write};
use std::net::Shutdown;

/// The most connections of one socket at a time.
const MOST: usize = 64;

#[test]
fn what_is_no_request_for_the_metrics_is_refused() {
    let host = host("core");
    let exporter = Exporter::start(&host);
    let status = |head: &str| exporter.say(head.as_bytes()).map(|answer| answer.status());
    let with = |line: &str| format!("{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    for (line, wanted) in [
        ("GET /metrics", 200),
        ("GET /metrics?collect=all", 200),
        ("HEAD /metrics", 200),
        ("POST /metrics", 405),
        ("DELETE /metrics", 405),
        ("GET /", 404),
        ("GET /metrics/", 404),
        ("GET /../etc/passwd", 404),
        ("GET http://localhost/metrics", 200),
    ] {
        assert_eq!(status(&with(line)).expect(line), wanted, "{line}");
    }
    let head = exporter.say(with("HEAD /metrics").as_bytes()).expect("an answer");
    assert!(head.body.is_empty() && head.head.contains("content-length: "), "{head:?}");
    // Too long, too many lines, no HTTP at all: an error or the end of the connection, at once.
    let long = request(&format!("x: {}\r\n", "a".repeat(100 << 10)));
    let many = request(&(0..100).map(|number| format!("x{number}: 1\r\n")).collect::<String>());
    let odd = [
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fffd}\x03\x03\r\n\r\n",
        "GET\r\n\r\n",
        "GET /metrics\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ];
    for bytes in [&long[..], &many].into_iter().chain(odd) {
        match status(bytes) {
            Ok(status) => assert!((400..500).contains(&status), "{status}: {:.40}", bytes),
            Err(error) => assert!(
                !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
                "{error}: {:.40}",
                bytes
            ),
        }
    }
    assert_eq!(status(&with("GET /metrics")).expect("still serves"), 200);
}

#[test]
fn slow_clients_lose_their_places_and_the_other_socket_is_not_theirs() {
    let host = host("core");
    let exporter = Exporter::start(&host);
    let mut slow: Vec<_> = (0..MOST).map(|_| exporter.connect()).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        // Nothing at all, or a part of a head.
        stream.write_all(&b"GET /metrics HTTP/1.1\r\nhost: h\r\n"[..number % 33]).expect("sends");
    }
    let mut unix = exporter.connect_unix();
    unix.write_all(request("").as_bytes()).expect("sends");
    assert_eq!(Answer::read(&mut unix).expect("has places of its own").status(), 200);
    // Whoever waits in the queue gets a place when the slow ones have lost theirs.
    assert_eq!(exporter.metrics("").status(), 200);
    for stream in &mut slow {
        // The end, or an error that says why, and then the end.
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
}

#[test]
fn floods_cost_descriptors_and_memory_for_a_moment_only() {
    let host = host("core");
    let exporter = Exporter::start(&host);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", exporter.pid())).expect("lists").count();
    let before = descriptors();
    for round in 0..2000 {
        let mut stream = exporter.connect();
        match round % 3 {
            // Nobody reads the answer.
            0 => stream.write_all(request("").as_bytes()).expect("sends"),
            1 => drop(stream.shutdown(Shutdown::Write)),
            _ => {}
        }
    }
    assert_eq!(exporter.metrics("").status(), 200);
    // Many requests over one connection.
    let mut stream = exporter.connect();
    let one = "GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut sender = stream.try_clone().expect("dup");
    let sending = std::thread::spawn(move || {
        sender.write_all(one.repeat(500).as_bytes()).ok();
        sender.write_all(request("").as_bytes()).ok();
    });
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("the last one closes");
    sending.join().expect("ends");
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 501);
    bailiwick_tests::until("all connections are closed", || descriptors() <= before + 1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.pid())).expect("reads");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 64 << 10, "{peak} kB");
}
