//! Reads any bytes as what a web server says of a refused request. What is read must be written as it is read.

#![no_main]

use bailiwick_proto::RefusedRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(refused) = RefusedRequest::read(bytes) {
        assert!(bytes.ends_with(refused.to_string().as_bytes()));
        assert_eq!(RefusedRequest::read(refused.datagram().as_bytes()), Some(refused));
    }
});
