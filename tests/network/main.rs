//! The network of jails, proved from outside: what arrives is read where it would arrive.
//!
//! What must not arrive is proved by a mark that is sent after it over the same way, and that does arrive. Tests send from a jail's
//! network with all rights over it, so nothing that a jail may not do protects anybody.

mod accounting;
mod bad;
mod blocked;
mod cache;
mod clients;
mod closed;
mod crowd;
mod errors;
mod fragments;
mod kills;
mod links;
mod names;
mod other_addresses;
mod outbound;
mod policy;
mod published;
mod rates;
mod repairs;
mod restarts;
mod rights;
mod second_wall;
mod spoofing;
mod survival;
mod tables;
mod told;

use bailiwick_tests::wire::{Capture, OUTSIDE_V4, OUTSIDE_V6};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// A port of the outside, by IPv4.
fn outside(port: u16) -> SocketAddr {
    (OUTSIDE_V4, port).into()
}

/// A port of the outside, by IPv6.
fn outside_v6(port: u16) -> SocketAddr {
    (OUTSIDE_V6, port).into()
}

/// A port of any address.
fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap_or_else(|error| panic!("{address}: {error}")), port)
}

/// Whether something did not happen because nothing came back in time.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Asserts that something was refused with an error, and not by waiting in vain.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: io::Result<T>, what: impl std::fmt::Debug) {
    let error = result.expect_err(&format!("{what:?} must be refused"));
    assert!(!is_late(&error), "{what:?} must be refused at once: {error}");
}

/// Asserts that nothing with a text has arrived.
#[track_caller]
fn assert_nothing(capture: &Capture, text: &str, where_: &str) {
    let found = capture.matching(|packet| packet.holds(text));
    let shown: Vec<_> = found.iter().map(|packet| String::from_utf8_lossy(&packet.bytes).into_owned()).collect();
    assert!(
        found.is_empty(),
        "{where_}: {:?} {shown:?}",
        found.iter().map(|packet| packet.addresses()).collect::<Vec<_>>()
    );
}
