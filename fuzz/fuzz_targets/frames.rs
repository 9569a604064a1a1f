//! Reads any bytes as a stream of frames, as each side of each socket does.
//!
//! The decoder must not panic. It must return the same messages from a stream that comes as a whole or byte by byte. A message that it
//! accepts must be the same after it is sent again.

#![no_main]

use bailiwick_proto::frame::{MAX_EVENT, MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::net::MAX_NET_REQUEST;
use bailiwick_proto::{ControlRequest, Decoder, InitReply, NetReply, NetRequest, WardenRequest, encode};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fuzz_target!(|data: &[u8]| {
    check::<ControlRequest>(data, MAX_REQUEST);
    check::<WardenRequest>(data, MAX_REQUEST);
    check::<InitReply>(data, MAX_EVENT);
    check::<NetRequest>(data, MAX_NET_REQUEST);
    check::<NetReply>(data, MAX_REPLY);
});

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8], max: usize) {
    let whole = messages::<T>([data], max);
    assert_eq!(whole, messages::<T>(data.chunks(1), max));
    let sent: Vec<u8> =
        whole.iter().flat_map(|message| encode(message, usize::MAX).expect("what was read can be written")).collect();
    assert_eq!(whole, messages::<T>([&sent[..]], usize::MAX));
}

/// The messages up to the first error. After an error the stream would be closed.
fn messages<'a, T: DeserializeOwned>(parts: impl IntoIterator<Item = &'a [u8]>, max: usize) -> Vec<T> {
    let mut decoder = Decoder::new(max);
    let mut messages = Vec::new();
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}
